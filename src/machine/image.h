/*
 * A file that a guest is started from, and what it is. An image stays open for the life of the
 * machine: a reset loads it again, and after the sandbox has locked nothing can be opened any more.
 *
 * The file is hostile and may change while it is read: loaders copy each header once, validate the
 * copy and use the copy.
 */
#ifndef MACHINE_IMAGE_H
#define MACHINE_IMAGE_H

#include "base/err.h"
#include "base/types.h"

enum image_kind {
	IMAGE_AUTO,	 /* only as a wish: find out from the content */
	IMAGE_BZIMAGE,	 /* Linux, x86 boot protocol 2.00 on */
	IMAGE_PVH,	 /* ELF with a Xen PHYS32_ENTRY note */
	IMAGE_LINUX64,	 /* 64-bit ELF without that note: entered as Linux' startup_64 */
	IMAGE_MULTIBOOT, /* multiboot 1, ELF or with the a.out kludge */
	IMAGE_FLAT,	 /* anything else small enough: bytes to put at an address */
	IMAGE_FIRMWARE,	 /* only by option: a ROM for the top of the first 4 GiB */
	IMAGE_DISK,	 /* a disk to boot from through firmware */
};

struct image {
	char *name;	/* for messages: the path as the user gave it */
	int fd;		/* -1 with data */
	const u8 *data; /* the caller's memory, or NULL with fd */
	u64 size;
	enum image_kind kind;
	char text[96]; /* what it is, for people: "Linux bzImage 6.1.0, boot protocol 2.15" */
};

/*
 * Open and recognise the file. `want` other than IMAGE_AUTO says what the user says it is: what
 * does not fit that is an error, and FLAT, FIRMWARE and DISK are taken without looking. -errno
 * with the reason and remedy: -ENOENT and the like, -ENOEXEC for what cannot be started.
 */
int image_open(struct image *image, const char *path, enum image_kind want, struct err *err);

/* The same over the caller's bytes, which must outlive the image (tests, built-in guests). */
int image_from_memory(struct image *image, const char *name, const void *data, u64 size,
		      enum image_kind want, struct err *err);

/* Open without looking inside: an initrd or a module. kind is IMAGE_FLAT. */
int image_open_raw(struct image *image, const char *path, struct err *err);

/* Harmless on a zeroed or closed image. */
void image_close(struct image *image);

/* Copy [offset, offset + len) to buf: 0, -EIO where the file ends before, or -errno. */
int image_read(const struct image *image, u64 offset, void *buf, u64 len);

/* "bzimage", "pvh", ... for -n and machine-readable output. */
const char *image_kind_name(enum image_kind kind);

#endif
