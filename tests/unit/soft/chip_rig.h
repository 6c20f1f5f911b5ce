/* A VM with softkvm's chips and a few vCPUs that never run: chips are driven through their
 * registers, and asked as the cpu would ask. */
#ifndef CHIP_RIG_H
#define CHIP_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"

#define CHIP_VCPUS 4

struct chip_rig {
	int sys, vm, vcpu_fd[CHIP_VCPUS];
	struct kvm *kvm;
	struct kvm_vcpu *vcpu[CHIP_VCPUS];
};

int chip_setup(void **state);
int chip_teardown(void **state);

/* Registers: LAPIC (memory and MSR), IOAPIC table entries, ports. */
void lapic_write(struct kvm_vcpu *vcpu, u32 reg, u32 val);
u32 lapic_read(struct kvm_vcpu *vcpu, u32 reg);
void ioapic_write(struct chip_rig *rig, u8 index, u32 val);
u32 ioapic_read(struct chip_rig *rig, u8 index);
void ioapic_entry(struct chip_rig *rig, u32 pin, u64 entry);
void port_write(struct chip_rig *rig, u16 port, u8 val);
u8 port_read(struct chip_rig *rig, u16 port);
/* The vector that this vCPU would take now, acknowledged; -1: none. */
int take(struct kvm_vcpu *vcpu);
/* Wait up to ten seconds for one. */
int wait_take(struct kvm_vcpu *vcpu);
/* Software-enable the LAPIC of every vCPU. */
void lapics_on(struct chip_rig *rig);

#endif
