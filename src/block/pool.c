/*
 * Helper threads: started when there is work and none is idle, up to a limit; they end with the
 * pool. A helper may block in I/O or wait for another helper. What changes the image may also wait
 * for a change that a queue's thread has under way, which in turn may need reads done, and what it
 * writes (BLOCK_NO_WAIT): some helpers are there only for those, which wait for no change.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/block_int.h"
#include "os/thread.h"

#define MAX_HELPERS 16
#define MAX_CHANGES 12 /* of them at work on what may wait */

struct block_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list jobs; /* of block_req.link */
	struct thread threads[MAX_HELPERS];
	unsigned int started, idle, queued, changes;
	bool stop;
};

struct block_pool *block_pool_new(void)
{
	struct block_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	list_init(&pool->jobs);
	return pool;
}

void block_pool_free(struct block_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned int i = 0; i < pool->started; i++)
		thread_join(&pool->threads[i]);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static void run(struct block_req *req)
{
	struct block_io io = {.op = req->op,
			      .flags = req->effective,
			      .offset = req->pos,
			      .len = req->len,
			      .iov = req->iov,
			      .niov = req->niov};

	block_queue_return(req, block_io(req->node, &io));
}

static bool may_wait(const struct block_req *req)
{
	return req->op != BLOCK_READ && !(req->effective & BLOCK_NO_WAIT);
}

/* The first job that may be begun now, or NULL. */
static struct block_req *job_get(struct block_pool *pool)
{
	struct block_req *req;

	list_for_each_entry (req, &pool->jobs, link) {
		if (may_wait(req) && pool->changes == MAX_CHANGES)
			continue;
		list_del(&req->link);
		pool->queued--;
		return req;
	}
	return NULL;
}

static void *helper(void *arg)
{
	struct block_pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct block_req *req = job_get(pool);
		bool change = req && may_wait(req);

		if (!req) {
			if (pool->stop)
				break;
			pool->idle++;
			pthread_cond_wait(&pool->work, &pool->lock);
			pool->idle--;
			continue;
		}
		pool->changes += change;
		pthread_mutex_unlock(&pool->lock);
		run(req);
		pthread_mutex_lock(&pool->lock);
		pool->changes -= change;
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

int block_pool_add(struct block_pool *pool, struct block_req *req)
{
	int rc = 0;

	pthread_mutex_lock(&pool->lock);
	if (pool->idle <= pool->queued && pool->started < MAX_HELPERS) {
		rc = thread_start(&pool->threads[pool->started], THREAD_HELPER, "block-helper",
				  helper, pool);
		if (!rc)
			pool->started++;
		else if (pool->started)
			rc = 0;
	}
	if (!rc) {
		list_add_tail(&pool->jobs, &req->link);
		pool->queued++;
		pthread_cond_signal(&pool->work);
	}
	pthread_mutex_unlock(&pool->lock);
	return rc;
}
