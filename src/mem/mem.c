/*
 * Invariants:
 * 1. regions[] is sorted by gpa and no two regions overlap or wrap.
 * 2. `last` is only a hint: any value that indexes regions[] is right, so races on it are harmless.
 */
#define _GNU_SOURCE
#include "mem/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/str.h"
#include "os/file.h"

#define MAX_REGIONS 64
#define HUGE_SIZE   (2 * MiB)

struct guest_mem {
	struct mem_region regions[MAX_REGIONS];
	size_t count;
	u32 last;
	void (*written)(void *ctx, gpa_t gpa, u64 len);
	void *written_ctx;
};

struct guest_mem *mem_new(void)
{
	return calloc(1, sizeof(struct guest_mem));
}

/*
 * A mapping of ours starts at the 2 MiB boundary below gpa, so that hva and gpa agree modulo 2 MiB
 * (else the host cannot use huge pages); fd_offset is the distance.
 */
static u64 mapping_size(const struct mem_region *r)
{
	return align_up(r->fd_offset + r->size, r->flags & MEM_HUGETLB ? HUGE_SIZE : PAGE_SIZE);
}

static void region_unmap(struct mem_region *r)
{
	if (!r->owned)
		return;
	munmap(r->hva - r->fd_offset, mapping_size(r));
	fd_close(&r->fd);
}

void mem_free(struct guest_mem *mem)
{
	if (!mem)
		return;
	for (size_t i = 0; i < mem->count; i++)
		region_unmap(&mem->regions[i]);
	free(mem);
}

const struct mem_region *mem_regions(const struct guest_mem *mem, size_t *count)
{
	*count = mem->count;
	return mem->regions;
}

u64 mem_size(const struct guest_mem *mem)
{
	u64 sum = 0;

	for (size_t i = 0; i < mem->count; i++)
		if (!(mem->regions[i].flags & MEM_READONLY))
			sum += mem->regions[i].size;
	return sum;
}

static int region_insert(struct guest_mem *mem, const struct mem_region *r, struct err *err)
{
	size_t at = 0;

	if (!r->size || !is_aligned(r->gpa | r->size, PAGE_SIZE) || r->gpa + r->size < r->gpa)
		return err_set(err, EINVAL, "memory of %llu bytes at 0x%llx is not whole pages",
			       (unsigned long long)r->size, (unsigned long long)r->gpa);
	for (size_t i = 0; i < mem->count; i++) {
		const struct mem_region *o = &mem->regions[i];

		if (ranges_overlap(r->gpa, r->size, o->gpa, o->size))
			return err_set(err, EEXIST, "memory at 0x%llx overlaps memory at 0x%llx",
				       (unsigned long long)r->gpa, (unsigned long long)o->gpa);
		at += o->gpa < r->gpa;
	}
	if (mem->count == MAX_REGIONS)
		return err_set(err, ENOSPC, "more than %d memory regions", MAX_REGIONS);
	memmove(&mem->regions[at + 1], &mem->regions[at],
		(mem->count - at) * sizeof(mem->regions[0]));
	mem->regions[at] = *r;
	mem->count++;
	return 0;
}

/* Reserve address space with 2 MiB alignment, then map over it: what is cut off goes back. */
static void *map_aligned(u64 size, int fd, u32 flags)
{
	int extra = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	u64 reserve, head;
	u8 *p, *hva;

	if (add_overflows(&reserve, size, HUGE_SIZE))
		return NULL;
	p = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	hva = (u8 *)align_up((uintptr_t)p, HUGE_SIZE);
	head = (u64)(hva - p);
	if (head)
		munmap(p, head);
	if (reserve - head - size)
		munmap(hva + size, reserve - head - size);
	if (mmap(hva, size, PROT_READ | PROT_WRITE, extra | MAP_FIXED | MAP_NORESERVE, fd, 0) ==
	    MAP_FAILED) {
		munmap(hva, size);
		return NULL;
	}
	if (!(flags & (MEM_NO_THP | MEM_HUGETLB)))
		madvise(hva, size, MADV_HUGEPAGE);
	return hva;
}

int mem_add_ram(struct guest_mem *mem, gpa_t gpa, u64 size, u32 flags, struct err *err)
{
	struct mem_region r = {.gpa = gpa,
			       .size = size,
			       .fd = -1,
			       .fd_offset = gpa % HUGE_SIZE,
			       .flags = flags,
			       .owned = true};
	char text[32];
	int rc;

	format_size(text, sizeof(text), size);
	if (flags & (MEM_SHARED | MEM_HUGETLB)) {
		r.fd = memfd_new("guest-ram", mapping_size(&r), flags & MEM_HUGETLB);
		if (r.fd < 0)
			return err_set(
				err, -r.fd, "%s of guest memory: %s%s", text, strerror(-r.fd),
				flags & MEM_HUGETLB ? "; reserve huge pages in "
						      "/proc/sys/vm/nr_hugepages, or leave out "
						      "--hugepages"
						    : "");
	}
	r.hva = map_aligned(mapping_size(&r), r.fd, flags);
	if (!r.hva) {
		rc = errno ? errno : ENOMEM;
		fd_close(&r.fd);
		return err_set(err, rc, "%s of guest memory cannot be mapped: %s", text,
			       strerror(rc));
	}
	r.hva += r.fd_offset;
	rc = region_insert(mem, &r, err);
	if (rc)
		region_unmap(&r);
	return rc;
}

int mem_add_alias(struct guest_mem *mem, gpa_t gpa, u64 size, void *hva, u32 flags, struct err *err)
{
	struct mem_region r = {.gpa = gpa, .size = size, .hva = hva, .fd = -1, .flags = flags};

	return region_insert(mem, &r, err);
}

void mem_remove(struct guest_mem *mem, gpa_t gpa)
{
	for (size_t i = 0; i < mem->count; i++) {
		if (mem->regions[i].gpa != gpa)
			continue;
		region_unmap(&mem->regions[i]);
		mem->count--;
		memmove(&mem->regions[i], &mem->regions[i + 1],
			(mem->count - i) * sizeof(mem->regions[0]));
		mem->last = 0;
		return;
	}
}

static const struct mem_region *region_at(const struct guest_mem *mem, gpa_t gpa)
{
	u32 hint = __atomic_load_n(&mem->last, __ATOMIC_RELAXED);
	const struct mem_region *r = &mem->regions[hint];

	if (likely(gpa - r->gpa < r->size))
		return r;
	for (size_t i = 0; i < mem->count; i++) {
		r = &mem->regions[i];
		if (gpa - r->gpa >= r->size)
			continue;
		__atomic_store_n((u32 *)(uintptr_t)&mem->last, (u32)i, __ATOMIC_RELAXED);
		return r;
	}
	return NULL;
}

static void *slice(const struct guest_mem *mem, gpa_t gpa, u64 len, bool write)
{
	const struct mem_region *r = region_at(mem, gpa);

	if (!r || len > r->size - (gpa - r->gpa) || (write && (r->flags & MEM_READONLY)))
		return NULL;
	return r->hva + (gpa - r->gpa);
}

void *mem_slice(const struct guest_mem *mem, gpa_t gpa, u64 len)
{
	return slice(mem, gpa, len, false);
}

void *mem_slice_rw(const struct guest_mem *mem, gpa_t gpa, u64 len)
{
	return slice(mem, gpa, len, true);
}

int mem_to_iov(const struct guest_mem *mem, gpa_t gpa, u64 len, bool write, struct iovec *iov,
	       size_t max)
{
	size_t n = 0;

	if (gpa + len < gpa)
		return -EFAULT;
	while (len) {
		const struct mem_region *r = region_at(mem, gpa);
		u64 part;

		if (!r || (write && (r->flags & MEM_READONLY)))
			return -EFAULT;
		if (n == max)
			return -E2BIG;
		part = min(len, r->size - (gpa - r->gpa));
		iov[n].iov_base = r->hva + (gpa - r->gpa);
		iov[n++].iov_len = part;
		gpa += part;
		len -= part;
	}
	return (int)n;
}

static int copy(const struct guest_mem *mem, gpa_t gpa, void *buf, u64 len, bool write)
{
	struct iovec iov[MAX_REGIONS];
	int n = mem_to_iov(mem, gpa, len, write, iov, MAX_REGIONS);

	if (n < 0)
		return -EFAULT;
	for (int i = 0; i < n; i++) {
		if (write)
			memcpy(iov[i].iov_base, buf, iov[i].iov_len);
		else
			memcpy(buf, iov[i].iov_base, iov[i].iov_len);
		buf = (char *)buf + iov[i].iov_len;
	}
	return 0;
}

int mem_read(const struct guest_mem *mem, gpa_t gpa, void *buf, u64 len)
{
	return copy(mem, gpa, buf, len, false);
}

int mem_write(struct guest_mem *mem, gpa_t gpa, const void *buf, u64 len)
{
	int rc = copy(mem, gpa, (void *)(uintptr_t)buf, len, true);

	if (!rc)
		mem_written(mem, gpa, len);
	return rc;
}

void mem_written(struct guest_mem *mem, gpa_t gpa, u64 len)
{
	if (mem->written && len)
		mem->written(mem->written_ctx, gpa, len);
}

void mem_written_hva(struct guest_mem *mem, const void *hva, u64 len)
{
	if (!mem->written || !len)
		return;
	for (size_t i = 0; i < mem->count; i++) {
		const struct mem_region *r = &mem->regions[i];
		u64 offset = (u64)((const u8 *)hva - r->hva);

		if (offset < r->size) {
			mem->written(mem->written_ctx, r->gpa + offset, len);
			return;
		}
	}
}

void mem_set_written_hook(struct guest_mem *mem, void (*fn)(void *ctx, gpa_t gpa, u64 len),
			  void *ctx)
{
	mem->written = fn;
	mem->written_ctx = ctx;
}

bool mem_has_written_hook(const struct guest_mem *mem)
{
	return mem->written != NULL;
}
