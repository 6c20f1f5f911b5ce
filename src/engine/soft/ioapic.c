/*
 * The 82093AA I/O APIC, as KVM gives it: 24 pins, version 0x11. Its data sheet; Intel
 * MultiProcessor Specification. A level-triggered pin whose line stays high after EOI interrupts
 * again.
 *
 * Invariant: everything here is under irq_lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"
#include "os/clock.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000ULL
#define IOAPIC_LEN	    0x100
#define REG_SELECT	    0x00
#define REG_WINDOW	    0x10
#define INDEX_ID	    0x00
#define INDEX_VERSION	    0x01
#define INDEX_ARBITRATION   0x02
#define INDEX_TABLE	    0x10
#define IOAPIC_VERSION	    0x11u
#define STORM		    10000u
#define STORM_PAUSE_NS	    (10 * NSEC_PER_MSEC)

#define ENTRY_MASKED	 (1ULL << 16)
#define ENTRY_LEVEL	 (1ULL << 15)
#define ENTRY_REMOTE_IRR (1ULL << 14)
#define ENTRY_STATUS	 (1ULL << 12) /* delivery status: read only, always idle here */
#define ENTRY_READ_ONLY	 (ENTRY_REMOTE_IRR | ENTRY_STATUS)

struct kvm_ioapic {
	struct io_device dev; /* first: kvm_irqchip_free() */
	struct kvm_ioapic_state state;
	u8 sources[KVM_IOAPIC_PINS]; /* bits IRQ_SOURCE_* that hold the line up */
	u16 again[KVM_IOAPIC_PINS];  /* EOIs in a row that found the line up */
	u32 paused;		     /* pins that wait for the timer */
	struct kvm_timer timer;
	u64 vectors[4]; /* of the table's entries; read atomically without the lock */
};

/* Send pin's message. As kvm_deliver_irq(); -1 when masked. */
static int service(struct kvm *kvm, u32 pin)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;
	__u64 *entry = &ioapic->state.redirtbl[pin].bits;
	struct lapic_irq irq = {
		.vector = (u8)*entry,
		.delivery_mode = *entry >> 8 & 7,
		.logical = *entry >> 11 & 1,
		.level_triggered = !!(*entry & ENTRY_LEVEL),
		.assert = true,
		.dest = (u32)(*entry >> 56),
	};
	int rc;

	if (*entry & ENTRY_MASKED)
		return -1;
	rc = kvm_deliver_irq(kvm, &irq);
	if (rc > 0 && irq.level_triggered)
		*entry |= ENTRY_REMOTE_IRR;
	return rc;
}

int kvm_ioapic_set_irq_locked(struct kvm *kvm, u32 pin, enum irq_source source, int level)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;
	u64 entry = ioapic->state.redirtbl[pin].bits;
	u32 bit = 1u << pin, old = ioapic->state.irr;
	u8 holder = (u8)(1u << source);

	if (level)
		ioapic->sources[pin] |= holder;
	else
		ioapic->sources[pin] &= (u8)~holder;
	if (!ioapic->sources[pin]) {
		ioapic->state.irr &= ~bit;
		return 1;
	}
	if (!level)
		return 1; /* another source still holds it */
	ioapic->state.irr |= bit;
	if (entry & ENTRY_LEVEL ? !!(entry & ENTRY_REMOTE_IRR) : !!(old & bit))
		return 0;
	return service(kvm, pin);
}

static void eoi_pin(struct kvm *kvm, u32 pin)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;
	__u64 *entry = &ioapic->state.redirtbl[pin].bits;

	/* The line may go down here: resampling sources let go, and may pull again later. */
	kvm_notify_acked_locked(kvm, KVM_IRQCHIP_IOAPIC, pin);
	if (!(*entry & ENTRY_LEVEL))
		return;
	*entry &= ~ENTRY_REMOTE_IRR;
	if (!(ioapic->state.irr & 1u << pin)) {
		ioapic->again[pin] = 0;
	} else if (++ioapic->again[pin] < STORM) {
		service(kvm, pin);
	} else {
		ioapic->again[pin] = 0;
		if (!ioapic->paused)
			kvm_timer_arm(&ioapic->timer, clock_now_ns() + STORM_PAUSE_NS);
		ioapic->paused |= 1u << pin;
	}
}

/* The helper's thread. What came in another way meanwhile has its remote IRR set. */
static void end_pause(struct kvm_timer *timer)
{
	struct kvm *kvm = timer->kvm;
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	for (u32 pin = 0; pin < KVM_IOAPIC_PINS; pin++) {
		u64 entry = ioapic->state.redirtbl[pin].bits;

		if ((ioapic->paused & ioapic->state.irr) >> pin & 1 && (entry & ENTRY_LEVEL) &&
		    !(entry & ENTRY_REMOTE_IRR))
			service(kvm, pin);
	}
	ioapic->paused = 0;
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}

void kvm_ioapic_eoi(struct kvm *kvm, u8 vector)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	for (u32 pin = 0; pin < KVM_IOAPIC_PINS; pin++)
		if ((u8)ioapic->state.redirtbl[pin].bits == vector)
			eoi_pin(kvm, pin);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}

bool kvm_ioapic_handles(struct kvm *kvm, u8 vector)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;

	return ioapic &&
	       (__atomic_load_n(&ioapic->vectors[vector / 64], __ATOMIC_RELAXED) >> vector % 64 &
		1);
}

static void collect_vectors(struct kvm_ioapic *ioapic)
{
	u64 vectors[4] = {0};

	for (u32 pin = 0; pin < KVM_IOAPIC_PINS; pin++)
		bitmap_set(vectors, (u8)ioapic->state.redirtbl[pin].bits);
	for (u32 i = 0; i < 4; i++)
		__atomic_store_n(&ioapic->vectors[i], vectors[i], __ATOMIC_RELAXED);
}

/* ---- registers ---- */

static u32 read_window(const struct kvm_ioapic_state *s)
{
	u32 index = s->ioregsel, pin = (index - INDEX_TABLE) / 2;

	switch (index) {
	case INDEX_ID:
	case INDEX_ARBITRATION:
		return (s->id & 0xf) << 24;
	case INDEX_VERSION:
		return (KVM_IOAPIC_PINS - 1) << 16 | IOAPIC_VERSION;
	}
	if (index < INDEX_TABLE || pin >= KVM_IOAPIC_PINS)
		return index < INDEX_TABLE ? 0 : ~0u;
	return (u32)(s->redirtbl[pin].bits >> (index & 1 ? 32 : 0));
}

static void write_entry(struct kvm *kvm, u32 pin, bool high, u32 val)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;
	__u64 *entry = &ioapic->state.redirtbl[pin].bits;
	bool was_masked = *entry & ENTRY_MASKED;

	if (high) {
		*entry = (*entry & 0xffffffff) | (u64)val << 32;
	} else {
		u64 writable = 0x1ffff & ~ENTRY_READ_ONLY;

		*entry = (*entry & ~writable) | (val & writable);
		/* An edge-triggered pin has no remote IRR; Linux clears a stuck one this way. */
		if (!(*entry & ENTRY_LEVEL))
			*entry &= ~ENTRY_REMOTE_IRR;
		collect_vectors(ioapic);
	}
	if (was_masked && !(*entry & ENTRY_MASKED))
		kvm_notify_unmasked_locked(kvm, KVM_IRQCHIP_IOAPIC, pin);
	if ((*entry & ENTRY_LEVEL) && !(*entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) &&
	    (ioapic->state.irr & 1u << pin))
		service(kvm, pin);
}

static void write_window(struct kvm *kvm, u32 val)
{
	struct kvm_ioapic_state *s = &kvm->arch->ioapic->state;
	u32 index = s->ioregsel, pin = (index - INDEX_TABLE) / 2;

	if (index == INDEX_ID)
		s->id = val >> 24 & 0xf;
	else if (index >= INDEX_TABLE && pin < KVM_IOAPIC_PINS)
		write_entry(kvm, pin, index & 1, val);
}

static int ioapic_read(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len, void *val)
{
	struct kvm *kvm = vcpu->kvm;
	struct kvm_ioapic_state *s = &kvm->arch->ioapic->state;
	u32 word = 0;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	if ((addr & 0xff) == REG_SELECT)
		word = s->ioregsel;
	else if ((addr & 0xff) == REG_WINDOW)
		word = read_window(s);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	memset(val, 0, len);
	memcpy(val, &word, min(len, 4u));
	return 0;
}

static int ioapic_write(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len,
			const void *val)
{
	struct kvm *kvm = vcpu->kvm;
	u32 word = (u32)load_le(val, min(len, 4u) == 3 ? 2 : min(len, 4u));

	pthread_mutex_lock(&kvm->arch->irq_lock);
	if ((addr & 0xff) == REG_SELECT)
		kvm->arch->ioapic->state.ioregsel = word & 0xff;
	else if ((addr & 0xff) == REG_WINDOW)
		write_window(kvm, word);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return 0;
}

static const struct io_device_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write};

int kvm_ioapic_init(struct kvm *kvm)
{
	struct kvm_ioapic *ioapic = calloc(1, sizeof(*ioapic));

	if (!ioapic)
		return -ENOMEM;
	ioapic->dev.ops = &ioapic_ops;
	ioapic->state.base_address = IOAPIC_DEFAULT_BASE;
	for (u32 pin = 0; pin < KVM_IOAPIC_PINS; pin++)
		ioapic->state.redirtbl[pin].bits = ENTRY_MASKED;
	collect_vectors(ioapic);
	kvm_timer_init(kvm, &ioapic->timer, end_pause);
	kvm->arch->ioapic = ioapic;
	return kvm_io_bus_register(kvm, KVM_MMIO_BUS, IOAPIC_DEFAULT_BASE, IOAPIC_LEN,
				   &ioapic->dev);
}

void kvm_ioapic_stop(struct kvm *kvm)
{
	if (kvm->arch->ioapic)
		kvm_timer_disarm_sync(&kvm->arch->ioapic->timer);
}

void kvm_ioapic_get_locked(struct kvm *kvm, struct kvm_ioapic_state *state)
{
	*state = kvm->arch->ioapic->state;
}

void kvm_ioapic_set_locked(struct kvm *kvm, const struct kvm_ioapic_state *state)
{
	struct kvm_ioapic *ioapic = kvm->arch->ioapic;

	ioapic->state = *state;
	ioapic->state.base_address = IOAPIC_DEFAULT_BASE; /* where the bus has it */
	ioapic->state.irr &= (u32)MASK(KVM_IOAPIC_PINS - 1, 0);
	collect_vectors(ioapic);
	for (u32 pin = 0; pin < KVM_IOAPIC_PINS; pin++) {
		ioapic->sources[pin] = ioapic->state.irr >> pin & 1 ? 1u << IRQ_SOURCE_USER : 0;
		/* What was pending when it was saved is sent now. */
		if (ioapic->sources[pin] && !(ioapic->state.redirtbl[pin].bits & ENTRY_REMOTE_IRR))
			service(kvm, pin);
	}
}
