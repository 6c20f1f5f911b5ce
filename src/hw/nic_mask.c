#include "hw/nic_int.h"
#include "os/clock.h"

#define FIRST_NS NSEC_PER_MSEC
#define LAST_NS	 (16 * NSEC_PER_MSEC) /* from here on the bus looks often enough */

static void on_timer(struct bus_timer *timer)
{
	struct nic_mask *mask = container_of(timer, struct nic_mask, timer);

	bus_sync(timer->bus);
	if (!mask->shut || mask->wait_ns >= LAST_NS)
		return;
	mask->wait_ns *= 2;
	bus_timer_arm(timer, clock_now_ns() + mask->wait_ns);
}

void nic_mask_init(struct nic_mask *mask, struct bus *bus)
{
	*mask = (struct nic_mask){.wait_ns = FIRST_NS};
	bus_timer_init(bus, &mask->timer, on_timer);
}

void nic_mask_free(struct nic_mask *mask)
{
	bus_timer_disarm(&mask->timer);
}

void nic_mask_set(struct nic_mask *mask, bool shut)
{
	if (likely(shut == mask->shut))
		return;
	mask->shut = shut;
	mask->wait_ns = FIRST_NS;
	if (shut && !mask->timer.armed)
		bus_timer_arm(&mask->timer, clock_now_ns() + FIRST_NS);
}
