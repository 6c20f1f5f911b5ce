/* Tap devices and bridges, in a network namespace that the test makes for itself. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/clock.h"
#include "os/loop.h"

#define ETHERTYPE 0x88b5 /* for experiments: the kernel sends none by itself */

struct guest {
	u32 room, received, sendables;
	u8 last[NET_MAX_FRAME];
	u32 last_len;
	struct net_offload offload;
};

static struct loop *loop;

static u32 on_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct guest *g = ctx;
	u32 i;

	for (i = 0; i < n && g->room; i++) {
		const u8 *f = frames[i].iov[0].iov_base;

		if (load_be16(f + 12) != ETHERTYPE)
			continue; /* the kernel's own chatter */
		memcpy(g->last, f, frames[i].len);
		g->last_len = frames[i].len;
		g->offload = frames[i].offload;
		g->received++;
		g->room--;
	}
	return i;
}

static void on_sendable(void *ctx, unsigned int pair)
{
	((struct guest *)ctx)->sendables++;
}

static struct net *open_link(const char *spec, struct guest *g, struct err *err)
{
	const struct net_client client = {.ctx = g, .receive = on_receive, .sendable = on_sendable};
	struct net_card card;
	struct net *net = NULL;

	if (!net_open(&net, loop, spec, &card, err))
		net_set_client(net, &client);
	opt_free(net_card_table, &card);
	return net;
}

static void spin(u32 *counter, u32 value)
{
	u64 end = clock_now_ns() + 3 * NSEC_PER_SEC;

	while (*counter < value && clock_now_ns() < end)
		loop_run_once(loop, 10 * NSEC_PER_MSEC);
	assert_true(*counter >= value);
}

static u32 make_frame(u8 *f, u32 len, u8 tag)
{
	memset(f, tag, len);
	memset(f, 0xff, 6);
	memset(f + 6, 2, 6);
	store_be16(f + 12, ETHERTYPE);
	return len;
}

/* A socket that sees and sends the frames of an interface. */
static int packet_socket(const char *name)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET,
				.sll_protocol = htons(ETHERTYPE),
				.sll_ifindex = (int)if_nametoindex(name)};
	struct timeval wait = {.tv_sec = 3};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETHERTYPE));

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void tap_both_ways(void **state)
{
	struct guest g = {.room = 100};
	struct err err = {{0}};
	struct net *net = open_link("tap,ifname=bothy-t0", &g, &err);
	struct net_frame frame;
	u8 f[3000], back[3000];
	struct iovec iov[2];
	int sock;

	if (!net)
		print_message("%s\n", err.text);
	assert_non_null(net);
	sock = packet_socket("bothy-t0");
	make_frame(f, 500, 0x11);
	assert_int_equal(send(sock, f, 500, 0), 500);
	spin(&g.received, 1);
	assert_int_equal(g.last_len, 500);
	assert_memory_equal(g.last, f, 500);
	/* From the guest, in two pieces. */
	make_frame(f, 700, 0x22);
	iov[0] = (struct iovec){f, 100};
	iov[1] = (struct iovec){f + 100, 600};
	frame = (struct net_frame){.iov = iov, .niov = 2, .len = 700};
	assert_int_equal(net_send(net, 0, &frame, 1), 1);
	assert_int_equal(recv(sock, back, sizeof(back), 0), 700);
	assert_memory_equal(back, f, 700);
	close(sock);
	net_close(net);
}

/* A guest without buffers stops the reading; what waits comes in order. */
/* Nothing wakes the loop, so waiting costs nothing. (Work posted before is done first.) */
static bool loop_sleeps(void)
{
	struct pollfd p = {.fd = loop_fd(loop), .events = POLLIN};

	for (int i = 0; i < 8; i++)
		loop_run_once(loop, 0);
	return poll(&p, 1, 0) == 0;
}

static void tap_waits_for_buffers(void **state)
{
	struct guest g = {.room = 1};
	struct err err;
	struct net *net = open_link("tap,ifname=bothy-t0", &g, &err);
	u8 f[200];
	int sock;

	assert_non_null(net);
	sock = packet_socket("bothy-t0");
	for (u8 i = 0; i < 40; i++)
		assert_int_equal(send(sock, f, make_frame(f, 100, i), 0), 100);
	spin(&g.received, 1);
	for (int i = 0; i < 20; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(g.received, 1);
	assert_true(loop_sleeps());
	for (u8 i = 1; i < 40; i++) {
		g.room = 1;
		net_receive_resume(net, 0);
		spin(&g.received, i + 1u);
		assert_int_equal(g.last[50], i);
	}
	close(sock);
	net_close(net);
}

#define FLOWS 64

/* Frames of the flows that came, by pair. */
struct flows {
	u32 total, pair[NET_MAX_PAIRS];
};

static u32 count_flows(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct flows *flows = ctx;

	for (u32 i = 0; i < n; i++) {
		const u8 *f = frames[i].iov[0].iov_base;

		if (load_be16(f + 12) != 0x0800 || load_be16(f + 36) != 4242)
			continue;
		flows->total++;
		flows->pair[pair]++;
	}
	return n;
}

/* UDP over IPv4 from FLOWS ports: the kernel spreads them over the queues. */
static void send_flows(const char *name)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name)};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	u8 f[60] = {0};

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	make_frame(f, sizeof(f), 0);
	store_be16(f + 12, 0x0800);
	f[14] = 0x45;
	store_be16(f + 16, 46);
	f[22] = 64;
	f[23] = 17;
	store_be32(f + 26, 0x0a000001);
	store_be32(f + 30, 0x0a000002);
	store_be16(f + 36, 4242);
	for (u16 i = 0; i < FLOWS; i++) {
		store_be16(f + 34, (u16)(1000 + i));
		assert_int_equal(send(fd, f, sizeof(f), 0), sizeof(f));
	}
	close(fd);
}

/* The key that the card and the device share reaches both, and a guest that uses fewer queues
 * still gets every frame. */
static void tap_queues(void **state)
{
	struct flows flows = {0};
	const struct net_client client = {
		.ctx = &flows, .receive = count_flows, .sendable = on_sendable};
	struct guest g = {0};
	struct err err = {{0}};
	struct net *net = open_link("tap,ifname=bothy-t1,queues=3", &g, &err);

	if (!net)
		print_message("%s\n", err.text);
	assert_non_null(net);
	assert_int_equal(net_pairs(net), 3);
	net_set_client(net, &client);
	/* One at first, as long as nobody asks for more. */
	send_flows("bothy-t1");
	spin(&flows.total, FLOWS);
	assert_int_equal(flows.pair[0], FLOWS);
	for (unsigned int n = 3; n >= 1; n--) {
		u32 used = 0;

		memset(&flows, 0, sizeof(flows));
		net_set_pairs(net, n);
		loop_run_once(loop, NSEC_PER_MSEC);
		send_flows("bothy-t1");
		spin(&flows.total, FLOWS);
		for (unsigned int i = 0; i < NET_MAX_PAIRS; i++) {
			used += flows.pair[i] > 0;
			assert_true(i < n || !flows.pair[i]);
		}
		assert_int_equal(used, n);
	}
	net_close(net);
}

static void control(unsigned long request, const char *name)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq ifr = {0};

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (request == SIOCSIFFLAGS) {
		ifr.ifr_flags = IFF_UP;
		assert_int_equal(ioctl(fd, request, &ifr), 0);
	} else {
		assert_int_equal(ioctl(fd, request, name), 0);
	}
	close(fd);
}

/* Two guests on one bridge hear each other. */
static void bridge_joins(void **state)
{
	struct guest a = {.room = 10}, b = {.room = 10};
	struct net *na, *nb;
	struct net_frame frame;
	struct err err = {{0}};
	struct net_offload offload;
	struct iovec iov;
	u8 f[100], done[100];

	na = open_link("bridge,br=bothy-br9", &a, &err);
	assert_null(na);
	assert_non_null(strstr(err.text, "no bridge bothy-br9"));
	control(SIOCBRADDBR, "bothy-br0");
	control(SIOCSIFFLAGS, "bothy-br0");
	na = open_link("bridge,br=bothy-br0", &a, &err);
	nb = open_link("bridge,br=bothy-br0", &b, &err);
	if (!na || !nb)
		print_message("%s\n", err.text);
	assert_true(na && nb);
	make_frame(f, 100, 0x77);
	iov = (struct iovec){f, 100};
	frame = (struct net_frame){.iov = &iov, .niov = 1, .len = 100};
	/* Ports take a moment until they forward. */
	for (int i = 0; i < 300 && !b.received; i++) {
		net_send(na, 0, &frame, 1);
		loop_run_once(loop, 10 * NSEC_PER_MSEC);
	}
	assert_true(b.received > 0);
	assert_memory_equal(b.last, f, 100);
	/* A checksum that one guest leaves undone and the other does not take is made on the way.
	 */
	assert_true(net_caps(na) & NET_CSUM && net_caps(na) & NET_TSO4);
	frame.offload = (struct net_offload){
		.flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
	memcpy(done, f, 100);
	offload = frame.offload;
	net_offload_finish_csum(&offload, done, 100);
	assert_memory_not_equal(done, f, 100);
	b.received = 0;
	b.room = 100;
	net_receive_resume(nb, 0);
	for (int i = 0; i < 300 && (!b.received || memcmp(b.last, done, 100)); i++) {
		net_send(na, 0, &frame, 1);
		loop_run_once(loop, 10 * NSEC_PER_MSEC);
	}
	assert_memory_equal(b.last, done, 100);
	assert_int_equal(b.offload.flags & NET_HDR_NEEDS_CSUM, 0);
	net_close(na);
	net_close(nb);
}

/* A device that stays, as "ip tuntap add" makes it. */
static void make_device(const char *name, bool multi)
{
	struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
						 (multi ? IFF_MULTI_QUEUE : 0))};
	int fd = open("/dev/net/tun", O_RDWR);

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
	close(fd);
}

static void tap_of_several_queues(void **state)
{
	struct guest g = {0};
	struct err err = {{0}};
	struct net *net;

	make_device("bothy-m1", true);
	make_device("bothy-s1", false);
	net = open_link("tap,ifname=bothy-m1", &g, &err);
	assert_non_null(net);
	assert_int_equal(net_pairs(net), 1);
	net_close(net);
	assert_null(open_link("tap,ifname=bothy-s1,queues=2", &g, &err));
	assert_non_null(strstr(err.text, "number of queues"));
}

static void explains_mistakes(void **state)
{
	static const struct {
		const char *spec, *text;
	} cases[] = {
		{"tap,fd=x", "not a descriptor"},
		{"tap,fd=0", "not a tap device"},
		{"tap,ifname=lo", "lo"},
		{"tap,queues=99", "queues"},
		{"tap,ifname=sixteen-letters-", "1 to 15 bytes"},
		{"bridge,br=", "1 to 15 bytes"},
		{"bridge,queues=2", "no bridge br0"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct guest g = {0};
		struct err err = {{0}};

		assert_null(open_link(cases[i].spec, &g, &err));
		if (!strstr(err.text, cases[i].text))
			print_message("%s: %s\n", cases[i].spec, err.text);
		assert_non_null(strstr(err.text, cases[i].text));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tap_both_ways),
		cmocka_unit_test(tap_waits_for_buffers),
		cmocka_unit_test(tap_queues),
		cmocka_unit_test(bridge_joins),
		cmocka_unit_test(tap_of_several_queues),
		cmocka_unit_test(explains_mistakes),
	};

	if (unshare(CLONE_NEWNET)) {
		printf("SKIP: no network namespace: %s (run as root)\n", strerror(errno));
		return 77;
	}
	if (access("/dev/net/tun", R_OK | W_OK)) {
		printf("SKIP: no /dev/net/tun\n");
		return 77;
	}
	loop = loop_new();
	return loop ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
