#include "cli/img.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "cli/img_int.h"

const struct command *const img_verbs[] = {
#define VERB(id) &id,
#include "cli/img_verbs.def"
#undef VERB
	NULL,
};

/* ---- command line ---- */

int img_fail(const char *verb, const struct err *err, int status)
{
	fflush(stdout);
	fprintf(stderr, "bothy img %s: %s\n", verb, err->text);
	return status;
}

int img_parse(const struct command *verb, void *target, int argc, char **argv,
	      int (*positional)(void *target, const char *value, struct err *err))
{
	struct err err = {""};
	int rc = opt_defaults(verb->options, target, &err);

	if (!rc)
		rc = cli_parse(verb->options, target, argc, argv, positional, &err);
	if (!rc)
		return 0;
	img_fail(verb->name, &err, 0);
	fprintf(stderr, "usage: bothy img %s %s\n", verb->name, verb->args);
	return rc;
}

int img_take(const char *value, char **const *fields, size_t count, struct err *err)
{
	for (size_t i = 0; i < count; i++) {
		if (*fields[i])
			continue;
		*fields[i] = (char *)(uintptr_t)value;
		return 0;
	}
	return err_set(err, EINVAL, "unexpected argument '%s'", value);
}

static void help(FILE *out)
{
	fprintf(out, "usage: bothy img VERB ...\n\n");
	for (size_t i = 0; img_verbs[i]; i++)
		fprintf(out, "  bothy img %-8s %-30s %s\n", img_verbs[i]->name, img_verbs[i]->args,
			img_verbs[i]->summary);
	fprintf(out, "\n'bothy img VERB --help' tells more.\n");
}

static int verb_help(const struct command *verb)
{
	char name[64];
	struct command shown = *verb;

	snprintf(name, sizeof(name), "img %s", verb->name);
	shown.name = name;
	cli_help_command(&shown, stdout);
	return 0;
}

/* What was printed may not have arrived. */
static int finish(const struct command *verb, int status)
{
	struct err err = {""};
	bool lost = fflush(stdout) || ferror(stdout);

	if (!lost || status == EXIT_USAGE)
		return status;
	status = status ? status : IMG_FAILED;
	/* Who reads no further (head) knows. */
	if (errno == EPIPE)
		return status;
	err_set(&err, errno, "standard output: %s", strerror(errno));
	return img_fail(verb->name, &err, status);
}

int img_main(int argc, char **argv)
{
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
	    !strcmp(argv[1], "help")) {
		help(argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	for (size_t i = 0; img_verbs[i]; i++) {
		if (strcmp(img_verbs[i]->name, argv[1]))
			continue;
		if (argc == 3 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h")))
			return verb_help(img_verbs[i]);
		return finish(img_verbs[i], img_verbs[i]->run(argc - 1, argv + 1));
	}
	fprintf(stderr, "bothy img: no verb '%s'\n", argv[1]);
	help(stderr);
	return EXIT_USAGE;
}

const struct command command_img = {
	.name = "img",
	.args = "VERB ...",
	.summary = "Make, look at, check and convert disk images",
	.run = img_main,
	.text = "Verbs: create info check convert compare map resize snapshot rebase commit "
		"measure\n"
		"bench serve. Each has its own help: bothy img VERB --help. Words and exit "
		"statuses are\n"
		"those of qemu-img where the thing is the same.\n",
};

/* ---- opening ---- */

struct block_options img_open_defaults(void)
{
	struct block_options o = {0};

	opt_defaults(block_option_table, &o, NULL);
	return o;
}

int img_open(struct block **out, const struct img_source *source, unsigned int flags,
	     struct err *err)
{
	struct block_options o = img_open_defaults();
	int rc;

	if (!source->file)
		return err_set(err, EINVAL, "an image is missing");
	o.file = source->file;
	o.format = source->format;
	o.cache = source->cache;
	o.backing_format = source->backing_format;
	o.readonly = !(flags & IMG_WRITE);
	o.backing = !source->no_backing;
	o.lock = !source->share;
	o.key_file = source->key_file;
	o.metadata_only = flags & IMG_METADATA;
	o.repair = !(flags & IMG_NO_REPAIR);
	rc = block_open(out, &o, err);
	if (rc == -EAGAIN)
		err_append(err, " (--share if that is safe)");
	return rc;
}

/* ---- output ---- */

const char *const img_output_names[] = {"human", "json", NULL};

void img_json_string(FILE *out, const char *text)
{
	u32 code;

	fputc('"', out);
	for (size_t len; *text; text += max(len, (size_t)1)) {
		len = str_utf8(text, &code);
		if (!len)
			fputs("\\ufffd", out);
		else if (code == '"' || code == '\\')
			fprintf(out, "\\%c", *text);
		else if (code < ' ' || (code >= 0x7f && code < 0xa0))
			fprintf(out, "\\u%04x", code);
		else
			fwrite(text, 1, len, out);
	}
	fputc('"', out);
}

void img_print_text(FILE *out, const char *text, int width)
{
	char *copy = strdup(text);
	int shown = 0;

	if (!copy)
		return;
	str_make_printable(copy);
	for (const char *c = copy; *c; c++)
		shown += (*c & 0xc0) != 0x80;
	fprintf(out, "%s%*s", copy, max(width - shown, 0), "");
	free(copy);
}

void img_print_size(FILE *out, u64 bytes)
{
	char text[32];

	fprintf(out, "%s", format_size(text, sizeof(text), bytes));
	if (bytes >= 1024)
		fprintf(out, " (%llu bytes)", (unsigned long long)bytes);
}

void img_progress_begin(struct img_progress *p, bool wanted, u64 total)
{
	*p = (struct img_progress){.on = wanted && isatty(STDERR_FILENO), .total = total};
	p->last = -1;
}

void img_progress_step(struct img_progress *p, u64 done)
{
	int tenths = p->total ? (int)((double)done * 1000 / (double)p->total) : 1000;

	if (!p->on || tenths == p->last)
		return;
	p->last = tenths;
	fprintf(stderr, "\r  %5.1f %% ", tenths / 10.0);
	fflush(stderr);
}

void img_progress_end(struct img_progress *p)
{
	if (p->on)
		fprintf(stderr, "\r            \r");
}

/* ---- signals ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = 1;
}

void img_catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

bool img_interrupted(void)
{
	return interrupted;
}
