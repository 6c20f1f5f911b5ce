/* A DHCP request as a guest sends it. */
#ifndef UNIT_NET_DHCP_H
#define UNIT_NET_DHCP_H

#include <string.h>

#include "base/endian.h"
#include "net/net.h"

/* DISCOVER from 52:54:00:00:00:01 (RFC 2131) into f, 342 bytes; returns the length. */
static inline u32 dhcp_discover(u8 *f)
{
	static const u8 mac[6] = {0x52, 0x54, 0, 0, 0, 1};
	static const u8 options[] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255};
	u8 *ip = f + 14, *udp = ip + 20, *bootp = udp + 8;
	u32 bootp_len = 300, sum;

	memset(f, 0, 14 + 28 + bootp_len);
	memset(f, 0xff, 6);
	memcpy(f + 6, mac, 6);
	store_be16(f + 12, 0x0800);
	ip[0] = 0x45;
	store_be16(ip + 2, (u16)(28 + bootp_len));
	ip[8] = 64;
	ip[9] = 17;
	store_be32(ip + 16, 0xffffffff);
	sum = net_csum_add(0, ip, 20);
	store_be16(ip + 10, net_csum_fold(sum));
	store_be16(udp, 68);
	store_be16(udp + 2, 67);
	store_be16(udp + 4, (u16)(8 + bootp_len));
	bootp[0] = bootp[1] = 1;
	bootp[2] = 6;
	store_be32(bootp + 4, 0x12345678);
	memcpy(bootp + 28, mac, 6);
	memcpy(bootp + 236, options, sizeof(options));
	return 14 + 28 + bootp_len;
}

#endif
