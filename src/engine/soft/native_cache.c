/*
 * The stubs of a vCPU, by form, and what the host can execute.
 *
 * A key has at most one entry. When there is no room, all of them go, and decoding reports out of
 * memory: the caller then drops every block of the vCPU, and with them every pointer to a stub.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/code_memory.h"
#include "engine/soft/cpu.h"
#include "engine/soft/native_emit.h"
#include "engine/soft/native_int.h"

#define ARENA_SIZE (4 * MiB)
#define INSN_MAX   16384u
#define HASH_SIZE  (2 * INSN_MAX)
#define MAPS	   3
#define INDEX_SIZE (MAPS * 4 * 256)
#define KEY_X87	   (1u << 31)

struct native {
	struct code_memory arena;
	size_t used;
	struct native_insn *hash[HASH_SIZE]; /* open addressing */
	struct native_insn insn[INSN_MAX];   /* those in use come first */
	u32 count;
	bool has[F_COUNT]; /* enum native_feature */
	/* rows by (map, pfx, op): the first, and the next with the same place; 0 ends */
	u16 first[INDEX_SIZE];
	u16 next[]; /* native_table_len + 1 */
};

/* ---- the host ---- */

struct host_cpu {
	u32 c1, d1, b7, c7, d7, ec1, ed1, xa;
	bool avx;
};

static void host_cpu_read(struct host_cpu *h)
{
	u32 a, b, c, d, lo, hi;

	memset(h, 0, sizeof(*h));
	__cpuid(1, a, b, h->c1, h->d1);
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		h->b7 = b;
		h->c7 = c;
		h->d7 = d;
	}
	if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
		h->ec1 = c;
		h->ed1 = d;
	}
	if ((h->c1 & bit_OSXSAVE) && (h->c1 & bit_AVX)) {
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		h->avx = (lo & 6) == 6;
		if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
			h->xa = a;
	}
}

void native_features(struct native_features *f)
{
	struct host_cpu h;

	host_cpu_read(&h);
	memset(f, 0, sizeof(*f));
	f->leaf1_ecx = h.c1 & (bit_SSE3 | bit_PCLMUL | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 |
			       bit_MOVBE | bit_POPCNT | bit_AES | bit_RDRND);
	f->leaf1_edx = h.d1 & (bit_MMX | bit_FXSAVE | bit_SSE | bit_SSE2 | 1 | 1u << 19);
	f->leaf7_ebx = h.b7 & (bit_BMI | bit_BMI2 | bit_ADX | bit_RDSEED | bit_SHA |
			       bit_CLFLUSHOPT | bit_CLWB);
	f->ext1_ecx = h.ec1 & (bit_LZCNT | bit_PRFCHW);
	f->mxcsr_mask = MXCSR_VALID;
	f->xcr0 = XCR0_X87 | XCR0_SSE;
	f->leaf1_ecx |= bit_XSAVE; /* done in C */
	f->leafd1_eax = 1;	   /* XSAVEOPT, likewise */
	if (h.avx) {
		f->xcr0 |= XCR0_AVX;
		f->leaf1_ecx |= h.c1 & (bit_AVX | bit_FMA | bit_F16C);
		f->leaf7_ebx |= h.b7 & bit_AVX2;
	}
}

static void host_features(bool has[F_COUNT])
{
	struct native_features f;

	native_features(&f);
	has[F_MMX] = f.leaf1_edx & bit_MMX;
	has[F_SSE] = f.leaf1_edx & bit_SSE;
	has[F_SSE2] = f.leaf1_edx & bit_SSE2;
	has[F_SSE3] = f.leaf1_ecx & bit_SSE3;
	has[F_SSSE3] = f.leaf1_ecx & bit_SSSE3;
	has[F_SSE41] = f.leaf1_ecx & bit_SSE4_1;
	has[F_SSE42] = f.leaf1_ecx & bit_SSE4_2;
	has[F_AES] = f.leaf1_ecx & bit_AES;
	has[F_PCLMUL] = f.leaf1_ecx & bit_PCLMUL;
	has[F_SHA] = f.leaf7_ebx & bit_SHA;
	has[F_AVX] = f.leaf1_ecx & bit_AVX;
	has[F_AVX2] = f.leaf7_ebx & bit_AVX2;
	has[F_FMA] = f.leaf1_ecx & bit_FMA;
	has[F_F16C] = f.leaf1_ecx & bit_F16C;
	has[F_BMI1] = f.leaf7_ebx & bit_BMI;
	has[F_BMI2] = f.leaf7_ebx & bit_BMI2;
	has[F_ADX] = f.leaf7_ebx & bit_ADX;
	has[F_POPCNT] = f.leaf1_ecx & bit_POPCNT;
	has[F_LZCNT] = f.ext1_ecx & bit_LZCNT;
	has[F_RDRAND] = f.leaf1_ecx & bit_RDRND;
	has[F_RDSEED] = f.leaf7_ebx & bit_RDSEED;
}

bool native_host_has(const struct kvm_vcpu *vcpu, enum native_feature feature)
{
	return vcpu_cpu(vcpu)->native->has[feature];
}

/* ---- the cache ---- */

static void native_drop_all(struct native *n)
{
	memset(n->hash, 0, sizeof(n->hash));
	n->count = 0;
	n->used = 0;
}

static struct native_insn **cache_slot(struct native *n, u32 key)
{
	u32 i = (key * 0x9e3779b1u) >> 16;

	while (n->hash[i % HASH_SIZE] && n->hash[i % HASH_SIZE]->key != key)
		i++;
	return &n->hash[i % HASH_SIZE];
}

/* A new entry for key, at slot; NULL when there is no room: then nothing is left. */
static struct native_insn *insn_new(struct native *n, struct native_insn **slot, u32 key)
{
	struct native_insn *insn;

	if (n->used + 3 * STUB_MAX > ARENA_SIZE || n->count == INSN_MAX) {
		native_drop_all(n);
		return NULL;
	}
	insn = &n->insn[n->count++];
	memset(insn, 0, sizeof(*insn));
	insn->key = key;
	*slot = insn;
	return insn;
}

static const void *arena_add(struct native *n, const struct code *c)
{
	size_t at = n->used;

	memcpy(n->arena.rw + at, c->b, c->len);
	n->used = at + ((c->len + 15) & ~15u);
	return n->arena.rx + at;
}

static void insn_fill(struct native_insn *insn, const struct native_form *f)
{
	u32 flags = f->desc->flags;
	u8 vvvv;

	form_operands(f, &insn->reg, &insn->rm, &vvvv);
	insn->desc = f->desc;
	insn->size = form_size(f);
	insn->align = form_align(f);
	insn->x4 = f->x4;
	insn->vex = f->vex;
	insn->fp = flags & N_FP;
	insn->store = f->mem && op_writes(insn->rm);
	insn->mmx = op_is_mmx(insn->reg) || op_is_mmx(insn->rm);
	insn->sse = insn->reg <= VA && insn->reg != OP_NONE;
	insn->sse |= insn->rm <= VA && insn->rm != OP_NONE;
	insn->flags_out = flags & N_EFL;
	insn->host_mmx = insn->mmx;
	if (f->mem && (flags & N_NOX87))
		insn->mmx = false;
}

static u32 form_key(const struct native_form *f)
{
	return (u32)(f->desc - native_table) << 17 | (u32)f->x4 << 13 | f->vex << 12 | f->l << 11 |
	       f->w << 10 | f->mem << 9 | f->imm;
}

const struct native_insn *native_get(struct kvm_vcpu *vcpu, const struct native_form *f)
{
	struct native *n = vcpu_cpu(vcpu)->native;
	struct native_insn **slot = cache_slot(n, form_key(f));
	struct code c = {.len = 0};
	struct native_insn *insn;

	if (*slot)
		return *slot;
	insn = insn_new(n, slot, form_key(f));
	if (!insn)
		return NULL;
	emit_stub(&c, f);
	insn_fill(insn, f);
	insn->stub = (native_stub *)(uintptr_t)arena_add(n, &c);
	for (int index = 0; form_is_fast(f) && index < (f->mem ? 2 : 1); index++) {
		c.len = 0;
		emit_operation(&c, f, index, native_general);
		insn->operation[index] = (uop_fn *)(uintptr_t)arena_add(n, &c);
	}
	return insn;
}

bool native_form_of(const struct kvm_vcpu *vcpu, const struct uop *u, struct native_form *f)
{
	const struct native *n = vcpu_cpu(vcpu)->native;
	const struct native_insn *insn = u->ptr;

	if ((uintptr_t)u->fn - (uintptr_t)n->arena.rx >= ARENA_SIZE)
		return false;
	*f = (struct native_form){
		.desc = insn->desc,
		.vex = insn->key >> 12 & 1,
		.l = insn->key >> 11 & 1,
		.w = insn->key >> 10 & 1,
		.mem = insn->key >> 9 & 1,
		.imm = (u8)insn->key,
		.x4 = insn->x4,
	};
	return true;
}

struct native_insn *native_get_x87(struct kvm_vcpu *vcpu, u8 opcode, u8 modrm)
{
	struct native *n = vcpu_cpu(vcpu)->native;
	struct native_insn **slot, *insn;
	struct code c = {.len = 0};
	u32 key;

	if (modrm < 0xc0)
		modrm &= 0x38;
	key = KEY_X87 | (u32)(opcode & 7) << 8 | modrm;
	slot = cache_slot(n, key);
	if (*slot)
		return *slot;
	insn = insn_new(n, slot, key);
	if (!insn)
		return NULL;
	emit_x87(&c, opcode, modrm);
	insn->x87 = (native_x87_stub *)(uintptr_t)arena_add(n, &c);
	return insn;
}

/* ---- rows ---- */

static unsigned int row_place(u8 map, u8 pfx, u8 op)
{
	return ((map - 1u) * 4 + pfx) * 256 + op;
}

static void index_rows(struct native *n)
{
	for (unsigned int i = native_table_len; i-- > 0;) {
		const struct native_desc *d = &native_table[i];
		u16 *first = &n->first[row_place(d->map, d->pfx, d->op)];

		n->next[i + 1] = *first;
		*first = (u16)(i + 1);
	}
}

const struct native_desc *native_lookup(const struct kvm_vcpu *vcpu, u8 map, u8 pfx, u8 op,
					u8 digit, bool vex, bool mem)
{
	const struct native *n = vcpu_cpu(vcpu)->native;

	for (unsigned int i = n->first[row_place(map, pfx, op)]; i; i = n->next[i]) {
		const struct native_desc *d = &native_table[i - 1];

		if (d->digit != N_DIGIT_NONE && d->digit != digit)
			continue;
		if (d->flags & (mem ? N_RO : N_MO))
			continue;
		if (vex ? d->vex : d->leg)
			return d;
	}
	return NULL;
}

/* ---- life ---- */

int native_init(struct kvm_vcpu *vcpu)
{
	struct native *n = calloc(1, sizeof(*n) + (native_table_len + 1) * sizeof(n->next[0]));
	int ret;

	if (!n)
		return -ENOMEM;
	ret = code_memory_map(&n->arena, "softkvm-stubs", ARENA_SIZE);
	if (ret) {
		free(n);
		return ret;
	}
	index_rows(n);
	host_features(n->has);
	vcpu_cpu(vcpu)->native = n;
	return 0;
}

void native_free(struct kvm_vcpu *vcpu)
{
	struct native *n = vcpu_cpu(vcpu)->native;

	if (!n)
		return;
	code_memory_unmap(&n->arena);
	free(n);
	vcpu_cpu(vcpu)->native = NULL;
}
