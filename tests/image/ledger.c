#include "ledger.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"

/* ---- the node ---- */

struct spy_node {
	struct block block;
	struct spy *spy;
};

static struct spy *spy_of(struct block *b)
{
	return container_of(b, struct spy_node, block)->spy;
}

static void note(struct spy *s, struct note n, const struct block_io *io)
{
	pthread_mutex_lock(&s->lock);
	if (s->count == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 256;
		s->notes = realloc(s->notes, s->cap * sizeof(*s->notes));
	}
	n.tick = *s->tick;
	if (n.kind == NOTE_WRITE) {
		n.data = malloc(n.len);
		iov_to_buf(io->iov, (size_t)io->niov, 0, n.data, n.len);
	}
	s->notes[s->count++] = n;
	pthread_mutex_unlock(&s->lock);
}

static bool fails(struct spy *s)
{
	u64 nth = __atomic_add_fetch(&s->seen, 1, __ATOMIC_RELAXED);

	return s->fail_at && (nth == s->fail_at || (s->fail_on && nth > s->fail_at));
}

/* A write is noted when it is complete, a flush when it begins: what a flush does not promise to
 * have made durable is then behind it. */
static int spy_io(struct block *b, const struct block_io *io)
{
	static const enum note_kind kinds[] = {
		[BLOCK_WRITE] = NOTE_WRITE,
		[BLOCK_DISCARD] = NOTE_ZERO,
		[BLOCK_WRITE_ZEROES] = NOTE_ZERO,
	};
	struct spy *s = spy_of(b);
	int rc;

	if (fails(s))
		return -EIO;
	if (s->keep && io->op == BLOCK_FLUSH)
		note(s, (struct note){.kind = NOTE_FLUSH}, NULL);
	rc = block_io(b->file, io);
	if (!rc && s->keep && io->op != BLOCK_FLUSH && io->op != BLOCK_READ)
		note(s, (struct note){.kind = kinds[io->op], .offset = io->offset, .len = io->len},
		     io);
	return rc;
}

static int spy_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct spy *s = spy_of(b);
	int rc = fails(s) ? -EIO : b->file->class->resize(b->file, size, shrink, err);

	if (!rc && s->keep)
		note(s, (struct note){.kind = NOTE_TRUNCATE, .len = size}, NULL);
	return rc;
}

static int spy_status(struct block *b, u64 offset, struct block_extent *e)
{
	return b->file->class->status(b->file, offset, e);
}

static const struct block_class spy_class = {
	.name = "spy",
	.kind = BLOCK_PROTOCOL,
	.size = sizeof(struct spy_node),
	.io = spy_io,
	.resize = spy_resize,
	.status = spy_status,
};

int spy_open(struct block **out, struct spy *spy, const char *path,
	     const struct block_options *options, struct err *err)
{
	const struct block_class *class = block_class_lookup(options->format);
	struct block *file, *node, *image;
	int rc = block_open_protocol(&file, path, true, options, err);

	if (rc)
		return rc;
	node = block_node_new(&spy_class, path, file);
	container_of(node, struct spy_node, block)->spy = spy;
	node->size = file->size;
	image = block_node_new(class, path, node);
	rc = class->open(image, options, err);
	if (rc) {
		block_node_free(image);
		return rc;
	}
	*out = image;
	return block_make_top(image, options);
}

void spy_forget(struct spy *s)
{
	for (u64 i = 0; i < s->count; i++)
		free(s->notes[i].data);
	free(s->notes);
	s->notes = NULL;
	s->count = s->cap = 0;
}

/* ---- the ledger ---- */

#define SECTOR 512

int ledger_init(struct ledger *l, u64 size)
{
	*l = (struct ledger){.sectors = size / SECTOR, .next_id = 1, .tick = 1};
	l->sector = calloc(l->sectors, sizeof(*l->sector));
	return l->sector ? 0 : -ENOMEM;
}

void ledger_free(struct ledger *l)
{
	for (u64 i = 0; i < l->sectors; i++)
		free(l->sector[i].e);
	free(l->sector);
	free(l->flushes);
}

static void add(struct ledger *l, u64 sector, u32 id)
{
	struct history *h = &l->sector[sector];

	if (h->count == h->cap) {
		h->cap = h->cap ? 2 * h->cap : 4;
		h->e = realloc(h->e, h->cap * sizeof(*h->e));
	}
	h->e[h->count++] = (struct entry){.id = id, .begun = l->tick, .ended = ~0ULL};
}

static void stamp(u8 *p, u32 id, u64 sector)
{
	for (int i = 0; i < SECTOR; i += 16) {
		store_le64(p + i, id ? id | (u64)0xabcd << 32 : 0);
		store_le64(p + i + 8, id ? sector : 0);
	}
}

static int step_flush(struct ledger *l, struct block *b)
{
	u64 begun = l->tick++;
	int rc = block_flush(b);

	if (rc)
		return rc;
	l->flushes = realloc(l->flushes, (l->nflushes + 1) * sizeof(*l->flushes));
	l->flushes[l->nflushes++] = (struct flush){begun, l->tick++};
	return 0;
}

int ledger_step(struct ledger *l, struct block *b, u64 random, u64 random2)
{
	unsigned int dice = (unsigned int)(random % 100);
	u64 first = random2 % l->sectors, n = 1 + (random >> 8) % ((random >> 40) % 4 ? 24 : 400);
	u32 id = dice < 70 ? l->next_id++ : 0;
	u8 *data;
	int rc;

	if (dice >= 90)
		return step_flush(l, b);
	n = min(n, l->sectors - first);
	data = malloc(n * SECTOR);
	if (!data)
		return -ENOMEM;
	l->tick++;
	for (u64 i = 0; i < n; i++) {
		add(l, first + i, id);
		stamp(data + i * SECTOR, id, first + i);
	}
	if (dice < 70)
		rc = block_write(b, data, n * SECTOR, first * SECTOR);
	else if (dice < 80)
		rc = block_write_zeroes(b, n * SECTOR, first * SECTOR,
					dice < 75 ? BLOCK_MAY_UNMAP : 0);
	else
		rc = block_discard(b, n * SECTOR, first * SECTOR);
	l->tick++;
	/* A discard is a hint: it never counts as having happened for sure. */
	for (u64 i = 0; i < n && !rc && dice < 80; i++) {
		struct history *h = &l->sector[first + i];

		h->e[h->count - 1].ended = l->tick;
	}
	free(data);
	return rc;
}

/* The begin of the last flush that had ended before the crash. */
static u64 durable_until(const struct ledger *l, u64 tick)
{
	u64 until = 0;

	for (u64 i = 0; i < l->nflushes; i++)
		if (l->flushes[i].ended < tick)
			until = l->flushes[i].begun;
	return until;
}

/* Any operation that may have happened and that none which surely happened came after. */
static bool allowed(const struct history *h, u32 id, u64 tick, u64 until)
{
	for (u32 i = h->count; i--;) {
		if (h->e[i].begun > tick)
			continue;
		if (h->e[i].id == id)
			return true;
		if (h->e[i].ended <= until)
			return false;
	}
	return id == 0;
}

int ledger_verify(struct ledger *l, struct block *b, u64 tick)
{
	u64 until = durable_until(l, tick), size = l->sectors * SECTOR;
	u8 *disk = malloc(size), want[SECTOR];
	int rc = disk ? block_read(b, disk, size, 0) : -ENOMEM;

	for (u64 i = 0; i < l->sectors && !rc; i++) {
		const u8 *p = disk + i * SECTOR;
		u32 id = (u32)load_le64(p);

		stamp(want, id, i);
		if (!memcmp(p, want, SECTOR) && allowed(&l->sector[i], id, tick, until))
			continue;
		fprintf(stderr,
			"sector %llu holds %016llx of sector %llu, crash at tick %llu, flushed "
			"until %llu; it may hold",
			(unsigned long long)i, (unsigned long long)load_le64(p),
			(unsigned long long)load_le64(p + 8), (unsigned long long)tick,
			(unsigned long long)until);
		for (u32 k = 0; k < l->sector[i].count; k++)
			fprintf(stderr, " %u[%lld..%lld]", l->sector[i].e[k].id,
				(long long)l->sector[i].e[k].begun,
				(long long)l->sector[i].e[k].ended);
		fprintf(stderr, "\n");
		rc = -EBADMSG;
	}
	free(disk);
	return rc;
}
