/* What the targets of the network cards share. */
#ifndef TESTS_FUZZ_NIC_H
#define TESTS_FUZZ_NIC_H

#include "fuzz/ops.h"

#include "net/net.h"

/*
 * Run the input on a card with a link that takes everything: BAR `bar` is the one with all
 * registers, and the ranges are relative to it. make: the device for a link.
 */
void fuzz_nic(const u8 *data, size_t size, const struct harness_range *ranges, size_t n, int bar,
	      struct device *(*make)(struct harness *h, struct net *net));

#endif
