/* pvpanic (docs/specs/pvpanic of QEMU): the guest's kernel reports that it panicked, or that its
 * crash kernel took over. */
#ifndef HW_PVPANIC_H
#define HW_PVPANIC_H

#include "bus/device.h"

#define PVPANIC_PORT 0x505

/* What reading the port offers, and the value of BUS_PANIC. */
enum { PVPANIC_PANICKED = 1 << 0, PVPANIC_CRASHLOADED = 1 << 1 };

struct pvpanic_config {
	u16 port; /* 0: PVPANIC_PORT */
};

extern const struct device_class pvpanic_class;

#endif
