#include "device/harness.h"

#include <string.h>

#include "hw/rtc.h"

static u8 get(struct harness *h, u8 index)
{
	harness_out(h, 0x70, 1, index);
	return (u8)harness_in(h, 0x71, 1);
}

static void set(struct harness *h, u8 index, u8 value)
{
	harness_out(h, 0x70, 2, index | value << 8);
}

static struct device *make(struct harness *h)
{
	const struct rtc_config config = {
		.ram_below_4g = 3 * GiB,
		.ram_above_4g = 5 * GiB,
		.cpus = 4,
		.boot_order = 0x132,
	};

	return harness_device(h, &rtc_class, "rtc", &config);
}

/* To just after an update of the clock, so that a test has a second ahead of it. */
static void to_update(struct harness *h)
{
	u8 second = get(h, 0);

	for (int i = 0; i < 20000 && get(h, 0) == second; i++)
		harness_advance(h, 100 * NSEC_PER_USEC);
	assert_int_not_equal(get(h, 0), second);
}

static void host_time(void **state)
{
	struct harness *h = harness_new(0);
	u64 s;

	make(h);
	to_update(h);
	s = clock_realtime_ns() / NSEC_PER_SEC % 86400;
	assert_int_equal((get(h, 4) >> 4) * 10 + (get(h, 4) & 15), s / 3600);
	assert_int_equal((get(h, 2) >> 4) * 10 + (get(h, 2) & 15), s / 60 % 60);
	assert_int_equal((get(h, 0) >> 4) * 10 + (get(h, 0) & 15), s % 60);
	/* The harness starts on Friday, 2026-11-20. */
	assert_int_equal(get(h, 6), 6);
	assert_int_equal(get(h, 7), 0x20);
	assert_int_equal(get(h, 8), 0x11);
	assert_int_equal(get(h, 9), 0x26);
	assert_int_equal(get(h, RTC_CENTURY), 0x20);
	assert_int_equal(get(h, 13), 0x80);
	harness_free(h);
}

static void set_time(struct harness *h, u8 b, const u8 *fields)
{
	set(h, 11, b | 0x80);
	for (int i = 0; i < 7; i++) {
		static const u8 index[] = {0, 2, 4, 7, 8, 9, RTC_CENTURY};

		set(h, index[i], fields[i]);
	}
	set(h, 11, b);
}

static void roll_over(void **state)
{
	struct harness *h = harness_new(0);

	make(h);
	/* 1999-12-31 23:59:59, BCD, 24 hours. */
	set_time(h, 0x02, (const u8[]){0x59, 0x59, 0x23, 0x31, 0x12, 0x99, 0x19});
	assert_int_equal(get(h, 4), 0x23);
	harness_advance(h, NSEC_PER_SEC);
	assert_int_equal(get(h, 0), 0);
	assert_int_equal(get(h, 4), 0);
	assert_int_equal(get(h, 7), 1);
	assert_int_equal(get(h, 8), 1);
	assert_int_equal(get(h, 9), 0);
	assert_int_equal(get(h, RTC_CENTURY), 0x20);
	assert_int_equal(get(h, 6), 7); /* a Saturday */
	/* 2000-02-28 is followed by the 29th, 2100-02-28 by March. Binary, 12 hours: 11 PM. */
	set_time(h, 0x04, (const u8[]){59, 59, 0x80 | 11, 28, 2, 0, 0x20});
	harness_advance(h, NSEC_PER_SEC);
	assert_int_equal(get(h, 7), 29);
	assert_int_equal(get(h, 4), 12); /* 12 AM */
	set_time(h, 0x04, (const u8[]){59, 59, 0x80 | 11, 28, 2, 0, 0x21});
	harness_advance(h, NSEC_PER_SEC);
	assert_int_equal(get(h, 7), 1);
	assert_int_equal(get(h, 8), 3);
	/* Noon is 12 PM, in BCD too. */
	set_time(h, 0x00, (const u8[]){0x59, 0x59, 0x11, 0x01, 0x01, 0x01, 0x20});
	harness_advance(h, NSEC_PER_SEC);
	assert_int_equal(get(h, 4), 0x92);
	harness_free(h);
}

static void stands_still(void **state)
{
	struct harness *h = harness_new(0);
	u8 second;

	make(h);
	set(h, 11, 0x82);
	second = get(h, 0);
	harness_advance(h, 3 * NSEC_PER_SEC);
	assert_int_equal(get(h, 0), second);
	assert_int_equal(get(h, 10) & 0x80, 0);
	assert_int_equal(get(h, 12), 0);
	/* Divider held in reset, as Linux does: the first update comes half a second after. */
	set(h, 10, 0x76);
	set(h, 0, 0x10);
	set(h, 11, 0x02);
	harness_advance(h, 2 * NSEC_PER_SEC);
	assert_int_equal(get(h, 0), 0x10);
	set(h, 10, 0x26);
	harness_advance(h, 490 * NSEC_PER_MSEC);
	assert_int_equal(get(h, 0), 0x10);
	harness_advance(h, 20 * NSEC_PER_MSEC);
	assert_int_equal(get(h, 0), 0x11);
	harness_free(h);
}

static void update_in_progress(void **state)
{
	struct harness *h = harness_new(0);
	int raised = 0, updates = 0;
	u8 second;

	make(h);
	to_update(h);
	second = get(h, 0);
	for (int i = 0; i < 10000; i++) {
		bool uip;

		harness_advance(h, 100 * NSEC_PER_USEC);
		uip = get(h, 10) & 0x80;
		raised += uip;
		if (get(h, 0) == second)
			continue;
		/* The registers change only while it is set, or as it goes. */
		assert_true(raised > 0);
		second = get(h, 0);
		updates++;
	}
	assert_int_equal(updates, 1);
	assert_in_range(raised, 20, 25);
	harness_free(h);
}

static void update_interrupt(void **state)
{
	struct harness *h = harness_new(0);

	make(h);
	to_update(h);
	set(h, 10, 0x20); /* no periodic flag */
	get(h, 12);
	set(h, 11, 0x12);
	harness_advance(h, 900 * NSEC_PER_MSEC);
	assert_false(harness_line(h, RTC_GSI));
	harness_advance(h, 110 * NSEC_PER_MSEC);
	assert_true(harness_line(h, RTC_GSI));
	assert_int_equal(get(h, 12), 0x90);
	assert_false(harness_line(h, RTC_GSI));
	assert_int_equal(get(h, 12), 0);
	harness_advance(h, 3 * NSEC_PER_SEC);
	assert_int_equal(harness_edges(h, RTC_GSI), 2); /* nobody read the flags in between */
	/* Flags come without the interrupt too. */
	set(h, 11, 0x02);
	assert_false(harness_line(h, RTC_GSI));
	get(h, 12);
	harness_advance(h, NSEC_PER_SEC);
	assert_int_equal(get(h, 12), 0x10);
	/* SET clears the enable bit. */
	set(h, 11, 0x92);
	assert_int_equal(get(h, 11), 0x82);
	harness_free(h);
}

static void alarm(void **state)
{
	struct harness *h = harness_new(0);

	make(h);
	set(h, 10, 0x20);
	set_time(h, 0x02, (const u8[]){0x55, 0x59, 0x09, 0x01, 0x01, 0x26, 0x20});
	set(h, 1, 0x02);
	set(h, 3, 0x00);
	set(h, 5, 0x10);
	set(h, 11, 0x22);
	harness_advance(h, 6 * NSEC_PER_SEC);
	assert_int_equal(harness_edges(h, RTC_GSI), 0);
	harness_advance(h, 2 * NSEC_PER_SEC);
	assert_int_equal(harness_edges(h, RTC_GSI), 1);
	assert_int_equal(get(h, 12), 0xb0);
	/* Any minute and hour: each :05. */
	set(h, 1, 0x05);
	set(h, 3, 0xff);
	set(h, 5, 0xc0);
	harness_advance(h, 3 * NSEC_PER_SEC);
	assert_int_equal(get(h, 12), 0xb0);
	harness_advance(h, 60 * NSEC_PER_SEC);
	assert_int_equal(harness_edges(h, RTC_GSI), 3);
	/* An alarm that passed while nobody looked and no interrupt was enabled. */
	get(h, 12);
	set(h, 11, 0x02);
	harness_advance(h, 61 * NSEC_PER_SEC);
	assert_int_equal(get(h, 12), 0x30);
	harness_free(h);
}

static void periodic(void **state)
{
	struct harness *h = harness_new(0);
	int count = 0;

	make(h);
	set(h, 10, 0x26); /* 1024 Hz */
	set(h, 11, 0x42);
	get(h, 12);
	for (int i = 0; i < 10000; i++) {
		harness_advance(h, 100 * NSEC_PER_USEC);
		if (harness_line(h, RTC_GSI))
			count += (get(h, 12) & 0xc0) == 0xc0;
	}
	assert_in_range(count, 1023, 1025);
	/* 2 Hz, without the interrupt. */
	set(h, 11, 0x02);
	set(h, 10, 0x2f);
	get(h, 12);
	harness_advance(h, 600 * NSEC_PER_MSEC);
	assert_int_equal(get(h, 12) & 0x40, 0x40);
	set(h, 10, 0x20); /* off */
	get(h, 12);
	harness_advance(h, NSEC_PER_SEC);
	assert_int_equal(get(h, 12) & 0x40, 0);
	harness_free(h);
}

static void memory(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = make(h);

	assert_int_equal(get(h, 0x15) | get(h, 0x16) << 8, 640);
	assert_int_equal(get(h, 0x17) | get(h, 0x18) << 8, 0xffff);
	assert_int_equal(get(h, 0x30) | get(h, 0x31) << 8, 0xffff);
	assert_int_equal(get(h, 0x34) | get(h, 0x35) << 8, (3 * GiB - 16 * MiB) / (64 * KiB));
	assert_int_equal(get(h, 0x5b) | get(h, 0x5c) << 8 | get(h, 0x5d) << 16,
			 5 * GiB / (64 * KiB));
	assert_int_equal(get(h, 0x5f), 3);
	assert_int_equal(get(h, 0x3d), 0x32);
	assert_int_equal(get(h, 0x38) >> 4, 1);
	set(h, 0x0f, 0x0a);
	bus_lock(h->bus);
	rtc_set_cmos(dev, 0x40, 0x77);
	rtc_set_cmos(dev, 0x00, 0x77); /* not memory */
	devices_reset(h->bus);
	bus_unlock(h->bus);
	assert_int_equal(get(h, 0x0f), 0x0a);
	assert_int_equal(get(h, 0x40), 0x77);
	assert_int_not_equal(get(h, 0x00), 0x77);
	/* The other bank, and that the NMI bit is no part of the index. */
	harness_out(h, 0x72, 2, 0x0f | 0x99 << 8);
	harness_out(h, 0x72, 1, 0x0f);
	assert_int_equal(harness_in(h, 0x73, 1), 0x99);
	assert_int_equal(get(h, 0x8f), 0x0a);
	assert_int_equal(harness_in(h, 0x70, 1), 0xff);
	assert_int_equal(harness_in(h, 0x73, 4) >> 8, 0xffffff);
	harness_free(h);
}

static void small_memory(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &rtc_class, "rtc", &(struct rtc_config){.ram_below_4g = 512 * KiB});
	assert_int_equal(get(h, 0x15) | get(h, 0x16) << 8, 512);
	assert_int_equal(get(h, 0x30) | get(h, 0x31) << 8, 0);
	assert_int_equal(get(h, 0x34) | get(h, 0x35) << 8, 0);
	harness_free(h);
}

static void saved(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = make(h);

	set_time(h, 0x42, (const u8[]){0x59, 0x59, 0x23, 0x31, 0x12, 0x99, 0x19});
	harness_check_state(h, dev);
	assert_int_equal(get(h, 9), 0x99);
	assert_int_equal(get(h, 11), 0x42);
	harness_free(h);
}

static void hostile(void **state)
{
	const struct harness_range range = {BUS_PIO, 0x70, 4};
	struct harness *h = harness_new(0);
	struct device *dev = make(h);

	for (u64 round = 0; round < 20; round++) {
		harness_hostile(h, &range, 1, round, 5000, NULL);
		harness_check_state(h, dev);
	}
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_time),	    cmocka_unit_test(roll_over),
		cmocka_unit_test(stands_still),	    cmocka_unit_test(update_in_progress),
		cmocka_unit_test(update_interrupt), cmocka_unit_test(alarm),
		cmocka_unit_test(periodic),	    cmocka_unit_test(memory),
		cmocka_unit_test(small_memory),	    cmocka_unit_test(saved),
		cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
