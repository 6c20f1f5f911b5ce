/* The run loop, for the other files of the cpu. */
#ifndef SOFT_EXEC_H
#define SOFT_EXEC_H

#include "engine/soft/uop.h"

/* Why the run loop is come back to in the middle of an instruction. */
enum unwind {
	UNWIND_NONE,
	UNWIND_EXCEPTION, /* ctl.exception is pending */
	UNWIND_EXIT,	  /* vcpu->run holds an exit */
	UNWIND_STEP,	  /* execute it again, alone, for its device accesses */
};

/* Leave the operation under execution. Makes ctl.rip that of the instruction. raise_*() end
 * here once ctl.exception is filled (excp_queue()). */
_Noreturn void exec_unwind(struct kvm_vcpu *vcpu, enum unwind why);

/* The code at ctl.rip lies where no memory slot is: the exit is filled; always NULL. */
const struct uop *exec_no_code(struct kvm_vcpu *vcpu);

/*
 * Return when every other vCPU has been between two instructions, or outside guest code, since the
 * call. Carries out flushes that they ask of this one meanwhile.
 */
void exec_pass_boundary(struct kvm_vcpu *vcpu);

#endif
