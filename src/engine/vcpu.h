/*
 * One virtual CPU: a thread that repeats KVM_RUN and hands each exit to who must deal with it.
 *
 *   entry -> guest code -> exit (reason in struct kvm_run) -> handler -> entry ...
 *
 * State of a vCPU's thread, with who moves it:
 *
 *   NEW --vcpu_start--> PAUSED --vcpu_resume--> RUNNING --vcpu_pause--> PAUSED
 *   RUNNING --an exit that ends it--> ENDED (stays paused until vcpu_resume after a reset)
 *   any --vcpu_stop--> gone
 *
 * Unless stated, functions are for the main thread.
 */
#ifndef ENGINE_VCPU_H
#define ENGINE_VCPU_H

#include <linux/kvm.h>
#include <stdio.h>

#include "base/err.h"
#include "base/types.h"
#include "engine/vm.h"

struct vcpu;

/* Why a vCPU will not enter the guest again by itself. */
enum vcpu_end {
	VCPU_HALTED,   /* HLT without an interrupt controller: nothing can wake it */
	VCPU_SHUTDOWN, /* triple fault */
	VCPU_FAILED,   /* an exit that nobody can handle; the reason has been logged */
	VCPU_EVENT,    /* KVM_EXIT_SYSTEM_EVENT; value is its type */
};

/* Called on the vCPU's thread. */
struct vcpu_ops {
	void (*pio)(void *ctx, u16 port, bool write, unsigned int size, void *data, u32 count);
	void (*mmio)(void *ctx, u64 addr, bool write, unsigned int size, void *data);
	void (*ended)(void *ctx, struct vcpu *vcpu, enum vcpu_end end, u32 value);
};

/* Exit reasons that are counted; KVM has about 40, later ones share the last place. */
#define VCPU_EXIT_REASONS 48

struct vcpu_stats {
	u64 exits[VCPU_EXIT_REASONS];
	u64 handling_ns[VCPU_EXIT_REASONS]; /* in the monitor; only with vcpu_config.timed */
	u64 interrupted;		    /* KVM_RUN ended by a signal */
	u64 pio_string, pio_bytes;
};

struct vcpu_config {
	const struct engine_vm *vm;
	u32 index;   /* 0 is the boot processor */
	u32 apic_id; /* what KVM_CREATE_VCPU takes */
	const struct vcpu_ops *ops;
	void *ctx;
	bool timed;  /* measure the time spent handling */
	FILE *trace; /* one line an exit; NULL: none */
};

/* "KVM_EXIT_IO" and so on; "KVM_EXIT_?" for numbers without a name. */
const char *vcpu_exit_name(u32 reason);

/* Create it in the engine and map its kvm_run. No thread yet. NULL with the reason. */
struct vcpu *vcpu_new(const struct vcpu_config *config, struct err *err);
/* Stops the thread first. */
void vcpu_free(struct vcpu *vcpu);

u32 vcpu_index(const struct vcpu *vcpu);
const struct vcpu_stats *vcpu_get_stats(const struct vcpu *vcpu);
/* The page of the VM's coalesced ring, or NULL where the engine has none. */
struct kvm_coalesced_mmio_ring *vcpu_coalesced_ring(struct vcpu *vcpu);
/* The vCPU descriptor, for statistics. */
int vcpu_fd(const struct vcpu *vcpu);

/* An ioctl on the vCPU; only while it is not running. */
int vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *arg);

/* Power-on state: registers, segments, FPU, MSRs, LAPIC, events. index 0 becomes runnable at the
 * reset vector, the others wait for SIPI. Only while paused. 0 or -errno. */
int vcpu_reset(struct vcpu *vcpu);

/* Start the thread, paused. */
int vcpu_start(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);
/* Ask it to leave the guest; vcpu_wait_paused() waits until it has. Any thread but its own. */
void vcpu_pause(struct vcpu *vcpu);
void vcpu_wait_paused(struct vcpu *vcpu);

/* Registers and the bytes at rip, as a message of several lines, to the log as errors. While
 * paused, or on its own thread. */
void vcpu_dump(struct vcpu *vcpu);
/* For the dump: read guest-physical memory; 0 or -errno. */
void vcpu_set_memory_reader(struct vcpu *vcpu, int (*read)(void *ctx, u64 gpa, void *buf, u64 len),
			    void *ctx);

#endif
