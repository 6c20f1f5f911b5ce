/*
 * The registers of section 4.2.2. All queues share one doorbell register, told apart by the value
 * that is written; so NOTIFICATION_DATA, where it varies, is not offered here.
 */
#include "virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_mmio.h>

#include "bus/irq.h"
#include "virtio/features.h"

#define MAGIC	  0x74726976 /* "virt" */
#define VERSION	  2
#define VENDOR	  0x00544f42 /* "BOT" */
#define QUEUE_RST 0x0c0

struct virtio_mmio {
	struct device device; /* first */
	struct virtio_device *dev;
	struct bus_range range;
	struct irq_line line;
	u32 isr; /* atomic */
	u32 feature_select, driver_feature_select, queue_select;
	bool doorbells;
	struct virtio_saved saved;
};

static struct virtio_mmio *of_device(struct device *device)
{
	return container_of(device, struct virtio_mmio, device);
}

struct virtio_device *virtio_mmio_device(struct device *device)
{
	return of_device(device)->dev;
}

/* ---- interrupts ---- */

static void raise_line(struct virtio_mmio *vm, u32 bits)
{
	__atomic_fetch_or(&vm->isr, bits, __ATOMIC_ACQ_REL);
	irq_set(&vm->line, true);
}

static void mmio_signal(struct virtio_device *dev, struct virtio_queue *queue)
{
	raise_line(dev->transport_ctx, VIRTIO_MMIO_INT_VRING);
}

static void mmio_config_changed(struct virtio_device *dev)
{
	raise_line(dev->transport_ctx, VIRTIO_MMIO_INT_CONFIG);
}

static const struct virtio_transport transport = {
	.signal = mmio_signal,
	.config_changed = mmio_config_changed,
};

static void acknowledge(struct virtio_mmio *vm, u32 bits)
{
	u32 left = __atomic_and_fetch(&vm->isr, ~bits, __ATOMIC_ACQ_REL);

	irq_set(&vm->line, left);
}

/* ---- registers ---- */

static u32 read_register(struct virtio_mmio *vm, u64 offset)
{
	struct virtio_queue *queue = virtio_queue_at(vm->dev, vm->queue_select);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return vm->dev->class->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return virtio_get_features(vm->dev, vm->feature_select);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return queue ? queue->vq.max_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return queue && queue->enabled;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return __atomic_load_n(&vm->isr, __ATOMIC_ACQUIRE);
	case VIRTIO_MMIO_STATUS:
		return virtio_get_status(vm->dev);
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return ~0u; /* 4.2.2.1: no such region */
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return vm->dev->generation;
	case QUEUE_RST: /* by who wrote 1 it is not read before the reset is over */
		return queue && virtio_queue_is_stopping(queue);
	default:
		return 0;
	}
}

static u64 mmio_read(void *ctx, u64 offset, unsigned int size)
{
	struct virtio_mmio *vm = ctx;

	if (offset >= VIRTIO_MMIO_CONFIG)
		return virtio_config_read(vm->dev, (u32)(offset - VIRTIO_MMIO_CONFIG), size);
	return size == 4 ? read_register(vm, offset) : 0;
}

static void set_half(u64 *address, bool high, u32 value)
{
	if (high)
		*address = (u32)*address | (u64)value << 32;
	else
		*address = (*address & ~0xffffffffULL) | value;
}

/* What belongs to the selected queue, while it is not ready. */
static void write_open_queue(struct virtio_queue *queue, u64 offset, u32 value)
{
	struct virtq *vq = &queue->vq;

	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		virtio_queue_set_size(queue, value);
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		if (value == 1)
			virtio_queue_enable(queue);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&vq->desc_gpa, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&vq->avail_gpa, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&vq->used_gpa, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	default:
		break;
	}
}

static void write_queue(struct virtio_mmio *vm, u64 offset, u32 value)
{
	struct virtio_queue *queue = virtio_queue_at(vm->dev, vm->queue_select);

	if (!queue)
		return;
	if (virtio_queue_is_open(queue))
		write_open_queue(queue, offset, value);
	else if (offset == VIRTIO_MMIO_QUEUE_READY && !value)
		virtio_queue_reset(queue);
	else if (offset == QUEUE_RST && value == 1 && virtio_has(vm->dev, VIRTIO_F_RING_RESET))
		virtio_queue_reset(queue);
}

static void reset_registers(struct virtio_mmio *vm)
{
	vm->feature_select = vm->driver_feature_select = vm->queue_select = 0;
	acknowledge(vm, ~0u);
}

static void write_register(struct virtio_mmio *vm, u64 offset, u32 value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		vm->feature_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		vm->driver_feature_select = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		virtio_set_features(vm->dev, vm->driver_feature_select, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		vm->queue_select = value;
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		virtio_notify(vm->dev, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		acknowledge(vm, value);
		break;
	case VIRTIO_MMIO_STATUS:
		virtio_set_status(vm->dev, (u8)value);
		if (!(u8)value)
			reset_registers(vm);
		break;
	default:
		write_queue(vm, offset, value);
		break;
	}
}

static void mmio_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct virtio_mmio *vm = ctx;

	if (offset >= VIRTIO_MMIO_CONFIG)
		virtio_config_write(vm->dev, (u32)(offset - VIRTIO_MMIO_CONFIG), size, value);
	else if (size == 4)
		write_register(vm, offset, (u32)value);
}

static const struct bus_ops ops = {mmio_read, mmio_write};

static void set_doorbells(struct virtio_mmio *vm, bool on)
{
	const struct bus_doorbell bell = {.space = BUS_MMIO,
					  .addr = vm->range.base + VIRTIO_MMIO_QUEUE_NOTIFY,
					  .size = 4,
					  .match = true};

	virtio_set_doorbells(vm->dev, bell, 0, on);
	vm->doorbells = on;
}

/* ---- life ---- */

static const struct device_class unmigratable_class;

static int init(struct device *device, const void *config, struct err *err)
{
	const struct virtio_mmio_config *c = config;
	struct virtio_mmio *vm = of_device(device);
	int rc;

	if (c->class->state == STATE_UNMIGRATABLE)
		device->class = &unmigratable_class;
	irq_line_init(&vm->line, device->bus, c->gsi);
	rc = virtio_device_new(&vm->dev, c->class, device->bus, device->id, c->config, &transport,
			       vm, err);
	if (rc)
		return rc;
	vm->dev->offered &= ~VIRTIO_F(VIRTIO_F_NOTIF_DATA);
	vm->range = (struct bus_range){.name = "virtio-mmio",
				       .space = BUS_MMIO,
				       .base = c->base,
				       .size = VIRTIO_MMIO_SIZE,
				       .ops = &ops,
				       .ctx = vm};
	rc = bus_add(device->bus, &vm->range);
	if (rc)
		return err_set(err, -rc, "no room at 0x%llx", (unsigned long long)c->base);
	set_doorbells(vm, true);
	return 0;
}

static void reset(struct device *device)
{
	struct virtio_mmio *vm = of_device(device);

	virtio_device_reset(vm->dev);
	reset_registers(vm);
}

static void pause(struct device *device)
{
	virtio_device_pause(of_device(device)->dev);
}

static bool drained(struct device *device)
{
	return virtio_device_drained(of_device(device)->dev);
}

static void resume(struct device *device)
{
	virtio_device_resume(of_device(device)->dev);
}

static void stats(struct device *device, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	virtio_device_stats(of_device(device)->dev, line, ctx);
}

static void free_device(struct device *device)
{
	struct virtio_mmio *vm = of_device(device);

	virtio_device_stop(vm->dev);
	if (vm->doorbells)
		set_doorbells(vm, false);
	bus_remove(device->bus, &vm->range);
	irq_set(&vm->line, false);
	virtio_device_free(vm->dev);
}

/* ---- saved state ---- */

static void saving(void *object)
{
	struct virtio_mmio *vm = object;

	virtio_device_save(vm->dev, &vm->saved);
}

static int loaded(void *object, struct err *err)
{
	struct virtio_mmio *vm = object;

	irq_set(&vm->line, vm->isr);
	return virtio_device_load(vm->dev, &vm->saved, err);
}

static const struct state_field fields[] = {
	STATE_FIELD(struct virtio_mmio, isr),
	STATE_FIELD(struct virtio_mmio, feature_select),
	STATE_FIELD(struct virtio_mmio, driver_feature_select),
	STATE_FIELD(struct virtio_mmio, queue_select),
	STATE_NESTED(struct virtio_mmio, saved, virtio_saved_state),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-mmio",
	.version = 1,
	.fields = fields,
	.saving = saving,
	.loaded = loaded,
};

/* Two classes: a device that cannot be saved makes its transport one that cannot. */
#define CLASS(description)                                                                         \
	{                                                                                          \
		.name = "virtio-mmio", .summary = "paravirtual device with registers in memory",   \
		.size = sizeof(struct virtio_mmio), .init = init, .reset = reset, .pause = pause,  \
		.drained = drained, .resume = resume, .free = free_device, .stats = stats,         \
		.state = (description),                                                            \
	}

const struct device_class virtio_mmio_class = CLASS(&state);
static const struct device_class unmigratable_class = CLASS(STATE_UNMIGRATABLE);
