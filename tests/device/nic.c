#include "device/nic.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"

const u8 nic_mac[6] = {0x52, 0x54, 0x00, 0x11, 0x22, 0x33};
const u8 nic_far_mac[6] = {0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc};

static u32 far_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct nic_link *l = ctx;
	u32 taken = min(n, l->room);

	for (u32 i = 0; i < taken; i++) {
		struct nic_far_frame *f = &l->frames[l->received % NIC_FRAMES];

		f->len = frames[i].len;
		f->offload = frames[i].offload;
		iov_to_buf(frames[i].iov, frames[i].niov, 0, f->data, frames[i].len);
		l->received++;
	}
	l->room -= taken;
	return taken;
}

void nic_link_open(struct nic_link *l, struct harness *h, u32 caps)
{
	const struct net_client client = {.ctx = l, .receive = far_receive};
	struct net *ends[2];

	*l = (struct nic_link){.room = 1000000};
	l->frames = calloc(NIC_FRAMES, sizeof(*l->frames));
	assert_non_null(l->frames);
	assert_int_equal(net_loopback_new(ends, h->loop, 1, caps), 0);
	l->near = ends[0];
	l->far = ends[1];
	net_set_client(l->far, &client);
	net_set_receive_offloads(l->far, caps);
}

void nic_link_close(struct nic_link *l, struct harness *h)
{
	net_stop(l->near);
	net_stop(l->far);
	bus_lock(h->bus);
	devices_free(h->bus);
	bus_unlock(h->bus);
	net_close(l->near);
	net_close(l->far);
	free(l->frames);
}

bool nic_link_send(struct nic_link *l, struct harness *h, const void *data, u32 len)
{
	struct iovec iov = {(void *)(uintptr_t)data, len};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = len};
	u32 n = net_send(l->far, 0, &frame, 1);

	harness_settle(h);
	return n;
}

const struct nic_far_frame *nic_link_frame(struct nic_link *l, u32 n)
{
	assert_true(n < l->received && n + NIC_FRAMES >= l->received);
	return &l->frames[n % NIC_FRAMES];
}

void nic_make_frame(u8 *frame, const u8 *dst, u16 type, u32 len, u32 seed)
{
	memcpy(frame, dst, 6);
	memcpy(frame + 6, nic_far_mac, 6);
	store_be16(frame + 12, type);
	for (u32 i = 14; i < len; i++)
		frame[i] = (u8)(i * 13 + seed);
}

/* RFC 1071 in its plainest form. */
static u32 add(u32 sum, const u8 *p, u32 len)
{
	for (u32 i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (u32)p[i] << 8;
	return sum;
}

static u16 fold(u32 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

static u32 pseudo(const u8 *ip, bool v6, u8 protocol, u32 len)
{
	return (v6 ? add(0, ip + 8, 32) : add(0, ip + 12, 8)) + protocol + len;
}

u32 nic_make_packet(u8 *frame, const u8 *dst, bool v6, u8 protocol, u32 payload, bool good)
{
	u32 ip_len = v6 ? 40 : 20, l4_header = protocol == 6 ? 20 : 8, l4_len = l4_header + payload;
	u8 *ip = frame + 14, *l4 = ip + ip_len;

	nic_make_frame(frame, dst, v6 ? 0x86dd : 0x0800, 14 + ip_len + l4_len, payload);
	memset(ip, 0, ip_len + l4_header);
	if (v6) {
		ip[0] = 0x60;
		store_be16(ip + 4, (u16)l4_len);
		ip[6] = protocol;
		ip[8] = 0xfe;
		ip[24] = 0xfe;
	} else {
		ip[0] = 0x45;
		store_be16(ip + 2, (u16)(20 + l4_len));
		store_be16(ip + 4, 0x1234);
		ip[9] = protocol;
		store_be32(ip + 12, 0x0a000001);
		store_be32(ip + 16, 0x0a000002);
		store_be16(ip + 10, fold(add(0, ip, 20)));
	}
	store_be32(l4, 0x04d20050);
	if (protocol == 6) {
		store_be32(l4 + 4, 1000);
		l4[12] = 0x50;
		l4[13] = 0x18;
	} else {
		store_be16(l4 + 4, (u16)l4_len);
	}
	store_be16(l4 + (protocol == 6 ? 16 : 6),
		   (u16)(fold(pseudo(ip, v6, protocol, l4_len) + add(0, l4, l4_len)) ^ !good));
	return 14 + ip_len + l4_len;
}

bool nic_packet_good(const u8 *frame, u32 len)
{
	const u8 *ip = frame + 14;
	bool v6 = load_be16(frame + 12) == 0x86dd;
	u32 ip_len = v6 ? 40 : (ip[0] & 15) * 4u, l4_len;

	l4_len = v6 ? load_be16(ip + 4) : load_be16(ip + 2) - ip_len;
	if (14 + ip_len + l4_len > len || (!v6 && fold(add(0, ip, ip_len))))
		return false;
	return !fold(pseudo(ip, v6, v6 ? ip[6] : ip[9], l4_len) + add(0, ip + ip_len, l4_len));
}
