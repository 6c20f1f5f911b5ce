/* Firmware: a ROM that ends at 4 GiB, and the copy of its end below 1 MiB that real mode runs. */
#include "machine/boot.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "machine/load_int.h"

#define ROM_MAX	    (LAYOUT_HIGH_BASE - LAYOUT_FIRMWARE_BASE)
#define SHADOW_ALL  (256 * KiB) /* a BIOS of up to this runs whole below 1 MiB */
#define SHADOW_TAIL (128 * KiB) /* of larger firmware only the end is for real mode */
#define SHADOW_EDGE (1 * MiB)

static gpa_t rom_base(const struct image *image)
{
	return LAYOUT_HIGH_BASE - image->size;
}

static u64 shadow_size(const struct image *image)
{
	return image->size <= SHADOW_ALL ? image->size : SHADOW_TAIL;
}

int firmware_map(struct guest_mem *mem, const struct image *image, struct err *err)
{
	if (image->size > ROM_MAX)
		return err_set(err, EFBIG,
			       "--bios: %s has %llu KiB; a firmware image has %llu KiB at most",
			       image->name, (unsigned long long)(image->size / KiB), ROM_MAX / KiB);
	if (!image->size || !is_aligned(image->size, 4 * KiB))
		return err_set(err, EINVAL,
			       "--bios: %s has %llu bytes, which is no multiple of 4 KiB; is it a "
			       "firmware image, and complete?",
			       image->name, (unsigned long long)image->size);
	return mem_add_ram(mem, rom_base(image), image->size, MEM_READONLY | MEM_NO_THP, err);
}

int firmware_load(struct guest_mem *mem, const struct image *image, struct boot_entry *entry,
		  struct err *err)
{
	u8 *rom = mem_slice(mem, rom_base(image), image->size);
	u64 shadow = shadow_size(image);
	int rc;

	if (!rom)
		return err_set(err, EINVAL, "--bios: %s changed its size while it was used",
			       image->name);
	rc = image_read(image, 0, rom, image->size);
	if (rc)
		return err_set(err, -rc, "--bios: %s: cannot read: %s", image->name, strerror(-rc));
	mem_written(mem, rom_base(image), image->size);
	boot_entry_reset(entry);
	return load_bytes(mem, SHADOW_EDGE - shadow, rom + image->size - shadow, shadow, "firmware",
			  err);
}
