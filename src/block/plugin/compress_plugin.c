/*
 * bothy-compress.so: deflate and zstd behind compress.h.
 *
 * Deflate is libdeflate's where there is one: at the same level it packs and unpacks whole buffers
 * two to three times as fast as zlib. It knows no window below RFC 1951's 32 KiB; readers that
 * unpack a cluster in one piece, as QEMU's does, need none, since all of the output is at hand.
 * What it finds wrong zlib judges: unlike libdeflate it takes a stream without an end mark.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "block/compress.h"

#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#define DEFLATE_LEVEL 6 /* zlib's default, too */
#endif

#define MAX_WINDOW_LOG 23

struct compress_context {
#ifdef HAVE_LIBDEFLATE
	struct libdeflate_compressor *packer;
	struct libdeflate_decompressor *unpacker;
#endif
	ZSTD_CCtx *zstd_packer;
	ZSTD_DCtx *zstd_unpacker;
};

static struct compress_context *context_new(void)
{
	return calloc(1, sizeof(struct compress_context));
}

static void context_free(struct compress_context *c)
{
	if (!c)
		return;
#ifdef HAVE_LIBDEFLATE
	libdeflate_free_compressor(c->packer);
	libdeflate_free_decompressor(c->unpacker);
#endif
	ZSTD_freeCCtx(c->zstd_packer);
	ZSTD_freeDCtx(c->zstd_unpacker);
	free(c);
}

#ifdef HAVE_LIBDEFLATE

static s64 deflate_pack(struct compress_context *c, void *dst, size_t cap, const void *src,
			size_t len)
{
	size_t n;

	if (!c->packer)
		c->packer = libdeflate_alloc_compressor(DEFLATE_LEVEL);
	if (!c->packer)
		return -ENOMEM;
	n = libdeflate_deflate_compress(c->packer, src, len, dst, cap);
	return n ? (s64)n : -ENOSPC;
}

static bool quick_unpack(struct compress_context *c, void *dst, size_t len, const void *src,
			 size_t n)
{
	size_t used, got;

	if (!c->unpacker)
		c->unpacker = libdeflate_alloc_decompressor();
	return c->unpacker &&
	       libdeflate_deflate_decompress_ex(c->unpacker, src, n, dst, len, &used, &got) ==
		       LIBDEFLATE_SUCCESS &&
	       got == len;
}

#else

/* With a window of 4 KiB, as QEMU writes it. */
static s64 deflate_pack(struct compress_context *c, void *dst, size_t cap, const void *src,
			size_t len)
{
	z_stream z;
	int rc;

	memset(&z, 0, sizeof(z));
	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	z.next_in = (Bytef *)(uintptr_t)src;
	z.avail_in = (uInt)len;
	z.next_out = dst;
	z.avail_out = (uInt)cap;
	rc = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return rc == Z_STREAM_END ? (s64)(cap - z.avail_out) : -ENOSPC;
}

static bool quick_unpack(struct compress_context *c, void *dst, size_t len, const void *src,
			 size_t n)
{
	return false;
}

#endif

static int deflate_unpack(struct compress_context *c, void *dst, size_t len, const void *src,
			  size_t n)
{
	z_stream z;
	int rc;

	if (quick_unpack(c, dst, len, src, n))
		return 0;
	memset(&z, 0, sizeof(z));
	if (inflateInit2(&z, -15) != Z_OK)
		return -ENOMEM;
	z.next_in = (Bytef *)(uintptr_t)src;
	z.avail_in = (uInt)n;
	z.next_out = dst;
	z.avail_out = (uInt)len;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* Z_BUF_ERROR with the output full: only padding is left, or the end mark. */
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static s64 zstd_pack(struct compress_context *c, void *dst, size_t cap, const void *src, size_t len)
{
	size_t n;

	if (!c->zstd_packer)
		c->zstd_packer = ZSTD_createCCtx();
	if (!c->zstd_packer)
		return -ENOMEM;
	n = ZSTD_compressCCtx(c->zstd_packer, dst, cap, src, len, ZSTD_CLEVEL_DEFAULT);
	return ZSTD_isError(n) ? -ENOSPC : (s64)n;
}

/* As many frames as it takes; the padding of the last sector is no frame. */
static int zstd_unpack(struct compress_context *c, void *dst, size_t len, const void *src, size_t n)
{
	ZSTD_outBuffer out = {.dst = dst, .size = len};
	ZSTD_inBuffer in = {.src = src, .size = n};

	if (!c->zstd_unpacker) {
		c->zstd_unpacker = ZSTD_createDCtx();
		if (!c->zstd_unpacker)
			return -ENOMEM;
		/* A frame may ask for a window of 128 MiB; of a cluster none has use for it. */
		ZSTD_DCtx_setParameter(c->zstd_unpacker, ZSTD_d_windowLogMax, MAX_WINDOW_LOG);
	}
	ZSTD_DCtx_reset(c->zstd_unpacker, ZSTD_reset_session_only);
	while (out.pos < out.size) {
		size_t before_in = in.pos, before_out = out.pos;
		size_t left = ZSTD_decompressStream(c->zstd_unpacker, &out, &in);

		if (ZSTD_isError(left) || (in.pos == before_in && out.pos == before_out))
			return -EIO;
	}
	return 0;
}

static s64 pack(struct compress_context *c, enum compress_kind kind, void *dst, size_t cap,
		const void *src, size_t len)
{
	return kind == COMPRESS_ZSTD ? zstd_pack(c, dst, cap, src, len)
				     : deflate_pack(c, dst, cap, src, len);
}

static int unpack(struct compress_context *c, enum compress_kind kind, void *dst, size_t len,
		  const void *src, size_t n)
{
	return kind == COMPRESS_ZSTD ? zstd_unpack(c, dst, len, src, n)
				     : deflate_unpack(c, dst, len, src, n);
}

extern const struct compress_class compress_plugin;
__attribute__((visibility("default"))) const struct compress_class compress_plugin = {
	.context_new = context_new,
	.context_free = context_free,
	.pack = pack,
	.unpack = unpack,
};
