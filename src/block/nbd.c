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
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "block/nbd_client_int.h"
#include "os/file.h"

#define WINDOW	 64
#define MAX_STEP (4 * MiB)

static struct nbd *nbd_of(struct block *b)
{
	return container_of(b, struct nbd, block);
}

static int nbd_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct nbd *n = nbd_of(b);
	struct nbd_address a;
	int rc = nbd_address_parse(&a, b->name, err);

	if (rc)
		goto out;
	n->extents = calloc(1, sizeof(*n->extents));
	if (!n->extents) {
		rc = err_set(err, ENOMEM, "%s: out of memory", b->name);
		goto out;
	}
	n->fd = nbd_connect(&a);
	rc = n->fd < 0 ? n->fd : nbd_handshake(n, a.export);
	if (rc == -ENOENT && n->fd >= 0) {
		err_set(err, ENOENT, "%s: the server has no export '%s'", b->name, a.export);
	} else if (rc) {
		err_set(err, -rc, "%s: %s", b->name, strerror(-rc));
	} else if ((n->flags & NBD_READ_ONLY) && !o->readonly) {
		rc = err_set(err, EROFS, "%s: the export is read-only (say readonly=on)", b->name);
	}
	if (rc) {
		fd_close(&n->fd);
		free(n->extents);
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
	nbd_address_free(&a);
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

static struct nbd_pending *find(struct nbd *n, u64 cookie)
{
	struct nbd_pending *p;

	list_for_each_entry (p, &n->waiting, link)
		if (p->cookie == cookie)
			return p;
	return NULL;
}

/* Bytes of a read, `skip` into it. */
static int receive_into(struct nbd *n, struct nbd_pending *p, u64 skip, u64 len)
{
	for (size_t i = 0; i < p->niov && len; i++) {
		u64 part;

		if (skip >= p->iov[i].iov_len) {
			skip -= p->iov[i].iov_len;
			continue;
		}
		part = min(len, p->iov[i].iov_len - skip);
		if (nbd_receive(n, (u8 *)p->iov[i].iov_base + skip, part))
			return -EIO;
		skip = 0;
		len -= part;
	}
	return len ? -EPROTO : 0;
}

/* What a chunk says of [offset, +len) must concern the read, and not more than was asked for. */
static bool concerns(const struct nbd_pending *p, u64 offset, u64 len)
{
	return p->type == NBD_CMD_READ && len && offset >= p->offset &&
	       range_fits(offset - p->offset, len, p->len) && len <= p->len - p->got;
}

static int chunk_data(struct nbd *n, struct nbd_pending *p, u32 len)
{
	u8 where[8];
	int rc = len > 8 ? nbd_receive(n, where, sizeof(where)) : -EPROTO;

	if (rc || !concerns(p, load_be64(where), len - 8))
		return -EPROTO;
	p->got += len - 8;
	return receive_into(n, p, load_be64(where) - p->offset, len - 8);
}

static int chunk_hole(struct nbd *n, struct nbd_pending *p, u32 len)
{
	u8 hole[12];
	int rc = len == sizeof(hole) ? nbd_receive(n, hole, sizeof(hole)) : -EPROTO;

	if (rc || !concerns(p, load_be64(hole), load_be32(hole + 8)))
		return -EPROTO;
	p->got += load_be32(hole + 8);
	iov_memset(p->iov, p->niov, load_be64(hole) - p->offset, 0, load_be32(hole + 8));
	return 0;
}

static int chunk_status(struct nbd *n, struct nbd_pending *p, u32 len)
{
	u32 count = len / 8;
	u8 entry[8], id[4];
	int rc;

	if (!p->extents || len % 8 != 4 || !count)
		return -EPROTO;
	rc = nbd_receive(n, id, sizeof(id));
	if (rc || load_be32(id) != n->meta_id)
		return -EPROTO;
	p->extents->start = p->offset;
	for (u32 i = 0; i < count && !rc; i++) {
		rc = nbd_receive(n, entry, sizeof(entry));
		if (!rc && !load_be32(entry))
			rc = -EPROTO;
		if (rc || i >= NBD_MAX_EXTENTS)
			continue; /* more than we have room for is asked for again */
		p->extents->e[i].len = load_be32(entry);
		p->extents->e[i].state = load_be32(entry + 4);
		p->extents->count = i + 1;
	}
	return rc;
}

/* An error, with a text (and a place) that nobody sees. */
static int chunk_error(struct nbd *n, struct nbd_pending *p, u32 len)
{
	u8 head[6], text[256];
	int rc = len >= sizeof(head) && len <= NBD_MAX_NAME + 16
			 ? nbd_receive(n, head, sizeof(head))
			 : -EPROTO;

	for (u32 left = len - (u32)sizeof(head); left && !rc;) {
		u32 part = min(left, (u32)sizeof(text));

		rc = nbd_receive(n, text, part);
		left -= part;
	}
	if (!rc && !p->result)
		p->result = load_be32(head) ? errno_of(load_be32(head)) : -EIO;
	return rc;
}

/* *last: no more chunks follow. */
static int read_chunk(struct nbd *n, struct nbd_pending *p, const u8 *head, bool *last)
{
	u16 type = load_be16(head + 6);
	u32 len = load_be32(head + 16);

	*last = load_be16(head + 4) & NBD_CHUNK_DONE;
	switch (type) {
	case NBD_CHUNK_NONE:
		return len || !*last ? -EPROTO : 0;
	case NBD_CHUNK_DATA:
		return chunk_data(n, p, len);
	case NBD_CHUNK_HOLE:
		return chunk_hole(n, p, len);
	case NBD_CHUNK_STATUS:
		return chunk_status(n, p, len);
	default:
		return type & NBD_CHUNK_IS_ERROR ? chunk_error(n, p, len) : -EPROTO;
	}
}

/* What was asked for must have come. */
static void judge(struct nbd_pending *p)
{
	if (p->result)
		return;
	if (p->type == NBD_CMD_READ && p->got != p->len)
		p->result = -EIO;
	if (p->type == NBD_CMD_BLOCK_STATUS && !p->extents->count)
		p->result = -EIO;
}

static int read_simple(struct nbd *n, struct nbd_pending *p, const u8 *head)
{
	/* With structured replies these two never come as simple ones. */
	if (n->structured && (p->type == NBD_CMD_READ || p->type == NBD_CMD_BLOCK_STATUS))
		return -EPROTO;
	p->result = errno_of(load_be32(head + 4));
	if (p->result || p->type != NBD_CMD_READ)
		return 0;
	p->got = p->len;
	return receive_into(n, p, 0, p->len);
}

/* One reply or chunk, into whose request it is. Not locked; only the reader takes from `waiting`.
 */
static int read_reply(struct nbd *n)
{
	struct nbd_pending *p;
	bool simple, last = true;
	u8 head[20];
	int rc = nbd_receive(n, head, 16);

	if (rc)
		return rc;
	simple = load_be32(head) == NBD_SIMPLE_MAGIC;
	if (!simple && !(n->structured && load_be32(head) == NBD_STRUCTURED_MAGIC))
		return -EPROTO;
	rc = simple ? 0 : nbd_receive(n, head + 16, 4);
	if (rc)
		return rc;
	pthread_mutex_lock(&n->lock);
	p = find(n, load_be64(head + 8));
	pthread_mutex_unlock(&n->lock);
	if (!p)
		return -EPROTO;
	rc = simple ? read_simple(n, p, head) : read_chunk(n, p, head, &last);
	if (rc || !last)
		return rc;
	judge(p);
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
		struct nbd_pending *p = list_first(&n->waiting, struct nbd_pending, link);

		list_del(&p->link);
		p->result = -EIO;
		p->done = true;
	}
}

static int wait_for(struct nbd *n, struct nbd_pending *p)
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

/* Send p, whose data is `count` pieces of a write, and wait for the reply. */
static int call(struct nbd *n, struct nbd_pending *p, u16 flags, const struct iovec *data,
		size_t count)
{
	struct iovec iov[WINDOW + 1];
	u8 head[28];
	int rc;

	pthread_mutex_lock(&n->lock);
	if (n->dead) {
		pthread_mutex_unlock(&n->lock);
		return -EIO;
	}
	p->cookie = n->next_cookie++;
	list_add_tail(&n->waiting, &p->link);
	pthread_mutex_unlock(&n->lock);
	store_be32(head, NBD_REQUEST_MAGIC);
	store_be16(head + 4, flags);
	store_be16(head + 6, p->type);
	store_be64(head + 8, p->cookie);
	store_be64(head + 16, p->offset);
	store_be32(head + 24, p->len);
	iov[0] = (struct iovec){head, sizeof(head)};
	if (count)
		memcpy(iov + 1, data, count * sizeof(*data));
	pthread_mutex_lock(&n->send_lock);
	rc = nbd_send(n, iov, 1 + count);
	pthread_mutex_unlock(&n->send_lock);
	/* A send that failed has broken the stream; the reader will see it, too. */
	if (rc)
		shutdown(n->fd, SHUT_RDWR);
	return wait_for(n, p);
}

static int transfer(struct nbd *n, const struct block_io *io, u16 type, u16 flags)
{
	u64 size = n->block.size, done = 0;
	int rc = 0;

	while (done < io->len && !rc) {
		struct iovec part[WINDOW];
		u64 at = io->offset + done, len = min(io->len - done, MAX_STEP);
		struct nbd_pending p;
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
		p = (struct nbd_pending){.type = type, .offset = at, .len = (u32)len};
		if (type == NBD_CMD_READ) {
			p.iov = part;
			p.niov = (size_t)count;
			count = 0;
		}
		rc = call(n, &p, flags, part, (size_t)count);
		done += len;
	}
	return rc;
}

/* Without data: any length, in pieces that fit the wire. */
static int extent(struct nbd *n, const struct block_io *io, u16 type, u16 flags)
{
	struct nbd_pending p;
	int rc = 0;

	for (u64 done = 0, len; done < io->len && !rc; done += len) {
		len = min(io->len - done, 1 * GiB);
		p = (struct nbd_pending){
			.type = type, .offset = io->offset + done, .len = (u32)len};
		rc = call(n, &p, flags, NULL, 0);
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
	struct nbd_pending p = {.type = NBD_CMD_FLUSH};

	return n->flags & NBD_SEND_FLUSH ? call(n, &p, 0, NULL, 0) : 0;
}

/* What is known of the ranges is not any more. */
static void forget(struct nbd *n)
{
	pthread_mutex_lock(&n->lock);
	n->extents->count = 0;
	n->changes++;
	pthread_mutex_unlock(&n->lock);
}

static int change(struct nbd *n, const struct block_io *io, u16 flags)
{
	switch (io->op) {
	case BLOCK_WRITE:
		return transfer(n, io, NBD_CMD_WRITE, flags);
	case BLOCK_WRITE_ZEROES:
		return write_zeroes(n, io, flags);
	default:
		return n->flags & NBD_SEND_TRIM ? extent(n, io, NBD_CMD_TRIM, 0) : 0;
	}
}

static int nbd_io(struct block *b, const struct block_io *io)
{
	struct nbd *n = nbd_of(b);
	bool fua = io->flags & BLOCK_FUA, sends_fua = n->flags & NBD_SEND_FUA;
	u16 flags = fua && sends_fua ? NBD_FLAG_FUA : 0;
	int rc;

	if (io->op == BLOCK_READ)
		return transfer(n, io, NBD_CMD_READ, 0);
	if (io->op == BLOCK_FLUSH)
		return flush(n);
	forget(n);
	rc = change(n, io, flags);
	forget(n);
	return rc || !fua || sends_fua || io->op == BLOCK_DISCARD ? rc : flush(n);
}

/* ---- what ranges are made of ---- */

/* From what is known. Locked. */
static bool status_known(struct nbd *n, u64 offset, struct block_extent *e)
{
	const struct nbd_extents *x = n->extents;
	u64 at = x->start;

	if (offset < at)
		return false;
	for (u32 i = 0; i < x->count; at += x->e[i++].len) {
		if (offset >= at + x->e[i].len)
			continue;
		e->len = min(e->len, at + x->e[i].len - offset);
		if (x->e[i].state & NBD_STATE_ZERO)
			e->flags |= BLOCK_ZERO;
		if (!(x->e[i].state & NBD_STATE_HOLE))
			e->flags |= BLOCK_DATA;
		return true;
	}
	return false;
}

/* Ask the server; what it says is kept if nothing was written meanwhile. */
static int status_ask(struct nbd *n, u64 offset, struct block_extent *e)
{
	struct nbd_extents *fresh = calloc(1, sizeof(*fresh));
	struct nbd_pending p = {.type = NBD_CMD_BLOCK_STATUS, .offset = offset, .extents = fresh};
	u64 changes;
	int rc;

	if (!fresh)
		return -ENOMEM;
	p.len = (u32)min(n->block.size - offset, 1 * GiB);
	pthread_mutex_lock(&n->lock);
	changes = n->changes;
	pthread_mutex_unlock(&n->lock);
	rc = call(n, &p, 0, NULL, 0);
	pthread_mutex_lock(&n->lock);
	if (!rc) {
		struct nbd_extents *old = n->extents;

		n->extents = fresh;
		fresh = old;
		if (!status_known(n, offset, e))
			rc = -EIO;
		if (changes != n->changes)
			n->extents->count = 0;
	}
	pthread_mutex_unlock(&n->lock);
	free(fresh);
	return rc;
}

static int nbd_status(struct block *b, u64 offset, struct block_extent *e)
{
	struct nbd *n = nbd_of(b);
	bool known;

	e->flags = BLOCK_ALLOCATED | BLOCK_HAS_HOST;
	e->host_offset = offset;
	e->file = b->name;
	if (!n->meta || offset >= n->block.size) {
		e->flags |= BLOCK_DATA;
		return 0;
	}
	pthread_mutex_lock(&n->lock);
	known = status_known(n, offset, e);
	pthread_mutex_unlock(&n->lock);
	return known ? 0 : status_ask(n, offset, e);
}

static int nbd_close(struct block *b)
{
	struct nbd *n = nbd_of(b);
	u8 head[28] = {0};
	struct iovec iov = {head, sizeof(head)};

	store_be32(head, NBD_REQUEST_MAGIC);
	store_be16(head + 6, NBD_CMD_DISC);
	if (!n->dead)
		nbd_send(n, &iov, 1);
	fd_close(&n->fd);
	free(n->extents);
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
