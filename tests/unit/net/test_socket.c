/* The stream and dgram back ends: two of ours, and peers that do not behave. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/clock.h"
#include "os/loop.h"

struct guest {
	u32 room, received, sendables, ups, downs;
	bool disorder; /* the numbers in the frames have a gap */
	u8 last[NET_MAX_FRAME];
	u32 last_len, last_number;
};

static struct loop *loop;
static char dir[64];
static struct guest ga, gb; /* large: not on the stack */

#define SPIN(condition)                                                                            \
	do {                                                                                       \
		u64 end_ = clock_now_ns() + 10 * NSEC_PER_SEC;                                     \
		while (!(condition) && clock_now_ns() < end_)                                      \
			loop_run_once(loop, 10 * NSEC_PER_MSEC);                                   \
		assert_true(condition);                                                            \
	} while (0)

static u32 on_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct guest *g = ctx;
	u32 i;

	for (i = 0; i < n && g->room; i++, g->room--) {
		const u8 *f = frames[i].iov[0].iov_base;
		u32 number = load_be32(f + 14);

		g->disorder |= g->received && number != g->last_number + 1;
		/* Whole and in its place: what make_frame() put at its end. */
		g->disorder |= frames[i].len > 18 && f[frames[i].len - 1] != (u8)(number * 7);
		g->last_number = number;
		g->last_len = frames[i].len;
		memcpy(g->last, f, frames[i].len);
		g->received++;
	}
	return i;
}

static void on_sendable(void *ctx, unsigned int pair)
{
	((struct guest *)ctx)->sendables++;
}

static void on_link(void *ctx, bool up)
{
	struct guest *g = ctx;

	if (up)
		g->ups++;
	else
		g->downs++;
}

static struct net *try_open(struct guest *g, struct err *err, const char *spec)
{
	const struct net_client client = {
		.ctx = g, .receive = on_receive, .sendable = on_sendable, .link = on_link};
	struct net_card card;
	struct net *net = NULL;

	memset(g, 0, sizeof(*g));
	g->room = ~0u / 2;
	if (!net_open(&net, loop, spec, &card, err))
		net_set_client(net, &client);
	opt_free(net_card_table, &card);
	return net;
}

/* %s in the format is the test's directory. */
static PRINTF_LIKE(2, 3) struct net *open_link(struct guest *g, const char *fmt, ...)
{
	struct err err = {{0}};
	struct net *net;
	char spec[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(spec, sizeof(spec), fmt, ap);
	va_end(ap);
	net = try_open(g, &err, spec);
	if (!net)
		print_message("%s: %s\n", spec, err.text);
	assert_non_null(net);
	return net;
}

static void make_frame(u8 *f, u32 len, u32 number)
{
	memset(f, (u8)(number * 7), len);
	memset(f, 0xff, 6);
	memset(f + 6, 2, 6);
	store_be16(f + 12, 0x88b5);
	store_be32(f + 14, number);
}

/* In two pieces, as cards do. */
static u32 send_frame(struct net *net, u32 len, u32 number)
{
	static u8 f[NET_MAX_FRAME];
	struct iovec iov[2] = {{f, 18}, {f + 18, len - 18}};
	struct net_frame frame = {.iov = iov, .niov = 2, .len = len};

	make_frame(f, len, number);
	return net_send(net, 0, &frame, 1);
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

/* A peer of our own making at the UNIX stream socket "s". */
static int raw_connect(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", dir);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

/* ---- two ends of ours ---- */

static void exchange(struct net *a, struct net *b, const u32 *sizes, size_t n)
{
	u8 *want = malloc(NET_MAX_FRAME);

	for (u32 i = 0; i < n; i++) {
		make_frame(want, sizes[i], i);
		assert_int_equal(send_frame(a, sizes[i], i), 1);
		SPIN(gb.received == i + 1);
		assert_int_equal(gb.last_len, sizes[i]);
		assert_memory_equal(gb.last, want, sizes[i]);
		assert_int_equal(send_frame(b, sizes[i], i), 1);
		SPIN(ga.received == i + 1);
		assert_int_equal(ga.last_len, sizes[i]);
		assert_memory_equal(ga.last, want, sizes[i]);
	}
	free(want);
}

static void stream_unix(void **state)
{
	static const u32 sizes[] = {18, 60, 1514, 9014, 65550, NET_MAX_FRAME};
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir), *b;
	char path[80];

	assert_false(net_link(a));
	b = open_link(&gb, "stream,path=%s/s", dir);
	assert_true(net_link(b));
	SPIN(ga.ups == 1);
	exchange(a, b, sizes, ARRAY_SIZE(sizes));
	net_close(b);
	SPIN(ga.downs == 1);
	assert_false(net_link(a));
	net_close(a);
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(access(path, F_OK), -1); /* the server takes its socket away */
}

static void stream_tcp(void **state)
{
	static const u32 sizes[] = {18, 1514, 65550};
	int port = free_port(SOCK_STREAM);
	struct net *a = open_link(&ga, "stream,server=on,addr=127.0.0.1:%d", port);
	struct net *b = open_link(&gb, "stream,addr=127.0.0.1:%d", port);

	SPIN(ga.ups == 1);
	exchange(a, b, sizes, ARRAY_SIZE(sizes));
	net_close(a);
	SPIN(gb.downs == 1);
	/* Nobody is there: frames are dropped, the sender is not held. */
	assert_int_equal(send_frame(b, 60, 9), 1);
	net_close(b);
}

static void dgram_unix(void **state)
{
	static const u32 sizes[] = {18, 1514, 65550};
	struct net *a = open_link(&ga, "dgram,local.path=%s/a,remote.path=%s/b", dir, dir), *b;

	assert_int_equal(send_frame(a, 60, 0), 1); /* nobody yet: lost */
	b = open_link(&gb, "dgram,local.path=%s/b,remote.path=%s/a", dir, dir);
	exchange(a, b, sizes, ARRAY_SIZE(sizes));
	/* The peer comes back with a new socket at its path. */
	net_close(b);
	assert_int_equal(send_frame(a, 60, 1), 1);
	b = open_link(&gb, "dgram,local.path=%s/b,remote.path=%s/a", dir, dir);
	ga.received = 0;
	exchange(a, b, sizes, ARRAY_SIZE(sizes));
	net_close(a);
	net_close(b);
}

static void dgram_udp(void **state)
{
	static const u32 sizes[] = {18, 1514, 65000};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int p = free_port(SOCK_DGRAM), q = free_port(SOCK_DGRAM), fd;
	struct net *a, *b;
	u8 f[60];

	assert_int_not_equal(p, q);
	a = open_link(&ga, "dgram,local=127.0.0.1:%d,remote=127.0.0.1:%d", p, q);
	assert_int_equal(send_frame(a, 60, 0), 1); /* the kernel will say: refused */
	b = open_link(&gb, "dgram,local=127.0.0.1:%d,remote=127.0.0.1:%d", q, p);
	exchange(a, b, sizes, ARRAY_SIZE(sizes));
	/* Somebody else's datagrams are not for us; ours, after them, is. */
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	to.sin_port = htons((u16)p);
	make_frame(f, 60, 77);
	assert_int_equal(sendto(fd, f, 60, 0, (struct sockaddr *)&to, sizeof(to)), 60);
	close(fd);
	assert_int_equal(send_frame(b, 60, 3), 1);
	SPIN(ga.last_number == 3);
	assert_int_equal(ga.received, 4);
	net_close(a);
	net_close(b);
}

/* ---- peers that do not behave ---- */

static void put(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

static void byte_by_byte(void **state)
{
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	int fd = raw_connect();
	u8 record[4 + 100];

	SPIN(ga.ups == 1);
	for (u32 number = 0; number < 3; number++) {
		store_be32(record, 100);
		make_frame(record + 4, 100, number);
		for (size_t i = 0; i < sizeof(record); i++) {
			put(fd, record + i, 1);
			loop_run_once(loop, NSEC_PER_MSEC);
			if (i + 1 < sizeof(record))
				assert_int_equal(ga.received, number);
		}
		SPIN(ga.received == number + 1);
		assert_memory_equal(ga.last, record + 4, 100);
	}
	/* Too short to be frames: skipped, and what follows is not. */
	store_be32(record, 0);
	put(fd, record, 4);
	store_be32(record, NET_MIN_FRAME - 1);
	put(fd, record, 4 + NET_MIN_FRAME - 1);
	store_be32(record, 100);
	make_frame(record + 4, 100, 3);
	put(fd, record, sizeof(record));
	SPIN(ga.received == 4);
	assert_int_equal(ga.last_number, 3);
	assert_true(net_link(a));
	close(fd);
	net_close(a);
}

static void impossible_lengths(void **state)
{
	static const u32 lengths[] = {NET_MAX_FRAME + 1, 0x7fffffff, 0x80000000, 0xffffffff};
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	u8 bytes[4 + 60 + 4], b;

	for (u32 i = 0; i < ARRAY_SIZE(lengths); i++) {
		int fd = raw_connect();

		SPIN(ga.ups == i + 1);
		store_be32(bytes, 60);
		make_frame(bytes + 4, 60, i);
		store_be32(bytes + 64, lengths[i]);
		put(fd, bytes, sizeof(bytes));
		SPIN(ga.downs == i + 1);
		assert_int_equal(ga.received, i + 1); /* what came before it counts */
		assert_true(recv(fd, &b, 1, 0) <= 0);
		close(fd);
	}
	net_close(a);
}

/* Read one record of a raw peer while the loop runs; its number. */
static u32 read_record(int fd, u32 len)
{
	static u8 got[4 + 2000], want[2000];
	size_t at = 0;

	while (at < len + 4) {
		ssize_t n = recv(fd, got + at, len + 4 - at, MSG_DONTWAIT);

		if (n < 0)
			assert_int_equal(errno, EAGAIN);
		if (n > 0)
			at += (size_t)n;
		else
			loop_run_once(loop, 10 * NSEC_PER_MSEC);
	}
	assert_int_equal(load_be32(got), len);
	make_frame(want, len, load_be32(got + 18));
	assert_memory_equal(got + 4, want, len);
	return load_be32(got + 18);
}

/* A peer that does not read stops the sender; when it reads, not a byte is missing. */
static void peer_never_reads(void **state)
{
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	int fd = raw_connect();
	u32 sent = 0, turns = 0;

	SPIN(ga.ups == 1);
	while (sent < 100000 && send_frame(a, 1514, sent))
		sent++;
	assert_true(sent > 0 && sent < 100000);
	while (turns < 20)
		turns += !loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(ga.sendables, 0);
	assert_int_equal(send_frame(a, 1514, sent), 0);
	for (u32 i = 0; i < sent; i++)
		assert_int_equal(read_record(fd, 1514), i);
	SPIN(ga.sendables > 0);
	assert_int_equal(send_frame(a, 1514, sent), 1);
	assert_int_equal(read_record(fd, 1514), sent);
	close(fd);
	net_close(a);
}

/* It goes away with the sender waiting: the sender hears of it. */
static void peer_leaves_sender_waiting(void **state)
{
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	int fd = raw_connect();
	u32 sent = 0;

	SPIN(ga.ups == 1);
	ga.room = 0;
	while (sent < 100000 && send_frame(a, 1514, sent))
		sent++;
	assert_true(sent < 100000);
	close(fd);
	SPIN(ga.sendables == 1 && ga.downs == 1);
	/* The next peer starts at a record's first byte. */
	fd = raw_connect();
	SPIN(ga.ups == 2);
	assert_int_equal(send_frame(a, 100, 5), 1);
	assert_int_equal(read_record(fd, 100), 5);
	close(fd);
	net_close(a);
}

/* A guest without buffers stops the reading; what waits comes whole and in order. */
/* Nothing wakes the loop, so waiting costs nothing. (Work posted before is done first.) */
static bool loop_sleeps(void)
{
	struct pollfd p = {.fd = loop_fd(loop), .events = POLLIN};

	for (int i = 0; i < 8; i++)
		loop_run_once(loop, 0);
	return poll(&p, 1, 0) == 0;
}

static void guest_never_reads(void **state)
{
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	struct net *b = open_link(&gb, "stream,path=%s/s", dir);
	u32 sent = 0, quiet = 0;

	SPIN(ga.ups == 1);
	ga.room = 0;
	while (quiet < 20 && sent < 100000) {
		bool taken = send_frame(b, 1514, sent);

		sent += taken;
		quiet = taken ? 0 : quiet + 1;
		loop_run_once(loop, taken ? 0 : NSEC_PER_MSEC);
	}
	assert_true(sent < 100000);
	assert_int_equal(ga.received, 0);
	assert_true(loop_sleeps());
	for (u32 want = 1; want <= 10; want++) {
		ga.room = 1;
		net_receive_resume(a, 0);
		SPIN(ga.received == want);
	}
	ga.room = ~0u / 2;
	net_receive_resume(a, 0);
	SPIN(ga.received == sent);
	assert_false(ga.disorder);
	assert_true(gb.sendables > 0);
	net_close(b);
	net_close(a);
}

/* Many frames in a call, of all lengths, to a reader that takes a few at a time: whatever the
 * socket has room for, they arrive whole and in order. */
static void bursts(void **state)
{
	enum { MANY = 50, TOTAL = 3000 };
	static u8 data[MANY][NET_MAX_FRAME];
	static struct iovec iov[MANY][2];
	struct net_frame frames[MANY];
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	struct net *b = open_link(&gb, "stream,path=%s/s", dir);
	u32 sent = 0, refused = 0;

	SPIN(ga.ups == 1);
	while (gb.received < TOTAL) {
		u32 n = min((u32)MANY, TOTAL - sent), taken;

		for (u32 i = 0; i < n; i++) {
			u32 number = sent + i;
			u32 len = number % 97 ? 18 + number * 37 % 3000 : NET_MAX_FRAME;

			make_frame(data[i], len, number);
			iov[i][0] = (struct iovec){data[i], 18};
			iov[i][1] = (struct iovec){data[i] + 18, len - 18};
			frames[i] = (struct net_frame){.iov = iov[i], .niov = 2, .len = len};
		}
		taken = n ? net_send(a, 0, frames, n) : 0;
		refused += taken < n;
		sent += taken;
		gb.room = 7;
		net_receive_resume(b, 0);
		loop_run_once(loop, NSEC_PER_MSEC);
	}
	assert_true(refused > 0);
	assert_false(gb.disorder);
	assert_int_equal(gb.received, TOTAL);
	net_close(a);
	net_close(b);
}

static void dgram_back_pressure(void **state)
{
	struct net *a = open_link(&ga, "dgram,local.path=%s/a,remote.path=%s/b", dir, dir);
	struct net *b = open_link(&gb, "dgram,local.path=%s/b,remote.path=%s/a", dir, dir);
	u32 sent = 0, quiet = 0, sendables;

	gb.room = 0;
	while (quiet < 20 && sent < 10000) {
		bool taken = send_frame(a, 1514, sent);

		sent += taken;
		quiet = taken ? 0 : quiet + 1;
		loop_run_once(loop, taken ? 0 : NSEC_PER_MSEC);
	}
	assert_true(sent > 0 && sent < 10000);
	assert_int_equal(gb.received, 0);
	/* While the peer is full nothing wakes us. */
	assert_true(loop_sleeps());
	sendables = ga.sendables;
	for (int i = 0; i < 20; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(ga.sendables, sendables);
	gb.room = ~0u / 2;
	net_receive_resume(b, 0);
	SPIN(gb.received == sent && ga.sendables > sendables);
	assert_false(gb.disorder);
	assert_int_equal(send_frame(a, 1514, sent), 1);
	SPIN(gb.received == sent + 1);
	net_close(a);
	net_close(b);
}

/* ---- coming and going ---- */

static void reconnects(void **state)
{
	struct net *b = open_link(&gb, "stream,reconnect=on,path=%s/s", dir), *a;

	assert_false(net_link(b));
	for (u32 i = 1; i <= 2; i++) {
		a = open_link(&ga, "stream,server=on,path=%s/s", dir);
		SPIN(gb.ups == i && ga.ups == 1);
		gb.received = 0;
		assert_int_equal(send_frame(a, 60, i), 1);
		SPIN(gb.received == 1);
		net_close(a);
		SPIN(gb.downs == i);
	}
	net_close(b);
}

static void one_peer_at_a_time(void **state)
{
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s", dir);
	int first = raw_connect(), second = raw_connect();
	u8 record[64];

	store_be32(record, 60);
	make_frame(record + 4, 60, 1);
	put(second, record, sizeof(record));
	SPIN(ga.ups == 1);
	for (int i = 0; i < 10; i++)
		loop_run_once(loop, NSEC_PER_MSEC);
	assert_int_equal(ga.received, 0);
	close(first);
	SPIN(ga.ups == 2 && ga.received == 1);
	close(second);
	SPIN(ga.downs == 2);
	net_close(a);
}

struct sender {
	struct net *net;
	bool stop;
	u32 taken;
};

static void *send_always(void *arg)
{
	struct sender *s = arg;
	static u8 f[3000];
	struct iovec iov = {f, sizeof(f)};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = sizeof(f)};

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE))
		s->taken += net_send(s->net, 0, &frame, 1);
	return NULL;
}

/* Another thread sends while peers come, read a little (to a whole record's edge or not) and go. */
static void sends_through_changes(void **state)
{
	struct sender s = {.net = open_link(&ga, "stream,server=on,path=%s/s", dir)};
	static u8 buf[10000];
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, send_always, &s), 0);
	for (u32 i = 1; i <= 50; i++) {
		int fd = raw_connect();
		ssize_t n;

		SPIN(ga.ups == i);
		do {
			n = recv(fd, buf, 4 + i * 100, MSG_DONTWAIT);
			loop_run_once(loop, 0);
		} while (n < 4);
		assert_int_equal(load_be32(buf), 3000); /* each connection starts at a record */
		close(fd);
		SPIN(ga.downs == i);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_true(s.taken > 0);
	net_close(s.net);
}

/* A capture above the link knows that it is down. */
static void filter_follows_link(void **state)
{
	struct net *a = open_link(&ga, "stream,server=on,path=%s/s,dump=%s/pcap", dir, dir), *b;
	char path[80];

	assert_false(net_link(a));
	b = open_link(&gb, "stream,path=%s/s", dir);
	SPIN(ga.ups == 1);
	assert_true(net_link(a));
	assert_int_equal(send_frame(a, 60, 1), 1);
	SPIN(gb.received == 1);
	net_close(b);
	SPIN(ga.downs == 1);
	net_close(a);
	snprintf(path, sizeof(path), "%s/pcap", dir);
	assert_int_equal(unlink(path), 0);
}

/* What a killed run left behind is replaced; what is in use, or no socket, is not. */
static void leftovers(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct err err = {{0}};
	struct net *a;
	char spec[128];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/s", dir);
	snprintf(spec, sizeof(spec), "stream,server=on,path=%s/s", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	a = open_link(&ga, "%s", spec);
	assert_null(try_open(&gb, &err, spec));
	assert_non_null(strstr(err.text, "cannot listen"));
	assert_int_equal(access(addr.sun_path, F_OK), 0);
	net_close(a);
	assert_int_equal(access(addr.sun_path, F_OK), -1);
	fclose(fopen(addr.sun_path, "w"));
	assert_null(try_open(&gb, &err, spec));
	assert_int_equal(unlink(addr.sun_path), 0);
}

static void explains_mistakes(void **state)
{
	static const struct {
		const char *spec, *text;
	} cases[] = {
		{"stream", "path=PATH or addr=HOST:PORT"},
		{"stream,path=/x,addr=h:1", "one of them"},
		{"stream,addr=localhost", "HOST:PORT"},
		{"stream,addr=::1:80", "[IPV6]:PORT"},
		{"stream,addr=127.0.0.1:http", "127.0.0.1:http"},
		{"stream,path=/nonexistent/s", "cannot connect: No such file"},
		{"stream,server=on,path=/nonexistent/s", "cannot listen: No such file"},
		{"stream,server=on,reconnect=on,path=/x", "without server=on"},
		{"stream,addr=127.0.0.1:1", "cannot connect: Connection refused"},
		{"stream,nosuch=1", "nosuch"},
		{"dgram,local=127.0.0.1:1", "are wanted"},
		{"dgram,local.path=/x,remote=127.0.0.1:1", "are wanted"},
		{"dgram,local=127.0.0.1:7,remote=[::1]:7", "IPv6"},
		{"dgram,local.path=/nonexistent/a,remote.path=/b", "No such file"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {{0}};

		assert_null(try_open(&ga, &err, cases[i].spec));
		if (!strstr(err.text, cases[i].text))
			print_message("%s: %s\n", cases[i].spec, err.text);
		assert_non_null(strstr(err.text, cases[i].text));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stream_unix),	       cmocka_unit_test(stream_tcp),
		cmocka_unit_test(dgram_unix),	       cmocka_unit_test(dgram_udp),
		cmocka_unit_test(byte_by_byte),	       cmocka_unit_test(impossible_lengths),
		cmocka_unit_test(peer_never_reads),    cmocka_unit_test(peer_leaves_sender_waiting),
		cmocka_unit_test(guest_never_reads),   cmocka_unit_test(bursts),
		cmocka_unit_test(dgram_back_pressure), cmocka_unit_test(reconnects),
		cmocka_unit_test(one_peer_at_a_time),  cmocka_unit_test(sends_through_changes),
		cmocka_unit_test(filter_follows_link), cmocka_unit_test(leftovers),
		cmocka_unit_test(explains_mistakes),
	};
	int rc;

	snprintf(dir, sizeof(dir), "/tmp/bothy-net-XXXXXX");
	loop = loop_new();
	if (!loop || !mkdtemp(dir))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (rmdir(dir)) {
		printf("something was left in %s\n", dir);
		rc = 1;
	}
	loop_free(loop);
	return rc;
}
