/*
 * Invariants:
 * 1. A ring has a backend (is the kernel's) from VHOST_NET_SET_BACKEND with a descriptor to the
 * same with -1, which waits for what is in flight. Everything else is set while it has none.
 */
#include "net/vhost_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int call(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) ? -errno : 0;
}

int vhost_open(u64 *features, struct err *err)
{
	int fd = open(VHOST_DEVICE, O_RDWR | O_CLOEXEC), rc;

	if (fd < 0 && errno == ENOENT)
		return err_set(err, ENOENT,
			       "vhost=on: no " VHOST_DEVICE
			       " (modprobe vhost_net), or leave it out");
	if (fd < 0)
		return err_set(err, errno, "vhost=on: " VHOST_DEVICE ": %s", strerror(errno));
	rc = call(fd, VHOST_SET_OWNER, NULL);
	if (!rc)
		rc = call(fd, VHOST_GET_FEATURES, features);
	if (!rc)
		return fd;
	close(fd);
	return err_set(err, -rc, "vhost=on: " VHOST_DEVICE ": %s", strerror(-rc));
}

int vhost_set_memory(int fd, const struct net_memory *memory, unsigned int n)
{
	struct vhost_memory *table = calloc(1, sizeof(*table) + n * sizeof(table->regions[0]));
	int rc;

	if (!table)
		return -ENOMEM;
	table->nregions = n;
	for (unsigned int i = 0; i < n; i++)
		table->regions[i] = (struct vhost_memory_region){
			.guest_phys_addr = memory[i].gpa,
			.memory_size = memory[i].size,
			.userspace_addr = (u64)(uintptr_t)memory[i].hva,
		};
	rc = call(fd, VHOST_SET_MEM_TABLE, table);
	free(table);
	return rc;
}

static int set_ring(int fd, unsigned int index, const struct net_vring *ring)
{
	struct vhost_vring_state size = {.index = index, .num = ring->size};
	struct vhost_vring_state base = {.index = index, .num = ring->base};
	struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = (u64)(uintptr_t)ring->desc,
		.avail_user_addr = (u64)(uintptr_t)ring->avail,
		.used_user_addr = (u64)(uintptr_t)ring->used,
	};
	struct vhost_vring_file kick = {.index = index, .fd = ring->kick_fd};
	struct vhost_vring_file signal = {.index = index, .fd = ring->call_fd};
	int rc = call(fd, VHOST_SET_VRING_NUM, &size);

	if (!rc)
		rc = call(fd, VHOST_SET_VRING_BASE, &base);
	if (!rc)
		rc = call(fd, VHOST_SET_VRING_ADDR, &addr);
	if (!rc)
		rc = call(fd, VHOST_SET_VRING_KICK, &kick);
	if (!rc)
		rc = call(fd, VHOST_SET_VRING_CALL, &signal);
	return rc;
}

static int set_backend(int fd, unsigned int index, int tap)
{
	struct vhost_vring_file file = {.index = index, .fd = tap};

	return call(fd, VHOST_NET_SET_BACKEND, &file);
}

int vhost_start(int fd, u64 features, const struct net_vring ring[2], int tap)
{
	int rc = call(fd, VHOST_SET_FEATURES, &features);

	for (unsigned int i = 0; i < 2 && !rc; i++)
		rc = set_ring(fd, i, &ring[i]);
	for (unsigned int i = 0; i < 2 && !rc; i++)
		rc = set_backend(fd, i, tap);
	if (rc)
		for (unsigned int i = 0; i < 2; i++)
			set_backend(fd, i, -1);
	return rc;
}

void vhost_stop(int fd, u16 base[2])
{
	for (unsigned int i = 0; i < 2; i++) {
		struct vhost_vring_state state = {.index = i};

		set_backend(fd, i, -1);
		call(fd, VHOST_GET_VRING_BASE, &state);
		base[i] = (u16)state.num;
	}
}
