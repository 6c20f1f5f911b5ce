/* A fuzzer's input as what a guest does to devices: accesses, DMA memory, passing time. */
#ifndef TESTS_FUZZ_OPS_H
#define TESTS_FUZZ_OPS_H

#include "device/harness.h"

struct fuzz_input {
	const u8 *data;
	size_t left;
};

/* The next number of size bytes (1 to 8), little-endian; zeros after the end. */
u64 fuzz_take(struct fuzz_input *in, unsigned int size);
/* Up to len bytes as they are; NULL and *len 0 after the end. */
const u8 *fuzz_take_bytes(struct fuzz_input *in, size_t *len);

/*
 * Carry out the input on the ranges, and on RAM below ram_size. other (may be NULL) is called for
 * what only the target knows: frames, keys.
 */
void fuzz_run(struct harness *h, const struct harness_range *ranges, size_t n, u64 ram_size,
	      struct fuzz_input *in, void (*other)(void *ctx, struct fuzz_input *in), void *ctx);

#endif
