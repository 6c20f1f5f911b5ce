/*
 * Intel 82540EM gigabit Ethernet controller ("e1000"): what nearly every system since 2001 has a
 * driver for. PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual
 * (317453), called SDM in the sources.
 */
#ifndef HW_E1000_H
#define HW_E1000_H

#include "bus/device.h"
#include "net/net.h"

struct e1000_config {
	u8 mac[6];
	struct net *net; /* stays the caller's; net_stop() it before the device is freed. NULL: no
			    cable */
};

extern const struct device_class e1000_class;

#endif
