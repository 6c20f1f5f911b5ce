/* Interrupts: lines, irqfd, MSI, NMI, injection by the monitor, and a second processor. */
#include "cases.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/endian.h"

#define MSI_VECTOR 0x41
#define EOI_VECTOR 0x51
#define EOI_DATA   (EOI_VECTOR | 1 << 14 | 1 << 15) /* level, asserted */

static bool set_line(struct rig *r, u32 gsi, u32 level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};
	int rc = rig_vm_ioctl(r, KVM_IRQ_LINE, &line);

	return !rc || rig_fail(r, "KVM_IRQ_LINE: %s", strerror(-rc));
}

static bool pulse(struct rig *r, u32 gsi)
{
	TRY(set_line(r, gsi, 1));
	return set_line(r, gsi, 0);
}

/* The handler's word, then the instruction after HLT. */
static bool want_interrupt(struct rig *r, u8 which)
{
	TRY(want_out(r, 0x501, 1, which));
	return want_out(r, 0x502, 1, 0xef);
}

bool case_irq_line(struct rig *r)
{
	TRY(want_out(r, 0x500, 1, 0xef));
	TRY(pulse(r, 5));
	TRY(want_interrupt(r, 5));
	/* Through the second 8259. */
	TRY(pulse(r, 12));
	TRY(want_interrupt(r, 12));
	/* A masked line does nothing; the next open one does. */
	TRY(pulse(r, 3));
	TRY(pulse(r, 5));
	return want_interrupt(r, 5);
}

static bool irqfd_set(struct rig *r, int fd, u32 gsi, u32 flags)
{
	struct kvm_irqfd irqfd = {.fd = (u32)fd, .gsi = gsi, .flags = flags};
	int rc = rig_vm_ioctl(r, KVM_IRQFD, &irqfd);

	return !rc || rig_fail(r, "KVM_IRQFD: %s", strerror(-rc));
}

/* Signals the descriptor when the vCPU has had time to halt. */
static void *signal_later(void *arg)
{
	usleep(20000);
	eventfd_write(*(int *)arg, 1);
	return NULL;
}

bool case_irqfd(struct rig *r)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	pthread_t thread;
	bool ok;

	EXPECT(r, fd >= 0);
	TRY(want_out(r, 0x500, 1, 0xef));
	TRY(irqfd_set(r, fd, 5, 0));
	eventfd_write(fd, 1);
	TRY(want_interrupt(r, 5));
	/* From another thread, to a processor that sleeps. */
	EXPECT(r, !pthread_create(&thread, NULL, signal_later, &fd));
	ok = want_interrupt(r, 5);
	pthread_join(thread, NULL);
	TRY(ok);
	TRY(irqfd_set(r, fd, 5, KVM_IRQFD_FLAG_DEASSIGN));
	eventfd_write(fd, 1);
	TRY(pulse(r, 12));
	TRY(want_interrupt(r, 12));
	close(fd);
	return true;
}

bool case_nmi(struct rig *r)
{
	TRY(want_out(r, 0x500, 1, 0xef));
	/* It needs no open interrupts, so it comes at once; then the guest halts. */
	EXPECT(r, !rig_ioctl(r, KVM_NMI, NULL));
	TRY(want_out(r, 0x501, 1, 2));
	TRY(pulse(r, 5));
	return want_interrupt(r, 5);
}

static bool route_msi(struct rig *r, u32 gsi, u32 data)
{
	union {
		struct kvm_irq_routing head;
		u8 room[sizeof(struct kvm_irq_routing) + sizeof(struct kvm_irq_routing_entry)];
	} table = {.head.nr = 1};
	const struct kvm_irq_routing_entry entry = {
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {.address_lo = RIG_APIC, .data = data}};
	int rc;

	memcpy(table.head.entries, &entry, sizeof(entry));
	rc = rig_vm_ioctl(r, KVM_SET_GSI_ROUTING, &table);
	return !rc || rig_fail(r, "KVM_SET_GSI_ROUTING: %s", strerror(-rc));
}

static bool send_msi(struct rig *r, u32 data)
{
	struct kvm_msi msi = {.address_lo = RIG_APIC, .data = data};

	/* The number of processors that took it. */
	EXPECT(r, rig_vm_ioctl(r, KVM_SIGNAL_MSI, &msi) > 0);
	return true;
}

static bool msi_both_ways(struct rig *r)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	EXPECT(r, fd >= 0);
	TRY(want_out(r, 0x500, 4, 0));
	TRY(send_msi(r, MSI_VECTOR));
	TRY(want_out(r, 0x501, 1, MSI_VECTOR));
	/* Again: the handler ended the first one. */
	TRY(send_msi(r, MSI_VECTOR));
	TRY(want_out(r, 0x501, 1, MSI_VECTOR));
	/* Through the routing table and a descriptor. */
	TRY(route_msi(r, 30, MSI_VECTOR));
	TRY(irqfd_set(r, fd, 30, 0));
	eventfd_write(fd, 1);
	TRY(want_out(r, 0x501, 1, MSI_VECTOR));
	close(fd);
	return true;
}

bool case_msi(struct rig *r)
{
	return msi_both_ways(r);
}

bool case_split_msi(struct rig *r)
{
	return msi_both_ways(r);
}

bool case_ioapic_eoi(struct rig *r)
{
	TRY(route_msi(r, 5, EOI_DATA));
	TRY(want_out(r, 0x500, 1, 0xff));
	TRY(send_msi(r, EOI_DATA));
	TRY(want_out(r, 0x501, 1, EOI_VECTOR));
	TRY(want_exit(r, KVM_EXIT_IOAPIC_EOI));
	EXPECT(r, r->run->eoi.vector == EOI_VECTOR);
	return want_out(r, 0x502, 1, 0);
}

bool case_inject(struct rig *r)
{
	struct kvm_interrupt interrupt = {.irq = 0x30};

	TRY(want_out(r, 0x500, 1, 0));
	EXPECT(r, !r->run->ready_for_interrupt_injection && !r->run->if_flag);
	r->run->request_interrupt_window = 1;
	TRY(want_exit(r, KVM_EXIT_IRQ_WINDOW_OPEN));
	EXPECT(r, r->run->ready_for_interrupt_injection && r->run->if_flag);
	r->run->request_interrupt_window = 0;
	EXPECT(r, !rig_ioctl(r, KVM_INTERRUPT, &interrupt));
	TRY(want_out(r, 0x501, 1, 0x30));
	TRY(want_out(r, 0x500, 1, 0));
	return want_hlt(r);
}

/* ---- two processors ---- */

struct second {
	struct rig *r;
	u32 said[4]; /* port << 16 | value */
	u32 count;
	bool stop;
};

static void *run_second(void *arg)
{
	struct second *s = arg;
	const struct rig_vcpu *cpu = &s->r->cpu[1];

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		int rc = s->r->vm.engine->ioctl(cpu->fd, KVM_RUN, 0);

		if (rc || cpu->run->exit_reason != KVM_EXIT_IO || s->count == ARRAY_SIZE(s->said))
			continue;
		s->said[s->count++] =
			(u32)cpu->run->io.port << 16 |
			(u32)load_le((u8 *)cpu->run + cpu->run->io.data_offset, cpu->run->io.size);
	}
	return NULL;
}

bool case_smp(struct rig *r)
{
	struct second s = {.r = r};
	pthread_t thread;
	bool ok;

	TRY(rig_add_vcpu(r));
	EXPECT(r, !pthread_create(&thread, NULL, run_second, &s));
	ok = want_out(r, 0x500, 1, 0xb0);
	__atomic_store_n(&s.stop, true, __ATOMIC_RELEASE);
	__atomic_store_n(&r->cpu[1].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, NULL);
	TRY(ok);
	EXPECT(r, s.count == 2);
	EXPECT(r, s.said[0] == 0x5010000);
	EXPECT(r, s.said[1] == 0x5010001);
	return true;
}
