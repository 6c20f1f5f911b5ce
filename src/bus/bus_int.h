/* The bus from inside: shared by the files of this folder only. */
#ifndef BUS_INT_H
#define BUS_INT_H

#include <linux/kvm.h>

#include "bus/bus.h"
#include "os/lock.h"

#define BUS_MAX_RANGES	1024
#define BUS_MAX_SLOTS	256
#define BUS_IOAPIC_PINS 24
#define BUS_MAX_ROUTES	2048 /* MSI routes */

struct bus_slot {
	gpa_t gpa;
	u64 size;
	void *hva;
	u32 flags;
	bool used;
};

struct irq_table {
	struct kvm_irq_routing *routing; /* what KVM_SET_GSI_ROUTING takes */
	u32 capacity;
	u64 msi_used[BUS_MAX_ROUTES / 64];
	u64 line_count[BUS_IOAPIC_PINS];
	u64 msi_count;
};

struct bus {
	struct lock lock;
	const struct engine_vm *vm;
	struct guest_mem *mem;
	struct loop *loop;
	struct pci_host *pci;
	/* ranges: mmio sorted by base; pio by port through an index of the whole space */
	struct bus_range *mmio[BUS_MAX_RANGES];
	u32 mmio_count, mmio_hint;
	struct bus_range *pio[BUS_MAX_RANGES];
	u32 pio_count;
	u16 *pio_index; /* [65536]: 1 + position in pio[], 0 none */
	u64 unclaimed[2];
	struct kvm_coalesced_mmio_ring *ring;
	u32 coalesced_ranges;
	struct bus_timer drain_timer;
	struct bus_slot slots[BUS_MAX_SLOTS];
	struct irq_table irq;
	struct list devices;
	void (*request)(void *ctx, enum bus_event event, int value);
	void *request_ctx;
};

int irq_table_init(struct bus *bus);
void irq_table_free(struct bus *bus);

#endif
