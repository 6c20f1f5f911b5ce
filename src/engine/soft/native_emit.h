/* Host code for native_cache.c: pure functions of a form. */
#ifndef NATIVE_EMIT_H
#define NATIVE_EMIT_H

#include "engine/soft/native_int.h"

#define STUB_MAX 320

struct code {
	u8 b[STUB_MAX];
	unsigned int len;
};

/* A native_stub. */
void emit_stub(struct code *c, const struct native_form *f);
/* A uop_fn that does it all, but leaves what is not straight to `slow`. index: the address has one.
 * Only for forms that form_is_fast() allows. */
void emit_operation(struct code *c, const struct native_form *f, bool index, uop_fn *slow);
/* The instruction alone, its operands in the vCPU that host register `vcpu` points to (general
 * registers, too); its memory operand at [mem] (a register below 4). Clobbers RAX, and leaves the
 * flags it makes in the host's. Only for forms that form_is_fast() allows. */
void emit_inline(struct code *c, const struct native_form *f, const struct uop *u,
		 unsigned int vcpu, unsigned int mem);
/* A native_x87_stub. */
void emit_x87(struct code *c, u8 opcode, u8 modrm);

bool form_is_fast(const struct native_form *f);
/* The operands of this form, see native_tab.h. */
void form_operands(const struct native_form *f, u8 *reg, u8 *rm, u8 *vvvv);
u8 form_size(const struct native_form *f);
u8 form_align(const struct native_form *f);
bool op_writes(u8 kind);
bool op_is_mmx(u8 kind);

#endif
