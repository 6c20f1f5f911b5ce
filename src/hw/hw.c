#include "hw/hw.h"

#include <string.h>

#define DEVICE(id) extern const struct device_class id;
#include "hw/devices.def"
#undef DEVICE

const struct device_class *const hw_classes[] = {
#define DEVICE(id) &id,
#include "hw/devices.def"
#undef DEVICE
	NULL,
};

const struct device_class *hw_lookup(const char *name)
{
	for (size_t i = 0; hw_classes[i]; i++)
		if (!strcmp(hw_classes[i]->name, name))
			return hw_classes[i];
	return NULL;
}
