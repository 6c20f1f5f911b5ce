#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"

#define COMMAND(id) extern const struct command id;
#include "cli/commands.def"
#undef COMMAND

const struct command *const commands[] = {
#define COMMAND(id) &id,
#include "cli/commands.def"
#undef COMMAND
	NULL,
};

int cli_fail(const struct err *err)
{
	fprintf(stderr, "bothy: %s\n", err->text);
	return EXIT_USAGE;
}

static const char *dashes(const char *name)
{
	return strlen(name) == 1 ? "-" : "--";
}

static int unknown_option(const struct opt *table, const char *name, struct err *err)
{
	const char *near = strlen(name) > 1 ? opt_nearest(table, name) : NULL;

	if (near && strlen(near) > 1)
		return err_set(err, EINVAL, "unknown option --%s; did you mean --%s?", name, near);
	return err_set(err, EINVAL, "unknown option %s%s; --help lists them", dashes(name), name);
}

/* Its value may be the next argument. */
static bool wants_value(const struct opt *opt)
{
	return opt->type != OPT_BOOL && opt->arg;
}

/* value: what is written with the option itself, or NULL. */
static int take_option(const struct opt *opt, void *target, const char *value, int argc,
		       char **argv, int *i, struct err *err)
{
	int rc;

	if (!value && wants_value(opt)) {
		bool given = *i + 1 < argc;

		/* "[...]": the value may be left out, as it is when another option follows. */
		if (opt->arg[0] == '[' && (!given || argv[*i + 1][0] == '-'))
			return opt_set(opt, target, "", err);
		if (!given)
			return err_set(err, EINVAL, "%s%s needs a value: %s%s %s",
				       dashes(opt->name), opt->name, dashes(opt->name), opt->name,
				       opt->arg);
		value = argv[++*i];
	}
	rc = opt_set(opt, target, value, err);
	if (rc)
		err_prefix(err, "%s%s", dashes(opt->name), opt->name);
	return rc;
}

/* --name, --name=value, --name value */
static int parse_long(const struct opt *table, void *target, int argc, char **argv, int *i,
		      struct err *err)
{
	const char *text = argv[*i] + 2, *value = strchr(text, '=');
	size_t len = value ? (size_t)(value - text) : strlen(text);
	const struct opt *opt;
	char name[64];

	if (len >= sizeof(name))
		len = sizeof(name) - 1;
	memcpy(name, text, len);
	name[len] = '\0';
	opt = len > 1 ? opt_lookup(table, name) : NULL;
	if (!opt)
		return unknown_option(table, name, err);
	return take_option(opt, target, value ? value + 1 : NULL, argc, argv, i, err);
}

/* -n value, -n=value, -nvalue, and letters without values in one: -pqn */
static int parse_short(const struct opt *table, void *target, int argc, char **argv, int *i,
		       struct err *err)
{
	for (const char *c = argv[*i] + 1; *c; c++) {
		const char name[2] = {*c, '\0'}, *value = c[1] ? c + 1 + (c[1] == '=') : NULL;
		const struct opt *opt = opt_lookup(table, name);
		int rc;

		if (c == argv[*i] + 1 && c[1] && opt_lookup(table, c))
			return err_set(err, EINVAL, "unknown option -%s; did you mean --%s?", c, c);
		if (!opt)
			return unknown_option(table, name, err);
		if (wants_value(opt) || (value && c[1] == '='))
			return take_option(opt, target, value, argc, argv, i, err);
		rc = take_option(opt, target, NULL, argc, argv, i, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* No option begins with a digit: "-2G" is a size. */
static bool is_option(const char *text)
{
	return text[0] == '-' && text[1] && !isdigit((unsigned char)text[1]);
}

int cli_parse(const struct opt *table, void *target, int argc, char **argv,
	      int (*positional)(void *target, const char *value, struct err *err), struct err *err)
{
	bool options = true;

	for (int i = 1; i < argc; i++) {
		int rc;

		if (options && !strcmp(argv[i], "--")) {
			options = false;
			continue;
		}
		if (options && is_option(argv[i]))
			rc = (argv[i][1] == '-' ? parse_long : parse_short)(table, target, argc,
									    argv, &i, err);
		else if (positional)
			rc = positional(target, argv[i], err);
		else
			rc = err_set(err, EINVAL, "unexpected argument '%s'", argv[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static void print_wrapped(FILE *out, const char *text, int indent, int column)
{
	while (*text) {
		size_t word = strcspn(text, " ");

		if (column + (int)word > 96 && column > indent) {
			fprintf(out, "\n%*s", indent, "");
			column = indent;
		}
		fwrite(text, 1, word, out);
		column += (int)word + 1;
		text += word;
		if (*text == ' ') {
			fputc(' ', out);
			text++;
		}
	}
	fputc('\n', out);
}

static void help_option(const struct opt *o, FILE *out)
{
	char head[96];
	int n = snprintf(head, sizeof(head), "  %s%s%s%s", strlen(o->name) == 1 ? "-" : "--",
			 o->name, o->arg && o->type != OPT_BOOL ? " " : "",
			 o->arg && o->type != OPT_BOOL ? o->arg : "");

	fputs(head, out);
	if (n >= 26) {
		fprintf(out, "\n%*s", 26, "");
		n = 26;
	}
	fprintf(out, "%*s", 26 - n, "");
	print_wrapped(out, o->help, 26, 26);
}

void cli_help_command(const struct command *c, FILE *out)
{
	fprintf(out, "usage: bothy %s %s\n\n%s.\n", c->name, c->args, c->summary);
	if (c->options) {
		fprintf(out, "\noptions:\n");
		for (const struct opt *o = c->options; o->name; o++)
			if (o->help)
				help_option(o, out);
	}
	if (c->text)
		fprintf(out, "\n%s", c->text);
}
