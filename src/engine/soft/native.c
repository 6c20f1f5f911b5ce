/*
 * Executing vector instructions by their stubs.
 *
 * 1. Checks come in the architecture's order: #UD, #NM, (#MF), then the operand's #GP, #SS, #PF.
 * 2. A memory operand that lies in one page of RAM is used in place, through the TLB's host
 * pointer; any other one by way of a buffer, which is known to be writable before anything changes.
 * 3. Floating point runs with all exceptions masked. Where the guest has unmasked some, results go
 *    to a copy first, and are dropped when an unmasked flag comes up: #XM.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/cpu.h"
#include "engine/soft/flags.h"
#include "engine/soft/native_int.h"

void native_denied_sse(struct kvm_vcpu *vcpu)
{
	if ((vcpu->ctl.cr0 & CR0_EM) || !(vcpu->ctl.cr4 & CR4_OSFXSR))
		raise_ud(vcpu);
	raise_exception(vcpu, NM_VECTOR);
}

void native_denied_avx(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->ctl.cr4 & CR4_OSXSAVE) ||
	    (vcpu->ctl.xcr0 & (XCR0_SSE | XCR0_AVX)) != (XCR0_SSE | XCR0_AVX))
		raise_ud(vcpu);
	raise_exception(vcpu, NM_VECTOR);
}

/* ---- operands ---- */

void native_check_alignment(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	mem_check_alignment(vcpu, linear, size == 10 ? 8 : min(size, 16u));
}

static void *operand_ptr(struct kvm_vcpu *vcpu, u8 kind, u8 field)
{
	switch (kind) {
	case MR:
	case MW:
	case MM:
		return vcpu->fpu.st[reg_num(field) & 7];
	case GR:
	case GW:
		return (u8 *)vcpu + field;
	default:
		return vec_ptr(vcpu, field);
	}
}

/* Misalignment comes before the segment's own faults. */
static u64 operand_linear(struct kvm_vcpu *vcpu, const struct uop *u, const struct native_insn *n)
{
	u64 base = u->mode64 && u->seg < SEG_FS ? 0 : vcpu->ctl.seg[u->seg].base;

	if (unlikely((base + uop_ea(vcpu, u)) & n->align))
		raise_gp(vcpu, 0);
	return uop_linear(vcpu, u, n->size, n->store ? ACCESS_WRITE : ACCESS_READ);
}

/* A buffer for a memory operand that is not used in place. */
struct bounce {
	_Alignas(32) u8 data[32];
	u64 linear;
	bool store;
};

static void *operand_bounce(struct kvm_vcpu *vcpu, const struct native_insn *n, u64 linear,
			    struct bounce *b)
{
	native_check_alignment(vcpu, linear, n->size);
	b->linear = linear;
	b->store = n->store;
	if (n->store)
		mem_probe_write(vcpu, linear, n->size);
	else
		mem_read_bytes(vcpu, linear, b->data, n->size);
	return b->data;
}

static inline void *operand_mem(struct kvm_vcpu *vcpu, const struct uop *u,
				const struct native_insn *n, struct bounce *b)
{
	u64 linear = operand_linear(vcpu, u, n);
	void *p = tlb_pointer(vcpu, linear, n->size, n->store ? ACCESS_WRITE : ACCESS_READ);

	b->store = false;
	return likely(p) ? p : operand_bounce(vcpu, n, linear, b);
}

/* ---- floating point with unmasked exceptions ---- */

#define MXCSR_PRE  0x07u /* IE, DE, ZE: detected before the operation; nothing else is reported */
#define MXCSR_UE   0x10u
#define MXCSR_FZ   0x8000u
#define MASK_SHIFT 7

/* Where the results of a trial run go. */
struct trial {
	_Alignas(32) u8 reg[32], rm[32];
};

/* VCVTPS2PH does not flush to zero: here its tiny results tell. */
#define VCVTPS2PH 0x1d

static bool half_denormal(const u8 *out, unsigned int size)
{
	for (unsigned int i = 0; i < (size ? size : 16u); i += 2)
		if (!(out[i + 1] & 0x7c) && ((out[i + 1] & 3) || out[i]))
			return true;
	return false;
}

/* Run once on copies with these control bits; the flags that come up. */
static u32 fp_trial(struct kvm_vcpu *vcpu, const struct native_insn *n, const void *reg,
		    const void *rm, void *vvvv, void *x4, u32 control)
{
	struct trial t = {.rm = {0}};
	u32 flags;

	memcpy(t.reg, reg, n->reg == GW || n->reg == MW ? 8 : 32);
	memcpy(t.rm, rm, n->size ? n->size : n->rm == GR || n->rm == MR ? 8 : 32);
	host_set_mxcsr((control & ~MXCSR_FLAGS) | MXCSR_MASKS);
	n->stub(t.reg, t.rm, vvvv, vcpu->ctl.gpr, x4);
	flags = host_mxcsr() & MXCSR_FLAGS;
	mxcsr_set(vcpu, vcpu->fpu.mxcsr);
	if (n->desc->map == 3 && n->desc->op == VCVTPS2PH && !(control & MXCSR_UE << MASK_SHIFT) &&
	    half_denormal(t.rm, n->size))
		flags |= MXCSR_UE;
	return flags;
}

/*
 * Raise #XM when the operation meets an unmasked exception. A tiny result is an underflow when that
 * is unmasked, be it exact or not; flush-to-zero (which applies to masked underflow only) makes the
 * host tell.
 */
static void fp_check(struct kvm_vcpu *vcpu, const struct native_insn *n, const void *reg,
		     const void *rm, void *vvvv, void *x4)
{
	u32 mxcsr = mxcsr_get(vcpu), unmasked = ~(mxcsr >> MASK_SHIFT) & MXCSR_FLAGS, flags;

	if (unmasked & MXCSR_UE)
		mxcsr &= ~MXCSR_FZ;
	flags = fp_trial(vcpu, n, reg, rm, vvvv, x4, mxcsr);
	if (unmasked & MXCSR_UE)
		flags |= fp_trial(vcpu, n, reg, rm, vvvv, x4, mxcsr | MXCSR_FZ) & MXCSR_UE;
	if (!(flags & unmasked))
		return;
	if (flags & unmasked & MXCSR_PRE)
		flags &= MXCSR_PRE;
	mxcsr_set(vcpu, vcpu->fpu.mxcsr | flags);
	raise_exception(vcpu, vcpu->ctl.cr4 & CR4_OSXMMEXCPT ? XM_VECTOR : UD_VECTOR);
}

/* ---- operations ---- */

static void mmx_written(struct kvm_vcpu *vcpu, const struct uop *u, const struct native_insn *n)
{
	static const u8 ones[2] = {0xff, 0xff};

	if (n->reg == MW || n->reg == MM)
		memcpy(vcpu->fpu.st[reg_num(u->reg) & 7] + 8, ones, 2);
	if ((n->rm == MW || n->rm == MM) && !u->mem)
		memcpy(vcpu->fpu.st[reg_num(u->rm) & 7] + 8, ones, 2);
}

static void check_all(struct kvm_vcpu *vcpu, const struct native_insn *n)
{
	if (n->vex)
		check_avx(vcpu);
	else if (n->sse)
		check_sse(vcpu);
	if (n->mmx)
		check_mmx(vcpu);
	if (n->host_mmx)
		x87_spill(&vcpu->fpu);
}

/* Everything: what the specialised ones below leave out. */
const struct uop *native_general(struct kvm_vcpu *vcpu, const struct uop *u)
{
	const struct native_insn *n = u->ptr;
	struct bounce b = {.store = false};
	void *reg, *rm, *vvvv = vec_ptr(vcpu, u->vreg), *x4 = vcpu->fpu.ymm[n->x4];
	u64 ret;

	vcpu->uop = u;
	check_all(vcpu, n);
	rm = u->mem ? operand_mem(vcpu, u, n, &b) : NULL;
	if (n->mmx)
		mmx_enter(&vcpu->fpu);
	reg = operand_ptr(vcpu, n->reg, u->reg);
	if (!u->mem)
		rm = operand_ptr(vcpu, n->rm, u->rm);
	if (n->fp && unlikely(~vcpu->fpu.mxcsr & MXCSR_MASKS))
		fp_check(vcpu, n, reg, rm, vvvv, x4);
	ret = n->stub(reg, rm, vvvv, vcpu->ctl.gpr, x4);
	if (unlikely(b.store))
		mem_write_bytes(vcpu, b.linear, b.data, n->size);
	if (n->flags_out)
		vcpu->aflags = (u16)ret;
	if (n->mmx)
		mmx_written(vcpu, u, n);
	return u + 1; /* locals whose address is taken: no sibling call */
}

void native_enter(struct kvm_vcpu *vcpu)
{
	mxcsr_set(vcpu, vcpu->fpu.mxcsr);
}

void native_leave(struct kvm_vcpu *vcpu)
{
	mxcsr_get(vcpu);
	host_set_mxcsr(MXCSR_DEFAULT);
	x87_spill(&vcpu->fpu);
}

/* ---- decoding ---- */

/* VEX.L, W and vvvv as the row wants them. */
static bool vex_ok(const struct kvm_vcpu *vcpu, const struct native_desc *d,
		   const struct insn *insn)
{
	bool w = insn->rex & 8, reads_vvvv;

	reads_vvvv = (d->flags & (N_NDD | N_MERGE)) || d->reg == VM || d->reg == VA;
	if (!reads_vvvv && insn->vvvv)
		return false;
	if ((d->flags & N_L0 && insn->vexl) || (d->flags & N_L1 && !insn->vexl))
		return false;
	if ((d->flags & N_W0 && w) || (d->flags & N_W1 && !w))
		return false;
	if (d->flags & N_W1_64 && w && (insn->mode & MODE_SIZE) != MODE_64)
		return false;
	if (d->vex == F_AVXI)
		return native_host_has(vcpu, insn->vexl ? F_AVX2 : F_AVX);
	return native_host_has(vcpu, F_AVX) && native_host_has(vcpu, d->vex);
}

static void form_fill(struct native_form *f, const struct insn *insn, const struct uop *u)
{
	u32 flags = f->desc->flags;
	bool gpr = f->desc->rm == GR || f->desc->rm == GW || f->desc->reg == GW || (flags & N_ESTR);

	f->l = f->vex && insn->vexl && !(flags & N_LIG);
	if (flags & N_WSEL)
		f->w = u->rexw && (u->mode64 || !gpr);
	else
		f->w = flags & N_W1;
	f->imm = flags & N_IMM ? (u8)u->imm : 0;
	if (flags & N_IS4) {
		f->x4 = f->imm >> 4 & (u->mode64 ? 15 : 7);
		f->imm = 0;
	}
}

static uop_fn *choose(const struct native_insn *n, const struct uop *u)
{
	uop_fn *fn = NULL;

	if (n->vex && !u->mode64)
		return native_general; /* for check_vex() */
	if (!u->mem)
		fn = n->operation[0];
	else if (u->amode == AM_BASE || u->amode == AM_INDEX)
		fn = n->operation[u->amode == AM_INDEX];
	return fn ? fn : native_general;
}

static int native_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	u8 map = insn->vex ? insn->map - MAP_VEX1 + 1 : insn->map;
	u8 pfx = insn->vex	       ? insn->vexpp
		 : insn->rep == REP_F3 ? 2
		 : insn->rep == REP_F2 ? 3
				       : insn->opsize;
	struct native_form f = {.vex = insn->vex, .mem = u->mem};
	const struct native_insn *n;

	f.desc = native_lookup(vcpu, map, pfx, insn->opcode, insn->modrm >> 3 & 7, f.vex, f.mem);
	if (!f.desc || insn->lock)
		return -EINVAL;
	if (f.vex ? !vex_ok(vcpu, f.desc, insn) : !native_host_has(vcpu, f.desc->leg))
		return -EINVAL;
	form_fill(&f, insn, u);
	n = native_get(vcpu, &f);
	if (!n)
		return -ENOMEM;
	u->ptr = (void *)(uintptr_t)n;
	u->fn = choose(n, u);
	if (vcpu->stat)
		vcpu->stat->native_stubs++;
	return 0;
}

const struct operation oper_native = {
	.name = "native",
	.any = native_general,
	.build = native_build,
};
