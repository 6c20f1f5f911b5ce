/*
 * Near branches, and the ends of blocks that are no instruction.
 *
 * In 64-bit mode and in flat 32-bit mode a branch goes straight on in the next block, through its
 * link or the jump cache; elsewhere (and for 16-bit operands) it leaves for the loop, which looks
 * the next block up with the checks of CS. exit_request is looked at here, once a block.
 */
#include "engine/soft/ops_branch.h"
#include "engine/soft/ops_chain.h"
#include "engine/soft/ops_int.h"
#include "engine/soft/ops_stack.h"

/* ---- the ways on ---- */

const struct uop *chain_enter_linked(UOP_ARGS, unsigned int way)
{
	struct branch_links *links = (struct branch_links *)(u + 1);
	struct blocks *b = &vcpu_cpu(vcpu)->blocks;
	const struct jump_entry *e = &b->jump[jump_index(vcpu->ctl.rip)];
	u32 drops = b->drops;
	const struct uop *to;

	vcpu->uop = &uop_between;
	if (__atomic_load_n(&vcpu->exit_request, __ATOMIC_ACQUIRE))
		return NULL;
	if (!links->same_page[way] && chain_jump_hits(vcpu, e, vcpu->ctl.rip))
		return e->uop;
	to = blocks_enter(vcpu);
	/* The arena may have been emptied, and this block with it. A block that goes on in another
	 * page is right only while that is mapped as it was: the jump cache knows. */
	if (to && links->same_page[way] && drops == b->drops &&
	    container_of(to, struct block, uop[0])->gpa2 == NO_GPA)
		links->to[way] = to;
	return to;
}

COLD const struct uop *chain_enter_looked_up(UOP_ARGS)
{
	vcpu->uop = &uop_between;
	if (__atomic_load_n(&vcpu->exit_request, __ATOMIC_ACQUIRE))
		return NULL;
	return blocks_enter(vcpu);
}

/* The end of a block without a branch: at the page's end, or full. */
#define FALL(BITS)                                                                                 \
	static const struct uop *fall_##BITS(UOP_ARGS)                                             \
	{                                                                                          \
		GO_LINKED((u##BITS)(vcpu->ctl.rip + u->off), 1, u->nr);                            \
	}
FALL(64)
FALL(32)

static const struct uop *fall(UOP_ARGS)
{
	vcpu->ctl.instructions += u->nr;
	vcpu->ctl.rip = uop_rip(vcpu, u);
	vcpu->uop = &uop_between;
	return NULL;
}

void branch_make_fall(struct uop *u, unsigned int off, unsigned int nr, bool mode64, bool chain)
{
	*u = (struct uop){.fn = !chain	 ? fall
				: mode64 ? fall_64
					 : fall_32,
			  .off = (u16)off,
			  .nr = (u8)nr,
			  .mode64 = mode64};
}

/* Takes the place of every operation of a dropped block. */
const struct uop *branch_dropped(UOP_ARGS)
{
	return fall(vcpu, u);
}

/* ---- targets ---- */

static u64 wrap(const struct uop *u, u64 rip)
{
	return u->mode64 ? rip : u->osize == SIZE_16 ? (u16)rip : (u32)rip;
}

/* A target outside CS's limit, or not canonical: #GP(0) before anything has changed. */
static u64 check_target(struct kvm_vcpu *vcpu, const struct uop *u, u64 rip)
{
	if (u->mode64) {
		if ((s64)(rip << 16) >> 16 != (s64)rip)
			raise_gp(vcpu, 0);
		return rip;
	}
	rip = wrap(u, rip);
	if (rip > vcpu->ctl.seg[SEG_CS].limit)
		raise_gp(vcpu, 0);
	return rip;
}

/* ---- JMP, Jcc ---- */

/* far: to another page */
#define JMP(BITS)                                                                                  \
	static const struct uop *jmp_##BITS(UOP_ARGS)                                              \
	{                                                                                          \
		GO_LINKED((u##BITS)(vcpu->ctl.rip + u->imm), 0, u->nr + 1u);                       \
	}                                                                                          \
	static const struct uop *jmp_far_##BITS(UOP_ARGS)                                          \
	{                                                                                          \
		GO_LOOKED_UP((u##BITS)(vcpu->ctl.rip + u->imm), u->nr + 1u);                       \
	}
JMP(64)
JMP(32)

OP_BRANCH(jmp_any)
{
	return check_target(vcpu, u, vcpu->ctl.rip + u->imm);
}

#define JCC(CC, BITS)                                                                              \
	static const struct uop *jcc_##CC##_##BITS(UOP_ARGS)                                       \
	{                                                                                          \
		if (flags_cond(vcpu->aflags, CC))                                                  \
			GO_LINKED((u##BITS)(vcpu->ctl.rip + u->imm), 0, u->nr + 1u);               \
		GO_LINKED((u##BITS)FALL_RIP, 1, u->nr + 1u);                                       \
	}
#define JCC_BOTH(CC) JCC(CC, 64) JCC(CC, 32)
ALL_CC(JCC_BOTH)

#define NAME_64(CC) jcc_##CC##_64,
#define NAME_32(CC) jcc_##CC##_32,
static uop_fn *const jcc_64[16] = {ALL_CC(NAME_64)};
static uop_fn *const jcc_32[16] = {ALL_CC(NAME_32)};

OP_BRANCH(jcc_any)
{
	if (flags_cond(vcpu->aflags, u->vreg))
		return check_target(vcpu, u, vcpu->ctl.rip + u->imm);
	return uop_next_rip(vcpu, u);
}

static int jmp_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mode64)
		u->fn = jmp_64;
	else if (chain_is_flat(insn, u))
		u->fn = jmp_32;
	return 0;
}

static int jcc_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mode64)
		u->fn = jcc_64[u->vreg];
	else if (chain_is_flat(insn, u))
		u->fn = jcc_32[u->vreg];
	return 0;
}

const struct operation oper_jmp = {
	.name = "jmp",
	.any = op_jmp_any,
	.ends = true,
	.build = jmp_build,
};
const struct operation oper_jcc = {
	.name = "jcc",
	.any = op_jcc_any,
	.ends = true,
	.build = jcc_build,
};

bool branch_is_jcc(const struct uop *u)
{
	return u->vreg < 16 && u->fn == jcc_64[u->vreg];
}

void branch_link(struct uop *u, u64 page_off)
{
	struct branch_links *links = (struct branch_links *)(u + 1);
	u64 fall = page_off + u->off + u->len;

	memset(links, 0, sizeof(*links));
	links->same_page[0] = page_off + u->imm < PAGE_SIZE;
	links->same_page[1] = fall < PAGE_SIZE;
	if (u->fn == jmp_64 && !links->same_page[0])
		u->fn = jmp_far_64;
	if (u->fn == jmp_32 && !links->same_page[0])
		u->fn = jmp_far_32;
}

/* LOOP, LOOPE, LOOPNE, JCXZ: the counter is as wide as the address size. */
static bool count_down(struct kvm_vcpu *vcpu, const struct uop *u, bool more)
{
	u64 mask = size_mask(u->asize), count = (vcpu->ctl.gpr[RCX] - 1) & mask;

	if (count && more)
		check_target(vcpu, u, vcpu->ctl.rip + u->imm);
	reg_write(vcpu, 8 * RCX, u->asize, count);
	return count && more;
}

#define LOOP(NAME, TAKEN)                                                                          \
	OP_BRANCH(NAME)                                                                            \
	{                                                                                          \
		return TAKEN ? check_target(vcpu, u, vcpu->ctl.rip + u->imm)                       \
			     : uop_next_rip(vcpu, u);                                              \
	}
LOOP(loopne, count_down(vcpu, u, !(vcpu->aflags & AF_ZF)))
LOOP(loope, count_down(vcpu, u, vcpu->aflags &AF_ZF))
LOOP(loop, count_down(vcpu, u, true))
LOOP(jcxz, !(vcpu->ctl.gpr[RCX] & size_mask(u->asize)))

/* ---- CALL, RET, indirect ---- */

static COLD void probe_push(struct kvm_vcpu *vcpu, u64 sp, unsigned int size)
{
	u64 linear = stack_slot(vcpu, sp, size, ACCESS_WRITE);

	mem_check_alignment(vcpu, linear, size);
	mem_probe_write(vcpu, linear, size);
}

/* A fault of the push comes before that of the target. */
static u64 check_call_target(struct kvm_vcpu *vcpu, const struct uop *u, u64 rip)
{
	unsigned int size = 1u << u->osize;
	u64 sp = vcpu->ctl.gpr[RSP] - size;

	if (u->mode64 && unlikely((s64)(rip << 16) >> 16 != (s64)rip))
		probe_push(vcpu, sp, size);
	return check_target(vcpu, u, rip);
}

static COLD const struct uop *call_slow(UOP_ARGS)
{
	u64 target;

	vcpu->uop = u;
	target = check_call_target(vcpu, u, vcpu->ctl.rip + u->imm);
	push_value(vcpu, uop_next_rip(vcpu, u), 1u << u->osize);
	return uop_leave(vcpu, u, target);
}

#define CALL(BITS)                                                                                 \
	static const struct uop *call_##BITS(UOP_ARGS)                                             \
	{                                                                                          \
		u64 sp = (u##BITS)(vcpu->ctl.gpr[RSP] - BITS / 8);                                 \
		void *p = tlb_pointer(vcpu, sp, BITS / 8, ACCESS_WRITE);                           \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return call_slow(vcpu, u);                                                 \
		*(volatile guest_u##BITS *)p = (u##BITS)FALL_RIP;                                  \
		vcpu->ctl.gpr[RSP] = sp;                                                           \
		GO_LOOKED_UP((u##BITS)(vcpu->ctl.rip + u->imm), u->nr + 1u);                       \
	}
CALL(64)
CALL(32)

static int call_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mode64)
		u->fn = call_64;
	else if (chain_is_flat(insn, u))
		u->fn = call_32;
	return 0;
}

const struct operation oper_call = {
	.name = "call",
	.any = call_slow,
	.ends = true,
	.build = call_build,
};

static COLD const struct uop *ret_slow(UOP_ARGS)
{
	unsigned int size = 1u << u->osize;
	u64 target;

	vcpu->uop = u;
	target = check_target(vcpu, u, peek_value(vcpu, 0, size));
	set_stack_pointer(vcpu, vcpu->ctl.gpr[RSP] + size + u->imm);
	return uop_leave(vcpu, u, target);
}

#define CANONICAL_64(rip) ((s64)((rip) << 16) >> 16 == (s64)(rip))
#define CANONICAL_32(rip) true

#define RET(BITS)                                                                                  \
	static const struct uop *ret_##BITS(UOP_ARGS)                                              \
	{                                                                                          \
		u64 sp = (u##BITS)vcpu->ctl.gpr[RSP], target;                                      \
		const void *p = tlb_pointer(vcpu, sp, BITS / 8, ACCESS_READ);                      \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return ret_slow(vcpu, u);                                                  \
		target = *(const volatile guest_u##BITS *)p;                                       \
		if (unlikely(!CANONICAL_##BITS(target)))                                           \
			return ret_slow(vcpu, u);                                                  \
		vcpu->ctl.gpr[RSP] = (u##BITS)(sp + BITS / 8 + u->imm);                            \
		GO_LOOKED_UP(target, u->nr + 1u);                                                  \
	}
RET(64)
RET(32)

static int ret_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mode64)
		u->fn = ret_64;
	else if (chain_is_flat(insn, u))
		u->fn = ret_32;
	return 0;
}

const struct operation oper_ret = {
	.name = "ret",
	.any = ret_slow,
	.ends = true,
	.build = ret_build,
};

OP_BRANCH(jmp_rm_any)
{
	return check_target(vcpu, u, uop_read_rm(vcpu, u));
}

OP_BRANCH(call_rm_any)
{
	u64 target = check_call_target(vcpu, u, uop_read_rm(vcpu, u));

	push_value(vcpu, uop_next_rip(vcpu, u), 1u << u->osize);
	return target;
}

#define INDIRECT(BITS)                                                                             \
	static const struct uop *jmp_r_##BITS(UOP_ARGS)                                            \
	{                                                                                          \
		u64 target = REG##BITS(u->rm);                                                     \
                                                                                                   \
		if (unlikely(!CANONICAL_##BITS(target)))                                           \
			return op_jmp_rm_any(vcpu, u);                                             \
		GO_LOOKED_UP(target, u->nr + 1u);                                                  \
	}                                                                                          \
	static const struct uop *jmp_m_##BITS(UOP_ARGS)                                            \
	{                                                                                          \
		const void *p;                                                                     \
		u64 target;                                                                        \
                                                                                                   \
		FAST_LINEAR(linear, return op_jmp_rm_any(vcpu, u))                                 \
		p = tlb_pointer(vcpu, linear, BITS / 8, ACCESS_READ);                              \
		if (unlikely(!p))                                                                  \
			return op_jmp_rm_any(vcpu, u);                                             \
		target = *(const volatile guest_u##BITS *)p;                                       \
		if (unlikely(!CANONICAL_##BITS(target)))                                           \
			return op_jmp_rm_any(vcpu, u);                                             \
		GO_LOOKED_UP(target, u->nr + 1u);                                                  \
	}                                                                                          \
	static const struct uop *call_r_##BITS(UOP_ARGS)                                           \
	{                                                                                          \
		u64 target = REG##BITS(u->rm), sp = (u##BITS)(vcpu->ctl.gpr[RSP] - BITS / 8);      \
		void *p = tlb_pointer(vcpu, sp, BITS / 8, ACCESS_WRITE);                           \
                                                                                                   \
		if (unlikely(!p || !CANONICAL_##BITS(target)))                                     \
			return op_call_rm_any(vcpu, u);                                            \
		*(volatile guest_u##BITS *)p = (u##BITS)FALL_RIP;                                  \
		vcpu->ctl.gpr[RSP] = sp;                                                           \
		GO_LOOKED_UP(target, u->nr + 1u);                                                  \
	}                                                                                          \
	static const struct uop *call_m_##BITS(UOP_ARGS)                                           \
	{                                                                                          \
		u64 sp = (u##BITS)(vcpu->ctl.gpr[RSP] - BITS / 8), target;                         \
		const void *p;                                                                     \
		void *stack;                                                                       \
                                                                                                   \
		FAST_LINEAR(linear, return op_call_rm_any(vcpu, u))                                \
		p = tlb_pointer(vcpu, linear, BITS / 8, ACCESS_READ);                              \
		stack = tlb_pointer(vcpu, sp, BITS / 8, ACCESS_WRITE);                             \
		if (unlikely(!p || !stack))                                                        \
			return op_call_rm_any(vcpu, u);                                            \
		target = *(const volatile guest_u##BITS *)p;                                       \
		if (unlikely(!CANONICAL_##BITS(target)))                                           \
			return op_call_rm_any(vcpu, u);                                            \
		*(volatile guest_u##BITS *)stack = (u##BITS)FALL_RIP;                              \
		vcpu->ctl.gpr[RSP] = sp;                                                           \
		GO_LOOKED_UP(target, u->nr + 1u);                                                  \
	}
INDIRECT(64)
INDIRECT(32)

static int jmp_rm_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mode64)
		u->fn = u->mem ? jmp_m_64 : jmp_r_64;
	else if (chain_is_flat(insn, u))
		u->fn = u->mem ? jmp_m_32 : jmp_r_32;
	return 0;
}

static int call_rm_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (u->mode64)
		u->fn = u->mem ? call_m_64 : call_r_64;
	else if (chain_is_flat(insn, u))
		u->fn = u->mem ? call_m_32 : call_r_32;
	return 0;
}

const struct operation oper_jmp_rm = {
	.name = "jmp_rm",
	.any = op_jmp_rm_any,
	.ends = true,
	.build = jmp_rm_build,
};
const struct operation oper_call_rm = {
	.name = "call_rm",
	.any = op_call_rm_any,
	.ends = true,
	.build = call_rm_build,
};

const struct branch_fns branch_fns[2] = {
	{jmp_64, jmp_far_64, fall_64, call_64, ret_64, jmp_r_64, jmp_m_64, call_r_64, call_m_64,
	 jcc_64},
	{jmp_32, jmp_far_32, fall_32, call_32, ret_32, jmp_r_32, jmp_m_32, call_r_32, call_m_32,
	 jcc_32},
};
