/* The PCI transport: one structure, the modern registers (pci.c) and the old ones (pci_legacy.c).
 */
#ifndef VIRTIO_PCI_INT_H
#define VIRTIO_PCI_INT_H

#include "bus/pci.h"
#include "virtio/pci.h"

#define VIRTIO_PCI_NO_VECTOR 0xffff

struct virtio_pci {
	struct pci_device pci; /* first */
	struct virtio_device *dev;
	bool transitional;
	u32 isr; /* atomic */
	u16 config_vector;
	u16 queue_select;
	u32 feature_select, driver_feature_select;
	u16 cfg_cap; /* offset of the PCI_CFG capability */
	struct pci_region modern, ports, legacy;
	struct virtio_saved saved;
};

void virtio_pci_set_queue_vector(struct virtio_pci *vp, struct virtio_queue *queue, u16 vector);
void virtio_pci_set_config_vector(struct virtio_pci *vp, u16 vector);
u8 virtio_pci_take_isr(struct virtio_pci *vp);
void virtio_pci_set_status(struct virtio_pci *vp, u8 status);

/* pci_legacy.c */
#define VIRTIO_PCI_LEGACY_SIZE 512
extern const struct bus_ops virtio_pci_legacy_ops; /* ctx: struct virtio_pci */
void virtio_pci_legacy_moved(struct pci_device *pci, struct pci_region *region, bool mapped);

#endif
