/* The stack as SS and its address size have it; faults are #SS and #PF. */
#ifndef SOFT_OPS_STACK_H
#define SOFT_OPS_STACK_H

#include "engine/soft/uop.h"

/* size is 2, 4 or 8; rSP moves when the access is done. */
void push_value(struct kvm_vcpu *vcpu, u64 value, unsigned int size);
u64 pop_value(struct kvm_vcpu *vcpu, unsigned int size);
/* The value at rSP + offset; nothing moves. */
u64 peek_value(struct kvm_vcpu *vcpu, u64 offset, unsigned int size);
/* Linear address of the slot at `sp`, cut to the stack's address size. */
u64 stack_slot(struct kvm_vcpu *vcpu, u64 sp, unsigned int size, enum access access);
/* Set rSP (its low 16 bits, with a 16-bit stack). */
void set_stack_pointer(struct kvm_vcpu *vcpu, u64 sp);

/* For the translator: [0]: of 64-bit code, [1]: of flat 32-bit code. */
struct stack_fns {
	uop_fn *push_r, *push_i, *pop_r;
};
extern const struct stack_fns stack_fns[2];

#endif
