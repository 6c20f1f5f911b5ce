/*
 * The queue library alone: rings written by hand, right and wrong. Numbers of bugs are those of
 * the list of what guests have broken other monitors with (see virtq.c's invariants); sections are
 * those of Virtio 1.3.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/hash.h"
#include "base/log.h"
#include "virtio/virtq.h"

#define RAM	  (4 * MiB)
#define HOLE	  (4 * MiB) /* then RAM2 begins at 8 MiB */
#define RAM2	  (8 * MiB)
#define SIZE	  16
#define DESC	  0x1000
#define AVAIL	  0x2000
#define USED	  0x3000
#define TABLE	  0x4000
#define BUF	  0x10000
#define AVAIL_BIT (1 << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1 << VRING_PACKED_DESC_F_USED)

static struct guest_mem *mem;
static struct virtq vq;
static int signals, breaks;
static const char *reason;

static void on_signal(void *ctx)
{
	signals++;
}

static void on_broken(void *ctx, const char *why)
{
	breaks++;
	reason = why;
}

static const struct virtq_ops ops = {on_signal, on_broken};

static u8 *at(u64 gpa)
{
	return mem_slice(mem, gpa, 1);
}

static void setup_mode(u32 mode, u16 size)
{
	virtq_reset(&vq);
	memset(at(DESC), 0, BUF - DESC);
	vq.size = size;
	vq.desc_gpa = DESC;
	vq.avail_gpa = AVAIL;
	vq.used_gpa = USED;
	signals = breaks = 0;
	reason = NULL;
	assert_int_equal(virtq_start(&vq, mode), 0);
}

static int open_queue(void **state)
{
	struct err err;

	mem = mem_new();
	assert_int_equal(mem_add_ram(mem, 0, RAM, MEM_NO_THP, &err), 0);
	assert_int_equal(mem_add_ram(mem, RAM2, RAM, MEM_NO_THP, &err), 0);
	assert_int_equal(virtq_init(&vq, mem, SIZE, sizeof(struct virtq_chain), &ops, NULL), 0);
	return 0;
}

static int close_queue(void **state)
{
	virtq_release(&vq);
	mem_free(mem);
	return 0;
}

/* ---- writing rings ---- */

static void put(u64 where, u64 addr, u32 len, u16 a, u16 b)
{
	u8 *p = at(where);

	store_le64(p, addr);
	store_le32(p + 8, len);
	store_le16(p + 12, a);
	store_le16(p + 14, b);
}

/* Split: a descriptor. */
static void desc(u16 i, u64 addr, u32 len, u16 flags, u16 next)
{
	put(DESC + 16u * i, addr, len, flags, next);
}

static void make_avail(u16 slot, u16 head, u16 idx)
{
	store_le16(at(AVAIL) + 4 + 2 * (slot % SIZE), head);
	store_le16(at(AVAIL) + 2, idx);
}

/* Packed: a descriptor that is available in the first round. */
static void pdesc(u16 i, u64 addr, u32 len, u16 id, u16 flags)
{
	put(DESC + 16u * i, addr, len, id, flags | AVAIL_BIT);
}

static u32 used_id(u16 i)
{
	return load_le32(at(USED) + 4 + 8 * (i % SIZE));
}

static u32 used_len(u16 i)
{
	return load_le32(at(USED) + 8 + 8 * (i % SIZE));
}

static u16 used_idx(void)
{
	return load_le16(at(USED) + 2);
}

/* The queue is broken by the next pop, once, for a reason that has this word in it; and stays so
 * however often it is asked (bug 2: no second parse of the bad head). */
static void assert_breaks(const char *word)
{
	assert_null(virtq_pop(&vq));
	assert_int_equal(breaks, 1);
	if (!strstr(reason, word))
		fail_msg("\"%s\" instead of \"%s\"", reason, word);
	for (int i = 0; i < 5; i++)
		assert_null(virtq_pop(&vq));
	assert_int_equal(breaks, 1);
	assert_false(virtq_has_avail(&vq));
	assert_false(virtq_notify_enable(&vq));
	virtq_flush(&vq);
	assert_int_equal(signals, 0);
	assert_int_equal(virtq_inuse(&vq), 0);
}

/* ---- setting up ---- */

/* 2.6, 2.7.1, 2.8.1: sizes, alignment, and rings in RAM only. */
static void rings_are_checked(void **state)
{
	static const struct {
		u32 mode;
		u16 size;
		u64 d, a, u;
		int rc;
	} c[] = {
		{0, 16, DESC, AVAIL, USED, 0},
		{0, 1, DESC, AVAIL, USED, 0},
		{0, 0, DESC, AVAIL, USED, -EINVAL},
		{0, 12, DESC, AVAIL, USED, -EINVAL},
		{0, 32, DESC, AVAIL, USED, -EINVAL},
		{VIRTQ_PACKED, 13, DESC, AVAIL, USED, 0},
		{VIRTQ_PACKED, 17, DESC, AVAIL, USED, -EINVAL},
		{0, 16, DESC + 8, AVAIL, USED, -EFAULT},
		{0, 16, DESC, AVAIL + 1, USED, -EFAULT},
		{0, 16, DESC, AVAIL, USED + 2, -EFAULT},
		{VIRTQ_PACKED, 16, DESC, AVAIL + 2, USED, -EFAULT},
		{0, 16, HOLE, AVAIL, USED, -EFAULT},
		{0, 16, RAM - 16, AVAIL, USED, -EFAULT},
		{0, 16, DESC, RAM - 4, USED, -EFAULT},
		{0, 16, DESC, AVAIL, RAM - 8, -EFAULT},
		{0, 16, ~0ULL - 15, AVAIL, USED, -EFAULT},
		{0, 16, DESC, ~1ULL, USED, -EFAULT},
	};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		virtq_reset(&vq);
		vq.size = c[i].size;
		vq.desc_gpa = c[i].d;
		vq.avail_gpa = c[i].a;
		vq.used_gpa = c[i].u;
		if (virtq_start(&vq, c[i].mode) != c[i].rc)
			fail_msg("case %zu", i);
		assert_int_equal(virtq_is_live(&vq), !c[i].rc);
	}
}

/* ---- the list of bugs ---- */

static void avail_index_jumps(void **state) /* bug 1 */
{
	setup_mode(0, SIZE);
	desc(0, BUF, 10, 0, 0);
	make_avail(0, 0, SIZE + 1);
	assert_breaks("jumps");
	setup_mode(0, SIZE);
	make_avail(0, 0, 0xffff);
	assert_breaks("jumps");
}

static void head_is_given_twice(void **state) /* bug 1: more in use than there are */
{
	struct virtq_chain *c;

	setup_mode(0, SIZE);
	desc(3, BUF, 10, 0, 0);
	store_le16(at(AVAIL) + 4, 3);
	store_le16(at(AVAIL) + 6, 3);
	store_le16(at(AVAIL) + 2, 2);
	c = virtq_pop(&vq);
	assert_non_null(c);
	assert_null(virtq_pop(&vq));
	assert_int_equal(breaks, 1);
	assert_non_null(strstr(reason, "in use"));
	virtq_push(&vq, c, 0); /* harmless */
	assert_int_equal(used_idx(), 0);

	setup_mode(VIRTQ_PACKED, SIZE);
	pdesc(0, BUF, 10, 3, 0);
	pdesc(1, BUF, 10, 3, 0);
	c = virtq_pop(&vq);
	assert_non_null(c);
	assert_null(virtq_pop(&vq));
	assert_non_null(strstr(reason, "in use"));
}

static void chains_have_no_end(void **state) /* bug 2 */
{
	setup_mode(0, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_NEXT, 1);
	desc(1, BUF, 10, VRING_DESC_F_NEXT, 0);
	make_avail(0, 0, 1);
	assert_breaks("without end");

	setup_mode(VIRTQ_PACKED, SIZE);
	for (u16 i = 0; i < SIZE; i++)
		pdesc(i, BUF, 10, 0, VRING_DESC_F_NEXT);
	assert_breaks("without end");

	setup_mode(VIRTQ_INDIRECT, SIZE);
	desc(0, TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, BUF, 10, VRING_DESC_F_NEXT, 1);
	put(TABLE + 16, BUF, 10, VRING_DESC_F_NEXT, 0);
	make_avail(0, 0, 1);
	assert_breaks("without end");
}

static void indices_out_of_range(void **state) /* bug 3 */
{
	setup_mode(0, SIZE);
	make_avail(0, SIZE, 1);
	assert_breaks("head outside");
	setup_mode(0, SIZE);
	make_avail(0, 0xffff, 1);
	assert_breaks("head outside");
	setup_mode(0, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_NEXT, SIZE);
	make_avail(0, 0, 1);
	assert_breaks("next descriptor outside");
	setup_mode(VIRTQ_INDIRECT, SIZE);
	desc(0, TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, BUF, 10, VRING_DESC_F_NEXT, 2);
	make_avail(0, 0, 1);
	assert_breaks("next descriptor outside of its");
	setup_mode(VIRTQ_PACKED, SIZE);
	pdesc(0, BUF, 10, SIZE, 0);
	assert_breaks("buffer id past");
}

static void buffers_out_of_memory(void **state) /* bugs 4 and 12 */
{
	static const struct {
		u64 addr;
		u32 len;
		const char *word;
	} c[] = {
		{BUF, 0, "empty"},
		{RAM - 4, 8, "outside of RAM"},
		{HOLE, 4, "outside of RAM"},
		{~0ULL, 2, "outside of RAM"},
		{~0ULL - 3, 8, "outside of RAM"},
		{RAM2 - 1, 2, "outside of RAM"},
		{0, 0xffffffff, "outside of RAM"},
		{RAM2 + RAM, 1, "outside of RAM"},
		{0xfee00000, 4, "outside of RAM"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++)
		for (u16 flags = 0; flags <= VRING_DESC_F_WRITE; flags += VRING_DESC_F_WRITE) {
			setup_mode(0, SIZE);
			desc(5, c[i].addr, c[i].len, flags, 0);
			make_avail(0, 5, 1);
			assert_breaks(c[i].word);
			setup_mode(VIRTQ_PACKED, SIZE);
			pdesc(0, c[i].addr, c[i].len, 5, flags);
			assert_breaks(c[i].word);
		}
}

static void sums_are_bounded(void **state) /* bug 4: 2.7.5.2, 2^32 bytes */
{
	struct guest_mem *big = mem_new();
	struct err err;

	assert_int_equal(mem_add_ram(big, 0, 3 * GiB, MEM_NO_THP, &err), 0);
	setup_mode(0, SIZE);
	vq.mem = big;
	desc(0, 0, 0x80000000, VRING_DESC_F_NEXT, 1);
	desc(1, 0, 0x7fffffff, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	desc(2, 0, 1, VRING_DESC_F_WRITE, 0);
	make_avail(0, 0, 1);
	assert_breaks("4 GiB");
	vq.mem = mem;
	mem_free(big);
}

static void indirect_tables_are_checked(void **state) /* bug 5: 2.7.5.3 */
{
	static const struct {
		u64 addr;
		u32 len;
		u16 flags;
		const char *word;
	} c[] = {
		{TABLE, 0, 0, "length"},
		{TABLE, 15, 0, "length"},
		{TABLE, 17, 0, "length"},
		{TABLE, 16 * (SIZE + 1), 0, "longer"},
		{TABLE, 0xfffffff0, 0, "longer"},
		{HOLE, 16, 0, "table outside"},
		{RAM - 16, 32, 0, "table outside"},
		{TABLE, 32, VRING_DESC_F_NEXT, "with a next"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		setup_mode(VIRTQ_INDIRECT, SIZE);
		desc(0, c[i].addr, c[i].len, VRING_DESC_F_INDIRECT | c[i].flags, 1);
		desc(1, BUF, 10, 0, 0);
		make_avail(0, 0, 1);
		assert_breaks(c[i].word);
		if (c[i].flags)
			continue;
		setup_mode(VIRTQ_INDIRECT | VIRTQ_PACKED, SIZE);
		pdesc(0, c[i].addr, c[i].len, 0, VRING_DESC_F_INDIRECT);
		assert_breaks(c[i].word);
	}
	setup_mode(VIRTQ_INDIRECT, SIZE); /* nested */
	desc(0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	make_avail(0, 0, 1);
	assert_breaks("in an indirect");
	setup_mode(VIRTQ_INDIRECT | VIRTQ_PACKED, SIZE);
	pdesc(0, TABLE, 16, 0, VRING_DESC_F_INDIRECT);
	put(TABLE, TABLE, 16, 0, VRING_DESC_F_INDIRECT);
	assert_breaks("in an indirect");
	setup_mode(0, SIZE); /* not negotiated */
	desc(0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	make_avail(0, 0, 1);
	assert_breaks("not negotiated");
}

static void readable_after_writable(void **state) /* bug 6: 2.7.4.2 */
{
	setup_mode(0, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	desc(1, BUF, 10, 0, 0);
	make_avail(0, 0, 1);
	assert_breaks("readable descriptor after");
}

static void table_is_copied_once(void **state) /* bug 7 */
{
	struct virtq_chain *c;

	setup_mode(VIRTQ_INDIRECT, SIZE);
	desc(0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, BUF, 10, 0, 0);
	make_avail(0, 0, 1);
	c = virtq_pop(&vq);
	assert_non_null(c);
	/* Whatever changes now, the chain is what it was. */
	memset(at(TABLE), 0xff, 16);
	memset(at(DESC), 0xff, 16 * SIZE);
	assert_int_equal(c->nout, 1);
	assert_ptr_equal(c->out[0].iov_base, at(BUF));
	assert_int_equal(c->out_len, 10);
	virtq_complete(&vq, c, 0);
	assert_int_equal(used_idx(), 1);
	assert_int_equal(used_id(0), 0);
}

/* A device that finds two things wrong tells of one. */
static void breaking_is_told_once(void **state)
{
	setup_mode(0, SIZE);
	virtq_break(&vq, "first");
	virtq_break(&vq, "second");
	assert_int_equal(breaks, 1);
	assert_string_equal(reason, "first");
	assert_null(virtq_pop(&vq));
	/* And what was pushed before stays unseen. */
	setup_mode(0, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_WRITE, 0);
	make_avail(0, 0, 1);
	virtq_push(&vq, virtq_pop(&vq), 10);
	virtq_break(&vq, "in between");
	virtq_flush(&vq);
	assert_int_equal(used_idx(), 0);
	assert_int_equal(signals, 0);
}

static void length_is_not_overstated(void **state) /* bug 10: 2.7.8.2 */
{
	struct virtq_chain *c;

	setup_mode(0, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_WRITE, 0);
	make_avail(0, 0, 1);
	c = virtq_pop(&vq);
	virtq_complete(&vq, c, 1000);
	assert_int_equal(used_len(0), 10);
}

static void pushes_after_stop_go_nowhere(void **state) /* bug 11 */
{
	struct virtq_chain *c;

	setup_mode(0, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_WRITE, 0);
	make_avail(0, 0, 1);
	c = virtq_pop(&vq);
	virtq_push(&vq, c, 10);
	virtq_stop(&vq);
	virtq_flush(&vq);
	assert_int_equal(used_idx(), 0);
	assert_int_equal(signals, 0);
	assert_null(virtq_pop(&vq));
}

/* ---- what must work ---- */

/* 2.7.5.3.2: WRITE on the descriptor that points to the table has no meaning; direct descriptors
 * may stand before it. 2.7.4.2: buffers over the end of a region of RAM are in pieces. */
static void legal_chains_are_taken(void **state)
{
	struct virtq_chain *c;

	setup_mode(VIRTQ_INDIRECT, SIZE);
	desc(0, BUF, 10, VRING_DESC_F_NEXT, 7);
	desc(7, TABLE, 48, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0);
	put(TABLE, BUF + 100, 20, VRING_DESC_F_NEXT, 2);
	put(TABLE + 32, BUF + 200, 30, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	put(TABLE + 16, BUF + 300, 40, VRING_DESC_F_WRITE, 0);
	make_avail(0, 0, 1);
	c = virtq_pop(&vq);
	assert_non_null(c);
	assert_int_equal(c->nout, 2);
	assert_int_equal(c->nin, 2);
	assert_int_equal(c->out_len, 30);
	assert_int_equal(c->in_len, 70);
	assert_ptr_equal(c->in[1].iov_base, at(BUF + 300));
	assert_null(virtq_pop(&vq));
	assert_int_equal(breaks, 0);
	/* 2.8.7: packed, WRITE has no meaning there either, nor NEXT in the table. */
	setup_mode(VIRTQ_INDIRECT | VIRTQ_PACKED, SIZE);
	put(TABLE, BUF, 10, 99, VRING_DESC_F_NEXT);
	put(TABLE + 16, BUF + 100, 20, 98, VRING_DESC_F_WRITE);
	pdesc(0, TABLE, 32, 5, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE);
	c = virtq_pop(&vq);
	assert_non_null(c);
	assert_int_equal(c->id, 5);
	assert_int_equal(c->out_len, 10);
	assert_int_equal(c->in_len, 20);
	assert_null(virtq_pop(&vq));
	assert_int_equal(breaks, 0);
}

/* 2.7.7.2: all index differences around the wrap of 16 bits. */
static void event_index_decides(void **state)
{
	static const struct {
		u16 from, event;
		u16 n;
		bool signal;
	} c[] = {
		{0, 0, 1, true},	   {0, 1, 1, false},	  {0, 1, 2, true},
		{0, 0xffff, 1, false},	   {5, 4, 3, false},	  {5, 5, 3, true},
		{5, 7, 3, true},	   {5, 8, 3, false},	  {0xffff, 0xffff, 1, true},
		{0xfffe, 0, 3, true},	   {0xfffe, 1, 3, false}, {0xfffe, 0xfffd, 3, false},
		{0x7ffe, 0x8000, 3, true},
	};

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		setup_mode(0, SIZE);
		virtq_stop(&vq);
		vq.avail_idx = vq.used_idx = c[i].from;
		assert_int_equal(virtq_start(&vq, VIRTQ_EVENT_IDX), 0);
		store_le16(at(AVAIL), VRING_AVAIL_F_NO_INTERRUPT); /* ignored then */
		store_le16(at(AVAIL) + 4 + 2 * SIZE, c[i].event);
		for (u16 k = 0; k < c[i].n; k++) {
			desc(k, BUF, 1, 0, 0);
			store_le16(at(AVAIL) + 4 + 2 * ((u16)(c[i].from + k) % SIZE), k);
		}
		store_le16(at(AVAIL) + 2, (u16)(c[i].from + c[i].n));
		for (u16 k = 0; k < c[i].n; k++)
			virtq_push(&vq, virtq_pop(&vq), 0);
		assert_int_equal(used_idx(), 0); /* nothing before the flush */
		virtq_flush(&vq);
		assert_int_equal(used_idx(), (u16)(c[i].from + c[i].n));
		if (signals != c[i].signal)
			fail_msg("case %zu", i);
	}
}

/* 2.7.7: without EVENT_IDX the flag decides; and one signal a batch. */
static void flag_decides(void **state)
{
	for (int off = 0; off < 2; off++) {
		setup_mode(0, SIZE);
		store_le16(at(AVAIL), off ? VRING_AVAIL_F_NO_INTERRUPT : 0);
		for (u16 k = 0; k < 5; k++) {
			desc(k, BUF, 1, 0, 0);
			make_avail(k, k, k + 1);
		}
		for (u16 k = 0; k < 5; k++)
			virtq_push(&vq, virtq_pop(&vq), 0);
		virtq_flush(&vq);
		virtq_flush(&vq);
		assert_int_equal(signals, !off);
	}
}

/* 2.8.10: the same for packed rings, in all rounds, against a count of places. */
static void packed_event_decides(void **state)
{
	u64 total = 0;

	setup_mode(VIRTQ_PACKED | VIRTQ_EVENT_IDX, 13);
	for (int round = 0; round < 400; round++) {
		u64 h = hash_u64((u64)round);
		u32 n = 1 + h % 6, ahead = h / 64 % 8;
		u64 event = total + ahead; /* the place that the driver waits for */
		bool wrap = !(event / 13 & 1);

		for (u32 k = 0; k < n; k++) {
			u64 place = total + k;
			bool w = !(place / 13 & 1);

			put(DESC + 16 * (place % 13), BUF, 1, (u16)k, w ? AVAIL_BIT : USED_BIT);
		}
		store_le16(at(AVAIL), (u16)(event % 13) | (wrap ? 0x8000 : 0));
		store_le16(at(AVAIL) + 2, VRING_PACKED_EVENT_FLAG_DESC);
		signals = 0;
		for (u32 k = 0; k < n; k++) {
			struct virtq_chain *c = virtq_pop(&vq);

			assert_non_null(c);
			virtq_push(&vq, c, 0);
		}
		virtq_flush(&vq);
		total += n;
		if (signals != (event < total))
			fail_msg("round %d: %u places, waits for %u on", round, n, ahead);
	}
	/* 2.8.15: a descriptor that was given back is the driver's: it may do what it likes with
	 * it. */
	memset(at(DESC + 16 * ((total + 12) % 13)), 0x11, 14);
	assert_null(virtq_pop(&vq));
	virtq_flush(&vq);
	virtq_notify_enable(&vq);
	for (u32 i = 0; i < 14; i++)
		assert_int_equal(((u8 *)at(DESC + 16 * ((total + 12) % 13)))[i], 0x11);
	store_le16(at(AVAIL) + 2, VRING_PACKED_EVENT_FLAG_DISABLE);
	signals = 0;
	for (int i = 0; i < 2; i++) {
		bool w = !(total / 13 & 1);

		put(DESC + 16 * (total % 13), BUF, 1, 0, w ? AVAIL_BIT : USED_BIT);
		virtq_complete(&vq, virtq_pop(&vq), 0);
		total++;
		assert_int_equal(signals, i);
		store_le16(at(AVAIL) + 2, VRING_PACKED_EVENT_FLAG_ENABLE);
	}
}

/* 2.9.1: buffers come back in the order they were given, whatever order they are done in. */
static void order_is_kept(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct virtq_chain *c[6];

		setup_mode(VIRTQ_IN_ORDER | (packed ? VIRTQ_PACKED : 0), SIZE);
		for (u16 k = 0; k < 6; k++) {
			desc((u16)(10 - k), BUF, 8, VRING_DESC_F_WRITE, 0);
			make_avail(k, (u16)(10 - k), k + 1);
		}
		if (packed)
			for (u16 k = 0; k < 6; k++)
				pdesc(k, BUF, 8, (u16)(10 - k), VRING_DESC_F_WRITE);
		for (u16 k = 0; k < 6; k++)
			c[k] = virtq_pop(&vq);
		virtq_complete(&vq, c[2], 2);
		virtq_complete(&vq, c[1], 1);
		assert_int_equal(signals, 0);
		assert_int_equal(virtq_inuse(&vq), 6);
		virtq_complete(&vq, c[0], 0);
		assert_int_equal(virtq_inuse(&vq), 3);
		virtq_complete(&vq, c[5], 5);
		virtq_complete(&vq, c[3], 3);
		virtq_complete(&vq, c[4], 4);
		assert_int_equal(virtq_inuse(&vq), 0);
		for (u16 k = 0; k < 6; k++) {
			u8 *p = at(DESC + 16u * k);

			assert_int_equal(packed ? load_le16(p + 12) : used_id(k), 10 - k);
			assert_int_equal(packed ? load_le32(p + 8) : used_len(k), k);
		}
	}
}

/* Kicks are asked for with the index of the next chain, and one that came meanwhile is seen. */
static void kicks_are_asked_for(void **state)
{
	setup_mode(VIRTQ_EVENT_IDX, SIZE);
	desc(0, BUF, 1, 0, 0);
	make_avail(0, 0, 1);
	virtq_notify_disable(&vq);
	assert_true(virtq_notify_enable(&vq));
	virtq_complete(&vq, virtq_pop(&vq), 0);
	assert_false(virtq_notify_enable(&vq));
	assert_int_equal(load_le16(at(USED) + 4 + 8 * SIZE), 1);
	setup_mode(0, SIZE);
	virtq_notify_disable(&vq);
	assert_int_equal(load_le16(at(USED)), VRING_USED_F_NO_NOTIFY);
	assert_false(virtq_notify_enable(&vq));
	assert_int_equal(load_le16(at(USED)), 0);
	setup_mode(VIRTQ_PACKED, SIZE);
	virtq_notify_disable(&vq);
	assert_int_equal(load_le16(at(USED) + 2), VRING_PACKED_EVENT_FLAG_DISABLE);
	virtq_notify_enable(&vq);
	assert_int_equal(load_le16(at(USED) + 2), VRING_PACKED_EVENT_FLAG_ENABLE);
	setup_mode(VIRTQ_PACKED | VIRTQ_EVENT_IDX, SIZE);
	virtq_notify_enable(&vq);
	assert_int_equal(load_le32(at(USED)), 0x8000 | VRING_PACKED_EVENT_FLAG_DESC << 16);
}

static void stopped_queues_rest(void **state)
{
	setup_mode(0, SIZE);
	desc(0, BUF, 1, 0, 0);
	make_avail(0, 0, 1);
	vq.stopped = true;
	assert_null(virtq_pop(&vq));
	assert_false(virtq_notify_enable(&vq));
	vq.stopped = false;
	assert_non_null(virtq_pop(&vq));
}

/* Saved and loaded, the queue goes on where it was. */
static void state_moves(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct virtq_saved saved;
		struct virtq_chain *c;
		u32 mode = packed ? VIRTQ_PACKED : 0;

		setup_mode(mode, SIZE);
		for (u16 k = 0; k < 4; k++) {
			desc(k, BUF + k, 1, 0, 0);
			make_avail(k, k, k + 1);
		}
		if (packed)
			for (u16 k = 0; k < 4; k++)
				pdesc(k, BUF + k, 1, k, 0);
		virtq_complete(&vq, virtq_pop(&vq), 0);
		virtq_complete(&vq, virtq_pop(&vq), 0);
		virtq_save(&vq, &saved);
		virtq_reset(&vq);
		assert_int_equal(virtq_load(&vq, &saved), 0);
		assert_int_equal(virtq_start(&vq, mode), 0);
		c = virtq_pop(&vq);
		assert_int_equal(c->id, 2);
		virtq_complete(&vq, c, 0);
		if (!packed)
			assert_int_equal(used_idx(), 3);
		saved.size = SIZE + 1;
		virtq_reset(&vq);
		assert_int_equal(virtq_load(&vq, &saved), -EINVAL);
		saved.size = SIZE;
		saved.avail_idx = SIZE;
		assert_int_equal(virtq_load(&vq, &saved), 0);
		assert_int_equal(virtq_start(&vq, mode), packed ? -EINVAL : 0);
	}
}

/* Rings of noise: whatever comes out lies in RAM, and everything ends. */
static void noise_is_survived(void **state)
{
	static const u32 modes[] = {0,
				    VIRTQ_PACKED,
				    VIRTQ_INDIRECT | VIRTQ_EVENT_IDX,
				    VIRTQ_PACKED | VIRTQ_INDIRECT | VIRTQ_EVENT_IDX,
				    VIRTQ_PACKED | VIRTQ_IN_ORDER,
				    VIRTQ_INDIRECT | VIRTQ_IN_ORDER};
	u32 popped = 0;

	for (u64 run = 0; run < 20000; run++) {
		u64 seed = hash_u64(run * 77 + 5);
		struct virtq_chain *c;
		int n = 0;

		setup_mode(modes[run % ARRAY_SIZE(modes)], SIZE);
		for (u32 i = 0; i < SIZE; i++) {
			seed = hash_u64(seed);
			put(DESC + 16 * i, seed % 8 ? BUF + seed % 0x1000 : seed,
			    seed >> 8 & 7 ? (seed >> 20) % 64 : (u32)seed,
			    vq.mode & VIRTQ_PACKED ? (seed >> 32) % 17 : (seed >> 32) % 8,
			    vq.mode & VIRTQ_PACKED ? (u16)(((seed >> 36) & 7) | AVAIL_BIT)
						   : (seed >> 40) % 18);
			put(TABLE + 16 * i, BUF + i, 1 + i, (seed >> 50) & 3, (seed >> 52) & 15);
			if (seed >> 60 == 1)
				store_le64(at(DESC + 16 * i), TABLE);
			store_le16(at(AVAIL) + 4 + 2 * i, (seed >> 44) % 17);
		}
		store_le16(at(AVAIL) + 2, seed % 20);
		while ((c = virtq_pop(&vq))) {
			popped++;
			assert_true(++n <= SIZE);
			for (u16 i = 0; i < c->nin; i++)
				memset(c->in[i].iov_base, 0x5a, c->in[i].iov_len);
			for (u16 i = 0; i < c->nout; i++)
				assert_non_null(memchr(c->out[i].iov_base,
						       *(u8 *)c->out[i].iov_base,
						       c->out[i].iov_len));
			if (seed >> n & 1)
				virtq_push(&vq, c, (u32)seed);
		}
		virtq_flush(&vq);
	}
	assert_true(popped > 1000);
}

/* ---- between any two instructions ---- */

#ifndef __SANITIZE_THREAD__
static struct {
	const u8 *word, *entry; /* what tells the driver, and what it may read then */
	u16 before, after;
	u8 want[8];
	size_t len;
	int steps, torn, early;
} watched;

static void on_step(int sig)
{
	u16 now = *(const volatile u16 *)(const void *)watched.word;

	watched.steps++;
	watched.torn += now != watched.before && now != watched.after;
	watched.early += now == watched.after && memcmp(watched.entry, watched.want, watched.len);
}

/* Single steps of the processor, past the red zone. */
#define STEP(change)                                                                               \
	__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; " change "; popfq; "                     \
			 "lea 128(%%rsp), %%rsp" ::                                                \
				 : "cc", "memory")

static void give_back_watched(struct virtq_chain *c, u32 written)
{
	struct sigaction act = {.sa_handler = on_step}, old;

	watched.steps = watched.torn = watched.early = 0;
	sigaction(SIGTRAP, &act, &old);
	STEP("orq $0x100, (%%rsp)");
	virtq_push(&vq, c, written);
	virtq_flush(&vq);
	STEP("andq $~0x100, (%%rsp)");
	sigaction(SIGTRAP, &old, NULL);
	assert_true(watched.steps > 20);
	assert_int_equal(watched.torn, 0);
	assert_int_equal(watched.early, 0);
	assert_int_equal(load_le16(watched.word), watched.after);
}

/* Bug 15, 2.7.8.2, 2.8.12: what another processor may see at any moment is the index (the flags)
 * from before or from after, nothing in between, and with the new one the whole entry. */
static void nothing_is_seen_half(void **state)
{
	setup_mode(0, SIZE);
	desc(0, BUF, 16, VRING_DESC_F_WRITE, 0);
	for (u16 i = 0; i < 255; i++) {
		make_avail(i, 0, (u16)(i + 1));
		virtq_complete(&vq, virtq_pop(&vq), 1);
	}
	make_avail(255, 0, 256);
	watched.word = at(USED) + 2;
	watched.before = 255;
	watched.after = 256;
	watched.entry = at(USED) + 4 + 8 * (255 % SIZE);
	watched.len = 8;
	store_le64(watched.want, 7ULL << 32);
	give_back_watched(virtq_pop(&vq), 7);

	setup_mode(VIRTQ_PACKED, SIZE);
	pdesc(0, BUF, 16, 3, VRING_DESC_F_WRITE);
	watched.word = at(DESC) + 14;
	watched.before = AVAIL_BIT | VRING_DESC_F_WRITE;
	watched.after = AVAIL_BIT | USED_BIT; /* nothing was written */
	watched.entry = at(DESC) + 8;
	watched.len = 6;
	store_le64(watched.want, 3ULL << 32);
	give_back_watched(virtq_pop(&vq), 0);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings_are_checked),
		cmocka_unit_test(avail_index_jumps),
		cmocka_unit_test(head_is_given_twice),
		cmocka_unit_test(chains_have_no_end),
		cmocka_unit_test(indices_out_of_range),
		cmocka_unit_test(buffers_out_of_memory),
		cmocka_unit_test(sums_are_bounded),
		cmocka_unit_test(indirect_tables_are_checked),
		cmocka_unit_test(readable_after_writable),
		cmocka_unit_test(table_is_copied_once),
		cmocka_unit_test(breaking_is_told_once),
		cmocka_unit_test(length_is_not_overstated),
		cmocka_unit_test(pushes_after_stop_go_nowhere),
		cmocka_unit_test(legal_chains_are_taken),
		cmocka_unit_test(event_index_decides),
		cmocka_unit_test(flag_decides),
		cmocka_unit_test(packed_event_decides),
		cmocka_unit_test(order_is_kept),
		cmocka_unit_test(kicks_are_asked_for),
		cmocka_unit_test(stopped_queues_rest),
		cmocka_unit_test(state_moves),
		cmocka_unit_test(noise_is_survived),
#ifndef __SANITIZE_THREAD__
		cmocka_unit_test(nothing_is_seen_half),
#endif
	};

	return cmocka_run_group_tests(tests, open_queue, close_queue);
}
