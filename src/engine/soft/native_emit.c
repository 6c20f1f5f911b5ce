/*
 * Stubs: host code that executes one form of one instruction.
 *
 * 1. What is emitted comes from native_table and from the fields of its key; guest bytes other than
 *    an immediate never get into the arena.
 * 2. A key has at most one stub; stubs live as long as the VM. There are fewer keys than the arena
 *    has room for (about 200 forms with an immediate times 256, and 1500 without), so nothing is
 *    ever evicted; should it fill up all the same, decoding reports out of memory.
 * 3. The arena is mapped twice: written through one mapping, executed through the other.
 * 4. Stubs only use caller-saved registers, and leave MXCSR and the x87 unit as they found them.
 */
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"
#include "engine/soft/native_int.h"

#define ARENA_SIZE (16 * MiB)
#define STUB_MAX   256
#define MAPS	   3
#define INDEX_SIZE (MAPS * 4 * 256)
#define KEY_X87	   (1u << 31)

struct native_cache {
	pthread_mutex_t lock;
	u8 *rw;
	const u8 *rx;
	size_t used;
	struct native_insn **hash; /* open addressing, power of two; keys only enter */
	u32 hash_size, count;
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

bool native_host_has(enum native_feature feature)
{
	struct native_features f;

	native_features(&f);
	switch (feature) {
	case F_MMX:
		return f.leaf1_edx & bit_MMX;
	case F_SSE:
		return f.leaf1_edx & bit_SSE;
	case F_SSE2:
		return f.leaf1_edx & bit_SSE2;
	case F_SSE3:
		return f.leaf1_ecx & bit_SSE3;
	case F_SSSE3:
		return f.leaf1_ecx & bit_SSSE3;
	case F_SSE41:
		return f.leaf1_ecx & bit_SSE4_1;
	case F_SSE42:
		return f.leaf1_ecx & bit_SSE4_2;
	case F_AES:
		return f.leaf1_ecx & bit_AES;
	case F_PCLMUL:
		return f.leaf1_ecx & bit_PCLMUL;
	case F_SHA:
		return f.leaf7_ebx & bit_SHA;
	case F_AVX:
		return f.leaf1_ecx & bit_AVX;
	case F_AVX2:
		return f.leaf7_ebx & bit_AVX2;
	case F_FMA:
		return f.leaf1_ecx & bit_FMA;
	case F_F16C:
		return f.leaf1_ecx & bit_F16C;
	default:
		return false;
	}
}

/* ---- code ---- */

enum { HRAX = 0, HRCX = 1, HRDX = 2, HRSI = 6, HRDI = 7, HR8 = 8, HR9 = 9, HR10 = 10 };

/* Host registers of the operands: all below 8, so that no prefix bit depends on them. */
enum { HOST_X0, HOST_RM, HOST_VVVV, HOST_REG, HOST_IS4 };
enum { HOST_MM_REG, HOST_MM_RM };

struct code {
	u8 b[STUB_MAX];
	unsigned int len;
};

static void put(struct code *c, u8 byte)
{
	if (c->len < STUB_MAX)
		c->b[c->len++] = byte;
}

static void put_vex(struct code *c, unsigned int map, unsigned int pp, bool w, unsigned int vvvv,
		    bool l, bool b)
{
	put(c, 0xc4);
	put(c, 0xc0 | (b ? 0 : 0x20) | (u8)map);
	put(c, (u8)(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp));
}

/* A move between host register reg and [base]. */
static void vec_move(struct code *c, bool vex, bool l, bool store, unsigned int reg,
		     unsigned int base)
{
	if (vex)
		put_vex(c, 1, 0, false, 0, l, base >= 8);
	else if (base >= 8)
		put(c, 0x41);
	if (!vex)
		put(c, 0x0f);
	put(c, store ? 0x11 : 0x10);
	put(c, (u8)(reg << 3 | (base & 7)));
}

static void mmx_move(struct code *c, bool store, unsigned int reg, unsigned int base)
{
	put(c, 0x0f);
	put(c, store ? 0x7f : 0x6f);
	put(c, (u8)(reg << 3 | base));
}

/* mov between a general register and [base + disp] */
static void gpr_move(struct code *c, bool store, unsigned int reg, unsigned int base, u8 disp)
{
	put(c, 0x48 | (reg >= 8 ? 4 : 0) | (base >= 8 ? 1 : 0));
	put(c, store ? 0x89 : 0x8b);
	put(c, (u8)(0x40 | (reg & 7) << 3 | (base & 7)));
	put(c, disp);
}

/* ldmxcsr/stmxcsr [r9] */
static void mxcsr_move(struct code *c, bool store)
{
	put(c, 0x41);
	put(c, 0x0f);
	put(c, 0xae);
	put(c, store ? 0x19 : 0x11);
}

static void operand_move(struct code *c, bool vex, bool l, bool store, u8 kind, bool is_rm)
{
	unsigned int base = is_rm ? HRSI : HRDI;

	switch (kind) {
	case VR:
	case VW:
	case VM:
		/* what a VEX form writes is zero above its length: store all 256 bits */
		vec_move(c, vex, store || l, store, is_rm ? HOST_RM : HOST_REG, base);
		break;
	case MR:
	case MW:
	case MM:
		mmx_move(c, store, is_rm ? HOST_MM_RM : HOST_MM_REG, base);
		break;
	case GR:
	case GW:
		gpr_move(c, store, HRAX, base, 0);
		break;
	}
}

static bool op_reads(u8 kind)
{
	return kind == VR || kind == VM || kind == MR || kind == MM || kind == GR;
}

static bool op_writes(u8 kind)
{
	return kind == VW || kind == VM || kind == MW || kind == MM || kind == GW;
}

static bool op_is_mmx(u8 kind)
{
	return kind == MR || kind == MW || kind == MM;
}

static unsigned int host_reg(const struct native_desc *d, u8 kind, bool is_rm)
{
	if (!is_rm && d->digit != N_DIGIT_NONE)
		return d->digit;
	if (op_is_mmx(kind))
		return is_rm ? HOST_MM_RM : HOST_MM_REG;
	if (kind == GR || kind == GW)
		return HRAX;
	return is_rm ? HOST_RM : HOST_REG;
}

/* The guest's instruction, with our registers and [rsi] for its memory operand. */
static void put_insn(struct code *c, const struct native_form *f, u8 reg, u8 rm, u8 vvvv)
{
	const struct native_desc *d = f->desc;
	static const u8 prefix[4] = { 0, 0x66, 0xf3, 0xf2 };
	u8 imm = f->imm;

	if (f->vex) {
		put_vex(c, d->map, d->pfx, f->w, vvvv ? HOST_VVVV : 0, f->l, false);
	} else {
		if (d->pfx)
			put(c, prefix[d->pfx]);
		if (f->w)
			put(c, 0x48);
		put(c, 0x0f);
		if (d->map == 2)
			put(c, 0x38);
		if (d->map == 3)
			put(c, 0x3a);
	}
	put(c, d->op);
	put(c, (u8)((f->mem ? HRSI : 0xc0 | host_reg(d, rm, true)) | host_reg(d, reg, false) << 3));
	if (d->flags & N_IS4)
		imm = HOST_IS4 << 4;
	if (d->flags & N_IMM)
		put(c, imm);
}

/* The operands of this form, see native_tab.h. */
static void form_operands(const struct native_form *f, u8 *reg, u8 *rm, u8 *vvvv)
{
	const struct native_desc *d = f->desc;

	*reg = d->reg;
	*rm = d->rm;
	*vvvv = OP_NONE;
	if (!f->vex)
		return;
	if (d->flags & N_NDD) {
		*rm = VR;
		*vvvv = VW;
	} else if (d->flags & N_MERGE) {
		*rm = VW;
		*vvvv = VR;
	} else if (d->reg == VM) {
		*reg = VW;
		*vvvv = VR;
	} else if (d->reg == VA) {
		*reg = VM;
		*vvvv = VR;
	}
}

static void emit_loads(struct code *c, const struct native_form *f, u8 reg, u8 rm, u8 vvvv)
{
	u32 flags = f->desc->flags;

	if (op_reads(reg))
		operand_move(c, f->vex, f->l, false, reg, false);
	if (op_reads(rm) && !f->mem)
		operand_move(c, f->vex, f->l, false, rm, true);
	if (vvvv == VR)
		vec_move(c, true, f->l, false, HOST_VVVV, HRDX);
	if (flags & N_X0)
		vec_move(c, false, false, false, HOST_X0, HR8);
	if (flags & N_IS4)
		vec_move(c, true, f->l, false, HOST_IS4, HR8);
	if (flags & (N_RCX | N_ESTR)) {
		put(c, 0x49); /* mov r10, rcx */
		put(c, 0x89);
		put(c, 0xca);
	}
	if (flags & N_ESTR) {
		gpr_move(c, false, HRAX, HR10, 8 * RAX);
		gpr_move(c, false, HRDX, HR10, 8 * RDX);
	}
	if (flags & N_FP)
		mxcsr_move(c, false);
}

static void emit_stores(struct code *c, const struct native_form *f, u8 reg, u8 rm, u8 vvvv,
			s32 mxcsr_rel)
{
	u32 flags = f->desc->flags;

	if (op_writes(reg))
		operand_move(c, f->vex, f->l, true, reg, false);
	if (op_writes(rm) && !f->mem)
		operand_move(c, f->vex, f->l, true, rm, true);
	if (vvvv == VW)
		vec_move(c, true, true, true, HOST_VVVV, HRDX);
	if (flags & N_X0W)
		vec_move(c, f->vex, true, true, HOST_X0, HR8);
	if (flags & N_RCX)
		gpr_move(c, true, HRCX, HR10, 8 * RCX);
	if (flags & N_EFL) {
		put(c, 0x9c); /* pushfq; pop rax */
		put(c, 0x58);
	}
	if (flags & N_FP) {
		mxcsr_move(c, true);
		put(c, 0x0f); /* ldmxcsr [rip + rel] */
		put(c, 0xae);
		put(c, 0x15);
		mxcsr_rel -= (s32)c->len + 4;
		for (int i = 0; i < 4; i++)
			put(c, (u8)((u32)mxcsr_rel >> (8 * i)));
	}
}

/* The stub of a form that will lie `at` bytes into the arena, whose first word is MXCSR_DEFAULT. */
static void emit_stub(struct code *c, const struct native_form *f, size_t at)
{
	u8 reg, rm, vvvv;

	form_operands(f, &reg, &rm, &vvvv);
	emit_loads(c, f, reg, rm, vvvv);
	put_insn(c, f, reg, rm, vvvv);
	emit_stores(c, f, reg, rm, vvvv, -(s32)at);
	if (f->vex && f->l) { /* vzeroupper */
		put(c, 0xc5);
		put(c, 0xf8);
		put(c, 0x77);
	}
	if (op_is_mmx(f->desc->reg) || op_is_mmx(f->desc->rm)) { /* emms */
		put(c, 0x0f);
		put(c, 0x77);
	}
	put(c, 0xc3);
}

/* frstor [rdi]; insn; fnsave [rdi] (which also initialises the unit); ret */
static void emit_x87(struct code *c, u8 opcode, u8 modrm)
{
	put(c, 0xdd);
	put(c, 0x27);
	put(c, opcode);
	put(c, modrm >= 0xc0 ? modrm : (modrm & 0x38) | HRSI);
	put(c, 0xdd);
	put(c, 0x37);
	put(c, 0xc3);
}

/* ---- the cache ---- */

static u32 hash_slot(const struct native_cache *n, u32 key)
{
	return (key * 0x9e3779b1u) & (n->hash_size - 1);
}

static struct native_insn *cache_find(struct native_cache *n, u32 key)
{
	for (u32 i = hash_slot(n, key); n->hash[i]; i = (i + 1) & (n->hash_size - 1))
		if (n->hash[i]->key == key)
			return n->hash[i];
	return NULL;
}

static int cache_grow(struct native_cache *n)
{
	struct native_insn **old = n->hash;
	u32 old_size = n->hash_size;

	if (n->count < old_size / 2)
		return 0;
	n->hash_size = old_size ? 2 * old_size : 256;
	n->hash = calloc(n->hash_size, sizeof(*n->hash));
	if (!n->hash) {
		n->hash = old;
		n->hash_size = old_size;
		return -ENOMEM;
	}
	for (u32 i = 0; i < old_size; i++) {
		u32 j;

		if (!old[i])
			continue;
		for (j = hash_slot(n, old[i]->key); n->hash[j]; j = (j + 1) & (n->hash_size - 1))
			;
		n->hash[j] = old[i];
	}
	free(old);
	return 0;
}

static void cache_add(struct native_cache *n, struct native_insn *insn)
{
	u32 i = hash_slot(n, insn->key);

	while (n->hash[i])
		i = (i + 1) & (n->hash_size - 1);
	n->hash[i] = insn;
	n->count++;
}

/* Room for one more stub and its entry, or NULL. */
static struct native_insn *insn_new(struct native_cache *n, u32 key)
{
	struct native_insn *insn;

	if (n->used + STUB_MAX > ARENA_SIZE || cache_grow(n))
		return NULL;
	insn = calloc(1, sizeof(*insn));
	if (insn)
		insn->key = key;
	return insn;
}

static const void *arena_add(struct native_cache *n, const struct code *c)
{
	size_t at = n->used;

	memcpy(n->rw + at, c->b, c->len);
	n->used = at + ((c->len + 15) & ~15u);
	return n->rx + at;
}

static u8 form_size(const struct native_form *f)
{
	unsigned int v = f->l ? 32 : 16;

	if (!f->mem)
		return 0;
	if (op_is_mmx(f->desc->rm) && f->desc->size == SZ_V)
		return 8;
	switch ((enum native_size)f->desc->size) {
	case SZ_V:
		return (u8)v;
	case SZ_H:
		return (u8)(v / 2);
	case SZ_Q:
		return (u8)(v / 4);
	case SZ_E:
		return (u8)(v / 8);
	case SZ_1:
		return 1;
	case SZ_2:
		return 2;
	case SZ_4:
		return 4;
	case SZ_8:
		return 8;
	case SZ_16:
		return 16;
	case SZ_W:
		return f->w ? 8 : 4;
	case SZ_DUP:
		return f->l ? 32 : 8;
	case SZ_NONE:
		break;
	}
	return 0;
}

static void insn_fill(struct native_insn *insn, const struct native_form *f)
{
	u32 flags = f->desc->flags;
	u8 vvvv;

	form_operands(f, &insn->reg, &insn->rm, &vvvv);
	insn->desc = f->desc;
	insn->size = form_size(f);
	if (insn->size >= 16 && (flags & (f->vex ? N_VALIGN : N_ALIGN)))
		insn->align = insn->size - 1;
	insn->x4 = f->x4;
	insn->vex = f->vex;
	insn->fp = flags & N_FP;
	insn->store = f->mem && op_writes(insn->rm);
	insn->mmx = op_is_mmx(insn->reg) || op_is_mmx(insn->rm);
	if (f->mem && (flags & N_NOX87))
		insn->mmx = false;
}

static u32 form_key(const struct native_form *f)
{
	return (u32)(f->desc - native_table) << 17 | (u32)f->x4 << 13 | f->vex << 12 |
	       f->l << 11 | f->w << 10 | f->mem << 9 | f->imm;
}

static const struct native_insn *form_add(struct native_cache *n, const struct native_form *f)
{
	struct code c = { .len = 0 };
	struct native_insn *insn = insn_new(n, form_key(f));

	if (!insn)
		return NULL;
	emit_stub(&c, f, n->used);
	insn_fill(insn, f);
	insn->stub = (native_stub *)(uintptr_t)arena_add(n, &c);
	cache_add(n, insn);
	return insn;
}

const struct native_insn *native_get(struct kvm *kvm, const struct native_form *f)
{
	struct native_cache *n = kvm->native;
	const struct native_insn *insn;

	pthread_mutex_lock(&n->lock);
	insn = cache_find(n, form_key(f));
	if (!insn)
		insn = form_add(n, f);
	pthread_mutex_unlock(&n->lock);
	return insn;
}

static const struct native_insn *x87_add(struct native_cache *n, u32 key, u8 opcode, u8 modrm)
{
	struct code c = { .len = 0 };
	struct native_insn *insn = insn_new(n, key);

	if (!insn)
		return NULL;
	emit_x87(&c, opcode, modrm);
	insn->x87 = (native_x87_stub *)(uintptr_t)arena_add(n, &c);
	cache_add(n, insn);
	return insn;
}

const struct native_insn *native_get_x87(struct kvm *kvm, u8 opcode, u8 modrm)
{
	struct native_cache *n = kvm->native;
	const struct native_insn *insn;
	u32 key;

	if (modrm < 0xc0)
		modrm &= 0x38;
	key = KEY_X87 | (u32)(opcode & 7) << 8 | modrm;
	pthread_mutex_lock(&n->lock);
	insn = cache_find(n, key);
	if (!insn)
		insn = x87_add(n, key, opcode & 7 | 0xd8, modrm);
	pthread_mutex_unlock(&n->lock);
	return insn;
}

/* ---- rows ---- */

static unsigned int row_place(u8 map, u8 pfx, u8 op)
{
	return ((map - 1u) * 4 + pfx) * 256 + op;
}

static void index_rows(struct native_cache *n)
{
	for (unsigned int i = native_table_len; i-- > 0;) {
		const struct native_desc *d = &native_table[i];
		u16 *first = &n->first[row_place(d->map, d->pfx, d->op)];

		n->next[i + 1] = *first;
		*first = (u16)(i + 1);
	}
}

const struct native_desc *native_lookup(const struct kvm *kvm, u8 map, u8 pfx, u8 op, u8 digit,
					bool vex, bool mem)
{
	const struct native_cache *n = kvm->native;

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

static int arena_map(struct native_cache *n)
{
	int fd = memfd_create("softkvm-stubs", MFD_CLOEXEC);
	void *rw, *rx;
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, ARENA_SIZE) < 0) {
		ret = -errno;
		goto out;
	}
	rw = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rw == MAP_FAILED) {
		ret = -errno;
		goto out;
	}
	rx = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (rx == MAP_FAILED) {
		ret = -errno;
		munmap(rw, ARENA_SIZE);
		goto out;
	}
	n->rw = rw;
	n->rx = rx;
	*(u32 *)rw = MXCSR_DEFAULT;
	n->used = 64;
out:
	close(fd);
	return ret;
}

int native_vm_init(struct kvm *kvm)
{
	struct native_cache *n;
	int ret;

	n = calloc(1, sizeof(*n) + (native_table_len + 1) * sizeof(n->next[0]));
	if (!n)
		return -ENOMEM;
	ret = arena_map(n);
	if (ret) {
		free(n);
		return ret;
	}
	pthread_mutex_init(&n->lock, NULL);
	index_rows(n);
	kvm->native = n;
	return 0;
}

void native_vm_free(struct kvm *kvm)
{
	struct native_cache *n = kvm->native;

	if (!n)
		return;
	for (u32 i = 0; i < n->hash_size; i++)
		free(n->hash[i]);
	free(n->hash);
	munmap(n->rw, ARENA_SIZE);
	munmap((void *)(uintptr_t)n->rx, ARENA_SIZE);
	pthread_mutex_destroy(&n->lock);
	free(n);
	kvm->native = NULL;
}
