/*
 * Real-time clock and CMOS memory: Motorola MC146818 with 256 bytes (ports 0x70 to 0x73), as PCs
 * have it. The time is the host's, in UTC, plus what the guest changed.
 */
#ifndef HW_RTC_H
#define HW_RTC_H

#include "bus/device.h"

#define RTC_PORT 0x70
#define RTC_GSI	 8
/* CMOS byte of the century, for the FADT. */
#define RTC_CENTURY 0x32

struct rtc_config {
	u64 ram_below_4g, ram_above_4g; /* bytes, for the memory-size bytes that firmware reads */
	u32 cpus;			/* 0x5f: number - 1 */
	u32 boot_order; /* 0x3d, 0x38: 4 bits each, first in bits 0 to 3; 1 floppy, 2 disk, 3 CD, 4
			   network; 0: none */
	s64 offset_s;	/* added to the host's time */
};

extern const struct device_class rtc_class;

/* A byte of the memory above the clock registers (0x0e to 0xff); others are ignored. */
void rtc_set_cmos(struct device *dev, u8 index, u8 value);

#endif
