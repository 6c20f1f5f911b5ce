/*
 * A guest driver for tests: finds a virtio device behind its real registers, negotiates, sets up
 * rings in guest RAM and passes chains, over PCI, MMIO or the old PCI registers, with split or
 * packed rings. Everything it does goes through harness_read(), harness_write() and RAM.
 */
#ifndef TESTS_DEVICE_VIRTIO_DRIVER_H
#define TESTS_DEVICE_VIRTIO_DRIVER_H

#include "device/harness.h"
#include "virtio/features.h"
#include "virtio/virtio.h"

enum driver_transport { DRIVER_PCI, DRIVER_PCI_PORTS, DRIVER_MMIO, DRIVER_LEGACY };

/* One way to drive a device; tests run over driver_modes[]. */
struct driver_mode {
	const char *name;
	enum driver_transport transport;
	bool packed, event_idx, indirect, in_order;
};
extern const struct driver_mode driver_modes[];
extern const size_t driver_mode_count;

#define DRIVER_MAX_CHAIN 40

struct driver_buf {
	u64 addr;
	u32 len;
	bool write; /* by the device */
};

struct driver_queue {
	struct driver *d;
	u16 index, size;
	u64 desc, avail, used;
	/* split */
	u16 avail_idx, used_idx;
	/* packed */
	u16 next, next_used;
	bool wrap, used_wrap;
	u16 free[1024], nfree;		      /* descriptors (split), ids (packed) */
	u16 slots[1024];		      /* packed: places of the chain with this id */
	u64 indirect[1024];		      /* table of the chain with this head */
	u16 fifo[1024], fifo_head, fifo_tail; /* ids in the order given, for IN_ORDER */
};

struct driver {
	struct harness *h;
	struct device *device;
	struct virtio_device *virtio; /* to look behind the scenes, not to drive */
	const struct driver_mode *mode;
	u64 features;
	u64 common, isr, config, notify, legacy, ports; /* addresses */
	u8 devfn;
	u64 next_page; /* the bump allocator of guest RAM */
	struct driver_queue queue[8];
};

/* RAM of 16 MiB, the device of this class on the mode's transport, BARs placed. Nothing negotiated
 * yet. */
void driver_open(struct driver *d, const struct driver_mode *mode, const struct virtio_class *class,
		 const void *config);
/* The same in two steps, for back ends that need the loop; and the other way round. */
void driver_open_bus(struct driver *d, const struct driver_mode *mode);
void driver_open_device(struct driver *d, const struct virtio_class *class, const void *config);
void driver_close_devices(struct driver *d);
void driver_close(struct driver *d);

/*
 * What a snapshot carries, RAM and the device's state, is saved from this machine, paused and
 * drained, and put into a new device on a new one, which goes on; saved again there, it is the
 * same. end() closes the back ends and, by driver_close(), the old machine; begin() opens them and
 * the new one, by driver_open_bus() and driver_open_device(). paused() (may be NULL) comes in
 * between, while the device takes nothing.
 */
struct driver_move {
	void (*paused)(void), (*end)(void), (*begin)(void);
};
void driver_move(struct driver *d, const struct driver_move *move);

/* RAM that nothing else uses, zeroed, aligned to `align` (a power of two). */
u64 driver_alloc(struct driver *d, u64 len, u64 align);
void *driver_ptr(struct driver *d, u64 addr);

/* ---- registers ---- */
u8 driver_status(struct driver *d);
void driver_set_status(struct driver *d, u8 status);
u64 driver_offered(struct driver *d);
void driver_set_features(struct driver *d, u64 features);
u64 driver_config(struct driver *d, u32 offset, unsigned int size);
void driver_set_config(struct driver *d, u32 offset, unsigned int size, u64 value);
/* Size, addresses and enable; size 0: the largest. */
void driver_setup_queue(struct driver *d, u16 index, u16 size);
void driver_enable_queue(struct driver_queue *q); /* with what q says */
u8 driver_take_isr(struct driver *d);

/* Reset to DRIVER_OK with these device features on top of the mode's, and n queues. */
void driver_start(struct driver *d, u64 features, unsigned int n);

/* ---- chains ---- */

/* Make a chain available; returns its id (-1: no room). The driver's index is not moved yet: */
int driver_add(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n);
/* Publish what was added and ring the doorbell, whatever the device asked for. */
void driver_kick(struct driver_queue *q);
/* As a driver would: only if the device wants it. True when it rang. */
bool driver_kick_if_wanted(struct driver_queue *q);
/* The next used chain: its id and length. False when there is none. */
bool driver_take(struct driver_queue *q, int *id, u32 *len);
/* The same, waiting for other threads for up to ten seconds; the test fails after that. */
u32 driver_wait(struct driver_queue *q, int id);
/* add, kick, wait; the length. */
u32 driver_do(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n);
/* Ask for an interrupt at the next used chain (true), or never. */
void driver_want_interrupts(struct driver_queue *q, bool on);

/* Run main loop turns, and let other threads run, until fn(ctx) or for ten seconds. */
bool driver_until(struct driver *d, bool (*fn)(void *ctx), void *ctx);
bool driver_needs_reset(struct driver *d); /* waits a little for it */

#endif
