/* Doorbells, coalesced zones and interrupt eventfds: what KVM handles without its user. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "api_rig.h"
#include "os/event.h"

static int doorbell(struct api_rig *rig, int fd, u64 addr, u32 len, u32 flags, u64 data)
{
	struct kvm_ioeventfd e = {
		.fd = fd, .addr = addr, .len = len, .flags = flags, .datamatch = data};

	return VM(KVM_IOEVENTFD, &e);
}

#define PIO   KVM_IOEVENTFD_FLAG_PIO
#define MATCH KVM_IOEVENTFD_FLAG_DATAMATCH
#define OFF   KVM_IOEVENTFD_FLAG_DEASSIGN

static void test_ioeventfd_arguments(void **state)
{
	struct api_rig *rig = *state;
	int a = event_new(), b = event_new();

	assert_int_equal(doorbell(rig, a, 0x10, 3, PIO, 0), -EINVAL);
	assert_int_equal(doorbell(rig, a, ~0ULL, 4, 0, 0), -EINVAL);
	assert_int_equal(doorbell(rig, a, 0x10, 0, PIO | MATCH, 0), -EINVAL);
	assert_int_equal(doorbell(rig, a, 0x10, 1, 0x80000000, 0), -EINVAL);
	assert_int_equal(doorbell(rig, -1, 0x10, 1, PIO, 0), -EBADF);
	assert_int_equal(doorbell(rig, a, 0x10, 1, PIO | MATCH, 1), 0);
	assert_int_equal(doorbell(rig, b, 0x10, 1, PIO | MATCH, 1), -EEXIST);
	assert_int_equal(doorbell(rig, b, 0x10, 1, PIO | MATCH, 2), 0);
	assert_int_equal(doorbell(rig, b, 0x10, 1, PIO, 0), -EEXIST);
	assert_int_equal(doorbell(rig, b, 0x10, 2, PIO, 0), 0);
	assert_int_equal(doorbell(rig, b, 0x10, 1, 0, 0), 0); /* the other bus */
	assert_int_equal(doorbell(rig, a, 0x10, 1, PIO | MATCH | OFF, 2), -ENOENT);
	assert_int_equal(doorbell(rig, a, 0x10, 1, PIO | MATCH | OFF, 1), 0);
	assert_int_equal(doorbell(rig, a, 0x10, 1, PIO | MATCH | OFF, 1), -ENOENT);
	close(a);
	close(b);
}

static void test_ioeventfd_port(void **state)
{
	struct api_rig *rig = *state;
	int three = event_new(), any = event_new();

	assert_int_equal(doorbell(rig, three, 0x10, 1, PIO | MATCH, 3), 0);
	assert_int_equal(doorbell(rig, any, 0x20, 0, PIO, 0), 0);
	RIG_LOAD(rig, 0xb0, 3, 0xe6, 0x10, /* mov al, 3; out 0x10, al: doorbell */
		 0xe7, 0x20,		   /* out 0x20, ax: any length */
		 0xe7, 0x10,		   /* out 0x10, ax: length differs */
		 0xb0, 4, 0xe6, 0x10,	   /* al = 4: data differs */
		 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.size, 2);
	assert_int_equal(rig->run->io.port, 0x10);
	assert_true(event_clear(three));
	assert_true(event_clear(any));
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.size, 1);
	assert_false(event_clear(three));
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
	/* Taken back: the next write exits. */
	assert_int_equal(doorbell(rig, three, 0x10, 1, PIO | MATCH | OFF, 3), 0);
	RIG_LOAD(rig, 0xb0, 3, 0xe6, 0x10, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_false(event_clear(three));
	close(three);
	close(any);
}

/* mov ax, 0x8000; mov ds, ax; mov [0], al or ax; hlt: memory at 0x80000, where no slot is */
#define TO_80000 0xb8, 0x00, 0x80, 0x8e, 0xd8

static void test_ioeventfd_memory(void **state)
{
	struct api_rig *rig = *state;
	int fd = event_new();

	assert_int_equal(doorbell(rig, fd, 0x80002, 2, MATCH, 0x8000), 0);
	RIG_LOAD(rig, TO_80000, 0xa3, 2, 0, 0xa3, 4, 0, 0xf4); /* mov [2], ax; mov [4], ax */
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(rig->run->mmio.phys_addr, 0x80004);
	assert_int_equal(rig->run->mmio.len, 2);
	assert_int_equal(rig->run->mmio.data[1], 0x80);
	assert_true(event_clear(fd));
	close(fd);
}

static void test_coalesced(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_coalesced_mmio_zone zone = {.addr = 0x80000, .size = 0x10};

	assert_int_equal(VM(KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	RIG_LOAD(rig, TO_80000, 0xa3, 2, 0, 0xa2, 9, 0, 0xa2, 0x10, 0, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	/* The third write is just outside. */
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(rig->run->mmio.phys_addr, 0x80010);
	assert_int_equal(rig->ring->first, 0);
	assert_int_equal(rig->ring->last, 2);
	assert_int_equal(rig->ring->coalesced_mmio[0].phys_addr, 0x80002);
	assert_int_equal(rig->ring->coalesced_mmio[0].len, 2);
	assert_int_equal(rig->ring->coalesced_mmio[0].data[1], 0x80);
	assert_int_equal(rig->ring->coalesced_mmio[1].phys_addr, 0x80009);
	assert_int_equal(rig->ring->coalesced_mmio[1].len, 1);
	assert_int_equal(rig->ring->coalesced_mmio[1].pio, 0);
	/* A full ring makes exits of writes. */
	rig->ring->first = 3;
	RIG_LOAD(rig, TO_80000, 0xa3, 2, 0, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	rig->ring->first = 2;
	assert_int_equal(VM(KVM_UNREGISTER_COALESCED_MMIO, &zone), 0);
	RIG_LOAD(rig, TO_80000, 0xa3, 2, 0, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(rig->ring->last, 2);
}

static void test_coalesced_port(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_coalesced_mmio_zone zone = {.addr = 0x30, .size = 2, .pio = 1};

	assert_int_equal(VM(KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	RIG_LOAD(rig, 0xb0, 7, 0xe6, 0x31, 0xe6, 0x32, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.port, 0x32);
	assert_int_equal(rig->ring->last, 1);
	assert_int_equal(rig->ring->coalesced_mmio[0].phys_addr, 0x31);
	assert_int_equal(rig->ring->coalesced_mmio[0].pio, 1);
	assert_int_equal(rig->ring->coalesced_mmio[0].data[0], 7);
	zone.pio = 2;
	assert_int_equal(VM(KVM_REGISTER_COALESCED_MMIO, &zone), -EINVAL);
}

static int line(struct api_rig *rig, int fd, u32 gsi, u32 flags, int resample)
{
	struct kvm_irqfd i = {
		.fd = (u32)fd, .gsi = gsi, .flags = flags, .resamplefd = (u32)resample};

	return VM(KVM_IRQFD, &i);
}

static void test_irqfd_arguments(void **state)
{
	struct api_rig *rig = *state;
	int fd = event_new();

	assert_int_equal(line(rig, fd, 5, 0x10, 0), -EINVAL);
	assert_int_equal(line(rig, -1, 5, 0, 0), -EBADF);
	assert_int_equal(line(rig, fd, 5, 0, 0), 0);
	assert_int_equal(line(rig, fd, 5, 0, 0), -EBUSY);
	assert_int_equal(line(rig, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	assert_int_equal(line(rig, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	assert_int_equal(line(rig, fd, 5, 0, 0), 0);
	close(fd);
}

static void test_irqfd_without_chips(void **state)
{
	struct api_rig *rig = *state;
	int fd = event_new();

	assert_int_equal(line(rig, fd, 5, 0, 0), -EINVAL);
	close(fd);
}

static u8 pic_irr(struct api_rig *rig)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

	assert_int_equal(VM(KVM_GET_IRQCHIP, &chip), 0);
	return chip.chip.pic.irr;
}

/* An eventfd raises its line at the PIC; before it was assigned counts too. */
static void test_irqfd(void **state)
{
	struct api_rig *rig = *state;
	int fd = event_new(), early = event_new();

	assert_int_equal(line(rig, fd, 5, 0, 0), 0);
	event_signal(fd);
	for (int i = 0; i < 1000 && !(pic_irr(rig) & 0x20); i++)
		usleep(1000);
	assert_int_equal(pic_irr(rig) & 0x20, 0x20);
	event_signal(early);
	assert_int_equal(line(rig, early, 6, 0, 0), 0);
	for (int i = 0; i < 1000 && !(pic_irr(rig) & 0x40); i++)
		usleep(1000);
	assert_int_equal(pic_irr(rig) & 0x40, 0x40);
	close(fd);
	close(early);
}

/* The seam's own way to signal: the same as a write, and where the engine has it, at once. */
static void test_irqfd_signal(void **state)
{
	struct api_rig *rig = *state;
	int fd = event_new(), other = event_new();
	u64 count;

	if (!rig->engine->irqfd_signal)
		skip();
	assert_int_equal(line(rig, fd, 5, 0, 0), 0);
	rig->engine->irqfd_signal(rig->vm, fd);
	assert_int_equal(pic_irr(rig) & 0x20, 0x20);
	assert_false(event_clear(fd));
	/* What is no irqfd, or no longer one, gets a write. */
	rig->engine->irqfd_signal(rig->vm, other);
	assert_true(event_clear(other));
	assert_int_equal(line(rig, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	rig->engine->irqfd_signal(rig->vm, fd);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	rig->engine->irqfd_signal(-1, fd);
	assert_true(event_clear(fd));
	close(fd);
	close(other);
}

/*
 * A guest with a handler: interrupt 5 of the PIC at vector 0x0d, initialised as firmware does. The
 * handler writes port 0x40+5, ends the interrupt and halts.
 */
static const u8 pic_guest[] = {
	0xfa,				    /* cli */
	0xb0, 0x11, 0xe6, 0x20,		    /* ICW1 */
	0xb0, 0x08, 0xe6, 0x21,		    /* ICW2: base 8 */
	0xb0, 0x04, 0xe6, 0x21,		    /* ICW3 */
	0xb0, 0x01, 0xe6, 0x21,		    /* ICW4 */
	0xb0, 0xdf, 0xe6, 0x21,		    /* only line 5 */
	0xc7, 0x06, 0x34, 0x00, 0x00, 0x11, /* mov word [13 * 4], 0x1100 */
	0xc7, 0x06, 0x36, 0x00, 0x00, 0x00, /* mov word [13 * 4 + 2], 0 */
	0xe6, 0x80,			    /* out 0x80: ready */
	0xfb, 0xf4, 0xeb, 0xfd,		    /* sti; 1: hlt; jmp 1b */
};
static const u8 pic_handler[] = {
	0xb0, 0x55, 0xe6, 0x81, /* out 0x81, 0x55 */
	0xb0, 0x20, 0xe6, 0x20, /* end of interrupt */
	0xe6, 0x82,		/* out 0x82 */
	0xcf,			/* iret */
};

static void expect_port(struct api_rig *rig, u16 port)
{
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.port, port);
}

static void test_interrupt_wakes(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_irq_level level = {.irq = 5, .level = 1};

	memcpy(rig->ram + 0x1100, pic_handler, sizeof(pic_handler));
	rig_load(rig, pic_guest, sizeof(pic_guest));
	expect_port(rig, 0x80);
	for (int i = 0; i < 3; i++) {
		level.level = 1;
		assert_int_equal(VM(KVM_IRQ_LINE, &level), 0);
		expect_port(rig, 0x81);
		level.level = 0;
		assert_int_equal(VM(KVM_IRQ_LINE, &level), 0);
		expect_port(rig, 0x82);
	}
}

/* The line stays up until the guest's EOI, which is told by the resample descriptor. */
static void test_resample(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
	int fd = event_new(), again = event_new();

	memcpy(rig->ram + 0x1100, pic_handler, sizeof(pic_handler));
	rig_load(rig, pic_guest, sizeof(pic_guest));
	expect_port(rig, 0x80);
	assert_int_equal(VM(KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.pic.elcr = 0x20;
	assert_int_equal(VM(KVM_SET_IRQCHIP, &chip), 0);
	assert_int_equal(line(rig, fd, 5, KVM_IRQFD_FLAG_RESAMPLE, again), 0);
	for (int i = 0; i < 2; i++) {
		event_signal(fd);
		expect_port(rig, 0x81);
		assert_false(event_clear(again));
		expect_port(rig, 0x82);
		assert_true(rig_wait_event(again));
	}
	close(fd);
	close(again);
}

/* A statistic of the vCPU; ~0 when there is none of that name. */
static u64 statistic(struct api_rig *rig, const char *name)
{
	struct kvm_stats_header head;
	struct {
		struct kvm_stats_desc desc;
		char name[64];
	} d;
	int fd = VCPU(KVM_GET_STATS_FD, 0);
	u64 value = ~0ULL;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &head, sizeof(head), 0), sizeof(head));
	assert_in_range(head.name_size, 1, sizeof(d.name));
	for (u32 i = 0; i < head.num_desc; i++) {
		size_t size = sizeof(d.desc) + head.name_size;

		assert_int_equal(pread(fd, &d, size, head.desc_offset + i * size), size);
		if (!strncmp(d.name, name, sizeof(d.name)))
			assert_int_equal(
				pread(fd, &value, sizeof(value), head.data_offset + d.desc.offset),
				sizeof(value));
	}
	close(fd);
	return value;
}

static void *raise_later(void *arg)
{
	struct api_rig *rig = arg;
	struct kvm_irq_level level = {.irq = 5, .level = 1};

	usleep(300);
	assert_int_equal(VM(KVM_IRQ_LINE, &level), 0);
	level.level = 0;
	assert_int_equal(VM(KVM_IRQ_LINE, &level), 0);
	return NULL;
}

/* The guest halts, and is woken by another thread, `count` times. */
static void halt_and_wake(struct api_rig *rig, int count)
{
	for (int i = 0; i < count; i++) {
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, raise_later, rig), 0);
		expect_port(rig, 0x81);
		expect_port(rig, 0x82);
		pthread_join(thread, NULL);
	}
}

/* Wake-ups arrive whether the vCPU sleeps or spins, and it never spins longer than it may. */
static void test_halt_poll(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_HALT_POLL, .args = {1ULL << 32}};
	u64 polls;

	if (VM(KVM_CHECK_EXTENSION, KVM_CAP_HALT_POLL) != 1 || !rig_is_soft(rig))
		skip();
	assert_int_equal(VM(KVM_ENABLE_CAP, &cap), -EINVAL);
	cap.args[0] = 1000000000;
	assert_int_equal(VM(KVM_ENABLE_CAP, &cap), 0);
	memcpy(rig->ram + 0x1100, pic_handler, sizeof(pic_handler));
	rig_load(rig, pic_guest, sizeof(pic_guest));
	expect_port(rig, 0x80);
	halt_and_wake(rig, 50);
	polls = statistic(rig, "halt_attempted_poll");
	assert_true(polls != ~0ULL);
	assert_true(statistic(rig, "halt_successful_poll") <= polls);
	assert_true(polls <= statistic(rig, "halt_exits"));
	cap.args[0] = 0;
	assert_int_equal(VM(KVM_ENABLE_CAP, &cap), 0);
	halt_and_wake(rig, 5);
	assert_int_equal(statistic(rig, "halt_attempted_poll"), polls);
}

#define T(name)	      cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
#define T_CHIPS(name) cmocka_unit_test_setup_teardown(name, rig_setup_irqchip, rig_teardown)

int main(void)
{
	const struct CMUnitTest io[] = {
		T(test_ioeventfd_arguments),   T(test_ioeventfd_port),
		T(test_ioeventfd_memory),      T(test_coalesced),
		T(test_coalesced_port),	       T_CHIPS(test_irqfd_arguments),
		T(test_irqfd_without_chips),   T_CHIPS(test_irqfd),
		T_CHIPS(test_interrupt_wakes), T_CHIPS(test_resample),
		T_CHIPS(test_irqfd_signal),    T_CHIPS(test_halt_poll),
	};

	return RIG_MAIN(io);
}
