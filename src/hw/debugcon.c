#include "hw/debugcon.h"

#include <errno.h>

#include "base/endian.h"

#define SIGN 0xe9

struct debugcon {
	struct device dev;
	struct bus_range range;
	struct chardev *chr;
};

static u64 debugcon_read(void *ctx, u64 offset, unsigned int size)
{
	return SIGN;
}

/* A wider write carries as many characters. */
static void debugcon_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct debugcon *d = ctx;
	u8 text[8];

	store_le64(text, value);
	chardev_write(d->chr, text, size);
}

static void debugcon_write_block(void *ctx, u64 offset, unsigned int size, const void *data,
				 u32 count)
{
	struct debugcon *d = ctx;

	chardev_write(d->chr, data, (size_t)size * count);
}

static const struct bus_ops debugcon_ops = {
	.read = debugcon_read,
	.write = debugcon_write,
	.write_block = debugcon_write_block,
};

static int debugcon_init(struct device *dev, const void *config, struct err *err)
{
	struct debugcon *d = container_of(dev, struct debugcon, dev);
	const struct debugcon_config *c = config;

	d->chr = c->chr;
	d->range = (struct bus_range){
		.name = "debugcon",
		.space = BUS_PIO,
		.base = c->port ? c->port : DEBUGCON_PORT,
		.size = 1,
		.ops = &debugcon_ops,
		.ctx = d,
	};
	if (bus_add(dev->bus, &d->range))
		return err_set(err, EEXIST, "port 0x%llx is taken",
			       (unsigned long long)d->range.base);
	return 0;
}

static void debugcon_reset(struct device *dev)
{
}

static void debugcon_free(struct device *dev)
{
	bus_remove(dev->bus, &container_of(dev, struct debugcon, dev)->range);
}

const struct device_class debugcon_class = {
	.name = "debugcon",
	.summary = "port whose bytes go to a character device",
	.size = sizeof(struct debugcon),
	.init = debugcon_init,
	.reset = debugcon_reset,
	.free = debugcon_free,
	.state = STATE_NONE,
};
