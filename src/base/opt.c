#include "base/opt.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/str.h"

#define MAX_KEYS 64

const struct opt *opt_lookup(const struct opt *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return table;
	return NULL;
}

static void *field_of(const struct opt *opt, void *target)
{
	return (char *)target + opt->offset;
}

static int set_string(const struct opt *opt, void *target, const char *value, struct err *err)
{
	char **field = field_of(opt, target);
	char *copy = strdup(value);

	if (!copy)
		return err_set(err, ENOMEM, "out of memory");
	free(*field);
	*field = copy;
	return 0;
}

static int set_number(const struct opt *opt, void *target, const char *value, struct err *err)
{
	u64 v, *field = field_of(opt, target);
	int rc = opt->type == OPT_SIZE ? parse_size(value, &v) : parse_u64(value, &v);

	if (rc)
		return err_set(err, -rc, "%s=%s: not a %s", opt->name, value,
			       opt->type == OPT_SIZE ? "size (try 512M or 4G)" : "number");
	if (v < opt->min || (opt->max && v > opt->max))
		return err_set(err, ERANGE, "%s=%s: must be from %llu to %llu", opt->name, value,
			       (unsigned long long)opt->min,
			       (unsigned long long)(opt->max ? opt->max : ~0ULL));
	*field = v;
	return 0;
}

static int set_enum(const struct opt *opt, void *target, const char *value, struct err *err)
{
	struct str known = {0};
	int rc;

	for (int i = 0; opt->choices[i]; i++) {
		if (!strcmp(opt->choices[i], value)) {
			*(int *)field_of(opt, target) = i;
			str_free(&known);
			return 0;
		}
		str_add(&known, "%s%s", i ? ", " : "", opt->choices[i]);
	}
	rc = err_set(err, EINVAL, "%s=%s: must be one of %s", opt->name, value,
		     known.text ? known.text : "");
	str_free(&known);
	return rc;
}

int opt_set(const struct opt *opt, void *target, const char *value, struct err *err)
{
	if (opt->type == OPT_BOOL) {
		if (parse_bool(value ? value : "on", field_of(opt, target)))
			return err_set(err, EINVAL, "%s=%s: must be on or off", opt->name, value);
		return 0;
	}
	if (!value)
		return err_set(err, EINVAL, "%s needs a value: %s=%s", opt->name, opt->name,
			       opt->arg ? opt->arg : "VALUE");
	switch (opt->type) {
	case OPT_STRING:
		return set_string(opt, target, value, err);
	case OPT_ENUM:
		return set_enum(opt, target, value, err);
	case OPT_CALL:
		return opt->call(target, value, err);
	default:
		return set_number(opt, target, value, err);
	}
}

int opt_defaults(const struct opt *table, void *target, struct err *err)
{
	for (; table->name; table++) {
		int rc = table->dflt ? opt_set(table, target, table->dflt, err) : 0;

		if (rc)
			return rc;
	}
	return 0;
}

void opt_free(const struct opt *table, void *target)
{
	for (; table->name; table++) {
		char **field = field_of(table, target);

		if (table->type != OPT_STRING)
			continue;
		free(*field);
		*field = NULL;
	}
}

/* Levenshtein distance, for names shorter than 32 bytes; longer ones are simply far away. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[33];
	size_t la = strlen(a), lb = strlen(b);

	if (la > 32 || lb > 32)
		return 99;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned int diagonal = row[0];

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned int best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			best = min(best, row[j] + 1);
			row[j] = min(best, row[j - 1] + 1);
		}
	}
	return row[lb];
}

const char *opt_nearest(const struct opt *table, const char *name)
{
	unsigned int best = 3;
	const char *nearest = NULL;

	for (; table->name; table++) {
		unsigned int d = distance(table->name, name);

		if (d < best) {
			best = d;
			nearest = table->name;
		}
	}
	return nearest;
}

static int unknown_key(const struct opt *table, const char *key, struct err *err)
{
	const char *near = opt_nearest(table, key);
	struct str known = {0};
	int rc;

	if (near)
		return err_set(err, EINVAL, "unknown key '%s'; did you mean '%s'?", key, near);
	for (const struct opt *o = table; o->name; o++)
		str_add(&known, "%s%s", o == table ? "" : ", ", o->name);
	rc = err_set(err, EINVAL, "unknown key '%s'; known are: %s", key,
		     known.text ? known.text : "none");
	str_free(&known);
	return rc;
}

/* Copy the item at *text up to a single comma into buf, undoubling commas; advances *text. */
static void next_item(const char **text, char *buf)
{
	const char *s = *text;

	while (*s && (*s != ',' || s[1] == ',')) {
		if (*s == ',')
			s++;
		*buf++ = *s++;
	}
	*buf = '\0';
	*text = *s ? s + 1 : s;
}

/* The '=' behind what may be a key. What comes first may be a name that has one in it. */
static char *key_end(char *item, bool first)
{
	char *equals = strchr(item, '=');

	for (const char *s = item; first && equals && s < equals; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-_.", *s))
			return NULL;
	return equals;
}

static int set_item(const struct opt *table, void *target, char *item, const char *first, u64 *seen,
		    struct err *err)
{
	char *value = key_end(item, first);
	const struct opt *opt;

	if (!value && first) {
		opt = opt_lookup(table, item);
		if (!opt || opt->type != OPT_BOOL) {
			value = item;
			opt = opt_lookup(table, first);
		}
	} else {
		if (value)
			*value++ = '\0';
		opt = opt_lookup(table, item);
	}
	if (!opt)
		return unknown_key(table, item, err);
	if (opt->type != OPT_CALL) {
		if (bitmap_test(seen, (u64)(opt - table) % MAX_KEYS))
			return err_set(err, EINVAL, "%s is given twice", opt->name);
		bitmap_set(seen, (u64)(opt - table) % MAX_KEYS);
	}
	return opt_set(opt, target, value, err);
}

int opt_parse_list(const struct opt *table, void *target, const char *text, const char *first,
		   struct err *err)
{
	u64 seen[BITMAP_WORDS(MAX_KEYS)] = {0};
	char *item = malloc(strlen(text) + 1);
	int rc = 0;

	if (!item)
		return err_set(err, ENOMEM, "out of memory");
	while (*text && !rc) {
		next_item(&text, item);
		rc = set_item(table, target, item, first, seen, err);
		first = NULL;
	}
	free(item);
	return rc;
}
