/*
 * Interrupts: GSI lines of the irqchip, and MSI. With the bus lock held, unless stated.
 */
#ifndef BUS_IRQ_H
#define BUS_IRQ_H

#include "base/types.h"
#include "bus/bus.h"
#include "engine/vm.h"
#include "os/event.h"

/* A wire to a GSI (0 to 15: ISA; 16 to 23: PCI INTx of the board). One owner a wire; lines shared
 * by several devices are joined by pci.h. */
struct irq_line {
	struct bus *bus;
	u32 gsi;
	bool level;
};

void irq_line_init(struct irq_line *line, struct bus *bus, u32 gsi);
void irq_set(struct irq_line *line, bool level);
/* Low, then high, then low: an edge. */
void irq_pulse(struct irq_line *line);

/* Send one MSI now. 0 or -errno. Any thread, without the lock. */
int irq_msi_send(struct bus *bus, u64 addr, u32 data);

/* An MSI route with an eventfd: any thread signals it and the interrupt is sent without the
 * monitor, by irq_route_signal() or (other processes, the kernel) by writing to the fd. */
struct irq_route {
	struct bus *bus;
	const struct engine_vm *vm; /* the bus's; may be NULL */
	u32 gsi; /* 0 while not allocated */
	int fd;
	bool attached; /* the fd is an irqfd now */
};

/* Allocate a GSI and an eventfd. -ENOSPC. */
int irq_route_open(struct irq_route *route, struct bus *bus);
/* Point it at this message and attach the fd. */
int irq_route_set(struct irq_route *route, u64 addr, u32 data);
/* Detach: the fd only collects signals (a masked vector); event_clear() tells whether one came. */
void irq_route_mask(struct irq_route *route);
void irq_route_close(struct irq_route *route);

/* Send the interrupt, or leave a signal in the fd while it is detached. Any thread, without the
 * lock. */
static inline void irq_route_signal(const struct irq_route *route)
{
	const struct engine_vm *vm = route->vm;

	if (vm && vm->engine->irqfd_signal)
		vm->engine->irqfd_signal(vm->fd, route->fd);
	else
		event_signal(route->fd);
}

/* Interrupts sent: by GSI line (rising edges), and MSIs sent by the monitor itself. */
u64 irq_line_count(const struct bus *bus, u32 gsi);
u64 irq_msi_count(const struct bus *bus);

#endif
