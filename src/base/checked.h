/*
 * Arithmetic on numbers that a guest, an image or a peer chose. Each returns true when the
 * result does not fit (as C23's ckd_* do), in which case *out must not be used.
 */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include "base/types.h"

#define add_overflows(out, a, b) __builtin_add_overflow(a, b, out)
#define sub_overflows(out, a, b) __builtin_sub_overflow(a, b, out)
#define mul_overflows(out, a, b) __builtin_mul_overflow(a, b, out)

/* Is [start, start + len) inside [0, limit)? False when the sum wraps. len may be 0. */
static inline bool range_fits(u64 start, u64 len, u64 limit)
{
	return start <= limit && len <= limit - start;
}

/* Do [a, a + alen) and [b, b + blen) share a byte? Neither may wrap; empty ranges share none. */
static inline bool ranges_overlap(u64 a, u64 alen, u64 b, u64 blen)
{
	return alen && blen && a <= b + (blen - 1) && b <= a + (alen - 1);
}

#endif
