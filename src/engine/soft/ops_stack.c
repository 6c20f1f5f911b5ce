/*
 * PUSH, POP and their kin. The forms of 64-bit code with 64-bit operands are specialised; all
 * others go through push_value() and pop_value(), which know the stack's address size.
 *
 * RSP changes after the access, which may fault.
 */
#include "engine/soft/ops_chain.h"
#include "engine/soft/ops_int.h"
#include "engine/soft/ops_stack.h"

#define RSP_FIELD (8 * RSP)

static u64 stack_mask(const struct kvm_vcpu *vcpu)
{
	if ((vcpu->mode & MODE_SIZE) == MODE_64)
		return ~0ULL;
	return vcpu->mode & MODE_STACK32 ? 0xffffffff : 0xffff;
}

void set_stack_pointer(struct kvm_vcpu *vcpu, u64 sp)
{
	u64 mask = stack_mask(vcpu);

	if (mask == 0xffff)
		REG16(RSP_FIELD) = (u16)sp;
	else
		REG64(RSP_FIELD) = sp & mask;
}

u64 stack_slot(struct kvm_vcpu *vcpu, u64 sp, unsigned int size, enum access access)
{
	return seg_linear(vcpu, SEG_SS, sp & stack_mask(vcpu), size, access);
}

void push_value(struct kvm_vcpu *vcpu, u64 value, unsigned int size)
{
	u64 sp = vcpu->ctl.gpr[RSP] - size;

	mem_write(vcpu, stack_slot(vcpu, sp, size, ACCESS_WRITE), size, value);
	set_stack_pointer(vcpu, sp);
}

u64 peek_value(struct kvm_vcpu *vcpu, u64 offset, unsigned int size)
{
	return mem_read(vcpu, stack_slot(vcpu, vcpu->ctl.gpr[RSP] + offset, size, ACCESS_READ),
			size);
}

u64 pop_value(struct kvm_vcpu *vcpu, unsigned int size)
{
	u64 value = peek_value(vcpu, 0, size);

	set_stack_pointer(vcpu, vcpu->ctl.gpr[RSP] + size);
	return value;
}

/* ---- PUSH ---- */

/* Of 64-bit code, and of flat 32-bit code with a 32-bit stack. VALUE has no side effects. */
#define PUSH_FAST(NAME, BITS, VALUE)                                                               \
	static COLD const struct uop *NAME##_slow(UOP_ARGS)                                        \
	{                                                                                          \
		vcpu->uop = u;                                                                     \
		push_value(vcpu, VALUE, BITS / 8);                                                 \
		return u + 1;                                                                      \
	}                                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		u64 sp = (u##BITS)(vcpu->ctl.gpr[RSP] - BITS / 8);                                 \
		void *p = tlb_pointer(vcpu, sp, BITS / 8, ACCESS_WRITE);                           \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return NAME##_slow(vcpu, u);                                               \
		*(volatile guest_u##BITS *)p = (u##BITS)(VALUE);                                   \
		vcpu->ctl.gpr[RSP] = sp;                                                           \
		uop_next(vcpu, u);                                                                 \
	}

PUSH_FAST(push_r_64, 64, REG64(u->rm))
PUSH_FAST(push_i_64, 64, u->imm)
PUSH_FAST(push_r_flat, 32, REG32(u->rm))
PUSH_FAST(push_i_flat, 32, u->imm)

#define PUSH_ANY(NAME, VALUE)                                                                      \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		vcpu->uop = u;                                                                     \
		push_value(vcpu, VALUE, 1u << u->osize);                                           \
		return u + 1;                                                                      \
	}

PUSH_ANY(push_r, reg_read(vcpu, u->rm, u->osize))
PUSH_ANY(push_i, u->imm)
PUSH_ANY(push_m, uop_read_rm(vcpu, u))

static int push_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->fn == push_r && chain_is_flat(insn, u))
		u->fn = push_r_flat;
	return 0;
}

const struct operation oper_push = {
	.name = "push",
	.build = push_build,
	.fn = {[FORM_RR] = {NULL, push_r, push_r, push_r_64},
	       [FORM_R] = {NULL, push_r, push_r, push_r_64},
	       [FORM_M] = {NULL, push_m, push_m, push_m}},
};

static int push_i_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->osize == SIZE_64)
		u->fn = push_i_64;
	else if (chain_is_flat(insn, u))
		u->fn = push_i_flat;
	return 0;
}

const struct operation oper_push_imm = {.name = "push", .any = push_i, .build = push_i_build};

/* PUSH Sreg: with a 32-bit operand some processors write 16 bits and leave the rest of the slot,
 * others zero-extend (SDM vol. 2, PUSH). */
static const struct uop *push_sreg(UOP_ARGS)
{
	unsigned int size = 1u << u->osize;
	u64 sp = vcpu->ctl.gpr[RSP] - size, linear;

	vcpu->uop = u;
	linear = stack_slot(vcpu, sp, size, ACCESS_WRITE);
	mem_write(vcpu, linear, size, vcpu->ctl.seg[u->imm].selector);
	set_stack_pointer(vcpu, sp);
	return u + 1;
}

/* 06, 0E, 16, 1E, 0F A0, 0F A8 */
static int push_sreg_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	u->imm = (insn->opcode >> 3) & 7;
	return 0;
}

const struct operation oper_push_sreg = {
	.name = "push_sreg",
	.any = push_sreg,
	.build = push_sreg_build,
};

/* ---- POP ---- */

#define POP_FAST(NAME, BITS)                                                                       \
	static COLD const struct uop *NAME##_slow(UOP_ARGS)                                        \
	{                                                                                          \
		u64 value;                                                                         \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		value = pop_value(vcpu, BITS / 8);                                                 \
		REG64(u->rm) = value;                                                              \
		return u + 1;                                                                      \
	}                                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		u64 sp = (u##BITS)vcpu->ctl.gpr[RSP];                                              \
		const void *p = tlb_pointer(vcpu, sp, BITS / 8, ACCESS_READ);                      \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return NAME##_slow(vcpu, u);                                               \
		vcpu->ctl.gpr[RSP] = (u##BITS)(sp + BITS / 8);                                     \
		REG64(u->rm) = *(const volatile guest_u##BITS *)p;                                 \
		uop_next(vcpu, u);                                                                 \
	}

POP_FAST(pop_r_64, 64)
POP_FAST(pop_r_flat, 32)

static const struct uop *pop_r(UOP_ARGS)
{
	vcpu->uop = u;
	reg_write(vcpu, u->rm, u->osize, pop_value(vcpu, 1u << u->osize));
	return u + 1;
}

static const struct uop *pop_m(UOP_ARGS)
{
	unsigned int size = 1u << u->osize;

	vcpu->uop = u;
	uop_write_rm(vcpu, u, peek_value(vcpu, 0, size));
	set_stack_pointer(vcpu, vcpu->ctl.gpr[RSP] + size);
	return u + 1;
}

/* An address that uses RSP is computed with RSP already moved. */
static int pop_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mem && u->base == RSP_FIELD)
		u->disp = (s32)((u32)u->disp + (1u << u->osize));
	if (u->fn == pop_r && chain_is_flat(insn, u))
		u->fn = pop_r_flat;
	return 0;
}

const struct operation oper_pop = {
	.name = "pop",
	.fn = {[FORM_RR] = {NULL, pop_r, pop_r, pop_r_64},
	       [FORM_R] = {NULL, pop_r, pop_r, pop_r_64},
	       [FORM_M] = {NULL, pop_m, pop_m, pop_m}},
	.build = pop_build,
};

/* ---- PUSHA, POPA, ENTER, LEAVE ---- */

OP(pusha)
{
	unsigned int size = 1u << u->osize, i;
	u64 sp = vcpu->ctl.gpr[RSP], linear;

	for (i = 1; i <= 8; i++) {
		linear = stack_slot(vcpu, sp - i * size, size, ACCESS_WRITE);
		mem_check_alignment(vcpu, linear, size);
		mem_probe_write(vcpu, linear, size);
	}
	for (i = 0; i < 8; i++)
		mem_write(vcpu, stack_slot(vcpu, sp - (i + 1) * size, size, ACCESS_WRITE), size,
			  vcpu->ctl.gpr[i]);
	set_stack_pointer(vcpu, sp - 8 * size);
}

OP(popa)
{
	unsigned int size = 1u << u->osize, i;
	u64 value[8];

	for (i = 0; i < 8; i++)
		value[i] = peek_value(vcpu, i * size, size);
	for (i = 0; i < 8; i++)
		if (7 - i != RSP)
			reg_write(vcpu, (u8)(8 * (7 - i)), u->osize, value[i]);
	set_stack_pointer(vcpu, vcpu->ctl.gpr[RSP] + 8 * size);
}

/* SDM vol. 2, ENTER. */
OP(enter)
{
	unsigned int size = 1u << u->osize, level = (u->imm >> 32) & 31, i;
	u64 sp = vcpu->ctl.gpr[RSP] - size, bp = vcpu->ctl.gpr[RBP], frame = sp, linear, v;

	mem_write(vcpu, stack_slot(vcpu, sp, size, ACCESS_WRITE), size, bp);
	for (i = 1; i < level; i++) {
		bp -= size;
		v = mem_read(vcpu, stack_slot(vcpu, bp, size, ACCESS_READ), size);
		sp -= size;
		mem_write(vcpu, stack_slot(vcpu, sp, size, ACCESS_WRITE), size, v);
	}
	if (level) {
		sp -= size;
		mem_write(vcpu, stack_slot(vcpu, sp, size, ACCESS_WRITE), size, frame);
	}
	sp -= u->imm & 0xffff;
	linear = stack_slot(vcpu, sp, size, ACCESS_WRITE);
	mem_check_alignment(vcpu, linear, size);
	mem_probe_write(vcpu, linear, size);
	reg_write(vcpu, 8 * RBP, u->osize, frame);
	set_stack_pointer(vcpu, sp);
}

OP(leave)
{
	unsigned int size = 1u << u->osize;
	u64 bp = vcpu->ctl.gpr[RBP];
	u64 value = mem_read(vcpu, stack_slot(vcpu, bp, size, ACCESS_READ), size);

	set_stack_pointer(vcpu, bp + size);
	reg_write(vcpu, 8 * RBP, u->osize, value);
}

const struct stack_fns stack_fns[2] = {
	{push_r_64, push_i_64, pop_r_64},
	{push_r_flat, push_i_flat, pop_r_flat},
};
