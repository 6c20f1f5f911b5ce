/*
 * The south bridge by which firmware knows a PC: the ISA bridge of Intel's PIIX3 (82371SB) and the
 * power management function of the PIIX4 (82371AB), with the registers that SeaBIOS and OVMF read.
 * What they stand for is elsewhere: interrupt lines are fixed (bus/pci.h), power management is
 * hw/pm.h. Boards that boot without firmware do without them.
 */
#ifndef HW_PIIX_H
#define HW_PIIX_H

#include "bus/device.h"

/* Functions of one device, beside each other. */
#define PIIX_ISA_DEVFN (1 << 3 | 0)
#define PIIX_PM_DEVFN  (1 << 3 | 3)

struct piix_pm_config {
	u16 base; /* of the ports of hw/pm.h, which do not move; 0: PM_BASE */
};

extern const struct device_class piix_isa_class; /* no configuration */
extern const struct device_class piix_pm_class;

#endif
