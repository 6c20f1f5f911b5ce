/* Transports and the life of queues, through the entropy device. Sections are those of Virtio 1.3.
 */
#include "device/virtio/driver.h"

#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "base/endian.h"
#include "virtio/rng.h"

static struct driver d;

static bool has_bytes(u64 addr, u32 len)
{
	const u8 *p = driver_ptr(&d, addr);

	for (u32 i = 0; i < len; i++)
		if (p[i])
			return true;
	return false;
}

/* A buffer of some length comes back full; one of several pieces, too. */
static void every_mode_works(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		struct driver_buf bufs[3];

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, 0, 1);
		for (int round = 0; round < 200; round++) {
			unsigned int n = 1 + round % 3;

			for (unsigned int i = 0; i < n; i++)
				bufs[i] = (struct driver_buf){0x800000 + 64 * i, 16, true};
			memset(driver_ptr(&d, 0x800000), 0, 256);
			assert_int_equal(driver_do(&d.queue[0], bufs, n), 16 * n);
			for (unsigned int i = 0; i < n; i++)
				assert_true(has_bytes(0x800000 + 64 * i, 16));
			assert_false(has_bytes(0x800000 + 16, 48));
			if (d.next_page > 0x700000)
				d.next_page = 0x100000;
		}
		assert_false(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		driver_close(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
