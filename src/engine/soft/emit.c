/*
 * The encoder. Prefix order is LOCK, 66, F3 or F2, REX; REX is there when it must be.
 */
#include "engine/soft/emit.h"

#include <string.h>

#include "engine/soft/uop.h"

void emit8(struct emit *e, u8 v)
{
	if (e->len < e->max)
		e->b[e->len++] = v;
	else
		e->full = true;
}

void emit32(struct emit *e, u32 v)
{
	for (unsigned int i = 0; i < 4; i++)
		emit8(e, (u8)(v >> 8 * i));
}

void emit64(struct emit *e, u64 v)
{
	emit32(e, (u32)v);
	emit32(e, (u32)(v >> 32));
}

/* SPL to DIL, which without REX are AH to BH. */
static bool needs_rex(u32 opcode, unsigned int reg, struct opnd rm)
{
	return (opcode & E_BYTE_REG && reg >= X_SP && reg <= X_DI) ||
	       (opcode & E_BYTE_RM && !rm.mem && rm.reg >= X_SP && rm.reg <= X_DI);
}

/* REX or, inverted, VEX: R, X, B. */
static u8 register_bits(unsigned int reg, struct opnd rm)
{
	u8 bits = (u8)((reg >> 3 & 1) << 2 | (rm.reg >> 3 & 1));

	if (rm.mem && rm.index != X_NONE)
		bits |= (rm.index >> 3 & 1) << 1;
	return bits;
}

static void emit_prefixes(struct emit *e, u32 opcode, unsigned int size, unsigned int reg,
			  struct opnd rm)
{
	u8 rex = (u8)((size == SIZE_64) << 3 | register_bits(reg, rm));

	if (opcode & E_LOCK)
		emit8(e, 0xf0);
	if (size == SIZE_16 || opcode & E_66)
		emit8(e, 0x66);
	if (opcode & E_F3)
		emit8(e, 0xf3);
	if (opcode & E_F2)
		emit8(e, 0xf2);
	if (rex || needs_rex(opcode, reg, rm))
		emit8(e, 0x40 | rex);
	if ((opcode & 0xff0000) == 0x0f0000)
		emit8(e, 0x0f);
	if (opcode & 0xff00)
		emit8(e, (u8)(opcode >> 8));
	emit8(e, (u8)opcode);
}

static void emit_modrm(struct emit *e, unsigned int reg, struct opnd rm)
{
	bool sib = rm.index != X_NONE || (rm.reg & 7) == X_SP;
	u8 mod;

	if (!rm.mem) {
		emit8(e, (u8)(0xc0 | (reg & 7) << 3 | (rm.reg & 7)));
		return;
	}
	mod = rm.disp == 0 && (rm.reg & 7) != X_BP ? 0 : rm.disp == (s8)rm.disp ? 0x40 : 0x80;
	emit8(e, (u8)(mod | (reg & 7) << 3 | (sib ? 4 : rm.reg & 7)));
	if (sib)
		emit8(e, (u8)(rm.scale << 6 | (rm.index == X_NONE ? 4 : rm.index & 7) << 3 |
			      (rm.reg & 7)));
	if (mod == 0x40)
		emit8(e, (u8)rm.disp);
	else if (mod == 0x80)
		emit32(e, (u32)rm.disp);
}

void emit_rm(struct emit *e, u32 opcode, unsigned int size, unsigned int reg, struct opnd rm)
{
	emit_prefixes(e, opcode, size, reg, rm);
	emit_modrm(e, reg, rm);
}

void emit_vex(struct emit *e, u32 opcode, unsigned int size, unsigned int reg, unsigned int vvvv,
	      struct opnd rm)
{
	u8 pp = opcode & E_F2 ? 3 : opcode & E_F3 ? 2 : opcode & E_66 ? 1 : 0;
	u8 map = (opcode >> 8 & 0xff) == 0x3a ? 3 : 2;

	emit8(e, 0xc4);
	emit8(e, (u8)(~(register_bits(reg, rm) << 5) & 0xe0) | map);
	emit8(e, (u8)((size == SIZE_64) << 7 | (~vvvv & 15) << 3 | pp));
	emit8(e, (u8)opcode);
	emit_modrm(e, reg, rm);
}

void emit_imm(struct emit *e, unsigned int size, s32 imm)
{
	emit8(e, (u8)imm);
	if (size == SIZE_8)
		return;
	emit8(e, (u8)(imm >> 8));
	if (size == SIZE_16)
		return;
	emit8(e, (u8)(imm >> 16));
	emit8(e, (u8)(imm >> 24));
}

/* The opcode of an operation that has a byte form right before the others. */
static u32 sized(u32 opcode, unsigned int size)
{
	return size == SIZE_8 ? (opcode - 1) | E_BYTES : opcode;
}

void emit_alu(struct emit *e, unsigned int n, unsigned int size, unsigned int reg, struct opnd rm)
{
	emit_rm(e, sized(n << 3 | 3, size), size, reg, rm);
}

void emit_alu_to(struct emit *e, unsigned int n, unsigned int size, struct opnd rm,
		 unsigned int reg, bool lock)
{
	emit_rm(e, sized(n << 3 | 1, size) | (lock ? E_LOCK : 0), size, reg, rm);
}

void emit_alu_imm(struct emit *e, unsigned int n, unsigned int size, struct opnd rm, s32 imm,
		  bool lock)
{
	u32 flags = lock ? E_LOCK : 0;

	if (size == SIZE_16)
		imm = (s16)imm;
	if (size == SIZE_8) {
		emit_rm(e, 0x80 | E_BYTE_RM | flags, size, n, rm);
		emit8(e, (u8)imm);
	} else if (imm == (s8)imm) {
		emit_rm(e, 0x83 | flags, size, n, rm);
		emit8(e, (u8)imm);
	} else {
		emit_rm(e, 0x81 | flags, size, n, rm);
		emit_imm(e, size, imm);
	}
}

void emit_load(struct emit *e, unsigned int size, unsigned int reg, struct opnd rm)
{
	emit_rm(e, sized(0x8b, size), size, reg, rm);
}

void emit_store(struct emit *e, unsigned int size, struct opnd rm, unsigned int reg)
{
	emit_rm(e, sized(0x89, size), size, reg, rm);
}

void emit_store_imm(struct emit *e, unsigned int size, struct opnd rm, s32 imm)
{
	emit_rm(e, size == SIZE_8 ? 0xc6 | E_BYTE_RM : 0xc7, size, 0, rm);
	emit_imm(e, size, imm);
}

void emit_mov_imm(struct emit *e, unsigned int reg, u64 imm)
{
	bool sign = (s64)imm == (s32)imm, wide = imm >> 32;

	if (wide && sign) {
		emit_rm(e, 0xc7, SIZE_64, 0, op_reg(reg));
		emit32(e, (u32)imm);
		return;
	}
	if (wide || reg >= X_R8)
		emit8(e, (u8)(0x40 | wide << 3 | reg >> 3));
	emit8(e, (u8)(0xb8 | (reg & 7)));
	emit32(e, (u32)imm);
	if (wide)
		emit32(e, (u32)(imm >> 32));
}

void emit_lea(struct emit *e, unsigned int size, unsigned int reg, struct opnd mem)
{
	emit_rm(e, 0x8d, size, reg, mem);
}

void emit_shift_imm(struct emit *e, unsigned int n, unsigned int size, struct opnd rm,
		    unsigned int count)
{
	u32 byte = size == SIZE_8 ? E_BYTE_RM : 0;

	emit_rm(e, (count == 1 ? (byte ? 0xd0 : 0xd1) : byte ? 0xc0 : 0xc1) | byte, size, n, rm);
	if (count != 1)
		emit8(e, (u8)count);
}

void emit_bswap(struct emit *e, unsigned int size, unsigned int reg)
{
	if (size == SIZE_64 || reg >= X_R8)
		emit8(e, (u8)(0x40 | (size == SIZE_64) << 3 | reg >> 3));
	emit8(e, 0x0f);
	emit8(e, (u8)(0xc8 | (reg & 7)));
}

/* ---- jumps ---- */

u32 emit_jmp(struct emit *e)
{
	emit8(e, 0xe9);
	emit32(e, 0);
	return e->len - 4;
}

u32 emit_jcc(struct emit *e, unsigned int cc)
{
	emit8(e, 0x0f);
	emit8(e, (u8)(0x80 | cc));
	emit32(e, 0);
	return e->len - 4;
}

void emit_here(struct emit *e, u32 at)
{
	u32 rel = e->len - at - 4;

	if (!e->full)
		memcpy(e->b + at, &rel, 4);
}

void emit_jmp_to(struct emit *e, s64 to)
{
	emit8(e, 0xe9);
	emit32(e, (u32)(to - e->len - 4));
}

void emit_jcc_to(struct emit *e, unsigned int cc, s64 to)
{
	emit8(e, 0x0f);
	emit8(e, (u8)(0x80 | cc));
	emit32(e, (u32)(to - e->len - 4));
}

void emit_call_to(struct emit *e, s64 to)
{
	emit8(e, 0xe8);
	emit32(e, (u32)(to - e->len - 4));
}

u32 emit_lea_rip(struct emit *e, unsigned int reg)
{
	emit8(e, (u8)(0x48 | (reg >> 3) << 2));
	emit8(e, 0x8d);
	emit8(e, (u8)((reg & 7) << 3 | 5));
	emit32(e, 0);
	return e->len - 4;
}
