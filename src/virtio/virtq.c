/*
 * Invariants:
 * 1. Guest memory is reached through desc, avail and used (checked by virtq_start()) and through
 *    iovecs from mem_to_iov(), and in no other way. Each field is read once.
 * 2. A slot is busy from pop to push. A driver that makes a busy id available again has broken the
 *    ring; so at most `size` chains exist, and no slot is in use twice.
 * 3. Every chain ends: it has at most `size` direct descriptors plus at most `size` of one indirect
 *    table, and at most iov_max iovecs and 2^32 - 1 bytes.
 * 4. Whatever is wrong with a chain breaks the ring; it is not parsed a second time.
 * 5. The driver sees nothing of a batch before virtq_flush(), and then all of it: the used index
 *    (split) or the flags of the batch's first descriptor (packed) are stored last, with release.
 */
#include "virtio/virtq.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"

#define DESC_SIZE 16
#define AVAIL_BIT (1 << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1 << VRING_PACKED_DESC_F_USED)
#define WRAP_BIT  (1 << VRING_PACKED_EVENT_F_WRAP_CTR)

/* ---- words shared with the driver ---- */

static u16 load16(const u8 *p)
{
	return le16toh(__atomic_load_n((const u16 *)(const void *)p, __ATOMIC_RELAXED));
}

static u16 load16_acquire(const u8 *p)
{
	return le16toh(__atomic_load_n((const u16 *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void store16(u8 *p, u16 v)
{
	__atomic_store_n((u16 *)(void *)p, htole16(v), __ATOMIC_RELAXED);
}

static void store16_release(u8 *p, u16 v)
{
	__atomic_store_n((u16 *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

/* Between a store that the driver reads and a load of what it stores: sections 2.7.7, 2.8.10. */
static void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void count(u64 *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static void set_inuse(struct virtq *vq, int change)
{
	__atomic_store_n(&vq->inuse, (u16)(vq->inuse + change), __ATOMIC_RELEASE);
}

/* ---- places in memory ---- */

static u8 *split_avail_idx(const struct virtq *vq)
{
	return vq->avail + 2;
}

static u8 *split_avail_ring(const struct virtq *vq, u16 idx)
{
	return vq->avail + 4 + 2 * (idx & (vq->size - 1));
}

static u8 *split_used_event(const struct virtq *vq)
{
	return vq->avail + 4 + 2 * vq->size;
}

static u8 *split_used_elem(const struct virtq *vq, u16 idx)
{
	return vq->used + 4 + 8 * (idx & (vq->size - 1));
}

static u8 *split_avail_event(const struct virtq *vq)
{
	return vq->used + 4 + 8 * vq->size;
}

static u8 *desc_at(const struct virtq *vq, u16 i)
{
	return vq->desc + DESC_SIZE * i;
}

/* We stored into the used ring, or into the one ring of a packed queue. */
static void used_written(struct virtq *vq, const u8 *p, u64 len)
{
	mem_written(vq->mem, vq->used_gpa + (u64)(p - vq->used), len);
}

static void ring_written(struct virtq *vq, const u8 *p, u64 len)
{
	mem_written(vq->mem, vq->desc_gpa + (u64)(p - vq->desc), len);
}

/* ---- life ---- */

int virtq_init(struct virtq *vq, struct guest_mem *mem, u16 max_size, size_t slot_size,
	       const struct virtq_ops *ops, void *ctx)
{
	memset(vq, 0, sizeof(*vq));
	vq->mem = mem;
	vq->ops = ops;
	vq->ctx = ctx;
	vq->max_size = max_size;
	vq->slot_size = align_up(slot_size, 64);
	/* A chain is no longer than the queue; a few pieces more where regions of RAM meet. The
	 * memory is touched as far as chains really reach. */
	vq->iov_max = max_size + 4u;
	vq->slots = calloc(max_size, vq->slot_size);
	vq->iovs = calloc((size_t)max_size * vq->iov_max, sizeof(*vq->iovs));
	vq->table = calloc(max_size, sizeof(*vq->table));
	vq->order_mask = (u16)(round_up_pow2(max_size) - 1);
	vq->order = calloc(vq->order_mask + 1u, sizeof(*vq->order));
	virtq_reset(vq);
	if (vq->slots && vq->iovs && vq->table && vq->order)
		return 0;
	virtq_release(vq);
	return -ENOMEM;
}

void virtq_release(struct virtq *vq)
{
	free(vq->slots);
	free(vq->iovs);
	free(vq->table);
	free(vq->order);
	vq->slots = NULL;
	vq->iovs = NULL;
	vq->table = NULL;
	vq->order = NULL;
}

static void reset_positions(struct virtq *vq)
{
	vq->avail_idx = vq->used_idx = vq->cached_avail = 0;
	vq->avail_wrap = vq->used_wrap = true;
	vq->batch_idx = vq->batch_count = 0;
	vq->batch_wrap = true;
}

void virtq_reset(struct virtq *vq)
{
	virtq_stop(vq);
	vq->size = vq->max_size;
	vq->desc_gpa = vq->avail_gpa = vq->used_gpa = 0;
	reset_positions(vq);
}

static struct virtq_chain *slot_at(const struct virtq *vq, u16 id)
{
	return (struct virtq_chain *)(void *)(vq->slots + (size_t)id * vq->slot_size);
}

void virtq_stop(struct virtq *vq)
{
	vq->desc = vq->avail = vq->used = NULL;
	vq->broken = false;
	vq->notify_off = 0;
	vq->order_head = vq->order_tail = 0;
	vq->batch_count = 0;
	vq->batch_idx = vq->used_idx;
	vq->batch_wrap = vq->used_wrap;
	__atomic_store_n(&vq->inuse, 0, __ATOMIC_RELEASE);
	for (u16 i = 0; vq->slots && i < vq->max_size; i++)
		slot_at(vq, i)->busy = slot_at(vq, i)->done = false;
}

static void *map_area(struct virtq *vq, u64 gpa, u64 len, u64 align, bool write)
{
	if (!is_aligned(gpa, align))
		return NULL;
	return write ? mem_slice_rw(vq->mem, gpa, len) : mem_slice(vq->mem, gpa, len);
}

int virtq_start(struct virtq *vq, u32 mode)
{
	bool packed = mode & VIRTQ_PACKED;
	u64 size = vq->size;

	if (!size || size > vq->max_size || (!packed && !is_power_of_2(size)))
		return -EINVAL;
	if (packed && (vq->avail_idx >= size || vq->used_idx >= size))
		return -EINVAL;
	vq->mode = mode;
	vq->avail = map_area(vq, vq->avail_gpa, packed ? 4 : 6 + 2 * size, packed ? 4 : 2, false);
	vq->used = map_area(vq, vq->used_gpa, packed ? 4 : 6 + 8 * size, 4, true);
	vq->desc = map_area(vq, vq->desc_gpa, DESC_SIZE * size, 16, packed);
	if (!vq->desc || !vq->avail || !vq->used) {
		virtq_stop(vq);
		return -EFAULT;
	}
	vq->cached_avail = vq->avail_idx;
	vq->batch_idx = vq->used_idx;
	vq->batch_wrap = vq->used_wrap;
	return 0;
}

void virtq_break(struct virtq *vq, const char *why)
{
	if (vq->broken)
		return;
	vq->broken = true;
	vq->ops->broken(vq->ctx, why);
}

/* ---- saved state ---- */

void virtq_save(const struct virtq *vq, struct virtq_saved *saved)
{
	*saved = (struct virtq_saved){
		.desc = vq->desc_gpa,
		.avail = vq->avail_gpa,
		.used = vq->used_gpa,
		.size = vq->size,
		.avail_idx = vq->avail_idx,
		.used_idx = vq->used_idx,
		.avail_wrap = vq->avail_wrap,
		.used_wrap = vq->used_wrap,
	};
}

/* virtq_start() checks the rest, against memory and the mode. */
int virtq_load(struct virtq *vq, const struct virtq_saved *saved)
{
	if (!saved->size || saved->size > vq->max_size)
		return -EINVAL;
	vq->desc_gpa = saved->desc;
	vq->avail_gpa = saved->avail;
	vq->used_gpa = saved->used;
	vq->size = saved->size;
	vq->avail_idx = saved->avail_idx;
	vq->used_idx = saved->used_idx;
	vq->avail_wrap = saved->avail_wrap;
	vq->used_wrap = saved->used_wrap;
	return 0;
}

static const struct state_field saved_fields[] = {
	STATE_FIELD(struct virtq_saved, desc),
	STATE_FIELD(struct virtq_saved, avail),
	STATE_FIELD(struct virtq_saved, used),
	STATE_FIELD(struct virtq_saved, size),
	STATE_FIELD(struct virtq_saved, avail_idx),
	STATE_FIELD(struct virtq_saved, used_idx),
	STATE_FIELD(struct virtq_saved, avail_wrap),
	STATE_FIELD(struct virtq_saved, used_wrap),
	STATE_END,
};

const struct state_desc virtq_saved_state = {
	.name = "virtq",
	.version = 1,
	.fields = saved_fields,
};

/* ---- chains ---- */

/* What both layouts say of one descriptor. */
struct piece {
	u64 addr;
	u32 len;
	u16 flags;
};

static const char *add_piece(struct virtq *vq, struct virtq_chain *c, const struct piece *p)
{
	bool write = p->flags & VRING_DESC_F_WRITE;
	u32 used = (u32)c->nout + c->nin;
	u32 *sum = write ? &c->in_len : &c->out_len, total;
	int n;

	if (!p->len)
		return "an empty descriptor";
	if (!write && c->nin)
		return "a readable descriptor after a writable one";
	if (add_overflows(sum, *sum, p->len) || add_overflows(&total, c->out_len, c->in_len))
		return "a chain of more than 4 GiB";
	n = mem_to_iov(vq->mem, p->addr, p->len, write, c->out + used, vq->iov_max - used);
	if (n == -E2BIG)
		return "a chain of too many pieces";
	if (n <= 0)
		return "a buffer outside of RAM";
	if (write)
		c->nin += (u16)n;
	else
		c->nout += (u16)n;
	return NULL;
}

static void chain_begin(struct virtq *vq, struct virtq_chain *c, u16 id)
{
	c->id = id;
	c->out = vq->iovs + (size_t)id * vq->iov_max;
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	c->slots = 0;
	c->done = false;
}

/* Copy an indirect table; returns its length in entries, or 0 with the reason. */
static u32 copy_table(struct virtq *vq, const struct piece *p, const char **why)
{
	u32 n = p->len / DESC_SIZE;

	if (!(vq->mode & VIRTQ_INDIRECT))
		*why = "an indirect descriptor, which was not negotiated";
	else if (p->flags & VRING_DESC_F_NEXT)
		*why = "an indirect descriptor with a next one";
	else if (!n || p->len % DESC_SIZE)
		*why = "an indirect table of a wrong length";
	else if (n > vq->size)
		*why = "an indirect table longer than the queue";
	else if (mem_read(vq->mem, p->addr, vq->table, p->len))
		*why = "an indirect table outside of RAM";
	else
		return n;
	return 0;
}

static const char *add_split_table(struct virtq *vq, struct virtq_chain *c, const struct piece *at)
{
	const char *why = NULL;
	u32 n = copy_table(vq, at, &why), next = 0;

	for (u32 left = n; left; left--) {
		const u8 *raw = vq->table[next].raw;
		struct piece p = {load_le64(raw), load_le32(raw + 8), load_le16(raw + 12)};

		if (p.flags & VRING_DESC_F_INDIRECT)
			return "an indirect descriptor in an indirect table";
		why = add_piece(vq, c, &p);
		if (why || !(p.flags & VRING_DESC_F_NEXT))
			return why;
		next = load_le16(raw + 14);
		if (next >= n)
			return "a next descriptor outside of its indirect table";
	}
	return why ? why : "an indirect table without end";
}

/* 2.8.7: every entry of the table counts; NEXT in it has no meaning. */
static const char *add_packed_table(struct virtq *vq, struct virtq_chain *c, const struct piece *at)
{
	const char *why = NULL;
	u32 n = copy_table(vq, at, &why);

	for (u32 i = 0; i < n && !why; i++) {
		const u8 *raw = vq->table[i].raw;
		struct piece p = {load_le64(raw), load_le32(raw + 8), load_le16(raw + 14)};

		if (p.flags & VRING_DESC_F_INDIRECT)
			return "an indirect descriptor in an indirect table";
		why = add_piece(vq, c, &p);
	}
	return why;
}

static const char *split_walk(struct virtq *vq, struct virtq_chain *c, u16 head)
{
	u32 next = head;

	for (u32 left = vq->size; left; left--) {
		u8 raw[DESC_SIZE];
		struct piece p;
		const char *why;

		memcpy(raw, desc_at(vq, (u16)next), sizeof(raw));
		p = (struct piece){load_le64(raw), load_le32(raw + 8), load_le16(raw + 12)};
		if (p.flags & VRING_DESC_F_INDIRECT)
			return add_split_table(vq, c, &p);
		why = add_piece(vq, c, &p);
		if (why || !(p.flags & VRING_DESC_F_NEXT))
			return why;
		next = load_le16(raw + 14);
		if (next >= vq->size)
			return "a next descriptor outside of the table";
	}
	return "a chain without end";
}

static struct virtq_chain *took(struct virtq *vq, struct virtq_chain *c)
{
	c->in = c->out + c->nout;
	c->busy = true;
	if (vq->mode & VIRTQ_IN_ORDER) {
		vq->order[vq->order_head & vq->order_mask] = c->id;
		vq->order_head++;
	}
	set_inuse(vq, 1);
	count(&vq->requests);
	return c;
}

static struct virtq_chain *fail(struct virtq *vq, const char *why)
{
	virtq_break(vq, why);
	return NULL;
}

/* ---- split: taking ---- */

static bool split_has_avail(struct virtq *vq)
{
	u16 n;

	if (vq->cached_avail != vq->avail_idx)
		return true;
	vq->cached_avail = load16_acquire(split_avail_idx(vq));
	n = (u16)(vq->cached_avail - vq->avail_idx);
	if (n > vq->size) {
		virtq_break(vq, "an available index that jumps");
		return false;
	}
	return n;
}

static struct virtq_chain *split_pop(struct virtq *vq)
{
	struct virtq_chain *c;
	const char *why;
	u16 head;

	if (!split_has_avail(vq))
		return NULL;
	head = load16(split_avail_ring(vq, vq->avail_idx));
	if (head >= vq->size)
		return fail(vq, "a head outside of the table");
	c = slot_at(vq, head);
	if (c->busy)
		return fail(vq, "a head that is in use");
	chain_begin(vq, c, head);
	why = split_walk(vq, c, head);
	if (why)
		return fail(vq, why);
	c->slots = 1;
	vq->avail_idx++;
	return took(vq, c);
}

/* ---- packed: taking ---- */

static bool packed_is_avail(const struct virtq *vq, u16 flags)
{
	bool avail = flags & AVAIL_BIT, used = flags & USED_BIT;

	return avail == vq->avail_wrap && used != vq->avail_wrap;
}

static bool packed_has_avail(struct virtq *vq)
{
	return packed_is_avail(vq, load16_acquire(desc_at(vq, vq->avail_idx) + 14));
}

static void packed_advance(const struct virtq *vq, u16 *idx, bool *wrap, u16 n)
{
	u32 next = (u32)*idx + n;

	if (next >= vq->size) {
		next -= vq->size;
		*wrap = !*wrap;
	}
	*idx = (u16)next;
}

/*
 * The id of a chain is in its last descriptor, so it is found first; the pieces are kept in the
 * copy that an indirect table would otherwise use.
 */
static u32 packed_copy(struct virtq *vq, const char **why)
{
	u16 at = vq->avail_idx;
	bool wrap = vq->avail_wrap;

	for (u32 n = 0; n < vq->size; n++) {
		u8 *raw = vq->table[n].raw;

		memcpy(raw, desc_at(vq, at), DESC_SIZE);
		if (!(load_le16(raw + 14) & VRING_DESC_F_NEXT))
			return n + 1;
		packed_advance(vq, &at, &wrap, 1);
	}
	*why = "a chain without end";
	return 0;
}

static const char *packed_add(struct virtq *vq, struct virtq_chain *c, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		const u8 *raw = vq->table[i].raw;
		struct piece p = {load_le64(raw), load_le32(raw + 8), load_le16(raw + 14)};
		const char *why;

		/* 2.8.7: it stands last, or alone; the copy above is not needed any more then. */
		if (p.flags & VRING_DESC_F_INDIRECT)
			return add_packed_table(vq, c, &p);
		why = add_piece(vq, c, &p);
		if (why)
			return why;
	}
	return NULL;
}

static struct virtq_chain *packed_pop(struct virtq *vq)
{
	const char *why = NULL;
	struct virtq_chain *c;
	u32 n;
	u16 id;

	if (!packed_has_avail(vq))
		return NULL;
	n = packed_copy(vq, &why);
	if (!n)
		return fail(vq, why);
	id = load_le16(vq->table[n - 1].raw + 12);
	if (id >= vq->size)
		return fail(vq, "a buffer id past the size of the queue");
	c = slot_at(vq, id);
	if (c->busy)
		return fail(vq, "a buffer id that is in use");
	chain_begin(vq, c, id);
	why = packed_add(vq, c, n);
	if (why)
		return fail(vq, why);
	c->slots = (u16)n;
	packed_advance(vq, &vq->avail_idx, &vq->avail_wrap, c->slots);
	return took(vq, c);
}

/* ---- taking ---- */

static bool can_pop(const struct virtq *vq)
{
	return virtq_is_live(vq) && !__atomic_load_n(&vq->stopped, __ATOMIC_ACQUIRE);
}

struct virtq_chain *virtq_pop(struct virtq *vq)
{
	if (!can_pop(vq))
		return NULL;
	return vq->mode & VIRTQ_PACKED ? packed_pop(vq) : split_pop(vq);
}

bool virtq_has_avail(struct virtq *vq)
{
	if (!can_pop(vq))
		return false;
	return vq->mode & VIRTQ_PACKED ? packed_has_avail(vq) : split_has_avail(vq);
}

void virtq_unpop(struct virtq *vq, struct virtq_chain *c)
{
	c->busy = false;
	set_inuse(vq, -1);
	__atomic_store_n(&vq->requests, vq->requests - 1, __ATOMIC_RELAXED);
	if (vq->mode & VIRTQ_IN_ORDER)
		vq->order_head--;
	if (!(vq->mode & VIRTQ_PACKED)) {
		vq->avail_idx--;
	} else if (vq->avail_idx >= c->slots) {
		vq->avail_idx -= c->slots;
	} else {
		vq->avail_idx = (u16)(vq->avail_idx + vq->size - c->slots);
		vq->avail_wrap = !vq->avail_wrap;
	}
}

/* ---- giving back ---- */

static void split_put(struct virtq *vq, const struct virtq_chain *c)
{
	u8 *elem = split_used_elem(vq, vq->used_idx);

	store_le32(elem, c->id);
	store_le32(elem + 4, c->written);
	used_written(vq, elem, 8);
	vq->used_idx++;
}

static void packed_put(struct virtq *vq, const struct virtq_chain *c)
{
	u8 *desc = desc_at(vq, vq->used_idx);
	u16 flags = vq->used_wrap ? AVAIL_BIT | USED_BIT : 0;

	if (c->written)
		flags |= VRING_DESC_F_WRITE;
	store_le32(desc + 8, c->written);
	store16(desc + 12, c->id);
	if (!vq->batch_count)
		vq->batch_flags = flags; /* stored by the flush, after all the others */
	else
		store16_release(desc + 14, flags);
	ring_written(vq, desc, DESC_SIZE);
	packed_advance(vq, &vq->used_idx, &vq->used_wrap, c->slots);
}

static void put(struct virtq *vq, struct virtq_chain *c)
{
	if (vq->mode & VIRTQ_PACKED)
		packed_put(vq, c);
	else
		split_put(vq, c);
	vq->batch_count++;
	c->busy = c->done = false;
	set_inuse(vq, -1);
}

/* What the device stored into the chain: for the dirty log, and for engines that keep code. */
static void tell_written(struct virtq *vq, const struct virtq_chain *c, u32 len)
{
	for (u16 i = 0; i < c->nin && len; i++) {
		u32 n = (u32)min((size_t)len, c->in[i].iov_len);

		mem_written_hva(vq->mem, c->in[i].iov_base, n);
		len -= n;
	}
}

void virtq_push(struct virtq *vq, struct virtq_chain *c, u32 written)
{
	/* 2.7.8.2: never more than was there to write to. */
	c->written = min(written, c->in_len);
	tell_written(vq, c, c->written);
	if (!virtq_is_live(vq)) {
		c->busy = false;
		set_inuse(vq, -1);
		return;
	}
	if (!(vq->mode & VIRTQ_IN_ORDER)) {
		put(vq, c);
		return;
	}
	c->done = true;
	while (vq->order_tail != vq->order_head) {
		struct virtq_chain *oldest =
			slot_at(vq, vq->order[vq->order_tail & vq->order_mask]);

		if (!oldest->done)
			break;
		vq->order_tail++;
		put(vq, oldest);
	}
}

/* Does the driver's threshold lie in (from, to]? Section 2.7.7.2. */
static bool passed(u16 event, u16 to, u16 from)
{
	return (u16)(to - event - 1) < (u16)(to - from);
}

static bool split_wants_signal(const struct virtq *vq)
{
	if (vq->mode & VIRTQ_EVENT_IDX)
		return passed(load16(split_used_event(vq)), vq->used_idx, vq->batch_idx);
	return !(load16(vq->avail) & VRING_AVAIL_F_NO_INTERRUPT);
}

/* 2.8.10: the driver's area says never, always, or when a place in the ring is used. */
static bool packed_wants_signal(const struct virtq *vq)
{
	u32 area = le32toh(__atomic_load_n((u32 *)(void *)vq->avail, __ATOMIC_RELAXED));
	u16 off_wrap = (u16)area, flags = (u16)(area >> 16) & 3;
	u16 event = off_wrap & (u16)~WRAP_BIT, to = vq->used_idx, from = vq->batch_idx;

	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !(vq->mode & VIRTQ_EVENT_IDX))
		return true;
	/* Places of the round before this one count as negative. */
	if (!!(off_wrap & WRAP_BIT) != vq->used_wrap)
		event = (u16)(event - vq->size);
	if (vq->batch_wrap != vq->used_wrap)
		from = (u16)(from - vq->size);
	return passed(event, to, from);
}

static void publish(struct virtq *vq)
{
	if (vq->mode & VIRTQ_PACKED) {
		u8 *first = desc_at(vq, vq->batch_idx);

		store16_release(first + 14, vq->batch_flags);
		ring_written(vq, first + 14, 2);
	} else {
		store16_release(vq->used + 2, vq->used_idx);
		used_written(vq, vq->used + 2, 2);
	}
}

void virtq_flush(struct virtq *vq)
{
	const struct irq_route *irq;
	bool wants;

	if (!vq->batch_count || !virtq_is_live(vq))
		return;
	publish(vq);
	full_barrier();
	wants = vq->mode & VIRTQ_PACKED ? packed_wants_signal(vq) : split_wants_signal(vq);
	vq->batch_count = 0;
	vq->batch_idx = vq->used_idx;
	vq->batch_wrap = vq->used_wrap;
	if (!wants)
		return;
	count(&vq->signals);
	irq = __atomic_load_n(&vq->irq, __ATOMIC_ACQUIRE);
	if (irq)
		irq_route_signal(irq);
	else
		vq->ops->signal(vq->ctx);
}

/* ---- kicks ---- */

static void packed_set_event(struct virtq *vq, u16 off_wrap, u16 flags)
{
	__atomic_store_n((u32 *)(void *)vq->used, htole32(off_wrap | (u32)flags << 16),
			 __ATOMIC_RELAXED);
	used_written(vq, vq->used, 4);
}

static void set_avail_event(struct virtq *vq)
{
	if (vq->mode & VIRTQ_PACKED) {
		packed_set_event(vq, vq->avail_idx | (vq->avail_wrap ? WRAP_BIT : 0),
				 VRING_PACKED_EVENT_FLAG_DESC);
	} else {
		store16(split_avail_event(vq), vq->avail_idx);
		used_written(vq, split_avail_event(vq), 2);
	}
}

static void set_no_notify(struct virtq *vq, bool on)
{
	if (vq->mode & VIRTQ_PACKED) {
		packed_set_event(vq, 0,
				 on ? VRING_PACKED_EVENT_FLAG_DISABLE
				    : VRING_PACKED_EVENT_FLAG_ENABLE);
	} else {
		store16(vq->used, on ? VRING_USED_F_NO_NOTIFY : 0);
		used_written(vq, vq->used, 2);
	}
}

void virtq_notify_disable(struct virtq *vq)
{
	if (!virtq_is_live(vq) || vq->notify_off)
		return;
	vq->notify_off = 1;
	/* With EVENT_IDX a threshold that is left where it is has the same effect (split). */
	if ((vq->mode & (VIRTQ_EVENT_IDX | VIRTQ_PACKED)) != VIRTQ_EVENT_IDX)
		set_no_notify(vq, true);
}

bool virtq_notify_enable(struct virtq *vq)
{
	if (!virtq_is_live(vq))
		return false;
	vq->notify_off = 0;
	if (vq->mode & VIRTQ_EVENT_IDX)
		set_avail_event(vq);
	else
		set_no_notify(vq, false);
	full_barrier();
	return virtq_has_avail(vq);
}
