/*
 * Saved state of a function: the bits of configuration space that a guest can write, and the
 * MSI-X table. The rest is the device's nature and comes from its init().
 */
#include "base/endian.h"
#include "bus/pci_int.h"

#define VECTOR_MASKED 1u

static void saving(void *object)
{
	struct pci_device *dev = object;

	memset(&dev->saved, 0, sizeof(dev->saved));
	memcpy(dev->saved.config, dev->config, sizeof(dev->saved.config));
	for (u32 i = 0; i < dev->msix.count; i++) {
		const struct pci_msix_vector *v = &dev->msix.vector[i];

		dev->saved.vector[i] = (struct pci_saved_vector){
			.addr = v->addr,
			.data = v->data,
			.control = v->control,
			.pending = v->pending || pci_msix_collected(dev, i),
		};
	}
}

static int loaded(void *object, struct err *err)
{
	struct pci_device *dev = object;

	for (u32 i = 0; i < sizeof(dev->saved.config); i++) {
		u8 mask = dev->writable[i];

		dev->config[i] = (u8)((dev->config[i] & ~mask) | (dev->saved.config[i] & mask));
	}
	for (u32 i = 0; i < dev->msix.count; i++) {
		struct pci_msix_vector *v = &dev->msix.vector[i];

		v->addr = dev->saved.vector[i].addr & ~3ULL;
		v->data = dev->saved.vector[i].data;
		v->control = dev->saved.vector[i].control & VECTOR_MASKED;
		v->pending = dev->saved.vector[i].pending;
	}
	pci_update_bars(dev);
	if (dev->msix.cap)
		pci_msix_control_changed(dev);
	return 0;
}

static const struct state_field vector_fields[] = {
	STATE_FIELD(struct pci_saved_vector, addr),
	STATE_FIELD(struct pci_saved_vector, data),
	STATE_FIELD(struct pci_saved_vector, control),
	STATE_FIELD(struct pci_saved_vector, pending),
	STATE_END,
};

static const struct state_desc vector_state = {
	.name = "msix-vector",
	.version = 1,
	.fields = vector_fields,
};

static const struct state_field fields[] = {
	STATE_BUFFER(struct pci_device, saved.config),
	STATE_NESTED_ARRAY(struct pci_device, saved.vector, vector_state),
	STATE_END,
};

const struct state_desc pci_device_state = {
	.name = "pci-function",
	.version = 1,
	.fields = fields,
	.saving = saving,
	.loaded = loaded,
};
