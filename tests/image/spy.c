#include "spy.h"

#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"

struct spy_node {
	struct block block;
	struct spy *spy;
};

static struct spy *spy_of(struct block *b)
{
	return container_of(b, struct spy_node, block)->spy;
}

static void note(struct spy *s, struct note n, const struct block_io *io)
{
	pthread_mutex_lock(&s->lock);
	if (s->count == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 256;
		s->notes = realloc(s->notes, s->cap * sizeof(*s->notes));
	}
	n.tick = __atomic_load_n(s->tick, __ATOMIC_SEQ_CST);
	if (n.kind == NOTE_WRITE) {
		n.data = malloc(n.len);
		iov_to_buf(io->iov, (size_t)io->niov, 0, n.data, n.len);
	}
	s->notes[s->count++] = n;
	pthread_mutex_unlock(&s->lock);
}

static bool fails(struct spy *s)
{
	u64 nth = __atomic_add_fetch(&s->seen, 1, __ATOMIC_RELAXED);

	return s->fail_at && (nth == s->fail_at || (s->fail_on && nth > s->fail_at));
}

/* A write is noted when it is complete, a flush when it begins: what a flush does not promise to
 * have made durable is then behind it. */
static int spy_io(struct block *b, const struct block_io *io)
{
	static const enum note_kind kinds[] = {
		[BLOCK_WRITE] = NOTE_WRITE,
		[BLOCK_DISCARD] = NOTE_ZERO,
		[BLOCK_WRITE_ZEROES] = NOTE_ZERO,
	};
	struct spy *s = spy_of(b);
	int rc;

	if (fails(s))
		return -EIO;
	if (s->keep && io->op == BLOCK_FLUSH)
		note(s, (struct note){.kind = NOTE_FLUSH}, NULL);
	rc = block_io(b->file, io);
	if (!rc && s->keep && io->op != BLOCK_FLUSH && io->op != BLOCK_READ)
		note(s, (struct note){.kind = kinds[io->op], .offset = io->offset, .len = io->len},
		     io);
	return rc;
}

/* There for who goes another way where there is none; each request is noted by spy_io(). */
static void spy_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	block_defer(q, req);
}

static int spy_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct spy *s = spy_of(b);
	int rc = fails(s) ? -EIO : b->file->class->resize(b->file, size, shrink, err);

	if (!rc && s->keep)
		note(s, (struct note){.kind = NOTE_TRUNCATE, .len = size}, NULL);
	return rc;
}

static int spy_status(struct block *b, u64 offset, struct block_extent *e)
{
	return b->file->class->status(b->file, offset, e);
}

static const struct block_class spy_class = {
	.name = "spy",
	.kind = BLOCK_PROTOCOL,
	.size = sizeof(struct spy_node),
	.submit = spy_submit,
	.io = spy_io,
	.resize = spy_resize,
	.status = spy_status,
};

int spy_open(struct block **out, struct spy *spy, const char *path,
	     const struct block_options *options, struct err *err)
{
	const struct block_class *class = block_class_lookup(options->format);
	struct block *file, *node, *image;
	int rc = block_open_protocol(&file, path, true, options, err);

	if (rc)
		return rc;
	node = block_node_new(&spy_class, path, file);
	container_of(node, struct spy_node, block)->spy = spy;
	node->size = file->size;
	image = block_node_new(class, path, node);
	rc = class->open(image, options, err);
	if (!rc && options->backing_file) {
		struct block_options below = *options;

		below.readonly = true;
		below.backing_file = NULL;
		rc = block_open_node(&image->backing, options->backing_file,
				     options->backing_format, &below, err);
		if (rc)
			class->close(image);
	}
	if (rc) {
		block_node_free(image);
		return rc;
	}
	*out = image;
	return block_make_top(image, options);
}

void spy_forget(struct spy *s)
{
	for (u64 i = 0; i < s->count; i++)
		free(s->notes[i].data);
	free(s->notes);
	s->notes = NULL;
	s->count = s->cap = 0;
}
