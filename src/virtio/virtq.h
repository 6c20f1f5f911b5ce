/*
 * Virtqueues, split and packed: Virtio 1.3, sections 2.6 to 2.10. A queue knows guest memory and
 * its rings, no device and no transport.
 *
 * One thread owns a queue while it is live: it alone calls virtq_pop(), _push(), _flush() and the
 * rest of the "owner" part. Setting up and taking down happen while it is not live.
 *
 *	while ((chain = virtq_pop(vq))) ... virtq_push(vq, chain, written); ... virtq_flush(vq);
 *
 * Nothing that is in guest memory is read twice or trusted: descriptors are copied, the copy is
 * validated and turned into iovecs that lie in guest RAM, and only those are used. A ring that
 * breaks the rules is dead from then on (virtq_broken()) until it is set up again.
 */
#ifndef VIRTIO_VIRTQ_H
#define VIRTIO_VIRTQ_H

#include <sys/uio.h>

#include "base/types.h"
#include "bus/irq.h"
#include "mem/mem.h"
#include "state/state.h"

#define VIRTQ_MAX_SIZE 1024

/*
 * A descriptor chain that the driver made available: a slot of the queue, indexed by the head (or
 * buffer id), from pop to push. A device puts it first in its request structure, whose size it
 * gives to virtq_init(); what follows is zero at first and then the device's.
 */
struct virtq_chain {
	struct iovec *out, *in; /* what the device reads; what it writes */
	u16 nout, nin;
	u32 out_len, in_len; /* sums in bytes */
	/* the queue's part */
	u16 id;
	u16 slots; /* places in the ring that it occupies (packed) */
	bool busy;
	bool done; /* IN_ORDER: pushed, waiting for older ones */
	u32 written;
};

/* How the queue works; fixed while it is live. */
enum {
	VIRTQ_PACKED = 1 << 0,
	VIRTQ_EVENT_IDX = 1 << 1,
	VIRTQ_INDIRECT = 1 << 2,
	VIRTQ_IN_ORDER = 1 << 3,
	VIRTQ_LEGACY = 1 << 4, /* before 1.0 */
};

struct virtq_ops {
	/* Interrupt the driver: there are used buffers. Owner's thread. Called when irq is not
	 * set. */
	void (*signal)(void *ctx);
	/* The ring is broken; why is for the log. Owner's thread. */
	void (*broken)(void *ctx, const char *why);
};

/* A descriptor as it lies in memory: sections 2.7.5, 2.8.13. */
struct virtq_desc {
	u8 raw[16];
};

struct virtq {
	/* Set by virtq_init(). */
	struct guest_mem *mem;
	const struct virtq_ops *ops;
	void *ctx;
	u16 max_size;
	size_t slot_size;
	u8 *slots;
	struct iovec *iovs; /* iov_max a slot */
	u32 iov_max;
	struct virtq_desc *table; /* a copy of an indirect table */
	u16 *order;		  /* IN_ORDER: ids as popped, a ring of order_mask + 1 */
	u16 order_mask;

	/* What the driver chose; the transport's to write while the queue is not live. */
	u16 size;			   /* 1 to max_size; split: a power of two */
	u64 desc_gpa, avail_gpa, used_gpa; /* packed: ring, driver area, device area */

	/* Set by virtq_start(). */
	u32 mode;
	u8 *desc, *avail, *used;
	bool broken;
	bool stopped; /* atomic: pop nothing (pause) */

	/* Positions. Split: free-running 16-bit counts. Packed: places, with wrap counters. */
	u16 avail_idx, used_idx;
	bool avail_wrap, used_wrap;
	u16 cached_avail; /* split: the driver's index as last read */
	/* The batch that is pushed and not flushed. */
	u16 batch_idx;	 /* used_idx at its start */
	u16 batch_flags; /* packed: flags of its first descriptor, written last */
	u16 batch_count; /* buffers */
	bool batch_wrap;
	u16 order_head, order_tail;
	u16 inuse;	/* popped and not pushed; atomic for readers elsewhere */
	u32 notify_off; /* kicks are suppressed now */

	const struct irq_route *irq; /* atomic: interrupts the driver; NULL: ops->signal does */
	u64 kicks, requests, signals; /* for --stats; atomic for readers */
};

/* Allocate for up to max_size entries; slot_size >= sizeof(struct virtq_chain). 0 or -ENOMEM. */
int virtq_init(struct virtq *vq, struct guest_mem *mem, u16 max_size, size_t slot_size,
	       const struct virtq_ops *ops, void *ctx);
void virtq_release(struct virtq *vq);

/* The driver's choices back to what they are after reset. */
void virtq_reset(struct virtq *vq);

/*
 * Check the driver's choices and map the rings. -EINVAL (size, alignment) or -EFAULT (not RAM). The
 * positions are left as they are: zero after virtq_reset(), or what was loaded.
 */
int virtq_start(struct virtq *vq, u32 mode);
/* Every chain is forgotten: nothing of them may be in flight any more. */
void virtq_stop(struct virtq *vq);

/* What is saved of a queue. No chain may be in flight; loading is followed by virtq_start(). */
struct virtq_saved {
	u64 desc, avail, used;
	u16 size, avail_idx, used_idx;
	bool avail_wrap, used_wrap;
};
extern const struct state_desc virtq_saved_state;
void virtq_save(const struct virtq *vq, struct virtq_saved *saved);
/* -EINVAL for what no queue of this kind can be. */
int virtq_load(struct virtq *vq, const struct virtq_saved *saved);

/* ---- owner ---- */

/* The next chain, or NULL: none, stopped or broken. */
struct virtq_chain *virtq_pop(struct virtq *vq);
/* Take back the chain that was popped last. */
void virtq_unpop(struct virtq *vq, struct virtq_chain *chain);
/* Is there a chain to pop? */
bool virtq_has_avail(struct virtq *vq);

/* Give the chain back, the first `written` bytes of its `in` part having been written. The driver
 * sees it after virtq_flush(). With IN_ORDER it may stay here until older ones come back. */
void virtq_push(struct virtq *vq, struct virtq_chain *chain, u32 written);
/* Publish what was pushed, all at once, and interrupt the driver unless it asked not to be. */
void virtq_flush(struct virtq *vq);
/* One that has been waiting: push and flush. */
static inline void virtq_complete(struct virtq *vq, struct virtq_chain *chain, u32 written)
{
	virtq_push(vq, chain, written);
	virtq_flush(vq);
}

/* The driver need not kick while the owner looks at the ring anyway. */
void virtq_notify_disable(struct virtq *vq);
/* Ask for kicks again. True when chains have arrived meanwhile: go on popping. */
bool virtq_notify_enable(struct virtq *vq);

/* Declare the ring broken, e.g. because a message in it makes no sense to continue after. */
void virtq_break(struct virtq *vq, const char *why);

static inline bool virtq_is_live(const struct virtq *vq)
{
	return vq->desc && !vq->broken;
}

/* Requests popped and not pushed. Any thread. */
static inline u16 virtq_inuse(const struct virtq *vq)
{
	return __atomic_load_n(&vq->inuse, __ATOMIC_ACQUIRE);
}

#endif
