/* --console: virtio console ports. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/opt.h"
#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/console.h"

extern const struct virtio_class virtio_console;

struct console {
	char *where, *name;
};

static const struct opt console_table[] = {
	{"where", OPT_STRING, offsetof(struct console, where), "WHERE",
	 "pty, null, file:PATH, pipe:PATH, socket:PATH or fd:N"},
	{"name", OPT_STRING, offsetof(struct console, name), "NAME",
	 "the port's name in the guest, below /dev/virtio-ports"},
	OPT_END,
};

static void release_chardev(void *object)
{
	chardev_flush(object, 500);
	chardev_close(object);
}

int build_console(struct machine *m, const char *spec, struct err *err)
{
	struct virtio_console_options options = {.nports = 1};
	struct console c = {0};
	struct chardev *chr;
	int rc = opt_parse_list(console_table, &c, spec, "where", err);

	if (!rc)
		rc = chardev_open(&chr, m->loop, c.where ? c.where : "pty", err);
	if (rc)
		goto out;
	if (board_own(m, NULL, release_chardev, chr)) {
		chardev_close(chr);
		rc = err_set(err, ENOSPC, "too many devices");
		goto out;
	}
	options.port[0] = (struct virtio_console_port_options){chr, c.name, true};
	if (!board_add_virtio(m, &virtio_console, "console", &options, false, err))
		rc = -EIO;
out:
	opt_free(console_table, &c);
	return rc;
}
