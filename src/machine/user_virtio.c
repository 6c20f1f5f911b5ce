/* A virtio device on the board's transport: PCI where there is a PCI bus, MMIO otherwise. */
#include <errno.h>
#include <stdio.h>

#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

/* IOAPIC pins that nothing else on a board without PCI uses. */
static const u8 mmio_gsis[] = {16, 17, 18, 19, 20, 21, 22, 23, 5, 10, 11};

static struct device *add_mmio(struct machine *m, const struct virtio_class *class, const char *id,
			       const void *config, struct err *err)
{
	size_t n = m->virtio_mmio_count;
	struct virtio_mmio_config c = {.class = class, .config = config};
	struct device *dev;

	if (n == ARRAY_SIZE(mmio_gsis)) {
		err_set(err, ENOSPC, "this machine has room for %zu virtio devices",
			ARRAY_SIZE(mmio_gsis));
		return NULL;
	}
	c.base = LAYOUT_VIRTIO_BASE + n * LAYOUT_VIRTIO_STRIDE;
	c.gsi = mmio_gsis[n];
	dev = device_new(m->bus, &virtio_mmio_class, id, &c, err);
	if (!dev)
		return NULL;
	m->virtio_mmio[n] =
		(struct acpi_virtio_mmio){.base = c.base, .size = VIRTIO_MMIO_SIZE, .gsi = c.gsi};
	m->virtio_mmio_count = n + 1;
	return dev;
}

struct device *board_add_virtio(struct machine *m, const struct virtio_class *class,
				const char *stem, const void *config, bool transitional,
				struct err *err)
{
	struct virtio_pci_config c = {
		.class = class, .config = config, .transitional = transitional};
	char id[32];

	for (u32 n = 0;; n++) {
		snprintf(id, sizeof(id), "%s%u", stem, n);
		if (!device_lookup(m->bus, id))
			break;
	}
	if (m->board == BOARD_PC)
		return device_new(m->bus, &virtio_pci_class, id, &c, err);
	if (m->board == BOARD_MICRO)
		return add_mmio(m, class, id, config, err);
	err_set(err, EINVAL, "the bare machine has no bus for it; add --machine pc");
	return NULL;
}
