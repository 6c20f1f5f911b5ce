/* The kernel's vhost-net: a descriptor a pair of queues, which moves frames between rings and a tap
 * device by itself. linux/vhost.h. */
#ifndef NET_VHOST_INT_H
#define NET_VHOST_INT_H

#include "net/net.h"

#define VHOST_DEVICE "/dev/vhost-net"

/* A descriptor owned by this process, and the feature bits it knows; -errno with the reason. */
int vhost_open(u64 *features, struct err *err);
/* 0 or -errno. */
int vhost_set_memory(int fd, const struct net_memory *memory, unsigned int n);
/* Rings 0 and 1 to the kernel, between them and the tap device. 0, or -errno with nothing started.
 */
int vhost_start(int fd, u64 features, const struct net_vring ring[2], int tap);
/* Stop both; base[]: where each goes on. */
void vhost_stop(int fd, u16 base[2]);

#endif
