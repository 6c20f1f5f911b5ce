/*
 * Writes that change mappings, in the queue's thread: a step (qcow2_step.c) whose reads and whose
 * write go through the ring. For what needs neither a table to be loaded nor space to be reserved;
 * the rest is qcow2_io()'s, in a helper.
 *
 *   qcow2_cow_start -> [read what surrounds the data] -> write all of it -> publish -> done
 *
 * Invariants:
 * 1. From its start until it is published a copy keeps its range busy, and is in s->cows.
 * 2. A request of the same queue that needs a busy range waits in the copy's list, and is started
 *    over by its end; one of another queue goes to a helper, which may sleep.
 * 3. A copy belongs to its queue's thread, but for s->cows, which is under the lock, and for the
 *    slots, which have a lock of their own: a queue's thread never waits for the first.
 * 4. Nothing that a copy waits for waits for a busy range: reads, and what it writes itself, have
 *    helpers of their own (pool.c), and an image with copy-on-read, whose reads do wait, starts no
 * copies here.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"
#include "block/qcow2_int.h"

/* Memory of all slots of an image, and how many there are. */
#define COW_BYTES (16 * MiB)
#define COW_MIN	  4
#define COW_MAX	  64

struct qcow2_cow {
	struct list link; /* in s->cows or s->cow_slots */
	struct qcow2 *s;
	struct block_queue *queue;
	struct block_req *parent;
	struct qcow2_step step;
	struct qcow2_busy busy;
	struct list waiters;
	struct block_req child[2];
	struct iovec edge[2], iov[BLOCK_SUB_IOV + 2];
	unsigned int reading;
	int result;
	u8 *head, *tail; /* what surrounds the data, in buf */
	u8 *buf;
};

/* The tail begins on a page of its own. */
static u64 slot_bytes(const struct qcow2 *s)
{
	return 2 * max(s->cluster_size, (u64)4096);
}

static struct qcow2_cow *slot_new(struct qcow2 *s)
{
	struct qcow2_cow *c = calloc(1, sizeof(*c));

	if (c && posix_memalign((void **)&c->buf, 4096, slot_bytes(s)))
		c->buf = NULL;
	if (!c || !c->buf) {
		free(c);
		return NULL;
	}
	s->ncows++;
	return c;
}

static struct qcow2_cow *slot_get(struct qcow2 *s)
{
	u64 most = min(max(COW_BYTES / slot_bytes(s), (u64)COW_MIN), (u64)COW_MAX);
	struct qcow2_cow *c = NULL;

	pthread_mutex_lock(&s->cow_lock);
	if (!list_empty(&s->cow_slots)) {
		c = list_first(&s->cow_slots, struct qcow2_cow, link);
		list_del(&c->link);
	} else if (s->ncows < most) {
		c = slot_new(s);
	}
	pthread_mutex_unlock(&s->cow_lock);
	return c;
}

static void slot_put(struct qcow2 *s, struct qcow2_cow *c)
{
	pthread_mutex_lock(&s->cow_lock);
	list_add(&s->cow_slots, &c->link);
	pthread_mutex_unlock(&s->cow_lock);
}

void qcow2_cows_free(struct qcow2 *s)
{
	while (!list_empty(&s->cow_slots)) {
		struct qcow2_cow *c = list_first(&s->cow_slots, struct qcow2_cow, link);

		list_del(&c->link);
		free(c->buf);
		free(c);
	}
}

/* ---- the end ---- */

/* Is the table that publishing changes in memory, and ours? Locked. */
static bool table_ready(const struct qcow2 *s, u64 offset)
{
	u64 index = qcow2_l1_index(s, offset);

	return index < s->h.l1_size && (s->l1[index] & QCOW2_COPIED) && s->l2.map[index];
}

/* Locked. */
static void publish(struct qcow2_cow *c)
{
	struct qcow2 *s = c->s;

	if (c->result)
		qcow2_step_drop(s, &c->step);
	else
		c->result = qcow2_step_publish(s, &c->step);
	qcow2_busy_leave(s, &c->busy);
	list_del(&c->link);
}

static void finish(struct qcow2_cow *c)
{
	struct block_req *parent = c->parent;
	struct block_queue *q = c->queue;
	struct list waiters = LIST_INIT(waiters);
	struct qcow2 *s = c->s;
	int result = c->result;

	while (!list_empty(&c->waiters)) {
		struct list *item = c->waiters.next;

		list_del(item);
		list_add_tail(&waiters, item);
	}
	slot_put(s, c);
	while (!list_empty(&waiters)) {
		struct block_req *req = list_first(&waiters, struct block_req, link);

		list_del(&req->link);
		qcow2_start(s, q, req);
	}
	block_complete(parent, result);
}

static void on_published(struct block_req *req, int result)
{
	struct qcow2_cow *c = container_of(req, struct qcow2_cow, child[0]);

	/* There was no helper to be had, so that the lock has to be waited for here. */
	if (result) {
		pthread_mutex_lock(&c->s->lock);
		publish(c);
		pthread_mutex_unlock(&c->s->lock);
	}
	finish(c);
}

/* In a helper. */
int qcow2_cow_publish(struct qcow2 *s, const struct block_io *io)
{
	pthread_mutex_lock(&s->lock);
	publish((struct qcow2_cow *)(uintptr_t)io->iov);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void end(struct qcow2_cow *c)
{
	struct qcow2 *s = c->s;

	if (!pthread_mutex_trylock(&s->lock)) {
		bool ready = c->result || table_ready(s, c->step.offset);

		if (ready)
			publish(c);
		pthread_mutex_unlock(&s->lock);
		if (ready) {
			finish(c);
			return;
		}
	}
	/* As a read, so that it finds a helper. */
	c->child[0] = (struct block_req){.op = BLOCK_READ,
					 .flags = QCOW2_PUBLISH,
					 .iov = (struct iovec *)(void *)c,
					 .done = on_published};
	list_init(&c->child[0].link);
	block_child_defer(c->queue, &c->child[0], &s->block);
}

/* ---- writing ---- */

static void on_written(struct block_req *req, int result)
{
	struct qcow2_cow *c = container_of(req, struct qcow2_cow, child[0]);

	c->result = result;
	end(c);
}

static void write_all(struct qcow2_cow *c)
{
	const struct qcow2_step *st = &c->step;
	u64 head = st->offset - st->start, tail = st->end - (st->offset + st->len);
	int n = 0;

	if (head)
		c->iov[n++] = (struct iovec){c->head, head};
	for (int i = 0; i < c->parent->niov; i++)
		c->iov[n++] = c->parent->iov[i];
	if (tail)
		c->iov[n++] = (struct iovec){c->tail, tail};
	c->child[0] = (struct block_req){.op = BLOCK_WRITE,
					 .flags = BLOCK_NO_WAIT,
					 .len = st->end - st->start,
					 .iov = c->iov,
					 .niov = n,
					 .done = on_written};
	list_init(&c->child[0].link);
	block_child_start(c->queue, &c->child[0], c->s->data, st->host);
}

/* ---- reading ---- */

static void read_done(struct qcow2_cow *c, int result)
{
	if (result)
		c->result = result;
	if (--c->reading)
		return;
	if (c->result)
		end(c);
	else
		write_all(c);
}

static void on_head(struct block_req *req, int result)
{
	read_done(container_of(req, struct qcow2_cow, child[0]), result);
}

static void on_tail(struct block_req *req, int result)
{
	read_done(container_of(req, struct qcow2_cow, child[1]), result);
}

/* Through the image itself, which still shows what was there. */
static void read_edge(struct qcow2_cow *c, int which, u64 guest, void *to, u64 len)
{
	c->edge[which] = (struct iovec){to, len};
	c->child[which] = (struct block_req){.op = BLOCK_READ,
					     .len = len,
					     .iov = &c->edge[which],
					     .niov = 1,
					     .done = which ? on_tail : on_head};
	list_init(&c->child[which].link);
	block_child_start(c->queue, &c->child[which], &c->s->block, guest);
}

/* Around small data in one piece. */
static void begin(struct qcow2_cow *c)
{
	const struct qcow2_step *st = &c->step;
	u64 head = st->offset - st->start, tail = st->end - (st->offset + st->len);
	u64 all = st->end - st->start;

	c->head = c->buf;
	if (head && tail && st->len <= head + tail && all <= slot_bytes(c->s)) {
		c->tail = c->buf + head + st->len;
		c->reading = 1;
		read_edge(c, 0, st->start, c->buf, all);
		return;
	}
	c->tail = c->buf + align_up(head, 4096);
	c->reading = !!head + !!tail;
	if (!c->reading)
		write_all(c);
	if (head)
		read_edge(c, 0, st->start, c->head, head);
	if (tail)
		read_edge(c, 1, st->offset + st->len, c->tail, tail);
}

/* ---- the start ---- */

/* The copy of this queue that keeps any of the range busy. Locked. */
static struct qcow2_cow *rival(struct qcow2 *s, struct block_queue *q, u64 start, u64 end)
{
	struct qcow2_cow *c;

	list_for_each_entry (c, &s->cows, link)
		if (c->queue == q && start < c->busy.end && c->busy.start < end)
			return c;
	return NULL;
}

/* Can the step be planned without I/O? Locked. */
static bool ready(struct qcow2 *s, u64 offset, u64 len)
{
	u64 last = offset + len - 1,
	    n = (last >> s->cluster_bits) - (offset >> s->cluster_bits) + 1;
	u64 region = s->run >> s->refblock_bits, l1_index = qcow2_l1_index(s, offset);

	return table_ready(s, offset) && l1_index == qcow2_l1_index(s, last) &&
	       qcow2_l2_trust(s, s->l2.map[l1_index], offset, len) && s->run_end - s->run >= n &&
	       region == (s->run + n - 1) >> s->refblock_bits && s->refblocks.map[region];
}

/* Locked. */
static bool plan(struct qcow2_cow *c)
{
	struct qcow2 *s = c->s;
	struct qcow2_step *st = &c->step;
	u64 len = st->len;
	bool in_place;

	qcow2_busy_enter(s, &c->busy, st->offset, st->offset + len);
	if (!qcow2_step_plan(s, st, &in_place)) {
		if (!in_place && st->len == len)
			return true;
		if (!in_place)
			qcow2_step_drop(s, st);
	}
	qcow2_busy_leave(s, &c->busy);
	return false;
}

/* Locked. */
static bool prepare(struct qcow2 *s, struct block_queue *q, struct block_req *req,
		    struct qcow2_cow **out)
{
	u64 start = align_down(req->pos, s->cluster_size);
	u64 end = align_up(req->pos + req->len, s->cluster_size);
	struct qcow2_cow *c;

	if (!__atomic_load_n(&s->writing, __ATOMIC_RELAXED) || qcow2_cache_full(s))
		return false;
	if (qcow2_is_busy(s, start, end)) {
		c = rival(s, q, start, end);
		if (c)
			list_add_tail(&c->waiters, &req->link);
		return c;
	}
	if (!ready(s, req->pos, req->len))
		return false;
	c = slot_get(s);
	if (!c)
		return false;
	c->s = s;
	c->queue = q;
	c->parent = req;
	c->step = (struct qcow2_step){.offset = req->pos, .len = req->len};
	c->result = 0;
	list_init(&c->waiters);
	if (!plan(c)) {
		slot_put(s, c);
		return false;
	}
	list_add_tail(&s->cows, &c->link);
	*out = c;
	return true;
}

bool qcow2_cow_start(struct qcow2 *s, struct block_queue *q, struct block_req *req)
{
	struct qcow2_cow *c = NULL;
	bool taken;

	if (s->external || s->copy_on_read || req->niov > BLOCK_SUB_IOV ||
	    req->len > QCOW2_MAX_STEP || !s->data->class->submit)
		return false;
	if (pthread_mutex_trylock(&s->lock))
		return false;
	taken = prepare(s, q, req, &c);
	pthread_mutex_unlock(&s->lock);
	if (c)
		begin(c);
	return taken;
}
