/*
 * A damaged image in use: what is then done with it, one thing after the other. Nothing may crash,
 * loop or take unbounded memory, whatever the image says.
 *
 * Input: as in block_sound.h; operations of 6 bytes.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/image.h"
#include "block_sound.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define MAX_OPS 24
#define BUFFER	(512 * KiB)

static void operate(struct block *b, const u8 *op, u8 *buf)
{
	u64 size = block_size(b), at = load_le16(op + 1) * 4099ULL, len = 1 + op[3] * 521ULL;
	struct block_extent e;
	struct block_check check = {0};
	struct err err;

	/* From the front or from the end: sizes may be enormous. */
	if (op[4] & 1)
		at = size > at ? size - at : 0;
	switch (op[0] % 14) {
	case 0:
	case 1:
		block_read(b, buf, len, at);
		break;
	case 2:
	case 3:
	case 4:
		memset(buf, op[5], len);
		block_write(b, buf, len, at);
		break;
	case 5:
		block_write_zeroes(b, len, at, op[4] & 2 ? BLOCK_MAY_UNMAP : 0);
		break;
	case 6:
		block_discard(b, len * 8, at);
		break;
	case 7:
		block_flush(b);
		break;
	case 8:
		block_status(b, at, len, &e);
		break;
	case 9:
		block_check(b, op[4] % 4, &check, &err);
		break;
	case 10:
		block_snapshot_create(b, op[4] & 2 ? "three" : "four", &err);
		break;
	case 11:
		block_snapshot_apply(b, op[4] & 2 ? "one" : "2", &err);
		break;
	case 12:
		block_snapshot_delete(b, op[4] & 2 ? "one" : "2", &err);
		break;
	default:
		block_resize(b, op[3] * 65536ULL, true, &err);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct block *b = NULL;
	struct block_options o;
	static u8 *buf;
	struct err err;
	char path[64];
	size_t at;
	int fd;

	if (size < 2)
		return 0;
	if (!buf)
		buf = malloc(BUFFER);
	fd = sound_open(data, size, &at, path, &o);
	o.readonly = data[1] & 0x80;
	o.metadata_only = data[1] & 0x40;
	if (!block_open(&b, &o, &err)) {
		for (int n = 0; n < MAX_OPS && at + 6 <= size; n++, at += 6)
			operate(b, data + at, buf);
		block_close(b);
	}
	close(fd);
	return 0;
}
