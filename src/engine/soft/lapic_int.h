/*
 * The local APIC from inside: its registers (lapic.c) and its timer (apic_timer.c), which share the
 * register image.
 */
#ifndef LAPIC_INT_H
#define LAPIC_INT_H

#include "engine/soft/lapic.h"

/* Register offsets. */
#define APIC_ID	      0x20
#define APIC_LVR      0x30
#define APIC_TPR      0x80
#define APIC_ARBPRI   0x90
#define APIC_PPR      0xa0
#define APIC_EOI      0xb0
#define APIC_LDR      0xd0
#define APIC_DFR      0xe0
#define APIC_SPIV     0xf0
#define APIC_ISR      0x100
#define APIC_TMR      0x180
#define APIC_IRR      0x200
#define APIC_ESR      0x280
#define APIC_ICR      0x300
#define APIC_ICR2     0x310
#define APIC_LVTT     0x320
#define APIC_LVTTHMR  0x330
#define APIC_LVTPC    0x340
#define APIC_LVT0     0x350
#define APIC_LVT1     0x360
#define APIC_LVTERR   0x370
#define APIC_TMICT    0x380
#define APIC_TMCCT    0x390
#define APIC_TDCR     0x3e0
#define APIC_SELF_IPI 0x3f0

#define LVT_MASKED	 (1u << 16)
#define LVT_SEND_PENDING (1u << 12)
#define LVT_TIMER_MODE	 (3u << 17)
#define TIMER_PERIODIC	 (1u << 17)

struct kvm_lapic {
	struct kvm_vcpu *vcpu;
	u32 regs[KVM_APIC_REG_SIZE / 4];
	u32 arbitration;
	/* apic_timer.c's */
	struct kvm_timer timer;
	u64 period_ns; /* of TMICT; 0: not counting */
	u64 target_ns; /* when the count reaches 0 */
	u64 tsc_deadline;
};

static inline u32 reg_get(const struct kvm_lapic *apic, u32 reg)
{
	return __atomic_load_n(&apic->regs[reg / 4], __ATOMIC_RELAXED);
}

static inline void reg_set(struct kvm_lapic *apic, u32 reg, u32 val)
{
	__atomic_store_n(&apic->regs[reg / 4], val, __ATOMIC_RELAXED);
}

/* Set the vector in IRR and kick: 1, 0 when it was pending, -1 when the LAPIC is off. Any thread.
 */
int lapic_accept_vector(struct kvm_vcpu *vcpu, u8 vector, bool level_triggered);

/* ---- apic_timer.c; the vCPU's thread, unless stated ---- */

void apic_timer_init(struct kvm_lapic *apic);
/* Disarmed, its callback over. Any thread that stops the vCPU. */
void apic_timer_stop(struct kvm_lapic *apic);
/* Stopped, and nothing counts. */
void apic_timer_reset(struct kvm_lapic *apic);
/* The current count. */
u32 apic_timer_count(const struct kvm_lapic *apic);
/* Writes of TMICT, TDCR and LVTT (the bits that may be written). */
void apic_timer_set_initial(struct kvm_lapic *apic, u32 val);
void apic_timer_set_divide(struct kvm_lapic *apic, u32 tdcr);
void apic_timer_set_lvt(struct kvm_lapic *apic, u32 val);
/* The registers were loaded: count from there, `left` of the first period to go. Stopped before. */
void apic_timer_resume(struct kvm_lapic *apic, u32 left);

#endif
