/*
 * The executing back end from inside: how its files call each other.
 *
 *   decode.c    bytes to struct uop (every encoding); knows no vCPU state but the mode
 *   blocks.c    block cache keyed by (guest-physical pc, mode), code-page map, invalidation
 *   ops_*.c     one C function an operation; the table is ops.def
 *   native*.c   SSE, AVX, x87, crypto, BMI, MUL/DIV: the host executes the guest's instruction
 *   mmu.c/.h    page walk, TLB, linear access with the hit path inlined
 *   seg.c       segment loads, far transfers, gates, task switches
 *   excp.c      exceptions, interrupts, IRET
 *   ops_sys.c   control and debug registers, SYSCALL..., MSR, descriptor tables, I/O
 *   exec.c      the run loop, exits and their completion, interpreter_ops
 *
 * Faults: an operation that cannot complete calls raise_*(), which does not return: it jumps back
 * to the run loop, which delivers the exception. Until it commits, an operation has therefore
 * changed nothing architectural: all reads, checks and write-permission probes come first. rip is
 * that of the faulting instruction then (the loop keeps it).
 *
 * These files are compiled with -mgeneral-regs-only, except native*.c.
 */
#ifndef CPU_INT_H
#define CPU_INT_H

#include "engine/soft/mmu.h"
#include "engine/soft/soft_int.h"

/* Leave the operation: deliver this exception. Return address and state are those before the
 * instruction. */
_Noreturn void raise_exception(struct kvm_vcpu *vcpu, u8 vector);
_Noreturn void raise_exception_error(struct kvm_vcpu *vcpu, u8 vector, u32 error_code);
_Noreturn void raise_page_fault(struct kvm_vcpu *vcpu, u64 linear, u32 error_code);
#define raise_gp(vcpu, error) raise_exception_error(vcpu, GP_VECTOR, error)
#define raise_ud(vcpu)	      raise_exception(vcpu, UD_VECTOR)

/* Leave the operation for the user (run->exit_reason is filled). The instruction is not complete;
 * after the user's part it is executed again, and then finds its data (exec.c, completion). */
_Noreturn void exit_to_user(struct kvm_vcpu *vcpu);

/* ---- memory: mmu.h; struct mmu is the first member of struct cpu ---- */

/* Segment base + offset with all checks (limit, type, canonical); raises #GP or #SS. In 64-bit
 * mode only FS and GS have bases and only the canonical check remains. */
u64 seg_linear(struct kvm_vcpu *vcpu, int seg, u64 offset, unsigned int size, enum access access);

/* ---- mode ---- */
static inline bool is_long_mode(const struct kvm_vcpu *v)
{
	return v->ctl.efer & EFER_LMA;
}
static inline bool is_64bit(const struct kvm_vcpu *v)
{
	return is_long_mode(v) && v->ctl.seg[SEG_CS].l;
}
static inline bool is_protected(const struct kvm_vcpu *v)
{
	return v->ctl.cr0 & 1;
}
static inline bool is_v86(const struct kvm_vcpu *v)
{
	return (v->ctl.cr0 & 1) && (v->ctl.rflags & (1u << 17)) && !is_long_mode(v);
}

#endif
