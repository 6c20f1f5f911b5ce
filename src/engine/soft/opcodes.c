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

const unsigned int opcode_row_count = ARRAY_SIZE(opcode_rows);

/* The keys of a row, and of the whole index: map << 8 | opcode. */
static unsigned int first_key(const struct opcode *row)
{
	return row->map << 8 | row->first;
}

static unsigned int last_key(const struct opcode *row)
{
	return row->map << 8 | row->last;
}

/* A counting sort by key, in which the rows of a key keep the order of the table. */
const unsigned int opcode_rows_len = ARRAY_SIZE(opcode_rows);

int decoder_init(struct decoder *d)
{
	unsigned int i, key, n = 0;

	memset(d->start, 0, sizeof(d->start));
	for (i = 0; i < ARRAY_SIZE(opcode_rows); i++)
		for (key = first_key(&opcode_rows[i]); key <= last_key(&opcode_rows[i]); key++, n++)
			d->start[key + 1]++;
	if (n > DECODER_ROWS)
		return -ENOSPC;
	for (key = 0; key < MAP_COUNT * 256; key++)
		d->start[key + 1] = (u16)(d->start[key + 1] + d->start[key]);
	for (i = ARRAY_SIZE(opcode_rows); i-- > 0;)
		for (key = first_key(&opcode_rows[i]); key <= last_key(&opcode_rows[i]); key++)
			d->row[--d->start[key + 1]] = (u16)i;
	/* Filled from the back, each start has become that of its key, one place too far. */
	memmove(d->start, d->start + 1, sizeof(d->start) - sizeof(d->start[0]));
	d->start[MAP_COUNT * 256] = (u16)n;
	return 0;
}
