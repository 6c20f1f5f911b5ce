/* What layers use on the nodes below them. */
#include <errno.h>

#include "base/iov.h"
#include "block/block_int.h"

int block_node_rw(struct block *block, enum block_op op, void *buf, u64 len, u64 offset)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct block_io io = {.op = op, .offset = offset, .len = len, .iov = &iov, .niov = 1};

	return block_io(block, &io);
}

int block_node_flush(struct block *block)
{
	struct block_io io = {.op = BLOCK_FLUSH};

	return block_io(block, &io);
}

int block_node_zero(struct block *block, u64 len, u64 offset, u32 flags)
{
	struct block_io io = {
		.op = BLOCK_WRITE_ZEROES, .flags = flags, .offset = offset, .len = len};

	return block_io(block, &io);
}

#define BACKING_IOV 64

int block_read_backing(struct block *backing, const struct iovec *iov, int niov, u64 offset,
		       u64 len)
{
	u64 size = block_size(backing), there, done = 0;

	there = offset >= size ? 0 : min(len, size - offset);
	iov_memset(iov, (size_t)niov, there, 0, len - there);
	while (done < there) {
		struct iovec part[BACKING_IOV];
		struct block_io io = {.op = BLOCK_READ, .offset = offset + done, .iov = part};
		int rc;

		io.len = there - done;
		io.niov = iov_slice(part, BACKING_IOV, iov, (size_t)niov, done, io.len);
		if (io.niov == -E2BIG) {
			io.niov = BACKING_IOV;
			io.len = iov_length(part, BACKING_IOV);
		}
		if (io.niov < 0)
			return io.niov;
		rc = block_io(backing, &io);
		if (rc)
			return rc;
		done += io.len;
	}
	return 0;
}

int block_backing_status(struct block *b, u64 offset, struct block_extent *e)
{
	struct block *backing = b->backing;
	u64 size = backing ? block_size(backing) : 0;
	int rc;

	e->flags = BLOCK_ZERO;
	if (offset >= size)
		return 0;
	e->len = min(e->len, size - offset);
	e->flags = 0;
	rc = backing->class->status(backing, offset, e);
	e->flags &= ~(u32)BLOCK_ALLOCATED;
	e->depth++;
	return rc;
}

/* ---- filters ---- */

void block_filter_init(struct block *b)
{
	const struct block *f = b->file;

	b->size = f->size;
	b->block_size = f->block_size;
	b->discard_align = f->discard_align;
	b->readonly = f->readonly;
	b->can_discard = f->can_discard;
	b->can_write_zeroes = f->can_write_zeroes;
}

int block_filter_status(struct block *b, u64 offset, struct block_extent *e)
{
	return b->file->class->status(b->file, offset, e);
}

int block_filter_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	int rc;

	if (!b->file->class->resize)
		return err_set(err, ENOTSUP, "%s: cannot be resized", b->name);
	rc = b->file->class->resize(b->file, size, shrink, err);
	if (!rc)
		__atomic_store_n(&b->size, block_size(b->file), __ATOMIC_RELEASE);
	return rc;
}
