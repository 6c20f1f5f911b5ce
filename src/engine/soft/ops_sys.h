/* What the system operations share. */
#ifndef SOFT_OPS_SYS_H
#define SOFT_OPS_SYS_H

#include <asm/processor-flags.h>

#include "engine/soft/cpu.h"
#include "engine/soft/flags.h"
#include "engine/soft/uop.h"

/* #GP(0) above CPL 0 (which virtual-8086 mode is). */
static inline void need_cpl0(struct kvm_vcpu *vcpu)
{
	if (unlikely(vcpu->ctl.cpl))
		raise_gp(vcpu, 0);
}

/* #UD in real and virtual-8086 mode. */
static inline void need_protected(struct kvm_vcpu *vcpu)
{
	if (!is_protected(vcpu) || is_v86(vcpu))
		raise_ud(vcpu);
}

/* UMIP: #GP(0) for SGDT, SIDT, SLDT, SMSW, STR above CPL 0. */
static inline void check_umip(struct kvm_vcpu *vcpu)
{
	if (vcpu->ctl.cpl && (vcpu->ctl.cr4 & X86_CR4_UMIP))
		raise_gp(vcpu, 0);
}

static inline bool canonical_address(const struct kvm_vcpu *vcpu, u64 linear)
{
	return sign_extend(linear, vcpu->ctl.cr4 & X86_CR4_LA57 ? 57 : 48) == (s64)linear;
}

/* Is this bit of this register (0 to 3: EAX, EBX, ECX, EDX) set in the guest's CPUID? Slow. */
bool guest_cpuid_bit(struct kvm_vcpu *vcpu, u32 leaf, unsigned int reg, unsigned int bit);
/* The guest's vendor is AMD or Hygon: their SYSCALL, SYSENTER. Slow. */
bool guest_is_amd(struct kvm_vcpu *vcpu);

/* Loads of control registers, with all checks (#GP) and effects. */
void set_cr0(struct kvm_vcpu *vcpu, u64 value);
void set_cr3(struct kvm_vcpu *vcpu, u64 value);
void set_cr4(struct kvm_vcpu *vcpu, u64 value);

#endif
