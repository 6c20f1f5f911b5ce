/* The native executor from inside: stubs and the checks shared by its files. */
#ifndef NATIVE_INT_H
#define NATIVE_INT_H

#include "engine/soft/native.h"
#include "engine/soft/native_tab.h"
#include "engine/soft/uop.h"

#define CR0_MP	       (1u << 1)
#define CR0_EM	       (1u << 2)
#define CR0_TS	       (1u << 3)
#define CR0_NE	       (1u << 5)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_OSXSAVE    (1u << 18)
#define XCR0_X87       1u
#define XCR0_SSE       2u
#define XCR0_AVX       4u

#define MXCSR_FLAGS   0x3fu
#define MXCSR_MASKS   0x1f80u
#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_VALID   0xffffu
#define FCW_DEFAULT   0x37fu

/*
 * reg, rm, vvvv: where these operands are; rm of a memory operand is a host pointer. x4: XMM0 or
 * the register of an is4 byte. Returns aflags (flags.h) where the instruction writes flags.
 */
typedef u64 native_stub(void *reg, void *rm, void *vvvv, u64 *gpr, void *x4);

/* An x87 instruction on the host's unit; aflags in and out. */
typedef u64 native_x87_stub(void *mem, u64 aflags);

/* One form of one instruction. */
struct native_insn {
	union {
		native_stub *stub;
		native_x87_stub *x87;
	};
	/* the whole operation for 64-bit code with AM_BASE and with AM_INDEX addresses (registers:
	 * the first), or NULL */
	uop_fn *operation[2];
	const struct native_desc *desc;
	u32 key;    /* see native_emit.c */
	u8 size;    /* of the memory operand, bytes; 0: register form */
	u8 align;   /* mask of address bits that must be 0 */
	u8 x4;	    /* register number */
	u16 fop;    /* x87: all but ModRM, which is in the uop's vreg */
	u8 reg, rm; /* enum native_operand in this form */
	bool vex, store, fp, mmx, sse, flags_out;
	bool host_mmx; /* clobbers the x87 unit, if only by its EMMS */
};

struct native_form {
	const struct native_desc *desc;
	bool vex, l, w, mem;
	u8 imm, x4;
};

/* Find or make. NULL when there was no room: every stub of the vCPU is gone (build() returns
 * -ENOMEM, and all blocks go too). */
const struct native_insn *native_get(struct kvm_vcpu *vcpu, const struct native_form *form);
/* The form of a uop whose function was emitted for it (native_emit.h): true; else false. */
bool native_form_of(const struct kvm_vcpu *vcpu, const struct uop *u, struct native_form *f);
/* The same for an x87 instruction D8 + esc; modrm as in the instruction (registers) or with any mod
 * below 3 (memory). */
struct native_insn *native_get_x87(struct kvm_vcpu *vcpu, u8 opcode, u8 modrm);

/* The operation that does every form, and what the others leave. */
uop_fn native_general;

/* The row of an instruction, or NULL. digit is ModRM.reg. */
const struct native_desc *native_lookup(const struct kvm_vcpu *vcpu, u8 map, u8 pfx, u8 op,
					u8 digit, bool vex, bool mem);
bool native_host_has(const struct kvm_vcpu *vcpu, enum native_feature f);

/* ---- checks before an instruction ---- */

_Noreturn void native_denied_sse(struct kvm_vcpu *vcpu);
_Noreturn void native_denied_avx(struct kvm_vcpu *vcpu);

/* EFLAGS.AC, for an operand that is not used in place: #AC. */
void native_check_alignment(struct kvm_vcpu *vcpu, u64 linear, unsigned int size);

static inline void check_sse(struct kvm_vcpu *vcpu)
{
	if (unlikely((vcpu->ctl.cr0 & (CR0_EM | CR0_TS)) | (~vcpu->ctl.cr4 & CR4_OSFXSR)))
		native_denied_sse(vcpu);
}

/* VEX prefixes exist in protected mode only. The decoder cannot tell 16-bit code of either kind. */
static inline void check_vex(struct kvm_vcpu *vcpu)
{
	if (unlikely(!is_protected(vcpu) || is_v86(vcpu)))
		raise_ud(vcpu);
}

static inline void check_avx(struct kvm_vcpu *vcpu)
{
	check_vex(vcpu);
	if (unlikely((vcpu->ctl.cr0 & CR0_TS) | (~vcpu->ctl.cr4 & CR4_OSXSAVE) |
		     (~vcpu->ctl.xcr0 & (XCR0_SSE | XCR0_AVX))))
		native_denied_avx(vcpu);
}

/* Waiting x87 instructions and MMX: #NM, and #MF for a pending exception. */
void check_x87(struct kvm_vcpu *vcpu);
void check_mmx(struct kvm_vcpu *vcpu);
/* Make st[i] physical register i and all of them valid, as every MMX instruction does. */
void mmx_enter(struct fpu_state *fpu);

/* ---- MXCSR: see native.h ---- */

static inline u32 host_mxcsr(void)
{
	u32 value;

	__asm__ volatile("stmxcsr %0" : "=m"(value));
	return value;
}

static inline void host_set_mxcsr(u32 value)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(value));
}

/* fpu.mxcsr with the flags that have come up since. */
static inline u32 mxcsr_get(struct kvm_vcpu *vcpu)
{
	return vcpu->fpu.mxcsr |= host_mxcsr() & MXCSR_FLAGS;
}

static inline void mxcsr_set(struct kvm_vcpu *vcpu, u32 value)
{
	vcpu->fpu.mxcsr = value;
	host_set_mxcsr(value | MXCSR_MASKS);
}

/* ---- x87 (native_x87.c) ---- */

/* Bring the registers back from the host's unit, which is left initialised. */
void x87_store_live(struct fpu_state *fpu);

static inline void x87_spill(struct fpu_state *fpu)
{
	if (unlikely(fpu->x87_live))
		x87_store_live(fpu);
}

/* FNINIT. */
void x87_init(struct fpu_state *fpu);

/* A control word as the unit holds it. */
static inline u16 x87_fcw(u16 value)
{
	return (value & 0x1f3f) | 0x40;
}

/* ES and B follow from the flags and masks. */
static inline void x87_update_summary(struct fpu_state *fpu)
{
	fpu->fsw &= 0x7f7f;
	if (fpu->fsw & ~fpu->fcw & 0x3f)
		fpu->fsw |= 0x8080;
}

static inline void *vec_ptr(struct kvm_vcpu *vcpu, u8 field)
{
	return (u8 *)vcpu->fpu.ymm + 4 * field;
}

#endif
