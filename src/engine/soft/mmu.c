/*
 * The two TLBs. Invariants:
 *  1. A level 1 tag exists only while the access it allows needs nobody's attention: the walk
 *     allowed it with CR0.WP, CR4 and EFLAGS as they are for the table's class, the dirty flag is
 *     set for a write tag, and page_silent_write() held.
 *  2. Every level 1 slot that holds a page which is not global is in the log (or the log has
 *     overflown), so that dropping those costs what was filled and not the table's size.
 *  3. An address space number is never given twice between two flushes of everything; a flush of
 *     one address space takes a new number and leaves the old entries to be overwritten.
 */
#include "engine/soft/mmu_int.h"

/* ---- level 2 ---- */

static struct page *page_set(struct mmu *m, u64 linear)
{
	return m->page[((linear >> PAGE_SHIFT) ^ (linear >> 22)) % TLB2_SETS];
}

static struct page *page_find(struct mmu *m, u64 linear)
{
	struct page *set = page_set(m, linear);
	u64 tag = PAGE_BASE(linear) | m->asn;

	for (unsigned int i = 0; i < TLB2_WAYS; i++)
		if (!((set[i].tag ^ tag) & ~set[i].ignore) && set[i].tag)
			return &set[i];
	return NULL;
}

static void note_large(struct mmu *m, u64 linear)
{
	int half = linear >> 63;

	m->large_lo[half] = min(m->large_lo[half], linear);
	m->large_hi[half] = max(m->large_hi[half], linear | (PAGE_SIZE - 1));
}

static struct page *page_put(struct kvm_vcpu *vcpu, u64 linear, const struct page *new)
{
	struct mmu *m = vcpu_mmu(vcpu);
	struct page *set = page_set(m, linear), *p = page_find(m, linear);

	if (!p)
		p = &set[m->next_way[(set - m->page[0]) / TLB2_WAYS]++ % TLB2_WAYS];
	m->page_used = true;
	*p = *new;
	p->tag = PAGE_BASE(linear) | m->asn;
	p->ignore = new->flags &PAGE_G ? PAGE_SIZE - 1 : 0;
	p->host = gpa_to_host(vcpu, p->gpa, &p->slot);
	if (p->flags & PAGE_LARGE)
		note_large(m, linear);
	return p;
}

bool mmu_is_global(const struct kvm_vcpu *vcpu, u64 linear)
{
	const struct page *p = page_find(vcpu_mmu(vcpu), linear);

	return p && p->flags & PAGE_G;
}

static bool canonical(const struct kvm_vcpu *vcpu, u64 linear)
{
	return sign_extend(linear, vcpu->ctl.cr4 & X86_CR4_LA57 ? 57 : 48) == (s64)linear;
}

u32 mmu_find(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class,
	     struct page **out)
{
	struct mmu *m = vcpu_mmu(vcpu);
	struct page *p, new = {0};
	u32 r;

	if ((vcpu->ctl.efer & EFER_LMA) && unlikely(!canonical(vcpu, linear)))
		return MMU_NOT_CANONICAL;
	p = page_find(m, linear);
	if (p && mmu_page_allows(vcpu, p->flags, access, class) &&
	    (access != ACCESS_WRITE || (p->flags & PAGE_D))) {
		*out = p;
		return 0;
	}
	if (vcpu->stat)
		vcpu->stat->tlb_fill++;
	r = mmu_walk(vcpu, linear, access, class, true, &new);
	if (r)
		return r;
	*out = page_put(vcpu, linear, &new);
	return 0;
}

/* Is this the instruction's access to the stack segment? 64-bit mode only asks for #SS or #GP. */
static bool is_stack_access(struct kvm_vcpu *vcpu, u64 linear)
{
	const struct uop *u = vcpu->uop;

	if (u == &uop_between || !u->mode64)
		return false;
	if (u->mem && linear - uop_ea(vcpu, u) < PAGE_SIZE)
		return u->seg == SEG_SS;
	return linear - vcpu->ctl.gpr[RSP] + 64 < 128;
}

struct page *mmu_get(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class)
{
	struct page *page;
	u32 r = mmu_find(vcpu, linear, access, class, &page);

	if (likely(!r))
		return page;
	if (r == MMU_NOT_CANONICAL)
		raise_exception_error(vcpu, is_stack_access(vcpu, linear) ? SS_VECTOR : GP_VECTOR,
				      0);
	raise_page_fault(vcpu, linear, r & ~MMU_FAULT);
}

/* ---- level 1 ---- */

static u64 no_tag(u32 index)
{
	return index ? 0 : PAGE_SIZE;
}

static void slot_clear(struct tlb_entry *e, u32 index)
{
	for (int i = 0; i < 3; i++)
		__atomic_store_n(&e->tag[i], no_tag(index), __ATOMIC_RELAXED);
}

/*
 * Another vCPU may be in protect_in() meanwhile: of each word it sees the old or the new, and takes
 * a write tag away that is gone anyway. (Each word is one store here; memset() promises no such
 * thing.)
 */
static void tlb_clear(struct tlb *t)
{
	void *to = t->entry;
	size_t words = sizeof(t->entry) / 8;

	asm volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(0UL) : "memory");
	slot_clear(&t->entry[0], 0);
}

static void tlb_flush_all(struct mmu *m)
{
	for (int i = 0; i < TLB_CLASSES; i++)
		if (m->tlbs_used & BIT(i))
			tlb_clear(&m->tlbs[i]);
	m->tlbs_used = 0;
	m->log_count = 0;
	memset(m->write_filter, 0, sizeof(m->write_filter));
}

static void tlb_flush_nonglobal(struct mmu *m)
{
	if (m->log_count > TLB_LOG_SIZE) {
		tlb_flush_all(m);
		return;
	}
	for (u32 i = 0; i < m->log_count; i++) {
		u32 index = m->log[i] % TLB_SIZE;

		slot_clear(&m->tlbs[m->log[i] / TLB_SIZE].entry[index], index);
	}
	m->log_count = 0;
}

static void tlb_log(struct mmu *m, enum tlb_class class, u32 index)
{
	if (m->log_count < TLB_LOG_SIZE)
		m->log[m->log_count++] = class * TLB_SIZE + index;
	else
		m->log_count = TLB_LOG_SIZE + 1;
}

static u32 filter_bit(u64 gpa)
{
	return (gpa >> PAGE_SHIFT) % (64 * 64);
}

bool page_silent_write(struct kvm_vcpu *vcpu, const struct page *p)
{
	const struct kvm_memory_slot *s = p->slot;

	if (!s || (s->flags & KVM_MEM_READONLY) || blocks_page_has_code(vcpu->kvm, p->gpa))
		return false;
	return !s->dirty_bitmap || page_is_marked(s, p->gpa >> PAGE_SHIFT);
}

bool mmu_watched(const struct mmu *m, u64 linear)
{
	for (int i = 0; i < m->watch_count; i++)
		if (PAGE_BASE(m->watch[i].addr) == PAGE_BASE(linear) ||
		    PAGE_BASE(m->watch[i].addr + m->watch[i].len - 1) == PAGE_BASE(linear))
			return true;
	return false;
}

/* See mmu_protect_code(): either it sees this tag, or this sees that the page has code. */
static void set_write_tag(struct kvm_vcpu *vcpu, struct tlb_entry *e, u32 index, u64 linear,
			  const struct page *p)
{
	struct mmu *m = vcpu_mmu(vcpu);

	__atomic_fetch_or(&m->write_filter[filter_bit(p->gpa) / 64], BIT(filter_bit(p->gpa) % 64),
			  __ATOMIC_RELAXED);
	__atomic_store_n(&e->tag[ACCESS_WRITE], PAGE_BASE(linear), __ATOMIC_SEQ_CST);
	if (blocks_page_has_code(vcpu->kvm, p->gpa))
		__atomic_store_n(&e->tag[ACCESS_WRITE], no_tag(index), __ATOMIC_RELAXED);
}

void mmu_fill(struct kvm_vcpu *vcpu, u64 linear, enum tlb_class class, const struct page *p)
{
	struct mmu *m = vcpu_mmu(vcpu);
	u32 index = tlb_index(linear);
	struct tlb_entry *e = &m->tlbs[class].entry[index];
	bool data;

	if (!p->host || m->align_check)
		return;
	data = !m->watch_count || !mmu_watched(m, linear);
	m->tlbs_used |= (u8)BIT(class);
	slot_clear(e, index);
	e->host = p->host;
	__atomic_store_n(&m->tlbs[class].gpa[index], p->gpa, __ATOMIC_RELEASE);
	if (data && mmu_page_allows(vcpu, p->flags, ACCESS_READ, class))
		e->tag[ACCESS_READ] = PAGE_BASE(linear);
	if (mmu_page_allows(vcpu, p->flags, ACCESS_FETCH, class))
		e->tag[ACCESS_FETCH] = PAGE_BASE(linear);
	if (data && (p->flags & PAGE_D) && mmu_page_allows(vcpu, p->flags, ACCESS_WRITE, class) &&
	    page_silent_write(vcpu, p))
		set_write_tag(vcpu, e, index, linear, p);
	if (!(p->flags & PAGE_G))
		tlb_log(m, class, index);
}

static bool protect_in(struct mmu *m, u64 gpa)
{
	bool found = false;

	if (!(__atomic_load_n(&m->write_filter[filter_bit(gpa) / 64], __ATOMIC_SEQ_CST) &
	      BIT(filter_bit(gpa) % 64)))
		return false;
	for (int c = 0; c < TLB_CLASSES; c++)
		for (u32 i = 0; i < TLB_SIZE; i++) {
			u64 *tag = &m->tlbs[c].entry[i].tag[ACCESS_WRITE];

			if (__atomic_load_n(&m->tlbs[c].gpa[i], __ATOMIC_RELAXED) != gpa ||
			    __atomic_load_n(tag, __ATOMIC_RELAXED) == no_tag(i))
				continue;
			__atomic_store_n(tag, no_tag(i), __ATOMIC_SEQ_CST);
			found = true;
		}
	return found;
}

bool mmu_protect_code(struct kvm_vcpu *vcpu, u64 gpa)
{
	struct kvm *kvm = vcpu->kvm;
	u32 count = __atomic_load_n(&kvm->nr_vcpus, __ATOMIC_ACQUIRE);
	bool other = false;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (u32 i = 0; i < count; i++) {
		struct kvm_vcpu *v = __atomic_load_n(&kvm->vcpus[i], __ATOMIC_ACQUIRE);

		if (v && v->cpu && protect_in(vcpu_mmu(v), PAGE_BASE(gpa)) && v != vcpu)
			other = true;
	}
	return other;
}

/* ---- control ---- */

void mmu_update_class(struct kvm_vcpu *vcpu)
{
	struct mmu *m = vcpu_mmu(vcpu);
	const struct vcpu_control *c = &vcpu->ctl;
	bool ac = c->rflags & X86_AC;

	if (c->cpl == 3)
		m->class = TLB_USER;
	else
		m->class = ac && (c->cr4 & X86_CR4_SMAP) ? TLB_OPEN : TLB_SUPERVISOR;
	m->align_check = ac && c->cpl == 3 && (c->cr0 & X86_CR0_AM);
	m->tlb = m->align_check ? &m->off : &m->tlbs[m->class];
	vcpu->tlb = m->tlb;
	m->linear_mask = c->efer & EFER_LMA ? ~0ULL : 0xffffffff;
}

static void flush_pages(struct mmu *m)
{
	if (m->page_used)
		memset(m->page, 0, sizeof(m->page));
	m->page_used = false;
	memset(m->pcid_asn, 0, sizeof(m->pcid_asn));
	m->next_asn = 1;
	m->pde_generation++;
	for (int i = 0; i < 2; i++) {
		m->large_lo[i] = ~0ULL;
		m->large_hi[i] = 0;
	}
}

static u16 current_pcid(const struct kvm_vcpu *vcpu)
{
	return vcpu->ctl.cr4 & X86_CR4_PCIDE ? vcpu->ctl.cr3 & 0xfff : 0;
}

/* Make the number of this PCID current; a fresh one forgets what the old one had. */
static void select_asn(struct kvm_vcpu *vcpu, bool fresh)
{
	struct mmu *m = vcpu_mmu(vcpu);
	u16 pcid = current_pcid(vcpu);

	if (fresh || !m->pcid_asn[pcid]) {
		if (m->next_asn > 4095) {
			flush_pages(m);
			blocks_mapping_changed(vcpu);
		}
		m->pcid_asn[pcid] = m->next_asn++;
	}
	m->asn = m->pcid_asn[pcid];
}

void mmu_flush_all(struct kvm_vcpu *vcpu)
{
	struct mmu *m = vcpu_mmu(vcpu);

	if (vcpu->stat)
		vcpu->stat->tlb_flush++;
	tlb_flush_all(m);
	flush_pages(m);
	select_asn(vcpu, true);
	mmu_update_class(vcpu);
	blocks_mapping_changed(vcpu);
}

void mmu_state_changed(struct kvm_vcpu *vcpu)
{
	const struct vcpu_control *c = &vcpu->ctl;
	bool pae = (c->cr0 & X86_CR0_PG) && (c->cr4 & X86_CR4_PAE) && !(c->efer & EFER_LMA);

	/* Bad ones leave the old: the user's mistake, and harmless. */
	if (pae && c->pdpte_cr3 != c->cr3)
		mmu_load_pdptes(vcpu, c->cr3);
	mmu_flush_all(vcpu);
}

void mmu_flush_permissions(struct kvm_vcpu *vcpu)
{
	tlb_flush_all(vcpu_mmu(vcpu));
	mmu_update_class(vcpu);
	blocks_mapping_changed(vcpu);
}

void mmu_load_cr3(struct kvm_vcpu *vcpu, bool keep)
{
	tlb_flush_nonglobal(vcpu_mmu(vcpu));
	select_asn(vcpu, !keep);
	blocks_space_changed(vcpu);
}

static void tlb_drop(struct mmu *m, u64 linear)
{
	u32 index = tlb_index(linear);

	for (int c = 0; c < TLB_CLASSES; c++)
		slot_clear(&m->tlbs[c].entry[index], index);
}

/* Pieces of the large page that linear may be in. */
static void drop_large(struct mmu *m, u64 linear)
{
	for (unsigned int i = 0; i < TLB2_SETS; i++)
		for (unsigned int way = 0; way < TLB2_WAYS; way++) {
			struct page *p = &m->page[i][way];

			if ((p->flags & PAGE_LARGE) && p->tag >> 30 == linear >> 30)
				p->tag = 0;
		}
	tlb_flush_all(m);
}

static void drop_page(struct kvm_vcpu *vcpu, u64 linear, u16 asn, bool global)
{
	struct mmu *m = vcpu_mmu(vcpu);
	struct page *set = page_set(m, linear);
	int half = linear >> 63;

	for (unsigned int i = 0; i < TLB2_WAYS; i++) {
		u64 diff = set[i].tag ^ (PAGE_BASE(linear) | asn);

		if (set[i].tag && !(diff & ~(global ? set[i].ignore : 0)))
			set[i].tag = 0;
	}
	tlb_drop(m, linear);
	/* A 1G page may lie around the pieces seen so far. */
	if (linear >= align_down(m->large_lo[half], GiB) &&
	    linear <= (m->large_hi[half] | (GiB - 1))) {
		drop_large(m, linear);
		blocks_mapping_changed(vcpu);
	} else {
		blocks_page_changed(vcpu, linear);
	}
	m->pde_generation++;
}

void mmu_invlpg(struct kvm_vcpu *vcpu, u64 linear)
{
	if (vcpu->stat)
		vcpu->stat->invlpg++;
	drop_page(vcpu, linear, vcpu_mmu(vcpu)->asn, true);
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

void mmu_invpcid(struct kvm_vcpu *vcpu, unsigned int type, u16 pcid, u64 linear)
{
	struct mmu *m = vcpu_mmu(vcpu);

	switch (type) {
	case INVPCID_ADDRESS:
		if (m->pcid_asn[pcid & 4095])
			drop_page(vcpu, linear, m->pcid_asn[pcid & 4095], false);
		break;
	case INVPCID_CONTEXT:
		if (pcid == current_pcid(vcpu))
			mmu_load_cr3(vcpu, false);
		else
			m->pcid_asn[pcid & 4095] = 0;
		break;
	case INVPCID_ALL_GLOBAL:
		mmu_flush_all(vcpu);
		break;
	case INVPCID_ALL:
		memset(m->pcid_asn, 0, sizeof(m->pcid_asn));
		mmu_load_cr3(vcpu, false);
		break;
	}
}

static void add_watch(struct mmu *m, u64 dr7, int i, u64 addr)
{
	unsigned int type = (dr7 >> (16 + 4 * i)) & 3, len = (dr7 >> (18 + 4 * i)) & 3;

	if (!(dr7 & (3ULL << (2 * i))))
		return;
	if (!type)
		m->code_watch |= (u8)(1u << i);
	if (!type || m->watch_count >= ARRAY_SIZE(m->watch))
		return;
	len = len == 2 ? 8 : len + 1;
	m->watch[m->watch_count].addr = align_down(addr, len);
	m->watch[m->watch_count].len = (u8)len;
	m->watch[m->watch_count].index = (u8)i;
	m->watch[m->watch_count].write_only = type == 1;
	m->watch[m->watch_count].io = type == 2;
	m->watch_count++;
}

void mmu_update_watchpoints(struct kvm_vcpu *vcpu)
{
	struct mmu *m = vcpu_mmu(vcpu);
	bool debugger = vcpu->guest_debug & KVM_GUESTDBG_USE_HW_BP;
	const u64 *dr = debugger ? vcpu->guest_debug_dr : vcpu->ctl.dr;
	u64 dr7 = debugger ? vcpu->guest_debug_dr[7] : vcpu->ctl.dr7;
	u8 before = m->watch_count;

	m->watch_count = m->code_watch = 0;
	for (int i = 0; i < 4; i++)
		add_watch(m, dr7, i, dr[i]);
	if (before || m->watch_count)
		tlb_flush_all(m);
}

void mmu_init(struct kvm_vcpu *vcpu)
{
	struct mmu *m = vcpu_mmu(vcpu);

	vcpu->ctl.pdpte_cr3 = ~0ULL;
	slot_clear(&m->off.entry[0], 0);
	for (int i = 0; i < TLB_CLASSES; i++)
		slot_clear(&m->tlbs[i].entry[0], 0);
	mmu_flush_all(vcpu);
}

u64 mmu_translate_debug(struct kvm_vcpu *vcpu, u64 linear, bool *writable, bool *user)
{
	struct page page = {0};

	if ((vcpu->ctl.efer & EFER_LMA) && !canonical(vcpu, linear))
		return ~0ULL;
	/* OPEN: what SMAP and a user's pages forbid is not asked here. */
	if (mmu_walk(vcpu, linear, ACCESS_READ, TLB_OPEN, false, &page))
		return ~0ULL;
	*writable = page.flags & PAGE_W;
	*user = page.flags & PAGE_U;
	return page.gpa | PAGE_OFFSET(linear);
}
