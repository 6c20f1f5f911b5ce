#include "device/harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hw/serial.h"

#define BASE 0x3f8
#define GSI  4

struct fixture {
	struct harness *h;
	struct harness_chardev c;
	struct device *dev;
};

static struct fixture setup(void)
{
	struct fixture f = {.h = harness_new(0)};
	struct serial_config config = {.base = BASE, .gsi = GSI};

	harness_chardev_open(f.h, &f.c);
	config.chr = f.c.chr;
	f.dev = harness_device(f.h, &serial_class, "serial0", &config);
	harness_settle(f.h);
	return f;
}

static void teardown(struct fixture *f)
{
	bus_lock(f->h->bus);
	devices_free(f->h->bus);
	bus_unlock(f->h->bus);
	harness_chardev_close(&f->c);
	harness_free(f->h);
}

static u8 get(struct fixture *f, int reg)
{
	return (u8)harness_in(f->h, (u16)(BASE + reg), 1);
}

static void set(struct fixture *f, int reg, u8 value)
{
	harness_out(f->h, (u16)(BASE + reg), 1, value);
}

static void type(struct fixture *f, const void *data, size_t len)
{
	assert_int_equal(write(f->c.fd, data, len), (ssize_t)len);
	harness_settle(f->h);
}

static void power_on(void **state)
{
	struct fixture f = setup();

	assert_int_equal(get(&f, 1), 0);
	assert_int_equal(get(&f, 2), 0x01);
	assert_int_equal(get(&f, 3), 0);
	assert_int_equal(get(&f, 4), 0);
	assert_int_equal(get(&f, 5), 0x60);
	assert_int_equal(get(&f, 6), 0xb0);
	set(&f, 7, 0xa5);
	assert_int_equal(get(&f, 7), 0xa5);
	/* Divisor latch. */
	set(&f, 3, 0x83);
	set(&f, 0, 0x34);
	set(&f, 1, 0x12);
	assert_int_equal(harness_in(f.h, BASE, 2), 0x1234);
	set(&f, 3, 0x03);
	assert_int_equal(get(&f, 1), 0);
	/* Reserved bits do not stick; status registers are read-only. */
	set(&f, 1, 0xf0);
	assert_int_equal(get(&f, 1), 0);
	set(&f, 4, 0xe0);
	assert_int_equal(get(&f, 4), 0);
	set(&f, 5, 0xff);
	assert_int_equal(get(&f, 5), 0x60);
	assert_int_equal(f.h->requests, 0);
	teardown(&f);
}

static void output(void **state)
{
	struct fixture f = setup();
	char text[128] = {0};

	set(&f, 0, 'h');
	set(&f, 0, 'i');
	harness_outs(f.h, BASE, 1, " there", 6);
	assert_int_equal(harness_chardev_take(f.h, &f.c, text, sizeof(text)), 8);
	assert_string_equal(text, "hi there");
	assert_int_equal(get(&f, 5), 0x60);
	/* With the divisor latch open a string goes there. */
	set(&f, 3, 0x80);
	harness_outs(f.h, BASE, 1, "xyz", 3);
	assert_int_equal(get(&f, 0), 'z');
	assert_int_equal(harness_chardev_take(f.h, &f.c, text, sizeof(text)), 0);
	teardown(&f);
}

static void transmit_interrupt(void **state)
{
	struct fixture f = setup();
	u64 edges;

	set(&f, 1, 0x02);
	assert_true(harness_line(f.h, GSI));
	assert_int_equal(get(&f, 2), 0x02);
	/* Reading it as the cause clears it. */
	assert_false(harness_line(f.h, GSI));
	assert_int_equal(get(&f, 2), 0x01);
	edges = harness_edges(f.h, GSI);
	set(&f, 0, 'a');
	set(&f, 0, 'b');
	/* An edge each, even though nobody read the cause. */
	assert_int_equal(harness_edges(f.h, GSI), edges + 2);
	set(&f, 1, 0);
	assert_false(harness_line(f.h, GSI));
	teardown(&f);
}

static void receive_one(void **state)
{
	struct fixture f = setup();

	set(&f, 1, 0x01);
	type(&f, "x", 1);
	assert_true(harness_line(f.h, GSI));
	assert_int_equal(get(&f, 2), 0x04);
	assert_int_equal(get(&f, 5), 0x61);
	assert_int_equal(get(&f, 0), 'x');
	assert_false(harness_line(f.h, GSI));
	assert_int_equal(get(&f, 5), 0x60);
	assert_int_equal(get(&f, 0), 0);
	teardown(&f);
}

static void fifo_trigger_and_timeout(void **state)
{
	struct fixture f = setup();
	u64 edges;

	set(&f, 2, 0xc1); /* FIFO, trigger at 14 */
	assert_int_equal(get(&f, 2), 0xc1);
	set(&f, 1, 0x01);
	type(&f, "12345678901234567890", 20);
	assert_true(harness_line(f.h, GSI));
	assert_int_equal(get(&f, 2), 0xc4);
	/* Below the trigger level the line falls; four characters later the timeout comes. */
	for (int i = 0; i < 3; i++)
		assert_int_equal(get(&f, 0), "123"[i]);
	assert_false(harness_line(f.h, GSI));
	assert_int_equal(get(&f, 2), 0xc1);
	edges = harness_edges(f.h, GSI);
	harness_advance(f.h, 100 * NSEC_PER_USEC);
	assert_false(harness_line(f.h, GSI));
	harness_advance(f.h, 300 * NSEC_PER_USEC);
	assert_true(harness_line(f.h, GSI));
	assert_int_equal(harness_edges(f.h, GSI), edges + 1);
	assert_int_equal(get(&f, 2), 0xcc);
	/* A read ends the timeout and starts it anew: an edge for a handler that takes one byte. */
	assert_int_equal(get(&f, 0), '4');
	assert_false(harness_line(f.h, GSI));
	harness_advance(f.h, 400 * NSEC_PER_USEC);
	assert_int_equal(harness_edges(f.h, GSI), edges + 2);
	for (int i = 4; i < 20; i++) {
		harness_advance(f.h, NSEC_PER_MSEC);
		assert_int_equal(get(&f, 5) & 1, 1);
		assert_int_equal(get(&f, 0), "12345678901234567890"[i]);
	}
	assert_int_equal(get(&f, 5), 0x60);
	harness_advance(f.h, NSEC_PER_MSEC);
	assert_false(harness_line(f.h, GSI));
	/* Few bytes on a silent line: announced at once. */
	type(&f, "z", 1);
	assert_int_equal(get(&f, 2), 0xcc);
	/* Clearing the FIFO. */
	set(&f, 2, 0xc3);
	assert_int_equal(get(&f, 5), 0x60);
	assert_false(harness_line(f.h, GSI));
	teardown(&f);
}

static void priorities(void **state)
{
	struct fixture f = setup();

	set(&f, 4, 0x10); /* loop */
	get(&f, 6);
	set(&f, 1, 0x0f);
	assert_int_equal(get(&f, 2), 0x02);
	assert_int_equal(get(&f, 2), 0x01);
	set(&f, 4, 0x11); /* DTR changes DSR */
	assert_int_equal(get(&f, 2), 0x00);
	set(&f, 0, 'a');
	assert_int_equal(get(&f, 2), 0x04);
	set(&f, 0, 'b'); /* overrun: the register holds one */
	assert_int_equal(get(&f, 2), 0x06);
	assert_int_equal(get(&f, 5), 0x63);
	assert_int_equal(get(&f, 2), 0x04);
	assert_int_equal(get(&f, 0), 'b');
	assert_int_equal(get(&f, 2), 0x02);
	assert_int_equal(get(&f, 2), 0x00);
	assert_int_equal(get(&f, 6), 0x22);
	assert_int_equal(get(&f, 2), 0x01);
	assert_false(harness_line(f.h, GSI));
	teardown(&f);
}

static void loopback(void **state)
{
	struct fixture f = setup();
	char text[8];

	set(&f, 2, 0x01);
	set(&f, 4, 0x10);
	assert_int_equal(get(&f, 6) & 0xf0, 0);
	for (int i = 0; i < 4; i++) {
		static const u8 line[] = {0x20, 0x10, 0x40, 0x80};

		set(&f, 4, (u8)(0x10 | 1 << i));
		assert_int_equal(get(&f, 6) & 0xf0, line[i]);
	}
	set(&f, 4, 0x14);
	get(&f, 6);
	set(&f, 4, 0x10);
	assert_int_equal(get(&f, 6), 0x04); /* ring indicator: its falling edge only */
	for (int i = 0; i < 17; i++)
		set(&f, 0, (u8)('a' + i));
	assert_int_equal(get(&f, 5), 0x63);
	for (int i = 0; i < 16; i++)
		assert_int_equal(get(&f, 0), 'a' + i);
	assert_int_equal(get(&f, 5), 0x60);
	/* Break. */
	set(&f, 3, 0x43);
	assert_int_equal(get(&f, 5), 0xf1);
	assert_int_equal(get(&f, 0), 0);
	/* Nothing went out; nothing comes in, and nothing is lost. */
	assert_int_equal(harness_chardev_take(f.h, &f.c, text, sizeof(text)), 0);
	type(&f, "q", 1);
	assert_int_equal(get(&f, 5) & 1, 0);
	set(&f, 4, 0);
	assert_int_equal(get(&f, 0), 'q');
	teardown(&f);
}

static void flow_control(void **state)
{
	struct fixture f = setup();

	set(&f, 2, 0x01);
	set(&f, 4, 0x03);
	set(&f, 4, 0x01); /* RTS down */
	type(&f, "later", 5);
	harness_advance(f.h, NSEC_PER_MSEC);
	assert_int_equal(get(&f, 5), 0x60);
	set(&f, 4, 0x03);
	for (int i = 0; i < 5; i++)
		assert_int_equal(get(&f, 0), "later"[i]);
	teardown(&f);
}

static void modem_status_follows_peer(void **state)
{
	struct fixture f = setup();

	set(&f, 1, 0x08);
	assert_int_equal(get(&f, 6), 0xb0);
	/* End of input alone leaves a descriptor's output side connected. */
	shutdown(f.c.fd, SHUT_WR);
	harness_settle(f.h);
	assert_int_equal(get(&f, 6), 0xb0);
	teardown(&f);

	/* Nothing plugged in. */
	f.h = harness_new(0);
	f.dev = harness_device(f.h, &serial_class, "serial0",
			       &(struct serial_config){.base = BASE, .gsi = GSI});
	assert_int_equal(get(&f, 6), 0);
	set(&f, 0, 'x');
	assert_int_equal(get(&f, 5), 0x60);
	harness_free(f.h);
}

/* A guest whose interrupt handler takes what the FIFO has, at every interrupt. */
static size_t drain(struct fixture *f, u8 *out)
{
	size_t n = 0;

	while (harness_line(f->h, GSI) && !(get(f, 2) & 1))
		while (get(f, 5) & 1)
			out[n++] = get(f, 0);
	return n;
}

static void paste(void **state)
{
	enum { SIZE = 100 * 1000 };
	struct fixture f = setup();
	u8 *sent = malloc(SIZE), *got = malloc(SIZE + 16);
	size_t out = 0, in = 0;
	u64 seed = 7;

	for (size_t i = 0; i < SIZE; i++)
		sent[i] = (u8)harness_random(&seed);
	set(&f, 2, 0x81);
	set(&f, 1, 0x01);
	for (int turn = 0; turn < 20000 && in < SIZE; turn++) {
		ssize_t n = write(f.c.fd, sent + out, SIZE - out);

		out += n > 0 ? (size_t)n : 0;
		harness_advance(f.h, 200 * NSEC_PER_USEC);
		in += drain(&f, got + in);
	}
	assert_int_equal(in, SIZE);
	assert_memory_equal(sent, got, SIZE);
	assert_int_equal(get(&f, 5), 0x60);
	free(sent);
	free(got);
	teardown(&f);
}

static void odd_sizes(void **state)
{
	struct fixture f = setup();
	char text[8] = {0};

	harness_out(f.h, BASE + 7, 2, 0x3355);
	assert_int_equal(harness_in(f.h, BASE + 7, 1), 0x55);
	/* Past the last port nobody answers. */
	assert_int_equal(harness_in(f.h, BASE + 7, 4), 0xffffff55);
	harness_out(f.h, BASE, 2, 0x0100 | 'w');
	assert_int_equal(get(&f, 1), 1);
	harness_chardev_take(f.h, &f.c, text, sizeof(text));
	assert_string_equal(text, "w");
	teardown(&f);
}

static void saved(void **state)
{
	struct fixture f = setup();

	set(&f, 2, 0xc1);
	set(&f, 1, 0x0f);
	set(&f, 7, 0x42);
	type(&f, "some input that is longer than the FIFO", 39);
	harness_check_state(f.h, f.dev);
	assert_int_equal(get(&f, 7), 0x42);
	for (int i = 0; i < 39; i++) {
		assert_int_equal(get(&f, 5) & 1, 1);
		assert_int_equal(get(&f, 0), "some input that is longer than the FIFO"[i]);
		harness_advance(f.h, 300 * NSEC_PER_USEC);
	}
	teardown(&f);
}

static void hostile(void **state)
{
	const struct harness_range range = {BUS_PIO, BASE, 8};
	struct fixture f = setup();
	char text[4096];

	for (u64 round = 0; round < 40; round++) {
		if (write(f.c.fd, "noise on the line", 17) < 0)
			harness_settle(f.h);
		harness_hostile(f.h, &range, 1, round, 2000, NULL);
		while (harness_chardev_take(f.h, &f.c, text, sizeof(text)) == sizeof(text))
			;
		harness_check_state(f.h, f.dev);
	}
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_on),
		cmocka_unit_test(output),
		cmocka_unit_test(transmit_interrupt),
		cmocka_unit_test(receive_one),
		cmocka_unit_test(fifo_trigger_and_timeout),
		cmocka_unit_test(priorities),
		cmocka_unit_test(loopback),
		cmocka_unit_test(flow_control),
		cmocka_unit_test(modem_status_follows_peer),
		cmocka_unit_test(paste),
		cmocka_unit_test(odd_sizes),
		cmocka_unit_test(saved),
		cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
