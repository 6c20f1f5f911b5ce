#include "watch.h"

#include <errno.h>
#include <stdlib.h>

struct watch_node {
	struct block block;
	struct watch *watch;
};

static struct watch *watch_of(struct block *b)
{
	return container_of(b, struct watch_node, block)->watch;
}

static bool touches(u64 start, u64 end, enum block_op op, u64 offset, u64 len)
{
	return op == BLOCK_FLUSH || (offset < end && start < offset + len);
}

/* Note the call, and find what is to be done with it. Locked. */
static struct watch_rule *look(struct watch *w, enum block_op op, u64 offset, u64 len, bool queued)
{
	if (w->ncalls < WATCH_CALLS)
		w->calls[w->ncalls++] = (struct watch_call){op, offset, len};
	pthread_cond_broadcast(&w->moved);
	for (int i = 0; i < WATCH_RULES; i++) {
		struct watch_rule *r = &w->rules[i];

		if (r->left && r->op == op && (queued || r->how != WATCH_AFTER) &&
		    touches(r->start, r->end, op, offset, len)) {
			r->left--;
			return r;
		}
	}
	return NULL;
}

static int watch_io(struct block *b, const struct block_io *io)
{
	struct watch *w = watch_of(b);
	struct watch_rule *r;
	int rc = 0;

	pthread_mutex_lock(&w->lock);
	r = look(w, io->op, io->offset, io->len, false);
	if (r && r->how == WATCH_FAIL) {
		rc = -EIO;
	} else if (r) {
		unsigned int now = w->releases;

		w->nheld++;
		pthread_cond_broadcast(&w->moved);
		while (now == w->releases)
			pthread_cond_wait(&w->moved, &w->lock);
		w->nheld--;
	}
	pthread_mutex_unlock(&w->lock);
	return rc ? rc : block_io(b->file, io);
}

static void hold(struct watch *w, struct block_req *req)
{
	list_add_tail(&w->held, &req->link);
	w->nheld++;
	pthread_cond_broadcast(&w->moved);
}

static void on_done(struct block_req *req, void *arg, int result)
{
	struct watch *w = arg;

	req->result = result;
	pthread_mutex_lock(&w->lock);
	hold(w, req);
	pthread_mutex_unlock(&w->lock);
}

static void watch_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	struct watch *w = watch_of(b);
	struct watch_rule *r = NULL;

	if (w->defer) {
		block_defer(q, req);
		return;
	}
	pthread_mutex_lock(&w->lock);
	r = look(w, req->op, req->pos, req->len, true);
	if (r && r->how == WATCH_BEFORE)
		hold(w, req);
	pthread_mutex_unlock(&w->lock);
	if (r && r->how == WATCH_BEFORE)
		return;
	if (r && r->how == WATCH_FAIL) {
		block_finish(q, req, -EIO);
		return;
	}
	if (r)
		block_hook_add(req, on_done, w);
	block_pass(q, req, b->file, req->pos);
}

static int watch_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	return b->file->class->resize(b->file, size, shrink, err);
}

static int watch_status(struct block *b, u64 offset, struct block_extent *e)
{
	return b->file->class->status(b->file, offset, e);
}

static const struct block_class watch_class = {
	.name = "watch",
	.kind = BLOCK_PROTOCOL,
	.size = sizeof(struct watch_node),
	.submit = watch_submit,
	.io = watch_io,
	.resize = watch_resize,
	.status = watch_status,
};

int watch_open(struct block **out, struct watch *w, const struct block_options *o, struct err *err)
{
	const struct block_class *class = block_class_lookup(o->format);
	struct block *file, *node, *image;
	int rc = block_open_protocol(&file, o->file, true, o, err);

	if (rc)
		return rc;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->moved, NULL);
	list_init(&w->held);
	node = block_node_new(&watch_class, o->file, file);
	container_of(node, struct watch_node, block)->watch = w;
	node->size = file->size;
	image = block_node_new(class, o->file, node);
	rc = class->open(image, o, err);
	if (rc) {
		block_node_free(image);
		return rc;
	}
	*out = image;
	return block_make_top(image, o);
}

void watch_rule(struct watch *w, enum watch_how how, enum block_op op, u64 start, u64 end,
		unsigned int times)
{
	pthread_mutex_lock(&w->lock);
	for (int i = 0; i < WATCH_RULES; i++) {
		if (w->rules[i].left)
			continue;
		w->rules[i] = (struct watch_rule){how, op, start, end, times};
		break;
	}
	pthread_mutex_unlock(&w->lock);
}

void watch_release_threads(struct watch *w)
{
	pthread_mutex_lock(&w->lock);
	w->releases++;
	pthread_cond_broadcast(&w->moved);
	pthread_mutex_unlock(&w->lock);
}

void watch_release_queue(struct watch *w)
{
	struct list go = LIST_INIT(go);

	pthread_mutex_lock(&w->lock);
	while (!list_empty(&w->held)) {
		struct list *item = w->held.next;

		list_del(item);
		list_add_tail(&go, item);
		w->nheld--;
	}
	pthread_mutex_unlock(&w->lock);
	while (!list_empty(&go)) {
		struct block_req *req = list_first(&go, struct block_req, link);
		bool before = req->node->class == &watch_class;

		list_del(&req->link);
		if (before)
			block_pass(req->queue, req, req->node->file, req->pos);
		else
			block_finish(req->queue, req, req->result);
	}
}

void watch_release(struct watch *w)
{
	watch_release_queue(w);
	watch_release_threads(w);
}

void watch_wait(struct watch *w, unsigned int held)
{
	pthread_mutex_lock(&w->lock);
	while (w->nheld < held)
		pthread_cond_wait(&w->moved, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

static unsigned int count(const struct watch *w, enum block_op op, u64 start, u64 end)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < w->ncalls; i++)
		n += w->calls[i].op == op &&
		     touches(start, end, op, w->calls[i].offset, w->calls[i].len);
	return n;
}

unsigned int watch_count(struct watch *w, enum block_op op, u64 start, u64 end)
{
	unsigned int n;

	pthread_mutex_lock(&w->lock);
	n = count(w, op, start, end);
	pthread_mutex_unlock(&w->lock);
	return n;
}

void watch_forget(struct watch *w)
{
	pthread_mutex_lock(&w->lock);
	w->ncalls = 0;
	pthread_mutex_unlock(&w->lock);
}
