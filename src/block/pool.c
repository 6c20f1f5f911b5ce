/* Helper threads: started when there is work and none is idle, up to a limit; they end with the
 * pool. A helper may block in I/O or wait for another helper, never for a queue's thread. */
#include <errno.h>
#include <stdlib.h>

#include "block/block_int.h"
#include "os/thread.h"

#define MAX_HELPERS 16

struct block_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list jobs; /* of block_req.link */
	struct thread threads[MAX_HELPERS];
	unsigned int started, idle, queued;
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

static void *helper(void *arg)
{
	struct block_pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct block_req *req;

		while (list_empty(&pool->jobs) && !pool->stop) {
			pool->idle++;
			pthread_cond_wait(&pool->work, &pool->lock);
			pool->idle--;
		}
		if (list_empty(&pool->jobs))
			break;
		req = list_first(&pool->jobs, struct block_req, link);
		list_del(&req->link);
		pool->queued--;
		pthread_mutex_unlock(&pool->lock);
		run(req);
		pthread_mutex_lock(&pool->lock);
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
