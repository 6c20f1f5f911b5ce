/*
 * Virtio devices: Virtio 1.3. A device is one const struct virtio_class in its own file and one
 * line in devices.def. It sees queues, feature bits and configuration bytes, and never PCI, MMIO,
 * ports or interrupts; those are the transports' (pci.c, mmio.c), which make the device:
 *
 *	struct virtio_pci_config c = {.class = &virtio_rng, .config = &rng_config};
 *	device_new(bus, &virtio_pci_class, "rng0", &c, err);
 *
 * Threads. Each queue has one owner, the thread that runs its loop:
 *  - no loop (NULL): the main loop, always with the bus lock held. Everything in the class is
 *    serialised then, and the device needs no locks.
 *  - a loop of the device's or the back end's: its thread, without the bus lock, which it must
 *    never take. queue_stop() is called on that thread, everything else of the class with the bus
 *    lock on another.
 *
 * Life of a queue, with who moves it (core.c):
 *
 *   idle --[queue enabled, DRIVER_OK]--> live --[reset, queue reset, NEEDS_RESET]--> idle
 *
 * kick() comes only while it is live; queue_stop() once at the end, and must not return before
 * every chain that was popped has been pushed or forgotten, and no back end touches its memory.
 */
#ifndef VIRTIO_VIRTIO_H
#define VIRTIO_VIRTIO_H

#include <pthread.h>

#include "bus/device.h"
#include "os/loop.h"
#include "virtio/virtq.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTIO_MAX_CONFIG 256
#define VIRTIO_F(n)	  (1ULL << (n))

struct virtio_device;

struct virtio_queue {
	struct virtq vq;
	struct virtio_device *dev;
	u16 index;
	struct loop *loop; /* NULL: the main loop, with the bus lock */
	bool enabled;	   /* by the driver */
	bool live;	   /* atomic; written with the bus lock held */
	u16 vector;	   /* the transport's */
	int kick_fd;	   /* whatever is written to it wakes the owner */
	struct loop_watch watch;
	struct loop_work signal_work; /* on the main loop: an interrupt that takes the bus lock */
	struct loop_work stop_work;   /* on the owner's */
	bool stopping;		      /* from the posting of stop_work to its end; dev->stop_lock */
	struct bus *bus;
};

struct virtio_class {
	const char *name;    /* "blk" */
	const char *summary; /* one line for help */
	u16 id;		     /* section 5 */
	u32 pci_class;	     /* 24 bits, for the PCI transport */
	size_t size;	     /* of the instance, whose first member is struct virtio_device */
	u64 in_order;	     /* VIRTIO_F_IN_ORDER where requests complete in order by nature */
	/* Offer features, add queues, set the configuration bytes. On failure stop() and free()
	 * follow, which must stand a half-made instance (zeroed before). */
	int (*init)(struct virtio_device *dev, const void *config, struct err *err);
	/* Start what threads the device has; after init, when all queues exist. May be NULL. */
	int (*ready)(struct virtio_device *dev, struct err *err);
	/* Requests are available, or may be. Owner's thread. */
	void (*kick)(struct virtio_queue *queue);
	/* FEATURES_OK: dev->features is the driver's choice; false refuses it. May be NULL, as all
	 * below. */
	bool (*features_set)(struct virtio_device *dev);
	/* A queue became live, or stopped being (see above; owner's thread). */
	void (*queue_start)(struct virtio_queue *queue);
	void (*queue_stop)(struct virtio_queue *queue);
	/* The queues rest or go on (pause, bus mastering), or interrupt by another route: for who
	 * has handed the rings on. With the bus lock. */
	void (*rings_changed)(struct virtio_device *dev);
	/* Before the driver reads configuration bytes: bring dev->config up to date. */
	void (*config_reading)(struct virtio_device *dev);
	/* The driver wrote [offset, offset + size) and wants it to be `value`; without this hook
	 * writes are ignored. */
	void (*config_write)(struct virtio_device *dev, u32 offset, unsigned int size, u64 value);
	/* After every queue has stopped. */
	void (*reset)(struct virtio_device *dev);
	/* Device paused or going on: own timers and back ends. Queues are paused by the core. */
	void (*pause)(struct virtio_device *dev);
	void (*resume)(struct virtio_device *dev);
	/* Stop the device's threads and timers: no callback comes afterwards, nothing is in flight.
	 * Then, when its queues are gone, release the rest. Both stand a half-made instance. */
	void (*stop)(struct virtio_device *dev);
	void (*free)(struct virtio_device *dev);
	void (*stats)(struct virtio_device *dev,
		      void (*line)(void *ctx, const char *name, u64 value), void *ctx);
	const struct state_desc *state; /* of what the device adds */
};

/* How the device reaches the driver; core.c calls it. */
struct virtio_transport {
	/* Used buffers. With the bus lock. */
	void (*signal)(struct virtio_device *dev, struct virtio_queue *queue);
	/* The configuration or the status changed. With the bus lock. */
	void (*config_changed)(struct virtio_device *dev);
};

struct virtio_device {
	const struct virtio_class *class;
	struct bus *bus;
	struct guest_mem *mem;
	const char *id; /* for logs: the name of the device on the bus */
	const struct virtio_transport *transport;
	void *transport_ctx;

	u64 offered;   /* feature bits */
	u64 features;  /* the driver's choice */
	u8 status;     /* atomic: NEEDS_RESET comes from any thread */
	u8 generation; /* of the configuration */
	u8 config[VIRTIO_MAX_CONFIG];
	u8 config_seen[VIRTIO_MAX_CONFIG]; /* as the driver last found it */
	u32 config_size;

	unsigned int nqueues;
	struct virtio_queue *queue; /* VIRTIO_MAX_QUEUES, allocated */
	bool legacy;		    /* the transport allows drivers from before 1.0 */
	bool features_set;	    /* features are final */
	bool paused, no_dma;
	bool resetting; /* somebody waits for queues to stop; written with both locks */
	pthread_mutex_t stop_lock;
	pthread_cond_t stop_over;
	struct loop_work broken_work;
};

/* ---- for devices ---- */

/* In init(): offer feature bits, and add the next queue, of up to max_size entries with request
 * slots of slot_size bytes, owned by loop's thread. 0 or -ENOMEM, -ENOSPC. */
static inline void virtio_offer(struct virtio_device *dev, u64 features)
{
	dev->offered |= features;
}
int virtio_add_queue(struct virtio_device *dev, u16 max_size, size_t slot_size, struct loop *loop,
		     struct err *err);

static inline bool virtio_has(const struct virtio_device *dev, unsigned int feature)
{
	return dev->features >> feature & 1;
}

/* The driver speaks 1.0 or later. */
static inline bool virtio_is_modern(const struct virtio_device *dev)
{
	return virtio_has(dev, 32);
}

static inline bool virtio_queue_is_live(const struct virtio_queue *queue)
{
	return __atomic_load_n(&queue->live, __ATOMIC_ACQUIRE);
}

/* dev->config changed: tell the driver. With the bus lock. */
void virtio_config_changed(struct virtio_device *dev);

/* The device cannot go on (section 2.1.2): log, NEEDS_RESET. Any thread. */
void virtio_device_broken(struct virtio_device *dev, const char *why);

/* Make the owner look at the queue again soon. Any thread. */
void virtio_queue_poke(struct virtio_queue *queue);

/* ---- for transports ---- */

/* Make and init a device; *out is set even on failure, for the two calls that end it. */
int virtio_device_new(struct virtio_device **out, const struct virtio_class *class, struct bus *bus,
		      const char *id, const void *config, const struct virtio_transport *transport,
		      void *transport_ctx, struct err *err);
/* Stop its threads: nothing signals any more. NULL is ignored, by both. */
void virtio_device_stop(struct virtio_device *dev);
void virtio_device_free(struct virtio_device *dev);

/* With the bus lock, all of these. Where queues are stopped (status 0, queue reset, device reset)
 * they wait for requests in flight, with the lock let go; whoever gets at the device meanwhile sees
 * the old status, and what it changes there has no effect. */
void virtio_set_status(struct virtio_device *dev, u8 status);
static inline u8 virtio_get_status(const struct virtio_device *dev)
{
	return __atomic_load_n(&dev->status, __ATOMIC_ACQUIRE);
}
/* A doorbell that was written all the same: the queue of this number, if there is one, is poked. */
void virtio_notify(struct virtio_device *dev, u32 index);
/* Doorbells of all queues come or go. The first one is `bell`, the next ones are `stride` bytes
 * further on each; where `bell` wants a value to match, it is the queue's number. */
void virtio_set_doorbells(struct virtio_device *dev, struct bus_doorbell bell, u32 stride, bool on);
/* 32 bits of the feature words; select beyond 1 reads 0 and writes nothing. */
u32 virtio_get_features(const struct virtio_device *dev, u32 select);
void virtio_set_features(struct virtio_device *dev, u32 select, u32 value);
/* Features of a legacy driver, which has no FEATURES_OK, are final when it starts to use queues. */
void virtio_settle_features(struct virtio_device *dev);
/* Bytes past the end read as zero. size 1, 2, 4 or 8. */
u64 virtio_config_read(struct virtio_device *dev, u32 offset, unsigned int size);
void virtio_config_write(struct virtio_device *dev, u32 offset, unsigned int size, u64 value);

/* The queue, or NULL past the last one. */
struct virtio_queue *virtio_queue_at(struct virtio_device *dev, u32 index);
/* The driver may change size and addresses: it is not enabled (section 4.1.4.3). */
bool virtio_queue_is_open(const struct virtio_queue *queue);
/* What the driver wants as its size; what is more than there is, or no power of two on split rings
 * (4.1.4.3.1), is ignored. */
void virtio_queue_set_size(struct virtio_queue *queue, u32 size);
void virtio_queue_enable(struct virtio_queue *queue);
/* RING_RESET (section 2.6.1), and a legacy driver that takes its queue away. */
void virtio_queue_reset(struct virtio_queue *queue);
/* Its reset goes on (queue_reset reads 1). */
bool virtio_queue_is_stopping(struct virtio_queue *queue);
/* From now on interrupt by this route (NULL: the transport's signal()). */
void virtio_queue_set_irq(struct virtio_queue *queue, const struct irq_route *route);

/* As the calls of the same name in struct device_class. */
void virtio_device_reset(struct virtio_device *dev);
void virtio_device_pause(struct virtio_device *dev);
bool virtio_device_drained(struct virtio_device *dev);
void virtio_device_resume(struct virtio_device *dev);
/* May the device reach memory (PCI bus mastering)? While not, queues rest. */
void virtio_device_set_dma(struct virtio_device *dev, bool on);
void virtio_device_stats(struct virtio_device *dev,
			 void (*line)(void *ctx, const char *name, u64 value), void *ctx);

/* Interrupts that wait for the main loop are raised now: before the device is saved. */
void virtio_device_signal_pending(struct virtio_device *dev);

/* What is saved of any device, as a field of the transport's own state. */
struct virtio_saved {
	u64 features;
	u8 status, generation;
	struct virtio_saved_queue {
		struct virtq_saved vq;
		u16 vector;
		bool enabled;
	} queue[VIRTIO_MAX_QUEUES];
	u32 device_len; /* of class->state, encoded */
	u8 device[8192];
};
extern const struct state_desc virtio_saved_state;
int virtio_device_save(struct virtio_device *dev, struct virtio_saved *saved);
/* On a device that has just been reset. -EINVAL with the reason. */
int virtio_device_load(struct virtio_device *dev, const struct virtio_saved *saved,
		       struct err *err);

/* ---- the list ---- */

const struct virtio_class *virtio_class_lookup(const char *name);

#define VIRTIO(class) extern const struct virtio_class class;
#include "virtio/devices.def"
#undef VIRTIO

#endif
