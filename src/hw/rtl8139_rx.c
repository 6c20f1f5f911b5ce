/*
 * Invariants:
 * 1. cbr is below the size of the ring buffer, which is read pointer when the buffer is empty; it
 *    never becomes that by filling, for then it would look empty.
 * 2. A frame is written whole or not at all. What has no room is refused, not dropped: the link
 *    waits (rx_stalled) until the guest touches a register that may have made room, or RETRY_NS.
 */
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "hw/rtl8139_int.h"

#define HEADER_LEN  4
#define DESC_SIZE   16
#define RING_MAX    1024
#define CAPR_OFFSET 16 /* the register is that much behind */
#define VLAN_TYPE   0x8100

enum { S_OK = 1, S_BROADCAST = 1 << 13, S_PHYSICAL = 1 << 14, S_MULTICAST = 1 << 15 };
enum {
	D_OWN = 1U << 31,
	D_END = 1 << 30,
	D_FIRST = 1 << 29,
	D_LAST = 1 << 28,
	D_MULTICAST = 1 << 27,
	D_PHYSICAL = 1 << 26,
	D_BROADCAST = 1 << 25,
	D_PROTO_TCP = 1 << 16,
	D_PROTO_UDP = 2 << 16,
	D_PROTO_IP = 3 << 16,
	D_IP_BAD = 1 << 15,
	D_UDP_BAD = 1 << 14,
	D_TCP_BAD = 1 << 13,
	D_SIZE = 0x1fff,
	D_TAG = 1 << 16, /* in the second word */
};

/* What kind of address the frame is for, as S_...; 0: not for us. */
static u16 filter(const struct rtl8139 *r, const u8 *mac)
{
	static const u8 everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	bool all = r->rcr & RCR_ALL;

	if (!memcmp(mac, everybody, 6))
		return all || (r->rcr & RCR_BROADCAST) ? S_BROADCAST : 0;
	if (mac[0] & 1) {
		u32 hash = nic_multicast_hash(mac);
		bool hit = r->mar[hash >> 3] & 1 << (hash & 7);

		return all || (hit && (r->rcr & RCR_MULTICAST)) ? S_MULTICAST : 0;
	}
	if (!memcmp(mac, r->idr, 6))
		return all || (r->rcr & RCR_MATCH) ? S_PHYSICAL : 0;
	return all ? S_OK : 0;
}

static void count(struct rtl8139 *r, u16 kind)
{
	r->tally.rx_ok++;
	r->tally.rx_unicast += !(kind & (S_BROADCAST | S_MULTICAST));
	r->tally.rx_broadcast += !!(kind & S_BROADCAST);
	r->tally.rx_multicast += !!(kind & S_MULTICAST);
}

/* ---- the old mode: one buffer, used as a ring ---- */

static u32 buffer_size(const struct rtl8139 *r)
{
	return 8192u << (r->rcr >> RCR_LENGTH_SHIFT & 3);
}

static u32 read_pointer(const struct rtl8139 *r)
{
	return (r->capr + CAPR_OFFSET) & (buffer_size(r) - 1);
}

bool rtl_rx_buffer_empty(const struct rtl8139 *r)
{
	return (r->cbr & (buffer_size(r) - 1)) == read_pointer(r);
}

/* Bytes past the end go to the front, or with WRAP just behind the end. */
static int write_ring(struct rtl8139 *r, u32 at, const void *data, u32 len)
{
	struct guest_mem *mem = bus_mem(r->pci.dev.bus);
	u32 size = buffer_size(r), head = len;
	bool behind = (r->rcr & RCR_WRAP) && size < 64 * KiB;

	at = behind ? at : at & (size - 1);
	if (!behind)
		head = min(len, size - at);
	if (mem_write(mem, (u64)r->rbstart + at, data, head))
		return -1;
	return head == len ? 0 : mem_write(mem, r->rbstart, (const u8 *)data + head, len - head);
}

static bool receive_into_buffer(struct rtl8139 *r, const u8 *frame, u32 len, u16 kind)
{
	u32 size = buffer_size(r), at = r->cbr & (size - 1);
	u32 need = (u32)align_up(HEADER_LEN + len + NIC_CRC_LEN, 4);
	u32 free = (read_pointer(r) - at - 1) & (size - 1);
	u8 header[HEADER_LEN], crc[NIC_CRC_LEN];

	if (need > free)
		return false;
	store_le16(header, S_OK | kind);
	store_le16(header + 2, (u16)(len + NIC_CRC_LEN));
	store_le32(crc, nic_crc32(frame, len));
	if (write_ring(r, at, header, HEADER_LEN) || write_ring(r, at + HEADER_LEN, frame, len) ||
	    write_ring(r, at + HEADER_LEN + len, crc, NIC_CRC_LEN)) {
		rtl_dma_failed(r);
		return true;
	}
	r->cbr = (u16)((at + need) & (size - 1));
	count(r, kind);
	rtl_raise_received(r);
	return true;
}

/* ---- C+: descriptors ---- */

static u32 checksum_bits(const struct rtl8139 *r, const u8 *frame, u32 len)
{
	struct nic_rx_sums sums;
	u32 bits;

	if (!(r->cpcr & CP_RX_CSUM))
		return 0;
	nic_rx_check(frame, len, &sums);
	if (!sums.v4)
		return 0;
	bits = sums.protocol == 6 ? D_PROTO_TCP : sums.protocol == 17 ? D_PROTO_UDP : D_PROTO_IP;
	if (!sums.v4_good)
		bits |= D_IP_BAD;
	if (sums.protocol && !sums.l4_good)
		bits |= sums.protocol == 6 ? D_TCP_BAD : D_UDP_BAD;
	return bits;
}

/* Take the tag out of the frame, if the guest wants that; the second word of the descriptor. */
static u32 take_tag(const struct rtl8139 *r, u8 *scratch, const u8 **frame, u32 *len)
{
	u32 word;

	if (!(r->cpcr & CP_RX_VLAN) || load_be16(*frame + 12) != VLAN_TYPE)
		return 0;
	word = D_TAG | load_le16(*frame + 14);
	if (*frame != scratch)
		memcpy(scratch, *frame, 12);
	memmove(scratch + 12, *frame + 16, *len - 16);
	*len -= NIC_VLAN_LEN;
	if (*len < NIC_MIN_FRAME) {
		memset(scratch + *len, 0, NIC_MIN_FRAME - *len);
		*len = NIC_MIN_FRAME;
	}
	*frame = scratch;
	return word;
}

static int give_back(struct rtl8139 *r, u64 at, u32 opts1, u32 opts2)
{
	u8 words[8];

	/* The owner last, in one write with the rest: the guest polls it. */
	store_le32(words, opts1);
	store_le32(words + 4, opts2);
	return mem_write(bus_mem(r->pci.dev.bus), at + 4, words + 4, 4) ||
	       mem_write(bus_mem(r->pci.dev.bus), at, words, 4);
}

static bool receive_into_ring(struct rtl8139 *r, const u8 *frame, u32 len, u16 kind)
{
	struct guest_mem *mem = bus_mem(r->pci.dev.bus);
	u64 at = ((r->rdsar[0] & ~0xffu) | (u64)r->rdsar[1] << 32) + (u64)r->rx_desc * DESC_SIZE;
	u32 opts1, opts2, status;
	u8 d[DESC_SIZE], crc[NIC_CRC_LEN];

	if (mem_read(mem, at, d, sizeof(d))) {
		rtl_dma_failed(r);
		return true;
	}
	opts1 = load_le32(d);
	if (!(opts1 & D_OWN))
		return false;
	opts2 = take_tag(r, r->scratch, &frame, &len);
	if (len + NIC_CRC_LEN > (opts1 & D_SIZE)) { /* it must fit into one */
		r->tally.rx_missed++;
		rtl_raise(r, I_RX_OVERFLOW);
		return true;
	}
	status = D_FIRST | D_LAST | (opts1 & D_END) | (len + NIC_CRC_LEN) |
		 checksum_bits(r, frame, len);
	status |= kind & S_MULTICAST ? D_MULTICAST : 0;
	status |= kind & S_PHYSICAL ? D_PHYSICAL : 0;
	status |= kind & S_BROADCAST ? D_BROADCAST : 0;
	store_le32(crc, nic_crc32(frame, len));
	if (mem_write(mem, load_le64(d + 8), frame, len) ||
	    mem_write(mem, load_le64(d + 8) + len, crc, NIC_CRC_LEN) ||
	    give_back(r, at, status, opts2)) {
		rtl_dma_failed(r);
		return true;
	}
	r->rx_desc = (opts1 & D_END) || r->rx_desc + 1 >= RING_MAX ? 0 : r->rx_desc + 1;
	count(r, kind);
	rtl_raise_received(r);
	return true;
}

/* ---- both ---- */

bool rtl_rx_frame(struct rtl8139 *r, const struct net_frame *frame)
{
	u32 len;
	const u8 *data = nic_rx_linear(frame, r->scratch, &len);
	bool plus = r->cpcr & CP_RX;
	u16 kind;

	if (!data || !(r->cr & CR_RE) || !pci_bus_master(&r->pci))
		return true;
	kind = filter(r, data);
	if (!kind)
		return true;
	/* Longer than a jumbo-less chip takes, or than the length fields hold. */
	if (len + NIC_CRC_LEN > (plus ? D_SIZE : 4096)) {
		r->tally.rx_error++;
		return true;
	}
	return plus ? receive_into_ring(r, data, len, kind & (u16)~S_OK)
		    : receive_into_buffer(r, data, len, kind & (u16)~S_OK);
}

void rtl_rx_resume(struct rtl8139 *r)
{
	if (!r->rx_stalled || !r->net)
		return;
	r->rx_stalled = false;
	net_receive_resume(r->net, 0);
}
