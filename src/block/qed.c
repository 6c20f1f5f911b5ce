/*
 * QED (QEMU's docs/interop/qed_spec.txt): two levels of tables, little-endian, no refcounts. Space
 * is taken at the end of the file and never given back.
 *
 * Invariants:
 * 1. Tables are read and written through a small cache of 4 KiB blocks that is never dirty: an
 * entry is on its way to the file when set_entry() returns.
 * 2. Mappings change under `lock`, one allocating request at a time. A cluster that is mapped stays
 *    where it is, so that I/O on it needs no lock.
 * 3. Before the first allocation the header says NEED_CHECK, durably: after a crash an entry may be
 *    there whose cluster is not, which the check on open mends. With a backing file that would show
 *    wrong data, so there data is flushed before its entry is written.
 * 4. A new L2 table is durable before the L1 entry that leads to it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "block/qed_int.h"

#define HEADER_BYTES 64
#define MAX_NAME     1023

static bool qed_probe(const u8 *head)
{
	return load_le32(head) == QED_MAGIC;
}

/* ---- header ---- */

static void decode(struct qed *s, const u8 *p)
{
	s->cluster_size = load_le32(p + 4);
	s->table_clusters = load_le32(p + 8);
	s->header_clusters = load_le32(p + 12);
	s->features = load_le64(p + 16);
	s->compat = load_le64(p + 24);
	s->autoclear = load_le64(p + 32);
	s->l1 = load_le64(p + 40);
	s->block.size = load_le64(p + 48);
	s->name_offset = load_le32(p + 56);
	s->name_len = load_le32(p + 60);
}

static void encode(const struct qed *s, u8 *p)
{
	store_le32(p, QED_MAGIC);
	store_le32(p + 4, s->cluster_size);
	store_le32(p + 8, s->table_clusters);
	store_le32(p + 12, s->header_clusters);
	store_le64(p + 16, s->features);
	store_le64(p + 24, s->compat);
	store_le64(p + 32, s->autoclear);
	store_le64(p + 40, s->l1);
	store_le64(p + 48, s->block.size);
	store_le32(p + 56, s->name_offset);
	store_le32(p + 60, s->name_len);
}

static int write_header(struct qed *s)
{
	u8 head[HEADER_BYTES];
	int rc;

	encode(s, head);
	rc = block_node_write(s->block.file, head, sizeof(head), 0);
	return rc ? rc : block_node_flush(s->block.file);
}

static int set_need_check(struct qed *s, bool on)
{
	u64 old = s->features;
	int rc;

	if (!!(old & QED_NEED_CHECK) == on)
		return 0;
	s->features ^= QED_NEED_CHECK;
	rc = write_header(s);
	if (rc)
		s->features = old;
	return rc;
}

static int judge(const struct qed *s, struct err *err)
{
	const char *name = s->block.name;
	u64 nelems, most;

	if (s->features & ~(u64)QED_FEATURES)
		return err_set(err, ENOTSUP, "%s: uses QED feature bit %d, which is not known here",
			       name, __builtin_ctzll(s->features & ~(u64)QED_FEATURES));
	if (!is_power_of_2(s->cluster_size) || s->cluster_size < 4 * KiB ||
	    s->cluster_size > 64 * MiB)
		return err_set(err, EINVAL, "%s: cluster size must be a power of 2 from 4K to 64M",
			       name);
	if (!is_power_of_2(s->table_clusters) || s->table_clusters > 16)
		return err_set(err, EINVAL, "%s: table size must be 1, 2, 4, 8 or 16 clusters",
			       name);
	nelems = (u64)s->table_clusters * s->cluster_size / 8;
	if (mul_overflows(&most, nelems * nelems, (u64)s->cluster_size) || most > INT64_MAX)
		most = INT64_MAX;
	if (s->block.size % BLOCK_SECTOR || s->block.size > most)
		return err_set(
			err, EINVAL,
			"%s: the size must be a multiple of 512, and at most %llu bytes with "
			"clusters of %u",
			name, (unsigned long long)most, s->cluster_size);
	if (!s->header_clusters || !qed_table_fits(s, s->l1))
		return err_set(err, EINVAL, "%s: L1 table lies at an impossible place", name);
	return 0;
}

static int read_name(struct qed *s, struct err *err)
{
	const char *image = s->block.name;
	char *name;
	int rc;

	if (!(s->features & QED_BACKING) || !s->name_len)
		return 0;
	if (s->name_len > MAX_NAME ||
	    !range_fits(s->name_offset, s->name_len, (u64)s->header_clusters * s->cluster_size))
		return err_set(err, EINVAL, "%s: impossible backing file name", image);
	name = calloc(1, s->name_len + 1u);
	if (!name)
		return err_set(err, ENOMEM, "%s: out of memory", image);
	rc = block_node_read(s->block.file, name, s->name_len, s->name_offset);
	if (!rc && strlen(name) != s->name_len)
		rc = -EINVAL;
	if (rc) {
		free(name);
		return err_set(err, -rc, "%s: impossible backing file name", image);
	}
	s->block.backing_name = name;
	if (s->features & QED_BACKING_RAW) {
		s->block.backing_format = strdup("raw");
		if (!s->block.backing_format)
			return err_set(err, ENOMEM, "%s: out of memory", image);
	}
	return 0;
}

/* ---- tables ---- */

bool qed_table_fits(const struct qed *s, u64 offset)
{
	u64 bytes = (u64)s->table_clusters * s->cluster_size;

	return is_aligned(offset, s->cluster_size) &&
	       offset >= (u64)s->header_clusters * s->cluster_size &&
	       range_fits(offset, bytes, s->end);
}

bool qed_cluster_fits(const struct qed *s, u64 offset)
{
	return is_aligned(offset, s->cluster_size) &&
	       offset >= (u64)s->header_clusters * s->cluster_size &&
	       range_fits(offset, s->cluster_size, s->end);
}

static struct qed_block *cached(struct qed *s, u64 at)
{
	return &s->cache[(at / QED_BLOCK) % QED_CACHE];
}

int qed_entry_get(struct qed *s, u64 at, u64 *entry)
{
	struct qed_block *c = cached(s, at);
	u64 start = align_down(at, QED_BLOCK);
	int rc;

	if (c->offset != start || !c->data) {
		if (!c->data)
			c->data = malloc(QED_BLOCK);
		if (!c->data)
			return -ENOMEM;
		c->offset = 0;
		rc = block_node_read(s->block.file, c->data, QED_BLOCK, start);
		if (rc)
			return rc;
		c->offset = start;
	}
	*entry = load_le64(c->data + (at - start));
	return 0;
}

int qed_entry_set(struct qed *s, u64 at, u64 entry)
{
	struct qed_block *c = cached(s, at);
	u8 buf[8];
	int rc;

	store_le64(buf, entry);
	rc = block_node_write(s->block.file, buf, sizeof(buf), at);
	if (c->offset == align_down(at, QED_BLOCK)) {
		/* After an error nobody knows what is there: read it again. */
		if (rc)
			c->offset = 0;
		else
			store_le64(c->data + (at - c->offset), entry);
	}
	return rc;
}

static u64 nelems(const struct qed *s)
{
	return (u64)s->table_clusters * s->cluster_size / 8;
}

/* Where the entry of a guest offset lies; 0 when there is no L2 table. Locked. */
static int entry_at(struct qed *s, u64 guest, u64 *at)
{
	u64 cluster = guest / s->cluster_size, l2;
	int rc = qed_entry_get(s, s->l1 + cluster / nelems(s) * 8, &l2);

	*at = 0;
	if (rc || !l2)
		return rc;
	if (!qed_table_fits(s, l2)) {
		log_guest("%s: L1 entry leads to %#llx", s->block.name, (unsigned long long)l2);
		return -EIO;
	}
	*at = l2 + cluster % nelems(s) * 8;
	return 0;
}

/* What [guest, +len) is, as far as it is alike: QED_NONE, QED_ZERO or the host offset. Locked. */
static int lookup(struct qed *s, u64 guest, u64 *len, u64 *host)
{
	u64 in = guest % s->cluster_size, done = 0;

	while (done < *len) {
		u64 at, entry = QED_NONE;
		int rc = entry_at(s, guest + done, &at);

		if (!rc && at)
			rc = qed_entry_get(s, at, &entry);
		if (rc)
			return rc;
		if (entry > QED_ZERO && !qed_cluster_fits(s, entry)) {
			log_guest("%s: L2 entry leads to %#llx", s->block.name,
				  (unsigned long long)entry);
			return -EIO;
		}
		if (!done)
			*host = entry > QED_ZERO ? entry + in : entry;
		else if (*host > QED_ZERO ? entry != *host + done : entry != *host)
			break;
		done += s->cluster_size - (guest + done) % s->cluster_size;
	}
	*len = min(*len, done);
	return 0;
}

/* ---- reading ---- */

static int read_zeros_or_backing(struct qed *s, const struct block_io *io, u64 done, u64 len,
				 bool zero)
{
	struct block *backing = s->block.backing;
	u8 *buf;
	int rc;

	if (zero || !backing) {
		iov_memset(io->iov, (size_t)io->niov, done, 0, len);
		return 0;
	}
	/* A window on iovecs would save the copy; this is no fast path. */
	buf = malloc(len);
	if (!buf)
		return -ENOMEM;
	rc = block_read_backing(backing, &(struct iovec){buf, len}, 1, io->offset + done, len);
	if (!rc)
		iov_from_buf(io->iov, (size_t)io->niov, done, buf, len);
	free(buf);
	return rc;
}

#define WINDOW	 64
#define MAX_STEP (1 * MiB)

/* Up to what WINDOW iovecs describe of [done, +*len) at host. */
static int rw_host(struct qed *s, const struct block_io *io, u64 done, u64 *len, u64 host)
{
	struct iovec part[WINDOW];
	struct block_io below = {.op = io->op, .offset = host, .iov = part};
	int n = iov_slice(part, WINDOW, io->iov, (size_t)io->niov, done, *len);

	if (n == -E2BIG) {
		n = WINDOW;
		*len = iov_length(part, WINDOW);
	}
	if (n < 0)
		return n;
	below.niov = n;
	below.len = *len;
	return block_io(s->block.file, &below);
}

static int read_range(struct qed *s, const struct block_io *io)
{
	int rc = 0;

	for (u64 done = 0, len; done < io->len && !rc; done += len) {
		u64 host;

		len = min(io->len - done, MAX_STEP);
		pthread_mutex_lock(&s->lock);
		rc = lookup(s, io->offset + done, &len, &host);
		pthread_mutex_unlock(&s->lock);
		if (!rc && host > QED_ZERO)
			rc = rw_host(s, io, done, &len, host);
		else if (!rc)
			rc = read_zeros_or_backing(s, io, done, len, host == QED_ZERO);
	}
	return rc;
}

/* ---- writing ---- */

static int allocate(struct qed *s, u64 clusters, u64 *offset)
{
	u64 bytes = clusters * s->cluster_size;
	int rc;

	if (s->end > INT64_MAX - bytes)
		return -EFBIG;
	/* What is new at the end of a file reads as zeros; on a device it has to be made so. */
	rc = s->block.file->fixed_size && s->end + bytes > s->block.file->size ? -ENOSPC : 0;
	if (!rc)
		rc = block_node_zero(s->block.file, bytes, s->end, BLOCK_MAY_UNMAP);
	if (rc)
		return rc;
	*offset = s->end;
	s->end += bytes;
	return 0;
}

/* The L2 table for a guest offset, made if need be; where the entry lies. Locked. */
static int entry_for(struct qed *s, u64 guest, u64 *at)
{
	u64 cluster = guest / s->cluster_size, l2;
	int rc = entry_at(s, guest, at);

	if (rc || *at)
		return rc;
	rc = allocate(s, s->table_clusters, &l2);
	if (!rc)
		rc = block_node_flush(s->block.file);
	if (!rc)
		rc = qed_entry_set(s, s->l1 + cluster / nelems(s) * 8, l2);
	*at = l2 + cluster % nelems(s) * 8;
	return rc;
}

/* A cluster with old contents around the new data, written whole. */
static int copy_up(struct qed *s, const struct block_io *io, u64 done, u64 len, u64 host, bool zero)
{
	u64 in = (io->offset + done) % s->cluster_size;
	u64 start = io->offset + done - in;
	u8 *buf;
	int rc = 0;

	if (posix_memalign((void **)&buf, 4096, s->cluster_size))
		return -ENOMEM;
	memset(buf, 0, s->cluster_size);
	if (!zero && len < s->cluster_size)
		rc = block_read_backing(s->block.backing, &(struct iovec){buf, s->cluster_size}, 1,
					start, s->cluster_size);
	iov_to_buf(io->iov, (size_t)io->niov, done, buf + in, len);
	if (!rc)
		rc = block_node_write(s->block.file, buf, s->cluster_size, host);
	if (!rc)
		rc = block_node_flush(s->block.file);
	free(buf);
	return rc;
}

/* One cluster that is not there yet. Locked. */
static int write_new(struct qed *s, const struct block_io *io, u64 done, u64 *len, bool zero)
{
	u64 guest = io->offset + done, in = guest % s->cluster_size, host, at;
	int rc;

	*len = min(*len, s->cluster_size - in);
	rc = set_need_check(s, true);
	if (!rc)
		rc = entry_for(s, guest, &at);
	if (!rc)
		rc = allocate(s, 1, &host);
	if (rc)
		return rc;
	if (s->block.backing) {
		rc = copy_up(s, io, done, *len, host, zero);
	} else {
		u64 whole = *len;

		/* Fresh space is zeros around it. */
		for (u64 part = 0, n; part < whole && !rc; part += n) {
			n = whole - part;
			rc = rw_host(s, io, done + part, &n, host + in + part);
		}
	}
	return rc ? rc : qed_entry_set(s, at, host);
}

static int write_range(struct qed *s, const struct block_io *io)
{
	int rc = 0;

	for (u64 done = 0, len; done < io->len && !rc; done += len) {
		u64 host;

		len = min(io->len - done, MAX_STEP);
		pthread_mutex_lock(&s->lock);
		rc = lookup(s, io->offset + done, &len, &host);
		if (!rc && host <= QED_ZERO)
			rc = write_new(s, io, done, &len, host == QED_ZERO);
		pthread_mutex_unlock(&s->lock);
		if (!rc && host > QED_ZERO)
			rc = rw_host(s, io, done, &len, host);
	}
	return rc;
}

static int write_zero_buffer(struct qed *s, u64 offset, u64 len)
{
	struct iovec iov = {calloc(1, min(len, MAX_STEP)), 0};
	int rc = iov.iov_base ? 0 : -ENOMEM;

	for (u64 done = 0; done < len && !rc; done += iov.iov_len) {
		struct block_io io = {
			.op = BLOCK_WRITE, .offset = offset + done, .iov = &iov, .niov = 1};

		io.len = iov.iov_len = min(len - done, MAX_STEP);
		rc = write_range(s, &io);
	}
	free(iov.iov_base);
	return rc;
}

/* Whole clusters become zero clusters; what they occupied is lost space. */
static int write_zeroes(struct qed *s, const struct block_io *io)
{
	u64 end = io->offset + io->len, limit = block_size(&s->block);
	u64 first = align_up(io->offset, s->cluster_size);
	u64 last = end == limit ? align_up(end, s->cluster_size) : align_down(end, s->cluster_size);
	int rc = 0;

	if (first >= last)
		return write_zero_buffer(s, io->offset, io->len);
	if (io->offset < first)
		rc = write_zero_buffer(s, io->offset, first - io->offset);
	for (u64 guest = first; guest < last && !rc; guest += s->cluster_size) {
		u64 at, entry;

		pthread_mutex_lock(&s->lock);
		rc = set_need_check(s, true);
		if (!rc)
			rc = entry_for(s, guest, &at);
		if (!rc)
			rc = qed_entry_get(s, at, &entry);
		if (!rc && entry != QED_ZERO)
			rc = qed_entry_set(s, at, QED_ZERO);
		pthread_mutex_unlock(&s->lock);
	}
	if (!rc && end > last)
		rc = write_zero_buffer(s, last, end - last);
	return rc;
}

static int dispatch(struct qed *s, const struct block_io *io)
{
	switch (io->op) {
	case BLOCK_READ:
		return read_range(s, io);
	case BLOCK_WRITE:
		return io->flags & BLOCK_COMPRESS ? -ENOTSUP : write_range(s, io);
	case BLOCK_WRITE_ZEROES:
		return write_zeroes(s, io);
	case BLOCK_DISCARD:
		return 0;
	case BLOCK_FLUSH:
		return s->block.readonly ? 0 : block_node_flush(s->block.file);
	}
	return -EINVAL;
}

static int qed_io(struct block *b, const struct block_io *io)
{
	int rc = dispatch(qed_of(b), io);

	if (!rc && (io->flags & BLOCK_FUA))
		rc = block_node_flush(b->file);
	return rc;
}

static int qed_status(struct block *b, u64 offset, struct block_extent *e)
{
	struct qed *s = qed_of(b);
	u64 host;
	int rc;

	pthread_mutex_lock(&s->lock);
	e->len = min(e->len, 1024ULL * s->cluster_size);
	rc = lookup(s, offset, &e->len, &host);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return rc;
	if (host == QED_ZERO) {
		e->flags = BLOCK_ZERO | BLOCK_ALLOCATED;
	} else if (host != QED_NONE) {
		e->flags = BLOCK_DATA | BLOCK_ALLOCATED | BLOCK_HAS_HOST;
		e->host_offset = host;
		e->file = b->file->name;
	} else {
		return block_backing_status(b, offset, e);
	}
	return 0;
}

/* Grow only, within what the tables reach. */
static int qed_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct qed *s = qed_of(b);
	u64 old = b->size, most;
	int rc;

	if (size < old)
		return err_set(err, ENOTSUP, "%s: QED images only grow", b->name);
	if (mul_overflows(&most, nelems(s) * nelems(s), (u64)s->cluster_size))
		most = INT64_MAX;
	if (size > most || size % BLOCK_SECTOR)
		return err_set(err, EINVAL, "%s: its tables reach to %llu bytes", b->name,
			       (unsigned long long)most);
	/* A write may be about to set a bit of the same header. */
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&b->size, size, __ATOMIC_RELEASE);
	rc = write_header(s);
	if (rc)
		__atomic_store_n(&b->size, old, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&s->lock);
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}

/* ---- open and close ---- */

static void release(struct qed *s)
{
	for (size_t i = 0; i < QED_CACHE; i++)
		free(s->cache[i].data);
	pthread_mutex_destroy(&s->lock);
}

static int prepare_writing(struct qed *s, const struct block_options *o, struct err *err)
{
	struct block_check check = {0};
	int rc = 0;

	if (s->autoclear) {
		s->autoclear = 0;
		rc = write_header(s);
	}
	if (rc)
		return err_set(err, -rc, "%s: %s", s->block.name, strerror(-rc));
	if (!(s->features & QED_NEED_CHECK))
		return 0;
	if (!o->repair)
		return err_set(
			err, EUCLEAN,
			"%s: was not closed cleanly; repair it: bothy img check --repair all",
			s->block.name);
	rc = qed_check(&s->block, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, &check, err);
	if (!rc && check.errors)
		rc = err_set(err, EUCLEAN, "%s: cannot be repaired", s->block.name);
	return rc;
}

static int qed_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct qed *s = qed_of(b);
	u8 head[HEADER_BYTES];
	int rc = block_node_read(b->file, head, sizeof(head), 0);

	if (rc)
		return err_set(err, -rc, "%s: %s", b->name, strerror(-rc));
	if (!qed_probe(head))
		return err_set(err, EINVAL, "%s: is not a QED image", b->name);
	decode(s, head);
	/* A cluster that is only partly there was being written when the power went. */
	s->end = is_power_of_2(s->cluster_size) ? align_down(b->file->size, s->cluster_size) : 0;
	rc = judge(s, err);
	if (rc)
		return rc;
	pthread_mutex_init(&s->lock, NULL);
	b->block_size = b->file->block_size;
	b->discard_align = s->cluster_size;
	b->readonly = b->file->readonly;
	b->can_write_zeroes = true;
	rc = read_name(s, err);
	if (!rc && !b->readonly && !o->metadata_only)
		rc = prepare_writing(s, o, err);
	if (rc)
		release(s);
	return rc;
}

static int qed_close(struct block *b)
{
	struct qed *s = qed_of(b);
	int rc = 0;

	if (!b->readonly && (s->features & QED_NEED_CHECK) && !s->broken) {
		rc = block_node_flush(b->file);
		if (!rc)
			rc = set_need_check(s, false);
	}
	release(s);
	return rc;
}

static int qed_info(struct block *b, struct block_image_info *info)
{
	struct qed *s = qed_of(b);

	info->cluster_size = s->cluster_size;
	info->dirty = s->features & QED_NEED_CHECK;
	return 0;
}

/* ---- create ---- */

/* A new image in memory; its size is judged with the rest. */
static int plan(struct qed *s, const char *image, const struct block_create *c, struct err *err)
{
	size_t name = c->backing_file ? strlen(c->backing_file) : 0;

	s->block.name = (char *)(uintptr_t)image;
	s->block.size = c->size;
	s->cluster_size = (u32)(c->cluster_size ? min(c->cluster_size, (u64)UINT32_MAX) : 64 * KiB);
	s->table_clusters = (u32)(c->table_size ? c->table_size : 4);
	s->header_clusters = 1;
	s->l1 = s->cluster_size;
	s->end = (1ULL + s->table_clusters) * s->cluster_size;
	if (name) {
		s->features = QED_BACKING;
		s->name_offset = HEADER_BYTES;
		s->name_len = (u32)name;
		if (c->backing_fmt && !strcmp(c->backing_fmt, "raw"))
			s->features |= QED_BACKING_RAW;
	}
	if (name > MAX_NAME)
		return err_set(err, ENAMETOOLONG, "%s: name of the backing file is too long",
			       image);
	return judge(s, err);
}

static int qed_judge(const char *name, const struct block_create *c, struct err *err)
{
	struct qed *s = calloc(1, sizeof(*s));
	int rc = s ? plan(s, name, c, err) : err_set(err, ENOMEM, "%s: out of memory", name);

	free(s);
	return rc;
}

static int qed_create(struct block *file, const struct block_create *c, struct err *err)
{
	struct qed *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(err, ENOMEM, "%s: out of memory", file->name);
	s->block.file = file;
	rc = plan(s, file->name, c, err);
	if (rc)
		goto out;
	rc = block_node_zero(file, s->end, 0, BLOCK_MAY_UNMAP);
	if (!rc && s->name_len)
		rc = block_node_write(file, c->backing_file, s->name_len, HEADER_BYTES);
	if (!rc)
		rc = write_header(s);
	if (rc)
		err_set(err, -rc, "%s: %s", file->name, strerror(-rc));
out:
	free(s);
	return rc;
}

const struct block_class block_qed_class = {
	.name = "qed",
	.kind = BLOCK_FORMAT,
	.size = sizeof(struct qed),
	.probe = qed_probe,
	.open = qed_open,
	.close = qed_close,
	.io = qed_io,
	.status = qed_status,
	.resize = qed_resize,
	.create_keys = "size backing_file backing_fmt cluster_size table_size",
	.judge = qed_judge,
	.create = qed_create,
	.info = qed_info,
	.check = qed_check,
};
