/*
 * Invariants:
 * 1. map[i] is NULL or a table with index == i and used. A table is in tabs[] from its making to
 *    the close; only its contents change.
 * 2. Who replaces a table's contents makes seq odd before and even after, and changes map[] in
 *    between. A reader without the lock takes the table from map[], notes an even seq, reads
 *    entries one by one, and then finds both unchanged, or starts over another way.
 * 3. A clean table equals what is on disk, or will when the flush that is `writing` it ends. Only
 *    a table that is neither dirty nor being written is evicted.
 * 4. An entry that leads to metadata or nowhere is never followed. A 64th of an L2 table is looked
 *    through, under the lock, before its entries are used, and is `good` then; readers without the
 *    lock use no others but those entries that lead to where no metadata is near. In those that are
 *    not good, qcow2_lookup() judges each entry.
 * 5. A `loading` table is not in the map, has an odd seq and is not evicted. It is published only
 *    if nothing happened to that index since it was reserved (qcow2_load_spoil()).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "block/qcow2_int.h"

/* ---- the set of metadata clusters: open addressing, linear probing ---- */

static u64 meta_hash(u64 cluster)
{
	return hash_u64(cluster);
}

static void meta_place(struct qcow2 *s, u64 key)
{
	u64 at = meta_hash(key) & (s->meta_cap - 1);

	while (s->meta[at] && s->meta[at] != key)
		at = (at + 1) & (s->meta_cap - 1);
	s->meta_count += !s->meta[at];
	s->meta[at] = key;
	qcow2_meta_mark(s, (key - 1) << s->cluster_bits);
}

static int meta_grow(struct qcow2 *s)
{
	u64 cap = s->meta_cap, *old = s->meta;

	s->meta_cap = cap ? 2 * cap : 256;
	s->meta = calloc(s->meta_cap, sizeof(*s->meta));
	if (!s->meta) {
		s->meta = old;
		s->meta_cap = cap;
		return -ENOMEM;
	}
	s->meta_count = 0;
	for (u64 i = 0; i < cap; i++)
		if (old[i])
			meta_place(s, old[i]);
	free(old);
	return 0;
}

/* Keys are cluster numbers plus one, so that 0 is an empty place. */
int qcow2_meta_add(struct qcow2 *s, u64 offset, u64 clusters)
{
	for (u64 i = 0; i < clusters; i++) {
		if (2 * (s->meta_count + 1) > s->meta_cap && meta_grow(s))
			return -ENOMEM;
		meta_place(s, (offset >> s->cluster_bits) + i + 1);
	}
	return 0;
}

static u64 meta_find(const struct qcow2 *s, u64 key)
{
	u64 at = meta_hash(key) & (s->meta_cap - 1);

	while (s->meta[at] && s->meta[at] != key)
		at = (at + 1) & (s->meta_cap - 1);
	return at;
}

/* Take one out, and move up what probing could not reach any more. */
static void meta_remove(struct qcow2 *s, u64 key)
{
	u64 hole = meta_find(s, key), at = hole;

	if (!s->meta[hole])
		return;
	s->meta[hole] = 0;
	s->meta_count--;
	for (;;) {
		u64 home;

		at = (at + 1) & (s->meta_cap - 1);
		if (!s->meta[at])
			return;
		home = meta_hash(s->meta[at]) & (s->meta_cap - 1);
		if (((at - home) & (s->meta_cap - 1)) < ((at - hole) & (s->meta_cap - 1)))
			continue;
		s->meta[hole] = s->meta[at];
		s->meta[at] = 0;
		hole = at;
	}
}

void qcow2_meta_del(struct qcow2 *s, u64 offset, u64 clusters)
{
	for (u64 i = 0; i < clusters; i++)
		meta_remove(s, (offset >> s->cluster_bits) + i + 1);
}

bool qcow2_meta_has(const struct qcow2 *s, u64 offset)
{
	u64 key = (offset >> s->cluster_bits) + 1;

	return qcow2_meta_near(s, offset) && s->meta[meta_find(s, key)];
}

/* ---- tables in memory ---- */

/* Flags that readers without the lock look at. */
static void set_flag(bool *flag, bool value)
{
	__atomic_store_n(flag, value, __ATOMIC_RELAXED);
}

static struct qcow2_tab *tab_alloc(struct qcow2 *s, struct qcow2_cache *c)
{
	struct qcow2_tab *tab = calloc(1, sizeof(*tab));

	if (tab && posix_memalign((void **)&tab->data, 4096, s->cluster_size))
		tab->data = NULL;
	if (!tab || !tab->data) {
		free(tab);
		return NULL;
	}
	if (is_power_of_2(c->count) || !c->count) {
		struct qcow2_tab **tabs =
			realloc(c->tabs, (c->count ? 2ULL * c->count : 1) * sizeof(*tabs));

		if (!tabs) {
			free(tab->data);
			free(tab);
			return NULL;
		}
		c->tabs = tabs;
	}
	c->tabs[c->count] = tab;
	__atomic_store_n(&c->count, c->count + 1, __ATOMIC_RELAXED);
	return tab;
}

/* A clean table that has not been used since the hand last passed, or NULL. */
static struct qcow2_tab *tab_evict(struct qcow2_cache *c)
{
	for (u32 i = 0; i < 2 * c->count; i++) {
		struct qcow2_tab *tab = c->tabs[c->hand++ % c->count];

		if (tab->dirty || tab->writing || tab->loading)
			continue;
		if (!tab->used)
			return tab;
		if (!__atomic_load_n(&tab->referenced, __ATOMIC_RELAXED))
			return tab;
		set_flag(&tab->referenced, false);
	}
	return NULL;
}

static void tab_begin(struct qcow2_tab *tab)
{
	__atomic_store_n(&tab->seq, tab->seq + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void tab_end(struct qcow2_tab *tab)
{
	__atomic_store_n(&tab->seq, tab->seq + 1, __ATOMIC_RELEASE);
}

/* Words, because readers without the lock may still be looking. */
static void set_word(struct qcow2_tab *tab, u64 at, u64 v)
{
	__atomic_store_n((u64 *)(void *)(tab->data + at), htobe64(v), __ATOMIC_RELAXED);
}

static void map_set(struct qcow2_cache *c, u64 index, struct qcow2_tab *tab)
{
	__atomic_store_n(&c->map[index], tab, __ATOMIC_RELEASE);
}

static void tab_drop(struct qcow2_cache *c, struct qcow2_tab *tab)
{
	if (tab->used)
		map_set(c, tab->index, NULL);
	if (tab->dirty)
		c->dirty--;
	tab->used = false;
	set_flag(&tab->referenced, false);
	__atomic_store_n(&tab->good, 0, __ATOMIC_RELAXED);
	tab->dirty = 0;
}

/* A table to fill, taken out of the map, seq odd. */
static struct qcow2_tab *tab_take(struct qcow2 *s, struct qcow2_cache *c)
{
	struct qcow2_tab *tab = c->count < c->cap ? NULL : tab_evict(c);

	if (!tab)
		tab = tab_alloc(s, c);
	if (!tab)
		return NULL;
	tab_begin(tab);
	tab_drop(c, tab);
	return tab;
}

static void tab_publish(struct qcow2 *s, struct qcow2_cache *c, struct qcow2_tab *tab, u64 index,
			u64 offset)
{
	if (c->kind == QCOW2_L2)
		qcow2_load_spoil(s, index);
	tab->index = index;
	tab->offset = offset;
	tab->used = true;
	set_flag(&tab->referenced, true);
	map_set(c, index, tab);
	tab_end(tab);
}

struct qcow2_tab *qcow2_tab_new(struct qcow2 *s, struct qcow2_cache *c, u64 index, u64 offset)
{
	struct qcow2_tab *tab = tab_take(s, c);

	if (!tab)
		return NULL;
	for (u64 at = 0; at < s->cluster_size; at += 8)
		set_word(tab, at, 0);
	__atomic_store_n(&tab->good, ~0ULL, __ATOMIC_RELAXED);
	tab_publish(s, c, tab, index, offset);
	qcow2_tab_dirty(s, c, tab, 0, s->cluster_size);
	return tab;
}

static bool entry_host_ok(const struct qcow2 *s, u64 host)
{
	return is_aligned(host, s->cluster_size) && (s->external || !qcow2_meta_has(s, host));
}

/* Does an entry lead where guest data cannot be? */
static bool entry_bad(const struct qcow2 *s, u64 entry)
{
	u64 host = entry & QCOW2_OFFSET;

	return !(entry & QCOW2_COMPRESSED) && host && !entry_host_ok(s, host);
}

/* The 64ths of a table that hold the entries of [offset, +len). */
static u64 parts_of(const struct qcow2 *s, u64 offset, u64 len)
{
	u64 first = qcow2_l2_index(s, offset), last = qcow2_l2_index(s, offset + len - 1);

	return MASK(last >> (s->l2_bits - 6), first >> (s->l2_bits - 6));
}

static bool part_good(const struct qcow2 *s, const struct qcow2_tab *tab, unsigned int part)
{
	u64 len = s->cluster_size / 64, step = qcow2_entry_size(s);
	const u8 *data = tab->data + part * len;

	for (u64 at = 0; at < len; at += step)
		if (entry_bad(s, load_be64(data + at)))
			return false;
	return true;
}

bool qcow2_l2_trust(struct qcow2 *s, struct qcow2_tab *tab, u64 offset, u64 len)
{
	u64 want = parts_of(s, offset, len), good = tab->good;

	for (u64 rest = want & ~good; rest; rest &= rest - 1)
		if (part_good(s, tab, (unsigned int)__builtin_ctzll(rest)))
			good |= rest & -rest;
	if (good != tab->good)
		__atomic_store_n(&tab->good, good, __ATOMIC_RELEASE);
	return !(want & ~good);
}

struct qcow2_tab *qcow2_l2_reserve(struct qcow2 *s)
{
	struct qcow2_cache *c = &s->l2;
	struct qcow2_tab *tab;

	/* With those that are dirty they leave some for who cannot wait. */
	if (c->loading >= max(c->cap / 4, 1u))
		return NULL;
	tab = c->count < c->cap ? tab_alloc(s, c) : tab_evict(c);
	if (!tab)
		return NULL;
	tab_begin(tab);
	tab_drop(c, tab);
	tab->loading = true;
	c->loading++;
	return tab;
}

void qcow2_l2_settle(struct qcow2 *s, struct qcow2_tab *tab, u64 l1_index, u64 offset, bool keep)
{
	tab->loading = false;
	s->l2.loading--;
	if (keep)
		tab_publish(s, &s->l2, tab, l1_index, offset);
	else
		tab_end(tab);
}

int qcow2_tab_load(struct qcow2 *s, struct qcow2_cache *c, u64 index, u64 offset,
		   struct qcow2_tab **out)
{
	struct qcow2_tab *tab = c->map[index];
	int rc;

	*out = tab;
	if (tab) {
		set_flag(&tab->referenced, true);
		return 0;
	}
	if (!is_aligned(offset, s->cluster_size) || !offset || offset >= s->file_size) {
		qcow2_mark_corrupt(s, "%s table at %#llx", c->kind == QCOW2_L2 ? "L2" : "refcount",
				   (unsigned long long)offset);
		return -EIO;
	}
	tab = tab_take(s, c);
	if (!tab)
		return -ENOMEM;
	rc = block_node_read(s->block.file, tab->data, s->cluster_size, offset);
	if (rc) {
		tab_end(tab);
		return rc;
	}
	tab_publish(s, c, tab, index, offset);
	*out = tab;
	return 0;
}

void qcow2_tab_dirty(struct qcow2 *s, struct qcow2_cache *c, struct qcow2_tab *tab, u64 at, u64 len)
{
	unsigned int unit = s->cluster_bits - 6;

	if (!tab->dirty)
		c->dirty++;
	tab->dirty |= MASK((at + len - 1) >> unit, at >> unit);
	__atomic_store_n(&s->meta_dirty, true, __ATOMIC_RELAXED);
}

bool qcow2_cache_full(const struct qcow2 *s)
{
	return s->l2.dirty > s->l2.cap * 3 / 4 || s->refblocks.dirty > s->refblocks.cap * 3 / 4;
}

/* ---- L1 and L2 ---- */

void qcow2_l1_set(struct qcow2 *s, u64 index, u64 entry)
{
	qcow2_load_spoil(s, index);
	__atomic_store_n(&s->l1[index], entry, __ATOMIC_RELEASE);
	bitmap_set(s->l1_dirty, index * 8 / 512);
	s->l1_any_dirty = true;
	__atomic_store_n(&s->meta_dirty, true, __ATOMIC_RELAXED);
}

void qcow2_l2_forget(struct qcow2 *s)
{
	qcow2_load_spoil(s, QCOW2_LOAD_ALL);
	for (u32 i = 0; i < s->l2.count; i++) {
		struct qcow2_tab *tab = s->l2.tabs[i];

		if (tab->loading)
			continue;
		tab_begin(tab);
		tab_drop(&s->l2, tab);
		tab_end(tab);
	}
}

int qcow2_l2_get(struct qcow2 *s, u64 l1_index, struct qcow2_tab **tab)
{
	u64 offset;

	*tab = NULL;
	if (l1_index >= s->h.l1_size)
		return -EINVAL;
	offset = s->l1[l1_index] & QCOW2_OFFSET;
	if (!offset)
		return 0;
	return qcow2_tab_load(s, &s->l2, l1_index, offset, tab);
}

/* The table at another place from now on, whole. */
static void tab_move(struct qcow2 *s, struct qcow2_tab *tab, u64 offset)
{
	tab->offset = offset;
	qcow2_tab_dirty(s, &s->l2, tab, 0, s->cluster_size);
}

int qcow2_l2_own(struct qcow2 *s, u64 l1_index, struct qcow2_tab **tab)
{
	u64 old, offset, got;
	int rc = qcow2_l2_get(s, l1_index, tab);

	if (rc)
		return rc;
	if (*tab && (s->l1[l1_index] & QCOW2_COPIED))
		return 0;
	rc = qcow2_alloc(s, 1, &offset, &got);
	if (rc)
		return rc;
	rc = qcow2_meta_add(s, offset, 1);
	if (rc) {
		qcow2_unalloc(s, offset, 1);
		return rc;
	}
	old = s->l1[l1_index] & QCOW2_OFFSET;
	if (old)
		rc = qcow2_free_later(s, old, 1, false);
	if (!rc && old)
		tab_move(s, *tab, offset);
	else if (!rc && !(*tab = qcow2_tab_new(s, &s->l2, l1_index, offset)))
		rc = -ENOMEM;
	if (rc) {
		qcow2_meta_del(s, offset, 1);
		qcow2_unalloc(s, offset, 1);
		return rc;
	}
	qcow2_l1_set(s, l1_index, offset | QCOW2_COPIED);
	return 0;
}

u64 qcow2_entry_get(const struct qcow2 *s, const struct qcow2_tab *tab, u64 index, u64 *bitmap)
{
	u64 at = index * qcow2_entry_size(s);

	if (bitmap)
		*bitmap = s->extended ? qcow2_tab_word(tab, at + 8) : 0;
	return qcow2_tab_word(tab, at);
}

void qcow2_entry_set(struct qcow2 *s, struct qcow2_tab *tab, u64 index, u64 entry, u64 bitmap)
{
	u64 size = qcow2_entry_size(s), at = index * size;

	if (s->extended) {
		/* Two words: readers must see both or neither. */
		tab_begin(tab);
		set_word(tab, at, entry);
		set_word(tab, at + 8, bitmap);
		tab_end(tab);
	} else {
		/* What was written before must be there for who sees the entry. */
		__atomic_thread_fence(__ATOMIC_RELEASE);
		set_word(tab, at, entry);
	}
	qcow2_tab_dirty(s, &s->l2, tab, at, size);
}

/* ---- mapping ---- */

/* What the subcluster `sub` of an entry (the only one without extended entries) is. */
static enum qcow2_type classify(const struct qcow2 *s, u64 entry, u64 bitmap, u32 sub)
{
	u64 host = entry & QCOW2_OFFSET;
	bool there = host || (s->external && (entry & QCOW2_COPIED));

	if (entry & QCOW2_COMPRESSED)
		return s->external ? QCOW2_BROKEN : QCOW2_PACKED;
	if (!is_aligned(host, s->cluster_size))
		return QCOW2_BROKEN;
	if (s->extended) {
		bool alloc = bitmap & BIT(sub), zero = bitmap & BIT(sub + 32);

		if ((alloc && zero) || (alloc && !there))
			return QCOW2_BROKEN;
		return alloc ? QCOW2_NORMAL : zero ? QCOW2_ZEROED : QCOW2_UNALLOCATED;
	}
	if ((entry & QCOW2_ZERO) && s->h.version >= 3)
		return QCOW2_ZEROED;
	return there ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

static u64 whole_len(const struct qcow2 *s, u64 offset, u64 len)
{
	u64 span = BIT(s->cluster_bits + s->l2_bits);

	return min(len, span - (offset & (span - 1)));
}

/* Describe [offset, +len), which lies in one table, as far as it is of one kind. */
static void scan(const struct qcow2 *s, const struct qcow2_tab *tab, u64 offset, u64 len,
		 struct qcow2_map *map)
{
	u64 index = qcow2_l2_index(s, offset), in = qcow2_into_cluster(s, offset), done = 0;
	u64 unit = BIT(s->sub_bits);

	while (done < len) {
		u64 bitmap, entry = qcow2_entry_get(s, tab, index, &bitmap);
		u32 sub = s->extended ? (u32)(in >> s->sub_bits) : 0;
		enum qcow2_type type = classify(s, entry, bitmap, sub);
		u64 host = (entry & QCOW2_OFFSET) + in;
		bool copied = entry & QCOW2_COPIED;

		if (s->external && type == QCOW2_NORMAL && host != offset + done)
			type = QCOW2_BROKEN;
		if (!done) {
			map->type = type;
			map->copied = copied;
			map->entry = entry;
			map->host = host;
		} else if (type != map->type || type >= QCOW2_PACKED ||
			   (type == QCOW2_NORMAL &&
			    (host != map->host + done || copied != map->copied))) {
			break;
		}
		in = s->extended && type != QCOW2_PACKED ? align_down(in, unit) + unit
							 : s->cluster_size;
		done = ((index << s->cluster_bits) + in) -
		       (offset & (BIT(s->cluster_bits + s->l2_bits) - 1));
		if (in == s->cluster_size) {
			index++;
			in = 0;
		}
	}
	map->len = min(done, len);
}

static void no_table(struct qcow2_map *map, u64 len)
{
	*map = (struct qcow2_map){.type = QCOW2_UNALLOCATED, .len = len};
}

int qcow2_lookup(struct qcow2 *s, u64 offset, u64 len, struct qcow2_map *map)
{
	struct qcow2_tab *tab;
	bool trusted;
	int rc = qcow2_l2_get(s, qcow2_l1_index(s, offset), &tab);

	if (rc)
		return rc;
	len = whole_len(s, offset, len);
	if (!tab) {
		no_table(map, len);
		return 0;
	}
	trusted = qcow2_l2_trust(s, tab, offset, len);
	if (!trusted)
		len = min(len, s->cluster_size - qcow2_into_cluster(s, offset));
	scan(s, tab, offset, len, map);
	if (!trusted && entry_bad(s, map->entry))
		map->type = QCOW2_BROKEN;
	if (map->type == QCOW2_BROKEN)
		qcow2_mark_corrupt(s, "L2 entry %#llx for guest offset %#llx",
				   (unsigned long long)map->entry, (unsigned long long)offset);
	return 0;
}

/* Look through what has not been looked through yet, unless that had to wait. */
static bool trust_now(struct qcow2 *s, struct qcow2_tab *tab, u64 offset, u64 len)
{
	bool ok;

	if (pthread_mutex_trylock(&s->lock))
		return false;
	ok = s->l2.map[qcow2_l1_index(s, offset)] == tab && qcow2_l2_trust(s, tab, offset, len);
	pthread_mutex_unlock(&s->lock);
	return ok;
}

bool qcow2_lookup_fast(struct qcow2 *s, u64 offset, u64 len, struct qcow2_map *map)
{
	u64 l1_index = qcow2_l1_index(s, offset), seq, want;
	struct qcow2_tab *tab;

	if (unlikely(l1_index >= qcow2_l1_entries(s)))
		return false;
	len = whole_len(s, offset, len);
	tab = qcow2_l2_peek(s, l1_index);
	if (!tab) {
		no_table(map, len);
		return !(qcow2_l1_peek(s, l1_index) & QCOW2_OFFSET);
	}
	seq = __atomic_load_n(&tab->seq, __ATOMIC_ACQUIRE);
	want = parts_of(s, offset, len);
	if (unlikely((seq & 1) || ((want & ~__atomic_load_n(&tab->good, __ATOMIC_ACQUIRE)) &&
				   !trust_now(s, tab, offset, len))))
		return false;
	if (!__atomic_load_n(&tab->referenced, __ATOMIC_RELAXED))
		set_flag(&tab->referenced, true);
	scan(s, tab, offset, len, map);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&tab->seq, __ATOMIC_RELAXED) == seq &&
	       qcow2_l2_peek(s, l1_index) == tab;
}

/* ---- open and close ---- */

static int read_table(struct qcow2 *s, u64 **out, u64 offset, u64 entries, u64 room,
		      struct err *err)
{
	u64 *t = calloc(max(room, (u64)1), 8);
	int rc;

	*out = t;
	if (!t)
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	if (!entries)
		return 0;
	if (!range_fits(offset, entries * 8, align_up(s->file_size, s->cluster_size)))
		return err_set(err, EINVAL, "%s: a table lies behind the end of the file",
			       s->block.name);
	rc = block_node_read(s->block.file, t, entries * 8, offset);
	if (rc)
		return err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc));
	for (u64 i = 0; i < entries; i++)
		t[i] = be64toh(t[i]);
	return 0;
}

/* Note where metadata lies; what points nowhere is left to whoever follows it. */
static int note_metadata(struct qcow2 *s)
{
	u64 per = s->cluster_size / 8;
	int rc = qcow2_meta_add(s, 0, 1);

	if (!rc && s->luks_len)
		rc = qcow2_meta_add(s, s->luks_offset, div_round_up(s->luks_len, s->cluster_size));
	if (!rc && s->h.l1_size)
		rc = qcow2_meta_add(s, s->h.l1_offset, div_round_up(s->h.l1_size, per));
	if (!rc)
		rc = qcow2_meta_add(s, s->h.reftable_offset, s->h.reftable_clusters);
	for (u64 i = 0; i < s->h.l1_size && !rc; i++)
		if (s->l1[i] & QCOW2_OFFSET)
			rc = qcow2_meta_add(s, s->l1[i] & QCOW2_OFFSET, 1);
	for (u64 i = 0; i < s->reftable_size && !rc; i++)
		if (s->reftable[i] & QCOW2_OFFSET)
			rc = qcow2_meta_add(s, s->reftable[i] & QCOW2_OFFSET, 1);
	return rc;
}

int qcow2_meta_refresh(struct qcow2 *s)
{
	int rc;

	memset(s->meta, 0, s->meta_cap * sizeof(*s->meta));
	s->meta_count = 0;
	rc = note_metadata(s);
	return rc || !s->h.nsnapshots ? rc : qcow2_snapshots_note(s);
}

static int cache_init(struct qcow2_cache *c, enum qcow2_tab_kind kind, u64 entries, u32 cap)
{
	c->kind = kind;
	c->entries = entries;
	c->cap = cap;
	c->map = calloc(max(entries, (u64)1), sizeof(struct qcow2_tab *));
	return c->map ? 0 : -ENOMEM;
}

int qcow2_tables_open(struct qcow2 *s, const struct block_options *o, struct err *err)
{
	u64 bytes = o->l2_cache ? o->l2_cache : 128 * MiB;
	u32 cap = (u32)min(max(bytes >> s->cluster_bits, (u64)4), (u64)1 << 24);
	int rc;

	rc = read_table(s, &s->l1, s->h.l1_offset, s->h.l1_size, s->h.l1_size, err);
	if (rc)
		return rc;
	s->reftable_size = ((u64)s->h.reftable_clusters << s->cluster_bits) / 8;
	rc = read_table(s, &s->reftable, s->h.reftable_offset, s->reftable_size, s->reftable_size,
			err);
	if (rc)
		return rc;
	if (cache_init(&s->l2, QCOW2_L2, s->h.l1_size, cap) ||
	    cache_init(&s->refblocks, QCOW2_REFBLOCK, s->reftable_size, max(cap / 4, 4u)) ||
	    note_metadata(s))
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	return 0;
}

static void cache_free(struct qcow2_cache *c)
{
	for (u32 i = 0; i < c->count; i++) {
		free(c->tabs[i]->data);
		free(c->tabs[i]);
	}
	free(c->tabs);
	free(c->map);
	memset(c, 0, sizeof(*c));
}

void qcow2_tables_free(struct qcow2 *s)
{
	cache_free(&s->l2);
	cache_free(&s->refblocks);
	free(s->l1);
	free(s->reftable);
	free(s->meta);
	s->l1 = s->reftable = s->meta = NULL;
}
