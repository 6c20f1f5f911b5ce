/*
 * Devices that the user asked for: one line of user_devices.def a kind; each builder makes the back
 * end and the device from the option's text.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "net/net.h"

static const struct {
	const char *kind;
	int (*build)(struct machine *machine, const char *spec, struct err *err);
} builders[] = {
#define USER_DEVICE(kind, builder) {kind, builder},
#include "machine/user_devices.def"
#undef USER_DEVICE
	{NULL, NULL},
};

int board_add_user_device(struct machine *m, const struct machine_device *device, struct err *err)
{
	for (size_t i = 0; builders[i].kind; i++) {
		int rc;

		if (strcmp(builders[i].kind, device->kind))
			continue;
		rc = builders[i].build(m, device->spec, err);
		if (rc && device->optional) {
			log_debug("%s", err->text);
			return 0;
		}
		if (rc)
			err_prefix(err, "--%s %s", device->kind, device->spec);
		return rc;
	}
	return err_set(err, EINVAL, "--%s: this build has no such device", device->kind);
}

int machine_check_devices(const struct machine_config *c, struct err *err)
{
	for (size_t i = 0; i < c->device_count; i++) {
		const struct machine_device *d = &c->devices[i];

		int rc = 0;

		if (!strcmp(d->kind, "net") && strcmp(d->spec, "none"))
			rc = net_check(d->spec, err);
		else if (!strcmp(d->kind, "disk"))
			rc = disk_check(d->spec, err);
		if (rc) {
			err_prefix(err, "--%s %s", d->kind, d->spec);
			return -EINVAL;
		}
	}
	return 0;
}

int board_own(struct machine *m, void (*stop)(void *object), void (*release)(void *object),
	      void *object)
{
	if (m->owned_count == MACHINE_MAX_OWNED)
		return -ENOSPC;
	m->owned[m->owned_count].stop = stop;
	m->owned[m->owned_count].release = release;
	m->owned[m->owned_count++].object = object;
	return 0;
}

void board_stop_user_devices(struct machine *m)
{
	for (u32 i = m->owned_count; i > 0; i--)
		if (m->owned[i - 1].stop)
			m->owned[i - 1].stop(m->owned[i - 1].object);
}

void board_free_user_devices(struct machine *m)
{
	while (m->owned_count) {
		m->owned_count--;
		m->owned[m->owned_count].release(m->owned[m->owned_count].object);
	}
}
