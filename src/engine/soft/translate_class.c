/*
 * What the uops of a block are, by the interpreter's functions that stand in them, and which flags
 * live where.
 *
 * 1. What is not known here is called (TR_CALL), or, at the end of a block, left to the interpreter
 *    (TR_LEAVE); so a form may be taken out of the tables at any time.
 * 2. An instruction that leaves some flags as they are, reads them.
 */
#include "engine/soft/ops_branch.h"
#include "engine/soft/ops_stack.h"
#include "engine/soft/translate_int.h"

#define CC_NONE 0xff

/* OPERATION(name, kind, sub): the operations with a function for each form and size. */
#define OPERATIONS(OPERATION)                                                                      \
	OPERATION(mov, TR_MOV, 0)                                                                  \
	OPERATION(movzx8, TR_MOVZX, SIZE_8)                                                        \
	OPERATION(movzx16, TR_MOVZX, SIZE_16)                                                      \
	OPERATION(movsx8, TR_MOVSX, SIZE_8)                                                        \
	OPERATION(movsx16, TR_MOVSX, SIZE_16)                                                      \
	OPERATION(movsxd, TR_MOVSX, SIZE_32)                                                       \
	OPERATION(lea, TR_LEA, 0)                                                                  \
	OPERATION(add, TR_ALU, E_ADD)                                                              \
	OPERATION(or, TR_ALU, E_OR)                                                                \
	OPERATION(adc, TR_ALU, E_ADC)                                                              \
	OPERATION(sbb, TR_ALU, E_SBB)                                                              \
	OPERATION(and, TR_ALU, E_AND)                                                              \
	OPERATION(sub, TR_ALU, E_SUB)                                                              \
	OPERATION(xor, TR_ALU, E_XOR)                                                              \
	OPERATION(cmp, TR_ALU, E_CMP)                                                              \
	OPERATION(test, TR_TEST, 0)                                                                \
	OPERATION(inc, TR_UNARY, TR_INC)                                                           \
	OPERATION(dec, TR_UNARY, TR_DEC)                                                           \
	OPERATION(neg, TR_UNARY, TR_NEG)                                                           \
	OPERATION(not, TR_UNARY, TR_NOT)                                                           \
	OPERATION(imul, TR_IMUL, 0)                                                                \
	OPERATION(imul3, TR_IMUL3, 0)                                                              \
	OPERATION(rol, TR_SHIFT, 0)                                                                \
	OPERATION(ror, TR_SHIFT, 1)                                                                \
	OPERATION(rcl, TR_SHIFT, 2)                                                                \
	OPERATION(rcr, TR_SHIFT, 3)                                                                \
	OPERATION(shl, TR_SHIFT, 4)                                                                \
	OPERATION(shr, TR_SHIFT, 5)                                                                \
	OPERATION(sar, TR_SHIFT, 7)                                                                \
	OPERATION(shld, TR_DOUBLE, 0xa4)                                                           \
	OPERATION(shrd, TR_DOUBLE, 0xac)                                                           \
	OPERATION(cmov, TR_CMOV, 0)                                                                \
	OPERATION(setcc, TR_SETCC, 0)                                                              \
	OPERATION(xchg, TR_XCHG, 0)                                                                \
	OPERATION(xadd, TR_XADD, 0)                                                                \
	OPERATION(cmpxchg, TR_CMPXCHG, 0)                                                          \
	OPERATION(bt, TR_BIT, 4)                                                                   \
	OPERATION(bts, TR_BIT, 5)                                                                  \
	OPERATION(btr, TR_BIT, 6)                                                                  \
	OPERATION(btc, TR_BIT, 7)                                                                  \
	OPERATION(bsf, TR_SCAN, 0xbc)                                                              \
	OPERATION(bsr, TR_SCAN, 0xbd)                                                              \
	OPERATION(bswap, TR_BSWAP, 0)                                                              \
	OPERATION(movbe, TR_MOVBE, 0)

/* Those with one function for all. */
#define SINGLES(OPERATION)                                                                         \
	OPERATION(nop, TR_NOP, 0)                                                                  \
	OPERATION(mul, TR_MUL, 4)                                                                  \
	OPERATION(imul1, TR_MUL, 5)                                                                \
	OPERATION(cbw, TR_CBW, 0)                                                                  \
	OPERATION(cwd, TR_CWD, 0)                                                                  \
	OPERATION(cmc, TR_CARRY, 0xf5)                                                             \
	OPERATION(clc, TR_CARRY, 0xf8)                                                             \
	OPERATION(stc, TR_CARRY, 0xf9)                                                             \
	OPERATION(popcnt, TR_COUNT, 0xb8)                                                          \
	OPERATION(tzcnt, TR_COUNT, 0xbc)                                                           \
	OPERATION(lzcnt, TR_COUNT, 0xbd)                                                           \
	OPERATION(andn, TR_VEX, TR_ANDN)                                                           \
	OPERATION(bextr, TR_VEX, TR_BEXTR)                                                         \
	OPERATION(bzhi, TR_VEX, TR_BZHI)                                                           \
	OPERATION(shlx, TR_VEX, TR_SHLX)                                                           \
	OPERATION(sarx, TR_VEX, TR_SARX)                                                           \
	OPERATION(shrx, TR_VEX, TR_SHRX)                                                           \
	OPERATION(pdep, TR_VEX, TR_PDEP)                                                           \
	OPERATION(pext, TR_VEX, TR_PEXT)                                                           \
	OPERATION(blsr, TR_VEX, TR_BLSR)                                                           \
	OPERATION(blsmsk, TR_VEX, TR_BLSMSK)                                                       \
	OPERATION(blsi, TR_VEX, TR_BLSI)                                                           \
	OPERATION(mulx, TR_MULX, 0)                                                                \
	OPERATION(rorx, TR_RORX, 0)                                                                \
	OPERATION(adcx, TR_ADX, TR_ADCX)                                                           \
	OPERATION(adox, TR_ADX, TR_ADOX)                                                           \
	OPERATION(crc32, TR_CRC32, 0)                                                              \
	OPERATION(div, TR_DIV, TR_UDIV)                                                            \
	OPERATION(idiv, TR_DIV, TR_IDIV)                                                           \
	OPERATION(leave, TR_POP_FRAME, 0)

#define DECLARE(name, kind, sub) extern const struct operation oper_##name;
OPERATIONS(DECLARE)
SINGLES(DECLARE)

static const struct {
	const struct operation *oper;
	u8 kind, sub;
} operations[] = {
#define ROW(name, kind, sub) {&oper_##name, kind, sub},
	OPERATIONS(ROW) SINGLES(ROW)};

/* ---- the hash ---- */

static struct tr_class *class_slot(const struct translator *x, uop_fn *fn)
{
	u32 i = (u32)(((uintptr_t)fn * 0x9e3779b97f4a7c15ULL) >> 40);

	while (x->classes[i % TR_CLASSES].fn && x->classes[i % TR_CLASSES].fn != fn)
		i++;
	return (struct tr_class *)&x->classes[i % TR_CLASSES];
}

static void class_add(struct translator *x, uop_fn *fn, u8 kind, u8 sub, u8 form, u8 size)
{
	if (fn)
		*class_slot(x, fn) = (struct tr_class){fn, kind, sub, form, size};
}

static void add_branches(struct translator *x, unsigned int flat)
{
	const struct branch_fns *b = &branch_fns[flat];
	u8 size = flat ? SIZE_32 : SIZE_64;

	class_add(x, b->jmp, TR_JMP, 0, FORM_COUNT, size);
	class_add(x, b->jmp_far, TR_JMP, 0, FORM_COUNT, size);
	class_add(x, b->fall, TR_FALL, 0, FORM_COUNT, size);
	class_add(x, b->call, TR_CALL_NEAR, 0, FORM_COUNT, size);
	class_add(x, b->ret, TR_RET, 0, FORM_COUNT, size);
	class_add(x, b->jmp_r, TR_JMP_RM, 0, FORM_R, size);
	class_add(x, b->jmp_m, TR_JMP_RM, 0, FORM_M, size);
	class_add(x, b->call_r, TR_CALL_RM, 0, FORM_R, size);
	class_add(x, b->call_m, TR_CALL_RM, 0, FORM_M, size);
	for (u8 cc = 0; cc < 16; cc++)
		class_add(x, b->jcc[cc], TR_JCC, cc, FORM_COUNT, size);
	class_add(x, stack_fns[flat].push_r, TR_PUSH, 0, FORM_R, size);
	class_add(x, stack_fns[flat].push_i, TR_PUSH_IMM, 0, FORM_COUNT, size);
	class_add(x, stack_fns[flat].pop_r, TR_POP, 0, FORM_R, size);
}

void tr_classes_init(struct translator *x)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(operations); i++) {
		const struct operation *o = operations[i].oper;

		class_add(x, o->any, operations[i].kind, operations[i].sub, FORM_COUNT, 0);
		for (u8 form = 0; form < FORM_COUNT; form++)
			for (u8 size = 0; size < 4; size++)
				class_add(x, o->fn[form][size], operations[i].kind,
					  operations[i].sub, form, size);
	}
	add_branches(x, 0);
	add_branches(x, 1);
}

/* ---- classes ---- */

static bool is_high(u8 field)
{
	return field & 7;
}

/* Forms of known operations that are called all the same. */
static bool form_is_inline(const struct tr_uop *op)
{
	const struct uop *u = op->u;
	bool mem = op->form == FORM_RM || (op->form >= FORM_MR && op->form != FORM_R);

	switch (op->kind) {
	case TR_NOP:
		return true;
	case TR_LEA:
		return op->size != SIZE_16 && tr_address_is_plain(u);
	case TR_MOVSX:
		if (op->sub == SIZE_32 && op->size == SIZE_16)
			return false;
		break;
	case TR_XCHG:
		if (is_high(u->reg) || (!u->mem && is_high(u->rm)))
			return false;
		break;
	case TR_XADD:
	case TR_CMPXCHG:
		if (!u->mem || is_high(u->reg))
			return false;
		break;
	case TR_DOUBLE:
		return op->form == FORM_RR;
	case TR_BIT:
		if (op->form == FORM_MR || op->form == FORM_LOCK_MR)
			return false;
		break;
	case TR_BSWAP:
		return op->size != SIZE_16;
	case TR_POP_FRAME:
		return op->size == (u->mode64 ? SIZE_64 : SIZE_32);
	case TR_MUL:
	case TR_COUNT:
		mem = u->mem;
		break;
	default:
		if (tr_is_bits(op->kind)) {
			mem = u->mem;
			if (!tr_bits_is_inline(op))
				return false;
		}
		break;
	}
	return !mem || tr_address_is_plain(u);
}

static u16 condition_flags(unsigned int cc)
{
	static const u16 flags[8] = {X86_OF, X86_CF, X86_ZF,	      X86_CF | X86_ZF,
				     X86_SF, X86_PF, X86_SF | X86_OF, X86_ZF | X86_SF | X86_OF};

	return flags[cc >> 1 & 7];
}

static void shift_flags(struct tr_uop *op)
{
	unsigned int mask = op->size == SIZE_64 ? 63 : 31;
	bool rotate = op->kind == TR_SHIFT && op->sub < 4;
	bool fixed = op->form != FORM_R && op->form != FORM_M;

	if (fixed && !(op->u->imm & mask))
		return;
	op->touches = rotate ? X86_CF | X86_OF : X86_ARITH;
	if (fixed)
		op->writes = op->touches;
	if (rotate && op->sub >= 2)
		op->reads = X86_CF;
}

static void set_flags(struct tr_uop *op)
{
	switch (op->kind) {
	case TR_ALU:
		if (op->sub == E_ADC || op->sub == E_SBB)
			op->reads = X86_CF;
		op->writes = X86_ARITH;
		break;
	case TR_TEST:
	case TR_IMUL:
	case TR_IMUL3:
	case TR_MUL:
	case TR_XADD:
	case TR_CMPXCHG:
	case TR_SCAN:
		op->writes = X86_ARITH;
		break;
	case TR_COUNT: /* the others of TZCNT and LZCNT are undefined; hosts leave them */
		op->writes = op->sub == 0xb8 ? X86_ARITH : X86_CF | X86_ZF;
		break;
	case TR_UNARY:
		if (op->sub == TR_NEG)
			op->writes = X86_ARITH;
		else if (op->sub != TR_NOT)
			op->writes = X86_ARITH & ~X86_CF;
		break;
	case TR_SHIFT:
	case TR_DOUBLE:
		shift_flags(op);
		break;
	case TR_BIT:
		op->writes = X86_CF;
		break;
	case TR_CARRY:
		op->writes = X86_CF;
		op->reads = op->sub == 0xf5 ? X86_CF : 0;
		break;
	case TR_CMOV:
	case TR_SETCC:
		op->reads = condition_flags(op->u->vreg);
		break;
	case TR_JCC:
		op->reads = condition_flags(op->sub);
		break;
	case TR_CALL:
	case TR_LEAVE:
		op->reads = X86_ARITH;
		break;
	default:
		if (tr_is_bits(op->kind))
			op->writes = tr_bits_writes(op);
		break;
	}
	op->touches |= op->writes;
	if (op->touches)
		op->reads |= X86_ARITH & ~op->writes;
}

static u8 memory_access(const struct tr_uop *op)
{
	switch (op->kind) {
	case TR_PUSH:
	case TR_PUSH_IMM:
		return MEM_WRITE;
	case TR_POP:
	case TR_POP_FRAME:
		return MEM_READ;
	case TR_MUL:
	case TR_COUNT:
		return op->u->mem ? MEM_READ : MEM_NONE;
	case TR_CALL:
	case TR_LEAVE:
	case TR_NOP:
	case TR_LEA:
		return MEM_NONE;
	default:
		break;
	}
	if (op->kind >= TR_JMP)
		return MEM_NONE; /* the ends see to it themselves */
	if (tr_is_bits(op->kind) && op->form != FORM_MR)
		return op->u->mem ? MEM_READ : MEM_NONE;
	switch (op->form) {
	case FORM_RM:
		return MEM_READ;
	case FORM_MR:
	case FORM_MI:
		if ((op->kind == TR_ALU && op->sub == E_CMP) || op->kind == TR_TEST ||
		    (op->kind == TR_BIT && op->sub == 4))
			return MEM_READ;
		return MEM_WRITE;
	case FORM_M:
	case FORM_LOCK_MR:
	case FORM_LOCK_MI:
	case FORM_LOCK_M:
		return MEM_WRITE;
	default:
		return MEM_NONE;
	}
}

static u16 bit_of(u8 field)
{
	return (u16)(1u << (field >> 3 & 15));
}

static u16 registers_written(const struct tr_uop *op)
{
	const u16 rsp = 1u << RSP;

	switch (op->kind) {
	case TR_CALL:
		return 0xffff;
	case TR_PUSH:
	case TR_PUSH_IMM:
		return rsp;
	case TR_POP:
		return rsp | bit_of(op->u->rm);
	case TR_POP_FRAME:
		return rsp | 1u << RBP;
	case TR_MUL:
		return 1u << RAX | 1u << RDX;
	case TR_CBW:
		return 1u << RAX;
	case TR_CWD:
		return 1u << RDX;
	case TR_COUNT:
		return bit_of(op->u->reg);
	case TR_CMPXCHG:
		return 1u << RAX;
	case TR_XCHG:
	case TR_XADD:
		return bit_of(op->u->reg) | (op->u->mem ? 0 : bit_of(op->u->rm));
	default:
		if (tr_is_bits(op->kind) && op->form == FORM_COUNT)
			return tr_bits_registers(op);
		break;
	}
	if (op->form == FORM_RM)
		return bit_of(op->u->reg);
	if (op->form == FORM_RR || op->form == FORM_RI || op->form == FORM_R)
		return bit_of(op->u->rm);
	return 0;
}

void tr_classify(const struct kvm_vcpu *vcpu, struct tr_uop *op, const struct uop *u, bool last)
{
	const struct translator *x = vcpu_cpu(vcpu)->translator;
	const struct tr_class *c = class_slot(x, u->fn);
	uop_fn *fn = u->fn;

	if (!c->fn) {
		fn = branch_unfused(fn);
		c = class_slot(x, fn);
	}
	*op = (struct tr_uop){.u = u, .fn = fn, .form = FORM_COUNT};
	op->kind = last ? TR_LEAVE : TR_CALL;
	if (c->fn) {
		op->sub = c->sub;
		op->form = c->form;
		op->size = c->form == FORM_COUNT && c->kind < TR_JMP && c->kind != TR_PUSH_IMM
				   ? tr_size_of(c->kind, u)
				   : c->size;
		if (last == (c->kind >= TR_JMP)) {
			u8 other = op->kind;

			op->kind = c->kind;
			if (!form_is_inline(op))
				op->kind = other;
		}
	}
	if (!last && !c->fn && tr_native_classify(vcpu, op))
		return;
	set_flags(op);
	op->mem = memory_access(op);
	op->regs = registers_written(op);
}

void tr_liveness(struct tr *t)
{
	u16 live = X86_ARITH;

	for (unsigned int i = t->n; i-- > 0;) {
		struct tr_uop *op = &t->op[i];

		op->live = live;
		live = (u16)((live & ~op->writes) | op->reads);
	}
}
