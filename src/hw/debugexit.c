#include "hw/debugexit.h"

#include <errno.h>

struct debugexit {
	struct device dev;
	struct bus_range range;
};

static u64 debugexit_read(void *ctx, u64 offset, unsigned int size)
{
	return 0;
}

static void debugexit_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct debugexit *d = ctx;

	bus_request(d->dev.bus, BUS_EXIT, (int)((u32)value << 1 | 1));
}

static const struct bus_ops debugexit_ops = {debugexit_read, debugexit_write};

static int debugexit_init(struct device *dev, const void *config, struct err *err)
{
	struct debugexit *d = container_of(dev, struct debugexit, dev);
	const struct debugexit_config *c = config;

	d->range = (struct bus_range){
		.name = "debug-exit",
		.space = BUS_PIO,
		.base = c && c->port ? c->port : DEBUGEXIT_PORT,
		.size = 1,
		.ops = &debugexit_ops,
		.ctx = d,
	};
	if (bus_add(dev->bus, &d->range))
		return err_set(err, EEXIST, "port 0x%llx is taken",
			       (unsigned long long)d->range.base);
	return 0;
}

static void debugexit_reset(struct device *dev)
{
}

static void debugexit_free(struct device *dev)
{
	bus_remove(dev->bus, &container_of(dev, struct debugexit, dev)->range);
}

const struct device_class debugexit_class = {
	.name = "debug-exit",
	.summary = "port that ends the run with a status",
	.size = sizeof(struct debugexit),
	.init = debugexit_init,
	.reset = debugexit_reset,
	.free = debugexit_free,
	.state = STATE_NONE,
};
