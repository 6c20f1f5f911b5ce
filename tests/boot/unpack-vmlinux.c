/*
 * usage: unpack-vmlinux BZIMAGE VMLINUX
 *
 * Takes the ELF kernel out of a bzImage whose payload is LZ4 (legacy frame format: magic, then
 * blocks of at most 8 MiB, each with its compressed size), as Debian's cloud kernel has it. Exit
 * status 77 for another compression.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "os/file.h"

#define BLOCK_MAX (8 * MiB)
#define LZ4_MAGIC 0x184c2102

struct cursor {
	const u8 *p, *end;
};

/* Lengths of 15 go on in further bytes. */
static bool read_length(struct cursor *in, size_t *len)
{
	u8 b;

	if (*len != 15)
		return true;
	do {
		if (in->p == in->end)
			return false;
		b = *in->p++;
		*len += b;
	} while (b == 255);
	return true;
}

/* The size of the block's contents, or -1. */
static ssize_t unpack_block(struct cursor in, u8 *out, size_t cap)
{
	size_t n = 0;

	while (in.p < in.end) {
		u8 token = *in.p++;
		size_t literals = token >> 4, match = token & 15, distance;

		if (!read_length(&in, &literals) || literals > (size_t)(in.end - in.p) ||
		    literals > cap - n)
			return -1;
		memcpy(out + n, in.p, literals);
		n += literals;
		in.p += literals;
		if (in.p == in.end)
			break;
		if (in.end - in.p < 2)
			return -1;
		distance = load_le16(in.p);
		in.p += 2;
		if (!read_length(&in, &match) || !distance || distance > n || match + 4 > cap - n)
			return -1;
		for (match += 4; match; match--, n++)
			out[n] = out[n - distance];
	}
	return (ssize_t)n;
}

static int unpack(struct cursor in, FILE *out)
{
	u8 *block = malloc(BLOCK_MAX);

	while (block && in.end - in.p > 4) {
		size_t size = load_le32(in.p);
		ssize_t n;

		in.p += 4;
		if (size > (size_t)(in.end - in.p))
			break; /* the kernel's size follows the last block */
		n = unpack_block((struct cursor){in.p, in.p + size}, block, BLOCK_MAX);
		if (n < 0 || fwrite(block, 1, (size_t)n, out) != (size_t)n) {
			free(block);
			return 1;
		}
		in.p += size;
	}
	free(block);
	return block ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct err err;
	void *data;
	u64 offset;
	size_t len;
	FILE *out;
	u8 *d;

	if (argc != 3)
		return 2;
	if (file_read_all(argv[1], 64 * MiB, &data, &len, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	d = data;
	if (len < 0x250)
		return 1;
	offset = (d[0x1f1] + 1) * 512ULL + load_le32(d + 0x248);
	if (!range_fits(offset, load_le32(d + 0x24c), len) || load_le32(d + 0x24c) < 8)
		return 1;
	if (load_le32(d + offset) != LZ4_MAGIC)
		return 77;
	out = fopen(argv[2], "wb");
	if (!out)
		return 1;
	if (unpack((struct cursor){d + offset + 4, d + offset + load_le32(d + 0x24c)}, out))
		return 1;
	free(data);
	return fclose(out) ? 1 : 0;
}
