/* The system descriptor: api.rst, "System ioctl". */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"
#include "os/event.h"

struct system {
	const struct kvm_exec_ops *exec;
};

static int create_vm(struct system *sys, unsigned long arg)
{
	return kvm_create_vm(sys->exec, arg);
}

static int get_msrs(struct kvm_msrs *msrs)
{
	return kvm_feature_msr_io(msrs);
}

static int system_ioctl(void *object, unsigned int request, unsigned long arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return arg ? -EINVAL : KVM_API_VERSION;
	case KVM_CREATE_VM:
		return create_vm(object, arg);
	case KVM_CHECK_EXTENSION:
		return kvm_check_extension(NULL, arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return arg ? -EINVAL : (int)(KVM_RUN_PAGES * PAGE_SIZE);
	case KVM_GET_SUPPORTED_CPUID:
		return kvm_get_supported_cpuid((struct kvm_cpuid2 *)arg, false);
	case KVM_GET_EMULATED_CPUID:
		return kvm_get_supported_cpuid((struct kvm_cpuid2 *)arg, true);
	case KVM_GET_MSR_INDEX_LIST:
		return kvm_get_msr_list((struct kvm_msr_list *)arg, false);
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
		return kvm_get_msr_list((struct kvm_msr_list *)arg, true);
	case KVM_GET_MSRS:
		return get_msrs((struct kvm_msrs *)arg);
	case KVM_X86_GET_MCE_CAP_SUPPORTED:
		*(u64 *)arg = KVM_SUPPORTED_MCE_CAP;
		return 0;
	default:
		return -EINVAL;
	}
}

const struct file_ops system_file_ops = {.ioctl = system_ioctl, .release = free};

int soft_open_with(const struct kvm_exec_ops *exec)
{
	struct system *sys = malloc(sizeof(*sys));
	int fd, rc;

	if (!sys)
		return -ENOMEM;
	sys->exec = exec;
	fd = event_new();
	if (fd < 0) {
		free(sys);
		return fd;
	}
	rc = file_install(fd, &system_file_ops, sys);
	if (rc) {
		close(fd);
		free(sys);
		return rc;
	}
	return fd;
}
