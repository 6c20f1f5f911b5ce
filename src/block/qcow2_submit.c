/*
 * The fast way, in the queue's thread: reads of what is mapped by tables in memory, writes in
 * place, writes that need no more than a fresh cluster each from the reserved run, and copies on
 * write (qcow2_cow.c). Everything else goes to qcow2_io() in a helper.
 */
#include <errno.h>

#include "base/iov.h"
#include "block/qcow2_int.h"

#define MAX_EXTENTS 16

struct extent {
	struct block *node; /* NULL: zeros */
	u64 pos, len;
};

/* Where unallocated space shows from. False when it is partly behind the end of the backing file.
 */
static bool backing_extent(struct qcow2 *s, u64 offset, u64 len, struct extent *e)
{
	u64 size = s->block.backing ? block_size(s->block.backing) : 0;

	*e = (struct extent){.len = len};
	if (offset >= size)
		return true;
	e->node = s->block.backing;
	e->pos = offset;
	return len <= size - offset;
}

static bool read_extent(struct qcow2 *s, u64 offset, u64 len, struct extent *e)
{
	struct qcow2_map map;

	if (!qcow2_lookup_fast(s, offset, len, &map))
		return false;
	switch (map.type) {
	case QCOW2_NORMAL:
		*e = (struct extent){.node = s->data, .pos = map.host, .len = map.len};
		return s->data;
	case QCOW2_ZEROED:
		*e = (struct extent){.len = map.len};
		return true;
	case QCOW2_UNALLOCATED:
		return backing_extent(s, offset, map.len, e) && !(e->node && s->copy_on_read);
	default:
		return false;
	}
}

static bool write_extent(struct qcow2 *s, u64 offset, u64 len, struct extent *e)
{
	struct qcow2_map map;

	if (!qcow2_lookup_fast(s, offset, len, &map) || map.type != QCOW2_NORMAL || !map.copied)
		return false;
	*e = (struct extent){.node = s->data, .pos = map.host, .len = map.len};
	return s->data;
}

/* Is `b` right behind `a` in the same place? */
static bool joins(const struct extent *a, const struct extent *b)
{
	return a->node == b->node && (!a->node || a->pos + a->len == b->pos);
}

/* Cut the request into extents; 0 when that is not possible here. */
static unsigned int cut(struct qcow2 *s, const struct block_req *req, struct extent *out)
{
	unsigned int n = 0;

	for (u64 done = 0; done < req->len;) {
		struct extent e;
		bool ok = req->op == BLOCK_READ
				  ? read_extent(s, req->pos + done, req->len - done, &e)
				  : write_extent(s, req->pos + done, req->len - done, &e);

		if (!ok)
			return 0;
		done += e.len;
		if (n && joins(&out[n - 1], &e)) {
			out[n - 1].len += e.len;
			continue;
		}
		if (n == MAX_EXTENTS)
			return 0;
		out[n++] = e;
	}
	return n;
}

/* All parts are made before the first is started, so that failing leaves nothing behind. */
static bool start_parts(struct qcow2 *s, struct block_queue *q, struct block_req *req,
			const struct extent *e, unsigned int n)
{
	struct block_req *part[MAX_EXTENTS];
	u64 skip = 0;

	if (!block_subs_available(q, n))
		return false;
	block_subs_begin(req);
	for (unsigned int i = 0; i < n; i++) {
		part[i] = e[i].node ? block_sub_new(q, req, skip, e[i].len) : NULL;
		if (e[i].node && !part[i]) {
			while (i--)
				if (part[i])
					block_sub_drop(q, part[i]);
			return false;
		}
		skip += e[i].len;
	}
	skip = 0;
	for (unsigned int i = 0; i < n; i++) {
		if (part[i])
			block_pass(q, part[i], e[i].node, e[i].pos);
		else
			iov_memset(req->iov, (size_t)req->niov, skip, 0, e[i].len);
		skip += e[i].len;
	}
	block_subs_end(q, req);
	return true;
}

/*
 * Give every unallocated cluster of the range a fresh one. Only where what was there reads as
 * zeros: a fresh cluster does too, so it makes no difference when its mapping reaches the disk
 * before the data, or what a concurrent reader of its neighbours sees.
 */
static bool map_fresh(struct qcow2 *s, u64 offset, u64 len)
{
	for (u64 at = align_down(offset, s->cluster_size); at < offset + len;
	     at += s->cluster_size) {
		struct qcow2_tab *tab = s->l2.map[qcow2_l1_index(s, at)];
		u64 index = qcow2_l2_index(s, at), entry, bitmap, host;

		if (!tab || !(s->l1[qcow2_l1_index(s, at)] & QCOW2_COPIED))
			return false;
		entry = qcow2_entry_get(s, tab, index, &bitmap);
		if (entry & QCOW2_COPIED)
			continue;
		if ((entry & ~QCOW2_ZERO) || (entry && (s->h.version < 3 || s->extended)) ||
		    !qcow2_alloc_fast(s, &host))
			return false;
		qcow2_entry_set(s, tab, index, host | QCOW2_COPIED, s->extended ? MASK(31, 0) : 0);
	}
	return true;
}

static bool allocate(struct qcow2 *s, u64 offset, u64 len)
{
	bool done;

	/* The backing file would have to be copied from; what is encrypted is never fresh. */
	if (s->external || s->crypt ||
	    (s->block.backing &&
	     align_down(offset, s->cluster_size) < block_size(s->block.backing)))
		return false;
	if (pthread_mutex_trylock(&s->lock))
		return false;
	done = __atomic_load_n(&s->writing, __ATOMIC_RELAXED) && !qcow2_cache_full(s) &&
	       !qcow2_is_busy(s, offset, offset + len) && map_fresh(s, offset, len);
	pthread_mutex_unlock(&s->lock);
	return done;
}

/*
 * What nearly every request is: inside one cluster that has a place of its own; where that lies,
 * or 0. As qcow2_lookup_fast() with all but that left out.
 */
static inline __attribute__((always_inline)) u64 lookup_simple(struct qcow2 *s,
							       const struct block_req *req)
{
	u64 pos = req->pos, in = qcow2_into_cluster(s, pos), index = qcow2_l1_index(s, pos);
	u64 l2_index = qcow2_l2_index(s, pos), entry, host, seq, good;
	struct qcow2_tab *tab;

	if (unlikely(in + req->len > s->plain || index >= qcow2_l1_entries(s)))
		return 0;
	tab = qcow2_l2_peek(s, index);
	if (unlikely(!tab || !__atomic_load_n(&tab->referenced, __ATOMIC_RELAXED)))
		return 0;
	seq = __atomic_load_n(&tab->seq, __ATOMIC_ACQUIRE);
	good = __atomic_load_n(&tab->good, __ATOMIC_RELAXED);
	entry = qcow2_tab_word(tab, l2_index * 8);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (unlikely((seq & 1) || __atomic_load_n(&tab->seq, __ATOMIC_RELAXED) != seq ||
		     qcow2_l2_peek(s, index) != tab))
		return 0;
	host = entry & QCOW2_OFFSET;
	if (unlikely((entry & (QCOW2_COMPRESSED | QCOW2_ZERO)) || !host ||
		     qcow2_into_cluster(s, host) ||
		     (req->op == BLOCK_WRITE && !(entry & QCOW2_COPIED)) ||
		     (qcow2_meta_near(s, host) && !((good >> (l2_index >> (s->l2_bits - 6))) & 1))))
		return 0;
	return host + in;
}

/* To a helper, which looks everything up again and counts itself in (qcow2_helper_enter()). */
static void defer(struct qcow2 *s, struct block_queue *q, struct block_req *req)
{
	/* Of a read-only image nothing is freed; the request may be counted in by one above. */
	if (!s->block.readonly)
		block_epoch_leave(req);
	block_defer(q, req);
}

/* Everything else. */
__attribute__((noinline)) static void go(struct qcow2 *s, struct block_queue *q,
					 struct block_req *req, bool may_load)
{
	u64 index = qcow2_l1_index(s, req->pos);
	struct extent e[MAX_EXTENTS];
	unsigned int n;

	if (unlikely(qcow2_load_marked(s, index)))
		qcow2_load_more(s, q, index);
	n = cut(s, req, e);
	if (!n && req->op == BLOCK_WRITE && allocate(s, req->pos, req->len))
		n = cut(s, req, e);
	if (n == 1 && e[0].node) {
		block_pass(q, req, e[0].node, e[0].pos);
	} else if (n == 1) {
		iov_memset(req->iov, (size_t)req->niov, 0, 0, req->len);
		block_finish(q, req, 0);
	} else if (n && start_parts(s, q, req, e, n)) {
		return;
	} else if (n || ((req->op != BLOCK_WRITE || !qcow2_cow_start(s, q, req)) &&
			 (!may_load || !qcow2_load_start(s, q, req)))) {
		defer(s, q, req);
	}
}

static void start(struct qcow2 *s, struct block_queue *q, struct block_req *req, bool may_load)
{
	u64 host = lookup_simple(s, req);

	if (likely(host))
		block_pass(q, req, s->data, host);
	else
		go(s, q, req, may_load);
}

void qcow2_start(struct qcow2 *s, struct block_queue *q, struct block_req *req)
{
	start(s, q, req, true);
}

void qcow2_start_loaded(struct qcow2 *s, struct block_queue *q, struct block_req *req)
{
	start(s, q, req, false);
}

/* Is there nothing of ours to be written? All at one moment: a flush clears meta_dirty when it
 * begins, and sets it again when it fails. False, too, when that cannot be told without waiting. */
static bool clean(struct qcow2 *s)
{
	bool yes;

	if (pthread_mutex_trylock(&s->lock))
		return false;
	yes = !s->meta_dirty && !s->flushing && !__atomic_load_n(&s->failed, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&s->lock);
	return yes;
}

/* Is it one of those that may go on at once? */
static inline bool is_transfer(const struct qcow2 *s, const struct block_req *req)
{
	return req->op == BLOCK_READ || (req->op == BLOCK_WRITE && !(req->effective & BLOCK_FUA) &&
					 __atomic_load_n(&s->writing, __ATOMIC_ACQUIRE));
}

void qcow2_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	struct qcow2 *s = qcow2_of(b);
	u64 host;

	/* Only what can free clusters needs to know who uses them. */
	if (!b->readonly && !req->active)
		block_epoch_enter(q, req);
	if (likely(is_transfer(s, req))) {
		host = lookup_simple(s, req);
		if (likely(host))
			block_pass(q, req, s->data, host);
		else
			go(s, q, req, true);
	} else if (req->op != BLOCK_FLUSH) {
		defer(s, q, req);
	} else if (b->readonly) {
		block_finish(q, req, 0);
	} else if (!s->external && clean(s)) {
		/* With no metadata to write it is the file's own affair. */
		block_pass(q, req, b->file, 0);
	} else {
		defer(s, q, req);
	}
}
