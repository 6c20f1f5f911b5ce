/*
 * Timers of devices. The loop takes a timer off its heap before it calls back, and then we wait
 * for the lock: meanwhile the device may have disarmed or moved the timer. So what counts is
 * `armed` and `deadline_ns`, which only change under the lock.
 */
#include "bus/bus.h"
#include "os/clock.h"

static void fire(struct loop_timer *loop_timer)
{
	struct bus_timer *timer = container_of(loop_timer, struct bus_timer, timer);

	bus_lock(timer->bus);
	if (timer->armed && timer->deadline_ns <= clock_now_ns()) {
		timer->armed = false;
		timer->fn(timer);
	}
	bus_unlock(timer->bus);
}

void bus_timer_init(struct bus *bus, struct bus_timer *timer, void (*fn)(struct bus_timer *timer))
{
	*timer = (struct bus_timer){.bus = bus, .fn = fn};
	loop_timer_init(bus_loop(bus), &timer->timer, fire);
}

void bus_timer_arm(struct bus_timer *timer, u64 deadline_ns)
{
	timer->armed = true;
	timer->deadline_ns = deadline_ns;
	loop_timer_arm(&timer->timer, deadline_ns);
}

void bus_timer_disarm(struct bus_timer *timer)
{
	timer->armed = false;
	loop_timer_disarm(&timer->timer);
}
