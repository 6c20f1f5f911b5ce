/*
 * A folder of the host in the guest: 9P2000.L (the Linux kernel's Documentation/filesystems/9p and
 * its fs/9p define it) over virtio, device type 9, which the standard names and does not describe.
 *
 * What the guest can reach: regular files, directories and symbolic links beneath the folder.
 * Links are never followed here, so where they point does not matter; devices, FIFOs and sockets
 * are shown and cannot be opened or made. Everything is done with the rights of the user who runs
 * the VM: the guest sees the host's owners, a change of owner that the host does not allow is
 * ignored, and set-user-id bits are never set. Extended attributes are not offered.
 */
#ifndef VIRTIO_P9_H
#define VIRTIO_P9_H

#include "base/types.h"

#define VIRTIO_P9_TAG_MAX 64

struct virtio_p9_options {
	const char *path; /* the folder; opened by init */
	const char *tag;  /* what the guest mounts, up to VIRTIO_P9_TAG_MAX bytes */
	bool readonly;
};

#endif
