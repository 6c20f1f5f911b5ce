/*
 * Far transfers: JMP, CALL, RET, IRET between segments, through call gates, privilege levels and
 * modes (SDM vol. 2, the instructions; vol. 3, 5.8). Each reads and checks all that it needs, then
 * pushes (all or nothing), then commits registers.
 */
#include "engine/soft/flags.h"
#include "engine/soft/mmu_int.h"
#include "engine/soft/seg.h"

_Noreturn static void gp_selector(struct kvm_vcpu *vcpu, u16 selector)
{
	raise_gp(vcpu, selector & ~3u);
}

/* ---- CS ---- */

void code_check_offset(struct kvm_vcpu *vcpu, const struct segment *cs, u64 offset)
{
	if (is_long_mode(vcpu) && cs->l) {
		if (sign_extend(offset, vcpu->ctl.cr4 & X86_CR4_LA57 ? 57 : 48) != (s64)offset)
			raise_gp(vcpu, 0);
	} else if (offset > cs->limit) {
		raise_gp(vcpu, 0);
	}
}

void code_commit(struct kvm_vcpu *vcpu, const struct segment *cs, u8 cpl)
{
	struct segment *s = &vcpu->ctl.seg[SEG_CS];
	bool was_64bit = is_64bit(vcpu);

	*s = *cs;
	/* The manuals leave open what becomes of the upper half; AMD's processors clear it. */
	if (was_64bit && !is_64bit(vcpu))
		vcpu->ctl.gpr[RSP] = (u32)vcpu->ctl.gpr[RSP];
	if (is_protected(vcpu) && !is_v86(vcpu))
		s->selector = (s->selector & ~3u) | cpl;
	vcpu->ctl.cpl = cpl;
	cpu_update_mode(vcpu);
}

static void real_code(struct kvm_vcpu *vcpu, u16 selector, struct segment *cs)
{
	*cs = vcpu->ctl.seg[SEG_CS];
	cs->selector = selector;
	cs->base = (u64)selector << 4;
	if (is_v86(vcpu))
		segment_v86(cs, selector);
}

static bool real_addressing(const struct kvm_vcpu *vcpu)
{
	return !is_protected(vcpu) || is_v86(vcpu);
}

/* In long mode a code segment cannot be both 64-bit and 32-bit. */
static bool bad_long_code(const struct kvm_vcpu *vcpu, const struct desc *d)
{
	return is_long_mode(vcpu) && desc_long(d) && desc_db(d);
}

/* A code descriptor for a direct transfer that keeps CPL. */
static void direct_code(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, struct segment *cs)
{
	u8 cpl = vcpu->ctl.cpl;

	if (desc_conforming(d) ? desc_dpl(d) > cpl : (selector & 3) > cpl || desc_dpl(d) != cpl)
		gp_selector(vcpu, selector);
	if (!desc_present(d))
		raise_exception_error(vcpu, NP_VECTOR, selector & ~3u);
	if (bad_long_code(vcpu, d))
		gp_selector(vcpu, selector);
	desc_set_accessed(vcpu, d);
	desc_to_segment(d, selector, cs);
}

/* The target of a far JMP or CALL: raises unless there is a descriptor. */
static void target_desc(struct kvm_vcpu *vcpu, u16 selector, struct desc *d)
{
	if (selector_null(selector))
		raise_gp(vcpu, 0);
	if (!desc_read(vcpu, selector, d))
		gp_selector(vcpu, selector);
}

/* ---- call gates ---- */

struct call_gate {
	u16 selector;
	u64 offset;
	unsigned int size;  /* of what is pushed */
	unsigned int count; /* parameters */
	struct desc code;
};

static void check_gate(struct kvm_vcpu *vcpu, u16 selector, const struct desc *d)
{
	if (desc_dpl(d) < vcpu->ctl.cpl || desc_dpl(d) < (selector & 3))
		gp_selector(vcpu, selector);
	if (!desc_present(d))
		raise_exception_error(vcpu, NP_VECTOR, selector & ~3u);
}

static void read_call_gate(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, struct call_gate *g)
{
	bool wide = is_long_mode(vcpu);

	check_gate(vcpu, selector, d);
	g->selector = (d->raw >> 16) & 0xffff;
	g->offset = (d->raw & 0xffff) | ((d->raw >> 32) & 0xffff0000);
	g->count = (d->raw >> 32) & 31;
	g->size = desc_type(d) == DESC_CALL32 ? 4 : 2;
	if (g->size == 2)
		g->offset &= 0xffff;
	if (wide) {
		/* The upper half's type field must be 0. */
		if (!desc_read_wide(vcpu, selector, d) || ((d->high >> 40) & 31))
			gp_selector(vcpu, selector);
		g->offset |= d->high << 32;
		g->size = 8;
		g->count = 0;
	}
	if (selector_null(g->selector))
		raise_gp(vcpu, 0);
	if (!desc_read(vcpu, g->selector, &g->code) || !desc_code(&g->code) ||
	    desc_dpl(&g->code) > vcpu->ctl.cpl ||
	    (wide && (!desc_long(&g->code) || desc_db(&g->code))))
		gp_selector(vcpu, g->selector);
	if (!desc_present(&g->code))
		raise_exception_error(vcpu, NP_VECTOR, g->selector & ~3u);
}

static void gate_code(struct kvm_vcpu *vcpu, struct call_gate *g, struct segment *cs)
{
	desc_set_accessed(vcpu, &g->code);
	desc_to_segment(&g->code, g->selector, cs);
	code_check_offset(vcpu, cs, g->offset);
}

static u64 call_inner(struct kvm_vcpu *vcpu, struct call_gate *g, u64 next)
{
	struct stack old, st = {0};
	struct segment cs;
	u64 value[4 + 31];
	int n = 0;
	u8 dpl = desc_dpl(&g->code);

	stack_current(vcpu, &old);
	stack_inner(vcpu, &st, dpl, 0, 0);
	value[n++] = vcpu->ctl.seg[SEG_SS].selector;
	value[n++] = vcpu->ctl.gpr[RSP];
	for (unsigned int i = g->count; i-- > 0;)
		value[n++] = stack_at(vcpu, &old, (u64)i * g->size, g->size);
	value[n++] = vcpu->ctl.seg[SEG_CS].selector;
	value[n++] = next;
	gate_code(vcpu, g, &cs);
	stack_push_frame(vcpu, &st, value, n, g->size);
	vcpu->ctl.seg[SEG_SS] = st.ss;
	vcpu->ctl.gpr[RSP] = st.mask == 0xffff ? (vcpu->ctl.gpr[RSP] & ~0xffffULL) | st.sp : st.sp;
	code_commit(vcpu, &cs, dpl);
	return g->offset;
}

static u64 call_gate(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, u64 next)
{
	struct call_gate g;
	struct stack st;
	struct segment cs;
	u64 value[2];

	read_call_gate(vcpu, selector, d, &g);
	if (!desc_conforming(&g.code) && desc_dpl(&g.code) < vcpu->ctl.cpl)
		return call_inner(vcpu, &g, next);
	gate_code(vcpu, &g, &cs);
	stack_current(vcpu, &st);
	value[0] = vcpu->ctl.seg[SEG_CS].selector;
	value[1] = next;
	stack_push_frame(vcpu, &st, value, 2, g.size);
	stack_commit(vcpu, &st);
	code_commit(vcpu, &cs, vcpu->ctl.cpl);
	return g.offset;
}

static u64 jump_gate(struct kvm_vcpu *vcpu, u16 selector, struct desc *d)
{
	struct call_gate g;
	struct segment cs;

	read_call_gate(vcpu, selector, d, &g);
	if (!desc_conforming(&g.code) && desc_dpl(&g.code) != vcpu->ctl.cpl)
		gp_selector(vcpu, g.selector);
	gate_code(vcpu, &g, &cs);
	code_commit(vcpu, &cs, vcpu->ctl.cpl);
	return g.offset;
}

/* JMP or CALL to a system descriptor. */
static u64 system_target(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, bool call, u64 next)
{
	enum task_source source = call ? TASK_CALL : TASK_JUMP;
	u8 type = desc_type(d);

	if (type == DESC_CALL32 || (type == DESC_CALL16 && !is_long_mode(vcpu)))
		return call ? call_gate(vcpu, selector, d, next) : jump_gate(vcpu, selector, d);
	if (is_long_mode(vcpu))
		gp_selector(vcpu, selector);
	switch (type) {
	case DESC_TASK:
		check_gate(vcpu, selector, d);
		return task_gate(vcpu, d, source, next, false, 0, 0);
	case DESC_TSS16:
	case DESC_TSS32:
		check_gate(vcpu, selector, d);
		return task_switch(vcpu, selector, d, source, next, false, 0);
	default:
		gp_selector(vcpu, selector);
	}
}

/* ---- JMP, CALL ---- */

u64 far_jump(struct kvm_vcpu *vcpu, u16 selector, u64 offset, u64 next)
{
	struct segment cs;
	struct desc d;

	if (real_addressing(vcpu)) {
		real_code(vcpu, selector, &cs);
		code_check_offset(vcpu, &cs, offset);
		code_commit(vcpu, &cs, vcpu->ctl.cpl);
		return offset;
	}
	target_desc(vcpu, selector, &d);
	if (!desc_s(&d))
		return system_target(vcpu, selector, &d, false, next);
	if (!desc_code(&d))
		gp_selector(vcpu, selector);
	direct_code(vcpu, selector, &d, &cs);
	code_check_offset(vcpu, &cs, offset);
	code_commit(vcpu, &cs, vcpu->ctl.cpl);
	return offset;
}

/* The stack of a call to cs: as that code sees it, as AMD's processors are seen to have it; the
 * manuals do not say. */
static void stack_of_target(struct kvm_vcpu *vcpu, struct stack *st, const struct segment *cs)
{
	stack_current(vcpu, st);
	if (st->long_mode && !cs->l) {
		st->long_mode = st->ss.unusable; /* else it has a limit now */
		st->mask = st->ss.db ? 0xffffffff : 0xffff;
		st->sp &= st->mask;
	}
}

u64 far_call(struct kvm_vcpu *vcpu, u16 selector, u64 offset, unsigned int size, u64 next)
{
	u64 value[2] = {vcpu->ctl.seg[SEG_CS].selector, next};
	struct segment cs;
	struct stack st;
	struct desc d;

	if (real_addressing(vcpu)) {
		real_code(vcpu, selector, &cs);
	} else {
		target_desc(vcpu, selector, &d);
		if (!desc_s(&d))
			return system_target(vcpu, selector, &d, true, next);
		if (!desc_code(&d))
			gp_selector(vcpu, selector);
		direct_code(vcpu, selector, &d, &cs);
	}
	code_check_offset(vcpu, &cs, offset);
	stack_of_target(vcpu, &st, &cs);
	stack_push_frame(vcpu, &st, value, 2, size);
	stack_commit(vcpu, &st);
	code_commit(vcpu, &cs, vcpu->ctl.cpl);
	return offset;
}

/* ---- RET and IRET ---- */

/* The code segment that a return goes to. */
static void return_code(struct kvm_vcpu *vcpu, u16 selector, struct segment *cs)
{
	u8 rpl = selector & 3;
	struct desc d;

	if (selector_null(selector))
		raise_gp(vcpu, 0);
	if (!desc_read(vcpu, selector, &d) || !desc_code(&d) || rpl < vcpu->ctl.cpl ||
	    (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl) ||
	    bad_long_code(vcpu, &d))
		gp_selector(vcpu, selector);
	if (!desc_present(&d))
		raise_exception_error(vcpu, NP_VECTOR, selector & ~3u);
	desc_set_accessed(vcpu, &d);
	desc_to_segment(&d, selector, cs);
}

/* SS of a return to CPL rpl, to code cs. */
static void return_stack(struct kvm_vcpu *vcpu, u16 selector, const struct segment *cs, u8 rpl,
			 struct segment *ss)
{
	if (selector_null(selector) && is_long_mode(vcpu) && cs->l && rpl != 3 &&
	    (selector & 3) == rpl) {
		segment_null(ss, selector);
		ss->dpl = rpl;
		return;
	}
	seg_check_stack(vcpu, selector, rpl, GP_VECTOR, 0, ss);
}

/* SS:rSP from the frame, `release` bytes dropped from the outer stack. */
static void commit_stack(struct kvm_vcpu *vcpu, const struct segment *ss, const struct segment *cs,
			 u64 sp)
{
	u64 *rsp = &vcpu->ctl.gpr[RSP];

	vcpu->ctl.seg[SEG_SS] = *ss;
	if (is_long_mode(vcpu) && cs->l)
		*rsp = sp;
	else if (ss->db)
		*rsp = (u32)sp;
	else
		*rsp = (*rsp & ~0xffffULL) | (sp & 0xffff);
}

static u64 return_real(struct kvm_vcpu *vcpu, struct stack *st, unsigned int size, u16 release)
{
	u64 rip = stack_at(vcpu, st, 0, size);
	u16 selector = (u16)stack_at(vcpu, st, size, size);
	struct segment cs;

	real_code(vcpu, selector, &cs);
	code_check_offset(vcpu, &cs, rip);
	st->sp = (st->sp + 2 * size + release) & st->mask;
	stack_commit(vcpu, st);
	code_commit(vcpu, &cs, vcpu->ctl.cpl);
	return rip;
}

u64 far_return(struct kvm_vcpu *vcpu, unsigned int size, u16 release)
{
	struct segment cs, ss;
	struct stack st;
	u64 rip, sp;
	u16 selector;
	u8 rpl;

	stack_current(vcpu, &st);
	if (real_addressing(vcpu))
		return return_real(vcpu, &st, size, release);
	rip = stack_at(vcpu, &st, 0, size);
	selector = (u16)stack_at(vcpu, &st, size, size);
	rpl = selector & 3;
	return_code(vcpu, selector, &cs);
	if (rpl == vcpu->ctl.cpl) {
		code_check_offset(vcpu, &cs, rip);
		st.sp = (st.sp + 2 * size + release) & st.mask;
		stack_commit(vcpu, &st);
		code_commit(vcpu, &cs, rpl);
		return rip;
	}
	sp = stack_at(vcpu, &st, 2 * size + release, size);
	return_stack(vcpu, (u16)stack_at(vcpu, &st, 3 * size + release, size), &cs, rpl, &ss);
	code_check_offset(vcpu, &cs, rip);
	commit_stack(vcpu, &ss, &cs, sp + release);
	code_commit(vcpu, &cs, rpl);
	seg_drop_inner(vcpu);
	cpu_update_mode(vcpu);
	return rip;
}

u64 flags_merge(const struct kvm_vcpu *vcpu, u64 value, unsigned int size, bool iret)
{
	const struct vcpu_control *c = &vcpu->ctl;
	u64 mask = X86_ARITH | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID;
	u64 old = flags_get(vcpu);
	unsigned int iopl = (old & X86_IOPL) >> 12;

	if (c->cpl == 0 && !is_v86(vcpu))
		mask |= X86_IOPL | (iret && is_protected(vcpu) ? X86_VIF | X86_VIP : 0);
	if (c->cpl <= iopl || !is_protected(vcpu))
		mask |= X86_IF;
	if (!is_protected(vcpu))
		mask |= X86_IOPL;
	if (iret)
		mask |= X86_RF;
	if (size == 2)
		mask &= 0xffff;
	if (!iret && size != 2)
		old &= ~(u64)X86_RF;
	return (old & ~mask) | (value & mask) | 2;
}

static void commit_flags(struct kvm_vcpu *vcpu, u64 flags)
{
	/* RF is only looked at where code breakpoints are; elsewhere it would linger. */
	if (!vcpu_mmu(vcpu)->code_watch)
		flags &= ~(u64)X86_RF;
	flags_set(vcpu, flags);
	vcpu->ctl.nmi_masked = false;
	vcpu->events = true;
}

static u64 iret_real(struct kvm_vcpu *vcpu, struct stack *st, unsigned int size)
{
	u64 flags = stack_at(vcpu, st, 2 * size, size);
	u64 merged = flags_merge(vcpu, flags, size, true);
	u64 rip = return_real(vcpu, st, size, (u16)size);

	commit_flags(vcpu, merged);
	cpu_update_mode(vcpu);
	return rip;
}

/* Virtual-8086 mode, IOPL below 3, CR4.VME, 16-bit operand: IF means VIF (SDM vol. 3, 21.3). */
static u64 iret_vme(struct kvm_vcpu *vcpu, struct stack *st)
{
	u64 flags = stack_at(vcpu, st, 4, 2), old = flags_get(vcpu), merged;
	u64 rip;

	if (((flags & X86_IF) && (old & X86_VIP)) || (flags & X86_TF))
		raise_gp(vcpu, 0);
	merged = flags_merge(vcpu, flags, 2, true) & ~(u64)(X86_IF | X86_VIF);
	merged |= (old & X86_IF) | (flags & X86_IF ? X86_VIF : 0);
	rip = return_real(vcpu, st, 2, 2);
	commit_flags(vcpu, merged);
	cpu_update_mode(vcpu);
	return rip;
}

static u64 iret_v86(struct kvm_vcpu *vcpu, struct stack *st, unsigned int size)
{
	if ((vcpu->ctl.rflags & X86_IOPL) == X86_IOPL)
		return iret_real(vcpu, st, size);
	if (!(vcpu->ctl.cr4 & X86_CR4_VME) || size != 2)
		raise_gp(vcpu, 0);
	return iret_vme(vcpu, st);
}

static u64 iret_to_v86(struct kvm_vcpu *vcpu, struct stack *st, u64 rip, u16 cs, u64 flags)
{
	static const u8 order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	u64 esp = stack_at(vcpu, st, 12, 4);
	struct segment code;
	u16 selector[5];

	for (unsigned int i = 0; i < ARRAY_SIZE(order); i++)
		selector[i] = (u16)stack_at(vcpu, st, 16 + 4 * i, 4);
	if (rip > 0xffff)
		raise_gp(vcpu, 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(order); i++)
		segment_v86(&vcpu->ctl.seg[order[i]], selector[i]);
	vcpu->ctl.gpr[RSP] = esp;
	commit_flags(vcpu, flags_merge(vcpu, flags, 4, true) | X86_VM);
	segment_v86(&code, cs);
	code_commit(vcpu, &code, 3);
	return rip;
}

static u64 iret_protected(struct kvm_vcpu *vcpu, struct stack *st, unsigned int size)
{
	u64 rip = stack_at(vcpu, st, 0, size), flags = stack_at(vcpu, st, 2 * size, size), sp = 0;
	u16 selector = (u16)stack_at(vcpu, st, size, size);
	bool wide = is_64bit(vcpu), outer;
	struct segment cs, ss;
	u8 rpl = selector & 3;

	if ((flags & X86_VM) && size == 4 && vcpu->ctl.cpl == 0 && !is_long_mode(vcpu))
		return iret_to_v86(vcpu, st, rip, selector, flags);
	return_code(vcpu, selector, &cs);
	outer = rpl != vcpu->ctl.cpl;
	if (outer || wide) {
		sp = stack_at(vcpu, st, 3 * size, size);
		return_stack(vcpu, (u16)stack_at(vcpu, st, 4 * size, size), &cs, rpl, &ss);
	}
	code_check_offset(vcpu, &cs, rip);
	commit_flags(vcpu, flags_merge(vcpu, flags, size, true));
	if (outer || wide) {
		commit_stack(vcpu, &ss, &cs, sp);
	} else {
		st->sp = (st->sp + 3 * size) & st->mask;
		stack_commit(vcpu, st);
	}
	code_commit(vcpu, &cs, rpl);
	if (outer) {
		seg_drop_inner(vcpu);
		cpu_update_mode(vcpu);
	}
	return rip;
}

/* NT: back to the task that the link field of this one's TSS names. */
static u64 iret_task(struct kvm_vcpu *vcpu, u64 next)
{
	struct desc d;
	u16 link;

	if (is_long_mode(vcpu))
		raise_gp(vcpu, 0);
	link = (u16)mem_read_sys(vcpu, (u32)vcpu->ctl.seg[SEG_TR].base, 2);
	if ((link & 4) || selector_null(link) || !desc_read(vcpu, link, &d) || desc_s(&d) ||
	    (desc_type(&d) != DESC_TSS16_BUSY && desc_type(&d) != DESC_TSS32_BUSY))
		raise_exception_error(vcpu, TS_VECTOR, link & ~3u);
	vcpu->ctl.nmi_masked = false;
	vcpu->events = true;
	return task_switch(vcpu, link, &d, TASK_IRET, next, false, 0);
}

u64 far_iret(struct kvm_vcpu *vcpu, unsigned int size, u64 next)
{
	struct stack st;

	stack_current(vcpu, &st);
	if (is_v86(vcpu))
		return iret_v86(vcpu, &st, size);
	if (!is_protected(vcpu))
		return iret_real(vcpu, &st, size);
	if (vcpu->ctl.rflags & X86_NT)
		return iret_task(vcpu, next);
	return iret_protected(vcpu, &st, size);
}
