/*
 * The hop budget of DESIGN.md: one guest read of a raw disk and of a plain qcow2 image, from the
 * doorbell to the kernel and back. The linker's --wrap puts us where requests are queued to the
 * kernel and where interrupts are signalled; the depth of the stack there, against that of a
 * callback of the same loop, counts the functions that are on the stack, as compiled: inlined ones
 * are not hops, and a build without optimization, or with the address sanitizer's functions among
 * ours, is not measured.
 */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <execinfo.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/block.h"
#include "os/event.h"
#include "os/file.h"
#include "os/uring.h"
#include "virtio/blk.h"

#define MAX_DOWN 9 /* loop_run to the one that queues to the kernel, both counted */
#define MAX_UP	 6 /* loop_run to the one that signals the interrupt */
#define HEADER	 0x800000
#define DATA	 0x900000

static struct {
	bool on;
	int down, up, callback; /* depths of the stack */
	pthread_t thread;	/* that submitted */
	int signal_fd;
	int durable;  /* the last write was: 0 or 1 */
	u32 at_once;  /* writes without the ring */
	u64 write_ns; /* how long they take */
	u32 submissions, signals, allocations, copies;
	int no_ring; /* -errno: the kernel gave none, and a pool of threads serves the disk */
	const void *iov_base;
} seen;

static int depth(void)
{
	void *frames[64];

	return backtrace(frames, 64);
}

int __real_uring_queue(struct uring *r, const struct uring_io *io);
int __wrap_uring_queue(struct uring *r, const struct uring_io *io);
int __wrap_uring_queue(struct uring *r, const struct uring_io *io)
{
	if (seen.on && io->op == URING_READV) {
		seen.down = depth();
		seen.thread = pthread_self();
		seen.submissions++;
		seen.iov_base = io->iov->iov_base;
	}
	if (io->op == URING_WRITEV)
		__atomic_store_n(&seen.durable, !!(io->rw_flags & RWF_DSYNC), __ATOMIC_RELEASE);
	return __real_uring_queue(r, io);
}

static u64 fake_now; /* where not 0 */

u64 __real_clock_now_ns(void);
u64 __wrap_clock_now_ns(void);
u64 __wrap_clock_now_ns(void)
{
	u64 now = __atomic_load_n(&fake_now, __ATOMIC_ACQUIRE);

	return now ? now : __real_clock_now_ns();
}

/* A write into the page cache may be done at once. */
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int niov, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int niov, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int niov, off_t offset)
{
	__atomic_store_n(&seen.durable, 0, __ATOMIC_RELEASE);
	__atomic_fetch_add(&seen.at_once, 1, __ATOMIC_RELEASE);
	if (fake_now)
		__atomic_fetch_add(&fake_now, seen.write_ns, __ATOMIC_RELEASE);
	return __real_pwritev64(fd, iov, niov, offset);
}

int __real_uring_new(struct uring **out, unsigned int entries);
int __wrap_uring_new(struct uring **out, unsigned int entries);
int __wrap_uring_new(struct uring **out, unsigned int entries)
{
	int rc = __real_uring_new(out, entries);

	if (rc)
		seen.no_ring = rc;
	return rc;
}

void __real_event_signal(int fd);
void __wrap_event_signal(int fd);
void __wrap_event_signal(int fd)
{
	if (seen.on && fd == seen.signal_fd) {
		seen.up = depth();
		assert_true(pthread_equal(pthread_self(), seen.thread));
		__atomic_fetch_add(&seen.signals, 1, __ATOMIC_RELEASE);
	}
	__real_event_signal(fd);
}

static bool on_queue_thread(void)
{
	char name[16] = "";

	pthread_getname_np(pthread_self(), name, sizeof(name));
	return strchr(name, ':');
}

#define COUNT_ALLOCATION(name, args, ...)                                                          \
	void *__real_##name args;                                                                  \
	void *__wrap_##name args;                                                                  \
	void *__wrap_##name args                                                                   \
	{                                                                                          \
		if (seen.on && on_queue_thread())                                                  \
			seen.allocations++;                                                        \
		return __real_##name(__VA_ARGS__);                                                 \
	}
COUNT_ALLOCATION(malloc, (size_t n), n)
COUNT_ALLOCATION(calloc, (size_t n, size_t size), n, size)
COUNT_ALLOCATION(realloc, (void *p, size_t n), p, n)

static u32 drains;
static u32 stopping_reads; /* where queue_reset is to be read while a queue drains */
static u64 stopping_value;
static u64 stopping_read(void);

void __real_block_queue_drain(struct block_queue *queue);
void __wrap_block_queue_drain(struct block_queue *queue);
void __wrap_block_queue_drain(struct block_queue *queue)
{
	if (on_queue_thread()) {
		if (stopping_reads)
			__atomic_store_n(&stopping_value, stopping_read(), __ATOMIC_RELEASE);
		__atomic_fetch_add(&drains, 1, __ATOMIC_RELEASE);
	}
	__real_block_queue_drain(queue);
}

/* A callback of the queue's loop, called from where the doorbell's is. */
static void on_probe(struct loop_watch *watch, u32 events)
{
	event_clear(watch->fd);
	seen.callback = depth();
	loop_watch_del(watch);
}

static struct driver d;

static u64 stopping_read(void)
{
	return harness_read(d.h, d.common + stopping_reads,
			    d.mode->transport == DRIVER_MMIO ? 4 : 2);
}

static struct block *open_disk_as(const char *format)
{
	char path[] = "/tmp/bothy-hops-XXXXXX";
	struct block_options options = {0};
	struct block *block;
	struct err err;
	int fd = mkstemp(path);

	char command[256];

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	if (strcmp(format, "raw")) {
		snprintf(command, sizeof(command), "%s/bothy img create -q -f %s %s 1M",
			 getenv("BOTHY_BUILD") ?: "build", format, path);
		assert_int_equal(system(command), 0);
	}
	assert_int_equal(opt_defaults(block_option_table, &options, &err), 0);
	options.file = path;
	options.format = (char *)(uintptr_t)format;
	assert_int_equal(block_open(&block, &options, &err), 0);
	unlink(path);
	return block;
}

static struct block *open_disk(void)
{
	return open_disk_as("raw");
}

static bool probed(void *ctx)
{
	return __atomic_load_n(&seen.callback, __ATOMIC_ACQUIRE);
}

static void add_probe(struct loop_work *work)
{
	static struct loop_watch watch;

	watch = (struct loop_watch){.fd = event_new(), .fn = on_probe};
	loop_watch_add(d.virtio->queue[0].loop, &watch, EPOLLIN);
	event_signal(watch.fd);
}

static void set_vectors(void)
{
	u64 table = harness_config_read(d.h, d.devfn, 0x14, 4) & ~15u;
	u8 at = (u8)harness_config_read(d.h, d.devfn, 0x34, 1);

	while (harness_config_read(d.h, d.devfn, at, 1) != 0x11)
		at = (u8)harness_config_read(d.h, d.devfn, at + 1, 1);
	harness_write(d.h, table + 16, 8, 0xfee00000);
	harness_write(d.h, table + 24, 4, 0x41);
	harness_write(d.h, table + 28, 4, 0);
	harness_config_write(d.h, d.devfn, at + 2, 2, 0x8000);
	harness_write(d.h, d.common + 22, 2, 0);
	harness_write(d.h, d.common + 26, 2, 1);
}

static bool signalled(void *ctx)
{
	return __atomic_load_n(&seen.signals, __ATOMIC_ACQUIRE);
}

static void read_once(void)
{
	u8 *header = driver_ptr(&d, HEADER);
	const struct driver_buf bufs[] = {
		{HEADER, 16, false}, {DATA, 4096, true}, {HEADER + 64, 1, true}};

	memset(header, 0, 16);
	header[64] = 0xee;
	driver_want_interrupts(&d.queue[0], true);
	assert_int_equal(driver_do(&d.queue[0], bufs, 3), 4097);
	assert_int_equal(header[64], 0);
	/* The used ring is seen before the interrupt is sent. */
	assert_true(!seen.on || driver_until(&d, signalled, NULL));
}

static void write_once(void)
{
	u8 *header = driver_ptr(&d, HEADER);
	const struct driver_buf bufs[] = {
		{HEADER, 16, false}, {DATA, 4096, false}, {HEADER + 64, 1, true}};

	memset(header, 0, 16);
	store_le32(header, VIRTIO_BLK_T_OUT);
	driver_do(&d.queue[0], bufs, 3);
	assert_int_equal(header[64], 0);
}

static void a_read_keeps_the_budget(void **state)
{
	static struct loop_work work = {.fn = add_probe};
	static const size_t modes[] = {1, 3, 1, 3};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		const char *format = i < 2 ? "raw" : "qcow2";
		struct block *block = open_disk_as(format);
		struct virtio_blk_options options = {.block = block};

		memset(&seen, 0, sizeof(seen));
		driver_open(&d, &driver_modes[modes[i]], &virtio_blk, &options);
		driver_start(&d, 0, 1);
		set_vectors();
		assert_non_null(d.virtio->queue[0].vq.irq); /* straight to the engine */
		seen.signal_fd = d.virtio->queue[0].vq.irq->fd;
		write_once(); /* in an image, there is a cluster now */
		read_once();  /* what is made once is made */
		if (seen.no_ring) {
			print_message("SKIP: no io_uring: %s\n", strerror(-seen.no_ring));
			exit(77);
		}
		loop_post(d.virtio->queue[0].loop, &work);
		assert_true(driver_until(&d, probed, NULL));
		for (int k = 0; k < 10; k++) {
			memset(&seen.submissions, 0, sizeof(u32) * 4);
			seen.on = true;
			read_once();
			seen.on = false;
			assert_int_equal(seen.submissions, 1);
			assert_int_equal(seen.signals, 1);
			assert_int_equal(seen.allocations, 0);
			/* No copy: the kernel reads into the guest's memory. */
			assert_ptr_equal(seen.iov_base, driver_ptr(&d, DATA));
			/* The callback is the second (after loop_run), and both ends count. */
			assert_true(seen.down > seen.callback);
			if (seen.down - seen.callback + 2 > MAX_DOWN)
				fail_msg("%d functions down", seen.down - seen.callback + 2);
			if (seen.up - seen.callback + 2 > MAX_UP)
				fail_msg("%d functions up", seen.up - seen.callback + 2);
		}
		print_message("%s, %s: %d functions down, %d up\n", format, d.mode->name,
			      seen.down - seen.callback + 2, seen.up - seen.callback + 2);
		driver_close(&d);
		block_close(block);
	}
}

/* 2.4.1, 2.6.1.1.1, 4.1.4.3.1, 4.2.2.1, bug 11: before status reads 0 the owner of each queue has
 * waited for what was in flight; the same for a queue that is reset alone. */
static void a_reset_waits_for_the_disk(void **state)
{
	for (size_t m = 1; m < 9; m += 5) { /* PCI, MMIO */
		struct block *block = open_disk();
		struct virtio_blk_options options = {.block = block, .queues = 3};
		bool mmio = driver_modes[m].transport == DRIVER_MMIO;

		driver_open(&d, &driver_modes[m], &virtio_blk, &options);
		driver_start(&d, VIRTIO_F(VIRTIO_F_RING_RESET), 3);
		drains = 0;
		harness_write(d.h, d.common + (mmio ? 0x30 : 22), mmio ? 4 : 2, 1);
		stopping_reads = mmio ? 0xc0 : 58;
		assert_int_equal(stopping_read(), 0);
		harness_write(d.h, d.common + stopping_reads, mmio ? 4 : 2, 1);
		assert_int_equal(stopping_read(), 0);
		assert_int_equal(__atomic_exchange_n(&stopping_value, 0, __ATOMIC_ACQUIRE), 1);
		stopping_reads = 0;
		assert_int_equal(__atomic_load_n(&drains, __ATOMIC_ACQUIRE), 1);
		driver_set_status(&d, 0);
		assert_int_equal(driver_status(&d), 0);
		assert_int_equal(__atomic_load_n(&drains, __ATOMIC_ACQUIRE), 3);
		driver_close(&d);
		block_close(block);
	}
}

static int durable_write(void)
{
	seen.durable = -1;
	write_once();
	return __atomic_load_n(&seen.durable, __ATOMIC_ACQUIRE);
}

/* 5.2.6.2: what is stable when it is reported: all writes of a driver that can neither flush nor
 * choose, and of one that chose so. */
static void writes_are_stable_when_they_must_be(void **state)
{
	struct block *block = open_disk();
	struct virtio_blk_options options = {.block = block};

	driver_open(&d, &driver_modes[1], &virtio_blk, &options);
	driver_start(&d, 0, 1);
	assert_int_equal(durable_write(), 1);
	driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_FLUSH), 1);
	assert_int_equal(durable_write(), 0);
	driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_FLUSH) | VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE), 1);
	assert_int_equal(durable_write(), 0);
	driver_set_config(&d, 32, 1, 0);
	assert_int_equal(durable_write(), 1);
	driver_set_config(&d, 32, 1, 1);
	assert_int_equal(durable_write(), 0);
	driver_close(&d);
	block_close(block);
}

static bool is_at_once(void)
{
	u32 before = __atomic_load_n(&seen.at_once, __ATOMIC_ACQUIRE);

	write_once();
	return __atomic_load_n(&seen.at_once, __ATOMIC_ACQUIRE) != before;
}

/* Writes into the page cache need no worker, except for a while after one that slept. */
static void slow_writes_get_a_worker(void **state)
{
	struct block *block = open_disk();
	struct virtio_blk_options options = {.block = block};

	driver_open(&d, &driver_modes[1], &virtio_blk, &options);
	driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_FLUSH), 1);
	if (!seen.no_ring) {
		__atomic_store_n(&fake_now, __real_clock_now_ns(), __ATOMIC_RELEASE);
		seen.write_ns = 5000;
		assert_true(is_at_once());
		assert_true(is_at_once());
		seen.write_ns = 5000000;
		assert_true(is_at_once()); /* nobody knows before */
		for (int i = 0; i < 3; i++)
			assert_false(is_at_once());
		__atomic_fetch_add(&fake_now, 1000000000, __ATOMIC_RELEASE);
		seen.write_ns = 5000;
		for (int i = 0; i < 3; i++)
			assert_true(is_at_once());
		__atomic_store_n(&fake_now, 0, __ATOMIC_RELEASE);
	}
	driver_close(&d);
	block_close(block);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
		cmocka_unit_test(a_read_keeps_the_budget),
#endif
		cmocka_unit_test(a_reset_waits_for_the_disk),
		cmocka_unit_test(writes_are_stable_when_they_must_be),
		cmocka_unit_test(slow_writes_get_a_worker),
	};
	void *frames[4];

	(void)a_read_keeps_the_budget;
	backtrace(frames, 4); /* the first one loads a library, and allocates */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
