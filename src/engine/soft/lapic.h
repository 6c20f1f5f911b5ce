/* The local APIC (lapic.c): SDM vol. 3, chapter 11. One a vCPU; other threads set IRR bits only. */
#ifndef LAPIC_H
#define LAPIC_H

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"

#define APIC_BASE_BSP	  (1ULL << 8)
#define APIC_BASE_X2APIC  (1ULL << 10)
#define APIC_BASE_ENABLE  (1ULL << 11)
#define APIC_BASE_ADDR	  0x000ffffffffff000ULL
#define APIC_DEFAULT_BASE 0xfee00000ULL

int kvm_lapic_create(struct kvm_vcpu *vcpu);
void kvm_lapic_stop(struct kvm_vcpu *vcpu); /* its timer no longer runs */
void kvm_lapic_free(struct kvm_vcpu *vcpu);
void kvm_lapic_reset(struct kvm_vcpu *vcpu, bool init_event);

/* The register page: 0, or -EOPNOTSUPP when addr is not in it. vCPU thread. */
int kvm_lapic_mmio_read(struct kvm_vcpu *vcpu, u64 addr, u32 len, void *val);
int kvm_lapic_mmio_write(struct kvm_vcpu *vcpu, u64 addr, u32 len, const void *val);
/* MSRs 0x800 to 0x8ff, 0x6e0 and 0x1b; 1 for #GP. */
int kvm_x2apic_msr_read(struct kvm_vcpu *vcpu, u32 msr, u64 *data);
int kvm_x2apic_msr_write(struct kvm_vcpu *vcpu, u32 msr, u64 data);
/* For a vCPU that sleeps in HLT: when its timer is due (clock_now_ns(); 0: it is not armed), and
 * what to do then, on the vCPU's thread. Without a LAPIC: 0, and nothing. */
u64 kvm_lapic_timer_deadline(const struct kvm_vcpu *vcpu);
void kvm_lapic_timer_due(struct kvm_vcpu *vcpu);
u64 kvm_get_tsc_deadline(struct kvm_vcpu *vcpu);
void kvm_set_tsc_deadline(struct kvm_vcpu *vcpu, u64 tsc);
int kvm_set_apic_base(struct kvm_vcpu *vcpu, u64 data, bool host);

void kvm_lapic_get(struct kvm_vcpu *vcpu, struct kvm_lapic_state *state);
int kvm_lapic_set(struct kvm_vcpu *vcpu, const struct kvm_lapic_state *state);

/* Is it addressed by irq? Any thread. */
bool kvm_apic_match(struct kvm_vcpu *vcpu, const struct lapic_irq *irq);
bool kvm_apic_enabled(struct kvm_vcpu *vcpu); /* hardware and software */
/* Take it: 1, also when the vector was pending already; -1 when the LAPIC is off. Any thread. */
int kvm_apic_accept(struct kvm_vcpu *vcpu, const struct lapic_irq *irq);
/* Counts interrupts taken by lowest-priority arbitration. */
u32 *kvm_apic_arbitration(struct kvm_vcpu *vcpu);
/* Does LINT0 let the PIC's interrupts through? */
bool kvm_apic_accept_pic_intr(struct kvm_vcpu *vcpu);
/* The vector above the processor priority, or -1. */
int kvm_apic_has_interrupt(struct kvm_vcpu *vcpu);
int kvm_apic_get_interrupt(struct kvm_vcpu *vcpu);
u8 kvm_apic_tpr(struct kvm_vcpu *vcpu);
void kvm_apic_set_tpr(struct kvm_vcpu *vcpu, u8 tpr);

/* run.c: do what pending INIT and SIPI ask for. */
void kvm_accept_events(struct kvm_vcpu *vcpu);

#endif
