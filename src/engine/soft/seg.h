/*
 * Segments: descriptors, loads, stacks, far transfers, task switches. All on the vCPU's thread;
 * whatever does not hold raises with the manual's error code before anything has changed. What
 * changes CS, SS or CPL calls cpu_update_mode() itself.
 */
#ifndef SOFT_SEG_H
#define SOFT_SEG_H

#include "engine/soft/uop.h"

/* ---- descriptors ---- */

struct desc {
	u64 addr; /* linear address of the descriptor */
	u64 raw;
	u64 high; /* second half of a system descriptor in long mode, when asked for */
};

static inline u8 desc_type(const struct desc *d)
{
	return (d->raw >> 40) & 15;
}
static inline bool desc_s(const struct desc *d)
{
	return (d->raw >> 44) & 1;
}
static inline u8 desc_dpl(const struct desc *d)
{
	return (d->raw >> 45) & 3;
}
static inline bool desc_present(const struct desc *d)
{
	return (d->raw >> 47) & 1;
}
static inline bool desc_long(const struct desc *d)
{
	return (d->raw >> 53) & 1;
}
static inline bool desc_db(const struct desc *d)
{
	return (d->raw >> 54) & 1;
}
static inline bool desc_code(const struct desc *d)
{
	return desc_s(d) && (desc_type(d) & 8);
}
static inline bool desc_conforming(const struct desc *d)
{
	return desc_type(d) & 4;
}
u32 desc_limit(const struct desc *d); /* in bytes */

/* System descriptor types. */
enum {
	DESC_TSS16 = 1,
	DESC_LDT = 2,
	DESC_TSS16_BUSY = 3,
	DESC_CALL16 = 4,
	DESC_TASK = 5,
	DESC_INT16 = 6,
	DESC_TRAP16 = 7,
	DESC_TSS32 = 9, /* and 64 */
	DESC_TSS32_BUSY = 11,
	DESC_CALL32 = 12,
	DESC_INT32 = 14,
	DESC_TRAP32 = 15
};

static inline bool selector_null(u16 selector)
{
	return !(selector & ~3);
}

/* Read the descriptor of a selector that is not null; false where its table ends before it. */
bool desc_read(struct kvm_vcpu *vcpu, u16 selector, struct desc *d);
/* The second half too; false as above. */
bool desc_read_wide(struct kvm_vcpu *vcpu, u16 selector, struct desc *d);
/* Set the accessed bit of a code or data descriptor in memory, and in *d. */
void desc_set_accessed(struct kvm_vcpu *vcpu, struct desc *d);
void desc_to_segment(const struct desc *d, u16 selector, struct segment *s);
/* A null selector's segment. */
void segment_null(struct segment *s, u16 selector);
/* What V86 mode and real mode make of a selector. */
void segment_v86(struct segment *s, u16 selector);

/* ---- loads ---- */

/* MOV, POP, LxS into ES, SS, DS, FS, GS (not CS), in any mode. */
void seg_load(struct kvm_vcpu *vcpu, int seg, u16 selector);
/*
 * Check a selector for a data segment register (a stack) at `cpl` and make its segment; faults of
 * the selector are `vector` (#GP, or #TS in task switches and inner stacks) with ext in the error
 * code.
 */
void seg_check_data(struct kvm_vcpu *vcpu, u16 selector, u8 cpl, u8 vector, struct segment *out);
void seg_check_stack(struct kvm_vcpu *vcpu, u16 selector, u8 cpl, u8 vector, u32 ext,
		     struct segment *out);
/* After CPL went down in privilege: null what it may not keep. */
void seg_drop_inner(struct kvm_vcpu *vcpu);

void seg_lldt(struct kvm_vcpu *vcpu, u16 selector);
void seg_ltr(struct kvm_vcpu *vcpu, u16 selector);
/* LAR, LSL: false when ZF is to be cleared. VERR, VERW likewise. */
bool seg_lar(struct kvm_vcpu *vcpu, u16 selector, u32 *rights);
bool seg_lsl(struct kvm_vcpu *vcpu, u16 selector, u32 *limit);
bool seg_verify(struct kvm_vcpu *vcpu, u16 selector, bool write);

/* ---- stacks ---- */

struct stack {
	struct segment ss;
	u64 sp, mask; /* sp counts in mask */
	u8 cpl;	      /* of its accesses */
	bool long_mode;
	u32 error; /* of #SS when it overflows */
};

/* The present stack. */
void stack_current(const struct kvm_vcpu *vcpu, struct stack *st);
/* The inner stack of a transfer to `cpl`, from the TSS; ist 0 to 7 (long mode). #TS, #SS. */
void stack_inner(struct kvm_vcpu *vcpu, struct stack *st, u8 cpl, unsigned int ist, u32 ext);
/* Push n values of `size` bytes, value[0] first: all or, when it raises, none. Moves st->sp. */
void stack_push_frame(struct kvm_vcpu *vcpu, struct stack *st, const u64 *value, int n,
		      unsigned int size);
/* The value at `offset` bytes above st->sp. */
u64 stack_at(struct kvm_vcpu *vcpu, const struct stack *st, u64 offset, unsigned int size);
/* SP, ESP or RSP becomes st->sp, as wide as the stack is. */
void stack_commit(struct kvm_vcpu *vcpu, const struct stack *st);

/* ---- transfers: return the new RIP, with CS and all else done. size: 2, 4, 8 ---- */

/* next: the address after the instruction. */
u64 far_jump(struct kvm_vcpu *vcpu, u16 selector, u64 offset, u64 next);
u64 far_call(struct kvm_vcpu *vcpu, u16 selector, u64 offset, unsigned int size, u64 next);
u64 far_return(struct kvm_vcpu *vcpu, unsigned int size, u16 release);
u64 far_iret(struct kvm_vcpu *vcpu, unsigned int size, u64 next);

/* A checked code segment becomes CS at `cpl`; checks the offset against it first: #GP(0). */
void code_check_offset(struct kvm_vcpu *vcpu, const struct segment *cs, u64 offset);
void code_commit(struct kvm_vcpu *vcpu, const struct segment *cs, u8 cpl);
/* EFLAGS popped by IRET and POPF: the bits of `value` that this CPL and operand size may change. */
u64 flags_merge(const struct kvm_vcpu *vcpu, u64 value, unsigned int size, bool iret);

enum task_source { TASK_JUMP, TASK_CALL, TASK_IRET, TASK_GATE };

/*
 * Hardware task switch to the TSS of selector (SDM vol. 3, 8.3); d is its descriptor, next the
 * address saved for this task. Returns the new task's EIP. has_error: push error on its stack
 * (exceptions through a task gate). Raises #TS, #NP, #GP, #SS in the old task's context up to the
 * commit, in the new one's after it.
 */
u64 task_switch(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, enum task_source source,
		u64 next, bool has_error, u32 error);
/* Follow a task gate to its TSS and switch. */
u64 task_gate(struct kvm_vcpu *vcpu, const struct desc *gate, enum task_source source, u64 next,
	      bool has_error, u32 error, u32 ext);

#endif
