/* What the files of the 64-bit guest share. */
#ifndef SYS64_H
#define SYS64_H

#include "guest.h"

/* The last trap (trap64.S); vector ~0: the function returned. */
struct trap {
	u64 vector, error, rip, cs, rflags, rsp, ss, cr2, rcx, rax, frame;
};
extern volatile struct trap trapped;

extern u8 stubs[];
extern volatile u8 resume_trap;
extern volatile u32 trap_count;
extern volatile u64 user_cs, enter_flags;
void enter(void (*fn)(u64 arg), u64 arg, int cpl);

#define USER __attribute__((section(".user"), noinline, used))

struct gate {
	u64 low, high;
};

extern volatile struct gate idt[256];
extern volatile u8 tss[0x206c];
extern u8 ist_stack[4096], ring0_stack[4096], user_stack_top[];
extern volatile u64 pages_low[512], pages_test[512], syscall_saw[8];
extern volatile u8 data_page[4096], data_page2[4096];

#define PD	((volatile u64 *)0x202000)
#define TEST_VA 0x40000000ULL
#define PDPT	((volatile u64 *)0x201000)
#define TEST_PD ((volatile u64 *)0x203000)

#define P  1ULL
#define W  2ULL
#define U  4ULL
#define NX BIT(63)

void set_gate(int v, u64 handler, u16 cs, u8 type, u8 ist);
u64 read_cr(int n);
void write_cr0(u64 v);
void write_cr3(u64 v);
void write_cr4(u64 v);
void invlpg(u64 va);
void wrmsr(u32 n, u64 v);
u64 rdmsr(u32 n);

/* Run fn(arg) at a CPL, and say how it ended. */
void try(const char *name, void (*fn)(u64), u64 arg, int cpl);
void outcome(const char *name);

void more64(void);

#endif
