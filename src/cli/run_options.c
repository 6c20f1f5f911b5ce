/* The options of `bothy run`: parsing, help and the manual read this table. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/run.h"

static int add_initrd(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (o->initrds == RUN_MAX_LIST)
		return err_set(err, E2BIG, "more than %d", RUN_MAX_LIST);
	o->initrd[o->initrds++] = value;
	return 0;
}

static int add_serial(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;

	if (o->serials == MACHINE_SERIALS)
		return err_set(err, E2BIG, "the machine has %d serial ports", MACHINE_SERIALS);
	o->serial[o->serials++] = value;
	return 0;
}

static int add_reg(void *target, const char *value, struct err *err)
{
	struct run_options *o = target;
	const char *eq = strchr(value, '=');
	struct machine_reg *r = &o->reg[o->regs];

	if (o->regs == MACHINE_REGS_MAX)
		return err_set(err, E2BIG, "more than %d", MACHINE_REGS_MAX);
	if (!eq || (size_t)(eq - value) >= sizeof(r->name) || parse_u64(eq + 1, &r->value))
		return err_set(err, EINVAL, "%s: give it as NAME=NUMBER, for example rax=2", value);
	memcpy(r->name, value, (size_t)(eq - value));
	o->regs++;
	return 0;
}

static inline int add_device(struct run_options *o, const char *kind, const char *spec,
			     struct err *err)
{
	if (o->devices == RUN_MAX_LIST)
		return err_set(err, E2BIG, "more than %d devices", RUN_MAX_LIST);
	o->device[o->devices++] = (struct machine_device){kind, spec};
	return 0;
}

#define DEVICE_OPTION(kind, id, arg, help)                                                         \
	static int add_##id(void *target, const char *value, struct err *err)                      \
	{                                                                                          \
		return add_device(target, kind, value, err);                                       \
	}
#include "cli/run_devices.def"
#undef DEVICE_OPTION

static const char *const engine_names[] = {
	"auto", "kvm", "soft", "soft,exec=interpreter", "soft,exec=translator", "soft,exec=eager",
	NULL};
static const char *const board_names[] = {"auto", "pc", "micro", "bare", NULL};
static const char *const mode_names[] = {"real", "protected", "long", NULL};

#define FIELD(f) offsetof(struct run_options, f)

const struct opt run_option_table[] = {
	{"kernel", OPT_STRING, FIELD(kernel), "FILE",
	 "Start this kernel: bzImage, ELF vmlinux (PVH or 64-bit Linux entry) or multiboot image."},
	{"initrd", OPT_CALL, .arg = "FILE", .call = add_initrd,
	 .help = "Initial RAM disk, or a module of a multiboot kernel. May be given several "
		 "times."},
	{"append", OPT_STRING, FIELD(append), "TEXT", "Command line of the kernel."},
	{"bios", OPT_STRING, FIELD(bios), "FILE",
	 "Firmware, mapped below 4 GiB and shadowed below 1 MiB."},
	{"uefi", OPT_BOOL, FIELD(uefi), "on|off",
	 "UEFI firmware: OVMF, where Debian's package ovmf puts it. Its variables are not kept."},
	{"load", OPT_STRING, FIELD(load), "ADDR",
	 "Flat binary: where its first byte goes (0x1000)."},
	{"entry", OPT_STRING, FIELD(entry), "ADDR",
	 "Flat binary: where it starts (its first byte)."},
	{"mode", OPT_ENUM, FIELD(mode), "real|protected|long",
	 "Flat binary: the CPU mode it starts in (real).", .choices = mode_names},
	{"reg", OPT_CALL, .arg = "NAME=NUMBER", .call = add_reg,
	 .help = "Set a register of the first vCPU at entry: rax to r15, rip, rflags."},
	{"memory", OPT_SIZE, FIELD(memory), "SIZE", "RAM (512M).", .dflt = "512M", .min = 4096},
	{"cpus", OPT_U64, FIELD(cpus), "N", "Number of vCPUs (1).", .dflt = "1", .min = 1,
	 .max = 256},
	{"hugepages", OPT_BOOL, FIELD(hugepages), "on|off",
	 "Take RAM from the host's reserved huge pages."},
	{"engine", OPT_ENUM, FIELD(engine), "auto|kvm|soft[,exec=HOW]",
	 "What runs the CPUs: the kernel's KVM, or our own in user space (auto: KVM where it is "
	 "there and fast). HOW our own does it: interpreter, translator (hot code becomes host "
	 "code), or eager (all code does, for tests).",
	 .choices = engine_names},
	{"machine", OPT_ENUM, FIELD(board), "auto|pc|micro|bare",
	 "The board: pc has PCI and all PC devices, micro has virtio-mmio and no PCI, bare has no "
	 "interrupt controller and ends with HLT (auto: bare for a flat binary, else pc).",
	 .choices = board_names},
	{"serial", OPT_CALL, .arg = "WHERE", .call = add_serial,
	 .help = "Serial port: stdio, pty, null, file:PATH, pipe:PATH, socket:PATH or fd:N. The "
		 "first is COM1 (stdio), the second COM2 (null)."},
	{"debugcon", OPT_STRING, FIELD(debugcon), "WHERE",
	 "Where bytes written to ports 0xe9 and 0x402 go (null)."},
#define DEVICE_OPTION(kind, id, arg, help) {kind, OPT_CALL, 0, arg, help, .call = add_##id},
#include "cli/run_devices.def"
#undef DEVICE_OPTION
	{"name", OPT_STRING, FIELD(name), "NAME", "Name of the VM."},
	{"no-reboot", OPT_BOOL, FIELD(no_reboot), "on|off", "End where the guest would reboot."},
	{"stats", OPT_BOOL, FIELD(stats), "on|off",
	 "At the end and on SIGUSR1, print exits by reason with the time spent, accesses by range "
	 "and class, doorbells and interrupts."},
	{"trace", OPT_STRING, FIELD(trace), "exits[=FILE]",
	 "Write one line an exit, to standard error or FILE."},
	{"log", OPT_STRING, FIELD(log), "error|warn|info|debug", "How much to say (info)."},
	{"n", OPT_BOOL, FIELD(dry_run),
	 .help = "Check and print the configuration, start nothing."},
	{"h", OPT_BOOL, FIELD(help), .help = "This help."},
	{"help", OPT_BOOL, FIELD(help)},
	OPT_END,
};
