/*
 * A compare or test and the conditional branch after it, in one step: the function takes the place
 * of the compare's own, executes both, and the branch's uop stays behind it with its fields. When
 * the operand misses the TLB, the compare is done alone.
 */
#include "engine/soft/ops_branch.h"
#include "engine/soft/ops_chain.h"

#define COMPARE(INSN, BITS, a, b)                                                                  \
	asm(INSN SFX_##BITS " %2, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"(a), "r"(b) : "cc");

/* COMPARISON sets fl. */
#define FUSED_ONE(NAME, CC, ...)                                                                   \
	static const struct uop *NAME##_##CC(UOP_ARGS)                                             \
	{                                                                                          \
		u16 fl;                                                                            \
                                                                                                   \
		__VA_ARGS__                                                                        \
		vcpu->aflags = fl;                                                                 \
		u++;                                                                               \
		if (flags_cond(fl, CC))                                                            \
			GO_LINKED(vcpu->ctl.rip + u->imm, 0, u->nr + 1u);                          \
		GO_LINKED(FALL_RIP, 1, u->nr + 1u);                                                \
	}

#define FUSED_ALL(NAME, ...)                                                                       \
	FUSED_ONE(NAME, 0, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 1, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 2, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 3, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 4, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 5, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 6, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 7, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 8, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 9, __VA_ARGS__)                                                            \
	FUSED_ONE(NAME, 10, __VA_ARGS__)                                                           \
	FUSED_ONE(NAME, 11, __VA_ARGS__)                                                           \
	FUSED_ONE(NAME, 12, __VA_ARGS__)                                                           \
	FUSED_ONE(NAME, 13, __VA_ARGS__)                                                           \
	FUSED_ONE(NAME, 14, __VA_ARGS__)                                                           \
	FUSED_ONE(NAME, 15, __VA_ARGS__)

#define ENTRY(OPER, FORM, SIZE, NAME)                                                              \
	{&oper_##OPER,                                                                             \
	 FORM,                                                                                     \
	 SIZE,                                                                                     \
	 {NAME##_0, NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6, NAME##_7,          \
	  NAME##_8, NAME##_9, NAME##_10, NAME##_11, NAME##_12, NAME##_13, NAME##_14, NAME##_15}},

/* NAME, operation, form, size, instruction, and what is compared; MEMORY kinds find it in `val`. */
#define REG_KINDS(K)                                                                               \
	K(cmp_rr_64, cmp, FORM_RR, 64, "cmp", REG64(u->rm), REG64(u->reg))                         \
	K(cmp_rr_32, cmp, FORM_RR, 32, "cmp", REG32(u->rm), REG32(u->reg))                         \
	K(cmp_rr_8, cmp, FORM_RR, 8, "cmp", REG8(u->rm), REG8(u->reg))                             \
	K(cmp_ri_64, cmp, FORM_RI, 64, "cmp", REG64(u->rm), (u64)u->imm)                           \
	K(cmp_ri_32, cmp, FORM_RI, 32, "cmp", REG32(u->rm), (u32)u->imm)                           \
	K(cmp_ri_8, cmp, FORM_RI, 8, "cmp", REG8(u->rm), (u8)u->imm)                               \
	K(test_rr_64, test, FORM_RR, 64, "test", REG64(u->rm), REG64(u->reg))                      \
	K(test_rr_32, test, FORM_RR, 32, "test", REG32(u->rm), REG32(u->reg))                      \
	K(test_rr_8, test, FORM_RR, 8, "test", REG8(u->rm), REG8(u->reg))                          \
	K(test_ri_32, test, FORM_RI, 32, "test", REG32(u->rm), (u32)u->imm)                        \
	K(test_ri_8, test, FORM_RI, 8, "test", REG8(u->rm), (u8)u->imm)

#define MEMORY_KINDS(K)                                                                            \
	K(cmp_mi_64, cmp, FORM_MI, 64, "cmp", val, (u64)u->imm)                                    \
	K(cmp_mi_32, cmp, FORM_MI, 32, "cmp", val, (u32)u->imm)                                    \
	K(cmp_mi_8, cmp, FORM_MI, 8, "cmp", val, (u8)u->imm)                                       \
	K(cmp_mr_64, cmp, FORM_MR, 64, "cmp", val, REG64(u->reg))                                  \
	K(cmp_mr_32, cmp, FORM_MR, 32, "cmp", val, REG32(u->reg))                                  \
	K(cmp_rm_64, cmp, FORM_RM, 64, "cmp", REG64(u->reg), val)                                  \
	K(cmp_rm_32, cmp, FORM_RM, 32, "cmp", REG32(u->reg), val)                                  \
	K(test_mi_8, test, FORM_MI, 8, "test", val, (u8)u->imm)                                    \
	K(test_mi_32, test, FORM_MI, 32, "test", val, (u32)u->imm)

#define DEFINE_REG(NAME, OPER, FORM, BITS, INSN, A, B) FUSED_ALL(NAME, COMPARE(INSN, BITS, A, B))
#define DEFINE_MEMORY(NAME, OPER, FORM, BITS, INSN, A, B)                                          \
	FUSED_ALL(NAME, const void *p; u##BITS val;                                                \
		  FAST_LINEAR(linear, return oper_##OPER.fn[FORM][SIZE_##BITS](vcpu, u)) p =       \
			  tlb_pointer(vcpu, linear, BITS / 8, ACCESS_READ);                        \
		  if (unlikely(!p)) return oper_##OPER.fn[FORM][SIZE_##BITS](vcpu, u);             \
		  val = *(const volatile guest_u##BITS *)p; COMPARE(INSN, BITS, A, B))

extern const struct operation oper_cmp, oper_test;

REG_KINDS(DEFINE_REG)
MEMORY_KINDS(DEFINE_MEMORY)

static const struct {
	const struct operation *oper;
	u8 form, size;
	uop_fn *fused[16];
} fusions[] = {
#define ROW(NAME, OPER, FORM, BITS, ...) ENTRY(OPER, FORM, SIZE_##BITS, NAME)
	REG_KINDS(ROW) MEMORY_KINDS(ROW)};

uop_fn *branch_fuse(uop_fn *compare, unsigned int cc)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(fusions); i++)
		if (fusions[i].oper->fn[fusions[i].form][fusions[i].size] == compare)
			return fusions[i].fused[cc];
	return NULL;
}

uop_fn *branch_unfused(uop_fn *fn)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(fusions); i++)
		for (unsigned int cc = 0; cc < 16; cc++)
			if (fusions[i].fused[cc] == fn)
				return fusions[i].oper->fn[fusions[i].form][fusions[i].size];
	return fn;
}
