/* More of the system side in long mode: single steps, RF, stacks that fault, 1 GiB pages,
 * alignment. */
#include "sys64.h"

static void clear_dr6(void)
{
	asm volatile("movq %0, %%dr6" ::"r"(0xffff0ff0ULL));
}

/* ---- single steps ---- */

USER static void u_step_rep(u64 a)
{
	asm volatile("movl $3, %%ecx; movq %%rsp, %%rsi; movq %%rsp, %%rdi; cld; rep movsb; nop; "
		     "int $0x80" ::
			     : "rcx", "rsi", "rdi", "memory");
}

USER static void u_step_ss(u64 a)
{
	asm volatile("movl %%ss, %%eax; movl %%eax, %%ss; nop; nop; int $0x80" ::: "rax");
}

USER static void u_step_flags(u64 a)
{
	asm volatile("pushfq; popq %%rax; andq $~0x100, %%rax; pushq %%rax; popfq; nop; nop; int "
		     "$0x80" ::
			     : "rax");
}

USER static void u_step_branch(u64 a)
{
	asm volatile(
		"jmp 1f; nop; 1: call 2f; 2: popq %%rax; testl %%eax, %%eax; jz 2b; int $0x80" ::
			: "rax");
}

USER static void u_step_syscall(u64 a)
{
	asm volatile("syscall; nop; int $0x80" ::: "rax", "rcx", "r11");
}

static void count_steps(const char *name, void (*fn)(u64))
{
	u64 dr6;

	enter_flags = 2 | 0x100;
	resume_trap = 40;
	trap_count = 0;
	clear_dr6();
	enter(fn, 0, 3);
	/* resume_trap runs out at INT 0x80 only where it is resumed like the others */
	asm volatile("movq %%dr6, %0" : "=r"(dr6));
	put(name);
	show("traps", trap_count);
	show("dr6", dr6);
	put("\n");
	resume_trap = 0;
	enter_flags = 2;
	clear_dr6();
}

extern volatile u8 resume_only_db;

static void steps(void)
{
	resume_only_db = 1;
	count_steps("step rep", u_step_rep);
	count_steps("step mov ss", u_step_ss);
	count_steps("step popf", u_step_flags);
	count_steps("step branches", u_step_branch);
	count_steps("step syscall", u_step_syscall);
	resume_only_db = 0;
}

/* ---- the resume flag in what exceptions push ---- */

static void m_ud2(u64 a)
{
	asm volatile("ud2");
}

static void m_read(u64 a)
{
	(void)*(volatile u8 *)a;
}

static void m_int3(u64 a)
{
	asm volatile("int3");
}

static void m_int(u64 a)
{
	asm volatile("int $0x55");
}

/* Stores that run into a page that is not there. */
static void m_rep(u64 a)
{
	asm volatile("movl $16, %%ecx; cld; rep stosb" ::"D"(a) : "rcx", "memory");
}

static void show_rf(const char *name, void (*fn)(u64), u64 arg)
{
	enter(fn, arg, 0);
	put(name);
	show("vec", trapped.vector);
	show("rf", trapped.rflags >> 16 & 1);
	put("\n");
}

static void resume_flag(void)
{
	show_rf("rf ud2", m_ud2, 0);
	show_rf("rf page fault", m_read, TEST_VA + 0x5000);
	show_rf("rf not canonical", m_read, BIT(50));
	show_rf("rf int3", m_int3, 0);
	show_rf("rf int", m_int, 0);
	pages_test[0] = (u64)data_page | P | W;
	invlpg(TEST_VA);
	show_rf("rf rep", m_rep, TEST_VA + 0x1000 - 10);
	show("left", trapped.rcx);
	show("cr2", trapped.cr2);
	put("\n");
}

/* ---- stacks that fault while an exception is delivered ---- */

USER static void u_int55m(u64 a)
{
	asm volatile("int $0x55");
}

USER static void u_ud2(u64 a)
{
	asm volatile("ud2");
}

static void bad_stacks(void)
{
	volatile u64 *rsp0 = (volatile u64 *)(tss + 4);
	u64 good = *rsp0;

	/* #PF at the push, whose own delivery takes the same stack: #DF, on its IST */
	*rsp0 = TEST_VA + 0x5000;
	try("stack not present", u_ud2, 0, 3);
	try("stack not present, int", u_int55m, 0, 3);
	/* #SS at the push, on its IST */
	*rsp0 = BIT(50);
	try("stack not canonical", u_ud2, 0, 3);
	*rsp0 = good;
	/* one page of it is there, the other not */
	pages_test[4] = (u64)data_page | P | W;
	pages_test[5] = 0;
	invlpg(TEST_VA + 0x4000);
	*rsp0 = TEST_VA + 0x5000 + 16;
	try("stack half there", u_ud2, 0, 3);
	*rsp0 = TEST_VA + 0x5000;
	try("stack to the edge", u_ud2, 0, 3);
	*rsp0 = good;
	pages_test[4] = 0;
	invlpg(TEST_VA + 0x4000);
}

/* ---- pages ---- */

static void large_pages(void)
{
	PDPT[2] = P | W | BIT(7);
	*(volatile u64 *)data_page = 0x4711;
	put("1G page");
	show("reads", *(volatile u64 *)(0x80000000ULL + (u64)data_page));
	show("entry", PDPT[2]);
	*(volatile u64 *)(0x80000000ULL + (u64)data_page) = 0x4712;
	show("wrote", *(volatile u64 *)data_page);
	show("entry", PDPT[2]);
	put("\n");
	PDPT[2] |= BIT(20);
	write_cr3(read_cr(3));
	try("1G page reserved", m_read, 0x80000000ULL, 0);
	PDPT[2] = 0;
	write_cr3(read_cr(3));
	try("1G page gone", m_read, 0x80000000ULL, 0);
	/* Accessed flags on the way down */
	pages_test[1] = (u64)data_page | P;
	TEST_PD[0] &= ~0x20ULL;
	PDPT[1] &= ~0x20ULL;
	write_cr3(read_cr(3));
	m_read(TEST_VA + 0x1000);
	put("accessed");
	show("pdpte", PDPT[1] >> 5 & 1);
	show("pde", TEST_PD[0] >> 5 & 3);
	show("pte", pages_test[1] >> 5 & 3);
	put("\n");
	pages_test[1] = 0;
	invlpg(TEST_VA + 0x1000);
}

/* ---- alignment of wide operands, flags of IRET ---- */

static void m_movaps(u64 a)
{
	asm volatile("movaps (%0), %%xmm0" ::"r"(a));
}

static void m_movups(u64 a)
{
	asm volatile("movups (%0), %%xmm0" ::"r"(a));
}

static void m_cmpxchg16b(u64 a)
{
	asm volatile("lock cmpxchg16b (%0)" ::"r"(a) : "rax", "rdx", "memory");
}

static void m_fxsave(u64 a)
{
	asm volatile("fxsave (%0)" ::"r"(a) : "memory");
}

static void m_iret_nt(u64 a)
{
	asm volatile("pushfq; orq $0x4000, (%rsp); popfq; iretq");
}

USER static void u_sysenter(u64 a)
{
	asm volatile("sysenter");
}

USER static void u_sysexit(u64 a)
{
	asm volatile("sysexitl");
}

static void wide_operands(void)
{
	u64 at = (u64)data_page;

	try("movaps", m_movaps, at + 16, 0);
	try("movaps misaligned", m_movaps, at + 8, 0);
	try("movups misaligned", m_movups, at + 8, 0);
	try("movaps not canonical", m_movaps, BIT(50), 0);
	try("cmpxchg16b", m_cmpxchg16b, at + 16, 0);
	try("cmpxchg16b misaligned", m_cmpxchg16b, at + 8, 0);
	try("fxsave", m_fxsave, at + 16, 0);
	try("fxsave misaligned", m_fxsave, at + 8, 0);
	try("iret with nt", m_iret_nt, 0, 0);
	wrmsr(0x174, K_CODE64);
	try("sysenter in long mode", u_sysenter, 0, 3);
	try("sysexit in long mode", u_sysexit, 0, 3);
}

void more64(void)
{
	put("more\n");
	steps();
	resume_flag();
	bad_stacks();
	large_pages();
	wide_operands();
}
