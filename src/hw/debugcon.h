/* Debug console: bytes written to the port go to the back end; reading gives 0xe9 as a sign that it
 * is there. Bochs has it at 0xe9, SeaBIOS and OVMF write to 0x402. */
#ifndef HW_DEBUGCON_H
#define HW_DEBUGCON_H

#include "bus/device.h"
#include "chardev/chardev.h"

#define DEBUGCON_PORT	       0xe9
#define DEBUGCON_FIRMWARE_PORT 0x402

struct debugcon_config {
	u16 port;
	struct chardev *chr; /* stays the caller's and outlives the device; NULL: thrown away */
};

extern const struct device_class debugcon_class;

#endif
