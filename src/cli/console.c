/*
 * Ctrl-A commands of the terminal, and the little line monitor behind Ctrl-A C. While the monitor
 * is open, keys go to its line and the guest's output still appears.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "chardev/chardev.h"
#include "cli/run.h"

struct console {
	struct machine *machine;
	struct chardev *chr;
	struct loop *loop;
	bool open;
	char line[128];
	size_t len;
	const char *argument; /* what follows the command in line[] */
};

static void say(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Straight to the terminal, not through the guest's serial port: lines end in CR LF (raw mode). */
static void say(const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = min(n, (int)sizeof(text) - 1);
	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		return;
}

static void help_keys(void)
{
	say("\r\nCtrl-A X  quit\r\nCtrl-A C  monitor (again: back to the guest)\r\n"
	    "Ctrl-A H  this help\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n");
}

/* ---- the monitor's commands ---- */

static void do_status(struct console *c)
{
	say("%s, %u vCPU%s\r\n", machine_paused(c->machine) ? "paused" : "running",
	    machine_vcpu_count(c->machine), machine_vcpu_count(c->machine) == 1 ? "" : "s");
}

static void do_pause(struct console *c)
{
	machine_pause(c->machine);
	do_status(c);
}

static void do_resume(struct console *c)
{
	machine_resume(c->machine);
	do_status(c);
}

static void do_reset(struct console *c)
{
	machine_reset(c->machine);
}

static void do_powerdown(struct console *c)
{
	if (!machine_powerdown(c->machine))
		say("pressed, but the guest does not listen to the power button\r\n");
}

static void do_balloon(struct console *c)
{
	char text[32];
	u64 size;
	int rc = 0;

	if (*c->argument)
		rc = parse_size(c->argument, &size) ? -EINVAL
						    : machine_set_balloon(c->machine, size);
	if (rc)
		say("%s\r\n", rc == -ENODEV ? "there is no balloon: start with --balloon"
					    : "give a size up to the guest's memory");
	else
		say("the guest has %s\r\n",
		    format_size(text, sizeof(text), machine_balloon_memory(c->machine)));
}

static void list_links(struct console *c)
{
	const char *id;
	bool up;

	for (u32 n = 0; (id = machine_get_link(c->machine, n, &up)); n++)
		say("%s %s\r\n", id, up ? "up" : "down");
}

/* "net0 off": pull the cable out. */
static void do_set_link(struct console *c)
{
	char id[16];
	const char *space = strchr(c->argument, ' ');
	bool on;

	if (!*c->argument) {
		list_links(c);
		return;
	}
	snprintf(id, sizeof(id), "%.*s", (int)(space ? space - c->argument : 0), c->argument);
	if (!space || parse_bool(space + 1, &on))
		say("set_link NET on|off\r\n");
	else if (machine_set_link(c->machine, id, on))
		say("there is no network card %s; set_link lists them\r\n", id);
}

static void do_stats(struct console *c)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return;
	machine_print_stats(c->machine, f);
	fclose(f);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		say("%s\r\n", line);
	free(text);
}

static void do_quit(struct console *c)
{
	loop_stop(c->loop, 0);
}

static void do_help(struct console *c);

static const struct {
	const char *name, *help;
	void (*fn)(struct console *c);
} monitor_commands[] = {
	{"help", "this list", do_help},
	{"status", "running or paused", do_status},
	{"pause", "stop the vCPUs", do_pause},
	{"resume", "let them go on", do_resume},
	{"reset", "press the reset button", do_reset},
	{"powerdown", "press the power button", do_powerdown},
	{"stats", "exits, accesses, interrupts", do_stats},
	{"set_link", "[NET on|off]: plug a network cable in or out, or list them", do_set_link},
	{"balloon", "[SIZE]: memory the guest may use", do_balloon},
	{"quit", "end at once", do_quit},
};

static void do_help(struct console *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(monitor_commands); i++)
		say("  %-10s %s\r\n", monitor_commands[i].name, monitor_commands[i].help);
}

static void run_line(struct console *c)
{
	char *space;

	c->line[c->len] = '\0';
	c->len = 0;
	if (!c->line[0])
		return;
	space = strchr(c->line, ' ');
	if (space)
		*space = '\0';
	c->argument = space ? space + 1 + strspn(space + 1, " ") : "";
	for (size_t i = 0; i < ARRAY_SIZE(monitor_commands); i++) {
		if (strcmp(monitor_commands[i].name, c->line))
			continue;
		monitor_commands[i].fn(c);
		return;
	}
	say("no command '%s'; help lists them\r\n", c->line);
}

static void line_key(struct console *c, char key)
{
	if (key == '\r' || key == '\n') {
		say("\r\n");
		run_line(c);
		if (c->open)
			say("(bothy) ");
	} else if ((key == 0x7f || key == '\b') && c->len) {
		c->len--;
		say("\b \b");
	} else if (key >= ' ' && key < 0x7f && c->len + 1 < sizeof(c->line)) {
		c->line[c->len++] = key;
		say("%c", key);
	}
}

static bool on_key(void *ctx, char key, bool escaped)
{
	struct console *c = ctx;

	if (!escaped) {
		if (c->open)
			line_key(c, key);
		return c->open;
	}
	switch (key) {
	case 'x':
	case 'X':
		say("\r\n");
		loop_stop(c->loop, 0);
		return true;
	case 'h':
	case 'H':
	case '?':
		help_keys();
		return true;
	case 'c':
	case 'C':
		c->open = !c->open;
		c->len = 0;
		say(c->open ? "\r\n(bothy) " : "\r\n");
		return true;
	default:
		return false;
	}
}

struct console *console_new(struct machine *machine, struct chardev *chr, struct loop *loop)
{
	struct console *c;

	if (!chr)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	*c = (struct console){.machine = machine, .chr = chr, .loop = loop};
	chardev_set_escape(chr, on_key, c);
	return c;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	chardev_set_escape(c->chr, NULL, NULL);
	free(c);
}
