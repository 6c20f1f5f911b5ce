/*
 * Compressed clusters. A few decompressed ones are kept, since a guest that reads on in small
 * pieces would have each cluster decompressed many times.
 *
 * Invariant: an entry of the cache holds what the host range of its L2 entry decompresses to; when
 * space for compressed data is handed out anew, the cache forgets everything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/log.h"
#include "block/qcow2_int.h"

#define KEPT	 8
#define CONTEXTS 16

struct qcow2_unpacked {
	pthread_mutex_t lock;
	struct compress_context *contexts[CONTEXTS]; /* that nobody uses just now */
	unsigned int ncontexts;
	u64 generation; /* times it was forgotten */
	unsigned int next;
	struct {
		u64 entry; /* 0: empty */
		u8 *data;
	} kept[KEPT];
};

static enum compress_kind kind_of(const struct qcow2 *s)
{
	return s->h.compression == 1 ? COMPRESS_ZSTD : COMPRESS_DEFLATE;
}

int qcow2_packed_init(struct qcow2 *s)
{
	s->unpacked = calloc(1, sizeof(*s->unpacked));
	if (!s->unpacked)
		return -ENOMEM;
	pthread_mutex_init(&s->unpacked->lock, NULL);
	return 0;
}

void qcow2_packed_free(struct qcow2 *s)
{
	if (!s->unpacked)
		return;
	for (int i = 0; i < KEPT; i++)
		free(s->unpacked->kept[i].data);
	while (s->unpacked->ncontexts)
		s->compress->context_free(s->unpacked->contexts[--s->unpacked->ncontexts]);
	pthread_mutex_destroy(&s->unpacked->lock);
	free(s->unpacked);
	s->unpacked = NULL;
}

void qcow2_packed_forget(struct qcow2 *s)
{
	struct qcow2_unpacked *u = s->unpacked;

	pthread_mutex_lock(&u->lock);
	for (int i = 0; i < KEPT; i++)
		u->kept[i].entry = 0;
	u->generation++;
	pthread_mutex_unlock(&u->lock);
}

/* The plug-in, loaded at the first need of it. */
static const struct compress_class *compressor(struct qcow2 *s)
{
	const struct compress_class *c = __atomic_load_n(&s->compress, __ATOMIC_ACQUIRE);
	struct err err;

	if (c)
		return c;
	c = compress_load(&err);
	if (!c)
		log_guest("%s: %s", s->block.name, err.text);
	else
		__atomic_store_n(&s->compress, c, __ATOMIC_RELEASE);
	return c;
}

int qcow2_packed_prepare(struct qcow2 *s, struct err *err)
{
	s->compress = compress_load(err);
	if (s->compress)
		return 0;
	err_prefix(err, "%s: compressed clusters", s->block.name);
	return -ENOENT;
}

/* A context of one's own for a while; NULL when out of memory. */
static struct compress_context *context_get(struct qcow2 *s, const struct compress_class *c)
{
	struct qcow2_unpacked *u = s->unpacked;
	struct compress_context *context = NULL;

	pthread_mutex_lock(&u->lock);
	if (u->ncontexts)
		context = u->contexts[--u->ncontexts];
	pthread_mutex_unlock(&u->lock);
	return context ? context : c->context_new();
}

static void context_put(struct qcow2 *s, const struct compress_class *c,
			struct compress_context *context)
{
	struct qcow2_unpacked *u = s->unpacked;

	pthread_mutex_lock(&u->lock);
	if (context && u->ncontexts < CONTEXTS) {
		u->contexts[u->ncontexts++] = context;
		context = NULL;
	}
	pthread_mutex_unlock(&u->lock);
	c->context_free(context);
}

static bool copy_kept(struct qcow2 *s, u64 entry, u64 skip, const struct iovec *iov, int niov,
		      u64 at, u64 len, u64 *generation)
{
	struct qcow2_unpacked *u = s->unpacked;
	bool found = false;

	pthread_mutex_lock(&u->lock);
	*generation = u->generation;
	for (int i = 0; i < KEPT && !found; i++) {
		if (u->kept[i].entry != entry)
			continue;
		iov_from_buf(iov, (size_t)niov, at, u->kept[i].data + skip, len);
		found = true;
	}
	pthread_mutex_unlock(&u->lock);
	return found;
}

/* Takes data over. */
static void keep(struct qcow2 *s, u64 entry, u8 *data, u64 generation)
{
	struct qcow2_unpacked *u = s->unpacked;
	u8 *old = data;

	pthread_mutex_lock(&u->lock);
	if (u->generation == generation) {
		unsigned int i = u->next++ % KEPT;

		old = u->kept[i].data;
		u->kept[i].data = data;
		u->kept[i].entry = entry;
	}
	pthread_mutex_unlock(&u->lock);
	free(old);
}

static int unpack(struct qcow2 *s, u64 entry, u8 *out)
{
	const struct compress_class *c = compressor(s);
	struct compress_context *context;
	u64 offset, len;
	u8 *packed;
	int rc;

	if (!c)
		return -EIO;
	qcow2_packed_range(s, entry, &offset, &len);
	if (offset >= __atomic_load_n(&s->file_size, __ATOMIC_RELAXED) || !offset)
		return -EIO;
	packed = malloc(len);
	context = context_get(s, c);
	rc = packed && context ? block_node_read(s->block.file, packed, len, offset) : -ENOMEM;
	if (!rc)
		rc = c->unpack(context, kind_of(s), out, s->cluster_size, packed, len);
	context_put(s, c, context);
	free(packed);
	return rc;
}

int qcow2_packed_read(struct qcow2 *s, u64 entry, u64 skip, const struct iovec *iov, int niov,
		      u64 at, u64 len)
{
	u64 generation;
	u8 *data;
	int rc;

	if (copy_kept(s, entry, skip, iov, niov, at, len, &generation))
		return 0;
	data = malloc(s->cluster_size);
	if (!data)
		return -ENOMEM;
	rc = unpack(s, entry, data);
	if (rc) {
		free(data);
		return rc;
	}
	iov_from_buf(iov, (size_t)niov, at, data + skip, len);
	keep(s, entry, data, generation);
	return 0;
}

/* ---- writing ---- */

static u64 make_entry(const struct qcow2 *s, u64 offset, u64 len)
{
	u64 sectors = div_round_up((offset & 511) + len, 512);

	return QCOW2_COMPRESSED | offset | (sectors - 1) << (62 - (s->cluster_bits - 8));
}

static int set_entry(struct qcow2 *s, u64 guest, u64 entry)
{
	u64 index = qcow2_l2_index(s, guest), old;
	struct qcow2_tab *tab;
	int rc = qcow2_l2_own(s, qcow2_l1_index(s, guest), &tab);

	if (rc)
		return rc;
	old = qcow2_entry_get(s, tab, index, NULL);
	rc = qcow2_free_entry(s, old);
	if (!rc)
		qcow2_entry_set(s, tab, index, entry, 0);
	return rc;
}

static int store(struct qcow2 *s, u64 guest, const u8 *packed, u64 len)
{
	struct qcow2_busy busy;
	u64 offset = 0;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = qcow2_begin_writing(s);
	if (rc) {
		pthread_mutex_unlock(&s->lock);
		return rc;
	}
	qcow2_busy_enter(s, &busy, guest, guest + 1);
	rc = qcow2_alloc_packed(s, len, &offset);
	qcow2_packed_forget(s);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = block_node_write(s->block.file, packed, len, offset);
	pthread_mutex_lock(&s->lock);
	if (!rc)
		rc = set_entry(s, guest, make_entry(s, offset, len));
	qcow2_busy_leave(s, &busy);
	pthread_mutex_unlock(&s->lock);
	/* After an error the space stays counted: a leak, which check finds. */
	return rc;
}

static int write_cluster(struct qcow2 *s, const struct compress_class *c,
			 struct compress_context *context, u64 guest, u8 *plain, u8 *packed)
{
	s64 n = c->pack(context, kind_of(s), packed, s->cluster_size - 1, plain, s->cluster_size);
	u64 len = min(s->cluster_size, align_up(block_size(&s->block), 512) - guest);
	struct iovec iov = {plain, len};
	struct block_io io = {
		.op = BLOCK_WRITE, .offset = guest, .len = len, .iov = &iov, .niov = 1};

	if (n == -ENOSPC)
		return qcow2_io(&s->block, &io);
	return n < 0 ? (int)n : store(s, guest, packed, (u64)n);
}

int qcow2_packed_write(struct qcow2 *s, const struct block_io *io)
{
	const struct compress_class *c = compressor(s);
	u64 end = io->offset + io->len;
	struct compress_context *context;
	u8 *plain, *packed;
	int rc = 0;

	if (s->external || s->luks_len)
		return -ENOTSUP;
	if (!c)
		return -EIO;
	if (qcow2_into_cluster(s, io->offset) ||
	    (qcow2_into_cluster(s, end) && end != block_size(&s->block)))
		return -EINVAL;
	plain = malloc(s->cluster_size);
	packed = malloc(s->cluster_size);
	context = context_get(s, c);
	if (!plain || !packed || !context)
		rc = -ENOMEM;
	for (u64 done = 0; done < io->len && !rc; done += s->cluster_size) {
		u64 n = min(io->len - done, s->cluster_size);

		iov_to_buf(io->iov, (size_t)io->niov, done, plain, n);
		memset(plain + n, 0, s->cluster_size - n);
		rc = write_cluster(s, c, context, io->offset + done, plain, packed);
	}
	context_put(s, c, context);
	free(plain);
	free(packed);
	return rc;
}
