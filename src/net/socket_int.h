/* Socket addresses for the back ends that carry frames over sockets: UNIX paths, HOST:PORT. */
#ifndef NET_SOCKET_INT_H
#define NET_SOCKET_INT_H

#include <sys/socket.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/types.h"

#define SOCK_MAX_ADDRS 8

struct sock_addr {
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage storage;
	};
	socklen_t len;
};

/* 0, or -ENAMETOOLONG with the reason. */
int sock_addr_unix(struct sock_addr *out, const char *path, struct err *err);

/*
 * Resolve "HOST:PORT" or "[HOST]:PORT" for a socket type (SOCK_STREAM, ...); an empty host is the
 * machine itself, or with `passive` every address of it. Waits for the name service. Returns how
 * many of out[SOCK_MAX_ADDRS] are filled, at least one, or -EINVAL with the reason.
 */
int sock_addr_inet(struct sock_addr *out, const char *text, int type, bool passive,
		   struct err *err);

/* A new socket: non-blocking, closed on exec; TCP with TCP_NODELAY. Descriptor or -errno. */
int sock_new(const struct sock_addr *addr, int type);

/* A new socket that is bound. The leftover of a UNIX socket that nobody has open any more is
 * replaced. Descriptor or -errno. */
int sock_bind(const struct sock_addr *addr, int type);

/* Remove a UNIX socket that nobody has open any more. */
void sock_remove_leftover(const struct sock_addr *addr, int type);
/* Remove the path of a UNIX socket; nothing for others. */
void sock_unlink(const struct sock_addr *addr);

#endif
