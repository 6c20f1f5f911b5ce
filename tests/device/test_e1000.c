#include "device/nic.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "hw/e1000.h"
#include "hw/nic_int.h"

#define RAM   (4 * MiB)
#define GSI   17 /* slot 1, pin A */
#define DEVFN 8

#define TX_RING 0x10000
#define RX_RING 0x20000
#define TX_BUF	0x40000
#define RX_BUF	0x100000
#define RING	8 /* descriptors; RDLEN is a multiple of 128 bytes */

enum {
	CTRL = 0,
	STATUS = 8,
	EECD = 0x10,
	EERD = 0x14,
	MDIC = 0x20,
	ICR = 0xc0,
	ITR = 0xc4,
	ICS = 0xc8,
	IMS = 0xd0,
	IMC = 0xd8,
	RCTL = 0x100,
	TCTL = 0x400,
	RDBAL = 0x2800,
	RDLEN = 0x2808,
	RDH = 0x2810,
	RDT = 0x2818,
	TDBAL = 0x3800,
	TDLEN = 0x3808,
	TDH = 0x3810,
	TDT = 0x3818,
	RXCSUM = 0x5000,
	MTA = 0x5200,
	RAL = 0x5400,
	VFTA = 0x5600
};
enum { EOP = 1, IFCS = 2, IC = 4, TSE = 4, RS = 8, DEXT = 0x20, VLE = 0x40 };

static struct harness *h;
static struct nic_link lnk;
static struct device *dev;
static u64 base;

static void setup_with(u32 caps)
{
	struct e1000_config config;

	h = harness_new(RAM);
	harness_pci(h);
	nic_link_open(&lnk, h, caps);
	memcpy(config.mac, nic_mac, 6);
	config.net = lnk.near;
	dev = harness_device(h, &e1000_class, "net0", &config);
	harness_pci_assign(h);
	harness_config_write(h, DEVFN, 4, 2, 7);
	base = harness_config_read(h, DEVFN, 0x10, 4) & ~15u;
}

static void setup(void)
{
	setup_with(0);
}

static void teardown(void)
{
	nic_link_close(&lnk, h);
	harness_free(h);
}

static u32 rd(u32 reg)
{
	return (u32)harness_read(h, base + reg, 4);
}

static void wr(u32 reg, u32 value)
{
	harness_write(h, base + reg, 4, value);
	harness_settle(h);
}

static void enable(u32 rctl)
{
	wr(TDBAL, TX_RING);
	wr(TDLEN, RING * 16);
	wr(TCTL, 0x0a);
	wr(RDBAL, RX_RING);
	wr(RDLEN, RING * 16);
	for (u32 i = 0; i < RING; i++)
		store_le64(harness_ram(h, RX_RING + 16 * i, 16), RX_BUF + 0x1000 * i);
	wr(RDT, RING - 1);
	wr(RCTL, 0x8002 | rctl);
	wr(IMS, 0x1ffff);
}

/* ---- identity, EEPROM, PHY ---- */

static u16 eeprom_wires(unsigned int address)
{
	u32 command = 6U << 6 | address;
	u16 value = 0;

	wr(EECD, 0x40);
	assert_true(rd(EECD) & 0x80); /* granted */
	wr(EECD, 0x42);
	for (int i = 8; i >= 0; i--) {
		u32 in = command >> i & 1 ? 4 : 0;

		wr(EECD, 0x42 | in);
		wr(EECD, 0x43 | in);
	}
	for (int i = 0; i < 16; i++) {
		wr(EECD, 0x42);
		wr(EECD, 0x43);
		value = (u16)(value << 1 | (rd(EECD) >> 3 & 1));
	}
	wr(EECD, 0);
	return value;
}

static u16 eeprom_word(u32 address)
{
	wr(EERD, address << 8 | 1);
	assert_true(rd(EERD) & 0x10);
	return (u16)(rd(EERD) >> 16);
}

static u32 mdic(u32 op, u32 reg, u16 value)
{
	wr(MDIC, op << 26 | 1 << 21 | reg << 16 | value);
	assert_true(rd(MDIC) & 1 << 28);
	return rd(MDIC);
}

static void identity(void **state)
{
	u16 sum = 0;
	u32 io;

	setup();
	assert_int_equal(harness_config_read(h, DEVFN, 0, 4), 0x100e8086);
	assert_int_equal(rd(STATUS) & 0x83, 0x83);
	for (u32 i = 0; i < 64; i++) {
		assert_int_equal(eeprom_wires(i), eeprom_word(i));
		sum = (u16)(sum + eeprom_word(i));
	}
	assert_int_equal(sum, 0xbaba);
	assert_int_equal(eeprom_word(200), 0xffff);
	for (u32 i = 0; i < 3; i++)
		assert_int_equal(eeprom_word(i), load_le16(nic_mac + 2 * i));
	assert_int_equal(rd(RAL), load_le32(nic_mac));
	assert_int_equal(rd(RAL + 4), 0x80000000 | load_le16(nic_mac + 4));
	/* The PHY: identity, link, and what is not there. */
	assert_int_equal(mdic(2, 2, 0) & 0xffff, 0x0141);
	assert_int_equal(mdic(2, 3, 0) & 0xfff0, 0x0c20);
	assert_int_equal(mdic(2, 1, 0) & 0x24, 0x24);
	assert_int_equal(mdic(2, 17, 0) & 0xffff, 0xac00);
	wr(MDIC, 2 << 26 | 2 << 21);
	assert_true(rd(MDIC) & 1 << 30);
	mdic(1, 4, 0x01e1);
	assert_int_equal(mdic(2, 4, 0) & 0xffff, 0x01e1);
	mdic(1, 2, 0xffff);
	assert_int_equal(mdic(2, 2, 0) & 0xffff, 0x0141);
	mdic(1, 0, 0x8000);
	assert_int_equal(mdic(2, 0, 0) & 0xffff, 0x1140);
	assert_int_equal(mdic(2, 4, 0) & 0xffff, 0x0de1);
	/* Reset brings the address back. */
	wr(RAL, 0);
	wr(CTRL, 1 << 26);
	assert_int_equal(rd(CTRL) & 1 << 26, 0);
	assert_int_equal(rd(RAL), load_le32(nic_mac));
	/* The I/O window; narrow writes do nothing. */
	io = harness_config_read(h, DEVFN, 0x14, 4) & ~3u;
	harness_out(h, (u16)io, 4, RAL);
	assert_int_equal(harness_in(h, (u16)(io + 4), 4), load_le32(nic_mac));
	harness_out(h, (u16)(io + 4), 4, 0x12345678);
	assert_int_equal(rd(RAL), 0x12345678);
	harness_out(h, (u16)io, 4, 0xffffffff);
	assert_int_equal(harness_in(h, (u16)(io + 4), 4), 0);
	harness_write(h, base + RAL, 2, 0xffff);
	harness_write(h, base + RAL, 1, 0xff);
	assert_int_equal(rd(RAL), 0x12345678);
	assert_int_equal(harness_read(h, base + RAL + 1, 1), 0x56);
	teardown();
}

static void interrupts(void **state)
{
	setup();
	wr(ICS, 0x04);
	assert_false(harness_line(h, GSI));
	wr(IMS, 0x04);
	assert_int_equal(rd(IMS), 0x04);
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(ICR), 0x80000004);
	assert_false(harness_line(h, GSI));
	assert_int_equal(rd(ICR), 0);
	wr(ICS, 0x01);
	assert_int_equal(rd(ICR), 0x01); /* not enabled: not asserted */
	wr(ICS, 0x04);
	wr(IMC, 0x04);
	assert_false(harness_line(h, GSI));
	/* Written to clear. */
	wr(ICS, 0x06);
	wr(ICR, 0x02);
	assert_int_equal(rd(ICR), 0x04);
	teardown();
}

/* ITR: at most one rise in so many units of 256 ns; none is lost. */
static void throttling(void **state)
{
	u64 before;

	setup();
	wr(IMS, 0x04);
	wr(ITR, 3906); /* 1 ms */
	before = harness_edges(h, GSI);
	for (int i = 0; i < 1000; i++) {
		wr(ICS, 0x04);
		if (harness_line(h, GSI))
			rd(ICR);
		harness_advance(h, 20 * NSEC_PER_USEC);
	}
	assert_in_range(harness_edges(h, GSI) - before, 18, 22);
	rd(ICR);
	harness_advance(h, 2 * NSEC_PER_MSEC);
	wr(ICS, 0x04);
	assert_true(harness_line(h, GSI)); /* after a pause at once */
	teardown();
}

/* ---- sending ---- */

static void put_tx(u32 i, u64 addr, u32 low, u32 high)
{
	u8 *d = harness_ram(h, TX_RING + 16 * i, 16);

	store_le64(d, addr);
	store_le32(d + 8, low);
	store_le32(d + 12, high);
}

static bool tx_done(u32 i)
{
	return *(u8 *)harness_ram(h, TX_RING + 16 * i + 12, 1) & 1;
}

/* IDE: told of within TADV, 512 us at least, all at once; or at once with another cause. */
static void interrupts_of_sending(void **state)
{
	u64 before;

	setup();
	enable(0);
	wr(IMC, ~0u);
	wr(IMS, 0x85);
	wr(0x3820, 8);	/* TIDV */
	wr(0x382c, 32); /* TADV */
	before = harness_edges(h, GSI);
	for (u32 i = 0; i < 3; i++) {
		put_tx(i, TX_BUF, 0x89000000 | 60, 0); /* IDE, RS, EOP */
		wr(TDT, i + 1);
		assert_true(tx_done(i));
		assert_false(harness_line(h, GSI));
	}
	harness_advance(h, 600 * NSEC_PER_USEC);
	assert_true(harness_line(h, GSI));
	assert_int_equal(harness_edges(h, GSI) - before, 1);
	assert_int_equal(rd(ICR) & 0x85, 0x01);
	put_tx(3, TX_BUF, 0x89000000 | 60, 0);
	wr(TDT, 4);
	assert_false(harness_line(h, GSI));
	wr(ICS, 0x04);
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(ICR) & 0x85, 0x05);
	harness_advance(h, 600 * NSEC_PER_USEC);
	assert_false(harness_line(h, GSI));
	/* Who looks sees it. */
	put_tx(4, TX_BUF, 0x89000000 | 60, 0);
	wr(TDT, 5);
	assert_int_equal(rd(ICR) & 0x85, 0x01);
	/* Without IDE at once. */
	put_tx(5, TX_BUF, 0x09000000 | 60, 0);
	wr(TDT, 6);
	assert_true(harness_line(h, GSI));
	rd(ICR);
	/* A driver may be waiting for room once half of the ring is sent. */
	for (u32 i = 6; i < 6 + RING / 2; i++) {
		assert_false(harness_line(h, GSI));
		put_tx(i % RING, TX_BUF, 0x89000000 | 60, 0);
		wr(TDT, (i + 1) % RING);
		/* In less time than the delay. */
		harness_advance(h, 60 * NSEC_PER_USEC);
	}
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(ICR) & 0x85, 0x01);
	teardown();
}

static void legacy_transmit(void **state)
{
	u8 *buf;

	setup();
	enable(0);
	buf = harness_ram(h, TX_BUF, 4096);
	nic_make_frame(buf, nic_far_mac, 0x88b5, 1500, 1);
	put_tx(0, TX_BUF, 300 | (EOP | RS) << 24, 0);
	put_tx(1, TX_BUF, 14 | 0u << 24, 0);
	put_tx(2, TX_BUF + 14, 1486 | (EOP | RS) << 24, 0);
	put_tx(3, TX_BUF, 20 | EOP << 24, 0);
	wr(TDT, 4);
	assert_int_equal(rd(TDH), 4);
	assert_int_equal(lnk.received, 3);
	assert_int_equal(nic_link_frame(&lnk, 0)->len, 300);
	assert_int_equal(nic_link_frame(&lnk, 1)->len, 1500);
	assert_memory_equal(nic_link_frame(&lnk, 1)->data, buf, 1500);
	assert_int_equal(nic_link_frame(&lnk, 2)->len, 60); /* padded */
	assert_true(tx_done(0) && !tx_done(1) && tx_done(2) && !tx_done(3));
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(ICR) & 3, 3);
	/* Statistics, cleared by reading. */
	assert_int_equal(rd(0x4080), 3);
	assert_int_equal(rd(0x4080), 0);
	assert_int_equal(rd(0x4090), 300 + 1500 + 60 + 12);
	/* Around the end of the ring. */
	for (u32 i = 4; i < 20; i++) {
		put_tx(i % RING, TX_BUF, 100 | EOP << 24, 0);
		wr(TDT, (i + 1) % RING);
	}
	assert_int_equal(lnk.received, 19);
	/* The old way of a checksum. */
	put_tx(4, TX_BUF,
	       nic_make_packet(buf, nic_far_mac, false, 17, 100, true) | (34 + 6) << 16 |
		       (EOP | IC) << 24,
	       34 << 8);
	/* The field holds the sum of the pseudo header. */
	store_be16(buf + 40, (u16)(0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 108));
	wr(TDT, 5);
	assert_true(nic_packet_good(nic_link_frame(&lnk, 19)->data, 142));
	teardown();
}

static void put_context(u32 i, bool v6, bool tcp, u8 header_len, u16 mss, u32 payload, bool tse)
{
	u8 *d = harness_ram(h, TX_RING + 16 * i, 16);
	u32 l4 = 14 + (v6 ? 40 : 20);

	memset(d, 0, 16);
	d[0] = 14;
	d[1] = 24;
	store_le16(d + 2, (u16)(l4 - 1));
	d[4] = (u8)l4;
	d[5] = (u8)(l4 + (tcp ? 16 : 6));
	store_le32(d + 8, payload | (u32)(DEXT | (tse ? TSE : 0) | (v6 ? 0 : 2) | tcp) << 24);
	d[13] = header_len;
	store_le16(d + 14, mss);
}

static void put_data(u32 i, u64 addr, u32 len, u8 command, u8 options, u16 special)
{
	put_tx(i, addr, len | 1 << 20 | (u32)(command | DEXT) << 24,
	       (u32)options << 8 | (u32)special << 16);
}

/* As Linux prepares it: no IP checksum, that of the pseudo header with or without the length. */
static void prepare_sums(u8 *frame, bool v6, u8 protocol, u32 l4_len)
{
	const u8 *ip = frame + 14;
	u32 at = 14 + (v6 ? 40u : 20u) + (protocol == 6 ? 16 : 6), sum;

	sum = v6 ? net_csum_add(0, ip + 8, 32) : net_csum_add(0, ip + 12, 8);
	store_be16(frame + at, (u16)~net_csum_fold(sum + protocol + l4_len));
	if (!v6)
		store_be16(frame + 24, 0);
}

static void transmit_checksums(void **state)
{
	u8 *buf;

	for (u32 caps = 0; caps <= NET_CSUM; caps += NET_CSUM) {
		setup_with(caps);
		enable(0);
		buf = harness_ram(h, TX_BUF, 4096);
		for (u32 i = 0; i < 4; i++) {
			bool v6 = i & 1;
			u8 protocol = i & 2 ? 17 : 6;
			u32 len = nic_make_packet(buf, nic_far_mac, v6, protocol, 333, true);
			const struct nic_far_frame *f;
			struct net_offload o;
			u8 *copy;

			prepare_sums(buf, v6, protocol, len - 14 - (v6 ? 40 : 20));
			put_context(2 * i % RING, v6, protocol == 6, 0, 0, 0, false);
			put_data((2 * i + 1) % RING, TX_BUF, len, EOP | RS, v6 ? 2 : 3, 0);
			wr(TDT, (2 * i + 2) % RING);
			f = nic_link_frame(&lnk, i);
			copy = malloc(f->len);
			memcpy(copy, f->data, f->len);
			o = f->offload;
			assert_int_equal(o.flags, caps ? NET_HDR_NEEDS_CSUM : 0);
			net_offload_finish_csum(&o, copy, f->len);
			assert_true(nic_packet_good(copy, f->len));
			free(copy);
		}
		teardown();
	}
}

static void segmentation(void **state)
{
	enum { SIZE = 60000, MSS = 1448 };

	for (int i = 0; i < 4; i++) {
		bool v6 = i & 1, offload = i & 2;
		u32 header = 14 + (v6 ? 40 : 20) + 20, len, at = 0;
		u8 *buf;

		setup_with(offload ? NET_CSUM | NET_TSO4 | NET_TSO6 : 0);
		enable(0);
		buf = harness_ram(h, TX_BUF, 65536);
		len = nic_make_packet(buf, nic_far_mac, v6, 6, SIZE, false);
		prepare_sums(buf, v6, 6, 0);
		store_be16(buf + (v6 ? 18 : 16), 0); /* the length is the card's work */
		put_context(0, v6, true, (u8)header, MSS, SIZE, true);
		put_data(1, TX_BUF, header, TSE, v6 ? 2 : 3, 0);
		put_data(2, TX_BUF + header, 30000, TSE, 0, 0);
		put_data(3, TX_BUF + header + 30000, len - header - 30000, EOP | RS | TSE, 0, 0);
		wr(TDT, 4);
		assert_true(tx_done(3));
		if (offload) {
			const struct nic_far_frame *f = nic_link_frame(&lnk, 0);

			assert_int_equal(lnk.received, 1);
			assert_int_equal(f->len, len);
			assert_int_equal(f->offload.gso_size, MSS);
			assert_int_equal(load_be16(f->data + (v6 ? 18 : 16)),
					 len - 14 - (v6 ? 40 : 0));
		} else {
			assert_int_equal(lnk.received, (SIZE + MSS - 1) / MSS);
			for (u32 n = 0; n < lnk.received; n++) {
				const struct nic_far_frame *f = nic_link_frame(&lnk, n);

				assert_true(nic_packet_good(f->data, f->len));
				assert_int_equal(load_be32(f->data + header - 16), 1000 + at);
				assert_memory_equal(f->data + header, buf + header + at,
						    f->len - header);
				at += f->len - header;
			}
			assert_int_equal(at, SIZE);
		}
		teardown();
	}
}

/* A full link in the middle of a segmented frame: it goes on where it stopped. */
static void segmentation_stops_and_resumes(void **state)
{
	u8 *buf;
	u32 sent = 0;

	setup();
	enable(0);
	lnk.room = 0;
	buf = harness_ram(h, TX_BUF, 65536);
	nic_make_packet(buf, nic_far_mac, false, 6, 20000, false);
	for (; sent < 200; sent++) {
		put_context(2 * sent % RING, false, true, 54, 100, 20000, true);
		put_data((2 * sent + 1) % RING, TX_BUF, 20054, EOP | RS | TSE, 3, 0);
		wr(TDT, (2 * sent + 2) % RING);
		if (rd(TDH) != (2 * sent + 2) % RING)
			break;
	}
	lnk.room = 1000000;
	net_receive_resume(lnk.far, 0);
	for (int i = 0; i < 50; i++)
		harness_settle(h);
	assert_int_equal(rd(TDH), rd(TDT));
	assert_int_equal(lnk.received, (sent + 1) * 200);
	for (u32 i = lnk.received - 400; i < lnk.received; i++)
		assert_int_equal(load_be32(nic_link_frame(&lnk, i)->data + 38),
				 1000 + i % 200 * 100);
	teardown();
}

/* ---- receiving ---- */

static const u8 *rx_desc(u32 i)
{
	return harness_ram(h, RX_RING + 16 * i, 16);
}

static void receive(void **state)
{
	static u8 frame[1600];
	const u8 *rx;

	setup();
	enable(1 << 26);
	rx = harness_ram(h, RX_BUF, 0x10000);
	rd(ICR);
	for (u32 i = 0; i < 30; i++) {
		u32 len = 60 + 48 * i, d = i % RING;

		nic_make_frame(frame, nic_mac, 0x88b5, len, i);
		assert_true(nic_link_send(&lnk, h, frame, len));
		assert_int_equal(rx_desc(d)[12] & 3, 3);
		assert_int_equal(load_le16(rx_desc(d) + 8), len);
		assert_memory_equal(rx + 0x1000 * d, frame, len);
		assert_true(harness_line(h, GSI));
		assert_int_equal(rd(ICR) & 0x80, 0x80);
		memset(harness_ram(h, RX_RING + 16 * d + 8, 8), 0, 8);
		wr(RDT, d);
	}
	assert_int_equal(rd(0x4074), 30);
	/* With checksums left in place. */
	wr(RCTL, 0x8002);
	nic_make_frame(frame, nic_mac, 0x88b5, 100, 1);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	assert_int_equal(load_le16(rx_desc(30 % RING) + 8), 104);
	assert_int_equal(load_le32(rx + 0x1000 * (30 % RING) + 100), 0x9e4c0694);
	teardown();
}

static void receive_over_several_buffers(void **state)
{
	static u8 frame[9000];
	const u8 *rx;

	setup();
	enable(1 << 26 | 1 << 5); /* jumbo frames, buffers of 2 KiB */
	rx = harness_ram(h, RX_BUF, 0x10000);
	nic_make_frame(frame, nic_mac, 0x88b5, 9000, 5);
	assert_true(nic_link_send(&lnk, h, frame, 9000));
	for (u32 i = 0; i < 5; i++) {
		u32 part = i == 4 ? 9000 - 4 * 2048 : 2048;

		assert_int_equal(rx_desc(i)[12] & 3, i == 4 ? 3 : 1);
		assert_int_equal(load_le16(rx_desc(i) + 8), part);
		assert_memory_equal(rx + 0x1000 * i, frame + 2048 * i, part);
	}
	/* Five are needed and two left: it waits. */
	assert_true(nic_link_send(&lnk, h, frame, 9000));
	assert_int_equal(rd(RDH), 5);
	wr(RDT, 3);
	assert_int_equal(rd(RDH), 2);
	/* What can never fit is dropped, not waited for. */
	wr(RCTL, 0x8002 | 1 << 26 | 1 << 5 | 3 << 16); /* 256 bytes */
	assert_true(nic_link_send(&lnk, h, frame, 9000));
	assert_int_equal(rd(0x4010), 1);
	/* Without jumbo frames it is too long. */
	wr(RCTL, 0x8002);
	assert_true(nic_link_send(&lnk, h, frame, 1515));
	assert_int_equal(rd(0x40ac), 1);
	assert_int_equal(rd(RDH), 2);
	teardown();
}

static void receive_waits_for_descriptors(void **state)
{
	static u8 frame[100];

	setup();
	enable(0);
	for (u32 i = 0; i < 20; i++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 100, i);
		assert_true(nic_link_send(&lnk, h, frame, 100));
	}
	assert_int_equal(rd(RDH), 7);
	assert_true(rd(ICR) & 0x10); /* few are left */
	wr(RDT, 6);
	assert_int_equal(rd(RDH), 6);
	wr(RDT, 5);
	assert_int_equal(rd(RDH), 4);
	assert_int_equal(rd(0x4074), 20);
	teardown();
}

static bool arrives(const u8 *dst, u32 rctl)
{
	u8 frame[60];
	u32 before;

	wr(RCTL, 0x02 | rctl);
	before = rd(RDH);
	wr(RDT, (before + RING - 1) % RING);
	nic_make_frame(frame, dst, 0x88b5, 60, 0);
	assert_true(nic_link_send(&lnk, h, frame, 60));
	return rd(RDH) != before;
}

static void address_filter(void **state)
{
	static const u8 all[6] = {255, 255, 255, 255, 255, 255}, group[6] = {1, 0, 0x5e, 0, 0, 1};

	setup();
	enable(0);
	assert_true(arrives(nic_mac, 0));
	assert_false(arrives(nic_far_mac, 0));
	assert_true(arrives(nic_far_mac, 8));
	assert_false(arrives(all, 0));
	assert_true(arrives(all, 0x8000));
	assert_false(arrives(group, 0));
	assert_true(arrives(group, 0x10));
	/* Bits 47 to 36 of the address: 0x010. */
	wr(MTA, 1 << 16);
	assert_true(arrives(group, 0));
	wr(MTA, 0);
	/* A second exact address. */
	wr(RAL + 8, load_le32(nic_far_mac));
	wr(RAL + 12, 0x80000000 | load_le16(nic_far_mac + 4));
	assert_true(arrives(nic_far_mac, 0));
	wr(RAL + 12, load_le16(nic_far_mac + 4));
	assert_false(arrives(nic_far_mac, 0));
	teardown();
}

static void vlan(void **state)
{
	u8 frame[104];
	u8 *buf;

	setup();
	enable(1 << 26);
	wr(CTRL, 1 << 30);
	buf = harness_ram(h, TX_BUF, 4096);
	nic_make_frame(buf, nic_far_mac, 0x88b5, 100, 1);
	put_data(0, TX_BUF, 100, EOP | VLE, 0, 0x1234);
	put_tx(1, TX_BUF, 100 | (EOP | VLE) << 24, 0x1234u << 16);
	wr(TDT, 2);
	for (u32 i = 0; i < 2; i++) {
		assert_int_equal(nic_link_frame(&lnk, i)->len, 104);
		assert_memory_equal(nic_link_frame(&lnk, i)->data + 12, "\x81\x00\x12\x34", 4);
		assert_memory_equal(nic_link_frame(&lnk, i)->data + 16, buf + 12, 88);
	}
	memcpy(frame, nic_link_frame(&lnk, 0)->data, 104);
	memcpy(frame, nic_mac, 6);
	assert_true(nic_link_send(&lnk, h, frame, 104));
	assert_int_equal(rx_desc(0)[12] & 0x0b, 0x0b);
	assert_int_equal(load_le16(rx_desc(0) + 8), 100);
	assert_int_equal(load_le16(rx_desc(0) + 14), 0x1234);
	/* The filter. */
	wr(RCTL, 0x8002 | 1 << 18);
	assert_true(nic_link_send(&lnk, h, frame, 104));
	assert_int_equal(rd(RDH), 1);
	wr(VFTA + 4 * (0x234 >> 5), 1u << (0x234 & 31));
	assert_true(nic_link_send(&lnk, h, frame, 104));
	assert_int_equal(rd(RDH), 2);
	teardown();
}

static void receive_checksums(void **state)
{
	static const struct {
		bool v6, good;
		u8 protocol, status, errors;
	} cases[] = {
		{false, true, 6, 0x60, 0},     {false, false, 6, 0x60, 0x20},
		{false, true, 17, 0x60, 0},    {true, true, 6, 0x20, 0},
		{true, false, 17, 0x20, 0x20},
	};
	static u8 frame[400];

	setup();
	enable(1 << 26);
	wr(RXCSUM, 0x300);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		u32 len = nic_make_packet(frame, nic_mac, cases[i].v6, cases[i].protocol, 101,
					  cases[i].good);

		assert_true(nic_link_send(&lnk, h, frame, len));
		assert_int_equal(rx_desc(i)[12] & 0x64, cases[i].status);
		assert_int_equal(rx_desc(i)[13], cases[i].errors);
	}
	wr(RXCSUM, 0);
	assert_true(nic_link_send(&lnk, h, frame, 155));
	assert_int_equal(rx_desc(5)[12] & 0x64, 0x04);
	teardown();
}

static void link_state(void **state)
{
	u8 frame[60];

	setup();
	enable(0);
	for (int i = 0; i < 100; i++) {
		net_set_link(lnk.near, false);
		harness_settle(h);
		assert_int_equal(rd(STATUS) & 2, 0);
		assert_int_equal(mdic(2, 1, 0) & 4, 0);
		assert_true(rd(ICR) & 4);
		nic_make_frame(frame, nic_mac, 0x88b5, 60, 0);
		nic_link_send(&lnk, h, frame, 60);
		net_set_link(lnk.near, true);
		harness_settle(h);
		assert_int_equal(rd(STATUS) & 2, 2);
		assert_true(rd(ICR) & 4);
	}
	assert_int_equal(rd(RDH), 0);
	assert_true(arrives(nic_mac, 0));
	teardown();
}

static void coalescing(void **state)
{
	u8 frame[60];

	setup();
	enable(0);
	assert_true(harness_write_coalesced(h, base + RDT, 4, 3));
	assert_true(harness_write_coalesced(h, base + MTA + 4, 4, 0x1234));
	assert_true(harness_write_coalesced(h, base + VFTA + 0x1fc, 4, 0x5678));
	assert_int_equal(rd(RDT), 3);
	assert_int_equal(rd(MTA + 4), 0x1234);
	assert_int_equal(rd(VFTA + 0x1fc), 0x5678);
	for (int i = 0; i < 5; i++) {
		nic_make_frame(frame, nic_mac, 0x88b5, 60, 0);
		assert_true(nic_link_send(&lnk, h, frame, 60));
	}
	assert_int_equal(rd(RDH), 3);
	/* The tail in the ring lets the link go on when the ring is drained. */
	assert_true(harness_write_coalesced(h, base + RDT, 4, 7));
	rd(STATUS);
	harness_settle(h);
	assert_int_equal(rd(RDH), 5);
	/* Masks are set and lifted late: with the next access, the next frame, or by and by. */
	rd(ICR);
	wr(ICS, 4);
	assert_true(harness_line(h, GSI));
	assert_true(harness_write_coalesced(h, base + IMC, 4, ~0u));
	assert_true(harness_line(h, GSI));
	rd(STATUS);
	assert_false(harness_line(h, GSI));
	for (int i = 0; i < 4; i++) {
		assert_true(harness_write_coalesced(h, base + IMS, 4, 4));
		assert_false(harness_line(h, GSI));
		if (i == 0)
			rd(STATUS);
		else if (i == 1)
			assert_true(nic_link_send(&lnk, h, frame, 60));
		else
			harness_advance(h, 2 * NSEC_PER_MSEC);
		assert_true(harness_line(h, GSI));
		wr(IMC, ~0u);
	}
	/* A mask that stays costs no more than a few looks. */
	harness_advance(h, NSEC_PER_SEC);
	assert_false(harness_line(h, GSI));
	teardown();
}

/* Ring the bell every 50 us for so long, with so many frames coming for each: does it exit still?
 */
static bool ring_for(u64 ns, u32 answers)
{
	u8 frame[60];
	bool exits = false;

	nic_make_frame(frame, nic_mac, 0x88b5, 60, 0);
	for (u64 end = harness_now() + ns; harness_now() < end;) {
		u32 at = rd(TDT);

		put_tx(at, TX_BUF, 60 | 0x0b000000, 0);
		exits = !harness_write_coalesced(h, base + TDT, 4, (at + 1) % RING);
		for (u32 i = 0; i < answers; i++) {
			assert_true(nic_link_send(&lnk, h, frame, 60));
			wr(RDT, (rd(RDH) + RING - 1) % RING);
		}
		harness_advance(h, 50 * NSEC_PER_USEC);
	}
	return exits;
}

/* A stream's tail writes exit no more, and arrive nevertheless. */
static void stream(void **state)
{
	setup();
	enable(0);
	nic_make_frame(harness_ram(h, TX_BUF, 60), nic_far_mac, 0x88b5, 60, 0);
	assert_true(ring_for(4 * NSEC_PER_MSEC, 0));
	assert_false(ring_for(20 * NSEC_PER_MSEC, 0));
	/* It sends within 80 us. */
	harness_advance(h, 100 * NSEC_PER_USEC);
	lnk.received = 0;
	put_tx(rd(TDT), TX_BUF, 60 | 0x0b000000, 0);
	assert_true(harness_write_coalesced(h, base + TDT, 4, (rd(TDT) + 1) % RING));
	assert_int_equal(lnk.received, 0);
	harness_advance(h, 100 * NSEC_PER_USEC);
	assert_int_equal(lnk.received, 1);
	/* When it ends, writes exit again; what is queued by then is sent, too. */
	put_tx(rd(TDT), TX_BUF, 60 | 0x0b000000, 0);
	assert_true(harness_write_coalesced(h, base + TDT, 4, (rd(TDT) + 1) % RING));
	harness_advance(h, 10 * NSEC_PER_MSEC);
	assert_int_equal(lnk.received, 2);
	assert_true(ring_for(50 * NSEC_PER_USEC, 0));
	assert_int_equal(lnk.received, 3);
	/* Requests with their answers are no stream, at any rate. */
	assert_true(ring_for(40 * NSEC_PER_MSEC, 1));
	/* Nor does it matter when the card goes away, or its registers elsewhere. */
	assert_false(ring_for(40 * NSEC_PER_MSEC, 0));
	harness_config_write(h, DEVFN, 4, 2, 0);
	harness_advance(h, 10 * NSEC_PER_MSEC);
	harness_config_write(h, DEVFN, 4, 2, 7);
	assert_true(ring_for(50 * NSEC_PER_USEC, 0));
	assert_false(ring_for(40 * NSEC_PER_MSEC, 0));
	teardown();
}

/* Deal with the frames of an interrupt as a driver does, `frames` more coming meanwhile. */
static void poll_frames(u32 frames, u32 len)
{
	static u8 frame[1514];

	assert_true(rd(ICR) & 0x80);
	wr(IMC, ~0u);
	for (u32 i = 0; i < frames; i++) {
		nic_make_frame(frame, nic_mac, 0x88b5, len, i);
		assert_true(nic_link_send(&lnk, h, frame, len));
		wr(RDT, (rd(RDH) + RING - 1) % RING);
	}
	rd(ICR);
	wr(IMS, 0x80);
}

/* The frames that come until the next interrupt, 10 us apart, up to a bound. */
static u32 frames_until_interrupt(u32 len)
{
	static u8 frame[1514];
	u32 n = 0;

	for (; !harness_line(h, GSI) && n < 200; n++) {
		nic_make_frame(frame, nic_mac, 0x88b5, len, n);
		assert_true(nic_link_send(&lnk, h, frame, len));
		wr(RDT, (rd(RDH) + RING - 1) % RING);
		if (!harness_line(h, GSI))
			harness_advance(h, 10 * NSEC_PER_USEC);
	}
	return n;
}

/* In a flood of small frames an interrupt stands for 64 of them, or a millisecond. */
static void flood(void **state)
{
	setup();
	enable(0);
	wr(ITR, 200);
	wr(IMC, ~0u);
	wr(IMS, 0x80);
	assert_int_equal(frames_until_interrupt(60), 1);
	poll_frames(40, 60);
	assert_int_equal(frames_until_interrupt(60), 64);
	/* It ends with a pause: the next frame waits for a millisecond, the one after it does not.
	 */
	poll_frames(40, 60);
	assert_true(frames_until_interrupt(60) > 1);
	poll_frames(1, 60);
	harness_advance(h, 2 * NSEC_PER_MSEC);
	assert_int_equal(frames_until_interrupt(60), 1);
	poll_frames(40, 60);
	harness_advance(h, 2 * NSEC_PER_MSEC);
	assert_int_equal(frames_until_interrupt(60), 1);
	/* Full frames are no flood, nor are those of who sends meanwhile: they may be answers. */
	put_tx(rd(TDT), TX_BUF, 60 | 0x0b000000, 0);
	wr(TDT, (rd(TDT) + 1) % RING);
	poll_frames(40, 60);
	assert_in_range(frames_until_interrupt(60), 1, 20);
	poll_frames(40, 1514);
	assert_in_range(frames_until_interrupt(1514), 1, 20);
	/* Nor is anything when the driver wants no throttling. */
	poll_frames(40, 60);
	harness_advance(h, 2 * NSEC_PER_MSEC);
	assert_int_equal(frames_until_interrupt(60), 1);
	wr(ITR, 0);
	for (int i = 0; i < 2; i++) {
		poll_frames(40, 60);
		harness_advance(h, 2 * (u64)(1 - i) * NSEC_PER_MSEC);
		assert_int_equal(frames_until_interrupt(60), 1);
	}
	teardown();
}

/* ---- what has gone wrong in such cards before ---- */

/* CVE-2015-6815, CVE-2021-20257: a tail that the head never meets. */
static void bug_tail_outside(void **state)
{
	setup();
	enable(0);
	for (u32 i = 0; i < RING; i++)
		put_tx(i, TX_BUF, 60 | EOP << 24, 0);
	for (u32 tail = RING; tail < 0x10000; tail += 0x333)
		wr(TDT, tail);
	assert_int_equal(lnk.received, 0);
	wr(TDT, 4);
	assert_int_equal(lnk.received, 4);
	/* The head outside, and no ring at all. */
	wr(TDH, 0xffff);
	wr(TDT, 3);
	wr(TDH, 0);
	wr(TDLEN, 0);
	wr(TDT, 1);
	assert_int_equal(lnk.received, 4);
	wr(RDLEN, 0);
	wr(RDH, 0xffff);
	assert_true(nic_link_send(&lnk, h, harness_ram(h, TX_BUF, 60), 60));
	teardown();
}

/* Segmentation that makes no progress: no segment size, no header, headers past the frame. */
static void bug_segmentation_sizes(void **state)
{
	u64 seed = 2;
	u8 *buf;

	setup();
	enable(0);
	buf = harness_ram(h, TX_BUF, 65536);
	for (u32 i = 0; i < 20000; i++) {
		u32 len = nic_make_packet(buf, nic_far_mac, i & 1, 6, 500, true);
		u64 r = harness_random(&seed);
		u8 *d = harness_ram(h, TX_RING, 16);

		buf[14 + r % 64] = (u8)(r >> 8);
		put_context(0, i & 1, true, (u8)(r >> 16), (u16)(r >> 24 & 0xff), 500, true);
		d[(r >> 32) % 8] = (u8)(r >> 40);
		put_data(1, TX_BUF, (r >> 48) % len + 1, EOP | TSE, 3, 0);
		wr(TDH, 0);
		wr(TDT, 2);
		for (u32 n = lnk.received > 4 ? lnk.received - 4 : 0; n < lnk.received; n++)
			assert_true(nic_link_frame(&lnk, n)->len <= 700);
	}
	teardown();
}

/* CVE-2012-6075: a frame longer than the buffer wrote past it. */
static void bug_frame_past_the_buffer(void **state)
{
	static u8 frame[1500];
	const u8 *rx;

	setup();
	enable(3 << 16); /* 256-byte buffers */
	rx = harness_ram(h, RX_BUF, 0x8000);
	nic_make_frame(frame, nic_mac, 0x88b5, 1500, 0);
	assert_true(nic_link_send(&lnk, h, frame, 1500));
	for (u32 i = 0; i < 6; i++) {
		assert_memory_equal(rx + 0x1000 * i, frame + 256 * i, i == 5 ? 220 : 256);
		assert_int_equal(rx[0x1000 * i + 256], 0);
	}
	teardown();
}

/* A frame that never ends, in 16 MiB of descriptors. */
static void bug_endless_frame(void **state)
{
	setup();
	enable(0);
	for (u32 n = 0; n < 100; n++) {
		put_data(n % RING, TX_BUF, 0xfffff, 0, 0, 0);
		wr(TDT, (n + 1) % RING);
	}
	put_data(100 % RING, TX_BUF, 100, EOP, 0, 0);
	wr(TDT, 101 % RING);
	assert_int_equal(lnk.received, 0);
	put_data(101 % RING, TX_BUF, 100, EOP, 0, 0);
	wr(TDT, 102 % RING);
	assert_int_equal(lnk.received, 1);
	teardown();
}

/* The PHY's loop-back, as drivers test themselves: what is sent comes back, past the wire. */
static void phy_loopback(void **state)
{
	u8 frame[100], *buf;

	setup();
	enable(1 << 26); /* no FCS */
	buf = harness_ram(h, TX_BUF, 100);
	nic_make_frame(buf, nic_mac, 0x88b5, 100, 3);
	nic_make_frame(frame, nic_mac, 0x88b5, 100, 4);
	mdic(1, 0, 0x4140);
	put_tx(0, TX_BUF, 100 | EOP << 24, 0);
	wr(TDT, 1);
	assert_int_equal(lnk.received, 0);
	assert_int_equal(rd(RDH), 1);
	assert_memory_equal(harness_ram(h, RX_BUF, 100), buf, 100);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	assert_int_equal(rd(RDH), 1);
	/* Without a cable, too. */
	net_plug(lnk.near, false);
	harness_settle(h);
	put_tx(1, TX_BUF, 100 | EOP << 24, 0);
	wr(TDT, 2);
	assert_int_equal(rd(RDH), 2);
	net_plug(lnk.near, true);
	harness_settle(h);
	mdic(1, 0, 0x1140);
	put_tx(2, TX_BUF, 100 | EOP << 24, 0);
	wr(TDT, 3);
	assert_int_equal(lnk.received, 1);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	assert_int_equal(rd(RDH), 3);
	teardown();
}

/* As the driver's self-test sees them. */
static void register_widths(void **state)
{
	static const struct {
		u32 reg, bits;
	} width[] = {
		{0x28, ~0u},	  {0x2c, 0xffff},	 {0x30, 0xffff},	  {0x38, 0xffff},
		{0x2820, 0xffff}, {RDLEN, 0xfff80},	 {RDH, 0xffff},		  {0x170, 0xffff},
		{TDLEN, 0xfff80}, {RDBAL, ~15u},	 {TDBAL, ~15u},		  {0x3820, 0xffff},
		{RAL, ~0u},	  {RAL + 4, 0x8003ffff}, {RAL + 124, 0x8003ffff}, {MTA, ~0u},
		{MTA + 508, ~0u}, {VFTA, ~0u},
	};

	setup();
	for (size_t i = 0; i < ARRAY_SIZE(width); i++) {
		wr(width[i].reg, 0xa5a5a5a5);
		assert_int_equal(rd(width[i].reg), 0xa5a5a5a5 & width[i].bits);
		wr(width[i].reg, 0xffffffff);
		assert_int_equal(rd(width[i].reg), width[i].bits);
	}
	teardown();
}

/* What was on the wire: every segment with its headers, short frames with what fills them up. */
static void statistics(void **state)
{
	enum { SIZE = 5000, MSS = 1000, HEADER = 54 };
	u8 frame[60] = {0}, *buf;

	setup();
	enable(0);
	buf = harness_ram(h, TX_BUF, 65536);
	nic_make_packet(buf, nic_far_mac, false, 6, SIZE, false);
	put_context(0, false, true, HEADER, MSS, SIZE, true);
	put_data(1, TX_BUF, HEADER + SIZE, EOP | RS | TSE, 3, 0);
	wr(TDT, 2);
	assert_int_equal(lnk.received, SIZE / MSS);
	assert_int_equal(rd(0x4080), SIZE / MSS);
	assert_int_equal(rd(0x40d4), SIZE / MSS);
	assert_int_equal(rd(0x40f8), 1);
	assert_int_equal(rd(0x4090), SIZE + SIZE / MSS * (HEADER + 4));
	memcpy(frame, nic_mac, 6);
	assert_true(nic_link_send(&lnk, h, frame, 42));
	assert_int_equal(rd(0x4074), 1);
	assert_int_equal(rd(0x4088), 64);
	teardown();
}

/* Rings and buffers on the card's own registers, looped back. */
static void bug_dma_into_own_registers(void **state)
{
	setup();
	enable(3 << 6);
	store_le64(harness_ram(h, RX_RING, 8), base + TDT);
	nic_make_frame(harness_ram(h, TX_BUF, 100), nic_mac, 0x88b5, 100, 0);
	put_tx(0, TX_BUF, 100 | EOP << 24, 0);
	wr(TDT, 1);
	wr(RDBAL, (u32)base);
	put_tx(1, TX_BUF, 100 | EOP << 24, 0);
	wr(TDT, 2);
	wr(TDBAL, (u32)base);
	wr(TDT, 5);
	assert_int_equal(lnk.received, 0);
	teardown();
}

static void without_bus_master(void **state)
{
	u8 frame[60];

	setup();
	enable(0);
	harness_config_write(h, DEVFN, 4, 2, 3);
	put_tx(0, TX_BUF, 60 | EOP << 24, 0);
	wr(TDT, 1);
	assert_int_equal(lnk.received, 0);
	nic_make_frame(frame, nic_mac, 0x88b5, 60, 0);
	assert_true(nic_link_send(&lnk, h, frame, 60));
	assert_int_equal(rd(RDH), 0);
	harness_config_write(h, DEVFN, 4, 2, 7);
	harness_settle(h);
	assert_int_equal(lnk.received, 1);
	teardown();
}

static void saved(void **state)
{
	u8 frame[100];

	setup();
	enable(1 << 26);
	nic_make_frame(frame, nic_mac, 0x88b5, 100, 0);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	mdic(1, 4, 0x01e1);
	harness_check_state(h, dev);
	assert_true(harness_line(h, GSI));
	assert_int_equal(rd(RDH), 1);
	assert_int_equal(mdic(2, 4, 0) & 0xffff, 0x01e1);
	assert_true(nic_link_send(&lnk, h, frame, 100));
	assert_int_equal(rd(RDH), 2);
	teardown();
}

static void hostile(void **state)
{
	static const u32 hot[] = {CTRL, EECD, MDIC,  ICR,   IMS, RCTL, TCTL,   RDBAL, RDLEN,
				  RDH,	RDT,  TDBAL, TDLEN, TDH, TDT,  RXCSUM, ITR,   ICS};
	struct harness_range range = {BUS_MMIO, 0, 0x6000};
	u64 seed = 11;
	u8 frame[1600];

	for (u64 round = 0; round < 30; round++) {
		setup_with(round & 1 ? NET_CSUM | NET_TSO4 : 0);
		range.base = base;
		for (u32 turn = 0; turn < 20; turn++) {
			u8 *ram = harness_ram(h, 0, RAM);

			for (int i = 0; i < 2000; i++)
				ram[TX_RING + harness_random(&seed) % 0x20000] =
					(u8)harness_random(&seed);
			enable((u32)harness_random(&seed) & ~(1u << 26));
			for (u32 i = 0; i < RING; i++) {
				u64 r = harness_random(&seed);

				put_tx(i, TX_BUF + (r & 0xffff),
				       (u32)harness_random(&seed) | DEXT << 24, (u32)(r >> 32));
			}
			wr(TDT, RING - 1);
			harness_hostile(h, &range, 1, round * 100 + turn, 200, NULL);
			for (int i = 0; i < 100; i++) {
				u64 r = harness_random(&seed);

				wr(hot[r % ARRAY_SIZE(hot)], (u32)(r >> 20) >> (r >> 8 & 31));
			}
			nic_make_packet(frame, nic_mac, turn & 1, 6, turn * 60, true);
			nic_link_send(&lnk, h, frame, 60 + turn * 60);
		}
		harness_check_state(h, dev);
		teardown();
	}
}

/* Bit by bit, as IEEE 802.3 has it, reflected. */
static u32 crc_by_bits(const u8 *p, size_t len)
{
	u32 crc = ~0u;

	while (len--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

/* Of every length and alignment that takes another way through the code. */
static void frame_check_sequence(void **state)
{
	u8 data[1600];
	u64 seed = 1;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)harness_random(&seed);
	for (size_t len = 0; len < 200; len++)
		for (size_t at = 0; at < 16; at++)
			assert_int_equal(nic_crc32(data + at, len), crc_by_bits(data + at, len));
	for (size_t len = 1500; len <= sizeof(data); len++)
		assert_int_equal(nic_crc32(data, len), crc_by_bits(data, len));
	assert_int_equal(nic_crc32("123456789", 9), 0xcbf43926);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frame_check_sequence),
		cmocka_unit_test(identity),
		cmocka_unit_test(interrupts),
		cmocka_unit_test(throttling),
		cmocka_unit_test(interrupts_of_sending),
		cmocka_unit_test(legacy_transmit),
		cmocka_unit_test(transmit_checksums),
		cmocka_unit_test(segmentation),
		cmocka_unit_test(segmentation_stops_and_resumes),
		cmocka_unit_test(receive),
		cmocka_unit_test(receive_over_several_buffers),
		cmocka_unit_test(receive_waits_for_descriptors),
		cmocka_unit_test(address_filter),
		cmocka_unit_test(vlan),
		cmocka_unit_test(receive_checksums),
		cmocka_unit_test(link_state),
		cmocka_unit_test(coalescing),
		cmocka_unit_test(stream),
		cmocka_unit_test(flood),
		cmocka_unit_test(phy_loopback),
		cmocka_unit_test(register_widths),
		cmocka_unit_test(statistics),
		cmocka_unit_test(bug_tail_outside),
		cmocka_unit_test(bug_segmentation_sizes),
		cmocka_unit_test(bug_frame_past_the_buffer),
		cmocka_unit_test(bug_endless_frame),
		cmocka_unit_test(bug_dma_into_own_registers),
		cmocka_unit_test(without_bus_master),
		cmocka_unit_test(saved),
		cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
