/*
 * Decoded blocks of a vCPU, by guest-physical address and mode.
 *
 * Each vCPU decodes for itself; what is shared is the map of pages that hold decoded code
 * (kvm->code), so that a write by anyone finds out. Blocks are position independent and survive
 * changes of the address space; the jump cache, by linear address, is tagged with
 * vcpu->map_generation, which everybody who changes a fetch translation bumps.
 */
#ifndef SOFT_BLOCKS_H
#define SOFT_BLOCKS_H

#include "engine/soft/uop.h"

#define BLOCK_MAX     48u /* instructions */
#define JUMP_SIZE     4096u
#define BLOCK_BUCKETS 65536u

/* A fetch translation may have changed: CR3, INVLPG, paging bits, a TLB flush. mmu.c calls it. */
static inline void blocks_mapping_changed(struct kvm_vcpu *vcpu)
{
	vcpu->map_generation++;
}

struct jump_entry {
	u64 rip;
	u64 tag; /* map_generation << 8 | mode */
	const struct uop *uop;
};

struct block {
	struct block *next;	 /* in the bucket */
	struct block *next_page; /* of the same guest-physical page */
	u64 gpa;		 /* of the first byte */
	u64 gpa2;		 /* page of the last byte when it is another one, else ~0 */
	u16 bytes;
	u8 mode;
	u8 nr_uops;
	struct uop uop[];
};

struct blocks {
	struct jump_entry jump[JUMP_SIZE];
	struct block *bucket[BLOCK_BUCKETS];
	struct block *page[BLOCK_BUCKETS];
	u8 *arena;
	size_t arena_used;
};

#endif
