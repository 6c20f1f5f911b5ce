/* The network card, between a driver and the other end of a loop-back link. Sections are those of
 * Virtio 1.3. */
#include "device/virtio/driver.h"

#include <linux/virtio_net.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "virtio/net.h"

#define TX_BUF 0x800000
#define RX_BUF 0x900000
#define CTRL   0xa00000

static struct driver d;
static struct net *ends[2];
static const u8 mac[6] = {0x52, 0x54, 0, 1, 2, 3};

/* The far end: takes up to `room` frames. */
static struct far {
	u32 room, received;
	u8 last[NET_MAX_FRAME];
	u32 last_len;
	struct net_offload offload;
} far;

static u32 far_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	u32 taken = min(n, far.room);

	for (u32 i = 0; i < taken; i++) {
		far.last_len = frames[i].len;
		far.offload = frames[i].offload;
		iov_to_buf(frames[i].iov, frames[i].niov, 0, far.last, frames[i].len);
	}
	far.room -= taken;
	far.received += taken;
	return taken;
}

static void open_card(const struct driver_mode *mode, unsigned int pairs, u32 caps)
{
	struct virtio_net_options options = {.mtu = 1400};
	const struct net_client client = {.receive = far_receive};
	struct loop *loop;

	memcpy(options.mac, mac, 6);
	/* The link needs the harness's loop, which driver_open() makes. */
	d.h = NULL;
	driver_open_bus(&d, mode);
	loop = d.h->loop;
	assert_int_equal(net_loopback_new(ends, loop, pairs,
					  NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN | NET_USO),
			 0);
	memset(&far, 0, sizeof(far));
	far.room = 1000;
	net_set_client(ends[1], &client);
	net_set_receive_offloads(ends[1], NET_CSUM | NET_TSO4);
	options.net = ends[0];
	driver_open_device(&d, &virtio_net, &options);
}

static void close_card(void)
{
	net_stop(ends[0]);
	driver_close_devices(&d);
	net_close(ends[0]);
	net_close(ends[1]);
	driver_close(&d);
}

static u32 header_len(void)
{
	return d.mode->transport == DRIVER_LEGACY &&
			       !(d.features & VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF))
		       ? 10
		       : 12;
}

static void put_frame(u64 at, u32 len, u8 seed)
{
	u8 *p = driver_ptr(&d, at);

	memset(p, 0, header_len());
	p += header_len();
	for (u32 i = 0; i < len; i++)
		p[i] = (u8)(seed + i * 3);
	memcpy(p, mac, 6);
	p[12] = 8;
	p[13] = 0;
}

static void send_frame(u32 len, u8 seed)
{
	const struct driver_buf bufs[] = {{TX_BUF, header_len(), false},
					  {TX_BUF + header_len(), len, false}};

	put_frame(TX_BUF, len, seed);
	assert_int_equal(driver_do(&d.queue[1], bufs, 2), 0);
	harness_settle(d.h);
}

/* From the far end to the guest. */
static void far_send(u32 len, u8 seed, const struct net_offload *offload)
{
	static u8 data[NET_MAX_FRAME];
	struct iovec iov[2] = {{data, 5}, {data + 5, len - 5}};
	struct net_frame frame = {.iov = iov, .niov = 2, .len = len};

	for (u32 i = 0; i < len; i++)
		data[i] = (u8)(seed + i * 5);
	memcpy(data, mac, 6);
	data[12] = 8;
	data[13] = 0;
	if (offload)
		frame.offload = *offload;
	assert_int_equal(net_send(ends[1], 0, &frame, 1), 1);
	harness_settle(d.h);
}

static int add_rx(u64 at, u32 len)
{
	const struct driver_buf buf = {at, len, true};
	int id = driver_add(&d.queue[0], &buf, 1);

	assert_true(id >= 0);
	return id;
}

static void check_rx(u64 at, u32 from, u32 len, u8 seed)
{
	const u8 *p = driver_ptr(&d, at);

	for (u32 i = max(from, 14u); i < from + len; i++)
		if (p[i - from] != (u8)(seed + i * 5))
			fail_msg("byte %u of the frame is wrong", i);
}

/* Both directions in every mode. */
static void every_mode_carries_frames(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		open_card(&driver_modes[m], 1, 0);
		driver_start(&d, VIRTIO_F(VIRTIO_NET_F_MAC), 2);
		for (int i = 0; i < 6; i++)
			assert_int_equal(driver_config(&d, (u32)i, 1), mac[i]);
		for (u8 i = 0; i < 100; i++) {
			u32 len = 60 + i * 14, rx = header_len() + 1600;
			int id = add_rx(RX_BUF, rx);

			send_frame(len, i);
			assert_int_equal(far.received, i + 1);
			assert_int_equal(far.last_len, len);
			assert_int_equal(far.last[20], (u8)(i + 60));
			driver_kick(&d.queue[0]);
			memset(driver_ptr(&d, RX_BUF), 0xaa, rx);
			far_send(len, i, NULL);
			assert_int_equal(driver_wait(&d.queue[0], id), header_len() + len);
			check_rx(RX_BUF + header_len(), 0, len, i);
			/* 5.1.6.4.1: flags and GSO zero; num_buffers 1 where there is one. */
			assert_int_equal(load_le16(driver_ptr(&d, RX_BUF)), 0);
			if (header_len() == 12)
				assert_int_equal(load_le16(driver_ptr(&d, RX_BUF + 10)), 1);
			assert_int_equal(*(u8 *)driver_ptr(&d, RX_BUF + header_len() + len), 0xaa);
		}
		close_card();
	}
}

/* 5.1.6.4: merged buffers: each but the last is filled, and all are published together. */
static void buffers_are_merged(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		u32 left = 12 + 1000;
		int id, ids[11];
		u32 len;

		open_card(&driver_modes[m], 1, 0);
		driver_start(&d, VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF), 2);
		for (int i = 0; i < 5; i++)
			ids[i] = add_rx(RX_BUF + 0x1000 * i, 100);
		driver_kick(&d.queue[0]);
		far_send(1000, 9, NULL);
		/* Too few: nothing comes, not a part of it either. */
		assert_false(driver_take(&d.queue[0], &id, &len));
		for (int i = 5; i < 11; i++)
			ids[i] = add_rx(RX_BUF + 0x1000 * i, 100);
		assert_true(driver_kick_if_wanted(&d.queue[0]) || d.mode->event_idx);
		if (d.mode->event_idx) /* six came at once: kick whatever the threshold says */
			driver_kick(&d.queue[0]);
		for (int i = 0; i < 11; i++) {
			u32 part = min(left, 100u);

			assert_int_equal(driver_wait(&d.queue[0], ids[i]), part);
			if (i)
				check_rx(RX_BUF + 0x1000 * i, 100 * i - 12, part, 9);
			left -= part;
		}
		assert_int_equal(left, 0);
		assert_int_equal(load_le16(driver_ptr(&d, RX_BUF + 10)), 11);
		close_card();
	}
}

/* Too few buffers of one byte more than what is there: the kick at the next one is asked for. */
static void shortage_asks_for_a_kick(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		open_card(&driver_modes[m], 1, 0);
		driver_start(&d, VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF), 2);
		for (int round = 0; round < 20; round++) {
			int first = add_rx(RX_BUF, 512), second;

			driver_kick(&d.queue[0]);
			far_send(600, 1, NULL);
			second = add_rx(RX_BUF + 0x1000, 512);
			assert_true(driver_kick_if_wanted(&d.queue[0]));
			assert_int_equal(driver_wait(&d.queue[0], first), 512);
			assert_int_equal(driver_wait(&d.queue[0], second), 100);
		}
		close_card();
	}
}

/* A frame longer than the one buffer a driver without merging gives: dropped, not written past. */
static void long_frames_are_dropped(void **state)
{
	int id;

	open_card(&driver_modes[0], 1, 0);
	driver_start(&d, 0, 2);
	id = add_rx(RX_BUF, 500);
	driver_kick(&d.queue[0]);
	memset(driver_ptr(&d, RX_BUF), 0xaa, 2000);
	far_send(1000, 1, NULL);
	assert_int_equal(*(u8 *)driver_ptr(&d, RX_BUF), 0xaa);
	far_send(400, 2, NULL);
	assert_int_equal(driver_wait(&d.queue[0], id), 412);
	assert_int_equal(*(u8 *)driver_ptr(&d, RX_BUF + 412), 0xaa);
	/* One that cannot hold the header is against the rules. */
	add_rx(RX_BUF, 11);
	driver_kick(&d.queue[0]);
	far_send(400, 2, NULL);
	assert_true(driver_needs_reset(&d));
	close_card();
}

/* The far end takes nothing: the transmit queue stops, and goes on when told. */
static void full_link_stops_the_queue(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		struct driver_queue *q = &d.queue[1];
		u32 used = 0, len;
		int id;

		open_card(&driver_modes[m], 1, 0);
		driver_start(&d, 0, 2);
		far.room = 0;
		put_frame(TX_BUF, 100, 7);
		for (int i = 0; i < 100; i++) {
			const struct driver_buf buf = {TX_BUF, header_len() + 100, false};

			assert_true(driver_add(q, &buf, 1) >= 0);
			driver_kick(q);
		}
		harness_settle(d.h);
		while (driver_take(q, &id, &len))
			used++;
		assert_true(used < 100);
		far.room = 1000;
		net_receive_resume(ends[1], 0);
		harness_settle(d.h);
		harness_settle(d.h);
		while (driver_take(q, &id, &len))
			used++;
		assert_int_equal(used, 100);
		assert_int_equal(far.received, 100);
		close_card();
	}
}

/* 5.1.6.2.2: headers are hints of a stranger. Bad ones are dropped and the queue goes on. */
static void bad_headers_are_dropped(void **state)
{
	static const struct {
		u8 flags, gso;
		u16 hdr_len, size, start, offset;
		bool good;
	} h[] = {
		{0, 0, 0, 0, 0, 0, true},
		{1, 0, 0, 0, 34, 16, true},
		{1, 0, 0, 0, 0xffff, 0xffff, false},
		{1, 0, 0, 0, 99, 0, false},
		{1, 0, 0, 0, 98, 0, true},
		{1, 1, 54, 0, 34, 16, false},
		{1, 1, 54, 1000, 34, 16, true},
		{0, 1, 54, 1000, 34, 16, false},
		{1, 4, 54, 1000, 34, 16, false},
		{1, 99, 54, 1000, 34, 16, false},
		{1, 1, 0xffff, 1000, 34, 16, true},
		{1, 5, 54, 1000, 34, 6, false},
	};
	u32 good = 0;

	open_card(&driver_modes[1], 1, 0);
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_CSUM) | VIRTIO_F(VIRTIO_NET_F_HOST_TSO4), 2);
	for (size_t i = 0; i < ARRAY_SIZE(h); i++) {
		const struct driver_buf buf = {TX_BUF, 112, false};
		u8 *p = driver_ptr(&d, TX_BUF);

		put_frame(TX_BUF, 100, (u8)i);
		p[0] = h[i].flags;
		p[1] = h[i].gso;
		store_le16(p + 2, h[i].hdr_len);
		store_le16(p + 4, h[i].size);
		store_le16(p + 6, h[i].start);
		store_le16(p + 8, h[i].offset);
		driver_do(&d.queue[1], &buf, 1);
		harness_settle(d.h);
		good += h[i].good;
		if (far.received != good)
			fail_msg("header %zu was %s", i, h[i].good ? "dropped" : "passed on");
	}
	/* Too short for a header, for a frame; and too long. */
	for (u32 len = 1; len <= 25; len += 6) {
		const struct driver_buf buf = {TX_BUF, len, false};

		driver_do(&d.queue[1], &buf, 1);
	}
	{
		const struct driver_buf buf = {TX_BUF, 0x20000, false};

		driver_do(&d.queue[1], &buf, 1);
	}
	harness_settle(d.h);
	assert_int_equal(far.received, good);
	close_card();
}

/* 5.1.6.4: what was not negotiated is never handed to the driver; the checksum is done for it. */
static void offloads_follow_the_features(void **state)
{
	const struct net_offload csum = {
		.flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
	const struct net_offload tso = {.flags = NET_HDR_NEEDS_CSUM,
					.csum_start = 34,
					.csum_offset = 16,
					.gso_type = NET_GSO_TCPV4,
					.gso_size = 1000,
					.hdr_len = 54};
	const u8 *p;
	int id, none;
	u32 len;

	open_card(&driver_modes[0], 1, 0);
	driver_start(&d, 0, 2);
	id = add_rx(RX_BUF, 4096);
	driver_kick(&d.queue[0]);
	far_send(200, 3, &tso);
	assert_false(driver_take(&d.queue[0], &none, &len));
	far_send(200, 3, &csum);
	assert_int_equal(driver_wait(&d.queue[0], id), 212);
	p = driver_ptr(&d, RX_BUF);
	assert_int_equal(p[0], 0);
	/* RFC 1071: the sum with the checksum in place is the inverse of what stood there. */
	assert_int_equal(net_csum_fold(net_csum_add(0, p + 12 + 34, 200 - 34)),
			 (u8)(3 + 40 * 5) << 8 | (u8)(3 + 41 * 5));

	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_F(VIRTIO_NET_F_GUEST_TSO4), 2);
	id = add_rx(RX_BUF, 4096);
	driver_kick(&d.queue[0]);
	far_send(2000, 3, &tso);
	assert_int_equal(driver_wait(&d.queue[0], id), 2012);
	assert_int_equal(p[0], 1);
	assert_int_equal(p[1], 1);
	assert_int_equal(load_le16(p + 4), 1000);
	assert_int_equal(load_le16(p + 6), 34);
	check_rx(RX_BUF + 12, 0, 2000, 3);
	close_card();
}

/* 5.1.3.1: bits without those they need are refused. */
static void features_must_be_consistent(void **state)
{
	open_card(&driver_modes[0], 1, 0);
	for (int good = 0; good < 2; good++) {
		driver_set_status(&d, 0);
		driver_set_status(&d, 3);
		driver_set_features(&d, VIRTIO_F(VIRTIO_F_VERSION_1) |
						VIRTIO_F(VIRTIO_NET_F_HOST_TSO4) |
						(good ? VIRTIO_F(VIRTIO_NET_F_CSUM) : 0));
		driver_set_status(&d, 11);
		assert_int_equal(!!(driver_status(&d) & 8), good);
	}
	close_card();
}

static u8 control(u16 queue, u8 class, u8 command, const void *data, u32 len)
{
	const struct driver_buf bufs[] = {
		{CTRL, 2, false}, {CTRL + 16, len, false}, {CTRL + 0x8000, 1, true}};
	u8 *p = driver_ptr(&d, CTRL);

	p[0] = class;
	p[1] = command;
	if (data)
		memcpy(p + 16, data, len);
	p[0x8000] = 0xee;
	driver_do(&d.queue[queue], bufs, 3);
	return p[0x8000];
}

static bool arrives(const u8 *to)
{
	static u8 data[64];
	struct iovec iov = {data, 64};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = 64};
	int id = add_rx(RX_BUF, 2000), got;
	u32 len;
	bool yes;

	driver_kick(&d.queue[0]);
	harness_settle(d.h);
	memcpy(data, to, 6);
	assert_int_equal(net_send(ends[1], 0, &frame, 1), 1);
	harness_settle(d.h);
	yes = driver_take(&d.queue[0], &got, &len);
	if (!yes) { /* flush the buffer out with one that is for us */
		memcpy(data, mac, 6);
		net_send(ends[1], 0, &frame, 1);
		harness_settle(d.h);
		assert_true(driver_take(&d.queue[0], &got, &len));
	}
	assert_int_equal(got, id);
	return yes;
}

/* 5.1.6.5: the control queue: modes, tables, and an answer to everything. */
static void filter_is_the_drivers(void **state)
{
	static const u8 other[6] = {2, 9, 9, 9, 9, 9}, multi[6] = {1, 0, 0x5e, 0, 0, 1};
	static const u8 all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	u8 table[4 + 6 + 4 + 6] = {1, 0, 0, 0, 2, 9, 9, 9, 9, 9, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
	u8 on = 1, off = 0;

	open_card(&driver_modes[1], 1, 0);
	driver_start(&d,
		     VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_CTRL_RX) |
			     VIRTIO_F(VIRTIO_NET_F_CTRL_MAC_ADDR),
		     3);
	assert_true(arrives(other)); /* promiscuous until told */
	assert_int_equal(control(2, 0, 0, &off, 1), 0);
	assert_false(arrives(other));
	assert_false(arrives(multi));
	assert_true(arrives(all));
	assert_true(arrives(mac));
	assert_int_equal(control(2, 0, 5, &on, 1), 0);
	assert_false(arrives(all));
	assert_int_equal(control(2, 1, 0, table, sizeof(table)), 0);
	assert_true(arrives(other));
	assert_true(arrives(multi));
	table[0] = 200; /* more than there is */
	assert_int_equal(control(2, 1, 0, table, sizeof(table)), 1);
	store_le32(table, 0xffffffff);
	assert_int_equal(control(2, 1, 0, table, sizeof(table)), 1);
	assert_true(arrives(other)); /* as before */
	assert_int_equal(control(2, 1, 1, other, 6), 0);
	assert_int_equal(driver_config(&d, 5, 1), 9);
	assert_int_equal(control(2, 1, 1, other, 5), 1);
	assert_int_equal(control(2, 77, 0, &on, 1), 1);
	assert_int_equal(control(2, 4, 0, "\2", 2), 1); /* MQ was not negotiated */
	close_card();
}

/* 5.1.6.5.5 and 5.1.2: pairs, and where the control queue is. */
static void pairs_are_the_drivers(void **state)
{
	open_card(&driver_modes[0], 4, 0);
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_CTRL_VQ), 3);
	assert_int_equal(control(2, 0, 0, "\1", 1), 0);
	memset(&d.queue, 0, sizeof(d.queue));
	close_card();

	open_card(&driver_modes[0], 3, 0);
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_MQ), 7);
	assert_int_equal(driver_config(&d, 8, 2), 3);
	assert_int_equal(control(6, 4, 0, "\3", 2), 0);
	assert_int_equal(control(6, 4, 0, "\4", 2), 1);
	assert_int_equal(control(6, 4, 0, "\0", 2), 1);
	{
		const struct driver_buf buf = {TX_BUF, 112, false};

		put_frame(TX_BUF, 100, 1);
		driver_do(&d.queue[5], &buf, 1);
		harness_settle(d.h);
		assert_int_equal(far.received, 1);
	}
	close_card();
}

/* 5.1.4: link state, with an interrupt; MTU. */
static void link_is_told(void **state)
{
	open_card(&driver_modes[0], 1, 0);
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_STATUS) | VIRTIO_F(VIRTIO_NET_F_MTU), 2);
	assert_int_equal(driver_config(&d, 6, 2), 1);
	assert_int_equal(driver_config(&d, 10, 2), 1400);
	driver_take_isr(&d);
	net_set_link(ends[0], false);
	harness_settle(d.h);
	assert_int_equal(driver_config(&d, 6, 2), 0);
	assert_int_equal(driver_take_isr(&d), 2);
	net_set_link(ends[0], true);
	harness_settle(d.h);
	assert_int_equal(driver_config(&d, 6, 2), 1);
	close_card();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_carries_frames),
		cmocka_unit_test(buffers_are_merged),
		cmocka_unit_test(shortage_asks_for_a_kick),
		cmocka_unit_test(long_frames_are_dropped),
		cmocka_unit_test(full_link_stops_the_queue),
		cmocka_unit_test(bad_headers_are_dropped),
		cmocka_unit_test(offloads_follow_the_features),
		cmocka_unit_test(features_must_be_consistent),
		cmocka_unit_test(filter_is_the_drivers),
		cmocka_unit_test(pairs_are_the_drivers),
		cmocka_unit_test(link_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
