/* --disk: an image under a disk controller. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/opt.h"
#include "block/block.h"
#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "virtio/blk.h"

extern const struct virtio_class virtio_blk;

struct disk {
	struct block_options image;
	u64 queues, queue_size;
	char *serial;
	bool legacy;
};

static const struct opt disk_table[] = {
	BLOCK_OPTIONS(struct disk, image.),
	{.name = "queues",
	 .type = OPT_U64,
	 .offset = offsetof(struct disk, queues),
	 .arg = "N",
	 .min = 1,
	 .max = 32,
	 .help = "virtqueues, each with a thread (one)"},
	{.name = "queue-size",
	 .type = OPT_U64,
	 .offset = offsetof(struct disk, queue_size),
	 .arg = "N",
	 .min = 4,
	 .max = 1024,
	 .help = "requests a queue holds, a power of two (256)"},
	{.name = "serial",
	 .type = OPT_STRING,
	 .offset = offsetof(struct disk, serial),
	 .arg = "TEXT",
	 .help = "serial number, 20 bytes"},
	{.name = "transitional",
	 .type = OPT_BOOL,
	 .offset = offsetof(struct disk, legacy),
	 .help = "offer the registers from before virtio 1.0 too"},
	OPT_END,
};

static void release_block(void *object)
{
	if (block_close(object))
		log_error("a disk image could not be written back");
}

static int open_image(struct machine *m, const struct disk *d, struct block **out, struct err *err)
{
	int rc = block_open(out, &d->image, err);

	if (rc == -EAGAIN)
		err_append(err, " (lock=off if that is safe)");
	if (rc)
		return rc;
	rc = board_own(m, NULL, release_block, *out);
	if (rc) {
		block_close(*out);
		err_set(err, -rc, "too many devices");
	}
	return rc;
}

static int parse(const char *spec, struct disk *d, struct err *err)
{
	int rc = opt_defaults(disk_table, d, err);

	if (!rc)
		rc = opt_parse_list(disk_table, d, spec, "file", err);
	if (!rc && (!d->image.file || !*d->image.file))
		rc = err_set(err, EINVAL, "no file is named");
	return rc;
}

/* A server may end when its only client goes, so none is asked. */
static bool on_this_host(const char *file)
{
	return !strstr(file, "://") && strncmp(file, "rbd:", 4);
}

int disk_check(const char *spec, struct err *err)
{
	struct disk d = {{0}};
	struct block *block = NULL;
	int rc = parse(spec, &d, err);

	if (!rc && on_this_host(d.image.file)) {
		d.image.readonly = true;
		d.image.lock = d.image.repair = d.image.copy_on_read = false;
		rc = block_open(&block, &d.image, err);
		block_close(block);
	}
	opt_free(disk_table, &d);
	return rc;
}

int build_disk(struct machine *m, const char *spec, struct err *err)
{
	struct disk d = {{0}};
	struct block *block;
	int rc = parse(spec, &d, err);

	if (!rc)
		rc = open_image(m, &d, &block, err);
	if (!rc) {
		struct virtio_blk_options options = {
			.block = block,
			.queues = (unsigned int)d.queues,
			.queue_size = (unsigned int)d.queue_size,
			.serial = d.serial,
		};

		if (!board_add_virtio(m, &virtio_blk, "disk", &options, d.legacy, err))
			rc = -EIO;
	}
	opt_free(disk_table, &d);
	return rc;
}
