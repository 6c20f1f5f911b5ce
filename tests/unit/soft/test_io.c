/*
 * Instructions that leave for the user in the middle of their device accesses: which exits they
 * make, in order, and that what they did before is not done again.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

#define DEV  0x2000000u /* no slot there; the page tables map it */
#define EDGE RIG_RAM	/* the first byte behind RAM */

struct device_access {
	u64 addr;
	u8 len;
	bool write;
	u64 data; /* written, or to be read */
};

#define R(addr, len, data)                                                                         \
	{                                                                                          \
		(addr), (len), false, (data)                                                       \
	}
#define W(addr, len, data)                                                                         \
	{                                                                                          \
		(addr), (len), true, (data)                                                        \
	}

static int setup(void **state)
{
	*state = rig_new();
	rig_mode(*state, 64);
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

/* Go on from an exit through all of these, to HLT. */
static void exits(struct rig *rig, int reason, const struct device_access *list, int n)
{
	struct kvm_run *run = rig->vcpu.run;

	for (int i = 0; i < n; i++) {
		u64 data = 0;

		assert_int_equal(reason, KVM_EXIT_MMIO);
		assert_int_equal(run->mmio.phys_addr, list[i].addr);
		assert_int_equal(run->mmio.len, list[i].len);
		assert_int_equal(run->mmio.is_write, list[i].write);
		if (list[i].write) {
			memcpy(&data, run->mmio.data, list[i].len);
			assert_int_equal(data, list[i].data);
		} else {
			memcpy(run->mmio.data, &list[i].data, list[i].len);
		}
		reason = rig_run(rig);
	}
	assert_int_equal(reason, KVM_EXIT_HLT);
}

#define EXITS(rig, code, ...)                                                                      \
	do {                                                                                       \
		const struct device_access list_[] = {__VA_ARGS__};                                \
		exits(rig, rig_run_code(rig, code, sizeof(code) - 1), list_, ARRAY_SIZE(list_));   \
	} while (0)

#define GPR(n)	 (rig->vcpu.ctl.gpr[n])
#define RAM64(a) (*(guest_u64 *)(rig->ram + (a)))

static void loads_and_stores(void **state)
{
	struct rig *rig = *state;

	GPR(RBX) = DEV;
	GPR(RCX) = 0x1122334455667788;
	/* mov eax,[rbx+4]; mov [rbx+8],rcx; movzx edx, byte [rbx+1]; mov [rbx+2],cx */
	EXITS(rig, "\x8b\x43\x04\x48\x89\x4b\x08\x0f\xb6\x53\x01\x66\x89\x4b\x02\xf4",
	      R(DEV + 4, 4, 0xdeadbeef), W(DEV + 8, 8, 0x1122334455667788), R(DEV + 1, 1, 0x80),
	      W(DEV + 2, 2, 0x7788));
	assert_int_equal(GPR(RAX), 0xdeadbeef);
	assert_int_equal(GPR(RDX), 0x80);
}

static void read_modify_write(void **state)
{
	struct rig *rig = *state;

	GPR(RBX) = DEV;
	GPR(RCX) = 5;
	GPR(RAX) = 7;
	/* add [rbx],ecx; lock inc dword [rbx]; xchg [rbx],ecx; cmpxchg [rbx],ecx */
	EXITS(rig, "\x01\x0b\xf0\xff\x03\x87\x0b\x0f\xb1\x0b\xf4", R(DEV, 4, 10), W(DEV, 4, 15),
	      R(DEV, 4, 0xffffffff), W(DEV, 4, 0), R(DEV, 4, 77), W(DEV, 4, 5), R(DEV, 4, 7),
	      W(DEV, 4, 77));
	assert_int_equal(GPR(RCX), 77);
	assert_int_equal(GPR(RAX), 7);
	assert_true(rig->vcpu.ctl.rflags & X86_ZF);
}

static void stack_and_branches(void **state)
{
	struct rig *rig = *state;

	GPR(RBX) = DEV;
	/* push qword [rbx]; pop qword [rbx+8]; call [rbx]: to the HLT two bytes on */
	EXITS(rig, "\xff\x33\x8f\x43\x08\xff\x13\xf4", R(DEV, 8, 0x99), W(DEV + 8, 8, 0x99),
	      R(DEV, 8, RIG_CODE + 7));
	assert_int_equal(GPR(RSP), RIG_STACK - 8);
	assert_int_equal(RAM64(RIG_STACK - 8), RIG_CODE + 7);
}

static void wide(void **state)
{
	struct rig *rig = *state;

	GPR(RBX) = DEV;
	/* movups xmm1,[rbx]; movups [rbx+16],xmm1: 8 bytes at a time */
	EXITS(rig, "\x0f\x10\x0b\x0f\x11\x4b\x10\xf4", R(DEV, 8, 0x1111), R(DEV + 8, 8, 0x2222),
	      W(DEV + 16, 8, 0x1111), W(DEV + 24, 8, 0x2222));
}

static void across_the_end_of_ram(void **state)
{
	struct rig *rig = *state;

	GPR(RBX) = EDGE - 4;
	GPR(RCX) = 0x1122334455667788;
	RAM64(EDGE - 8) = 0xaaaaaaaabbbbbbbb;
	/* mov rax,[rbx]; mov [rbx],rcx; add [rbx],rcx */
	EXITS(rig, "\x48\x8b\x03\x48\x89\x0b\x48\x01\x0b\xf4", R(EDGE, 4, 0x5555),
	      W(EDGE, 4, 0x11223344), R(EDGE, 4, 0x11223344), W(EDGE, 4, 0x22446688));
	assert_int_equal(GPR(RAX), 0x5555aaaaaaaa);
	assert_int_equal(RAM64(EDGE - 8), 0xaaccef10bbbbbbbb);
}

static void strings(void **state)
{
	struct rig *rig = *state;

	/* rep movsd from the device to itself: each element read and written once */
	GPR(RSI) = DEV;
	GPR(RDI) = DEV + 0x100;
	GPR(RCX) = 2;
	EXITS(rig, "\xf3\xa5\xf4", R(DEV, 4, 1), W(DEV + 0x100, 4, 1), R(DEV + 4, 4, 2),
	      W(DEV + 0x104, 4, 2));
	assert_int_equal(GPR(RCX), 0);
	assert_int_equal(GPR(RSI), DEV + 8);
	assert_int_equal(GPR(RDI), DEV + 0x108);
}

static void strings_of_ram(void **state)
{
	struct rig *rig = *state;

	rig_mode(rig, 64);
	RAM64(RIG_DATA) = 0x0807060504030201;
	GPR(RSI) = RIG_DATA;
	GPR(RDI) = DEV;
	GPR(RCX) = 3;
	/* rep movsw to the device; then rep stosb from RAM into it */
	EXITS(rig, "\xf3\x66\xa5\xf4", W(DEV, 2, 0x201), W(DEV + 2, 2, 0x403),
	      W(DEV + 4, 2, 0x605));
	rig_mode(rig, 64);
	GPR(RAX) = 0x41;
	GPR(RDI) = EDGE - 1;
	GPR(RCX) = 3;
	EXITS(rig, "\xf3\xaa\xf4", W(EDGE, 1, 0x41), W(EDGE + 1, 1, 0x41));
	assert_int_equal(rig->ram[EDGE - 1], 0x41);
	assert_int_equal(GPR(RDI), EDGE + 2);
}

/* The same instruction again and again, each time afresh. */
static void polling(void **state)
{
	struct rig *rig = *state;

	GPR(RBX) = DEV;
	/* 1: test byte [rbx], 1; jz 1b */
	EXITS(rig, "\xf6\x03\x01\x74\xfb\xf4", R(DEV, 1, 0), R(DEV, 1, 2), R(DEV, 1, 0),
	      R(DEV, 1, 1));
}

/* Registers set while an exit is pending: the instruction is abandoned. */
static void reset_meanwhile(void **state)
{
	struct rig *rig = *state;
	static const u8 code[] = {0x8b, 0x03, 0xf4, 0xb8, 9, 0, 0, 0, 0xf4};

	GPR(RBX) = DEV;
	assert_int_equal(rig_run_code(rig, code, sizeof(code)), KVM_EXIT_MMIO);
	memset(rig->vcpu.run->mmio.data, 0xff, 8);
	rig->vcpu.ctl.rip = RIG_CODE + 3;
	interpreter_ops.state_changed(&rig->vcpu);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
	assert_int_equal(GPR(RAX), 9);
}

/* A request to leave while an exit is pending: the instruction is finished first. */
static void finish_then_leave(void **state)
{
	struct rig *rig = *state;
	static const u8 code[] = {0x8b, 0x03, 0xf4};

	GPR(RBX) = DEV;
	assert_int_equal(rig_run_code(rig, code, sizeof(code)), KVM_EXIT_MMIO);
	memset(rig->vcpu.run->mmio.data, 0x11, 8);
	kvm_make_request(&rig->vcpu, KVM_REQ_EXIT);
	assert_int_equal(rig_run(rig), -EINTR);
	assert_int_equal(GPR(RAX), 0x11111111);
	assert_int_equal(rig->vcpu.ctl.rip, RIG_CODE + 2);
}

/* An interrupt waits for the instruction that is half done. */
static void interrupt_waits(void **state)
{
	struct rig *rig = *state;
	static const u8 code[] = {0x01, 0x03, 0xf4};

	GPR(RBX) = DEV;
	GPR(RAX) = 1;
	rig->vcpu.ctl.rflags |= X86_IF;
	assert_int_equal(rig_run_code(rig, code, sizeof(code)), KVM_EXIT_MMIO);
	rig->interrupt = 0x33;
	memset(rig->vcpu.run->mmio.data, 0, 8);
	assert_int_equal(rig_run(rig), KVM_EXIT_MMIO); /* the write */
	assert_int_equal(rig->vcpu.run->mmio.is_write, 1);
	assert_int_equal(rig->interrupt, 0x33);
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT); /* in the handler */
	assert_int_equal(rig->interrupt, -1);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(0x33) + 1);
}

/* A stack where there is no memory cannot take an event. */
static void event_to_a_device(void **state)
{
	struct rig *rig = *state;
	static const u8 code[] = {0x0f, 0x0b};

	GPR(RSP) = DEV + 0x800;
	assert_int_equal(rig_run_code(rig, code, sizeof(code)), KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(rig->vcpu.run->internal.suberror, KVM_INTERNAL_ERROR_DELIVERY_EV);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(loads_and_stores),	  T(read_modify_write),
		T(stack_and_branches),	  T(wide),
		T(across_the_end_of_ram), T(strings),
		T(strings_of_ram),	  T(polling),
		T(reset_meanwhile),	  T(finish_then_leave),
		T(interrupt_waits),	  T(event_to_a_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
