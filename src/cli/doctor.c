/* bothy doctor, and the choice of --engine auto: both rest on the same probe. */
#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/str.h"
#include "cli/cli.h"
#include "cli/run.h"
#include "engine/probe.h"

/* Why softkvm runs: what is the matter with /dev/kvm. */
static const char *const why_soft[] = {
	[ENGINE_SLOW] = "/dev/kvm is there but only interprets",
	[ENGINE_MISSING] = "there is no /dev/kvm",
	[ENGINE_FORBIDDEN] = "no permission for /dev/kvm",
	[ENGINE_UNUSABLE] = "/dev/kvm cannot be used",
};

static enum engine_verdict judge(const struct engine_class *engine, struct engine_probe *probe,
				 struct err *err)
{
	return engine_judge(engine_probe(engine, probe, err), probe);
}

const struct engine_class *run_choose_engine(int choice, const char **why, struct err *err)
{
	static const char *const names[] = {
		"auto",		  "kvm", "soft", "soft,exec=interpreter", "soft,exec=translator",
		"soft,exec=eager"};
	const struct engine_class *kvm = engine_lookup("kvm"), *soft = engine_lookup("soft");
	struct engine_probe probe;
	enum engine_verdict v;

	if (choice) {
		const struct engine_class *engine = engine_lookup(names[choice]);

		if (!engine)
			err_set(err, ENOTSUP, "--engine %s: this build does not have it",
				names[choice]);
		*why = "chosen on the command line";
		return engine;
	}
	v = judge(kvm, &probe, err);
	if (v == ENGINE_FAST) {
		*why = "/dev/kvm is there and fast";
		return kvm;
	}
	if (soft) {
		*why = why_soft[v];
		return soft;
	}
	*why = "/dev/kvm only interprets, and this build has no other engine";
	return v == ENGINE_SLOW ? kvm : NULL;
}

static void show(const char *name, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void show(const char *name, const char *fmt, ...)
{
	va_list ap;

	printf("%-12s ", name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void show_engine(const struct engine_class *engine)
{
	struct engine_probe probe;
	struct err err;
	enum engine_verdict v = judge(engine, &probe, &err);

	if (v != ENGINE_FAST && v != ENGINE_SLOW)
		show(engine->name, "cannot be used: %s", err.text);
	else if (!probe.works)
		show(engine->name, "there, but slow: it did not run %llu instructions in %.1f ms",
		     (unsigned long long)probe.instructions, (double)probe.run_ns / 1e6);
	else if (!probe.ns_per_1000)
		show(engine->name,
		     "fast: an instruction takes less than can be told (probed in %.1f ms)",
		     (double)probe.total_ns / 1e6);
	else
		show(engine->name, "%s: %.2f ns an instruction (probed in %.1f ms)",
		     v == ENGINE_FAST ? "fast" : "there, but it interprets",
		     (double)probe.ns_per_1000 / 1000, (double)probe.total_ns / 1e6);
}

static void show_file(const char *name, const char *path, int mode, const char *missing)
{
	if (!access(path, mode))
		show(name, "%s", path);
	else
		show(name, "no %s%s: %s", errno == EACCES ? "permission for " : "", path, missing);
}

#define BRIDGE_HELPER "/usr/lib/qemu/qemu-bridge-helper"
#define BRIDGE_ACL    "/etc/qemu/bridge.conf"

/* Is there a bridge in this network namespace at all? */
static bool have_bridge(void)
{
	glob_t found;
	bool any = !glob("/sys/class/net/*/bridge", GLOB_NOSORT, NULL, &found);

	if (any)
		globfree(&found);
	return any;
}

/* --net bridge: what is missing, one line each. */
static void show_bridge(void)
{
	const char *acl = "lines 'allow NAME'";
	struct stat st;

	if (!have_bridge())
		show("bridge", "no bridge on this host: see bothy-network(7) for how to make one");
	if (!geteuid()) {
		show("bridge", "as root directly");
		return;
	}
	if (stat(BRIDGE_HELPER, &st)) {
		show("bridge", "no " BRIDGE_HELPER ": only root joins bridges; package "
			       "qemu-system-common has it");
		return;
	}
	if (!(st.st_mode & S_ISUID))
		show("bridge", BRIDGE_HELPER " is not setuid root: chmod u+s " BRIDGE_HELPER);
	if (access(BRIDGE_ACL, F_OK))
		show("bridge", "no " BRIDGE_ACL ": the helper wants %s in it", acl);
	else
		show("bridge", "through " BRIDGE_HELPER ", for what " BRIDGE_ACL " allows");
}

static int doctor_main(int argc, char **argv)
{
	const struct engine_class *chosen;
	struct utsname u;
	const char *why = NULL;
	struct err err;

	if (!uname(&u))
		show("host", "%s %s, %ld CPUs", u.sysname, u.release,
		     sysconf(_SC_NPROCESSORS_ONLN));
	for (size_t i = 0; engine_classes[i]; i++)
		if (!strcmp(engine_classes[i]->name, "kvm"))
			show_engine(engine_classes[i]);
		else
			show(engine_classes[i]->name, "%s", engine_classes[i]->summary);
	chosen = run_choose_engine(0, &why, &err);
	show("auto", "%s: %s", chosen ? chosen->name : "nothing", chosen ? why : err.text);
	show_file("tap", "/dev/net/tun", R_OK | W_OK, "no tap networking");
	show_file("vhost", "/dev/vhost-net", R_OK | W_OK, "no vhost=on; modprobe vhost_net");
	show_bridge();
	show_file("boot ROMs", "/usr/lib/ipxe/qemu/efi-virtio.rom", R_OK,
		  "no network boot; package ipxe-qemu has it");
	show_file("SeaBIOS", "/usr/share/seabios/bios-256k.bin", R_OK, "package seabios has it");
	show_file("OVMF", "/usr/share/ovmf/OVMF.fd", R_OK, "package ovmf has it");
	return chosen ? 0 : 1;
}

const struct command command_doctor = {
	.name = "doctor",
	.args = "",
	.summary = "Say what this host offers, what bothy will use, and why",
	.run = doctor_main,
};
