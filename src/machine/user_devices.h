/* What the builders of user_devices.def are given. */
#ifndef MACHINE_USER_DEVICES_H
#define MACHINE_USER_DEVICES_H

#include "base/err.h"
#include "base/types.h"

struct machine;
struct device;
struct virtio_class;

/* When the machine is freed, call stop(object) before its devices go (may be NULL; main thread, no
 * lock held) and release(object) after them: back ends, chardevs. Last in, first out. -ENOSPC:
 * then it is still the caller's. */
int board_own(struct machine *machine, void (*stop)(void *object), void (*release)(void *object),
	      void *object);

/* A virtio device on the board's transport, called stem0, stem1 ... config is the class's own; it
 * is only read during the call. NULL with the reason. */
struct device *board_add_virtio(struct machine *machine, const struct virtio_class *class,
				const char *stem, const void *config, bool transitional,
				struct err *err);

/* Could --disk SPEC be built? Images on this host are looked at without a lock, and not changed. */
int disk_check(const char *spec, struct err *err);

/* The builders. */
#define USER_DEVICE(kind, builder)                                                                 \
	int builder(struct machine *machine, const char *spec, struct err *err);
#include "machine/user_devices.def"
#undef USER_DEVICE

#endif
