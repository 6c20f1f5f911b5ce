/*
 * The 8254 interval timer at ports 0x40 to 0x43, and, with KVM_PIT_SPEAKER_DUMMY, the PC's port
 * 0x61 with the gate and output of channel 2. Intel 8254 data sheet. Counters are not stepped:
 * their value follows from the time since they were loaded.
 *
 * Channel 0 drives GSI 0. With reinjection (the default) a tick that comes before the last one was
 * acknowledged is kept and given later, so that a guest that counts ticks keeps time.
 *
 * Invariant: everything is under irq_lock; the timer's callback takes it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/irq.h"
#include "os/clock.h"

#define PIT_HZ		   1193182ULL
#define RW_LSB		   1
#define RW_MSB		   2
#define RW_BOTH		   3 /* low byte first */
#define RW_BOTH_SECOND	   4 /* read_state, write_state: the high byte is next */
#define MIN_TICK_NS	   200000ULL
#define MAX_PENDING_TICKS  1000
#define STATUS_OUT	   0x80
#define REFRESH_TOGGLE_BIT 14 /* of the nanosecond clock: about the 15 us of the PC's refresh */

struct kvm_pit {
	struct io_device dev, speaker; /* dev first: kvm_pit_free() */
	struct kvm_pit_channel_state channel[3];
	u32 flags; /* KVM_PIT_FLAGS_* */
	bool speaker_on;
	struct kvm_timer timer;
	u64 period_ns; /* 0: one shot */
	u64 next_ns;
	bool reinject;
	bool acked;  /* the last tick was acknowledged */
	u32 pending; /* ticks not given yet */
};

/* ---- what a counter shows ---- */

static u64 ns_to_ticks(u64 ns)
{
	return (u64)((unsigned __int128)ns * PIT_HZ / NSEC_PER_SEC);
}

static u64 ticks_to_ns(u64 ticks)
{
	return (u64)((unsigned __int128)ticks * NSEC_PER_SEC / PIT_HZ);
}

static u64 elapsed(const struct kvm_pit_channel_state *c)
{
	s64 ns = (s64)clock_now_ns() - c->count_load_time;

	return ns > 0 ? ns_to_ticks((u64)ns) : 0;
}

static u32 counter(const struct kvm_pit_channel_state *c)
{
	u64 d = elapsed(c);

	switch (c->mode) {
	case 2:
		return (u32)(c->count - d % c->count);
	case 3: /* counts by two */
		return (u32)(c->count - (2 * d) % c->count);
	default:
		return (u32)((c->count - d) & 0xffff);
	}
}

static bool output(const struct kvm_pit_channel_state *c)
{
	u64 d = elapsed(c);

	switch (c->mode) {
	case 0:
		return d >= c->count;
	case 1:
		return d >= c->count;
	case 2:
		return d % c->count != c->count - 1;
	case 3:
		return d % c->count < (c->count + 1) / 2;
	default: /* 4 and 5: low for one clock at the end */
		return d != c->count;
	}
}

/* ---- channel 0's interrupt ---- */

/* A tick that nobody took (masked) is not waited for. */
static void pulse_locked(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->arch->pit;

	if (kvm_set_irq_locked(kvm, IRQ_SOURCE_PIT, 0, 1) < 0) {
		pit->acked = true;
		pit->pending = 0;
	}
	kvm_set_irq_locked(kvm, IRQ_SOURCE_PIT, 0, 0);
}

static void tick_locked(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->arch->pit;

	if (!pit->reinject) {
		pulse_locked(kvm);
		return;
	}
	pit->pending = min(pit->pending + 1, (u32)MAX_PENDING_TICKS);
	if (!pit->acked)
		return;
	pit->acked = false;
	pulse_locked(kvm);
}

void kvm_pit_acked_locked(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->arch->pit;

	if (!pit || pit->acked)
		return;
	pit->acked = true;
	if (pit->pending)
		pit->pending--;
	if (!pit->pending || !pit->reinject)
		return;
	pit->acked = false;
	pulse_locked(kvm);
}

/* The tick that was waited for may have gone where nobody looks: start afresh. */
void kvm_pit_unmasked_locked(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->arch->pit;

	if (!pit)
		return;
	pit->acked = true;
	pit->pending = 0;
}

/* Helper thread. */
static void fired(struct kvm_timer *timer)
{
	struct kvm *kvm = timer->kvm;
	struct kvm_pit *pit = kvm->arch->pit;
	u64 now = clock_now_ns();

	pthread_mutex_lock(&kvm->arch->irq_lock);
	tick_locked(kvm);
	if (pit->period_ns) {
		pit->next_ns += pit->period_ns;
		if (pit->next_ns + MAX_PENDING_TICKS * pit->period_ns < now)
			pit->next_ns = now + pit->period_ns;
		kvm_timer_arm(timer, pit->next_ns);
	}
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}

/* irq_lock is held, so the callback cannot be waited for; one that is about to run gives a tick
 * of the old count, as a chip may that is being reprogrammed. */
static void start_timer(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->arch->pit;
	const struct kvm_pit_channel_state *c = &pit->channel[0];
	u64 ns = ticks_to_ns(c->count);

	kvm_timer_disarm(&pit->timer);
	pit->period_ns = 0;
	pit->pending = 0;
	pit->acked = true;
	if (pit->flags & KVM_PIT_FLAGS_HPET_LEGACY)
		return;
	switch (c->mode) {
	case 0:
	case 1:
	case 4:
		break;
	case 2:
	case 3:
		ns = max(ns, (u64)MIN_TICK_NS);
		pit->period_ns = ns;
		break;
	default:
		return;
	}
	pit->next_ns = clock_now_ns() + ns;
	kvm_timer_arm(&pit->timer, pit->next_ns);
}

/* ---- programming ---- */

static void load_count(struct kvm *kvm, u32 n, u32 count)
{
	struct kvm_pit_channel_state *c = &kvm->arch->pit->channel[n];

	c->count = count ? count : 0x10000;
	c->count_load_time = (s64)clock_now_ns();
	if (n == 0)
		start_timer(kvm);
}

static void latch_count(struct kvm_pit_channel_state *c)
{
	if (c->count_latched)
		return;
	c->latched_count = (u16)counter(c);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct kvm_pit_channel_state *c)
{
	if (c->status_latched)
		return;
	c->status = (u8)((output(c) ? STATUS_OUT : 0) | c->rw_mode << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void read_back(struct kvm_pit *pit, u8 val)
{
	for (u32 n = 0; n < 3; n++) {
		if (!(val & 2u << n))
			continue;
		if (!(val & 0x20))
			latch_count(&pit->channel[n]);
		if (!(val & 0x10))
			latch_status(&pit->channel[n]);
	}
}

static void write_control(struct kvm *kvm, u8 val)
{
	struct kvm_pit *pit = kvm->arch->pit;
	u32 n = val >> 6, access = val >> 4 & 3;
	struct kvm_pit_channel_state *c;

	if (n == 3) {
		read_back(pit, val);
		return;
	}
	c = &pit->channel[n];
	if (!access) {
		latch_count(c);
		return;
	}
	c->rw_mode = c->read_state = c->write_state = (u8)access;
	c->mode = val >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4;
	c->bcd = val & 1;
	if (n == 0)
		kvm_timer_disarm(&pit->timer);
}

static void write_counter(struct kvm *kvm, u32 n, u8 val)
{
	struct kvm_pit_channel_state *c = &kvm->arch->pit->channel[n];

	switch (c->write_state) {
	case RW_MSB:
		load_count(kvm, n, (u32)val << 8);
		break;
	case RW_BOTH:
		c->write_latch = val;
		c->write_state = RW_BOTH_SECOND;
		break;
	case RW_BOTH_SECOND:
		c->write_state = RW_BOTH;
		load_count(kvm, n, c->write_latch | (u32)val << 8);
		break;
	default:
		load_count(kvm, n, val);
		break;
	}
}

static u8 read_latched(struct kvm_pit_channel_state *c)
{
	switch (c->count_latched) {
	case RW_MSB:
		c->count_latched = 0;
		return (u8)(c->latched_count >> 8);
	case RW_BOTH:
		c->count_latched = RW_MSB;
		return (u8)c->latched_count;
	default:
		c->count_latched = 0;
		return (u8)c->latched_count;
	}
}

static u8 read_counter(struct kvm_pit_channel_state *c)
{
	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return read_latched(c);
	switch (c->read_state) {
	case RW_MSB:
		return (u8)(counter(c) >> 8);
	case RW_BOTH:
		c->read_state = RW_BOTH_SECOND;
		return (u8)counter(c);
	case RW_BOTH_SECOND:
		c->read_state = RW_BOTH;
		return (u8)(counter(c) >> 8);
	default:
		return (u8)counter(c);
	}
}

/* A rising gate restarts modes 1, 2, 3 and 5. */
static void set_gate(struct kvm_pit_channel_state *c, bool gate)
{
	bool triggered = c->mode == 1 || c->mode == 2 || c->mode == 3 || c->mode == 5;

	if (gate && !c->gate && triggered)
		c->count_load_time = (s64)clock_now_ns();
	c->gate = gate;
}

/* ---- ports ---- */

static int pit_read(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len, void *val)
{
	struct kvm *kvm = vcpu->kvm;
	u8 byte = 0;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	if ((addr & 3) != 3)
		byte = read_counter(&kvm->arch->pit->channel[addr & 3]);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	memset(val, 0, len);
	*(u8 *)val = byte;
	return 0;
}

static int pit_write(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len,
		     const void *val)
{
	struct kvm *kvm = vcpu->kvm;
	u8 byte = *(const u8 *)val;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	if ((addr & 3) == 3)
		write_control(kvm, byte);
	else
		write_counter(kvm, addr & 3, byte);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return 0;
}

static int speaker_read(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len, void *val)
{
	struct kvm *kvm = vcpu->kvm;
	struct kvm_pit *pit = kvm->arch->pit;
	u8 byte;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	byte = (u8)(pit->channel[2].gate | pit->speaker_on << 1 |
		    (clock_now_ns() >> REFRESH_TOGGLE_BIT & 1) << 4 |
		    output(&pit->channel[2]) << 5);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	memset(val, 0, len);
	*(u8 *)val = byte;
	return 0;
}

static int speaker_write(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len,
			 const void *val)
{
	struct kvm *kvm = vcpu->kvm;
	struct kvm_pit *pit = kvm->arch->pit;
	u8 byte = *(const u8 *)val;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	pit->speaker_on = byte >> 1 & 1;
	set_gate(&pit->channel[2], byte & 1);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return 0;
}

static const struct io_device_ops pit_ops = {.read = pit_read, .write = pit_write};
static const struct io_device_ops speaker_ops = {.read = speaker_read, .write = speaker_write};

/* ---- life and state ---- */

static void reset_channels(struct kvm_pit *pit)
{
	for (u32 n = 0; n < 3; n++) {
		pit->channel[n].mode = 3; /* as KVM leaves it; undefined in hardware */
		pit->channel[n].gate = n != 2;
		pit->channel[n].count = 0x10000;
		pit->channel[n].count_load_time = (s64)clock_now_ns();
	}
}

int kvm_create_pit(struct kvm *kvm, u32 flags)
{
	struct kvm_pit *pit;
	int rc;

	if (flags & ~(u32)KVM_PIT_SPEAKER_DUMMY)
		return -EINVAL;
	pit = calloc(1, sizeof(*pit));
	if (!pit)
		return -ENOMEM;
	pit->dev.ops = &pit_ops;
	pit->speaker.ops = &speaker_ops;
	pit->reinject = pit->acked = true;
	reset_channels(pit);
	kvm_timer_init(kvm, &pit->timer, fired);
	kvm->arch->pit = pit;
	rc = kvm_io_bus_register(kvm, KVM_PIO_BUS, 0x40, 4, &pit->dev);
	if (!rc && (flags & KVM_PIT_SPEAKER_DUMMY))
		rc = kvm_io_bus_register(kvm, KVM_PIO_BUS, 0x61, 1, &pit->speaker);
	if (rc)
		kvm_pit_free(kvm);
	return rc;
}

void kvm_pit_stop(struct kvm *kvm)
{
	if (kvm->arch->pit)
		kvm_timer_disarm_sync(&kvm->arch->pit->timer);
}

void kvm_pit_free(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->arch->pit;

	if (!pit)
		return;
	kvm_pit_stop(kvm);
	kvm_io_bus_unregister(kvm, &pit->dev);
	kvm_io_bus_unregister(kvm, &pit->speaker);
	kvm->arch->pit = NULL;
	free(pit);
}

void kvm_pit_get(struct kvm *kvm, struct kvm_pit_state2 *state)
{
	struct kvm_pit *pit = kvm->arch->pit;

	memset(state, 0, sizeof(*state));
	pthread_mutex_lock(&kvm->arch->irq_lock);
	memcpy(state->channels, pit->channel, sizeof(state->channels));
	state->flags = pit->flags | (pit->speaker_on ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}

/* The kernel's value for a channel that was not programmed since reset; it does not count. */
#define MODE_NONE 0xff

static int check_channels(const struct kvm_pit_state2 *state)
{
	for (u32 n = 0; n < 3; n++)
		if ((state->channels[n].mode > 5 && state->channels[n].mode != MODE_NONE) ||
		    state->channels[n].count > 0x10000)
			return -EINVAL;
	return 0;
}

int kvm_pit_set(struct kvm *kvm, const struct kvm_pit_state2 *state)
{
	struct kvm_pit *pit = kvm->arch->pit;
	int rc = check_channels(state);

	if (rc)
		return rc;
	pthread_mutex_lock(&kvm->arch->irq_lock);
	memcpy(pit->channel, state->channels, sizeof(pit->channel));
	for (u32 n = 0; n < 3; n++) {
		pit->channel[n].count = pit->channel[n].count ? pit->channel[n].count : 0x10000;
		pit->channel[n].count_load_time = (s64)clock_now_ns();
	}
	pit->flags = state->flags & KVM_PIT_FLAGS_HPET_LEGACY;
	pit->speaker_on = !!(state->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	start_timer(kvm);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return 0;
}

void kvm_pit_set_reinject(struct kvm *kvm, bool on)
{
	pthread_mutex_lock(&kvm->arch->irq_lock);
	kvm->arch->pit->reinject = on;
	kvm->arch->pit->pending = 0;
	kvm->arch->pit->acked = true;
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}
