/*
 * Each pair of queues belongs to the thread of net_loop() for that pair: it takes what the driver
 * sends, and fills what the driver receives into.
 *
 * Invariants:
 * 1. Nothing is in flight between callbacks: a chain that is popped is pushed or taken back before
 *    the function returns.
 * 2. While the driver has given too few receive buffers, kicks of that queue are enabled, and a
 *    kick resumes the link. While the link is full, tx_full is set and sendable() goes on.
 */
#include "virtio/net.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "virtio/features.h"
#include "virtio/net_int.h"

#define DEFAULT_SIZE 256
#define MAX_BUFFERS  128 /* that one frame may be spread over */
#define CONFIG_SIZE  12
#define TURN_LIMIT   32 /* batches before the loop gets a turn */

static void add(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* 5.1.6: 12 bytes, but 10 for a driver from before 1.0 without merged buffers. */
static u32 header_size(const struct virtio_device *dev)
{
	return virtio_is_modern(dev) || virtio_has(dev, VIRTIO_NET_F_MRG_RXBUF) ? 12 : 10;
}

/* The link's callbacks come without locks; queues on the main loop need the bus lock. */
static void enter(struct virtio_queue *queue)
{
	if (!queue->loop)
		bus_lock(queue->bus);
}

static void leave(struct virtio_queue *queue)
{
	if (!queue->loop)
		bus_unlock(queue->bus);
}

/* ---- receiving ---- */

static void make_header(const struct net_card_device *card, const struct net_offload *o,
			u8 header[12], u16 buffers)
{
	u32 mask = __atomic_load_n(&card->receive_mask, __ATOMIC_RELAXED);
	u8 flags = o->flags & NET_HDR_NEEDS_CSUM;

	/* 5.1.6.4.1: without GUEST_CSUM flags are zero. */
	if (mask & NET_CSUM)
		flags |= o->flags & NET_HDR_DATA_VALID;
	header[0] = flags;
	header[1] = o->gso_type;
	store_le16(header + 2, o->hdr_len);
	store_le16(header + 4, o->gso_size);
	store_le16(header + 6, o->csum_start);
	store_le16(header + 8, o->csum_offset);
	store_le16(header + 10, buffers);
}

/* Pop buffers for `need` bytes; how many, 0: too few (none is kept), -1: cannot be done at all. */
static int take_buffers(struct virtq *vq, bool merge, u32 header, u32 need,
			struct virtq_chain **chains)
{
	u32 room = 0;
	int n = 0;

	while (room < need) {
		struct virtq_chain *chain = n < MAX_BUFFERS ? virtq_pop(vq) : NULL;

		/* Ask for a kick at what comes after all that is there, then look once more. */
		if (!chain && n < MAX_BUFFERS && virtq_notify_enable(vq))
			continue;
		if (chain && n == 0 && chain->in_len < header) {
			virtq_break(vq, "a receive buffer that cannot hold the header");
			return 0;
		}
		if (!chain || (!merge && chain->in_len < need)) {
			bool hopeless = chain || n == MAX_BUFFERS;

			if (chain)
				virtq_unpop(vq, chain);
			while (n)
				virtq_unpop(vq, chains[--n]);
			return hopeless ? -1 : 0;
		}
		chains[n++] = chain;
		room = chain->in_len > need - room ? need : room + chain->in_len;
	}
	return n;
}

/* Spread header and frame over the buffers: each but the last is filled completely. */
static void fill_buffers(struct virtq *vq, struct virtq_chain **chains, int n, const u8 *header,
			 u32 header_len, const struct net_frame *frame)
{
	u32 at = 0, done = 0; /* in the frame */

	for (int i = 0; i < n; i++) {
		struct virtq_chain *c = chains[i];
		u32 used = 0, part;

		if (!i)
			used = (u32)iov_from_buf(c->in, c->nin, 0, header, header_len);
		part = min(c->in_len - used, frame->len - done);
		for (u32 k = 0, skip = at; k < frame->niov && part; k++) {
			u32 len = (u32)frame->iov[k].iov_len, take;

			if (skip >= len) {
				skip -= len;
				continue;
			}
			take = min(len - skip, part);
			iov_from_buf(c->in, c->nin, used, (u8 *)frame->iov[k].iov_base + skip,
				     take);
			skip = 0;
			used += take;
			part -= take;
			done += take;
		}
		at = done;
		virtq_push(vq, c, used);
	}
}

/* 5.1.4.1: what the driver must not be handed once it knows the MTU: longer frames, but for those
 * that are to be cut. The header may carry a VLAN tag. */
static bool exceeds_mtu(const struct net_card_device *card, const struct net_frame *frame)
{
	return virtio_has(&card->dev, VIRTIO_NET_F_MTU) &&
	       (frame->offload.gso_type & ~NET_GSO_ECN) == NET_GSO_NONE &&
	       frame->len > load_le16(card->dev.config + 10) + 18u;
}

/* True when the frame is dealt with, false when it must wait for buffers. */
static bool receive_one(struct net_card_device *card, struct net_pair *pair,
			const struct net_frame *frame)
{
	struct virtq *vq = &pair->rx->vq;
	struct virtq_chain *chains[MAX_BUFFERS];
	u32 header_len = header_size(&card->dev);
	u8 header[12], head[18];
	int n;

	iov_to_buf(frame->iov, frame->niov, 0, head, min(frame->len, (u32)sizeof(head)));
	if (!net_filter_wants(card, head, frame->len) || exceeds_mtu(card, frame) ||
	    !net_offload_check(&frame->offload, frame->len,
			       __atomic_load_n(&card->receive_mask, __ATOMIC_RELAXED))) {
		add(&pair->filtered, 1);
		return true;
	}
	n = take_buffers(vq, virtio_has(&card->dev, VIRTIO_NET_F_MRG_RXBUF), header_len,
			 header_len + frame->len, chains);
	if (n < 0)
		add(&pair->malformed, 1);
	if (n <= 0)
		return n < 0;
	make_header(card, &frame->offload, header, (u16)n);
	fill_buffers(vq, chains, n, header, header_len, frame);
	return true;
}

static u32 net_received(void *ctx, unsigned int index, const struct net_frame *frames, u32 n)
{
	struct net_card_device *card = ctx;
	struct net_pair *pair = &card->pair[index];
	u32 taken = n;

	/* 5.1.6.5.6.2: nothing on queues that the driver has not asked for. */
	if (index >= __atomic_load_n(&card->active_pairs, __ATOMIC_RELAXED))
		return n;
	enter(pair->rx);
	/* A card whose driver is not there takes frames and drops them. */
	if (virtio_queue_is_live(pair->rx) && !pair->rx->vq.broken) {
		virtq_notify_disable(&pair->rx->vq);
		for (taken = 0; taken < n && receive_one(card, pair, &frames[taken]); taken++)
			;
		virtq_flush(&pair->rx->vq);
	}
	leave(pair->rx);
	return taken;
}

/* ---- sending ---- */

struct batch {
	struct virtq_chain *chain[NET_BATCH];
	struct net_frame frame[NET_BATCH];
	u32 n;
};

/* Header and data of a chain; false for what no card could send. */
static bool make_frame(struct net_card_device *card, const struct virtq_chain *chain,
		       struct net_frame *frame)
{
	u32 header_len = header_size(&card->dev);
	struct iovec *iov = chain->out;
	size_t niov = chain->nout;
	u8 h[12];

	if (chain->out_len < header_len + NET_MIN_FRAME ||
	    chain->out_len - header_len > NET_MAX_FRAME)
		return false;
	iov_to_buf(iov, niov, 0, h, header_len);
	iov_discard_front(&iov, &niov, header_len);
	*frame = (struct net_frame){
		.offload = {.flags = h[0] & NET_HDR_NEEDS_CSUM,
			    .gso_type = h[1],
			    .hdr_len = load_le16(h + 2),
			    .gso_size = load_le16(h + 4),
			    .csum_start = load_le16(h + 6),
			    .csum_offset = load_le16(h + 8)},
		.iov = iov,
		.niov = (u32)niov,
		.len = chain->out_len - header_len,
	};
	/* hdr_len is a hint (5.1.6.2.1); one that lies past the end is not passed on. */
	if (frame->offload.hdr_len > frame->len)
		frame->offload.hdr_len = 0;
	return net_offload_check(&frame->offload, frame->len, card->send_mask);
}

static void take_batch(struct net_card_device *card, struct net_pair *pair, struct batch *b)
{
	struct virtq_chain *chain;

	b->n = 0;
	while (b->n < NET_BATCH && (chain = virtq_pop(&pair->tx->vq))) {
		if (make_frame(card, chain, &b->frame[b->n])) {
			b->chain[b->n++] = chain;
			continue;
		}
		add(&pair->malformed, 1);
		/* In its place: what came before it goes out first. */
		b->frame[b->n].iov = NULL;
		b->chain[b->n++] = chain;
	}
}

/* Send runs of good frames; the number dealt with. */
static u32 send_batch(struct net_card_device *card, unsigned int index, struct batch *b)
{
	u32 done = 0;

	while (done < b->n) {
		u32 run = 0, sent;

		while (done + run < b->n && b->frame[done + run].iov)
			run++;
		sent = run ? net_send(card->net, index, b->frame + done, run) : 0;
		done += sent;
		if (sent < run)
			break;
		if (done < b->n) /* a malformed one: dropped */
			done++;
	}
	return done;
}

static void send_all(struct net_card_device *card, struct net_pair *pair)
{
	unsigned int index = (unsigned int)(pair - card->pair);
	struct virtq *vq = &pair->tx->vq;
	struct batch b;
	int left = TURN_LIMIT;

	do {
		virtq_notify_disable(vq);
		do {
			u32 done;

			take_batch(card, pair, &b);
			done = send_batch(card, index, &b);
			for (u32 i = b.n; i > done; i--)
				virtq_unpop(vq, b.chain[i - 1]);
			for (u32 i = 0; i < done; i++)
				virtq_push(vq, b.chain[i], 0);
			virtq_flush(vq);
			pair->tx_full = done < b.n;
			if (pair->tx_full)
				return;
		} while (b.n == NET_BATCH && --left);
	} while (left && virtq_notify_enable(vq));
	if (!left)
		virtio_queue_poke(pair->tx);
}

static void net_sendable(void *ctx, unsigned int index)
{
	struct net_card_device *card = ctx;
	struct net_pair *pair = &card->pair[index];

	if (index >= card->pairs)
		return;
	enter(pair->tx);
	if (virtio_queue_is_live(pair->tx))
		send_all(card, pair);
	leave(pair->tx);
}

/* 5.1.2: after all pairs, but after the first one for a driver that knows of no others. */
static unsigned int ctrl_index(const struct net_card_device *card)
{
	return virtio_has(&card->dev, VIRTIO_NET_F_MQ) ? 2 * card->pairs : 2;
}

static void kick(struct virtio_queue *queue)
{
	struct net_card_device *card = net_card_of(queue->dev);
	struct net_pair *pair = &card->pair[queue->index / 2];

	if (queue->index == ctrl_index(card)) {
		net_ctrl_kick(queue);
	} else if (pair->kernel) {
		return;
	} else if (queue->index % 2) {
		if (!pair->tx_full)
			send_all(card, pair);
	} else {
		virtq_notify_disable(&queue->vq);
		net_receive_resume(card->net, queue->index / 2);
	}
}

static void queue_start(struct virtio_queue *queue)
{
	struct net_card_device *card = net_card_of(queue->dev);

	if (queue->index / 2u < card->pairs)
		card->pair[queue->index / 2].tx_full = false;
	net_vhost_update(card);
}

static void rings_changed(struct virtio_device *dev)
{
	net_vhost_rest(net_card_of(dev));
	net_vhost_update(net_card_of(dev));
}

/* ---- the link's state ---- */

static void link_work(struct loop_work *work)
{
	struct net_card_device *card = container_of(work, struct net_card_device, link_work);

	bus_lock(card->dev.bus);
	net_set_status_bit(card, VIRTIO_NET_S_LINK_UP, net_link(card->net));
	net_vhost_update(card);
	bus_unlock(card->dev.bus);
}

static void net_link_changed(void *ctx, bool up)
{
	struct net_card_device *card = ctx;

	loop_post(bus_loop(card->dev.bus), &card->link_work);
}

/* ---- features ---- */

static const struct {
	u8 host, guest;
	u32 net;
} offloads[] = {
	{VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, NET_CSUM},
	{VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4, NET_TSO4},
	{VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6, NET_TSO6},
	{VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN, NET_ECN},
};
/* 5.1.3; newer than the headers of Debian 12. Sending has one bit for UDP, receiving two. */
#define F_GUEST_USO4 54
#define F_GUEST_USO6 55
#define F_HOST_USO   56

u32 net_guest_offloads(u64 features)
{
	u64 uso = VIRTIO_F(F_GUEST_USO4) | VIRTIO_F(F_GUEST_USO6);
	u32 mask = (features & uso) == uso ? NET_USO : 0;

	for (size_t i = 0; i < ARRAY_SIZE(offloads); i++)
		if (features >> offloads[i].guest & 1)
			mask |= offloads[i].net;
	return mask & NET_CSUM ? mask : 0;
}

/* 2.2.2: none without the one that it needs. */
static u64 offload_features(u32 caps)
{
	u64 features = VIRTIO_F(VIRTIO_NET_F_GUEST_CSUM);

	if (!(caps & NET_CSUM))
		caps = 0;
	if (!(caps & (NET_TSO4 | NET_TSO6)))
		caps &= ~(u32)NET_ECN;
	for (size_t i = 0; i < ARRAY_SIZE(offloads); i++)
		if (caps & offloads[i].net)
			features |= VIRTIO_F(offloads[i].host) | VIRTIO_F(offloads[i].guest);
	if (caps & NET_USO)
		features |= VIRTIO_F(F_HOST_USO) | VIRTIO_F(F_GUEST_USO4) | VIRTIO_F(F_GUEST_USO6);
	return features;
}

/* 5.1.3.1: which bits need which. */
static bool features_consistent(const struct virtio_device *dev)
{
	static const struct {
		u8 bit, needs, or ;
	} rules[] = {
		{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM},
		{VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM},
		{F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM},
		{F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM},
		{VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM},
		{VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM},
		{F_HOST_USO, VIRTIO_NET_F_CSUM},
		{VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6},
		{VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6},
		{VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ},
		{VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (virtio_has(dev, rules[i].bit) && !virtio_has(dev, rules[i].needs) &&
		    !(rules[i].or &&virtio_has(dev, rules[i].or)))
			return false;
	return true;
}

static bool features_set(struct virtio_device *dev)
{
	struct net_card_device *card = net_card_of(dev);

	/* Drivers from before 1.0 chose without rules. */
	if (virtio_is_modern(dev) && !features_consistent(dev))
		return false;
	card->send_mask = virtio_has(dev, F_HOST_USO) ? NET_USO : 0;
	for (size_t i = 0; i < ARRAY_SIZE(offloads); i++)
		if (virtio_has(dev, offloads[i].host))
			card->send_mask |= offloads[i].net;
	__atomic_store_n(&card->receive_mask, net_guest_offloads(dev->features), __ATOMIC_RELAXED);
	net_set_receive_offloads(card->net, card->receive_mask);
	return true;
}

static void reset(struct virtio_device *dev)
{
	struct net_card_device *card = net_card_of(dev);

	card->send_mask = 0;
	__atomic_store_n(&card->receive_mask, 0, __ATOMIC_RELAXED);
	net_set_receive_offloads(card->net, 0);
	net_filter_reset(card);
	card->active_pairs = 1; /* 5.1.5: only the first pair until the driver says more */
	net_set_pairs(card->net, 1);
	memcpy(dev->config, card->mac, 6);
	net_set_status_bit(card, VIRTIO_NET_S_ANNOUNCE, false);
}

/* ---- configuration and life ---- */

void net_set_status_bit(struct net_card_device *card, u16 bit, bool on)
{
	u16 old = load_le16(card->dev.config + 6), status = (u16)(on ? old | bit : old & ~bit);

	if (status == old)
		return;
	store_le16(card->dev.config + 6, status);
	virtio_config_changed(&card->dev);
}

/* Before 1.0 the address was set by writing it here (5.1.4.2). */
static void config_write(struct virtio_device *dev, u32 offset, unsigned int size, u64 value)
{
	struct net_card_device *card = net_card_of(dev);

	if (virtio_is_modern(dev) || virtio_has(dev, VIRTIO_NET_F_CTRL_MAC_ADDR) ||
	    offset + size > 6)
		return;
	store_le(dev->config + offset, size, value);
	lock_acquire(&card->lock);
	memcpy(card->filter.mac, dev->config, 6);
	lock_release(&card->lock);
}

static int add_queues(struct net_card_device *card, u16 size, struct err *err)
{
	struct virtio_device *dev = &card->dev;
	int rc = 0;

	for (unsigned int i = 0; i < 2 * card->pairs && !rc; i++)
		rc = virtio_add_queue(dev, size, sizeof(struct virtq_chain),
				      net_loop(card->net, i / 2), err);
	if (!rc)
		rc = virtio_add_queue(dev, 64, sizeof(struct virtq_chain), NULL, err);
	for (unsigned int i = 0; i < card->pairs; i++) {
		card->pair[i].rx = &dev->queue[2 * i];
		card->pair[i].tx = &dev->queue[2 * i + 1];
	}
	return rc;
}

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_net_options *o = config;
	struct net_card_device *card = net_card_of(dev);
	u16 size = o->queue_size ? o->queue_size : DEFAULT_SIZE;

	if (!is_power_of_2(size) || size < 4 || size > VIRTQ_MAX_SIZE)
		return err_set(err, EINVAL, "queues of %u entries: a power of two from 4 to %d",
			       size, VIRTQ_MAX_SIZE);
	card->net = o->net;
	card->link_work.fn = link_work;
	memcpy(card->mac, o->mac, 6);
	card->pairs = min(o->pairs ? o->pairs : NET_MAX_PAIRS, net_pairs(o->net));
	/* The third queue may be the control queue, which wants the bus lock. */
	if (card->pairs > 1 && net_loop(card->net, 1) != bus_loop(dev->bus))
		card->pairs = 1;
	virtio_offer(dev, offload_features(net_caps(o->net)) | VIRTIO_F(VIRTIO_NET_F_MAC) |
				  VIRTIO_F(VIRTIO_NET_F_STATUS) | VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF) |
				  VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_F(VIRTIO_NET_F_CTRL_RX) |
				  VIRTIO_F(VIRTIO_NET_F_CTRL_RX_EXTRA) |
				  VIRTIO_F(VIRTIO_NET_F_CTRL_VLAN) |
				  VIRTIO_F(VIRTIO_NET_F_CTRL_MAC_ADDR) |
				  VIRTIO_F(VIRTIO_NET_F_GUEST_ANNOUNCE) |
				  VIRTIO_F(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
	if (card->pairs > 1)
		virtio_offer(dev, VIRTIO_F(VIRTIO_NET_F_MQ));
	if (o->mtu)
		virtio_offer(dev, VIRTIO_F(VIRTIO_NET_F_MTU));
	dev->config_size = CONFIG_SIZE;
	memcpy(dev->config, card->mac, 6);
	store_le16(dev->config + 6, net_link(card->net) ? VIRTIO_NET_S_LINK_UP : 0);
	store_le16(dev->config + 8, (u16)card->pairs);
	store_le16(dev->config + 10, o->mtu);
	net_vhost_init(card);
	return add_queues(card, size, err);
}

static int ready(struct virtio_device *dev, struct err *err)
{
	struct net_card_device *card = net_card_of(dev);
	const struct net_client client = {.ctx = card,
					  .receive = net_received,
					  .sendable = net_sendable,
					  .link = net_link_changed};

	net_set_client(card->net, &client);
	return 0;
}

static void stop(struct virtio_device *dev)
{
	struct net_card_device *card = net_card_of(dev);

	if (!card->net)
		return;
	net_vhost_rest(card);
	net_vhost_free(card);
	/* Whoever runs the link's threads has stopped them; our queues' owners take no lock. */
	net_stop(card->net);
	net_set_client(card->net, NULL);
	loop_cancel(bus_loop(dev->bus), &card->link_work);
}

static void stats(struct virtio_device *dev, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	struct net_card_device *card = net_card_of(dev);
	u64 filtered = 0, malformed = 0;
	struct net_stats s;

	net_get_stats(card->net, &s);
	for (unsigned int i = 0; i < card->pairs; i++) {
		filtered += __atomic_load_n(&card->pair[i].filtered, __ATOMIC_RELAXED);
		malformed += __atomic_load_n(&card->pair[i].malformed, __ATOMIC_RELAXED);
	}
	line(ctx, "tx_frames", s.tx_frames);
	line(ctx, "tx_bytes", s.tx_bytes);
	line(ctx, "tx_dropped", s.tx_dropped);
	line(ctx, "rx_frames", s.rx_frames);
	line(ctx, "rx_bytes", s.rx_bytes);
	line(ctx, "rx_filtered", filtered);
	line(ctx, "malformed", malformed);
}

/* ---- saved state ---- */

static int loaded(void *object, struct err *err)
{
	struct net_card_device *card = object;
	struct net_filter *f = &card->filter;

	if (card->active_pairs < 1 || card->active_pairs > card->pairs || f->nuni > NET_MAC_TABLE ||
	    f->nmulti > NET_MAC_TABLE)
		return err_set(err, EINVAL, "%s: saved filter or queue pairs", card->dev.id);
	memcpy(card->dev.config, f->mac, 6);
	net_set_pairs(card->net, card->active_pairs);
	net_vhost_update(card);
	card->receive_mask &= net_guest_offloads(card->dev.features);
	net_set_receive_offloads(card->net, card->receive_mask);
	/* Switches must learn where the guest is now (5.1.6.5.4). */
	if (virtio_has(&card->dev, VIRTIO_NET_F_GUEST_ANNOUNCE))
		net_set_status_bit(card, VIRTIO_NET_S_ANNOUNCE, true);
	return 0;
}

static const struct state_field fields[] = {
	STATE_FIELD(struct net_card_device, active_pairs),
	STATE_FIELD(struct net_card_device, receive_mask),
	STATE_FIELD(struct net_card_device, filter.promisc),
	STATE_FIELD(struct net_card_device, filter.allmulti),
	STATE_FIELD(struct net_card_device, filter.alluni),
	STATE_FIELD(struct net_card_device, filter.nomulti),
	STATE_FIELD(struct net_card_device, filter.nouni),
	STATE_FIELD(struct net_card_device, filter.nobcast),
	STATE_FIELD(struct net_card_device, filter.uni_overflow),
	STATE_FIELD(struct net_card_device, filter.multi_overflow),
	STATE_BUFFER(struct net_card_device, filter.mac),
	STATE_FIELD(struct net_card_device, filter.nuni),
	STATE_FIELD(struct net_card_device, filter.nmulti),
	STATE_BUFFER(struct net_card_device, filter.uni),
	STATE_BUFFER(struct net_card_device, filter.multi),
	STATE_FIELD(struct net_card_device, filter.vlans_used),
	STATE_ARRAY(struct net_card_device, filter.vlan),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-net",
	.version = 1,
	.fields = fields,
	.loaded = loaded,
};

const struct virtio_class virtio_net = {
	.name = "net",
	.summary = "network card",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.size = sizeof(struct net_card_device),
	.in_order = VIRTIO_F(VIRTIO_F_IN_ORDER),
	.init = init,
	.ready = ready,
	.kick = kick,
	.features_set = features_set,
	.queue_start = queue_start,
	.queue_stop = net_vhost_queue_stop,
	.rings_changed = rings_changed,
	.config_write = config_write,
	.reset = reset,
	.stop = stop,
	.stats = stats,
	.state = &state,
};
