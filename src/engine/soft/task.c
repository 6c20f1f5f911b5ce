/*
 * Hardware task switches (SDM vol. 3, chapter 8). Up to the commit every fault belongs to the old
 * task; the new TSS and what of the old one will be written are touched before anything changes.
 * After the commit (registers loaded, TR changed) faults of the new task's selectors are raised in
 * its context, at its EIP.
 */
#include "engine/soft/flags.h"
#include "engine/soft/mmu_int.h"
#include "engine/soft/seg.h"

/* Offsets of the fields, for 32-bit and 16-bit TSSs. */
enum { T_CR3, T_EIP, T_FLAGS, T_GPR, T_ES, T_LDT, T_FIELDS };

struct tss_layout {
	u8 size;  /* of a general field */
	u8 limit; /* least limit */
	u8 segs;  /* segment registers */
	u8 at[T_FIELDS];
};

static const struct tss_layout tss32 = {4, 0x67, 6, {28, 32, 36, 40, 72, 96}};
static const struct tss_layout tss16 = {2, 0x2b, 4, {0, 14, 16, 18, 34, 42}};

/* Order of the segment fields. */
static const u8 seg_order[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};

static const struct tss_layout *layout(u8 type)
{
	return type & 8 ? &tss32 : &tss16;
}

static u32 tss_read(struct kvm_vcpu *vcpu, u64 base, unsigned int offset, unsigned int size)
{
	return (u32)mem_read_sys(vcpu, (u32)(base + offset), size);
}

static void tss_write(struct kvm_vcpu *vcpu, u64 base, unsigned int offset, unsigned int size,
		      u64 value)
{
	mem_write_sys(vcpu, (u32)(base + offset), size, value);
}

struct task {
	u32 cr3, eip, flags, gpr[8];
	u16 seg[6], ldt;
	bool trap;
};

static void read_task(struct kvm_vcpu *vcpu, const struct tss_layout *l, u64 base, struct task *t)
{
	unsigned int seg_step = l->size;

	memset(t, 0, sizeof(*t));
	if (l == &tss32) {
		t->cr3 = tss_read(vcpu, base, l->at[T_CR3], 4);
		t->trap = tss_read(vcpu, base, 100, 2) & 1;
	}
	t->eip = tss_read(vcpu, base, l->at[T_EIP], l->size);
	t->flags = tss_read(vcpu, base, l->at[T_FLAGS], l->size);
	for (unsigned int i = 0; i < 8; i++)
		t->gpr[i] = tss_read(vcpu, base, l->at[T_GPR] + i * l->size, l->size);
	for (unsigned int i = 0; i < l->segs; i++)
		t->seg[i] = (u16)tss_read(vcpu, base, l->at[T_ES] + i * seg_step, 2);
	t->ldt = (u16)tss_read(vcpu, base, l->at[T_LDT], 2);
	if (l == &tss16) /* the upper halves read as ones */
		for (unsigned int i = 0; i < 8; i++)
			t->gpr[i] |= 0xffff0000;
}

static void save_task(struct kvm_vcpu *vcpu, u64 next, u64 flags)
{
	const struct vcpu_control *c = &vcpu->ctl;
	const struct tss_layout *l = layout(c->seg[SEG_TR].type);
	u64 base = c->seg[SEG_TR].base;

	tss_write(vcpu, base, l->at[T_EIP], l->size, next);
	tss_write(vcpu, base, l->at[T_FLAGS], l->size, flags);
	for (unsigned int i = 0; i < 8; i++)
		tss_write(vcpu, base, l->at[T_GPR] + i * l->size, l->size, c->gpr[i]);
	for (unsigned int i = 0; i < l->segs; i++)
		tss_write(vcpu, base, l->at[T_ES] + i * l->size, 2, c->seg[seg_order[i]].selector);
}

static void set_busy(struct kvm_vcpu *vcpu, u64 addr, bool busy)
{
	u8 byte = (u8)mem_read_sys(vcpu, addr + 5, 1);

	mem_write_sys(vcpu, addr + 5, 1, busy ? byte | 2u : byte & ~2u);
}

static u64 tr_descriptor(const struct kvm_vcpu *vcpu)
{
	return (u32)(vcpu->ctl.gdtr.base + (vcpu->ctl.seg[SEG_TR].selector & ~7u));
}

/* Touch everything that will be written, so that no later step can fault. */
static void probe(struct kvm_vcpu *vcpu, u64 new_base, u64 new_desc, enum task_source source)
{
	const struct segment *tr = &vcpu->ctl.seg[SEG_TR];
	const struct tss_layout *l = layout(tr->type);

	mem_probe_write_cpl(vcpu, (u32)tr->base, l->limit + 1u, 0);
	mem_probe_write_cpl(vcpu, tr_descriptor(vcpu) + 5, 1, 0);
	if (source != TASK_IRET)
		mem_probe_write_cpl(vcpu, new_desc + 5, 1, 0);
	if (source == TASK_CALL || source == TASK_GATE)
		mem_probe_write_cpl(vcpu, (u32)new_base, 2, 0);
}

/* ---- the new task's selectors: #TS, #NP, #SS with them, in its context ---- */

_Noreturn static void bad(struct kvm_vcpu *vcpu, u8 vector, u16 selector)
{
	raise_exception_error(vcpu, vector, selector & ~3u);
}

static void load_ldt(struct kvm_vcpu *vcpu, u16 selector)
{
	struct segment *s = &vcpu->ctl.seg[SEG_LDTR];
	struct desc d;

	segment_null(s, selector);
	if (selector_null(selector))
		return;
	if ((selector & 4) || !desc_read(vcpu, selector, &d) || desc_s(&d) ||
	    desc_type(&d) != DESC_LDT || !desc_present(&d))
		bad(vcpu, TS_VECTOR, selector);
	desc_to_segment(&d, selector, s);
}

static void load_code(struct kvm_vcpu *vcpu, u16 selector, struct segment *cs)
{
	u8 rpl = selector & 3;
	struct desc d;

	if (selector_null(selector) || !desc_read(vcpu, selector, &d) || !desc_code(&d) ||
	    (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		bad(vcpu, TS_VECTOR, selector);
	if (!desc_present(&d))
		bad(vcpu, NP_VECTOR, selector);
	desc_set_accessed(vcpu, &d);
	desc_to_segment(&d, selector, cs);
}

static void load_segments(struct kvm_vcpu *vcpu, const struct task *t)
{
	struct segment s;

	if (vcpu->ctl.rflags & X86_VM) {
		for (unsigned int i = 0; i < 6; i++)
			segment_v86(&vcpu->ctl.seg[seg_order[i]], t->seg[i]);
		vcpu->ctl.cpl = 3;
		load_ldt(vcpu, t->ldt);
		cpu_update_mode(vcpu);
		return;
	}
	/* Until each is loaded, its register is not usable. */
	for (unsigned int i = 0; i < 6; i++)
		if (seg_order[i] != SEG_CS)
			segment_null(&vcpu->ctl.seg[seg_order[i]], t->seg[i]);
	load_ldt(vcpu, t->ldt);
	load_code(vcpu, t->seg[1], &s);
	code_commit(vcpu, &s, t->seg[1] & 3);
	seg_check_stack(vcpu, t->seg[2], vcpu->ctl.cpl, TS_VECTOR, 0, &vcpu->ctl.seg[SEG_SS]);
	for (unsigned int i = 0; i < 6; i++)
		if (seg_order[i] != SEG_CS && seg_order[i] != SEG_SS)
			seg_check_data(vcpu, t->seg[i], vcpu->ctl.cpl, TS_VECTOR,
				       &vcpu->ctl.seg[seg_order[i]]);
	cpu_update_mode(vcpu);
}

static void push_error(struct kvm_vcpu *vcpu, u32 error, unsigned int size)
{
	u64 value = error;
	struct stack st;

	stack_current(vcpu, &st);
	stack_push_frame(vcpu, &st, &value, 1, size);
	stack_commit(vcpu, &st);
}

static void load_registers(struct kvm_vcpu *vcpu, const struct tss_layout *l, const struct task *t)
{
	struct vcpu_control *c = &vcpu->ctl;

	if (l == &tss32 && (c->cr0 & X86_CR0_PG) && t->cr3 != c->cr3) {
		/* The PDPTEs, in PAE paging, are the new task's as they are. */
		c->cr3 = t->cr3;
		if (c->cr4 & X86_CR4_PAE)
			mmu_load_pdptes(vcpu, c->cr3);
		mmu_load_cr3(vcpu, false);
	}
	for (unsigned int i = 0; i < 8; i++)
		c->gpr[i] = t->gpr[i];
	flags_set(vcpu, (l == &tss16 ? t->flags & 0xffff : t->flags & 0x3f7fd7) | 2);
	c->rip = t->eip;
	/* From here on faults are at the new EIP. */
	vcpu->uop = &uop_between;
	c->cr0 |= X86_CR0_TS;
	c->dr7 &= ~0x155ULL; /* local breakpoints */
	mmu_update_watchpoints(vcpu);
	cpu_update_mode(vcpu);
}

u64 task_switch(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, enum task_source source,
		u64 next, bool has_error, u32 error)
{
	struct vcpu_control *c = &vcpu->ctl;
	bool nested = source == TASK_CALL || source == TASK_GATE;
	const struct tss_layout *l = layout(desc_type(d));
	u64 flags = flags_get(vcpu), old_desc = tr_descriptor(vcpu);
	struct segment tr;
	u16 back = c->seg[SEG_TR].selector;
	struct task t;

	if (!desc_present(d))
		bad(vcpu, NP_VECTOR, selector);
	if (desc_limit(d) < l->limit)
		bad(vcpu, TS_VECTOR, selector);
	desc_to_segment(d, selector, &tr);
	read_task(vcpu, l, tr.base, &t);
	probe(vcpu, tr.base, d->addr, source);
	if (source == TASK_IRET)
		flags &= ~(u64)X86_NT;
	/* Commit. */
	if (!nested)
		set_busy(vcpu, old_desc, false);
	save_task(vcpu, next, flags);
	if (nested) {
		tss_write(vcpu, tr.base, 0, 2, back);
		t.flags |= X86_NT;
	}
	if (source != TASK_IRET)
		set_busy(vcpu, d->addr, true);
	tr.type |= 2;
	c->seg[SEG_TR] = tr;
	load_registers(vcpu, l, &t);
	load_segments(vcpu, &t);
	if (has_error)
		push_error(vcpu, error, l->size);
	code_check_offset(vcpu, &c->seg[SEG_CS], t.eip);
	if (t.trap) {
		vcpu_mmu(vcpu)->watch_hits |= DR6_BT;
		vcpu->events = true;
	}
	return t.eip;
}

u64 task_gate(struct kvm_vcpu *vcpu, const struct desc *gate, enum task_source source, u64 next,
	      bool has_error, u32 error, u32 ext)
{
	u16 selector = (gate->raw >> 16) & 0xffff;
	struct desc d;

	if ((selector & 4) || selector_null(selector) || !desc_read(vcpu, selector, &d) ||
	    desc_s(&d) || (desc_type(&d) != DESC_TSS16 && desc_type(&d) != DESC_TSS32))
		raise_gp(vcpu, (selector & ~3u) | ext);
	if (!desc_present(&d))
		raise_exception_error(vcpu, NP_VECTOR, (selector & ~3u) | ext);
	return task_switch(vcpu, selector, &d, source, next, has_error, error);
}
