/*
 * Invariants:
 * 1. regs[] is the 1 KiB register image of struct kvm_lapic_state. Its vCPU's thread owns it; the
 *    words of IRR and TMR are set by any thread, atomically, and other registers are read by any
 *    thread as single words.
 * 2. An IRR bit is set after its TMR bit has the right value, with release; the vCPU's thread
 *    clears IRR bits only.
 */
#include "engine/soft/lapic_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "engine/soft/guest_features.h"

#define SPIV_ENABLED	  (1u << 8)
#define SPIV_DIRECTED_EOI (1u << 12)
#define LVR_DIRECTED_EOI  (1u << 24)
#define APIC_VERSION	  0x50014u /* integrated, six LVT entries */
/* ---- registers ---- */

/* The word of a 256-bit register (ISR, TMR, IRR) that holds a vector. */
static u32 *vector_word(struct kvm_lapic *apic, u32 base, u8 vector)
{
	return &apic->regs[(base + (vector / 32u) * 16) / 4];
}

static bool vector_test(struct kvm_lapic *apic, u32 base, u8 vector)
{
	return (__atomic_load_n(vector_word(apic, base, vector), __ATOMIC_ACQUIRE) >>
		(vector % 32)) &
	       1;
}

/* True when it was set before. */
static bool vector_set(struct kvm_lapic *apic, u32 base, u8 vector)
{
	u32 bit = 1u << (vector % 32);

	return __atomic_fetch_or(vector_word(apic, base, vector), bit, __ATOMIC_ACQ_REL) & bit;
}

static void vector_clear(struct kvm_lapic *apic, u32 base, u8 vector)
{
	__atomic_fetch_and(vector_word(apic, base, vector), ~(1u << (vector % 32)),
			   __ATOMIC_ACQ_REL);
}

static int vector_highest(struct kvm_lapic *apic, u32 base)
{
	for (int i = 7; i >= 0; i--) {
		u32 word = __atomic_load_n(&apic->regs[(base + (u32)i * 16) / 4], __ATOMIC_ACQUIRE);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

/* ---- mode ---- */

static bool hw_enabled(const struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->apic_base, __ATOMIC_ACQUIRE) & APIC_BASE_ENABLE;
}

static bool x2apic_mode(const struct kvm_vcpu *vcpu)
{
	const u64 both = APIC_BASE_ENABLE | APIC_BASE_X2APIC;

	return (__atomic_load_n(&vcpu->apic_base, __ATOMIC_ACQUIRE) & both) == both;
}

bool kvm_apic_enabled(struct kvm_vcpu *vcpu)
{
	return vcpu->apic && hw_enabled(vcpu) && (reg_get(vcpu->apic, APIC_SPIV) & SPIV_ENABLED);
}

static u32 x2apic_ldr(u32 id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

/* ---- priority ---- */

static u8 processor_priority(struct kvm_lapic *apic)
{
	int isr = vector_highest(apic, APIC_ISR);
	u8 tpr = (u8)reg_get(apic, APIC_TPR), isrv = isr < 0 ? 0 : (u8)isr;

	return (tpr & 0xf0) >= (isrv & 0xf0) ? tpr : isrv & 0xf0;
}

int kvm_apic_has_interrupt(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;
	int irr;

	if (!kvm_apic_enabled(vcpu))
		return -1;
	irr = vector_highest(apic, APIC_IRR);
	if (irr < 0 || (irr & 0xf0) <= (processor_priority(apic) & 0xf0))
		return -1;
	return irr;
}

int kvm_apic_get_interrupt(struct kvm_vcpu *vcpu)
{
	int vector = kvm_apic_has_interrupt(vcpu);

	if (vector < 0)
		return -1;
	vector_clear(vcpu->apic, APIC_IRR, (u8)vector);
	vector_set(vcpu->apic, APIC_ISR, (u8)vector);
	return vector;
}

u8 kvm_apic_tpr(struct kvm_vcpu *vcpu)
{
	return (u8)reg_get(vcpu->apic, APIC_TPR);
}

void kvm_apic_set_tpr(struct kvm_vcpu *vcpu, u8 tpr)
{
	u8 old = kvm_apic_tpr(vcpu);

	reg_set(vcpu->apic, APIC_TPR, tpr);
	if (tpr < old)
		kvm_make_request(vcpu, KVM_REQ_EVENT);
}

static void end_of_interrupt(struct kvm_lapic *apic)
{
	struct kvm_vcpu *vcpu = apic->vcpu;
	int vector = vector_highest(apic, APIC_ISR);

	if (vector < 0)
		return;
	vector_clear(apic, APIC_ISR, (u8)vector);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	if ((reg_get(apic, APIC_SPIV) & SPIV_DIRECTED_EOI) &&
	    vector_test(apic, APIC_TMR, (u8)vector))
		return;
	if (vcpu->kvm->arch->irqchip == IRQCHIP_SPLIT) {
		if (kvm_split_wants_eoi(vcpu->kvm, vcpu, (u8)vector))
			vcpu->arch->pending_ioapic_eoi = vector;
	} else if (kvm_ioapic_handles(vcpu->kvm, (u8)vector)) {
		kvm_ioapic_eoi(vcpu->kvm, (u8)vector);
	}
}

/* ---- being addressed ---- */

static bool match_logical(struct kvm_vcpu *vcpu, u32 dest)
{
	u32 ldr = reg_get(vcpu->apic, APIC_LDR);

	if (x2apic_mode(vcpu))
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	ldr >>= 24;
	if (reg_get(vcpu->apic, APIC_DFR) >> 28 == 0xf)
		return ldr & dest & 0xff;
	return ldr >> 4 == (dest & 0xff) >> 4 && (ldr & dest & 0xf);
}

static bool is_broadcast(const struct lapic_irq *irq)
{
	return irq->dest == (irq->x2apic_format ? ~0u : 0xffu);
}

bool kvm_apic_match(struct kvm_vcpu *vcpu, const struct lapic_irq *irq)
{
	u32 id;

	if (!vcpu->apic || !hw_enabled(vcpu))
		return false;
	if (is_broadcast(irq))
		return true;
	if (irq->logical)
		return match_logical(vcpu, irq->dest);
	id = reg_get(vcpu->apic, APIC_ID);
	return irq->dest == (x2apic_mode(vcpu) ? id : id >> 24);
}

int lapic_accept_vector(struct kvm_vcpu *vcpu, u8 vector, bool level_triggered)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!kvm_apic_enabled(vcpu))
		return -1;
	if (vector_test(apic, APIC_TMR, vector) != level_triggered) {
		if (level_triggered)
			vector_set(apic, APIC_TMR, vector);
		else
			vector_clear(apic, APIC_TMR, vector);
	}
	vector_set(apic, APIC_IRR, vector);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	kvm_vcpu_kick(vcpu);
	return 1;
}

static int accept_init(struct kvm_vcpu *vcpu, const struct lapic_irq *irq)
{
	if (irq->level_triggered && !irq->assert)
		return 1; /* INIT level de-assert does nothing on a P4 and later */
	/* INIT drops a SIPI that was sent before it. */
	__atomic_store_n(&vcpu->arch->pending_events, APIC_EVENT_INIT, __ATOMIC_RELEASE);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	kvm_vcpu_kick(vcpu);
	return 1;
}

static int accept_startup(struct kvm_vcpu *vcpu, u8 vector)
{
	__atomic_store_n(&vcpu->sipi_vector, vector, __ATOMIC_RELAXED);
	__atomic_fetch_or(&vcpu->arch->pending_events, APIC_EVENT_SIPI, __ATOMIC_RELEASE);
	kvm_make_request(vcpu, KVM_REQ_SIPI);
	kvm_vcpu_kick(vcpu);
	return 1;
}

int kvm_apic_accept(struct kvm_vcpu *vcpu, const struct lapic_irq *irq)
{
	switch (irq->delivery_mode) {
	case DM_FIXED:
	case DM_LOWEST:
		return lapic_accept_vector(vcpu, irq->vector, irq->level_triggered);
	case DM_NMI:
		kvm_inject_nmi(vcpu);
		return 1;
	case DM_INIT:
		return accept_init(vcpu, irq);
	case DM_STARTUP:
		return accept_startup(vcpu, irq->vector);
	default:
		return -1; /* SMI and ExtINT messages have no receiver here */
	}
}

u32 *kvm_apic_arbitration(struct kvm_vcpu *vcpu)
{
	return &vcpu->apic->arbitration;
}

bool kvm_apic_accept_pic_intr(struct kvm_vcpu *vcpu)
{
	u32 lvt0;

	if (!vcpu->apic || !hw_enabled(vcpu))
		return true;
	lvt0 = reg_get(vcpu->apic, APIC_LVT0);
	return !(lvt0 & LVT_MASKED) && (lvt0 >> 8 & 7) == DM_EXTINT;
}

/* ---- sending ---- */

static void send_to_all(struct kvm_lapic *apic, const struct lapic_irq *irq, bool self)
{
	struct kvm_vcpu *vcpu;
	u32 i;

	kvm_for_each_vcpu(i, vcpu, apic->vcpu->kvm) if ((self || vcpu != apic->vcpu) &&
							vcpu->apic && hw_enabled(vcpu))
		kvm_apic_accept(vcpu, irq);
}

static void send_ipi(struct kvm_lapic *apic, u32 low, u32 high)
{
	struct kvm *kvm = apic->vcpu->kvm;
	struct lapic_irq irq = {
		.vector = (u8)low,
		.delivery_mode = low >> 8 & 7,
		.logical = low >> 11 & 1,
		.assert = low >> 14 & 1,
		.level_triggered = low >> 15 & 1,
		.x2apic_format = x2apic_mode(apic->vcpu),
	};

	irq.dest = irq.x2apic_format ? high : high >> 24;
	__atomic_fetch_add(&kvm->arch->stat->ipis, 1, __ATOMIC_RELAXED);
	/* An IPI is edge-triggered whatever the sender says, INIT de-assert apart. */
	if (irq.delivery_mode != DM_INIT)
		irq.level_triggered = false;
	switch (low >> 18 & 3) {
	case 0:
		kvm_deliver_irq(kvm, &irq);
		break;
	case 1:
		kvm_apic_accept(apic->vcpu, &irq);
		break;
	case 2:
		send_to_all(apic, &irq, true);
		break;
	case 3:
		send_to_all(apic, &irq, false);
		break;
	}
}

/* ---- register access ---- */

static bool readable(u32 reg)
{
	switch (reg) {
	case APIC_ID:
	case APIC_LVR:
	case APIC_TPR:
	case APIC_PPR:
	case APIC_LDR:
	case APIC_DFR:
	case APIC_SPIV:
	case APIC_ESR:
	case APIC_ICR:
	case APIC_ICR2:
	case APIC_LVTT:
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR:
	case APIC_TMICT:
	case APIC_TMCCT:
	case APIC_TDCR:
		return true;
	default:
		return reg >= APIC_ISR && reg < APIC_ESR;
	}
}

static u32 read_reg(struct kvm_lapic *apic, u32 reg)
{
	switch (reg) {
	case APIC_TMCCT:
		return apic_timer_count(apic);
	case APIC_PPR:
		return processor_priority(apic);
	default:
		return reg_get(apic, reg);
	}
}

static void write_spiv(struct kvm_lapic *apic, u32 val)
{
	u32 mask = 0x1ff;

	if (reg_get(apic, APIC_LVR) & LVR_DIRECTED_EOI)
		mask |= SPIV_DIRECTED_EOI;
	reg_set(apic, APIC_SPIV, val & mask);
	if (val & SPIV_ENABLED) {
		kvm_make_request(apic->vcpu, KVM_REQ_EVENT);
		return;
	}
	for (u32 reg = APIC_LVTT; reg <= APIC_LVTERR; reg += 0x10)
		reg_set(apic, reg, reg_get(apic, reg) | LVT_MASKED);
}

static u32 lvt_writable(const struct kvm_lapic *apic, u32 reg)
{
	switch (reg) {
	case APIC_LVTT:
		return LVT_MASKED | 0xff |
		       (guest_has(apic->vcpu, FEATURE_TSC_DEADLINE) ? LVT_TIMER_MODE
								    : TIMER_PERIODIC);
	case APIC_LVT0:
	case APIC_LVT1:
		return LVT_MASKED | 0xa7ff;
	case APIC_LVTERR:
		return LVT_MASKED | 0xff;
	default:
		return LVT_MASKED | 0x7ff;
	}
}

static void write_lvt(struct kvm_lapic *apic, u32 reg, u32 val)
{
	val &= lvt_writable(apic, reg);
	if (!(reg_get(apic, APIC_SPIV) & SPIV_ENABLED))
		val |= LVT_MASKED;
	if (reg == APIC_LVTT) {
		/* Mode 3 is reserved: taken as deadline without one. */
		apic_timer_set_lvt(apic, val);
		return;
	}
	reg_set(apic, reg, val);
	if (reg == APIC_LVT0)
		kvm_make_request(apic->vcpu, KVM_REQ_EVENT);
}

/* False when there is no such register to write. */
static bool write_reg(struct kvm_lapic *apic, u32 reg, u32 val)
{
	bool x2apic = x2apic_mode(apic->vcpu);

	switch (reg) {
	case APIC_ID:
		if (x2apic)
			return false;
		reg_set(apic, APIC_ID, val & 0xff000000);
		return true;
	case APIC_TPR:
		kvm_apic_set_tpr(apic->vcpu, (u8)val);
		return true;
	case APIC_EOI:
		end_of_interrupt(apic);
		return true;
	case APIC_LDR:
		if (x2apic)
			return false;
		reg_set(apic, APIC_LDR, val & 0xff000000);
		return true;
	case APIC_DFR:
		if (x2apic)
			return false;
		reg_set(apic, APIC_DFR, val | 0x0fffffff);
		return true;
	case APIC_SPIV:
		write_spiv(apic, val);
		return true;
	case APIC_ESR:
		reg_set(apic, APIC_ESR, 0);
		return !x2apic || !val;
	case APIC_ICR:
		val &= ~LVT_SEND_PENDING;
		reg_set(apic, APIC_ICR, val);
		send_ipi(apic, val, reg_get(apic, APIC_ICR2));
		return true;
	case APIC_ICR2:
		reg_set(apic, APIC_ICR2, x2apic ? val : val & 0xff000000);
		return true;
	case APIC_LVTT:
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR:
		write_lvt(apic, reg, val);
		return true;
	case APIC_TMICT:
		apic_timer_set_initial(apic, val);
		return true;
	case APIC_TDCR:
		apic_timer_set_divide(apic, val);
		return true;
	default:
		return false;
	}
}

static bool in_page(const struct kvm_vcpu *vcpu, u64 addr)
{
	return hw_enabled(vcpu) && !x2apic_mode(vcpu) &&
	       (addr & ~(PAGE_SIZE - 1)) == (vcpu->apic_base & APIC_BASE_ADDR);
}

int kvm_lapic_mmio_read(struct kvm_vcpu *vcpu, u64 addr, u32 len, void *val)
{
	u32 offset = addr & (PAGE_SIZE - 1), reg = offset & ~15u, word = 0;

	if (!in_page(vcpu, addr))
		return -EOPNOTSUPP;
	memset(val, 0, len);
	if ((offset & 15) + len > 4 || reg >= KVM_APIC_REG_SIZE || !readable(reg))
		return 0;
	word = read_reg(vcpu->apic, reg) >> (offset & 3) * 8;
	memcpy(val, &word, min(len, 4u));
	return 0;
}

int kvm_lapic_mmio_write(struct kvm_vcpu *vcpu, u64 addr, u32 len, const void *val)
{
	u32 offset = addr & (PAGE_SIZE - 1);

	if (!in_page(vcpu, addr))
		return -EOPNOTSUPP;
	/* Registers are written as aligned words; anything else is undefined and ignored. */
	if (len == 4 && !(offset & 15) && offset < KVM_APIC_REG_SIZE)
		write_reg(vcpu->apic, offset, load_le32(val));
	return 0;
}

int kvm_x2apic_msr_read(struct kvm_vcpu *vcpu, u32 msr, u64 *data)
{
	u32 reg = (msr - 0x800) << 4;

	if (!vcpu->apic || !x2apic_mode(vcpu) || reg >= KVM_APIC_REG_SIZE)
		return 1;
	if (reg == APIC_DFR || reg == APIC_ICR2 || !readable(reg))
		return 1;
	*data = read_reg(vcpu->apic, reg);
	if (reg == APIC_ICR)
		*data |= (u64)reg_get(vcpu->apic, APIC_ICR2) << 32;
	return 0;
}

int kvm_x2apic_msr_write(struct kvm_vcpu *vcpu, u32 msr, u64 data)
{
	struct kvm_lapic *apic = vcpu->apic;
	u32 reg = (msr - 0x800) << 4;

	if (!apic || !x2apic_mode(vcpu) || reg >= KVM_APIC_REG_SIZE)
		return 1;
	if (reg == APIC_SELF_IPI) {
		if (data & ~0xffULL)
			return 1;
		lapic_accept_vector(vcpu, (u8)data, false);
		return 0;
	}
	if (reg == APIC_ICR)
		reg_set(apic, APIC_ICR2, (u32)(data >> 32));
	else if (data >> 32 || reg == APIC_ICR2 || (reg == APIC_EOI && data))
		return 1;
	return !write_reg(apic, reg, (u32)data);
}

/* ---- APIC_BASE ---- */

static void leave_x2apic(struct kvm_lapic *apic)
{
	reg_set(apic, APIC_ID, (u32)apic->vcpu->id << 24);
	reg_set(apic, APIC_LDR, 0);
}

static void enter_x2apic(struct kvm_lapic *apic)
{
	u32 id = (u32)apic->vcpu->id;

	reg_set(apic, APIC_ID, id);
	reg_set(apic, APIC_LDR, x2apic_ldr(id));
}

int kvm_set_apic_base(struct kvm_vcpu *vcpu, u64 data, bool host)
{
	u64 old = vcpu->apic_base, both = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	u64 reserved = ~vcpu->guest_maxphyaddr_mask | 0x2ff;

	if (!guest_has(vcpu, FEATURE_X2APIC) && !host)
		reserved |= APIC_BASE_X2APIC;
	if ((data & reserved) || (data & both) == APIC_BASE_X2APIC)
		return 1;
	if (!host && (old & both) == both && (data & both) == APIC_BASE_ENABLE)
		return 1;
	if (!host && !(old & both) && (data & both) == both)
		return 1;
	__atomic_store_n(&vcpu->apic_base, data, __ATOMIC_RELEASE);
	if (!vcpu->apic)
		return 0;
	if ((data & both) == both && (old & both) != both)
		enter_x2apic(vcpu->apic);
	else if ((old & both) == both && (data & both) != both)
		leave_x2apic(vcpu->apic);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

/* ---- life and state ---- */

void kvm_lapic_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	struct kvm_lapic *apic = vcpu->apic;
	bool lint0_open = kvm_is_bsp(vcpu) &&
			  !(vcpu->kvm->arch->disabled_quirks & KVM_X86_QUIRK_LINT0_REENABLED);

	apic_timer_reset(apic);
	if (!init_event)
		__atomic_store_n(&vcpu->apic_base,
				 APIC_DEFAULT_BASE | APIC_BASE_ENABLE |
					 (kvm_is_bsp(vcpu) ? APIC_BASE_BSP : 0),
				 __ATOMIC_RELEASE);
	for (u32 reg = 0; reg < KVM_APIC_REG_SIZE; reg += 0x10)
		reg_set(apic, reg, 0);
	for (u32 reg = APIC_LVTT; reg <= APIC_LVTERR; reg += 0x10)
		reg_set(apic, reg, LVT_MASKED);
	if (lint0_open)
		reg_set(apic, APIC_LVT0, DM_EXTINT << 8);
	reg_set(apic, APIC_LVR,
		APIC_VERSION | (vcpu->kvm->arch->irqchip == IRQCHIP_SPLIT ? LVR_DIRECTED_EOI : 0));
	reg_set(apic, APIC_DFR, ~0u);
	reg_set(apic, APIC_SPIV, 0xff);
	reg_set(apic, APIC_ID, (u32)vcpu->id << 24);
	if (x2apic_mode(vcpu))
		enter_x2apic(apic);
}

int kvm_lapic_create(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = calloc(1, sizeof(*apic));

	if (!apic)
		return -ENOMEM;
	apic->vcpu = vcpu;
	apic_timer_init(apic);
	vcpu->apic = apic;
	return 0;
}

void kvm_lapic_stop(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic)
		apic_timer_stop(vcpu->apic);
}

void kvm_lapic_free(struct kvm_vcpu *vcpu)
{
	free(vcpu->apic);
}

void kvm_lapic_get(struct kvm_vcpu *vcpu, struct kvm_lapic_state *state)
{
	struct kvm_lapic *apic = vcpu->apic;
	u32 regs[KVM_APIC_REG_SIZE / 4];

	for (u32 reg = 0; reg < KVM_APIC_REG_SIZE; reg += 4)
		regs[reg / 4] = reg_get(apic, reg);
	regs[APIC_TMCCT / 4] = apic_timer_count(apic);
	regs[APIC_PPR / 4] = processor_priority(apic);
	/* Unless the user asked for 32-bit IDs, the ID has its xAPIC place in either mode. */
	if (x2apic_mode(vcpu) && !vcpu->kvm->arch->x2apic_32bit_ids)
		regs[APIC_ID / 4] <<= 24;
	memcpy(state->regs, regs, sizeof(regs));
}

int kvm_lapic_set(struct kvm_vcpu *vcpu, const struct kvm_lapic_state *state)
{
	struct kvm_lapic *apic = vcpu->apic;
	u32 regs[KVM_APIC_REG_SIZE / 4], left, id = (u32)vcpu->id;

	memcpy(regs, state->regs, sizeof(regs));
	if (x2apic_mode(vcpu)) {
		if (vcpu->kvm->arch->x2apic_32bit_ids && regs[APIC_ID / 4] != id)
			return -EINVAL;
		if (!vcpu->kvm->arch->x2apic_32bit_ids && regs[APIC_ID / 4] >> 24 != (id & 0xff))
			return -EINVAL;
		regs[APIC_ID / 4] = id;
		regs[APIC_LDR / 4] = x2apic_ldr(id);
	}
	left = regs[APIC_TMCCT / 4];
	regs[APIC_LVR / 4] = reg_get(apic, APIC_LVR);
	apic_timer_stop(apic);
	for (u32 reg = 0; reg < KVM_APIC_REG_SIZE; reg += 4)
		reg_set(apic, reg, regs[reg / 4]);
	apic_timer_resume(apic, left);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}
