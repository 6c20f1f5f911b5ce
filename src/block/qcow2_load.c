/*
 * Requests that wait for an L2 table: it is read once for all requests of the queue that need it,
 * in the queue's own ring, and then they start over. Many tables may be on their way at once. What
 * would have to wait for the lock, or needs more than the reading, is left to a helper.
 *
 * Who misses one table after the other gets the next ones read ahead, twice as many each time,
 * while there is room for more tables. The first of them is the mark: who comes to it, in memory or
 * still on its way, sets the reading of the next ones going, so that none has to be waited for.
 * What is read ahead is nobody's request: it takes no helper, no lock that has to be waited for,
 * and leaves every judgement to who comes for the table.
 *
 * Invariants:
 * 1. A load belongs to its queue's thread; s->loads and the slots are under load_lock, which is
 *    taken last.
 * 2. tab, offset and stale are under s->lock while the table is being read. Whoever changes what
 *    the table is (another reader of it, a new or moved one, a new L1) sets stale: what has been
 *    read may be old then, and is thrown away.
 * 3. load_mark, load_next and load_ahead are written under load_lock. The marked table is in memory
 *    as one that nobody has asked for yet, which sends its first request to go().
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2_int.h"

#define MAX_LOADS 64
#define MAX_AHEAD 8

struct qcow2_load {
	struct list link; /* in s->loads or s->load_slots */
	struct qcow2 *s;
	struct block_queue *queue;
	u64 index; /* in L1 */
	struct list waiters;
	struct qcow2_tab *tab; /* reserved, being filled; NULL: no more, or left to a helper */
	u64 offset;	       /* where it is read from */
	bool stale, failed;
	struct iovec iov; /* its memory, or for the helper: this */
	struct block_req child;
};

void qcow2_loads_free(struct qcow2 *s)
{
	while (!list_empty(&s->load_slots)) {
		struct qcow2_load *l = list_first(&s->load_slots, struct qcow2_load, link);

		list_del(&l->link);
		free(l);
	}
}

void qcow2_load_spoil(struct qcow2 *s, u64 index)
{
	struct qcow2_load *l;

	pthread_mutex_lock(&s->load_lock);
	list_for_each_entry (l, &s->loads, link)
		if (l->index == index || index == QCOW2_LOAD_ALL)
			l->stale = true;
	pthread_mutex_unlock(&s->load_lock);
}

/* ---- the end ---- */

/* Locked. */
static void settle(struct qcow2_load *l)
{
	qcow2_l2_settle(l->s, l->tab, l->index, l->offset, !l->failed && !l->stale);
	if (qcow2_load_marked(l->s, l->index))
		__atomic_store_n(&l->tab->referenced, false, __ATOMIC_RELAXED);
	l->tab = NULL;
}

static bool settle_now(struct qcow2_load *l)
{
	if (pthread_mutex_trylock(&l->s->lock))
		return false;
	settle(l);
	pthread_mutex_unlock(&l->s->lock);
	return true;
}

static void on_loaded(struct block_req *child, int result);

static void put(struct qcow2_load *l)
{
	pthread_mutex_lock(&l->s->load_lock);
	list_del(&l->link);
	list_add(&l->s->load_slots, &l->link);
	pthread_mutex_unlock(&l->s->load_lock);
}

static void leave_to_helper(struct qcow2_load *l)
{
	l->iov = (struct iovec){l, sizeof(*l)};
	l->child = (struct block_req){.op = BLOCK_READ,
				      .flags = QCOW2_LOAD,
				      .iov = &l->iov,
				      .niov = 1,
				      .done = on_loaded};
	list_init(&l->child.link);
	block_child_defer(l->queue, &l->child, &l->s->block);
}

int qcow2_load(struct qcow2 *s, const struct block_io *io)
{
	struct qcow2_load *l = io->iov->iov_base;
	struct qcow2_tab *tab;
	int rc;

	pthread_mutex_lock(&s->lock);
	if (l->tab)
		settle(l);
	rc = qcow2_l2_get(s, l->index, &tab);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static void on_loaded(struct block_req *child, int result)
{
	struct qcow2_load *l = container_of(child, struct qcow2_load, child);
	struct list waiters = LIST_INIT(waiters);
	struct block_queue *q = l->queue;
	struct qcow2 *s = l->s;

	if (l->tab) {
		l->failed = result;
		if (!settle_now(l)) {
			leave_to_helper(l);
			return;
		}
	}
	while (!list_empty(&l->waiters)) {
		struct list *item = l->waiters.next;

		list_del(item);
		list_add_tail(&waiters, item);
	}
	put(l);
	/* Whatever the result: a helper will meet the same error and say so. */
	while (!list_empty(&waiters)) {
		struct block_req *req = list_first(&waiters, struct block_req, link);

		list_del(&req->link);
		qcow2_start_loaded(s, q, req);
	}
}

/* ---- the start ---- */

/* The load of this table for this queue, an old one or a new one; NULL when there are too many. */
static struct qcow2_load *get(struct qcow2 *s, struct block_queue *q, u64 index, bool *fresh)
{
	struct qcow2_load *l;

	*fresh = false;
	list_for_each_entry (l, &s->loads, link)
		if (l->queue == q && l->index == index)
			return l;
	if (!list_empty(&s->load_slots)) {
		l = list_first(&s->load_slots, struct qcow2_load, link);
		list_del(&l->link);
	} else {
		l = s->nloads < MAX_LOADS ? calloc(1, sizeof(*l)) : NULL;
		s->nloads += !!l;
	}
	if (!l)
		return NULL;
	l->s = s;
	l->queue = q;
	l->index = index;
	list_init(&l->waiters);
	list_add_tail(&s->loads, &l->link);
	*fresh = true;
	return l;
}

/* A place in memory for the table, if it can be had without waiting. */
static bool reserve(struct qcow2_load *l)
{
	struct qcow2 *s = l->s;

	l->tab = NULL;
	if (pthread_mutex_trylock(&s->lock))
		return false;
	l->offset = s->l1[l->index] & QCOW2_OFFSET;
	l->stale = l->failed = false;
	/* What cannot be is for the helper to find. */
	if (l->offset && is_aligned(l->offset, s->cluster_size) && l->offset < s->file_size &&
	    !s->l2.map[l->index])
		l->tab = qcow2_l2_reserve(s);
	pthread_mutex_unlock(&s->lock);
	return l->tab;
}

static void read_table(struct qcow2_load *l)
{
	struct qcow2 *s = l->s;

	l->iov = (struct iovec){l->tab->data, s->cluster_size};
	l->child = (struct block_req){.op = BLOCK_READ,
				      .len = s->cluster_size,
				      .iov = &l->iov,
				      .niov = 1,
				      .done = on_loaded};
	list_init(&l->child.link);
	block_child_start(l->queue, &l->child, s->block.file, l->offset);
}

static void begin(struct qcow2_load *l)
{
	if (block_queue_has_ring(l->queue) && reserve(l))
		read_table(l);
	else
		leave_to_helper(l);
}

/* The same for a table that nobody waits for. */
static bool begin_ahead(struct qcow2_load *l)
{
	if (reserve(l)) {
		read_table(l);
		return true;
	}
	put(l);
	return false;
}

static bool is_absent(const struct qcow2 *s, u64 index)
{
	return index < qcow2_l1_entries(s) && (qcow2_l1_peek(s, index) & QCOW2_OFFSET) &&
	       !qcow2_l2_peek(s, index);
}

static struct qcow2_load *get_locked(struct qcow2 *s, struct block_queue *q, u64 index, bool *fresh)
{
	struct qcow2_load *l;

	pthread_mutex_lock(&s->load_lock);
	l = get(s, q, index, fresh);
	pthread_mutex_unlock(&s->load_lock);
	return l;
}

/* Read n tables from there on, while they make sense. */
static void read_some(struct qcow2 *s, struct block_queue *q, u64 index, u32 n)
{
	if (!block_queue_has_ring(q))
		return;
	for (; n--; index++) {
		struct qcow2_load *l;
		bool fresh;

		if (!is_absent(s, index) ||
		    __atomic_load_n(&s->l2.count, __ATOMIC_RELAXED) + n >= s->l2.cap)
			return;
		l = get_locked(s, q, index, &fresh);
		if (!l || (fresh && !begin_ahead(l)))
			return;
	}
}

/* The next n tables are read ahead. Locked by load_lock; where they begin. */
static u64 note_ahead(struct qcow2 *s, u32 n)
{
	u64 first = s->load_next;

	s->load_ahead = n;
	s->load_next += n;
	__atomic_store_n(&s->load_mark, n ? first : QCOW2_LOAD_NONE, __ATOMIC_RELAXED);
	return first;
}

/* Read ahead behind a table that was missed, if the one before was missed, too. */
static void after_miss(struct qcow2 *s, struct block_queue *q, u64 index)
{
	u64 first;
	u32 n;

	pthread_mutex_lock(&s->load_lock);
	/* It was to be read ahead and could not be: the next ones are on their way. */
	if (index < s->load_mark && s->load_mark - index <= s->load_ahead) {
		pthread_mutex_unlock(&s->load_lock);
		return;
	}
	n = index == s->load_next ? min(2 * s->load_ahead + 1, (u32)MAX_AHEAD) : 0;
	s->load_next = index + 1;
	first = note_ahead(s, n);
	pthread_mutex_unlock(&s->load_lock);
	read_some(s, q, first, n);
}

void qcow2_load_more(struct qcow2 *s, struct block_queue *q, u64 index)
{
	u64 first = 0;
	u32 n = 0;

	pthread_mutex_lock(&s->load_lock);
	if (index == s->load_mark) {
		n = min(2 * s->load_ahead, (u32)MAX_AHEAD);
		first = note_ahead(s, n);
	}
	pthread_mutex_unlock(&s->load_lock);
	read_some(s, q, first, n);
}

bool qcow2_load_start(struct qcow2 *s, struct block_queue *q, struct block_req *req)
{
	u64 index = qcow2_l1_index(s, req->pos);
	struct qcow2_load *l;
	bool fresh;

	if (!is_absent(s, index))
		return false;
	l = get_locked(s, q, index, &fresh);
	if (!l)
		return false;
	list_add_tail(&l->waiters, &req->link);
	if (!fresh)
		return true;
	begin(l);
	after_miss(s, q, index);
	return true;
}
