/* Debug exit: a write of `value` ends the run with status (value << 1) | 1. */
#ifndef HW_DEBUGEXIT_H
#define HW_DEBUGEXIT_H

#include "bus/device.h"

#define DEBUGEXIT_PORT 0xf4

struct debugexit_config {
	u16 port; /* 0: DEBUGEXIT_PORT */
};

extern const struct device_class debugexit_class;

#endif
