/*
 * Invariants:
 * 1. At most VSOCK_MAX_CONNS connections, each with at most VSOCK_BUF_ALLOC bytes waiting.
 * 2. fwd_cnt counts bytes that the host's socket has taken; what is in buf is not among them.
 * 3. The socket is watched for input only while there is credit and nothing known to be readable,
 *    and for output only while something waits in buf.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "virtio/vsock_int.h"

static void on_socket(struct loop_watch *watch, u32 events);

static struct loop *loop_of(const struct vsock *vsock)
{
	return bus_loop(vsock->dev.bus);
}

/* ---- connections ---- */

static struct vsock_conn *conn_new(struct vsock *vsock, int fd, u16 type, u32 guest_port,
				   u32 host_port)
{
	struct vsock_conn *conn;

	if (vsock->nconns == VSOCK_MAX_CONNS)
		return NULL;
	conn = calloc(1, sizeof(*conn));
	if (!conn)
		return NULL;
	conn->vsock = vsock;
	conn->type = type;
	conn->guest_port = guest_port;
	conn->host_port = host_port;
	conn->watch = (struct loop_watch){.fd = fd, .fn = on_socket};
	if (loop_watch_add(loop_of(vsock), &conn->watch, EPOLLIN)) {
		free(conn);
		return NULL;
	}
	vsock->nconns++;
	list_add(&vsock->conns, &conn->link);
	return conn;
}

static void close_socket(struct vsock_conn *conn)
{
	loop_watch_del(&conn->watch);
	fd_close(&conn->watch.fd);
	conn->readable = false;
	conn->len = 0;
	vsock_seq_release(conn);
}

void vsock_conn_free(struct vsock_conn *conn)
{
	close_socket(conn);
	list_del(&conn->link);
	conn->vsock->nconns--;
	free(conn->buf);
	free(conn);
}

static void free_dead(struct vsock *vsock)
{
	while (!list_empty(&vsock->dead))
		vsock_conn_free(list_first(&vsock->dead, struct vsock_conn, link));
}

void vsock_reap(struct loop_work *work)
{
	struct vsock *vsock = container_of(work, struct vsock, reap);

	bus_lock(vsock->dev.bus);
	free_dead(vsock);
	bus_unlock(vsock->dev.bus);
}

void vsock_conns_bury(struct vsock *vsock)
{
	while (!list_empty(&vsock->conns)) {
		struct vsock_conn *conn = list_first(&vsock->conns, struct vsock_conn, link);

		conn->state = VSOCK_DEAD;
		list_del(&conn->link);
		list_add(&vsock->dead, &conn->link);
	}
	loop_post(loop_of(vsock), &vsock->reap);
}

void vsock_conns_free(struct vsock *vsock)
{
	vsock_conns_bury(vsock);
	loop_cancel(loop_of(vsock), &vsock->reap);
	free_dead(vsock);
}

struct vsock_conn *vsock_conn_lookup(struct vsock *vsock, u32 guest_port, u32 host_port)
{
	struct vsock_conn *conn;

	list_for_each_entry (conn, &vsock->conns, link)
		if (conn->guest_port == guest_port && conn->host_port == host_port &&
		    conn->state != VSOCK_HELLO)
			return conn;
	return NULL;
}

void vsock_conn_reset(struct vsock_conn *conn)
{
	close_socket(conn);
	conn->state = VSOCK_CLOSED;
	conn->pending = BIT(VIRTIO_VSOCK_OP_RST);
}

u32 vsock_conn_credit(const struct vsock_conn *conn)
{
	u32 sent = conn->tx_cnt - conn->peer_fwd;

	return sent < conn->peer_alloc ? conn->peer_alloc - sent : 0;
}

void vsock_conn_update(struct vsock_conn *conn)
{
	u32 events = 0;

	if (conn->watch.fd < 0)
		return;
	if (conn->state == VSOCK_HELLO || (conn->state == VSOCK_CONNECTED && !conn->readable &&
					   !conn->host_eof && vsock_conn_credit(conn)))
		events |= EPOLLIN;
	if (conn->len > vsock_seq_open_bytes(conn))
		events |= EPOLLOUT;
	if (events && !conn->watch.added)
		loop_watch_add(loop_of(conn->vsock), &conn->watch, events);
	else if (events)
		loop_watch_modify(&conn->watch, events);
	else /* hang-ups are level-triggered: they would keep the loop awake */
		loop_watch_del(&conn->watch);
}

/* ---- from the guest to the socket ---- */

static ssize_t send_some(struct vsock_conn *conn, struct iovec *iov, size_t niov)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = niov};
	ssize_t n = sendmsg(conn->watch.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n > 0)
		conn->fwd_cnt += (u32)n;
	return n;
}

/* Append to the ring what the socket did not take. */
static bool keep(struct vsock_conn *conn, const struct iovec *iov, size_t niov, size_t skip)
{
	if (!conn->buf)
		conn->buf = malloc(VSOCK_BUF_ALLOC);
	if (!conn->buf)
		return false;
	for (size_t i = 0; i < niov; i++) {
		const u8 *from = iov[i].iov_base;
		size_t n = iov[i].iov_len, drop = min(skip, n);

		skip -= drop;
		from += drop;
		n -= drop;
		if (n > VSOCK_BUF_ALLOC - conn->len)
			return false;
		while (n) {
			u32 at = (conn->head + conn->len) % VSOCK_BUF_ALLOC;
			u32 part = min((u32)n, VSOCK_BUF_ALLOC - at);

			memcpy(conn->buf + at, from, part);
			conn->len += part;
			from += part;
			n -= part;
		}
	}
	return true;
}

bool vsock_conn_write(struct vsock_conn *conn, const struct iovec *iov, size_t niov)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = niov};
	ssize_t n = 0;

	if (!conn->len)
		n = send_some(conn, msg.msg_iov, niov);
	return n >= 0 && keep(conn, iov, niov, (size_t)n);
}

/* All that waited is gone: what the guest wanted to happen after it. */
static void finish_shutdown(struct vsock_conn *conn)
{
	const u32 both = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;

	if (conn->len || conn->state != VSOCK_CONNECTED)
		return;
	if ((conn->guest_shut & both) == both)
		vsock_conn_reset(conn); /* 5.10.6.5: the answer to a complete shutdown */
	else if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND)
		shutdown(conn->watch.fd, SHUT_WR);
}

/* False when the socket takes no more now, or is gone. */
static bool drain_bytes(struct vsock_conn *conn)
{
	while (conn->len) {
		struct iovec iov = {conn->buf + conn->head,
				    min(conn->len, VSOCK_BUF_ALLOC - conn->head)};
		ssize_t n = send_some(conn, &iov, 1);

		if (n < 0)
			vsock_conn_reset(conn);
		if (n <= 0)
			return false;
		conn->head = (conn->head + (u32)n) % VSOCK_BUF_ALLOC;
		conn->len -= (u32)n;
	}
	return true;
}

static void drain_buf(struct vsock_conn *conn)
{
	if (conn->type == VSOCK_TYPE_SEQPACKET) {
		if (!vsock_seq_drain(conn))
			vsock_conn_reset(conn);
		if (conn->state != VSOCK_CONNECTED)
			return;
	} else if (!drain_bytes(conn)) {
		return;
	}
	/* The guest may be waiting for credit with nothing else to say. */
	if (conn->fwd_cnt != conn->told_fwd)
		conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	finish_shutdown(conn);
}

void vsock_conn_shutdown(struct vsock_conn *conn, u32 flags)
{
	conn->guest_shut |= flags;
	if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
		conn->readable = false;
	if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND)
		vsock_seq_drop_open(conn);
	finish_shutdown(conn);
}

/* ---- from the socket to the guest ---- */

u32 vsock_conn_read(struct vsock_conn *conn, struct iovec *iov, size_t niov, u32 len)
{
	struct msghdr msg = {.msg_iov = iov};
	ssize_t n;

	if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		conn->readable = false;
		return 0;
	}
	for (; msg.msg_iovlen < niov && len; msg.msg_iovlen++) {
		struct iovec *v = &iov[msg.msg_iovlen];

		v->iov_len = min(v->iov_len, (size_t)len);
		len -= (u32)v->iov_len;
	}
	n = recvmsg(conn->watch.fd, &msg, MSG_DONTWAIT);
	if (n > 0)
		return (u32)n;
	conn->readable = false;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	conn->host_eof = true;
	if (n < 0)
		vsock_conn_reset(conn);
	else
		conn->pending |= BIT(VIRTIO_VSOCK_OP_SHUTDOWN);
	return 0;
}

/* ---- the greeting of a program on the host ---- */

static bool read_hello(struct vsock_conn *conn)
{
	while (conn->hello_len < sizeof(conn->hello) - 1) {
		char *c = &conn->hello[conn->hello_len];
		ssize_t n = recv(conn->watch.fd, c, 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n <= 0)
			return false;
		if (*c == '\n') {
			u64 port;

			*c = 0;
			if (strncmp(conn->hello, "CONNECT ", 8) ||
			    parse_u64(conn->hello + 8, &port) || port > 0xffffffff)
				return false;
			conn->guest_port = (u32)port;
			conn->state = VSOCK_REQUESTED;
			conn->pending |= BIT(VIRTIO_VSOCK_OP_REQUEST);
			return true;
		}
		conn->hello_len++;
	}
	return false;
}

void vsock_conn_accepted(struct vsock_conn *conn)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "OK %u\n", conn->host_port);

	conn->state = VSOCK_CONNECTED;
	/* An empty socket takes this much, or its program is gone. */
	if (send(conn->watch.fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len)
		vsock_conn_reset(conn);
}

static void on_socket(struct loop_watch *watch, u32 events)
{
	struct vsock_conn *conn = container_of(watch, struct vsock_conn, watch);
	struct vsock *vsock = conn->vsock;

	bus_lock(vsock->dev.bus);
	if (conn->state == VSOCK_DEAD) {
		bus_unlock(vsock->dev.bus);
		return;
	}
	if (conn->state == VSOCK_HELLO && !read_hello(conn)) {
		vsock_conn_free(conn);
		bus_unlock(vsock->dev.bus);
		return;
	}
	if (conn->state == VSOCK_CONNECTED && events & EPOLLOUT)
		drain_buf(conn);
	if (conn->state == VSOCK_CONNECTED && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		conn->readable = !conn->host_eof;
	vsock_conn_update(conn);
	vsock_pump(vsock);
	bus_unlock(vsock->dev.bus);
}

/* ---- who connects ---- */

struct vsock_conn *vsock_conn_to_host(struct vsock *vsock, u16 type, u32 guest_port, u32 host_port)
{
	int kind = type == VSOCK_TYPE_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct vsock_conn *conn;
	int fd;

	if (snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", vsock->path, host_port) >=
	    (int)sizeof(addr.sun_path))
		return NULL;
	fd = socket(AF_UNIX, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	conn = connect(fd, (struct sockaddr *)&addr, sizeof(addr))
		       ? NULL
		       : conn_new(vsock, fd, type, guest_port, host_port);
	if (!conn) {
		close(fd);
		return NULL;
	}
	conn->state = VSOCK_CONNECTED;
	return conn;
}

/* A number that no other connection uses; ports that programs choose are far below. */
static u32 free_port(struct vsock *vsock)
{
	struct vsock_conn *conn;
	bool used;

	do {
		u32 port = vsock->next_port++ | 1u << 30;

		used = false;
		list_for_each_entry (conn, &vsock->conns, link)
			used |= conn->host_port == port;
		if (!used)
			return port;
	} while (1); /* there are fewer connections than numbers */
}

static void on_accept(struct loop_watch *watch, u32 events)
{
	struct vsock *vsock = container_of(watch, struct vsock, listener);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	bus_lock(vsock->dev.bus);
	/* Without a driver there is nobody to talk to. */
	if (!virtio_queue_is_live(&vsock->dev.queue[0]) ||
	    !conn_new(vsock, fd, VIRTIO_VSOCK_TYPE_STREAM, 0, free_port(vsock)))
		close(fd);
	bus_unlock(vsock->dev.bus);
}

int vsock_listen(struct vsock *vsock, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return err_set(err, errno, "no socket: %s", strerror(errno));
	vsock->listener = (struct loop_watch){.fd = fd, .fn = on_accept};
	memcpy(addr.sun_path, vsock->path, sizeof(addr.sun_path));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return err_set(err, errno, "%s: %s%s", vsock->path, strerror(errno),
			       errno == EADDRINUSE ? "; remove it if no other VM uses it" : "");
	vsock->bound = true;
	if (listen(fd, 64))
		return err_set(err, errno, "%s: %s", vsock->path, strerror(errno));
	rc = loop_watch_add(loop_of(vsock), &vsock->listener, EPOLLIN);
	return rc ? err_set(err, -rc, "%s: %s", vsock->path, strerror(-rc)) : 0;
}

void vsock_unlisten(struct vsock *vsock)
{
	loop_watch_del(&vsock->listener);
	fd_close(&vsock->listener.fd);
	if (vsock->bound)
		unlink(vsock->path);
	vsock->bound = false;
}
