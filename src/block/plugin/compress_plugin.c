/* bothy-compress.so: zlib and zstd behind compress.h. */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "block/compress.h"

static s64 deflate_pack(void *dst, size_t cap, const void *src, size_t len)
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

static int deflate_unpack(void *dst, size_t len, const void *src, size_t n)
{
	z_stream z;
	int rc;

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

static s64 zstd_pack(void *dst, size_t cap, const void *src, size_t len)
{
	size_t n = ZSTD_compress(dst, cap, src, len, ZSTD_CLEVEL_DEFAULT);

	return ZSTD_isError(n) ? -ENOSPC : (s64)n;
}

/* As many frames as it takes; the padding of the last sector is no frame. */
static int zstd_unpack(void *dst, size_t len, const void *src, size_t n)
{
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	ZSTD_outBuffer out = {.dst = dst, .size = len};
	ZSTD_inBuffer in = {.src = src, .size = n};
	int rc = 0;

	if (!ctx)
		return -ENOMEM;
	while (out.pos < out.size && !rc) {
		size_t before_in = in.pos, before_out = out.pos;
		size_t left = ZSTD_decompressStream(ctx, &out, &in);

		if (ZSTD_isError(left) || (in.pos == before_in && out.pos == before_out))
			rc = -EIO;
	}
	ZSTD_freeDCtx(ctx);
	return rc;
}

static s64 pack(enum compress_kind kind, void *dst, size_t cap, const void *src, size_t len)
{
	return kind == COMPRESS_ZSTD ? zstd_pack(dst, cap, src, len)
				     : deflate_pack(dst, cap, src, len);
}

static int unpack(enum compress_kind kind, void *dst, size_t len, const void *src, size_t n)
{
	return kind == COMPRESS_ZSTD ? zstd_unpack(dst, len, src, n)
				     : deflate_unpack(dst, len, src, n);
}

extern const struct compress_class compress_plugin;
__attribute__((visibility("default"))) const struct compress_class compress_plugin = {
	.pack = pack,
	.unpack = unpack,
};
