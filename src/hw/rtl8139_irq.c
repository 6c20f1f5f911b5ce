/*
 * When INTA# is asserted.
 *
 * Invariants:
 * 1. INTA# is asserted while isr & imr is not 0, but for a guest that has read the status
 *    UNHEEDED times since one of the two changed: then it rests for LATE_NS.
 * 2. A cause in `late` is not in isr; late_timer is armed while there is any.
 */
#include "hw/rtl8139_int.h"
#include "os/clock.h"

#define LATE_NS	 (120 * NSEC_PER_USEC) /* a full frame at 100 Mbit/s */
#define RING_NS	 (4 * LATE_NS)
#define RING_MAX 32 /* half of the smallest ring in use */
#define UNHEEDED 8

void rtl_update_irq(struct rtl8139 *r)
{
	nic_mask_set(&r->mask, r->isr && !(r->isr & r->imr));
	pci_set_intx(&r->pci, (r->isr & r->imr) && r->unheeded < UNHEEDED);
}

void rtl_raise(struct rtl8139 *r, u16 causes)
{
	causes |= r->late;
	if (r->late)
		bus_timer_disarm(&r->late_timer);
	r->late = 0;
	r->late_descs = 0;
	if (causes & ~r->isr)
		r->unheeded = 0;
	r->isr |= causes;
	rtl_update_irq(r);
}

/* By deadline_ns at the latest. */
static void raise_by(struct rtl8139 *r, u16 causes, u64 deadline_ns)
{
	if (!r->late || deadline_ns < r->late_ns) {
		r->late_ns = deadline_ns;
		bus_timer_arm(&r->late_timer, deadline_ns);
	}
	r->late |= causes;
}

void rtl_raise_sent(struct rtl8139 *r, u16 causes, bool ring)
{
	if (r->late_descs >= (ring ? RING_MAX : RTL_TX_SLOTS))
		rtl_raise(r, causes);
	else if (r->late) /* due before this one would be */
		r->late |= causes;
	else
		raise_by(r, causes, clock_now_ns() + (ring ? RING_NS : LATE_NS));
}

/* On a wire of 100 Mbit/s full frames are LATE_NS apart. */
void rtl_raise_received(struct rtl8139 *r)
{
	u64 now;

	if ((r->isr | r->late) & I_ROK)
		return;
	now = clock_now_ns();
	if (now < r->next_frame_ns) {
		raise_by(r, I_ROK, r->next_frame_ns);
		return;
	}
	r->next_frame_ns = now + LATE_NS;
	rtl_raise(r, I_ROK);
}

static void on_late(struct bus_timer *timer)
{
	bus_sync(timer->bus);
	rtl_raise(container_of(timer, struct rtl8139, late_timer), 0);
}

/*
 * Linux's 8139cp may find itself with interrupts of frames unmasked while its poll is still to come
 * (interrupted just before it unmasks), and then returns from each interrupt without doing
 * anything about it. A level that stays would interrupt it again at once, for ever.
 */
void rtl_status_read(struct rtl8139 *r)
{
	rtl_raise(r, 0);
	if (!(r->isr & r->imr) || r->unheeded == UNHEEDED || ++r->unheeded < UNHEEDED)
		return;
	bus_timer_arm(&r->rest_timer, clock_now_ns() + LATE_NS);
	rtl_update_irq(r);
}

static void on_rested(struct bus_timer *timer)
{
	rtl_heeded(container_of(timer, struct rtl8139, rest_timer));
}

void rtl_heeded(struct rtl8139 *r)
{
	r->unheeded = 0;
	rtl_update_irq(r);
}

void rtl_irq_init(struct rtl8139 *r)
{
	bus_timer_init(r->pci.dev.bus, &r->late_timer, on_late);
	bus_timer_init(r->pci.dev.bus, &r->rest_timer, on_rested);
	nic_mask_init(&r->mask, r->pci.dev.bus);
}

void rtl_irq_reset(struct rtl8139 *r)
{
	bus_timer_disarm(&r->late_timer);
	bus_timer_disarm(&r->rest_timer);
	r->late = r->late_descs = 0;
	r->next_frame_ns = 0;
	rtl_heeded(r);
}
