/* The block device. Sections are those of Virtio 1.3. */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "block/block.h"
#include "os/file.h"
#include "virtio/blk.h"

#define DISK_SIZE (4 * MiB)
#define HEADER	  0x800000
#define STATUS	  0x800100
#define DATA	  0x900000

static struct driver d;
static struct block *block;
static int disk_fd;

static struct block *open_disk(bool readonly)
{
	char path[] = "/tmp/bothy-blk-XXXXXX";
	struct block_options options = {0};
	struct err err;
	struct block *b;
	u8 sector[512];

	disk_fd = mkostemp(path, O_CLOEXEC);
	assert_true(disk_fd >= 0);
	for (u32 i = 0; i < DISK_SIZE / 512; i++) {
		memset(sector, (int)(i * 7 + 1), sizeof(sector));
		store_le32(sector, i);
		assert_int_equal(pwrite_full(disk_fd, sector, 512, 512 * (u64)i), 0);
	}
	assert_int_equal(opt_defaults(block_option_table, &options, &err), 0);
	options.file = path;
	options.format = (char *)(uintptr_t) "raw";
	options.readonly = readonly;
	if (block_open(&b, &options, &err))
		fail_msg("%s", err.text);
	unlink(path);
	return b;
}

static void open_device(const struct driver_mode *mode, bool readonly, unsigned int queues)
{
	struct virtio_blk_options options = {.queues = queues,
					     .serial = "serial-0123456789-too-long"};

	block = open_disk(readonly);
	options.block = block;
	driver_open(&d, mode, &virtio_blk, &options);
}

static void close_device(void)
{
	driver_close(&d);
	assert_int_equal(block_close(block), 0);
	close(disk_fd);
}

/* Header, data in `pieces` parts, status; returns the status. */
static u8 request_at(struct driver_queue *q, u64 base, u32 type, u64 sector, u32 len,
		     unsigned int pieces, bool from_device)
{
	struct driver_buf bufs[DRIVER_MAX_CHAIN];
	u8 *header = driver_ptr(&d, base);
	unsigned int n = 0;

	store_le32(header, type);
	store_le32(header + 4, 0);
	store_le64(header + 8, sector);
	header[256] = 0xee;
	bufs[n++] = (struct driver_buf){base, 16, false};
	for (unsigned int i = 0; i < pieces; i++)
		bufs[n++] =
			(struct driver_buf){DATA + i * (len / pieces), len / pieces, from_device};
	bufs[n++] = (struct driver_buf){base + 256, 1, true};
	driver_do(q, bufs, n);
	return header[256];
}

static u8 request(u32 type, u64 sector, u32 len, unsigned int pieces)
{
	return request_at(&d.queue[0], HEADER, type, sector, len, pieces,
			  type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID);
}

static u64 full_features(void)
{
	return VIRTIO_F(VIRTIO_BLK_F_FLUSH) | VIRTIO_F(VIRTIO_BLK_F_DISCARD) |
	       VIRTIO_F(VIRTIO_BLK_F_WRITE_ZEROES) | VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE);
}

/* 5.2.6: reads, writes, flushes in every mode, with data in any number of pieces. */
static void every_mode_reads_and_writes(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		u8 *data;

		open_device(&driver_modes[m], false, 1);
		driver_start(&d, full_features(), 1);
		data = driver_ptr(&d, DATA);
		assert_int_equal(driver_config(&d, 0, 4), DISK_SIZE / 512);
		for (u32 i = 0; i < 60; i++) {
			unsigned int pieces = 1u << i % 4;
			u32 len = 4096 * (1 + i % 3);

			memset(data, 0, len);
			assert_int_equal(request(VIRTIO_BLK_T_IN, i * 8, len, pieces), 0);
			for (u32 s = 0; s < len / 512; s++)
				assert_int_equal(load_le32(data + 512 * s), i * 8 + s);
			assert_int_equal(data[511], (u8)(i * 8 * 7 + 1));
			memset(data, (int)i + 100, len);
			assert_int_equal(request(VIRTIO_BLK_T_OUT, 4000 + i * 24, len, pieces), 0);
			assert_int_equal(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), 0);
			memset(data, 0, len);
			assert_int_equal(pread(disk_fd, data, len, 512 * (4000 + i * 24)), len);
			assert_int_equal(data[0], (u8)(i + 100));
			assert_int_equal(data[len - 1], (u8)(i + 100));
			if (d.next_page > 0x700000)
				d.next_page = 0x100000;
		}
		close_device();
	}
}

/* 2.7.4.2: no assumption about framing. Header, data and status in odd pieces, or in one. */
static void framing_is_free(void **state)
{
	struct driver_buf bufs[DRIVER_MAX_CHAIN];
	u8 *header, *data;
	unsigned int n = 0;

	open_device(&driver_modes[4], false, 1);
	driver_start(&d, full_features(), 1);
	header = driver_ptr(&d, HEADER);
	data = driver_ptr(&d, DATA);
	store_le32(header, VIRTIO_BLK_T_OUT);
	store_le64(header + 8, 9);
	memset(data, 0x5c, 512);
	for (; n < 15; n++) /* the header byte by byte, its last with the data's first half */
		bufs[n] = (struct driver_buf){HEADER + n, 1, false};
	memcpy(driver_ptr(&d, DATA - 1), header + 15, 1);
	bufs[n++] = (struct driver_buf){DATA - 1, 257, false};
	bufs[n++] = (struct driver_buf){DATA + 256, 256, false};
	bufs[n++] = (struct driver_buf){STATUS, 1, true};
	driver_do(&d.queue[0], bufs, n);
	assert_int_equal(*(u8 *)driver_ptr(&d, STATUS), 0);

	/* Read it back into a buffer that also takes the status. */
	memset(data, 0, 513);
	data[512] = 0xee;
	store_le32(header, VIRTIO_BLK_T_IN);
	bufs[0] = (struct driver_buf){HEADER, 16, false};
	bufs[1] = (struct driver_buf){DATA, 100, true};
	bufs[2] = (struct driver_buf){DATA + 100, 413, true};
	assert_int_equal(driver_do(&d.queue[0], bufs, 3), 513);
	assert_int_equal(data[0], 0x5c);
	assert_int_equal(data[511], 0x5c);
	assert_int_equal(data[512], 0);
	close_device();
}

/* 5.2.6.2, and bugs 4 and 10 of the list: bad requests get a status, and the queue goes on. */
static void bad_requests_fail_alone(void **state)
{
	struct driver_buf bufs[3];
	u8 *data;

	open_device(&driver_modes[1], false, 1);
	driver_start(&d, full_features(), 1);
	data = driver_ptr(&d, DATA);
	assert_int_equal(request(VIRTIO_BLK_T_IN, DISK_SIZE / 512, 512, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1, 1024, 1),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, ~0ULL, 512, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 1ULL << 55, 512, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_IN, 0, 511, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, 513, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(77, 0, 512, 1), VIRTIO_BLK_S_UNSUPP);
	/* A header that is too short. */
	bufs[0] = (struct driver_buf){HEADER, 8, false};
	bufs[1] = (struct driver_buf){STATUS, 1, true};
	*(u8 *)driver_ptr(&d, STATUS) = 0xee;
	driver_do(&d.queue[0], bufs, 2);
	assert_int_equal(*(u8 *)driver_ptr(&d, STATUS), VIRTIO_BLK_S_IOERR);
	/* Nowhere to put the status: comes back with length 0, and what was to be read is as it
	 * was. */
	memset(driver_ptr(&d, HEADER), 0xee, 8);
	assert_int_equal(driver_do(&d.queue[0], bufs, 1), 0);
	assert_int_equal(load_le64(driver_ptr(&d, HEADER)), 0xeeeeeeeeeeeeeeee);
	/* A failed read reports no byte as written beyond what was. */
	bufs[0] = (struct driver_buf){HEADER, 16, false};
	bufs[1] = (struct driver_buf){DATA, 512, true};
	bufs[2] = (struct driver_buf){STATUS, 1, true};
	store_le32(driver_ptr(&d, HEADER), VIRTIO_BLK_T_IN);
	store_le64(driver_ptr(&d, HEADER + 8), 1ULL << 40);
	assert_int_equal(driver_do(&d.queue[0], bufs, 3), 0);
	assert_int_equal(request(VIRTIO_BLK_T_IN, 5, 512, 1), 0);
	assert_int_equal(load_le32(data), 5);
	assert_false(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	close_device();
}

static unsigned int told;

static void on_line(enum log_level level, const char *line)
{
	told += strstr(line, strerror(EFBIG)) != NULL;
}

/* A disk that cannot be written says why on the host, once. */
static void host_errors_are_told(void **state)
{
	struct rlimit old, low;

	open_device(&driver_modes[0], false, 1);
	driver_start(&d, 0, 1);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = old;
	low.rlim_cur = DISK_SIZE / 2;
	log_set_sink(on_line);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(request(VIRTIO_BLK_T_OUT, DISK_SIZE / 2 / 512, 512, 1),
				 VIRTIO_BLK_S_IOERR);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	log_set_sink(NULL);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(told, 1);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, DISK_SIZE / 2 / 512, 512, 1), 0);
	close_device();
}

/* 5.2.6.2: RO. */
static void read_only_disk_is_not_written(void **state)
{
	u8 sector[512];

	open_device(&driver_modes[0], true, 1);
	assert_true(driver_offered(&d) & VIRTIO_F(VIRTIO_BLK_F_RO));
	assert_false(driver_offered(&d) & VIRTIO_F(VIRTIO_BLK_F_DISCARD));
	driver_start(&d, 0, 1);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 3, 512, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_IN, 3, 512, 1), 0);
	assert_int_equal(pread(disk_fd, sector, 512, 512 * 3), 512);
	assert_int_equal(load_le32(sector), 3);
	close_device();
}

static u8 ranges(u32 type, const u64 (*seg)[3], unsigned int n)
{
	u8 *p = driver_ptr(&d, DATA);

	for (unsigned int i = 0; i < n; i++, p += 16) {
		store_le64(p, seg[i][0]);
		store_le32(p + 8, (u32)seg[i][1]);
		store_le32(p + 12, (u32)seg[i][2]);
	}
	return request(type, 0, 16 * n, 1);
}

/* 5.2.6.2: DISCARD and WRITE_ZEROES, their flags and limits. */
static void ranges_are_zeroed(void **state)
{
	static const u64 good[][3] = {{100, 8, 1}, {200, 16, 0}}, discard[][3] = {{300, 8, 0}};
	static const u64 flags[][3] = {{100, 8, 2}}, unmap[][3] = {{100, 8, 1}};
	static const u64 past[][3] = {{8190, 8, 0}}, huge[][3] = {{0, 0xffffffff, 0}};
	static const u64 wrap[][3] = {{~0ULL, 8, 0}}, empty[][3] = {{8, 0, 0}};
	u8 zero[8192] = {0}, data[8192];

	open_device(&driver_modes[1], false, 1);
	driver_start(&d, full_features(), 1);
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, good, 2), 0);
	assert_int_equal(pread(disk_fd, data, 4096, 51200), 4096);
	assert_memory_equal(data, zero, 4096);
	assert_int_equal(pread(disk_fd, data, 8192, 102400), 8192);
	assert_memory_equal(data, zero, 8192);
	assert_int_equal(pread(disk_fd, data, 512, 512 * 99), 512);
	assert_int_equal(load_le32(data), 99);
	assert_int_equal(pread(disk_fd, data, 512, 512 * 216), 512);
	assert_int_equal(load_le32(data), 216);
	assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, discard, 1), 0);
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, flags, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, unmap, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, past, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, huge, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, wrap, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, empty, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, discard, 1), 0);
	assert_int_equal(request(VIRTIO_BLK_T_DISCARD, 0, 17, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_DISCARD, 0, 15, 1), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(VIRTIO_BLK_T_DISCARD, 0, 16 * 17, 1), VIRTIO_BLK_S_IOERR);
	close_device();
}

/* 5.2.6: GET_ID, in a buffer of any length. */
static void serial_is_told(void **state)
{
	u8 *data;

	open_device(&driver_modes[3], false, 1);
	driver_start(&d, 0, 1);
	data = driver_ptr(&d, DATA);
	memset(data, 0xaa, 32);
	assert_int_equal(request(VIRTIO_BLK_T_GET_ID, 0, 20, 1), 0);
	assert_memory_equal(data, "serial-0123456789-to", 20);
	assert_int_equal(data[20], 0xaa);
	memset(data, 0xaa, 32);
	assert_int_equal(request(VIRTIO_BLK_T_GET_ID, 0, 5, 1), 0);
	assert_memory_equal(data, "seria\xaa", 6);
	close_device();
}

/* 5.2.5.2: the cache mode, and what it is after reset. */
static void cache_mode_is_the_drivers(void **state)
{
	open_device(&driver_modes[0], false, 1);
	driver_start(&d, full_features(), 1);
	assert_int_equal(driver_config(&d, 32, 1), 1);
	driver_set_config(&d, 32, 1, 0);
	assert_int_equal(driver_config(&d, 32, 1), 0);
	assert_int_equal(request(VIRTIO_BLK_T_OUT, 3, 512, 1), 0);
	driver_set_config(&d, 0, 1, 99); /* capacity is not writable */
	assert_int_equal(driver_config(&d, 0, 4), DISK_SIZE / 512);
	driver_start(&d, 0, 1); /* without either feature: writethrough */
	assert_int_equal(driver_config(&d, 32, 1), 0);
	driver_set_config(&d, 32, 1, 1);
	assert_int_equal(driver_config(&d, 32, 1), 0);
	driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE), 1); /* who cannot flush, but choose */
	assert_int_equal(driver_config(&d, 32, 1), 0);
	driver_set_config(&d, 32, 1, 1);
	assert_int_equal(driver_config(&d, 32, 1), 1);
	driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_FLUSH), 1);
	assert_int_equal(driver_config(&d, 32, 1), 1);
	close_device();
}

/* 5.2.5.3: before 1.0 a driver may choose at any time, and neither features nor status bits change
 * what it chose. */
static void old_drivers_choose_early(void **state)
{
	static const u64 sets[] = {VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE),
				   VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE) |
					   VIRTIO_F(VIRTIO_BLK_F_FLUSH)};

	open_device(&driver_modes[9], false, 1);
	for (u32 i = 0; i < 8; i++) /* 4.1.4.10: capacity, by accesses of any width */
		assert_int_equal(driver_config(&d, i, 1), (u64)DISK_SIZE / 512 >> 8 * i & 0xff);
	assert_int_equal(driver_config(&d, 0, 2), (u16)(DISK_SIZE / 512));
	for (u32 i = 0; i < 4; i++) {
		u8 choice = i & 1;

		driver_set_status(&d, 0);
		driver_set_features(&d, sets[i / 2]);
		driver_set_config(&d, 32, 1, choice);
		driver_set_status(&d, 1);
		driver_set_status(&d, 3);
		assert_int_equal(driver_config(&d, 32, 1), choice);
		driver_setup_queue(&d, 0, 0);
		driver_set_status(&d, 7);
		assert_int_equal(driver_config(&d, 32, 1), choice);
		assert_int_equal(request(VIRTIO_BLK_T_OUT, 3, 512, 1), 0);
	}
	close_device();
}

static bool capacity_is_double(void *ctx)
{
	return driver_config(&d, 0, 4) == 2 * DISK_SIZE / 512;
}

/* 5.2.5: a resize is told: new capacity, generation, interrupt. */
static void resize_is_told(void **state)
{
	struct err err;
	u8 generation;

	open_device(&driver_modes[0], false, 1);
	driver_start(&d, 0, 1);
	generation = (u8)harness_read(d.h, d.common + 21, 1);
	driver_take_isr(&d);
	assert_int_equal(block_resize(block, 2 * DISK_SIZE, false, &err), 0);
	assert_true(driver_until(&d, capacity_is_double, NULL));
	assert_int_not_equal(harness_read(d.h, d.common + 21, 1), generation);
	assert_int_equal(driver_take_isr(&d) & 2, 2);
	assert_int_equal(request(VIRTIO_BLK_T_IN, DISK_SIZE / 512, 512, 1), 0);
	close_device();
}

/* 5.2.6.2: what is not offered is not done: erasing for good, lifetime, zones, SCSI, and whatever
 * else there may be; 5 was a flush before 1.0 and is one for drivers of that age only. */
static void other_types_are_unsupported(void **state)
{
	for (int old = 0; old < 2; old++) {
		open_device(&driver_modes[old ? 9 : 0], false, 1);
		driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_FLUSH), 1);
		for (u32 type = 2; type < 64; type++) {
			u8 expected = VIRTIO_BLK_S_UNSUPP;

			if (type == VIRTIO_BLK_T_FLUSH || type == VIRTIO_BLK_T_GET_ID ||
			    type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES)
				continue;
			if (type == 5 && old)
				expected = VIRTIO_BLK_S_OK;
			assert_int_equal(request(type, 0, 512, 1), expected);
		}
		assert_int_equal(request(0x80000000, 0, 512, 1), VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(request(0xffffffff, 0, 512, 1), VIRTIO_BLK_S_UNSUPP);
		close_device();
	}
}

/* 5.2.3, 5.2.5.2: what is offered, and the fields that belong to it, readable before FEATURES_OK
 * (2.5.2). Any length of a segment will do, so there is no SIZE_MAX; the host tells no lifetime and
 * has no zones (bits 15 to 17: lifetime, erase, zones). */
static void configuration_is_told(void **state)
{
	const u64 both = VIRTIO_F(VIRTIO_BLK_F_FLUSH) | VIRTIO_F(VIRTIO_BLK_F_CONFIG_WCE);
	u64 offered;
	u32 len = MiB;
	u8 *data;

	open_device(&driver_modes[0], false, 2);
	offered = driver_offered(&d);
	assert_false(offered & (VIRTIO_F(VIRTIO_BLK_F_SIZE_MAX) | VIRTIO_F(VIRTIO_BLK_F_RO) |
				VIRTIO_F(7) | VIRTIO_F(15) | VIRTIO_F(16) | VIRTIO_F(17)));
	assert_true((offered & both) == both);
	assert_int_equal(driver_config(&d, 12, 4), 254); /* seg_max: all but header and status */
	assert_int_equal(driver_config(&d, 16, 2), DISK_SIZE / 512 / 16 / 63);
	assert_int_equal(driver_config(&d, 18, 1), 16);
	assert_int_equal(driver_config(&d, 19, 1), 63);
	assert_int_equal(driver_config(&d, 20, 4), 512);
	assert_int_equal(driver_config(&d, 24, 1), 3); /* 2^3 blocks of 512 are a physical one */
	assert_int_equal(driver_config(&d, 25, 1), 0);
	assert_int_equal(driver_config(&d, 26, 2), 8);
	assert_int_equal(driver_config(&d, 33, 1), 0); /* unused0 */
	assert_int_equal(driver_config(&d, 34, 2), 2);
	for (u32 at = 36; at < 56; at += 4) /* DISCARD, WRITE_ZEROES: not zero */
		assert_true(driver_config(&d, at, 4) > 0);
	assert_int_equal(driver_config(&d, 56, 1), 1);
	assert_int_equal(driver_config(&d, 57, 2) | driver_config(&d, 59, 1), 0); /* unused1 */
	/* One segment of a megabyte. */
	driver_start(&d, full_features(), 1);
	data = driver_ptr(&d, DATA);
	assert_int_equal(request(VIRTIO_BLK_T_IN, 0, len, 1), 0);
	assert_int_equal(load_le32(data + len - 512), len / 512 - 1);
	close_device();
}

/* 5.2.6.2: as many segments as max_write_zeroes_seg and max_discard_seg say, and not one more. */
static void segments_up_to_the_limit(void **state)
{
	u64 seg[17][3];
	u8 data[512];
	u32 most;

	open_device(&driver_modes[1], false, 1);
	driver_start(&d, full_features(), 1);
	most = (u32)driver_config(&d, 52, 4);
	assert_int_equal(most, 16);
	assert_int_equal(driver_config(&d, 40, 4), 16);
	for (u32 i = 0; i < 17; i++) {
		seg[i][0] = 100 + 10 * i;
		seg[i][1] = 1;
		seg[i][2] = 0;
	}
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, (const void *)seg, 17),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(pread(disk_fd, data, 512, 512 * 100), 512);
	assert_int_equal(load_le32(data), 100);
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, (const void *)seg, most), 0);
	for (u32 i = 0; i < most; i++) {
		assert_int_equal(pread(disk_fd, data, 512, 512 * (100 + 10 * i)), 512);
		assert_int_equal(load_le32(data), 0);
	}
	assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, (const void *)seg, most), 0);
	/* One bad segment: none of them is done. */
	seg[0][0] = 3000;
	seg[15][0] = DISK_SIZE / 512;
	assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, (const void *)seg, most),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(pread(disk_fd, data, 512, 512 * 3000), 512);
	assert_int_equal(load_le32(data), 3000);
	close_device();
}

/* Several queues at once, many requests in each; then reset with all of it in flight (2.4.2: after
 * status reads 0 nothing is written any more). */
static void queues_run_and_reset_waits(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		u8 *data;

		open_device(&driver_modes[m], false, 4);
		for (int round = 0; round < 3; round++) {
			d.next_page = 0x10000;
			driver_start(&d, VIRTIO_F(VIRTIO_BLK_F_MQ), 4);
			assert_int_equal(driver_config(&d, 34, 2), 4);
			for (u32 i = 0; i < 4 * 16; i++) {
				u64 base = HEADER + 0x1000 * i;
				u8 *header = driver_ptr(&d, base);
				const struct driver_buf bufs[] = {{base, 16, false},
								  {DATA + 0x2000 * i, 0x2000, true},
								  {base + 256, 1, true}};

				memset(header, 0, 16);
				store_le64(header + 8, 16 * i);
				assert_true(driver_add(&d.queue[i % 4], bufs, 3) >= 0);
				if (i % 5 == 0)
					driver_kick(&d.queue[i % 4]);
			}
			for (u32 q = 0; q < 4; q++)
				driver_kick(&d.queue[q]);
			if (round < 2) {
				driver_set_status(&d, 0);
				assert_int_equal(driver_status(&d), 0);
				data = driver_ptr(&d, DATA);
				memset(data, 0x11, 64 * 0x2000);
				usleep(2000);
				harness_settle(d.h);
				for (u32 i = 0; i < 64 * 0x2000; i++)
					if (data[i] != 0x11)
						fail_msg("written after reset");
			}
		}
		for (u32 i = 0; i < 64; i++) {
			struct driver_queue *q = &d.queue[i % 4];
			int id;
			u32 len;

			while (!driver_take(q, &id, &len)) {
				harness_settle(d.h);
				usleep(100);
			}
			assert_int_equal(len, 0x2001);
		}
		data = driver_ptr(&d, DATA);
		for (u32 i = 0; i < 64 * 16; i++)
			assert_int_equal(load_le32(data + 512 * i), i);
		close_device();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_reads_and_writes),
		cmocka_unit_test(framing_is_free),
		cmocka_unit_test(bad_requests_fail_alone),
		cmocka_unit_test(host_errors_are_told),
		cmocka_unit_test(read_only_disk_is_not_written),
		cmocka_unit_test(ranges_are_zeroed),
		cmocka_unit_test(serial_is_told),
		cmocka_unit_test(cache_mode_is_the_drivers),
		cmocka_unit_test(old_drivers_choose_early),
		cmocka_unit_test(resize_is_told),
		cmocka_unit_test(other_types_are_unsupported),
		cmocka_unit_test(configuration_is_told),
		cmocka_unit_test(segments_up_to_the_limit),
		cmocka_unit_test(queues_run_and_reset_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
