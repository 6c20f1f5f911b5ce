/*
 * The stubs at the start of the code arena: how the interpreter enters host code, and how that
 * leaves, or calls C.
 *
 * Inside, RBP is the vCPU, the guest's registers are where tr_host[] says, and the stack has a
 * frame of FRAME bytes under the saved registers. ctl.rip is the linear address of the *page* of
 * the block; a stub that leaves makes it that of the block again.
 */
#include "engine/soft/translate_int.h"

#include <string.h>

/* Room for a local, and the alignment of calls. */
#define FRAME 24

/* Host registers below R8 make shorter code; RCX is the guest's own, for shifts by CL. */
const u8 tr_host[16] = {
	[RAX] = X_BX,  [RCX] = X_CX, [RDX] = X_DI,   [RBX] = X_R12,  [RSP] = X_R13,  [RBP] = X_R14,
	[RSI] = X_R8,  [RDI] = X_R9, [R8] = X_R10,   [R9] = X_R11,   [R10] = X_NONE, [R11] = X_NONE,
	[R12] = X_R15, [R13] = X_SI, [R14] = X_NONE, [R15] = X_NONE,
};

static const u8 saved[] = {X_BX, X_BP, X_R12, X_R13, X_R14, X_R15};

static void emit_push(struct emit *e, unsigned int reg)
{
	if (reg >= X_R8)
		emit8(e, 0x41);
	emit8(e, (u8)(0x50 | (reg & 7)));
}

static void emit_pop(struct emit *e, unsigned int reg)
{
	if (reg >= X_R8)
		emit8(e, 0x41);
	emit8(e, (u8)(0x58 | (reg & 7)));
}

void tr_spill(struct emit *e)
{
	for (u8 i = 0; i < 16; i++)
		if (tr_host[i] != X_NONE)
			emit_store(e, SIZE_64, op_vcpu(8 * i), tr_host[i]);
}

void tr_reload(struct emit *e)
{
	for (u8 i = 0; i < 16; i++)
		if (tr_host[i] != X_NONE)
			emit_load(e, SIZE_64, tr_host[i], op_vcpu(8 * i));
}

static void emit_epilogue(struct emit *e)
{
	emit_alu_imm(e, E_ADD, SIZE_64, op_reg(X_SP), FRAME, false);
	for (unsigned int i = ARRAY_SIZE(saved); i-- > 0;)
		emit_pop(e, saved[i]);
}

/* jmp [reg + disp] */
static void emit_jmp_mem(struct emit *e, unsigned int reg, s32 disp)
{
	emit_rm(e, 0xff, SIZE_32, 4, op_mem(reg, disp));
}

/* The interpreter goes on at the uop in RSI; registers are in the vCPU. */
static void emit_go_on(struct emit *e)
{
	emit_load(e, SIZE_64, X_DI, op_reg(X_VCPU));
	emit_epilogue(e);
	emit_jmp_mem(e, X_SI, 0);
}

static void emit_call_c(struct emit *e, uintptr_t fn)
{
	emit_load(e, SIZE_64, X_DI, op_reg(X_VCPU));
	emit_mov_imm(e, X_AX, fn);
	emit_rm(e, 0xff, SIZE_32, 2, op_reg(X_AX));
}

static void stub_enter(struct emit *e)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(saved); i++)
		emit_push(e, saved[i]);
	emit_alu_imm(e, E_SUB, SIZE_64, op_reg(X_SP), FRAME, false);
	emit_load(e, SIZE_64, X_VCPU, op_reg(X_DI));
	emit_load(e, SIZE_64, X_AX, op_reg(X_SI));
	tr_reload(e);
	emit_load(e, SIZE_64, X_DX, op_vcpu(VCPU_OFF(ctl.rip)));
	emit_jmp_mem(e, X_AX, (s32)offsetof(struct block, code) - (s32)offsetof(struct block, uop));
}

/* RAX: uop, RDX: rip. */
static void stub_untranslated(struct emit *e)
{
	emit_store(e, SIZE_64, op_vcpu(VCPU_OFF(ctl.rip)), X_DX);
	tr_spill(e);
	emit_load(e, SIZE_64, X_SI, op_reg(X_AX));
	emit_go_on(e);
}

/* By the function in struct tr_leave: the uop's own may be `enter`. */
static void stub_leave(struct emit *e)
{
	tr_spill(e);
	emit_rm(e, 0x0fb7, SIZE_32, X_DX, op_mem(X_AX, offsetof(struct tr_leave, page_off)));
	emit_alu_to(e, E_ADD, SIZE_64, op_vcpu(VCPU_OFF(ctl.rip)), X_DX, false);
	emit_load(e, SIZE_64, X_SI, op_mem(X_AX, offsetof(struct tr_leave, uop)));
	emit_load(e, SIZE_64, X_DI, op_reg(X_VCPU));
	emit_epilogue(e);
	emit_jmp_mem(e, X_AX, offsetof(struct tr_leave, fn));
}

/*
 * The interpreter's function on a copy of the uop. After the copy comes one whose function returns
 * it, so every function that just goes on comes back with that; its imm is the uop that really
 * comes next, for the case that something was dropped meanwhile: this block, perhaps.
 */
static void emit_call_op(struct emit *e, bool go_on)
{
	u32 leaves, dropped = 0;

	emit_alu_imm(e, E_SUB, SIZE_64, op_reg(X_SP), 8, false);
	tr_spill(e);
	emit_load(e, SIZE_64, X_SI, op_reg(X_AX));
	emit_lea(e, SIZE_64, X_R12, op_mem(X_SI, sizeof(struct uop)));
	emit_load(e, SIZE_64, X_BX, op_vcpu(VCPU_OFF(cpu)));
	emit_load(e, SIZE_32, X_R13, op_mem(X_BX, CPU_OFF(blocks.drops)));
	emit_load(e, SIZE_64, X_DI, op_reg(X_VCPU));
	emit_rm(e, 0xff, SIZE_32, 2, op_mem(X_SI, 0));
	emit_alu(e, E_CMP, SIZE_64, X_AX, op_reg(X_R12));
	leaves = emit_jcc(e, CC_NZ);
	if (go_on) {
		emit_alu(e, E_CMP, SIZE_32, X_R13, op_mem(X_BX, CPU_OFF(blocks.drops)));
		dropped = emit_jcc(e, CC_NZ);
		tr_reload(e);
		emit_alu_imm(e, E_ADD, SIZE_64, op_reg(X_SP), 8, false);
		emit8(e, 0xc3);
		emit_here(e, dropped);
	}
	emit_load(e, SIZE_64, X_SI, op_mem(X_R12, offsetof(struct uop, imm)));
	emit_rm(e, 0x0fb7, SIZE_32, X_AX, op_mem(X_R12, offsetof(struct uop, off)));
	emit_alu_to(e, E_ADD, SIZE_64, op_vcpu(VCPU_OFF(ctl.rip)), X_AX, false);
	emit_alu_imm(e, E_ADD, SIZE_64, op_reg(X_SP), 16, false);
	emit_go_on(e);

	emit_here(e, leaves); /* the operation has made ctl.rip true */
	emit_alu_imm(e, E_ADD, SIZE_64, op_reg(X_SP), 16, false);
	emit_epilogue(e);
	emit8(e, 0xc3);
}

static void stub_call(struct emit *e)
{
	emit_call_op(e, true);
}

static void stub_call_leave(struct emit *e)
{
	emit_call_op(e, false);
}

static void stub_link(struct emit *e)
{
	emit_rm(e, 0x0fb7, SIZE_32, X_DX, op_mem(X_AX, offsetof(struct tr_edge, page_off)));
	emit_alu_to(e, E_ADD, SIZE_64, op_vcpu(VCPU_OFF(ctl.rip)), X_DX, false);
	tr_spill(e);
	emit_load(e, SIZE_64, X_SI, op_reg(X_AX));
	emit_call_c(e, (uintptr_t)translate_link);
	emit_epilogue(e);
	emit8(e, 0xc3);
}

/* A miss of the tag: RAX is the entry, which has the address. The next stub follows. */
static void stub_lookup_entry(struct emit *e)
{
	emit_load(e, SIZE_64, X_DX, op_mem(X_AX, CPU_OFF(blocks.jump)));
	while (e->len % 16)
		emit8(e, 0x90);
}

/* RDX: rip. */
static void stub_lookup(struct emit *e)
{
	emit_store(e, SIZE_64, op_vcpu(VCPU_OFF(ctl.rip)), X_DX);
	tr_spill(e);
	emit_call_c(e, (uintptr_t)translate_lookup);
	emit_epilogue(e);
	emit8(e, 0xc3);
}

/* RDX: rip. The same, where the jump cache may have the block. */
static void stub_cached(struct emit *e)
{
	const s32 jump = CPU_OFF(blocks.jump);
	u32 no[3];

	emit_alu_imm(e, E_CMP, SIZE_32, op_vcpu(VCPU_OFF(exit_request)), 0, false);
	no[0] = emit_jcc(e, CC_NZ);
	tr_jump_slot(e);
	emit_alu(e, E_CMP, SIZE_64, X_DX,
		 op_mem(X_AX, jump + (s32)offsetof(struct jump_entry, rip)));
	no[1] = emit_jcc(e, CC_NZ);
	emit_store(e, SIZE_64, op_mem(X_SP, 0), X_DX);
	emit_shift_imm(e, 5, SIZE_64, op_reg(X_DX), 63);
	emit_load(e, SIZE_64, X_DX, op_index(X_VCPU, X_DX, 3, VCPU_OFF(jump_tag)));
	emit_alu(e, E_CMP, SIZE_64, X_DX,
		 op_mem(X_AX, jump + (s32)offsetof(struct jump_entry, tag)));
	emit_load(e, SIZE_64, X_DX, op_mem(X_SP, 0));
	no[2] = emit_jcc(e, CC_NZ);
	emit_load(e, SIZE_64, X_AX, op_mem(X_AX, jump + (s32)offsetof(struct jump_entry, uop)));
	emit_jmp_mem(e, X_AX, (s32)offsetof(struct block, code) - (s32)offsetof(struct block, uop));
	for (unsigned int i = 0; i < ARRAY_SIZE(no); i++)
		emit_here(e, no[i]);
	stub_lookup(e);
}

void tr_stubs_init(struct translator *x)
{
	struct emit e = {.b = x->arena.rw, .max = PAGE_SIZE};
	const struct {
		u32 *place;
		void (*make)(struct emit *e);
	} stubs[] = {
		{&x->enter, stub_enter},
		{&x->untranslated, stub_untranslated},
		{&x->leave, stub_leave},
		{&x->call, stub_call},
		{&x->call_leave, stub_call_leave},
		{&x->link, stub_link},
		{&x->lookup_entry, stub_lookup_entry},
		{&x->lookup, stub_lookup},
		{&x->cached, stub_cached},
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(stubs); i++) {
		while (e.len % 16)
			emit8(&e, 0xcc);
		*stubs[i].place = e.len;
		stubs[i].make(&e);
	}
	x->fixed = x->used = (e.len + 63) & ~63u;
}
