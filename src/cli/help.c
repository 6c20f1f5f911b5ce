/* bothy help [TOPIC], and the option lists of the manual page. */
#include <string.h>

#include "cli/cli.h"

static void overview(FILE *out)
{
	fprintf(out, "bothy, a virtual machine monitor for x86-64 Linux\n\n");
	for (size_t i = 0; commands[i]; i++)
		fprintf(out, "  bothy %-8s %-22s %s\n", commands[i]->name, commands[i]->args,
			commands[i]->summary);
	fprintf(out, "\n'bothy help COMMAND' tells more; 'man bothy' tells all.\n");
}

static void print_roff(const char *text)
{
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\e", stdout);
		else if (*text == '-')
			fputs("\\-", stdout);
		else
			putchar(*text);
	}
}

/* The sections that scripts/manual puts into docs/man/bothy.1. */
static void manual(void)
{
	for (size_t i = 0; commands[i]; i++) {
		const struct command *c = commands[i];

		printf(".SS bothy %s %s\n", c->name, c->args);
		print_roff(c->summary);
		printf(".\n");
		for (const struct opt *o = c->options; o && o->name; o++) {
			if (!o->help)
				continue;
			printf(".TP\n.B %s%s", strlen(o->name) == 1 ? "\\-" : "\\-\\-", "");
			print_roff(o->name);
			if (o->arg && o->type != OPT_BOOL) {
				printf(" \\fI");
				print_roff(o->arg);
				printf("\\fR");
			}
			putchar('\n');
			print_roff(o->help);
			putchar('\n');
		}
		if (c->text) {
			printf(".PP\n.nf\n");
			print_roff(c->text);
			printf(".fi\n");
		}
	}
}

static int help_main(int argc, char **argv)
{
	if (argc < 2) {
		overview(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--roff")) {
		manual();
		return 0;
	}
	for (size_t i = 0; commands[i]; i++) {
		if (strcmp(commands[i]->name, argv[1]))
			continue;
		cli_help_command(commands[i], stdout);
		return 0;
	}
	fprintf(stderr, "bothy: no command '%s'\n", argv[1]);
	overview(stderr);
	return EXIT_USAGE;
}

const struct command command_help = {
	.name = "help",
	.args = "[COMMAND]",
	.summary = "Say what a command does and which options it takes",
	.run = help_main,
};
