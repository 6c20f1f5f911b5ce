/*
 * A vCPU made by hand for tests of the memory and system side: one kvm, a few slots over plain
 * buffers, and stand-ins for what the run loop, the block cache, the chips and the api do.
 */
#ifndef TEST_SOFT_FAKE_H
#define TEST_SOFT_FAKE_H

#include <asm/processor-flags.h>
#include <errno.h>
#include <setjmp.h>

#include "engine/soft/cpu.h"
#include "engine/soft/flags.h"

#define FAKE_RAM_SIZE (4 * MiB)

enum fake_outcome { FAKE_DONE, FAKE_EXCEPTION, FAKE_EXIT, FAKE_STEP };

struct fake {
	struct kvm kvm;
	struct kvm_vcpu vcpu, other;
	struct cpu *cpu;
	u8 *ram;
	struct kvm_memory_slot slot[4];
	u32 nr_slots;
	/* what happened */
	u8 vector;
	bool has_error;
	u32 error;
	u64 cr2;
	u64 code_page; /* the page said to hold code; ~0: none */
	u64 code_written;
	u32 code_written_len;
	/* the device that answers in the kernel, at bus address dev (8 bytes long) */
	u64 dev, dev_value;
	u32 dev_reads, dev_writes, mode_updates;
};

extern struct fake *fake;
extern jmp_buf fake_jmp;

/* Fresh: RAM at 0, vCPU 64-bit, paging off, CPL 0. */
void fake_new(void);
void fake_free(void);
struct kvm_memory_slot *fake_add_slot(u64 gpa, u64 len, u8 *hva, u32 flags);

/* Run an expression that may raise; evaluates to an enum fake_outcome. */
#define FAKE_TRY(expr)                                                                             \
	({                                                                                         \
		int outcome_ = setjmp(fake_jmp);                                                   \
		if (!outcome_)                                                                     \
			(void)(expr);                                                              \
		(enum fake_outcome) outcome_;                                                      \
	})

static inline guest_u64 *ram64(u64 gpa)
{
	return (guest_u64 *)(fake->ram + gpa);
}

static inline guest_u32 *ram32(u64 gpa)
{
	return (guest_u32 *)(fake->ram + gpa);
}

#endif
