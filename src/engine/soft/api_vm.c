/* VM descriptors: api.rst, "vm ioctl". */
#include <errno.h>
#include <string.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"

struct vm_ioctl {
	u32 request;
	int (*fn)(struct kvm *kvm, unsigned long arg);
	bool locked; /* call it with kvm->lock held */
};

#define P(type) ((type *)arg)

static int do_irq_line(struct kvm *kvm, unsigned long arg)
{
	const struct kvm_irq_level *l = P(struct kvm_irq_level);

	if (!irqchip_in_kernel(kvm))
		return -ENXIO;
	kvm_set_irq(kvm, IRQ_SOURCE_USER, l->irq, (int)l->level);
	return 0;
}

static int do_irq_line_status(struct kvm *kvm, unsigned long arg)
{
	struct kvm_irq_level *l = P(struct kvm_irq_level);

	if (!irqchip_in_kernel(kvm))
		return -ENXIO;
	l->status = kvm_set_irq(kvm, IRQ_SOURCE_USER, l->irq, (int)l->level);
	return 0;
}

static int do_signal_msi(struct kvm *kvm, unsigned long arg)
{
	const struct kvm_msi *msi = P(struct kvm_msi);

	if (!irqchip_in_kernel(kvm) || msi->flags)
		return -EINVAL;
	return kvm_set_msi(kvm, msi->address_lo, msi->address_hi, msi->data);
}

static int do_set_memory_region(struct kvm *kvm, unsigned long arg)
{
	return kvm_set_memory_region(kvm, P(struct kvm_userspace_memory_region));
}

static int do_get_dirty_log(struct kvm *kvm, unsigned long arg)
{
	return kvm_get_dirty_log(kvm, P(struct kvm_dirty_log));
}

static int do_clear_dirty_log(struct kvm *kvm, unsigned long arg)
{
	return kvm_clear_dirty_log(kvm, P(struct kvm_clear_dirty_log));
}

static int do_create_vcpu(struct kvm *kvm, unsigned long arg)
{
	return kvm_vm_ioctl_create_vcpu(kvm, arg);
}

static int do_check_extension(struct kvm *kvm, unsigned long arg)
{
	return kvm_check_extension(kvm, arg);
}

static int do_enable_cap(struct kvm *kvm, unsigned long arg)
{
	return kvm_vm_enable_cap(kvm, P(struct kvm_enable_cap));
}

/* Needed by one generation of one vendor's virtualization; kept for the user to read back. */
static int do_set_tss_addr(struct kvm *kvm, unsigned long arg)
{
	if (arg > 0xfffff000UL - 2 * PAGE_SIZE)
		return -EINVAL;
	kvm->tss_addr = arg;
	return 0;
}

static int do_set_identity_map(struct kvm *kvm, unsigned long arg)
{
	if (kvm->nr_vcpus)
		return -EINVAL;
	kvm->identity_map_addr = *P(u64);
	return 0;
}

static int do_set_boot_cpu(struct kvm *kvm, unsigned long arg)
{
	if (kvm->nr_vcpus)
		return -EBUSY;
	kvm->arch->boot_cpu_id = (u32)arg;
	return 0;
}

static int do_create_irqchip(struct kvm *kvm, unsigned long arg)
{
	if (irqchip_in_kernel(kvm))
		return -EEXIST;
	if (kvm->nr_vcpus)
		return -EINVAL;
	return kvm_irqchip_init(kvm, IRQCHIP_KERNEL, 0);
}

static int do_get_irqchip(struct kvm *kvm, unsigned long arg)
{
	return kvm_get_irqchip(kvm, P(struct kvm_irqchip));
}

static int do_set_irqchip(struct kvm *kvm, unsigned long arg)
{
	return kvm_set_irqchip(kvm, P(struct kvm_irqchip));
}

static int create_pit(struct kvm *kvm, u32 flags)
{
	if (kvm->arch->pit)
		return -EEXIST;
	return pic_in_kernel(kvm) ? kvm_create_pit(kvm, flags) : -ENOENT;
}

static int do_create_pit(struct kvm *kvm, unsigned long arg)
{
	return create_pit(kvm, KVM_PIT_SPEAKER_DUMMY);
}

static int do_create_pit2(struct kvm *kvm, unsigned long arg)
{
	return create_pit(kvm, P(struct kvm_pit_config)->flags);
}

static int do_get_pit2(struct kvm *kvm, unsigned long arg)
{
	if (!kvm->arch->pit)
		return -ENXIO;
	kvm_pit_get(kvm, P(struct kvm_pit_state2));
	return 0;
}

static int do_set_pit2(struct kvm *kvm, unsigned long arg)
{
	return kvm->arch->pit ? kvm_pit_set(kvm, P(struct kvm_pit_state2)) : -ENXIO;
}

static int do_get_pit(struct kvm *kvm, unsigned long arg)
{
	struct kvm_pit_state2 state;

	if (!kvm->arch->pit)
		return -ENXIO;
	kvm_pit_get(kvm, &state);
	memcpy(P(struct kvm_pit_state)->channels, state.channels, sizeof(state.channels));
	return 0;
}

static int do_set_pit(struct kvm *kvm, unsigned long arg)
{
	struct kvm_pit_state2 state;

	if (!kvm->arch->pit)
		return -ENXIO;
	kvm_pit_get(kvm, &state);
	memcpy(state.channels, P(struct kvm_pit_state)->channels, sizeof(state.channels));
	return kvm_pit_set(kvm, &state);
}

static int do_reinject_control(struct kvm *kvm, unsigned long arg)
{
	if (!kvm->arch->pit)
		return -ENXIO;
	kvm_pit_set_reinject(kvm, P(struct kvm_reinject_control)->pit_reinject);
	return 0;
}

static int do_set_gsi_routing(struct kvm *kvm, unsigned long arg)
{
	return kvm_set_gsi_routing(kvm, P(struct kvm_irq_routing));
}

static int do_irqfd(struct kvm *kvm, unsigned long arg)
{
	return kvm_irqfd(kvm, P(struct kvm_irqfd));
}

static int do_ioeventfd(struct kvm *kvm, unsigned long arg)
{
	return kvm_ioeventfd(kvm, P(struct kvm_ioeventfd));
}

static int do_register_coalesced(struct kvm *kvm, unsigned long arg)
{
	return kvm_register_coalesced(kvm, P(struct kvm_coalesced_mmio_zone));
}

static int do_unregister_coalesced(struct kvm *kvm, unsigned long arg)
{
	return kvm_unregister_coalesced(kvm, P(struct kvm_coalesced_mmio_zone));
}

static int do_get_clock(struct kvm *kvm, unsigned long arg)
{
	kvm_get_clock(kvm, P(struct kvm_clock_data));
	return 0;
}

static int do_set_clock(struct kvm *kvm, unsigned long arg)
{
	return kvm_set_clock(kvm, P(struct kvm_clock_data));
}

static int do_set_msr_filter(struct kvm *kvm, unsigned long arg)
{
	return kvm_set_msr_filter(kvm, P(struct kvm_msr_filter));
}

static int do_get_stats_fd(struct kvm *kvm, unsigned long arg)
{
	return stats_open(kvm->arch->stat_fd);
}

static const struct vm_ioctl ioctls[] = {
	{KVM_IRQ_LINE, do_irq_line},
	{KVM_IRQ_LINE_STATUS, do_irq_line_status},
	{KVM_SIGNAL_MSI, do_signal_msi},
	{KVM_SET_USER_MEMORY_REGION, do_set_memory_region},
	{KVM_GET_DIRTY_LOG, do_get_dirty_log},
	{KVM_CLEAR_DIRTY_LOG, do_clear_dirty_log},
	{KVM_SET_GSI_ROUTING, do_set_gsi_routing},
	{KVM_IRQFD, do_irqfd},
	{KVM_IOEVENTFD, do_ioeventfd},
	{KVM_CREATE_VCPU, do_create_vcpu},
	{KVM_CHECK_EXTENSION, do_check_extension},
	{KVM_ENABLE_CAP, do_enable_cap},
	{KVM_SET_TSS_ADDR, do_set_tss_addr, true},
	{KVM_SET_IDENTITY_MAP_ADDR, do_set_identity_map, true},
	{KVM_SET_BOOT_CPU_ID, do_set_boot_cpu, true},
	{KVM_CREATE_IRQCHIP, do_create_irqchip, true},
	{KVM_GET_IRQCHIP, do_get_irqchip},
	{KVM_SET_IRQCHIP, do_set_irqchip},
	{KVM_CREATE_PIT, do_create_pit, true},
	{KVM_CREATE_PIT2, do_create_pit2, true},
	{KVM_GET_PIT, do_get_pit, true},
	{KVM_SET_PIT, do_set_pit, true},
	{KVM_GET_PIT2, do_get_pit2, true},
	{KVM_SET_PIT2, do_set_pit2, true},
	{KVM_REINJECT_CONTROL, do_reinject_control, true},
	{KVM_REGISTER_COALESCED_MMIO, do_register_coalesced, true},
	{KVM_UNREGISTER_COALESCED_MMIO, do_unregister_coalesced, true},
	{KVM_GET_CLOCK, do_get_clock},
	{KVM_SET_CLOCK, do_set_clock},
	{KVM_X86_SET_MSR_FILTER, do_set_msr_filter, true},
	{KVM_GET_STATS_FD, do_get_stats_fd},
};

static int vm_ioctl(void *object, unsigned int request, unsigned long arg)
{
	struct kvm *kvm = object;
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(ioctls); i++) {
		if (ioctls[i].request != request)
			continue;
		if (!ioctls[i].locked)
			return ioctls[i].fn(kvm, arg);
		pthread_mutex_lock(&kvm->lock);
		rc = ioctls[i].fn(kvm, arg);
		pthread_mutex_unlock(&kvm->lock);
		return rc;
	}
	return -ENOTTY;
}

static void vm_release(void *object)
{
	kvm_put_vm(object);
}

const struct file_ops vm_file_ops = {.ioctl = vm_ioctl, .release = vm_release};
