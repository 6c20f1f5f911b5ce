/* The host bridge: configuration mechanism 1 (PCI 3.0, 3.2.2.3.2), ECAM, INTx joining. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "bus/pci_int.h"

#define CONFIG_ADDRESS	      0xcf8
#define CONFIG_DATA	      0xcfc
#define CONFIG_ADDRESS_ENABLE 0x80000000u

static struct pci_device *function_at(struct pci_host *host, u32 bus_number, u32 devfn)
{
	return bus_number ? NULL : host->slot[devfn & 0xff];
}

/* An access may not cross the end of the space; a master abort reads as all ones. */
static u64 config_read(struct pci_device *dev, u32 offset, unsigned int size, u32 limit)
{
	if (!dev || size > 4 || offset + size > limit)
		return ~0ULL;
	return pci_config_read(dev, (u16)offset, size);
}

static void config_write(struct pci_device *dev, u32 offset, unsigned int size, u64 value,
			 u32 limit)
{
	if (dev && size <= 4 && offset + size <= limit)
		pci_config_write(dev, (u16)offset, size, (u32)value);
}

/* CONFIG_ADDRESS is a register of 32 bits; narrower accesses pass it by. */
static u64 address_read(void *ctx, u64 offset, unsigned int size)
{
	struct pci_host *host = ctx;

	return size == 4 && !offset ? host->address : ~0ULL;
}

static void address_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct pci_host *host = ctx;

	if (size == 4 && !offset)
		host->address = (u32)value & ~3u;
}

static const struct bus_ops address_ops = {address_read, address_write};

static struct pci_device *addressed(struct pci_host *host)
{
	if (!(host->address & CONFIG_ADDRESS_ENABLE))
		return NULL;
	return function_at(host, host->address >> 16 & 0xff, host->address >> 8 & 0xff);
}

static u64 data_read(void *ctx, u64 offset, unsigned int size)
{
	struct pci_host *host = ctx;

	return config_read(addressed(host), (host->address & 0xfc) + (u32)offset, size, 256);
}

static void data_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct pci_host *host = ctx;

	config_write(addressed(host), (host->address & 0xfc) + (u32)offset, size, value, 256);
}

static const struct bus_ops data_ops = {data_read, data_write};

static u64 ecam_read(void *ctx, u64 offset, unsigned int size)
{
	struct pci_device *dev = function_at(ctx, (u32)(offset >> 20), offset >> 12 & 0xff);

	if (size == 8)
		return config_read(dev, offset & 0xfff, 4, PCI_CONFIG_SIZE) |
		       config_read(dev, (offset & 0xfff) + 4, 4, PCI_CONFIG_SIZE) << 32;
	return config_read(dev, offset & 0xfff, size, PCI_CONFIG_SIZE);
}

static void ecam_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct pci_device *dev = function_at(ctx, (u32)(offset >> 20), offset >> 12 & 0xff);

	config_write(dev, offset & 0xfff, min(size, 4u), value, PCI_CONFIG_SIZE);
	if (size == 8)
		config_write(dev, (offset & 0xfff) + 4, 4, value >> 32, PCI_CONFIG_SIZE);
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};

/* ---- the bridge's own function ---- */

/* 82441FX data sheet (290549), 3.2.16: what is read and written from 0xc0000 on is RAM. The
 * registers stay so; the 64 KiB below 1 MiB have one of their own. */
#define PAM0	      0x59
#define PAM0_RAM      0x30
#define PAM_RAM	      0x33
#define PAM_REGISTERS 7

static int bridge_init(struct device *dev, const void *config, struct err *err)
{
	static const struct pci_ident generic = {
		.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000};
	static const struct pci_ident intel = {
		.vendor = 0x8086, .device = 0x1237, .revision = 2, .class_code = 0x060000};
	struct pci_device *self = container_of(dev, struct pci_device, dev);
	const struct pci_host_config *c = config;
	int rc;

	if (c->bridge == PCI_BRIDGE_GENERIC)
		return pci_device_init(self, &generic, 0, err);
	rc = pci_device_init(self, &intel, 0, err);
	if (rc)
		return rc;
	memset(self->config + PAM0, PAM_RAM, PAM_REGISTERS);
	self->config[PAM0] = PAM0_RAM;
	return 0;
}

static void bridge_reset(struct device *dev)
{
	pci_device_reset(container_of(dev, struct pci_device, dev));
}

static void bridge_free(struct device *dev)
{
	pci_device_release(container_of(dev, struct pci_device, dev));
}

static const struct state_field bridge_fields[] = {
	STATE_BUFFER(struct pci_device, config),
	STATE_END,
};
static const struct state_desc bridge_state = {
	.name = "pci-host", .version = 1, .fields = bridge_fields};

static const struct device_class bridge_class = {
	.name = "pci-host",
	.summary = "PCI host bridge",
	.size = sizeof(struct pci_device),
	.init = bridge_init,
	.reset = bridge_reset,
	.free = bridge_free,
	.state = &bridge_state,
};

/* ---- the host ---- */

static int claim_ranges(struct pci_host *host, struct err *err)
{
	struct bus *bus = host->bus;

	host->address_range = (struct bus_range){.name = "pci-config-address",
						 .space = BUS_PIO,
						 .base = CONFIG_ADDRESS,
						 .size = 1,
						 .ops = &address_ops,
						 .ctx = host};
	host->data_range = (struct bus_range){.name = "pci-config-data",
					      .space = BUS_PIO,
					      .base = CONFIG_DATA,
					      .size = 4,
					      .ops = &data_ops,
					      .ctx = host};
	if (bus_add(bus, &host->address_range) || bus_add(bus, &host->data_range))
		return err_set(err, EEXIST, "pci: ports 0xcf8 to 0xcff are taken");
	if (!host->config.ecam_base)
		return 0;
	host->ecam_range = (struct bus_range){.name = "pci-ecam",
					      .space = BUS_MMIO,
					      .base = host->config.ecam_base,
					      .size = (u64)host->config.ecam_buses << 20,
					      .ops = &ecam_ops,
					      .ctx = host};
	if (bus_add(bus, &host->ecam_range))
		return err_set(err, EEXIST, "pci: the ECAM window overlaps something");
	return 0;
}

struct pci_host *pci_host_new(struct bus *bus, const struct pci_host_config *config,
			      struct err *err)
{
	struct pci_host *host = calloc(1, sizeof(*host));
	struct device *self;

	if (!host) {
		err_set(err, ENOMEM, "pci: out of memory");
		return NULL;
	}
	host->bus = bus;
	host->config = *config;
	for (int i = 0; i < 4; i++)
		irq_line_init(&host->intx[i], bus, config->intx_gsi[i]);
	if (claim_ranges(host, err))
		goto fail;
	bus_set_pci(bus, host);
	self = device_new(bus, &bridge_class, "pci-host", &host->config, err);
	if (!self)
		goto fail;
	return host;
fail:
	pci_host_free(host);
	return NULL;
}

void pci_host_free(struct pci_host *host)
{
	if (!host)
		return;
	bus_remove(host->bus, &host->address_range);
	bus_remove(host->bus, &host->data_range);
	bus_remove(host->bus, &host->ecam_range);
	if (bus_pci(host->bus) == host)
		bus_set_pci(host->bus, NULL);
	free(host);
}

const struct pci_host_config *pci_host_config(const struct pci_host *host)
{
	return &host->config;
}

void pci_for_each(struct pci_host *host, void (*fn)(void *ctx, struct pci_device *dev), void *ctx)
{
	for (int i = 0; i < 256; i++)
		if (host->slot[i])
			fn(ctx, host->slot[i]);
}

void pci_host_reset(struct pci_host *host)
{
	host->address = 0;
	for (int i = 0; i < 256; i++)
		if (host->slot[i])
			pci_device_reset(host->slot[i]);
}

/* ---- INTx ---- */

void pci_update_intx(struct pci_device *dev)
{
	struct pci_host *host = dev->host;
	u8 pin = dev->config[PCI_INTERRUPT_PIN];
	bool wanted = dev->config[PCI_STATUS] & PCI_STATUS_INTERRUPT &&
		      !(pci_command(dev) & PCI_COMMAND_INTX_DISABLE);
	u32 pirq;

	if (!pin || wanted == dev->intx_level)
		return;
	pirq = ((u32)(dev->devfn >> 3) + pin - 1) % 4;
	dev->intx_level = wanted;
	host->intx_count[pirq] += wanted ? 1 : -1u;
	irq_set(&host->intx[pirq], host->intx_count[pirq] > 0);
}

void pci_set_intx(struct pci_device *dev, bool level)
{
	if (level)
		dev->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		dev->config[PCI_STATUS] &= (u8)~PCI_STATUS_INTERRUPT;
	pci_update_intx(dev);
}

/* ---- placing BARs for boots without firmware ---- */

struct window {
	u64 next, end;
};

static bool place(struct window *w, u64 size, u64 *addr)
{
	u64 at = (w->next + size - 1) & ~(size - 1);

	if (at < w->next || at > w->end || size > w->end - at)
		return false;
	*addr = at;
	w->next = at + size;
	return true;
}

static void store_bar(struct pci_device *dev, int n, u64 addr)
{
	u8 *reg = dev->config + PCI_BAR0 + 4 * n;
	u32 type = load_le32(reg) & (dev->bar[n].kind == PCI_BAR_PIO ? 3 : 15);

	store_le32(reg, (u32)addr | type);
	if (dev->bar[n].kind == PCI_BAR_MMIO64)
		store_le32(reg + 4, (u32)(addr >> 32));
}

/* BARs of `size` only: called from the largest size down, so that nothing is lost to alignment. */
static bool assign_size(struct pci_host *host, u64 size, struct window *pio, struct window *low,
			struct window *high)
{
	for (int f = 0; f < 256; f++) {
		struct pci_device *dev = host->slot[f];

		for (int n = 0; dev && n < PCI_BARS; n++) {
			struct pci_bar *bar = &dev->bar[n];
			bool ok;
			u64 addr;

			if (bar->size != size)
				continue;
			if (bar->kind == PCI_BAR_PIO)
				ok = place(pio, size, &addr);
			else if (bar->kind == PCI_BAR_MMIO64 && bar->prefetchable &&
				 place(high, size, &addr))
				ok = true;
			else
				ok = place(low, size, &addr);
			if (!ok)
				return false;
			store_bar(dev, n, addr);
		}
	}
	return true;
}

int pci_host_assign(struct pci_host *host, struct err *err)
{
	const struct pci_host_config *c = &host->config;
	struct window pio = {c->pio_base, (u64)c->pio_base + c->pio_size};
	struct window low = {c->mmio32_base, c->mmio32_base + c->mmio32_size};
	struct window high = {c->mmio64_base, c->mmio64_base + c->mmio64_size};

	for (u64 size = 1ULL << 40; size >= 4; size >>= 1)
		if (!assign_size(host, size, &pio, &low, &high))
			return err_set(err, ENOSPC, "pci: no room for a device's registers");
	for (int f = 0; f < 256; f++) {
		struct pci_device *dev = host->slot[f];
		u8 pin;

		if (!dev)
			continue;
		pin = dev->config[PCI_INTERRUPT_PIN];
		if (pin)
			dev->config[PCI_INTERRUPT_LINE] =
				(u8)c->intx_gsi[((u32)(f >> 3) + pin - 1) % 4];
		pci_config_write(dev, PCI_COMMAND, 2,
				 pci_command(dev) | PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
	}
	return 0;
}
