/*
 * Instructions that the host executes for the guest: what the rest of softkvm needs to know.
 *
 * Each such instruction is decoded to a uop that points to a struct native_insn: a stub of host
 * code that loads the operands from struct fpu_state and the general registers (or takes a pointer
 * to guest memory), executes the guest's instruction with registers of our choice, and stores the
 * results. Stubs are shared by all instructions that differ only in operands.
 */
#ifndef NATIVE_H
#define NATIVE_H

#include "engine/soft/soft_int.h"

/* Feature bits, in CPUID's places, of the instructions softkvm can execute on this host: bits of
 * native.c's instructions are set where the host has them, all others are 0. */
struct native_features {
	u32 leaf1_ecx, leaf1_edx;
	u32 leaf7_ebx, leaf7_ecx, leaf7_edx;
	u32 ext1_ecx, ext1_edx; /* leaf 8000_0001h */
	u32 leafd1_eax;		/* leaf 0Dh, sub-leaf 1 */
	u64 xcr0;		/* components XCR0 may enable: x87, SSE, AVX */
	u32 mxcsr_mask;
};

/* Any thread; constant during the process's life. */
void native_features(struct native_features *f);

/* The stubs of a vCPU: cpu->native. 0 or -errno. */
int native_init(struct kvm_vcpu *vcpu);
void native_free(struct kvm_vcpu *vcpu);

/*
 * Around the run loop, on the vCPU's thread. Between them the host's MXCSR is the guest's with all
 * exceptions masked, and what is executed meanwhile is general-register code, or uses vector
 * registers for integers and copies at most; fpu.mxcsr lacks the flags that have come up since.
 * The x87 unit, too, stays in the host's from one x87 instruction to the next while all its
 * exceptions are masked (fpu.x87_live).
 */
void native_enter(struct kvm_vcpu *vcpu);
void native_leave(struct kvm_vcpu *vcpu);

/* RESET, or INIT (which leaves XMM, YMM and MXCSR alone, SDM vol. 3 table 10-1). */
void native_reset(struct kvm_vcpu *vcpu, bool init_event);

/*
 * The legacy region, header and AVX component of an XSAVE area in standard format, as KVM_GET_XSAVE
 * and KVM_SET_XSAVE carry it: 832 bytes of buf. Setting: 0, or -EINVAL where XRSTOR would raise
 * #GP.
 */
#define NATIVE_XSAVE_SIZE 832
void native_get_xsave(const struct fpu_state *fpu, void *buf);
int native_set_xsave(struct fpu_state *fpu, const void *buf);

/* XINUSE: components that are not in their initial configuration. */
u64 native_state_in_use(const struct fpu_state *fpu);

#endif
