/*
 * The extended state as a whole: FXSAVE, XSAVE and their kin, MXCSR, EMMS, VZEROALL.
 *
 * Layouts: SDM vol. 1, 10.5.1 (FXSAVE) and 13.4 (XSAVE); AMD APM vol. 2, 11.5. Only the standard
 * format exists: XSAVEC and XSAVES are not announced. Everything is read and checked, or known to
 * be writable, before anything changes.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/native_int.h"

#define FX_SIZE	      512
#define FX_ST	      32
#define FX_XMM	      160
#define XS_HEADER     512
#define XS_AVX	      576
#define XS_COMPONENTS (XCR0_X87 | XCR0_SSE | XCR0_AVX)

struct fx_head {
	u16 fcw, fsw;
	u8 ftw, zero;
	u16 fop;
	u64 fip, fdp;
	u32 mxcsr, mxcsr_mask;
};

_Static_assert(sizeof(struct fx_head) == FX_ST, "FXSAVE layout");

/* ---- parts of an area in `buf` ---- */

static void put_x87(const struct fpu_state *fpu, u8 *buf, bool wide)
{
	struct fx_head *h = (void *)buf;

	h->fcw = fpu->fcw;
	h->fsw = fpu->fsw;
	h->ftw = fpu->ftw;
	h->zero = 0;
	h->fop = fpu->fop;
	h->fip = wide ? fpu->fip : (u32)fpu->fip | (u64)fpu->fcs << 32;
	h->fdp = wide ? fpu->fdp : (u32)fpu->fdp | (u64)fpu->fds << 32;
	memcpy(buf + FX_ST, fpu->st, sizeof(fpu->st));
}

/* FCW as it can be loaded, and FSW with the summary bits it then has. */
static void load_x87_control(struct fpu_state *fpu, u16 fcw, u16 fsw)
{
	fpu->fcw = x87_fcw(fcw);
	fpu->fsw = fsw;
	x87_update_summary(fpu);
}

static void get_x87(struct fpu_state *fpu, const u8 *buf, bool wide)
{
	const struct fx_head *h = (const void *)buf;

	load_x87_control(fpu, h->fcw, h->fsw);
	fpu->ftw = h->ftw;
	fpu->fop = h->fop & 0x7ff;
	fpu->fip = wide ? h->fip : (u32)h->fip;
	fpu->fdp = wide ? h->fdp : (u32)h->fdp;
	fpu->fcs = wide ? 0 : (u16)(h->fip >> 32);
	fpu->fds = wide ? 0 : (u16)(h->fdp >> 32);
	memcpy(fpu->st, buf + FX_ST, sizeof(fpu->st));
	for (int i = 0; i < 8; i++)
		memset(fpu->st[i] + 10, 0, 6);
}

static void init_x87(struct fpu_state *fpu)
{
	x87_init(fpu);
	memset(fpu->st, 0, sizeof(fpu->st));
}

static void put_xmm(const struct fpu_state *fpu, u8 *area, unsigned int regs)
{
	for (unsigned int i = 0; i < regs; i++)
		memcpy(area + 16 * i, fpu->ymm[i], 16);
}

static void get_xmm(struct fpu_state *fpu, const u8 *area, unsigned int regs)
{
	for (unsigned int i = 0; i < regs; i++)
		memcpy(fpu->ymm[i], area + 16 * i, 16);
}

static void put_ymm_high(const struct fpu_state *fpu, u8 *area, unsigned int regs)
{
	for (unsigned int i = 0; i < regs; i++)
		memcpy(area + 16 * i, fpu->ymm[i] + 16, 16);
}

static void get_ymm_high(struct fpu_state *fpu, const u8 *area, unsigned int regs)
{
	for (unsigned int i = 0; i < regs; i++)
		memcpy(fpu->ymm[i] + 16, area + 16 * i, 16);
}

static bool all_zero(const u8 *p, unsigned int len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

u64 native_state_in_use(const struct fpu_state *fpu)
{
	u64 in_use = 0;
	u8 low = 0, high = 0;

	for (int i = 0; i < 16; i++) {
		low |= !all_zero(fpu->ymm[i], 16);
		high |= !all_zero(fpu->ymm[i] + 16, 16);
	}
	if (fpu->x87_live || fpu->fcw != FCW_DEFAULT || fpu->fsw || fpu->ftw || fpu->fop ||
	    fpu->fip || fpu->fdp || !all_zero(fpu->st[0], sizeof(fpu->st)))
		in_use |= XCR0_X87;
	return in_use | (low ? XCR0_SSE : 0) | (high ? XCR0_AVX : 0);
}

static unsigned int reg_count(const struct uop *u)
{
	return u->mode64 ? 16 : 8;
}

/* ---- FXSAVE, FXRSTOR ---- */

static void check_fx(struct kvm_vcpu *vcpu)
{
	if (vcpu->ctl.cr0 & (CR0_EM | CR0_TS))
		raise_exception(vcpu, NM_VECTOR);
	x87_spill(&vcpu->fpu);
}

/* #GP. Of FXSAVE and FXRSTOR, EFLAGS.AC and a stack segment's #SS (which 64-bit mode has not looked
 * for yet) come first. */
static _Noreturn void area_misaligned(struct kvm_vcpu *vcpu, const struct uop *u, u64 linear,
				      unsigned int size, unsigned int align)
{
	if (align == 16) {
		mem_check_alignment(vcpu, linear, align);
		if (u->mode64)
			seg_linear(vcpu, u->seg, uop_ea(vcpu, u), size, ACCESS_READ);
	}
	raise_gp(vcpu, 0);
}

static u64 area_linear(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size,
		       unsigned int align, enum access access)
{
	u64 base = u->mode64 && u->seg < SEG_FS ? 0 : vcpu->ctl.seg[u->seg].base;
	u64 linear = base + uop_ea(vcpu, u);

	if (linear & (align - 1))
		area_misaligned(vcpu, u, linear, size, align);
	return uop_linear(vcpu, u, size, access);
}

OP(fxsave)
{
	_Alignas(16) u8 buf[FX_SIZE];
	struct fx_head *h = (void *)buf;
	unsigned int regs = reg_count(u), xmm_bytes = 16 * regs;
	u64 linear;

	check_fx(vcpu);
	linear = area_linear(vcpu, u, FX_SIZE, 16, ACCESS_WRITE);
	put_x87(&vcpu->fpu, buf, u->rexw);
	h->mxcsr = mxcsr_get(vcpu);
	h->mxcsr_mask = MXCSR_VALID;
	put_xmm(&vcpu->fpu, buf + FX_XMM, regs);
	mem_probe_write(vcpu, linear, FX_SIZE);
	if (!(vcpu->ctl.cr4 & CR4_OSFXSR))
		xmm_bytes = 0;
	mem_write_bytes(vcpu, linear, buf, FX_XMM + xmm_bytes);
}

OP(fxrstor)
{
	_Alignas(16) u8 buf[FX_SIZE];
	const struct fx_head *h = (const void *)buf;
	u64 linear;

	check_fx(vcpu);
	linear = area_linear(vcpu, u, FX_SIZE, 16, ACCESS_READ);
	mem_read_bytes(vcpu, linear, buf, FX_SIZE);
	if (vcpu->ctl.cr4 & CR4_OSFXSR) {
		if (h->mxcsr & ~MXCSR_VALID)
			raise_gp(vcpu, 0);
		mxcsr_set(vcpu, h->mxcsr);
		get_xmm(&vcpu->fpu, buf + FX_XMM, reg_count(u));
	}
	get_x87(&vcpu->fpu, buf, u->rexw);
}

/* ---- XSAVE, XSAVEOPT, XRSTOR: SDM vol. 1, 13.7 to 13.9 ---- */

static void check_xsave(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->ctl.cr4 & CR4_OSXSAVE))
		raise_ud(vcpu);
	if (vcpu->ctl.cr0 & CR0_TS)
		raise_exception(vcpu, NM_VECTOR);
	x87_spill(&vcpu->fpu);
}

static u64 requested(const struct kvm_vcpu *vcpu)
{
	return ((vcpu->ctl.gpr[RDX] << 32) | (u32)vcpu->ctl.gpr[RAX]) & vcpu->ctl.xcr0;
}

static unsigned int xsave_size(u64 components)
{
	return components & XCR0_AVX ? NATIVE_XSAVE_SIZE : XS_AVX;
}

static void xsave_write(struct kvm_vcpu *vcpu, const struct uop *u, u64 linear, u64 which,
			u64 request)
{
	_Alignas(16) u8 buf[16 * 16];
	unsigned int regs = reg_count(u);
	struct fx_head *h = (void *)buf;

	if (which & XCR0_X87) {
		put_x87(&vcpu->fpu, buf, u->rexw);
		mem_write_bytes(vcpu, linear, buf, offsetof(struct fx_head, mxcsr));
		mem_write_bytes(vcpu, linear + FX_ST, buf + FX_ST, FX_XMM - FX_ST);
	}
	if (request & (XCR0_SSE | XCR0_AVX)) {
		h->mxcsr = mxcsr_get(vcpu);
		h->mxcsr_mask = MXCSR_VALID;
		mem_write_bytes(vcpu, linear + offsetof(struct fx_head, mxcsr), &h->mxcsr, 8);
	}
	if (which & XCR0_SSE) {
		put_xmm(&vcpu->fpu, buf, regs);
		mem_write_bytes(vcpu, linear + FX_XMM, buf, 16 * regs);
	}
	if (which & XCR0_AVX) {
		put_ymm_high(&vcpu->fpu, buf, regs);
		mem_write_bytes(vcpu, linear + XS_AVX, buf, 16 * regs);
	}
}

static void xsave_any(struct kvm_vcpu *vcpu, const struct uop *u, bool skip_initial)
{
	u64 request, in_use, linear, old;

	check_xsave(vcpu);
	request = requested(vcpu);
	linear = area_linear(vcpu, u, xsave_size(request), 64, ACCESS_WRITE);
	mem_probe_write(vcpu, linear, xsave_size(request));
	old = mem_read(vcpu, linear + XS_HEADER, 8);
	in_use = native_state_in_use(&vcpu->fpu) & request;
	xsave_write(vcpu, u, linear, skip_initial ? in_use : request, request);
	mem_write(vcpu, linear + XS_HEADER, 8, (old & ~request) | in_use);
}

OP(xsave)
{
	xsave_any(vcpu, u, false);
}

OP(xsaveopt)
{
	xsave_any(vcpu, u, true);
}

/* Load components of an area that has been checked. */
static void xrstor_load(struct fpu_state *fpu, const u8 *buf, u64 request, unsigned int regs,
			bool wide)
{
	const struct fx_head *h = (const void *)buf;
	u64 present;

	memcpy(&present, buf + XS_HEADER, 8);
	if (request & XCR0_X87) {
		if (present & XCR0_X87)
			get_x87(fpu, buf, wide);
		else
			init_x87(fpu);
	}
	if (request & (XCR0_SSE | XCR0_AVX))
		fpu->mxcsr = h->mxcsr;
	if (request & XCR0_SSE) {
		if (present & XCR0_SSE)
			get_xmm(fpu, buf + FX_XMM, regs);
		else
			for (unsigned int i = 0; i < regs; i++)
				memset(fpu->ymm[i], 0, 16);
	}
	if (request & XCR0_AVX) {
		if (present & XCR0_AVX)
			get_ymm_high(fpu, buf + XS_AVX, regs);
		else
			for (unsigned int i = 0; i < regs; i++)
				memset(fpu->ymm[i] + 16, 0, 16);
	}
}

/* What XRSTOR refuses with #GP. */
static bool xrstor_area_bad(const u8 *buf, u64 request, u64 xcr0)
{
	const struct fx_head *h = (const void *)buf;
	u64 present;

	memcpy(&present, buf + XS_HEADER, 8);
	if ((present & ~xcr0) || !all_zero(buf + XS_HEADER + 8, 16))
		return true;
	return (request & (XCR0_SSE | XCR0_AVX)) && (h->mxcsr & ~MXCSR_VALID);
}

OP(xrstor)
{
	_Alignas(16) u8 buf[NATIVE_XSAVE_SIZE];
	u64 request, linear;

	check_xsave(vcpu);
	request = requested(vcpu);
	linear = area_linear(vcpu, u, xsave_size(request), 64, ACCESS_READ);
	mxcsr_get(vcpu);
	memset(buf + XS_AVX, 0, sizeof(buf) - XS_AVX);
	mem_read_bytes(vcpu, linear, buf, xsave_size(request));
	if (xrstor_area_bad(buf, request, vcpu->ctl.xcr0))
		raise_gp(vcpu, 0);
	xrstor_load(&vcpu->fpu, buf, request, reg_count(u), u->rexw);
	host_set_mxcsr(vcpu->fpu.mxcsr | MXCSR_MASKS);
}

void native_get_xsave(const struct fpu_state *fpu, void *buf)
{
	struct fx_head *h = buf;
	u64 in_use = native_state_in_use(fpu);

	memset(buf, 0, NATIVE_XSAVE_SIZE);
	put_x87(fpu, buf, true);
	h->mxcsr = fpu->mxcsr;
	h->mxcsr_mask = MXCSR_VALID;
	put_xmm(fpu, (u8 *)buf + FX_XMM, 16);
	put_ymm_high(fpu, (u8 *)buf + XS_AVX, 16);
	memcpy((u8 *)buf + XS_HEADER, &in_use, 8);
}

int native_set_xsave(struct fpu_state *fpu, const void *buf)
{
	if (xrstor_area_bad(buf, XS_COMPONENTS, XS_COMPONENTS))
		return -EINVAL;
	xrstor_load(fpu, buf, XS_COMPONENTS, 16, true);
	return 0;
}

/* ---- the rest ---- */

OP(ldmxcsr)
{
	u32 value;

	check_sse(vcpu);
	value = (u32)mem_read(vcpu, uop_linear(vcpu, u, 4, ACCESS_READ), 4);
	if (value & ~MXCSR_VALID)
		raise_gp(vcpu, 0);
	mxcsr_set(vcpu, value);
}

OP(stmxcsr)
{
	check_sse(vcpu);
	mem_write(vcpu, uop_linear(vcpu, u, 4, ACCESS_WRITE), 4, mxcsr_get(vcpu));
}

OP(vldmxcsr)
{
	u32 value;

	check_avx(vcpu);
	value = (u32)mem_read(vcpu, uop_linear(vcpu, u, 4, ACCESS_READ), 4);
	if (value & ~MXCSR_VALID)
		raise_gp(vcpu, 0);
	mxcsr_set(vcpu, value);
}

OP(vstmxcsr)
{
	check_avx(vcpu);
	mem_write(vcpu, uop_linear(vcpu, u, 4, ACCESS_WRITE), 4, mxcsr_get(vcpu));
}

typedef u64 half_vector __attribute__((vector_size(16)));

static inline void clear_half(u8 *p)
{
	*(half_vector *)p = (half_vector){0, 0};
}

/* VZEROUPPER, and VZEROALL by L; outside 64-bit mode only what it can see. */
OP(vzero)
{
	u8 *end = vcpu->fpu.ymm[u->mode64 ? 16 : 8];

	check_avx(vcpu);
	for (u8 *p = vcpu->fpu.ymm[0]; p < end; p += 32) {
		clear_half(p + 16);
		if (u->vexl)
			clear_half(p);
	}
}

OP(emms)
{
	check_mmx(vcpu);
	mmx_enter(&vcpu->fpu);
	vcpu->fpu.ftw = 0;
}

void native_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	struct fpu_state *fpu = &vcpu->fpu;

	if (init_event)
		return;
	memset(fpu, 0, sizeof(*fpu));
	fpu->fcw = 0x40;
	fpu->ftw = 0xff;
	fpu->mxcsr = MXCSR_DEFAULT;
}
