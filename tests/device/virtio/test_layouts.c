/*
 * One random life of a driver and a device, on a split and on a packed queue at once: chains of
 * every valid shape, direct and indirect, taken, taken back, given back in any order and in
 * batches, interrupts and kicks asked for and suppressed, positions that wrap, and queues that are
 * reset in the middle and come back with other sizes. Whatever the layout, the device must be given
 * the same chains and the driver the same answers, interrupts and requests for kicks.
 *
 * The seed is new each time and printed; BOTHY_SEED repeats a run, BOTHY_ROUNDS makes it longer.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/endian.h"
#include "base/hash.h"
#include "base/iov.h"
#include "virtio/virtq.h"

#define RAM	  (1 * MiB)
#define RINGS	  0x1000 /* of each layout: 0x8000 */
#define BUFFERS	  0x40000
#define MAX_SIZE  64
#define MAX_BUFS  6
#define TABLES	  0x20000 /* of each layout: 0x4000 */
#define STALE	  99
#define AVAIL_BIT (1 << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1 << VRING_PACKED_DESC_F_USED)

static struct guest_mem *mem;
static u64 seed;

static u32 roll(u32 n)
{
	seed = hash_u64(seed + 1);
	return (u32)(seed >> 20) % n;
}

static u8 *at(u64 gpa)
{
	return mem_slice(mem, gpa, 1);
}

/* ---- chains, the same for both layouts ---- */

enum { FREE, GIVEN, POPPED, DONE };

struct model_chain {
	int state;
	u32 n, written;
	bool indirect;
	struct {
		u64 addr;
		u32 len;
		bool write;
	} buf[MAX_BUFS];
};

static struct model_chain chains[MAX_SIZE];
static u32 given[4096], given_head, given_popped; /* numbers of chains in the order of giving */

static u32 in_len(const struct model_chain *c)
{
	u32 sum = 0;

	for (u32 i = 0; i < c->n; i++)
		sum += c->buf[i].write ? c->buf[i].len : 0;
	return sum;
}

/* ---- a queue of either layout, and its driver ---- */

struct side {
	bool packed;
	struct virtq vq;
	u64 base, tables;
	int signals, breaks;
	u16 size;
	/* The driver's. */
	u16 avail_idx, used_idx;	     /* split */
	u32 place, used_place;		     /* packed: ever growing */
	u16 free[MAX_SIZE], nfree;	     /* descriptors or ids */
	u32 places;			     /* of the packed ring in use */
	u32 number[MAX_SIZE];		     /* by head or id: which chain */
	u16 slots[MAX_SIZE];		     /* by chain: descriptors of the ring that it takes */
	struct virtq_chain *chain[MAX_SIZE]; /* by chain, while popped */
};

static struct side sides[2];

static void on_signal(void *ctx)
{
	((struct side *)ctx)->signals++;
}

static void on_broken(void *ctx, const char *why)
{
	((struct side *)ctx)->breaks++;
	fail_msg("%s: %s", ((struct side *)ctx)->packed ? "packed" : "split", why);
}

static const struct virtq_ops ops = {on_signal, on_broken};

static u64 desc_area(const struct side *s)
{
	return s->base;
}

static u64 driver_area(const struct side *s)
{
	return s->base + 0x1000;
}

static u64 device_area(const struct side *s)
{
	return s->base + 0x2000;
}

static void start_side(struct side *s, u32 mode, u16 size)
{
	virtq_reset(&s->vq);
	memset(at(s->base), 0, 0x4000);
	s->size = size;
	s->vq.size = size;
	s->vq.desc_gpa = desc_area(s);
	s->vq.avail_gpa = driver_area(s);
	s->vq.used_gpa = device_area(s);
	s->avail_idx = s->used_idx = 0;
	s->place = s->used_place = s->places = 0;
	s->signals = 0;
	s->nfree = size;
	for (u16 i = 0; i < size; i++)
		s->free[i] = i;
	assert_int_equal(virtq_start(&s->vq, mode | (s->packed ? VIRTQ_PACKED : 0)), 0);
}

static void put(u64 where, u64 addr, u32 len, u16 a, u16 b)
{
	u8 *p = at(where);

	store_le64(p, addr);
	store_le32(p + 8, len);
	store_le16(p + 12, a);
	store_le16(p + 14, b);
}

static u16 needs(const struct model_chain *c)
{
	return (u16)(c->indirect ? 1 : c->n);
}

static bool has_room(const struct side *s, const struct model_chain *c)
{
	if (c->n > s->size) /* nor may a table be longer: 2.7.5.3.1, 2.8.19 */
		return false;
	return s->packed ? s->nfree && s->places + needs(c) <= s->size : s->nfree >= needs(c);
}

static u16 take_free(struct side *s)
{
	u16 which = (u16)roll(s->nfree), id = s->free[which];

	s->free[which] = s->free[--s->nfree];
	return id;
}

static u16 flags_of(const struct model_chain *c, u32 i, bool next)
{
	return (c->buf[i].write ? VRING_DESC_F_WRITE : 0) | (next ? VRING_DESC_F_NEXT : 0);
}

/* An indirect table; what has no meaning there is noise. */
static void put_table(const struct side *s, const struct model_chain *c, u64 table)
{
	for (u32 i = 0; i < c->n; i++) {
		if (s->packed)
			put(table + 16 * i, c->buf[i].addr, c->buf[i].len, (u16)roll(65536),
			    flags_of(c, i, roll(2)));
		else
			put(table + 16 * i, c->buf[i].addr, c->buf[i].len,
			    flags_of(c, i, i + 1 < c->n), (u16)(i + 1));
	}
}

static void give_split(struct side *s, u32 number)
{
	const struct model_chain *c = &chains[number];
	u64 table = s->tables + 0x100 * number;
	u16 head = take_free(s), here = head;

	if (c->indirect) {
		put_table(s, c, table);
		put(desc_area(s) + 16u * head, table, 16 * c->n,
		    VRING_DESC_F_INDIRECT | (roll(2) ? VRING_DESC_F_WRITE : 0), 0);
	}
	for (u32 i = 0; i < c->n && !c->indirect; i++) {
		u16 next = i + 1 < c->n ? take_free(s) : 0;

		put(desc_area(s) + 16u * here, c->buf[i].addr, c->buf[i].len,
		    flags_of(c, i, i + 1 < c->n), next);
		here = next;
	}
	s->number[head] = number;
	store_le16(at(driver_area(s) + 4 + 2u * (s->avail_idx % s->size)), head);
	s->avail_idx++;
	store_le16(at(driver_area(s) + 2), s->avail_idx);
}

static u16 ring_bits(const struct side *s, u32 place)
{
	return place / s->size & 1 ? USED_BIT : AVAIL_BIT;
}

static void give_packed(struct side *s, u32 number)
{
	const struct model_chain *c = &chains[number];
	u64 table = s->tables + 0x100 * number;
	u16 id = take_free(s);

	for (u32 i = 0; i < needs(c); i++) {
		u32 place = s->place + needs(c) - 1 - i, k = needs(c) - 1 - i; /* the first last */
		u64 where = desc_area(s) + 16 * (place % s->size);

		if (c->indirect) {
			put_table(s, c, table);
			put(where, table, 16 * c->n, id,
			    VRING_DESC_F_INDIRECT | ring_bits(s, place));
		} else {
			put(where, c->buf[k].addr, c->buf[k].len,
			    k + 1 == c->n ? id : (u16)roll(65536),
			    flags_of(c, k, k + 1 < c->n) | ring_bits(s, place));
		}
	}
	s->number[id] = number;
	s->place += needs(c);
	s->places += needs(c);
}

/* ---- what both must do alike ---- */

static void make_chain(struct model_chain *c, bool indirect)
{
	u32 out;

	*c = (struct model_chain){.n = 1 + roll(MAX_BUFS), .indirect = indirect && roll(2)};
	out = roll(c->n + 1);
	for (u32 i = 0; i < c->n; i++) {
		c->buf[i].len = roll(4) ? 1 + roll(64) : 1 + roll(20000);
		c->buf[i].addr = BUFFERS + roll(RAM - BUFFERS - c->buf[i].len + 1);
		c->buf[i].write = i >= out;
	}
}

static void step_give(u32 mode)
{
	struct model_chain c;
	u32 number = 0;

	while (number < MAX_SIZE && chains[number].state != FREE)
		number++;
	make_chain(&c, mode & VIRTQ_INDIRECT);
	if (number == MAX_SIZE || !has_room(&sides[0], &c) || !has_room(&sides[1], &c))
		return;
	c.state = GIVEN;
	chains[number] = c;
	given[given_head++ % 4096] = number;
	for (int k = 0; k < 2; k++) {
		sides[k].slots[number] = needs(&c);
		if (sides[k].packed)
			give_packed(&sides[k], number);
		else
			give_split(&sides[k], number);
	}
}

static void check_pieces(const struct model_chain *m, const struct virtq_chain *c)
{
	u32 out = 0, in = 0;

	for (u32 i = 0; i < m->n; i++) {
		const struct iovec *v = m->buf[i].write ? &c->in[in++] : &c->out[out++];

		assert_ptr_equal(v->iov_base, at(m->buf[i].addr));
		assert_int_equal(v->iov_len, m->buf[i].len);
	}
	assert_int_equal(c->nout, out);
	assert_int_equal(c->nin, in);
	assert_int_equal(c->in_len, in_len(m));
	assert_int_equal(c->out_len, iov_length(c->out, c->nout));
}

static void step_pop(void)
{
	bool any = given_popped != given_head;
	u32 number = given[given_popped % 4096];

	for (int k = 0; k < 2; k++) {
		struct side *s = &sides[k];
		struct virtq_chain *c;

		assert_int_equal(virtq_has_avail(&s->vq), any);
		c = virtq_pop(&s->vq);
		assert_int_equal(!!c, any);
		if (!any)
			continue;
		assert_int_equal(s->number[c->id], number);
		check_pieces(&chains[number], c);
		s->chain[number] = c;
	}
	if (any) {
		chains[number].state = POPPED;
		given_popped++;
	}
}

/* The one taken last is taken back. */
static void step_unpop(void)
{
	u32 number;

	if (!given_popped)
		return;
	number = given[(given_popped - 1) % 4096];
	if (chains[number].state != POPPED)
		return;
	for (int k = 0; k < 2; k++)
		virtq_unpop(&sides[k].vq, sides[k].chain[number]);
	chains[number].state = GIVEN;
	given_popped--;
}

/* The driver's wish for the batch that comes: an interrupt when its j-th is used; or when the one
 * before it was, which has been. */
static void ask_for_signal(struct side *s, u32 mode, const u32 *batch, u32 n, u32 j, bool off)
{
	u8 *area = at(driver_area(s));
	bool stale = j == STALE;
	u32 place = s->used_place + (stale ? -1u : j > n ? j - n : 0);

	for (u32 i = 0; i < n && i < j && !stale; i++)
		place += s->slots[batch[i]];
	/* Further ahead than the ring is long it would be a place of the round before. */
	place = stale ? place : min(place, s->used_place + s->size);
	if (s->packed) {
		bool wrap = !(place / s->size & 1);

		store_le16(area, (u16)(place % s->size) | (wrap ? 0x8000 : 0));
		store_le16(area + 2, off		      ? VRING_PACKED_EVENT_FLAG_DISABLE
				     : mode & VIRTQ_EVENT_IDX ? VRING_PACKED_EVENT_FLAG_DESC
							      : VRING_PACKED_EVENT_FLAG_ENABLE);
		return;
	}
	store_le16(area, off ? VRING_AVAIL_F_NO_INTERRUPT : 0);
	store_le16(area + 4 + 2u * s->size, (u16)(s->used_idx + (stale ? -1u : j)));
}

static void give_back(struct side *s, u16 id, u32 number)
{
	u16 n = s->slots[number], here = id;

	if (s->packed) {
		s->free[s->nfree++] = id;
		s->places -= n;
		return;
	}
	for (; n; n--) {
		u16 next = load_le16(at(desc_area(s) + 16u * here + 14));

		s->free[s->nfree++] = here;
		here = next;
	}
}

/* The next answer; the number of its chain, or -1. */
static int take_used(struct side *s, u32 *len)
{
	u16 id;
	u8 *p;

	if (s->packed) {
		u32 wrap = !(s->used_place / s->size & 1);

		p = at(desc_area(s) + 16 * (s->used_place % s->size));
		if (!!(load_le16(p + 14) & AVAIL_BIT) != wrap ||
		    !!(load_le16(p + 14) & USED_BIT) != wrap)
			return -1;
		id = load_le16(p + 12);
		*len = load_le32(p + 8);
		assert_int_equal(!!(load_le16(p + 14) & VRING_DESC_F_WRITE), !!*len);
		s->used_place += s->slots[s->number[id]];
	} else {
		if (load_le16(at(device_area(s) + 2)) == s->used_idx)
			return -1;
		p = at(device_area(s) + 4 + 8u * (s->used_idx % s->size));
		id = (u16)load_le32(p);
		*len = load_le32(p + 4);
		s->used_idx++;
	}
	give_back(s, id, s->number[id]);
	return (int)s->number[id];
}

/* Which come out of a push: with IN_ORDER those that no older one holds up. */
static u32 expected_batch(u32 mode, const u32 *pushed, u32 n, u32 *batch)
{
	static u32 oldest; /* place in given[] of the first that has not come out */
	u32 count = 0;

	if (!(mode & VIRTQ_IN_ORDER)) {
		if (n)
			memcpy(batch, pushed, n * sizeof(*batch));
		return n;
	}
	if (!pushed) {
		oldest = 0;
		return 0;
	}
	while (oldest != given_popped && chains[given[oldest % 4096]].state == DONE)
		batch[count++] = given[oldest++ % 4096];
	return count;
}

static void step_push(u32 mode)
{
	u32 pushed[MAX_SIZE], batch[MAX_SIZE], n = 0, out, want = 1 + roll(4), j;
	bool off = !(mode & VIRTQ_EVENT_IDX) && roll(2), expect;

	for (u32 tries = 0; tries < 50 && n < want; tries++) {
		u32 number = roll(MAX_SIZE);

		if (chains[number].state != POPPED)
			continue;
		chains[number].state = DONE;
		chains[number].written = roll(3) ? roll(in_len(&chains[number]) + 1)
						 : in_len(&chains[number]) + roll(9);
		pushed[n++] = number;
	}
	out = n ? expected_batch(mode, pushed, n, batch) : 0;
	j = roll(6) || !sides[1].used_place ? roll(out + 2) : STALE;
	expect = out && (mode & VIRTQ_EVENT_IDX ? j < out : !off);
	for (int k = 0; k < 2; k++) {
		struct side *s = &sides[k];
		u32 len;

		ask_for_signal(s, mode, batch, out, j, off);
		s->signals = 0;
		for (u32 i = 0; i < n; i++)
			virtq_push(&s->vq, s->chain[pushed[i]], chains[pushed[i]].written);
		assert_int_equal(take_used(s, &len), -1); /* nothing before the flush */
		virtq_flush(&s->vq);
		assert_int_equal(s->signals, expect);
		for (u32 i = 0; i < out; i++) {
			const struct model_chain *c = &chains[batch[i]];

			assert_int_equal(take_used(s, &len), batch[i]);
			assert_int_equal(len, min(c->written, in_len(c)));
		}
		assert_int_equal(take_used(s, &len), -1);
	}
	for (u32 i = 0; i < out; i++)
		chains[batch[i]].state = FREE;
}

/* Kicks are asked for at what comes next, or not at all; what has come is seen. */
static void step_notify(u32 mode)
{
	bool any = given_popped != given_head;

	for (int k = 0; k < 2; k++) {
		struct side *s = &sides[k];
		u8 *area = at(device_area(s));

		virtq_notify_disable(&s->vq);
		if (s->packed)
			assert_int_equal(load_le16(area + 2), VRING_PACKED_EVENT_FLAG_DISABLE);
		else if (!(mode & VIRTQ_EVENT_IDX))
			assert_int_equal(load_le16(area), VRING_USED_F_NO_NOTIFY);
		assert_int_equal(virtq_notify_enable(&s->vq), any);
		if (!(mode & VIRTQ_EVENT_IDX))
			assert_int_equal(load_le16(area + (s->packed ? 2 : 0)), 0);
		else if (!s->packed && !any)
			assert_int_equal(load_le16(area + 4 + 8u * s->size), s->avail_idx);
		else if (s->packed && !any)
			assert_int_equal(load_le32(area),
					 (s->place % s->size) |
						 (s->place / s->size & 1 ? 0 : 0x8000) |
						 VRING_PACKED_EVENT_FLAG_DESC << 16);
	}
}

/* Saved and loaded while nothing is popped: another queue goes on. */
static void step_save(void)
{
	for (u32 i = 0; i < MAX_SIZE; i++)
		if (chains[i].state == POPPED || chains[i].state == DONE)
			return;
	for (int k = 0; k < 2; k++) {
		u32 mode = sides[k].vq.mode;
		struct virtq_saved saved;

		virtq_save(&sides[k].vq, &saved);
		virtq_reset(&sides[k].vq);
		assert_int_equal(virtq_load(&sides[k].vq, &saved), 0);
		assert_int_equal(virtq_start(&sides[k].vq, mode), 0);
	}
}

/* 2.6.1: both queues are reset, whatever is under way, and come back with other sizes. */
static void step_reset(u32 mode)
{
	memset(chains, 0, sizeof(chains));
	given_head = given_popped = 0;
	expected_batch(mode, NULL, 0, NULL);
	start_side(&sides[0], mode, (u16)(1u << roll(7)));
	start_side(&sides[1], mode, (u16)(1 + roll(MAX_SIZE)));
}

static void one_life(u32 mode, u32 steps)
{
	step_reset(mode);
	for (u32 i = 0; i < steps; i++) {
		u32 what = roll(1000);

		if (what < 400)
			step_give(mode);
		else if (what < 680)
			step_pop();
		else if (what < 730)
			step_unpop();
		else if (what < 930)
			step_push(mode);
		else if (what < 980)
			step_notify(mode);
		else if (what < 997)
			step_save();
		else
			step_reset(mode);
		if (given_head > 4000)
			step_reset(mode);
	}
}

static void layouts_agree(void **state)
{
	const char *text = getenv("BOTHY_SEED"), *more = getenv("BOTHY_ROUNDS");
	u32 rounds = more ? (u32)strtoul(more, NULL, 0) : 2;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = text ? strtoull(text, NULL, 0) : hash_u64((u64)now.tv_nsec ^ (u64)now.tv_sec << 30);
	print_message("BOTHY_SEED=0x%llx\n", (unsigned long long)seed);
	for (u32 round = 0; round < rounds; round++)
		for (u32 mode = 0; mode < 8; mode++)
			one_life((mode & 1 ? VIRTQ_EVENT_IDX : 0) |
					 (mode & 2 ? VIRTQ_INDIRECT : 0) |
					 (mode & 4 ? VIRTQ_IN_ORDER : 0),
				 10000);
}

static int open_queues(void **state)
{
	mem = mem_new();
	assert_int_equal(mem_add_ram(mem, 0, RAM, MEM_NO_THP, NULL), 0);
	for (u32 k = 0; k < 2; k++) {
		struct side *s = &sides[k];

		*s = (struct side){
			.packed = k, .base = RINGS + 0x8000 * k, .tables = TABLES + 0x4000 * k};
		assert_int_equal(
			virtq_init(&s->vq, mem, MAX_SIZE, sizeof(struct virtq_chain), &ops, s), 0);
	}
	return 0;
}

static int close_queues(void **state)
{
	virtq_release(&sides[0].vq);
	virtq_release(&sides[1].vq);
	mem_free(mem);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(layouts_agree)};

	return cmocka_run_group_tests(tests, open_queues, close_queues);
}
