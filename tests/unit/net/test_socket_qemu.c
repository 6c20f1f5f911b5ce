/* The stream and dgram back ends with QEMU at the other end: its hub joins our socket to its own
 * user-mode stack, which answers what we ask by DHCP. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/clock.h"
#include "os/loop.h"

#include "dhcp.h"

#define QEMU "qemu-system-x86_64"

struct guest {
	u32 offers;
	u8 last[600];
};

static struct loop *loop;
static char dir[64];

static u32 on_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct guest *g = ctx;

	for (u32 i = 0; i < n; i++) {
		const u8 *f = frames[i].iov[0].iov_base;

		/* IPv4, UDP, to port 68: QEMU's stack sends router advertisements, too. */
		if (frames[i].len < 290 || load_be16(f + 12) != 0x0800 || f[23] != 17 ||
		    load_be16(f + 36) != 68)
			continue;
		memcpy(g->last, f, min(frames[i].len, (u32)sizeof(g->last)));
		g->offers++;
	}
	return n;
}

static void on_sendable(void *ctx, unsigned int pair)
{
}

static struct net *open_link(struct guest *g, const char *spec)
{
	const struct net_client client = {.ctx = g, .receive = on_receive, .sendable = on_sendable};
	struct net_card card;
	struct err err = {{0}};
	struct net *net = NULL;

	if (net_open(&net, loop, spec, &card, &err))
		print_message("%s: %s\n", spec, err.text);
	assert_non_null(net);
	opt_free(net_card_table, &card);
	net_set_client(net, &client);
	return net;
}

static void quiet(void)
{
	int fd = open("/dev/null", O_RDWR);

	dup2(fd, 0);
	dup2(fd, 1);
}

/* The child ends with the test, however that ends. */
static pid_t start_qemu(const char *netdev)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	quiet();
	execlp(QEMU, QEMU, "-accel", "tcg", "-machine", "none", "-nodefaults", "-display", "none",
	       "-netdev", netdev, "-netdev", "hubport,id=h0,hubid=0,netdev=a", "-netdev",
	       "user,id=u,net=192.168.55.0/24", "-netdev", "hubport,id=h1,hubid=0,netdev=u",
	       (char *)NULL);
	_exit(127);
}

static void stop_qemu(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Ask until there is an answer: QEMU takes a moment to start. */
static void ask(struct net *net, struct guest *g)
{
	u64 end = clock_now_ns() + 20 * NSEC_PER_SEC;
	u8 f[512];
	struct iovec iov = {f, dhcp_discover(f)};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = (u32)iov.iov_len};

	g->offers = 0;
	while (!g->offers && clock_now_ns() < end) {
		u64 next = clock_now_ns() + 200 * NSEC_PER_MSEC;

		net_send(net, 0, &frame, 1);
		while (!g->offers && clock_now_ns() < next)
			loop_run_once(loop, 20 * NSEC_PER_MSEC);
	}
	assert_true(g->offers > 0);
	assert_int_equal(load_be32(g->last + 14 + 12), 0xc0a83702); /* from .2 */
	assert_int_equal(load_be32(g->last + 42 + 16), 0xc0a8370f); /* yiaddr .15 */
	assert_int_equal(load_be32(g->last + 42 + 4), 0x12345678);  /* our question */
}

static int free_port(int type)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, type, 0);

	bind(fd, (struct sockaddr *)&a, sizeof(a));
	getsockname(fd, (struct sockaddr *)&a, &len);
	close(fd);
	return ntohs(a.sin_port);
}

/* Both are up when `ours` is open first (we listen) or has patience (reconnect=on). */
static void check(const char *ours, const char *theirs)
{
	struct guest g = {0};
	struct net *net = open_link(&g, ours);
	pid_t pid = start_qemu(theirs);

	ask(net, &g);
	/* A second QEMU after the first: the link serves the next peer. */
	stop_qemu(pid);
	if (!strstr(theirs, "server=on")) {
		pid = start_qemu(theirs);
		ask(net, &g);
		stop_qemu(pid);
	}
	net_close(net);
}

static void stream_we_listen(void **state)
{
	char ours[160], theirs[160];

	snprintf(ours, sizeof(ours), "stream,server=on,path=%s/s", dir);
	snprintf(theirs, sizeof(theirs), "stream,id=a,server=off,addr.type=unix,addr.path=%s/s",
		 dir);
	check(ours, theirs);
}

static void stream_we_connect(void **state)
{
	char ours[160], theirs[160], path[80];

	snprintf(ours, sizeof(ours), "stream,reconnect=on,path=%s/q", dir);
	snprintf(theirs, sizeof(theirs), "stream,id=a,server=on,addr.type=unix,addr.path=%s/q",
		 dir);
	check(ours, theirs);
	snprintf(path, sizeof(path), "%s/q", dir);
	unlink(path); /* a killed QEMU leaves it */
}

static void stream_tcp(void **state)
{
	int port = free_port(SOCK_STREAM);
	char ours[160], theirs[160];

	snprintf(ours, sizeof(ours), "stream,server=on,addr=127.0.0.1:%d", port);
	snprintf(theirs, sizeof(theirs),
		 "stream,id=a,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=%d", port);
	check(ours, theirs);
}

static void dgram_unix(void **state)
{
	char ours[200], theirs[250], path[80];

	snprintf(ours, sizeof(ours), "dgram,local.path=%s/us,remote.path=%s/q", dir, dir);
	snprintf(theirs, sizeof(theirs),
		 "dgram,id=a,local.type=unix,local.path=%s/q,remote.type=unix,remote.path=%s/us",
		 dir, dir);
	check(ours, theirs);
	snprintf(path, sizeof(path), "%s/q", dir);
	unlink(path);
}

static void dgram_udp(void **state)
{
	int p = free_port(SOCK_DGRAM), q = free_port(SOCK_DGRAM);
	char ours[160], theirs[250];

	snprintf(ours, sizeof(ours), "dgram,local=127.0.0.1:%d,remote=127.0.0.1:%d", p, q);
	snprintf(theirs, sizeof(theirs),
		 "dgram,id=a,local.type=inet,local.host=127.0.0.1,local.port=%d,"
		 "remote.type=inet,remote.host=127.0.0.1,remote.port=%d",
		 q, p);
	check(ours, theirs);
}

/* -netdev stream and dgram came with 7.2. */
static bool has_qemu(void)
{
	FILE *p = popen(QEMU " --version 2>/dev/null", "r");
	int major = 0, minor = 0;
	bool found = p && fscanf(p, "QEMU emulator version %d.%d", &major, &minor) == 2;

	if (p)
		pclose(p);
	return found && (major > 7 || (major == 7 && minor >= 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stream_we_listen), cmocka_unit_test(stream_we_connect),
		cmocka_unit_test(stream_tcp),	    cmocka_unit_test(dgram_unix),
		cmocka_unit_test(dgram_udp),
	};
	int rc;

	if (!has_qemu()) {
		printf("SKIP: no " QEMU " of version 7.2 or newer (package qemu-system-x86)\n");
		return 77;
	}
	snprintf(dir, sizeof(dir), "/tmp/bothy-net-XXXXXX");
	loop = loop_new();
	if (!loop || !mkdtemp(dir))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	loop_free(loop);
	return rc;
}
