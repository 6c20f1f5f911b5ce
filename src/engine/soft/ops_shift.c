/*
 * Shifts and rotates. A masked count of 0 changes no flag, and then only the zero extension of a
 * 32-bit register is left to do; rotates change CF and OF alone. SDM vol. 2, SAL/SAR/SHL/SHR,
 * RCL...
 */
#include "engine/soft/ops_int.h"

#define COUNT_MASK_8  31
#define COUNT_MASK_16 31
#define COUNT_MASK_32 31
#define COUNT_MASK_64 63

#define MERGE_ALL    vcpu->aflags = fl;
#define MERGE_ROTATE vcpu->aflags = (vcpu->aflags & ~(AF_CF | AF_OF)) | (fl & (AF_CF | AF_OF));

#define SHIFT_ASM(INSN, BITS, value, count)                                                        \
	asm(FLAGS_CF(3) INSN SFX_##BITS " %%cl, %0\n\t" FLAGS_OUT                               \
	    : "+r"(value), "=a"(fl)                                                                \
	    : "c"(count), "r"((u32)vcpu->aflags)                                                   \
	    : "cc");

#define SHIFT_REG(NAME, INSN, BITS, COUNT, MERGE)                                                  \
	REG_OP(NAME, {                                                                             \
		u8 count = (u8)(COUNT)&COUNT_MASK_##BITS;                                          \
		u##BITS value = READ_##BITS(u->rm);                                                \
		u16 fl;                                                                            \
                                                                                                   \
		if (likely(count)) {                                                               \
			SHIFT_ASM(INSN, BITS, value, count)                                        \
			MERGE                                                                      \
		}                                                                                  \
		WRITE_##BITS(u->rm, value);                                                        \
	})

/* A count of 0 still needs a writable operand: the processor may write it back. */
#define SHIFT_MEM(NAME, INSN, BITS, COUNT, MERGE)                                                  \
	RMW_OP(                                                                                    \
		NAME, BITS,                                                                        \
		{                                                                                  \
			u8 count = (u8)(COUNT)&COUNT_MASK_##BITS;                                  \
                                                                                                   \
			if (count) {                                                               \
				val = *p;                                                          \
				SHIFT_ASM(INSN, BITS, val, count)                                  \
				*p = val;                                                          \
			}                                                                          \
		},                                                                                 \
		if ((COUNT)&COUNT_MASK_##BITS){MERGE})

#define SHIFT(NAME, INSN, BITS, MERGE)                                                             \
	SHIFT_REG(NAME##_ri_##BITS, INSN, BITS, u->imm, MERGE)                                     \
	SHIFT_REG(NAME##_r_##BITS, INSN, BITS, vcpu->ctl.gpr[RCX], MERGE)                          \
	SHIFT_MEM(NAME##_mi_##BITS, INSN, BITS, u->imm, MERGE)                                     \
	SHIFT_MEM(NAME##_m_##BITS, INSN, BITS, vcpu->ctl.gpr[RCX], MERGE)

#define SHIFT_OPERATION(NAME, INSN, MERGE)                                                         \
	SHIFT(NAME, INSN, 8, MERGE)                                                                \
	SHIFT(NAME, INSN, 16, MERGE)                                                               \
	SHIFT(NAME, INSN, 32, MERGE)                                                               \
	SHIFT(NAME, INSN, 64, MERGE)                                                               \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RI] = FN4(NAME##_ri),                                                 \
		       [FORM_MI] = FN4(NAME##_mi),                                                 \
		       [FORM_R] = FN4(NAME##_r),                                                   \
		       [FORM_M] = FN4(NAME##_m)},                                                  \
	};

SHIFT_OPERATION(rol, "rol", MERGE_ROTATE)
SHIFT_OPERATION(ror, "ror", MERGE_ROTATE)
SHIFT_OPERATION(rcl, "rcl", MERGE_ROTATE)
SHIFT_OPERATION(rcr, "rcr", MERGE_ROTATE)
SHIFT_OPERATION(shl, "shl", MERGE_ALL)
SHIFT_OPERATION(shr, "shr", MERGE_ALL)
SHIFT_OPERATION(sar, "sar", MERGE_ALL)

/* SHLD and SHRD: E shifted, G's bits moved in; the count is an immediate or CL. */
#define DOUBLE_ASM(INSN, BITS, value, count)                                                       \
	asm(INSN SFX_##BITS " %%cl, %3, %0\n\t" FLAGS_OUT                                          \
	    : "+r"(value), "=a"(fl)                                                                \
	    : "c"(count), "r"(READ_##BITS(u->reg))                                                 \
	    : "cc");

#define DOUBLE(NAME, INSN, BITS, COUNT)                                                            \
	REG_OP(NAME##_rr_##BITS, {                                                                 \
		u8 count = (u8)(COUNT)&COUNT_MASK_##BITS;                                          \
		u##BITS value = READ_##BITS(u->rm);                                                \
		u16 fl;                                                                            \
                                                                                                   \
		if (count) {                                                                       \
			DOUBLE_ASM(INSN, BITS, value, count)                                       \
			vcpu->aflags = fl;                                                         \
		}                                                                                  \
		WRITE_##BITS(u->rm, value);                                                        \
	})                                                                                         \
	RMW_OP(                                                                                    \
		NAME##_mr_##BITS, BITS,                                                            \
		{                                                                                  \
			u8 count = (u8)(COUNT)&COUNT_MASK_##BITS;                                  \
                                                                                                   \
			if (count) {                                                               \
				val = *p;                                                          \
				DOUBLE_ASM(INSN, BITS, val, count)                                 \
				*p = val;                                                          \
			}                                                                          \
		},                                                                                 \
		vcpu->aflags = fl;)

#define DOUBLE_OPERATION(NAME, INSN, COUNT)                                                        \
	DOUBLE(NAME, INSN, 16, COUNT)                                                              \
	DOUBLE(NAME, INSN, 32, COUNT)                                                              \
	DOUBLE(NAME, INSN, 64, COUNT)                                                              \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RR] = FN3(NAME##_rr), [FORM_MR] = FN3(NAME##_mr)},                    \
	};

DOUBLE_OPERATION(shld, "shld", u->imm)
DOUBLE_OPERATION(shrd, "shrd", u->imm)
DOUBLE_OPERATION(shld_cl, "shld", vcpu->ctl.gpr[RCX])
DOUBLE_OPERATION(shrd_cl, "shrd", vcpu->ctl.gpr[RCX])
