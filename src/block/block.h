/*
 * Block devices as bytes: what a disk device, the image tool and the NBD server stand on.
 *
 * A `struct block` is a node: a file, an image format above a file, or a filter above an image.
 * Nodes stack, and the user of the top one does not see how deep the stack is. A node is shared
 * by all threads.
 *
 * A `struct block_queue` is one thread's way in: a ring of its own, submission and completion
 * alike. Many queues may work on one node at once; nothing orders requests of different queues,
 * nor two requests that are in flight at the same time in one queue.
 *
 *   block_submit() any number of times -> block_queue_flush() -> [block_queue_fd() is readable]
 *   -> block_queue_poll() -> done() of each finished request.
 *
 * The path of a read or of a write that allocates nothing: block_submit, [qcow2_submit,]
 * file_submit, uring_queue; back: uring_reap, block_complete, done. Nothing on it allocates,
 * locks or copies. What needs more (metadata other than an L2 table to load, copy-on-write,
 * compressed clusters, flushes, misaligned O_DIRECT) is done by helper threads of the node and
 * never holds up the other requests of the queue.
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/list.h"
#include "base/opt.h"
#include "base/types.h"

struct block;
struct block_queue;

/* ---- requests ---- */

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,	    /* every write completed before the submission becomes durable */
	BLOCK_DISCARD,	    /* a hint: the range may read as anything afterwards (ours: zeros) */
	BLOCK_WRITE_ZEROES, /* the range reads as zeros afterwards */
};

enum {
	BLOCK_FUA = 1 << 0,	    /* WRITE, WRITE_ZEROES: durable before done() */
	BLOCK_MAY_UNMAP = 1 << 1,   /* WRITE_ZEROES: may give the space back */
	BLOCK_NO_FALLBACK = 1 << 2, /* WRITE_ZEROES: -EOPNOTSUPP rather than writing buffers */
	BLOCK_COMPRESS = 1 << 3,    /* WRITE of whole clusters, tools only: store them compressed */
};

#define BLOCK_MAX_HOOKS 4

struct block_req;
typedef void (*block_hook)(struct block_req *req, void *arg, int result);

/*
 * Memory of the caller (a device allocates one with each slot of its virtqueue). Fill the first
 * part, leave the second alone; neither it nor the iovecs nor their memory may change or go away
 * before done() is called. Every field may be used again after that, even inside done().
 */
struct block_req {
	enum block_op op;
	u32 flags;
	u64 offset, len; /* bytes; FLUSH ignores them. Any alignment works, 512 and up is fast */
	const struct iovec *iov; /* READ, WRITE: exactly len bytes in total */
	int niov;
	/* In the queue's thread, from block_queue_flush() or _poll(), never from block_submit().
	 * result: 0 or -errno (-EIO, -ENOSPC, -EROFS, -EINVAL out of range, -EOPNOTSUPP, ...).
	 * May submit further requests and may free the request. */
	void (*done)(struct block_req *req, int result);

	/* The layers' part. */
	struct list link;
	struct block_queue *queue;
	struct block *node; /* the layer that handles it now */
	u64 pos;	    /* offset within that layer */
	u32 effective;	    /* flags, with what the node's options add */
	u32 *active;	    /* count of requests in flight that it belongs to, or NULL */
	int result;
	unsigned int parts;  /* of a split request, not done yet */
	unsigned int nhooks; /* layers that want to see the completion, innermost last */
	struct {
		block_hook fn;
		void *arg;
	} hook[BLOCK_MAX_HOOKS];
};

/* ---- opening ---- */

enum block_cache {
	BLOCK_CACHE_WRITEBACK,	  /* host page cache, flushes honoured (default) */
	BLOCK_CACHE_NONE,	  /* O_DIRECT, flushes honoured */
	BLOCK_CACHE_WRITETHROUGH, /* host page cache, every write durable before it completes */
	BLOCK_CACHE_DIRECTSYNC,	  /* O_DIRECT, every write durable before it completes */
	BLOCK_CACHE_UNSAFE,	  /* host page cache, flushes ignored */
};

/* What a user may say about a disk. Strings are owned by the structure (opt_free()). */
struct block_options {
	/* path, or nbd://HOST[:PORT][/EXPORT], nbd+unix:///EXPORT?socket=PATH, or
	 * rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:conf=FILE][:id=USER] */
	char *file;
	char *format; /* name from formats.def; NULL: probe (see block_probed()) */
	bool readonly;
	int cache;	    /* enum block_cache */
	bool discard;	    /* DISCARD gives space back; off: it does nothing */
	bool backing;	    /* open the backing and data files that the image names */
	char *backing_file; /* open this as the backing file whatever the image says */
	char *backing_format;
	char *data_file;      /* the same for qcow2's external data file */
	bool lock;	      /* QEMU-compatible OFD locks */
	bool repair;	      /* repair an image that was not closed cleanly (default) */
	u64 l2_cache;	      /* most bytes of qcow2 metadata kept in memory */
	bool copy_on_read;    /* what is read from a backing file is written to the image */
	u64 iops, iops_burst; /* throttle: requests a second, and how many at once; 0: no limit */
	u64 bps, bps_burst;   /* the same in bytes */
	char *key_file;	      /* passphrase of encrypted images, every byte of the file counts */
	/* Not in the table: look at the image itself and open nothing else (info, check). Ranges
	 * that a backing file would show read as zeros, and what is encrypted cannot be read
	 * unless there is a key_file. */
	bool metadata_only;
	u64 key_work; /* not in the table: hashes that opening an encrypted image may cost; 0: as
		       * many as take about a minute */
};

/*
 * The entries of an option table for a `struct block_options` inside T, reached by the prefix m:
 * BLOCK_OPTIONS(struct disk, image.) for a field `image`, BLOCK_OPTIONS(struct block_options, ) for
 * itself. The first (positional) key is "file". Tables that embed them still end with OPT_END.
 */
#define BLOCK_OPTIONS(T, m)                                                                        \
	{.name = "file",                                                                           \
	 .type = OPT_STRING,                                                                       \
	 .offset = offsetof(T, m file),                                                            \
	 .arg = "FILE",                                                                            \
	 .help = "disk image, block device, nbd:// address or rbd:POOL/IMAGE"},                    \
		{.name = "format",                                                                 \
		 .type = OPT_STRING,                                                               \
		 .offset = offsetof(T, m format),                                                  \
		 .arg = "NAME",                                                                    \
		 .help = "raw, qcow2, qed or luks; left out, it is found out from the first "      \
			 "bytes"},                                                                 \
		{.name = "readonly",                                                               \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m readonly),                                                \
		 .help = "refuse writes"},                                                         \
		{.name = "cache",                                                                  \
		 .type = OPT_ENUM,                                                                 \
		 .offset = offsetof(T, m cache),                                                   \
		 .dflt = "writeback",                                                              \
		 .arg = "MODE",                                                                    \
		 .choices = block_cache_names,                                                     \
		 .help = "writeback, none (O_DIRECT), writethrough, or unsafe (flushes ignored)"}, \
		{.name = "discard",                                                                \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m discard),                                                 \
		 .dflt = "on",                                                                     \
		 .help = "give discarded space back to the host"},                                 \
		{.name = "backing",                                                                \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m backing),                                                 \
		 .help = "open the backing and data files that the image names"},                  \
		{.name = "backing-file",                                                           \
		 .type = OPT_STRING,                                                               \
		 .offset = offsetof(T, m backing_file),                                            \
		 .arg = "FILE",                                                                    \
		 .help = "open this backing file, whatever the image says"},                       \
		{.name = "backing-format",                                                         \
		 .type = OPT_STRING,                                                               \
		 .offset = offsetof(T, m backing_format),                                          \
		 .arg = "NAME",                                                                    \
		 .help = "its format"},                                                            \
		{.name = "data-file",                                                              \
		 .type = OPT_STRING,                                                               \
		 .offset = offsetof(T, m data_file),                                               \
		 .arg = "FILE",                                                                    \
		 .help = "qcow2: open this external data file"},                                   \
		{.name = "lock",                                                                   \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m lock),                                                    \
		 .dflt = "on",                                                                     \
		 .help = "lock the image against other users, as QEMU does"},                      \
		{.name = "repair",                                                                 \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m repair),                                                  \
		 .dflt = "on",                                                                     \
		 .help = "repair an image that was not closed cleanly"},                           \
		{.name = "l2-cache",                                                               \
		 .type = OPT_SIZE,                                                                 \
		 .offset = offsetof(T, m l2_cache),                                                \
		 .dflt = "128M",                                                                   \
		 .arg = "SIZE",                                                                    \
		 .min = 1 << 20,                                                                   \
		 .help = "most qcow2 metadata kept in memory"},                                    \
		{.name = "copy-on-read",                                                           \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m copy_on_read),                                            \
		 .help = "copy what is read from the backing file into the image"},                \
		{.name = "iops",                                                                   \
		 .type = OPT_U64,                                                                  \
		 .offset = offsetof(T, m iops),                                                    \
		 .arg = "N",                                                                       \
		 .help = "most requests a second"},                                                \
		{.name = "iops-burst",                                                             \
		 .type = OPT_U64,                                                                  \
		 .offset = offsetof(T, m iops_burst),                                              \
		 .arg = "N",                                                                       \
		 .help = "requests that may come at once"},                                        \
		{.name = "bps",                                                                    \
		 .type = OPT_SIZE,                                                                 \
		 .offset = offsetof(T, m bps),                                                     \
		 .arg = "SIZE",                                                                    \
		 .help = "most bytes a second"},                                                   \
		{.name = "bps-burst",                                                              \
		 .type = OPT_SIZE,                                                                 \
		 .offset = offsetof(T, m bps_burst),                                               \
		 .arg = "SIZE",                                                                    \
		 .help = "bytes that may come at once"},                                           \
	{                                                                                          \
		.name = "encrypt.key-file", .type = OPT_STRING, .offset = offsetof(T, m key_file), \
		.arg = "FILE", .help = "passphrase of an encrypted image, a last newline included" \
	}

extern const char *const block_cache_names[];

/* A table of just these, for `struct block_options` itself. opt_defaults() first. */
extern const struct opt block_option_table[];

/*
 * Open the stack that the options describe. Everything it will ever need is open when this
 * returns, so the caller may lock its sandbox afterwards. -errno with the reason in err, which
 * names the file. Main thread or any other; blocks.
 */
int block_open(struct block **out, const struct block_options *options, struct err *err);

/* Write back, release. No queue may be left. -EIO when the last write-back failed; the node is
 * gone either way. NULL is ignored. */
int block_close(struct block *block);

/* ---- what it is ---- */

struct block_info {
	const char *format; /* of the image below any filter */
	u64 size;	    /* bytes the user sees */
	u32 block_size;	    /* smallest transfer that needs no read-modify-write: 512 or 4096 */
	u32 discard_align;  /* granularity of DISCARD (cluster size), 512 at least */
	bool readonly;
	bool can_discard;      /* DISCARD does something */
	bool can_write_zeroes; /* WRITE_ZEROES without writing buffers */
	bool probed;	       /* nobody named the format: it was guessed from the contents.
				* Writes to sector 0 that would make a raw disk look like another
				* format fail with -EPERM. */
};

/* Size may change under a resize; the rest is fixed. Any thread. */
void block_get_info(struct block *block, struct block_info *info);
u64 block_size(struct block *block);

/* fn(arg, new size) after each resize, in the thread that called block_resize(). */
void block_on_resize(struct block *block, void (*fn)(void *arg, u64 size), void *arg);

/* Any thread; blocks. Shrinking needs shrink. -ENOTSUP, -EBUSY (snapshots), -ENOSPC... */
int block_resize(struct block *block, u64 size, bool shrink, struct err *err);

/* ---- queues ---- */

/*
 * A queue for up to `depth` requests in flight (more is allowed and slower). May be made by any
 * thread before its owner runs; the thread of the first block_submit(), _flush() or _poll() owns
 * it from then on. Without io_uring (forbidden, old kernel) helper threads do the I/O.
 */
int block_queue_new(struct block_queue **out, struct block *block, unsigned int depth,
		    struct err *err);
/* Waits for what is in flight (done() is called). NULL is ignored. */
void block_queue_free(struct block_queue *queue);

/* To watch for EPOLLIN, level-triggered; then call block_queue_poll(). */
int block_queue_fd(const struct block_queue *queue);

/* Start a request. It may wait in the queue until block_queue_flush(). Errors, too, come through
 * done(). */
void block_submit(struct block_queue *queue, struct block_req *req);

/* Hand what was submitted to the kernel in one go; deliver what is already finished. Once after
 * each drain of a virtqueue. */
void block_queue_flush(struct block_queue *queue);

/* Deliver finished requests; the number delivered. Does not block. */
int block_queue_poll(struct block_queue *queue);

/* Submit, then wait until no request of this queue is in flight. What one of them waits for may be
 * another queue's (its copy of the same cluster), which must go on meanwhile: not for a thread that
 * owns several with requests in flight. */
void block_queue_drain(struct block_queue *queue);

/* Requests in flight. Owner's thread. */
unsigned int block_queue_inflight(const struct block_queue *queue);

/* ---- synchronous access: tools, tests. Any thread that owns no queue; blocks ---- */

int block_read(struct block *block, void *buf, u64 len, u64 offset);
int block_write(struct block *block, const void *buf, u64 len, u64 offset);
int block_readv(struct block *block, const struct iovec *iov, int niov, u64 offset);
int block_writev(struct block *block, const struct iovec *iov, int niov, u64 offset, u32 flags);
int block_flush(struct block *block);
int block_discard(struct block *block, u64 len, u64 offset);
int block_write_zeroes(struct block *block, u64 len, u64 offset, u32 flags);

/* What a range is made of. */
enum {
	BLOCK_DATA = 1 << 0,	  /* somebody stored something there */
	BLOCK_ZERO = 1 << 1,	  /* it reads as zeros */
	BLOCK_ALLOCATED = 1 << 2, /* by the top image, not by a backing file */
	BLOCK_COMPRESSED = 1 << 3,
	BLOCK_HAS_HOST = 1 << 4, /* host_offset is where it lies in the file `file` */
};

struct block_extent {
	u64 len;   /* from the offset asked for; the flags hold for all of it */
	u32 flags; /* above */
	u32 depth; /* 0: the top image, 1: its backing file, ... */
	u64 host_offset;
	const char *file; /* the node's own string */
};

/* The extent at offset, at most len long. 0 or -errno. Any thread; blocks. */
int block_status(struct block *block, u64 offset, u64 len, struct block_extent *extent);

#endif
