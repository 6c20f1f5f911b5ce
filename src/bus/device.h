/*
 * A device: one const struct device_class in its own file, one line in a devices.def list.
 *
 * Life, with who moves it (bus/device.c checks the order):
 *
 *   new --init--> READY --start--> RUNNING --pause--> PAUSING --(drained)--> PAUSED
 *                   ^                 ^                                        |
 *                   |                 +----------------resume-----------------+
 *                   +--reset: in READY, RUNNING or PAUSED; the state does not change
 *   any --free--> gone
 *
 * The machine calls them on the main thread with the bus lock held, before, between or after the
 * vCPUs run.
 */
#ifndef BUS_DEVICE_H
#define BUS_DEVICE_H

#include "base/err.h"
#include "base/list.h"
#include "base/opt.h"
#include "bus/bus.h"
#include "state/state.h"

struct device;

struct device_class {
	const char *name;    /* "serial", "virtio-blk" */
	const char *summary; /* one line for help */
	size_t size;	     /* of the instance, whose first member is struct device */
	/* Claim ranges and lines; config is the class's own structure. On failure what was claimed
	 * is given back by free(), which must stand a half-made instance (zeroed before init). */
	int (*init)(struct device *dev, const void *config, struct err *err);
	void (*reset)(struct device *dev);   /* as after power-on; also called once after init */
	void (*start)(struct device *dev);   /* may be NULL, as the next four */
	void (*pause)(struct device *dev);   /* take no new work */
	bool (*drained)(struct device *dev); /* no request in flight */
	void (*resume)(struct device *dev);
	void (*free)(struct device *dev);
	/* Lines for --stats: name and value. */
	void (*stats)(struct device *dev, void (*line)(void *ctx, const char *name, u64 value),
		      void *ctx);
	const struct state_desc
		*state; /* required: a description, STATE_NONE or ..._UNMIGRATABLE */
};

enum device_phase { DEVICE_READY, DEVICE_RUNNING, DEVICE_PAUSING, DEVICE_PAUSED };

struct device {
	const struct device_class *class;
	struct bus *bus;
	char id[32]; /* unique in the machine: "serial0" */
	enum device_phase phase;
	struct list link; /* in the bus's list, in order of creation */
};

/* Make an instance, init and reset it, and put it on the bus. NULL with the reason. */
struct device *device_new(struct bus *bus, const struct device_class *class, const char *id,
			  const void *config, struct err *err);
void device_free(struct device *dev);

/* The instance called id, or NULL. */
struct device *device_lookup(struct bus *bus, const char *id);

/* All devices, in order of creation (free: reverse). */
void devices_start(struct bus *bus);
void devices_reset(struct bus *bus);
void devices_pause(struct bus *bus);
bool devices_drained(struct bus *bus);
void devices_resume(struct bus *bus);
void devices_free(struct bus *bus);
void devices_for_each(struct bus *bus, void (*fn)(void *ctx, struct device *dev), void *ctx);

#endif
