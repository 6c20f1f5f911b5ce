/*
 * Invariants:
 * 1. While the clock runs, the guest's time is the host's plus offset_ns, and cmos[0..9] and the
 *    century are worked out when they are read. While it stands still (SET, or the divider held in
 *    reset) those bytes are what counts.
 * 2. The flags of register C are worked out when somebody looks: at a read of it, or by the timers,
 *    which run only for interrupts that are enabled. seen_s and seen_tick are what they cover.
 *
 * Motorola MC146818A data sheet; the extended bank is that of Intel's ICH9.
 */
#include "hw/rtc.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "bus/irq.h"
#include "hw/bytewise.h"
#include "os/clock.h"

#define RTC_PORTS  4
#define CMOS_SIZE  256
#define UIP_NS	   (2228 * NSEC_PER_USEC) /* 244 us of notice and 1984 us of update */
#define BASE_HZ	   32768
#define DAY_S	   86400
#define ALARM_ANY  0xc0 /* both top bits: matches everything */
#define PM_BIT	   0x80 /* of the hours in 12-hour mode */
#define CATCH_UP_S 1	/* periodic ticks older than this are forgotten */

enum {
	SECONDS = 0,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	FIRST_RAM,
};

enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_RESET = 0x60, A_RATE = 0x0f };
enum {
	B_24H = 0x02,
	B_BINARY = 0x04,
	B_SQWE = 0x08,
	B_UIE = 0x10,
	B_AIE = 0x20,
	B_PIE = 0x40,
	B_SET = 0x80
};
enum { C_UF = 0x10, C_AF = 0x20, C_PF = 0x40, C_IRQF = 0x80, C_SOURCES = 0x70 };
enum { D_VRT = 0x80 };

struct rtc {
	struct device dev;
	struct bus_range range;
	struct irq_line line;
	struct bus_timer second, periodic;
	u8 cmos[CMOS_SIZE];
	u8 index, index_high;
	u64 offset_ns; /* two's complement */
	u64 seen_s, seen_tick;
};

struct civil {
	unsigned int second, minute, hour, day, month, year, weekday; /* weekday: Sunday is 1 */
};

/* ---- calendar: Gregorian, proleptic; days since 1970-01-01 ---- */

/* A year that begins in March has its leap day at the end. */
static u64 days_from_civil(unsigned int year, unsigned int month, unsigned int day)
{
	u64 y = year + 400 - (month <= 2), era = y / 400, yoe = y % 400;
	u64 doy = (153 * (u64)(month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

	/* 719468 days from 0000-03-01 to 1970-01-01; the 400 added years are 146097 days. */
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468 - 146097;
}

static void civil_from_seconds(u64 seconds, struct civil *c)
{
	u64 days = seconds / DAY_S, z = days + 719468, era = z / 146097, doe = z % 146097;
	u64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	u64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	unsigned int in_day = (unsigned int)(seconds % DAY_S);

	c->second = in_day % 60;
	c->minute = in_day / 60 % 60;
	c->hour = in_day / 3600;
	c->day = (unsigned int)(doy - (153 * mp + 2) / 5 + 1);
	c->month = (unsigned int)(mp < 10 ? mp + 3 : mp - 9);
	c->year = (unsigned int)(yoe + era * 400 + (c->month <= 2));
	c->weekday = (unsigned int)((days + 4) % 7 + 1); /* 1970-01-01 was a Thursday */
}

/* ---- the guest's notation ---- */

static u8 encode(const struct rtc *r, unsigned int v)
{
	return (u8)(r->cmos[REG_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static unsigned int decode(const struct rtc *r, u8 v)
{
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode_hour(const struct rtc *r, unsigned int hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? PM_BIT : 0);
}

static unsigned int decode_hour(const struct rtc *r, u8 v)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & ~PM_BIT) % 12 + (v & PM_BIT ? 12 : 0);
}

static void store_civil(struct rtc *r, u64 seconds)
{
	struct civil c;

	civil_from_seconds(seconds, &c);
	r->cmos[SECONDS] = encode(r, c.second);
	r->cmos[MINUTES] = encode(r, c.minute);
	r->cmos[HOURS] = encode_hour(r, c.hour);
	r->cmos[WEEKDAY] = encode(r, c.weekday);
	r->cmos[DAY] = encode(r, c.day);
	r->cmos[MONTH] = encode(r, c.month);
	r->cmos[YEAR] = encode(r, c.year % 100);
	/* Firmware and systems take the century as BCD in either mode. */
	r->cmos[RTC_CENTURY] = (u8)(c.year / 1000 % 10 << 4 | c.year / 100 % 10);
}

/* What the registers say, in seconds since 1970; nonsense is brought into range, and what lies
 * before 1970 becomes 1970. */
static u64 load_civil(const struct rtc *r)
{
	u8 c = r->cmos[RTC_CENTURY];
	unsigned int century = (c >> 4) * 10u + (c & 15);
	/* Nanoseconds since 1970 fit until 2554. */
	unsigned int year = min(century * 100 + decode(r, r->cmos[YEAR]) % 100, 2500u);
	unsigned int month = min(max(decode(r, r->cmos[MONTH]), 1u), 12u);
	unsigned int day = min(max(decode(r, r->cmos[DAY]), 1u), 31u);
	u64 in_day = decode_hour(r, r->cmos[HOURS]) % 24 * 3600 +
		     decode(r, r->cmos[MINUTES]) % 60 * 60 + decode(r, r->cmos[SECONDS]) % 60;

	if (year < 1970)
		return in_day;
	return days_from_civil(year, month, day) * DAY_S + in_day;
}

/* ---- running and standing still ---- */

static bool standing(const struct rtc *r)
{
	return (r->cmos[REG_B] & B_SET) || (r->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

static u64 guest_ns(const struct rtc *r)
{
	return clock_realtime_ns() + r->offset_ns;
}

static unsigned int rate_shift(const struct rtc *r)
{
	unsigned int rate = r->cmos[REG_A] & A_RATE;

	/* 1 and 2 give the same as 8 and 9 with a 32 kHz crystal. */
	return rate < 3 ? rate + 6 : rate - 1;
}

static bool has_rate(const struct rtc *r)
{
	return (r->cmos[REG_A] & A_RATE) && !standing(r);
}

/* Periods of the periodic interrupt since 1970. */
static u64 tick_of(const struct rtc *r, u64 ns)
{
	u64 base = ns / NSEC_PER_SEC * BASE_HZ + ns % NSEC_PER_SEC * BASE_HZ / NSEC_PER_SEC;

	return base >> rate_shift(r);
}

/* When a period begins: rounded up, so that tick_of() agrees. */
static u64 ns_of_tick(const struct rtc *r, u64 tick)
{
	u64 base = tick << rate_shift(r);

	return base / BASE_HZ * NSEC_PER_SEC + div_round_up(base % BASE_HZ * NSEC_PER_SEC, BASE_HZ);
}

/* Nothing before this moment raises a flag. */
static void forget_past(struct rtc *r)
{
	u64 ns = guest_ns(r);

	r->seen_s = ns / NSEC_PER_SEC;
	r->seen_tick = tick_of(r, ns);
}

/* Make the guest's clock show `seconds`, of which phase_ns have passed. */
static void set_time(struct rtc *r, u64 seconds, u64 phase_ns)
{
	r->offset_ns = seconds * NSEC_PER_SEC + phase_ns - clock_realtime_ns();
	forget_past(r);
}

/* ---- flags and interrupts ---- */

static void update_irq(struct rtc *r)
{
	u8 *c = &r->cmos[REG_C];
	bool irq = *c & r->cmos[REG_B] & C_SOURCES; /* flags and enables have the same bits */

	*c = (*c & C_SOURCES) | (irq ? C_IRQF : 0);
	irq_set(&r->line, irq);
}

static bool alarm_field(u8 alarm, u8 now)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

static bool alarm_at(const struct rtc *r, u64 seconds)
{
	unsigned int in_day = (unsigned int)(seconds % DAY_S);

	return alarm_field(r->cmos[SECONDS_ALARM], encode(r, in_day % 60)) &&
	       alarm_field(r->cmos[MINUTES_ALARM], encode(r, in_day / 60 % 60)) &&
	       alarm_field(r->cmos[HOURS_ALARM], encode_hour(r, in_day / 3600));
}

static void see_seconds(struct rtc *r)
{
	u64 now = guest_ns(r) / NSEC_PER_SEC;

	if (standing(r) || now <= r->seen_s) {
		r->seen_s = min(r->seen_s, now); /* the host's clock was put back */
		return;
	}
	r->cmos[REG_C] |= C_UF;
	/* A day has every time of day. */
	for (u64 s = max(r->seen_s + 1, now - min(now, (u64)DAY_S)); s <= now; s++) {
		if (!alarm_at(r, s))
			continue;
		r->cmos[REG_C] |= C_AF;
		break;
	}
	r->seen_s = now;
}

static void see_ticks(struct rtc *r)
{
	u64 now = tick_of(r, guest_ns(r));

	if (has_rate(r) && now > r->seen_tick)
		r->cmos[REG_C] |= C_PF;
	r->seen_tick = now;
}

static void arm_at_guest_time(const struct rtc *r, struct bus_timer *timer, u64 ns)
{
	u64 now = guest_ns(r);

	bus_timer_arm(timer, clock_now_ns() + (ns > now ? ns - now : 0));
}

static void arm_second(struct rtc *r)
{
	if (!(r->cmos[REG_B] & (B_UIE | B_AIE)) || standing(r))
		bus_timer_disarm(&r->second);
	else
		arm_at_guest_time(r, &r->second, (r->seen_s + 1) * NSEC_PER_SEC);
}

static void arm_periodic(struct rtc *r)
{
	if (!(r->cmos[REG_B] & B_PIE) || !has_rate(r))
		bus_timer_disarm(&r->periodic);
	else
		arm_at_guest_time(r, &r->periodic, ns_of_tick(r, r->seen_tick + 1));
}

static void on_second(struct bus_timer *timer)
{
	struct rtc *r = container_of(timer, struct rtc, second);

	see_seconds(r);
	update_irq(r);
	arm_second(r);
}

/* One period at a time: a guest that reads register C quickly enough gets late ones too. */
static void on_periodic(struct bus_timer *timer)
{
	struct rtc *r = container_of(timer, struct rtc, periodic);
	u64 now = tick_of(r, guest_ns(r)), limit = CATCH_UP_S * BASE_HZ >> rate_shift(r);

	if (now > r->seen_tick) {
		r->cmos[REG_C] |= C_PF;
		r->seen_tick = now - r->seen_tick > limit ? now : r->seen_tick + 1;
		update_irq(r);
	}
	arm_periodic(r);
}

/* ---- registers ---- */

static u8 read_a(const struct rtc *r)
{
	u64 phase = guest_ns(r) % NSEC_PER_SEC;
	bool uip = !standing(r) && phase >= NSEC_PER_SEC - UIP_NS;

	return r->cmos[REG_A] | (uip ? A_UIP : 0);
}

static u8 read_c(struct rtc *r)
{
	u8 value;

	see_seconds(r);
	/* With the interrupt enabled the timer counts the periods. */
	if (!r->periodic.armed)
		see_ticks(r);
	update_irq(r);
	value = r->cmos[REG_C];
	r->cmos[REG_C] = 0;
	update_irq(r);
	return value;
}

static bool is_time(u8 index)
{
	return index == RTC_CENTURY || (index <= YEAR && (index > HOURS_ALARM || !(index & 1)));
}

static u8 read_cmos(struct rtc *r, u8 index)
{
	if (is_time(index) && !standing(r))
		store_civil(r, guest_ns(r) / NSEC_PER_SEC);
	switch (index) {
	case REG_A:
		return read_a(r);
	case REG_C:
		return read_c(r);
	default:
		return r->cmos[index];
	}
}

static void write_time(struct rtc *r, u8 index, u8 value)
{
	u64 now = guest_ns(r);

	if (standing(r)) {
		r->cmos[index] = value;
		return;
	}
	store_civil(r, now / NSEC_PER_SEC);
	r->cmos[index] = value;
	set_time(r, load_civil(r), now % NSEC_PER_SEC);
	arm_second(r);
	arm_periodic(r);
}

/* A or B changed: stop, start or go on. The divider starts with half a second to the update. */
static void write_control(struct rtc *r, u8 index, u8 value)
{
	bool was_standing = standing(r);
	bool was_reset = (r->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;

	if (!was_standing) {
		see_seconds(r);
		see_ticks(r);
		store_civil(r, guest_ns(r) / NSEC_PER_SEC);
	}
	r->cmos[index] = value;
	if (was_standing && !standing(r))
		set_time(r, load_civil(r), was_reset ? NSEC_PER_SEC / 2 : 0);
	else if (!was_standing && !standing(r))
		r->seen_tick = tick_of(r, guest_ns(r));
	update_irq(r);
	arm_second(r);
	arm_periodic(r);
}

static void write_cmos(struct rtc *r, u8 index, u8 value)
{
	if (is_time(index))
		write_time(r, index, value);
	else if (index == REG_A)
		write_control(r, REG_A, value & ~A_UIP);
	else if (index == REG_B)
		write_control(r, REG_B, value & B_SET ? value & ~B_UIE : value);
	else if (index != REG_C && index != REG_D)
		r->cmos[index] = value;
}

static u8 read_port(void *ctx, u64 offset)
{
	struct rtc *r = ctx;

	if (offset == 1)
		return read_cmos(r, r->index);
	if (offset == 3)
		return r->cmos[0x80 | r->index_high];
	return 0xff; /* the index is write-only */
}

static void write_port(void *ctx, u64 offset, u8 value)
{
	struct rtc *r = ctx;

	if (offset == 0)
		r->index = value & 0x7f; /* bit 7 masks NMI */
	else if (offset == 1)
		write_cmos(r, r->index, value);
	else if (offset == 2)
		r->index_high = value & 0x7f;
	else
		r->cmos[0x80 | r->index_high] = value;
}

static u64 rtc_read(void *ctx, u64 offset, unsigned int size)
{
	return bytewise_read(ctx, read_port, offset, size, RTC_PORTS);
}

static void rtc_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	bytewise_write(ctx, write_port, offset, size, RTC_PORTS, value);
}

static const struct bus_ops rtc_ops = {rtc_read, rtc_write};

void rtc_set_cmos(struct device *dev, u8 index, u8 value)
{
	if (index >= FIRST_RAM && index != RTC_CENTURY)
		container_of(dev, struct rtc, dev)->cmos[index] = value;
}

/* ---- life ---- */

static void set_word(struct rtc *r, u8 index, u64 value)
{
	value = min(value, (u64)0xffff);
	r->cmos[index] = (u8)value;
	r->cmos[index + 1] = (u8)(value >> 8);
}

/* The bytes that firmware reads; the names are the BIOS's. */
static void fill_cmos(struct rtc *r, const struct rtc_config *c)
{
	u64 low = c->ram_below_4g, high = c->ram_above_4g / (64 * KiB);

	r->cmos[REG_A] = 0x26; /* 32 kHz, 1024 Hz */
	r->cmos[REG_B] = B_24H;
	r->cmos[REG_D] = D_VRT;
	r->cmos[0x14] = 0x06; /* equipment: coprocessor, pointing device */
	set_word(r, 0x15, min(low / KiB, (u64)640));
	set_word(r, 0x17, low > MiB ? (low - MiB) / KiB : 0);
	set_word(r, 0x30, low > MiB ? (low - MiB) / KiB : 0);
	set_word(r, 0x34, low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0);
	high = min(high, (u64)0xffffff);
	r->cmos[0x5b] = (u8)high;
	r->cmos[0x5c] = (u8)(high >> 8);
	r->cmos[0x5d] = (u8)(high >> 16);
	r->cmos[0x5f] = (u8)(c->cpus ? min(c->cpus - 1, 255u) : 0);
	r->cmos[0x3d] = (u8)c->boot_order;
	r->cmos[0x38] = (u8)((c->boot_order >> 8 & 15) << 4) | 1; /* no floppy signature check */
}

static int rtc_init(struct device *dev, const void *config, struct err *err)
{
	struct rtc *r = container_of(dev, struct rtc, dev);
	static const struct rtc_config none;
	const struct rtc_config *c = config ? config : &none;

	bus_timer_init(dev->bus, &r->second, on_second);
	bus_timer_init(dev->bus, &r->periodic, on_periodic);
	irq_line_init(&r->line, dev->bus, RTC_GSI);
	r->range = (struct bus_range){
		.name = "rtc",
		.space = BUS_PIO,
		.base = RTC_PORT,
		.size = RTC_PORTS,
		.ops = &rtc_ops,
		.ctx = r,
	};
	if (bus_add(dev->bus, &r->range))
		return err_set(err, EEXIST, "ports 0x70 to 0x73 are taken");
	r->offset_ns = (u64)c->offset_s * NSEC_PER_SEC;
	fill_cmos(r, c);
	forget_past(r);
	return 0;
}

/* The clock and the memory are on a battery: only what the RESET pin does (section "RESET"). */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	r->cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	r->cmos[REG_C] = 0;
	update_irq(r);
	arm_second(r);
	arm_periodic(r);
}

static void rtc_free(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	bus_remove(dev->bus, &r->range);
	bus_timer_disarm(&r->second);
	bus_timer_disarm(&r->periodic);
	irq_set(&r->line, false);
}

static void rtc_saving(void *object)
{
	struct rtc *r = container_of(object, struct rtc, dev);

	if (!standing(r))
		store_civil(r, guest_ns(r) / NSEC_PER_SEC);
}

static int rtc_loaded(void *object, struct err *err)
{
	struct rtc *r = container_of(object, struct rtc, dev);
	u64 now;

	r->index &= 0x7f;
	r->index_high &= 0x7f;
	r->cmos[REG_A] &= ~A_UIP;
	r->cmos[REG_D] = D_VRT;
	now = guest_ns(r);
	/* What the guest missed while it was away is not made up for. */
	if (r->seen_s > now / NSEC_PER_SEC || now / NSEC_PER_SEC - r->seen_s > DAY_S)
		r->seen_s = now / NSEC_PER_SEC;
	r->seen_tick = tick_of(r, now);
	update_irq(r);
	arm_second(r);
	arm_periodic(r);
	return 0;
}

static const struct state_field rtc_fields[] = {
	STATE_BUFFER(struct rtc, cmos),	     STATE_FIELD(struct rtc, index),
	STATE_FIELD(struct rtc, index_high), STATE_FIELD(struct rtc, offset_ns),
	STATE_FIELD(struct rtc, seen_s),     STATE_END,
};

static const struct state_desc rtc_state = {
	.name = "rtc",
	.version = 1,
	.fields = rtc_fields,
	.saving = rtc_saving,
	.loaded = rtc_loaded,
};

const struct device_class rtc_class = {
	.name = "rtc",
	.summary = "MC146818 clock and CMOS memory",
	.size = sizeof(struct rtc),
	.init = rtc_init,
	.reset = rtc_reset,
	.free = rtc_free,
	.state = &rtc_state,
};
