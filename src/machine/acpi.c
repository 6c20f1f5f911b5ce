/*
 * The fixed tables, one after the other in a blob.
 *
 * 1. Every table in the blob starts at a multiple of 64 (what the FACS needs).
 * 2. A field listed in pointer[] holds an offset into the blob; checksums in the blob are those of
 *    the tables with these offsets in them, so that they are right wherever whoever places them
 *    adds the base to both (SeaBIOS and OVMF recompute them).
 */
#include "machine/acpi.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "hw/pm.h"
#include "hw/rtc.h"
#include "machine/acpi_int.h"
#include "machine/layout.h"

#define HEADER_SIZE  36
#define FADT_SIZE    276
#define FADT_FACS    36
#define FADT_DSDT    40
#define FADT_X_DSDT  140
#define OEM_TABLE_ID "BOTHYVM "

#define LAPIC_ID_MAX 254 /* above, a processor needs an x2APIC entry */

/* ---- building the blob ---- */

static void add(struct acpi_tables *t, u64 value, unsigned int size)
{
	u8 b[8];

	store_le(b, size, value);
	str_add_bytes(&t->blob, b, size);
}

static void add_zeros(struct acpi_tables *t, size_t n)
{
	static const u8 zeros[ACPI_TABLE_ALIGN];

	for (; n > sizeof(zeros); n -= sizeof(zeros))
		str_add_bytes(&t->blob, zeros, sizeof(zeros));
	str_add_bytes(&t->blob, zeros, n);
}

/* Start a table; its offset. The length comes with end(). */
static u32 begin(struct acpi_tables *t, const char *signature, u8 revision)
{
	struct acpi_table *table = &t->table[t->count++];

	add_zeros(t, align_up(t->blob.len, ACPI_TABLE_ALIGN) - t->blob.len);
	table->offset = (u32)t->blob.len;
	memcpy(table->signature, signature, 4);
	str_add_bytes(&t->blob, signature, 4);
	add(t, 0, 4);
	add(t, revision, 1);
	add(t, 0, 1);
	str_add_bytes(&t->blob, ACPI_OEM_ID, 6);
	str_add_bytes(&t->blob, OEM_TABLE_ID, 8);
	add(t, 1, 4);
	str_add_bytes(&t->blob, "BTHY", 4);
	add(t, 1, 4);
	return table->offset;
}

static void end(struct acpi_tables *t)
{
	struct acpi_table *table = &t->table[t->count - 1];
	u8 *p;

	table->length = (u32)t->blob.len - table->offset;
	if (t->blob.failed)
		return;
	p = (u8 *)t->blob.text + table->offset;
	store_le32(p + 4, table->length);
	p[ACPI_CHECKSUM_AT] = acpi_checksum(p, table->length);
}

static u8 *at(struct acpi_tables *t, u32 offset)
{
	return (u8 *)t->blob.text + offset;
}

/* The field at `offset` of the last table begun holds the address of the table at `target`. */
static void point(struct acpi_tables *t, u32 offset, u8 size, u32 target)
{
	u32 field = t->table[t->count - 1].offset + offset;

	t->pointer[t->pointers++] =
		(struct acpi_pointer){.offset = field, .size = size, .owner = (u32)t->count - 1};
	if (!t->blob.failed)
		store_le(at(t, field), size, target);
}

/* ---- tables ---- */

static u32 build_dsdt(struct acpi_tables *t, const struct acpi_config *config)
{
	struct aml a = {0};
	u32 offset = begin(t, "DSDT", 2);

	acpi_dsdt(&a, config);
	str_add_bytes(&t->blob, a.out.text, a.out.len);
	t->blob.failed |= a.out.failed || a.depth;
	str_free(&a.out);
	end(t);
	return offset;
}

/* Not a table like the others: no header, no checksum (ACPI 6.4, 5.2.10). */
static u32 build_facs(struct acpi_tables *t)
{
	struct acpi_table *table = &t->table[t->count++];

	add_zeros(t, align_up(t->blob.len, ACPI_TABLE_ALIGN) - t->blob.len);
	table->offset = (u32)t->blob.len;
	table->length = 64;
	memcpy(table->signature, "FACS", 4);
	str_add_bytes(&t->blob, "FACS", 4);
	add(t, 64, 4);
	add_zeros(t, 24);
	add(t, 2, 1); /* version */
	add_zeros(t, 31);
	return table->offset;
}

/* Generic Address Structure in port space (5.2.3.2); access width as the length. */
static void gas(u8 *p, u16 port, u8 bytes)
{
	if (!port)
		return;
	p[0] = 1;
	p[1] = (u8)(bytes * 8);
	p[3] = bytes == 1 ? 1 : bytes == 2 ? 2 : 3;
	store_le64(p + 4, port);
}

static void fadt_power(u8 *p, const struct acpi_pm *pm)
{
	store_le16(p + 46, PM_SCI_GSI);
	if (pm->smi_command) {
		store_le32(p + 48, PM_SMI_CMD);
		p[52] = PM_ACPI_ENABLE;
		p[53] = PM_ACPI_DISABLE;
	}
	store_le32(p + 56, pm->base + PM1_EVT);
	store_le32(p + 64, pm->base + PM1_CNT);
	store_le32(p + 76, pm->base + PM_TMR);
	store_le32(p + 80, pm->base + PM_GPE0);
	p[88] = PM1_EVT_LEN;
	p[89] = PM1_CNT_LEN;
	p[91] = PM_TMR_LEN;
	p[92] = PM_GPE0_LEN;
	gas(p + 148, (u16)(pm->base + PM1_EVT), PM1_EVT_LEN);
	gas(p + 172, (u16)(pm->base + PM1_CNT), PM1_CNT_LEN);
	gas(p + 208, (u16)(pm->base + PM_TMR), PM_TMR_LEN);
	gas(p + 220, (u16)(pm->base + PM_GPE0), 1);
	p[221] = PM_GPE0_LEN * 8;
	if (pm->reset) {
		gas(p + 116, PM_RESET_PORT, 1);
		p[128] = PM_RESET_VALUE;
	}
}

/* Flags of 5.2.9: what the machine has, and no more. */
static void fadt_flags(u8 *p, const struct acpi_config *c)
{
	bool isa = c->serial[0] || c->serial[1] || c->ps2;
	u16 boot = (u16)((isa ? BIT(0) : 0) | (c->ps2 ? BIT(1) : 0) | (c->vga ? 0 : BIT(2)) |
			 BIT(4) /* leave ASPM alone */ | (c->rtc ? 0 : BIT(5)));
	u32 flags = BIT(0) /* WBINVD */ | BIT(2) /* C1 */ | BIT(5) /* no fixed sleep button */ |
		    BIT(6) /* the RTC cannot wake */;

	if (c->pm.timer_32bit)
		flags |= BIT(8);
	if (c->pm.reset)
		flags |= BIT(10);
	store_le16(p + 96, 0xfff); /* no C2, */
	store_le16(p + 98, 0xfff); /* no C3 */
	p[108] = c->rtc ? RTC_CENTURY : 0;
	store_le16(p + 109, boot);
	store_le32(p + 112, flags);
	p[131] = 4; /* minor version: 6.4 */
	memcpy(p + 268, "BOTHYVM", 7);
}

static u32 build_fadt(struct acpi_tables *t, const struct acpi_config *c, u32 facs, u32 dsdt)
{
	u32 offset = begin(t, "FACP", 6);

	add_zeros(t, FADT_SIZE - HEADER_SIZE);
	if (t->blob.failed)
		return offset;
	point(t, FADT_FACS, 4, facs);
	point(t, FADT_DSDT, 4, dsdt);
	point(t, FADT_X_DSDT, 8, dsdt);
	fadt_power(at(t, offset), &c->pm);
	fadt_flags(at(t, offset), c);
	end(t);
	return offset;
}

static void madt_processor(struct acpi_tables *t, u32 uid, u32 apic_id)
{
	if (apic_id <= LAPIC_ID_MAX) {
		add(t, 0 | 8 << 8, 2);
		add(t, uid, 1);
		add(t, apic_id, 1);
		add(t, 1, 4);
	} else {
		add(t, 9 | 16 << 8, 2);
		add(t, 0, 2);
		add(t, apic_id, 4);
		add(t, 1, 4);
		add(t, uid, 4);
	}
}

/* ISA interrupt `irq` arrives at `gsi`. flags: 0 as the bus does, 0xd level and high. */
static void madt_override(struct acpi_tables *t, u8 irq, u32 gsi, u16 flags)
{
	add(t, 2 | 10 << 8, 2);
	add(t, 0, 1);
	add(t, irq, 1);
	add(t, gsi, 4);
	add(t, flags, 2);
}

static u32 build_madt(struct acpi_tables *t, const struct acpi_config *c)
{
	u32 offset = begin(t, "APIC", 5), cpus = cpu_topology_count(c->cpus);

	add(t, LAYOUT_LAPIC, 4);
	add(t, 1, 4); /* there are 8259s too */
	for (u32 i = 0; i < cpus; i++)
		madt_processor(t, i, cpu_topology_apic_id(c->cpus, i));
	add(t, 1 | 12 << 8, 2); /* IOAPIC 0 */
	add(t, 0, 2);
	add(t, LAYOUT_IOAPIC, 4);
	add(t, 0, 4);
	madt_override(t, 0, 2, 0);
	madt_override(t, PM_SCI_GSI, PM_SCI_GSI, 0xd);
	add(t, 4 | 6 << 8, 2); /* NMI at LINT1 of all */
	add(t, 0xff, 1);
	add(t, 0, 2);
	add(t, 1, 1);
	end(t);
	return offset;
}

static u32 build_mcfg(struct acpi_tables *t, const struct pci_host_config *pci)
{
	u32 offset = begin(t, "MCFG", 1);

	add(t, 0, 8);
	add(t, pci->ecam_base, 8);
	add(t, 0, 3); /* segment and first bus, ... */
	add(t, pci->ecam_buses - 1, 1);
	add(t, 0, 4);
	end(t);
	return offset;
}

/* One read of the PM timer suffices (Windows ACPI Emulated Devices Table). */
static u32 build_waet(struct acpi_tables *t)
{
	u32 offset = begin(t, "WAET", 1);

	add(t, BIT(1), 4);
	end(t);
	return offset;
}

static u32 build_root(struct acpi_tables *t, const char *signature, u8 size, const u32 *list,
		      size_t n)
{
	u32 offset = begin(t, signature, 1);

	add_zeros(t, n * size);
	for (size_t i = 0; i < n; i++)
		point(t, (u32)(HEADER_SIZE + i * size), size, list[i]);
	end(t);
	return offset;
}

static int check(const struct acpi_config *c, struct err *err)
{
	u32 cpus = cpu_topology_count(c->cpus);

	if (cpus < 1 || cpus > CPUID_MAX_CPUS)
		return err_set(err, E2BIG, "--cpus %u: a guest has 1 to %d vCPUs", cpus,
			       CPUID_MAX_CPUS);
	if (c->pci && c->pci->ecam_base && (!c->pci->ecam_buses || c->pci->ecam_buses > 256))
		return err_set(err, E2BIG, "PCI has 1 to 256 buses, not %u", c->pci->ecam_buses);
	if (c->virtio_mmio_count > 256)
		return err_set(err, E2BIG, "%zu virtio-mmio devices; 256 is the most",
			       c->virtio_mmio_count);
	return 0;
}

int acpi_build(struct acpi_tables *tables, const struct acpi_config *config, struct err *err)
{
	struct acpi_config c = *config;
	u32 list[8], dsdt, facs;
	size_t n = 0;
	int rc = check(config, err);

	memset(tables, 0, sizeof(*tables));
	if (rc)
		return rc;
	c.pm.base = c.pm.base ? c.pm.base : PM_BASE;
	facs = build_facs(tables);
	dsdt = build_dsdt(tables, &c);
	list[n++] = build_fadt(tables, &c, facs, dsdt);
	list[n++] = build_madt(tables, &c);
	if (c.pci && c.pci->ecam_base)
		list[n++] = build_mcfg(tables, c.pci);
	list[n++] = build_waet(tables);
	tables->rsdt = build_root(tables, "RSDT", 4, list, n);
	tables->xsdt = build_root(tables, "XSDT", 8, list, n);
	if (!tables->blob.failed)
		return 0;
	acpi_free(tables);
	return err_set(err, ENOMEM, "no memory for the ACPI tables");
}

void acpi_free(struct acpi_tables *tables)
{
	str_free(&tables->blob);
	memset(tables, 0, sizeof(*tables));
}
