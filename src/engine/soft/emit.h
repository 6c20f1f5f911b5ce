/*
 * Encoding of x86-64 host instructions, for the translator (translate*.c). SDM vol. 2, chapter 2.
 *
 * The code goes to a buffer; when it is full, the rest is dropped and `full` says so. Nothing here
 * knows guests.
 */
#ifndef SOFT_EMIT_H
#define SOFT_EMIT_H

#include "base/types.h"

enum host_reg {
	X_AX,
	X_CX,
	X_DX,
	X_BX,
	X_SP,
	X_BP,
	X_SI,
	X_DI,
	X_R8,
	X_R9,
	X_R10,
	X_R11,
	X_R12,
	X_R13,
	X_R14,
	X_R15,
	X_NONE,
};

struct emit {
	u8 *b;
	u32 len, max;
	bool full;
};

/* A register, or memory at base + (index << scale) + disp. */
struct opnd {
	bool mem;
	u8 reg; /* or the base */
	u8 index, scale;
	s32 disp;
};

/* Operand sizes are SIZE_* of uop.h. Opcodes: a byte, 0x0fXX, 0x0f38XX or 0x0f3aXX, and these. */
#define E_BYTE_REG (1u << 24) /* ModRM.reg is a byte register */
#define E_BYTE_RM  (1u << 25)
#define E_BYTES	   (E_BYTE_REG | E_BYTE_RM)
#define E_LOCK	   (1u << 26)
#define E_F3	   (1u << 27)
#define E_F2	   (1u << 28)
#define E_66	   (1u << 29) /* as a part of the opcode */

static inline struct opnd op_reg(unsigned int reg)
{
	return (struct opnd){.reg = (u8)reg, .index = X_NONE};
}

static inline struct opnd op_mem(unsigned int base, s32 disp)
{
	return (struct opnd){.mem = true, .reg = (u8)base, .index = X_NONE, .disp = disp};
}

static inline struct opnd op_index(unsigned int base, unsigned int index, unsigned int scale,
				   s32 disp)
{
	return (struct opnd){true, (u8)base, (u8)index, (u8)scale, disp};
}

void emit8(struct emit *e, u8 v);
void emit32(struct emit *e, u32 v);
void emit64(struct emit *e, u64 v);

/* An instruction with a ModRM byte; what follows it (an immediate) is the caller's. The byte form
 * of an opcode is the caller's choice, too: size only makes the prefixes. */
void emit_rm(struct emit *e, u32 opcode, unsigned int size, unsigned int reg, struct opnd rm);
/* The same with a VEX prefix (32 and 64 bits; 0x0f38XX and 0x0f3aXX; E_F3, E_F2 or E_66).
 * vvvv: a register; 0 where the instruction has none. */
void emit_vex(struct emit *e, u32 opcode, unsigned int size, unsigned int reg, unsigned int vvvv,
	      struct opnd rm);
/* One of the eight: n is ADD 0, OR, ADC, SBB, AND, SUB, XOR, CMP 7. */
void emit_alu(struct emit *e, unsigned int n, unsigned int size, unsigned int reg, struct opnd rm);
void emit_alu_to(struct emit *e, unsigned int n, unsigned int size, struct opnd rm,
		 unsigned int reg, bool lock);
void emit_alu_imm(struct emit *e, unsigned int n, unsigned int size, struct opnd rm, s32 imm,
		  bool lock);
/* reg <- rm, rm <- reg; rm <- imm. */
void emit_load(struct emit *e, unsigned int size, unsigned int reg, struct opnd rm);
void emit_store(struct emit *e, unsigned int size, struct opnd rm, unsigned int reg);
void emit_store_imm(struct emit *e, unsigned int size, struct opnd rm, s32 imm);
void emit_mov_imm(struct emit *e, unsigned int reg, u64 imm);
void emit_lea(struct emit *e, unsigned int size, unsigned int reg, struct opnd mem);
/* An immediate of this operand size (at most 32 bits). */
void emit_imm(struct emit *e, unsigned int size, s32 imm);
/* /n of the shift group; count is not 0. */
void emit_shift_imm(struct emit *e, unsigned int n, unsigned int size, struct opnd rm,
		    unsigned int count);

/* 32 and 64 bits. */
void emit_bswap(struct emit *e, unsigned int size, unsigned int reg);

/* Jumps forward: the place of the 32-bit distance, for emit_here() to fill. */
u32 emit_jmp(struct emit *e);
u32 emit_jcc(struct emit *e, unsigned int cc);
void emit_here(struct emit *e, u32 at);
/* To a place in the same buffer (which may lie before its start: negative). */
void emit_jmp_to(struct emit *e, s64 to);
void emit_jcc_to(struct emit *e, unsigned int cc, s64 to);
void emit_call_to(struct emit *e, s64 to);
/* lea reg, [rip + distance]: the place to be filled. */
u32 emit_lea_rip(struct emit *e, unsigned int reg);

enum { CC_O, CC_NO, CC_B, CC_AE, CC_Z, CC_NZ, CC_BE, CC_A };
enum { E_ADD, E_OR, E_ADC, E_SBB, E_AND, E_SUB, E_XOR, E_CMP };

#endif
