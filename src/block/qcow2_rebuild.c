/*
 * All refcounts written anew, from what an audit has counted: behind the end of what is used, with
 * one write to the header that takes them over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_check_int.h"

struct rebuilt {
	u64 first;  /* cluster where the new structure begins */
	u64 blocks; /* in use, one for each region that has a count */
	u64 table;  /* clusters */
	u64 entries;
	u64 end;
};

static bool region_used(const struct qcow2_audit *a, const struct rebuilt *r, u64 region)
{
	u64 from = region << a->s->refblock_bits, upto = from + BIT(a->s->refblock_bits);

	if (ranges_overlap(from, upto - from, r->first, r->end - r->first))
		return true;
	for (u64 c = from; c < upto && c < a->clusters; c++) {
		if (!a->chunks[c / AUDIT_CHUNK])
			c |= AUDIT_CHUNK - 1;
		else if (a->chunks[c / AUDIT_CHUNK][c % AUDIT_CHUNK])
			return true;
	}
	return false;
}

/* Where it goes: behind the last cluster in use. */
static int rebuilt_layout(struct qcow2_audit *a, struct rebuilt *r)
{
	u64 per = BIT(a->s->refblock_bits);

	*r = (struct rebuilt){.first = a->highest + 1};
	r->end = r->first + 1;
	for (;;) {
		u64 regions = div_round_up(r->end, per), blocks = 0, table;

		if (regions > QCOW2_MAX_REFTABLE / 8)
			return -EFBIG;
		for (u64 i = 0; i < regions; i++)
			blocks += region_used(a, r, i);
		table = div_round_up(regions * 8, a->s->cluster_size);
		if (blocks <= r->blocks && table <= r->table)
			break;
		r->blocks = max(r->blocks, blocks);
		r->table = max(r->table, table);
		r->end = r->first + r->blocks + r->table;
	}
	r->entries = r->table * a->s->cluster_size / 8;
	return 0;
}

static int write_rebuilt(struct qcow2_audit *a, const struct rebuilt *r, u64 *table)
{
	struct qcow2 *s = a->s;
	u64 per = BIT(s->refblock_bits), regions = div_round_up(r->end, per), next = r->first;
	u64 most = s->h.refcount_order == 6 ? ~0ULL : BIT(1u << s->h.refcount_order) - 1;
	u8 *block = malloc(s->cluster_size);
	int rc = block ? 0 : -ENOMEM;

	for (u64 i = 0; i < regions && !rc; i++) {
		if (!region_used(a, r, i))
			continue;
		memset(block, 0, s->cluster_size);
		for (u64 k = 0; k < per; k++) {
			u64 c = i * per + k;
			u64 n = c >= r->first && c < r->end ? 1 : qcow2_audit_count(a, c);

			qcow2_refcount_put(block, s->h.refcount_order, k, min(n, most));
		}
		table[i] = next << s->cluster_bits;
		rc = block_node_write(s->block.file, block, s->cluster_size, table[i]);
		next++;
	}
	free(block);
	return rc;
}

/* Forget what is known of the old structure and take up the new one. */
static int adopt(struct qcow2_audit *a, const struct rebuilt *r, u64 *table)
{
	struct qcow2 *s = a->s;
	struct qcow2_tab **map = calloc(r->entries, sizeof(*map));

	if (!map)
		return -ENOMEM;
	for (u32 i = 0; i < s->refblocks.count; i++) {
		s->refblocks.tabs[i]->used = false;
		s->refblocks.tabs[i]->dirty = 0;
	}
	s->refblocks.dirty = 0;
	free(s->refblocks.map);
	s->refblocks.map = map;
	s->refblocks.entries = r->entries;
	free(s->reftable);
	s->reftable = table;
	s->reftable_size = r->entries;
	memset(s->reftable_dirty, 0, sizeof(s->reftable_dirty));
	s->reftable_any_dirty = false;
	s->h.reftable_offset = (r->first + r->blocks) << s->cluster_bits;
	s->h.reftable_clusters = (u32)r->table;
	s->file_size = max(s->file_size, r->end << s->cluster_bits);
	s->run = s->run_end = 0;
	s->cursor = 1;
	/* What the old structure took is space like any other now. */
	return qcow2_meta_refresh(s);
}

int qcow2_rebuild(struct qcow2_audit *a)
{
	struct qcow2 *s = a->s;
	struct rebuilt r;
	u64 *table, at;
	u8 buf[12];
	int rc;

	/* The old structure's own clusters are free after this. */
	rc = qcow2_audit_anew(a);
	if (rc)
		return rc;
	/* A cluster of the old structure must stay as it is until the header points elsewhere. */
	a->highest = max(a->highest, a->clusters - 1);
	rc = rebuilt_layout(a, &r);
	if (rc)
		return rc;
	if (r.table << s->cluster_bits > QCOW2_MAX_REFTABLE)
		return -EFBIG;
	table = calloc(r.entries, 8);
	if (!table)
		return -ENOMEM;
	at = (r.first + r.blocks) << s->cluster_bits;
	rc = write_rebuilt(a, &r, table);
	if (!rc)
		rc = qcow2_write_l1(s, table, r.entries, at);
	if (!rc)
		rc = block_node_flush(s->block.file);
	store_be64(buf, at);
	store_be32(buf + 8, (u32)r.table);
	if (!rc)
		rc = block_node_write(s->block.file, buf, sizeof(buf), 48);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (!rc)
		rc = adopt(a, &r, table);
	else
		free(table);
	return rc;
}
