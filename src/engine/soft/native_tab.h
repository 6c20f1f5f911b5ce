/*
 * What the vector instructions read and write: one row an encoding, for native_emit.c.
 *
 * A row describes the legacy and the VEX form together where both exist. The operands of the VEX
 * form follow from those of the legacy form: where the legacy form modifies its register operand,
 * the VEX form reads vvvv and writes the register ("NDS").
 */
#ifndef NATIVE_TAB_H
#define NATIVE_TAB_H

#include "base/types.h"

/* Features as CPUID names them; an instruction whose feature the host lacks is #UD. */
enum native_feature {
	F_NONE, /* this form does not exist */
	F_MMX,
	F_SSE,
	F_SSE2,
	F_SSE3,
	F_SSSE3,
	F_SSE41,
	F_SSE42,
	F_AES,
	F_PCLMUL,
	F_SHA,
	F_AVX,
	F_AVX2,
	F_AVXI, /* 128-bit form AVX, 256-bit form AVX2 */
	F_FMA,
	F_F16C,
	F_BMI1,
	F_BMI2,
	F_ADX,
	F_POPCNT,
	F_LZCNT,
	F_RDRAND,
	F_RDSEED,
	F_COUNT
};

/* An operand: V vector, M MMX, G general register; R read, W written whole, M modified. */
enum native_operand {
	OP_NONE,
	VR,
	VW,
	VM,
	VA, /* modified, and vvvv is read too (FMA) */
	MR,
	MW,
	MM,
	GR,
	GW
};

/* Size of the memory form of the rm operand. */
enum native_size {
	SZ_NONE,
	SZ_V, /* the whole vector, 16 or 32 by L; 8 for MMX */
	SZ_H, /* a half, a quarter, an eighth of it */
	SZ_Q,
	SZ_E,
	SZ_1,
	SZ_2,
	SZ_4,
	SZ_8,
	SZ_16,
	SZ_W,  /* 4 or 8 by W */
	SZ_DUP /* 8, or 32 with L */
};

#define N_IMM	 (1u << 0)  /* an immediate byte follows */
#define N_RO	 (1u << 1)  /* register form only */
#define N_MO	 (1u << 2)  /* memory form only */
#define N_FP	 (1u << 3)  /* under MXCSR */
#define N_ALIGN	 (1u << 4)  /* a 16-byte legacy memory operand is aligned, or #GP */
#define N_VALIGN (1u << 5)  /* also the VEX form */
#define N_L0	 (1u << 6)  /* VEX.L must be 0 */
#define N_L1	 (1u << 7)  /* VEX.L must be 1 */
#define N_LIG	 (1u << 8)  /* VEX.L is ignored */
#define N_W0	 (1u << 9)  /* VEX.W must be 0 */
#define N_W1	 (1u << 10) /* VEX.W must be 1 */
#define N_WSEL	 (1u << 11) /* W selects */
#define N_EFL	 (1u << 12) /* writes OF, SF, ZF, AF, PF, CF */
#define N_X0	 (1u << 13) /* legacy form reads XMM0 */
#define N_X0W	 (1u << 14) /* writes XMM0 */
#define N_IS4	 (1u << 15) /* VEX form has a register in imm8[7:4] */
#define N_NDD	 (1u << 16) /* VEX form: vvvv is the destination, rm is read */
#define N_ESTR	 (1u << 17) /* reads EAX and EDX */
#define N_RCX	 (1u << 18) /* writes ECX */
#define N_MERGE	 (1u << 19) /* rm in register form is modified: vvvv is read in the VEX form */
#define N_W1_64	 (1u << 21) /* VEX.W must be 0 outside 64-bit mode */
#define N_NOX87	 (1u << 20) /* an MMX-register form without the x87 transition from memory */

#define N_DIGIT_NONE 8

struct native_desc {
	u8 map; /* 1: 0F, 2: 0F38, 3: 0F3A */
	u8 pfx; /* 0 none, 1 66, 2 F3, 3 F2, as VEX.pp */
	u8 op;
	u8 digit; /* of ModRM.reg where it extends the opcode, or N_DIGIT_NONE */
	u8 reg, rm;
	u8 size;
	u8 leg, vex; /* enum native_feature */
	u32 flags;
};

extern const struct native_desc native_table[];
extern const unsigned int native_table_len;

#endif
