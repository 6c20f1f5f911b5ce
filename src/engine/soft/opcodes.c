/*
 * The table of all opcodes, and the index over it.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/decode.h"
#include "engine/soft/opcodes.h"

#define OPCODE(map, first, last, prefixes, modrm, format, op, attrs)                               \
	extern const struct operation oper_##op;
#include "engine/soft/opcodes.def"
#include "engine/soft/ops_sys.def"
#include "engine/soft/native.def"
#undef OPCODE

/* ModRM selectors: mask and value. */
#define ANY	    0, 0
#define EXT(n)	    0x38, (n) << 3
#define EXACT(byte) 0xff, byte

const struct opcode opcode_rows[] = {
#define OPCODE(map, first, last, prefixes, modrm, format, op, attrs)                               \
	{map, first, last, prefixes, modrm, format, attrs, &oper_##op},
#include "engine/soft/opcodes.def"
#include "engine/soft/ops_sys.def"
#include "engine/soft/native.def"
};

int decoder_init(struct decoder *d)
{
	unsigned int i, key, n = 0;

	for (key = 0; key < MAP_COUNT * 256; key++) {
		d->start[key] = (u16)n;
		for (i = 0; i < ARRAY_SIZE(opcode_rows); i++) {
			const struct opcode *row = &opcode_rows[i];

			if (row->map != key >> 8 || (key & 255) < row->first ||
			    (key & 255) > row->last)
				continue;
			if (n == DECODER_ROWS)
				return -ENOSPC;
			d->row[n++] = (u16)i;
		}
	}
	d->start[key] = (u16)n;
	return 0;
}
