/*
 * Checking and repair. Every reference is counted from the tables on disk and compared with the
 * refcounts. Leaks are mended in place; anything worse by writing all refcounts anew, behind the
 * end of what is used, and letting the header point there.
 *
 * Nothing is mended in an L2 table that lies where another table lies: then the L1 entry is wrong.
 *
 * Memory follows the references that there are, not the sizes that the header claims.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2_check_int.h"
#include "block/qcow2_create_int.h"

static void report(struct qcow2_audit *a, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void report(struct qcow2_audit *a, const char *fmt, ...)
{
	char line[200];
	va_list ap;

	if (!a->out->report || a->reports++ >= AUDIT_REPORTS)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	a->out->report(a->out->arg, line);
}

u32 qcow2_audit_count(const struct qcow2_audit *a, u64 cluster)
{
	const u32 *chunk =
		cluster / AUDIT_CHUNK < a->nchunks ? a->chunks[cluster / AUDIT_CHUNK] : NULL;

	return chunk ? chunk[cluster % AUDIT_CHUNK] & ~AUDIT_TABLE : 0;
}

/* The place of a cluster's count; NULL: out of memory. */
static u32 *place_of(struct qcow2_audit *a, u64 cluster)
{
	u32 **chunk = &a->chunks[cluster / AUDIT_CHUNK];

	if (!*chunk)
		*chunk = calloc(AUDIT_CHUNK, sizeof(**chunk));
	return *chunk ? &(*chunk)[cluster % AUDIT_CHUNK] : NULL;
}

/* Remember the clusters of [offset, offset + len) as those of a table: no L2 table lies there. */
static int mark(struct qcow2_audit *a, u64 offset, u64 len)
{
	for (u64 c = offset >> a->s->cluster_bits; len && c < a->clusters; c++) {
		u32 *place = place_of(a, c);

		if (!place)
			return -ENOMEM;
		*place |= AUDIT_TABLE;
		if (((c + 1) << a->s->cluster_bits) - offset >= len)
			break;
	}
	return 0;
}

static bool is_table(const struct qcow2_audit *a, u64 offset)
{
	const u32 *chunk = a->chunks[(offset >> a->s->cluster_bits) / AUDIT_CHUNK];

	return chunk && (chunk[(offset >> a->s->cluster_bits) % AUDIT_CHUNK] & AUDIT_TABLE);
}

/* All tables whose place is known without reading L2 tables. */
static int mark_tables(struct qcow2_audit *a, bool refcounts)
{
	struct qcow2 *s = a->s;
	int rc = mark(a, 0, s->cluster_size);

	if (!rc)
		rc = mark(a, s->h.l1_offset, s->h.l1_size * 8ULL);
	if (!rc)
		rc = mark(a, s->luks_offset, s->luks_len);
	if (!rc)
		rc = mark(a, s->h.snapshots_offset, s->snapshots_bytes);
	for (u32 i = 0; i < s->h.nsnapshots && !rc; i++)
		rc = mark(a, s->snapshots[i].l1_offset, s->snapshots[i].l1_size * 8ULL);
	if (!refcounts)
		return rc;
	if (!rc)
		rc = mark(a, s->h.reftable_offset, (u64)s->h.reftable_clusters << s->cluster_bits);
	for (u64 i = 0; i < s->reftable_size && !rc; i++)
		if (s->reftable[i] & QCOW2_OFFSET)
			rc = mark(a, s->reftable[i] & QCOW2_OFFSET, s->cluster_size);
	return rc;
}

/* One more reference to each cluster of [offset, offset + len). */
static int refer(struct qcow2_audit *a, u64 offset, u64 len, const char *what)
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
		u32 *place = place_of(a, c);

		if (!place)
			return -ENOMEM;
		if ((*place & ~AUDIT_TABLE) != ~AUDIT_TABLE)
			++*place;
	}
	a->highest = max(a->highest, last);
	return 0;
}

/* ---- L2 ---- */

struct l2_walk {
	u64 last; /* host cluster before, for fragmentation */
	u64 guest, entry, bitmap;
	u64 errors; /* of the table */
	bool active;
};

static bool host_bad(const struct qcow2_audit *a, u64 entry, u64 guest)
{
	u64 host = entry & QCOW2_OFFSET;

	if (a->s->external)
		return host != guest;
	return !is_aligned(host, a->s->cluster_size) || host >> a->s->cluster_bits >= a->clusters;
}

static void blame(struct qcow2_audit *a, struct l2_walk *w, const char *what)
{
	report(a, "ERROR guest offset %#llx: %s", (unsigned long long)w->guest, what);
	a->out->errors++;
	w->errors++;
}

/* It leads nowhere: what was there is lost. */
static void drop_entry(const struct qcow2 *s, struct l2_walk *w)
{
	w->entry = s->h.version >= 3 && !s->extended ? QCOW2_ZERO : 0;
	w->bitmap = s->extended ? MASK(63, 32) : 0;
}

static int check_packed(struct qcow2_audit *a, struct l2_walk *w)
{
	u64 offset, len;

	if (w->bitmap) {
		blame(a, w, "a compressed cluster with subclusters");
		w->bitmap = 0;
	}
	qcow2_packed_range(a->s, w->entry, &offset, &len);
	if (w->entry & QCOW2_COPIED) {
		blame(a, w, "a compressed cluster with COPIED set");
		w->entry &= ~QCOW2_COPIED;
	}
	if (offset >= a->s->file_size) {
		blame(a, w, "a compressed cluster behind the end of the file");
		drop_entry(a->s, w);
		return 0;
	}
	if (w->active) {
		a->out->compressed_clusters++;
		a->out->allocated_clusters++;
		a->out->fragmented_clusters++;
	}
	/* The last sector may reach over the end of the file. */
	len = min(len, a->s->file_size - offset);
	return refer(a, offset, len, "compressed cluster");
}

static u64 reserved_bits(const struct qcow2 *s)
{
	u64 zero = s->h.version >= 3 && !s->extended ? QCOW2_ZERO : 0;

	return ~(QCOW2_COPIED | QCOW2_COMPRESSED | QCOW2_OFFSET | zero);
}

/* w->entry and w->bitmap become what they should be; w->errors says how much was wrong. */
static int check_entry(struct qcow2_audit *a, struct l2_walk *w)
{
	struct qcow2 *s = a->s;
	u64 host;

	if (w->entry & QCOW2_COMPRESSED)
		return check_packed(a, w);
	if (w->entry & reserved_bits(s)) {
		blame(a, w, "reserved bits are set");
		w->entry &= ~reserved_bits(s);
	}
	host = w->entry & QCOW2_OFFSET;
	if (s->extended && (w->bitmap & (w->bitmap >> 32) & UINT32_MAX)) {
		blame(a, w, "subclusters are both allocated and zero");
		drop_entry(s, w);
		return 0;
	}
	if (!host && !(s->external && (w->entry & QCOW2_COPIED))) {
		if (w->bitmap & UINT32_MAX) {
			blame(a, w, "subclusters of no cluster are allocated");
			w->bitmap &= ~(u64)UINT32_MAX;
		}
		return 0;
	}
	if (host_bad(a, w->entry, w->guest)) {
		blame(a, w, "leads to no cluster of the file");
		drop_entry(s, w);
		return 0;
	}
	if (w->active) {
		a->out->allocated_clusters++;
		a->out->fragmented_clusters += w->last && host != w->last + s->cluster_size;
		w->last = host;
	}
	return s->external ? 0 : refer(a, host, s->cluster_size, "data");
}

static int check_l2(struct qcow2_audit *a, u64 offset, u64 guest, bool active)
{
	struct qcow2 *s = a->s;
	struct l2_walk w = {.guest = guest, .active = active};
	u8 *l2 = malloc(s->cluster_size);
	u64 step = qcow2_entry_size(s);
	int rc = l2 ? block_node_read(s->block.file, l2, s->cluster_size, offset) : -ENOMEM;

	for (u64 at = 0; at < s->cluster_size && !rc; at += step) {
		w.entry = load_be64(l2 + at);
		w.bitmap = step == 16 ? load_be64(l2 + at + 8) : 0;
		rc = check_entry(a, &w);
		store_be64(l2 + at, w.entry);
		if (step == 16)
			store_be64(l2 + at + 8, w.bitmap);
		w.guest += s->cluster_size;
	}
	if (!rc && w.errors && (a->fix & BLOCK_FIX_ERRORS)) {
		rc = block_node_write(s->block.file, l2, s->cluster_size, offset);
		a->out->errors -= w.errors;
		a->out->errors_fixed += w.errors;
	}
	free(l2);
	return rc;
}

/* Of the active table it is mended, when that is asked for. */
static void bad_l1(struct qcow2_audit *a, u64 *l1, u64 i, u64 want, bool active)
{
	report(a, "ERROR L1 entry %llu is %#llx", (unsigned long long)i, (unsigned long long)l1[i]);
	if (active && (a->fix & BLOCK_FIX_ERRORS)) {
		qcow2_l1_set(a->s, i, want);
		a->out->errors_fixed++;
	} else {
		a->out->errors++;
	}
}

static int check_tree(struct qcow2_audit *a, u64 *l1, u64 entries, bool active)
{
	struct qcow2 *s = a->s;
	int rc = 0;

	for (u64 i = 0; i < entries && !rc; i++) {
		u64 offset = l1[i] & QCOW2_OFFSET;

		if (l1[i] & ~(QCOW2_OFFSET | QCOW2_COPIED) || (l1[i] && !offset))
			bad_l1(a, l1, i, offset ? l1[i] & (QCOW2_OFFSET | QCOW2_COPIED) : 0,
			       active);
		if (!offset)
			continue;
		if (!is_aligned(offset, s->cluster_size) ||
		    offset >> s->cluster_bits >= a->clusters || is_table(a, offset)) {
			bad_l1(a, l1, i, 0, active);
			continue;
		}
		rc = refer(a, offset, s->cluster_size, "L2 table");
		if (!rc)
			rc = check_l2(a, offset, i << (s->cluster_bits + s->l2_bits), active);
	}
	return rc;
}

/* ---- all references ---- */

static int refer_snapshots(struct qcow2_audit *a)
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

static int refer_bitmap_table(struct qcow2_audit *a, u64 offset, u32 entries)
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

static int refer_bitmaps(struct qcow2_audit *a)
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

static int refer_refcounts(struct qcow2_audit *a)
{
	struct qcow2 *s = a->s;
	int rc = refer(a, s->h.reftable_offset, (u64)s->h.reftable_clusters << s->cluster_bits,
		       "refcount table");

	for (u64 i = 0; i < s->reftable_size && !rc; i++) {
		u64 offset = s->reftable[i] & QCOW2_OFFSET;

		if (s->reftable[i] & ~QCOW2_OFFSET) {
			report(a, "ERROR refcount table entry %llu is %#llx", (unsigned long long)i,
			       (unsigned long long)s->reftable[i]);
			a->out->errors++;
			a->bad_blocks = true;
		}
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
		if (!rc && qcow2_audit_count(a, offset >> s->cluster_bits) != 1) {
			report(a, "ERROR refcount block %llu is used twice", (unsigned long long)i);
			a->out->errors++;
			a->bad_blocks = true;
		}
	}
	return rc;
}

/* All but the refcounts' own. */
static int refer_disk(struct qcow2_audit *a)
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
	return rc ? rc : refer_bitmaps(a);
}

int qcow2_audit_anew(struct qcow2_audit *a)
{
	int rc;

	for (u64 i = 0; i < a->nchunks; i++) {
		free(a->chunks[i]);
		a->chunks[i] = NULL;
	}
	a->highest = 0;
	a->reports = AUDIT_REPORTS; /* said once */
	rc = mark_tables(a, false);
	return rc ? rc : refer_disk(a);
}

static int refer_all(struct qcow2_audit *a)
{
	int rc = mark_tables(a, true);

	if (!rc)
		rc = refer_disk(a);
	return rc ? rc : refer_refcounts(a);
}

/* ---- comparison ---- */

static int disk_count(struct qcow2_audit *a, u64 cluster, u64 *count)
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

static int compare(struct qcow2_audit *a)
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
		    (c / AUDIT_CHUNK >= a->nchunks || !a->chunks[c / AUDIT_CHUNK])) {
			c = min(c | (BIT(a->s->refblock_bits) - 1), c | (AUDIT_CHUNK - 1));
			continue;
		}
		want = qcow2_audit_count(a, c);
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

static int check_copied(struct qcow2_audit *a, u64 entry, u64 guest, const char *what)
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

static int check_flags(struct qcow2_audit *a, u64 *wrong)
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

/* ---- the whole ---- */

static void audit_free(struct qcow2_audit *a)
{
	for (u64 i = 0; i < a->nchunks; i++)
		free(a->chunks[i]);
	free(a->chunks);
}

static int audit_init(struct qcow2_audit *a, struct qcow2 *s, unsigned int fix,
		      struct block_check *out)
{
	*a = (struct qcow2_audit){.s = s, .out = out, .fix = fix};
	a->clusters = s->file_size >> s->cluster_bits;
	a->nchunks = a->clusters / AUDIT_CHUNK + 1;
	if (a->nchunks > (128 * MiB))
		return -EFBIG;
	a->chunks = calloc(a->nchunks, sizeof(*a->chunks));
	return a->chunks ? 0 : -ENOMEM;
}

static int repair_errors(struct qcow2_audit *a)
{
	struct block_check *out = a->out, kept = *out;
	struct qcow2 *s = a->s;
	int rc = qcow2_rebuild(a);

	if (rc)
		return rc;
	*out = kept;
	qcow2_l2_forget(s);
	rc = qcow2_refresh_copied(s);
	out->errors_fixed += out->errors;
	out->errors = 0;
	return rc;
}

static int run(struct qcow2_audit *a)
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

/* One pass over the image, which is settled. */
static int audit(struct qcow2 *s, unsigned int fix, struct block_check *out)
{
	struct qcow2_audit a;
	int rc = audit_init(&a, s, fix, out);

	if (rc)
		return rc;
	out->errors = out->leaks = out->errors_fixed = out->leaks_fixed = 0;
	out->allocated_clusters = out->compressed_clusters = out->fragmented_clusters = 0;
	out->total_clusters = div_round_up(s->block.size, s->cluster_size);
	pthread_mutex_lock(&s->lock);
	if (fix) {
		s->corrupt = false;
		rc = qcow2_begin_writing(s);
	}
	if (!rc)
		rc = run(&a);
	pthread_mutex_unlock(&s->lock);
	audit_free(&a);
	return rc ? rc : qcow2_settle(s);
}

/* What was repaired is believed when it is seen. */
static int see_again(struct qcow2 *s, struct block_check *out)
{
	u64 errors = out->errors + out->errors_fixed, leaks = out->leaks + out->leaks_fixed;
	struct block_check now = *out;
	int rc;

	now.report = NULL;
	rc = audit(s, 0, &now);
	if (rc)
		return rc;
	now.report = out->report;
	*out = now;
	out->errors_fixed = errors > now.errors ? errors - now.errors : 0;
	out->leaks_fixed = leaks > now.leaks ? leaks - now.leaks : 0;
	return 0;
}

int qcow2_check(struct block *b, unsigned int fix, struct block_check *out, struct err *err)
{
	const u64 marks = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
	struct qcow2 *s = qcow2_of(b);
	int rc = b->readonly && fix ? -EROFS : qcow2_settle(s);

	if (!rc)
		rc = audit(s, fix, out);
	if (!rc && out->errors_fixed)
		rc = see_again(s, out);
	if (!rc && (fix & BLOCK_FIX_ERRORS) && !out->errors && (s->h.incompatible & marks))
		rc = qcow2_header_features(s, s->h.incompatible & ~marks, s->h.autoclear);
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
