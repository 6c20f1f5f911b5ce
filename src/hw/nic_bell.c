/*
 * Invariants:
 * 1. The range is BUS_COALESCED only while the timer is armed, which looks for what is queued.
 * 2. Counts are those of the window that began at window_ns; window_bytes is the total then.
 */
#include "hw/nic_int.h"
#include "os/clock.h"

#define WINDOW_NS   (2 * NSEC_PER_MSEC)
#define LOOK_NS	    (80 * NSEC_PER_USEC)
#define STREAM_RUN  4 /* windows of a stream before writes are queued */
#define QUIET_RUN   2 /* others before they exit again */
#define MANY_RINGS  24
#define MANY_BYTES  (96 * KiB)
#define ONE_SIDED   4	/* rings for each frame that comes */
#define SWITCH_PART 100 /* of the time at most goes into switching: one */

static void on_timer(struct bus_timer *timer);

void nic_bell_init(struct nic_bell *bell, struct bus *bus, struct bus_range *range)
{
	*bell = (struct nic_bell){.bus = bus, .range = range};
	bus_timer_init(bus, &bell->timer, on_timer);
}

void nic_bell_free(struct nic_bell *bell)
{
	bus_timer_disarm(&bell->timer);
}

static bool queued(const struct nic_bell *bell)
{
	return bell->range->class == BUS_COALESCED;
}

/* A stream that runs may be half as quick. */
static bool is_stream(const struct nic_bell *bell, u64 bytes)
{
	u32 part = queued(bell) ? 2 : 1;

	return (bell->rings >= MANY_RINGS / part &&
		bell->rings >= ONE_SIDED / part * bell->frames) ||
	       bytes - bell->window_bytes >= MANY_BYTES / part;
}

static void window_end(struct nic_bell *bell, u64 now, u64 bytes)
{
	bool stream = is_stream(bell, bytes) && now - bell->window_ns < 2 * WINDOW_NS;

	bell->run = stream == bell->stream ? bell->run + 1 : 1;
	bell->stream = stream;
	bell->window_ns = now;
	bell->window_bytes = bytes;
	bell->rings = bell->frames = 0;
}

/* For a hundredth of the time at most. */
static void switch_to(struct nic_bell *bell, enum bus_class class)
{
	u64 begin = clock_now_ns(), end;

	bus_set_class(bell->bus, bell->range, class);
	end = clock_now_ns();
	bell->switch_ns = end + SWITCH_PART * (end - begin);
}

/* In the loop's thread: begin to queue, or look for what is queued. */
static void on_timer(struct bus_timer *timer)
{
	struct nic_bell *bell = container_of(timer, struct nic_bell, timer);
	u64 now;

	bus_sync(bell->bus);
	now = clock_now_ns();
	if (!queued(bell)) {
		switch_to(bell, BUS_COALESCED);
	} else {
		if (now - bell->window_ns >= WINDOW_NS)
			window_end(bell, now, bell->bytes);
		if (!bell->stream && bell->run >= QUIET_RUN) {
			switch_to(bell, BUS_TRAP);
			return;
		}
	}
	bus_timer_arm(timer, now + LOOK_NS);
}

void nic_bell_rung(struct nic_bell *bell, u64 bytes)
{
	u64 now;

	bell->rings++;
	bell->bytes = bytes;
	if (queued(bell))
		return;
	now = clock_now_ns();
	if (now - bell->window_ns < WINDOW_NS)
		return;
	window_end(bell, now, bytes);
	if (bell->stream && bell->run >= STREAM_RUN && now >= bell->switch_ns && !bell->timer.armed)
		bus_timer_arm(&bell->timer, now);
}
