/*
 * Invariants:
 * 1. A client has a socket and threads of its own; the image is shared and takes any number of
 *    threads. The threads take turns at reading requests from the socket (receive_lock), and each
 *    serves what it has read while another reads on: replies come as they are ready. There is one
 *    to begin with, and one more whenever nobody is left to read, up to MAX_WORKERS.
 * 2. Nothing a client says is believed: lengths are limited before memory is taken, options that do
 *    not parse end the connection, requests are judged against the size.
 * 3. A client that has not finished the handshake in time is cut off, and one that does not read
 * its replies blocks only itself.
 */
#define _GNU_SOURCE
#include "block/nbd_server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/list.h"
#include "base/log.h"
#include "block/nbd_int.h"
#include "os/file.h"
#include "os/thread.h"

#define HANDSHAKE_SECONDS 10
#define MAX_WORKERS	  16 /* requests of one client in flight */
#define MAX_EXTENTS	  512
#define META_ID		  1
#define META_NAME	  "base:allocation"
#define MAX_OPTIONS	  64 /* a client negotiates no longer than that */

struct worker {
	struct client *client;
	struct thread thread;
	u8 *buf; /* NBD_MAX_REQUEST, of which only what is used is real */
};

struct client {
	const struct nbd_export *export;
	struct list link;
	int fd;
	bool structured, meta, no_zeroes;
	bool gone; /* the last thread is about to end */
	pthread_mutex_t receive_lock, send_lock;
	struct worker workers[MAX_WORKERS]; /* the next four under receive_lock */
	unsigned int started, running;
	bool ended;	      /* no more requests are taken */
	unsigned int waiting; /* for receive_lock; atomic */
};

/* ---- the wire ---- */

static int receive(struct client *c, void *buf, size_t len)
{
	u8 *p = buf;

	while (len) {
		ssize_t n = recv(c->fd, p, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ECONNRESET;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int send_locked(struct client *c, const void *head, size_t head_len, const void *data,
		       size_t len)
{
	struct iovec iov[2] = {{(void *)(uintptr_t)head, head_len}, {(void *)(uintptr_t)data, len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	while (iov[0].iov_len + iov[1].iov_len) {
		ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
		size_t first;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		first = min((size_t)n, iov[0].iov_len);
		iov[0].iov_base = (u8 *)iov[0].iov_base + first;
		iov[0].iov_len -= first;
		iov[1].iov_base = (u8 *)iov[1].iov_base + ((size_t)n - first);
		iov[1].iov_len -= (size_t)n - first;
	}
	return 0;
}

/* In one piece: replies of several workers do not mix. */
static int send_parts(struct client *c, const void *head, size_t head_len, const void *data,
		      size_t len)
{
	int rc;

	pthread_mutex_lock(&c->send_lock);
	rc = send_locked(c, head, head_len, data, len);
	pthread_mutex_unlock(&c->send_lock);
	return rc;
}

/* ---- handshake ---- */

static int option_reply(struct client *c, u32 option, u32 type, const void *data, u32 len)
{
	u8 head[20];

	store_be64(head, NBD_REPLY_MAGIC);
	store_be32(head + 8, option);
	store_be32(head + 12, type);
	store_be32(head + 16, len);
	return send_parts(c, head, sizeof(head), data, len);
}

static u16 flags_of(const struct client *c)
{
	struct block_info info;
	u16 flags = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_MULTI_CONN | NBD_SEND_DF;

	block_get_info(c->export->block, &info);
	if (info.readonly || c->export->readonly)
		return flags | NBD_READ_ONLY;
	return flags | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES;
}

static bool name_matches(const struct client *c, const u8 *name, u32 len)
{
	return !len || (len == strlen(c->export->name) && !memcmp(name, c->export->name, len));
}

static int option_list(struct client *c, u32 option, u32 len)
{
	u32 name = (u32)strlen(c->export->name);
	u8 data[4 + NBD_MAX_NAME];
	int rc;

	if (len)
		return option_reply(c, option, NBD_REP_INVALID, NULL, 0);
	store_be32(data, name);
	memcpy(data + 4, c->export->name, name);
	rc = option_reply(c, option, NBD_REP_SERVER, data, 4 + name);
	return rc ? rc : option_reply(c, option, NBD_REP_ACK, NULL, 0);
}

/* *entered: the handshake is over. */
static int option_go(struct client *c, u32 option, const u8 *p, u32 len, bool *entered)
{
	u8 export[12], sizes[14];
	struct block_info info;
	u32 name;
	int rc;

	if (len < 6 || (name = load_be32(p)) > len - 6 ||
	    load_be16(p + 4 + name) * 2u != len - 6 - name)
		return option_reply(c, option, NBD_REP_INVALID, NULL, 0);
	if (!name_matches(c, p + 4, name))
		return option_reply(c, option, NBD_REP_UNKNOWN, NULL, 0);
	block_get_info(c->export->block, &info);
	store_be16(export, NBD_INFO_EXPORT);
	store_be64(export + 2, info.size);
	store_be16(export + 10, flags_of(c));
	store_be16(sizes, NBD_INFO_BLOCK_SIZE);
	store_be32(sizes + 2, 1);
	store_be32(sizes + 6, max(info.block_size, 4096u));
	store_be32(sizes + 10, NBD_MAX_REQUEST);
	rc = option_reply(c, option, NBD_REP_INFO, export, sizeof(export));
	if (!rc)
		rc = option_reply(c, option, NBD_REP_INFO, sizes, sizeof(sizes));
	if (!rc)
		rc = option_reply(c, option, NBD_REP_ACK, NULL, 0);
	*entered = !rc && option == NBD_OPT_GO;
	return rc;
}

/* Does one of the queries ask for our context? False for *ok when they do not parse. */
static bool wants_meta(const u8 *p, u32 len, u32 queries, bool list, bool *ok)
{
	bool wanted = list && !queries;

	*ok = false;
	while (queries--) {
		u32 n;

		if (len < 4 || (n = load_be32(p)) > len - 4)
			return false;
		if ((n == strlen(META_NAME) && !memcmp(p + 4, META_NAME, n)) ||
		    (list && n == 5 && !memcmp(p + 4, "base:", 5)))
			wanted = true;
		p += 4 + n;
		len -= 4 + n;
	}
	*ok = !len;
	return wanted;
}

static int option_meta(struct client *c, u32 option, const u8 *p, u32 len)
{
	u8 reply[4 + sizeof(META_NAME) - 1];
	bool wanted, ok;
	u32 name;
	int rc = 0;

	if (!c->structured || len < 8 || (name = load_be32(p)) > len - 8)
		return option_reply(c, option, NBD_REP_INVALID, NULL, 0);
	if (!name_matches(c, p + 4, name))
		return option_reply(c, option, NBD_REP_UNKNOWN, NULL, 0);
	wanted = wants_meta(p + 8 + name, len - 8 - name, load_be32(p + 4 + name),
			    option == NBD_OPT_LIST_META, &ok);
	if (!ok)
		return option_reply(c, option, NBD_REP_INVALID, NULL, 0);
	if (option == NBD_OPT_SET_META)
		c->meta = wanted;
	store_be32(reply, option == NBD_OPT_SET_META ? META_ID : 0);
	memcpy(reply + 4, META_NAME, sizeof(reply) - 4);
	if (wanted)
		rc = option_reply(c, option, NBD_REP_META, reply, sizeof(reply));
	return rc ? rc : option_reply(c, option, NBD_REP_ACK, NULL, 0);
}

/* The old way in: no reply but the export's data. */
static int option_export_name(struct client *c, const u8 *p, u32 len, bool *entered)
{
	u8 reply[134] = {0};

	if (!name_matches(c, p, len))
		return -ENOENT;
	store_be64(reply, block_size(c->export->block));
	store_be16(reply + 8, flags_of(c));
	*entered = true;
	return send_parts(c, reply, c->no_zeroes ? 10 : sizeof(reply), NULL, 0);
}

static int one_option(struct client *c, bool *entered)
{
	u8 head[16], data[NBD_MAX_OPTION];
	u32 option, len;
	int rc = receive(c, head, sizeof(head));

	if (rc)
		return rc;
	option = load_be32(head + 8);
	len = load_be32(head + 12);
	if (load_be64(head) != NBD_OPTION_MAGIC || len > sizeof(data))
		return -EPROTO;
	rc = receive(c, data, len);
	if (rc)
		return rc;
	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		return option_export_name(c, data, len, entered);
	case NBD_OPT_ABORT:
		option_reply(c, option, NBD_REP_ACK, NULL, 0);
		return -ECONNRESET;
	case NBD_OPT_LIST:
		return option_list(c, option, len);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return option_go(c, option, data, len, entered);
	case NBD_OPT_STRUCTURED:
		c->structured = !len;
		return option_reply(c, option, len ? NBD_REP_INVALID : NBD_REP_ACK, NULL, 0);
	case NBD_OPT_LIST_META:
	case NBD_OPT_SET_META:
		return option_meta(c, option, data, len);
	default:
		return option_reply(c, option, NBD_REP_UNSUPPORTED, NULL, 0);
	}
}

static int handshake(struct client *c)
{
	struct timeval limit = {.tv_sec = HANDSHAKE_SECONDS}, none = {0};
	bool entered = false;
	u8 hello[18], flags[4];
	int rc;

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	store_be64(hello, NBD_MAGIC);
	store_be64(hello + 8, NBD_OPTION_MAGIC);
	store_be16(hello + 16, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
	rc = send_parts(c, hello, sizeof(hello), NULL, 0);
	if (!rc)
		rc = receive(c, flags, sizeof(flags));
	if (rc)
		return rc;
	if (load_be32(flags) & ~(u32)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
		return -EPROTO;
	c->no_zeroes = load_be32(flags) & NBD_NO_ZEROES;
	for (int i = 0; !rc && !entered; i++)
		rc = i < MAX_OPTIONS ? one_option(c, &entered) : -EPROTO;
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	return rc;
}

/* ---- requests ---- */

struct request {
	u16 flags, type;
	u64 cookie, offset;
	u32 len;
	u8 *buf; /* the worker's */
};

static u32 wire_error(int rc)
{
	switch (-rc) {
	case 0:
		return 0;
	case EPERM:
	case EROFS:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case EOPNOTSUPP:
		return NBD_ENOTSUP;
	default:
		return NBD_EIO;
	}
}

static int send_chunk(struct client *c, const struct request *r, u16 flags, u16 type,
		      const void *head, u32 head_len, const void *data, u32 len)
{
	u8 chunk[20 + 16];

	store_be32(chunk, NBD_STRUCTURED_MAGIC);
	store_be16(chunk + 4, flags);
	store_be16(chunk + 6, type);
	store_be64(chunk + 8, r->cookie);
	store_be32(chunk + 16, head_len + len);
	if (head_len)
		memcpy(chunk + 20, head, head_len);
	return send_parts(c, chunk, 20 + head_len, data, len);
}

static int send_simple(struct client *c, const struct request *r, int result, const void *data,
		       u32 len)
{
	u8 head[16];

	store_be32(head, NBD_SIMPLE_MAGIC);
	store_be32(head + 4, wire_error(result));
	store_be64(head + 8, r->cookie);
	return send_parts(c, head, sizeof(head), data, result ? 0 : len);
}

static int send_result(struct client *c, const struct request *r, int result)
{
	u8 error[6];

	if (!c->structured || (r->type != NBD_CMD_READ && r->type != NBD_CMD_BLOCK_STATUS))
		return send_simple(c, r, result, NULL, 0);
	store_be32(error, wire_error(result));
	store_be16(error + 4, 0);
	return send_chunk(c, r, NBD_CHUNK_DONE, result ? NBD_CHUNK_ERROR : NBD_CHUNK_NONE, error,
			  result ? sizeof(error) : 0, NULL, 0);
}

/* A structured read: holes as holes, unless the client wants one piece. The last chunk says so. */
static int read_structured(struct client *c, const struct request *r)
{
	u64 done = 0;

	while (done < r->len) {
		struct block_extent e = {.len = r->len};
		u8 head[12];
		u16 last;
		int rc = 0;

		if (!(r->flags & NBD_FLAG_DF))
			rc = block_status(c->export->block, r->offset + done, r->len - done, &e);
		store_be64(head, r->offset + done);
		store_be32(head + 8, (u32)e.len);
		last = done + e.len == r->len ? NBD_CHUNK_DONE : 0;
		if (!rc && (e.flags & BLOCK_ZERO)) {
			rc = send_chunk(c, r, last, NBD_CHUNK_HOLE, head, 12, NULL, 0);
		} else {
			if (!rc)
				rc = block_read(c->export->block, r->buf, e.len, r->offset + done);
			if (rc)
				return send_result(c, r, rc);
			rc = send_chunk(c, r, last, NBD_CHUNK_DATA, head, 8, r->buf, (u32)e.len);
		}
		if (rc)
			return rc;
		done += e.len;
	}
	return r->len ? 0 : send_result(c, r, 0);
}

static int do_read(struct client *c, const struct request *r)
{
	int rc;

	if (c->structured)
		return read_structured(c, r);
	rc = block_read(c->export->block, r->buf, r->len, r->offset);
	return send_simple(c, r, rc, r->buf, r->len);
}

static int do_status(struct client *c, const struct request *r)
{
	u8 *p = r->buf + 4;
	u64 done = 0;
	u32 n = 0;

	if (!c->meta || !r->len)
		return send_result(c, r, -EINVAL);
	store_be32(r->buf, META_ID);
	while (done < r->len && n < ((r->flags & NBD_FLAG_ONE) ? 1 : MAX_EXTENTS)) {
		struct block_extent e;
		int rc = block_status(c->export->block, r->offset + done, r->len - done, &e);
		u32 state;

		if (rc)
			return send_result(c, r, rc);
		state = (e.flags & BLOCK_ZERO ? NBD_STATE_ZERO : 0) |
			(e.flags & BLOCK_DATA ? 0 : NBD_STATE_HOLE);
		if (n && load_be32(p + 8 * (n - 1) + 4) == state) {
			store_be32(p + 8 * (n - 1), load_be32(p + 8 * (n - 1)) + (u32)e.len);
		} else {
			store_be32(p + 8 * n, (u32)e.len);
			store_be32(p + 8 * n + 4, state);
			n++;
		}
		done += e.len;
	}
	return send_chunk(c, r, NBD_CHUNK_DONE, NBD_CHUNK_STATUS, NULL, 0, r->buf, 4 + 8 * n);
}

static int do_write(struct client *c, const struct request *r)
{
	struct iovec iov = {r->buf, r->len};

	return block_writev(c->export->block, &iov, 1, r->offset,
			    r->flags & NBD_FLAG_FUA ? BLOCK_FUA : 0);
}

static int do_zeroes(struct client *c, const struct request *r)
{
	u32 flags = (r->flags & NBD_FLAG_FUA ? BLOCK_FUA : 0) |
		    (r->flags & NBD_FLAG_NO_HOLE ? 0 : BLOCK_MAY_UNMAP);

	if (r->flags & NBD_FLAG_FAST_ZERO)
		return -EOPNOTSUPP;
	return block_write_zeroes(c->export->block, r->len, r->offset, flags);
}

static int do_trim(struct client *c, const struct request *r)
{
	int rc = block_discard(c->export->block, r->len, r->offset);

	if (!rc && (r->flags & NBD_FLAG_FUA))
		rc = block_flush(c->export->block);
	return rc;
}

static int judge(const struct client *c, const struct request *r)
{
	bool writes = r->type == NBD_CMD_WRITE || r->type == NBD_CMD_TRIM ||
		      r->type == NBD_CMD_WRITE_ZEROES;

	if (writes && (flags_of(c) & NBD_READ_ONLY))
		return -EPERM;
	if (r->type == NBD_CMD_FLUSH)
		return 0;
	if (!range_fits(r->offset, r->len, block_size(c->export->block)))
		return writes && r->type != NBD_CMD_TRIM ? -ENOSPC : -EINVAL;
	if (r->type == NBD_CMD_READ && r->len > NBD_MAX_REQUEST)
		return -EOVERFLOW;
	return 0;
}

static int serve_request(struct client *c, const struct request *r)
{
	int rc = judge(c, r);

	if (rc)
		return send_result(c, r, rc);
	switch (r->type) {
	case NBD_CMD_READ:
		return do_read(c, r);
	case NBD_CMD_BLOCK_STATUS:
		return do_status(c, r);
	case NBD_CMD_WRITE:
		return send_result(c, r, do_write(c, r));
	case NBD_CMD_FLUSH:
		return send_result(c, r, block_flush(c->export->block));
	case NBD_CMD_TRIM:
		return send_result(c, r, do_trim(c, r));
	case NBD_CMD_WRITE_ZEROES:
		return send_result(c, r, do_zeroes(c, r));
	default:
		return send_result(c, r, -EINVAL);
	}
}

/* Take one request from the wire, with its data. 1: the client said goodbye. Under receive_lock. */
static int take_request(struct client *c, struct request *r)
{
	u8 head[28];
	int rc = receive(c, head, sizeof(head));

	if (rc)
		return rc;
	if (load_be32(head) != NBD_REQUEST_MAGIC)
		return -EPROTO;
	r->flags = load_be16(head + 4);
	r->type = load_be16(head + 6);
	r->cookie = load_be64(head + 8);
	r->offset = load_be64(head + 16);
	r->len = load_be32(head + 24);
	if (r->type == NBD_CMD_DISC)
		return 1;
	if (r->type != NBD_CMD_WRITE)
		return 0;
	return r->len > NBD_MAX_REQUEST ? -EPROTO : receive(c, r->buf, r->len);
}

/* ---- workers ---- */

static void *worker_main(void *arg);

/* Somebody has to be there for the next request. Under receive_lock. */
static void add_worker(struct client *c)
{
	struct worker *w = &c->workers[c->started];

	if (c->ended || __atomic_load_n(&c->waiting, __ATOMIC_RELAXED) || c->started == MAX_WORKERS)
		return;
	w->client = c;
	/* Pages that are not written to are not there. */
	w->buf = malloc(NBD_MAX_REQUEST);
	if (w->buf && !thread_start(&w->thread, THREAD_BLOCK, "nbd-client", worker_main, w)) {
		c->started++;
		c->running++;
		return;
	}
	free(w->buf);
	w->buf = NULL;
}

/* The next request, waiting for it; false at the end. */
static bool next_request(struct worker *w, struct request *r)
{
	struct client *c = w->client;
	bool ended;

	__atomic_add_fetch(&c->waiting, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&c->receive_lock);
	__atomic_sub_fetch(&c->waiting, 1, __ATOMIC_RELAXED);
	r->buf = w->buf;
	if (!c->ended && take_request(c, r))
		c->ended = true;
	ended = c->ended;
	if (!ended)
		add_worker(c);
	pthread_mutex_unlock(&c->receive_lock);
	return !ended;
}

/* What is in flight when the client leaves is finished first. */
static void worker_end(struct client *c)
{
	bool last;

	pthread_mutex_lock(&c->receive_lock);
	c->ended = true;
	last = !--c->running;
	pthread_mutex_unlock(&c->receive_lock);
	if (!last)
		return;
	shutdown(c->fd, SHUT_RDWR);
	__atomic_store_n(&c->gone, true, __ATOMIC_RELEASE);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct client *c = w->client;
	struct request r;
	bool first = w == c->workers;

	if (!first || !handshake(c))
		while (next_request(w, &r) && !serve_request(c, &r))
			;
	/* Whoever waits for the next request on a connection that is of no use finds its end. */
	shutdown(c->fd, SHUT_RD);
	worker_end(c);
	return NULL;
}

/* ---- clients ---- */

/* A worker's successor is counted before it can itself be waited for. */
static bool worker_exists(struct client *c, unsigned int i)
{
	bool exists;

	pthread_mutex_lock(&c->receive_lock);
	exists = i < c->started;
	pthread_mutex_unlock(&c->receive_lock);
	return exists;
}

static void client_free(struct client *c)
{
	for (unsigned int i = 0; worker_exists(c, i); i++) {
		thread_join(&c->workers[i].thread);
		free(c->workers[i].buf);
	}
	list_del(&c->link);
	fd_close(&c->fd);
	pthread_mutex_destroy(&c->receive_lock);
	pthread_mutex_destroy(&c->send_lock);
	free(c);
}

static int client_new(const struct nbd_export *e, struct list *clients, int fd)
{
	struct client *c = calloc(1, sizeof(*c));
	int one = 1;
	bool served;

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->export = e;
	c->fd = fd;
	pthread_mutex_init(&c->receive_lock, NULL);
	pthread_mutex_init(&c->send_lock, NULL);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	list_add_tail(clients, &c->link);
	pthread_mutex_lock(&c->receive_lock);
	add_worker(c);
	served = c->started;
	pthread_mutex_unlock(&c->receive_lock);
	if (!served)
		client_free(c);
	return served ? 0 : -ENOMEM;
}

/* The number of those that are still there. */
static unsigned int sweep(struct list *clients, bool all)
{
	struct client *c, *next;
	unsigned int left = 0;

	list_for_each_entry_safe (c, next, clients, link) {
		if (all)
			shutdown(c->fd, SHUT_RDWR);
		if (all || __atomic_load_n(&c->gone, __ATOMIC_ACQUIRE))
			client_free(c);
		else
			left++;
	}
	return left;
}

int nbd_serve(const struct nbd_export *e, int listen_fd, struct err *err)
{
	struct list clients = LIST_INIT(clients);
	bool seen = false;
	int rc = 0;

	if (strlen(e->name) > NBD_MAX_NAME)
		return err_set(err, ENAMETOOLONG, "name of the export is too long");
	while (!rc && !(e->stop && e->stop())) {
		struct pollfd p = {.fd = listen_fd, .events = POLLIN};
		unsigned int left = sweep(&clients, false);
		int fd;

		if (seen && !left && !e->persistent)
			break;
		/* Who cannot be served yet waits in the queue of the socket. */
		if (left >= e->max_clients)
			p.events = 0;
		if (poll(&p, 1, 100) <= 0 || !(p.revents & POLLIN))
			continue;
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		if (client_new(e, &clients, fd))
			log_warn("a client could not be served: out of memory");
		seen = true;
	}
	sweep(&clients, true);
	return rc;
}

/* ---- sockets ---- */

int nbd_listen_unix(const char *path, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(err, ENAMETOOLONG, "%s: too long for a socket's name", path);
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(err, errno, "%s: %s", path, strerror(errno));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16)) {
		rc = err_set(err, errno, "%s: %s", path, strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

int nbd_listen_tcp(const char *address, const char *port, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
	int rc = getaddrinfo(address, port, &hints, &found), fd = -1, one = 1;

	if (rc)
		return err_set(err, EINVAL, "%s:%s: %s", address, port, gai_strerror(rc));
	rc = EADDRNOTAVAIL;
	for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 16)) {
			rc = errno;
			fd_close(&fd);
		}
	}
	freeaddrinfo(found);
	return fd < 0 ? err_set(err, rc, "%s:%s: %s", address, port, strerror(rc)) : fd;
}
