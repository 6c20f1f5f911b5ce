/*
 * Sub-commands and their option tables. Parsing, `bothy help`, and the manual page's option list
 * come from the same tables.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdio.h>

#include "base/err.h"
#include "base/opt.h"

struct command {
	const char *name;
	const char *args;		   /* "[OPTIONS] [IMAGE]" */
	const char *summary;		   /* one line */
	const struct opt *options;	   /* or NULL */
	const char *text;		   /* paragraphs for help and the manual; may be NULL */
	int (*run)(int argc, char **argv); /* argv[0] is the command; the exit status */
};

/* From commands.def; NULL at the end. */
extern const struct command *const commands[];

#define EXIT_USAGE 2 /* a wrong command line or a start-up error: nothing has run */

/*
 * Parse "--name VALUE", "--name=VALUE", "-x" (a name of one letter), "--" and positional
 * arguments into target by the table. Positionals are handed to `positional` in order. 0 or -EINVAL
 * with the reason.
 */
int cli_parse(const struct opt *table, void *target, int argc, char **argv,
	      int (*positional)(void *target, const char *value, struct err *err), struct err *err);

/* "bothy: text" on standard error, one or two lines; returns EXIT_USAGE. */
int cli_fail(const struct err *err);

void cli_help_command(const struct command *command, FILE *out);

#endif
