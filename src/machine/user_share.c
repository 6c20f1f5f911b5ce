/* --share: a folder of the host in the guest, by 9P. */
#include <errno.h>
#include <string.h>

#include "base/opt.h"
#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/p9.h"

extern const struct virtio_class virtio_9p;

struct share {
	char *dir, *tag;
	bool readonly;
};

static const struct opt share_table[] = {
	{"dir", OPT_STRING, offsetof(struct share, dir), "DIR", "the folder"},
	{"tag", OPT_STRING, offsetof(struct share, tag), "NAME",
	 "what the guest mounts: mount -t 9p -o trans=virtio NAME /mnt"},
	{"ro", OPT_BOOL, offsetof(struct share, readonly), NULL, "refuse changes"},
	OPT_END,
};

int build_share(struct machine *m, const char *spec, struct err *err)
{
	struct share s = {0};
	int rc = opt_parse_list(share_table, &s, spec, "dir", err);

	if (!rc && !s.dir)
		rc = err_set(err, EINVAL, "no folder is named");
	if (!rc) {
		const struct virtio_p9_options options = {
			.path = s.dir, .tag = s.tag ? s.tag : "host", .readonly = s.readonly};

		if (!board_add_virtio(m, &virtio_9p, "share", &options, false, err))
			rc = -EIO;
	}
	opt_free(share_table, &s);
	return rc;
}
