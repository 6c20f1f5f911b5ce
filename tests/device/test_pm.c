#include "device/harness.h"

#include "hw/pm.h"

#define STS (PM_BASE + PM1_EVT)
#define EN  (PM_BASE + PM1_EVT + 2)
#define CNT (PM_BASE + PM1_CNT)
#define GPE (PM_BASE + PM_GPE0)

static void button(struct harness *h, struct device *dev)
{
	bus_lock(h->bus);
	pm_power_button(dev);
	bus_unlock(h->bus);
}

static void power_button(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &pm_class, "pm", NULL);

	assert_int_equal(harness_in(h, CNT, 2), 0);
	button(h, dev);
	assert_int_equal(harness_in(h, STS, 2), PM1_PWRBTN);
	assert_false(harness_line(h, PM_SCI_GSI));
	assert_false(pm_power_button_enabled(dev));
	harness_out(h, STS, 2, PM1_PWRBTN);
	assert_int_equal(harness_in(h, STS, 2), 0);
	/* The handshake that turns ACPI on. */
	harness_out(h, PM_SMI_CMD, 1, PM_ACPI_ENABLE);
	assert_int_equal(harness_in(h, CNT, 2), PM1_SCI_EN);
	harness_out(h, EN, 2, PM1_PWRBTN | PM1_GBL);
	assert_true(pm_power_button_enabled(dev));
	button(h, dev);
	assert_true(harness_line(h, PM_SCI_GSI));
	harness_out(h, STS, 2, 0); /* clears nothing */
	assert_true(harness_line(h, PM_SCI_GSI));
	harness_out(h, STS + 1, 1, PM1_PWRBTN >> 8); /* by bytes too */
	assert_false(harness_line(h, PM_SCI_GSI));
	button(h, dev);
	harness_out(h, PM_SMI_CMD, 1, PM_ACPI_DISABLE);
	assert_false(harness_line(h, PM_SCI_GSI));
	assert_int_equal(harness_in(h, CNT, 2), 0);
	assert_int_equal(harness_in(h, PM_SMI_CMD, 1), PM_ACPI_DISABLE);
	harness_free(h);
}

/* The registers are one set, at whichever place they are used. */
static void second_place(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &pm_class, "pm", &(struct pm_config){.second_base = 0xb000});
	harness_out(h, 0xb000 + PM1_EVT + 2, 2, PM1_PWRBTN);
	assert_int_equal(harness_in(h, EN, 2), PM1_PWRBTN);
	harness_out(h, 0xb000 + PM1_CNT, 2, PM_SLP_TYP_S5 << PM1_SLP_TYP_SHIFT | PM1_SLP_EN);
	assert_int_equal(h->requests, 1);
	harness_free(h);
}

static void sleeping(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &pm_class, "pm", &(struct pm_config){.acpi_enabled = true});
	assert_int_equal(harness_in(h, CNT, 2), PM1_SCI_EN);
	harness_out(h, CNT, 2, PM1_SCI_EN | PM_SLP_TYP_S3 << PM1_SLP_TYP_SHIFT | PM1_SLP_EN);
	assert_int_equal(h->requests, 0); /* refused: awake again */
	assert_int_equal(harness_in(h, STS, 2), PM1_WAK_STS);
	assert_int_equal(harness_in(h, CNT, 2) & PM1_SLP_EN, 0);
	harness_out(h, CNT, 2, PM1_SCI_EN | PM_SLP_TYP_S5 << PM1_SLP_TYP_SHIFT);
	assert_int_equal(h->requests, 0);
	harness_out(h, CNT, 2, PM1_SCI_EN | PM_SLP_TYP_S5 << PM1_SLP_TYP_SHIFT | PM1_SLP_EN);
	assert_int_equal(h->requests, 1);
	assert_int_equal(h->last_request.event, BUS_SHUTDOWN_REQUEST);
	harness_free(h);
}

static void timer(void **state)
{
	struct harness *h = harness_new(0);
	u32 a, b;

	harness_device(h, &pm_class, "pm", NULL);
	a = harness_in(h, PM_BASE + PM_TMR, 4);
	harness_advance(h, NSEC_PER_SEC);
	b = harness_in(h, PM_BASE + PM_TMR, 4);
	assert_in_range((b - a) & 0xffffff, PM_TMR_HZ - 2, PM_TMR_HZ + 2);
	assert_int_equal(b >> 24, 0);
	assert_int_equal(harness_in(h, PM_BASE + PM_TMR, 1), b & 0xff);
	/* Written: nothing happens. */
	harness_out(h, PM_BASE + PM_TMR, 4, 0);
	assert_int_equal(harness_in(h, PM_BASE + PM_TMR, 4), b);
	/* 2^23 counts are 2.34 s: the highest bit changes. */
	assert_int_equal(harness_in(h, STS, 2), 0);
	harness_advance(h, 1500 * NSEC_PER_MSEC);
	assert_int_equal(harness_in(h, STS, 2), PM1_TMR);
	harness_out(h, STS, 2, PM1_TMR);
	assert_int_equal(harness_in(h, STS, 2), 0);
	harness_out(h, PM_SMI_CMD, 1, PM_ACPI_ENABLE);
	harness_out(h, EN, 2, PM1_TMR);
	assert_false(harness_line(h, PM_SCI_GSI));
	harness_advance(h, 2400 * NSEC_PER_MSEC);
	assert_true(harness_line(h, PM_SCI_GSI));
	harness_out(h, STS, 2, PM1_TMR);
	assert_false(harness_line(h, PM_SCI_GSI));
	harness_advance(h, 2400 * NSEC_PER_MSEC);
	assert_int_equal(harness_edges(h, PM_SCI_GSI), 2);
	harness_free(h);
}

static void timer_32bit(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &pm_class, "pm",
		       &(struct pm_config){.timer_32bit = true, .base = 0xb000});
	harness_advance(h, 6 * NSEC_PER_SEC);
	assert_in_range(harness_in(h, 0xb000 + PM_TMR, 4), 6 * PM_TMR_HZ - 2, 6 * PM_TMR_HZ + 2);
	assert_int_equal(harness_in(h, 0xb000, 2), 0);
	harness_free(h);
}

static void general_purpose_events(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev =
		harness_device(h, &pm_class, "pm", &(struct pm_config){.acpi_enabled = true});

	harness_out(h, GPE + PM_GPE0_LEN / 2 + 1, 1, 0x02); /* enable event 9 */
	bus_lock(h->bus);
	pm_gpe_raise(dev, PM_GPES - 1);
	pm_gpe_raise(dev, PM_GPES); /* there is none */
	bus_unlock(h->bus);
	assert_false(harness_line(h, PM_SCI_GSI));
	assert_int_equal(harness_in(h, GPE, 2), 1u << (PM_GPES - 1));
	bus_lock(h->bus);
	pm_gpe_raise(dev, 9);
	bus_unlock(h->bus);
	assert_true(harness_line(h, PM_SCI_GSI));
	harness_out(h, GPE, 2, 0x200);
	assert_false(harness_line(h, PM_SCI_GSI));
	assert_int_equal(harness_in(h, GPE + PM_GPE0_LEN / 2, 2), 0x200);
	harness_free(h);
}

static void reset_port(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &pm_class, "pm", NULL);
	harness_out(h, PM_RESET_PORT, 1, 0x02);
	assert_int_equal(h->requests, 0);
	assert_int_equal(harness_in(h, PM_RESET_PORT, 1), 0x02);
	harness_out(h, PM_RESET_PORT, 1, PM_RESET_VALUE);
	assert_int_equal(h->requests, 1);
	assert_int_equal(h->last_request.event, BUS_RESET_REQUEST);
	harness_free(h);
}

/* The reset register lies among the configuration ports of PCI. */
static void beside_pci(void **state)
{
	struct harness *h = harness_new(0);

	harness_pci(h);
	harness_device(h, &pm_class, "pm", NULL);
	harness_out(h, 0xcf8, 4, 0x80000000);
	assert_int_not_equal(harness_in(h, 0xcfc, 2), 0xffff);
	harness_out(h, PM_RESET_PORT, 1, PM_RESET_VALUE);
	assert_int_equal(h->requests, 1);
	harness_free(h);
}

static void saved(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev =
		harness_device(h, &pm_class, "pm", &(struct pm_config){.acpi_enabled = true});
	u32 before;

	harness_out(h, EN, 2, PM1_PWRBTN);
	button(h, dev);
	harness_advance(h, NSEC_PER_SEC);
	before = harness_in(h, PM_BASE + PM_TMR, 4);
	harness_check_state(h, dev);
	assert_true(harness_line(h, PM_SCI_GSI));
	assert_int_equal(harness_in(h, PM_BASE + PM_TMR, 4), before);
	harness_free(h);
}

static void hostile(void **state)
{
	const struct harness_range ranges[] = {
		{BUS_PIO, PM_BASE, PM_SIZE}, {BUS_PIO, PM_SMI_CMD, 2}, {BUS_PIO, PM_RESET_PORT, 1}};
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &pm_class, "pm", NULL);

	for (u64 round = 0; round < 20; round++) {
		harness_hostile(h, ranges, 3, round, 5000, NULL);
		harness_check_state(h, dev);
	}
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_button), cmocka_unit_test(second_place),
		cmocka_unit_test(sleeping),	cmocka_unit_test(timer),
		cmocka_unit_test(timer_32bit),	cmocka_unit_test(general_purpose_events),
		cmocka_unit_test(reset_port),	cmocka_unit_test(beside_pci),
		cmocka_unit_test(saved),	cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
