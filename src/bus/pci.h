/*
 * PCI: the host bridge with configuration mechanism 1 and ECAM, functions, BARs, capabilities,
 * INTx and MSI-X. PCI Local Bus 3.0; PCI Express Base 3.0 section 7.2 (ECAM).
 *
 * A PCI device's instance starts with struct pci_device (whose first member is struct device); its
 * init() calls pci_device_init() first and its free() pci_device_release() last.
 */
#ifndef BUS_PCI_H
#define BUS_PCI_H

#include "bus/device.h"
#include "bus/irq.h"

#define PCI_CONFIG_SIZE 4096
#define PCI_BARS	6
#define PCI_MSIX_MAX	64

struct pci_host;
struct pci_device;

/* What the bridge's own function says it is. Firmware goes by it. */
enum pci_bridge {
	PCI_BRIDGE_GENERIC, /* the generic PCIe host bridge, which has no registers */
	PCI_BRIDGE_82441,   /* Intel 82441FX; its PAM registers say that there is RAM below 1 MiB */
};

struct pci_host_config {
	enum pci_bridge bridge;
	u64 ecam_base; /* 0: mechanism 1 only */
	u32 ecam_buses;
	u64 mmio32_base, mmio32_size; /* where BARs may be placed */
	u64 mmio64_base, mmio64_size;
	u16 pio_base, pio_size;
	u32 intx_gsi[4]; /* the GSIs of PIRQ A to D: INTx of slot s pin p is (s + p) % 4 */
};

/* The bridge with its ports 0xcf8/0xcfc and ECAM window; device 00:00.0 is its own function. */
struct pci_host *pci_host_new(struct bus *bus, const struct pci_host_config *config,
			      struct err *err);
void pci_host_free(struct pci_host *host);
const struct pci_host_config *pci_host_config(const struct pci_host *host);
/* Give every BAR of every function an address and enable decoding: for boots without firmware. */
int pci_host_assign(struct pci_host *host, struct err *err);
/* Every function back to its reset state (BARs unmapped, command 0). Then pci_host_assign(). */
void pci_host_reset(struct pci_host *host);
/* Call fn for each function, in order of device number. */
void pci_for_each(struct pci_host *host, void (*fn)(void *ctx, struct pci_device *dev), void *ctx);

struct pci_ident {
	u16 vendor, device, subsystem_vendor, subsystem;
	u8 revision;
	u32 class_code;	  /* 24 bits: base class, sub-class, interface */
	u8 interrupt_pin; /* 0 none, 1 INTA# */
};

enum pci_bar_kind { PCI_BAR_PIO, PCI_BAR_MMIO32, PCI_BAR_MMIO64 };

/*
 * A part of a BAR with its own class: a BAR may mix trapped and coalesced registers. offset and
 * range.size are the device's; base is set when the guest maps the BAR.
 */
struct pci_region {
	struct bus_range range;
	u64 offset;
	/* Called after the region got a new address (mapped) and before it loses it; may be NULL.
	 * Where doorbells and RAM slots follow the BAR. */
	void (*moved)(struct pci_device *dev, struct pci_region *region, bool mapped);
	struct pci_region *next;
};

struct pci_bar {
	enum pci_bar_kind kind;
	u64 size; /* a power of two; 0: none */
	bool prefetchable;
	u64 addr; /* where it is mapped now */
	bool mapped;
	struct pci_region *regions;
};

struct pci_msix_vector {
	u64 addr;
	u32 data, control; /* control bit 0: masked */
	bool pending;
	struct irq_route route;
};

struct pci_device {
	struct device dev; /* first */
	struct pci_host *host;
	u8 devfn; /* device number << 3 | function */
	u8 config[PCI_CONFIG_SIZE];
	u8 writable[PCI_CONFIG_SIZE];	 /* bits the guest may change */
	u8 write_clear[PCI_CONFIG_SIZE]; /* bits the guest clears by writing 1 */
	struct pci_bar bar[PCI_BARS];
	struct {
		struct bus_range range;
		u8 *data;
		u32 size; /* of data; the range is the next power of two */
	} rom;
	u16 cap_end; /* first free byte of the capability area */
	bool intx_level;
	struct {
		u16 cap; /* offset of the capability, 0: none */
		u16 count;
		struct pci_msix_vector *vector;
		struct pci_region table, pba;
	} msix;
	/* What pci_device_state saves. */
	struct {
		u8 config[256];
		struct pci_saved_vector {
			u64 addr;
			u32 data, control;
			bool pending;
		} vector[PCI_MSIX_MAX];
	} saved;
	/* Called after a configuration write has been applied; may be NULL. */
	void (*config_written)(struct pci_device *dev, u16 offset, unsigned int size);
	/* Called before a configuration read; may be NULL (the virtio PCI_CFG window needs it). */
	void (*config_reading)(struct pci_device *dev, u16 offset, unsigned int size);
};

/* Put the function on the bus at the next free device number (devfn < 0) or at devfn. */
int pci_device_init(struct pci_device *dev, const struct pci_ident *ident, int devfn,
		    struct err *err);
/* Unmap everything, free MSI-X. Stands a device whose init never ran or failed. */
void pci_device_release(struct pci_device *dev);
/* Command, BARs, MSI-X enable back to reset values; called by the device's reset(). */
void pci_device_reset(struct pci_device *dev);

/* Declare BAR n (PCI_BAR_MMIO64 takes n and n + 1). Then add regions; gaps read as zero. */
void pci_bar_init(struct pci_device *dev, int n, enum pci_bar_kind kind, u64 size,
		  bool prefetchable);
/* region->range: name, class, size, ops, ctx filled by the caller. */
void pci_bar_add(struct pci_device *dev, int n, struct pci_region *region, u64 offset);

/*
 * Give the function an expansion ROM (PCI 3.0, section 6.3): a copy of data, which firmware finds
 * at configuration register 0x30. A ROM for another device of the same vendor is relabelled:
 * network boot ROMs serve a family of cards and are labelled for one. Before the machine runs.
 * -EINVAL for what is no such ROM, -EFBIG past 16 MiB, -ENOMEM.
 */
int pci_set_rom(struct pci_device *dev, const void *data, size_t size, struct err *err);

/* Reserve len bytes (id and next pointer included) for a capability; its offset, or 0 when full.
 * The caller fills config[] and writable[] from offset + 2 on. */
u16 pci_add_capability(struct pci_device *dev, u8 id, u8 len);

/* The configuration space and MSI-X, as the first field of a device's own state. Loading maps the
 * BARs where they were; what the guest could not have written is not taken from the file. */
extern const struct state_desc pci_device_state;

/* ---- INTx: level, joined with the other functions on the same GSI ---- */
void pci_set_intx(struct pci_device *dev, bool level);

/* ---- MSI-X ---- */
/* count vectors, table at offset of BAR `bar` (declared before, big enough: 16 * count bytes, then
 * the pending bits at pba_offset). */
int pci_msix_init(struct pci_device *dev, unsigned int count, int bar, u64 offset, u64 pba_offset,
		  struct err *err);
bool pci_msix_enabled(const struct pci_device *dev);
/* Send vector n (bus lock held): masked vectors become pending. */
void pci_msix_send(struct pci_device *dev, unsigned int n);
/* A route that any thread may signal to send vector n without the lock: it follows masking and
 * reprogramming. NULL when out of resources: use pci_msix_send(). Valid until release. */
struct irq_route *pci_msix_route(struct pci_device *dev, unsigned int n);

/* May the device master the bus? DMA must not happen while this is false. */
bool pci_bus_master(const struct pci_device *dev);

#endif
