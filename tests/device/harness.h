/*
 * Drives devices through their registers without a CPU: a bus over a fake engine that writes down
 * what reaches it, RAM, and a clock that moves only when the test says so.
 *
 *	struct harness *h = harness_new(1 * MiB);
 *	struct device *dev = harness_device(h, &serial_class, "serial0", &config);
 *
 *	harness_out(h, 0x3f8 + 1, 1, 0x02);
 *	assert_true(harness_line(h, 4));
 *	harness_advance(h, 10 * NSEC_PER_MSEC);
 *	harness_check_state(h, dev);
 *	harness_free(h);
 *
 * Everything here takes the bus lock where it is needed; a test that calls a device's own functions
 * brackets them with bus_lock(). One thread. Failures are cmocka's.
 *
 * The clock: this file replaces os/clock.c in the program it is linked into, so loop timers and
 * bus timers run on virtual time. A program that links it must not wait for real time.
 */
#ifndef TESTS_DEVICE_HARNESS_H
#define TESTS_DEVICE_HARNESS_H

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/str.h"
#include "bus/bus.h"
#include "bus/device.h"
#include "bus/irq.h"
#include "bus/pci.h"
#include "chardev/chardev.h"
#include "os/clock.h"

#define HARNESS_GSIS 24

struct harness_request {
	enum bus_event event;
	int value;
};

struct harness {
	struct loop *loop;
	struct guest_mem *mem;
	struct bus *bus;
	struct pci_host *pci; /* after harness_pci() */
	struct harness_request last_request;
	unsigned int requests;
	struct harness_engine *engine;
};

/* RAM from 0 on; ram_size in whole pages, 0 for none. */
struct harness *harness_new(u64 ram_size);
/* Frees the devices that are left, too. */
void harness_free(struct harness *h);

/* Make, reset and start a device; the test fails when that fails. */
struct device *harness_device(struct harness *h, const struct device_class *class, const char *id,
			      const void *config);

/* ---- the CPU's side ---- */

u32 harness_in(struct harness *h, u16 port, unsigned int size);
/* A write that matches a doorbell signals its descriptor instead, as in an engine. */
void harness_out(struct harness *h, u16 port, unsigned int size, u32 value);
void harness_ins(struct harness *h, u16 port, unsigned int size, void *data, u32 count);
void harness_outs(struct harness *h, u16 port, unsigned int size, const void *data, u32 count);
u64 harness_read(struct harness *h, gpa_t addr, unsigned int size);
void harness_write(struct harness *h, gpa_t addr, unsigned int size, u64 value);
/* A write into a coalesced range is queued, as in an engine, until the next access; true. Anywhere
 * else it is done at once; false. */
bool harness_write_coalesced(struct harness *h, gpa_t addr, unsigned int size, u64 value);

/* Host pointer to RAM; the test fails where it is none. */
void *harness_ram(struct harness *h, gpa_t addr, u64 len);

/* ---- time and the main loop ---- */

u64 harness_now(void);
/* Move the clock on by ns in steps of at most 20 us and run what became due, in order. */
void harness_advance(struct harness *h, u64 ns);
/* Run the loop without time passing, until nothing is ready any more. */
void harness_settle(struct harness *h);

/* ---- what reached the engine ---- */

bool harness_line(const struct harness *h, u32 gsi);
/* Rising edges of the line since the start. */
u64 harness_edges(const struct harness *h, u32 gsi);
/* MSIs so far, sent directly or by a signalled irqfd; the oldest not yet taken. */
u64 harness_msis(struct harness *h);
bool harness_take_msi(struct harness *h, u64 *addr, u32 *data);

/* ---- PCI ---- */

/* A host bridge with ECAM at 0xb0000000, PIRQ A to D on GSI 16 to 19. */
void harness_pci(struct harness *h);
/* Place the BARs and enable decoding; a function added later needs it again. */
void harness_pci_assign(struct harness *h);
u32 harness_config_read(struct harness *h, u8 devfn, u16 offset, unsigned int size);
void harness_config_write(struct harness *h, u8 devfn, u16 offset, unsigned int size, u32 value);

/* ---- a character device in memory ---- */

struct harness_chardev {
	struct chardev *chr; /* give it to the device */
	int fd;		     /* the test's end, non-blocking */
};

void harness_chardev_open(struct harness *h, struct harness_chardev *c);
void harness_chardev_close(struct harness_chardev *c);
/* Up to cap bytes that the device sent. */
size_t harness_chardev_take(struct harness *h, struct harness_chardev *c, void *buf, size_t cap);

/* ---- saved state and hostile guests ---- */

/*
 * Save, reset, load, save again: both must be the same bytes. Then load what is broken (cut short
 * everywhere, bits flipped): it may fail but must not crash; the good state is loaded last.
 */
void harness_check_state(struct harness *h, struct device *dev);

struct harness_range {
	enum bus_space space;
	u64 base, size;
};

/*
 * `count` random accesses of every size in the ranges, strings and time steps among them.
 * each (may be NULL) runs after every one, for a test to check what must always hold.
 */
void harness_hostile(struct harness *h, const struct harness_range *ranges, size_t n, u64 seed,
		     u64 count, void (*each)(struct harness *h));
/* The next number of a generator whose state the test keeps. */
u64 harness_random(u64 *seed);

#endif
