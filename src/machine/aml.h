/*
 * A builder of ACPI Machine Language (ACPI 6.4, chapter 20) and of resource templates (6.4). Text
 * grows in a struct str; what goes wrong (memory, nesting) is kept there and checked once at the
 * end.
 *
 *	aml_device(&a, "COM1");
 *	aml_name_eisaid(&a, "_HID", "PNP0501");
 *	aml_name_int(&a, "_UID", 1);
 *	aml_end(&a);
 */
#ifndef MACHINE_AML_H
#define MACHINE_AML_H

#include "base/str.h"
#include "base/types.h"

#define AML_DEPTH 16

struct aml {
	struct str out;
	size_t open[AML_DEPTH]; /* where the contents of each open block start */
	unsigned int depth;
};

/* Blocks: each is closed by aml_end(). A path is "NAME", "\\_SB.PCI0" or "^NAME"; names shorter
 * than four characters are filled up with '_'. */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned int args, bool serialized);
void aml_package(struct aml *a, u8 elements);
void aml_if(struct aml *a);   /* followed by the condition, then the body */
void aml_else(struct aml *a); /* right after the aml_end() of its aml_if() */
void aml_end(struct aml *a);

/* Values. */
void aml_int(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *text);
void aml_buffer(struct aml *a, const void *data, size_t len);
/* "PNP0501" as the integer that stands for it (19.6.37). */
void aml_eisaid(struct aml *a, const char *id);
/* "33DB4D5B-1FF7-401C-9657-7441C03DD766" as a buffer of 16 bytes (19.6.142). */
void aml_uuid(struct aml *a, const char *uuid);
void aml_path(struct aml *a, const char *path);
void aml_arg(struct aml *a, unsigned int n);
void aml_local(struct aml *a, unsigned int n);

/* Name (name, value): aml_name() is followed by the value. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, u64 value);
void aml_name_string(struct aml *a, const char *name, const char *text);
void aml_name_eisaid(struct aml *a, const char *name, const char *id);
/* Name (name, ResourceTemplate): ends and frees res. */
void aml_name_resources(struct aml *a, const char *name, struct str *res);

/* Operators: followed by their operands in order (20.2.5). */
enum aml_op {
	AML_STORE = 0x70,
	AML_AND = 0x7b,
	AML_OR = 0x7d,
	AML_CREATE_DWORD_FIELD = 0x8a,
	AML_NOT = 0x92,
	AML_EQUAL = 0x93,
	AML_RETURN = 0xa4,
};
void aml_op(struct aml *a, enum aml_op op);

/* Resource descriptors, added to a string that starts empty. */
void res_io(struct str *res, u16 base, u8 len);
void res_irq(struct str *res, unsigned int irq);		/* ISA: edge, high */
void res_interrupt(struct str *res, u32 gsi);			/* level, high, exclusive */
void res_memory32(struct str *res, u32 base, u32 size);		/* read-write, fixed */
void res_bus_window(struct str *res, u16 first, u16 last);	/* bus numbers of a host bridge */
void res_io_window(struct str *res, u16 first, u16 last);	/* ports a host bridge forwards */
void res_memory_window32(struct str *res, u32 first, u32 last); /* memory, not cacheable */
void res_memory_window64(struct str *res, u64 first, u64 last);

#endif
