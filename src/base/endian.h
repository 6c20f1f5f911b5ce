/* Loads and stores of a stated byte order at any alignment. */
#ifndef BASE_ENDIAN_H
#define BASE_ENDIAN_H

#include <endian.h>
#include <string.h>

#include "base/types.h"

#define DEFINE_ENDIAN(bits)                                                                        \
	static inline u##bits load_le##bits(const void *p)                                         \
	{                                                                                          \
		u##bits v;                                                                         \
		memcpy(&v, p, sizeof(v));                                                          \
		return le##bits##toh(v);                                                           \
	}                                                                                          \
	static inline u##bits load_be##bits(const void *p)                                         \
	{                                                                                          \
		u##bits v;                                                                         \
		memcpy(&v, p, sizeof(v));                                                          \
		return be##bits##toh(v);                                                           \
	}                                                                                          \
	static inline void store_le##bits(void *p, u##bits v)                                      \
	{                                                                                          \
		v = htole##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}                                                                                          \
	static inline void store_be##bits(void *p, u##bits v)                                      \
	{                                                                                          \
		v = htobe##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}

DEFINE_ENDIAN(16)
DEFINE_ENDIAN(32)
DEFINE_ENDIAN(64)
#undef DEFINE_ENDIAN

/* Little-endian value of 1, 2, 4 or 8 bytes; any other size gives 0 or stores nothing. */
static inline u64 load_le(const void *p, unsigned int size)
{
	switch (size) {
	case 1:
		return *(const u8 *)p;
	case 2:
		return load_le16(p);
	case 4:
		return load_le32(p);
	case 8:
		return load_le64(p);
	default:
		return 0;
	}
}

static inline void store_le(void *p, unsigned int size, u64 v)
{
	switch (size) {
	case 1:
		*(u8 *)p = (u8)v;
		break;
	case 2:
		store_le16(p, (u16)v);
		break;
	case 4:
		store_le32(p, (u32)v);
		break;
	case 8:
		store_le64(p, v);
		break;
	default:
		break;
	}
}

#endif
