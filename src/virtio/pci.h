/* Virtio over PCI: Virtio 1.3, section 4.1. */
#ifndef VIRTIO_PCI_H
#define VIRTIO_PCI_H

#include "bus/device.h"
#include "virtio/virtio.h"

struct virtio_pci_config {
	const struct virtio_class *class;
	const void *config; /* the class's own */
	u8 slot;	    /* PCI device number; 0: the next free one */
	/* Also offer the register file from before 1.0 (section 4.1.4.10), for guests that know no
	 * other: a port BAR, and the old device ids. */
	bool transitional;
	/* Offer doorbells in memory only. Otherwise both, and the port doorbell stands first in the
	 * list of capabilities, so that drivers take it: it costs AMD-V 40 % of the other. */
	bool mmio_doorbells_only;
};

extern const struct device_class virtio_pci_class;

/* The device behind a virtio_pci_class instance. */
struct virtio_device *virtio_pci_device(struct device *dev);

#endif
