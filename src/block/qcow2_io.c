/*
 * The slow way: any request, synchronously, in a helper or in a tool's thread.
 *
 * A change of mappings happens in this order: the range becomes busy; clusters are allocated; data
 * is written to them, complete with what is copied from the old place; the entries are set; the
 * range is free again. Until the entries are set readers see the old clusters.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "block/qcow2_int.h"

#define STEP_IOV 256

/* ---- busy ranges ---- */

bool qcow2_is_busy(const struct qcow2 *s, u64 start, u64 end)
{
	struct qcow2_busy *b;

	list_for_each_entry (b, &s->busy, link)
		if (start < b->end && b->start < end)
			return true;
	return false;
}

void qcow2_busy_enter(struct qcow2 *s, struct qcow2_busy *busy, u64 start, u64 end)
{
	start = align_down(start, s->cluster_size);
	end = align_up(end, s->cluster_size);
	while (qcow2_is_busy(s, start, end))
		pthread_cond_wait(&s->changed, &s->lock);
	busy->start = start;
	busy->end = end;
	list_add_tail(&s->busy, &busy->link);
}

void qcow2_busy_leave(struct qcow2 *s, struct qcow2_busy *busy)
{
	list_del(&busy->link);
	pthread_cond_broadcast(&s->changed);
}

/* ---- parts of a request ---- */

/* A window on the caller's iovecs. */
struct window {
	const struct iovec *iov;
	int niov;
	u64 at; /* where the part begins in them */
};

static int data_rw(struct qcow2 *s, enum block_op op, u64 pos, u64 len, const struct window *w)
{
	struct iovec part[STEP_IOV];
	u64 done = 0;

	if (!s->data)
		return -EIO;
	while (done < len) {
		struct block_io io = {.op = op, .offset = pos + done, .iov = part};
		int rc;

		io.len = len - done;
		io.niov = iov_slice(part, STEP_IOV, w->iov, (size_t)w->niov, w->at + done, io.len);
		if (io.niov == -E2BIG) {
			io.niov = STEP_IOV;
			io.len = iov_length(part, STEP_IOV);
		}
		if (io.niov < 0)
			return io.niov;
		rc = block_io(s->data, &io);
		if (rc)
			return rc;
		done += io.len;
	}
	return 0;
}

static int read_backing(struct qcow2 *s, u64 offset, u64 len, const struct window *w)
{
	struct block *backing = s->block.backing;
	u64 size = backing ? block_size(backing) : 0, done = 0;
	struct iovec part[STEP_IOV];

	while (done < len && offset + done < size) {
		u64 n = min(len - done, size - offset - done);
		int count = iov_slice(part, STEP_IOV, w->iov, (size_t)w->niov, w->at + done, n);
		int rc;

		if (count == -E2BIG) {
			count = STEP_IOV;
			n = iov_length(part, STEP_IOV);
		}
		if (count < 0)
			return count;
		rc = block_read_backing(backing, part, count, offset + done, n);
		if (rc)
			return rc;
		done += n;
	}
	iov_memset(w->iov, (size_t)w->niov, w->at + done, 0, len - done);
	return 0;
}

/* ---- reading ---- */

static int read_mapped(struct qcow2 *s, u64 offset, const struct qcow2_map *map,
		       const struct window *w)
{
	switch (map->type) {
	case QCOW2_NORMAL:
		return data_rw(s, BLOCK_READ, map->host, map->len, w);
	case QCOW2_ZEROED:
		iov_memset(w->iov, (size_t)w->niov, w->at, 0, map->len);
		return 0;
	case QCOW2_UNALLOCATED:
		return read_backing(s, offset, map->len, w);
	case QCOW2_PACKED:
		return qcow2_packed_read(s, map->entry, qcow2_into_cluster(s, offset), w->iov,
					 w->niov, w->at, map->len);
	default:
		return -EIO;
	}
}

static int read_range(struct qcow2 *s, u64 offset, u64 len, const struct iovec *iov, int niov,
		      u64 at)
{
	u64 done = 0;

	while (done < len) {
		struct window w = {.iov = iov, .niov = niov, .at = at + done};
		struct qcow2_map map;
		int rc;

		pthread_mutex_lock(&s->lock);
		rc = qcow2_lookup(s, offset + done, len - done, &map);
		pthread_mutex_unlock(&s->lock);
		if (!rc)
			rc = read_mapped(s, offset + done, &map, &w);
		if (rc)
			return rc;
		done += map.len;
	}
	return 0;
}

/* ---- writing ---- */

/* What surrounds the data, as it was: around small data in one read. */
static int read_edges(struct qcow2 *s, const struct qcow2_step *st, u8 *buf)
{
	u64 head = st->offset - st->start, tail = st->end - (st->offset + st->len);
	struct iovec iov = {buf, st->end - st->start};
	int rc = 0;

	if (head && tail && st->len <= head + tail)
		return read_range(s, st->start, iov.iov_len, &iov, 1, 0);
	if (head) {
		iov.iov_len = head;
		rc = read_range(s, st->start, head, &iov, 1, 0);
	}
	if (!rc && tail) {
		iov = (struct iovec){buf + head + st->len, tail};
		rc = read_range(s, st->offset + st->len, tail, &iov, 1, 0);
	}
	return rc;
}

/* Write the data of the step and what surrounds it, in one go. Not locked. */
static int write_step(struct qcow2 *s, const struct qcow2_step *st, const struct block_io *io,
		      u64 at)
{
	struct window w = {.iov = io->iov, .niov = io->niov, .at = at};
	struct iovec iov = {.iov_len = st->end - st->start};
	int rc;

	if (iov.iov_len == st->len)
		return data_rw(s, BLOCK_WRITE, st->host, st->len, &w);
	/* Aligned for O_DIRECT; the copy costs less than a second write. */
	if (posix_memalign(&iov.iov_base, 4096, iov.iov_len))
		return -ENOMEM;
	rc = read_edges(s, st, iov.iov_base);
	if (!rc) {
		iov_to_buf(io->iov, (size_t)io->niov, at,
			   (u8 *)iov.iov_base + (st->offset - st->start), st->len);
		w = (struct window){.iov = &iov, .niov = 1};
		rc = data_rw(s, BLOCK_WRITE, st->host, iov.iov_len, &w);
	}
	free(iov.iov_base);
	return rc;
}

static int write_one(struct qcow2 *s, const struct block_io *io, u64 done, u64 *len)
{
	struct qcow2_step st = {.offset = io->offset + done, .len = io->len - done};
	struct window w = {.iov = io->iov, .niov = io->niov, .at = done};
	struct qcow2_busy busy;
	bool in_place;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = qcow2_begin_writing(s);
	if (rc) {
		pthread_mutex_unlock(&s->lock);
		return rc;
	}
	st.len = min(st.len, QCOW2_MAX_STEP - (st.offset & (QCOW2_MAX_STEP - 1)));
	qcow2_busy_enter(s, &busy, st.offset, st.offset + st.len);
	rc = qcow2_step_plan(s, &st, &in_place);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = in_place ? data_rw(s, BLOCK_WRITE, st.host, st.len, &w)
			      : write_step(s, &st, io, done);
	pthread_mutex_lock(&s->lock);
	if (!rc && !in_place)
		rc = qcow2_step_publish(s, &st);
	else if (rc)
		qcow2_step_drop(s, &st);
	qcow2_busy_leave(s, &busy);
	pthread_mutex_unlock(&s->lock);
	*len = st.len;
	return rc;
}

static int write_range(struct qcow2 *s, const struct block_io *io)
{
	u64 done = 0;

	while (done < io->len) {
		u64 len;
		int rc = write_one(s, io, done, &len);

		if (rc)
			return rc;
		done += len;
	}
	return 0;
}

/* ---- copy on read ---- */

/*
 * Take over from the backing file what a read is about to ask it for. Done here and not by a filter
 * above, because only here a write of the guest cannot come in between.
 */
static int copy_part(struct qcow2 *s, u64 start, u64 len, u64 *done)
{
	struct qcow2_step st = {.offset = start, .len = len};
	struct iovec iov = {.iov_len = len};
	struct window w = {.iov = &iov, .niov = 1};
	struct qcow2_busy busy;
	struct qcow2_map map;
	bool in_place = true;
	int rc;

	if (posix_memalign(&iov.iov_base, 4096, len))
		return -ENOMEM;
	rc = block_read_backing(s->block.backing, &iov, 1, start, len);
	pthread_mutex_lock(&s->lock);
	if (!rc)
		rc = qcow2_begin_writing(s);
	qcow2_busy_enter(s, &busy, start, start + len);
	if (!rc)
		rc = qcow2_lookup(s, start, len, &map);
	/* Somebody may have written meanwhile: that is newer. */
	if (!rc && map.type == QCOW2_UNALLOCATED && map.len == len)
		rc = qcow2_step_plan(s, &st, &in_place);
	pthread_mutex_unlock(&s->lock);
	if (!rc && !in_place)
		rc = data_rw(s, BLOCK_WRITE, st.host, st.len, &w);
	pthread_mutex_lock(&s->lock);
	if (!rc && !in_place)
		rc = qcow2_step_publish(s, &st);
	else if (rc)
		qcow2_step_drop(s, &st);
	qcow2_busy_leave(s, &busy);
	pthread_mutex_unlock(&s->lock);
	free(iov.iov_base);
	*done = st.len;
	return rc;
}

static int copy_on_read(struct qcow2 *s, u64 offset, u64 len)
{
	u64 unit = BIT(s->sub_bits), limit = min(align_up(block_size(&s->block), unit),
						 align_up(block_size(s->block.backing), unit));
	u64 at = align_down(offset, unit), end = min(align_up(offset + len, unit), limit);
	int rc = 0;

	while (at < end && !rc) {
		struct qcow2_map map;
		u64 done;

		pthread_mutex_lock(&s->lock);
		rc = qcow2_lookup(
			s, at, min(end - at, QCOW2_MAX_STEP - (at & (QCOW2_MAX_STEP - 1))), &map);
		pthread_mutex_unlock(&s->lock);
		done = map.len;
		if (!rc && map.type == QCOW2_UNALLOCATED)
			rc = copy_part(s, at, map.len, &done);
		at += done;
	}
	return rc;
}

/* ---- zeros and discards ---- */

enum {
	CLEAR_DISCARD = 1, /* only what holds space */
	CLEAR_UNMAP = 2,   /* give space back */
	CLEAR_UNCOVER = 4, /* the backing file shows again */
};

static int zero_buffers(struct qcow2 *s, u64 offset, u64 len)
{
	struct iovec iov = {.iov_base = calloc(1, min(len, QCOW2_MAX_STEP))};
	int rc = iov.iov_base ? 0 : -ENOMEM;

	for (u64 done = 0; done < len && !rc; done += iov.iov_len) {
		struct block_io io = {
			.op = BLOCK_WRITE, .offset = offset + done, .iov = &iov, .niov = 1};

		iov.iov_len = io.len = min(len - done, QCOW2_MAX_STEP);
		rc = write_range(s, &io);
	}
	free(iov.iov_base);
	return rc;
}

/* What the entry of a whole cluster becomes; false: stays. */
static bool cleared_entry(struct qcow2 *s, u64 cluster, u32 how, u64 entry, u64 bitmap,
			  u64 *new_entry, u64 *new_bitmap)
{
	bool backed = s->block.backing && cluster < block_size(s->block.backing);
	bool keep = !(how & CLEAR_UNMAP) && qcow2_ours(s, entry);

	backed &= !(how & CLEAR_UNCOVER);

	*new_bitmap = 0;
	*new_entry = 0;
	if (how == (CLEAR_DISCARD | CLEAR_UNMAP) &&
	    !(entry & (QCOW2_OFFSET | QCOW2_COMPRESSED | QCOW2_COPIED)))
		return false; /* nothing to give back */
	if (s->extended) {
		*new_bitmap = MASK(63, 32);
		*new_entry = keep ? entry : 0;
		if (!keep && !backed)
			*new_bitmap = 0;
	} else if (keep) {
		*new_entry = entry | QCOW2_ZERO;
	} else if (backed) {
		*new_entry = QCOW2_ZERO;
	}
	return *new_entry != entry || *new_bitmap != bitmap;
}

/* Clear the entries of whole clusters. Locked, busy. */
static int clear_entries(struct qcow2 *s, u64 start, u64 end, u32 how)
{
	for (u64 c = start; c < end; c += s->cluster_size) {
		u64 entry, bitmap, new_entry, bits;
		struct qcow2_tab *tab;
		int rc = qcow2_entry_at(s, c, &entry, &bitmap);

		if (rc)
			return rc;
		if (!cleared_entry(s, c, how, entry, bitmap, &new_entry, &bits))
			continue;
		rc = qcow2_l2_own(s, qcow2_l1_index(s, c), &tab);
		if (!rc && !(new_entry & QCOW2_OFFSET))
			rc = qcow2_free_entry(s, entry);
		if (rc)
			return rc;
		qcow2_entry_set(s, tab, qcow2_l2_index(s, c), new_entry, bits);
	}
	return 0;
}

/* Where no L2 table is, and none is needed, there is nothing to clear: the end of that stretch. */
static u64 skip_absent(struct qcow2 *s, u64 at, u64 end, u32 how)
{
	u64 span = BIT(s->cluster_bits + s->l2_bits);

	if (s->block.backing && !(how & (CLEAR_DISCARD | CLEAR_UNCOVER)))
		return at;
	while (at < end && !(s->l1[qcow2_l1_index(s, at)] & QCOW2_OFFSET))
		at = align_down(at, span) + span;
	return min(at, end);
}

static int clear_clusters(struct qcow2 *s, u64 start, u64 end, u32 how)
{
	int rc = 0;

	for (u64 at = start; at < end && !rc;) {
		/* A piece at a time: others want the lock, and the cache has a limit. */
		struct qcow2_busy busy;
		bool full;
		u64 upto;

		pthread_mutex_lock(&s->lock);
		at = skip_absent(s, at, end, how);
		upto = min(end, at + 1024 * s->cluster_size);
		rc = qcow2_begin_writing(s);
		if (!rc) {
			qcow2_busy_enter(s, &busy, at, upto);
			rc = clear_entries(s, at, upto, how);
			qcow2_busy_leave(s, &busy);
		}
		full = qcow2_cache_full(s) || s->nfrees > 65536;
		pthread_mutex_unlock(&s->lock);
		at = upto;
		if (!rc && full)
			rc = qcow2_flush(s);
	}
	return rc;
}

/* Zeros that an external data file must hold itself. */
static int zero_external(struct qcow2 *s, const struct block_io *io)
{
	return zero_buffers(s, io->offset, io->len);
}

static bool range_known_zero(struct qcow2 *s, u64 start, u64 end)
{
	bool zero;

	pthread_mutex_lock(&s->lock);
	zero = qcow2_known_zero(s, start, end);
	pthread_mutex_unlock(&s->lock);
	return zero;
}

static int zero_edge(struct qcow2 *s, u64 start, u64 end)
{
	if (start >= end || range_known_zero(s, start, end))
		return 0;
	return zero_buffers(s, start, end - start);
}

static int write_zeroes(struct qcow2 *s, const struct block_io *io)
{
	u64 end = io->offset + io->len, size = block_size(&s->block);
	u64 first = align_up(io->offset, s->cluster_size);
	u64 last = end >= size ? align_up(end, s->cluster_size) : align_down(end, s->cluster_size);
	int rc;

	if (s->external)
		return zero_external(s, io);
	if (s->h.version < 3 && s->block.backing)
		return zero_buffers(s, io->offset, io->len);
	if (first >= last)
		return zero_edge(s, io->offset, end);
	rc = zero_edge(s, io->offset, first);
	/* Version 2 has no zero clusters, but unallocated ones without a backing file are. */
	if (!rc)
		rc = clear_clusters(s, first, last,
				    s->h.version < 3 || (io->flags & BLOCK_MAY_UNMAP) ? CLEAR_UNMAP
										      : 0);
	if (!rc && last < end)
		rc = zero_edge(s, last, end);
	return rc;
}

static int discard(struct qcow2 *s, const struct block_io *io)
{
	u64 end = io->offset + io->len, size = block_size(&s->block);
	u64 first = align_up(io->offset, s->cluster_size);
	u64 last = end >= size ? align_up(end, s->cluster_size) : align_down(end, s->cluster_size);

	if (io->flags & QCOW2_UNCOVER)
		return clear_clusters(s, 0, align_up(size, s->cluster_size),
				      CLEAR_UNMAP | CLEAR_UNCOVER);
	if (s->external || (s->h.version < 3 && s->block.backing) || first >= last)
		return 0;
	return clear_clusters(s, first, last, CLEAR_DISCARD | CLEAR_UNMAP);
}

/* ---- the whole ---- */

static int dispatch(struct qcow2 *s, const struct block_io *io)
{
	switch (io->op) {
	case BLOCK_READ:
		/* A copy that fails (no space) must not fail the read. */
		if (s->copy_on_read && !s->block.readonly && s->block.backing)
			copy_on_read(s, io->offset, io->len);
		return read_range(s, io->offset, io->len, io->iov, io->niov, 0);
	case BLOCK_WRITE:
		if (io->flags & BLOCK_COMPRESS)
			return qcow2_packed_write(s, io);
		return write_range(s, io);
	case BLOCK_WRITE_ZEROES:
		return write_zeroes(s, io);
	case BLOCK_DISCARD:
		return discard(s, io);
	default:
		return -EINVAL;
	}
}

int qcow2_io(struct block *b, const struct block_io *io)
{
	struct qcow2 *s = qcow2_of(b);
	bool full;
	u64 slot;
	int rc;

	if (io->op == BLOCK_FLUSH)
		return qcow2_flush(s);
	if (io->flags & QCOW2_PUBLISH)
		return qcow2_cow_publish(s, io);
	if (io->flags & QCOW2_LOAD)
		return qcow2_load(s, io);
	pthread_mutex_lock(&s->lock);
	slot = qcow2_helper_enter(s);
	pthread_mutex_unlock(&s->lock);
	rc = dispatch(s, io);
	pthread_mutex_lock(&s->lock);
	qcow2_helper_leave(s, slot);
	qcow2_release(s);
	full = qcow2_cache_full(s);
	pthread_mutex_unlock(&s->lock);
	if (!rc && ((io->flags & BLOCK_FUA) || full))
		rc = qcow2_flush(s);
	return rc;
}
