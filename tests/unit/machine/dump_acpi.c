/* Write every table of every machine to DIR/MACHINE-SIGNATURE.aml, as a guest would find them. */
#include <stdio.h>
#include <stdlib.h>

#include "acpi_configs.h"
#include "base/endian.h"
#include "machine/layout.h"
#include "os/file.h"

static int dump(const char *dir, const struct acpi_case *c)
{
	struct guest_mem *mem = mem_new();
	struct acpi_tables tables = {0};
	struct err err = {{0}};
	char path[512];
	int rc = acpi_build(&tables, &c->config, &err);

	if (!rc)
		rc = mem_add_ram(mem, 0, 2 * MiB, MEM_NO_THP, &err);
	if (!rc)
		rc = acpi_write(&tables, mem, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, NULL, &err);
	for (size_t i = 0; i < tables.count && !rc; i++) {
		const struct acpi_table *t = &tables.table[i];
		const void *p = mem_slice(mem, LAYOUT_ACPI_BASE + 64 + t->offset, t->length);

		snprintf(path, sizeof(path), "%s/%s-%.4s.aml", dir, c->name, t->signature);
		rc = file_write_all(path, p, t->length, &err);
	}
	if (rc)
		fprintf(stderr, "%s: %s\n", c->name, err.text);
	acpi_free(&tables);
	mem_free(mem);
	return rc;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: dump-acpi DIR\n");
		return 2;
	}
	for (size_t i = 0; i < acpi_case_count; i++)
		if (dump(argv[1], &acpi_cases[i]))
			return 1;
	return 0;
}
