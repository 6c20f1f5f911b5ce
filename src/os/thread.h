/*
 * Threads with roles. The role names the thread in logs, in /proc and in the sandbox's table of
 * system calls. All signals but the kick are blocked in every thread but the main one.
 */
#ifndef OS_THREAD_H
#define OS_THREAD_H

#include <pthread.h>
#include <signal.h>

#include "base/types.h"

enum thread_role {
	THREAD_MAIN,   /* event loop: monitor, chardev, display, timers, tap */
	THREAD_VCPU,   /* one a vCPU */
	THREAD_BLOCK,  /* one a block queue */
	THREAD_NET,    /* a network back end of its own: libslirp */
	THREAD_HELPER, /* decompression, display encoding, engine timers */
};

struct thread {
	pthread_t id;
	enum thread_role role;
	char name[16];
	void *(*fn)(void *arg);
	void *arg;
	bool started;
};

/* Start fn(arg) in a thread called name (cut to 15 bytes). 0 or -errno. *t must stay valid and at
 * its address until thread_join(). */
int thread_start(struct thread *t, enum thread_role role, const char *name, void *(*fn)(void *),
		 void *arg);

/* Wait for the end; harmless on a thread that was never started. */
void thread_join(struct thread *t);

/* The signal that interrupts a blocking call (KVM_RUN) of another thread. It has an empty handler
 * installed by thread_init(). */
#define THREAD_KICK_SIGNAL (SIGRTMIN)
void thread_kick(struct thread *t);

/* Once, early in main(): install the kick handler, name the main thread. */
void thread_init(void);

#endif
