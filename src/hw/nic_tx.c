/*
 * Invariants:
 * 1. tx->len <= NIC_TX_MAX while gathering; a tag adds NIC_VLAN_LEN.
 * 2. Every position in work has been checked against len before it is used, so what the guest
 *    wrote cannot point outside of the frame; a request that makes no sense is not carried out.
 *
 * RFC 791, 8200 and 9293 for the headers that segmentation rewrites.
 */
#include "hw/nic_int.h"

#include <string.h>

#include "base/endian.h"

#define MAC_BYTES   (2 * NIC_MAC_LEN)
#define MSS_MIN	    32 /* smaller ones only keep the host busy */
#define TCP_HEADER  20
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define PROTO_TCP   6
#define VLAN_TYPE   0x8100

enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

u8 *nic_tx_room(struct nic_tx *tx, u32 len)
{
	u8 *p = tx->buf + tx->len;

	if (tx->too_long || len > NIC_TX_MAX - tx->len) {
		tx->too_long = true;
		return NULL;
	}
	tx->len += len;
	return p;
}

void nic_tx_clear(struct nic_tx *tx)
{
	tx->len = 0;
	tx->too_long = tx->busy = tx->segmenting = false;
}

/* ---- the parts of the work ---- */

static void insert_vlan(struct nic_tx *tx, struct nic_offload *o)
{
	if (!o->vlan || tx->len < MAC_BYTES)
		return;
	memmove(tx->buf + MAC_BYTES + NIC_VLAN_LEN, tx->buf + MAC_BYTES, tx->len - MAC_BYTES);
	store_be16(tx->buf + MAC_BYTES, VLAN_TYPE);
	store_be16(tx->buf + MAC_BYTES + 2, o->vlan_tag);
	tx->len += NIC_VLAN_LEN;
	o->ip_start += NIC_VLAN_LEN;
	o->ip_csum_at += NIC_VLAN_LEN;
	o->ip_end += o->ip_end ? NIC_VLAN_LEN : 0;
	o->l4_start += NIC_VLAN_LEN;
	o->l4_csum_at += NIC_VLAN_LEN;
	o->header_len += NIC_VLAN_LEN;
}

static void finish_ip(u8 *frame, u32 len, const struct nic_offload *o)
{
	u32 end = o->ip_end && o->ip_end < len ? o->ip_end : len;

	if (!o->ip_csum || o->ip_start >= end || o->ip_csum_at + 2u > len)
		return;
	store_be16(frame + o->ip_csum_at, 0);
	store_be16(frame + o->ip_csum_at,
		   net_csum_fold(net_csum_add(0, frame + o->ip_start, end - o->ip_start)));
}

/* Addresses, protocol and length, as both TCP checksums begin. */
static u32 pseudo_sum(const u8 *ip, bool v6, u32 l4_len)
{
	u32 sum = v6 ? net_csum_add(0, ip + 8, 32) : net_csum_add(0, ip + 12, 8);

	return sum + PROTO_TCP + (l4_len >> 16) + (l4_len & 0xffff);
}

static bool can_segment(const struct nic_tx *tx, const struct nic_offload *o)
{
	u32 ip_len = o->v6 ? IPV6_HEADER : IPV4_HEADER;

	return o->segment && o->mss >= MSS_MIN && o->header_len <= NIC_HEADER_MAX &&
	       o->header_len < tx->len && o->ip_start + ip_len <= o->l4_start &&
	       o->l4_start + (u32)TCP_HEADER <= o->header_len && o->ip_start >= MAC_BYTES;
}

u32 nic_tx_frames(const struct nic_tx *tx, const struct nic_offload *o)
{
	return can_segment(tx, o) ? (tx->len - o->header_len + o->mss - 1) / o->mss : 1;
}

static void set_ip_length(u8 *ip, const struct nic_offload *o, u32 frame_len, u16 part)
{
	u32 len = frame_len - o->ip_start;

	if (o->v6) {
		store_be16(ip + 4, (u16)(len - IPV6_HEADER));
		return;
	}
	store_be16(ip + 2, (u16)len);
	store_be16(ip + 4, (u16)(load_be16(ip + 4) + part));
	store_be16(ip + 10, 0);
	store_be16(ip + 10,
		   net_csum_fold(net_csum_add(0, ip, (size_t)(o->l4_start - o->ip_start))));
}

/* Leave the cutting to the link, if it can. */
static bool pass_on_segmentation(struct nic_tx *tx, const struct nic_offload *o)
{
	u32 need = NET_CSUM | (o->v6 ? NET_TSO6 : NET_TSO4);
	u8 *ip = tx->buf + o->ip_start, *tcp = tx->buf + o->l4_start;
	bool cwr = tcp[13] & TCP_CWR;
	u32 l4_len = tx->len - o->l4_start;

	if (cwr)
		need |= NET_ECN;
	if ((net_caps(tx->net) & need) != need || tx->len - o->ip_start > 0xffff)
		return false;
	set_ip_length(ip, o, tx->len, 0);
	store_be16(tcp + 16, (u16)~net_csum_fold(pseudo_sum(ip, o->v6, l4_len)));
	tx->left = (struct net_offload){
		.flags = NET_HDR_NEEDS_CSUM,
		.gso_type = (u8)((o->v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4) | (cwr ? NET_GSO_ECN : 0)),
		.hdr_len = o->header_len,
		.gso_size = o->mss,
		.csum_start = o->l4_start,
		.csum_offset = 16,
	};
	return true;
}

static void finish_l4(struct nic_tx *tx, const struct nic_offload *o)
{
	if (!o->l4_csum || o->l4_csum_at < o->l4_start || o->l4_csum_at + 2u > tx->len)
		return;
	tx->left = (struct net_offload){
		.flags = NET_HDR_NEEDS_CSUM,
		.csum_start = o->l4_start,
		.csum_offset = (u16)(o->l4_csum_at - o->l4_start),
	};
	if (!(net_caps(tx->net) & NET_CSUM))
		net_offload_finish_csum(&tx->left, tx->buf, tx->len);
}

/* ---- cutting ---- */

/* The header of the segment whose payload is [at, at + len). */
static void make_header(const struct nic_tx *tx, u8 *header, u32 len)
{
	const struct nic_offload *o = &tx->work;
	u8 *ip = header + o->ip_start, *tcp = header + o->l4_start;
	u32 l4_len = o->header_len - o->l4_start + len, sum;
	bool last = tx->at + len == tx->len;

	memcpy(header, tx->buf, o->header_len);
	set_ip_length(ip, o, o->header_len + len, tx->part);
	store_be32(tcp + 4, load_be32(tcp + 4) + tx->at - o->header_len);
	if (!last)
		tcp[13] &= ~(TCP_FIN | TCP_PSH);
	if (tx->part)
		tcp[13] &= ~TCP_CWR;
	store_be16(tcp + 16, 0);
	sum = pseudo_sum(ip, o->v6, l4_len);
	/* A TCP header is a multiple of four bytes, so the parts of the sum line up. */
	sum = net_csum_add(sum, tcp, (size_t)(o->header_len - o->l4_start));
	sum = net_csum_add(sum, tx->buf + tx->at, len);
	store_be16(tcp + 16, net_csum_fold(sum));
}

static bool send_segments(struct nic_tx *tx)
{
	const struct nic_offload *o = &tx->work;
	u8 header[NIC_HEADER_MAX];

	while (tx->at < tx->len) {
		u32 len = min((u32)o->mss, tx->len - tx->at);
		struct iovec iov[2] = {{header, o->header_len}, {tx->buf + tx->at, len}};
		struct net_frame frame = {.iov = iov, .niov = 2, .len = o->header_len + len};

		make_header(tx, header, len);
		if (!net_send(tx->net, 0, &frame, 1))
			return false;
		tx->at += len;
		tx->part++;
	}
	return true;
}

static bool send_whole(struct nic_tx *tx)
{
	struct iovec iov = {tx->buf, tx->len};
	struct net_frame frame = {.offload = tx->left, .iov = &iov, .niov = 1, .len = tx->len};

	return net_send(tx->net, 0, &frame, 1);
}

bool nic_tx_resume(struct nic_tx *tx)
{
	if (!tx->busy)
		return true;
	if (!(tx->segmenting ? send_segments(tx) : send_whole(tx)))
		return false;
	nic_tx_clear(tx);
	return true;
}

bool nic_tx_send(struct nic_tx *tx, const struct nic_offload *offload)
{
	if (tx->too_long || tx->len < NET_MIN_FRAME || !tx->net) {
		nic_tx_clear(tx);
		return true;
	}
	tx->bytes += tx->len;
	tx->work = *offload;
	tx->left = (struct net_offload){.flags = 0};
	insert_vlan(tx, &tx->work);
	tx->busy = true;
	if (can_segment(tx, &tx->work)) {
		tx->segmenting = !pass_on_segmentation(tx, &tx->work);
		tx->at = tx->work.header_len;
		tx->part = 0;
	} else {
		finish_ip(tx->buf, tx->len, &tx->work);
		finish_l4(tx, &tx->work);
	}
	return nic_tx_resume(tx);
}
