/* Bit and alignment arithmetic, and bitmaps of 64-bit words. */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include "base/types.h"

#define BIT(n) (1ULL << (n))

/* MASK(hi, lo): bits lo to hi set, both included. */
#define MASK(hi, lo) ((~0ULL >> (63 - (hi))) & (~0ULL << (lo)))

static inline bool is_power_of_2(u64 v)
{
	return v && !(v & (v - 1));
}

/* align is a power of two. align_up wraps to 0 past the end; check first where that can be. */
static inline u64 align_down(u64 v, u64 align)
{
	return v & ~(align - 1);
}

static inline u64 align_up(u64 v, u64 align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline bool is_aligned(u64 v, u64 align)
{
	return !(v & (align - 1));
}

static inline u64 div_round_up(u64 n, u64 d)
{
	return n / d + !!(n % d);
}

/* floor(log2(v)); v is not 0. */
static inline unsigned int ilog2(u64 v)
{
	return 63u - (unsigned int)__builtin_clzll(v);
}

static inline u64 round_up_pow2(u64 v)
{
	return v <= 1 ? 1 : 1ULL << (64 - __builtin_clzll(v - 1));
}

/* Sign-extend the low `bits` bits of v. */
static inline s64 sign_extend(u64 v, unsigned int bits)
{
	return (s64)(v << (64 - bits)) >> (64 - bits);
}

#define BITMAP_WORDS(nbits) (((nbits) + 63) / 64)

static inline bool bitmap_test(const u64 *map, u64 bit)
{
	return (map[bit / 64] >> (bit % 64)) & 1;
}

static inline void bitmap_set(u64 *map, u64 bit)
{
	map[bit / 64] |= BIT(bit % 64);
}

static inline void bitmap_clear(u64 *map, u64 bit)
{
	map[bit / 64] &= ~BIT(bit % 64);
}

static inline void bitmap_set_atomic(u64 *map, u64 bit)
{
	__atomic_fetch_or(&map[bit / 64], BIT(bit % 64), __ATOMIC_RELAXED);
}

/* First set (clear) bit at or after `from`, or nbits. */
u64 bitmap_next_set(const u64 *map, u64 nbits, u64 from);
u64 bitmap_next_clear(const u64 *map, u64 nbits, u64 from);

#endif
