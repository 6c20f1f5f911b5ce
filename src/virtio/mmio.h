/* Virtio over memory-mapped registers, version 2: Virtio 1.3, section 4.2. */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include "bus/device.h"
#include "virtio/virtio.h"

#define VIRTIO_MMIO_SIZE 0x200

struct virtio_mmio_config {
	const struct virtio_class *class;
	const void *config; /* the class's own */
	u64 base;	    /* VIRTIO_MMIO_SIZE bytes */
	u32 gsi;	    /* level-triggered, not shared */
};

extern const struct device_class virtio_mmio_class;

/* The device behind a virtio_mmio_class instance. */
struct virtio_device *virtio_mmio_device(struct device *dev);

#endif
