/*
 * Invariant: while the counter runs, its value follows from start_ns and reload; nothing ticks.
 *
 * Intel 8254 data sheet; port 0x61 as in the PC/AT.
 */
#include "hw/speaker.h"

#include <errno.h>

#include "bus/bus.h"
#include "hw/bytewise.h"
#include "os/clock.h"

#define PIT_HZ	     1193182
#define COUNTER_PORT 0x42 /* and the control word at 0x43 */
#define REFRESH_NS   15085
#define CHANNEL	     2
#define READ_BACK    3
#define ACCESS_LATCH 0
#define ACCESS_LOW   1
#define ACCESS_HIGH  2
#define ACCESS_BOTH  3

enum { P61_GATE = 0x01, P61_SPEAKER = 0x02, P61_KEPT = 0x0f, P61_REFRESH = 0x10, P61_OUT = 0x20 };

struct speaker {
	struct device dev;
	struct bus_range port61, counter;
	u8 p61;
	u8 access, mode, bcd;
	u8 high_next_write, high_next_read, low_byte;
	u8 loaded;	   /* a count was written since the mode was */
	u8 latched;	   /* bytes of `latch` still to be read */
	u8 status_latched; /* a status byte comes before them */
	u8 status;
	u16 latch;
	u32 reload;   /* 1 to 0x10000 */
	u64 start_ns; /* when the counting began */
	u32 held;     /* clocks gone by when the gate stopped it */
	u64 elapsed;  /* for saving */
};

static bool gate(const struct speaker *s)
{
	return s->p61 & P61_GATE;
}

/* Modes 1 and 5 are started by a rising gate, whose level does not matter to them. */
static bool edge_started(const struct speaker *s)
{
	return s->mode == 1 || s->mode == 5;
}

static u64 clocks(const struct speaker *s)
{
	u64 ns;

	if (!s->loaded)
		return 0;
	if (!gate(s) && !edge_started(s))
		return s->held;
	ns = clock_now_ns() - s->start_ns;
	return ns / NSEC_PER_SEC * PIT_HZ + ns % NSEC_PER_SEC * PIT_HZ / NSEC_PER_SEC;
}

static bool output(const struct speaker *s)
{
	u64 n = clocks(s);

	switch (s->mode) {
	case 0:
	case 1:
		return s->loaded && n >= s->reload;
	case 2:
		return !s->loaded || n % s->reload != s->reload - 1;
	case 3:
		return !s->loaded || !gate(s) || n % s->reload < (s->reload + 1) / 2;
	default: /* 4 and 5: low for one clock */
		return !s->loaded || n != s->reload;
	}
}

static u16 to_bcd(u32 v)
{
	return (u16)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static u32 from_bcd(u16 v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static u16 count_now(const struct speaker *s)
{
	u32 modulus = s->bcd ? 10000 : 0x10000;
	u64 n = clocks(s);
	u32 left;

	if (s->mode == 2)
		left = s->reload - (u32)(n % s->reload);
	else if (s->mode == 3)
		left = s->reload - (u32)(2 * n % s->reload);
	else
		left = (s->reload + modulus - (u32)(n % modulus)) % modulus;
	return s->bcd ? to_bcd(left % modulus) : (u16)left;
}

static void restart(struct speaker *s)
{
	s->start_ns = clock_now_ns();
	s->held = 0;
}

static void set_gate(struct speaker *s, bool on)
{
	bool was = gate(s);
	u64 gone = clocks(s);

	s->p61 = (u8)((s->p61 & ~P61_GATE) | (on ? P61_GATE : 0));
	if (was == on)
		return;
	if (!on) {
		s->held = (u32)min(gone, (u64)UINT32_MAX);
	} else if (s->mode == 0 || s->mode == 4) { /* go on where it was held */
		s->start_ns = clock_now_ns() - gone / PIT_HZ * NSEC_PER_SEC -
			      gone % PIT_HZ * NSEC_PER_SEC / PIT_HZ;
	} else {
		restart(s);
	}
}

/* ---- the counter's ports ---- */

static void load(struct speaker *s, u16 value)
{
	s->reload = s->bcd ? from_bcd(value) : value;
	if (!s->reload)
		s->reload = s->bcd ? 10000 : 0x10000;
	if (s->mode == 2 || s->mode == 3)
		s->reload = max(s->reload, 2u);
	s->loaded = true;
	restart(s);
}

static void write_count(struct speaker *s, u8 value)
{
	if (s->access == ACCESS_LOW) {
		load(s, value);
	} else if (s->access == ACCESS_HIGH) {
		load(s, (u16)(value << 8));
	} else if (s->high_next_write) {
		s->high_next_write = false;
		load(s, (u16)(value << 8 | s->low_byte));
	} else {
		s->low_byte = value;
		s->high_next_write = true;
	}
}

static void latch_count(struct speaker *s)
{
	if (s->latched)
		return;
	s->latch = count_now(s);
	s->latched = s->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct speaker *s)
{
	if (s->status_latched)
		return;
	s->status = (u8)((output(s) ? 0x80 : 0) | (s->loaded ? 0 : 0x40) | s->access << 4 |
			 s->mode << 1 | s->bcd);
	s->status_latched = true;
}

static void write_control(struct speaker *s, u8 value)
{
	if (value >> 6 == READ_BACK) {
		if (!(value & 1 << (CHANNEL + 1)))
			return;
		if (!(value & 0x20))
			latch_count(s);
		if (!(value & 0x10))
			latch_status(s);
		return;
	}
	if (value >> 6 != CHANNEL)
		return; /* the board has no other */
	if ((value >> 4 & 3) == ACCESS_LATCH) {
		latch_count(s);
		return;
	}
	s->access = value >> 4 & 3;
	s->mode = value >> 1 & 7;
	if (s->mode > 5) /* bit 2 does not matter there */
		s->mode -= 4;
	s->bcd = value & 1;
	s->high_next_write = s->high_next_read = s->loaded = false;
	s->latched = s->status_latched = 0;
	s->reload = 0x10000;
}

static u8 byte_to_read(struct speaker *s, u16 value)
{
	bool high = s->access == ACCESS_HIGH || s->high_next_read;

	if (s->access == ACCESS_BOTH)
		s->high_next_read = !s->high_next_read;
	return (u8)(high ? value >> 8 : value);
}

static u8 read_count(struct speaker *s)
{
	if (s->status_latched) {
		s->status_latched = false;
		return s->status;
	}
	if (s->latched) {
		s->latched--;
		return byte_to_read(s, s->latch);
	}
	return byte_to_read(s, count_now(s));
}

static u8 counter_read_byte(void *ctx, u64 offset)
{
	return offset ? 0xff : read_count(ctx); /* the control word is write-only */
}

static void counter_write_byte(void *ctx, u64 offset, u8 value)
{
	if (offset)
		write_control(ctx, value);
	else
		write_count(ctx, value);
}

static u64 counter_read(void *ctx, u64 offset, unsigned int size)
{
	return bytewise_read(ctx, counter_read_byte, offset, size, 2);
}

static void counter_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	bytewise_write(ctx, counter_write_byte, offset, size, 2, value);
}

static const struct bus_ops counter_ops = {.read = counter_read, .write = counter_write};

/* ---- port 0x61 ---- */

static u64 port61_read(void *ctx, u64 offset, unsigned int size)
{
	const struct speaker *s = ctx;
	bool refresh = clock_now_ns() / REFRESH_NS & 1;

	return (s->p61 & P61_KEPT) | (refresh ? P61_REFRESH : 0) | (output(s) ? P61_OUT : 0);
}

static void port61_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct speaker *s = ctx;

	set_gate(s, value & P61_GATE);
	s->p61 = (u8)((value & P61_KEPT & ~(u64)P61_GATE) | (s->p61 & P61_GATE));
}

static const struct bus_ops port61_ops = {.read = port61_read, .write = port61_write};

/* ---- life ---- */

static int speaker_init(struct device *dev, const void *config, struct err *err)
{
	struct speaker *s = container_of(dev, struct speaker, dev);

	s->port61 = (struct bus_range){
		.name = "speaker",
		.space = BUS_PIO,
		.base = SPEAKER_PORT,
		.size = 1,
		.ops = &port61_ops,
		.ctx = s,
	};
	s->counter = (struct bus_range){
		.name = "speaker-timer",
		.space = BUS_PIO,
		.base = COUNTER_PORT,
		.size = 2,
		.ops = &counter_ops,
		.ctx = s,
	};
	if (bus_add(dev->bus, &s->port61) || bus_add(dev->bus, &s->counter))
		return err_set(err, EEXIST, "port 0x61 or 0x42 is taken");
	return 0;
}

static void speaker_reset(struct device *dev)
{
	struct speaker *s = container_of(dev, struct speaker, dev);

	s->p61 = 0;
	s->access = ACCESS_BOTH;
	s->mode = 3;
	s->bcd = s->high_next_write = s->high_next_read = s->low_byte = 0;
	s->loaded = s->latched = s->status_latched = s->status = 0;
	s->latch = 0;
	s->reload = 0x10000;
	restart(s);
}

static void speaker_free(struct device *dev)
{
	struct speaker *s = container_of(dev, struct speaker, dev);

	bus_remove(dev->bus, &s->port61);
	bus_remove(dev->bus, &s->counter);
}

static void speaker_saving(void *object)
{
	struct speaker *s = container_of(object, struct speaker, dev);

	s->elapsed = clock_now_ns() - s->start_ns;
}

static int speaker_loaded(void *object, struct err *err)
{
	struct speaker *s = container_of(object, struct speaker, dev);

	if (s->access == ACCESS_LATCH || s->access > ACCESS_BOTH || s->mode > 5 || s->bcd > 1 ||
	    s->latched > 2 || s->reload < 1 || s->reload > 0x10000 ||
	    (s->reload < 2 && (s->mode == 2 || s->mode == 3)))
		return err_set(err, EINVAL, "impossible state of the timer");
	s->start_ns = clock_now_ns() - s->elapsed;
	return 0;
}

static const struct state_field speaker_fields[] = {
	STATE_FIELD(struct speaker, p61),
	STATE_FIELD(struct speaker, access),
	STATE_FIELD(struct speaker, mode),
	STATE_FIELD(struct speaker, bcd),
	STATE_FIELD(struct speaker, high_next_write),
	STATE_FIELD(struct speaker, high_next_read),
	STATE_FIELD(struct speaker, low_byte),
	STATE_FIELD(struct speaker, loaded),
	STATE_FIELD(struct speaker, latched),
	STATE_FIELD(struct speaker, status_latched),
	STATE_FIELD(struct speaker, status),
	STATE_FIELD(struct speaker, latch),
	STATE_FIELD(struct speaker, reload),
	STATE_FIELD(struct speaker, held),
	STATE_FIELD(struct speaker, elapsed),
	STATE_END,
};

static const struct state_desc speaker_state = {
	.name = "speaker",
	.version = 1,
	.fields = speaker_fields,
	.saving = speaker_saving,
	.loaded = speaker_loaded,
};

const struct device_class speaker_class = {
	.name = "speaker",
	.summary = "port 0x61 and timer channel 2",
	.size = sizeof(struct speaker),
	.init = speaker_init,
	.reset = speaker_reset,
	.free = speaker_free,
	.state = &speaker_state,
};
