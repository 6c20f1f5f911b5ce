/*
 * From GSIs and messages to LAPICs. api.rst: KVM_SET_GSI_ROUTING, KVM_IRQ_LINE, KVM_SIGNAL_MSI.
 *
 * Invariant: arch->routing is replaced as a whole with irq_lock held; entries are sorted by GSI.
 */
#include "engine/soft/irq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/lapic.h"

#define NR_CHIPS KVM_NR_IRQCHIPS

struct irq_route {
	u32 gsi;
	u32 type; /* KVM_IRQ_ROUTING_* */
	union {
		struct kvm_irq_routing_irqchip irqchip;
		struct kvm_irq_routing_msi msi;
	} u;
};

struct irq_routing {
	s32 chip_gsi[NR_CHIPS][KVM_IOAPIC_PINS]; /* -1: none */
	u32 first[KVM_MAX_IRQ_ROUTES + 1];	 /* of a GSI's routes, in route[] */
	u32 count;
	struct irq_route route[];
};

/* ---- delivery ---- */

void kvm_inject_nmi(struct kvm_vcpu *vcpu)
{
	u32 *pending = &vcpu->ctl.nmi_pending, old = __atomic_load_n(pending, __ATOMIC_RELAXED);

	/* One being handled and one latched is all that hardware keeps. */
	while (old < 2 && !__atomic_compare_exchange_n(pending, &old, old + 1, false,
						       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		;
	kvm_make_request(vcpu, KVM_REQ_NMI);
	kvm_vcpu_kick(vcpu);
}

/* The receiver of a physical destination without a search, where IDs are those of creation. */
static struct kvm_vcpu *unicast(struct kvm *kvm, const struct lapic_irq *irq)
{
	struct kvm_vcpu *vcpu;

	if (irq->logical || irq->dest >= KVM_MAX_VCPU_ID ||
	    irq->dest == (irq->x2apic_format ? ~0u : 0xffu))
		return NULL;
	vcpu = __atomic_load_n(&kvm->arch->vcpu_by_id[irq->dest], __ATOMIC_ACQUIRE);
	return vcpu && kvm_apic_match(vcpu, irq) ? vcpu : NULL;
}

static int deliver_lowest(struct kvm *kvm, const struct lapic_irq *irq)
{
	struct kvm_vcpu *vcpu, *best = NULL;
	u32 i;

	kvm_for_each_vcpu(i, vcpu, kvm) if (kvm_apic_match(vcpu, irq) && kvm_apic_enabled(vcpu) &&
					    (!best || *kvm_apic_arbitration(vcpu) <
							      *kvm_apic_arbitration(best))) best =
		vcpu;
	if (!best)
		return -1;
	__atomic_fetch_add(kvm_apic_arbitration(best), 1, __ATOMIC_RELAXED);
	return kvm_apic_accept(best, irq);
}

static int deliver_all(struct kvm *kvm, const struct lapic_irq *irq)
{
	struct kvm_vcpu *vcpu;
	int taken = -1;
	u32 i;

	kvm_for_each_vcpu(i, vcpu, kvm)
	{
		int rc = kvm_apic_match(vcpu, irq) ? kvm_apic_accept(vcpu, irq) : -1;

		if (rc >= 0)
			taken = max(taken, 0) + rc;
	}
	return taken;
}

int kvm_deliver_irq(struct kvm *kvm, const struct lapic_irq *irq)
{
	struct kvm_vcpu *vcpu = unicast(kvm, irq);

	if (vcpu)
		return kvm_apic_accept(vcpu, irq);
	return irq->delivery_mode == DM_LOWEST ? deliver_lowest(kvm, irq) : deliver_all(kvm, irq);
}

/* SDM vol. 3, 11.11; with 32-bit IDs the upper destination bits are in address_hi. */
int kvm_set_msi(struct kvm *kvm, u32 address_lo, u32 address_hi, u32 data)
{
	struct lapic_irq irq = {
		.dest = address_lo >> 12 & 0xff,
		.logical = address_lo >> 2 & 1,
		.vector = (u8)data,
		.delivery_mode = data >> 8 & 7,
		.level_triggered = data >> 15 & 1,
		.assert = true,
	};

	if (kvm->arch->x2apic_32bit_ids) {
		if (address_hi & 0xff)
			return -EINVAL;
		irq.dest |= address_hi & 0xffffff00;
		irq.x2apic_format = kvm->arch->x2apic_no_broadcast_quirk;
	}
	/* The redirection hint turns fixed delivery to a set into lowest priority. */
	if ((address_lo & 8) && irq.logical && irq.delivery_mode == DM_FIXED)
		irq.delivery_mode = DM_LOWEST;
	__atomic_fetch_add(&kvm->arch->stat->msis, 1, __ATOMIC_RELAXED);
	return kvm_deliver_irq(kvm, &irq);
}

/* ---- routes ---- */

static int check_entry(const struct kvm_irq_routing_entry *e)
{
	if (e->gsi >= KVM_MAX_IRQ_ROUTES || e->flags)
		return -EINVAL;
	switch (e->type) {
	case KVM_IRQ_ROUTING_MSI:
		return 0;
	case KVM_IRQ_ROUTING_IRQCHIP:
		if (e->u.irqchip.irqchip >= NR_CHIPS)
			return -EINVAL;
		return e->u.irqchip.pin < (e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC
						   ? KVM_IOAPIC_PINS
						   : 8u)
			       ? 0
			       : -EINVAL;
	default:
		return -EINVAL;
	}
}

/* A GSI has one message, or at most one pin of each chip. */
static bool routes_clash(const struct irq_route *a, const struct irq_route *b)
{
	return a->gsi == b->gsi &&
	       (a->type != KVM_IRQ_ROUTING_IRQCHIP || b->type != KVM_IRQ_ROUTING_IRQCHIP ||
		a->u.irqchip.irqchip == b->u.irqchip.irqchip);
}

static int compare_gsi(const void *a, const void *b)
{
	const struct irq_route *x = a, *y = b;

	return x->gsi < y->gsi ? -1 : x->gsi > y->gsi;
}

static int check_clashes(const struct irq_routing *r)
{
	for (u32 i = 0; i < r->count; i++)
		for (u32 j = i + 1; j < r->count && r->route[j].gsi == r->route[i].gsi; j++) {
			if (j - i >= NR_CHIPS || routes_clash(&r->route[i], &r->route[j]))
				return -EINVAL;
		}
	return 0;
}

static void index_routes(struct irq_routing *r)
{
	u32 gsi = 0;

	memset(r->chip_gsi, 0xff, sizeof(r->chip_gsi));
	for (u32 i = 0; i < r->count; i++) {
		const struct irq_route *e = &r->route[i];

		while (gsi <= e->gsi)
			r->first[gsi++] = i;
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
			r->chip_gsi[e->u.irqchip.irqchip][e->u.irqchip.pin] = (s32)e->gsi;
	}
	while (gsi <= KVM_MAX_IRQ_ROUTES)
		r->first[gsi++] = r->count;
}

static int routing_new(const struct kvm_irq_routing_entry *entries, u32 nr,
		       struct irq_routing **out)
{
	struct irq_routing *r = calloc(1, sizeof(*r) + nr * sizeof(r->route[0]));
	int rc = 0;

	if (!r)
		return -ENOMEM;
	r->count = nr;
	for (u32 i = 0; i < nr && !rc; i++) {
		rc = check_entry(&entries[i]);
		r->route[i].gsi = entries[i].gsi;
		r->route[i].type = entries[i].type;
		if (entries[i].type == KVM_IRQ_ROUTING_MSI)
			r->route[i].u.msi = entries[i].u.msi;
		else
			r->route[i].u.irqchip = entries[i].u.irqchip;
	}
	if (!rc) {
		qsort(r->route, nr, sizeof(r->route[0]), compare_gsi);
		rc = check_clashes(r);
	}
	if (rc) {
		free(r);
		return rc;
	}
	index_routes(r);
	*out = r;
	return 0;
}

static void install_routing(struct kvm *kvm, struct irq_routing *new)
{
	struct irq_routing *old;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	old = kvm->arch->routing;
	kvm->arch->routing = new;
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	free(old);
}

int kvm_set_gsi_routing(struct kvm *kvm, const struct kvm_irq_routing *routing)
{
	struct irq_routing *r;
	int rc;

	if (!irqchip_in_kernel(kvm) || routing->nr > KVM_MAX_IRQ_ROUTES || routing->flags)
		return -EINVAL;
	rc = routing_new(routing->entries, routing->nr, &r);
	if (!rc)
		install_routing(kvm, r);
	return rc;
}

static void add_default(struct kvm_irq_routing_entry *e, u32 gsi, u32 chip, u32 pin)
{
	*e = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = {.irqchip = chip, .pin = pin},
	};
}

/* GSI n is pin n of the IOAPIC, and of the PICs where they have one. */
static int default_routing(struct irq_routing **out)
{
	struct kvm_irq_routing_entry e[KVM_IOAPIC_PINS + 16];
	u32 n = 0;

	for (u32 gsi = 0; gsi < KVM_IOAPIC_PINS; gsi++) {
		add_default(&e[n++], gsi, KVM_IRQCHIP_IOAPIC, gsi);
		if (gsi < 16)
			add_default(&e[n++], gsi, gsi / 8, gsi % 8);
	}
	return routing_new(e, n, out);
}

/* ---- lines ---- */

static int set_route(struct kvm *kvm, const struct irq_route *r, enum irq_source source, int level)
{
	const struct kvm_irq_routing_irqchip *chip = &r->u.irqchip;

	if (r->type == KVM_IRQ_ROUTING_MSI)
		return level ? kvm_set_msi(kvm, r->u.msi.address_lo, r->u.msi.address_hi,
					   r->u.msi.data)
			     : -1;
	if (chip->irqchip == KVM_IRQCHIP_IOAPIC)
		return kvm->arch->ioapic ? kvm_ioapic_set_irq_locked(kvm, chip->pin, source, level)
					 : -1;
	return kvm->arch->pic
		       ? kvm_pic_set_irq_locked(kvm, chip->irqchip * 8 + chip->pin, source, level)
		       : -1;
}

int kvm_set_irq_locked(struct kvm *kvm, enum irq_source source, u32 gsi, int level)
{
	struct irq_routing *r = kvm->arch->routing;
	int rc = -1;

	if (!r || gsi >= KVM_MAX_IRQ_ROUTES)
		return -1;
	if (level)
		kvm->arch->stat->irqs_raised++;
	for (u32 i = r->first[gsi]; i < r->first[gsi + 1]; i++) {
		int n = set_route(kvm, &r->route[i], source, level);

		if (n >= 0)
			rc = max(rc, 0) + n;
	}
	return rc;
}

int kvm_set_irq(struct kvm *kvm, enum irq_source source, u32 gsi, int level)
{
	int rc;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	rc = kvm_set_irq_locked(kvm, source, gsi, level);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return rc;
}

static s32 gsi_of_pin(struct kvm *kvm, u32 chip, u32 pin)
{
	struct irq_routing *r = kvm->arch->routing;

	return r && chip < NR_CHIPS && pin < KVM_IOAPIC_PINS ? r->chip_gsi[chip][pin] : -1;
}

void kvm_notify_unmasked_locked(struct kvm *kvm, u32 chip, u32 pin)
{
	if (gsi_of_pin(kvm, chip, pin) == 0)
		kvm_pit_unmasked_locked(kvm);
}

void kvm_notify_acked_locked(struct kvm *kvm, u32 chip, u32 pin)
{
	s32 gsi = gsi_of_pin(kvm, chip, pin);

	if (gsi < 0)
		return;
	if (gsi == 0)
		kvm_pit_acked_locked(kvm);
	irqfd_acked_locked(kvm, (u32)gsi);
}

/* Routes below reserved_pins stand for the pins of the user's IOAPIC. */
bool kvm_split_wants_eoi(struct kvm *kvm, const struct kvm_vcpu *vcpu, u8 vector)
{
	struct irq_routing *r;
	bool wants = false;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	r = kvm->arch->routing;
	for (u32 i = 0; r && i < r->first[kvm->arch->reserved_pins] && !wants; i++)
		wants = r->route[i].type == KVM_IRQ_ROUTING_MSI &&
			(r->route[i].u.msi.data & 0xff) == vector &&
			(r->route[i].u.msi.data & 0x8000);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return wants;
}

/* ---- what the cpu asks ---- */

static bool has_extint(struct kvm_vcpu *vcpu)
{
	if (!kvm_apic_accept_pic_intr(vcpu))
		return false;
	if (vcpu->kvm->arch->irqchip == IRQCHIP_SPLIT)
		return vcpu->arch->pending_external_vector >= 0;
	return kvm_pic_output(vcpu->kvm);
}

bool kvm_cpu_has_interrupt(struct kvm_vcpu *vcpu)
{
	if (!vcpu->apic)
		return false; /* the user's interrupts come by ctl.interrupt */
	return has_extint(vcpu) || kvm_apic_has_interrupt(vcpu) >= 0;
}

static int take_extint(struct kvm_vcpu *vcpu)
{
	int vector = vcpu->arch->pending_external_vector;

	if (vcpu->kvm->arch->irqchip != IRQCHIP_SPLIT)
		return kvm_pic_read_irq(vcpu->kvm);
	vcpu->arch->pending_external_vector = -1;
	return vector;
}

int kvm_cpu_get_interrupt(struct kvm_vcpu *vcpu)
{
	int vector;

	if (!vcpu->apic)
		return -1;
	vector = has_extint(vcpu) ? take_extint(vcpu) : kvm_apic_get_interrupt(vcpu);
	if (vector >= 0)
		vcpu->stat->irq_injections++;
	return vector;
}

u64 kvm_get_cr8(struct kvm_vcpu *vcpu)
{
	return vcpu->apic ? kvm_apic_tpr(vcpu) >> 4 : vcpu->ctl.cr8;
}

void kvm_set_cr8(struct kvm_vcpu *vcpu, u64 cr8)
{
	if (vcpu->apic)
		kvm_apic_set_tpr(vcpu, (u8)((cr8 & 15) << 4));
	else
		vcpu->ctl.cr8 = cr8 & 15;
}

/* ---- the set of chips ---- */

int kvm_irqchip_init(struct kvm *kvm, enum irqchip_mode mode, u32 reserved_pins)
{
	struct irq_routing *r = NULL;
	int rc = helper_start(kvm);

	if (!rc && mode == IRQCHIP_KERNEL)
		rc = kvm_pic_init(kvm);
	if (!rc && mode == IRQCHIP_KERNEL)
		rc = kvm_ioapic_init(kvm);
	if (!rc)
		rc = mode == IRQCHIP_KERNEL ? default_routing(&r) : routing_new(NULL, 0, &r);
	if (rc) {
		kvm_irqchip_free(kvm);
		return rc;
	}
	install_routing(kvm, r);
	kvm->arch->reserved_pins = reserved_pins;
	kvm->arch->irqchip = mode;
	return 0;
}

void kvm_irqchip_stop(struct kvm *kvm)
{
	kvm_pit_stop(kvm);
	kvm_ioapic_stop(kvm);
	for (u32 i = 0; i < kvm->nr_vcpus; i++)
		kvm_lapic_stop(kvm->vcpus[i]);
}

void kvm_irqchip_free(struct kvm *kvm)
{
	struct kvm_arch *arch = kvm->arch;

	kvm_pit_free(kvm);
	kvm_ioapic_stop(kvm);
	if (arch->pic)
		kvm_io_bus_unregister(kvm, (struct io_device *)arch->pic);
	if (arch->ioapic)
		kvm_io_bus_unregister(kvm, (struct io_device *)arch->ioapic);
	free(arch->pic);
	free(arch->ioapic);
	free(arch->routing);
	arch->pic = NULL;
	arch->ioapic = NULL;
	arch->routing = NULL;
}

int kvm_get_irqchip(struct kvm *kvm, struct kvm_irqchip *chip)
{
	int rc = 0;

	if (!pic_in_kernel(kvm))
		return -ENXIO;
	pthread_mutex_lock(&kvm->arch->irq_lock);
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		kvm_pic_get_locked(kvm, chip->chip_id, &chip->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		kvm_ioapic_get_locked(kvm, &chip->chip.ioapic);
		break;
	default:
		rc = -EINVAL;
	}
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return rc;
}

int kvm_set_irqchip(struct kvm *kvm, const struct kvm_irqchip *chip)
{
	int rc = 0;

	if (!pic_in_kernel(kvm))
		return -ENXIO;
	pthread_mutex_lock(&kvm->arch->irq_lock);
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		kvm_pic_set_locked(kvm, chip->chip_id, &chip->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		kvm_ioapic_set_locked(kvm, &chip->chip.ioapic);
		break;
	default:
		rc = -EINVAL;
	}
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return rc;
}
