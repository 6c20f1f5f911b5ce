/*
 * Counters of a vCPU and of a VM, as KVM_GET_STATS_FD shows them: one list makes the structure, the
 * names and the descriptors. A counter has one writer, the vCPU's thread, and is read by others as
 * it stands; a name that Linux KVM has means the same here.
 */
#ifndef STAT_H
#define STAT_H

#include "base/types.h"

/* X(name, type): C cumulative, I instantaneous, P peak. */
#define VCPU_STATS(X)                                                                              \
	X(exits, C)		   /* returns of KVM_RUN to the user */                            \
	X(io_exits, C)		   /* of these, KVM_EXIT_IO */                                     \
	X(mmio_exits, C)	   /* KVM_EXIT_MMIO */                                             \
	X(halt_exits, C)	   /* HLT executed */                                              \
	X(signal_exits, C)	   /* EINTR */                                                     \
	X(irq_window_exits, C)	   /* KVM_EXIT_IRQ_WINDOW_OPEN */                                  \
	X(request_irq_exits, C)	   /* -EINTR by immediate_exit */                                  \
	X(io_handled, C)	   /* port accesses that chips here or an ioeventfd took */        \
	X(mmio_handled, C)	   /* likewise memory accesses */                                  \
	X(coalesced_writes, C)	   /* writes queued in the ring */                                 \
	X(irq_injections, C)	   /* interrupts delivered to the guest */                         \
	X(nmi_injections, C)	   /* */                                                           \
	X(exceptions, C)	   /* delivered to the guest (cpu) */                              \
	X(hypercalls, C)	   /* */                                                           \
	X(halt_wakeup, C)	   /* waits after HLT that ended by an event */                    \
	X(halt_attempted_poll, C)  /* waits that began with a spin */                              \
	X(halt_successful_poll, C) /* of these, those that ended within it */                      \
	X(halt_poll_success_ns, C) /* time in spins that did */                                    \
	X(halt_poll_fail_ns, C)	   /* and that did not */                                          \
	X(halt_wait_ns, C)	   /* time asleep in HLT */                                        \
	X(instructions, C)	   /* guest instructions retired (cpu) */                          \
	X(tlb_fill, C)		   /* page walks (cpu) */                                          \
	X(tlb_flush, C)		   /* whole flushes (cpu) */                                       \
	X(invlpg, C)		   /* */                                                           \
	X(pf_guest, C)		   /* page faults delivered (cpu) */                               \
	X(blocks_decoded, C)	   /* (cpu) */                                                     \
	X(blocks_translated, C)	   /* to host code (cpu) */                                        \
	X(blocks_invalidated, C)   /* by writes to code (cpu) */                                   \
	X(native_stubs, C)	   /* operations built for the host to execute (cpu) */            \
	X(msr_reads, C)		   /* */                                                           \
	X(msr_writes, C)	   /* */                                                           \
	X(cpuid, C)		   /* */                                                           \
	X(req_event, C)		   /* KVM_REQ_EVENT taken */                                       \
	X(parked, C)		   /* times stopped for a structure change */                      \
	X(guest_mode, I)	   /* 1 inside guest code */

struct vcpu_stat {
#define X(name, type) u64 name;
	VCPU_STATS(X)
#undef X
};

#define VM_STATS(X)                                                                                \
	X(memslot_changes, C)                                                                      \
	X(memslots, I)                                                                             \
	X(dirty_log_reads, C)                                                                      \
	X(irqs_raised, C) /* KVM_IRQ_LINE, irqfd and chips, lines that went up */                  \
	X(msis, C)                                                                                 \
	X(ipis, C)                                                                                 \
	X(timer_expiries, C)                                                                       \
	X(code_flushes, C)

struct vm_stat {
#define X(name, type) u64 name;
	VM_STATS(X)
#undef X
};

#endif
