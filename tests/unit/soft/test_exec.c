/* Blocks, branches, events and exits of the run loop, on byte strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
#define HALTED(rip_)                                                                               \
	do {                                                                                       \
		assert_int_equal(rig->vcpu.ctl.rip, rip_);                                         \
	} while (0)

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
