/*
 * Compression, in a plug-in (bothy-compress.so) so that the program itself starts without zlib,
 * libdeflate and zstd. A context belongs to one thread at a time; any number of them.
 */
#ifndef BLOCK_COMPRESS_H
#define BLOCK_COMPRESS_H

#include "base/err.h"
#include "base/types.h"

enum compress_kind { COMPRESS_DEFLATE, COMPRESS_ZSTD };

struct compress_context; /* working memory, some 100 KiB to 1 MiB; made as it is needed */

struct compress_class {
	/* NULL when out of memory. NULL may be freed. */
	struct compress_context *(*context_new)(void);
	void (*context_free)(struct compress_context *context);
	/* Compress all of src into at most cap bytes; the length, -ENOSPC when it does not fit, or
	 * -errno. Deflate is raw (no header). */
	s64 (*pack)(struct compress_context *context, enum compress_kind kind, void *dst,
		    size_t cap, const void *src, size_t len);
	/* Fill exactly len bytes of dst; what follows in src is ignored. -EIO when it is broken or
	 * too short. */
	int (*unpack)(struct compress_context *context, enum compress_kind kind, void *dst,
		      size_t len, const void *src, size_t n);
};

/* The plug-in's; NULL with the reason. */
const struct compress_class *compress_load(struct err *err);

#endif
