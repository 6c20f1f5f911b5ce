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
