/* The bus without an engine: dispatch, classes, PCI configuration, MSI-X, device life. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "os/clock.h"
#include "os/event.h"

struct fixture {
	struct loop *loop;
	struct guest_mem *mem;
	struct bus *bus;
	struct pci_host *host;
};

static const struct pci_host_config host_config = {
	.ecam_base = 0xe0000000,
	.ecam_buses = 1,
	.mmio32_base = 0xc0000000,
	.mmio32_size = 0x10000000,
	.mmio64_base = 0x800000000,
	.mmio64_size = 0x100000000,
	.pio_base = 0xc000,
	.pio_size = 0x1000,
	.intx_gsi = {16, 17, 18, 19},
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	f->loop = loop_new();
	f->mem = mem_new();
	mem_add_ram(f->mem, 0, 16 * MiB, MEM_NO_THP, &err);
	f->bus = bus_new(NULL, f->mem, f->loop);
	f->host = pci_host_new(f->bus, &host_config, &err);
	*state = f;
	return f->host ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	devices_free(f->bus);
	pci_host_free(f->host);
	bus_free(f->bus);
	mem_free(f->mem);
	loop_free(f->loop);
	free(f);
	return 0;
}

/* A register file that remembers the last access. */
struct probe {
	struct bus_range range;
	struct bus *bus;
	u64 last_offset, last_value;
	unsigned int last_size;
	u32 writes, reads;
	bool remove_on_write;
};

static u64 probe_read(void *ctx, u64 offset, unsigned int size)
{
	struct probe *p = ctx;

	p->reads++;
	p->last_offset = offset;
	p->last_size = size;
	return 0x1122334455667788ULL;
}

static void probe_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct probe *p = ctx;

	p->writes++;
	p->last_offset = offset;
	p->last_size = size;
	p->last_value = value;
	if (p->remove_on_write)
		bus_remove(p->bus, &p->range);
}

static const struct bus_ops probe_ops = {probe_read, probe_write};

static struct probe probe_at(struct fixture *f, enum bus_space space, u64 base, u64 size)
{
	return (struct probe){.bus = f->bus,
			      .range = {.name = "probe",
					.space = space,
					.base = base,
					.size = size,
					.ops = &probe_ops}};
}

static int claim(struct fixture *f, struct probe *p)
{
	p->range.ctx = p;
	return bus_add(f->bus, &p->range);
}

static void claims(void **state)
{
	struct fixture *f = *state;
	struct probe a = probe_at(f, BUS_MMIO, 0xd0000000, 0x1000);
	struct probe below = probe_at(f, BUS_MMIO, 0xcffff001, 0x1000);
	struct probe above = probe_at(f, BUS_MMIO, 0xd0001000, 0x1000);
	struct probe ram = probe_at(f, BUS_MMIO, 16 * MiB - 1, 2);
	struct probe port = probe_at(f, BUS_PIO, 0x3f8, 8), clash = probe_at(f, BUS_PIO, 0x3ff, 1);
	struct probe wraps = probe_at(f, BUS_PIO, 0xffff, 2);

	assert_int_equal(claim(f, &a), 0);
	assert_int_equal(claim(f, &below), -EEXIST);
	assert_int_equal(claim(f, &above), 0);
	assert_int_equal(claim(f, &ram), -EEXIST);
	assert_int_equal(claim(f, &port), 0);
	assert_int_equal(claim(f, &clash), -EEXIST);
	assert_int_equal(claim(f, &wraps), -EINVAL);
	bus_remove(f->bus, &a.range);
	bus_remove(f->bus, &a.range);
	assert_int_equal(claim(f, &below), 0);
	bus_remove(f->bus, &below.range);
	bus_remove(f->bus, &above.range);
	bus_remove(f->bus, &port.range);
	assert_int_equal(claim(f, &clash), 0);
	bus_remove(f->bus, &clash.range);
}

static void mmio_dispatch(void **state)
{
	struct fixture *f = *state;
	struct probe a = probe_at(f, BUS_MMIO, 0xd0000000, 0x1000);
	u64 data = 0;

	claim(f, &a);
	bus_mmio(f->bus, 0xd0000010, false, 4, &data);
	assert_int_equal(data, 0x55667788);
	assert_int_equal(a.last_offset, 0x10);
	data = 0xabcd;
	bus_mmio(f->bus, 0xd0000ffe, true, 2, &data);
	assert_int_equal(a.last_value, 0xabcd);
	/* Three bytes: one access of two, one of one. */
	bus_mmio(f->bus, 0xd0000000, true, 3, &data);
	assert_int_equal(a.writes, 3);
	data = 0;
	bus_mmio(f->bus, 0xd0001000, false, 8, &data);
	assert_true(data == ~0ULL);
	assert_int_equal(bus_unclaimed(f->bus, BUS_MMIO), 1);
	bus_remove(f->bus, &a.range);
}

static void pio_strings(void **state)
{
	struct fixture *f = *state;
	struct probe a = probe_at(f, BUS_PIO, 0x500, 4);
	u16 words[4] = {1, 2, 3, 4};

	claim(f, &a);
	bus_pio(f->bus, 0x502, true, 2, words, 4);
	assert_int_equal(a.writes, 4);
	assert_int_equal(a.last_value, 4);
	bus_pio(f->bus, 0x502, false, 2, words, 4);
	assert_int_equal(words[3], 0x7788);
	/* The range goes away in the middle of a string. */
	a.remove_on_write = true;
	bus_pio(f->bus, 0x502, true, 2, words, 4);
	assert_int_equal(a.writes, 5);
	bus_pio(f->bus, 0x502, false, 2, words, 2);
	assert_int_equal(words[1], 0xffff);
}

static void coalesced_ring(void **state)
{
	struct fixture *f = *state;
	struct probe a = probe_at(f, BUS_MMIO, 0xd0000000, 0x1000);
	struct kvm_coalesced_mmio_ring *ring = aligned_alloc(4096, 4096);
	const u32 max = (u32)((4096 - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio));
	u32 data = 0;

	memset(ring, 0, 4096);
	a.range.class = BUS_COALESCED;
	claim(f, &a);
	bus_set_coalesced_ring(f->bus, ring);
	ring->first = max - 1;
	for (u32 i = 0; i < 3; i++) {
		struct kvm_coalesced_mmio *e = &ring->coalesced_mmio[(max - 1 + i) % max];

		*e = (struct kvm_coalesced_mmio){.phys_addr = 0xd0000000 + 4 * i, .len = 4};
		store_le32(e->data, i);
	}
	ring->last = 2;
	/* A trapped access sees the queued ones done first. */
	bus_mmio(f->bus, 0xd0000000, false, 4, &data);
	assert_int_equal(a.writes, 3);
	assert_int_equal(a.last_offset, 0);
	assert_int_equal(ring->first, 2);
	assert_int_equal(a.range.coalesced, 3);
	/* Nonsense in the ring is survived. */
	ring->first = max + 7;
	ring->last = 0;
	bus_drain_coalesced(f->bus);
	ring->first = 0;
	ring->last = 1;
	ring->coalesced_mmio[0].len = 99;
	bus_drain_coalesced(f->bus);
	assert_int_equal(a.writes, 3);
	/* A change of class lets what is queued arrive. */
	ring->first = 0;
	ring->coalesced_mmio[0].len = 4;
	bus_set_class(f->bus, &a.range, BUS_TRAP);
	assert_int_equal(a.writes, 4);
	assert_int_equal(a.range.class, BUS_TRAP);
	bus_set_class(f->bus, &a.range, BUS_COALESCED);
	ring->last = 2;
	ring->coalesced_mmio[1].len = 4;
	bus_sync(f->bus);
	assert_int_equal(a.writes, 5);
	bus_set_coalesced_ring(f->bus, NULL);
	bus_remove(f->bus, &a.range);
	free(ring);
}

/* ---- PCI ---- */

struct card {
	struct pci_device pci;
	struct pci_region regs, ports;
	struct probe probe, port_probe;
	u32 moves;
};

static void card_moved(struct pci_device *dev, struct pci_region *region, bool mapped)
{
	container_of(dev, struct card, pci)->moves++;
}

static int card_init(struct device *dev, const void *config, struct err *err)
{
	struct card *c = container_of(dev, struct card, pci.dev);
	static const struct pci_ident ident = {
		.vendor = 0x1234, .device = 0x5678, .class_code = 0x020000, .interrupt_pin = 1};
	int rc = pci_device_init(&c->pci, &ident, -1, err);

	if (rc)
		return rc;
	pci_bar_init(&c->pci, 0, PCI_BAR_MMIO32, 0x2000, false);
	pci_bar_init(&c->pci, 2, PCI_BAR_PIO, 0x20, false);
	pci_bar_init(&c->pci, 4, PCI_BAR_MMIO64, 0x100000, true);
	c->regs.range = (struct bus_range){
		.name = "card", .size = 0x1000, .ops = &probe_ops, .ctx = &c->probe};
	c->regs.moved = card_moved;
	c->ports.range = (struct bus_range){
		.name = "card", .size = 0x20, .ops = &probe_ops, .ctx = &c->port_probe};
	pci_bar_add(&c->pci, 0, &c->regs, 0);
	pci_bar_add(&c->pci, 2, &c->ports, 0);
	return pci_msix_init(&c->pci, 3, 0, 0x1000, 0x1800, err);
}

static void card_reset(struct device *dev)
{
	pci_device_reset(container_of(dev, struct pci_device, dev));
}

static void card_free(struct device *dev)
{
	pci_device_release(container_of(dev, struct pci_device, dev));
}

static const struct device_class card_class = {
	.name = "card",
	.summary = "test card",
	.size = sizeof(struct card),
	.init = card_init,
	.reset = card_reset,
	.free = card_free,
	.state = STATE_NONE,
};

static u32 config_access(struct fixture *f, u8 devfn, u32 reg, unsigned int size, bool write,
			 u32 value)
{
	u32 address = 0x80000000u | (u32)devfn << 8 | (reg & 0xfc);

	bus_pio(f->bus, 0xcf8, true, 4, &address, 1);
	bus_pio(f->bus, (u16)(0xcfc + (reg & 3)), write, size, &value, 1);
	return value;
}

static u32 config_get(struct fixture *f, u8 devfn, u32 reg, unsigned int size)
{
	return config_access(f, devfn, reg, size, false, 0);
}

static void config_set(struct fixture *f, u8 devfn, u32 reg, unsigned int size, u32 value)
{
	config_access(f, devfn, reg, size, true, value);
}

static struct card *new_card(struct fixture *f, const char *id)
{
	struct err err;
	struct device *dev = device_new(f->bus, &card_class, id, NULL, &err);

	assert_non_null(dev);
	return container_of(dev, struct card, pci.dev);
}

static void pci_config_space(void **state)
{
	struct fixture *f = *state;
	struct card *c = new_card(f, "card0");
	u32 v = 0;

	assert_int_equal(c->pci.devfn, 8);
	assert_int_equal(config_get(f, 8, 0, 4), 0x56781234);
	assert_int_equal(config_get(f, 8, 2, 2), 0x5678);
	assert_int_equal(config_get(f, 16, 0, 4), 0xffffffff);
	bus_mmio(f->bus, 0xe0000000 + (8 << 12), false, 4, &v);
	assert_int_equal(v, 0x56781234);
	/* Read-only bits stay; BAR sizing. */
	config_set(f, 8, 0, 4, 0);
	assert_int_equal(config_get(f, 8, 0, 4), 0x56781234);
	config_set(f, 8, 0x10, 4, ~0u);
	assert_int_equal(config_get(f, 8, 0x10, 4), 0xffffe000);
	config_set(f, 8, 0x18, 4, ~0u);
	assert_int_equal(config_get(f, 8, 0x18, 4), 0xffffffe1);
	config_set(f, 8, 0x20, 4, ~0u);
	config_set(f, 8, 0x24, 4, ~0u);
	assert_int_equal(config_get(f, 8, 0x20, 4), 0xfff0000c);
	assert_int_equal(config_get(f, 8, 0x24, 4), 0xffffffff);
	config_set(f, 8, 0x14, 4, ~0u);
	assert_int_equal(config_get(f, 8, 0x14, 4), 0);
}

static void pci_bars_move(void **state)
{
	struct fixture *f = *state;
	struct card *c = new_card(f, "card0");
	struct err err;
	u32 v = 7;
	u64 bar;

	assert_int_equal(pci_host_assign(f->host, &err), 0);
	bar = config_get(f, 8, 0x10, 4) & ~15u;
	assert_true(bar >= 0xc0000000 && bar < 0xd0000000);
	bus_mmio(f->bus, bar + 8, true, 4, &v);
	assert_int_equal(c->probe.last_value, 7);
	assert_true(((u64)config_get(f, 8, 0x24, 4) << 32) >= 0x800000000);
	/* Moved while decoding; off; over RAM. */
	config_set(f, 8, 0x10, 4, 0xd8000000);
	bus_mmio(f->bus, bar + 8, true, 4, &v);
	assert_int_equal(c->probe.writes, 1);
	bus_mmio(f->bus, 0xd8000008, true, 4, &v);
	assert_int_equal(c->probe.writes, 2);
	config_set(f, 8, 4, 2, 1);
	bus_mmio(f->bus, 0xd8000008, true, 4, &v);
	assert_int_equal(c->probe.writes, 2);
	config_set(f, 8, 0x10, 4, 0x2000);
	config_set(f, 8, 4, 2, 3);
	bus_mmio(f->bus, 0x2008, true, 4, &v);
	assert_int_equal(c->probe.writes, 2);
	assert_int_equal(c->moves, 4);
}

/* A ROM of one 512-byte image for device 0x1234:9999, whose bytes sum up to 0. */
static void make_rom(u8 *rom, u32 size)
{
	u8 sum = 0;

	for (u32 i = 0; i < size; i++)
		rom[i] = (u8)(i * 7);
	memcpy(rom, "\x55\xaa\x01\xeb\x00\x90\x00", 7);
	memcpy(rom + 0x18, "\x40\x00", 2);
	memcpy(rom + 0x40, "PCIR\x34\x12\x99\x99", 8);
	memset(rom + 0x48, 0, 16);
	for (u32 i = 0; i < 512; i++)
		sum += rom[i];
	rom[511] -= sum;
}

static void expansion_rom(void **state)
{
	struct fixture *f = *state;
	struct card *c = new_card(f, "card0");
	u8 rom[5000], sum = 0, byte;
	struct err err = {{0}};
	u32 v = 0;

	/* Without one the register is not there. */
	config_set(f, 8, 0x30, 4, ~0u);
	assert_int_equal(config_get(f, 8, 0x30, 4), 0);
	make_rom(rom, sizeof(rom));
	assert_int_equal(pci_set_rom(&c->pci, rom + 1, sizeof(rom) - 1, &err), -EINVAL);
	assert_int_equal(pci_set_rom(&c->pci, rom, 10, &err), -EINVAL);
	assert_int_equal(pci_set_rom(&c->pci, rom, sizeof(rom), &err), 0);
	config_set(f, 8, 0x30, 4, ~0u);
	assert_int_equal(config_get(f, 8, 0x30, 4), 0xffffe001);
	/* Both the register and memory decoding must be on. */
	config_set(f, 8, 0x30, 4, 0xd4000001);
	bus_mmio(f->bus, 0xd4000000, false, 4, &v);
	assert_int_equal(v, 0xffffffff);
	config_set(f, 8, 4, 2, 2);
	bus_mmio(f->bus, 0xd4000000, false, 4, &v);
	assert_int_equal(v, 0xeb01aa55);
	/* Labelled for this card, and still a sum of 0. */
	bus_mmio(f->bus, 0xd4000044, false, 4, &v);
	assert_int_equal(v, 0x56781234);
	for (u32 i = 0; i < 512; i++) {
		bus_mmio(f->bus, 0xd4000000 + i, false, 1, &byte);
		sum += byte;
	}
	assert_int_equal(sum, 0);
	/* Its end, and what is past it. */
	bus_mmio(f->bus, 0xd4000000 + 4999, false, 1, &byte);
	assert_int_equal(byte, rom[4999]);
	bus_mmio(f->bus, 0xd4000000 + 8188, false, 4, &v);
	assert_int_equal(v, 0xffffffff);
	v = 0;
	bus_mmio(f->bus, 0xd4000000, true, 4, &v);
	bus_mmio(f->bus, 0xd4000000, false, 4, &v);
	assert_int_equal(v, 0xeb01aa55);
	/* Moved, off, and gone with a reset. */
	config_set(f, 8, 0x30, 4, 0xd4800001);
	bus_mmio(f->bus, 0xd4000000, false, 4, &v);
	assert_int_equal(v, 0xffffffff);
	bus_mmio(f->bus, 0xd4800000, false, 4, &v);
	assert_int_equal(v, 0xeb01aa55);
	config_set(f, 8, 0x30, 4, 0xd4800000);
	bus_mmio(f->bus, 0xd4800000, false, 4, &v);
	assert_int_equal(v, 0xffffffff);
	config_set(f, 8, 0x30, 4, 0xd4800001);
	pci_device_reset(&c->pci);
	assert_int_equal(config_get(f, 8, 0x30, 4), 0);
}

/* A ROM whose pointers lead nowhere is left as it is. */
static void expansion_rom_damaged(void **state)
{
	struct fixture *f = *state;
	struct card *c = new_card(f, "card0");
	u8 rom[512];
	struct err err;
	u32 v = 0;

	make_rom(rom, sizeof(rom));
	memcpy(rom + 0x18, "\xff\x01", 2);
	assert_int_equal(pci_set_rom(&c->pci, rom, sizeof(rom), &err), 0);
	config_set(f, 8, 0x30, 4, 0xd4000001);
	config_set(f, 8, 4, 2, 2);
	bus_mmio(f->bus, 0xd4000044, false, 4, &v);
	assert_int_equal(v, 0x99991234);
}

/* Code for a PC and for UEFI in one ROM: both are relabelled; only the first one has a sum. */
static void expansion_rom_images(void **state)
{
	struct fixture *f = *state;
	struct card *c = new_card(f, "card0");
	u8 rom[1024], byte, sum = 0;
	struct err err;
	u32 v = 0;

	make_rom(rom, 512);
	rom[0x50] = 1; /* 512 bytes */
	rom[511]--;
	memcpy(rom + 512, rom, 512);
	rom[512 + 0x54] = 3;
	assert_int_equal(pci_set_rom(&c->pci, rom, sizeof(rom), &err), 0);
	config_set(f, 8, 0x30, 4, 0xd4000001);
	config_set(f, 8, 4, 2, 2);
	for (u32 at = 0x44; at < sizeof(rom); at += 512) {
		bus_mmio(f->bus, 0xd4000000 + at, false, 4, &v);
		assert_int_equal(v, 0x56781234);
	}
	for (u32 i = 0; i < 512; i++) {
		bus_mmio(f->bus, 0xd4000000 + i, false, 1, &byte);
		sum += byte;
		bus_mmio(f->bus, 0xd4000200 + i, false, 1, &byte);
		if (i != 0x46 && i != 0x47)
			assert_int_equal(byte, rom[512 + i]);
	}
	assert_int_equal(sum, 0);
}

static void msix_masks(void **state)
{
	struct fixture *f = *state;
	struct card *c = new_card(f, "card0");
	u64 base, pba = 0, v;
	struct err err;
	u16 cap;

	pci_host_assign(f->host, &err);
	base = config_get(f, 8, 0x10, 4) & ~15u;
	cap = (u16)config_get(f, 8, 0x34, 1);
	assert_int_equal(config_get(f, 8, cap, 1), 0x11);
	assert_int_equal(config_get(f, 8, cap + 2u, 2), 2);
	config_set(f, 8, cap + 2u, 2, 0xffff);
	assert_int_equal(config_get(f, 8, cap + 2u, 2), 0xc002);
	v = 0xfee00000;
	bus_mmio(f->bus, base + 0x1010, true, 8, &v);
	v = 0;
	bus_mmio(f->bus, base + 0x101c, true, 4, &v);
	/* Function mask: pending, not sent. */
	pci_msix_send(&c->pci, 1);
	pci_msix_send(&c->pci, 99);
	bus_mmio(f->bus, base + 0x1800, false, 8, &pba);
	assert_int_equal(pba, 2);
	assert_int_equal(irq_msi_count(f->bus), 0);
	config_set(f, 8, cap + 2u, 2, 0x8000);
	assert_int_equal(irq_msi_count(f->bus), 1);
	bus_mmio(f->bus, base + 0x1800, false, 8, &pba);
	assert_int_equal(pba, 0);
	pci_msix_send(&c->pci, 1);
	assert_int_equal(irq_msi_count(f->bus), 2);
	/* An fd that was signalled while its vector was masked is sent when that is opened. */
	v = 1;
	bus_mmio(f->bus, base + 0x101c, true, 4, &v);
	irq_route_signal(pci_msix_route(&c->pci, 1));
	bus_mmio(f->bus, base + 0x1800, false, 8, &pba);
	assert_int_equal(pba, 2);
	v = 0;
	bus_mmio(f->bus, base + 0x101c, true, 4, &v);
	assert_int_equal(irq_msi_count(f->bus), 3);
	/* Past the table. */
	bus_mmio(f->bus, base + 0x1030, false, 8, &v);
	assert_null(pci_msix_route(&c->pci, 3));
}

static void intx_joins(void **state)
{
	struct fixture *f = *state;
	struct card *a = new_card(f, "a"), *b = NULL;

	for (int i = 0; i < 4; i++) {
		char id[8] = {'b', (char)('0' + i)};

		b = new_card(f, id);
	}
	/* Slots 1 and 5 share PIRQ 1. */
	assert_int_equal(b->pci.devfn >> 3, 5);
	pci_set_intx(&a->pci, true);
	pci_set_intx(&b->pci, true);
	pci_set_intx(&a->pci, false);
	assert_int_equal(irq_line_count(f->bus, 17), 1);
	config_set(f, b->pci.devfn, 4, 2, 0x400);
	pci_set_intx(&a->pci, true);
	assert_int_equal(irq_line_count(f->bus, 17), 2);
	assert_true(config_get(f, b->pci.devfn, 6, 2) & 8);
}

static void slots_run_out(void **state)
{
	struct fixture *f = *state;
	struct err err;

	for (int i = 0; i < 31; i++) {
		char id[16];

		snprintf(id, sizeof(id), "c%d", i);
		new_card(f, id);
	}
	assert_null(device_new(f->bus, &card_class, "last", NULL, &err));
	assert_non_null(strstr(err.text, "last"));
	assert_null(device_new(f->bus, &card_class, "c1", NULL, &err));
	assert_non_null(strstr(err.text, "two devices"));
}

static int fired;

static void on_bus_timer(struct bus_timer *t)
{
	fired++;
}

static void timers(void **state)
{
	struct fixture *f = *state;
	struct bus_timer t;

	fired = 0;
	bus_timer_init(f->bus, &t, on_bus_timer);
	bus_timer_arm(&t, clock_now_ns());
	loop_run_once(f->loop, 0);
	assert_int_equal(fired, 1);
	bus_timer_arm(&t, clock_now_ns());
	bus_timer_disarm(&t);
	loop_run_once(f->loop, 0);
	assert_int_equal(fired, 1);
}

static void memory(void **state)
{
	struct guest_mem *mem = mem_new();
	struct iovec iov[4];
	struct err err;
	u32 v = 0x12345678;

	assert_int_equal(mem_add_ram(mem, 0, MiB, MEM_NO_THP, &err), 0);
	assert_int_equal(mem_add_ram(mem, MiB, MiB, MEM_NO_THP, &err), 0);
	assert_int_equal(mem_add_ram(mem, MiB, MiB, 0, &err), -EEXIST);
	assert_int_equal(mem_add_ram(mem, 8 * MiB, 100, 0, &err), -EINVAL);
	assert_int_equal(mem_add_ram(mem, 0ULL - 4096, 8192, 0, &err), -EINVAL);
	assert_int_equal(
		mem_add_alias(mem, 4 * GiB, 4096, aligned_alloc(4096, 4096), MEM_READONLY, &err),
		0);
	assert_null(mem_slice(mem, MiB - 2, 4));
	assert_non_null(mem_slice(mem, MiB - 4, 4));
	assert_null(mem_slice(mem, 2 * MiB, 1));
	assert_null(mem_slice(mem, ~0ULL, 2));
	assert_null(mem_slice_rw(mem, 4 * GiB, 4));
	assert_non_null(mem_slice(mem, 4 * GiB, 4));
	assert_int_equal(mem_to_iov(mem, MiB - 2, 4, true, iov, 4), 2);
	assert_int_equal(mem_to_iov(mem, MiB - 2, 4, true, iov, 1), -E2BIG);
	assert_int_equal(mem_to_iov(mem, 2 * MiB - 2, 4, true, iov, 4), -EFAULT);
	assert_int_equal(mem_to_iov(mem, ~0ULL - 1, 4, true, iov, 4), -EFAULT);
	assert_int_equal(mem_write(mem, MiB - 2, &v, 4), 0);
	v = 0;
	assert_int_equal(mem_read(mem, MiB - 2, &v, 4), 0);
	assert_int_equal(v, 0x12345678);
	assert_int_equal(mem_write(mem, 4 * GiB, &v, 4), -EFAULT);
	assert_int_equal(mem_size(mem), 2 * MiB);
	free(mem_slice(mem, 4 * GiB, 1));
	mem_free(mem);
}

/* ---- saved state ---- */

struct inner {
	u16 x;
};
struct outer {
	u32 a;
	u8 b[5];
	u64 list[3];
	struct inner in[2];
	bool flag;
	int checked;
};
static const struct state_field inner_fields[] = {STATE_FIELD(struct inner, x), STATE_END};
static const struct state_desc inner_state = {"inner", 1, inner_fields};

static int outer_loaded(void *object, struct err *err)
{
	struct outer *o = object;

	o->checked++;
	return o->a == 666 ? err_set(err, EINVAL, "outer: a is 666") : 0;
}

static const struct state_field outer_fields[] = {
	STATE_FIELD(struct outer, a),	 STATE_BUFFER(struct outer, b),
	STATE_ARRAY(struct outer, list), STATE_NESTED_ARRAY(struct outer, in, inner_state),
	STATE_FIELD(struct outer, flag), STATE_END,
};
static const struct state_desc outer_state = {"outer", 2, outer_fields, .loaded = outer_loaded};

static void saved_state(void **state)
{
	struct outer o = {.a = 5, .b = "abcd", .list = {1, 2, 3}, .in = {{7}, {8}}}, back = {0};
	struct str s = {0};
	struct err err;

	assert_int_equal(state_save(&outer_state, &o, &s), 0);
	assert_int_equal(state_load(&outer_state, &back, s.text, s.len, &err), 0);
	assert_int_equal(back.checked, 1);
	back.checked = 0;
	assert_memory_equal(&o, &back, sizeof(o));
	/* A flag is a flag whatever byte the file has. */
	assert_int_equal(s.text[s.len - 1], 0);
	s.text[s.len - 1] = 0x42;
	assert_int_equal(state_load(&outer_state, &back, s.text, s.len, &err), 0);
	assert_int_equal(*(u8 *)&back.flag, 1);
	s.text[s.len - 1] = 0;
	/* Every prefix and every single-byte change ends in an answer, never in a crash. */
	for (size_t n = 0; n < s.len; n++)
		assert_int_not_equal(state_load(&outer_state, &back, s.text, n, &err), 0);
	for (size_t n = 0; n < s.len; n++) {
		s.text[n] ^= 0x81;
		state_load(&outer_state, &back, s.text, s.len, &err);
		s.text[n] ^= 0x81;
	}
	o.a = 666;
	str_free(&s);
	state_save(&outer_state, &o, &s);
	assert_int_equal(state_load(&outer_state, &back, s.text, s.len, &err), -EINVAL);
	s.text[0] = 3;
	assert_int_equal(state_load(&outer_state, &back, s.text, s.len, &err), -EINVAL);
	assert_non_null(strstr(err.text, "newer"));
	assert_int_equal(state_save(STATE_UNMIGRATABLE, &o, &s), -ENOTSUP);
	str_free(&s);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(claims),
		T(mmio_dispatch),
		T(pio_strings),
		T(coalesced_ring),
		T(pci_config_space),
		T(pci_bars_move),
		T(expansion_rom),
		T(expansion_rom_images),
		T(expansion_rom_damaged),
		T(msix_masks),
		T(intx_joins),
		T(slots_run_out),
		T(timers),
		cmocka_unit_test(memory),
		cmocka_unit_test(saved_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
