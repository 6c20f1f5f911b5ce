/*
 * Text for people about what went wrong, at the configuration and control edge only; inside,
 * functions return 0 or -errno. One or two lines, naming the option, the file and the remedy.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/types.h"

struct err {
	char text[512];
};

/* Write the message; err may be NULL. Returns -errno_value, so `return err_set(err, ENOENT, ...)`
 * both explains and fails. A long message is cut, never an error. Names in it may be anybody's:
 * what is no printable text in UTF-8 becomes '?'. */
int err_set(struct err *err, int errno_value, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Put text behind what is there. */
void err_append(struct err *err, const char *text);

/* Put "prefix: " before the text that is there. */
void err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
