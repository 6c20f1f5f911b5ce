/* --balloon: memory that the guest can give back. */
#include <errno.h>

#include "base/opt.h"
#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/balloon.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

extern const struct virtio_class virtio_balloon;

static const struct opt balloon_table[] = {
	{"deflate-on-oom", OPT_BOOL, offsetof(struct virtio_balloon_options, deflate_on_oom), NULL,
	 "the guest takes memory back rather than kill programs"},
	OPT_END,
};

int build_balloon(struct machine *m, const char *spec, struct err *err)
{
	struct virtio_balloon_options options = {0};
	int rc;

	if (m->balloon)
		return err_set(err, EINVAL, "a machine has one balloon");
	rc = opt_parse_list(balloon_table, &options, spec, NULL, err);
	if (rc)
		return rc;
	m->balloon = board_add_virtio(m, &virtio_balloon, "balloon", &options, false, err);
	return m->balloon ? 0 : -EIO;
}

static struct virtio_device *balloon_device(struct machine *m)
{
	if (m->board == BOARD_PC)
		return virtio_pci_device(m->balloon);
	return virtio_mmio_device(m->balloon);
}

int machine_set_balloon(struct machine *m, u64 memory)
{
	if (!m->balloon)
		return -ENODEV;
	if (memory > m->layout.memory)
		return -EINVAL;
	bus_lock(m->bus);
	virtio_balloon_set_target(balloon_device(m), m->layout.memory - memory);
	bus_unlock(m->bus);
	return 0;
}

u64 machine_balloon_memory(struct machine *m)
{
	u64 given;

	if (!m->balloon)
		return m->layout.memory;
	bus_lock(m->bus);
	given = virtio_balloon_actual(balloon_device(m));
	bus_unlock(m->bus);
	return m->layout.memory - min(given, m->layout.memory);
}
