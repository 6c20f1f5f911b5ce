/* What the builders of user_devices.def are given. */
#ifndef MACHINE_USER_DEVICES_H
#define MACHINE_USER_DEVICES_H

#include "base/err.h"

struct machine;

/* Release object when the machine is freed, after its devices: back ends, chardevs. Last in,
 * first out. -ENOSPC: then it is still the caller's. */
int board_own(struct machine *machine, void (*release)(void *object), void *object);

#endif
