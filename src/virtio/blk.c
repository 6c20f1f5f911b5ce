/*
 * Each queue has a thread, which owns the virtqueue and a block queue: it takes requests, submits
 * them, and gives them back.
 *
 * Invariants:
 * 1. A request's slot (struct request) is in use from pop to push; its iovecs point at guest
 *    memory, so nothing is copied but headers and the status byte.
 * 2. The status byte is the last byte of the last writable buffer (5.2.6); while a request is in
 *    flight that iovec is one byte shorter.
 * 3. Headers and segments are copied before they are looked at.
 */
#include "virtio/blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "os/thread.h"
#include "virtio/features.h"
#include "virtio/virtio.h"

#define SECTOR	     512
#define MAX_QUEUES   16
#define MAX_SEGMENTS 16
#define MAX_RANGE    (1u << 22) /* sectors of one discard or zeroing: 2 GiB */
#define DEFAULT_SIZE 256
#define HEADER_SIZE  16
#define SEGMENT_SIZE 16
#define CONFIG_SIZE  60
#define WCE_OFFSET   32
#define HEADS	     16 /* of a disk that is as old as the question */
#define TRACK	     63
#define FLUSH_OUT    5	  /* a flush, before 1.0 */
#define TURN_LIMIT   4096 /* requests before the loop gets a turn */

struct segment {
	u64 offset, len; /* bytes */
	u32 flags;	 /* of the block request */
};

struct request {
	struct virtq_chain chain; /* first */
	struct block_req req;
	struct queue *queue;
	u8 *status;
	u32 type;
	u32 written; /* what to report on success */
	u8 segments, segment;
	struct segment seg[MAX_SEGMENTS];
};

struct queue {
	struct blk *blk;
	struct virtio_queue *vq;
	struct block_queue *bq;
	struct loop *loop;
	struct loop_watch done_watch;
	struct thread thread;
	u64 read_bytes, written_bytes, errors; /* atomic for readers */
};

struct blk {
	struct virtio_device dev;
	struct block *block;
	struct block_info info;
	char serial[VIRTIO_BLK_ID_BYTES];
	u64 size;	/* bytes; atomic */
	bool writeback; /* atomic */
	int told;	/* atomic: the last error that was logged */
	unsigned int nqueues;
	struct queue queue[MAX_QUEUES];
	struct loop_work resized;
};

static struct blk *of(struct virtio_device *dev)
{
	return container_of(dev, struct blk, dev);
}

static void add(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* ---- giving requests back ---- */

static void finish(struct request *r, u8 status)
{
	struct virtq_chain *chain = &r->chain;
	struct guest_mem *mem = r->queue->blk->dev.mem;
	u32 written = 0;

	if (status == VIRTIO_BLK_S_OK)
		written = r->written + 1;
	else
		add(&r->queue->errors, 1);
	if (r->status) {
		*r->status = status;
		mem_written_hva(mem, r->status, 1);
		chain->in[chain->nin - 1].iov_len++;
	}
	virtq_push(&r->queue->vq->vq, chain, written);
}

/* The guest learns only that it failed; why (no space left, a bad disk) is for who runs it, once.
 */
static void tell(struct blk *blk, int result)
{
	if (__atomic_exchange_n(&blk->told, result, __ATOMIC_RELAXED) != result)
		log_guest("%s: the guest gets input/output errors: %s", blk->dev.id,
			  strerror(-result));
}

static u8 status_of(struct request *r, int result)
{
	if (!result)
		return VIRTIO_BLK_S_OK;
	if (result != -EOPNOTSUPP)
		tell(r->queue->blk, result);
	return result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void blk_done(struct block_req *req, int result)
{
	struct request *r = container_of(req, struct request, req);

	finish(r, status_of(r, result));
}

/* ---- reading, writing, flushing ---- */

/* Sectors from the guest to bytes; false where they do not lie inside the disk. */
static bool to_bytes(struct blk *blk, u64 sector, u64 len, u64 *offset)
{
	return !mul_overflows(offset, sector, (u64)SECTOR) &&
	       range_fits(*offset, len, __atomic_load_n(&blk->size, __ATOMIC_RELAXED));
}

/* 5.2.6.2: without a way to flush, or with the cache turned off, writes are durable at once. */
static u32 write_flags(const struct blk *blk)
{
	return __atomic_load_n(&blk->writeback, __ATOMIC_RELAXED) ? 0 : BLOCK_FUA;
}

static void submit(struct request *r, enum block_op op, u64 offset, u64 len, u32 flags)
{
	r->req.op = op;
	r->req.flags = flags;
	r->req.offset = offset;
	r->req.len = len;
	block_submit(r->queue->bq, &r->req);
}

static void start_read(struct request *r, u64 sector)
{
	struct virtq_chain *chain = &r->chain;
	u32 len = chain->in_len - 1;
	u64 offset;

	if (len % SECTOR || !to_bytes(r->queue->blk, sector, len, &offset)) {
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	r->written = len;
	if (!len) {
		finish(r, VIRTIO_BLK_S_OK);
		return;
	}
	r->req.iov = chain->in;
	r->req.niov = chain->nin - !chain->in[chain->nin - 1].iov_len;
	r->req.done = blk_done;
	add(&r->queue->read_bytes, len);
	submit(r, BLOCK_READ, offset, len, 0);
}

static void start_write(struct request *r, u64 sector)
{
	struct virtq_chain *chain = &r->chain;
	struct blk *blk = r->queue->blk;
	struct iovec *iov = chain->out;
	size_t niov = chain->nout;
	u32 len = chain->out_len - HEADER_SIZE;
	u64 offset;

	if (blk->info.readonly || len % SECTOR || !to_bytes(blk, sector, len, &offset)) {
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!len) {
		finish(r, VIRTIO_BLK_S_OK);
		return;
	}
	iov_discard_front(&iov, &niov, HEADER_SIZE);
	r->req.iov = iov;
	r->req.niov = (int)niov;
	r->req.done = blk_done;
	add(&r->queue->written_bytes, len);
	submit(r, BLOCK_WRITE, offset, len, write_flags(blk));
}

static void start_flush(struct request *r)
{
	r->req.done = blk_done;
	submit(r, BLOCK_FLUSH, 0, 0, 0);
}

static void get_id(struct request *r)
{
	const char *serial = r->queue->blk->serial;
	u32 len = min(r->chain.in_len - 1, (u32)VIRTIO_BLK_ID_BYTES);

	r->written = (u32)iov_from_buf(r->chain.in, r->chain.nin, 0, serial, len);
	finish(r, VIRTIO_BLK_S_OK);
}

/* ---- discarding and zeroing: several ranges, one after the other ---- */

static void next_segment(struct request *r)
{
	const struct segment *s = &r->seg[r->segment++];

	submit(r, r->type == VIRTIO_BLK_T_DISCARD ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, s->offset,
	       s->len, s->flags);
}

static void segment_done(struct block_req *req, int result)
{
	struct request *r = container_of(req, struct request, req);

	if (result || r->segment == r->segments)
		finish(r, status_of(r, result));
	else
		next_segment(r);
}

/* 5.2.6.2: what may stand in a segment. */
static u8 read_segment(struct request *r, const u8 *raw, struct segment *s)
{
	u32 sectors = load_le32(raw + 8), flags = load_le32(raw + 12);
	bool zero = r->type == VIRTIO_BLK_T_WRITE_ZEROES;

	if (flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return VIRTIO_BLK_S_UNSUPP;
	s->len = (u64)sectors * SECTOR;
	if (!sectors || sectors > MAX_RANGE ||
	    !to_bytes(r->queue->blk, load_le64(raw), s->len, &s->offset))
		return VIRTIO_BLK_S_IOERR;
	s->flags = flags ? BLOCK_MAY_UNMAP : 0;
	if (zero)
		s->flags |= write_flags(r->queue->blk);
	return VIRTIO_BLK_S_OK;
}

static void start_ranges(struct request *r)
{
	u32 len = r->chain.out_len - HEADER_SIZE;
	u8 raw[MAX_SEGMENTS * SEGMENT_SIZE], status = VIRTIO_BLK_S_OK;

	if (r->queue->blk->info.readonly || !len || len % SEGMENT_SIZE || len > sizeof(raw)) {
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	iov_to_buf(r->chain.out, r->chain.nout, HEADER_SIZE, raw, len);
	r->segments = (u8)(len / SEGMENT_SIZE);
	r->segment = 0;
	for (u8 i = 0; i < r->segments && !status; i++)
		status = read_segment(r, raw + i * SEGMENT_SIZE, &r->seg[i]);
	if (status) {
		finish(r, status);
		return;
	}
	r->req.done = segment_done;
	next_segment(r);
}

/* ---- taking requests ---- */

/* Take the status byte off the writable part; false where there is none. */
static bool take_status(struct request *r)
{
	struct virtq_chain *chain = &r->chain;
	struct iovec *last = chain->in + chain->nin - 1;

	r->status = NULL;
	r->written = 0;
	if (!chain->nin)
		return false;
	last->iov_len--;
	r->status = (u8 *)last->iov_base + last->iov_len;
	return true;
}

static void blk_start(struct queue *queue, struct virtq_chain *chain)
{
	struct request *r = container_of(chain, struct request, chain);
	u8 header[HEADER_SIZE];
	u64 sector;

	r->queue = queue;
	if (!take_status(r)) {
		/* Nowhere to answer: the driver sees a length of 0. */
		virtq_push(&queue->vq->vq, chain, 0);
		return;
	}
	if (iov_to_buf(chain->out, chain->nout, 0, header, HEADER_SIZE) < HEADER_SIZE) {
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	r->type = load_le32(header);
	sector = load_le64(header + 8);
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		start_read(r, sector);
		break;
	case VIRTIO_BLK_T_OUT:
		start_write(r, sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		start_flush(r);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		start_ranges(r);
		break;
	case FLUSH_OUT:
		if (virtio_is_modern(&queue->blk->dev))
			finish(r, VIRTIO_BLK_S_UNSUPP);
		else
			start_flush(r);
		break;
	default:
		finish(r, VIRTIO_BLK_S_UNSUPP);
		break;
	}
}

static void blk_kick(struct virtio_queue *vq)
{
	struct queue *queue = &of(vq->dev)->queue[vq->index];
	struct virtq_chain *chain;
	int left = TURN_LIMIT;

	do {
		virtq_notify_disable(&vq->vq);
		while (left && (chain = virtq_pop(&vq->vq))) {
			blk_start(queue, chain);
			left--;
		}
		block_queue_flush(queue->bq);
		virtq_flush(&vq->vq);
	} while (left && virtq_notify_enable(&vq->vq));
	if (!left)
		virtio_queue_poke(vq);
}

static void on_done(struct loop_watch *watch, u32 events)
{
	struct queue *queue = container_of(watch, struct queue, done_watch);

	block_queue_poll(queue->bq);
	virtq_flush(&queue->vq->vq);
}

static void queue_stop(struct virtio_queue *vq)
{
	block_queue_drain(of(vq->dev)->queue[vq->index].bq);
}

static void *queue_thread(void *arg)
{
	struct queue *queue = arg;

	loop_run(queue->loop);
	block_queue_drain(queue->bq);
	return NULL;
}

/* ---- configuration ---- */

static void set_capacity(struct blk *blk)
{
	__atomic_store_n(&blk->size, align_down(block_size(blk->block), SECTOR), __ATOMIC_RELAXED);
	store_le64(blk->dev.config, blk->size / SECTOR);
	/* Cylinders, heads, sectors, as far as 16 bits of cylinders go: for the BIOS and its like.
	 */
	store_le16(blk->dev.config + 16, (u16)min(blk->size / SECTOR / (HEADS * TRACK), 65535ULL));
	blk->dev.config[18] = HEADS;
	blk->dev.config[19] = TRACK;
}

static void resized_work(struct loop_work *work)
{
	struct blk *blk = container_of(work, struct blk, resized);

	bus_lock(blk->dev.bus);
	set_capacity(blk);
	virtio_config_changed(&blk->dev);
	bus_unlock(blk->dev.bus);
}

static void on_resize(void *arg, u64 size)
{
	struct blk *blk = arg;

	loop_post(bus_loop(blk->dev.bus), &blk->resized);
}

static void set_writeback(struct blk *blk, bool on)
{
	blk->dev.config[WCE_OFFSET] = on;
	__atomic_store_n(&blk->writeback, on, __ATOMIC_RELAXED);
}

static bool features_set(struct virtio_device *dev)
{
	/* 5.2.5.2: a driver that cannot flush begins with writethrough; before 1.0 one that can
	 * choose may have done so already (5.2.5.3). */
	if (virtio_is_modern(dev) || !virtio_has(dev, VIRTIO_BLK_F_CONFIG_WCE))
		set_writeback(of(dev), virtio_has(dev, VIRTIO_BLK_F_FLUSH));
	return true;
}

static void config_write(struct virtio_device *dev, u32 offset, unsigned int size, u64 value)
{
	if (offset == WCE_OFFSET && size == 1 && virtio_has(dev, VIRTIO_BLK_F_CONFIG_WCE))
		set_writeback(of(dev), value & 1);
}

static void reset(struct virtio_device *dev)
{
	set_writeback(of(dev), true);
}

static void set_config(struct blk *blk, u16 queue_size)
{
	const struct block_info *info = &blk->info;
	u8 *c = blk->dev.config;
	u32 align = max(info->discard_align / SECTOR, 1u);

	blk->dev.config_size = CONFIG_SIZE;
	set_capacity(blk);
	store_le32(c + 12, queue_size - 2u); /* seg_max: header and status are extra */
	store_le32(c + 20, info->block_size > 512 ? info->block_size : 512);
	c[24] = (u8)(info->block_size < 4096 ? 3 : 0); /* physical blocks of 4 KiB */
	store_le16(c + 26, (u16)(4096 / max(info->block_size, 512u)));
	store_le16(c + 34, (u16)blk->nqueues);
	store_le32(c + 36, MAX_RANGE);
	store_le32(c + 40, MAX_SEGMENTS);
	store_le32(c + 44, align);
	store_le32(c + 48, MAX_RANGE);
	store_le32(c + 52, MAX_SEGMENTS);
	c[56] = 1; /* zeroing may unmap */
}

/* ---- life ---- */

static int init_queue(struct blk *blk, unsigned int n, u16 size, struct err *err)
{
	struct queue *queue = &blk->queue[n];
	int rc;

	queue->blk = blk;
	queue->loop = loop_new();
	if (!queue->loop)
		return err_set(err, errno, "no event loop: %s", strerror(errno));
	rc = block_queue_new(&queue->bq, blk->block, size, err);
	if (rc)
		return rc;
	queue->done_watch = (struct loop_watch){.fd = block_queue_fd(queue->bq), .fn = on_done};
	rc = loop_watch_add(queue->loop, &queue->done_watch, EPOLLIN);
	if (rc)
		return err_set(err, -rc, "no event loop: %s", strerror(-rc));
	rc = virtio_add_queue(&blk->dev, size, sizeof(struct request), queue->loop, err);
	queue->vq = &blk->dev.queue[n];
	return rc;
}

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_blk_options *c = config;
	unsigned int size = c->queue_size ? c->queue_size : DEFAULT_SIZE;
	struct blk *blk = of(dev);
	int rc = 0;

	if (!is_power_of_2(size) || size < 4 || size > VIRTQ_MAX_SIZE || c->queues > MAX_QUEUES)
		return err_set(err, EINVAL,
			       "%u queues of %u entries: at most %d, each with a power of two from "
			       "4 to %d",
			       c->queues, size, MAX_QUEUES, VIRTQ_MAX_SIZE);
	blk->block = c->block;
	blk->resized.fn = resized_work;
	block_get_info(blk->block, &blk->info);
	if (c->serial)
		memcpy(blk->serial, c->serial, min(strlen(c->serial), sizeof(blk->serial)));
	blk->nqueues = c->queues ? c->queues : 1;
	virtio_offer(dev, VIRTIO_F(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_F(VIRTIO_BLK_F_BLK_SIZE) |
				  VIRTIO_F(VIRTIO_BLK_F_TOPOLOGY) |
				  VIRTIO_F(VIRTIO_BLK_F_GEOMETRY) | VIRTIO_F(VIRTIO_BLK_F_MQ));
	if (blk->info.readonly)
		virtio_offer(dev, VIRTIO_F(VIRTIO_BLK_F_RO));
	else
		virtio_offer(dev, VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE) |
					  VIRTIO_F(VIRTIO_BLK_F_DISCARD) |
					  VIRTIO_F(VIRTIO_BLK_F_WRITE_ZEROES));
	virtio_offer(dev, VIRTIO_F(VIRTIO_BLK_F_FLUSH));
	set_config(blk, (u16)size);
	set_writeback(blk, true);
	for (unsigned int i = 0; i < blk->nqueues && !rc; i++)
		rc = init_queue(blk, i, (u16)size, err);
	return rc;
}

static int ready(struct virtio_device *dev, struct err *err)
{
	struct blk *blk = of(dev);

	for (unsigned int i = 0; i < blk->nqueues; i++) {
		char name[48];
		int rc;

		snprintf(name, sizeof(name), "%s:%u", dev->id, i);
		rc = thread_start(&blk->queue[i].thread, THREAD_BLOCK, name, queue_thread,
				  &blk->queue[i]);
		if (rc)
			return err_set(err, -rc, "no thread: %s", strerror(-rc));
	}
	block_on_resize(blk->block, on_resize, blk);
	return 0;
}

static void stop(struct virtio_device *dev)
{
	struct blk *blk = of(dev);

	if (blk->block)
		block_on_resize(blk->block, NULL, NULL);
	for (unsigned int i = 0; i < blk->nqueues; i++)
		if (blk->queue[i].thread.started)
			loop_stop(blk->queue[i].loop, 0);
	for (unsigned int i = 0; i < blk->nqueues; i++)
		thread_join(&blk->queue[i].thread);
	if (blk->resized.fn)
		loop_cancel(bus_loop(dev->bus), &blk->resized);
}

static void free_device(struct virtio_device *dev)
{
	struct blk *blk = of(dev);

	for (unsigned int i = 0; i < blk->nqueues; i++) {
		struct queue *queue = &blk->queue[i];

		loop_watch_del(&queue->done_watch);
		block_queue_free(queue->bq);
		loop_free(queue->loop);
	}
}

static void stats(struct virtio_device *dev, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	struct blk *blk = of(dev);
	u64 read = 0, written = 0, errors = 0;

	for (unsigned int i = 0; i < blk->nqueues; i++) {
		read += __atomic_load_n(&blk->queue[i].read_bytes, __ATOMIC_RELAXED);
		written += __atomic_load_n(&blk->queue[i].written_bytes, __ATOMIC_RELAXED);
		errors += __atomic_load_n(&blk->queue[i].errors, __ATOMIC_RELAXED);
	}
	line(ctx, "read_bytes", read);
	line(ctx, "written_bytes", written);
	line(ctx, "errors", errors);
}

/* ---- saved state ---- */

static int loaded(void *object, struct err *err)
{
	struct blk *blk = object;

	set_writeback(blk, blk->writeback);
	return 0;
}

static const struct state_field fields[] = {
	STATE_FIELD(struct blk, writeback),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-blk",
	.version = 1,
	.fields = fields,
	.loaded = loaded,
};

const struct virtio_class virtio_blk = {
	.name = "blk",
	.summary = "disk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x010000,
	.size = sizeof(struct blk),
	.init = init,
	.ready = ready,
	.kick = blk_kick,
	.features_set = features_set,
	.queue_stop = queue_stop,
	.config_write = config_write,
	.reset = reset,
	.stop = stop,
	.free = free_device,
	.stats = stats,
	.state = &state,
};
