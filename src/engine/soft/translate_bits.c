/*
 * BMI1, BMI2, ADX, CRC32 and MOVBE, and divisions. That the host has what it executes here is
 * certain: an operation that the host lacks is #UD at decoding (native_bits.c); MOVBE is a BSWAP.
 *
 * 1. VEX prefixes are done in 64-bit code alone: other code may be in real mode, where they are
 *    #UD.
 * 2. All flags count as written where some are; the undefined ones are what the host leaves.
 * 3. A division whose quotient might not fit is left to the interpreter, which raises #DE.
 */
#include "engine/soft/translate_int.h"

#define AT_DX op_mem(X_DX, 0)
#define LOCAL op_mem(X_SP, 0) /* of the frame: translate_stubs.c */

#define NO_DIGIT 0xff

/* By op->sub: what ModRM.reg is (a digit, or the destination; then vvvv is a source), and the
 * flags. */
static const struct {
	u32 opcode;
	u8 digit;
	bool flags;
} vex[] = {
	[TR_ANDN] = {0x0f38f2, NO_DIGIT, true},
	[TR_BEXTR] = {0x0f38f7, NO_DIGIT, true},
	[TR_BZHI] = {0x0f38f5, NO_DIGIT, true},
	[TR_SHLX] = {0x0f38f7 | E_66, NO_DIGIT, false},
	[TR_SARX] = {0x0f38f7 | E_F3, NO_DIGIT, false},
	[TR_SHRX] = {0x0f38f7 | E_F2, NO_DIGIT, false},
	[TR_PDEP] = {0x0f38f5 | E_F2, NO_DIGIT, false},
	[TR_PEXT] = {0x0f38f5 | E_F3, NO_DIGIT, false},
	[TR_BLSR] = {0x0f38f3, 1, true},
	[TR_BLSMSK] = {0x0f38f3, 2, true},
	[TR_BLSI] = {0x0f38f3, 3, true},
};

/* AH to BH as ModRM.reg of CRC32's byte form: SPL to DIL are meant, which are whole registers. */
static u8 crc_register(const struct uop *u)
{
	return u->reg & 7 ? u->reg - 1 + 8 * RSP : u->reg;
}

bool tr_bits_is_inline(const struct tr_uop *op)
{
	const struct uop *u = op->u;

	switch (op->kind) {
	case TR_VEX:
	case TR_MULX:
	case TR_RORX:
		return u->mode64;
	case TR_CRC32:
		return u->mem || !(u->rm & 7);
	case TR_MOVBE:
		return op->size != SIZE_16;
	case TR_DIV:
		return op->size >= SIZE_32;
	default:
		return true;
	}
}

u8 tr_size_of(u8 kind, const struct uop *u)
{
	switch (kind) {
	case TR_VEX:
	case TR_MULX:
	case TR_RORX:
	case TR_ADX:
		return u->rexw ? SIZE_64 : SIZE_32;
	default:
		return u->osize;
	}
}

u16 tr_bits_writes(const struct tr_uop *op)
{
	if (op->kind == TR_VEX)
		return vex[op->sub].flags ? X86_ARITH : 0;
	if (op->kind == TR_ADX)
		return op->sub == TR_ADCX ? X86_CF : X86_OF;
	return 0;
}

u16 tr_bits_registers(const struct tr_uop *op)
{
	const struct uop *u = op->u;
	u16 reg = (u16)(1u << (u->reg >> 3 & 15)), vreg = (u16)(1u << (u->vreg >> 3 & 15));

	switch (op->kind) {
	case TR_VEX:
		return vex[op->sub].digit == NO_DIGIT ? reg : vreg;
	case TR_MULX:
		return reg | vreg;
	case TR_CRC32:
		return (u16)(1u << (crc_register(u) >> 3));
	case TR_DIV:
		return 1u << RAX | 1u << RDX;
	default:
		return reg;
	}
}

/* ---- emitting ---- */

static struct opnd rm_of(const struct tr_uop *op)
{
	return op->mem ? AT_DX : tr_guest(op->u->rm);
}

/* The host register of a whole guest register to be written, or `scratch` for tr_put(). */
static unsigned int destination(u8 field, unsigned int scratch)
{
	struct opnd o = tr_guest(field);

	return o.mem ? scratch : o.reg;
}

static void emit_three(struct tr *t, const struct tr_uop *op)
{
	const struct uop *u = op->u;
	u32 opcode = vex[op->sub].opcode;
	unsigned int dst, src;

	if (vex[op->sub].digit != NO_DIGIT) {
		dst = destination(u->vreg, X_AX);
		emit_vex(&t->e, opcode, op->size, vex[op->sub].digit, dst, rm_of(op));
		tr_put(t, u->vreg, op->size, dst);
		return;
	}
	src = tr_source(t, u->vreg, op->size).mem ? tr_value(t, u->vreg, op->size, X_AX)
						  : tr_source(t, u->vreg, op->size).reg;
	dst = destination(u->reg, X_AX);
	emit_vex(&t->e, opcode, op->size, dst, src, rm_of(op));
	tr_put(t, u->reg, op->size, dst);
}

/* RDX is the second factor, and so must not be an address. The high half goes last: it wins where
 * both have one destination. */
static void emit_mulx(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	unsigned int high = destination(u->reg, X_AX), low = destination(u->vreg, X_DX);
	struct opnd rm = rm_of(op);

	if (op->mem) {
		emit_load(e, op->size, X_AX, AT_DX);
		rm = op_reg(X_AX);
	}
	emit_load(e, SIZE_64, X_DX, op_reg(tr_host[RDX]));
	emit_vex(e, 0x0f38f6 | E_F2, op->size, high, low, rm);
	tr_put(t, u->vreg, op->size, low);
	tr_put(t, u->reg, op->size, high);
}

static void emit_rorx(struct tr *t, const struct tr_uop *op)
{
	unsigned int dst = destination(op->u->reg, X_AX);

	emit_vex(&t->e, 0x0f3af0 | E_F2, op->size, dst, 0, rm_of(op));
	emit8(&t->e, (u8)op->u->imm);
	tr_put(t, op->u->reg, op->size, dst);
}

static void emit_adx(struct tr *t, const struct tr_uop *op)
{
	unsigned int dst = destination(op->u->reg, X_AX);

	if (dst == X_AX)
		tr_load_ax(t, op->u->reg, op->size);
	emit_rm(&t->e, 0x0f38f6 | (op->sub == TR_ADCX ? E_66 : E_F3), op->size, dst, rm_of(op));
	tr_put(t, op->u->reg, op->size, dst);
}

static void emit_crc32(struct tr *t, const struct tr_uop *op)
{
	u32 opcode = (op->size == SIZE_8 ? 0x0f38f0 | E_BYTE_RM : 0x0f38f1) | E_F2;
	u8 field = crc_register(op->u);
	unsigned int dst = destination(field, X_AX);

	if (dst == X_AX)
		emit_load(&t->e, SIZE_32, X_AX, tr_guest(field));
	emit_rm(&t->e, opcode, op->size, dst, rm_of(op));
	tr_put(t, field, SIZE_64, dst);
}

static void emit_movbe(struct tr *t, const struct tr_uop *op)
{
	unsigned int reg;

	if (op->form == FORM_RM) {
		reg = destination(op->u->reg, X_AX);
		emit_load(&t->e, op->size, reg, AT_DX);
		emit_bswap(&t->e, op->size, reg);
		tr_put(t, op->u->reg, op->size, reg);
		return;
	}
	emit_load(&t->e, op->size, X_AX, tr_guest(op->u->reg));
	emit_bswap(&t->e, op->size, X_AX);
	emit_store(&t->e, op->size, AT_DX, X_AX);
}

/* ---- divisions ---- */

/* DX:AX / src fits when DX is less than src. */
static void check_unsigned(struct tr *t, const struct tr_uop *op, struct opnd src)
{
	emit_alu(&t->e, E_CMP, op->size, tr_host[RDX], src);
	tr_miss(t, emit_jcc(&t->e, CC_AE), false);
}

/* What C compilers write: the dividend is AX, sign-extended, and src neither 0 nor -1. */
static void check_signed(struct tr *t, const struct tr_uop *op, struct opnd src)
{
	struct emit *e = &t->e;

	emit_load(e, SIZE_64, X_AX, op_reg(tr_host[RAX]));
	if (op->size == SIZE_64)
		emit8(e, 0x48);
	emit8(e, 0x99); /* cdq, cqo */
	emit_alu(e, E_CMP, op->size, X_DX, op_reg(tr_host[RDX]));
	tr_miss(t, emit_jcc(e, CC_NZ), false);
	emit_load(e, op->size, X_DX, src);
	emit_alu_imm(e, E_ADD, op->size, op_reg(X_DX), 1, false);
	emit_alu_imm(e, E_CMP, op->size, op_reg(X_DX), 1, false);
	tr_miss(t, emit_jcc(e, CC_BE), false);
}

/* The flags, which are undefined, stay as they were in aflags. */
static void emit_div(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	struct opnd src = rm_of(op);

	if (op->mem) {
		emit_load(e, op->size, X_AX, AT_DX);
		emit_store(e, SIZE_64, LOCAL, X_AX);
		src = LOCAL;
	}
	if (op->sub == TR_IDIV)
		check_signed(t, op, src);
	else
		check_unsigned(t, op, src);
	t->in_host = false;
	emit_load(e, SIZE_64, X_AX, op_reg(tr_host[RAX]));
	emit_load(e, SIZE_64, X_DX, op_reg(tr_host[RDX]));
	emit_rm(e, 0xf7, op->size, op->sub, src);
	tr_put(t, 8 * RAX, op->size, X_AX);
	tr_put(t, 8 * RDX, op->size, X_DX);
}

void tr_emit_bits(struct tr *t, const struct tr_uop *op)
{
	switch (op->kind) {
	case TR_VEX:
		emit_three(t, op);
		break;
	case TR_MULX:
		emit_mulx(t, op);
		break;
	case TR_RORX:
		emit_rorx(t, op);
		break;
	case TR_ADX:
		emit_adx(t, op);
		break;
	case TR_CRC32:
		emit_crc32(t, op);
		break;
	case TR_MOVBE:
		emit_movbe(t, op);
		break;
	default:
		emit_div(t, op);
		break;
	}
}
