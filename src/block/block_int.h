/* What the layers of the block folder owe each other. */
#ifndef BLOCK_BLOCK_INT_H
#define BLOCK_BLOCK_INT_H

#include <pthread.h>

#include "block/block.h"
#include "block/image.h"

#define BLOCK_SECTOR 512u

/* WRITE_ZEROES, to a file: what is written there soon needs no space found for it then. A hint. */
#define BLOCK_RESERVE (1u << 18)

/* A change that waits for no other one, and that others may wait for: the helpers that reads have
 * do it, too (pool.c). */
#define BLOCK_NO_WAIT (1u << 20)

/* A synchronous operation on a node. */
struct block_io {
	enum block_op op;
	u32 flags;
	u64 offset, len;
	const struct iovec *iov;
	int niov;
};

enum block_kind {
	BLOCK_PROTOCOL, /* the bottom: has no child */
	BLOCK_FORMAT,	/* stands on block->file */
	BLOCK_FILTER,	/* the same bytes as block->file */
};

/*
 * A kind of node; the instance starts with its struct block.
 *
 * Neither submit nor io checks bounds against the size: the top does. Reading past the end of a
 * file gives zeros, writing there grows it.
 */
struct block_class {
	const char *name;
	enum block_kind kind;
	size_t size;	    /* of the instance */
	const char *scheme; /* protocols: what addresses begin with; "://" follows somewhere,
			     * unless it ends with a colon itself */

	/* Is this an image of the format? head is its beginning, zero-filled to 512 bytes. */
	bool (*probe)(const u8 *head);

	/* Filters: do the options ask for one on this node? */
	bool (*wanted)(const struct block *below, const struct block_options *options);

	/* Fill the node: size, block_size, discard_align, can_*. block->file is open (but for
	 * protocols). On failure nothing of the class's own is left; the caller frees the node
	 * and its children. */
	int (*open)(struct block *block, const struct block_options *options, struct err *err);
	/* Write back and release all but children. */
	int (*close)(struct block *block);

	/* Start req->op on [req->pos, +len), in the queue's thread, without blocking. Ends in
	 * block_pass(), block_complete() through a completion, block_finish() or block_defer().
	 * NULL: always deferred. */
	void (*submit)(struct block *block, struct block_queue *queue, struct block_req *req);
	/* The same done before it returns. Any thread, many at once. 0 or -errno. */
	int (*io)(struct block *block, const struct block_io *io);

	/* extent->len on entry: the most that is asked for. */
	int (*status)(struct block *block, u64 offset, struct block_extent *extent);
	int (*resize)(struct block *block, u64 size, bool shrink, struct err *err);

	/* Formats: what image.h offers, each optional. Those that can be made list the keys of
	 * block_create_table that mean something to them, and judge what is asked for before
	 * anything is changed; name is the image's. */
	const char *create_keys;
	int (*judge)(const char *name, const struct block_create *c, struct err *err);
	int (*create)(struct block *file, const struct block_create *c, struct err *err);
	int (*preallocate)(const char *path, const struct block_create *c, struct err *err);
	/* Give what was added behind `from` its place; how: enum block_prealloc, not off. */
	int (*extend)(struct block *block, u64 from, int how);
	int (*info)(struct block *block, struct block_image_info *info);
	int (*check)(struct block *block, unsigned int fix, struct block_check *check,
		     struct err *err);
	int (*snapshot_count)(struct block *block);
	int (*snapshot_get)(struct block *block, unsigned int index, struct block_snapshot *out);
	int (*snapshot_create)(struct block *block, const char *name, struct err *err);
	int (*snapshot_apply)(struct block *block, const char *which, struct err *err);
	int (*snapshot_delete)(struct block *block, const char *which, struct err *err);
	int (*snapshot_view)(struct block *block, const char *which, struct err *err);
	int (*make_empty)(struct block *block, struct err *err);
	int (*change_backing)(struct block *block, const char *file, const char *format,
			      struct err *err);
	int (*measure)(const struct block_create *c, u64 data, u64 *required, u64 *full,
		       struct err *err);
};

struct block {
	const struct block_class *class;
	struct block *file;		     /* child: where the bytes lie */
	struct block *backing;		     /* child: what unallocated ranges show */
	struct block *top;		     /* of the stack; itself in the top node */
	char *name;			     /* path or address */
	char *backing_name, *backing_format; /* what the image says; NULL: none */

	u64 size;
	u32 block_size, discard_align;
	bool readonly, can_discard, can_write_zeroes;
	bool fixed_size; /* protocols: cannot grow by being written behind the end */

	/* Of the top node only. */
	bool probed, discard, writethrough;
	void (*on_resize)(void *arg, u64 size);
	void *on_resize_arg;
	struct block_pool *pool;
	pthread_mutex_t queues_lock;
	struct list queues;
	u64 epoch;
	u32 draining; /* queues that wait for all of their requests */
};

/* Is somebody waiting for everything in flight? Then nothing is held back on purpose. */
static inline bool block_draining(const struct block *b)
{
	return __atomic_load_n(&b->top->draining, __ATOMIC_RELAXED);
}

extern const struct block_class *const block_classes[]; /* formats.def, NULL at the end */
const struct block_class *block_class_lookup(const char *name);

/* A new node; NULL when out of memory. file may be NULL, and is not taken over on failure. */
struct block *block_node_new(const struct block_class *class, const char *name, struct block *file);
/* Free the node and its children (closing those), without closing the node itself. */
void block_node_free(struct block *block);

/* The class's io; the size is not checked. */
static inline int block_io(struct block *block, const struct block_io *io)
{
	return block->class->io(block, io);
}

int block_node_rw(struct block *block, enum block_op op, void *buf, u64 len, u64 offset);
static inline int block_node_read(struct block *block, void *buf, u64 len, u64 offset)
{
	return block_node_rw(block, BLOCK_READ, buf, len, offset);
}
static inline int block_node_write(struct block *block, const void *buf, u64 len, u64 offset)
{
	return block_node_rw(block, BLOCK_WRITE, (void *)(uintptr_t)buf, len, offset);
}
int block_node_flush(struct block *block);
int block_node_zero(struct block *block, u64 len, u64 offset, u32 flags);

/* [offset, offset + len) of a backing file, zeros past its end. */
int block_read_backing(struct block *backing, const struct iovec *iov, int niov, u64 offset,
		       u64 len);

/* Status of what b itself does not hold. */
int block_backing_status(struct block *b, u64 offset, struct block_extent *extent);

/* What filters have in common: the geometry of, and the answers of, the node below. */
void block_filter_init(struct block *b);
int block_filter_status(struct block *b, u64 offset, struct block_extent *extent);
int block_filter_resize(struct block *b, u64 size, bool shrink, struct err *err);

/* The node of a file or an address; file_only: never take it for an address. */
int block_open_protocol(struct block **out, const char *path, bool file_only,
			const struct block_options *options, struct err *err);

/* A name found inside an image, relative to the image's folder. The caller frees it. */
char *block_path_beside(const char *image, const char *name);

/* Does a disk that begins so pass for something else than raw? 512 bytes. */
bool block_looks_like_image(const u8 *head);

/* Give a node what the top of a stack has. -ENOMEM. */
int block_make_top(struct block *block, const struct block_options *options);

/* Open `path` with a format name or NULL (probed), and no filters. */
int block_open_node(struct block **out, const char *path, const char *format,
		    const struct block_options *options, struct err *err);

/* Of the file node: reserve space for, or write zeros over, all of the first bytes. */
int block_file_reserve(struct block *file, u64 bytes);
int block_file_fill(struct block *file, u64 bytes);
/* Of the file node: how often it has asked the kernel to sync. */
u64 block_file_syncs(struct block *file);

/* ---- for submit functions; all in the queue's thread ---- */

/* Is there a ring? Without one everything is deferred. */
bool block_queue_has_ring(const struct block_queue *queue);
struct uring *block_queue_ring(struct block_queue *queue);

/* Run class->io of req->node in a helper thread, then complete. */
void block_defer(struct block_queue *queue, struct block_req *req);
/* It is done already: deliver at the next flush or poll. */
void block_finish(struct block_queue *queue, struct block_req *req, int result);
/* Deliver now; from completions only. */
void block_complete(struct block_req *req, int result);

/* Start a request of the layer's own on `node`, at pos of it: op, flags, len, iov, niov and done
 * are filled. It counts as in flight, so that a drain waits for it. */
void block_child_start(struct block_queue *queue, struct block_req *child, struct block *node,
		       u64 pos);
/* The same, in a helper thread. */
void block_child_defer(struct block_queue *queue, struct block_req *child, struct block *node);

/* Hand the request down. */
static inline void block_pass(struct block_queue *queue, struct block_req *req, struct block *node,
			      u64 pos)
{
	req->node = node;
	req->pos = pos;
	if (node->class->submit)
		node->class->submit(node, queue, req);
	else
		block_defer(queue, req);
}

/* See the completion of req before the layers above; fn ends in block_complete(). False when
 * there is no room: defer then. */
bool block_hook_add(struct block_req *req, block_hook fn, void *arg);

/* A part of a parent's request, in memory of the queue. */
#define BLOCK_SUB_IOV 34
#define BLOCK_SUBS    64

/* Make `count` parts (not yet described) available? */
bool block_subs_available(const struct block_queue *queue, unsigned int count);
/* [skip, skip + len) of the parent's data as a request of its own. NULL when its iovecs are too
 * many: nothing has been started then. The parent completes when its last part has;
 * block_subs_begin() first and block_subs_end() last, around passing them on. */
struct block_req *block_sub_new(struct block_queue *queue, struct block_req *parent, u64 skip,
				u64 len);
void block_sub_drop(struct block_queue *queue, struct block_req *sub);
void block_subs_begin(struct block_req *parent);
void block_subs_end(struct block_queue *queue, struct block_req *parent);

/*
 * Epochs: a format that frees space must not reuse it while requests that looked it up before are
 * in flight. block_epoch_enter() counts a request in; it is counted out when it completes, however
 * it gets there (a helper of a layer below included), or by block_epoch_leave(), when what was
 * looked up for it will not be used. block_epoch_new() starts an epoch and returns its number;
 * block_epoch_passed() says whether all requests that entered before it are done, in every queue.
 * Sleeping queues are woken to find out.
 */
void block_epoch_enter(struct block_queue *queue, struct block_req *req);
void block_epoch_leave(struct block_req *req);
u64 block_epoch_new(struct block *block);
bool block_epoch_passed(struct block *block, u64 epoch);

/* ---- helper threads ---- */

struct block_pool;
struct block_pool *block_pool_new(void);
void block_pool_free(struct block_pool *pool);
/* -errno when no helper could be started. */
int block_pool_add(struct block_pool *pool, struct block_req *req);
/* The helper's way back. */
void block_queue_return(struct block_req *req, int result);

#endif
