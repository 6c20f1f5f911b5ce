/* The network card, between a driver and the other end of a loop-back link. Sections are those of
 * Virtio 1.3. */
#include "device/virtio/driver.h"

#include <linux/virtio_net.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "virtio/net.h"
#include "virtio/net_int.h"

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
		/* Without NEEDS_CSUM the offsets are not looked at, nor bits that nobody knows. */
		{0, 0, 0, 0, 0xffff, 0xffff, true},
		{0xfe, 0, 0, 0, 0xffff, 0xffff, true},
	};
	struct net_card_device *card;
	u32 good = 0, bad = 0;

	open_card(&driver_modes[1], 1, 0);
	card = (struct net_card_device *)(void *)d.virtio;
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_CSUM) | VIRTIO_F(VIRTIO_NET_F_HOST_TSO4), 2);
	memset(&far.offload, 0xff, sizeof(far.offload));
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
		bad += !h[i].good;
		assert_int_equal(card->pair[0].malformed,
				 bad); /* here, whatever the link would do */
		if (far.received != good)
			fail_msg("header %zu was %s", i, h[i].good ? "dropped" : "passed on");
		assert_true(!h[i].good || far.offload.hdr_len <= 100);
	}
	assert_int_equal(far.offload.flags, 0);
	/* Too short for a header, for a frame; and too long. */
	for (u32 len = 1; len <= 25; len += 6) {
		const struct driver_buf buf = {TX_BUF, len, false};

		driver_do(&d.queue[1], &buf, 1);
		assert_int_equal(card->pair[0].malformed, ++bad);
	}
	{
		const struct driver_buf buf = {TX_BUF, 0x20000, false};

		driver_do(&d.queue[1], &buf, 1);
		assert_int_equal(card->pair[0].malformed, ++bad);
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
	struct net_offload ecn = tso;
	const u8 *p;
	int id, none;
	u32 len;

	ecn.gso_type |= NET_GSO_ECN;
	open_card(&driver_modes[0], 1, 0);
	driver_start(&d, 0, 2);
	id = add_rx(RX_BUF, 4096);
	driver_kick(&d.queue[0]);
	far_send(200, 3, &tso);
	assert_false(driver_take(&d.queue[0], &none, &len));
	/* Nor from a link that does not keep to what it was told. */
	net_set_receive_offloads(ends[0], NET_CSUM | NET_TSO4);
	far_send(200, 3, &tso);
	assert_false(driver_take(&d.queue[0], &none, &len));
	net_set_receive_offloads(ends[0], 0);
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
	far_send(200, 3, &ecn); /* was not negotiated */
	driver_start(&d,
		     VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_F(VIRTIO_NET_F_GUEST_TSO4) |
			     VIRTIO_F(VIRTIO_NET_F_GUEST_ECN),
		     2);
	id = add_rx(RX_BUF, 4096);
	driver_kick(&d.queue[0]);
	far_send(2000, 3, &ecn);
	assert_int_equal(driver_wait(&d.queue[0], id), 2012);
	assert_int_equal(p[1], 0x81);
	close_card();
}

static bool accepts(u64 features)
{
	driver_set_status(&d, 0);
	driver_set_status(&d, 3);
	driver_set_features(&d, VIRTIO_F(VIRTIO_F_VERSION_1) | features);
	driver_set_status(&d, 11);
	return driver_status(&d) & 8;
}

/* Which bits need which: 5.1.3.1. */
static const struct {
	u8 bit, needs, or ;
} rules[] = {
	{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM},
	{VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM},
	{54, VIRTIO_NET_F_GUEST_CSUM}, /* USO4 */
	{55, VIRTIO_NET_F_GUEST_CSUM}, /* USO6 */
	{VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6},
	{VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM},
	{VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM},
	{56, VIRTIO_NET_F_CSUM}, /* USO */
	{VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6},
	{VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ},
	{VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ},
	{VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ},
	{VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ},
	{VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ},
	{VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ},
};

/* The bit with all that it needs, down to the ground, but for `without`. */
static u64 closure(unsigned int bit, unsigned int without)
{
	u64 set = bit == without ? 0 : VIRTIO_F(bit);

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (rules[i].bit == bit)
			set |= closure(rules[i].needs, without);
	return set;
}

/* 2.2.2, 5.1.3.1: bits without those they need are refused, with them accepted; and whatever the
 * link can do, none is offered without them. Steering and hashes are not (bits 57 and 60). */
static void features_must_be_consistent(void **state)
{
	open_card(&driver_modes[0], 3, 0);
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		assert_true(accepts(closure(rules[i].bit, 99)));
		assert_false(accepts(closure(rules[i].bit, rules[i].needs)));
		if (rules[i].or)
			assert_true(accepts(closure(rules[i].bit, rules[i].needs) |
					    closure(rules[i].or, 99)));
	}
	close_card();
	for (u32 caps = 0; caps < 32; caps++) {
		struct virtio_net_options options = {.mac = {2}};
		u64 offered;

		driver_open_bus(&d, &driver_modes[0]);
		assert_int_equal(net_loopback_new(ends, d.h->loop, 1, caps), 0);
		options.net = ends[0];
		driver_open_device(&d, &virtio_net, &options);
		offered = driver_offered(&d);
		assert_false(offered & (VIRTIO_F(57) | VIRTIO_F(60)));
		for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
			if (offered & VIRTIO_F(rules[i].bit))
				assert_true(offered & (VIRTIO_F(rules[i].needs) |
						       (rules[i].or ? VIRTIO_F(rules[i].or) : 0)));
		close_card();
	}
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
	for (u32 n = 2; n < 20; n++) { /* more than are there, if not more than bytes */
		store_le32(table, n);
		assert_int_equal(control(2, 1, 0, table, sizeof(table)), 1);
	}
	assert_true(arrives(other)); /* as before */
	assert_int_equal(control(2, 1, 1, other, 6), 0);
	assert_int_equal(driver_config(&d, 5, 1), 9);
	assert_int_equal(control(2, 1, 1, other, 5), 1);
	assert_int_equal(control(2, 77, 0, &on, 1), 1);
	assert_int_equal(control(2, 4, 0, "\2", 2), 1); /* MQ was not negotiated */
	close_card();
}

/* 5.1.6.5.2: more addresses than the table holds are legal, and mean all of that kind. */
static void long_tables_mean_all(void **state)
{
	static const u8 other[6] = {2, 9, 9, 9, 9, 9}, multi[6] = {1, 0, 0x5e, 0, 0, 1};
	static u8 table[4 + 6 * 1000 + 4];

	open_card(&driver_modes[1], 1, 0);
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_CTRL_RX), 3);
	assert_int_equal(control(2, 0, 0, "\0", 1), 0);
	for (u32 n = 60; n <= 1000; n += 235) {
		memset(table, 0, sizeof(table));
		store_le32(table, n);
		for (u32 i = 0; i < n; i++)
			store_le32(table + 4 + 6 * i, 2 + (i << 8));
		assert_int_equal(control(2, 1, 0, table, 4 + 6 * n + 4), 0);
		assert_int_equal(arrives(other), n > 64);
		assert_false(arrives(multi));
	}
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

static bool arrives_on(unsigned int pair)
{
	static u8 frame[64];
	struct iovec iov = {frame, 64};
	const struct net_frame f = {.iov = &iov, .niov = 1, .len = 64};
	const struct driver_buf buf = {RX_BUF, 2000, true};
	struct driver_queue *q = &d.queue[2 * pair];
	u32 len;
	int id;

	memcpy(frame, mac, 6);
	if (q->nfree == q->size) {
		driver_add(q, &buf, 1);
		driver_kick(q);
	}
	net_send(ends[1], pair, &f, 1);
	harness_settle(d.h);
	return driver_take(q, &id, &len);
}

/* 5.1.6.5.6.2: frames come on the pairs that the driver asked for, only the first at the start, and
 * after a reset again. */
static void frames_keep_to_active_pairs(void **state)
{
	open_card(&driver_modes[0], 3, 0);
	for (int round = 0; round < 2; round++) {
		driver_start(&d, VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_MQ), 7);
		assert_true(arrives_on(0));
		assert_false(arrives_on(1));
		assert_int_equal(control(6, 4, 0, "\2", 2), 0);
		assert_true(arrives_on(1));
		assert_false(arrives_on(2));
		assert_int_equal(control(6, 4, 0, "\3", 2), 0);
		assert_true(arrives_on(2));
		assert_int_equal(control(6, 4, 0, "\1", 2), 0);
		assert_false(arrives_on(1));
	}
	close_card();
}

/* 5.1.4: link state, with an interrupt; MTU. */
/* 5.1.6.5.6.2: what comes while the queue is reset is dropped; the queue goes on afterwards. */
static void reset_queues_drop(void **state)
{
	for (size_t m = 0; m < 4; m++) {
		int id;
		u32 len;

		open_card(&driver_modes[m], 1, 0);
		driver_start(&d, VIRTIO_F(VIRTIO_F_RING_RESET), 2);
		assert_true(arrives(mac));
		harness_write(d.h, d.common + 22, 2, 0);
		harness_write(d.h, d.common + 58, 2, 1);
		far_send(100, 1, NULL);
		harness_settle(d.h);
		driver_setup_queue(&d, 0, 0);
		add_rx(RX_BUF, 2000);
		driver_kick(&d.queue[0]);
		harness_settle(d.h);
		assert_false(driver_take(&d.queue[0], &id, &len));
		far_send(200, 2, NULL);
		harness_settle(d.h);
		assert_true(driver_take(&d.queue[0], &id, &len));
		assert_int_equal(len, header_len() + 200);
		close_card();
	}
}

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

/* 5.1.4.1: with MTU, nothing longer is handed to the driver, a VLAN tag apart; what is to be cut
 * may be. The driver's frames of that length go out whole. */
static void mtu_is_kept(void **state)
{
	const struct net_offload tso = {.flags = NET_HDR_NEEDS_CSUM,
					.csum_start = 34,
					.csum_offset = 16,
					.gso_type = NET_GSO_TCPV4,
					.gso_size = 1000,
					.hdr_len = 54};
	int id, none;
	u32 len;

	open_card(&driver_modes[0], 1, 0);
	driver_start(&d,
		     VIRTIO_F(VIRTIO_NET_F_MTU) | VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) |
			     VIRTIO_F(VIRTIO_NET_F_GUEST_TSO4),
		     2);
	id = add_rx(RX_BUF, 8192);
	driver_kick(&d.queue[0]);
	far_send(1400 + 19, 1, NULL);
	assert_false(driver_take(&d.queue[0], &none, &len));
	far_send(1400 + 14, 1, NULL);
	assert_int_equal(driver_wait(&d.queue[0], id), 12 + 1414);
	id = add_rx(RX_BUF, 8192);
	driver_kick(&d.queue[0]);
	far_send(4000, 1, &tso);
	assert_int_equal(driver_wait(&d.queue[0], id), 12 + 4000);
	send_frame(1414, 3);
	assert_int_equal(far.last_len, 1414);
	/* A driver that does not know the MTU is not told, and gets all. */
	driver_start(&d, 0, 2);
	id = add_rx(RX_BUF, 8192);
	driver_kick(&d.queue[0]);
	far_send(1500, 1, NULL);
	assert_int_equal(driver_wait(&d.queue[0], id), 12 + 1500);
	close_card();
}

/* 5.1.6.5.3: VLANs; without a command all pass, then those that were added. */
static void vlans_are_filtered(void **state)
{
	static u8 frame[64];
	struct iovec iov = {frame, 64};
	const struct net_frame f = {.iov = &iov, .niov = 1, .len = 64};

	open_card(&driver_modes[1], 1, 0);
	driver_start(&d,
		     VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_CTRL_RX) |
			     VIRTIO_F(VIRTIO_NET_F_CTRL_VLAN),
		     3);
	memcpy(frame, mac, 6);
	frame[12] = 0x81;
	assert_int_equal(control(2, 0, 0, "\0", 1), 0); /* not promiscuous */
	for (int step = 0; step < 4; step++) {
		static const bool passes[4][2] = {
			{true, true}, {true, false}, {true, true}, {false, true}};

		if (step == 1)
			assert_int_equal(control(2, 2, 0, "\x64\0", 2), 0);
		if (step == 2)
			assert_int_equal(control(2, 2, 0, "\xff\x0f", 2), 0);
		if (step == 3)
			assert_int_equal(control(2, 2, 1, "\x64\0", 2), 0);
		for (int which = 0; which < 2; which++) {
			int id, got;
			u32 len;

			id = add_rx(RX_BUF, 2000);
			driver_kick(&d.queue[0]);
			frame[14] = which ? 0xff : 0; /* the priority is not part of it */
			frame[15] = which ? 0xff : 100;
			net_send(ends[1], 0, &f, 1);
			harness_settle(d.h);
			if (driver_take(&d.queue[0], &got, &len) != passes[step][which])
				fail_msg("step %d, VLAN %d", step, which);
			if (passes[step][which]) {
				assert_int_equal(got, id);
				continue;
			}
			frame[12] = 8; /* flush the buffer out */
			net_send(ends[1], 0, &f, 1);
			harness_settle(d.h);
			assert_true(driver_take(&d.queue[0], &got, &len));
			frame[12] = 0x81;
		}
	}
	assert_int_equal(control(2, 2, 0, "\0\x10", 2), 1); /* 4096 */
	assert_int_equal(control(2, 2, 2, "\1\0", 2), 1);
	assert_int_equal(control(2, 2, 0, "\1", 1), 1);
	close_card();
}

/* 5.1.6.5.4: ANNOUNCE stands until it is acknowledged, and is gone before the answer. 5.1.6.5.8:
 * offloads are turned off and on, but none that was not negotiated. */
static void announce_and_offloads(void **state)
{
	struct net_card_device *card;
	u8 want[8];

	open_card(&driver_modes[0], 1, 0);
	card = (struct net_card_device *)(void *)d.virtio;
	driver_start(&d,
		     VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_STATUS) |
			     VIRTIO_F(VIRTIO_NET_F_GUEST_ANNOUNCE) |
			     VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_F(VIRTIO_NET_F_GUEST_TSO4) |
			     VIRTIO_F(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
		     3);
	bus_lock(d.h->bus);
	net_set_status_bit(card, VIRTIO_NET_S_ANNOUNCE, true);
	bus_unlock(d.h->bus);
	assert_int_equal(driver_config(&d, 6, 2), 3);
	assert_int_equal(control(2, VIRTIO_NET_CTRL_ANNOUNCE, 1, NULL, 1), 1);
	assert_int_equal(driver_config(&d, 6, 2), 3);
	assert_int_equal(control(2, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 1), 0);
	assert_int_equal(driver_config(&d, 6, 2), 1);
	assert_int_equal(card->receive_mask, NET_CSUM | NET_TSO4);
	store_le64(want, VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM));
	assert_int_equal(control(2, 5, 0, want, 8), 0);
	assert_int_equal(card->receive_mask, NET_CSUM);
	assert_int_equal(control(2, 5, 0, want, 7), 1);
	store_le64(want, 0);
	assert_int_equal(control(2, 5, 0, want, 8), 0);
	assert_int_equal(card->receive_mask, 0);
	store_le64(want, VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_F(VIRTIO_NET_F_GUEST_TSO6));
	assert_int_equal(control(2, 5, 0, want, 8), 1);
	store_le64(want, ~0ULL);
	assert_int_equal(control(2, 5, 0, want, 8), 1);
	assert_int_equal(card->receive_mask, 0);
	close_card();
}

/* Every class, command and length; an answer to each, and what was right before is right after. */
static void commands_of_noise(void **state)
{
	const struct driver_buf no_room[] = {{CTRL, 2, false}, {CTRL + 16, 1, false}};
	const struct driver_buf half[] = {{CTRL, 1, false}, {CTRL + 0x8000, 1, true}};
	const struct driver_buf giant[] = {{CTRL, 0x8000, false}, {CTRL + 0x9000, 1, true}};
	u64 seed = 11;
	u8 data[64];

	open_card(&driver_modes[1], 3, 0);
	driver_start(&d,
		     VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_CTRL_RX) |
			     VIRTIO_F(VIRTIO_NET_F_CTRL_VLAN) | VIRTIO_F(VIRTIO_NET_F_MQ) |
			     VIRTIO_F(VIRTIO_NET_F_CTRL_MAC_ADDR) |
			     VIRTIO_F(VIRTIO_NET_F_GUEST_ANNOUNCE) |
			     VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM) |
			     VIRTIO_F(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
		     7);
	for (u32 class = 0; class < 9; class ++)
		for (u32 command = 0; command < 8; command++)
			for (u32 len = 1; len < 40; len++) {
				u8 ack;

				for (u32 i = 0; i < len; i++)
					data[i] = (u8)(harness_random(&seed) % 4
							       ? harness_random(&seed) % 3
							       : harness_random(&seed));
				ack = control(6, (u8) class, (u8)command, data, len);
				assert_true(ack == VIRTIO_NET_OK || ack == VIRTIO_NET_ERR);
			}
	assert_int_equal(driver_do(&d.queue[6], no_room, 2), 0); /* nowhere to answer */
	assert_int_equal(control(6, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 1), 0);
	driver_do(&d.queue[6], half, 2); /* a class, and no command */
	assert_int_equal(*(u8 *)driver_ptr(&d, CTRL + 0x8000), VIRTIO_NET_ERR);
	*(u8 *)driver_ptr(&d, CTRL + 0x9000) = 0xee;
	assert_int_equal(driver_do(&d.queue[6], giant, 2), 1);
	assert_int_equal(*(u8 *)driver_ptr(&d, CTRL + 0x9000), VIRTIO_NET_ERR);
	assert_int_equal(control(6, 0, 0, "\1", 1), 0);
	assert_int_equal(control(6, 1, 1, mac, 6), 0);
	assert_int_equal(control(6, 4, 0, "\1", 2), 0);
	assert_true(arrives(mac));
	assert_false(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
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
		cmocka_unit_test(long_tables_mean_all),
		cmocka_unit_test(pairs_are_the_drivers),
		cmocka_unit_test(frames_keep_to_active_pairs),
		cmocka_unit_test(reset_queues_drop),
		cmocka_unit_test(link_is_told),
		cmocka_unit_test(mtu_is_kept),
		cmocka_unit_test(vlans_are_filtered),
		cmocka_unit_test(announce_and_offloads),
		cmocka_unit_test(commands_of_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
