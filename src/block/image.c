#include "block/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "block/block_int.h"

/* The image below any filter. */
static struct block *image_of(struct block *b)
{
	while (b->class->kind == BLOCK_FILTER)
		b = b->file;
	return b;
}

static struct block *bottom_of(struct block *b)
{
	while (b->file)
		b = b->file;
	return b;
}

static int unsupported(const struct block *b, const char *what, struct err *err)
{
	return err_set(err, ENOTSUP, "%s: %s images have no %s", b->name,
		       b->class->kind == BLOCK_PROTOCOL ? "raw" : b->class->name, what);
}

int block_image_info(struct block *block, struct block_image_info *info)
{
	struct block *b = image_of(block);
	struct stat st;

	*info = (struct block_image_info){
		.format = b->class->kind == BLOCK_PROTOCOL ? "raw" : b->class->name,
		.backing_file = b->backing_name,
		.backing_format = b->backing_format,
		.virtual_size = block_size(b),
	};
	if (!stat(bottom_of(b)->name, &st))
		info->disk_size = (u64)st.st_blocks * 512;
	return b->class->info ? b->class->info(b, info) : 0;
}

int block_check(struct block *block, unsigned int fix, struct block_check *check, struct err *err)
{
	struct block *b = image_of(block);

	if (!b->class->check)
		return unsupported(b, "structure to check", err);
	return b->class->check(b, fix, check, err);
}

int block_snapshot_count(struct block *block)
{
	struct block *b = image_of(block);

	return b->class->snapshot_count ? b->class->snapshot_count(b) : -ENOTSUP;
}

int block_snapshot_get(struct block *block, unsigned int index, struct block_snapshot *out)
{
	struct block *b = image_of(block);

	return b->class->snapshot_get ? b->class->snapshot_get(b, index, out) : -ENOTSUP;
}

int block_snapshot_create(struct block *block, const char *name, struct err *err)
{
	struct block *b = image_of(block);

	return b->class->snapshot_create ? b->class->snapshot_create(b, name, err)
					 : unsupported(b, "snapshots", err);
}

int block_snapshot_apply(struct block *block, const char *which, struct err *err)
{
	struct block *b = image_of(block);
	int rc = b->class->snapshot_apply ? b->class->snapshot_apply(b, which, err)
					  : unsupported(b, "snapshots", err);

	/* It may have had another size. */
	if (!rc)
		block->size = b->size;
	return rc;
}

int block_snapshot_delete(struct block *block, const char *which, struct err *err)
{
	struct block *b = image_of(block);

	return b->class->snapshot_delete ? b->class->snapshot_delete(b, which, err)
					 : unsupported(b, "snapshots", err);
}

int block_snapshot_view(struct block *block, const char *which, struct err *err)
{
	struct block *b = image_of(block);
	int rc = b->class->snapshot_view ? b->class->snapshot_view(b, which, err)
					 : unsupported(b, "snapshots", err);

	if (!rc)
		block->size = b->size;
	return rc;
}

/* Of a raw file. */
static int extend_file(struct block *b, u64 from, int how)
{
	u64 size = block_size(b), chunk = 1 * MiB;
	void *zeros;
	int rc = 0;

	if (b->class->kind != BLOCK_PROTOCOL || how == BLOCK_PREALLOC_METADATA)
		return -ENOTSUP;
	if (how == BLOCK_PREALLOC_FALLOC)
		return block_file_reserve(b, size);
	zeros = calloc(1, chunk);
	if (!zeros)
		return -ENOMEM;
	for (u64 at = from; at < size && !rc; at += chunk)
		rc = block_node_write(b, zeros, min(chunk, size - at), at);
	free(zeros);
	return rc;
}

int block_extend(struct block *block, u64 from, int how, struct err *err)
{
	struct block *b = image_of(block);
	int rc;

	if (!how || from >= block_size(b))
		return 0;
	rc = b->class->extend ? b->class->extend(b, from, how) : extend_file(b, from, how);
	if (rc == -ENOTSUP)
		return unsupported(b, "such preallocation", err);
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}

int block_make_empty(struct block *block, struct err *err)
{
	struct block *b = image_of(block);

	return b->class->make_empty ? b->class->make_empty(b, err)
				    : unsupported(b, "backing file", err);
}

int block_change_backing(struct block *block, const char *file, const char *format, struct err *err)
{
	struct block *b = image_of(block);

	return b->class->change_backing ? b->class->change_backing(b, file, format, err)
					: unsupported(b, "backing file", err);
}

int block_measure(const char *format, const struct block_create *c, u64 data, u64 *required,
		  u64 *full, struct err *err)
{
	const struct block_class *class = block_class_lookup(format);
	int rc = 0;

	if (!strcmp(format, "raw")) {
		*required = data;
		*full = c->size;
	} else if (!class || !class->measure) {
		return err_set(err, ENOTSUP, "images of format %s cannot be measured", format);
	} else {
		rc = class->measure(c, data, required, full, err);
	}
	if (!rc && c->preallocation >= BLOCK_PREALLOC_FALLOC)
		*required = *full;
	return rc;
}
