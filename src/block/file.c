/*
 * The bottom: a regular file or a block device of the host.
 *
 * Invariants:
 * 1. With O_DIRECT every system call is aligned as the file system asks (statx); what is not goes
 *    through a bounce buffer, and misaligned writes, which read first, exclude each other by
 *    `rmw_lock`.
 * 2. Reading past the end gives zeros.
 * 3. One flush of the queues is under way at a time (`flushing`). Those that are submitted
 * meanwhile wait in flush_waiters; the next one serves all of them, which lie in flush_batch then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/iov.h"
#include "block/block_int.h"
#include "block/file_int.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/uring.h"

#define MAX_TRANSFER  (1u << 30)
#define BOUNCE_MAX    (1u << 20)
#define ZERO_CHUNK    (64 * 1024)
#define WRITE_NOW_MAX (64 * 1024)
#define SLOW_NS	      NSEC_PER_MSEC /* a write that slept */
#define SLOW_PAUSES   4		    /* so many times as long the next ones are not done at once */

struct file {
	struct block block;
	int fd;
	bool device, direct, unsafe;
	bool no_punch, no_zero_range; /* the file system said so */
	u32 mem_align, offset_align;  /* with direct */
	pthread_mutex_t rmw_lock;
	pthread_mutex_t flush_lock; /* over what follows */
	bool flushing;
	struct list flush_waiters, flush_batch;
	u64 syncs;	   /* begun, whoever asked */
	u64 slow_until_ns; /* atomic: see write_now() */
};

static struct file *file_of(struct block *b)
{
	return container_of(b, struct file, block);
}

/* ---- open ---- */

static void ask_alignment(struct file *f)
{
	f->mem_align = f->offset_align = 4096;
#ifdef STATX_DIOALIGN
	{
		struct statx sx;

		if (!statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) &&
		    (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align) {
			f->mem_align = max(sx.stx_dio_mem_align, 1u);
			f->offset_align = max(sx.stx_dio_offset_align, 512u);
		}
	}
#endif
	if (!is_power_of_2(f->mem_align) || !is_power_of_2(f->offset_align) ||
	    f->offset_align > 64 * KiB)
		f->mem_align = f->offset_align = 4096;
}

static int measure(struct file *f, struct err *err)
{
	struct block *b = &f->block;
	struct stat st;
	u64 bytes;
	int logical;

	if (fstat(f->fd, &st))
		return err_set(err, errno, "%s: %s", b->name, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		b->size = (u64)st.st_size;
		return 0;
	}
	if (!S_ISBLK(st.st_mode))
		return err_set(err, EINVAL, "%s: is neither a file nor a block device", b->name);
	f->device = true;
	if (ioctl(f->fd, BLKGETSIZE64, &bytes))
		return err_set(err, errno, "%s: %s", b->name, strerror(errno));
	b->size = bytes;
	if (!ioctl(f->fd, BLKSSZGET, &logical) && logical > 0)
		b->block_size = (u32)logical;
	return 0;
}

static int file_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct file *f = file_of(b);
	int flags = (o->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
	int rc;

	f->direct = o->cache == BLOCK_CACHE_NONE || o->cache == BLOCK_CACHE_DIRECTSYNC;
	f->unsafe = o->cache == BLOCK_CACHE_UNSAFE;
	/* O_NONBLOCK: a FIFO must not hold us up; it does nothing to files and disks. */
	f->fd = open(b->name, flags | (f->direct ? O_DIRECT : 0));
	if (f->fd < 0)
		return err_set(err, errno, "%s: %s%s", b->name, strerror(errno),
			       errno == EINVAL && f->direct
				       ? " (no O_DIRECT here? try cache=writeback)"
				       : "");
	rc = measure(f, err);
	if (!rc && o->lock)
		rc = file_lock(f->fd, !o->readonly, b->name, err);
	if (rc) {
		fd_close(&f->fd);
		return rc;
	}
	f->mem_align = f->offset_align = 1;
	if (f->direct) {
		ask_alignment(f);
		b->block_size = max(b->block_size, f->offset_align);
	}
	pthread_mutex_init(&f->rmw_lock, NULL);
	pthread_mutex_init(&f->flush_lock, NULL);
	list_init(&f->flush_waiters);
	list_init(&f->flush_batch);
	b->readonly = o->readonly;
	b->fixed_size = f->device;
	b->can_discard = b->can_write_zeroes = true;
	return 0;
}

static int file_close(struct block *b)
{
	struct file *f = file_of(b);

	fd_close(&f->fd);
	pthread_mutex_destroy(&f->rmw_lock);
	pthread_mutex_destroy(&f->flush_lock);
	return 0;
}

/* ---- the fast way ---- */

static bool direct_fits(const struct file *f, u64 offset, u64 len, const struct iovec *iov,
			int niov)
{
	if ((offset | len) & (f->offset_align - 1))
		return false;
	for (int i = 0; i < niov; i++)
		if (((uintptr_t)iov[i].iov_base & (f->mem_align - 1)) ||
		    (iov[i].iov_len & (f->offset_align - 1)))
			return false;
	return true;
}

/* ---- flushes, shared by all queues ---- */

static void on_flushed(struct block_req *req, void *arg, int result);

static void list_take(struct list *to, struct list *from)
{
	while (!list_empty(from)) {
		struct list *item = from->next;

		list_del(item);
		list_add_tail(to, item);
	}
}

/* Begin the flush of req, in q's thread. What is of another queue is a helper's. */
static void flush_begin(struct file *f, struct block_queue *q, struct block_req *req)
{
	struct uring_io io = {.op = URING_FDATASYNC, .fd = f->fd, .user = req};
	int rc;

	block_hook_add(req, on_flushed, f);
	if (q == req->queue && !uring_queue(block_queue_ring(q), &io)) {
		__atomic_add_fetch(&f->syncs, 1, __ATOMIC_RELAXED);
		return;
	}
	rc = block_pool_add(f->block.top->pool, req);
	if (rc)
		block_queue_return(req, rc);
}

/* The waiter that is the next to flush: one of this queue if there is one. Locked. */
static struct block_req *flush_next(struct file *f, struct block_queue *q)
{
	struct block_req *req;

	if (list_empty(&f->flush_waiters))
		return NULL;
	list_for_each_entry (req, &f->flush_waiters, link)
		if (req->queue == q)
			goto found;
	req = list_first(&f->flush_waiters, struct block_req, link);
found:
	list_del(&req->link);
	list_take(&f->flush_batch, &f->flush_waiters);
	return req;
}

/* In the thread of the queue that flushed: its companions are done, too; the next may begin. */
static void on_flushed(struct block_req *req, void *arg, int result)
{
	struct list done = LIST_INIT(done);
	struct block_queue *q = req->queue;
	struct file *f = arg;
	struct block_req *next;

	pthread_mutex_lock(&f->flush_lock);
	list_take(&done, &f->flush_batch);
	next = flush_next(f, q);
	f->flushing = next;
	pthread_mutex_unlock(&f->flush_lock);
	if (next)
		flush_begin(f, q, next);
	while (!list_empty(&done)) {
		struct block_req *other = list_first(&done, struct block_req, link);

		list_del(&other->link);
		block_queue_return(other, result);
	}
	block_complete(req, result);
}

static void flush_submit(struct file *f, struct block_queue *q, struct block_req *req)
{
	bool first;

	/* The one that flushes needs room for its hook. */
	if (!block_queue_has_ring(q) || req->nhooks == BLOCK_MAX_HOOKS) {
		block_defer(q, req);
		return;
	}
	pthread_mutex_lock(&f->flush_lock);
	first = !f->flushing;
	f->flushing = true;
	if (!first)
		list_add_tail(&f->flush_waiters, &req->link);
	pthread_mutex_unlock(&f->flush_lock);
	if (first)
		flush_begin(f, q, req);
}

u64 block_file_syncs(struct block *b)
{
	return __atomic_load_n(&file_of(b)->syncs, __ATOMIC_RELAXED);
}

/*
 * A small write into the page cache is a copy, which costs less here than a kernel worker and the
 * hand-overs to and from it: io_uring has one for every buffered write that the file system cannot
 * promise to do without sleeping (ext4). Once one did sleep, the next ones have their worker for
 * some times as long, so that a slow disk holds up the queue for a fifth of the time at most, and a
 * moment without a CPU changes little.
 */
static bool write_now(struct file *f, struct block_req *req)
{
	u64 begin = clock_now_ns(), end;
	ssize_t n;

	if (begin < __atomic_load_n(&f->slow_until_ns, __ATOMIC_RELAXED))
		return false;
	n = pwritev(f->fd, req->iov, req->niov, (off_t)req->pos);
	end = clock_now_ns();
	if (unlikely(end - begin > SLOW_NS))
		__atomic_store_n(&f->slow_until_ns, end + SLOW_PAUSES * (end - begin),
				 __ATOMIC_RELAXED);
	return n >= 0 && (u64)n == req->len;
}

static void file_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	struct file *f = file_of(b);
	struct uring_io io = {.fd = f->fd,
			      .iov = req->iov,
			      .niov = (unsigned int)req->niov,
			      .offset = req->pos,
			      .beside = f->direct,
			      .user = req};

	switch (req->op) {
	case BLOCK_READ:
		io.op = URING_READV;
		break;
	case BLOCK_WRITE:
		io.op = URING_WRITEV;
		if ((req->effective & BLOCK_FUA) && !f->unsafe)
			io.rw_flags = RWF_DSYNC;
		else if (!f->direct && req->len <= WRITE_NOW_MAX && req->niov <= IOV_MAX &&
			 write_now(f, req)) {
			block_finish(q, req, 0);
			return;
		}
		break;
	case BLOCK_FLUSH:
		if (f->unsafe) {
			block_finish(q, req, 0);
			return;
		}
		flush_submit(f, q, req);
		return;
	default:
		block_defer(q, req);
		return;
	}
	if (unlikely(!block_queue_has_ring(q) || req->niov > IOV_MAX || req->len > MAX_TRANSFER ||
		     (f->direct && !direct_fits(f, req->pos, req->len, req->iov, req->niov)) ||
		     uring_queue(block_queue_ring(q), &io)))
		block_defer(q, req);
}

/* ---- the slow way ---- */

static ssize_t transfer_once(struct file *f, bool write, const struct iovec *iov, int niov,
			     u64 offset)
{
	ssize_t n;

	do {
		if (write)
			n = pwritev(f->fd, iov, niov, (off_t)offset);
		else
			n = preadv(f->fd, iov, niov, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

#define WINDOW 64

/* Aligned (or not direct): system calls until it is done. */
static int transfer(struct file *f, bool write, const struct iovec *iov, int niov, u64 offset,
		    u64 len)
{
	u64 done = 0;

	while (done < len) {
		struct iovec part[WINDOW];
		u64 want = min(len - done, (u64)MAX_TRANSFER);
		int count = iov_slice(part, WINDOW, iov, (size_t)niov, done, want);
		ssize_t n;

		if (count == -E2BIG)
			count = WINDOW;
		if (count < 0)
			return count;
		n = transfer_once(f, write, part, count, offset + done);
		if (n < 0)
			return (int)n;
		if (!n) {
			if (write)
				return -EIO;
			iov_memset(iov, (size_t)niov, done, 0, len - done);
			return 0;
		}
		done += (u64)n;
		/* The end of a file, where O_DIRECT stops short of an aligned offset. */
		if (f->direct && !write && ((offset + done) & (f->offset_align - 1))) {
			iov_memset(iov, (size_t)niov, done, 0, len - done);
			return 0;
		}
	}
	return 0;
}

static int transfer_buf(struct file *f, bool write, void *buf, u64 len, u64 offset)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	return transfer(f, write, &iov, 1, offset, len);
}

/* Fill the parts of an aligned buffer that a misaligned write leaves alone. */
static int bounce_fill(struct file *f, u8 *buf, u64 start, u64 end, u64 offset, u64 upto)
{
	u64 unit = f->offset_align;
	int rc = 0;

	if (offset != start)
		rc = transfer_buf(f, false, buf, unit, start);
	if (!rc && upto != end && (end - unit != start || offset == start))
		rc = transfer_buf(f, false, buf + (end - unit - start), unit, end - unit);
	return rc;
}

static int bounce_part(struct file *f, u8 *buf, const struct block_io *io, u64 done, u64 part)
{
	u64 offset = io->offset + done, unit = f->offset_align;
	u64 start = align_down(offset, unit), end = align_up(offset + part, unit);
	bool write = io->op == BLOCK_WRITE;
	struct stat st;
	int rc;

	if (!write) {
		rc = transfer_buf(f, false, buf, end - start, start);
		if (!rc)
			iov_from_buf(io->iov, (size_t)io->niov, done, buf + (offset - start), part);
		return rc;
	}
	rc = bounce_fill(f, buf, start, end, offset, offset + part);
	if (rc)
		return rc;
	iov_to_buf(io->iov, (size_t)io->niov, done, buf + (offset - start), part);
	if (fstat(f->fd, &st))
		return -errno;
	rc = transfer_buf(f, true, buf, end - start, start);
	/* The padding must not make the file longer than the write did. */
	if (!rc && !f->device && end > offset + part && end > (u64)st.st_size &&
	    ftruncate(f->fd, (off_t)max((u64)st.st_size, offset + part)))
		rc = -errno;
	return rc;
}

static int bounce(struct file *f, const struct block_io *io)
{
	u64 cap = BOUNCE_MAX + 2ULL * f->offset_align;
	bool write = io->op == BLOCK_WRITE;
	void *buf;
	int rc = 0;

	if (posix_memalign(&buf, max(f->mem_align, 4096u), cap))
		return -ENOMEM;
	if (write)
		pthread_mutex_lock(&f->rmw_lock);
	for (u64 done = 0; done < io->len && !rc;) {
		u64 part = min(io->len - done, (u64)BOUNCE_MAX);

		rc = bounce_part(f, buf, io, done, part);
		done += part;
	}
	if (write)
		pthread_mutex_unlock(&f->rmw_lock);
	free(buf);
	return rc;
}

static int sync_data(struct file *f)
{
	if (f->unsafe)
		return 0;
	__atomic_add_fetch(&f->syncs, 1, __ATOMIC_RELAXED);
	while (fdatasync(f->fd))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int rw(struct file *f, const struct block_io *io)
{
	int rc;

	if (f->direct && !direct_fits(f, io->offset, io->len, io->iov, io->niov))
		rc = bounce(f, io);
	else
		rc = transfer(f, io->op == BLOCK_WRITE, io->iov, io->niov, io->offset, io->len);
	if (!rc && io->op == BLOCK_WRITE && (io->flags & BLOCK_FUA))
		rc = sync_data(f);
	return rc;
}

static int try_fallocate(struct file *f, int mode, u64 offset, u64 len, bool *refused)
{
	if (__atomic_load_n(refused, __ATOMIC_RELAXED))
		return -EOPNOTSUPP;
	while (fallocate(f->fd, mode, (off_t)offset, (off_t)len)) {
		if (errno == EINTR)
			continue;
		if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != ENODEV)
			return -errno;
		if (errno != EINVAL)
			__atomic_store_n(refused, true, __ATOMIC_RELAXED);
		return -EOPNOTSUPP;
	}
	return 0;
}

static int punch(struct file *f, u64 offset, u64 len)
{
	return try_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len,
			     &f->no_punch);
}

static int write_zero_buffers(struct file *f, u64 offset, u64 len)
{
	struct block_io io = {.op = BLOCK_WRITE, .niov = 1};
	struct iovec iov;
	void *zeros;
	int rc = 0;

	if (posix_memalign(&zeros, 4096, ZERO_CHUNK))
		return -ENOMEM;
	memset(zeros, 0, ZERO_CHUNK);
	io.iov = &iov;
	while (len && !rc) {
		iov = (struct iovec){.iov_base = zeros, .iov_len = min(len, (u64)ZERO_CHUNK)};
		io.offset = offset;
		io.len = iov.iov_len;
		rc = rw(f, &io);
		offset += io.len;
		len -= io.len;
	}
	free(zeros);
	return rc;
}

/*
 * With O_DIRECT a write to a hole waits for the file system to find space, alone in the file and,
 * in a ring, in a thread of the kernel's; to reserved space it does not. The page cache puts both
 * off anyway. What fails is tried again without.
 */
static bool reserve(struct file *f, const struct block_io *io)
{
	return f->direct && !f->device && (io->flags & BLOCK_RESERVE) &&
	       !try_fallocate(f, FALLOC_FL_ZERO_RANGE, io->offset, io->len, &f->no_zero_range);
}

static int write_zeroes(struct file *f, const struct block_io *io)
{
	struct stat st;
	int rc = -EOPNOTSUPP;

	if (reserve(f, io))
		return io->flags & BLOCK_FUA ? sync_data(f) : 0;
	/* What lies past the end gets there as a hole; a hole punched inside stays inside. */
	if (!f->device) {
		if (fstat(f->fd, &st))
			return -errno;
		if (io->offset + io->len > (u64)st.st_size &&
		    ftruncate(f->fd, (off_t)(io->offset + io->len)))
			return -errno;
		if (io->offset >= (u64)st.st_size)
			rc = 0;
	}
	if (rc && (io->flags & BLOCK_MAY_UNMAP))
		rc = punch(f, io->offset, io->len);
	if (rc == -EOPNOTSUPP)
		rc = try_fallocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, io->offset,
				   io->len, &f->no_zero_range);
	if (rc == -EOPNOTSUPP && !(io->flags & BLOCK_NO_FALLBACK))
		rc = write_zero_buffers(f, io->offset, io->len);
	if (!rc && (io->flags & BLOCK_FUA))
		rc = sync_data(f);
	return rc;
}

static int discard(struct file *f, const struct block_io *io)
{
	int rc = punch(f, io->offset, io->len);

	return rc == -EOPNOTSUPP ? 0 : rc;
}

static int file_io(struct block *b, const struct block_io *io)
{
	struct file *f = file_of(b);

	if (io->offset > INT64_MAX || io->len > INT64_MAX - io->offset)
		return -EFBIG;
	switch (io->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return rw(f, io);
	case BLOCK_FLUSH:
		return sync_data(f);
	case BLOCK_DISCARD:
		return discard(f, io);
	case BLOCK_WRITE_ZEROES:
		return write_zeroes(f, io);
	}
	return -EINVAL;
}

/* ---- the rest ---- */

static int file_status(struct block *b, u64 offset, struct block_extent *e)
{
	struct file *f = file_of(b);
	off_t data = f->device ? (off_t)offset : lseek(f->fd, (off_t)offset, SEEK_DATA);
	off_t hole;

	e->flags = BLOCK_ALLOCATED | BLOCK_HAS_HOST;
	e->host_offset = offset;
	e->file = b->name;
	if (data < 0 && errno == ENXIO) {
		e->flags |= BLOCK_ZERO; /* a hole up to the end */
		return 0;
	}
	if (data > (off_t)offset) {
		e->flags |= BLOCK_ZERO;
		e->len = min(e->len, (u64)data - offset);
		return 0;
	}
	e->flags |= BLOCK_DATA;
	hole = f->device ? -1 : lseek(f->fd, (off_t)offset, SEEK_HOLE);
	if (hole > (off_t)offset)
		e->len = min(e->len, (u64)hole - offset);
	return 0;
}

static int file_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct file *f = file_of(b);

	if (f->device)
		return err_set(err, ENOTSUP, "%s: a block device has the size it has", b->name);
	if (size > INT64_MAX)
		return err_set(err, EFBIG, "%s: too large", b->name);
	if (ftruncate(f->fd, (off_t)size))
		return err_set(err, errno, "%s: %s", b->name, strerror(errno));
	__atomic_store_n(&b->size, size, __ATOMIC_RELEASE);
	return 0;
}

int block_file_reserve(struct block *b, u64 bytes)
{
	struct file *f = file_of(b);

	if (b->class != &block_file_class || bytes > INT64_MAX)
		return -ENOTSUP;
	return bytes ? -posix_fallocate(f->fd, 0, (off_t)bytes) : 0;
}

int block_file_fill(struct block *b, u64 bytes)
{
	return b->class == &block_file_class ? write_zero_buffers(file_of(b), 0, bytes) : -ENOTSUP;
}

const struct block_class block_file_class = {
	.name = "file",
	.kind = BLOCK_PROTOCOL,
	.size = sizeof(struct file),
	.open = file_open,
	.close = file_close,
	.submit = file_submit,
	.io = file_io,
	.status = file_status,
	.resize = file_resize,
};
