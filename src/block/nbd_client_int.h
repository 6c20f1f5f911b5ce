/* The NBD client's two halves: nbd_connect.c and nbd.c. */
#ifndef BLOCK_NBD_CLIENT_INT_H
#define BLOCK_NBD_CLIENT_INT_H

#include "block/block_int.h"
#include "block/nbd_int.h"

#define NBD_MAX_EXTENTS 512

/* What a range is made of, as the server last said. */
struct nbd_extents {
	u64 start;
	u32 count;
	struct {
		u32 len, state;
	} e[NBD_MAX_EXTENTS];
};

/* A request that waits for its reply. */
struct nbd_pending {
	struct list link;
	u64 cookie, offset;
	u32 len, got; /* reads: bytes that have come, in chunks */
	u16 type;
	struct iovec *iov; /* reads */
	size_t niov;
	struct nbd_extents *extents; /* block status */
	int result;
	bool done;
};

struct nbd {
	struct block block;
	int fd;
	u16 flags;
	bool structured, meta; /* replies come in chunks; there is block status */
	u32 meta_id;
	pthread_mutex_t send_lock, lock;
	pthread_cond_t changed;
	struct list waiting;
	u64 next_cookie;
	bool reading, dead;

	struct nbd_extents *extents; /* under lock; count 0: nothing is known */
	u64 changes;		     /* writes begun or ended, which make what is known stale */
};

/* ---- nbd_connect.c ---- */

struct nbd_address {
	char *host, *port, *export, *socket;
};

int nbd_address_parse(struct nbd_address *a, const char *text, struct err *err);
void nbd_address_free(struct nbd_address *a);
/* A socket, or -errno. */
int nbd_connect(const struct nbd_address *a);
/* Up to the first request. -ENOENT: no such export. */
int nbd_handshake(struct nbd *n, const char *export);
/* All of it, or -EIO. */
int nbd_receive(struct nbd *n, void *buf, size_t len);
int nbd_send(struct nbd *n, struct iovec *iov, size_t count);

#endif
