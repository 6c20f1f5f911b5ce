/*
 * Invariants:
 * 1. A fake engine's VM descriptor is a real descriptor; engines[] finds the engine by it.
 * 2. `now` never goes back.
 */
#define _GNU_SOURCE
#include "device/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/engine.h"
#include "engine/vm.h"
#include "os/event.h"
#include "os/file.h"

#define STEP_NS	   (20 * NSEC_PER_USEC)
#define ECAM_BASE  0xb0000000ULL
#define MSI_QUEUE  4096
#define MAX_IRQFDS 256

struct msi {
	u64 addr;
	u32 data;
};

struct irqfd {
	int fd;
	u32 gsi;
};

struct harness_engine {
	struct engine_vm vm;
	bool line[HARNESS_GSIS];
	u64 edges[HARNESS_GSIS];
	struct msi msi[MSI_QUEUE];
	u64 msi_head, msi_tail;
	struct kvm_irq_routing_entry *routes;
	u32 route_count;
	struct irqfd irqfds[MAX_IRQFDS];
	size_t irqfd_count;
	struct kvm_ioeventfd doorbells[64];
	size_t doorbell_count;
	struct kvm_coalesced_mmio_zone zones[64];
	size_t zone_count;
	struct kvm_coalesced_mmio_ring *ring; /* a page; after the first coalesced write */
};

/* ---- the clock: instead of os/clock.c ---- */

static u64 now = 1000 * NSEC_PER_SEC;

u64 clock_now_ns(void)
{
	return now;
}

u64 clock_realtime_ns(void)
{
	/* 2026-11-20 06:30:00 UTC, plus what has passed. */
	return 1795156200 * NSEC_PER_SEC + (now - 1000 * NSEC_PER_SEC);
}

u64 clock_thread_cpu_ns(void)
{
	return now;
}

u64 harness_now(void)
{
	return now;
}

/* ---- the fake engine ---- */

static struct harness_engine *engines[8];

static struct harness_engine *engine_of(int fd)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++)
		if (engines[i] && engines[i]->vm.fd == fd)
			return engines[i];
	return NULL;
}

static void engine_msi(struct harness_engine *e, u64 addr, u32 data)
{
	e->msi[e->msi_tail++ % MSI_QUEUE] = (struct msi){addr, data};
	if (e->msi_tail - e->msi_head > MSI_QUEUE)
		e->msi_head = e->msi_tail - MSI_QUEUE;
}

static int engine_irq_line(struct harness_engine *e, const struct kvm_irq_level *irq)
{
	if (irq->irq >= HARNESS_GSIS)
		return -EINVAL;
	e->edges[irq->irq] += irq->level && !e->line[irq->irq];
	e->line[irq->irq] = irq->level;
	return 0;
}

static int engine_set_routing(struct harness_engine *e, const struct kvm_irq_routing *table)
{
	size_t len = table->nr * sizeof(table->entries[0]);
	void *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, table->entries, len);
	free(e->routes);
	e->routes = copy;
	e->route_count = table->nr;
	return 0;
}

static int engine_irqfd(struct harness_engine *e, const struct kvm_irqfd *irqfd)
{
	size_t i;

	for (i = 0; i < e->irqfd_count; i++)
		if (e->irqfds[i].fd == (int)irqfd->fd && e->irqfds[i].gsi == irqfd->gsi)
			break;
	if (irqfd->flags & KVM_IRQFD_FLAG_DEASSIGN) {
		if (i < e->irqfd_count)
			e->irqfds[i] = e->irqfds[--e->irqfd_count];
		return 0;
	}
	if (i < e->irqfd_count)
		return -EBUSY;
	if (i == MAX_IRQFDS)
		return -ENOSPC;
	e->irqfds[e->irqfd_count++] = (struct irqfd){(int)irqfd->fd, irqfd->gsi};
	return 0;
}

static bool same_doorbell(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
	u32 kind = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH;

	return a->addr == b->addr && a->len == b->len && a->fd == b->fd &&
	       !((a->flags ^ b->flags) & kind) &&
	       (!(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) || a->datamatch == b->datamatch);
}

static int engine_ioeventfd(struct harness_engine *e, const struct kvm_ioeventfd *d)
{
	size_t i;

	if (!(d->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)) {
		if (e->doorbell_count == ARRAY_SIZE(e->doorbells))
			return -ENOSPC;
		e->doorbells[e->doorbell_count++] = *d;
		return 0;
	}
	for (i = 0; i < e->doorbell_count; i++)
		if (same_doorbell(&e->doorbells[i], d))
			break;
	if (i == e->doorbell_count)
		return -ENOENT;
	e->doorbells[i] = e->doorbells[--e->doorbell_count];
	return 0;
}

static int engine_add_zone(struct harness_engine *e, const struct kvm_coalesced_mmio_zone *zone)
{
	if (e->zone_count == ARRAY_SIZE(e->zones))
		return -ENOSPC;
	e->zones[e->zone_count++] = *zone;
	return 0;
}

static int engine_del_zone(struct harness_engine *e, const struct kvm_coalesced_mmio_zone *zone)
{
	for (size_t i = 0; i < e->zone_count; i++)
		if (e->zones[i].addr == zone->addr && e->zones[i].pio == zone->pio)
			e->zones[i--] = e->zones[--e->zone_count];
	return 0;
}

static int fake_ioctl(int fd, unsigned long request, unsigned long arg)
{
	struct harness_engine *e = engine_of(fd);
	const struct kvm_msi *msi = (const void *)arg;

	if (!e)
		return -EBADF;
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return 1;
	case KVM_IRQ_LINE:
		return engine_irq_line(e, (const void *)arg);
	case KVM_SIGNAL_MSI:
		engine_msi(e, msi->address_lo | (u64)msi->address_hi << 32, msi->data);
		return 1;
	case KVM_SET_GSI_ROUTING:
		return engine_set_routing(e, (const void *)arg);
	case KVM_IRQFD:
		return engine_irqfd(e, (const void *)arg);
	case KVM_IOEVENTFD:
		return engine_ioeventfd(e, (const void *)arg);
	case KVM_REGISTER_COALESCED_MMIO:
		return engine_add_zone(e, (const void *)arg);
	case KVM_UNREGISTER_COALESCED_MMIO:
		return engine_del_zone(e, (const void *)arg);
	case KVM_SET_USER_MEMORY_REGION:
		return 0;
	default:
		return -ENOTTY;
	}
}

static int fake_open(struct err *err)
{
	return err_set(err, ENODEV, "the fake engine is not opened");
}

static int fake_close(int fd)
{
	return close(fd);
}

static const struct engine_class fake_engine = {
	.name = "fake",
	.summary = "writes down what reaches it",
	.open = fake_open,
	.ioctl = fake_ioctl,
	.close = fake_close,
};

static struct harness_engine *engine_new(void)
{
	struct harness_engine *e = calloc(1, sizeof(*e));
	size_t i;

	assert_non_null(e);
	e->vm = (struct engine_vm){.engine = &fake_engine, .sys_fd = -1, .fd = event_new()};
	assert_true(e->vm.fd >= 0);
	for (i = 0; i < ARRAY_SIZE(engines) && engines[i]; i++)
		;
	assert_true(i < ARRAY_SIZE(engines));
	engines[i] = e;
	return e;
}

static void engine_free(struct harness_engine *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++)
		if (engines[i] == e)
			engines[i] = NULL;
	close(e->vm.fd);
	free(e->ring);
	free(e->routes);
	free(e);
}

/* Deliver what was signalled on irqfds, as the engine would have at once. */
static void engine_poll_irqfds(struct harness_engine *e)
{
	for (size_t i = 0; i < e->irqfd_count; i++) {
		u32 gsi = e->irqfds[i].gsi;

		if (!event_clear(e->irqfds[i].fd))
			continue;
		if (gsi < HARNESS_GSIS)
			e->edges[gsi]++;
		for (u32 r = 0; r < e->route_count; r++) {
			const struct kvm_irq_routing_entry *entry = &e->routes[r];

			if (entry->gsi == gsi && entry->type == KVM_IRQ_ROUTING_MSI)
				engine_msi(e,
					   entry->u.msi.address_lo | (u64)entry->u.msi.address_hi
									     << 32,
					   entry->u.msi.data);
		}
	}
}

static bool engine_doorbell(struct harness_engine *e, bool pio, u64 addr, unsigned int size,
			    u64 value)
{
	for (size_t i = 0; i < e->doorbell_count; i++) {
		const struct kvm_ioeventfd *d = &e->doorbells[i];

		if (!!(d->flags & KVM_IOEVENTFD_FLAG_PIO) != pio || d->addr != addr ||
		    (d->len && d->len != size) ||
		    ((d->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) && d->datamatch != value))
			continue;
		event_signal(d->fd);
		return true;
	}
	return false;
}

/* ---- life ---- */

static void on_request(void *ctx, enum bus_event event, int value)
{
	struct harness *h = ctx;

	h->last_request = (struct harness_request){event, value};
	h->requests++;
}

struct harness *harness_new(u64 ram_size)
{
	struct harness *h = calloc(1, sizeof(*h));
	struct err err;

	assert_non_null(h);
	h->engine = engine_new();
	h->loop = loop_new();
	h->mem = mem_new();
	assert_non_null(h->loop);
	assert_non_null(h->mem);
	if (ram_size && mem_add_ram(h->mem, 0, ram_size, MEM_NO_THP, &err))
		fail_msg("%s", err.text);
	h->bus = bus_new(&h->engine->vm, h->mem, h->loop);
	assert_non_null(h->bus);
	bus_set_request_hook(h->bus, on_request, h);
	return h;
}

void harness_free(struct harness *h)
{
	bus_lock(h->bus);
	devices_free(h->bus);
	if (h->pci)
		pci_host_free(h->pci);
	bus_unlock(h->bus);
	bus_free(h->bus);
	loop_free(h->loop);
	mem_free(h->mem);
	engine_free(h->engine);
	free(h);
}

struct device *harness_device(struct harness *h, const struct device_class *class, const char *id,
			      const void *config)
{
	struct device *dev;
	struct err err;

	bus_lock(h->bus);
	dev = device_new(h->bus, class, id, config, &err);
	if (dev)
		devices_start(h->bus);
	bus_unlock(h->bus);
	if (!dev)
		fail_msg("%s", err.text);
	return dev;
}

/* ---- accesses ---- */

u32 harness_in(struct harness *h, u16 port, unsigned int size)
{
	u8 data[4] = {0};

	bus_pio(h->bus, port, false, size, data, 1);
	return data[0] | data[1] << 8 | data[2] << 16 | (u32)data[3] << 24;
}

void harness_out(struct harness *h, u16 port, unsigned int size, u32 value)
{
	u8 data[4] = {(u8)value, (u8)(value >> 8), (u8)(value >> 16), (u8)(value >> 24)};

	value &= (u32)MASK(8 * size - 1, 0);
	if (!engine_doorbell(h->engine, true, port, size, value))
		bus_pio(h->bus, port, true, size, data, 1);
}

void harness_ins(struct harness *h, u16 port, unsigned int size, void *data, u32 count)
{
	bus_pio(h->bus, port, false, size, data, count);
}

void harness_outs(struct harness *h, u16 port, unsigned int size, const void *data, u32 count)
{
	bus_pio(h->bus, port, true, size, (void *)(uintptr_t)data, count);
}

u64 harness_read(struct harness *h, gpa_t addr, unsigned int size)
{
	u64 data = 0;

	bus_mmio(h->bus, addr, false, size, &data);
	return data;
}

void harness_write(struct harness *h, gpa_t addr, unsigned int size, u64 value)
{
	value &= MASK(8 * size - 1, 0);
	if (!engine_doorbell(h->engine, false, addr, size, value))
		bus_mmio(h->bus, addr, true, size, &value);
}

static bool in_zone(const struct harness_engine *e, gpa_t addr, unsigned int size)
{
	for (size_t i = 0; i < e->zone_count; i++) {
		const struct kvm_coalesced_mmio_zone *z = &e->zones[i];

		if (!z->pio && addr >= z->addr && addr + size <= z->addr + z->size)
			return true;
	}
	return false;
}

bool harness_write_coalesced(struct harness *h, gpa_t addr, unsigned int size, u64 value)
{
	struct harness_engine *e = h->engine;
	struct kvm_coalesced_mmio *entry;
	u32 max;

	if (!in_zone(e, addr, size)) {
		harness_write(h, addr, size, value);
		return false;
	}
	if (!e->ring) {
		e->ring = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
		assert_non_null(e->ring);
		memset(e->ring, 0, PAGE_SIZE);
		bus_set_coalesced_ring(h->bus, e->ring);
	}
	max = (u32)((PAGE_SIZE - sizeof(*e->ring)) / sizeof(*entry));
	if ((e->ring->last + 1) % max == e->ring->first)
		bus_drain_coalesced(h->bus);
	entry = &e->ring->coalesced_mmio[e->ring->last];
	*entry = (struct kvm_coalesced_mmio){.phys_addr = addr, .len = size};
	memcpy(entry->data, &value, size);
	e->ring->last = (e->ring->last + 1) % max;
	return true;
}

void *harness_ram(struct harness *h, gpa_t addr, u64 len)
{
	void *p = mem_slice(h->mem, addr, len);

	assert_non_null(p);
	return p;
}

/* ---- time ---- */

void harness_settle(struct harness *h)
{
	/* A callback may make another descriptor ready; a few turns reach the end. */
	for (int i = 0; i < 8; i++)
		assert_int_equal(loop_run_once(h->loop, 0), 0);
	engine_poll_irqfds(h->engine);
}

void harness_advance(struct harness *h, u64 ns)
{
	u64 end = now + ns;

	while (now < end) {
		now = min(end, now + STEP_NS);
		assert_int_equal(loop_run_once(h->loop, 0), 0);
	}
	harness_settle(h);
}

/* ---- what reached the engine ---- */

bool harness_line(const struct harness *h, u32 gsi)
{
	return h->engine->line[gsi];
}

u64 harness_edges(const struct harness *h, u32 gsi)
{
	return h->engine->edges[gsi];
}

u64 harness_msis(struct harness *h)
{
	engine_poll_irqfds(h->engine);
	return h->engine->msi_tail;
}

bool harness_take_msi(struct harness *h, u64 *addr, u32 *data)
{
	struct harness_engine *e = h->engine;
	struct msi *msi = &e->msi[e->msi_head % MSI_QUEUE];

	engine_poll_irqfds(e);
	if (e->msi_head == e->msi_tail)
		return false;
	*addr = msi->addr;
	*data = msi->data;
	e->msi_head++;
	return true;
}

/* ---- PCI ---- */

void harness_pci(struct harness *h)
{
	const struct pci_host_config config = {
		.ecam_base = ECAM_BASE,
		.ecam_buses = 1,
		.mmio32_base = 0xc0000000,
		.mmio32_size = 0x20000000,
		.mmio64_base = 0x8000000000,
		.mmio64_size = 0x100000000,
		.pio_base = 0xc000,
		.pio_size = 0x3000,
		.intx_gsi = {16, 17, 18, 19},
	};
	struct err err;

	bus_lock(h->bus);
	h->pci = pci_host_new(h->bus, &config, &err);
	bus_unlock(h->bus);
	if (!h->pci)
		fail_msg("%s", err.text);
}

void harness_pci_assign(struct harness *h)
{
	struct err err;
	int rc;

	bus_lock(h->bus);
	rc = pci_host_assign(h->pci, &err);
	bus_unlock(h->bus);
	if (rc)
		fail_msg("%s", err.text);
}

u32 harness_config_read(struct harness *h, u8 devfn, u16 offset, unsigned int size)
{
	return (u32)harness_read(h, ECAM_BASE + ((u64)devfn << 12) + offset, size);
}

void harness_config_write(struct harness *h, u8 devfn, u16 offset, unsigned int size, u32 value)
{
	harness_write(h, ECAM_BASE + ((u64)devfn << 12) + offset, size, value);
}

/* ---- a character device over a socket pair ---- */

void harness_chardev_open(struct harness *h, struct harness_chardev *c)
{
	char spec[32];
	struct err err;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	snprintf(spec, sizeof(spec), "fd:%d", fds[1]);
	if (chardev_open(&c->chr, h->loop, spec, &err))
		fail_msg("%s", err.text);
	c->fd = fds[0];
}

void harness_chardev_close(struct harness_chardev *c)
{
	chardev_close(c->chr);
	fd_close(&c->fd);
}

size_t harness_chardev_take(struct harness *h, struct harness_chardev *c, void *buf, size_t cap)
{
	ssize_t n;

	harness_settle(h);
	n = read(c->fd, buf, cap);
	return n < 0 ? 0 : (size_t)n;
}

/* ---- saved state ---- */

static void load(struct harness *h, struct device *dev, const void *data, size_t len, bool must)
{
	struct err err;
	int rc;

	bus_lock(h->bus);
	if (dev->class->reset)
		dev->class->reset(dev);
	rc = state_load(dev->class->state, dev, data, len, &err);
	if (rc && !must && dev->class->reset)
		dev->class->reset(dev);
	bus_unlock(h->bus);
	if (rc && must)
		fail_msg("%s: %s", dev->id, err.text);
}

static void save(struct harness *h, struct device *dev, struct str *out)
{
	bus_lock(h->bus);
	assert_int_equal(state_save(dev->class->state, dev, out), 0);
	bus_unlock(h->bus);
}

/* Break a copy of the good state in one place and load it. */
static void load_broken(struct harness *h, struct device *dev, const struct str *good, u64 *seed)
{
	u8 *bad = malloc(good->len + 1);
	size_t flips = 1 + harness_random(seed) % 8;

	assert_non_null(bad);
	memcpy(bad, good->text, good->len);
	for (size_t i = 0; i < flips; i++) {
		size_t at = harness_random(seed) % good->len;

		bad[at] = (u8)harness_random(seed);
	}
	load(h, dev, bad, good->len, false);
	free(bad);
}

void harness_check_state(struct harness *h, struct device *dev)
{
	struct str first = {0}, second = {0};
	u64 seed = 1;

	save(h, dev, &first);
	load(h, dev, first.text, first.len, true);
	save(h, dev, &second);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.text, second.text, first.len);
	for (size_t len = 0; len < first.len; len += 1 + first.len / 200) {
		u8 *cut = malloc(len + 1); /* exact, so that a sanitizer sees a step too far */

		assert_non_null(cut);
		memcpy(cut, first.text, len);
		load(h, dev, cut, len, false);
		free(cut);
	}
	for (int i = 0; i < 300; i++)
		load_broken(h, dev, &first, &seed);
	load(h, dev, first.text, first.len, true);
	str_free(&first);
	str_free(&second);
}

/* ---- hostile guests ---- */

u64 harness_random(u64 *seed)
{
	u64 v = *seed += 0x9e3779b97f4a7c15ULL;

	v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ULL;
	v = (v ^ (v >> 27)) * 0x94d049bb133111ebULL;
	return v ^ (v >> 31);
}

/* Small numbers, single bits and all ones find more than noise does. */
static u64 interesting(u64 *seed)
{
	u64 v = harness_random(seed);

	switch (harness_random(seed) % 5) {
	case 0:
		return v & 0xff;
	case 1:
		return BIT(v % 64);
	case 2:
		return ~0ULL;
	case 3:
		return v & 0xffff;
	default:
		return v;
	}
}

static void hostile_string(struct harness *h, u64 *seed, u16 port)
{
	unsigned int size = 1U << (harness_random(seed) % 3);
	u32 count = 1 + (u32)(harness_random(seed) % 300);
	u32 data[300];

	for (size_t i = 0; i < ARRAY_SIZE(data); i++)
		data[i] = (u32)harness_random(seed);
	if (harness_random(seed) & 1)
		harness_outs(h, port, size, data, count);
	else
		harness_ins(h, port, size, data, count);
}

static void hostile_access(struct harness *h, const struct harness_range *r, u64 *seed)
{
	u64 at = r->base + harness_random(seed) % r->size, pick = harness_random(seed) % 64;
	unsigned int size = 1U << (harness_random(seed) % (r->space == BUS_PIO ? 3 : 4));

	if (pick == 0)
		harness_advance(h, harness_random(seed) % (2 * NSEC_PER_MSEC));
	else if (pick == 1 && r->space == BUS_PIO)
		hostile_string(h, seed, (u16)at);
	else if (r->space == BUS_PIO && pick < 32)
		harness_in(h, (u16)at, size);
	else if (r->space == BUS_PIO)
		harness_out(h, (u16)at, size, (u32)interesting(seed));
	else if (pick < 24)
		harness_read(h, at, size);
	else
		harness_write(h, at, size, interesting(seed));
}

void harness_hostile(struct harness *h, const struct harness_range *ranges, size_t n, u64 seed,
		     u64 count, void (*each)(struct harness *h))
{
	for (u64 i = 0; i < count; i++) {
		hostile_access(h, &ranges[harness_random(&seed) % n], &seed);
		if (each)
			each(h);
	}
	harness_settle(h);
}
