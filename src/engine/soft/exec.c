/*
 * The run loop, and interpreter_ops.
 *
 * 1. Between rounds of the loop ctl.rip is true, vcpu->uop is uop_between, and the arithmetic flags
 *    are in aflags; outside run() they are in ctl.rflags.
 * 2. Whatever an operation cannot finish comes back here by exec_unwind() with nothing changed.
 * 3. Interrupts, traps and requests are looked at in one_round() alone, before a block;
 * vcpu->events and exit_request are what make the chain come back to it.
 */
#include "engine/soft/exec.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/soft/cpu.h"
#include "engine/soft/excp.h"
#include "engine/soft/flags.h"
#include "engine/soft/io.h"
#include "engine/soft/native.h"
#include "engine/soft/translate.h"

#define DR6_INIT 0xffff0ff0u

const struct uop uop_between = {.mode64 = 1};

/* one_round() is called again. */
#define AGAIN 1

/* ---- leaving an operation ---- */

void exec_unwind(struct kvm_vcpu *vcpu, enum unwind why)
{
	struct cpu *cpu = vcpu->cpu;
	const struct uop *u = vcpu->uop;

	if (u != &uop_between) {
		vcpu->ctl.rip = uop_rip(vcpu, u);
		vcpu->ctl.instructions += u->nr;
		vcpu->uop = &uop_between;
	}
	cpu->unwind = why;
	unwind_to(cpu->raise_buf);
}

void raise_exception(struct kvm_vcpu *vcpu, u8 vector)
{
	excp_queue(vcpu, vector, false, 0, 0);
	exec_unwind(vcpu, UNWIND_EXCEPTION);
}

void raise_exception_error(struct kvm_vcpu *vcpu, u8 vector, u32 error_code)
{
	excp_queue(vcpu, vector, true, error_code, 0);
	exec_unwind(vcpu, UNWIND_EXCEPTION);
}

void raise_page_fault(struct kvm_vcpu *vcpu, u64 linear, u32 error_code)
{
	excp_queue(vcpu, PF_VECTOR, true, error_code, linear);
	exec_unwind(vcpu, UNWIND_EXCEPTION);
}

void exit_to_user(struct kvm_vcpu *vcpu)
{
	exec_unwind(vcpu, UNWIND_EXIT);
}

void io_step(struct kvm_vcpu *vcpu)
{
	exec_unwind(vcpu, UNWIND_STEP);
}

const struct uop *exec_no_code(struct kvm_vcpu *vcpu)
{
	exit_internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION);
}

/* ---- mode ---- */

static bool flat_segment(const struct segment *s)
{
	return !s->unusable && s->base == 0 && s->limit == ~0u;
}

/* DS, ES and SS writable and expanding up, CS readable. */
static bool flat_segments(const struct segment *s)
{
	static const u8 data[] = {SEG_DS, SEG_ES, SEG_SS};

	for (unsigned int i = 0; i < ARRAY_SIZE(data); i++)
		if (!flat_segment(&s[data[i]]) || (s[data[i]].type & 14) != 2)
			return false;
	return flat_segment(&s[SEG_CS]) && (s[SEG_CS].type & 2);
}

void cpu_update_mode(struct kvm_vcpu *vcpu)
{
	const struct segment *s = vcpu->ctl.seg;
	u8 mode;

	if (is_64bit(vcpu)) {
		mode = MODE_64;
	} else {
		mode = s[SEG_CS].db ? MODE_32 : MODE_16;
		if (s[SEG_SS].db)
			mode |= MODE_STACK32;
		if (s[SEG_CS].db && flat_segments(s))
			mode |= MODE_FLAT;
	}
	vcpu->mode = mode;
	mmu_update_class(vcpu);
	blocks_update_tags(vcpu);
}

/* ---- events ---- */

static int handle_requests(struct kvm_vcpu *vcpu)
{
	int rc;

	vcpu->ctl.rflags = flags_get(vcpu);
	rc = kvm_handle_requests(vcpu);
	vcpu->aflags = rflags_to_aflags(vcpu->ctl.rflags);
	vcpu->events = true;
	if (__atomic_fetch_and(&vcpu->requests, ~(1ULL << KVM_REQ_CODE_FLUSH), __ATOMIC_ACQ_REL) &
	    1ULL << KVM_REQ_CODE_FLUSH)
		blocks_flush_requested(vcpu);
	return rc == 0 ? AGAIN : rc == 1 ? 0 : rc;
}

static bool in_shadow(const struct kvm_vcpu *vcpu)
{
	return vcpu->ctl.interrupt_shadow_sti || vcpu->ctl.interrupt_shadow_movss;
}

static bool take_nmi(struct kvm_vcpu *vcpu)
{
	if (!__atomic_load_n(&vcpu->ctl.nmi_pending, __ATOMIC_ACQUIRE) || vcpu->ctl.nmi_masked ||
	    in_shadow(vcpu))
		return false;
	__atomic_fetch_sub(&vcpu->ctl.nmi_pending, 1, __ATOMIC_ACQ_REL);
	return true;
}

static int halt(struct kvm_vcpu *vcpu)
{
	vcpu_cpu(vcpu)->halted = false;
	vcpu->stat->halt_exits++;
	if (vcpu->apic) {
		__atomic_store_n(&vcpu->mp_state, KVM_MP_STATE_HALTED, __ATOMIC_RELEASE);
		return -EAGAIN;
	}
	vcpu->run->exit_reason = KVM_EXIT_HLT;
	return 0;
}

/* Deliver the first of what is due. An event delivered leaves vcpu->events set: more may be due. */
static int deliver_events(struct kvm_vcpu *vcpu)
{
	struct vcpu_control *ctl = &vcpu->ctl;
	int vector;

	vcpu->events = true;
	if (ctl->exception.pending) {
		excp_deliver(vcpu);
		return AGAIN;
	}
	if (vcpu_cpu(vcpu)->halted)
		return halt(vcpu);
	if (take_nmi(vcpu)) {
		excp_nmi(vcpu);
		return AGAIN;
	}
	vcpu->events = false;
	if (!(ctl->rflags & X86_IF) || in_shadow(vcpu))
		return AGAIN;
	if (ctl->interrupt.pending) {
		ctl->interrupt.pending = false;
		excp_interrupt(vcpu, ctl->interrupt.nr);
		return AGAIN;
	}
	if (kvm_cpu_has_interrupt(vcpu)) {
		vector = kvm_cpu_get_interrupt(vcpu);
		vcpu->events = true;
		if (vector >= 0)
			excp_interrupt(vcpu, (u8)vector);
		return AGAIN;
	}
	if (ctl->request_interrupt_window) {
		vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
		return 0;
	}
	return AGAIN;
}

/* ---- execution ---- */

static bool user_steps(const struct kvm_vcpu *vcpu)
{
	return vcpu->guest_debug & KVM_GUESTDBG_ENABLE &&
	       vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP;
}

static void run_chain(struct kvm_vcpu *vcpu)
{
	const struct uop *u;

	do {
		u = blocks_enter(vcpu);
		while (u)
			u = u->fn(vcpu, u);
	} while (!vcpu->events && !__atomic_load_n(&vcpu->exit_request, __ATOMIC_RELAXED));
}

static void run_one(struct kvm_vcpu *vcpu)
{
	const struct uop *u = blocks_enter_one(vcpu);

	while (u)
		u = u->fn(vcpu, u);
}

/* Must the next instruction be executed alone? */
static bool alone(const struct kvm_vcpu *vcpu)
{
	const struct mmu *m = vcpu->cpu;

	return in_shadow(vcpu) || vcpu->ctl.rflags & (X86_TF | X86_RF) || m->watch_count ||
	       m->code_watch || user_steps(vcpu);
}

static int step(struct kvm_vcpu *vcpu, bool io)
{
	struct mmu *m = vcpu->cpu;
	bool tf = vcpu->ctl.rflags & X86_TF, rf = vcpu->ctl.rflags & X86_RF;
	bool movss = vcpu->ctl.interrupt_shadow_movss;

	vcpu->events = true;
	if (m->code_watch && !rf && !movss && !io && excp_code_breakpoint(vcpu))
		return AGAIN;
	vcpu->ctl.interrupt_shadow_sti = vcpu->ctl.interrupt_shadow_movss = false;
	vcpu->ctl.rflags &= ~(u64)X86_RF;
	m->step_lost = false;
	if (io)
		io_begin(vcpu);
	run_one(vcpu);
	if (io)
		io_end(vcpu);
	vcpu->events = true;
	excp_trap(vcpu, tf || user_steps(vcpu));
	return AGAIN;
}

static int one_round(struct kvm_vcpu *vcpu)
{
	enum unwind unwound = vcpu_cpu(vcpu)->unwind;
	int rc;

	vcpu_cpu(vcpu)->unwind = UNWIND_NONE;
	if (unwound == UNWIND_EXIT)
		return 0;
	if (unwound == UNWIND_STEP)
		return step(vcpu, true);
	if (__atomic_load_n(&vcpu->exit_request, __ATOMIC_ACQUIRE))
		return handle_requests(vcpu);
	if (vcpu->events) {
		rc = deliver_events(vcpu);
		if (rc != AGAIN || vcpu->events)
			return rc;
	}
	if (unlikely(alone(vcpu)))
		return step(vcpu, false);
	run_chain(vcpu);
	return AGAIN;
}

/* Operations unwind to here; nothing but `self` lives across. */
static int loop(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu *volatile self = vcpu;
	int rc;

	if (unwind_here(((struct cpu *)vcpu->cpu)->raise_buf))
		self->events = true;
	do
		rc = one_round(self);
	while (rc == AGAIN);
	return rc;
}

/* The instruction that an exit interrupted goes on before requests are looked at; but what slots
 * and memory became meanwhile, it must see. */
static void flush_before_entry(struct kvm_vcpu *vcpu)
{
	const u64 tlb = 1ULL << KVM_REQ_TLB_FLUSH, code = 1ULL << KVM_REQ_CODE_FLUSH;
	u64 taken;

	if (likely(!__atomic_load_n(&vcpu->requests, __ATOMIC_ACQUIRE)))
		return;
	taken = __atomic_fetch_and(&vcpu->requests, ~(tlb | code), __ATOMIC_ACQ_REL);
	if (taken & tlb)
		interpreter_ops.state_changed(vcpu);
	if (taken & code)
		blocks_flush_requested(vcpu);
}

static int run(struct kvm_vcpu *vcpu)
{
	int rc;

	vcpu->aflags = rflags_to_aflags(vcpu->ctl.rflags);
	vcpu->uop = &uop_between;
	vcpu->events = true;
	flush_before_entry(vcpu);
	vcpu_cpu(vcpu)->unwind = io_complete(vcpu) ? UNWIND_STEP : UNWIND_NONE;
	native_enter(vcpu);
	rc = loop(vcpu);
	native_leave(vcpu);
	vcpu->ctl.rflags = flags_get(vcpu);
	return rc;
}

void exec_pass_boundary(struct kvm_vcpu *vcpu)
{
	const u64 bit = 1ULL << KVM_REQ_CODE_FLUSH;
	struct kvm *kvm = vcpu->kvm;
	u32 n = __atomic_load_n(&kvm->nr_vcpus, __ATOMIC_ACQUIRE), i;

	for (i = 0; i < n; i++)
		if (kvm->vcpus[i] && kvm->vcpus[i] != vcpu)
			kvm_make_request(kvm->vcpus[i], KVM_REQ_CODE_FLUSH);
	for (i = 0; i < n; i++) {
		struct kvm_vcpu *other = kvm->vcpus[i];

		while (other && other != vcpu &&
		       __atomic_load_n(&other->in_guest, __ATOMIC_ACQUIRE) &&
		       __atomic_load_n(&other->requests, __ATOMIC_ACQUIRE) & bit) {
			if (__atomic_fetch_and(&vcpu->requests, ~bit, __ATOMIC_ACQ_REL) & bit)
				blocks_flush_requested(vcpu);
			sched_yield();
		}
	}
}

/* ---- instructions of the loop's own ---- */

OP_END(hlt)
{
	if (vcpu->ctl.cpl)
		raise_gp(vcpu, 0);
	vcpu_cpu(vcpu)->halted = true;
	vcpu->events = true;
}

/* ---- reset: SDM vol. 3, table 10-1 ---- */

static void reset_segments(struct vcpu_control *ctl)
{
	for (int i = 0; i < SEG_COUNT; i++)
		ctl->seg[i] = (struct segment){.limit = 0xffff, .type = 3, .s = 1, .present = 1};
	ctl->seg[SEG_CS].selector = 0xf000;
	ctl->seg[SEG_CS].base = 0xffff0000;
	ctl->seg[SEG_CS].type = 11;
	ctl->seg[SEG_LDTR].type = 2;
	ctl->seg[SEG_LDTR].s = 0;
	ctl->seg[SEG_TR].type = 11;
	ctl->seg[SEG_TR].s = 0;
	ctl->gdtr = ctl->idtr = (struct desc_ptr){.limit = 0xffff};
}

static void vcpu_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	struct vcpu_control *ctl = &vcpu->ctl;
	u64 entries = ctl->entries, instructions = ctl->instructions, cr0 = ctl->cr0;
	u64 xcr0 = ctl->xcr0;
	u32 eax = 1, ebx = 0, ecx = 0, edx = 0;

	*ctl = (struct vcpu_control){.rip = 0xfff0, .rflags = 2, .pdpte_cr3 = ~0ULL};
	ctl->entries = entries;
	ctl->instructions = instructions;
	kvm_cpuid(vcpu, &eax, &ebx, &ecx, &edx);
	ctl->gpr[RDX] = eax ? eax : 0x600;
	reset_segments(ctl);
	ctl->cr0 = init_event ? (cr0 & 0x60000000) | 0x10 : 0x60000010;
	ctl->xcr0 = init_event ? xcr0 : 1;
	ctl->dr6 = DR6_INIT;
	ctl->dr7 = 0x400;
	native_reset(vcpu, init_event);
	vcpu_cpu(vcpu)->halted = false;
	vcpu->uop = &uop_between;
	interpreter_ops.state_changed(vcpu);
}

/* ---- the table ---- */

static void state_changed(struct kvm_vcpu *vcpu)
{
	vcpu->aflags = rflags_to_aflags(vcpu->ctl.rflags);
	vcpu->events = true;
	mmu_state_changed(vcpu);
	mmu_update_watchpoints(vcpu);
	blocks_mapping_changed(vcpu);
	cpu_update_mode(vcpu);
}

/* run() leaves the state true. */
static void state_sync(struct kvm_vcpu *vcpu)
{
}

static void vcpu_free(struct kvm_vcpu *vcpu)
{
	if (!vcpu->cpu)
		return;
	native_free(vcpu);
	translate_free(vcpu);
	blocks_free(vcpu);
	munmap(vcpu->cpu, sizeof(struct cpu));
	vcpu->cpu = NULL;
}

static int vcpu_init(struct kvm_vcpu *vcpu)
{
	/* Its tables are large, and a guest touches a part of them: zero pages, not zeroed ones. */
	struct cpu *cpu = map_lazily(sizeof(*cpu));
	int rc;

	if (!cpu)
		return -ENOMEM;
	vcpu->cpu = cpu;
	mmu_init(vcpu);
	rc = blocks_init(vcpu);
	if (!rc)
		rc = native_init(vcpu);
	if (!rc)
		rc = translate_init(vcpu, vcpu->kvm->exec->threshold);
	if (rc)
		vcpu_free(vcpu);
	else
		vcpu_reset(vcpu, false);
	return rc;
}

/* What the two have in common: all but when a block is translated. */
#define EXEC_OPS                                                                                   \
	.vm_init = blocks_vm_init, .vm_free = blocks_vm_free, .vcpu_init = vcpu_init,              \
	.vcpu_free = vcpu_free, .vcpu_reset = vcpu_reset, .run = run,                              \
	.state_changed = state_changed, .state_sync = state_sync, .flush_slot = blocks_flush_slot, \
	.memory_written = blocks_memory_written, .translate = mmu_translate_debug

const struct kvm_exec_ops interpreter_ops = {.name = "interpreter", EXEC_OPS};
const struct kvm_exec_ops translator_ops = {
	.name = "translator",
	.threshold = TRANSLATE_THRESHOLD,
	EXEC_OPS,
};
const struct kvm_exec_ops eager_ops = {.name = "eager", .threshold = 1, EXEC_OPS};
