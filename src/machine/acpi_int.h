/* What the parts of acpi.h share. */
#ifndef MACHINE_ACPI_INT_H
#define MACHINE_ACPI_INT_H

#include "machine/acpi.h"
#include "machine/aml.h"

#define ACPI_TABLE_ALIGN 64
#define ACPI_CHECKSUM_AT 9 /* in the header of every table but the FACS */
#define ACPI_OEM_ID	 "BOTHY "

/* The byte that makes the sum of all zero. */
u8 acpi_checksum(const u8 *p, size_t len);

/* The definition block without its header. */
void acpi_dsdt(struct aml *a, const struct acpi_config *config);

#endif
