/* A whole virtual machine's worth of random state, for the API (soft_vm.c). */
#ifndef FUZZ_SOFT_VM_H
#define FUZZ_SOFT_VM_H

#include <linux/kvm.h>

#include "base/types.h"

/* Guest-physical. */
#define VM_RAM	     0x100000u /* bytes at 0 */
#define VM_ROM	     0x100000u
#define VM_ROM_SIZE  0x10000u
#define VM_LOGGED    0x200000u
#define VM_LOG_SIZE  0x10000u
#define VM_ZONE	     0x300000u /* coalesced */
#define VM_DOORBELL  0x301000u
#define VM_IDT	     0x1000u
#define VM_GDT	     0x2000u
#define VM_TSS	     0x3000u
#define VM_TABLES    0x8000u /* page tables, four pages */
#define VM_CODE	     0x10000u
#define VM_DATA	     0x20000u
#define VM_STACK     0x40000u
#define VM_CODE_SIZE 2048u

enum vm_mode {
	VM_REAL,
	VM_PROTECTED_16,
	VM_PROTECTED_32,
	VM_PAGED_32,
	VM_PAE,
	VM_LONG,
	VM_COMPAT,
	VM_V86,
	VM_MODES
};

enum {
	VM_STEP = 1,	      /* the user steps */
	VM_WILD_TABLES = 2,   /* descriptors at random */
	VM_WILD_PAGES = 4,    /* page table entries at random */
	VM_WILD_SEGMENTS = 8, /* hidden parts at random */
	VM_DEBUG = 16,	      /* breakpoints: the guest's, or the user's with VM_STEP */
	VM_CHANGES = 32,      /* slots, routing and CPUID change between exits */
	VM_INTERRUPTS = 64,   /* lines, MSIs and NMIs come */
	VM_EVENT = 128	      /* begin with an event injected */
};

struct vm_header {
	u64 seed;
	u8 mode, flags, cpl, chips; /* chips: 0 none, 1 all, 2 split, and so on from there */
	u32 cr4, rflags;
} PACKED;

struct vm_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_guest_debug debug;
	struct kvm_debugregs debugregs;
};

/* The next random number, and one with a liking for values that mean something. */
u64 vm_random(u64 *seed);
u64 vm_interesting(u64 *seed);

/* Fill low memory and the state. s: as after reset. */
void vm_make_state(const struct vm_header *h, u64 *seed, u8 *ram, struct vm_state *s);

#endif
