/*
 * The system side of the CPU as 64-bit code sees it. Every line printed is a fact about the
 * processor; the same program runs on every engine and under QEMU, and must print the same.
 */
#include "sys64.h"

/* ---- infrastructure ---- */

volatile struct trap trapped;

volatile struct gate idt[256] __attribute__((aligned(16)));
volatile u8 tss[0x206c] __attribute__((aligned(16)));
u8 ist_stack[4096] __attribute__((aligned(16)));
u8 ring0_stack[4096] __attribute__((aligned(16)));

volatile u64 pages_low[512] __attribute__((aligned(4096)));
volatile u64 pages_test[512] __attribute__((aligned(4096)));
volatile u8 data_page[4096] __attribute__((aligned(4096)));
volatile u8 data_page2[4096] __attribute__((aligned(4096)));

void set_gate(int v, u64 handler, u16 cs, u8 type, u8 ist)
{
	idt[v].low = (handler & 0xffff) | (u64)cs << 16 | (u64)ist << 32 | (u64)type << 40 |
		     (handler & 0xffff0000) << 32;
	idt[v].high = handler >> 32;
}

u64 read_cr(int n)
{
	u64 v;

	switch (n) {
	case 0:
		asm volatile("movq %%cr0, %0" : "=r"(v));
		break;
	case 3:
		asm volatile("movq %%cr3, %0" : "=r"(v));
		break;
	case 4:
		asm volatile("movq %%cr4, %0" : "=r"(v));
		break;
	default:
		asm volatile("movq %%cr2, %0" : "=r"(v));
		break;
	}
	return v;
}

void write_cr0(u64 v)
{
	asm volatile("movq %0, %%cr0" ::"r"(v) : "memory");
}

void write_cr3(u64 v)
{
	asm volatile("movq %0, %%cr3" ::"r"(v) : "memory");
}

void write_cr4(u64 v)
{
	asm volatile("movq %0, %%cr4" ::"r"(v) : "memory");
}

void invlpg(u64 va)
{
	asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}

void wrmsr(u32 n, u64 v)
{
	asm volatile("wrmsr" ::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

u64 rdmsr(u32 n)
{
	u32 a, d;

	asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
	return a | (u64)d << 32;
}

extern u8 user_start[], user_end[];

static void init(void)
{
	u64 base = (u64)tss;
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (u64)idt};

	for (int v = 0; v < 256; v++) {
		u8 type = v == 3 || v == 0x80 ? 0xee : 0x8e;

		/* #DF and #SS find a bad stack. */
		set_gate(v, (u64)stubs + 16 * (u64)v, K_CODE64, type, v == 8 || v == 12);
	}
	asm volatile("lidt %0" ::"m"(idtr) : "memory");
	*(volatile u64 *)(tss + 4) = (u64)(ring0_stack + sizeof(ring0_stack));
	*(volatile u64 *)(tss + 36) = (u64)(ist_stack + sizeof(ist_stack));
	*(volatile u64 *)(tss + 44) = (u64)(ist_stack + sizeof(ist_stack));
	*(volatile u16 *)(tss + 102) = 0x68;
	tss[0x2068] = 0xff;
	gdt[FREE_SEL / 8] =
		0x2068 | (base & 0xffffff) << 16 | 0x89ULL << 40 | (base & 0xff000000) << 32;
	gdt[FREE_SEL / 8 + 1] = base >> 32;
	asm volatile("ltr %0" ::"r"((u16)FREE_SEL) : "memory");
	/* The first 2M by 4K pages: the kernel's own, but for .user. */
	for (u64 i = 0; i < 512; i++)
		pages_low[i] = i << 12 | P | W;
	for (u64 a = (u64)user_start; a < (u64)user_end; a += 4096)
		pages_low[a >> 12] |= U;
	PD[0] = (u64)pages_low | P | W | U;
	PDPT[1] = 0x203000 | P | W | U;
	for (int i = 0; i < 512; i++)
		TEST_PD[i] = 0;
	TEST_PD[0] = (u64)pages_test | P | W | U;
	write_cr3(read_cr(3));
}

void outcome(const char *name)
{
	put(name);
	if (trapped.vector == ~0ULL || trapped.vector == 0x80) {
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

void report_unexpected(void);
void report_unexpected(void)
{
	put("\nunexpected");
	show("rip", trapped.rip);
	outcome("");
}

void try(const char *name, void (*fn)(u64), u64 arg, int cpl)
{
	enter(fn, arg, cpl);
	outcome(name);
}

/* ---- page permissions ---- */

static void k_read(u64 a)
{
	(void)*(volatile u8 *)a;
}

static void k_write(u64 a)
{
	*(volatile u8 *)a = 0xc3;
}

static void k_exec(u64 a)
{
	((void (*)(void))a)();
}

USER static void u_read(u64 a)
{
	(void)*(volatile u8 *)a;
	asm volatile("int $0x80");
}

USER static void u_write(u64 a)
{
	*(volatile u8 *)a = 0xc3;
	asm volatile("int $0x80");
}

USER static void u_exec(u64 a)
{
	((void (*)(void))a)();
	asm volatile("int $0x80");
}

static void permission_row(u64 flags)
{
	static void (*const fn[6])(u64) = {k_read, k_write, k_exec, u_read, u_write, u_exec};

	for (int i = 0; i < 6; i++) {
		data_page[0] = 0xc3;
		pages_test[0] = (u64)data_page | flags;
		invlpg(TEST_VA);
		enter(fn[i], TEST_VA, i < 3 ? 0 : 3);
		if (trapped.vector == 14)
			put_hex(trapped.error);
		else
			put(trapped.vector == ~0ULL || trapped.vector == 0x80 ? "." : "?");
		/* accessed and dirty flags */
		put_hex((pages_test[0] >> 5) & 3);
		put(i == 5 ? "\n" : " ");
	}
}

static void permissions(void)
{
	u64 cr0 = read_cr(0), cr4 = read_cr(4);

	for (int c = 0; c < 16; c++) {
		write_cr0((cr0 & ~BIT(16)) | (c & 1 ? BIT(16) : 0));
		write_cr4(cr4 | (c & 2 ? BIT(20) : 0) | (c & 4 ? BIT(21) : 0));
		enter_flags = 2 | (c & 8 ? BIT(18) : 0);
		put("permissions");
		show("wp", c & 1);
		show("smep", c >> 1 & 1);
		show("smap", c >> 2 & 1);
		show("ac", c >> 3 & 1);
		put("\n");
		for (int f = 0; f < 16; f++)
			permission_row((f & 1 ? W : 0) | (f & 2 ? U : 0) | (f & 4 ? NX : 0) |
				       (f & 8 ? 0 : P));
	}
	enter_flags = 2;
	write_cr0(cr0);
	write_cr4(cr4);
	/* Reserved bits, at each level; NX when it is off. */
	put("reserved\n");
	permission_row(P | W | U | BIT(51));
	TEST_PD[0] |= BIT(51);
	permission_row(P | W | U);
	TEST_PD[0] = ((u64)data_page & ~0x1fffffULL) | BIT(14) | 0x87;
	permission_row(0);
	TEST_PD[0] = (u64)pages_test | P | W | U;
	PDPT[1] |= BIT(7);
	permission_row(P | W | U);
	PDPT[1] &= ~BIT(7);
	write_cr3(read_cr(3));
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~BIT(11));
	permission_row(P | W | U | NX);
	permission_row(P | W);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | BIT(11));
	/* Rights of the upper levels. */
	PDPT[1] &= ~W;
	write_cr3(read_cr(3));
	permission_row(P | W | U);
	PDPT[1] = (PDPT[1] | W) & ~U;
	write_cr3(read_cr(3));
	permission_row(P | W | U);
	PDPT[1] |= U | NX;
	write_cr3(read_cr(3));
	permission_row(P | W | U);
	PDPT[1] &= ~NX;
	write_cr3(read_cr(3));
}

/* ---- translations ---- */

static u64 at(u64 va)
{
	return *(volatile u64 *)va;
}

static void translations(void)
{
	u64 cr3 = read_cr(3), cr4 = read_cr(4);

	*(volatile u64 *)data_page = 1;
	*(volatile u64 *)data_page2 = 2;
	pages_test[0] = (u64)data_page | P | W;
	invlpg(TEST_VA);
	put("translations");
	show("first", at(TEST_VA));
	pages_test[0] = (u64)data_page2 | P | W;
	invlpg(TEST_VA);
	show("invlpg", at(TEST_VA));
	pages_test[0] = (u64)data_page | P | W;
	write_cr3(cr3);
	show("cr3", at(TEST_VA));
	write_cr4(cr4 | BIT(7));
	pages_test[0] = (u64)data_page2 | P | W | BIT(8);
	invlpg(TEST_VA);
	(void)at(TEST_VA);
	pages_test[0] = (u64)data_page | P | W | BIT(8);
	write_cr4(cr4);
	show("pge", at(TEST_VA));
	/* Large pages split and joined. */
	TEST_PD[1] = 0x400000 | P | W | BIT(7);
	*(volatile u64 *)0x412340 = 0x77;
	show("large", at(TEST_VA + 0x212340));
	TEST_PD[1] = 0;
	invlpg(TEST_VA + 0x2ff000);
	enter(k_read, TEST_VA + 0x212340, 0);
	show("gone", trapped.vector);
	put("\n");
}

/* PCIDs: each context is flushed by its own load. */
static void pcids(void)
{
	u64 cr3 = read_cr(3), cr4 = read_cr(4);
	u32 a = 1, b, c, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	put("pcid");
	if (!(c >> 17 & 1)) {
		put(" none\n");
		return;
	}
	pages_test[0] = (u64)data_page | P | W;
	write_cr4(cr4 | BIT(17));
	write_cr3(cr3 | 1);
	pages_test[0] = (u64)data_page2 | P | W;
	write_cr3(cr3 | 2);
	show("pcid2", at(TEST_VA));
	pages_test[0] = (u64)data_page | P | W;
	write_cr3(cr3 | 1);
	show("pcid1", at(TEST_VA));
	write_cr3(cr3 | 2);
	show("pcid2", at(TEST_VA));
	write_cr3(cr3);
	write_cr4(cr4);
	put("\n");
}

/* ---- control registers and MSRs ---- */

static u64 cr_base;

static void k_cr0(u64 v)
{
	write_cr0(v);
	write_cr0(cr_base);
}

static void k_cr3(u64 v)
{
	write_cr3(v);
	write_cr3(cr_base);
}

static void k_cr4(u64 v)
{
	write_cr4(v);
	write_cr4(cr_base);
}

static void k_cr8(u64 v)
{
	asm volatile("movq %0, %%cr8" ::"r"(v));
}

static void k_efer(u64 v)
{
	wrmsr(0xc0000080, v);
}

static void k_fsbase(u64 v)
{
	wrmsr(0xc0000100, v);
}

static void k_rdmsr(u64 v)
{
	rdmsr((u32)v);
}

static void k_lstar(u64 v)
{
	wrmsr(0xc0000082, v);
}

static void k_dr7(u64 v)
{
	asm volatile("movq %0, %%dr7" ::"r"(v));
}

static void k_dr4(u64 v)
{
	asm volatile("movq %0, %%dr4" ::"r"(0x400ULL));
}

static void control(void)
{
	u64 cr0 = cr_base = read_cr(0), cr4, v;

	try("cr0 pg without pe", k_cr0, cr0 & ~1ULL, 0);
	try("cr0 nw without cd", k_cr0, cr0 | BIT(29), 0);
	try("cr0 high", k_cr0, cr0 | BIT(40), 0);
	try("cr0 pg off in 64-bit code", k_cr0, cr0 & ~BIT(31), 0);
	try("cr0 reserved", k_cr0, cr0 | BIT(10), 0);
	cr4 = cr_base = read_cr(4);
	try("cr4 pae off", k_cr4, cr4 & ~BIT(5), 0);
	try("cr4 reserved", k_cr4, cr4 | BIT(31), 0);
	try("cr4 high", k_cr4, cr4 | BIT(40), 0);
	try("cr4 la57 in long mode", k_cr4, cr4 | BIT(12), 0);
	cr_base = read_cr(3);
	if (!skips(SKIP_UNFIT))
		try("cr3 reserved", k_cr3, cr_base | BIT(52), 0);
	write_cr3(cr_base | 8);
	cr_base = cr4;
	try("cr4 pcide with cr3 low bits", k_cr4, cr4 | BIT(17), 0);
	write_cr3(read_cr(3) & ~0xfffULL);
	try("cr8 reserved", k_cr8, 16, 0);
	v = rdmsr(0xc0000080);
	try("efer lme off", k_efer, v & ~BIT(8), 0);
	try("efer reserved", k_efer, v | BIT(5), 0);
	put("efer");
	show("is", rdmsr(0xc0000080));
	put("\n");
	try("fs base not canonical", k_fsbase, BIT(50), 0);
	try("lstar not canonical", k_lstar, BIT(50), 0);
	try("msr unknown", k_rdmsr, 0xdeadbeef, 0);
	try("dr7 high", k_dr7, BIT(33), 0);
	try("dr4 without de", k_dr4, 0, 0);
	write_cr4(cr4 | BIT(3));
	try("dr4 with de", k_dr4, 0, 0);
	write_cr4(cr4);
	asm volatile("movq %%dr7, %0" : "=r"(v));
	put("dr7");
	show("is", v);
	asm volatile("movq %%dr6, %0" : "=r"(v));
	show("dr6", v);
	put("\n");
}

/* ---- exceptions ---- */

static void k_ud2(u64 a)
{
	asm volatile("ud2");
}

static void k_div(u64 a)
{
	asm volatile("divl %0" ::"r"(0), "a"(1), "d"(0));
}

static void k_int3(u64 a)
{
	asm volatile("int3");
}

static void k_int(u64 a)
{
	asm volatile("int $0x55");
}

static void k_int1(u64 a)
{
	asm volatile(".byte 0xf1");
}

static void k_push_bad(u64 a)
{
	asm volatile("movq %%rsp, %%rcx; movq %0, %%rsp; pushq %%rax; movq %%rcx, %%rsp" ::"r"(a)
		     : "rcx");
}

static void k_read_rbp(u64 a)
{
	asm volatile(
		"movq %%rbp, %%rcx; movq %0, %%rbp; movq 8(%%rbp), %%rax; movq %%rcx, %%rbp" ::"r"(
			a)
		: "rcx", "rax");
}

static void k_lock(u64 a)
{
	asm volatile(".byte 0xf0, 0x89, 0xc0");
}

static void k_fpu(u64 a)
{
	asm volatile("fninit");
}

static void k_long(u64 a)
{
	/* 16 bytes of prefixes: too long */
	asm volatile(
		".byte "
		"0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
}

static void k_iret(u64 frame)
{
	asm volatile("movq %0, %%rsp; iretq" ::"r"(frame));
}

USER static void u_hlt(u64 a)
{
	asm volatile("hlt");
}

USER static void u_cli(u64 a)
{
	asm volatile("cli; int $0x80");
}

USER static void u_in(u64 port)
{
	asm volatile("inb %%dx, %%al; int $0x80" ::"d"(port));
}

USER static void u_in4(u64 port)
{
	asm volatile("inl %%dx, %%eax; int $0x80" ::"d"(port));
}

USER static void u_int55(u64 a)
{
	asm volatile("int $0x55");
}

USER static void u_int3(u64 a)
{
	asm volatile("int3");
}

USER static void u_sgdt(u64 a)
{
	u8 buf[16];

	asm volatile("sgdt %0; int $0x80" : "=m"(buf));
}

USER static void u_smsw(u64 a)
{
	asm volatile("smsw %%eax; int $0x80" ::: "rax");
}

USER static void u_str(u64 a)
{
	asm volatile("str %%eax; int $0x80" ::: "rax");
}

USER static void u_rdtsc(u64 a)
{
	asm volatile("rdtsc; int $0x80" ::: "rax", "rdx");
}

USER static void u_movcr(u64 a)
{
	asm volatile("movq %%cr0, %%rax" ::: "rax");
}

USER static void u_movdr(u64 a)
{
	asm volatile("movq %%dr0, %%rax" ::: "rax");
}

USER static void u_rdmsr(u64 a)
{
	asm volatile("rdmsr");
}

USER static void u_misaligned(u64 a)
{
	asm volatile("movl %0, %%eax; int $0x80" ::"m"(*(u32 *)a) : "rax");
}

USER static void u_misaligned_stack(u64 a)
{
	asm volatile("subq $3, %rsp; pushq %rax; int $0x80");
}

USER static void u_popf(u64 flags)
{
	asm volatile("pushq %0; popfq; int $0x80" ::"r"(flags));
}

USER static void u_wrfsbase(u64 v)
{
	asm volatile("wrfsbase %0; rdfsbase %%rax; int $0x80" ::"r"(v) : "rax");
}

USER static void u_far_ret(u64 cs)
{
	asm volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1: int $0x80" ::"r"(cs)
		     : "rax");
}

static void try_iret(const char *name, u64 rip, u64 cs, u64 rsp, u64 ss)
{
	static u64 stack[64] __attribute__((aligned(16)));
	volatile u64 *frame = stack + 56;

	frame[0] = rip;
	frame[1] = cs;
	frame[2] = 2;
	frame[3] = rsp;
	frame[4] = ss;
	enter(k_iret, (u64)frame, 0);
	outcome(name);
}

extern u8 user_stack_top[];

static void exceptions(void)
{
	u64 cr0 = read_cr(0), cr4 = read_cr(4);
	struct gate old = {idt[0x55].low, idt[0x55].high};
	u64 saved;

	try("ud2", k_ud2, 0, 0);
	try("div", k_div, 0, 0);
	try("int3", k_int3, 0, 0);
	try("int1", k_int1, 0, 0);
	try("lock mov reg", k_lock, 0, 0);
	try("too long", k_long, 0, 0);
	try("not canonical read", k_read, BIT(50), 0);
	try("not canonical push", k_push_bad, BIT(50), 0);
	try("not canonical read by rbp", k_read_rbp, BIT(50), 0);
	try("not canonical jump", k_exec, BIT(50), 0);
	write_cr0(cr0 | 8);
	try("fpu with ts", k_fpu, 0, 0);
	write_cr0(cr0);
	/* gates */
	idt[0x55].low &= ~BIT(47);
	try("gate not present", k_int, 0, 0);
	idt[0x55].low = old.low;
	idt[0x55].high = old.high;
	idt[0x55].low = (old.low & ~(0xffffULL << 16)) | K_DATA << 16;
	try("gate to data", k_int, 0, 0);
	idt[0x55].low = old.low & ~(0xffffULL << 16);
	try("gate to null", k_int, 0, 0);
	idt[0x55].low = (old.low & ~(0xffffULL << 16)) | K_CODE32 << 16;
	try("gate to 32-bit code", k_int, 0, 0);
	idt[0x55].low = (old.low & ~(0xfULL << 40)) | 5ULL << 40;
	try("task gate", k_int, 0, 0);
	idt[0x55].low = old.low;
	idt[0x55].high = old.high;
	idt[0x55].high = 0x1ffff;
	try("gate to not canonical", k_int, 0, 0);
	idt[0x55].low = old.low;
	idt[0x55].high = old.high;
	idt[0x55].low |= 2ULL << 32;
	try("int through ist", k_int, 0, 0);
	put("ist");
	show("frame", (u64)(ist_stack + sizeof(ist_stack)) - trapped.frame);
	put("\n");
	saved = *(volatile u64 *)(tss + 44);
	*(volatile u64 *)(tss + 44) = BIT(50);
	try("ist not canonical", k_int, 0, 0);
	*(volatile u64 *)(tss + 44) = saved;
	idt[0x55].low = old.low;
	idt[0x55].high = old.high;
	/* #GP's own gate gone: double fault */
	idt[13].low &= ~BIT(47);
	try("double fault", k_read, BIT(50), 0);
	idt[13].low |= BIT(47);
	/* user */
	try("user hlt", u_hlt, 0, 3);
	try("user cli", u_cli, 0, 3);
	try("user int 0x55", u_int55, 0, 3);
	try("user int3", u_int3, 0, 3);
	try("user mov cr", u_movcr, 0, 3);
	try("user mov dr", u_movdr, 0, 3);
	try("user rdmsr", u_rdmsr, 0, 3);
	try("user in", u_in, 0x61, 3);
	tss[0x68 + 0x61 / 8] = 0xff & ~(1 << (0x61 % 8));
	for (int i = 0; i < 0x2000; i++)
		tss[0x68 + i] = 0xff;
	tss[0x68 + 0x60 / 8] = 0xe0;
	try("user in denied", u_in, 0x65, 3);
	try("user in allowed", u_in, 0x61, 3);
	try("user in 4 half allowed", u_in4, 0x62, 3);
	try("user in last port", u_in, 0xffff, 3);
	for (int i = 0; i < 0x2000; i++)
		tss[0x68 + i] = 0;
	try("user sgdt", u_sgdt, 0, 3);
	write_cr4(cr4 | BIT(11));
	try("umip sgdt", u_sgdt, 0, 3);
	try("umip smsw", u_smsw, 0, 3);
	try("umip str", u_str, 0, 3);
	write_cr4(cr4 | BIT(2));
	try("user rdtsc with tsd", u_rdtsc, 0, 3);
	write_cr4(cr4);
	try("user wrfsbase without fsgsbase", u_wrfsbase, 0x1234, 3);
	write_cr4(cr4 | BIT(16));
	try("user wrfsbase", u_wrfsbase, 0x1234, 3);
	show("fs", trapped.rax);
	put("\n");
	try("user wrfsbase not canonical", u_wrfsbase, BIT(50), 3);
	write_cr4(cr4);
	write_cr0(cr0 | BIT(18));
	enter_flags = 2 | BIT(18);
	try("alignment", u_misaligned, (u64)user_stack_top - 63, 3);
	try("alignment ok", u_misaligned, (u64)user_stack_top - 64, 3);
	try("alignment of the stack", u_misaligned_stack, 0, 3);
	enter_flags = 2;
	write_cr0(cr0);
	try("user popf", u_popf, 0x3ffed7, 3);
	put("flags");
	show("are", trapped.rflags & ~0x100ULL);
	put("\n");
	try("user far ret to kernel", u_far_ret, K_CODE64, 3);
	try("user far ret to data", u_far_ret, U_DATA, 3);
	try("user far ret", u_far_ret, U_CODE64, 3);
	/* IRET */
	try_iret("iret not canonical", BIT(50), U_CODE64, (u64)user_stack_top, U_DATA);
	try_iret("iret null cs", 0, 0, (u64)user_stack_top, U_DATA);
	try_iret("iret cs rpl", 0, K_CODE64 | 3, (u64)user_stack_top, U_DATA);
	try_iret("iret cs beyond the table", 0, 0xfff8, (u64)user_stack_top, U_DATA);
	try_iret("iret null ss to user", (u64)u_hlt, U_CODE64, (u64)user_stack_top, 3);
	try_iret("iret ss rpl", (u64)u_hlt, U_CODE64, (u64)user_stack_top, K_DATA);
	try_iret("iret null ss to kernel", (u64)k_ud2, K_CODE64, (u64)(ist_stack + 4096), 0);
	try_iret("iret data ss to kernel", (u64)k_ud2, K_CODE64, (u64)(ist_stack + 4096), K_DATA);
	show("ss", trapped.ss);
	show("rsp", (u64)(ist_stack + 4096) - trapped.rsp);
	put("\n");
}

/* ---- debug ---- */

USER static void u_steps(u64 a)
{
	asm volatile("nop; nop; movl $1, %eax; int $0x80");
}

static void debug(void)
{
	u64 v;

	/* Count single steps: each trap is resumed. */
	enter_flags = 2 | 0x100;
	resume_trap = 3;
	trap_count = 0;
	try("steps", u_steps, 0, 3);
	put("steps");
	show("count", trap_count);
	show("off", trapped.rip - (u64)u_steps);
	asm volatile("movq %%dr6, %0" : "=r"(v));
	show("dr6", v);
	put("\n");
	resume_trap = 0;
	enter_flags = 2;
	asm volatile("movq %0, %%dr6" ::"r"(0xffff0ff0ULL));
	/* Watch a data address, then an instruction. */
	pages_test[0] = (u64)data_page | P | W | U;
	invlpg(TEST_VA);
	asm volatile("movq %0, %%dr0" ::"r"(TEST_VA + 8));
	asm volatile("movq %0, %%dr7" ::"r"(0x400ULL | 2 | 1ULL << 16 | 3ULL << 18));
	try("watch miss", k_write, TEST_VA + 4, 0);
	try("watch read", k_read, TEST_VA + 8, 0);
	try("watch write", k_write, TEST_VA + 11, 0);
	asm volatile("movq %%dr6, %0" : "=r"(v));
	show("dr6", v);
	put("\n");
	asm volatile("movq %0, %%dr6" ::"r"(0xffff0ff0ULL));
	asm volatile("movq %0, %%dr0" ::"r"((u64)u_int3));
	asm volatile("movq %0, %%dr7" ::"r"(0x400ULL | 2));
	try("break", u_int3, 0, 3);
	show("rip", trapped.rip - (u64)u_int3);
	show("rf", trapped.rflags >> 16 & 1);
	put("\n");
	enter_flags = 2 | BIT(16);
	try("break with rf", u_int3, 0, 3);
	enter_flags = 2;
	asm volatile("movq %0, %%dr7" ::"r"(0x400ULL | BIT(13)));
	try("general detect", k_dr7, 0x400, 0);
	asm volatile("movq %%dr7, %0" : "=r"(v));
	show("dr7", v);
	asm volatile("movq %%dr6, %0" : "=r"(v));
	show("dr6", v);
	put("\n");
	asm volatile("movq %0, %%dr6" ::"r"(0xffff0ff0ULL));
}

/* ---- segments ---- */

static void k_load_ds(u64 sel)
{
	asm volatile("movw %w0, %%ds" ::"r"(sel));
}

static void k_load_ss(u64 sel)
{
	asm volatile("movw %w0, %%ss" ::"r"(sel));
}

static void k_load_fs(u64 sel)
{
	asm volatile("movw %w0, %%fs" ::"r"(sel));
}

static void k_lldt(u64 sel)
{
	asm volatile("lldt %w0" ::"r"(sel));
}

static void k_ltr(u64 sel)
{
	asm volatile("ltr %w0" ::"r"(sel));
}

static void k_lcall(u64 sel)
{
	struct {
		u64 offset;
		u16 sel;
	} __attribute__((packed)) far = {(u64)k_ud2, (u16)sel};

	asm volatile("rex.w lcall *%0" ::"m"(far));
}

USER static void u_load_ds(u64 sel)
{
	asm volatile("movw %w0, %%ds; int $0x80" ::"r"(sel));
}

static void inspect(u16 sel)
{
	u32 rights = 0, limit = 0;
	u8 lar, lsl, r, w;

	asm volatile("lar %3, %0; setz %1" : "+r"(rights), "=r"(lar), "+r"(limit) : "r"((u32)sel));
	asm volatile("lsl %2, %0; setz %1" : "+r"(limit), "=r"(lsl) : "r"((u32)sel));
	asm volatile("verr %1; setz %0" : "=r"(r) : "r"(sel));
	asm volatile("verw %1; setz %0" : "=r"(w) : "r"(sel));
	put("inspect");
	show("sel", sel);
	show("lar", lar ? rights & 0xf0ff00 : 0);
	show("lsl", lsl ? limit : 0);
	show("verr", r);
	show("verw", w);
	put("\n");
}

static void segments(void)
{
	volatile u64 *free = &gdt[FREE_SEL / 8 + 2];
	u16 sel = FREE_SEL + 16;

	free[0] = 0x00cf13000000ffff;	      /* 50: not present data */
	free[1] = 0x00cf99000000ffff;	      /* 58: execute only */
	free[2] = 0x00cf91000000ffff;	      /* 60: read only */
	free[3] = 0x00cf9f000000ffff;	      /* 68: conforming */
	free[4] = 0x0000820000000000 | 0xfff; /* 70: LDT */
	free[5] = 0;
	free[6] = ((u64)k_ud2 & 0xffff) | K_CODE64 << 16 | 0xecULL << 40 |
		  ((u64)k_ud2 & 0xffff0000) << 32; /* 80: call gate */
	free[7] = 0;
	free[8] = 0x00ef9b000000ffff; /* 90: L and D */
	free[9] = 0x0000ff00ffffffff; /* 98 */
	for (u16 s = 0; s <= 0xa0; s += 8)
		inspect(s);
	try("ds null", k_load_ds, 0, 0);
	try("ds not present", k_load_ds, sel, 0);
	try("ds execute only", k_load_ds, sel + 8, 0);
	try("ds system", k_load_ds, FREE_SEL, 0);
	try("ds beyond", k_load_ds, 0xfff8, 0);
	try("ds ldt", k_load_ds, 4, 0);
	try("ss null", k_load_ss, 0, 0);
	try("ss null rpl 3", k_load_ss, 3, 0);
	try("ss not present", k_load_ss, sel, 0);
	try("ss read only", k_load_ss, sel + 16, 0);
	try("ss user", k_load_ss, U_DATA, 0);
	try("user ds kernel", u_load_ds, K_DATA, 3);
	try("user ds conforming", u_load_ds, (u64)sel + 24 + 3, 3);
	try("user ds null", u_load_ds, 0, 3);
	try("lldt", k_lldt, (u64)sel + 32, 0);
	try("lldt tss", k_lldt, FREE_SEL, 0);
	try("lldt null", k_lldt, 0, 0);
	try("ltr busy", k_ltr, FREE_SEL, 0);
	if (!skips(SKIP_UNFIT))
		try("ltr null", k_ltr, 0, 0);
	try("call gate", k_lcall, (u64)sel + 48, 0);
	try("far call data", k_lcall, K_DATA, 0);
	try("far call null", k_lcall, 0, 0);
	if (!skips(SKIP_UNFIT))
		try("far call L and D", k_lcall, (u64)sel + 64, 0);
	try("far call user", k_lcall, U_CODE64, 0);
	try("far call tss", k_lcall, FREE_SEL, 0);
	wrmsr(0xc0000100, 0x123456789a);
	try("fs data", k_load_fs, U_DATA, 0);
	put("fs");
	show("base", rdmsr(0xc0000100));
	put("\n");
	asm volatile("movw %w0, %%ds; movw %w0, %%es; movw %w0, %%fs" ::"r"(0));
}

/* ---- system calls and compatibility mode ---- */

extern u8 syscall_entry[], sysenter_entry[], compat_code[], compat_gp[], compat_limit[];
extern volatile u64 syscall_saw[8];

USER static void u_syscall(u64 a)
{
	asm volatile("stc; std; movl $0x1234, %%eax; syscall; 1: cld; int $0x80" ::
			     : "rax", "rcx", "r11");
}

void show_saw(const char *name)
{
	put(name);
	for (int i = 0; i < 6; i++)
		show("", syscall_saw[i]);
	put("\n");
}

static void calls(void)
{
	u64 efer = rdmsr(0xc0000080);

	wrmsr(0xc0000081, (u64)K_CODE64 << 32 | (u64)(U_CODE64 - 16) << 48);
	wrmsr(0xc0000082, (u64)syscall_entry);
	wrmsr(0xc0000084, 0x700);
	/* SYSRET's SS is the table's U_DATA: STAR + 8 */
	try("syscall", u_syscall, 0, 3);
	show("cs", trapped.cs);
	show("ss", trapped.ss);
	show("flags", trapped.rflags & 0x7d5);
	put("\n");
	syscall_saw[1] -= (u64)u_syscall;
	show_saw("syscall saw");
	wrmsr(0xc0000080, efer & ~1ULL);
	try("syscall without sce", u_syscall, 0, 3);
	wrmsr(0xc0000080, efer);
	/* compatibility mode at CPL 3, faults and INT from it */
	user_cs = U_CODE32;
	try("compat", (void (*)(u64))compat_code, 0, 3);
	show("eax", trapped.rax);
	show("cs", trapped.cs);
	put("\n");
	try("compat gp", (void (*)(u64))compat_gp, 0, 3);
	user_cs = U_CODE64;
}

int main(void)
{
	init();
	put("long mode\n");
	permissions();
	translations();
	pcids();
	control();
	exceptions();
	debug();
	segments();
	calls();
	more64();
	put("end\n");
	return 0;
}
