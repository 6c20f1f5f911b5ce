/*
 * KVM_RUN on a state and a memory that the input chose: nothing may crash, loop unstoppably or
 * touch host memory outside the slot (which has inaccessible pages on both sides).
 *
 * Input: struct header, then code. Registers, page tables, descriptor tables and data are drawn
 * from the header's seed, with a liking for values that mean something.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <asm/processor-flags.h>

#include "../unit/soft/rig.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct header {
	u64 seed;
	u8 mode;  /* 16, 32, PAE, 64, V86 by the low bits; CPL and options above */
	u8 flags; /* F_* */
	u16 rflags;
	u32 cr4;
} PACKED;

enum {
	F_STEP = 1,	 /* stop after each instruction */
	F_WILD_SEGS = 2, /* segments at random */
	F_WILD_TABLES = 4,
	F_DEBUG = 8, /* breakpoints and watchpoints armed */
	F_MMIO = 16, /* registers point to where there is no memory */
	F_PAGES = 32 /* page tables at random */
};

static struct rig *rig;
static u64 seed;

static u64 next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* ---- stopping ---- */

#define MAX_ALARMS 30000 /* in one run: a minute */

static u32 alarms;

/* A run that does not heed them is a finding. */
static void alarm_handler(int signal)
{
	static const char text[] = "run() does not heed requests\n";

	kvm_make_request(&rig->vcpu, KVM_REQ_EXIT);
	if (++alarms < MAX_ALARMS)
		return;
	if (write(2, text, sizeof(text) - 1) < 0)
		_exit(3);
	abort();
}

static void arm(bool on)
{
	struct itimerval t = {{0, 2000 * on}, {0, 2000 * on}};

	setitimer(ITIMER_REAL, &t, NULL);
}

static void finish(void)
{
	rig_free(rig);
}

static void init(void)
{
	struct sigaction sa = {.sa_handler = alarm_handler, .sa_flags = SA_RESTART};

	rig = rig_new();
	atexit(finish);
	sigaction(SIGALRM, &sa, NULL);
}

/* ---- state ---- */

#define TABLES 0x100000u

static u64 interesting(void)
{
	static const u64 value[] = {0,		0xff,	      0xffff,	      0x7fffffff,
				    0x80000000, 0xffffffff,   0x7ffffffffff8, 0x800000000000,
				    ~0ULL,	RIG_DATA - 4, RIG_RAM - 1,    0xfee00000};
	u64 r = next();

	switch (r & 7) {
	case 0:
		return value[(r >> 8) % ARRAY_SIZE(value)];
	case 1:
		return r;
	case 2:
		return RIG_CODE + (r >> 8) % 4096;
	default:
		return RIG_DATA + (r >> 8) % 0x10000;
	}
}

static void fill(u64 at, u64 len)
{
	for (u64 i = 0; i < len; i += 8) {
		u64 v = next() & 3 ? interesting() : next();

		memcpy(rig->ram + at + i, &v, 8);
	}
}

/* Four levels that map 1:1 by 2M pages, and one region by 4K pages with random entries. */
static void make_pages(int mode, bool wild)
{
	struct vcpu_control *c = &rig->vcpu.ctl;
	u64 *t = (u64 *)(rig->ram + TABLES);
	u32 *t32 = (u32 *)(rig->ram + TABLES);

	if (mode == 1) {
		for (u32 i = 0; i < 1024; i++)
			t32[i] = (i % 4) << 22 | 0x87;
		t32[1023] = (TABLES + 4096) | 7;
		for (u32 i = 0; i < 1024; i++)
			t32[1024 + i] = wild ? (u32)next() & 0xffffff : (i << 12) | 7;
	} else {
		t[0] = (TABLES + 4096) | (mode == 2 ? 1 : 7);
		t[511] = (TABLES + 4096) | 7;
		for (u32 i = 0; i < 512; i++)
			t[512 + i] = mode == 2 ? (i % 8) << 21 | 0x87 : (TABLES + 8192) | 7;
		for (u32 i = 0; i < 512; i++)
			t[1024 + i] = (i % 8) << 21 | 0x87;
		t[1024 + 1] = t[512 + 1] = (TABLES + 12288) | 7;
		for (u32 i = 0; i < 512; i++)
			t[1536 + i] =
				wild ? next() & (0x8000000000ffffffULL | next()) : (u64)i << 12 | 7;
	}
	c->cr3 = TABLES;
}

static void make_tables(bool wild)
{
	struct vcpu_control *c = &rig->vcpu.ctl;

	if (!wild)
		return;
	fill(0x2018, 0x100);
	for (u32 i = 3; i < 32; i++)
		rig->ram[0x2000 + 8 * i + 5] |= 0x80; /* present, mostly */
	c->gdtr.limit = 0xff;
	fill(0x1000 + 8 * (next() % 64), 64);
	c->seg[SEG_TR] = (struct segment){
		.base = RIG_DATA, .limit = 0x200, .type = 11, .present = 1, .selector = 0x18};
	c->seg[SEG_LDTR] =
		(struct segment){.base = RIG_DATA + 0x300, .limit = 0xff, .type = 2, .present = 1};
}

static void wild_segments(void)
{
	for (int i = SEG_ES; i <= SEG_GS; i++) {
		struct segment *s = &rig->vcpu.ctl.seg[i];
		u64 r = next();

		if (i == SEG_CS || (r & 1))
			continue;
		s->base = i < SEG_FS ? (u32)interesting() : interesting();
		s->limit = (u32)interesting();
		s->type = (r >> 8) & 7;
		s->db = (r >> 12) & 1;
		s->unusable = (r >> 13 & 7) == 0;
	}
}

static void to_v86(void)
{
	struct vcpu_control *c = &rig->vcpu.ctl;

	c->rflags |= X86_VM;
	c->cpl = 3;
	for (int i = SEG_ES; i <= SEG_GS; i++) {
		u16 selector = i == SEG_CS ? RIG_CODE >> 4 : (u16)next() & 0x2fff;

		c->seg[i] = (struct segment){.base = (u64)selector << 4,
					     .limit = 0xffff,
					     .selector = selector,
					     .type = 3,
					     .s = 1,
					     .dpl = 3,
					     .present = 1};
	}
	c->rip = 0;
}

static void set_cpl(u8 cpl)
{
	struct vcpu_control *c = &rig->vcpu.ctl;

	c->cpl = c->seg[SEG_CS].dpl = c->seg[SEG_SS].dpl = cpl;
	c->seg[SEG_CS].selector |= cpl;
	c->seg[SEG_SS].selector |= cpl;
}

static void set_control(const struct header *h, int mode)
{
	struct vcpu_control *c = &rig->vcpu.ctl;
	u64 cr4 = h->cr4 & (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE |
			    X86_CR4_PGE | X86_CR4_PCE | X86_CR4_UMIP | X86_CR4_FSGSBASE |
			    X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP);

	cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	if (mode >= 2)
		cr4 |= X86_CR4_PAE;
	if (mode == 3)
		cr4 |= h->cr4 & X86_CR4_PCIDE;
	c->cr4 = cr4;
	c->cr0 |= h->cr4 & (X86_CR0_MP | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM);
	c->rflags = 2 | (h->rflags & 0xffd5) | (h->cr4 & (X86_AC | X86_ID | X86_VIF | X86_VIP));
	c->xcr0 = 7;
	if (mode == 1 || mode == 2) {
		c->efer = EFER_NX;
		c->cr0 |= h->mode & 8 ? X86_CR0_PG : 0;
	}
}

static void debug_registers(void)
{
	struct vcpu_control *c = &rig->vcpu.ctl;

	for (int i = 0; i < 4; i++)
		c->dr[i] = i & 1 ? RIG_DATA + next() % 64 : RIG_CODE + next() % 64;
	c->dr7 = 0x400 | (next() & 0xffff00ff);
}

static void set_state(const struct header *h)
{
	struct vcpu_control *c = &rig->vcpu.ctl;
	int mode = h->mode % 5, paging = mode == 4 ? 1 : mode;

	rig_mode(rig, mode == 0 ? 16 : mode == 3 ? 64 : 32);
	fill(RIG_DATA, 0x1000);
	if (paging)
		make_pages(paging, h->flags & F_PAGES);
	set_control(h, paging);
	for (int i = 0; i < 16; i++)
		c->gpr[i] = interesting();
	if (!(h->flags & F_MMIO) || (next() & 1))
		c->gpr[RSP] = RIG_STACK - (next() & 0xfff);
	make_tables(h->flags & F_WILD_TABLES);
	if (h->flags & F_WILD_SEGS)
		wild_segments();
	if (mode == 4)
		to_v86();
	else if (mode)
		set_cpl((h->mode >> 4) & 3);
	if (h->flags & F_DEBUG)
		debug_registers();
	rig->vcpu.guest_debug =
		h->flags & F_STEP ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0;
	rig->interrupt = h->flags & 64 ? (int)(next() & 0xff) : -1;
	rig->vcpu.msr.star = next();
	rig->vcpu.msr.lstar = rig->vcpu.msr.cstar = RIG_CODE;
	rig->vcpu.msr.sysenter_cs = 8;
	rig->vcpu.msr.sysenter_eip = RIG_CODE;
	rig->vcpu.msr.sysenter_esp = RIG_STACK;
	c->nmi_pending = (h->flags >> 7) & 1;
	if (mode == 2)
		mmu_load_pdptes(&rig->vcpu, c->cr3);
	interpreter_ops.state_changed(&rig->vcpu);
}

/* ---- running ---- */

static void answer(void)
{
	struct kvm_run *run = rig->vcpu.run;
	u64 v = next();

	if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write)
		memcpy(run->mmio.data, &v, 8);
	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN)
		memset((u8 *)run + run->io.data_offset, (int)v,
		       (size_t)run->io.size * run->io.count);
}

static void run(bool stepping)
{
	int exits = stepping ? 200 : 20;

	for (int i = 0; i < exits; i++) {
		int r;

		alarms = 0;
		r = rig_run(rig);
		if (r < 0 || r == KVM_EXIT_SHUTDOWN || r == KVM_EXIT_INTERNAL_ERROR)
			return;
		answer();
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct header h;

	if (size < sizeof(h) + 1 || size > sizeof(h) + 2048)
		return 0;
	if (!rig)
		init();
	memcpy(&h, data, sizeof(h));
	seed = h.seed | 1;
	madvise(rig->ram, RIG_RAM, MADV_DONTNEED);
	interpreter_ops.flush_slot(&rig->kvm, 0, RIG_RAM);
	set_state(&h);
	memcpy(rig->ram + RIG_CODE, data + sizeof(h), size - sizeof(h));
	rig->vcpu.requests = rig->vcpu.exit_request = 0;
	arm(true);
	run(h.flags & F_STEP);
	arm(false);
	return 0;
}
