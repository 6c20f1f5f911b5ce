/*
 * Page walks. A walk that succeeds has set the accessed flags (and dirty for a write) by
 * compare-exchange against the very entries that it read; one that faults has set none.
 */
#include "engine/soft/mmu_int.h"

#define PTE_P	BIT(0)
#define PTE_W	BIT(1)
#define PTE_U	BIT(2)
#define PTE_A	BIT(5)
#define PTE_D	BIT(6)
#define PTE_PS	BIT(7)
#define PTE_G	BIT(8)
#define PTE_PAT BIT(12) /* of a large page */
#define PTE_NX	BIT(63)

/* ---- guest-physical memory ---- */

u8 *gpa_to_host(struct kvm_vcpu *vcpu, u64 gpa, struct kvm_memory_slot **slot)
{
	struct kvm_memory_slot *s = gfn_to_memslot(vcpu->kvm, gpa >> PAGE_SHIFT);

	*slot = s;
	return s ? s->hva + (gpa - (s->base_gfn << PAGE_SHIFT)) : NULL;
}

static void table_written(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot, u64 gpa)
{
	if (slot->dirty_bitmap)
		mark_page_dirty_in_slot(slot, gpa >> PAGE_SHIFT);
	if (unlikely(blocks_page_has_code(vcpu->kvm, gpa)))
		blocks_written(vcpu, gpa, 1); /* A and D are in the first byte */
}

/* ---- permissions ---- */

/* Does a page with these flags allow the access? */
bool mmu_page_allows(const struct kvm_vcpu *vcpu, u32 flags, enum access access,
		     enum tlb_class class)
{
	const struct vcpu_control *c = &vcpu->ctl;

	if (class == TLB_USER) {
		if (!(flags & PAGE_U))
			return false;
		return access == ACCESS_READ ||
		       (flags & (access == ACCESS_WRITE ? PAGE_W : PAGE_X));
	}
	if (access == ACCESS_FETCH)
		return (flags & PAGE_X) && !((flags & PAGE_U) && (c->cr4 & X86_CR4_SMEP));
	if ((flags & PAGE_U) && (c->cr4 & X86_CR4_SMAP) && class != TLB_OPEN &&
	    (c->cr0 & X86_CR0_PG))
		return false;
	return access == ACCESS_READ || (flags & PAGE_W) || !(c->cr0 & X86_CR0_WP);
}

static u32 fault_code(const struct kvm_vcpu *vcpu, u32 cause, enum access access,
		      enum tlb_class class)
{
	const struct vcpu_control *c = &vcpu->ctl;
	bool nx = (c->efer & EFER_NX) && (c->cr4 & X86_CR4_PAE);

	if (access == ACCESS_WRITE)
		cause |= PF_WRITE;
	if (class == TLB_USER)
		cause |= PF_USER;
	if (access == ACCESS_FETCH && (nx || (c->cr4 & X86_CR4_SMEP)))
		cause |= PF_FETCH;
	return cause | MMU_FAULT;
}

/* ---- the walk ---- */

struct walk {
	struct kvm_vcpu *vcpu;
	u64 linear;
	bool wide; /* entries of 8 bytes */
	bool pae;
	int level;
	u64 table; /* gpa */
	u32 flags; /* PAGE_W, PAGE_U, PAGE_X so far */
	int count;
	struct {
		u64 gpa, value;
		u8 *host;
		struct kvm_memory_slot *slot;
	} entry[5]; /* as read, root first */
};

static unsigned int level_shift(const struct walk *w, int level)
{
	return PAGE_SHIFT + (w->wide ? 9u : 10u) * (unsigned int)(level - 1);
}

static u64 pde_tag(const struct walk *w)
{
	return (w->linear & ~(BIT(level_shift(w, 2)) - 1)) | vcpu_mmu(w->vcpu)->asn;
}

static struct pde_cache *pde_slot(const struct walk *w)
{
	return &vcpu_mmu(w->vcpu)->pde[(w->linear >> level_shift(w, 2)) % PDE_CACHE_SIZE];
}

/* Where the walk begins: the cached page directory entry, or the root. */
static bool walk_start(struct walk *w)
{
	const struct vcpu_control *c = &w->vcpu->ctl;
	u64 pdpte;

	w->wide = c->cr4 & X86_CR4_PAE;
	w->pae = w->wide && !(c->efer & EFER_LMA);
	w->flags = PAGE_W | PAGE_U | PAGE_X;
	w->count = 0;
	if (!w->wide) {
		w->level = 2;
		w->table = c->cr3 & 0xfffff000;
		return true;
	}
	if (!w->pae) {
		w->level = c->cr4 & X86_CR4_LA57 ? 5 : 4;
		w->table = c->cr3 & MASK(51, 12);
		return true;
	}
	pdpte = c->pdpte[(w->linear >> 30) & 3];
	w->level = 2;
	w->table = pdpte & MASK(51, 12);
	return pdpte & PTE_P;
}

static u64 reserved_bits(const struct walk *w, bool large)
{
	const struct kvm_vcpu *v = w->vcpu;
	u64 high = ~v->guest_maxphyaddr_mask & MASK(51, 12);
	u64 bits;

	if (!w->wide) {
		if (!large)
			return 0;
		/* PSE-36: bits 20 to 13 are address bits 39 to 32. */
		return BIT(21) | (((high >> 32) & 0xff) << 13);
	}
	bits = high | (w->pae ? MASK(62, 52) : 0);
	if (!(v->ctl.efer & EFER_NX))
		bits |= PTE_NX;
	if (large)
		bits |= (BIT(level_shift(w, w->level)) - 1) & ~MASK(12, 0);
	else if (w->level >= 4)
		bits |= PTE_PS;
	return bits;
}

static bool is_large(const struct walk *w, u64 entry)
{
	if (!(entry & PTE_PS))
		return false;
	if (!w->wide)
		return w->level == 2 && (w->vcpu->ctl.cr4 & X86_CR4_PSE);
	return w->level == 2 || w->level == 3;
}

/* One level: 0 to go on, 1 at the leaf, or MMU_FAULT with PF_PROT and PF_RSVD as they are. */
static u32 walk_step(struct walk *w)
{
	unsigned int shift = level_shift(w, w->level), size = w->wide ? 8 : 4;
	u64 index = (w->linear >> shift) & (PAGE_SIZE / size - 1);
	u64 gpa = w->table + index * size, e;
	struct kvm_memory_slot *slot;
	u8 *host = gpa_to_host(w->vcpu, gpa, &slot);
	bool large;

	if (!host)
		return MMU_FAULT;
	e = host_load(host, size);
	if (!(e & PTE_P))
		return MMU_FAULT;
	large = is_large(w, e);
	if (e & reserved_bits(w, large))
		return MMU_FAULT | PF_PROT | PF_RSVD;
	w->flags &= (e & PTE_W ? PAGE_W : 0u) | (e & PTE_U ? PAGE_U : 0u) |
		    (w->wide && (e & PTE_NX) ? 0u : PAGE_X);
	w->entry[w->count].gpa = gpa;
	w->entry[w->count].value = e;
	w->entry[w->count].host = host;
	w->entry[w->count++].slot = slot;
	if (large || w->level == 1)
		return 1;
	w->table = e & (w->wide ? MASK(51, 12) : 0xfffff000);
	w->level--;
	return 0;
}

static u64 leaf_gpa(const struct walk *w)
{
	u64 e = w->entry[w->count - 1].value;
	u64 offset = BIT(level_shift(w, w->level)) - 1, base;

	if (w->wide)
		base = e & MASK(51, 12) & ~offset;
	else
		base = (e & 0xffffffff & ~offset) | (w->level == 2 ? (e & MASK(20, 13)) << 19 : 0);
	return base | PAGE_BASE(w->linear & offset);
}

static bool entry_set(struct walk *w, int i, u64 bits)
{
	u64 old = w->entry[i].value;
	u32 old32 = (u32)old;
	u8 *host = w->entry[i].host;
	bool done;

	if ((old & bits) == bits || (w->entry[i].slot->flags & KVM_MEM_READONLY))
		return true;
	if (w->wide)
		done = __atomic_compare_exchange_n((u64 *)host, &old, old | bits, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	else
		done = __atomic_compare_exchange_n((u32 *)host, &old32, old32 | (u32)bits, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (done) {
		w->entry[i].value |= bits;
		table_written(w->vcpu, w->entry[i].slot, w->entry[i].gpa);
	}
	return done;
}

/* Accessed and dirty flags. False when an entry has changed since it was read. */
static bool walk_mark(struct walk *w, bool write)
{
	for (int i = 0; i < w->count; i++)
		if (!entry_set(w, i, i == w->count - 1 && write ? PTE_A | PTE_D : PTE_A))
			return false;
	return true;
}

static void pde_cache_put(const struct walk *w, u32 flags)
{
	struct mmu *m = vcpu_mmu(w->vcpu);
	struct pde_cache *c = pde_slot(w);

	c->host = gpa_to_host(w->vcpu, w->table, &c->slot);
	c->tag = c->host ? pde_tag(w) : 0;
	c->generation = m->pde_generation;
	c->gpa = w->table;
	c->flags = flags;
}

/* From the cached directory entry, if there is one, else from the root; down to the leaf. */
static u32 walk_down(struct walk *w, bool cached)
{
	u32 r, directory = 0;

	if (!walk_start(w))
		return MMU_FAULT;
	if (cached) {
		const struct pde_cache *c = pde_slot(w);

		if (c->tag == pde_tag(w) && c->generation == vcpu_mmu(w->vcpu)->pde_generation) {
			w->level = 1;
			w->table = c->gpa;
			w->flags = c->flags;
		}
	}
	do {
		if (w->level == 1)
			directory = w->flags;
		r = walk_step(w);
	} while (!r);
	if (r == 1 && w->level == 1 && w->count > 1)
		pde_cache_put(w, directory);
	return r == 1 ? 0 : r;
}

static void page_from_walk(struct walk *w, struct page *page)
{
	u64 leaf = w->entry[w->count - 1].value;

	page->flags = w->flags;
	if (leaf & PTE_D)
		page->flags |= PAGE_D;
	if ((leaf & PTE_G) && (w->vcpu->ctl.cr4 & X86_CR4_PGE))
		page->flags |= PAGE_G;
	if (w->level > 1)
		page->flags |= PAGE_LARGE;
	page->gpa = leaf_gpa(w);
}

/* An entry that another processor keeps changing would keep us here for ever. */
#define WALK_RETRIES 100

u32 mmu_walk(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class, bool mark,
	     struct page *page)
{
	struct walk w = {.vcpu = vcpu, .linear = linear};

	if (!(vcpu->ctl.cr0 & X86_CR0_PG)) {
		page->gpa = PAGE_BASE(linear);
		page->flags = PAGE_W | PAGE_U | PAGE_X | PAGE_D;
		return 0;
	}
	for (int i = 0; i < WALK_RETRIES; i++) {
		u32 r = walk_down(&w, mark && i == 0);

		if (r)
			return fault_code(vcpu, r & (PF_PROT | PF_RSVD), access, class);
		if (!mmu_page_allows(vcpu, w.flags, access, class))
			return fault_code(vcpu, PF_PROT, access, class);
		if (!mark || walk_mark(&w, access == ACCESS_WRITE))
			break;
	}
	page_from_walk(&w, page);
	return 0;
}

bool mmu_load_pdptes(struct kvm_vcpu *vcpu, u64 cr3)
{
	u64 reserved = (~vcpu->guest_maxphyaddr_mask & MASK(63, 12)) | MASK(8, 5) | MASK(2, 1);
	u64 gpa = cr3 & 0xffffffe0, value[4];
	struct kvm_memory_slot *slot;
	const u8 *host = gpa_to_host(vcpu, gpa, &slot);

	for (int i = 0; i < 4; i++) {
		value[i] = host ? host_load(host + 8 * i, 8) : 0;
		if ((value[i] & PTE_P) && (value[i] & reserved))
			return false;
	}
	memcpy(vcpu->ctl.pdpte, value, sizeof(value));
	vcpu->ctl.pdpte_cr3 = cr3;
	return true;
}
