/*
 * Keyboard controller (Intel 8042 as in the IBM PS/2) with a keyboard and a wheel mouse, the A20
 * and reset outputs, and port 0x92 ("fast A20 and reset"). Keys come through hw/input.h.
 */
#ifndef HW_I8042_H
#define HW_I8042_H

#include "bus/device.h"

#define I8042_DATA    0x60
#define I8042_COMMAND 0x64
#define I8042_PORT92  0x92
#define I8042_KBD_GSI 1
#define I8042_AUX_GSI 12

struct i8042_config {
	bool no_mouse; /* no device at the second port */
};

extern const struct device_class i8042_class;

#endif
