/*
 * Memory slots and their dirty bitmaps: api.rst, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG.
 *
 * Invariants:
 * 1. A published set is never changed in what vCPU threads read (base_gfn, npages, hva and the
 *    order); it is replaced, and the old one freed, while every vCPU is out of guest code.
 * 2. Slots of a set do not overlap, have npages > 0 and lie below MAX_GFN.
 * 3. After dirty bits are cleared every vCPU drops its translations before the bitmap reaches the
 *    user, so a page written later is marked again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/mmu.h"

#define MAX_NPAGES ((1ULL << 31) - 1)
#define MAX_GFN	   (1ULL << (52 - PAGE_SHIFT))

struct change {
	struct kvm_memslots *slots;
	const struct kvm_memory_slot *old; /* its range is forgotten; NULL: none */
};

/* The first slot that ends after gfn, or count. */
static u32 slot_search(const struct kvm_memslots *slots, u64 gfn)
{
	u32 lo = 0, hi = slots->count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (slots->slot[mid]->base_gfn + slots->slot[mid]->npages <= gfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct kvm_memory_slot *gfn_to_memslot(struct kvm *kvm, u64 gfn)
{
	const struct kvm_memslots *slots = __atomic_load_n(&kvm->memslots, __ATOMIC_ACQUIRE);
	u32 i = slot_search(slots, gfn);

	return i < slots->count && slots->slot[i]->base_gfn <= gfn ? slots->slot[i] : NULL;
}

void mark_page_dirty_in_slot(struct kvm_memory_slot *slot, u64 gfn)
{
	if (slot->dirty_bitmap)
		bitmap_set_atomic(slot->dirty_bitmap, gfn - slot->base_gfn);
}

static struct kvm_memory_slot *slot_by_id(const struct kvm_memslots *slots, u32 id)
{
	for (u32 i = 0; i < slots->count; i++)
		if (slots->slot[i]->id == id)
			return slots->slot[i];
	return NULL;
}

/* ---- validation ---- */

static int check_region(const struct kvm_userspace_memory_region *mem)
{
	u64 end;

	if (mem->flags & ~(u32)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return -EINVAL;
	if (!is_aligned(mem->memory_size, PAGE_SIZE) ||
	    !is_aligned(mem->guest_phys_addr, PAGE_SIZE) ||
	    !is_aligned(mem->userspace_addr, PAGE_SIZE))
		return -EINVAL;
	if (!range_fits(mem->userspace_addr, mem->memory_size, 1ULL << 47))
		return -EINVAL;
	if (mem->slot >= KVM_MAX_MEM_SLOTS)
		return -EINVAL;
	if (add_overflows(&end, mem->guest_phys_addr, mem->memory_size))
		return -EINVAL;
	if (mem->memory_size >> PAGE_SHIFT > MAX_NPAGES)
		return -EINVAL;
	return 0;
}

static bool overlaps(const struct kvm_memslots *slots, u32 id, u64 base, u64 npages)
{
	for (u32 i = 0; i < slots->count; i++)
		if (slots->slot[i]->id != id &&
		    ranges_overlap(slots->slot[i]->base_gfn, slots->slot[i]->npages, base, npages))
			return true;
	return false;
}

/* May `old` become what mem says? 1: nothing would change. */
static int check_modify(const struct kvm_userspace_memory_region *mem,
			const struct kvm_memory_slot *old)
{
	if (mem->userspace_addr != (u64)(uintptr_t)old->hva ||
	    mem->memory_size >> PAGE_SHIFT != old->npages ||
	    (mem->flags ^ old->flags) & KVM_MEM_READONLY)
		return -EINVAL;
	return mem->guest_phys_addr >> PAGE_SHIFT == old->base_gfn && mem->flags == old->flags;
}

/* ---- building a set ---- */

static void slot_free(struct kvm_memory_slot *slot)
{
	if (!slot)
		return;
	free(slot->dirty_bitmap);
	free(slot);
}

static struct kvm_memory_slot *slot_new(struct kvm *kvm,
					const struct kvm_userspace_memory_region *mem)
{
	struct kvm_memory_slot *slot = calloc(1, sizeof(*slot));

	if (!slot)
		return NULL;
	slot->id = mem->slot;
	slot->flags = mem->flags;
	slot->base_gfn = mem->guest_phys_addr >> PAGE_SHIFT;
	slot->npages = mem->memory_size >> PAGE_SHIFT;
	slot->hva = (u8 *)(uintptr_t)mem->userspace_addr; /* the caller's memory */
	if (!(mem->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return slot;
	slot->dirty_bitmap = calloc(BITMAP_WORDS(slot->npages), sizeof(u64));
	if (!slot->dirty_bitmap) {
		free(slot);
		return NULL;
	}
	if (kvm->arch->manual_dirty_log & KVM_DIRTY_LOG_INITIALLY_SET)
		for (u64 i = 0; i < slot->npages; i++)
			bitmap_set(slot->dirty_bitmap, i);
	return slot;
}

/* A copy of the set without `gone` and with `added`, either of which may be NULL. */
static struct kvm_memslots *slots_edit(const struct kvm_memslots *from,
				       const struct kvm_memory_slot *gone,
				       struct kvm_memory_slot *added)
{
	struct kvm_memslots *to = malloc(sizeof(*to) + (from->count + 1) * sizeof(to->slot[0]));

	if (!to)
		return NULL;
	to->count = 0;
	for (u32 i = 0; i < from->count; i++) {
		if (from->slot[i] == gone)
			continue;
		if (added && added->base_gfn < from->slot[i]->base_gfn) {
			to->slot[to->count++] = added;
			added = NULL;
		}
		to->slot[to->count++] = from->slot[i];
	}
	if (added)
		to->slot[to->count++] = added;
	return to;
}

/* ---- publication ---- */

static void publish(struct kvm *kvm, void *arg)
{
	struct change *c = arg;
	struct kvm_memslots *old = kvm->memslots;

	__atomic_store_n(&kvm->memslots, c->slots, __ATOMIC_RELEASE);
	if (c->old)
		kvm->exec->flush_slot(kvm, c->old->base_gfn << PAGE_SHIFT,
				      c->old->npages << PAGE_SHIFT);
	kvm_make_all_requests(kvm, KVM_REQ_TLB_FLUSH);
	free(old);
}

static int replace(struct kvm *kvm, struct kvm_memory_slot *old, struct kvm_memory_slot *added)
{
	struct change c = {.slots = slots_edit(kvm->memslots, old, added), .old = old};

	if (!c.slots) {
		slot_free(added);
		return -ENOMEM;
	}
	kvm_for_each_vcpu_stopped(kvm, publish, &c);
	slot_free(old);
	kvm->arch->stat->memslot_changes++;
	kvm->arch->stat->memslots = c.slots->count;
	return 0;
}

static int set_region_locked(struct kvm *kvm, const struct kvm_userspace_memory_region *mem)
{
	struct kvm_memory_slot *old = slot_by_id(kvm->memslots, mem->slot), *added;
	u64 base = mem->guest_phys_addr >> PAGE_SHIFT, npages = mem->memory_size >> PAGE_SHIFT;
	int rc;

	if (!npages)
		return old ? replace(kvm, old, NULL) : -EINVAL;
	if (old) {
		rc = check_modify(mem, old);
		if (rc)
			return rc < 0 ? rc : 0;
	}
	if (overlaps(kvm->memslots, mem->slot, base, npages))
		return -EEXIST;
	if (base + npages > MAX_GFN)
		return -EINVAL;
	added = slot_new(kvm, mem);
	if (!added)
		return -ENOMEM;
	/* Logging goes on over a move: what was dirty stays so. */
	if (old && old->dirty_bitmap && added->dirty_bitmap)
		memcpy(added->dirty_bitmap, old->dirty_bitmap, BITMAP_WORDS(npages) * sizeof(u64));
	return replace(kvm, old, added);
}

int kvm_set_memory_region(struct kvm *kvm, const struct kvm_userspace_memory_region *mem)
{
	int rc = check_region(mem);

	if (rc)
		return rc;
	pthread_mutex_lock(&kvm->lock);
	rc = set_region_locked(kvm, mem);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}

void kvm_free_memslots(struct kvm *kvm)
{
	if (!kvm->memslots)
		return;
	for (u32 i = 0; i < kvm->memslots->count; i++)
		slot_free(kvm->memslots->slot[i]);
	free(kvm->memslots);
}

/* ---- dirty log ---- */

static void flush_all_tlbs(struct kvm *kvm, void *arg)
{
	kvm_make_all_requests(kvm, KVM_REQ_TLB_FLUSH);
}

static int logged_slot(struct kvm *kvm, u32 id, struct kvm_memory_slot **slot)
{
	if (id >= KVM_MAX_MEM_SLOTS)
		return -EINVAL;
	*slot = slot_by_id(kvm->memslots, id);
	return *slot && (*slot)->dirty_bitmap ? 0 : -ENOENT;
}

static int get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log)
{
	bool clear = !kvm->arch->manual_dirty_log;
	u64 *out = log->dirty_bitmap, any = 0;
	struct kvm_memory_slot *slot;
	int rc = logged_slot(kvm, log->slot, &slot);

	if (rc)
		return rc;
	for (u64 i = 0; i < BITMAP_WORDS(slot->npages); i++) {
		u64 *word = &slot->dirty_bitmap[i];

		out[i] = __atomic_load_n(word, __ATOMIC_ACQUIRE);
		if (clear && out[i])
			out[i] = __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL);
		any |= out[i];
	}
	if (clear && any)
		kvm_for_each_vcpu_stopped(kvm, flush_all_tlbs, NULL);
	kvm->arch->stat->dirty_log_reads++;
	return 0;
}

int kvm_get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log)
{
	int rc;

	pthread_mutex_lock(&kvm->lock);
	rc = get_dirty_log(kvm, log);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}

static int clear_dirty_log(struct kvm *kvm, const struct kvm_clear_dirty_log *log)
{
	const u64 *in = log->dirty_bitmap;
	u64 first = log->first_page, count = log->num_pages, flushed = 0;
	struct kvm_memory_slot *slot;
	int rc;

	if (first & 63)
		return -EINVAL;
	rc = logged_slot(kvm, log->slot, &slot);
	if (rc)
		return rc;
	if (first > slot->npages || count > slot->npages - first ||
	    (count < slot->npages - first && (count & 63)))
		return -EINVAL;
	for (u64 i = 0; i < BITMAP_WORDS(count); i++)
		if (in[i])
			flushed |= in[i] & __atomic_fetch_and(&slot->dirty_bitmap[first / 64 + i],
							      ~in[i], __ATOMIC_ACQ_REL);
	if (flushed)
		kvm_for_each_vcpu_stopped(kvm, flush_all_tlbs, NULL);
	return 0;
}

int kvm_clear_dirty_log(struct kvm *kvm, const struct kvm_clear_dirty_log *log)
{
	int rc;

	pthread_mutex_lock(&kvm->lock);
	rc = clear_dirty_log(kvm, log);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}

/* ---- the chips' own structures in guest memory ---- */

static u8 *guest_page(struct kvm *kvm, u64 gpa, bool write)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(kvm, gpa >> PAGE_SHIFT);

	if (!slot || (write && (slot->flags & KVM_MEM_READONLY)))
		return NULL;
	if (write)
		mark_page_dirty_in_slot(slot, gpa >> PAGE_SHIFT);
	return slot->hva + (gpa - (slot->base_gfn << PAGE_SHIFT));
}

int kvm_write_guest(struct kvm *kvm, u64 gpa, const void *data, u32 len)
{
	const u8 *from = data;

	while (len) {
		u32 n = (u32)min((u64)len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));
		u8 *to = guest_page(kvm, gpa, true);

		if (!to)
			return -EFAULT;
		guest_copy(to, from, n);
		gpa += n;
		from += n;
		len -= n;
	}
	return 0;
}

int kvm_read_guest(struct kvm *kvm, u64 gpa, void *data, u32 len)
{
	u8 *to = data;

	while (len) {
		u32 n = (u32)min((u64)len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));
		const u8 *from = guest_page(kvm, gpa, false);

		if (!from)
			return -EFAULT;
		guest_copy(to, from, n);
		gpa += n;
		to += n;
		len -= n;
	}
	return 0;
}
