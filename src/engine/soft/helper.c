/*
 * The helper thread of a VM: it waits for timers (one timerfd, set to the earliest deadline) and
 * for the eventfds of irqfds, in one epoll.
 *
 * Invariants:
 * 1. arch->timers holds the armed timers in order of deadline; timer_lock guards it.
 * 2. timer_fd is set to a time no later than the first deadline, while one is armed.
 * 3. A timer's fn runs without locks; timer_running names it, so that disarm_sync can wait.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"
#include "os/clock.h"
#include "os/event.h"
#include "os/file.h"

#define MAX_EVENTS 32

/* ---- timers ---- */

void kvm_timer_init(struct kvm *kvm, struct kvm_timer *timer, void (*fn)(struct kvm_timer *))
{
	timer->kvm = kvm;
	timer->fn = fn;
	timer->deadline_ns = 0;
	list_init(&timer->link);
}

static void set_deadline(struct kvm_timer *timer, u64 deadline_ns)
{
	__atomic_store_n(&timer->deadline_ns, deadline_ns, __ATOMIC_RELAXED);
}

/* timer_lock held. Have the helper wake for the first deadline; waking too early is harmless. */
static void program(struct kvm_arch *arch)
{
	struct itimerspec when = {0};
	u64 first;

	if (list_empty(&arch->timers))
		return;
	first = list_first(&arch->timers, struct kvm_timer, link)->deadline_ns;
	if (arch->timer_programmed && arch->timer_programmed <= first)
		return;
	arch->timer_programmed = first;
	when.it_value.tv_sec = (time_t)(first / NSEC_PER_SEC);
	when.it_value.tv_nsec = (long)(first % NSEC_PER_SEC);
	timerfd_settime(arch->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void kvm_timer_arm(struct kvm_timer *timer, u64 deadline_ns)
{
	struct kvm_arch *arch = timer->kvm->arch;
	struct kvm_timer *t;

	pthread_mutex_lock(&arch->timer_lock);
	list_del(&timer->link);
	set_deadline(timer, max(deadline_ns, (u64)1));
	list_for_each_entry (t, &arch->timers, link)
		if (t->deadline_ns > timer->deadline_ns)
			break;
	list_add_tail(&t->link, &timer->link);
	program(arch);
	pthread_mutex_unlock(&arch->timer_lock);
}

void kvm_timer_disarm(struct kvm_timer *timer)
{
	struct kvm_arch *arch = timer->kvm->arch;

	pthread_mutex_lock(&arch->timer_lock);
	list_del(&timer->link);
	set_deadline(timer, 0);
	pthread_mutex_unlock(&arch->timer_lock);
}

void kvm_timer_disarm_sync(struct kvm_timer *timer)
{
	struct kvm_arch *arch = timer->kvm->arch;

	pthread_mutex_lock(&arch->timer_lock);
	for (;;) {
		list_del(&timer->link);
		set_deadline(timer, 0);
		if (arch->timer_running != timer)
			break;
		pthread_cond_wait(&arch->timer_idle, &arch->timer_lock);
	}
	pthread_mutex_unlock(&arch->timer_lock);
}

/* timer_lock held: the first timer whose time has come, taken off the list; or NULL. */
static struct kvm_timer *take_due(struct kvm_arch *arch)
{
	struct kvm_timer *t;

	if (list_empty(&arch->timers))
		return NULL;
	t = list_first(&arch->timers, struct kvm_timer, link);
	if (t->deadline_ns > clock_now_ns())
		return NULL;
	list_del(&t->link);
	set_deadline(t, 0);
	return t;
}

void kvm_timer_run_due(struct kvm_timer *timer)
{
	struct kvm_arch *arch = timer->kvm->arch;
	bool due;

	pthread_mutex_lock(&arch->timer_lock);
	due = timer->deadline_ns && timer->deadline_ns <= clock_now_ns();
	if (due) {
		list_del(&timer->link);
		set_deadline(timer, 0);
		__atomic_fetch_add(&arch->stat->timer_expiries, 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&arch->timer_lock);
	if (due)
		timer->fn(timer);
}

static void run_timers(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;
	struct kvm_timer *t;

	event_clear(arch->timer_fd);
	pthread_mutex_lock(&arch->timer_lock);
	arch->timer_programmed = 0;
	while ((t = take_due(arch))) {
		arch->timer_running = t;
		pthread_mutex_unlock(&arch->timer_lock);
		t->fn(t);
		pthread_mutex_lock(&arch->timer_lock);
		arch->timer_running = NULL;
		__atomic_fetch_add(&arch->stat->timer_expiries, 1, __ATOMIC_RELAXED);
		pthread_cond_broadcast(&arch->timer_idle);
	}
	program(arch);
	pthread_mutex_unlock(&arch->timer_lock);
}

/* ---- the thread ---- */

/*
 * A watch may have been deleted after epoll_wait() fetched its event. Deletion and this both hold
 * irq_lock, and a deleted watch is no longer in the list of irqfds, whose owner fn looks it up by
 * descriptor; so the event carries the descriptor, not the pointer.
 */
static void *helper_main(void *arg)
{
	struct kvm *kvm = arg;
	struct kvm_arch *arch = kvm->arch;
	struct epoll_event events[MAX_EVENTS];

	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	for (;;) {
		int n = epoll_wait(arch->epoll_fd, events, MAX_EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;

			if (fd == arch->stop_fd)
				return NULL;
			if (fd == arch->timer_fd)
				run_timers(kvm);
			else
				kvm_irqfd_ready(kvm, fd);
		}
	}
}

int helper_watch(struct kvm *kvm, int fd, bool on)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(kvm->arch->epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event)
		       ? -errno
		       : 0;
}

static int open_descriptors(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;
	int rc;

	arch->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (arch->epoll_fd < 0)
		return -errno;
	arch->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (arch->timer_fd < 0)
		return -errno;
	arch->stop_fd = event_new();
	if (arch->stop_fd < 0)
		return arch->stop_fd;
	rc = helper_watch(kvm, arch->timer_fd, true);
	return rc ? rc : helper_watch(kvm, arch->stop_fd, true);
}

static void close_descriptors(struct kvm_arch *arch)
{
	fd_close(&arch->epoll_fd);
	fd_close(&arch->timer_fd);
	fd_close(&arch->stop_fd);
}

int helper_start(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;
	int rc;

	if (arch->helper.started)
		return 0;
	rc = open_descriptors(kvm);
	if (!rc)
		rc = thread_start(&arch->helper, THREAD_HELPER, "kvm-helper", helper_main, kvm);
	if (rc)
		close_descriptors(arch);
	return rc;
}

void helper_stop(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;

	if (!arch->helper.started)
		return;
	event_signal(arch->stop_fd);
	thread_join(&arch->helper);
	close_descriptors(arch);
}
