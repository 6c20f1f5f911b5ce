/* The interrupt controllers and timers through their registers, without a CPU. */
#include "chip_rig.h"

#include <string.h>
#include <unistd.h>

#include "engine/soft/lapic.h"
#include "os/clock.h"

#define ID    0x20
#define TPR   0x80
#define PPR   0xa0
#define EOI   0xb0
#define LDR   0xd0
#define DFR   0xe0
#define SPIV  0xf0
#define ISR   0x100
#define TMR   0x180
#define IRR   0x200
#define ICR   0x300
#define ICR2  0x310
#define LVTT  0x320
#define LVT0  0x350
#define TMICT 0x380
#define TMCCT 0x390
#define TDCR  0x3e0

/* ---- LAPIC ---- */

static void test_lapic_reset(void **state)
{
	struct chip_rig *rig = *state;

	for (u32 i = 0; i < CHIP_VCPUS; i++) {
		struct kvm_vcpu *v = rig->vcpu[i];

		assert_int_equal(lapic_read(v, ID), i << 24);
		assert_int_equal(lapic_read(v, 0x30), 0x50014);
		assert_int_equal(lapic_read(v, DFR), ~0u);
		assert_int_equal(lapic_read(v, SPIV), 0xff);
		assert_int_equal(lapic_read(v, LVTT), 0x10000);
		/* The boot CPU takes the PIC's interrupts from the start. */
		assert_int_equal(lapic_read(v, LVT0), i ? 0x10000 : 0x700);
		assert_int_equal(v->apic_base, 0xfee00800 | (i ? 0 : 0x100));
	}
	/* Off: nothing is accepted, LVT masks cannot be cleared. */
	lapic_write(rig->vcpu[1], LVTT, 0x40);
	assert_int_equal(lapic_read(rig->vcpu[1], LVTT), 0x10040);
	lapic_write(rig->vcpu[0], ICR2, 1u << 24);
	lapic_write(rig->vcpu[0], ICR, 0x4050);
	assert_int_equal(take(rig->vcpu[1]), -1);
}

static void test_lapic_priorities(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[1];

	lapics_on(rig);
	for (u32 vector = 0x31; vector <= 0x81; vector += 0x10) { /* to itself, by shorthand */
		lapic_write(v, ICR, 0x44000 | vector);
		lapic_write(v, ICR, 0x44000 | vector); /* twice is once */
	}
	assert_int_equal(take(v), 0x81);
	assert_int_equal(lapic_read(v, PPR), 0x80);
	assert_int_equal(take(v), -1); /* lower classes wait */
	lapic_write(v, ICR, 0x440f0);
	assert_int_equal(take(v), 0xf0); /* higher ones nest */
	lapic_write(v, EOI, 0);
	lapic_write(v, EOI, 0);
	assert_int_equal(lapic_read(v, PPR), 0);
	lapic_write(v, TPR, 0x70);
	assert_int_equal(take(v), -1);
	assert_int_equal(kvm_get_cr8(v), 7);
	kvm_set_cr8(v, 6);
	assert_int_equal(lapic_read(v, TPR), 0x60);
	assert_int_equal(take(v), 0x71);
	lapic_write(v, EOI, 0);
	assert_int_equal(take(v), -1);
	assert_int_equal(lapic_read(v, IRR + 0x30), 2); /* 0x61 pends */
	lapic_write(v, TPR, 0);
	for (int vector = 0x61; vector >= 0x31; vector -= 0x10) {
		assert_int_equal(take(v), vector);
		lapic_write(v, EOI, 0);
	}
	assert_int_equal(take(v), -1);
}

static u32 receivers(struct chip_rig *rig, int vector)
{
	u32 set = 0;

	for (u32 i = 0; i < CHIP_VCPUS; i++) {
		if (take(rig->vcpu[i]) != vector)
			continue;
		set |= 1u << i;
		lapic_write(rig->vcpu[i], EOI, 0);
	}
	return set;
}

static u32 send(struct chip_rig *rig, u32 dest, u32 icr)
{
	lapic_write(rig->vcpu[0], ICR2, dest << 24);
	lapic_write(rig->vcpu[0], ICR, icr);
	return receivers(rig, (int)(icr & 0xff));
}

static void test_lapic_destinations(void **state)
{
	struct chip_rig *rig = *state;
	u32 seen = 0;

	lapics_on(rig);
	assert_int_equal(send(rig, 2, 0x4050), 1u << 2);
	assert_int_equal(send(rig, 9, 0x4050), 0);
	assert_int_equal(send(rig, 0xff, 0x4050), 0xf);
	assert_int_equal(send(rig, 0, 0x44050), 1); /* self */
	assert_int_equal(send(rig, 0, 0x84050), 0xf);
	assert_int_equal(send(rig, 0, 0xc4050), 0xe);
	for (u32 i = 0; i < CHIP_VCPUS; i++) /* flat */
		lapic_write(rig->vcpu[i], LDR, 1u << (24 + i));
	assert_int_equal(send(rig, 0x5, 0x4850), 0x5);
	for (u32 i = 0; i < CHIP_VCPUS; i++) { /* clusters of two */
		lapic_write(rig->vcpu[i], DFR, 0x0fffffff);
		lapic_write(rig->vcpu[i], LDR, (i / 2) << 28 | 1u << (24 + i % 2));
	}
	assert_int_equal(send(rig, 0x13, 0x4850), 0xc);
	assert_int_equal(send(rig, 0x02, 0x4850), 0x2);
	for (int i = 0; i < 8; i++) { /* lowest priority: one at a time, and each in turn */
		u32 set;

		for (u32 n = 0; n < CHIP_VCPUS; n++) {
			lapic_write(rig->vcpu[n], DFR, ~0u);
			lapic_write(rig->vcpu[n], LDR, 1u << (24 + n));
		}
		set = send(rig, 0xf, 0x4950);
		assert_int_equal(__builtin_popcount(set), 1);
		seen |= set;
	}
	assert_int_equal(seen, 0xf);
}

static void test_lapic_init_and_startup(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[1];

	assert_int_equal(v->mp_state, KVM_MP_STATE_UNINITIALIZED);
	lapic_write(rig->vcpu[0], ICR2, 1u << 24);
	lapic_write(rig->vcpu[0], ICR, 0x4608); /* startup before INIT is lost */
	kvm_accept_events(v);
	assert_int_equal(v->mp_state, KVM_MP_STATE_UNINITIALIZED);
	lapic_write(rig->vcpu[0], ICR, 0xc500); /* INIT, assert */
	lapic_write(rig->vcpu[0], ICR, 0x8500); /* de-assert */
	kvm_accept_events(v);
	assert_int_equal(v->mp_state, KVM_MP_STATE_INIT_RECEIVED);
	lapic_write(rig->vcpu[0], ICR, 0x4609);
	kvm_accept_events(v);
	assert_int_equal(v->mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(v->ctl.seg[SEG_CS].selector, 0x900);
	assert_int_equal(v->ctl.seg[SEG_CS].base, 0x9000);
	assert_int_equal(v->ctl.rip, 0);
	lapic_write(rig->vcpu[0], ICR, 0x460a); /* a second one is ignored */
	kvm_accept_events(v);
	assert_int_equal(v->ctl.seg[SEG_CS].selector, 0x900);
	lapic_write(rig->vcpu[0], ICR, 0x4400); /* NMI needs no enabled LAPIC */
	lapic_write(rig->vcpu[0], ICR, 0x4400);
	lapic_write(rig->vcpu[0], ICR, 0x4400);
	assert_int_equal(v->ctl.nmi_pending, 2);
}

static void test_x2apic(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[2];
	u64 val;

	assert_int_equal(kvm_get_msr(v, 0x802, &val, false), 1);      /* not in x2APIC mode */
	assert_int_equal(kvm_set_msr(v, 0x1b, 0xfee00400, false), 1); /* x2APIC without enable */
	assert_int_equal(kvm_set_msr(v, 0x1b, 0xfee00c00, false), 0);
	assert_int_equal(kvm_set_msr(v, 0x1b, 0xfee00800, false), 1); /* no way back */
	assert_int_equal(kvm_get_msr(v, 0x802, &val, false), 0);
	assert_int_equal(val, 2);
	assert_int_equal(kvm_get_msr(v, 0x80d, &val, false), 0);
	assert_int_equal(val, 1 << 2);
	assert_int_equal(kvm_set_msr(v, 0x80d, 1, false), 1);	 /* LDR is read only */
	assert_int_equal(kvm_get_msr(v, 0x80e, &val, false), 1); /* DFR is gone */
	assert_int_equal(kvm_get_msr(v, 0x80b, &val, false), 1); /* EOI is write only */
	assert_int_equal(kvm_set_msr(v, 0x80b, 1, false), 1);
	assert_int_equal(kvm_set_msr(v, 0x80f, 0x1ff, false), 0);
	assert_int_equal(kvm_set_msr(v, 0x80f, 0x100000000, false), 1);
	assert_int_equal(kvm_set_msr(v, 0x83f, 0x61, false), 0); /* SELF IPI */
	assert_int_equal(take(v), 0x61);
	assert_int_equal(kvm_set_msr(v, 0x80b, 0, false), 0);
	assert_int_equal(kvm_set_msr(v, 0x830, 2ULL << 32 | 0x4062, false), 0);
	assert_int_equal(kvm_get_msr(v, 0x830, &val, false), 0);
	assert_int_equal(val, 2ULL << 32 | 0x4062);
	assert_int_equal(take(v), 0x62);
	/* The page has gone with the mode. */
	assert_int_not_equal(kvm_io_bus_read(v, KVM_MMIO_BUS, 0xfee00020, 4, &val), 0);
}

static void test_lapic_timer(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];

	lapics_on(rig);
	lapic_write(v, TDCR, 0xb); /* divide by 1: the count is in nanoseconds */
	lapic_write(v, LVTT, 0x40);
	lapic_write(v, TMICT, 300000000);
	assert_in_range(lapic_read(v, TMCCT), 1, 300000000);
	assert_int_equal(take(v), -1);
	assert_int_equal(wait_take(v), 0x40);
	lapic_write(v, EOI, 0);
	assert_int_equal(lapic_read(v, TMCCT), 0);
	lapic_write(v, LVTT, 0x20041); /* periodic */
	lapic_write(v, TMICT, 1000000);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(wait_take(v), 0x41);
		lapic_write(v, EOI, 0);
	}
	lapic_write(v, TMICT, 0);
	take(v);
	lapic_write(v, EOI, 0);
	usleep(3000);
	assert_int_equal(take(v), -1);
	lapic_write(v, LVTT, 0x10042); /* masked: it runs out silently */
	lapic_write(v, TMICT, 1000000);
	usleep(3000);
	assert_int_equal(lapic_read(v, TMCCT), 0);
	assert_int_equal(take(v), -1);
}

/* A halted vCPU is woken by its own timer at first hand: also when nobody else looks after timers.
 */
static void test_timer_ends_halt(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];
	u32 seen;

	lapics_on(rig);
	helper_stop(rig->kvm);
	lapic_write(v, TDCR, 0xb);
	lapic_write(v, LVTT, 0x40);
	assert_int_equal(kvm_lapic_timer_deadline(v), 0);
	seen = v->arch->wake;
	lapic_write(v, TMICT, 2000000);
	assert_int_not_equal(kvm_lapic_timer_deadline(v), 0);
	kvm_lapic_timer_due(v); /* not yet, unless this thread was away for long */
	kvm_vcpu_halt(v, seen);
	assert_int_equal(take(v), 0x40);
	assert_int_equal(kvm_lapic_timer_deadline(v), 0);
	lapic_write(v, EOI, 0);
	lapic_write(v, LVTT, 0x20041); /* periodic: it goes on by itself */
	lapic_write(v, TMICT, 1000000);
	for (int i = 0; i < 3; i++) {
		kvm_vcpu_halt(v, v->arch->wake);
		assert_int_equal(take(v), 0x41);
		lapic_write(v, EOI, 0);
	}
	lapic_write(v, TMICT, 0);
	/* A kick comes before a timer that is far. */
	lapic_write(v, LVTT, 0x42);
	lapic_write(v, TMICT, ~0u);
	kvm_vcpu_kick(v);
	kvm_vcpu_halt(v, v->arch->wake - 1);
	assert_int_equal(take(v), -1);
	assert_int_not_equal(kvm_lapic_timer_deadline(v), 0);
}

static void test_tsc_deadline(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];
	u64 now, val;

	lapics_on(rig);
	lapic_write(v, LVTT, 0x40043);
	now = kvm_read_tsc(v);
	assert_int_equal(kvm_set_msr(v, 0x6e0, now + v->arch->tsc_khz, false), 0);
	assert_int_equal(kvm_get_msr(v, 0x6e0, &val, false), 0);
	assert_int_equal(wait_take(v), 0x43);
	assert_true(kvm_read_tsc(v) >= now + v->arch->tsc_khz);
	assert_int_equal(kvm_get_msr(v, 0x6e0, &val, false), 0);
	assert_int_equal(val, 0); /* disarmed by expiry */
	lapic_write(v, EOI, 0);
	assert_int_equal(kvm_set_msr(v, 0x6e0, 1, false), 0); /* in the past: at once */
	assert_int_equal(take(v), 0x43);
	lapic_write(v, EOI, 0);
	assert_int_equal(kvm_set_msr(v, 0x6e0, ~0ULL, false), 0); /* never */
	assert_int_equal(kvm_set_msr(v, 0x6e0, 0, false), 0);
	/* In another mode the register reads 0 and drops writes. */
	lapic_write(v, LVTT, 0x43);
	assert_int_equal(kvm_set_msr(v, 0x6e0, 1, false), 0);
	assert_int_equal(kvm_get_msr(v, 0x6e0, &val, false), 0);
	assert_int_equal(val, 0);
	assert_int_equal(take(v), -1);
}

static void test_lapic_state(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];
	struct kvm_lapic_state s;
	u32 word;

	lapics_on(rig);
	lapic_write(v, ICR, 0x44071);
	lapic_write(v, TPR, 0x20);
	kvm_lapic_get(v, &s);
	memcpy(&word, s.regs + IRR + 0x30, 4);
	assert_int_equal(word, 1u << 17);
	kvm_lapic_reset(v, false);
	assert_int_equal(take(v), -1);
	assert_int_equal(kvm_lapic_set(v, &s), 0);
	assert_int_equal(lapic_read(v, TPR), 0x20);
	assert_int_equal(take(v), 0x71);
	assert_int_equal(lapic_read(v, ISR + 0x30), 1u << 17);
}

/* ---- IOAPIC ---- */

#define LEVEL  (1ULL << 15)
#define MASKED (1ULL << 16)
#define RIRR   (1u << 14)

static void gsi(struct chip_rig *rig, u32 n, int level)
{
	kvm_set_irq(rig->kvm, IRQ_SOURCE_USER, n, level);
}

static void test_ioapic_registers(void **state)
{
	struct chip_rig *rig = *state;

	assert_int_equal(ioapic_read(rig, 1), 23 << 16 | 0x11);
	ioapic_write(rig, 0, 0xff000000);
	assert_int_equal(ioapic_read(rig, 0), 0x0f000000);
	assert_int_equal(ioapic_read(rig, 0x10), MASKED);
	ioapic_entry(rig, 3, 0x0200000000000000 | RIRR | 0x31); /* remote IRR is read only */
	assert_int_equal(ioapic_read(rig, 0x16), 0x31);
	assert_int_equal(ioapic_read(rig, 0x17), 0x02000000);
	ioapic_write(rig, 0x40, 5); /* past the table */
}

static void test_ioapic_edge(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[1];

	lapics_on(rig);
	ioapic_entry(rig, 17, 1ULL << 56 | 0x41);
	gsi(rig, 17, 1);
	gsi(rig, 17, 1);
	assert_int_equal(take(v), 0x41);
	lapic_write(v, EOI, 0);
	assert_int_equal(take(v), -1); /* still high: no new edge */
	gsi(rig, 17, 0);
	gsi(rig, 17, 1);
	assert_int_equal(take(v), 0x41);
	lapic_write(v, EOI, 0);
	gsi(rig, 17, 0);
	ioapic_entry(rig, 17, 1ULL << 56 | MASKED | 0x41);
	gsi(rig, 17, 1); /* an edge while masked is lost */
	ioapic_entry(rig, 17, 1ULL << 56 | 0x41);
	assert_int_equal(take(v), -1);
}

static void test_ioapic_level(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[2];

	lapics_on(rig);
	ioapic_entry(rig, 20, 2ULL << 56 | LEVEL | 0x51);
	gsi(rig, 20, 1);
	assert_int_equal(take(v), 0x51);
	assert_int_equal(lapic_read(v, TMR + 0x20) >> 17 & 1, 1);
	assert_int_equal(ioapic_read(rig, 0x10 + 40) & RIRR, RIRR);
	gsi(rig, 20, 0);
	gsi(rig, 20, 1); /* while in service nothing is sent */
	assert_int_equal(lapic_read(v, IRR + 0x20), 0);
	lapic_write(v, EOI, 0); /* still high: again */
	assert_int_equal(take(v), 0x51);
	gsi(rig, 20, 0);
	lapic_write(v, EOI, 0);
	assert_int_equal(take(v), -1);
	assert_int_equal(ioapic_read(rig, 0x10 + 40) & RIRR, 0);
	/* High while masked, sent when unmasked. */
	ioapic_entry(rig, 20, 2ULL << 56 | LEVEL | MASKED | 0x51);
	gsi(rig, 20, 1);
	assert_int_equal(take(v), -1);
	ioapic_entry(rig, 20, 2ULL << 56 | LEVEL | 0x51);
	assert_int_equal(take(v), 0x51);
	gsi(rig, 20, 0);
	lapic_write(v, EOI, 0);
}

/* An interrupt without end leaves the guest time, and goes on. */
static void test_ioapic_storm(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[1];
	int given = 0;

	lapics_on(rig);
	ioapic_entry(rig, 20, 1ULL << 56 | LEVEL | 0x51);
	gsi(rig, 20, 1);
	for (int storm = 0; storm < 2; storm++) {
		assert_int_equal(wait_take(v), 0x51);
		for (given = 1; given < 20000; given++) {
			lapic_write(v, EOI, 0);
			if (take(v) != 0x51)
				break;
		}
		assert_int_equal(given, 10000);
		assert_int_equal(ioapic_read(rig, 0x10 + 40) & RIRR, 0);
	}
	/* Let go in the pause: nothing comes after it. */
	gsi(rig, 20, 0);
	usleep(30000);
	assert_int_equal(take(v), -1);
	gsi(rig, 20, 1);
	assert_int_equal(take(v), 0x51);
	gsi(rig, 20, 0);
	lapic_write(v, EOI, 0);
}

/* A line is high while anyone holds it. */
static void test_ioapic_sources(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];

	lapics_on(rig);
	ioapic_entry(rig, 21, LEVEL | 0x61);
	kvm_set_irq(rig->kvm, IRQ_SOURCE_USER, 21, 1);
	kvm_set_irq(rig->kvm, IRQ_SOURCE_RESAMPLE, 21, 1);
	assert_int_equal(take(v), 0x61);
	kvm_set_irq(rig->kvm, IRQ_SOURCE_USER, 21, 0);
	lapic_write(v, EOI, 0);
	assert_int_equal(take(v), 0x61);
	kvm_set_irq(rig->kvm, IRQ_SOURCE_RESAMPLE, 21, 0);
	lapic_write(v, EOI, 0);
	assert_int_equal(take(v), -1);
}

static void test_msi(void **state)
{
	struct chip_rig *rig = *state;

	lapics_on(rig);
	assert_int_equal(kvm_set_msi(rig->kvm, 0xfee03000, 0, 0x4071), 1);
	assert_int_equal(receivers(rig, 0x71), 1u << 3);
	assert_int_equal(kvm_set_msi(rig->kvm, 0xfee09000, 0, 0x4071), -1); /* nobody */
	assert_int_equal(kvm_set_msi(rig->kvm, 0xfeeff000, 0, 0x72), 4);
	assert_int_equal(receivers(rig, 0x72), 0xf);
}

/* ---- PIC ---- */

static void pic_init(struct chip_rig *rig)
{
	static const u8 base[] = {0x20, 0x28};

	for (u16 i = 0; i < 2; i++) {
		u16 port = i ? 0xa0 : 0x20;

		port_write(rig, port, 0x11);
		port_write(rig, port + 1, base[i]);
		port_write(rig, port + 1, i ? 2 : 4);
		port_write(rig, port + 1, 1);
		port_write(rig, port + 1, 0);
	}
	/* As without an IOAPIC's entries: only the PIC answers. */
}

static void test_pic_priorities(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];

	pic_init(rig);
	gsi(rig, 4, 1);
	gsi(rig, 1, 1);
	gsi(rig, 10, 1);
	assert_int_equal(port_read(rig, 0x20), 0x16); /* IRR: 1, 2 (cascade), 4 */
	assert_int_equal(take(v), 0x21);
	assert_int_equal(take(v), -1); /* lower ones wait for the end of 1 */
	port_write(rig, 0x20, 0x0b);
	assert_int_equal(port_read(rig, 0x20), 0x02); /* ISR */
	port_write(rig, 0x20, 0x20);
	assert_int_equal(take(v), 0x2a); /* 10, by the slave */
	port_write(rig, 0xa0, 0x20);
	port_write(rig, 0x20, 0x20);
	assert_int_equal(take(v), 0x24);
	port_write(rig, 0x20, 0x64); /* specific end of 4 */
	assert_int_equal(take(v), -1);
	port_write(rig, 0x21, 0x02);
	gsi(rig, 1, 0);
	gsi(rig, 1, 1); /* masked, but remembered */
	assert_int_equal(take(v), -1);
	port_write(rig, 0x21, 0);
	assert_int_equal(take(v), 0x21);
	port_write(rig, 0x20, 0x20);
}

static void test_pic_level(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];

	pic_init(rig);
	port_write(rig, 0x4d0, 0xff);
	port_write(rig, 0x4d1, 0xff);
	assert_int_equal(port_read(rig, 0x4d0), 0xf8); /* 0, 1 and 2 are always edges */
	assert_int_equal(port_read(rig, 0x4d1), 0xde); /* 8 and 13 too */
	gsi(rig, 11, 1);
	assert_int_equal(take(v), 0x2b);
	port_write(rig, 0xa0, 0x20);
	port_write(rig, 0x20, 0x20);
	assert_int_equal(take(v), 0x2b); /* still high */
	gsi(rig, 11, 0);
	port_write(rig, 0xa0, 0x20);
	port_write(rig, 0x20, 0x20);
	assert_int_equal(take(v), -1);
	/* One that goes before it is acknowledged leaves nothing. */
	gsi(rig, 5, 1);
	gsi(rig, 5, 0);
	assert_int_equal(take(v), -1);
	/* An INTA without a request gets pin 7. */
	assert_int_equal(kvm_pic_read_irq(rig->kvm), 0x27);
}

static void test_pic_modes(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];

	pic_init(rig);
	port_write(rig, 0x20, 0xc3); /* 3 is lowest: 4 is first */
	gsi(rig, 3, 1);
	gsi(rig, 4, 1);
	assert_int_equal(take(v), 0x24);
	port_write(rig, 0x20, 0xa0); /* end and rotate: now 4 is lowest */
	gsi(rig, 4, 0);
	gsi(rig, 4, 1);
	gsi(rig, 3, 0);
	gsi(rig, 3, 1);
	assert_int_equal(take(v), 0x23);
	port_write(rig, 0x20, 0x20);
	assert_int_equal(take(v), 0x24);
	/* Special mask: a masked one in service does not hold back those below. */
	gsi(rig, 5, 1);
	assert_int_equal(take(v), 0x25);
	gsi(rig, 7, 1);
	assert_int_equal(take(v), -1);
	port_write(rig, 0x21, 0x30);
	port_write(rig, 0x20, 0x68);
	assert_int_equal(take(v), 0x27);
	/* Poll: the read acknowledges. */
	pic_init(rig);
	gsi(rig, 6, 1);
	port_write(rig, 0x20, 0x0c);
	assert_int_equal(port_read(rig, 0x20), 0x86);
	port_write(rig, 0x20, 0x0b);
	assert_int_equal(port_read(rig, 0x20), 0x40);
	/* Automatic end of interrupt. */
	pic_init(rig);
	port_write(rig, 0x20, 0x11);
	port_write(rig, 0x21, 0x30);
	port_write(rig, 0x21, 4);
	port_write(rig, 0x21, 3);
	gsi(rig, 3, 0);
	gsi(rig, 3, 1);
	assert_int_equal(take(v), 0x33);
	port_write(rig, 0x20, 0x0b);
	assert_int_equal(port_read(rig, 0x20), 0);
}

/* The PIC reaches the CPU through LINT0, where that is ExtINT and open. */
static void test_pic_and_lint0(void **state)
{
	struct chip_rig *rig = *state;

	pic_init(rig);
	gsi(rig, 3, 1);
	assert_true(kvm_cpu_has_interrupt(rig->vcpu[0]));
	assert_false(kvm_cpu_has_interrupt(rig->vcpu[1]));
	lapics_on(rig);
	lapic_write(rig->vcpu[0], LVT0, 0x10700);
	assert_false(kvm_cpu_has_interrupt(rig->vcpu[0]));
	lapic_write(rig->vcpu[1], LVT0, 0x700);
	assert_int_equal(take(rig->vcpu[1]), 0x23);
}

static void test_irqchip_state(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_irqchip pic = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
	struct kvm_irqchip io = {.chip_id = KVM_IRQCHIP_IOAPIC};

	pic_init(rig);
	lapics_on(rig);
	ioapic_entry(rig, 20, LEVEL | MASKED | 0x51);
	gsi(rig, 20, 1);
	gsi(rig, 6, 1);
	assert_int_equal(kvm_get_irqchip(rig->kvm, &pic), 0);
	assert_int_equal(kvm_get_irqchip(rig->kvm, &io), 0);
	assert_int_equal(pic.chip.pic.irr, 0x40);
	assert_int_equal(io.chip.ioapic.irr, 1u << 20 | 1u << 6);
	/* What pends in the restored state is sent. */
	io.chip.ioapic.redirtbl[20].fields.mask = 0;
	assert_int_equal(kvm_set_irqchip(rig->kvm, &io), 0);
	lapic_write(rig->vcpu[0], LVT0, 0x10000);
	assert_int_equal(take(rig->vcpu[0]), 0x51);
}

/* ---- PIT ---- */

static u16 pit_count(struct chip_rig *rig, u32 channel)
{
	u16 low;

	port_write(rig, 0x43, (u8)(channel << 6)); /* latch */
	low = port_read(rig, (u16)(0x40 + channel));
	return (u16)(low | port_read(rig, (u16)(0x40 + channel)) << 8);
}

static void pit_load(struct chip_rig *rig, u32 channel, u32 mode, u16 count)
{
	port_write(rig, 0x43, (u8)(channel << 6 | 0x30 | mode << 1));
	port_write(rig, (u16)(0x40 + channel), (u8)count);
	port_write(rig, (u16)(0x40 + channel), (u8)(count >> 8));
}

static void test_pit_counts(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_pit_state2 before, after;
	u16 first;

	pit_load(rig, 0, 2, 0xffff);
	first = pit_count(rig, 0);
	for (int i = 0; i < 1000 && pit_count(rig, 0) == first; i++)
		usleep(100);
	assert_int_not_equal(pit_count(rig, 0), first);
	/* A latch holds until it is read; another one meanwhile does nothing. */
	port_write(rig, 0x43, 0x00);
	kvm_pit_get(rig->kvm, &before);
	usleep(1000);
	port_write(rig, 0x43, 0x00);
	kvm_pit_get(rig->kvm, &after);
	assert_int_equal(before.channels[0].latched_count, after.channels[0].latched_count);
	assert_int_equal(port_read(rig, 0x40), before.channels[0].latched_count & 0xff);
	assert_int_equal(port_read(rig, 0x40), before.channels[0].latched_count >> 8);
	/* Low byte only, high byte only. */
	port_write(rig, 0x43, 0x14);
	port_write(rig, 0x40, 100);
	assert_in_range(port_read(rig, 0x40), 1, 100);
	/* The read-back command: status of channel 0, mode 2, low byte. */
	port_write(rig, 0x43, 0xe2);
	assert_int_equal(port_read(rig, 0x40) & 0x3f, 0x14);
}

static void test_pit_output(void **state)
{
	struct chip_rig *rig = *state;

	port_write(rig, 0x61, 1); /* gate of channel 2 */
	pit_load(rig, 2, 0, 0);	  /* 55 ms */
	for (int i = 0; i < 10 && port_read(rig, 0x61) & 0x20; i++)
		pit_load(rig, 2, 0, 0); /* this thread was away for longer */
	assert_int_equal(port_read(rig, 0x61) & 0x23, 0x01);
	for (int i = 0; i < 10000 && !(port_read(rig, 0x61) & 0x20); i++)
		usleep(1000);
	assert_int_equal(port_read(rig, 0x61) & 0x20, 0x20);
	port_write(rig, 0x61, 2);
	assert_int_equal(port_read(rig, 0x61) & 3, 2);
}

static int wait_irq0(struct chip_rig *rig)
{
	int vector = wait_take(rig->vcpu[0]);

	port_write(rig, 0x20, 0x20);
	return vector;
}

static void test_pit_interrupts(void **state)
{
	struct chip_rig *rig = *state;
	u64 *count = &rig->kvm->arch->stat->timer_expiries, start;

	pic_init(rig);
	pit_load(rig, 0, 0, 1193); /* once */
	assert_int_equal(wait_irq0(rig), 0x20);
	usleep(3000);
	assert_int_equal(take(rig->vcpu[0]), -1);
	pit_load(rig, 0, 2, 1193);
	for (int i = 0; i < 5; i++)
		assert_int_equal(wait_irq0(rig), 0x20);
	/* Ticks that were not taken in time are given one after the other. */
	start = __atomic_load_n(count, __ATOMIC_RELAXED);
	for (int i = 0; i < 10000 && __atomic_load_n(count, __ATOMIC_RELAXED) < start + 12; i++)
		usleep(1000);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(take(rig->vcpu[0]), 0x20);
		port_write(rig, 0x20, 0x20);
	}
	/* Without reinjection they are lost. */
	kvm_pit_set_reinject(rig->kvm, false);
	pit_load(rig, 0, 0, 1193);
	assert_int_equal(wait_irq0(rig), 0x20);
	assert_int_equal(take(rig->vcpu[0]), -1);
}

/* Through the IOAPIC the acknowledgement is the LAPIC's EOI of an edge-triggered vector. */
static void test_pit_by_ioapic(void **state)
{
	struct chip_rig *rig = *state;
	struct kvm_vcpu *v = rig->vcpu[0];

	lapics_on(rig);
	lapic_write(v, LVT0, 0x10000);
	port_write(rig, 0x21, 0xff);
	ioapic_entry(rig, 0, 0x30);
	pit_load(rig, 0, 2, 1193);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(wait_take(v), 0x30);
		lapic_write(v, EOI, 0);
	}
	/* Masked for a while: the clock does not stop for good. */
	ioapic_entry(rig, 0, MASKED | 0x30);
	usleep(5000);
	ioapic_entry(rig, 0, 0x30);
	assert_int_equal(wait_take(v), 0x30);
}

#define T(name) cmocka_unit_test_setup_teardown(name, chip_setup, chip_teardown)

int main(void)
{
	const struct CMUnitTest chips[] = {
		T(test_lapic_reset),
		T(test_lapic_priorities),
		T(test_lapic_destinations),
		T(test_lapic_init_and_startup),
		T(test_x2apic),
		T(test_lapic_timer),
		T(test_timer_ends_halt),
		T(test_tsc_deadline),
		T(test_lapic_state),
		T(test_ioapic_registers),
		T(test_ioapic_edge),
		T(test_ioapic_level),
		T(test_ioapic_storm),
		T(test_ioapic_sources),
		T(test_msi),
		T(test_pic_priorities),
		T(test_pic_level),
		T(test_pic_modes),
		T(test_pic_and_lint0),
		T(test_irqchip_state),
		T(test_pit_counts),
		T(test_pit_output),
		T(test_pit_interrupts),
		T(test_pit_by_ioapic),
	};

	return cmocka_run_group_tests(chips, NULL, NULL);
}
