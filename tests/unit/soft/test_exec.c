/* Blocks, branches, events and exits of the run loop, on byte strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "rig.h"

static int setup(void **state)
{
	*state = rig_new();
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

#define GPR(n) (rig->vcpu.ctl.gpr[n])
static void test_modes(void **state)
{
	struct rig *rig = *state;

	/* add ax, bx in each mode's own size */
	rig_mode(rig, 16);
	GPR(RAX) = 2;
	GPR(RBX) = 2;
	assert_int_equal(RIG_RUN(rig, 0x01, 0xd8), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 4);
	assert_int_equal(rig->vcpu.ctl.rip, 3);
	rig_mode(rig, 32);
	GPR(RAX) = 0xffffffff;
	GPR(RBX) = 2;
	assert_int_equal(RIG_RUN(rig, 0x01, 0xd8), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 1);
	assert_int_equal(rig->vcpu.ctl.rflags & X86_CF, X86_CF);
	rig_mode(rig, 64);
	GPR(RAX) = 0xffffffff;
	GPR(RBX) = 2;
	assert_int_equal(RIG_RUN(rig, 0x48, 0x01, 0xd8), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 0x100000001);
	assert_int_equal(rig->vcpu.ctl.instructions, 6);
}

/* mov ecx, 1000; 1: lea rax, [rax+rcx*2+1]; dec ecx; jnz 1b */
static void test_loop(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 64);
	assert_int_equal(RIG_RUN(rig, 0xb9, 0xe8, 0x03, 0, 0, 0x48, 0x8d, 0x44, 0x48, 0x01, 0xff,
				 0xc9, 0x75, 0xf7),
			 KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 1000 * 1001 + 1000);
	assert_int_equal(rig->vcpu.ctl.instructions, 1 + 3 * 1000 + 1);
}

/* A store into the very next instruction of the same block is seen: mov byte [rip+0], 0x41 patches
 * the immediate of the mov eax that follows. */
static void test_self_modifying(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 64);
	assert_int_equal(RIG_RUN(rig, 0xc6, 0x05, 0x01, 0, 0, 0, 0x41, 0xb8, 0x11, 0, 0, 0),
			 KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 0x41);
	/* and again, with the block of the new bytes in the cache: now to 0x42 by a loop's own hand
	 */
	rig_mode(rig, 64);
	assert_int_equal(RIG_RUN(rig, 0xc6, 0x05, 0x01, 0, 0, 0, 0x42, 0xb8, 0x41, 0, 0, 0),
			 KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 0x42);
}

/* A hot block, linked to itself, changed by DMA: the next run sees the new bytes. */
static void test_dma_into_code(void **state)
{
	struct rig *rig = *state;
	/* mov ecx, 100; 1: add eax, 1; dec ecx; jnz 1b; hlt */
	u8 code[] = {0xb9, 100, 0, 0, 0, 0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xf9, 0xf4};

	rig_mode(rig, 64);
	assert_int_equal(rig_run_code(rig, code, sizeof(code)), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 100);
	rig->ram[RIG_CODE + 7] = 3;
	interpreter_ops.memory_written(&rig->kvm, RIG_CODE + 7, 1);
	rig_mode(rig, 64);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 300);
}

/* Pages 4 GiB apart hold code at the same offset; each notices writes of its own. */
static void test_far_pages(void **state)
{
	/* mov eax, 1; ret, at `low` and at `high`; the caller: call rdi; mov ebx, eax; call rsi;
	 * shl ebx, 8; or eax, ebx; hlt */
	static const u8 function[] = {0xb8, 1, 0, 0, 0, 0xc3};
	static const u8 caller[] = {0xff, 0xd7, 0x89, 0xc3, 0xff, 0xd6,
				    0xc1, 0xe3, 0x08, 0x09, 0xd8, 0xf4};
	/* the same after mov byte [rdi+1], 2, and after mov byte [rsi+1], 3 */
	static const u8 change_low[] = {0xc6, 0x47, 0x01, 0x02, 0xf4};
	static const u8 change_high[] = {0xc6, 0x46, 0x01, 0x03, 0xf4};
	const u64 low = RIG_DATA, high = GiB + RIG_DATA;
	const struct {
		const u8 *code;
		size_t len;
		u64 result;
	} step[] = {
		{caller, sizeof(caller), 0x101}, {change_low, sizeof(change_low), 0},
		{caller, sizeof(caller), 0x201}, {change_high, sizeof(change_high), 0},
		{caller, sizeof(caller), 0x203},
	};
	struct rig *rig = *state;

	memcpy(rig->ram + RIG_DATA, function, sizeof(function));
	memcpy(rig->ram + RIG_RAM / 2 + RIG_DATA, function, sizeof(function));
	for (unsigned int i = 0; i < ARRAY_SIZE(step); i++) {
		rig_mode(rig, 64);
		GPR(RDI) = low;
		GPR(RSI) = high;
		assert_int_equal(rig_run_code(rig, step[i].code, step[i].len), KVM_EXIT_HLT);
		assert_int_equal(GPR(RAX), step[i].result);
	}
}

/* An instruction over a page boundary, its second half changed. */
static void test_crossing(void **state)
{
	struct rig *rig = *state;
	u64 at = RIG_CODE + PAGE_SIZE - 2;

	/* mov eax, imm32 of which three bytes are in the next page; hlt */
	rig_mode(rig, 64);
	memcpy(rig->ram + at, (u8[]){0xb8, 1, 2, 3, 4, 0xf4}, 6);
	rig->vcpu.ctl.rip = at;
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 0x04030201);
	rig->ram[at + 2] = 9;
	interpreter_ops.memory_written(&rig->kvm, at + 2, 1);
	rig->vcpu.ctl.rip = at;
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 0x04030901);
}

/* A fault has the address of its instruction, and nothing of it has happened. */
static void test_precise_fault(void **state)
{
	struct rig *rig = *state;
	u64 frame[6];

	/* nop; nop; push [rax] with rax not mapped */
	rig_mode(rig, 64);
	GPR(RAX) = 1ULL << 40;
	assert_int_equal(RIG_RUN(rig, 0x90, 0x90, 0xff, 0x30), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(PF_VECTOR) + 1);
	assert_int_equal(rig->vcpu.ctl.cr2, 1ULL << 40);
	memcpy(frame, rig->ram + GPR(RSP), sizeof(frame));
	assert_int_equal(frame[1], RIG_CODE + 2);
	assert_int_equal(frame[4], RIG_STACK);
	/* ud2 in the middle of a block */
	rig_mode(rig, 64);
	assert_int_equal(RIG_RUN(rig, 0xff, 0xc0, 0x0f, 0x0b), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(UD_VECTOR) + 1);
	assert_int_equal(GPR(RAX), 1);
	/* a jump out of canonical space faults at the jump */
	rig_mode(rig, 64);
	GPR(RAX) = 1ULL << 50;
	assert_int_equal(RIG_RUN(rig, 0xff, 0xe0), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(GP_VECTOR) + 1);
}

/* STI's shadow: the interrupt comes after the next instruction, and before the one after it. */
static void test_interrupt_shadow(void **state)
{
	struct rig *rig = *state;
	u64 rip;

	rig_mode(rig, 64);
	rig->interrupt = 0x30;
	assert_int_equal(RIG_RUN(rig, 0xfb, 0xff, 0xc0, 0xff, 0xc0), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(0x30) + 1);
	assert_int_equal(GPR(RAX), 1);
	memcpy(&rip, rig->ram + GPR(RSP), 8);
	assert_int_equal(rip, RIG_CODE + 3);
	assert_int_equal(rig->interrupt, -1);
	/* none with IF clear */
	rig_mode(rig, 64);
	rig->interrupt = 0x30;
	assert_int_equal(RIG_RUN(rig, 0xff, 0xc0), KVM_EXIT_HLT);
	assert_int_equal(rig->interrupt, 0x30);
	rig->interrupt = -1;
}

/* Blocks of one instruction, at an address of more than 32 bits. */
static void test_high_address(void **state)
{
	struct rig *rig = *state;
	u64 high = 0xffff800000000000;

	rig_mode(rig, 64);
	memcpy(rig->ram + 0x3000 + 8 * 256, rig->ram + 0x3000, 8);
	rig->vcpu.ctl.rip = high + RIG_CODE;
	assert_int_equal(RIG_RUN(rig, 0xfb, 0xff, 0xc0, 0xeb, 0x00, 0xff, 0xc0), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, high + RIG_CODE + 8);
	assert_int_equal(GPR(RAX), 2);
	rig->vcpu.ctl.rip = high + RIG_CODE;
	rig->vcpu.guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	for (int i = 0; i < 4; i++)
		assert_int_equal(rig_run(rig), KVM_EXIT_DEBUG);
	assert_int_equal(rig->vcpu.ctl.rip, high + RIG_CODE + 7);
	rig->vcpu.guest_debug = 0;
}

/* A loop without end is left when asked, with true state. */
static void test_exit_request(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 64);
	kvm_make_request(&rig->vcpu, KVM_REQ_EXIT);
	assert_int_equal(RIG_RUN(rig, 0xeb, 0xfe), -EINTR);
	assert_int_equal(rig->vcpu.ctl.rip, RIG_CODE);
}

/* TF: #DB after one instruction, and after each iteration of a REP. */
static void test_single_step(void **state)
{
	struct rig *rig = *state;
	u64 rip;

	rig_mode(rig, 64);
	rig->vcpu.ctl.rflags |= X86_TF;
	assert_int_equal(RIG_RUN(rig, 0xff, 0xc0, 0xff, 0xc0), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(DB_VECTOR) + 1);
	assert_int_equal(GPR(RAX), 1);
	memcpy(&rip, rig->ram + GPR(RSP), 8);
	assert_int_equal(rip, RIG_CODE + 2);
	assert_int_equal(rig->vcpu.ctl.dr6 & 0x4000, 0x4000);
	rig_mode(rig, 64);
	GPR(RCX) = 5;
	GPR(RDI) = RIG_DATA;
	rig->vcpu.ctl.rflags |= X86_TF;
	assert_int_equal(RIG_RUN(rig, 0xf3, 0xaa), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(DB_VECTOR) + 1);
	assert_int_equal(GPR(RCX), 4);
}

static u64 pushed_flags(struct rig *rig)
{
	u64 flags;

	memcpy(&flags, rig->ram + GPR(RSP) + 16, 8);
	return flags;
}

/* RF in what is pushed between two iterations of a REP, by a trap and by an interrupt, and not
 * after the last: SDM vol. 3, 18.3.1.1. */
static void test_rep_resume_flag(void **state)
{
	struct rig *rig = *state;

	for (u64 left = 0; left < 2; left++) {
		rig_mode(rig, 64);
		GPR(RCX) = left + 1;
		GPR(RDI) = RIG_DATA;
		rig->vcpu.ctl.rflags |= X86_TF;
		assert_int_equal(RIG_RUN(rig, 0xf3, 0xaa), KVM_EXIT_HLT);
		assert_int_equal(rig->vcpu.ctl.rip, rig_handler(DB_VECTOR) + 1);
		assert_int_equal(GPR(RCX), left);
		assert_int_equal(pushed_flags(rig) & X86_RF, left ? X86_RF : 0);
		assert_int_equal(rig->vcpu.ctl.rflags & X86_RF, 0);
	}
	/* lodsb where no memory is: the user is asked for each byte, and then interrupts */
	for (u64 left = 0; left < 2; left++) {
		rig_mode(rig, 64);
		GPR(RCX) = left + 1;
		GPR(RSI) = RIG_RAM;
		rig->vcpu.ctl.rflags |= X86_IF;
		assert_int_equal(RIG_RUN(rig, 0xf3, 0xac, 0xeb, 0xfe), KVM_EXIT_MMIO);
		kvm_make_request(&rig->vcpu, KVM_REQ_EXIT);
		assert_int_equal(rig_run(rig), -EINTR);
		assert_int_equal(GPR(RCX), left);
		assert_int_equal(rig->vcpu.ctl.rip, RIG_CODE + (left ? 0 : 2));
		assert_int_equal(rig->vcpu.ctl.rflags & X86_RF, left ? X86_RF : 0);
		rig->interrupt = 0x30;
		assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
		assert_int_equal(rig->vcpu.ctl.rip, rig_handler(0x30) + 1);
		assert_int_equal(pushed_flags(rig) & X86_RF, left ? X86_RF : 0);
	}
	/* without one it goes on, and RF with its first iteration */
	rig_mode(rig, 64);
	GPR(RCX) = 2;
	GPR(RSI) = RIG_RAM;
	assert_int_equal(RIG_RUN(rig, 0xf3, 0xac, 0x9c), KVM_EXIT_MMIO);
	kvm_make_request(&rig->vcpu, KVM_REQ_EXIT);
	assert_int_equal(rig_run(rig), -EINTR);
	assert_int_equal(rig_run(rig), KVM_EXIT_MMIO);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RCX), 0);
	assert_int_equal(rig->vcpu.ctl.rflags & X86_RF, 0);
}

/* A breakpoint at a REP is hit once, however often that is left: its handler returns with RF. */
static void test_rep_breakpoint(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 64);
	rig->vcpu.ctl.dr[0] = RIG_CODE;
	rig->vcpu.ctl.dr7 = 0x402; /* global, execution */
	interpreter_ops.state_changed(&rig->vcpu);
	GPR(RCX) = 3;
	GPR(RSI) = RIG_RAM;
	rig->vcpu.ctl.rflags |= X86_RF; /* as its handler would have it */
	assert_int_equal(RIG_RUN(rig, 0xf3, 0xac), KVM_EXIT_MMIO);
	for (u64 left = 2; left; left--) {
		kvm_make_request(&rig->vcpu, KVM_REQ_EXIT);
		assert_int_equal(rig_run(rig), -EINTR);
		assert_int_equal(GPR(RCX), left);
		assert_int_equal(rig_run(rig), KVM_EXIT_MMIO);
	}
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, RIG_CODE + 3);
}

/* There is no A20 gate, as in KVM: in real mode FFFF:0010 is the first byte of the second MiB, and
 * not that of the first. */
static void test_second_mib(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 16);
	rig->ram[0] = 0x11;
	rig->ram[0x100000] = 0x22;
	rig->ram[0x10ffef] = 0x33;
	/* mov ax, -1; mov ds, ax; mov bl, [0x10]; mov bh, [0xffff]; mov byte [0x11], 0x44 */
	assert_int_equal(RIG_RUN(rig, 0xb8, 0xff, 0xff, 0x8e, 0xd8, 0x8a, 0x1e, 0x10, 0, 0x8a, 0x3e,
				 0xff, 0xff, 0xc6, 0x06, 0x11, 0, 0x44),
			 KVM_EXIT_HLT);
	assert_int_equal(GPR(RBX), 0x3322);
	assert_int_equal(rig->ram[0x100001], 0x44);
	assert_int_equal(rig->ram[1], 0);
}

/* KVM_GUESTDBG_SINGLESTEP leaves for the user after each instruction. */
static void test_user_step(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 64);
	rig->vcpu.guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	assert_int_equal(RIG_RUN(rig, 0xff, 0xc0, 0x90), KVM_EXIT_DEBUG);
	assert_int_equal(rig->vcpu.ctl.rip, RIG_CODE + 2);
	assert_int_equal(rig->vcpu.run->debug.arch.exception, DB_VECTOR);
	assert_int_equal(rig_run(rig), KVM_EXIT_DEBUG);
	assert_int_equal(rig->vcpu.ctl.rip, RIG_CODE + 3);
	rig->vcpu.guest_debug = 0;
}

/* Ports and MMIO leave in mid-instruction and are completed by the next run. */
static void test_device_exits(void **state)
{
	struct rig *rig = *state;
	struct kvm_run *run = rig->vcpu.run;

	run->io.data_offset = 0;
	rig_mode(rig, 64);
	GPR(RDX) = 0x3f8;
	GPR(RAX) = 'x';
	/* out dx, al; in al, dx */
	assert_int_equal(RIG_RUN(rig, 0xee, 0xec), KVM_EXIT_IO);
	assert_int_equal(run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(run->io.port, 0x3f8);
	assert_int_equal(rig->vcpu.pio_data[0], 'x');
	assert_int_equal(rig_run(rig), KVM_EXIT_IO);
	assert_int_equal(run->io.direction, KVM_EXIT_IO_IN);
	rig->vcpu.pio_data[0] = 'y';
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 'y');

	/* add [rax], ecx at an address without memory: a read and a write */
	rig_mode(rig, 64);
	GPR(RAX) = RIG_RAM;
	GPR(RCX) = 5;
	assert_int_equal(RIG_RUN(rig, 0x01, 0x08), KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.is_write, 0);
	assert_int_equal(run->mmio.phys_addr, RIG_RAM);
	memcpy(run->mmio.data, (u32[]){37}, 4);
	assert_int_equal(rig_run(rig), KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.is_write, 1);
	assert_int_equal(run->mmio.len, 4);
	assert_int_equal(*(u32 *)run->mmio.data, 42);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
}

/* REP OUTSB and INSB: several at once in pio_data. */
static void test_string_io(void **state)
{
	struct rig *rig = *state;
	struct kvm_run *run = rig->vcpu.run;

	rig_mode(rig, 64);
	memcpy(rig->ram + RIG_DATA, "hello", 5);
	GPR(RDX) = 0x3f8;
	GPR(RCX) = 5;
	GPR(RSI) = RIG_DATA;
	assert_int_equal(RIG_RUN(rig, 0xf3, 0x6e), KVM_EXIT_IO);
	assert_int_equal(run->io.count, 5);
	assert_memory_equal(rig->vcpu.pio_data, "hello", 5);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RCX), 0);
	assert_int_equal(GPR(RSI), RIG_DATA + 5);

	rig_mode(rig, 64);
	GPR(RDX) = 0x3f8;
	GPR(RCX) = 3;
	GPR(RDI) = RIG_DATA + 64;
	assert_int_equal(RIG_RUN(rig, 0xf3, 0x6c), KVM_EXIT_IO);
	assert_int_equal(run->io.direction, KVM_EXIT_IO_IN);
	memcpy(rig->vcpu.pio_data, "abc", run->io.count);
	while (rig_run(rig) == KVM_EXIT_IO)
		memcpy(rig->vcpu.pio_data, "abc", run->io.count);
	assert_int_equal(GPR(RCX), 0);
	assert_memory_equal(rig->ram + RIG_DATA + 64, "abc", 3);
}

/* More distinct code than the arena holds: everything is dropped and decoded again. */
static void test_arena(void **state)
{
	struct rig *rig = *state;
	u8 *code = rig->ram + 0x100000;
	u64 at = 0x100000, end = RIG_RAM - 64;

	/* add al, 1 everywhere, in blocks as long as they get; then the same again */
	memset(code, 0x90, RIG_RAM - 0x100000);
	rig->ram[end] = 0xf4;
	for (int round = 0; round < 3; round++) {
		rig_mode(rig, 64);
		rig->vcpu.ctl.rip = at + (u64)round;
		rig->vcpu.ctl.instructions = 0;
		assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
		assert_int_equal(rig->vcpu.ctl.rip, end + 1);
		assert_int_equal(rig->vcpu.ctl.instructions, end + 1 - at - (u64)round);
	}
}

/*
 * The chain does not grow the stack: a loop over many kinds of operation, on a small one.
 *
 * 1: add rbx, rax; add rax, [rdi]; add [rdi+8], rbx; adc rdx, 3; cmp [rdi], rax; setb sil;
 * movzx esi, sil; cmovb r8, rbx; push rax; pop r9; call 2f; lock inc dword [rdi+16]; bt eax, 3;
 * imul r8, rbx; shl r8, 3; rol r9, cl; xchg [rdi+24], rax; bswap r10; movzx r11d, word [rdi+4];
 * test rax, rax; je 3f; 3: lea r12, [2f]; call r12; sub ecx, 1; jnz 1b; hlt; 2: ret
 */
static const u8 mixed[] = {0xb9, 0xe0, 0x93, 0x04, 0x00, 0x48, 0x01, 0xc3, 0x48, 0x03, 0x07, 0x48,
			   0x01, 0x5f, 0x08, 0x48, 0x83, 0xd2, 0x03, 0x48, 0x39, 0x07, 0x40, 0x0f,
			   0x92, 0xc6, 0x40, 0x0f, 0xb6, 0xf6, 0x4c, 0x0f, 0x42, 0xc3, 0x50, 0x41,
			   0x59, 0xe8, 0x34, 0x00, 0x00, 0x00, 0xf0, 0xff, 0x47, 0x10, 0x0f, 0xba,
			   0xe0, 0x03, 0x4c, 0x0f, 0xaf, 0xc3, 0x49, 0xc1, 0xe0, 0x03, 0x49, 0xd3,
			   0xc1, 0x48, 0x87, 0x47, 0x18, 0x49, 0x0f, 0xca, 0x44, 0x0f, 0xb7, 0x5f,
			   0x04, 0x48, 0x85, 0xc0, 0x74, 0x00, 0x4c, 0x8d, 0x25, 0x09, 0x00, 0x00,
			   0x00, 0x41, 0xff, 0xd4, 0x83, 0xe9, 0x01, 0x75, 0xa8, 0xf4, 0xc3};

static void *run_mixed(void *arg)
{
	struct rig *rig = arg;

	return (void *)(long)rig_run_code(rig, mixed, sizeof(mixed));
}

static void test_stack_depth(void **state)
{
	struct rig *rig = *state;
	pthread_attr_t attr;
	pthread_t thread;
	void *result;

	rig_mode(rig, 64);
	GPR(RDI) = RIG_DATA;
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstacksize(&attr, 256 * KiB), 0);
	assert_int_equal(pthread_create(&thread, &attr, run_mixed, rig), 0);
	pthread_join(thread, &result);
	pthread_attr_destroy(&attr);
	assert_int_equal((long)result, KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.instructions, 1 + 300000 * 27 + 1);
}

/*
 * Cross-modifying code: one vCPU changes an immediate of code that the other one calls, then tells
 * it so, and waits for the answer; the other must never see the old one.
 */
static void *run_second(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	return (void *)(long)rig_run_vcpu(vcpu);
}

static void test_cross_modifying(void **state)
{
	/* 1: inc ebx; mov [rdi+1], ebx; mov [rsi], ebx; 2: pause; cmp [rsi+64], ebx; jne 2b;
	 * cmp ebx, edx; jb 1b; hlt */
	static const u8 writer[] = {0xff, 0xc3, 0x89, 0x5f, 0x01, 0x89, 0x1e, 0xf3, 0x90, 0x39,
				    0x5e, 0x40, 0x75, 0xf9, 0x39, 0xd3, 0x72, 0xee, 0xf4};
	/* 1: mov ecx, [rsi]; cmp ebx, ecx; je 1b; mov ebx, ecx; xor eax, eax; call rdi;
	 * cmp ecx, eax; jne 3f; mov [rsi+64], ecx; cmp ecx, edx; jb 1b; hlt; 3: ud2 */
	static const u8 reader[] = {0x8b, 0x0e, 0x39, 0xcb, 0x74, 0xfa, 0x89, 0xcb, 0x31,
				    0xc0, 0xff, 0xd7, 0x39, 0xc1, 0x75, 0x08, 0x89, 0x4e,
				    0x40, 0x39, 0xd1, 0x72, 0xe9, 0xf4, 0x0f, 0x0b};
	const u64 function = RIG_DATA + 3, reader_at = RIG_CODE + 0x8000, rounds = 1000;
	struct rig *rig = *state;
	pthread_t thread;
	void *result;

	rig_add_second(rig);
	rig_mode_vcpu(rig, &rig->second, 64);
	rig_mode(rig, 64);
	memcpy(rig->ram + function, (u8[]){0xb8, 0, 0, 0, 0, 0xc3}, 6);
	memcpy(rig->ram + reader_at, reader, sizeof(reader));
	memcpy(rig->ram + RIG_CODE, writer, sizeof(writer));
	for (int i = 0; i < 2; i++) {
		u64 *gpr = i ? rig->second.ctl.gpr : rig->vcpu.ctl.gpr;

		gpr[RDI] = function;
		gpr[RSI] = RIG_DATA + 0x4000;
		gpr[RDX] = rounds;
	}
	rig->second.ctl.rip = reader_at;
	rig->second.ctl.gpr[RSP] = RIG_STACK + 0x8000;
	pthread_create(&thread, NULL, run_second, &rig->second);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	pthread_join(thread, &result);
	assert_int_equal((long)result, KVM_EXIT_HLT);
	assert_int_equal(rig->second.ctl.rip, reader_at + 24);
	assert_int_equal(rig->second.ctl.gpr[RCX], rounds);
}

#define PTES 0x60000u
#define DIR  0x61000u

/* The accessed flag that a walk sets in the last entry of a 32-bit page table is an immediate of
 * code that lies there: the code must change with it. */
static void test_code_in_page_table(void **state)
{
	struct rig *rig = *state;
	u32 *pte = (u32 *)(rig->ram + PTES), *dir = (u32 *)(rig->ram + DIR);

	rig_mode(rig, 32);
	for (u32 i = 0; i < 1024; i++)
		pte[i] = i << 12 | 7;
	pte[1022] = 0xb03fe007; /* its last byte: mov al, ... */
	pte[1023] = 0x0030c307; /* ... 7; ret */
	dir[0] = PTES | 7;
	rig->vcpu.ctl.cr3 = DIR;
	rig->vcpu.ctl.cr0 |= 1u << 31;
	interpreter_ops.state_changed(&rig->vcpu);
	GPR(RDI) = PTES + 4091;
	/* call edi; mov bl, al; mov ecx, [0x3ff000]; call edi; mov bh, al */
	assert_int_equal(RIG_RUN(rig, 0xff, 0xd7, 0x88, 0xc3, 0x8b, 0x0d, 0, 0xf0, 0x3f, 0, 0xff,
				 0xd7, 0x88, 0xc7),
			 KVM_EXIT_HLT);
	assert_int_equal(GPR(RBX) & 0xffff, 0x2707);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_self_modifying, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dma_into_code, setup, teardown),
		cmocka_unit_test_setup_teardown(test_far_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_crossing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_precise_fault, setup, teardown),
		cmocka_unit_test_setup_teardown(test_interrupt_shadow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_high_address, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exit_request, setup, teardown),
		cmocka_unit_test_setup_teardown(test_single_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_user_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rep_resume_flag, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rep_breakpoint, setup, teardown),
		cmocka_unit_test_setup_teardown(test_second_mib, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_exits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_string_io, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stack_depth, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cross_modifying, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_in_page_table, setup, teardown),
		cmocka_unit_test_setup_teardown(test_arena, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
