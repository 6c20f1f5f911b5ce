/*
 * Random bytes from the kernel, straight into the guest's buffers, at most CHUNK at a time. With a
 * limit, buffers wait in the ring until there is budget again.
 */
#include "virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include "bus/bus.h"
#include "os/clock.h"
#include "virtio/features.h"
#include "virtio/virtio.h"

#define QUEUE_SIZE 64
#define CHUNK	   4096u
#define BATCH	   64
#define PERIOD_NS  (NSEC_PER_SEC / 10)

struct rng {
	struct virtio_device dev;
	u64 limit; /* bytes a period, 0: none */
	u64 left;  /* in this period */
	struct bus_timer timer;
};

static struct rng *of(struct virtio_device *dev)
{
	return container_of(dev, struct rng, dev);
}

static u32 fill(const struct virtq_chain *chain, u32 want)
{
	u32 done = 0;

	for (u16 i = 0; i < chain->nin && done < want; i++) {
		size_t n = min(chain->in[i].iov_len, (size_t)(want - done));
		/* More than 256 bytes may be cut short by a signal; what came is enough. */
		ssize_t got = getrandom(chain->in[i].iov_base, n, 0);

		if (got <= 0)
			break;
		done += (u32)got;
		if ((size_t)got < n)
			break;
	}
	return done;
}

/* Wait for the next period; buffers stay in the ring. */
static void wait(struct rng *rng)
{
	if (!rng->timer.armed)
		bus_timer_arm(&rng->timer, clock_now_ns() + PERIOD_NS);
}

static void kick(struct virtio_queue *queue)
{
	struct rng *rng = of(queue->dev);
	struct virtq *vq = &queue->vq;

	for (int i = 0; i < BATCH; i++) {
		struct virtq_chain *chain;
		u32 want;

		if (rng->limit && !rng->left && virtq_has_avail(vq)) {
			wait(rng);
			virtq_flush(vq);
			return;
		}
		chain = virtq_pop(vq);
		if (!chain) {
			virtq_flush(vq);
			if (!virtq_notify_enable(vq))
				return;
			continue;
		}
		want = min(chain->in_len, CHUNK);
		if (rng->limit) {
			want = (u32)min((u64)want, rng->left);
			rng->left -= want;
		}
		virtq_push(vq, chain, fill(chain, want));
	}
	/* A long ring: let others have a turn. */
	virtq_flush(vq);
	virtio_queue_poke(queue);
}

static void refill(struct bus_timer *timer)
{
	struct rng *rng = container_of(timer, struct rng, timer);

	rng->left = rng->limit;
	virtio_queue_poke(&rng->dev.queue[0]);
}

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_rng_options *c = config;
	struct rng *rng = of(dev);

	bus_timer_init(dev->bus, &rng->timer, refill);
	if (c && c->max_bytes_per_second)
		rng->limit = max(1ULL, c->max_bytes_per_second * PERIOD_NS / NSEC_PER_SEC);
	rng->left = rng->limit;
	return virtio_add_queue(dev, QUEUE_SIZE, sizeof(struct virtq_chain), NULL, err);
}

static void stop(struct virtio_device *dev)
{
	bus_timer_disarm(&of(dev)->timer);
}

const struct virtio_class virtio_rng = {
	.name = "rng",
	.summary = "random numbers from the host",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0x00ff00,
	.size = sizeof(struct rng),
	.in_order = VIRTIO_F(VIRTIO_F_IN_ORDER),
	.init = init,
	.kick = kick,
	.reset = stop,
	.stop = stop,
	.state = STATE_NONE,
};
