/*
 * Space.
 *
 * Invariants:
 * 1. Only a cluster whose refcount in memory is 0 is ever handed out, and its refcount is 1 before
 *    anything points to it.
 * 2. A cluster that something on disk may still point to, or that a request in flight may still
 *    use, has a refcount above 0: it waits in `frees`. Its steps: qcow2_free_later() -> durable
 *    (qcow2_flush.c: no pointer to it is left on disk) -> its epoch has passed in every queue and
 *    helper -> hole punched -> refcount decreased.
 * 3. [run, run_end) is free, reads as zeros and lies inside the file, so that handing out one of
 *    its clusters is a matter of memory alone.
 * 4. No free cluster lies before `cursor` but those of the run.
 * 5. The block that holds the refcounts of a region for which there was none lies in the region's
 *    first cluster, and counts itself.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_int.h"

#define RUN_CLUSTERS 64
#define RUN_MIN	     (1 * MiB)
#define RUN_MAX	     (16 * MiB)
#define MAX_SCAN     16384 /* refcount blocks looked through for one allocation */

static u64 region_of(const struct qcow2 *s, u64 cluster)
{
	return cluster >> s->refblock_bits;
}

static bool region_has_block(const struct qcow2 *s, u64 region)
{
	return region < s->reftable_size && (s->reftable[region] & QCOW2_OFFSET);
}

static void reftable_set(struct qcow2 *s, u64 region, u64 offset)
{
	s->reftable[region] = offset;
	bitmap_set(s->reftable_dirty, region * 8 / 512);
	s->reftable_any_dirty = true;
	__atomic_store_n(&s->meta_dirty, true, __ATOMIC_RELAXED);
}

/* ---- regions without a refcount block ---- */

static void grew_to(struct qcow2 *s, u64 end)
{
	/* Reads of compressed clusters look at it without the lock. */
	__atomic_store_n(&s->file_size, max(s->file_size, end), __ATOMIC_RELAXED);
}

/* A block for `region` in cluster `at`. The count of that cluster is the caller's affair. */
static int make_block(struct qcow2 *s, u64 region, u64 at)
{
	u64 offset = at << s->cluster_bits;

	if (!at || offset >= QCOW2_HOST_LIMIT || qcow2_meta_has(s, offset)) {
		qcow2_mark_corrupt(s, "no refcounts for host cluster %#llx",
				   (unsigned long long)offset);
		return -EIO;
	}
	if (qcow2_meta_add(s, offset, 1) || !qcow2_tab_new(s, &s->refblocks, region, offset))
		return -ENOMEM;
	reftable_set(s, region, offset);
	grew_to(s, offset + s->cluster_size);
	return 0;
}

static u64 last_region(const struct qcow2 *s)
{
	u64 n = s->reftable_size;

	while (n && !(s->reftable[n - 1] & QCOW2_OFFSET))
		n--;
	return n;
}

/*
 * Write all refcount blocks, so that a new table may point to them. One of which a flush that is
 * under way has a copy stays dirty: the copy may reach the disk after this.
 */
static int write_blocks(struct qcow2 *s)
{
	int rc = 0;

	for (u32 i = 0; i < s->refblocks.count && !rc; i++) {
		struct qcow2_tab *tab = s->refblocks.tabs[i];

		if (!tab->used || !tab->dirty)
			continue;
		rc = block_node_write(s->block.file, tab->data, s->cluster_size, tab->offset);
		if (!rc && !tab->writing) {
			tab->dirty = 0;
			s->refblocks.dirty--;
		}
	}
	return rc;
}

/* The table in memory for `entries`, with room for the map. */
static int reftable_resize(struct qcow2 *s, u64 entries)
{
	u64 *table = calloc(entries, 8);
	struct qcow2_tab **map = calloc(entries, sizeof(*map));

	if (!table || !map) {
		free(table);
		free(map);
		return -ENOMEM;
	}
	memcpy(table, s->reftable, s->reftable_size * 8);
	memcpy(map, s->refblocks.map, s->reftable_size * sizeof(*map));
	free(s->reftable);
	free(s->refblocks.map);
	s->reftable = table;
	s->refblocks.map = map;
	s->refblocks.entries = s->reftable_size = entries;
	return 0;
}

static int write_reftable(struct qcow2 *s, u64 offset)
{
	u64 *disk = malloc(s->reftable_size * 8);
	int rc;

	if (!disk)
		return -ENOMEM;
	for (u64 i = 0; i < s->reftable_size; i++)
		disk[i] = htobe64(s->reftable[i]);
	rc = block_node_write(s->block.file, disk, s->reftable_size * 8, offset);
	free(disk);
	return rc;
}

/* The new table is on disk at offset: let the header point there, in one sector. */
static int switch_reftable(struct qcow2 *s, u64 offset, u32 clusters)
{
	u64 old = s->h.reftable_offset;
	u32 old_clusters = s->h.reftable_clusters;
	u8 buf[12];
	int rc;

	store_be64(buf, offset);
	store_be32(buf + 8, clusters);
	rc = block_node_flush(s->block.file);
	if (!rc)
		rc = block_node_write(s->block.file, buf, sizeof(buf), 48);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (rc)
		return rc;
	s->h.reftable_offset = offset;
	s->h.reftable_clusters = clusters;
	memset(s->reftable_dirty, 0, sizeof(s->reftable_dirty));
	s->reftable_any_dirty = false;
	qcow2_meta_del(s, old, old_clusters);
	return qcow2_free_later(s, old, old_clusters, false);
}

/*
 * Open up space at the end for `clusters` in a row where no refcount block is yet: blocks for all
 * of it come first, then a larger refcount table if it is needed, then the clusters.
 */
static int open_area(struct qcow2 *s, u64 clusters, u64 *first)
{
	u64 region = max(last_region(s),
			 region_of(s, (s->file_size + s->cluster_size - 1) >> s->cluster_bits));
	u64 per = BIT(s->refblock_bits), base, blocks = 1, table = 0, size = s->reftable_size;
	int rc = 0;

	/* A region that is begun already has data before this point. */
	if (region << s->refblock_bits << s->cluster_bits < s->file_size)
		region++;
	base = region << s->refblock_bits;
	for (;;) {
		u64 need = div_round_up(blocks + table + clusters, per);

		if (region + need > size) {
			size = max(2 * s->reftable_size, region + need);
			size = align_up(size, s->cluster_size / 8);
			table = size * 8 >> s->cluster_bits;
		} else if (need <= blocks) {
			break;
		}
		blocks = max(need, blocks);
	}
	if (size * 8 > QCOW2_MAX_REFTABLE ||
	    base + blocks + table + clusters > QCOW2_HOST_LIMIT >> s->cluster_bits)
		return -EFBIG;
	if (s->block.file->fixed_size &&
	    (base + blocks + table + clusters) << s->cluster_bits > s->block.file->size)
		return -ENOSPC;
	if (size > s->reftable_size)
		rc = reftable_resize(s, size);
	for (u64 i = 0; i < blocks && !rc; i++)
		rc = make_block(s, region + i, base + i);
	if (!rc)
		rc = qcow2_refcount_add(s, base << s->cluster_bits, blocks + table, 1);
	if (rc || !table)
		goto out;
	rc = qcow2_meta_add(s, (base + blocks) << s->cluster_bits, table);
	if (!rc)
		rc = write_blocks(s);
	if (!rc)
		rc = write_reftable(s, (base + blocks) << s->cluster_bits);
	if (!rc)
		rc = switch_reftable(s, (base + blocks) << s->cluster_bits, (u32)table);
out:
	*first = base + blocks + table;
	return rc;
}

/* ---- searching ---- */

/* Count of a cluster; 0 where its region has no block. */
static int is_free(struct qcow2 *s, u64 cluster, bool *free_there)
{
	u64 count;
	int rc = qcow2_refcount_get(s, cluster << s->cluster_bits, &count);

	*free_there = !rc && !count;
	return rc;
}

/* The first free cluster from `from` on. */
static int find_free(struct qcow2 *s, u64 from, u64 *cluster)
{
	u64 first_region = region_of(s, from);

	for (;;) {
		bool yes;
		int rc;

		if (from >= QCOW2_HOST_LIMIT >> s->cluster_bits)
			return -EFBIG;
		if (region_of(s, from) - first_region > MAX_SCAN)
			return -EIO;
		rc = is_free(s, from, &yes);
		if (rc)
			return rc;
		if (yes) {
			*cluster = from;
			return 0;
		}
		from++;
	}
}

/* How many from `first` on are free and have refcounts, at most want. */
static int count_free(struct qcow2 *s, u64 first, u64 want, u64 *n)
{
	for (*n = 0; *n < want; ++*n) {
		bool yes;
		int rc;

		if (!region_has_block(s, region_of(s, first + *n)))
			return 0;
		rc = is_free(s, first + *n, &yes);
		if (rc)
			return rc;
		if (!yes)
			return 0;
	}
	return 0;
}

/* A free cluster of a region with refcounts, making them where the region is new. */
static int find_counted(struct qcow2 *s, u64 from, u64 *cluster)
{
	u64 region, first;
	int rc = find_free(s, from, cluster);

	if (rc)
		return rc;
	region = region_of(s, *cluster);
	if (region_has_block(s, region))
		return 0;
	if (region >= s->reftable_size)
		return open_area(s, 1, cluster);
	first = region << s->refblock_bits;
	if (s->block.file->fixed_size && (first + 2) << s->cluster_bits > s->block.file->size)
		return -ENOSPC;
	rc = make_block(s, region, first);
	if (!rc)
		rc = qcow2_refcount_add(s, first << s->cluster_bits, 1, 1);
	*cluster = first + 1;
	return rc;
}

static void run_return(struct qcow2 *s)
{
	if (s->run < s->run_end)
		s->cursor = min(s->cursor, s->run);
	s->run = s->run_end = 0;
}

/* Is the cluster one that a table says is metadata? Then the refcounts lied. */
static int check_new(struct qcow2 *s, u64 first, u64 n)
{
	for (u64 i = 0; i < n; i++) {
		if (first + i && !qcow2_meta_has(s, (first + i) << s->cluster_bits))
			continue;
		qcow2_mark_corrupt(s, "metadata at %#llx has refcount 0",
				   (unsigned long long)((first + i) << s->cluster_bits));
		return -EIO;
	}
	return 0;
}

static int fits_device(struct qcow2 *s, u64 first, u64 *n)
{
	struct block *f = s->block.file;
	u64 limit = f->size >> s->cluster_bits;

	if (!f->fixed_size)
		return 0;
	if (first >= limit)
		return -ENOSPC;
	*n = min(*n, limit - first);
	return 0;
}

static int reserve_run(struct qcow2 *s)
{
	u64 want = min(max(RUN_CLUSTERS * s->cluster_size, RUN_MIN), RUN_MAX) >> s->cluster_bits;
	u64 first, n;
	int rc;

	run_return(s);
	rc = find_counted(s, s->cursor, &first);
	if (!rc)
		rc = count_free(s, first, want, &n);
	if (!rc && !n)
		rc = -EIO;
	if (!rc)
		rc = fits_device(s, first, &n);
	if (!rc)
		rc = check_new(s, first, n);
	if (rc)
		return rc;
	rc = block_node_zero(s->block.file, n << s->cluster_bits, first << s->cluster_bits,
			     BLOCK_MAY_UNMAP | BLOCK_RESERVE);
	if (rc)
		return rc;
	grew_to(s, (first + n) << s->cluster_bits);
	s->run = first;
	s->run_end = s->cursor = first + n;
	return 0;
}

/* ---- allocation ---- */

bool qcow2_alloc_fast(struct qcow2 *s, u64 *offset)
{
	u64 region = region_of(s, s->run);

	if (s->run == s->run_end || !s->refblocks.map[region])
		return false;
	*offset = s->run << s->cluster_bits;
	if (qcow2_refcount_add(s, *offset, 1, 1))
		return false;
	s->run++;
	return true;
}

int qcow2_alloc(struct qcow2 *s, u64 want, u64 *offset, u64 *got)
{
	int rc = s->run == s->run_end ? reserve_run(s) : 0;
	u64 n;

	if (rc)
		return rc;
	n = min(want, s->run_end - s->run);
	*offset = s->run << s->cluster_bits;
	rc = qcow2_refcount_add(s, *offset, n, 1);
	if (rc)
		return rc;
	s->run += n;
	*got = n;
	return 0;
}

int qcow2_alloc_exact(struct qcow2 *s, u64 clusters, u64 *offset)
{
	u64 first, n;
	int rc;

	run_return(s);
	rc = find_counted(s, s->cursor, &first);
	for (u64 tries = 0; !rc; tries++) {
		rc = count_free(s, first, clusters, &n);
		if (rc || n == clusters)
			break;
		if (tries == 1024 || !region_has_block(s, region_of(s, first + n))) {
			rc = open_area(s, clusters, &first);
			break;
		}
		rc = find_counted(s, first + n + 1, &first);
	}
	n = clusters;
	if (!rc)
		rc = fits_device(s, first, &n);
	if (!rc && n < clusters)
		rc = -ENOSPC;
	if (!rc)
		rc = check_new(s, first, clusters);
	if (!rc)
		rc = qcow2_refcount_add(s, first << s->cluster_bits, clusters, 1);
	if (rc)
		return rc;
	*offset = first << s->cluster_bits;
	grew_to(s, *offset + (clusters << s->cluster_bits));
	return 0;
}

void qcow2_unalloc(struct qcow2 *s, u64 offset, u64 clusters)
{
	if (!qcow2_refcount_add(s, offset, clusters, -1))
		s->cursor = min(s->cursor, offset >> s->cluster_bits);
}

/* ---- giving back ---- */

int qcow2_free_later(struct qcow2 *s, u64 offset, u64 clusters, bool data)
{
	struct qcow2_free *f;

	if (!list_empty(&s->frees)) {
		f = list_entry(s->frees.prev, struct qcow2_free, link);
		if (f->state == QCOW2_FREE_NEW && f->data == data &&
		    f->offset + (f->clusters << s->cluster_bits) == offset) {
			f->clusters += clusters;
			return 0;
		}
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->offset = offset;
	f->clusters = clusters;
	f->data = data;
	list_add_tail(&s->frees, &f->link);
	s->nfrees++;
	__atomic_store_n(&s->meta_dirty, true, __ATOMIC_RELAXED);
	return 0;
}

void qcow2_packed_range(const struct qcow2 *s, u64 entry, u64 *offset, u64 *len)
{
	unsigned int x = 62 - (s->cluster_bits - 8);
	u64 sectors = ((entry & MASK(61, x)) >> x) + 1;

	*offset = entry & MASK(x - 1, 0);
	*len = sectors * 512 - (*offset & 511);
}

int qcow2_free_entry(struct qcow2 *s, u64 entry)
{
	u64 offset, len, first;

	if (s->external)
		return 0;
	if (!(entry & QCOW2_COMPRESSED)) {
		offset = entry & QCOW2_OFFSET;
		return offset ? qcow2_free_later(s, offset, 1, true) : 0;
	}
	qcow2_packed_range(s, entry, &offset, &len);
	first = align_down(offset, s->cluster_size);
	return qcow2_free_later(s, first, div_round_up(offset + len - first, s->cluster_size),
				true);
}

int qcow2_alloc_packed(struct qcow2 *s, u64 len, u64 *offset)
{
	u64 room = s->packed_at ? align_up(s->packed_at, s->cluster_size) - s->packed_at : 0;
	u64 got, at, max_count;
	int rc;

	if (room >= len) {
		/* Another user of the last cluster: one more reference, unless it is full of them.
		 */
		rc = qcow2_refcount_get(s, align_down(s->packed_at, s->cluster_size), &max_count);
		if (!rc)
			rc = qcow2_refcount_add(s, align_down(s->packed_at, s->cluster_size), 1, 1);
		if (!rc) {
			*offset = s->packed_at;
			s->packed_at += len;
			if (is_aligned(s->packed_at, s->cluster_size))
				s->packed_at = 0;
			return 0;
		}
		if (rc != -EOVERFLOW)
			return rc;
		s->packed_at = room = 0;
	}
	rc = qcow2_alloc(s, 1, &at, &got);
	if (rc)
		return rc;
	if (room && at == align_up(s->packed_at, s->cluster_size)) {
		/* Starts in the rest of the cluster before. */
		rc = qcow2_refcount_add(s, at - s->cluster_size, 1, 1);
		if (!rc) {
			*offset = s->packed_at;
			s->packed_at += len;
			if (is_aligned(s->packed_at, s->cluster_size))
				s->packed_at = 0;
			return 0;
		}
	}
	*offset = at;
	s->packed_at = len == s->cluster_size ? 0 : at + len;
	return 0;
}

/* ---- release ---- */

u64 qcow2_helper_enter(struct qcow2 *s)
{
	u64 slot = s->helper_epoch & 1;

	s->helpers[slot]++;
	return slot;
}

void qcow2_helper_leave(struct qcow2 *s, u64 slot)
{
	s->helpers[slot]--;
}

/* As a queue does (queue.c): the epoch turns when nobody of the one before is left. */
static void helper_turn(struct qcow2 *s)
{
	for (int i = 0; i < 2 && !s->helpers[!(s->helper_epoch & 1)]; i++)
		s->helper_epoch++;
}

void qcow2_frees_durable(struct qcow2 *s)
{
	bool data = false;
	struct qcow2_free *f;
	u64 epoch = 0;

	list_for_each_entry (f, &s->frees, link)
		data |= f->state == QCOW2_FREE_NOTED && f->data;
	if (data)
		epoch = block_epoch_new(&s->block);
	list_for_each_entry (f, &s->frees, link) {
		if (f->state != QCOW2_FREE_NOTED)
			continue;
		f->state = QCOW2_FREE_DURABLE;
		f->epoch = epoch;
		f->helper_epoch = s->helper_epoch;
	}
}

static bool may_release(struct qcow2 *s, const struct qcow2_free *f)
{
	if (f->state != QCOW2_FREE_DURABLE)
		return false;
	return !f->data ||
	       (s->helper_epoch >= f->helper_epoch + 2 && block_epoch_passed(&s->block, f->epoch));
}

/* Punch what only this reference holds. Not locked. */
static void punch(struct qcow2 *s, u64 offset, u64 clusters)
{
	struct block_io io = {
		.op = BLOCK_DISCARD, .offset = offset, .len = clusters << s->cluster_bits};

	if (clusters && s->block.top->discard)
		block_io(s->block.file, &io);
}

/* The first run of clusters in [at, end) that have no other user. */
static int sole_run(struct qcow2 *s, u64 *at, u64 end, u64 *n)
{
	*n = 0;
	for (u64 c = *at; c < end; c++) {
		u64 count;
		int rc = qcow2_refcount_get(s, c << s->cluster_bits, &count);

		if (rc)
			return rc;
		if (s->packed_at && (s->packed_at >> s->cluster_bits) == c)
			s->packed_at = 0;
		if (count == 1) {
			if (!*n)
				*at = c;
			++*n;
		} else if (*n) {
			return 0;
		}
	}
	return 0;
}

static void release_one(struct qcow2 *s, const struct qcow2_free *f)
{
	u64 at = f->offset >> s->cluster_bits, end = at + f->clusters, n;

	while (at < end && !sole_run(s, &at, end, &n) && n) {
		pthread_mutex_unlock(&s->lock);
		punch(s, at << s->cluster_bits, n);
		pthread_mutex_lock(&s->lock);
		if (!f->data)
			qcow2_meta_del(s, at << s->cluster_bits, n);
		at += n;
	}
	qcow2_unalloc(s, f->offset, f->clusters);
}

void qcow2_release(struct qcow2 *s)
{
	if (list_empty(&s->frees) || s->releasing)
		return;
	s->releasing = true;
	helper_turn(s);
	while (!list_empty(&s->frees)) {
		struct qcow2_free *f = list_first(&s->frees, struct qcow2_free, link);

		if (!may_release(s, f))
			break;
		list_del(&f->link);
		s->nfrees--;
		release_one(s, f);
		free(f);
	}
	s->releasing = false;
	pthread_cond_broadcast(&s->changed);
}

#define MAX_TRIM (1 << 20)

void qcow2_trim(struct qcow2 *s)
{
	u64 end = s->file_size >> s->cluster_bits, was = end;
	bool unused = true;
	struct err err;

	run_return(s);
	if (s->block.file->fixed_size)
		return;
	while (end && was - end < MAX_TRIM) {
		if (is_free(s, end - 1, &unused) || !unused)
			break;
		end--;
	}
	if (end < was &&
	    !s->block.file->class->resize(s->block.file, end << s->cluster_bits, true, &err))
		s->file_size = end << s->cluster_bits;
}
