/*
 * Invariants:
 * 1. The ranges of one space do not overlap each other; none overlaps guest RAM.
 * 2. pio_index[p] is 1 + the position of the range that claims port p, or 0.
 * 3. The coalesced ring is drained, under the lock, before a trapped access is dispatched: a
 *    device sees the guest's accesses in the guest's order.
 */
#include "bus/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "bus/bus_int.h"
#include "os/clock.h"

#define DRAIN_INTERVAL_NS (20 * NSEC_PER_MSEC)

static void drain_slow(struct bus *bus);

static inline void drain_ring(struct bus *bus)
{
	if (bus->ring &&
	    unlikely(bus->ring->first != __atomic_load_n(&bus->ring->last, __ATOMIC_ACQUIRE)))
		drain_slow(bus);
}

static void on_drain_timer(struct bus_timer *timer)
{
	struct bus *bus = timer->bus;

	drain_ring(bus);
	if (bus->coalesced_ranges)
		bus_timer_arm(timer, clock_now_ns() + DRAIN_INTERVAL_NS);
}

struct bus *bus_new(const struct engine_vm *vm, struct guest_mem *mem, struct loop *loop)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return NULL;
	bus->vm = vm;
	bus->mem = mem;
	bus->loop = loop;
	list_init(&bus->devices);
	bus->pio_index = calloc(65536, sizeof(*bus->pio_index));
	bus_timer_init(bus, &bus->drain_timer, on_drain_timer);
	if (!bus->pio_index || irq_table_init(bus)) {
		bus_free(bus);
		return NULL;
	}
	return bus;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	if (bus->loop)
		bus_timer_disarm(&bus->drain_timer);
	irq_table_free(bus);
	free(bus->pio_index);
	free(bus);
}

struct guest_mem *bus_mem(struct bus *bus)
{
	return bus->mem;
}

struct loop *bus_loop(struct bus *bus)
{
	return bus->loop;
}

const struct engine_vm *bus_vm(struct bus *bus)
{
	return bus->vm;
}

struct pci_host *bus_pci(struct bus *bus)
{
	return bus->pci;
}

void bus_set_pci(struct bus *bus, struct pci_host *pci)
{
	bus->pci = pci;
}

void bus_lock(struct bus *bus)
{
	lock_acquire(&bus->lock);
}

void bus_unlock(struct bus *bus)
{
	lock_release(&bus->lock);
}

void bus_request(struct bus *bus, enum bus_event event, int value)
{
	if (bus->request)
		bus->request(bus->request_ctx, event, value);
}

void bus_set_request_hook(struct bus *bus, void (*fn)(void *ctx, enum bus_event event, int value),
			  void *ctx)
{
	bus->request = fn;
	bus->request_ctx = ctx;
}

/* ---- claiming ---- */

static bool overlaps_ram(struct bus *bus, const struct bus_range *range)
{
	const struct mem_region *r;
	size_t count;

	if (range->space != BUS_MMIO || !bus->mem)
		return false;
	r = mem_regions(bus->mem, &count);
	for (size_t i = 0; i < count; i++)
		if (ranges_overlap(range->base, range->size, r[i].gpa, r[i].size))
			return true;
	for (size_t i = 0; i < BUS_MAX_SLOTS; i++)
		if (bus->slots[i].used &&
		    ranges_overlap(range->base, range->size, bus->slots[i].gpa, bus->slots[i].size))
			return true;
	return false;
}

/* Position of the first MMIO range that ends after addr. */
static u32 mmio_position(const struct bus *bus, u64 addr)
{
	u32 lo = 0, hi = bus->mmio_count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (bus->mmio[mid]->base + (bus->mmio[mid]->size - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int mmio_insert(struct bus *bus, struct bus_range *range)
{
	u32 at = mmio_position(bus, range->base);

	if (bus->mmio_count == BUS_MAX_RANGES)
		return -ENOSPC;
	if (at < bus->mmio_count && bus->mmio[at]->base <= range->base + (range->size - 1))
		return -EEXIST;
	memmove(&bus->mmio[at + 1], &bus->mmio[at], (bus->mmio_count - at) * sizeof(bus->mmio[0]));
	bus->mmio[at] = range;
	bus->mmio_count++;
	return 0;
}

static void mmio_delete(struct bus *bus, struct bus_range *range)
{
	u32 at = mmio_position(bus, range->base);

	bus->mmio_count--;
	memmove(&bus->mmio[at], &bus->mmio[at + 1], (bus->mmio_count - at) * sizeof(bus->mmio[0]));
}

static int pio_insert(struct bus *bus, struct bus_range *range)
{
	if (bus->pio_count == BUS_MAX_RANGES)
		return -ENOSPC;
	for (u64 p = 0; p < range->size; p++)
		if (bus->pio_index[range->base + p])
			return -EEXIST;
	bus->pio[bus->pio_count++] = range;
	for (u64 p = 0; p < range->size; p++)
		bus->pio_index[range->base + p] = (u16)bus->pio_count;
	return 0;
}

static void pio_delete(struct bus *bus, struct bus_range *range)
{
	u16 at = bus->pio_index[range->base];
	struct bus_range *last = bus->pio[--bus->pio_count];

	/* The last range takes the freed place. */
	bus->pio[at - 1] = last;
	for (u64 p = 0; p < last->size; p++)
		bus->pio_index[last->base + p] = at;
	for (u64 p = 0; p < range->size; p++)
		bus->pio_index[range->base + p] = 0;
}

/* Where the engine has no coalescing the writes simply exit: slower, with the same effect. */
static void set_coalesced(struct bus *bus, const struct bus_range *range, bool on)
{
	struct kvm_coalesced_mmio_zone zone = {
		.addr = range->base,
		.size = (u32)range->size,
		.pio = range->space == BUS_PIO,
	};
	int cap = range->space == BUS_PIO ? KVM_CAP_COALESCED_PIO : KVM_CAP_COALESCED_MMIO;

	if (range->class != BUS_COALESCED || !bus->vm || !engine_vm_has(bus->vm, (u32)cap))
		return;
	engine_vm_ioctl(bus->vm, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO,
			&zone);
	bus->coalesced_ranges += on ? 1 : -1u;
	if (on && bus->loop && !bus->drain_timer.armed)
		bus_timer_arm(&bus->drain_timer, clock_now_ns() + DRAIN_INTERVAL_NS);
}

int bus_add(struct bus *bus, struct bus_range *range)
{
	u64 limit = range->space == BUS_PIO ? 65536 : 1ULL << 52;
	int rc;

	if (!range->size || !range_fits(range->base, range->size, limit))
		return -EINVAL;
	if (overlaps_ram(bus, range))
		return -EEXIST;
	rc = range->space == BUS_PIO ? pio_insert(bus, range) : mmio_insert(bus, range);
	if (rc)
		return rc;
	range->added = true;
	set_coalesced(bus, range, true);
	return 0;
}

void bus_remove(struct bus *bus, struct bus_range *range)
{
	if (!range->added)
		return;
	drain_ring(bus);
	set_coalesced(bus, range, false);
	range->added = false;
	if (range->space == BUS_PIO)
		pio_delete(bus, range);
	else
		mmio_delete(bus, range);
}

void bus_set_class(struct bus *bus, struct bus_range *range, enum bus_class class)
{
	if (range->class == class)
		return;
	/* First the engine: what was queued until then arrives, and nothing is after. */
	if (range->added) {
		set_coalesced(bus, range, false);
		drain_ring(bus);
	}
	range->class = class;
	if (range->added)
		set_coalesced(bus, range, true);
}

void bus_for_each_range(struct bus *bus, void (*fn)(void *ctx, const struct bus_range *range),
			void *ctx)
{
	for (u32 i = 0; i < bus->pio_count; i++)
		fn(ctx, bus->pio[i]);
	for (u32 i = 0; i < bus->mmio_count; i++)
		fn(ctx, bus->mmio[i]);
}

u64 bus_unclaimed(const struct bus *bus, enum bus_space space)
{
	return bus->unclaimed[space];
}

/* ---- dispatch ---- */

static inline struct bus_range *lookup_pio(struct bus *bus, u64 port)
{
	u16 at = bus->pio_index[port & 0xffff];

	return at ? bus->pio[at - 1] : NULL;
}

static struct bus_range *lookup_mmio(struct bus *bus, u64 addr)
{
	u32 at = bus->mmio_hint;

	if (at < bus->mmio_count && addr - bus->mmio[at]->base < bus->mmio[at]->size)
		return bus->mmio[at];
	at = mmio_position(bus, addr);
	if (at == bus->mmio_count || addr < bus->mmio[at]->base)
		return NULL;
	bus->mmio_hint = at;
	return bus->mmio[at];
}

static inline void access_one(struct bus_range *range, u64 addr, bool write, unsigned int size,
			      void *data)
{
	u64 offset = addr - range->base;

	if (write) {
		range->writes++;
		range->ops->write(range->ctx, offset, size, load_le(data, size));
	} else {
		range->reads++;
		store_le(data, size, range->ops->read(range->ctx, offset, size));
	}
}

static __attribute__((noinline, cold)) void
access_none(struct bus *bus, enum bus_space space, u64 addr, bool write, size_t bytes, void *data)
{
	bus->unclaimed[space]++;
	if (!write)
		memset(data, 0xff, bytes);
	log_debug("nothing at %s 0x%llx (%s, %zu bytes)", space == BUS_PIO ? "port" : "address",
		  (unsigned long long)addr, write ? "write" : "read", bytes);
}

static __attribute__((noinline)) void pio_string(struct bus *bus, struct bus_range *range, u16 port,
						 bool write, unsigned int size, void *data,
						 u32 count)
{
	u64 offset = port - range->base;

	if (write && range->ops->write_block) {
		range->writes += count;
		range->ops->write_block(range->ctx, offset, size, data, count);
		return;
	}
	if (!write && range->ops->read_block) {
		range->reads += count;
		range->ops->read_block(range->ctx, offset, size, data, count);
		return;
	}
	for (u32 i = 0; i < count; i++) {
		access_one(range, port, write, size, (u8 *)data + i * size);
		/* The handler may have removed its own range. */
		if (!range->added && !(range = lookup_pio(bus, port)))
			return;
	}
}

void bus_pio(struct bus *bus, u16 port, bool write, unsigned int size, void *data, u32 count)
{
	struct bus_range *range;

	lock_acquire(&bus->lock);
	drain_ring(bus);
	range = lookup_pio(bus, port);
	if (unlikely(!range))
		access_none(bus, BUS_PIO, port, write, (size_t)size * count, data);
	else if (likely(count == 1))
		access_one(range, port, write, size, data);
	else
		pio_string(bus, range, port, write, size, data, count);
	lock_release(&bus->lock);
}

/* An access of 3, 5, 6 or 7 bytes (one that crossed a page) is done in powers of two. */
static void mmio_access(struct bus *bus, u64 addr, bool write, unsigned int size, u8 *data)
{
	while (size) {
		unsigned int part = 1u << ilog2(size);
		struct bus_range *range = lookup_mmio(bus, addr);

		if (likely(range))
			access_one(range, addr, write, part, data);
		else
			access_none(bus, BUS_MMIO, addr, write, part, data);
		addr += part;
		data += part;
		size -= part;
	}
}

void bus_mmio(struct bus *bus, gpa_t addr, bool write, unsigned int size, void *data)
{
	lock_acquire(&bus->lock);
	drain_ring(bus);
	mmio_access(bus, addr, write, size, data);
	lock_release(&bus->lock);
}

/* ---- the coalesced ring ---- */

void bus_set_coalesced_ring(struct bus *bus, struct kvm_coalesced_mmio_ring *ring)
{
	bus->ring = ring;
}

static void drain_entry(struct bus *bus, const struct kvm_coalesced_mmio *entry)
{
	struct kvm_coalesced_mmio e = *entry;
	enum bus_space space = e.pio ? BUS_PIO : BUS_MMIO;
	struct bus_range *range;

	if (e.len > sizeof(e.data))
		return;
	range = e.pio ? lookup_pio(bus, e.phys_addr) : lookup_mmio(bus, e.phys_addr);
	if (!range) {
		access_none(bus, space, e.phys_addr, true, e.len, e.data);
		return;
	}
	range->coalesced++;
	access_one(range, e.phys_addr, true, e.len, e.data);
}

static __attribute__((noinline)) void drain_slow(struct bus *bus)
{
	struct kvm_coalesced_mmio_ring *ring = bus->ring;
	const u32 max = (u32)((PAGE_SIZE - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio));
	u32 first = ring->first;

	while (first < max && first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
		drain_entry(bus, &ring->coalesced_mmio[first]);
		first = (first + 1) % max;
		__atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
	}
}

void bus_sync(struct bus *bus)
{
	drain_ring(bus);
}

void bus_drain_coalesced(struct bus *bus)
{
	lock_acquire(&bus->lock);
	drain_ring(bus);
	lock_release(&bus->lock);
}
