/* What the differential test cannot reach: control bits, XSAVE's rules, other modes, eviction. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "engine/soft/native.h"
#include "rig.h"

#define CR0_MP	       (1u << 1)
#define CR0_EM	       (1u << 2)
#define CR0_TS	       (1u << 3)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_ALL	       (CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE)
#define NO_VECTOR      256u

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

static void start(struct rig *rig, int bits, u64 cr0, u64 cr4, u64 xcr0)
{
	rig_mode(rig, bits);
	rig->vcpu.ctl.cr0 = (rig->vcpu.ctl.cr0 & ~(u64)(CR0_MP | CR0_EM | CR0_TS)) | cr0;
	rig->vcpu.ctl.cr4 = (rig->vcpu.ctl.cr4 & ~(u64)CR4_ALL) | cr4;
	rig->vcpu.ctl.xcr0 = xcr0;
	interpreter_ops.state_changed(&rig->vcpu);
	native_reset(&rig->vcpu, false);
	rig->vcpu.fpu.fcw = 0x37f;
	rig->vcpu.fpu.ftw = 0;
}

/* Run code and HLT; the vector whose handler was the end, or NO_VECTOR. */
static unsigned int run(struct rig *rig, const u8 *code, size_t len)
{
	u8 buf[64];

	memcpy(buf, code, len);
	buf[len] = 0xf4;
	assert_int_equal(rig_run_code(rig, buf, len + 1), KVM_EXIT_HLT);
	for (unsigned int v = 0; v < 32; v++)
		if (rig->vcpu.ctl.rip == rig_handler(v) + 1)
			return v;
	return NO_VECTOR;
}

#define RUN(rig, ...) run(rig, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* SDM vol. 3, table 2-2; vol. 2, exception classes. */
static void test_control_bits(void **state)
{
	static const struct {
		u8 code[6];
		u8 len;
		u64 cr0, cr4, xcr0;
		unsigned int vector;
	} cases[] = {
		{{0x0f, 0x58, 0xca}, 3, 0, CR4_ALL, 7, NO_VECTOR}, /* addps */
		{{0x0f, 0x58, 0xca}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR},
		{{0x0f, 0x58, 0xca}, 3, CR0_EM, CR4_ALL, 7, UD_VECTOR},
		{{0x0f, 0x58, 0xca}, 3, CR0_EM | CR0_TS, CR4_ALL, 7, UD_VECTOR},
		{{0x0f, 0x58, 0xca}, 3, 0, CR4_OSXSAVE, 7, UD_VECTOR},
		{{0x0f, 0x58, 0xca}, 3, 0, CR4_OSFXSR, 0, NO_VECTOR},
		{{0x0f, 0x58, 0x0b}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR},	      /* from memory */
		{{0x66, 0x0f, 0xd7, 0xc1}, 4, CR0_TS, CR4_ALL, 7, NM_VECTOR}, /* pmovmskb */
		{{0xc5, 0xf4, 0x58, 0xca}, 4, 0, CR4_ALL, 7, NO_VECTOR},      /* vaddps */
		{{0xc5, 0xf4, 0x58, 0xca}, 4, CR0_TS, CR4_ALL, 7, NM_VECTOR},
		{{0xc5, 0xf4, 0x58, 0xca}, 4, CR0_EM, CR4_ALL, 7, NO_VECTOR},
		{{0xc5, 0xf4, 0x58, 0xca}, 4, 0, CR4_OSFXSR, 7, UD_VECTOR},
		{{0xc5, 0xf4, 0x58, 0xca}, 4, CR0_TS, CR4_ALL, 3, UD_VECTOR},
		{{0xc5, 0xf8, 0x77}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR}, /* vzeroupper */
		{{0xc4, 0xe2, 0xf0, 0xf2, 0xc2}, 5, CR0_TS | CR0_EM, 0, 1, NO_VECTOR}, /* andn */
		{{0xd9, 0xe8}, 2, 0, 0, 1, NO_VECTOR},				       /* fld1 */
		{{0xd9, 0xe8}, 2, CR0_EM, CR4_ALL, 7, NM_VECTOR},
		{{0xd9, 0xe8}, 2, CR0_TS, CR4_ALL, 7, NM_VECTOR},
		{{0xdb, 0xe3}, 2, CR0_TS, CR4_ALL, 7, NM_VECTOR},    /* fninit */
		{{0x9b}, 1, CR0_TS | CR0_MP, CR4_ALL, 7, NM_VECTOR}, /* fwait */
		{{0x9b}, 1, CR0_TS, CR4_ALL, 7, NO_VECTOR},
		{{0x9b}, 1, CR0_EM, CR4_ALL, 7, NO_VECTOR},
		{{0x0f, 0xfc, 0xca}, 3, 0, 0, 1, NO_VECTOR}, /* paddb mm */
		{{0x0f, 0xfc, 0xca}, 3, CR0_EM | CR0_TS, CR4_ALL, 7, UD_VECTOR},
		{{0x0f, 0xfc, 0xca}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR},
		{{0x0f, 0x77}, 2, CR0_TS, CR4_ALL, 7, NM_VECTOR},	/* emms */
		{{0x0f, 0xae, 0x03}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR}, /* fxsave */
		{{0x0f, 0xae, 0x03}, 3, CR0_EM, CR4_ALL, 7, NM_VECTOR},
		{{0x0f, 0xae, 0x1b}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR}, /* stmxcsr */
		{{0x0f, 0xae, 0x1b}, 3, 0, 0, 1, UD_VECTOR},
		{{0x0f, 0xae, 0x23}, 3, 0, CR4_OSFXSR, 7, UD_VECTOR}, /* xsave */
		{{0x0f, 0xae, 0x23}, 3, CR0_TS, CR4_ALL, 7, NM_VECTOR},
		{{0x0f, 0xae, 0x23}, 3, CR0_EM, CR4_ALL, 7, NO_VECTOR},
	};
	struct rig *rig = *state;

	for (int bits = 32; bits <= 64; bits += 32) {
		for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
			start(rig, bits, cases[i].cr0, cases[i].cr4, cases[i].xcr0);
			rig->vcpu.ctl.gpr[RBX] = RIG_DATA;
			if (run(rig, cases[i].code, cases[i].len) != cases[i].vector)
				fail_msg("case %u in %d-bit mode", i, bits);
		}
	}
}

static u32 host_mxcsr(void)
{
	u32 value;

	__asm__ volatile("stmxcsr %0" : "=m"(value));
	return value;
}

static void put_floats(struct rig *rig, int reg, float a)
{
	for (int i = 0; i < 4; i++)
		memcpy(rig->vcpu.fpu.ymm[reg] + 4 * i, &a, 4);
}

/* Flags and rounding are the guest's, and the host's own MXCSR comes back. */
static void test_mxcsr(void **state)
{
	struct rig *rig = *state;
	u32 before = host_mxcsr() & ~0x3fu, up, down;

	start(rig, 64, 0, CR4_ALL, 7);
	put_floats(rig, 1, 1.0f);
	put_floats(rig, 2, 1e-20f);
	rig->vcpu.fpu.mxcsr = 0x1f80 | 2 << 13; /* up */
	assert_int_equal(RUN(rig, 0x0f, 0x58, 0xca), NO_VECTOR);
	memcpy(&up, rig->vcpu.fpu.ymm[1], 4);
	assert_int_equal(rig->vcpu.fpu.mxcsr, 0x1fa0 | 2 << 13);
	start(rig, 64, 0, CR4_ALL, 7);
	put_floats(rig, 1, 1.0f);
	put_floats(rig, 2, 1e-20f);
	assert_int_equal(RUN(rig, 0x0f, 0x58, 0xca), NO_VECTOR);
	memcpy(&down, rig->vcpu.fpu.ymm[1], 4);
	assert_int_equal(up, down + 1);
	assert_int_equal(host_mxcsr() & ~0x3fu, before);
	/* a value with a reserved bit */
	start(rig, 64, 0, CR4_ALL, 7);
	rig->vcpu.ctl.gpr[RBX] = RIG_DATA;
	memcpy(rig->ram + RIG_DATA, (u32[]){0x11f80}, 4);
	assert_int_equal(RUN(rig, 0x0f, 0xae, 0x13), GP_VECTOR);
	assert_int_equal(rig->vcpu.fpu.mxcsr, 0x1f80);
}

/* divps by zero, unmasked: nothing is written; the vector depends on OSXMMEXCPT. */
static void test_simd_exception(void **state)
{
	static const u64 cr4[2] = {CR4_ALL, CR4_OSFXSR | CR4_OSXSAVE};
	static const unsigned int vector[2] = {XM_VECTOR, UD_VECTOR};
	struct rig *rig = *state;

	for (int i = 0; i < 2; i++) {
		float one = 1.0f;

		start(rig, 64, 0, cr4[i], 7);
		put_floats(rig, 1, one);
		rig->vcpu.fpu.mxcsr = 0x1f80 & ~0x200u;
		assert_int_equal(RUN(rig, 0x0f, 0x5e, 0xca), vector[i]);
		assert_memory_equal(rig->vcpu.fpu.ymm[1], &one, 4);
		assert_int_equal(rig->vcpu.fpu.mxcsr, (0x1f80 & ~0x200u) | 4);
		assert_int_equal(host_mxcsr() & 0x1f80, 0x1f80);
	}
}

/* fldz; fld1; fdiv st, st(1) with ZM clear: pending, seen by FNSTSW, #MF at FWAIT and at MMX. */
static void test_x87_exception(void **state)
{
	static const u8 code[] = {0xd9, 0xee, 0xd9, 0xe8, 0xd8, 0xf1, 0xdf, 0xe0};
	static const u8 tail[3][3] = {{0x9b}, {0xd9, 0xe8}, {0x0f, 0xfc, 0xc0}};
	static const u8 tail_len[3] = {1, 2, 3};
	struct rig *rig = *state;
	u16 cw;

	for (int i = 0; i < 3; i++) {
		u8 all[sizeof(code) + 3];

		start(rig, 64, 0, CR4_ALL, 7);
		rig->vcpu.fpu.fcw = 0x37b;
		memcpy(all, code, sizeof(code));
		memcpy(all + sizeof(code), tail[i], 3);
		assert_int_equal(run(rig, all, sizeof(code) + tail_len[i]), MF_VECTOR);
		assert_int_equal(rig->vcpu.ctl.gpr[RAX] & 0x8084, 0x8084);
		assert_int_equal(rig->vcpu.fpu.fip, RIG_CODE + 4);
	}
	/* masked it is just a flag, and the host's unit is clean afterwards */
	start(rig, 64, 0, CR4_ALL, 7);
	assert_int_equal(run(rig, code, sizeof(code)), NO_VECTOR);
	assert_int_equal(rig->vcpu.fpu.fsw & 0x84, 4);
	assert_int_equal(rig->vcpu.fpu.ftw, 0xc0);
	assert_false(rig->vcpu.fpu.x87_live);
	__asm__ volatile("fnstcw %0" : "=m"(cw));
	assert_int_equal(cw, 0x37f);
}

/* ---- XSAVE: SDM vol. 1, 13.4 to 13.9 ---- */

static u64 area64(struct rig *rig, unsigned int off)
{
	u64 v;

	memcpy(&v, rig->ram + RIG_DATA + off, 8);
	return v;
}

static unsigned int xsave_op(struct rig *rig, u8 digit, u64 request)
{
	rig->vcpu.ctl.gpr[RBX] = RIG_DATA;
	rig->vcpu.ctl.gpr[RAX] = request;
	return RUN(rig, 0x0f, 0xae, (u8)(digit << 3 | 3));
}

static void test_xsave(void **state)
{
	struct rig *rig = *state;
	u8 *area = rig->ram + RIG_DATA;

	start(rig, 64, 0, CR4_ALL, 7);
	memset(area, 0xaa, 1024);
	memset(area + 512, 0, 64);
	area[512] = 2; /* was: SSE */
	memset(rig->vcpu.fpu.ymm[3] + 16, 0x33, 16);
	assert_int_equal(xsave_op(rig, 4, 4), NO_VECTOR);
	assert_int_equal(area64(rig, 512), 6);
	assert_int_equal(area64(rig, 576 + 48), 0x3333333333333333);
	assert_int_equal(area64(rig, 576 + 64), 0);
	assert_int_equal(area64(rig, 24), 0xffff00001f80); /* MXCSR comes with AVX */
	assert_int_equal(area64(rig, 160), 0xaaaaaaaaaaaaaaaa);
	assert_int_equal(area64(rig, 0), 0xaaaaaaaaaaaaaaaa);
	/* XSAVEOPT leaves out what is initial */
	start(rig, 64, 0, CR4_ALL, 7);
	memset(area + 160, 0xaa, 16);
	assert_int_equal(xsave_op(rig, 6, 6), NO_VECTOR);
	assert_int_equal(area64(rig, 512), 0);
	assert_int_equal(area64(rig, 160), 0xaaaaaaaaaaaaaaaa);
	/* XRSTOR initialises what is not present, and takes MXCSR all the same */
	start(rig, 64, 0, CR4_ALL, 7);
	memset(rig->vcpu.fpu.ymm[1], 0x11, 32);
	memcpy(area + 24, (u32[]){0x3f80}, 4);
	assert_int_equal(xsave_op(rig, 5, 2), NO_VECTOR);
	assert_int_equal(rig->vcpu.fpu.ymm[1][0], 0);
	assert_int_equal(rig->vcpu.fpu.ymm[1][16], 0x11);
	assert_int_equal(rig->vcpu.fpu.mxcsr, 0x3f80);
}

static void test_xrstor_refuses(void **state)
{
	static const struct {
		unsigned int off;
		u8 value;
	} bad[] = {
		{512, 8},			/* a component that XCR0 has not */
		{520, 1},			/* XCOMP_BV */
		{527, 0x80}, {528, 1}, {26, 1}, /* MXCSR */
	};
	struct rig *rig = *state;
	u8 *area = rig->ram + RIG_DATA, full[NATIVE_XSAVE_SIZE];

	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		start(rig, 64, 0, CR4_ALL, 7);
		memset(area, 0, 1024);
		area[bad[i].off] = bad[i].value;
		assert_int_equal(xsave_op(rig, 5, 7), GP_VECTOR);
		assert_int_equal(rig->vcpu.fpu.mxcsr, 0x1f80);
	}
	start(rig, 64, 0, CR4_ALL, 7);
	rig->vcpu.ctl.gpr[RBX] = RIG_DATA + 16;
	assert_int_equal(RUN(rig, 0x0f, 0xae, 0x23), GP_VECTOR);
	/* and from the user */
	native_get_xsave(&rig->vcpu.fpu, full);
	assert_int_equal(native_set_xsave(&rig->vcpu.fpu, full), 0);
	full[513] = 1;
	assert_int_equal(native_set_xsave(&rig->vcpu.fpu, full), -EINVAL);
}

/* ---- other modes ---- */

/* movups xmm1, [bx]; addps xmm1, xmm1; movups [bx + 16], xmm1: in real mode, across a page */
static void test_modes(void **state)
{
	static const u8 code[] = {0x0f, 0x10, 0x0f, 0x0f, 0x58, 0xc9, 0x0f, 0x11, 0x4f, 0x10};
	static const u8 code32[] = {0x0f, 0x10, 0x0b, 0x0f, 0x58, 0xc9, 0x0f, 0x11, 0x4b, 0x10};
	struct rig *rig = *state;
	float f = 1.5f, twice;

	for (int bits = 16; bits <= 64; bits *= 2) {
		u32 at = bits == 16 ? 0x8ff8 : RIG_DATA + 0xff8;

		start(rig, bits, 0, CR4_ALL, 7);
		rig->vcpu.ctl.gpr[RBX] = at;
		for (int i = 0; i < 4; i++)
			memcpy(rig->ram + at + 4 * i, &f, 4);
		assert_int_equal(run(rig, bits == 16 ? code : code32, sizeof(code)), NO_VECTOR);
		memcpy(&twice, rig->ram + at + 16 + 12, 4);
		assert_true(twice == 3.0f);
	}
	/* no VEX in real mode: C5 is LDS, and of a register #UD */
	start(rig, 16, 0, CR4_ALL, 7);
	assert_int_equal(RUN(rig, 0xc5, 0xf4, 0x58, 0xca), UD_VECTOR);
}

/* More forms than there is room for: all stubs go, and execution goes on. */
static void test_eviction(void **state)
{
	static const u8 ops[] = {0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x14, 0x15, 0x16,
				 0x17, 0x20, 0x21, 0x22, 0x40, 0x41, 0x42, 0x44, 0xdf, 0x63};
	struct rig *rig = *state;

	for (unsigned int i = 0; i < ARRAY_SIZE(ops); i++) {
		for (unsigned int imm = 0; imm < 256; imm++) {
			start(rig, 64, 0, CR4_ALL, 7);
			rig->vcpu.ctl.gpr[RBX] = RIG_DATA;
			assert_int_equal(RUN(rig, 0x66, 0x0f, 0x3a, ops[i], 0xca, (u8)imm, 0x66,
					     0x0f, 0x3a, ops[i], 0x0b, (u8)imm, 0xc4, 0xe3, 0x71,
					     ops[i] == 0x17 ? 0x0c : 0x0d, 0x0b, (u8)imm),
					 NO_VECTOR);
		}
	}
	start(rig, 64, 0, CR4_ALL, 7);
	memset(rig->vcpu.fpu.ymm[2], 7, 16);
	assert_int_equal(RUN(rig, 0x66, 0x0f, 0x70, 0xca, 0x1b), NO_VECTOR); /* pshufd */
	assert_memory_equal(rig->vcpu.fpu.ymm[1], rig->vcpu.fpu.ymm[2], 16);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(control_bits), T(mxcsr),	    T(simd_exception), T(x87_exception),
		T(xsave),	 T(xrstor_refuses), T(modes),	       T(eviction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
