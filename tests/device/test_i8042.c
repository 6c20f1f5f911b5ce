#include "device/harness.h"

#include <errno.h>
#include <linux/input-event-codes.h>
#include <string.h>

#include "hw/i8042.h"
#include "hw/input.h"

enum { OBF = 0x01, AUX = 0x20 };

static u8 status(struct harness *h)
{
	return (u8)harness_in(h, 0x64, 1);
}

static u8 get(struct harness *h)
{
	assert_true(status(h) & OBF);
	return (u8)harness_in(h, 0x60, 1);
}

static void command(struct harness *h, u8 value)
{
	harness_out(h, 0x64, 1, value);
}

static void data(struct harness *h, u8 value)
{
	harness_out(h, 0x60, 1, value);
}

static u8 ask(struct harness *h, u8 value)
{
	command(h, value);
	return get(h);
}

static void to_mouse(struct harness *h, u8 value)
{
	command(h, 0xd4);
	data(h, value);
}

static void key(struct harness *h, struct device *dev, u16 code, bool down)
{
	bus_lock(h->bus);
	assert_int_equal(input_key(dev, code, down), 0);
	bus_unlock(h->bus);
}

static void move(struct harness *h, struct device *dev, int dx, int dy, int dz, u32 buttons)
{
	bus_lock(h->bus);
	input_pointer(dev, dx, dy, dz, buttons);
	bus_unlock(h->bus);
}

/* Everything that waits is this, and all from the keyboard (or all from the mouse). */
static void expect(struct harness *h, bool aux, const u8 *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_true(status(h) & OBF);
		assert_int_equal(!!(status(h) & AUX), aux);
		assert_int_equal(harness_line(h, aux ? I8042_AUX_GSI : I8042_KBD_GSI), 1);
		assert_int_equal(harness_in(h, 0x60, 1), bytes[i]);
	}
	assert_false(status(h) & OBF);
	assert_false(harness_line(h, I8042_KBD_GSI) || harness_line(h, I8042_AUX_GSI));
}

#define EXPECT_KEYS(h, ...)  expect(h, false, (const u8[]){__VA_ARGS__}, sizeof((u8[]){__VA_ARGS__}))
#define EXPECT_MOUSE(h, ...) expect(h, true, (const u8[]){__VA_ARGS__}, sizeof((u8[]){__VA_ARGS__}))

/* The steps of Linux's i8042 driver when it binds. */
static void linux_probe(void **state)
{
	struct harness *h = harness_new(0);
	u64 edges;
	u8 ctr;

	harness_device(h, &i8042_class, "i8042", NULL);
	for (int i = 0; i < 16 && (status(h) & OBF); i++)
		get(h);
	assert_false(status(h) & OBF);
	assert_int_equal(ask(h, 0xaa), 0x55);
	ctr = ask(h, 0x20);
	assert_true(ctr & 0x40);       /* translates */
	assert_true(status(h) & 0x10); /* not locked */
	command(h, 0x60);
	data(h, (ctr | 0x30) & ~0x03);
	assert_int_equal(ask(h, 0x20), (ctr | 0x30) & ~0x03);
	/* The loop of the second port, and no multiplexer behind it. */
	command(h, 0xd3);
	data(h, 0x5a);
	assert_int_equal(status(h) & (OBF | AUX), OBF | AUX);
	assert_int_equal(get(h), 0x5a);
	command(h, 0xd3);
	data(h, 0xf0);
	assert_int_equal(get(h), 0xf0);
	command(h, 0xd3);
	data(h, 0x56);
	assert_int_equal(get(h), 0x56);
	command(h, 0xd3);
	data(h, 0xa4);
	assert_int_equal(get(h), 0xa4);
	/* Disabling and enabling the second port shows in the command byte. */
	command(h, 0xa8);
	assert_false(ask(h, 0x20) & 0x20);
	command(h, 0xa7);
	assert_true(ask(h, 0x20) & 0x20);
	assert_int_equal(ask(h, 0xa9), 0);
	assert_int_equal(ask(h, 0xab), 0);
	/* Its interrupt, and only that one. */
	command(h, 0x60);
	data(h, 0x46);
	edges = harness_edges(h, I8042_KBD_GSI);
	command(h, 0xd3);
	data(h, 0xa5);
	assert_true(harness_line(h, I8042_AUX_GSI));
	get(h);
	assert_false(harness_line(h, I8042_AUX_GSI));
	assert_int_equal(harness_edges(h, I8042_KBD_GSI), edges);
	harness_free(h);
}

static void keyboard_commands(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);

	/* atkbd: reset, identify (translated), LEDs, rate, enable. */
	data(h, 0xff);
	EXPECT_KEYS(h, 0xfa, 0xaa);
	data(h, 0xf2);
	EXPECT_KEYS(h, 0xfa, 0xab, 0x41);
	data(h, 0xed);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0x05);
	EXPECT_KEYS(h, 0xfa);
	bus_lock(h->bus);
	assert_int_equal(input_leds(dev), 5);
	bus_unlock(h->bus);
	data(h, 0xf3);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0x00);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0xf4);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0xee);
	EXPECT_KEYS(h, 0xee);
	data(h, 0x55);
	EXPECT_KEYS(h, 0xfe);
	/* Which set: 2, as the translation shows it. */
	data(h, 0xf0);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0x00);
	EXPECT_KEYS(h, 0xfa, 0x41);
	data(h, 0xf0);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0x03);
	EXPECT_KEYS(h, 0xfe);
	/* A command takes the place of a parameter. */
	data(h, 0xed);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0xf4);
	EXPECT_KEYS(h, 0xfa);
	/* Disabled: keys are not sent. */
	data(h, 0xf5);
	EXPECT_KEYS(h, 0xfa);
	key(h, dev, KEY_A, true);
	assert_false(status(h) & OBF);
	/* Resend. */
	data(h, 0xf2);
	EXPECT_KEYS(h, 0xfa, 0xab, 0x41);
	data(h, 0xfe);
	EXPECT_KEYS(h, 0x41);
	harness_free(h);
}

static void scan_codes(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);

	/* Set 2 translated to 1. */
	key(h, dev, KEY_A, true);
	key(h, dev, KEY_A, false);
	EXPECT_KEYS(h, 0x1e, 0x9e);
	key(h, dev, KEY_F7, true);
	key(h, dev, KEY_F7, false);
	EXPECT_KEYS(h, 0x41, 0xc1);
	key(h, dev, KEY_UP, true);
	key(h, dev, KEY_UP, false);
	EXPECT_KEYS(h, 0xe0, 0x48, 0xe0, 0xc8);
	key(h, dev, KEY_PAUSE, true);
	key(h, dev, KEY_PAUSE, false);
	EXPECT_KEYS(h, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
	key(h, dev, KEY_SYSRQ, true);
	key(h, dev, KEY_SYSRQ, false);
	EXPECT_KEYS(h, 0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa);
	key(h, dev, KEY_LEFTALT, true);
	key(h, dev, KEY_SYSRQ, true);
	key(h, dev, KEY_SYSRQ, false);
	key(h, dev, KEY_LEFTALT, false);
	EXPECT_KEYS(h, 0x38, 0x54, 0xd4, 0xb8);
	/* Every key of the main block and the function keys comes out as its number. */
	for (u16 code = KEY_ESC; code <= KEY_F12; code++) {
		if (code == 84 || code == KEY_ZENKAKUHANKAKU)
			continue;
		key(h, dev, code, true);
		key(h, dev, code, false);
		EXPECT_KEYS(h, (u8)code, (u8)(code | 0x80));
	}
	/* Untranslated set 2. */
	command(h, 0x60);
	data(h, 0x07);
	key(h, dev, KEY_A, true);
	key(h, dev, KEY_A, false);
	EXPECT_KEYS(h, 0x1c, 0xf0, 0x1c);
	key(h, dev, KEY_RIGHTCTRL, true);
	key(h, dev, KEY_RIGHTCTRL, false);
	EXPECT_KEYS(h, 0xe0, 0x14, 0xe0, 0xf0, 0x14);
	key(h, dev, KEY_F7, true);
	EXPECT_KEYS(h, 0x83);
	key(h, dev, KEY_PAUSE, true);
	EXPECT_KEYS(h, 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
	/* Set 1 from the keyboard itself. */
	data(h, 0xf0);
	EXPECT_KEYS(h, 0xfa);
	data(h, 0x01);
	EXPECT_KEYS(h, 0xfa);
	key(h, dev, KEY_LEFTMETA, true);
	key(h, dev, KEY_LEFTMETA, false);
	EXPECT_KEYS(h, 0xe0, 0x5b, 0xe0, 0xdb);
	bus_lock(h->bus);
	assert_int_equal(input_key(dev, BTN_JOYSTICK, true), -ENOENT);
	assert_int_equal(input_key(dev, 84, true), -ENOENT);
	assert_int_equal(input_key(dev, 0xffff, true), -ENOENT);
	bus_unlock(h->bus);
	harness_free(h);
}

static void full_queue(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);
	int lost = 0, bytes = 0;

	bus_lock(h->bus);
	for (int i = 0; i < 400; i++)
		lost += input_key(dev, KEY_A, true) == -ENOSPC;
	bus_unlock(h->bus);
	while (status(h) & OBF) {
		assert_int_equal(get(h), 0x1e);
		bytes++;
	}
	assert_int_equal(bytes + lost, 400);
	assert_int_equal(bytes, 257); /* one was in the controller */
	key(h, dev, KEY_B, true);
	EXPECT_KEYS(h, 0x30);
	harness_free(h);
}

static void mouse_commands(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &i8042_class, "i8042", NULL);
	to_mouse(h, 0xff);
	EXPECT_MOUSE(h, 0xfa, 0xaa, 0x00);
	to_mouse(h, 0xf2);
	EXPECT_MOUSE(h, 0xfa, 0x00);
	to_mouse(h, 0xe9);
	EXPECT_MOUSE(h, 0xfa, 0x00, 0x02, 0x64);
	to_mouse(h, 0xe8);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0x03);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0xe7);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0xf4);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0xe9);
	EXPECT_MOUSE(h, 0xfa, 0x30, 0x03, 0x64);
	/* Wrap mode echoes. */
	to_mouse(h, 0xee);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0x42);
	EXPECT_MOUSE(h, 0x42);
	to_mouse(h, 0xec);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0x11);
	EXPECT_MOUSE(h, 0xfe);
	to_mouse(h, 0xf6);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, 0xe9);
	EXPECT_MOUSE(h, 0xfa, 0x00, 0x02, 0x64);
	harness_free(h);
}

static void mouse_reports(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);

	move(h, dev, 5, 5, 0, 0);
	assert_false(status(h) & OBF); /* not enabled yet */
	to_mouse(h, 0xf4);
	EXPECT_MOUSE(h, 0xfa, 0x28, 0x05, 0xfb);
	move(h, dev, -3, 2, 1, INPUT_LEFT);
	EXPECT_MOUSE(h, 0x39, 0xfd, 0xfe);
	move(h, dev, 0, -7, 0, INPUT_LEFT | INPUT_MIDDLE);
	EXPECT_MOUSE(h, 0x0d, 0x00, 0x07);
	/* Far: in several reports. Nothing changed: none. */
	move(h, dev, 600, 0, 0, INPUT_LEFT | INPUT_MIDDLE);
	EXPECT_MOUSE(h, 0x0d, 0xff, 0x00, 0x0d, 0xff, 0x00, 0x0d, 0x5a, 0x00);
	move(h, dev, 0, 0, 0, INPUT_LEFT | INPUT_MIDDLE);
	assert_false(status(h) & OBF);
	/* A click while the guest does not read is not lost, movements are added up. */
	move(h, dev, 1, 0, 0, 0);
	move(h, dev, 1, 0, 0, 0);
	move(h, dev, 1, 0, 0, INPUT_RIGHT);
	move(h, dev, 1, 0, 0, 0);
	EXPECT_MOUSE(h, 0x08, 0x01, 0x00, 0x0a, 0x02, 0x00, 0x08, 0x01, 0x00);
	/* Remote mode: on request only. */
	to_mouse(h, 0xf0);
	EXPECT_MOUSE(h, 0xfa);
	move(h, dev, 9, 0, 0, 0);
	assert_false(status(h) & OBF);
	to_mouse(h, 0xeb);
	EXPECT_MOUSE(h, 0xfa, 0x08, 0x09, 0x00);
	harness_free(h);
}

static void rate(struct harness *h, u8 value)
{
	to_mouse(h, 0xf3);
	EXPECT_MOUSE(h, 0xfa);
	to_mouse(h, value);
	EXPECT_MOUSE(h, 0xfa);
}

static void wheel(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);

	rate(h, 200);
	rate(h, 100);
	rate(h, 80);
	to_mouse(h, 0xf2);
	EXPECT_MOUSE(h, 0xfa, 0x03);
	rate(h, 200);
	rate(h, 200);
	rate(h, 80);
	to_mouse(h, 0xf2);
	EXPECT_MOUSE(h, 0xfa, 0x04);
	to_mouse(h, 0xf4);
	EXPECT_MOUSE(h, 0xfa);
	move(h, dev, 0, 0, 1, 0);
	EXPECT_MOUSE(h, 0x08, 0x00, 0x00, 0x01);
	move(h, dev, 0, 0, -1, 0);
	EXPECT_MOUSE(h, 0x08, 0x00, 0x00, 0x0f);
	to_mouse(h, 0xff);
	EXPECT_MOUSE(h, 0xfa, 0xaa, 0x00);
	harness_free(h);
}

static void no_mouse(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev =
		harness_device(h, &i8042_class, "i8042", &(struct i8042_config){.no_mouse = true});

	to_mouse(h, 0xff);
	assert_int_equal(status(h) & 0x61, 0x61); /* timeout */
	assert_int_equal(get(h), 0xfe);
	move(h, dev, 1, 1, 1, 7);
	assert_false(status(h) & OBF);
	harness_free(h);
}

static void reset_and_a20(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &i8042_class, "i8042", NULL);
	assert_int_equal(harness_in(h, 0x92, 1), 2);
	harness_out(h, 0x92, 1, 0);
	assert_false(ask(h, 0xd0) & 2);
	command(h, 0xdf);
	assert_int_equal(harness_in(h, 0x92, 1), 2);
	command(h, 0xd1);
	data(h, 0x01);
	assert_int_equal(harness_in(h, 0x92, 1), 0);
	assert_int_equal(h->requests, 0);
	command(h, 0xfe);
	assert_int_equal(h->requests, 1);
	assert_int_equal(h->last_request.event, BUS_RESET_REQUEST);
	command(h, 0xff); /* pulses nothing */
	assert_int_equal(h->requests, 1);
	command(h, 0xd1);
	data(h, 0x02);
	assert_int_equal(h->requests, 2);
	harness_out(h, 0x92, 1, 0x03);
	assert_int_equal(h->requests, 3);
	harness_free(h);
}

static void order_and_disable(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);

	to_mouse(h, 0xf4);
	EXPECT_MOUSE(h, 0xfa);
	command(h, 0xad);
	key(h, dev, KEY_B, true);
	assert_false(status(h) & OBF); /* the keyboard's clock is held */
	command(h, 0xa7);
	move(h, dev, 1, 0, 0, 0);
	assert_false(status(h) & OBF);
	command(h, 0xae);
	assert_int_equal(status(h) & (OBF | AUX), OBF);
	command(h, 0xa8);
	assert_int_equal(get(h), 0x30);
	EXPECT_MOUSE(h, 0x08, 0x01, 0x00);
	harness_free(h);
}

static void saved(void **state)
{
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);

	to_mouse(h, 0xf4);
	EXPECT_MOUSE(h, 0xfa);
	key(h, dev, KEY_UP, true);
	move(h, dev, 3, 4, 0, INPUT_LEFT);
	harness_check_state(h, dev);
	assert_int_equal(get(h), 0xe0);
	assert_int_equal(get(h), 0x48);
	EXPECT_MOUSE(h, 0x29, 0x03, 0xfc);
	harness_free(h);
}

static void hostile(void **state)
{
	const struct harness_range ranges[] = {
		{BUS_PIO, 0x60, 1}, {BUS_PIO, 0x64, 1}, {BUS_PIO, 0x92, 1}};
	struct harness *h = harness_new(0);
	struct device *dev = harness_device(h, &i8042_class, "i8042", NULL);
	u64 seed = 3;

	for (u64 round = 0; round < 40; round++) {
		for (int i = 0; i < 40; i++) {
			u64 r = harness_random(&seed);

			bus_lock(h->bus);
			input_key(dev, (u16)(r % 260), r & 0x1000);
			input_pointer(dev, (int)(r >> 8), (int)(r >> 20), (int)(r >> 32),
				      (u32)(r >> 40));
			bus_unlock(h->bus);
		}
		harness_hostile(h, ranges, 3, round, 5000, NULL);
		harness_check_state(h, dev);
	}
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linux_probe),	  cmocka_unit_test(keyboard_commands),
		cmocka_unit_test(scan_codes),	  cmocka_unit_test(full_queue),
		cmocka_unit_test(mouse_commands), cmocka_unit_test(mouse_reports),
		cmocka_unit_test(wheel),	  cmocka_unit_test(no_mouse),
		cmocka_unit_test(reset_and_a20),  cmocka_unit_test(order_and_disable),
		cmocka_unit_test(saved),	  cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
