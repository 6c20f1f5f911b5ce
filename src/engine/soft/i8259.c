/*
 * A pair of 8259A interrupt controllers, cascaded on pin 2, with the PIIX3 edge/level registers
 * (0x4d0, 0x4d1). Intel 8259A data sheet. State is in struct kvm_pic_state, the user's format.
 *
 * Invariants: everything is under irq_lock, but `output`, which is read anywhere, atomically.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"

struct kvm_pic {
	struct io_device dev; /* first: kvm_irqchip_free() */
	struct kvm_pic_state chip[2];
	u8 sources[16];
	u32 output; /* INTR of the master, atomic */
};

/* Pins that can be level-triggered: not timer, keyboard, cascade; not RTC, coprocessor. */
static const u8 elcr_masks[2] = {0xf8, 0xde};

/* Highest of a set of pins: 0 is the pin whose turn is first. 8: none. */
static u32 first_by_priority(const struct kvm_pic_state *s, u8 pins)
{
	u32 n = 0;

	if (!pins)
		return 8;
	while (!(pins >> ((n + s->priority_add) & 7) & 1))
		n++;
	return n;
}

/* The pin that asks and may be served now, or -1. */
static int pic_pending(const struct kvm_pic *pic, u32 which)
{
	const struct kvm_pic_state *s = &pic->chip[which];
	u32 asks = first_by_priority(s, s->irr & (u8)~s->imr), served;
	u8 isr = s->isr;

	if (asks == 8)
		return -1;
	if (s->special_mask)
		isr &= (u8)~s->imr;
	/* In special fully nested mode the master lets the slave interrupt again. */
	if (s->special_fully_nested_mode && !which)
		isr &= (u8)~4u;
	served = first_by_priority(s, isr);
	return asks < served ? (int)((asks + s->priority_add) & 7) : -1;
}

/* Carry the slave's request to the master's pin 2, and the master's to the CPU. */
static void update_output(struct kvm *kvm)
{
	struct kvm_pic *pic = kvm->arch->pic;
	struct kvm_vcpu *vcpu;
	u32 out, i;

	if (pic_pending(pic, 1) >= 0)
		pic->chip[0].irr |= 1u << 2;
	else
		pic->chip[0].irr &= (u8) ~(1u << 2);
	out = pic_pending(pic, 0) >= 0;
	if (out == __atomic_exchange_n(&pic->output, out, __ATOMIC_ACQ_REL) || !out)
		return;
	kvm_for_each_vcpu(i, vcpu, kvm)
	{
		if (!kvm_apic_accept_pic_intr(vcpu))
			continue;
		kvm_make_request(vcpu, KVM_REQ_EVENT);
		kvm_vcpu_kick(vcpu);
		return;
	}
}

/* Level on an input: a request while it is high (level), or once it rises (edge). An edge that
 * falls before it is served still counts: sources pulse their lines. */
static void set_pin(struct kvm_pic_state *s, u32 pin, bool level)
{
	u8 bit = (u8)(1u << pin);

	if (level && (s->elcr & bit || !(s->last_irr & bit)))
		s->irr |= bit;
	else if (!level && (s->elcr & bit))
		s->irr &= (u8)~bit;
	if (level)
		s->last_irr |= bit;
	else
		s->last_irr &= (u8)~bit;
}

int kvm_pic_set_irq_locked(struct kvm *kvm, u32 pin, enum irq_source source, int level)
{
	struct kvm_pic *pic = kvm->arch->pic;
	struct kvm_pic_state *s = &pic->chip[pin / 8];
	u8 holder = (u8)(1u << source), before = s->irr;

	if (level)
		pic->sources[pin] |= holder;
	else
		pic->sources[pin] &= (u8)~holder;
	set_pin(s, pin % 8, pic->sources[pin] != 0);
	update_output(kvm);
	if (s->imr >> pin % 8 & 1)
		return -1;
	/* A rise that changed nothing was merged with one that waits. */
	return !(level && before == s->irr && (before >> pin % 8 & 1));
}

bool kvm_pic_output(struct kvm *kvm)
{
	return kvm->arch->pic && __atomic_load_n(&kvm->arch->pic->output, __ATOMIC_ACQUIRE);
}

/* ---- acknowledge ---- */

static void clear_isr(struct kvm *kvm, u32 which, u32 pin)
{
	kvm->arch->pic->chip[which].isr &= (u8) ~(1u << pin);
	kvm_notify_acked_locked(kvm, which, pin);
}

static void acknowledge(struct kvm *kvm, u32 which, u32 pin)
{
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];

	s->isr |= (u8)(1u << pin);
	if (!(s->elcr & 1u << pin))
		s->irr &= (u8) ~(1u << pin);
	if (!s->auto_eoi)
		return;
	if (s->rotate_on_auto_eoi)
		s->priority_add = (pin + 1) & 7;
	clear_isr(kvm, which, pin);
}

/* A request that went away before its INTA is answered with pin 7, which is not in service. */
static int read_irq(struct kvm *kvm)
{
	struct kvm_pic *pic = kvm->arch->pic;
	int pin = pic_pending(pic, 0), slave;

	if (pin < 0)
		return pic->chip[0].irq_base + 7;
	acknowledge(kvm, 0, (u32)pin);
	if (pin != 2)
		return pic->chip[0].irq_base + pin;
	slave = pic_pending(pic, 1);
	if (slave < 0)
		return pic->chip[1].irq_base + 7;
	acknowledge(kvm, 1, (u32)slave);
	return pic->chip[1].irq_base + slave;
}

int kvm_pic_read_irq(struct kvm *kvm)
{
	int vector;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	vector = read_irq(kvm);
	update_output(kvm);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return vector;
}

/* ---- registers ---- */

static void initialise(struct kvm_pic_state *s, u8 icw1)
{
	u8 elcr = s->elcr, elcr_mask = s->elcr_mask, base = s->irq_base, lines = s->last_irr;

	memset(s, 0, sizeof(*s));
	s->elcr = elcr;
	s->elcr_mask = elcr_mask;
	s->irq_base = base;
	s->last_irr = lines; /* what is high needs a new edge, unless it is level-triggered */
	s->irr = lines & elcr;
	s->init4 = icw1 & 1;
	s->init_state = 1;
}

static void rotate_eoi(struct kvm *kvm, u32 which, u32 command, u32 pin)
{
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];
	u32 first;

	switch (command) {
	case 0: /* rotate in automatic EOI: off, on */
	case 4:
		s->rotate_on_auto_eoi = command >> 2;
		break;
	case 1: /* EOI of the highest in service; 5: and rotate */
	case 5:
		first = first_by_priority(s, s->isr);
		if (first == 8)
			break;
		pin = (first + s->priority_add) & 7;
		if (command == 5)
			s->priority_add = (pin + 1) & 7;
		clear_isr(kvm, which, pin);
		break;
	case 3: /* EOI of this pin; 7: and rotate */
	case 7:
		if (command == 7)
			s->priority_add = (pin + 1) & 7;
		clear_isr(kvm, which, pin);
		break;
	case 6: /* set priority */
		s->priority_add = (pin + 1) & 7;
		break;
	}
}

static void write_ocw3(struct kvm_pic_state *s, u8 val)
{
	if (val & 4)
		s->poll = 1;
	if (val & 2)
		s->read_reg_select = val & 1;
	if (val & 0x40)
		s->special_mask = val >> 5 & 1;
}

static void write_command(struct kvm *kvm, u32 which, u8 val)
{
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];

	if (val & 0x10)
		initialise(s, val);
	else if (val & 8)
		write_ocw3(s, val);
	else
		rotate_eoi(kvm, which, val >> 5, val & 7);
}

static void write_mask(struct kvm *kvm, u32 which, u8 val)
{
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];
	u8 opened = s->imr & (u8)~val;

	s->imr = val;
	for (u32 pin = 0; pin < 8; pin++)
		if (opened >> pin & 1)
			kvm_notify_unmasked_locked(kvm, which, pin);
}

static void write_data(struct kvm *kvm, u32 which, u8 val)
{
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];

	switch (s->init_state) {
	case 0:
		write_mask(kvm, which, val);
		break;
	case 1:
		s->irq_base = val & 0xf8;
		s->init_state = 2;
		break;
	case 2: /* ICW3: the cascade is wired */
		s->init_state = s->init4 ? 3 : 0;
		break;
	default:
		s->special_fully_nested_mode = val >> 4 & 1;
		s->auto_eoi = val >> 1 & 1;
		s->init_state = 0;
		break;
	}
}

/* A read after the poll command acknowledges, as INTA would. */
static u8 read_poll(struct kvm *kvm, u32 which)
{
	struct kvm_pic *pic = kvm->arch->pic;
	int pin = pic_pending(pic, which);

	pic->chip[which].poll = 0;
	if (pin < 0)
		return 7;
	acknowledge(kvm, which, (u32)pin);
	return (u8)(0x80 | pin);
}

static u8 read_port(struct kvm *kvm, u64 port)
{
	u32 which = port >> 7 & 1;
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];

	if ((port & ~1ULL) == 0x4d0)
		return kvm->arch->pic->chip[port & 1].elcr;
	if (s->poll)
		return read_poll(kvm, which);
	if (port & 1)
		return s->imr;
	return s->read_reg_select ? s->isr : s->irr;
}

static void write_port(struct kvm *kvm, u64 port, u8 val)
{
	u32 which = port >> 7 & 1;
	struct kvm_pic *pic = kvm->arch->pic;

	if ((port & ~1ULL) == 0x4d0)
		pic->chip[port & 1].elcr = val & pic->chip[port & 1].elcr_mask;
	else if (port & 1)
		write_data(kvm, which, val);
	else
		write_command(kvm, which, val);
}

static int pic_read(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len, void *val)
{
	struct kvm *kvm = vcpu->kvm;

	memset(val, 0, len);
	if (len != 1)
		return 0; /* as KVM: wider accesses do nothing */
	pthread_mutex_lock(&kvm->arch->irq_lock);
	*(u8 *)val = read_port(kvm, addr);
	update_output(kvm);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return 0;
}

static int pic_write(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len,
		     const void *val)
{
	struct kvm *kvm = vcpu->kvm;

	if (len != 1)
		return 0;
	pthread_mutex_lock(&kvm->arch->irq_lock);
	write_port(kvm, addr, *(const u8 *)val);
	update_output(kvm);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return 0;
}

static const struct io_device_ops pic_ops = {.read = pic_read, .write = pic_write};

int kvm_pic_init(struct kvm *kvm)
{
	static const u16 ports[] = {0x20, 0xa0, 0x4d0};
	struct kvm_pic *pic = calloc(1, sizeof(*pic));
	int rc = 0;

	if (!pic)
		return -ENOMEM;
	pic->dev.ops = &pic_ops;
	for (u32 i = 0; i < 2; i++)
		pic->chip[i].elcr_mask = elcr_masks[i];
	kvm->arch->pic = pic;
	for (u32 i = 0; i < ARRAY_SIZE(ports) && !rc; i++)
		rc = kvm_io_bus_register(kvm, KVM_PIO_BUS, ports[i], 2, &pic->dev);
	return rc;
}

void kvm_pic_get_locked(struct kvm *kvm, u32 which, struct kvm_pic_state *state)
{
	*state = kvm->arch->pic->chip[which];
}

void kvm_pic_set_locked(struct kvm *kvm, u32 which, const struct kvm_pic_state *state)
{
	struct kvm_pic_state *s = &kvm->arch->pic->chip[which];

	*s = *state;
	s->elcr_mask = elcr_masks[which];
	s->elcr &= s->elcr_mask;
	s->priority_add &= 7;
	update_output(kvm);
}
