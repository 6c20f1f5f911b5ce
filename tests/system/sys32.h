/* What the files of the 32-bit guest share. */
#ifndef SYS32_H
#define SYS32_H

#include "guest.h"

/* The last trap (trap32.S); vector ~0: the function returned. */
struct trap {
	u32 vector, pad0, error, pad1, eip, pad2, cs, pad3, eflags, pad4, esp, pad5, ss, pad6, cr2,
		pad7, ecx, pad8, eax, pad9, frame, pad10, es, pad11, ds, pad12, fs, pad13, gs,
		pad14;
};
extern volatile struct trap trapped;

extern u8 stubs[];
extern volatile u32 enter_flags, v86_frame[6], task_saw[8], task_runs, user_arg;
extern volatile u16 real_saw[8];
extern u8 user_start[], user_end[], user_stack_top[];
void enter(void (*fn)(u32 arg), u32 arg, int cpl);
void real_mode(void);
void report_unexpected(void);

extern volatile u64 idt[256];
extern volatile u8 tss[0x2100], tss2[0x80], tss16[0x40];
extern u8 ring0_stack[4096], task_stack[2][1024];

#define T32(t, i) (*(volatile u32 *)((t) + (i)))
#define T16(t, i) (*(volatile u16 *)((t) + (i)))

/* Selectors. */
enum {
	REAL_CODE = 0x38,
	REAL_DATA = 0x40,
	TSS_SEL = 0x48,
	TSS2_SEL = 0x50,
	TSS3_SEL = 0x58,
	GATE_SEL = 0x60,
	TASK_SEL = 0x68,
	LDT_SEL = 0x70,
	TEST_SEL = 0x78,
	CONF_SEL = 0x80,
	TSS16_SEL = 0x88,
	CODE1_SEL = 0x90,
	DATA1_SEL = 0x98,
	CODE2_SEL = 0xa0,
	DATA2_SEL = 0xa8
};

void set_gate(int v, u32 handler, u16 cs, u8 type);
void set_segment(u16 sel, u32 base, u32 limit, u8 type, u8 flags);
u32 read_cr(int n);
void make_tss(volatile u8 *t, u32 eip, int stack);

/* Run fn(arg) at a CPL, and say how it ended. */
void try(const char *name, void (*fn)(u32), u32 arg, int cpl);
void outcome(const char *name);
void k_lcall(u32 sel);

void more32(void);
void triple_fault(void);

#endif
