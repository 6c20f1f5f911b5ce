/* RTL8139: registers, rings and buffers in memory, and frames from outside. */
#include "fuzz/nic.h"

#include "hw/rtl8139.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct device *make(struct harness *h, struct net *net)
{
	const struct rtl8139_config config = {.mac = {0x52, 0x54, 0, 1, 2, 3}, .net = net};

	return harness_device(h, &rtl8139_class, "net0", &config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct harness_range ranges[] = {{BUS_MMIO, 0, 256}};

	fuzz_nic(data, size, ranges, ARRAY_SIZE(ranges), 1, make);
	return 0;
}
