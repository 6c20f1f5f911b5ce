/*
 * MSI-X (PCI 3.0, 6.8.2). A vector that a thread signals by eventfd has a route: while the vector
 * is unmasked the fd is an irqfd and the interrupt bypasses the monitor; while it is masked the fd
 * collects, and unmasking sends what was collected.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/endian.h"
#include "bus/pci_int.h"
#include "os/event.h"

#define CAP_ID_MSIX	0x11
#define CONTROL_ENABLE	0x8000
#define CONTROL_MASKALL 0x4000
#define VECTOR_MASKED	1u

static u16 msix_control(const struct pci_device *dev)
{
	return load_le16(dev->config + dev->msix.cap + 2);
}

bool pci_msix_enabled(const struct pci_device *dev)
{
	return dev->msix.cap && msix_control(dev) & CONTROL_ENABLE;
}

static bool vector_open(const struct pci_device *dev, const struct pci_msix_vector *v)
{
	return pci_msix_enabled(dev) && !(msix_control(dev) & CONTROL_MASKALL) &&
	       !(v->control & VECTOR_MASKED);
}

static void vector_update(struct pci_device *dev, struct pci_msix_vector *v)
{
	if (!vector_open(dev, v)) {
		if (v->route.gsi)
			irq_route_mask(&v->route);
		return;
	}
	if (v->route.gsi) {
		if (!v->route.attached && event_clear(v->route.fd))
			v->pending = true;
		irq_route_set(&v->route, v->addr, v->data);
	}
	if (v->pending) {
		v->pending = false;
		irq_msi_send(dev->dev.bus, v->addr, v->data);
	}
}

void pci_msix_control_changed(struct pci_device *dev)
{
	for (u32 i = 0; i < dev->msix.count; i++)
		vector_update(dev, &dev->msix.vector[i]);
}

void pci_msix_send(struct pci_device *dev, unsigned int n)
{
	struct pci_msix_vector *v;

	if (n >= dev->msix.count || !pci_msix_enabled(dev))
		return;
	v = &dev->msix.vector[n];
	if (vector_open(dev, v))
		irq_msi_send(dev->dev.bus, v->addr, v->data);
	else
		v->pending = true;
}

struct irq_route *pci_msix_route(struct pci_device *dev, unsigned int n)
{
	struct pci_msix_vector *v;

	if (n >= dev->msix.count)
		return NULL;
	v = &dev->msix.vector[n];
	if (!v->route.gsi) {
		if (irq_route_open(&v->route, dev->dev.bus))
			return NULL;
		vector_update(dev, v);
	}
	return &v->route;
}

/* ---- the table: 16 bytes a vector, accessed in dwords or qwords ---- */

static u32 *table_word(struct pci_device *dev, u64 offset)
{
	struct pci_msix_vector *v;

	if (offset / 16 >= dev->msix.count)
		return NULL;
	v = &dev->msix.vector[offset / 16];
	switch (offset % 16 / 4) {
	case 0:
		return (u32 *)&v->addr;
	case 1:
		return (u32 *)&v->addr + 1;
	case 2:
		return &v->data;
	default:
		return &v->control;
	}
}

static u64 table_read(void *ctx, u64 offset, unsigned int size)
{
	u32 *lo = table_word(ctx, offset), *hi = table_word(ctx, offset + 4);

	if (size < 4 || offset % 4)
		return 0;
	return (lo ? *lo : 0) | (size == 8 && hi ? (u64)*hi << 32 : 0);
}

static void table_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct pci_device *dev = ctx;

	if (size < 4 || offset % 4)
		return;
	for (; size; size -= 4, offset += 4, value >>= 32) {
		u32 *word = table_word(dev, offset);

		if (!word)
			return;
		*word = (u32)value;
		if (offset % 16 == 12)
			*word &= VECTOR_MASKED;
		if (offset % 16 == 0)
			*word &= ~3u;
		vector_update(dev, &dev->msix.vector[offset / 16]);
	}
}

static const struct bus_ops table_ops = {table_read, table_write};

bool pci_msix_collected(struct pci_device *dev, unsigned int n)
{
	struct pci_msix_vector *v = &dev->msix.vector[n];

	if (v->route.gsi && !v->route.attached && event_clear(v->route.fd))
		v->pending = true;
	return v->pending;
}

static u64 pba_read(void *ctx, u64 offset, unsigned int size)
{
	struct pci_device *dev = ctx;
	u64 bits = 0;

	for (u32 i = 0; i < size * 8; i++) {
		u64 n = offset * 8 + i;

		if (n >= dev->msix.count)
			break;
		bits |= (u64)pci_msix_collected(dev, (unsigned int)n) << i;
	}
	return bits;
}

static void pba_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	/* Read-only to software. */
}

static const struct bus_ops pba_ops = {pba_read, pba_write};

int pci_msix_init(struct pci_device *dev, unsigned int count, int bar, u64 offset, u64 pba_offset,
		  struct err *err)
{
	u16 cap;

	if (!count || count > PCI_MSIX_MAX)
		return err_set(err, EINVAL, "%u MSI-X vectors: from 1 to %d", count, PCI_MSIX_MAX);
	dev->msix.vector = calloc(count, sizeof(*dev->msix.vector));
	if (!dev->msix.vector)
		return err_set(err, ENOMEM, "out of memory");
	cap = pci_add_capability(dev, CAP_ID_MSIX, 12);
	if (!cap)
		return err_set(err, ENOSPC, "no room for the MSI-X capability");
	store_le16(dev->config + cap + 2, (u16)(count - 1));
	store_le16(dev->writable + cap + 2, CONTROL_ENABLE | CONTROL_MASKALL);
	store_le32(dev->config + cap + 4, (u32)offset | (u32)bar);
	store_le32(dev->config + cap + 8, (u32)pba_offset | (u32)bar);
	dev->msix.cap = cap;
	dev->msix.count = (u16)count;
	for (u32 i = 0; i < count; i++)
		dev->msix.vector[i].control = VECTOR_MASKED;
	dev->msix.table.range = (struct bus_range){
		.name = "msix-table", .size = 16 * count, .ops = &table_ops, .ctx = dev};
	pci_bar_add(dev, bar, &dev->msix.table, offset);
	dev->msix.pba.range = (struct bus_range){
		.name = "msix-pba", .size = (count + 63) / 64 * 8, .ops = &pba_ops, .ctx = dev};
	pci_bar_add(dev, bar, &dev->msix.pba, pba_offset);
	return 0;
}

void pci_msix_release(struct pci_device *dev)
{
	for (u32 i = 0; dev->msix.vector && i < dev->msix.count; i++)
		irq_route_close(&dev->msix.vector[i].route);
	free(dev->msix.vector);
	dev->msix.vector = NULL;
	dev->msix.count = 0;
}
