/*
 * Frames over a datagram socket, one in each: UNIX paths or UDP. What QEMU's -netdev dgram speaks.
 *
 * Invariants:
 * 1. Receiving is the main loop's: frame[next, count) are read and not taken; while there are any
 *    the socket is not watched for input.
 * 2. Sending may come from any thread, one at a time. The descriptor never changes; when the peer
 *    is full the loop is asked to watch for room.
 * 3. UNIX: the sending socket is one of its own, connected to the peer's path, because only then
 *    epoll knows when the peer has room; the one that is bound stays open for whoever may write to
 *    its path. A peer that comes back has a new socket: a refused frame connects again.
 *    UDP: both are one socket, connected, so that the kernel drops what others send.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "net/net_int.h"
#include "net/socket_int.h"
#include "os/file.h"

#define BATCH	16
#define MAX_IOV 512

struct dgram {
	struct net net;
	struct sock_addr local, remote;
	bool bound;
	struct loop_watch in, out;
	bool wants_input;
	struct loop_work resume, room;
	u8 *memory;
	struct net_frame frame[BATCH];
	struct iovec iov[BATCH];
	u32 next, count;
};

struct dgram_config {
	char *local, *remote, *local_path, *remote_path;
};

static struct dgram *dgram_of(struct net *net)
{
	return container_of(net, struct dgram, net);
}

static void watch_input(struct dgram *d)
{
	if (!d->wants_input)
		loop_watch_del(&d->in);
	else if (!d->in.added)
		loop_watch_add(d->net.loop, &d->in, EPOLLIN);
}

/* ---- from the peer ---- */

/* False when nothing more waits. */
static bool read_frame(struct dgram *d)
{
	u8 *buf = d->memory + (size_t)d->count * NET_MAX_FRAME;
	struct net_frame *f = &d->frame[d->count];
	ssize_t n = recv(d->in.fd, buf, NET_MAX_FRAME, MSG_TRUNC | MSG_DONTWAIT);

	if (n < 0)
		return errno != EAGAIN; /* what ICMP said about an earlier frame is history */
	if (n < NET_MIN_FRAME || n > NET_MAX_FRAME)
		return true;
	d->iov[d->count] = (struct iovec){buf, (size_t)n};
	*f = (struct net_frame){.iov = &d->iov[d->count], .niov = 1, .len = (u32)n};
	d->count++;
	return true;
}

/* Hand over what was read; true when all of it was taken. */
static bool deliver(struct dgram *d)
{
	if (d->next < d->count)
		d->next += net_deliver(&d->net, 0, d->frame + d->next, d->count - d->next);
	if (d->next < d->count)
		return false;
	d->next = d->count = 0;
	return true;
}

static void on_input(struct loop_watch *watch, u32 events)
{
	struct dgram *d = container_of(watch, struct dgram, in);

	for (int tries = 0; d->count < BATCH && tries < BATCH; tries++)
		if (!read_frame(d))
			break;
	d->wants_input = deliver(d);
	watch_input(d);
}

static void resume_work(struct loop_work *work)
{
	struct dgram *d = container_of(work, struct dgram, resume);

	d->wants_input = d->net.client.receive && deliver(d);
	watch_input(d);
}

static void dgram_resume(struct net *net, unsigned int pair)
{
	loop_post(net->loop, &dgram_of(net)->resume);
}

/* ---- to the peer ---- */

static void on_room(struct loop_watch *watch, u32 events)
{
	struct dgram *d = container_of(watch, struct dgram, out);

	loop_watch_del(watch);
	net_deliver_sendable(&d->net, 0);
}

static void room_work(struct loop_work *work)
{
	struct dgram *d = container_of(work, struct dgram, room);

	if (!d->out.added && loop_watch_add(d->net.loop, &d->out, EPOLLOUT))
		net_deliver_sendable(&d->net, 0);
}

static int connect_peer(struct dgram *d)
{
	return connect(d->out.fd, &d->remote.any, d->remote.len) ? -errno : 0;
}

/* 0, or -EAGAIN when there is no room; any other trouble costs the frame. */
static int write_frame(struct dgram *d, const struct net_frame *f)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)f->iov, .msg_iovlen = f->niov};

	if (f->niov > MAX_IOV)
		return 0;
	for (int tries = 0; tries < 2; tries++) {
		if (sendmsg(d->out.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno == EAGAIN)
			return -EAGAIN;
		if (errno != ECONNREFUSED && errno != ENOTCONN)
			return 0;
		/* The peer has gone; or on UDP, an earlier frame found none. */
		if (d->remote.any.sa_family == AF_UNIX && connect_peer(d))
			return 0;
	}
	return 0;
}

static u32 dgram_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct dgram *d = dgram_of(net);

	for (u32 i = 0; i < n; i++) {
		if (!write_frame(d, &frames[i]))
			continue;
		loop_post(net->loop, &d->room);
		return i;
	}
	return n;
}

/* ---- life ---- */

static int parse_unix(struct dgram *d, const struct dgram_config *c, struct err *err)
{
	int rc = sock_addr_unix(&d->local, c->local_path, err);

	return rc ? rc : sock_addr_unix(&d->remote, c->remote_path, err);
}

static int parse_inet(struct dgram *d, const struct dgram_config *c, struct err *err)
{
	struct sock_addr local[SOCK_MAX_ADDRS], remote[SOCK_MAX_ADDRS];
	int locals = sock_addr_inet(local, c->local, SOCK_DGRAM, true, err), remotes;

	if (locals < 0)
		return locals;
	remotes = sock_addr_inet(remote, c->remote, SOCK_DGRAM, false, err);
	if (remotes < 0)
		return remotes;
	for (int i = 0; i < remotes; i++)
		for (int k = 0; k < locals; k++)
			if (remote[i].any.sa_family == local[k].any.sa_family) {
				d->remote = remote[i];
				d->local = local[k];
				return 0;
			}
	return err_set(err, EINVAL, "local=%s and remote=%s: one is IPv4, the other is IPv6",
		       c->local, c->remote);
}

static int parse_addresses(struct dgram *d, const struct dgram_config *c, struct err *err)
{
	bool paths = c->local_path && c->remote_path, inet = c->local && c->remote;

	if (paths && !c->local && !c->remote)
		return parse_unix(d, c, err);
	if (inet && !c->local_path && !c->remote_path)
		return parse_inet(d, c, err);
	return err_set(err, EINVAL,
		       "local.path= and remote.path= are wanted (UNIX), or local= and remote= "
		       "with HOST:PORT (UDP)");
}

static int open_sockets(struct dgram *d)
{
	bool is_unix = d->local.any.sa_family == AF_UNIX;
	int fd = sock_bind(&d->local, SOCK_DGRAM);

	if (fd < 0)
		return fd;
	d->in.fd = fd;
	d->bound = true;
	fd = is_unix ? sock_new(&d->remote, SOCK_DGRAM) : fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return is_unix ? fd : -errno;
	d->out.fd = fd;
	/* A UNIX peer may come later. */
	return is_unix ? 0 : connect_peer(d);
}

static int dgram_init(struct net *net, const void *config, struct err *err)
{
	const struct dgram_config *c = config;
	struct dgram *d = dgram_of(net);
	int rc;

	d->in = (struct loop_watch){.fd = -1, .fn = on_input};
	d->out = (struct loop_watch){.fd = -1, .fn = on_room};
	d->resume.fn = resume_work;
	d->room.fn = room_work;
	rc = parse_addresses(d, c, err);
	if (rc)
		return rc;
	d->memory = malloc((size_t)BATCH * NET_MAX_FRAME);
	if (!d->memory)
		return err_set(err, ENOMEM, "out of memory");
	rc = open_sockets(d);
	return rc ? err_set(err, -rc, "%s: %s", c->local ? c->local : c->local_path, strerror(-rc))
		  : 0;
}

static void dgram_attached(struct net *net, bool client)
{
	struct dgram *d = dgram_of(net);

	d->wants_input = client;
	watch_input(d);
}

static void dgram_stop(struct net *net)
{
	struct dgram *d = dgram_of(net);

	loop_watch_del(&d->in);
	loop_watch_del(&d->out);
	loop_cancel(net->loop, &d->resume);
	loop_cancel(net->loop, &d->room);
}

static void dgram_free(struct net *net)
{
	struct dgram *d = dgram_of(net);

	fd_close(&d->in.fd);
	fd_close(&d->out.fd);
	if (d->bound)
		sock_unlink(&d->local);
	free(d->memory);
}

#define FIELD(f) offsetof(struct dgram_config, f)

static const struct opt dgram_options[] = {
	{"local.path", OPT_STRING, FIELD(local_path), "PATH", "the UNIX socket to receive from"},
	{"remote.path", OPT_STRING, FIELD(remote_path), "PATH", "the UNIX socket to send to"},
	{"local", OPT_STRING, FIELD(local), "HOST:PORT", "the UDP address to receive at"},
	{"remote", OPT_STRING, FIELD(remote), "HOST:PORT", "the UDP address of the peer"},
	OPT_END,
};

const struct net_class net_dgram = {
	.name = "dgram",
	.summary = "frames in UNIX or UDP datagrams, as QEMU's -netdev dgram",
	.size = sizeof(struct dgram),
	.options = dgram_options,
	.config_size = sizeof(struct dgram_config),
	.init = dgram_init,
	.send = dgram_send,
	.resume = dgram_resume,
	.attached = dgram_attached,
	.stop = dgram_stop,
	.free = dgram_free,
};
