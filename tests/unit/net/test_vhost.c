/* The calls that hand rings to vhost-net and take them back, with ioctl() played by this file
 * (-Wl,--wrap=ioctl). What the kernel does with them: boot/net-vhost. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/vhost.h>
#include <string.h>
#include <unistd.h>

#include "net/vhost_int.h"

#define FD   77
#define TAP  78
#define LOTS 64

int __wrap_ioctl(int fd, unsigned long request, void *arg);

static struct {
	unsigned long request;
	u32 index;
	u64 value;
} calls[LOTS];
static unsigned int ncalls, fail_at;
static int backend[2];
static u64 table_end;

static void record(unsigned long request, u32 index, u64 value)
{
	assert_true(ncalls < LOTS);
	calls[ncalls].request = request;
	calls[ncalls].index = index;
	calls[ncalls++].value = value;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	const struct vhost_vring_state *state = arg;
	const struct vhost_vring_file *file = arg;
	const struct vhost_vring_addr *addr = arg;
	const struct vhost_memory *memory = arg;

	assert_int_equal(fd, FD);
	if (fail_at && ncalls + 1 == fail_at && request != VHOST_NET_SET_BACKEND) {
		record(request, 0, 0);
		errno = EFAULT;
		return -1;
	}
	switch (request) {
	case VHOST_SET_FEATURES:
		assert_int_equal(backend[0] & backend[1], -1);
		record(request, 0, *(u64 *)arg);
		break;
	case VHOST_SET_VRING_NUM:
	case VHOST_SET_VRING_BASE:
		assert_int_equal(backend[state->index], -1);
		record(request, state->index, state->num);
		break;
	case VHOST_SET_VRING_ADDR:
		record(request, addr->index, addr->desc_user_addr);
		break;
	case VHOST_SET_VRING_KICK:
	case VHOST_SET_VRING_CALL:
		record(request, file->index, (u64)file->fd);
		break;
	case VHOST_NET_SET_BACKEND:
		if (fail_at && ncalls + 1 == fail_at) {
			record(request, file->index, (u64)file->fd);
			errno = EBADFD;
			return -1;
		}
		record(request, file->index, (u64)file->fd);
		backend[file->index] = file->fd;
		break;
	case VHOST_GET_VRING_BASE:
		assert_int_equal(backend[state->index], -1);
		((struct vhost_vring_state *)arg)->num = 100 + state->index;
		record(request, state->index, 0);
		break;
	case VHOST_SET_MEM_TABLE:
		table_end = 0;
		for (u32 i = 0; i < memory->nregions; i++)
			table_end += memory->regions[i].memory_size;
		record(request, memory->nregions, memory->regions[0].userspace_addr);
		break;
	default:
		fail();
	}
	return 0;
}

static const struct net_vring ring[2] = {
	{.size = 256, .base = 5, .desc = (void *)0x1000, .kick_fd = 10, .call_fd = 11},
	{.size = 128, .base = 9, .desc = (void *)0x2000, .kick_fd = 12, .call_fd = 13},
};

static int setup(void **state)
{
	ncalls = fail_at = 0;
	backend[0] = backend[1] = -1;
	return 0;
}

static void starts_and_stops(void **state)
{
	static const struct {
		unsigned long request;
		u32 index;
		u64 value;
	} want[] = {
		{VHOST_SET_FEATURES, 0, 0x1234},   {VHOST_SET_VRING_NUM, 0, 256},
		{VHOST_SET_VRING_BASE, 0, 5},	   {VHOST_SET_VRING_ADDR, 0, 0x1000},
		{VHOST_SET_VRING_KICK, 0, 10},	   {VHOST_SET_VRING_CALL, 0, 11},
		{VHOST_SET_VRING_NUM, 1, 128},	   {VHOST_SET_VRING_BASE, 1, 9},
		{VHOST_SET_VRING_ADDR, 1, 0x2000}, {VHOST_SET_VRING_KICK, 1, 12},
		{VHOST_SET_VRING_CALL, 1, 13},	   {VHOST_NET_SET_BACKEND, 0, TAP},
		{VHOST_NET_SET_BACKEND, 1, TAP},   {VHOST_NET_SET_BACKEND, 0, (u64)-1},
		{VHOST_GET_VRING_BASE, 0, 0},	   {VHOST_NET_SET_BACKEND, 1, (u64)-1},
		{VHOST_GET_VRING_BASE, 1, 0},
	};
	u16 base[2];

	assert_int_equal(vhost_start(FD, 0x1234, ring, TAP), 0);
	vhost_stop(FD, base);
	assert_int_equal(base[0], 100);
	assert_int_equal(base[1], 101);
	assert_int_equal(ncalls, ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		assert_int_equal(calls[i].request, want[i].request);
		assert_int_equal(calls[i].index, want[i].index);
		assert_int_equal(calls[i].value, want[i].value);
	}
}

/* Whichever call fails, nothing is left running. */
static void fails_at_each_call(void **state)
{
	for (unsigned int n = 1; n <= 13; n++) {
		setup(NULL);
		fail_at = n;
		assert_true(vhost_start(FD, 0, ring, TAP) < 0);
		assert_int_equal(backend[0], -1);
		assert_int_equal(backend[1], -1);
	}
}

static void memory_table(void **state)
{
	const struct net_memory memory[2] = {{0, 0xa0000, (void *)0x7000},
					     {0x100000, 0x300000, (void *)0x9000}};

	assert_int_equal(vhost_set_memory(FD, memory, 2), 0);
	assert_int_equal(calls[0].index, 2);
	assert_int_equal(calls[0].value, 0x7000);
	assert_int_equal(table_end, 0x3a0000);
	setup(NULL);
	fail_at = 1;
	assert_int_equal(vhost_set_memory(FD, memory, 2), -EFAULT);
}

static void explains_its_absence(void **state)
{
	struct err err = {{0}};
	u64 features;

	if (!access(VHOST_DEVICE, F_OK))
		skip();
	assert_int_equal(vhost_open(&features, &err), -ENOENT);
	assert_non_null(strstr(err.text, "modprobe vhost_net"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(starts_and_stops, setup),
		cmocka_unit_test_setup(fails_at_each_call, setup),
		cmocka_unit_test_setup(memory_table, setup),
		cmocka_unit_test_setup(explains_its_absence, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
