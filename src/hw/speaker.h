/*
 * Port 0x61: the gate and output of timer channel 2, the refresh toggle and the speaker bit, with
 * channel 2 itself behind ports 0x42 and 0x43 (Intel 8254).
 *
 * Only for boards whose engine has no timer chip. Where the board creates one, it does so with
 * KVM_PIT_SPEAKER_DUMMY and the engine answers port 0x61: the gate restarts the counter and the
 * output follows it, and both would cost an ioctl an access from outside (KVM_GET_PIT2 has no
 * field for the output, and KVM_SET_PIT2 restarts channel 0 too).
 */
#ifndef HW_SPEAKER_H
#define HW_SPEAKER_H

#include "bus/device.h"

#define SPEAKER_PORT 0x61

extern const struct device_class speaker_class; /* config: NULL */

#endif
