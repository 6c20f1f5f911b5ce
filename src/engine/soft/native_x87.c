/*
 * The x87 unit. Arithmetic is done by the host; what loads, stores or inspects the state as a whole
 * is done here. SDM vol. 1 chapter 8, vol. 2.
 *
 * 1. While all exceptions are masked, the state stays in the host's unit from one instruction to
 * the next (fpu.x87_live). Otherwise each goes between an FRSTOR and an FNSAVE of it. fcw is always
 *    true in memory.
 * 2. A pending unmasked exception raises #MF before a waiting instruction, so the host never
 * executes one with its summary bit set: there is no SIGFPE.
 * 3. The instruction and data pointers are kept here.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/flags.h"
#include "engine/soft/native_int.h"

/* FNSAVE's image, 32-bit protected mode. */
struct x87_env {
	u16 fcw, r0, fsw, r1, ftw, r2;
	u32 fip;
	u16 fcs, fop;
	u32 fdp;
	u16 fds, r3;
	u8 st[8][10];
} PACKED;

_Static_assert(sizeof(struct x87_env) == 108, "FNSAVE layout");

static unsigned int x87_top(const struct fpu_state *fpu)
{
	return (fpu->fsw >> 11) & 7;
}

/* st[] is in stack order: after TOP has changed from `old`, the physical registers stay. */
static void stack_rotate(struct fpu_state *f, unsigned int old)
{
	unsigned int by = (x87_top(f) - old) & 7;
	u8 st[8][16];

	if (!by)
		return;
	memcpy(st, f->st, sizeof(st));
	for (unsigned int i = 0; i < 8; i++)
		memcpy(f->st[i], st[(i + by) & 7], 16);
}

void x87_init(struct fpu_state *fpu)
{
	unsigned int top = x87_top(fpu);

	fpu->fcw = FCW_DEFAULT;
	fpu->fsw = 0;
	fpu->ftw = 0;
	fpu->fop = 0;
	fpu->fip = 0;
	fpu->fdp = 0;
	fpu->fcs = 0;
	fpu->fds = 0;
	stack_rotate(fpu, top);
}

static void check_available(struct kvm_vcpu *vcpu)
{
	if (vcpu->ctl.cr0 & (CR0_EM | CR0_TS))
		raise_exception(vcpu, NM_VECTOR);
}

/* An unmasked exception; ES may not say so in a state that the user has set. */
static bool x87_pending(const struct fpu_state *fpu)
{
	return !fpu->x87_live && (fpu->fsw & ~fpu->fcw & 0x3f);
}

void check_x87(struct kvm_vcpu *vcpu)
{
	check_available(vcpu);
	if (x87_pending(&vcpu->fpu))
		raise_exception(vcpu, MF_VECTOR);
}

void check_mmx(struct kvm_vcpu *vcpu)
{
	if (vcpu->ctl.cr0 & CR0_EM)
		raise_ud(vcpu);
	check_x87(vcpu);
	x87_spill(&vcpu->fpu);
}

void mmx_enter(struct fpu_state *fpu)
{
	unsigned int top = x87_top(fpu);

	fpu->fsw &= (u16)~0x3800;
	stack_rotate(fpu, top);
	fpu->ftw = 0xff;
}

/* ---- tag words ---- */

/* The two tag bits of a register that is not empty: 0 valid, 1 zero, 2 special. */
static unsigned int tag_of(const u8 st[10])
{
	u16 exponent;
	u64 mantissa;

	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (!exponent)
		return mantissa ? 2 : 1;
	return exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

static u16 tag_word(const struct fpu_state *fpu)
{
	u16 tags = 0;

	for (unsigned int r = 0; r < 8; r++) {
		unsigned int t = 3;

		if (fpu->ftw & 1u << r)
			t = tag_of(fpu->st[(r - x87_top(fpu)) & 7]);
		tags |= (u16)(t << (2 * r));
	}
	return tags;
}

static u8 tag_abridge(u16 tags)
{
	u8 ftw = 0;

	for (unsigned int r = 0; r < 8; r++)
		if ((tags >> (2 * r) & 3) != 3)
			ftw |= (u8)(1u << r);
	return ftw;
}

/* Each bit of ftw twice, inverted: what FRSTOR needs to know. */
static u16 tag_spread(u8 ftw)
{
	u32 x = (u8)~ftw;

	x = (x | x << 4) & 0x0f0f;
	x = (x | x << 2) & 0x3333;
	x = (x | x << 1) & 0x5555;
	return (u16)(x * 3);
}

/* ---- arithmetic ---- */

static void unit_load(const struct fpu_state *fpu)
{
	struct x87_env e = {.fcw = fpu->fcw, .fsw = fpu->fsw, .ftw = tag_spread(fpu->ftw)};

	for (int i = 0; i < 8; i++)
		memcpy(e.st[i], fpu->st[i], 10);
	__asm__ volatile("frstor %0" : : "m"(e));
}

/* FNSAVE also leaves the host's unit initialised. */
static void unit_store(struct fpu_state *fpu)
{
	struct x87_env e;

	__asm__ volatile("fnsave %0" : "=m"(e));
	fpu->fcw = e.fcw;
	fpu->fsw = e.fsw;
	fpu->ftw = tag_abridge(e.ftw);
	for (int i = 0; i < 8; i++)
		memcpy(fpu->st[i], e.st[i], 10);
}

void x87_store_live(struct fpu_state *fpu)
{
	unit_store(fpu);
	fpu->x87_live = false;
}

static bool all_masked(u16 fcw)
{
	return (fcw & 0x3f) == 0x3f;
}

/* check_x87() has been made. */
static void x87_run(struct kvm_vcpu *vcpu, const struct native_insn *n, void *mem)
{
	struct fpu_state *fpu = &vcpu->fpu;
	u64 flags;

	if (unlikely(!fpu->x87_live)) {
		unit_load(fpu);
		fpu->x87_live = true;
	}
	flags = n->x87(mem, vcpu->aflags);
	if (unlikely(!all_masked(fpu->fcw)))
		x87_store_live(fpu);
	if (n->flags_out)
		vcpu->aflags = (u16)flags;
}

static void set_pointers(struct kvm_vcpu *vcpu, const struct uop *u, const struct native_insn *n)
{
	vcpu->fpu.fip = uop_rip(vcpu, u);
	vcpu->fpu.fcs = vcpu->ctl.seg[SEG_CS].selector;
	vcpu->fpu.fop = n->fop | u->vreg;
}

static const struct uop *x87_reg(struct kvm_vcpu *vcpu, const struct uop *u)
{
	const struct native_insn *n = u->ptr;

	vcpu->uop = u;
	check_x87(vcpu);
	x87_run(vcpu, n, NULL);
	set_pointers(vcpu, u, n);
	return u + 1;
}

/* A store may be withheld (unmasked exception): then the operand is written back as it was. */
static const struct uop *x87_mem(struct kvm_vcpu *vcpu, const struct uop *u)
{
	const struct native_insn *n = u->ptr;
	enum access access = n->store ? ACCESS_WRITE : ACCESS_READ;
	_Alignas(16) u8 data[16];
	u64 linear;
	void *p;

	vcpu->uop = u;
	check_x87(vcpu);
	linear = uop_linear(vcpu, u, n->size, access);
	p = tlb_pointer(vcpu, linear, n->size, access);
	if (p) {
		x87_run(vcpu, n, p);
	} else {
		native_check_alignment(vcpu, linear, n->size);
		if (n->store)
			mem_probe_write(vcpu, linear, n->size);
		mem_read_bytes(vcpu, linear, data, n->size);
		x87_run(vcpu, n, data);
		if (n->store)
			mem_write_bytes(vcpu, linear, data, n->size);
	}
	set_pointers(vcpu, u, n);
	vcpu->fpu.fdp = uop_ea(vcpu, u);
	vcpu->fpu.fds = vcpu->ctl.seg[u->seg].selector;
	return u + 1;
}

/* Bytes of the memory operand by opcode and ModRM.reg; 0: no such instruction. State forms (FLDENV
 * and so on) have rows of their own. */
static const u8 x87_size[8][8] = {
	{4, 4, 4, 4, 4, 4, 4, 4},   {4, 0, 4, 4, 0, 0, 0, 0},	{4, 4, 4, 4, 4, 4, 4, 4},
	{4, 4, 4, 4, 0, 10, 0, 10}, {8, 8, 8, 8, 8, 8, 8, 8},	{8, 8, 8, 8, 0, 0, 0, 0},
	{2, 2, 2, 2, 2, 2, 2, 2},   {2, 2, 2, 2, 10, 8, 10, 8},
};
/* Which of them store, a bit a value of ModRM.reg. */
static const u8 x87_store[8] = {0, 0x0c, 0, 0x8e, 0, 0x0e, 0, 0xce};

/* Register forms: which exist. */
static bool x87_reg_exists(u8 esc, u8 modrm)
{
	switch (esc) {
	case 1: /* FNOP alone in D0-D7; E2 E3 E6 E7 EF */
		return !(modrm > 0xd0 && modrm < 0xd8) && modrm != 0xe2 && modrm != 0xe3 &&
		       modrm != 0xe6 && modrm != 0xe7 && modrm != 0xef;
	case 2:
		return modrm < 0xe0 || modrm == 0xe9;
	case 3: /* E0 to E7 have rows of their own */
		return modrm < 0xe0 || (modrm >= 0xe8 && modrm < 0xf8);
	case 5:
		return modrm < 0xf0;
	case 6:
		return modrm < 0xd8 || modrm == 0xd9 || modrm >= 0xe0;
	case 7:
		return modrm < 0xe0 || (modrm >= 0xe8 && modrm < 0xf8);
	default:
		return true;
	}
}

static int x87_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	u8 esc = insn->opcode & 7, digit = insn->modrm >> 3 & 7;
	struct native_insn *n;

	if (u->mem ? !x87_size[esc][digit] : !x87_reg_exists(esc, insn->modrm))
		return -EINVAL;
	n = native_get_x87(vcpu, insn->opcode, insn->modrm);
	if (!n)
		return -ENOMEM;
	n->size = u->mem ? x87_size[esc][digit] : 0;
	n->store = u->mem && (x87_store[esc] & 1u << digit);
	/* FUCOMI, FCOMI and their popping forms */
	n->flags_out = !u->mem && (esc == 3 || esc == 7) && insn->modrm >= 0xe8;
	n->fop = (u16)(esc << 8);
	u->vreg = insn->modrm; /* other forms of an address share n */
	u->ptr = n;
	u->fn = u->mem ? x87_mem : x87_reg;
	return 0;
}

const struct operation oper_x87 = {.name = "x87", .any = x87_reg, .build = x87_build};

OP(fwait)
{
	if ((vcpu->ctl.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		raise_exception(vcpu, NM_VECTOR);
	if (x87_pending(&vcpu->fpu))
		raise_exception(vcpu, MF_VECTOR);
}

/* ---- control ---- */

OP(fninit)
{
	check_available(vcpu);
	x87_spill(&vcpu->fpu);
	x87_init(&vcpu->fpu);
}

OP(fnclex)
{
	check_available(vcpu);
	x87_spill(&vcpu->fpu);
	vcpu->fpu.fsw &= 0x7f00;
}

/* FENI, FDISI, FSETPM of the 8087 and 287. */
OP(x87_nop)
{
	check_available(vcpu);
}

static u16 x87_status(const struct fpu_state *fpu)
{
	u16 fsw = fpu->fsw;

	if (fpu->x87_live)
		__asm__ volatile("fnstsw %0" : "=m"(fsw));
	return fsw;
}

OP(fnstsw_ax)
{
	check_available(vcpu);
	REG16(8 * RAX) = x87_status(&vcpu->fpu);
}

OP(fnstsw)
{
	check_available(vcpu);
	mem_write(vcpu, uop_linear(vcpu, u, 2, ACCESS_WRITE), 2, x87_status(&vcpu->fpu));
}

OP(fnstcw)
{
	check_available(vcpu);
	mem_write(vcpu, uop_linear(vcpu, u, 2, ACCESS_WRITE), 2, vcpu->fpu.fcw);
}

OP(fldcw)
{
	struct fpu_state *fpu = &vcpu->fpu;
	u16 fcw;

	check_x87(vcpu);
	fcw = x87_fcw((u16)mem_read(vcpu, uop_linear(vcpu, u, 2, ACCESS_READ), 2));
	if (fpu->x87_live && all_masked(fcw))
		__asm__ volatile("fldcw %0" : : "m"(fcw));
	else
		x87_spill(fpu);
	fpu->fcw = fcw;
	if (!fpu->x87_live)
		x87_update_summary(fpu);
}

/* ---- the environment, in its four formats: SDM vol. 1, figures 8-9 to 8-12 ---- */

static bool env_is_real(const struct kvm_vcpu *vcpu)
{
	return !is_protected(vcpu) || is_v86(vcpu);
}

static unsigned int env_size(const struct uop *u)
{
	return u->osize == SIZE_16 ? 14 : 28;
}

static u64 env_linear(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size,
		      enum access access)
{
	u64 linear = uop_linear(vcpu, u, size, access);

	native_check_alignment(vcpu, linear, u->osize == SIZE_16 ? 2 : 4);
	return linear;
}

static void env_store(const struct kvm_vcpu *vcpu, const struct uop *u, u8 *buf)
{
	const struct fpu_state *f = &vcpu->fpu;
	u32 w[7] = {f->fcw, f->fsw, tag_word(f), (u32)f->fip, f->fcs, (u32)f->fdp, f->fds};
	bool real = env_is_real(vcpu), wide = u->osize != SIZE_16;

	if (real) {
		w[4] = f->fop | (u32)(f->fip >> 16) << 12;
		w[6] = (u32)(f->fdp >> 16) << 12;
	} else if (wide) {
		w[4] |= (u32)f->fop << 16;
		w[6] |= 0xffff0000u;
	}
	for (int i = 0; i < 7; i++) {
		if (wide && i < 3)
			w[i] |= 0xffff0000u;
		if (wide && real && (i == 3 || i == 5))
			w[i] |= 0xffff0000u;
		memcpy(buf + (wide ? 4 : 2) * i, &w[i], wide ? 4 : 2);
	}
}

/* All but st[]. */
static void env_load(struct kvm_vcpu *vcpu, const struct uop *u, const u8 *buf)
{
	struct fpu_state *f = &vcpu->fpu;
	u32 w[7] = {0};
	unsigned int width = u->osize == SIZE_16 ? 2 : 4;

	for (unsigned int i = 0; i < 7; i++)
		memcpy(&w[i], buf + width * i, width);
	f->fcw = x87_fcw((u16)w[0]);
	f->fsw = (u16)w[1];
	f->ftw = tag_abridge((u16)w[2]);
	f->fip = w[3];
	f->fdp = w[5];
	f->fcs = (u16)w[4];
	f->fds = (u16)w[6];
	f->fop = (width == 4 ? w[4] >> 16 : 0) & 0x7ff;
	if (env_is_real(vcpu)) {
		f->fip = (w[3] & 0xffff) | (w[4] & (width == 4 ? 0x0ffff000 : 0xf000)) << 4;
		f->fdp = (w[5] & 0xffff) | (w[6] & (width == 4 ? 0x0ffff000 : 0xf000)) << 4;
		f->fop = w[4] & 0x7ff;
		f->fcs = f->fds = 0;
	}
	x87_update_summary(f);
}

OP(fnstenv)
{
	u8 buf[28];

	check_available(vcpu);
	x87_spill(&vcpu->fpu);
	env_store(vcpu, u, buf);
	mem_write_bytes(vcpu, env_linear(vcpu, u, env_size(u), ACCESS_WRITE), buf, env_size(u));
	vcpu->fpu.fcw |= 0x3f;
	x87_update_summary(&vcpu->fpu);
}

OP(fldenv)
{
	unsigned int top;
	u8 buf[28];

	check_x87(vcpu);
	x87_spill(&vcpu->fpu);
	top = x87_top(&vcpu->fpu);
	mem_read_bytes(vcpu, env_linear(vcpu, u, env_size(u), ACCESS_READ), buf, env_size(u));
	env_load(vcpu, u, buf);
	stack_rotate(&vcpu->fpu, top);
}

OP(fnsave)
{
	unsigned int size = env_size(u);
	u8 buf[28 + 80];

	check_available(vcpu);
	x87_spill(&vcpu->fpu);
	env_store(vcpu, u, buf);
	for (unsigned int i = 0; i < 8; i++)
		memcpy(buf + size + 10 * i, vcpu->fpu.st[i], 10);
	mem_write_bytes(vcpu, env_linear(vcpu, u, size + 80, ACCESS_WRITE), buf, size + 80);
	x87_init(&vcpu->fpu);
}

OP(frstor)
{
	unsigned int size = env_size(u);
	u8 buf[28 + 80];

	check_x87(vcpu);
	x87_spill(&vcpu->fpu);
	mem_read_bytes(vcpu, env_linear(vcpu, u, size + 80, ACCESS_READ), buf, size + 80);
	env_load(vcpu, u, buf);
	for (unsigned int i = 0; i < 8; i++)
		memcpy(vcpu->fpu.st[i], buf + size + 10 * i, 10);
}
