/* Putting the tables where a guest finds them: into its memory, or through its firmware. */
#include "machine/acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "machine/acpi_int.h"

#define RSDP_SIZE      36
#define RSDP_V1_SIZE   20 /* what the first checksum covers */
#define RSDP_CHECKSUM  8
#define RSDP_CHECKSUM2 32
#define RSDP_RSDT      16
#define RSDP_XSDT      24

u8 acpi_checksum(const u8 *p, size_t len)
{
	u8 sum = 0;

	while (len--)
		sum = (u8)(sum + *p++);
	return (u8)-sum;
}

/* ---- the RSDP, with addresses relative to base ---- */

static void make_rsdp(u8 *p, const struct acpi_tables *tables, u64 base)
{
	memset(p, 0, RSDP_SIZE);
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, ACPI_OEM_ID, 6);
	p[15] = 2;
	store_le32(p + RSDP_RSDT, (u32)(base + tables->rsdt));
	store_le32(p + 20, RSDP_SIZE);
	store_le64(p + RSDP_XSDT, base + tables->xsdt);
	p[RSDP_CHECKSUM] = acpi_checksum(p, RSDP_V1_SIZE);
	p[RSDP_CHECKSUM2] = acpi_checksum(p, RSDP_SIZE);
}

/* ---- into guest memory ---- */

static void relocate(const struct acpi_tables *tables, u8 *blob, u64 base)
{
	for (size_t i = 0; i < tables->pointers; i++) {
		const struct acpi_pointer *p = &tables->pointer[i];
		const struct acpi_table *owner = &tables->table[p->owner];
		u8 *field = blob + p->offset, *table = blob + owner->offset;

		store_le(field, p->size, load_le(field, p->size) + base);
		table[ACPI_CHECKSUM_AT] = 0;
		table[ACPI_CHECKSUM_AT] = acpi_checksum(table, owner->length);
	}
}

int acpi_write(const struct acpi_tables *tables, struct guest_mem *mem, gpa_t base, u64 size,
	       gpa_t *rsdp, struct err *err)
{
	u8 root[RSDP_SIZE], *copy;
	u64 need = ACPI_TABLE_ALIGN + tables->blob.len;
	int rc;

	if (need > size || base + size > UINT32_MAX)
		return err_set(err, E2BIG,
			       "the ACPI tables need %llu bytes and have %llu; use fewer --cpus",
			       (unsigned long long)need, (unsigned long long)size);
	copy = malloc(tables->blob.len);
	if (!copy)
		return err_set(err, ENOMEM, "no memory for the ACPI tables");
	memcpy(copy, tables->blob.text, tables->blob.len);
	relocate(tables, copy, base + ACPI_TABLE_ALIGN);
	make_rsdp(root, tables, base + ACPI_TABLE_ALIGN);
	rc = mem_write(mem, base, root, sizeof(root));
	if (!rc)
		rc = mem_write(mem, base + ACPI_TABLE_ALIGN, copy, tables->blob.len);
	free(copy);
	if (rc)
		return err_set(err, -rc, "the ACPI tables' place at 0x%llx is not RAM",
			       (unsigned long long)base);
	if (rsdp)
		*rsdp = base;
	return 0;
}

/* ---- for firmware: QEMU's table loader (its interface is documented in OVMF and SeaBIOS) ---- */

#define LOADER_FILE    56
#define LOADER_ENTRY   128
#define TABLES_FILE    "etc/acpi/tables"
#define RSDP_FILE      "etc/acpi/rsdp"
#define ZONE_HIGH      1
#define ZONE_F_SEGMENT 2

enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };

static void loader_entry(struct str *loader, u32 command, const u8 *data, size_t len)
{
	u8 e[LOADER_ENTRY] = {0};

	store_le32(e, command);
	memcpy(e + 4, data, len);
	str_add_bytes(loader, e, sizeof(e));
}

static void loader_allocate(struct str *loader, const char *file, u32 align, u8 zone)
{
	u8 d[LOADER_FILE + 5] = {0};

	strncpy((char *)d, file, LOADER_FILE - 1);
	store_le32(d + LOADER_FILE, align);
	d[LOADER_FILE + 4] = zone;
	loader_entry(loader, LOADER_ALLOCATE, d, sizeof(d));
}

/* Add the address of TABLES_FILE to the field at `offset` of file. */
static void loader_pointer(struct str *loader, const char *file, u32 offset, u8 size)
{
	u8 d[2 * LOADER_FILE + 5] = {0};

	strncpy((char *)d, file, LOADER_FILE - 1);
	strncpy((char *)d + LOADER_FILE, TABLES_FILE, LOADER_FILE - 1);
	store_le32(d + 2 * LOADER_FILE, offset);
	d[2 * LOADER_FILE + 4] = size;
	loader_entry(loader, LOADER_ADD_POINTER, d, sizeof(d));
}

static void loader_checksum(struct str *loader, const char *file, u32 field, u32 start, u32 len)
{
	u8 d[LOADER_FILE + 12] = {0};

	strncpy((char *)d, file, LOADER_FILE - 1);
	store_le32(d + LOADER_FILE, field);
	store_le32(d + LOADER_FILE + 4, start);
	store_le32(d + LOADER_FILE + 8, len);
	loader_entry(loader, LOADER_ADD_CHECKSUM, d, sizeof(d));
}

/* The loader adds a checksum to what is there, so that starts as zero. */
static void copy_for_loader(const struct acpi_tables *tables, struct str *blob)
{
	str_add_bytes(blob, tables->blob.text, tables->blob.len);
	for (size_t i = 0; i < tables->count && !blob->failed; i++)
		if (memcmp(tables->table[i].signature, "FACS", 4))
			blob->text[tables->table[i].offset + ACPI_CHECKSUM_AT] = 0;
}

int acpi_loader(const struct acpi_tables *tables, struct str *blob, struct str *rsdp,
		struct str *loader)
{
	u8 root[RSDP_SIZE];

	copy_for_loader(tables, blob);
	make_rsdp(root, tables, 0);
	root[RSDP_CHECKSUM] = root[RSDP_CHECKSUM2] = 0;
	str_add_bytes(rsdp, root, sizeof(root));
	loader_allocate(loader, TABLES_FILE, ACPI_TABLE_ALIGN, ZONE_HIGH);
	loader_allocate(loader, RSDP_FILE, 16, ZONE_F_SEGMENT);
	for (size_t i = 0; i < tables->pointers; i++)
		loader_pointer(loader, TABLES_FILE, tables->pointer[i].offset,
			       tables->pointer[i].size);
	for (size_t i = 0; i < tables->count; i++) {
		const struct acpi_table *t = &tables->table[i];

		if (memcmp(t->signature, "FACS", 4))
			loader_checksum(loader, TABLES_FILE, t->offset + ACPI_CHECKSUM_AT,
					t->offset, t->length);
	}
	loader_pointer(loader, RSDP_FILE, RSDP_RSDT, 4);
	loader_pointer(loader, RSDP_FILE, RSDP_XSDT, 8);
	loader_checksum(loader, RSDP_FILE, RSDP_CHECKSUM, 0, RSDP_V1_SIZE);
	loader_checksum(loader, RSDP_FILE, RSDP_CHECKSUM2, 0, RSDP_SIZE);
	return blob->failed || rsdp->failed || loader->failed ? -ENOMEM : 0;
}
