/*
 * BARs: 1 holds the MSI-X table, 2 doorbells by port, 4 the structures in memory; 0 is the old
 * register file, where that is offered.
 *
 * Invariants:
 * 1. A doorbell is the queue's kick_fd, from when its region is mapped to when it is not; a write
 *    that reaches us all the same does what the doorbell would have done.
 * 2. A queue's irq is the route of its vector while MSI-X is enabled and it has one; all
 *    else goes through signal(), with the bus lock.
 * 3. A vector that is read back is one that works (section 4.1.5.1.2.1).
 */
#include "virtio/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "virtio/features.h"
#include "virtio/pci_int.h"

#define VENDOR	    0x1af4
#define MODERN_ID   0x1040
#define NOTIFY_MULT 4
#define MODERN_BAR  4
#define PORTS_BAR   2
#define MSIX_BAR    1
#define LEGACY_BAR  0
#define STRUCTURE   0x1000 /* each structure has a page */
#define PORTS_SIZE  (NOTIFY_MULT * VIRTIO_MAX_QUEUES)

enum structure { COMMON, ISR, DEVICE, NOTIFY, STRUCTURES };

static struct virtio_pci *of_device(struct device *dev)
{
	return container_of(container_of(dev, struct pci_device, dev), struct virtio_pci, pci);
}

static struct virtio_pci *of_pci(struct pci_device *pci)
{
	return container_of(pci, struct virtio_pci, pci);
}

struct virtio_device *virtio_pci_device(struct device *dev)
{
	return of_device(dev)->dev;
}

/* ---- interrupts ---- */

static void raise_intx(struct virtio_pci *vp, u32 bits)
{
	__atomic_fetch_or(&vp->isr, bits, __ATOMIC_ACQ_REL);
	if (!pci_msix_enabled(&vp->pci))
		pci_set_intx(&vp->pci, true);
}

static void pci_signal(struct virtio_device *dev, struct virtio_queue *queue)
{
	struct virtio_pci *vp = dev->transport_ctx;

	if (!pci_msix_enabled(&vp->pci))
		raise_intx(vp, 1);
	else if (queue->vector != VIRTIO_PCI_NO_VECTOR)
		pci_msix_send(&vp->pci, queue->vector);
}

static void pci_config_changed(struct virtio_device *dev)
{
	struct virtio_pci *vp = dev->transport_ctx;

	/* 4.1.4.5.1: the bit comes before the interrupt, whatever kind that is. */
	raise_intx(vp, 2);
	if (vp->config_vector != VIRTIO_PCI_NO_VECTOR)
		pci_msix_send(&vp->pci, vp->config_vector);
}

static const struct virtio_transport transport = {
	.signal = pci_signal,
	.config_changed = pci_config_changed,
};

u8 virtio_pci_take_isr(struct virtio_pci *vp)
{
	u8 isr = (u8)__atomic_exchange_n(&vp->isr, 0, __ATOMIC_ACQ_REL);

	pci_set_intx(&vp->pci, false);
	return isr;
}

static void update_irq(struct virtio_pci *vp, struct virtio_queue *queue)
{
	const struct irq_route *route = NULL;

	if (pci_msix_enabled(&vp->pci) && queue->vector != VIRTIO_PCI_NO_VECTOR)
		route = pci_msix_route(&vp->pci, queue->vector);
	virtio_queue_set_irq(queue, route);
}

void virtio_pci_set_queue_vector(struct virtio_pci *vp, struct virtio_queue *queue, u16 vector)
{
	queue->vector = vector < vp->pci.msix.count ? vector : VIRTIO_PCI_NO_VECTOR;
	update_irq(vp, queue);
}

void virtio_pci_set_config_vector(struct virtio_pci *vp, u16 vector)
{
	vp->config_vector = vector < vp->pci.msix.count ? vector : VIRTIO_PCI_NO_VECTOR;
}

/* ---- the common configuration structure: section 4.1.4.3 ---- */

enum field {
	DEVICE_FEATURE_SELECT,
	DEVICE_FEATURE,
	DRIVER_FEATURE_SELECT,
	DRIVER_FEATURE,
	CONFIG_VECTOR,
	NUM_QUEUES,
	DEVICE_STATUS,
	CONFIG_GENERATION,
	QUEUE_SELECT,
	QUEUE_SIZE,
	QUEUE_VECTOR,
	QUEUE_ENABLE,
	QUEUE_NOTIFY_OFF,
	QUEUE_DESC,
	QUEUE_DRIVER,
	QUEUE_DEVICE,
	QUEUE_NOTIF_CONFIG_DATA,
	QUEUE_RESET,
	FIELDS,
};

static const struct {
	u8 offset, size;
} layout[FIELDS] = {
	[DEVICE_FEATURE_SELECT] = {0, 4},
	[DEVICE_FEATURE] = {4, 4},
	[DRIVER_FEATURE_SELECT] = {8, 4},
	[DRIVER_FEATURE] = {12, 4},
	[CONFIG_VECTOR] = {16, 2},
	[NUM_QUEUES] = {18, 2},
	[DEVICE_STATUS] = {20, 1},
	[CONFIG_GENERATION] = {21, 1},
	[QUEUE_SELECT] = {22, 2},
	[QUEUE_SIZE] = {24, 2},
	[QUEUE_VECTOR] = {26, 2},
	[QUEUE_ENABLE] = {28, 2},
	[QUEUE_NOTIFY_OFF] = {30, 2},
	[QUEUE_DESC] = {32, 8},
	[QUEUE_DRIVER] = {40, 8},
	[QUEUE_DEVICE] = {48, 8},
	[QUEUE_NOTIF_CONFIG_DATA] = {56, 2},
	[QUEUE_RESET] = {58, 2},
};

#define COMMON_SIZE 60

static u64 get_queue_field(struct virtio_queue *queue, enum field field)
{
	switch (field) {
	case QUEUE_SIZE:
		return queue->vq.size;
	case QUEUE_VECTOR:
		return queue->vector;
	case QUEUE_ENABLE:
		return queue->enabled;
	case QUEUE_NOTIFY_OFF:
	case QUEUE_NOTIF_CONFIG_DATA:
		return queue->index;
	case QUEUE_DESC:
		return queue->vq.desc_gpa;
	case QUEUE_DRIVER:
		return queue->vq.avail_gpa;
	case QUEUE_DEVICE:
		return queue->vq.used_gpa;
	default: /* QUEUE_RESET: by who wrote 1 it is not read before the reset is over */
		return virtio_queue_is_stopping(queue);
	}
}

static u64 get_field(struct virtio_pci *vp, enum field field)
{
	struct virtio_queue *queue = virtio_queue_at(vp->dev, vp->queue_select);
	u32 select = vp->driver_feature_select;

	switch (field) {
	case DEVICE_FEATURE_SELECT:
		return vp->feature_select;
	case DEVICE_FEATURE:
		return virtio_get_features(vp->dev, vp->feature_select);
	case DRIVER_FEATURE_SELECT:
		return select;
	case DRIVER_FEATURE:
		return select < 2 ? (u32)(vp->dev->features >> (32 * select)) : 0;
	case CONFIG_VECTOR:
		return vp->config_vector;
	case NUM_QUEUES:
		return vp->dev->nqueues;
	case DEVICE_STATUS:
		return virtio_get_status(vp->dev);
	case CONFIG_GENERATION:
		return vp->dev->generation;
	case QUEUE_SELECT:
		return vp->queue_select;
	default: /* 4.1.4.3.1: a queue that is not there has size 0 */
		return queue ? get_queue_field(queue, field) : 0;
	}
}

static void set_queue_field(struct virtio_pci *vp, struct virtio_queue *queue, enum field field,
			    u64 value)
{
	struct virtq *vq = &queue->vq;

	if (field == QUEUE_VECTOR)
		virtio_pci_set_queue_vector(vp, queue, (u16)value);
	else if (field == QUEUE_RESET && value == 1 && virtio_has(vp->dev, VIRTIO_F_RING_RESET))
		virtio_queue_reset(queue);
	if (!virtio_queue_is_open(queue))
		return;
	switch (field) {
	case QUEUE_SIZE:
		virtio_queue_set_size(queue, (u32)value);
		break;
	case QUEUE_ENABLE:
		if (value == 1)
			virtio_queue_enable(queue);
		break;
	case QUEUE_DESC:
		vq->desc_gpa = value;
		break;
	case QUEUE_DRIVER:
		vq->avail_gpa = value;
		break;
	case QUEUE_DEVICE:
		vq->used_gpa = value;
		break;
	default:
		break;
	}
}

/* Back to the values after reset; the BARs and MSI-X stay as they are. */
static void reset_registers(struct virtio_pci *vp)
{
	virtio_pci_take_isr(vp);
	vp->feature_select = vp->driver_feature_select = 0;
	vp->queue_select = 0;
	virtio_pci_set_config_vector(vp, VIRTIO_PCI_NO_VECTOR);
	for (unsigned int i = 0; i < vp->dev->nqueues; i++)
		virtio_pci_set_queue_vector(vp, &vp->dev->queue[i], VIRTIO_PCI_NO_VECTOR);
}

void virtio_pci_set_status(struct virtio_pci *vp, u8 status)
{
	virtio_set_status(vp->dev, status);
	if (!status)
		reset_registers(vp);
}

static void set_field(struct virtio_pci *vp, enum field field, u64 value)
{
	struct virtio_queue *queue = virtio_queue_at(vp->dev, vp->queue_select);

	switch (field) {
	case DEVICE_FEATURE_SELECT:
		vp->feature_select = (u32)value;
		break;
	case DRIVER_FEATURE_SELECT:
		vp->driver_feature_select = (u32)value;
		break;
	case DRIVER_FEATURE:
		virtio_set_features(vp->dev, vp->driver_feature_select, (u32)value);
		break;
	case CONFIG_VECTOR:
		virtio_pci_set_config_vector(vp, (u16)value);
		break;
	case DEVICE_STATUS:
		virtio_pci_set_status(vp, (u8)value);
		break;
	case QUEUE_SELECT:
		vp->queue_select = (u16)value;
		break;
	default:
		if (queue)
			set_queue_field(vp, queue, field, value);
		break;
	}
}

static u64 common_read(struct virtio_pci *vp, u32 offset, unsigned int size)
{
	u8 bytes[COMMON_SIZE + 8] = {0};

	for (int f = 0; f < FIELDS; f++)
		if (ranges_overlap(offset, size, layout[f].offset, layout[f].size))
			store_le(bytes + layout[f].offset, layout[f].size, get_field(vp, f));
	return range_fits(offset, size, sizeof(bytes)) ? load_le(bytes + offset, size) : 0;
}

/* A write may cover a part of a field (each half of an address) or several fields. */
static void common_write(struct virtio_pci *vp, u32 offset, unsigned int size, u64 value)
{
	for (int f = 0; f < FIELDS; f++) {
		u32 at = layout[f].offset, len = layout[f].size;
		u8 bytes[8], written[8];

		if (!ranges_overlap(offset, size, at, len))
			continue;
		store_le(bytes, len, get_field(vp, f));
		store_le(written, size, value);
		for (u32 i = 0; i < len; i++)
			if (at + i >= offset && at + i < offset + size)
				bytes[i] = written[at + i - offset];
		set_field(vp, f, load_le(bytes, len));
	}
}

/* ---- the modern BAR and the port doorbells ---- */

static void doorbell_written(struct virtio_pci *vp, u64 offset)
{
	if (offset % NOTIFY_MULT == 0)
		virtio_notify(vp->dev, (u32)(offset / NOTIFY_MULT));
}

static u64 modern_read(void *ctx, u64 offset, unsigned int size)
{
	struct virtio_pci *vp = ctx;
	u32 at = offset % STRUCTURE;

	switch (offset / STRUCTURE) {
	case COMMON:
		return common_read(vp, at, size);
	case ISR:
		return at ? 0 : virtio_pci_take_isr(vp);
	case DEVICE:
		return virtio_config_read(vp->dev, at, size);
	default:
		return 0;
	}
}

static void modern_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct virtio_pci *vp = ctx;
	u32 at = offset % STRUCTURE;

	switch (offset / STRUCTURE) {
	case COMMON:
		common_write(vp, at, size, value);
		break;
	case DEVICE:
		virtio_config_write(vp->dev, at, size, value);
		break;
	case NOTIFY:
		doorbell_written(vp, at);
		break;
	default:
		break;
	}
}

static const struct bus_ops modern_ops = {modern_read, modern_write};

static u64 ports_read(void *ctx, u64 offset, unsigned int size)
{
	return 0;
}

static void ports_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	doorbell_written(ctx, offset);
}

static const struct bus_ops ports_ops = {ports_read, ports_write};

static void doorbells_moved(struct pci_device *pci, struct pci_region *region, bool mapped)
{
	struct virtio_pci *vp = of_pci(pci);
	/* Any size: with NOTIFICATION_DATA it is 4 bytes, without it 2. */
	const struct bus_doorbell bell = {
		.space = region->range.space,
		.addr = region->range.base + (region == &vp->modern ? NOTIFY * STRUCTURE : 0),
	};

	virtio_set_doorbells(vp->dev, bell, NOTIFY_MULT, mapped);
}

/* ---- PCI_CFG: the BARs through configuration space, section 4.1.4.9 ---- */

static struct pci_region *window_region(struct virtio_pci *vp, u8 bar)
{
	switch (bar) {
	case MODERN_BAR:
		return &vp->modern;
	case PORTS_BAR:
		return vp->ports.range.size ? &vp->ports : NULL;
	case LEGACY_BAR:
		return vp->legacy.range.size ? &vp->legacy : NULL;
	default:
		return NULL;
	}
}

static void window_access(struct virtio_pci *vp, bool write)
{
	u8 *cap = vp->pci.config + vp->cfg_cap;
	u32 offset = load_le32(cap + 8), length = load_le32(cap + 12);
	struct pci_region *region = window_region(vp, cap[4]);

	if (!region || (length != 1 && length != 2 && length != 4) || offset % length ||
	    !range_fits(offset, length, region->range.size))
		return;
	if (write)
		region->range.ops->write(region->range.ctx, offset, length,
					 load_le(cap + 16, length));
	else
		store_le32(cap + 16,
			   (u32)region->range.ops->read(region->range.ctx, offset, length));
}

static void config_reading(struct pci_device *pci, u16 offset, unsigned int size)
{
	struct virtio_pci *vp = of_pci(pci);

	if (ranges_overlap(offset, size, vp->cfg_cap + 16u, 4))
		window_access(vp, false);
}

static void config_written(struct pci_device *pci, u16 offset, unsigned int size)
{
	struct virtio_pci *vp = of_pci(pci);

	if (ranges_overlap(offset, size, vp->cfg_cap + 16u, 4))
		window_access(vp, true);
	if (ranges_overlap(offset, size, pci->msix.cap + 2u, 2))
		for (unsigned int i = 0; i < vp->dev->nqueues; i++)
			update_irq(vp, &vp->dev->queue[i]);
	if (ranges_overlap(offset, size, PCI_COMMAND, 2))
		virtio_device_set_dma(vp->dev, vp->transitional || pci_bus_master(pci));
}

/* ---- life ---- */

static int add_cap(struct virtio_pci *vp, u8 type, u8 len, u8 bar, u32 offset, u32 length,
		   struct err *err)
{
	u16 at = pci_add_capability(&vp->pci, PCI_CAP_ID_VNDR, len);
	u8 *cap = vp->pci.config + at;

	if (!at)
		return err_set(err, ENOSPC, "no room for capabilities");
	cap[2] = len;
	cap[3] = type;
	cap[4] = bar;
	store_le32(cap + 8, offset);
	store_le32(cap + 12, length);
	return at;
}

static int add_notify_cap(struct virtio_pci *vp, u8 bar, u32 offset, struct err *err)
{
	int at = add_cap(vp, 2, 20, bar, offset, NOTIFY_MULT * vp->dev->nqueues, err);

	if (at > 0)
		store_le32(vp->pci.config + at + 16, NOTIFY_MULT);
	return at;
}

static int add_window_cap(struct virtio_pci *vp, struct err *err)
{
	int at = add_cap(vp, 5, 20, 0, 0, 0, err);

	if (at < 0)
		return at;
	vp->cfg_cap = (u16)at;
	vp->pci.writable[at + 4] = 0xff;
	memset(vp->pci.writable + at + 8, 0xff, 12);
	return at;
}

/* A new capability becomes the head of the list, so the preferred ones come last here. */
static int add_caps(struct virtio_pci *vp, bool ports, struct err *err)
{
	u32 config_size = (u32)align_up(vp->dev->config_size, 4);
	int rc = add_window_cap(vp, err);

	if (rc > 0 && config_size) /* without configuration bytes it must not be there */
		rc = add_cap(vp, 4, 16, MODERN_BAR, DEVICE * STRUCTURE, config_size, err);
	if (rc > 0)
		rc = add_cap(vp, 3, 16, MODERN_BAR, ISR * STRUCTURE, 1, err);
	if (rc > 0)
		rc = add_notify_cap(vp, MODERN_BAR, NOTIFY * STRUCTURE, err);
	if (rc > 0 && ports)
		rc = add_notify_cap(vp, PORTS_BAR, 0, err);
	if (rc > 0)
		rc = add_cap(vp, 1, 16, MODERN_BAR, COMMON * STRUCTURE, COMMON_SIZE, err);
	return min(rc, 0);
}

static void add_bars(struct virtio_pci *vp, bool ports)
{
	pci_bar_init(&vp->pci, MODERN_BAR, PCI_BAR_MMIO64, STRUCTURES * STRUCTURE, true);
	vp->modern.range = (struct bus_range){.name = "virtio-pci",
					      .size = STRUCTURES * STRUCTURE,
					      .ops = &modern_ops,
					      .ctx = vp};
	vp->modern.moved = doorbells_moved;
	pci_bar_add(&vp->pci, MODERN_BAR, &vp->modern, 0);
	if (ports) {
		pci_bar_init(&vp->pci, PORTS_BAR, PCI_BAR_PIO, PORTS_SIZE, false);
		vp->ports.range = (struct bus_range){.name = "virtio-pci-doorbell",
						     .size = PORTS_SIZE,
						     .ops = &ports_ops,
						     .ctx = vp};
		vp->ports.moved = doorbells_moved;
		pci_bar_add(&vp->pci, PORTS_BAR, &vp->ports, 0);
	}
	if (!vp->transitional)
		return;
	pci_bar_init(&vp->pci, LEGACY_BAR, PCI_BAR_PIO, VIRTIO_PCI_LEGACY_SIZE, false);
	vp->legacy.range = (struct bus_range){.name = "virtio-pci-legacy",
					      .size = VIRTIO_PCI_LEGACY_SIZE,
					      .ops = &virtio_pci_legacy_ops,
					      .ctx = vp};
	vp->legacy.moved = virtio_pci_legacy_moved;
	pci_bar_add(&vp->pci, LEGACY_BAR, &vp->legacy, 0);
}

/* Section 4.1.2.1: 0 where the type has no id from before 1.0. */
static u16 transitional_id(u16 type)
{
	switch (type) {
	case VIRTIO_ID_NET:
		return 0x1000;
	case VIRTIO_ID_BLOCK:
		return 0x1001;
	case VIRTIO_ID_BALLOON:
		return 0x1002;
	case VIRTIO_ID_CONSOLE:
		return 0x1003;
	case VIRTIO_ID_RNG:
		return 0x1005;
	case VIRTIO_ID_9P:
		return 0x1009;
	default:
		return 0;
	}
}

static const struct device_class unmigratable_class;

static int init(struct device *device, const void *config, struct err *err)
{
	const struct virtio_pci_config *c = config;
	struct virtio_pci *vp = of_device(device);
	u16 old_id = c->transitional ? transitional_id(c->class->id) : 0;
	const struct pci_ident ident = {
		.vendor = VENDOR,
		.device = old_id ? old_id : (u16)(MODERN_ID + c->class->id),
		.subsystem_vendor = VENDOR,
		.subsystem = old_id ? c->class->id : (u16)(MODERN_ID + c->class->id),
		.revision = old_id ? 0 : 1,
		.class_code = c->class->pci_class,
		.interrupt_pin = 1,
	};
	unsigned int vectors;
	int rc = pci_device_init(&vp->pci, &ident, c->slot ? c->slot << 3 : -1, err);

	if (rc)
		return rc;
	if (c->class->state == STATE_UNMIGRATABLE)
		device->class = &unmigratable_class;
	vp->transitional = old_id;
	rc = virtio_device_new(&vp->dev, c->class, device->bus, device->id, c->config, &transport,
			       vp, err);
	if (rc)
		return rc;
	vp->dev->legacy = old_id;
	if (old_id) /* section 6.3 */
		virtio_offer(vp->dev, VIRTIO_F(VIRTIO_F_ANY_LAYOUT));
	pci_bar_init(&vp->pci, MSIX_BAR, PCI_BAR_MMIO32, 4096, false);
	vectors = min(vp->dev->nqueues + 1, (unsigned int)PCI_MSIX_MAX);
	rc = pci_msix_init(&vp->pci, vectors, MSIX_BAR, 0, 2048, err);
	if (!rc)
		rc = add_caps(vp, !c->mmio_doorbells_only, err);
	if (rc)
		return rc;
	add_bars(vp, !c->mmio_doorbells_only);
	vp->pci.config_reading = config_reading;
	vp->pci.config_written = config_written;
	return 0;
}

static void reset(struct device *device)
{
	struct virtio_pci *vp = of_device(device);

	virtio_device_reset(vp->dev);
	reset_registers(vp);
	pci_device_reset(&vp->pci);
	virtio_device_set_dma(vp->dev, vp->transitional);
}

static void pause(struct device *device)
{
	virtio_device_pause(of_device(device)->dev);
}

static bool drained(struct device *device)
{
	return virtio_device_drained(of_device(device)->dev);
}

static void resume(struct device *device)
{
	virtio_device_resume(of_device(device)->dev);
}

static void stats(struct device *device, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	virtio_device_stats(of_device(device)->dev, line, ctx);
}

static void free_device(struct device *device)
{
	struct virtio_pci *vp = of_device(device);

	/* The device's threads signal our eventfds, our doorbells are its descriptors. */
	virtio_device_stop(vp->dev);
	pci_device_release(&vp->pci);
	virtio_device_free(vp->dev);
}

/* ---- saved state ---- */

static void saving(void *object)
{
	struct virtio_pci *vp = object;

	virtio_device_save(vp->dev, &vp->saved);
}

static int loaded(void *object, struct err *err)
{
	struct virtio_pci *vp = object;
	u16 config_vector = vp->config_vector;
	int rc;

	virtio_device_set_dma(vp->dev, vp->transitional || pci_bus_master(&vp->pci));
	rc = virtio_device_load(vp->dev, &vp->saved, err);
	if (rc)
		return rc;
	virtio_pci_set_config_vector(vp, config_vector);
	for (unsigned int i = 0; i < vp->dev->nqueues; i++)
		virtio_pci_set_queue_vector(vp, &vp->dev->queue[i], vp->dev->queue[i].vector);
	pci_set_intx(&vp->pci, vp->isr && !pci_msix_enabled(&vp->pci));
	return 0;
}

static const struct state_field fields[] = {
	STATE_NESTED(struct virtio_pci, pci, pci_device_state),
	STATE_FIELD(struct virtio_pci, isr),
	STATE_FIELD(struct virtio_pci, config_vector),
	STATE_FIELD(struct virtio_pci, queue_select),
	STATE_FIELD(struct virtio_pci, feature_select),
	STATE_FIELD(struct virtio_pci, driver_feature_select),
	STATE_NESTED(struct virtio_pci, saved, virtio_saved_state),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-pci",
	.version = 1,
	.fields = fields,
	.saving = saving,
	.loaded = loaded,
};

/* Two classes: a device that cannot be saved makes its transport one that cannot. */
#define CLASS(description)                                                                         \
	{                                                                                          \
		.name = "virtio-pci", .summary = "paravirtual device on the PCI bus",              \
		.size = sizeof(struct virtio_pci), .init = init, .reset = reset, .pause = pause,   \
		.drained = drained, .resume = resume, .free = free_device, .stats = stats,         \
		.state = (description),                                                            \
	}

const struct device_class virtio_pci_class = CLASS(&state);
static const struct device_class unmigratable_class = CLASS(STATE_UNMIGRATABLE);
