/* Life of a virtual machine. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"
#include "os/event.h"

void kvm_get_vm(struct kvm *kvm)
{
	__atomic_fetch_add(&kvm->arch->refs, 1, __ATOMIC_RELAXED);
}

static void destroy_vm(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;

	kvm_eventfds_free(kvm);
	kvm_irqchip_stop(kvm);
	helper_stop(kvm);
	for (u32 i = 0; i < kvm->nr_vcpus; i++)
		kvm_destroy_vcpu(kvm->vcpus[i]);
	kvm->nr_vcpus = 0;
	kvm->exec->vm_free(kvm);
	kvm_irqchip_free(kvm);
	kvm_io_bus_free(kvm);
	kvm_msr_filter_free(kvm);
	kvm_free_memslots(kvm);
	stats_free(kvm, NULL);
	pthread_mutex_destroy(&kvm->lock);
	pthread_mutex_destroy(&arch->irq_lock);
	pthread_mutex_destroy(&arch->timer_lock);
	pthread_mutex_destroy(&arch->park.lock);
	pthread_cond_destroy(&arch->timer_idle);
	pthread_cond_destroy(&arch->park.left);
	pthread_cond_destroy(&arch->park.resumed);
	free(arch);
	free(kvm);
}

void kvm_put_vm(struct kvm *kvm)
{
	if (!__atomic_sub_fetch(&kvm->arch->refs, 1, __ATOMIC_ACQ_REL))
		destroy_vm(kvm);
}

static void init_locks(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;

	pthread_mutex_init(&kvm->lock, NULL);
	pthread_mutex_init(&arch->irq_lock, NULL);
	pthread_mutex_init(&arch->timer_lock, NULL);
	pthread_mutex_init(&arch->park.lock, NULL);
	pthread_cond_init(&arch->timer_idle, NULL);
	pthread_cond_init(&arch->park.left, NULL);
	pthread_cond_init(&arch->park.resumed, NULL);
}

/* Everything but the descriptor. kvm_put_vm() undoes it. */
static int init_vm(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;
	int rc;

	arch->refs = 1;
	arch->max_vcpu_id = KVM_MAX_VCPU_ID;
	arch->max_halt_poll_ns = KVM_HALT_POLL_NS;
	arch->epoll_fd = arch->timer_fd = arch->stop_fd = arch->stat_fd = -1;
	init_locks(kvm);
	list_init(&arch->ioeventfds);
	list_init(&arch->irqfds);
	for (u32 i = 0; i < IRQFD_BUCKETS; i++)
		list_init(&arch->irqfd_bucket[i]);
	list_init(&arch->timers);
	kvm_clock_init(kvm);
	kvm->memslots = calloc(1, sizeof(*kvm->memslots));
	if (!kvm->memslots)
		return -ENOMEM;
	rc = stats_new(kvm, NULL);
	return rc ? rc : kvm->exec->vm_init(kvm);
}

static struct kvm *alloc_vm(const struct kvm_exec_ops *exec)
{
	struct kvm *kvm = calloc(1, sizeof(*kvm));

	if (!kvm)
		return NULL;
	kvm->exec = exec;
	kvm->arch = calloc(1, sizeof(*kvm->arch));
	if (!kvm->arch) {
		free(kvm);
		return NULL;
	}
	return kvm;
}

int kvm_create_vm(const struct kvm_exec_ops *exec, unsigned long type)
{
	struct kvm *kvm;
	int rc;

	if (type)
		return -EINVAL;
	kvm = alloc_vm(exec);
	if (!kvm)
		return -ENOMEM;
	rc = init_vm(kvm);
	if (rc)
		goto out;
	rc = kvm->fd = event_new();
	if (rc < 0)
		goto out;
	rc = file_install(kvm->fd, &vm_file_ops, kvm);
	if (!rc)
		return kvm->fd;
	close(kvm->fd);
out:
	kvm_put_vm(kvm);
	return rc;
}
