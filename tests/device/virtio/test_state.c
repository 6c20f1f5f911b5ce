/*
 * Every device in the middle of its work is saved, put into a new one on a new machine, and goes on
 * (driver_move()): what was asked for before comes after, and what the driver set is still set.
 */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_console.h>
#include <linux/virtio_net.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/iov.h"
#include "block/block.h"
#include "net/net.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/net_int.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"

#define BUF   0x800000
#define RX    0x900000
#define CTRL  0xa00000
#define MOVES 4

static struct driver d;
static const struct driver_mode *mode;
static u64 seed;

static u32 roll(u32 n)
{
	return (u32)(harness_random(&seed) % n);
}

static void next_mode(size_t m)
{
	mode = &driver_modes[m];
	seed = m + 1;
}

static bool legacy(void)
{
	return mode->transport == DRIVER_LEGACY;
}

static void end_device(void)
{
	driver_close(&d);
}

/* ---- rng: buffers wait for the next period ---- */

static const struct virtio_rng_options slow = {.max_bytes_per_second = 1000};

static void begin_rng(void)
{
	driver_open(&d, mode, &virtio_rng, &slow);
}

static void rng_goes_on(void **state)
{
	static const struct driver_move move = {NULL, end_device, begin_rng};

	for (size_t m = 0; m < driver_mode_count; m++) {
		const struct driver_buf buf = {BUF, 64, true};
		u32 given = 0, taken = 0, len;
		int id;

		next_mode(m);
		begin_rng();
		driver_start(&d, 0, 1);
		for (int i = 0; i < MOVES; i++) {
			for (int k = 0; k < 5; k++, given++)
				assert_true(driver_add(&d.queue[0], &buf, 1) >= 0);
			driver_kick(&d.queue[0]);
			harness_settle(d.h);
			driver_move(&d, &move);
			for (int turn = 0; turn < 20; turn++) {
				while (driver_take(&d.queue[0], &id, &len)) {
					assert_true(len > 0 && len <= 64);
					taken++;
				}
				harness_advance(d.h, NSEC_PER_SEC / 10);
			}
		}
		assert_int_equal(taken, given);
		driver_close(&d);
	}
}

/* ---- blk: requests in flight and in the ring, against a shadow ---- */

#define SLOTS	12
#define SECTORS 16 /* of each slot: nobody else's */
#define QUEUES	2

static struct block *block;
static u8 shadow[SLOTS][SECTORS * 512];
static struct {
	int id; /* in flight, or -1 */
	u32 type;
} slot[SLOTS];

static struct block *open_disk(void)
{
	char path[] = "/tmp/bothy-state-XXXXXX";
	struct block_options options = {0};
	struct block *b;
	struct err err;
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	assert_int_equal(opt_defaults(block_option_table, &options, &err), 0);
	options.file = path;
	options.format = (char *)(uintptr_t) "raw";
	if (block_open(&b, &options, &err))
		fail_msg("%s", err.text);
	unlink(path);
	return b;
}

static void begin_blk(void)
{
	const struct virtio_blk_options options = {.block = block, .queues = QUEUES};

	driver_open(&d, mode, &virtio_blk, &options);
}

static u64 slot_base(unsigned int i)
{
	return BUF + 0x4000 * i;
}

/* A read or a write of the slot's sectors, the whole of them. */
static void add_request(unsigned int i)
{
	bool write = roll(2);
	u8 *p = driver_ptr(&d, slot_base(i));
	struct driver_buf bufs[3] = {{slot_base(i), 16, false},
				     {slot_base(i) + 0x1000, sizeof(shadow[i]), !write},
				     {slot_base(i) + 0x100, 1, true}};

	slot[i].type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	store_le32(p, slot[i].type);
	store_le64(p + 8, SECTORS * i);
	p[0x100] = 0xee;
	for (u32 k = 0; write && k < sizeof(shadow[i]); k += 8)
		store_le64(shadow[i] + k, harness_random(&seed));
	if (write)
		memcpy(p + 0x1000, shadow[i], sizeof(shadow[i]));
	else
		memset(p + 0x1000, 0xcc, sizeof(shadow[i]));
	slot[i].id = driver_add(&d.queue[i % QUEUES], bufs, 3);
	assert_true(slot[i].id >= 0);
}

static void add_requests(void)
{
	if (d.next_page > 0x600000)
		d.next_page = 0x200000; /* tables of chains that are long gone */
	for (unsigned int i = 0; i < SLOTS; i++)
		if (slot[i].id < 0 && roll(2))
			add_request(i);
	for (unsigned int q = 0; q < QUEUES; q++)
		driver_kick(&d.queue[q]);
}

static void finish_slot(unsigned int q, int id)
{
	for (unsigned int i = q; i < SLOTS; i += QUEUES) {
		const u8 *p = driver_ptr(&d, slot_base(i));

		if (slot[i].id != id)
			continue;
		assert_int_equal(p[0x100], 0);
		assert_memory_equal(p + 0x1000, shadow[i], sizeof(shadow[i]));
		slot[i].id = -1;
		return;
	}
	fail_msg("an answer to nothing");
}

static bool all_done(void *ctx)
{
	for (unsigned int q = 0; q < QUEUES; q++) {
		u32 len;
		int id;

		while (driver_take(&d.queue[q], &id, &len))
			finish_slot(q, id);
	}
	for (unsigned int i = 0; i < SLOTS; i++)
		if (slot[i].id >= 0)
			return false;
	return true;
}

static void blk_goes_on(void **state)
{
	static const struct driver_move move = {add_requests, end_device, begin_blk};

	for (size_t m = 0; m < driver_mode_count; m++) {
		next_mode(m);
		block = open_disk();
		memset(shadow, 0, sizeof(shadow));
		for (unsigned int i = 0; i < SLOTS; i++)
			slot[i].id = -1;
		begin_blk();
		driver_start(&d,
			     VIRTIO_F(VIRTIO_BLK_F_MQ) | VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE) |
				     VIRTIO_F(VIRTIO_BLK_F_FLUSH),
			     QUEUES);
		for (int i = 0; i < MOVES; i++) {
			/* The cache mode is the driver's, and not what its features said. */
			driver_set_config(&d, 32, 1, i & 1);
			add_requests();
			driver_move(&d, &move);
			assert_int_equal(driver_config(&d, 32, 1), i & 1);
			assert_true(driver_until(&d, all_done, NULL));
			add_requests();
			assert_true(driver_until(&d, all_done, NULL));
		}
		driver_close(&d);
		block_close(block);
	}
}

/* ---- net: frames in the ring, buffers given, the filter set ---- */

static struct net *ends[2];
static const u8 mac[6] = {0x52, 0x54, 0, 1, 2, 3}, friend[6] = {2, 9, 9, 9, 9, 9};
static const u8 stranger[6] = {2, 8, 8, 8, 8, 8};
static u32 far_next; /* the number of the next frame at the far end */

static u32 far_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		u8 head[18];

		iov_to_buf(frames[i].iov, frames[i].niov, 0, head, sizeof(head));
		assert_int_equal(load_le32(head + 14), far_next);
		far_next++;
	}
	return n;
}

static void begin_net(void)
{
	const struct net_client client = {.receive = far_receive};
	struct virtio_net_options options = {0};

	driver_open_bus(&d, mode);
	assert_int_equal(net_loopback_new(ends, d.h->loop, 2, NET_CSUM | NET_TSO4), 0);
	net_set_client(ends[1], &client);
	memcpy(options.mac, mac, 6);
	options.net = ends[0];
	driver_open_device(&d, &virtio_net, &options);
}

static void end_net(void)
{
	net_stop(ends[0]);
	driver_close_devices(&d);
	net_close(ends[0]);
	net_close(ends[1]);
	driver_close(&d);
}

static u32 tx_next;

static void add_frames(void)
{
	for (int i = 0; i < 7; i++, tx_next++) {
		u64 at = BUF + 0x100 * (tx_next % 512);
		const struct driver_buf buf = {at, 12 + 60, false};
		u8 *p = driver_ptr(&d, at);

		memset(p, 0, 72);
		store_le32(p + 12 + 14, tx_next);
		assert_true(driver_add(&d.queue[1], &buf, 1) >= 0);
	}
	driver_kick(&d.queue[1]);
}

static void take_sent(void)
{
	u32 len;
	int id;

	harness_settle(d.h);
	while (driver_take(&d.queue[1], &id, &len))
		;
	assert_int_equal(far_next, tx_next);
}

static u8 control(u16 queue, u8 class, u8 command, const void *data, u32 len)
{
	const struct driver_buf bufs[] = {
		{CTRL, 2, false}, {CTRL + 16, len, false}, {CTRL + 0x8000, 1, true}};
	u8 *p = driver_ptr(&d, CTRL);

	p[0] = class;
	p[1] = command;
	memcpy(p + 16, data, len);
	p[0x8000] = 0xee;
	driver_do(&d.queue[queue], bufs, 3);
	return p[0x8000];
}

/* Does a frame to this address, with this VLAN, reach the guest? */
static bool arrives(const u8 *to, int vlan)
{
	static u8 data[64];
	struct iovec iov = {data, 64};
	const struct net_frame frame = {.iov = &iov, .niov = 1, .len = 64};
	const struct driver_buf buf = {RX, 2000, true};
	u32 len;
	int id;

	memset(data, 0, sizeof(data));
	memcpy(data, to, 6);
	if (vlan >= 0) {
		data[12] = 0x81;
		data[14] = (u8)(vlan >> 8);
		data[15] = (u8)vlan;
	}
	assert_int_equal(net_send(ends[1], 0, &frame, 1), 1);
	harness_settle(d.h);
	if (!driver_take(&d.queue[0], &id, &len))
		return false;
	assert_int_equal(len, 12 + 64);
	driver_add(&d.queue[0], &buf, 1);
	driver_kick(&d.queue[0]);
	harness_settle(d.h);
	return true;
}

static void check_filter(void)
{
	assert_true(arrives(mac, -1));
	assert_true(arrives(friend, -1));
	assert_false(arrives(stranger, -1));
	assert_true(arrives(mac, 77));
	assert_false(arrives(mac, 78));
}

static void net_goes_on(void **state)
{
	static const struct driver_move move = {add_frames, end_net, begin_net};

	for (size_t m = 0; m < driver_mode_count; m++) {
		const u64 features =
			VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) |
			VIRTIO_F(VIRTIO_NET_F_CTRL_RX) | VIRTIO_F(VIRTIO_NET_F_CTRL_VLAN) |
			VIRTIO_F(VIRTIO_NET_F_MQ) | VIRTIO_F(VIRTIO_NET_F_STATUS) |
			VIRTIO_F(VIRTIO_NET_F_CTRL_MAC_ADDR) | VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) |
			VIRTIO_F(VIRTIO_NET_F_GUEST_TSO4) |
			VIRTIO_F(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
			VIRTIO_F(VIRTIO_NET_F_GUEST_ANNOUNCE);
		u8 table[4 + 6 + 4] = {1, 0, 0, 0, 2, 9, 9, 9, 9, 9}, offloads[8] = {0};
		struct net_card_device *card;

		next_mode(m);
		tx_next = far_next = 0;
		begin_net();
		driver_start(&d, features, 5);
		for (int i = 0; i < 8; i++) {
			const struct driver_buf buf = {RX, 2000, true};

			driver_add(&d.queue[0], &buf, 1);
		}
		driver_kick(&d.queue[0]);
		assert_int_equal(control(4, VIRTIO_NET_CTRL_RX, 0, "\0", 1), 0);
		assert_int_equal(control(4, VIRTIO_NET_CTRL_MAC, 0, table, sizeof(table)), 0);
		assert_int_equal(control(4, VIRTIO_NET_CTRL_VLAN, 0, "\x4d\0", 2), 0);
		assert_int_equal(control(4, VIRTIO_NET_CTRL_MQ, 0, "\2\0", 2), 0);
		store_le64(offloads, VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM));
		assert_int_equal(control(4, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, offloads, 8), 0);
		for (int i = 0; i < MOVES; i++) {
			check_filter();
			add_frames();
			harness_settle(d.h);
			driver_move(&d, &move);
			take_sent();
			check_filter();
			/* 5.1.6.5.4: switches are to learn where the guest is now. */
			assert_int_equal(driver_config(&d, 6, 2), 3);
			assert_int_equal(control(4, VIRTIO_NET_CTRL_ANNOUNCE, 0, "", 1), 0);
			assert_int_equal(driver_config(&d, 6, 2), 1);
			card = (struct net_card_device *)(void *)d.virtio;
			assert_int_equal(card->active_pairs, 2);
			assert_int_equal(card->receive_mask, NET_CSUM);
		}
		end_net();
	}
}

/* ---- console: messages without a buffer, ports open, a size ---- */

static struct harness_chardev chr[2];

static void begin_console(void)
{
	struct virtio_console_options options = {.nports = 2, .cols = 80, .rows = 25};

	driver_open_bus(&d, mode);
	for (int i = 0; i < 2; i++) {
		harness_chardev_open(d.h, &chr[i]);
		options.port[i].chr = chr[i].chr;
	}
	options.port[1].name = "agent";
	driver_open_device(&d, &virtio_console, &options);
}

static void end_console(void)
{
	driver_close_devices(&d);
	harness_chardev_close(&chr[0]);
	harness_chardev_close(&chr[1]);
	driver_close(&d);
}

static void tell(u32 port, u16 event)
{
	const struct driver_buf buf = {CTRL, 8, false};
	u8 *p = driver_ptr(&d, CTRL);

	store_le32(p, port);
	store_le16(p + 4, event);
	store_le16(p + 6, 1);
	driver_do(&d.queue[3], &buf, 1);
	harness_settle(d.h);
}

/* The next message, for which there was no buffer until now. */
static void expect(u32 port, u16 event)
{
	const struct driver_buf buf = {CTRL + 0x100, 0x100, true};
	u8 *p = driver_ptr(&d, CTRL + 0x100);

	driver_do(&d.queue[2], &buf, 1);
	assert_int_equal(load_le32(p), port);
	assert_int_equal(load_le16(p + 4), event);
}

static void say_while_paused(void)
{
	const struct driver_buf buf = {BUF, 6, false};

	memcpy(driver_ptr(&d, BUF), "paused", 6);
	driver_add(&d.queue[5], &buf, 1);
	driver_kick(&d.queue[5]);
}

static void console_goes_on(void **state)
{
	static const struct driver_move move = {NULL, end_console, begin_console};
	static const struct driver_move saying = {say_while_paused, end_console, begin_console};

	for (size_t m = 0; m < driver_mode_count; m++) {
		const struct driver_buf in = {RX, 16, true};
		char text[16] = "";
		u32 len;
		int id;

		next_mode(m);
		begin_console();
		driver_start(&d,
			     VIRTIO_F(VIRTIO_CONSOLE_F_MULTIPORT) | VIRTIO_F(VIRTIO_CONSOLE_F_SIZE),
			     6);
		tell(0, VIRTIO_CONSOLE_DEVICE_READY);
		driver_move(&d, &move);
		expect(0, VIRTIO_CONSOLE_PORT_ADD);
		driver_move(&d, &move);
		expect(1, VIRTIO_CONSOLE_PORT_ADD);
		tell(1, VIRTIO_CONSOLE_PORT_READY);
		driver_move(&d, &move);
		expect(1, VIRTIO_CONSOLE_PORT_OPEN);
		expect(1, VIRTIO_CONSOLE_PORT_NAME);
		bus_lock(d.h->bus);
		virtio_console_set_size(d.virtio, 0, 132, 43);
		bus_unlock(d.h->bus);
		tell(1, VIRTIO_CONSOLE_PORT_OPEN);
		/* Buffers that were given before take what comes after. */
		id = driver_add(&d.queue[4], &in, 1);
		driver_kick(&d.queue[4]);
		harness_settle(d.h);
		driver_move(&d, &saying);
		assert_int_equal(driver_config(&d, 0, 4), 132 | 43 << 16);
		assert_int_equal(harness_chardev_take(d.h, &chr[1], text, sizeof(text)), 6);
		assert_memory_equal(text, "paused", 6);
		assert_int_equal(driver_wait(&d.queue[5], d.queue[5].fifo[0]), 0);
		assert_int_equal(write(chr[1].fd, "later", 5), 5);
		assert_int_equal(driver_wait(&d.queue[4], id), 5);
		assert_memory_equal(driver_ptr(&d, RX), "later", 5);
		assert_false(driver_take(&d.queue[4], &id, &len));
		end_console();
	}
}

/* ---- balloon: a target, what was given, the buffer for statistics ---- */

static void begin_balloon(void)
{
	driver_open(&d, mode, &virtio_balloon, NULL);
}

static void balloon_goes_on(void **state)
{
	static const struct driver_move move = {NULL, end_device, begin_balloon};

	for (size_t m = 0; m < driver_mode_count; m++) {
		const u64 features = VIRTIO_F(VIRTIO_BALLOON_F_STATS_VQ) |
				     VIRTIO_F(VIRTIO_BALLOON_F_REPORTING) |
				     VIRTIO_F(VIRTIO_BALLOON_F_PAGE_POISON);
		const struct driver_buf stats = {BUF, 10, false}, pages = {RX, 0x10000, true};
		struct virtio_balloon_statistics seen;
		unsigned char vec[16];
		int id;

		next_mode(m);
		begin_balloon();
		driver_start(&d, features, 4);
		bus_lock(d.h->bus);
		virtio_balloon_set_target(d.virtio, 4 * MiB);
		bus_unlock(d.h->bus);
		driver_set_config(&d, 4, 4, 512);
		store_le16(driver_ptr(&d, BUF), 4);
		store_le64(driver_ptr(&d, BUF + 2), 4321);
		id = driver_add(&d.queue[2], &stats, 1);
		driver_kick(&d.queue[2]);
		harness_settle(d.h);
		driver_move(&d, &move);
		assert_int_equal(driver_config(&d, 0, 4), 1024);
		assert_int_equal(virtio_balloon_actual(d.virtio), 2 * MiB);
		harness_settle(d.h);
		bus_lock(d.h->bus);
		virtio_balloon_get_stats(d.virtio, &seen);
		bus_unlock(d.h->bus);
		assert_int_equal(seen.value[4], 4321);
		assert_int_equal(driver_wait(&d.queue[2], id), 0);
		/* The queues are where the features put them, and the pattern is kept. */
		driver_set_config(&d, 12, 4, 0xaaaaaaaa);
		driver_move(&d, &move);
		memset(driver_ptr(&d, RX), 0xaa, 0x10000);
		driver_do(&d.queue[3], &pages, 1);
		assert_int_equal(mincore(driver_ptr(&d, RX), 0x10000, vec), 0);
		assert_true(vec[3] & 1);
		driver_set_config(&d, 12, 4, 0);
		driver_move(&d, &move);
		driver_do(&d.queue[3], &pages, 1);
		assert_int_equal(mincore(driver_ptr(&d, RX), 0x10000, vec), 0);
		assert_false(vec[3] & 1);
		driver_close(&d);
	}
}

/* ---- vsock: connections end, and the guest is told ---- */

static char folder[64], path[96];

static void begin_vsock(void)
{
	const struct virtio_vsock_options options = {.path = path, .guest_cid = 42};

	driver_open(&d, mode, &virtio_vsock, &options);
}

static int connect_host(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(write(fd, "CONNECT 7\n", 10), 10);
	return fd;
}

/* The next packet to the guest; returns its operation. */
static u16 next_packet(u32 *port)
{
	const struct driver_buf buf = {RX, 4096, true};
	const u8 *p = driver_ptr(&d, RX);

	assert_true(driver_do(&d.queue[0], &buf, 1) >= 44);
	*port = load_le32(p + 16);
	return load_le16(p + 30);
}

static void send_packet(u32 to, u16 op)
{
	const struct driver_buf buf = {BUF, 44, false};
	u8 *p = driver_ptr(&d, BUF);

	memset(p, 0, 44);
	store_le64(p, 42);
	store_le64(p + 8, 2);
	store_le32(p + 16, 7);
	store_le32(p + 20, to);
	store_le16(p + 28, 1);
	store_le16(p + 30, op);
	store_le32(p + 36, 65536);
	driver_do(&d.queue[1], &buf, 1);
	harness_settle(d.h);
}

static void vsock_goes_on(void **state)
{
	static const struct driver_move move = {NULL, end_device, begin_vsock};

	snprintf(folder, sizeof(folder), "/tmp/bothy-state-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/s", folder);
	for (size_t m = 0; m < driver_mode_count; m++) {
		const struct driver_buf event = {CTRL, 8, true};
		u32 port, old_port;
		char text[32];
		int fd, id;

		next_mode(m);
		if (legacy())
			continue;
		begin_vsock();
		driver_start(&d, 0, 3);
		fd = connect_host();
		assert_int_equal(next_packet(&port), VIRTIO_VSOCK_OP_REQUEST);
		send_packet(port, VIRTIO_VSOCK_OP_RESPONSE);
		assert_true(read(fd, text, sizeof(text)) > 3);
		id = driver_add(&d.queue[2], &event, 1);
		driver_kick(&d.queue[2]);
		harness_settle(d.h);
		memset(driver_ptr(&d, CTRL), 0xee, 8);
		driver_move(&d, &move);
		/* 5.10.6.7: TRANSPORT_RESET, in a buffer that was there before. */
		assert_int_equal(driver_wait(&d.queue[2], id), 4);
		assert_int_equal(load_le32(driver_ptr(&d, CTRL)), 0);
		assert_int_equal(read(fd, text, sizeof(text)), 0);
		close(fd);
		old_port = port;
		send_packet(old_port, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		assert_int_equal(next_packet(&port), VIRTIO_VSOCK_OP_RST);
		assert_int_equal(port, old_port);
		fd = connect_host();
		assert_int_equal(next_packet(&port), VIRTIO_VSOCK_OP_REQUEST);
		assert_int_not_equal(port, old_port);
		send_packet(port, VIRTIO_VSOCK_OP_RESPONSE);
		assert_true(read(fd, text, sizeof(text)) > 3);
		close(fd);
		driver_close(&d);
	}
	rmdir(folder);
}

/* ---- a device that needs a reset still does ---- */

static void broken_stays_broken(void **state)
{
	static const struct driver_move move = {NULL, end_device, begin_rng};

	for (size_t m = 0; m < driver_mode_count; m++) {
		struct driver_buf buf = {~0ULL - 100, 16, true};

		next_mode(m);
		begin_rng();
		driver_start(&d, 0, 1);
		driver_add(&d.queue[0], &buf, 1);
		driver_kick(&d.queue[0]);
		assert_true(driver_needs_reset(&d));
		driver_move(&d, &move);
		assert_true(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_false(virtio_queue_is_live(&d.virtio->queue[0]));
		driver_start(&d, 0, 1);
		buf.addr = BUF;
		assert_int_equal(driver_do(&d.queue[0], &buf, 1), 16);
		driver_close(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rng_goes_on),	       cmocka_unit_test(blk_goes_on),
		cmocka_unit_test(net_goes_on),	       cmocka_unit_test(console_goes_on),
		cmocka_unit_test(balloon_goes_on),     cmocka_unit_test(vsock_goes_on),
		cmocka_unit_test(broken_stays_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
