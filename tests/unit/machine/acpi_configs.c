#include "acpi_configs.h"

#include "hw/fw_cfg.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"
#include "machine/layout.h"

static const struct pci_host_config pci = {
	.ecam_base = LAYOUT_ECAM_BASE,
	.ecam_buses = LAYOUT_ECAM_BUSES,
	.mmio32_base = LAYOUT_MMIO32_BASE,
	.mmio32_size = LAYOUT_MMIO32_END - LAYOUT_MMIO32_BASE,
	.mmio64_base = 5 * GiB,
	.mmio64_size = 512 * GiB,
	.pio_base = 0xc000,
	.pio_size = 0x3000,
	.intx_gsi = {16, 17, 18, 19},
};

static const struct pci_host_config old_pci = {
	.mmio32_base = LAYOUT_MMIO32_BASE,
	.mmio32_size = 0x1000000,
	.intx_gsi = {10, 11, 10, 11},
};

static const struct acpi_virtio_mmio virtio[] = {
	{LAYOUT_VIRTIO_BASE, 0x1000, 16},
	{LAYOUT_VIRTIO_BASE + LAYOUT_VIRTIO_STRIDE, 0x1000, 17},
};

struct acpi_case acpi_cases[] = {
	{"pc",
	 {1, 4, 1},
	 {.cpus = &acpi_cases[0].cpus,
	  .pm = {.smi_command = true, .timer_32bit = true, .reset = true},
	  .pci = &pci,
	  .serial = {0x3f8, 0x2f8},
	  .rtc = true,
	  .ps2 = true,
	  .pit = true,
	  .speaker = true,
	  .vga = true,
	  .fw_cfg_port = FW_CFG_PORT,
	  .pvpanic_port = PVPANIC_PORT}},
	{"micro",
	 {1, 1, 1},
	 {.cpus = &acpi_cases[1].cpus,
	  .pm = {.reset = true},
	  .serial = {0x3f8},
	  .rtc = true,
	  .virtio_mmio = virtio,
	  .virtio_mmio_count = ARRAY_SIZE(virtio)}},
	{"many",
	 {4, 32, 2},
	 {.cpus = &acpi_cases[2].cpus, .pm = {.base = 0xb000}, .pci = &old_pci, .pit = true}},
};
const size_t acpi_case_count = ARRAY_SIZE(acpi_cases);
