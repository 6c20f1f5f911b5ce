/*
 * The register file from before Virtio 1.0: section 4.1.4.10. One ring layout in one piece, given
 * by a page number; features are final when the first queue is set up; no FEATURES_OK.
 */
#include <linux/virtio_pci.h>

#include "base/bits.h"
#include "base/endian.h"
#include "virtio/features.h"
#include "virtio/pci_int.h"

#define RING_ALIGN 4096

static u32 config_offset(const struct virtio_pci *vp)
{
	return VIRTIO_PCI_CONFIG_OFF(pci_msix_enabled(&vp->pci));
}

static u64 read_register(struct virtio_pci *vp, u64 offset)
{
	struct virtio_queue *queue = virtio_queue_at(vp->dev, vp->queue_select);

	switch (offset) {
	case VIRTIO_PCI_HOST_FEATURES:
		return virtio_get_features(vp->dev, 0);
	case VIRTIO_PCI_GUEST_FEATURES:
		return (u32)vp->dev->features;
	case VIRTIO_PCI_QUEUE_PFN:
		return queue && queue->enabled ? queue->vq.desc_gpa / RING_ALIGN : 0;
	case VIRTIO_PCI_QUEUE_NUM:
		return queue ? queue->vq.max_size : 0;
	case VIRTIO_PCI_QUEUE_SEL:
		return vp->queue_select;
	case VIRTIO_PCI_STATUS:
		return virtio_get_status(vp->dev);
	case VIRTIO_PCI_ISR:
		return virtio_pci_take_isr(vp);
	case VIRTIO_MSI_CONFIG_VECTOR:
		return vp->config_vector;
	case VIRTIO_MSI_QUEUE_VECTOR:
		return queue ? queue->vector : VIRTIO_PCI_NO_VECTOR;
	default:
		return 0;
	}
}

static u64 legacy_read(void *ctx, u64 offset, unsigned int size)
{
	struct virtio_pci *vp = ctx;
	u32 config = config_offset(vp);

	if (offset >= config)
		return virtio_config_read(vp->dev, (u32)(offset - config), size);
	return read_register(vp, offset);
}

/* Section 2.7.2: descriptors, available ring, and the used ring on the next page. */
static void set_ring(struct virtio_queue *queue, u32 pfn)
{
	struct virtq *vq = &queue->vq;
	u64 size = vq->max_size;

	virtio_queue_reset(queue);
	if (!pfn || !virtio_queue_is_open(queue))
		return;
	vq->desc_gpa = (u64)pfn * RING_ALIGN;
	vq->avail_gpa = vq->desc_gpa + 16 * size;
	vq->used_gpa = align_up(vq->avail_gpa + 6 + 2 * size, RING_ALIGN);
	virtio_queue_enable(queue);
}

static void write_register(struct virtio_pci *vp, u64 offset, u64 value)
{
	struct virtio_queue *queue = virtio_queue_at(vp->dev, vp->queue_select);

	switch (offset) {
	case VIRTIO_PCI_GUEST_FEATURES:
		virtio_set_features(vp->dev, 0, (u32)value & virtio_get_features(vp->dev, 0));
		break;
	case VIRTIO_PCI_QUEUE_PFN:
		if (queue)
			set_ring(queue, (u32)value);
		break;
	case VIRTIO_PCI_QUEUE_SEL:
		vp->queue_select = (u16)value;
		break;
	case VIRTIO_PCI_QUEUE_NOTIFY:
		virtio_notify(vp->dev, (u16)value);
		break;
	case VIRTIO_PCI_STATUS:
		virtio_pci_set_status(vp, (u8)value);
		break;
	case VIRTIO_MSI_CONFIG_VECTOR:
		virtio_pci_set_config_vector(vp, (u16)value);
		break;
	case VIRTIO_MSI_QUEUE_VECTOR:
		if (queue)
			virtio_pci_set_queue_vector(vp, queue, (u16)value);
		break;
	default:
		break;
	}
}

static void legacy_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct virtio_pci *vp = ctx;
	u32 config = config_offset(vp);

	if (offset >= config)
		virtio_config_write(vp->dev, (u32)(offset - config), size, value);
	else if (offset < VIRTIO_MSI_CONFIG_VECTOR || pci_msix_enabled(&vp->pci))
		write_register(vp, offset, value);
}

const struct bus_ops virtio_pci_legacy_ops = {legacy_read, legacy_write};

void virtio_pci_legacy_moved(struct pci_device *pci, struct pci_region *region, bool mapped)
{
	struct virtio_pci *vp = container_of(pci, struct virtio_pci, pci);

	/* One register for all queues: the value says which. */
	const struct bus_doorbell bell = {.space = BUS_PIO,
					  .addr = region->range.base + VIRTIO_PCI_QUEUE_NOTIFY,
					  .size = 2,
					  .match = true};

	virtio_set_doorbells(vp->dev, bell, 0, mapped);
}
