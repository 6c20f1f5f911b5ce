/*
 * UDP from the guest to servers of the host (guestfwd=udp:...), which libslirp does not forward:
 * the link shows us each frame before the stack, and we take what is for our addresses. A guest's
 * port has a socket of its own on the host, so that answers find back; UDP_SESSIONS of them, of
 * which the one that has been idle for longest makes room.
 *
 * All of it on the link's thread, after the forwards have been added.
 */
#ifndef NET_USER_UDP_H
#define NET_USER_UDP_H

#include <netinet/in.h>

#include "net/slirp_api.h"
#include "net/socket_int.h"

#define UDP_SESSIONS 64

struct user_udp;

/* deliver(): a frame for the guest; valid during the call. mtu: of the guest's link. */
int user_udp_new(struct user_udp **out, u32 mtu,
		 void (*deliver)(void *ctx, const u8 *data, u32 len), void *ctx);
void user_udp_free(struct user_udp *udp);
/* Datagrams to at (of the guest's network) go to to[n], the first that can be connected to. -E2BIG,
 * -EEXIST. */
int user_udp_add(struct user_udp *udp, const struct sockaddr_in *at, const struct sock_addr *to,
		 unsigned int n);

/* A frame from the guest; true: it was ours alone. */
bool user_udp_input(struct user_udp *udp, const u8 *frame, u32 len);
/* The descriptors to poll, and after that what came of it: as slirp_pollfds_fill() and _poll(). */
void user_udp_fill(struct user_udp *udp, SlirpAddPollCb add, void *opaque);
void user_udp_receive(struct user_udp *udp, SlirpGetREventsCb get, void *opaque);

#endif
