/*
 * TCP connections for a caller that can only connect to a UNIX socket: each connection to the
 * relay's path is joined to one of its own to a TCP server. libslirp's guestfwd reaches servers of
 * the host through it. A server that cannot be reached closes its connection at once; the end of
 * one direction is passed on while the other goes on.
 *
 * A relay has a thread of its own, because libslirp waits while it connects, and holds
 * RELAY_CONNECTIONS connections at most: the next are closed.
 */
#ifndef NET_RELAY_H
#define NET_RELAY_H

#include "net/socket_int.h"

#define RELAY_CONNECTIONS 256

struct relay;

/* to[n]: the server's addresses, tried in turn for each connection. Connections wait until
 * relay_start(). 0, or -errno with the reason. */
int relay_new(struct relay **out, const struct sock_addr *to, unsigned int n, struct err *err);
/* Where to connect to, within this process, while the relay lives: a link in /proc, so that
 * nothing of it stays in the file system. */
const char *relay_path(const struct relay *relay);
/* 0 or -errno. */
int relay_start(struct relay *relay);
/* Ends the connections. NULL is ignored. */
void relay_free(struct relay *relay);

#endif
