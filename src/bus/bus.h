/*
 * The bus: who answers at which port and guest-physical address, and in which class (DESIGN.md,
 * "The mechanisms").
 *
 * Locking: one lock serialises all device code. A handler of a range, a bus_timer, a bus_watch and
 * everything in struct device_class runs with it held; so devices hold no locks of their own. Code
 * that enters a device from elsewhere (a queue thread, the monitor) takes bus_lock() around it.
 * Handlers must not block. Functions below are called with the lock held, or before the vCPUs
 * start, unless they say otherwise.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include "base/err.h"
#include "base/list.h"
#include "base/types.h"
#include "engine/vm.h"
#include "mem/mem.h"
#include "os/loop.h"

struct bus;
struct pci_host;

/* vm, mem and loop must outlive the bus. A bus without an engine (vm NULL) works for tests: no
 * slots, doorbells or interrupts reach anybody. */
struct bus *bus_new(const struct engine_vm *vm, struct guest_mem *mem, struct loop *loop);
void bus_free(struct bus *bus);

struct guest_mem *bus_mem(struct bus *bus);
struct loop *bus_loop(struct bus *bus);
const struct engine_vm *bus_vm(struct bus *bus);
/* The PCI host bridge of the machine, or NULL on a board without. */
struct pci_host *bus_pci(struct bus *bus);
void bus_set_pci(struct bus *bus, struct pci_host *pci);

/* Any thread. Not recursive. */
void bus_lock(struct bus *bus);
void bus_unlock(struct bus *bus);

/* ---- ranges ---- */

enum bus_space { BUS_PIO, BUS_MMIO };

enum bus_class {
	BUS_TRAP,      /* each access exits to the handler */
	BUS_COALESCED, /* writes are queued without an exit and arrive later, in order; reads exit
			*/
};

/* offset is relative to the range; size is 1, 2, 4 or 8 (ports: 1, 2, 4). The access lies in the
 * range's first size bytes on; it may reach past its end (return what a data sheet says). */
struct bus_ops {
	u64 (*read)(void *ctx, u64 offset, unsigned int size);
	void (*write)(void *ctx, u64 offset, unsigned int size, u64 value);
	/* String I/O of `count` elements to one port at once; NULL: element by element. */
	void (*read_block)(void *ctx, u64 offset, unsigned int size, void *data, u32 count);
	void (*write_block)(void *ctx, u64 offset, unsigned int size, const void *data, u32 count);
};

struct bus_range {
	/* the device's part */
	const char *name;
	enum bus_space space;
	enum bus_class class;
	u64 base, size;
	const struct bus_ops *ops;
	void *ctx;
	/* the bus's part */
	bool added;
	u64 reads, writes, coalesced; /* accesses since start, for --stats */
};

/* Claim the range; the structure stays the caller's and must not move. -EEXIST where it overlaps
 * another or RAM, -EINVAL where it wraps or leaves the space. */
int bus_add(struct bus *bus, struct bus_range *range);
/* Harmless when not added. Allowed inside a handler of the range itself. */
void bus_remove(struct bus *bus, struct bus_range *range);

/* Change the class of a range; what is queued arrives before. As slow as bus_ram_add(). */
void bus_set_class(struct bus *bus, struct bus_range *range, enum bus_class class);
/* Have what is queued in the coalesced ring arrive now. Not inside a handler of a range. */
void bus_sync(struct bus *bus);

/* ---- BUS_RAM: memory slots ---- */

enum { BUS_RAM_READONLY = 1 << 0, BUS_RAM_LOG = 1 << 1 /* dirty log */ };

/* Map [gpa, gpa + size) to host memory; all three page-aligned. Returns a slot number >= 0 or
 * -errno. Slow (up to 10 ms) once interrupts exist on some hosts: not on a hot path. */
int bus_ram_add(struct bus *bus, gpa_t gpa, u64 size, void *hva, u32 flags);
int bus_ram_set_flags(struct bus *bus, int slot, u32 flags);
void bus_ram_remove(struct bus *bus, int slot);
/* Fetch and clear the dirty bitmap of a logged slot: BITMAP_WORDS(pages) words. */
int bus_ram_dirty(struct bus *bus, int slot, u64 *bitmap);

/* ---- doorbells ---- */

/* A write of `size` bytes (0: any size, address only) at addr, with `match` only of `value`,
 * signals fd instead of exiting. */
struct bus_doorbell {
	enum bus_space space;
	u64 addr, value;
	unsigned int size;
	bool match;
	int fd;
};

/* 0 or -errno; where the engine cannot, the write exits to the range as before. */
int bus_doorbell_add(struct bus *bus, const struct bus_doorbell *doorbell);
void bus_doorbell_del(struct bus *bus, const struct bus_doorbell *doorbell);

/* ---- dispatch: the vCPU threads; these take the lock ---- */

void bus_pio(struct bus *bus, u16 port, bool write, unsigned int size, void *data, u32 count);
void bus_mmio(struct bus *bus, gpa_t addr, bool write, unsigned int size, void *data);
/* The VM's coalesced ring, once a vCPU has been mapped. Drained before every dispatch and by a
 * timer; bus_drain_coalesced() does it now, and takes the lock. */
struct kvm_coalesced_mmio_ring;
void bus_set_coalesced_ring(struct bus *bus, struct kvm_coalesced_mmio_ring *ring);
void bus_drain_coalesced(struct bus *bus);

/* Call fn for every range that was ever accessed, and for the unclaimed ones (name NULL). */
void bus_for_each_range(struct bus *bus, void (*fn)(void *ctx, const struct bus_range *range),
			void *ctx);
/* Accesses that nothing claimed. */
u64 bus_unclaimed(const struct bus *bus, enum bus_space space);

/* ---- timers and descriptors of devices: like os/loop.h, but called with the lock held ---- */

struct bus_timer {
	struct loop_timer timer;
	struct bus *bus;
	void (*fn)(struct bus_timer *timer);
	bool armed;
	u64 deadline_ns;
};

void bus_timer_init(struct bus *bus, struct bus_timer *timer, void (*fn)(struct bus_timer *timer));
/* Absolute, clock_now_ns(). */
void bus_timer_arm(struct bus_timer *timer, u64 deadline_ns);
/* fn is not called any more once this returns. */
void bus_timer_disarm(struct bus_timer *timer);

/* ---- what devices ask of the machine ---- */

enum bus_event {
	BUS_RESET_REQUEST,
	BUS_SHUTDOWN_REQUEST,
	BUS_SUSPEND_REQUEST,
	BUS_PANIC,
	BUS_EXIT
};

/* The guest asked for a reset, power-off, reported a panic, or exits with a status (`value`). Takes
 * effect soon after the handler returns. Lock not needed. */
void bus_request(struct bus *bus, enum bus_event event, int value);
void bus_set_request_hook(struct bus *bus, void (*fn)(void *ctx, enum bus_event event, int value),
			  void *ctx);

#endif
