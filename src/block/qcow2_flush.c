/*
 * The order in which metadata reaches the disk, so that a crash at any moment may leak clusters and
 * never loses flushed data or uses a cluster twice:
 *
 *   1. refcount blocks (in memory they only ever run ahead: see qcow2_alloc.c, invariant 2)
 *   2. sync: with them everything that the tables below will point to (guest data, copies, zeros)
 *   3. refcount table, when it has new blocks, and sync
 *   4. L2 tables; sync
 *   5. L1 table, when it has new tables, and sync
 *   6. now nothing on disk points to what was replaced: those clusters become durably free, and
 *      their refcounts go down in memory, to be written by the next flush.
 *
 * All of it is a copy taken at one moment under the lock, so that what changes meanwhile belongs to
 * the next flush. A write that fails leaves its tables dirty for the next try. A sync that fails
 * cannot be tried again (the kernel has forgotten which pages were dirty): the image takes no more
 * writes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2_int.h"

/* A copy of a dirty part of a table. */
struct piece {
	struct piece *next;
	struct qcow2_tab *tab; /* NULL: of L1 or of the refcount table */
	u64 index;	       /* the table's at the time; of the sector */
	u64 mask;
	u64 offset, len;
	u8 data[];
};

enum stage { STAGE_REFBLOCKS, STAGE_REFTABLE, STAGE_L2, STAGE_L1, STAGES };

struct plan {
	struct piece *pieces[STAGES];
	bool sync_failed;
};

static struct piece *piece_new(struct plan *plan, enum stage stage, u64 offset, const void *data,
			       u64 len)
{
	struct piece *p = malloc(sizeof(*p) + len);

	if (!p)
		return NULL;
	*p = (struct piece){.next = plan->pieces[stage], .offset = offset, .len = len};
	memcpy(p->data, data, len);
	plan->pieces[stage] = p;
	return p;
}

/* One piece a run of dirty units. */
static int plan_tab(struct qcow2 *s, struct plan *plan, enum stage stage, struct qcow2_tab *tab)
{
	unsigned int unit = s->cluster_bits - 6;
	u64 dirty = tab->dirty;

	tab->writing = true;
	while (dirty) {
		unsigned int first = (unsigned int)__builtin_ctzll(dirty);
		u64 rest = ~(dirty >> first);
		unsigned int n = rest ? (unsigned int)__builtin_ctzll(rest) : 64;
		u64 mask, at = (u64)first << unit;
		struct piece *p;

		n = min(n, 64 - first);
		mask = MASK(first + n - 1, first);
		p = piece_new(plan, stage, tab->offset + at, tab->data + at, (u64)n << unit);
		if (!p)
			return -ENOMEM;
		p->tab = tab;
		p->index = tab->index;
		p->mask = mask;
		dirty &= ~mask;
	}
	return 0;
}

static int plan_cache(struct qcow2 *s, struct plan *plan, enum stage stage, struct qcow2_cache *c)
{
	int rc = 0;

	for (u32 i = 0; i < c->count && c->dirty && !rc; i++)
		if (c->tabs[i]->used && c->tabs[i]->dirty)
			rc = plan_tab(s, plan, stage, c->tabs[i]);
	return rc;
}

static int plan_sectors(struct plan *plan, enum stage stage, const u64 *table, u64 entries,
			u64 offset, const u64 *dirty)
{
	u64 sectors = div_round_up(entries * 8, 512), disk[64];

	for (u64 i = bitmap_next_set(dirty, sectors, 0); i < sectors;
	     i = bitmap_next_set(dirty, sectors, i + 1)) {
		u64 n = min(entries - i * 64, (u64)64);
		struct piece *p;

		for (u64 k = 0; k < n; k++)
			disk[k] = htobe64(table[i * 64 + k]);
		p = piece_new(plan, stage, offset + i * 512, disk, n * 8);
		if (!p)
			return -ENOMEM;
		p->index = i;
	}
	return 0;
}

static void plan_free(struct plan *plan)
{
	for (int i = 0; i < STAGES; i++) {
		while (plan->pieces[i]) {
			struct piece *p = plan->pieces[i];

			plan->pieces[i] = p->next;
			free(p);
		}
	}
}

/* From here on tables may be evicted again. Locked. */
static void unpin(struct qcow2_cache *c)
{
	for (u32 i = 0; i < c->count; i++)
		c->tabs[i]->writing = false;
}

static void plan_end(struct qcow2 *s, struct plan *plan)
{
	unpin(&s->l2);
	unpin(&s->refblocks);
	plan_free(plan);
}

static void clean_cache(struct qcow2_cache *c)
{
	for (u32 i = 0; i < c->count; i++)
		c->tabs[i]->dirty = 0;
	c->dirty = 0;
}

/* Copy all that is dirty and call it clean. Locked. */
static int plan_make(struct qcow2 *s, struct plan *plan)
{
	struct qcow2_free *f;
	int rc;

	memset(plan, 0, sizeof(*plan));
	rc = plan_cache(s, plan, STAGE_REFBLOCKS, &s->refblocks);
	if (!rc)
		rc = plan_cache(s, plan, STAGE_L2, &s->l2);
	if (!rc && s->reftable_any_dirty)
		rc = plan_sectors(plan, STAGE_REFTABLE, s->reftable, s->reftable_size,
				  s->h.reftable_offset, s->reftable_dirty);
	if (!rc && s->l1_any_dirty)
		rc = plan_sectors(plan, STAGE_L1, s->l1, s->h.l1_size, s->h.l1_offset, s->l1_dirty);
	if (rc) {
		plan_end(s, plan);
		return rc;
	}
	clean_cache(&s->refblocks);
	clean_cache(&s->l2);
	if (s->reftable_any_dirty)
		memset(s->reftable_dirty, 0, sizeof(s->reftable_dirty));
	if (s->l1_any_dirty)
		memset(s->l1_dirty, 0, sizeof(s->l1_dirty));
	s->reftable_any_dirty = s->l1_any_dirty = false;
	list_for_each_entry (f, &s->frees, link)
		if (f->state == QCOW2_FREE_NEW)
			f->state = QCOW2_FREE_NOTED;
	__atomic_store_n(&s->meta_dirty, false, __ATOMIC_RELEASE);
	return 0;
}

/* The plan was not carried out: all of it is dirty again. Locked. */
static void plan_undo(struct qcow2 *s, struct plan *plan)
{
	struct qcow2_free *f;

	for (int i = 0; i < STAGES; i++) {
		struct qcow2_cache *c = i == STAGE_L2 ? &s->l2 : &s->refblocks;

		for (struct piece *p = plan->pieces[i]; p; p = p->next) {
			if (i == STAGE_L1) {
				bitmap_set(s->l1_dirty, p->index);
				s->l1_any_dirty = true;
			} else if (i == STAGE_REFTABLE) {
				bitmap_set(s->reftable_dirty, p->index);
				s->reftable_any_dirty = true;
			} else {
				c->dirty += !p->tab->dirty;
				p->tab->dirty |= p->mask;
			}
		}
	}
	list_for_each_entry (f, &s->frees, link)
		if (f->state == QCOW2_FREE_NOTED)
			f->state = QCOW2_FREE_NEW;
	__atomic_store_n(&s->meta_dirty, true, __ATOMIC_RELAXED);
}

static int write_stage(struct qcow2 *s, const struct plan *plan, enum stage stage)
{
	int rc = 0;

	for (struct piece *p = plan->pieces[stage]; p && !rc; p = p->next)
		rc = block_node_write(s->block.file, p->data, p->len, p->offset);
	return rc;
}

void qcow2_give_up(struct qcow2 *s, int rc)
{
	log_guest("%s: sync failed; the image takes no more writes", s->block.name);
	__atomic_store_n(&s->failed, rc, __ATOMIC_RELEASE);
	__atomic_store_n(&s->writing, false, __ATOMIC_RELEASE);
}

static int sync_all(struct qcow2 *s, struct plan *plan)
{
	int rc = block_node_flush(s->block.file);

	if (!rc && s->external && s->data)
		rc = block_node_flush(s->data);
	plan->sync_failed = rc;
	return rc;
}

static int carry_out(struct qcow2 *s, struct plan *plan)
{
	int rc = write_stage(s, plan, STAGE_REFBLOCKS);

	if (!rc)
		rc = sync_all(s, plan);
	for (int stage = STAGE_REFTABLE; stage < STAGES && !rc; stage++) {
		if (!plan->pieces[stage])
			continue;
		rc = write_stage(s, plan, stage);
		if (!rc)
			rc = sync_all(s, plan);
	}
	return rc;
}

/* One round, by one thread at a time. Locked; the lock is dropped for I/O unless it is held. */
static int flush_round(struct qcow2 *s, bool held)
{
	struct plan plan;
	int rc = __atomic_load_n(&s->failed, __ATOMIC_ACQUIRE);

	if (!rc)
		rc = plan_make(s, &plan);
	if (rc)
		return rc;
	if (!held)
		pthread_mutex_unlock(&s->lock);
	rc = carry_out(s, &plan);
	if (!held)
		pthread_mutex_lock(&s->lock);
	/* Remembered for good. */
	if (plan.sync_failed)
		qcow2_give_up(s, rc);
	if (rc)
		plan_undo(s, &plan);
	else
		qcow2_frees_durable(s);
	plan_end(s, &plan);
	return rc;
}

int qcow2_flush_held(struct qcow2 *s)
{
	while (s->flushing)
		pthread_cond_wait(&s->changed, &s->lock);
	return flush_round(s, true);
}

int qcow2_flush(struct qcow2 *s)
{
	u64 mine;
	int rc;

	if (s->block.readonly)
		return 0;
	pthread_mutex_lock(&s->lock);
	mine = s->flush_started + 1;
	while (s->flush_done < mine) {
		if (s->flushing) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		__atomic_store_n(&s->flushing, true, __ATOMIC_RELAXED);
		s->flush_started++;
		rc = flush_round(s, false);
		s->flush_result = rc;
		s->flush_done = s->flush_started;
		__atomic_store_n(&s->flushing, false, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&s->changed);
	}
	rc = s->flush_result;
	qcow2_release(s);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

#define SETTLE_ROUNDS 8

int qcow2_settle(struct qcow2 *s)
{
	int rc = 0;

	/* A round may free clusters, whose counts the next one writes; so may what an earlier
	 * flush left to be released, because a request was in flight then. */
	for (int i = 0; i < SETTLE_ROUNDS && !rc; i++) {
		bool dirty;

		pthread_mutex_lock(&s->lock);
		qcow2_release(s);
		dirty = s->meta_dirty;
		pthread_mutex_unlock(&s->lock);
		if (!dirty)
			break;
		rc = qcow2_flush(s);
	}
	return rc;
}
