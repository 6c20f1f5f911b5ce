/*
 * KVM_RUN: entries, exits, waits; the requests that others make of a vCPU.
 *
 * The life of mp_state with an in-kernel LAPIC (SDM vol. 3, 8.4; api.rst KVM_GET_MP_STATE):
 *
 *   UNINITIALIZED --INIT--> INIT_RECEIVED --SIPI--> RUNNABLE <--event-- HALTED
 *        (accept_events)      (accept_events)         \--HLT (exec->run)--/
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"

#define EFLAGS_IF (1u << 9)

/* ---- what may be delivered ---- */

bool kvm_interrupt_allowed(const struct kvm_vcpu *vcpu)
{
	return (vcpu->ctl.rflags & EFLAGS_IF) && !vcpu->ctl.interrupt_shadow_sti &&
	       !vcpu->ctl.interrupt_shadow_movss;
}

bool kvm_vcpu_ready_for_injection(struct kvm_vcpu *vcpu)
{
	if (!kvm_interrupt_allowed(vcpu) || vcpu->ctl.interrupt.pending ||
	    vcpu->ctl.exception.pending)
		return false;
	if (!lapic_in_kernel(vcpu))
		return true;
	return vcpu->arch->pending_external_vector < 0 && kvm_apic_accept_pic_intr(vcpu);
}

static bool wants_window(struct kvm_vcpu *vcpu)
{
	return vcpu->run->request_interrupt_window && !pic_in_kernel(vcpu->kvm);
}

bool kvm_vcpu_has_events(struct kvm_vcpu *vcpu)
{
	struct vcpu_control *ctl = &vcpu->ctl;

	if (__atomic_load_n(&vcpu->arch->pending_events, __ATOMIC_ACQUIRE) ||
	    __atomic_load_n(&vcpu->arch->pv_unhalted, __ATOMIC_ACQUIRE))
		return true;
	if (__atomic_load_n(&ctl->nmi_pending, __ATOMIC_ACQUIRE) && !ctl->nmi_masked)
		return true;
	if (ctl->exception.pending || ctl->interrupt.pending)
		return true;
	return kvm_interrupt_allowed(vcpu) && kvm_cpu_has_interrupt(vcpu);
}

/* ---- INIT and SIPI ---- */

static u32 take_pending(struct kvm_vcpu *vcpu, u32 bit)
{
	return __atomic_fetch_and(&vcpu->arch->pending_events, ~bit, __ATOMIC_ACQ_REL) & bit;
}

static void set_mp_state(struct kvm_vcpu *vcpu, u32 state)
{
	__atomic_store_n(&vcpu->mp_state, state, __ATOMIC_RELEASE);
}

static void start_at_sipi_vector(struct kvm_vcpu *vcpu)
{
	struct segment *cs = &vcpu->ctl.seg[SEG_CS];
	/* Once: the next SIPI may be on its way. */
	u8 vector = __atomic_load_n(&vcpu->sipi_vector, __ATOMIC_RELAXED);

	cs->selector = (u16)(vector << 8);
	cs->base = (u64)vector << 12;
	vcpu->ctl.rip = 0;
	vcpu->kvm->exec->state_changed(vcpu);
}

void kvm_accept_events(struct kvm_vcpu *vcpu)
{
	if (take_pending(vcpu, APIC_EVENT_INIT)) {
		kvm_vcpu_reset(vcpu, true);
		set_mp_state(vcpu,
			     kvm_is_bsp(vcpu) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED);
	}
	/* A SIPI outside wait-for-SIPI is lost (SDM vol. 3, 8.4.2). */
	if (take_pending(vcpu, APIC_EVENT_SIPI) && vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		start_at_sipi_vector(vcpu);
		set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);
	}
}

/* ---- requests ---- */

static bool out_now(struct kvm_vcpu *vcpu)
{
	return kvm_check_request(vcpu, KVM_REQ_EXIT) || vcpu->run->immediate_exit;
}

static int leave_for_eoi(struct kvm_vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
	vcpu->run->eoi.vector = (u8)vcpu->arch->pending_ioapic_eoi;
	vcpu->arch->pending_ioapic_eoi = -1;
	return 1;
}

int kvm_handle_requests(struct kvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->exit_request, 0, __ATOMIC_SEQ_CST);
	if (kvm_check_request(vcpu, KVM_REQ_STOP)) {
		kvm_vcpu_leave_guest_mode(vcpu);
		kvm_vcpu_enter_guest_mode(vcpu);
	}
	if (kvm_check_request(vcpu, KVM_REQ_TLB_FLUSH))
		vcpu->kvm->exec->state_changed(vcpu);
	if (kvm_check_request(vcpu, KVM_REQ_CLOCK_UPDATE))
		kvm_update_clock_page(vcpu);
	if (kvm_check_request(vcpu, KVM_REQ_EVENT))
		vcpu->stat->req_event++;
	if (__atomic_load_n(&vcpu->arch->pending_events, __ATOMIC_ACQUIRE)) {
		kvm_accept_events(vcpu);
		if (vcpu->mp_state != KVM_MP_STATE_RUNNABLE)
			return -EAGAIN;
	}
	if (vcpu->arch->pending_ioapic_eoi >= 0)
		return leave_for_eoi(vcpu);
	if (vcpu->arch->triple_fault) {
		vcpu->arch->triple_fault = false;
		vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
		return 1;
	}
	if (kvm_check_request(vcpu, KVM_REQ_SET_TPR)) {
		vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
		return 1;
	}
	if (out_now(vcpu))
		return -EINTR;
	return 0;
}

/* ---- waiting ---- */

static bool wakes(struct kvm_vcpu *vcpu)
{
	if (vcpu->mp_state == KVM_MP_STATE_HALTED)
		return kvm_vcpu_has_events(vcpu);
	return __atomic_load_n(&vcpu->arch->pending_events, __ATOMIC_ACQUIRE);
}

/* Not RUNNABLE: wait until it is (0), or until something else wants the thread (-EINTR). */
static int wait_runnable(struct kvm_vcpu *vcpu)
{
	while (vcpu->mp_state != KVM_MP_STATE_RUNNABLE) {
		u32 seen = __atomic_load_n(&vcpu->arch->wake, __ATOMIC_SEQ_CST);

		if (wakes(vcpu)) {
			vcpu->stat->halt_wakeup++;
			if (vcpu->mp_state == KVM_MP_STATE_HALTED)
				set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);
			__atomic_store_n(&vcpu->arch->pv_unhalted, 0, __ATOMIC_RELEASE);
			kvm_accept_events(vcpu);
			continue;
		}
		if (out_now(vcpu))
			return -EINTR;
		kvm_vcpu_halt(vcpu, seen);
	}
	return 0;
}

/* ---- the loop ---- */

static int run_loop(struct kvm_vcpu *vcpu)
{
	int rc;

	for (;;) {
		rc = wait_runnable(vcpu);
		if (rc)
			return rc;
		if (wants_window(vcpu) && kvm_vcpu_ready_for_injection(vcpu)) {
			vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
			return 0;
		}
		vcpu->ctl.request_interrupt_window = wants_window(vcpu);
		kvm_vcpu_enter_guest_mode(vcpu);
		rc = vcpu->kvm->exec->run(vcpu);
		kvm_vcpu_leave_guest_mode(vcpu);
		if (rc != -EAGAIN)
			return rc;
	}
}

static int load_sync_regs(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_sync_regs *s = &run->s.regs;
	u64 dirty = run->kvm_dirty_regs;
	int rc = 0;

	if ((run->kvm_valid_regs | dirty) & ~KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (dirty & KVM_SYNC_X86_REGS)
		set_regs(vcpu, &s->regs);
	if (dirty & KVM_SYNC_X86_SREGS)
		rc = set_sregs(vcpu, &s->sregs);
	if (!rc && (dirty & KVM_SYNC_X86_EVENTS))
		rc = set_vcpu_events(vcpu, &s->events);
	if (!rc)
		run->kvm_dirty_regs = 0;
	return rc;
}

static void store_sync_regs(struct kvm_vcpu *vcpu)
{
	struct kvm_sync_regs *s = &vcpu->run->s.regs;
	u64 valid = vcpu->run->kvm_valid_regs;

	if (likely(!valid))
		return;
	if (valid & KVM_SYNC_X86_REGS)
		get_regs(vcpu, &s->regs);
	if (valid & KVM_SYNC_X86_SREGS)
		get_sregs(vcpu, &s->sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		get_vcpu_events(vcpu, &s->events);
}

static void count_exit(struct kvm_vcpu *vcpu, int rc)
{
	struct vcpu_stat *stat = vcpu->stat;

	stat->exits++;
	stat->instructions = vcpu->ctl.instructions;
	if (rc == -EINTR)
		stat->signal_exits++;
	else if (vcpu->run->exit_reason == KVM_EXIT_IO)
		stat->io_exits++;
	else if (vcpu->run->exit_reason == KVM_EXIT_MMIO)
		stat->mmio_exits++;
	else if (vcpu->run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN)
		stat->irq_window_exits++;
}

static void fill_run(struct kvm_vcpu *vcpu, int rc)
{
	struct kvm_run *run = vcpu->run;

	vcpu->kvm->exec->state_sync(vcpu);
	if (rc == -EINTR)
		run->exit_reason = KVM_EXIT_INTR;
	vcpu->ctl.exit_reason = run->exit_reason;
	run->if_flag = !!(vcpu->ctl.rflags & EFLAGS_IF);
	run->flags = 0;
	run->cr8 = kvm_get_cr8(vcpu);
	run->apic_base = vcpu->apic_base;
	run->ready_for_interrupt_injection =
		pic_in_kernel(vcpu->kvm) || kvm_vcpu_ready_for_injection(vcpu);
	store_sync_regs(vcpu);
	count_exit(vcpu, rc);
}

int kvm_vcpu_run(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	sigset_t saved;
	int rc;

	vcpu->thread = pthread_self();
	vcpu->arch->ran = true;
	rc = load_sync_regs(vcpu);
	if (rc)
		return rc;
	if (!lapic_in_kernel(vcpu)) {
		if (run->cr8 & ~15ULL)
			return -EINVAL;
		kvm_set_cr8(vcpu, run->cr8);
	}
	kvm_check_request(vcpu, KVM_REQ_EXIT); /* a signal too late for the last run */
	rc = signals_begin(vcpu, &saved);
	if (rc)
		kvm_make_request(vcpu, KVM_REQ_EXIT);
	/* Also with immediate_exit: exec->run completes the last exit before it looks. */
	if (run->immediate_exit)
		__atomic_store_n(&vcpu->exit_request, 1, __ATOMIC_RELEASE);
	vcpu->ctl.entries++;
	rc = run_loop(vcpu);
	signals_end(vcpu, &saved);
	fill_run(vcpu, rc);
	return rc;
}
