/*
 * Invariants:
 * 1. All but `returned` (under `lock`) and `drained` (atomic) belongs to the owner's thread.
 * 2. inflight counts the caller's requests and the parts made of them, from submission until just
 *    before done().
 * 3. A request is in one place: the ring, the helpers, `returned` or `finished`.
 * 4. done() is called with `delivering` set, so that a flush inside it does not recurse.
 * 5. With a ring, a poll for event_fd is in it from the first flush on, so the ring's descriptor is
 *    readable when helpers have returned something.
 * 6. active[epoch parity] counts the requests that entered in the current epoch, the other one
 * those of the epoch before. The parity turns only when the other count is 0.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/iov.h"
#include "block/block_int.h"
#include "os/event.h"
#include "os/file.h"
#include "os/uring.h"

struct sub {
	struct block_req req;
	struct block_req *parent;
	struct iovec iov[BLOCK_SUB_IOV];
};

struct block_queue {
	struct block *top;
	struct list link; /* in top->queues */
	struct uring *ring;
	int event_fd;
	bool armed, delivering;
	unsigned int inflight;
	struct list finished;

	pthread_mutex_t lock;
	struct list returned;

	u32 active[2];
	unsigned int parity;
	u64 epoch, drained;

	struct list free_subs;
	unsigned int nfree_subs;
	struct sub subs[BLOCK_SUBS];
};

int block_queue_new(struct block_queue **out, struct block *block, unsigned int depth,
		    struct err *err)
{
	struct block_queue *q = calloc(1, sizeof(*q));
	unsigned int entries = min(max(depth, 8u), 4096u);

	if (!q)
		return err_set(err, ENOMEM, "%s: out of memory", block->name);
	q->event_fd = event_new();
	if (q->event_fd < 0) {
		int rc = q->event_fd;

		free(q);
		return err_set(err, -rc, "%s: no eventfd", block->name);
	}
	if (uring_new(&q->ring, entries))
		q->ring = NULL;
	q->top = block;
	list_init(&q->finished);
	list_init(&q->returned);
	list_init(&q->free_subs);
	pthread_mutex_init(&q->lock, NULL);
	for (size_t i = 0; i < BLOCK_SUBS; i++)
		list_add_tail(&q->free_subs, &q->subs[i].req.link);
	q->nfree_subs = BLOCK_SUBS;
	pthread_mutex_lock(&block->queues_lock);
	q->epoch = q->drained = __atomic_load_n(&block->epoch, __ATOMIC_SEQ_CST);
	list_add_tail(&block->queues, &q->link);
	pthread_mutex_unlock(&block->queues_lock);
	*out = q;
	return 0;
}

void block_queue_free(struct block_queue *q)
{
	if (!q)
		return;
	block_queue_drain(q);
	pthread_mutex_lock(&q->top->queues_lock);
	list_del(&q->link);
	pthread_mutex_unlock(&q->top->queues_lock);
	uring_free(q->ring);
	fd_close(&q->event_fd);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

int block_queue_fd(const struct block_queue *q)
{
	return q->ring ? uring_fd(q->ring) : q->event_fd;
}

unsigned int block_queue_inflight(const struct block_queue *q)
{
	return q->inflight;
}

bool block_queue_has_ring(const struct block_queue *q)
{
	return q->ring;
}

struct uring *block_queue_ring(struct block_queue *q)
{
	return q->ring;
}

/* ---- submission ---- */

static int check(const struct block *top, const struct block_req *req)
{
	if (req->op == BLOCK_FLUSH)
		return 0;
	if (!range_fits(req->offset, req->len, block_size((struct block *)(uintptr_t)top)))
		return -EINVAL;
	if (req->op != BLOCK_READ && top->readonly)
		return -EROFS;
	return 0;
}

void block_submit(struct block_queue *q, struct block_req *req)
{
	struct block *top = q->top;
	int rc = check(top, req);

	req->queue = q;
	req->active = NULL;
	req->nhooks = 0;
	req->effective = req->flags;
	q->inflight++;
	if (unlikely(rc || (!req->len && req->op != BLOCK_FLUSH))) {
		block_finish(q, req, rc);
		return;
	}
	if (req->op == BLOCK_DISCARD && !top->discard) {
		block_finish(q, req, 0);
		return;
	}
	if (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES) {
		if (top->writethrough)
			req->effective |= BLOCK_FUA;
		if (!top->discard)
			req->effective &= ~(u32)BLOCK_MAY_UNMAP;
	}
	block_pass(q, req, top, req->offset);
}

void block_finish(struct block_queue *q, struct block_req *req, int result)
{
	req->result = result;
	list_add_tail(&q->finished, &req->link);
}

void block_defer(struct block_queue *q, struct block_req *req)
{
	int rc = block_pool_add(q->top->pool, req);

	if (rc)
		block_finish(q, req, rc);
}

bool block_hook_add(struct block_req *req, block_hook fn, void *arg)
{
	if (req->nhooks == BLOCK_MAX_HOOKS)
		return false;
	req->hook[req->nhooks].fn = fn;
	req->hook[req->nhooks++].arg = arg;
	return true;
}

/* ---- completion ---- */

void block_complete(struct block_req *req, int result)
{
	if (unlikely(req->nhooks)) {
		unsigned int i = --req->nhooks;

		req->hook[i].fn(req, req->hook[i].arg, result);
		return;
	}
	if (req->active)
		--*req->active;
	req->queue->inflight--;
	req->done(req, result);
}

void block_queue_return(struct block_req *req, int result)
{
	struct block_queue *q = req->queue;
	bool wake;

	req->result = result;
	pthread_mutex_lock(&q->lock);
	wake = list_empty(&q->returned);
	list_add_tail(&q->returned, &req->link);
	/* Inside the lock: once the owner can see the request, the queue may go away. */
	if (wake)
		event_signal(q->event_fd);
	pthread_mutex_unlock(&q->lock);
}

static void on_completion(void *arg, void *user, int result)
{
	struct block_queue *q = arg;
	struct block_req *req = user;

	if (unlikely(!req)) {
		q->armed = false;
		return;
	}
	if (likely(result >= 0 && ((u64)result == req->len || req->op == BLOCK_FLUSH)))
		block_complete(req, 0);
	else if (result >= 0 || result == -EAGAIN || result == -EINTR)
		block_defer(q, req); /* short, at the end of a file: the slow way knows */
	else
		block_complete(req, result);
}

static unsigned int deliver_list(struct list *from)
{
	unsigned int count = 0;

	while (!list_empty(from)) {
		struct block_req *req = list_first(from, struct block_req, link);

		list_del(&req->link);
		block_complete(req, req->result);
		count++;
	}
	return count;
}

static unsigned int deliver_returned(struct block_queue *q)
{
	struct list turn = LIST_INIT(turn);

	event_clear(q->event_fd);
	pthread_mutex_lock(&q->lock);
	while (!list_empty(&q->returned)) {
		struct list *item = q->returned.next;

		list_del(item);
		list_add_tail(&turn, item);
	}
	pthread_mutex_unlock(&q->lock);
	return deliver_list(&turn);
}

static void update_epoch(struct block_queue *q);

static void arm(struct block_queue *q)
{
	struct uring_io io = {.op = URING_POLL_IN, .fd = q->event_fd};

	if (q->ring && !q->armed && !uring_queue(q->ring, &io))
		q->armed = true;
}

static unsigned int deliver(struct block_queue *q)
{
	unsigned int count = 0;

	if (q->delivering)
		return 0;
	q->delivering = true;
	if (q->ring)
		count += uring_reap(q->ring, on_completion, q);
	if (!q->ring || !q->armed)
		count += deliver_returned(q);
	count += deliver_list(&q->finished);
	update_epoch(q);
	q->delivering = false;
	return count;
}

void block_queue_flush(struct block_queue *q)
{
	arm(q);
	deliver(q);
	arm(q);
	if (q->ring)
		uring_submit(q->ring);
}

int block_queue_poll(struct block_queue *q)
{
	unsigned int count = deliver(q);

	arm(q);
	if (q->ring)
		uring_submit(q->ring);
	return (int)count;
}

static void wait_event(struct block_queue *q)
{
	struct pollfd p = {.fd = q->event_fd, .events = POLLIN};

	if (q->ring)
		uring_wait(q->ring);
	else
		poll(&p, 1, -1);
}

void block_queue_drain(struct block_queue *q)
{
	__atomic_add_fetch(&q->top->draining, 1, __ATOMIC_RELAXED);
	block_queue_flush(q);
	while (q->inflight) {
		if (list_empty(&q->finished))
			wait_event(q);
		deliver(q);
		arm(q);
	}
	__atomic_sub_fetch(&q->top->draining, 1, __ATOMIC_RELAXED);
}

/* ---- parts ---- */

bool block_subs_available(const struct block_queue *q, unsigned int count)
{
	return q->nfree_subs >= count;
}

static void sub_done(struct block_req *req, int result)
{
	struct sub *sub = container_of(req, struct sub, req);
	struct block_req *parent = sub->parent;
	struct block_queue *q = req->queue;

	if (result && !parent->result)
		parent->result = result;
	list_add(&q->free_subs, &req->link);
	q->nfree_subs++;
	if (!--parent->parts)
		block_complete(parent, parent->result);
}

struct block_req *block_sub_new(struct block_queue *q, struct block_req *parent, u64 skip, u64 len)
{
	struct sub *sub = list_first(&q->free_subs, struct sub, req.link);
	int n = 0;

	if (parent->iov) {
		n = iov_slice(sub->iov, BLOCK_SUB_IOV, parent->iov, (size_t)parent->niov, skip,
			      len);
		if (n < 0)
			return NULL;
	}
	list_del(&sub->req.link);
	q->nfree_subs--;
	q->inflight++;
	sub->parent = parent;
	sub->req = (struct block_req){.op = parent->op,
				      .len = len,
				      .iov = sub->iov,
				      .niov = n,
				      .done = sub_done,
				      .queue = q,
				      .effective = parent->effective};
	list_init(&sub->req.link);
	parent->parts++;
	return &sub->req;
}

void block_sub_drop(struct block_queue *q, struct block_req *req)
{
	struct sub *sub = container_of(req, struct sub, req);

	sub->parent->parts--;
	q->inflight--;
	list_add(&q->free_subs, &req->link);
	q->nfree_subs++;
}

void block_subs_begin(struct block_req *parent)
{
	parent->parts = 1;
	parent->result = 0;
}

void block_subs_end(struct block_queue *q, struct block_req *parent)
{
	if (!--parent->parts)
		block_finish(q, parent, parent->result);
}

/* ---- children ---- */

static void child_init(struct block_queue *q, struct block_req *child)
{
	child->queue = q;
	child->active = NULL;
	child->nhooks = 0;
	child->effective = child->flags;
	q->inflight++;
}

void block_child_start(struct block_queue *q, struct block_req *child, struct block *node, u64 pos)
{
	child_init(q, child);
	block_pass(q, child, node, pos);
}

void block_child_defer(struct block_queue *q, struct block_req *child, struct block *node)
{
	child_init(q, child);
	child->node = node;
	block_defer(q, child);
}

/* ---- epochs ---- */

void block_epoch_enter(struct block_queue *q, struct block_req *req)
{
	req->active = &q->active[q->parity];
	++*req->active;
}

void block_epoch_leave(struct block_req *req)
{
	if (req->active)
		--*req->active;
	req->active = NULL;
}

static void update_epoch(struct block_queue *q)
{
	u64 now = __atomic_load_n(&q->top->epoch, __ATOMIC_SEQ_CST);

	/* What entered before the current epoch is done, so the epoch has passed here. */
	if (q->active[!q->parity])
		return;
	if (q->drained != q->epoch)
		__atomic_store_n(&q->drained, q->epoch, __ATOMIC_SEQ_CST);
	if (now == q->epoch)
		return;
	q->epoch = now;
	q->parity = !q->parity;
	if (!q->active[!q->parity])
		__atomic_store_n(&q->drained, q->epoch, __ATOMIC_SEQ_CST);
}

u64 block_epoch_new(struct block *block)
{
	struct block *top = block->top;
	u64 epoch = __atomic_add_fetch(&top->epoch, 1, __ATOMIC_SEQ_CST);
	struct block_queue *q;

	pthread_mutex_lock(&top->queues_lock);
	list_for_each_entry (q, &top->queues, link)
		event_signal(q->event_fd);
	pthread_mutex_unlock(&top->queues_lock);
	return epoch;
}

bool block_epoch_passed(struct block *block, u64 epoch)
{
	struct block *top = block->top;
	struct block_queue *q;
	bool passed = true;

	pthread_mutex_lock(&top->queues_lock);
	list_for_each_entry (q, &top->queues, link)
		passed &= __atomic_load_n(&q->drained, __ATOMIC_SEQ_CST) >= epoch;
	pthread_mutex_unlock(&top->queues_lock);
	return passed;
}
