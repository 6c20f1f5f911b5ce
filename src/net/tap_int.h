/* How tap.c and tap_open.c share the work: the link, and getting descriptors of a tap device. */
#ifndef NET_TAP_INT_H
#define NET_TAP_INT_H

#include "base/err.h"
#include "base/types.h"

struct tap_config {
	char *ifname; /* NULL: the kernel names it */
	char *bridge; /* join it; NULL: none */
	char *helper; /* the setuid program that may do so for us */
	char *fd;     /* a descriptor that was opened before */
	u64 pairs;
	bool vhost; /* leave the rings of virtio cards to the kernel */
};

/* Whether a struct tap_config makes sense. -EINVAL with the reason. */
int tap_check(const void *config, struct err *err);
/* Open `pairs` queues of the tap device into fds[]: non-blocking, with a virtio_net_hdr of 12
 * bytes (as vhost wants it). *pairs may become 1 (a descriptor from outside, the helper). name has
 * IFNAMSIZ bytes. -errno with the reason and the remedy; nothing is open then. */
int tap_open(const struct tap_config *config, int *fds, unsigned int *pairs, char *name,
	     struct err *err);

#endif
