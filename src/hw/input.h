/*
 * Keys and pointer movements for the emulated keyboard and mouse. Keys are named by the codes of
 * <linux/input-event-codes.h> (KEY_A ...), whatever scan-code set the guest chose.
 */
#ifndef HW_INPUT_H
#define HW_INPUT_H

#include "bus/device.h"

enum { INPUT_LEFT = 1 << 0, INPUT_RIGHT = 1 << 1, INPUT_MIDDLE = 1 << 2 };

/* A key of the keyboard of dev (an i8042) goes down (again: repeats) or up. With the bus lock
 * held. -ENOENT for keys that a PC keyboard lacks; -ENOSPC when the guest does not read and its
 * queue is full (the key is lost). */
int input_key(struct device *dev, u16 code, bool down);

/* The mouse moved by dx to the right and dy down, the wheel by dz towards the user, and `buttons`
 * are held now. Movements the guest has not taken yet are added up. With the bus lock held. */
void input_pointer(struct device *dev, int dx, int dy, int dz, u32 buttons);

/* Bits 0 to 2: scroll, num and caps lock, as the guest lit them. */
u8 input_leds(const struct device *dev);

#endif
