/*
 * Translating one block: the order of things in it, the guest's arithmetic flags, slow paths.
 *
 * 1. The flags are in the host's RFLAGS (in_host), in vcpu->aflags (in_aflags), or in both. They
 *    may be in neither while nobody reads them before they are overwritten; a fault meanwhile
 *    computes them again from registers that still hold what they were made of (flags_of).
 * 2. Whatever may fault or calls C finds aflags good, or makes it so first.
 * 3. A slow path starts its uop over, with nothing changed; all of it is behind the block.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/translate_int.h"

/* ---- operands ---- */

unsigned int tr_value(struct tr *t, u8 field, unsigned int size, unsigned int scratch)
{
	struct opnd o = tr_guest(field);

	if (!o.mem)
		return o.reg;
	if (size == SIZE_8)
		emit_rm(&t->e, 0x0fb6, SIZE_32, scratch, o);
	else
		emit_load(&t->e, size == SIZE_16 ? SIZE_32 : size, scratch, op_vcpu(field));
	return scratch;
}

struct opnd tr_source(struct tr *t, u8 field, unsigned int size)
{
	return t->ax == field >> 3 && size >= SIZE_32 ? op_reg(X_AX) : tr_guest(field);
}

void tr_load_ax(struct tr *t, u8 field, unsigned int size)
{
	if (t->ax != field >> 3 || size < SIZE_32)
		emit_load(&t->e, size, X_AX, tr_guest(field));
	t->ax = TR_NONE;
}

void tr_put(struct tr *t, u8 field, unsigned int size, unsigned int reg)
{
	struct opnd o = tr_guest(field);

	if (o.mem && reg == X_AX && size >= SIZE_32)
		t->ax_next = field >> 3;
	if (o.mem)
		emit_store(&t->e, size == SIZE_32 ? SIZE_64 : size, o, reg);
	else if (o.reg != reg)
		emit_load(&t->e, size, o.reg, op_reg(reg));
}

/* ---- flags ---- */

static void emit_save_flags(struct emit *e)
{
	emit8(e, 0x9f); /* lahf */
	emit_rm(e, 0x0f90, SIZE_8, 0, op_reg(X_AX));
	emit_store(e, SIZE_16, op_vcpu(VCPU_OFF(aflags)), X_AX);
}

void tr_save_flags(struct tr *t)
{
	if (t->in_aflags)
		return;
	t->ax = TR_NONE;
	emit_save_flags(&t->e);
	t->in_aflags = true;
}

static void emit_load_flags(struct emit *e)
{
	emit_rm(e, 0x0fb7, SIZE_32, X_AX, op_vcpu(VCPU_OFF(aflags)));
	emit8(e, 0x04); /* add al, 127: OF */
	emit8(e, 0x7f);
	emit8(e, 0x9e); /* sahf */
}

void tr_need_flags(struct tr *t)
{
	const struct tr_uop *op = &t->op[t->i];

	if (t->in_host)
		return;
	if (op->reads == X86_CF && (op->writes | X86_CF) == X86_ARITH) {
		emit_rm(&t->e, 0x0fba, SIZE_16, 4, op_vcpu(VCPU_OFF(aflags))); /* bt */
		emit8(&t->e, 8);
		return;
	}
	t->ax = TR_NONE;
	emit_load_flags(&t->e);
	t->in_host = true;
}

/* Are its flags those of its result? */
static bool is_logic(const struct tr_uop *op)
{
	return op->kind == TR_ALU && (op->sub == E_AND || op->sub == E_OR || op->sub == E_XOR);
}

static bool is_andn(const struct tr_uop *op)
{
	return op->kind == TR_VEX && op->sub == TR_ANDN;
}

/* Registers from which the flags of op can be made again; 0: they cannot. */
static u16 recipe_registers(const struct tr_uop *op)
{
	const struct uop *u = op->u;
	u16 rm = (u16)(1u << (u->rm >> 3 & 15)), reg = (u16)(1u << (u->reg >> 3 & 15));

	if (is_andn(op))
		return reg;
	if (op->kind != TR_ALU && op->kind != TR_TEST)
		return 0;
	if (is_logic(op))
		return op->form == FORM_RM ? reg : op->form <= FORM_RI ? rm : 0;
	if (op->kind == TR_ALU && (op->sub == E_ADC || op->sub == E_SBB))
		return 0;
	if (op->form == FORM_RI)
		return rm;
	if (op->form != FORM_RR)
		return 0;
	if (op->kind == TR_ALU && op->sub != E_CMP && rm == reg)
		return 0;
	return rm | reg;
}

static bool may_leave(const struct tr_uop *op)
{
	return op->mem || op->kind == TR_NATIVE || op->kind == TR_DIV;
}

/* Will the registers last from here to where the flags die? */
static bool recipe_holds(const struct tr *t, unsigned int producer)
{
	u16 regs = recipe_registers(&t->op[producer]);
	bool spoilt = false;

	if (!regs)
		return false;
	for (unsigned int i = producer + 1; i < t->n; i++) {
		const struct tr_uop *op = &t->op[i];

		if (op->reads || (may_leave(op) && spoilt))
			return false;
		if (op->writes == X86_ARITH)
			return true;
		spoilt |= (op->regs & regs) != 0;
	}
	return false;
}

/* The flags of op, once more, into the host's. */
static void emit_recipe(struct tr *t, const struct tr_uop *op)
{
	struct emit *e = &t->e;
	const struct uop *u = op->u;
	u8 field = op->form == FORM_RM || is_andn(op) ? u->reg : u->rm;
	bool imm = op->form == FORM_RI;

	if (op->kind == TR_TEST || (op->kind == TR_ALU && op->sub == E_CMP)) {
		struct opnd a = tr_guest(u->rm);

		if (op->kind == TR_TEST && imm) {
			emit_rm(e, op->size == SIZE_8 ? 0xf6 | E_BYTE_RM : 0xf7, op->size, 0, a);
			emit_imm(e, op->size, (s32)u->imm);
		} else if (op->kind == TR_TEST) {
			unsigned int v = tr_value(t, u->reg, op->size, X_AX);

			emit_rm(e, op->size == SIZE_8 ? 0x84 | E_BYTES : 0x85, op->size, v, a);
		} else if (imm) {
			emit_alu_imm(e, E_CMP, op->size, a, (s32)u->imm, false);
		} else {
			emit_alu_to(e, E_CMP, op->size, a, tr_value(t, u->reg, op->size, X_AX),
				    false);
		}
		return;
	}
	emit_load(e, op->size == SIZE_64 ? SIZE_64 : SIZE_32, X_AX,
		  op_reg(tr_value(t, field, op->size, X_AX)));
	if (is_andn(op) || is_logic(op)) {
		emit_rm(e, op->size == SIZE_8 ? 0x84 | E_BYTES : 0x85, op->size, X_AX,
			op_reg(X_AX));
	} else if (imm) {
		emit_alu_imm(e, E_ADD + E_SUB - op->sub, op->size, op_reg(X_AX), (s32)u->imm,
			     false);
		emit_alu_imm(e, op->sub, op->size, op_reg(X_AX), (s32)u->imm, false);
	} else {
		emit_alu(e, E_ADD + E_SUB - op->sub, op->size, X_AX, tr_guest(u->reg));
		emit_alu(e, op->sub, op->size, X_AX, tr_guest(u->reg));
	}
}

/* A check is about to overwrite the host's flags, and may leave for a fault. */
static void flags_before_check(struct tr *t, const struct tr_uop *op)
{
	u16 live = (u16)((op->live & ~op->writes) | op->reads);

	if (t->in_aflags || !t->in_host)
		return;
	if (!live && t->producer != TR_NONE && recipe_holds(t, t->producer))
		t->flags_of = t->producer;
	else
		tr_save_flags(t);
}

/* ---- uops ---- */

static void refer_to_copy(struct tr *t, unsigned int i)
{
	u32 at = emit_lea_rip(&t->e, X_AX);
	unsigned int n = 0;

	while (n < TR_REFS && t->copy_ref[i][n])
		n++;
	if (n < TR_REFS)
		t->copy_ref[i][n] = at;
	else
		t->e.full = true;
}

static void emit_called(struct tr *t)
{
	tr_save_flags(t);
	refer_to_copy(t, t->i);
	emit_call_to(&t->e, t->stub_base + t->x->call);
	t->in_host = false;
	t->in_aflags = true;
	t->flags_of = TR_NONE;
	t->called = true;
	t->ax = TR_NONE;
	memset(t->checked, 0, sizeof(t->checked));
}

/* A register whose second byte is an operand: its place in the vCPU serves as such. */
static void high_begin(struct tr *t, u8 field)
{
	if (field & 7 && tr_host[field >> 3] != X_NONE)
		emit_store(&t->e, SIZE_64, op_vcpu(field & ~7), tr_host[field >> 3]);
}

static void high_written(struct tr *t, u8 field)
{
	if (field & 7 && tr_host[field >> 3] != X_NONE)
		emit_load(&t->e, SIZE_64, tr_host[field >> 3], op_vcpu(field & ~7));
}

static bool rm_is_register(const struct tr_uop *op)
{
	return op->form == FORM_RR || op->form == FORM_RI || op->form == FORM_R ||
	       (op->kind == TR_MUL && !op->u->mem);
}

static bool has_reg(const struct tr_uop *op)
{
	return op->form == FORM_RR || op->form == FORM_RM || op->form == FORM_MR ||
	       op->form == FORM_LOCK_MR;
}

static unsigned int access_bytes(const struct tr_uop *op)
{
	if (op->kind == TR_NATIVE)
		return tr_native_bytes(op);
	if (op->kind == TR_MOVZX || op->kind == TR_MOVSX)
		return 1u << op->sub;
	return 1u << op->size;
}

static void emit_memory(struct tr *t, const struct tr_uop *op)
{
	bool write = op->mem == MEM_WRITE;

	flags_before_check(t, op);
	t->ax = TR_NONE;
	if (op->kind == TR_PUSH || op->kind == TR_PUSH_IMM || op->kind == TR_POP)
		emit_lea(&t->e, t->mode64 ? SIZE_64 : SIZE_32, X_DX,
			 op_mem(tr_host[RSP], write ? -(s32)access_bytes(op) : 0));
	else if (op->kind == TR_POP_FRAME)
		emit_load(&t->e, t->mode64 ? SIZE_64 : SIZE_32, X_DX, op_reg(tr_host[RBP]));
	else
		tr_address(t, op->u);
	if (op->kind == TR_NATIVE)
		tr_native_align(t, op);
	tr_miss(t, tr_check(t, access_bytes(op), write), false);
	t->in_host = false;
}

static void emit_inline(struct tr *t, const struct tr_uop *op)
{
	unsigned int slows = t->slows;

	t->ax_next = TR_NONE;
	if (rm_is_register(op))
		high_begin(t, op->u->rm);
	if (has_reg(op))
		high_begin(t, op->u->reg);
	if (op->kind == TR_NATIVE && tr_native_must_check(t, op)) {
		flags_before_check(t, op);
		tr_native_check(t, op);
		t->in_host = false;
	}
	if (op->kind == TR_DIV)
		flags_before_check(t, op);
	if (op->mem)
		emit_memory(t, op);
	if (op->reads)
		tr_need_flags(t);
	if (op->kind >= TR_ALU && op->kind <= TR_DOUBLE)
		tr_emit_alu(t, op);
	else if (tr_is_bits(op->kind))
		tr_emit_bits(t, op);
	else if (op->kind == TR_NATIVE)
		tr_emit_native(t, op);
	else
		tr_emit_data(t, op);
	if (op->form == FORM_RM)
		high_written(t, op->u->reg);
	else if (rm_is_register(op) && op->kind != TR_MUL)
		high_written(t, op->u->rm);
	if (op->touches) {
		t->in_host = true;
		t->in_aflags = false;
		t->flags_of = TR_NONE;
		t->producer = (u8)t->i;
	}
	t->ax = t->slows == slows ? t->ax_next : TR_NONE;
	while (slows < t->slows) {
		t->slow[slows].back = t->e.len;
		t->slow[slows++].load_flags = t->in_host;
	}
}

static void emit_slow(struct tr *t, const struct tr_slow *s)
{
	for (unsigned int i = 0; i < s->jumps; i++)
		emit_here(&t->e, s->jump[i]);
	if (s->flags_of != TR_NONE) {
		emit_recipe(t, &t->op[s->flags_of]);
		emit_save_flags(&t->e);
	}
	refer_to_copy(t, s->uop);
	if (s->leave) {
		emit_call_to(&t->e, t->stub_base + t->x->call_leave);
		return;
	}
	emit_call_to(&t->e, t->stub_base + t->x->call);
	if (s->load_flags)
		emit_load_flags(&t->e);
	emit_jmp_to(&t->e, s->back);
}

/* ---- data behind the code ---- */

static struct uop copy_of(const struct tr *t, unsigned int i)
{
	struct uop u = *t->op[i].u;

	u.fn = t->op[i].fn;
	u.off = (u16)(u.off + t->page_off);
	if (u.base == UOP_RIP && u.amode != AM_FULL)
		u.disp += (s32)t->page_off;
	return u;
}

static void put_data(struct tr *t, const void *data, u32 len)
{
	struct emit *e = &t->e;

	if (e->max - e->len < len) {
		e->full = true;
		return;
	}
	memcpy(e->b + e->len, data, len);
	e->len += len;
}

static const struct uop *stop(struct kvm_vcpu *vcpu, const struct uop *u)
{
	return u;
}

static void emit_copies(struct tr *t)
{
	while (t->e.len % 8)
		emit8(&t->e, 0xcc);
	for (unsigned int i = 0; i < t->n; i++) {
		struct uop copy[2] = {copy_of(t, i)};

		if (!t->copy_ref[i][0])
			continue;
		copy[1].fn = stop;
		copy[1].imm = (uintptr_t)(t->op[i].u + 1);
		copy[1].off = (u16)t->page_off;
		for (unsigned int n = 0; n < TR_REFS && t->copy_ref[i][n]; n++)
			emit_here(&t->e, t->copy_ref[i][n]);
		put_data(t, copy, sizeof(copy));
	}
}

static void emit_out(struct tr *t, const struct tr_out *out)
{
	struct tr_edge edge = {.jump = t->x->used + out->jump, .page_off = out->page_off};
	u32 ref;

	emit_here(&t->e, out->jump);
	if (out->poll)
		emit_here(&t->e, out->poll);
	ref = emit_lea_rip(&t->e, X_AX);
	emit_jmp_to(&t->e, t->stub_base + t->x->link);
	edge.cached = t->x->used + t->e.len;
	emit_load(&t->e, SIZE_64, X_DX, op_vcpu(VCPU_OFF(ctl.rip)));
	emit_lea(&t->e, SIZE_64, X_DX, op_mem(X_DX, out->page_off));
	emit_jmp_to(&t->e, t->stub_base + t->x->cached);
	while (t->e.len % 4)
		emit8(&t->e, 0xcc);
	emit_here(&t->e, ref);
	put_data(t, &edge, sizeof(edge));
}

/* ---- the block ---- */

static void emit_dropped(struct tr *t)
{
	struct emit *e = &t->e;

	t->block->dropped_code = t->x->used + e->len;
	emit_load(e, SIZE_64, X_DX, op_vcpu(VCPU_OFF(ctl.rip)));
	emit_lea(e, SIZE_64, X_DX, op_mem(X_DX, (s32)t->page_off));
	emit_mov_imm(e, X_AX, (uintptr_t)t->block->uop);
	emit_jmp_to(e, t->stub_base + t->x->untranslated);
}

/* The interpreter does the last uop. */
static void emit_leave(struct tr *t)
{
	const struct tr_uop *op = &t->op[t->n - 1];
	struct tr_leave leave = {op->u, op->fn, (u16)t->page_off};
	struct emit *e = &t->e;
	u32 ref;

	if (!t->leaves)
		return;
	for (unsigned int i = 0; i < t->leaves; i++)
		emit_here(e, t->leave[i]);
	ref = emit_lea_rip(e, X_AX);
	emit_jmp_to(e, t->stub_base + t->x->leave);
	while (e->len % 8)
		emit8(e, 0xcc);
	emit_here(e, ref);
	put_data(t, &leave, sizeof(leave));
}

static void emit_block(struct tr *t)
{
	struct emit *e = &t->e;

	/* from the jump cache: RDX is rip */
	emit_alu_imm(e, E_AND, SIZE_64, op_reg(X_DX), -(s32)PAGE_SIZE, false);
	emit_store(e, SIZE_64, op_vcpu(VCPU_OFF(ctl.rip)), X_DX);
	t->direct = e->len;
	t->in_aflags = true;
	t->flags_of = t->producer = t->ax = TR_NONE;
	for (t->i = 0; t->i + 1 < t->n; t->i++) {
		if (t->op[t->i].kind == TR_CALL)
			emit_called(t);
		else
			emit_inline(t, &t->op[t->i]);
	}
	tr_save_flags(t);
	t->ax = TR_NONE;
	tr_emit_end(t, &t->op[t->i]);
	for (unsigned int i = 0; i < t->slows; i++)
		emit_slow(t, &t->slow[i]);
	for (unsigned int i = 0; i < t->outs; i++)
		emit_out(t, &t->out[i]);
	emit_leave(t);
	emit_dropped(t);
	emit_copies(t);
}

/* Displacements from the page are another page's worth larger than those from the block. */
static bool fits(const struct tr *t)
{
	for (unsigned int i = 0; i < t->n; i++)
		if (t->op[i].u->base == UOP_RIP && t->op[i].u->disp > 0x7fffffff - (s32)PAGE_SIZE)
			return false;
	return true;
}

int tr_block(struct kvm_vcpu *vcpu, struct block *block)
{
	struct translator *x = vcpu_cpu(vcpu)->translator;
	struct tr t = {.vcpu = vcpu, .x = x, .block = block, .n = block->uops};

	if (x->used + TR_BLOCK_MAX > TR_ARENA)
		return -ENOSPC;
	if (!t.n || t.n > TR_UOPS)
		return -EINVAL;
	t.e = (struct emit){.b = x->arena.rw + x->used, .max = TR_BLOCK_MAX};
	t.stub_base = -(s64)x->used;
	t.page_off = (u32)(block->gpa & (PAGE_SIZE - 1));
	t.half = vcpu->ctl.rip >> 63;
	t.mode64 = (block->mode & MODE_SIZE) == MODE_64;
	for (unsigned int i = 0; i < t.n; i++)
		tr_classify(vcpu, &t.op[i], &block->uop[i], i + 1 == t.n);
	if (!fits(&t))
		return -EINVAL;
	if (t.n == 1 && t.op[0].kind == TR_LEAVE)
		return -EINVAL;
	tr_liveness(&t);
	emit_block(&t);
	if (t.e.full)
		return -EINVAL;
	block->direct = x->used + t.direct;
	block->code = x->arena.rx + x->used;
	x->used = (x->used + t.e.len + 15) & ~15u;
	return 0;
}
