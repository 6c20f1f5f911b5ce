/* Page walks, permissions, TLBs and accesses over hand-made page tables. */
#include <stdarg.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>

#include "fake.h"

#define P  BIT(0)
#define W  BIT(1)
#define U  BIT(2)
#define A  BIT(5)
#define D  BIT(6)
#define PS BIT(7)
#define G  BIT(8)
#define NX BIT(63)

#define ROOT 0x1000
#define DATA 0x200000 /* guest-physical pages that tests map */

static u64 next_table;

#define V (&fake->vcpu)
#define C (&fake->vcpu.ctl)

static u64 new_table(void)
{
	u64 t = next_table;

	next_table += PAGE_SIZE;
	return t;
}

/* Map in a tree of `levels` of 8-byte entries; leaf_level 1 is a 4K page. Upper entries allow all.
 */
static u64 map_at(u64 root, int levels, u64 linear, int leaf_level, u64 leaf)
{
	u64 table = root;

	for (int l = levels;; l--) {
		u64 at = table + 8 * ((linear >> (12 + 9 * (l - 1))) & 511);

		if (l == leaf_level) {
			*ram64(at) = leaf;
			return at;
		}
		if (!(*ram64(at) & P))
			*ram64(at) = new_table() | P | W | U;
		table = *ram64(at) & MASK(51, 12);
	}
}

static u64 map(u64 linear, u64 gpa, u64 flags)
{
	return map_at(ROOT, 4, linear, 1, gpa | flags);
}

static int setup(void **state)
{
	fake_new();
	next_table = 0x10000;
	return 0;
}

static int teardown(void **state)
{
	fake_free();
	return 0;
}

static void paging_on(u64 cr4, u64 efer)
{
	C->cr3 = ROOT;
	C->cr0 |= X86_CR0_PG | X86_CR0_WP;
	C->cr4 |= cr4;
	C->efer |= efer;
	mmu_flush_all(V);
}

static enum fake_outcome try_access(enum access access, u64 linear)
{
	u64 gpa;

	switch (access) {
	case ACCESS_READ:
		return FAKE_TRY(mem_read(V, linear, 1));
	case ACCESS_WRITE:
		return FAKE_TRY(mem_write(V, linear, 1, 0x5a));
	default:
		return FAKE_TRY(mmu_fetch(V, linear, &gpa));
	}
}

static void expect_fault(enum fake_outcome outcome, u64 linear, u32 error)
{
	assert_int_equal(outcome, FAKE_EXCEPTION);
	assert_int_equal(fake->vector, PF_VECTOR);
	assert_int_equal(fake->error, error);
	assert_int_equal(fake->cr2, linear);
}

static void set_cpl(unsigned int cpl)
{
	C->cpl = (u8)cpl;
	mmu_update_class(V);
}

static void unpaged(void **state)
{
	C->cr0 = X86_CR0_PE;
	C->efer = 0;
	C->cr4 = 0;
	mmu_flush_all(V);
	mem_write(V, 0x1ffd, 8, 0x1122334455667788);
	assert_int_equal(*(guest_u64 *)(fake->ram + 0x1ffd), 0x1122334455667788);
	assert_int_equal(mem_read(V, 0x1ffd, 8), 0x1122334455667788);
	assert_int_equal(mem_read(V, 0x2000, 4), 0x22334455);
	assert_non_null(tlb_pointer(V, 0x2000, 8, ACCESS_READ));
	assert_null(tlb_pointer(V, 0x2ff9, 8, ACCESS_READ));
	assert_non_null(tlb_pointer(V, 0x2ff8, 8, ACCESS_READ));
}

/* What the manual says, written down independently of the code: SDM vol. 3, 4.6. */
static bool allowed(bool user, enum access a, u64 pte, bool wp, bool smep, bool smap, bool ac)
{
	bool u = pte & U, w = pte & W, x = !(pte & NX);

	if (user && !u)
		return false;
	if (a == ACCESS_FETCH)
		return x && (user || !u || !smep);
	if (!user && u && smap && !ac)
		return false;
	if (a == ACCESS_READ)
		return true;
	return w || (!user && !wp);
}

static void permission_matrix(void **state)
{
	u64 pte_at = map(0x400000, DATA, 0);
	int done = 0;

	paging_on(0, EFER_NX);
	for (unsigned int i = 0; i < 1u << 9; i++) {
		u64 pte = (i & 1 ? U : 0) | (i & 2 ? W : 0) | (i & 4 ? NX : 0) | P | DATA;
		bool wp = i & 8, smep = i & 16, smap = i & 32, ac = i & 64, user = i & 128;
		bool warm = i & 256;

		for (enum access a = ACCESS_READ; a <= ACCESS_FETCH; a++) {
			enum fake_outcome r;
			bool ok = allowed(user, a, pte, wp, smep, smap, ac);
			u32 code = 1u | (a == ACCESS_WRITE ? 2u : 0) | (user ? 4u : 0) |
				   (a == ACCESS_FETCH ? 16u : 0);

			*ram64(pte_at) = pte;
			C->cr0 = (C->cr0 & ~(u64)X86_CR0_WP) | (wp ? X86_CR0_WP : 0);
			C->cr4 =
				X86_CR4_PAE | (smep ? X86_CR4_SMEP : 0) | (smap ? X86_CR4_SMAP : 0);
			C->rflags = 2 | (ac ? X86_AC : 0);
			mmu_flush_all(V);
			if (warm) { /* the other privilege's entries must not leak */
				for (enum access b = ACCESS_READ; b <= ACCESS_FETCH; b++) {
					set_cpl(user ? 0 : 3);
					(void)try_access(b, 0x400000);
				}
				*ram64(pte_at) = pte;
			}
			set_cpl(user ? 3 : 0);
			r = try_access(a, 0x400000);
			if (ok)
				assert_int_equal(r, FAKE_DONE);
			else
				expect_fault(r, 0x400000, code);
			if (!warm) {
				u64 want = pte | (ok ? A : 0) | (ok && a == ACCESS_WRITE ? D : 0);

				assert_int_equal(*ram64(pte_at), want);
			}
			done++;
		}
	}
	assert_int_equal(done, 512 * 3);
}

static void classes_change_without_flush(void **state)
{
	map(0x400000, DATA, P | W | U);
	map(0x401000, DATA + 0x1000, P | W);
	paging_on(X86_CR4_SMAP | X86_CR4_SMEP, 0);
	C->rflags |= X86_AC;
	set_cpl(0);
	assert_int_equal(try_access(ACCESS_WRITE, 0x400000), FAKE_DONE);
	assert_int_equal(try_access(ACCESS_WRITE, 0x401000), FAKE_DONE);
	C->rflags &= ~(u64)X86_AC;
	set_cpl(0);
	expect_fault(try_access(ACCESS_READ, 0x400000), 0x400000, 1);
	assert_int_equal(try_access(ACCESS_WRITE, 0x401000), FAKE_DONE);
	set_cpl(3);
	assert_int_equal(try_access(ACCESS_WRITE, 0x400000), FAKE_DONE);
	expect_fault(try_access(ACCESS_READ, 0x401000), 0x401000, 5);
	/* System accesses do not see the user's pages, whatever AC says. */
	C->rflags |= X86_AC;
	set_cpl(0);
	expect_fault(FAKE_TRY(mem_read_sys(V, 0x400000, 8)), 0x400000, 1);
	assert_int_equal(FAKE_TRY(mem_read_sys(V, 0x401000, 8)), FAKE_DONE);
}

static void not_present_at_each_level(void **state)
{
	u64 linear = 0x123456789000, e[4];

	paging_on(0, EFER_NX);
	for (int l = 1; l <= 4; l++)
		e[l - 1] = map_at(ROOT, 4, linear, l, 0);
	for (int l = 4; l >= 1; l--) {
		expect_fault(try_access(ACCESS_READ, linear + 5), linear + 5, 0);
		expect_fault(try_access(ACCESS_WRITE, linear), linear, 2);
		expect_fault(try_access(ACCESS_FETCH, linear), linear, 16);
		if (l == 1)
			break;
		map_at(ROOT, 4, linear, l - 1, 0);
	}
	map(linear, DATA, P | W | U);
	assert_int_equal(try_access(ACCESS_READ, linear), FAKE_DONE);
	for (int l = 2; l <= 4; l++)
		assert_true(*ram64(e[l - 1]) & A || *ram64(e[l - 1]) == 0);
	/* Without NX in force the error code has no I/D bit. */
	C->efer &= ~EFER_NX;
	mmu_flush_all(V);
	expect_fault(try_access(ACCESS_FETCH, linear + PAGE_SIZE), linear + PAGE_SIZE, 0);
}

static void reserved_bits(void **state)
{
	u64 at = map(0x400000, DATA, P | W | U);

	paging_on(0, EFER_NX);
	for (unsigned int bit = 40; bit <= 51; bit++) {
		*ram64(at) = DATA | P | W | U | BIT(bit);
		expect_fault(try_access(ACCESS_READ, 0x400000), 0x400000, 1 | 8);
	}
	for (unsigned int bit = 52; bit <= 62; bit++) {
		*ram64(at) = DATA | P | W | U | BIT(bit);
		assert_int_equal(try_access(ACCESS_READ, 0x400000), FAKE_DONE);
	}
	*ram64(at) = DATA | P | W | U | NX;
	C->efer &= ~EFER_NX;
	mmu_flush_all(V);
	expect_fault(try_access(ACCESS_READ, 0x400000), 0x400000, 1 | 8);
	C->efer |= EFER_NX;
	mmu_flush_all(V);
	/* Large pages: the low address bits; PS where there are no large pages. */
	at = map_at(ROOT, 4, 0x40000000, 2, DATA | P | W | PS | BIT(13));
	expect_fault(try_access(ACCESS_WRITE, 0x40000123), 0x40000123, 1 | 2 | 8);
	*ram64(at) = DATA | P | W | PS | BIT(12); /* PAT is not reserved */
	assert_int_equal(try_access(ACCESS_WRITE, 0x40000123), FAKE_DONE);
	map_at(ROOT, 4, 0x80000000, 3, P | W | PS | BIT(21));
	expect_fault(try_access(ACCESS_READ, 0x80000000), 0x80000000, 1 | 8);
	map_at(ROOT, 4, 0x8000000000, 4, P | W | PS);
	expect_fault(try_access(ACCESS_READ, 0x8000000000), 0x8000000000, 1 | 8);
}

static void large_pages(void **state)
{
	u64 e2 = map_at(ROOT, 4, 0x40000000, 2, DATA | P | W | PS);
	u64 e3 = map_at(ROOT, 4, 0xc0000000, 3, 0 | P | W | PS);

	paging_on(0, EFER_NX);
	*ram64(DATA + 0x12340) = 77;
	assert_int_equal(mem_read(V, 0x40012340, 8), 77);
	assert_int_equal(*ram64(e2), DATA | P | W | PS | A);
	mem_write(V, 0x40012348, 8, 78);
	assert_int_equal(*ram64(e2), DATA | P | W | PS | A | D);
	assert_int_equal(mem_read(V, 0xc0000000 + DATA + 0x12348, 8), 78);
	assert_int_equal(*ram64(e3), P | W | PS | A);
	/* INVLPG of another address in it drops every piece. */
	*ram64(e2) = 0;
	assert_int_equal(mem_read(V, 0x40012340, 8), 77);
	mmu_invlpg(V, 0x401ff000);
	expect_fault(try_access(ACCESS_READ, 0x40012340), 0x40012340, 0);
}

static void five_levels(void **state)
{
	u64 linear = 0x00ab123456789000;

	map_at(ROOT, 5, linear, 1, DATA | P | W);
	paging_on(X86_CR4_LA57, EFER_NX);
	*ram64(DATA) = 5;
	assert_int_equal(mem_read(V, linear, 8), 5);
	C->cr4 &= ~(u64)X86_CR4_LA57;
	mmu_flush_all(V);
	assert_int_equal(FAKE_TRY(mem_read(V, linear, 8)), FAKE_EXCEPTION);
	assert_int_equal(fake->vector, GP_VECTOR);
}

static void legacy_32bit(void **state)
{
	u32 dir = 0x1000, table = 0x2000;

	C->efer = 0;
	C->cr4 = X86_CR4_PSE;
	C->cr0 |= X86_CR0_PG | X86_CR0_WP;
	C->cr3 = dir;
	mmu_flush_all(V);
	*ram32(dir + 4 * 0x300) = table | P | W;
	*ram32(table + 4 * 5) = DATA | P | W | U;
	*ram64(DATA + 8) = 0xabcdef;
	assert_int_equal(mem_read(V, 0xc0005008, 4), 0xabcdef);
	assert_int_equal(*ram32(dir + 4 * 0x300), table | P | W | A);
	assert_int_equal(*ram32(table + 4 * 5), DATA | P | W | U | A);
	mem_write(V, 0xc0005008, 4, 1);
	assert_int_equal(*ram32(table + 4 * 5), DATA | P | W | U | A | D);
	set_cpl(3); /* the directory denies it */
	expect_fault(try_access(ACCESS_READ, 0xc0005008), 0xc0005008, 5);
	set_cpl(0);
	/* 4M page; bit 21 reserved; PSE-36 address bits above the width reserved */
	*ram32(dir + 4) = 0 | P | W | PS;
	assert_int_equal(mem_read(V, 0x400000 + DATA + 8, 4), 1);
	*ram32(dir + 8) = P | W | PS | BIT(21);
	expect_fault(try_access(ACCESS_READ, 0x800000), 0x800000, 9);
	V->guest_maxphyaddr_mask = MASK(35, 0);
	*ram32(dir + 12) = P | W | PS | BIT(17);
	expect_fault(try_access(ACCESS_READ, 0xc00000), 0xc00000, 9);
	/* Without PSE the bit means nothing: it is a table at 0. */
	C->cr4 = 0;
	mmu_flush_all(V);
	expect_fault(try_access(ACCESS_READ, 0x400000), 0x400000, 0);
	/* The address space wraps at 4 GiB. */
	*ram32(dir + 4 * 1023) = table | P | W;
	*ram32(table + 4 * 1023) = DATA | P | W;
	*ram32(dir) = table | P | W;
	*ram32(table) = (DATA + 0x1000) | P | W;
	mem_write(V, 0xfffffffc, 8, 0x1122334455667788);
	assert_int_equal(*ram32(DATA + 0xffc), 0x55667788);
	assert_int_equal(*ram32(DATA + 0x1000), 0x11223344);
}

static void pae(void **state)
{
	u64 at;

	C->efer = EFER_NX;
	C->cr4 = X86_CR4_PAE;
	C->cr0 |= X86_CR0_PG | X86_CR0_WP;
	C->cr3 = 0x1020;
	*ram64(0x1020 + 24) = 0x2000 | P;
	*ram64(0x2000) = 0x3000 | P | W | U;
	at = 0x3000;
	*ram64(at) = DATA | P | W | U | NX;
	assert_true(mmu_load_pdptes(V, C->cr3));
	mmu_flush_all(V);
	assert_int_equal(try_access(ACCESS_WRITE, 0xc0000000), FAKE_DONE);
	assert_int_equal(*ram64(at), DATA | P | W | U | NX | A | D);
	assert_int_equal(*ram64(0x1020 + 24), 0x2000 | P); /* no A in a PDPTE */
	expect_fault(try_access(ACCESS_FETCH, 0xc0000000), 0xc0000000, 17);
	expect_fault(try_access(ACCESS_READ, 0x40000000), 0x40000000, 0);
	/* Bits 62 to 52 are reserved here. */
	*ram64(at + 8) = DATA | P | BIT(55);
	expect_fault(try_access(ACCESS_READ, 0xc0001000), 0xc0001000, 9);
	/* PDPTEs are what the last load saw. */
	*ram64(0x1020 + 24) = 0;
	mmu_flush_all(V);
	assert_int_equal(try_access(ACCESS_WRITE, 0xc0000000), FAKE_DONE);
	*ram64(0x1020) = 0x2000 | P | W;
	assert_false(mmu_load_pdptes(V, C->cr3));
	*ram64(0x1020) = 0x2000 | W; /* not present: anything goes */
	assert_true(mmu_load_pdptes(V, C->cr3));
	/* The user moves CR3: loaded from there; says the same again: not loaded. */
	C->cr3 = 0x4000;
	*ram64(0x4000 + 24) = 0x2000 | P;
	mmu_state_changed(V);
	assert_int_equal(try_access(ACCESS_WRITE, 0xc0000000), FAKE_DONE);
	*ram64(0x4000 + 24) = 0;
	mmu_state_changed(V);
	assert_int_equal(try_access(ACCESS_WRITE, 0xc0000000), FAKE_DONE);
}

static void crossing(void **state)
{
	u64 second = map(0x401000, DATA + 0x3000, P);

	map(0x400000, DATA, P | W);
	paging_on(0, EFER_NX);
	*ram64(DATA + 0xff8) = 0;
	expect_fault(FAKE_TRY(mem_write(V, 0x400ffc, 8, ~0ULL)), 0x401000, 3);
	assert_int_equal(*ram64(DATA + 0xff8), 0);
	*ram64(second) |= W;
	assert_int_equal(FAKE_TRY(mem_write(V, 0x400ffc, 8, 0x1122334455667788)), FAKE_DONE);
	assert_int_equal(*ram32(DATA + 0xffc), 0x55667788);
	assert_int_equal(*ram32(DATA + 0x3000), 0x11223344);
	assert_int_equal(mem_read(V, 0x400ffc, 8), 0x1122334455667788);
	assert_null(mem_rmw(V, 0x400ffe, 4));
	{
		struct rmw_slow s;
		u32 *p = mem_rmw_slow_begin(V, 0x400ffe, 4, &s);

		assert_int_equal(*p, 0x33445566);
		*p += 0x10000001;
		mem_rmw_slow_end(V, &s);
		assert_int_equal(mem_read(V, 0x400ffe, 4), 0x43445567);
	}
	*ram64(second) = 0;
	mmu_invlpg(V, 0x401000);
	expect_fault(FAKE_TRY(mem_read(V, 0x400fff, 2)), 0x401000, 0);
}

static void invalidation(void **state)
{
	u64 at = map(0x400000, DATA, P | W), global = map(0x500000, DATA, P | W | G);

	paging_on(X86_CR4_PGE, EFER_NX);
	*ram64(DATA) = 1;
	*ram64(DATA + 0x1000) = 2;
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	assert_int_equal(mem_read(V, 0x500000, 8), 1);
	*ram64(at) = (DATA + 0x1000) | P | W;
	*ram64(global) = (DATA + 0x1000) | P | W | G;
	assert_int_equal(mem_read(V, 0x400000, 8), 1); /* cached, as it should be */
	mmu_load_cr3(V, false);
	assert_int_equal(mem_read(V, 0x400000, 8), 2);
	assert_int_equal(mem_read(V, 0x500000, 8), 1);
	mmu_invlpg(V, 0x500000);
	assert_int_equal(mem_read(V, 0x500000, 8), 2);
	/* A page table freed and used anew: INVLPG drops the directory entry too. */
	mem_read(V, 0x401000 - 0x1000, 8);
	{
		u64 pde = map_at(ROOT, 4, 0x400000, 2, 0), table = new_table();

		*ram64(table) = DATA | P | W;
		*ram64(pde) = table | P | W | U;
	}
	mmu_invlpg(V, 0x400000);
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	/* Rights that were given are seen without invalidation: a denial walks again. */
	at = map(0x600000, DATA, P);
	assert_int_equal(mem_read(V, 0x600000, 8), 1);
	*ram64(at) |= W;
	assert_int_equal(try_access(ACCESS_WRITE, 0x600000), FAKE_DONE);
}

static void pcid(void **state)
{
	u64 other_root = 0x8000;

	map(0x400000, DATA, P | W);
	map_at(other_root, 4, 0x400000, 1, (DATA + 0x1000) | P | W);
	*ram64(DATA) = 1;
	*ram64(DATA + 0x1000) = 2;
	paging_on(X86_CR4_PCIDE, EFER_NX);
	C->cr3 = ROOT | 1;
	mmu_load_cr3(V, false);
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	C->cr3 = other_root | 2;
	mmu_load_cr3(V, false);
	assert_int_equal(mem_read(V, 0x400000, 8), 2);
	/* Change both tables behind its back; NOFLUSH keeps the old, a flush sees the new. */
	map_at(ROOT, 4, 0x400000, 1, (DATA + 0x1000) | P | W);
	C->cr3 = ROOT | 1;
	mmu_load_cr3(V, true);
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	mmu_load_cr3(V, false);
	assert_int_equal(mem_read(V, 0x400000, 8), 2);
	/* INVPCID of one address in the other context. */
	map_at(other_root, 4, 0x400000, 1, DATA | P | W);
	mmu_invpcid(V, 0, 2, 0x400000);
	C->cr3 = other_root | 2;
	mmu_load_cr3(V, true);
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	/* ... of a whole context, and of all. */
	map(0x400000, DATA, P | W);
	mmu_invpcid(V, 1, 1, 0);
	C->cr3 = ROOT | 1;
	mmu_load_cr3(V, true);
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	map(0x400000, DATA + 0x1000, P | W);
	assert_int_equal(mem_read(V, 0x400000, 8), 1);
	mmu_invpcid(V, 3, 0, 0);
	assert_int_equal(mem_read(V, 0x400000, 8), 2);
	/* Numbers run out: everything goes, nothing stale comes back. */
	for (int i = 0; i < 10000; i++) {
		map(0x400000, i & 1 ? DATA : DATA + 0x1000, P | W);
		C->cr3 = ROOT | (i % 3);
		mmu_load_cr3(V, false);
		assert_int_equal(mem_read(V, 0x400000, 8), i & 1 ? 1 : 2);
	}
}

static void many_pages(void **state)
{
	/* More pages than level 2 has, at strides that collide; each must read as itself. */
	paging_on(0, EFER_NX);
	for (u64 i = 0; i < 64; i++)
		*ram64(DATA + i * PAGE_SIZE) = i;
	for (int round = 0; round < 2; round++)
		for (u64 i = 0; i < 64; i++) {
			u64 linear = (i << 21) + (i << 12);

			if (!round)
				map(linear, DATA + i * PAGE_SIZE, P | W);
			assert_int_equal(mem_read(V, linear, 8), i);
		}
	for (u64 i = 0; i < 64; i++)
		assert_int_equal(mem_read(V, (i << 21) + (i << 12), 8), i);
}

static void silent_writes(void **state)
{
	struct kvm_memory_slot *s = &fake->slot[0];
	u64 map_words[FAKE_RAM_SIZE / PAGE_SIZE / 64] = {0}, len;

	map(0x400000, DATA, P | W);
	map(0x401000, DATA + 0x1000, P | W);
	paging_on(0, EFER_NX);
	/* Pages with code: every write is told, none gets a tag. */
	fake->code_page = DATA;
	mem_write(V, 0x400010, 4, 5);
	assert_int_equal(fake->code_written, DATA + 0x10);
	assert_int_equal(fake->code_written_len, 4);
	assert_null(tlb_pointer(V, 0x400010, 4, ACCESS_WRITE));
	assert_non_null(tlb_pointer(V, 0x400010, 4, ACCESS_READ));
	assert_non_null(mem_rmw(V, 0x400020, 8));
	assert_int_equal(fake->code_written, DATA + 0x20);
	len = 100;
	assert_non_null(mem_span(V, 0x400030, &len, ACCESS_WRITE));
	assert_int_equal(fake->code_written, DATA + 0x30);
	assert_int_equal(fake->code_written_len, 100);
	/* A page becomes one while it is writable. */
	mem_write(V, 0x401000, 4, 5);
	assert_non_null(tlb_pointer(V, 0x401000, 4, ACCESS_WRITE));
	fake->code_page = DATA + 0x1000;
	assert_false(mmu_protect_code(V, DATA + 0x1000));
	assert_null(tlb_pointer(V, 0x401000, 4, ACCESS_WRITE));
	fake->code_page = ~0ULL;
	/* Dirty log: the first write marks, later ones are silent. */
	s->dirty_bitmap = map_words;
	mmu_flush_all(V);
	mem_read(V, 0x400000, 8);
	assert_null(tlb_pointer(V, 0x400000, 8, ACCESS_WRITE));
	assert_false(bitmap_test(map_words, DATA >> 12));
	mem_write(V, 0x400000, 8, 1);
	assert_true(bitmap_test(map_words, DATA >> 12));
	assert_non_null(tlb_pointer(V, 0x400000, 8, ACCESS_WRITE));
	/* The walk's own stores are logged too. */
	memset(map_words, 0, sizeof(map_words));
	{
		u64 at = map(0x402000, DATA + 0x2000, P | W);

		mmu_flush_all(V);
		mem_read(V, 0x402000, 8);
		assert_true(bitmap_test(map_words, at >> 12));
		assert_false(bitmap_test(map_words, (DATA + 0x2000) >> 12));
	}
	s->dirty_bitmap = NULL;
}

static void other_vcpu_protect(void **state)
{
	struct kvm_vcpu *o = &fake->other;

	*o = *V;
	o->cpu = calloc(1, sizeof(struct mmu));
	o->ctl.cr0 &= ~(u64)X86_CR0_PG;
	mmu_init(o);
	fake->kvm.vcpus[1] = o;
	fake->kvm.nr_vcpus = 2;
	mem_write(o, DATA, 8, 1);
	assert_non_null(tlb_pointer(o, DATA, 8, ACCESS_WRITE));
	fake->code_page = DATA;
	assert_true(mmu_protect_code(V, DATA));
	assert_null(tlb_pointer(o, DATA, 8, ACCESS_WRITE));
	assert_false(mmu_protect_code(V, DATA));
	free(o->cpu);
}

static void watchpoints(void **state)
{
	map(0x400000, DATA, P | W);
	paging_on(0, EFER_NX);
	mem_write(V, 0x400000, 8, 1);
	C->dr[1] = 0x400104;
	C->dr7 = BIT(3) | 1ULL << 20 | 3ULL << 22; /* G1, write, 4 bytes */
	mmu_update_watchpoints(V);
	assert_null(tlb_pointer(V, 0x400000, 8, ACCESS_WRITE));
	mem_write(V, 0x400108, 4, 1);
	mem_read(V, 0x400104, 4);
	assert_int_equal(vcpu_mmu(V)->watch_hits, 0);
	mem_write(V, 0x400107, 1, 1);
	assert_int_equal(vcpu_mmu(V)->watch_hits, 2);
	assert_true(V->events);
	C->dr7 = 0;
	mmu_update_watchpoints(V);
	mem_write(V, 0x400000, 8, 1);
	assert_non_null(tlb_pointer(V, 0x400000, 8, ACCESS_WRITE));
}

static void alignment_check(void **state)
{
	map(0x400000, DATA, P | W | U);
	paging_on(0, EFER_NX);
	C->cr0 |= X86_CR0_AM;
	C->rflags |= X86_AC;
	set_cpl(3);
	assert_int_equal(try_access(ACCESS_WRITE, 0x400001), FAKE_DONE);
	assert_int_equal(FAKE_TRY(mem_read(V, 0x400004, 4)), FAKE_DONE);
	assert_int_equal(FAKE_TRY(mem_read(V, 0x400004, 8)), FAKE_EXCEPTION);
	assert_int_equal(fake->vector, AC_VECTOR);
	assert_int_equal(fake->error, 0);
	set_cpl(0);
	assert_int_equal(FAKE_TRY(mem_read(V, 0x400004, 8)), FAKE_DONE);
}

static void rom_and_holes(void **state)
{
	static _Alignas(4096) u8 rom[2 * PAGE_SIZE];

	fake_add_slot(0x10000000, sizeof(rom), rom, KVM_MEM_READONLY);
	map(0x400000, 0x10000000, P | W);
	map(0x401000, 0x20000000, P | W);
	paging_on(0, EFER_NX);
	rom[8] = 9;
	assert_int_equal(mem_read(V, 0x400008, 1), 9);
	assert_non_null(tlb_pointer(V, 0x400008, 1, ACCESS_READ));
	assert_int_equal(FAKE_TRY(mem_write(V, 0x400008, 1, 1)), FAKE_STEP);
	io_begin(V);
	assert_int_equal(FAKE_TRY(mem_write(V, 0x400008, 1, 1)), FAKE_EXIT);
	assert_int_equal(V->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(V->run->mmio.phys_addr, 0x10000008);
	assert_int_equal(V->run->mmio.is_write, 1);
	assert_int_equal(V->run->mmio.len, 1);
	assert_int_equal(rom[8], 9);
	io_end(V);
}

static void mmio_replay(void **state)
{
	u64 got;

	/* 12 bytes: 4 in RAM's last page... here: device pages on both sides, one in the kernel. */
	map(0x400000, 0x20000000, P | W);
	map(0x401000, 0x30000000, P | W);
	paging_on(0, EFER_NX);
	fake->dev = 0x20000ffc;
	fake->dev_value = 0x11111111;
	assert_int_equal(FAKE_TRY(mem_read(V, 0x400ffc, 8)), FAKE_STEP);
	io_begin(V);
	assert_int_equal(FAKE_TRY(mem_read(V, 0x400ffc, 8)), FAKE_EXIT);
	assert_int_equal(fake->dev_reads, 1);
	assert_int_equal(V->run->mmio.phys_addr, 0x30000000);
	assert_int_equal(V->run->mmio.len, 4);
	assert_int_equal(V->run->mmio.is_write, 0);
	memcpy(V->run->mmio.data, "\x22\x22\x22\x22", 4);
	assert_true(io_complete(V));
	io_begin(V);
	got = mem_read(V, 0x400ffc, 8);
	assert_int_equal(got, 0x2222222211111111);
	assert_int_equal(fake->dev_reads, 1); /* not asked again */
	io_end(V);
	assert_false(io_complete(V));
	/* A reset in between: the answer is dropped. */
	io_begin(V);
	assert_int_equal(FAKE_TRY(mem_read(V, 0x401000, 8)), FAKE_EXIT);
	C->rip += 0x1000;
	assert_false(io_complete(V));
	assert_int_equal(vcpu_mmu(V)->io.count, 0);
}

static void translate(void **state)
{
	bool w, u;
	u64 at = map(0x400000, DATA, P | U);

	paging_on(0, EFER_NX);
	assert_int_equal(mmu_translate_debug(V, 0x400123, &w, &u), DATA + 0x123);
	assert_false(w);
	assert_true(u);
	assert_int_equal(*ram64(at), DATA | P | U);
	assert_int_equal(mmu_translate_debug(V, 0x500000, &w, &u), ~0ULL);
	assert_int_equal(mmu_translate_debug(V, 1ULL << 50, &w, &u), ~0ULL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(unpaged),
		T(permission_matrix),
		T(classes_change_without_flush),
		T(not_present_at_each_level),
		T(reserved_bits),
		T(large_pages),
		T(five_levels),
		T(legacy_32bit),
		T(pae),
		T(crossing),
		T(invalidation),
		T(pcid),
		T(many_pages),
		T(silent_writes),
		T(other_vcpu_protect),
		T(watchpoints),
		T(alignment_check),
		T(rom_and_holes),
		T(mmio_replay),
		T(translate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
