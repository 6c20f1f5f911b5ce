/* A new image: header, refcount table, refcount blocks and L1 table in a row. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "block/qcow2_create_int.h"
#include "block/qcow2_int.h"

struct layout {
	u64 cluster;
	u64 reftable, reftable_clusters; /* in clusters */
	u64 blocks, nblocks;
	u64 l1, l1_clusters, l1_entries;
	u64 luks, luks_clusters;
	u64 end;
};

static u32 order_of(const struct block_create *c)
{
	return ilog2(c->refcount_bits ? c->refcount_bits : 16);
}

static u64 cluster_of(const struct block_create *c)
{
	return c->cluster_size ? c->cluster_size : 64 * KiB;
}

static int judge_names(const char *name, const struct block_create *c, struct err *err)
{
	size_t backing = strlen(c->backing_file ? c->backing_file : "");
	struct stat image, data;
	char *path;
	bool same;

	if (c->backing_file && !c->backing_fmt)
		return err_set(err, EINVAL, "%s: backing_file needs backing_fmt", name);
	if (c->backing_fmt && !c->backing_file)
		return err_set(err, EINVAL, "%s: backing_fmt needs backing_file", name);
	if (backing > QCOW2_MAX_NAME || strlen(c->backing_fmt ? c->backing_fmt : "") > 255 ||
	    strlen(c->data_file ? c->data_file : "") > QCOW2_MAX_NAME)
		return err_set(err, ENAMETOOLONG, "%s: a name in it is too long", name);
	if (!c->data_file)
		return 0;
	path = block_path_beside(name, c->data_file);
	if (!path)
		return err_set(err, ENOMEM, "%s: out of memory", name);
	same = !strcmp(path, name) || (!stat(path, &data) && !stat(name, &image) &&
				       data.st_dev == image.st_dev && data.st_ino == image.st_ino);
	free(path);
	return same ? err_set(err, EINVAL, "%s: cannot be its own data file", name) : 0;
}

static int judge_encryption(const char *name, const struct block_create *c, struct err *err)
{
	if (c->data_file_raw)
		return err_set(err, EINVAL, "%s: data_file_raw excludes encryption", name);
	if (c->preallocation &&
	    (!c->compat || c->data_file || c->preallocation == BLOCK_PREALLOC_FULL))
		return err_set(err, EINVAL,
			       "%s: preallocation of an encrypted image needs compat=1.1 and its "
			       "own data, and may not be full",
			       name);
	return 0;
}

static int judge(const char *name, const struct block_create *c, struct err *err)
{
	u64 cluster = cluster_of(c);

	if (!is_power_of_2(cluster) || cluster < 512 || cluster > 2 * MiB)
		return err_set(err, EINVAL, "%s: cluster_size must be a power of 2 from 512 to 2M",
			       name);
	if (!is_power_of_2(c->refcount_bits ? c->refcount_bits : 16))
		return err_set(err, EINVAL, "%s: refcount_bits must be a power of 2", name);
	if (!c->compat && (order_of(c) != 4 || c->extended_l2 || c->lazy_refcounts ||
			   c->compression_type || c->data_file))
		return err_set(err, EINVAL,
			       "%s: refcount_bits, extended_l2, lazy_refcounts, compression_type "
			       "and data_file need compat=1.1",
			       name);
	if (c->extended_l2 && cluster < 16 * KiB)
		return err_set(err, EINVAL, "%s: extended_l2 needs clusters of 16K or more", name);
	if (c->data_file_raw && (!c->data_file || c->backing_file))
		return err_set(err, EINVAL,
			       "%s: data_file_raw needs data_file and excludes a backing file",
			       name);
	if (c->preallocation && c->backing_file && !c->extended_l2)
		return err_set(err, EINVAL,
			       "%s: preallocation would hide the backing file (but for "
			       "extended_l2)",
			       name);
	return c->encrypt_format ? judge_encryption(name, c, err) : 0;
}

static int make_layout(const char *name, const struct block_create *c, struct layout *l,
		       struct luks_header *luks, struct err *err)
{
	u64 per_block, per_l2;
	int rc;

	*l = (struct layout){.cluster = cluster_of(c), .reftable = 1};
	if (c->encrypt_format) {
		rc = luks_plan(luks, c, CRYPTO_SECTOR, err);
		if (rc)
			return rc;
		l->luks_clusters = div_round_up(luks->payload, l->cluster);
	}
	per_block = l->cluster * 8 >> order_of(c);
	per_l2 = l->cluster * (l->cluster / (c->extended_l2 ? 16 : 8));
	l->l1_entries = max(div_round_up(c->size, per_l2), (u64)1);
	if (l->l1_entries > QCOW2_MAX_L1 / 8)
		return err_set(err, EFBIG,
			       "%s: size is too large for this cluster_size (at most %llu bytes)",
			       name, (unsigned long long)(QCOW2_MAX_L1 / 8 * per_l2));
	l->l1_clusters = div_round_up(l->l1_entries * 8, l->cluster);
	l->nblocks = l->reftable_clusters = 1;
	for (;;) {
		u64 total =
			1 + l->reftable_clusters + l->nblocks + l->l1_clusters + l->luks_clusters;
		u64 blocks = div_round_up(total, per_block);
		u64 table = div_round_up(blocks * 8, l->cluster);

		if (blocks <= l->nblocks && table <= l->reftable_clusters)
			break;
		l->nblocks = max(l->nblocks, blocks);
		l->reftable_clusters = max(l->reftable_clusters, table);
	}
	l->blocks = l->reftable + l->reftable_clusters;
	l->l1 = l->blocks + l->nblocks;
	l->luks = l->l1 + l->l1_clusters;
	l->end = l->luks + l->luks_clusters;
	return 0;
}

static int write_refcounts(struct block *file, const struct block_create *c, const struct layout *l)
{
	u64 per_block = l->cluster * 8 >> order_of(c), done = 0;
	u8 *block = malloc(l->cluster);
	int rc = 0;

	if (!block)
		return -ENOMEM;
	for (u64 i = 0; i < l->nblocks && !rc; i++) {
		memset(block, 0, l->cluster);
		for (u64 k = 0; k < per_block && done < l->end; k++, done++)
			qcow2_refcount_put(block, order_of(c), k, 1);
		rc = block_node_write(file, block, l->cluster, (l->blocks + i) * l->cluster);
	}
	for (u64 i = 0; i < l->nblocks && !rc; i++) {
		u64 entry = htobe64((l->blocks + i) * l->cluster);

		rc = block_node_write(file, &entry, 8, l->reftable * l->cluster + i * 8);
	}
	free(block);
	return rc;
}

static void add_extension(struct qcow2 *s, u32 type, const void *data, size_t len)
{
	u8 *p = s->extensions + s->extensions_len;

	store_be32(p, type);
	store_be32(p + 4, (u32)len);
	memcpy(p + 8, data, len);
	s->extensions_len += 8 + (u32)align_up(len, 8);
}

static void add_feature_names(struct qcow2 *s)
{
	static const struct {
		u8 type, bit;
		char name[46];
	} names[] = {
		{0, 0, "dirty bit"},
		{0, 1, "corrupt bit"},
		{0, 2, "external data file"},
		{0, 3, "compression type"},
		{0, 4, "extended L2 entries"},
		{1, 0, "lazy refcounts"},
		{2, 0, "bitmaps"},
		{2, 1, "raw external data"},
	};

	_Static_assert(sizeof(names[0]) == 48, "the entry of the specification");
	add_extension(s, QCOW2_EXT_FEATURES, names, sizeof(names));
}

static void fill_header(struct qcow2 *s, const struct block_create *c, const struct layout *l)
{
	struct qcow2_header *h = &s->h;

	*h = (struct qcow2_header){
		.version = c->compat ? 3 : 2,
		.cluster_bits = ilog2(l->cluster),
		.size = c->size,
		.l1_size = (u32)l->l1_entries,
		.l1_offset = l->l1 * l->cluster,
		.reftable_offset = l->reftable * l->cluster,
		.reftable_clusters = (u32)l->reftable_clusters,
		.refcount_order = order_of(c),
		.length = c->compat ? 112 : 72,
		.compression = (u8)c->compression_type,
	};
	s->cluster_size = l->cluster;
	if (l->luks_clusters) {
		u8 where[16];

		h->crypt = QCOW2_CRYPT_LUKS;
		store_be64(where, l->luks * l->cluster);
		store_be64(where + 8, l->luks_clusters * l->cluster);
		add_extension(s, QCOW2_EXT_LUKS, where, sizeof(where));
	}
	if (c->lazy_refcounts)
		h->compatible |= QCOW2_COMPAT_LAZY;
	if (c->extended_l2)
		h->incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
	if (c->compression_type)
		h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
	if (c->data_file)
		h->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
	if (c->data_file_raw)
		h->autoclear |= QCOW2_AUTO_DATA_RAW;
	if (c->backing_fmt)
		add_extension(s, QCOW2_EXT_BACKING_FORMAT, c->backing_fmt, strlen(c->backing_fmt));
	if (c->data_file)
		add_extension(s, QCOW2_EXT_DATA_FILE, c->data_file, strlen(c->data_file));
	/* Feature names need 400 bytes, which the smallest clusters do not have. */
	if (c->compat && l->cluster >= 4096)
		add_feature_names(s);
}

static int write_header(struct block *file, const struct block_create *c, const struct layout *l,
			struct err *err)
{
	u8 extensions[4096] = {0};
	struct qcow2 *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(err, ENOMEM, "%s: out of memory", file->name);
	s->block.file = file;
	s->block.backing_name = c->backing_file;
	s->extensions = extensions;
	fill_header(s, c, l);
	rc = qcow2_header_write(s);
	free(s);
	if (rc == -ENOSPC)
		return err_set(err, EINVAL,
			       "%s: names of files are too long for clusters of %llu bytes",
			       file->name, (unsigned long long)l->cluster);
	return rc ? err_set(err, -rc, "%s: %s", file->name, strerror(-rc)) : 0;
}

static int make_data_file(const char *image, const struct block_create *c, struct err *err)
{
	struct block_create raw = {.size = c->size, .preallocation = c->preallocation};
	char *path = block_path_beside(image, c->data_file);
	int rc;

	if (!path)
		return err_set(err, ENOMEM, "%s: out of memory", image);
	rc = block_create(path, "raw", &raw, err);
	free(path);
	return rc;
}

static int make_luks(struct block *file, const struct block_create *c, const struct layout *l,
		     struct luks_header *h, struct err *err)
{
	struct luks_place place = {file, l->luks * l->cluster, l->luks_clusters * l->cluster};

	return l->luks_clusters ? luks_write(h, &place, c, err) : 0;
}

int qcow2_judge(const char *name, const struct block_create *c, struct err *err)
{
	struct luks_header luks;
	struct layout l;
	int rc = judge(name, c, err);

	if (!rc)
		rc = judge_names(name, c, err);
	return rc ? rc : make_layout(name, c, &l, &luks, err);
}

int qcow2_create(struct block *file, const struct block_create *c, struct err *err)
{
	struct luks_header luks;
	struct layout l;
	u8 zero = 0;
	int rc = make_layout(file->name, c, &l, &luks, err);

	if (!rc && c->data_file)
		rc = make_data_file(file->name, c, err);
	if (rc)
		return rc;
	/* On a device what was there before must not look like tables. */
	if (file->fixed_size)
		rc = block_node_zero(file, l.end * l.cluster, 0, BLOCK_MAY_UNMAP);
	if (!rc)
		rc = write_refcounts(file, c, &l);
	if (!rc)
		rc = block_node_write(file, &zero, 1, l.end * l.cluster - 1);
	if (rc)
		return err_set(err, -rc, "%s: %s", file->name, strerror(-rc));
	rc = make_luks(file, c, &l, &luks, err);
	if (rc)
		return rc;
	rc = block_node_flush(file);
	if (rc)
		return err_set(err, -rc, "%s: %s", file->name, strerror(-rc));
	return write_header(file, c, &l, err);
}

/* ---- preallocation ---- */

static int map_all(struct qcow2 *s, u64 from, u64 size)
{
	/* What an untouched cluster would decrypt to is not zeros: it has to be marked so. */
	u64 zero = s->luks_len && !s->extended ? QCOW2_ZERO : 0;
	int rc = 0;

	for (u64 at = from; at < size && !rc; at += s->cluster_size) {
		struct qcow2_tab *tab;
		u64 host = at, got;
		bool full;

		pthread_mutex_lock(&s->lock);
		rc = qcow2_begin_writing(s);
		if (!rc)
			rc = qcow2_l2_own(s, qcow2_l1_index(s, at), &tab);
		if (!rc && !s->external)
			rc = qcow2_alloc(s, 1, &host, &got);
		/* Subclusters stay unallocated: their place is known, their contents are zeros. */
		if (!rc)
			qcow2_entry_set(s, tab, qcow2_l2_index(s, at), host | QCOW2_COPIED | zero,
					0);
		full = qcow2_cache_full(s);
		pthread_mutex_unlock(&s->lock);
		if (!rc && full)
			rc = qcow2_flush(s);
	}
	return rc;
}

static int write_all(struct block *b, u64 from, u64 size)
{
	u64 chunk = 1 * MiB;
	void *zeros = calloc(1, chunk);
	int rc = zeros ? 0 : -ENOMEM;

	for (u64 at = from; at < size && !rc; at += chunk)
		rc = block_write(b, zeros, min(chunk, size - at), at);
	free(zeros);
	return rc;
}

/* All that lies behind `from` is unallocated. */
static int fill(struct block *b, u64 from, int how)
{
	struct qcow2 *s = qcow2_of(b);
	int rc = map_all(s, from, b->size);

	if (!rc && !s->external && how != BLOCK_PREALLOC_METADATA)
		rc = block_file_reserve(b->file, s->file_size);
	if (!rc && !s->external && how == BLOCK_PREALLOC_FULL)
		rc = write_all(b->top, from, b->size);
	return rc;
}

int qcow2_extend(struct block *b, u64 from, int how)
{
	struct qcow2 *s = qcow2_of(b);

	/* What would be allocated would hide the backing file, what is encrypted is no zeros. */
	if (b->backing_name || s->external || s->luks_len)
		return -ENOTSUP;
	return fill(b, align_up(from, s->cluster_size), how);
}

int qcow2_preallocate(const char *path, const struct block_create *c, struct err *err)
{
	struct block_options o = {.file = (char *)(uintptr_t)path, .format = "qcow2"};
	struct block *b;
	int rc, closed;

	o.backing_file = NULL;
	o.backing = true;
	o.lock = true;
	o.metadata_only = !c->data_file;
	rc = block_open(&b, &o, err);
	if (rc)
		return rc;
	rc = fill(b, 0, c->preallocation);
	closed = block_close(b);
	if (!rc)
		rc = closed;
	return rc ? err_set(err, -rc, "%s: %s", path, strerror(-rc)) : 0;
}

/* ---- measure ---- */

int qcow2_measure(const struct block_create *c, u64 data, u64 *required, u64 *full, struct err *err)
{
	u64 cluster = cluster_of(c), per_block = cluster * 8 >> order_of(c);
	u64 per_l2 = cluster / (c->extended_l2 ? 16 : 8), l2, rest;
	u64 *out[] = {required, full}, bytes[] = {data, c->size};
	struct luks_header luks;
	struct layout l;
	int rc = judge("the image", c, err);

	if (!rc)
		rc = make_layout("the image", c, &l, &luks, err);
	for (int i = 0; i < 2 && !rc; i++) {
		u64 clusters = div_round_up(bytes[i], cluster), blocks = 0, table = 0;

		l2 = div_round_up(c->size, cluster * per_l2);
		rest = 1 + l.l1_clusters + l.luks_clusters + l2 + (c->data_file ? 0 : clusters);
		for (;;) {
			u64 b = div_round_up(rest + blocks + table, per_block);
			u64 t = div_round_up(b * 8, cluster);

			if (b <= blocks && t <= table)
				break;
			blocks = max(b, blocks);
			table = max(t, table);
		}
		*out[i] = (rest + blocks + table) * cluster;
	}
	return rc;
}
