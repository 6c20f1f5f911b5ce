#include "block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/iov.h"
#include "block/block_int.h"

#define BLOCK_CLASS(name) extern const struct block_class block_##name##_class;
#include "block/formats.def"
#undef BLOCK_CLASS

const struct block_class *const block_classes[] = {
#define BLOCK_CLASS(name) &block_##name##_class,
#include "block/formats.def"
#undef BLOCK_CLASS
	NULL,
};

const struct block_class *block_class_lookup(const char *name)
{
	for (size_t i = 0; block_classes[i]; i++)
		if (!strcmp(block_classes[i]->name, name))
			return block_classes[i];
	return NULL;
}

/* ---- nodes ---- */

struct block *block_node_new(const struct block_class *class, const char *name, struct block *file)
{
	struct block *b = calloc(1, class->size);

	if (!b)
		return NULL;
	b->name = strdup(name);
	if (!b->name) {
		free(b);
		return NULL;
	}
	b->class = class;
	b->file = file;
	b->top = b;
	b->block_size = b->discard_align = BLOCK_SECTOR;
	list_init(&b->queues);
	pthread_mutex_init(&b->queues_lock, NULL);
	return b;
}

static int close_node(struct block *b)
{
	int rc = 0, child;

	if (!b)
		return 0;
	if (b->class->close)
		rc = b->class->close(b);
	child = close_node(b->file);
	if (!rc)
		rc = child;
	close_node(b->backing);
	block_pool_free(b->pool);
	pthread_mutex_destroy(&b->queues_lock);
	free(b->backing_name);
	free(b->backing_format);
	free(b->name);
	free(b);
	return rc;
}

void block_node_free(struct block *b)
{
	if (!b)
		return;
	close_node(b->file);
	close_node(b->backing);
	block_pool_free(b->pool);
	pthread_mutex_destroy(&b->queues_lock);
	free(b->backing_name);
	free(b->backing_format);
	free(b->name);
	free(b);
}

int block_close(struct block *block)
{
	return close_node(block);
}

/* ---- facts ---- */

u64 block_size(struct block *block)
{
	return __atomic_load_n(&block->size, __ATOMIC_ACQUIRE);
}

void block_get_info(struct block *block, struct block_info *info)
{
	const struct block *image = block;

	while (image->class->kind == BLOCK_FILTER)
		image = image->file;
	*info = (struct block_info){
		.format = image->class->kind == BLOCK_PROTOCOL ? "raw" : image->class->name,
		.size = block_size(block),
		.block_size = block->block_size,
		.discard_align = block->discard_align,
		.readonly = block->readonly,
		.can_discard = block->can_discard && block->discard && !block->readonly,
		.can_write_zeroes = block->can_write_zeroes && !block->readonly,
		.probed = block->probed,
	};
}

void block_on_resize(struct block *block, void (*fn)(void *arg, u64 size), void *arg)
{
	block->on_resize = fn;
	block->on_resize_arg = arg;
}

int block_resize(struct block *block, u64 size, bool shrink, struct err *err)
{
	int rc;

	if (block->readonly)
		return err_set(err, EROFS, "%s: is read-only", block->name);
	if (!block->class->resize)
		return err_set(err, ENOTSUP, "%s: cannot be resized", block->name);
	if (size < block_size(block) && !shrink)
		return err_set(err, EINVAL, "%s: shrinking loses data and needs --shrink",
			       block->name);
	rc = block->class->resize(block, size, shrink, err);
	if (!rc && block->on_resize)
		block->on_resize(block->on_resize_arg, block_size(block));
	return rc;
}

/* ---- synchronous access ---- */

static int top_io(struct block *b, struct block_io *io)
{
	if (io->op != BLOCK_FLUSH) {
		if (!range_fits(io->offset, io->len, block_size(b)))
			return -EINVAL;
		if (io->op != BLOCK_READ && b->readonly)
			return -EROFS;
		if (!io->len)
			return 0;
	}
	if (io->op == BLOCK_DISCARD && !b->discard)
		return 0;
	if (b->writethrough && (io->op == BLOCK_WRITE || io->op == BLOCK_WRITE_ZEROES))
		io->flags |= BLOCK_FUA;
	if (!b->discard)
		io->flags &= ~(u32)BLOCK_MAY_UNMAP;
	return block_io(b, io);
}

int block_readv(struct block *block, const struct iovec *iov, int niov, u64 offset)
{
	struct block_io io = {.op = BLOCK_READ, .offset = offset, .iov = iov, .niov = niov};

	io.len = iov_length(iov, (size_t)niov);
	return top_io(block, &io);
}

int block_writev(struct block *block, const struct iovec *iov, int niov, u64 offset, u32 flags)
{
	struct block_io io = {
		.op = BLOCK_WRITE, .flags = flags, .offset = offset, .iov = iov, .niov = niov};

	io.len = iov_length(iov, (size_t)niov);
	return top_io(block, &io);
}

int block_read(struct block *block, void *buf, u64 len, u64 offset)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	return block_readv(block, &iov, 1, offset);
}

int block_write(struct block *block, const void *buf, u64 len, u64 offset)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

	return block_writev(block, &iov, 1, offset, 0);
}

int block_flush(struct block *block)
{
	struct block_io io = {.op = BLOCK_FLUSH};

	return top_io(block, &io);
}

int block_discard(struct block *block, u64 len, u64 offset)
{
	struct block_io io = {.op = BLOCK_DISCARD, .offset = offset, .len = len};

	return top_io(block, &io);
}

int block_write_zeroes(struct block *block, u64 len, u64 offset, u32 flags)
{
	struct block_io io = {
		.op = BLOCK_WRITE_ZEROES, .flags = flags, .offset = offset, .len = len};

	return top_io(block, &io);
}

int block_status(struct block *block, u64 offset, u64 len, struct block_extent *extent)
{
	u64 size = block_size(block);
	int rc;

	if (offset >= size || !len)
		return -EINVAL;
	*extent = (struct block_extent){.len = min(len, size - offset)};
	rc = block->class->status(block, offset, extent);
	/* A filter's or a broken image's answer must not lead a caller into an endless loop. */
	if (!rc && (!extent->len || extent->len > min(len, size - offset)))
		rc = -EIO;
	return rc;
}
