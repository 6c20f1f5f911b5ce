/*
 * io_uring: file I/O without a system call each. One thread owns a ring: the one that first
 * queues, submits or reaps (a ring may be made by another thread before). Not a hot path for
 * errors: what cannot be queued is the caller's to do by another way.
 */
#ifndef OS_URING_H
#define OS_URING_H

#include <sys/uio.h>

#include "base/types.h"

struct uring;

enum uring_op {
	URING_READV,
	URING_WRITEV,
	URING_FDATASYNC,
	URING_POLL_IN, /* completes once when fd is readable */
};

/* What to queue. iov must stay valid until the completion. */
struct uring_io {
	enum uring_op op;
	int fd;
	const struct iovec *iov;
	unsigned int niov;
	u64 offset;
	int rw_flags; /* RWF_DSYNC, ... */
	/* A device does it, beside us: it gets them a few at a time. Not so what is no more than a
	 * copy out of the page cache, done by whoever submits it. */
	bool beside;
	void *user; /* comes back with the completion */
};

/* -EPERM, -ENOSYS where io_uring is forbidden or missing, -ENOMEM, ... Room for `entries`
 * submissions; twice as many completions. */
int uring_new(struct uring **out, unsigned int entries);
/* What is in flight is cancelled or completes unseen: wait for it first. */
void uring_free(struct uring *ring);

/* Readable when there is something to reap. */
int uring_fd(const struct uring *ring);

/* Queue one operation; what is `beside` is submitted by itself every few. -EBUSY when the kernel
 * takes no more until completions are reaped. */
int uring_queue(struct uring *ring, const struct uring_io *io);

/* Hand what is queued to the kernel. What it does not take now is taken next time; while it has no
 * memory for any of it this sleeps, a tenth of a second at most. */
void uring_submit(struct uring *ring);

/* Submit, and call fn for each completion there is; the number of them. result as of the system
 * call: bytes or -errno. */
unsigned int uring_reap(struct uring *ring, void (*fn)(void *arg, void *user, int result),
			void *arg);

/* Submit and sleep until there is a completion to reap. */
void uring_wait(struct uring *ring);

#endif
