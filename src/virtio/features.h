/* Feature bits that belong to no device: Virtio 1.3, section 6. */
#ifndef VIRTIO_FEATURES_H
#define VIRTIO_FEATURES_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#define VIRTIO_F_INDIRECT_DESC VIRTIO_RING_F_INDIRECT_DESC
#define VIRTIO_F_EVENT_IDX     VIRTIO_RING_F_EVENT_IDX
#define VIRTIO_F_NOTIF_DATA    38

/* What every device here offers; transports take away what they cannot. */
#define VIRTIO_COMMON_FEATURES                                                                     \
	(VIRTIO_F(VIRTIO_F_VERSION_1) | VIRTIO_F(VIRTIO_F_INDIRECT_DESC) |                         \
	 VIRTIO_F(VIRTIO_F_EVENT_IDX) | VIRTIO_F(VIRTIO_F_RING_PACKED) |                           \
	 VIRTIO_F(VIRTIO_F_RING_RESET) | VIRTIO_F(VIRTIO_F_NOTIF_DATA))

#endif
