/* The user-mode back end against libslirp itself. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/loop.h"

#include "dhcp.h"

/* A guest of one buffer; its callbacks run on the link's thread. */
struct guest {
	u32 room, received, sendables;
	u32 udp; /* packets */
	u32 tcp; /* packets, and the flags of the last */
	u8 tcp_flags;
	u8 last[2048];
	u32 last_len;
};

static u32 on_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct guest *g = ctx;
	u32 taken = 0;

	for (; taken < n && __atomic_load_n(&g->room, __ATOMIC_ACQUIRE); taken++) {
		g->last_len = min(frames[taken].len, (u32)sizeof(g->last));
		memcpy(g->last, frames[taken].iov[0].iov_base, g->last_len);
		if (g->last_len >= 54 && load_be16(g->last + 12) == 0x0800 && g->last[23] == 6) {
			g->tcp_flags = g->last[47];
			__atomic_fetch_add(&g->tcp, 1, __ATOMIC_RELEASE);
		}
		if (g->last_len >= 42 && load_be16(g->last + 12) == 0x0800 && g->last[23] == 17)
			__atomic_fetch_add(&g->udp, 1, __ATOMIC_RELEASE);
		__atomic_fetch_sub(&g->room, 1, __ATOMIC_ACQ_REL);
		__atomic_fetch_add(&g->received, 1, __ATOMIC_RELEASE);
	}
	return taken;
}

static void on_sendable(void *ctx, unsigned int pair)
{
	__atomic_fetch_add(&((struct guest *)ctx)->sendables, 1, __ATOMIC_RELEASE);
}

static bool wait_for(u32 *counter, u32 value)
{
	for (int i = 0; i < 2000; i++) {
		if (__atomic_load_n(counter, __ATOMIC_ACQUIRE) >= value)
			return true;
		usleep(1000);
	}
	return false;
}

static struct loop *loop;

static struct net *open_link(const char *spec, struct guest *g)
{
	const struct net_client client = {.ctx = g, .receive = on_receive, .sendable = on_sendable};
	struct net_card card;
	struct net *net;
	struct err err;
	int rc = net_open(&net, loop, spec, &card, &err);

	if (rc)
		print_message("%s: %s\n", spec, err.text);
	assert_int_equal(rc, 0);
	opt_free(net_card_table, &card);
	net_set_client(net, &client);
	return net;
}

static struct err refuse(const char *spec)
{
	struct net_card card;
	struct net *net;
	struct err err = {{0}};

	assert_int_not_equal(net_open(&net, loop, spec, &card, &err), 0);
	return err;
}

static u32 send_frame(struct net *net, const void *data, u32 len)
{
	struct iovec iov = {(void *)(uintptr_t)data, len};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = len};

	return net_send(net, 0, &frame, 1);
}

static void dhcp_offers(void **state)
{
	struct guest g = {.room = 8};
	struct net *net = open_link("user,net=192.168.77.0/24,ipv6=off", &g);
	u8 f[512];
	u32 len = dhcp_discover(f);

	assert_int_equal(send_frame(net, f, len), 1);
	assert_true(wait_for(&g.received, 1));
	assert_int_equal(load_be16(g.last + 12), 0x0800);
	assert_int_equal(load_be32(g.last + 14 + 12), 0xc0a84d02); /* from .2 */
	assert_int_equal(load_be32(g.last + 42 + 16), 0xc0a84d0f); /* yiaddr .15 */
	assert_int_equal(load_be32(g.last + 42 + 4), 0x12345678);
	net_close(net);
}

/* A frame that finds no buffer waits, and comes when the guest has one. */
static void waits_for_buffers(void **state)
{
	struct guest g = {.room = 0};
	struct net *net = open_link("user,ipv6=off", &g);
	u8 f[512];
	u32 len = dhcp_discover(f);

	for (int i = 0; i < 3; i++)
		send_frame(net, f, len);
	usleep(100000);
	assert_int_equal(g.received, 0);
	__atomic_store_n(&g.room, 1, __ATOMIC_RELEASE);
	net_receive_resume(net, 0);
	assert_true(wait_for(&g.received, 1));
	usleep(50000);
	assert_int_equal(g.received, 1);
	__atomic_store_n(&g.room, 9, __ATOMIC_RELEASE);
	net_receive_resume(net, 0);
	assert_true(wait_for(&g.received, 3));
	net_stop(net);
	net_close(net);
}

/* A guest that sends faster than the stack takes is told to wait, and told to go on. */
static void slows_the_sender(void **state)
{
	struct guest g = {.room = ~0u / 2};
	struct net *net = open_link("user,ipv6=off", &g);
	u8 f[512];
	u32 len = dhcp_discover(f), sent = 0, refused = 0, want = 0;

	while (sent < 20000) {
		if (send_frame(net, f, len)) {
			sent++;
			continue;
		}
		refused++;
		want++;
		assert_true(wait_for(&g.sendables, want));
	}
	assert_true(refused > 0);
	net_close(net);
}

static int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	bind(fd, (struct sockaddr *)&a, sizeof(a));
	getsockname(fd, (struct sockaddr *)&a, &len);
	close(fd);
	return ntohs(a.sin_port);
}

/* A connection to the forwarded port makes the stack look for the guest. */
static void forwards_ports(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct guest g = {.room = 100};
	struct net *net;
	int port = free_port(), fd;
	char spec[128];

	snprintf(spec, sizeof(spec), "user,ipv6=off,hostfwd=tcp:127.0.0.1:%d-:22", port);
	net = open_link(spec, &g);
	a.sin_port = htons((u16)port);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_true(wait_for(&g.received, 1));
	/* ARP: who has 10.0.2.15? */
	assert_int_equal(load_be16(g.last + 12), 0x0806);
	assert_int_equal(load_be32(g.last + 14 + 24), 0x0a00020f);
	close(fd);
	net_close(net);
}

/* The same from a UNIX socket. */
static void forwards_a_socket(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct guest g = {.room = 100};
	struct net *net;
	char spec[160];
	int fd;

	snprintf(a.sun_path, sizeof(a.sun_path), "/tmp/test-user-%d.sock", (int)getpid());
	unlink(a.sun_path);
	snprintf(spec, sizeof(spec), "user,ipv6=off,hostfwd=unix:%s-:22", a.sun_path);
	net = open_link(spec, &g);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_true(wait_for(&g.received, 1));
	assert_int_equal(load_be16(g.last + 12), 0x0806);
	close(fd);
	net_close(net);
	assert_int_not_equal(access(a.sun_path, F_OK), 0);
	/* What somebody left who was killed is replaced, what is in use is not. */
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	net = open_link(spec, &g);
	assert_non_null(strstr(refuse(spec).text, "in use"));
	assert_int_equal(access(a.sun_path, F_OK), 0);
	net_close(net);
}

static const u8 guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

/* Tell the stack who 10.0.2.15 is, by asking for 10.0.2.HOST. */
static void send_arp(struct net *net, u8 host)
{
	u8 f[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	memcpy(f + 6, guest_mac, 6);
	memcpy(f + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);
	memcpy(f + 22, guest_mac, 6);
	store_be32(f + 28, 0x0a00020f);
	store_be32(f + 38, 0x0a000200 | host);
	assert_true(send_frame(net, f, sizeof(f)));
}

/* TCP to 10.0.2.HOST; the sequence begins at 0. */
static void send_tcp(struct net *net, u8 host, u16 port, u8 flags, u32 ack)
{
	u8 f[60] = {0x52, 0x55, 10, 0, 2, host}, *ip = f + 14, *tcp = f + 34;
	u32 sum;

	memcpy(f + 6, guest_mac, 6);
	store_be16(f + 12, 0x0800);
	memcpy(ip, "\x45\x00\x00\x28\x00\x01\x00\x00\x40\x06\x00\x00", 12);
	store_be32(ip + 12, 0x0a00020f);
	store_be32(ip + 16, 0x0a000200 | host);
	store_be16(ip + 10, net_csum_fold(net_csum_add(0, ip, 20)));
	store_be16(tcp, 40000);
	store_be16(tcp + 2, port);
	tcp[12] = 0x50;
	tcp[13] = flags;
	store_be32(tcp + 4, flags & 0x02 ? 0 : 1);
	store_be32(tcp + 8, ack);
	store_be16(tcp + 14, 8192);
	sum = net_csum_add(6 + 20, ip + 12, 8);
	store_be16(tcp + 16, net_csum_fold(net_csum_add(sum, tcp, 20)));
	assert_true(send_frame(net, f, 54));
}

/* Connect to a server on the host's loop-back address. */
static void knock(const char *spec, struct guest *g, bool answered)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct net *net = open_link(spec, g);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	u8 f[512];

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	send_arp(net, 2);
	assert_true(wait_for(&g->received, 1));
	send_tcp(net, 2, ntohs(a.sin_port), 0x02, 0);
	if (answered) {
		assert_true(wait_for(&g->tcp, 1));
		assert_int_equal(g->tcp_flags & 0x3f, 0x12); /* SYN and ACK */
	} else {
		/* What comes after it is answered, it is not, and nobody came to the server. */
		u32 before = g->received;

		assert_true(send_frame(net, f, dhcp_discover(f)));
		assert_true(wait_for(&g->received, before + 1));
		assert_false(g->tcp && (g->tcp_flags & 0x12) == 0x12);
		assert_int_equal(poll(&p, 1, 0), 0);
	}
	net_close(net);
	close(fd);
}

static void hides_the_host(void **state)
{
	struct guest g[4] = {{.room = 100}, {.room = 100}, {.room = 100}, {.room = 100}};

	knock("user,ipv6=off,host-loopback=on", &g[0], true);
	knock("user,ipv6=off", &g[1], false);
	knock("user,ipv6=off,restrict=on", &g[2], false);
	knock("user,ipv6=off,restrict=on,host-loopback=on", &g[3], false);
}

/* The headers of a SYN or of an empty datagram to `port`, after the addresses; the length. */
static u32 make_layer_4(u8 *p, u8 protocol, u16 port, u32 addresses)
{
	u32 len = protocol == 6 ? 20 : 8;

	memset(p, 0, len);
	store_be16(p, 40000);
	store_be16(p + 2, port);
	if (protocol == 6)
		memcpy(p + 12, "\x50\x02\x20\x00", 4);
	else
		store_be16(p + 4, (u16)len);
	store_be16(p + (protocol == 6 ? 16 : 6),
		   net_csum_fold(net_csum_add(addresses + protocol + len, p, len)));
	return len;
}

/* To an address of IPv4 or, with colons, of IPv6, without a care for what lies on this network. */
static void send_to(struct net *net, const char *address, u8 protocol, u16 port)
{
	u8 f[128] = {0x52, 0x55, 10, 0, 2, 2}, *ip = f + 14;
	bool v6 = strchr(address, ':');
	u32 header = v6 ? 40 : 20, len;

	memcpy(f + 6, guest_mac, 6);
	store_be16(f + 12, v6 ? 0x86dd : 0x0800);
	assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, address, ip + (v6 ? 24 : 16)), 1);
	if (v6) {
		inet_pton(AF_INET6, "fec0::15", ip + 8);
		len = make_layer_4(ip + 40, protocol, port, net_csum_add(0, ip + 8, 32));
		memcpy(ip, "\x60\x00\x00\x00", 4);
		store_be16(ip + 4, (u16)len);
		ip[6] = protocol;
		ip[7] = 64;
	} else {
		store_be32(ip + 12, 0x0a00020f);
		len = make_layer_4(ip + 20, protocol, port, net_csum_add(0, ip + 12, 8));
		memcpy(ip, "\x45\x00\x00\x00\x00\x01\x00\x00\x40", 9);
		ip[9] = protocol;
		store_be16(ip + 2, (u16)(20 + len));
		store_be16(ip + 10, net_csum_fold(net_csum_add(0, ip, 20)));
	}
	assert_true(send_frame(net, f, 14 + header + len));
}

/* Servers of the host, by TCP and UDP, on every address. */
static void open_servers(int fd[2], u16 port[2])
{
	for (int i = 0; i < 2; i++) {
		struct sockaddr_in6 a = {.sin6_family = AF_INET6};
		socklen_t len = sizeof(a);

		fd[i] = socket(AF_INET6, i ? SOCK_DGRAM : SOCK_STREAM, 0);
		if (fd[i] < 0 || bind(fd[i], (struct sockaddr *)&a, sizeof(a))) {
			print_message("no IPv6 here: %s\n", strerror(errno));
			skip();
		}
		assert_true(i || !listen(fd[i], 16));
		getsockname(fd[i], (struct sockaddr *)&a, &len);
		port[i] = ntohs(a.sin6_port);
	}
}

/* Is there a way to the servers by this address? */
static bool reaches(const char *spec, const char *address, u8 protocol)
{
	struct guest g = {.room = 100};
	struct net *net = open_link(spec, &g);
	struct pollfd p = {.events = POLLIN};
	int fd[2], which = protocol == 17;
	u16 port[2];
	u8 f[512];
	bool reached;

	open_servers(fd, port);
	send_to(net, address, protocol, port[which]);
	assert_true(send_frame(net, f, dhcp_discover(f)));
	assert_true(wait_for(&g.udp, 1)); /* what came before it has been done */
	p.fd = fd[which];
	reached = poll(&p, 1, 0) == 1;
	net_close(net);
	close(fd[0]);
	close(fd[1]);
	return reached;
}

/* What a guest that writes its own frames can name the host by. */
static void hides_every_name_of_the_host(void **state)
{
	static const char *const names[] = {
		"10.0.2.2",	    "127.0.0.1",      "127.1.2.3", "0.0.0.0", "255.255.255.255",
		"10.0.2.3",	    "10.0.2.255",     "fec0::3",   "fec0::2", "::1",
		"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::",
	};

	assert_true(reaches("user,host-loopback=on", "10.0.2.2", 6));
	assert_true(reaches("user,host-loopback=on", "10.0.2.2", 17));
	assert_true(reaches("user,host-loopback=on", "fec0::2", 17));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (u8 protocol = 6; protocol <= 17; protocol += 11) {
			assert_false(reaches("user", names[i], protocol));
			assert_false(
				reaches("user,restrict=on,host-loopback=on", names[i], protocol));
		}
}

/* 10.0.2.100 is a server of the host, which else cannot be reached. */
static void forwards_to_a_server(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	socklen_t len = sizeof(a);
	struct guest g = {.room = 100};
	struct net *net;
	char spec[160];

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	snprintf(spec, sizeof(spec),
		 "user,ipv6=off,restrict=on,guestfwd=tcp:10.0.2.100:80-tcp:127.0.0.1:%d",
		 ntohs(a.sin_port));
	net = open_link(spec, &g);
	send_arp(net, 2);
	assert_true(wait_for(&g.received, 1));
	send_tcp(net, 100, 80, 0x02, 0);
	assert_true(wait_for(&g.tcp, 1));
	assert_int_equal(g.tcp_flags & 0x3f, 0x12); /* SYN and ACK */
	assert_int_equal(poll(&p, 1, 0), 0);
	send_tcp(net, 100, 80, 0x10, load_be32(g.last + 38) + 1);
	assert_int_equal(poll(&p, 1, 10000), 1);
	net_close(net);
	close(fd);
}

/* A datagram from .15 to .100; its length. */
static u32 make_datagram(u8 *f, u16 from, u16 port, const char *text, bool good)
{
	u8 *ip = f + 14, *udp = f + 34;
	u32 len = 8 + (u32)strlen(text), sum;

	memcpy(f, "\x52\x55\x0a\x00\x02\x64", 6);
	memcpy(f + 6, guest_mac, 6);
	store_be16(f + 12, 0x0800);
	memcpy(ip, "\x45\x00\x00\x00\x00\x01\x00\x00\x40\x11\x00\x00", 12);
	store_be16(ip + 2, (u16)(20 + len));
	store_be32(ip + 12, 0x0a00020f);
	store_be32(ip + 16, 0x0a000264);
	store_be16(ip + 10, net_csum_fold(net_csum_add(0, ip, 20)));
	store_be16(udp, from);
	store_be16(udp + 2, port);
	store_be16(udp + 4, (u16)len);
	store_be16(udp + 6, 0);
	memcpy(udp + 8, text, len - 8);
	sum = net_csum_add(17 + len, ip + 12, 8);
	store_be16(udp + 6, (u16)(net_csum_fold(net_csum_add(sum, udp, len)) + !good));
	return 34 + len;
}

static void send_datagram(struct net *net, u16 from, u16 port, const char *text, bool good)
{
	u8 f[128];

	assert_true(send_frame(net, f, make_datagram(f, from, port, text, good)));
}

/* What the server hears next; who said it goes to *from. */
static void expect_datagram(int fd, const char *text, struct sockaddr_in *from)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	socklen_t len = sizeof(*from);
	char got[64] = {0};

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(recvfrom(fd, got, sizeof(got) - 1, 0, (struct sockaddr *)from, &len),
			 strlen(text));
	assert_string_equal(got, text);
}

/* 10.0.2.100 answers by ARP, hands datagrams on and brings answers back, long ones in fragments. */
static void forwards_datagrams(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in one, two;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t len = sizeof(a);
	struct guest g = {.room = 100};
	static char big[3000];
	struct net *net;
	char spec[160];
	u8 *ip = g.last + 14;

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	snprintf(spec, sizeof(spec),
		 "user,ipv6=off,restrict=on,guestfwd=udp:10.0.2.100:53-udp:127.0.0.1:%d",
		 ntohs(a.sin_port));
	net = open_link(spec, &g);
	send_arp(net, 100);
	assert_true(wait_for(&g.received, 1));
	assert_memory_equal(g.last, guest_mac, 6);
	assert_memory_equal(g.last + 20, "\0\2\x52\x55\x0a\x00\x02\x64\x0a\x00\x02\x64", 12);
	send_datagram(net, 1111, 53, "spoiled", false);
	send_datagram(net, 1111, 54, "elsewhere", true);
	send_datagram(net, 1111, 53, "first", true);
	expect_datagram(fd, "first", &one);
	send_datagram(net, 2222, 53, "second", true);
	expect_datagram(fd, "second", &two);
	assert_int_not_equal(one.sin_port, two.sin_port);
	sendto(fd, "answer", 6, 0, (struct sockaddr *)&two, sizeof(two));
	assert_true(wait_for(&g.received, 2));
	assert_int_equal(load_be32(ip + 12), 0x0a000264);
	assert_int_equal(load_be32(ip + 16), 0x0a00020f);
	assert_int_equal(load_be16(ip + 20), 53);
	assert_int_equal(load_be16(ip + 22), 2222);
	assert_int_equal(net_csum_fold(net_csum_add(0, ip, 20)), 0);
	assert_int_equal(
		net_csum_fold(net_csum_add(net_csum_add(17 + 14, ip + 12, 8), ip + 20, 14)), 0);
	assert_memory_equal(ip + 28, "answer", 6);
	/* The same socket again, and three packets: 1480, 1480 and 48 bytes. */
	send_datagram(net, 1111, 53, "third", true);
	expect_datagram(fd, "third", &two);
	assert_int_equal(one.sin_port, two.sin_port);
	sendto(fd, big, sizeof(big), 0, (struct sockaddr *)&one, sizeof(one));
	assert_true(wait_for(&g.received, 5));
	assert_int_equal(g.last_len, 34 + 48);
	assert_int_equal(load_be16(ip + 6), 2960 / 8);
	/* More ports than there are sockets: each is heard. */
	for (u16 i = 0; i < 200; i++) {
		send_datagram(net, (u16)(3000 + i), 53, "port", true);
		expect_datagram(fd, "port", &one);
	}
	net_close(net);
	close(fd);
}

/* A connection to [::1] makes the stack look for fec0::15 by neighbour discovery. */
static void forwards_ipv6(void **state)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct guest g = {.room = 100};
	struct net *net;
	int port = free_port(), fd = socket(AF_INET6, SOCK_STREAM, 0);
	char spec[128];
	bool asked = false;

	a.sin6_port = htons((u16)port);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a))) {
		print_message("no IPv6 here: %s\n", strerror(errno));
		skip();
	}
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	snprintf(spec, sizeof(spec), "user,hostfwd=tcp:[::1]:%d-[fec0::15]:22", port);
	net = open_link(spec, &g);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	/* It says hello as a router, too. */
	for (u32 n = 1; !asked && wait_for(&g.received, n); n = g.received + 1)
		asked = load_be16(g.last + 12) == 0x86dd && g.last[20] == 58 && g.last[54] == 135 &&
			load_be32(g.last + 62) == 0xfec00000 && load_be32(g.last + 74) == 0x15;
	assert_true(asked);
	close(fd);
	net_close(net);
}

static void explains_mistakes(void **state)
{
	static const struct {
		const char *spec, *text;
	} cases[] = {
		{"user,net=10.0.2.0/40", "10.0.2.0/24"},
		{"user,net=nonsense", "IPv4"},
		{"user,net=127.0.0.0/24", "no host has"},
		{"user,net=0.0.0.0/8", "no host has"},
		{"user,net=224.1.2.0/24", "no host has"},
		{"user,host=10.0.2.255", "host in the guest's network"},
		{"user,host=10.0.2.0", "host in the guest's network"},
		{"user,dhcpstart=10.0.2.3", "same address"},
		{"user,tftp=/nonexistent", "No such file"},
		{"user,tftp=/etc/passwd", "not a folder"},
		{"user,hostname=", "1 to 253 bytes"},
		{"user,mtu=9000", "the link carries 1500"},
		{"user,queues=2", "queues=2"},
		{"user,hostfwd=tcp::2222-10.0.3.15:22", "not in its network"},
		{"user,hostfwd=tcp::2222-10.0.2.2:22", "taken"},
		{"user,guestfwd=tcp:10.0.2.255:80-cmd:true", "not in the guest's network"},
		{"user,guestfwd=tcp:10.0.2.9:80-cmd:true,guestfwd=tcp:10.0.2.9:80-cmd:false",
		 "taken"},
		{"user,guestfwd=tcp:10.0.2.9:80-tcp:127.0.0.1:99999", "1 to 65535"},
		{"user,host=1.2.3.4", "network"},
		{"user,dns=10.0.2.2", "same address"},
		{"user,hostfwd=tcp:1-2-3", "hostfwd"},
		{"user,hostfwd=sctp::1-:2", "tcp:, udp: or unix:"},
		{"user,hostfwd=unix:-:2", "unix:PATH-:22"},
		{"user,hostfwd=tcp::70000-:1", "tcp:127.0.0.1:2222-:22"},
		{"user,hostfwd=tcp:[::1]:2222-:22", "both are IPv6"},
		{"user,hostfwd=tcp:[::1:2222-[fec0::15]:22", "tcp:[::1]:2222-[fec0::15]:22"},
		{"user,hostfwd=unix:/tmp/x-[fec0::15]:22", "unix:PATH-:22"},
		{"user,guestfwd=tcp:10.0.2.100:80-x", "unix:PATH"},
		{"user,guestfwd=tcp:10.0.2.100:80-tcp:x", "HOST:PORT"},
		{"user,guestfwd=tcp:[fec0::9]:80-tcp:127.0.0.1:80", "tcp:10.0.2.100:80"},
		{"user,guestfwd=tcp:10.1.2.100:80-tcp:127.0.0.1:80", "not in the guest's network"},
		{"user,guestfwd=udp:10.0.2.100:80-tcp:127.0.0.1:80", "tcp:10.0.2.100:80"},
		{"user,guestfwd=udp:10.0.2.3:53-udp:127.0.0.1:80", "is taken"},
		{"user,guestfwd=udp:10.1.2.9:53-udp:127.0.0.1:80", "not in the guest's network"},
		{"user,guestfwd=udp:10.0.2.9:53-udp:127.0.0.1", "HOST:PORT"},
		{"user,guestfwd=udp:10.0.2.9:53-udp:127.0.0.1:1,guestfwd=udp:10.0.2.9:53-udp:127.0."
		 "0.1:2",
		 "taken"},
		{"user,nosuch=1", "nosuch"},
		{"user,link-mtu=100", "link-mtu"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct net_card card;
		struct net *net;
		struct err err = {{0}};

		assert_int_not_equal(net_open(&net, loop, cases[i].spec, &card, &err), 0);
		if (!strstr(err.text, cases[i].text))
			print_message("%s: %s\n", cases[i].spec, err.text);
		assert_non_null(strstr(err.text, cases[i].text));
	}
}

/* What is longer than a DHCP answer has room for is refused by us, in one line. */
static void knows_how_long_names_are(void **state)
{
	char spec[400] = "user,bootfile=", *end = spec + strlen(spec);
	struct net_card card;
	struct net *net;
	struct err err;

	memset(end, 'x', 128);
	assert_non_null(strstr(refuse(spec).text, "1 to 127 bytes"));
	end[127] = '\0';
	assert_int_equal(net_open(&net, loop, spec, &card, &err), 0);
	net_close(net);
	opt_free(net_card_table, &card);
}

/* The guest is told of a link with another MTU than Ethernet's, unless the user says more. */
static void tells_the_mtu(void **state)
{
	static const struct {
		const char *spec;
		u64 mtu;
	} cases[] = {{"user", 0},
		     {"user,link-mtu=9000", 9000},
		     {"user,link-mtu=1280", 1280},
		     {"user,link-mtu=9000,mtu=2000", 2000}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct net_card card;
		struct net *net;
		struct err err;

		assert_int_equal(net_open(&net, loop, cases[i].spec, &card, &err), 0);
		assert_int_equal(card.mtu, cases[i].mtu);
		net_close(net);
		opt_free(net_card_table, &card);
	}
}

/* Nothing is opened, and what can be said without that is said. */
static void checks_without_opening(void **state)
{
	struct err err = {{0}};
	char spec[128];
	int port = free_port();

	snprintf(spec, sizeof(spec), "user,hostfwd=tcp:127.0.0.1:%d-:22", port);
	for (int i = 0; i < 2; i++) {
		struct guest g = {.room = 1};
		struct net *net = i ? NULL : open_link(spec, &g);

		assert_int_equal(net_check(spec, &err), 0);
		net_close(net);
	}
	assert_int_equal(net_check("stream,path=/nonexistent", &err), 0);
	assert_int_not_equal(net_check("user,hostfwd=tcp::2222-:x", &err), 0);
	assert_int_not_equal(net_check("user,net=10.0.2.0/40", &err), 0);
	assert_int_not_equal(net_check("user,colour=red", &err), 0);
	assert_int_not_equal(net_check("user,mac=1", &err), 0);
	assert_int_not_equal(net_check("tap,ifname=a-name-that-is-too-long", &err), 0);
	assert_int_not_equal(net_check("nosuch", &err), 0);
	assert_non_null(strstr(err.text, "user, stream"));
}

/* Its complaints about what a guest does are ours, and not endless. */
static void limits_what_the_library_says(void **state)
{
	static const u8 echo[8] = {128, 0, 0, 0, 0, 1, 0, 1};
	struct guest g = {.room = ~0u / 2};
	struct net *net = open_link("user", &g);
	u8 f[62] = {0x33, 0x33, 0, 0, 0, 1}, *ip = f + 14, discover[512];
	char text[4096] = "";
	FILE *out = tmpfile();
	int saved = dup(2), lines = 0;

	store_be16(f + 12, 0x86dd);
	memcpy(f + 6, guest_mac, 6);
	memcpy(ip, "\x60\x00\x00\x00\x00\x08\x3a\x40", 8);
	inet_pton(AF_INET6, "fec0::15", ip + 8);
	inet_pton(AF_INET6, "2001:db8::1", ip + 24);
	memcpy(ip + 40, echo, 8);
	store_be16(ip + 42, net_csum_fold(net_csum_add(net_csum_add(58 + 8, ip + 8, 32), echo, 8)));
	fflush(stderr);
	dup2(fileno(out), 2);
	for (int i = 0; i < 200; i++)
		while (!send_frame(net, f, sizeof(f)))
			usleep(100);
	while (!send_frame(net, discover, dhcp_discover(discover)))
		usleep(100);
	assert_true(wait_for(&g.udp, 1));
	net_close(net);
	fflush(stderr);
	dup2(saved, 2);
	close(saved);
	rewind(out);
	while (fgets(text, sizeof(text), out))
		lines += strstr(text, "Slirp-") ? 1000 : 1;
	fclose(out);
	assert_in_range(lines, 1, 50);
}

static u32 count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	u32 n = 0;

	if (!dir)
		return UINT32_MAX; /* no descriptor is left */
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* More connections to a forward than there are descriptors: some are left for others. The limit
 * stays low. */
static void spares_descriptors(void **state)
{
	const struct rlimit limit = {.rlim_cur = 300, .rlim_max = 300};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct guest g = {.room = 10000};
	struct net *net;
	char spec[160];
	pid_t child;

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "/tmp/test-user-%d.sock", (int)getpid());
	snprintf(spec, sizeof(spec), "user,ipv6=off,hostfwd=unix:%s-:22", a.sun_path);
	net = open_link(spec, &g);
	child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < 250; i++)
			connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a));
		pause();
	}
	for (int i = 0; i < 20000 && count_fds() < 300 - 128; i++)
		usleep(1000);
	usleep(200000); /* it could go on, and does not */
	assert_in_range(count_fds(), 300 - 128, 300 - 64);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	net_close(net);
}

/* Random frames: the stack, the forwards and the link survive. */
static void survives_noise(void **state)
{
	struct guest g = {.room = ~0u / 2};
	struct net *net = open_link("user,guestfwd=udp:10.0.2.100:53-udp:127.0.0.1:9", &g);
	u8 f[1514];
	u32 seed = 1;

	for (int i = 0; i < 20000; i++) {
		bool datagram = i & 1;
		u32 len =
			datagram ? make_datagram(f, 1000, 53, "question", true) : dhcp_discover(f);

		for (int k = 0; k < (datagram ? 2 : 8); k++) {
			seed = seed * 1664525 + 1013904223;
			f[12 + (seed >> 8) % (datagram ? 30 : 60)] = (u8)(seed >> 24);
		}
		if (!datagram || seed >> 31)
			len = NET_MIN_FRAME + (seed >> 5) % (len - NET_MIN_FRAME);
		while (!send_frame(net, f, len))
			usleep(100);
	}
	net_close(net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dhcp_offers),
		cmocka_unit_test(waits_for_buffers),
		cmocka_unit_test(slows_the_sender),
		cmocka_unit_test(forwards_ports),
		cmocka_unit_test(forwards_a_socket),
		cmocka_unit_test(hides_the_host),
		cmocka_unit_test(hides_every_name_of_the_host),
		cmocka_unit_test(forwards_to_a_server),
		cmocka_unit_test(forwards_ipv6),
		cmocka_unit_test(forwards_datagrams),
		cmocka_unit_test(explains_mistakes),
		cmocka_unit_test(knows_how_long_names_are),
		cmocka_unit_test(tells_the_mtu),
		cmocka_unit_test(checks_without_opening),
		cmocka_unit_test(limits_what_the_library_says),
		cmocka_unit_test(survives_noise),
		cmocka_unit_test(spares_descriptors),
	};

	setenv("BOTHY_PLUGINS", getenv("BOTHY_BUILD") ? getenv("BOTHY_BUILD") : "build", 1);
	loop = loop_new();
	if (!loop)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
