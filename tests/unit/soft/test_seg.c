/* Segments, far transfers, task switches and the delivery of events, over hand-made tables. */
#include <stdarg.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/endian.h"
#include "engine/soft/excp.h"
#include "engine/soft/seg.h"
#include "fake.h"

#define V (&fake->vcpu)
#define C (&fake->vcpu.ctl)

#define GDT 0x1000
#define IDT 0x2000
#define TSS 0x3000
#define LDT 0x4000

/* Selectors of the table that setup() makes. */
enum {
	K_CODE = 0x08,
	K_DATA = 0x10,
	U_CODE = 0x18,
	U_DATA = 0x20,
	K_CODE32 = 0x28,
	CONF = 0x30,
	GATE = 0x38,
	TSS_A = 0x40, /* and 0x48 in long mode */
	TSS_B = 0x50,
	LDT_SEL = 0x58,
	NOT_PRESENT = 0x60,
	EXEC_ONLY = 0x68,
	READ_ONLY = 0x70,
	TASK_GATE_SEL = 0x78,
	WIDE_GATE = 0x80, /* and 0x88 */
	GDT_END = 0x90
};

#define DPL(n) ((u64)(n) << 45)
#define CODE   0x00009b000000ffffULL
#define DATA   0x000093000000ffffULL
#define FLAT   0x008f000000000000ULL
#define LONG   BIT(53)
#define BIG    BIT(54)

#define DR6_FIXED_BITS 0xffff0ff0

static void set_desc(u16 selector, u64 raw)
{
	*ram64(GDT + (selector & ~7u)) = raw;
}

static u64 system_desc(u64 base, u32 limit, u8 type)
{
	return (base & 0xffffff) << 16 | (base & 0xff000000) << 32 | (limit & 0xffff) |
	       (u64)(0x80 | type) << 40;
}

static u64 gate32(u16 selector, u32 offset, u8 type, u8 dpl, u8 count)
{
	return (offset & 0xffff) | (u64)selector << 16 | (u64)count << 32 |
	       (u64)(0x80 | type) << 40 | DPL(dpl) | (u64)(offset & 0xffff0000) << 32;
}

static void gate64(u64 at, u16 selector, u64 offset, u8 type, u8 dpl, u8 ist)
{
	*ram64(at) = gate32(selector, (u32)offset, type, dpl, ist);
	*ram64(at + 8) = offset >> 32;
}

static void load_cs(u16 selector, u8 cpl)
{
	struct desc d = {.raw = *ram64(GDT + (selector & ~7u))};

	desc_to_segment(&d, (u16)((selector & ~3u) | cpl), &C->seg[SEG_CS]);
	C->cpl = cpl;
	mmu_update_class(V);
}

static void load_data(int seg, u16 selector)
{
	struct desc d = {.raw = *ram64(GDT + (selector & ~7u))};

	desc_to_segment(&d, selector, &C->seg[seg]);
}

static void tables(u64 code_bits)
{
	C->gdtr = (struct desc_ptr){GDT, GDT_END - 1};
	C->idtr = (struct desc_ptr){IDT, 0xfff};
	set_desc(K_CODE, CODE | FLAT | code_bits);
	set_desc(K_DATA, DATA | FLAT | BIG);
	set_desc(U_CODE, CODE | FLAT | code_bits | DPL(3));
	set_desc(U_DATA, DATA | FLAT | BIG | DPL(3));
	set_desc(K_CODE32, CODE | FLAT | BIG);
	set_desc(CONF, CODE | FLAT | code_bits | BIT(42));
	set_desc(NOT_PRESENT, (DATA | FLAT | BIG | DPL(3)) & ~BIT(47));
	set_desc(EXEC_ONLY, (CODE | FLAT | code_bits) & ~BIT(41));
	set_desc(READ_ONLY, (DATA | FLAT | BIG | DPL(3)) & ~BIT(41));
	set_desc(LDT_SEL, system_desc(LDT, 0xf, DESC_LDT));
	segment_null(&C->seg[SEG_LDTR], 0);
	C->seg[SEG_TR] = (struct segment){
		.base = TSS, .limit = 0x2067, .selector = TSS_A, .type = 11, .present = 1};
}

/* Long mode; the tests run unpaged memory through a map of large pages 1:1. */
static int setup64(void **state)
{
	fake_new();
	*ram64(0x8000) = 0x9000 | 7;
	*ram64(0x9000) = 0x87;
	C->cr3 = 0x8000;
	C->cr0 |= X86_CR0_PG | X86_CR0_WP;
	tables(LONG);
	load_cs(K_CODE, 0);
	load_data(SEG_SS, K_DATA);
	C->gpr[RSP] = 0x20000;
	mmu_flush_all(V);
	return 0;
}

static int setup32(void **state)
{
	fake_new();
	C->efer = 0;
	C->cr4 = 0;
	tables(BIG);
	set_desc(TSS_A, system_desc(TSS, 0x67, DESC_TSS32_BUSY));
	load_cs(K_CODE, 0);
	for (int i = SEG_ES; i <= SEG_GS; i++)
		if (i != SEG_CS)
			load_data(i, K_DATA);
	C->gpr[RSP] = 0x20000;
	mmu_flush_all(V);
	return 0;
}

static int teardown(void **state)
{
	fake_free();
	return 0;
}

static void expect(enum fake_outcome r, u8 vector, u32 error)
{
	assert_int_equal(r, FAKE_EXCEPTION);
	assert_int_equal(fake->vector, vector);
	assert_true(fake->has_error);
	assert_int_equal(fake->error, error);
}

/* Leave for CPL 3 by hand. */
static void to_user(void)
{
	load_cs(U_CODE, 3);
	load_data(SEG_SS, U_DATA | 3);
	C->gpr[RSP] = 0x30000;
}

/* ---- loads ---- */

static void data_loads(void **state)
{
	seg_load(V, SEG_DS, U_DATA | 3);
	assert_int_equal(C->seg[SEG_DS].limit, 0xffffffff);
	assert_int_equal(C->seg[SEG_DS].dpl, 3);
	seg_load(V, SEG_ES, 0);
	assert_true(C->seg[SEG_ES].unusable);
	expect(FAKE_TRY(seg_load(V, SEG_DS, GDT_END)), GP_VECTOR, GDT_END);
	expect(FAKE_TRY(seg_load(V, SEG_DS, NOT_PRESENT | 3)), NP_VECTOR, NOT_PRESENT);
	expect(FAKE_TRY(seg_load(V, SEG_SS, NOT_PRESENT)), GP_VECTOR, NOT_PRESENT);
	expect(FAKE_TRY(seg_load(V, SEG_DS, EXEC_ONLY)), GP_VECTOR, EXEC_ONLY);
	expect(FAKE_TRY(seg_load(V, SEG_DS, TSS_A)), GP_VECTOR, TSS_A);
	expect(FAKE_TRY(seg_load(V, SEG_SS, 0)), GP_VECTOR, 0);
	expect(FAKE_TRY(seg_load(V, SEG_SS, READ_ONLY)), GP_VECTOR, READ_ONLY);
	expect(FAKE_TRY(seg_load(V, SEG_SS, K_DATA | 1)), GP_VECTOR, K_DATA);
	set_desc(NOT_PRESENT, (DATA | FLAT) & ~BIT(47));
	expect(FAKE_TRY(seg_load(V, SEG_SS, NOT_PRESENT)), SS_VECTOR, NOT_PRESENT);
	to_user();
	expect(FAKE_TRY(seg_load(V, SEG_DS, K_DATA)), GP_VECTOR, K_DATA);
	expect(FAKE_TRY(seg_load(V, SEG_DS, 4)), GP_VECTOR, 4); /* no LDT */
	seg_load(V, SEG_DS, CONF | 3);				/* conforming: readable by all */
	/* The accessed bit is written. */
	set_desc(U_DATA, *ram64(GDT + U_DATA) & ~BIT(40));
	seg_load(V, SEG_DS, U_DATA | 3);
	assert_true(*ram64(GDT + U_DATA) & BIT(40));
}

static void limits(void **state)
{
	struct segment *s = &C->seg[SEG_DS];

	assert_int_equal(seg_linear(V, SEG_DS, 0x1234, 4, ACCESS_READ), 0x1234);
	s->limit = 0xfff;
	s->base = 0xfffff000;
	assert_int_equal(seg_linear(V, SEG_DS, 0xffc, 4, ACCESS_READ), 0xfffffffc);
	expect(FAKE_TRY(seg_linear(V, SEG_DS, 0xffd, 4, ACCESS_READ)), GP_VECTOR, 0);
	s->type |= 4; /* expand down: what was outside is inside */
	expect(FAKE_TRY(seg_linear(V, SEG_DS, 0xfff, 1, ACCESS_READ)), GP_VECTOR, 0);
	assert_int_equal(seg_linear(V, SEG_DS, 0x1000, 4, ACCESS_READ), 0);
	s->db = 0;
	expect(FAKE_TRY(seg_linear(V, SEG_DS, 0xfffe, 4, ACCESS_READ)), GP_VECTOR, 0);
	load_data(SEG_DS, READ_ONLY);
	expect(FAKE_TRY(seg_linear(V, SEG_DS, 0, 1, ACCESS_WRITE)), GP_VECTOR, 0);
	expect(FAKE_TRY(seg_linear(V, SEG_CS, 0, 1, ACCESS_WRITE)), GP_VECTOR, 0);
	C->seg[SEG_SS].limit = 0xff;
	expect(FAKE_TRY(seg_linear(V, SEG_SS, 0x100, 1, ACCESS_WRITE)), SS_VECTOR, 0);
	segment_null(s, 0);
	expect(FAKE_TRY(seg_linear(V, SEG_DS, 0, 1, ACCESS_READ)), GP_VECTOR, 0);
}

static void long_limits(void **state)
{
	C->seg[SEG_DS].base = 0x5000; /* not used */
	C->seg[SEG_FS].base = 0x5000;
	assert_int_equal(seg_linear(V, SEG_DS, 0x10, 8, ACCESS_WRITE), 0x10);
	assert_int_equal(seg_linear(V, SEG_FS, 0x10, 8, ACCESS_WRITE), 0x5010);
	expect(FAKE_TRY(seg_linear(V, SEG_DS, 0x7ffffffffff9, 8, ACCESS_READ)), GP_VECTOR, 0);
	expect(FAKE_TRY(seg_linear(V, SEG_SS, 1ULL << 47, 8, ACCESS_READ)), SS_VECTOR, 0);
}

static void inspect(void **state)
{
	u32 v;

	assert_true(seg_lar(V, U_CODE | 3, &v));
	assert_int_equal(v, 0xcffb00);
	assert_true(seg_lsl(V, U_DATA, &v));
	assert_int_equal(v, 0xffffffff);
	assert_true(seg_lsl(V, TSS_A, &v));
	assert_int_equal(v, 0x67);
	assert_false(seg_lar(V, 0, &v));
	assert_false(seg_lar(V, GDT_END, &v));
	to_user();
	assert_false(seg_lar(V, K_DATA, &v));
	assert_true(seg_verify(V, U_DATA, true));
	assert_false(seg_verify(V, READ_ONLY, true));
	assert_true(seg_verify(V, READ_ONLY, false));
	assert_false(seg_verify(V, K_DATA, false));
	assert_false(seg_verify(V, U_CODE, true));
}

static void table_registers(void **state)
{
	seg_lldt(V, LDT_SEL);
	assert_int_equal(C->seg[SEG_LDTR].base, LDT);
	*ram64(LDT + 8) = DATA | FLAT | BIG;
	seg_load(V, SEG_DS, 8 | 4);
	expect(FAKE_TRY(seg_load(V, SEG_DS, 16 | 4)), GP_VECTOR, 16 | 4);
	expect(FAKE_TRY(seg_lldt(V, K_DATA)), GP_VECTOR, K_DATA);
	expect(FAKE_TRY(seg_ltr(V, TSS_A)), GP_VECTOR, TSS_A); /* busy */
	set_desc(TSS_B, system_desc(TSS + 0x100, 0x67, DESC_TSS32));
	seg_ltr(V, TSS_B);
	assert_int_equal(C->seg[SEG_TR].base, TSS + 0x100);
	assert_int_equal((*ram64(GDT + TSS_B) >> 40) & 15, DESC_TSS32_BUSY);
	expect(FAKE_TRY(seg_ltr(V, 0)), GP_VECTOR, 0);
}

/* ---- far transfers ---- */

static void far_direct(void **state)
{
	u64 rip = far_call(V, CONF, 0x1234, 4, 0x777);

	assert_int_equal(rip, 0x1234);
	assert_int_equal(C->seg[SEG_CS].selector, CONF);
	assert_int_equal(C->gpr[RSP], 0x20000 - 8);
	assert_int_equal(*ram32(0x20000 - 8), 0x777);
	assert_int_equal(*ram32(0x20000 - 4), K_CODE);
	rip = far_return(V, 4, 4);
	assert_int_equal(rip, 0x777);
	assert_int_equal(C->seg[SEG_CS].selector, K_CODE);
	assert_int_equal(C->gpr[RSP], 0x20000 + 4);
	expect(FAKE_TRY(far_jump(V, U_CODE, 0, 0)), GP_VECTOR, U_CODE);
	expect(FAKE_TRY(far_jump(V, K_DATA, 0, 0)), GP_VECTOR, K_DATA);
	expect(FAKE_TRY(far_jump(V, 0, 0, 0)), GP_VECTOR, 0);
	set_desc(K_CODE32, (CODE | BIG) & ~BIT(47));
	expect(FAKE_TRY(far_jump(V, K_CODE32, 0, 0)), NP_VECTOR, K_CODE32);
	set_desc(K_CODE32, CODE | BIG);
	expect(FAKE_TRY(far_jump(V, K_CODE32, 0x10000, 0)), GP_VECTOR, 0);
}

static void call_gate_with_parameters(void **state)
{
	set_desc(GATE, gate32(K_CODE, 0x4321, DESC_CALL32, 3, 2));
	*ram32(TSS + 4) = 0x28000;
	*ram32(TSS + 8) = K_DATA;
	to_user();
	*ram32(0x30000) = 0xaaaa;
	*ram32(0x30004) = 0xbbbb;
	assert_int_equal(far_call(V, GATE | 3, 0x99, 4, 0x555), 0x4321);
	assert_int_equal(C->cpl, 0);
	assert_int_equal(C->seg[SEG_CS].selector, K_CODE);
	assert_int_equal(C->seg[SEG_SS].selector, K_DATA);
	assert_int_equal(C->gpr[RSP], 0x28000 - 24);
	assert_int_equal(*ram32(0x28000 - 4), U_DATA | 3);
	assert_int_equal(*ram32(0x28000 - 8), 0x30000);
	assert_int_equal(*ram32(0x28000 - 12), 0xbbbb);
	assert_int_equal(*ram32(0x28000 - 16), 0xaaaa);
	assert_int_equal(*ram32(0x28000 - 20), U_CODE | 3);
	assert_int_equal(*ram32(0x28000 - 24), 0x555);
	/* Back, with the parameters dropped from both stacks; inner data segments are nulled. */
	load_data(SEG_DS, K_DATA);
	load_data(SEG_ES, U_DATA | 3);
	assert_int_equal(far_return(V, 4, 8), 0x555);
	assert_int_equal(C->cpl, 3);
	assert_int_equal(C->gpr[RSP], 0x30008);
	assert_true(C->seg[SEG_DS].unusable);
	assert_false(C->seg[SEG_ES].unusable);
	/* Checks. */
	expect(FAKE_TRY(far_jump(V, GATE | 3, 0, 0)), GP_VECTOR, K_CODE);
	*ram32(TSS + 8) = U_DATA;
	expect(FAKE_TRY(far_call(V, GATE | 3, 0, 4, 0)), TS_VECTOR, U_DATA);
	set_desc(GATE, gate32(K_CODE, 0x4321, DESC_CALL32, 0, 0));
	expect(FAKE_TRY(far_call(V, GATE | 3, 0, 4, 0)), GP_VECTOR, GATE);
	set_desc(GATE, gate32(0, 0x4321, DESC_CALL32, 3, 0));
	expect(FAKE_TRY(far_call(V, GATE | 3, 0, 4, 0)), GP_VECTOR, 0);
	assert_int_equal(C->cpl, 3);
}

static void call_gate_long(void **state)
{
	gate64(GDT + WIDE_GATE, K_CODE, 0x123456, DESC_CALL32, 3, 0);
	*ram64(TSS + 4) = 0x28000;
	to_user();
	assert_int_equal(far_call(V, WIDE_GATE | 3, 0, 4, 0x555), 0x123456);
	assert_int_equal(C->cpl, 0);
	assert_int_equal(C->seg[SEG_SS].selector, 0);
	assert_true(C->seg[SEG_SS].unusable);
	assert_int_equal(C->gpr[RSP], 0x28000 - 32);
	assert_int_equal(*ram64(0x28000 - 32), 0x555);
	assert_int_equal(*ram64(0x28000 - 16), 0x30000);
	assert_int_equal(far_return(V, 8, 0), 0x555);
	assert_int_equal(C->cpl, 3);
	/* 32-bit code as a target of the gate is not allowed. */
	gate64(GDT + WIDE_GATE, K_CODE32, 0x123456, DESC_CALL32, 3, 0);
	expect(FAKE_TRY(far_call(V, WIDE_GATE | 3, 0, 4, 0)), GP_VECTOR, K_CODE32);
}

/* ---- events, long mode ---- */

static void interrupt_and_iret_long(void **state)
{
	gate64(IDT + 16 * 0x40, K_CODE, 0xffff800000001000, DESC_INT32, 0, 0);
	*ram64(TSS + 4) = 0x28008;
	to_user();
	C->rip = 0x1111;
	C->rflags = 2 | X86_IF | X86_TF;
	V->aflags = rflags_to_aflags(X86_CF);
	excp_interrupt(V, 0x40);
	assert_int_equal(C->rip, 0xffff800000001000);
	assert_int_equal(C->cpl, 0);
	assert_true(C->seg[SEG_SS].unusable);
	assert_int_equal(C->gpr[RSP], 0x28000 - 40); /* aligned to 16 first */
	assert_int_equal(*ram64(0x28000 - 8), U_DATA | 3);
	assert_int_equal(*ram64(0x28000 - 16), 0x30000);
	assert_int_equal(*ram64(0x28000 - 24), 2 | X86_IF | X86_TF | X86_CF);
	assert_int_equal(*ram64(0x28000 - 32), U_CODE | 3);
	assert_int_equal(*ram64(0x28000 - 40), 0x1111);
	assert_int_equal(C->rflags & (X86_IF | X86_TF), 0);
	C->nmi_masked = true;
	assert_int_equal(far_iret(V, 8, 0), 0x1111);
	assert_int_equal(C->cpl, 3);
	assert_int_equal(C->gpr[RSP], 0x30000);
	assert_int_equal(flags_get(V), 2 | X86_IF | X86_TF | X86_CF);
	assert_false(C->nmi_masked);
}

static void exceptions_long(void **state)
{
	gate64(IDT + 16 * PF_VECTOR, K_CODE, 0x5000, DESC_TRAP32, 0, 2);
	*ram64(TSS + 36 + 8) = 0x2a000;
	C->rflags = 2 | X86_IF;
	C->rip = 0x222;
	excp_queue(V, PF_VECTOR, true, 6, 0xdead000);
	assert_int_equal(C->cr2, 0xdead000);
	excp_deliver(V);
	assert_int_equal(C->rip, 0x5000);
	assert_int_equal(C->gpr[RSP], 0x2a000 - 48); /* IST 2, same CPL */
	assert_int_equal(*ram64(0x2a000 - 48), 6);
	assert_int_equal(*ram64(0x2a000 - 40), 0x222);
	assert_int_equal(*ram64(0x2a000 - 24), 2 | X86_IF | X86_RF); /* a fault */
	assert_int_equal(*ram64(0x2a000 - 16), 0x20000);
	assert_true(C->rflags & X86_IF); /* a trap gate */
	assert_false(C->seg[SEG_SS].unusable);
}

static void event_errors(void **state)
{
	to_user();
	/* Gate not there, DPL, not present, wrong type. */
	C->idtr.limit = 16 * 0x40 - 1;
	expect(FAKE_TRY(excp_interrupt(V, 0x40)), GP_VECTOR, 0x40 * 8 + 3);
	expect(FAKE_TRY(excp_software(V, SOFT_INT, 0x40, 0)), GP_VECTOR, 0x40 * 8 + 2);
	gate64(IDT + 16 * 0x30, K_CODE, 0, DESC_INT32, 0, 0);
	expect(FAKE_TRY(excp_software(V, SOFT_INT, 0x30, 0)), GP_VECTOR, 0x30 * 8 + 2);
	*ram64(IDT + 16 * 0x30) &= ~BIT(47);
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), NP_VECTOR, 0x30 * 8 + 3);
	gate64(IDT + 16 * 0x30, K_CODE, 0, DESC_TASK, 0, 0);
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), GP_VECTOR, 0x30 * 8 + 3);
	gate64(IDT + 16 * 0x30, K_DATA, 0, DESC_INT32, 0, 0);
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), GP_VECTOR, K_DATA + 1);
	gate64(IDT + 16 * 0x30, 0, 0, DESC_INT32, 0, 0);
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), GP_VECTOR, 1);
	gate64(IDT + 16 * 0x30, K_CODE32, 0, DESC_INT32, 0, 0);
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), GP_VECTOR, K_CODE32 + 1);
	gate64(IDT + 16 * 0x30, K_CODE, 0, DESC_INT32, 0, 0);
	*ram64(TSS + 4) = 1ULL << 50;
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), SS_VECTOR, 1);
	C->seg[SEG_TR].limit = 8;
	expect(FAKE_TRY(excp_interrupt(V, 0x30)), TS_VECTOR, TSS_A + 1);
	/* Nothing moved. */
	assert_int_equal(C->cpl, 3);
	assert_int_equal(C->gpr[RSP], 0x30000);
	assert_int_equal(C->seg[SEG_CS].selector, U_CODE | 3);
}

static void double_and_triple(void **state)
{
	static const struct {
		u8 first, second, result;
	} rule[] = {
		{GP_VECTOR, GP_VECTOR, DF_VECTOR}, {GP_VECTOR, NP_VECTOR, DF_VECTOR},
		{GP_VECTOR, PF_VECTOR, PF_VECTOR}, {PF_VECTOR, PF_VECTOR, DF_VECTOR},
		{PF_VECTOR, GP_VECTOR, DF_VECTOR}, {UD_VECTOR, GP_VECTOR, GP_VECTOR},
		{GP_VECTOR, UD_VECTOR, UD_VECTOR}, {DE_VECTOR, TS_VECTOR, DF_VECTOR},
		{DB_VECTOR, PF_VECTOR, PF_VECTOR}, {SS_VECTOR, DE_VECTOR, DF_VECTOR},
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(rule); i++) {
		vcpu_mmu(V)->delivering = vcpu_mmu(V)->delivering_exception = true;
		vcpu_mmu(V)->delivering_vector = rule[i].first;
		excp_queue(V, rule[i].second, true, 0x18, 0);
		assert_int_equal(C->exception.nr, rule[i].result);
		assert_int_equal(C->exception.error_code, rule[i].result == DF_VECTOR ? 0 : 0x18);
		assert_false(vcpu_mmu(V)->delivering);
	}
	/* No IDT at all: #GP, then #DF, then shutdown. */
	C->idtr.limit = 0;
	excp_queue(V, UD_VECTOR, false, 0, 0);
	expect(FAKE_TRY(excp_deliver(V)), GP_VECTOR, UD_VECTOR * 8 + 3);
	assert_int_equal(C->exception.nr, GP_VECTOR);
	assert_int_equal(FAKE_TRY(excp_deliver(V)), FAKE_EXCEPTION);
	assert_int_equal(C->exception.nr, DF_VECTOR);
	assert_int_equal(FAKE_TRY(excp_deliver(V)), FAKE_EXIT);
	assert_int_equal(V->run->exit_reason, KVM_EXIT_SHUTDOWN);
	assert_false(C->exception.pending);
	/* An interrupt is benign. */
	expect(FAKE_TRY(excp_interrupt(V, 0x40)), GP_VECTOR, 0x40 * 8 + 3);
	assert_int_equal(C->exception.nr, GP_VECTOR);
}

static void debug_traps(void **state)
{
	gate64(IDT + 16 * DB_VECTOR, K_CODE, 0x5000, DESC_INT32, 0, 0);
	C->dr7 = 0x400 | BIT(13);
	C->dr6 = DR6_FIXED_BITS;
	excp_trap(V, true);
	assert_true(C->exception.pending);
	excp_deliver(V);
	assert_int_equal(C->dr6, DR6_FIXED_BITS | BIT(14));
	assert_int_equal(C->dr7, 0x400);
	excp_trap(V, false);
	assert_false(C->exception.pending);
	vcpu_mmu(V)->watch_hits = 4;
	C->interrupt_shadow_movss = true;
	excp_trap(V, false);
	assert_false(C->exception.pending);
	C->interrupt_shadow_movss = false;
	excp_trap(V, false);
	assert_int_equal(C->exception.payload, 4);
	C->exception.pending = false;
	/* Code breakpoints; RF; the debugger's. */
	C->dr[0] = C->rip = 0x6000;
	C->dr7 = 0x402;
	mmu_update_watchpoints(V);
	assert_true(excp_code_breakpoint(V));
	C->exception.pending = false;
	C->rflags |= X86_RF;
	assert_false(excp_code_breakpoint(V));
	C->rflags &= ~(u64)X86_RF;
	V->guest_debug = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	assert_int_equal(FAKE_TRY(excp_trap(V, true)), FAKE_EXIT);
	assert_int_equal(V->run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(V->run->debug.arch.exception, DB_VECTOR);
	assert_int_equal(V->run->debug.arch.pc, 0x6000);
	assert_int_equal(V->run->debug.arch.dr6 & BIT(14), BIT(14));
}

/* ---- events, elsewhere ---- */

static void real_mode(void **state)
{
	C->cr0 &= ~(u64)X86_CR0_PE;
	C->idtr = (struct desc_ptr){0, 0x3ff};
	C->seg[SEG_SS] = C->seg[SEG_CS] = (struct segment){.limit = 0xffff, .type = 3, .s = 1};
	C->seg[SEG_SS].base = 0x20000;
	C->gpr[RSP] = 0xffff0002;
	C->rflags = 2 | X86_IF;
	C->rip = 0x1234;
	*ram32(4 * 0x21) = 0x5678abcd;
	C->rip = excp_software(V, SOFT_INT, 0x21, 0x1236);
	assert_int_equal(C->rip, 0xabcd);
	assert_int_equal(C->seg[SEG_CS].base, 0x56780);
	assert_int_equal(C->gpr[RSP], 0xfffffffc); /* SP wrapped alone */
	assert_int_equal(*(u16 *)(fake->ram + 0x20000), 2 | X86_IF);
	assert_int_equal(*(u16 *)(fake->ram + 0x2fffe), 0);
	assert_int_equal(*(u16 *)(fake->ram + 0x2fffc), 0x1236);
	assert_int_equal(C->rflags & X86_IF, 0);
	assert_int_equal(far_iret(V, 2, 0), 0x1236);
	assert_int_equal(C->rflags & X86_IF, X86_IF);
	assert_int_equal(C->gpr[RSP], 0xffff0002);
	assert_int_equal(far_jump(V, 0xf000, 0xfff0, 0), 0xfff0);
	assert_int_equal(C->seg[SEG_CS].base, 0xf0000);
	C->idtr.limit = 0x10;
	expect(FAKE_TRY(excp_interrupt(V, 8)), GP_VECTOR, 8 * 8 + 2);
}

static void enter_v86(void)
{
	/* IRET at CPL 0 with VM set. */
	static const u32 frame[] = {
		0x100, 0x2000, X86_VM | X86_IF | 2, 0xfffe, 0x1800, 0x1001, 0x1002, 0x1003, 0x1004};

	C->gpr[RSP] = 0x20000;
	memcpy(fake->ram + 0x20000, frame, sizeof(frame));
	C->rip = far_iret(V, 4, 0);
}

static void v86(void **state)
{
	enter_v86();
	assert_int_equal(C->rip, 0x100);
	assert_int_equal(C->cpl, 3);
	assert_true(is_v86(V));
	assert_int_equal(C->seg[SEG_CS].base, 0x20000);
	assert_int_equal(C->seg[SEG_SS].base, 0x18000);
	assert_int_equal(C->seg[SEG_GS].base, 0x10040);
	assert_int_equal(C->gpr[RSP], 0xfffe);
	/* IOPL 0: INT n is #GP, which goes to the monitor with all segments on its stack. */
	expect(FAKE_TRY(excp_software(V, SOFT_INT, 0x21, 0x102)), GP_VECTOR, 0);
	*ram64(IDT + 8 * GP_VECTOR) = gate32(K_CODE, 0x9000, DESC_INT32, 0, 0);
	*ram32(TSS + 4) = 0x28000;
	*ram32(TSS + 8) = K_DATA;
	excp_deliver(V);
	assert_int_equal(C->rip, 0x9000);
	assert_int_equal(C->cpl, 0);
	assert_false(is_v86(V));
	assert_int_equal(C->gpr[RSP], 0x28000 - 40);
	assert_int_equal(*ram32(0x28000 - 4), 0x1004);	/* GS */
	assert_int_equal(*ram32(0x28000 - 8), 0x1003);	/* FS */
	assert_int_equal(*ram32(0x28000 - 12), 0x1002); /* DS */
	assert_int_equal(*ram32(0x28000 - 16), 0x1001); /* ES */
	assert_int_equal(*ram32(0x28000 - 20), 0x1800); /* SS */
	assert_int_equal(*ram32(0x28000 - 24), 0xfffe);
	assert_int_equal(*ram32(0x28000 - 28), X86_VM | X86_IF | X86_RF | 2);
	assert_int_equal(*ram32(0x28000 - 32), 0x2000);
	assert_int_equal(*ram32(0x28000 - 36), 0x100);
	assert_int_equal(*ram32(0x28000 - 40), 0);
	assert_true(C->seg[SEG_DS].unusable);
	/* And back. */
	C->gpr[RSP] += 4;
	assert_int_equal(far_iret(V, 4, 0), 0x100);
	assert_true(is_v86(V));
	/* A gate to a conforming segment cannot leave the mode. */
	*ram64(IDT + 8 * 0x20) = gate32(CONF, 0x9000, DESC_INT32, 3, 0);
	expect(FAKE_TRY(excp_interrupt(V, 0x20)), GP_VECTOR, CONF + 1);
}

static void v86_vme(void **state)
{
	C->cr4 |= X86_CR4_VME;
	C->seg[SEG_TR].limit = 0x200;
	store_le16(fake->ram + TSS + 102, 0x88); /* redirection bitmap at 0x68 */
	*ram32(4 * 0x21) = 0x50000010;
	enter_v86();
	C->rflags |= X86_VIF;
	C->rip = excp_software(V, SOFT_INT, 0x21, 0x102);
	assert_int_equal(C->rip, 0x10);
	assert_true(is_v86(V));
	assert_int_equal(C->seg[SEG_CS].base, 0x50000);
	assert_int_equal(C->rflags & X86_VIF, 0);
	assert_int_equal(C->rflags & X86_IF, X86_IF);
	assert_int_equal(load_le16(fake->ram + 0x18000 + 0xfffe - 2), 2 | X86_IF | X86_IOPL);
	assert_int_equal(far_iret(V, 2, 0), 0x102);
	assert_int_equal(C->rflags & X86_VIF, X86_VIF);
	/* The bit set: to the monitor, which at IOPL 0 is #GP. */
	fake->ram[TSS + 0x68 + 0x21 / 8] |= 1 << (0x21 % 8);
	expect(FAKE_TRY(excp_software(V, SOFT_INT, 0x21, 0x102)), GP_VECTOR, 0);
}

/* ---- tasks ---- */

#define TSS2 0x3800

static void make_task(u32 eip)
{
	guest_u32 *t = ram32(TSS2);

	memset(t, 0, 104);
	t[1] = 0x29000; /* ESP0 */
	t[2] = K_DATA;
	t[8] = eip;
	t[9] = 2 | X86_CF;
	t[10] = 0xa0; /* EAX */
	t[14] = 0x27000;
	t[18] = U_DATA; /* ES */
	t[19] = K_CODE;
	t[20] = K_DATA;
	t[21] = K_DATA;
	set_desc(TSS_B, system_desc(TSS2, 0x67, DESC_TSS32));
}

static void task_call_and_return(void **state)
{
	make_task(0x7000);
	C->gpr[RAX] = 0x11;
	assert_int_equal(far_call(V, TSS_B, 0, 4, 0x444), 0x7000);
	assert_int_equal(C->gpr[RAX], 0xa0);
	assert_int_equal(C->gpr[RSP], 0x27000);
	assert_int_equal(C->seg[SEG_TR].selector, TSS_B);
	assert_int_equal(C->seg[SEG_ES].selector, U_DATA);
	assert_true(C->rflags & X86_NT);
	assert_true(flags_get(V) & X86_CF);
	assert_true(C->cr0 & X86_CR0_TS);
	assert_int_equal(*ram32(TSS2) & 0xffff, TSS_A); /* link */
	assert_int_equal(*ram32(TSS + 32), 0x444);
	assert_int_equal(*ram32(TSS + 40), 0x11);
	assert_int_equal((*ram64(GDT + TSS_B) >> 40) & 15, DESC_TSS32_BUSY);
	assert_int_equal((*ram64(GDT + TSS_A) >> 40) & 15, DESC_TSS32_BUSY);
	C->gpr[RAX] = 0xb0;
	assert_int_equal(far_iret(V, 4, 0x7002), 0x444);
	assert_int_equal(C->gpr[RAX], 0x11);
	assert_int_equal(C->seg[SEG_TR].selector, TSS_A);
	assert_false(C->rflags & X86_NT);
	assert_int_equal((*ram64(GDT + TSS_B) >> 40) & 15, DESC_TSS32);
	assert_int_equal(*ram32(TSS2 + 40), 0xb0);
	assert_false(*ram32(TSS2 + 36) & X86_NT);
}

static void task_faults(void **state)
{
	make_task(0x7000);
	set_desc(TSS_B, system_desc(TSS2, 0x66, DESC_TSS32));
	expect(FAKE_TRY(far_jump(V, TSS_B, 0, 0)), TS_VECTOR, TSS_B);
	set_desc(TSS_B, system_desc(TSS2, 0x67, DESC_TSS32_BUSY));
	expect(FAKE_TRY(far_jump(V, TSS_B, 0, 0)), GP_VECTOR, TSS_B);
	set_desc(TSS_B, system_desc(TSS2, 0x67, DESC_TSS32) & ~BIT(47));
	expect(FAKE_TRY(far_jump(V, TSS_B, 0, 0)), NP_VECTOR, TSS_B);
	assert_int_equal(C->seg[SEG_TR].selector, TSS_A);
	/* A bad selector in the new task faults there. */
	make_task(0x7000);
	ram32(TSS2)[20] = U_DATA;
	expect(FAKE_TRY(far_jump(V, TSS_B, 0, 0)), TS_VECTOR, U_DATA);
	assert_int_equal(C->seg[SEG_TR].selector, TSS_B);
	assert_int_equal(C->rip, 0x7000);
	assert_int_equal((*ram64(GDT + TSS_A) >> 40) & 15, DESC_TSS32);
}

static void task_gate_exception(void **state)
{
	make_task(0x7000);
	*ram64(IDT + 8 * DF_VECTOR) = gate32(TSS_B, 0, DESC_TASK, 0, 0);
	C->rip = 0x333;
	excp_queue(V, DF_VECTOR, true, 0, 0);
	excp_deliver(V);
	assert_int_equal(C->rip, 0x7000);
	assert_int_equal(*ram32(TSS + 32), 0x333);
	assert_int_equal(C->gpr[RSP], 0x27000 - 4);
	assert_int_equal(*ram32(0x27000 - 4), 0);
}

int main(void)
{
#define T32(name) cmocka_unit_test_setup_teardown(name, setup32, teardown)
#define T64(name) cmocka_unit_test_setup_teardown(name, setup64, teardown)
	const struct CMUnitTest tests[] = {
		T32(data_loads),
		T32(limits),
		T64(long_limits),
		T32(inspect),
		T32(table_registers),
		T32(far_direct),
		T32(call_gate_with_parameters),
		T64(call_gate_long),
		T64(interrupt_and_iret_long),
		T64(exceptions_long),
		T64(event_errors),
		T64(double_and_triple),
		T64(debug_traps),
		T32(real_mode),
		T32(v86),
		T32(v86_vme),
		T32(task_call_and_return),
		T32(task_faults),
		T32(task_gate_exception),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
