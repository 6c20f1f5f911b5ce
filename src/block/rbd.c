/*
 * A Ceph disk as the bottom of a stack: rbd:POOL/IMAGE. All I/O is librbd's own, asynchronous; its
 * completions come in its threads and go to the queue's as a helper's do.
 */
#include "block/rbd.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/iov.h"
#include "block/block_int.h"
#include "os/plugin.h"

#define STATUS_STEP (1 * GiB) /* asked for at once */

struct rbd {
	struct block block;
	const struct rbd_class *c;
	void *image;
};

static struct rbd *rbd_of(struct block *b)
{
	return container_of(b, struct rbd, block);
}

/* ---- addresses ---- */

static void address_free(struct rbd_address *a)
{
	free(a->pool);
	free(a->space);
	free(a->image);
	free(a->snapshot);
	free(a->conf);
	free(a->user);
}

/* Up to the next of the characters in `ends`, in fresh memory; a backslash keeps one from ending.
 */
static char *take(const char **text, const char *ends)
{
	char *out = malloc(strlen(*text) + 1), *p = out;

	while (out && **text && !strchr(ends, **text)) {
		if (**text == '\\' && (*text)[1])
			++*text;
		*p++ = *(*text)++;
	}
	if (out)
		*p = '\0';
	return out;
}

static int take_option(struct rbd_address *a, const char **text, const char *name, struct err *err)
{
	char **field;

	++*text;
	if (!strncmp(*text, "conf=", 5))
		field = &a->conf;
	else if (!strncmp(*text, "id=", 3))
		field = &a->user;
	else
		return err_set(err, EINVAL, "%s: only :conf=FILE and :id=USER may follow the image",
			       name);
	*text = strchr(*text, '=') + 1;
	free(*field);
	*field = take(text, ":");
	return *field ? 0 : err_set(err, ENOMEM, "%s: out of memory", name);
}

static int address_parse(struct rbd_address *a, const char *name, struct err *err)
{
	const char *text = name + 4;
	int rc = 0;

	*a = (struct rbd_address){.pool = take(&text, "/:@")};
	if (*text == '/') {
		text++;
		a->image = take(&text, "/:@");
	}
	if (*text == '/') {
		text++;
		a->space = a->image;
		a->image = take(&text, ":@");
	}
	if (*text == '@') {
		text++;
		a->snapshot = take(&text, ":");
	}
	while (*text == ':' && !rc)
		rc = take_option(a, &text, name, err);
	if (!rc && (!a->pool || !*a->pool || !a->image || !*a->image || *text))
		rc = err_set(err, EINVAL, "%s: not of the form rbd:POOL/IMAGE", name);
	return rc;
}

/* librbd's threads are to leave our signals to us. */
static int open_quietly(struct rbd *r, const struct rbd_address *a, const struct block_options *o,
			struct rbd_info *info, struct err *err)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	rc = r->c->open(&r->image, a, o->readonly, o->lock, info, err);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

static int rbd_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct rbd *r = rbd_of(b);
	struct rbd_address a;
	struct rbd_info info;
	int rc = address_parse(&a, b->name, err);

	if (rc)
		goto out;
	r->c = plugin_symbol("rbd", "rbd_plugin", err);
	if (!r->c) {
		err_prefix(err, "%s (built without librbd-dev?)", b->name);
		rc = -ENOENT;
		goto out;
	}
	if (a.snapshot && !o->readonly) {
		rc = err_set(err, EROFS, "%s: a snapshot is read-only (say readonly=on)", b->name);
		goto out;
	}
	rc = open_quietly(r, &a, o, &info, err);
	if (rc) {
		err_prefix(err, "%s", b->name);
		goto out;
	}
	b->size = info.size;
	b->discard_align = max(info.object_size, BLOCK_SECTOR);
	b->readonly = o->readonly;
	b->can_discard = b->can_write_zeroes = true;
out:
	address_free(&a);
	return rc;
}

static int rbd_close(struct block *b)
{
	struct rbd *r = rbd_of(b);

	return r->c->close(r->image);
}

/* ---- queues ---- */

static const enum rbd_op ops[] = {
	[BLOCK_READ] = RBD_READ,
	[BLOCK_WRITE] = RBD_WRITE,
	[BLOCK_FLUSH] = RBD_FLUSH,
	[BLOCK_DISCARD] = RBD_DISCARD,
	[BLOCK_WRITE_ZEROES] = RBD_WRITE_ZEROES,
};

static void on_request(void *arg, int result)
{
	block_queue_return(arg, result);
}

static void rbd_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	struct rbd *r = rbd_of(b);
	struct rbd_io io = {.op = ops[req->op],
			    .keep_space = !(req->effective & BLOCK_MAY_UNMAP),
			    .offset = req->pos,
			    .len = req->len,
			    .iov = req->iov,
			    .niov = req->niov,
			    .done = on_request,
			    .arg = req};
	bool plain = req->op == BLOCK_FLUSH || range_fits(req->pos, req->len, block_size(b));

	/* Past the end, and what has to be durable at once, takes more than one call. */
	if (!plain || (req->effective & BLOCK_FUA) || r->c->submit(r->image, &io))
		block_defer(q, req);
}

/* ---- synchronous ---- */

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool done;
	int result;
};

static void on_waited(void *arg, int result)
{
	struct waiter *w = arg;

	pthread_mutex_lock(&w->lock);
	w->done = true;
	w->result = result;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

static int wait_for(struct rbd *r, struct rbd_io *io)
{
	struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
	int rc;

	io->done = on_waited;
	io->arg = &w;
	rc = r->c->submit(r->image, io);
	if (rc)
		return rc;
	pthread_mutex_lock(&w.lock);
	while (!w.done)
		pthread_cond_wait(&w.changed, &w.lock);
	pthread_mutex_unlock(&w.lock);
	return w.result;
}

/* Writing behind the end grows the image, as formats expect of a file. */
static int make_room(struct rbd *r, const struct block_io *io)
{
	u64 end = io->offset + io->len;
	int rc;

	if (io->op == BLOCK_READ || io->op == BLOCK_DISCARD || end <= block_size(&r->block))
		return 0;
	rc = r->c->resize(r->image, end, false);
	if (!rc)
		__atomic_store_n(&r->block.size, end, __ATOMIC_RELEASE);
	return rc;
}

#define WINDOW 64

static int transfer(struct rbd *r, const struct block_io *io)
{
	u64 size = block_size(&r->block), done = 0;
	u64 there = io->offset >= size ? 0 : min(io->len, size - io->offset);
	int rc = 0;

	if (io->op == BLOCK_READ)
		iov_memset(io->iov, (size_t)io->niov, there, 0, io->len - there);
	while (done < there && !rc) {
		struct iovec part[WINDOW];
		struct rbd_io call = {.op = ops[io->op], .offset = io->offset + done, .iov = part};

		call.len = there - done;
		call.niov = iov_slice(part, WINDOW, io->iov, (size_t)io->niov, done, call.len);
		if (call.niov == -E2BIG) {
			call.niov = WINDOW;
			call.len = iov_length(part, WINDOW);
		}
		if (call.niov < 0)
			return call.niov;
		rc = wait_for(r, &call);
		done += call.len;
	}
	return rc;
}

static int flush(struct rbd *r)
{
	struct rbd_io call = {.op = RBD_FLUSH};

	return wait_for(r, &call);
}

/* No data: any length, in pieces. */
static int clear(struct rbd *r, const struct block_io *io)
{
	u64 size = block_size(&r->block);
	u64 len = io->offset >= size ? 0 : min(io->len, size - io->offset);
	int rc = 0;

	for (u64 done = 0, n; done < len && !rc; done += n) {
		struct rbd_io call = {.op = ops[io->op],
				      .keep_space = !(io->flags & BLOCK_MAY_UNMAP),
				      .offset = io->offset + done};

		call.len = n = min(len - done, 1 * GiB);
		rc = wait_for(r, &call);
	}
	return rc;
}

static int rbd_io(struct block *b, const struct block_io *io)
{
	struct rbd *r = rbd_of(b);
	int rc;

	if (io->op == BLOCK_FLUSH)
		return flush(r);
	rc = make_room(r, io);
	if (rc)
		return rc;
	if (io->op == BLOCK_READ || io->op == BLOCK_WRITE)
		rc = transfer(r, io);
	else
		rc = clear(r, io);
	return rc || !(io->flags & BLOCK_FUA) ? rc : flush(r);
}

static int rbd_status(struct block *b, u64 offset, struct block_extent *e)
{
	struct rbd *r = rbd_of(b);
	u64 size = block_size(b), len = offset < size ? min(e->len, size - offset) : 0;
	bool data = false;
	int rc;

	e->flags = BLOCK_ALLOCATED | BLOCK_HAS_HOST;
	e->host_offset = offset;
	e->file = b->name;
	if (!len) {
		e->flags |= BLOCK_ZERO;
		return 0;
	}
	len = min(len, STATUS_STEP);
	rc = r->c->status(r->image, offset, &len, &data);
	e->len = len;
	e->flags |= data ? BLOCK_DATA : BLOCK_ZERO;
	return rc;
}

static int rbd_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct rbd *r = rbd_of(b);
	int rc = r->c->resize(r->image, size, shrink);

	if (rc)
		return err_set(err, -rc, "%s: %s", b->name, strerror(-rc));
	__atomic_store_n(&b->size, size, __ATOMIC_RELEASE);
	return 0;
}

const struct block_class block_rbd_class = {
	.name = "rbd",
	.kind = BLOCK_PROTOCOL,
	.size = sizeof(struct rbd),
	.scheme = "rbd:",
	.open = rbd_open,
	.close = rbd_close,
	.submit = rbd_submit,
	.io = rbd_io,
	.status = rbd_status,
	.resize = rbd_resize,
};
