/* --vsock: sockets between guest and host, without a network. */
#include <errno.h>

#include "base/opt.h"
#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/vsock.h"

extern const struct virtio_class virtio_vsock;

struct vsock {
	char *path;
	u64 cid;
};

static const struct opt vsock_table[] = {
	{"path", OPT_STRING, offsetof(struct vsock, path), "PATH", "the UNIX socket to make"},
	{"cid", OPT_U64, offsetof(struct vsock, cid), "N", "the guest's context id (3)",
	 .dflt = "3", .min = 3, .max = 0xfffffffe},
	OPT_END,
};

int build_vsock(struct machine *m, const char *spec, struct err *err)
{
	struct vsock v = {0};
	int rc = opt_defaults(vsock_table, &v, err);

	if (!rc)
		rc = opt_parse_list(vsock_table, &v, spec, "path", err);
	if (!rc && !v.path)
		rc = err_set(err, EINVAL, "no path is named");
	if (!rc) {
		const struct virtio_vsock_options options = {.path = v.path, .guest_cid = v.cid};

		if (!board_add_virtio(m, &virtio_vsock, "vsock", &options, false, err))
			rc = -EIO;
	}
	opt_free(vsock_table, &v);
	return rc;
}
