/*
 * The event loop (epoll): file descriptors, timers and work posted from other threads. One thread
 * runs a loop; the main thread has one, each block queue has one.
 *
 * Which thread may call what: watches belong to the loop's thread (add them before loop_run() or
 * inside its callbacks). Timers and loop_post() may be used from any thread.
 */
#ifndef OS_LOOP_H
#define OS_LOOP_H

#include <sys/epoll.h>

#include "base/list.h"
#include "base/types.h"

struct loop;

/* NULL when out of memory or descriptors (errno says). */
struct loop *loop_new(void);
/* No watch or timer may still be registered. */
void loop_free(struct loop *loop);

/* Dispatch until loop_stop(); returns the stop value. */
int loop_run(struct loop *loop);
/* Wait for at most timeout_ns (-1: for ever) and dispatch once; 0, or -errno. */
int loop_run_once(struct loop *loop, s64 timeout_ns);
/* For a thread that has to wait for more than the loop knows: a descriptor that is readable when
 * loop_run_once(loop, 0) has something to do, and how long to wait for it at most (-1: for ever). */
int loop_fd(const struct loop *loop);
s64 loop_wait_ns(struct loop *loop);
/* Any thread. */
void loop_stop(struct loop *loop, int value);

/* A descriptor to watch. Fill fd and fn; the rest is the loop's. */
struct loop_watch {
	int fd;
	void (*fn)(struct loop_watch *watch, u32 events); /* EPOLLIN | EPOLLOUT | ... */
	struct loop *loop;
	u32 events;
	bool added;
};

/* Level-triggered. events may be 0: only errors and hang-ups. 0 or -errno. A regular file, which
 * epoll refuses, gives -EPERM. */
int loop_watch_add(struct loop *loop, struct loop_watch *watch, u32 events);
int loop_watch_modify(struct loop_watch *watch, u32 events);
/* Allowed inside any callback of the loop; the callback of a deleted watch is not called again,
 * even where its event has been fetched. Harmless when not added. Before close(fd). */
void loop_watch_del(struct loop_watch *watch);

/* A one-shot timer on CLOCK_MONOTONIC. */
struct loop_timer {
	void (*fn)(struct loop_timer *timer);
	struct loop *loop;
	u64 deadline_ns;
	size_t slot; /* place in the heap + 1; 0 while not armed */
};

void loop_timer_init(struct loop *loop, struct loop_timer *timer,
		     void (*fn)(struct loop_timer *timer));
/* (Re-)arm for an absolute time of clock_now_ns(). Any thread. -ENOMEM leaves it unarmed. */
int loop_timer_arm(struct loop_timer *timer, u64 deadline_ns);
/* Any thread. From another thread fn may be running or about to run when this returns. */
void loop_timer_disarm(struct loop_timer *timer);

/* Work to run in the loop's thread. The item is the caller's; posting it while it is pending does
 * nothing. fn may post it again or free it. */
struct loop_work {
	struct list link;
	void (*fn)(struct loop_work *work);
	bool pending;
};

void loop_post(struct loop *loop, struct loop_work *work);
/* Take back work that has not run yet. */
void loop_cancel(struct loop *loop, struct loop_work *work);

#endif
