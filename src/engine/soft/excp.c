/*
 * Delivery of exceptions and interrupts (SDM vol. 3, 6.12 and 6.14; real mode: 21.1.4; virtual-8086
 * mode: 21.3). Everything is read and checked first, then the frame is pushed (all or nothing),
 * then registers change.
 */
#include "engine/soft/excp.h"

#include "engine/soft/flags.h"
#include "engine/soft/mmu_int.h"
#include "engine/soft/seg.h"

struct event {
	u8 vector;
	bool soft;  /* INT n, INT3, INTO: gate DPL counts, EXT is 0 */
	bool fault; /* pushed RF is 1 */
	bool has_error;
	u32 error;
	u64 rip; /* to push */
};

static u32 event_ext(const struct event *e)
{
	return e->soft ? 0 : 1;
}

/* ---- queueing ---- */

static bool contributory(u8 vector)
{
	return vector == DE_VECTOR || (vector >= TS_VECTOR && vector <= GP_VECTOR);
}

/* The second exception, when it came of delivering the first: its own, #DF, or none (shutdown). */
static int merge(u8 first, u8 second)
{
	bool severe = contributory(second) || second == PF_VECTOR;

	if (first == DF_VECTOR && severe)
		return -1;
	if ((contributory(first) && contributory(second)) || (first == PF_VECTOR && severe))
		return DF_VECTOR;
	return second;
}

void excp_queue(struct kvm_vcpu *vcpu, u8 vector, bool has_error, u32 error, u64 payload)
{
	struct vcpu_control *c = &vcpu->ctl;
	struct mmu *m = vcpu_mmu(vcpu);
	int v = vector;

	if (vector == PF_VECTOR)
		c->cr2 = payload;
	if (m->delivering && m->delivering_exception)
		v = merge(m->delivering_vector, vector);
	m->delivering = false;
	m->watch_hits = 0;
	io_end(vcpu);
	if (v < 0) {
		c->exception.pending = false;
		vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
		exit_to_user(vcpu);
	}
	if (v != vector) {
		has_error = true;
		error = 0;
	}
	c->exception.pending = true;
	c->exception.nr = (u8)v;
	c->exception.has_error_code = has_error;
	c->exception.error_code = error;
	c->exception.payload = payload;
}

/* ---- real mode, and what virtual-8086 mode sends to the 8086 handlers ---- */

static void fetch_vector(struct kvm_vcpu *vcpu, u64 table, u8 vector, u16 *selector, u16 *ip)
{
	u32 entry = (u32)mem_read_sys(vcpu, (u32)(table + 4u * vector), 4);

	*selector = (u16)(entry >> 16);
	*ip = (u16)entry;
}

static u64 enter_8086(struct kvm_vcpu *vcpu, u16 selector, u16 ip, u64 pushed_flags, u64 new_flags,
		      u64 rip)
{
	u64 value[3] = {pushed_flags & 0xffff, vcpu->ctl.seg[SEG_CS].selector, rip & 0xffff};
	struct segment cs = vcpu->ctl.seg[SEG_CS];
	struct stack st;

	stack_current(vcpu, &st);
	stack_push_frame(vcpu, &st, value, 3, 2);
	stack_commit(vcpu, &st);
	flags_set(vcpu, new_flags);
	cs.selector = selector;
	cs.base = (u64)selector << 4;
	code_commit(vcpu, &cs, vcpu->ctl.cpl);
	return ip;
}

static u64 deliver_real(struct kvm_vcpu *vcpu, const struct event *e)
{
	const struct desc_ptr *idtr = &vcpu->ctl.idtr;
	u64 flags = flags_get(vcpu);
	u16 selector, ip;

	if (4u * e->vector + 3 > idtr->limit)
		raise_gp(vcpu, e->vector * 8u + 2);
	fetch_vector(vcpu, idtr->base, e->vector, &selector, &ip);
	return enter_8086(vcpu, selector, ip, flags,
			  flags & ~(u64)(X86_IF | X86_TF | X86_AC | X86_RF), e->rip);
}

/* The redirection bitmap, 32 bytes below the I/O bitmap: false when this INT n goes to the 8086
 * handler. */
static bool vme_to_monitor(struct kvm_vcpu *vcpu, u8 vector)
{
	const struct segment *tr = &vcpu->ctl.seg[SEG_TR];
	u32 at;

	if (!(tr->type & 8) || tr->limit < 103)
		return true;
	at = (u32)mem_read_sys(vcpu, (u32)(tr->base + 102), 2);
	if (at < 32 || at - 32 + vector / 8u > tr->limit)
		return true;
	return (mem_read_sys(vcpu, (u32)(tr->base + at - 32 + vector / 8u), 1) >> (vector % 8)) & 1;
}

static u64 deliver_vme(struct kvm_vcpu *vcpu, const struct event *e)
{
	u64 flags = flags_get(vcpu), pushed = flags, after = flags & ~(u64)(X86_TF | X86_NT);
	u16 selector, ip;

	if ((flags & X86_IOPL) == X86_IOPL) {
		after &= ~(u64)X86_IF;
	} else {
		pushed = (flags & ~(u64)X86_IF) | X86_IOPL | (flags & X86_VIF ? X86_IF : 0);
		after &= ~(u64)X86_VIF;
	}
	fetch_vector(vcpu, 0, e->vector, &selector, &ip);
	return enter_8086(vcpu, selector, ip, pushed, after, e->rip);
}

/* ---- protected and long mode ---- */

struct int_gate {
	u16 selector;
	u64 offset;
	u8 ist;
	bool trap; /* IF stays */
	unsigned int size;
	struct desc code, gate;
};

static bool gate_type_valid(const struct kvm_vcpu *vcpu, u8 type)
{
	if (type == DESC_INT32 || type == DESC_TRAP32)
		return true;
	return !is_long_mode(vcpu) &&
	       (type == DESC_INT16 || type == DESC_TRAP16 || type == DESC_TASK);
}

static void read_gate(struct kvm_vcpu *vcpu, const struct event *e, struct int_gate *g)
{
	const struct desc_ptr *idtr = &vcpu->ctl.idtr;
	bool wide = is_long_mode(vcpu);
	u32 size = wide ? 16 : 8, at = e->vector * size, error = e->vector * 8u + 2 + event_ext(e);
	u64 addr = idtr->base + at;
	struct desc *d = &g->gate;

	if (at + size - 1 > idtr->limit)
		raise_gp(vcpu, error);
	d->addr = wide ? addr : (u32)addr;
	d->raw = mem_read_sys(vcpu, d->addr, 8);
	d->high = wide ? mem_read_sys(vcpu, d->addr + 8, 8) : 0;
	if (desc_s(d) || !gate_type_valid(vcpu, desc_type(d)))
		raise_gp(vcpu, error);
	if (e->soft && desc_dpl(d) < vcpu->ctl.cpl)
		raise_gp(vcpu, error);
	if (!desc_present(d))
		raise_exception_error(vcpu, NP_VECTOR, error);
	g->selector = (d->raw >> 16) & 0xffff;
	g->offset = (d->raw & 0xffff) | ((d->raw >> 32) & 0xffff0000) | d->high << 32;
	g->ist = wide ? (d->raw >> 32) & 7 : 0;
	g->trap = desc_type(d) & 1;
	g->size = wide ? 8 : desc_type(d) & 8 ? 4 : 2;
	if (g->size == 2)
		g->offset &= 0xffff;
}

static void read_gate_code(struct kvm_vcpu *vcpu, const struct event *e, struct int_gate *g)
{
	u32 ext = event_ext(e), error = (g->selector & ~3u) | ext;
	struct desc *d = &g->code;

	if (selector_null(g->selector))
		raise_gp(vcpu, ext);
	if (!desc_read(vcpu, g->selector, d) || !desc_code(d) || desc_dpl(d) > vcpu->ctl.cpl)
		raise_gp(vcpu, error);
	if (!desc_present(d))
		raise_exception_error(vcpu, NP_VECTOR, error);
	if (is_long_mode(vcpu) && (!desc_long(d) || desc_db(d)))
		raise_gp(vcpu, error);
	/* Virtual-8086 mode can only be left for CPL 0. */
	if (is_v86(vcpu) && (desc_conforming(d) || desc_dpl(d) != 0))
		raise_gp(vcpu, error);
}

static void gate_stack(struct kvm_vcpu *vcpu, const struct event *e, const struct int_gate *g,
		       u8 cpl, struct stack *st)
{
	*st = (struct stack){0};
	if (cpl != vcpu->ctl.cpl || g->ist)
		stack_inner(vcpu, st, cpl, g->ist, event_ext(e));
	else
		stack_current(vcpu, st);
	if (!is_long_mode(vcpu))
		return;
	st->long_mode = true;
	st->mask = ~0ULL;
	st->sp = (g->ist || cpl != vcpu->ctl.cpl ? st->sp : vcpu->ctl.gpr[RSP]) & ~15ULL;
	st->error = event_ext(e);
}

static int frame_values(struct kvm_vcpu *vcpu, const struct event *e, bool inner, u64 *value)
{
	const struct vcpu_control *c = &vcpu->ctl;
	int n = 0;

	if (is_v86(vcpu)) {
		value[n++] = c->seg[SEG_GS].selector;
		value[n++] = c->seg[SEG_FS].selector;
		value[n++] = c->seg[SEG_DS].selector;
		value[n++] = c->seg[SEG_ES].selector;
	}
	if (inner || is_long_mode(vcpu)) {
		value[n++] = c->seg[SEG_SS].selector;
		value[n++] = c->gpr[RSP];
	}
	value[n++] = flags_get(vcpu) | (e->fault ? X86_RF : 0);
	value[n++] = c->seg[SEG_CS].selector;
	value[n++] = e->rip;
	if (e->has_error)
		value[n++] = e->error;
	return n;
}

static u64 deliver_gate(struct kvm_vcpu *vcpu, const struct event *e, struct int_gate *g)
{
	struct vcpu_control *c = &vcpu->ctl;
	bool v86 = is_v86(vcpu), inner;
	struct segment cs;
	struct stack st;
	u64 value[10], flags;
	u8 cpl;
	int n;

	read_gate_code(vcpu, e, g);
	inner = !desc_conforming(&g->code) && desc_dpl(&g->code) < c->cpl;
	cpl = inner ? desc_dpl(&g->code) : c->cpl;
	gate_stack(vcpu, e, g, cpl, &st);
	n = frame_values(vcpu, e, inner, value);
	desc_set_accessed(vcpu, &g->code);
	desc_to_segment(&g->code, g->selector, &cs);
	code_check_offset(vcpu, &cs, g->offset);
	stack_push_frame(vcpu, &st, value, n, g->size);

	flags = flags_get(vcpu) & ~(u64)(X86_TF | X86_NT | X86_RF | X86_VM);
	if (!g->trap)
		flags &= ~(u64)X86_IF;
	flags_set(vcpu, flags);
	if (inner)
		c->seg[SEG_SS] = st.ss;
	stack_commit(vcpu, &st);
	if (v86) {
		segment_null(&c->seg[SEG_ES], 0);
		segment_null(&c->seg[SEG_DS], 0);
		segment_null(&c->seg[SEG_FS], 0);
		segment_null(&c->seg[SEG_GS], 0);
	}
	code_commit(vcpu, &cs, cpl);
	return g->offset;
}

static u64 deliver_protected(struct kvm_vcpu *vcpu, const struct event *e)
{
	struct int_gate g;

	read_gate(vcpu, e, &g);
	if (desc_type(&g.gate) == DESC_TASK)
		return task_gate(vcpu, &g.gate, TASK_GATE, e->rip, e->has_error, e->error,
				 event_ext(e));
	return deliver_gate(vcpu, e, &g);
}

/* INT n in virtual-8086 mode: false when it goes through the IDT like any other. */
static bool v86_int(struct kvm_vcpu *vcpu, const struct event *e, u64 *rip)
{
	bool vme = vcpu->ctl.cr4 & X86_CR4_VME;

	if (vme && !vme_to_monitor(vcpu, e->vector)) {
		*rip = deliver_vme(vcpu, e);
		return true;
	}
	if ((vcpu->ctl.rflags & X86_IOPL) != X86_IOPL)
		raise_gp(vcpu, 0);
	return false;
}

/* ---- entry points ---- */

static void begin(struct kvm_vcpu *vcpu, u8 vector, bool exception)
{
	struct mmu *m = vcpu_mmu(vcpu);

	m->delivering = true;
	m->delivering_exception = exception;
	m->delivering_vector = vector;
}

static u64 deliver(struct kvm_vcpu *vcpu, const struct event *e)
{
	struct vcpu_control *c = &vcpu->ctl;
	u64 rip = is_protected(vcpu) ? deliver_protected(vcpu, e) : deliver_real(vcpu, e);

	vcpu_mmu(vcpu)->delivering = false;
	c->interrupt_shadow_sti = c->interrupt_shadow_movss = false;
	return rip;
}

static bool is_fault(const struct vcpu_control *c)
{
	switch (c->exception.nr) {
	case DB_VECTOR:
		return c->exception.payload & DR6_BD;
	case BP_VECTOR:
	case OF_VECTOR:
	case DF_VECTOR:
	case MC_VECTOR:
		return false;
	default:
		return true;
	}
}

void excp_deliver(struct kvm_vcpu *vcpu)
{
	struct vcpu_control *c = &vcpu->ctl;
	struct event e = {
		.vector = c->exception.nr,
		.has_error = c->exception.has_error_code,
		.error = c->exception.error_code,
		.fault = is_fault(c),
		.rip = c->rip,
		/* KVM_SET_VCPU_EVENTS may inject the traps of INT3 and INTO. */
		.soft = c->exception.nr == BP_VECTOR || c->exception.nr == OF_VECTOR,
	};

	c->exception.pending = false;
	if (vcpu->stat) {
		vcpu->stat->exceptions++;
		vcpu->stat->pf_guest += e.vector == PF_VECTOR;
	}
	if (e.vector == DB_VECTOR) {
		c->dr6 = (c->dr6 & ~0xfULL) | DR6_FIXED | c->exception.payload;
		c->dr7 &= ~(1ULL << 13); /* GD */
	}
	begin(vcpu, e.vector, true);
	c->rip = deliver(vcpu, &e);
}

void excp_interrupt(struct kvm_vcpu *vcpu, u8 vector)
{
	struct event e = {.vector = vector, .rip = vcpu->ctl.rip};

	begin(vcpu, vector, false);
	vcpu->ctl.rip = deliver(vcpu, &e);
}

void excp_nmi(struct kvm_vcpu *vcpu)
{
	struct event e = {.vector = NMI_VECTOR, .rip = vcpu->ctl.rip};

	begin(vcpu, NMI_VECTOR, false);
	vcpu->ctl.rip = deliver(vcpu, &e);
	vcpu->ctl.nmi_masked = true;
}

u64 excp_software(struct kvm_vcpu *vcpu, enum soft_event kind, u8 vector, u64 next)
{
	struct event e = {
		.vector = vector,
		.soft = kind != SOFT_PRIVILEGED,
		.rip = next,
	};
	u64 rip;

	vcpu_mmu(vcpu)->step_lost = true;
	begin(vcpu, vector, false);
	if (kind == SOFT_INT && is_v86(vcpu) && v86_int(vcpu, &e, &rip)) {
		vcpu_mmu(vcpu)->delivering = false;
		return rip;
	}
	return deliver(vcpu, &e);
}

/* ---- debug ---- */

void exit_debug(struct kvm_vcpu *vcpu, u8 exception, u64 dr6)
{
	struct kvm_debug_exit_arch *d = &vcpu->run->debug.arch;

	vcpu->run->exit_reason = KVM_EXIT_DEBUG;
	d->exception = exception;
	d->pad = 0;
	d->pc = vcpu->ctl.seg[SEG_CS].base + vcpu->ctl.rip;
	d->dr6 = dr6 | DR6_FIXED;
	d->dr7 = vcpu->guest_debug & KVM_GUESTDBG_USE_HW_BP ? vcpu->guest_debug_dr[7]
							    : vcpu->ctl.dr7;
	vcpu->ctl.exit_qualification = exception;
	exit_to_user(vcpu);
}

static bool debugger_wants(const struct kvm_vcpu *vcpu, u32 bits)
{
	if (!(vcpu->guest_debug & KVM_GUESTDBG_ENABLE))
		return false;
	return ((bits & DR6_BS) && (vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP)) ||
	       ((bits & 15) && (vcpu->guest_debug & KVM_GUESTDBG_USE_HW_BP));
}

void excp_trap(struct kvm_vcpu *vcpu, bool step)
{
	struct mmu *m = vcpu_mmu(vcpu);
	u32 bits = m->watch_hits | (step && !m->step_lost ? DR6_BS : 0);

	if (!bits || vcpu->ctl.interrupt_shadow_movss)
		return;
	m->watch_hits = 0;
	if (debugger_wants(vcpu, bits))
		exit_debug(vcpu, DB_VECTOR, bits);
	excp_queue(vcpu, DB_VECTOR, false, 0, bits);
}

bool excp_code_breakpoint(struct kvm_vcpu *vcpu)
{
	bool debugger = vcpu->guest_debug & KVM_GUESTDBG_USE_HW_BP;
	const u64 *dr = debugger ? vcpu->guest_debug_dr : vcpu->ctl.dr;
	u64 linear = vcpu->ctl.seg[SEG_CS].base + vcpu->ctl.rip;
	u8 armed = vcpu_mmu(vcpu)->code_watch;
	u32 bits = 0;

	if (!is_64bit(vcpu))
		linear = (u32)linear;
	for (int i = 0; i < 4; i++)
		if ((armed >> i & 1) && dr[i] == linear)
			bits |= 1u << i;
	if (!bits || (!debugger && (vcpu->ctl.rflags & X86_RF)))
		return false;
	if (debugger_wants(vcpu, bits))
		exit_debug(vcpu, DB_VECTOR, bits);
	excp_queue(vcpu, DB_VECTOR, false, 0, bits);
	return true;
}
