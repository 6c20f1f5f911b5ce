/*
 * Resets from a vCPU while the main loop, queue threads and programs on the host are at work: for
 * the sanitizers, and for what must hold in the end.
 */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/block.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "virtio/vsock.h"

#define ROUNDS 150
#define BUF    0x800000

static struct driver d;
static pthread_t loop_thread, host_thread;
static char dir[64], path[96];
static bool stop_host;

static void *run_loop(void *arg)
{
	loop_run(arg);
	return NULL;
}

static void begin(void)
{
	assert_int_equal(pthread_create(&loop_thread, NULL, run_loop, d.h->loop), 0);
}

static void end(void)
{
	loop_stop(d.h->loop, 0);
	pthread_join(loop_thread, NULL);
}

/* Has queue q given something back? Other threads do the work. */
static void wait_used(struct driver_queue *q)
{
	int id;
	u32 len;

	for (int i = 0; i < 20000; i++) {
		if (driver_take(q, &id, &len))
			return;
		usleep(500);
	}
	fail_msg("no answer");
}

static void restart(u64 features, unsigned int queues)
{
	d.next_page = 0x10000;
	driver_start(&d, features, queues);
}

/* A program that connects, says something, and goes away. */
static void *host_program(void *arg)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(addr.sun_path, path, strlen(path));
	while (!__atomic_load_n(&stop_host, __ATOMIC_RELAXED)) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)) &&
		    send(fd, "CONNECT 5\nhello", 15, MSG_NOSIGNAL) == 15)
			usleep(100);
		close(fd);
	}
	return NULL;
}

static void sockets_are_reset(void **state)
{
	struct virtio_vsock_options options = {.path = path};

	snprintf(dir, sizeof(dir), "/tmp/bothy-threads-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	driver_open(&d, &driver_modes[1], &virtio_vsock, &options);
	begin();
	stop_host = false;
	assert_int_equal(pthread_create(&host_thread, NULL, host_program, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		const struct driver_buf buf = {BUF, 4096, true};

		restart(0, 3);
		for (int k = 0; k < 8; k++)
			driver_add(&d.queue[0], &buf, 1);
		driver_kick(&d.queue[0]);
		if (i % 8 == 0)
			wait_used(&d.queue[0]); /* a request of the host's program */
		usleep((useconds_t)(i % 5) * 100);
		driver_set_status(&d, 0);
	}
	__atomic_store_n(&stop_host, true, __ATOMIC_RELAXED);
	pthread_join(host_thread, NULL);
	end();
	driver_close(&d);
	rmdir(dir);
}

static struct block *open_disk(void)
{
	char name[] = "/tmp/bothy-threads-XXXXXX";
	struct block_options options = {0};
	struct block *block;
	struct err err;
	int fd = mkstemp(name);

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	assert_int_equal(opt_defaults(block_option_table, &options, &err), 0);
	options.file = name;
	options.format = (char *)(uintptr_t) "raw";
	assert_int_equal(block_open(&block, &options, &err), 0);
	unlink(name);
	return block;
}

static void disks_are_reset(void **state)
{
	for (size_t m = 1; m < driver_mode_count; m += 2) {
		struct block *block = open_disk();
		struct virtio_blk_options options = {.block = block, .queues = 2};

		driver_open(&d, &driver_modes[m], &virtio_blk, &options);
		begin();
		for (int i = 0; i < ROUNDS / 5; i++) {
			restart(0, 2);
			for (u32 k = 0; k < 32; k++) {
				u64 base = BUF + 0x2000 * k;
				u8 *header = driver_ptr(&d, base);
				const struct driver_buf bufs[] = {{base, 16, false},
								  {base + 512, 4096, true},
								  {base + 32, 1, true}};

				memset(header, 0, 16);
				driver_add(&d.queue[k % 2], bufs, 3);
				driver_kick(&d.queue[k % 2]);
			}
			if (i % 3 == 0)
				wait_used(&d.queue[0]);
			driver_set_status(&d, 0);
			assert_int_equal(virtq_inuse(&d.virtio->queue[0].vq), 0);
			assert_int_equal(virtq_inuse(&d.virtio->queue[1].vq), 0);
		}
		end();
		driver_close(&d);
		block_close(block);
	}
}

static void cards_are_reset(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m += 3) {
		struct virtio_net_options options = {.mac = {2}};
		struct net_card card;
		struct err err;

		driver_open_bus(&d, &driver_modes[m]);
		assert_int_equal(net_open(&options.net, d.h->loop, "loopback", &card, &err), 0);
		driver_open_device(&d, &virtio_net, &options);
		begin();
		for (int i = 0; i < ROUNDS / 3; i++) {
			restart(VIRTIO_F(15), 2); /* merged buffers: a header of 12 bytes */
			for (u32 k = 0; k < 20; k++) {
				const struct driver_buf in = {BUF + 0x1000 * k, 2048, true};
				const struct driver_buf out = {BUF + 0x100000, 112, false};

				driver_add(&d.queue[0], &in, 1);
				driver_add(&d.queue[1], &out, 1);
			}
			driver_kick(&d.queue[0]);
			driver_kick(&d.queue[1]);
			if (i % 2) {
				wait_used(&d.queue[1]);
				wait_used(&d.queue[0]); /* it hears itself */
			}
			driver_set_status(&d, 0);
		}
		end();
		net_stop(options.net);
		driver_close_devices(&d);
		net_close(options.net);
		driver_close(&d);
	}
}

/* ---- a reset that has to wait ---- */

/* A device whose requests in flight end when the test says so. */
struct slow {
	struct virtio_device dev;
	struct loop *loop;
	pthread_t thread;
	sem_t stopping, finish;
};

static struct slow *slow_of(struct virtio_device *dev)
{
	return container_of(dev, struct slow, dev);
}

static int slow_init(struct virtio_device *dev, const void *config, struct err *err)
{
	struct slow *slow = slow_of(dev);

	sem_init(&slow->stopping, 0, 0);
	sem_init(&slow->finish, 0, 0);
	slow->loop = loop_new();
	return virtio_add_queue(dev, 64, sizeof(struct virtq_chain), slow->loop, err);
}

static int slow_ready(struct virtio_device *dev, struct err *err)
{
	return -pthread_create(&slow_of(dev)->thread, NULL, run_loop, slow_of(dev)->loop);
}

static void slow_kick(struct virtio_queue *queue)
{
	struct virtq_chain *chain;

	while ((chain = virtq_pop(&queue->vq)))
		virtq_complete(&queue->vq, chain, 0);
}

static void slow_queue_stop(struct virtio_queue *queue)
{
	sem_post(&slow_of(queue->dev)->stopping);
	while (sem_wait(&slow_of(queue->dev)->finish))
		;
}

static void slow_stop(struct virtio_device *dev)
{
	loop_stop(slow_of(dev)->loop, 0);
	pthread_join(slow_of(dev)->thread, NULL);
}

static void slow_free(struct virtio_device *dev)
{
	loop_free(slow_of(dev)->loop);
}

static const struct virtio_class slow_class = {
	.name = "slow",
	.summary = "a device that is slow to stop",
	.id = VIRTIO_ID_RNG, /* one that old registers are offered for, too */
	.pci_class = 0xff0000,
	.size = sizeof(struct slow),
	.init = slow_init,
	.ready = slow_ready,
	.kick = slow_kick,
	.queue_stop = slow_queue_stop,
	.stop = slow_stop,
	.free = slow_free,
	.state = STATE_NONE,
};

static void *reset_device(void *arg)
{
	driver_set_status(&d, 0);
	return NULL;
}

/* While a vCPU waits for a reset, others use the bus; a second reset comes after the first; and
 * what was changed in between has no effect. */
static void a_reset_leaves_the_bus_alone(void **state)
{
	for (size_t m = 1; m < driver_mode_count; m += 2) {
		pthread_t first, second;
		struct slow *slow;
		u8 status;

		driver_open(&d, &driver_modes[m], &slow_class, NULL);
		slow = slow_of(d.virtio);
		begin();
		for (int i = 0; i < 3; i++) {
			restart(0, 1);
			status = driver_status(&d);
			assert_int_equal(pthread_create(&first, NULL, reset_device, NULL), 0);
			while (sem_wait(&slow->stopping))
				;
			/* Each of these takes the bus lock. */
			assert_int_equal(driver_status(&d), status);
			driver_set_status(&d, status | VIRTIO_CONFIG_S_FAILED);
			assert_int_equal(driver_status(&d), status);
			assert_int_equal(pthread_create(&second, NULL, reset_device, NULL), 0);
			usleep(1000);
			assert_int_equal(driver_status(&d), status);
			sem_post(&slow->finish);
			pthread_join(first, NULL);
			pthread_join(second, NULL);
			assert_int_equal(driver_status(&d), 0);
			assert_false(virtio_queue_is_live(&d.virtio->queue[0]));
		}
		end();
		driver_close(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sockets_are_reset),
		cmocka_unit_test(disks_are_reset),
		cmocka_unit_test(cards_are_reset),
		cmocka_unit_test(a_reset_leaves_the_bus_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
