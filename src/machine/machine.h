/*
 * The machine: an engine's VM, RAM, vCPUs and a board of devices, built from a configuration, and
 * its life. All functions are for the main thread, which runs the loop, unless stated.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include <stdio.h>

#include "base/err.h"
#include "base/types.h"
#include "bus/bus.h"
#include "engine/engine.h"
#include "machine/boot.h"
#include "machine/cpuid.h"
#include "machine/image.h"
#include "os/loop.h"

struct machine;
struct vcpu;

enum machine_board {
	BOARD_AUTO,  /* bare for a flat binary, pc otherwise */
	BOARD_PC,    /* PCI, ACPI, all PC devices */
	BOARD_MICRO, /* no PCI: virtio-mmio announced through ACPI */
	BOARD_BARE,  /* no interrupt controller, serial and debug ports only; HLT ends the run */
};

#define MACHINE_SERIALS	 2
#define MACHINE_REGS_MAX 32

struct machine_reg {
	char name[8];
	u64 value;
};

/* A device that the user asked for: --disk, --net, --share ...; the kind is the option's name. */
struct machine_device {
	const char *kind;
	const char *spec; /* the option's text */
	bool optional;	  /* a default: where it cannot be had, go on without it */
};

struct machine_config {
	const struct engine_class *engine;
	enum machine_board board;
	u64 memory;
	u32 cpus;
	struct cpu_topology topology;
	bool hugepages;
	const struct image *image;    /* kernel, flat binary ...; or NULL with bios */
	const struct image *firmware; /* NULL: none */
	struct boot_options boot;
	struct machine_reg reg[MACHINE_REGS_MAX];
	u32 reg_count;
	struct chardev *serial[MACHINE_SERIALS]; /* NULL: not connected */
	struct chardev *debugcon;
	const struct machine_device *devices;
	size_t device_count;
	bool no_reboot, timed;
	FILE *trace;
	const char *name;
};

/* Everything that can fail fails here, before the guest has run. NULL with the reason. The
 * configuration and what it points at must outlive the machine. */
struct machine *machine_new(const struct machine_config *config, struct loop *loop,
			    struct err *err);
void machine_free(struct machine *machine);

/* Start the vCPUs. The loop is stopped (loop_stop) with the exit status when the machine ends. */
int machine_start(struct machine *machine, struct err *err);
/* Park the vCPUs and drain the devices; returns when done. Idempotent. */
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
bool machine_paused(const struct machine *machine);
/* Reset in place, as the reset button. */
int machine_reset(struct machine *machine);
/* Press the power button. False where there is none or the guest does not listen. */
bool machine_powerdown(struct machine *machine);

/* Plug the cable of network card `id` (net0, net1, ... in the order of --net) in or out: -ENOENT.
 */
int machine_set_link(struct machine *machine, const char *id, bool up);
/* The n-th card and whether its link is up; NULL past the last. */
const char *machine_get_link(struct machine *machine, u32 n, bool *up);

/* Ask the guest to use no more than `memory` bytes (with --balloon): -ENODEV, -EINVAL. What it uses
 * now, as far as the balloon tells. */
int machine_set_balloon(struct machine *machine, u64 memory);
u64 machine_balloon_memory(struct machine *machine);

struct bus *machine_bus(struct machine *machine);
u32 machine_vcpu_count(const struct machine *machine);
struct vcpu *machine_vcpu(struct machine *machine, u32 index);
enum machine_board machine_board(const struct machine *machine);

/* Exits, accesses, interrupts, doorbells and the engine's own statistics, as text. */
void machine_print_stats(struct machine *machine, FILE *out);
/* Whether the devices that the user asked for make sense, as far as that shows without opening
 * anything. -EINVAL with the reason. */
int machine_check_devices(const struct machine_config *config, struct err *err);
/* What -n prints. */
void machine_print_config(const struct machine_config *config, FILE *out);
enum machine_board machine_choose_board(const struct machine_config *config);

#endif
