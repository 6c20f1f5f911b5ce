#include "device/harness.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"
#include "hw/fw_cfg.h"

#define DESC 0x1000
#define BUF  0x2000

enum { READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

static void select_item(struct harness *h, u16 selector)
{
	harness_out(h, 0x510, 2, selector);
}

static u32 dma(struct harness *h, u32 control, u32 len, u64 addr)
{
	u8 *d = harness_ram(h, DESC, 16);

	store_be32(d, control);
	store_be32(d + 4, len);
	store_be64(d + 8, addr);
	harness_out(h, 0x514, 4, 0);
	harness_out(h, 0x518, 4, __builtin_bswap32(DESC));
	return load_be32(d);
}

static int add_file(struct harness *h, struct device *dev, const char *name,
		    const struct fw_cfg_item *item)
{
	int rc;

	bus_lock(h->bus);
	rc = fw_cfg_add_file(dev, name, item);
	bus_unlock(h->bus);
	return rc;
}

/* As firmware finds a file: its selector and size, 0 when there is none. */
static u16 find_file(struct harness *h, const char *name, u32 *size)
{
	u8 raw[64];
	u32 count;

	select_item(h, FW_CFG_FILE_DIR);
	harness_ins(h, 0x511, 1, raw, 4);
	count = load_be32(raw);
	while (count--) {
		harness_ins(h, 0x511, 1, raw, 64);
		*size = load_be32(raw);
		if (!strcmp((char *)raw + 8, name))
			return load_be16(raw + 4);
	}
	return 0;
}

static void signature(void **state)
{
	struct harness *h = harness_new(1 * MiB);
	char text[8] = {0};
	u32 size;

	harness_device(h, &fw_cfg_class, "fw_cfg", NULL);
	select_item(h, FW_CFG_SIGNATURE);
	for (int i = 0; i < 4; i++)
		text[i] = (char)harness_in(h, 0x511, 1);
	assert_string_equal(text, "QEMU");
	assert_int_equal(harness_in(h, 0x511, 1), 0);
	select_item(h, FW_CFG_ID);
	assert_int_equal(harness_in(h, 0x511, 1), 3);
	assert_int_equal(harness_in(h, 0x514, 4), 0x554d4551);
	assert_int_equal(harness_in(h, 0x518, 4), 0x47464320);
	assert_int_equal(find_file(h, "none", &size), 0);
	/* Unknown items read as zeros. */
	select_item(h, 0x1234);
	assert_int_equal(harness_in(h, 0x511, 1), 0);
	harness_free(h);
}

static void without_dma(void **state)
{
	struct harness *h = harness_new(1 * MiB);

	harness_device(h, &fw_cfg_class, "fw_cfg", &(struct fw_cfg_config){.no_dma = true});
	select_item(h, FW_CFG_ID);
	assert_int_equal(harness_in(h, 0x511, 1), 1);
	assert_int_equal(harness_in(h, 0x514, 4), 0xffffffff);
	harness_free(h);
}

static void files(void **state)
{
	struct harness *h = harness_new(1 * MiB);
	struct device *dev = harness_device(h, &fw_cfg_class, "fw_cfg", NULL);
	char name[80], text[16] = {0};
	u32 size;
	u16 key;

	assert_int_equal(add_file(h, dev, "etc/b", &(struct fw_cfg_item){.data = "bee", .len = 3}),
			 0);
	assert_int_equal(add_file(h, dev, "etc/a", &(struct fw_cfg_item){.data = "ay", .len = 2}),
			 0);
	assert_int_equal(find_file(h, "etc/a", &size), FW_CFG_FILE_FIRST);
	key = find_file(h, "etc/b", &size);
	assert_int_equal(size, 3);
	select_item(h, key);
	harness_ins(h, 0x511, 1, text, 5);
	assert_string_equal(text, "bee");
	/* Replace. */
	assert_int_equal(add_file(h, dev, "etc/a", &(struct fw_cfg_item){.data = "long", .len = 4}),
			 0);
	key = find_file(h, "etc/a", &size);
	assert_int_equal(key, FW_CFG_FILE_FIRST);
	assert_int_equal(size, 4);
	/* Bounds of names and numbers. */
	memset(name, 'x', sizeof(name));
	name[56] = 0;
	assert_int_equal(add_file(h, dev, name, &(struct fw_cfg_item){.len = 1}), -ENAMETOOLONG);
	name[55] = 0;
	assert_int_equal(add_file(h, dev, name, &(struct fw_cfg_item){.len = 1}), 0);
	for (int i = 3; i < FW_CFG_FILE_MAX; i++) {
		snprintf(name, sizeof(name), "opt/%d", i);
		assert_int_equal(add_file(h, dev, name, &(struct fw_cfg_item){.len = 1}), 0);
	}
	assert_int_equal(add_file(h, dev, "more", &(struct fw_cfg_item){.len = 1}), -ENOSPC);
	assert_int_equal(find_file(h, "opt/255", &size) >= FW_CFG_FILE_FIRST, 1);
	bus_lock(h->bus);
	assert_int_equal(fw_cfg_add(dev, FW_CFG_FILE_FIRST, &(struct fw_cfg_item){.len = 1}),
			 -EINVAL);
	assert_int_equal(fw_cfg_add(dev, 0x9000, &(struct fw_cfg_item){.len = 1}), -EINVAL);
	assert_int_equal(fw_cfg_add_uint(dev, FW_CFG_NB_CPUS, 0x0304, 2), 0);
	bus_unlock(h->bus);
	select_item(h, FW_CFG_NB_CPUS | 0x4000);
	assert_int_equal(harness_in(h, 0x511, 1), 4);
	assert_int_equal(harness_in(h, 0x511, 1), 3);
	harness_free(h);
}

static void dma_reads(void **state)
{
	struct harness *h = harness_new(1 * MiB);
	struct device *dev = harness_device(h, &fw_cfg_class, "fw_cfg", NULL);
	char *buf = harness_ram(h, BUF, 64);
	u32 size;
	u16 key;

	add_file(h, dev, "f",
		 &(struct fw_cfg_item){.data = "0123456789", .len = 10, .borrowed = true});
	key = find_file(h, "f", &size);
	assert_int_equal(dma(h, (u32)key << 16 | SELECT | READ, 4, BUF), 0);
	assert_memory_equal(buf, "0123", 4);
	assert_int_equal(dma(h, SKIP, 2, 0), 0);
	memset(buf, 'x', 64);
	assert_int_equal(dma(h, READ, 8, BUF), 0);
	assert_memory_equal(buf, "6789\0\0\0\0x", 9);
	/* Not RAM; more zeros than anybody can want; a position past the end stays there. */
	assert_int_equal(dma(h, (u32)key << 16 | SELECT | READ, 4, 0xfffffff0), 1);
	assert_int_equal(dma(h, (u32)key << 16 | SELECT | READ, 0xffffffff, 0), 1);
	assert_int_equal(dma(h, SKIP, 0xffffffff, 0), 0);
	assert_int_equal(dma(h, SKIP, 0xffffffff, 0), 0);
	assert_int_equal(dma(h, READ, 1, BUF), 0);
	assert_int_equal(buf[0], 0);
	/* A descriptor outside of RAM is left alone. */
	harness_out(h, 0x514, 4, 0xffffffff);
	harness_out(h, 0x518, 4, 0xffffffff);
	harness_free(h);
}

struct calls {
	int selected, written;
	size_t offset, len;
};

static void on_selected(void *ctx, void *data, size_t len)
{
	struct calls *c = ctx;

	c->selected++;
	memset(data, 'S', len);
}

static void on_written(void *ctx, const void *data, size_t offset, size_t len)
{
	struct calls *c = ctx;

	c->written++;
	c->offset = offset;
	c->len = len;
}

static void writes(void **state)
{
	struct harness *h = harness_new(1 * MiB);
	struct device *dev = harness_device(h, &fw_cfg_class, "fw_cfg", NULL);
	struct calls calls = {0};
	char *buf = harness_ram(h, BUF, 64);
	u32 size;
	u16 key;

	add_file(h, dev, "ro", &(struct fw_cfg_item){.data = "0123", .len = 4});
	add_file(h, dev, "rw",
		 &(struct fw_cfg_item){
			 .len = 8, .writable = true, .written = on_written, .ctx = &calls});
	add_file(h, dev, "sel",
		 &(struct fw_cfg_item){.len = 2, .selected = on_selected, .ctx = &calls});
	memcpy(buf, "ABCDEFGH", 8);
	key = find_file(h, "ro", &size);
	assert_int_equal(dma(h, (u32)key << 16 | SELECT | WRITE, 4, BUF), 1);
	select_item(h, key);
	assert_int_equal(harness_in(h, 0x511, 1), '0');
	key = find_file(h, "rw", &size);
	assert_int_equal(dma(h, (u32)key << 16 | SELECT | WRITE, 9, BUF), 1);
	assert_int_equal(dma(h, (u32)key << 16 | SELECT | SKIP, 2, 0), 0);
	assert_int_equal(dma(h, WRITE, 6, BUF), 0);
	assert_int_equal(calls.written, 1);
	assert_int_equal(calls.offset, 2);
	assert_int_equal(calls.len, 6);
	assert_int_equal(dma(h, WRITE, 1, BUF), 1);
	/* What was written is part of the saved state. */
	harness_check_state(h, dev);
	select_item(h, key);
	memset(buf, 0, 16);
	harness_ins(h, 0x511, 1, buf, 9);
	assert_memory_equal(buf, "\0\0ABCDEF\0", 9);
	select_item(h, find_file(h, "sel", &size));
	assert_int_equal(calls.selected, 1);
	assert_int_equal(harness_in(h, 0x511, 1), 'S');
	/* The room for such files is bounded. */
	assert_int_equal(
		add_file(h, dev, "big", &(struct fw_cfg_item){.len = 1 << 20, .writable = true}),
		-ENOSPC);
	assert_int_equal(
		add_file(h, dev, "odd",
			 &(struct fw_cfg_item){
				 .data = buf, .len = 1, .writable = true, .borrowed = true}),
		-EINVAL);
	harness_free(h);
}

static void hostile(void **state)
{
	const struct harness_range range = {BUS_PIO, FW_CFG_PORT, FW_CFG_PORTS};
	struct harness *h = harness_new(1 * MiB);
	struct device *dev = harness_device(h, &fw_cfg_class, "fw_cfg", NULL);
	u8 *ram = harness_ram(h, 0, 64 * KiB);
	u64 seed = 5;

	add_file(h, dev, "rw", &(struct fw_cfg_item){.len = 100, .writable = true});
	add_file(h, dev, "ro", &(struct fw_cfg_item){.data = "0123456789", .len = 10});
	for (u64 round = 0; round < 40; round++) {
		/* Descriptors wherever a small address points. */
		for (int i = 0; i < 64 * 1024; i++)
			ram[i] = i % 16 < 2 ? 0 : (u8)harness_random(&seed);
		harness_hostile(h, &range, 1, round, 2000, NULL);
		for (int i = 0; i < 500; i++) {
			u64 r = harness_random(&seed);

			dma(h, (u32)(r & 0x0021001f), (u32)(r >> 24) & 0xff, r >> 44);
		}
		harness_check_state(h, dev);
	}
	harness_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signature), cmocka_unit_test(without_dma),
		cmocka_unit_test(files),     cmocka_unit_test(dma_reads),
		cmocka_unit_test(writes),    cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
