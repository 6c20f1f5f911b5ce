/*
 * Decoded operations: what decode.c makes of an instruction, what the operations (ops_*.c,
 *native*.c) execute, and how both are registered.
 *
 * A block is an array of struct uop, one an instruction (a compare and the branch after it may
 *share one), closed by the uop that leaves it. While a block runs, ctl.rip is the address of the
 *block's first instruction; uop_rip() is that of the present one. The run loop makes ctl.rip true
 *whenever an operation raises or leaves.
 *
 * An operation is written with one of three macros. The body sees `vcpu` and `u`:
 *
 *	OP(sldt) { ... }		next instruction follows
 *	OP_END(lidt) { ... }		the block ends; execution goes on at the next instruction.
 *For whatever changes mode, mapping, or what interrupts depend on OP_BRANCH(sysret) { ... return
 *new_rip; } the block ends; execution goes on at new_rip, which the body has checked (and has
 *masked to the operand size)
 *
 * Each defines `const struct operation oper_NAME`, to which rows of opcodes name it. Until a body
 * commits, it has changed nothing (cpu_int.h). An operation that makes an interrupt deliverable
 * (IF, TPR, NMI unmasked) or sets a shadow ends the block, and sets vcpu->events where the loop
 *must look; one that changes mode bits (CS, SS, CR0, EFER, RFLAGS.VM) calls cpu_update_mode().
 *
 * Rows are in opcodes.def (integer), ops_sys.def (system) and native.def, all in one format:
 *
 *	OPCODE(map, first, last, prefixes, modrm, format, operation, attributes)
 *
 *	map		MAP_1, MAP_0F, MAP_0F38, MAP_0F3A; MAP_VEX1..3 for VEX-coded ones
 *	first, last	opcode bytes, a range
 *	prefixes	P_ANY, or a union of P_NONE, P_66, P_F3, P_F2: which mandatory prefixes this
 *row is for (F2 and F3 win over 66). P_ANY: they keep their ordinary meaning
 *	modrm		ANY; EXT(n): ModRM.reg is n; EXACT(byte): ModRM is byte
 *	format		operands and immediates (enum format); the length follows from it
 *	operation	NAME of the operation
 *	attributes	union of A_*; a row whose attributes do not hold does not match
 *
 * The first row that matches in all of these wins. What matches no row is #UD.
 */
#ifndef SOFT_UOP_H
#define SOFT_UOP_H

#include "engine/soft/cpu_int.h"

struct uop;
struct insn;

/* Executes u, and returns the uop that comes next, or NULL to leave the chain (ctl.rip is true
 * then). Hot operations call the next one themselves, in tail position (uop_next). */
typedef const struct uop *uop_fn(struct kvm_vcpu *vcpu, const struct uop *u);

/* How the effective address is made. */
enum amode {
	AM_BASE,  /* 64-bit mode, no segment base: base + disp */
	AM_INDEX, /* likewise: base + (index << scale) + disp */
	AM_SEG,	  /* 64-bit mode, FS or GS: its base added */
	AM_FULL,  /* anything else: wrapped to the address size, segment base and limit */
};

#define SIZE_8	0
#define SIZE_16 1
#define SIZE_32 2
#define SIZE_64 3

enum { REP_NONE, REP_F3, REP_F2 };

/*
 * Register fields are byte offsets from the vCPU: 8 * n for register n of the encoding with REX or
 * VEX bits (gpr[] is the vCPU's first member), and 8 * (n - 4) + 1 for AH to BH; reg_num() gives
 * the number back. reg, rm and vreg of other files (XMM, CR, DR, Sreg) are 8 * n too.
 */
struct uop {
	uop_fn *fn;
	union {
		u64 imm;   /* sign-extended as the instruction says; FAR: offset | selector << 32;
			      ENTER: size | level << 32; MOFFS: the address */
		void *ptr; /* what an operation's build() left */
	};
	s32 disp;
	u16 off;       /* of the instruction, from the start of the block */
	u8 nr;	       /* instructions of the block before this one */
	u8 len;	       /* of the instruction, in bytes (both, of a fused pair) */
	u8 reg;	       /* ModRM.reg, or the register in the opcode */
	u8 rm;	       /* ModRM.rm when mod is 3 */
	u8 base;       /* UOP_ZERO: none; UOP_RIP: the block's start (disp is adjusted) */
	u8 index;      /* UOP_ZERO: none */
	u8 vreg;       /* VEX.vvvv; condition code of jcc, setcc, cmovcc */
	u8 scale;      /* shift count of index */
	u16 amode : 2; /* enum amode */
	u16 seg : 3;   /* SEG_*, override applied */
	u16 osize : 2; /* SIZE_*: operand size (of byte forms SIZE_8) */
	u16 asize : 2; /* SIZE_*: address size */
	u16 rep : 2;   /* REP_* */
	u16 lock : 1;
	u16 mem : 1; /* ModRM names memory */
	u16 vexl : 1;
	u16 rexw : 1; /* REX.W or VEX.W */
	u16 mode64 : 1;
};

#define UOP_RIP	  (offsetof(struct vcpu_control, rip))
#define UOP_ZERO  (offsetof(struct vcpu_control, zero))
#define UOP_MOFFS 0x80
#define UOP_FLAT  0x40

/* ---- execution modes: what decoded code depends on; vcpu->mode ---- */
enum {
	MODE_16 = 0, /* code size, bits 0 and 1 */
	MODE_32 = 1,
	MODE_64 = 2,
	MODE_SIZE = 3,
	MODE_STACK32 = 1 << 2, /* SS.B; outside 64-bit mode */
	MODE_FLAT = 1 << 3,    /* 32-bit: CS, DS, ES, SS are 4 GiB from 0, writable */
	MODE_ONE = 1 << 4,     /* blocks of one instruction: after STI, MOV SS; stepping */
};

/* CS, SS, EFER or a data segment changed: recompute vcpu->mode (and the TLB class). The present
 * operation must end its block. */
void cpu_update_mode(struct kvm_vcpu *vcpu);

/* ---- access to the operands of a uop ---- */

static inline unsigned int reg_num(u8 field)
{
	return field >> 3;
}

/* By field of the uop. The narrow writes leave the rest, the 32-bit ones clear it. */
#define REG8(field)  (*(u8 *)((char *)vcpu + (field)))
#define REG16(field) (*(u16 *)((char *)vcpu + (field)))
#define REG32(field) (*(u32 *)((char *)vcpu + (field)))
#define REG64(field) (*(u64 *)((char *)vcpu + (field)))

static inline u64 reg_read(const struct kvm_vcpu *vcpu, u8 field, unsigned int osize)
{
	switch (osize) {
	case SIZE_8:
		return REG8(field);
	case SIZE_16:
		return REG16(field);
	case SIZE_32:
		return REG32(field);
	default:
		return REG64(field);
	}
}

static inline void reg_write(struct kvm_vcpu *vcpu, u8 field, unsigned int osize, u64 value)
{
	switch (osize) {
	case SIZE_8:
		REG8(field) = (u8)value;
		break;
	case SIZE_16:
		REG16(field) = (u16)value;
		break;
	case SIZE_32:
		REG64(field) = (u32)value;
		break;
	default:
		REG64(field) = value;
		break;
	}
}

static inline u64 size_mask(unsigned int osize)
{
	return ~0ULL >> (64 - (8u << osize));
}

/* Address of the present and of the next instruction, wrapped as the mode wraps. */
static inline u64 uop_rip(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 rip = vcpu->ctl.rip + u->off;

	return u->mode64 ? rip : (u32)rip;
}

static inline u64 uop_next_rip(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 rip = vcpu->ctl.rip + u->off + u->len;

	return u->mode64 ? rip : vcpu->mode & MODE_SIZE ? (u32)rip : (u16)rip;
}

/* Offset part of the address, wrapped to the address size. For LEA, INVLPG... */
u64 uop_ea_full(const struct kvm_vcpu *vcpu, const struct uop *u);

static inline u64 uop_ea(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	if (likely(u->amode == AM_BASE))
		return REG64(u->base) + (s64)u->disp;
	return uop_ea_full(vcpu, u);
}

u64 uop_linear_full(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size,
		    enum access access);

/* Linear address of the memory operand, segment checks made: #GP, #SS. size in bytes. */
static inline u64 uop_linear(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size,
			     enum access access)
{
	if (likely(u->amode == AM_BASE))
		return REG64(u->base) + (s64)u->disp;
	return uop_linear_full(vcpu, u, size, access);
}

/* Integer operand E: register or memory, of the uop's operand size. */
u64 uop_read_rm(struct kvm_vcpu *vcpu, const struct uop *u);
void uop_write_rm(struct kvm_vcpu *vcpu, const struct uop *u, u64 value);
/* The same with a size of its own (SIZE_*): E of MOVZX, SLDT, MOVD... */
u64 uop_read_rm_sized(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int osize);
void uop_write_rm_sized(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int osize, u64 value);

/* ---- dispatch ---- */

/*
 * Sibling calls are what makes the chain fast; where the compiler does not do them for sure (no
 * optimisation, sanitizers), operations return to the loop instead.
 */
#if defined(__clang__)
#define UOP_TAIL __attribute__((musttail))
#else
#define UOP_TAIL
#endif
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&    \
	!defined(SOFT_NO_TAIL_CALLS)
#define uop_goto(vcpu, next) UOP_TAIL return (next)->fn(vcpu, next)
#else
#define uop_goto(vcpu, next) return (next)
#endif
#define uop_next(vcpu, u) uop_goto(vcpu, (u) + 1)

/* ---- operations ---- */

enum form {
	FORM_RR,      /* rm <- rm op reg */
	FORM_RI,      /* rm <- rm op imm */
	FORM_RM,      /* reg <- reg op memory */
	FORM_MR,      /* memory <- memory op reg */
	FORM_MI,      /* memory <- memory op imm */
	FORM_R,	      /* rm */
	FORM_M,	      /* memory */
	FORM_LOCK_MR, /* the same under LOCK */
	FORM_LOCK_MI,
	FORM_LOCK_M,
	FORM_COUNT
};

struct operation {
	const char *name;
	uop_fn *any; /* serves every form and size, or NULL: then by form and size: */
	uop_fn *fn[FORM_COUNT][4];
	bool ends; /* nothing of the block comes after it */
	/*
	 * At decode, after the fields of u are filled and u->fn chosen: may change both, and leave
	 * something in u->ptr. 0, or -EINVAL for #UD, or -ENOMEM: the caller drops every block of
	 * the vCPU and starts over. May be NULL.
	 */
	int (*build)(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u);
};

#define OP_DEFINE_(NAME, WRAPPER, ENDS)                                                            \
	const struct operation oper_##NAME;                                                        \
	static uop_fn op_##NAME;                                                                   \
	const struct operation oper_##NAME = {.name = #NAME, .any = op_##NAME, .ends = ENDS};      \
	WRAPPER

#define OP(NAME)                                                                                   \
	static inline void body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u);                \
	OP_DEFINE_(NAME, , false)                                                                  \
	static const struct uop *op_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)             \
	{                                                                                          \
		vcpu->uop = u;                                                                     \
		body_##NAME(vcpu, u);                                                              \
		return u + 1;                                                                      \
	}                                                                                          \
	static inline void body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)

#define OP_END(NAME)                                                                               \
	static inline void body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u);                \
	OP_DEFINE_(NAME, , true)                                                                   \
	static const struct uop *op_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)             \
	{                                                                                          \
		u64 rip = uop_next_rip(vcpu, u);                                                   \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		body_##NAME(vcpu, u);                                                              \
		return uop_leave(vcpu, u, rip);                                                    \
	}                                                                                          \
	static inline void body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)

#define OP_BRANCH(NAME)                                                                            \
	static inline u64 body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u);                 \
	OP_DEFINE_(NAME, , true)                                                                   \
	static const struct uop *op_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)             \
	{                                                                                          \
		vcpu->uop = u;                                                                     \
		return uop_leave(vcpu, u, body_##NAME(vcpu, u));                                   \
	}                                                                                          \
	static inline u64 body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)

/* vcpu->uop between blocks: the instruction at ctl.rip itself. */
extern const struct uop uop_between;

/* The present instruction is complete and the block is left for `rip`. */
static inline const struct uop *uop_leave(struct kvm_vcpu *vcpu, const struct uop *u, u64 rip)
{
	vcpu->ctl.instructions += u->nr + 1u;
	vcpu->ctl.rip = rip;
	vcpu->uop = &uop_between;
	return NULL;
}

/* ---- opcode rows ---- */

enum { MAP_1, MAP_0F, MAP_0F38, MAP_0F3A, MAP_VEX1, MAP_VEX2, MAP_VEX3, MAP_COUNT };

enum { P_NONE = 1, P_66 = 2, P_F3 = 4, P_F2 = 8, P_ANY = 15 };

/*
 * Formats. E: ModRM.rm, register or memory; G: ModRM.reg; M: memory; I: immediate; b: byte; z: 16
 * or 32 bits by operand size; v: up to 64 bits. All with E, G or M have a ModRM byte.
 */
enum format {
	FMT_NONE,  /* no ModRM, no immediate */
	FMT_IB,	   /* an immediate byte, zero-extended */
	FMT_IBs,   /* an immediate byte, sign-extended */
	FMT_IW,	   /* 16 bits, zero-extended */
	FMT_IZ,	   /* 16 or 32 bits by operand size, sign-extended */
	FMT_AI,	   /* accumulator <- accumulator op imm (z) */
	FMT_O,	   /* register in the opcode's low bits: in rm; the accumulator in reg */
	FMT_OIv,   /* MOV r, imm: the immediate is as wide as the operand */
	FMT_J,	   /* relative, 16 or 32 bits by operand size; imm is relative to the block */
	FMT_JB,	   /* relative, a byte */
	FMT_FAR,   /* ptr16:16, ptr16:32 */
	FMT_AM,	   /* accumulator <- moffs, an address as wide as the address size */
	FMT_MA,	   /* moffs <- accumulator */
	FMT_ENTER, /* 16 bits and a byte */
	FMT_RM, /* from here with ModRM. No immediate; the operation looks at the fields itself */
	FMT_RM_IB, /* ModRM and an immediate byte, zero-extended */
	FMT_E,	   /* E */
	FMT_E1,	   /* E and the count 1: in imm */
	FMT_EG,	   /* E <- E op G */
	FMT_GE,	   /* G <- G op E */
	FMT_EIz,   /* E <- E op imm */
	FMT_EIb,   /* E <- E op imm, a byte sign-extended */
	FMT_GEIz,  /* G <- E op imm: IMUL */
	FMT_GEIb,
	FMT_EGIb, /* SHLD */
};

enum {
	A_BYTE = 1 << 0,    /* operand size is 8 bits */
	A_NO64 = 1 << 1,    /* not in 64-bit mode */
	A_ONLY64 = 1 << 2,  /* only there */
	A_DEF64 = 1 << 3,   /* operand size 64 by default in 64-bit mode (16 with 66) */
	A_FORCE64 = 1 << 4, /* ... always */
	A_MEM = 1 << 5,	    /* ModRM names memory */
	A_REG = 1 << 6,	    /* ModRM names a register */
	A_LOCK = 1 << 7,    /* LOCK is allowed when the destination is memory; else never */
	A_COND = 1 << 8,    /* the opcode's low four bits are a condition: in vreg */
	A_L0 = 1 << 9,	    /* VEX.L is 0 */
	A_L1 = 1 << 10,	    /* VEX.L is 1 */
	A_W0 = 1 << 11,	    /* REX.W or VEX.W is 0 (VEX.W reads as 0 outside 64-bit mode) */
	A_W1 = 1 << 12,	    /* ... is 1 */
	A_NOVV = 1 << 13,   /* VEX.vvvv is 1111b */
	A_EBYTE = 1 << 14,  /* a register E is a byte register, whatever the operand size */
	A_CR = 1 << 15,	    /* ModRM.mod is ignored and taken as 3 (MOV CR, MOV DR) */
};

struct opcode {
	u8 map, first, last, prefixes, mask, value, format;
	u32 attrs;
	const struct operation *oper;
};

/* ---- one decoded instruction, as build() sees it ---- */
struct insn {
	const struct opcode *row;
	u8 bytes[16];
	u8 len;
	u8 map, opcode;
	u8 modrm;		  /* 0 when there is none */
	u8 opcode_off, modrm_off; /* in bytes[]; modrm_off 0: none */
	u8 disp_off, disp_len;	  /* the displacement */
	u8 imm_off, imm_len;
	u8 rex; /* the REX byte, or 0; VEX: as REX 0100WRXB would say */
	u8 vex; /* 0, 2 or 3: bytes of the VEX prefix; it starts at vex_off */
	u8 vex_off, vvvv, vexl, vexpp;
	bool opsize, addrsize, lock; /* prefixes 66, 67, F0 */
	u8 rep;			     /* REP_*: the last of F2, F3 */
	u8 seg;			     /* segment in force, SEG_* */
	u8 mode;		     /* MODE_* */
	bool has_sib, rip_relative;
};

#endif
