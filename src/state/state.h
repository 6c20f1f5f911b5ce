/*
 * Saved state: one description does both saving and loading. A device class points at a
 * struct state_desc, or at STATE_NONE (nothing to save) or STATE_UNMIGRATABLE (saving refuses).
 *
 * The encoding is self-describing (field name, size, count), so a reader skips what it does not
 * know and keeps its own value for what is missing: fields are added at the end, never reused. What
 * is loaded is hostile; `loaded` must validate it.
 */
#ifndef STATE_STATE_H
#define STATE_STATE_H

#include "base/err.h"
#include "base/str.h"
#include "base/types.h"

enum state_kind {
	STATE_UINT,   /* u8, u16, u32 or u64, `count` of them, little-endian */
	STATE_BYTES,  /* `size` opaque bytes */
	STATE_STRUCT, /* `count` structures described by `desc`, `size` bytes apart */
	STATE_BOOL,   /* any byte but 0 loads as true */
};

struct state_field {
	const char *name; /* 31 bytes at most */
	enum state_kind kind;
	size_t offset, size, count;
	const struct state_desc *desc;
};

struct state_desc {
	const char *name;
	u32 version;			  /* of this description; a newer one is refused */
	const struct state_field *fields; /* ends with a NULL name */
	void (*saving)(void *object);	  /* make the fields true; may be NULL */
	int (*loaded)(void *object, struct err *err); /* check, derive the rest; may be NULL */
};

#define STATE_KIND(x) _Generic((x), bool : STATE_BOOL, default : STATE_UINT)

#define STATE_FIELD(type, member)                                                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND(((type *)0)->member),                          \
		.offset = offsetof(type, member), .size = sizeof(((type *)0)->member), .count = 1  \
	}
#define STATE_ARRAY(type, member)                                                                  \
	{                                                                                          \
		.name = #member, .kind = STATE_KIND(((type *)0)->member[0]),                       \
		.offset = offsetof(type, member), .size = sizeof(((type *)0)->member[0]),          \
		.count = ARRAY_SIZE(((type *)0)->member)                                           \
	}
#define STATE_BUFFER(type, member)                                                                 \
	{                                                                                          \
		.name = #member, .kind = STATE_BYTES, .offset = offsetof(type, member),            \
		.size = sizeof(((type *)0)->member), .count = 1                                    \
	}
#define STATE_NESTED(type, member, d)                                                              \
	{                                                                                          \
		.name = #member, .kind = STATE_STRUCT, .offset = offsetof(type, member),           \
		.size = sizeof(((type *)0)->member), .count = 1, .desc = &(d)                      \
	}
#define STATE_NESTED_ARRAY(type, member, d)                                                        \
	{                                                                                          \
		.name = #member, .kind = STATE_STRUCT, .offset = offsetof(type, member),           \
		.size = sizeof(((type *)0)->member[0]), .count = ARRAY_SIZE(((type *)0)->member),  \
		.desc = &(d)                                                                       \
	}
#define STATE_END                                                                                  \
	{                                                                                          \
		.name = NULL                                                                       \
	}

extern const struct state_desc state_none_desc, state_unmigratable_desc;
#define STATE_NONE	   (&state_none_desc)
#define STATE_UNMIGRATABLE (&state_unmigratable_desc)

/* Append the state of object to out. -ENOTSUP for STATE_UNMIGRATABLE, -ENOMEM. */
int state_save(const struct state_desc *desc, void *object, struct str *out);

/* Read what state_save() wrote: exactly len bytes. -EINVAL or what `loaded` says, with the
 * reason; the object may be partly changed then and must be reset. */
int state_load(const struct state_desc *desc, void *object, const void *data, size_t len,
	       struct err *err);

#endif
