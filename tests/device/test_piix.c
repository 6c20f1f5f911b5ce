#include "device/harness.h"

#include "hw/piix.h"
#include "hw/pm.h"

#define ID	0x00
#define CLASS	0x08
#define HEADER	0x0e
#define PIRQ	0x60
#define PMBA	0x40
#define DEVACTB 0x58
#define MISC	0x80
#define PAM	0x58 /* of the bridge; the first byte is another register */

static struct device *isa, *pm;

static struct harness *both(const struct piix_pm_config *config)
{
	struct harness *h = harness_new(0);

	harness_pci(h);
	isa = harness_device(h, &piix_isa_class, "piix-isa", NULL);
	pm = harness_device(h, &piix_pm_class, "piix-pm", config);
	harness_pci_assign(h);
	return h;
}

/* What OVMF's platform code and SeaBIOS's PCI code look for. */
static void identity(void **state)
{
	struct harness *h = both(NULL);

	assert_int_equal(harness_config_read(h, PIIX_ISA_DEVFN, ID, 4), 0x70008086);
	assert_int_equal(harness_config_read(h, PIIX_ISA_DEVFN, CLASS, 4) >> 8, 0x060100);
	assert_int_equal(harness_config_read(h, PIIX_ISA_DEVFN, HEADER, 1), 0x80);
	assert_int_equal(harness_config_read(h, PIIX_PM_DEVFN, ID, 4), 0x71138086);
	assert_int_equal(harness_config_read(h, PIIX_PM_DEVFN, PMBA, 4), PM_BASE | 1);
	assert_int_equal(harness_config_read(h, PIIX_PM_DEVFN, MISC, 1), 1);
	/* SeaBIOS would else raise an SMI and wait for what it did. */
	assert_true(harness_config_read(h, PIIX_PM_DEVFN, DEVACTB, 4) & 1u << 25);
	harness_free(h);
}

/* The ports of power management do not move, whatever the guest writes. */
static void fixed(void **state)
{
	struct harness *h = both(&(struct piix_pm_config){.base = 0xb000});

	for (u16 at = PMBA; at < 0x100; at += 4)
		harness_config_write(h, PIIX_PM_DEVFN, at, 4, 0xffffffff);
	assert_int_equal(harness_config_read(h, PIIX_PM_DEVFN, PMBA, 4), 0xb001);
	assert_int_equal(harness_config_read(h, PIIX_PM_DEVFN, MISC, 4), 1);
	assert_int_equal(harness_config_read(h, PIIX_PM_DEVFN, DEVACTB, 4), 1u << 25);
	harness_free(h);
}

static void routes(void **state)
{
	struct harness *h = both(NULL);

	assert_int_equal(harness_config_read(h, PIIX_ISA_DEVFN, PIRQ, 4), 0x80808080);
	harness_config_write(h, PIIX_ISA_DEVFN, PIRQ, 4, 0x0b0a7b05);
	assert_int_equal(harness_config_read(h, PIIX_ISA_DEVFN, PIRQ, 4), 0x0b0a0b05);
	harness_check_state(h, isa);
	harness_check_state(h, pm);
	harness_config_write(h, PIIX_ISA_DEVFN, PIRQ, 1, 0x05);
	bus_lock(h->bus);
	isa->class->reset(isa);
	bus_unlock(h->bus);
	assert_int_equal(harness_config_read(h, PIIX_ISA_DEVFN, PIRQ, 4), 0x80808080);
	harness_free(h);
}

/* The bridge that goes with them: RAM below 1 MiB, for reads and writes, and not to be changed. */
static void bridge(void **state)
{
	static const struct pci_host_config config = {
		.bridge = PCI_BRIDGE_82441, .ecam_base = 0xb0000000, .ecam_buses = 1};
	struct harness *h = harness_new(0);
	struct err err;

	bus_lock(h->bus);
	h->pci = pci_host_new(h->bus, &config, &err);
	bus_unlock(h->bus);
	assert_non_null(h->pci);
	assert_int_equal(harness_config_read(h, 0, ID, 4), 0x12378086);
	for (u16 at = PAM; at < PAM + 8; at += 4)
		harness_config_write(h, 0, at, 4, 0);
	assert_int_equal(harness_config_read(h, 0, PAM, 4), 0x33333000);
	assert_int_equal(harness_config_read(h, 0, PAM + 4, 4), 0x33333333);
	harness_free(h);
}

/* Two of them do not fit on one bus; the second says so. */
static void twice(void **state)
{
	struct harness *h = both(NULL);
	struct err err = {{0}};

	bus_lock(h->bus);
	assert_null(device_new(h->bus, &piix_isa_class, "again", NULL, &err));
	assert_null(device_new(h->bus, &piix_pm_class, "again", NULL, &err));
	bus_unlock(h->bus);
	assert_true(err.text[0]);
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity), cmocka_unit_test(fixed), cmocka_unit_test(routes),
		cmocka_unit_test(bridge),   cmocka_unit_test(twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
