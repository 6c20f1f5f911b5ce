/*
 * The PC's own devices. The table of all classes; each has a header of its own with its
 * configuration and what the machine may ask of it.
 */
#ifndef HW_HW_H
#define HW_HW_H

#include "bus/device.h"

/* NULL at the end. From devices.def. */
extern const struct device_class *const hw_classes[];

/* The class called name, or NULL. */
const struct device_class *hw_lookup(const char *name);

#endif
