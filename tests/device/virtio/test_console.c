/* The console. Sections are those of Virtio 1.3. */
#include "device/virtio/driver.h"

#include <linux/virtio_console.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "virtio/console.h"

#define TX  0x800000
#define RX  0x900000
#define MSG 0xa00000

static struct driver d;
static struct harness_chardev chr[2];

static void open_console(const struct driver_mode *mode, unsigned int ports)
{
	struct virtio_console_options options = {.nports = ports, .cols = 80, .rows = 25};

	driver_open_bus(&d, mode);
	for (unsigned int i = 0; i < ports; i++) {
		harness_chardev_open(d.h, &chr[i]);
		options.port[i].chr = chr[i].chr;
	}
	options.port[1].name = "org.example.agent";
	driver_open_device(&d, &virtio_console, &options);
}

static void close_console(unsigned int ports)
{
	driver_close_devices(&d);
	for (unsigned int i = 0; i < ports; i++)
		harness_chardev_close(&chr[i]);
	driver_close(&d);
}

static void say(u16 queue, const char *text)
{
	size_t len = strlen(text);
	const struct driver_buf bufs[] = {{TX, (u32)len - 1, false}, {TX + len - 1, 1, false}};

	memcpy(driver_ptr(&d, TX), text, len);
	driver_do(&d.queue[queue], bufs, 2);
}

static int give(u16 queue, u64 at, u32 len)
{
	const struct driver_buf buf = {at, len, true};
	int id = driver_add(&d.queue[queue], &buf, 1);

	driver_kick(&d.queue[queue]);
	return id;
}

static void every_mode_carries_bytes(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		char text[64] = "";
		int id;

		open_console(&driver_modes[m], 1);
		driver_start(&d, 0, 2);
		for (int i = 0; i < 50; i++) {
			say(1, "hello, host");
			assert_int_equal(harness_chardev_take(d.h, &chr[0], text, sizeof(text)),
					 11);
			assert_memory_equal(text, "hello, host", 11);
			/* Input of more than a buffer arrives whole, in several. */
			id = give(0, RX, 4);
			assert_int_equal(write(chr[0].fd, "keyboard", 8), 8);
			assert_int_equal(driver_wait(&d.queue[0], id), 4);
			assert_memory_equal(driver_ptr(&d, RX), "keyb", 4);
			id = give(0, RX, 100);
			assert_int_equal(driver_wait(&d.queue[0], id), 4);
			assert_memory_equal(driver_ptr(&d, RX), "oard", 4);
		}
		close_console(1);
	}
}

/* Input waits for a driver, and for its buffers. */
static void input_waits(void **state)
{
	int id;

	open_console(&driver_modes[1], 1);
	assert_int_equal(write(chr[0].fd, "early", 5), 5);
	harness_settle(d.h);
	driver_start(&d, 0, 2);
	id = give(0, RX, 10);
	assert_int_equal(driver_wait(&d.queue[0], id), 5);
	assert_memory_equal(driver_ptr(&d, RX), "early", 5);
	close_console(1);
}

/* 5.3.4: size, and the emergency write at any time. */
static void configuration(void **state)
{
	char c = 0;

	open_console(&driver_modes[0], 1);
	driver_set_config(&d, 8, 4, '!'); /* nothing has been negotiated */
	assert_int_equal(harness_chardev_take(d.h, &chr[0], &c, 1), 1);
	assert_int_equal(c, '!');
	driver_start(&d, VIRTIO_F(VIRTIO_CONSOLE_F_SIZE), 2);
	assert_int_equal(driver_config(&d, 0, 2), 80);
	assert_int_equal(driver_config(&d, 2, 2), 25);
	assert_int_equal(driver_config(&d, 4, 4), 1);
	driver_take_isr(&d);
	bus_lock(d.h->bus);
	virtio_console_set_size(d.virtio, 0, 132, 43);
	virtio_console_set_size(d.virtio, 5, 1, 1); /* no such port */
	bus_unlock(d.h->bus);
	assert_int_equal(driver_take_isr(&d), 2);
	assert_int_equal(driver_config(&d, 0, 4), 132 | 43 << 16);
	close_console(1);
}

static void tell(u32 port, u16 event, u16 value)
{
	const struct driver_buf buf = {MSG, 8, false};
	u8 *p = driver_ptr(&d, MSG);

	store_le32(p, port);
	store_le16(p + 4, event);
	store_le16(p + 6, value);
	driver_do(&d.queue[3], &buf, 1);
}

static int message_id[16];

static void give_messages(int from, int n)
{
	for (int i = from; i < from + n; i++)
		message_id[i] = give(2, MSG + 0x100 * (i + 1), 0x100);
}

static void expect(int i, u32 port, u16 event, u16 value, u32 len)
{
	u8 *p = driver_ptr(&d, MSG + 0x100 * (i + 1));

	assert_int_equal(driver_wait(&d.queue[2], message_id[i]), len);
	assert_int_equal(load_le32(p), port);
	assert_int_equal(load_le16(p + 4), event);
	assert_int_equal(load_le16(p + 6), value);
}

/* 5.3.6.2: DEVICE_READY, ADD, PORT_READY, CONSOLE, RESIZE, OPEN, NAME; with buffers late and few.
 */
static void ports_are_announced(void **state)
{
	for (size_t m = 0; m < 4; m++) {
		char text[16];
		int id;
		u32 len;

		open_console(&driver_modes[m], 2);
		driver_start(&d, VIRTIO_F(VIRTIO_CONSOLE_F_MULTIPORT), 6);
		give_messages(0, 1);
		tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
		expect(0, 0, VIRTIO_CONSOLE_PORT_ADD, 1, 8);
		give_messages(1, 1);
		expect(1, 1, VIRTIO_CONSOLE_PORT_ADD, 1, 8);
		tell(0, VIRTIO_CONSOLE_PORT_READY, 1);
		give_messages(2, 8);
		expect(2, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, 8);
		expect(3, 0, VIRTIO_CONSOLE_RESIZE, 1, 12);
		assert_int_equal(load_le32(driver_ptr(&d, MSG + 0x408)), 80 | 25 << 16);
		expect(4, 0, VIRTIO_CONSOLE_PORT_OPEN, 1, 8);
		tell(1, VIRTIO_CONSOLE_PORT_READY, 1);
		expect(5, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, 8);
		expect(6, 1, VIRTIO_CONSOLE_PORT_NAME, 1, 8 + 17);
		assert_memory_equal(driver_ptr(&d, MSG + 0x708), "org.example.agent", 17);
		/* Nonsense is ignored. */
		tell(77, VIRTIO_CONSOLE_PORT_READY, 1);
		tell(0xffffffff, VIRTIO_CONSOLE_PORT_OPEN, 1);
		tell(0, 99, 1);
		/* A message in part is none, whatever the one before it said. */
		tell(0, VIRTIO_CONSOLE_PORT_OPEN, 1);
		{
			const struct driver_buf part = {MSG, 6, false};

			store_le32(driver_ptr(&d, MSG), 1);
			driver_do(&d.queue[3], &part, 1);
		}
		/* Data waits until the guest opens the port. */
		assert_int_equal(write(chr[1].fd, "data", 4), 4);
		id = give(4, RX, 16);
		harness_settle(d.h);
		assert_false(driver_take(&d.queue[4], &id, &len));
		tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
		assert_int_equal(driver_wait(&d.queue[4], id), 4);
		assert_memory_equal(driver_ptr(&d, RX), "data", 4);
		say(5, "answer");
		assert_int_equal(harness_chardev_take(d.h, &chr[1], text, sizeof(text)), 6);
		close_console(2);
	}
}

/* 5.3.6.2.1: a port is added once; after a reset it is new. A driver that is not ready gets none.
 */
static void ports_are_added_once(void **state)
{
	u32 len;
	int id;

	open_console(&driver_modes[1], 2);
	for (int round = 0; round < 2; round++) {
		driver_start(&d, VIRTIO_F(VIRTIO_CONSOLE_F_MULTIPORT), 6);
		give_messages(0, 8);
		tell(0, VIRTIO_CONSOLE_DEVICE_READY, 0);
		assert_false(driver_take(&d.queue[2], &id, &len));
		for (int i = 0; i < 3; i++)
			tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
		expect(0, 0, VIRTIO_CONSOLE_PORT_ADD, 1, 8);
		expect(1, 1, VIRTIO_CONSOLE_PORT_ADD, 1, 8);
		harness_settle(d.h);
		assert_false(driver_take(&d.queue[2], &id, &len));
	}
	close_console(2);
}

/* Input into a buffer that cannot be written: the driver broke the rules (5.3.6.1). */
static void unwritable_input_is_refused(void **state)
{
	const struct driver_buf buf = {RX, 16, false};

	open_console(&driver_modes[1], 1);
	driver_start(&d, 0, 2);
	driver_add(&d.queue[0], &buf, 1);
	driver_kick(&d.queue[0]);
	assert_int_equal(write(chr[0].fd, "x", 1), 1);
	assert_true(driver_needs_reset(&d));
	close_console(1);
}

/* Control messages of any length and content: answered with nothing, and the rest goes on. */
static void messages_of_noise(void **state)
{
	u64 seed = 3;
	char text[16];

	open_console(&driver_modes[1], 2);
	driver_start(&d, VIRTIO_F(VIRTIO_CONSOLE_F_MULTIPORT), 6);
	for (int i = 0; i < 4; i++)
		give(2, MSG + 0x100 * (i + 1), 1 + i); /* too short for a message */
	for (int i = 0; i < 3000; i++) {
		const struct driver_buf buf = {MSG, 1 + (u32)(harness_random(&seed) % 12), false};
		u8 *p = driver_ptr(&d, MSG);

		store_le32(p, harness_random(&seed) % 4 ? harness_random(&seed) % 3
							: (u32)harness_random(&seed));
		store_le16(p + 4, (u16)(harness_random(&seed) % 9));
		store_le16(p + 6, (u16)(harness_random(&seed) % 3));
		driver_do(&d.queue[3], &buf, 1);
	}
	say(5, "alive");
	assert_int_equal(harness_chardev_take(d.h, &chr[1], text, sizeof(text)), 5);
	close_console(2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_carries_bytes),
		cmocka_unit_test(input_waits),
		cmocka_unit_test(configuration),
		cmocka_unit_test(ports_are_announced),
		cmocka_unit_test(ports_are_added_once),
		cmocka_unit_test(unwritable_input_is_refused),
		cmocka_unit_test(messages_of_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
