/*
 * Decoded blocks of a vCPU, by guest-physical address and mode.
 *
 * Each vCPU decodes for itself; what is shared is the map of pages that hold decoded code
 * (struct code_map, kvm->code), so that a write by anyone finds out. Blocks are position
 * independent and survive changes of the address space. Three ways lead to the next block: a link
 * in the branch (for targets in the same page, whose mapping is that of the page under execution),
 * the jump cache by linear address, and the lookup by physical address. Entries of the jump cache
 * are tagged with mode, CPL and generation; those of the lower half (user space, as kernels have
 * it) with the address space too, those of the upper half are of global pages only.
 *
 * A dropped block stays where it is, with every operation replaced by one that leaves the chain; so
 * links and the jump cache may point to it, and a block that drops itself stops after the present
 * instruction. Its memory comes back when the arena is full and everything is dropped.
 */
#ifndef SOFT_BLOCKS_H
#define SOFT_BLOCKS_H

#include "engine/soft/decode.h"
#include "engine/soft/uop.h"

#define BLOCK_MAX     40u /* instructions */
#define JUMP_SIZE     8192u
#define BLOCK_BUCKETS 32768u
#define BLOCK_ARENA   (64 * MiB)

/* Any fetch translation may have changed: paging bits, a flush of everything. mmu.c calls these. */
void blocks_mapping_changed(struct kvm_vcpu *vcpu);
/* CR3 was loaded, and mmu.asn says whose address space it is now. */
void blocks_space_changed(struct kvm_vcpu *vcpu);
/* The translation of one 4 KiB page may have changed (in another address space, perhaps). */
void blocks_page_changed(struct kvm_vcpu *vcpu, u64 linear);
/* Mode or CPL changed: vcpu->jump_tag anew. */
void blocks_update_tags(struct kvm_vcpu *vcpu);

/* The slot after a branch: where its ways out lead, NULL when not known yet. */
struct branch_links {
	const struct uop *to[2]; /* [0]: taken, [1]: not */
	bool same_page[2];
	u8 unused[14];
};

struct jump_entry {
	u64 rip;
	u64 tag; /* vcpu->jump_tag[] of its half */
	const struct uop *uop;
	u64 unused; /* a power of two in all, for the translator's sake */
};

struct block {
	struct block *next;	   /* in the bucket */
	struct block *next_page;   /* of blocks that start in this page */
	struct block *next_second; /* of blocks that end in the page gpa2 */
	u64 gpa;		   /* of the first byte */
	u64 gpa2; /* of the page where it ends when that is another one; else NO_GPA */
	u16 bytes;
	u8 mode;
	u8 uops;
	bool dropped;
	/* the translator's */
	bool translated;
	u16 entries;	  /* so far */
	u32 direct;	  /* in its arena: the entry for links */
	u32 dropped_code; /* what takes its place when the block is dropped */
	uop_fn *first;	  /* the interpreter's function of uop[0] */
	u8 unused[24];
	const void *code; /* right before uop[0]: what the jump cache enters */
	_Alignas(32) struct uop uop[];
};

#define NO_GPA (~0ULL)

#define FLUSH_QUEUE 32u

#define PAGE_FILTER 8192u

struct blocks {
	struct jump_entry jump[JUMP_SIZE];
	u32 generation[2];		 /* of tags, by half */
	u64 filter[2][PAGE_FILTER / 64]; /* pages the jump cache may have, by hash */
	struct block *bucket[BLOCK_BUCKETS];
	struct block *page[BLOCK_BUCKETS];
	struct block *second[BLOCK_BUCKETS]; /* by gpa2 */
	u8 *arena;
	size_t used;
	u32 drops; /* counts drops of anything: a build that sees it change starts over */
	/* Pages other threads want dropped. flush_all: more than the queue holds. */
	pthread_mutex_t flush_lock;
	u64 flush_page[FLUSH_QUEUE];
	u32 flush_count;
	bool flush_all;
};

/*
 * A word a guest-physical page: a bit for each 64 bytes that some vCPU has decoded. In leaves that
 * are made where code is found.
 */
#define CODE_LEAF_PAGES 32768u
#define CODE_LEAVES	(1ULL << 25) /* up to 52 bits of address */

struct code_map {
	struct decoder decoder;
	u64 **leaf;	/* [CODE_LEAVES], atomic */
	u64 leaves_end; /* no leaf at or after; atomic */
};

/* Zeroed memory that takes up room where it has been touched; munmap() it. NULL: none. */
void *map_lazily(size_t size);

int blocks_vm_init(struct kvm *kvm);
void blocks_vm_free(struct kvm *kvm);
int blocks_init(struct kvm_vcpu *vcpu);
void blocks_free(struct kvm_vcpu *vcpu);

/*
 * The first uop of the block at ctl.rip, decoded now if need be; raises what a fetch raises. NULL
 * when the code lies where no memory slot is: vcpu->run has the exit.
 */
const struct uop *blocks_enter(struct kvm_vcpu *vcpu);
/* A block of the instruction at ctl.rip alone. */
const struct uop *blocks_enter_one(struct kvm_vcpu *vcpu);

/* Drop everything of this vCPU. */
void blocks_drop_all(struct kvm_vcpu *vcpu);
/* Carry out what other threads asked for (KVM_REQ_CODE_FLUSH). */
void blocks_flush_requested(struct kvm_vcpu *vcpu);
/* kvm_exec_ops. memory_written(): any thread. */
void blocks_flush_slot(struct kvm *kvm, u64 gpa, u64 len);
void blocks_memory_written(struct kvm *kvm, u64 gpa, u64 len);

static inline u32 jump_index(u64 rip)
{
	return (u32)(rip ^ rip >> 12) & (JUMP_SIZE - 1);
}

#endif
