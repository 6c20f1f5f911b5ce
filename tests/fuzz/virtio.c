/*
 * A virtio device behind its MMIO registers, driven by a script; the program's name says which:
 * fuzz-virtio_blk, replay-virtio_net, ... The driver negotiates what the first eight bytes allow,
 * and sets up every queue; then each operation is one byte and its arguments.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "block/block.h"
#include "bus/device.h"
#include "chardev/chardev.h"
#include "net/net.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/features.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/p9.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM	 0x100000
#define BASE	 0xd0000000ULL
#define SIZE	 16
#define RINGS	 0x1000 /* of each queue: a page */
#define BUFFERS	 0x40000
#define MAX_OPS	 64
#define MAX_BUFS 6

/* ---- the input ---- */

static struct {
	const uint8_t *p;
	size_t left;
} in;

static u64 take(unsigned int n)
{
	u8 bytes[8] = {0};

	n = (unsigned int)min((size_t)n, in.left);
	memcpy(bytes, in.p, n);
	in.p += n;
	in.left -= n;
	return load_le64(bytes);
}

/* ---- back ends ---- */

static char folder[64];

static struct block *disk(void)
{
	struct block_options options = {0};
	struct block *block;
	char path[64];
	struct err err;
	int fd = memfd_create("disk", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, 1 << 20) || opt_defaults(block_option_table, &options, &err))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	options.file = path;
	options.format = (char *)(uintptr_t) "raw";
	options.lock = false;
	if (block_open(&block, &options, &err))
		abort();
	close(fd);
	return block;
}

static const char *my_folder(void)
{
	if (!folder[0]) {
		snprintf(folder, sizeof(folder), "/tmp/bothy-fuzz-XXXXXX");
		if (!mkdtemp(folder))
			abort();
	}
	return folder;
}

union options {
	struct virtio_blk_options blk;
	struct virtio_net_options net;
	struct virtio_console_options console;
	struct virtio_balloon_options balloon;
	struct virtio_vsock_options vsock;
	struct virtio_p9_options p9;
	struct virtio_rng_options rng;
};

static void open_backend(const char *name, union options *o, struct loop *loop)
{
	static char path[96];
	struct net_card card;
	struct err err;

	memset(o, 0, sizeof(*o));
	if (!strcmp(name, "blk")) {
		o->blk.block = disk();
	} else if (!strcmp(name, "net")) {
		if (net_open(&o->net.net, loop, "loopback", &card, &err))
			abort();
		o->net.mac[0] = 2;
		o->net.mtu = 1500;
	} else if (!strcmp(name, "console")) {
		o->console.nports = 2;
		for (int i = 0; i < 2; i++)
			if (chardev_open(&o->console.port[i].chr, loop, "null", &err))
				abort();
		o->console.port[1].name = "port";
	} else if (!strcmp(name, "vsock")) {
		snprintf(path, sizeof(path), "%s/v", my_folder());
		o->vsock.path = path;
	} else if (!strcmp(name, "9p")) {
		o->p9.path = my_folder();
		o->p9.tag = "t";
	}
}

static void close_backend(const char *name, union options *o)
{
	char command[96];

	if (!strcmp(name, "blk"))
		block_close(o->blk.block);
	else if (!strcmp(name, "net"))
		net_close(o->net.net);
	else if (!strcmp(name, "console"))
		for (int i = 0; i < 2; i++)
			chardev_close(o->console.port[i].chr);
	if (!folder[0])
		return;
	if (strcmp(name, "9p")) {
		rmdir(folder);
	} else {
		snprintf(command, sizeof(command), "rm -rf %s", folder);
		if (system(command))
			abort();
	}
	folder[0] = 0;
}

/* ---- the driver ---- */

struct driver {
	struct bus *bus;
	struct loop *loop;
	u8 *ram;
	struct virtio_device *dev;
	bool packed;
	u16 avail[VIRTIO_MAX_QUEUES];
	u16 place[VIRTIO_MAX_QUEUES];
	u8 round[VIRTIO_MAX_QUEUES];
	u32 next_buffer;
};

static void reg(struct driver *d, u32 offset, u32 value)
{
	bus_mmio(d->bus, BASE + offset, true, 4, &value);
}

static void start(struct driver *d, u64 allowed)
{
	u64 features = (d->dev->offered & allowed) | VIRTIO_F(VIRTIO_F_VERSION_1);

	reg(d, VIRTIO_MMIO_STATUS, 0);
	memset(d->ram, 0, BUFFERS);
	memset(d->avail, 0, sizeof(d->avail));
	memset(d->place, 0, sizeof(d->place));
	memset(d->round, 0, sizeof(d->round));
	d->packed = features >> VIRTIO_F_RING_PACKED & 1;
	reg(d, VIRTIO_MMIO_STATUS, 3);
	for (u32 i = 0; i < 2; i++) {
		reg(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		reg(d, VIRTIO_MMIO_DRIVER_FEATURES, (u32)(features >> 32 * i));
	}
	reg(d, VIRTIO_MMIO_STATUS, 11);
	for (u32 q = 0; q < d->dev->nqueues; q++) {
		reg(d, VIRTIO_MMIO_QUEUE_SEL, q);
		reg(d, VIRTIO_MMIO_QUEUE_NUM, SIZE);
		reg(d, VIRTIO_MMIO_QUEUE_DESC_LOW, RINGS * (q + 1));
		reg(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, RINGS * (q + 1) + 0x400);
		reg(d, VIRTIO_MMIO_QUEUE_USED_LOW, RINGS * (q + 1) + 0x800);
		reg(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	reg(d, VIRTIO_MMIO_STATUS, 15);
}

static u32 buffer(struct driver *d, u32 len)
{
	u32 at = d->next_buffer;

	if (at + len > RAM)
		at = BUFFERS;
	d->next_buffer = at + len;
	return at;
}

/* Readable buffers get their bytes from the input, writable ones only a length. */
static void add_chain(struct driver *d, u32 q)
{
	u32 n = 1 + (u32)take(1) % MAX_BUFS, readable = (u32)take(1) % (n + 1);
	u16 first = d->place[q];

	for (u32 i = 0; i < n; i++) {
		u32 len = 1 + (u32)take(i < readable ? 1 : 2), at = buffer(d, len);
		u16 flags = (i >= readable ? 2 : 0) | (i + 1 < n ? 1 : 0);
		u16 slot = d->place[q] % SIZE;
		u8 *desc = d->ram + RINGS * (q + 1) + 16 * slot;

		for (u32 k = 0; i < readable && k < len; k++)
			d->ram[at + k] = (u8)take(1);
		store_le64(desc, at);
		store_le32(desc + 8, len);
		if (d->packed) {
			store_le16(desc + 12, first % SIZE);
			flags |= d->place[q] / SIZE & 1 ? 1 << 15 : 1 << 7;
			store_le16(desc + 14, flags);
		} else {
			store_le16(desc + 12, flags);
			store_le16(desc + 14, (slot + 1) % SIZE);
		}
		d->place[q]++;
	}
	if (!d->packed) {
		u8 *avail = d->ram + RINGS * (q + 1) + 0x400;

		store_le16(avail + 4 + 2 * (d->avail[q] % SIZE), first % SIZE);
		store_le16(avail + 2, ++d->avail[q]);
	}
	reg(d, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

static void turn(struct driver *d, int n)
{
	while (n--)
		loop_run_once(d->loop, 0);
}

static void operate(struct driver *d)
{
	u8 op = (u8)take(1), q = (u8)take(1) % d->dev->nqueues;
	u64 value;
	u32 at;

	switch (op % 12) {
	default:
		add_chain(d, q);
		break;
	case 6:
		at = (u32)take(2) % (RINGS * 8u);
		d->ram[at] = (u8)take(1);
		break;
	case 7:
		reg(d, (u32)take(1) & 0xfc, (u32)take(4));
		break;
	case 8:
		value = take(4);
		at = VIRTIO_MMIO_CONFIG + (u32)take(1) % 0x80;
		bus_mmio(d->bus, BASE + at, op & 16, 1u << (op / 32 % 4), &value);
		break;
	case 9:
		reg(d, VIRTIO_MMIO_QUEUE_NOTIFY, q);
		break;
	case 10:
		start(d, take(8));
		break;
	case 11:
		bus_lock(d->bus);
		devices_pause(d->bus);
		devices_resume(d->bus);
		bus_unlock(d->bus);
		break;
	}
	turn(d, 2);
}

static void drive(struct driver *d, const char *name)
{
	union options options;
	struct virtio_mmio_config config = {
		.class = virtio_class_lookup(name), .config = &options, .base = BASE, .gsi = 5};
	struct device *dev;
	struct err err;

	if (!config.class)
		abort();
	open_backend(name, &options, d->loop);
	bus_lock(d->bus);
	dev = device_new(d->bus, &virtio_mmio_class, "fuzzed", &config, &err);
	if (dev)
		devices_start(d->bus);
	bus_unlock(d->bus);
	if (!dev) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	d->dev = virtio_mmio_device(dev);
	start(d, take(8));
	for (int i = 0; i < MAX_OPS && in.left; i++)
		operate(d);
	turn(d, 8);
	reg(d, VIRTIO_MMIO_STATUS, 0);
	if (!strcmp(name, "net"))
		net_stop(options.net.net);
	bus_lock(d->bus);
	devices_free(d->bus);
	bus_unlock(d->bus);
	close_backend(name, &options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *name = strrchr(program_invocation_short_name, '_');
	struct driver d = {.next_buffer = BUFFERS};
	struct guest_mem *mem = mem_new();

	if (!name)
		abort();
	log_set_level(LOG_ERROR);
	in.p = data;
	in.left = size;
	d.loop = loop_new();
	if (!mem || !d.loop || mem_add_ram(mem, 0, RAM, MEM_NO_THP, NULL))
		abort();
	d.ram = mem_slice(mem, 0, RAM);
	d.bus = bus_new(NULL, mem, d.loop);
	drive(&d, name + 1);
	bus_free(d.bus);
	loop_free(d.loop);
	mem_free(mem);
	return 0;
}
