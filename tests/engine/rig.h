/*
 * A small guest on one engine, driven through the seam exit by exit.
 *
 * A case is a function that returns true when every exit was as expected. TRY() ends it at the
 * first that was not; what happened instead is in rig.text.
 */
#ifndef TEST_ENGINE_RIG_H
#define TEST_ENGINE_RIG_H

#include <linux/kvm.h>

#include "base/types.h"
#include "engine/vm.h"
#include "machine/boot.h"

/* Guest-physical map: RAM to 0xa0000, then what a case puts there. */
#define RIG_RAM	   0xa0000ULL
#define RIG_LOGGED 0xa0000ULL /* 16 pages, in cases that add them */
#define RIG_ROM	   0xc0000ULL
#define RIG_MMIO   0xd0000ULL
#define RIG_ZONE   0xe0000ULL
#define RIG_ENTRY  0x1000ULL
#define RIG_CPUS   2
#define RIG_APIC   0xfee00000ULL

enum {
	RIG_IRQCHIP = 1 << 0, /* the engine's interrupt controllers */
	RIG_SPLIT = 1 << 1,   /* only its local APICs */
	RIG_CPUID = 1 << 2,   /* set what the engine supports */
};

struct guest {
	const char *name;
	const u8 *code;
	size_t size;
};
extern const struct guest guests[]; /* made by make-guests; ends with a NULL name */

struct rig_vcpu {
	int fd;
	struct kvm_run *run;
};

struct rig {
	struct engine_vm vm;
	struct rig_vcpu cpu[RIG_CPUS];
	struct kvm_run *run; /* of cpu[0] */
	size_t run_size;
	struct guest_mem *mem;
	u8 *ram;     /* RIG_RAM bytes at 0 */
	u8 *extra;   /* 64 KiB for a second slot */
	int last_rc; /* of the last KVM_RUN */
	bool skipped;
	char text[1024]; /* why it failed or was skipped */
};

struct engine_case {
	const char *name, *guest;
	enum boot_mode mode;
	u32 flags;
	bool (*run)(struct rig *r);
};
extern const struct engine_case engine_cases[];

#define TRY(call)                                                                                  \
	do {                                                                                       \
		if (!(call))                                                                       \
			return false;                                                              \
	} while (0)

/* A fact about memory or registers. */
#define EXPECT(r, cond)                                                                            \
	do {                                                                                       \
		if (!(cond))                                                                       \
			return rig_fail(r, "%s:%d: not true: %s", __FILE__, __LINE__, #cond);      \
	} while (0)

bool rig_fail(struct rig *r, const char *fmt, ...) PRINTF_LIKE(2, 3); /* false */
bool rig_skip(struct rig *r, const char *fmt, ...) PRINTF_LIKE(2, 3); /* false, and skipped */

bool rig_open(struct rig *r, const struct engine_class *engine, const struct engine_case *c);
void rig_close(struct rig *r);

int rig_vm_ioctl(struct rig *r, unsigned long request, void *arg);
int rig_ioctl(struct rig *r, unsigned long request, void *arg); /* of vCPU 0 */

/* Skip the case when the VM lacks the capability. */
bool rig_need(struct rig *r, unsigned int capability, const char *name);
bool rig_enable(struct rig *r, unsigned int capability, u64 arg);
/* Map rig.extra as a slot; size 0 removes it. */
bool rig_slot(struct rig *r, gpa_t gpa, u64 size, u32 flags);
bool rig_add_vcpu(struct rig *r);

/* Back to the first instruction. */
bool rig_restart(struct rig *r);

/* The engine is the kernel's: what it lacks on this host is not our fault. */
bool rig_is_kvm(const struct rig *r);

/* Enter once; false only where the engine refused (not -EINTR). */
bool rig_enter(struct rig *r);

/* Enter, and expect this exit. A case fails with what came instead. */
bool want_out(struct rig *r, u16 port, unsigned int size, u32 value);
bool want_in(struct rig *r, u16 port, unsigned int size, u32 value);
bool want_write(struct rig *r, u64 addr, unsigned int len, u64 value);
bool want_read(struct rig *r, u64 addr, unsigned int len, u64 value);
bool want_exit(struct rig *r, u32 reason);
/* The same about the exit that has come already. */
bool got_exit(struct rig *r, u32 reason);
bool want_hlt(struct rig *r);
/* KVM_RUN fails with -EINTR. */
bool want_interrupted(struct rig *r);
/* `count` elements out of (into) one port, in however many exits. */
bool want_outs(struct rig *r, u16 port, unsigned int size, const void *data, u32 count);
bool want_ins(struct rig *r, u16 port, unsigned int size, const void *data, u32 count);

/* Signals the process every 10 ms from now on, until ended: KVM_RUN returns -EINTR. SIGUSR1 has a
 * handler that does nothing, too. */
void rig_ticks_start(void);
void rig_ticks_stop(void);

#endif
