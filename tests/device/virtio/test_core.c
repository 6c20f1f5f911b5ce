/* Transports and the life of queues, mostly through the entropy device. Sections are those of
 * Virtio 1.3, bugs those of the list in issue 4. */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "virtio/balloon.h"
#include "virtio/rng.h"

#define BUF 0x800000

static struct driver d;

static bool has_bytes(u64 addr, u32 len)
{
	const u8 *p = driver_ptr(&d, addr);

	for (u32 i = 0; i < len; i++)
		if (p[i])
			return true;
	return false;
}

static u64 common(u32 offset, unsigned int size)
{
	return harness_read(d.h, d.common + offset, size);
}

static void set_common(u32 offset, unsigned int size, u64 value)
{
	harness_write(d.h, d.common + offset, size, value);
}

static int add_buffer(u16 queue, u32 len)
{
	const struct driver_buf buf = {BUF, len, true};

	return driver_add(&d.queue[queue], &buf, 1);
}

static bool answered(u16 queue)
{
	int id;
	u32 len;

	harness_settle(d.h);
	return driver_take(&d.queue[queue], &id, &len);
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
				bufs[i] = (struct driver_buf){BUF + 64 * i, 16, true};
			memset(driver_ptr(&d, BUF), 0, 256);
			assert_int_equal(driver_do(&d.queue[0], bufs, n), 16 * n);
			for (unsigned int i = 0; i < n; i++)
				assert_true(has_bytes(BUF + 64 * i, 16));
			assert_false(has_bytes(BUF + 16, 48));
			if (d.next_page > 0x700000)
				d.next_page = 0x100000;
		}
		assert_false(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		driver_close(&d);
	}
}

/* 2.2.2, 3.1.1: a subset of what is offered with VERSION_1, or no FEATURES_OK; the same set again
 * after reset; no change once accepted. */
static void features_are_negotiated(void **state)
{
	const u64 v1 = VIRTIO_F(VIRTIO_F_VERSION_1);

	for (size_t m = 0; m < 9; m++) {
		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		assert_true(driver_offered(&d) & v1);
		for (int i = 0; i < 4; i++) {
			static const u64 sets[] = {0, 1ULL << 50, 1ULL << 32 | 1ULL << 63,
						   1ULL << 32};

			driver_set_status(&d, 0);
			driver_set_status(&d, 3);
			driver_set_features(&d, sets[i]);
			driver_set_status(&d, 11);
			assert_int_equal(!!(driver_status(&d) & 8), i == 3);
		}
		driver_set_features(&d, v1 | VIRTIO_F(VIRTIO_F_RING_PACKED));
		assert_int_equal(d.virtio->features, v1);
		driver_set_status(&d, 0);
		assert_int_equal(d.virtio->features, 0);
		driver_set_status(&d, 3);
		driver_set_features(&d, v1);
		driver_set_status(&d, 11);
		assert_int_equal(driver_status(&d), 11);
		driver_close(&d);
	}
}

/* 2.1.2: nothing is taken before DRIVER_OK, and what was there then is taken at once. */
static void nothing_before_driver_ok(void **state)
{
	for (size_t m = 0; m < 9; m++) {
		int id;

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_set_status(&d, 3);
		driver_set_features(&d,
				    VIRTIO_F(VIRTIO_F_VERSION_1) |
					    (d.mode->packed ? VIRTIO_F(VIRTIO_F_RING_PACKED) : 0));
		driver_set_status(&d, 11);
		driver_setup_queue(&d, 0, 16);
		id = add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_false(answered(0));
		driver_set_status(&d, 15);
		assert_int_equal(driver_wait(&d.queue[0], id), 8);
		driver_close(&d);
	}
}

/* 2.1.2, bugs 1 and 2: a broken ring is DEVICE_NEEDS_RESET with a configuration interrupt, told
 * once; kicks are harmless then; after a reset all is well. */
static void broken_rings_need_a_reset(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		struct driver_buf buf = {~0ULL - 100, 16, true};

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, 0, 1);
		driver_take_isr(&d);
		driver_add(&d.queue[0], &buf, 1);
		driver_kick(&d.queue[0]);
		assert_true(driver_needs_reset(&d));
		harness_settle(d.h);
		assert_int_equal(driver_take_isr(&d) & 2, 2);
		for (int i = 0; i < 10; i++)
			driver_kick(&d.queue[0]);
		harness_settle(d.h);
		assert_int_equal(driver_take_isr(&d), 0);
		driver_start(&d, 0, 1);
		buf.addr = BUF;
		assert_int_equal(driver_do(&d.queue[0], &buf, 1), 16);
		/* Bug 12: the device's own registers are no memory. */
		buf.addr = d.mode->transport == DRIVER_LEGACY ? 0xfee00000 : d.common;
		driver_add(&d.queue[0], &buf, 1);
		driver_kick(&d.queue[0]);
		assert_true(driver_needs_reset(&d));
		driver_close(&d);
	}
}

/* 4.1.4.3: fields at any width; a queue that is not there; bug 9. */
static void common_registers(void **state)
{
	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	driver_set_status(&d, 3);
	assert_int_equal(common(VIRTIO_PCI_COMMON_NUMQ, 2), 1);
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0xffff);
	set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
	set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 0);
	set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 8, ~0ULL);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
	/* Two halves, bytes, and all of it: the same field. */
	set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x55667788);
	set_common(VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0x11223344);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x1122334455667788);
	set_common(VIRTIO_PCI_COMMON_Q_DESCLO + 1, 1, 0xaa);
	set_common(VIRTIO_PCI_COMMON_Q_DESCLO + 6, 2, 0xbbcc);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0xbbcc33445566aa88);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_DESCLO + 7, 1), 0xbb);
	/* Vectors: what does not exist reads back as none. */
	set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
	set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	set_common(VIRTIO_PCI_COMMON_MSIX, 2, 0x8000);
	assert_int_equal(common(VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
	set_common(VIRTIO_PCI_COMMON_MSIX, 2, 0);
	driver_set_status(&d, 0);
	assert_int_equal(common(VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0);
	/* Past the end, and feature words that do not exist. */
	assert_int_equal(common(60, 4), 0);
	assert_int_equal(common(0xff8, 8), 0);
	set_common(VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	assert_int_equal(common(VIRTIO_PCI_COMMON_DF, 4), 0);
	driver_close(&d);
}

/* 4.1.4.3.2, 4.2.2.2, bug 8 (CVE-2026-5747): an enabled queue does not change. */
static void enabled_queues_are_frozen(void **state)
{
	for (size_t m = 0; m < 9; m++) {
		bool mmio = driver_modes[m].transport == DRIVER_MMIO;
		struct virtq *vq;
		u64 desc;

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, 0, 1);
		vq = &d.virtio->queue[0].vq;
		desc = vq->desc_gpa;
		if (mmio) {
			set_common(VIRTIO_MMIO_QUEUE_SEL, 4, 0);
			set_common(VIRTIO_MMIO_QUEUE_NUM, 4, 2);
			set_common(VIRTIO_MMIO_QUEUE_DESC_LOW, 4, 0x1000);
			set_common(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 4, 0x1000);
			set_common(VIRTIO_MMIO_QUEUE_USED_LOW, 4, 0x1000);
		} else {
			set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
			set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 2);
			set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x1000);
			set_common(VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0x1000);
			set_common(VIRTIO_PCI_COMMON_Q_USEDLO, 8, 0x1000);
			set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
		}
		assert_int_equal(vq->size, 64);
		assert_int_equal(vq->desc_gpa, desc);
		assert_int_equal(vq->used_gpa, d.queue[0].used);
		add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_true(answered(0));
		driver_close(&d);
	}
}

static u64 queue_reset_reads(void)
{
	bool mmio = d.mode->transport == DRIVER_MMIO;

	set_common(mmio ? VIRTIO_MMIO_QUEUE_SEL : VIRTIO_PCI_COMMON_Q_SELECT, mmio ? 4 : 2, 0);
	return common(mmio ? 0x0c0 : VIRTIO_PCI_COMMON_Q_RESET, mmio ? 4 : 2);
}

/* 2.6.1: a queue alone is reset, and comes back, smaller. */
static void queues_are_reset_alone(void **state)
{
	for (size_t m = 0; m < 9; m++) {
		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, VIRTIO_F(VIRTIO_F_RING_RESET), 1);
		for (int size = 32; size > 2; size /= 2) {
			add_buffer(0, 8);
			driver_kick(&d.queue[0]);
			assert_true(answered(0));
			if (d.mode->transport == DRIVER_MMIO) {
				set_common(VIRTIO_MMIO_QUEUE_SEL, 4, 0);
				set_common(0x0c0, 4, 1);
				assert_int_equal(common(0x0c0, 4), 0);
				assert_int_equal(common(VIRTIO_MMIO_QUEUE_READY, 4), 0);
			} else {
				set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
				set_common(VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
				assert_int_equal(common(VIRTIO_PCI_COMMON_Q_RESET, 2), 0);
				assert_int_equal(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
			}
			driver_kick(&d.queue[0]); /* of a queue that is not there */
			harness_settle(d.h);
			driver_setup_queue(&d, 0, (u16)size);
			assert_int_equal(queue_reset_reads(), 0);
		}
		assert_int_equal(driver_status(&d), 15);
		driver_set_status(&d, 0);
		assert_int_equal(queue_reset_reads(), 0);
		driver_close(&d);
	}
}

/* 4.1.3.1, 4.1.4: the identity and the list of structures. */
static void capabilities_are_complete(void **state)
{
	bool seen[8] = {false};
	u8 at;

	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	assert_int_equal(harness_config_read(d.h, d.devfn, 0, 4), 0x10441af4);
	assert_true(harness_config_read(d.h, d.devfn, 8, 1) >= 1);
	for (at = (u8)harness_config_read(d.h, d.devfn, 0x34, 1); at;
	     at = (u8)harness_config_read(d.h, d.devfn, at + 1, 1)) {
		u8 type, bar, len;
		u32 offset, length;

		if (harness_config_read(d.h, d.devfn, at, 1) ==
		    PCI_CAP_ID_MSIX) /* one, and one a queue */
			assert_int_equal(harness_config_read(d.h, d.devfn, at + 2, 2) & 0x7ff, 1);
		if (harness_config_read(d.h, d.devfn, at, 1) != PCI_CAP_ID_VNDR)
			continue;
		len = (u8)harness_config_read(d.h, d.devfn, at + 2, 1);
		type = (u8)harness_config_read(d.h, d.devfn, at + 3, 1);
		bar = (u8)harness_config_read(d.h, d.devfn, at + 4, 1);
		offset = harness_config_read(d.h, d.devfn, at + 8, 4);
		length = harness_config_read(d.h, d.devfn, at + 12, 4);
		assert_true(type < 8 && bar < 6);
		assert_true(len >= (type == 2 || type == 5 ? 20 : 16));
		if (type == 1)
			assert_true(length >= 56 && offset % 4 == 0);
		if (type == 2)
			assert_true(harness_config_read(d.h, d.devfn, at + 16, 4) % 4 == 0 &&
				    length >= 4);
		seen[type] = true;
	}
	assert_true(seen[1] && seen[2] && seen[3] && seen[5]);
	assert_false(seen[4]); /* it has no configuration bytes (4.1.4.6) */
	driver_close(&d);
	driver_open(&d, &driver_modes[9], &virtio_rng, NULL);
	assert_int_equal(harness_config_read(d.h, d.devfn, 0, 4), 0x10051af4);
	assert_int_equal(harness_config_read(d.h, d.devfn, 8, 1), 0);
	assert_int_equal(harness_config_read(d.h, d.devfn, 0x2e, 2), 4);
	driver_close(&d);
}

static u8 window_cap(void)
{
	u8 at = (u8)harness_config_read(d.h, d.devfn, 0x34, 1);

	while (harness_config_read(d.h, d.devfn, at, 1) != PCI_CAP_ID_VNDR ||
	       harness_config_read(d.h, d.devfn, at + 3, 1) != VIRTIO_PCI_CAP_PCI_CFG)
		at = (u8)harness_config_read(d.h, d.devfn, at + 1, 1);
	return at;
}

static void window(u8 bar, u32 offset, u32 length)
{
	u8 cap = window_cap();

	harness_config_write(d.h, d.devfn, cap + 4, 1, bar);
	harness_config_write(d.h, d.devfn, cap + 8, 4, offset);
	harness_config_write(d.h, d.devfn, cap + 12, 4, length);
}

/* 4.1.4.9: the structures through configuration space, and nothing else through it. */
static void window_reaches_the_structures(void **state)
{
	static const u32 bad[][3] = {{4, 20, 3}, {4, 21, 3},	 {4, 20, 0},
				     {4, 21, 2}, {4, 0x4000, 1}, {4, ~0u, 1},
				     {7, 20, 1}, {255, 0, 1},	 {1, 0, 4}};
	u8 cap;

	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	cap = window_cap();
	window(4, VIRTIO_PCI_COMMON_STATUS, 1);
	harness_config_write(d.h, d.devfn, cap + 16, 1, 3);
	assert_int_equal(driver_status(&d), 3);
	assert_int_equal(harness_config_read(d.h, d.devfn, cap + 16, 1), 3);
	window(4, VIRTIO_PCI_COMMON_NUMQ, 2);
	assert_int_equal(harness_config_read(d.h, d.devfn, cap + 16, 2), 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		window((u8)bad[i][0], bad[i][1], bad[i][2]);
		harness_config_write(d.h, d.devfn, cap + 16, 4, 0x0f0f0f0f);
		harness_config_read(d.h, d.devfn, cap + 16, 4);
	}
	assert_int_equal(driver_status(&d), 3);
	assert_int_equal(common(VIRTIO_PCI_COMMON_Q_SELECT, 2), 0);
	/* A doorbell through it. */
	driver_start(&d, 0, 1);
	add_buffer(0, 8);
	store_le16(driver_ptr(&d, d.queue[0].avail + 2), 1);
	window(4, 0x3000, 2);
	harness_config_write(d.h, d.devfn, cap + 16, 2, 0);
	assert_true(answered(0));
	driver_close(&d);
}

static void set_vector(unsigned int n, u64 addr, u32 data, u32 control)
{
	u64 table = harness_config_read(d.h, d.devfn, 0x14, 4) & ~15u;

	harness_write(d.h, table + 16 * n, 8, addr);
	harness_write(d.h, table + 16 * n + 8, 4, data);
	harness_write(d.h, table + 16 * n + 12, 4, control);
}

static void msix_control(u16 value)
{
	u8 at = (u8)harness_config_read(d.h, d.devfn, 0x34, 1);

	while (harness_config_read(d.h, d.devfn, at, 1) != PCI_CAP_ID_MSIX)
		at = (u8)harness_config_read(d.h, d.devfn, at + 1, 1);
	harness_config_write(d.h, d.devfn, at + 2, 2, value);
}

static void ask(void)
{
	add_buffer(0, 8);
	driver_want_interrupts(&d.queue[0], true);
	driver_kick(&d.queue[0]);
	assert_true(answered(0));
	harness_settle(d.h);
}

/* 4.1.5.1.2, 4.1.4.5: a vector a queue and one for the configuration; INTx with the ISR where there
 * is no MSI-X, and the line follows the reads. */
static void interrupts_by_vector_and_by_line(void **state)
{
	for (size_t m = 0; m < 4; m++) {
		u32 gsi;
		u64 addr;
		u32 data;

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, 0, 1);
		ask();
		for (gsi = 16; gsi < 20 && !harness_line(d.h, gsi); gsi++)
			;
		assert_true(gsi < 20);
		assert_int_equal(driver_take_isr(&d), 1);
		assert_false(harness_line(d.h, gsi));
		assert_int_equal(driver_take_isr(&d), 0);
		/* MSI-X: nothing on the line, a message of that queue's vector. */
		set_vector(0, 0xfee00000, 0x40, 0);
		set_vector(1, 0xfee01000, 0x41, 0);
		msix_control(0x8000);
		set_common(VIRTIO_PCI_COMMON_MSIX, 2, 0);
		set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
		ask();
		assert_false(harness_line(d.h, gsi));
		assert_true(harness_take_msi(d.h, &addr, &data));
		assert_int_equal(addr, 0xfee01000);
		assert_int_equal(data, 0x41);
		assert_false(harness_take_msi(d.h, &addr, &data));
		/* Masked: it waits, and comes when unmasked. */
		set_vector(1, 0xfee01000, 0x51, 1);
		ask();
		assert_false(harness_take_msi(d.h, &addr, &data));
		set_vector(1, 0xfee01000, 0x51, 0);
		assert_true(harness_take_msi(d.h, &addr, &data));
		assert_int_equal(data, 0x51);
		/* The configuration's vector. */
		bus_lock(d.h->bus);
		virtio_config_changed(d.virtio);
		bus_unlock(d.h->bus);
		assert_true(harness_take_msi(d.h, &addr, &data));
		assert_int_equal(data, 0x40);
		assert_int_equal(driver_take_isr(&d) & 2, 2);
		/* No vector: no interrupt at all. */
		set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 0xffff);
		ask();
		assert_false(harness_take_msi(d.h, &addr, &data));
		assert_false(harness_line(d.h, gsi));
		/* Back to the line. */
		msix_control(0);
		ask();
		assert_true(harness_line(d.h, gsi));
		/* 2.4.2: a reset takes it away, and unmaps vectors. */
		driver_set_status(&d, 0);
		assert_false(harness_line(d.h, gsi));
		driver_close(&d);
	}
}

/* The device asks for no interrupt that the driver does not want. */
static void suppression_works(void **state)
{
	for (size_t m = 0; m < 9; m++) {
		u64 before;

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, 0, 1);
		driver_take_isr(&d);
		driver_want_interrupts(&d.queue[0], false);
		for (int i = 0; i < 5; i++) {
			add_buffer(0, 8);
			driver_kick(&d.queue[0]);
			harness_settle(d.h);
		}
		assert_int_equal(driver_take_isr(&d), 0);
		/* Several buffers, one interrupt. */
		while (answered(0))
			;
		before = d.virtio->queue[0].vq.signals;
		driver_want_interrupts(&d.queue[0], true);
		for (int i = 0; i < 5; i++)
			add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		harness_settle(d.h);
		assert_int_equal(d.virtio->queue[0].vq.signals, before + 1);
		assert_int_equal(driver_take_isr(&d), 1);
		driver_close(&d);
	}
}

/* The doorbells are where the BARs are, also after they move. */
static void doorbells_follow_the_bars(void **state)
{
	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	driver_start(&d, 0, 1);
	for (u64 base = 0x8040000000; base < 0x8040010000; base += 0x4000) {
		harness_config_write(d.h, d.devfn, 0x20, 4, (u32)base);
		harness_config_write(d.h, d.devfn, 0x24, 4, base >> 32);
		d.notify = base + 0x3000;
		d.common = base;
		assert_int_equal(driver_status(&d), 15);
		add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_true(answered(0));
	}
	driver_close(&d);
}

/* 2.9.3, 4.1.5.2: NOTIFICATION_DATA: 32 bits, the queue, and the place or index that comes next,
 * round after round. It is a hint: one that lies does no harm, nor does a doorbell of the old
 * width. */
static void notification_data(void **state)
{
	u64 seed = 5;

	for (size_t m = 0; m < 5; m++) {
		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, VIRTIO_F(VIRTIO_F_NOTIF_DATA), 1);
		for (int i = 0; i < 300; i++) {
			struct driver_queue *q = &d.queue[0];
			u32 next;

			add_buffer(0, 8);
			if (!d.mode->packed)
				store_le16(driver_ptr(&d, q->avail + 2), q->avail_idx);
			next = d.mode->packed ? (u32)(q->next | (q->wrap ? 0x8000 : 0))
					      : q->avail_idx;
			if (harness_random(&seed) % 4 == 0)
				next = (u32)harness_random(&seed) & 0xffff;
			if (d.mode->transport == DRIVER_PCI_PORTS)
				harness_out(d.h, (u16)d.ports, 4, next << 16);
			else
				harness_write(d.h, d.notify, i % 7 ? 4 : 2, next << 16);
			assert_true(answered(0));
		}
		driver_close(&d);
	}
}

/* A function that may not master the bus leaves memory alone until it may. */
static void bus_mastering_is_respected(void **state)
{
	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	driver_start(&d, 0, 1);
	harness_config_write(d.h, d.devfn, PCI_COMMAND, 2, 3);
	add_buffer(0, 8);
	driver_kick(&d.queue[0]);
	assert_false(answered(0));
	harness_config_write(d.h, d.devfn, PCI_COMMAND, 2, 7);
	assert_true(answered(0));
	driver_close(&d);
}

/* Paused, it takes nothing; going on, it takes what came meanwhile. Saved and loaded in between, it
 * goes on just so. */
static void pause_save_load_resume(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		struct str saved = {0};
		struct err err;
		int id;

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_start(&d, 0, 1);
		for (int i = 0; i < 100; i++) {
			add_buffer(0, 8);
			driver_kick(&d.queue[0]);
			assert_true(answered(0));
		}
		bus_lock(d.h->bus);
		devices_pause(d.h->bus);
		assert_true(devices_drained(d.h->bus));
		bus_unlock(d.h->bus);
		id = add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_false(answered(0));
		bus_lock(d.h->bus);
		assert_int_equal(state_save(d.device->class->state, d.device, &saved), 0);
		d.device->class->reset(d.device);
		if (state_load(d.device->class->state, d.device, saved.text, saved.len, &err))
			fail_msg("%s: %s", d.mode->name, err.text);
		bus_unlock(d.h->bus);
		assert_false(answered(0));
		bus_lock(d.h->bus);
		devices_resume(d.h->bus);
		bus_unlock(d.h->bus);
		assert_int_equal(driver_wait(&d.queue[0], id), 8);
		for (int i = 0; i < 100; i++) {
			add_buffer(0, 8);
			driver_kick(&d.queue[0]);
			assert_true(answered(0));
		}
		/* And what is broken in the file does no harm. */
		harness_check_state(d.h, d.device);
		str_free(&saved);
		driver_close(&d);
	}
}

/* 5.4: with a limit, buffers wait for the next period. */
static void rate_is_limited(void **state)
{
	const struct virtio_rng_options options = {.max_bytes_per_second = 1000};
	u32 bytes = 0, len;
	int id;

	driver_open(&d, &driver_modes[1], &virtio_rng, &options);
	driver_start(&d, 0, 1);
	for (int i = 0; i < 60; i++)
		add_buffer(0, 64);
	driver_kick(&d.queue[0]);
	harness_settle(d.h);
	while (driver_take(&d.queue[0], &id, &len))
		bytes += len;
	assert_int_equal(bytes, 100);
	harness_advance(d.h, NSEC_PER_SEC);
	while (driver_take(&d.queue[0], &id, &len))
		bytes += len;
	assert_true(bytes >= 1000 && bytes <= 1200);
	driver_close(&d);
}

/* 4.1.4.3.1, 4.2.2.1: the generation is another when the driver reads what has changed, also after
 * 256 changes that it did not look at; and the same while nothing changes. */
static void generation_follows_what_is_read(void **state)
{
	for (size_t m = 0; m < 9; m += 5) {
		bool mmio = driver_modes[m].transport == DRIVER_MMIO;
		u32 at = mmio ? VIRTIO_MMIO_CONFIG_GENERATION : VIRTIO_PCI_COMMON_CFGGENERATION;
		u32 before, size = mmio ? 4 : 1;

		driver_open(&d, &driver_modes[m], &virtio_balloon, NULL);
		driver_start(&d, 0, 2);
		driver_config(&d, 0, 4);
		before = (u32)common(at, size);
		driver_config(&d, 0, 4);
		assert_int_equal(common(at, size), before);
		bus_lock(d.h->bus);
		for (u32 i = 0; i < 256; i++)
			virtio_balloon_set_target(d.virtio, 4096 * (u64)(i + 1));
		bus_unlock(d.h->bus);
		assert_int_equal(driver_config(&d, 0, 4), 256);
		assert_int_not_equal(common(at, size), before);
		driver_close(&d);
	}
}

/* 4.1.4.5.1: with MSI-X off the interrupt bit of the PCI status register is the ISR's. */
static void status_register_shows_the_isr(void **state)
{
	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	driver_start(&d, 0, 1);
	assert_false(harness_config_read(d.h, d.devfn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	ask();
	assert_true(harness_config_read(d.h, d.devfn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	assert_int_equal(driver_take_isr(&d), 1);
	assert_false(harness_config_read(d.h, d.devfn, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	driver_close(&d);
}

/* 4.1.4.4.1: room for a doorbell of 4 bytes (NOTIFICATION_DATA) for each queue in each region. */
static void doorbells_have_room(void **state)
{
	u8 at;

	driver_open(&d, &driver_modes[0], &virtio_balloon, NULL);
	for (at = (u8)harness_config_read(d.h, d.devfn, 0x34, 1); at;
	     at = (u8)harness_config_read(d.h, d.devfn, at + 1, 1)) {
		u32 offset = harness_config_read(d.h, d.devfn, at + 8, 4);
		u32 length = harness_config_read(d.h, d.devfn, at + 12, 4);
		u32 multiplier = harness_config_read(d.h, d.devfn, at + 16, 4);

		if (harness_config_read(d.h, d.devfn, at, 1) != PCI_CAP_ID_VNDR ||
		    harness_config_read(d.h, d.devfn, at + 3, 1) != VIRTIO_PCI_CAP_NOTIFY_CFG)
			continue;
		assert_int_equal(offset % 4, 0);
		assert_int_equal(multiplier, 4);
		for (u16 q = 0; q < common(VIRTIO_PCI_COMMON_NUMQ, 2); q++) {
			set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
			assert_true(length >= common(VIRTIO_PCI_COMMON_Q_NOFF, 2) * multiplier + 4);
		}
	}
	driver_close(&d);
}

/* 4.2.2.1: reset clears InterruptStatus and QueueReady; a bit stays until it is acknowledged; there
 * is no shared memory. */
static void mmio_registers(void **state)
{
	driver_open(&d, &driver_modes[5], &virtio_rng, NULL);
	driver_start(&d, 0, 1);
	ask();
	for (int i = 0; i < 3; i++)
		assert_int_equal(common(VIRTIO_MMIO_INTERRUPT_STATUS, 4), 1);
	set_common(VIRTIO_MMIO_INTERRUPT_ACK, 4, 2); /* another one */
	assert_int_equal(common(VIRTIO_MMIO_INTERRUPT_STATUS, 4), 1);
	assert_true(harness_line(d.h, 20));
	set_common(VIRTIO_MMIO_INTERRUPT_ACK, 4, 1);
	assert_int_equal(common(VIRTIO_MMIO_INTERRUPT_STATUS, 4), 0);
	assert_false(harness_line(d.h, 20));
	ask();
	set_common(VIRTIO_MMIO_QUEUE_SEL, 4, 0);
	assert_int_equal(common(VIRTIO_MMIO_QUEUE_READY, 4), 1);
	driver_set_status(&d, 0);
	assert_int_equal(common(VIRTIO_MMIO_INTERRUPT_STATUS, 4), 0);
	assert_false(harness_line(d.h, 20));
	assert_int_equal(common(VIRTIO_MMIO_QUEUE_READY, 4), 0);
	set_common(VIRTIO_MMIO_QUEUE_SEL, 4, 1); /* not there */
	assert_int_equal(common(VIRTIO_MMIO_QUEUE_NUM_MAX, 4), 0);
	assert_int_equal(common(VIRTIO_MMIO_SHM_LEN_LOW, 4), 0xffffffff);
	assert_int_equal(common(VIRTIO_MMIO_SHM_BASE_HIGH, 4), 0xffffffff);
	/* A queue that is not ready is not touched. */
	driver_start(&d, 0, 1);
	set_common(VIRTIO_MMIO_QUEUE_SEL, 4, 0);
	set_common(VIRTIO_MMIO_QUEUE_READY, 4, 0);
	assert_int_equal(common(VIRTIO_MMIO_QUEUE_READY, 4), 0);
	add_buffer(0, 8);
	driver_kick(&d.queue[0]);
	assert_false(answered(0));
	driver_close(&d);
}

/* 4.1.4.3.1: what the driver accepted can be read back, and what it wrote to a word that does not
 * exist cannot. */
static void driver_features_are_shown(void **state)
{
	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	driver_set_status(&d, 3);
	driver_set_features(&d, VIRTIO_F(VIRTIO_F_VERSION_1) | VIRTIO_F(VIRTIO_F_EVENT_IDX));
	for (u32 word = 0; word < 4; word++) {
		static const u32 expected[4] = {1u << VIRTIO_F_EVENT_IDX, 1, 0, 0};

		set_common(VIRTIO_PCI_COMMON_GFSELECT, 4, word);
		if (word > 1)
			set_common(VIRTIO_PCI_COMMON_GF, 4, ~0u);
		assert_int_equal(common(VIRTIO_PCI_COMMON_GF, 4), expected[word]);
	}
	driver_close(&d);
}

/* 2.1.2, 3.1.1: no DRIVER_OK without FEATURES_OK; DEVICE_NEEDS_RESET is the device's to set. */
/* 2.2.2, 6.2, 6.3: what is offered on each transport, and nothing that is not understood there. */
static void only_known_features_are_offered(void **state)
{
	static const u64 any_layout = VIRTIO_F(VIRTIO_F_ANY_LAYOUT);

	for (size_t m = 0; m < driver_mode_count; m++) {
		u64 offered, known = VIRTIO_COMMON_FEATURES | VIRTIO_F(VIRTIO_F_IN_ORDER);

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		offered = driver_offered(&d);
		if (d.mode->transport == DRIVER_LEGACY)
			known |= any_layout;
		if (d.mode->transport == DRIVER_MMIO)
			known &= ~VIRTIO_F(VIRTIO_F_NOTIF_DATA);
		assert_int_equal(offered & ~known, 0);
		assert_int_equal(!!(offered & any_layout), d.mode->transport == DRIVER_LEGACY);
		if (d.mode->transport != DRIVER_LEGACY)
			assert_true(offered & VIRTIO_F(VIRTIO_F_VERSION_1));
		driver_close(&d);
	}
}

static void status_bits_have_their_order(void **state)
{
	for (size_t m = 0; m < 9; m += 5) {
		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_set_status(&d, 3);
		driver_set_features(&d, VIRTIO_F(VIRTIO_F_VERSION_1));
		driver_set_status(&d, 7);
		assert_int_equal(driver_status(&d), 3);
		driver_set_status(&d, 0x43);
		assert_int_equal(driver_status(&d), 3);
		driver_set_status(&d, 0x83); /* the driver has given up */
		assert_int_equal(driver_status(&d), 0x83);
		driver_set_status(&d, 0);
		assert_int_equal(driver_status(&d), 0);
		driver_close(&d);
	}
}

static void reset_queue(void)
{
	if (d.mode->transport == DRIVER_MMIO) {
		set_common(VIRTIO_MMIO_QUEUE_SEL, 4, 0);
		set_common(0x0c0, 4, 1);
	} else {
		set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		set_common(VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
	}
}

/* Bug 8, and 2.6.1: no size past what the device said; no reset of a queue that was not negotiated;
 * and one that was does not bring a broken device back. */
static void queues_are_bounded(void **state)
{
	for (size_t m = 0; m < 9; m++) {
		bool mmio = driver_modes[m].transport == DRIVER_MMIO;
		struct driver_buf bad = {~0ULL - 100, 16, true};

		driver_open(&d, &driver_modes[m], &virtio_rng, NULL);
		driver_set_status(&d, 3);
		for (u32 size = 0; size < 70000; size = size ? 2 * size : 128) {
			set_common(mmio ? VIRTIO_MMIO_QUEUE_NUM : VIRTIO_PCI_COMMON_Q_SIZE,
				   mmio ? 4 : 2, size);
			assert_int_equal(d.virtio->queue[0].vq.size, 64);
		}
		/* Only packed rings have any size. */
		set_common(mmio ? VIRTIO_MMIO_QUEUE_NUM : VIRTIO_PCI_COMMON_Q_SIZE, mmio ? 4 : 2,
			   48);
		assert_int_equal(d.virtio->queue[0].vq.size, 64);
		driver_set_features(&d,
				    VIRTIO_F(VIRTIO_F_VERSION_1) | VIRTIO_F(VIRTIO_F_RING_PACKED));
		set_common(mmio ? VIRTIO_MMIO_QUEUE_NUM : VIRTIO_PCI_COMMON_Q_SIZE, mmio ? 4 : 2,
			   48);
		assert_int_equal(d.virtio->queue[0].vq.size, 48);
		driver_start(&d, 0, 1);
		reset_queue();
		add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_true(answered(0));
		driver_start(&d, VIRTIO_F(VIRTIO_F_RING_RESET), 1);
		driver_add(&d.queue[0], &bad, 1);
		driver_kick(&d.queue[0]);
		assert_true(driver_needs_reset(&d));
		reset_queue();
		driver_setup_queue(&d, 0, 0);
		add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_false(answered(0));
		driver_close(&d);
	}
}

/* Registers are 32 bits wide on MMIO (4.2.2.2), and the configuration has an end: nothing is read
 * or written past it. */
static void accesses_have_bounds(void **state)
{
	for (size_t m = 0; m < 9; m += 5) {
		u32 end = driver_modes[m].transport == DRIVER_MMIO ? 0xf8 : 0xff8;

		driver_open(&d, &driver_modes[m], &virtio_balloon, NULL);
		driver_start(&d, VIRTIO_F(VIRTIO_BALLOON_F_PAGE_POISON), 2);
		if (driver_modes[m].transport == DRIVER_MMIO) {
			assert_int_equal(common(VIRTIO_MMIO_MAGIC_VALUE, 2), 0);
			assert_int_equal(common(VIRTIO_MMIO_DEVICE_ID, 1), 0);
			set_common(VIRTIO_MMIO_STATUS, 1, 0);
			assert_int_equal(driver_status(&d), 15);
		}
		for (u32 at = 16; at < end; at += 4) {
			driver_set_config(&d, at, 4, ~0u);
			assert_int_equal(driver_config(&d, at, 4), 0);
		}
		driver_set_config(&d, 14, 4, ~0u); /* half of it would be past the end */
		assert_int_equal(driver_config(&d, 12, 4), 0);
		assert_int_equal(driver_config(&d, 14, 4), 0);
		driver_close(&d);
	}
}

/* What a broken or forged file says of features and lengths is not believed. */
static void forged_state_is_refused(void **state)
{
	struct virtio_saved *saved = calloc(1, sizeof(*saved));
	struct err err;

	assert_non_null(saved);
	driver_open(&d, &driver_modes[0], &virtio_rng, NULL);
	driver_start(&d, 0, 1);
	bus_lock(d.h->bus);
	assert_int_equal(virtio_device_save(d.virtio, saved), 0);
	for (int i = 0; i < 4; i++) {
		struct virtio_saved forged = *saved;

		if (i == 0)
			forged.features |= VIRTIO_F(50);
		if (i == 1)
			forged.device_len = 0x7fffffff;
		if (i == 2)
			forged.queue[0].vq.size = 1024;
		d.device->class->reset(d.device);
		assert_int_equal(virtio_device_load(d.virtio, &forged, &err), i == 3 ? 0 : -EINVAL);
	}
	bus_unlock(d.h->bus);
	free(saved);
	driver_close(&d);
}

/* Random accesses to every register of the modern, the old and the MMIO layout. */
static void registers_survive_noise(void **state)
{
	static const size_t modes[] = {0, 5, 9};

	log_set_level(LOG_ERROR);
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct harness_range ranges[4];
		size_t n = 0;

		driver_open(&d, &driver_modes[modes[i]], &virtio_rng, NULL);
		ranges[n++] = (struct harness_range){BUS_MMIO, d.common, 0x200};
		if (d.legacy)
			ranges[n++] = (struct harness_range){BUS_PIO, d.legacy, 64};
		if (d.isr)
			ranges[n++] = (struct harness_range){BUS_MMIO, d.isr, 16};
		if (d.notify)
			ranges[n++] = (struct harness_range){BUS_MMIO, d.notify, 64};
		harness_hostile(d.h, ranges, n, 42 + i, 30000, NULL);
		driver_start(&d, 0, 1);
		add_buffer(0, 8);
		driver_kick(&d.queue[0]);
		assert_true(answered(0));
		driver_close(&d);
	}
	log_set_level(LOG_INFO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_works),
		cmocka_unit_test(features_are_negotiated),
		cmocka_unit_test(nothing_before_driver_ok),
		cmocka_unit_test(broken_rings_need_a_reset),
		cmocka_unit_test(common_registers),
		cmocka_unit_test(enabled_queues_are_frozen),
		cmocka_unit_test(queues_are_reset_alone),
		cmocka_unit_test(capabilities_are_complete),
		cmocka_unit_test(window_reaches_the_structures),
		cmocka_unit_test(interrupts_by_vector_and_by_line),
		cmocka_unit_test(suppression_works),
		cmocka_unit_test(doorbells_follow_the_bars),
		cmocka_unit_test(notification_data),
		cmocka_unit_test(bus_mastering_is_respected),
		cmocka_unit_test(pause_save_load_resume),
		cmocka_unit_test(rate_is_limited),
		cmocka_unit_test(generation_follows_what_is_read),
		cmocka_unit_test(status_register_shows_the_isr),
		cmocka_unit_test(doorbells_have_room),
		cmocka_unit_test(mmio_registers),
		cmocka_unit_test(driver_features_are_shown),
		cmocka_unit_test(only_known_features_are_offered),
		cmocka_unit_test(status_bits_have_their_order),
		cmocka_unit_test(queues_are_bounded),
		cmocka_unit_test(accesses_have_bounds),
		cmocka_unit_test(forged_state_is_refused),
		cmocka_unit_test(registers_survive_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
