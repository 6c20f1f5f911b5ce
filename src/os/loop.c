/*
 * Invariants:
 * 1. heap[], posted and wake_armed are guarded by `lock`; no callback runs under it.
 * 2. heap[i].slot == i + 1 for every armed timer.
 * 3. While the loop's thread sleeps, its timeout is no later than heap[0]; who arms an earlier
 *    timer from elsewhere raises `wake_fd`.
 * 4. batch[] holds the events fetched and not yet dispatched; deleting a watch clears its entry.
 */
#define _GNU_SOURCE
#include "os/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/event.h"

#define BATCH 32

struct loop {
	int epoll_fd, wake_fd;
	struct loop_watch wake;
	pthread_mutex_t lock;
	struct loop_timer **heap;
	size_t timers, heap_cap;
	struct list posted;
	struct epoll_event batch[BATCH];
	int batch_len;
	bool stop, no_pwait2;
	int stop_value;
};

static void on_wake(struct loop_watch *watch, u32 events)
{
	(void)events;
	event_clear(watch->fd);
}

struct loop *loop_new(void)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return NULL;
	pthread_mutex_init(&loop->lock, NULL);
	list_init(&loop->posted);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = event_new();
	loop->wake = (struct loop_watch){.fd = loop->wake_fd, .fn = on_wake};
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop_watch_add(loop, &loop->wake, EPOLLIN)) {
		loop_free(loop);
		return NULL;
	}
	return loop;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop->heap);
	free(loop);
}

int loop_watch_add(struct loop *loop, struct loop_watch *watch, u32 events)
{
	struct epoll_event ev = {.events = events, .data.ptr = watch};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, watch->fd, &ev))
		return -errno;
	watch->loop = loop;
	watch->events = events;
	watch->added = true;
	return 0;
}

int loop_watch_modify(struct loop_watch *watch, u32 events)
{
	struct epoll_event ev = {.events = events, .data.ptr = watch};

	if (watch->events == events)
		return 0;
	if (epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &ev))
		return -errno;
	watch->events = events;
	return 0;
}

void loop_watch_del(struct loop_watch *watch)
{
	struct loop *loop = watch->loop;

	if (!watch->added)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->added = false;
	for (int i = 0; i < loop->batch_len; i++)
		if (loop->batch[i].data.ptr == watch)
			loop->batch[i].data.ptr = NULL;
}

/* ---- timers: a binary heap ordered by deadline ---- */

static void heap_place(struct loop *loop, size_t i, struct loop_timer *timer)
{
	loop->heap[i] = timer;
	timer->slot = i + 1;
}

static void heap_fix(struct loop *loop, size_t i, struct loop_timer *timer)
{
	while (i && loop->heap[(i - 1) / 2]->deadline_ns > timer->deadline_ns) {
		heap_place(loop, i, loop->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= loop->timers)
			break;
		if (child + 1 < loop->timers &&
		    loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
			child++;
		if (loop->heap[child]->deadline_ns >= timer->deadline_ns)
			break;
		heap_place(loop, i, loop->heap[child]);
		i = child;
	}
	heap_place(loop, i, timer);
}

static void heap_remove(struct loop *loop, struct loop_timer *timer)
{
	size_t i = timer->slot - 1;
	struct loop_timer *last = loop->heap[--loop->timers];

	timer->slot = 0;
	if (last != timer)
		heap_fix(loop, i, last);
}

static int heap_insert(struct loop *loop, struct loop_timer *timer)
{
	if (loop->timers == loop->heap_cap) {
		size_t cap = loop->heap_cap ? 2 * loop->heap_cap : 16;
		struct loop_timer **heap = realloc(loop->heap, cap * sizeof(*heap));

		if (!heap)
			return -ENOMEM;
		loop->heap = heap;
		loop->heap_cap = cap;
	}
	loop->timers++;
	heap_fix(loop, loop->timers - 1, timer);
	return 0;
}

void loop_timer_init(struct loop *loop, struct loop_timer *timer,
		     void (*fn)(struct loop_timer *timer))
{
	*timer = (struct loop_timer){.loop = loop, .fn = fn};
}

int loop_timer_arm(struct loop_timer *timer, u64 deadline_ns)
{
	struct loop *loop = timer->loop;
	bool wake;
	int rc;

	pthread_mutex_lock(&loop->lock);
	if (timer->slot)
		heap_remove(loop, timer);
	timer->deadline_ns = deadline_ns;
	rc = heap_insert(loop, timer);
	wake = !rc && timer->slot == 1;
	pthread_mutex_unlock(&loop->lock);
	if (wake)
		event_signal(loop->wake_fd);
	return rc;
}

void loop_timer_disarm(struct loop_timer *timer)
{
	struct loop *loop = timer->loop;

	if (!loop)
		return;
	pthread_mutex_lock(&loop->lock);
	if (timer->slot)
		heap_remove(loop, timer);
	pthread_mutex_unlock(&loop->lock);
}

/* Run what is due at the time of the call; timers that fire again at once wait for the next turn,
 * so that descriptors are not starved. */
static void run_timers(struct loop *loop)
{
	u64 now = clock_now_ns();

	for (;;) {
		struct loop_timer *due = NULL;

		pthread_mutex_lock(&loop->lock);
		if (loop->timers && loop->heap[0]->deadline_ns <= now) {
			due = loop->heap[0];
			heap_remove(loop, due);
		}
		pthread_mutex_unlock(&loop->lock);
		if (!due)
			return;
		due->fn(due);
	}
}

/* ---- posted work ---- */

void loop_post(struct loop *loop, struct loop_work *work)
{
	bool wake = false;

	pthread_mutex_lock(&loop->lock);
	if (!work->pending) {
		work->pending = true;
		wake = list_empty(&loop->posted);
		list_add_tail(&loop->posted, &work->link);
	}
	pthread_mutex_unlock(&loop->lock);
	if (wake)
		event_signal(loop->wake_fd);
}

void loop_cancel(struct loop *loop, struct loop_work *work)
{
	pthread_mutex_lock(&loop->lock);
	if (work->pending) {
		work->pending = false;
		list_del(&work->link);
	}
	pthread_mutex_unlock(&loop->lock);
}

static struct loop_work *take_posted(struct loop *loop, struct list *from)
{
	struct loop_work *work = NULL;

	pthread_mutex_lock(&loop->lock);
	if (!list_empty(from)) {
		work = list_first(from, struct loop_work, link);
		list_del(&work->link);
		work->pending = false;
	}
	pthread_mutex_unlock(&loop->lock);
	return work;
}

/* Only what had been posted before the turn: work that posts itself again does not hog the loop. */
static void run_posted(struct loop *loop)
{
	struct list turn = LIST_INIT(turn);
	struct loop_work *work;

	pthread_mutex_lock(&loop->lock);
	if (!list_empty(&loop->posted)) {
		turn = loop->posted;
		turn.next->prev = turn.prev->next = &turn;
		list_init(&loop->posted);
	}
	pthread_mutex_unlock(&loop->lock);
	while ((work = take_posted(loop, &turn)))
		work->fn(work);
}

/* ---- dispatch ---- */

/* Nanoseconds to sleep, -1 for ever. */
static s64 sleep_ns(struct loop *loop, s64 limit)
{
	s64 ns = limit;

	pthread_mutex_lock(&loop->lock);
	if (!list_empty(&loop->posted)) {
		ns = 0;
	} else if (loop->timers) {
		u64 now = clock_now_ns(), deadline = loop->heap[0]->deadline_ns;
		s64 wait = deadline <= now ? 0 : (s64)min(deadline - now, (u64)INT64_MAX);

		ns = limit < 0 ? wait : min(limit, wait);
	}
	pthread_mutex_unlock(&loop->lock);
	return ns;
}

int loop_fd(const struct loop *loop)
{
	return loop->epoll_fd;
}

s64 loop_wait_ns(struct loop *loop)
{
	return sleep_ns(loop, -1);
}

static int wait_events(struct loop *loop, s64 ns)
{
	struct timespec ts = {.tv_sec = ns / (s64)NSEC_PER_SEC, .tv_nsec = ns % (s64)NSEC_PER_SEC};
	int n, ms;

	if (!loop->no_pwait2) {
		n = epoll_pwait2(loop->epoll_fd, loop->batch, BATCH, ns < 0 ? NULL : &ts, NULL);
		if (n >= 0 || errno != ENOSYS)
			return n;
		loop->no_pwait2 = true;
	}
	ms = ns < 0 ? -1 : (int)min((ns + 999999) / 1000000, (s64)60000);
	return epoll_wait(loop->epoll_fd, loop->batch, BATCH, ms);
}

int loop_run_once(struct loop *loop, s64 timeout_ns)
{
	int n = wait_events(loop, sleep_ns(loop, timeout_ns));

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	loop->batch_len = n;
	for (int i = 0; i < n; i++) {
		struct loop_watch *watch = loop->batch[i].data.ptr;

		if (watch)
			watch->fn(watch, loop->batch[i].events);
	}
	loop->batch_len = 0;
	run_timers(loop);
	run_posted(loop);
	return 0;
}

int loop_run(struct loop *loop)
{
	while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE)) {
		int rc = loop_run_once(loop, -1);

		if (rc)
			return rc;
	}
	loop->stop = false;
	return loop->stop_value;
}

void loop_stop(struct loop *loop, int value)
{
	loop->stop_value = value;
	__atomic_store_n(&loop->stop, true, __ATOMIC_RELEASE);
	event_signal(loop->wake_fd);
}
