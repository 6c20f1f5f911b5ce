/* The boards: which devices at which ports and lines. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/pci.h"
#include "hw/debugcon.h"
#include "hw/debugexit.h"
#include "hw/fw_cfg.h"
#include "hw/i8042.h"
#include "hw/piix.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"
#include "hw/rtc.h"
#include "hw/serial.h"
#include "machine/machine_int.h"

#define PIO_WINDOW_BASE 0xc000
#define PIO_WINDOW_SIZE 0x4000
/* Where OVMF turns the machine off, wherever the chipset's registers say that it is to be done. */
#define OVMF_PM_BASE 0xb000

static const u16 serial_ports[MACHINE_SERIALS] = {0x3f8, 0x2f8};
static const u32 serial_gsis[MACHINE_SERIALS] = {4, 3};

static int add(struct machine *m, const struct device_class *class, const char *id,
	       const void *config, struct device **out, struct err *err)
{
	struct device *dev = device_new(m->bus, class, id, config, err);

	if (out)
		*out = dev;
	return dev ? 0 : -EIO;
}

/* What every board has: the serial ports and the debug ports. */
static int add_basic(struct machine *m, struct err *err)
{
	struct debugcon_config con = {.port = DEBUGCON_PORT, .chr = m->config.debugcon};
	struct debugcon_config fw = {.port = DEBUGCON_FIRMWARE_PORT, .chr = m->config.debugcon};
	struct debugexit_config exit_config = {0};
	int rc = 0;

	for (u32 i = 0; i < MACHINE_SERIALS && !rc; i++) {
		struct serial_config config = {serial_ports[i], serial_gsis[i],
					       m->config.serial[i]};
		char id[16];

		snprintf(id, sizeof(id), "serial%u", i);
		rc = add(m, &serial_class, id, &config, NULL, err);
	}
	if (!rc)
		rc = add(m, &debugexit_class, "debug-exit", &exit_config, NULL, err);
	if (!rc)
		rc = add(m, &debugcon_class, "debugcon", &con, NULL, err);
	if (!rc)
		rc = add(m, &debugcon_class, "debugcon-firmware", &fw, NULL, err);
	return rc;
}

static int add_pc(struct machine *m, struct err *err)
{
	struct rtc_config rtc = {
		.ram_below_4g = m->layout.low_end,
		.ram_above_4g = m->layout.high_end - LAYOUT_HIGH_BASE,
		.cpus = m->vcpus,
		.boot_order = 0x32,
	};
	struct i8042_config i8042 = {0};
	struct fw_cfg_config fw_cfg = {0};
	struct pm_config pm = {.acpi_enabled = !m->config.firmware,
			       .second_base = m->config.firmware ? OVMF_PM_BASE : 0};
	struct pvpanic_config pvpanic = {0};
	int rc = add(m, &rtc_class, "rtc", &rtc, NULL, err);

	if (!rc)
		rc = add(m, &i8042_class, "i8042", &i8042, NULL, err);
	if (!rc)
		rc = add(m, &fw_cfg_class, "fw-cfg", &fw_cfg, &m->fw_cfg, err);
	if (!rc)
		rc = add(m, &pm_class, "pm", &pm, &m->pm, err);
	if (!rc)
		rc = add(m, &pvpanic_class, "pvpanic", &pvpanic, NULL, err);
	return rc;
}

static int add_pci(struct machine *m, struct err *err)
{
	struct pci_host_config config = {
		/* OVMF goes on only where it knows the chipset. */
		.bridge = m->config.firmware ? PCI_BRIDGE_82441 : PCI_BRIDGE_GENERIC,
		.ecam_base = LAYOUT_ECAM_BASE,
		.ecam_buses = 1,
		.mmio32_base = LAYOUT_MMIO32_BASE,
		.mmio32_size = LAYOUT_MMIO32_END - LAYOUT_MMIO32_BASE,
		.mmio64_base = m->layout.mmio64_base,
		.mmio64_size = m->layout.mmio64_size,
		.pio_base = PIO_WINDOW_BASE,
		.pio_size = PIO_WINDOW_SIZE,
		.intx_gsi = {16, 17, 18, 19},
	};
	int rc = 0;

	m->pci = pci_host_new(m->bus, &config, err);
	if (!m->pci)
		return -EIO;
	if (m->config.firmware)
		rc = add(m, &piix_isa_class, "piix-isa", NULL, NULL, err);
	if (!rc && m->config.firmware)
		rc = add(m, &piix_pm_class, "piix-pm", NULL, NULL, err);
	return rc;
}

int board_build(struct machine *m, struct err *err)
{
	int rc = 0;

	/* The host bridge first: it is function 00:00.0. */
	if (m->board == BOARD_PC)
		rc = add_pci(m, err);
	if (!rc)
		rc = add_basic(m, err);
	if (!rc && m->board != BOARD_BARE)
		rc = add_pc(m, err);
	for (size_t i = 0; i < m->config.device_count && !rc; i++)
		rc = board_add_user_device(m, &m->config.devices[i], err);
	return rc;
}

void board_free(struct machine *m)
{
	if (!m->bus)
		return;
	board_stop_user_devices(m);
	devices_free(m->bus);
	pci_host_free(m->pci);
	m->pci = NULL;
	board_free_user_devices(m);
}

/* ---- what firmware and kernels are told ---- */

static int build_acpi(struct machine *m, struct acpi_tables *tables, struct err *err)
{
	struct acpi_config config = {
		.cpus = &m->config.topology,
		.pm = {.smi_command = m->config.firmware, .reset = true},
		.pci = m->pci ? pci_host_config(m->pci) : NULL,
		.serial = {serial_ports[0], serial_ports[1]},
		.rtc = true,
		.ps2 = true,
		.pit = true,
		.speaker = true,
		.fw_cfg_port = FW_CFG_PORT,
		.pvpanic_port = PVPANIC_PORT,
		.virtio_mmio = m->virtio_mmio,
		.virtio_mmio_count = m->virtio_mmio_count,
	};

	return acpi_build(tables, &config, err);
}

static int add_blob(struct machine *m, const char *name, const struct str *s)
{
	struct fw_cfg_item item = {.data = s->text, .len = s->len};

	return fw_cfg_add_file(m->fw_cfg, name, &item);
}

/* What SeaBIOS and OVMF read. */
static int tell_firmware(struct machine *m, const struct acpi_tables *tables)
{
	struct str blob = {0}, rsdp = {0}, loader = {0};
	struct e820 map[LAYOUT_E820_MAX];
	struct str e820 = {0};
	size_t count = layout_e820(&m->layout, map);
	int rc;

	for (size_t i = 0; i < count; i++) {
		if (map[i].type != E820_RAM)
			continue;
		str_add_bytes(&e820, &map[i].addr, 8);
		str_add_bytes(&e820, &map[i].size, 8);
		str_add_bytes(&e820, &map[i].type, 4);
	}
	rc = acpi_loader(tables, &blob, &rsdp, &loader);
	if (!rc)
		rc = add_blob(m, "etc/acpi/tables", &blob);
	if (!rc)
		rc = add_blob(m, "etc/acpi/rsdp", &rsdp);
	if (!rc)
		rc = add_blob(m, "etc/table-loader", &loader);
	if (!rc)
		rc = add_blob(m, "etc/e820", &e820);
	if (!rc)
		rc = fw_cfg_add_uint(m->fw_cfg, FW_CFG_NB_CPUS, m->vcpus, 2);
	if (!rc)
		rc = fw_cfg_add_uint(m->fw_cfg, FW_CFG_MAX_CPUS, m->vcpus, 2);
	if (!rc)
		rc = fw_cfg_add_uint(m->fw_cfg, FW_CFG_RAM_SIZE, m->config.memory, 8);
	str_free(&blob);
	str_free(&rsdp);
	str_free(&loader);
	str_free(&e820);
	return rc;
}

int board_prepare_boot(struct machine *m, gpa_t *rsdp, struct err *err)
{
	struct acpi_tables tables = {0};
	int rc = build_acpi(m, &tables, err);

	if (rc)
		return rc;
	if (m->config.firmware) {
		rc = tell_firmware(m, &tables);
		if (rc)
			err_set(err, -rc, "fw_cfg: %s", strerror(-rc));
	} else {
		if (m->pci) {
			bus_lock(m->bus);
			rc = pci_host_assign(m->pci, err);
			bus_unlock(m->bus);
		}
		if (!rc)
			rc = acpi_write(&tables, m->mem, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, rsdp,
					err);
	}
	acpi_free(&tables);
	return rc;
}
