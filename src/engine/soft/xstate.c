/*
 * x87, SSE and AVX state in the user's formats: struct kvm_fpu, and the XSAVE area in standard
 * format (SDM vol. 1, 13.4).
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/native.h"

#define XSTATE_X87 1ULL
#define XSTATE_SSE 2ULL
#define XSTATE_AVX 4ULL

#define MXCSR_VALID 0xffffu

void get_fpu(struct kvm_vcpu *vcpu, struct kvm_fpu *fpu)
{
	const struct fpu_state *s = &vcpu->fpu;

	memset(fpu, 0, sizeof(*fpu));
	memcpy(fpu->fpr, s->st, sizeof(fpu->fpr));
	fpu->fcw = s->fcw;
	fpu->fsw = s->fsw;
	fpu->ftwx = s->ftw;
	fpu->last_opcode = s->fop;
	fpu->last_ip = s->fip;
	fpu->last_dp = s->fdp;
	for (int i = 0; i < 16; i++)
		memcpy(fpu->xmm[i], s->ymm[i], 16);
	fpu->mxcsr = s->mxcsr;
}

void set_fpu(struct kvm_vcpu *vcpu, const struct kvm_fpu *fpu)
{
	struct fpu_state *s = &vcpu->fpu;

	memcpy(s->st, fpu->fpr, sizeof(s->st));
	s->fcw = fpu->fcw;
	s->fsw = fpu->fsw;
	s->ftw = fpu->ftwx;
	s->fop = fpu->last_opcode;
	s->fip = fpu->last_ip;
	s->fdp = fpu->last_dp;
	for (int i = 0; i < 16; i++)
		memcpy(s->ymm[i], fpu->xmm[i], 16);
	/* A reserved bit would raise #GP in the host when the value is loaded. */
	s->mxcsr = fpu->mxcsr & MXCSR_VALID;
}

void get_xsave(struct kvm_vcpu *vcpu, struct kvm_xsave *xsave)
{
	memset(xsave->region, 0, sizeof(xsave->region));
	native_get_xsave(&vcpu->fpu, xsave->region);
}

int set_xsave(struct kvm_vcpu *vcpu, const struct kvm_xsave *xsave)
{
	return native_set_xsave(&vcpu->fpu, xsave->region);
}

void get_xcrs(struct kvm_vcpu *vcpu, struct kvm_xcrs *xcrs)
{
	memset(xcrs, 0, sizeof(*xcrs));
	xcrs->nr_xcrs = 1;
	xcrs->xcrs[0].value = vcpu->ctl.xcr0;
}

static bool xcr0_valid(u64 xcr0)
{
	return (xcr0 & XSTATE_X87) && !(xcr0 & ~kvm_supported_xcr0()) &&
	       !((xcr0 & XSTATE_AVX) && !(xcr0 & XSTATE_SSE));
}

int set_xcrs(struct kvm_vcpu *vcpu, const struct kvm_xcrs *xcrs)
{
	if (xcrs->nr_xcrs > KVM_MAX_XCRS || xcrs->flags)
		return -EINVAL;
	for (u32 i = 0; i < xcrs->nr_xcrs; i++) {
		if (xcrs->xcrs[i].xcr)
			continue;
		if (!xcr0_valid(xcrs->xcrs[i].value))
			return -EINVAL;
		vcpu->ctl.xcr0 = xcrs->xcrs[i].value;
	}
	vcpu->kvm->exec->state_changed(vcpu);
	return 0;
}
