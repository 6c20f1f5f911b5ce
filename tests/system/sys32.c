/*
 * The system side of the CPU as 32-bit code sees it: segments, gates, tasks, virtual-8086 mode, the
 * older kinds of paging, real mode. Every line printed is a fact about the processor.
 */
#include "sys32.h"

volatile struct trap trapped;

#define V86 4

volatile u64 idt[256] __attribute__((aligned(16)));
volatile u8 tss[0x2100] __attribute__((aligned(16)));
volatile u8 tss2[0x80] __attribute__((aligned(16)));
static volatile u8 tss3[0x80] __attribute__((aligned(16)));
volatile u8 tss16[0x40] __attribute__((aligned(16)));
u8 ring0_stack[4096] __attribute__((aligned(16)));
u8 task_stack[2][1024] __attribute__((aligned(16)));
static volatile u8 data_page[8192] __attribute__((aligned(4096)));
static volatile u32 page_dir[1024] __attribute__((aligned(4096)));
static volatile u32 page_table[1024] __attribute__((aligned(4096)));
static volatile u64 pdpt[4] __attribute__((aligned(4096)));
static volatile u64 pae_dir[512] __attribute__((aligned(4096)));
static volatile u64 pae_low[512] __attribute__((aligned(4096)));
static volatile u64 pae_table[512] __attribute__((aligned(4096)));

void set_gate(int v, u32 handler, u16 cs, u8 type)
{
	idt[v] = (handler & 0xffff) | (u64)cs << 16 | (u64)type << 40 |
		 (u64)(handler & 0xffff0000) << 32;
}

void set_segment(u16 sel, u32 base, u32 limit, u8 type, u8 flags)
{
	gdt[sel / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
		       (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

u32 read_cr(int n)
{
	u32 v;

	if (n == 0)
		asm volatile("movl %%cr0, %0" : "=r"(v));
	else if (n == 3)
		asm volatile("movl %%cr3, %0" : "=r"(v));
	else
		asm volatile("movl %%cr4, %0" : "=r"(v));
	return v;
}

static void write_cr0(u32 v)
{
	asm volatile("movl %0, %%cr0" ::"r"(v) : "memory");
}

static void write_cr3(u32 v)
{
	asm volatile("movl %0, %%cr3" ::"r"(v) : "memory");
}

static void write_cr4(u32 v)
{
	asm volatile("movl %0, %%cr4" ::"r"(v) : "memory");
}

void make_tss(volatile u8 *t, u32 eip, int stack)
{
	for (int i = 0; i < 0x68; i++)
		t[i] = 0;
	T32(t, 4) = (u32)(ring0_stack + sizeof(ring0_stack));
	T32(t, 8) = K_DATA;
	T32(t, 32) = eip;
	T32(t, 36) = 2;
	T32(t, 40) = 0x99;
	T32(t, 56) = (u32)(task_stack[stack] + 1024);
	T32(t, 72) = T32(t, 80) = T32(t, 84) = T32(t, 88) = T32(t, 92) = K_DATA;
	T32(t, 76) = K_CODE32;
	T32(t, 28) = read_cr(3);
	T16(t, 102) = 0x68;
}

extern u8 task_entry[], task_int_entry[], gate_entry[];

static void init(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (u32)idt};

	for (int v = 0; v < 256; v++)
		set_gate(v, (u32)stubs + 16 * (u32)v, K_CODE32,
			 v == 3 || v == 4 || v == 0x80 ? 0xee : 0x8e);
	asm volatile("lidt %0" ::"m"(idtr) : "memory");
	set_segment(REAL_CODE, 0, 0xffff, 0x9b, 0);
	set_segment(REAL_DATA, 0, 0xffff, 0x93, 0);
	make_tss(tss, 0, 0);
	set_segment(TSS_SEL, (u32)tss, 0x20ff, 0x89, 0);
	make_tss(tss2, (u32)task_entry, 0);
	set_segment(TSS2_SEL, (u32)tss2, 0x67, 0x89, 0);
	make_tss(tss3, (u32)task_int_entry, 1);
	set_segment(TSS3_SEL, (u32)tss3, 0x67, 0x89, 0);
	gdt[GATE_SEL / 8] = ((u32)gate_entry & 0xffff) | K_CODE32 << 16 | 2ULL << 32 |
			    0xecULL << 40 | (u64)((u32)gate_entry & 0xffff0000) << 32;
	gdt[TASK_SEL / 8] = (u64)TSS2_SEL << 16 | 0xe5ULL << 40;
	set_segment(CODE1_SEL, 0, 0xfffff, 0xbb, 12);
	set_segment(CONF_SEL, 0, 0xfffff, 0x9f, 12);
	asm volatile("ltr %0" ::"r"((u16)TSS_SEL) : "memory");
	for (int i = 0; i < 6; i++)
		v86_frame[i] = (u32)data_page >> 4;
	v86_frame[0] = 0x1000; /* SP */
}

void outcome(const char *name)
{
	put(name);
	if (trapped.vector == ~0U || trapped.vector == 0x80) {
		put(": ok\n");
		return;
	}
	put(": #");
	put_hex(trapped.vector);
	show("err", trapped.error);
	if (trapped.vector == 14)
		show("cr2", trapped.cr2);
	show("cpl", trapped.cs & 3);
	put("\n");
}

void report_unexpected(void)
{
	put("\nunexpected");
	show("eip", trapped.eip);
	outcome("");
}

void try(const char *name, void (*fn)(u32), u32 arg, int cpl)
{
	enter(fn, arg, cpl);
	outcome(name);
}

/* ---- segments ---- */

static void k_load_ds(u32 sel)
{
	asm volatile("movw %w0, %%ds" ::"r"(sel));
}

static void k_load_ss(u32 sel)
{
	asm volatile("movw %w0, %%ss" ::"r"(sel));
}

/* Through TEST_SEL in FS. */
static void k_read8(u32 offset)
{
	asm volatile("movb %%fs:(%0), %%al" ::"r"(offset) : "eax");
}

static void k_read32(u32 offset)
{
	asm volatile("movl %%fs:(%0), %%eax" ::"r"(offset) : "eax");
}

static void k_write8(u32 offset)
{
	asm volatile("movb %%al, %%fs:(%0)" ::"r"(offset) : "memory");
}

static void k_cs_write(u32 a)
{
	asm volatile("movb %%al, %%cs:(%0)" ::"r"(a) : "memory");
}

static void k_into(u32 a)
{
	asm volatile("movb $0x7f, %%al; incb %%al; into" ::: "eax");
}

static void k_bound(u32 index)
{
	static const u32 bounds[2] = {10, 20};

	asm volatile("bound %0, %1" ::"r"(index), "m"(bounds));
}

void k_lcall(u32 sel)
{
	struct {
		u32 offset;
		u16 sel;
	} __attribute__((packed)) far = {(u32)gate_entry, (u16)sel};

	asm volatile("lcall *%0" ::"m"(far) : "memory");
}

static void k_ljmp(u32 sel)
{
	struct {
		u32 offset;
		u16 sel;
	} __attribute__((packed)) far = {0xffffffff, (u16)sel};

	asm volatile("ljmp *%0" ::"m"(far) : "memory");
}

static void load_fs(u16 sel)
{
	asm volatile("movw %0, %%fs" ::"r"(sel));
}

static void limits_of(const char *name, u32 base, u32 limit, u8 type, u8 flags, u32 edge)
{
	put(name);
	put("\n");
	set_segment(TEST_SEL, base, limit, type, flags);
	load_fs(TEST_SEL);
	try(" at", k_read8, edge, 0);
	try(" after", k_read8, edge + 1, 0);
	try(" 4 at", k_read32, edge, 0);
	try(" 4 before", k_read32, edge - 3, 0);
	try(" write", k_write8, edge, 0);
	load_fs(0);
}

static void segments(void)
{
	u16 a = 0x1231;
	u8 zf;

	limits_of("byte limit", (u32)data_page, 0xfff, 0x93, 4, 0xfff);
	limits_of("page limit", (u32)data_page, 0, 0x93, 12, 0xfff);
	limits_of("expand down", (u32)data_page - 0x1000, 0xfff, 0x97, 4, 0xfff);
	limits_of("expand down 16", (u32)data_page - 0xf000, 0xefff, 0x97, 0, 0xffff);
	limits_of("read only", (u32)data_page, 0xfff, 0x91, 4, 0xfff);
	limits_of("code", (u32)data_page, 0xfff, 0x9b, 4, 0xfff);
	limits_of("flat", 0, 0xfffff, 0x93, 12, (u32)data_page + 8);
	set_segment(TEST_SEL, 0, 0xfffff, 0x99, 12);
	try("execute only", k_load_ds, TEST_SEL, 0);
	load_fs(0);
	try("null segment", k_read8, 0, 0);
	try("write to code", k_cs_write, (u32)data_page, 0);
	try("ss null", k_load_ss, 0, 0);
	try("ss code", k_load_ss, K_CODE32, 0);
	set_segment(TEST_SEL, 0, 0xfffff, 0x13, 12);
	try("ss not present", k_load_ss, TEST_SEL, 0);
	try("ds not present", k_load_ds, TEST_SEL, 0);
	try("into", k_into, 0, 0);
	try("bound in", k_bound, 20, 0);
	try("bound out", k_bound, 21, 0);
	try("jump past the limit", k_ljmp, REAL_CODE, 0);
	try("jump to data", k_ljmp, K_DATA, 0);
	try("jump to 64-bit code", k_ljmp, 0, 0);
	asm volatile("arpl %w2, %w0; setz %1" : "+r"(a), "=q"(zf) : "r"(3));
	put("arpl");
	show("sel", a);
	show("zf", zf);
	asm volatile("arpl %w2, %w0; setz %1" : "+r"(a), "=q"(zf) : "r"(2));
	show("sel", a);
	show("zf", zf);
	put("\n");
}

/* ---- gates and tasks ---- */

extern void u_call_gate(u32), u_int80(u32), u_arg_read(u32), u_arg_write(u32);

static void show_saw(const char *name, int n)
{
	put(name);
	for (int i = 0; i < n; i++)
		show("", task_saw[i]);
	put("\n");
}

static void gates(void)
{
	try("call gate from user", u_call_gate, 0, 3);
	show("esp", trapped.eax);
	put("\n");
	task_saw[4] -= (u32)(ring0_stack + sizeof(ring0_stack));
	task_saw[5] -= (u32)user_stack_top;
	show_saw("gate saw", 6);
	gdt[GATE_SEL / 8] &= ~BIT(46);
	try("call gate dpl", u_call_gate, 0, 3);
	gdt[GATE_SEL / 8] |= BIT(46);
	gdt[GATE_SEL / 8] &= ~BIT(47);
	try("call gate not present", u_call_gate, 0, 3);
	gdt[GATE_SEL / 8] |= BIT(47);
	/* stacks of ring 1, so that the fault itself finds ring 0's */
	gdt[GATE_SEL / 8] = (gdt[GATE_SEL / 8] & ~0xffff0000ULL) | (CODE1_SEL << 16);
	T16(tss, 16) = U_DATA;
	try("call gate stack rpl", u_call_gate, 0, 3);
	T16(tss, 16) = 0;
	try("call gate stack null", u_call_gate, 0, 3);
	T16(tss, 16) = 0xfff9;
	try("call gate stack beyond", u_call_gate, 0, 3);
	T16(tss, 16) = K_DATA | 1;
	try("call gate stack dpl", u_call_gate, 0, 3);
}

static void task_state(const char *name)
{
	put(name);
	show("runs", task_runs);
	show("link", T16(tss2, 0));
	show("type", gdt[TSS2_SEL / 8] >> 40 & 15);
	show("own", gdt[TSS_SEL / 8] >> 40 & 15);
	show("eax", T32(tss2, 40));
	show("flags", T32(tss2, 36));
	put("\n");
}

static void k_int55(u32 a)
{
	asm volatile("int $0x55");
}

static void k_ud2(u32 a)
{
	asm volatile("ud2");
}

static void k_iret_nt(u32 link)
{
	T16(tss, 0) = (u16)link;
	asm volatile("pushl $0x4002; popfl; iretl");
}

static void tasks(void)
{
	u32 cr0;

	try("task call", k_lcall, TSS2_SEL, 0);
	task_saw[2] -= (u32)(task_stack[0] + 1024);
	task_saw[4] &= 8;
	show_saw("task saw", 5);
	task_state("after call");
	cr0 = read_cr(0);
	put("ts");
	show("is", cr0 >> 3 & 1);
	put("\n");
	asm volatile("clts");
	try("task call again", k_lcall, TASK_SEL, 0);
	task_state("after gate");
	asm volatile("clts");
	try("task itself", k_lcall, TSS_SEL, 0);
	/* an interrupt through a task gate, an exception with an error code */
	idt[0x55] = (u64)TSS3_SEL << 16 | 0xe5ULL << 40;
	T32(tss3, 32) = (u32)task_int_entry + 6; /* nothing to pop */
	T32(tss3, 56) = (u32)(task_stack[1] + 1024);
	try("task interrupt", k_int55, 0, 0);
	show("link", T16(tss3, 0));
	show("runs", task_runs);
	put("\n");
	asm volatile("clts");
	make_tss(tss3, (u32)task_int_entry, 1);
	idt[6] = (u64)TSS3_SEL << 16 | 0x85ULL << 40;
	T32(tss3, 32) = (u32)k_ud2; /* #UD in the handler of #UD: the task is busy */
	try("task exception in its own task", k_ud2, 0, 0);
	set_gate(6, (u32)stubs + 16 * 6, K_CODE32, 0x8e);
	set_segment(TSS_SEL, (u32)tss, 0x20ff, 0x89, 0);
	asm volatile("ltr %0" ::"r"((u16)TSS_SEL) : "memory");
}

static void task_errors(void)
{
	asm volatile("clts");
	set_segment(TSS2_SEL, (u32)tss2, 0x66, 0x89, 0);
	try("tss limit", k_lcall, TSS2_SEL, 0);
	set_segment(TSS2_SEL, (u32)tss2, 0x67, 0x09, 0);
	try("tss not present", k_lcall, TSS2_SEL, 0);
	set_segment(TSS2_SEL, (u32)tss2, 0x67, 0x8b, 0);
	try("tss busy", k_lcall, TSS2_SEL, 0);
	set_segment(TSS2_SEL, (u32)tss2, 0x67, 0x89, 0);
	try("iret to a free task", k_iret_nt, TSS2_SEL, 0);
	try("iret to data", k_iret_nt, K_DATA, 0);
	try("iret to null", k_iret_nt, 0, 0);
}

/* ---- virtual-8086 mode ---- */

extern void v86_int21(u32), v86_cli(u32), v86_sti(u32), v86_pushf(u32), v86_popf(u32),
	v86_iret(u32), v86_in(u32), v86_hlt(u32), v86_segs(u32), v86_lldt(u32);
extern u8 v86_handler[];

static void v86_row(const char *name, void (*fn)(u32))
{
	put("v86 ");
	enter(fn, 0, V86);
	put(name);
	show("vec", trapped.vector);
	if (trapped.vector != 0x80)
		show("err", trapped.error);
	show("eax", trapped.eax & 0xffff);
	show("flags", trapped.eflags);
	show("ip", trapped.eip - ((u32)fn & 15));
	put("\n");
}

static void v86_all(void)
{
	v86_row("int21", v86_int21);
	v86_row("cli", v86_cli);
	v86_row("sti", v86_sti);
	v86_row("pushf", v86_pushf);
	v86_row("popf", v86_popf);
	v86_row("iret", v86_iret);
	v86_row("in", v86_in);
	v86_row("hlt", v86_hlt);
	v86_row("segs", v86_segs);
	v86_row("lldt", v86_lldt);
}

static void v86(void)
{
	u32 cr4 = read_cr(4);

	/* INT 0x80 from virtual-8086 mode needs IOPL 3 or VME: without them it is #GP. */
	put("iopl 0\n");
	enter_flags = 2;
	v86_all();
	put("frame");
	show("ss", trapped.ss - ((u32)data_page >> 4));
	show("es", trapped.es - ((u32)data_page >> 4));
	show("ds", trapped.ds - ((u32)data_page >> 4));
	show("gs", trapped.gs - ((u32)data_page >> 4));
	show("esp", trapped.esp);
	put("\n");
	put("iopl 3\n");
	enter_flags = 2 | 3 << 12;
	v86_all();
	/* VME: INT 0x21 to the 8086 handler, INT 0x80 to the monitor. */
	write_cr4(cr4 | 1);
	T16(tss, 102) = 0x88;
	for (int i = 0x68; i < 0x88; i++)
		tss[i] = 0xff;
	tss[0x68 + 0x21 / 8] = (u8) ~(1 << (0x21 % 8));
	for (int i = 0x88; i < 0x2100; i++)
		tss[i] = 0;
	asm volatile("movw %0, 0x21 * 4; movw %1, 0x21 * 4 + 2" ::"r"((u16)((u32)v86_handler & 15)),
		     "r"((u16)((u32)v86_handler >> 4))
		     : "memory");
	put("vme iopl 3\n");
	v86_all();
	put("vme iopl 0\n");
	enter_flags = 2 | 1 << 19;
	v86_all();
	put("vme vip\n");
	enter_flags = 2 | 1 << 20;
	v86_all();
	enter_flags = 2;
	T16(tss, 102) = 0x68;
	write_cr4(cr4);
}

/* ---- paging ---- */

static void k_peek(u32 a)
{
	(void)*(volatile u32 *)a;
}

static void k_poke(u32 a)
{
	*(volatile u32 *)a = 1;
}

static void paging_rows(const char *name, u32 a)
{
	put(name);
	put("\n");
	try(" read", k_peek, a, 0);
	try(" write", k_poke, a, 0);
	try(" user read", u_arg_read, a, 3);
	try(" user write", u_arg_write, a, 3);
}

static void paging32(void)
{
	u32 cr0 = read_cr(0), cr4 = read_cr(4);

	page_dir[0] = 0x87; /* 4M, everything */
	page_dir[1] = (u32)page_table | 7;
	for (int i = 0; i < 1024; i++)
		page_table[i] = 0;
	write_cr4(cr4 | 0x10);
	write_cr3((u32)page_dir);
	write_cr0(cr0 | 0x80010000);
	put("paging 32\n");
	*(volatile u32 *)data_page = 0x1234;
	page_table[0] = (u32)data_page | 1;
	page_table[1] = (u32)data_page | 3;
	page_table[2] = (u32)data_page | 5;
	page_table[3] = (u32)data_page | 7;
	paging_rows("none", 0x400ffc + 0x4000);
	paging_rows("ro", 0x400000);
	paging_rows("rw", 0x401000);
	paging_rows("user ro", 0x402000);
	paging_rows("user rw", 0x403000);
	put("entries");
	for (int i = 0; i < 4; i++)
		show("", page_table[i] & 0xfff);
	show("dir", page_dir[1] & 0xfff);
	show("large", page_dir[0] & 0xfff);
	put("\n");
	page_dir[2] = 0x200087; /* bit 21 */
	paging_rows("4M reserved", 0x800000);
	write_cr0(cr0);
	write_cr4(cr4);
}

static void paging_pae(void)
{
	u32 cr0 = read_cr(0), cr4 = read_cr(4);

	pdpt[0] = (u32)pae_dir | 1;
	pdpt[1] = pdpt[2] = pdpt[3] = 0;
	for (int i = 0; i < 512; i++) {
		pae_low[i] = (u64)i << 12 | 7;
		pae_table[i] = 0;
	}
	pae_dir[0] = (u32)pae_low | 7;
	pae_dir[1] = (u32)pae_table | 7;
	pae_dir[2] = 0x400000 | 0x87;
	write_cr4(cr4 | 0x20);
	write_cr3((u32)pdpt);
	write_cr0(cr0 | 0x80010000);
	put("paging pae\n");
	pae_table[0] = (u32)data_page | 7;
	pae_table[1] = (u32)data_page | 5;
	pae_table[2] = (u32)data_page | 7 | BIT(55);
	paging_rows("rw", 0x200000);
	paging_rows("ro", 0x201000);
	paging_rows("reserved", 0x202000);
	paging_rows("large", 0x400000);
	paging_rows("no pdpte", 0x40000000);
	pdpt[1] = (u32)pae_dir | 1;
	paging_rows("pdpte not loaded", 0x40200000);
	write_cr3((u32)pdpt);
	paging_rows("pdpte loaded", 0x40200000);
	put("entries");
	show("pte", pae_table[0] & 0xfff);
	show("pde", pae_dir[1] & 0xfff);
	show("pdpte", pdpt[0] & 0xfff);
	put("\n");
	pdpt[2] = (u32)pae_dir | 3;
	try("bad pdpte", (void (*)(u32))write_cr3, (u32)pdpt, 0);
	pdpt[2] = 0;
	write_cr0(cr0);
	write_cr4(cr4);
}

/* ---- real mode ---- */

extern u8 saved_idt[];

static void real(void)
{
	asm volatile("sidt %0" : "=m"(saved_idt) : : "memory");
	real_mode();
	put("real mode");
	show("ax", real_saw[0]);
	show("inside", real_saw[1]);
	show("after", real_saw[2]);
	show("faults", real_saw[3]);
	show("sp", real_saw[4]);
	put("\n");
}

int main(void)
{
	init();
	put("protected mode\n");
	segments();
	gates();
	tasks();
	task_errors();
	v86();
	paging32();
	paging_pae();
	real();
	more32();
	put("end\n");
	triple_fault();
	return 0;
}
