#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

int err_set(struct err *err, int errno_value, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
		str_make_printable(err->text);
	}
	return -errno_value;
}

void err_append(struct err *err, const char *text)
{
	size_t n = err ? strlen(err->text) : 0;

	if (err)
		snprintf(err->text + n, sizeof(err->text) - n, "%s", text);
}

void err_prefix(struct err *err, const char *fmt, ...)
{
	char rest[sizeof(err->text)];
	va_list ap;
	size_t n;

	if (!err)
		return;
	memcpy(rest, err->text, sizeof(rest));
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	n = strlen(err->text);
	snprintf(err->text + n, sizeof(err->text) - n, ": %.*s", (int)sizeof(rest) - 1, rest);
	str_make_printable(err->text);
}
