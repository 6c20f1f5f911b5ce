/*
 * A limit on frames and on bytes a second, for each direction by itself, as a filter above another
 * back end. It holds nothing: what is above the limit stays with the sender, or in the back end.
 *
 * Invariants:
 * 1. A limit is one moment, the time at which all that was let through would have been done at the
 *    limit's pace; a frame goes while that moment is no further ahead than the burst allows.
 * 2. What was refused for the limit's sake has the timer of its pair and direction armed, unless
 *    the link has been stopped. `lock` guards the limits and `stopped`; nothing is called with it.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "net/net_int.h"
#include "os/clock.h"

#define LONGEST 1e18 /* ns; some thirty years */

struct limit {
	u64 rate;  /* a second; 0: none */
	u64 ahead; /* ns that the burst is worth */
	u64 until; /* ns */
};

struct direction {
	struct limit frames, bytes;
};

struct throttle_timer {
	struct throttle *throttle;
	unsigned int pair;
	struct loop_timer timer;
};

struct throttle {
	struct net net;
	struct net *lower;
	pthread_mutex_t lock;
	bool stopped;
	struct direction tx, rx;
	struct throttle_timer tx_timer[NET_MAX_PAIRS], rx_timer[NET_MAX_PAIRS];
};

struct throttle_config {
	struct net *lower;
	const struct net_limits *limits;
};

static struct throttle *throttle_of(struct net *net)
{
	return container_of(net, struct throttle, net);
}

/* ---- limits ---- */

static u64 duration(u64 rate, u64 amount)
{
	return (u64)min((double)amount * (double)NSEC_PER_SEC / (double)rate, LONGEST);
}

static void limit_init(struct limit *l, u64 rate, u64 burst)
{
	*l = (struct limit){.rate = rate};
	if (rate)
		l->ahead = duration(rate, max(burst, rate / 10 + 1));
}

/* How long until the limit lets something through; 0: now. */
static u64 wait_ns(const struct limit *l, u64 now)
{
	return l->rate && l->until > now + l->ahead ? l->until - now - l->ahead : 0;
}

static void charge(struct limit *l, u64 now, u64 amount)
{
	if (l->rate)
		l->until = max(l->until, now) + duration(l->rate, amount);
}

static void refund(struct limit *l, u64 amount)
{
	if (l->rate)
		l->until -= min(l->until, duration(l->rate, amount));
}

/* How many frames may go now; they are charged. The rest has the timer. */
static u32 admit(struct throttle *t, struct direction *d, struct throttle_timer *timer,
		 const struct net_frame *frames, u32 n)
{
	u64 now = clock_now_ns(), wait = 0;
	u32 i;

	pthread_mutex_lock(&t->lock);
	for (i = 0; i < n; i++) {
		wait = max(wait_ns(&d->frames, now), wait_ns(&d->bytes, now));
		if (wait)
			break;
		charge(&d->frames, now, 1);
		charge(&d->bytes, now, frames[i].len);
	}
	if (i < n && !t->stopped)
		loop_timer_arm(&timer->timer, now + wait);
	pthread_mutex_unlock(&t->lock);
	return i;
}

/* These were charged and have not gone. */
static void give_back(struct throttle *t, struct direction *d, const struct net_frame *frames,
		      u32 n)
{
	pthread_mutex_lock(&t->lock);
	for (u32 i = 0; i < n; i++) {
		refund(&d->frames, 1);
		refund(&d->bytes, frames[i].len);
	}
	pthread_mutex_unlock(&t->lock);
}

/* ---- between the front end and the lower link ---- */

static u32 throttle_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct throttle *t = throttle_of(net);
	u32 may = admit(t, &t->tx, &t->tx_timer[pair], frames, n);
	u32 sent = may ? net_send(t->lower, pair, frames, may) : 0;

	give_back(t, &t->tx, frames + sent, may - sent);
	return sent;
}

static u32 throttle_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct throttle *t = ctx;
	u32 may = admit(t, &t->rx, &t->rx_timer[pair], frames, n);
	u32 taken = may ? net_deliver(&t->net, pair, frames, may) : 0;

	give_back(t, &t->rx, frames + taken, may - taken);
	return taken;
}

static void on_tx_timer(struct loop_timer *timer)
{
	struct throttle_timer *tt = container_of(timer, struct throttle_timer, timer);

	net_deliver_sendable(&tt->throttle->net, tt->pair);
}

static void on_rx_timer(struct loop_timer *timer)
{
	struct throttle_timer *tt = container_of(timer, struct throttle_timer, timer);

	net_receive_resume(tt->throttle->lower, tt->pair);
}

static void throttle_sendable(void *ctx, unsigned int pair)
{
	struct throttle *t = ctx;

	net_deliver_sendable(&t->net, pair);
}

static void throttle_link(void *ctx, bool up)
{
	struct throttle *t = ctx;

	net_set_link(&t->net, up);
}

static void throttle_resume(struct net *net, unsigned int pair)
{
	net_receive_resume(throttle_of(net)->lower, pair);
}

static void throttle_set_offloads(struct net *net, u32 mask)
{
	net_set_receive_offloads(throttle_of(net)->lower, mask);
}

static void throttle_set_pairs(struct net *net, unsigned int n)
{
	net_set_pairs(throttle_of(net)->lower, n);
}

static void throttle_attached(struct net *net, bool client)
{
	struct throttle *t = throttle_of(net);
	const struct net_client self = {
		.ctx = t,
		.receive = throttle_receive,
		.sendable = throttle_sendable,
		.link = throttle_link,
	};

	net_set_client(t->lower, client ? &self : NULL);
	net_set_link(net, net_link(t->lower)); /* it may have changed while nobody listened */
}

/* ---- life ---- */

static void timer_init(struct throttle_timer *tt, struct throttle *t, unsigned int pair,
		       void (*fn)(struct loop_timer *timer))
{
	tt->throttle = t;
	tt->pair = pair;
	loop_timer_init(net_loop(t->lower, pair), &tt->timer, fn);
}

static int throttle_init(struct net *net, const void *config, struct err *err)
{
	const struct throttle_config *c = config;
	struct throttle *t = throttle_of(net);

	pthread_mutex_init(&t->lock, NULL);
	t->lower = c->lower;
	limit_init(&t->tx.frames, c->limits->pps, c->limits->pps_burst);
	limit_init(&t->tx.bytes, c->limits->bps, c->limits->bps_burst);
	t->rx = t->tx;
	net->pairs = net->active_pairs = t->lower->pairs;
	net->caps = t->lower->caps;
	net->link_down = t->lower->link_down;
	memcpy(net->pair_loop, t->lower->pair_loop, sizeof(net->pair_loop));
	for (unsigned int i = 0; i < net->pairs; i++) {
		timer_init(&t->tx_timer[i], t, i, on_tx_timer);
		timer_init(&t->rx_timer[i], t, i, on_rx_timer);
	}
	return 0;
}

static void throttle_stop(struct net *net)
{
	struct throttle *t = throttle_of(net);

	pthread_mutex_lock(&t->lock);
	t->stopped = true;
	for (unsigned int i = 0; i < net->pairs; i++) {
		loop_timer_disarm(&t->tx_timer[i].timer);
		loop_timer_disarm(&t->rx_timer[i].timer);
	}
	pthread_mutex_unlock(&t->lock);
	net_stop(t->lower);
}

static void throttle_free(struct net *net)
{
	struct throttle *t = throttle_of(net);

	net_close(t->lower);
	pthread_mutex_destroy(&t->lock);
}

static const struct net_class throttle_class = {
	.name = "throttle",
	.summary = "a limit on another link",
	.size = sizeof(struct throttle),
	.init = throttle_init,
	.send = throttle_send,
	.resume = throttle_resume,
	.set_offloads = throttle_set_offloads,
	.set_pairs = throttle_set_pairs,
	.attached = throttle_attached,
	.stop = throttle_stop,
	.free = throttle_free,
};

int net_throttle_new(struct net **out, struct net *lower, const struct net_limits *limits,
		     struct err *err)
{
	const struct throttle_config config = {.lower = lower, .limits = limits};

	return net_new(out, &throttle_class, lower->loop, &config, err);
}
