/*
 * Invariants:
 * 1. A session's socket is connected: the kernel drops what others send.
 * 2. Frames that are no good, and fragments, are dropped, as a host would drop them in time.
 *
 * RFC 768, 791, 826, 1071.
 */
#include "net/user_udp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/file.h"

#define MAX_FORWARDS 16
#define BURST	     16 /* datagrams of one socket before the others */
#define ETH	     14
#define IP	     20
#define UDP	     8
#define DATA_MAX     (65535 - IP - UDP)
#define PROTO_UDP    17

struct forward {
	u32 addr; /* host byte order */
	u16 port;
	struct sock_addr to[SOCK_MAX_ADDRS];
	unsigned int addrs;
};

struct session {
	int fd;	  /* -1: free */
	int poll; /* place in this turn's poll set, or -1 */
	const struct forward *forward;
	u8 mac[6];
	u32 guest;
	u16 port;
	u64 used; /* a count that grows with each datagram */
};

struct user_udp {
	u32 mtu;
	void (*deliver)(void *ctx, const u8 *data, u32 len);
	void *ctx;
	struct forward forward[MAX_FORWARDS];
	unsigned int forwards;
	struct session session[UDP_SESSIONS];
	u64 now;
	u16 ident;
	u8 datagram[UDP + DATA_MAX], frame[ETH + 65535];
};

int user_udp_new(struct user_udp **out, u32 mtu,
		 void (*deliver)(void *ctx, const u8 *data, u32 len), void *ctx)
{
	struct user_udp *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->mtu = mtu;
	u->deliver = deliver;
	u->ctx = ctx;
	for (int i = 0; i < UDP_SESSIONS; i++)
		u->session[i].fd = -1;
	*out = u;
	return 0;
}

void user_udp_free(struct user_udp *u)
{
	if (!u)
		return;
	for (int i = 0; i < UDP_SESSIONS; i++)
		fd_close(&u->session[i].fd);
	free(u);
}

static const struct forward *lookup(const struct user_udp *u, u32 addr, u16 port)
{
	for (unsigned int i = 0; i < u->forwards; i++)
		if (u->forward[i].addr == addr && u->forward[i].port == port)
			return &u->forward[i];
	return NULL;
}

int user_udp_add(struct user_udp *u, const struct sockaddr_in *at, const struct sock_addr *to,
		 unsigned int n)
{
	struct forward *f = &u->forward[u->forwards];

	if (u->forwards == MAX_FORWARDS)
		return -E2BIG;
	if (lookup(u, ntohl(at->sin_addr.s_addr), ntohs(at->sin_port)))
		return -EEXIST;
	f->addr = ntohl(at->sin_addr.s_addr);
	f->port = ntohs(at->sin_port);
	f->addrs = min(n, (unsigned int)SOCK_MAX_ADDRS);
	memcpy(f->to, to, f->addrs * sizeof(*to));
	u->forwards++;
	return 0;
}

/* ---- sessions ---- */

static int connect_session(const struct forward *f)
{
	for (unsigned int i = 0; i < f->addrs; i++) {
		int fd = sock_new(&f->to[i], SOCK_DGRAM);

		if (fd >= 0 && !connect(fd, &f->to[i].any, f->to[i].len))
			return fd;
		if (fd >= 0)
			fd_close(&fd);
	}
	return -1;
}

/* The guest's port's, or the one that is to make room for it. */
static struct session *session_of(struct user_udp *u, const struct forward *f, u32 guest, u16 port)
{
	struct session *oldest = &u->session[0];

	for (int i = 0; i < UDP_SESSIONS; i++) {
		struct session *s = &u->session[i];

		if (s->fd >= 0 && s->forward == f && s->guest == guest && s->port == port)
			return s;
		if (s->fd < 0 || (oldest->fd >= 0 && s->used < oldest->used))
			oldest = s;
	}
	fd_close(&oldest->fd);
	*oldest = (struct session){
		.fd = connect_session(f), .poll = -1, .forward = f, .guest = guest, .port = port};
	return oldest->fd < 0 ? NULL : oldest;
}

/* ---- from the guest ---- */

static void make_mac(u8 *mac, u32 addr)
{
	mac[0] = 0x52; /* as libslirp's */
	mac[1] = 0x55;
	store_be32(mac + 2, addr);
}

static bool has_address(const struct user_udp *u, u32 addr)
{
	for (unsigned int i = 0; i < u->forwards; i++)
		if (u->forward[i].addr == addr)
			return true;
	return false;
}

/* Who has our address? The stack sees the question, too, and learns who asks. */
static void answer_arp(struct user_udp *u, const u8 *frame, u32 len)
{
	static const u8 ask[] = {0, 1, 8, 0, 6, 4, 0, 1};
	u8 f[ETH + 28];

	if (len < sizeof(f) || memcmp(frame + ETH, ask, sizeof(ask)) ||
	    !has_address(u, load_be32(frame + 38)))
		return;
	memcpy(f, frame + 6, 6);
	make_mac(f + 6, load_be32(frame + 38));
	memcpy(f + 12, frame + 12, 2 + sizeof(ask));
	f[21] = 2;
	memcpy(f + 22, f + 6, 6);
	memcpy(f + 28, frame + 38, 4);
	memcpy(f + 32, frame + 22, 10);
	u->deliver(u->ctx, f, sizeof(f));
}

/* The sum over the pseudo header and a datagram; 0 for a good one. */
static u16 udp_sum(const u8 *ip, const u8 *udp, u32 len)
{
	return net_csum_fold(net_csum_add(net_csum_add(PROTO_UDP + len, ip + 12, 8), udp, len));
}

static void take_datagram(struct user_udp *u, const struct forward *f, const u8 *frame,
			  const u8 *udp, u32 len)
{
	const u8 *ip = frame + ETH;
	struct session *s;

	if (len < UDP || load_be16(udp + 4) < UDP || load_be16(udp + 4) > len)
		return;
	len = load_be16(udp + 4);
	if (load_be16(udp + 6) && udp_sum(ip, udp, len))
		return;
	s = session_of(u, f, load_be32(ip + 12), load_be16(udp));
	if (!s)
		return;
	memcpy(s->mac, frame + 6, 6);
	s->used = ++u->now;
	/* What does not get out is lost, as datagrams are. */
	send(s->fd, udp + UDP, len - UDP, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool user_udp_input(struct user_udp *u, const u8 *frame, u32 len)
{
	const u8 *ip = frame + ETH;
	const struct forward *f;
	u32 header, total;

	if (len >= ETH && load_be16(frame + 12) == 0x0806)
		answer_arp(u, frame, len);
	if (len < ETH + IP || load_be16(frame + 12) != 0x0800 || ip[0] >> 4 != 4 ||
	    ip[9] != PROTO_UDP)
		return false;
	header = (ip[0] & 15) * 4u;
	total = load_be16(ip + 2);
	if (header < IP || total < header + UDP || total > len - ETH || load_be16(ip + 6) & 0x3fff)
		return false;
	f = lookup(u, load_be32(ip + 16), load_be16(ip + header + 2));
	if (f)
		take_datagram(u, f, frame, ip + header, total - header);
	return f;
}

/* ---- to the guest ---- */

/* u->datagram goes in as many packets as the link's MTU makes of it. */
static void deliver_datagram(struct user_udp *u, const struct session *s, u32 len)
{
	u8 *ip = u->frame + ETH;
	u32 most = (u->mtu - IP) & ~7u, part;

	memcpy(u->frame, s->mac, 6);
	make_mac(u->frame + 6, s->forward->addr);
	store_be16(u->frame + 12, 0x0800);
	memset(ip, 0, IP);
	ip[0] = 0x45;
	ip[8] = 64;
	ip[9] = PROTO_UDP;
	store_be16(ip + 4, ++u->ident);
	store_be32(ip + 12, s->forward->addr);
	store_be32(ip + 16, s->guest);
	store_be16(u->datagram, s->forward->port);
	store_be16(u->datagram + 2, s->port);
	store_be16(u->datagram + 4, (u16)len);
	store_be16(u->datagram + 6, 0);
	part = udp_sum(ip, u->datagram, len);
	store_be16(u->datagram + 6, part ? (u16)part : 0xffff);
	for (u32 at = 0; at < len; at += part) {
		part = len - at <= u->mtu - IP ? len - at : most;
		store_be16(ip + 2, (u16)(IP + part));
		store_be16(ip + 6, (u16)(at / 8 | (at + part < len ? 0x2000 : 0)));
		store_be16(ip + 10, 0);
		store_be16(ip + 10, net_csum_fold(net_csum_add(0, ip, IP)));
		memcpy(ip + IP, u->datagram + at, part);
		u->deliver(u->ctx, u->frame, ETH + IP + part);
	}
}

static void receive(struct user_udp *u, struct session *s)
{
	for (int i = 0; i < BURST; i++) {
		ssize_t n = recv(s->fd, u->datagram + UDP, DATA_MAX, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		/* Other errors tell of an earlier datagram that found nobody. */
		if (n < 0)
			continue;
		s->used = ++u->now;
		deliver_datagram(u, s, (u32)n + UDP);
	}
}

void user_udp_fill(struct user_udp *u, SlirpAddPollCb add, void *opaque)
{
	for (int i = 0; i < UDP_SESSIONS; i++)
		if (u->session[i].fd >= 0)
			u->session[i].poll = add(u->session[i].fd, SLIRP_POLL_IN, opaque);
}

void user_udp_receive(struct user_udp *u, SlirpGetREventsCb get, void *opaque)
{
	for (int i = 0; i < UDP_SESSIONS; i++) {
		struct session *s = &u->session[i];

		if (s->fd >= 0 && s->poll >= 0 && get(s->poll, opaque))
			receive(u, s);
	}
}
