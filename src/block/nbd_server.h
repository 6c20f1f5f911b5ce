/*
 * An NBD server: one image, any number of clients, one thread each. For `bothy img serve`; blocks.
 */
#ifndef BLOCK_NBD_SERVER_H
#define BLOCK_NBD_SERVER_H

#include "block/block.h"

struct nbd_export {
	struct block *block;
	const char *name; /* clients may also ask for "" */
	bool readonly;
	unsigned int max_clients;
	bool persistent; /* go on when the last client has left */
	/* Asked now and then: is it time to end? May be NULL. */
	bool (*stop)(void);
};

/* A listening socket: path of a Unix socket, or address and port. fd or -errno with the reason. */
int nbd_listen_unix(const char *path, struct err *err);
int nbd_listen_tcp(const char *address, const char *port, struct err *err);

/* Serve until stopped, or until the last client has left. 0 or -errno. Ends with every client gone:
 * who still talks is cut off. */
int nbd_serve(const struct nbd_export *e, int listen_fd, struct err *err);

#endif
