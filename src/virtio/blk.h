/* Block device: Virtio 1.3, section 5.2. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "block/block.h"

#define VIRTIO_BLK_ID_BYTES 20

struct virtio_blk_options {
	struct block *block;	 /* outlives the device */
	unsigned int queues;	 /* each with a thread; 0: 1 */
	unsigned int queue_size; /* a power of two from 4 to 1024; 0: 256 */
	const char *serial;	 /* what GET_ID tells, cut to 20 bytes; may be NULL */
};

#endif
