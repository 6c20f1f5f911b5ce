/* The table of all opcodes (opcodes.def, ops_sys.def, native.def). Internal to the decoder. */
#ifndef SOFT_OPCODES_H
#define SOFT_OPCODES_H

#include "engine/soft/uop.h"

extern const struct opcode opcode_rows[];
extern const unsigned int opcode_rows_len;
extern const unsigned int opcode_row_count;

#endif
