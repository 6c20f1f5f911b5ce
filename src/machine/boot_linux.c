/*
 * Linux, x86 boot protocol (Documentation/arch/x86/boot.rst).
 *
 * 1. The setup header is copied once; every number in it is checked in parse_header() before use.
 * 2. The kernel, its init_size of memory, the zero page, the command line, the initrd and the ACPI
 *    tables never overlap: the kernel lies at or above 1 MiB, the initrd above the kernel's end,
 *    the rest in the first MiB.
 *
 * The kernel is entered at its 64-bit entry where it has one (protocol 2.12, XLF_KERNEL_64), else
 * at the 32-bit one.
 */
#include "machine/load_int.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "machine/boot_int.h"

#define HEADER_OFFSET	   0x1f1
#define HEADER_MAGIC	   0x53726448 /* "HdrS" */
#define ENTRY64_OFFSET	   0x200
#define LOADER_UNDEFINED   0xff
#define KERNEL_MIN	   (1 * MiB)
#define CMDLINE_DEFAULT	   255	      /* before protocol 2.06 */
#define INITRD_MAX_DEFAULT 0x37ffffff /* before protocol 2.03 */
#define ALIGNMENT_MAX	   (1 * GiB)

struct linux_image {
	struct setup_header hdr; /* the image's, what it does not have is zero */
	u64 payload_offset, payload_size;
	u64 memory; /* bytes the kernel needs from its load address on until it knows the map */
	u64 cmdline_max;
	u64 initrd_limit; /* first address that the initrd may not use */
	bool entry64;
};

static int not_bootable(const struct image *image, struct err *err, const char *why)
{
	return err_set(err, ENOEXEC, "%s: not a kernel that can be started: %s", image->name, why);
}

static int read_header(const struct image *image, struct setup_header *hdr)
{
	u8 end;
	u64 len;

	memset(hdr, 0, sizeof(*hdr));
	/* The jump at 0x200 skips the header: its second byte says how long that is. */
	if (image_read(image, 0x201, &end, 1))
		return -EIO;
	len = min((u64)sizeof(*hdr), 0x202ULL + end - HEADER_OFFSET);
	return image_read(image, HEADER_OFFSET, hdr, len);
}

void linux_describe(const struct image *image, char *text, size_t cap)
{
	struct setup_header hdr;
	char version[40] = "";
	u64 at;

	if (read_header(image, &hdr)) {
		snprintf(text, cap, "Linux kernel, truncated");
		return;
	}
	at = hdr.kernel_version + 0x200ULL;
	if (hdr.kernel_version && at < image->size)
		image_read(image, at, version, min((u64)sizeof(version) - 1, image->size - at));
	for (size_t i = 0; i < sizeof(version); i++)
		if (version[i] <= ' ' || version[i] > '~')
			version[i] = 0;
	snprintf(text, cap, "Linux bzImage%s%s, boot protocol %u.%02u", *version ? " " : "",
		 version, hdr.version >> 8, hdr.version & 0xff);
}

static int check_alignment(const struct image *image, const struct setup_header *hdr,
			   struct err *err)
{
	if (!hdr->relocatable_kernel || hdr->version < 0x205)
		return 0;
	if (!is_power_of_2(hdr->kernel_alignment) || hdr->kernel_alignment > ALIGNMENT_MAX)
		return err_set(err, ENOEXEC,
			       "%s: broken setup header: its alignment of 0x%x is no power of two "
			       "up to 1 GiB",
			       image->name, hdr->kernel_alignment);
	return 0;
}

/* Where the protected-mode part lies in the file. */
static int find_payload(const struct image *image, struct linux_image *l, struct err *err)
{
	u64 sectors = l->hdr.setup_sects ? l->hdr.setup_sects : 4;
	u64 want = l->hdr.version >= 0x204 ? l->hdr.syssize : l->hdr.syssize & 0xffff;

	want *= 16;
	l->payload_offset = (sectors + 1) * 512;
	if (l->payload_offset + ENTRY64_OFFSET >= image->size)
		return not_bootable(image, err, "the file is truncated, or its setup_sects wrong");
	l->payload_size = image->size - l->payload_offset;
	/* syssize counts paragraphs: the last one need not be full. A signature may follow. */
	if (want > l->payload_size + 15)
		return err_set(err, ENOEXEC,
			       "%s: truncated: its header promises %llu bytes of kernel and the "
			       "file has %llu; is the download or copy complete?",
			       image->name, (unsigned long long)want,
			       (unsigned long long)l->payload_size);
	if (want > ENTRY64_OFFSET)
		l->payload_size = min(l->payload_size, want);
	return 0;
}

static int parse_header(const struct image *image, struct linux_image *l, struct err *err)
{
	struct setup_header *hdr = &l->hdr;
	int rc;

	memset(l, 0, sizeof(*l));
	if (read_header(image, hdr))
		return not_bootable(image, err, "the file is truncated");
	if (hdr->header != HEADER_MAGIC || hdr->boot_flag != 0xaa55)
		return not_bootable(image, err, "it has no setup header");
	if (hdr->version < 0x202)
		return not_bootable(image, err, "boot protocol before 2.02 (Linux before 2.4)");
	if (!(hdr->loadflags & LOADED_HIGH))
		return not_bootable(image, err, "a zImage; build a bzImage");
	rc = check_alignment(image, hdr, err);
	if (!rc)
		rc = find_payload(image, l, err);
	if (rc)
		return rc;
	l->memory = l->payload_size;
	if (hdr->version >= 0x20a)
		l->memory = max(l->memory, (u64)hdr->init_size);
	l->cmdline_max = hdr->version >= 0x206 ? hdr->cmdline_size : CMDLINE_DEFAULT;
	l->initrd_limit =
		(hdr->version >= 0x203 ? hdr->initrd_addr_max : INITRD_MAX_DEFAULT) + 1ULL;
	l->entry64 = hdr->version >= 0x20c && (hdr->xloadflags & XLF_KERNEL_64);
	return 0;
}

/* Does the guest have RAM for size bytes at gpa, at or above the first MiB and below 4 GiB? */
static bool fits(const struct layout *layout, u64 gpa, u64 size)
{
	return gpa >= KERNEL_MIN && range_fits(gpa, size, layout->low_end);
}

/* The preferred address where it is RAM; a relocatable kernel goes to its lowest place otherwise.
 */
static int place_kernel(const struct image *image, const struct linux_image *l,
			const struct layout *layout, gpa_t *at, struct err *err)
{
	const struct setup_header *hdr = &l->hdr;

	*at = hdr->version >= 0x20a ? hdr->pref_address : KERNEL_MIN;
	if (fits(layout, *at, l->memory))
		return 0;
	if (hdr->version >= 0x205 && hdr->relocatable_kernel) {
		*at = align_up(KERNEL_MIN, hdr->kernel_alignment);
		if (fits(layout, *at, l->memory))
			return 0;
	}
	return err_set(err, ENOMEM,
		       "%s: the kernel needs %llu MiB of memory at 0x%llx to start, and the guest "
		       "has %llu MiB; give it more with --memory",
		       image->name, (unsigned long long)div_round_up(l->memory, MiB),
		       (unsigned long long)*at, (unsigned long long)(layout->memory / MiB));
}

/*
 * As high as the header allows. A kernel that may be loaded above 4 GiB takes an initrd anywhere:
 * initrd_addr_max then only states what old loaders do.
 */
static int place_initrd(const struct linux_image *l, const struct layout *layout, u64 size,
			gpa_t floor, gpa_t *at, struct err *err)
{
	bool anywhere = l->entry64 && (l->hdr.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G);
	gpa_t limit = anywhere ? layout->low_end : min(l->initrd_limit, layout->low_end);

	*at = load_place_high(size, floor, limit);
	if (!*at && anywhere)
		*at = load_place_high(size, LAYOUT_HIGH_BASE, layout->high_end);
	if (*at)
		return 0;
	return err_set(err, ENOMEM,
		       "--initrd: %llu MiB do not fit between the kernel's end at 0x%llx and "
		       "0x%llx; %s",
		       (unsigned long long)div_round_up(size, MiB), (unsigned long long)floor,
		       (unsigned long long)limit,
		       limit < layout->low_end ? "this kernel takes none higher: make it smaller"
					       : "give the guest more with --memory");
}

static int load_initrd(struct guest_mem *mem, const struct linux_image *l,
		       const struct layout *layout, const struct boot_options *options, gpa_t floor,
		       struct boot_params *zero, struct err *err)
{
	gpa_t at;
	u64 size;
	int rc;

	if (!options->module_count)
		return 0;
	rc = load_modules_size(options, 4, &size, err);
	if (!rc)
		rc = place_initrd(l, layout, size, floor, &at, err);
	if (!rc)
		rc = load_modules(mem, options, 4, at, NULL, err);
	if (rc)
		return rc;
	zero->hdr.ramdisk_image = (u32)at;
	zero->hdr.ramdisk_size = (u32)size;
	zero->ext_ramdisk_image = (u32)(at >> 32);
	zero->ext_ramdisk_size = (u32)(size >> 32);
	return 0;
}

static int load_command_line(struct guest_mem *mem, u64 max, const char *cmdline,
			     struct boot_params *zero, struct err *err)
{
	struct load_texts texts = {0};
	gpa_t at;
	int rc;

	cmdline = cmdline ? cmdline : "";
	if (strlen(cmdline) > max)
		return err_set(err, E2BIG,
			       "--append: %zu bytes; this kernel takes a command line of %llu",
			       strlen(cmdline), (unsigned long long)max);
	rc = load_text(mem, &texts, cmdline, &at, err);
	zero->hdr.cmd_line_ptr = (u32)at;
	return rc;
}

static void fill_e820(const struct layout *layout, struct boot_params *zero)
{
	struct e820 map[LAYOUT_E820_MAX];
	size_t n = layout_e820(layout, map);

	for (size_t i = 0; i < n; i++) {
		zero->e820_table[i].addr = map[i].addr;
		zero->e820_table[i].size = map[i].size;
		zero->e820_table[i].type = map[i].type;
	}
	zero->e820_entries = (u8)n;
}

/* What every Linux entry wants: command line, initrd, memory map, RSDP; then the zero page. */
static int load_zero_page(struct guest_mem *mem, const struct linux_image *l,
			  const struct layout *layout, const struct boot_options *options,
			  gpa_t kernel_end, struct boot_params *zero, struct err *err)
{
	int rc;

	zero->hdr.type_of_loader = LOADER_UNDEFINED;
	zero->hdr.setup_data = 0;
	zero->acpi_rsdp_addr = options->acpi_rsdp;
	fill_e820(layout, zero);
	rc = load_command_line(mem, l->cmdline_max, options->cmdline, zero, err);
	if (!rc)
		rc = load_initrd(mem, l, layout, options, align_up(kernel_end, PAGE_SIZE), zero,
				 err);
	if (!rc)
		rc = load_bytes(mem, LOAD_ZERO_PAGE, zero, sizeof(*zero), "zero page", err);
	return rc;
}

int boot_load_linux(struct guest_mem *mem, const struct layout *layout, const struct image *image,
		    const struct boot_options *options, struct boot_entry *entry, struct err *err)
{
	struct boot_params zero = {0};
	struct linux_image l;
	gpa_t at;
	int rc;

	rc = parse_header(image, &l, err);
	if (!rc)
		rc = place_kernel(image, &l, layout, &at, err);
	if (!rc)
		rc = load_image_part(mem, image, l.payload_offset, l.payload_size, at,
				     l.payload_size, err);
	if (rc)
		return rc;
	zero.hdr = l.hdr;
	zero.hdr.code32_start = (u32)at;
	rc = load_zero_page(mem, &l, layout, options, at + l.memory, &zero, err);
	if (!rc)
		rc = l.entry64 ? load_enter_long(mem, at + ENTRY64_OFFSET, entry, err)
			       : load_enter_protected(mem, at, entry, err);
	entry->regs.rsi = LOAD_ZERO_PAGE;
	return rc;
}

/* An uncompressed vmlinux has no setup header: we make the one its decompressor would pass on. */
int linux_enter_vmlinux(struct guest_mem *mem, const struct layout *layout,
			const struct boot_options *options, u64 rip, gpa_t end,
			struct boot_entry *entry, struct err *err)
{
	const struct linux_image l = {.cmdline_max = 2047,
				      .initrd_limit = LAYOUT_LOW_MAX,
				      .entry64 = true,
				      .hdr.xloadflags = XLF_KERNEL_64};
	struct boot_params zero = {0};
	int rc;

	zero.hdr.header = HEADER_MAGIC;
	zero.hdr.boot_flag = 0xaa55;
	zero.hdr.version = 0x20c;
	zero.hdr.loadflags = LOADED_HIGH;
	zero.hdr.xloadflags = XLF_KERNEL_64;
	zero.hdr.cmdline_size = 2047;
	zero.hdr.initrd_addr_max = 0x7fffffff;
	rc = load_zero_page(mem, &l, layout, options, end, &zero, err);
	if (!rc)
		rc = load_enter_long(mem, rip, entry, err);
	entry->regs.rsi = LOAD_ZERO_PAGE;
	return rc;
}
