/* Device accesses for the system operations (see the protocol in mmu.h). */
#ifndef SOFT_IO_H
#define SOFT_IO_H

#include "engine/soft/soft_int.h"

/* One access of 1 to 8 bytes (a port: 1, 2 or 4), read into or written from data. Returns only when
 * it is done. */
void io_access(struct kvm_vcpu *vcpu, bool port, u64 addr, unsigned int len, bool write,
	       void *data);

/* May this code touch the port? #GP(0) where not. */
void io_check_port(struct kvm_vcpu *vcpu, u16 port, unsigned int size);

/* IN and OUT: the only access of their instruction, so what answers here needs no stepping. */
void io_port(struct kvm_vcpu *vcpu, u16 port, unsigned int size, bool write, void *data);

/*
 * INS, OUTS: `count` (at least 1) transfers of `size` with vcpu->pio_data, at most a page. Returns
 * how many were done, 1 to count; fewer are an iteration boundary like any other. The user gets all
 * of them in one exit; when that is over and the instruction runs again, io_string_answered() is
 * true and says how many: OUTS must not fill pio_data then.
 */
u32 io_string(struct kvm_vcpu *vcpu, u16 port, unsigned int size, u32 count, bool write);
bool io_string_answered(struct kvm_vcpu *vcpu, u32 *count);

/*
 * Have the user do what the instruction asks for: vcpu->run is filled but for this exit reason.
 * When that is over the instruction runs again, and io_user_answered() is true.
 */
_Noreturn void io_ask_user(struct kvm_vcpu *vcpu, u32 reason, u64 qualification);
bool io_user_answered(const struct kvm_vcpu *vcpu);

/* KVM_EXIT_INTERNAL_ERROR with a KVM_INTERNAL_ERROR_*. */
_Noreturn void exit_internal_error(struct kvm_vcpu *vcpu, u32 suberror);

#endif
