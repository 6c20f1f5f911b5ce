/*
 * Differential test of softkvm's cpu: what a case is, and what it leaves.
 *
 * A case is a few instructions and a start state. It runs twice, at the same linear addresses with
 * the same memory: on the host CPU, in this process, and in softkvm in long mode at CPL 3. Both end
 * with an exception (INT3 after the last instruction, or an earlier fault), and what they leave
 * must be equal.
 */
#ifndef DIFF_STATE_H
#define DIFF_STATE_H

#include "base/types.h"

/* Linear addresses, all below 4 GiB so that 32-bit code can use them. What is around is not mapped.
 */
#define CODE_BASE  0x10000000u /* executable, not writable */
#define CODE_SIZE  (2 * PAGE_SIZE)
#define DATA_BASE  0x10010000u /* readable and writable */
#define DATA_SIZE  (2 * PAGE_SIZE)
#define RO_BASE	   0x10020000u /* readable */
#define RO_SIZE	   PAGE_SIZE
#define MEM_SIZE   (DATA_SIZE + RO_SIZE)
#define XSAVE_SIZE 832
#define FS_OFFSET  0x340 /* of the FS base in the data, and of the GS base */
#define GS_OFFSET  0x1280

struct diff_state {
	u64 gpr[16]; /* in the order of their encoding */
	u64 rip, rflags;
	bool code32;
	_Alignas(64) u8 xsave[XSAVE_SIZE]; /* standard format, components 0 to 2 */
	/* the end: */
	u32 vector, error;
	u64 cr2;
};

/* The end of a case that tells nothing: it made a system call, or ran too long. */
#define VECTOR_SKIP 256

struct diff_case {
	u64 seed;
	struct diff_state start;
	u8 code[CODE_SIZE];
	u8 mem[MEM_SIZE]; /* data, then the read-only page */
	unsigned int code_off, code_len;
};

/* native_run.c: 0, or -errno. After host_init() the process may not leave this test's code. */
int host_init(void);
void host_run(const struct diff_case *c, struct diff_state *end);
/* What the host's memory holds after a run. */
const u8 *host_data(void);

/* soft_run.c */
int soft_init(const char *engine);
void soft_run(const struct diff_case *c, struct diff_state *end);
const u8 *soft_data(void);

#endif
