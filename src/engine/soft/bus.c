/*
 * Port and memory accesses that no slot claims.
 *
 * Invariant: a published bus is immutable and sorted by address; it is replaced while every vCPU
 * is out of guest code, so that a lookup takes no lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/lapic.h"

#define MAX_DEVICES 1000

struct io_range {
	u64 addr;
	u32 len;
	struct io_device *dev;
};

struct io_bus {
	u32 count;
	u32 max_len; /* of any range: how far back a lookup must go */
	struct io_range range[];
};

/* The first range that may hold addr: those before it end too early. */
static u32 bus_search(const struct io_bus *bus, u64 addr)
{
	u64 from = addr >= bus->max_len ? addr - bus->max_len + 1 : 0;
	u32 lo = 0, hi = bus->count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (bus->range[mid].addr < from)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int bus_write(struct kvm_vcpu *vcpu, enum kvm_bus which, u64 addr, u32 len, const void *val)
{
	const struct io_bus *bus = vcpu->kvm->arch->bus[which];

	if (!bus)
		return -EOPNOTSUPP;
	for (u32 i = bus_search(bus, addr); i < bus->count && bus->range[i].addr <= addr; i++) {
		const struct io_range *r = &bus->range[i];

		if (addr - r->addr < r->len && r->dev->ops->write &&
		    !r->dev->ops->write(vcpu, r->dev, addr, len, val))
			return 0;
	}
	return -EOPNOTSUPP;
}

static int bus_read(struct kvm_vcpu *vcpu, enum kvm_bus which, u64 addr, u32 len, void *val)
{
	const struct io_bus *bus = vcpu->kvm->arch->bus[which];

	if (!bus)
		return -EOPNOTSUPP;
	for (u32 i = bus_search(bus, addr); i < bus->count && bus->range[i].addr <= addr; i++) {
		const struct io_range *r = &bus->range[i];

		if (addr - r->addr < r->len && r->dev->ops->read &&
		    !r->dev->ops->read(vcpu, r->dev, addr, len, val))
			return 0;
	}
	return -EOPNOTSUPP;
}

static void count(struct kvm_vcpu *vcpu, enum kvm_bus bus)
{
	if (bus == KVM_PIO_BUS)
		vcpu->stat->io_handled++;
	else
		vcpu->stat->mmio_handled++;
}

int kvm_io_bus_write(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, const void *val)
{
	if ((bus == KVM_MMIO_BUS && vcpu->apic && !kvm_lapic_mmio_write(vcpu, addr, len, val)) ||
	    !bus_write(vcpu, bus, addr, len, val) || !coalesced_write(vcpu, bus, addr, len, val)) {
		count(vcpu, bus);
		return 0;
	}
	return -EOPNOTSUPP;
}

int kvm_io_bus_read(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, void *val)
{
	if ((bus == KVM_MMIO_BUS && vcpu->apic && !kvm_lapic_mmio_read(vcpu, addr, len, val)) ||
	    !bus_read(vcpu, bus, addr, len, val)) {
		count(vcpu, bus);
		return 0;
	}
	return -EOPNOTSUPP;
}

/* ---- changes ---- */

struct bus_change {
	enum kvm_bus bus;
	struct io_bus *new;
};

static void publish(struct kvm *kvm, void *arg)
{
	struct bus_change *c = arg;

	free(kvm->arch->bus[c->bus]);
	kvm->arch->bus[c->bus] = c->new;
}

static struct io_bus *bus_copy(const struct io_bus *from, u32 room)
{
	struct io_bus *to =
		calloc(1, sizeof(*to) + (from ? from->count + room : room) * sizeof(to->range[0]));

	if (to && from)
		memcpy(to, from, sizeof(*from) + from->count * sizeof(from->range[0]));
	return to;
}

int kvm_io_bus_register(struct kvm *kvm, enum kvm_bus bus, u64 addr, u32 len, struct io_device *dev)
{
	struct bus_change c = {.bus = bus};
	u32 i;

	if (kvm->arch->bus[bus] && kvm->arch->bus[bus]->count >= MAX_DEVICES)
		return -ENOSPC;
	c.new = bus_copy(kvm->arch->bus[bus], 1);
	if (!c.new)
		return -ENOMEM;
	len = max(len, 1u);
	for (i = c.new->count++; i &&c.new->range[i - 1].addr > addr; i--)
		c.new->range[i] = c.new->range[i - 1];
	c.new->range[i] = (struct io_range){.addr = addr, .len = len, .dev = dev};
	c.new->max_len = max(c.new->max_len, len);
	kvm_for_each_vcpu_stopped(kvm, publish, &c);
	return 0;
}

/* In place: nobody reads the bus then, and nothing can fail. */
static void remove_device(struct kvm *kvm, void *arg)
{
	struct io_device *dev = arg;

	for (int b = 0; b < 2; b++) {
		struct io_bus *bus = kvm->arch->bus[b];
		u32 n = 0;

		if (!bus)
			continue;
		for (u32 i = 0; i < bus->count; i++)
			if (bus->range[i].dev != dev)
				bus->range[n++] = bus->range[i];
		bus->count = n;
	}
}

void kvm_io_bus_unregister(struct kvm *kvm, struct io_device *dev)
{
	kvm_for_each_vcpu_stopped(kvm, remove_device, dev);
}

void kvm_io_bus_free(struct kvm *kvm)
{
	free(kvm->arch->bus[KVM_MMIO_BUS]);
	free(kvm->arch->bus[KVM_PIO_BUS]);
	free(kvm->arch->zones);
}
