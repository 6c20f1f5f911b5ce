/*
 * Descriptors, segment loads and the checks of every segmented access. A load checks everything,
 * writes the accessed bit (which may fault), and only then changes the register.
 */
#include "engine/soft/seg.h"

#include "base/endian.h"

#include "engine/soft/flags.h"
#include "engine/soft/mmu_int.h"

#define TYPE_WRITE  2 /* data */
#define TYPE_READ   2 /* code */
#define TYPE_DOWN   4 /* data */
#define TYPE_CONF   4 /* code */
#define TYPE_CODE   8
#define TYPE_ACCESS 1

/* ---- segmented addresses ---- */

static bool in_limit(const struct segment *s, u64 offset, unsigned int size)
{
	u64 last = offset + size - 1;

	if (!(s->type & TYPE_CODE) && (s->type & TYPE_DOWN) && s->s)
		return offset > s->limit && last <= (s->db ? 0xffffffff : 0xffff);
	return last <= s->limit;
}

static bool type_allows(const struct segment *s, enum access access)
{
	if (s->unusable || !s->s)
		return false;
	if (s->type & TYPE_CODE)
		return access != ACCESS_WRITE && (access == ACCESS_FETCH || (s->type & TYPE_READ));
	return access != ACCESS_WRITE || (s->type & TYPE_WRITE);
}

static bool canonical_range(const struct kvm_vcpu *vcpu, u64 linear, unsigned int size)
{
	unsigned int bits = vcpu->ctl.cr4 & X86_CR4_LA57 ? 57 : 48;
	u64 last = linear + size - 1;

	return sign_extend(linear, bits) == (s64)linear && sign_extend(last, bits) == (s64)last;
}

u64 seg_linear(struct kvm_vcpu *vcpu, int seg, u64 offset, unsigned int size, enum access access)
{
	const struct segment *s = &vcpu->ctl.seg[seg];
	u64 linear = offset;

	if (is_64bit(vcpu)) {
		if (seg == SEG_FS || seg == SEG_GS)
			linear += s->base;
		if (likely(canonical_range(vcpu, linear, size)))
			return linear;
	} else {
		bool typed = is_protected(vcpu) && !is_v86(vcpu);

		if (likely((!typed || type_allows(s, access)) && in_limit(s, offset, size)))
			return (u32)(s->base + offset);
	}
	raise_exception_error(vcpu, seg == SEG_SS ? SS_VECTOR : GP_VECTOR, 0);
}

/* ---- descriptors ---- */

u32 desc_limit(const struct desc *d)
{
	u32 limit = (u32)(d->raw & 0xffff) | ((u32)(d->raw >> 32) & 0xf0000);

	return d->raw & BIT(55) ? limit << 12 | 0xfff : limit;
}

static u64 desc_base(const struct desc *d)
{
	return ((d->raw >> 16) & 0xffffff) | ((d->raw >> 32) & 0xff000000);
}

static bool desc_read_len(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, unsigned int len)
{
	const struct vcpu_control *c = &vcpu->ctl;
	u64 base = c->gdtr.base;
	u32 limit = c->gdtr.limit, offset = selector & ~7u;

	if (selector & 4) {
		if (c->seg[SEG_LDTR].unusable || !c->seg[SEG_LDTR].present)
			return false;
		base = c->seg[SEG_LDTR].base;
		limit = c->seg[SEG_LDTR].limit;
	}
	if (offset + len - 1 > limit)
		return false;
	d->addr = base + offset;
	if (!is_long_mode(vcpu))
		d->addr = (u32)d->addr;
	d->raw = mem_read_sys(vcpu, d->addr, 8);
	d->high = len > 8 ? mem_read_sys(vcpu, d->addr + 8, 8) : 0;
	return true;
}

bool desc_read(struct kvm_vcpu *vcpu, u16 selector, struct desc *d)
{
	return desc_read_len(vcpu, selector, d, 8);
}

bool desc_read_wide(struct kvm_vcpu *vcpu, u16 selector, struct desc *d)
{
	return desc_read_len(vcpu, selector, d, 16);
}

void desc_set_accessed(struct kvm_vcpu *vcpu, struct desc *d)
{
	if (desc_type(d) & TYPE_ACCESS)
		return;
	d->raw |= BIT(40);
	mem_write_sys(vcpu, d->addr + 5, 1, (d->raw >> 40) & 0xff);
}

void desc_to_segment(const struct desc *d, u16 selector, struct segment *s)
{
	u64 raw = d->raw;

	*s = (struct segment){
		.base = desc_base(d),
		.limit = desc_limit(d),
		.selector = selector,
		.type = desc_type(d),
		.s = desc_s(d),
		.dpl = desc_dpl(d),
		.present = desc_present(d),
		.avl = (raw >> 52) & 1,
		.l = desc_long(d),
		.db = desc_db(d),
		.g = (raw >> 55) & 1,
	};
}

void segment_null(struct segment *s, u16 selector)
{
	*s = (struct segment){.selector = selector, .unusable = 1};
}

void segment_v86(struct segment *s, u16 selector)
{
	*s = (struct segment){
		.base = (u64)selector << 4,
		.limit = 0xffff,
		.selector = selector,
		.type = 3,
		.s = 1,
		.dpl = 3,
		.present = 1,
	};
}

/* ---- loads ---- */

_Noreturn static void bad_selector(struct kvm_vcpu *vcpu, u8 vector, u16 selector, u32 ext)
{
	raise_exception_error(vcpu, vector, (selector & ~3u) | ext);
}

void seg_check_data(struct kvm_vcpu *vcpu, u16 selector, u8 cpl, u8 vector, struct segment *out)
{
	struct desc d;

	if (selector_null(selector)) {
		segment_null(out, selector);
		return;
	}
	if (!desc_read(vcpu, selector, &d) || !desc_s(&d) ||
	    (desc_code(&d) && !(desc_type(&d) & TYPE_READ)))
		bad_selector(vcpu, vector, selector, 0);
	if (!(desc_code(&d) && desc_conforming(&d)) &&
	    ((selector & 3) > desc_dpl(&d) || cpl > desc_dpl(&d)))
		bad_selector(vcpu, vector, selector, 0);
	if (!desc_present(&d))
		bad_selector(vcpu, NP_VECTOR, selector, 0);
	desc_set_accessed(vcpu, &d);
	desc_to_segment(&d, selector, out);
}

void seg_check_stack(struct kvm_vcpu *vcpu, u16 selector, u8 cpl, u8 vector, u32 ext,
		     struct segment *out)
{
	struct desc d;

	if (selector_null(selector))
		raise_exception_error(vcpu, vector, ext);
	if (!desc_read(vcpu, selector, &d) || (selector & 3) != cpl || desc_dpl(&d) != cpl ||
	    !desc_s(&d) || desc_code(&d) || !(desc_type(&d) & TYPE_WRITE))
		bad_selector(vcpu, vector, selector, ext);
	if (!desc_present(&d))
		bad_selector(vcpu, SS_VECTOR, selector, ext);
	desc_set_accessed(vcpu, &d);
	desc_to_segment(&d, selector, out);
}

/* SS in 64-bit mode may be null at CPL 0 to 2 (SDM vol. 3, 5.4.1.1). */
static bool null_stack_allowed(const struct kvm_vcpu *vcpu, u16 selector)
{
	return selector_null(selector) && is_64bit(vcpu) && vcpu->ctl.cpl != 3 &&
	       (selector & 3) == vcpu->ctl.cpl;
}

void seg_load(struct kvm_vcpu *vcpu, int seg, u16 selector)
{
	struct segment new, *s = &vcpu->ctl.seg[seg];

	if (is_v86(vcpu)) {
		segment_v86(s, selector);
	} else if (!is_protected(vcpu)) {
		/* Limit and attributes stay as they are. */
		s->selector = selector;
		s->base = (u64)selector << 4;
		s->unusable = 0;
	} else if (seg != SEG_SS) {
		seg_check_data(vcpu, selector, vcpu->ctl.cpl, GP_VECTOR, &new);
		*s = new;
	} else if (null_stack_allowed(vcpu, selector)) {
		segment_null(s, selector);
		s->dpl = vcpu->ctl.cpl;
	} else {
		seg_check_stack(vcpu, selector, vcpu->ctl.cpl, GP_VECTOR, 0, &new);
		*s = new;
	}
	if (!is_64bit(vcpu))
		cpu_update_mode(vcpu);
}

void seg_drop_inner(struct kvm_vcpu *vcpu)
{
	static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned int i = 0; i < ARRAY_SIZE(data); i++) {
		struct segment *s = &vcpu->ctl.seg[data[i]];
		bool conforming = (s->type & TYPE_CODE) && (s->type & TYPE_CONF);

		if (!s->unusable && s->dpl < vcpu->ctl.cpl && !conforming)
			segment_null(s, 0);
	}
}

/* ---- LDTR and TR ---- */

static u64 system_base(const struct kvm_vcpu *vcpu, const struct desc *d)
{
	return desc_base(d) | (is_long_mode(vcpu) ? d->high << 32 : 0);
}

static void read_system(struct kvm_vcpu *vcpu, u16 selector, struct desc *d, u8 type16, u8 type)
{
	bool wide = is_long_mode(vcpu);

	if ((selector & 4) ||
	    !(wide ? desc_read_wide(vcpu, selector, d) : desc_read(vcpu, selector, d)) ||
	    desc_s(d) || (desc_type(d) != type && (wide || desc_type(d) != type16)))
		bad_selector(vcpu, GP_VECTOR, selector, 0);
	if (!desc_present(d))
		bad_selector(vcpu, NP_VECTOR, selector, 0);
	if (wide && !canonical_range(vcpu, system_base(vcpu, d), 1))
		bad_selector(vcpu, GP_VECTOR, selector, 0);
}

void seg_lldt(struct kvm_vcpu *vcpu, u16 selector)
{
	struct segment *s = &vcpu->ctl.seg[SEG_LDTR];
	struct desc d;

	if (selector_null(selector)) {
		segment_null(s, selector);
		return;
	}
	read_system(vcpu, selector, &d, DESC_LDT, DESC_LDT);
	desc_to_segment(&d, selector, s);
	s->base = system_base(vcpu, &d);
}

void seg_ltr(struct kvm_vcpu *vcpu, u16 selector)
{
	struct segment *s = &vcpu->ctl.seg[SEG_TR];
	struct desc d;

	if (selector_null(selector))
		raise_gp(vcpu, 0);
	read_system(vcpu, selector, &d, DESC_TSS16, DESC_TSS32);
	d.raw |= BIT(41); /* busy */
	mem_write_sys(vcpu, d.addr + 5, 1, (d.raw >> 40) & 0xff);
	desc_to_segment(&d, selector, s);
	s->base = system_base(vcpu, &d);
}

/* ---- LAR, LSL, VERR, VERW ---- */

static bool visible(const struct kvm_vcpu *vcpu, u16 selector, const struct desc *d)
{
	return (desc_code(d) && desc_conforming(d)) ||
	       (vcpu->ctl.cpl <= desc_dpl(d) && (selector & 3) <= desc_dpl(d));
}

static bool has_type(const struct kvm_vcpu *vcpu, const struct desc *d, u32 types, u32 long_types)
{
	return desc_s(d) || ((is_long_mode(vcpu) ? long_types : types) >> desc_type(d)) & 1;
}

#define T(n) (1u << (n))

bool seg_lar(struct kvm_vcpu *vcpu, u16 selector, u32 *rights)
{
	const u32 types = T(DESC_TSS16) | T(DESC_LDT) | T(DESC_TSS16_BUSY) | T(DESC_CALL16) |
			  T(DESC_TASK) | T(DESC_TSS32) | T(DESC_TSS32_BUSY) | T(DESC_CALL32);
	const u32 wide = T(DESC_LDT) | T(DESC_TSS32) | T(DESC_TSS32_BUSY) | T(DESC_CALL32);
	struct desc d;

	if (selector_null(selector) || !desc_read(vcpu, selector, &d) ||
	    !has_type(vcpu, &d, types, wide) || !visible(vcpu, selector, &d))
		return false;
	*rights = (u32)(d.raw >> 32) & 0x00ffff00;
	return true;
}

bool seg_lsl(struct kvm_vcpu *vcpu, u16 selector, u32 *limit)
{
	const u32 types = T(DESC_TSS16) | T(DESC_LDT) | T(DESC_TSS16_BUSY) | T(DESC_TSS32) |
			  T(DESC_TSS32_BUSY);
	const u32 wide = T(DESC_LDT) | T(DESC_TSS32) | T(DESC_TSS32_BUSY);
	struct desc d;

	if (selector_null(selector) || !desc_read(vcpu, selector, &d) ||
	    !has_type(vcpu, &d, types, wide) || !visible(vcpu, selector, &d))
		return false;
	*limit = desc_limit(&d);
	return true;
}

bool seg_verify(struct kvm_vcpu *vcpu, u16 selector, bool write)
{
	struct desc d;

	if (selector_null(selector) || !desc_read(vcpu, selector, &d) || !desc_s(&d) ||
	    !visible(vcpu, selector, &d))
		return false;
	if (desc_code(&d))
		return !write && (desc_type(&d) & TYPE_READ);
	return !write || (desc_type(&d) & TYPE_WRITE);
}

/* ---- stacks ---- */

void stack_current(const struct kvm_vcpu *vcpu, struct stack *st)
{
	const struct vcpu_control *c = &vcpu->ctl;

	st->ss = c->seg[SEG_SS];
	st->long_mode = is_64bit(vcpu);
	st->mask = st->long_mode ? ~0ULL : st->ss.db ? 0xffffffff : 0xffff;
	st->sp = c->gpr[RSP] & st->mask;
	st->cpl = c->cpl;
	st->error = 0;
}

static void inner_long(struct kvm_vcpu *vcpu, struct stack *st, u8 cpl, unsigned int ist, u32 ext)
{
	const struct segment *tr = &vcpu->ctl.seg[SEG_TR];
	u32 offset = ist ? 36 + 8 * (ist - 1) : 4 + 8u * cpl;

	if (offset + 7 > tr->limit)
		bad_selector(vcpu, TS_VECTOR, tr->selector, ext);
	st->sp = mem_read_sys(vcpu, tr->base + offset, 8);
	segment_null(&st->ss, cpl);
	st->ss.dpl = cpl;
	st->mask = ~0ULL;
	st->long_mode = true;
	st->error = ext;
}

void stack_inner(struct kvm_vcpu *vcpu, struct stack *st, u8 cpl, unsigned int ist, u32 ext)
{
	const struct segment *tr = &vcpu->ctl.seg[SEG_TR];
	bool wide = tr->type & 8;
	u32 offset = wide ? 4 + 8u * cpl : 2 + 4u * cpl;
	u16 selector;

	st->cpl = cpl;
	if (is_long_mode(vcpu)) {
		inner_long(vcpu, st, cpl, ist, ext);
		return;
	}
	if (offset + (wide ? 5 : 3) > tr->limit)
		bad_selector(vcpu, TS_VECTOR, tr->selector, ext);
	st->sp = mem_read_sys(vcpu, (u32)(tr->base + offset), wide ? 4 : 2);
	selector = (u16)mem_read_sys(vcpu, (u32)(tr->base + offset + (wide ? 4 : 2)), 2);
	seg_check_stack(vcpu, selector, cpl, TS_VECTOR, ext, &st->ss);
	st->long_mode = false;
	st->mask = st->ss.db ? 0xffffffff : 0xffff;
	st->sp &= st->mask;
	st->error = (selector & ~3u) | ext;
}

static u64 frame_linear(struct kvm_vcpu *vcpu, const struct stack *st, u64 sp, unsigned int len,
			enum access access)
{
	if (st->long_mode) {
		if (canonical_range(vcpu, sp, len))
			return sp;
	} else {
		bool typed = is_protected(vcpu) && !is_v86(vcpu);

		if ((!typed || type_allows(&st->ss, access)) && in_limit(&st->ss, sp, len))
			return (u32)(st->ss.base + sp);
	}
	raise_exception_error(vcpu, SS_VECTOR, st->error);
}

/* The stack pointer wraps inside the frame. */
static void push_wrapping(struct kvm_vcpu *vcpu, struct stack *st, const u64 *value, int n,
			  unsigned int size)
{
	for (int i = 1; i <= n; i++)
		mem_probe_write_cpl(
			vcpu,
			frame_linear(vcpu, st, (st->sp - i * size) & st->mask, size, ACCESS_WRITE),
			size, st->cpl);
	for (int i = 1; i <= n; i++)
		mem_write_cpl(
			vcpu,
			frame_linear(vcpu, st, (st->sp - i * size) & st->mask, size, ACCESS_WRITE),
			size, value[i - 1], st->cpl);
}

/* The highest slot is pushed first, and its address is that of a fault. */
static void probe_first(struct kvm_vcpu *vcpu, const struct stack *st, u64 sp, unsigned int size)
{
	u64 linear = frame_linear(vcpu, st, sp, size, ACCESS_WRITE);

	if (st->cpl == 3)
		mem_check_alignment(vcpu, linear, size);
	mem_probe_write_cpl(vcpu, linear, size, st->cpl);
}

void stack_push_frame(struct kvm_vcpu *vcpu, struct stack *st, const u64 *value, int n,
		      unsigned int size)
{
	unsigned int len = (unsigned int)n * size;
	u64 low = (st->sp - len) & st->mask;
	u8 frame[64 * 8];

	if (st->sp < len && st->mask != ~0ULL) {
		push_wrapping(vcpu, st, value, n, size);
	} else {
		probe_first(vcpu, st, low + len - size, size);
		for (int i = 0; i < n; i++)
			store_le(frame + len - (i + 1) * size, size, value[i]);
		mem_write_bytes_cpl(vcpu, frame_linear(vcpu, st, low, len, ACCESS_WRITE), frame,
				    len, st->cpl);
	}
	st->sp = low;
}

u64 stack_at(struct kvm_vcpu *vcpu, const struct stack *st, u64 offset, unsigned int size)
{
	u64 sp = (st->sp + offset) & st->mask;

	return mem_read(vcpu, frame_linear(vcpu, st, sp, size, ACCESS_READ), size);
}

void stack_commit(struct kvm_vcpu *vcpu, const struct stack *st)
{
	u64 *rsp = &vcpu->ctl.gpr[RSP];

	if (st->mask == 0xffff)
		*rsp = (*rsp & ~0xffffULL) | (st->sp & 0xffff);
	else
		*rsp = st->sp & st->mask;
}
