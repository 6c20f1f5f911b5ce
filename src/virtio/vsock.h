/*
 * Socket device: Virtio 1.3, section 5.10, with UNIX sockets as the host's side:
 *  - A program on the host connects to PATH, sends "CONNECT PORT\n", and is connected to that port
 *    of the guest once it reads "OK NUMBER\n".
 *  - A guest that connects to port P of the host (CID 2) reaches who listens at PATH_P: with a
 * stream socket, or with one of whole messages (SOCK_SEQPACKET) on both sides.
 */
#ifndef VIRTIO_VSOCK_H
#define VIRTIO_VSOCK_H

#include "base/types.h"

struct virtio_vsock_options {
	const char *path; /* made and listened on; removed at the end. Copied */
	u64 guest_cid;	  /* 3 to 2^32 - 2; 0: 3 */
};

#endif
