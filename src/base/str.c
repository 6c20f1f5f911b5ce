#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

static bool str_reserve(struct str *s, size_t extra)
{
	size_t need, cap = s->cap ? s->cap : 64;
	char *text;

	if (s->failed)
		return false;
	if (add_overflows(&need, s->len, extra) || add_overflows(&need, need, 1))
		goto fail;
	while (cap < need)
		if (mul_overflows(&cap, cap, 2))
			goto fail;
	if (cap == s->cap)
		return true;
	text = realloc(s->text, cap);
	if (!text)
		goto fail;
	s->text = text;
	s->cap = cap;
	return true;
fail:
	s->failed = true;
	return false;
}

void str_add_bytes(struct str *s, const void *data, size_t len)
{
	if (!str_reserve(s, len))
		return;
	if (len)
		memcpy(s->text + s->len, data, len);
	s->len += len;
	s->text[s->len] = '\0';
}

void str_add(struct str *s, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !str_reserve(s, (size_t)n)) {
		s->failed = true;
		return;
	}
	va_start(ap, fmt);
	vsnprintf(s->text + s->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	s->len += (size_t)n;
}

void str_free(struct str *s)
{
	free(s->text);
	*s = (struct str){0};
}

size_t str_utf8(const char *s, u32 *code)
{
	static const u32 least[] = {0, 0, 0x80, 0x800, 0x10000};
	const u8 *p = (const u8 *)s;
	size_t len = p[0] < 0x80   ? 1
		     : p[0] < 0xc0 ? 0
		     : p[0] < 0xe0 ? 2
		     : p[0] < 0xf0 ? 3
		     : p[0] < 0xf8 ? 4
				   : 0;

	if (len < 2) {
		*code = p[0];
		return len;
	}
	*code = p[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (p[i] & 0x3f);
	}
	if (*code < least[len] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
		return 0;
	return len;
}

void str_make_printable(char *text)
{
	char *to = text;
	u32 code;

	while (*text) {
		size_t len = str_utf8(text, &code);

		if (!len || code < ' ' || (code >= 0x7f && code < 0xa0)) {
			*to++ = '?';
			text += max(len, (size_t)1);
			continue;
		}
		memmove(to, text, len);
		to += len;
		text += len;
	}
	*to = '\0';
}

/* strtoull takes a sign and leading blanks; we do not. */
static int parse_prefix(const char *text, u64 *out, char **end, int base)
{
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*out = strtoull(text, end, base);
	return errno ? -ERANGE : 0;
}

int parse_u64(const char *text, u64 *out)
{
	char *end;
	u64 v;
	int rc = parse_prefix(text, &v, &end, 0);

	if (rc)
		return rc;
	if (*end)
		return -EINVAL;
	*out = v;
	return 0;
}

/* The shift that a suffix stands for, or -EINVAL. */
static int size_suffix(const char *s)
{
	static const char letters[] = "KMGTPE";
	const char *p;

	if (!*s || !strcmp(s, "B"))
		return 0;
	p = strchr(letters, toupper((unsigned char)*s));
	if (!p || (s[1] && strcasecmp(s + 1, "B") && strcasecmp(s + 1, "iB")))
		return -EINVAL;
	return (int)(p - letters + 1) * 10;
}

int parse_size(const char *text, u64 *out)
{
	u64 whole, fraction = 0, scale = 1;
	bool hex = text[0] == '0' && (text[1] | 0x20) == 'x';
	char *end;
	int rc, shift;

	rc = parse_prefix(text, &whole, &end, hex ? 16 : 10);
	if (rc)
		return rc;
	if (*end == '.') {
		for (end++; isdigit((unsigned char)*end); end++) {
			if (scale >= 1000000)
				continue; /* finer than any size needs */
			fraction = fraction * 10 + (u64)(*end - '0');
			scale *= 10;
		}
		if (scale == 1)
			return -EINVAL;
	}
	shift = size_suffix(end);
	if (shift < 0 || (fraction && !shift))
		return -EINVAL;
	if (shift && whole > (~0ULL >> shift))
		return -ERANGE;
	/* fraction < 10^6 < 2^20, so the product fits for every shift up to 2^40. */
	fraction =
		shift > 40 ? (fraction << 40) / scale << (shift - 40) : (fraction << shift) / scale;
	return add_overflows(out, whole << shift, fraction) ? -ERANGE : 0;
}

int parse_bool(const char *text, bool *out)
{
	static const char *const yes[] = {"on", "yes", "true", "1"};
	static const char *const no[] = {"off", "no", "false", "0"};

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!strcasecmp(text, yes[i])) {
			*out = true;
			return 0;
		}
		if (!strcasecmp(text, no[i])) {
			*out = false;
			return 0;
		}
	}
	return -EINVAL;
}

char *format_size(char *buf, size_t cap, u64 bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned int unit = 0;
	double v = (double)bytes;

	while (v >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		unit++;
	}
	snprintf(buf, cap, "%.*f %s",
		 v == (double)(u64)v || v >= 100 ? 0
		 : v >= 10			 ? 1
						 : 2,
		 v, units[unit]);
	return buf;
}
