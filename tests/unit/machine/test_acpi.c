#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "acpi_configs.h"
#include "base/endian.h"
#include "machine/aml.h"
#include "machine/layout.h"

static u8 sum(const void *p, size_t len)
{
	const u8 *b = p;
	u8 s = 0;

	while (len--)
		s = (u8)(s + *b++);
	return s;
}

static struct guest_mem *memory(void)
{
	struct guest_mem *mem = mem_new();
	struct err err;

	assert_non_null(mem);
	assert_int_equal(mem_add_ram(mem, 0, 2 * MiB, MEM_NO_THP, &err), 0);
	return mem;
}

/* A table by its signature, found as an OS does: RSDP, XSDT (or RSDT), and from the FADT on. */
static const u8 *find_table(struct guest_mem *mem, gpa_t rsdp, const char *signature, bool xsdt)
{
	const u8 *r = mem_slice(mem, rsdp, 36), *root;
	unsigned int size = xsdt ? 8 : 4;
	u64 at;

	assert_memory_equal(r, "RSD PTR ", 8);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	at = xsdt ? load_le64(r + 24) : load_le32(r + 16);
	root = mem_slice(mem, at, 36);
	assert_non_null(root);
	assert_memory_equal(root, xsdt ? "XSDT" : "RSDT", 4);
	assert_int_equal(sum(root, load_le32(root + 4)), 0);
	for (u32 i = 36; i < load_le32(root + 4); i += size) {
		const u8 *t = mem_slice(mem, load_le(root + i, size), 36);

		assert_non_null(t);
		assert_int_equal(sum(t, load_le32(t + 4)), 0);
		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static void check_set(struct guest_mem *mem, gpa_t rsdp, const struct acpi_case *c)
{
	const u8 *fadt = find_table(mem, rsdp, "FACP", true), *dsdt, *facs, *madt;
	u32 cpus = 0;

	assert_non_null(fadt);
	assert_ptr_equal(fadt, find_table(mem, rsdp, "FACP", false));
	assert_int_equal(load_le32(fadt + 4), 276);
	dsdt = mem_slice(mem, load_le32(fadt + 40), 36);
	assert_memory_equal(dsdt, "DSDT", 4);
	assert_int_equal(sum(dsdt, load_le32(dsdt + 4)), 0);
	assert_int_equal(load_le64(fadt + 140), load_le32(fadt + 40));
	facs = mem_slice(mem, load_le32(fadt + 36), 64);
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(load_le32(fadt + 36) % 64, 0);

	madt = find_table(mem, rsdp, "APIC", true);
	assert_non_null(madt);
	for (u32 i = 44; i < load_le32(madt + 4); i += madt[i + 1]) {
		assert_true(madt[i + 1] > 0);
		cpus += madt[i] == 0 || madt[i] == 9;
	}
	assert_int_equal(cpus, cpu_topology_count(&c->cpus));
	if (c->config.pci && c->config.pci->ecam_base)
		assert_int_equal(load_le64(find_table(mem, rsdp, "MCFG", true) + 44),
				 c->config.pci->ecam_base);
	else
		assert_null(find_table(mem, rsdp, "MCFG", true));
}

static void written(void **state)
{
	for (size_t i = 0; i < acpi_case_count; i++) {
		const struct acpi_case *c = &acpi_cases[i];
		struct guest_mem *mem = memory();
		struct acpi_tables t;
		struct err err;
		gpa_t rsdp;

		assert_int_equal(acpi_build(&t, &c->config, &err), 0);
		assert_int_equal(
			acpi_write(&t, mem, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, &rsdp, &err), 0);
		assert_int_equal(rsdp, LAYOUT_ACPI_BASE);
		check_set(mem, rsdp, c);
		/* Again elsewhere: the blob itself has not changed. */
		assert_int_equal(acpi_write(&t, mem, 0x40000, LAYOUT_ACPI_SIZE, &rsdp, &err), 0);
		check_set(mem, 0x40000, c);
		assert_int_equal(acpi_write(&t, mem, LAYOUT_ACPI_BASE, t.blob.len, NULL, &err),
				 -E2BIG);
		assert_int_equal(acpi_write(&t, mem, 4 * MiB, LAYOUT_ACPI_SIZE, NULL, &err),
				 -EFAULT);
		acpi_free(&t);
		acpi_free(&t);
		mem_free(mem);
	}
}

/* Do what SeaBIOS and OVMF do with the three files. */
struct loader {
	struct guest_mem *mem;
	struct {
		const char *name;
		const struct str *data;
		gpa_t at;
	} file[2];
	gpa_t next;
};

static gpa_t loader_file(struct loader *l, const char *name)
{
	for (size_t i = 0; i < 2; i++)
		if (!strcmp(l->file[i].name, name))
			return l->file[i].at;
	fail_msg("unknown file %s", name);
	return 0;
}

static void loader_run(struct loader *l, const u8 *e)
{
	const char *name = (const char *)e + 4;
	u8 b[8];

	assert_in_range(load_le32(e), 1, 3);
	if (load_le32(e) == 1) {
		size_t i = strcmp(l->file[0].name, name) ? 1 : 0;
		u32 align = load_le32(e + 60);

		assert_string_equal(l->file[i].name, name);
		assert_in_range(e[64], 1, 2);
		l->next = (l->next + align - 1) / align * align;
		l->file[i].at = l->next;
		mem_write(l->mem, l->next, l->file[i].data->text, l->file[i].data->len);
		l->next += l->file[i].data->len + 7;
	} else if (load_le32(e) == 2) {
		gpa_t field = loader_file(l, name) + load_le32(e + 116);
		unsigned int size = e[120];

		mem_read(l->mem, field, b, size);
		store_le(b, size, load_le(b, size) + loader_file(l, (const char *)e + 60));
		mem_write(l->mem, field, b, size);
	} else {
		gpa_t base = loader_file(l, name);
		u8 *p = mem_slice_rw(l->mem, base + load_le32(e + 60), 1);

		*p = (u8)(*p - sum(mem_slice(l->mem, base + load_le32(e + 64), load_le32(e + 68)),
				   load_le32(e + 68)));
	}
}

static void loaded(void **state)
{
	for (size_t i = 0; i < acpi_case_count; i++) {
		struct str blob = {0}, rsdp = {0}, script = {0};
		struct loader l = {.mem = memory(), .next = 0x12345};
		struct acpi_tables t;
		struct err err;

		assert_int_equal(acpi_build(&t, &acpi_cases[i].config, &err), 0);
		assert_int_equal(acpi_loader(&t, &blob, &rsdp, &script), 0);
		assert_int_equal(script.len % 128, 0);
		l.file[0].name = "etc/acpi/tables";
		l.file[0].data = &blob;
		l.file[1].name = "etc/acpi/rsdp";
		l.file[1].data = &rsdp;
		for (size_t at = 0; at < script.len; at += 128)
			loader_run(&l, (const u8 *)script.text + at);
		check_set(l.mem, l.file[1].at, &acpi_cases[i]);
		str_free(&blob);
		str_free(&rsdp);
		str_free(&script);
		acpi_free(&t);
		mem_free(l.mem);
	}
}

static void fixed_hardware(void **state)
{
	struct guest_mem *mem = memory();
	struct acpi_tables t;
	struct err err;
	const u8 *f;
	gpa_t rsdp;

	/* "pc": everything; "micro": ACPI mode from the start, 24-bit timer. */
	assert_int_equal(acpi_build(&t, &acpi_cases[0].config, &err), 0);
	acpi_write(&t, mem, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, &rsdp, &err);
	f = find_table(mem, rsdp, "FACP", true);
	assert_int_equal(load_le32(f + 48), 0xb2);
	assert_int_equal(load_le32(f + 56), 0x600);
	assert_int_equal(load_le32(f + 76), 0x608);
	assert_int_equal(load_le64(f + 120), 0xcf9);
	assert_int_equal(f[128], 6);
	assert_int_equal(load_le32(f + 112) & 0x510, 0x500);
	assert_int_equal(load_le16(f + 109), 0x13);
	acpi_free(&t);
	assert_int_equal(acpi_build(&t, &acpi_cases[1].config, &err), 0);
	acpi_write(&t, mem, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, &rsdp, &err);
	f = find_table(mem, rsdp, "FACP", true);
	assert_int_equal(load_le32(f + 48), 0);
	assert_int_equal(load_le32(f + 112) & 0x510, 0x400);
	assert_int_equal(load_le16(f + 109), 0x15);
	acpi_free(&t);
	mem_free(mem);
}

/* APIC ids from 255 on need the other kind of entry. */
static void x2apic_entries(void **state)
{
	struct guest_mem *mem = memory();
	struct acpi_tables t;
	struct err err;
	const u8 *madt;
	gpa_t rsdp;
	u32 narrow = 0, wide = 0;

	assert_int_equal(acpi_build(&t, &acpi_cases[2].config, &err), 0);
	acpi_write(&t, mem, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, &rsdp, &err);
	madt = find_table(mem, rsdp, "APIC", true);
	for (u32 i = 44; i < load_le32(madt + 4); i += madt[i + 1]) {
		narrow += madt[i] == 0;
		if (madt[i] == 9) {
			wide++;
			assert_int_equal(load_le32(madt + i + 4), 255);
			assert_int_equal(load_le32(madt + i + 12), 255);
		}
	}
	assert_int_equal(narrow, 255);
	assert_int_equal(wide, 1);
	acpi_free(&t);
	mem_free(mem);
}

static void refused(void **state)
{
	struct cpu_topology cpus = cpu_topology_simple(257);
	struct acpi_config c = {.cpus = &cpus};
	struct acpi_tables t;
	struct err err;

	assert_int_equal(acpi_build(&t, &c, &err), -E2BIG);
	assert_non_null(strstr(err.text, "--cpus 257"));
	cpus = cpu_topology_simple(1);
	c.virtio_mmio_count = 300;
	assert_int_equal(acpi_build(&t, &c, &err), -E2BIG);
}

/* ---- the builder ---- */

static void expect_bytes(struct aml *a, const char *bytes, size_t len)
{
	assert_false(a->out.failed);
	assert_int_equal(a->depth, 0);
	assert_int_equal(a->out.len, len);
	assert_memory_equal(a->out.text, bytes, len);
	str_free(&a->out);
}

#define EXPECT(a, bytes) expect_bytes(a, bytes, sizeof(bytes) - 1)

static void aml_values(void **state)
{
	struct aml a = {0};

	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 2);
	aml_int(&a, 0x100);
	aml_int(&a, 0x10000);
	aml_int(&a, 0x100000000);
	EXPECT(&a, "\x00\x01\x0a\x02\x0b\x00\x01\x0c\x00\x00\x01\x00"
		   "\x0e\x00\x00\x00\x00\x01\x00\x00\x00");
	aml_path(&a, "\\");
	aml_path(&a, "AB");
	aml_path(&a, "\\_SB.PCI0");
	aml_path(&a, "^A.B.C");
	EXPECT(&a, "\\\0AB__\\\x2e_SB_PCI0^\x2f\x03"
		   "A___B___C___");
	aml_eisaid(&a, "PNP0501");
	EXPECT(&a, "\x0c\x41\xd0\x05\x01");
	aml_uuid(&a, "33DB4D5B-1FF7-401C-9657-7441C03DD766");
	EXPECT(&a, "\x11\x13\x0a\x10\x5b\x4d\xdb\x33\xf7\x1f\x1c\x40\x96\x57\x74\x41\xc0\x3d\xd7"
		   "\x66");
}

/* Package lengths on both sides of each boundary. */
static void aml_lengths(void **state)
{
	static const struct {
		size_t contents, bytes;
	} cases[] = {{0, 1},	{62, 1},      {63, 2},	    {4093, 2},
		     {4094, 3}, {1048572, 3}, {1048573, 4}, {2000000, 4}};
	static u8 zeros[2000000];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct aml a = {0};
		const u8 *p;
		size_t len;

		aml_if(&a);
		str_add_bytes(&a.out, zeros, cases[i].contents);
		aml_end(&a);
		assert_false(a.out.failed);
		p = (const u8 *)a.out.text + 1;
		assert_int_equal(a.out.len, 1 + cases[i].bytes + cases[i].contents);
		assert_int_equal((p[0] >> 6) + 1, cases[i].bytes);
		len = p[0] & (cases[i].bytes == 1 ? 0x3f : 0xf);
		for (size_t j = 1; j < cases[i].bytes; j++)
			len |= (size_t)p[j] << (4 + 8 * (j - 1));
		assert_int_equal(len, cases[i].bytes + cases[i].contents);
		str_free(&a.out);
	}
}

static void aml_misuse(void **state)
{
	struct aml a = {0};

	aml_end(&a);
	assert_true(a.out.failed);
	str_free(&a.out);
	memset(&a, 0, sizeof(a));
	aml_path(&a, "TOOLONG");
	assert_true(a.out.failed);
	str_free(&a.out);
	memset(&a, 0, sizeof(a));
	for (int i = 0; i <= AML_DEPTH; i++)
		aml_if(&a);
	assert_true(a.out.failed);
	str_free(&a.out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(written),	  cmocka_unit_test(loaded),
		cmocka_unit_test(fixed_hardware), cmocka_unit_test(x2apic_entries),
		cmocka_unit_test(refused),	  cmocka_unit_test(aml_values),
		cmocka_unit_test(aml_lengths),	  cmocka_unit_test(aml_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
