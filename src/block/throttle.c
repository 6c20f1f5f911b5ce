/*
 * A limit on requests and on bytes a second. Each limit is one moment, the time at which all that
 * was let through would have been done at the limit's pace; a request goes at once while that
 * moment is no further ahead than the burst allows, and else waits in a helper thread.
 */
#include <errno.h>
#include <time.h>

#include "block/block_int.h"
#include "os/clock.h"

#define CENTURIES (1ULL << 62) /* ns; two of them fit into a u64 */

struct limit {
	u64 rate;  /* a second; 0: none */
	u64 burst; /* how much may come at once */
	u64 until; /* ns */
};

struct throttle {
	struct block block;
	pthread_mutex_t lock;
	struct limit requests, bytes;
};

static struct throttle *throttle_of(struct block *b)
{
	return container_of(b, struct throttle, block);
}

static bool throttle_wanted(const struct block *below, const struct block_options *o)
{
	return o->iops || o->bps || o->iops_burst || o->bps_burst;
}

static void limit_init(struct limit *l, u64 rate, u64 burst)
{
	*l = (struct limit){.rate = rate, .burst = max(burst, rate / 10 + 1)};
}

static int throttle_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct throttle *t = throttle_of(b);

	if ((o->iops_burst && !o->iops) || (o->bps_burst && !o->bps))
		return err_set(err, EINVAL, "%s: a burst needs its limit: %s", b->name,
			       o->iops_burst && !o->iops ? "iops=N" : "bps=SIZE");
	block_filter_init(b);
	pthread_mutex_init(&t->lock, NULL);
	limit_init(&t->requests, o->iops, o->iops_burst);
	limit_init(&t->bytes, o->bps, o->bps_burst);
	return 0;
}

static int throttle_close(struct block *b)
{
	pthread_mutex_destroy(&throttle_of(b)->lock);
	return 0;
}

static u64 duration(const struct limit *l, u64 amount)
{
	double ns = l->rate ? (double)amount * (double)NSEC_PER_SEC / (double)l->rate : 0;

	return (u64)min(ns, (double)CENTURIES);
}

/* How long until the limit lets something through; 0: now. */
static u64 wait_ns(const struct limit *l, u64 now)
{
	u64 ahead = duration(l, l->burst);

	return l->rate && l->until > now + ahead ? l->until - now - ahead : 0;
}

static void charge(struct limit *l, u64 now, u64 amount)
{
	if (l->rate)
		l->until = max(l->until, now) + duration(l, amount);
}

/* Take the request in, or say how long to wait. */
static u64 admit(struct throttle *t, u64 len)
{
	u64 now = clock_now_ns(), wait;

	pthread_mutex_lock(&t->lock);
	wait = max(wait_ns(&t->requests, now), wait_ns(&t->bytes, now));
	if (!wait || block_draining(&t->block)) {
		charge(&t->requests, now, 1);
		charge(&t->bytes, now, len);
		wait = 0;
	}
	pthread_mutex_unlock(&t->lock);
	return wait;
}

static bool counts(enum block_op op)
{
	return op == BLOCK_READ || op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES;
}

static void throttle_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	if (counts(req->op) && admit(throttle_of(b), req->len))
		block_defer(q, req);
	else
		block_pass(q, req, b->file, req->pos);
}

/* Short naps: who drains a queue does not want to wait for the limit. */
#define NAP_MAX (20 * NSEC_PER_MSEC)

static int throttle_io(struct block *b, const struct block_io *io)
{
	u64 wait;

	while (counts(io->op) && (wait = admit(throttle_of(b), io->len))) {
		struct timespec nap = {.tv_nsec = (long)min(wait, NAP_MAX)};

		nanosleep(&nap, NULL);
	}
	return block_io(b->file, io);
}

const struct block_class block_throttle_class = {
	.name = "throttle",
	.kind = BLOCK_FILTER,
	.size = sizeof(struct throttle),
	.wanted = throttle_wanted,
	.open = throttle_open,
	.close = throttle_close,
	.submit = throttle_submit,
	.io = throttle_io,
	.status = block_filter_status,
	.resize = block_filter_resize,
};
