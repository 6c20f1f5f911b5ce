/*
 * The DSDT: processors, the PCI host bridge, and the devices that cannot be enumerated. On a board
 * with PCI the ISA devices lie below the host bridge, whose windows hold their ports.
 */
#include "machine/acpi_int.h"

#include <stdio.h>

#include "hw/fw_cfg.h"
#include "hw/i8042.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"
#include "hw/rtc.h"
#include "hw/serial.h"
#include "hw/speaker.h"
#include "machine/layout.h"

#define CONFIG_PORTS	 0xcf8 /* PCI mechanism 1, and the reset register among them */
#define CONFIG_PORTS_LEN 8
#define PIT_PORT	 0x40
#define PCI_SLOTS	 32

/* ---- _OSC: who drives PCI Express features (ACPI 6.4, 6.2.11; PCI Firmware 3.2, 4.5) ---- */

#define OSC_UUID	     "33DB4D5B-1FF7-401C-9657-7441C03DD766"
#define OSC_UNKNOWN_UUID     0x04
#define OSC_UNKNOWN_REVISION 0x08
#define OSC_MASKED	     0x10
#define OSC_GRANTED	     0x1e /* all but native hot-plug: no slot has it */

static void or_status(struct aml *a, u64 bit)
{
	aml_op(a, AML_OR);
	aml_path(a, "CDW1");
	aml_int(a, bit);
	aml_path(a, "CDW1");
}

static void dword_field(struct aml *a, u64 offset, const char *name)
{
	aml_op(a, AML_CREATE_DWORD_FIELD);
	aml_arg(a, 3);
	aml_int(a, offset);
	aml_path(a, name);
}

/* Keep what is granted of the capabilities asked for, and say so where that is less. */
static void osc_grant(struct aml *a)
{
	dword_field(a, 8, "CDW3");
	aml_op(a, AML_STORE);
	aml_path(a, "CDW3");
	aml_local(a, 0);
	aml_op(a, AML_AND);
	aml_local(a, 0);
	aml_int(a, OSC_GRANTED);
	aml_path(a, "CDW3");
	aml_if(a);
	aml_op(a, AML_NOT);
	aml_op(a, AML_EQUAL);
	aml_path(a, "CDW3");
	aml_local(a, 0);
	or_status(a, OSC_MASKED);
	aml_end(a);
}

static void osc(struct aml *a)
{
	aml_method(a, "_OSC", 4, true);
	dword_field(a, 0, "CDW1");
	aml_if(a);
	aml_op(a, AML_EQUAL);
	aml_arg(a, 0);
	aml_uuid(a, OSC_UUID);
	osc_grant(a);
	aml_if(a);
	aml_op(a, AML_NOT);
	aml_op(a, AML_EQUAL);
	aml_arg(a, 1);
	aml_int(a, 1);
	or_status(a, OSC_UNKNOWN_REVISION);
	aml_end(a);
	aml_end(a);
	aml_else(a);
	or_status(a, OSC_UNKNOWN_UUID);
	aml_end(a);
	aml_op(a, AML_RETURN);
	aml_arg(a, 3);
	aml_end(a);
}

/* ---- the host bridge ---- */

/* Pin p of slot s goes to GSI (s + p) % 4 of the four, as bus/pci.h says; nothing to configure. */
static void interrupt_routes(struct aml *a, const struct pci_host_config *pci)
{
	aml_name(a, "_PRT");
	aml_package(a, PCI_SLOTS * 4);
	for (unsigned int slot = 0; slot < PCI_SLOTS; slot++)
		for (unsigned int pin = 0; pin < 4; pin++) {
			aml_package(a, 4);
			aml_int(a, slot << 16 | 0xffff);
			aml_int(a, pin);
			aml_int(a, 0);
			aml_int(a, pci->intx_gsi[(slot + pin) % 4]);
			aml_end(a);
		}
	aml_end(a);
}

static void bridge_resources(struct aml *a, const struct acpi_config *c)
{
	const struct pci_host_config *pci = c->pci;
	struct str res = {0};

	res_bus_window(&res, 0, pci->ecam_base ? (u16)(pci->ecam_buses - 1) : 255);
	res_io(&res, CONFIG_PORTS, CONFIG_PORTS_LEN);
	res_io_window(&res, 0, CONFIG_PORTS - 1);
	res_io_window(&res, CONFIG_PORTS + CONFIG_PORTS_LEN, 0xffff);
	if (c->vga)
		res_memory_window32(&res, LAYOUT_VGA_BASE, LAYOUT_VGA_END - 1);
	if (pci->mmio32_size)
		res_memory_window32(&res, (u32)pci->mmio32_base,
				    (u32)(pci->mmio32_base + pci->mmio32_size - 1));
	/* Firmware that does not know the board puts BARs just below the IOAPIC. */
	if (!c->virtio_mmio_count)
		res_memory_window32(&res, LAYOUT_ECAM_BASE + LAYOUT_ECAM_BUSES * MiB,
				    LAYOUT_IOAPIC - 1);
	if (pci->mmio64_size)
		res_memory_window64(&res, pci->mmio64_base,
				    pci->mmio64_base + pci->mmio64_size - 1);
	aml_name_resources(a, "_CRS", &res);
}

static void open_host_bridge(struct aml *a, const struct acpi_config *c)
{
	aml_device(a, "PCI0");
	aml_name_eisaid(a, "_HID", c->pci->ecam_base ? "PNP0A08" : "PNP0A03");
	if (c->pci->ecam_base)
		aml_name_eisaid(a, "_CID", "PNP0A03");
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_BBN", 0);
	bridge_resources(a, c);
	interrupt_routes(a, c->pci);
	if (c->pci->ecam_base)
		osc(a);
}

/* ---- devices with fixed addresses ---- */

static void device(struct aml *a, const char *name, const char *hid, struct str *res)
{
	aml_device(a, name);
	aml_name_eisaid(a, "_HID", hid);
	aml_name_resources(a, "_CRS", res);
	aml_end(a);
}

static void serial_ports(struct aml *a, const struct acpi_config *c)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(c->serial); i++) {
		const char name[] = {'C', 'O', 'M', (char)('1' + i), 0};
		struct str res = {0};

		if (!c->serial[i])
			continue;
		res_io(&res, c->serial[i], SERIAL_PORTS);
		res_irq(&res, i ? 3 : 4);
		aml_device(a, name);
		aml_name_eisaid(a, "_HID", "PNP0501");
		aml_name_int(a, "_UID", i + 1);
		aml_name_resources(a, "_CRS", &res);
		aml_end(a);
	}
}

static void keyboard_and_mouse(struct aml *a)
{
	struct str res = {0};

	res_io(&res, I8042_DATA, 1);
	res_io(&res, I8042_COMMAND, 1);
	res_irq(&res, I8042_KBD_GSI);
	device(a, "KBD", "PNP0303", &res);
	res_irq(&res, I8042_AUX_GSI);
	device(a, "MOU", "PNP0F13", &res);
}

static void clocks(struct aml *a, const struct acpi_config *c)
{
	struct str res = {0};

	if (c->rtc) {
		res_io(&res, RTC_PORT, 2);
		res_irq(&res, RTC_GSI);
		device(a, "RTC", "PNP0B00", &res);
	}
	if (c->pit) {
		res_io(&res, PIT_PORT, 4);
		res_irq(&res, 0);
		device(a, "TIMR", "PNP0100", &res);
	}
	if (c->speaker) {
		res_io(&res, SPEAKER_PORT, 1);
		device(a, "SPKR", "PNP0800", &res);
	}
}

/* Device named by a vendor's string id, present and decoding. */
static void paravirtual(struct aml *a, const char *name, const char *hid, u16 port, u8 len)
{
	struct str res = {0};

	res_io(&res, port, len);
	aml_device(a, name);
	aml_name_string(a, "_HID", hid);
	aml_name_int(a, "_STA", 0xb);
	aml_name_resources(a, "_CRS", &res);
	aml_end(a);
}

/* What the board itself takes: power management, and ECAM, which kernels want to see reserved. */
static void board(struct aml *a, const struct acpi_config *c)
{
	struct str res = {0};

	res_io(&res, c->pm.base, PM_SIZE);
	if (c->pm.smi_command)
		res_io(&res, PM_SMI_CMD, 2);
	if (!c->pci && c->pm.reset)
		res_io(&res, PM_RESET_PORT, 1);
	if (c->pci && c->pci->ecam_base && c->pci->ecam_base <= UINT32_MAX)
		res_memory32(&res, (u32)c->pci->ecam_base, c->pci->ecam_buses << 20);
	device(a, "BRD", "PNP0C02", &res);
}

static void virtio_mmio(struct aml *a, const struct acpi_config *c)
{
	for (size_t i = 0; i < c->virtio_mmio_count; i++) {
		const struct acpi_virtio_mmio *v = &c->virtio_mmio[i];
		struct str res = {0};
		char name[8];

		snprintf(name, sizeof(name), "VR%02X", (unsigned int)i & 0xff);
		res_memory32(&res, (u32)v->base, v->size);
		res_interrupt(&res, v->gsi);
		aml_device(a, name);
		aml_name_string(a, "_HID", "LNRO0005");
		aml_name_int(a, "_UID", i);
		aml_name_resources(a, "_CRS", &res);
		aml_end(a);
	}
}

static void isa_devices(struct aml *a, const struct acpi_config *c)
{
	board(a, c);
	serial_ports(a, c);
	if (c->ps2)
		keyboard_and_mouse(a);
	clocks(a, c);
	if (c->fw_cfg_port)
		paravirtual(a, "FWCF", "QEMU0002", c->fw_cfg_port, FW_CFG_PORTS);
	if (c->pvpanic_port)
		paravirtual(a, "PEVT", "QEMU0001", c->pvpanic_port, 1);
}

static void processors(struct aml *a, const struct acpi_config *c)
{
	for (u32 i = 0; i < cpu_topology_count(c->cpus); i++) {
		char name[8];

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		aml_device(a, name);
		aml_name_string(a, "_HID", "ACPI0007");
		aml_name_int(a, "_UID", i);
		aml_end(a);
	}
}

/* SLP_TYPa, SLP_TYPb and two reserved values (ACPI 6.4, 7.4.2). */
static void soft_off(struct aml *a)
{
	aml_name(a, "_S5");
	aml_package(a, 4);
	aml_int(a, PM_SLP_TYP_S5);
	for (int i = 0; i < 3; i++)
		aml_int(a, 0);
	aml_end(a);
}

void acpi_dsdt(struct aml *a, const struct acpi_config *config)
{
	aml_scope(a, "\\_SB");
	processors(a, config);
	if (config->pci)
		open_host_bridge(a, config);
	isa_devices(a, config);
	if (config->pci)
		aml_end(a);
	virtio_mmio(a, config);
	aml_end(a);
	soft_off(a);
}
