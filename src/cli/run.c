/* bothy run: from the command line to the end of the guest. */
#include "cli/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "chardev/chardev.h"
#include "cli/cli.h"

struct run {
	struct run_options options;
	struct machine_config config;
	struct image image, firmware;
	struct image initrd[RUN_MAX_LIST];
	struct boot_module module[RUN_MAX_LIST];
	struct chardev *debugcon;
	struct loop *loop;
	struct machine *machine;
	struct console *console;
	struct loop_watch signals;
	u32 terminations;
};

static int take_image(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (o->image)
		return err_set(err, EINVAL, "two images: %s and %s", o->image, value);
	o->image = strdup(value);
	return o->image ? 0 : -ENOMEM;
}

/* UEFI firmware with its variables in one file, where distributions put it. */
static int choose_firmware(struct run_options *o, struct err *err)
{
	static const char *const files[] = {
		"/usr/share/ovmf/OVMF.fd",
		"/usr/share/qemu/OVMF.fd",
		"/usr/share/edk2/x64/OVMF.fd",
	};

	if (!o->uefi)
		return 0;
	if (o->bios)
		return err_set(err, EINVAL, "both --uefi and --bios %s", o->bios);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (access(files[i], R_OK))
			continue;
		o->bios = strdup(files[i]);
		return o->bios ? 0 : err_set(err, ENOMEM, "out of memory");
	}
	return err_set(
		err, ENOENT,
		"--uefi: no UEFI firmware here (%s): install the package ovmf, or give one as "
		"--bios FILE",
		files[0]);
}

static int open_images(struct run *r, struct err *err)
{
	struct run_options *o = &r->options;
	const char *path = o->kernel ? o->kernel : o->image;
	bool flat = o->load || o->entry || o->mode;
	int rc = choose_firmware(o, err);

	if (rc)
		return rc;
	if (o->kernel && o->image)
		return err_set(err, EINVAL, "both --kernel %s and the image %s", o->kernel,
			       o->image);
	if (o->bios) {
		rc = image_open(&r->firmware, o->bios, IMAGE_FIRMWARE, err);
		if (rc) {
			err_prefix(err, "--bios");
			return rc;
		}
		r->config.firmware = &r->firmware;
	}
	if (!path)
		return o->bios ? 0
			       : err_set(err, EINVAL,
					 "nothing to run: give an image, --kernel, --bios or "
					 "--uefi");
	rc = image_open(&r->image, path, flat ? IMAGE_FLAT : IMAGE_AUTO, err);
	if (rc)
		return rc;
	if (r->image.kind == IMAGE_DISK && !o->bios)
		return err_set(
			err, EINVAL,
			"%s is %s; to boot a disk give it as --disk with --bios FILE or --uefi",
			path, r->image.text);
	r->config.image = &r->image;
	for (u32 i = 0; i < o->initrds; i++) {
		rc = image_open_raw(&r->initrd[i], o->initrd[i], err);
		if (rc) {
			err_prefix(err, "--initrd");
			return rc;
		}
		r->module[i].image = &r->initrd[i];
	}
	return 0;
}

static int parse_addr(const char *option, const char *text, u64 *out, bool *has, struct err *err)
{
	if (!text)
		return 0;
	*has = true;
	if (parse_u64(text, out))
		return err_set(err, EINVAL, "--%s %s: not an address (try 0x1000)", option, text);
	return 0;
}

static int make_boot_options(struct run *r, struct err *err)
{
	struct run_options *o = &r->options;
	struct boot_options *b = &r->config.boot;
	int rc;

	b->cmdline = o->append;
	b->modules = r->module;
	b->module_count = o->initrds;
	b->mode = (enum boot_mode)o->mode;
	rc = parse_addr("load", o->load, &b->load, &b->has_load, err);
	if (!rc)
		rc = parse_addr("entry", o->entry, &b->flat_entry, &b->has_entry, err);
	if (!rc && r->config.image)
		rc = boot_check_options(r->config.image, b, err);
	return rc;
}

static int set_log_level(const char *text, struct err *err)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};

	for (size_t i = 0; text && i < ARRAY_SIZE(names); i++) {
		if (strcmp(text, names[i]))
			continue;
		log_set_level((enum log_level)i);
		return 0;
	}
	return text ? err_set(err, EINVAL, "--log %s: error, warn, info or debug", text) : 0;
}

static int open_trace(struct run *r, struct err *err)
{
	const char *text = r->options.trace;

	if (!text)
		return 0;
	if (strncmp(text, "exits", 5) || (text[5] && text[5] != '='))
		return err_set(err, EINVAL, "--trace %s: exits or exits=FILE", text);
	if (!text[5]) {
		r->config.trace = stderr;
		return 0;
	}
	r->config.trace = fopen(text + 6, "we");
	return r->config.trace ? 0 : err_set(err, errno, "--trace %s: %s", text, strerror(errno));
}

/* What a PC has when nothing is said: user-mode NAT. */
static void add_default_devices(struct run *r)
{
	struct run_options *o = &r->options;
	bool net = machine_choose_board(&r->config) != BOARD_PC;

	for (u32 i = 0; i < o->devices; i++)
		net |= !strcmp(o->device[i].kind, "net");
	if (!net && o->devices < RUN_MAX_LIST)
		o->device[o->devices++] = (struct machine_device){"net", "user", true};
	r->config.device_count = o->devices;
}

static int make_config(struct run *r, struct err *err)
{
	struct run_options *o = &r->options;
	struct machine_config *c = &r->config;
	int rc = set_log_level(o->log, err);

	c->board = (enum machine_board)o->board;
	c->memory = o->memory;
	c->cpus = (u32)o->cpus;
	c->topology = cpu_topology_simple(c->cpus);
	c->hugepages = o->hugepages;
	memcpy(c->reg, o->reg, sizeof(c->reg));
	c->reg_count = o->regs;
	c->devices = o->device;
	c->no_reboot = o->no_reboot;
	c->timed = o->stats;
	c->name = o->name;
	if (!rc)
		rc = open_images(r, err);
	if (!rc)
		rc = make_boot_options(r, err);
	if (!rc)
		rc = open_trace(r, err);
	add_default_devices(r);
	return rc;
}

static int open_chardevs(struct run *r, struct err *err)
{
	struct run_options *o = &r->options;
	int rc;

	if (!o->serials)
		o->serial[o->serials++] = "stdio";
	for (u32 i = 0; i < o->serials; i++) {
		rc = chardev_open(&r->config.serial[i], r->loop, o->serial[i], err);
		if (rc) {
			err_prefix(err, "--serial %s", o->serial[i]);
			return rc;
		}
	}
	if (!o->debugcon)
		return 0;
	rc = chardev_open(&r->debugcon, r->loop, o->debugcon, err);
	if (rc)
		err_prefix(err, "--debugcon %s", o->debugcon);
	r->config.debugcon = r->debugcon;
	return rc;
}

/* ---- signals: SIGTERM presses the power button, the second one ends at once ---- */

static void terminate(struct run *r, int sig)
{
	if (!r->terminations++ && machine_powerdown(r->machine)) {
		log_info("signal %d: power button pressed; a second signal ends at once", sig);
		return;
	}
	loop_stop(r->loop, 128 + sig);
}

static void on_signal(struct loop_watch *watch, u32 events)
{
	struct run *r = container_of(watch, struct run, signals);
	struct signalfd_siginfo info;

	while (read(watch->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGUSR1)
			machine_print_stats(r->machine, stderr);
		else
			terminate(r, (int)info.ssi_signo);
	}
}

static int watch_signals(struct run *r, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	r->signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	r->signals.fn = on_signal;
	if (r->signals.fd < 0 || loop_watch_add(r->loop, &r->signals, EPOLLIN))
		return err_set(err, errno, "signals: %s", strerror(errno));
	return 0;
}

/* ---- */

static int run_machine(struct run *r, struct err *err)
{
	int rc = watch_signals(r, err), status;

	if (!rc)
		rc = open_chardevs(r, err);
	if (rc)
		return cli_fail(err);
	r->machine = machine_new(&r->config, r->loop, err);
	if (!r->machine)
		return cli_fail(err);
	r->console = console_new(r->machine, r->config.serial[0], r->loop);
	if (machine_start(r->machine, err))
		return cli_fail(err);
	status = loop_run(r->loop);
	machine_pause(r->machine);
	if (r->options.stats)
		machine_print_stats(r->machine, stderr);
	return status;
}

static void run_free(struct run *r)
{
	console_free(r->console);
	machine_free(r->machine);
	for (u32 i = 0; i < MACHINE_SERIALS; i++) {
		if (!r->config.serial[i])
			continue;
		chardev_flush(r->config.serial[i], 500);
		chardev_close(r->config.serial[i]);
	}
	if (r->debugcon)
		chardev_close(r->debugcon);
	loop_watch_del(&r->signals);
	if (r->signals.fd > 0)
		close(r->signals.fd);
	loop_free(r->loop);
	image_close(&r->image);
	image_close(&r->firmware);
	for (u32 i = 0; i < r->options.initrds; i++)
		image_close(&r->initrd[i]);
	if (r->config.trace && r->config.trace != stderr)
		fclose(r->config.trace);
	opt_free(run_option_table, &r->options);
	free(r->options.image);
	free(r);
}

static int run_main(int argc, char **argv)
{
	extern const struct command command_run;
	struct run *r = calloc(1, sizeof(*r));
	const char *why = NULL;
	struct err err = {{0}};
	int status = 0;

	if (!r)
		return EXIT_USAGE;
	if (opt_defaults(run_option_table, &r->options, &err) ||
	    cli_parse(run_option_table, &r->options, argc, argv, take_image, &err)) {
		status = cli_fail(&err);
		goto out;
	}
	if (r->options.help) {
		cli_help_command(&command_run, stdout);
		goto out;
	}
	if (make_config(r, &err)) {
		status = cli_fail(&err);
		goto out;
	}
	r->config.engine = run_choose_engine(r->options.engine, &why, &err);
	if (!r->config.engine) {
		status = cli_fail(&err);
		goto out;
	}
	if (r->options.dry_run && machine_check_devices(&r->config, &err)) {
		status = cli_fail(&err);
		goto out;
	}
	if (r->options.dry_run) {
		machine_print_config(&r->config, stdout);
		if (why)
			printf("%-10s %s\n", "", why);
		goto out;
	}
	r->loop = loop_new();
	status = r->loop ? run_machine(r, &err) : EXIT_USAGE;
out:
	run_free(r);
	return status;
}

const struct command command_run = {
	.name = "run",
	.args = "[OPTIONS] [IMAGE]",
	.summary = "Run a guest: a kernel, a flat binary or firmware",
	.options = run_option_table,
	.text = "On the terminal, Ctrl-A X quits, Ctrl-A C opens and closes the monitor, Ctrl-A H\n"
		"helps, and Ctrl-A Ctrl-A sends one Ctrl-A. SIGTERM presses the power button; a\n"
		"second one ends at once.\n\n"
		"Exit status: 0 when the guest powered off, (value << 1) | 1 of the debug-exit\n"
		"port 0xf4, 1 when the guest could not go on, 2 when it could not start.\n",
	.run = run_main,
};
