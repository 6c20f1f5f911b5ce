/*
 * Internal snapshots: each has an L1 table of its own; L2 tables and clusters are shared by their
 * refcounts.
 *
 * Every change follows one pattern: refcounts go up and are flushed, the new tables are written
 * aside and flushed, then the header is switched in one sector, then refcounts go down. COPIED
 * flags of the active tables must be false wherever a refcount is above 1 before the switch. A
 * crash before that leaves counts that are too high beside COPIED flags, and one after a deletion
 * counts of 1 without the flag: check reports both, and neither lets a write reach what a snapshot
 * shares.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/qcow2_create_int.h"
#include "block/qcow2_int.h"
#include "os/clock.h"

#define FIXED 40

static void snapshot_clear(struct qcow2_snapshot *sn)
{
	free(sn->id);
	free(sn->name);
	free(sn->extra);
	memset(sn, 0, sizeof(*sn));
}

void qcow2_snapshots_free(struct qcow2 *s)
{
	for (u32 i = 0; s->snapshots && i < s->h.nsnapshots; i++)
		snapshot_clear(&s->snapshots[i]);
	free(s->snapshots);
	s->snapshots = NULL;
}

/* ---- reading the table ---- */

static int bad_table(struct qcow2 *s, struct err *err)
{
	return err_set(err, EINVAL, "%s: snapshot table is broken", s->block.name);
}

static char *read_text(struct qcow2 *s, u64 at, u32 len)
{
	char *text = malloc(len + 1u);

	if (!text || block_node_read(s->block.file, text, len, at)) {
		free(text);
		return NULL;
	}
	text[len] = '\0';
	return text;
}

static int read_extra(struct qcow2 *s, struct qcow2_snapshot *sn, u64 at)
{
	sn->disk_size = s->h.size;
	if (!sn->extra_size)
		return 0;
	sn->extra = malloc(sn->extra_size);
	if (!sn->extra)
		return -ENOMEM;
	if (block_node_read(s->block.file, sn->extra, sn->extra_size, at))
		return -EIO;
	if (sn->extra_size >= 8 && load_be64(sn->extra))
		sn->vm_state_size = load_be64(sn->extra);
	if (sn->extra_size >= 16)
		sn->disk_size = load_be64(sn->extra + 8);
	return 0;
}

static int read_one(struct qcow2 *s, struct qcow2_snapshot *sn, u64 *at)
{
	u8 p[FIXED];
	u16 id_len, name_len;
	int rc = block_node_read(s->block.file, p, sizeof(p), *at);

	if (rc)
		return rc;
	sn->l1_offset = load_be64(p);
	sn->l1_size = load_be32(p + 8);
	id_len = load_be16(p + 12);
	name_len = load_be16(p + 14);
	sn->date_sec = load_be32(p + 16);
	sn->date_nsec = load_be32(p + 20);
	sn->vm_clock_ns = load_be64(p + 24);
	sn->vm_state_size = load_be32(p + 32);
	sn->extra_size = load_be32(p + 36);
	if (sn->extra_size > QCOW2_MAX_EXTRA || sn->l1_size > QCOW2_MAX_L1 / 8 ||
	    !is_aligned(sn->l1_offset, s->cluster_size) ||
	    !range_fits(sn->l1_offset, sn->l1_size * 8ULL, s->file_size))
		return -EINVAL;
	rc = read_extra(s, sn, *at + FIXED);
	if (rc)
		return rc;
	*at += FIXED + sn->extra_size;
	sn->id = read_text(s, *at, id_len);
	*at += id_len;
	sn->name = read_text(s, *at, name_len);
	*at = align_up(*at + name_len, 8);
	return sn->id && sn->name ? 0 : -ENOMEM;
}

/* Their L1 tables are no place for data. */
int qcow2_snapshots_note(struct qcow2 *s)
{
	int rc = qcow2_meta_add(s, s->h.snapshots_offset,
				div_round_up(s->snapshots_bytes, s->cluster_size));

	for (u32 i = 0; i < s->h.nsnapshots && !rc; i++)
		rc = qcow2_meta_add(s, s->snapshots[i].l1_offset,
				    div_round_up(s->snapshots[i].l1_size * 8ULL, s->cluster_size));
	return rc;
}

int qcow2_snapshots_read(struct qcow2 *s, struct err *err)
{
	u32 want = s->h.nsnapshots;
	u64 at = s->h.snapshots_offset;
	int rc = 0;

	if (!want)
		return 0;
	if (!range_fits(at, want * (u64)FIXED, s->file_size))
		return bad_table(s, err);
	s->snapshots = calloc(want, sizeof(*s->snapshots));
	if (!s->snapshots)
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	for (u32 i = 0; i < want && !rc; i++) {
		rc = read_one(s, &s->snapshots[i], &at);
		if (!rc && at - s->h.snapshots_offset > QCOW2_MAX_SNAPSHOT_TAB)
			rc = -EFBIG;
	}
	s->snapshots_bytes = at - s->h.snapshots_offset;
	if (rc == -EINVAL || rc == -EFBIG)
		return bad_table(s, err);
	if (rc)
		return err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc));
	rc = qcow2_snapshots_note(s);
	return rc ? err_set(err, ENOMEM, "%s: out of memory", s->block.name) : 0;
}

/* ---- writing the table ---- */

static u64 encoded_size(const struct qcow2_snapshot *sn)
{
	return align_up(FIXED + sn->extra_size + strlen(sn->id) + strlen(sn->name), 8);
}

static void encode(const struct qcow2_snapshot *sn, u8 *p)
{
	store_be64(p, sn->l1_offset);
	store_be32(p + 8, sn->l1_size);
	store_be16(p + 12, (u16)strlen(sn->id));
	store_be16(p + 14, (u16)strlen(sn->name));
	store_be32(p + 16, sn->date_sec);
	store_be32(p + 20, sn->date_nsec);
	store_be64(p + 24, sn->vm_clock_ns);
	store_be32(p + 32, sn->vm_state_size > UINT32_MAX ? 0 : (u32)sn->vm_state_size);
	store_be32(p + 36, sn->extra_size);
	p += FIXED;
	if (sn->extra_size)
		memcpy(p, sn->extra, sn->extra_size);
	p += sn->extra_size;
	memcpy(p, sn->id, strlen(sn->id));
	memcpy(p + strlen(sn->id), sn->name, strlen(sn->name));
}

/* Write a table aside; its clusters are counted. Locked. */
static int write_aside(struct qcow2 *s, const struct qcow2_snapshot *list, u32 count, u64 *offset,
		       u64 *bytes)
{
	u64 at = 0;
	u8 *table;
	int rc;

	*bytes = *offset = 0;
	for (u32 i = 0; i < count; i++)
		*bytes += encoded_size(&list[i]);
	if (!count)
		return 0;
	if (*bytes > QCOW2_MAX_SNAPSHOT_TAB)
		return -EFBIG;
	table = calloc(1, *bytes);
	if (!table)
		return -ENOMEM;
	for (u32 i = 0; i < count; i++) {
		encode(&list[i], table + at);
		at += encoded_size(&list[i]);
	}
	rc = qcow2_alloc_exact(s, div_round_up(*bytes, s->cluster_size), offset);
	if (!rc)
		rc = block_node_write(s->block.file, table, *bytes, *offset);
	if (!rc)
		rc = qcow2_meta_add(s, *offset, div_round_up(*bytes, s->cluster_size));
	free(table);
	return rc;
}

static int flush_locked(struct qcow2 *s)
{
	int rc;

	pthread_mutex_unlock(&s->lock);
	rc = qcow2_flush(s);
	pthread_mutex_lock(&s->lock);
	return rc;
}

/* Let the header point to the new table; the old one is given back. Locked. */
static int switch_table(struct qcow2 *s, u64 offset, u64 bytes, u32 count)
{
	u64 old = s->h.snapshots_offset, old_bytes = s->snapshots_bytes;
	u8 buf[12];
	int rc;

	store_be32(buf, count);
	store_be64(buf + 4, offset);
	rc = flush_locked(s);
	if (!rc)
		rc = block_node_write(s->block.file, buf, sizeof(buf), 60);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (rc)
		return rc;
	s->h.snapshots_offset = offset;
	s->snapshots_bytes = bytes;
	if (!old_bytes)
		return 0;
	return qcow2_free_later(s, old, div_round_up(old_bytes, s->cluster_size), false);
}

/* ---- refcounts of everything an L1 table reaches ---- */

/* The L2 table at an offset, as on disk. */
static int load_l2(struct qcow2 *s, u64 entry, u8 *buf)
{
	u64 offset = entry & QCOW2_OFFSET;

	if (!is_aligned(offset, s->cluster_size) || offset >= s->file_size)
		return -EIO;
	return block_node_read(s->block.file, buf, s->cluster_size, offset);
}

/* The host clusters of one L2 entry. */
static bool entry_clusters(const struct qcow2 *s, u64 entry, u64 *first, u64 *n)
{
	u64 offset, len;

	if (entry & QCOW2_COMPRESSED) {
		qcow2_packed_range(s, entry, &offset, &len);
		*first = align_down(offset, s->cluster_size);
		*n = div_round_up(offset + len - *first, s->cluster_size);
		return true;
	}
	*first = entry & QCOW2_OFFSET;
	*n = 1;
	return *first;
}

static int count_l2(struct qcow2 *s, const u8 *l2, int delta)
{
	u64 step = qcow2_entry_size(s), first, n;
	int rc = 0;

	for (u64 at = 0; at < s->cluster_size && !rc; at += step) {
		if (!entry_clusters(s, load_be64(l2 + at), &first, &n))
			continue;
		rc = delta > 0 ? qcow2_refcount_add(s, first, n, 1)
			       : qcow2_free_later(s, first, n, true);
	}
	return rc;
}

/* Raise the counts of all that l1 reaches (not of l1 itself), or have them lowered later. */
static int count_tree(struct qcow2 *s, const u64 *l1, u64 entries, int delta)
{
	u8 *l2 = malloc(s->cluster_size);
	int rc = l2 ? 0 : -ENOMEM;

	for (u64 i = 0; i < entries && !rc; i++) {
		if (!(l1[i] & QCOW2_OFFSET))
			continue;
		rc = load_l2(s, l1[i], l2);
		if (!rc)
			rc = count_l2(s, l2, delta);
		if (!rc)
			rc = delta > 0 ? qcow2_refcount_add(s, l1[i] & QCOW2_OFFSET, 1, 1)
				       : qcow2_free_later(s, l1[i] & QCOW2_OFFSET, 1, false);
	}
	free(l2);
	return rc;
}

/* ---- COPIED flags of the active tables ---- */

static int sole_user(struct qcow2 *s, u64 entry, bool *sole)
{
	u64 count;
	int rc = qcow2_refcount_get(s, entry & QCOW2_OFFSET, &count);

	*sole = !rc && count == 1;
	return rc;
}

static int copied_l2(struct qcow2 *s, struct qcow2_tab *tab)
{
	u64 entries = BIT(s->l2_bits);

	for (u64 i = 0; i < entries; i++) {
		u64 bitmap, entry = qcow2_entry_get(s, tab, i, &bitmap), fixed;
		bool sole;
		int rc;

		if ((entry & QCOW2_COMPRESSED) || !(entry & QCOW2_OFFSET))
			continue;
		rc = sole_user(s, entry, &sole);
		if (rc)
			return rc;
		fixed = (entry & ~QCOW2_COPIED) | (sole ? QCOW2_COPIED : 0);
		if (fixed != entry)
			qcow2_entry_set(s, tab, i, fixed, bitmap);
	}
	return 0;
}

int qcow2_refresh_copied(struct qcow2 *s)
{
	for (u64 i = 0; i < s->h.l1_size; i++) {
		struct qcow2_tab *tab;
		u64 fixed;
		bool sole;
		int rc = qcow2_l2_get(s, i, &tab);

		if (rc)
			return rc;
		if (!tab)
			continue;
		rc = sole_user(s, s->l1[i], &sole);
		if (!rc)
			rc = copied_l2(s, tab);
		if (rc)
			return rc;
		fixed = (s->l1[i] & ~QCOW2_COPIED) | (sole ? QCOW2_COPIED : 0);
		if (fixed != s->l1[i])
			qcow2_l1_set(s, i, fixed);
		/* Keep what is dirty within the cache's limit. */
		if (qcow2_cache_full(s)) {
			rc = flush_locked(s);
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* ---- the list ---- */

static struct qcow2_snapshot *find(struct qcow2 *s, const char *which)
{
	for (u32 i = 0; i < s->h.nsnapshots; i++)
		if (!strcmp(s->snapshots[i].name, which))
			return &s->snapshots[i];
	for (u32 i = 0; i < s->h.nsnapshots; i++)
		if (!strcmp(s->snapshots[i].id, which))
			return &s->snapshots[i];
	return NULL;
}

int qcow2_snapshot_count(struct block *b)
{
	return (int)qcow2_of(b)->h.nsnapshots;
}

int qcow2_snapshot_get(struct block *b, unsigned int index, struct block_snapshot *out)
{
	struct qcow2 *s = qcow2_of(b);
	const struct qcow2_snapshot *sn;

	if (index >= s->h.nsnapshots)
		return -ENOENT;
	sn = &s->snapshots[index];
	*out = (struct block_snapshot){
		.id = sn->id,
		.name = sn->name,
		.vm_state_size = sn->vm_state_size,
		.disk_size = sn->disk_size,
		.date_ns = sn->date_sec * NSEC_PER_SEC + sn->date_nsec,
		.vm_clock_ns = sn->vm_clock_ns,
	};
	return 0;
}

/* ---- create ---- */

static int describe(struct qcow2 *s, const char *name, struct qcow2_snapshot *sn)
{
	unsigned long id = 0;
	u64 now = clock_realtime_ns();
	char text[24];

	for (u32 i = 0; i < s->h.nsnapshots; i++)
		id = max(id, strtoul(s->snapshots[i].id, NULL, 10));
	snprintf(text, sizeof(text), "%lu", id + 1);
	sn->id = strdup(text);
	sn->name = strdup(name);
	sn->date_sec = (u32)(now / NSEC_PER_SEC);
	sn->date_nsec = (u32)(now % NSEC_PER_SEC);
	sn->disk_size = s->h.size;
	sn->extra_size = 16;
	sn->extra = calloc(1, 16);
	if (!sn->id || !sn->name || !sn->extra)
		return -ENOMEM;
	store_be64(sn->extra + 8, s->h.size);
	return 0;
}

static int create_locked(struct qcow2 *s, struct qcow2_snapshot *sn)
{
	struct qcow2_snapshot *list;
	u64 table, bytes, *copy;
	int rc = qcow2_begin_writing(s);

	if (rc)
		return rc;
	sn->l1_size = s->h.l1_size;
	list = realloc(s->snapshots, (s->h.nsnapshots + 1ULL) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	s->snapshots = list;
	copy = malloc(max(sn->l1_size, 1u) * 8ULL);
	if (!copy)
		return -ENOMEM;
	rc = qcow2_alloc_exact(s, max(div_round_up(sn->l1_size * 8ULL, s->cluster_size), (u64)1),
			       &sn->l1_offset);
	if (!rc)
		rc = qcow2_meta_add(s, sn->l1_offset,
				    div_round_up(sn->l1_size * 8ULL, s->cluster_size));
	if (!rc)
		rc = count_tree(s, s->l1, s->h.l1_size, 1);
	for (u32 i = 0; i < sn->l1_size; i++)
		copy[i] = s->l1[i] & ~QCOW2_COPIED;
	if (!rc)
		rc = qcow2_write_l1(s, copy, sn->l1_size, sn->l1_offset);
	free(copy);
	/* From here on nothing that the snapshot shares is written in place. */
	if (!rc)
		rc = qcow2_refresh_copied(s);
	if (rc)
		return rc;
	list[s->h.nsnapshots] = *sn;
	rc = write_aside(s, list, s->h.nsnapshots + 1, &table, &bytes);
	if (!rc)
		rc = switch_table(s, table, bytes, s->h.nsnapshots + 1);
	if (!rc) {
		s->h.nsnapshots++;
		memset(sn, 0, sizeof(*sn));
	}
	return rc;
}

static int prepare(struct qcow2 *s, struct err *err)
{
	int rc;

	if (s->block.readonly)
		return err_set(err, EROFS, "%s: is read-only", s->block.name);
	if (s->external)
		return err_set(err, ENOTSUP,
			       "%s: an image with an external data file has no snapshots",
			       s->block.name);
	rc = qcow2_settle(s);
	return rc ? err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc)) : 0;
}

static int conclude(struct qcow2 *s, int rc, struct err *err)
{
	struct block_check leaks = {0};

	if (!rc) {
		rc = qcow2_settle(s);
	} else {
		/* Counts that went up stay up, a leak; the flags must agree with what there is. */
		qcow2_settle(s);
		pthread_mutex_lock(&s->lock);
		qcow2_refresh_copied(s);
		pthread_mutex_unlock(&s->lock);
	}
	/* Nothing is wrong with the file, so the counts that went up can be put right. */
	if (rc == -EOVERFLOW) {
		qcow2_check(&s->block, BLOCK_FIX_LEAKS, &leaks, NULL);
		return err_set(err, EOVERFLOW,
			       "%s: refcounts of %u bits are too narrow for one more snapshot",
			       s->block.name, 1u << s->h.refcount_order);
	}
	return rc ? err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc)) : 0;
}

int qcow2_snapshot_create(struct block *b, const char *name, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	struct qcow2_snapshot sn = {0};
	int rc = prepare(s, err);

	if (rc)
		return rc;
	if (!*name || strlen(name) > 255)
		return err_set(err, EINVAL, "a snapshot's name has 1 to 255 bytes");
	if (find(s, name))
		return err_set(err, EEXIST, "%s: has a snapshot '%s' already", b->name, name);
	if (s->h.nsnapshots >= QCOW2_MAX_SNAPSHOTS)
		return err_set(err, EFBIG, "%s: has too many snapshots", b->name);
	rc = describe(s, name, &sn);
	pthread_mutex_lock(&s->lock);
	if (!rc)
		rc = create_locked(s, &sn);
	pthread_mutex_unlock(&s->lock);
	snapshot_clear(&sn);
	return conclude(s, rc, err);
}

/* ---- apply ---- */

static int read_l1(struct qcow2 *s, const struct qcow2_snapshot *sn, u64 **out)
{
	u64 *l1 = calloc(max(sn->l1_size, 1u), 8);
	int rc;

	*out = l1;
	if (!l1)
		return -ENOMEM;
	rc = block_node_read(s->block.file, l1, sn->l1_size * 8ULL, sn->l1_offset);
	for (u32 i = 0; i < sn->l1_size; i++)
		l1[i] = be64toh(l1[i]);
	return rc;
}

/*
 * The new L1 is written aside and the header switched to it, so that a crash finds the old state or
 * the new one. All entries of it lack COPIED until the counts of the old tree have gone down.
 */
static int switch_l1(struct qcow2 *s, u64 *l1, u32 entries)
{
	u64 per = s->cluster_size / 8, clusters = div_round_up(entries, per), offset;
	u64 old = s->h.l1_offset, old_clusters = div_round_up(s->h.l1_size, per);
	struct qcow2_tab **map;
	u64 *old_l1 = s->l1;
	u8 buf[12];
	int rc = qcow2_alloc_exact(s, clusters, &offset);

	if (rc)
		return rc;
	map = calloc(entries, sizeof(*map));
	if (!map || qcow2_keep_old(s, s->l2.map)) {
		free(map);
		return -ENOMEM;
	}
	rc = qcow2_meta_add(s, offset, clusters);
	if (!rc)
		rc = qcow2_write_l1(s, l1, entries, offset);
	if (!rc)
		rc = flush_locked(s);
	store_be32(buf, entries);
	store_be64(buf + 4, offset);
	if (!rc) {
		rc = block_node_write(s->block.file, buf, sizeof(buf), 36);
		if (!rc)
			rc = block_node_flush(s->block.file);
		/* Nobody knows now which table the header names: nothing may be added to either. */
		if (rc)
			qcow2_give_up(s, rc);
	}
	qcow2_l2_forget(s);
	s->l2.map = map;
	if (rc) {
		/* The old map went to the list of old ones; the new one serves as well. */
		return rc;
	}
	s->l2.entries = entries;
	s->l1 = l1;
	s->h.l1_offset = offset;
	s->h.l1_size = entries;
	rc = count_tree(s, old_l1, old_clusters ? s->old_l1_size : 0, -1);
	if (!rc && old_clusters)
		rc = qcow2_free_later(s, old, old_clusters, false);
	return rc;
}

static int note_l2(struct qcow2 *s)
{
	int rc = 0;

	for (u64 i = 0; i < s->h.l1_size && !rc; i++)
		if (s->l1[i] & QCOW2_OFFSET)
			rc = qcow2_meta_add(s, s->l1[i] & QCOW2_OFFSET, 1);
	return rc;
}

static int apply_locked(struct qcow2 *s, const struct qcow2_snapshot *sn)
{
	u32 entries = max(s->h.l1_size, sn->l1_size);
	u64 *l1 = NULL, *wide = NULL, *old = s->l1;
	int rc = qcow2_begin_writing(s);

	if (!rc)
		rc = read_l1(s, sn, &l1);
	if (!rc)
		rc = count_tree(s, l1, sn->l1_size, 1);
	if (!rc && !(wide = calloc(entries, 8)))
		rc = -ENOMEM;
	if (!rc) {
		for (u32 i = 0; i < sn->l1_size; i++)
			wide[i] = l1[i] & ~QCOW2_COPIED;
		s->old_l1_size = s->h.l1_size;
		rc = switch_l1(s, wide, entries);
	}
	free(l1);
	if (s->l1 != wide)
		free(wide);
	else if (qcow2_keep_old(s, old))
		free(old); /* kept for readers without the lock only; no queue is on the image */
	if (!rc)
		rc = note_l2(s);
	return rc;
}

/* Its L1 must cover its disk; images may lie. */
static bool out_of_reach(const struct qcow2 *s, const struct qcow2_snapshot *sn)
{
	return sn->disk_size > (u64)sn->l1_size << (s->cluster_bits + s->l2_bits);
}

int qcow2_snapshot_apply(struct block *b, const char *which, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	struct qcow2_snapshot *sn;
	u64 size;
	int rc = prepare(s, err);

	if (rc)
		return rc;
	sn = find(s, which);
	if (!sn)
		return err_set(err, ENOENT, "%s: has no snapshot '%s'", b->name, which);
	size = sn->disk_size;
	if (out_of_reach(s, sn) || size % BLOCK_SECTOR)
		return err_set(err, EINVAL, "%s: snapshot '%s' is broken", b->name, which);
	pthread_mutex_lock(&s->lock);
	rc = apply_locked(s, sn);
	pthread_mutex_unlock(&s->lock);
	if (!rc && size != b->size)
		rc = qcow2_write_size(s, size);
	/* The old tree's counts go down first, so that COPIED is right after that. */
	if (!rc)
		rc = qcow2_settle(s);
	if (!rc) {
		pthread_mutex_lock(&s->lock);
		rc = qcow2_refresh_copied(s);
		pthread_mutex_unlock(&s->lock);
	}
	return conclude(s, rc, err);
}

/* ---- delete ---- */

static int delete_locked(struct qcow2 *s, struct qcow2_snapshot *sn)
{
	u64 table, bytes, *l1 = NULL;
	u32 index = (u32)(sn - s->snapshots);
	struct qcow2_snapshot gone = *sn;
	int rc = qcow2_begin_writing(s);

	if (!rc)
		rc = read_l1(s, sn, &l1);
	if (rc)
		goto out;
	memmove(sn, sn + 1, (s->h.nsnapshots - index - 1) * sizeof(*sn));
	rc = write_aside(s, s->snapshots, s->h.nsnapshots - 1, &table, &bytes);
	if (!rc)
		rc = switch_table(s, table, bytes, s->h.nsnapshots - 1);
	if (rc) {
		memmove(sn + 1, sn, (s->h.nsnapshots - index - 1) * sizeof(*sn));
		*sn = gone;
		goto out;
	}
	s->h.nsnapshots--;
	rc = count_tree(s, l1, gone.l1_size, -1);
	if (!rc)
		rc = qcow2_free_later(
			s, gone.l1_offset,
			max(div_round_up(gone.l1_size * 8ULL, s->cluster_size), (u64)1), false);
	snapshot_clear(&gone);
out:
	free(l1);
	return rc;
}

int qcow2_snapshot_delete(struct block *b, const char *which, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	struct qcow2_snapshot *sn;
	int rc = prepare(s, err);

	if (rc)
		return rc;
	sn = find(s, which);
	if (!sn)
		return err_set(err, ENOENT, "%s: has no snapshot '%s'", b->name, which);
	pthread_mutex_lock(&s->lock);
	rc = delete_locked(s, sn);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = qcow2_settle(s);
	if (!rc) {
		pthread_mutex_lock(&s->lock);
		rc = qcow2_refresh_copied(s);
		pthread_mutex_unlock(&s->lock);
	}
	return conclude(s, rc, err);
}

/* ---- look at one ---- */

int qcow2_snapshot_view(struct block *b, const char *which, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	struct qcow2_snapshot *sn = find(s, which);
	struct qcow2_tab **map;
	u64 *l1;
	int rc;

	if (!b->readonly)
		return err_set(err, EINVAL, "%s: must be opened read-only", b->name);
	if (!sn)
		return err_set(err, ENOENT, "%s: has no snapshot '%s'", b->name, which);
	if (out_of_reach(s, sn))
		return err_set(err, EINVAL, "%s: snapshot '%s' is broken", b->name, which);
	rc = read_l1(s, sn, &l1);
	map = rc ? NULL : calloc(max(sn->l1_size, 1u), sizeof(*map));
	if (!map) {
		free(l1);
		return err_set(err, rc ? -rc : ENOMEM, "%s: %s", b->name,
			       strerror(rc ? -rc : ENOMEM));
	}
	qcow2_l2_forget(s);
	free(s->l1);
	free(s->l2.map);
	s->l1 = l1;
	s->l2.map = map;
	s->h.l1_size = sn->l1_size;
	b->size = sn->disk_size;
	return 0;
}
