/*
 * One function: configuration space and BARs.
 *
 * Invariants:
 * 1. config[] holds what the guest reads; only bits of writable[] and write_clear[] change by its
 *    writes.
 * 2. bar[n].mapped implies that each region which the bus accepted has its range at addr + offset.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "bus/pci_int.h"

static int free_devfn(const struct pci_host *host)
{
	for (int slot = 0; slot < 32; slot++)
		if (!host->slot[slot << 3])
			return slot << 3;
	return -1;
}

int pci_device_init(struct pci_device *dev, const struct pci_ident *ident, int devfn,
		    struct err *err)
{
	struct pci_host *host = bus_pci(dev->dev.bus);
	u8 *c = dev->config;

	if (!host)
		return err_set(err, ENODEV, "this machine has no PCI bus");
	if (devfn < 0)
		devfn = free_devfn(host);
	if (devfn < 0 || devfn > 255 || host->slot[devfn])
		return err_set(err, ENOSPC, "no free PCI slot (a bus has 32)");
	store_le16(c + PCI_VENDOR_ID, ident->vendor);
	store_le16(c + PCI_VENDOR_ID + 2, ident->device);
	store_le32(c + PCI_CLASS_REVISION, ident->class_code << 8 | ident->revision);
	store_le16(c + PCI_SUBSYSTEM, ident->subsystem_vendor);
	store_le16(c + PCI_SUBSYSTEM + 2, ident->subsystem);
	c[PCI_INTERRUPT_PIN] = ident->interrupt_pin;
	store_le16(dev->writable + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
							PCI_COMMAND_MASTER |
							PCI_COMMAND_INTX_DISABLE);
	dev->writable[PCI_INTERRUPT_LINE] = 0xff;
	dev->writable[0x0c] = 0xff; /* cache line size */
	dev->cap_end = PCI_FIRST_CAP;
	dev->host = host;
	dev->devfn = (u8)devfn;
	host->slot[devfn] = dev;
	return 0;
}

void pci_device_release(struct pci_device *dev)
{
	if (!dev->host)
		return;
	pci_set_intx(dev, false);
	pci_unmap_bars(dev);
	pci_release_rom(dev);
	pci_msix_release(dev);
	dev->host->slot[dev->devfn] = NULL;
	dev->host = NULL;
}

void pci_device_reset(struct pci_device *dev)
{
	pci_set_intx(dev, false);
	store_le16(dev->config + PCI_COMMAND, 0);
	for (int n = 0; n < PCI_BARS; n++) {
		u8 *reg = dev->config + PCI_BAR0 + 4 * n;

		store_le32(reg, load_le32(reg) & ~load_le32(dev->writable + PCI_BAR0 + 4 * n));
	}
	memset(dev->config + PCI_ROM_ADDRESS, 0, 4);
	pci_update_bars(dev);
	if (dev->msix.cap) {
		store_le16(dev->config + dev->msix.cap + 2, dev->msix.count - 1);
		for (u32 i = 0; i < dev->msix.count; i++) {
			dev->msix.vector[i].control = 1;
			dev->msix.vector[i].pending = false;
		}
		pci_msix_control_changed(dev);
	}
}

bool pci_bus_master(const struct pci_device *dev)
{
	return pci_command(dev) & PCI_COMMAND_MASTER;
}

/* ---- capabilities ---- */

u16 pci_add_capability(struct pci_device *dev, u8 id, u8 len)
{
	u16 at = dev->cap_end;
	u8 *c = dev->config;

	if (at + len > 256)
		return 0;
	dev->cap_end = (u16)align_up((u64)at + len, 4);
	c[at] = id;
	c[at + 1] = c[PCI_CAP_POINTER];
	c[PCI_CAP_POINTER] = (u8)at;
	c[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return at;
}

/* ---- BARs ---- */

void pci_bar_init(struct pci_device *dev, int n, enum pci_bar_kind kind, u64 size,
		  bool prefetchable)
{
	u8 *reg = dev->config + PCI_BAR0 + 4 * n;
	u8 *mask = dev->writable + PCI_BAR0 + 4 * n;
	u32 type = kind == PCI_BAR_PIO ? 1 : (kind == PCI_BAR_MMIO64 ? 4 : 0) | prefetchable << 3;

	dev->bar[n] = (struct pci_bar){.kind = kind, .size = size, .prefetchable = prefetchable};
	store_le32(reg, type);
	store_le32(mask, (u32) ~(size - 1) & (kind == PCI_BAR_PIO ? ~3u : ~15u));
	if (kind == PCI_BAR_MMIO64)
		store_le32(mask + 4, (u32)(~(size - 1) >> 32));
}

void pci_bar_add(struct pci_device *dev, int n, struct pci_region *region, u64 offset)
{
	region->offset = offset;
	region->range.space = dev->bar[n].kind == PCI_BAR_PIO ? BUS_PIO : BUS_MMIO;
	region->next = dev->bar[n].regions;
	dev->bar[n].regions = region;
}

static u64 bar_address(const struct pci_device *dev, int n)
{
	const u8 *reg = dev->config + PCI_BAR0 + 4 * n;
	u64 addr = load_le32(reg) & (dev->bar[n].kind == PCI_BAR_PIO ? ~3u : ~15u);

	if (dev->bar[n].kind == PCI_BAR_MMIO64)
		addr |= (u64)load_le32(reg + 4) << 32;
	return addr;
}

static void bar_unmap(struct pci_device *dev, struct pci_bar *bar)
{
	if (!bar->mapped)
		return;
	for (struct pci_region *r = bar->regions; r; r = r->next) {
		if (r->range.added && r->moved)
			r->moved(dev, r, false);
		bus_remove(dev->dev.bus, &r->range);
	}
	bar->mapped = false;
}

/* A guest may place a BAR over something else; then that region does not answer. */
static void bar_map(struct pci_device *dev, struct pci_bar *bar, u64 addr)
{
	bar->addr = addr;
	bar->mapped = true;
	for (struct pci_region *r = bar->regions; r; r = r->next) {
		r->range.base = addr + r->offset;
		if (bus_add(dev->dev.bus, &r->range)) {
			if (!(u32)(addr + bar->size))
				continue; /* all ones: somebody asks for the size */
			log_guest("%s: %s cannot be mapped at 0x%llx", dev->dev.id, r->range.name,
				  (unsigned long long)r->range.base);
			continue;
		}
		if (r->moved)
			r->moved(dev, r, true);
	}
}

void pci_update_bars(struct pci_device *dev)
{
	u16 command = pci_command(dev);

	for (int n = 0; n < PCI_BARS; n++) {
		struct pci_bar *bar = &dev->bar[n];
		u64 addr, limit = bar->kind == PCI_BAR_PIO ? 65536 : 1ULL << 52;
		bool want;

		if (!bar->size)
			continue;
		addr = bar_address(dev, n);
		want = command & (bar->kind == PCI_BAR_PIO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY) &&
		       addr && range_fits(addr, bar->size, limit);
		if (bar->mapped && (!want || bar->addr != addr))
			bar_unmap(dev, bar);
		if (want && !bar->mapped)
			bar_map(dev, bar, addr);
	}
	pci_update_rom(dev);
}

void pci_unmap_bars(struct pci_device *dev)
{
	for (int n = 0; n < PCI_BARS; n++)
		bar_unmap(dev, &dev->bar[n]);
}

/* ---- configuration accesses ---- */

u32 pci_config_read(struct pci_device *dev, u16 offset, unsigned int size)
{
	if (dev->config_reading)
		dev->config_reading(dev, offset, size);
	return (u32)load_le(dev->config + offset, size);
}

void pci_config_write(struct pci_device *dev, u16 offset, unsigned int size, u32 value)
{
	for (unsigned int i = 0; i < size; i++) {
		u8 *reg = &dev->config[offset + i];
		u8 byte = (u8)(value >> 8 * i), mask = dev->writable[offset + i];

		*reg = (u8)((*reg & ~mask) | (byte & mask));
		*reg &= (u8) ~(byte & dev->write_clear[offset + i]);
	}
	if (ranges_overlap(offset, size, PCI_COMMAND, 2)) {
		pci_update_bars(dev);
		pci_update_intx(dev);
	} else if (ranges_overlap(offset, size, PCI_BAR0, 4 * PCI_BARS)) {
		pci_update_bars(dev);
	} else if (ranges_overlap(offset, size, PCI_ROM_ADDRESS, 4)) {
		pci_update_rom(dev);
	} else if (dev->msix.cap && ranges_overlap(offset, size, dev->msix.cap + 2u, 2)) {
		pci_msix_control_changed(dev);
	}
	if (dev->config_written)
		dev->config_written(dev, offset, size);
}
