/*
 * Registers of eight bits on the ISA bus: a wider access is split into bytes, at the next ports in
 * order. Past the device's last port nobody answers.
 */
#ifndef HW_BYTEWISE_H
#define HW_BYTEWISE_H

#include "base/types.h"

static inline u64 bytewise_read(void *ctx, u8 (*read)(void *ctx, u64 offset), u64 offset,
				unsigned int size, u64 ports)
{
	u64 value = 0;

	for (unsigned int i = 0; i < size; i++) {
		u8 byte = offset + i < ports ? read(ctx, offset + i) : 0xff;

		value |= (u64)byte << (8 * i);
	}
	return value;
}

static inline void bytewise_write(void *ctx, void (*write)(void *ctx, u64 offset, u8 value),
				  u64 offset, unsigned int size, u64 ports, u64 value)
{
	for (unsigned int i = 0; i < size && offset + i < ports; i++)
		write(ctx, offset + i, (u8)(value >> (8 * i)));
}

#endif
