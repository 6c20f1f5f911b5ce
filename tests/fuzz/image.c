/*
 * Images that a user was handed: recognise and load whatever this is, into 16 MiB of RAM.
 *
 * Input: options (1 byte: mode in bits 0 and 1, a module in bit 2, a command line in bit 3, a load
 * address in bit 4, and in bits 5 to 7 what the user says it is), load address (2 bytes, in units
 * of 4 KiB), then the image.
 */
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "machine/boot.h"

#define RAM  (16 * MiB)
#define HEAD 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const enum image_kind wishes[8] = {IMAGE_AUTO,	   IMAGE_AUTO,	  IMAGE_AUTO,
					  IMAGE_FLAT,	   IMAGE_BZIMAGE, IMAGE_PVH,
					  IMAGE_MULTIBOOT, IMAGE_FIRMWARE};

static struct layout layout;

/* Kept from one input to the next, as a machine that is reset keeps its memory. */
static struct guest_mem *memory(void)
{
	static struct guest_mem *mem;
	struct err err;

	if (mem)
		return mem;
	mem = mem_new();
	if (!mem || layout_make(&layout, RAM, 40, &err) ||
	    layout_add_ram(&layout, mem, MEM_NO_THP, &err))
		abort();
	return mem;
}

static void load(struct guest_mem *mem, const struct image *image, const uint8_t *head)
{
	static const u8 bytes[5000] = {1, 2, 3};
	struct image module = {.name = "module", .fd = -1, .data = bytes, .size = sizeof(bytes)};
	const struct boot_module modules[] = {{&module, NULL}, {&module, "text"}};
	const struct boot_options options = {.cmdline = head[0] & 8 ? "console=ttyS0" : NULL,
					     .modules = modules,
					     .module_count = head[0] & 4 ? 2 : 0,
					     .acpi_rsdp = LAYOUT_ACPI_BASE,
					     .has_load = head[0] & 16,
					     .load = (u64)load_le16(head + 1) << 12,
					     .mode = (enum boot_mode)(head[0] % 4 % 3)};
	struct boot_entry entry;
	struct err err = {{0}};

	if (boot_load(mem, &layout, image, &options, &entry, &err)) {
		/* Every refusal says something. */
		if (!err.text[0])
			abort();
		return;
	}
	if (entry.regs.rip >= 4 * GiB)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct guest_mem *mem = memory();
	struct image image;
	struct err err = {{0}};

	if (size < HEAD)
		return 0;
	if (image_from_memory(&image, "image", data + HEAD, size - HEAD, wishes[data[0] >> 5],
			      &err)) {
		if (!strstr(err.text, "image"))
			abort();
		return 0;
	}
	if (!image.text[0] || strlen(image.text) >= sizeof(image.text))
		abort();
	load(mem, &image, data);
	image_close(&image);
	return 0;
}
