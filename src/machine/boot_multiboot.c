/*
 * Multiboot 1 (Multiboot Specification version 0.6.96): ELF images and images that describe
 * themselves in the header (the a.out kludge).
 */
#include "machine/load_int.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "machine/boot_int.h"
#include "machine/elf_int.h"

#define HEADER_MAGIC   0x1badb002
#define BOOT_MAGIC     0x2badb002
#define FLAG_ADDRESSES BIT(16)
#define FLAGS_KNOWN    (BIT(0) | BIT(1) | BIT(2) | FLAG_ADDRESSES)
#define FLAGS_MUST     0xffffULL
#define MODULES_MAX    64
#define LOADER_NAME    "bothy"

/* Bits of info.flags. */
#define INFO_MEMORY  BIT(0)
#define INFO_CMDLINE BIT(2)
#define INFO_MODS    BIT(3)
#define INFO_MMAP    BIT(6)
#define INFO_LOADER  BIT(9)

struct header {
	u32 magic, flags, checksum;
	u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	u32 syms[4];
	u32 mmap_length, mmap_addr, drives_length, drives_addr, config_table, loader_name;
	u32 apm_table, vbe[4];
	u8 framebuffer[24];
};

struct mmap_entry {
	u32 size; /* of the rest */
	u64 addr, len;
	u32 type;
} PACKED;

struct module {
	u32 start, end, cmdline, reserved;
};

struct area {
	struct info info;
	struct mmap_entry mmap[LAYOUT_E820_MAX];
	struct module module[MODULES_MAX];
};

_Static_assert(LOAD_START_INFO + sizeof(struct area) < LOAD_STACK - 1024,
	       "the multiboot information leaves room for the stack");

bool multiboot_find(const u8 *data, size_t len, size_t *offset)
{
	len = min(len, (size_t)MULTIBOOT_SEARCH);
	for (size_t at = 0; range_fits(at, 12, len); at += 4) {
		if (load_le32(data + at) != HEADER_MAGIC)
			continue;
		if (HEADER_MAGIC + load_le32(data + at + 4) + load_le32(data + at + 8))
			continue;
		if (offset)
			*offset = at;
		return true;
	}
	return false;
}

static int read_header(const struct image *image, struct header *h, size_t *at, struct err *err)
{
	u8 head[MULTIBOOT_SEARCH];
	size_t len = (size_t)min((u64)sizeof(head), image->size);

	memset(h, 0, sizeof(*h));
	if (image_read(image, 0, head, len) || !multiboot_find(head, len, at))
		return err_set(err, ENOEXEC, "%s: no multiboot header in its first 8 KiB",
			       image->name);
	memcpy(h, head + *at, min(sizeof(*h), len - *at));
	if (h->flags & FLAGS_MUST & ~FLAGS_KNOWN)
		return err_set(err, ENOEXEC,
			       "%s: its multiboot header requires features 0x%x, which no loader "
			       "knows",
			       image->name, (u32)(h->flags & FLAGS_MUST & ~FLAGS_KNOWN));
	return 0;
}

/* The addresses of the kludge are the image's own: all are checked against each other. */
static int load_kludge(struct guest_mem *mem, const struct image *image, const struct header *h,
		       size_t at, gpa_t *end, struct err *err)
{
	u64 offset, filesz, memsz;
	int rc;

	if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > at)
		return err_set(err, ENOEXEC,
			       "%s: broken multiboot header: load_addr 0x%x does not go with "
			       "header_addr 0x%x at %zu of the file",
			       image->name, h->load_addr, h->header_addr, at);
	offset = at - (h->header_addr - h->load_addr);
	filesz = h->load_end_addr ? (u64)h->load_end_addr - h->load_addr : image->size - offset;
	if ((h->load_end_addr && h->load_end_addr < h->load_addr) ||
	    !range_fits(offset, filesz, image->size))
		return err_set(err, ENOEXEC,
			       "%s: broken multiboot header: load_end_addr 0x%x is past the end of "
			       "the file; is it complete?",
			       image->name, h->load_end_addr);
	memsz = filesz;
	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr + filesz)
			return err_set(err, ENOEXEC,
				       "%s: broken multiboot header: bss_end_addr 0x%x is below "
				       "the end of the data",
				       image->name, h->bss_end_addr);
		memsz = (u64)h->bss_end_addr - h->load_addr;
	}
	rc = load_check_clear(image, h->load_addr, memsz, err);
	if (rc)
		return rc;
	*end = h->load_addr + memsz;
	return load_image_part(mem, image, offset, filesz, h->load_addr, memsz, err);
}

static int load_elf(struct guest_mem *mem, const struct image *image, gpa_t *end, u64 *rip,
		    struct err *err)
{
	struct elf elf;
	int rc = elf_parse(image, &elf, err);

	if (!rc)
		rc = elf_load(mem, image, &elf, end, err);
	if (!rc)
		rc = elf_entry(image, &elf, rip, err);
	if (!rc && *rip > UINT32_MAX)
		rc = err_set(err, ENOEXEC, "%s: its entry point 0x%llx is above 4 GiB", image->name,
			     (unsigned long long)*rip);
	return rc;
}

static int load_kernel(struct guest_mem *mem, const struct image *image, gpa_t *end, u64 *rip,
		       struct err *err)
{
	struct header h;
	size_t at;
	int rc = read_header(image, &h, &at, err);

	if (rc)
		return rc;
	if (!(h.flags & FLAG_ADDRESSES))
		return load_elf(mem, image, end, rip, err);
	*rip = h.entry_addr;
	return load_kludge(mem, image, &h, at, end, err);
}

static void fill_memory(const struct layout *layout, struct area *area)
{
	struct e820 map[LAYOUT_E820_MAX];
	size_t n = layout_e820(layout, map);

	for (size_t i = 0; i < n; i++)
		area->mmap[i] = (struct mmap_entry){.size = sizeof(struct mmap_entry) - 4,
						    .addr = map[i].addr,
						    .len = map[i].size,
						    .type = map[i].type};
	area->info.mem_lower = LAYOUT_EBDA / KiB;
	area->info.mem_upper = (u32)((layout->low_end - MiB) / KiB);
	area->info.mmap_addr = LOAD_START_INFO + offsetof(struct area, mmap);
	area->info.mmap_length = (u32)(n * sizeof(struct mmap_entry));
	area->info.flags |= INFO_MEMORY | INFO_MMAP;
}

/* Modules follow the kernel: small kernels map little more than themselves. */
static int fill_modules(struct guest_mem *mem, const struct layout *layout,
			const struct boot_options *options, gpa_t end, struct area *area,
			struct err *err)
{
	gpa_t where[MODULES_MAX], at = align_up(max(end, (gpa_t)MiB), PAGE_SIZE);
	u64 size;
	int rc;

	if (options->module_count > MODULES_MAX)
		return err_set(err, E2BIG, "--initrd: more than %d modules", MODULES_MAX);
	rc = load_modules_size(options, PAGE_SIZE, &size, err);
	if (rc)
		return rc;
	if (size && !range_fits(at, size, layout->low_end))
		return err_set(err, ENOMEM,
			       "--initrd: %llu MiB of modules do not fit between the kernel's end "
			       "at 0x%llx and 0x%llx; give the guest more with --memory",
			       (unsigned long long)div_round_up(size, MiB), (unsigned long long)at,
			       (unsigned long long)layout->low_end);
	rc = load_modules(mem, options, PAGE_SIZE, at, where, err);
	for (size_t i = 0; i < options->module_count && !rc; i++) {
		area->module[i].start = (u32)where[i];
		area->module[i].end = (u32)(where[i] + options->modules[i].image->size);
	}
	area->info.mods_count = (u32)options->module_count;
	area->info.mods_addr = LOAD_START_INFO + offsetof(struct area, module);
	area->info.flags |= INFO_MODS;
	return rc;
}

static int fill_texts(struct guest_mem *mem, const struct boot_options *options, struct area *area,
		      struct err *err)
{
	struct load_texts texts = {0};
	gpa_t at;
	int rc = load_text(mem, &texts, options->cmdline ? options->cmdline : "", &at, err);

	area->info.cmdline = (u32)at;
	if (!rc)
		rc = load_text(mem, &texts, LOADER_NAME, &at, err);
	area->info.loader_name = (u32)at;
	for (size_t i = 0; i < options->module_count && !rc; i++) {
		const struct boot_module *m = &options->modules[i];

		rc = load_text(mem, &texts, m->cmdline ? m->cmdline : m->image->name, &at, err);
		area->module[i].cmdline = (u32)at;
	}
	area->info.flags |= INFO_CMDLINE | INFO_LOADER;
	return rc;
}

int boot_load_multiboot(struct guest_mem *mem, const struct layout *layout,
			const struct image *image, const struct boot_options *options,
			struct boot_entry *entry, struct err *err)
{
	struct area area = {0};
	gpa_t end = 0;
	u64 rip = 0;
	int rc = load_kernel(mem, image, &end, &rip, err);

	if (rc)
		return rc;
	fill_memory(layout, &area);
	rc = fill_modules(mem, layout, options, end, &area, err);
	if (!rc)
		rc = fill_texts(mem, options, &area, err);
	if (!rc)
		rc = load_bytes(mem, LOAD_START_INFO, &area, sizeof(area), "multiboot information",
				err);
	if (!rc)
		rc = load_enter_protected(mem, rip, entry, err);
	entry->regs.rax = BOOT_MAGIC;
	entry->regs.rbx = LOAD_START_INFO;
	return rc;
}
