/* The class: open, close, status, resize. */
#include "block/qcow2_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_create_int.h"

static bool qcow2_probe(const u8 *head)
{
	return load_be32(head) == QCOW2_MAGIC;
}

/* ---- open ---- */

static void geometry(struct qcow2 *s)
{
	struct block *b = &s->block;

	s->cluster_bits = s->h.cluster_bits;
	s->cluster_size = BIT(s->cluster_bits);
	s->extended = s->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	s->l2_bits = s->cluster_bits - (s->extended ? 4 : 3);
	s->sub_bits = s->cluster_bits - (s->extended ? 5 : 0);
	s->refblock_bits = s->cluster_bits + 3 - s->h.refcount_order;
	s->external = s->h.incompatible & QCOW2_INCOMPAT_DATA_FILE;
	s->data_raw = s->external && (s->h.autoclear & QCOW2_AUTO_DATA_RAW);
	b->size = s->h.size;
	b->block_size = b->file->block_size;
	b->discard_align = (u32)s->cluster_size;
	b->readonly = b->file->readonly;
	b->can_discard = !s->external;
	b->can_write_zeroes = !s->external && s->h.version >= 3;
}

/* The external data file: a plain file name, opened only when the user lets it. */
static int open_external(struct qcow2 *s, const struct block_options *o, struct err *err)
{
	struct block_options below = *o;
	char *path;
	int rc;

	if (o->metadata_only)
		return 0;
	if (!o->data_file && !o->backing)
		return err_set(
			err, EPERM,
			"%s: keeps its data in another file, '%s'; say backing=on to have it "
			"opened, or data-file=FILE",
			s->block.name, s->data_name ? s->data_name : "?");
	if (!o->data_file && !s->data_name)
		return err_set(err, EINVAL, "%s: does not name its data file; say data-file=FILE",
			       s->block.name);
	path = o->data_file ? strdup(o->data_file) : block_path_beside(s->block.name, s->data_name);
	if (!path)
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	rc = block_open_protocol(&s->data_file, path, !o->data_file, &below, err);
	if (rc)
		err_prefix(err, "data file of %s", s->block.name);
	s->data = s->data_file;
	free(path);
	return rc;
}

/* Guest data is encrypted where it lies, by host offset; compressed clusters are not. */
static int open_crypt(struct qcow2 *s, const struct block_options *o, struct err *err)
{
	struct luks_place place = {s->block.file, s->luks_offset, s->luks_len};
	const struct crypto_class *crypto;
	void *cipher;
	int rc;

	if (!range_fits(s->luks_offset, s->luks_len, s->file_size))
		return err_set(err, EINVAL, "%s: LUKS header lies behind the end of the file",
			       s->block.name);
	rc = luks_read(&s->luks, &place, err);
	if (rc)
		return rc;
	if (o->metadata_only && !o->key_file) {
		s->data = NULL;
		return 0;
	}
	rc = luks_unlock(&s->luks, &place, o, &crypto, &cipher, err);
	if (rc)
		return rc;
	s->crypt = crypt_new(s->block.name, s->data, crypto, cipher);
	if (!s->crypt)
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	s->data = s->crypt;
	return 0;
}

static void release(struct qcow2 *s)
{
	while (!list_empty(&s->frees)) {
		struct qcow2_free *f = list_first(&s->frees, struct qcow2_free, link);

		list_del(&f->link);
		free(f);
	}
	qcow2_tables_free(s);
	qcow2_packed_free(s);
	qcow2_cows_free(s);
	qcow2_loads_free(s);
	qcow2_snapshots_free(s);
	while (s->old_tables) {
		struct qcow2_old *old = s->old_tables;

		s->old_tables = old->next;
		free(old->memory);
		free(old);
	}
	free(s->extensions);
	free(s->data_name);
	s->extensions = NULL;
	s->data_name = NULL;
	crypt_free(s->crypt);
	block_close(s->data_file);
	s->data = s->data_file = s->crypt = NULL;
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->cow_lock);
	pthread_mutex_destroy(&s->load_lock);
	pthread_mutex_destroy(&s->lock);
}

static int read_all(struct qcow2 *s, const struct block_options *o, struct err *err)
{
	struct block *b = &s->block;
	int rc = qcow2_header_read(s, b->file->readonly || o->metadata_only, err);

	if (rc)
		return rc;
	geometry(s);
	s->corrupt = s->h.incompatible & QCOW2_INCOMPAT_CORRUPT;
	if (b->backing_name && (s->h.autoclear & QCOW2_AUTO_DATA_RAW) && s->external)
		return err_set(err, EINVAL, "%s: a raw data file excludes a backing file", b->name);
	s->copy_on_read = o->copy_on_read;
	s->file_size = align_up(b->file->size, s->cluster_size);
	s->cursor = 1;
	if (qcow2_packed_init(s))
		return err_set(err, ENOMEM, "%s: out of memory", b->name);
	rc = qcow2_tables_open(s, o, err);
	if (!rc)
		rc = qcow2_snapshots_read(s, err);
	s->data = s->external ? NULL : b->file;
	if (!rc && s->external)
		rc = open_external(s, o, err);
	if (!rc && s->luks_len)
		rc = open_crypt(s, o, err);
	s->plain = s->data && !s->extended && !s->external ? s->cluster_size : 0;
	if (rc || b->readonly || o->metadata_only || !(s->h.incompatible & QCOW2_INCOMPAT_DIRTY))
		return rc;
	if (!o->repair)
		return err_set(
			err, EUCLEAN,
			"%s: was not closed cleanly; repair it: bothy img check --repair all",
			b->name);
	return qcow2_repair_dirty(s, err);
}

static int qcow2_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct qcow2 *s = qcow2_of(b);
	int rc;

	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->cow_lock, NULL);
	pthread_mutex_init(&s->load_lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	list_init(&s->frees);
	list_init(&s->busy);
	list_init(&s->cows);
	list_init(&s->cow_slots);
	list_init(&s->loads);
	list_init(&s->load_slots);
	s->load_mark = QCOW2_LOAD_NONE;
	rc = read_all(s, o, err);
	if (rc)
		release(s);
	return rc;
}

static int qcow2_close(struct block *b)
{
	struct qcow2 *s = qcow2_of(b);
	int rc = 0;

	if (!b->readonly && s->writing) {
		rc = qcow2_settle(s);
		pthread_mutex_lock(&s->lock);
		if (!rc)
			qcow2_trim(s);
		pthread_mutex_unlock(&s->lock);
	}
	if (!rc && s->failed)
		rc = s->failed;
	release(s);
	return rc;
}

/* ---- status ---- */

static int qcow2_status(struct block *b, u64 offset, struct block_extent *e)
{
	struct qcow2 *s = qcow2_of(b);
	struct qcow2_map map;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = qcow2_lookup(s, offset, e->len, &map);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return rc;
	e->len = map.len;
	switch (map.type) {
	case QCOW2_UNALLOCATED:
		return block_backing_status(b, offset, e);
	case QCOW2_ZEROED:
		e->flags = BLOCK_ZERO | BLOCK_ALLOCATED;
		if (map.entry & QCOW2_OFFSET) {
			e->flags |= BLOCK_HAS_HOST;
			e->host_offset = map.host;
			e->file = b->file->name;
			e->len = min(e->len, s->cluster_size - qcow2_into_cluster(s, offset));
		}
		return 0;
	case QCOW2_NORMAL:
		e->flags = BLOCK_DATA | BLOCK_ALLOCATED | (s->luks_len ? 0 : BLOCK_HAS_HOST);
		e->host_offset = map.host;
		e->file = s->data ? s->data->name : b->name;
		return 0;
	case QCOW2_PACKED:
		e->flags = BLOCK_DATA | BLOCK_ALLOCATED | BLOCK_COMPRESSED;
		return 0;
	default:
		return -EIO;
	}
}

int qcow2_info(struct block *b, struct block_image_info *info)
{
	struct qcow2 *s = qcow2_of(b);

	info->data_file = s->data_name;
	info->cluster_size = s->cluster_size;
	info->version = s->h.version;
	info->refcount_bits = 1u << s->h.refcount_order;
	info->nsnapshots = s->h.nsnapshots;
	info->nbitmaps = s->h.autoclear & QCOW2_AUTO_BITMAPS ? s->nbitmaps : 0;
	info->lazy_refcounts = s->h.compatible & QCOW2_COMPAT_LAZY;
	info->extended_l2 = s->extended;
	info->data_file_raw = s->data_raw;
	info->dirty = s->h.incompatible & QCOW2_INCOMPAT_DIRTY;
	info->corrupt = s->h.incompatible & QCOW2_INCOMPAT_CORRUPT;
	info->compression = s->h.compression ? "zstd" : "zlib";
	if (s->luks_len)
		luks_describe(&s->luks, &info->encryption);
	return 0;
}

const struct block_class block_qcow2_class = {
	.name = "qcow2",
	.kind = BLOCK_FORMAT,
	.size = sizeof(struct qcow2),
	.probe = qcow2_probe,
	.open = qcow2_open,
	.close = qcow2_close,
	.submit = qcow2_submit,
	.io = qcow2_io,
	.status = qcow2_status,
	.resize = qcow2_resize,
	.create_keys = "size backing_file backing_fmt cluster_size compat refcount_bits "
		       "lazy_refcounts extended_l2 compression_type preallocation data_file "
		       "data_file_raw encrypt.format encrypt.key-file encrypt.cipher-alg "
		       "encrypt.hash-alg encrypt.iter-time",
	.judge = qcow2_judge,
	.create = qcow2_create,
	.preallocate = qcow2_preallocate,
	.extend = qcow2_extend,
	.info = qcow2_info,
	.check = qcow2_check,
	.snapshot_count = qcow2_snapshot_count,
	.snapshot_get = qcow2_snapshot_get,
	.snapshot_create = qcow2_snapshot_create,
	.snapshot_apply = qcow2_snapshot_apply,
	.snapshot_delete = qcow2_snapshot_delete,
	.snapshot_view = qcow2_snapshot_view,
	.make_empty = qcow2_make_empty,
	.change_backing = qcow2_change_backing,
	.measure = qcow2_measure,
};
