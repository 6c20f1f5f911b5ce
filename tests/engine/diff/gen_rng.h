/* What both halves of the generator use. */
#ifndef DIFF_GEN_RNG_H
#define DIFF_GEN_RNG_H

#include "base/types.h"

struct rng {
	u64 s;
};

static inline u64 rnd(struct rng *r)
{
	u64 z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline u32 below(struct rng *r, u32 n)
{
	return (u32)((rnd(r) >> 32) * n >> 32);
}

static inline bool one_in(struct rng *r, u32 n)
{
	return below(r, n) == 0;
}

/* A register's or an immediate's value. */
u64 edge_value(struct rng *r);

/* Registers that the generated addresses use. */
static const u8 pointer_regs[] = {3, 5, 6, 7, 12, 13, 14, 15};
static const u8 index_regs[] = {1, 9, 10};

#endif
