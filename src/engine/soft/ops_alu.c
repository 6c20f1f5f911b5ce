/*
 * ADD to CMP, TEST, INC, DEC, NEG, NOT, IMUL: each executes the host's instruction of its size, and
 * keeps the flags as the host left them (flags.h).
 */
#include "engine/soft/ops_int.h"

/* dst = dst INSN src */
#define ALU(INSN, BITS, dst, src)                                                                  \
	asm(INSN SFX_##BITS " %2, %0\n\t" FLAGS_OUT : "+r"(dst), "=a"(fl) : "r"(src) : "cc");
#define ALU_CARRY(INSN, BITS, dst, src)                                                            \
	asm(FLAGS_CF(3) INSN SFX_##BITS " %2, %0\n\t" FLAGS_OUT                                 \
	    : "+r"(dst), "=a"(fl)                                                                  \
	    : "r"(src), "r"((u32)vcpu->aflags)                                                     \
	    : "cc");
#define ALU_LOCK(INSN, BITS, p, src)                                                               \
	asm volatile("lock " INSN SFX_##BITS " %2, %0\n\t" FLAGS_OUT                               \
		     : "+m"(*p), "=a"(fl)                                                          \
		     : "r"(src)                                                                    \
		     : "cc", "memory");
#define ALU_CARRY_LOCK(INSN, BITS, p, src)                                                         \
	asm volatile(FLAGS_CF(3) "lock " INSN SFX_##BITS " %2, %0\n\t" FLAGS_OUT                \
		     : "+m"(*p), "=a"(fl)                                                          \
		     : "r"(src), "r"((u32)vcpu->aflags)                                            \
		     : "cc", "memory");
#define ALU_COMPARE(INSN, BITS, a, b)                                                              \
	asm(INSN SFX_##BITS " %2, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"(a), "r"(b) : "cc");

#define BINARY(NAME, INSN, BITS, CALC)                                                             \
	REG_OP(NAME##_rr_##BITS, {                                                                 \
		u##BITS dst = READ_##BITS(u->rm);                                                  \
		u16 fl;                                                                            \
		CALC(INSN, BITS, dst, READ_##BITS(u->reg))                                         \
		WRITE_##BITS(u->rm, dst);                                                          \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	REG_OP(NAME##_ri_##BITS, {                                                                 \
		u##BITS dst = READ_##BITS(u->rm);                                                  \
		u16 fl;                                                                            \
		CALC(INSN, BITS, dst, (u##BITS)u->imm)                                             \
		WRITE_##BITS(u->rm, dst);                                                          \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(NAME##_rm_##BITS, BITS, {                                                          \
		u##BITS dst = READ_##BITS(u->reg);                                                 \
		u16 fl;                                                                            \
		CALC(INSN, BITS, dst, val)                                                         \
		WRITE_##BITS(u->reg, dst);                                                         \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	RMW_OP(                                                                                    \
		NAME##_mr_##BITS, BITS,                                                            \
		{                                                                                  \
			val = *p;                                                                  \
			CALC(INSN, BITS, val, READ_##BITS(u->reg))                                 \
			*p = val;                                                                  \
		},                                                                                 \
		vcpu->aflags = fl;)                                                                \
	RMW_OP(                                                                                    \
		NAME##_mi_##BITS, BITS,                                                            \
		{                                                                                  \
			val = *p;                                                                  \
			CALC(INSN, BITS, val, (u##BITS)u->imm)                                     \
			*p = val;                                                                  \
		},                                                                                 \
		vcpu->aflags = fl;)                                                                \
	RMW_OP(NAME##_lock_mr_##BITS, BITS, {CALC##_LOCK(INSN, BITS, p, READ_##BITS(u->reg))},     \
	       vcpu->aflags = fl;)                                                                 \
	RMW_OP(NAME##_lock_mi_##BITS, BITS, {CALC##_LOCK(INSN, BITS, p, (u##BITS)u->imm)},         \
	       vcpu->aflags = fl;)

#define BINARY_OPERATION(NAME, INSN, CALC)                                                         \
	BINARY(NAME, INSN, 8, CALC)                                                                \
	BINARY(NAME, INSN, 16, CALC)                                                               \
	BINARY(NAME, INSN, 32, CALC)                                                               \
	BINARY(NAME, INSN, 64, CALC)                                                               \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RR] = FN4(NAME##_rr),                                                 \
		       [FORM_RI] = FN4(NAME##_ri),                                                 \
		       [FORM_RM] = FN4(NAME##_rm),                                                 \
		       [FORM_MR] = FN4(NAME##_mr),                                                 \
		       [FORM_MI] = FN4(NAME##_mi),                                                 \
		       [FORM_LOCK_MR] = FN4(NAME##_lock_mr),                                       \
		       [FORM_LOCK_MI] = FN4(NAME##_lock_mi)},                                      \
	};

BINARY_OPERATION(add, "add", ALU)
BINARY_OPERATION(or, "or", ALU)
BINARY_OPERATION(adc, "adc", ALU_CARRY)
BINARY_OPERATION(sbb, "sbb", ALU_CARRY)
BINARY_OPERATION(and, "and", ALU)
BINARY_OPERATION(sub, "sub", ALU)
BINARY_OPERATION(xor, "xor", ALU)

/* CMP and TEST: the same without a result. */
#define COMPARE(NAME, INSN, BITS)                                                                  \
	REG_OP(NAME##_rr_##BITS, {                                                                 \
		u16 fl;                                                                            \
		ALU_COMPARE(INSN, BITS, READ_##BITS(u->rm), READ_##BITS(u->reg))                   \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	REG_OP(NAME##_ri_##BITS, {                                                                 \
		u16 fl;                                                                            \
		ALU_COMPARE(INSN, BITS, READ_##BITS(u->rm), (u##BITS)u->imm)                       \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(NAME##_rm_##BITS, BITS, {                                                          \
		u16 fl;                                                                            \
		ALU_COMPARE(INSN, BITS, READ_##BITS(u->reg), val)                                  \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(NAME##_mr_##BITS, BITS, {                                                          \
		u16 fl;                                                                            \
		ALU_COMPARE(INSN, BITS, val, READ_##BITS(u->reg))                                  \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(NAME##_mi_##BITS, BITS, {                                                          \
		u16 fl;                                                                            \
		ALU_COMPARE(INSN, BITS, val, (u##BITS)u->imm)                                      \
		vcpu->aflags = fl;                                                                 \
	})

#define COMPARE_OPERATION(NAME, INSN)                                                              \
	COMPARE(NAME, INSN, 8)                                                                     \
	COMPARE(NAME, INSN, 16)                                                                    \
	COMPARE(NAME, INSN, 32)                                                                    \
	COMPARE(NAME, INSN, 64)                                                                    \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RR] = FN4(NAME##_rr),                                                 \
		       [FORM_RI] = FN4(NAME##_ri),                                                 \
		       [FORM_RM] = FN4(NAME##_rm),                                                 \
		       [FORM_MR] = FN4(NAME##_mr),                                                 \
		       [FORM_MI] = FN4(NAME##_mi)},                                                \
	};

COMPARE_OPERATION(cmp, "cmp")
COMPARE_OPERATION(test, "test")

/* One operand. INC and DEC leave CF, NOT leaves all flags: COMMIT says which are taken. */
#define UNARY(NAME, INSN, BITS, COMMIT)                                                            \
	REG_OP(NAME##_r_##BITS, {                                                                  \
		u##BITS val = READ_##BITS(u->rm);                                                  \
		u16 fl __attribute__((unused));                                                    \
		asm(INSN SFX_##BITS " %0\n\t" FLAGS_OUT : "+r"(val), "=a"(fl) : : "cc");           \
		WRITE_##BITS(u->rm, val);                                                          \
		COMMIT                                                                             \
	})                                                                                         \
	RMW_OP(                                                                                    \
		NAME##_m_##BITS, BITS,                                                             \
		{                                                                                  \
			val = *p;                                                                  \
			asm(INSN SFX_##BITS " %0\n\t" FLAGS_OUT : "+r"(val), "=a"(fl) : : "cc");   \
			*p = val;                                                                  \
		},                                                                                 \
		COMMIT)                                                                            \
	RMW_OP(                                                                                    \
		NAME##_lock_m_##BITS, BITS,                                                        \
		{                                                                                  \
			asm volatile("lock " INSN SFX_##BITS " %0\n\t" FLAGS_OUT                   \
				     : "+m"(*p), "=a"(fl)                                          \
				     :                                                             \
				     : "cc", "memory");                                            \
		},                                                                                 \
		COMMIT)

#define UNARY_OPERATION(NAME, INSN, COMMIT)                                                        \
	UNARY(NAME, INSN, 8, COMMIT)                                                               \
	UNARY(NAME, INSN, 16, COMMIT)                                                              \
	UNARY(NAME, INSN, 32, COMMIT)                                                              \
	UNARY(NAME, INSN, 64, COMMIT)                                                              \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_R] = FN4(NAME##_r),                                                   \
		       [FORM_RR] = FN4(NAME##_r), /* 40 to 4F */                                   \
		       [FORM_M] = FN4(NAME##_m),                                                   \
		       [FORM_LOCK_M] = FN4(NAME##_lock_m)},                                        \
	};

#define ALL_BUT_CF vcpu->aflags = (fl & ~AF_CF) | (vcpu->aflags & AF_CF);
UNARY_OPERATION(inc, "inc", ALL_BUT_CF)
UNARY_OPERATION(dec, "dec", ALL_BUT_CF)
UNARY_OPERATION(neg, "neg", vcpu->aflags = fl;)
UNARY_OPERATION(not, "not", )

/* IMUL of two and three operands: G = G * E, G = E * imm. */
#define IMUL(BITS)                                                                                 \
	REG_OP(imul_rr_##BITS, {                                                                   \
		u##BITS dst = READ_##BITS(u->rm);                                                  \
		u16 fl;                                                                            \
		ALU("imul", BITS, dst, READ_##BITS(u->reg))                                        \
		WRITE_##BITS(u->rm, dst);                                                          \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(imul_rm_##BITS, BITS, {                                                            \
		u##BITS dst = READ_##BITS(u->reg);                                                 \
		u16 fl;                                                                            \
		ALU("imul", BITS, dst, val)                                                        \
		WRITE_##BITS(u->reg, dst);                                                         \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	REG_OP(imul3_rr_##BITS, {                                                                  \
		u##BITS dst = READ_##BITS(u->reg);                                                 \
		u16 fl;                                                                            \
		ALU("imul", BITS, dst, (u##BITS)u->imm)                                            \
		WRITE_##BITS(u->rm, dst);                                                          \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(imul3_rm_##BITS, BITS, {                                                           \
		u##BITS dst = val;                                                                 \
		u16 fl;                                                                            \
		ALU("imul", BITS, dst, (u##BITS)u->imm)                                            \
		WRITE_##BITS(u->reg, dst);                                                         \
		vcpu->aflags = fl;                                                                 \
	})
ALL3(IMUL)

const struct operation oper_imul = {
	.name = "imul",
	.fn = {[FORM_RR] = FN3(imul_rr), [FORM_RM] = FN3(imul_rm)},
};
const struct operation oper_imul3 = {
	.name = "imul3",
	.fn = {[FORM_RR] = FN3(imul3_rr), [FORM_RM] = FN3(imul3_rm)},
};
