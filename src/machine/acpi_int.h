/* The DSDT's contents, apart from the fixed tables. */
#ifndef MACHINE_ACPI_INT_H
#define MACHINE_ACPI_INT_H

#include "machine/acpi.h"
#include "machine/aml.h"

/* The definition block without its header. */
void acpi_dsdt(struct aml *a, const struct acpi_config *config);

#endif
