/* What the back end keeps for a vCPU (vcpu->cpu) and for a VM (kvm->code). */
#ifndef SOFT_CPU_H
#define SOFT_CPU_H

#include "engine/soft/blocks.h"
#include "engine/soft/exec.h"
#include "engine/soft/mmu.h"

struct native;

struct cpu {
	struct mmu mmu; /* first: vcpu_mmu() */
	struct blocks blocks;
	struct native *native; /* stubs of this vCPU (native.c): native_init(), native_free() */
	void *raise_buf[5];    /* __builtin_setjmp of the run loop */
	enum unwind unwind;    /* why it was returned to */
	bool halted;	       /* HLT was executed */
};

static inline struct cpu *vcpu_cpu(const struct kvm_vcpu *vcpu)
{
	return vcpu->cpu;
}

#endif
