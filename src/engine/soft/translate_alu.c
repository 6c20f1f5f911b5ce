/*
 * Arithmetic: the guest's instruction with its registers renumbered, its memory operand at [RDX].
 * Operands that stay in the vCPU are memory operands, too; a 32-bit result for one of them goes by
 * way of RAX, which extends it.
 */
#include "engine/soft/translate_int.h"

#define AT_DX op_mem(X_DX, 0)

static u32 byte_form(u32 opcode, unsigned int size)
{
	return size == SIZE_8 ? (opcode - 1) | E_BYTES : opcode;
}

/* Is this operand in the vCPU, and to be written by way of RAX? */
static bool is_extended(struct opnd o, unsigned int size)
{
	return o.mem && size >= SIZE_32;
}

/* dst <- dst n src, both register operands, or CMP; src may be an immediate. */
static void alu_registers(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	struct opnd dst = tr_guest(u->rm);
	bool extended = is_extended(dst, op->size) && op->sub != E_CMP;
	struct opnd source = tr_guest(u->reg);
	unsigned int src;

	if (extended && u->rm != u->reg)
		source = tr_source(t, u->reg, op->size);
	if (extended && !source.mem && source.reg == X_AX) {
		emit_load(e, SIZE_64, X_DX, source);
		source = op_reg(X_DX);
	}
	if (extended) {
		tr_load_ax(t, u->rm, op->size);
		dst = op_reg(X_AX);
	}
	if (op->form == FORM_RI) {
		emit_alu_imm(e, op->sub, op->size, dst, (s32)u->imm, false);
	} else if (!dst.mem) {
		emit_alu(e, op->sub, op->size, dst.reg,
			 extended ? source : tr_source(t, u->reg, op->size));
	} else {
		src = tr_value(t, u->reg, op->size, X_AX);
		emit_alu_to(e, op->sub, op->size, dst, src, false);
	}
	if (extended)
		tr_put(t, u->rm, op->size, X_AX);
}

static void alu_from_memory(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	struct opnd dst = tr_guest(u->reg);

	if (!dst.mem) {
		emit_alu(e, op->sub, op->size, dst.reg, AT_DX);
	} else if (is_extended(dst, op->size) && op->sub != E_CMP) {
		tr_load_ax(t, u->reg, op->size);
		emit_alu(e, op->sub, op->size, X_AX, AT_DX);
		tr_put(t, u->reg, op->size, X_AX);
	} else {
		emit_load(e, op->size, X_AX, AT_DX);
		emit_alu_to(e, op->sub, op->size, dst, X_AX, false);
	}
}

static void emit_binary(struct tr *t, const struct tr_uop *op)
{
	const struct uop *u = op->u;
	bool lock = op->form >= FORM_LOCK_MR;

	switch (op->form) {
	case FORM_RR:
	case FORM_RI:
		alu_registers(t, op);
		break;
	case FORM_RM:
		alu_from_memory(t, op);
		break;
	case FORM_MR:
	case FORM_LOCK_MR:
		emit_alu_to(&t->e, op->sub, op->size, AT_DX, tr_value(t, u->reg, op->size, X_AX),
			    lock);
		break;
	default:
		emit_alu_imm(&t->e, op->sub, op->size, AT_DX, (s32)u->imm, lock);
		break;
	}
}

static void emit_test(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	struct opnd rm = op->mem ? AT_DX : tr_guest(u->rm);

	if (op->form == FORM_RI || op->form == FORM_MI) {
		emit_rm(e, op->size == SIZE_8 ? 0xf6 | E_BYTE_RM : 0xf7, op->size, 0, rm);
		emit_imm(e, op->size, (s32)u->imm);
	} else {
		emit_rm(e, byte_form(0x85, op->size), op->size, tr_value(t, u->reg, op->size, X_AX),
			rm);
	}
}

static void emit_unary(struct tr *t, const struct tr_uop *op)
{
	bool step = op->sub >= TR_INC;
	u32 opcode = (step ? 0xff : 0xf7) | (op->form == FORM_LOCK_M ? E_LOCK : 0);
	struct opnd rm = op->mem ? AT_DX : tr_guest(op->u->rm);
	bool extended = !op->mem && is_extended(rm, op->size);

	if (extended) {
		tr_load_ax(t, op->u->rm, op->size);
		rm = op_reg(X_AX);
	}
	if (op->size == SIZE_8)
		opcode = (opcode - 1) | E_BYTE_RM;
	emit_rm(&t->e, opcode, op->size, op->sub & 7, rm);
	if (extended)
		tr_put(t, op->u->rm, op->size, X_AX);
}

/* The destination is a whole register of the host's: its own, or RAX. */
static void emit_imul(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	u8 field = op->mem ? u->reg : u->rm;
	struct opnd dst = tr_guest(field), src = op->mem ? AT_DX : tr_guest(u->reg);
	unsigned int reg = dst.mem ? X_AX : dst.reg;

	if (op->kind == TR_IMUL) {
		if (dst.mem)
			emit_load(e, op->size, reg, dst);
		emit_rm(e, 0x0faf, op->size, reg, src);
	} else {
		emit_rm(e, 0x69, op->size, reg, src);
		emit_imm(e, op->size, (s32)u->imm);
	}
	if (dst.mem)
		tr_put(t, field, op->size, reg);
}

static void emit_mul(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	struct opnd rm = op->mem ? AT_DX : tr_guest(op->u->rm);

	emit_load(e, SIZE_64, X_AX, op_reg(tr_host[RAX]));
	emit_rm(e, op->size == SIZE_8 ? 0xf6 | E_BYTE_RM : 0xf7, op->size, op->sub, rm);
	if (op->size == SIZE_8) {
		tr_put(t, 8 * RAX, SIZE_16, X_AX);
		return;
	}
	tr_put(t, 8 * RAX, op->size, X_AX);
	tr_put(t, 8 * RDX, op->size, X_DX);
}

/* By CL: the guest's RCX is the host's. */
static void emit_shift(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	struct opnd rm = op->mem ? AT_DX : tr_guest(op->u->rm);
	bool fixed = op->form == FORM_RI || op->form == FORM_MI;
	unsigned int count = op->u->imm & (op->size == SIZE_64 ? 63 : 31);
	bool extended = !op->mem && is_extended(rm, op->size);

	if (fixed && !count) {
		if (!op->mem && op->size == SIZE_32) {
			unsigned int reg = tr_value(t, op->u->rm, SIZE_32, X_AX);

			emit_load(e, SIZE_32, reg, op_reg(reg));
			tr_put(t, op->u->rm, SIZE_32, reg);
		}
		return;
	}
	if (extended) {
		tr_load_ax(t, op->u->rm, op->size);
		rm = op_reg(X_AX);
	}
	if (fixed)
		emit_shift_imm(e, op->sub, op->size, rm, count);
	else
		emit_rm(e, op->size == SIZE_8 ? 0xd2 | E_BYTE_RM : 0xd3, op->size, op->sub, rm);
	if (extended)
		tr_put(t, op->u->rm, op->size, X_AX);
}

/* SHLD, SHRD by an immediate, of registers. */
static void emit_double(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	unsigned int count = u->imm & (op->size == SIZE_64 ? 63 : 31);
	struct opnd dst = tr_guest(u->rm);
	unsigned int reg = dst.mem ? X_AX : dst.reg, src;

	if (dst.mem)
		emit_load(e, op->size, X_AX, dst);
	if (count) {
		src = tr_value(t, u->reg, op->size, X_DX);
		emit_rm(e, 0x0f00 | op->sub, op->size, src, op_reg(reg));
		emit8(e, (u8)count);
	} else if (op->size == SIZE_32) {
		emit_load(e, SIZE_32, reg, op_reg(reg));
	}
	if (dst.mem)
		tr_put(t, u->rm, op->size, reg);
}

void tr_emit_alu(struct tr *t, const struct tr_uop *op)
{
	switch (op->kind) {
	case TR_ALU:
		emit_binary(t, op);
		break;
	case TR_TEST:
		emit_test(t, op);
		break;
	case TR_UNARY:
		emit_unary(t, op);
		break;
	case TR_IMUL:
	case TR_IMUL3:
		emit_imul(t, op);
		break;
	case TR_MUL:
		emit_mul(t, op);
		break;
	case TR_SHIFT:
		emit_shift(t, op);
		break;
	default:
		emit_double(t, op);
		break;
	}
}
