/*
 * The data path left to the kernel (vhost=on): a pair's rings are ours until take() and again after
 * give_back().
 *
 * Invariants:
 * 1. pair->kernel changes with the bus lock held, to true only on the main loop, whose queues these
 *    are, and only while nothing of the rings is in flight (net.c's invariant 1).
 * 2. A pair is the kernel's only while both of its queues are live and not at rest, the link is up,
 *    the driver uses the pair, and its interrupts have a route, whose eventfd the kernel signals.
 * 3. While it is, nobody here watches the queues' doorbells.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "bus/irq.h"
#include "virtio/features.h"
#include "virtio/net_int.h"

#define MAX_REGIONS 16

/* What the kernel has a say in; the rest of the features is between driver and card. */
#define RING_FEATURES                                                                              \
	(VIRTIO_F(VIRTIO_F_RING_PACKED) | VIRTIO_F(VIRTIO_F_IN_ORDER) |                            \
	 VIRTIO_F(VIRTIO_F_INDIRECT_DESC) | VIRTIO_F(VIRTIO_F_EVENT_IDX) |                         \
	 VIRTIO_F(VIRTIO_F_NOTIF_DATA) | VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF))

static int set_memory(struct net_card_device *card)
{
	size_t count;
	const struct mem_region *region = mem_regions(card->dev.mem, &count);
	struct net_memory memory[MAX_REGIONS];
	unsigned int n = 0;

	for (size_t i = 0; i < count; i++) {
		if (region[i].flags & MEM_READONLY)
			continue;
		if (n == MAX_REGIONS)
			return -E2BIG;
		memory[n++] = (struct net_memory){region[i].gpa, region[i].size, region[i].hva};
	}
	return net_vhost_set_memory(card->net, memory, n);
}

static void vring_of(const struct virtio_queue *queue, struct net_vring *ring)
{
	const struct virtq *vq = &queue->vq;

	*ring = (struct net_vring){
		.size = vq->size,
		.base = vq->avail_idx,
		.desc = vq->desc,
		.avail = vq->avail,
		.used = vq->used,
		.kick_fd = queue->kick_fd,
		.call_fd = __atomic_load_n(&vq->irq, __ATOMIC_ACQUIRE)->fd,
	};
}

static bool ring_ready(const struct virtio_queue *queue)
{
	const struct virtq *vq = &queue->vq;

	return virtio_queue_is_live(queue) && !vq->broken && !vq->stopped && !virtq_inuse(vq) &&
	       !(vq->mode & VIRTQ_PACKED) && __atomic_load_n(&vq->irq, __ATOMIC_ACQUIRE);
}

static bool wanted(const struct net_card_device *card, unsigned int i)
{
	const struct virtio_device *dev = &card->dev;

	/* Both of the driver's headers are then of the 12 bytes that the tap device has. */
	return card->vhost && i < card->active_pairs && net_link(card->net) &&
	       (virtio_is_modern(dev) || virtio_has(dev, VIRTIO_NET_F_MRG_RXBUF)) &&
	       ring_ready(card->pair[i].rx) && ring_ready(card->pair[i].tx);
}

static void watch(struct net_pair *pair, bool on)
{
	struct virtio_queue *queue[] = {pair->rx, pair->tx};

	for (int i = 0; i < 2; i++) {
		if (!on)
			loop_watch_del(&queue[i]->watch);
		else if (!queue[i]->watch.added)
			loop_watch_add(bus_loop(queue[i]->bus), &queue[i]->watch, EPOLLIN);
	}
}

static void take(struct net_card_device *card, unsigned int i)
{
	struct net_pair *pair = &card->pair[i];
	struct net_vring ring[2];
	int rc = card->memory_set ? 0 : set_memory(card);

	card->memory_set |= !rc;
	vring_of(pair->rx, &ring[0]);
	vring_of(pair->tx, &ring[1]);
	watch(pair, false);
	if (!rc)
		rc = net_vhost_start(card->net, i, card->dev.features, ring);
	if (!rc) {
		pair->kernel = true;
		return;
	}
	log_warn("%s: vhost: %s; going on without it", card->dev.id, strerror(-rc));
	card->vhost = false;
	watch(pair, true);
}

/* The positions that the kernel left, in the ring's own words: what was used is in its index. */
static void take_position(struct virtq *vq, u16 base)
{
	vq->avail_idx = vq->cached_avail = base;
	vq->used_idx = vq->batch_idx = load_le16(vq->used + 2);
}

static void give_back(struct net_card_device *card, unsigned int i)
{
	struct net_pair *pair = &card->pair[i];
	u16 base[2];

	if (!pair->kernel)
		return;
	net_vhost_stop(card->net, i, base);
	take_position(&pair->rx->vq, base[0]);
	take_position(&pair->tx->vq, base[1]);
	pair->kernel = false;
	loop_post(bus_loop(card->dev.bus), &card->vhost_work);
}

static void vhost_work(struct loop_work *work)
{
	struct net_card_device *card = container_of(work, struct net_card_device, vhost_work);

	bus_lock(card->dev.bus);
	for (unsigned int i = 0; i < card->pairs; i++) {
		struct net_pair *pair = &card->pair[i];

		if (pair->kernel && !wanted(card, i))
			give_back(card, i);
		if (!pair->kernel && wanted(card, i))
			take(card, i);
		if (!pair->kernel && !pair->rx->watch.added) {
			watch(pair, true);
			virtio_queue_poke(pair->rx);
			virtio_queue_poke(pair->tx);
		}
	}
	bus_unlock(card->dev.bus);
}

void net_vhost_init(struct net_card_device *card)
{
	u64 features = net_vhost_features(card->net);

	card->vhost_work.fn = vhost_work;
	if (!features)
		return;
	if (mem_has_written_hook(card->dev.mem)) {
		log_warn(
			"%s: vhost=on: not with an engine that must see what is written to memory; "
			"going on without it",
			card->dev.id);
		return;
	}
	card->vhost = true;
	card->dev.offered &= features | ~RING_FEATURES;
}

void net_vhost_update(struct net_card_device *card)
{
	if (card->vhost)
		loop_post(bus_loop(card->dev.bus), &card->vhost_work);
}

void net_vhost_rest(struct net_card_device *card)
{
	for (unsigned int i = 0; i < card->pairs; i++)
		give_back(card, i);
}

void net_vhost_queue_stop(struct virtio_queue *queue)
{
	struct net_card_device *card = net_card_of(queue->dev);

	if (queue->index / 2u < card->pairs && queue->index < 2 * card->pairs)
		give_back(card, queue->index / 2u);
}

void net_vhost_free(struct net_card_device *card)
{
	loop_cancel(bus_loop(card->dev.bus), &card->vhost_work);
}
