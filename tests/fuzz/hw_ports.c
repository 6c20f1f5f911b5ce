/* The platform devices through their ports, with keys, mouse, serial input and fw_cfg's DMA. */
#define _GNU_SOURCE
#include "fuzz/ops.h"

#include <unistd.h>

#include "base/log.h"
#include "hw/debugexit.h"
#include "hw/fw_cfg.h"
#include "hw/i8042.h"
#include "hw/input.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"
#include "hw/rtc.h"
#include "hw/serial.h"
#include "hw/speaker.h"

#define RAM (64 * KiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
	struct harness_chardev serial;
	struct device *i8042, *pm;
	struct harness *h;
};

static void quiet(enum log_level level, const char *line)
{
}

static void other(void *ctx, struct fuzz_input *in)
{
	struct target *t = ctx;
	u64 r = fuzz_take(in, 4);

	bus_lock(t->h->bus);
	if (r & 1)
		input_key(t->i8042, (u8)(r >> 8), r & 2);
	else if (r & 2)
		input_pointer(t->i8042, (s8)(r >> 8), (s8)(r >> 16), (s8)(r >> 24), r >> 3 & 7);
	else if (r & 4)
		pm_gpe_raise(t->pm, (u8)(r >> 8));
	else
		pm_power_button(t->pm);
	bus_unlock(t->h->bus);
	if ((r & 0xf8) == 0x80 && write(t->serial.fd, &r, 4) == 4)
		harness_settle(t->h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct harness_range ranges[] = {
		{BUS_PIO, 0x3f8, 8},	     {BUS_PIO, 0x70, 4},   {BUS_PIO, 0x60, 6},
		{BUS_PIO, PM_BASE, PM_SIZE}, {BUS_PIO, 0x510, 12}, {BUS_PIO, 0x40, 4},
		{BUS_PIO, 0x92, 1},	     {BUS_PIO, 0xb2, 2},
	};
	struct fuzz_input in = {data, size};
	struct target t = {.h = harness_new(RAM)};
	struct serial_config serial = {.base = 0x3f8, .gsi = 4};
	struct device *fw_cfg;
	char buf[4096];

	log_set_sink(quiet);
	harness_chardev_open(t.h, &t.serial);
	serial.chr = t.serial.chr;
	harness_device(t.h, &serial_class, "serial0", &serial);
	harness_device(t.h, &rtc_class, "rtc", NULL);
	t.i8042 = harness_device(t.h, &i8042_class, "i8042", NULL);
	t.pm = harness_device(t.h, &pm_class, "pm", NULL);
	fw_cfg = harness_device(t.h, &fw_cfg_class, "fw_cfg", NULL);
	harness_device(t.h, &speaker_class, "speaker", NULL);
	bus_lock(t.h->bus);
	fw_cfg_add_file(fw_cfg, "rw", &(struct fw_cfg_item){.len = 100, .writable = true});
	bus_unlock(t.h->bus);
	fuzz_run(t.h, ranges, ARRAY_SIZE(ranges), RAM, &in, other, &t);
	while (read(t.serial.fd, buf, sizeof(buf)) > 0)
		;
	bus_lock(t.h->bus);
	devices_free(t.h->bus);
	bus_unlock(t.h->bus);
	harness_chardev_close(&t.serial);
	harness_free(t.h);
	return 0;
}
