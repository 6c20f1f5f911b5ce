/* Small non-cryptographic hashes for tables keyed by numbers. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include "base/types.h"

/* A good mix of all 64 bits (the finaliser of splitmix64). */
static inline u64 hash_u64(u64 v)
{
	v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ULL;
	v = (v ^ (v >> 27)) * 0x94d049bb133111ebULL;
	return v ^ (v >> 31);
}

#endif
