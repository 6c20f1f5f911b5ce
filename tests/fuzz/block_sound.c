#define _GNU_SOURCE
#include "block_sound.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "block/image.h"
#include "os/file.h"

#define MAX_IMAGE (4 * MiB)

struct sound {
	const char *format;
	u64 cluster, size, refcount_bits;
	bool extended, v2, zstd, packed, snapshot;
	u8 *image;
	size_t len;
};

static struct sound sounds[] = {
	{"qcow2", 512, 256 * KiB, 16},
	{"qcow2", 4096, 4 * MiB, 16, .packed = true},
	{"qcow2", 65536, 16 * MiB, 16, .snapshot = true},
	{"qcow2", 16384, 8 * MiB, 8, .extended = true},
	{"qcow2", 4096, 2 * MiB, 16, .v2 = true, .snapshot = true},
	{"qcow2", 8192, 2 * MiB, 1},
	{"qcow2", 2048, 1 * MiB, 64, .zstd = true, .packed = true},
	{"qed", 4096, 4 * MiB, 16},
};

static void no_line(enum log_level level, const char *line)
{
}

static struct block_options options_of(char *path, const char *format)
{
	struct block_options o = {0};

	o.file = path;
	o.format = (char *)(uintptr_t)format;
	o.cache = BLOCK_CACHE_UNSAFE;
	o.discard = o.repair = true;
	o.l2_cache = 1 * MiB;
	return o;
}

static void die(const char *what)
{
	fprintf(stderr, "cannot set up: %s\n", what);
	exit(1);
}

/* Something of everything in it. */
static void fill(struct block *b, const struct sound *v)
{
	static u8 buf[64 * KiB];
	struct iovec iov = {buf, v->cluster};
	struct err err;

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (u8)(i / 100 + 1);
	block_write(b, buf, min(v->size / 8, (u64)sizeof(buf)), 0);
	block_write(b, buf, 512, v->size / 2);
	block_write(b, buf, 512, v->size - 512);
	block_write_zeroes(b, v->cluster, v->cluster * 3, BLOCK_MAY_UNMAP);
	if (v->packed)
		block_writev(b, &iov, 1, v->size / 4 / v->cluster * v->cluster, BLOCK_COMPRESS);
	if (v->snapshot) {
		block_snapshot_create(b, "one", &err);
		block_write(b, buf, 2048, 0);
		block_snapshot_create(b, "two", &err);
	}
	block_discard(b, v->cluster, v->cluster);
}

static void make(struct sound *v)
{
	char path[64];
	struct block_create c = {0};
	struct block_options o;
	struct block *b = NULL;
	struct err err = {""};
	void *data;
	int fd = memfd_create("sound", MFD_CLOEXEC);

	if (fd < 0 || opt_defaults(block_create_table, &c, &err))
		die("memfd");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	c.size = v->size;
	c.cluster_size = v->cluster;
	c.refcount_bits = v->refcount_bits;
	c.extended_l2 = v->extended;
	c.compat = !v->v2;
	c.compression_type = v->zstd;
	o = options_of(path, v->format);
	if (block_create(path, v->format, &c, &err) || block_open(&b, &o, &err))
		die(err.text);
	fill(b, v);
	block_close(b);
	if (file_read_all(path, MAX_IMAGE, &data, &v->len, &err))
		die(err.text);
	v->image = data;
	close(fd);
	opt_free(block_create_table, &c);
}

/* ---- changes ---- */

static u64 table_at(const u8 *image, size_t len, u64 at)
{
	return at + 8 <= len ? load_be64(image + at) & 0x00fffffffffffe00ULL : 0;
}

/* Where the change goes: a header field, or an entry of one of the tables. */
static u64 place(const u8 *image, size_t len, const u8 *change)
{
	u64 index = load_le16(change + 1), l1 = table_at(image, len, 40);
	u64 reftable = table_at(image, len, 48);

	switch (change[0] % 8) {
	case 0:
		return index % 112;
	case 1:
		return l1 + index % 8 * 8;
	case 2:
	case 3:
		return table_at(image, len, l1 + index % 2 * 8) + index / 2 % 512 * 8;
	case 4:
		return reftable + index % 16 * 8;
	case 5:
		return table_at(image, len, reftable) + index % 512;
	case 6:
		return table_at(image, len, 64) + index % 256;
	default:
		return index * 61ULL % len;
	}
}

static u64 value(const u8 *image, size_t len, const u8 *change, u64 at)
{
	u64 raw = load_le32(change + 4), old = at + 8 <= len ? load_be64(image + at) : 0;

	switch (change[3] % 8) {
	case 0:
		return raw;
	case 1:
		return raw << 32;
	case 2:
		return old ^ (1ULL << (raw % 64));
	case 3:
		return table_at(image, len, 40) | (u64)(raw & 1) << 63;
	case 4:
		return table_at(image, len, 48) | (u64)(raw & 1) << 63;
	case 5:
		return (u64)len - (raw & 0xfff);
	case 6:
		return ~0ULL;
	default:
		return old + raw - 1024;
	}
}

static void change(u8 *image, size_t len, const u8 *c)
{
	u64 at = place(image, len, c), v = value(image, len, c, at);
	unsigned int width = c[0] / 8 % 3;

	if (at + 8 > len)
		return;
	if (width == 0)
		store_be64(image + at, v);
	else if (width == 1)
		store_be32(image + at, (u32)v);
	else
		image[at] = (u8)v;
}

/* ---- the whole ---- */

static void make_all(void)
{
	log_set_sink(no_line);
	for (size_t i = 0; i < ARRAY_SIZE(sounds); i++)
		make(&sounds[i]);
}

int sound_open(const u8 *data, size_t size, size_t *at, char path[64],
	       struct block_options *options)
{
	const struct sound *v = &sounds[data[0] % ARRAY_SIZE(sounds)];
	size_t changes = 1 + data[1] % 4;
	static u8 *image;
	int fd;

	if (!image) {
		make_all();
		image = malloc(MAX_IMAGE);
	}
	memcpy(image, v->image, v->len);
	for (*at = 2; changes && *at + 8 <= size; changes--, *at += 8)
		change(image, v->len, data + *at);
	fd = memfd_create("image", MFD_CLOEXEC);
	if (fd < 0 || write_full(fd, image, v->len))
		die("memfd");
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	*options = options_of(path, v->format);
	return fd;
}
