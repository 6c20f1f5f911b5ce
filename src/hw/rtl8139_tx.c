/*
 * Invariants:
 * 1. A run looks at TX_BUDGET descriptors at most and then comes back through the loop: a guest can
 *    hand them back as quickly as we take them.
 * 2. While tx.busy nothing is fetched. A descriptor is given back when its bytes have been copied.
 *
 * C+ descriptors: RTL8139C+ data sheet, section 8.
 */
#include <string.h>

#include "base/endian.h"
#include "hw/rtl8139_int.h"
#include "os/clock.h"

#define TX_BUDGET      256
#define RING_MAX       1024 /* descriptors, where the guest marks no end */
#define DESC_SIZE      16
#define IPV4_TYPE      0x0800
#define IPV6_TYPE      0x86dd
#define PROTO_TCP      6
#define PROTO_UDP      17
#define IP_AT	       14
#define TAG_TYPE       0x8100
#define OUTER_TAG_TYPE 0x88a8
#define TAGS_MAX       2

enum {
	D_OWN = 1U << 31,
	D_END = 1 << 30,
	D_FIRST = 1 << 29,
	D_LAST = 1 << 28,
	D_LARGE_SEND = 1 << 27,
	D_IP_CSUM = 1 << 18,
	D_UDP_CSUM = 1 << 17,
	D_TCP_CSUM = 1 << 16,
	D_MSS_SHIFT = 16,
	D_MSS_MASK = 0x7ff,
	D_SIZE = 0xffff,
	D_TAG = 1 << 17, /* in the second word */
};
enum { POLL_HIGH = 1 << 7, POLL_NORMAL = 1 << 6, POLL_SOFT_INT = 1 << 0 };

static void loop_back(struct rtl8139 *r)
{
	struct iovec iov = {r->tx.buf, r->tx.len};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = r->tx.len};

	/* Into memory only: nothing that is received can send. */
	if (!r->tx.too_long && frame.len >= NET_MIN_FRAME)
		rtl_rx_frame(r, &frame);
	nic_tx_clear(&r->tx);
}

/* A whole frame is gathered; true when the next may be. */
static bool send_frame(struct rtl8139 *r, const struct nic_offload *offload)
{
	r->tally.tx_ok += r->tx.too_long ? 0 : nic_tx_frames(&r->tx, offload);
	r->tally.tx_error += r->tx.too_long;
	if ((r->tcr & TCR_LOOP) == TCR_LOOP) {
		loop_back(r);
		return true;
	}
	return nic_tx_send(&r->tx, offload);
}

static bool gather(struct rtl8139 *r, u64 addr, u32 len)
{
	u8 *p = nic_tx_room(&r->tx, len);

	if (!p)
		return true; /* dropped at its end */
	if (!mem_read(bus_mem(r->pci.dev.bus), addr, p, len))
		return true;
	rtl_dma_failed(r);
	nic_tx_clear(&r->tx);
	return false;
}

/* ---- the old mode: four slots in turn ---- */

static void run_slots(struct rtl8139 *r)
{
	const struct nic_offload none = {.segment = false};

	for (int i = 0; i < RTL_TX_SLOTS && !r->tx.busy; i++) {
		u32 *tsd = &r->tsd[r->tx_slot];

		if (*tsd & TSD_OWN)
			return;
		nic_tx_clear(&r->tx);
		if (gather(r, r->tsad[r->tx_slot], *tsd & TSD_SIZE))
			send_frame(r, &none);
		*tsd |= TSD_OWN | TSD_TOK;
		r->tx_slot = (r->tx_slot + 1) % RTL_TX_SLOTS;
		r->late_descs++;
		rtl_raise_sent(r, I_TOK, false);
	}
}

/* ---- C+: what the descriptor of a frame's end asks for ---- */

static void plan_l4(const struct nic_tx *tx, u32 opts, u8 protocol, struct nic_offload *o)
{
	const u8 *l4 = tx->buf + o->l4_start;

	if (protocol == PROTO_TCP && tx->len >= o->l4_start + 20u) {
		o->l4_csum = opts & D_TCP_CSUM;
		o->l4_csum_at = o->l4_start + 16;
		o->header_len = (u16)(o->l4_start + (l4[12] >> 4) * 4);
		o->segment = opts & D_LARGE_SEND;
		o->mss = opts >> D_MSS_SHIFT & D_MSS_MASK;
	} else if (protocol == PROTO_UDP && tx->len >= o->l4_start + 8u) {
		o->l4_csum = opts & D_UDP_CSUM;
		o->l4_csum_at = o->l4_start + 6;
	}
}

/* Behind the tags that the driver wrote itself. */
static u16 find_ip(const struct nic_tx *tx)
{
	u16 at = IP_AT;

	for (int i = 0; i < TAGS_MAX && tx->len >= at + NIC_VLAN_LEN + 20u; i++) {
		u16 type = load_be16(tx->buf + at - 2);

		if (type != TAG_TYPE && type != OUTER_TAG_TYPE)
			break;
		at += NIC_VLAN_LEN;
	}
	return at;
}

/* The chip finds the headers by itself. In a large send the bits of the checksums are the MSS. */
static void plan(const struct nic_tx *tx, u32 opts, struct nic_offload *o)
{
	u16 at = find_ip(tx), type;
	const u8 *ip = tx->buf + at;

	o->ip_start = at;
	if (tx->too_long || tx->len < at + 20u)
		return;
	type = load_be16(ip - 2);
	if (type == IPV4_TYPE && ip[0] >> 4 == 4 && (ip[0] & 15) >= 5) {
		o->l4_start = (u16)(at + (ip[0] & 15) * 4);
		o->ip_csum = opts & D_IP_CSUM;
		o->ip_csum_at = at + 10;
		o->ip_end = o->l4_start;
		plan_l4(tx, opts, ip[9], o);
	} else if (type == IPV6_TYPE && ip[0] >> 4 == 6 && tx->len >= at + 40u) {
		o->v6 = true;
		o->l4_start = at + 40;
		plan_l4(tx, opts, ip[6], o);
	}
	if (opts & D_LARGE_SEND)
		o->ip_csum = o->l4_csum = false;
}

/* The driver leaves the checksum field as it is; the sum starts from the pseudo header, which the
 * chip makes itself. */
static void put_pseudo_sum(struct nic_tx *tx, const struct nic_offload *o)
{
	const u8 *ip = tx->buf + o->ip_start;
	u32 len, sum;

	if (!o->l4_csum)
		return;
	if (o->v6)
		len = load_be16(ip + 4);
	else
		len = (u32)max(load_be16(ip + 2) - (o->l4_start - o->ip_start), 0);
	sum = o->v6 ? net_csum_add(0, ip + 8, 32) : net_csum_add(0, ip + 12, 8);
	sum += len + (o->v6 ? ip[6] : ip[9]);
	store_be16(tx->buf + o->l4_csum_at, (u16)~net_csum_fold(sum));
}

static void end_frame(struct rtl8139 *r, u32 opts1, u32 opts2)
{
	struct nic_offload o = {.vlan = opts2 & D_TAG, .vlan_tag = __builtin_bswap16((u16)opts2)};

	plan(&r->tx, opts1, &o);
	put_pseudo_sum(&r->tx, &o);
	send_frame(r, &o);
	rtl_raise_sent(r, I_TOK, true);
}

static u64 ring_address(const struct rtl8139 *r, int ring)
{
	return (r->tsad[2 * ring] & ~0xffu) | (u64)r->tsad[2 * ring + 1] << 32;
}

/* One descriptor; false when there is none for us. */
static bool run_descriptor(struct rtl8139 *r, int ring)
{
	struct guest_mem *mem = bus_mem(r->pci.dev.bus);
	u64 at = ring_address(r, ring) + (u64)r->tx_desc[ring] * DESC_SIZE;
	u8 d[DESC_SIZE], back[4];
	u32 opts1;

	if (mem_read(mem, at, d, sizeof(d))) {
		rtl_dma_failed(r);
		return false;
	}
	opts1 = load_le32(d);
	if (!(opts1 & D_OWN))
		return false;
	if (opts1 & D_FIRST)
		nic_tx_clear(&r->tx);
	if (!gather(r, load_le64(d + 8), opts1 & D_SIZE))
		r->tx.too_long = true;
	/* The bits of offloads are those of errors and collisions in a descriptor given back. */
	store_le32(back, opts1 & (D_END | D_FIRST | D_LAST | D_SIZE));
	mem_write(mem, at, back, sizeof(back));
	r->late_descs = (u8)min(r->late_descs + 1, 255);
	if ((opts1 & D_END) || r->tx_desc[ring] + 1 >= RING_MAX)
		r->tx_desc[ring] = 0;
	else
		r->tx_desc[ring]++;
	if (opts1 & D_LAST)
		end_frame(r, opts1, load_le32(d + 4));
	return true;
}

static void run_ring(struct rtl8139 *r, int ring, u8 poll)
{
	for (int i = 0; i < TX_BUDGET; i++) {
		if (r->tx.busy)
			return; /* sendable() comes */
		if (!run_descriptor(r, ring)) {
			r->tppoll &= ~poll;
			rtl_raise_sent(r, I_TDU, true);
			return;
		}
	}
	bus_timer_arm(&r->kick, clock_now_ns());
}

void rtl_tx_run(struct rtl8139 *r)
{
	if (!(r->cr & CR_TE) || !pci_bus_master(&r->pci) || !nic_tx_resume(&r->tx))
		return;
	if (!(r->cpcr & CP_TX)) {
		run_slots(r);
		return;
	}
	if (r->tppoll & POLL_HIGH)
		run_ring(r, 1, POLL_HIGH);
	if (r->tppoll & POLL_NORMAL)
		run_ring(r, 0, POLL_NORMAL);
}

void rtl_tx_reset(struct rtl8139 *r)
{
	nic_tx_clear(&r->tx);
	for (int i = 0; i < RTL_TX_SLOTS; i++) {
		r->tsd[i] = TSD_OWN;
		r->tsad[i] = 0;
	}
	r->tx_slot = 0;
	r->tx_desc[0] = r->tx_desc[1] = 0;
	r->tppoll = 0;
}
