/*
 * softkvm from inside: the objects behind the descriptors, and what its parts owe each other.
 *
 *   api    (api_*.c, slots.c, eventfd.c, irq_comm.c, stats.c)  descriptors, ioctls, memory slots
 *   chips  (lapic.c, apic_timer.c, ioapic.c, i8259.c, i8254.c, clock.c)  the interrupt controllers
 *   cpu    (exec.c, decode.c, ops_*.c, mmu.c, seg.c, excp.c, native*.c)  the executing back end
 *
 * Names are Linux KVM's where the thing is the same.
 *
 * Threads: a vCPU's fields belong to the thread inside KVM_RUN (or, outside KVM_RUN, to the thread
 * that issues the ioctl; vcpu->mutex serialises the two). What other threads touch is said so at
 * the field. kvm->lock guards structure changes (vCPU and device creation, slots, routing);
 * readers of slots and routing on a vCPU thread take no lock: see kvm_for_each_vcpu_stopped().
 */
#ifndef SOFT_INT_H
#define SOFT_INT_H

#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

#include "base/list.h"
#include "base/types.h"
#include "engine/soft/stat.h"

#define KVM_MAX_VCPUS	  256
#define KVM_MAX_MEM_SLOTS 32764

struct kvm;
struct kvm_vcpu;
struct uop;

/* ------------------------------------------------------------------------------------------ */
/* Memory slots (slots.c)                                                                     */

struct kvm_memory_slot {
	u32 id;
	u32 flags; /* KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY */
	u64 base_gfn;
	u64 npages;
	u8 *hva;	   /* of the first byte */
	u64 *dirty_bitmap; /* set atomically by any thread; NULL when not logged */
};

/* An immutable, sorted set; a change publishes a new one while every vCPU is out of guest code. */
struct kvm_memslots {
	u32 count;
	struct kvm_memory_slot *slot[]; /* by base_gfn */
};

/* The slot of a guest frame, or NULL. vCPU threads, or under kvm->lock. */
struct kvm_memory_slot *gfn_to_memslot(struct kvm *kvm, u64 gfn);
/* Mark a page dirty where its slot is logged. Any thread. The cpu calls it on the first write
 * through a TLB entry (entries of clean logged pages must take the slow path). */
void mark_page_dirty_in_slot(struct kvm_memory_slot *slot, u64 gfn);
/* Is it marked already, in a slot that is logged? Any thread. */
static inline bool page_is_marked(const struct kvm_memory_slot *slot, u64 gfn)
{
	u64 n = gfn - slot->base_gfn;

	return __atomic_load_n(&slot->dirty_bitmap[n / 64], __ATOMIC_RELAXED) >> n % 64 & 1;
}

/* ------------------------------------------------------------------------------------------ */
/* Architectural state of a vCPU                                                              */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Order of the encoding in ModRM.reg of MOV Sreg. */
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* A segment register with its hidden part, as struct kvm_segment. limit is in bytes, expanded. */
struct segment {
	u64 base;
	u32 limit;
	u16 selector;
	u8 type, s, dpl, present, avl, l, db, g, unusable;
};

struct desc_ptr {
	u64 base;
	u16 limit;
};

#define EFER_SCE (1ULL << 0)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)
#define EFER_NX	 (1ULL << 11)

/* Exception vectors: <asm/kvm.h> names all but this one. */
#define NMI_VECTOR 2

/*
 * x87, SSE and AVX state. Registers live here, not in host registers, between instructions;
 * native.c loads the operands of one instruction, runs it, and stores them (so that libc and the
 * kernel may use the host's registers as they like). During run() two things may live in the host's
 * own registers, which nobody else uses there: MXCSR, and the x87 unit while x87_live is set
 * (native.h).
 */
struct fpu_state {
	_Alignas(64) u8 ymm[16][32]; /* xmm is the low half */
	_Alignas(16) u8 st[8][16];   /* physical order as FXSAVE: st[i] is ST(i), 10 bytes used */
	u16 fcw, fsw;
	u8 ftw; /* abridged: bit per physical register, 1 = not empty */
	u16 fop;
	u64 fip, fdp; /* 64-bit form */
	u16 fcs, fds; /* their selectors, which 64-bit images do not hold */
	u32 mxcsr;
	bool x87_live; /* st, fsw and ftw are stale: the host's unit has them */
};

/* The vCPU control block: what a VMCS or VMCB is to hardware. Shown by --trace and the debugger. */
struct vcpu_control {
	/* guest state */
	u64 gpr[16];
	u64 rip;    /* while the cpu runs: of the block's first instruction (uop.h) */
	u64 rflags; /* while the cpu runs, its arithmetic flags are in vcpu->aflags (flags.h);
		       state_sync() makes it true on leaving KVM_RUN */
	u64 zero;   /* always 0: the register that an address without a base or index names */
	struct segment seg[SEG_COUNT];
	struct desc_ptr gdtr, idtr;
	u64 cr0, cr2, cr3, cr4, cr8, efer, xcr0;
	u64 pdpte[4];  /* PAE: as loaded by the last CR3 load */
	u64 pdpte_cr3; /* from there; ~0: never */
	u64 dr[4], dr6, dr7;
	u8 cpl;
	/* controls */
	bool interrupt_shadow_sti, interrupt_shadow_movss;
	bool nmi_masked; /* between NMI delivery and IRET */
	bool request_interrupt_window;
	struct {
		bool pending; /* an exception to deliver before the next instruction */
		bool has_error_code;
		u8 nr;
		u32 error_code;
		u64 payload; /* CR2 for #PF, DR6 bits for #DB */
	} exception;
	struct {
		bool pending; /* being injected: set by KVM_INTERRUPT, or an interrupted IDT
				 delivery */
		bool soft;
		u8 nr;
	} interrupt;
	u32 nmi_pending; /* other threads add, atomically */
	/* exit information */
	u32 exit_reason;	   /* KVM_EXIT_* */
	u64 exit_qualification;	   /* gpa of an MMIO exit, port of an I/O exit, vector of a fault */
	u64 entries, instructions; /* KVM_RUN entries; guest instructions retired */
};

/* MSRs that are nothing but storage or that several parts read. Others live with their owner. */
struct msr_state {
	u64 star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, misc_enable, debugctl, spec_ctrl, tsc_adjust, bios_sign_id;
	u64 mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
	u64 tsc_offset; /* guest TSC = scaled host TSC + offset */
	u64 xss;
	u64 feature_control, mcg_status, mcg_ctl, platform_info, misc_features, smi_count;
};

/* ------------------------------------------------------------------------------------------ */
/* vCPU                                                                                       */

/* Requests, set by any thread in vcpu->requests with kvm_make_request(). */
enum {
	KVM_REQ_TLB_FLUSH,    /* drop every translation (slots changed, dirty log restarted) */
	KVM_REQ_EVENT,	      /* look for interrupts again */
	KVM_REQ_EXIT,	      /* leave KVM_RUN with -EINTR (immediate_exit or a signal) */
	KVM_REQ_STOP,	      /* park: somebody changes what vCPUs read without a lock */
	KVM_REQ_CODE_FLUSH,   /* drop decoded blocks (pages in kvm->code_flush) */
	KVM_REQ_CLOCK_UPDATE, /* rewrite the kvmclock page */
	KVM_REQ_NMI,
	KVM_REQ_SMI,
	KVM_REQ_SIPI,
	KVM_REQ_SET_TPR, /* the guest lowered a CR8 that the user keeps: KVM_EXIT_SET_TPR */
};

struct kvm_vcpu {
	/* --- hot: the interpreter and a later translator address these off one pointer --- */
	struct vcpu_control ctl;
	u32 exit_request;      /* polled at block ends; any thread may set it to 1, atomically */
	u64 requests;	       /* bits KVM_REQ_*, atomic */
	void *tlb;	       /* what mmu.tlb says, one load closer: for the translator */
	u64 jump_tag[2];       /* whose linear addresses are in force, by half: blocks.h */
	u16 aflags;	       /* arithmetic flags: flags.h */
	u8 mode;	       /* MODE_*: what decoded code depends on (uop.h) */
	bool events;	       /* leave the chain after this block: interrupts, shadows, traps */
	const struct uop *uop; /* under execution */
	void *cpu;	       /* struct cpu (cpu.h): TLB, block cache, scratch of the back end */
	struct fpu_state fpu;
	struct msr_state msr;

	/* --- identity --- */
	struct kvm *kvm;
	int id;	   /* APIC ID */
	int index; /* in kvm->vcpus */
	int fd;
	struct kvm_run *run; /* shared with the user: page 0; PIO data in page 1; ring in page 2 */
	u8 *pio_data;
	pthread_mutex_t mutex; /* held across every vCPU ioctl, KVM_RUN included */
	pthread_t thread;      /* of the last KVM_RUN */
	u32 in_guest; /* 1 between entry and exit: kvm_vcpu_kick() looks at it, atomically */
	u32 mp_state; /* KVM_MP_STATE_*, atomic: other vCPUs' INIT and SIPI change it */
	u8 sipi_vector;

	/* --- owned by api/chips --- */
	struct kvm_lapic *apic; /* NULL without an in-kernel LAPIC */
	u64 apic_base;		/* MSR 0x1b; other threads read it, atomically */
	struct kvm_cpuid_entry2 *cpuid;
	u32 cpuid_count;
	u64 guest_features[4];	   /* what the cpu checks often; see guest_features.h */
	u64 guest_maxphyaddr_mask; /* reserved address bits of PTEs are its complement */
	u32 guest_debug;	   /* KVM_GUESTDBG_* */
	u64 guest_debug_dr[8];
	sigset_t sigmask;
	bool sigmask_set;
	struct kvm_vcpu_arch *arch; /* the rest of api and chips (arch_int.h) */
	struct vcpu_stat *stat;	    /* counters; the cpu adds to its own (stat.h) */
};

struct kvm {
	int fd;
	pthread_mutex_t lock;
	struct kvm_memslots *memslots; /* published: load with acquire */
	struct kvm_vcpu *vcpus[KVM_MAX_VCPUS];
	u32 nr_vcpus; /* published after the pointer */
	const struct kvm_exec_ops *exec;
	void *code;	       /* shared by the vCPUs: block cache, page code map (cpu) */
	struct kvm_arch *arch; /* irqchips, routing, buses, clock (api/chips; arch_int.h) */
	u64 tss_addr, identity_map_addr;
};

/*
 * The executing back end, as kvm_x86_ops is to KVM: the interpreter, or that with the translator
 * (translate.c); eager: of everything, for tests. exec.c defines them.
 */
struct kvm_exec_ops {
	const char *name;
	u32 threshold; /* entries of a block before it is translated; 0: it never is */
	int (*vm_init)(struct kvm *kvm); /* 0 or -errno */
	void (*vm_free)(struct kvm *kvm);
	int (*vcpu_init)(struct kvm_vcpu *vcpu); /* state is as after RESET when it returns */
	void (*vcpu_free)(struct kvm_vcpu *vcpu);
	/* INIT (warm) or RESET state of the CPU's own registers, SDM vol. 3 table 10-1. */
	void (*vcpu_reset)(struct kvm_vcpu *vcpu, bool init_event);
	/*
	 * Run guest code until something needs the user: completes a pending exit first. Returns
	 * 0 with run->exit_reason filled, or -EINTR when KVM_REQ_EXIT was taken. HLT with an
	 * in-kernel LAPIC returns -EAGAIN with mp_state HALTED: the api waits and calls again.
	 */
	int (*run)(struct kvm_vcpu *vcpu);
	/* The user or another part changed registers, CR, EFER, segments or CPUID: drop what is
	 * derived from them (mode, TLB). */
	void (*state_changed)(struct kvm_vcpu *vcpu);
	/* Make ctl and fpu true (lazy flags) before the user reads them. */
	void (*state_sync)(struct kvm_vcpu *vcpu);
	/* Every vCPU is parked: forget all translations of guest-physical [gpa, gpa + len). */
	void (*flush_slot)(struct kvm *kvm, u64 gpa, u64 len);
	/* Guest memory was written from outside the vCPUs (DMA). Any thread; fast when no code. */
	void (*memory_written)(struct kvm *kvm, u64 gpa, u64 len);
	/* Linear to physical with the current paging mode: KVM_TRANSLATE. ~0 when not mapped. */
	u64 (*translate)(struct kvm_vcpu *vcpu, u64 linear, bool *writable, bool *user);
};

extern const struct kvm_exec_ops interpreter_ops, translator_ops, eager_ops;

/* ------------------------------------------------------------------------------------------ */
/* What api and chips do for the cpu. All on the vCPU's thread.                               */

/* Port and memory accesses that no slot claims: in-kernel chips, ioeventfds, coalesced zones.
 * 0 when handled here (a read filled val), -EOPNOTSUPP when the user must (an exit). */
enum kvm_bus { KVM_MMIO_BUS, KVM_PIO_BUS };
int kvm_io_bus_write(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, const void *val);
int kvm_io_bus_read(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, void *val);

/* An interrupt that may be taken now (LAPIC above TPR, or ExtINT from the PIC). */
bool kvm_cpu_has_interrupt(struct kvm_vcpu *vcpu);
/* Acknowledge it: the vector, or -1. */
int kvm_cpu_get_interrupt(struct kvm_vcpu *vcpu);
/* CR8 / TPR of the in-kernel LAPIC. */
u64 kvm_get_cr8(struct kvm_vcpu *vcpu);
void kvm_set_cr8(struct kvm_vcpu *vcpu, u64 cr8);

/* RDMSR and WRMSR: MSR_OK, or why there is a #GP. host: from KVM_SET_MSRS. Calls
 * exec->state_changed() itself where it must (EFER). */
enum { MSR_OK, MSR_INVALID, MSR_UNKNOWN };
int kvm_get_msr(struct kvm_vcpu *vcpu, u32 index, u64 *data, bool host);
int kvm_set_msr(struct kvm_vcpu *vcpu, u32 index, u64 data, bool host);
/* The same for the instructions, with what KVM_CAP_X86_USER_SPACE_MSR and the MSR filter add: 0, 1
 * for #GP, or 2 when the user decides; the exit is filled then, and its answer is in
 * vcpu->run->msr. */
int kvm_emulate_rdmsr(struct kvm_vcpu *vcpu, u32 index, u64 *data);
int kvm_emulate_wrmsr(struct kvm_vcpu *vcpu, u32 index, u64 data);
/* CPUID as the guest sees it; never fails. */
void kvm_cpuid(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx);
u64 kvm_read_tsc(struct kvm_vcpu *vcpu);
/* VMCALL/VMMCALL with the registers as KVM's hypercalls. 0, result in RAX; or 1 when the user
 * decides: KVM_EXIT_HYPERCALL is filled then, and kvm_complete_hypercall() takes the answer. */
int kvm_emulate_hypercall(struct kvm_vcpu *vcpu);
void kvm_complete_hypercall(struct kvm_vcpu *vcpu);
/* INIT, SIPI, EOI side effects, TLB and clock requests; called on entry and when exit_request is
 * seen; clears exit_request. Returns 0 to go on (and look for interrupts), a negative value that
 * run() returns as it is (-EINTR, or -EAGAIN when the vCPU is no longer runnable), or 1 after an
 * exit was filled into vcpu->run. */
int kvm_handle_requests(struct kvm_vcpu *vcpu);

/* Any thread. */
static inline void kvm_make_request(struct kvm_vcpu *vcpu, int req)
{
	__atomic_fetch_or(&vcpu->requests, 1ULL << req, __ATOMIC_RELEASE);
	__atomic_store_n(&vcpu->exit_request, 1, __ATOMIC_RELEASE);
}
/* Set exit_request and wake a halted vCPU. Any thread. */
void kvm_vcpu_kick(struct kvm_vcpu *vcpu);
/* Park every vCPU outside guest code, call fn, let them go on. Takes kvm->lock held. */
void kvm_for_each_vcpu_stopped(struct kvm *kvm, void (*fn)(struct kvm *kvm, void *arg), void *arg);

#endif
