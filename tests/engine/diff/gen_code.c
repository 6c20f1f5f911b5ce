/*
 * The code of a generated case: every opcode with every form of operands, prefixes and sizes.
 *
 * Lengths need not be right: both sides execute the same bytes. What must not be generated is what
 * differs by right: system calls, CPUID, time stamps, descriptor-table stores, and instructions
 * that the host has and softkvm does not announce.
 */
#include <string.h>

#include "engine/soft/native_tab.h"
#include "gen.h"
#include "gen_rng.h"

/* ---- instructions ---- */

/* A displacement of a branch, to be made to point to an instruction when all are there. */
struct fixup {
	unsigned int at, size;
};

struct emitter {
	struct rng *r;
	struct fixup fixup[GEN_MAX_INSNS];
	unsigned int fixups;
	bool code32;
	u32 base;  /* linear address of p */
	bool ends; /* nothing comes after: code may run in the other size, or read what may differ
		    */
	u8 *p;
	unsigned int len, max;
};

static void put(struct emitter *e, u8 b)
{
	if (e->len < e->max)
		e->p[e->len++] = b;
}

static void put_le(struct emitter *e, u64 v, unsigned int n)
{
	while (n--) {
		put(e, (u8)v);
		v >>= 8;
	}
}

/*
 * What follows an opcode: . nothing, m ModRM, b ModRM and byte, z ModRM and operand-size immediate,
 * i byte, I operand-size immediate, v immediate of the full size, w word, e word and byte, o
 * offset, j short branch, J near branch, t u group 3, ! never generated.
 */
static const char map1[] = "mmmmiI!!mmmmiI!!mmmmiI!!mmmmiI!!"  /* 00 */
			   "mmmmiI!.mmmmiI!.mmmmiI!.mmmmiI!."  /* 20 */
			   "................................"  /* 40 */
			   "..!m!!!!IzibJ...jjjjjjjjjjjjjjjj"  /* 60 */
			   "bzbbmmmmmmmmmm!m..........!....."  /* 80 */
			   "oooo....iI......iiiiiiiivvvvvvvv"  /* A0 */
			   "bbw.!!bze.!!.!.!mmmmii..mmmmmmmm"  /* C0 */
			   "jjjjiiiiJJ!j....!!!!..tu......mm"; /* E0 */
static const char map0f[] = "!!!!.!.!.....m.b"
			    "mmmmmmmmmmmmmmmm" /* 00 */
			    "mmmm....mmmmmmmm"
			    ".!.!!!.!!.!....." /* 20 */
			    "mmmmmmmmmmmmmmmm"
			    "mmmmmmmmmmmmmmmm" /* 40 */
			    "mmmmmmmmmmmmmmmm"
			    "bbbbmmm.!!..mmmm" /* 60 */
			    "JJJJJJJJJJJJJJJJ"
			    "mmmmmmmmmmmmmmmm" /* 80 */
			    ".!!mbm...!.mbmfm"
			    "mm!m!!mmmmbmmmmm" /* A0 */
			    "mmbmbbbc........"
			    "mmmmmmmmmmmmmmmm" /* C0 */
			    "mmmmmmmmmmmmmmmm"
			    "mmmmmmmmmmmmmmmm"; /* E0 */

static void put_branch(struct emitter *e, unsigned int size)
{
	if (e->fixups < GEN_MAX_INSNS && !one_in(e->r, 64))
		e->fixup[e->fixups++] = (struct fixup){e->len, size};
	put_le(e, 0, size);
}

static s32 displacement(struct rng *r)
{
	s32 d = (s32)below(r, 256) - 128;

	if (one_in(r, 2))
		d &= ~31;
	return d;
}

/* ModRM, SIB, displacement; rex: bits to add to a REX or VEX that was already decided. reg < 0: any
 */
struct modrm {
	u8 b[6];
	unsigned int len;
	u8 rex; /* W R X B */
	bool is_mem;
};

static void modrm_mem(struct emitter *e, struct modrm *m, u8 reg)
{
	struct rng *r = e->r;
	unsigned int base = pointer_regs[below(r, e->code32 ? 4 : 8)], mod = 1 + below(r, 2);
	s32 disp = displacement(r);

	m->is_mem = true;
	if (one_in(r, 10)) { /* absolute, by SIB */
		m->b[m->len++] = (u8)(reg << 3 | 4);
		m->b[m->len++] = 0x25;
		disp = (s32)(DATA_BASE + 0x200 + 16 * below(r, 0x180));
		mod = 2;
	} else if (one_in(r, 10)) { /* RIP-relative, or absolute */
		m->b[m->len++] = (u8)(reg << 3 | 5);
		disp = (s32)(DATA_BASE + 0x200 + 16 * below(r, 0x180)) -
		       (e->code32 ? 0 : (s32)CODE_BASE);
		mod = 2;
	} else if (one_in(r, 4) || (base & 7) == 4) {
		unsigned int index = one_in(r, 3) ? 4 : index_regs[below(r, e->code32 ? 1 : 3)];

		m->b[m->len++] = (u8)(mod << 6 | reg << 3 | 4);
		m->b[m->len++] = (u8)(below(r, 4) << 6 | (index & 7) << 3 | (base & 7));
		m->rex |= (u8)((index >> 3) << 1 | base >> 3);
	} else {
		if (one_in(r, 3) && (base & 7) != 5)
			mod = 0;
		m->b[m->len++] = (u8)(mod << 6 | reg << 3 | (base & 7));
		m->rex |= (u8)(base >> 3);
	}
	for (unsigned int n = mod == 0 ? 0 : mod == 1 ? 1 : 4; n--; disp >>= 8)
		m->b[m->len++] = (u8)disp;
}

static void modrm_make(struct emitter *e, struct modrm *m, int digit, bool mem_only)
{
	u8 reg = digit >= 0 ? (u8)digit : (u8)below(e->r, 8);

	memset(m, 0, sizeof(*m));
	if (!e->code32 && one_in(e->r, 2))
		m->rex = (u8)(rnd(e->r) & 12);
	if (one_in(e->r, 2) && !mem_only) {
		m->b[m->len++] = (u8)(0xc0 | reg << 3 | below(e->r, 8));
		if (!e->code32 && one_in(e->r, 2))
			m->rex |= 1;
	} else {
		modrm_mem(e, m, reg);
	}
}

static void modrm_put(struct emitter *e, const struct modrm *m)
{
	for (unsigned int i = 0; i < m->len; i++)
		put(e, m->b[i]);
}

static void prefixes(struct emitter *e, unsigned int map, bool lock_likely)
{
	struct rng *r = e->r;
	bool vector = map != 1;

	if (one_in(r, 24))
		put(e, 0x67);
	if (one_in(r, 32))
		put(e, e->code32 || one_in(r, 3) ? 0x2e | (u8)below(r, 2) << 4
						 : 0x64 | (u8)below(r, 2));
	if (one_in(r, lock_likely ? 6 : 100))
		put(e, 0xf0);
	if (one_in(r, vector ? 3 : 5))
		put(e, 0x66);
	if (one_in(r, vector ? 3 : 12))
		put(e, 0xf2 | (u8)below(r, 2));
}

static void rex(struct emitter *e, u8 bits)
{
	if (!e->code32 && (bits || one_in(e->r, 4)))
		put(e, 0x40 | bits);
}

static void immediate(struct emitter *e, unsigned int n)
{
	put_le(e, edge_value(e->r), n);
}

static bool has_opsize(const struct emitter *e, unsigned int from)
{
	for (unsigned int i = from; i < e->len; i++)
		if (e->p[i] == 0x66)
			return true;
	return false;
}

static bool is_near_branch(const u8 *op, unsigned int len)
{
	if (len == 2)
		return op[0] == 0x0f && (op[1] & 0xf0) == 0x80;
	return len == 1 && ((op[0] & 0xf0) == 0x70 || (op[0] & 0xfe) == 0xc2 ||
			    (op[0] >= 0xe0 && op[0] <= 0xe3) || op[0] == 0xe8 || op[0] == 0xe9 ||
			    op[0] == 0xeb || op[0] == 0xff);
}

/*
 * Instructions that leave flags undefined, which would be told apart later. MUL and IMUL define CF
 * and OF: these go into registers; then CMP AL, AL defines all.
 */
static bool leaves_flags_undefined(const u8 *op, unsigned int len, int digit)
{
	static const u8 list[] = {0x27, 0x2f, 0x37, 0x3f, 0x69, 0x6b, 0xd4, 0xd5};

	if (len == 2)
		return op[0] == 0x0f && op[1] == 0xaf;
	return len == 1 &&
	       (memchr(list, op[0], sizeof(list)) || ((op[0] & 0xfe) == 0xf6 && digit >= 4));
}

static void define_flags(struct emitter *e, bool product)
{
	if (product) {
		put_le(e, 0xc0920f, 3); /* setb al */
		put_le(e, 0xc1900f, 3); /* seto cl */
	}
	put_le(e, 0xc038, 2);
}

/* opcode (already with its escape bytes) and what follows it */
static void insn_legacy(struct emitter *e, const u8 *op, unsigned int op_len, char form,
			unsigned int map)
{
	unsigned int from = e->len, z;
	u8 last = op[op_len - 1];
	struct modrm m = {.len = 0};
	int digit = -1;
	bool mem_only;

	if (form == 't' || form == 'u')
		digit = (int)below(e->r, 8);
	if (form == 'c')
		digit = 1;
	if (map == 1 && last == 0xff) {
		static const u8 allowed[] = {0, 1, 2, 4, 6, 7};

		digit = allowed[below(e->r, 6)];
	}
	if (map == 1 && last == 0x8c)
		digit = (int)below(e->r, 4);
	/* a failing CMPXCHG of a 32-bit register clears its upper half or not */
	mem_only = op_len == 2 && last == 0xb1 && !e->code32;
	if (strchr("mbztuc", form))
		modrm_make(e, &m, digit, mem_only || (form == 'c' && !one_in(e->r, 8)));
	prefixes(e, map,
		 m.is_mem &&
			 (map == 1 ? last < 0x34 || last >= 0x80 : last >= 0xa0 && last < 0xc8));
	/* 66 on a branch in 64-bit mode is ignored or not; F2 and F3 on LOOP too */
	if (is_near_branch(op, op_len) && (!e->code32 || form == 'j'))
		e->len = from;
	z = has_opsize(e, from) ? 2 : 4;
	rex(e, m.len ? m.rex : (u8)(rnd(e->r) & 9 & -(u8)one_in(e->r, 2)));
	if (e->len > from && !e->code32 && (e->p[e->len - 1] & 0xf8) == 0x48)
		z = 4;
	for (unsigned int i = 0; i < op_len; i++)
		put(e, op[i]);
	modrm_put(e, &m);
	switch (form) {
	case 'b':
	case 'i':
		immediate(e, 1);
		break;
	case 'z':
	case 'I':
		immediate(e, z);
		break;
	case 'v':
		immediate(e, e->len > from + 1 && (e->p[e->len - 2] & 0xf8) == 0x48 ? 8 : z);
		break;
	case 'w':
		put_le(e, below(e->r, 64), 2);
		break;
	case 'e':
		put_le(e, below(e->r, 64), 2);
		put(e, (u8)below(e->r, 4));
		break;
	case 'o':
		put_le(e, DATA_BASE + below(e->r, DATA_SIZE + 8), e->code32 ? 4 : 8);
		break;
	case 'j':
		put_branch(e, 1);
		break;
	case 'J':
		put_branch(e, e->code32 ? z : 4);
		break;
	case 't':
		if (digit < 2)
			immediate(e, 1);
		break;
	case 'u':
		if (digit < 2)
			immediate(e, z);
		break;
	}
	if (leaves_flags_undefined(op, op_len, digit))
		define_flags(e, op_len == 2 || last == 0x69 || last == 0x6b || last >= 0xf6);
}

static void gen_map1(struct emitter *e)
{
	u8 op = (u8)rnd(e->r);

	if (map1[op] == '!' || (!e->code32 && (op & 0xf0) == 0x40))
		return;
	if (op == 0x9d && !one_in(e->r, 8))
		return;
	insn_legacy(e, &op, 1, map1[op], 1);
}

/* FXSAVE and XSAVE are first in a case: some processors save no x87 pointers without an exception.
 */
static void insn_fence_group(struct emitter *e)
{
	static const u8 digits[] = {0, 1, 2, 2, 3, 3, 7};
	struct modrm m;

	if (one_in(e->r, 4)) { /* LFENCE, MFENCE, SFENCE */
		put_le(e, 0xae0f, 2);
		put(e, 0xe8 + 8 * (u8)below(e->r, 3));
		return;
	}
	if (!e->code32 && one_in(e->r, 4)) { /* RDFSBASE to WRGSBASE */
		put(e, 0xf3);
		rex(e, (u8)(rnd(e->r) & 9));
		put_le(e, 0xae0f, 2);
		put(e, (u8)(0xc0 | below(e->r, 32)));
		return;
	}
	modrm_make(e, &m, digits[below(e->r, ARRAY_SIZE(digits))], true);
	if ((m.b[0] & 0x38) < 0x10) {
		if (e->len)
			return;
		e->ends = true;
	}
	rex(e, m.rex);
	put_le(e, 0xae0f, 2);
	modrm_put(e, &m);
}

/* XSAVE, XSAVEOPT, XRSTOR of components that exist on both sides: EDX:EAX first. */
static void insn_xsave(struct emitter *e)
{
	static const u8 digits[] = {4, 5, 6};
	struct modrm m;

	e->ends = true;
	put_le(e, 0xd231, 2);
	put(e, 0xb8);
	put_le(e, below(e->r, 8), 4);
	modrm_make(e, &m, digits[below(e->r, 3)], true);
	rex(e, m.rex);
	put_le(e, 0xae0f, 2);
	modrm_put(e, &m);
}

static void gen_map0f(struct emitter *e)
{
	u8 op[2] = {0x0f, (u8)rnd(e->r)};

	/* 2B: AMD's MOVNTSS and MOVNTSD; 20 to 23: AMD's LOCK MOV CR0 */
	if (op[1] == 0x2b || (op[1] >= 0x20 && op[1] <= 0x23))
		return;

	if (map0f[op[1]] == 'f' && e->len == 0 && one_in(e->r, 2))
		insn_xsave(e);
	else if (map0f[op[1]] == 'f')
		insn_fence_group(e);
	else if (map0f[op[1]] != '!' && !(e->code32 && (op[1] & 0xf7) == 0xa0))
		insn_legacy(e, op, 2, map0f[op[1]], 2);
}

static bool host_only_38(u8 op, bool vex)
{
	if (op >= 0x80 && op <= 0x83)
		return true;
	if (vex && ((op >= 0x50 && op <= 0x53) || op == 0xb4 || op == 0xb5 || op == 0x72 ||
		    op == 0xb0 || op == 0xb1 || op == 0xda || op == 0xd2 || op == 0xd3))
		return true;
	return op == 0xcf || (!vex && op == 0xf5) || op == 0xd8 || op >= 0xf8 ||
	       (vex && op >= 0xe0 && op <= 0xef);
}

static void gen_map0f38(struct emitter *e)
{
	u8 op[3] = {0x0f, 0x38, (u8)rnd(e->r)};

	if (one_in(e->r, 4))
		op[2] = one_in(e->r, 3) ? 0xf6 : 0xf0 | (u8)below(e->r, 2);
	if (!host_only_38(op[2], false))
		insn_legacy(e, op, 3, 'm', 3);
}

static void gen_map0f3a(struct emitter *e)
{
	u8 op[3] = {0x0f, 0x3a, (u8)rnd(e->r)};

	if (one_in(e->r, 2))
		op[2] &= 0x63;
	if (op[2] != 0xce && op[2] != 0xcf)
		insn_legacy(e, op, 3, 'b', 4);
}

static bool vex_excluded(unsigned int map, u8 op, bool l)
{
	switch (map) {
	case 1: /* mask registers */
		return (op >= 0x41 && op <= 0x4b) || (op >= 0x90 && op <= 0x93) || op == 0x98 ||
		       op == 0x99;
	case 2:
		return host_only_38(op, true) || (l && op >= 0xdc && op <= 0xdf);
	default:
		return (op >= 0x30 && op <= 0x33) || op == 0xce || op == 0xcf || (l && op == 0x44);
	}
}

static bool vex_has_imm(unsigned int map, u8 op)
{
	return map == 3 || (map == 1 && ((op >= 0x70 && op <= 0x73) || op == 0xc2 ||
					 (op >= 0xc4 && op <= 0xc6)));
}

static u8 vex_opcode(struct emitter *e, unsigned int map)
{
	static const u8 bmi[] = {0xf2, 0xf3, 0xf5, 0xf6, 0xf7};

	if (map == 2 && one_in(e->r, 4))
		return bmi[below(e->r, 5)];
	if (map == 2 && one_in(e->r, 8))
		return 0x90 | (u8)below(e->r, 4);
	if (map == 3 && one_in(e->r, 16))
		return 0xf0;
	if (map == 3 && one_in(e->r, 2))
		return (u8)below(e->r, 0x64);
	return (u8)rnd(e->r);
}

static void gen_vex(struct emitter *e)
{
	struct rng *r = e->r;
	unsigned int map = 1 + below(r, 3), pp = below(r, 3) ? 1 : below(r, 4);
	u8 op = vex_opcode(e, map), vvvv = one_in(r, 3) ? 0 : (u8)below(r, e->code32 ? 8 : 16);
	bool l = one_in(r, 2), w = one_in(r, 3);
	struct modrm m;

	if (map == 1)
		pp = below(r, 4);
	if (op >= 0xf0 && map > 1) {
		pp = below(r, 4);
		l = one_in(r, 16);
	}
	if (vex_excluded(map, op, l))
		return;
	modrm_make(e, &m, -1, map == 2 && (op & 0xfc) == 0x90);
	if (map == 2 && (op & 0xfc) == 0x90 && (m.b[0] & 7) != 4)
		return; /* a gather without SIB is one in a while enough: see prefixes */
	if (one_in(r, 64))
		prefixes(e, 1, false);
	else if (one_in(r, 32))
		put(e, 0x64 | (u8)below(r, 2));
	if (map == 1 && !w && !(m.rex & 3) && one_in(r, 2)) {
		put(e, 0xc5);
		put(e, (u8)((m.rex & 4 ? 0 : 0x80) | (~vvvv & 15) << 3 | l << 2 | pp));
	} else {
		put(e, 0xc4);
		put(e, (u8)((m.rex & 4 ? 0 : 0x80) | (m.rex & 2 ? 0 : 0x40) |
			    (m.rex & 1 ? 0 : 0x20) | map));
		put(e, (u8)(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp));
	}
	put(e, op);
	if (map == 1 && op == 0x77)
		return; /* VZEROUPPER: bytes behind it would be instructions */
	modrm_put(e, &m);
	if (vex_has_imm(map, op))
		put(e, (u8)rnd(r));
}

static void gen_x87(struct emitter *e)
{
	u8 op = 0xd8 | (u8)below(e->r, 8);

	if (one_in(e->r, 6)) {
		static const u16 state[] = {0x9b, 0xe2db, 0xe3db, 0xe0df, 0xf7d9, 0xf6d9, 0x770f};
		u16 v = state[below(e->r, ARRAY_SIZE(state))];

		put_le(e, v, v < 0x100 ? 1 : 2);
		return;
	}
	insn_legacy(e, &op, 1, 'm', 1);
}

/* A string instruction, with a count that stays, leaves, or is zero. */
static void gen_string(struct emitter *e)
{
	static const u8 ops[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};

	if (one_in(e->r, 2)) {
		put(e, 0xb9); /* mov ecx, n */
		put_le(e, one_in(e->r, 6) ? 1u << below(e->r, 16) : below(e->r, 100), 4);
	}
	if (one_in(e->r, 6))
		put(e, 0xfc | (u8)below(e->r, 2));
	if (one_in(e->r, 8))
		put(e, 0x66);
	if (one_in(e->r, 16))
		put(e, 0x67);
	if (!one_in(e->r, 8))
		put(e, 0xf2 | (u8)below(e->r, 2));
	if (!e->code32 && one_in(e->r, 3))
		put(e, 0x48);
	put(e, ops[below(e->r, ARRAY_SIZE(ops))]);
}

/* The VEX prefix of a row's instruction: mostly what the row wants. */
static void put_vex_of_row(struct emitter *e, const struct native_desc *d, u8 rex_bits)
{
	struct rng *r = e->r;
	bool l = one_in(r, 2), w = one_in(r, 2), nds;
	u8 vvvv = (u8)below(r, e->code32 ? 8 : 16);

	nds = d->reg == VM || d->reg == VA || (d->flags & (N_NDD | N_MERGE));
	if (!one_in(r, 50)) {
		l = d->flags & N_L0 ? false : d->flags & N_L1 ? true : l;
		w = d->flags & N_W0 ? false : d->flags & N_W1 ? true : w;
		vvvv = nds ? vvvv : 0;
	}
	if (vex_excluded(d->map, d->op, l))
		l = false;
	put(e, 0xc4);
	put(e, (u8)((rex_bits & 4 ? 0 : 0x80) | (rex_bits & 2 ? 0 : 0x40) |
		    (rex_bits & 1 ? 0 : 0x20) | d->map));
	put(e, (u8)(w << 7 | (~vvvv & 15) << 3 | l << 2 | d->pfx));
}

/* A vector instruction that exists, by
 * softkvm's own table: so that most of them do something. */
static void gen_row(struct emitter *e)
{
	static const u8 prefix[] = {0, 0x66, 0xf3, 0xf2};
	const struct native_desc *d = &native_table[below(e->r, native_table_len)];
	bool vex = d->vex && (!d->leg || one_in(e->r, 2));
	struct modrm m;

	do
		modrm_make(e, &m, d->digit == N_DIGIT_NONE ? -1 : d->digit, d->flags & N_MO);
	while (d->flags & N_RO && m.is_mem);
	if (one_in(e->r, 48))
		put(e, 0x64 | (u8)below(e->r, 2));
	if (vex) {
		put_vex_of_row(e, d, m.rex);
	} else {
		if (d->pfx)
			put(e, prefix[d->pfx]);
		rex(e, m.rex);
		put(e, 0x0f);
		if (d->map > 1)
			put(e, d->map == 2 ? 0x38 : 0x3a);
	}
	put(e, d->op);
	modrm_put(e, &m);
	if (d->flags & N_IMM)
		put(e, (u8)(one_in(e->r, 2) ? rnd(e->r) : below(e->r, 16)));
}

/* A selector of a far transfer or a segment load: of the host's user, of its kernel, or none. The
 * guest's GDT has the same. */
static u16 selector(struct emitter *e)
{
	static const u16 odd[] = {0,	1,    3,    0x10, 0x13, 0x18, 0x1b,  0x20,  0x28,
				  0x30, 0x23, 0x2b, 0x33, 0x2c, 0x5b, 0x100, 0xfff3};

	if (one_in(e->r, 4))
		return odd[below(e->r, ARRAY_SIZE(odd))];
	return one_in(e->r, 2) ? 0x23 : 0x33;
}

static void put_push(struct emitter *e, u32 value)
{
	put(e, 0x68);
	put_le(e, value, 4);
}

/* A far return or IRET to what follows; the pushes are as wide as it pops. */
static void gen_far_return(struct emitter *e, bool iret)
{
	unsigned int size = iret ? 28 : 12, at;

	e->ends = true;
	if (e->len + size > e->max)
		return;
	if (iret && !e->code32) {
		put_push(e, one_in(e->r, 8) ? selector(e) : 0x2b);
		put(e, 0x54); /* push rsp */
	}
	if (iret)
		put(e, 0x9c);
	put_push(e, selector(e));
	put_push(e, 0);
	if (!e->code32)
		put(e, 0x48);
	put(e, iret ? 0xcf : 0xcb);
	at = e->len - (e->code32 ? 5 : 6);
	for (int i = 0; i < 4; i++)
		e->p[at + i] = (u8)((e->base + e->len) >> (8 * i));
}

/* JMP and CALL ptr16:32, of 32-bit code. */
static void gen_far_direct(struct emitter *e)
{
	e->ends = true;
	put(e, one_in(e->r, 2) ? 0x9a : 0xea);
	put_le(e, e->base + e->len + 6, 4);
	put_le(e, selector(e), 2);
}

/* LAR, LSL, VERR, VERW, and loads of DS, ES, FS, GS. */
static void gen_selector_use(struct emitter *e)
{
	static const u8 sregs[] = {0, 3, 4, 5};
	unsigned int kind = below(e->r, 4);

	put(e, 0xb8); /* mov eax, selector */
	put_le(e, kind == 3 && !one_in(e->r, 4) ? 0x2b : selector(e), 4);
	if (kind == 3) {
		put(e, 0x8e);
		put(e, (u8)(0xc0 | sregs[below(e->r, 4)] << 3));
		return;
	}
	if (one_in(e->r, 4))
		put(e, 0x66);
	put(e, 0x0f);
	put(e, kind == 2 ? 0 : 2 + (u8)kind);
	put(e, (u8)(0xc0 | (kind == 2 ? 4 + below(e->r, 2) : below(e->r, 8)) << 3));
}

/* ModRM and SIB of an absolute address, in either code size. */
static void put_absolute(struct emitter *e, unsigned int reg, u32 addr)
{
	put(e, (u8)(reg << 3 | 4));
	put(e, 0x25);
	put_le(e, addr, 4);
}

#define FAR_POINTER (DATA_BASE + 0x400)

/* mov dword [FAR_POINTER], offset; mov word [FAR_POINTER + 4], selector */
static void put_far_pointer(struct emitter *e, u32 offset, u16 sel)
{
	put(e, 0xc7);
	put_absolute(e, 0, FAR_POINTER);
	put_le(e, offset, 4);
	put_le(e, 0xc766, 2);
	put_absolute(e, 0, FAR_POINTER + 4);
	put_le(e, sel, 2);
}

/* JMP and CALL through memory, to what follows; at times with RSP beyond what 32-bit code sees of
 * it. */
static void gen_far_indirect(struct emitter *e)
{
	u32 after;

	e->ends = true;
	if (!e->code32 && !one_in(e->r, 4)) {
		put(e, 0xbc); /* mov esp, ... */
		put_le(e, DATA_BASE + 0x800, 4);
		for (unsigned int n = below(e->r, 3); n--;) {
			put_le(e, 0xec8148, 3); /* sub rsp, -2 GiB */
			put_le(e, 0x80000000, 4);
		}
	}
	after = e->base + e->len + 11 + 10 + 7;
	put_far_pointer(e, after, selector(e));
	put(e, 0xff);
	put_absolute(e, one_in(e->r, 2) ? 3 : 5, FAR_POINTER);
}

/* LES, LDS, LSS, LFS, LGS: an offset and a selector. */
static void gen_load_far(struct emitter *e)
{
	static const u16 ops[] = {0xc4, 0xc5, 0xb20f, 0xb40f, 0xb50f};
	unsigned int kind = below(e->r, 5);
	u16 op = ops[e->code32 ? kind : 2 + kind % 3], sel;
	bool narrow;

	e->ends = true;
	sel = one_in(e->r, 3) ? selector(e) : 0x2b;
	narrow = one_in(e->r, 6);
	/* a selector that has not been drawn may be one that the host's kernel alone has */
	put_far_pointer(e, narrow ? (u32)sel << 16 | (u16)edge_value(e->r) : (u32)edge_value(e->r),
			sel);
	if (narrow)
		put(e, 0x66);
	put_le(e, op, op < 0x100 ? 1 : 2);
	put_absolute(e, below(e->r, 8), FAR_POINTER);
}

/* LAR, LSL, VERR, VERW and MOV to a segment register, from memory. */
static void gen_selector_in_memory(struct emitter *e)
{
	static const u8 sregs[] = {0, 3, 4, 5};
	unsigned int kind = below(e->r, 5);

	put_far_pointer(e, 0, kind == 4 && !one_in(e->r, 4) ? 0x2b : selector(e));
	if (one_in(e->r, 4))
		put(e, 0x66);
	if (kind == 4) {
		put(e, 0x8e);
		put_absolute(e, sregs[below(e->r, 4)], FAR_POINTER + 4);
		return;
	}
	put(e, 0x0f);
	put(e, kind < 2 ? 2 + (u8)kind : 0);
	put_absolute(e, kind < 2 ? below(e->r, 8) : 2 + kind, FAR_POINTER + 4);
}

/* PUSH and POP of segment registers; what is pushed is of the host's user. */
static void gen_push_sreg(struct emitter *e)
{
	static const u16 push32[] = {0x06, 0x0e, 0x16, 0x1e}, push[] = {0xa00f, 0xa80f};
	static const u16 pop32[] = {0x07, 0x1f, 0xa10f, 0xa90f}, pop[] = {0xa10f, 0xa90f};
	u16 op;

	if (one_in(e->r, 2)) {
		op = e->code32 && one_in(e->r, 2) ? push32[below(e->r, 4)] : push[below(e->r, 2)];
	} else {
		e->ends = true;
		put_push(e, one_in(e->r, 3) ? selector(e) : 0x2b);
		op = e->code32 ? pop32[below(e->r, 4)] : pop[below(e->r, 2)];
	}
	put_le(e, op, op < 0x100 ? 1 : 2);
}

static void gen_bound(struct emitter *e)
{
	if (!e->code32)
		return;
	put_le(e, 0x05c7, 2); /* mov dword [FAR_POINTER], low; and the next, high */
	put_le(e, FAR_POINTER, 4);
	put_le(e, edge_value(e->r), 4);
	put_le(e, 0x05c7, 2);
	put_le(e, FAR_POINTER + 4, 4);
	put_le(e, edge_value(e->r), 4);
	if (one_in(e->r, 4))
		put(e, 0x66);
	put(e, 0x62);
	put_absolute(e, below(e->r, 8), FAR_POINTER);
}

/* A far return that drops some bytes more. */
static void gen_far_return_imm(struct emitter *e)
{
	unsigned int at;

	e->ends = true;
	if (e->len + 16 > e->max)
		return;
	put_push(e, selector(e));
	put_push(e, 0);
	if (!e->code32)
		put(e, 0x48);
	put(e, 0xca);
	put_le(e, below(e->r, 64), 2);
	at = e->len - (e->code32 ? 7 : 8);
	for (int i = 0; i < 4; i++)
		e->p[at + i] = (u8)((e->base + e->len) >> (8 * i));
}

static void gen_more_segments(struct emitter *e)
{
	static void (*const kinds[])(struct emitter *) = {
		gen_far_indirect, gen_load_far, gen_selector_in_memory,
		gen_push_sreg,	  gen_bound,	gen_far_return_imm};

	kinds[below(e->r, ARRAY_SIZE(kinds))](e);
}

/* VLDMXCSR, VSTMXCSR, CLFLUSHOPT, CLWB, INT1, VMASKMOVDQU, and what LOCK is for in 82. */
static void gen_rare(struct emitter *e)
{
	unsigned int kind = below(e->r, 7);

	if (kind == 4) {
		put(e, 0xf1);
		return;
	}
	if (kind == 5) {
		put_le(e, 0xf7f9c5, 3);
		put(e, (u8)(0xc0 | below(e->r, 64)));
		return;
	}
	if (kind == 6) {
		if (!e->code32)
			return;
		put_le(e, 0x82f0, 2);
		put_absolute(e, below(e->r, 7), DATA_BASE + 0x200 + below(e->r, 0x1000));
		put(e, (u8)rnd(e->r));
		return;
	}
	if (kind < 2)
		put_le(e, 0xaef8c5, 3);
	else
		put_le(e, 0xae0f66, 3);
	put_absolute(e, kind < 2 ? 2 + kind : 4 + kind, DATA_BASE + 0x200 + 4 * below(e->r, 0x600));
}

static void gen_segments(struct emitter *e)
{
	switch (below(e->r, 4)) {
	case 0:
		gen_far_return(e, false);
		break;
	case 1:
		gen_far_return(e, true);
		break;
	case 2:
		if (e->code32)
			gen_far_direct(e);
		break;
	default:
		gen_selector_use(e);
		break;
	}
}

static void gen_insn(struct emitter *e)
{
	static void (*const kinds[])(struct emitter *) = {
		gen_map1, gen_map1, gen_map1, gen_map1, gen_map1, gen_map1, gen_map0f, gen_map0f,
		gen_vex,  gen_row,  gen_row,  gen_row,	gen_row,  gen_row,  gen_x87,   gen_string,
	};

	if (one_in(e->r, 30))
		gen_segments(e);
	else if (one_in(e->r, 40))
		gen_more_segments(e);
	else if (one_in(e->r, 200))
		gen_rare(e);
	else if (one_in(e->r, 20))
		(one_in(e->r, 2) ? gen_map0f38 : gen_map0f3a)(e);
	else
		kinds[below(e->r, ARRAY_SIZE(kinds))](e);
}

bool gen_is_code32(u64 seed)
{
	struct rng r = {seed * 2};

	return one_in(&r, 5);
}

/* Each branch goes to one of the next few instructions, or to the INT3 after the last. */
static void fix_branches(struct emitter *e, const struct gen_insns *insns)
{
	for (unsigned int f = 0; f < e->fixups; f++) {
		unsigned int end = e->fixup[f].at + e->fixup[f].size, i = 0, disp;

		while (i < insns->n && insns->off[i] < end)
			i++;
		i = min(i + below(e->r, 4), insns->n);
		disp = insns->off[i] - end;
		for (unsigned int b = 0; b < e->fixup[f].size && end <= e->max; b++)
			e->p[e->fixup[f].at + b] = (u8)(disp >> (8 * b));
	}
}

void gen_code(struct diff_case *c, u64 seed, struct gen_insns *insns)
{
	struct rng r = {~seed};
	unsigned int want = one_in(&r, 2) ? 1 : 2 + below(&r, 24);
	struct emitter e = {.r = &r, .code32 = c->start.code32, .p = c->code + c->code_off};

	e.max = CODE_SIZE - c->code_off;
	e.base = CODE_BASE + c->code_off;
	insns->n = 0;
	while (insns->n < want) {
		insns->off[insns->n] = e.len;
		while (e.len == insns->off[insns->n])
			gen_insn(&e);
		insns->n++;
		if (e.ends || e.len + 32 > 1024 || e.len == e.max)
			break;
	}
	insns->off[insns->n] = e.len;
	fix_branches(&e, insns);
	c->code_len = e.len;
}
