/*
 * The routing table is the irqchip's default (ISA pins to the PICs and the IOAPIC, as after
 * KVM_CREATE_IRQCHIP) followed by the MSI routes; KVM_SET_GSI_ROUTING takes it whole.
 */
#include "bus/irq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "bus/bus_int.h"
#include "os/event.h"

#define FIRST_MSI_GSI BUS_IOAPIC_PINS

static void add_pin(struct kvm_irq_routing *r, u32 gsi, u32 chip, u32 pin)
{
	struct kvm_irq_routing_entry *e = &r->entries[r->nr++];

	*e = (struct kvm_irq_routing_entry){.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP};
	e->u.irqchip.irqchip = chip;
	e->u.irqchip.pin = pin;
}

int irq_table_init(struct bus *bus)
{
	struct irq_table *t = &bus->irq;

	t->capacity = 64;
	t->routing = calloc(1, sizeof(*t->routing) + t->capacity * sizeof(t->routing->entries[0]));
	if (!t->routing)
		return -ENOMEM;
	for (u32 pin = 0; pin < 16; pin++)
		add_pin(t->routing, pin, pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
			pin % 8);
	for (u32 pin = 0; pin < BUS_IOAPIC_PINS; pin++)
		add_pin(t->routing, pin, KVM_IRQCHIP_IOAPIC, pin);
	return 0;
}

void irq_table_free(struct bus *bus)
{
	free(bus->irq.routing);
}

void irq_line_init(struct irq_line *line, struct bus *bus, u32 gsi)
{
	*line = (struct irq_line){.bus = bus, .gsi = gsi};
}

void irq_set(struct irq_line *line, bool level)
{
	struct kvm_irq_level arg = {.irq = line->gsi, .level = level};

	if (line->level == level || !line->bus)
		return;
	line->level = level;
	line->bus->irq.line_count[line->gsi % BUS_IOAPIC_PINS] += level;
	if (line->bus->vm)
		engine_vm_ioctl(line->bus->vm, KVM_IRQ_LINE, &arg);
}

void irq_pulse(struct irq_line *line)
{
	irq_set(line, false);
	irq_set(line, true);
	irq_set(line, false);
}

int irq_msi_send(struct bus *bus, u64 addr, u32 data)
{
	struct kvm_msi msi = {.address_lo = (u32)addr, .address_hi = addr >> 32, .data = data};
	int rc;

	__atomic_fetch_add(&bus->irq.msi_count, 1, __ATOMIC_RELAXED);
	if (!bus->vm)
		return -ENOTSUP;
	rc = engine_vm_ioctl(bus->vm, KVM_SIGNAL_MSI, &msi);
	return min(rc, 0);
}

static struct kvm_irq_routing_entry *find_msi(struct irq_table *t, u32 gsi)
{
	for (u32 i = 0; i < t->routing->nr; i++)
		if (t->routing->entries[i].gsi == gsi &&
		    t->routing->entries[i].type == KVM_IRQ_ROUTING_MSI)
			return &t->routing->entries[i];
	return NULL;
}

static struct kvm_irq_routing_entry *append_msi(struct irq_table *t, u32 gsi)
{
	struct kvm_irq_routing_entry *e;

	if (t->routing->nr == t->capacity) {
		u32 capacity = 2 * t->capacity;
		void *grown =
			realloc(t->routing,
				sizeof(*t->routing) + capacity * sizeof(t->routing->entries[0]));

		if (!grown)
			return NULL;
		t->routing = grown;
		t->capacity = capacity;
	}
	e = &t->routing->entries[t->routing->nr++];
	*e = (struct kvm_irq_routing_entry){.gsi = gsi, .type = KVM_IRQ_ROUTING_MSI};
	return e;
}

static int commit_routing(struct bus *bus)
{
	int rc = bus->vm ? engine_vm_ioctl(bus->vm, KVM_SET_GSI_ROUTING, bus->irq.routing) : 0;

	return min(rc, 0);
}

int irq_route_open(struct irq_route *route, struct bus *bus)
{
	struct irq_table *t = &bus->irq;
	u64 bit = bitmap_next_clear(t->msi_used, BUS_MAX_ROUTES, 0);

	*route = (struct irq_route){.bus = bus, .vm = bus->vm, .fd = -1};
	if (bit == BUS_MAX_ROUTES)
		return -ENOSPC;
	route->fd = event_new();
	if (route->fd < 0)
		return route->fd;
	bitmap_set(t->msi_used, bit);
	route->gsi = FIRST_MSI_GSI + (u32)bit;
	return 0;
}

static int irqfd(struct irq_route *route, u32 flags)
{
	struct kvm_irqfd arg = {.fd = (u32)route->fd, .gsi = route->gsi, .flags = flags};

	return route->bus->vm ? engine_vm_ioctl(route->bus->vm, KVM_IRQFD, &arg) : 0;
}

int irq_route_set(struct irq_route *route, u64 addr, u32 data)
{
	struct irq_table *t = &route->bus->irq;
	struct kvm_irq_routing_entry *e = find_msi(t, route->gsi);
	bool changed;
	int rc = 0;

	if (!e)
		e = append_msi(t, route->gsi);
	if (!e)
		return -ENOMEM;
	changed = e->u.msi.address_lo != (u32)addr || e->u.msi.address_hi != addr >> 32 ||
		  e->u.msi.data != data;
	e->u.msi.address_lo = (u32)addr;
	e->u.msi.address_hi = (u32)(addr >> 32);
	e->u.msi.data = data;
	if (changed)
		rc = commit_routing(route->bus);
	if (!rc && !route->attached) {
		rc = irqfd(route, 0);
		route->attached = rc >= 0;
	}
	return min(rc, 0);
}

void irq_route_mask(struct irq_route *route)
{
	if (!route->attached)
		return;
	irqfd(route, KVM_IRQFD_FLAG_DEASSIGN);
	route->attached = false;
}

void irq_route_close(struct irq_route *route)
{
	struct irq_table *t;
	struct kvm_irq_routing_entry *e;

	if (!route->gsi)
		return;
	irq_route_mask(route);
	t = &route->bus->irq;
	e = find_msi(t, route->gsi);
	if (e) {
		*e = t->routing->entries[--t->routing->nr];
		commit_routing(route->bus);
	}
	bitmap_clear(t->msi_used, route->gsi - FIRST_MSI_GSI);
	close(route->fd);
	route->gsi = 0;
	route->fd = -1;
}

u64 irq_line_count(const struct bus *bus, u32 gsi)
{
	return gsi < BUS_IOAPIC_PINS ? bus->irq.line_count[gsi] : 0;
}

u64 irq_msi_count(const struct bus *bus)
{
	return bus->irq.msi_count;
}
