/* Checks of offload headers and the checksum that they leave to do. RFC 1071. */
#include <string.h>

#include "base/endian.h"
#include "net/net.h"

static u32 gso_needs(u8 type)
{
	switch (type) {
	case NET_GSO_TCPV4:
		return NET_TSO4;
	case NET_GSO_TCPV6:
		return NET_TSO6;
	case NET_GSO_UDP_L4:
		return NET_USO;
	default:
		return 0;
	}
}

static bool gso_check(const struct net_offload *o, u32 len, u32 allowed)
{
	u8 type = o->gso_type & (u8)~NET_GSO_ECN;
	bool ecn = o->gso_type & NET_GSO_ECN;
	u32 needs = gso_needs(type);

	if (o->gso_type == NET_GSO_NONE)
		return true;
	if (!needs || !(allowed & needs) || !o->gso_size || !(o->flags & NET_HDR_NEEDS_CSUM))
		return false;
	if (ecn && (!(allowed & NET_ECN) || type == NET_GSO_UDP_L4))
		return false;
	/* hdr_len is a hint and may be 0 (section 5.1.6.2.1); past the end it is nonsense. */
	return o->hdr_len <= len;
}

bool net_offload_check(const struct net_offload *o, u32 len, u32 allowed)
{
	if (o->flags & NET_HDR_NEEDS_CSUM) {
		if (!(allowed & NET_CSUM))
			return false;
		if ((u32)o->csum_start + o->csum_offset + 2 > len)
			return false;
	}
	return gso_check(o, len, allowed);
}

u32 net_csum_add(u32 sum, const void *data, size_t len)
{
	const u8 *p = data;
	u64 wide = sum;

	for (; len >= 2; len -= 2, p += 2)
		wide += load_be16(p);
	if (len)
		wide += (u32)*p << 8;
	while (wide >> 32)
		wide = (u32)wide + (wide >> 32);
	return (u32)wide;
}

u16 net_csum_fold(u32 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

void net_offload_finish_csum(struct net_offload *o, u8 *frame, u32 len)
{
	u8 *field = frame + o->csum_start + o->csum_offset;
	u16 sum;

	if (!(o->flags & NET_HDR_NEEDS_CSUM))
		return;
	/* The field is inside the sum on purpose: it holds the pseudo header's. */
	sum = net_csum_fold(net_csum_add(0, frame + o->csum_start, len - o->csum_start));
	/* 0 means "no checksum" for UDP; 0xffff is the same number. */
	store_be16(field, sum ? sum : 0xffff);
	o->flags &= (u8)~NET_HDR_NEEDS_CSUM;
}
