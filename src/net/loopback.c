/*
 * Links inside the process: two ends joined by a wire, or one end that hears itself. For tests and
 * measurements.
 *
 * Invariants:
 * 1. A ring carries one direction of one pair. head counts frames put in, tail frames taken out;
 *    slots [tail, head) belong to the receiver, the others to the sender.
 * 2. head, tail, blocked, sender_waits and wire->end[] are guarded by wire->lock; frames are copied
 *    in under it and handed out without it.
 * 3. While a ring is neither empty nor blocked its `deliver` work is posted or running; while
 *    sender_waits, the ring is full, or `drained` is posted.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "net/net_int.h"

#define SLOTS NET_BATCH

struct slot {
	struct net_offload offload;
	u32 len;
	struct iovec iov;
};

struct ring {
	struct wire *wire;
	unsigned int side, pair; /* of the receiver */
	struct slot slot[SLOTS];
	u8 *memory; /* SLOTS * NET_MAX_FRAME */
	u32 head, tail;
	bool blocked, sender_waits;
	struct loop_work deliver; /* on the receiver's loop */
	struct loop_work drained; /* on the sender's */
};

struct end {
	struct net net;
	struct wire *wire;
	unsigned int side, peer;
};

struct wire {
	pthread_mutex_t lock;
	int refs;
	unsigned int sides, pairs;
	struct end *end[2];
	struct ring ring[2][NET_MAX_PAIRS]; /* [receiver] */
};

/* ---- receiving ---- */

static void deliver_work(struct loop_work *work)
{
	struct ring *ring = container_of(work, struct ring, deliver);
	struct wire *wire = ring->wire;
	struct net_frame frames[SLOTS];
	struct end *end;
	u32 n, taken = 0;

	pthread_mutex_lock(&wire->lock);
	end = wire->end[ring->side];
	n = ring->head - ring->tail;
	pthread_mutex_unlock(&wire->lock);
	if (!end || !n)
		return;
	for (u32 i = 0; i < n; i++) {
		struct slot *slot = &ring->slot[(ring->tail + i) % SLOTS];

		frames[i] = (struct net_frame){
			.offload = slot->offload, .iov = &slot->iov, .niov = 1, .len = slot->len};
	}
	taken = net_deliver(&end->net, ring->pair, frames, n);

	pthread_mutex_lock(&wire->lock);
	ring->tail += taken;
	ring->blocked = taken < n;
	if (!ring->blocked && ring->head != ring->tail)
		loop_post(end->net.loop, &ring->deliver);
	if (taken && ring->sender_waits) {
		ring->sender_waits = false;
		loop_post(end->net.loop, &ring->drained);
	}
	pthread_mutex_unlock(&wire->lock);
}

static void drained_work(struct loop_work *work)
{
	struct ring *ring = container_of(work, struct ring, drained);
	struct wire *wire = ring->wire;
	struct end *sender;

	pthread_mutex_lock(&wire->lock);
	sender = wire->end[wire->sides == 2 ? !ring->side : ring->side];
	pthread_mutex_unlock(&wire->lock);
	if (sender)
		net_deliver_sendable(&sender->net, ring->pair);
}

static void loopback_resume(struct net *net, unsigned int pair)
{
	struct end *end = container_of(net, struct end, net);
	struct ring *ring = &end->wire->ring[end->side][pair];

	pthread_mutex_lock(&end->wire->lock);
	if (ring->blocked) {
		ring->blocked = false;
		loop_post(net->loop, &ring->deliver);
	}
	pthread_mutex_unlock(&end->wire->lock);
}

/* ---- sending ---- */

/* Copy into the next slot, finishing what the receiver cannot take; false: dropped. */
static bool ring_put(struct ring *ring, const struct net_frame *frame, u32 accepts)
{
	struct slot *slot = &ring->slot[ring->head % SLOTS];

	slot->offload = frame->offload;
	slot->len = frame->len;
	slot->iov.iov_base = ring->memory + (size_t)(ring->head % SLOTS) * NET_MAX_FRAME;
	slot->iov.iov_len = frame->len;
	iov_to_buf(frame->iov, frame->niov, 0, slot->iov.iov_base, frame->len);
	if (net_offload_check(&slot->offload, slot->len, accepts))
		return true;
	if (slot->offload.gso_type != NET_GSO_NONE)
		return false;
	net_offload_finish_csum(&slot->offload, slot->iov.iov_base, slot->len);
	slot->offload = (struct net_offload){0};
	return true;
}

static u32 loopback_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct end *end = container_of(net, struct end, net);
	struct wire *wire = end->wire;
	struct ring *ring = &wire->ring[end->peer][pair];
	struct end *receiver;
	u32 sent = 0;

	pthread_mutex_lock(&wire->lock);
	receiver = wire->end[end->peer];
	if (!receiver) {
		pthread_mutex_unlock(&wire->lock);
		return n; /* nobody at the other end */
	}
	for (; sent < n && ring->head - ring->tail < SLOTS; sent++)
		ring->head += ring_put(ring, &frames[sent], receiver->net.receive_offloads);
	ring->sender_waits = sent < n;
	if (sent && !ring->blocked)
		loop_post(receiver->net.loop, &ring->deliver);
	pthread_mutex_unlock(&wire->lock);
	return sent;
}

/* ---- life ---- */

static void wire_free(struct wire *wire)
{
	for (unsigned int s = 0; s < wire->sides; s++)
		for (unsigned int p = 0; p < wire->pairs; p++)
			free(wire->ring[s][p].memory);
	pthread_mutex_destroy(&wire->lock);
	free(wire);
}

static struct wire *wire_new(unsigned int sides, unsigned int pairs)
{
	struct wire *wire = calloc(1, sizeof(*wire));
	bool failed = false;

	if (!wire)
		return NULL;
	pthread_mutex_init(&wire->lock, NULL);
	wire->sides = sides;
	wire->pairs = pairs;
	for (unsigned int s = 0; s < sides; s++)
		for (unsigned int p = 0; p < pairs; p++) {
			struct ring *ring = &wire->ring[s][p];

			*ring = (struct ring){.wire = wire, .side = s, .pair = p};
			ring->deliver.fn = deliver_work;
			ring->drained.fn = drained_work;
			ring->memory = malloc((size_t)SLOTS * NET_MAX_FRAME);
			failed |= !ring->memory;
		}
	if (!failed)
		return wire;
	wire_free(wire);
	return NULL;
}

/* What a constructor passes to init(): the wire and which side of it. */
struct loopback_config {
	struct wire *wire; /* NULL: one of its own, one-sided */
	unsigned int side;
	u32 caps;
};

static int loopback_init(struct net *net, const void *config, struct err *err)
{
	const struct loopback_config *c = config;
	struct end *end = container_of(net, struct end, net);

	end->wire = c->wire ? c->wire : wire_new(1, 1);
	if (!end->wire)
		return err_set(err, ENOMEM, "no memory for a loop-back link");
	end->side = c->side;
	end->peer = end->wire->sides == 2 ? !c->side : c->side;
	end->wire->refs++;
	end->wire->end[end->side] = end;
	net->pairs = end->wire->pairs;
	net->caps = c->wire ? c->caps : NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN | NET_USO;
	return 0;
}

static void loopback_stop(struct net *net)
{
	struct end *end = container_of(net, struct end, net);
	struct wire *wire = end->wire;

	if (!wire)
		return;
	pthread_mutex_lock(&wire->lock);
	wire->end[end->side] = NULL;
	pthread_mutex_unlock(&wire->lock);
	for (unsigned int p = 0; p < wire->pairs; p++) {
		loop_cancel(net->loop, &wire->ring[end->side][p].deliver);
		loop_cancel(net->loop, &wire->ring[end->side][p].drained);
	}
}

static void loopback_free(struct net *net)
{
	struct end *end = container_of(net, struct end, net);
	struct wire *wire = end->wire;
	int refs;

	if (!wire)
		return;
	pthread_mutex_lock(&wire->lock);
	refs = --wire->refs;
	pthread_mutex_unlock(&wire->lock);
	if (!refs)
		wire_free(wire);
}

const struct net_class net_loopback = {
	.name = "loopback",
	.summary = "frames come back to the guest that sent them; for tests",
	.size = sizeof(struct end),
	.config_size = sizeof(struct loopback_config),
	.init = loopback_init,
	.send = loopback_send,
	.resume = loopback_resume,
	.stop = loopback_stop,
	.free = loopback_free,
};

int net_loopback_new(struct net *ends[2], struct loop *loop, unsigned int pairs, u32 caps)
{
	struct wire *wire = wire_new(2, max(1u, min(pairs, (unsigned int)NET_MAX_PAIRS)));
	struct loopback_config config = {.wire = wire, .caps = caps};
	int rc;

	if (!wire)
		return -ENOMEM;
	rc = net_new(&ends[0], &net_loopback, loop, &config, NULL);
	if (rc) {
		wire_free(wire);
		return rc;
	}
	config.side = 1;
	rc = net_new(&ends[1], &net_loopback, loop, &config, NULL);
	if (rc)
		net_close(ends[0]);
	return rc;
}
