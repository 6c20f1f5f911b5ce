/*
 * Recognition by content. Only the first 36 KiB and, for ELF, the headers and notes are looked at.
 * Every answer is a kind that a loader will check again, or a sentence that says what the file is
 * and what to do with it.
 */
#include "machine/image.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/str.h"
#include "machine/boot_int.h"
#include "machine/elf_int.h"
#include "os/file.h"

#define HEAD_SIZE 0x9000 /* ISO 9660's descriptor is at 0x8000 */

/* A flat binary beyond this is rather a disk without a signature. */
#define FLAT_MAX (64 * MiB)

struct head {
	u8 data[HEAD_SIZE];
	size_t len;
};

int image_read(const struct image *image, u64 offset, void *buf, u64 len)
{
	if (!range_fits(offset, len, image->size))
		return -EIO;
	if (!len)
		return 0;
	if (image->fd >= 0)
		return pread_full(image->fd, buf, len, offset);
	memcpy(buf, image->data + offset, len);
	return 0;
}

const char *image_kind_name(enum image_kind kind)
{
	static const char *const names[] = {
		[IMAGE_AUTO] = "auto",
		[IMAGE_BZIMAGE] = "bzimage",
		[IMAGE_PVH] = "pvh",
		[IMAGE_LINUX64] = "linux64",
		[IMAGE_MULTIBOOT] = "multiboot",
		[IMAGE_FLAT] = "flat",
		[IMAGE_FIRMWARE] = "firmware",
		[IMAGE_DISK] = "disk",
	};

	return (size_t)kind < ARRAY_SIZE(names) ? names[kind] : "unknown";
}

static bool has(const struct head *h, size_t at, const char *magic, size_t len)
{
	return range_fits(at, len, h->len) && !memcmp(h->data + at, magic, len);
}

#define HAS(h, at, magic) has(h, at, magic, sizeof(magic) - 1)

/* ---- what bothy does not start, with what to do about it ---- */

static int refuse_compressed(const struct image *image, const struct head *h, struct err *err)
{
	static const struct {
		const char *magic;
		size_t len;
		const char *name, *tool;
	} kinds[] = {
		{"\x1f\x8b", 2, "gzip", "gzip -dc"},
		{"\xfd"
		 "7zXZ",
		 5, "xz", "xz -dc"},
		{"BZh", 3, "bzip2", "bzip2 -dc"},
		{"\x28\xb5\x2f\xfd", 4, "zstd", "zstd -dc"},
		{"\x04\x22\x4d\x18", 4, "lz4", "lz4 -dc"},
		{"\x02\x21\x4c\x18", 4, "lz4", "lz4 -dc"},
		{"\x89LZO", 4, "lzop", "lzop -dc"},
		{"PK\x03\x04", 4, "zip", "unzip -p"},
		{"\x5d\0\0", 3, "lzma", "xz --format=lzma -dc"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (has(h, 0, kinds[i].magic, kinds[i].len))
			return err_set(err, ENOEXEC,
				       "%s: compressed with %s; unpack it first: %s %s >FILE",
				       image->name, kinds[i].name, kinds[i].tool, image->name);
	return 0;
}

static bool looks_like_text(const struct head *h)
{
	size_t n = min(h->len, (size_t)512);

	for (size_t i = 0; i < n; i++)
		if (!isprint(h->data[i]) && !isspace(h->data[i]))
			return false;
	return n >= 32;
}

static int refuse_others(const struct image *image, const struct head *h, struct err *err)
{
	int rc = refuse_compressed(image, h, err);

	if (rc)
		return rc;
	if (HAS(h, 56, "ARM\x64"))
		return err_set(err, ENOEXEC, "%s: a kernel for ARM64; bothy runs x86 guests only",
			       image->name);
	if (HAS(h, 0, "MZ"))
		return err_set(err, ENOEXEC,
			       "%s: an EFI or DOS program, not a kernel; firmware starts those "
			       "from a disk",
			       image->name);
	if (HAS(h, 0, "070701") || HAS(h, 0, "070702"))
		return err_set(err, ENOEXEC,
			       "%s: a cpio archive, not a kernel; give it with --initrd",
			       image->name);
	if (HAS(h, 0, "!<arch>"))
		return err_set(err, ENOEXEC, "%s: an archive or package, not a kernel",
			       image->name);
	if (looks_like_text(h))
		return err_set(err, ENOEXEC,
			       "%s: a text file, not a kernel or disk; --load 0x%x runs it as a "
			       "flat binary all the same",
			       image->name, 0x1000);
	return 0;
}

/* ---- what it does ---- */

static const char *disk_format(const struct image *image, const struct head *h)
{
	static const struct {
		size_t at;
		const char *magic;
		size_t len;
		const char *name;
	} kinds[] = {
		{0, "QFI\xfb", 4, "qcow2"},
		{0, "QED\0", 4, "QED"},
		{0, "KDMV", 4, "VMDK"},
		{0, "vhdxfile", 8, "VHDX"},
		{0, "conectix", 8, "VPC"},
		{64, "\x7f\x10\xda\xbe", 4, "VDI"},
		{0x8001, "CD001", 5, "ISO 9660"},
		{512, "EFI PART", 8, "raw, GPT"},
		{510, "\x55\xaa", 2, "raw, MBR"},
		{0x438, "\x53\xef", 2, "raw, ext file system"},
		{0, "XFSB", 4, "raw, XFS"},
		{0, "LUKS\xba\xbe", 6, "raw, LUKS"},
		{4086, "SWAPSPACE2", 10, "raw, swap"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (has(h, kinds[i].at, kinds[i].magic, kinds[i].len))
			return kinds[i].name;
	/* An empty disk to be installed on, or one with an unknown content. */
	return image->size > FLAT_MAX ? "raw" : NULL;
}

static int recognise_elf(struct image *image, const struct head *h, struct err *err)
{
	struct elf elf;
	int rc = elf_parse(image, &elf, err);

	if (rc)
		return rc;
	if (elf.has_pvh) {
		image->kind = IMAGE_PVH;
		snprintf(image->text, sizeof(image->text), "%u-bit ELF with a PVH entry at 0x%x",
			 elf.is64 ? 64 : 32, elf.pvh_entry);
	} else if (multiboot_find(h->data, h->len, NULL)) {
		image->kind = IMAGE_MULTIBOOT;
		snprintf(image->text, sizeof(image->text), "multiboot kernel, %u-bit ELF",
			 elf.is64 ? 64 : 32);
	} else if (elf.is64) {
		image->kind = IMAGE_LINUX64;
		snprintf(image->text, sizeof(image->text),
			 "64-bit ELF kernel, entered as Linux is");
	} else {
		return err_set(err, ENOEXEC,
			       "%s: a 32-bit ELF file without a multiboot header or PVH note: "
			       "nothing says how to start it",
			       image->name);
	}
	return 0;
}

static int recognise(struct image *image, const struct head *h, struct err *err)
{
	const char *disk;
	int rc;

	if (HAS(h, 0,
		"\x7f"
		"ELF"))
		return recognise_elf(image, h, err);
	if (HAS(h, 0x202, "HdrS")) {
		image->kind = IMAGE_BZIMAGE;
		linux_describe(image, image->text, sizeof(image->text));
		return 0;
	}
	if (multiboot_find(h->data, h->len, NULL)) {
		image->kind = IMAGE_MULTIBOOT;
		snprintf(image->text, sizeof(image->text), "multiboot kernel, flat");
		return 0;
	}
	disk = disk_format(image, h);
	if (disk) {
		image->kind = IMAGE_DISK;
		snprintf(image->text, sizeof(image->text), "disk image (%s)", disk);
		return 0;
	}
	rc = refuse_others(image, h, err);
	if (rc)
		return rc;
	image->kind = IMAGE_FLAT;
	return 0;
}

static void describe_taken(struct image *image)
{
	char size[32];

	if (image->text[0])
		return;
	format_size(size, sizeof(size), image->size);
	snprintf(image->text, sizeof(image->text), "%s, %s",
		 image->kind == IMAGE_FIRMWARE ? "firmware"
		 : image->kind == IMAGE_DISK   ? "disk image"
					       : "flat binary",
		 size);
}

static bool is_kernel(enum image_kind kind)
{
	return kind >= IMAGE_BZIMAGE && kind <= IMAGE_MULTIBOOT;
}

static int settle_kind(struct image *image, enum image_kind want, struct err *err)
{
	struct head h;
	int rc;

	if (!image->size)
		return err_set(err, ENOEXEC, "%s: the file is empty", image->name);
	if (want == IMAGE_FLAT || want == IMAGE_FIRMWARE || want == IMAGE_DISK) {
		image->kind = want;
	} else {
		h.len = (size_t)min(image->size, (u64)HEAD_SIZE);
		rc = image_read(image, 0, h.data, h.len);
		if (rc)
			return err_set(err, -rc, "%s: cannot read: %s", image->name, strerror(-rc));
		rc = recognise(image, &h, err);
		if (rc)
			return rc;
	}
	describe_taken(image);
	if (is_kernel(want) && image->kind != want)
		return err_set(err, ENOEXEC, "%s: not a %s image but: %s", image->name,
			       image_kind_name(want), image->text);
	return 0;
}

/* ---- opening ---- */

/* Size of a regular file or block device. */
static int find_size(struct image *image, struct err *err)
{
	struct stat st;
	off_t end;

	if (fstat(image->fd, &st))
		return err_set(err, errno, "%s: %s", image->name, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "%s: a directory, not a kernel or disk", image->name);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, EINVAL,
			       "%s: neither a file nor a block device; copy it to a "
			       "file first",
			       image->name);
	end = lseek(image->fd, 0, SEEK_END);
	if (end < 0)
		return err_set(err, errno, "%s: %s", image->name, strerror(errno));
	image->size = (u64)end;
	return 0;
}

static int open_any(struct image *image, const char *path, struct err *err)
{
	memset(image, 0, sizeof(*image));
	image->fd = -1;
	image->kind = IMAGE_FLAT;
	image->name = strdup(path);
	if (!image->name)
		return err_set(err, ENOMEM, "%s: out of memory", path);
	/* Non-blocking: a FIFO must not hold us here. */
	image->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (image->fd < 0)
		return err_set(err, errno, "%s: cannot open: %s", path, strerror(errno));
	return find_size(image, err);
}

static int close_failed(struct image *image, int rc)
{
	if (rc)
		image_close(image);
	return rc;
}

int image_open(struct image *image, const char *path, enum image_kind want, struct err *err)
{
	int rc = open_any(image, path, err);

	if (!rc)
		rc = settle_kind(image, want, err);
	return close_failed(image, rc);
}

int image_open_raw(struct image *image, const char *path, struct err *err)
{
	int rc = open_any(image, path, err);

	if (!rc && !image->size)
		rc = err_set(err, EINVAL, "%s: the file is empty", path);
	return close_failed(image, rc);
}

int image_from_memory(struct image *image, const char *name, const void *data, u64 size,
		      enum image_kind want, struct err *err)
{
	memset(image, 0, sizeof(*image));
	image->fd = -1;
	image->data = data;
	image->size = size;
	image->name = strdup(name);
	if (!image->name)
		return err_set(err, ENOMEM, "%s: out of memory", name);
	return close_failed(image, settle_kind(image, want, err));
}

void image_close(struct image *image)
{
	if (!image->name)
		return;
	free(image->name);
	image->name = NULL;
	fd_close(&image->fd);
}
