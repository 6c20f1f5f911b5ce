/*
 * A damaged LUKS header, alone and inside qcow2: the input says what is written over in a sound
 * image and what is then done with it. Nothing may crash, loop or take long, whatever number of
 * iterations, stripes or sectors the header asks for.
 *
 * Input: variant and number of changes; changes of 8 bytes; operations of 4 bytes.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "block/image.h"
#include "os/file.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define MAX_IMAGE (4 * MiB)
#define MAX_OPS	  12
#define BUFFER	  (64 * KiB)

static struct variant {
	const char *format;
	u64 header; /* where the LUKS header lies; 0 in a luks image */
	u8 *image;
	size_t len;
} variants[] = {{"luks"}, {"qcow2"}};

static char key_path[64];

static void no_line(enum log_level level, const char *line)
{
}

static void die(const char *what)
{
	fprintf(stderr, "cannot set up: %s\n", what);
	exit(1);
}

static struct block_options options_of(char *path, const char *format)
{
	struct block_options o = {0};

	o.file = path;
	o.format = (char *)(uintptr_t)format;
	o.cache = BLOCK_CACHE_UNSAFE;
	o.discard = o.repair = true;
	o.l2_cache = 1 * MiB;
	o.key_file = key_path;
	o.key_work = 100000;
	return o;
}

static void make(struct variant *v)
{
	struct block_create c = {0};
	struct err err = {""};
	char path[64];
	void *data;
	int fd = memfd_create("sound", MFD_CLOEXEC);

	if (fd < 0 || opt_defaults(block_create_table, &c, &err))
		die("memfd");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	c.size = 1 * MiB;
	c.cluster_size = 4096;
	c.encrypt_format = BLOCK_ENCRYPT_LUKS;
	c.encrypt_cipher = BLOCK_CIPHER_AES_128;
	c.encrypt_key_file = key_path;
	c.encrypt_iter_time = 1;
	if (block_create(path, v->format, &c, &err) ||
	    file_read_all(path, MAX_IMAGE, &data, &v->len, &err))
		die(err.text);
	c.encrypt_key_file = NULL;
	opt_free(block_create_table, &c);
	close(fd);
	v->image = data;
	while (memcmp(v->image + v->header, "LUKS\xba\xbe", 6))
		v->header += 512;
	/* However fast the machine is: opening it must fit into the budget. */
	if (load_be32(v->image + v->header + 212) > 20000)
		die("too many iterations");
}

static void change(u8 *image, const struct variant *v, const u8 *c)
{
	static const u16 fields[] = {0,	  6,   8,   40,	 72,  104, 108, 112,
				     132, 164, 208, 212, 216, 248, 252, 256};
	u64 at = c[0] & 1 ? fields[c[1] % ARRAY_SIZE(fields)] + (c[0] >> 1) % 8 * 48u
			  : load_le16(c + 1) % 592u;

	/* The header of the image itself, its extensions, and the key material. */
	if (c[0] & 0x10)
		at += v->header;
	else if (c[0] & 0x20)
		at = load_le32(c + 1) % (v->len - 8);
	if (at + 4 > v->len)
		return;
	if (c[0] & 0x80)
		store_be32(image + at, load_le32(c + 4));
	else
		image[at] = c[4];
}

static void operate(struct block *b, const u8 *op, u8 *buf)
{
	u64 at = op[1] * 4099ULL, len = 1 + op[2] * 255ULL;
	struct block_check check = {0};
	struct err err;

	switch (op[0] % 6) {
	case 0:
	case 1:
		block_read(b, buf, len, at);
		break;
	case 2:
		memset(buf, op[3], len);
		block_write(b, buf, len, at);
		break;
	case 3:
		block_write_zeroes(b, len, at, 0);
		break;
	case 4:
		block_check(b, op[3] % 4, &check, &err);
		break;
	default:
		block_resize(b, op[3] * 65536ULL, true, &err);
		break;
	}
}

static void set_up(void)
{
	int fd = memfd_create("key", MFD_CLOEXEC);

	log_set_sink(no_line);
	if (fd < 0 || write_full(fd, "key", 3))
		die("memfd");
	snprintf(key_path, sizeof(key_path), "/proc/self/fd/%d", fd);
	for (size_t i = 0; i < ARRAY_SIZE(variants); i++)
		make(&variants[i]);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static u8 *image, *buf;
	const struct variant *v;
	struct block_image_info info;
	struct block_options o;
	struct block *b = NULL;
	struct err err;
	char path[64];
	size_t at = 2;
	int fd;

	if (size < 2)
		return 0;
	if (!image) {
		set_up();
		image = malloc(MAX_IMAGE);
		buf = malloc(BUFFER);
	}
	v = &variants[data[0] % ARRAY_SIZE(variants)];
	memcpy(image, v->image, v->len);
	for (int n = data[1] % 4; n && at + 8 <= size; n--, at += 8)
		change(image, v, data + at);
	fd = memfd_create("image", MFD_CLOEXEC);
	if (fd < 0 || write_full(fd, image, v->len))
		die("memfd");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	o = options_of(path, data[1] & 0x20 ? NULL : v->format);
	o.readonly = data[1] & 0x80;
	o.metadata_only = data[1] & 0x40;
	if (!block_open(&b, &o, &err)) {
		block_image_info(b, &info);
		for (int n = 0; n < MAX_OPS && at + 4 <= size; n++, at += 4)
			operate(b, data + at, buf);
		block_close(b);
	}
	close(fd);
	return 0;
}
