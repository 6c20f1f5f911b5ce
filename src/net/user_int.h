/* The user-mode back end from inside: user.c (the link) and user_options.c (its configuration). */
#ifndef NET_USER_INT_H
#define NET_USER_INT_H

#include "base/opt.h"
#include "net/relay.h"
#include "net/slirp_api.h"
#include "net/user_udp.h"

#define USER_MAX_FORWARDS 64

/* One hostfwd= or guestfwd=, as text until the stack exists. */
struct user_forward {
	bool to_guest; /* hostfwd */
	char text[256];
};

struct user_config {
	char *net, *host, *dns, *dhcpstart, *hostname, *domain, *tftp, *bootfile;
	bool restrict_on, host_loopback, ipv6;
	u64 mtu;
	struct user_forward forward[USER_MAX_FORWARDS];
	u32 forwards;
};

extern const struct opt user_options[];

/* Fill *slirp from c; it points into c. -EINVAL with the reason. */
int user_make_config(const struct user_config *c, SlirpConfig *slirp, struct err *err);
/* Whether user_make_config() and user_add_forwards() would be content, with nothing opened. */
int user_check(const void *config, struct err *err);

/* What forwards are added to. */
struct user_forwards {
	const struct slirp_api *api;
	Slirp *slirp;		   /* NULL: they are only looked at */
	const SlirpConfig *config; /* while forwards are added */
	u32 mtu;
	void (*deliver)(void *ctx, const u8 *data, u32 len); /* what comes back over UDP */
	void *ctx;
	struct user_udp *udp; /* NULL: no guestfwd of UDP; the caller frees it */
	struct in_addr guest; /* where a hostfwd without a guest address goes */
	struct relay
		*relay[USER_MAX_FORWARDS]; /* of guestfwd to TCP; the caller starts and frees */
	u32 relays;
	struct sock_addr path[USER_MAX_FORWARDS]; /* of hostfwd; the caller removes them */
	u32 paths;
	struct sockaddr_in taken[2][USER_MAX_FORWARDS]; /* by guestfwd: of TCP, of UDP */
	u32 takens[2];
};

/* -errno with the reason; some of them may have been added. */
int user_add_forwards(struct user_forwards *to, const struct user_config *c, struct err *err);

#endif
