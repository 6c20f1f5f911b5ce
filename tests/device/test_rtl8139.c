#include "device/nic.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "hw/rtl8139.h"

#define RAM   (4 * MiB)
#define GSI   17 /* slot 1, pin A */
#define DEVFN 8

#define TX_RING 0x10000
#define RX_RING 0x20000
#define TX_BUF	0x40000
#define RX_BUF	0x100000
#define SPACE	(130 * NSEC_PER_USEC) /* more than between two frames on a slow wire */

enum { OWN = 1U << 31, EOR = 1 << 30, FS = 1 << 29, LS = 1 << 28, LSO = 1 << 27 };

static struct harness *h;
static struct nic_link lnk;
static struct device *dev;
static u64 base;

static void setup_with(bool plain, u32 caps)
{
	struct rtl8139_config config = {.plain = plain};

	h = harness_new(RAM);
	harness_pci(h);
	nic_link_open(&lnk, h, caps);
	memcpy(config.mac, nic_mac, 6);
	config.net = lnk.near;
	dev = harness_device(h, &rtl8139_class, "net0", &config);
	harness_pci_assign(h);
	harness_config_write(h, DEVFN, 4, 2, 7);
	base = harness_config_read(h, DEVFN, 0x14, 4) & ~15u;
}

static void setup(void)
{
	setup_with(false, 0);
}

static void teardown(void)
{
	nic_link_close(&lnk, h);
	harness_free(h);
}

static u32 rd(u32 reg, unsigned int size)
{
	return (u32)harness_read(h, base + reg, size);
}

static void wr(u32 reg, unsigned int size, u32 value)
{
	harness_write(h, base + reg, size, value);
	harness_settle(h);
}

static u16 eeprom_read(unsigned int address, unsigned int bits)
{
	u32 command = 6U << bits | address;
	u16 value = 0;

	wr(0x50, 1, 0x80);
	wr(0x50, 1, 0x88);
	for (int i = (int)bits + 2; i >= 0; i--) {
		u32 in = command >> i & 1 ? 2 : 0;

		wr(0x50, 1, 0x88 | in);
		wr(0x50, 1, 0x8c | in);
	}
	for (int i = 0; i < 16; i++) {
		wr(0x50, 1, 0x88);
		wr(0x50, 1, 0x8c);
		value = (u16)(value << 1 | (rd(0x50, 1) & 1));
	}
	wr(0x50, 1, 0x80);
	wr(0x50, 1, 0x00);
	return value;
}

static void identity(void **state)
{
	u32 io;

	setup();
	assert_int_equal(harness_config_read(h, DEVFN, 0, 4), 0x813910ec);
	assert_int_equal(harness_config_read(h, DEVFN, 8, 1), 0x20);
	assert_int_equal(harness_config_read(h, DEVFN, 10, 2), 0x0200);
	assert_int_equal(rd(0x40, 4) & 0x7cc00000, 0x74800000);
	/* As iPXE tells this chip from an RTL8169. */
	wr(0xda, 2, 0x1234);
	assert_int_equal(rd(0xda, 2), 0);
	wr(0xe0, 2, 0x0028);
	assert_int_equal(rd(0xe0, 2), 0x0028);
	/* Linux asks with 8 address bits first, and must not take the answer for the magic. */
	assert_int_not_equal(eeprom_read(0, 8), 0x8129);
	assert_int_equal(eeprom_read(0, 6), 0x8129);
	for (int i = 0; i < 3; i++)
		assert_int_equal(eeprom_read((unsigned int)(7 + i), 6), load_le16(nic_mac + 2 * i));
	assert_int_equal(rd(0, 4), load_le32(nic_mac));
	assert_int_equal(rd(4, 2), load_le16(nic_mac + 4));
	/* Auto-load brings the address back. */
	wr(0, 4, 0);
	wr(0x50, 1, 0x40);
	assert_int_equal(rd(0, 4), load_le32(nic_mac));
	assert_int_equal(rd(0x50, 1) & 0xc0, 0);
	/* The same registers through I/O ports. */
	io = harness_config_read(h, DEVFN, 0x10, 4);
	assert_int_equal(io & 3, 1);
	assert_int_equal(harness_in(h, (u16)(io & ~3u), 4), load_le32(nic_mac));
	teardown();

	setup_with(true, 0);
	assert_int_equal(harness_config_read(h, DEVFN, 8, 1), 0x10);
	assert_int_equal(rd(0x40, 4) & 0x7cc00000, 0x74000000);
	wr(0xe0, 2, 0x0028);
	assert_int_equal(rd(0xe0, 2), 0);
	teardown();
}

static void configuration_lock(void **state)
{
	setup();
	wr(0x59, 1, 0x55);
	assert_int_equal(rd(0x59, 1), 0);
	wr(0x62, 2, 0x0100);
	assert_int_equal(rd(0x62, 2), 0x3100);
	wr(0x50, 1, 0xc0);
	wr(0x59, 1, 0x55);
	assert_int_equal(rd(0x59, 1), 0x55);
	wr(0x62, 2, 0x0100);
	assert_int_equal(rd(0x62, 2), 0x0100);
	wr(0x62, 2, 0x8000);
	assert_int_equal(rd(0x62, 2), 0x3100);
	wr(0x50, 1, 0);
	/* MII status. */
	assert_int_equal(rd(0x64, 2) & 0x24, 0x24);
	assert_int_equal(rd(0x68, 2), 0x45e1);
	assert_int_equal(rd(0x58, 1) & 4, 0);
	teardown();
}

static void enable_old(void)
{
	wr(0x37, 1, 0x10);
	assert_int_equal(rd(0x37, 1) & 0x10, 0);
	wr(0x30, 4, RX_BUF);
	wr(0x37, 1, 0x0c);
	wr(0x44, 4, 0x0e); /* match, multicast, broadcast; 8 KiB */
	wr(0x3c, 2, 0xffff);
}

static void old_transmit(void **state)
{
	u8 *buf;

	setup();
	enable_old();
	buf = harness_ram(h, TX_BUF, 0x10000);
	for (u32 i = 0; i < 10; i++) {
		u32 slot = i % 4, len = 60 + i * 100;

		assert_true(rd(0x10 + 4 * slot, 4) & 0x2000);
		nic_make_frame(buf + slot * 0x1000, nic_far_mac, 0x88b5, len, i);
		wr(0x20 + 4 * slot, 4, TX_BUF + slot * 0x1000);
		wr(0x10 + 4 * slot, 4, len);
		assert_int_equal(lnk.received, i + 1);
		assert_int_equal(nic_link_frame(&lnk, i)->len, len);
		assert_memory_equal(nic_link_frame(&lnk, i)->data, buf + slot * 0x1000, len);
		assert_int_equal(rd(0x10 + 4 * slot, 4) & 0xa000, 0xa000);
		harness_advance(h, 150 * NSEC_PER_USEC);
		assert_true(harness_line(h, GSI));
		assert_int_equal(rd(0x3e, 2), 0x04);
		wr(0x3e, 2, 0x04);
		assert_false(harness_line(h, GSI));
	}
	assert_int_equal(rd(0x60, 2) & 0x000f, 0x000f);
	teardown();
}

/* What is sent is told of a frame's time on the wire later, once for all of it: but at once when
 * the driver looks, when something else comes, or when it has no slot left. */
static void interrupts_of_sending(void **state)
{
	static u8 frame[64];
	u64 before;

	setup();
	enable_old();
	before = harness_edges(h, GSI);
	for (u32 i = 0; i < 3; i++) {
		wr(0x20 + 4 * i, 4, TX_BUF);
		wr(0x10 + 4 * i, 4, 100);
	}
	assert_false(harness_line(h, GSI));
	harness_advance(h, 150 * NSEC_PER_USEC);
	assert_true(harness_line(h, GSI));
	assert_int_equal(harness_edges(h, GSI) - before, 1);
	wr(0x3e, 2, 0xffff);
	for (u32 i = 0; i < 4; i++) {
		assert_false(harness_line(h, GSI));
		wr(0x10 + 4 * ((3 + i) % 4), 4, 100);
	}
	assert_true(harness_line(h, GSI)); /* no slot left */
	wr(0x3e, 2, 0xffff);
	harness_advance(h, 150 * NSEC_PER_USEC);
	assert_false(harness_line(h, GSI)); /* nor does it come twice */
	wr(0x10 + 4 * 3, 4, 100);
	assert_int_equal(rd(0x3e, 2), 4);
	wr(0x3e, 2, 4);
	wr(0x10, 4, 100);
	nic_make_frame(frame, nic_mac, 0x88b5, 60, 0);
	assert_true(nic_link_send(&lnk, h, frame, 60));
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(0x3e, 2), 5);
	teardown();
}

/* Slots go in turn; a full link stops them and lets them go on. */
static void old_transmit_stops_and_resumes(void **state)
{
	u8 *buf;
	u32 sent = 0;

	setup();
	enable_old();
	lnk.room = 0;
	buf = harness_ram(h, TX_BUF, 0x4000);
	for (u32 i = 0; i < 4; i++) {
		nic_make_frame(buf + 0x1000 * i, nic_far_mac, 0x88b5, 100, 0);
		wr(0x20 + 4 * i, 4, TX_BUF + 0x1000 * i);
	}
	while (sent < 5000 && (rd(0x10 + 4 * (sent % 4), 4) & 0x2000)) {
		store_be32(buf + 0x1000 * (sent % 4) + 14, sent);
		wr(0x10 + 4 * (sent % 4), 4, 100);
		sent++;
	}
	assert_in_range(sent, 2, 4999);
	lnk.room = 100000;
	net_receive_resume(lnk.far, 0);
	harness_settle(h);
	harness_settle(h);
	assert_int_equal(lnk.received, sent);
	for (u32 i = sent > 400 ? sent - 400 : 0; i + 1 < sent; i++)
		assert_int_equal(load_be32(nic_link_frame(&lnk, i)->data + 14), i);
	teardown();
}

/* Read the next frame of the ring buffer as 8139too does. */
static u32 old_read(u8 *out, u32 *cur, u32 size)
{
	const u8 *ring = harness_ram(h, RX_BUF, size + 2048);
	u32 status, len;
	u8 header[4];

	assert_false(rd(0x37, 1) & 1);
	for (u32 i = 0; i < 4; i++)
		header[i] = ring[(*cur + i) % size];
	status = load_le16(header);
	len = load_le16(header + 2);
	assert_true(status & 1);
	for (u32 i = 0; i < len; i++)
		out[i] = ring[(*cur + 4 + i) % size];
	*cur = (*cur + 4 + len + 3) & ~3u;
	*cur %= size;
	wr(0x38, 2, *cur - 16);
	return len - 4;
}

static void old_receive(void **state)
{
	static u8 frame[2048], got[2048];
	u32 cur = 0;

	setup();
	enable_old();
	assert_true(rd(0x37, 1) & 1);
	for (u32 i = 0; i < 100; i++) {
		u32 len = 60 + i * 37 % 1450;

		nic_make_frame(frame, nic_mac, 0x88b5, len, i);
		harness_advance(h, SPACE);
		assert_true(nic_link_send(&lnk, h, frame, len));
		assert_true(harness_line(h, GSI));
		assert_int_equal(rd(0x3e, 2), 1);
		wr(0x3e, 2, 1);
		assert_int_equal(old_read(got, &cur, 8192), len);
		assert_memory_equal(got, frame, len);
		assert_true(rd(0x37, 1) & 1);
		assert_int_equal(rd(0x3a, 2), cur);
	}
	teardown();
}

/* A driver that acknowledges all and leaves frames in the buffer hears of them when it unmasks. */
static void old_receive_reminds(void **state)
{
	static u8 frame[64], got[2048];
	u32 cur = 0;

	setup();
	enable_old();
	wr(0x3c, 2, 0);
	for (u32 i = 0; i < 2; i++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 60, i);
		assert_true(nic_link_send(&lnk, h, frame, 60));
	}
	assert_int_equal(old_read(got, &cur, 8192), 60);
	wr(0x3e, 2, 0xffff);
	assert_int_equal(rd(0x3e, 2), 0);
	assert_false(harness_line(h, GSI));
	wr(0x3c, 2, 0xffff);
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(0x3e, 2), 1);
	assert_int_equal(old_read(got, &cur, 8192), 60);
	wr(0x3e, 2, 0xffff);
	wr(0x3c, 2, 0xffff);
	assert_false(harness_line(h, GSI));
	teardown();
}

/* With WRAP a frame runs past the end of the buffer instead of being split. */
static void old_receive_behind_the_end(void **state)
{
	static u8 frame[1500];
	const u8 *ring;
	u32 cur = 0;

	setup();
	enable_old();
	wr(0x44, 4, 0x8e);
	ring = harness_ram(h, RX_BUF, 12000);
	for (u32 i = 0; i < 50; i++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 1500, i);
		assert_true(nic_link_send(&lnk, h, frame, 1500));
		assert_memory_equal(ring + cur + 4, frame, 1500);
		cur = (cur + 4 + 1504) % 8192;
		wr(0x38, 2, cur - 16);
	}
	teardown();
}

static void old_receive_waits_for_room(void **state)
{
	static u8 frame[1024], got[2048];
	u32 cur = 0, sent = 0, read = 0;

	setup();
	enable_old();
	for (; sent < 20; sent++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 1000, sent);
		assert_true(nic_link_send(&lnk, h, frame, 1000));
	}
	/* 8 of them fit; the others wait, none is lost. Who only asks for the status hears of it.
	 */
	for (int i = 0; i < 3; i++) {
		wr(0x3e, 2, 0xffff);
		assert_int_equal(rd(0x3e, 2), 0x01);
	}
	for (; read < sent; read++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 1000, read);
		assert_int_equal(old_read(got, &cur, 8192), 1000);
		assert_memory_equal(got, frame, 1000);
	}
	assert_true(rd(0x37, 1) & 1);
	wr(0x3e, 2, 0xffff);
	assert_int_equal(rd(0x3e, 2), 0);
	/* With the receiver off they are thrown away instead. */
	wr(0x37, 1, 0x04);
	assert_true(nic_link_send(&lnk, h, frame, 1000));
	wr(0x37, 1, 0x0c);
	harness_settle(h);
	assert_true(rd(0x37, 1) & 1);
	/* Started again it begins at the front, whatever had not been read. */
	assert_true(nic_link_send(&lnk, h, frame, 1000));
	assert_false(rd(0x37, 1) & 1);
	wr(0x37, 1, 0x04);
	wr(0x37, 1, 0x0c);
	assert_true(rd(0x37, 1) & 1);
	assert_int_equal(rd(0x38, 4), 0x0000fff0);
	teardown();
}

static bool arrives(const u8 *dst)
{
	static u8 frame[64], got[2048];
	static u32 cur;

	cur = (rd(0x38, 2) + 16) & 0x1fff;
	nic_make_frame(frame, dst, 0x88b5, 60, 0);
	assert_true(nic_link_send(&lnk, h, frame, 60));
	if (rd(0x37, 1) & 1)
		return false;
	old_read(got, &cur, 8192);
	return true;
}

static void address_filter(void **state)
{
	static const u8 all[6] = {255, 255, 255, 255, 255, 255}, group[6] = {1, 0, 0x5e, 0, 0, 1};

	setup();
	enable_old();
	assert_true(arrives(nic_mac));
	assert_true(arrives(all));
	assert_false(arrives(nic_far_mac));
	assert_false(arrives(group));
	/* 01:00:5e:00:00:01 hashes to bit 31. */
	wr(0x08, 4, 0x80000000);
	assert_true(arrives(group));
	wr(0x44, 4, 0x0a); /* no multicast */
	assert_false(arrives(group));
	wr(0x44, 4, 0x01); /* everything */
	assert_true(arrives(nic_far_mac));
	assert_true(arrives(group));
	wr(0x44, 4, 0x00);
	assert_false(arrives(nic_mac));
	assert_false(arrives(all));
	teardown();
}

static void short_frames_are_padded(void **state)
{
	static u8 got[2048];
	u8 frame[20];
	u32 cur = 0;

	setup();
	enable_old();
	nic_make_frame(frame, nic_mac, 0x88b5, 20, 3);
	assert_true(nic_link_send(&lnk, h, frame, 20));
	assert_int_equal(old_read(got, &cur, 8192), 60);
	assert_memory_equal(got, frame, 20);
	assert_int_equal(got[59], 0);
	/* The checksum is that of the padded frame. */
	assert_int_equal(load_le32(got + 60), 0x7f9ed878);
	teardown();
}

static void internal_loop(void **state)
{
	static u8 got[2048];
	u8 *buf;
	u32 cur = 0;

	setup();
	enable_old();
	wr(0x40, 4, 0x60000);
	buf = harness_ram(h, TX_BUF, 2048);
	nic_make_frame(buf, nic_mac, 0x88b5, 200, 9);
	wr(0x20, 4, TX_BUF);
	wr(0x10, 4, 200);
	assert_int_equal(lnk.received, 0);
	assert_int_equal(old_read(got, &cur, 8192), 200);
	assert_memory_equal(got, buf, 200);
	teardown();
}

/* ---- C+ ---- */

static void enable_plus(u16 cpcr)
{
	wr(0x37, 1, 0x10);
	wr(0xe0, 2, cpcr | 3);
	wr(0x37, 1, 0x0c);
	wr(0x20, 4, TX_RING);
	wr(0x24, 4, 0);
	wr(0xe4, 4, RX_RING);
	wr(0xe8, 4, 0);
	wr(0x44, 4, 0x0e);
	wr(0x3c, 2, 0xffff);
}

static void put_desc(u32 ring, u32 i, u32 opts1, u32 opts2, u64 addr)
{
	u8 *d = harness_ram(h, ring + 16 * i, 16);

	store_le32(d + 4, opts2);
	store_le64(d + 8, addr);
	store_le32(d, opts1);
}

static u32 desc(u32 ring, u32 i, u32 word)
{
	return load_le32((u8 *)harness_ram(h, ring + 16 * i, 16) + 4 * word);
}

static void plus_transmit(void **state)
{
	u8 *buf;

	setup();
	enable_plus(0);
	buf = harness_ram(h, TX_BUF, 4096);
	nic_make_frame(buf, nic_far_mac, 0x88b5, 1000, 1);
	put_desc(TX_RING, 0, OWN | FS | LS | 300, 0, TX_BUF);
	put_desc(TX_RING, 1, OWN | FS | 14, 0, TX_BUF);
	put_desc(TX_RING, 2, OWN | 500, 0, TX_BUF + 14);
	put_desc(TX_RING, 3, OWN | LS | EOR | 486, 0, TX_BUF + 514);
	wr(0xd9, 1, 0x40);
	assert_int_equal(lnk.received, 2);
	assert_int_equal(nic_link_frame(&lnk, 0)->len, 300);
	assert_int_equal(nic_link_frame(&lnk, 1)->len, 1000);
	assert_memory_equal(nic_link_frame(&lnk, 1)->data, buf, 1000);
	for (u32 i = 0; i < 4; i++)
		assert_int_equal(desc(TX_RING, i, 0) & OWN, 0);
	assert_int_equal(desc(TX_RING, 3, 0) & EOR, EOR);
	assert_int_equal(rd(0x3e, 2) & 0x84, 0x84);
	assert_int_equal(rd(0xd9, 1), 0);
	/* The ring went round. */
	put_desc(TX_RING, 0, OWN | FS | LS | 60, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_int_equal(lnk.received, 3);
	/* The high-priority ring. */
	wr(0x28, 4, TX_RING + 0x1000);
	put_desc(TX_RING + 0x1000, 0, OWN | FS | LS | 77, 0, TX_BUF);
	wr(0xd9, 1, 0x80);
	assert_int_equal(lnk.received, 4);
	assert_int_equal(nic_link_frame(&lnk, 3)->len, 77);
	teardown();
}

static void plus_transmit_checksums(void **state)
{
	u8 *buf;

	for (u32 caps = 0; caps <= NET_CSUM; caps += NET_CSUM) {
		setup_with(false, caps);
		enable_plus(0);
		buf = harness_ram(h, TX_BUF, 4096);
		for (u32 i = 0; i < 8; i++) {
			bool v6 = i & 1;
			u8 protocol = i & 2 ? 17 : 6;
			/* A datagram of one byte is shorter than any TCP packet. */
			u32 len = nic_make_packet(buf, nic_far_mac, v6, protocol, i < 4 ? 333 : 1,
						  true);
			const struct nic_far_frame *f;
			u8 *copy;

			/* The driver leaves nonsense where the sums go. */
			buf[14 + (v6 ? 40 : 20) + (protocol == 6 ? 16 : 6)] ^= 0x5a;
			if (!v6)
				buf[24] ^= 0xa5;
			put_desc(TX_RING, i, OWN | FS | LS | 1 << 18 | 3 << 16 | len, 0, TX_BUF);
			wr(0xd9, 1, 0x40);
			f = nic_link_frame(&lnk, i);
			copy = malloc(f->len);
			memcpy(copy, f->data, f->len);
			if (f->offload.flags & NET_HDR_NEEDS_CSUM) {
				struct net_offload o = f->offload;

				assert_int_equal(caps, NET_CSUM);
				net_offload_finish_csum(&o, copy, f->len);
			}
			assert_true(nic_packet_good(copy, f->len));
			free(copy);
		}
		teardown();
	}
}

/* Join what arrived: each segment must be right by itself. */
static void check_segments(const u8 *payload, u32 len, u32 mss, bool v6)
{
	u32 at = 0, header = 14 + (v6 ? 40 : 20) + 20;

	for (u32 i = 0; i < lnk.received; i++) {
		const struct nic_far_frame *f = nic_link_frame(&lnk, i);
		const u8 *tcp = f->data + header - 20;
		u32 part = min(mss, len - at);

		assert_int_equal(f->len, header + part);
		assert_int_equal(f->offload.flags | f->offload.gso_type, 0);
		assert_true(nic_packet_good(f->data, f->len));
		assert_int_equal(load_be32(tcp + 4), 1000 + at);
		assert_int_equal(tcp[13], at + part == len ? 0x18 : 0x10);
		if (!v6)
			assert_int_equal(load_be16(f->data + 18), 0x1234 + i);
		assert_memory_equal(f->data + header, payload + at, part);
		at += part;
	}
	assert_int_equal(at, len);
}

/* By the dump of the counters. */
static u32 tally_sent(void)
{
	wr(0x10, 4, 0x3000 | 8);
	return load_le32(harness_ram(h, 0x3000, 64));
}

static void plus_large_send(void **state)
{
	static u8 payload[20000];
	u8 *buf;

	for (int v6 = 0; v6 < 2; v6++) {
		u32 len, header = 14 + (v6 ? 40 : 20) + 20;

		setup();
		enable_plus(0);
		buf = harness_ram(h, TX_BUF, 32768);
		len = nic_make_packet(buf, nic_far_mac, v6, 6, sizeof(payload), false);
		memcpy(payload, buf + header, sizeof(payload));
		put_desc(TX_RING, 0, OWN | FS | LS | LSO | 1448 << 16 | len, 0, TX_BUF);
		wr(0xd9, 1, 0x40);
		check_segments(payload, sizeof(payload), 1448, v6);
		assert_int_equal(tally_sent(), 14);
		/* No trace of the size in what are error bits now. */
		assert_int_equal(desc(TX_RING, 0, 0), FS | LS | len);
		teardown();

		/* A link that does it itself gets it whole. */
		setup_with(false, NET_CSUM | NET_TSO4 | NET_TSO6);
		enable_plus(0);
		buf = harness_ram(h, TX_BUF, 32768);
		len = nic_make_packet(buf, nic_far_mac, v6, 6, sizeof(payload), false);
		put_desc(TX_RING, 0, OWN | FS | LS | LSO | 1448 << 16 | len, 0, TX_BUF);
		wr(0xd9, 1, 0x40);
		assert_int_equal(lnk.received, 1);
		assert_int_equal(nic_link_frame(&lnk, 0)->len, len);
		assert_int_equal(nic_link_frame(&lnk, 0)->offload.gso_size, 1448);
		assert_int_equal(nic_link_frame(&lnk, 0)->offload.gso_type,
				 v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4);
		teardown();
	}
}

/* Tags that the driver wrote itself: a VLAN in a VLAN, or where the card is told not to insert
 * them. The headers lie behind them. */
static void plus_written_tags(void **state)
{
	static const u8 tags[] = {0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6};

	for (u32 i = 0; i < 8; i++) {
		bool v6 = i & 1, large = i & 2;
		u32 tag = i & 4 ? 8 : 4, header = 14 + (v6 ? 40 : 20) + 20,
		    size = large ? 5000 : 500;
		u32 opts = large ? LSO | 1000 << 16 : 1 << 18 | 1 << 16, len;
		static u8 frame[65536];
		u8 *buf;

		setup();
		enable_plus(0);
		buf = harness_ram(h, TX_BUF, 8192);
		len = nic_make_packet(frame, nic_far_mac, v6, 6, size, true);
		memcpy(buf, frame, 12);
		memcpy(buf + 12, tags + 8 - tag, tag);
		memcpy(buf + 12 + tag, frame + 12, len - 12);
		buf[tag + header - 4] ^= 0x5a; /* the sum */
		put_desc(TX_RING, 0, OWN | FS | LS | opts | (len + tag), 0, TX_BUF);
		wr(0xd9, 1, 0x40);
		assert_int_equal(lnk.received, large ? 5 : 1);
		for (u32 n = 0; n < lnk.received; n++) {
			const struct nic_far_frame *f = nic_link_frame(&lnk, n);

			assert_int_equal(f->len, tag + header + (large ? 1000 : size));
			assert_memory_equal(f->data + 12, tags + 8 - tag, tag);
			memcpy(frame, f->data, 12);
			memcpy(frame + 12, f->data + 12 + tag, f->len - 12 - tag);
			assert_true(nic_packet_good(frame, f->len - tag));
		}
		teardown();
	}
}

static void plus_vlan(void **state)
{
	u8 *buf, *rx;
	u8 frame[104];

	setup();
	enable_plus(0x40);
	buf = harness_ram(h, TX_BUF, 4096);
	nic_make_frame(buf, nic_far_mac, 0x88b5, 100, 1);
	put_desc(TX_RING, 0, OWN | FS | LS | 100, 1 << 17 | 0x3412, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_int_equal(nic_link_frame(&lnk, 0)->len, 104);
	assert_memory_equal(nic_link_frame(&lnk, 0)->data, buf, 12);
	assert_memory_equal(nic_link_frame(&lnk, 0)->data + 12, "\x81\x00\x12\x34", 4);
	assert_memory_equal(nic_link_frame(&lnk, 0)->data + 16, buf + 12, 88);
	/* And out of the frame on the way in. */
	memcpy(frame, nic_link_frame(&lnk, 0)->data, 104);
	memcpy(frame, nic_mac, 6);
	put_desc(RX_RING, 0, OWN | 2048, 0, RX_BUF);
	put_desc(RX_RING, 1, OWN | EOR | 2048, 0, RX_BUF + 2048);
	assert_true(nic_link_send(&lnk, h, frame, 104));
	rx = harness_ram(h, RX_BUF, 4096);
	assert_int_equal(desc(RX_RING, 0, 1), 1 << 16 | 0x3412);
	assert_int_equal(desc(RX_RING, 0, 0) & 0x1fff, 104);
	assert_memory_equal(rx + 12, buf + 12, 88);
	wr(0xe0, 2, 0x03);
	assert_true(nic_link_send(&lnk, h, frame, 104));
	assert_int_equal(desc(RX_RING, 1, 1), 0);
	assert_memory_equal(rx + 2048, frame, 104);
	teardown();
}

/* Frames that come faster than a wire of 100 Mbit/s brings full ones: the first interrupts at once,
 * the others together; who looks at the status hears of them earlier. Reading the mask back says
 * nothing. */
static void spaced_frames(void **state)
{
	static u8 frame[64];
	u64 edges;

	setup();
	enable_plus(0);
	for (u32 i = 0; i < 8; i++)
		put_desc(RX_RING, i, OWN | (i == 7 ? EOR : 0) | 1600, 0, RX_BUF + 0x1000 * i);
	nic_make_frame(frame, nic_mac, 0x88b5, 64, 1);
	assert_true(nic_link_send(&lnk, h, frame, 64));
	assert_true(harness_line(h, GSI));
	wr(0x3e, 2, 0xffff);
	edges = harness_edges(h, GSI);
	for (u32 i = 1; i < 4; i++) {
		assert_true(nic_link_send(&lnk, h, frame, 64));
		assert_int_equal(desc(RX_RING, i, 0) & OWN, 0);
		wr(0x3c, 2, rd(0x3c, 2));
		assert_false(harness_line(h, GSI));
	}
	harness_advance(h, SPACE);
	assert_true(harness_line(h, GSI));
	assert_int_equal(harness_edges(h, GSI), edges + 1);
	wr(0x3e, 2, 0xffff);
	assert_true(nic_link_send(&lnk, h, frame, 64));
	harness_advance(h, SPACE);
	wr(0x3e, 2, 0xffff);
	assert_true(nic_link_send(&lnk, h, frame, 64));
	assert_true(nic_link_send(&lnk, h, frame, 64));
	assert_int_equal(rd(0x3e, 2) & 1, 1);
	assert_true(harness_line(h, GSI));
	teardown();
}

/* What is sent is told of later, but not only when the ring is used up. */
static void spaced_sends(void **state)
{
	u32 sent = 0;

	setup();
	enable_plus(0);
	put_desc(TX_RING, 0, OWN | FS | LS | 60, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_false(harness_line(h, GSI));
	harness_advance(h, 4 * SPACE);
	assert_true(harness_line(h, GSI));
	wr(0x3e, 2, 0xffff);
	for (u32 i = 1; i < 64 && !harness_line(h, GSI); i++, sent++) {
		put_desc(TX_RING, i, OWN | FS | LS | (i == 63 ? EOR : 0) | 60, 0, TX_BUF);
		wr(0xd9, 1, 0x40);
	}
	assert_int_equal(sent, 32);
	assert_int_equal(rd(0x3e, 2) & 4, 4);
	teardown();
}

/* A guest that reads the status and does nothing about it has a rest from the interrupt, and is
 * told again; any change ends the rest. */
static void unheeded_status(void **state)
{
	static u8 frame[64];
	u32 reads = 0;

	setup();
	enable_plus(0);
	for (u32 i = 0; i < 8; i++)
		put_desc(RX_RING, i, OWN | (i == 7 ? EOR : 0) | 1600, 0, RX_BUF + 0x1000 * i);
	nic_make_frame(frame, nic_mac, 0x88b5, 64, 1);
	assert_true(nic_link_send(&lnk, h, frame, 64));
	for (u32 round = 0; round < 3; round++) {
		assert_true(harness_line(h, GSI));
		for (reads = 0; harness_line(h, GSI) && reads < 100; reads++) {
			assert_int_equal(rd(0x3e, 2), 1);
			wr(0x3e, 2, 0xfffe);
		}
		assert_true(reads > 1 && reads < 100);
		harness_advance(h, SPACE);
	}
	/* Another cause is told at once, as is a mask that changed, and an acknowledgement counts.
	 */
	while (harness_line(h, GSI))
		rd(0x3e, 2);
	wr(0xd9, 1, 1);
	assert_true(harness_line(h, GSI));
	while (harness_line(h, GSI))
		rd(0x3e, 2);
	wr(0x3c, 2, 0x7fff);
	assert_true(harness_line(h, GSI));
	while (harness_line(h, GSI))
		rd(0x3e, 2);
	wr(0x3e, 2, 0x0100);
	assert_true(harness_line(h, GSI));
	wr(0x3e, 2, 0xffff);
	assert_false(harness_line(h, GSI));
	assert_true(nic_link_send(&lnk, h, frame, 64));
	assert_true(harness_line(h, GSI));
	teardown();
}

static void plus_receive(void **state)
{
	static u8 frame[1600];
	const u8 *rx;

	setup();
	enable_plus(0);
	rx = harness_ram(h, RX_BUF, 0x4000);
	for (u32 i = 0; i < 4; i++)
		put_desc(RX_RING, i, OWN | (i == 3 ? EOR : 0) | 1600, 0, RX_BUF + 0x1000 * i);
	for (u32 i = 0; i < 20; i++) {
		u32 len = 60 + 70 * i, d = i % 4;

		nic_make_frame(frame, nic_mac, 0x88b5, len, i);
		harness_advance(h, SPACE);
		assert_true(nic_link_send(&lnk, h, frame, len));
		assert_int_equal(desc(RX_RING, d, 0),
				 FS | LS | (d == 3 ? EOR : 0) | 1 << 26 | (len + 4));
		assert_memory_equal(rx + 0x1000 * d, frame, len);
		assert_true(harness_line(h, GSI));
		wr(0x3e, 2, 0xffff);
		assert_false(harness_line(h, GSI));
		put_desc(RX_RING, d, OWN | (d == 3 ? EOR : 0) | 1600, 0, RX_BUF + 0x1000 * d);
	}
	teardown();
}

static void plus_receive_checksums(void **state)
{
	static const struct {
		bool v6, good;
		u8 protocol;
		u32 bits;
	} cases[] = {
		{false, true, 6, 1 << 16},  {false, false, 6, 1 << 16 | 1 << 13},
		{false, true, 17, 2 << 16}, {false, false, 17, 2 << 16 | 1 << 14},
		{true, true, 6, 0},	    {true, false, 17, 0},
	};
	static u8 frame[400];

	setup();
	enable_plus(0x20);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		u32 len = nic_make_packet(frame, nic_mac, cases[i].v6, cases[i].protocol, 101,
					  cases[i].good);

		put_desc(RX_RING, i, OWN | 2048, 0, RX_BUF);
		assert_true(nic_link_send(&lnk, h, frame, len));
		assert_int_equal(desc(RX_RING, i, 0) & 0x3e000, cases[i].bits);
	}
	/* A broken header of IP; a fragment. */
	nic_make_packet(frame, nic_mac, false, 6, 101, true);
	frame[24] ^= 1;
	put_desc(RX_RING, 6, OWN | 2048, 0, RX_BUF);
	assert_true(nic_link_send(&lnk, h, frame, 155));
	assert_int_equal(desc(RX_RING, 6, 0) & 0x3e000, 3 << 16 | 1 << 15);
	teardown();
}

static void plus_receive_waits_for_descriptors(void **state)
{
	static u8 frame[100];

	setup();
	enable_plus(0);
	put_desc(RX_RING, 0, OWN | 2048, 0, RX_BUF);
	for (u32 i = 0; i < 3; i++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 100, i);
		assert_true(nic_link_send(&lnk, h, frame, 100));
	}
	assert_int_equal(desc(RX_RING, 0, 0) & OWN, 0);
	assert_int_equal(rd(0x3e, 2) & 0x11, 0x11); /* received one; no descriptor for more */
	/* Handed over in memory, without a word: found after a while. */
	put_desc(RX_RING, 1, OWN | 2048, 0, RX_BUF + 2048);
	harness_advance(h, 50 * NSEC_PER_MSEC);
	assert_int_equal(desc(RX_RING, 1, 0) & OWN, 0);
	/* With a write of a register: at once. */
	put_desc(RX_RING, 2, OWN | 2048, 0, RX_BUF + 4096);
	wr(0x3c, 2, 0x11);
	assert_int_equal(desc(RX_RING, 2, 0) & OWN, 0);
	assert_int_equal(*(u8 *)harness_ram(h, RX_BUF + 4096 + 20, 1), (u8)(20 * 13 + 2));
	teardown();
}

static void statistics_dump(void **state)
{
	static u8 frame[100];
	u8 *raw;

	setup();
	enable_plus(0);
	put_desc(RX_RING, 0, OWN | 2048, 0, RX_BUF);
	nic_make_frame(frame, nic_mac, 0x88b5, 100, 0);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	nic_make_frame(harness_ram(h, TX_BUF, 100), nic_far_mac, 0x88b5, 100, 0);
	put_desc(TX_RING, 0, OWN | FS | LS | 100, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	wr(0x14, 4, 0);
	wr(0x10, 4, 0x3000 | 8);
	assert_int_equal(rd(0x10, 4), 0x3000);
	raw = harness_ram(h, 0x3000, 64);
	assert_int_equal(load_le64(raw), 1);
	assert_int_equal(load_le64(raw + 8), 1);
	assert_int_equal(load_le64(raw + 40), 1);
	/* Nowhere: an error, and the bit goes away all the same. */
	wr(0x14, 4, 0xff);
	wr(0x10, 4, 0x3000 | 8);
	assert_int_equal(rd(0x10, 4), 0x3000);
	assert_true(rd(0x3e, 2) & 0x8000);
	teardown();
}

static void timer_interrupt(void **state)
{
	setup();
	wr(0x3c, 2, 0x4000);
	wr(0x54, 4, 33000);
	wr(0x48, 4, 0);
	harness_advance(h, 900 * NSEC_PER_USEC);
	assert_false(harness_line(h, GSI));
	assert_in_range(rd(0x48, 4), 29000, 30500);
	harness_advance(h, 200 * NSEC_PER_USEC);
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(0x3e, 2), 0x4000);
	wr(0x54, 4, 0);
	teardown();
}

static void link_state(void **state)
{
	u8 frame[60];

	setup();
	enable_old();
	for (int i = 0; i < 100; i++) {
		net_set_link(lnk.near, false);
		harness_settle(h);
		assert_int_equal(rd(0x58, 1) & 4, 4);
		assert_int_equal(rd(0x64, 2) & 4, 0);
		assert_int_equal(rd(0x3e, 2), 0x20);
		/* 8139too looks here for what changed before it acknowledges. */
		assert_int_equal(rd(0x74, 2), 0x0800);
		wr(0x3e, 2, 0x20);
		assert_int_equal(rd(0x74, 2), 0);
		nic_make_frame(frame, nic_mac, 0x88b5, 60, 0);
		nic_link_send(&lnk, h, frame, 60);
		net_set_link(lnk.near, true);
		harness_settle(h);
		assert_int_equal(rd(0x58, 1) & 4, 0);
		assert_int_equal(rd(0x74, 2), 0x0c00);
		wr(0x3e, 2, 0xffff);
	}
	assert_true(arrives(nic_mac));
	teardown();
}

/* Set-up registers are in coalesced ranges; they take effect when a trapped access comes. */
static void coalescing(void **state)
{
	setup();
	wr(0x37, 1, 0x0c);
	assert_true(harness_write_coalesced(h, base + 0x20, 4, TX_BUF));
	assert_true(harness_write_coalesced(h, base + 0x30, 4, RX_BUF));
	assert_true(harness_write_coalesced(h, base + 0x38, 2, 0x100));
	assert_true(harness_write_coalesced(h, base + 0x44, 4, 0x0e));
	assert_int_equal(lnk.received, 0);
	nic_make_frame(harness_ram(h, TX_BUF, 100), nic_far_mac, 0x88b5, 100, 0);
	/* What sets something off is not. */
	assert_false(harness_write_coalesced(h, base + 0x10, 4, 100));
	harness_settle(h);
	assert_int_equal(lnk.received, 1);
	assert_int_equal(nic_link_frame(&lnk, 0)->len, 100);
	assert_int_equal(rd(0x30, 4), RX_BUF);
	assert_int_equal(rd(0x38, 2), 0x100);
	assert_int_equal(rd(0x44, 4), 0x0e);
	/* The mask: drivers read it back; for others it comes by and by. */
	harness_advance(h, 150 * NSEC_PER_USEC);
	assert_int_equal(rd(0x3c, 2), 0);
	for (int i = 0; i < 2; i++) {
		assert_true(harness_write_coalesced(h, base + 0x3c, 2, 0x04));
		wr(0x10 + 4 * (1 + (u32)i), 4, 100);
		harness_advance(h, 150 * NSEC_PER_USEC);
		assert_true(harness_line(h, GSI));
		assert_true(harness_write_coalesced(h, base + 0x3c, 2, 0));
		assert_true(harness_line(h, GSI));
		assert_int_equal(rd(0x3c, 2), 0);
		assert_false(harness_line(h, GSI));
		assert_true(harness_write_coalesced(h, base + 0x3c, 2, 0x04));
		assert_false(harness_line(h, GSI));
		harness_advance(h, 2 * NSEC_PER_MSEC);
		assert_true(harness_line(h, GSI));
		/* The status is not: a level that stays would interrupt again. */
		assert_false(harness_write_coalesced(h, base + 0x3e, 2, 0x04));
		assert_false(harness_line(h, GSI));
	}
	teardown();
}

/* While a C+ driver sends a stream, TPPoll exits no more. */
static void stream(void **state)
{
	bool exits = true;

	setup();
	enable_plus(0);
	nic_make_frame(harness_ram(h, TX_BUF, 60), nic_far_mac, 0x88b5, 60, 0);
	for (int i = 0; i < 400; i++) {
		put_desc(TX_RING, 0, OWN | EOR | FS | LS | 60, 0, TX_BUF);
		exits = !harness_write_coalesced(h, base + 0xd9, 1, 0x40);
		assert_true(exits || i > 100);
		assert_true(exits || (desc(TX_RING, 0, 0) & OWN));
		harness_advance(h, 100 * NSEC_PER_USEC);
		assert_false(desc(TX_RING, 0, 0) & OWN);
	}
	assert_true(exits); /* 10,000 a second are none */
	for (int i = 0; i < 800; i++) {
		put_desc(TX_RING, 0, OWN | EOR | FS | LS | 60, 0, TX_BUF);
		exits = !harness_write_coalesced(h, base + 0xd9, 1, 0x40);
		harness_advance(h, 40 * NSEC_PER_USEC);
	}
	assert_false(exits);
	harness_advance(h, 100 * NSEC_PER_USEC);
	assert_false(desc(TX_RING, 0, 0) & OWN);
	harness_advance(h, 10 * NSEC_PER_MSEC);
	put_desc(TX_RING, 0, OWN | EOR | FS | LS | 60, 0, TX_BUF);
	assert_false(harness_write_coalesced(h, base + 0xd9, 1, 0x40));
	harness_settle(h);
	assert_false(desc(TX_RING, 0, 0) & OWN);
	teardown();
}

/* ---- what has gone wrong in such cards before ---- */

/* A large send with no segment size divided by zero. */
static void bug_mss_zero(void **state)
{
	u8 *buf;
	u32 len;

	setup();
	enable_plus(0);
	buf = harness_ram(h, TX_BUF, 4096);
	len = nic_make_packet(buf, nic_far_mac, false, 6, 3000, true);
	for (u32 mss = 0; mss < 32; mss++) {
		put_desc(TX_RING, 0, OWN | EOR | FS | LS | LSO | mss << 16 | len, 0, TX_BUF);
		wr(0xd9, 1, 0x40);
		assert_int_equal(desc(TX_RING, 0, 0) & OWN, 0);
	}
	assert_true(lnk.received <= 32);
	teardown();
}

/* CVE-2015-5165: lengths inside the headers that do not fit the frame leaked host memory. */
static void bug_header_lengths(void **state)
{
	u64 seed = 1;
	u8 *buf;

	setup();
	enable_plus(0);
	buf = harness_ram(h, TX_BUF, 65536);
	for (int i = 0; i < 20000; i++) {
		u32 len = nic_make_packet(buf, nic_far_mac, i & 1, i & 2 ? 17 : 6, 200, true);
		u64 r = harness_random(&seed);

		buf[14 + r % 64] = (u8)(r >> 8);
		buf[14 + (r >> 16) % 64] = (u8)(r >> 24);
		len = (r >> 32) % (len + 1);
		put_desc(TX_RING, 0, OWN | EOR | FS | LS | (u32)(r >> 40 & 0xfff) << 16 | len, 0,
			 TX_BUF);
		wr(0xd9, 1, 0x40);
		/* Nothing longer than what was given can have gone out, in any number of parts. */
		for (u32 n = lnk.received > 8 ? lnk.received - 8 : 0; n < lnk.received; n++)
			assert_true(nic_link_frame(&lnk, n)->len <= 400);
	}
	teardown();
}

/* CVE-2021-3416: with the receive ring on the card's own registers a frame looped back into itself.
 */
static void bug_dma_into_own_registers(void **state)
{
	setup();
	enable_plus(0);
	wr(0x40, 4, 0x60000);
	wr(0xe4, 4, (u32)base & ~0xffu);
	nic_make_frame(harness_ram(h, TX_BUF, 100), nic_mac, 0x88b5, 100, 0);
	put_desc(TX_RING, 0, OWN | EOR | FS | LS | 100, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_true(rd(0x3e, 2) & 0x8000);
	/* The buffer there instead of the ring. */
	wr(0xe4, 4, RX_RING);
	put_desc(RX_RING, 0, OWN | EOR | 2048, 0, base);
	put_desc(TX_RING, 0, OWN | EOR | FS | LS | 100, 0, TX_BUF);
	wr(0x3e, 2, 0xffff);
	wr(0xd9, 1, 0x40);
	assert_true(rd(0x3e, 2) & 0x8000);
	/* The transmit ring on the registers. */
	wr(0x20, 4, (u32)base);
	wr(0xd9, 1, 0x40);
	teardown();
}

/* A frame that never ends grew its buffer without bound. */
static void bug_endless_frame(void **state)
{
	setup();
	enable_plus(0);
	for (u32 i = 0; i < 64; i++)
		put_desc(TX_RING, i, OWN | (i == 63 ? EOR : 0) | 0xffff, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_int_equal(desc(TX_RING, 63, 0) & OWN, 0);
	/* Its end drops it; the next one is fine. */
	put_desc(TX_RING, 0, OWN | LS | 100, 0, TX_BUF);
	put_desc(TX_RING, 1, OWN | FS | LS | 100, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_int_equal(lnk.received, 1);
	assert_int_equal(nic_link_frame(&lnk, 0)->len, 100);
	teardown();
}

/* A ring without an end, all of it ours, wrapping over itself. */
static void bug_endless_ring(void **state)
{
	setup();
	enable_plus(0);
	for (u32 i = 0; i < 1024; i++)
		put_desc(TX_RING, i, OWN | FS | LS | 60, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	harness_advance(h, NSEC_PER_MSEC);
	harness_advance(h, NSEC_PER_MSEC);
	assert_true(lnk.received <= 1024);
	assert_int_equal(desc(TX_RING, 1023, 0) & OWN, 0);
	teardown();
}

static void without_bus_master(void **state)
{
	setup();
	enable_plus(0);
	harness_config_write(h, DEVFN, 4, 2, 3);
	put_desc(TX_RING, 0, OWN | FS | LS | 60, 0, TX_BUF);
	wr(0xd9, 1, 0x40);
	assert_int_equal(lnk.received, 0);
	harness_config_write(h, DEVFN, 4, 2, 7);
	harness_settle(h);
	assert_int_equal(lnk.received, 1);
	teardown();
}

static void saved(void **state)
{
	static u8 frame[100];

	setup();
	enable_plus(0x20);
	wr(0x54, 4, 1000000);
	put_desc(RX_RING, 0, OWN | 2048, 0, RX_BUF);
	nic_make_frame(frame, nic_mac, 0x88b5, 100, 0);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	harness_check_state(h, dev);
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(0xe0, 2), 0x23);
	put_desc(RX_RING, 1, OWN | 2048, 0, RX_BUF + 2048);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	assert_int_equal(desc(RX_RING, 1, 0) & OWN, 0);
	teardown();
}

static void hostile(void **state)
{
	struct harness_range range = {BUS_MMIO, 0, 256};
	u64 seed = 11;
	u8 frame[1600];

	for (u64 round = 0; round < 30; round++) {
		setup_with(round % 5 == 4, round & 1 ? NET_CSUM | NET_TSO4 : 0);
		range.base = base;
		enable_plus((u16)harness_random(&seed));
		for (u32 turn = 0; turn < 20; turn++) {
			u8 *ram = harness_ram(h, 0, RAM);

			for (int i = 0; i < 2000; i++)
				ram[TX_RING + harness_random(&seed) % 0x20000] =
					(u8)harness_random(&seed);
			for (u32 i = 0; i < 32; i++) {
				u32 r = (u32)harness_random(&seed);

				put_desc(TX_RING, i, r | OWN, r, TX_BUF);
				put_desc(RX_RING, i, r | OWN, r, RX_BUF);
			}
			harness_hostile(h, &range, 1, round * 100 + turn, 200, NULL);
			nic_make_packet(frame, nic_mac, turn & 1, 6, turn * 60, true);
			nic_link_send(&lnk, h, frame, 60 + turn * 60);
			wr(0xd9, 1, 0xc0);
		}
		harness_check_state(h, dev);
		teardown();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity),
		cmocka_unit_test(configuration_lock),
		cmocka_unit_test(old_transmit),
		cmocka_unit_test(old_transmit_stops_and_resumes),
		cmocka_unit_test(interrupts_of_sending),
		cmocka_unit_test(old_receive_reminds),
		cmocka_unit_test(old_receive),
		cmocka_unit_test(old_receive_behind_the_end),
		cmocka_unit_test(old_receive_waits_for_room),
		cmocka_unit_test(address_filter),
		cmocka_unit_test(short_frames_are_padded),
		cmocka_unit_test(internal_loop),
		cmocka_unit_test(plus_transmit),
		cmocka_unit_test(plus_transmit_checksums),
		cmocka_unit_test(plus_large_send),
		cmocka_unit_test(plus_written_tags),
		cmocka_unit_test(plus_vlan),
		cmocka_unit_test(plus_receive),
		cmocka_unit_test(spaced_frames),
		cmocka_unit_test(unheeded_status),
		cmocka_unit_test(spaced_sends),
		cmocka_unit_test(plus_receive_checksums),
		cmocka_unit_test(plus_receive_waits_for_descriptors),
		cmocka_unit_test(statistics_dump),
		cmocka_unit_test(timer_interrupt),
		cmocka_unit_test(link_state),
		cmocka_unit_test(coalescing),
		cmocka_unit_test(stream),
		cmocka_unit_test(bug_mss_zero),
		cmocka_unit_test(bug_header_lengths),
		cmocka_unit_test(bug_dma_into_own_registers),
		cmocka_unit_test(bug_endless_frame),
		cmocka_unit_test(bug_endless_ring),
		cmocka_unit_test(without_bus_master),
		cmocka_unit_test(saved),
		cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
