#define _GNU_SOURCE
#include "os/uring.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

/* So many for a device wait at most: it works on them while the next ones are made, and completions
 * come back in the same small bunches rather than all at once, after which it has nothing to do. */
#define SUBMIT_BATCH 4

/* How often, and after what time, the kernel is asked again when it has no memory for a request. */
#define SUBMIT_TRIES 100
#define SUBMIT_PAUSE 1000 /* us */

struct uring {
	struct io_uring ring;
	bool disabled; /* until the owner's first call */
};

/* The best set of flags that this kernel takes. SINGLE_ISSUER binds the ring to the thread that
 * enables it, hence R_DISABLED. Not DEFER_TASKRUN: with it a thread that sleeps in epoll on the
 * ring's descriptor is not always woken by a completion (seen with Linux 6.18). */
static const unsigned int setups[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_R_DISABLED,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	0,
};

int uring_new(struct uring **out, unsigned int entries)
{
	struct uring *r = calloc(1, sizeof(*r));
	int rc = -EINVAL;

	if (!r)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(setups) && rc == -EINVAL; i++) {
		rc = io_uring_queue_init(entries, &r->ring, setups[i]);
		r->disabled = setups[i] & IORING_SETUP_R_DISABLED;
	}
	if (rc) {
		free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void uring_free(struct uring *r)
{
	if (!r)
		return;
	io_uring_queue_exit(&r->ring);
	free(r);
}

int uring_fd(const struct uring *r)
{
	return r->ring.ring_fd;
}

static void enable(struct uring *r)
{
	r->disabled = false;
	io_uring_enable_rings(&r->ring);
}

static struct io_uring_sqe *next_sqe(struct uring *r)
{
	struct io_uring_sqe *sqe;

	if (unlikely(r->disabled))
		enable(r);
	sqe = io_uring_get_sqe(&r->ring);
	if (unlikely(!sqe)) {
		io_uring_submit(&r->ring);
		sqe = io_uring_get_sqe(&r->ring);
	}
	return sqe;
}

int uring_queue(struct uring *r, const struct uring_io *io)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	if (!sqe)
		return -EBUSY;
	switch (io->op) {
	case URING_READV:
		if (io->niov == 1)
			io_uring_prep_read(sqe, io->fd, io->iov->iov_base,
					   (unsigned int)io->iov->iov_len, io->offset);
		else
			io_uring_prep_readv(sqe, io->fd, io->iov, io->niov, io->offset);
		sqe->rw_flags = io->rw_flags;
		break;
	case URING_WRITEV:
		if (io->niov == 1)
			io_uring_prep_write(sqe, io->fd, io->iov->iov_base,
					    (unsigned int)io->iov->iov_len, io->offset);
		else
			io_uring_prep_writev(sqe, io->fd, io->iov, io->niov, io->offset);
		sqe->rw_flags = io->rw_flags;
		break;
	case URING_FDATASYNC:
		io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
		break;
	case URING_POLL_IN:
		io_uring_prep_poll_add(sqe, io->fd, POLLIN);
		break;
	}
	io_uring_sqe_set_data(sqe, io->user);
	if (io->beside && io_uring_sq_ready(&r->ring) >= SUBMIT_BATCH)
		io_uring_submit(&r->ring);
	return 0;
}

void uring_submit(struct uring *r)
{
	if (unlikely(r->disabled))
		enable(r);
	/* What is refused now is taken next time, for which a completion wakes the owner; there is
	 * none to come when nothing at all was taken. */
	for (int i = 0; i < SUBMIT_TRIES && io_uring_sq_ready(&r->ring); i++) {
		if (io_uring_submit(&r->ring) != -EAGAIN)
			return;
		usleep(SUBMIT_PAUSE);
	}
}

/* Must the kernel be entered to learn of completions, or to give it submissions? */
static bool needs_enter(struct uring *r)
{
	unsigned int flags = __atomic_load_n(r->ring.sq.kflags, __ATOMIC_RELAXED);

	return io_uring_sq_ready(&r->ring) || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

unsigned int uring_reap(struct uring *r, void (*fn)(void *arg, void *user, int result), void *arg)
{
	struct io_uring_cqe *cqe;
	unsigned int count = 0;

	if (unlikely(r->disabled))
		enable(r);
	if (needs_enter(r))
		io_uring_submit_and_get_events(&r->ring);
	/* One at a time, consumed before fn runs: fn may queue, submit and reap again. */
	while (io_uring_cq_ready(&r->ring)) {
		void *user;
		int result;

		if (io_uring_peek_cqe(&r->ring, &cqe))
			break;
		user = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&r->ring, cqe);
		fn(arg, user, result);
		count++;
	}
	return count;
}

void uring_wait(struct uring *r)
{
	if (unlikely(r->disabled))
		enable(r);
	if (!io_uring_cq_ready(&r->ring))
		io_uring_submit_and_wait(&r->ring, 1);
}
