/*
 * Invariants:
 * 1. The connections belong to the relay's thread (and to relay_free(), after it has ended).
 * 2. end[i].buf[start, end) has been read from end i and not been written to the other. An end is
 *    read only while its buffer is empty, and watched only for what it can go on with, so that a
 *    side that does not read stops the other and costs nothing.
 */
#define _GNU_SOURCE
#include "net/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/loop.h"
#include "os/thread.h"

#define BUFFER	 (32 * KiB)
#define BACKLOG	 128
#define TURNS	 16 /* buffers in a row, before others have their turn */
#define RETRY_NS (NSEC_PER_SEC / 10)

struct connection;

struct relay_end {
	struct loop_watch watch;
	struct connection *connection;
	u32 start, end;
	bool finished;	 /* it will send nothing more */
	bool told_other; /* and the other end has been told so */
	u8 buf[BUFFER];
};

struct connection {
	struct list link;
	struct relay *relay;
	struct relay_end end[2]; /* the caller's, the server's */
	unsigned int next_addr;
	bool up;
};

struct relay {
	struct sock_addr to[SOCK_MAX_ADDRS];
	unsigned int addrs, count;
	int place; /* O_PATH */
	char path[32];
	struct loop *loop;
	struct loop_watch listener;
	struct loop_timer retry;
	struct list connections;
	struct thread thread;
};

static void drop(struct connection *c)
{
	for (int i = 0; i < 2; i++) {
		loop_watch_del(&c->end[i].watch);
		fd_close(&c->end[i].watch.fd);
	}
	list_del(&c->link);
	c->relay->count--;
	free(c);
}

/* ---- data ---- */

/* Read what the other end is to get: 1, 0 when nothing has come, -1 when the connection is gone. */
static int fill(struct relay_end *from)
{
	ssize_t n = recv(from->watch.fd, from->buf, BUFFER, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	from->finished = !n;
	from->start = 0;
	from->end = (u32)n;
	return 1;
}

/* 1: all of it is written; 0: the other end takes no more now; -1: it is gone. */
static int empty(struct relay_end *from, struct relay_end *to)
{
	ssize_t n = send(to->watch.fd, from->buf + from->start, from->end - from->start,
			 MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	from->start += (u32)n;
	return from->start == from->end;
}

/* -1 when the connection is gone. */
static int pump(struct relay_end *from, struct relay_end *to)
{
	int rc = 1;

	for (int i = 0; i < TURNS && rc > 0; i++) {
		if (from->start == from->end)
			rc = from->finished ? 0 : fill(from);
		if (rc > 0 && from->start < from->end)
			rc = empty(from, to);
	}
	if (from->finished && from->start == from->end && !from->told_other) {
		shutdown(to->watch.fd, SHUT_WR);
		from->told_other = true;
	}
	return rc < 0 ? -1 : 0;
}

static void watch_end(struct relay_end *e, const struct relay_end *other)
{
	u32 events = (!e->finished && e->start == e->end ? EPOLLIN : 0) |
		     (other->start < other->end ? EPOLLOUT : 0);

	/* Not even for the end of the connection: that would be reported for ever. */
	if (!events)
		loop_watch_del(&e->watch);
	else if (!e->watch.added)
		loop_watch_add(e->connection->relay->loop, &e->watch, events);
	else
		loop_watch_modify(&e->watch, events);
}

static void go_on(struct connection *c)
{
	struct relay_end *a = &c->end[0], *b = &c->end[1];

	if (pump(a, b) || pump(b, a) || (a->told_other && b->told_other)) {
		drop(c);
		return;
	}
	watch_end(a, b);
	watch_end(b, a);
}

/* ---- connections ---- */

/* Try the next address; when there is none, the connection ends. */
static void connect_server(struct connection *c)
{
	struct loop_watch *watch = &c->end[1].watch;

	while (c->next_addr < c->relay->addrs) {
		const struct sock_addr *to = &c->relay->to[c->next_addr++];

		watch->fd = sock_new(to, SOCK_STREAM);
		if (watch->fd >= 0 &&
		    (!connect(watch->fd, &to->any, to->len) || errno == EINPROGRESS) &&
		    !loop_watch_add(c->relay->loop, watch, EPOLLOUT))
			return;
		if (watch->fd >= 0)
			fd_close(&watch->fd);
	}
	drop(c);
}

static void on_end(struct loop_watch *watch, u32 events)
{
	struct connection *c = container_of(watch, struct relay_end, watch)->connection;
	socklen_t len = sizeof(int);
	int error = 0;

	if (c->up) {
		go_on(c);
		return;
	}
	loop_watch_del(watch);
	if (getsockopt(watch->fd, SOL_SOCKET, SO_ERROR, &error, &len) || error) {
		fd_close(&watch->fd);
		connect_server(c);
		return;
	}
	c->up = true;
	go_on(c);
}

static void add_connection(struct relay *r, int fd)
{
	struct connection *c = r->count < RELAY_CONNECTIONS ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		log_guest("network: too many connections to a forwarded address");
		close(fd);
		return;
	}
	c->relay = r;
	for (int i = 0; i < 2; i++) {
		c->end[i].connection = c;
		c->end[i].watch = (struct loop_watch){.fd = -1, .fn = on_end};
	}
	c->end[0].watch.fd = fd;
	list_add_tail(&r->connections, &c->link);
	r->count++;
	connect_server(c);
}

static void on_listener(struct loop_watch *watch, u32 events)
{
	struct relay *r = container_of(watch, struct relay, listener);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		add_connection(r, fd);
	} else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
		/* No descriptors: not at full speed. */
		loop_watch_del(watch);
		loop_timer_arm(&r->retry, clock_now_ns() + RETRY_NS);
	}
}

static void on_retry(struct loop_timer *timer)
{
	struct relay *r = container_of(timer, struct relay, retry);

	if (loop_watch_add(r->loop, &r->listener, EPOLLIN))
		loop_timer_arm(timer, clock_now_ns() + RETRY_NS);
}

/* ---- life ---- */

/* A listening socket whose name is gone from the file system, and a descriptor that still leads to
 * it (proc(5), /proc/self/fd). */
static int listen_unnamed(struct relay *r)
{
	char dir[64];
	struct sock_addr a;
	int rc = 0;

	snprintf(dir, sizeof(dir), "/tmp/bothy-%d-XXXXXX", (int)getpid());
	if (!mkdtemp(dir))
		return -errno;
	memset(&a, 0, sizeof(a));
	a.un.sun_family = AF_UNIX;
	a.len = sizeof(a.un);
	snprintf(a.un.sun_path, sizeof(a.un.sun_path), "%s/s", dir);
	r->listener.fd = sock_bind(&a, SOCK_STREAM);
	if (r->listener.fd < 0)
		rc = r->listener.fd;
	else if (listen(r->listener.fd, BACKLOG))
		rc = -errno;
	else if ((r->place = open(a.un.sun_path, O_PATH | O_CLOEXEC)) < 0)
		rc = -errno;
	sock_unlink(&a);
	rmdir(dir);
	return rc;
}

int relay_new(struct relay **out, const struct sock_addr *to, unsigned int n, struct err *err)
{
	struct relay *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(err, ENOMEM, "out of memory");
	r->addrs = min(n, (unsigned int)SOCK_MAX_ADDRS);
	memcpy(r->to, to, r->addrs * sizeof(*to));
	r->place = -1;
	r->listener = (struct loop_watch){.fd = -1, .fn = on_listener};
	list_init(&r->connections);
	r->loop = loop_new();
	rc = r->loop ? listen_unnamed(r) : -errno;
	if (!rc) {
		loop_timer_init(r->loop, &r->retry, on_retry);
		rc = loop_watch_add(r->loop, &r->listener, EPOLLIN);
	}
	if (rc) {
		relay_free(r);
		return err_set(err, -rc, "a socket in /tmp: %s", strerror(-rc));
	}
	snprintf(r->path, sizeof(r->path), "/proc/self/fd/%d", r->place);
	*out = r;
	return 0;
}

const char *relay_path(const struct relay *r)
{
	return r->path;
}

static void *relay_main(void *arg)
{
	loop_run(((struct relay *)arg)->loop);
	return NULL;
}

int relay_start(struct relay *r)
{
	return thread_start(&r->thread, THREAD_NET, "net-relay", relay_main, r);
}

void relay_free(struct relay *r)
{
	if (!r)
		return;
	if (r->thread.started) {
		loop_stop(r->loop, 0);
		thread_join(&r->thread);
	}
	while (!list_empty(&r->connections))
		drop(list_first(&r->connections, struct connection, link));
	if (r->loop) {
		loop_watch_del(&r->listener);
		if (r->retry.loop)
			loop_timer_disarm(&r->retry);
		loop_free(r->loop);
	}
	fd_close(&r->listener.fd);
	fd_close(&r->place);
	free(r);
}
