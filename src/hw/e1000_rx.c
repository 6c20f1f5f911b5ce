/*
 * Invariants:
 * 1. A frame is written only when there are descriptors for all of it; else it is refused and the
 *    link waits (rx_stalled) until the tail moves.
 * 2. The number of descriptors used for a frame is bounded by its length over the buffer size.
 *
 * SDM 3.2.
 */
#include <string.h>

#include "base/endian.h"
#include "hw/e1000_int.h"

#define MAX_FRAME     1518 /* with checksum; a VLAN tag comes on top */
#define RAR_ENTRIES   16
#define RAH_VALID     (1U << 31)
#define TAGGED_HEADER 18

enum { S_DD = 0x01, S_EOP = 0x02, S_IXSM = 0x04, S_VP = 0x08, S_TCPCS = 0x20, S_IPCS = 0x40 };
enum { E_TCPE = 0x20, E_IPE = 0x40 };
enum { RXCSUM_IP = 1 << 8, RXCSUM_L4 = 1 << 9 };

static u32 buffer_size(struct e1000 *e)
{
	u32 rctl = *e1000_reg(e, E_RCTL), code = rctl >> 16 & 3;

	if (rctl & RCTL_BSEX)
		return code ? 32768u >> code : 2048; /* 0 is reserved */
	return 2048u >> code;
}

/* ---- filters (SDM 3.2.1) ---- */

static bool exact_match(struct e1000 *e, const u8 *mac)
{
	for (u32 i = 0; i < RAR_ENTRIES; i++) {
		u32 low = *e1000_reg(e, E_RAL + 8 * i), high = *e1000_reg(e, E_RAL + 8 * i + 4);

		if ((high & RAH_VALID) && low == load_le32(mac) && (u16)high == load_le16(mac + 4))
			return true;
	}
	return false;
}

static bool hash_match(struct e1000 *e, const u8 *mac)
{
	static const u8 shift[] = {4, 3, 2, 0};
	u32 bits = load_le16(mac + 4) >> shift[*e1000_reg(e, E_RCTL) >> 12 & 3] & 0xfff;

	return *e1000_reg(e, E_MTA + 4 * (bits >> 5)) & 1U << (bits & 31);
}

static bool address_wanted(struct e1000 *e, const u8 *mac)
{
	static const u8 everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	u32 rctl = *e1000_reg(e, E_RCTL);

	if (!memcmp(mac, everybody, 6))
		return (rctl & (RCTL_BAM | RCTL_MPE)) || exact_match(e, mac);
	if (mac[0] & 1)
		return (rctl & RCTL_MPE) || exact_match(e, mac) || hash_match(e, mac);
	return (rctl & RCTL_UPE) || exact_match(e, mac);
}

static bool is_tagged(struct e1000 *e, const u8 *frame, u32 len)
{
	return len >= TAGGED_HEADER && load_be16(frame + 12) == (u16)*e1000_reg(e, E_VET);
}

static bool vlan_wanted(struct e1000 *e, u16 tag)
{
	u32 id = tag & 0xfff;

	if (!(*e1000_reg(e, E_RCTL) & RCTL_VFE))
		return true;
	return *e1000_reg(e, E_VFTA + 4 * (id >> 5)) & 1U << (id & 31);
}

/* ---- the descriptor of a frame's end ---- */

static void check_sums(struct e1000 *e, const u8 *frame, u32 len, u8 *status, u8 *errors)
{
	u32 rxcsum = *e1000_reg(e, E_RXCSUM);
	struct nic_rx_sums sums;

	*status |= S_IXSM;
	if (!(rxcsum & (RXCSUM_IP | RXCSUM_L4)))
		return;
	nic_rx_check(frame, len, &sums);
	if (sums.v4 && (rxcsum & RXCSUM_IP)) {
		*status = (*status & ~S_IXSM) | S_IPCS;
		*errors |= sums.v4_good ? 0 : E_IPE;
	}
	if (sums.protocol && (rxcsum & RXCSUM_L4)) {
		*status = (*status & ~S_IXSM) | S_TCPCS;
		*errors |= sums.l4_good ? 0 : E_TCPE;
	}
}

static void count_frame(struct e1000 *e, const u8 *frame, u32 len)
{
	bool group = frame[0] & 1, all = group && load_le32(frame) == 0xffffffff;

	e->heard++;
	e->heard_bytes += len;
	e1000_count(e, E_TPR);
	e1000_count(e, E_GPRC);
	if (group)
		e1000_count(e, all ? E_BPRC : E_MPRC);
	e1000_count_bytes(e, E_TOR, len + NIC_CRC_LEN);
	e1000_count_bytes(e, E_GORC, len + NIC_CRC_LEN);
}

/* ---- descriptors ---- */

struct rx_ring {
	u64 base;
	u32 count, free;
};

/* False when the guest has set up none that makes sense. */
static bool look_at_ring(struct e1000 *e, struct rx_ring *ring)
{
	u32 head = *e1000_reg(e, E_RDH), tail = *e1000_reg(e, E_RDT);

	ring->base = *e1000_reg(e, E_RDBAL) | (u64)*e1000_reg(e, E_RDBAH) << 32;
	ring->count = *e1000_reg(e, E_RDLEN) / E1000_DESC;
	if (head >= ring->count || tail >= ring->count)
		return false;
	ring->free = (tail + ring->count - head) % ring->count;
	return true;
}

/* Fill one buffer and its descriptor; `end` is the status and so on of the last one. */
static int fill(struct e1000 *e, const struct rx_ring *ring, const u8 *data, u32 len,
		const u8 end[8])
{
	struct guest_mem *mem = bus_mem(e->pci.dev.bus);
	u32 *head = e1000_reg(e, E_RDH);
	u64 at = ring->base + (u64)*head * E1000_DESC;
	u8 addr[8], word[8];

	if (mem_read(mem, at, addr, sizeof(addr)) || mem_write(mem, load_le64(addr), data, len))
		return -1;
	memcpy(word, end, sizeof(word));
	store_le16(word, (u16)len);
	/* Eight bytes in one store: the guest polls DD. */
	if (mem_write(mem, at + 8, word, sizeof(word)))
		return -1;
	*head = *head + 1 == ring->count ? 0 : *head + 1;
	return 0;
}

static void raise_received(struct e1000 *e, const struct rx_ring *ring, u32 used)
{
	u32 shift = (*e1000_reg(e, E_RCTL) >> 8 & 3) + 1;
	bool low = ring->free - used <= ring->count >> shift;

	e1000_raise_received(e, IC_RXT0 | (low ? IC_RXDMT0 : 0));
}

static bool put_frame(struct e1000 *e, const u8 *frame, u32 len, u8 status, u8 errors, u16 tag)
{
	u32 size = buffer_size(e), need = (len + size - 1) / size, used = 0;
	struct rx_ring ring;

	if (!look_at_ring(e, &ring) || need > ring.free)
		return false;
	/* A ring too small for the frame will never have room: drop it. */
	for (u32 at = 0; at < len; at += size, used++) {
		u32 part = min(size, len - at);
		bool last = at + part == len;
		u8 end[8] = {0};

		end[4] = S_DD | (last ? S_EOP | status : 0);
		end[5] = last ? errors : 0;
		store_le16(end + 6, last ? tag : 0);
		if (fill(e, &ring, frame + at, part, end)) {
			e1000_dma_failed(e);
			return true;
		}
	}
	raise_received(e, &ring, used);
	return true;
}

/* ---- the frame ---- */

/* True when this ring can never take so many descriptors at once. */
static bool hopeless(struct e1000 *e, u32 len)
{
	u32 size = buffer_size(e), count = *e1000_reg(e, E_RDLEN) / E1000_DESC;

	return count && (len + size - 1) / size >= count;
}

static u32 append_crc(struct e1000 *e, const u8 **frame, u32 len)
{
	if (*e1000_reg(e, E_RCTL) & RCTL_SECRC)
		return len;
	if (*frame != e->scratch)
		memcpy(e->scratch, *frame, len);
	*frame = e->scratch;
	store_le32(e->scratch + len, nic_crc32(e->scratch, len));
	return len + NIC_CRC_LEN;
}

/* Take the tag out; the frame moves to scratch. */
static u32 strip_tag(struct e1000 *e, const u8 **frame, u32 len)
{
	if (*frame != e->scratch)
		memcpy(e->scratch, *frame, 12);
	memmove(e->scratch + 12, *frame + 16, len - 16);
	*frame = e->scratch;
	return len - NIC_VLAN_LEN;
}

static bool take_frame(struct e1000 *e, const struct net_frame *in)
{
	u32 rctl = *e1000_reg(e, E_RCTL), len, tagged_len;
	const u8 *frame = nic_rx_linear(in, e->scratch, &len);
	u8 status = 0, errors = 0;
	u16 tag = 0;
	bool tagged;

	if (!frame || !(rctl & RCTL_EN) || !pci_bus_master(&e->pci))
		return true;
	tagged = is_tagged(e, frame, len);
	tagged_len = tagged ? NIC_VLAN_LEN : 0;
	if (len + NIC_CRC_LEN > (rctl & RCTL_LPE ? NIC_RX_MAX : MAX_FRAME + tagged_len)) {
		e1000_count(e, E_ROC);
		return true;
	}
	if (!address_wanted(e, frame) || (tagged && !vlan_wanted(e, load_be16(frame + 14))))
		return true;
	if (hopeless(e, len + NIC_CRC_LEN)) {
		e1000_count(e, E_MPC);
		return true;
	}
	if (tagged && (*e1000_reg(e, E_CTRL) & CTRL_VME)) {
		status |= S_VP;
		tag = load_be16(frame + 14);
		len = strip_tag(e, &frame, len);
	}
	check_sums(e, frame, len, &status, &errors);
	len = append_crc(e, &frame, len);
	if (!put_frame(e, frame, len, status, errors, tag))
		return false;
	count_frame(e, frame, max(in->len, (u32)NIC_MIN_FRAME));
	return true;
}

bool e1000_rx_frame(struct e1000 *e, const struct net_frame *frame)
{
	return e->link_down || e1000_phy_looped(e) || take_frame(e, frame);
}

void e1000_rx_looped(struct e1000 *e, const struct net_frame *frame)
{
	take_frame(e, frame);
}

void e1000_rx_resume(struct e1000 *e)
{
	if (!e->rx_stalled || !e->net)
		return;
	e->rx_stalled = false;
	net_receive_resume(e->net, 0);
}
