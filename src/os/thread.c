#define _GNU_SOURCE
#include "os/thread.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"

static void kick_handler(int sig)
{
	(void)sig; /* it only makes blocking calls return EINTR */
}

void thread_init(void)
{
	struct sigaction sa = {.sa_handler = kick_handler};

	sigemptyset(&sa.sa_mask);
	sigaction(THREAD_KICK_SIGNAL, &sa, NULL);
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	pthread_setname_np(pthread_self(), t->name);
	log_set_role(t->name);
	return t->fn(t->arg);
}

int thread_start(struct thread *t, enum thread_role role, const char *name, void *(*fn)(void *),
		 void *arg)
{
	sigset_t all, old;
	int rc;

	t->role = role;
	t->fn = fn;
	t->arg = arg;
	snprintf(t->name, sizeof(t->name), "%s", name);
	sigfillset(&all);
	sigdelset(&all, THREAD_KICK_SIGNAL);
	/* Faults must reach the handlers that expect them. */
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&t->id, NULL, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	t->started = !rc;
	return -rc;
}

void thread_join(struct thread *t)
{
	if (!t->started)
		return;
	pthread_join(t->id, NULL);
	t->started = false;
}

void thread_kick(struct thread *t)
{
	if (t->started)
		pthread_kill(t->id, THREAD_KICK_SIGNAL);
}
