/* The user-mode back end from inside: user.c (the link) and user_options.c (its configuration). */
#ifndef NET_USER_INT_H
#define NET_USER_INT_H

#include "base/opt.h"
#include "net/slirp_api.h"

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
/* Set up one forward. guest is where a hostfwd without a guest address goes. */
int user_add_forward(const struct slirp_api *api, Slirp *slirp, const struct user_forward *f,
		     struct in_addr guest, struct err *err);

#endif
