/* --rng: an entropy device. */
#include "base/opt.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/rng.h"

extern const struct virtio_class virtio_rng;

static const struct opt rng_table[] = {
	{.name = "rate",
	 .type = OPT_SIZE,
	 .offset = offsetof(struct virtio_rng_options, max_bytes_per_second),
	 .arg = "SIZE",
	 .help = "most bytes a second (0: no limit)"},
	OPT_END,
};

int build_rng(struct machine *m, const char *spec, struct err *err)
{
	struct virtio_rng_options options = {0};
	int rc = opt_parse_list(rng_table, &options, spec ? spec : "", "rate", err);

	if (rc)
		return rc;
	return board_add_virtio(m, &virtio_rng, "rng", &options, false, err) ? 0 : -1;
}
