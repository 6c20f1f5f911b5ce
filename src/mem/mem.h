/*
 * Guest RAM: the one way to it. A guest-physical range is checked once, by mem_slice() or
 * mem_to_iov(), and used through host pointers from then on. Only RAM is reachable this way, never
 * device registers, so a guest cannot make a device's DMA call back into a device.
 *
 * The guest changes RAM while we read it: copy, validate the copy, use the copy.
 *
 * Threads: regions are added before the vCPUs start and stay; everything else may be called from
 * any thread.
 */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"

struct guest_mem;

enum {
	MEM_HUGETLB = 1 << 0,  /* 2 MiB pages from the reserved pool; fails where none are left */
	MEM_SHARED = 1 << 1,   /* a memfd, so that another process (vhost-user) can map it too */
	MEM_READONLY = 1 << 2, /* the guest may not write: firmware */
	MEM_NO_THP = 1 << 3,   /* do not ask for transparent huge pages: tiny guests start faster */
};

struct mem_region {
	gpa_t gpa;
	u64 size;
	u8 *hva;
	int fd; /* of the memfd, or -1 */
	u64 fd_offset;
	u32 flags;
	bool owned; /* mapped by us */
};

struct guest_mem *mem_new(void);
void mem_free(struct guest_mem *mem);

/*
 * Reserve size bytes of RAM at gpa (both multiples of 4 KiB). Memory is given by the host when it
 * is first touched; host and guest address agree modulo 2 MiB so that the host can use huge pages.
 * A region may not overlap another. -ENOMEM, -EEXIST, -EINVAL with the reason.
 */
int mem_add_ram(struct guest_mem *mem, gpa_t gpa, u64 size, u32 flags, struct err *err);
/* The same over the caller's memory (page-aligned), which must outlive mem. */
int mem_add_alias(struct guest_mem *mem, gpa_t gpa, u64 size, void *hva, u32 flags,
		  struct err *err);
/* Forget the region that starts at gpa (it must exist). Only while no vCPU or device runs. */
void mem_remove(struct guest_mem *mem, gpa_t gpa);

/* The regions in order of gpa. */
const struct mem_region *mem_regions(const struct guest_mem *mem, size_t *count);
/* Bytes of RAM (read-only regions not counted). */
u64 mem_size(const struct guest_mem *mem);

/* Host pointer to [gpa, gpa + len), which must lie in one region; NULL otherwise. len 0 gives a
 * pointer where gpa itself is RAM. For writing, read-only regions give NULL too. */
void *mem_slice(const struct guest_mem *mem, gpa_t gpa, u64 len);
void *mem_slice_rw(const struct guest_mem *mem, gpa_t gpa, u64 len);

/* The same over adjoining regions: fills up to max iovecs. Returns the number used, -EFAULT where
 * any byte is not RAM (or not writable, with `write`), -E2BIG. */
int mem_to_iov(const struct guest_mem *mem, gpa_t gpa, u64 len, bool write, struct iovec *iov,
	       size_t max);

/* Copies. 0 or -EFAULT, and then nothing has been copied. mem_write() tells mem_written(). */
int mem_read(const struct guest_mem *mem, gpa_t gpa, void *buf, u64 len);
int mem_write(struct guest_mem *mem, gpa_t gpa, const void *buf, u64 len);

/*
 * Every device that stored into a slice says so afterwards: the dirty bitmap (migration) and
 * engines that keep decoded code need it. Cheap: a few instructions when nobody listens.
 */
void mem_written(struct guest_mem *mem, gpa_t gpa, u64 len);
/* The same for a host pointer obtained from mem_slice() and friends. */
void mem_written_hva(struct guest_mem *mem, const void *hva, u64 len);
/* Who listens; NULL for nobody. Set before devices run. */
void mem_set_written_hook(struct guest_mem *mem, void (*fn)(void *ctx, gpa_t gpa, u64 len),
			  void *ctx);
/* Somebody must hear of each write, so nobody may write behind our back (the kernel's vhost). */
bool mem_has_written_hook(const struct guest_mem *mem);

#endif
