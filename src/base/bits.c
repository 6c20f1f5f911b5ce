#include "base/bits.h"

static u64 next_bit(const u64 *map, u64 nbits, u64 from, u64 invert)
{
	while (from < nbits) {
		u64 word = (map[from / 64] ^ invert) >> (from % 64);

		if (word) {
			u64 bit = from + (u64)__builtin_ctzll(word);
			return min(bit, nbits);
		}
		from = (from / 64 + 1) * 64;
	}
	return nbits;
}

u64 bitmap_next_set(const u64 *map, u64 nbits, u64 from)
{
	return next_bit(map, nbits, from, 0);
}

u64 bitmap_next_clear(const u64 *map, u64 nbits, u64 from)
{
	return next_bit(map, nbits, from, ~0ULL);
}
