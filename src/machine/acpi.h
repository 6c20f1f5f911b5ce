/*
 * ACPI tables, made from what the machine has: RSDP, RSDT and XSDT, FADT, FACS, MADT, MCFG, WAET
 * and a DSDT (ACPI 6.4). Every address a table holds comes from the configuration, so the tables
 * say only what the devices do.
 */
#ifndef MACHINE_ACPI_H
#define MACHINE_ACPI_H

#include "base/err.h"
#include "base/str.h"
#include "base/types.h"
#include "bus/pci.h"
#include "machine/cpuid.h"
#include "mem/mem.h"

/* What of hw/pm.h the machine has. */
struct acpi_pm {
	u16 base;	  /* pm_config.base; 0: PM_BASE */
	bool smi_command; /* ACPI mode is entered through PM_SMI_CMD: boots with firmware */
	bool timer_32bit; /* pm_config.timer_32bit */
	bool reset;	  /* PM_RESET_PORT is there */
};

struct acpi_virtio_mmio {
	gpa_t base;
	u32 size, gsi;
};

struct acpi_config {
	const struct cpu_topology *cpus;
	struct acpi_pm pm;
	const struct pci_host_config *pci; /* NULL: no PCI */
	u16 serial[2];			   /* ports of COM1 (IRQ 4) and COM2 (IRQ 3); 0: none */
	bool rtc, ps2, pit;
	bool speaker;	  /* port 0x61 */
	bool vga;	  /* the host bridge forwards 0xa0000 to 0xbffff */
	u16 fw_cfg_port;  /* 0: none */
	u16 pvpanic_port; /* 0: none */
	const struct acpi_virtio_mmio *virtio_mmio;
	size_t virtio_mmio_count;
};

#define ACPI_TABLES_MAX	  8
#define ACPI_POINTERS_MAX 16

/* One finished set. Tables lie in `blob` one after the other, pointers between them are offsets
 * into it until acpi_write() or a firmware places them. */
struct acpi_tables {
	struct str blob;
	struct acpi_table {
		char signature[4];
		u32 offset, length;
	} table[ACPI_TABLES_MAX];
	size_t count;
	struct acpi_pointer { /* a field that holds the offset of a table */
		u32 offset;
		u8 size;
		u32 owner; /* index of the table whose checksum covers it */
	} pointer[ACPI_POINTERS_MAX];
	size_t pointers;
	u32 rsdt, xsdt; /* their offsets */
};

/* -ENOMEM, or -E2BIG for what does not fit ACPI (too many CPUs). Free with acpi_free(). */
int acpi_build(struct acpi_tables *tables, const struct acpi_config *config, struct err *err);
void acpi_free(struct acpi_tables *tables);

/* Put the tables at [base, base + size) of guest RAM, RSDP first, checksums right. base is a
 * multiple of 16. -E2BIG, -EFAULT. *rsdp may be NULL. */
int acpi_write(const struct acpi_tables *tables, struct guest_mem *mem, gpa_t base, u64 size,
	       gpa_t *rsdp, struct err *err);

/*
 * The same for firmware that places them itself, as fw_cfg files: "etc/acpi/tables" (tables),
 * "etc/acpi/rsdp" (rsdp) and "etc/table-loader" (loader). -ENOMEM. The caller frees the three.
 */
int acpi_loader(const struct acpi_tables *tables, struct str *blob, struct str *rsdp,
		struct str *loader);

#endif
