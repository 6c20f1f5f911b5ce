/*
 * What the boot protocols share: bytes into guest RAM, and the three processor modes in which
 * guests are entered.
 */
#include "machine/load_int.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"

#define CR0_PE	 BIT(0)
#define CR0_ET	 BIT(4)
#define CR0_NW	 BIT(29)
#define CR0_CD	 BIT(30)
#define CR0_PG	 BIT(31)
#define CR4_PAE	 BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

#define PTE_PRESENT BIT(0)
#define PTE_WRITE   BIT(1)
#define PTE_HUGE    BIT(7)

#define RFLAGS_ONE BIT(1) /* the bit that always reads as one */

static unsigned long long ull(u64 v)
{
	return v;
}

/* ---- bytes ---- */

int load_image_part(struct guest_mem *mem, const struct image *image, u64 offset, u64 filesz,
		    gpa_t gpa, u64 memsz, struct err *err)
{
	u8 *to = mem_slice_rw(mem, gpa, memsz);
	int rc;

	if (!to || memsz < filesz)
		return err_set(err, ENOMEM,
			       "%s: needs memory at 0x%llx to 0x%llx, and the guest has %llu MiB; "
			       "give it more with --memory",
			       image->name, ull(gpa), ull(gpa + memsz), ull(mem_size(mem) / MiB));
	rc = image_read(image, offset, to, filesz);
	if (rc)
		return err_set(err, -rc, "%s: cannot read %llu bytes at %llu: %s", image->name,
			       ull(filesz), ull(offset),
			       rc == -EIO ? "the file is truncated" : strerror(-rc));
	memset(to + filesz, 0, memsz - filesz);
	mem_written(mem, gpa, memsz);
	return 0;
}

int load_bytes(struct guest_mem *mem, gpa_t gpa, const void *data, u64 len, const char *what,
	       struct err *err)
{
	if (!mem_write(mem, gpa, data, len))
		return 0;
	return err_set(err, ENOMEM,
		       "no guest memory at 0x%llx for the %s; give it more with "
		       "--memory",
		       ull(gpa), what);
}

int load_check_clear(const struct image *image, gpa_t gpa, u64 size, struct err *err)
{
	static const struct {
		gpa_t at;
		u64 size;
		const char *what;
	} ours[] = {
		{LOAD_GDT, LOAD_ZERO_PAGE + PAGE_SIZE - LOAD_GDT, "the boot information"},
		{LOAD_CMDLINE, LOAD_CMDLINE_MAX, "the command line"},
		{LOAD_PAGES, LOAD_PAGES_SIZE, "the first page tables"},
		{LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, "the ACPI tables"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		if (ranges_overlap(gpa, size, ours[i].at, ours[i].size))
			return err_set(err, EINVAL,
				       "%s: wants to be at 0x%llx to 0x%llx, which overlaps %s at "
				       "0x%llx; link it at 1 MiB (0x100000) or above",
				       image->name, ull(gpa), ull(gpa + size), ours[i].what,
				       ull(ours[i].at));
	return 0;
}

int load_text(struct guest_mem *mem, struct load_texts *texts, const char *text, gpa_t *gpa,
	      struct err *err)
{
	u64 len = strlen(text) + 1;

	if (len > LOAD_CMDLINE_MAX - texts->used)
		return err_set(err, E2BIG, "--append: command lines of more than %llu bytes in all",
			       LOAD_CMDLINE_MAX - 1);
	*gpa = LOAD_CMDLINE + texts->used;
	texts->used += len;
	return load_bytes(mem, *gpa, text, len, "command line", err);
}

/* ---- modules ---- */

int load_modules_size(const struct boot_options *options, u64 align, u64 *size, struct err *err)
{
	*size = 0;
	for (size_t i = 0; i < options->module_count; i++) {
		const struct image *m = options->modules[i].image;

		if (!m->size)
			return err_set(err, EINVAL, "%s: the file is empty", m->name);
		if (m->size > LAYOUT_LOW_MAX || *size > TiB)
			return err_set(err, E2BIG, "%s: too large for an initrd or module",
				       m->name);
		*size = align_up(*size, align) + m->size;
	}
	return 0;
}

int load_modules(struct guest_mem *mem, const struct boot_options *options, u64 align, gpa_t gpa,
		 gpa_t *at, struct err *err)
{
	for (size_t i = 0; i < options->module_count; i++) {
		const struct image *m = options->modules[i].image;
		u64 size = m->size;
		int rc;

		/* What separates joined initrds has to be zero. */
		if (i + 1 < options->module_count)
			size = align_up(size, align);
		rc = load_image_part(mem, m, 0, m->size, gpa, size, err);
		if (rc)
			return rc;
		if (at)
			at[i] = gpa;
		gpa += size;
	}
	return 0;
}

gpa_t load_place_high(u64 size, gpa_t floor, gpa_t limit)
{
	gpa_t at;

	if (size > limit)
		return 0;
	at = align_down(limit - size, PAGE_SIZE);
	return at >= floor ? at : 0;
}

/* ---- processor modes ---- */

static struct kvm_segment segment(u16 selector, u64 base, u32 limit, u8 type)
{
	return (struct kvm_segment){.selector = selector,
				    .base = base,
				    .limit = limit,
				    .type = type,
				    .s = 1,
				    .present = 1};
}

static void set_data_segments(struct kvm_sregs *s, const struct kvm_segment *data)
{
	s->ds = s->es = s->fs = s->gs = s->ss = *data;
}

/* Real mode, all segments at 0. */
static void enter_common(struct boot_entry *entry, u64 rip)
{
	struct kvm_segment data = segment(0, 0, 0xffff, 3);

	memset(entry, 0, sizeof(*entry));
	entry->regs.rip = rip;
	entry->regs.rflags = RFLAGS_ONE;
	entry->sregs.cs = segment(0, 0, 0xffff, 11);
	set_data_segments(&entry->sregs, &data);
	entry->sregs.tr = segment(0, 0, 0xffff, 11);
	entry->sregs.tr.s = 0;
	entry->sregs.ldt = segment(0, 0, 0xffff, 2);
	entry->sregs.ldt.s = 0;
	entry->sregs.idt.limit = 0xffff;
	entry->sregs.gdt.limit = 0xffff;
	entry->sregs.cr0 = CR0_ET;
}

void boot_entry_reset(struct boot_entry *entry)
{
	enter_common(entry, 0xfff0);
	entry->sregs.cs.selector = 0xf000;
	entry->sregs.cs.base = 0xffff0000;
	entry->sregs.cr0 = CR0_ET | CR0_NW | CR0_CD;
}

void boot_entry_apply(const struct boot_entry *entry, struct kvm_sregs *sregs)
{
	struct kvm_sregs kept = *sregs;

	*sregs = entry->sregs;
	sregs->cr8 = kept.cr8;
	sregs->apic_base = kept.apic_base;
	memcpy(sregs->interrupt_bitmap, kept.interrupt_bitmap, sizeof(kept.interrupt_bitmap));
}

int load_enter_real(u64 linear, struct boot_entry *entry)
{
	if (linear >= MiB)
		return -EINVAL;
	enter_common(entry, linear);
	if (linear > 0xffff) {
		entry->regs.rip = linear & 0xf;
		entry->sregs.cs.selector = (u16)(linear >> 4);
		entry->sregs.cs.base = linear & ~0xfULL;
	}
	return 0;
}

/* Null, null, code, data: 4 GiB flat segments. */
static int write_gdt(struct guest_mem *mem, bool long_mode, struct boot_entry *entry,
		     struct err *err)
{
	const u64 gdt[] = {0, 0, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
			   0x00cf93000000ffff};
	struct kvm_segment data = segment(LOAD_DS, 0, 0xffffffff, 3);

	data.g = data.db = 1;
	set_data_segments(&entry->sregs, &data);
	entry->sregs.cs = segment(LOAD_CS, 0, 0xffffffff, 11);
	entry->sregs.cs.g = 1;
	entry->sregs.cs.l = long_mode;
	entry->sregs.cs.db = !long_mode;
	entry->sregs.tr.limit = 0x67;
	entry->sregs.gdt.base = LOAD_GDT;
	entry->sregs.gdt.limit = sizeof(gdt) - 1;
	entry->sregs.idt.limit = 0;
	entry->regs.rsp = LOAD_STACK;
	return load_bytes(mem, LOAD_GDT, gdt, sizeof(gdt), "GDT", err);
}

int load_enter_protected(struct guest_mem *mem, u64 rip, struct boot_entry *entry, struct err *err)
{
	enter_common(entry, rip);
	entry->sregs.cr0 = CR0_PE | CR0_ET;
	return write_gdt(mem, false, entry, err);
}

/* The first 4 GiB one to one in 2 MiB pages: one page of PML4, one of PDPT, four directories. */
static int write_page_tables(struct guest_mem *mem, struct err *err)
{
	u64 *table = mem_slice_rw(mem, LOAD_PAGES, LOAD_PAGES_SIZE);
	const u64 flags = PTE_PRESENT | PTE_WRITE;

	if (!table)
		return err_set(err, ENOMEM,
			       "no guest memory at 0x%llx for page tables; give it "
			       "more with --memory",
			       LOAD_PAGES);
	memset(table, 0, 2 * PAGE_SIZE);
	table[0] = (LOAD_PAGES + PAGE_SIZE) | flags;
	for (u64 i = 0; i < 4; i++)
		table[512 + i] = (LOAD_PAGES + (2 + i) * PAGE_SIZE) | flags;
	for (u64 i = 0; i < 4 * 512; i++)
		table[1024 + i] = i * 2 * MiB | flags | PTE_HUGE;
	mem_written(mem, LOAD_PAGES, LOAD_PAGES_SIZE);
	return 0;
}

int load_enter_long(struct guest_mem *mem, u64 rip, struct boot_entry *entry, struct err *err)
{
	int rc;

	enter_common(entry, rip);
	entry->sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
	entry->sregs.cr4 = CR4_PAE;
	entry->sregs.cr3 = LOAD_PAGES;
	entry->sregs.efer = EFER_LME | EFER_LMA;
	rc = write_gdt(mem, true, entry, err);
	return rc ? rc : write_page_tables(mem, err);
}
