/* Which loader takes which kind, options against kinds, and flat binaries. */
#include "machine/load_int.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"

static u64 flat_load(const struct boot_options *options)
{
	return options->has_load ? options->load : BOOT_FLAT_LOAD;
}

static u64 flat_entry(const struct boot_options *options)
{
	return options->has_entry ? options->flat_entry : flat_load(options);
}

static int check_flat(const struct image *image, const struct boot_options *options,
		      struct err *err)
{
	u64 entry = flat_entry(options);

	if (options->module_count)
		return err_set(err, EINVAL,
			       "--initrd: %s is a flat binary, which takes no initrd or modules",
			       image->name);
	if (options->cmdline && *options->cmdline)
		return err_set(err, EINVAL,
			       "--append: %s is a flat binary, which takes no command line",
			       image->name);
	if (options->mode == BOOT_REAL && entry >= MiB)
		return err_set(err, EINVAL,
			       "--entry 0x%llx: real mode starts below 1 MiB (0x100000); choose "
			       "another address, or --mode protected or long",
			       (unsigned long long)entry);
	if (entry >= LAYOUT_HIGH_BASE)
		return err_set(err, EINVAL, "--entry 0x%llx: a guest is entered below 4 GiB",
			       (unsigned long long)entry);
	return 0;
}

int boot_check_options(const struct image *image, const struct boot_options *options,
		       struct err *err)
{
	if (image->kind == IMAGE_FLAT)
		return check_flat(image, options, err);
	if (options->has_load || options->has_entry || options->mode != BOOT_REAL)
		return err_set(err, EINVAL,
			       "--load, --entry and --mode are for flat binaries; %s is: %s",
			       image->name, image->text);
	return 0;
}

/* What we need in RAM ourselves must not lie under the binary. */
static int check_overlap(const struct image *image, const struct boot_options *options, u64 load,
			 struct err *err)
{
	const struct {
		bool used;
		gpa_t at;
		u64 size;
		const char *what;
	} ours[] = {
		{options->mode != BOOT_REAL, LOAD_GDT, LOAD_START_INFO - LOAD_GDT,
		 "the GDT for --mode protected and long"},
		{options->mode == BOOT_LONG, LOAD_PAGES, LOAD_PAGES_SIZE,
		 "the page tables for --mode long"},
		{options->acpi_rsdp, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, "the ACPI tables"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		if (ours[i].used && ranges_overlap(load, image->size, ours[i].at, ours[i].size))
			return err_set(err, EINVAL,
				       "--load 0x%llx: %s ends at 0x%llx and overlaps %s at 0x%llx "
				       "to 0x%llx; choose another address",
				       (unsigned long long)load, image->name,
				       (unsigned long long)(load + image->size), ours[i].what,
				       (unsigned long long)ours[i].at,
				       (unsigned long long)(ours[i].at + ours[i].size));
	return 0;
}

/* Name what is in the way: the hole below 1 MiB, the one below 4 GiB, or the end of memory. */
static int does_not_fit(const struct image *image, const struct layout *layout, u64 load,
			struct err *err)
{
	const char *why =
		"is more than the guest's memory; choose a lower address or more --memory";

	if (ranges_overlap(load, image->size, LAYOUT_VGA_BASE, LAYOUT_VGA_END - LAYOUT_VGA_BASE))
		why = "overlaps the video memory at 0xa0000 to 0xc0000; choose another address";
	else if (load < LAYOUT_HIGH_BASE && load + image->size > LAYOUT_LOW_MAX)
		why = "overlaps devices between 3 and 4 GiB; choose another address";
	return err_set(err, ENOMEM, "--load 0x%llx: %s, %llu bytes, %s (the guest has %llu MiB)",
		       (unsigned long long)load, image->name, (unsigned long long)image->size, why,
		       (unsigned long long)(layout->memory / MiB));
}

static int enter_flat(struct guest_mem *mem, const struct boot_options *options,
		      struct boot_entry *entry, struct err *err)
{
	u64 rip = flat_entry(options);

	switch (options->mode) {
	case BOOT_REAL:
		return load_enter_real(rip, entry);
	case BOOT_PROTECTED:
		return load_enter_protected(mem, rip, entry, err);
	case BOOT_LONG:
		return load_enter_long(mem, rip, entry, err);
	}
	return -EINVAL;
}

int boot_load_flat(struct guest_mem *mem, const struct layout *layout, const struct image *image,
		   const struct boot_options *options, struct boot_entry *entry, struct err *err)
{
	u64 load = flat_load(options), end;
	int rc;

	if (add_overflows(&end, load, image->size))
		return err_set(err, EINVAL, "--load 0x%llx: %s would wrap around the end of memory",
			       (unsigned long long)load, image->name);
	rc = check_overlap(image, options, load, err);
	if (rc)
		return rc;
	if (!mem_slice_rw(mem, load, image->size))
		return does_not_fit(image, layout, load, err);
	rc = load_image_part(mem, image, 0, image->size, load, image->size, err);
	return rc ? rc : enter_flat(mem, options, entry, err);
}

int boot_load(struct guest_mem *mem, const struct layout *layout, const struct image *image,
	      const struct boot_options *options, struct boot_entry *entry, struct err *err)
{
	int rc = boot_check_options(image, options, err);

	memset(entry, 0, sizeof(*entry));
	if (rc)
		return rc;
	switch (image->kind) {
	case IMAGE_BZIMAGE:
		return boot_load_linux(mem, layout, image, options, entry, err);
	case IMAGE_PVH:
	case IMAGE_LINUX64:
		return boot_load_elf(mem, layout, image, options, entry, err);
	case IMAGE_MULTIBOOT:
		return boot_load_multiboot(mem, layout, image, options, entry, err);
	case IMAGE_FLAT:
		return boot_load_flat(mem, layout, image, options, entry, err);
	case IMAGE_AUTO:
	case IMAGE_FIRMWARE:
	case IMAGE_DISK:
		break;
	}
	return err_set(err, EINVAL, "%s: %s: firmware starts it, not the boot loader", image->name,
		       image->text);
}
