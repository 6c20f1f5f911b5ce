#define _GNU_SOURCE
#include "engine/soft/code_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static int map_twice(struct code_memory *m, int fd, size_t size)
{
	void *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *rx;
	int ret;

	if (rw == MAP_FAILED)
		return -errno;
	rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (rx == MAP_FAILED) {
		ret = -errno;
		munmap(rw, size);
		return ret;
	}
	*m = (struct code_memory){.rw = rw, .rx = rx, .size = size};
	return 0;
}

int code_memory_map(struct code_memory *m, const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = ftruncate(fd, (off_t)size) < 0 ? -errno : map_twice(m, fd, size);
	close(fd);
	return ret;
}

void code_memory_unmap(struct code_memory *m)
{
	if (!m->rx)
		return;
	munmap(m->rw, m->size);
	munmap((void *)(uintptr_t)m->rx, m->size);
	*m = (struct code_memory){.rw = NULL};
}
