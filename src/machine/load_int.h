/* What the boot protocols share. */
#ifndef MACHINE_LOAD_INT_H
#define MACHINE_LOAD_INT_H

#include "base/err.h"
#include "base/types.h"
#include "machine/boot.h"

/*
 * Where the loader's own structures lie: below the first MiB, clear of the BIOS data area and of
 * where flat binaries go by default.
 */
#define LOAD_GDT	 0x500ULL   /* 5 descriptors */
#define LOAD_START_INFO	 0x600ULL   /* PVH start info, memory map, module list */
#define LOAD_STACK	 0x6ff0ULL  /* a stack for entries that want one */
#define LOAD_ZERO_PAGE	 0x7000ULL  /* Linux boot_params */
#define LOAD_PAGES	 0x90000ULL /* six pages of page tables */
#define LOAD_PAGES_SIZE	 (6 * PAGE_SIZE)
#define LOAD_CMDLINE	 0x20000ULL
#define LOAD_CMDLINE_MAX 0x10000ULL /* with the NUL byte */

/* Segment selectors in the GDT: as Linux' boot protocol wants them. */
#define LOAD_CS 0x10
#define LOAD_DS 0x18

/*
 * Copy filesz bytes at offset of the image to guest RAM at gpa and clear up to memsz. -ENOMEM where
 * that is not RAM (err names addresses and the remedy), or the errno of reading.
 */
int load_image_part(struct guest_mem *mem, const struct image *image, u64 offset, u64 filesz,
		    gpa_t gpa, u64 memsz, struct err *err);

/* Store bytes that are ours; -ENOMEM names what they are. */
int load_bytes(struct guest_mem *mem, gpa_t gpa, const void *data, u64 len, const char *what,
	       struct err *err);

/* Does [gpa, gpa + size) stay clear of the loader's structures and the ACPI tables? -EINVAL names
 * the conflict. */
int load_check_clear(const struct image *image, gpa_t gpa, u64 size, struct err *err);

/*
 * Texts for the guest (command lines), one after the other from LOAD_CMDLINE on. load_text() gives
 * the address of the copy in *gpa; -E2BIG beyond LOAD_CMDLINE_MAX in all.
 */
struct load_texts {
	u64 used;
};
int load_text(struct guest_mem *mem, struct load_texts *texts, const char *text, gpa_t *gpa,
	      struct err *err);

/*
 * Sum of the modules' sizes, each but the last rounded up to align. -E2BIG when it wraps, -EINVAL
 * for an empty file.
 */
int load_modules_size(const struct boot_options *options, u64 align, u64 *size, struct err *err);

/* Copy the modules to gpa on; at[i] becomes the address of each, where at is not NULL. */
int load_modules(struct guest_mem *mem, const struct boot_options *options, u64 align, gpa_t gpa,
		 gpa_t *at, struct err *err);

/* The highest page-aligned place for size bytes below limit and not below floor: 0 when there is
 * none. */
gpa_t load_place_high(u64 size, gpa_t floor, gpa_t limit);

/* 32-bit flat protected mode without paging (multiboot, PVH, flat binaries): writes the GDT. */
int load_enter_protected(struct guest_mem *mem, u64 rip, struct boot_entry *entry, struct err *err);

/* 64-bit mode with the first 4 GiB mapped one to one: writes GDT and page tables. */
int load_enter_long(struct guest_mem *mem, u64 rip, struct boot_entry *entry, struct err *err);

/* 16-bit mode at a linear address; -EINVAL at 1 MiB and above. */
int load_enter_real(u64 linear, struct boot_entry *entry);

/* One a kind; see boot_load(). */
int boot_load_linux(struct guest_mem *mem, const struct layout *layout, const struct image *image,
		    const struct boot_options *options, struct boot_entry *entry, struct err *err);
int boot_load_elf(struct guest_mem *mem, const struct layout *layout, const struct image *image,
		  const struct boot_options *options, struct boot_entry *entry, struct err *err);
int boot_load_multiboot(struct guest_mem *mem, const struct layout *layout,
			const struct image *image, const struct boot_options *options,
			struct boot_entry *entry, struct err *err);
int boot_load_flat(struct guest_mem *mem, const struct layout *layout, const struct image *image,
		   const struct boot_options *options, struct boot_entry *entry, struct err *err);

#endif
