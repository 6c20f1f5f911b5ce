/* RFC 791, 768, 9293 and 8200, section 8.1, for the checksums. */
#include "hw/nic_int.h"

#include <string.h>

#include "base/endian.h"
#include "base/iov.h"

#define ETHER_HEADER 14
#define TYPE_IPV4    0x0800
#define TYPE_IPV6    0x86dd
#define PROTO_TCP    6
#define PROTO_UDP    17
#define FRAGMENT     0x3fff /* more fragments, or not the first */

const u8 *nic_rx_linear(const struct net_frame *frame, u8 *scratch, u32 *len)
{
	*len = max(frame->len, (u32)NIC_MIN_FRAME);
	if (frame->len > NIC_RX_MAX)
		return NULL;
	if (frame->niov == 1 && frame->len >= NIC_MIN_FRAME)
		return frame->iov[0].iov_base;
	iov_to_buf(frame->iov, frame->niov, 0, scratch, frame->len);
	memset(scratch + frame->len, 0, *len - frame->len);
	return scratch;
}

static void check_l4(const u8 *p, u32 len, u8 protocol, u32 addresses, struct nic_rx_sums *sums)
{
	u32 sum = addresses + protocol + len;

	if (protocol == PROTO_UDP && len >= 8) {
		/* 0: the sender made none. */
		sums->l4_good = !load_be16(p + 6);
		len = min(len, (u32)load_be16(p + 4));
	} else if (protocol != PROTO_TCP || len < 20) {
		return;
	}
	sums->protocol = protocol;
	if (!sums->l4_good)
		sums->l4_good = !net_csum_fold(net_csum_add(sum, p, len));
}

static void check_v4(const u8 *ip, u32 len, struct nic_rx_sums *sums)
{
	u32 header = (ip[0] & 15) * 4u, total = load_be16(ip + 2);

	if (ip[0] >> 4 != 4 || header < 20 || header > len)
		return;
	sums->v4 = true;
	sums->v4_good = !net_csum_fold(net_csum_add(0, ip, header));
	if (!sums->v4_good || total < header || total > len || (load_be16(ip + 6) & FRAGMENT))
		return;
	check_l4(ip + header, total - header, ip[9], net_csum_add(0, ip + 12, 8), sums);
}

static void check_v6(const u8 *ip, u32 len, struct nic_rx_sums *sums)
{
	u32 payload = load_be16(ip + 4);

	if (ip[0] >> 4 != 6 || len < 40 || payload > len - 40)
		return;
	check_l4(ip + 40, payload, ip[6], net_csum_add(0, ip + 8, 32), sums);
}

void nic_rx_check(const u8 *frame, u32 len, struct nic_rx_sums *sums)
{
	*sums = (struct nic_rx_sums){.protocol = 0};
	if (len < ETHER_HEADER + 20)
		return;
	if (load_be16(frame + 12) == TYPE_IPV4)
		check_v4(frame + ETHER_HEADER, len - ETHER_HEADER, sums);
	else if (load_be16(frame + 12) == TYPE_IPV6)
		check_v6(frame + ETHER_HEADER, len - ETHER_HEADER, sums);
}
