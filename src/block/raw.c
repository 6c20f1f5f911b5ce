/*
 * A raw disk whose format nobody named. Such a disk must stay recognisably raw: a guest that writes
 * the header of another format into sector 0 would have that image opened the next time, and with
 * it any file that the header names. (A disk opened with format=raw has no node but its file.)
 */
#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"
#include "base/log.h"
#include "block/block_int.h"

static int raw_open(struct block *b, const struct block_options *o, struct err *err)
{
	block_filter_init(b);
	log_warn("%s: no format was given and it looks raw; writes that would make it look like "
		 "another format are refused (say format=raw)",
		 b->name);
	return 0;
}

/* Would the write make the first bytes those of an image? */
static int judge(struct block *b, const struct block_io *io)
{
	u8 head[BLOCK_SECTOR];
	u64 n = min(io->len, BLOCK_SECTOR - io->offset);
	int rc = block_node_read(b->file, head, sizeof(head), 0);

	if (rc)
		return rc;
	iov_to_buf(io->iov, (size_t)io->niov, 0, head + io->offset, n);
	if (!block_looks_like_image(head))
		return 0;
	log_guest("%s: refused to write the header of another image format to sector 0", b->name);
	return -EPERM;
}

static bool concerns_head(enum block_op op, u64 offset)
{
	return op == BLOCK_WRITE && offset < BLOCK_SECTOR;
}

static void raw_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	if (unlikely(concerns_head(req->op, req->pos)))
		block_defer(q, req);
	else
		block_pass(q, req, b->file, req->pos);
}

/*
 * The data is the guest's memory and may change between the check and the write, so what is written
 * is a copy of what was checked.
 */
static int write_head(struct block *b, const struct block_io *io)
{
	struct block_io copy = *io;
	struct iovec iov;
	int rc;

	iov.iov_len = io->len;
	iov.iov_base = malloc(io->len);
	if (!iov.iov_base)
		return -ENOMEM;
	iov_to_buf(io->iov, (size_t)io->niov, 0, iov.iov_base, io->len);
	copy.iov = &iov;
	copy.niov = 1;
	rc = judge(b, &copy);
	if (!rc)
		rc = block_io(b->file, &copy);
	free(iov.iov_base);
	return rc;
}

static int raw_io(struct block *b, const struct block_io *io)
{
	return concerns_head(io->op, io->offset) ? write_head(b, io) : block_io(b->file, io);
}

const struct block_class block_raw_class = {
	.name = "raw",
	.kind = BLOCK_FILTER,
	.size = sizeof(struct block),
	.open = raw_open,
	.submit = raw_submit,
	.io = raw_io,
	.status = block_filter_status,
	.resize = block_filter_resize,
};
