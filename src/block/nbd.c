/*
 * NBD client: another server's export as the bottom of a stack. One connection; requests of several
 * threads are in flight on it at once.
 *
 * Invariants:
 * 1. `send_lock` is held over a whole request, so that requests do not mix on the wire.
 * 2. Of those who wait for replies one, the reader, reads from the socket, into the memory of
 * whomever the reply is for; that one sleeps until the reader says it is done.
 * 3. After an error on the socket, or a reply that nobody asked for, the connection is dead: all
 *    requests fail with -EIO from then on.
 *
 * The server is not trusted: lengths are limited and sizes judged.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "block/block_int.h"
#include "block/nbd_int.h"
#include "os/file.h"

#define MAX_REPLIES 256 /* to one option */
#define WINDOW	    64
#define MAX_STEP    (4 * MiB)

struct pending {
	struct list link;
	u64 cookie;
	struct iovec *iov; /* reads */
	size_t niov;
	int result;
	bool done;
};

struct nbd {
	struct block block;
	int fd;
	u16 flags;
	pthread_mutex_t send_lock, lock;
	pthread_cond_t changed;
	struct list waiting;
	u64 next_cookie;
	bool reading, dead;
};

static struct nbd *nbd_of(struct block *b)
{
	return container_of(b, struct nbd, block);
}

/* ---- addresses ---- */

struct address {
	char *host, *port, *export, *socket;
};

static void address_free(struct address *a)
{
	free(a->host);
	free(a->port);
	free(a->export);
	free(a->socket);
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* [from, to) with %XX decoded, in fresh memory. */
static char *decoded(const char *from, const char *to)
{
	char *out = malloc((size_t)(to - from) + 1), *p = out;

	while (out && from < to) {
		if (*from == '%' && to - from > 2 && hex(from[1]) >= 0 && hex(from[2]) >= 0) {
			*p++ = (char)(hex(from[1]) * 16 + hex(from[2]));
			from += 3;
		} else {
			*p++ = *from++;
		}
	}
	if (out)
		*p = '\0';
	return out;
}

/* nbd://HOST[:PORT][/EXPORT] or nbd+unix:///EXPORT?socket=PATH */
static int address_parse(struct address *a, const char *text, struct err *err)
{
	bool local = !strncmp(text, "nbd+unix://", 11);
	const char *rest = text + (local ? 11 : 6), *end = rest + strcspn(rest, "?");
	const char *host = rest + strcspn(rest, "/?"), *colon, *query = strstr(end, "socket=");

	*a = (struct address){0};
	if (!local && strncmp(text, "nbd://", 6))
		return err_set(err, EINVAL, "%s: not an NBD address", text);
	a->export = decoded(host < end ? host + 1 : end, end);
	if (local) {
		if (!query)
			return err_set(err, EINVAL, "%s: ?socket=PATH is missing", text);
		query += 7;
		a->socket = decoded(query, query + strcspn(query, "&"));
	} else {
		colon = *rest == '[' ? memchr(rest, ']', (size_t)(host - rest)) : rest;
		if (!colon)
			return err_set(err, EINVAL, "%s: broken host", text);
		a->host = *rest == '[' ? decoded(rest + 1, colon) : NULL;
		colon = memchr(colon, ':', (size_t)(host - colon));
		if (!a->host)
			a->host = decoded(rest, colon ? colon : host);
		a->port = colon ? decoded(colon + 1, host) : strdup("10809");
	}
	if (!a->export || (local ? !a->socket : !a->host || !a->port))
		return err_set(err, ENOMEM, "%s: out of memory", text);
	if (strlen(a->export) > NBD_MAX_NAME)
		return err_set(err, ENAMETOOLONG, "%s: name of the export is too long", text);
	return 0;
}

static int connect_unix(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd < 0 ? -errno : fd;
}

static int connect_tcp(const struct address *a)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	int fd = -1, rc = -EHOSTUNREACH, one = 1;

	if (getaddrinfo(a->host, a->port, &hints, &found))
		return -EHOSTUNREACH;
	for (struct addrinfo *i = found; i && fd < 0; i = i->ai_next) {
		fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC, i->ai_protocol);
		if (fd < 0)
			continue;
		if (connect(fd, i->ai_addr, i->ai_addrlen)) {
			rc = -errno;
			fd_close(&fd);
		}
	}
	freeaddrinfo(found);
	if (fd < 0)
		return rc;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* ---- the wire ---- */

static int receive(struct nbd *n, void *buf, size_t len)
{
	u8 *p = buf;

	while (len) {
		ssize_t got = recv(n->fd, p, len, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -EIO;
		p += got;
		len -= (size_t)got;
	}
	return 0;
}

static int send_all(struct nbd *n, struct iovec *iov, size_t count)
{
	while (count) {
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
		ssize_t sent = sendmsg(n->fd, &msg, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -EIO;
		iov_discard_front(&iov, &count, (size_t)sent);
		while (count && !iov->iov_len) {
			iov++;
			count--;
		}
	}
	return 0;
}

/* ---- handshake ---- */

static int send_option(struct nbd *n, u32 option, const void *data, u32 len)
{
	u8 head[16];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)data, len}};

	store_be64(head, NBD_OPTION_MAGIC);
	store_be32(head + 8, option);
	store_be32(head + 12, len);
	return send_all(n, iov, 2);
}

static int take_info(struct nbd *n, const u8 *p, u32 len)
{
	u32 least;

	if (len >= 12 && load_be16(p) == NBD_INFO_EXPORT) {
		n->block.size = load_be64(p + 2);
		n->flags = load_be16(p + 10);
	} else if (len >= 14 && load_be16(p) == NBD_INFO_BLOCK_SIZE) {
		least = load_be32(p + 2);
		if (!is_power_of_2(least) || least > 64 * KiB)
			return -EPROTO;
		n->block.block_size = max(least, BLOCK_SECTOR);
	}
	return 0;
}

/* Replies up to the last one. -ENOENT: no such export; -EOPNOTSUPP: the option is not known. */
static int option_replies(struct nbd *n, u32 option)
{
	for (int i = 0; i < MAX_REPLIES; i++) {
		u8 head[20], data[NBD_MAX_OPTION];
		u32 type, len;
		int rc = receive(n, head, sizeof(head));

		if (rc)
			return rc;
		type = load_be32(head + 12);
		len = load_be32(head + 16);
		if (load_be64(head) != NBD_REPLY_MAGIC || load_be32(head + 8) != option ||
		    len > sizeof(data))
			return -EPROTO;
		rc = receive(n, data, len);
		if (!rc && type == NBD_REP_INFO)
			rc = take_info(n, data, len);
		if (rc || type == NBD_REP_ACK)
			return rc;
		if (type == NBD_REP_UNSUPPORTED)
			return -EOPNOTSUPP;
		if (type & NBD_REP_ERROR)
			return type == NBD_REP_UNKNOWN ? -ENOENT : -EACCES;
	}
	return -EPROTO;
}

static int go(struct nbd *n, const char *export)
{
	u32 len = (u32)strlen(export);
	u8 data[8 + NBD_MAX_NAME];
	int rc;

	/* The name, and one request: block sizes. */
	store_be32(data, len);
	memcpy(data + 4, export, len);
	store_be16(data + 4 + len, 1);
	store_be16(data + 6 + len, NBD_INFO_BLOCK_SIZE);
	rc = send_option(n, NBD_OPT_GO, data, 8 + len);
	return rc ? rc : option_replies(n, NBD_OPT_GO);
}

/* Servers from before OPT_GO. */
static int export_name(struct nbd *n, const char *export, bool no_zeroes)
{
	u8 reply[134];
	int rc = send_option(n, NBD_OPT_EXPORT_NAME, export, (u32)strlen(export));

	if (!rc)
		rc = receive(n, reply, no_zeroes ? 10 : sizeof(reply));
	if (rc)
		return rc;
	n->block.size = load_be64(reply);
	n->flags = load_be16(reply + 8);
	return 0;
}

static int handshake(struct nbd *n, const char *export)
{
	u8 hello[18], flags[4];
	struct iovec iov = {flags, sizeof(flags)};
	bool no_zeroes;
	int rc = receive(n, hello, sizeof(hello));

	if (rc)
		return rc;
	if (load_be64(hello) != NBD_MAGIC || load_be64(hello + 8) != NBD_OPTION_MAGIC ||
	    !(load_be16(hello + 16) & NBD_FIXED_NEWSTYLE))
		return -EPROTO;
	no_zeroes = load_be16(hello + 16) & NBD_NO_ZEROES;
	store_be32(flags, NBD_FIXED_NEWSTYLE | (no_zeroes ? NBD_NO_ZEROES : 0));
	rc = send_all(n, &iov, 1);
	if (!rc)
		rc = go(n, export);
	if (rc == -EOPNOTSUPP)
		rc = export_name(n, export, no_zeroes);
	if (!rc && n->block.size > INT64_MAX)
		rc = -EFBIG;
	return rc;
}

static int nbd_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct nbd *n = nbd_of(b);
	struct address a;
	int rc = address_parse(&a, b->name, err);

	if (rc)
		goto out;
	n->fd = a.socket ? connect_unix(a.socket) : connect_tcp(&a);
	rc = n->fd < 0 ? n->fd : handshake(n, a.export);
	if (rc == -ENOENT && n->fd >= 0) {
		err_set(err, ENOENT, "%s: the server has no export '%s'", b->name, a.export);
	} else if (rc) {
		err_set(err, -rc, "%s: %s", b->name, strerror(-rc));
	} else if ((n->flags & NBD_READ_ONLY) && !o->readonly) {
		rc = err_set(err, EROFS, "%s: the export is read-only (say readonly=on)", b->name);
	}
	if (rc) {
		fd_close(&n->fd);
		goto out;
	}
	list_init(&n->waiting);
	pthread_mutex_init(&n->send_lock, NULL);
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->changed, NULL);
	b->readonly = o->readonly;
	b->fixed_size = true;
	b->can_discard = n->flags & NBD_SEND_TRIM;
	b->can_write_zeroes = n->flags & NBD_SEND_WRITE_ZEROES;
out:
	address_free(&a);
	return rc;
}

/* ---- requests ---- */

static int errno_of(u32 wire)
{
	switch (wire) {
	case 0:
		return 0;
	case NBD_EPERM:
		return -EPERM;
	case NBD_ENOMEM:
		return -ENOMEM;
	case NBD_EINVAL:
		return -EINVAL;
	case NBD_ENOSPC:
		return -ENOSPC;
	case NBD_ENOTSUP:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

static struct pending *find(struct nbd *n, u64 cookie)
{
	struct pending *p;

	list_for_each_entry (p, &n->waiting, link)
		if (p->cookie == cookie)
			return p;
	return NULL;
}

/* One reply, into whose request it is. Not locked; only the reader takes from `waiting`. */
static int read_reply(struct nbd *n)
{
	struct pending *p;
	u8 head[16];
	int rc = receive(n, head, sizeof(head));

	if (rc)
		return rc;
	pthread_mutex_lock(&n->lock);
	p = load_be32(head) == NBD_SIMPLE_MAGIC ? find(n, load_be64(head + 8)) : NULL;
	pthread_mutex_unlock(&n->lock);
	if (!p)
		return -EPROTO;
	p->result = errno_of(load_be32(head + 4));
	for (size_t i = 0; i < p->niov && !p->result && !rc; i++)
		rc = receive(n, p->iov[i].iov_base, p->iov[i].iov_len);
	if (rc)
		return rc;
	pthread_mutex_lock(&n->lock);
	list_del(&p->link);
	p->done = true;
	pthread_mutex_unlock(&n->lock);
	return 0;
}

/* The connection is of no use any more: everybody gets -EIO. Locked. */
static void give_up(struct nbd *n, int rc)
{
	if (!n->dead)
		log_error("%s: connection lost: %s", n->block.name, strerror(-rc));
	n->dead = true;
	shutdown(n->fd, SHUT_RDWR);
	while (!list_empty(&n->waiting)) {
		struct pending *p = list_first(&n->waiting, struct pending, link);

		list_del(&p->link);
		p->result = -EIO;
		p->done = true;
	}
}

static int wait_for(struct nbd *n, struct pending *p)
{
	pthread_mutex_lock(&n->lock);
	while (!p->done) {
		int rc;

		if (n->reading) {
			pthread_cond_wait(&n->changed, &n->lock);
			continue;
		}
		n->reading = true;
		pthread_mutex_unlock(&n->lock);
		rc = read_reply(n);
		pthread_mutex_lock(&n->lock);
		n->reading = false;
		if (rc)
			give_up(n, rc);
		pthread_cond_broadcast(&n->changed);
	}
	pthread_mutex_unlock(&n->lock);
	return p->result;
}

static int call(struct nbd *n, u16 type, u16 flags, u64 offset, u32 len, struct iovec *data,
		size_t count)
{
	bool write = type == NBD_CMD_WRITE;
	struct pending p = {.iov = data, .niov = write ? 0 : count};
	struct iovec iov[WINDOW + 1];
	u8 head[28];
	int rc;

	pthread_mutex_lock(&n->lock);
	if (n->dead) {
		pthread_mutex_unlock(&n->lock);
		return -EIO;
	}
	p.cookie = n->next_cookie++;
	list_add_tail(&n->waiting, &p.link);
	pthread_mutex_unlock(&n->lock);
	store_be32(head, NBD_REQUEST_MAGIC);
	store_be16(head + 4, flags);
	store_be16(head + 6, type);
	store_be64(head + 8, p.cookie);
	store_be64(head + 16, offset);
	store_be32(head + 24, len);
	iov[0] = (struct iovec){head, sizeof(head)};
	if (write)
		memcpy(iov + 1, data, count * sizeof(*data));
	pthread_mutex_lock(&n->send_lock);
	rc = send_all(n, iov, 1 + (write ? count : 0));
	pthread_mutex_unlock(&n->send_lock);
	/* A send that failed has broken the stream; the reader will see it, too. */
	if (rc)
		shutdown(n->fd, SHUT_RDWR);
	return wait_for(n, &p);
}

static int transfer(struct nbd *n, const struct block_io *io, u16 type, u16 flags)
{
	u64 size = n->block.size, done = 0;
	int rc = 0;

	while (done < io->len && !rc) {
		struct iovec part[WINDOW];
		u64 at = io->offset + done, len = min(io->len - done, MAX_STEP);
		int count;

		/* Formats read past the end of what they stand on and expect zeros. */
		if (at >= size) {
			if (type != NBD_CMD_READ)
				return -ENOSPC;
			iov_memset(io->iov, (size_t)io->niov, done, 0, io->len - done);
			return 0;
		}
		len = min(len, size - at);
		count = iov_slice(part, WINDOW, io->iov, (size_t)io->niov, done, len);
		if (count == -E2BIG) {
			count = WINDOW;
			len = iov_length(part, WINDOW);
		}
		if (count < 0)
			return count;
		rc = call(n, type, flags, at, (u32)len, part, (size_t)count);
		done += len;
	}
	return rc;
}

/* Without data: any length, in pieces that fit the wire. */
static int extent(struct nbd *n, const struct block_io *io, u16 type, u16 flags)
{
	int rc = 0;

	for (u64 done = 0, len; done < io->len && !rc; done += len) {
		len = min(io->len - done, 1 * GiB);
		rc = call(n, type, flags, io->offset + done, (u32)len, NULL, 0);
	}
	return rc;
}

static int write_zeroes(struct nbd *n, const struct block_io *io, u16 flags)
{
	struct iovec iov = {NULL, 64 * KiB};
	int rc = 0;

	if (n->flags & NBD_SEND_WRITE_ZEROES)
		return extent(n, io, NBD_CMD_WRITE_ZEROES,
			      flags | (io->flags & BLOCK_MAY_UNMAP ? 0 : NBD_FLAG_NO_HOLE));
	iov.iov_base = calloc(1, iov.iov_len);
	if (!iov.iov_base)
		return -ENOMEM;
	for (u64 done = 0; done < io->len && !rc; done += iov.iov_len) {
		struct block_io part = {.offset = io->offset + done, .iov = &iov, .niov = 1};

		part.len = iov.iov_len = min(io->len - done, 64 * KiB);
		rc = transfer(n, &part, NBD_CMD_WRITE, flags);
	}
	free(iov.iov_base);
	return rc;
}

static int flush(struct nbd *n)
{
	return n->flags & NBD_SEND_FLUSH ? call(n, NBD_CMD_FLUSH, 0, 0, 0, NULL, 0) : 0;
}

static int nbd_io(struct block *b, const struct block_io *io)
{
	struct nbd *n = nbd_of(b);
	bool fua = io->flags & BLOCK_FUA, sends_fua = n->flags & NBD_SEND_FUA;
	u16 flags = fua && sends_fua ? NBD_FLAG_FUA : 0;
	int rc;

	switch (io->op) {
	case BLOCK_READ:
		return transfer(n, io, NBD_CMD_READ, 0);
	case BLOCK_WRITE:
		rc = transfer(n, io, NBD_CMD_WRITE, flags);
		break;
	case BLOCK_WRITE_ZEROES:
		rc = write_zeroes(n, io, flags);
		break;
	case BLOCK_DISCARD:
		return n->flags & NBD_SEND_TRIM ? extent(n, io, NBD_CMD_TRIM, 0) : 0;
	default:
		return flush(n);
	}
	return rc || !fua || sends_fua ? rc : flush(n);
}

static int nbd_status(struct block *b, u64 offset, struct block_extent *e)
{
	e->flags = BLOCK_DATA | BLOCK_ALLOCATED | BLOCK_HAS_HOST;
	e->host_offset = offset;
	e->file = b->name;
	return 0;
}

static int nbd_close(struct block *b)
{
	struct nbd *n = nbd_of(b);
	u8 head[28] = {0};
	struct iovec iov = {head, sizeof(head)};

	store_be32(head, NBD_REQUEST_MAGIC);
	store_be16(head + 6, NBD_CMD_DISC);
	if (!n->dead)
		send_all(n, &iov, 1);
	fd_close(&n->fd);
	pthread_cond_destroy(&n->changed);
	pthread_mutex_destroy(&n->lock);
	pthread_mutex_destroy(&n->send_lock);
	return 0;
}

const struct block_class block_nbd_class = {
	.name = "nbd",
	.kind = BLOCK_PROTOCOL,
	.size = sizeof(struct nbd),
	.scheme = "nbd",
	.open = nbd_open,
	.close = nbd_close,
	.io = nbd_io,
	.status = nbd_status,
};
