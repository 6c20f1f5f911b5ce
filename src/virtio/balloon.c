/*
 * Pages that the guest gives are discarded on the host at once: by page number through the inflate
 * queue, by whole buffers through the reporting queue.
 *
 * Invariants:
 * 1. Only guest RAM that is ours to discard is: ranges come from mem_to_iov() for writing, cut to
 *    whole pages.
 * 2. At most one buffer of the statistics queue is held, in stats_chain; it is taken back (unpop)
 *    when the device pauses, so that saved state has nothing in flight.
 */
#include "virtio/balloon.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "os/clock.h"
#include "virtio/features.h"

#define QUEUE_SIZE  128
#define CONFIG_SIZE 16
#define PFN_SHIFT   12
#define MAX_PFNS    1024 /* of one descriptor chain that are looked at a time */
#define TURN_LIMIT  64	 /* chains before the loop gets a turn */

enum kind { INFLATE, DEFLATE, STATISTICS, FREE_PAGES, REPORTING, KINDS };

struct balloon {
	struct virtio_device dev;
	s8 queue_of[KINDS]; /* index, or -1: it moves with the features */
	struct virtq_chain *stats_chain;
	bool want_stats;
	struct virtio_balloon_statistics stats;
	u64 discarded, reported; /* bytes so far */
};

static struct balloon *of(const struct virtio_device *dev)
{
	return container_of((struct virtio_device *)(uintptr_t)dev, struct balloon, dev);
}

/* ---- discarding ---- */

/* Whole pages only; the host gives zeros on the next touch. Memory shared with other processes
 * is a file, in which a hole is made. */
static u64 discard(u8 *hva, u64 len)
{
	u8 *start = (u8 *)align_up((uintptr_t)hva, PAGE_SIZE);
	u8 *end = (u8 *)align_down((uintptr_t)hva + len, PAGE_SIZE);

	if (end <= start)
		return 0;
	len = (u64)(end - start);
	/* REMOVE works on shared mappings and not on private ones. */
	if (madvise(start, len, MADV_REMOVE) && madvise(start, len, MADV_DONTNEED))
		return 0;
	return len;
}

static u64 discard_run(struct balloon *balloon, u64 pfn, u64 pages)
{
	struct guest_mem *mem = balloon->dev.mem;
	u64 gpa = pfn << PFN_SHIFT, len = pages << PFN_SHIFT;
	void *hva = mem_slice_rw(mem, gpa, len);
	u64 done;

	if (hva) {
		done = discard(hva, len);
		mem_written(mem, gpa, len);
		return done;
	}
	done = 0; /* some of it is no RAM: page by page */
	for (u64 i = 0; pages > 1 && i < pages; i++)
		done += discard_run(balloon, pfn + i, 1);
	return done;
}

/* Neighbouring numbers are discarded in one go; guests often give them downwards. */
static void inflate_pfns(struct balloon *balloon, const u8 *raw, u32 n)
{
	u64 start = 0, pages = 0;

	for (u32 i = 0; i < n; i++) {
		u64 pfn = load_le32(raw + 4 * i);

		if (pages && pfn == start + pages) {
			pages++;
		} else if (pages && pfn + 1 == start) {
			start--;
			pages++;
		} else {
			if (pages)
				balloon->discarded += discard_run(balloon, start, pages);
			start = pfn;
			pages = 1;
		}
	}
	if (pages)
		balloon->discarded += discard_run(balloon, start, pages);
}

static void inflate(struct balloon *balloon, const struct virtq_chain *chain)
{
	u8 raw[4 * MAX_PFNS];

	for (u32 at = 0; at + 4 <= chain->out_len; at += sizeof(raw)) {
		size_t n = iov_to_buf(chain->out, chain->nout, at, raw, sizeof(raw));

		inflate_pfns(balloon, raw, (u32)n / 4);
	}
}

/* 5.5.6.7: the buffers themselves are the free pages. Without PAGE_POISON they may read as
 * anything; with it they must keep the guest's pattern, so only zero will do. */
static void report(struct balloon *balloon, const struct virtq_chain *chain)
{
	bool poisoned = virtio_has(&balloon->dev, VIRTIO_BALLOON_F_PAGE_POISON) &&
			load_le32(balloon->dev.config + 12);

	for (u16 i = 0; i < chain->nin && !poisoned; i++) {
		const struct iovec *v = &chain->in[i];

		balloon->reported += discard(v->iov_base, v->iov_len);
		mem_written_hva(balloon->dev.mem, v->iov_base, v->iov_len);
	}
}

/* ---- statistics: section 5.5.6.3 ---- */

static void read_stats(struct balloon *balloon, const struct virtq_chain *chain)
{
	u8 entry[10];

	memset(balloon->stats.value, 0xff, sizeof(balloon->stats.value));
	for (u32 at = 0, n = 0; n < 64; at += sizeof(entry), n++) {
		if (iov_to_buf(chain->out, chain->nout, at, entry, 10) < 10)
			break;
		if (load_le16(entry) < VIRTIO_BALLOON_STATS)
			balloon->stats.value[load_le16(entry)] = load_le64(entry + 2);
	}
	balloon->stats.updated_ns = clock_now_ns();
}

/* The driver's buffer stays here until somebody wants new numbers. */
static void stats_kick(struct balloon *balloon, struct virtq *vq)
{
	struct virtq_chain *chain;

	if (balloon->stats_chain)
		return; /* the driver has nothing to give before it gets this one back */
	chain = virtq_pop(vq);
	if (!chain) {
		virtq_notify_enable(vq);
		return;
	}
	read_stats(balloon, chain);
	balloon->stats_chain = chain;
	if (balloon->want_stats) {
		balloon->want_stats = false;
		balloon->stats_chain = NULL;
		virtq_complete(vq, chain, 0);
	}
	virtq_notify_enable(vq);
}

static struct virtio_queue *queue_for(struct balloon *balloon, enum kind kind)
{
	int i = balloon->queue_of[kind];

	return i < 0 ? NULL : &balloon->dev.queue[i];
}

void virtio_balloon_get_stats(struct virtio_device *dev, struct virtio_balloon_statistics *stats)
{
	struct balloon *balloon = of(dev);
	struct virtio_queue *queue = queue_for(balloon, STATISTICS);

	*stats = balloon->stats;
	if (balloon->stats_chain && queue && virtio_queue_is_live(queue)) {
		virtq_complete(&queue->vq, balloon->stats_chain, 0);
		balloon->stats_chain = NULL;
	}
}

static void drop_stats_chain(struct balloon *balloon)
{
	struct virtio_queue *queue = queue_for(balloon, STATISTICS);

	if (balloon->stats_chain && queue && virtio_queue_is_live(queue))
		virtq_unpop(&queue->vq, balloon->stats_chain);
	balloon->stats_chain = NULL;
}

/* ---- queues ---- */

static void drain(struct balloon *balloon, struct virtio_queue *queue, enum kind kind)
{
	struct virtq_chain *chain;
	int left = TURN_LIMIT;

	do {
		while (left && (chain = virtq_pop(&queue->vq))) {
			if (kind == INFLATE)
				inflate(balloon, chain);
			else if (kind == REPORTING)
				report(balloon, chain);
			/* Deflate: the pages are back when they are next touched. */
			virtq_push(&queue->vq, chain, 0);
			left--;
		}
		virtq_flush(&queue->vq);
	} while (left && virtq_notify_enable(&queue->vq));
	if (!left)
		virtio_queue_poke(queue);
}

static void kick(struct virtio_queue *queue)
{
	struct balloon *balloon = of(queue->dev);

	for (enum kind kind = 0; kind < KINDS; kind++) {
		if (balloon->queue_of[kind] != queue->index)
			continue;
		if (kind == STATISTICS)
			stats_kick(balloon, &queue->vq);
		else
			drain(balloon, queue, kind);
	}
}

static void queue_stop(struct virtio_queue *queue)
{
	struct balloon *balloon = of(queue->dev);

	if (balloon->queue_of[STATISTICS] == queue->index)
		balloon->stats_chain = NULL;
}

/* 5.5.2: queues that were not negotiated do not exist, and the later ones move down. */
static bool features_set(struct virtio_device *dev)
{
	static const u8 feature[KINDS] = {
		[STATISTICS] = VIRTIO_BALLOON_F_STATS_VQ,
		[FREE_PAGES] = VIRTIO_BALLOON_F_FREE_PAGE_HINT,
		[REPORTING] = VIRTIO_BALLOON_F_REPORTING,
	};
	struct balloon *balloon = of(dev);
	s8 next = 2;

	balloon->queue_of[INFLATE] = 0;
	balloon->queue_of[DEFLATE] = 1;
	for (enum kind kind = STATISTICS; kind < KINDS; kind++)
		balloon->queue_of[kind] = virtio_has(dev, feature[kind]) ? next++ : -1;
	return true;
}

/* ---- configuration ---- */

void virtio_balloon_set_target(struct virtio_device *dev, u64 bytes)
{
	store_le32(dev->config, (u32)(min(bytes, mem_size(dev->mem)) >> PFN_SHIFT));
	virtio_config_changed(dev);
}

u64 virtio_balloon_actual(const struct virtio_device *dev)
{
	return min((u64)load_le32(dev->config + 4) << PFN_SHIFT, mem_size(dev->mem));
}

/* The driver writes `actual` (at 4) and the poison value (at 12). */
static void config_write(struct virtio_device *dev, u32 offset, unsigned int size, u64 value)
{
	if (range_fits(offset, size, 8) && offset >= 4)
		store_le(dev->config + offset, size, value);
	else if (offset >= 12 && virtio_has(dev, VIRTIO_BALLOON_F_PAGE_POISON))
		store_le(dev->config + offset, size, value);
}

/* ---- life ---- */

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_balloon_options *o = config;
	struct balloon *balloon = of(dev);
	int rc = 0;

	memset(balloon->stats.value, 0xff, sizeof(balloon->stats.value));
	memset(balloon->queue_of, -1, sizeof(balloon->queue_of));
	virtio_offer(dev, VIRTIO_F(VIRTIO_BALLOON_F_STATS_VQ) |
				  VIRTIO_F(VIRTIO_BALLOON_F_REPORTING) |
				  VIRTIO_F(VIRTIO_BALLOON_F_PAGE_POISON));
	if (o && o->deflate_on_oom)
		virtio_offer(dev, VIRTIO_F(VIRTIO_BALLOON_F_DEFLATE_ON_OOM));
	dev->config_size = CONFIG_SIZE;
	/* Inflate, deflate, statistics, reporting: free page hints are not offered. */
	for (int i = 0; i < 4 && !rc; i++)
		rc = virtio_add_queue(dev, QUEUE_SIZE, sizeof(struct virtq_chain), NULL, err);
	return rc;
}

static void reset(struct virtio_device *dev)
{
	struct balloon *balloon = of(dev);

	memset(balloon->queue_of, -1, sizeof(balloon->queue_of));
	memset(balloon->stats.value, 0xff, sizeof(balloon->stats.value));
	balloon->stats.updated_ns = 0;
	balloon->stats_chain = NULL;
	store_le32(dev->config + 4, 0); /* the guest has all its memory again */
	store_le32(dev->config + 12, 0);
}

static void pause(struct virtio_device *dev)
{
	drop_stats_chain(of(dev));
}

static void stats(struct virtio_device *dev, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	struct balloon *balloon = of(dev);

	line(ctx, "actual", virtio_balloon_actual(dev));
	line(ctx, "discarded", balloon->discarded);
	line(ctx, "reported", balloon->reported);
}

static const struct state_field fields[] = {
	STATE_BUFFER(struct balloon, dev.config),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-balloon",
	.version = 1,
	.fields = fields,
};

const struct virtio_class virtio_balloon = {
	.name = "balloon",
	.summary = "gives memory that the guest does not need back to the host",
	.id = VIRTIO_ID_BALLOON,
	.pci_class = 0x00ff00,
	.size = sizeof(struct balloon),
	.in_order = VIRTIO_F(VIRTIO_F_IN_ORDER),
	.init = init,
	.kick = kick,
	.features_set = features_set,
	.queue_stop = queue_stop,
	.config_write = config_write,
	.reset = reset,
	.pause = pause,
	.stats = stats,
	.state = &state,
};
