/* e1000: registers, rings and buffers in memory, and frames from outside. */
#include "fuzz/nic.h"

#include "hw/e1000.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct device *make(struct harness *h, struct net *net)
{
	const struct e1000_config config = {.mac = {0x52, 0x54, 0, 1, 2, 3}, .net = net};

	return harness_device(h, &e1000_class, "net0", &config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct harness_range ranges[] = {
		{BUS_MMIO, 0x0000, 256},    {BUS_MMIO, 0x0100, 4},  {BUS_MMIO, 0x0400, 4},
		{BUS_MMIO, 0x2800, 64},	    {BUS_MMIO, 0x3800, 64}, {BUS_MMIO, 0x4000, 256},
		{BUS_MMIO, 0x5000, 0x1000}, {BUS_MMIO, 0, 0x20000},
	};

	fuzz_nic(data, size, ranges, ARRAY_SIZE(ranges), 0, make);
	return 0;
}
