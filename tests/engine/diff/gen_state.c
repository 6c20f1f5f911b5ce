/*
 * The start state of a generated case: operands that are edge values, pointers that are misaligned,
 * across pages, or not mapped.
 */
#include <string.h>

#include "gen.h"
#include "gen_rng.h"

/* ---- values ---- */

u64 edge_value(struct rng *r)
{
	static const u64 edges[] = {
		0,
		1,
		2,
		3,
		7,
		8,
		15,
		16,
		31,
		32,
		63,
		64,
		0x7f,
		0x80,
		0xff,
		0x100,
		0x7fff,
		0x8000,
		0xffff,
		0x10000,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffffffff,
		0x8000000000000000,
		~0ull,
		~1ull,
		0xffffffff80000000,
		0xffffffffffffff80,
		0x5555555555555555,
		0xaaaaaaaaaaaaaaaa,
	};

	switch (below(r, 4)) {
	case 0:
		return edges[below(r, ARRAY_SIZE(edges))];
	case 1:
		return below(r, 80);
	case 2:
		return rnd(r) >> below(r, 64);
	default:
		return rnd(r);
	}
}

static u32 float_value(struct rng *r)
{
	static const u32 special[] = {
		0,	    0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
		0xffc00000, 0x7f800001, 0xffa00000, 1,		0x80000001, 0x007fffff, 0x00800000,
		0x7f7fffff, 0xff7fffff, 0x3f000000, 0x4f000000, 0xcf000000, 0x5f000000, 0x3fc00000,
		0x40400000, 0x4b000000, 0x4b7fffff, 0x34000000, 0x0d000000,
	};

	switch (below(r, 4)) {
	case 0:
		return special[below(r, ARRAY_SIZE(special))];
	case 1:
		return (u32)rnd(r);
	default:
		return ((u32)rnd(r) & 0x807fffff) | (100 + below(r, 54)) << 23;
	}
}

static u64 double_value(struct rng *r)
{
	static const u64 special[] = {
		0,
		1ull << 63,
		0x3ff0000000000000,
		0xbff0000000000000,
		0x7ff0000000000000,
		0xfff0000000000000,
		0x7ff8000000000000,
		0xfff8000000000000,
		0x7ff0000000000001,
		0xfff4000000000000,
		1,
		0x8000000000000001,
		0x000fffffffffffff,
		0x0010000000000000,
		0x7fefffffffffffff,
		0xffefffffffffffff,
		0x3fe0000000000000,
		0x41e0000000000000,
		0xc1e0000000000000,
		0x43e0000000000000,
		0x3ff8000000000000,
		0x36a0000000000000,
		0x3810000000000000,
		0x47efffffe0000000,
		0x47f0000000000000,
	};

	switch (below(r, 4)) {
	case 0:
		return special[below(r, ARRAY_SIZE(special))];
	case 1:
		return rnd(r);
	default:
		return (rnd(r) & 0x800fffffffffffff) | (u64)(1023 - 40 + below(r, 80)) << 52;
	}
}

static void extended_value(struct rng *r, u8 st[16])
{
	u64 mantissa = rnd(r) | 1ull << 63;
	u16 exponent = (u16)(0x3fff - 40 + below(r, 110));

	switch (below(r, 6)) {
	case 0:
		mantissa = one_in(r, 2) ? 0 : 1ull << 63;
		exponent = one_in(r, 3) ? 0x7fff : one_in(r, 2) ? 0 : 0x3fff;
		break;
	case 1:
		mantissa = rnd(r);
		exponent = one_in(r, 2) ? 0x7fff : one_in(r, 2) ? 0 : (u16)rnd(r);
		break;
	case 2:
		mantissa = 1ull << 63 | rnd(r) << 40;
		break;
	}
	exponent = (exponent & 0x7fff) | (u16)(one_in(r, 2) << 15);
	memset(st, 0, 16);
	memcpy(st, &mantissa, 8);
	memcpy(st + 8, &exponent, 2);
}

/* len bytes, a multiple of 16 */
static void fill_operands(struct rng *r, u8 *p, unsigned int len)
{
	for (unsigned int i = 0; i < len; i += 16) {
		u64 v[2];
		u32 f[4];

		switch (below(r, 6)) {
		case 0:
		case 1:
			for (int j = 0; j < 4; j++)
				f[j] = float_value(r);
			memcpy(p + i, f, 16);
			break;
		case 2:
			v[0] = double_value(r);
			v[1] = double_value(r);
			memcpy(p + i, v, 16);
			break;
		case 3:
			v[0] = edge_value(r);
			v[1] = edge_value(r);
			memcpy(p + i, v, 16);
			break;
		case 4:
			extended_value(r, p + i);
			break;
		default:
			v[0] = rnd(r);
			v[1] = rnd(r);
			memcpy(p + i, v, 16);
			break;
		}
	}
}

/* ---- the start state ---- */

static u64 pointer_value(struct rng *r)
{
	static const u64 corners[] = {DATA_BASE, DATA_BASE + PAGE_SIZE, DATA_BASE + DATA_SIZE,
				      RO_BASE + RO_SIZE};

	if (one_in(r, 16))
		return corners[below(r, ARRAY_SIZE(corners))] - 32 + below(r, 64);
	if (one_in(r, 24))
		return RO_BASE + below(r, RO_SIZE);
	if (one_in(r, 6))
		return DATA_BASE + 0x200 + below(r, DATA_SIZE - 0x400);
	return DATA_BASE + 0x200 + 64 * below(r, (DATA_SIZE - 0x400) / 64);
}

static void state_gprs(struct rng *r, struct diff_state *s)
{
	for (int i = 0; i < 16; i++)
		s->gpr[i] = edge_value(r);
	for (unsigned int i = 0; i < ARRAY_SIZE(pointer_regs); i++)
		if (!one_in(r, 32))
			s->gpr[pointer_regs[i]] = pointer_value(r);
	for (unsigned int i = 0; i < ARRAY_SIZE(index_regs); i++)
		if (!one_in(r, 4))
			s->gpr[index_regs[i]] = below(r, 3) ? below(r, 64) : -(u64)below(r, 64);
	s->gpr[4] = DATA_BASE + PAGE_SIZE + 16 * below(r, 32);
	if (one_in(r, 16))
		s->gpr[4] = DATA_BASE + 8 * below(r, 16);
	if (one_in(r, 8))
		s->gpr[4] += below(r, 16);
	if (s->code32)
		for (int i = 0; i < 16; i++)
			s->gpr[i] = i < 8 ? (u32)s->gpr[i] : 0;
	s->rflags = 0x202 | (rnd(r) & 0x8d5) | (one_in(r, 8) ? 0x400 : 0) |
		    (one_in(r, 24) ? 0x40000 : 0);
}

static void state_vectors(struct rng *r, struct diff_state *s)
{
	u32 mxcsr = 0x1f80;
	u64 bv = 7;

	fill_operands(r, s->xsave + 160, 256);
	fill_operands(r, s->xsave + 576, 256);
	if (s->code32) { /* what 32-bit code cannot touch is not compared */
		memset(s->xsave + 160 + 128, 0, 128);
		memset(s->xsave + 576 + 128, 0, 128);
	}
	if (one_in(r, 3))
		mxcsr ^= rnd(r) & 0xe040;
	if (one_in(r, 8))
		mxcsr ^= rnd(r) & 0x1f80;
	if (one_in(r, 4))
		mxcsr |= rnd(r) & 0x3f;
	memcpy(s->xsave + 24, &mxcsr, 4);
	memcpy(s->xsave + 512, &bv, 8);
}

static void state_x87(struct rng *r, struct diff_state *s)
{
	u16 fcw = 0x37f, fsw = (u16)(below(r, 8) << 11);

	if (one_in(r, 3))
		fcw = (u16)((fcw & ~0xf00) | (rnd(r) & 0xf00));
	if (one_in(r, 10))
		fcw ^= rnd(r) & 0x3f;
	fsw |= rnd(r) & 0x4700;
	if (one_in(r, 6))
		fsw |= rnd(r) & fcw & 0x3f;
	memcpy(s->xsave, &fcw, 2);
	memcpy(s->xsave + 2, &fsw, 2);
	s->xsave[4] = one_in(r, 3) ? 0xff : (u8)rnd(r);
	for (int i = 0; i < 8; i++)
		extended_value(r, s->xsave + 32 + 16 * i);
}

void gen_state(struct diff_case *c, u64 seed, bool code32)
{
	struct rng r = {seed * 2 + 1};

	c->seed = seed;
	memset(&c->start, 0, sizeof(c->start));
	c->start.code32 = code32;
	state_gprs(&r, &c->start);
	state_vectors(&r, &c->start);
	state_x87(&r, &c->start);
	fill_operands(&r, c->mem, 1024);
	for (unsigned int i = 1024; i < MEM_SIZE; i += 1024)
		memcpy(c->mem + i, c->mem + 16 * below(&r, 8), 1024 - 128),
			memcpy(c->mem + i + 896, c->mem + 16 * below(&r, 32), 128);
	memset(c->code, 0xcc, sizeof(c->code));
	c->code_off = one_in(&r, 12)   ? PAGE_SIZE - below(&r, 20)
		      : one_in(&r, 12) ? CODE_SIZE - 1 - below(&r, 24)
				       : 0;
	c->start.rip = CODE_BASE + c->code_off;
}
