/*
 * The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 11.5.4).
 *
 * Invariant: the timer is disarmed, and its callback over, before the vCPU's thread changes what
 * the callback reads (mode, period, deadline).
 */
#include "engine/soft/lapic_int.h"
#include "os/clock.h"

#define TIMER_DEADLINE	    (2u << 17)
#define BUS_CYCLE_NS	    1	   /* the timer counts at 1 GHz, as Linux KVM's */
#define MIN_TIMER_PERIOD_NS 200000 /* periods below this would only keep the host busy */

static u32 timer_mode(const struct kvm_lapic *apic)
{
	return reg_get(apic, APIC_LVTT) & LVT_TIMER_MODE;
}

static u32 timer_divisor(const struct kvm_lapic *apic)
{
	u32 tdcr = reg_get(apic, APIC_TDCR);
	u32 code = ((tdcr & 3) | (tdcr & 8) >> 1) + 1;

	return 1u << (code & 7);
}

static void timer_interrupt(struct kvm_lapic *apic)
{
	u32 lvtt = reg_get(apic, APIC_LVTT);

	if (!(lvtt & LVT_MASKED))
		lapic_accept_vector(apic->vcpu, (u8)lvtt, false);
}

/* Helper thread, or the vCPU's while it sleeps in HLT. */
static void timer_fired(struct kvm_timer *timer)
{
	struct kvm_lapic *apic = container_of(timer, struct kvm_lapic, timer);
	u64 now = clock_now_ns();

	switch (timer_mode(apic)) {
	case TIMER_PERIODIC:
		/* After a long delay the lost periods are not made up for. */
		apic->target_ns += apic->period_ns;
		if (apic->target_ns < now)
			apic->target_ns = now + apic->period_ns;
		kvm_timer_arm(timer, apic->target_ns);
		break;
	case TIMER_DEADLINE:
		/* The host's clock may be slewed against its TSC; never interrupt early. */
		if (kvm_read_tsc(apic->vcpu) < apic->tsc_deadline) {
			kvm_timer_arm(timer, kvm_tsc_to_ns(apic->vcpu, apic->tsc_deadline));
			return;
		}
		__atomic_store_n(&apic->tsc_deadline, 0, __ATOMIC_RELAXED);
		break;
	}
	timer_interrupt(apic);
}

/* Start counting from TMICT. The timer is disarmed. */
static void timer_start_count(struct kvm_lapic *apic)
{
	u64 count = reg_get(apic, APIC_TMICT);

	apic->period_ns = count * BUS_CYCLE_NS * timer_divisor(apic);
	apic->target_ns = 0;
	if (!count || timer_mode(apic) == TIMER_DEADLINE)
		return;
	if (timer_mode(apic) == TIMER_PERIODIC)
		apic->period_ns = max(apic->period_ns, (u64)MIN_TIMER_PERIOD_NS);
	apic->target_ns = clock_now_ns() + apic->period_ns;
	kvm_timer_arm(&apic->timer, apic->target_ns);
}

u32 apic_timer_count(const struct kvm_lapic *apic)
{
	u64 now = clock_now_ns(), left,
	    target = __atomic_load_n(&apic->target_ns, __ATOMIC_RELAXED);

	if (!reg_get(apic, APIC_TMICT) || !apic->period_ns || timer_mode(apic) == TIMER_DEADLINE)
		return 0;
	if (now < target)
		left = target - now;
	else if (timer_mode(apic) == TIMER_PERIODIC)
		left = apic->period_ns - (now - target) % apic->period_ns;
	else
		left = 0;
	return (u32)(left / (BUS_CYCLE_NS * timer_divisor(apic)));
}

void apic_timer_set_divide(struct kvm_lapic *apic, u32 tdcr)
{
	u64 left = apic_timer_count(apic);

	kvm_timer_disarm_sync(&apic->timer);
	reg_set(apic, APIC_TDCR, tdcr & 0xb);
	if (timer_mode(apic) == TIMER_DEADLINE || !left)
		return;
	/* The count goes on from where it is, at the new pace. */
	apic->period_ns = (u64)reg_get(apic, APIC_TMICT) * BUS_CYCLE_NS * timer_divisor(apic);
	apic->target_ns = clock_now_ns() + left * BUS_CYCLE_NS * timer_divisor(apic);
	kvm_timer_arm(&apic->timer, apic->target_ns);
}

void apic_timer_set_lvt(struct kvm_lapic *apic, u32 val)
{
	u32 old = timer_mode(apic);

	if ((val & LVT_TIMER_MODE) == old) {
		reg_set(apic, APIC_LVTT, val);
		return;
	}
	kvm_timer_disarm_sync(&apic->timer);
	reg_set(apic, APIC_LVTT, val);
	/* Between one-shot and periodic the count goes on; to and from deadline it is lost. */
	if (old == TIMER_DEADLINE || timer_mode(apic) == TIMER_DEADLINE) {
		reg_set(apic, APIC_TMICT, 0);
		apic->period_ns = apic->target_ns = apic->tsc_deadline = 0;
	} else if (apic->target_ns > clock_now_ns()) {
		kvm_timer_arm(&apic->timer, apic->target_ns);
	}
}

void apic_timer_set_initial(struct kvm_lapic *apic, u32 val)
{
	if (timer_mode(apic) == TIMER_DEADLINE)
		return;
	kvm_timer_disarm_sync(&apic->timer);
	reg_set(apic, APIC_TMICT, val);
	timer_start_count(apic);
}

u64 kvm_get_tsc_deadline(struct kvm_vcpu *vcpu)
{
	if (!vcpu->apic || timer_mode(vcpu->apic) != TIMER_DEADLINE)
		return 0;
	return __atomic_load_n(&vcpu->apic->tsc_deadline, __ATOMIC_RELAXED);
}

void kvm_set_tsc_deadline(struct kvm_vcpu *vcpu, u64 tsc)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic || timer_mode(apic) != TIMER_DEADLINE)
		return;
	kvm_timer_disarm_sync(&apic->timer);
	apic->tsc_deadline = tsc;
	if (!tsc)
		return;
	if (tsc <= kvm_read_tsc(vcpu)) {
		apic->tsc_deadline = 0;
		timer_interrupt(apic);
		return;
	}
	kvm_timer_arm(&apic->timer, kvm_tsc_to_ns(vcpu, tsc));
}

/* ---- waiting for it ---- */

u64 kvm_lapic_timer_deadline(const struct kvm_vcpu *vcpu)
{
	return vcpu->apic ? kvm_timer_deadline(&vcpu->apic->timer) : 0;
}

void kvm_lapic_timer_due(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic)
		kvm_timer_run_due(&vcpu->apic->timer);
}

/* ---- life and state ---- */

void apic_timer_init(struct kvm_lapic *apic)
{
	kvm_timer_init(apic->vcpu->kvm, &apic->timer, timer_fired);
}

void apic_timer_stop(struct kvm_lapic *apic)
{
	kvm_timer_disarm_sync(&apic->timer);
}

void apic_timer_reset(struct kvm_lapic *apic)
{
	apic_timer_stop(apic);
	apic->period_ns = apic->target_ns = apic->tsc_deadline = 0;
}

void apic_timer_resume(struct kvm_lapic *apic, u32 left)
{
	timer_start_count(apic);
	if (!apic->target_ns || !left || left >= reg_get(apic, APIC_TMICT))
		return;
	apic->target_ns = clock_now_ns() + (u64)left * timer_divisor(apic) * BUS_CYCLE_NS;
	kvm_timer_arm(&apic->timer, apic->target_ns);
}
