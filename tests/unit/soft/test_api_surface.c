/*
 * The API ioctl by ioctl: each that <linux/kvm.h> has for x86 is here, with the test that shows it
 * or with what a kernel answers that lacks it. Then what no other test shows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api_rig.h"
#include "os/event.h"

#define SYS(request, arg) rig->engine->ioctl(rig->sys, request, (unsigned long)(arg))

enum descriptor { SYSTEM, MACHINE, CPU };

/* ---- the table ---- */

struct call {
	enum descriptor on;
	unsigned long request;
	const char *name;
	const char *shown; /* by which test; NULL: absent */
	int rc;		   /* of an absent one */
};
#define HERE(on, request, shown)                                                                   \
	{                                                                                          \
		on, request, #request, shown, 0                                                    \
	}
#define LACKS(on, request, rc)                                                                     \
	{                                                                                          \
		on, request, #request, NULL, rc                                                    \
	}

static const struct call calls[] = {
	HERE(SYSTEM, KVM_GET_API_VERSION, "api:system"),
	HERE(SYSTEM, KVM_CREATE_VM, "api:system"),
	HERE(SYSTEM, KVM_CHECK_EXTENSION, "surface:capabilities"),
	HERE(SYSTEM, KVM_GET_VCPU_MMAP_SIZE, "api:system"),
	HERE(SYSTEM, KVM_GET_SUPPORTED_CPUID, "api:lists"),
	HERE(SYSTEM, KVM_GET_EMULATED_CPUID, "surface:emulated_cpuid"),
	HERE(SYSTEM, KVM_GET_MSR_INDEX_LIST, "api:listed_msrs"),
	HERE(SYSTEM, KVM_GET_MSR_FEATURE_INDEX_LIST, "surface:feature_msrs"),
	HERE(SYSTEM, KVM_GET_MSRS, "surface:feature_msrs"),
	HERE(SYSTEM, KVM_X86_GET_MCE_CAP_SUPPORTED, "surface:machine_check"),
	LACKS(SYSTEM, KVM_GET_SUPPORTED_HV_CPUID, -EINVAL),
	LACKS(SYSTEM, KVM_GET_DEVICE_ATTR, -EINVAL),
	LACKS(SYSTEM, KVM_HAS_DEVICE_ATTR, -EINVAL),

	HERE(MACHINE, KVM_CHECK_EXTENSION, "surface:capabilities"),
	HERE(MACHINE, KVM_ENABLE_CAP, "surface:enable_cap"),
	HERE(MACHINE, KVM_CREATE_VCPU, "api:vcpu_creation"),
	HERE(MACHINE, KVM_SET_USER_MEMORY_REGION, "api_memory:validation"),
	HERE(MACHINE, KVM_GET_DIRTY_LOG, "api_memory:dirty_log"),
	HERE(MACHINE, KVM_CLEAR_DIRTY_LOG, "api_memory:manual_protect"),
	HERE(MACHINE, KVM_SET_TSS_ADDR, "surface:addresses"),
	HERE(MACHINE, KVM_SET_IDENTITY_MAP_ADDR, "surface:addresses"),
	HERE(MACHINE, KVM_SET_BOOT_CPU_ID, "surface:boot_cpu"),
	HERE(MACHINE, KVM_CREATE_IRQCHIP, "api:with_irqchip"),
	HERE(MACHINE, KVM_GET_IRQCHIP, "api:with_irqchip"),
	HERE(MACHINE, KVM_SET_IRQCHIP, "api_io:resample"),
	HERE(MACHINE, KVM_IRQ_LINE, "api_io:interrupt_wakes"),
	HERE(MACHINE, KVM_IRQ_LINE_STATUS, "surface:line_status"),
	HERE(MACHINE, KVM_SIGNAL_MSI, "surface:signal_msi"),
	HERE(MACHINE, KVM_SET_GSI_ROUTING, "api:routing"),
	HERE(MACHINE, KVM_IRQFD, "api_io:irqfd"),
	HERE(MACHINE, KVM_IOEVENTFD, "api_io:ioeventfd_arguments"),
	HERE(MACHINE, KVM_REGISTER_COALESCED_MMIO, "api_io:coalesced"),
	HERE(MACHINE, KVM_UNREGISTER_COALESCED_MMIO, "api_io:coalesced"),
	HERE(MACHINE, KVM_CREATE_PIT, "surface:pit"),
	HERE(MACHINE, KVM_CREATE_PIT2, "surface:pit"),
	HERE(MACHINE, KVM_GET_PIT, "surface:pit"),
	HERE(MACHINE, KVM_SET_PIT, "surface:pit"),
	HERE(MACHINE, KVM_GET_PIT2, "surface:pit"),
	HERE(MACHINE, KVM_SET_PIT2, "surface:pit"),
	HERE(MACHINE, KVM_REINJECT_CONTROL, "surface:pit"),
	HERE(MACHINE, KVM_GET_CLOCK, "api:clock"),
	HERE(MACHINE, KVM_SET_CLOCK, "api:clock"),
	HERE(MACHINE, KVM_X86_SET_MSR_FILTER, "surface:msr_filter, engine/filtered_msr"),
	HERE(MACHINE, KVM_GET_STATS_FD, "surface:vm_statistics"),
	LACKS(MACHINE, KVM_SET_NR_MMU_PAGES, -ENOTTY),
	LACKS(MACHINE, KVM_XEN_HVM_CONFIG, -ENOTTY),
	LACKS(MACHINE, KVM_XEN_HVM_GET_ATTR, -ENOTTY),
	LACKS(MACHINE, KVM_XEN_HVM_SET_ATTR, -ENOTTY),
	LACKS(MACHINE, KVM_HYPERV_EVENTFD, -ENOTTY),
	LACKS(MACHINE, KVM_SET_PMU_EVENT_FILTER, -ENOTTY),
	LACKS(MACHINE, KVM_CREATE_DEVICE, -ENOTTY),
	LACKS(MACHINE, KVM_MEMORY_ENCRYPT_OP, -ENOTTY),
	LACKS(MACHINE, KVM_MEMORY_ENCRYPT_REG_REGION, -ENOTTY),
	LACKS(MACHINE, KVM_MEMORY_ENCRYPT_UNREG_REGION, -ENOTTY),
	LACKS(MACHINE, KVM_RESET_DIRTY_RINGS, -ENOTTY),
	LACKS(MACHINE, KVM_SET_TSC_KHZ, -ENOTTY),
	LACKS(MACHINE, KVM_GET_TSC_KHZ, -ENOTTY),
	LACKS(MACHINE, KVM_SET_MEMORY_REGION, -ENOTTY),
	LACKS(MACHINE, KVM_ASSIGN_PCI_DEVICE, -ENOTTY),
	LACKS(MACHINE, KVM_RUN, -ENOTTY),

	HERE(CPU, KVM_RUN, "api_run:*"),
	HERE(CPU, KVM_GET_REGS, "api:regs"),
	HERE(CPU, KVM_SET_REGS, "api:regs"),
	HERE(CPU, KVM_GET_SREGS, "api:sregs"),
	HERE(CPU, KVM_SET_SREGS, "api:sregs"),
	HERE(CPU, KVM_GET_SREGS2, "surface:sregs2"),
	HERE(CPU, KVM_SET_SREGS2, "surface:sregs2"),
	HERE(CPU, KVM_TRANSLATE, "api_run:translate"),
	HERE(CPU, KVM_INTERRUPT, "api_run:window, engine/inject"),
	HERE(CPU, KVM_NMI, "engine/nmi"),
	HERE(CPU, KVM_GET_MSRS, "api:msrs"),
	HERE(CPU, KVM_SET_MSRS, "api:msrs"),
	HERE(CPU, KVM_SET_CPUID, "surface:old_cpuid"),
	HERE(CPU, KVM_SET_CPUID2, "api:cpuid"),
	HERE(CPU, KVM_GET_CPUID2, "api:cpuid"),
	HERE(CPU, KVM_SET_SIGNAL_MASK, "api_run:signal_mask"),
	HERE(CPU, KVM_GET_FPU, "api:fpu_and_xsave"),
	HERE(CPU, KVM_SET_FPU, "api:fpu_and_xsave"),
	HERE(CPU, KVM_GET_LAPIC, "api_state:move"),
	HERE(CPU, KVM_SET_LAPIC, "api_state:move"),
	HERE(CPU, KVM_GET_MP_STATE, "api:with_irqchip"),
	HERE(CPU, KVM_SET_MP_STATE, "api:without_irqchip"),
	HERE(CPU, KVM_TPR_ACCESS_REPORTING, "surface:tpr_reporting"),
	HERE(CPU, KVM_SET_VAPIC_ADDR, "surface:tpr_reporting"),
	HERE(CPU, KVM_SET_GUEST_DEBUG, "api_run:breakpoints"),
	HERE(CPU, KVM_X86_SETUP_MCE, "surface:machine_check"),
	HERE(CPU, KVM_X86_SET_MCE, "surface:machine_check"),
	HERE(CPU, KVM_GET_VCPU_EVENTS, "api:events"),
	HERE(CPU, KVM_SET_VCPU_EVENTS, "api:events"),
	HERE(CPU, KVM_GET_DEBUGREGS, "api:reset_state"),
	HERE(CPU, KVM_SET_DEBUGREGS, "api:events"),
	HERE(CPU, KVM_ENABLE_CAP, "surface:enable_cap"),
	HERE(CPU, KVM_GET_XSAVE, "api:fpu_and_xsave"),
	HERE(CPU, KVM_GET_XSAVE2, "surface:xsave2"),
	HERE(CPU, KVM_SET_XSAVE, "api:fpu_and_xsave"),
	HERE(CPU, KVM_GET_XCRS, "api:fpu_and_xsave"),
	HERE(CPU, KVM_SET_XCRS, "api:fpu_and_xsave"),
	HERE(CPU, KVM_SET_TSC_KHZ, "surface:tsc_khz"),
	HERE(CPU, KVM_GET_TSC_KHZ, "surface:tsc_khz"),
	HERE(CPU, KVM_KVMCLOCK_CTRL, "surface:kvmclock_ctrl"),
	HERE(CPU, KVM_GET_STATS_FD, "api:statistics"),
	LACKS(CPU, KVM_SMI, -ENOTTY),
	LACKS(CPU, KVM_GET_NESTED_STATE, -EINVAL),
	LACKS(CPU, KVM_SET_NESTED_STATE, -EINVAL),
	LACKS(CPU, KVM_GET_SUPPORTED_HV_CPUID, -EINVAL),
	LACKS(CPU, KVM_XEN_VCPU_GET_ATTR, -EINVAL),
	LACKS(CPU, KVM_XEN_VCPU_SET_ATTR, -EINVAL),
	LACKS(CPU, KVM_HAS_DEVICE_ATTR, -EINVAL),
	LACKS(CPU, KVM_GET_DEVICE_ATTR, -EINVAL),
	LACKS(CPU, KVM_SET_DEVICE_ATTR, -EINVAL),
	LACKS(CPU, KVM_GET_ONE_REG, -EINVAL),
	LACKS(CPU, KVM_DIRTY_TLB, -EINVAL),
	LACKS(CPU, KVM_CREATE_VCPU, -EINVAL),
};

static int fd_of(const struct api_rig *rig, enum descriptor on)
{
	return on == SYSTEM ? rig->sys : on == MACHINE ? rig->vm : rig->vcpu;
}

/* The host's kernel may have more; what it answers where it has nothing, softkvm answers. */
static void test_absent(void **state)
{
	struct api_rig *rig = *state;
	static u8 arg[4096];

	for (size_t i = 0; i < ARRAY_SIZE(calls) && rig_is_soft(rig); i++) {
		const struct call *c = &calls[i];

		if (c->shown)
			continue;
		if (rig->engine->ioctl(fd_of(rig, c->on), c->request, (unsigned long)arg) != c->rc)
			fail_msg("%s on descriptor %d", c->name, c->on);
	}
	/* Of other architectures, and of nobody. */
	assert_int_equal(SYS(KVM_S390_ENABLE_SIE, 0), -EINVAL);
	assert_int_equal(VM(KVM_ARM_SET_DEVICE_ADDR, arg), -ENOTTY);
	assert_int_equal(SYS(_IO(KVMIO, 0xff), 0), -EINVAL);
	assert_int_equal(VM(_IO(KVMIO, 0xff), 0), -ENOTTY);
	assert_int_equal(VCPU(_IO(KVMIO, 0xff), 0), -EINVAL);
	assert_int_equal(VM(_IO(0x12, 0xff), 0), -ENOTTY);
}

/* No call is in the table twice, and each that is there answers otherwise than an absent one to
 * somebody who has the wrong descriptor. */
static void test_table(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		for (size_t k = 0; k < i; k++)
			if (calls[i].on == calls[k].on && calls[i].request == calls[k].request)
				fail_msg("%s is there twice", calls[i].name);
}

/* ---- capabilities ---- */

static const struct {
	u32 cap;
	int value; /* -1: at least one */
} capabilities[] = {
	{KVM_CAP_IRQCHIP, 1},
	{KVM_CAP_HLT, 1},
	{KVM_CAP_USER_MEMORY, 1},
	{KVM_CAP_SET_TSS_ADDR, 1},
	{KVM_CAP_EXT_CPUID, 1},
	{KVM_CAP_CLOCKSOURCE, 1},
	{KVM_CAP_NR_VCPUS, -1},
	{KVM_CAP_NR_MEMSLOTS, -1},
	{KVM_CAP_PIT, 1},
	{KVM_CAP_NOP_IO_DELAY, 1},
	{KVM_CAP_MP_STATE, 1},
	{KVM_CAP_COALESCED_MMIO, 2},
	{KVM_CAP_SYNC_MMU, 1},
	{KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1},
	{KVM_CAP_USER_NMI, 1},
	{KVM_CAP_SET_GUEST_DEBUG, 1},
	{KVM_CAP_REINJECT_CONTROL, 1},
	{KVM_CAP_IRQ_ROUTING, 4096},
	{KVM_CAP_IRQ_INJECT_STATUS, 1},
	{KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1},
	{KVM_CAP_MCE, 32},
	{KVM_CAP_IRQFD, 1},
	{KVM_CAP_PIT2, 1},
	{KVM_CAP_SET_BOOT_CPU_ID, 1},
	{KVM_CAP_PIT_STATE2, 1},
	{KVM_CAP_IOEVENTFD, 1},
	{KVM_CAP_SET_IDENTITY_MAP_ADDR, 1},
	{KVM_CAP_ADJUST_CLOCK, -1},
	{KVM_CAP_INTERNAL_ERROR_DATA, 1},
	{KVM_CAP_VCPU_EVENTS, 1},
	{KVM_CAP_INTR_SHADOW, 1},
	{KVM_CAP_DEBUGREGS, 1},
	{KVM_CAP_X86_ROBUST_SINGLESTEP, 1},
	{KVM_CAP_ENABLE_CAP, 1},
	{KVM_CAP_XSAVE, 1},
	{KVM_CAP_XCRS, 1},
	{KVM_CAP_TSC_CONTROL, -1},
	{KVM_CAP_GET_TSC_KHZ, 1},
	{KVM_CAP_MAX_VCPUS, -1},
	{KVM_CAP_MAX_VCPU_ID, -1},
	{KVM_CAP_TSC_DEADLINE_TIMER, 1},
	{KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS},
	{KVM_CAP_KVMCLOCK_CTRL, 1},
	{KVM_CAP_SIGNAL_MSI, 1},
	{KVM_CAP_READONLY_MEM, 1},
	{KVM_CAP_IRQFD_RESAMPLE, 1},
	{KVM_CAP_EXT_EMUL_CPUID, 1},
	{KVM_CAP_IOAPIC_POLARITY_IGNORED, 1},
	{KVM_CAP_ENABLE_CAP_VM, 1},
	{KVM_CAP_IOEVENTFD_NO_LENGTH, 1},
	{KVM_CAP_CHECK_EXTENSION_VM, 1},
	{KVM_CAP_DISABLE_QUIRKS, 1},
	{KVM_CAP_DISABLE_QUIRKS2, -1},
	{KVM_CAP_SPLIT_IRQCHIP, 1},
	{KVM_CAP_IOEVENTFD_ANY_LENGTH, 1},
	{KVM_CAP_X2APIC_API, -1},
	{KVM_CAP_IMMEDIATE_EXIT, 1},
	{KVM_CAP_GET_MSR_FEATURES, 1},
	{KVM_CAP_MSR_PLATFORM_INFO, 1},
	{KVM_CAP_COALESCED_PIO, 1},
	{KVM_CAP_EXCEPTION_PAYLOAD, 1},
	{KVM_CAP_HALT_POLL, 1},
	{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3},
	{KVM_CAP_LAST_CPU, 1},
	{KVM_CAP_X86_USER_SPACE_MSR, -1},
	{KVM_CAP_X86_MSR_FILTER, 1},
	{KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1},
	{KVM_CAP_SET_GUEST_DEBUG2, -1},
	{KVM_CAP_SREGS2, 1},
	{KVM_CAP_EXIT_HYPERCALL, 1 << 12},
	{KVM_CAP_BINARY_STATS_FD, 1},
	{KVM_CAP_XSAVE2, -1},
};

static int wanted_capability(u32 cap)
{
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
		if (capabilities[i].cap == cap)
			return capabilities[i].value;
	return 0;
}

/* Where the host's kernel has one of them, it has it with the same value. */
static void test_capabilities(void **state)
{
	struct api_rig *rig = *state;

	for (u32 cap = 0; cap < 300; cap++) {
		int want = wanted_capability(cap), is = VM(KVM_CHECK_EXTENSION, cap);

		if (!rig_is_soft(rig) && (!want || !is || cap == KVM_CAP_EXIT_HYPERCALL))
			continue;
		if (want < 0 ? is < 1 : is != want)
			fail_msg("capability %u is %d", cap, is);
		if (rig_is_soft(rig))
			assert_int_equal(SYS(KVM_CHECK_EXTENSION, cap), is);
	}
}

static int enable(struct api_rig *rig, bool vcpu, u32 cap, u64 arg, u32 flags)
{
	struct kvm_enable_cap e = {.cap = cap, .flags = flags, .args = {arg}};

	return vcpu ? VCPU(KVM_ENABLE_CAP, &e) : VM(KVM_ENABLE_CAP, &e);
}

static void test_enable_cap(void **state)
{
	struct api_rig *rig = *state;
	u64 quirks = (u64)VM(KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);

	assert_int_equal(enable(rig, false, KVM_CAP_DISABLE_QUIRKS2, quirks, 1), -EINVAL);
	assert_int_equal(enable(rig, false, KVM_CAP_DISABLE_QUIRKS2, 1ULL << 40, 0), -EINVAL);
	assert_int_equal(enable(rig, false, KVM_CAP_DISABLE_QUIRKS2, quirks, 0), 0);
	assert_int_equal(enable(rig, false, KVM_CAP_HLT, 0, 0), -EINVAL);
	assert_int_equal(enable(rig, false, 0xffff, 0, 0), -EINVAL);
	assert_int_equal(enable(rig, false, KVM_CAP_X2APIC_API, 3, 0), 0);
	assert_int_equal(enable(rig, false, KVM_CAP_X2APIC_API, 0x80, 0), -EINVAL);
	assert_int_equal(enable(rig, false, KVM_CAP_X86_USER_SPACE_MSR, 7, 0), 0);
	assert_int_equal(enable(rig, false, KVM_CAP_EXIT_HYPERCALL, 1, 0), -EINVAL);
	assert_int_equal(enable(rig, false, KVM_CAP_SPLIT_IRQCHIP, 5000, 0), -EINVAL);
	assert_int_equal(enable(rig, false, KVM_CAP_SPLIT_IRQCHIP, 24, 0), -EEXIST); /* vCPUs */
	assert_int_equal(enable(rig, false, KVM_CAP_MAX_VCPU_ID, 4, 0), -EINVAL);
	assert_int_equal(enable(rig, true, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, 0), 0);
	assert_int_equal(enable(rig, true, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0, 1), -EINVAL);
	assert_int_equal(enable(rig, true, KVM_CAP_SPLIT_IRQCHIP, 0, 0), -EINVAL);
	if (!rig_is_soft(rig))
		return;
	assert_int_equal(enable(rig, false, KVM_CAP_X86_USER_SPACE_MSR, 0x80, 0), -EINVAL);
}

/* ---- lists of the system ---- */

static void test_emulated_cpuid(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 64 * sizeof(c->entries[0]));

	c->nent = 64;
	assert_int_equal(SYS(KVM_GET_EMULATED_CPUID, c), 0);
	assert_in_range(c->nent, 0, 64);
	c->nent = 0;
	if (rig_is_soft(rig))
		assert_true(SYS(KVM_GET_EMULATED_CPUID, c) == -E2BIG || !c->nent);
	free(c);
}

static void test_feature_msrs(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + 256 * 4);
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + 256 * sizeof(msrs->entries[0]));

	list->nmsrs = 0;
	assert_int_equal(SYS(KVM_GET_MSR_FEATURE_INDEX_LIST, list), -E2BIG);
	assert_in_range(list->nmsrs, 1, 256);
	assert_int_equal(SYS(KVM_GET_MSR_FEATURE_INDEX_LIST, list), 0);
	for (u32 i = 0; i < list->nmsrs; i++)
		msrs->entries[i].index = list->indices[i];
	msrs->nmsrs = list->nmsrs;
	assert_int_equal(SYS(KVM_GET_MSRS, msrs), (int)list->nmsrs);
	msrs->entries[0].index = 0x10; /* the TSC is no feature; newer kernels read it as 0 */
	if (rig_is_soft(rig))
		assert_int_equal(SYS(KVM_GET_MSRS, msrs), 0);
	msrs->nmsrs = 256;
	assert_int_equal(SYS(KVM_GET_MSRS, msrs), -E2BIG);
	free(list);
	free(msrs);
}

static void test_machine_check(void **state)
{
	struct api_rig *rig = *state;
	u64 supported = 0, cap;
	struct kvm_x86_mce mce = {.status = 1ULL << 63, .bank = 1};

	assert_int_equal(SYS(KVM_X86_GET_MCE_CAP_SUPPORTED, &supported), 0);
	assert_true(supported & 1 << 8);
	cap = 33;
	assert_int_equal(VCPU(KVM_X86_SETUP_MCE, &cap), -EINVAL);
	cap = 0;
	assert_int_equal(VCPU(KVM_X86_SETUP_MCE, &cap), -EINVAL);
	cap = 1ULL << 40 | 1;
	assert_int_equal(VCPU(KVM_X86_SETUP_MCE, &cap), -EINVAL);
	cap = 2 | 1 << 8;
	assert_int_equal(VCPU(KVM_X86_SETUP_MCE, &cap), 0);
	assert_int_equal(VCPU(KVM_X86_SET_MCE, &mce), 0); /* corrected: kept in its bank */
	mce.bank = 2;
	assert_int_equal(VCPU(KVM_X86_SET_MCE, &mce), -EINVAL);
	mce.bank = 0;
	mce.status = 0; /* not valid */
	assert_int_equal(VCPU(KVM_X86_SET_MCE, &mce), -EINVAL);
}

/* ---- the VM ---- */

static void test_addresses(void **state)
{
	struct api_rig *rig = *state;
	u64 identity = 0xfffbc000;

	assert_int_equal(VM(KVM_SET_TSS_ADDR, 0xfffbd000), 0);
	assert_int_equal(VM(KVM_SET_TSS_ADDR, 0x1fffff000), -EINVAL);
	assert_int_equal(VM(KVM_SET_IDENTITY_MAP_ADDR, &identity), -EINVAL); /* vCPUs */
}

static void test_addresses_first(void **state)
{
	struct api_rig *rig = *state;
	u64 identity = 0xfffbc000;

	assert_int_equal(VM(KVM_SET_IDENTITY_MAP_ADDR, &identity), 0);
	identity = 0;
	assert_int_equal(VM(KVM_SET_IDENTITY_MAP_ADDR, &identity), 0);
}

/* The processor that runs first is the one named, and its APIC says so. */
static void test_boot_cpu(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_mp_state mp;
	struct kvm_sregs sregs;

	assert_int_equal(VM(KVM_SET_BOOT_CPU_ID, 1), 0);
	assert_int_equal(VM(KVM_CREATE_IRQCHIP, 0), 0);
	for (unsigned int id = 0; id < 2; id++) {
		int fd = VM(KVM_CREATE_VCPU, id);

		assert_true(fd >= 0);
		assert_int_equal(rig->engine->ioctl(fd, KVM_GET_MP_STATE, (unsigned long)&mp), 0);
		assert_int_equal(mp.mp_state,
				 id == 1 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED);
		assert_int_equal(rig->engine->ioctl(fd, KVM_GET_SREGS, (unsigned long)&sregs), 0);
		assert_int_equal(sregs.apic_base >> 8 & 1, id == 1);
		rig->engine->close(fd);
	}
	assert_int_equal(VM(KVM_SET_BOOT_CPU_ID, 0), -EBUSY);
}

/* How many took it; below 0 when nobody could. */
static void test_line_status(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_irq_level l = {.irq = 4, .level = 1};
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

	assert_int_equal(VM(KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.pic.imr = 0;
	assert_int_equal(VM(KVM_SET_IRQCHIP, &chip), 0);
	assert_int_equal(VM(KVM_IRQ_LINE_STATUS, &l), 0);
	assert_int_equal(l.status, 1);
	l.irq = 2000; /* no route */
	assert_int_equal(VM(KVM_IRQ_LINE_STATUS, &l), 0);
	assert_true((int)l.status < 0);
}

static void test_signal_msi(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x41};
	struct kvm_lapic_state apic;
	u32 spiv = 0x1ff;

	msi.flags = 0x80;
	assert_int_equal(VM(KVM_SIGNAL_MSI, &msi), -EINVAL);
	msi.flags = 0;
	assert_true(VM(KVM_SIGNAL_MSI, &msi) <= 0); /* the APIC is off: nobody */
	assert_int_equal(VCPU(KVM_GET_LAPIC, &apic), 0);
	memcpy(apic.regs + 0xf0, &spiv, 4);
	assert_int_equal(VCPU(KVM_SET_LAPIC, &apic), 0);
	assert_int_equal(VM(KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(VM(KVM_SIGNAL_MSI, &msi), 1); /* one that waits is one that took it */
	assert_int_equal(VCPU(KVM_GET_LAPIC, &apic), 0);
	assert_int_equal(apic.regs[0x200 + 2 * 16], 2); /* IRR, vector 0x41 */
	msi.address_lo = 0xfee07000;			/* a processor that is not there */
	assert_true(VM(KVM_SIGNAL_MSI, &msi) <= 0);
}

static void test_pit(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_pit_config config = {.flags = KVM_PIT_SPEAKER_DUMMY};
	struct kvm_reinject_control r = {.pit_reinject = 0};
	struct kvm_pit_state old;
	struct kvm_pit_state2 new;

	assert_int_equal(VM(KVM_GET_PIT, &old), -ENXIO);
	assert_int_equal(VM(KVM_SET_PIT2, &new), -ENXIO);
	assert_int_equal(VM(KVM_REINJECT_CONTROL, &r), -ENXIO);
	assert_int_equal(VM(KVM_CREATE_PIT2, &config), 0);
	assert_int_equal(VM(KVM_CREATE_PIT, 0), -EEXIST);
	assert_int_equal(VM(KVM_REINJECT_CONTROL, &r), 0);
	assert_int_equal(VM(KVM_GET_PIT, &old), 0);
	old.channels[2].count = 0x1234;
	assert_int_equal(VM(KVM_SET_PIT, &old), 0);
	assert_int_equal(VM(KVM_GET_PIT2, &new), 0);
	assert_int_equal(new.channels[2].count, 0x1234);
	new.flags = KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(VM(KVM_SET_PIT2, &new), 0);
	assert_int_equal(VM(KVM_GET_PIT2, &new), 0);
	assert_int_equal(new.flags &KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_HPET_LEGACY);
}

static void test_pit_without_chips(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_pit_config config = {0};

	assert_int_equal(VM(KVM_CREATE_PIT2, &config), -ENOENT);
}

static void test_msr_filter(void **state)
{
	struct api_rig *rig = *state;
	static u8 bits[KVM_MSR_FILTER_MAX_BITMAP_SIZE + 8];
	struct kvm_msr_filter f = {.flags = 2};

	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), -EINVAL);
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY; /* everything: surely a mistake */
	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), -EINVAL);
	f.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), 0);
	f.ranges[3] = (struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ,
						    .nmsrs = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8,
						    .base = 0xfffffff0, /* wraps: nobody minds */
						    .bitmap = bits};
	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), 0);
	f.ranges[3].nmsrs++;
	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), -EINVAL);
	f.ranges[3].nmsrs = 1;
	f.ranges[3].flags = 4;
	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), -EINVAL);
	f.ranges[3].flags = 0;
	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), -EINVAL);
}

/* Without an exit asked for, what the filter denies is a #GP: here, with no handler, a shutdown. */
static void test_denied_msr(void **state)
{
	struct api_rig *rig = *state;
	u64 bits = 0;
	struct kvm_msr_filter f = {.ranges[0] = {.flags = KVM_MSR_FILTER_READ,
						 .nmsrs = 1,
						 .base = 0x174,
						 .bitmap = (u8 *)&bits}};
	struct kvm_sregs sregs;
	/* mov ecx, 0x174; wrmsr; rdmsr; hlt */
	static const u8 code[] = {0x66, 0xb9, 0x74, 1, 0, 0, 0x0f, 0x30, 0x0f, 0x32, 0xf4};

	assert_int_equal(VM(KVM_X86_SET_MSR_FILTER, &f), 0);
	rig_load(rig, code, sizeof(code));
	rig->ram[0x1000 + sizeof(code)] = 0;
	memset(rig->ram, 0, 0x400);
	rig->ram[13 * 4] = 0x0a; /* #GP at 0x100a: the HLT; its frame says where from */
	rig->ram[13 * 4 + 1] = 0x10;
	assert_int_equal(VCPU(KVM_GET_SREGS, &sregs), 0);
	sregs.idt.base = 0;
	assert_int_equal(VCPU(KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(rig->ram[0x800 - 6], 8); /* IP of the RDMSR */
}

static void test_vm_statistics(void **state)
{
	struct api_rig *rig = *state;
	int fd = VM(KVM_GET_STATS_FD, 0);
	struct kvm_stats_header h;
	char name[64] = "";

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	assert_in_range(h.name_size, 1, sizeof(name));
	assert_in_range(h.num_desc, 1, 1000);
	assert_int_equal(pread(fd, name, h.name_size, h.id_offset), h.name_size);
	assert_int_equal(memcmp(name, "kvm-", 4), 0);
	close(fd);
}

/* ---- the vCPU ---- */

static void test_sregs2(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_sregs2 s, out;
	u64 *pdpt = (u64 *)(rig->ram + 0x3000);

	assert_int_equal(VCPU(KVM_GET_SREGS2, &s), 0);
	assert_int_equal(s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID, 0);
	s.cr2 = 0x123000;
	s.cr3 = 0x3000;
	assert_int_equal(VCPU(KVM_SET_SREGS2, &s), 0);
	assert_int_equal(VCPU(KVM_GET_SREGS2, &out), 0);
	assert_int_equal(out.cr2, 0x123000);
	s.flags = 4;
	assert_int_equal(VCPU(KVM_SET_SREGS2, &s), -EINVAL);
	if (!rig_is_soft(
		    rig)) /* paging without protection is refused alike; PDPTRs differ by host */
		return;
	/* PAE paging: the registers come with the state, whatever memory says meanwhile. */
	pdpt[0] = 0;
	s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	s.cr0 = 0x80000011;
	s.cr4 = 0x20;
	s.pdptrs[0] = 0x4001;
	assert_int_equal(VCPU(KVM_SET_SREGS2, &s), 0);
	assert_int_equal(VCPU(KVM_GET_SREGS2, &out), 0);
	assert_int_equal(out.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_int_equal(out.pdptrs[0], 0x4001);
	/* They mean nothing outside PAE paging. */
	s.cr0 = 0x11;
	assert_int_equal(VCPU(KVM_SET_SREGS2, &s), -EINVAL);
}

static void test_tpr_reporting(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_tpr_access_ctl ctl = {.enabled = 1};
	struct kvm_vapic_addr va = {0};

	assert_int_equal(VCPU(KVM_TPR_ACCESS_REPORTING, &ctl), 0);
	ctl.enabled = 0;
	assert_int_equal(VCPU(KVM_TPR_ACCESS_REPORTING, &ctl), 0);
	ctl.flags = 1;
	assert_int_equal(VCPU(KVM_TPR_ACCESS_REPORTING, &ctl), -EINVAL);
	assert_int_equal(VCPU(KVM_SET_VAPIC_ADDR, &va), 0);
}

static void test_vapic_without_chips(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_vapic_addr va = {0};

	assert_int_equal(VCPU(KVM_SET_VAPIC_ADDR, &va), -EINVAL);
}

static void test_old_cpuid(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_cpuid *old = calloc(1, sizeof(*old) + 2 * sizeof(old->entries[0]));
	struct kvm_cpuid2 *now = calloc(1, sizeof(*now) + 256 * sizeof(now->entries[0]));

	old->nent = 2;
	old->entries[1].function = 1;
	old->entries[1].eax = 0x663;
	old->entries[0].eax = 1;
	old->entries[0].ebx = 0x756e6547;
	assert_int_equal(VCPU(KVM_SET_CPUID, old), 0);
	now->nent = 256;
	assert_int_equal(VCPU(KVM_GET_CPUID2, now), 0);
	if (rig_is_soft(rig)) /* some KVMs add leaves of their own */
		assert_int_equal(now->nent, 2);
	assert_int_equal(now->entries[1].function, 1);
	assert_int_equal(now->entries[1].eax, 0x663);
	assert_int_equal(now->entries[1].flags, 0);
	old->nent = 257;
	assert_int_equal(VCPU(KVM_SET_CPUID, old), -E2BIG);
	free(old);
	free(now);
}

static void test_xsave2(void **state)
{
	struct api_rig *rig = *state;
	int size = VM(KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	u8 *a, *b;

	assert_true(size >= 4096);
	a = calloc(1, (size_t)size);
	b = calloc(1, (size_t)size);
	assert_int_equal(VCPU(KVM_GET_XSAVE2, a), 0);
	assert_int_equal(VCPU(KVM_GET_XSAVE, b), 0);
	assert_memory_equal(a, b, 4096);
	free(a);
	free(b);
}

static void test_tsc_khz(void **state)
{
	struct api_rig *rig = *state;
	int host = VCPU(KVM_GET_TSC_KHZ, 0);

	assert_true(host > 1000);
	/* Half the host's: a processor without TSC scaling may refuse. */
	if (VCPU(KVM_SET_TSC_KHZ, host / 2))
		assert_false(rig_is_soft(rig));
	else
		assert_int_equal(VCPU(KVM_GET_TSC_KHZ, 0), host / 2);
	assert_int_equal(VCPU(KVM_SET_TSC_KHZ, 0), 0); /* back to the host's */
	assert_int_equal(VCPU(KVM_GET_TSC_KHZ, 0), host);
	if (rig_is_soft(rig))
		assert_int_equal(VCPU(KVM_SET_TSC_KHZ, 999), -EINVAL);
}

#define CLOCK_PAGE 0x2000u
#define PAUSED	   2 /* PVCLOCK_GUEST_STOPPED */

static void test_kvmclock_ctrl(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + sizeof(msrs->entries[0]));

	assert_int_equal(VCPU(KVM_KVMCLOCK_CTRL, 0), -EINVAL); /* no clock page */
	msrs->nmsrs = 1;
	msrs->entries[0].index = 0x4b564d01;
	msrs->entries[0].data = CLOCK_PAGE | 1;
	assert_int_equal(VCPU(KVM_SET_MSRS, msrs), 1);
	RIG_LOAD(rig, 0xf4, 0xf4, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->ram[CLOCK_PAGE + 29] & PAUSED, 0);
	assert_int_equal(VCPU(KVM_KVMCLOCK_CTRL, 0), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->ram[CLOCK_PAGE + 29] & PAUSED, PAUSED);
	free(msrs);
}

#define T(name)	      cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
#define T_CHIPS(name) cmocka_unit_test_setup_teardown(name, rig_setup_irqchip, rig_teardown)
#define T_VM(name)    cmocka_unit_test_setup_teardown(name, rig_setup_vm, rig_teardown)

int main(void)
{
	const struct CMUnitTest surface[] = {
		T(test_absent),
		T(test_table),
		T(test_capabilities),
		T(test_enable_cap),
		T(test_emulated_cpuid),
		T(test_feature_msrs),
		T(test_machine_check),
		T(test_addresses),
		T_VM(test_addresses_first),
		T_VM(test_boot_cpu),
		T_CHIPS(test_line_status),
		T_CHIPS(test_signal_msi),
		T_CHIPS(test_pit),
		T(test_pit_without_chips),
		T(test_msr_filter),
		T(test_denied_msr),
		T(test_vm_statistics),
		T(test_sregs2),
		T_CHIPS(test_tpr_reporting),
		T(test_vapic_without_chips),
		T(test_old_cpuid),
		T(test_xsave2),
		T(test_tsc_khz),
		T(test_kvmclock_ctrl),
	};

	return RIG_MAIN(surface);
}
