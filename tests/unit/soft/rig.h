/*
 * A vCPU of the interpreter in a VM of one memory slot, without the api: for tests that run byte
 * strings. Addresses are linear = physical in every mode.
 */
#ifndef RIG_H
#define RIG_H

#include "engine/soft/cpu.h"
#include "engine/soft/flags.h"

#define RIG_RAM (16 * MiB)

/* Where things lie. */
#define RIG_CODE  0x10000u
#define RIG_DATA  0x20000u
#define RIG_STACK 0x40000u
#define RIG_HIGH  (4 * GiB) /* guest-physical; in 64-bit mode linear 1 GiB */

struct rig {
	struct kvm kvm;
	struct kvm_vcpu vcpu;
	struct kvm_vcpu second; /* after rig_add_second() */
	struct kvm_memory_slot slot;
	struct kvm_memory_slot high; /* the upper half of the RAM again, at RIG_HIGH */
	struct vcpu_stat stat, second_stat;
	u8 *ram;
	int interrupt; /* vector to be acknowledged, or -1 */
	u64 port_reads, port_writes;
	u32 vendor; /* EBX of CPUID's leaf 0 */
};

struct rig *rig_new(void);
struct rig *rig_new_with(const struct kvm_exec_ops *exec);
void rig_add_second(struct rig *rig);
void rig_free(struct rig *rig);

/* Bring the vCPU to a mode, ring 0: 16 (real mode), 32 (flat, protected), 64. Registers are 0 but
 * RSP and RIP; an IDT sends vector n to a HLT at rig_handler(n). */
void rig_mode(struct rig *rig, int bits);
void rig_mode_vcpu(struct rig *rig, struct kvm_vcpu *vcpu, int bits);
u64 rig_handler(unsigned int vector);

/* Put code at RIG_CODE and run until an exit: its reason, or the negative result. */
int rig_run_code(struct rig *rig, const void *code, size_t len);
int rig_run(struct rig *rig);
int rig_run_vcpu(struct kvm_vcpu *vcpu);

#define RIG_RUN(rig, ...)                                                                          \
	rig_run_code(rig, (const u8[]){__VA_ARGS__, 0xf4}, sizeof((const u8[]){__VA_ARGS__}) + 1)

#endif
