/*
 * Model-specific registers: SDM vol. 4, AMD APM vol. 2 appendix A. An MSR that is in no table
 * raises #GP, as on hardware; those of other vendors' CPUs that kernels poke without asking read
 * as zero and drop writes, as KVM has it.
 */
#include <errno.h>
#include <linux/kvm_para.h>
#include <string.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/guest_features.h"
#include "engine/soft/lapic.h"

#define MAX_MSRS_PER_IOCTL 256

enum {
	MSR_P5_MC_ADDR = 0,
	MSR_P5_MC_TYPE = 1,
	MSR_TSC = 0x10,
	MSR_PLATFORM_ID = 0x17,
	MSR_APIC_BASE = 0x1b,
	MSR_EBL_CR_POWERON = 0x2a,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_UCODE_WRITE = 0x79,
	MSR_UCODE_REV = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_FLUSH_CMD = 0x10b,
	MSR_MISC_FEATURES = 0x140,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MCG_CTL = 0x17b,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9,
	MSR_MTRR_PHYS = 0x200,
	MSR_MTRR_FIX64K = 0x250,
	MSR_MTRR_FIX16K = 0x258,
	MSR_MTRR_FIX4K = 0x268,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_MC0_CTL = 0x400,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
	MSR_XSS = 0xda0,
	MSR_SMI_COUNT = 0x34,
	MSR_EFER_INDEX = 0xc0000080,
	MSR_STAR = 0xc0000081,
	MSR_LSTAR = 0xc0000082,
	MSR_CSTAR = 0xc0000083,
	MSR_SYSCALL_MASK = 0xc0000084,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE = 0xc0000101,
	MSR_KERNEL_GS_BASE = 0xc0000102,
	MSR_TSC_AUX = 0xc0000103,
	MSR_K7_EVNTSEL0 = 0xc0010000,
	MSR_K7_PERFCTR3 = 0xc0010007,
	MSR_SYSCFG = 0xc0010010,
	MSR_HWCR = 0xc0010015,
	MSR_NB_CFG = 0xc001001f,
	MSR_INT_PENDING = 0xc0010055,
	MSR_MMIO_CONF_BASE = 0xc0010058,
	MSR_VM_CR = 0xc0010114,
	MSR_OSVW_ID_LENGTH = 0xc0010140,
	MSR_OSVW_STATUS = 0xc0010141,
	MSR_BU_CFG2 = 0xc001102a,
	MSR_DC_CFG = 0xc0011022,
	MSR_DE_CFG = 0xc0011029,
	MSR_TSC_RATIO = 0xc0000104,
	MSR_VM_HSAVE_PA = 0xc0010117,
};

#define EFER_FFXSR     (1ULL << 14)
#define EFER_AUTOIBRS  (1ULL << 21)
#define EFER_KNOWN     (EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_AUTOIBRS)
#define CR0_PG	       (1ULL << 31)
#define MTRR_VARIABLE  8
#define MTRR_CAP_VALUE (0x500 | MTRR_VARIABLE) /* fixed ranges and write-combining */
#define DE_CFG_LFENCE  2ULL		       /* LFENCE serializes */
#define HWCR_MASK      0x01000540ULL	       /* what KVM stores: TscFreqSel and friends */
/* RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO
 * BHI_NO PBRSB_NO GDS_NO RFDS_NO: an interpreter does not run guest code speculatively. */
#define ARCH_CAPS                                                                                  \
	(BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) |        \
	 BIT(15) | BIT(20) | BIT(24) | BIT(26) | BIT(27))

/* KVM_GET_MSR_INDEX_LIST: what a snapshot must carry. */
static const u32 state_msrs[] = {
	MSR_TSC,
	MSR_SYSENTER_CS,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SYSCALL_MASK,
	MSR_KERNEL_GS_BASE,
	MSR_PAT,
	MSR_TSC_AUX,
	MSR_SPEC_CTRL,
	MSR_KVM_WALL_CLOCK,
	MSR_KVM_SYSTEM_TIME,
	MSR_KVM_WALL_CLOCK_NEW,
	MSR_KVM_SYSTEM_TIME_NEW,
	MSR_KVM_POLL_CONTROL,
	MSR_TSC_ADJUST,
	MSR_TSC_DEADLINE,
	MSR_MISC_ENABLE,
	MSR_MCG_STATUS,
	MSR_MCG_CTL,
	MSR_FEATURE_CONTROL,
	MSR_SMI_COUNT,
	MSR_PLATFORM_INFO,
	MSR_MISC_FEATURES,
	MSR_XSS,
	MSR_APIC_BASE,
	MSR_MTRR_DEF_TYPE,
	MSR_UCODE_REV,
	MSR_ARCH_CAPABILITIES,
	MSR_HWCR,
	MSR_DE_CFG,
	MSR_MTRR_FIX64K,
	MSR_MTRR_FIX16K,
	MSR_MTRR_FIX16K + 1,
	MSR_MTRR_FIX4K,
	MSR_MTRR_FIX4K + 1,
	MSR_MTRR_FIX4K + 2,
	MSR_MTRR_FIX4K + 3,
	MSR_MTRR_FIX4K + 4,
	MSR_MTRR_FIX4K + 5,
	MSR_MTRR_FIX4K + 6,
	MSR_MTRR_FIX4K + 7,
	MSR_MTRR_PHYS,
	MSR_MTRR_PHYS + 1,
	MSR_MTRR_PHYS + 2,
	MSR_MTRR_PHYS + 3,
	MSR_MTRR_PHYS + 4,
	MSR_MTRR_PHYS + 5,
	MSR_MTRR_PHYS + 6,
	MSR_MTRR_PHYS + 7,
	MSR_MTRR_PHYS + 8,
	MSR_MTRR_PHYS + 9,
	MSR_MTRR_PHYS + 10,
	MSR_MTRR_PHYS + 11,
	MSR_MTRR_PHYS + 12,
	MSR_MTRR_PHYS + 13,
	MSR_MTRR_PHYS + 14,
	MSR_MTRR_PHYS + 15,
};

static const u32 feature_msrs[] = {MSR_UCODE_REV, MSR_ARCH_CAPABILITIES, MSR_DE_CFG};

/* Read as zero; writes are dropped. */
static bool is_ignored(u32 msr)
{
	switch (msr) {
	case MSR_P5_MC_ADDR:
	case MSR_P5_MC_TYPE:
	case MSR_PLATFORM_ID:
	case MSR_EBL_CR_POWERON:
	case MSR_SYSCFG:
	case MSR_NB_CFG:
	case MSR_INT_PENDING:
	case MSR_MMIO_CONF_BASE:
	case MSR_OSVW_ID_LENGTH:
	case MSR_OSVW_STATUS:
	case MSR_BU_CFG2:
	case MSR_DC_CFG:
	case MSR_VM_HSAVE_PA:
	case MSR_UCODE_WRITE:
		return true;
	default:
		return msr >= MSR_K7_EVNTSEL0 && msr <= MSR_K7_PERFCTR3;
	}
}

static bool is_canonical(u64 addr)
{
	return (u64)sign_extend(addr, 48) == addr;
}

/* ---- storage: the field behind an MSR that is no more than that ---- */

static u64 *mtrr_field(struct msr_state *m, u32 msr)
{
	if (msr >= MSR_MTRR_PHYS && msr < MSR_MTRR_PHYS + 2 * MTRR_VARIABLE)
		return &m->mtrr_var[msr - MSR_MTRR_PHYS];
	if (msr == MSR_MTRR_FIX64K)
		return &m->mtrr_fixed[0];
	if (msr == MSR_MTRR_FIX16K || msr == MSR_MTRR_FIX16K + 1)
		return &m->mtrr_fixed[1 + msr - MSR_MTRR_FIX16K];
	if (msr >= MSR_MTRR_FIX4K && msr < MSR_MTRR_FIX4K + 8)
		return &m->mtrr_fixed[3 + msr - MSR_MTRR_FIX4K];
	return msr == MSR_MTRR_DEF_TYPE ? &m->mtrr_def_type : NULL;
}

static u64 *stored(struct kvm_vcpu *vcpu, u32 msr)
{
	struct msr_state *m = &vcpu->msr;

	switch (msr) {
	case MSR_STAR:
		return &m->star;
	case MSR_LSTAR:
		return &m->lstar;
	case MSR_CSTAR:
		return &m->cstar;
	case MSR_SYSCALL_MASK:
		return &m->fmask;
	case MSR_KERNEL_GS_BASE:
		return &m->kernel_gs_base;
	case MSR_TSC_AUX:
		return &m->tsc_aux;
	case MSR_SYSENTER_CS:
		return &m->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &m->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &m->sysenter_eip;
	case MSR_PAT:
		return &m->pat;
	case MSR_MISC_ENABLE:
		return &m->misc_enable;
	case MSR_DEBUGCTL:
		return &m->debugctl;
	case MSR_SPEC_CTRL:
		return &m->spec_ctrl;
	case MSR_XSS:
		return &m->xss;
	case MSR_MCG_STATUS:
		return &m->mcg_status;
	case MSR_MCG_CTL:
		return &m->mcg_ctl;
	case MSR_MISC_FEATURES:
		return &m->misc_features;
	case MSR_SMI_COUNT:
		return &m->smi_count;
	case MSR_KVM_POLL_CONTROL:
		return &vcpu->arch->poll_control;
	case MSR_HWCR:
		return &vcpu->arch->hwcr;
	case MSR_DE_CFG:
		return &vcpu->arch->de_cfg;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return &vcpu->arch->system_time_msr;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		return &vcpu->kvm->arch->wall_clock_gpa;
	default:
		return msr >= MSR_MC0_CTL && msr < MSR_MC0_CTL + 4 * KVM_MAX_MCE_BANKS
			       ? kvm_mce_msr(vcpu, msr)
			       : mtrr_field(m, msr);
	}
}

/* With KVM_CAP_ENFORCE_PV_FEATURE_CPUID. */
static bool kvm_msr_hidden(struct kvm_vcpu *vcpu, u32 msr)
{
	switch (msr) {
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_WALL_CLOCK:
		return !guest_pv_has(vcpu, FEATURE_PV_CLOCK);
	case MSR_KVM_SYSTEM_TIME_NEW:
	case MSR_KVM_WALL_CLOCK_NEW:
		return !guest_pv_has(vcpu, FEATURE_PV_CLOCK2);
	case MSR_KVM_POLL_CONTROL:
		return !guest_pv_has(vcpu, FEATURE_PV_POLL_CONTROL);
	default:
		return false;
	}
}

/* ---- reading ---- */

static int get_computed(struct kvm_vcpu *vcpu, u32 msr, u64 *data, bool host)
{
	switch (msr) {
	case MSR_TSC:
		*data = kvm_read_tsc(vcpu);
		return 0;
	case MSR_TSC_ADJUST:
		*data = vcpu->msr.tsc_adjust;
		return 0;
	case MSR_APIC_BASE:
		*data = vcpu->apic_base;
		return 0;
	case MSR_FEATURE_CONTROL:
		*data = vcpu->msr.feature_control;
		return 0;
	case MSR_UCODE_REV:
		*data = vcpu->msr.bios_sign_id;
		return 0;
	case MSR_PLATFORM_INFO:
		*data = vcpu->msr.platform_info;
		return !host && vcpu->kvm->arch->platform_info_denied;
	case MSR_MTRR_CAP:
		*data = MTRR_CAP_VALUE;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		*data = ARCH_CAPS;
		return !host && !guest_has(vcpu, FEATURE_ARCH_CAPABILITIES);
	case MSR_MCG_CAP:
		*data = vcpu->arch->mcg_cap;
		return 0;
	case MSR_TSC_DEADLINE:
		*data = kvm_get_tsc_deadline(vcpu);
		return 0;
	case MSR_EFER_INDEX:
		*data = vcpu->ctl.efer;
		return 0;
	case MSR_FS_BASE:
		*data = vcpu->ctl.seg[SEG_FS].base;
		return 0;
	case MSR_GS_BASE:
		*data = vcpu->ctl.seg[SEG_GS].base;
		return 0;
	case MSR_VM_CR:
		*data = BIT(4); /* SVM is off */
		return 0;
	default:
		return MSR_UNKNOWN;
	}
}

int kvm_get_msr(struct kvm_vcpu *vcpu, u32 index, u64 *data, bool host)
{
	const u64 *field;

	*data = 0;
	if (!host)
		vcpu->stat->msr_reads++;
	if (index >= MSR_X2APIC && index < MSR_X2APIC + 0x100)
		return kvm_x2apic_msr_read(vcpu, index, data);
	field = stored(vcpu, index);
	if (field) {
		if (!host && kvm_msr_hidden(vcpu, index))
			return MSR_INVALID;
		*data = *field;
		return 0;
	}
	if (is_ignored(index))
		return 0;
	return get_computed(vcpu, index, data, host);
}

/* ---- writing ---- */

static int set_efer(struct kvm_vcpu *vcpu, u64 data, bool host)
{
	u64 old = vcpu->ctl.efer, allowed = EFER_KNOWN;

	if (!host) {
		if (!guest_has(vcpu, FEATURE_LM))
			allowed &= ~(EFER_LME | EFER_LMA);
		if (!guest_has(vcpu, FEATURE_NX))
			allowed &= ~EFER_NX;
		if (!guest_has(vcpu, FEATURE_SYSCALL))
			allowed &= ~EFER_SCE;
	}
	if (data & ~allowed)
		return 1;
	if (!host) {
		if ((vcpu->ctl.cr0 & CR0_PG) && ((data ^ old) & EFER_LME))
			return 1;
		data = (data & ~EFER_LMA) | (old & EFER_LMA);
	}
	vcpu->ctl.efer = data;
	if (data != old)
		vcpu->kvm->exec->state_changed(vcpu);
	return 0;
}

/* Each byte a memory type that exists: not 2 or 3, not above 7. */
static bool pat_valid(u64 pat)
{
	for (int i = 0; i < 8; i++) {
		u8 type = (u8)(pat >> i * 8);

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

static bool mtrr_type_valid(u8 type)
{
	return type < 8 && (0x73 >> type & 1); /* 0 1 4 5 6 */
}

static bool mtrr_valid(struct kvm_vcpu *vcpu, u32 msr, u64 data)
{
	if (msr == MSR_MTRR_DEF_TYPE)
		return !(data & ~0xcffULL) && mtrr_type_valid((u8)data);
	if (msr >= MSR_MTRR_FIX64K && msr < MSR_MTRR_FIX4K + 8) {
		for (int i = 0; i < 8; i++)
			if (!mtrr_type_valid((u8)(data >> i * 8)))
				return false;
		return true;
	}
	if (msr & 1)
		return !(data & ~vcpu->guest_maxphyaddr_mask) && !(data & 0x7ff);
	return !(data & ~vcpu->guest_maxphyaddr_mask) && !(data & 0xf00) &&
	       mtrr_type_valid((u8)data);
}

/* May this value be stored? 1: #GP. */
static int check_stored(struct kvm_vcpu *vcpu, u32 msr, u64 data, bool host)
{
	switch (msr) {
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_KERNEL_GS_BASE:
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
		return !is_canonical(data);
	case MSR_TSC_AUX:
		return data >> 32 != 0;
	case MSR_PAT:
		return !pat_valid(data);
	case MSR_SPEC_CTRL:
		return (data & ~7ULL) != 0;
	case MSR_XSS:
		return data != 0;
	case MSR_DEBUGCTL:
		return (data & ~3ULL) != 0; /* LBR and BTF, neither of which does anything */
	case MSR_MISC_FEATURES:
		return data != 0;
	case MSR_SMI_COUNT:
		return !host;
	case MSR_MCG_CTL:
		return !host && (!(vcpu->arch->mcg_cap >> 8 & 1) || (data && ~data));
	case MSR_MCG_STATUS:
		return !host && data;
	case MSR_HWCR:
		return (data & ~(HWCR_MASK | 0x58ULL)) != 0;
	case MSR_DE_CFG:
		return (data & ~DE_CFG_LFENCE) != 0;
	case MSR_KVM_POLL_CONTROL:
		return (data & ~1ULL) != 0;
	default:
		if (kvm_mce_msr(vcpu, msr))
			return !kvm_mce_write_valid(msr, data, host);
		return mtrr_field(&vcpu->msr, msr) && !mtrr_valid(vcpu, msr, data);
	}
}

/* What follows from a stored value. */
static void after_store(struct kvm_vcpu *vcpu, u32 msr, u64 data)
{
	switch (msr) {
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		kvm_make_request(vcpu, KVM_REQ_CLOCK_UPDATE);
		break;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		kvm_write_wall_clock(vcpu->kvm, data);
		break;
	}
}

static int set_base(struct kvm_vcpu *vcpu, int seg, u64 data)
{
	if (!is_canonical(data))
		return 1;
	vcpu->ctl.seg[seg].base = data;
	return 0;
}

/* The guest's way to move its TSC, and the user's record of it. */
static int set_tsc_adjust(struct kvm_vcpu *vcpu, u64 data, bool host)
{
	if (!host) {
		if (!guest_has(vcpu, FEATURE_TSC_ADJUST))
			return 1;
		vcpu->msr.tsc_offset += data - vcpu->msr.tsc_adjust;
		kvm_make_request(vcpu, KVM_REQ_CLOCK_UPDATE);
	}
	vcpu->msr.tsc_adjust = data;
	return 0;
}

static int set_tsc(struct kvm_vcpu *vcpu, u64 data, bool host)
{
	u64 old = vcpu->msr.tsc_offset;

	if (host)
		return kvm_restore_tsc(vcpu, data);
	kvm_write_tsc(vcpu, data);
	vcpu->msr.tsc_adjust += vcpu->msr.tsc_offset - old;
	return 0;
}

static int set_computed(struct kvm_vcpu *vcpu, u32 msr, u64 data, bool host)
{
	switch (msr) {
	case MSR_TSC:
		return set_tsc(vcpu, data, host);
	case MSR_TSC_ADJUST:
		return set_tsc_adjust(vcpu, data, host);
	case MSR_APIC_BASE:
		return kvm_set_apic_base(vcpu, data, host);
	case MSR_FEATURE_CONTROL:
		if (!host && (vcpu->msr.feature_control & 1))
			return 1; /* locked */
		vcpu->msr.feature_control = data;
		return 0;
	case MSR_UCODE_REV:
		/* A guest writes 0 before it reads the revision: SDM vol. 3, 9.11.7.1. */
		if (host)
			vcpu->msr.bios_sign_id = data;
		return 0;
	case MSR_PLATFORM_INFO:
		if (!host)
			return 1;
		vcpu->msr.platform_info = data;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		return !host;
	case MSR_PRED_CMD:
		return (data & ~1ULL) != 0; /* IBPB: nothing is predicted */
	case MSR_FLUSH_CMD:
		return (data & ~1ULL) != 0;
	case MSR_TSC_DEADLINE:
		kvm_set_tsc_deadline(vcpu, data);
		return 0;
	case MSR_EFER_INDEX:
		return set_efer(vcpu, data, host);
	case MSR_FS_BASE:
		return set_base(vcpu, SEG_FS, data);
	case MSR_GS_BASE:
		return set_base(vcpu, SEG_GS, data);
	default:
		return MSR_UNKNOWN;
	}
}

int kvm_set_msr(struct kvm_vcpu *vcpu, u32 index, u64 data, bool host)
{
	u64 *field;

	if (!host)
		vcpu->stat->msr_writes++;
	if (index >= MSR_X2APIC && index < MSR_X2APIC + 0x100)
		return kvm_x2apic_msr_write(vcpu, index, data);
	field = stored(vcpu, index);
	if (field) {
		if ((!host && kvm_msr_hidden(vcpu, index)) || check_stored(vcpu, index, data, host))
			return 1;
		*field = data;
		after_store(vcpu, index, data);
		return 0;
	}
	if (is_ignored(index))
		return 0;
	return set_computed(vcpu, index, data, host);
}

/* ---- ioctls ---- */

int kvm_msr_io(struct kvm_vcpu *vcpu, struct kvm_msrs *msrs, bool write)
{
	u32 i;

	if (msrs->nmsrs >= MAX_MSRS_PER_IOCTL)
		return -E2BIG;
	kvm_vcpu_enter_guest_mode(vcpu); /* some write guest memory: slots must stay */
	for (i = 0; i < msrs->nmsrs; i++) {
		struct kvm_msr_entry *e = &msrs->entries[i];
		u64 data = e->data;

		if (write ? kvm_set_msr(vcpu, e->index, data, true)
			  : kvm_get_msr(vcpu, e->index, &data, true))
			break;
		e->data = data;
	}
	kvm_vcpu_leave_guest_mode(vcpu);
	return (int)i;
}

static int feature_value(u32 msr, u64 *data)
{
	switch (msr) {
	case MSR_UCODE_REV:
		*data = 0x100000000ULL;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		*data = ARCH_CAPS;
		return 0;
	case MSR_DE_CFG:
		*data = DE_CFG_LFENCE;
		return 0;
	default:
		return 1;
	}
}

int kvm_feature_msr_io(struct kvm_msrs *msrs)
{
	u32 i;

	if (msrs->nmsrs >= MAX_MSRS_PER_IOCTL)
		return -E2BIG;
	for (i = 0; i < msrs->nmsrs; i++) {
		u64 data;

		if (feature_value(msrs->entries[i].index, &data))
			break;
		msrs->entries[i].data = data;
	}
	return (int)i;
}

int kvm_get_msr_list(struct kvm_msr_list *list, bool features)
{
	const u32 *from = features ? feature_msrs : state_msrs;
	u32 count = features ? ARRAY_SIZE(feature_msrs) : ARRAY_SIZE(state_msrs);
	u32 room = list->nmsrs;

	list->nmsrs = count;
	if (room < count)
		return -E2BIG;
	memcpy(list->indices, from, count * sizeof(from[0]));
	return 0;
}

void kvm_msr_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	struct msr_state *m = &vcpu->msr;

	if (init_event)
		return; /* INIT leaves MSRs alone: SDM vol. 3, table 10-1 */
	memset(m, 0, sizeof(*m));
	m->pat = 0x0007040600070406ULL;
	m->misc_enable = 1; /* fast strings */
	m->bios_sign_id = 0x100000000ULL;
	vcpu->arch->de_cfg = DE_CFG_LFENCE;
	vcpu->arch->hwcr = BIT(24); /* the TSC counts at the P0 rate */
	vcpu->arch->poll_control = 1;
	vcpu->arch->system_time_msr = 0;
	kvm_reset_tsc(vcpu);
}
