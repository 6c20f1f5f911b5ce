/* The pieces of `bothy run`. */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include "base/opt.h"
#include "machine/machine.h"

#define RUN_MAX_LIST 64

struct run_options {
	char *kernel, *bios, *append, *image, *name, *trace, *log;
	bool uefi;
	const char *initrd[RUN_MAX_LIST]; /* and modules; borrowed from argv */
	u32 initrds;
	const char *serial[MACHINE_SERIALS];
	u32 serials;
	char *debugcon;
	u64 memory, cpus;
	int engine, board, mode;
	char *load, *entry;
	bool hugepages, no_reboot, stats, dry_run, help;
	struct machine_reg reg[MACHINE_REGS_MAX];
	u32 regs;
	struct machine_device device[RUN_MAX_LIST];
	u32 devices;
};

extern const struct opt run_option_table[];

/* Pick the engine: --engine auto probes. NULL with the reason. *why says why in a line. */
const struct engine_class *run_choose_engine(int choice, const char **why, struct err *err);

/* Ctrl-A commands and the line monitor of the terminal. */
struct console;
struct console *console_new(struct machine *machine, struct chardev *chr, struct loop *loop);
void console_free(struct console *console);

#endif
