/* The machines whose ACPI tables are looked at. */
#ifndef TEST_ACPI_CONFIGS_H
#define TEST_ACPI_CONFIGS_H

#include "machine/acpi.h"

struct acpi_case {
	const char *name;
	struct cpu_topology cpus;
	struct acpi_config config;
};

extern struct acpi_case acpi_cases[];
extern const size_t acpi_case_count;

#endif
