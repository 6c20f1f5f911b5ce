/*
 * Interrupts from lines and messages to the LAPICs: routing (irq_comm.c), the PIC pair
 * (i8259.c), the IOAPIC (ioapic.c), the PIT (i8254.c).
 *
 * arch->irq_lock guards routing, PIC, IOAPIC, PIT and the lists of irqfds. Delivery to a LAPIC
 * needs no lock. Functions called _locked want irq_lock held.
 */
#ifndef IRQ_H
#define IRQ_H

#include "engine/soft/arch_int.h"

/* Who may hold a line up; a line is high while anyone does. */
enum irq_source { IRQ_SOURCE_USER, IRQ_SOURCE_RESAMPLE, IRQ_SOURCE_PIT };

/* An interrupt message on its way to LAPICs. */
struct lapic_irq {
	u32 dest; /* APIC ID or logical set; 32 bits wide for x2APIC senders */
	u8 vector;
	u8 delivery_mode; /* APIC_DM_* >> 8 */
	bool logical;
	bool level_triggered;
	bool assert;	    /* level of an INIT */
	bool x2apic_format; /* dest has 32 bits: broadcast is 0xffffffff, not 0xff */
};

enum { DM_FIXED, DM_LOWEST, DM_SMI, DM_REMOTE_READ, DM_NMI, DM_INIT, DM_STARTUP, DM_EXTINT };

/* Deliver; the number of LAPICs that took it, 0: coalesced, -1: nobody there. Any thread. */
int kvm_deliver_irq(struct kvm *kvm, const struct lapic_irq *irq);
int kvm_set_msi(struct kvm *kvm, u32 address_lo, u32 address_hi, u32 data);
void kvm_inject_nmi(struct kvm_vcpu *vcpu);

int kvm_irqchip_init(struct kvm *kvm, enum irqchip_mode mode, u32 reserved_pins);
void kvm_irqchip_stop(struct kvm *kvm); /* no timer of a chip runs after this */
void kvm_irqchip_free(struct kvm *kvm);
int kvm_get_irqchip(struct kvm *kvm, struct kvm_irqchip *chip);
int kvm_set_irqchip(struct kvm *kvm, const struct kvm_irqchip *chip);

int kvm_set_gsi_routing(struct kvm *kvm, const struct kvm_irq_routing *routing);
/* Drive a line: what the routes said (as kvm_deliver_irq), -1 where there is no route. */
int kvm_set_irq(struct kvm *kvm, enum irq_source source, u32 gsi, int level);
int kvm_set_irq_locked(struct kvm *kvm, enum irq_source source, u32 gsi, int level);
/* A chip's pin was acknowledged (EOI): resample irqfds and the PIT hear of it. */
void kvm_notify_acked_locked(struct kvm *kvm, u32 chip, u32 pin);
/* A chip's pin was unmasked: what was sent before may be lost. */
void kvm_notify_unmasked_locked(struct kvm *kvm, u32 chip, u32 pin);
void irqfd_acked_locked(struct kvm *kvm, u32 gsi);

/* PIC pair */
int kvm_pic_init(struct kvm *kvm);
int kvm_pic_set_irq_locked(struct kvm *kvm, u32 pin, enum irq_source source, int level);
bool kvm_pic_output(struct kvm *kvm);  /* INTR is high; any thread */
int kvm_pic_read_irq(struct kvm *kvm); /* INTA: the vector */
void kvm_pic_get_locked(struct kvm *kvm, u32 which, struct kvm_pic_state *state);
void kvm_pic_set_locked(struct kvm *kvm, u32 which, const struct kvm_pic_state *state);

/* IOAPIC */
int kvm_ioapic_init(struct kvm *kvm);
/* Its timer will not run any more. */
void kvm_ioapic_stop(struct kvm *kvm);
int kvm_ioapic_set_irq_locked(struct kvm *kvm, u32 pin, enum irq_source source, int level);
/* Does any pin send this vector? Any thread. */
bool kvm_ioapic_handles(struct kvm *kvm, u8 vector);
/* A LAPIC broadcast the EOI of a vector. vCPU thread, no lock held. */
void kvm_ioapic_eoi(struct kvm *kvm, u8 vector);
void kvm_ioapic_get_locked(struct kvm *kvm, struct kvm_ioapic_state *state);
void kvm_ioapic_set_locked(struct kvm *kvm, const struct kvm_ioapic_state *state);

/* PIT */
int kvm_create_pit(struct kvm *kvm, u32 flags);
void kvm_pit_stop(struct kvm *kvm);
void kvm_pit_free(struct kvm *kvm);
void kvm_pit_acked_locked(struct kvm *kvm);
void kvm_pit_unmasked_locked(struct kvm *kvm);
void kvm_pit_get(struct kvm *kvm, struct kvm_pit_state2 *state);
int kvm_pit_set(struct kvm *kvm, const struct kvm_pit_state2 *state);
void kvm_pit_set_reinject(struct kvm *kvm, bool on);

/* Split irqchip: which vectors' EOIs the user's IOAPIC wants to hear (routes below
 * reserved_pins). */
bool kvm_split_wants_eoi(struct kvm *kvm, const struct kvm_vcpu *vcpu, u8 vector);

#endif
