#include "hw/pvpanic.h"

#include <errno.h>

#include "base/log.h"

#define EVENTS (PVPANIC_PANICKED | PVPANIC_CRASHLOADED)

struct pvpanic {
	struct device dev;
	struct bus_range range;
};

static u64 pvpanic_read(void *ctx, u64 offset, unsigned int size)
{
	return EVENTS;
}

static void pvpanic_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct pvpanic *p = ctx;

	if (value & ~(u64)EVENTS)
		log_guest("pvpanic: unknown event 0x%llx", (unsigned long long)value);
	else if (value)
		bus_request(p->dev.bus, BUS_PANIC, (int)value);
}

static const struct bus_ops pvpanic_ops = {pvpanic_read, pvpanic_write};

static int pvpanic_init(struct device *dev, const void *config, struct err *err)
{
	struct pvpanic *p = container_of(dev, struct pvpanic, dev);
	const struct pvpanic_config *c = config;

	p->range = (struct bus_range){
		.name = "pvpanic",
		.space = BUS_PIO,
		.base = c && c->port ? c->port : PVPANIC_PORT,
		.size = 1,
		.ops = &pvpanic_ops,
		.ctx = p,
	};
	if (bus_add(dev->bus, &p->range))
		return err_set(err, EEXIST, "port 0x%llx is taken",
			       (unsigned long long)p->range.base);
	return 0;
}

static void pvpanic_reset(struct device *dev)
{
}

static void pvpanic_free(struct device *dev)
{
	bus_remove(dev->bus, &container_of(dev, struct pvpanic, dev)->range);
}

const struct device_class pvpanic_class = {
	.name = "pvpanic",
	.summary = "port through which the guest reports a panic",
	.size = sizeof(struct pvpanic),
	.init = pvpanic_init,
	.reset = pvpanic_reset,
	.free = pvpanic_free,
	.state = STATE_NONE,
};
