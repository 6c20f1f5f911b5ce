/*
 * Accesses to linear memory that level 1 of the TLB did not answer. Invariants:
 *  1. Both pages of an access are translated, and so may fault, before a byte is moved.
 *  2. A store to RAM is followed by its consequences (dirty log, decoded code), never preceded: who
 *     decodes in between sees the new bytes and is told all the same.
 *  3. Device accesses are made in address order, at most 8 bytes at a time; the first that needs
 * the user leaves, and what has been done is remembered by mmio.c.
 */
#include "engine/soft/mmu_int.h"

/* What an access touches in one page. */
struct part {
	u64 gpa;
	u8 *host; /* NULL: device, or ROM that is written */
	struct kvm_memory_slot *slot;
	unsigned int len;
};

/* DR6 bits of the armed watchpoints that [linear, linear + len) touches. */
static u32 watch_match(const struct mmu *m, u64 linear, unsigned int len, enum access access)
{
	u32 hits = 0;

	for (int i = 0; i < m->watch_count; i++) {
		if (m->watch[i].io || (m->watch[i].write_only && access != ACCESS_WRITE))
			continue;
		if (linear < m->watch[i].addr + m->watch[i].len && m->watch[i].addr < linear + len)
			hits |= 1u << m->watch[i].index;
	}
	return hits;
}

static void watch(struct kvm_vcpu *vcpu, u64 linear, unsigned int len, enum access access)
{
	struct mmu *m = vcpu_mmu(vcpu);
	u32 hits = watch_match(m, linear, len, access);

	if (hits) {
		m->watch_hits |= hits;
		vcpu->events = true;
	}
}

static void part_from_page(struct part *part, const struct page *page, u64 linear, unsigned int len,
			   enum access access)
{
	unsigned int offset = linear & (PAGE_SIZE - 1);

	part->gpa = page->gpa | offset;
	part->len = len;
	part->slot = page->slot;
	part->host = page->host ? page->host + offset : NULL;
	if (access == ACCESS_WRITE && page->slot && (page->slot->flags & KVM_MEM_READONLY))
		part->host = NULL;
}

/* Translate an access of 1 to 4096 bytes; the number of parts. */
static int resolve(struct kvm_vcpu *vcpu, u64 linear, unsigned int len, enum access access,
		   enum tlb_class class, struct part part[2])
{
	struct mmu *m = vcpu_mmu(vcpu);
	unsigned int room = PAGE_SIZE - (linear & (PAGE_SIZE - 1)), head = min(len, room);
	int n = 1;

	part_from_page(&part[0], mmu_get(vcpu, linear, access, class), linear, head, access);
	if (head < len) {
		u64 next = (linear + head) & m->linear_mask;

		part_from_page(&part[1], mmu_get(vcpu, next, access, class), next, len - head,
			       access);
		n = 2;
	}
	if (unlikely(m->watch_count))
		watch(vcpu, linear, len, access);
	return n;
}

void mem_check_alignment(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	if (unlikely(vcpu_mmu(vcpu)->align_check) && (linear & (size - 1)) &&
	    (s64)(linear << 16) >> 16 == (s64)linear) /* else #GP, #SS */
		raise_exception_error(vcpu, AC_VECTOR, 0);
}

/* ---- moving bytes ---- */

static void device_access(struct kvm_vcpu *vcpu, const struct part *p, bool write, u8 *data)
{
	for (unsigned int done = 0; done < p->len; done += 8)
		io_access(vcpu, false, p->gpa + done, min(8u, p->len - done), write, data + done);
}

static void written(struct kvm_vcpu *vcpu, const struct part *p)
{
	if (p->slot->dirty_bitmap)
		mark_page_dirty_in_slot(p->slot, p->gpa >> PAGE_SHIFT);
	if (blocks_page_has_code(vcpu->kvm, p->gpa))
		blocks_written(vcpu, p->gpa, p->len);
}

static void copy(void *to, const void *from, unsigned int len)
{
	if (len == 1 || len == 2 || len == 4 || len == 8)
		host_store(to, len, host_load(from, len));
	else
		guest_copy(to, from, len);
}

static void read_parts(struct kvm_vcpu *vcpu, const struct part *part, int n, u8 *buf)
{
	for (int i = 0; i < n; buf += part[i].len, i++) {
		if (part[i].host)
			copy(buf, part[i].host, part[i].len);
		else
			device_access(vcpu, &part[i], false, buf);
	}
}

/* Devices first: they may leave for the user, and memory must not have changed then. */
static void write_parts(struct kvm_vcpu *vcpu, const struct part *part, int n, const u8 *buf)
{
	const u8 *from = buf;
	u8 chunk[PAGE_SIZE];

	for (int i = 0; i < n; from += part[i].len, i++) {
		if (part[i].host)
			continue;
		memcpy(chunk, from, part[i].len);
		device_access(vcpu, &part[i], true, chunk);
	}
	for (int i = 0; i < n; buf += part[i].len, i++) {
		if (!part[i].host)
			continue;
		copy(part[i].host, buf, part[i].len);
		written(vcpu, &part[i]);
	}
}

static void read_class(struct kvm_vcpu *vcpu, u64 linear, void *buf, unsigned int len,
		       enum tlb_class class)
{
	struct part part[2];
	int n = resolve(vcpu, linear, len, ACCESS_READ, class, part);

	read_parts(vcpu, part, n, buf);
}

static void write_class(struct kvm_vcpu *vcpu, u64 linear, const void *buf, unsigned int len,
			enum tlb_class class)
{
	struct part part[2];
	int n = resolve(vcpu, linear, len, ACCESS_WRITE, class, part);

	write_parts(vcpu, part, n, buf);
}

/* After an access of one page: let the next one hit, when it may. */
static void refill(struct kvm_vcpu *vcpu, u64 linear, enum access access, enum tlb_class class)
{
	struct page *page;

	if (!mmu_find(vcpu, linear, access, class, &page))
		mmu_fill(vcpu, linear, class, page);
}

/* ---- explicit accesses ---- */

u64 mem_read_slow(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	enum tlb_class class = vcpu_mmu(vcpu)->class;
	struct part part[2];
	u64 value = 0;
	int n;

	mem_check_alignment(vcpu, linear, size);
	n = resolve(vcpu, linear, size, ACCESS_READ, class, part);
	if (n == 1 && part[0].host) {
		refill(vcpu, linear, ACCESS_READ, class);
		return host_load(part[0].host, size);
	}
	read_parts(vcpu, part, n, (u8 *)&value);
	return value;
}

void mem_write_slow(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value)
{
	enum tlb_class class = vcpu_mmu(vcpu)->class;
	struct part part[2];
	int n;

	mem_check_alignment(vcpu, linear, size);
	n = resolve(vcpu, linear, size, ACCESS_WRITE, class, part);
	write_parts(vcpu, part, n, (const u8 *)&value);
	if (n == 1 && part[0].host)
		refill(vcpu, linear, ACCESS_WRITE, class);
}

void mem_read_bytes(struct kvm_vcpu *vcpu, u64 linear, void *buf, unsigned int len)
{
	const void *p = tlb_pointer(vcpu, linear, len, ACCESS_READ);
	enum tlb_class class = vcpu_mmu(vcpu)->class;

	if (p) {
		guest_copy(buf, p, len);
		return;
	}
	read_class(vcpu, linear, buf, len, class);
	refill(vcpu, linear, ACCESS_READ, class);
}

void mem_write_bytes(struct kvm_vcpu *vcpu, u64 linear, const void *buf, unsigned int len)
{
	void *p = tlb_pointer(vcpu, linear, len, ACCESS_WRITE);
	enum tlb_class class = vcpu_mmu(vcpu)->class;

	if (p) {
		guest_copy(p, buf, len);
		return;
	}
	write_class(vcpu, linear, buf, len, class);
	refill(vcpu, linear, ACCESS_WRITE, class);
}

void mem_probe_read(struct kvm_vcpu *vcpu, u64 linear, unsigned int len)
{
	struct part part[2];

	if (!tlb_pointer(vcpu, linear, len, ACCESS_READ))
		resolve(vcpu, linear, len, ACCESS_READ, vcpu_mmu(vcpu)->class, part);
}

void mem_probe_write(struct kvm_vcpu *vcpu, u64 linear, unsigned int len)
{
	struct part part[2];

	if (!tlb_pointer(vcpu, linear, len, ACCESS_WRITE))
		resolve(vcpu, linear, len, ACCESS_WRITE, vcpu_mmu(vcpu)->class, part);
}

void *mem_span(struct kvm_vcpu *vcpu, u64 linear, u64 *len, enum access access)
{
	u64 room = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
	enum tlb_class class = vcpu_mmu(vcpu)->class;
	void *p = tlb_pointer(vcpu, linear, 1, access);
	struct part part[2];

	*len = min(*len, room);
	if (p)
		return p;
	/* No watchpoint is hit yet: with one in the page the caller goes access by access. */
	part_from_page(&part[0], mmu_get(vcpu, linear, access, class), linear, (unsigned int)*len,
		       access);
	if (!part[0].host || (vcpu_mmu(vcpu)->watch_count && mmu_watched(vcpu_mmu(vcpu), linear)))
		return NULL;
	if (access == ACCESS_WRITE)
		written(vcpu, &part[0]);
	refill(vcpu, linear, access, class);
	return part[0].host;
}

/* ---- accesses of the processor itself ---- */

u64 mem_read_sys(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	const struct tlb_entry *e = &vcpu_mmu(vcpu)->tlbs[TLB_SUPERVISOR].entry[tlb_index(linear)];
	u64 value = 0;

	if (tlb_hit(linear, e->tag[ACCESS_READ], size))
		return host_load(e->host + (linear & (PAGE_SIZE - 1)), size);
	read_class(vcpu, linear, &value, size, TLB_SUPERVISOR);
	refill(vcpu, linear, ACCESS_READ, TLB_SUPERVISOR);
	return value;
}

void mem_write_sys(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value)
{
	write_class(vcpu, linear, &value, size, TLB_SUPERVISOR);
}

void mem_read_bytes_sys(struct kvm_vcpu *vcpu, u64 linear, void *buf, unsigned int len)
{
	read_class(vcpu, linear, buf, len, TLB_SUPERVISOR);
}

static enum tlb_class cpl_class(unsigned int cpl)
{
	return cpl == 3 ? TLB_USER : TLB_SUPERVISOR;
}

void mem_write_cpl(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, u64 value,
		   unsigned int cpl)
{
	write_class(vcpu, linear, &value, size, cpl_class(cpl));
}

void mem_write_bytes_cpl(struct kvm_vcpu *vcpu, u64 linear, const void *buf, unsigned int len,
			 unsigned int cpl)
{
	write_class(vcpu, linear, buf, len, cpl_class(cpl));
}

void mem_probe_write_cpl(struct kvm_vcpu *vcpu, u64 linear, unsigned int len, unsigned int cpl)
{
	struct part part[2];

	resolve(vcpu, linear, len, ACCESS_WRITE, cpl_class(cpl), part);
}

/* ---- read-modify-write ---- */

void *mem_rmw_slow(struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	enum tlb_class class = vcpu_mmu(vcpu)->class;
	struct part part[2];
	int n;

	mem_check_alignment(vcpu, linear, size);
	n = resolve(vcpu, linear, size, ACCESS_WRITE, class, part);
	if (n != 1 || !part[0].host)
		return NULL;
	written(vcpu, &part[0]);
	refill(vcpu, linear, ACCESS_WRITE, class);
	return part[0].host;
}

/* One for all machines of the process: it is for operands across two pages, which nobody uses. */
static pthread_mutex_t rmw_lock = PTHREAD_MUTEX_INITIALIZER;

void *mem_rmw_slow_begin(struct kvm_vcpu *vcpu, u64 linear, unsigned int size, struct rmw_slow *s)
{
	struct part part[2];
	int n = resolve(vcpu, linear, size, ACCESS_WRITE, vcpu_mmu(vcpu)->class, part);

	s->n = (u8)n;
	s->locked = part[0].host && (n == 1 || part[1].host);
	for (int i = 0; i < n; i++) {
		s->part[i].gpa = part[i].gpa;
		s->part[i].len = part[i].len;
		s->part[i].host = part[i].host;
		s->part[i].slot = part[i].slot;
		/* ROM: read it, let the user see the write. */
		if (!part[i].host && part[i].slot)
			part[i].host = part[i].slot->hva +
				       (part[i].gpa - (part[i].slot->base_gfn << PAGE_SHIFT));
	}
	if (s->locked)
		pthread_mutex_lock(&rmw_lock);
	read_parts(vcpu, part, n, s->data);
	return s->data;
}

void mem_rmw_slow_end(struct kvm_vcpu *vcpu, struct rmw_slow *s)
{
	struct part part[2];

	for (int i = 0; i < s->n; i++) {
		part[i].gpa = s->part[i].gpa;
		part[i].len = s->part[i].len;
		part[i].host = s->part[i].host;
		part[i].slot = s->part[i].slot;
	}
	write_parts(vcpu, part, s->n, s->data);
	if (s->locked)
		pthread_mutex_unlock(&rmw_lock);
}

/* ---- fetch ---- */

const u8 *mmu_fetch_slow(struct kvm_vcpu *vcpu, u64 linear, u64 *gpa)
{
	enum tlb_class class = vcpu_mmu(vcpu)->class;
	struct page *page = mmu_get(vcpu, linear, ACCESS_FETCH, class);
	u64 offset = linear & (PAGE_SIZE - 1);
	u8 *host = page->host;

	*gpa = page->gpa | offset;
	mmu_fill(vcpu, linear, class, page);
	return host ? host + offset : NULL;
}
