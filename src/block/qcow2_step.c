/*
 * A step of a write that changes mappings: which clusters, what is written around the data so that
 * they are whole, and what their entries become. No I/O but that of loading tables and of reserving
 * space.
 */
#include <errno.h>

#include "block/qcow2_int.h"

bool qcow2_known_zero(struct qcow2 *s, u64 start, u64 end)
{
	u64 backing = s->block.backing ? block_size(s->block.backing) : 0;

	while (start < end) {
		struct qcow2_map map;

		if (qcow2_lookup(s, start, end - start, &map))
			return false;
		if (map.type != QCOW2_ZEROED && (map.type != QCOW2_UNALLOCATED || start < backing))
			return false;
		start += map.len;
	}
	return true;
}

/* How much around the data has to be written with it. Locked. */
static void set_edges(struct qcow2 *s, struct qcow2_step *st, bool whole)
{
	u64 unit = whole ? s->cluster_size : BIT(s->sub_bits);
	u64 end = st->offset + st->len;

	st->start = align_down(st->offset, unit);
	st->end = align_up(end, unit);
	if (st->fresh && qcow2_known_zero(s, st->start, st->offset))
		st->start = st->offset;
	if (st->fresh && qcow2_known_zero(s, end, st->end))
		st->end = end;
}

bool qcow2_ours(const struct qcow2 *s, u64 entry)
{
	return (entry & QCOW2_COPIED) && !(entry & QCOW2_COMPRESSED) &&
	       ((entry & QCOW2_OFFSET) || s->external);
}

int qcow2_entry_at(struct qcow2 *s, u64 offset, u64 *entry, u64 *bitmap)
{
	struct qcow2_tab *tab;
	int rc = qcow2_l2_get(s, qcow2_l1_index(s, offset), &tab);

	*entry = *bitmap = 0;
	if (!rc && tab)
		*entry = qcow2_entry_get(s, tab, qcow2_l2_index(s, offset), bitmap);
	return rc;
}

/* How many clusters from offset on are not ours, up to len. */
static int count_foreign(struct qcow2 *s, u64 offset, u64 len, u64 *clusters)
{
	u64 end = align_up(min(offset + len, align_down(offset, QCOW2_MAX_STEP) + QCOW2_MAX_STEP),
			   s->cluster_size);
	u64 span = BIT(s->cluster_bits + s->l2_bits), first = align_down(offset, s->cluster_size);

	end = min(end, align_down(offset, span) + span);
	for (*clusters = 0; first + (*clusters << s->cluster_bits) < end; ++*clusters) {
		u64 entry, bitmap;
		int rc = qcow2_entry_at(s, first + (*clusters << s->cluster_bits), &entry, &bitmap);

		if (rc)
			return rc;
		if (qcow2_ours(s, entry))
			break;
	}
	return 0;
}

/* A cluster of ours whose mapping the write does not fully cover: a zero cluster that is
 * preallocated, or subclusters to add. */
static void plan_ours(struct qcow2 *s, struct qcow2_step *st, u64 entry)
{
	u64 in = qcow2_into_cluster(s, st->offset);

	st->len = min(st->len, s->cluster_size - in);
	st->clusters = 0;
	st->fresh = false;
	set_edges(s, st, !s->extended);
	st->host = (entry & QCOW2_OFFSET) + qcow2_into_cluster(s, st->start);
	if (s->external)
		st->host = st->start;
}

static int plan_new(struct qcow2 *s, struct qcow2_step *st, u64 foreign)
{
	u64 entry, bitmap, got = foreign, in = qcow2_into_cluster(s, st->offset);
	bool whole = !s->extended;
	int rc;

	if (s->external)
		st->new_host = align_down(st->offset, s->cluster_size);
	else if ((rc = qcow2_alloc(s, foreign, &st->new_host, &got)))
		return rc;
	st->clusters = got;
	st->len = min(st->len, (got << s->cluster_bits) - in);
	st->fresh = !s->external && !s->crypt;
	/* A shared or compressed cluster's subclusters would lose their place: copy all of it. */
	for (u64 i = 0; i < got && !whole; i++) {
		rc = qcow2_entry_at(s, st->offset - in + (i << s->cluster_bits), &entry, &bitmap);
		whole = rc || (entry & (QCOW2_OFFSET | QCOW2_COMPRESSED));
	}
	st->whole = whole;
	set_edges(s, st, whole);
	st->host = st->new_host + (st->start - (st->offset - in));
	return 0;
}

int qcow2_step_plan(struct qcow2 *s, struct qcow2_step *st, bool *in_place)
{
	struct qcow2_map map;
	u64 foreign, entry, bitmap;
	int rc = qcow2_lookup(s, st->offset, st->len, &map);

	*in_place = false;
	if (rc)
		return rc;
	if (map.type == QCOW2_BROKEN)
		return -EIO;
	if (map.type == QCOW2_NORMAL && map.copied) {
		*in_place = true;
		st->host = map.host;
		st->len = map.len;
		return 0;
	}
	rc = count_foreign(s, st->offset, st->len, &foreign);
	if (rc)
		return rc;
	if (foreign)
		return plan_new(s, st, foreign);
	rc = qcow2_entry_at(s, st->offset, &entry, &bitmap);
	if (!rc)
		plan_ours(s, st, entry);
	return rc;
}

/* Subclusters of the cluster at `cluster` that [start, end) touches, as bits 0 to 31. */
static u64 sub_mask(const struct qcow2 *s, u64 cluster, u64 start, u64 end)
{
	u64 from = max(start, cluster) - cluster;
	u64 upto = min(end, cluster + s->cluster_size) - cluster;

	return MASK((upto - 1) >> s->sub_bits, from >> s->sub_bits);
}

static u64 new_bitmap(const struct qcow2 *s, const struct qcow2_step *st, u64 cluster, u64 old,
		      bool backed)
{
	u64 set;

	if (!s->extended)
		return 0;
	/* All of it is as the guest must see it: copied, or fresh where zeros show anyway. */
	if (st->whole || (st->fresh && !backed && !(old >> 32)))
		return MASK(31, 0);
	set = sub_mask(s, cluster, st->start, st->end);
	return (old & ~(set << 32)) | set;
}

int qcow2_step_publish(struct qcow2 *s, const struct qcow2_step *st)
{
	u64 cluster = align_down(st->offset, s->cluster_size);
	u64 n = max(st->clusters, (u64)1), i = 0;
	struct qcow2_tab *tab;
	int rc = qcow2_l2_own(s, qcow2_l1_index(s, cluster), &tab);

	for (; i < n && !rc; i++, cluster += s->cluster_size) {
		u64 index = qcow2_l2_index(s, cluster), bitmap;
		u64 old = qcow2_entry_get(s, tab, index, &bitmap);
		u64 host =
			st->clusters ? st->new_host + (i << s->cluster_bits) : old & QCOW2_OFFSET;
		bool backed = s->block.backing && cluster < block_size(s->block.backing);

		if (st->clusters)
			rc = qcow2_free_entry(s, old);
		if (rc)
			break;
		qcow2_entry_set(s, tab, index, host | QCOW2_COPIED,
				new_bitmap(s, st, cluster, bitmap, backed));
	}
	if (rc && st->clusters && !s->external)
		qcow2_unalloc(s, st->new_host + (i << s->cluster_bits), st->clusters - i);
	return rc;
}

void qcow2_step_drop(struct qcow2 *s, const struct qcow2_step *st)
{
	if (st->clusters && !s->external)
		qcow2_unalloc(s, st->new_host, st->clusters);
}
