/*
 * ELF kernels: through the PVH entry (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/
 * start_info.h), or as an uncompressed 64-bit Linux.
 */
#include "machine/load_int.h"

#include <errno.h>

#include "base/bits.h"
#include "machine/boot_int.h"
#include "machine/elf_int.h"

#define START_MAGIC   0x336ec578
#define START_VERSION 1
#define MODULES_MAX   64

struct start_info {
	u32 magic, version, flags, module_count;
	u64 modules, cmdline, rsdp, memmap;
	u32 memmap_count, reserved;
};

struct start_module {
	u64 addr, size, cmdline, reserved;
};

struct start_memmap {
	u64 addr, size;
	u32 type, reserved;
};

/* All of it, at LOAD_START_INFO. */
struct start_area {
	struct start_info info;
	struct start_memmap memmap[LAYOUT_E820_MAX];
	struct start_module module[MODULES_MAX];
};

_Static_assert(LOAD_START_INFO + sizeof(struct start_area) < LOAD_STACK - 1024,
	       "the start info leaves room for the stack");

static void fill_memmap(const struct layout *layout, struct start_area *area)
{
	struct e820 map[LAYOUT_E820_MAX];
	size_t n = layout_e820(layout, map);

	for (size_t i = 0; i < n; i++)
		area->memmap[i] = (struct start_memmap){
			.addr = map[i].addr, .size = map[i].size, .type = map[i].type};
	area->info.memmap = LOAD_START_INFO + offsetof(struct start_area, memmap);
	area->info.memmap_count = (u32)n;
}

static int fill_texts(struct guest_mem *mem, const struct boot_options *options,
		      struct start_area *area, struct err *err)
{
	struct load_texts texts = {0};
	int rc = load_text(mem, &texts, options->cmdline ? options->cmdline : "",
			   &area->info.cmdline, err);

	for (size_t i = 0; i < options->module_count && !rc; i++) {
		const struct boot_module *m = &options->modules[i];

		rc = load_text(mem, &texts, m->cmdline ? m->cmdline : m->image->name,
			       &area->module[i].cmdline, err);
	}
	return rc;
}

/* Linux takes one module, its initrd: several are joined, as its own loader protocol has it. */
static int fill_modules(struct guest_mem *mem, const struct layout *layout, const struct elf *elf,
			const struct boot_options *options, gpa_t floor, struct start_area *area,
			struct err *err)
{
	u64 align = elf->is_linux ? 4 : PAGE_SIZE, size;
	gpa_t where[MODULES_MAX], at;
	int rc;

	if (!options->module_count)
		return 0;
	if (options->module_count > MODULES_MAX)
		return err_set(err, E2BIG, "--initrd: more than %d modules", MODULES_MAX);
	rc = load_modules_size(options, align, &size, err);
	if (rc)
		return rc;
	at = load_place_high(size, align_up(floor, PAGE_SIZE), layout->low_end);
	if (!at)
		return err_set(err, ENOMEM,
			       "--initrd: %llu MiB do not fit between the kernel's end at 0x%llx "
			       "and 0x%llx; give the guest more with --memory",
			       (unsigned long long)div_round_up(size, MiB),
			       (unsigned long long)floor, (unsigned long long)layout->low_end);
	rc = load_modules(mem, options, align, at, where, err);
	for (size_t i = 0; i < options->module_count && !rc; i++) {
		area->module[i].addr = where[i];
		area->module[i].size = options->modules[i].image->size;
	}
	area->info.modules = LOAD_START_INFO + offsetof(struct start_area, module);
	area->info.module_count = (u32)options->module_count;
	if (elf->is_linux) {
		area->module[0].size = size;
		area->info.module_count = 1;
	}
	return rc;
}

static int enter_pvh(struct guest_mem *mem, const struct layout *layout, const struct elf *elf,
		     const struct boot_options *options, gpa_t end, struct boot_entry *entry,
		     struct err *err)
{
	struct start_area area = {.info = {.magic = START_MAGIC,
					   .version = START_VERSION,
					   .rsdp = options->acpi_rsdp}};
	int rc;

	fill_memmap(layout, &area);
	rc = fill_modules(mem, layout, elf, options, end, &area, err);
	if (!rc)
		rc = fill_texts(mem, options, &area, err);
	if (!rc)
		rc = load_bytes(mem, LOAD_START_INFO, &area, sizeof(area), "start info", err);
	if (!rc)
		rc = load_enter_protected(mem, elf->pvh_entry, entry, err);
	entry->regs.rbx = LOAD_START_INFO;
	return rc;
}

static int enter_vmlinux(struct guest_mem *mem, const struct layout *layout,
			 const struct image *image, const struct elf *elf,
			 const struct boot_options *options, gpa_t end, struct boot_entry *entry,
			 struct err *err)
{
	u64 rip;
	int rc = elf_entry(image, elf, &rip, err);

	if (rc)
		return rc;
	if (rip >= LAYOUT_HIGH_BASE)
		return err_set(err, ENOEXEC, "%s: its entry point 0x%llx is above 4 GiB",
			       image->name, (unsigned long long)rip);
	return linux_enter_vmlinux(mem, layout, options, rip, end, entry, err);
}

int boot_load_elf(struct guest_mem *mem, const struct layout *layout, const struct image *image,
		  const struct boot_options *options, struct boot_entry *entry, struct err *err)
{
	struct elf elf;
	gpa_t end;
	int rc = elf_parse(image, &elf, err);

	if (!rc)
		rc = elf_load(mem, image, &elf, &end, err);
	if (rc)
		return rc;
	if (elf.has_pvh)
		return enter_pvh(mem, layout, &elf, options, end, entry, err);
	return enter_vmlinux(mem, layout, image, &elf, options, end, entry, err);
}
