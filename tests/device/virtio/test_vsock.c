/* The socket device, with real sockets on the host. Sections are those of Virtio 1.3. */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <errno.h>
#include <linux/virtio_vsock.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "virtio/vsock.h"

#define TX     0x800000
#define RX     0x900000
#define RX_LEN 4096
#define NRX    32
#define CID    42

static struct driver d;
static char dir[64], path[96];
static int rx_slot[1024]; /* by id: which buffer */
static u32 fwd;		  /* what the guest's program has taken */
static int held[1100];	  /* sockets of the host */

struct packet {
	u32 src_port, dst_port, len, flags, buf_alloc, fwd_cnt;
	u16 type, op;
	u64 src, dst;
	u8 data[RX_LEN];
};

static void give(int slot)
{
	const struct driver_buf buf = {RX + RX_LEN * slot, RX_LEN, true};
	int id = driver_add(&d.queue[0], &buf, 1);

	assert_true(id >= 0);
	rx_slot[id] = slot;
}

static void open_socket(const struct driver_mode *mode)
{
	struct virtio_vsock_options options = {.guest_cid = CID};

	snprintf(dir, sizeof(dir), "/tmp/bothy-vsock-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	options.path = path;
	driver_open(&d, mode, &virtio_vsock, &options);
	driver_start(&d, 0, 3);
	for (int i = 0; i < NRX; i++)
		give(i);
	driver_kick(&d.queue[0]);
	fwd = 0;
}

static void close_socket(void)
{
	driver_close(&d);
	assert_int_equal(access(path, F_OK), -1); /* it cleans up */
	rmdir(dir);
}

static void send_raw(u64 src, u64 dst, u32 from, u32 to, u16 type, u16 op, u32 flags, u32 claimed,
		     u32 len)
{
	const struct driver_buf bufs[] = {{TX, 44, false}, {TX + 44, len, false}};
	u8 *p = driver_ptr(&d, TX);

	store_le64(p, src);
	store_le64(p + 8, dst);
	store_le32(p + 16, from);
	store_le32(p + 20, to);
	store_le32(p + 24, claimed);
	store_le16(p + 28, type);
	store_le16(p + 30, op);
	store_le32(p + 32, flags);
	store_le32(p + 36, 8192); /* we may be sent this much */
	store_le32(p + 40, fwd);
	driver_do(&d.queue[1], bufs, len ? 2 : 1);
	harness_settle(d.h);
}

static void send_op(u32 from, u32 to, u16 op, u32 flags, u32 len)
{
	send_raw(CID, 2, from, to, 1, op, flags, len, len);
}

static bool receive(struct packet *p)
{
	int id;
	u32 len;
	u8 *raw;

	harness_settle(d.h);
	if (!driver_take(&d.queue[0], &id, &len))
		return false;
	assert_true(len >= 44);
	raw = driver_ptr(&d, RX + RX_LEN * rx_slot[id]);
	*p = (struct packet){.src = load_le64(raw),
			     .dst = load_le64(raw + 8),
			     .src_port = load_le32(raw + 16),
			     .dst_port = load_le32(raw + 20),
			     .len = load_le32(raw + 24),
			     .type = load_le16(raw + 28),
			     .op = load_le16(raw + 30),
			     .flags = load_le32(raw + 32),
			     .buf_alloc = load_le32(raw + 36),
			     .fwd_cnt = load_le32(raw + 40)};
	assert_int_equal(len, 44 + p->len);
	memcpy(p->data, raw + 44, p->len);
	give(rx_slot[id]);
	driver_kick(&d.queue[0]);
	return true;
}

static void expect(struct packet *p, u16 op, u32 from, u32 to)
{
	if (!receive(p))
		fail_msg("no packet where %u was expected", op);
	assert_int_equal(p->op, op);
	assert_int_equal(p->src, 2);
	assert_int_equal(p->dst, CID);
	assert_int_equal(p->src_port, from);
	assert_int_equal(p->dst_port, to);
	assert_int_equal(p->type, 1);
}

static int host_socket(bool listening, const char *suffix)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s%s", path, suffix);
	if (listening) {
		assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		assert_int_equal(listen(fd, 8), 0);
	} else {
		assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	}
	return fd;
}

static void fill(u8 *p, u32 from, u32 len)
{
	for (u32 i = 0; i < len; i++)
		p[i] = (u8)((from + i) * 7 + ((from + i) >> 8));
}

static void check(const u8 *p, u32 from, u32 len)
{
	for (u32 i = 0; i < len; i++)
		if (p[i] != (u8)((from + i) * 7 + ((from + i) >> 8)))
			fail_msg("byte %u of the stream is wrong", from + i);
}

/* Guest to host, and a megabyte each way, with the credit of 5.10.6.3 kept by both. */
static void guest_connects(void **state)
{
	static u8 data[65536];

	for (size_t m = 0; m < driver_mode_count; m++) {
		u32 sent = 0, seen = 0, host_sent = 0, taken = 0, told = 0, total = 1 << 20;
		struct packet p;
		int listener, fd;

		if (driver_modes[m].transport == DRIVER_LEGACY)
			continue; /* never had ids from before 1.0 */
		open_socket(&driver_modes[m]);
		assert_int_equal(driver_config(&d, 0, 4), CID);
		listener = host_socket(true, "_5000");
		send_op(1234, 5000, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
		expect(&p, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1234);
		assert_true(p.buf_alloc >= 65536);
		fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		assert_true(fd >= 0);
		while (seen < total || taken < total) {
			ssize_t n;

			if (sent < total && sent - told + 16384 <= p.buf_alloc) {
				fill(driver_ptr(&d, TX + 44), sent, 16384);
				send_op(1234, 5000, VIRTIO_VSOCK_OP_RW, 0, 16384);
				sent += 16384;
			}
			n = read(fd, data, sizeof(data));
			if (n > 0) {
				check(data, seen, (u32)n);
				seen += (u32)n;
			}
			if (host_sent < total) {
				fill(data, host_sent, 10000);
				n = write(fd, data, min(10000u, total - host_sent));
				host_sent += n > 0 ? (u32)n : 0;
			}
			while (receive(&p)) {
				told = p.fwd_cnt;
				if (p.op != VIRTIO_VSOCK_OP_RW) {
					assert_int_equal(p.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
					continue;
				}
				check(p.data, taken, p.len);
				taken += p.len;
				assert_true(taken - fwd <= 8192);
			}
			if (taken - fwd >= 4096 || taken == total) {
				fwd = taken;
				send_op(1234, 5000, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0);
			}
		}
		/* The end: half first. */
		send_op(1234, 5000, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND, 0);
		assert_int_equal(read(fd, data, 1), 0);
		assert_int_equal(write(fd, "x", 1), 1);
		do
			assert_true(receive(&p));
		while (p.op != VIRTIO_VSOCK_OP_RW);
		assert_int_equal(p.data[0], 'x');
		close(fd);
		expect(&p, VIRTIO_VSOCK_OP_SHUTDOWN, 5000, 1234);
		assert_int_equal(p.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
		send_op(1234, 5000, VIRTIO_VSOCK_OP_SHUTDOWN, 3, 0);
		expect(&p, VIRTIO_VSOCK_OP_RST, 5000, 1234);
		close(listener);
		unlink(strcat(strcpy((char *)data, path), "_5000"));
		close_socket();
	}
}

static void host_connects(void **state)
{
	struct packet p;
	char text[64] = "";
	int fd, bad;

	open_socket(&driver_modes[1]);
	fd = host_socket(false, "");
	assert_int_equal(write(fd, "CONNECT 77\nearly", 16), 16);
	assert_true(receive(&p));
	assert_int_equal(p.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(p.dst_port, 77);
	send_op(77, p.src_port, VIRTIO_VSOCK_OP_RESPONSE, 0, 0);
	assert_true(read(fd, text, sizeof(text)) > 0);
	assert_int_equal(strncmp(text, "OK ", 3), 0);
	assert_int_equal(strtoul(text + 3, NULL, 10), p.src_port);
	expect(&p, VIRTIO_VSOCK_OP_RW, p.src_port, 77);
	assert_int_equal(p.len, 5);
	assert_memory_equal(p.data, "early", 5);
	/* The guest resets: the program sees the end. */
	send_op(77, p.src_port, VIRTIO_VSOCK_OP_RST, 0, 0);
	assert_int_equal(read(fd, text, 1), 0);
	/* Greetings that are none. */
	bad = host_socket(false, "");
	assert_int_equal(write(bad, "GET / HTTP/1.1\n", 15), 15);
	harness_settle(d.h);
	assert_int_equal(read(bad, text, 1), 0);
	close(bad);
	bad = host_socket(false, "");
	assert_int_equal(write(bad, "CONNECT 99999999999\n", 20), 20);
	harness_settle(d.h);
	assert_int_equal(read(bad, text, 1), 0);
	close(bad);
	bad = host_socket(false, "");
	memset(text, 'x', sizeof(text));
	assert_int_equal(write(bad, text, sizeof(text)), sizeof(text));
	harness_settle(d.h);
	/* Closed with unread bytes in it. */
	assert_true(read(bad, text, 1) <= 0 && errno != EAGAIN);
	close(bad);
	/* Refused by the guest. */
	bad = host_socket(false, "");
	assert_int_equal(write(bad, "CONNECT 5\n", 10), 10);
	assert_true(receive(&p));
	send_op(5, p.src_port, VIRTIO_VSOCK_OP_RST, 0, 0);
	assert_int_equal(read(bad, text, 1), 0);
	close(bad);
	close(fd);
	close_socket();
}

/* 5.10.6.4: RST for what is not there, of another type, or for another host; nothing for packets
 * in somebody else's name, and no loop of resets. */
static void strangers_are_reset(void **state)
{
	struct packet p;

	open_socket(&driver_modes[0]);
	send_op(1, 2, VIRTIO_VSOCK_OP_REQUEST, 0, 0); /* nobody listens */
	expect(&p, VIRTIO_VSOCK_OP_RST, 2, 1);
	send_op(1, 2, VIRTIO_VSOCK_OP_RW, 0, 10);
	expect(&p, VIRTIO_VSOCK_OP_RST, 2, 1);
	send_raw(CID, 2, 1, 2, 7, VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0);
	assert_true(receive(&p));
	assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(p.type, 7);
	send_raw(CID, 99, 1, 2, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0);
	assert_true(receive(&p));
	assert_int_equal(p.src, 99);
	/* More data claimed than the chain has (CVE-2019-18960). */
	send_raw(CID, 2, 1, 2, 1, VIRTIO_VSOCK_OP_RW, 0, 0xffffffff, 10);
	expect(&p, VIRTIO_VSOCK_OP_RST, 2, 1);
	send_op(1, 2, VIRTIO_VSOCK_OP_RST, 0, 0);
	assert_false(receive(&p));
	send_raw(CID + 1, 2, 1, 2, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0);
	assert_false(receive(&p));
	{ /* shorter than a header */
		const struct driver_buf buf = {TX, 43, false};

		store_le64(driver_ptr(&d, TX), CID);

		driver_do(&d.queue[1], &buf, 1);
		assert_false(receive(&p));
	}
	close_socket();
}

/* A guest that sends more than it may, to a program that does not read: reset, and no more memory
 * than was promised. And one that takes nothing: its packets are handled all the same. */
static void credit_is_enforced(void **state)
{
	struct packet p;
	u32 alloc, sent = 0;
	int listener, fd;
	char name[128];

	open_socket(&driver_modes[0]);
	listener = host_socket(true, "_1");
	send_op(9, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
	expect(&p, VIRTIO_VSOCK_OP_RESPONSE, 1, 9);
	alloc = p.buf_alloc;
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	while (!receive(&p) || p.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE) {
		send_op(9, 1, VIRTIO_VSOCK_OP_RW, 0, 32768);
		sent += 32768;
		assert_true(sent < alloc + 4 * MiB);
	}
	assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
	assert_true(sent > alloc);
	for (int i = 0; i < 500; i++) /* without taking one of the answers */
		send_op((u32)i, 3, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
	assert_false(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	close(fd);
	close(listener);
	snprintf(name, sizeof(name), "%s_1", path);
	unlink(name);
	close_socket();
}

/* More connections than we keep: the guest is told that there is no room, and loses none that it
 * has. */
static void connections_are_bounded(void **state)
{
	struct rlimit limit = {8192, 8192};
	struct packet p;
	u32 n = 0;
	int listener;
	char name[128];

	if (setrlimit(RLIMIT_NOFILE, &limit)) {
		print_message("no more descriptors here\n");
		return;
	}
	open_socket(&driver_modes[0]);
	listener = host_socket(true, "_1");
	do {
		int fd;

		send_op(++n, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
		assert_true(receive(&p));
		fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		assert_true(fd >= 0 || p.op == VIRTIO_VSOCK_OP_RST);
		if (fd >= 0)
			held[n] = fd;
	} while (p.op == VIRTIO_VSOCK_OP_RESPONSE && n < ARRAY_SIZE(held) - 1);
	assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n, 1025);
	send_op(7, 1, VIRTIO_VSOCK_OP_RW, 0, 16);
	assert_int_equal(read(held[7], &p, sizeof(p)), 16);
	for (u32 i = 1; i <= n; i++)
		close(held[i]);
	close(listener);
	snprintf(name, sizeof(name), "%s_1", path);
	unlink(name);
	close_socket();
}

/* 5.10.6.4: a buffer for packets that holds no more than a header, or not even that. */
static void tiny_buffers_are_refused(void **state)
{
	for (u32 len = 1; len <= 44; len += 43) {
		const struct driver_buf buf = {RX, len, true};

		open_socket(&driver_modes[1]);
		driver_start(&d, 0, 3);
		driver_add(&d.queue[0], &buf, 1);
		driver_kick(&d.queue[0]);
		send_op(1, 2, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
		assert_true(driver_needs_reset(&d));
		close_socket();
	}
}

/* ---- whole messages: 5.10.6.6 ---- */

static void send_part(u32 from, u32 len, bool end)
{
	fill(driver_ptr(&d, TX + 44), from, len);
	send_raw(CID, 2, 9, 1, 2, VIRTIO_VSOCK_OP_RW, end, len, len);
}

static int seq_listener(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_1", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* The guest's program has connected; its socket on the host. */
static int seq_open(const struct driver_mode *mode, int *listener)
{
	struct packet p;
	int fd;

	open_socket(mode);
	driver_start(&d, VIRTIO_F(1), 3);
	for (int i = 0; i < NRX; i++)
		give(i);
	driver_kick(&d.queue[0]);
	*listener = seq_listener();
	send_raw(CID, 2, 9, 1, 2, VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0);
	assert_true(receive(&p));
	assert_int_equal(p.op, VIRTIO_VSOCK_OP_RESPONSE);
	assert_int_equal(p.type, 2);
	fd = accept4(*listener, NULL, NULL, SOCK_NONBLOCK);
	assert_true(fd >= 0);
	return fd;
}

static void seq_close(int fd, int listener)
{
	char name[128];

	close(fd);
	close(listener);
	snprintf(name, sizeof(name), "%s_1", path);
	unlink(name);
	close_socket();
}

/* Messages of many sizes, in one packet or several, keep their ends both ways. */
static void messages_stay_whole(void **state)
{
	static u8 data[65536];

	for (size_t m = 0; m < 9; m++) {
		struct packet p;
		int listener, fd = seq_open(&driver_modes[m], &listener);

		for (u32 len = 1; len < 60000; len = len * 3 + 1) {
			u32 taken = 0, parts = 0;

			for (u32 at = 0; at < len;) {
				u32 n = min(len - at, 16000u);

				send_part(at, n, at + n == len);
				at += n;
			}
			assert_int_equal(read(fd, data, sizeof(data)), len);
			check(data, 0, len);
			if (len > 8192) /* more than the guest said it takes */
				continue;
			fill(data, len, len);
			assert_int_equal(write(fd, data, len), len);
			assert_int_equal(write(fd, "!", 1), 1); /* another, right behind */
			do {
				do
					assert_true(receive(&p));
				while (p.op != VIRTIO_VSOCK_OP_RW);
				assert_int_equal(p.type, 2);
				check(p.data, len + taken, p.len);
				taken += p.len;
				parts++;
				fwd += p.len;
				send_raw(CID, 2, 9, 1, 2, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0);
			} while (!(p.flags & 1));
			assert_int_equal(taken, len);
			assert_int_equal(parts, (len + RX_LEN - 45) / (RX_LEN - 44));
			do
				assert_true(receive(&p));
			while (p.op != VIRTIO_VSOCK_OP_RW);
			assert_int_equal(p.len, 1);
			assert_int_equal(p.flags & 1, 1);
			fwd++;
			send_raw(CID, 2, 9, 1, 2, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0);
		}
		seq_close(fd, listener);
	}
}

/* A program that does not read: messages wait, in their order and within what was promised; then
 * all come. One without an end is forgotten when the guest shuts down. */
static void messages_wait(void **state)
{
	static u8 data[65536];
	u32 sent = 0, seen = 0, told = 0;
	struct packet p;
	int listener, fd = seq_open(&driver_modes[1], &listener);

	while (sent < 4000) {
		send_part(sent, 1 + sent % 60, true);
		sent++;
	}
	while (seen < sent) {
		ssize_t n = read(fd, data, sizeof(data));

		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			harness_settle(d.h);
			continue;
		}
		assert_int_equal(n, 1 + seen % 60);
		check(data, seen, (u32)n);
		seen++;
	}
	while (receive(&p))
		told = p.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE ? p.fwd_cnt : told;
	assert_true(told > 0);
	send_part(0, 100, false);
	/* What cannot be sent yet does not keep the loop awake. */
	assert_int_equal(poll(&(struct pollfd){.fd = loop_fd(d.h->loop), .events = POLLIN}, 1, 0),
			 0);
	send_raw(CID, 2, 9, 1, 2, VIRTIO_VSOCK_OP_SHUTDOWN, 3, 0, 0);
	assert_int_equal(read(fd, data, sizeof(data)), 0);
	assert_true(receive(&p));
	assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
	seq_close(fd, listener);
}

/* Too much, too many empty ones, a message that can never be taken, another type on the same ports,
 * and the type that was not negotiated: a reset each. */
static void messages_are_bounded(void **state)
{
	static u8 data[100000];

	for (int what = 0; what < 5; what++) {
		struct packet p = {0};
		int listener, fd = seq_open(&driver_modes[0], &listener), tries = 0;

		if (what == 4) {
			driver_start(&d, 0, 3);
			for (int i = 0; i < NRX; i++)
				give(i);
			driver_kick(&d.queue[0]);
			send_raw(CID, 2, 9, 1, 2, VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0);
		}
		if (what == 3)
			send_op(9, 1, VIRTIO_VSOCK_OP_RW, 0, 10);
		if (what == 2) /* more than peer_alloc */
			assert_int_equal(write(fd, data, 9000), 9000);
		while (what == 0 && !receive(&p) && tries++ < 100)
			send_part(0, 16000, false);
		assert_true(tries <= 17); /* 256 KiB of credit */
		for (; what == 1 && tries < 700000; tries++) {
			send_part(0, 0, true);
			if (tries % 1000 == 0 && receive(&p))
				break;
		}
		if (!p.op)
			assert_true(receive(&p));
		assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
		assert_int_equal(p.type, what == 3 ? 1 : 2);
		assert_false(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		seq_close(fd, listener);
	}
}

/* A reset of the device ends the connections. */
static void reset_closes(void **state)
{
	struct packet p;
	char c;
	int fd;

	open_socket(&driver_modes[3]);
	fd = host_socket(false, "");
	assert_int_equal(write(fd, "CONNECT 1\n", 10), 10);
	assert_true(receive(&p));
	send_op(1, p.src_port, VIRTIO_VSOCK_OP_RESPONSE, 0, 0);
	driver_set_status(&d, 0);
	harness_settle(d.h);
	assert_true(read(fd, &c, 1) == 1); /* OK ... */
	while (read(fd, &c, 1) == 1)
		;
	assert_int_equal(read(fd, &c, 1), 0);
	close(fd);
	/* Nobody is there to connect to. */
	fd = host_socket(false, "");
	harness_settle(d.h);
	assert_int_equal(read(fd, &c, 1), 0);
	close(fd);
	close_socket();
}

/* 5.10.4, 5.10.6.4.2: the guest never has a reserved CID; nor a path that no socket can have. */
static void reserved_addresses_are_refused(void **state)
{
	static const u64 bad[] = {1, 2, 0xffffffff, 0x100000000, ~0ULL};
	struct virtio_device *dev = NULL;
	struct err err;

	unlink("/tmp/bothy-never");
	driver_open_bus(&d, &driver_modes[0]);
	for (size_t i = 0; i < ARRAY_SIZE(bad) + 1; i++) {
		char longest[200];
		const struct virtio_vsock_options options = {
			.path = i < ARRAY_SIZE(bad) ? "/tmp/bothy-never" : longest,
			.guest_cid = i < ARRAY_SIZE(bad) ? bad[i] : 3};

		memset(longest, 'x', sizeof(longest));
		longest[sizeof(longest) - 1] = 0;
		assert_true(virtio_device_new(&dev, &virtio_vsock, d.h->bus, "test", &options, NULL,
					      NULL, &err));
		virtio_device_stop(dev);
		virtio_device_free(dev);
	}
	assert_int_equal(access("/tmp/bothy-never", F_OK), -1);
	driver_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_connects),
		cmocka_unit_test(host_connects),
		cmocka_unit_test(strangers_are_reset),
		cmocka_unit_test(credit_is_enforced),
		cmocka_unit_test(messages_stay_whole),
		cmocka_unit_test(messages_wait),
		cmocka_unit_test(messages_are_bounded),
		cmocka_unit_test(reset_closes),
		cmocka_unit_test(connections_are_bounded),
		cmocka_unit_test(tiny_buffers_are_refused),
		cmocka_unit_test(reserved_addresses_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
