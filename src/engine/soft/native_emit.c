/*
 * Stubs: host code that executes one form of one instruction.
 *
 * 1. What is emitted comes from native_table and from the fields of its key; guest bytes other than
 *    an immediate never get into the arena.
 * 2. A key has at most one stub. When the arena is full, all of them go, and decoding reports out
 * of memory: the caller then drops every block of the vCPU, and with them every pointer to a stub.
 * 3. The arena is mapped twice: written through one mapping, executed through the other.
 * 4. Stubs only use caller-saved registers, and leave MXCSR and the x87 unit as they found them.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/soft/cpu.h"
#include "engine/soft/native_int.h"

#define ARENA_SIZE (4 * MiB)
#define ARENA_HEAD 64
#define STUB_MAX   128
#define INSN_MAX   16384u
#define HASH_SIZE  (2 * INSN_MAX)
#define MAPS	   3
#define INDEX_SIZE (MAPS * 4 * 256)
#define KEY_X87	   (1u << 31)

struct native {
	u8 *rw;
	const u8 *rx;
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
	static const u8 prefix[4] = {0, 0x66, 0xf3, 0xf2};
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
		put(c, 0x9f); /* lahf; seto al */
		put(c, 0x0f);
		put(c, 0x90);
		put(c, 0xc0);
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

static void put_bytes(struct code *c, const u8 *bytes, unsigned int len)
{
	while (len--)
		put(c, *bytes++);
}

/* FNSAVE also leaves the unit initialised. */
static void emit_x87(struct code *c, u8 opcode, u8 modrm)
{
	static const u8 before[] = {
		0xdd, 0x27, /* frstor [rdi] */
		0x89, 0xd0, /* mov eax, edx */
		0x04, 0x7f, /* add al, 127: OF */
		0x9e,	    /* sahf */
	};
	static const u8 after[] = {
		0xdd, 0x37,	  /* fnsave [rdi] */
		0x9f,		  /* lahf */
		0x0f, 0x90, 0xc0, /* seto al */
		0xc3,
	};

	put_bytes(c, before, sizeof(before));
	put(c, opcode);
	put(c, modrm >= 0xc0 ? modrm : (modrm & 0x38) | HRSI);
	put_bytes(c, after, sizeof(after));
}

/* ---- the cache ---- */

static void native_drop_all(struct native *n)
{
	memset(n->hash, 0, sizeof(n->hash));
	n->count = 0;
	n->used = ARENA_HEAD;
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

	if (n->used + STUB_MAX > ARENA_SIZE || n->count == INSN_MAX) {
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
	insn->sse = insn->reg <= VA && insn->reg != OP_NONE;
	insn->sse |= insn->rm <= VA && insn->rm != OP_NONE;
	insn->flags_out = flags & N_EFL;
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
	emit_stub(&c, f, n->used);
	insn_fill(insn, f);
	insn->stub = (native_stub *)(uintptr_t)arena_add(n, &c);
	return insn;
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

static int arena_map(struct native *n)
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
out:
	close(fd);
	return ret;
}

int native_init(struct kvm_vcpu *vcpu)
{
	struct native *n = calloc(1, sizeof(*n) + (native_table_len + 1) * sizeof(n->next[0]));
	int ret;

	if (!n)
		return -ENOMEM;
	ret = arena_map(n);
	if (ret) {
		free(n);
		return ret;
	}
	n->used = ARENA_HEAD;
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
	munmap(n->rw, ARENA_SIZE);
	munmap((void *)(uintptr_t)n->rx, ARENA_SIZE);
	free(n);
	vcpu_cpu(vcpu)->native = NULL;
}
