/* Connections through a relay to servers of this process. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/types.h"
#include "net/relay.h"

#define LONG (4 * MiB) /* more than all buffers between the two ends hold */

/* A server on the loop-back address. */
static int serve(struct sock_addr *a)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&a->storage;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	memset(a, 0, sizeof(*a));
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a->len = sizeof(*in);
	assert_int_equal(bind(fd, &a->any, a->len), 0);
	assert_int_equal(listen(fd, 512), 0);
	assert_int_equal(getsockname(fd, &a->any, &a->len), 0);
	return fd;
}

static struct relay *start(const struct sock_addr *to, unsigned int n)
{
	struct relay *r;
	struct err err;

	assert_int_equal(relay_new(&r, to, n, &err), 0);
	assert_int_equal(relay_start(r), 0);
	return r;
}

static int enter(const struct relay *r)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", relay_path(r));
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void send_all(int fd, const u8 *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, data + at, len - at);

		assert_true(n > 0);
		at += (size_t)n;
	}
}

static void expect(int fd, const u8 *data, size_t len)
{
	u8 *got = malloc(len);

	for (size_t at = 0; at < len;) {
		ssize_t n = read(fd, got + at, len - at);

		assert_true(n > 0);
		at += (size_t)n;
	}
	assert_memory_equal(got, data, len);
	free(got);
}

static void expect_end(int fd)
{
	u8 byte;

	assert_true(read(fd, &byte, 1) <= 0);
}

/* Both directions, and each end by itself. */
static void carries_both_ways(void **state)
{
	struct sock_addr a;
	int listener = serve(&a), caller, server;
	struct relay *r = start(&a, 1);

	caller = enter(r);
	server = accept(listener, NULL, NULL);
	send_all(caller, (const u8 *)"question", 8);
	expect(server, (const u8 *)"question", 8);
	shutdown(caller, SHUT_WR);
	expect_end(server);
	send_all(server, (const u8 *)"answer", 6);
	expect(caller, (const u8 *)"answer", 6);
	close(server);
	expect_end(caller);
	close(caller);
	close(listener);
	relay_free(r);
}

/* Who does not read stops the other; nothing is lost. */
static void waits_for_readers(void **state)
{
	struct sock_addr a;
	int listener = serve(&a), caller, server;
	struct relay *r = start(&a, 1);
	u8 *data = malloc(LONG);
	ssize_t n;
	size_t sent = 0;

	for (u32 i = 0; i < LONG; i++)
		data[i] = (u8)(i * 2654435761u >> 24);
	caller = enter(r);
	server = accept(listener, NULL, NULL);
	/* The receiver's kernel may hold some megabytes by itself. */
	assert_int_equal(setsockopt(server, SOL_SOCKET, SO_RCVBUF, &(int){65536}, sizeof(int)), 0);
	while ((n = send(caller, data + sent, LONG - sent, MSG_DONTWAIT)) > 0 || sent == 0) {
		sent += n > 0 ? (size_t)n : 0;
		usleep(1000);
	}
	assert_true(sent > 0);
	close(caller);
	expect(server, data, sent);
	expect_end(server);
	close(server);
	close(listener);
	free(data);
	relay_free(r);
}

/* A server that is not there ends the connection; another address of it is tried first. */
static void tries_each_address(void **state)
{
	struct sock_addr a[2];
	int listener = serve(&a[1]), caller, server, gone = serve(&a[0]);
	struct relay *r;

	close(gone);
	r = start(a, 1);
	caller = enter(r);
	expect_end(caller);
	close(caller);
	relay_free(r);

	r = start(a, 2);
	caller = enter(r);
	server = accept(listener, NULL, NULL);
	send_all(server, (const u8 *)"here", 4);
	expect(caller, (const u8 *)"here", 4);
	close(server);
	close(caller);
	close(listener);
	relay_free(r);
}

/* More connections than there may be: the surplus ends, the others go on, and room comes back. */
/* An ordinary user begins with 1,024 descriptors, the four of each connection here need more. */
static bool has_descriptors(void)
{
	struct rlimit l;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &l), 0);
	l.rlim_cur = l.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
	return l.rlim_max > 5 * RELAY_CONNECTIONS;
}

static void bounds_connections(void **state)
{
	struct sock_addr a;
	int listener, caller[RELAY_CONNECTIONS + 1], server[RELAY_CONNECTIONS];
	struct relay *r;

	if (!has_descriptors())
		skip();
	listener = serve(&a);
	r = start(&a, 1);
	for (int i = 0; i < RELAY_CONNECTIONS; i++) {
		caller[i] = enter(r);
		server[i] = accept(listener, NULL, NULL);
	}
	caller[RELAY_CONNECTIONS] = enter(r);
	expect_end(caller[RELAY_CONNECTIONS]);
	send_all(caller[7], (const u8 *)"still", 5);
	expect(server[7], (const u8 *)"still", 5);
	/* Both ends of one close; once the server's has, its place is free. */
	close(server[7]);
	expect_end(caller[7]);
	close(caller[7]);
	for (int tries = 0;; tries++) {
		struct pollfd p = {.fd = listener, .events = POLLIN};

		caller[7] = enter(r);
		if (poll(&p, 1, 100) == 1)
			break;
		close(caller[7]);
		assert_true(tries < 100);
	}
	server[7] = accept(listener, NULL, NULL);
	/* Freed with connections open. */
	relay_free(r);
	for (int i = 0; i < RELAY_CONNECTIONS; i++) {
		expect_end(caller[i]);
		close(caller[i]);
		close(server[i]);
	}
	close(caller[RELAY_CONNECTIONS]);
	close(listener);
}

static int count_files(void)
{
	DIR *dir = opendir("/tmp");
	struct dirent *e;
	char mine[32];
	int n = 0;

	snprintf(mine, sizeof(mine), "bothy-%d-", (int)getpid());
	while ((e = readdir(dir)))
		n += !strncmp(e->d_name, mine, strlen(mine));
	closedir(dir);
	return n;
}

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void leaves_nothing(void **state)
{
	int files = count_files(), fds = count_descriptors();
	struct sock_addr a;
	struct relay *r;
	struct err err;

	close(serve(&a));
	assert_int_equal(relay_new(&r, &a, 1, &err), 0);
	assert_int_equal(count_files(), files);
	relay_free(r);
	assert_int_equal(count_descriptors(), fds);
	relay_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(carries_both_ways),  cmocka_unit_test(waits_for_readers),
		cmocka_unit_test(tries_each_address), cmocka_unit_test(bounds_connections),
		cmocka_unit_test(leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
