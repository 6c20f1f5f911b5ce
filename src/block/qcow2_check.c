/*
 * Checking and repair. Every reference is counted from the tables on disk and compared with the
 * refcounts. Leaks are mended in place; anything worse by writing all refcounts anew, behind the
 * end of what is used, and letting the header point there.
 *
 * Memory follows the references that there are, not the sizes that the header claims.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2_create_int.h"
#include "block/qcow2_int.h"

#define CHUNK	    4096u /* clusters a piece of the count */
#define MAX_REPORTS 1000

struct audit {
	struct qcow2 *s;
	struct block_check *out;
	unsigned int fix;
	u32 **chunks;
	u64 nchunks, clusters; /* in the file */
	u64 highest;	       /* cluster that is referenced */
	u64 reports;
	bool bad_blocks; /* the refcount structure itself is broken */
};

static void report(struct audit *a, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void report(struct audit *a, const char *fmt, ...)
{
	char line[200];
	va_list ap;

	if (!a->out->report || a->reports++ >= MAX_REPORTS)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	a->out->report(a->out->arg, line);
}

static u32 count_of(const struct audit *a, u64 cluster)
{
	const u32 *chunk = cluster / CHUNK < a->nchunks ? a->chunks[cluster / CHUNK] : NULL;

	return chunk ? chunk[cluster % CHUNK] : 0;
}

/* One more reference to each cluster of [offset, offset + len). */
static int refer(struct audit *a, u64 offset, u64 len, const char *what)
{
	u64 first = offset >> a->s->cluster_bits, last;

	if (!len)
		return 0;
	last = (offset + len - 1) >> a->s->cluster_bits;
	if (offset + len < offset || last >= a->clusters) {
		report(a, "ERROR %s at %#llx lies behind the end of the file", what,
		       (unsigned long long)offset);
		a->out->errors++;
		return 0;
	}
	for (u64 c = first; c <= last; c++) {
		u32 **chunk = &a->chunks[c / CHUNK];

		if (!*chunk)
			*chunk = calloc(CHUNK, sizeof(**chunk));
		if (!*chunk)
			return -ENOMEM;
		if ((*chunk)[c % CHUNK] != UINT32_MAX)
			(*chunk)[c % CHUNK]++;
	}
	a->highest = max(a->highest, last);
	return 0;
}

/* ---- L2 ---- */

struct l2_walk {
	u64 last; /* host cluster before, for fragmentation */
	u64 guest;
	bool active;
};

static bool host_bad(const struct audit *a, u64 entry, u64 guest)
{
	u64 host = entry & QCOW2_OFFSET;

	if (a->s->external)
		return host != guest;
	return !is_aligned(host, a->s->cluster_size) || host >> a->s->cluster_bits >= a->clusters;
}

static int check_packed(struct audit *a, const struct l2_walk *w, u64 entry)
{
	u64 offset, len;

	qcow2_packed_range(a->s, entry, &offset, &len);
	if (entry & QCOW2_COPIED) {
		report(a, "ERROR compressed cluster of guest offset %#llx has COPIED set",
		       (unsigned long long)w->guest);
		a->out->errors++;
	}
	if (w->active) {
		a->out->compressed_clusters++;
		a->out->allocated_clusters++;
		a->out->fragmented_clusters++;
	}
	/* The last sector may reach over the end of the file. */
	if (offset < a->s->file_size && offset + len > a->s->file_size)
		len = a->s->file_size - offset;
	return refer(a, offset, len, "compressed cluster");
}

/* *bad: the entry leads nowhere, and was not counted. */
static int check_entry(struct audit *a, struct l2_walk *w, u64 entry, u64 bitmap, bool *bad)
{
	struct qcow2 *s = a->s;
	u64 host = entry & QCOW2_OFFSET;

	*bad = false;
	if (entry & QCOW2_COMPRESSED)
		return check_packed(a, w, entry);
	if (s->extended && (bitmap & (bitmap >> 32) & UINT32_MAX)) {
		report(a, "ERROR subclusters of guest offset %#llx are both allocated and zero",
		       (unsigned long long)w->guest);
		a->out->errors++;
		*bad = true;
	}
	if (!host && !(s->external && (entry & QCOW2_COPIED)))
		return 0;
	if (host_bad(a, entry, w->guest)) {
		report(a, "ERROR guest offset %#llx leads to %#llx", (unsigned long long)w->guest,
		       (unsigned long long)host);
		a->out->errors++;
		*bad = true;
		return 0;
	}
	if (w->active) {
		a->out->allocated_clusters++;
		a->out->fragmented_clusters += w->last && host != w->last + s->cluster_size;
		w->last = host;
	}
	return s->external ? 0 : refer(a, host, s->cluster_size, "data");
}

/* Bad entries of an active table become zeros, when that is asked for. */
static int check_l2(struct audit *a, u64 offset, u64 guest, bool active)
{
	struct qcow2 *s = a->s;
	struct l2_walk w = {.guest = guest, .active = active};
	u8 *l2 = malloc(s->cluster_size);
	u64 step = qcow2_entry_size(s), fixed = 0;
	int rc = l2 ? block_node_read(s->block.file, l2, s->cluster_size, offset) : -ENOMEM;

	for (u64 at = 0; at < s->cluster_size && !rc; at += step) {
		bool bad;

		rc = check_entry(a, &w, load_be64(l2 + at), step == 16 ? load_be64(l2 + at + 8) : 0,
				 &bad);
		if (bad && (a->fix & BLOCK_FIX_ERRORS)) {
			store_be64(l2 + at, s->h.version >= 3 && step == 8 ? QCOW2_ZERO : 0);
			if (step == 16)
				store_be64(l2 + at + 8, MASK(63, 32));
			fixed++;
		}
		w.guest += s->cluster_size;
	}
	if (!rc && fixed) {
		rc = block_node_write(s->block.file, l2, s->cluster_size, offset);
		a->out->errors -= fixed;
		a->out->errors_fixed += fixed;
	}
	free(l2);
	return rc;
}

static int check_tree(struct audit *a, u64 *l1, u64 entries, bool active)
{
	struct qcow2 *s = a->s;
	int rc = 0;

	for (u64 i = 0; i < entries && !rc; i++) {
		u64 offset = l1[i] & QCOW2_OFFSET;

		if (!offset)
			continue;
		if (!is_aligned(offset, s->cluster_size) ||
		    offset >> s->cluster_bits >= a->clusters) {
			report(a, "ERROR L1 entry %llu leads to %#llx", (unsigned long long)i,
			       (unsigned long long)offset);
			if (active && (a->fix & BLOCK_FIX_ERRORS)) {
				qcow2_l1_set(s, i, 0);
				a->out->errors_fixed++;
			} else {
				a->out->errors++;
			}
			continue;
		}
		rc = refer(a, offset, s->cluster_size, "L2 table");
		if (!rc)
			rc = check_l2(a, offset, i << (s->cluster_bits + s->l2_bits), active);
	}
	return rc;
}

/* ---- all references ---- */

static int refer_snapshots(struct audit *a)
{
	struct qcow2 *s = a->s;
	int rc = refer(a, s->h.snapshots_offset, s->snapshots_bytes, "snapshot table");

	for (u32 i = 0; i < s->h.nsnapshots && !rc; i++) {
		const struct qcow2_snapshot *sn = &s->snapshots[i];
		u64 *l1 = calloc(max(sn->l1_size, 1u), 8);

		rc = l1 ? block_node_read(s->block.file, l1, sn->l1_size * 8ULL, sn->l1_offset)
			: -ENOMEM;
		for (u32 k = 0; k < sn->l1_size && !rc; k++)
			l1[k] = be64toh(l1[k]);
		if (!rc)
			rc = refer(a, sn->l1_offset, max(sn->l1_size * 8ULL, (u64)1), "L1 table");
		if (!rc)
			rc = check_tree(a, l1, sn->l1_size, false);
		free(l1);
	}
	return rc;
}

#define BITMAP_ENTRY 24

static int refer_bitmap_table(struct audit *a, u64 offset, u32 entries)
{
	struct qcow2 *s = a->s;
	u64 bytes = entries * 8ULL, *table;
	int rc = refer(a, offset, bytes, "bitmap table");

	if (rc || !range_fits(offset, bytes, s->file_size))
		return rc;
	table = malloc(max(bytes, (u64)8));
	if (!table)
		return -ENOMEM;
	rc = block_node_read(s->block.file, table, bytes, offset);
	for (u32 i = 0; i < entries && !rc; i++) {
		u64 at = be64toh(table[i]) & QCOW2_OFFSET;

		if (at)
			rc = refer(a, at, s->cluster_size, "bitmap");
	}
	free(table);
	return rc;
}

static int refer_bitmaps(struct audit *a)
{
	struct qcow2 *s = a->s;
	u64 size = s->bitmap_dir_size;
	u8 *dir;
	int rc;

	if (!s->nbitmaps || !(s->h.autoclear & QCOW2_AUTO_BITMAPS))
		return 0;
	if (size > 64 * MiB || !range_fits(s->bitmap_dir_offset, size, s->file_size)) {
		report(a, "ERROR the bitmap directory is broken");
		a->out->errors++;
		return 0;
	}
	dir = malloc(size + 1);
	if (!dir)
		return -ENOMEM;
	rc = block_node_read(s->block.file, dir, size, s->bitmap_dir_offset);
	if (!rc)
		rc = refer(a, s->bitmap_dir_offset, size, "bitmap directory");
	for (u64 at = 0; at + BITMAP_ENTRY <= size && !rc;) {
		u32 name = load_be16(dir + at + 18), extra = load_be32(dir + at + 20);

		rc = refer_bitmap_table(a, load_be64(dir + at), load_be32(dir + at + 8));
		at += align_up((u64)BITMAP_ENTRY + name + extra, 8);
	}
	free(dir);
	return rc;
}

static int refer_refcounts(struct audit *a)
{
	struct qcow2 *s = a->s;
	int rc = refer(a, s->h.reftable_offset, (u64)s->h.reftable_clusters << s->cluster_bits,
		       "refcount table");

	for (u64 i = 0; i < s->reftable_size && !rc; i++) {
		u64 offset = s->reftable[i] & QCOW2_OFFSET;

		if (!offset)
			continue;
		if (!is_aligned(offset, s->cluster_size) ||
		    offset >> s->cluster_bits >= a->clusters) {
			report(a, "ERROR refcount block %llu leads to %#llx", (unsigned long long)i,
			       (unsigned long long)offset);
			a->out->errors++;
			a->bad_blocks = true;
			continue;
		}
		rc = refer(a, offset, s->cluster_size, "refcount block");
		if (!rc && count_of(a, offset >> s->cluster_bits) != 1) {
			report(a, "ERROR refcount block %llu is used twice", (unsigned long long)i);
			a->out->errors++;
			a->bad_blocks = true;
		}
	}
	return rc;
}

static int refer_all(struct audit *a)
{
	struct qcow2 *s = a->s;
	int rc = refer(a, 0, s->cluster_size, "header");

	if (!rc)
		rc = refer(a, s->h.l1_offset, s->h.l1_size * 8ULL, "L1 table");
	if (!rc)
		rc = refer(a, s->luks_offset, s->luks_len, "LUKS header");
	if (!rc)
		rc = check_tree(a, s->l1, s->h.l1_size, true);
	if (!rc)
		rc = refer_snapshots(a);
	if (!rc)
		rc = refer_bitmaps(a);
	return rc ? rc : refer_refcounts(a);
}

/* ---- comparison ---- */

static int disk_count(struct audit *a, u64 cluster, u64 *count)
{
	struct qcow2 *s = a->s;
	u64 offset, region = cluster >> s->refblock_bits;
	struct qcow2_tab *tab;
	int rc;

	*count = 0;
	if (region >= s->reftable_size)
		return 0;
	offset = s->reftable[region] & QCOW2_OFFSET;
	if (!offset || !is_aligned(offset, s->cluster_size) || offset >= s->file_size)
		return 0;
	rc = qcow2_tab_load(s, &s->refblocks, region, offset, &tab);
	if (!rc)
		*count = qcow2_refcount_in(tab->data, s->h.refcount_order,
					   cluster & (BIT(s->refblock_bits) - 1));
	return rc;
}

static int compare(struct audit *a)
{
	/* Counts behind the end of the file are leaks as well: as far as there are blocks. */
	u64 end = min(a->clusters + BIT(a->s->refblock_bits),
		      a->s->reftable_size << a->s->refblock_bits);
	int rc = 0;

	end = max(end, a->clusters);
	for (u64 c = 0; c < end && !rc; c++) {
		u64 have, region = c >> a->s->refblock_bits;
		u32 want;

		/* A sparse file may claim any number of clusters: pass over where nothing is. */
		if ((region >= a->s->reftable_size || !a->s->reftable[region]) &&
		    (c / CHUNK >= a->nchunks || !a->chunks[c / CHUNK])) {
			c = min(c | (BIT(a->s->refblock_bits) - 1), c | (CHUNK - 1));
			continue;
		}
		want = count_of(a, c);
		rc = disk_count(a, c, &have);
		if (rc || have == want)
			continue;
		report(a, "%s cluster %llu refcount=%llu reference=%u",
		       have < want ? "ERROR" : "Leaked", (unsigned long long)c,
		       (unsigned long long)have, want);
		if (have < want) {
			a->out->errors++;
			a->bad_blocks = true;
		} else if (a->fix & BLOCK_FIX_LEAKS) {
			rc = qcow2_refcount_set(a->s, c << a->s->cluster_bits, want);
			a->out->leaks_fixed++;
		} else {
			a->out->leaks++;
		}
	}
	return rc;
}

static int check_copied(struct audit *a, u64 entry, u64 guest, const char *what)
{
	u64 host = entry & QCOW2_OFFSET, count;

	if (!host || (entry & QCOW2_COMPRESSED) || a->s->external)
		return 0;
	/* The flag says what the count on disk is, even where that is too high. */
	if (qcow2_refcount_get(a->s, host, &count) || (count == 1) == !!(entry & QCOW2_COPIED))
		return 0;
	report(a, "ERROR COPIED flag of the %s for guest offset %#llx is wrong", what,
	       (unsigned long long)guest);
	a->out->errors++;
	return 1;
}

static int check_flags(struct audit *a, u64 *wrong)
{
	struct qcow2 *s = a->s;
	u64 span = BIT(s->cluster_bits + s->l2_bits), step = qcow2_entry_size(s);
	u8 *l2 = malloc(s->cluster_size);
	int rc = l2 ? 0 : -ENOMEM;

	*wrong = 0;
	for (u64 i = 0; i < s->h.l1_size && !rc; i++) {
		u64 offset = s->l1[i] & QCOW2_OFFSET;

		if (!offset || !is_aligned(offset, s->cluster_size) || offset >= s->file_size)
			continue;
		*wrong += (u64)check_copied(a, s->l1[i], i * span, "L2 table");
		rc = block_node_read(s->block.file, l2, s->cluster_size, offset);
		for (u64 at = 0; at < s->cluster_size && !rc; at += step)
			*wrong += (u64)check_copied(a, load_be64(l2 + at),
						    i * span + (at / step << s->cluster_bits),
						    "cluster");
	}
	free(l2);
	return rc;
}

/* ---- writing all refcounts anew ---- */

struct rebuilt {
	u64 first;  /* cluster where the new structure begins */
	u64 blocks; /* in use, one for each region that has a count */
	u64 table;  /* clusters */
	u64 entries;
	u64 end;
};

static bool region_used(const struct audit *a, const struct rebuilt *r, u64 region)
{
	u64 from = region << a->s->refblock_bits, upto = from + BIT(a->s->refblock_bits);

	if (ranges_overlap(from, upto - from, r->first, r->end - r->first))
		return true;
	for (u64 c = from; c < upto && c < a->clusters; c++) {
		if (!a->chunks[c / CHUNK])
			c |= CHUNK - 1;
		else if (a->chunks[c / CHUNK][c % CHUNK])
			return true;
	}
	return false;
}

/* Where it goes: behind the last cluster in use. */
static int rebuilt_layout(struct audit *a, struct rebuilt *r)
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

static int write_rebuilt(struct audit *a, const struct rebuilt *r, u64 *table)
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
			u64 n = c >= r->first && c < r->end ? 1 : count_of(a, c);

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
static int adopt(struct audit *a, const struct rebuilt *r, u64 *table)
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

static int rebuild(struct audit *a)
{
	struct qcow2 *s = a->s;
	struct rebuilt r;
	u64 *table, at;
	u8 buf[12];
	int rc;

	/* The old structure's own clusters are free after this. */
	for (u64 i = 0; i < a->nchunks; i++) {
		free(a->chunks[i]);
		a->chunks[i] = NULL;
	}
	a->highest = 0;
	a->reports = MAX_REPORTS; /* said once */
	rc = refer(a, 0, s->cluster_size, "header");
	if (!rc)
		rc = refer(a, s->h.l1_offset, s->h.l1_size * 8ULL, "L1 table");
	if (!rc)
		rc = refer(a, s->luks_offset, s->luks_len, "LUKS header");
	if (!rc)
		rc = check_tree(a, s->l1, s->h.l1_size, true);
	if (!rc)
		rc = refer_snapshots(a);
	if (!rc)
		rc = refer_bitmaps(a);
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

/* ---- the whole ---- */

static void audit_free(struct audit *a)
{
	for (u64 i = 0; i < a->nchunks; i++)
		free(a->chunks[i]);
	free(a->chunks);
}

static int audit_init(struct audit *a, struct qcow2 *s, unsigned int fix, struct block_check *out)
{
	*a = (struct audit){.s = s, .out = out, .fix = fix};
	a->clusters = s->file_size >> s->cluster_bits;
	a->nchunks = a->clusters / CHUNK + 1;
	if (a->nchunks > (128 * MiB))
		return -EFBIG;
	a->chunks = calloc(a->nchunks, sizeof(*a->chunks));
	return a->chunks ? 0 : -ENOMEM;
}

static int repair_errors(struct audit *a)
{
	struct block_check *out = a->out, kept = *out;
	struct qcow2 *s = a->s;
	int rc = rebuild(a);

	if (rc)
		return rc;
	*out = kept;
	qcow2_l2_forget(s);
	rc = qcow2_refresh_copied(s);
	out->errors_fixed += out->errors;
	out->errors = 0;
	return rc;
}

static int run(struct audit *a)
{
	struct block_check *out = a->out;
	struct qcow2 *s = a->s;
	u64 wrong;
	int rc = refer_all(a);

	/* An old structure that is broken is replaced whole; its leaks go with it. */
	if (!rc && a->bad_blocks && (a->fix & BLOCK_FIX_ERRORS))
		return repair_errors(a);
	if (!rc)
		rc = compare(a);
	/* Clusters that have one user again. */
	if (!rc && out->leaks_fixed && !out->errors)
		rc = qcow2_refresh_copied(s);
	else if (!rc)
		rc = check_flags(a, &wrong);
	out->image_end = (a->highest + 1) << s->cluster_bits;
	if (!rc && out->errors && (a->fix & BLOCK_FIX_ERRORS))
		rc = repair_errors(a);
	return rc;
}

int qcow2_check(struct block *b, unsigned int fix, struct block_check *out, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	struct audit a;
	int rc = b->readonly && fix ? -EROFS : qcow2_settle(s);

	out->errors = out->leaks = out->errors_fixed = out->leaks_fixed = 0;
	out->allocated_clusters = out->compressed_clusters = out->fragmented_clusters = 0;
	out->total_clusters = div_round_up(b->size, s->cluster_size);
	if (!rc)
		rc = audit_init(&a, s, fix, out);
	if (rc)
		return err_set(err, -rc, "%s: %s", b->name, strerror(-rc));
	pthread_mutex_lock(&s->lock);
	if (fix) {
		s->corrupt = false;
		rc = qcow2_begin_writing(s);
	}
	if (!rc)
		rc = run(&a);
	pthread_mutex_unlock(&s->lock);
	audit_free(&a);
	if (!rc && fix)
		rc = qcow2_settle(s);
	if (!rc && fix && !out->errors &&
	    (s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT)) &&
	    (fix & BLOCK_FIX_ERRORS))
		rc = qcow2_header_features(
			s,
			s->h.incompatible & ~(u64)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT),
			s->h.autoclear);
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}

int qcow2_repair_dirty(struct qcow2 *s, struct err *err)
{
	struct block_check check = {0};
	int rc;

	log_info("%s: was not closed cleanly; rebuilding its reference counts", s->block.name);
	s->block.top = &s->block;
	rc = qcow2_check(&s->block, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, &check, err);
	if (rc)
		return rc;
	if (check.errors)
		return err_set(err, EUCLEAN, "%s: cannot be repaired", s->block.name);
	return 0;
}
