/*
 * The header and its extensions. Every number in it is the image author's: each is judged here,
 * once, before anything uses it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2_int.h"

#define V2_LENGTH 72u
#define V3_LENGTH 104u

static void decode(struct qcow2_header *h, const u8 *p)
{
	*h = (struct qcow2_header){
		.version = load_be32(p + 4),
		.backing_offset = load_be64(p + 8),
		.backing_len = load_be32(p + 16),
		.cluster_bits = load_be32(p + 20),
		.size = load_be64(p + 24),
		.crypt = load_be32(p + 32),
		.l1_size = load_be32(p + 36),
		.l1_offset = load_be64(p + 40),
		.reftable_offset = load_be64(p + 48),
		.reftable_clusters = load_be32(p + 56),
		.nsnapshots = load_be32(p + 60),
		.snapshots_offset = load_be64(p + 64),
		.refcount_order = 4,
		.length = V2_LENGTH,
	};
	if (h->version < 3)
		return;
	h->incompatible = load_be64(p + 72);
	h->compatible = load_be64(p + 80);
	h->autoclear = load_be64(p + 88);
	h->refcount_order = load_be32(p + 96);
	h->length = load_be32(p + 100);
	if (h->length > 104)
		h->compression = p[104];
}

static void encode(const struct qcow2_header *h, u8 *p)
{
	store_be32(p, QCOW2_MAGIC);
	store_be32(p + 4, h->version);
	store_be64(p + 8, h->backing_offset);
	store_be32(p + 16, h->backing_len);
	store_be32(p + 20, h->cluster_bits);
	store_be64(p + 24, h->size);
	store_be32(p + 32, h->crypt);
	store_be32(p + 36, h->l1_size);
	store_be64(p + 40, h->l1_offset);
	store_be64(p + 48, h->reftable_offset);
	store_be32(p + 56, h->reftable_clusters);
	store_be32(p + 60, h->nsnapshots);
	store_be64(p + 64, h->snapshots_offset);
	if (h->version < 3)
		return;
	store_be64(p + 72, h->incompatible);
	store_be64(p + 80, h->compatible);
	store_be64(p + 88, h->autoclear);
	store_be32(p + 96, h->refcount_order);
	store_be32(p + 100, h->length);
	if (h->length > 104)
		p[104] = h->compression;
}

/* ---- judging ---- */

/* The image's own table of names may tell what the bit is: 48-byte entries of type, bit, name. */
static void name_unknown(const struct qcow2 *s, unsigned int bit, char *buf, size_t cap)
{
	const u8 *p = s->extensions, *end = p + s->extensions_len;

	snprintf(buf, cap, "incompatible feature bit %u", bit);
	while (p && end - p >= 8) {
		u32 type = load_be32(p), len = load_be32(p + 4);

		if (type == QCOW2_EXT_FEATURES)
			for (u32 i = 0; i + 48 <= len; i += 48)
				if (p[8 + i] == 0 && p[8 + i + 1] == bit)
					snprintf(buf, cap, "feature '%.46s'", p + 8 + i + 2);
		p += 8 + align_up(len, 8);
	}
	for (char *c = buf; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

static int judge_features(const struct qcow2 *s, struct err *err)
{
	u64 unknown = s->h.incompatible & ~(u64)QCOW2_INCOMPAT_KNOWN;
	char name[80];

	if (!unknown)
		return 0;
	name_unknown(s, (unsigned int)__builtin_ctzll(unknown), name, sizeof(name));
	return err_set(err, ENOTSUP, "%s: uses %s, which is not known here", s->block.name, name);
}

static int judge_basics(const struct qcow2 *s, struct err *err)
{
	const struct qcow2_header *h = &s->h;
	const char *name = s->block.name;

	if (h->version != 2 && h->version != 3)
		return err_set(err, ENOTSUP, "%s: qcow2 version %u is not supported", name,
			       h->version);
	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		return err_set(err, EINVAL, "%s: cluster size of 2^%u bytes is out of range", name,
			       h->cluster_bits);
	if (h->version >= 3 &&
	    (h->length < V3_LENGTH || h->length % 8 || h->length > BIT(h->cluster_bits)))
		return err_set(err, EINVAL, "%s: header of %u bytes is impossible", name,
			       h->length);
	if (h->crypt && h->crypt != QCOW2_CRYPT_LUKS)
		return err_set(err, ENOTSUP, "%s: is encrypted with %s, which is not supported",
			       name, h->crypt == 1 ? "AES" : "an unknown method");
	if (h->refcount_order > 6)
		return err_set(err, EINVAL, "%s: refcounts of 2^%u bits are impossible", name,
			       h->refcount_order);
	return 0;
}

/* A table of `bytes` at offset: aligned, below the limits, not on the header. */
static bool table_fits(const struct qcow2 *s, u64 offset, u64 bytes)
{
	return is_aligned(offset, BIT(s->h.cluster_bits)) && offset &&
	       range_fits(offset, bytes, QCOW2_HOST_LIMIT);
}

static int judge_tables(const struct qcow2 *s, struct err *err)
{
	const struct qcow2_header *h = &s->h;
	const char *name = s->block.name;
	bool ext = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	u64 per_l2 = BIT(h->cluster_bits) * (BIT(h->cluster_bits) / (ext ? 16 : 8));
	u64 l1_needed;

	if (ext && h->cluster_bits < 14)
		return err_set(err, EINVAL,
			       "%s: extended L2 entries need clusters of 16 KiB or more", name);
	if (h->l1_size > QCOW2_MAX_L1 / 8)
		return err_set(err, EFBIG, "%s: L1 table of %u entries is too large", name,
			       h->l1_size);
	if (h->size > INT64_MAX)
		return err_set(err, EFBIG, "%s: size %llu is impossible", name,
			       (unsigned long long)h->size);
	l1_needed = div_round_up(h->size, per_l2);
	if (h->l1_size < l1_needed)
		return err_set(err, EINVAL, "%s: L1 table is too small for the size", name);
	if (h->l1_size && !table_fits(s, h->l1_offset, h->l1_size * 8ULL))
		return err_set(err, EINVAL, "%s: L1 table lies at an impossible place", name);
	if (!h->reftable_clusters ||
	    ((u64)h->reftable_clusters << h->cluster_bits) > QCOW2_MAX_REFTABLE)
		return err_set(err, EINVAL, "%s: refcount table of %u clusters is impossible", name,
			       h->reftable_clusters);
	if (!table_fits(s, h->reftable_offset, (u64)h->reftable_clusters << h->cluster_bits))
		return err_set(err, EINVAL, "%s: refcount table lies at an impossible place", name);
	if (h->nsnapshots > QCOW2_MAX_SNAPSHOTS)
		return err_set(err, EFBIG, "%s: %u snapshots are too many", name, h->nsnapshots);
	if (h->nsnapshots && !table_fits(s, h->snapshots_offset, 40))
		return err_set(err, EINVAL, "%s: snapshot table lies at an impossible place", name);
	if (h->incompatible & QCOW2_INCOMPAT_COMPRESSION ? h->compression > 1 : h->compression != 0)
		return err_set(err, ENOTSUP, "%s: compression type %u is not known", name,
			       h->compression);
	return 0;
}

/* ---- extensions ---- */

static char *text_of(const u8 *p, u32 len)
{
	/* A NUL inside would make two names of one. */
	return memchr(p, 0, len) ? NULL : strndup((const char *)p, len);
}

static int take_bitmaps(struct qcow2 *s, const u8 *p, u32 len)
{
	if (len < 24)
		return -EINVAL;
	s->nbitmaps = load_be32(p);
	s->bitmap_dir_size = load_be64(p + 8);
	s->bitmap_dir_offset = load_be64(p + 16);
	return 0;
}

static int take_luks(struct qcow2 *s, const u8 *p, u32 len)
{
	if (s->h.crypt != QCOW2_CRYPT_LUKS)
		return 0;
	if (len != 16)
		return -EINVAL;
	s->luks_offset = load_be64(p);
	s->luks_len = load_be64(p + 8);
	return s->luks_len && s->luks_len <= QCOW2_MAX_LUKS &&
			       table_fits(s, s->luks_offset, s->luks_len)
		       ? 0
		       : -EINVAL;
}

static int take_extension(struct qcow2 *s, u32 type, const u8 *p, u32 len, struct err *err)
{
	const char *name = s->block.name;

	switch (type) {
	case QCOW2_EXT_BACKING_FORMAT:
		free(s->block.backing_format);
		s->block.backing_format = len <= 255 ? text_of(p, len) : NULL;
		return s->block.backing_format
			       ? 0
			       : err_set(err, EINVAL, "%s: impossible backing format", name);
	case QCOW2_EXT_DATA_FILE:
		free(s->data_name);
		s->data_name = len <= QCOW2_MAX_NAME ? text_of(p, len) : NULL;
		return s->data_name ? 0
				    : err_set(err, EINVAL, "%s: impossible data file name", name);
	case QCOW2_EXT_BITMAPS:
		if (take_bitmaps(s, p, len))
			return err_set(err, EINVAL, "%s: broken bitmap extension", name);
		return 0;
	case QCOW2_EXT_LUKS:
		if (take_luks(s, p, len))
			return err_set(err, EINVAL, "%s: broken LUKS extension", name);
		return 0;
	default:
		return 0;
	}
}

/* Walk the extensions in head[h.length..end); keep them as they are. */
static int read_extensions(struct qcow2 *s, const u8 *head, u64 end, struct err *err)
{
	u64 at = s->h.length, start = at;

	while (at + 8 <= end) {
		u32 type = load_be32(head + at), len = load_be32(head + at + 4);
		int rc;

		if (!type)
			break;
		if (len > end - at - 8 || align_up(len, 8) > end - at - 8)
			return err_set(err, EINVAL, "%s: header extension %#x is too long",
				       s->block.name, type);
		rc = take_extension(s, type, head + at + 8, len, err);
		if (rc)
			return rc;
		at += 8 + align_up(len, 8);
	}
	s->extensions_len = (u32)(at - start);
	s->extensions = malloc(s->extensions_len + 1);
	if (!s->extensions)
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	memcpy(s->extensions, head + start, s->extensions_len);
	return 0;
}

static int read_backing(struct qcow2 *s, const u8 *head, u64 cluster, struct err *err)
{
	const struct qcow2_header *h = &s->h;

	if (!h->backing_offset)
		return 0;
	if (h->backing_len > QCOW2_MAX_NAME || h->backing_offset < h->length ||
	    !range_fits(h->backing_offset, h->backing_len, cluster))
		return err_set(err, EINVAL, "%s: impossible backing file name", s->block.name);
	if (!h->backing_len)
		return 0;
	s->block.backing_name = text_of(head + h->backing_offset, h->backing_len);
	if (!s->block.backing_name)
		return err_set(err, EINVAL, "%s: impossible backing file name", s->block.name);
	return 0;
}

int qcow2_header_read(struct qcow2 *s, bool ignore_corrupt, struct err *err)
{
	u8 first[512], *head = NULL;
	u64 cluster, end;
	int rc = block_node_read(s->block.file, first, sizeof(first), 0);

	if (rc)
		return err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc));
	if (load_be32(first) != QCOW2_MAGIC)
		return err_set(err, EINVAL, "%s: is not a qcow2 image", s->block.name);
	decode(&s->h, first);
	rc = judge_basics(s, err);
	if (rc)
		return rc;
	cluster = BIT(s->h.cluster_bits);
	head = malloc(cluster);
	if (!head)
		return err_set(err, ENOMEM, "%s: out of memory", s->block.name);
	rc = block_node_read(s->block.file, head, cluster, 0);
	if (rc) {
		err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc));
		goto out;
	}
	end = s->h.backing_offset && s->h.backing_offset < cluster ? s->h.backing_offset : cluster;
	rc = end < s->h.length
		     ? err_set(err, EINVAL, "%s: impossible backing file name", s->block.name)
		     : read_extensions(s, head, end, err);
	if (!rc && s->h.crypt && !s->luks_len)
		rc = err_set(err, EINVAL, "%s: does not say where its LUKS header is",
			     s->block.name);
	if (!rc)
		rc = judge_features(s, err);
	if (!rc)
		rc = judge_tables(s, err);
	if (!rc)
		rc = read_backing(s, head, cluster, err);
	if (!rc && (s->h.incompatible & QCOW2_INCOMPAT_CORRUPT) && !ignore_corrupt)
		rc = err_set(err, EUCLEAN,
			     "%s: is marked corrupt; open it read-only, or repair it: bothy img "
			     "check --repair all",
			     s->block.name);
out:
	free(head);
	return rc;
}

/* ---- writing ---- */

int qcow2_header_write(struct qcow2 *s)
{
	u64 at = s->h.length, name_len = s->block.backing_name ? strlen(s->block.backing_name) : 0;
	u8 *head;
	int rc;

	if (at + s->extensions_len + 8 + name_len > s->cluster_size)
		return -ENOSPC;
	head = calloc(1, s->cluster_size);
	if (!head)
		return -ENOMEM;
	/* A longer header than we know keeps what we do not know. */
	rc = block_node_read(s->block.file, head, at, 0);
	if (rc)
		goto out;
	memcpy(head + at, s->extensions, s->extensions_len);
	at += s->extensions_len + 8; /* with the end mark, zeros */
	s->h.backing_offset = name_len ? at : 0;
	s->h.backing_len = (u32)name_len;
	if (name_len)
		memcpy(head + at, s->block.backing_name, name_len);
	encode(&s->h, head);
	rc = block_node_write(s->block.file, head,
			      min(align_up(at + name_len, 512), s->cluster_size), 0);
out:
	free(head);
	return rc;
}

int qcow2_header_features(struct qcow2 *s, u64 incompatible, u64 autoclear)
{
	u8 buf[24];
	int rc;

	if (s->h.version < 3)
		return 0;
	store_be64(buf, incompatible);
	store_be64(buf + 8, s->h.compatible);
	store_be64(buf + 16, autoclear);
	rc = block_node_write(s->block.file, buf, sizeof(buf), 72);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (rc)
		return rc;
	s->h.incompatible = incompatible;
	s->h.autoclear = autoclear;
	return 0;
}

int qcow2_begin_writing(struct qcow2 *s)
{
	/* Bitmaps would have to follow every write, and bits that we do not know might. */
	u64 keep = s->h.autoclear & QCOW2_AUTO_DATA_RAW;
	int rc = 0;

	if (__atomic_load_n(&s->writing, __ATOMIC_ACQUIRE))
		return 0;
	if (s->corrupt || __atomic_load_n(&s->failed, __ATOMIC_ACQUIRE))
		return -EIO;
	if (keep != s->h.autoclear)
		rc = qcow2_header_features(s, s->h.incompatible, keep);
	if (!rc)
		__atomic_store_n(&s->writing, true, __ATOMIC_RELEASE);
	return rc;
}

void qcow2_mark_corrupt(struct qcow2 *s, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_guest("%s: image is corrupt: %s", s->block.name, text);
	if (s->corrupt || s->block.readonly)
		return;
	s->corrupt = true;
	__atomic_store_n(&s->writing, false, __ATOMIC_RELEASE);
	qcow2_header_features(s, s->h.incompatible | QCOW2_INCOMPAT_CORRUPT, s->h.autoclear);
}
