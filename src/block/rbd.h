/*
 * Ceph disks, in a plug-in (bothy-rbd.so): librbd pulls in a hundred libraries and starts threads,
 * which only those pay for who name an rbd: disk.
 *
 * An image may be used by any threads at once. done() is called in a thread of librbd.
 */
#ifndef BLOCK_RBD_H
#define BLOCK_RBD_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"

/* rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:conf=FILE][:id=USER] */
struct rbd_address {
	char *pool, *space, *image, *snapshot, *conf, *user; /* NULL: not given */
};

enum rbd_op { RBD_READ, RBD_WRITE, RBD_FLUSH, RBD_DISCARD, RBD_WRITE_ZEROES };

struct rbd_io {
	enum rbd_op op;
	bool keep_space; /* WRITE_ZEROES: allocate what is zeroed */
	u64 offset, len;
	const struct iovec *iov;
	int niov;
	void (*done)(void *arg, int result); /* 0 or -errno */
	void *arg;
};

struct rbd_info {
	u64 size;
	u32 object_size; /* what is allocated at once */
};

struct rbd_class {
	/* lock: take the image's exclusive lock, and keep it until it is closed. -EBUSY when
	 * another client has it. */
	int (*open)(void **image, const struct rbd_address *address, bool readonly, bool lock,
		    struct rbd_info *info, struct err *err);
	int (*close)(void *image);
	/* Start io; -errno when it could not be, and done() is not called. */
	int (*submit)(void *image, const struct rbd_io *io);
	/* The extent at offset, *len at most: is there data? */
	int (*status)(void *image, u64 offset, u64 *len, bool *data);
	int (*resize)(void *image, u64 size, bool shrink);
};

#endif
