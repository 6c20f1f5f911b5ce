/*
 * Linear memory: page walks, two levels of software TLB, and the accesses built on them.
 *
 * Level 1 is what operations hit inline: a hashed table of pages that may be touched through a
 * host pointer without anybody being told. An entry has one tag an access kind; a tag is the page's
 * linear address, and `(linear ^ tag) <= PAGE_SIZE - size` says in one comparison that the page
 * matches and that the access does not leave it. What must not be touched silently simply has no
 * tag: MMIO, ROM (no write tag), clean pages of a dirty-logged slot (no write tag), pages that hold
 * decoded code (no write tag), pages with a watchpoint. There is one table for each access class,
 * so that CPL changes, STAC and CLAC only move a pointer.
 *
 * Level 2 keeps results of walks, tagged with an address space number, and knows the permissions
 * themselves; it serves level 1 misses of every class and all silent-access exceptions. A fault is
 * never raised from it: a translation that denies the access is walked afresh first, as hardware
 * does.
 *
 * `linear` has been through seg_linear(), or belongs to a system structure. All functions belong to
 * the vCPU's thread, except where said. They raise #PF (#GP for non-canonical addresses), or leave
 * for the user with MMIO; before that nothing has been written to guest memory.
 */
#ifndef SOFT_MMU_H
#define SOFT_MMU_H

#include <string.h>

#include "base/bits.h"
#include "engine/soft/soft_int.h"

/* The access on whose behalf memory is touched. */
enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };

/* ---- level 1 ---- */

#define TLB_BITS 10
#define TLB_SIZE (1u << TLB_BITS)

struct tlb_entry {
	u64 tag[3]; /* by enum access; a page whose tlb_index() is not this slot's: no match */
	u8 *host;   /* of the page */
};

struct tlb {
	struct tlb_entry entry[TLB_SIZE];
	u64 gpa[TLB_SIZE]; /* guest-physical page of each entry */
};

/* Whose accesses. SUPERVISOR with SMAP set and AC clear (or no SMAP); OPEN: SMAP and AC both set.
 */
enum tlb_class { TLB_SUPERVISOR, TLB_OPEN, TLB_USER, TLB_CLASSES };

/* ---- level 2 ---- */

#define TLB2_SETS 1024u
#define TLB2_WAYS 4u

enum {
	PAGE_W = 1 << 0,     /* R/W set at every level */
	PAGE_U = 1 << 1,     /* U/S set at every level */
	PAGE_X = 1 << 2,     /* XD clear at every level, or not in force */
	PAGE_D = 1 << 3,     /* dirty is set (or there is no such bit) */
	PAGE_G = 1 << 4,     /* global */
	PAGE_LARGE = 1 << 5, /* piece of a 2M, 4M or 1G page */
};

struct page {
	u64 tag;    /* linear page | ASN; 0: empty (ASN 0 is not used) */
	u64 ignore; /* tag bits that need not match: the ASN of a global page */
	u64 gpa;
	u8 *host;		      /* NULL: no slot (MMIO) */
	struct kvm_memory_slot *slot; /* NULL: no slot */
	u32 flags;		      /* PAGE_* */
};

/* A cached page-directory entry: the table that maps 2M (4M in 32-bit paging) of linear space. */
#define PDE_CACHE_SIZE 256u
struct pde_cache {
	u64 tag; /* linear | ASN */
	u64 generation;
	u64 gpa; /* of the page table */
	u8 *host;
	struct kvm_memory_slot *slot;
	u32 flags; /* PAGE_W, PAGE_U, PAGE_X so far */
};

/* ---- MMIO and port accesses of the instruction under way (mmio.c) ---- */

#define IO_REPLAY_MAX 128

struct io_fragment {
	u64 addr;
	u8 data[8];
	u8 len;
	bool write, port;
};

struct io_replay {
	bool stepping; /* the run loop executes exactly one instruction, for this buffer's sake */
	bool pending;  /* the user is asked for fragment[count], or for a string transfer */
	bool string;   /* ... the latter: its data are in vcpu->pio_data */
	bool string_done;
	bool user; /* ... or for what is no access: an MSR, a hypercall */
	bool user_done;
	u32 string_count;
	u64 linear_rip; /* of the instruction */
	u32 count, next;
	struct io_fragment fragment[IO_REPLAY_MAX];
};

/* ---- all of it: the first member of struct cpu ---- */

#define TLB_LOG_SIZE 512u

struct mmu {
	struct tlb *tlb;      /* the class in force for explicit accesses */
	u64 linear_mask;      /* of the second page of an access: 32 bits outside long mode */
	enum tlb_class class; /* of explicit accesses */
	bool align_check; /* CR0.AM, EFLAGS.AC and CPL 3: tlb is `off`, every access is looked at */

	u16 asn;      /* of the current PCID */
	u16 next_asn; /* never used so far since the last full flush */
	u16 pcid_asn[4096];

	u64 large_lo[2], large_hi[2]; /* by address half: span of large pages in level 2 */
	u64 pde_generation;

	u8 watch_count; /* armed data watchpoints: dr[i] of the debugger or the guest */
	struct {
		u64 addr;
		u8 len, index;
		bool write_only, io;
	} watch[4];
	u8 code_watch;	/* armed code breakpoints, a bit each */
	bool step_lost; /* the instruction under way took TF away before its trap */
	u32 watch_hits; /* DR6 bits of the instruction under way: #DB after it */

	bool delivering;	   /* an event: its stack and tables must be RAM (excp.c) */
	bool delivering_exception; /* ... one that makes a double fault of another */
	u8 delivering_vector;
	struct io_replay io;

	/* level 1 slots that hold pages that are not global: class * TLB_SIZE + index */
	u32 log_count; /* > TLB_LOG_SIZE: overflown */
	u32 log[TLB_LOG_SIZE];
	u64 write_filter[64]; /* a bit by hash of gpa: some write tag may exist */

	/* What was never filled since it was last cleared is not cleared again. */
	u8 tlbs_used;	/* a bit a class */
	bool page_used; /* level 2 */

	struct tlb tlbs[TLB_CLASSES];
	struct tlb off; /* never filled */
	struct page page[TLB2_SETS][TLB2_WAYS];
	u8 next_way[TLB2_SETS];
	struct pde_cache pde[PDE_CACHE_SIZE];
};

static inline struct mmu *vcpu_mmu(const struct kvm_vcpu *vcpu)
{
	return vcpu->cpu;
}

static inline u32 tlb_index(u64 linear)
{
	return (linear >> PAGE_SHIFT) & (TLB_SIZE - 1);
}

static inline bool tlb_hit(u64 linear, u64 tag, unsigned int size)
{
	return likely((linear ^ tag) <= PAGE_SIZE - size);
}

/* Host pointer when level 1 allows the access silently, or NULL. size is 1 to 4096. */
static inline void *tlb_pointer(const struct kvm_vcpu *vcpu, u64 linear, unsigned int size,
				enum access access)
{
	const struct tlb_entry *e = &vcpu_mmu(vcpu)->tlb->entry[tlb_index(linear)];
	u64 tag = __atomic_load_n(&e->tag[access], __ATOMIC_RELAXED); /* others clear it */

	return tlb_hit(linear, tag, size) ? e->host + (linear & (PAGE_SIZE - 1)) : NULL;
}

/* ---- accesses ---- */

/* The slow halves: not for direct use. */
u64 mem_read_slow(struct kvm_vcpu *vcpu, u64 linear, unsigned int size);
void mem_write_slow(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value);
void *mem_rmw_slow(struct kvm_vcpu *vcpu, u64 linear, unsigned int size);

/*
 * Host memory of guest pages: other vCPUs write it meanwhile, so each access is one instruction, by
 * a volatile pointer. What guests race about is theirs: sanitize_thread.c has the thread sanitizer
 * look away from volatile accesses, which it can tell apart where they are aligned.
 */
#ifdef __SANITIZE_THREAD__
#define GUEST_TYPE __attribute__((may_alias))
#else
#define GUEST_TYPE __attribute__((aligned(1), may_alias))
#endif
typedef u8 __attribute__((may_alias)) guest_u8;
typedef u16 GUEST_TYPE guest_u16;
typedef u32 GUEST_TYPE guest_u32;
typedef u64 GUEST_TYPE guest_u64;

/* Bytes of guest pages, in any order. */
static inline void guest_copy(void *to, const void *from, size_t len)
{
#ifdef __SANITIZE_THREAD__
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
#else
	memcpy(to, from, len);
#endif
}

static inline u64 host_load(const void *p, unsigned int size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return *(const volatile guest_u16 *)p;
	case 4:
		return *(const volatile guest_u32 *)p;
	default:
		return *(const volatile guest_u64 *)p;
	}
}

static inline void host_store(void *p, unsigned int size, u64 value)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)value;
		break;
	case 2:
		*(volatile guest_u16 *)p = (u16)value;
		break;
	case 4:
		*(volatile guest_u32 *)p = (u32)value;
		break;
	default:
		*(volatile guest_u64 *)p = value;
		break;
	}
}

/*
 * size is 1, 2, 4 or 8, at any alignment; an access that crosses a page checks both pages before
 * the first byte. At the current CPL.
 */
static inline u64 mem_read(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	const void *p = tlb_pointer(vcpu, linear, size, ACCESS_READ);

	return p ? host_load(p, size) : mem_read_slow(vcpu, linear, size);
}

static inline void mem_write(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value)
{
	void *p = tlb_pointer(vcpu, linear, size, ACCESS_WRITE);

	if (p)
		host_store(p, size, value);
	else
		mem_write_slow(vcpu, linear, size, value);
}

/*
 * A host pointer for a read-modify-write of size bytes (1 to 16) in one page of RAM, or NULL where
 * it crosses a page or is MMIO: then mem_rmw_slow_begin(). Nothing that can raise comes between
 * this call and the store.
 */
static inline void *mem_rmw(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	void *p = tlb_pointer(vcpu, linear, size, ACCESS_WRITE);

	return p ? p : mem_rmw_slow(vcpu, linear, size);
}

/*
 * The other read-modify-writes. begin returns a pointer to the operand's present value (aligned);
 * modify it there, call end, commit registers and flags after that (end may leave for the user, and
 * the instruction runs again). From begin to end nothing else may raise. Other vCPUs' slow ones are
 * held off meanwhile.
 */
struct rmw_slow {
	_Alignas(16) u8 data[64];
	u8 n; /* pages */
	bool locked;
	struct {
		u64 gpa;
		u8 *host; /* NULL: device or ROM */
		struct kvm_memory_slot *slot;
		unsigned int len;
	} part[2];
};
void *mem_rmw_slow_begin(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, struct rmw_slow *s);
void mem_rmw_slow_end(struct kvm_vcpu *vcpu, struct rmw_slow *s);

/* len is 1 to 4096. Nothing is written before the whole range has been checked. */
void mem_read_bytes(struct kvm_vcpu *vcpu, u64 linear, void *buf, unsigned int len);
void mem_write_bytes(struct kvm_vcpu *vcpu, u64 linear, const void *buf, unsigned int len);

/* Supervisor accesses of the processor itself (descriptor tables, TSS, IDT), whatever the CPL. */
u64 mem_read_sys(struct kvm_vcpu *vcpu, u64 linear, unsigned int size);
void mem_write_sys(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value);
void mem_read_bytes_sys(struct kvm_vcpu *vcpu, u64 linear, void *buf, unsigned int len);
/* Stack pushes of a transfer to `cpl`, before CPL has changed; and the check alone. */
void mem_write_cpl(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value,
		   unsigned int cpl);
void mem_write_bytes_cpl(struct kvm_vcpu *vcpu, u64 linear, const void *buf, unsigned int len,
			 unsigned int cpl);
void mem_probe_write_cpl(struct kvm_vcpu *vcpu, u64 linear, unsigned int len, unsigned int cpl);

/* EFLAGS.AC at CPL 3: #AC when linear is not a multiple of size, a power of two. It comes before
 * page faults. mem_read() and mem_write() do it themselves. */
void mem_check_alignment(struct kvm_vcpu *vcpu, u64 linear, unsigned int size);

/* Fault now if [linear, linear + len) cannot be read (written); len is 1 to 4096. */
void mem_probe_read(struct kvm_vcpu *vcpu, u64 linear, unsigned int len);
void mem_probe_write(struct kvm_vcpu *vcpu, u64 linear, unsigned int len);

/*
 * A host pointer to at least 1 and at most *len contiguous bytes from linear, *len cut at the page
 * end; NULL where each access must be made on its own (MMIO, ROM for writes, watchpoints). A page
 * with code has its blocks in the range dropped. For REP string operations and XSAVE areas.
 */
void *mem_span(struct kvm_vcpu *vcpu, u64 linear, u64 *len, enum access access);

/*
 * Instruction fetch: the host pointer of the byte at linear (valid to the page end) and its
 * guest-physical address; raises the fault of a fetch. NULL with the address where no slot is.
 */
const u8 *mmu_fetch_slow(struct kvm_vcpu *vcpu, u64 linear, u64 *gpa);

static inline const u8 *mmu_fetch(struct kvm_vcpu *vcpu, u64 linear, u64 *gpa)
{
	const struct tlb *t = vcpu_mmu(vcpu)->tlb;
	u32 i = tlb_index(linear);

	if (!tlb_hit(linear, t->entry[i].tag[ACCESS_FETCH], 1))
		return mmu_fetch_slow(vcpu, linear, gpa);
	*gpa = t->gpa[i] | (linear & (PAGE_SIZE - 1));
	return t->entry[i].host + (linear & (PAGE_SIZE - 1));
}

/* Is the page known to be global? False also when level 2 has lost it. */
bool mmu_is_global(const struct kvm_vcpu *vcpu, u64 linear);

/* ---- control ---- */

/* *vcpu_mmu(vcpu) is zeroed memory. */
void mmu_init(struct kvm_vcpu *vcpu);
/* CPL, EFLAGS.AC, CR0.AM, CR4.SMAP, CS.L or EFER.LMA may have changed: choose the class. Cheap. */
void mmu_update_class(struct kvm_vcpu *vcpu);
/* Registers were set from outside, or paging was turned on or off: drop everything. */
void mmu_flush_all(struct kvm_vcpu *vcpu);
/* The user set control registers: the same, and load the PDPTEs where they are others' now. */
void mmu_state_changed(struct kvm_vcpu *vcpu);
/* CR0.WP, CR4.SMEP or CR4.SMAP changed: permissions are judged anew, walks stay. */
void mmu_flush_permissions(struct kvm_vcpu *vcpu);
/* After ctl.cr3 was loaded; keep: bit 63 of the operand with PCIDs on. */
void mmu_load_cr3(struct kvm_vcpu *vcpu, bool keep);
/* PAE: read the four PDPTEs at `cr3`; false when one has a reserved bit set (#GP). */
bool mmu_load_pdptes(struct kvm_vcpu *vcpu, u64 cr3);
void mmu_invlpg(struct kvm_vcpu *vcpu, u64 linear);
/* INVPCID types 0 to 3; the operands are checked already. */
void mmu_invpcid(struct kvm_vcpu *vcpu, unsigned int type, u16 pcid, u64 linear);
/* DR0-3, DR7 or the debugger's changed. */
void mmu_update_watchpoints(struct kvm_vcpu *vcpu);
/* KVM_TRANSLATE: see kvm_exec_ops. Sets no accessed bit. */
u64 mmu_translate_debug(struct kvm_vcpu *vcpu, u64 linear, bool *writable, bool *user);

/*
 * The guest-physical page at gpa is about to hold decoded code: no vCPU may write it silently any
 * more. blocks_page_has_code() must already say so. Any vCPU's thread. True when another vCPU had
 * such a write tag: it may be between its check and its store; the caller makes it pass an
 * instruction boundary before trusting what it decodes.
 */
bool mmu_protect_code(struct kvm_vcpu *vcpu, u64 gpa);

/* What the memory side needs of blocks.c. Both fast, any vCPU's thread. */
bool blocks_page_has_code(struct kvm *kvm, u64 gpa);
/* [gpa, gpa + len), in one page that has code, is being written by this vCPU: drop the blocks
 * there. When the block under execution is one of them, the run loop leaves it after the present
 * instruction. */
void blocks_written(struct kvm_vcpu *vcpu, u64 gpa, unsigned int len);

/* ---- MMIO and ports: how an instruction leaves for the user and goes on (mmio.c) ---- */

/*
 * Inside an instruction, each access to a device is a fragment of at most 8 bytes. A fragment that
 * only the user can serve fills vcpu->run and leaves by exit_to_user(), nothing committed. On the
 * next KVM_RUN the run loop calls io_complete() and executes the instruction again from its start;
 * fragments that were done before are answered from the buffer, in order.
 *
 * So that fragments of one instruction are not taken for those of another, device accesses happen
 * only while io.stepping is set: io_step() is called by the first fragment otherwise; it does not
 * return, but makes the run loop execute this instruction alone:
 *
 *	io_begin(vcpu); execute one instruction; io_end(vcpu);
 *
 * Before an interrupt is looked at, and before immediate_exit is obeyed, a KVM_RUN that finds
 * io_complete() true does this first.
 * String operations call io_commit() after every iteration whose registers are written back.
 */
_Noreturn void io_step(struct kvm_vcpu *vcpu); /* exec.c */
/* Start of KVM_RUN: take the user's answer. True when an instruction is to be executed again. */
bool io_complete(struct kvm_vcpu *vcpu);
void io_begin(struct kvm_vcpu *vcpu);
void io_end(struct kvm_vcpu *vcpu);
static inline void io_commit(struct kvm_vcpu *vcpu)
{
	vcpu_mmu(vcpu)->io.count = vcpu_mmu(vcpu)->io.next = 0;
}

#endif
