/* KVM_CHECK_EXTENSION and KVM_ENABLE_CAP: api.rst, sections 4.4, 4.37 and 7. */
#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"

#define SUPPORTED_QUIRKS                                                                           \
	(KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_OUT_7E_INC_RIP |                            \
	 KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT | KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
#define GUESTDBG_FLAGS                                                                             \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP |                  \
	 KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_INJECT_DB |                \
	 KVM_GUESTDBG_BLOCKIRQ)
#define USER_MSR_REASONS                                                                           \
	(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define HYPERCALL_EXITS BIT(KVM_HC_MAP_GPA_RANGE)

/* Those that are not 1. */
static const struct {
	u32 cap;
	int value;
} values[] = {
	{KVM_CAP_MAX_VCPUS, KVM_MAX_VCPUS},
	{KVM_CAP_MAX_VCPU_ID, KVM_MAX_VCPU_ID},
	{KVM_CAP_NR_MEMSLOTS, KVM_MAX_MEM_SLOTS},
	{KVM_CAP_IRQ_ROUTING, KVM_MAX_IRQ_ROUTES},
	{KVM_CAP_COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET},
	{KVM_CAP_MCE, KVM_MAX_MCE_BANKS},
	{KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS},
	{KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC},
	{KVM_CAP_XSAVE2, sizeof(struct kvm_xsave)},
	{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
	 KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET},
	{KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK},
	{KVM_CAP_SET_GUEST_DEBUG2, GUESTDBG_FLAGS},
	{KVM_CAP_DISABLE_QUIRKS2, SUPPORTED_QUIRKS},
	{KVM_CAP_SPLIT_IRQCHIP, 1},
	{KVM_CAP_X86_USER_SPACE_MSR, USER_MSR_REASONS},
	{KVM_CAP_EXIT_HYPERCALL, HYPERCALL_EXITS},
};

static const u32 present[] = {
	KVM_CAP_IRQCHIP,
	KVM_CAP_HLT,
	KVM_CAP_USER_MEMORY,
	KVM_CAP_SET_TSS_ADDR,
	KVM_CAP_EXT_CPUID,
	KVM_CAP_CLOCKSOURCE,
	KVM_CAP_PIT,
	KVM_CAP_NOP_IO_DELAY,
	KVM_CAP_MP_STATE,
	KVM_CAP_SYNC_MMU,
	KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
	KVM_CAP_USER_NMI,
	KVM_CAP_SET_GUEST_DEBUG,
	KVM_CAP_REINJECT_CONTROL,
	KVM_CAP_IRQ_INJECT_STATUS,
	KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
	KVM_CAP_IRQFD,
	KVM_CAP_PIT2,
	KVM_CAP_SET_BOOT_CPU_ID,
	KVM_CAP_PIT_STATE2,
	KVM_CAP_IOEVENTFD,
	KVM_CAP_SET_IDENTITY_MAP_ADDR,
	KVM_CAP_INTERNAL_ERROR_DATA,
	KVM_CAP_VCPU_EVENTS,
	KVM_CAP_INTR_SHADOW,
	KVM_CAP_DEBUGREGS,
	KVM_CAP_X86_ROBUST_SINGLESTEP,
	KVM_CAP_ENABLE_CAP,
	KVM_CAP_XSAVE,
	KVM_CAP_XCRS,
	KVM_CAP_TSC_CONTROL,
	KVM_CAP_GET_TSC_KHZ,
	KVM_CAP_TSC_DEADLINE_TIMER,
	KVM_CAP_KVMCLOCK_CTRL,
	KVM_CAP_SIGNAL_MSI,
	KVM_CAP_READONLY_MEM,
	KVM_CAP_IRQFD_RESAMPLE,
	KVM_CAP_EXT_EMUL_CPUID,
	KVM_CAP_IOAPIC_POLARITY_IGNORED,
	KVM_CAP_ENABLE_CAP_VM,
	KVM_CAP_IOEVENTFD_NO_LENGTH,
	KVM_CAP_CHECK_EXTENSION_VM,
	KVM_CAP_DISABLE_QUIRKS,
	KVM_CAP_IOEVENTFD_ANY_LENGTH,
	KVM_CAP_IMMEDIATE_EXIT,
	KVM_CAP_GET_MSR_FEATURES,
	KVM_CAP_MSR_PLATFORM_INFO,
	KVM_CAP_COALESCED_PIO,
	KVM_CAP_EXCEPTION_PAYLOAD,
	KVM_CAP_HALT_POLL,
	KVM_CAP_LAST_CPU,
	KVM_CAP_X86_MSR_FILTER,
	KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
	KVM_CAP_SREGS2,
	KVM_CAP_BINARY_STATS_FD,
};

int kvm_check_extension(struct kvm *kvm, unsigned long cap)
{
	if (cap == KVM_CAP_NR_VCPUS) /* recommended: one a host CPU */
		return (int)min(sysconf(_SC_NPROCESSORS_ONLN), (long)KVM_MAX_VCPUS);
	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		if (values[i].cap == cap)
			return values[i].value;
	for (size_t i = 0; i < ARRAY_SIZE(present); i++)
		if (present[i] == cap)
			return 1;
	return 0;
}

static int enable_split_irqchip(struct kvm *kvm, u64 reserved_pins)
{
	if (reserved_pins > KVM_MAX_IRQ_ROUTES)
		return -EINVAL;
	if (irqchip_in_kernel(kvm) || kvm->nr_vcpus)
		return -EEXIST;
	return kvm_irqchip_init(kvm, IRQCHIP_SPLIT, (u32)reserved_pins);
}

static int enable_x2apic_api(struct kvm_arch *arch, u64 flags)
{
	if (flags & ~(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK))
		return -EINVAL;
	if (flags & KVM_X2APIC_API_USE_32BIT_IDS)
		arch->x2apic_32bit_ids = true;
	if (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
		arch->x2apic_no_broadcast_quirk = true;
	return 0;
}

static int enable_manual_dirty_log(struct kvm_arch *arch, u64 flags)
{
	u64 allowed = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		allowed |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (flags & ~allowed)
		return -EINVAL;
	arch->manual_dirty_log = (u32)flags;
	return 0;
}

static int limit_vcpu_id(struct kvm *kvm, u64 limit)
{
	if (!limit || limit > KVM_MAX_VCPU_ID || kvm->nr_vcpus)
		return -EINVAL;
	kvm->arch->max_vcpu_id = (u32)limit;
	return 0;
}

static int enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	struct kvm_arch *arch = kvm->arch;

	switch (cap->cap) {
	case KVM_CAP_DISABLE_QUIRKS2:
		if (cap->args[0] & ~(u64)SUPPORTED_QUIRKS)
			return -EINVAL;
		arch->disabled_quirks = cap->args[0];
		return 0;
	case KVM_CAP_DISABLE_QUIRKS:
		arch->disabled_quirks = cap->args[0];
		return 0;
	case KVM_CAP_SPLIT_IRQCHIP:
		return enable_split_irqchip(kvm, cap->args[0]);
	case KVM_CAP_X2APIC_API:
		return enable_x2apic_api(arch, cap->args[0]);
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return enable_manual_dirty_log(arch, cap->args[0]);
	case KVM_CAP_MSR_PLATFORM_INFO:
		arch->platform_info_denied = !cap->args[0];
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		arch->exception_payload = cap->args[0];
		return 0;
	case KVM_CAP_MAX_VCPU_ID:
		return limit_vcpu_id(kvm, cap->args[0]);
	case KVM_CAP_HALT_POLL:
		if (cap->args[0] != (u32)cap->args[0])
			return -EINVAL;
		arch->max_halt_poll_ns = (u32)cap->args[0];
		return 0;
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (cap->args[0] & ~(u64)USER_MSR_REASONS)
			return -EINVAL;
		arch->user_space_msr_mask = (u32)cap->args[0];
		return 0;
	case KVM_CAP_EXIT_HYPERCALL:
		if (cap->args[0] & ~HYPERCALL_EXITS)
			return -EINVAL;
		arch->hypercall_exits = cap->args[0];
		return 0;
	default:
		return -EINVAL;
	}
}

int kvm_vm_enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	int rc;

	if (cap->flags)
		return -EINVAL;
	pthread_mutex_lock(&kvm->lock);
	rc = enable_cap(kvm, cap);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}
