/* The one-register devices: debug exit, debug console, pvpanic. */
#include "device/harness.h"

#include "hw/debugcon.h"
#include "hw/debugexit.h"
#include "hw/hw.h"
#include "hw/pvpanic.h"

static void exit_status(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &debugexit_class, "exit", NULL);
	harness_out(h, DEBUGEXIT_PORT, 1, 0);
	assert_int_equal(h->requests, 1);
	assert_int_equal(h->last_request.event, BUS_EXIT);
	assert_int_equal(h->last_request.value, 1);
	harness_out(h, DEBUGEXIT_PORT, 4, 0x10);
	assert_int_equal(h->last_request.value, 0x21);
	harness_out(h, DEBUGEXIT_PORT, 2, 0xffff);
	assert_int_equal(h->last_request.value, 0x1ffff);
	assert_int_equal(harness_in(h, DEBUGEXIT_PORT, 4), 0);
	assert_int_equal(h->requests, 3);
	harness_free(h);
}

static void console(void **state)
{
	struct harness *h = harness_new(0);
	struct harness_chardev c;
	struct debugcon_config config = {.port = DEBUGCON_FIRMWARE_PORT};
	char text[64] = {0};

	harness_chardev_open(h, &c);
	config.chr = c.chr;
	harness_device(h, &debugcon_class, "debugcon", &config);
	assert_int_equal(harness_in(h, 0x402, 1), 0xe9);
	harness_out(h, 0x402, 1, 'a');
	harness_out(h, 0x402, 2, 'b' | 'c' << 8);
	harness_outs(h, 0x402, 1, "hello", 5);
	assert_int_equal(harness_chardev_take(h, &c, text, sizeof(text)), 8);
	assert_string_equal(text, "abchello");
	bus_lock(h->bus);
	devices_free(h->bus);
	bus_unlock(h->bus);
	/* Gone with its port. */
	assert_int_equal(harness_in(h, 0x402, 1), 0xff);
	harness_chardev_close(&c);
	harness_free(h);
}

static void console_without_backend(void **state)
{
	struct harness *h = harness_new(0);
	struct debugcon_config config = {0};

	harness_device(h, &debugcon_class, "debugcon", &config);
	harness_outs(h, DEBUGCON_PORT, 1, "hello", 5);
	assert_int_equal(harness_in(h, DEBUGCON_PORT, 1), 0xe9);
	harness_free(h);
}

static void panic_events(void **state)
{
	struct harness *h = harness_new(0);

	harness_device(h, &pvpanic_class, "pvpanic", NULL);
	assert_int_equal(harness_in(h, PVPANIC_PORT, 1), 3);
	harness_out(h, PVPANIC_PORT, 1, PVPANIC_PANICKED);
	assert_int_equal(h->last_request.event, BUS_PANIC);
	assert_int_equal(h->last_request.value, PVPANIC_PANICKED);
	harness_out(h, PVPANIC_PORT, 1, PVPANIC_CRASHLOADED);
	assert_int_equal(h->last_request.value, PVPANIC_CRASHLOADED);
	harness_out(h, PVPANIC_PORT, 1, 0);
	harness_out(h, PVPANIC_PORT, 1, 0x80);
	assert_int_equal(h->requests, 2);
	harness_free(h);
}

static void ports_taken(void **state)
{
	struct harness *h = harness_new(0);
	struct err err = {0};

	harness_device(h, &pvpanic_class, "pvpanic", NULL);
	bus_lock(h->bus);
	assert_null(device_new(h->bus, &pvpanic_class, "second", NULL, &err));
	bus_unlock(h->bus);
	assert_string_equal(err.text, "second: port 0x505 is taken");
	/* The failed one did not take the first one's port away. */
	assert_int_equal(harness_in(h, PVPANIC_PORT, 1), 3);
	harness_free(h);
}

static void table(void **state)
{
	assert_ptr_equal(hw_lookup("pvpanic"), &pvpanic_class);
	assert_null(hw_lookup("nothing"));
	for (size_t i = 0; hw_classes[i]; i++) {
		assert_non_null(hw_classes[i]->state);
		assert_ptr_equal(hw_lookup(hw_classes[i]->name), hw_classes[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exit_status),
		cmocka_unit_test(console),
		cmocka_unit_test(console_without_backend),
		cmocka_unit_test(panic_events),
		cmocka_unit_test(ports_taken),
		cmocka_unit_test(table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
