/*
 * Machine-check banks: SDM vol. 3, chapter 16. There are none until the user sets them up
 * (KVM_X86_SETUP_MCE); errors come from the user alone (KVM_X86_SET_MCE).
 */
#include <errno.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"

#define MSR_MC0_CTL 0x400
#define MCG_CTL_P   BIT(8)
#define CAP_ALLOWED (KVM_SUPPORTED_MCE_CAP | 0xff | 0xff0000) /* banks; threshold count */

#define STATUS_VALID	       BIT(63)
#define STATUS_OVERFLOW	       BIT(62)
#define STATUS_UNCORRECTED     BIT(61)
#define MCG_STATUS_IN_PROGRESS BIT(2)
#define CR4_MCE		       BIT(6)

enum { BANK_CTL, BANK_STATUS, BANK_ADDR, BANK_MISC };

int kvm_setup_mce(struct kvm_vcpu *vcpu, u64 cap)
{
	u32 banks = cap & 0xff;

	if (!banks || banks > KVM_MAX_MCE_BANKS || (cap & ~(u64)CAP_ALLOWED))
		return -EINVAL;
	vcpu->arch->mcg_cap = cap;
	if (cap & MCG_CTL_P)
		vcpu->msr.mcg_ctl = ~0ULL;
	for (u32 i = 0; i < banks; i++)
		vcpu->arch->mce[i][BANK_CTL] = ~0ULL;
	return 0;
}

u64 *kvm_mce_msr(struct kvm_vcpu *vcpu, u32 msr)
{
	u32 n = msr - MSR_MC0_CTL;

	if (msr < MSR_MC0_CTL || n / 4 >= (vcpu->arch->mcg_cap & 0xff))
		return NULL;
	return &vcpu->arch->mce[n / 4][n % 4];
}

/* CTL takes all ones, all zeroes, or ones but for bits that some systems want off; a guest may
 * only clear STATUS. */
bool kvm_mce_write_valid(u32 msr, u64 data, bool host)
{
	if (host)
		return true;
	switch ((msr - MSR_MC0_CTL) % 4) {
	case BANK_CTL:
		return !data || (data | BIT(10) | 1) == ~0ULL;
	case BANK_STATUS:
		return !data;
	default:
		return true;
	}
}

/* An uncorrected error stops a vCPU that cannot take it: shutdown, as a triple fault. */
static int raise_machine_check(struct kvm_vcpu *vcpu, const struct kvm_x86_mce *mce)
{
	if ((vcpu->msr.mcg_status & MCG_STATUS_IN_PROGRESS) || !(vcpu->ctl.cr4 & CR4_MCE)) {
		vcpu->arch->triple_fault = true;
		kvm_make_request(vcpu, KVM_REQ_EVENT);
		return 0;
	}
	vcpu->msr.mcg_status = mce->mcg_status;
	vcpu->ctl.exception.pending = true;
	vcpu->ctl.exception.has_error_code = false;
	vcpu->ctl.exception.nr = MC_VECTOR;
	vcpu->ctl.exception.payload = 0;
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

static void store(u64 *bank, const struct kvm_x86_mce *mce, u64 overflow)
{
	bank[BANK_STATUS] = mce->status | overflow;
	bank[BANK_ADDR] = mce->addr;
	bank[BANK_MISC] = mce->misc;
}

int kvm_set_mce(struct kvm_vcpu *vcpu, const struct kvm_x86_mce *mce)
{
	bool uncorrected = mce->status & STATUS_UNCORRECTED;
	u64 *bank;

	if (mce->bank >= (vcpu->arch->mcg_cap & 0xff) || !(mce->status & STATUS_VALID))
		return -EINVAL;
	bank = vcpu->arch->mce[mce->bank];
	/* Uncorrected errors are not reported where all ones are not written to the controls. */
	if (uncorrected && (((vcpu->arch->mcg_cap & MCG_CTL_P) && vcpu->msr.mcg_ctl != ~0ULL) ||
			    bank[BANK_CTL] != ~0ULL))
		return 0;
	if (uncorrected) {
		store(bank, mce, bank[BANK_STATUS] & STATUS_VALID ? STATUS_OVERFLOW : 0);
		return raise_machine_check(vcpu, mce);
	}
	if (bank[BANK_STATUS] & STATUS_VALID && bank[BANK_STATUS] & STATUS_UNCORRECTED)
		bank[BANK_STATUS] |= STATUS_OVERFLOW;
	else
		store(bank, mce, bank[BANK_STATUS] & STATUS_VALID ? STATUS_OVERFLOW : 0);
	return 0;
}
