/* Growing, shrinking, and changing the backing file: what changes the header. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_create_int.h"
#include "block/qcow2_int.h"

int qcow2_keep_old(struct qcow2 *s, void *memory)
{
	struct qcow2_old *old = malloc(sizeof(*old));

	if (!old)
		return -ENOMEM;
	old->memory = memory;
	old->next = s->old_tables;
	s->old_tables = old;
	return 0;
}

/* Let L1 in memory have `entries`. Readers without the lock see the old tables or the new. */
static int grow_l1_memory(struct qcow2 *s, u64 entries)
{
	u64 *l1 = calloc(entries, 8), *old_l1 = s->l1;
	struct qcow2_tab **map = calloc(entries, sizeof(*map)), **old_map = s->l2.map;

	if (!l1 || !map || qcow2_keep_old(s, old_l1)) {
		free(l1);
		free(map);
		return -ENOMEM;
	}
	if (qcow2_keep_old(s, old_map)) {
		/* old_l1 is on the list already and still in use: take it off again. */
		struct qcow2_old *head = s->old_tables;

		s->old_tables = head->next;
		free(head);
		free(l1);
		free(map);
		return -ENOMEM;
	}
	memcpy(l1, old_l1, s->h.l1_size * 8ULL);
	memcpy(map, old_map, s->h.l1_size * sizeof(*map));
	__atomic_store_n(&s->l1, l1, __ATOMIC_RELEASE);
	__atomic_store_n(&s->l2.map, map, __ATOMIC_RELEASE);
	s->l2.entries = entries;
	return 0;
}

int qcow2_write_l1(struct qcow2 *s, const u64 *l1, u64 entries, u64 offset)
{
	u64 *disk = malloc(max(entries, (u64)1) * 8);
	int rc;

	if (!disk)
		return -ENOMEM;
	for (u64 i = 0; i < entries; i++)
		disk[i] = htobe64(l1[i]);
	rc = block_node_write(s->block.file, disk, entries * 8, offset);
	free(disk);
	return rc;
}

/* Put L1 elsewhere with room for `entries`. Locked; others may be at work on the image. */
static int move_l1(struct qcow2 *s, u64 entries)
{
	u64 per = s->cluster_size / 8, clusters = div_round_up(entries, per), offset;
	u64 old = s->h.l1_offset, old_clusters = div_round_up(s->h.l1_size, per);
	u8 buf[12];
	int rc = qcow2_alloc_exact(s, clusters, &offset);

	if (rc)
		return rc;
	rc = grow_l1_memory(s, entries);
	if (!rc)
		rc = qcow2_meta_add(s, offset, clusters);
	/* The refcounts of the new place must be there before the header points to it, and what L1
	 * points to before it is written there. */
	if (!rc)
		rc = qcow2_flush_held(s);
	if (!rc)
		rc = qcow2_write_l1(s, s->l1, entries, offset);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (rc) {
		qcow2_meta_del(s, offset, clusters);
		qcow2_unalloc(s, offset, clusters);
		return rc;
	}
	store_be32(buf, (u32)entries);
	store_be64(buf + 4, offset);
	rc = block_node_write(s->block.file, buf, sizeof(buf), 36);
	if (!rc)
		rc = block_node_flush(s->block.file);
	/* Nobody knows now which table the header names: nothing may be added to either. */
	if (rc) {
		qcow2_give_up(s, rc);
		return rc;
	}
	s->h.l1_offset = offset;
	__atomic_store_n(&s->h.l1_size, (u32)entries, __ATOMIC_RELEASE);
	if (!old_clusters)
		return 0;
	qcow2_meta_del(s, old, old_clusters);
	return qcow2_free_later(s, old, old_clusters, false);
}

int qcow2_write_size(struct qcow2 *s, u64 size)
{
	u8 buf[8];
	int rc;

	store_be64(buf, size);
	rc = block_node_write(s->block.file, buf, sizeof(buf), 24);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (rc)
		return rc;
	s->h.size = size;
	__atomic_store_n(&s->block.size, size, __ATOMIC_RELEASE);
	return 0;
}

static u64 l1_needed(const struct qcow2 *s, u64 size)
{
	return div_round_up(size, BIT(s->cluster_bits + s->l2_bits));
}

static int grow(struct qcow2 *s, u64 size)
{
	u64 need = l1_needed(s, size), old = s->block.size;
	u64 edge = min(size, align_up(old, s->cluster_size));
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	rc = qcow2_begin_writing(s);
	if (!rc && need > s->h.l1_size)
		rc = move_l1(s, need);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return rc;
	/* The last cluster, and a longer backing file, may hold something behind the old end. */
	if (s->block.backing && block_size(s->block.backing) > old)
		edge = min(size, block_size(s->block.backing));
	if (edge > old) {
		struct block_io io = {.op = BLOCK_WRITE_ZEROES, .offset = old, .len = edge - old};

		rc = qcow2_io(&s->block, &io);
		if (!rc)
			rc = qcow2_flush(s);
	}
	if (!rc)
		rc = qcow2_write_size(s, size);
	return rc;
}

static int shrink_to(struct qcow2 *s, u64 size)
{
	u64 from = align_up(size, s->cluster_size), upto = align_up(s->block.size, s->cluster_size);
	struct block_io io = {.op = BLOCK_DISCARD, .offset = from, .len = upto - from};
	int rc = 0;

	if (from < upto)
		rc = qcow2_io(&s->block, &io);
	if (!rc)
		rc = qcow2_flush(s);
	return rc ? rc : qcow2_write_size(s, size);
}

int qcow2_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	int rc;

	if (l1_needed(s, size) > QCOW2_MAX_L1 / 8 || size > INT64_MAX)
		return err_set(err, EFBIG, "%s: clusters of %llu bytes do not reach so far",
			       b->name, (unsigned long long)s->cluster_size);
	if (size % BLOCK_SECTOR)
		return err_set(err, EINVAL, "%s: the size must be a multiple of 512", b->name);
	if (s->h.nsnapshots && (s->h.version < 3 || size < b->size))
		return err_set(err, EBUSY, "%s: has snapshots, so it cannot be %s", b->name,
			       size < b->size ? "made smaller" : "resized (version 2)");
	if (s->external) {
		rc = s->data ? s->data->class->resize(s->data, size, shrink, err) : -EIO;
		if (rc)
			return rc;
	}
	rc = qcow2_settle(s);
	if (!rc)
		rc = size < b->size ? shrink_to(s, size) : grow(s, size);
	if (!rc)
		rc = qcow2_settle(s);
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}

/* ---- backing file ---- */

/* The extensions without those of a type, and with a new one in front when text is given. */
static int replace_extension(struct qcow2 *s, u32 type, const char *text)
{
	size_t add = text ? 8 + align_up(strlen(text), 8) : 0;
	u8 *out = calloc(1, s->extensions_len + add + 1), *to = out;
	const u8 *p = s->extensions, *end = p + s->extensions_len;

	if (!out)
		return -ENOMEM;
	if (text) {
		store_be32(to, type);
		store_be32(to + 4, (u32)strlen(text));
		memcpy(to + 8, text, strlen(text));
		to += add;
	}
	while (end - p >= 8) {
		size_t len = 8 + align_up(load_be32(p + 4), 8);

		if (load_be32(p) != type) {
			memcpy(to, p, len);
			to += len;
		}
		p += len;
	}
	free(s->extensions);
	s->extensions = out;
	s->extensions_len = (u32)(to - out);
	return 0;
}

int qcow2_change_backing(struct block *b, const char *file, const char *format, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	char *name = file ? strdup(file) : NULL, *fmt = format && file ? strdup(format) : NULL;
	int rc;

	if ((file && !name) || (fmt == NULL && file && format))
		return err_set(err, ENOMEM, "%s: out of memory", b->name);
	if (file && strlen(file) > QCOW2_MAX_NAME)
		return err_set(err, ENAMETOOLONG, "%s: name is too long", file);
	rc = qcow2_settle(s);
	pthread_mutex_lock(&s->lock);
	if (!rc)
		rc = qcow2_begin_writing(s);
	if (!rc)
		rc = replace_extension(s, QCOW2_EXT_BACKING_FORMAT, fmt);
	free(b->backing_name);
	free(b->backing_format);
	b->backing_name = name;
	b->backing_format = fmt;
	if (!rc)
		rc = qcow2_header_write(s);
	if (!rc)
		rc = block_node_flush(b->file);
	pthread_mutex_unlock(&s->lock);
	if (rc == -ENOSPC)
		return err_set(err, ENOSPC, "%s: no room in the header for the name", b->name);
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}

int qcow2_make_empty(struct block *b, struct err *err)
{
	struct block_io io = {.op = BLOCK_DISCARD, .flags = QCOW2_UNCOVER, .len = b->size};
	int rc = b->readonly ? -EROFS : qcow2_io(b, &io);

	if (!rc)
		rc = qcow2_settle(qcow2_of(b));
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}
