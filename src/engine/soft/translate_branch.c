/*
 * How a translated block ends.
 *
 * 1. Within a page, a way out is a jump that is linked to the target's code when that is there.
 *    ctl.rip is the page's address, and so stays as it is.
 * 2. To other pages and by indirect branches the way goes through the jump cache (blocks.h), whose
 *    entries lead to struct block.code with the address in RDX.
 * 3. exit_request is looked at on every way through the jump cache, on links back, and on links out
 *    of a block that called C: so no loop misses it, and what a block asks of itself is seen at its
 *    end.
 * 4. Whatever is not straight (a miss of the TLB, of the jump cache before anything has changed) is
 *    left to the interpreter's function of the branch.
 */
#include "engine/soft/translate_int.h"

_Static_assert(sizeof(struct jump_entry) == 32, "index, by emit_lookup()");

#define JUMP_OFF(member) (CPU_OFF(blocks.jump) + (s32)offsetof(struct jump_entry, member))

static void count(struct tr *t, unsigned int instructions)
{
	emit_alu_imm(&t->e, E_ADD, SIZE_64, op_vcpu(VCPU_OFF(ctl.instructions)), (s32)instructions,
		     false);
}

void tr_jump_slot(struct emit *e)
{
	emit_load(e, SIZE_32, X_AX, op_reg(X_DX));
	emit_shift_imm(e, 5, SIZE_32, op_reg(X_AX), 12);
	emit_alu(e, E_XOR, SIZE_32, X_AX, op_reg(X_DX));
	emit_alu_imm(e, E_AND, SIZE_32, op_reg(X_AX), JUMP_SIZE - 1, false);
	emit_shift_imm(e, 4, SIZE_32, op_reg(X_AX), 5);
	emit_alu(e, E_ADD, SIZE_64, X_AX, op_vcpu(VCPU_OFF(cpu)));
}

/* To the interpreter, unless it has something to do. */
static void leave_when(struct tr *t, u32 jump)
{
	if (t->leaves < ARRAY_SIZE(t->leave))
		t->leave[t->leaves++] = jump;
	else
		t->e.full = true;
}

static void emit_poll(struct tr *t)
{
	emit_alu_imm(&t->e, E_CMP, SIZE_32, op_vcpu(VCPU_OFF(exit_request)), 0, false);
}

static void lookup_miss(struct tr *t, bool leave, u32 stub)
{
	if (leave)
		leave_when(t, emit_jcc(&t->e, CC_NZ));
	else
		emit_jcc_to(&t->e, CC_NZ, t->stub_base + stub);
}

/*
 * The jump cache. RDX is the address; RAX becomes the entry. leave: a miss is left to the
 * interpreter's branch; else everything has changed already. Code stays in its half of the address
 * space: an address in the other one misses, since the tags of the halves differ.
 */
static void emit_lookup(struct tr *t, bool leave)
{
	struct emit *e = &t->e;

	emit_poll(t);
	lookup_miss(t, leave, t->x->lookup);
	tr_jump_slot(e);
	emit_alu(e, E_CMP, SIZE_64, X_DX, op_mem(X_AX, JUMP_OFF(rip)));
	lookup_miss(t, leave, t->x->lookup);
	emit_load(e, SIZE_64, X_DX, op_vcpu(VCPU_OFF(jump_tag) + 8 * t->half));
	emit_alu(e, E_CMP, SIZE_64, X_DX, op_mem(X_AX, JUMP_OFF(tag)));
	lookup_miss(t, leave, t->x->lookup_entry);
}

/* The block of the jump cache's entry at RAX. */
static void emit_enter(struct tr *t)
{
	emit_load(&t->e, SIZE_64, X_DX, op_mem(X_AX, JUMP_OFF(rip)));
	emit_load(&t->e, SIZE_64, X_AX, op_mem(X_AX, JUMP_OFF(uop)));
	emit_rm(&t->e, 0xff, SIZE_32, 4,
		op_mem(X_AX, (s32)offsetof(struct block, code) - (s32)offsetof(struct block, uop)));
}

/* reg <- the address at this distance from the page's. */
static void emit_rip(struct tr *t, unsigned int reg, s32 delta)
{
	emit_load(&t->e, SIZE_64, reg, op_vcpu(VCPU_OFF(ctl.rip)));
	if (delta)
		emit_lea(&t->e, t->mode64 ? SIZE_64 : SIZE_32, reg, op_mem(reg, delta));
}

/* A way out: delta is from the page's start. The branch is done and counts. */
static void emit_way(struct tr *t, s64 delta, unsigned int instructions)
{
	struct tr_out *out;

	count(t, instructions);
	if (delta < 0 || delta >= (s64)PAGE_SIZE) {
		emit_rip(t, X_DX, (s32)delta);
		emit_lookup(t, false);
		emit_enter(t);
		return;
	}
	out = &t->out[t->outs++];
	*out = (struct tr_out){.page_off = (u16)delta};
	if (t->called || delta <= t->page_off + t->op[t->n - 1].u->off) {
		emit_poll(t);
		out->poll = emit_jcc(&t->e, CC_NZ);
	}
	out->jump = emit_jmp(&t->e);
}

static void emit_conditional(struct tr *t, const struct tr_uop *op)
{
	const struct uop *u = op->u;
	u32 taken;

	tr_need_flags(t);
	taken = emit_jcc(&t->e, op->sub);
	emit_way(t, (s64)t->page_off + u->off + u->len, u->nr + 1u);
	emit_here(&t->e, taken);
	emit_way(t, t->page_off + (s64)u->imm, u->nr + 1u);
}

/* RDX <- host pointer to the slot that the call's push makes. */
static void push_slot(struct tr *t, const struct tr_uop *op)
{
	unsigned int size = 1u << op->size;

	emit_lea(&t->e, op->size, X_DX, op_mem(tr_host[RSP], -(s32)size));
	leave_when(t, tr_check(t, size, true));
}

static void move_stack(struct tr *t, const struct tr_uop *op, s32 delta)
{
	emit_lea(&t->e, op->size, tr_host[RSP], op_mem(tr_host[RSP], delta));
}

static void emit_call_near(struct tr *t, const struct tr_uop *op)
{
	const struct uop *u = op->u;

	push_slot(t, op);
	emit_rip(t, X_AX, (s32)(t->page_off + u->off + u->len));
	emit_store(&t->e, op->size, op_mem(X_DX, 0), X_AX);
	move_stack(t, op, -(s32)(1u << op->size));
	emit_way(t, t->page_off + (s64)u->imm, u->nr + 1u);
}

static void emit_ret(struct tr *t, const struct tr_uop *op)
{
	emit_load(&t->e, op->size, X_DX, op_reg(tr_host[RSP]));
	leave_when(t, tr_check(t, 1u << op->size, false));
	emit_load(&t->e, op->size, X_DX, op_mem(X_DX, 0));
	emit_lookup(t, true);
	move_stack(t, op, (s32)((1u << op->size) + op->u->imm));
	count(t, op->u->nr + 1u);
	emit_enter(t);
}

/* RDX <- the target of JMP or CALL r/m. */
static void emit_target(struct tr *t, const struct tr_uop *op)
{
	unsigned int reg;

	if (op->form == FORM_M) {
		tr_address(t, op->u);
		leave_when(t, tr_check(t, 1u << op->size, false));
		emit_load(&t->e, op->size, X_DX, op_mem(X_DX, 0));
		return;
	}
	reg = tr_value(t, op->u->rm, op->size, X_DX);
	emit_load(&t->e, op->size, X_DX, op_reg(reg));
}

static void emit_jmp_rm(struct tr *t, const struct tr_uop *op)
{
	emit_target(t, op);
	emit_lookup(t, true);
	count(t, op->u->nr + 1u);
	emit_enter(t);
}

/* The frame's locals: [rsp] the slot, [rsp + 8] the target, then the entry. */
static void emit_call_rm(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;

	emit_target(t, op);
	emit_store(e, SIZE_64, op_mem(X_SP, 8), X_DX);
	push_slot(t, op);
	emit_store(e, SIZE_64, op_mem(X_SP, 0), X_DX);
	emit_load(e, SIZE_64, X_DX, op_mem(X_SP, 8));
	emit_lookup(t, true);
	emit_store(e, SIZE_64, op_mem(X_SP, 8), X_AX);
	emit_rip(t, X_AX, (s32)(t->page_off + u->off + u->len));
	emit_load(e, SIZE_64, X_DX, op_mem(X_SP, 0));
	emit_store(e, op->size, op_mem(X_DX, 0), X_AX);
	emit_load(e, SIZE_64, X_AX, op_mem(X_SP, 8));
	move_stack(t, op, -(s32)(1u << op->size));
	count(t, u->nr + 1u);
	emit_enter(t);
}

static bool target_fits(const struct tr *t, const struct uop *u)
{
	s64 delta = t->page_off + (s64)u->imm;

	return delta == (s32)delta;
}

void tr_emit_end(struct tr *t, const struct tr_uop *op)
{
	const struct uop *u = op->u;

	switch (op->kind) {
	case TR_FALL:
		emit_way(t, (s64)t->page_off + u->off, u->nr);
		return;
	case TR_JMP:
	case TR_JCC:
	case TR_CALL_NEAR:
		if (!target_fits(t, u))
			break;
		if (op->kind == TR_JMP)
			emit_way(t, t->page_off + (s64)u->imm, u->nr + 1u);
		else if (op->kind == TR_JCC)
			emit_conditional(t, op);
		else
			emit_call_near(t, op);
		return;
	case TR_RET:
		emit_ret(t, op);
		return;
	case TR_JMP_RM:
		emit_jmp_rm(t, op);
		return;
	case TR_CALL_RM:
		emit_call_rm(t, op);
		return;
	default:
		break;
	}
	leave_when(t, emit_jmp(&t->e));
}
