/*
 * A damaged image under requests in flight together: two queues of one image, reads, writes,
 * discards, zeros and flushes on top of each other, some over a backing file or with copy-on-read.
 * Each comes back, once; nothing crashes, hangs or takes unbounded memory, whatever the image says.
 *
 * Input: as in block_sound.h; operations of 6 bytes.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "block/image.h"
#include "block_sound.h"
#include "os/file.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define QUEUES	2
#define SLOTS	24
#define MAX_OPS 64
#define BUFFER	(128 * KiB)
#define BACKING (1 * MiB)

struct slot {
	struct block_req req;
	struct iovec iov[2];
	u8 *data;
	bool busy;
};

struct world {
	struct block *block;
	struct block_queue *queue[QUEUES];
	struct slot *slots;
};

static void on_done(struct block_req *req, int result)
{
	struct slot *s = container_of(req, struct slot, req);

	if (!s->busy || result > 0)
		abort();
	s->busy = false;
}

static struct slot *free_slot(struct world *w)
{
	for (int i = 0; i < SLOTS; i++)
		if (!w->slots[i].busy)
			return &w->slots[i];
	return NULL;
}

static bool any_busy(const struct world *w)
{
	for (int i = 0; i < SLOTS; i++)
		if (w->slots[i].busy)
			return true;
	return false;
}

/* Both queues go on until nothing is left to wait for: what one waits for may be the other's. */
static void turn(struct world *w, bool wait)
{
	do {
		struct pollfd p[QUEUES];

		for (int i = 0; i < QUEUES; i++) {
			block_queue_flush(w->queue[i]);
			block_queue_poll(w->queue[i]);
			p[i] = (struct pollfd){block_queue_fd(w->queue[i]), POLLIN, 0};
		}
		if (!wait || !any_busy(w))
			return;
		/* What does not come back at all is a finding. */
		if (!poll(p, QUEUES, 100000))
			abort();
	} while (true);
}

static void submit(struct world *w, const u8 *op)
{
	static const enum block_op kinds[] = {BLOCK_READ,	  BLOCK_READ,  BLOCK_READ,
					      BLOCK_WRITE,	  BLOCK_WRITE, BLOCK_WRITE,
					      BLOCK_WRITE_ZEROES, BLOCK_FLUSH, BLOCK_DISCARD};
	u64 size = block_size(w->block), at = load_le16(op + 1) * 1031ULL, len = 1 + op[3] * 509ULL;
	struct slot *s = free_slot(w);

	if (!s) {
		turn(w, true);
		s = free_slot(w);
	}
	/* From the front or from the end: sizes may be enormous. In whole sectors or not. */
	if (op[4] & 1)
		at = size > at ? size - at : 0;
	if (op[4] & 2) {
		at = align_down(at, 512);
		len = align_up(len, 512);
	}
	s->req = (struct block_req){.op = kinds[op[0] % ARRAY_SIZE(kinds)],
				    .offset = at,
				    .len = len,
				    .iov = s->iov,
				    .niov = 2,
				    .done = on_done};
	s->iov[0] = (struct iovec){s->data, len / 3};
	s->iov[1] = (struct iovec){s->data + len / 3, len - len / 3};
	if (s->req.op == BLOCK_WRITE)
		memset(s->data, op[5], len);
	if (s->req.op == BLOCK_WRITE || s->req.op == BLOCK_WRITE_ZEROES)
		s->req.flags = (op[4] & 4 ? BLOCK_FUA : 0);
	if (s->req.op == BLOCK_WRITE_ZEROES)
		s->req.flags |= op[4] & 8 ? BLOCK_MAY_UNMAP : 0;
	if (s->req.op == BLOCK_DISCARD)
		s->req.len *= 8;
	s->busy = true;
	block_submit(w->queue[op[4] >> 7], &s->req);
}

static void work(struct world *w, const u8 *data, size_t size)
{
	for (int n = 0; n < MAX_OPS && size >= 6; n++, data += 6, size -= 6) {
		submit(w, data);
		if (data[5] % 8 == 0)
			turn(w, false);
		else if (data[5] % 64 == 1)
			turn(w, true);
	}
	turn(w, true);
}

static void run(struct world *w, const u8 *data, size_t size)
{
	struct err err;
	int rc = 0;

	for (int i = 0; i < QUEUES; i++)
		rc |= block_queue_new(&w->queue[i], w->block, SLOTS, &err);
	if (!rc)
		work(w, data, size);
	for (int i = 0; i < QUEUES; i++)
		block_queue_free(w->queue[i]);
}

static void set_up(struct world *w, char *backing, size_t room)
{
	static u8 some[BACKING];
	int fd = memfd_create("backing", MFD_CLOEXEC);

	memset(some, 0xb5, sizeof(some));
	w->slots = calloc(SLOTS, sizeof(*w->slots));
	for (int i = 0; i < SLOTS; i++)
		w->slots[i].data = malloc(BUFFER + 512);
	if (fd < 0 || write_full(fd, some, sizeof(some)))
		exit(1);
	snprintf(backing, room, "/proc/self/fd/%d", fd);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static char backing[64], raw[] = "raw";
	static struct world w;
	struct block_options o;
	struct err err;
	char path[64];
	size_t at;
	int fd;

	if (size < 2)
		return 0;
	if (!w.slots)
		set_up(&w, backing, sizeof(backing));
	fd = sound_open(data, size, &at, path, &o);
	o.readonly = (data[1] & 0xc0) == 0xc0;
	if (data[1] & 0x20) {
		o.backing_file = backing;
		o.backing_format = raw;
		o.copy_on_read = data[1] & 0x10 && !o.readonly && !strcmp(o.format, "qcow2");
	}
	if (!block_open(&w.block, &o, &err)) {
		run(&w, data + at, size - at);
		block_close(w.block);
	}
	close(fd);
	return 0;
}
