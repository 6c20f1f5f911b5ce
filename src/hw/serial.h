/*
 * 16550A UART (National Semiconductor PC16550D). Input waits in the back end while the receive FIFO
 * is full, so nothing is lost however much is pasted; output is taken at once, at any speed.
 */
#ifndef HW_SERIAL_H
#define HW_SERIAL_H

#include "bus/device.h"
#include "chardev/chardev.h"

#define SERIAL_PORTS 8 /* size of the range */

struct serial_config {
	u16 base;	     /* 0x3f8, 0x2f8, 0x3e8, 0x2e8 */
	u32 gsi;	     /* 4, 3, 4, 3 */
	struct chardev *chr; /* stays the caller's and outlives the device; NULL: not connected */
};

extern const struct device_class serial_class;

#endif
