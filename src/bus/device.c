#include "bus/device.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus_int.h"

struct device *device_new(struct bus *bus, const struct device_class *class, const char *id,
			  const void *config, struct err *err)
{
	struct device *dev;

	assert(class->state && class->init && class->reset && class->free);
	if (device_lookup(bus, id)) {
		err_set(err, EEXIST, "there are two devices called %s", id);
		return NULL;
	}
	dev = calloc(1, class->size);
	if (!dev) {
		err_set(err, ENOMEM, "%s: out of memory", id);
		return NULL;
	}
	dev->class = class;
	dev->bus = bus;
	snprintf(dev->id, sizeof(dev->id), "%s", id);
	list_init(&dev->link);
	if (class->init(dev, config, err)) {
		err_prefix(err, "%s", id);
		class->free(dev);
		free(dev);
		return NULL;
	}
	class->reset(dev);
	list_add_tail(&bus->devices, &dev->link);
	return dev;
}

void device_free(struct device *dev)
{
	if (!dev)
		return;
	list_del(&dev->link);
	dev->class->free(dev);
	free(dev);
}

struct device *device_lookup(struct bus *bus, const char *id)
{
	struct device *dev;

	list_for_each_entry (dev, &bus->devices, link)
		if (!strcmp(dev->id, id))
			return dev;
	return NULL;
}

void devices_start(struct bus *bus)
{
	struct device *dev;

	list_for_each_entry (dev, &bus->devices, link) {
		if (dev->phase != DEVICE_READY)
			continue;
		if (dev->class->start)
			dev->class->start(dev);
		dev->phase = DEVICE_RUNNING;
	}
}

void devices_reset(struct bus *bus)
{
	struct device *dev;

	list_for_each_entry (dev, &bus->devices, link)
		dev->class->reset(dev);
}

void devices_pause(struct bus *bus)
{
	struct device *dev;

	list_for_each_entry (dev, &bus->devices, link) {
		if (dev->phase != DEVICE_RUNNING)
			continue;
		dev->phase = DEVICE_PAUSING;
		if (dev->class->pause)
			dev->class->pause(dev);
	}
}

bool devices_drained(struct bus *bus)
{
	struct device *dev;
	bool all = true;

	list_for_each_entry (dev, &bus->devices, link) {
		if (dev->phase != DEVICE_PAUSING)
			continue;
		if (!dev->class->drained || dev->class->drained(dev))
			dev->phase = DEVICE_PAUSED;
		else
			all = false;
	}
	return all;
}

void devices_resume(struct bus *bus)
{
	struct device *dev;

	list_for_each_entry (dev, &bus->devices, link) {
		if (dev->phase != DEVICE_PAUSING && dev->phase != DEVICE_PAUSED)
			continue;
		if (dev->class->resume)
			dev->class->resume(dev);
		dev->phase = DEVICE_RUNNING;
	}
}

void devices_free(struct bus *bus)
{
	while (!list_empty(&bus->devices))
		device_free(list_entry(bus->devices.prev, struct device, link));
}

void devices_for_each(struct bus *bus, void (*fn)(void *ctx, struct device *dev), void *ctx)
{
	struct device *dev, *tmp;

	list_for_each_entry_safe (dev, tmp, &bus->devices, link)
		fn(ctx, dev);
}
