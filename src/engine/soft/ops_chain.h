/*
 * How a branch of 64-bit or flat 32-bit code goes on in the next block: for ops_branch.c and
 * ops_fused.c. `u` is the uop of the branch.
 */
#ifndef SOFT_OPS_CHAIN_H
#define SOFT_OPS_CHAIN_H

#include "engine/soft/ops_int.h"

/* ctl.rip is that of the next block, which no link or jump cache entry gave: find it, or NULL when
 * the chain is to be left. way: of branch_links. */
const struct uop *chain_enter_linked(UOP_ARGS, unsigned int way);
const struct uop *chain_enter_looked_up(UOP_ARGS);

/* Flat 32-bit code with a 32-bit stack and this operand size: rip and rsp wrap at 32 bits, and no
 * segment needs a check. */
static inline bool chain_is_flat(const struct insn *insn, const struct uop *u)
{
	const u8 flat = MODE_FLAT | MODE_STACK32;

	return (insn->mode & flat) == flat && u->osize == SIZE_32;
}

static inline bool chain_exit_requested(const struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->exit_request, __ATOMIC_RELAXED);
}

static inline bool chain_jump_hits(const struct kvm_vcpu *vcpu, const struct jump_entry *e, u64 rip)
{
	return e->rip == rip && e->tag == vcpu->jump_tag[rip >> 63];
}

#define GO_LINKED(rip_value, way, count)                                                           \
	do {                                                                                       \
		const struct uop *to_ = ((const struct branch_links *)(u + 1))->to[way];           \
                                                                                                   \
		vcpu->ctl.rip = (rip_value);                                                       \
		vcpu->ctl.instructions += (count);                                                 \
		if (unlikely(!to_ || chain_exit_requested(vcpu)))                                  \
			return chain_enter_linked(vcpu, u, way);                                   \
		uop_goto(vcpu, to_);                                                               \
	} while (0)

#define GO_LOOKED_UP(rip_value, count)                                                             \
	do {                                                                                       \
		u64 rip_ = (rip_value);                                                            \
		const struct jump_entry *e_ = &vcpu_cpu(vcpu)->blocks.jump[jump_index(rip_)];      \
                                                                                                   \
		vcpu->ctl.rip = rip_;                                                              \
		vcpu->ctl.instructions += (count);                                                 \
		if (unlikely(!chain_jump_hits(vcpu, e_, rip_) || chain_exit_requested(vcpu)))      \
			return chain_enter_looked_up(vcpu, u);                                     \
		uop_goto(vcpu, e_->uop);                                                           \
	} while (0)

/* After the branch. */
#define FALL_RIP (vcpu->ctl.rip + u->off + u->len)

#define ALL_CC(M)                                                                                  \
	M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)

#endif
