/*
 * Compression, in a plug-in (bothy-compress.so) so that the program itself starts without zlib and
 * zstd. Each call stands alone; any thread.
 */
#ifndef BLOCK_COMPRESS_H
#define BLOCK_COMPRESS_H

#include "base/err.h"
#include "base/types.h"

enum compress_kind { COMPRESS_DEFLATE, COMPRESS_ZSTD };

struct compress_class {
	/* Compress all of src into at most cap bytes; the length, -ENOSPC when it does not fit, or
	 * -errno. Deflate is raw (no header) with a window of 4 KiB, as QEMU writes it. */
	s64 (*pack)(enum compress_kind kind, void *dst, size_t cap, const void *src, size_t len);
	/* Fill exactly len bytes of dst; what follows in src is ignored. -EIO when it is broken or
	 * too short. */
	int (*unpack)(enum compress_kind kind, void *dst, size_t len, const void *src, size_t n);
};

/* The plug-in's; NULL with the reason. */
const struct compress_class *compress_load(struct err *err);

#endif
