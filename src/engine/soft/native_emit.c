/*
 * Emitting stubs: host code that executes one form of one instruction.
 *
 * 1. What is emitted comes from native_table and from the fields of the form; guest bytes other
 * than an immediate never get into it.
 * 2. A stub only uses caller-saved registers. It relies on MXCSR being the guest's, all exceptions
 *    masked (native_enter()), and leaves the x87 unit and the upper vector halves as it found them.
 * 3. emit_operation() makes the operation of a uop itself: it changes nothing before the last jump
 *    to the slow one, which starts the instruction over.
 */
#include <stddef.h>
#include <string.h>

#include "engine/soft/cpu.h"
#include "engine/soft/native_emit.h"

enum { HRAX, HRCX, HRDX, HRSI = 6, HRDI, HR8, HR9, HR10, HNONE = 16 };

/* Host registers of the vector operands: all below 8, so that no prefix bit depends on them. */
enum { HOST_X0, HOST_RM, HOST_VVVV, HOST_REG, HOST_IS4 };
enum { HOST_MM_REG, HOST_MM_RM };

/* Where an operand is: base + index << scale + disp. */
struct place {
	u8 base, index, scale;
	s32 disp;
};

/* Where the operands of an instruction are, and the register that points to memory (without index,
 * and below 8). */
struct places {
	struct place reg, rm, vvvv, x4, gpr;
	u8 mem;
};

static void put(struct code *c, u8 byte)
{
	if (c->len < STUB_MAX)
		c->b[c->len++] = byte;
}

static void put_bytes(struct code *c, const u8 *bytes, unsigned int len)
{
	while (len--)
		put(c, *bytes++);
}

static void put32(struct code *c, u32 v)
{
	for (int i = 0; i < 4; i++)
		put(c, (u8)(v >> (8 * i)));
}

#define PUT(c, ...) put_bytes(c, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* REX bits X and B of a place. */
static u8 place_rex(const struct place *p)
{
	return (u8)((p->base >> 3 & 1) | (p->index != HNONE ? (p->index >> 3 & 1) << 1 : 0));
}

static void put_place(struct code *c, unsigned int reg, const struct place *p)
{
	u8 mod = p->disp || (p->base & 7) == 5 ? 0x80 : 0;

	if (p->index == HNONE) {
		put(c, (u8)(mod | (reg & 7) << 3 | (p->base & 7)));
	} else {
		put(c, (u8)(mod | (reg & 7) << 3 | 4));
		put(c, (u8)(p->scale << 6 | (p->index & 7) << 3 | (p->base & 7)));
	}
	if (mod)
		put32(c, (u32)p->disp);
}

static void put_vex(struct code *c, unsigned int map, unsigned int pp, bool w, unsigned int vvvv,
		    bool l, u8 rex)
{
	put(c, 0xc4);
	put(c, (u8)((~rex & 7) << 5 | map));
	put(c, (u8)(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp));
}

static void vec_move(struct code *c, bool vex, bool l, bool store, unsigned int reg,
		     const struct place *p)
{
	if (vex) {
		put_vex(c, 1, 0, false, 0, l, place_rex(p));
	} else {
		if (place_rex(p))
			put(c, 0x40 | place_rex(p));
		put(c, 0x0f);
	}
	put(c, store ? 0x11 : 0x10);
	put_place(c, reg, p);
}

static void mmx_move(struct code *c, bool store, unsigned int reg, const struct place *p)
{
	put(c, 0x0f);
	put(c, store ? 0x7f : 0x6f);
	put_place(c, reg, p);
}

static void gpr_move(struct code *c, bool store, unsigned int reg, const struct place *p)
{
	put(c, 0x48 | place_rex(p));
	put(c, store ? 0x89 : 0x8b);
	put_place(c, reg, p);
}

/* ---- forms ---- */

static bool op_reads(u8 kind)
{
	return kind == VR || kind == VM || kind == MR || kind == MM || kind == GR;
}

bool op_writes(u8 kind)
{
	return kind == VW || kind == VM || kind == MW || kind == MM || kind == GW;
}

bool op_is_mmx(u8 kind)
{
	return kind == MR || kind == MW || kind == MM;
}

static bool op_is_gpr(u8 kind)
{
	return kind == GR || kind == GW;
}

void form_operands(const struct native_form *f, u8 *reg, u8 *rm, u8 *vvvv)
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

u8 form_size(const struct native_form *f)
{
	unsigned int v = f->l ? 32 : 16;

	if (!f->mem)
		return 0;
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

u8 form_align(const struct native_form *f)
{
	u8 size = form_size(f);

	return size >= 16 && (f->desc->flags & (f->vex ? N_VALIGN : N_ALIGN)) ? size - 1 : 0;
}

bool form_is_fast(const struct native_form *f)
{
	const struct native_desc *d = f->desc;

	return !op_is_mmx(d->reg) && !op_is_mmx(d->rm) && !(d->flags & (N_ESTR | N_RCX | N_X0W));
}

/* ---- the instruction between its loads and stores ---- */

static unsigned int host_reg(const struct native_desc *d, u8 kind, bool is_rm)
{
	if (!is_rm && d->digit != N_DIGIT_NONE)
		return d->digit;
	if (op_is_mmx(kind))
		return is_rm ? HOST_MM_RM : HOST_MM_REG;
	if (op_is_gpr(kind))
		return HRAX;
	return is_rm ? HOST_RM : HOST_REG;
}

static void operand_move(struct code *c, const struct native_form *f, bool store, u8 kind,
			 bool is_rm, const struct place *p)
{
	unsigned int reg = host_reg(f->desc, kind, is_rm);

	/* what a VEX form writes is zero above its length: store all 256 bits */
	if (op_is_mmx(kind))
		mmx_move(c, store, reg, p);
	else if (op_is_gpr(kind))
		gpr_move(c, store, HRAX, p);
	else
		vec_move(c, f->vex, store || f->l, store, reg, p);
}

/* The guest's instruction, with our registers and [mem] for its memory operand. */
static void put_insn(struct code *c, const struct native_form *f, u8 reg, u8 rm, u8 vvvv, u8 mem)
{
	static const u8 prefix[4] = {0, 0x66, 0xf3, 0xf2};
	const struct native_desc *d = f->desc;
	u8 imm = d->flags & N_IS4 ? HOST_IS4 << 4 : f->imm;

	if (f->vex) {
		put_vex(c, d->map, d->pfx, f->w, vvvv ? HOST_VVVV : 0, f->l, 0);
	} else {
		if (d->pfx)
			put(c, prefix[d->pfx]);
		if (f->w)
			put(c, 0x48);
		put(c, 0x0f);
		if (d->map > 1)
			put(c, d->map == 2 ? 0x38 : 0x3a);
	}
	put(c, d->op);
	put(c, (u8)((f->mem ? mem : 0xc0 | host_reg(d, rm, true)) | host_reg(d, reg, false) << 3));
	if (d->flags & N_IMM)
		put(c, imm);
}

static void emit_loads(struct code *c, const struct native_form *f, const struct places *at, u8 reg,
		       u8 rm, u8 vvvv)
{
	u32 flags = f->desc->flags;

	if (op_reads(reg))
		operand_move(c, f, false, reg, false, &at->reg);
	if (op_reads(rm) && !f->mem)
		operand_move(c, f, false, rm, true, &at->rm);
	if (vvvv == VR)
		vec_move(c, true, f->l, false, HOST_VVVV, &at->vvvv);
	if (flags & N_X0)
		vec_move(c, false, false, false, HOST_X0, &at->x4);
	if (flags & N_IS4)
		vec_move(c, true, f->l, false, HOST_IS4, &at->x4);
}

static void emit_stores(struct code *c, const struct native_form *f, const struct places *at,
			u8 reg, u8 rm, u8 vvvv)
{
	if (op_writes(reg))
		operand_move(c, f, true, reg, false, &at->reg);
	if (op_writes(rm) && !f->mem)
		operand_move(c, f, true, rm, true, &at->rm);
	if (vvvv == VW)
		vec_move(c, true, true, true, HOST_VVVV, &at->vvvv);
	if (f->desc->flags & N_X0W)
		vec_move(c, f->vex, true, true, HOST_X0, &at->x4);
	if (f->desc->flags & N_EFL)
		PUT(c, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	if (f->vex && f->l)
		PUT(c, 0xc5, 0xf8, 0x77); /* vzeroupper */
	if (op_is_mmx(f->desc->reg) || op_is_mmx(f->desc->rm))
		PUT(c, 0x0f, 0x77); /* emms */
}

/* ---- a native_stub ---- */

void emit_stub(struct code *c, const struct native_form *f)
{
	static const struct places at = {
		.reg = {HRDI, HNONE},
		.rm = {HRSI, HNONE},
		.vvvv = {HRDX, HNONE},
		.x4 = {HR8, HNONE},
		.mem = HRSI,
	};
	u32 flags = f->desc->flags;
	struct place gpr = {HR10, HNONE};
	u8 reg, rm, vvvv;

	form_operands(f, &reg, &rm, &vvvv);
	if (flags & (N_RCX | N_ESTR))
		PUT(c, 0x49, 0x89, 0xca); /* mov r10, rcx */
	emit_loads(c, f, &at, reg, rm, vvvv);
	if (flags & N_ESTR) {
		gpr.disp = 8 * RAX;
		gpr_move(c, false, HRAX, &gpr);
		gpr.disp = 8 * RDX;
		gpr_move(c, false, HRDX, &gpr);
	}
	put_insn(c, f, reg, rm, vvvv, at.mem);
	if (flags & N_RCX) {
		gpr.disp = 8 * RCX;
		gpr_move(c, true, HRCX, &gpr);
	}
	emit_stores(c, f, &at, reg, rm, vvvv);
	put(c, 0xc3);
}

/* ---- a uop_fn ---- */

#define FIELD(name)    ((u8)offsetof(struct uop, name))
#define VCPU(name)     ((u32)offsetof(struct kvm_vcpu, name))
#define SLOW_JUMPS_MAX 8

_Static_assert(sizeof(struct uop) == 32 && offsetof(struct uop, fn) == 0, "the way on");
_Static_assert(offsetof(struct mmu, tlb) == 0 && offsetof(struct cpu, mmu) == 0, "TLB pointer");
_Static_assert(sizeof(struct tlb_entry) == 32, "shift by 5");

/* Jumps to the slow operation, to be patched. */
struct slow_jumps {
	unsigned int at[SLOW_JUMPS_MAX], n;
};

enum { CC_A = 7, CC_NZ = 5, CC_Z = 4 };

static void put_slow_jump(struct code *c, struct slow_jumps *s, u8 cc)
{
	PUT(c, 0x0f, 0x80 | cc);
	if (s->n < SLOW_JUMPS_MAX)
		s->at[s->n++] = c->len;
	put32(c, 0);
}

/* test byte [rdi + field], mask */
static void put_test(struct code *c, u32 field, u8 mask)
{
	PUT(c, 0xf6, 0x87);
	put32(c, field);
	put(c, mask);
}

static void emit_checks(struct code *c, const struct native_form *f, struct slow_jumps *slow)
{
	if (f->vex) {
		put_test(c, VCPU(ctl.cr0), CR0_TS);
		put_slow_jump(c, slow, CC_NZ);
		put_test(c, VCPU(ctl.cr4) + 2, CR4_OSXSAVE >> 16);
		put_slow_jump(c, slow, CC_Z);
		put_test(c, VCPU(ctl.xcr0), XCR0_AVX); /* which implies SSE */
		put_slow_jump(c, slow, CC_Z);
	} else {
		put_test(c, VCPU(ctl.cr0), CR0_EM | CR0_TS);
		put_slow_jump(c, slow, CC_NZ);
		put_test(c, VCPU(ctl.cr4) + 1, CR4_OSFXSR >> 8);
		put_slow_jump(c, slow, CC_Z);
	}
	if (f->desc->flags & N_FP) {
		PUT(c, 0x8b, 0x87); /* mov eax, [rdi + mxcsr]; not eax; test eax, masks */
		put32(c, VCPU(fpu.mxcsr));
		PUT(c, 0xf7, 0xd0, 0xa9);
		put32(c, MXCSR_MASKS);
		put_slow_jump(c, slow, CC_NZ);
	}
}

/* movzx reg, byte [rsi + field] */
static void put_field(struct code *c, unsigned int reg, u8 field)
{
	if (reg >= 8)
		put(c, 0x44);
	PUT(c, 0x0f, 0xb6, (u8)(0x46 | (reg & 7) << 3), field);
}

/* The linear address into rdx: of AM_BASE and AM_INDEX. */
static void emit_address(struct code *c, bool index)
{
	put_field(c, HRCX, FIELD(base));
	PUT(c, 0x48, 0x63, 0x56, FIELD(disp)); /* movsxd rdx, [rsi + disp] */
	PUT(c, 0x48, 0x03, 0x14, 0x0f);	       /* add rdx, [rdi + rcx] */
	if (!index)
		return;
	put_field(c, HRCX, FIELD(index));
	PUT(c, 0x48, 0x8b, 0x04, 0x0f); /* mov rax, [rdi + rcx] */
	put_field(c, HRCX, FIELD(scale));
	PUT(c, 0x48, 0xd3, 0xe0); /* shl rax, cl */
	PUT(c, 0x48, 0x01, 0xc2); /* add rdx, rax */
}

/* A host pointer into rcx, by tlb_pointer() of rdx. */
static void emit_tlb(struct code *c, const struct native_form *f, struct slow_jumps *slow)
{
	u8 reg, rm, vvvv, access, align = form_align(f);

	form_operands(f, &reg, &rm, &vvvv);
	access = op_writes(rm) ? ACCESS_WRITE : ACCESS_READ;
	if (align) {
		PUT(c, 0xf6, 0xc2, align); /* test dl, align */
		put_slow_jump(c, slow, CC_NZ);
	}
	PUT(c, 0x48, 0x8b, 0x8f); /* mov rcx, [rdi + cpu] */
	put32(c, VCPU(cpu));
	PUT(c, 0x48, 0x89, 0xd0, 0x48, 0xc1, 0xe8, PAGE_SHIFT); /* mov rax, rdx; shr rax, 12 */
	PUT(c, 0x25);						/* and eax */
	put32(c, TLB_SIZE - 1);
	PUT(c, 0xc1, 0xe0, 0x05);		    /* shl eax, 5 */
	PUT(c, 0x48, 0x03, 0x01);		    /* add rax, [rcx] */
	PUT(c, 0x48, 0x8b, 0x48, (u8)(8 * access)); /* mov rcx, [rax + tag] */
	PUT(c, 0x48, 0x31, 0xd1, 0x48, 0x81, 0xf9); /* xor rcx, rdx; cmp rcx, room */
	put32(c, (u32)PAGE_SIZE - form_size(f));
	put_slow_jump(c, slow, CC_A);
	PUT(c, 0x48, 0x03, 0x48, (u8)offsetof(struct tlb_entry, host)); /* add rcx, [rax + host] */
}

static struct place operand_place(u8 kind, u8 index)
{
	if (op_is_gpr(kind))
		return (struct place){HRDI, index, 0, 0};
	return (struct place){HRDI, index, 2, (s32)VCPU(fpu.ymm)};
}

void emit_operation(struct code *c, const struct native_form *f, bool index, uop_fn *slow)
{
	struct slow_jumps jumps = {.n = 0};
	struct places at = {.mem = HRCX};
	u8 reg, rm, vvvv;

	form_operands(f, &reg, &rm, &vvvv);
	emit_checks(c, f, &jumps);
	if (f->mem) {
		emit_address(c, index);
		emit_tlb(c, f, &jumps);
	}
	at.reg = operand_place(reg, HR8);
	at.rm = operand_place(rm, HR9);
	at.vvvv = operand_place(vvvv, HR10);
	at.x4 = (struct place){HRDI, HNONE, 0, (s32)(VCPU(fpu.ymm) + 32u * f->x4)};
	if (reg != OP_NONE)
		put_field(c, HR8, FIELD(reg));
	if (rm != OP_NONE && !f->mem)
		put_field(c, HR9, FIELD(rm));
	if (vvvv != OP_NONE)
		put_field(c, HR10, FIELD(vreg));
	emit_loads(c, f, &at, reg, rm, vvvv);
	put_insn(c, f, reg, rm, vvvv, at.mem);
	emit_stores(c, f, &at, reg, rm, vvvv);
	if (f->desc->flags & N_EFL) {
		PUT(c, 0x66, 0x89, 0x87); /* mov [rdi + aflags], ax */
		put32(c, VCPU(aflags));
	}
	PUT(c, 0x48, 0x83, 0xc6, 0x20, 0xff, 0x26); /* add rsi, 32; jmp [rsi] */
	for (unsigned int i = 0; i < jumps.n; i++) {
		u32 rel = c->len - jumps.at[i] - 4;

		memcpy(c->b + jumps.at[i], &rel, 4);
	}
	PUT(c, 0x48, 0xb8); /* mov rax, slow; jmp rax */
	put_bytes(c, (const u8 *)&slow, 8);
	PUT(c, 0xff, 0xe0);
}

/* ---- in the middle of translated code ---- */

static struct place vcpu_place(unsigned int vcpu, u8 kind, u8 field)
{
	s32 disp = op_is_gpr(kind) ? field : (s32)VCPU(fpu.ymm) + 4 * field;

	return (struct place){(u8)vcpu, HNONE, 0, disp};
}

void emit_inline(struct code *c, const struct native_form *f, const struct uop *u,
		 unsigned int vcpu, unsigned int mem)
{
	struct places at = {.mem = (u8)mem};
	u8 reg, rm, vvvv;

	form_operands(f, &reg, &rm, &vvvv);
	at.reg = vcpu_place(vcpu, reg, u->reg);
	at.rm = vcpu_place(vcpu, rm, u->rm);
	at.vvvv = vcpu_place(vcpu, vvvv, u->vreg);
	at.x4 = (struct place){(u8)vcpu, HNONE, 0, (s32)(VCPU(fpu.ymm) + 32u * f->x4)};
	emit_loads(c, f, &at, reg, rm, vvvv);
	put_insn(c, f, reg, rm, vvvv, at.mem);
	emit_stores(c, f, &at, reg, rm, vvvv);
}

/* ---- x87 ---- */

void emit_x87(struct code *c, u8 opcode, u8 modrm)
{
	PUT(c, 0x89, 0xf0);   /* mov eax, esi */
	PUT(c, 0x04, 0x7f);   /* add al, 127: OF */
	PUT(c, 0x9e, opcode); /* sahf */
	put(c, modrm >= 0xc0 ? modrm : (modrm & 0x38) | HRDI);
	PUT(c, 0x9f, 0x0f, 0x90, 0xc0, 0xc3); /* lahf; seto al; ret */
}
