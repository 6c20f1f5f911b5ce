/*
 * Frames over a stream socket, each behind its length (32 bits, big-endian): what QEMU's -netdev
 * stream and passt speak. UNIX or TCP; the server has one peer at a time and the next waits in the
 * kernel's queue. The link is up while there is a connection.
 *
 * Invariants:
 * 1. The loop's thread makes and ends connections and receives. rx[start, end) has been read and
 *    not been taken; a guest without buffers (blocked) stops the reading, so that it never holds
 *    more than RX_SIZE. The end of a connection shows itself by reading or by sending.
 * 2. Sending may come from any thread: `lock` guards up, broken, sender_waits, the tail and the
 *    closing of conn.fd. No callback is called with it held.
 * 3. A frame of which the kernel took a part has its rest in the tail, and no other frame follows
 *    until the tail is gone.
 * 4. A sender that was refused (sender_waits) hears of it: when there is room, or when the
 *    connection has ended.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "net/net_int.h"
#include "net/socket_int.h"
#include "os/clock.h"
#include "os/file.h"

#define HEADER	 4
#define RECORD	 (HEADER + NET_MAX_FRAME)
#define RX_SIZE	 (4 * RECORD)
#define MAX_IOV	 512
#define RETRY_NS NSEC_PER_SEC
#define PATIENCE 5000 /* ms, for the first connection */

struct stream {
	struct net net;
	struct sock_addr addr[SOCK_MAX_ADDRS];
	unsigned int addrs, next_addr;
	bool server, reconnect, bound;
	struct loop_watch listener; /* server: added while nobody is connected */
	struct loop_watch conn;	    /* the connection, or the attempt (client, while !up) */
	struct loop_timer retry;
	struct loop_work resume, room;

	bool attached, blocked, wants_room;
	u8 *rx;
	u32 start, end;

	pthread_mutex_t lock;
	bool up, broken, sender_waits;
	u8 *tail;
	u32 tail_start, tail_end;
};

struct stream_config {
	char *path, *addr;
	bool server, reconnect;
};

static struct stream *stream_of(struct net *net)
{
	return container_of(net, struct stream, net);
}

static void watch_connection(struct stream *s)
{
	u32 events = (s->attached && !s->blocked ? EPOLLIN : 0) | (s->wants_room ? EPOLLOUT : 0);

	if (!events)
		loop_watch_del(&s->conn);
	else if (!s->conn.added)
		loop_watch_add(s->net.loop, &s->conn, events);
	else
		loop_watch_modify(&s->conn, events);
}

/* ---- connections ---- */

static void connected(struct stream *s)
{
	int on = 1;

	setsockopt(s->conn.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	pthread_mutex_lock(&s->lock);
	s->up = true;
	pthread_mutex_unlock(&s->lock);
	watch_connection(s);
	net_set_link(&s->net, true);
}

static void listen_again(struct stream *s)
{
	if (loop_watch_add(s->net.loop, &s->listener, EPOLLIN))
		loop_timer_arm(&s->retry, clock_now_ns() + RETRY_NS);
}

static void disconnect(struct stream *s)
{
	bool waits;

	loop_watch_del(&s->conn);
	pthread_mutex_lock(&s->lock);
	fd_close(&s->conn.fd);
	waits = s->sender_waits;
	s->up = s->broken = s->sender_waits = false;
	s->tail_start = s->tail_end = 0;
	pthread_mutex_unlock(&s->lock);
	s->start = s->end = 0;
	s->blocked = s->wants_room = false;
	net_set_link(&s->net, false);
	if (waits)
		net_deliver_sendable(&s->net, 0);
	if (s->server)
		listen_again(s);
	else if (s->reconnect)
		loop_timer_arm(&s->retry, clock_now_ns() + RETRY_NS);
}

static void on_listener(struct loop_watch *watch, u32 events)
{
	struct stream *s = container_of(watch, struct stream, listener);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return;
	loop_watch_del(watch);
	if (fd < 0) { /* no descriptors: not at full speed */
		log_errno("%s: cannot accept a connection", s->net.class->name);
		loop_timer_arm(&s->retry, clock_now_ns() + RETRY_NS);
		return;
	}
	s->conn.fd = fd;
	connected(s);
}

/* A TCP socket that looks for a peer at a port of its own machine can meet itself. */
static bool met_itself(int fd)
{
	struct sock_addr a = {.len = sizeof(a.storage)}, b = {.len = sizeof(b.storage)};

	if (getsockname(fd, &a.any, &a.len) || getpeername(fd, &b.any, &b.len))
		return true; /* gone already */
	return a.any.sa_family != AF_UNIX && a.len == b.len && !memcmp(&a.any, &b.any, a.len);
}

/* The outcome of an attempt: 0, or -errno with the descriptor closed. */
static int connect_result(struct stream *s)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(s->conn.fd, SOL_SOCKET, SO_ERROR, &error, &len))
		error = errno;
	if (!error && met_itself(s->conn.fd))
		error = ECONNREFUSED;
	if (error)
		fd_close(&s->conn.fd);
	return -error;
}

/* Try the next address: 0, -EINPROGRESS, or another -errno with the descriptor closed. */
static int connect_start(struct stream *s)
{
	const struct sock_addr *a = &s->addr[s->next_addr++ % s->addrs];
	int rc = sock_new(a, SOCK_STREAM);

	if (rc < 0)
		return rc;
	s->conn.fd = rc;
	if (!connect(rc, &a->any, a->len))
		return connect_result(s);
	rc = -errno;
	if (rc != -EINPROGRESS)
		fd_close(&s->conn.fd);
	return rc;
}

/* Go on after connect_start() or connect_result(). */
static void connect_go_on(struct stream *s, int rc)
{
	if (rc == -EINPROGRESS)
		rc = loop_watch_add(s->net.loop, &s->conn, EPOLLOUT);
	else if (!rc)
		connected(s);
	if (!rc)
		return;
	fd_close(&s->conn.fd);
	loop_timer_arm(&s->retry, clock_now_ns() + RETRY_NS);
}

static void on_retry(struct loop_timer *timer)
{
	struct stream *s = container_of(timer, struct stream, retry);

	if (s->server)
		listen_again(s);
	else
		connect_go_on(s, connect_start(s));
}

/* ---- from the peer ---- */

/* Frames that are whole in rx[*at, end), as many as fit; *at goes behind them. -EPROTO when a
 * length is impossible, once everything before it has been found. */
static int parse(const struct stream *s, u32 *at, struct net_frame *frames, struct iovec *iov)
{
	int n = 0;

	while (n < NET_BATCH && s->end - *at >= HEADER) {
		u32 len = load_be32(s->rx + *at);

		if (len > NET_MAX_FRAME)
			return n ? n : -EPROTO;
		if (s->end - *at - HEADER < len)
			break;
		if (len >= NET_MIN_FRAME) {
			iov[n] = (struct iovec){s->rx + *at + HEADER, len};
			frames[n] = (struct net_frame){.iov = &iov[n], .niov = 1, .len = len};
			n++;
		}
		*at += HEADER + len;
	}
	return n;
}

/* Hand over what is whole in rx. -EPROTO: the peer does not speak this protocol. */
static int deliver(struct stream *s)
{
	struct net_frame frames[NET_BATCH];
	struct iovec iov[NET_BATCH];
	int n;

	do {
		u32 at = s->start, taken;

		n = parse(s, &at, frames, iov);
		if (n < 0)
			return n;
		taken = n ? net_deliver(&s->net, 0, frames, (u32)n) : 0;
		s->blocked = taken < (u32)n;
		s->start = s->blocked ? (u32)((u8 *)iov[taken].iov_base - s->rx) - HEADER : at;
	} while (n && !s->blocked);
	if (s->blocked)
		return 0;
	memmove(s->rx, s->rx + s->start, s->end - s->start);
	s->end -= s->start;
	s->start = 0;
	return 0;
}

/* -errno when the connection has ended. */
static int receive(struct stream *s)
{
	ssize_t n = recv(s->conn.fd, s->rx + s->end, RX_SIZE - s->end, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n)
		return -ECONNRESET;
	s->end += (u32)n;
	return deliver(s);
}

static void resume_work(struct loop_work *work)
{
	struct stream *s = container_of(work, struct stream, resume);

	if (!s->up || !s->blocked)
		return;
	if (deliver(s))
		disconnect(s);
	else
		watch_connection(s);
}

static void stream_resume(struct net *net, unsigned int pair)
{
	loop_post(net->loop, &stream_of(net)->resume);
}

/* ---- to the peer ---- */

/* How much of the message went out, or -EAGAIN, or -ENOBUFS (nothing, this time); other errors end
 * the connection. With the lock. */
static ssize_t transmit(struct stream *s, struct iovec *iov, size_t n)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t sent = sendmsg(s->conn.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent >= 0)
		return sent;
	if (errno == EAGAIN || errno == EINTR)
		return -EAGAIN;
	if (errno == ENOBUFS || errno == ENOMEM)
		return -ENOBUFS;
	s->broken = true;
	return -EPIPE;
}

/* True when the tail is gone. With the lock. */
static bool flush_tail(struct stream *s)
{
	struct iovec iov = {s->tail + s->tail_start, s->tail_end - s->tail_start};
	ssize_t n = iov.iov_len ? transmit(s, &iov, 1) : 0;

	if (n > 0)
		s->tail_start += (u32)n;
	return s->tail_start == s->tail_end;
}

/* Frames behind each other, each behind its length. */
struct burst {
	struct iovec iov[MAX_IOV + 1];
	u8 header[NET_BATCH][HEADER];
	size_t niov;
	u32 frames;
};

/* As many as go into one call. */
static void gather(struct burst *b, const struct net_frame *frames, u32 n)
{
	b->niov = b->frames = 0;
	for (; b->frames < min(n, (u32)NET_BATCH); b->frames++) {
		const struct net_frame *f = &frames[b->frames];

		if (b->niov + f->niov > MAX_IOV)
			break;
		store_be32(b->header[b->frames], f->len);
		b->iov[b->niov++] = (struct iovec){b->header[b->frames], HEADER};
		memcpy(b->iov + b->niov, f->iov, f->niov * sizeof(b->iov[0]));
		b->niov += f->niov;
	}
}

/* The frames of which anything is among the first `len` bytes; the rest of the last one goes to the
 * tail. */
static u32 settle(struct stream *s, const struct burst *b, const struct net_frame *frames,
		  size_t len)
{
	size_t end = 0;
	u32 n = 0;

	while (end < len)
		end += HEADER + frames[n++].len;
	s->tail_start = 0;
	s->tail_end = (u32)iov_to_buf(b->iov, b->niov, len, s->tail, end - len);
	return n;
}

/* How many were taken; 0: it has to wait. With the lock. */
static u32 send_burst(struct stream *s, const struct net_frame *frames, u32 n)
{
	struct burst b;
	ssize_t len;

	if (!flush_tail(s))
		return s->broken ? n : 0;
	gather(&b, frames, n);
	if (!b.frames)
		return 1; /* in too many pieces: it is lost */
	len = transmit(s, b.iov, b.niov);
	if (len == -EAGAIN)
		return 0;
	return len < 0 ? 1 : settle(s, &b, frames, (size_t)len);
}

static u32 stream_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct stream *s = stream_of(net);
	u32 sent = 0, some = 1;

	pthread_mutex_lock(&s->lock);
	while (sent < n && some && s->up && !s->broken) {
		some = send_burst(s, frames + sent, n - sent);
		sent += some;
	}
	if (!s->up || s->broken)
		sent = n; /* lost with the connection */
	s->sender_waits |= sent < n;
	if (s->broken || s->sender_waits || s->tail_start < s->tail_end)
		loop_post(net->loop, &s->room);
	pthread_mutex_unlock(&s->lock);
	return sent;
}

static void room_work(struct loop_work *work)
{
	struct stream *s = container_of(work, struct stream, room);
	bool broken;

	if (!s->up)
		return;
	pthread_mutex_lock(&s->lock);
	broken = s->broken;
	s->wants_room = s->sender_waits || s->tail_start < s->tail_end;
	pthread_mutex_unlock(&s->lock);
	if (broken)
		disconnect(s);
	else
		watch_connection(s);
}

/* -errno when the connection has ended. */
static int go_on_sending(struct stream *s)
{
	bool waits = false, broken;

	pthread_mutex_lock(&s->lock);
	if (flush_tail(s)) {
		waits = s->sender_waits;
		s->sender_waits = s->wants_room = false;
	}
	broken = s->broken;
	pthread_mutex_unlock(&s->lock);
	if (waits)
		net_deliver_sendable(&s->net, 0);
	return broken ? -EPIPE : 0;
}

static void on_connection(struct loop_watch *watch, u32 events)
{
	struct stream *s = container_of(watch, struct stream, conn);
	bool over = events & (EPOLLERR | EPOLLHUP);
	int rc = 0;

	if (!s->up) {
		loop_watch_del(watch);
		connect_go_on(s, connect_result(s));
		return;
	}
	if ((events & EPOLLIN || over) && s->attached && !s->blocked)
		rc = receive(s);
	if (!rc && (events & EPOLLOUT || over) && s->wants_room)
		rc = go_on_sending(s);
	if (rc == -EPROTO)
		log_guest("%s: the peer sent an impossible length; the connection ends",
			  s->net.class->name);
	if (rc)
		disconnect(s);
	else
		watch_connection(s);
}

/* ---- life ---- */

static int start_server(struct stream *s)
{
	int rc = -EADDRNOTAVAIL;

	for (unsigned int i = 0; i < s->addrs && rc < 0; i++) {
		rc = sock_bind(&s->addr[i], SOCK_STREAM);
		s->addr[0] = s->addr[rc < 0 ? 0 : i];
	}
	if (rc < 0)
		return rc;
	s->listener.fd = rc;
	s->bound = true;
	if (listen(s->listener.fd, 4))
		return -errno;
	return loop_watch_add(s->net.loop, &s->listener, EPOLLIN);
}

static int wait_connected(struct stream *s)
{
	struct pollfd p = {.fd = s->conn.fd, .events = POLLOUT};

	if (poll(&p, 1, PATIENCE) == 1)
		return connect_result(s);
	fd_close(&s->conn.fd);
	return -ETIMEDOUT;
}

/* The first connection is waited for, unless there will be others. */
static int start_client(struct stream *s)
{
	int rc = -EADDRNOTAVAIL;

	if (s->reconnect) {
		connect_go_on(s, connect_start(s));
		return 0;
	}
	for (unsigned int i = 0; i < s->addrs && rc; i++) {
		rc = connect_start(s);
		if (rc == -EINPROGRESS)
			rc = wait_connected(s);
	}
	if (!rc)
		connected(s);
	return rc;
}

static int parse_config(struct stream *s, const struct stream_config *c, struct err *err)
{
	int n;

	if (!c->path == !c->addr)
		return err_set(err, EINVAL, "path=PATH or addr=HOST:PORT is wanted, one of them");
	if (c->server && c->reconnect)
		return err_set(err, EINVAL, "reconnect=on is for the side without server=on");
	s->server = c->server;
	s->reconnect = c->reconnect;
	s->addrs = 1;
	if (c->path)
		return sock_addr_unix(&s->addr[0], c->path, err);
	n = sock_addr_inet(s->addr, c->addr, SOCK_STREAM, c->server, err);
	s->addrs = n < 0 ? 0 : (unsigned int)n;
	return min(n, 0);
}

static int stream_init(struct net *net, const void *config, struct err *err)
{
	const struct stream_config *c = config;
	struct stream *s = stream_of(net);
	int rc;

	pthread_mutex_init(&s->lock, NULL);
	s->listener = (struct loop_watch){.fd = -1, .fn = on_listener};
	s->conn = (struct loop_watch){.fd = -1, .fn = on_connection};
	s->resume.fn = resume_work;
	s->room.fn = room_work;
	loop_timer_init(net->loop, &s->retry, on_retry);
	net->link_down = true;
	rc = parse_config(s, c, err);
	if (rc)
		return rc;
	s->rx = malloc(RX_SIZE);
	s->tail = malloc(RECORD);
	if (!s->rx || !s->tail)
		return err_set(err, ENOMEM, "out of memory");
	rc = s->server ? start_server(s) : start_client(s);
	return rc ? err_set(err, -rc, "%s: cannot %s: %s", c->path ? c->path : c->addr,
			    s->server ? "listen" : "connect", strerror(-rc))
		  : 0;
}

static void stream_attached(struct net *net, bool client)
{
	struct stream *s = stream_of(net);

	s->attached = client;
	if (s->up)
		watch_connection(s);
}

static void stream_stop(struct net *net)
{
	struct stream *s = stream_of(net);

	loop_watch_del(&s->listener);
	loop_watch_del(&s->conn);
	loop_timer_disarm(&s->retry);
	loop_cancel(net->loop, &s->resume);
	loop_cancel(net->loop, &s->room);
}

static void stream_free(struct net *net)
{
	struct stream *s = stream_of(net);

	fd_close(&s->listener.fd);
	fd_close(&s->conn.fd);
	if (s->bound)
		sock_unlink(&s->addr[0]);
	free(s->rx);
	free(s->tail);
	pthread_mutex_destroy(&s->lock);
}

#define FIELD(f) offsetof(struct stream_config, f)

static const struct opt stream_options[] = {
	{"path", OPT_STRING, FIELD(path), "PATH", "a UNIX socket"},
	{"addr", OPT_STRING, FIELD(addr), "HOST:PORT", "a TCP address"},
	{"server", OPT_BOOL, FIELD(server), "on|off", "wait for the peer instead of connecting"},
	{"reconnect", OPT_BOOL, FIELD(reconnect), "on|off",
	 "try again every second while there is no connection"},
	OPT_END,
};

const struct net_class net_stream = {
	.name = "stream",
	.summary = "frames over a UNIX or TCP connection, as QEMU's -netdev stream and passt",
	.size = sizeof(struct stream),
	.options = stream_options,
	.config_size = sizeof(struct stream_config),
	.init = stream_init,
	.send = stream_send,
	.resume = stream_resume,
	.attached = stream_attached,
	.stop = stream_stop,
	.free = stream_free,
};
