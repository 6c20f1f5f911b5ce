/* What mmu.c, mem.c and mmio.c share: translation results, and the bits of the control registers.
 */
#ifndef SOFT_MMU_INT_H
#define SOFT_MMU_INT_H

#include <asm/processor-flags.h>

#include "engine/soft/cpu_int.h"
#include "engine/soft/io.h"
#include "engine/soft/blocks.h"
#include "engine/soft/flags.h"

#define PAGE_OFFSET(a) ((a) & (PAGE_SIZE - 1))
#define PAGE_BASE(a)   ((a) & ~(PAGE_SIZE - 1))

#define DR6_BD	  (1u << 13)
#define DR6_BS	  (1u << 14)
#define DR6_BT	  (1u << 15)
#define DR6_FIXED 0xffff0ff0u

#define PF_PROT	 (1u << 0)
#define PF_WRITE (1u << 1)
#define PF_USER	 (1u << 2)
#define PF_RSVD	 (1u << 3)
#define PF_FETCH (1u << 4)

#define MMU_FAULT	  (1u << 31) /* with a page fault's error code */
#define MMU_NOT_CANONICAL (1u << 30)

/*
 * Walk the page tables: 0 with gpa and flags of *page filled, or a fault. mark: set accessed and
 * dirty flags. The access is judged with the control registers as they are (mmu_page_allows()).
 */
u32 mmu_walk(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class, bool mark,
	     struct page *page);
/* Does a page with these flags allow the access? */
bool mmu_page_allows(const struct kvm_vcpu *vcpu, u32 flags, enum access access,
		     enum tlb_class class);
/* Translate for an access: 0 with *out valid until the next call, or a fault from above. Raises
 * nothing. */
u32 mmu_find(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class,
	     struct page **out);
/* The same; raises the fault. */
struct page *mmu_get(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class);
/* Enter the page into level 1 with all the tags it may have. */
void mmu_fill(struct kvm_vcpu *vcpu, u64 linear, enum tlb_class class, const struct page *p);
/* May writes go on without anybody being told? */
bool page_silent_write(struct kvm_vcpu *vcpu, const struct page *p);
/* Does a data watchpoint touch the page of linear? */
bool mmu_watched(const struct mmu *m, u64 linear);
/* Host pointer of a guest-physical address with its slot, or NULL. */
u8 *gpa_to_host(struct kvm_vcpu *vcpu, u64 gpa, struct kvm_memory_slot **slot);

#endif
