/*
 * Moves, conditional ones, exchanges, bits, the stack. A memory operand is at [RDX]; none of the
 * moves touches the host's flags, which may be the guest's.
 */
#include "engine/soft/translate_int.h"

#define AT_DX op_mem(X_DX, 0)

static u32 byte_form(u32 opcode, unsigned int size)
{
	return size == SIZE_8 ? (opcode - 1) | E_BYTES : opcode;
}

static bool fits_signed(u64 v)
{
	return (s64)v == (s32)v;
}

static void mov_immediate(struct tr *t, u8 field, unsigned int size, u64 imm)
{
	struct emit *e = &t->e;
	struct opnd dst = tr_guest(field);

	if (size == SIZE_32)
		imm = (u32)imm;
	if (size <= SIZE_16) {
		emit_store_imm(e, size, dst, (s32)imm);
	} else if (!dst.mem) {
		emit_mov_imm(e, dst.reg, imm);
	} else if (fits_signed(imm)) {
		emit_store_imm(e, SIZE_64, dst, (s32)imm);
	} else {
		emit_mov_imm(e, X_AX, imm);
		emit_store(e, SIZE_64, dst, X_AX);
	}
}

static void mov_registers(struct tr *t, const struct uop *u, unsigned int size)
{
	struct opnd dst = tr_guest(u->rm);
	unsigned int src;

	if (!dst.mem) {
		emit_load(&t->e, size, dst.reg, tr_source(t, u->reg, size));
		return;
	}
	src = tr_value(t, u->reg, size, X_AX);
	if (size == SIZE_32 && src != X_AX) {
		emit_load(&t->e, SIZE_32, X_AX, op_reg(src));
		src = X_AX;
	}
	tr_put(t, u->rm, size, src);
}

static void emit_mov(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	struct opnd dst;

	switch (op->form) {
	case FORM_RR:
		mov_registers(t, u, op->size);
		break;
	case FORM_RI:
		mov_immediate(t, u->rm, op->size, u->imm);
		break;
	case FORM_RM:
		dst = tr_guest(u->reg);
		emit_load(e, op->size, dst.mem ? X_AX : dst.reg, AT_DX);
		if (dst.mem)
			tr_put(t, u->reg, op->size, X_AX);
		break;
	case FORM_MR:
		emit_store(e, op->size, AT_DX, tr_value(t, u->reg, op->size, X_AX));
		break;
	default:
		emit_store_imm(e, op->size, AT_DX, (s32)u->imm);
		break;
	}
}

static void emit_extend(struct tr *t, const struct tr_uop *op)
{
	const struct uop *u = op->u;
	u8 field = op->mem ? u->reg : u->rm;
	struct opnd dst = tr_guest(field), src = op->mem ? AT_DX : tr_guest(u->reg);
	unsigned int reg = dst.mem ? X_AX : dst.reg;
	u32 opcode;

	if (op->sub == SIZE_32)
		opcode = 0x63;
	else
		opcode = (op->kind == TR_MOVZX ? 0x0fb6 : 0x0fbe) |
			 (op->sub == SIZE_16 ? 1 : E_BYTE_RM);
	emit_rm(&t->e, opcode, op->size, reg, src);
	if (dst.mem)
		tr_put(t, field, op->size, reg);
}

static void emit_lea_op(struct tr *t, const struct tr_uop *op)
{
	struct opnd dst = tr_guest(op->u->reg);
	unsigned int reg = dst.mem ? X_DX : dst.reg;

	tr_lea(t, op->u, reg, op->size);
	if (dst.mem)
		tr_put(t, op->u->reg, op->size, reg);
}

static void emit_cmov(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	u8 field = op->mem ? u->reg : u->rm;
	struct opnd dst = tr_guest(field);
	unsigned int reg = dst.mem ? X_AX : dst.reg;

	if (dst.mem)
		emit_load(e, op->size, X_AX, dst);
	emit_rm(e, 0x0f40 | u->vreg, op->size, reg, op->mem ? AT_DX : tr_guest(u->reg));
	if (dst.mem)
		tr_put(t, field, op->size, reg);
}

static void emit_xchg(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	unsigned int a, b;

	b = tr_value(t, u->reg, op->size, X_AX);
	if (op->mem) {
		emit_rm(e, byte_form(0x87, op->size), op->size, b, AT_DX);
		tr_put(t, u->reg, op->size, b);
		return;
	}
	a = tr_value(t, u->rm, op->size, X_DX);
	emit_rm(e, byte_form(0x87, op->size), op->size, b, op_reg(a));
	tr_put(t, u->reg, op->size, b);
	tr_put(t, u->rm, op->size, a);
}

static void emit_xadd(struct tr *t, const struct tr_uop *op)
{
	u32 lock = op->form == FORM_LOCK_MR ? E_LOCK : 0;
	unsigned int reg = tr_value(t, op->u->reg, op->size, X_AX);

	emit_rm(&t->e, byte_form(0x0fc1, op->size) | lock, op->size, reg, AT_DX);
	tr_put(t, op->u->reg, op->size, reg);
}

/* The accumulator is written when the comparison fails: of 32 bits, extended then alone. */
static void emit_cmpxchg(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	u32 lock = op->form == FORM_LOCK_MR ? E_LOCK : 0, equal;
	struct opnd o = tr_guest(op->u->reg);
	unsigned int src = o.reg;

	if (o.mem) { /* RCX is free for a moment */
		emit_store(e, SIZE_64, op_mem(X_SP, 0), X_CX);
		emit_load(e, SIZE_64, X_CX, o);
		src = X_CX;
	}
	emit_load(e, SIZE_64, X_AX, op_reg(tr_host[RAX]));
	emit_rm(e, byte_form(0x0fb1, op->size) | lock, op->size, src, AT_DX);
	if (o.mem)
		emit_load(e, SIZE_64, X_CX, op_mem(X_SP, 0));
	equal = emit_jcc(e, CC_Z);
	tr_put(t, 8 * RAX, op->size, X_AX);
	emit_here(e, equal);
}

static void emit_bit(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	struct opnd rm = op->mem ? AT_DX : tr_guest(u->rm);
	bool in_vcpu = !op->mem && rm.mem;
	unsigned int bit;

	if (in_vcpu) {
		emit_load(e, op->size, X_AX, rm);
		rm = op_reg(X_AX);
	}
	if (op->form == FORM_RR) {
		bit = tr_value(t, u->reg, op->size, X_DX);
		emit_rm(e, 0x0f83 | op->sub << 3, op->size, bit, rm);
	} else {
		emit_rm(e, 0x0fba | (op->form == FORM_LOCK_MI ? E_LOCK : 0), op->size, op->sub, rm);
		emit8(e, (u8)(u->imm & ((8u << op->size) - 1)));
	}
	if (in_vcpu && op->sub != 4)
		tr_put(t, u->rm, op->size, X_AX);
}

/* A source of 0 leaves the destination as it is: all of it. */
static void emit_scan(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	u8 field = op->mem ? u->reg : u->rm;
	struct opnd dst = tr_guest(field);
	unsigned int reg = dst.mem ? X_AX : dst.reg;

	if (dst.mem)
		emit_load(e, SIZE_64, X_AX, dst);
	emit_rm(e, 0x0f00 | op->sub, op->size, reg, op->mem ? AT_DX : tr_guest(u->reg));
	if (dst.mem)
		emit_store(e, SIZE_64, dst, X_AX);
}

static void emit_count(struct tr *t, const struct tr_uop *op)
{
	struct opnd dst = tr_guest(op->u->reg), src = op->mem ? AT_DX : tr_guest(op->u->rm);
	unsigned int reg = dst.mem ? X_AX : dst.reg;

	emit_rm(&t->e, 0x0f00 | op->sub | E_F3, op->size, reg, src);
	if (dst.mem)
		tr_put(t, op->u->reg, op->size, reg);
}

static void emit_bswap_op(struct tr *t, const struct tr_uop *op)
{
	unsigned int reg = tr_value(t, op->u->rm, op->size, X_AX);

	emit_bswap(&t->e, op->size, reg);
	tr_put(t, op->u->rm, op->size, reg);
}

/* CBW, CWDE, CDQE */
static void emit_cbw(struct tr *t, const struct tr_uop *op)
{
	static const u32 opcode[4] = {0, 0x0fbe | E_BYTE_RM, 0x0fbf, 0x63};
	unsigned int acc = tr_host[RAX];

	emit_rm(&t->e, opcode[op->size], op->size, acc, op_reg(acc));
}

/* CWD, CDQ, CQO */
static void emit_cwd(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;

	emit_load(e, SIZE_64, X_AX, op_reg(tr_host[RAX]));
	if (op->size == SIZE_16)
		emit8(e, 0x66);
	if (op->size == SIZE_64)
		emit8(e, 0x48);
	emit8(e, 0x99);
	tr_put(t, 8 * RDX, op->size, X_DX);
}

/* ---- the stack; RDX points to the slot ---- */

static void move_stack(struct tr *t, unsigned int base, s32 delta)
{
	emit_lea(&t->e, t->mode64 ? SIZE_64 : SIZE_32, tr_host[RSP], op_mem(base, delta));
}

static void emit_push(struct tr *t, const struct tr_uop *op)
{
	if (op->kind == TR_PUSH_IMM)
		emit_store_imm(&t->e, op->size, AT_DX, (s32)op->u->imm);
	else
		emit_store(&t->e, op->size, AT_DX, tr_value(t, op->u->rm, op->size, X_AX));
	move_stack(t, tr_host[RSP], -(s32)(1u << op->size));
}

static void emit_pop(struct tr *t, const struct tr_uop *op)
{
	struct opnd dst = tr_guest(op->u->rm);

	move_stack(t, tr_host[RSP], (s32)(1u << op->size));
	emit_load(&t->e, op->size, dst.mem ? X_AX : dst.reg, AT_DX);
	if (dst.mem)
		tr_put(t, op->u->rm, op->size, X_AX);
}

static void emit_pop_frame(struct tr *t, const struct tr_uop *op)
{
	move_stack(t, tr_host[RBP], (s32)(1u << op->size));
	emit_load(&t->e, op->size, tr_host[RBP], AT_DX);
}

void tr_emit_data(struct tr *t, const struct tr_uop *op)
{
	static void (*const emit[])(struct tr * t, const struct tr_uop *op) = {
		[TR_MOV] = emit_mov,	  [TR_MOVZX] = emit_extend,
		[TR_MOVSX] = emit_extend, [TR_LEA] = emit_lea_op,
		[TR_CMOV] = emit_cmov,	  [TR_XCHG] = emit_xchg,
		[TR_XADD] = emit_xadd,	  [TR_CMPXCHG] = emit_cmpxchg,
		[TR_BIT] = emit_bit,	  [TR_SCAN] = emit_scan,
		[TR_COUNT] = emit_count,  [TR_BSWAP] = emit_bswap_op,
		[TR_CBW] = emit_cbw,	  [TR_CWD] = emit_cwd,
		[TR_PUSH] = emit_push,	  [TR_PUSH_IMM] = emit_push,
		[TR_POP] = emit_pop,	  [TR_POP_FRAME] = emit_pop_frame,
	};

	if (op->kind == TR_SETCC)
		emit_rm(&t->e, 0x0f90 | E_BYTE_RM | op->u->vreg, SIZE_8, 0,
			op->mem ? AT_DX : tr_guest(op->u->rm));
	else if (op->kind == TR_CARRY)
		emit8(&t->e, op->sub);
	else if (op->kind < ARRAY_SIZE(emit) && emit[op->kind])
		emit[op->kind](t, op);
}
