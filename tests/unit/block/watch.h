/* A node between an image and its file that notes what passes through it, and holds some of it up
 * or has it fail when the test says so. */
#ifndef TESTS_BLOCK_WATCH_H
#define TESTS_BLOCK_WATCH_H

#include "block/block_int.h"

enum watch_how {
	WATCH_BEFORE, /* held before anything has been done */
	WATCH_AFTER,  /* a queue's read: done, and its completion held */
	WATCH_FAIL,   /* -EIO */
};

struct watch_call {
	enum block_op op;
	u64 offset, len;
};

struct watch_rule {
	enum watch_how how;
	enum block_op op;
	u64 start, end;	   /* what touches this */
	unsigned int left; /* so many more times */
};

#define WATCH_CALLS 16384
#define WATCH_RULES 4

struct watch {
	bool defer; /* requests of queues take the way over a helper thread */
	pthread_mutex_t lock;
	pthread_cond_t moved;
	struct watch_call calls[WATCH_CALLS];
	unsigned int ncalls;
	struct watch_rule rules[WATCH_RULES];
	struct list held;      /* requests of the queue */
	unsigned int nheld;    /* these, and threads inside of a call */
	unsigned int releases; /* how often everything was let go */
};

/* Open the image at o->file (o->format) above a watch. */
int watch_open(struct block **out, struct watch *w, const struct block_options *o, struct err *err);
void watch_rule(struct watch *w, enum watch_how how, enum block_op op, u64 start, u64 end,
		unsigned int times);
/* Let everything go on that is held. The thread that owns the queue. */
void watch_release(struct watch *w);
/* The same for the queue's requests only; for threads inside of a call only, from any thread. */
void watch_release_queue(struct watch *w);
void watch_release_threads(struct watch *w);
/* Wait until so many are held. */
void watch_wait(struct watch *w, unsigned int held);
/* Calls so far that touch the range. */
unsigned int watch_count(struct watch *w, enum block_op op, u64 start, u64 end);
void watch_forget(struct watch *w);

#endif
