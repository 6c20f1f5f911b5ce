/*
 * SYSCALL, SYSRET, SYSENTER and SYSEXIT as the guest's vendor has them: AMD's processors have no
 * SYSENTER in long mode, Intel's no SYSCALL outside 64-bit mode (SDM and APM, the instructions).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "rig.h"

/* EBX of leaf 0 */
#define AMD   0x68747541
#define HYGON 0x6f677948
#define INTEL 0x756e6547

/* Where the MSRs lead; there are HLTs. */
#define TARGET	0x12000u
#define CTARGET 0x12100u
#define TOP	0x30000u

#define GPR(n) (rig->vcpu.ctl.gpr[n])

enum mode { LONG64, COMPAT, LEGACY };

static const u8 syscall_code[] = {0x0f, 0x05}, sysret_code[] = {0x0f, 0x07},
		sysret_wide[] = {0x48, 0x0f, 0x07}, sysenter_code[] = {0x0f, 0x34},
		sysexit_code[] = {0x0f, 0x35}, sysexit_wide[] = {0x48, 0x0f, 0x35};

/* At CPL 0 in this mode, with all MSRs. */
static void begin(struct rig *rig, u32 vendor, enum mode mode)
{
	struct vcpu_control *c = &rig->vcpu.ctl;

	rig->vendor = vendor;
	rig_mode(rig, mode == LEGACY ? 32 : 64);
	c->efer |= EFER_SCE;
	if (mode == COMPAT) {
		c->seg[SEG_CS].l = 0;
		c->seg[SEG_CS].db = 1;
	}
	interpreter_ops.state_changed(&rig->vcpu);
	rig->ram[TARGET] = rig->ram[CTARGET] = 0xf4;
	rig->vcpu.msr.star = 0x18ULL << 48 | 8ULL << 32 | TARGET;
	rig->vcpu.msr.lstar = TARGET;
	rig->vcpu.msr.cstar = CTARGET;
	rig->vcpu.msr.fmask = X86_IF;
	rig->vcpu.msr.sysenter_cs = 8;
	rig->vcpu.msr.sysenter_eip = TARGET;
	rig->vcpu.msr.sysenter_esp = TOP;
}

#define RUN(rig, code) rig_run_code(rig, code, sizeof(code))

static void expect_fault(struct rig *rig, unsigned int vector)
{
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(vector) + 1);
}

/* The instruction alone, which does not fault. */
static void step_code(struct rig *rig, const u8 *code, size_t len)
{
	rig->vcpu.guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	assert_int_equal(rig_run_code(rig, code, len), KVM_EXIT_DEBUG);
	rig->vcpu.guest_debug = 0;
}

#define STEP(rig, code) step_code(rig, code, sizeof(code))

static void test_syscall(void **state)
{
	static const u32 vendors[] = {AMD, HYGON, INTEL};
	struct rig *rig = *state;

	for (u32 i = 0; i < 3; i++) {
		bool amd = vendors[i] != INTEL;

		begin(rig, vendors[i], LONG64);
		assert_int_equal(RUN(rig, syscall_code), KVM_EXIT_HLT);
		assert_int_equal(rig->vcpu.ctl.rip, TARGET + 1);
		assert_int_equal(GPR(RCX), RIG_CODE + 2);
		begin(rig, vendors[i], COMPAT);
		assert_int_equal(RUN(rig, syscall_code), KVM_EXIT_HLT);
		if (amd)
			assert_int_equal(rig->vcpu.ctl.rip, CTARGET + 1);
		else
			expect_fault(rig, UD_VECTOR);
		begin(rig, vendors[i], LEGACY);
		assert_int_equal(RUN(rig, syscall_code), KVM_EXIT_HLT);
		if (amd)
			assert_int_equal(rig->vcpu.ctl.rip, TARGET + 1);
		else
			expect_fault(rig, UD_VECTOR);
	}
}

static void test_sysret(void **state)
{
	static const u32 vendors[] = {AMD, INTEL};
	struct rig *rig = *state;

	for (u32 i = 0; i < 2; i++) {
		begin(rig, vendors[i], LONG64);
		GPR(RCX) = TARGET;
		GPR(R11) = X86_IF | X86_CF;
		STEP(rig, sysret_wide);
		assert_int_equal(rig->vcpu.ctl.rip, TARGET);
		assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].selector, 0x2b);
		assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].l, 1);
		assert_int_equal(rig->vcpu.ctl.cpl, 3);
		begin(rig, vendors[i], LONG64);
		GPR(RCX) = 0x100000000 + TARGET;
		STEP(rig, sysret_code);
		assert_int_equal(rig->vcpu.ctl.rip, TARGET);
		assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].selector, 0x1b);
		assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].l, 0);
	}
	begin(rig, INTEL, COMPAT);
	assert_int_equal(RUN(rig, sysret_code), KVM_EXIT_HLT);
	expect_fault(rig, UD_VECTOR);
	begin(rig, AMD, COMPAT);
	GPR(RCX) = TARGET;
	STEP(rig, sysret_code);
	assert_int_equal(rig->vcpu.ctl.rip, TARGET);
	assert_int_equal(rig->vcpu.ctl.cpl, 3);
}

static void test_sysenter(void **state)
{
	static const u32 vendors[] = {AMD, HYGON, INTEL};
	struct rig *rig = *state;

	for (u32 i = 0; i < 3; i++) {
		for (enum mode mode = LONG64; mode <= LEGACY; mode++) {
			bool wide = mode != LEGACY;

			begin(rig, vendors[i], mode);
			rig->vcpu.ctl.rflags |= X86_IF;
			assert_int_equal(RUN(rig, sysenter_code), KVM_EXIT_HLT);
			if (wide && vendors[i] != INTEL) {
				expect_fault(rig, UD_VECTOR);
				continue;
			}
			assert_int_equal(rig->vcpu.ctl.rip, TARGET + 1);
			assert_int_equal(GPR(RSP), TOP);
			assert_int_equal(rig->vcpu.ctl.rflags & X86_IF, 0);
			assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].selector, 8);
			assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].l, wide);
			assert_int_equal(rig->vcpu.ctl.seg[SEG_SS].selector, 16);
		}
	}
	begin(rig, INTEL, LONG64);
	rig->vcpu.msr.sysenter_cs = 3;
	assert_int_equal(RUN(rig, sysenter_code), KVM_EXIT_HLT);
	expect_fault(rig, GP_VECTOR);
}

static void test_sysexit(void **state)
{
	struct rig *rig = *state;

	begin(rig, AMD, LONG64);
	assert_int_equal(RUN(rig, sysexit_wide), KVM_EXIT_HLT);
	expect_fault(rig, UD_VECTOR);

	begin(rig, INTEL, LONG64);
	GPR(RDX) = TARGET;
	GPR(RCX) = TOP;
	STEP(rig, sysexit_wide);
	assert_int_equal(rig->vcpu.ctl.rip, TARGET);
	assert_int_equal(GPR(RSP), TOP);
	assert_int_equal(rig->vcpu.ctl.cpl, 3);
	assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].selector, 0x2b);
	assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].l, 1);
	assert_int_equal(rig->vcpu.ctl.seg[SEG_SS].selector, 0x33);

	/* to 32-bit code, whose upper halves do not count */
	begin(rig, INTEL, LONG64);
	GPR(RDX) = 0x100000000 + TARGET;
	GPR(RCX) = 0x100000000 + TOP;
	STEP(rig, sysexit_code);
	assert_int_equal(rig->vcpu.ctl.rip, TARGET);
	assert_int_equal(GPR(RSP), TOP);
	assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].selector, 0x1b);
	assert_int_equal(rig->vcpu.ctl.seg[SEG_CS].l, 0);

	/* an address that is none */
	begin(rig, INTEL, LONG64);
	GPR(RDX) = 1ULL << 60;
	assert_int_equal(RUN(rig, sysexit_wide), KVM_EXIT_HLT);
	expect_fault(rig, GP_VECTOR);
}

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_syscall, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sysret, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sysenter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sysexit, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
