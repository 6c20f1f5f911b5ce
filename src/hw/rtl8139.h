/*
 * Realtek RTL8139C+ fast Ethernet controller, in both of its modes: four transmit descriptors and a
 * receive ring buffer as every RTL8139 has them (Linux: 8139too), and the descriptor rings of "C+"
 * (8139cp, iPXE). Data sheets: RTL8139C(L) Rev. 1.4, RTL8139C+ Rev. 1.6.
 */
#ifndef HW_RTL8139_H
#define HW_RTL8139_H

#include "bus/device.h"
#include "net/net.h"

struct rtl8139_config {
	u8 mac[6];
	struct net *net; /* stays the caller's; net_stop() it before the device is freed. NULL: no
			    cable */
	bool plain;	 /* an RTL8139C without "+": PCI revision 0x10, for drivers that refuse the
			    newer one */
};

extern const struct device_class rtl8139_class;

#endif
