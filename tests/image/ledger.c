#include "ledger.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/hash.h"
#include "block/image.h"

#define BASE_ID	  1u
#define MAX_BURST 16
#define NEVER	  (~0ULL)

static u64 next_tick(struct ledger *l)
{
	return __atomic_add_fetch(&l->tick, 1, __ATOMIC_SEQ_CST);
}

/* ---- entries ---- */

static void add(struct ledger_history *h, struct ledger_entry e)
{
	if (h->count == h->cap) {
		h->cap = h->cap ? 2 * h->cap : 4;
		h->e = realloc(h->e, h->cap * sizeof(*h->e));
	}
	h->e[h->count++] = e;
}

static void close_entry(struct ledger_history *h, u32 serial, u64 tick, bool sure)
{
	for (u32 i = h->count; i--;) {
		if (h->e[i].serial != serial)
			continue;
		h->e[i].ended = tick;
		h->e[i].sure = sure;
		return;
	}
}

static void stamp(u8 *p, u32 id, u64 sector)
{
	for (int i = 0; i < LEDGER_SECTOR; i += 16) {
		store_le64(p + i, id ? id | (u64)0xabcd << 32 : 0);
		store_le64(p + i + 8, id ? sector : 0);
	}
}

int ledger_init(struct ledger *l, u64 size, u64 base)
{
	*l = (struct ledger){
		.sectors = size / LEDGER_SECTOR, .next_id = BASE_ID + 1, .next_serial = 1};
	l->sector = calloc(l->sectors, sizeof(*l->sector));
	if (!l->sector)
		return -ENOMEM;
	for (u64 i = 0; i < l->sectors; i++)
		add(&l->sector[i],
		    (struct ledger_entry){.id = i < base / LEDGER_SECTOR ? BASE_ID : 0,
					  .sure = true});
	return 0;
}

void ledger_free(struct ledger *l)
{
	for (u64 i = 0; i < l->sectors && l->sector; i++)
		free(l->sector[i].e);
	for (u64 i = 0; i < l->nsaved; i++)
		free(l->saved[i].ids);
	free(l->sector);
	free(l->size.e);
	free(l->flushes);
	free(l->saved);
	*l = (struct ledger){0};
}

void ledger_base(u8 *data, u64 size)
{
	for (u64 i = 0; i < size / LEDGER_SECTOR; i++)
		stamp(data + i * LEDGER_SECTOR, BASE_ID, i);
}

static void flushed(struct ledger *l, u64 begun)
{
	l->flushes = realloc(l->flushes, (l->nflushes + 1) * sizeof(*l->flushes));
	l->flushes[l->nflushes].begun = begun;
	l->flushes[l->nflushes++].ended = next_tick(l);
}

void ledger_settle(struct ledger *l)
{
	flushed(l, next_tick(l));
	next_tick(l);
}

/* ---- operations ---- */

static enum block_op pick(unsigned int dice)
{
	if (dice < 70)
		return BLOCK_WRITE;
	if (dice < 80)
		return BLOCK_WRITE_ZEROES;
	return dice < 90 ? BLOCK_DISCARD : BLOCK_FLUSH;
}

int ledger_begin(struct ledger_op *op, struct ledger *l, u64 sectors, u64 pack, u64 near,
		 u64 random, u64 random2)
{
	unsigned int dice = (unsigned int)(random % 100);
	u64 first = random2 % sectors, n = 1 + (random >> 8) % ((random >> 40) % 4 ? 24 : 400);
	u32 id;

	*op = (struct ledger_op){.ledger = l, .serial = l->next_serial++, .busy = true};
	op->req.op = pick(dice);
	op->begun = next_tick(l);
	if (op->req.op == BLOCK_FLUSH)
		return 0;
	if (near && random2 >> 60 < 12)
		first = min(near - 1 + (random2 >> 50) % 32, sectors - 1);
	if (pack && dice < 20) {
		first = align_down(first * LEDGER_SECTOR, pack) / LEDGER_SECTOR;
		n = pack / LEDGER_SECTOR;
		op->req.flags = BLOCK_COMPRESS;
	}
	op->first = first;
	op->n = min(n, sectors - first);
	if (op->req.op == BLOCK_WRITE_ZEROES && dice < 75)
		op->req.flags = BLOCK_MAY_UNMAP;
	op->data = malloc(op->n * LEDGER_SECTOR);
	if (!op->data)
		return -ENOMEM;
	id = op->req.op == BLOCK_WRITE ? l->next_id++ : 0;
	for (u64 i = 0; i < op->n; i++) {
		add(&l->sector[first + i],
		    (struct ledger_entry){
			    .id = id, .serial = op->serial, .begun = op->begun, .ended = NEVER});
		stamp(op->data + i * LEDGER_SECTOR, id, first + i);
	}
	op->iov = (struct iovec){op->data, op->n * LEDGER_SECTOR};
	op->req.offset = op->first * LEDGER_SECTOR;
	op->req.len = op->n * LEDGER_SECTOR;
	op->req.iov = &op->iov;
	op->req.niov = 1;
	return 0;
}

void ledger_end(struct ledger_op *op, int result)
{
	struct ledger *l = op->ledger;
	u64 tick = next_tick(l);

	op->result = result;
	op->busy = false;
	if (op->req.op == BLOCK_FLUSH && !result)
		flushed(l, op->begun);
	/* A discard is a hint: it never counts as having happened for sure. */
	for (u64 i = 0; i < op->n; i++)
		close_entry(&l->sector[op->first + i], op->serial, tick,
			    !result && op->req.op != BLOCK_DISCARD);
	free(op->data);
	op->data = NULL;
}

static int perform(struct ledger_op *op, struct block *b)
{
	const struct block_req *r = &op->req;

	switch (r->op) {
	case BLOCK_WRITE:
		return block_writev(b, r->iov, r->niov, r->offset, r->flags);
	case BLOCK_WRITE_ZEROES:
		return block_write_zeroes(b, r->len, r->offset, r->flags);
	case BLOCK_DISCARD:
		return block_discard(b, r->len, r->offset);
	default:
		return block_flush(b);
	}
}

int ledger_step(struct ledger *l, struct block *b, u64 pack, u64 random, u64 random2)
{
	struct ledger_op op;
	int rc = ledger_begin(&op, l, block_size(b) / LEDGER_SECTOR, pack, 0, random, random2);

	if (rc)
		return rc;
	ledger_end(&op, perform(&op, b));
	return op.result;
}

static void on_done(struct block_req *req, int result)
{
	ledger_end(container_of(req, struct ledger_op, req), result);
}

/* Does the last of n operations touch what an earlier one, still under way, does? */
static bool meets(const struct ledger_op *ops, unsigned int n)
{
	const struct ledger_op *last = &ops[n - 1];

	for (unsigned int i = 0; i < n - 1; i++)
		if (ops[i].busy && last->first < ops[i].first + ops[i].n &&
		    ops[i].first < last->first + last->n)
			return true;
	return false;
}

int ledger_burst(struct ledger *l, struct block *b, u64 pack, unsigned int count, bool apart,
		 u64 seed)
{
	u64 sectors = block_size(b) / LEDGER_SECTOR, near = 1 + hash_u64(seed) % sectors;
	struct ledger_op ops[MAX_BURST] = {0};
	struct block_queue *q;
	struct err err;
	int rc = block_queue_new(&q, b, MAX_BURST, &err);

	if (rc)
		return rc;
	count = min(count, (unsigned int)MAX_BURST);
	for (unsigned int i = 0; i < count && !rc; i++) {
		rc = ledger_begin(&ops[i], l, sectors, pack, near, hash_u64(seed + 2 * i + 1),
				  hash_u64(seed + 2 * i + 2));
		if (rc)
			break;
		ops[i].req.done = on_done;
		if (apart && meets(ops, i + 1))
			block_queue_drain(q);
		block_submit(q, &ops[i].req);
		if (hash_u64(seed + i) % 3 == 0)
			block_queue_flush(q);
		if (hash_u64(seed + i) % 5 == 0)
			block_queue_poll(q);
	}
	block_queue_drain(q);
	for (unsigned int i = 0; i < count && !rc; i++)
		rc = ops[i].result;
	block_queue_free(q);
	return rc;
}

/* ---- sizes ---- */

int ledger_resize(struct ledger *l, struct block *b, u64 sectors)
{
	u32 serial = l->next_serial++;
	u64 old = block_size(b) / LEDGER_SECTOR, tick = next_tick(l);
	struct ledger_entry e = {.serial = serial, .begun = tick, .ended = NEVER};
	struct err err;
	int rc;

	if (!l->size.count)
		add(&l->size, (struct ledger_entry){.id = (u32)old, .sure = true});
	for (u64 i = sectors; i < old; i++)
		add(&l->sector[i], e);
	e.id = (u32)sectors;
	add(&l->size, e);
	rc = block_resize(b, sectors * LEDGER_SECTOR, true, &err);
	tick = next_tick(l);
	close_entry(&l->size, serial, tick, !rc);
	for (u64 i = sectors; i < old; i++)
		close_entry(&l->sector[i], serial, tick, !rc);
	return rc;
}

/* ---- snapshots ---- */

static int take(struct ledger *l, struct block *b)
{
	struct ledger_saved s = {.deleted = NEVER, .ended = NEVER};
	u64 size = block_size(b);
	u8 *disk = malloc(size);
	struct err err;
	int rc = disk ? block_read(b, disk, size, 0) : -ENOMEM;

	if (rc) {
		free(disk);
		return rc;
	}
	s.ids = calloc(l->sectors, sizeof(*s.ids));
	for (u64 i = 0; i < l->sectors; i++)
		s.ids[i] = (u32)load_le64(disk + i * LEDGER_SECTOR);
	free(disk);
	snprintf(s.name, sizeof(s.name), "s%llu", (unsigned long long)l->nsaved);
	l->saved = realloc(l->saved, (l->nsaved + 1) * sizeof(*l->saved));
	l->saved[l->nsaved++] = s;
	next_tick(l);
	rc = block_snapshot_create(b, s.name, &err);
	if (!rc)
		l->saved[l->nsaved - 1].ended = next_tick(l);
	return rc;
}

static int apply(struct ledger *l, struct block *b, const struct ledger_saved *s)
{
	u32 serial = l->next_serial++;
	u64 tick = next_tick(l);
	struct err err;
	int rc;

	for (u64 i = 0; i < l->sectors; i++)
		add(&l->sector[i],
		    (struct ledger_entry){
			    .id = s->ids[i], .serial = serial, .begun = tick, .ended = NEVER});
	rc = block_snapshot_apply(b, s->name, &err);
	tick = next_tick(l);
	for (u64 i = 0; i < l->sectors; i++)
		close_entry(&l->sector[i], serial, tick, !rc);
	return rc;
}

int ledger_snapshot(struct ledger *l, struct block *b, u64 random)
{
	struct ledger_saved *s = NULL;
	struct err err;
	u64 alive = 0;

	for (u64 i = 0; i < l->nsaved; i++) {
		if (l->saved[i].ended == NEVER || l->saved[i].deleted != NEVER)
			continue;
		alive++;
		if (!s || hash_u64(random + i) % 2)
			s = &l->saved[i];
	}
	if (alive < 2)
		return take(l, b);
	if (random % 2)
		return apply(l, b, s);
	s->deleted = next_tick(l);
	return block_snapshot_delete(b, s->name, &err);
}

bool ledger_snapshot_needed(const struct ledger *l, u64 index, u64 tick)
{
	return l->saved[index].ended < tick && l->saved[index].deleted > tick;
}

/* ---- judging ---- */

/* The begin of the last flush that had ended before the crash. */
static u64 durable_until(const struct ledger *l, u64 tick)
{
	u64 until = 0;

	for (u64 i = 0; i < l->nflushes; i++)
		if (l->flushes[i].ended < tick)
			until = max(until, l->flushes[i].begun);
	return until;
}

/* Has something surely taken the place of entry i? */
static bool replaced(const struct ledger_history *h, u32 i, u64 until)
{
	for (u32 k = 0; k < h->count; k++)
		if (h->e[k].sure && h->e[k].ended <= until && h->e[k].begun > h->e[i].ended)
			return true;
	return false;
}

static bool allowed(const struct ledger_history *h, u32 id, u64 tick, u64 until)
{
	for (u32 i = h->count; i--;)
		if (h->e[i].begun <= tick && h->e[i].id == id && !replaced(h, i, until))
			return true;
	return false;
}

static bool is_stamped(const u8 *p, u64 sector, u32 *id)
{
	u8 want[LEDGER_SECTOR];

	*id = (u32)load_le64(p);
	stamp(want, *id, sector);
	return !memcmp(p, want, LEDGER_SECTOR);
}

static int complain(const struct ledger *l, const u8 *p, u64 sector, u64 tick, u64 until)
{
	const struct ledger_history *h = &l->sector[sector];

	fprintf(stderr,
		"sector %llu holds %016llx of sector %llu, crash at tick %llu, flushed until %llu; "
		"it may hold",
		(unsigned long long)sector, (unsigned long long)load_le64(p),
		(unsigned long long)load_le64(p + 8), (unsigned long long)tick,
		(unsigned long long)until);
	for (u32 i = 0; i < h->count; i++)
		fprintf(stderr, " %u[%lld..%lld%s]", h->e[i].id, (long long)h->e[i].begun,
			(long long)h->e[i].ended, h->e[i].sure ? "" : "?");
	fprintf(stderr, "\n");
	return -EBADMSG;
}

int ledger_verify(struct ledger *l, struct block *b, u64 tick)
{
	u64 until = durable_until(l, tick), size = block_size(b);
	u8 *disk = malloc(max(size, (u64)1));
	int rc = disk ? block_read(b, disk, size, 0) : -ENOMEM;
	u32 id;

	if (!rc && l->size.count && !allowed(&l->size, (u32)(size / LEDGER_SECTOR), tick, until)) {
		fprintf(stderr, "size %llu, crash at tick %llu\n", (unsigned long long)size,
			(unsigned long long)tick);
		rc = -EBADMSG;
	}
	for (u64 i = 0; i < size / LEDGER_SECTOR && !rc; i++) {
		const u8 *p = disk + i * LEDGER_SECTOR;

		if (!is_stamped(p, i, &id) || !allowed(&l->sector[i], id, tick, until))
			rc = complain(l, p, i, tick, until);
	}
	free(disk);
	return rc;
}

int ledger_verify_snapshot(struct ledger *l, struct block *b, const char *name)
{
	const struct ledger_saved *s = NULL;
	u64 size = l->sectors * LEDGER_SECTOR;
	u8 *disk = malloc(size);
	int rc = disk ? block_read(b, disk, size, 0) : -ENOMEM;
	u32 id;

	for (u64 i = 0; i < l->nsaved; i++)
		if (!strcmp(l->saved[i].name, name))
			s = &l->saved[i];
	for (u64 i = 0; i < l->sectors && !rc; i++) {
		const u8 *p = disk + i * LEDGER_SECTOR;

		if (s && is_stamped(p, i, &id) && id == s->ids[i])
			continue;
		fprintf(stderr, "snapshot %s: sector %llu holds %016llx of sector %llu, not %u\n",
			name, (unsigned long long)i, (unsigned long long)load_le64(p),
			(unsigned long long)load_le64(p + 8), s ? s->ids[i] : 0);
		rc = -EBADMSG;
	}
	free(disk);
	return rc;
}
