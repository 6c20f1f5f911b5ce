/*
 * Life of a vCPU, and how others stop, kick and wake it.
 *
 * Invariants:
 * 1. in_guest is 1 only while the vCPU's thread may touch what kvm_for_each_vcpu_stopped() lets
 *    others change. A vCPU sets it, then looks at park.stop; a stopper sets park.stop, then looks
 *    at in_guest (both sequentially consistent), so one of them sees the other.
 * 2. kvm->vcpus only grows; entries below nr_vcpus are complete.
 * 3. A kick raises wake before it looks at sleeping; a sleeper sets sleeping before it compares
 *    wake: no kick is lost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"
#include "os/clock.h"
#include "os/file.h"

/* ---- kicks ---- */

void kvm_vcpu_kick(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *arch = vcpu->arch;

	__atomic_store_n(&vcpu->exit_request, 1, __ATOMIC_RELEASE);
	__atomic_fetch_add(&arch->wake, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&arch->sleeping, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &arch->wake, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void kvm_make_all_requests(struct kvm *kvm, int req)
{
	struct kvm_vcpu *vcpu;
	u32 i;

	kvm_for_each_vcpu(i, vcpu, kvm) kvm_make_request(vcpu, req);
}

/* ---- guest mode and stopping ---- */

void kvm_vcpu_leave_guest_mode(struct kvm_vcpu *vcpu)
{
	struct kvm_arch *arch = vcpu->kvm->arch;

	__atomic_store_n(&vcpu->in_guest, 0, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&arch->park.stop, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&arch->park.lock);
	pthread_cond_broadcast(&arch->park.left);
	pthread_mutex_unlock(&arch->park.lock);
}

void kvm_vcpu_enter_guest_mode(struct kvm_vcpu *vcpu)
{
	struct kvm_arch *arch = vcpu->kvm->arch;

	for (;;) {
		__atomic_store_n(&vcpu->in_guest, 1, __ATOMIC_SEQ_CST);
		if (likely(!__atomic_load_n(&arch->park.stop, __ATOMIC_SEQ_CST)))
			return;
		kvm_vcpu_leave_guest_mode(vcpu);
		vcpu->stat->parked++;
		pthread_mutex_lock(&arch->park.lock);
		while (__atomic_load_n(&arch->park.stop, __ATOMIC_RELAXED))
			pthread_cond_wait(&arch->park.resumed, &arch->park.lock);
		pthread_mutex_unlock(&arch->park.lock);
	}
}

static void wait_until_out(struct kvm_vcpu *vcpu)
{
	struct kvm_arch *arch = vcpu->kvm->arch;

	while (__atomic_load_n(&vcpu->in_guest, __ATOMIC_SEQ_CST))
		pthread_cond_wait(&arch->park.left, &arch->park.lock);
}

void kvm_for_each_vcpu_stopped(struct kvm *kvm, void (*fn)(struct kvm *kvm, void *arg), void *arg)
{
	struct kvm_arch *arch = kvm->arch;
	struct kvm_vcpu *vcpu;
	u32 i;

	__atomic_store_n(&arch->park.stop, 1, __ATOMIC_SEQ_CST);
	kvm_for_each_vcpu(i, vcpu, kvm)
	{
		if (!__atomic_load_n(&vcpu->in_guest, __ATOMIC_SEQ_CST))
			continue;
		kvm_make_request(vcpu, KVM_REQ_STOP);
		kvm_vcpu_kick(vcpu);
	}
	pthread_mutex_lock(&arch->park.lock);
	kvm_for_each_vcpu(i, vcpu, kvm) wait_until_out(vcpu);
	pthread_mutex_unlock(&arch->park.lock);
	fn(kvm, arg);
	pthread_mutex_lock(&arch->park.lock);
	__atomic_store_n(&arch->park.stop, 0, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&arch->park.resumed);
	pthread_mutex_unlock(&arch->park.lock);
}

/* ---- life ---- */

bool kvm_is_bsp(const struct kvm_vcpu *vcpu)
{
	return (u32)vcpu->id == vcpu->kvm->arch->boot_cpu_id;
}

void kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	vcpu->kvm->exec->vcpu_reset(vcpu, init_event);
	kvm_msr_reset(vcpu, init_event);
	if (vcpu->apic)
		kvm_lapic_reset(vcpu, init_event);
	vcpu->kvm->exec->state_changed(vcpu);
}

/* The shared pages. */
static int map_run(struct kvm_vcpu *vcpu)
{
	size_t len = KVM_RUN_PAGES * PAGE_SIZE;
	u8 *p;

	vcpu->fd = memfd_new("kvm-vcpu", len, false);
	if (vcpu->fd < 0)
		return vcpu->fd;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	vcpu->run = (struct kvm_run *)p;
	vcpu->pio_data = p + KVM_PIO_PAGE_OFFSET * PAGE_SIZE;
	return 0;
}

void kvm_destroy_vcpu(struct kvm_vcpu *vcpu)
{
	if (vcpu->cpu)
		vcpu->kvm->exec->vcpu_free(vcpu);
	kvm_lapic_free(vcpu);
	stats_free(vcpu->kvm, vcpu);
	if (vcpu->run)
		munmap(vcpu->run, KVM_RUN_PAGES * PAGE_SIZE);
	pthread_mutex_destroy(&vcpu->mutex);
	free(vcpu->cpuid);
	free(vcpu->arch);
	free(vcpu);
}

static struct kvm_vcpu *alloc_vcpu(struct kvm *kvm, int id)
{
	struct kvm_vcpu *vcpu = aligned_alloc(64, (sizeof(*vcpu) + 63) & ~63UL);

	if (!vcpu)
		return NULL;
	memset(vcpu, 0, sizeof(*vcpu));
	vcpu->arch = calloc(1, sizeof(*vcpu->arch));
	if (!vcpu->arch) {
		free(vcpu);
		return NULL;
	}
	vcpu->kvm = kvm;
	vcpu->id = id;
	vcpu->fd = vcpu->arch->stat_fd = -1;
	vcpu->arch->pending_external_vector = -1;
	vcpu->arch->pending_ioapic_eoi = -1;
	vcpu->arch->tsc_khz = host_tsc_khz();
	pthread_mutex_init(&vcpu->mutex, NULL);
	return vcpu;
}

static int init_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;
	int rc = map_run(vcpu);

	if (!rc)
		rc = stats_new(kvm, vcpu);
	if (!rc && irqchip_in_kernel(kvm))
		rc = kvm_lapic_create(vcpu);
	if (!rc)
		rc = kvm->exec->vcpu_init(vcpu);
	if (rc)
		return rc;
	vcpu->mp_state = irqchip_in_kernel(kvm) && !kvm_is_bsp(vcpu) ? KVM_MP_STATE_UNINITIALIZED
								     : KVM_MP_STATE_RUNNABLE;
	kvm_update_cpuid(vcpu);
	kvm_vcpu_reset(vcpu, false);
	return 0;
}

static int check_new_id(struct kvm *kvm, unsigned long id)
{
	if (id >= kvm->arch->max_vcpu_id || kvm->nr_vcpus >= KVM_MAX_VCPUS)
		return -EINVAL;
	return kvm->arch->vcpu_by_id[id] ? -EEXIST : 0;
}

/* All vCPUs are stopped: routing of interrupts reads these tables without a lock. */
static void publish_vcpu(struct kvm *kvm, void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	vcpu->index = (int)kvm->nr_vcpus;
	if (!vcpu->index)
		kvm->arch->ring =
			(struct kvm_coalesced_mmio_ring *)((u8 *)vcpu->run +
							   KVM_COALESCED_MMIO_PAGE_OFFSET *
								   PAGE_SIZE);
	kvm->vcpus[vcpu->index] = vcpu;
	__atomic_store_n(&kvm->arch->vcpu_by_id[vcpu->id], vcpu, __ATOMIC_RELEASE);
	__atomic_store_n(&kvm->nr_vcpus, kvm->nr_vcpus + 1, __ATOMIC_RELEASE);
}

static int create_vcpu(struct kvm *kvm, unsigned long id)
{
	struct kvm_vcpu *vcpu;
	int rc = check_new_id(kvm, id);

	if (rc)
		return rc;
	vcpu = alloc_vcpu(kvm, (int)id);
	if (!vcpu)
		return -ENOMEM;
	rc = init_vcpu(vcpu);
	if (!rc)
		rc = file_install(vcpu->fd, &vcpu_file_ops, vcpu);
	if (rc) {
		if (vcpu->fd >= 0)
			close(vcpu->fd);
		kvm_destroy_vcpu(vcpu);
		return rc;
	}
	kvm_get_vm(kvm);
	kvm_for_each_vcpu_stopped(kvm, publish_vcpu, vcpu);
	return vcpu->fd;
}

int kvm_vm_ioctl_create_vcpu(struct kvm *kvm, unsigned long id)
{
	int rc;

	pthread_mutex_lock(&kvm->lock);
	rc = create_vcpu(kvm, id);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}
