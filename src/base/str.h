/* Text: bounded building, and parsing of what people type. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include "base/types.h"

/*
 * A growing string. Zero-initialise; str_free() when done. When memory runs out the text stays as
 * it was and `failed` is set, so a builder can be checked once at the end.
 */
struct str {
	char *text; /* NUL-terminated, or NULL while empty */
	size_t len, cap;
	bool failed;
};

void str_add(struct str *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void str_add_bytes(struct str *s, const void *data, size_t len);
void str_free(struct str *s);

/* The bytes (1 to 4) of the UTF-8 character that s begins with, and which it is; 0 if it is none.
 */
size_t str_utf8(const char *s, u32 *code);

/* Text of unknown origin, for a terminal: control characters and what is not UTF-8 become '?'. */
void str_make_printable(char *text);

/* Parse all of text as a number (decimal, 0x hexadecimal, 0 octal). -EINVAL, -ERANGE. */
int parse_u64(const char *text, u64 *out);

/* Decimal or hexadecimal, with an optional suffix of powers of 1024: K M G T P, with or without B
 * or iB; a fraction is allowed before a suffix ("1.5G"). */
int parse_size(const char *text, u64 *out);

/* on/off, yes/no, true/false, 1/0. */
int parse_bool(const char *text, bool *out);

/* "1.5 GiB", "512 B": three significant digits at most. Returns buf. */
char *format_size(char *buf, size_t cap, u64 bytes);

#endif
