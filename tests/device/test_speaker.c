#include "device/harness.h"

#include "hw/speaker.h"

#define HZ 1193182

static struct device *make(struct harness *h)
{
	return harness_device(h, &speaker_class, "speaker", NULL);
}

static void program(struct harness *h, u8 mode, u16 count)
{
	harness_out(h, 0x43, 1, (u32)(0xb0 | mode << 1));
	harness_out(h, 0x42, 1, count & 0xff);
	harness_out(h, 0x42, 1, count >> 8);
}

static bool out(struct harness *h)
{
	return harness_in(h, 0x61, 1) & 0x20;
}

/* How kernels calibrate: one-shot of 50 ms, gate up, wait for the output. */
static void one_shot(void **state)
{
	struct harness *h = harness_new(0);
	u64 start;

	make(h);
	harness_out(h, 0x61, 1, 0x01);
	program(h, 0, HZ / 20);
	start = harness_now();
	assert_false(out(h));
	while (!out(h) && harness_now() < start + NSEC_PER_SEC)
		harness_advance(h, 20 * NSEC_PER_USEC);
	assert_in_range(harness_now() - start, 49900 * NSEC_PER_USEC, 50100 * NSEC_PER_USEC);
	harness_free(h);
}

static void gate_holds(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = make(h);

	program(h, 0, 0xffff);
	harness_advance(h, NSEC_PER_SEC);
	assert_false(out(h)); /* the gate is low */
	harness_out(h, 0x61, 1, 0x01);
	harness_advance(h, 30 * NSEC_PER_MSEC);
	harness_out(h, 0x61, 1, 0x00);
	harness_advance(h, NSEC_PER_SEC);
	assert_false(out(h));
	harness_check_state(h, dev);
	harness_out(h, 0x61, 1, 0x01);
	harness_advance(h, 20 * NSEC_PER_MSEC);
	assert_false(out(h));
	harness_advance(h, 10 * NSEC_PER_MSEC);
	assert_true(out(h));
	harness_free(h);
}

static void square_wave(void **state)
{
	struct harness *h = harness_new(0);
	int changes = 0;
	bool last;

	make(h);
	program(h, 3, HZ / 500);
	harness_out(h, 0x61, 1, 0x03);
	assert_int_equal(harness_in(h, 0x61, 1) & 0x0f, 0x03);
	last = out(h);
	for (int i = 0; i < 10000; i++) {
		harness_advance(h, 20 * NSEC_PER_USEC);
		changes += out(h) != last;
		last = out(h);
	}
	assert_in_range(changes, 199, 201); /* 200 ms of 500 Hz */
	harness_free(h);
}

static void reading(void **state)
{
	struct harness *h = harness_new(0);
	u32 first, second;

	make(h);
	harness_out(h, 0x61, 1, 0x01);
	program(h, 2, 10000);
	harness_out(h, 0x43, 1, 0x80); /* latch */
	harness_advance(h, NSEC_PER_MSEC);
	first = harness_in(h, 0x42, 1);
	first |= harness_in(h, 0x42, 1) << 8;
	assert_int_equal(first, 10000);
	second = harness_in(h, 0x42, 1);
	second |= harness_in(h, 0x42, 1) << 8;
	assert_in_range(second, 10000 - 1200, 10000 - 1190);
	/* Read-back: status, then count. */
	harness_out(h, 0x43, 1, 0xc8);
	assert_int_equal(harness_in(h, 0x42, 1), 0x80 | 0x30 | 2 << 1);
	assert_int_equal(harness_in(h, 0x42, 1), second & 0xff);
	harness_in(h, 0x42, 1);
	/* BCD, low byte only. */
	harness_out(h, 0x43, 1, 0x95);
	harness_out(h, 0x42, 1, 0x25);
	assert_int_equal(harness_in(h, 0x42, 1), 0x25);
	/* Commands for other channels do not touch this one. */
	harness_out(h, 0x43, 1, 0x34);
	assert_int_equal(harness_in(h, 0x42, 1), 0x25);
	harness_free(h);
}

static void refresh_toggles(void **state)
{
	struct harness *h = harness_new(0);
	int changes = 0;
	u32 last;

	make(h);
	last = harness_in(h, 0x61, 1) & 0x10;
	for (int i = 0; i < 100; i++) {
		harness_advance(h, 5 * NSEC_PER_USEC);
		changes += (harness_in(h, 0x61, 1) & 0x10) != last;
		last = harness_in(h, 0x61, 1) & 0x10;
	}
	assert_in_range(changes, 32, 34);
	harness_free(h);
}

static void hostile(void **state)
{
	const struct harness_range ranges[] = {{BUS_PIO, 0x61, 1}, {BUS_PIO, 0x42, 2}};
	struct harness *h = harness_new(0);
	struct device *dev = make(h);

	for (u64 round = 0; round < 20; round++) {
		harness_hostile(h, ranges, 2, round, 5000, NULL);
		harness_check_state(h, dev);
	}
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_shot),	   cmocka_unit_test(gate_holds),
		cmocka_unit_test(square_wave),	   cmocka_unit_test(reading),
		cmocka_unit_test(refresh_toggles), cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
