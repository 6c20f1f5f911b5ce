/* The user-mode back end against libslirp itself. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/loop.h"

#include "dhcp.h"

/* A guest of one buffer; its callbacks run on the link's thread. */
struct guest {
	u32 room, received, sendables;
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

static void explains_mistakes(void **state)
{
	static const struct {
		const char *spec, *text;
	} cases[] = {
		{"user,net=10.0.2.0/40", "10.0.2.0/24"},
		{"user,net=nonsense", "IPv4"},
		{"user,host=1.2.3.4", "network"},
		{"user,dns=10.0.2.2", "same address"},
		{"user,hostfwd=tcp:1-2-3", "hostfwd"},
		{"user,hostfwd=sctp::1-:2", "tcp: or udp:"},
		{"user,hostfwd=tcp::70000-:1", "tcp:127.0.0.1:2222-:22"},
		{"user,guestfwd=tcp:10.0.2.100:80-tcp:x", "unix:PATH"},
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

/* Random frames: the stack and the link survive. */
static void survives_noise(void **state)
{
	struct guest g = {.room = ~0u / 2};
	struct net *net = open_link("user", &g);
	u8 f[1514];
	u32 seed = 1;

	for (int i = 0; i < 20000; i++) {
		u32 len = dhcp_discover(f);

		for (int k = 0; k < 8; k++) {
			seed = seed * 1664525 + 1013904223;
			f[12 + (seed >> 8) % 60] = (u8)(seed >> 24);
		}
		len = NET_MIN_FRAME + (seed >> 5) % (len - NET_MIN_FRAME);
		while (!send_frame(net, f, len))
			usleep(100);
	}
	net_close(net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dhcp_offers),	     cmocka_unit_test(waits_for_buffers),
		cmocka_unit_test(slows_the_sender),  cmocka_unit_test(forwards_ports),
		cmocka_unit_test(explains_mistakes), cmocka_unit_test(survives_noise),
	};

	setenv("BOTHY_PLUGINS", getenv("BOTHY_BUILD") ? getenv("BOTHY_BUILD") : "build", 1);
	loop = loop_new();
	if (!loop)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
