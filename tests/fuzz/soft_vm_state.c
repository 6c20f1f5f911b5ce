#include "soft_vm.h"

#include <asm/processor-flags.h>
#include <string.h>

#define EFER_LONG 0xd01u /* NXE LMA LME SCE */

u64 vm_random(u64 *seed)
{
	u64 s = *seed;

	s ^= s << 13;
	s ^= s >> 7;
	s ^= s << 17;
	return *seed = s;
}

u64 vm_interesting(u64 *seed)
{
	static const u64 value[] = {0,
				    0xff,
				    0xffff,
				    0x7fffffff,
				    0x80000000,
				    0xffffffff,
				    0x7ffffffffff8,
				    0x800000000000,
				    ~0ULL,
				    VM_DATA - 4,
				    VM_RAM - 1,
				    VM_ROM + 8,
				    0xfee00000,
				    0xfec00010,
				    VM_ZONE + 4,
				    VM_DOORBELL,
				    VM_ROM + VM_ROM_SIZE - 2,
				    VM_LOGGED + 0xffe,
				    VM_TABLES + 0x20};
	u64 r = vm_random(seed);

	switch (r & 7) {
	case 0:
	case 1:
		return value[(r >> 8) % ARRAY_SIZE(value)];
	case 2:
		return r >> (r >> 8 & 63);
	case 3:
		return VM_CODE + (r >> 8) % 4096;
	default:
		return VM_DATA + (r >> 8) % 0x10000;
	}
}

static void fill(u8 *ram, u64 *seed, u64 at, u64 len)
{
	for (u64 i = 0; i < len; i += 8) {
		u64 v = vm_random(seed) & 3 ? vm_interesting(seed) : vm_random(seed);

		memcpy(ram + at + i, &v, 8);
	}
}

/* ---- descriptor tables ---- */

static u64 descriptor(u32 base, u32 limit, u8 type, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
	       (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

/* 08 code, 10 data, 18 64-bit code, 20 16-bit code, 28 16-bit data; the same at CPL 3 from 30 on;
 * 58 TSS, 68 call gate, 70 task gate. */
static void make_gdt(u8 *ram)
{
	u64 gdt[16] = {0};

	for (unsigned int k = 0; k < 2; k++) {
		u8 dpl = k ? 0x60 : 0;

		gdt[1 + 5 * k] = descriptor(0, 0xfffff, 0x9b | dpl, 12);
		gdt[2 + 5 * k] = descriptor(0, 0xfffff, 0x93 | dpl, 12);
		gdt[3 + 5 * k] = descriptor(0, 0xfffff, 0x9b | dpl, 10);
		gdt[4 + 5 * k] = descriptor(VM_CODE, 0xffff, 0x9b | dpl, 0);
		gdt[5 + 5 * k] = descriptor(VM_DATA, 0xffff, 0x93 | dpl, 0);
	}
	gdt[11] = descriptor(VM_TSS, 0x2067, 0x8b, 0);
	gdt[13] = (VM_CODE & 0xffff) | 8 << 16 | 0xecULL << 40 | (u64)(VM_CODE >> 16) << 48;
	gdt[14] = 0x58ULL << 16 | 0xe5ULL << 40;
	memcpy(ram + VM_GDT, gdt, sizeof(gdt));
}

static void make_idt(u8 *ram, bool wide, bool real)
{
	for (u32 v = 0; v < 256; v++) {
		u32 at = VM_CODE + 0x800 + 8 * v; /* HLTs */

		if (real) {
			u32 entry = (VM_CODE >> 4) << 16 | (0x800 + 8 * v);

			memcpy(ram + VM_IDT + 4 * v, &entry, 4);
		} else {
			u64 gate = (at & 0xffff) | (wide ? 0x18 : 8) << 16 |
				   (v & 1 ? 0x8eULL : 0xeeULL) << 40 | (u64)(at >> 16) << 48;

			memcpy(ram + VM_IDT + (wide ? 16 : 8) * v, &gate, 8);
		}
	}
	memset(ram + VM_CODE + VM_CODE_SIZE, 0xf4, 0x1000);
}

static void make_tss(u8 *ram, u64 *seed, bool wide)
{
	fill(ram, seed, VM_TSS, 0x80);
	for (u32 i = 0; i < 3; i++) {
		u64 stack = VM_STACK - 0x1000 * i;
		u32 ss = 0x10 | i;

		memcpy(ram + VM_TSS + 4 + 8 * i, &stack, 8);
		if (!wide)
			memcpy(ram + VM_TSS + 8 + 8 * i, &ss, 4);
	}
	ram[VM_TSS + 102] = 0x68;
	ram[VM_TSS + 103] = 0;
}

static void make_tables(const struct vm_header *h, u64 *seed, u8 *ram)
{
	bool wide = h->mode % VM_MODES == VM_LONG || h->mode % VM_MODES == VM_COMPAT;

	make_gdt(ram);
	make_idt(ram, wide, h->mode % VM_MODES == VM_REAL);
	make_tss(ram, seed, wide);
	if (!(h->flags & VM_WILD_TABLES))
		return;
	for (int i = 0; i < 4; i++) {
		fill(ram, seed, VM_GDT + 8 * (vm_random(seed) % 16), 8);
		fill(ram, seed, VM_IDT + 8 * (vm_random(seed) % 256), 16);
	}
}

/* ---- paging ---- */

static void wild_entries(u64 *seed, u64 *table, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		u64 r = vm_random(seed);

		table[r % 512] =
			r >> 9 & 1 ? vm_random(seed) & 0x8000000000ffffffULL : vm_interesting(seed);
	}
}

static void make_pages(const struct vm_header *h, u64 *seed, u8 *ram)
{
	u64 *t = (u64 *)(ram + VM_TABLES);
	u32 *t32 = (u32 *)t;
	bool pae = h->mode % VM_MODES == VM_PAE;

	memset(t, 0, 4 * PAGE_SIZE);
	if (h->mode % VM_MODES == VM_PAGED_32 || h->mode % VM_MODES == VM_V86) {
		for (u32 i = 0; i < 1024; i++)
			t32[i] = i << 22 | 0x87;
		t32[0] = (VM_TABLES + 4096) | 7;
		for (u32 i = 0; i < 1024; i++)
			t32[1024 + i] = i << 12 | 7;
	} else {
		t[0] = (VM_TABLES + 4096) | (pae ? 1 : 7);
		for (u32 i = 0; i < 512; i++)
			t[512 + i] = pae ? (u64)i << 21 | 0x87 : (VM_TABLES + 8192) | 7;
		if (!pae)
			t[512 + 3] = 0xc0000087; /* a page of 1 GiB, where the APICs are */
		else
			t[3] = (VM_TABLES + 8192) | 1;
		for (u32 i = 0; i < 512; i++)
			t[1024 + i] = (pae ? 0xc0000000 : 0) + (u64)i * 0x200000 + 0x87;
		t[pae ? 512 : 1024] = (VM_TABLES + 12288) | 7;
		for (u64 i = 0; i < 512; i++)
			t[1536 + i] = i << 12 | 7;
	}
	if (h->flags & VM_WILD_PAGES)
		wild_entries(seed, t + 512 * (vm_random(seed) % 4), 24);
}

/* ---- segments ---- */

static struct kvm_segment segment(u16 selector, u64 base, u32 limit, u8 type, u8 dpl, bool big)
{
	return (struct kvm_segment){.base = base,
				    .limit = limit,
				    .selector = selector,
				    .type = type,
				    .present = 1,
				    .dpl = dpl,
				    .db = big,
				    .s = 1,
				    .g = limit > 0xfffff};
}

static void make_segments(const struct vm_header *h, struct kvm_sregs *s)
{
	enum vm_mode mode = h->mode % VM_MODES;
	u8 cpl = mode == VM_V86 ? 3 : mode == VM_REAL ? 0 : h->cpl & 3;
	struct kvm_segment *data[] = {&s->ds, &s->es, &s->ss, &s->fs, &s->gs};
	u16 rank = cpl == 3 ? 0x28 : 0;

	if (mode == VM_REAL || mode == VM_V86) {
		s->cs = segment(VM_CODE >> 4, VM_CODE, 0xffff, mode == VM_V86 ? 3 : 11, cpl, false);
		for (unsigned int i = 0; i < ARRAY_SIZE(data); i++)
			*data[i] = segment(VM_DATA >> 4, VM_DATA, 0xffff, 3, cpl, false);
		return;
	}
	if (mode == VM_PROTECTED_16) {
		s->cs = segment((u16)(0x20 + rank) | cpl, VM_CODE, 0xffff, 11, cpl, false);
		for (unsigned int i = 0; i < ARRAY_SIZE(data); i++)
			*data[i] =
				segment((u16)(0x28 + rank) | cpl, VM_DATA, 0xffff, 3, cpl, false);
		return;
	}
	s->cs = segment((u16)((mode == VM_LONG ? 0x18 : 8) + rank) | cpl, 0, ~0u, 11, cpl,
			mode != VM_LONG);
	s->cs.l = mode == VM_LONG;
	for (unsigned int i = 0; i < ARRAY_SIZE(data); i++)
		*data[i] = segment((u16)(0x10 + rank) | cpl, 0, ~0u, 3, cpl, true);
}

static void wild_segments(u64 *seed, struct kvm_sregs *s)
{
	struct kvm_segment *all[] = {&s->ds, &s->es, &s->ss, &s->fs, &s->gs};

	for (unsigned int i = 0; i < ARRAY_SIZE(all); i++) {
		u64 r = vm_random(seed);

		if (r & 1)
			continue;
		all[i]->base = i < 3 ? (u32)vm_interesting(seed) : vm_interesting(seed);
		all[i]->limit = (u32)vm_interesting(seed);
		all[i]->type = r >> 8 & 7;
		all[i]->db = r >> 12 & 1;
		all[i]->unusable = !(r >> 13 & 7);
	}
}

/* ---- all of it ---- */

static void make_control(const struct vm_header *h, struct kvm_sregs *s)
{
	enum vm_mode mode = h->mode % VM_MODES;
	bool wide = mode == VM_LONG || mode == VM_COMPAT;

	s->cr4 = h->cr4 & (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE |
			   X86_CR4_PGE | X86_CR4_PCE | X86_CR4_UMIP | X86_CR4_FSGSBASE |
			   X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP);
	s->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	s->cr0 = 0x10 | (h->cr4 & (X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE | X86_CR0_WP |
				   X86_CR0_AM));
	if (h->rflags & 1u << 31)
		s->cr0 &= ~(u64)(X86_CR0_EM | X86_CR0_TS);
	s->cr0 |= mode != VM_REAL ? X86_CR0_PE : 0;
	s->cr0 |= mode >= VM_PAGED_32 ? X86_CR0_PG : 0;
	if (mode == VM_PAGED_32 || mode == VM_V86)
		s->cr4 |= X86_CR4_PSE;
	if (mode == VM_PAE || wide)
		s->cr4 |= X86_CR4_PAE;
	if (wide)
		s->cr4 |= h->cr4 & X86_CR4_PCIDE;
	s->efer = wide ? EFER_LONG : h->cr4 >> 30 & 1 ? 0x800 : 0;
	s->cr3 = VM_TABLES;
	s->cr8 = h->chips >> 4;
}

static void make_regs(const struct vm_header *h, u64 *seed, struct kvm_regs *r)
{
	enum vm_mode mode = h->mode % VM_MODES;
	bool based = mode == VM_REAL || mode == VM_V86 || mode == VM_PROTECTED_16;
	__u64 *all = &r->rax;

	for (int i = 0; i < 16; i++)
		all[i] = vm_interesting(seed);
	if (h->rflags & 1u << 30)
		r->rsp = based ? 0xfff0 - (vm_random(seed) & 0xff)
			       : VM_STACK - (vm_random(seed) & 0xfff);
	if (h->rflags & 1u << 29) /* a count that ends some time */
		r->rcx &= 0xff;
	r->rip = based ? 0 : VM_CODE;
	r->rflags = 2 | (h->rflags & 0x3f7fd5 & ~(u32)X86_EFLAGS_VM);
	if (mode == VM_V86)
		r->rflags |= X86_EFLAGS_VM;
}

static void make_events(const struct vm_header *h, u64 *seed, struct kvm_vcpu_events *e)
{
	u64 r = vm_random(seed);

	memset(e, 0, sizeof(*e));
	e->flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING;
	if (!(h->flags & VM_EVENT))
		return;
	e->interrupt.shadow = r >> 16 & 3;
	e->nmi.pending = r >> 18 & 1;
	e->nmi.masked = r >> 19 & 1;
	if (r & 1) {
		e->exception.injected = 1;
		e->exception.nr = (r >> 8 & 15) == 2 ? 14 : r >> 8 & 15;
		e->exception.has_error_code = r >> 12 & 1;
		e->exception.error_code = (u32)(r >> 20) & 0xffff;
	} else if (r & 2) {
		e->interrupt.injected = 1;
		e->interrupt.nr = (u8)(r >> 8);
		e->interrupt.soft = r >> 16 & 1;
	}
}

static void make_debug(const struct vm_header *h, u64 *seed, struct vm_state *s)
{
	u64 dr[4], dr7 = 0x400 | (vm_random(seed) & 0xffff00ff);

	memset(&s->debug, 0, sizeof(s->debug));
	memset(&s->debugregs, 0, sizeof(s->debugregs));
	s->debugregs.dr6 = 0xffff0ff0;
	s->debugregs.dr7 = 0x400;
	for (int i = 0; i < 4; i++)
		dr[i] = i & 1 ? VM_DATA + vm_random(seed) % 64 : VM_CODE + vm_random(seed) % 64;
	if (h->flags & VM_STEP)
		s->debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	if (!(h->flags & VM_DEBUG))
		return;
	if (h->flags & VM_STEP) {
		s->debug.control |= KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_USE_SW_BP;
		for (int i = 0; i < 4; i++)
			s->debug.arch.debugreg[i] = dr[i];
		s->debug.arch.debugreg[7] = dr7;
	} else {
		for (int i = 0; i < 4; i++)
			s->debugregs.db[i] = dr[i];
		s->debugregs.dr7 = dr7;
	}
}

void vm_make_state(const struct vm_header *h, u64 *seed, u8 *ram, struct vm_state *s)
{
	enum vm_mode mode = h->mode % VM_MODES;

	fill(ram, seed, VM_DATA, 0x1000);
	make_tables(h, seed, ram);
	make_pages(h, seed, ram);
	make_control(h, &s->sregs);
	make_segments(h, &s->sregs);
	if (h->flags & VM_WILD_SEGMENTS)
		wild_segments(seed, &s->sregs);
	s->sregs.tr = (struct kvm_segment){
		.base = VM_TSS, .limit = 0x2067, .selector = 0x58, .type = 11, .present = 1};
	s->sregs.gdt = (struct kvm_dtable){.base = VM_GDT, .limit = 127};
	s->sregs.idt = (struct kvm_dtable){.base = VM_IDT,
					   .limit = mode == VM_REAL   ? 0x3ff
						    : mode >= VM_LONG ? 0xfff
								      : 0x7ff};
	memset(s->sregs.interrupt_bitmap, 0, sizeof(s->sregs.interrupt_bitmap));
	make_regs(h, seed, &s->regs);
	make_events(h, seed, &s->events);
	make_debug(h, seed, s);
}
