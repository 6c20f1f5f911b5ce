#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <asm/bootparam.h>

#include "base/endian.h"
#include "images.h"
#include "machine/boot.h"

/* A machine's memory and one image to start in it. */
struct rig {
	struct layout layout;
	struct guest_mem *mem;
	struct image image;
	struct boot_options options;
	struct boot_entry entry;
	struct err err;
};

static void rig_open(struct rig *r, u64 memory)
{
	memset(r, 0, sizeof(*r));
	r->mem = mem_new();
	assert_non_null(r->mem);
	assert_int_equal(layout_make(&r->layout, memory, 40, &r->err), 0);
	assert_int_equal(layout_add_ram(&r->layout, r->mem, MEM_NO_THP, &r->err), 0);
}

static void rig_close(struct rig *r)
{
	image_close(&r->image);
	mem_free(r->mem);
}

/* Recognise and load; 0 or the first error. */
static int rig_load(struct rig *r, const struct test_image *t, enum image_kind want)
{
	int rc;

	image_close(&r->image);
	r->err.text[0] = 0;
	rc = image_from_memory(&r->image, t->name, t->data, t->size, want, &r->err);
	if (rc)
		return rc;
	return boot_load(r->mem, &r->layout, &r->image, &r->options, &r->entry, &r->err);
}

static void expect_error(struct rig *r, const struct test_image *t, enum image_kind want, int rc,
			 const char *text)
{
	assert_int_equal(rig_load(r, t, want), rc);
	if (!strstr(r->err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", r->err.text, text);
}

static u64 guest_le(struct rig *r, gpa_t gpa, unsigned int size)
{
	u8 b[8];

	assert_int_equal(mem_read(r->mem, gpa, b, size), 0);
	return load_le(b, size);
}

static void expect_text(struct rig *r, gpa_t gpa, const char *text)
{
	const char *p = mem_slice(r->mem, gpa, strlen(text) + 1);

	assert_non_null(p);
	assert_string_equal(p, text);
}

static struct image module_of(const char *name, const void *data, u64 size)
{
	return (struct image){.name = (char *)name, .fd = -1, .data = data, .size = size};
}

/* ---- layout ---- */

static void layout(void **state)
{
	struct layout l;
	struct e820 map[LAYOUT_E820_MAX];
	struct err err;
	size_t n;
	u64 sizes[] = {1 * MiB, 512 * MiB, 3 * GiB, 4 * GiB + 4096, 1 * TiB - 8 * GiB};

	assert_int_equal(layout_make(&l, 4096, 40, &err), -EINVAL);
	assert_int_equal(layout_make(&l, 1 * TiB, 40, &err), -E2BIG);
	assert_non_null(strstr(err.text, "1023 GiB is the most"));
	assert_int_equal(layout_make(&l, 2 * TiB, 46, &err), 0);
	assert_int_equal(layout_make(&l, ~0ULL, 52, &err), -E2BIG);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		u64 ram = 0;

		assert_int_equal(layout_make(&l, sizes[i], 40, &err), 0);
		n = layout_e820(&l, map);
		assert_in_range(n, 1, LAYOUT_E820_MAX);
		for (size_t j = 0; j < n; j++) {
			assert_true(map[j].size > 0);
			if (j)
				assert_true(map[j - 1].addr + map[j - 1].size <= map[j].addr);
			ram += map[j].type == E820_RAM ? map[j].size : 0;
		}
		/* All but the first MiB's upper part. */
		assert_int_equal(ram, sizes[i] - (MiB - LAYOUT_EBDA));
		if (l.mmio64_size) {
			assert_true(l.mmio64_base >= l.high_end);
			assert_true(l.mmio64_base + l.mmio64_size <= 1ULL << l.phys_bits);
		}
	}
}

static void layout_ram(void **state)
{
	struct rig r;
	size_t n;
	const struct mem_region *regions;

	rig_open(&r, 5 * GiB);
	regions = mem_regions(r.mem, &n);
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++)
		/* Else no huge pages. */
		assert_int_equal((uintptr_t)regions[i].hva % (2 * MiB), regions[i].gpa % (2 * MiB));
	assert_null(mem_slice(r.mem, LAYOUT_VGA_BASE, 1));
	assert_null(mem_slice(r.mem, LAYOUT_LOW_MAX, 1));
	assert_non_null(mem_slice(r.mem, LAYOUT_LOW_MAX - 1, 1));
	assert_non_null(mem_slice(r.mem, 4 * GiB, 2 * GiB));
	assert_null(mem_slice(r.mem, 6 * GiB, 1));
	rig_close(&r);
}

/* ---- Linux ---- */

static void bzimage(void **state)
{
	static struct test_image t;
	static u8 initrd[5000];
	struct image module = module_of("initrd.img", initrd, sizeof(initrd));
	struct boot_module modules[] = {{&module}, {&module}};
	struct boot_params *zero;
	struct rig r;

	rig_open(&r, 64 * MiB);
	make_bzimage(&t);
	memset(initrd, 0xab, sizeof(initrd));
	r.options.cmdline = "console=ttyS0 quiet";
	r.options.modules = modules;
	r.options.module_count = 1;
	r.options.acpi_rsdp = 0xe0000;
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);

	/* Long mode with paging, interrupts off, rsi at the zero page. */
	assert_int_equal(r.entry.regs.rip, 0x1000200);
	assert_int_equal(r.entry.regs.rflags, 2);
	assert_int_equal(r.entry.sregs.cs.selector, 0x10);
	assert_int_equal(r.entry.sregs.cs.l, 1);
	assert_int_equal(r.entry.sregs.ds.selector, 0x18);
	assert_int_equal(r.entry.sregs.efer, 0x500);
	assert_int_equal(guest_le(&r, r.entry.sregs.gdt.base + 0x10, 8), 0x00af9b000000ffff);
	/* The first and the last 2 MiB of 4 GiB are mapped one to one. */
	{
		u64 pdpt = guest_le(&r, r.entry.sregs.cr3, 8) & ~0xfffULL;
		u64 first = guest_le(&r, pdpt, 8) & ~0xfffULL;
		u64 last = guest_le(&r, pdpt + 3 * 8, 8) & ~0xfffULL;

		assert_int_equal(guest_le(&r, first, 8), 0x83);
		assert_int_equal(guest_le(&r, last + 511 * 8, 8), 0xffe00083);
	}

	zero = mem_slice(r.mem, r.entry.regs.rsi, sizeof(*zero));
	assert_non_null(zero);
	assert_int_equal(zero->hdr.header, 0x53726448);
	assert_int_equal(zero->hdr.type_of_loader, 0xff);
	assert_int_equal(zero->hdr.code32_start, 0x1000000);
	assert_int_equal(zero->acpi_rsdp_addr, 0xe0000);
	expect_text(&r, zero->hdr.cmd_line_ptr, "console=ttyS0 quiet");
	/* As high as memory goes, page-aligned. */
	assert_int_equal(zero->hdr.ramdisk_size, sizeof(initrd));
	assert_int_equal(zero->hdr.ramdisk_image, 64 * MiB - 2 * PAGE_SIZE);
	assert_int_equal(guest_le(&r, zero->hdr.ramdisk_image + 4999, 1), 0xab);
	assert_in_range(zero->e820_entries, 3, LAYOUT_E820_MAX);
	assert_int_equal(guest_le(&r, 0x1000000 + BZ_PAYLOAD_SIZE - 1, 1), 0x90);
	assert_int_equal(guest_le(&r, 0x1000000 + BZ_PAYLOAD_SIZE, 1), 0);

	/* Two are joined, each aligned to four bytes. */
	r.options.module_count = 2;
	module.size = 4999;
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(zero->hdr.ramdisk_size, 5000 + 4999);
	assert_int_equal(guest_le(&r, zero->hdr.ramdisk_image + 4998, 2), 0x00ab);
	assert_int_equal(guest_le(&r, zero->hdr.ramdisk_image + 5000, 1), 0xab);
	rig_close(&r);
}

static void bzimage_places(void **state)
{
	static struct test_image t;
	static u8 byte = 1;
	struct image module = module_of("initrd.img", &byte, 1);
	struct boot_module modules[] = {{&module}};
	struct boot_params *zero;
	struct rig r;

	rig_open(&r, 5 * GiB);
	make_bzimage(&t);
	r.options.modules = modules;
	r.options.module_count = 1;
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	zero = mem_slice(r.mem, r.entry.regs.rsi, sizeof(*zero));
	assert_int_equal(zero->hdr.ramdisk_image, 0x7ffff000);
	store_le16(t.data + 0x236, 3); /* XLF_CAN_BE_LOADED_ABOVE_4G */
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(zero->hdr.ramdisk_image, 0xbffff000);
	store_le32(t.data + 0x22c, 0x37ffffff);
	store_le16(t.data + 0x236, 1);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(zero->hdr.ramdisk_image, 0x37fff000);
	/* Without a 64-bit entry: protected mode at the load address. */
	store_le16(t.data + 0x236, 0);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, 0x1000000);
	assert_int_equal(r.entry.sregs.cs.db, 1);
	assert_int_equal(r.entry.sregs.cr0 & 0x80000001, 1);
	assert_int_equal(r.entry.regs.rsi & 0xfff, 0);
	rig_close(&r);

	/* The preferred address is not RAM: a relocatable kernel goes lower. */
	rig_open(&r, 12 * MiB);
	store_le16(t.data + 0x236, 1);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, 0x200200);
	t.data[0x234] = 0;
	expect_error(&r, &t, IMAGE_AUTO, -ENOMEM, "--memory");
	rig_close(&r);
}

static void bzimage_hostile(void **state)
{
	static struct test_image t;
	static char longest[70000];
	static u8 byte = 1;
	struct image module = module_of("initrd.img", &byte, 41 * MiB);
	struct boot_module modules[] = {{&module}};
	struct rig r;

	rig_open(&r, 64 * MiB);
	make_bzimage(&t);
	t.size = 0x220;
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "truncated");
	t.size = BZ_PAYLOAD_OFFSET;
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "truncated");
	t.size = BZ_PAYLOAD_OFFSET + 0x800;
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "promises 4096 bytes");
	make_bzimage(&t);
	t.data[0x1f1] = 255;
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "setup_sects");
	make_bzimage(&t);
	store_le32(t.data + 0x1f4, ~0u);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "truncated");
	make_bzimage(&t);
	store_le16(t.data + 0x206, 0x201);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "boot protocol before");
	make_bzimage(&t);
	t.data[0x211] = 0;
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "zImage");
	make_bzimage(&t);
	store_le16(t.data + 0x1fe, 0);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "no setup header");
	make_bzimage(&t);
	store_le32(t.data + 0x230, 0x300000);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "no power of two");
	store_le32(t.data + 0x230, 0);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "no power of two");
	make_bzimage(&t);
	store_le32(t.data + 0x260, ~0u);
	expect_error(&r, &t, IMAGE_AUTO, -ENOMEM, "needs 4096 MiB");
	make_bzimage(&t);
	store_le64(t.data + 0x258, ~0ULL);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, 0x200200);
	store_le64(t.data + 0x258, 0x7000);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, 0x200200);

	make_bzimage(&t);
	memset(longest, 'a', 2048);
	r.options.cmdline = longest;
	expect_error(&r, &t, IMAGE_AUTO, -E2BIG, "command line of 2047");
	store_le32(t.data + 0x238, ~0u);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	memset(longest, 'a', sizeof(longest) - 1);
	expect_error(&r, &t, IMAGE_AUTO, -E2BIG, "--append");
	store_le16(t.data + 0x206, 0x205);
	expect_error(&r, &t, IMAGE_AUTO, -E2BIG, "command line of 255");
	r.options.cmdline = NULL;

	make_bzimage(&t);
	r.options.modules = modules;
	r.options.module_count = 1;
	expect_error(&r, &t, IMAGE_AUTO, -ENOMEM, "give the guest more");
	store_le32(t.data + 0x22c, 0x1000000);
	expect_error(&r, &t, IMAGE_AUTO, -ENOMEM, "make it smaller");
	module.size = ~0ULL;
	expect_error(&r, &t, IMAGE_AUTO, -E2BIG, "too large");
	module.size = 0;
	expect_error(&r, &t, IMAGE_AUTO, -EINVAL, "empty");
	rig_close(&r);
}

/* ---- ELF ---- */

static void pvh(void **state)
{
	static struct test_image t;
	static u8 initrd[5000];
	struct image module = module_of("initrd.img", initrd, sizeof(initrd));
	struct boot_module modules[] = {{&module, NULL}, {&module, "second one"}};
	struct rig r;
	gpa_t info, list, map;
	u64 ram = 0;

	rig_open(&r, 5 * GiB);
	make_elf64(&t, true);
	r.options.cmdline = "hello";
	r.options.acpi_rsdp = 0xe0000;
	r.options.modules = modules;
	r.options.module_count = 2;
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, ELF_PADDR + 0x20);
	assert_int_equal(r.entry.sregs.cs.db, 1);
	assert_int_equal(r.entry.sregs.cr4, 0);
	info = r.entry.regs.rbx;
	assert_int_equal(guest_le(&r, info, 4), 0x336ec578);
	assert_int_equal(guest_le(&r, info + 4, 4), 1);
	assert_int_equal(guest_le(&r, info + 12, 4), 2);
	expect_text(&r, guest_le(&r, info + 24, 8), "hello");
	assert_int_equal(guest_le(&r, info + 32, 8), 0xe0000);
	list = guest_le(&r, info + 16, 8);
	assert_int_equal(guest_le(&r, list, 8) % PAGE_SIZE, 0);
	assert_int_equal(guest_le(&r, list + 8, 8), sizeof(initrd));
	expect_text(&r, guest_le(&r, list + 16, 8), "initrd.img");
	assert_int_equal(guest_le(&r, list + 32, 8), guest_le(&r, list, 8) + 2 * PAGE_SIZE);
	expect_text(&r, guest_le(&r, list + 32 + 16, 8), "second one");
	map = guest_le(&r, info + 40, 8);
	for (u64 i = 0; i < guest_le(&r, info + 48, 4); i++)
		if (guest_le(&r, map + i * 24 + 16, 4) == 1)
			ram += guest_le(&r, map + i * 24 + 8, 8);
	assert_int_equal(ram, 5 * GiB - (MiB - LAYOUT_EBDA));
	/* The segment is there and its bss is clear, also the second time. */
	assert_int_equal(guest_le(&r, ELF_PADDR + 0xfff, 1), 0x90);
	assert_int_equal(mem_write(r.mem, ELF_PADDR + 0x1000, "dirt", 4), 0);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(guest_le(&r, ELF_PADDR + 0x1000, 4), 0);
	rig_close(&r);
}

/* A note says that it is Linux, which takes one module: they are joined. */
static void pvh_linux(void **state)
{
	static struct test_image t;
	static u8 initrd[5001];
	struct image module = module_of("initrd.img", initrd, sizeof(initrd));
	struct boot_module modules[] = {{&module, NULL}, {&module, NULL}};
	struct rig r;
	gpa_t list;

	rig_open(&r, 64 * MiB);
	make_elf64(&t, true);
	store_le32(t.data + 0x208, 6);
	memcpy(t.data + 0x20c, "Xen\0linux", 9);
	memset(initrd, 0xab, sizeof(initrd));
	r.options.modules = modules;
	r.options.module_count = 2;
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.image.kind, IMAGE_PVH);
	assert_int_equal(guest_le(&r, r.entry.regs.rbx + 12, 4), 1);
	list = guest_le(&r, r.entry.regs.rbx + 16, 8);
	assert_int_equal(guest_le(&r, list + 8, 8), 5004 + 5001);
	assert_int_equal(guest_le(&r, guest_le(&r, list, 8) + 5000, 8), 0xabababab000000ab);
	rig_close(&r);
}

static void vmlinux(void **state)
{
	static struct test_image t;
	struct boot_params *zero;
	struct rig r;

	rig_open(&r, 64 * MiB);
	make_elf64(&t, false);
	r.options.cmdline = "hello";
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, ELF_PADDR + 0x10);
	assert_int_equal(r.entry.sregs.cs.l, 1);
	zero = mem_slice(r.mem, r.entry.regs.rsi, sizeof(*zero));
	assert_int_equal(zero->hdr.header, 0x53726448);
	expect_text(&r, zero->hdr.cmd_line_ptr, "hello");
	/* A virtual entry point is translated. */
	store_le64(t.data + 24, 0xffffffff81000030);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, ELF_PADDR + 0x30);
	store_le64(t.data + 24, 0x5000);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "entry point");
	rig_close(&r);
}

static void elf_hostile(void **state)
{
	static struct test_image t;
	struct rig r;
	const struct {
		size_t at;
		unsigned int size;
		u64 value;
		int rc;
		const char *text;
	} cases[] = {
		{0x20, 8, 0x1fff, -ENOEXEC, "program headers lie past"},
		{0x20, 8, ~0ULL, -ENOEXEC, "program headers lie past"},
		{0x36, 2, 1, -ENOEXEC, "wrong size"},
		{0x38, 2, 0, -ENOEXEC, "no program headers"},
		{0x38, 2, 0xffff, -ENOEXEC, "too many"},
		{0x40 + 0x08, 8, 0x1001, -ENOEXEC, "past the end"},
		{0x40 + 0x08, 8, ~0ULL, -ENOEXEC, "past the end"},
		{0x40 + 0x20, 8, 0x1001, -ENOEXEC, "past the end"},
		{0x40 + 0x20, 8, ~0ULL, -ENOEXEC, "past the end"},
		{0x40 + 0x28, 8, 0xfff, -ENOEXEC, "larger in the file"},
		{0x40 + 0x28, 8, ~0ULL, -ENOEXEC, "wraps"},
		{0x40 + 0x28, 8, 64 * MiB, -ENOMEM, "--memory"},
		{0x40 + 0x18, 8, 64 * MiB, -ENOMEM, "--memory"},
		{0x40 + 0x18, 8, ~0ULL - 0xfff, -ENOEXEC, "wraps"},
		{0x40 + 0x18, 8, 0x7000, -EINVAL, "link it at 1 MiB"},
		{0x40 + 0x18, 8, 0x8f000, -EINVAL, "page tables"},
		{0x40 + 0x18, 8, 0x9f000, -ENOMEM, "needs memory"},
		{0x40 + 0x00, 4, 7, -ENOEXEC, "nothing in it"},
	};

	rig_open(&r, 64 * MiB);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		make_elf64(&t, true);
		store_le(t.data + cases[i].at, cases[i].size, cases[i].value);
		expect_error(&r, &t, IMAGE_AUTO, cases[i].rc, cases[i].text);
	}
	/* Two segments over each other. */
	make_elf64(&t, false);
	memcpy(t.data + 0x78, t.data + 0x40, 0x38);
	store_le16(t.data + 0x38, 2);
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "overlap");
	rig_close(&r);
}

/* A note whose lengths lie is no note; nothing is read outside. */
static void notes_hostile(void **state)
{
	static struct test_image t;
	const u32 values[] = {0, 3, 5, 0x7fffffff, 0xfffffffc, 0xffffffff};
	const size_t fields[] = {0x200, 0x204, 0x218, 0x21c};
	struct rig r;

	rig_open(&r, 64 * MiB);
	for (size_t f = 0; f < ARRAY_SIZE(fields); f++)
		for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
			make_elf64(&t, true);
			if (load_le32(t.data + fields[f]) == values[v])
				continue;
			store_le32(t.data + fields[f], values[v]);
			assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
			/* A shorter first note still pads to the same place. */
			if (fields[f] == 0x200 && values[v] == 3)
				assert_int_equal(r.image.kind, IMAGE_PVH);
			else
				assert_int_equal(r.image.kind, IMAGE_LINUX64);
		}
	/* An entry that a 32-bit jump cannot reach. */
	make_elf64(&t, true);
	store_le32(t.data + 0x21c, 8);
	store_le64(t.data + 0x228, 1ULL << 40);
	store_le64(t.data + 0x78 + 0x20, 48);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.image.kind, IMAGE_LINUX64);
	rig_close(&r);
}

/* ---- multiboot ---- */

static void multiboot(void **state)
{
	static struct test_image t;
	static u8 data[5000];
	struct image module = module_of("mod", data, sizeof(data));
	struct boot_module modules[] = {{&module, "first"}, {&module, NULL}};
	struct rig r;
	gpa_t info, mods;
	u64 flags;

	rig_open(&r, 64 * MiB);
	make_elf32_multiboot(&t);
	r.options.cmdline = "hello";
	r.options.modules = modules;
	r.options.module_count = 2;
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rax, 0x2badb002);
	assert_int_equal(r.entry.regs.rip, ELF_PADDR + 0x10);
	info = r.entry.regs.rbx;
	flags = guest_le(&r, info, 4);
	assert_int_equal(flags & 0x4d, 0x4d);
	assert_int_equal(guest_le(&r, info + 8, 4), 63 * 1024);
	expect_text(&r, guest_le(&r, info + 16, 4), "hello");
	assert_int_equal(guest_le(&r, info + 20, 4), 2);
	mods = guest_le(&r, info + 24, 4);
	assert_int_equal(guest_le(&r, mods, 4), ELF_PADDR + 0x3000);
	assert_int_equal(guest_le(&r, mods + 4, 4), ELF_PADDR + 0x3000 + 5000);
	expect_text(&r, guest_le(&r, mods + 8, 4), "first");
	assert_int_equal(guest_le(&r, mods + 16, 4), ELF_PADDR + 0x5000);
	expect_text(&r, guest_le(&r, mods + 24, 4), "mod");
	assert_int_equal(guest_le(&r, info + 44, 4) % 24, 0);
	assert_int_equal(guest_le(&r, guest_le(&r, info + 48, 4), 4), 20);

	module.size = 63 * MiB;
	expect_error(&r, &t, IMAGE_AUTO, -ENOMEM, "--memory");
	r.options.module_count = 65;
	expect_error(&r, &t, IMAGE_AUTO, -E2BIG, "more than 64");
	rig_close(&r);
}

static void kludge(void **state)
{
	static struct test_image t;
	struct rig r;
	const struct {
		size_t at;
		u32 value;
		int rc;
		const char *text;
	} cases[] = {
		{12, KLUDGE_LOAD - 1, -ENOEXEC, "load_addr"},
		{12, KLUDGE_LOAD + KLUDGE_HEADER + 4, -ENOEXEC, "load_addr"},
		{12, ~0u, -ENOEXEC, "load_addr"},
		{16, 0, -ENOEXEC, "load_addr"},
		{20, KLUDGE_LOAD - 1, -ENOEXEC, "load_end_addr"},
		{20, KLUDGE_LOAD + 0x1001, -ENOEXEC, "load_end_addr"},
		{20, ~0u, -ENOEXEC, "load_end_addr"},
		{24, KLUDGE_LOAD + 0xfff, -ENOEXEC, "bss_end_addr"},
		{24, ~0u, -ENOMEM, "--memory"},
	};

	rig_open(&r, 64 * MiB);
	make_kludge(&t);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, KLUDGE_LOAD + 0x40);
	assert_int_equal(guest_le(&r, KLUDGE_LOAD + 0xfff, 1), 0x90);
	assert_int_equal(guest_le(&r, KLUDGE_LOAD + 0x1000, 1), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		make_kludge(&t);
		store_le32(t.data + KLUDGE_HEADER + cases[i].at, cases[i].value);
		expect_error(&r, &t, IMAGE_AUTO, cases[i].rc, cases[i].text);
	}
	/* load_end_addr 0 means all of the file, bss_end_addr 0 no bss. */
	make_kludge(&t);
	store_le32(t.data + KLUDGE_HEADER + 20, 0);
	store_le32(t.data + KLUDGE_HEADER + 24, 0);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	/* Something that only a later loader knows. */
	make_kludge(&t);
	store_le32(t.data + KLUDGE_HEADER + 4, 0x10008);
	store_le32(t.data + KLUDGE_HEADER + 8, -(0x1badb002 + 0x10008));
	expect_error(&r, &t, IMAGE_AUTO, -ENOEXEC, "requires features 0x8");
	rig_close(&r);
}

/* ---- flat ---- */

static void flat(void **state)
{
	static struct test_image t = {.data = {0xf4, 0xeb, 0xfd}, .size = 3, .name = "flat"};
	struct kvm_sregs sregs = {.apic_base = 0xfee00900, .cr8 = 3, .interrupt_bitmap = {5}};
	struct rig r;

	rig_open(&r, 64 * MiB);
	assert_int_equal(rig_load(&r, &t, IMAGE_AUTO), 0);
	assert_int_equal(r.entry.regs.rip, 0x1000);
	assert_int_equal(r.entry.sregs.cs.base, 0);
	assert_int_equal(r.entry.sregs.cs.selector, 0);
	assert_int_equal(r.entry.sregs.cr0 & 1, 0);
	assert_int_equal(guest_le(&r, 0x1000, 2), 0xebf4);
	boot_entry_apply(&r.entry, &sregs);
	assert_int_equal(sregs.apic_base, 0xfee00900);
	assert_int_equal(sregs.cr8, 3);
	assert_int_equal(sregs.interrupt_bitmap[0], 5);
	assert_int_equal(sregs.cs.limit, 0xffff);

	r.options.has_load = r.options.has_entry = true;
	r.options.load = 0x12340;
	r.options.flat_entry = 0x12345;
	assert_int_equal(rig_load(&r, &t, IMAGE_FLAT), 0);
	assert_int_equal(r.entry.sregs.cs.base + r.entry.regs.rip, 0x12345);
	assert_int_equal(r.entry.sregs.cs.selector, 0x1234);
	r.options.load = 2 * MiB;
	r.options.flat_entry = 2 * MiB;
	expect_error(&r, &t, IMAGE_FLAT, -EINVAL, "below 1 MiB");
	r.options.mode = BOOT_PROTECTED;
	assert_int_equal(rig_load(&r, &t, IMAGE_FLAT), 0);
	assert_int_equal(r.entry.sregs.cs.db, 1);
	r.options.mode = BOOT_LONG;
	assert_int_equal(rig_load(&r, &t, IMAGE_FLAT), 0);
	assert_int_equal(r.entry.sregs.cs.l, 1);
	assert_int_equal(r.entry.regs.rip, 2 * MiB);
	rig_close(&r);
}

static void flat_conflicts(void **state)
{
	static struct test_image t = {.data = {0xf4}, .size = 0x2000, .name = "flat"};
	struct image module = module_of("mod", t.data, 1);
	struct boot_module modules[] = {{&module}};
	const struct {
		enum boot_mode mode;
		u64 load;
		int rc;
		const char *text;
	} cases[] = {
		{BOOT_REAL, 0x9f000, -ENOMEM, "video memory"},
		{BOOT_REAL, 0xdf000, -EINVAL, "ACPI tables"},
		{BOOT_PROTECTED, 0x400, -EINVAL, "GDT"},
		{BOOT_LONG, 0x8f000, -EINVAL, "page tables"},
		{BOOT_LONG, 64 * MiB - 0x1000, -ENOMEM, "--memory"},
		{BOOT_LONG, 0xbffff000, -ENOMEM, "devices between 3 and 4 GiB"},
		{BOOT_LONG, ~0ULL - 0xfff, -EINVAL, "4 GiB"},
	};
	struct rig r;

	rig_open(&r, 64 * MiB);
	r.options.acpi_rsdp = LAYOUT_ACPI_BASE;
	r.options.has_load = true;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		r.options.mode = cases[i].mode;
		r.options.load = cases[i].load;
		expect_error(&r, &t, IMAGE_FLAT, cases[i].rc, cases[i].text);
	}
	/* The load address wraps although the entry does not. */
	r.options.load = ~0ULL - 0xfff;
	r.options.has_entry = true;
	r.options.flat_entry = 0x1000;
	expect_error(&r, &t, IMAGE_FLAT, -EINVAL, "wrap");
	memset(&r.options, 0, sizeof(r.options));
	r.options.modules = modules;
	r.options.module_count = 1;
	expect_error(&r, &t, IMAGE_FLAT, -EINVAL, "--initrd");
	r.options.module_count = 0;
	r.options.cmdline = "x";
	expect_error(&r, &t, IMAGE_FLAT, -EINVAL, "--append");
	make_bzimage(&t);
	r.options.mode = BOOT_LONG;
	expect_error(&r, &t, IMAGE_AUTO, -EINVAL, "--load, --entry and --mode");
	r.options.mode = BOOT_REAL;
	expect_error(&r, &t, IMAGE_DISK, -EINVAL, "firmware");
	rig_close(&r);
}

/* ---- firmware ---- */

static void firmware(void **state)
{
	static u8 rom[512 * 1024];
	const u64 sizes[] = {64 * KiB, 256 * KiB, 512 * KiB};
	const u64 shadows[] = {64 * KiB, 256 * KiB, 128 * KiB};
	struct rig r;

	for (size_t i = 0; i < sizeof(rom); i++)
		rom[i] = (u8)(i / 4096 + i);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		u8 *shadow, *top;

		rig_open(&r, 2 * MiB);
		assert_int_equal(
			image_from_memory(&r.image, "rom", rom, sizes[i], IMAGE_FIRMWARE, &r.err),
			0);
		assert_int_equal(firmware_map(r.mem, &r.image, &r.err), 0);
		assert_int_equal(firmware_load(r.mem, &r.image, &r.entry, &r.err), 0);
		assert_int_equal(r.entry.sregs.cs.base + r.entry.regs.rip, 0xfffffff0);
		assert_null(mem_slice_rw(r.mem, 4 * GiB - sizes[i], 1));
		top = mem_slice(r.mem, 4 * GiB - sizes[i], sizes[i]);
		assert_memory_equal(top, rom, sizes[i]);
		shadow = mem_slice_rw(r.mem, MiB - shadows[i], shadows[i]);
		assert_memory_equal(shadow, rom + sizes[i] - shadows[i], shadows[i]);
		/* The guest may scribble; a reset heals. */
		memset(shadow, 0, 16);
		assert_int_equal(firmware_load(r.mem, &r.image, &r.entry, &r.err), 0);
		assert_memory_equal(shadow, rom + sizes[i] - shadows[i], shadows[i]);
		rig_close(&r);
	}
	rig_open(&r, 2 * MiB);
	r.image = module_of("rom", rom, 1000);
	assert_int_equal(firmware_map(r.mem, &r.image, &r.err), -EINVAL);
	assert_non_null(strstr(r.err.text, "no multiple of 4 KiB"));
	r.image.size = 17 * MiB;
	assert_int_equal(firmware_map(r.mem, &r.image, &r.err), -EFBIG);
	r.image.size = 0;
	assert_int_equal(firmware_map(r.mem, &r.image, &r.err), -EINVAL);
	memset(&r.image, 0, sizeof(r.image));
	rig_close(&r);
}

/* ---- everything that can be bent, bent ---- */

/*
 * Every 1, 2, 4 and 8 byte field of the headers gets every value that has broken a loader: none may
 * crash, read outside the image (the sanitizer build sees it) or enter outside memory.
 */
static void every_field(void **state)
{
	static const u64 values[] = {0,		 1,	     0x7f,	 0x80,	     0xff,
				     0xfff,	 0x1000,     0x7fff,	 0x8000,     0xffff,
				     0xfffff,	 0x100000,   0x7fffffff, 0x80000000, 0xfffff000,
				     0xffffffff, 1ULL << 32, 1ULL << 40, 1ULL << 63, ~0ULL - 0xfff,
				     ~0ULL};
	static struct test_image t, bent;
	static u8 byte = 1;
	struct image module = module_of("mod", &byte, 1);
	struct boot_module modules[] = {{&module}};
	struct rig r;
	size_t loaded = 0, refused = 0;

	rig_open(&r, 32 * MiB);
	r.options.modules = modules;
	r.options.module_count = 1;
	for (int kind = 0; kind < 5; kind++) {
		size_t from = 0, to = 0x100;

		if (kind == 0)
			make_bzimage(&t), from = 0x1f0, to = 0x270;
		else if (kind == 1)
			make_elf64(&t, true), to = 0x22c;
		else if (kind == 2)
			make_elf64(&t, false);
		else if (kind == 3)
			make_elf32_multiboot(&t);
		else
			make_kludge(&t);
		for (size_t at = from; at < to; at++)
			for (size_t v = 0; v < ARRAY_SIZE(values) * 4; v++) {
				unsigned int size = 1u << (v % 4);

				bent = t;
				store_le(bent.data + at, size, values[v / 4]);
				if (rig_load(&r, &bent, IMAGE_AUTO)) {
					refused++;
					if (image_kind_name(r.image.kind)[0] != 'd')
						assert_true(r.err.text[0]);
					continue;
				}
				loaded++;
				assert_true(r.entry.regs.rip < 4 * GiB);
			}
	}
	/* Both happen a lot, or the test does not test. */
	assert_true(loaded > 1000 && refused > 1000);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout),
		cmocka_unit_test(layout_ram),
		cmocka_unit_test(bzimage),
		cmocka_unit_test(bzimage_places),
		cmocka_unit_test(bzimage_hostile),
		cmocka_unit_test(pvh),
		cmocka_unit_test(pvh_linux),
		cmocka_unit_test(vmlinux),
		cmocka_unit_test(elf_hostile),
		cmocka_unit_test(notes_hostile),
		cmocka_unit_test(multiboot),
		cmocka_unit_test(kludge),
		cmocka_unit_test(flat),
		cmocka_unit_test(flat_conflicts),
		cmocka_unit_test(firmware),
		cmocka_unit_test(every_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
