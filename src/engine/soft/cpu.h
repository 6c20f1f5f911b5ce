/* What the back end keeps for a vCPU (vcpu->cpu) and for a VM (kvm->code). */
#ifndef SOFT_CPU_H
#define SOFT_CPU_H

#include "engine/soft/blocks.h"
#include "engine/soft/exec.h"
#include "engine/soft/mmu.h"

struct native;
struct translator;

/* The way back into the run loop. The thread sanitizer keeps a call stack of its own, which only
 * the library's longjmp() unwinds. */
#ifdef __SANITIZE_THREAD__
typedef jmp_buf unwind_buf;
#define unwind_here(buf) setjmp(buf)
#define unwind_to(buf)	 longjmp(buf, 1)
#else
typedef void *unwind_buf[5];
#define unwind_here(buf) __builtin_setjmp(buf)
#define unwind_to(buf)	 __builtin_longjmp(buf, 1)
#endif

struct cpu {
	struct mmu mmu; /* first: vcpu_mmu() */
	struct blocks blocks;
	struct native *native; /* stubs of this vCPU (native.c): native_init(), native_free() */
	struct translator *translator; /* NULL: blocks are interpreted (translate.h) */
	unwind_buf raise_buf;  /* of the run loop */
	enum unwind unwind;    /* why it was returned to */
	bool halted;	       /* HLT was executed */
};

static inline struct cpu *vcpu_cpu(const struct kvm_vcpu *vcpu)
{
	return vcpu->cpu;
}

#endif
