/*
 * Binary statistics: api.rst, KVM_GET_STATS_FD. The counters live inside a memfd laid out as the
 * kernel lays out its file (header, id, descriptors, data), so that a plain read sees them live.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"
#include "os/file.h"

#define NAME_SIZE 48

#define DESC_SIZE (sizeof(struct kvm_stats_desc) + NAME_SIZE)

struct stat_name {
	const char *name;
	u32 flags;
};

#define C	      KVM_STATS_TYPE_CUMULATIVE
#define I	      KVM_STATS_TYPE_INSTANT
#define P	      KVM_STATS_TYPE_PEAK
#define X(name, type) {#name, (type) | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10},
static const struct stat_name vcpu_names[] = {VCPU_STATS(X)};
static const struct stat_name vm_names[] = {VM_STATS(X)};
#undef X
#undef C
#undef I
#undef P

static u32 data_offset(u32 count)
{
	return (u32)align_up(sizeof(struct kvm_stats_header) + NAME_SIZE + count * DESC_SIZE, 8);
}

static size_t file_size(u32 count)
{
	return align_up(data_offset(count) + count * sizeof(u64), PAGE_SIZE);
}

static void fill(u8 *p, const char *id, const struct stat_name *names, u32 count)
{
	struct kvm_stats_header *h = (struct kvm_stats_header *)p;

	h->name_size = NAME_SIZE;
	h->num_desc = count;
	h->id_offset = sizeof(*h);
	h->desc_offset = h->id_offset + NAME_SIZE;
	h->data_offset = data_offset(count);
	snprintf((char *)p + h->id_offset, NAME_SIZE, "%s", id);
	for (u32 i = 0; i < count; i++) {
		u8 *at = p + h->desc_offset + i * DESC_SIZE;
		struct kvm_stats_desc *d = (struct kvm_stats_desc *)at;

		d->flags = names[i].flags;
		d->size = 1;
		d->offset = i * (u32)sizeof(u64);
		snprintf((char *)at + sizeof(*d), NAME_SIZE, "%s", names[i].name);
	}
}

static int map_new(const char *id, const struct stat_name *names, u32 count, int *fd, void **data)
{
	u8 *p;

	*fd = memfd_new("kvm-stats", file_size(count), false);
	if (*fd < 0)
		return *fd;
	p = mmap(NULL, file_size(count), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (p == MAP_FAILED) {
		fd_close(fd);
		return -ENOMEM;
	}
	fill(p, id, names, count);
	*data = p + data_offset(count);
	return 0;
}

int stats_new(struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	char id[NAME_SIZE];
	void *data;
	int rc;

	if (vcpu) {
		snprintf(id, sizeof(id), "kvm-%d/vcpu-%d", getpid(), vcpu->id);
		rc = map_new(id, vcpu_names, ARRAY_SIZE(vcpu_names), &vcpu->arch->stat_fd, &data);
		if (!rc)
			vcpu->stat = data;
		return rc;
	}
	snprintf(id, sizeof(id), "kvm-%d", getpid());
	rc = map_new(id, vm_names, ARRAY_SIZE(vm_names), &kvm->arch->stat_fd, &data);
	if (!rc)
		kvm->arch->stat = data;
	return rc;
}

void stats_free(struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	u32 count = vcpu ? ARRAY_SIZE(vcpu_names) : ARRAY_SIZE(vm_names);
	u8 *data = vcpu ? (u8 *)vcpu->stat : (u8 *)kvm->arch->stat;

	if (data)
		munmap(data - data_offset(count), file_size(count));
	fd_close(vcpu ? &vcpu->arch->stat_fd : &kvm->arch->stat_fd);
}

/* A descriptor with its own position where /proc allows one, else a duplicate. */
int stats_open(int stat_fd)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", stat_fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	fd = fcntl(stat_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	lseek(fd, 0, SEEK_SET);
	return fd;
}
