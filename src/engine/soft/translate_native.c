/*
 * Vector instructions in translated code: the same loads, instruction and stores as in the function
 * that native_emit.c made for the uop; but the control registers are looked at once a block (what
 * changes them ends it, or is called).
 */
#include "engine/soft/native_emit.h"
#include "engine/soft/translate_int.h"

enum { CHECKED_SSE, CHECKED_AVX, CHECKED_FP };

static u16 register_of(u8 kind, u8 field)
{
	return kind == GW ? (u16)(1u << (field >> 3 & 15)) : 0;
}

bool tr_native_classify(const struct kvm_vcpu *vcpu, struct tr_uop *op)
{
	const struct uop *u = op->u;
	struct native_form *f = &op->form_of;
	u8 reg, rm, vvvv;

	if (!native_form_of(vcpu, u, f) || (f->mem && !tr_address_is_plain(u)))
		return false;
	form_operands(f, &reg, &rm, &vvvv);
	op->kind = TR_NATIVE;
	op->writes = op->touches = f->desc->flags & N_EFL ? X86_ARITH : 0;
	op->mem = !f->mem ? MEM_NONE : op_writes(rm) ? MEM_WRITE : MEM_READ;
	op->regs = register_of(reg, u->reg) | (f->mem ? 0 : register_of(rm, u->rm));
	return true;
}

unsigned int tr_native_bytes(const struct tr_uop *op)
{
	return form_size(&op->form_of);
}

bool tr_native_must_check(const struct tr *t, const struct tr_uop *op)
{
	return !t->checked[op->form_of.vex ? CHECKED_AVX : CHECKED_SSE] ||
	       (op->form_of.desc->flags & N_FP && !t->checked[CHECKED_FP]);
}

/* Slow when (byte at off & mask) is not as wanted. */
static void check_bits(struct tr *t, s32 off, u8 mask, bool set)
{
	emit_rm(&t->e, 0xf6, SIZE_32, 0, op_vcpu(off));
	emit8(&t->e, mask);
	tr_miss(t, emit_jcc(&t->e, set ? CC_Z : CC_NZ), false);
}

void tr_native_check(struct tr *t, const struct tr_uop *op)
{
	if (op->form_of.vex && !t->checked[CHECKED_AVX]) {
		check_bits(t, VCPU_OFF(ctl.cr0), CR0_TS, false);
		check_bits(t, VCPU_OFF(ctl.cr4) + 2, CR4_OSXSAVE >> 16, true);
		check_bits(t, VCPU_OFF(ctl.xcr0), XCR0_AVX, true); /* which implies SSE */
	} else if (!op->form_of.vex && !t->checked[CHECKED_SSE]) {
		check_bits(t, VCPU_OFF(ctl.cr0), CR0_EM | CR0_TS, false);
		check_bits(t, VCPU_OFF(ctl.cr4) + 1, CR4_OSFXSR >> 8, true);
	}
	t->checked[op->form_of.vex ? CHECKED_AVX : CHECKED_SSE] = true;
	if (!(op->form_of.desc->flags & N_FP) || t->checked[CHECKED_FP])
		return;
	/* with an exception that is not masked, the interpreter does the rest of the block */
	emit_load(&t->e, SIZE_32, X_AX, op_vcpu(VCPU_OFF(fpu.mxcsr)));
	emit_rm(&t->e, 0xf7, SIZE_32, 2, op_reg(X_AX));
	emit_rm(&t->e, 0xf7, SIZE_32, 0, op_reg(X_AX));
	emit32(&t->e, MXCSR_MASKS);
	tr_miss(t, emit_jcc(&t->e, CC_NZ), true);
	t->checked[CHECKED_FP] = true;
}

void tr_native_align(struct tr *t, const struct tr_uop *op)
{
	u8 align = form_align(&op->form_of);

	if (!align)
		return;
	emit_rm(&t->e, 0xf6 | E_BYTE_RM, SIZE_8, 0, op_reg(X_DX));
	emit8(&t->e, align);
	tr_miss(t, emit_jcc(&t->e, CC_NZ), false);
}

/* A general register that is an operand goes by its place in the vCPU. */
static void move_general(struct tr *t, u8 kind, u8 field, bool in)
{
	u8 host = tr_host[field >> 3 & 15];

	if ((kind != GR && kind != GW) || host == X_NONE)
		return;
	if (in)
		emit_store(&t->e, SIZE_64, op_vcpu(field), host);
	else if (kind == GW)
		emit_load(&t->e, SIZE_64, host, op_vcpu(field));
}

void tr_emit_native(struct tr *t, const struct tr_uop *op)
{
	const struct native_form *f = &op->form_of;
	struct code c = {.len = 0};
	u8 reg, rm, vvvv;

	form_operands(f, &reg, &rm, &vvvv);
	move_general(t, reg, op->u->reg, true);
	if (!f->mem)
		move_general(t, rm, op->u->rm, true);
	emit_inline(&c, f, op->u, X_VCPU, X_DX);
	for (unsigned int i = 0; i < c.len; i++)
		emit8(&t->e, c.b[i]);
	move_general(t, reg, op->u->reg, false);
	if (!f->mem)
		move_general(t, rm, op->u->rm, false);
}
