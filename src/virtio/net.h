/* Network card: Virtio 1.3, section 5.1. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include "net/net.h"

struct virtio_net_options {
	struct net *net; /* outlives the device; net_stop() before the device is freed */
	u8 mac[6];
	u16 mtu;	    /* told to the driver; 0: not */
	unsigned int pairs; /* queue pairs; 0: as many as the link has */
	u16 queue_size;	    /* a power of two from 4 to 1024; 0: 256 */
};

#endif
