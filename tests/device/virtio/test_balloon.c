/* The balloon. Sections are those of Virtio 1.3. */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <linux/virtio_balloon.h>
#include <string.h>
#include <sys/mman.h>

#include "base/endian.h"
#include "virtio/balloon.h"

#define PFNS  0x400000
#define PAGES 0x800000 /* what is given away */

static struct driver d;

static u32 resident(u64 addr, u32 pages)
{
	unsigned char vec[512];
	u32 n = 0;

	assert_int_equal(mincore(driver_ptr(&d, addr), pages * 4096, vec), 0);
	for (u32 i = 0; i < pages; i++)
		n += vec[i] & 1;
	return n;
}

/* 5.5.6: pages that are given go back to the host; others stay, and so do those the guest only
 * says it has. */
static void pages_are_discarded(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		const struct driver_buf buf = {PFNS, 4 * 64, false};
		u8 *p;

		driver_open(&d, &driver_modes[m], &virtio_balloon, NULL);
		driver_start(&d, 0, 2);
		memset(driver_ptr(&d, PAGES), 0x77, 128 * 4096);
		p = driver_ptr(&d, PFNS);
		for (u32 i = 0; i < 62; i++)
			store_le32(p + 4 * i, (PAGES >> 12) + 2 * (61 - i));
		store_le32(p + 4 * 62, 0xffffffff); /* no RAM: ignored */
		store_le32(p + 4 * 63, 0xfee00);
		assert_int_equal(driver_do(&d.queue[0], &buf, 1), 0);
		assert_int_equal(resident(PAGES, 128), 128 - 62);
		p = driver_ptr(&d, PAGES);
		for (u32 i = 0; i < 128; i++)
			assert_int_equal(p[4096 * i], i % 2 || i >= 124 ? 0x77 : 0);
		/* A run, downwards, through the middle of the table. */
		p = driver_ptr(&d, PFNS);
		memset(driver_ptr(&d, PAGES), 0x77, 128 * 4096);
		for (u32 i = 0; i < 64; i++)
			store_le32(p + 4 * i, (PAGES >> 12) + 100 - i);
		driver_do(&d.queue[0], &buf, 1);
		assert_int_equal(resident(PAGES, 128), 64);
		driver_do(&d.queue[1], &buf, 1); /* deflate */
		driver_set_config(&d, 4, 4, 62);
		assert_int_equal(virtio_balloon_actual(d.virtio), 62 * 4096);
		driver_set_config(&d, 4, 4, 0xffffffff); /* more than there is */
		assert_true(virtio_balloon_actual(d.virtio) <= 16 * MiB);
		driver_close(&d);
	}
}

static void target_is_told(void **state)
{
	driver_open(&d, &driver_modes[0], &virtio_balloon, NULL);
	driver_start(&d, 0, 2);
	driver_take_isr(&d);
	bus_lock(d.h->bus);
	virtio_balloon_set_target(d.virtio, 8 * MiB);
	bus_unlock(d.h->bus);
	assert_int_equal(driver_config(&d, 0, 4), 2048);
	assert_int_equal(driver_take_isr(&d), 2);
	driver_set_config(&d, 0, 4, 5); /* not the driver's to write */
	assert_int_equal(driver_config(&d, 0, 4), 2048);
	driver_close(&d);
}

/* 5.5.6.3: any order, unknown tags, a short last one; the buffer comes back when asked. */
static void statistics_are_read(void **state)
{
	for (size_t m = 0; m < 4; m++) {
		static const u64 tags[][2] = {{5, 1234567}, {0x7fff, 9}, {0, 42}, {15, 8}};
		struct virtio_balloon_statistics stats;
		const struct driver_buf buf = {PFNS, 4 * 10 + 7, false};
		u8 *p;
		int id, got;
		u32 len;

		driver_open(&d, &driver_modes[m], &virtio_balloon, NULL);
		driver_start(&d, VIRTIO_F(VIRTIO_BALLOON_F_STATS_VQ), 3);
		p = driver_ptr(&d, PFNS);
		for (int i = 0; i < 4; i++) {
			store_le16(p + 10 * i, (u16)tags[i][0]);
			store_le64(p + 10 * i + 2, tags[i][1]);
		}
		id = driver_add(&d.queue[2], &buf, 1);
		driver_kick(&d.queue[2]);
		harness_settle(d.h);
		assert_false(driver_take(&d.queue[2], &got, &len));
		bus_lock(d.h->bus);
		virtio_balloon_get_stats(d.virtio, &stats);
		bus_unlock(d.h->bus);
		assert_int_equal(stats.value[5], 1234567);
		assert_int_equal(stats.value[0], 42);
		assert_int_equal(stats.value[15], 8);
		assert_int_equal(stats.value[1], UINT64_MAX);
		assert_int_equal(driver_wait(&d.queue[2], id), 0);
		/* Held again, over a pause, and over a reset. */
		id = driver_add(&d.queue[2], &buf, 1);
		driver_kick(&d.queue[2]);
		harness_settle(d.h);
		bus_lock(d.h->bus);
		devices_pause(d.h->bus);
		assert_true(devices_drained(d.h->bus));
		devices_resume(d.h->bus);
		bus_unlock(d.h->bus);
		harness_settle(d.h);
		bus_lock(d.h->bus);
		virtio_balloon_get_stats(d.virtio, &stats);
		bus_unlock(d.h->bus);
		assert_int_equal(driver_wait(&d.queue[2], id), 0);
		driver_set_status(&d, 0);
		bus_lock(d.h->bus);
		virtio_balloon_get_stats(d.virtio, &stats);
		bus_unlock(d.h->bus);
		assert_int_equal(stats.value[5], UINT64_MAX);
		driver_close(&d);
	}
}

/* Two buffers for statistics at once: the second waits for its turn. */
static void statistics_come_one_by_one(void **state)
{
	const struct driver_buf buf = {PFNS, 10, false};
	struct virtio_balloon_statistics stats;
	int first, second, id;
	u32 len;

	driver_open(&d, &driver_modes[0], &virtio_balloon, NULL);
	driver_start(&d, VIRTIO_F(VIRTIO_BALLOON_F_STATS_VQ), 3);
	first = driver_add(&d.queue[2], &buf, 1);
	second = driver_add(&d.queue[2], &buf, 1);
	for (int i = 0; i < 3; i++) {
		driver_kick(&d.queue[2]);
		harness_settle(d.h);
	}
	assert_int_equal(virtq_inuse(&d.virtio->queue[2].vq), 1);
	bus_lock(d.h->bus);
	virtio_balloon_get_stats(d.virtio, &stats);
	bus_unlock(d.h->bus);
	assert_int_equal(driver_wait(&d.queue[2], first), 0);
	assert_false(driver_take(&d.queue[2], &id, &len));
	driver_kick(&d.queue[2]);
	harness_settle(d.h);
	bus_lock(d.h->bus);
	virtio_balloon_get_stats(d.virtio, &stats);
	bus_unlock(d.h->bus);
	assert_int_equal(driver_wait(&d.queue[2], second), 0);
	driver_close(&d);
}

/* 5.5.6.7, and 5.5.2: the queue's index when the others were not negotiated. */
static void free_pages_are_reported(void **state)
{
	for (int with_stats = 0; with_stats < 2; with_stats++) {
		const struct driver_buf bufs[] = {{PAGES, 16 * 4096, true},
						  {PAGES + 32 * 4096 + 100, 4096 * 2, true}};
		u64 features = VIRTIO_F(VIRTIO_BALLOON_F_REPORTING) |
			       VIRTIO_F(VIRTIO_BALLOON_F_PAGE_POISON);

		driver_open(&d, &driver_modes[0], &virtio_balloon, NULL);
		if (with_stats)
			features |= VIRTIO_F(VIRTIO_BALLOON_F_STATS_VQ);
		driver_start(&d, features, 3 + with_stats);
		memset(driver_ptr(&d, PAGES), 0x77, 64 * 4096);
		assert_int_equal(resident(PAGES, 64), 64);
		driver_do(&d.queue[2 + with_stats], bufs, 2);
		/* Only whole pages. */
		assert_int_equal(resident(PAGES, 64), 64 - 16 - 1);
		assert_int_equal(*(u8 *)driver_ptr(&d, PAGES + 32 * 4096 + 100), 0x77);
		/* A guest that fills free pages with a pattern must find it again. */
		memset(driver_ptr(&d, PAGES), 0xaa, 64 * 4096);
		driver_set_config(&d, 12, 4, 0xaaaaaaaa);
		driver_do(&d.queue[2 + with_stats], bufs, 2);
		assert_int_equal(resident(PAGES, 64), 64);
		driver_close(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_discarded),
		cmocka_unit_test(target_is_told),
		cmocka_unit_test(statistics_are_read),
		cmocka_unit_test(statistics_come_one_by_one),
		cmocka_unit_test(free_pages_are_reported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
