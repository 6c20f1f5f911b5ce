/*
 * What all virtio devices share: features, status, configuration bytes, and the life of queues.
 *
 * Invariants:
 * 1. queue->live becomes true after virtq_start(), with the bus lock held, and false on the owner's
 *    thread; so an owner that saw it true may work until its callback returns.
 * 2. Owners of queues with a loop never take the bus lock, so a thread that holds it may wait for
 *    them. It does where they only have to come by; for requests in flight, which may take as long
 *    as a disk likes, it lets the lock go (stop_queues()). Meanwhile `resetting` keeps every
 *    other change of the device away, and its status reads as before.
 * 3. size and addresses of a queue do not change from enable to reset (section 4.1.4.3.2).
 * 4. features do not change once features_set, until reset.
 */
#include "virtio/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "os/event.h"
#include "os/file.h"
#include "virtio/features.h"

static const struct virtio_class *const classes[] = {
#define VIRTIO(class) &class,
#include "virtio/devices.def"
#undef VIRTIO
};

const struct virtio_class *virtio_class_lookup(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		if (!strcmp(classes[i]->name, name))
			return classes[i];
	return NULL;
}

/* ---- the owner of a queue ---- */

struct call {
	struct loop_work work;
	void (*fn)(struct virtio_queue *queue);
	struct virtio_queue *queue;
	sem_t done;
};

static void run_call(struct loop_work *work)
{
	struct call *call = container_of(work, struct call, work);

	call->fn(call->queue);
	sem_post(&call->done);
}

/* Run fn on the queue's thread and wait for it. The bus lock is held. */
static void owner_call(struct virtio_queue *queue, void (*fn)(struct virtio_queue *queue))
{
	struct call call = {.work.fn = run_call, .fn = fn, .queue = queue};

	if (!queue->loop) {
		fn(queue);
		return;
	}
	sem_init(&call.done, 0, 0);
	loop_post(queue->loop, &call.work);
	while (sem_wait(&call.done))
		; /* EINTR: the kick signal */
	sem_destroy(&call.done);
}

static void kicked_locked(struct virtio_queue *queue)
{
	bus_lock(queue->bus);
	if (virtio_queue_is_live(queue))
		queue->dev->class->kick(queue);
	bus_unlock(queue->bus);
}

static void virtq_kicked(struct loop_watch *watch, u32 events)
{
	struct virtio_queue *queue = container_of(watch, struct virtio_queue, watch);

	event_clear(watch->fd);
	if (!virtio_queue_is_live(queue))
		return;
	__atomic_store_n(&queue->vq.kicks, queue->vq.kicks + 1, __ATOMIC_RELAXED);
	if (queue->loop)
		queue->dev->class->kick(queue);
	else
		kicked_locked(queue);
}

void virtio_queue_poke(struct virtio_queue *queue)
{
	event_signal(queue->kick_fd);
}

void virtio_notify(struct virtio_device *dev, u32 index)
{
	struct virtio_queue *queue = virtio_queue_at(dev, index);

	if (queue)
		virtio_queue_poke(queue);
}

void virtio_set_doorbells(struct virtio_device *dev, struct bus_doorbell bell, u32 stride, bool on)
{
	for (unsigned int i = 0; i < dev->nqueues; i++, bell.addr += stride) {
		bell.fd = dev->queue[i].kick_fd;
		bell.value = bell.match ? i : 0;
		if (on)
			bus_doorbell_add(dev->bus, &bell);
		else
			bus_doorbell_del(dev->bus, &bell);
	}
}

/* ---- interrupts and errors of a queue ---- */

static void signal_work(struct loop_work *work)
{
	struct virtio_queue *queue = container_of(work, struct virtio_queue, signal_work);

	bus_lock(queue->bus);
	if (virtio_queue_is_live(queue))
		queue->dev->transport->signal(queue->dev, queue);
	bus_unlock(queue->bus);
}

static void queue_signal(void *ctx)
{
	struct virtio_queue *queue = ctx;

	if (queue->loop)
		loop_post(bus_loop(queue->bus), &queue->signal_work);
	else
		queue->dev->transport->signal(queue->dev, queue);
}

static void queue_broken(void *ctx, const char *why)
{
	struct virtio_queue *queue = ctx;
	char text[96];

	snprintf(text, sizeof(text), "queue %u: %s", queue->index, why);
	virtio_device_broken(queue->dev, text);
}

static const struct virtq_ops queue_ops = {.signal = queue_signal, .broken = queue_broken};

static void broken_work(struct loop_work *work)
{
	struct virtio_device *dev = container_of(work, struct virtio_device, broken_work);

	bus_lock(dev->bus);
	if (virtio_get_status(dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		dev->transport->config_changed(dev);
	bus_unlock(dev->bus);
}

void virtio_device_broken(struct virtio_device *dev, const char *why)
{
	log_guest("%s: the guest must reset the device: %s", dev->id, why);
	__atomic_fetch_or(&dev->status, VIRTIO_CONFIG_S_NEEDS_RESET, __ATOMIC_ACQ_REL);
	/* 2.1.2: told only after DRIVER_OK. */
	if (virtio_get_status(dev) & VIRTIO_CONFIG_S_DRIVER_OK)
		loop_post(bus_loop(dev->bus), &dev->broken_work);
}

void virtio_device_signal_pending(struct virtio_device *dev)
{
	for (unsigned int i = 0; i < dev->nqueues; i++) {
		struct virtio_queue *queue = &dev->queue[i];

		if (!__atomic_load_n(&queue->signal_work.pending, __ATOMIC_ACQUIRE))
			continue;
		loop_cancel(bus_loop(dev->bus), &queue->signal_work);
		dev->transport->signal(dev, queue);
	}
}

void virtio_queue_set_irq(struct virtio_queue *queue, const struct irq_route *route)
{
	bool changed = queue->vq.irq != route;

	__atomic_store_n(&queue->vq.irq, route, __ATOMIC_RELEASE);
	if (changed && queue->live && queue->dev->class->rings_changed)
		queue->dev->class->rings_changed(queue->dev);
}

/* ---- queues ---- */

static void stop_work(struct loop_work *work);

int virtio_add_queue(struct virtio_device *dev, u16 max_size, size_t slot_size, struct loop *loop,
		     struct err *err)
{
	struct virtio_queue *queue = &dev->queue[dev->nqueues];
	int rc;

	if (dev->nqueues == VIRTIO_MAX_QUEUES)
		return err_set(err, ENOSPC, "%s: more than %d queues", dev->id, VIRTIO_MAX_QUEUES);
	*queue = (struct virtio_queue){
		.dev = dev,
		.bus = dev->bus,
		.index = (u16)dev->nqueues,
		.loop = loop == bus_loop(dev->bus) ? NULL : loop,
		.kick_fd = event_new(),
		.signal_work.fn = signal_work,
		.stop_work.fn = stop_work,
	};
	if (queue->kick_fd < 0)
		return err_set(err, -queue->kick_fd, "%s: %s", dev->id, strerror(-queue->kick_fd));
	dev->nqueues++; /* from here on free() cleans up */
	rc = virtq_init(&queue->vq, dev->mem, max_size, slot_size, &queue_ops, queue);
	if (rc)
		return err_set(err, -rc, "%s: no memory for a queue", dev->id);
	queue->watch = (struct loop_watch){.fd = queue->kick_fd, .fn = virtq_kicked};
	rc = loop_watch_add(loop ? loop : bus_loop(dev->bus), &queue->watch, EPOLLIN);
	return rc ? err_set(err, -rc, "%s: %s", dev->id, strerror(-rc)) : 0;
}

static void queue_free(struct virtio_queue *queue)
{
	loop_watch_del(&queue->watch);
	loop_cancel(bus_loop(queue->bus), &queue->signal_work);
	virtq_release(&queue->vq);
	fd_close(&queue->kick_fd);
}

struct virtio_queue *virtio_queue_at(struct virtio_device *dev, u32 index)
{
	return index < dev->nqueues ? &dev->queue[index] : NULL;
}

bool virtio_queue_is_open(const struct virtio_queue *queue)
{
	return !queue->enabled;
}

static u32 queue_mode(const struct virtio_device *dev)
{
	u32 mode = 0;

	if (virtio_has(dev, VIRTIO_F_RING_PACKED))
		mode |= VIRTQ_PACKED;
	if (virtio_has(dev, VIRTIO_F_EVENT_IDX))
		mode |= VIRTQ_EVENT_IDX;
	if (virtio_has(dev, VIRTIO_F_INDIRECT_DESC))
		mode |= VIRTQ_INDIRECT;
	if (virtio_has(dev, VIRTIO_F_IN_ORDER))
		mode |= VIRTQ_IN_ORDER;
	return mode;
}

/* Legacy drivers may use a queue from the moment they have set it up (section 3.1.2). */
static bool may_go_live(const struct virtio_device *dev)
{
	u8 status = virtio_get_status(dev);

	if (status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return false;
	return status & VIRTIO_CONFIG_S_DRIVER_OK ||
	       (dev->legacy && !virtio_is_modern(dev) && dev->features_set);
}

static void queue_go_live(struct virtio_queue *queue)
{
	struct virtio_device *dev = queue->dev;
	int rc;

	if (!queue->enabled || queue->live || !may_go_live(dev))
		return;
	rc = virtq_start(&queue->vq, queue_mode(dev));
	if (rc) {
		char text[96];

		snprintf(text, sizeof(text), "queue %u: its rings are not %s", queue->index,
			 rc == -EFAULT ? "in RAM" : "of a legal size");
		virtio_device_broken(dev, text);
		return;
	}
	if (dev->class->queue_start)
		dev->class->queue_start(queue);
	__atomic_store_n(&queue->live, true, __ATOMIC_RELEASE);
	virtio_queue_poke(queue);
}

/* ---- stopping ---- */

static void stop_on_owner(struct virtio_queue *queue)
{
	__atomic_store_n(&queue->live, false, __ATOMIC_RELEASE);
	if (queue->dev->class->queue_stop)
		queue->dev->class->queue_stop(queue);
	virtq_stop(&queue->vq);
}

static void stop_work(struct loop_work *work)
{
	struct virtio_queue *queue = container_of(work, struct virtio_queue, stop_work);
	struct virtio_device *dev = queue->dev;

	stop_on_owner(queue);
	pthread_mutex_lock(&dev->stop_lock);
	queue->stopping = false;
	pthread_cond_broadcast(&dev->stop_over);
	pthread_mutex_unlock(&dev->stop_lock);
}

/* With the bus lock. A queue that is being stopped already goes on being stopped. */
static void stop_begin(struct virtio_queue *queue)
{
	bool begin;

	if (!queue->loop) {
		if (queue->live)
			stop_on_owner(queue);
		return;
	}
	pthread_mutex_lock(&queue->dev->stop_lock);
	begin = virtio_queue_is_live(queue) && !queue->stopping;
	queue->stopping |= begin;
	pthread_mutex_unlock(&queue->dev->stop_lock);
	if (begin)
		loop_post(queue->loop, &queue->stop_work);
}

static bool any_stopping(const struct virtio_device *dev)
{
	for (unsigned int i = 0; i < dev->nqueues; i++)
		if (dev->queue[i].stopping)
			return true;
	return false;
}

static bool is_resetting(const struct virtio_device *dev)
{
	return dev->resetting;
}

/* While the condition holds, sleep, without the bus lock, which is held before and after. */
static void wait_while(struct virtio_device *dev, bool (*condition)(const struct virtio_device *))
{
	bool waiting;

	pthread_mutex_lock(&dev->stop_lock);
	waiting = condition(dev);
	pthread_mutex_unlock(&dev->stop_lock);
	if (!waiting)
		return;
	bus_unlock(dev->bus);
	pthread_mutex_lock(&dev->stop_lock);
	while (condition(dev))
		pthread_cond_wait(&dev->stop_over, &dev->stop_lock);
	pthread_mutex_unlock(&dev->stop_lock);
	bus_lock(dev->bus);
}

static void set_resetting(struct virtio_device *dev, bool on)
{
	pthread_mutex_lock(&dev->stop_lock);
	dev->resetting = on;
	pthread_cond_broadcast(&dev->stop_over);
	pthread_mutex_unlock(&dev->stop_lock);
}

/* Stop n queues from `queue` on. Two resets at a time come one after the other. */
static void stop_queues(struct virtio_device *dev, struct virtio_queue *queue, unsigned int n)
{
	while (dev->resetting)
		wait_while(dev, is_resetting);
	set_resetting(dev, true);
	for (unsigned int i = 0; i < n; i++)
		stop_begin(&queue[i]);
	wait_while(dev, any_stopping);
	set_resetting(dev, false);
}

static void queue_to_reset_values(struct virtio_queue *queue)
{
	queue->enabled = false;
	virtq_reset(&queue->vq);
}

void virtio_settle_features(struct virtio_device *dev)
{
	if (!dev->legacy || dev->features_set || virtio_is_modern(dev))
		return;
	dev->features_set = true;
	if (dev->class->features_set)
		dev->class->features_set(dev);
}

void virtio_queue_enable(struct virtio_queue *queue)
{
	if (queue->enabled || queue->dev->resetting)
		return;
	virtio_settle_features(queue->dev);
	queue->enabled = true;
	queue_go_live(queue);
}

void virtio_queue_set_size(struct virtio_queue *queue, u32 size)
{
	bool packed = virtio_has(queue->dev, VIRTIO_F_RING_PACKED);

	if (size && size <= queue->vq.max_size && (packed || is_power_of_2(size)))
		queue->vq.size = (u16)size;
}

bool virtio_queue_is_stopping(struct virtio_queue *queue)
{
	bool stopping;

	pthread_mutex_lock(&queue->dev->stop_lock);
	stopping = queue->stopping;
	pthread_mutex_unlock(&queue->dev->stop_lock);
	return stopping;
}

void virtio_queue_reset(struct virtio_queue *queue)
{
	stop_queues(queue->dev, queue, 1);
	queue_to_reset_values(queue);
}

/* ---- features and status ---- */

u32 virtio_get_features(const struct virtio_device *dev, u32 select)
{
	return select < 2 ? (u32)(dev->offered >> (32 * select)) : 0;
}

void virtio_set_features(struct virtio_device *dev, u32 select, u32 value)
{
	u64 mask = select < 2 ? 0xffffffffULL << (32 * select) : 0;

	if (!dev->features_set)
		dev->features =
			(dev->features & ~mask) | ((u64)value << (32 * (select & 1)) & mask);
}

static bool accept_features(struct virtio_device *dev)
{
	if (dev->features & ~dev->offered || !virtio_is_modern(dev))
		return false;
	if (dev->class->features_set && !dev->class->features_set(dev))
		return false;
	dev->features_set = true;
	return true;
}

void virtio_set_status(struct virtio_device *dev, u8 status)
{
	u8 old = virtio_get_status(dev), added = status & (u8)~old;

	if (!status) {
		virtio_device_reset(dev);
		return;
	}
	if (dev->resetting)
		return;
	added &= (u8)~VIRTIO_CONFIG_S_NEEDS_RESET;
	if (added & VIRTIO_CONFIG_S_FEATURES_OK && !accept_features(dev))
		added &= (u8)~VIRTIO_CONFIG_S_FEATURES_OK;
	if (added & VIRTIO_CONFIG_S_DRIVER_OK) {
		virtio_settle_features(dev);
		if (!dev->features_set)
			added &= (u8)~VIRTIO_CONFIG_S_DRIVER_OK;
	}
	__atomic_fetch_or(&dev->status, added, __ATOMIC_ACQ_REL);
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		for (unsigned int i = 0; i < dev->nqueues; i++)
			queue_go_live(&dev->queue[i]);
}

/* ---- configuration bytes ---- */

u64 virtio_config_read(struct virtio_device *dev, u32 offset, unsigned int size)
{
	u8 bytes[8] = {0};

	if (dev->class->config_reading)
		dev->class->config_reading(dev);
	/* 4.1.4.3.1: changed when the driver reads what has changed, however often it did. */
	if (memcmp(dev->config_seen, dev->config, dev->config_size)) {
		memcpy(dev->config_seen, dev->config, dev->config_size);
		dev->generation++;
	}
	if (offset < dev->config_size)
		memcpy(bytes, dev->config + offset, min((u32)size, dev->config_size - offset));
	return load_le(bytes, size);
}

void virtio_config_write(struct virtio_device *dev, u32 offset, unsigned int size, u64 value)
{
	if (dev->class->config_write && range_fits(offset, size, dev->config_size))
		dev->class->config_write(dev, offset, size, value);
}

void virtio_config_changed(struct virtio_device *dev)
{
	if (virtio_get_status(dev) & VIRTIO_CONFIG_S_DRIVER_OK)
		dev->transport->config_changed(dev);
}

/* ---- life ---- */

int virtio_device_new(struct virtio_device **out, const struct virtio_class *class, struct bus *bus,
		      const char *id, const void *config, const struct virtio_transport *transport,
		      void *transport_ctx, struct err *err)
{
	struct virtio_device *dev = calloc(1, class->size);
	int rc;

	*out = dev;
	if (!dev)
		return err_set(err, ENOMEM, "%s: no memory", id);
	dev->class = class;
	dev->bus = bus;
	dev->mem = bus_mem(bus);
	dev->id = id;
	dev->transport = transport;
	dev->transport_ctx = transport_ctx;
	dev->broken_work.fn = broken_work;
	pthread_mutex_init(&dev->stop_lock, NULL);
	pthread_cond_init(&dev->stop_over, NULL);
	dev->offered = VIRTIO_COMMON_FEATURES | class->in_order;
	dev->queue = calloc(VIRTIO_MAX_QUEUES, sizeof(*dev->queue));
	if (!dev->queue)
		return err_set(err, ENOMEM, "%s: no memory", id);
	rc = class->init(dev, config, err);
	if (!rc && class->ready)
		rc = class->ready(dev, err);
	return rc;
}

void virtio_device_stop(struct virtio_device *dev)
{
	if (dev && dev->class->stop)
		dev->class->stop(dev);
}

void virtio_device_free(struct virtio_device *dev)
{
	if (!dev)
		return;
	for (unsigned int i = 0; dev->queue && i < dev->nqueues; i++)
		queue_free(&dev->queue[i]);
	loop_cancel(bus_loop(dev->bus), &dev->broken_work);
	if (dev->class->free)
		dev->class->free(dev);
	pthread_cond_destroy(&dev->stop_over);
	pthread_mutex_destroy(&dev->stop_lock);
	free(dev->queue);
	free(dev);
}

void virtio_device_reset(struct virtio_device *dev)
{
	stop_queues(dev, dev->queue, dev->nqueues);
	for (unsigned int i = 0; i < dev->nqueues; i++)
		queue_to_reset_values(&dev->queue[i]);
	loop_cancel(bus_loop(dev->bus), &dev->broken_work);
	if (dev->class->reset)
		dev->class->reset(dev);
	dev->features = 0;
	dev->features_set = false;
	__atomic_store_n(&dev->status, 0, __ATOMIC_RELEASE);
}

static void nothing(struct virtio_queue *queue)
{
	(void)queue;
}

/* Owners pop only while the device is neither paused nor cut off from memory. */
static void update_stopped(struct virtio_device *dev)
{
	bool stopped = dev->paused || dev->no_dma;

	for (unsigned int i = 0; i < dev->nqueues; i++) {
		struct virtio_queue *queue = &dev->queue[i];

		if (queue->vq.stopped == stopped)
			continue;
		__atomic_store_n(&queue->vq.stopped, stopped, __ATOMIC_RELEASE);
		if (!stopped)
			virtio_queue_poke(queue);
		else if (virtio_queue_is_live(queue) && !dev->resetting)
			owner_call(queue, nothing); /* now that it was here, it pops no more */
	}
	if (dev->class->rings_changed)
		dev->class->rings_changed(dev);
}

void virtio_device_set_dma(struct virtio_device *dev, bool on)
{
	dev->no_dma = !on;
	update_stopped(dev);
}

void virtio_device_pause(struct virtio_device *dev)
{
	dev->paused = true;
	if (dev->class->pause)
		dev->class->pause(dev);
	update_stopped(dev);
}

bool virtio_device_drained(struct virtio_device *dev)
{
	for (unsigned int i = 0; i < dev->nqueues; i++)
		if (virtq_inuse(&dev->queue[i].vq))
			return false;
	return true;
}

void virtio_device_resume(struct virtio_device *dev)
{
	dev->paused = false;
	update_stopped(dev);
	if (dev->class->resume)
		dev->class->resume(dev);
}

void virtio_device_stats(struct virtio_device *dev,
			 void (*line)(void *ctx, const char *name, u64 value), void *ctx)
{
	for (unsigned int i = 0; i < dev->nqueues; i++) {
		const struct virtq *vq = &dev->queue[i].vq;
		char name[32];

		snprintf(name, sizeof(name), "queue%u_kicks", i);
		line(ctx, name, __atomic_load_n(&vq->kicks, __ATOMIC_RELAXED));
		snprintf(name, sizeof(name), "queue%u_requests", i);
		line(ctx, name, __atomic_load_n(&vq->requests, __ATOMIC_RELAXED));
		snprintf(name, sizeof(name), "queue%u_interrupts", i);
		line(ctx, name, __atomic_load_n(&vq->signals, __ATOMIC_RELAXED));
	}
	if (dev->class->stats)
		dev->class->stats(dev, line, ctx);
}
