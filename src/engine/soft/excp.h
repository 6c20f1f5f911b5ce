/*
 * Exceptions, interrupts and debug traps. The vCPU's thread.
 *
 * How exec.c uses it: raise_*() calls excp_queue() and jumps to the run loop; the loop makes
 * ctl.rip that of the instruction, and while ctl.exception.pending calls excp_deliver(), which may
 * raise in its turn. Between instructions it calls excp_trap() and excp_code_breakpoint() where a
 * step is due or something is armed (mmu.watch_hits, mmu.code_watch).
 */
#ifndef SOFT_EXCP_H
#define SOFT_EXCP_H

#include "engine/soft/cpu_int.h"

/*
 * Put an exception into ctl.exception. One raised while another event is being delivered is merged
 * with it: #DF, or a triple fault, which leaves for the user (KVM_EXIT_SHUTDOWN). payload: CR2 of
 * #PF (loaded at once), DR6 bits of #DB.
 */
void excp_queue(struct kvm_vcpu *vcpu, u8 vector, bool has_error, u32 error, u64 payload);

/* All of these start at ctl.rip and leave ctl.rip at the handler; they raise. */
void excp_deliver(struct kvm_vcpu *vcpu); /* ctl.exception; takes it */
void excp_interrupt(struct kvm_vcpu *vcpu, u8 vector);
void excp_nmi(struct kvm_vcpu *vcpu);

/* INT n, INT3 and INTO, INT1: the new RIP. next: the address after the instruction. */
enum soft_event { SOFT_INT, SOFT_EXCEPTION, SOFT_PRIVILEGED };
u64 excp_software(struct kvm_vcpu *vcpu, enum soft_event kind, u8 vector, u64 next);

/*
 * After an instruction: data watchpoints it touched, the task's T bit and, with `step`, the single
 * step. Queues #DB, or leaves for the debugger with KVM_EXIT_DEBUG. Nothing in the shadow of MOV
 * SS.
 */
void excp_trap(struct kvm_vcpu *vcpu, bool step);
/* Before the instruction at ctl.rip, when mmu.code_watch: the same for its address. True when #DB
 * was queued. */
bool excp_code_breakpoint(struct kvm_vcpu *vcpu);
/* KVM_EXIT_DEBUG: exception 1 or 3 at ctl.rip. */
_Noreturn void exit_debug(struct kvm_vcpu *vcpu, u8 exception, u64 dr6);

#endif
