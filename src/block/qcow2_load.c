/*
 * Requests that wait for an L2 table: one helper loads it, and all requests of the queue that need
 * it start over in the queue's thread, instead of sending each to a helper of its own, where all
 * would wait for the same lock.
 *
 * A load belongs to its queue's thread; s->loads and the slots are under load_lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2_int.h"

#define MAX_LOADS 32

struct qcow2_load {
	struct list link; /* in s->loads or s->load_slots */
	struct qcow2 *s;
	struct block_queue *queue;
	u64 index; /* in L1 */
	struct list waiters;
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

static void on_loaded(struct block_req *child, int result)
{
	struct qcow2_load *l = container_of(child, struct qcow2_load, child);
	struct list waiters = LIST_INIT(waiters);
	struct block_queue *q = l->queue;
	struct qcow2 *s = l->s;

	while (!list_empty(&l->waiters)) {
		struct list *item = l->waiters.next;

		list_del(item);
		list_add_tail(&waiters, item);
	}
	pthread_mutex_lock(&s->load_lock);
	list_del(&l->link);
	list_add(&s->load_slots, &l->link);
	pthread_mutex_unlock(&s->load_lock);
	/* Whatever the result: a helper will meet the same error and say so. */
	while (!list_empty(&waiters)) {
		struct block_req *req = list_first(&waiters, struct block_req, link);

		list_del(&req->link);
		qcow2_start_loaded(s, q, req);
	}
}

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

bool qcow2_load_start(struct qcow2 *s, struct block_queue *q, struct block_req *req)
{
	u64 index = qcow2_l1_index(s, req->pos);
	struct qcow2_load *l;
	bool fresh;

	if (index >= s->h.l1_size ||
	    !(__atomic_load_n(&s->l1[index], __ATOMIC_RELAXED) & QCOW2_OFFSET) ||
	    __atomic_load_n(&s->l2.map[index], __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&s->load_lock);
	l = get(s, q, index, &fresh);
	pthread_mutex_unlock(&s->load_lock);
	if (!l)
		return false;
	list_add_tail(&l->waiters, &req->link);
	if (!fresh)
		return true;
	l->child = (struct block_req){
		.op = BLOCK_READ, .flags = QCOW2_LOAD, .pos = index, .done = on_loaded};
	list_init(&l->child.link);
	block_child_defer(q, &l->child, &s->block);
	return true;
}

int qcow2_load(struct qcow2 *s, u64 index)
{
	struct qcow2_tab *tab;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = qcow2_l2_get(s, index, &tab);
	pthread_mutex_unlock(&s->lock);
	return rc;
}
