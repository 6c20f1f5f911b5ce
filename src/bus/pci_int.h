/* PCI from inside: the host bridge's state, shared by pci_*.c. */
#ifndef PCI_INT_H
#define PCI_INT_H

#include "bus/pci.h"

#define PCI_VENDOR_ID	   0x00
#define PCI_COMMAND	   0x04
#define PCI_STATUS	   0x06
#define PCI_CLASS_REVISION 0x08
#define PCI_HEADER_TYPE	   0x0e
#define PCI_BAR0	   0x10
#define PCI_SUBSYSTEM	   0x2c
#define PCI_ROM_ADDRESS	   0x30
#define PCI_CAP_POINTER	   0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN  0x3d
#define PCI_FIRST_CAP	   0x40

#define PCI_COMMAND_IO		 0x001
#define PCI_COMMAND_MEMORY	 0x002
#define PCI_COMMAND_MASTER	 0x004
#define PCI_COMMAND_INTX_DISABLE 0x400
#define PCI_STATUS_INTERRUPT	 0x08
#define PCI_STATUS_CAP_LIST	 0x10

struct pci_host {
	struct bus *bus;
	struct pci_host_config config;
	struct pci_device *slot[256]; /* by devfn, bus 0 */
	struct pci_device *self;      /* function 00:00.0 */
	u32 address;		      /* CONFIG_ADDRESS, port 0xcf8 */
	struct bus_range address_range, data_range, ecam_range;
	struct irq_line intx[4];
	u32 intx_count[4]; /* functions asserting each PIRQ */
};

/* Configuration space access of one function; offset + size <= PCI_CONFIG_SIZE. */
u32 pci_config_read(struct pci_device *dev, u16 offset, unsigned int size);
void pci_config_write(struct pci_device *dev, u16 offset, unsigned int size, u32 value);

/* Apply COMMAND and the BAR registers to the bus. */
void pci_update_bars(struct pci_device *dev);
void pci_unmap_bars(struct pci_device *dev);
/* The same for the expansion ROM. */
void pci_update_rom(struct pci_device *dev);
void pci_release_rom(struct pci_device *dev);
/* Has the masked vector's eventfd been signalled? Takes the signal. */
bool pci_msix_collected(struct pci_device *dev, unsigned int n);
/* MSI-X after its control word changed. */
void pci_msix_control_changed(struct pci_device *dev);
void pci_msix_release(struct pci_device *dev);
/* Recompute the function's part of its INTx line. */
void pci_update_intx(struct pci_device *dev);

static inline u16 pci_command(const struct pci_device *dev)
{
	return (u16)(dev->config[PCI_COMMAND] | dev->config[PCI_COMMAND + 1] << 8);
}

#endif
