/*
 * Option tables: one table describes the keys that `--disk FILE,format=qcow2` or a sub-command
 * takes; the parser, the help text, the manual page and the shell completion all read it.
 */
#ifndef BASE_OPT_H
#define BASE_OPT_H

#include "base/err.h"
#include "base/types.h"

enum opt_type {
	OPT_STRING, /* char *, owned by the target */
	OPT_BOOL,   /* bool; the bare key means on */
	OPT_U64,    /* u64 */
	OPT_SIZE,   /* u64, bytes; K M G T suffixes */
	OPT_ENUM,   /* int, index into choices */
	OPT_CALL,   /* call(target, value, err): repeatable or structured options */
};

struct opt {
	const char *name;
	enum opt_type type;
	size_t offset;		    /* of the field in the target structure */
	const char *arg;	    /* what help calls the value: "FILE", "SIZE" */
	const char *help;	    /* one sentence */
	const char *dflt;	    /* parsed as if typed; NULL leaves the field as it is */
	const char *const *choices; /* OPT_ENUM: NULL-terminated */
	int (*call)(void *target, const char *value, struct err *err);
	u64 min, max; /* OPT_U64, OPT_SIZE: inclusive; max 0 means no limit */
};

/* Tables end with an entry whose name is NULL. */
#define OPT_END                                                                                    \
	{                                                                                          \
		.name = NULL                                                                       \
	}

const struct opt *opt_lookup(const struct opt *table, const char *name);

/* Set every field that has a default. 0 or -ENOMEM (a default that does not parse: -EINVAL). */
int opt_defaults(const struct opt *table, void *target, struct err *err);

/* Set one field from text (NULL: the bare key). -EINVAL, -ERANGE, -ENOMEM with the reason. */
int opt_set(const struct opt *opt, void *target, const char *value, struct err *err);

/*
 * Parse "value,key=value,key,...". A first item that is no bare boolean key and has no '=', or one
 * with more before it than letters, digits, '-', '_' and '.', goes to the key `first` (NULL: not
 * allowed). A comma inside a value is written twice, as QEMU does. A key may be given once. Unknown keys are errors that name the nearest known one.
 */
int opt_parse_list(const struct opt *table, void *target, const char *text, const char *first,
		   struct err *err);

/* Free the strings that the target owns and clear them. */
void opt_free(const struct opt *table, void *target);

/* The name in the table nearest to what was typed, or NULL when none is near. */
const char *opt_nearest(const struct opt *table, const char *name);

#endif
