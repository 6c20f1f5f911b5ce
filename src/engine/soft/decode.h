/*
 * Instruction bytes to struct insn, and that to a uop. Every encoding (legacy, REX, VEX) in 16, 32
 * and 64-bit code: SDM vol. 2 chapter 2. Pure: the tables never change after decoder_init().
 */
#ifndef SOFT_DECODE_H
#define SOFT_DECODE_H

#include "engine/soft/uop.h"

#define INSN_BYTES   15u
#define DECODER_ROWS 8192u

/* The rows of each (map, opcode), found by index. Belongs to the VM. */
struct decoder {
	u16 start[MAP_COUNT * 256 + 1];
	u16 row[DECODER_ROWS];
};

/* 0, or -ENOSPC: the tables have outgrown DECODER_ROWS. */
int decoder_init(struct decoder *d);

/*
 * Decode the instruction at `bytes`, of which `avail` may be read. mode: MODE_*. Returns
 *   0		insn is filled
 *   -EAGAIN	it goes on after `avail` (less than 15)
 *   -EINVAL	#UD; insn->len is what was looked at
 *   -E2BIG	longer than 15 bytes: #GP
 */
int decode_insn(const struct decoder *d, struct insn *insn, const u8 *bytes, unsigned int avail,
		unsigned int mode);

/*
 * Fill the uop of a decoded instruction at `off` in its block. 0, -EINVAL (#UD) or -ENOMEM as the
 * operation's build().
 */
int decode_uop(struct kvm_vcpu *vcpu, const struct insn *insn, unsigned int off, struct uop *u);

#endif
