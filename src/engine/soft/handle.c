/* ioctl, mmap and close of descriptors. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/soft.h"
#include "os/event.h"

int soft_kvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
	struct file *file = file_get(fd);
	int rc;

	if (!file)
		return -EBADF;
	rc = file->ops->ioctl(file->object, (unsigned int)request, arg);
	file_put(file);
	return rc;
}

/* Lay the first vCPU's ring page over that of another vCPU's mapping: the ring is the VM's. */
static int share_ring(struct kvm_vcpu *vcpu, u8 *map)
{
	u64 offset = KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE;
	void *p;

	if (!vcpu->index)
		return 0;
	/* An old size of 0 makes a second mapping of the shared page. */
	p = mremap(vcpu->kvm->arch->ring, 0, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   map + offset);
	return p == MAP_FAILED ? -errno : 0;
}

void *soft_kvm_mmap(int fd, size_t len)
{
	struct file *file = file_get(fd);
	struct kvm_vcpu *vcpu;
	void *map = NULL;

	if (!file || file->ops != &vcpu_file_ops) {
		errno = file ? ENODEV : EBADF;
		goto out;
	}
	if (!len || len > KVM_RUN_PAGES * PAGE_SIZE) {
		errno = EINVAL;
		goto out;
	}
	vcpu = file->object;
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		map = NULL;
		goto out;
	}
	if (len > KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE && share_ring(vcpu, map)) {
		munmap(map, len);
		map = NULL;
	}
out:
	if (file)
		file_put(file);
	return map;
}

int soft_kvm_close(int fd)
{
	/* Statistics descriptors are plain files and in no table. */
	file_remove(fd);
	/* Not close(): a program may have put this function in its place. */
	return syscall(SYS_close, fd) ? -errno : 0;
}

/* The VM of a descriptor, with a reference to *file that is the caller's; or NULL. */
static struct kvm *vm_get(int vm_fd, struct file **file)
{
	*file = file_get(vm_fd);
	if (*file && (*file)->ops == &vm_file_ops)
		return (*file)->object;
	if (*file)
		file_put(*file);
	return NULL;
}

void soft_kvm_memory_written(int vm_fd, uint64_t gpa, uint64_t len)
{
	struct file *file;
	struct kvm *kvm = vm_get(vm_fd, &file);

	if (!kvm)
		return;
	kvm->exec->memory_written(kvm, gpa, len);
	file_put(file);
}

void soft_kvm_irqfd_signal(int vm_fd, int fd)
{
	struct file *file;
	struct kvm *kvm = vm_get(vm_fd, &file);

	if (!kvm || !kvm_irqfd_signal(kvm, fd))
		event_signal(fd);
	if (kvm)
		file_put(file);
}
