/*
 * Memory operands: the address into RDX, and the TLB's level 1 looked at inline (mmu.h:
 * tlb_pointer()). A miss is left to the interpreter's function of the uop, which starts over.
 */
#include "engine/soft/translate_int.h"

_Static_assert(sizeof(struct tlb_entry) == 32 && TLB_BITS == 10, "index, by tr_check()");
_Static_assert(offsetof(struct mmu, tlb) == 0 && offsetof(struct tlb, entry) == 0, "first");

bool tr_address_is_plain(const struct uop *u)
{
	return u->amode != AM_FULL || (!u->mode64 && u->scale & UOP_FLAT);
}

/* The base register of the address; loaded into `scratch` when it is in no register. With the
 * displacement that goes with it. */
static unsigned int base_reg(struct tr *t, const struct uop *u, unsigned int scratch, s32 *disp)
{
	*disp = u->disp;
	if (u->base < 8 * 16 && tr_host[u->base >> 3] != X_NONE)
		return tr_host[u->base >> 3];
	emit_load(&t->e, SIZE_64, scratch, op_vcpu(u->base));
	if (u->base == UOP_RIP)
		*disp += (s32)t->page_off; /* tr_block() has seen that it fits */
	return scratch;
}

void tr_lea(struct tr *t, const struct uop *u, unsigned int reg, unsigned int size)
{
	unsigned int base, index;
	s32 disp;

	if (u->base == UOP_ZERO && u->index == UOP_ZERO) {
		emit_mov_imm(&t->e, reg, size == SIZE_32 ? (u32)u->disp : (u64)(s64)u->disp);
		return;
	}
	base = base_reg(t, u, X_DX, &disp);
	if (u->index == UOP_ZERO) {
		if (reg != base || disp || size == SIZE_32)
			emit_lea(&t->e, size, reg, op_mem(base, disp));
		return;
	}
	index = tr_host[u->index >> 3];
	if (index == X_NONE) {
		emit_load(&t->e, SIZE_64, X_AX, op_vcpu(u->index));
		index = X_AX;
	}
	emit_lea(&t->e, size, reg, op_index(base, index, u->scale & 3, disp));
}

u32 tr_check(struct tr *t, unsigned int bytes, bool write)
{
	struct emit *e = &t->e;
	u32 miss;

	emit_load(e, SIZE_32, X_AX, op_reg(X_DX));
	emit_shift_imm(e, 5, SIZE_32, op_reg(X_AX), PAGE_SHIFT - 5);
	emit_alu_imm(e, E_AND, SIZE_32, op_reg(X_AX), (TLB_SIZE - 1) << 5, false);
	emit_alu(e, E_ADD, SIZE_64, X_AX, op_vcpu(VCPU_OFF(tlb)));
	emit_alu(e, E_XOR, SIZE_64, X_DX, op_mem(X_AX, 8 * (write ? ACCESS_WRITE : ACCESS_READ)));
	emit_alu_imm(e, E_CMP, SIZE_64, op_reg(X_DX), (s32)(PAGE_SIZE - bytes), false);
	miss = emit_jcc(e, CC_A);
	emit_alu(e, E_ADD, SIZE_64, X_DX, op_mem(X_AX, offsetof(struct tlb_entry, host)));
	return miss;
}

void tr_miss(struct tr *t, u32 jump, bool leave)
{
	struct tr_slow *s = t->slows ? &t->slow[t->slows - 1] : NULL;

	if (!s || s->uop != t->i || s->leave != leave) {
		s = &t->slow[t->slows++];
		*s = (struct tr_slow){.uop = (u8)t->i, .flags_of = t->flags_of, .leave = leave};
	}
	if (s->jumps < ARRAY_SIZE(s->jump))
		s->jump[s->jumps++] = jump;
	else
		t->e.full = true;
}

void tr_address(struct tr *t, const struct uop *u)
{
	tr_lea(t, u, X_DX, u->amode == AM_FULL ? SIZE_32 : SIZE_64);
	if (u->amode == AM_SEG)
		emit_alu(&t->e, E_ADD, SIZE_64, X_DX,
			 op_vcpu(VCPU_OFF(ctl.seg) + (s32)(u->seg * sizeof(struct segment) +
							   offsetof(struct segment, base))));
}
