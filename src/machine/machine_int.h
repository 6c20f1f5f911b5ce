/* The machine from inside: shared by machine.c, board.c, start.c and stats.c. */
#ifndef MACHINE_INT_H
#define MACHINE_INT_H

#include "engine/vcpu.h"
#include "engine/vm.h"
#include "machine/acpi.h"
#include "machine/layout.h"
#include "machine/machine.h"

#define MACHINE_MAX_CPUS  256
#define MACHINE_MAX_OWNED 128
#define MACHINE_MAX_NETS  32

/* Something that happened on another thread and that the main thread must deal with. */
struct machine_event {
	struct loop_work work;
	struct machine *machine;
	u32 pending; /* bits 1 << enum machine_event_kind, atomic */
	int exit_status;
};

enum machine_event_kind {
	EVENT_RESET,
	EVENT_SHUTDOWN,
	EVENT_PANIC,
	EVENT_EXIT,
	EVENT_FAILED,
	EVENT_HALTED,
	EVENT_TRIPLE_FAULT
};

struct machine {
	struct machine_config config;
	enum machine_board board;
	struct loop *loop;
	struct engine_vm vm;
	struct layout layout;
	struct guest_mem *mem;
	struct bus *bus;
	struct pci_host *pci;
	struct vcpu *vcpu[MACHINE_MAX_CPUS];
	u32 vcpus;
	/* The engine's statistics: opened before the vCPUs run, whose descriptors are busy then.
	 * -1 where there are none. */
	int vm_stats_fd, vcpu_stats_fd[MACHINE_MAX_CPUS];
	struct kvm_cpuid2 *supported;
	struct boot_entry entry;
	struct device *pm, *fw_cfg, *balloon;
	struct acpi_virtio_mmio virtio_mmio[32];
	size_t virtio_mmio_count;
	struct {
		void (*stop)(void *object);
		void (*release)(void *object);
		void *object;
	} owned[MACHINE_MAX_OWNED]; /* user_devices.h */
	u32 owned_count;
	struct {
		char id[16];
		struct net *net;
	} net[MACHINE_MAX_NETS];
	u32 nets; /* network cards so far */
	struct machine_event event;
	u32 halted; /* vCPUs that ended in HLT, atomic */
	bool started, paused;
	u32 triple_faults;
	u64 last_reset_ns;
};

static inline bool has_irqchip(const struct machine *m)
{
	return m->board != BOARD_BARE;
}

/* start.c: RAM slots, interrupt controllers, vCPUs and their CPUID. */
int machine_make_vm(struct machine *machine, struct err *err);
int machine_make_vcpus(struct machine *machine, struct err *err);
int machine_reset_chips(struct machine *machine);
/* Load the image and put vCPU 0 at its entry. */
int machine_load(struct machine *machine, struct err *err);

/* board.c */
int board_build(struct machine *machine, struct err *err);
void board_free(struct machine *machine);
/* Addresses for BARs where no firmware gives them, ACPI tables into RAM or fw_cfg. */
int board_prepare_boot(struct machine *machine, gpa_t *rsdp, struct err *err);

/* stats.c */
void machine_open_stats(struct machine *machine);
void machine_close_stats(struct machine *machine);

/* user_devices.c */
int board_add_user_device(struct machine *machine, const struct machine_device *device,
			  struct err *err);
void board_stop_user_devices(struct machine *machine);
void board_free_user_devices(struct machine *machine);

extern const struct vcpu_ops machine_vcpu_ops;

#endif
