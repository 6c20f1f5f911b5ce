/* More of the system side of 32-bit code: inner rings, 16-bit tasks and gates, tasks that fault,
 * the fast system call, real mode beyond its limits, and the end by a triple fault. */
#include "sys32.h"

extern void u_call_gate(u32), u_gate16(u32), u_sysenter(u32), u_sysexit(u32), u_int80(u32);
extern u8 gate_entry[], gate16_entry[], task_entry[], task16_entry[], sysenter_entry32[];
extern u8 task_faults[];
extern volatile u32 enter_saw[4];
extern volatile u16 unreal_saw[8];
extern u8 saved_idt[];
void unreal_mode(void);

#define FAULT_SEL 0xb0 /* to c8: tasks of #TS, #NP, #SS, #GP */

static volatile u8 fault_tss[4][0x68] __attribute__((aligned(16)));
static u8 inner_stack[2][512] __attribute__((aligned(16)));

static u32 m_rdmsr(u32 n)
{
	u32 a, d;

	asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
	return a;
}

static void m_wrmsr(u32 n, u32 v)
{
	asm volatile("wrmsr" ::"c"(n), "a"(v), "d"(0) : "memory");
}

/* ---- call gates to inner rings, with two parameters ---- */

static void set_call_gate(u32 entry, u16 cs, u8 type, u8 params)
{
	gdt[GATE_SEL / 8] = (entry & 0xffff) | (u64)cs << 16 | (u64)params << 32 | (u64)type << 40 |
			    (u64)(entry & 0xffff0000) << 32;
}

static void inner_rings(void)
{
	set_segment(CODE1_SEL, 0, 0xfffff, 0xbb, 12);
	set_segment(DATA1_SEL, 0, 0xfffff, 0xb3, 12);
	set_segment(CODE2_SEL, 0, 0xfffff, 0xdb, 12);
	set_segment(DATA2_SEL, 0, 0xfffff, 0xd3, 12);
	T32(tss, 12) = (u32)(inner_stack[0] + 512);
	T16(tss, 16) = DATA1_SEL | 1;
	T32(tss, 20) = (u32)(inner_stack[1] + 512);
	T16(tss, 24) = DATA2_SEL | 2;
	for (u32 ring = 1; ring <= 2; ring++) {
		set_call_gate((u32)gate_entry, ring == 1 ? CODE1_SEL : CODE2_SEL, 0xec, 2);
		try("call gate to an inner ring", u_call_gate, 0, 3);
		show("a", task_saw[0]);
		show("b", task_saw[1]);
		show("cs", task_saw[2] & 0xffff);
		show("ss", task_saw[3] & 0xffff);
		show("used", (u32)(inner_stack[ring - 1] + 512) - task_saw[4]);
		put("\n");
	}
	/* more parameters than the stack has room for: the limit of ring 1's ends in its middle */
	set_segment(DATA1_SEL, 0, (u32)(inner_stack[0] + 500), 0xb3, 4);
	set_call_gate((u32)gate_entry, CODE1_SEL, 0xec, 2);
	try("call gate past the stack", u_call_gate, 0, 3);
	set_segment(DATA1_SEL, 0, 0xfffff, 0xb3, 12);
	/* 16-bit gate: words */
	set_call_gate((u32)gate16_entry, CODE1_SEL, 0xe4, 2);
	try("16-bit call gate", u_gate16, 0, 3);
	show("a", task_saw[0] & 0xffff);
	show("b", task_saw[1] & 0xffff);
	show("used", (u32)(inner_stack[0] + 512) - task_saw[4]);
	put("\n");
	set_call_gate((u32)gate_entry, K_CODE32, 0xec, 2);
}

/* ---- tasks ---- */

static void free_tasks(void)
{
	asm volatile("clts");
	set_segment(TSS_SEL, (u32)tss, 0x20ff, 0x89, 0);
	set_segment(TSS2_SEL, (u32)tss2, 0x67, 0x89, 0);
	asm volatile("ltr %0" ::"r"((u16)TSS_SEL) : "memory");
}

static void task16(void)
{
	for (int i = 0; i < 0x40; i++)
		tss16[i] = 0;
	T16(tss16, 14) = (u16)(u32)task16_entry;
	T16(tss16, 16) = 2;
	T16(tss16, 18) = 0x99;
	T16(tss16, 26) = (u16)(u32)0x6f00; /* SP */
	T16(tss16, 34) = T16(tss16, 38) = T16(tss16, 40) = K_DATA;
	T16(tss16, 36) = K_CODE32;
	set_segment(TSS16_SEL, (u32)tss16, 0x2b, 0x81, 0);
	try("16-bit task", k_lcall, TSS16_SEL, 0);
	show("ax", task_saw[0] & 0xffff);
	show("sp", task_saw[2] & 0xffff);
	show("tr", task_saw[3] & 0xffff);
	show("link", T16(tss16, 0));
	show("saved", T16(tss16, 18));
	show("type", gdt[TSS16_SEL / 8] >> 40 & 15);
	put("\n");
	free_tasks();
	set_segment(TSS16_SEL, (u32)tss16, 0x2a, 0x81, 0);
	try("16-bit task limit", k_lcall, TSS16_SEL, 0);
}

/* The new task's state is bad: the fault is the new task's, and has a task of its own to be told
 * in, since the new one's stack may not be there. */
static void bad_task(const char *name, u32 at, u16 selector)
{
	make_tss(tss2, (u32)task_entry, 0);
	T16(tss2, at) = selector;
	for (u32 v = 10; v <= 13; v++) {
		volatile u8 *t = fault_tss[v - 10];

		make_tss(t, (u32)task_faults + 32 * (v - 10), 1);
		set_segment((u16)(FAULT_SEL + 8 * (v - 10)), (u32)t, 0x67, 0x89, 0);
		idt[v] = (u64)(FAULT_SEL + 8 * (v - 10)) << 16 | 0x85ULL << 40;
	}
	enter(k_lcall, TSS2_SEL, 0);
	put(name);
	if (trapped.vector >= 10 && trapped.vector <= 13) {
		show("vec", trapped.vector);
		show("err", trapped.error);
		show("link", T16(fault_tss[trapped.vector - 10], 0));
	}
	put("\n");
	for (int v = 10; v <= 13; v++)
		set_gate(v, (u32)stubs + 16 * (u32)v, K_CODE32, 0x8e);
	free_tasks();
}

static void bad_tasks(void)
{
	set_segment(TEST_SEL, 0, 0xfffff, 0x13, 12);
	bad_task("task ldt", 96, K_DATA);
	bad_task("task cs null", 76, 0);
	bad_task("task cs data", 76, K_DATA);
	bad_task("task cs rpl", 76, K_CODE32 | 3);
	bad_task("task ss code", 80, K_CODE32);
	bad_task("task ss not present", 80, TEST_SEL);
	bad_task("task ds system", 84, TSS_SEL);
	bad_task("task ds not present", 84, TEST_SEL);
	bad_task("task fs beyond", 88, 0xfff8);
	bad_task("task fs null", 88, 0);
}

/* ---- SYSENTER and SYSEXIT ---- */

static void m_sysexit(u32 a)
{
	asm volatile("sysexit" ::"c"(0), "d"(0));
}

static void fast_calls(void)
{
	m_wrmsr(0x174, 0);
	try("sysenter without cs", u_sysenter, 0, 3);
	try("sysexit without cs", m_sysexit, 0, 0);
	m_wrmsr(0x174, K_CODE32);
	m_wrmsr(0x175, (u32)(ring0_stack + sizeof(ring0_stack)));
	m_wrmsr(0x176, (u32)sysenter_entry32);
	put("sysenter msr");
	show("cs", m_rdmsr(0x174));
	put("\n");
	try("sysexit at cpl 3", u_sysexit, 0, 3);
	enter_flags = 2 | 0x200;
	try("sysenter", u_sysenter, 0, 3);
	enter_flags = 2;
	show("cs", trapped.cs);
	show("ss", trapped.ss);
	put("\n");
	put("sysenter saw");
	show("cs", enter_saw[0] & 0xffff);
	show("ss", enter_saw[1] & 0xffff);
	show("flags", enter_saw[2]);
	show("esp", (u32)(ring0_stack + sizeof(ring0_stack)) - enter_saw[3]);
	put("\n");
}

/* ---- real mode beyond its limits ---- */

static void unreal(void)
{
	*(volatile u32 *)0x123456 = 0x5a5a;
	*(volatile u32 *)0x100010 = 0x6b6b;
	asm volatile("sidt %0" : "=m"(saved_idt) : : "memory");
	unreal_mode();
	put("unreal mode");
	show("beyond", unreal_saw[0]);
	show("high", unreal_saw[1]);
	show("limit", unreal_saw[2]);
	show("sp", unreal_saw[3]);
	show("pushed", unreal_saw[4]);
	show("ip", unreal_saw[5]);
	put("\n");
}

void more32(void)
{
	put("more\n");
	inner_rings();
	task16();
	bad_tasks();
	fast_calls();
	unreal();
}

/* No IDT: #UD, #GP, #DF, and the processor gives up. */
void triple_fault(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) none = {0, 0};

	asm volatile("lidt %0; ud2" ::"m"(none) : "memory");
}
