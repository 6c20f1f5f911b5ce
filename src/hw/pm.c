/*
 * Invariants:
 * 1. The SCI is high exactly while SCI_EN is set and some status bit is set whose enable bit is.
 * 2. The timer counts clock_now_ns() from timer_base on; TMR_STS is worked out when somebody looks,
 *    or by a host timer while its interrupt is enabled.
 *
 * ACPI 6.4, sections 4.8.2 and 4.8.3; the SMI enable register is that of Intel's ICH9.
 */
#include "hw/pm.h"

#include <errno.h>

#include "base/log.h"
#include "bus/irq.h"
#include "hw/bytewise.h"
#include "os/clock.h"

#define GPE_BYTES  (PM_GPE0_LEN / 2)
#define SMI_EN	   0x30
#define SMI_EN_LEN 4
/* "SMIs of the command port are set up": firmware then leaves system management mode alone. */
#define SMI_EN_APMC 0x20
#define PM1_EVENTS  (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)
#define PM1_BM_RLD  (1 << 1)
#define RESET_CPU   0x04
#define RESET_KEPT  0x0a

struct pm {
	struct device dev;
	struct bus_range block, second, smi, reset;
	struct irq_line sci;
	struct bus_timer overflow;
	bool acpi_at_reset;
	u8 timer_bits;
	u16 status, enable, control;
	u8 gpe_status[GPE_BYTES], gpe_enable[GPE_BYTES];
	u8 smi_data[2], reset_value;
	u64 timer_base; /* added to the host's count */
	u64 seen_half;	/* half periods of the timer that TMR_STS covers */
	u64 saved_count;
};

/* ---- timer ---- */

static u64 host_count(u64 ns)
{
	return ns / NSEC_PER_SEC * PM_TMR_HZ + ns % NSEC_PER_SEC * PM_TMR_HZ / NSEC_PER_SEC;
}

static u64 count(const struct pm *pm)
{
	return host_count(clock_now_ns()) + pm->timer_base;
}

static u32 timer_value(const struct pm *pm)
{
	return (u32)count(pm) & (u32)((1ULL << pm->timer_bits) - 1);
}

/* The status bit is set whenever the highest bit of the counter changes. */
static void see_timer(struct pm *pm)
{
	u64 half = count(pm) >> (pm->timer_bits - 1);

	if (half != pm->seen_half)
		pm->status |= PM1_TMR;
	pm->seen_half = half;
}

static void arm_overflow(struct pm *pm)
{
	u64 left;

	if (!(pm->enable & PM1_TMR) || !(pm->control & PM1_SCI_EN) || (pm->status & PM1_TMR)) {
		bus_timer_disarm(&pm->overflow);
		return;
	}
	left = ((pm->seen_half + 1) << (pm->timer_bits - 1)) - count(pm);
	left = min(left, 1ULL << (pm->timer_bits - 1));
	bus_timer_arm(&pm->overflow,
		      clock_now_ns() + left * NSEC_PER_SEC / PM_TMR_HZ + NSEC_PER_USEC);
}

/* ---- events ---- */

static void update_sci(struct pm *pm)
{
	bool raise = pm->status & pm->enable & PM1_EVENTS;

	for (int i = 0; i < GPE_BYTES; i++)
		raise |= pm->gpe_status[i] & pm->gpe_enable[i];
	irq_set(&pm->sci, raise && (pm->control & PM1_SCI_EN));
	arm_overflow(pm);
}

static void on_overflow(struct bus_timer *timer)
{
	struct pm *pm = container_of(timer, struct pm, overflow);

	see_timer(pm);
	update_sci(pm);
}

void pm_power_button(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pm->status |= PM1_PWRBTN;
	update_sci(pm);
}

bool pm_power_button_enabled(const struct device *dev)
{
	const struct pm *pm = container_of(dev, struct pm, dev);

	return (pm->enable & PM1_PWRBTN) && (pm->control & PM1_SCI_EN);
}

void pm_gpe_raise(struct device *dev, unsigned int n)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	if (n >= PM_GPES)
		return;
	pm->gpe_status[n / 8] |= (u8)(1 << n % 8);
	update_sci(pm);
}

/* ---- sleeping ---- */

static void enter_sleep(struct pm *pm)
{
	unsigned int type = (pm->control & PM1_SLP_TYP_MASK) >> PM1_SLP_TYP_SHIFT;

	if (type == PM_SLP_TYP_S5) {
		bus_request(pm->dev.bus, BUS_SHUTDOWN_REQUEST, 0);
		return;
	}
	/* Not offered by the tables: the guest would wait for this bit. */
	log_guest("pm: sleep type %u is not offered", type);
	pm->status |= PM1_WAK_STS;
}

static void write_control(struct pm *pm, u16 value)
{
	pm->control = value & (PM1_SCI_EN | PM1_BM_RLD | PM1_SLP_TYP_MASK);
	if (value & PM1_SLP_EN)
		enter_sleep(pm);
}

/* ---- the block of registers, byte by byte ---- */

static u8 half_of(u16 value, u64 offset)
{
	return (u8)(value >> (offset & 1 ? 8 : 0));
}

static u8 read_byte(void *ctx, u64 offset)
{
	struct pm *pm = ctx;

	switch (offset) {
	case PM1_EVT ... PM1_EVT + 1:
		see_timer(pm);
		return half_of(pm->status, offset);
	case PM1_EVT + 2 ... PM1_EVT + 3:
		return half_of(pm->enable, offset);
	case PM1_CNT ... PM1_CNT + 1:
		return half_of(pm->control, offset);
	case PM_TMR ... PM_TMR + 3:
		return (u8)(timer_value(pm) >> (8 * (offset - PM_TMR)));
	case PM_GPE0 ... PM_GPE0 + GPE_BYTES - 1:
		return pm->gpe_status[offset - PM_GPE0];
	case PM_GPE0 + GPE_BYTES... PM_GPE0 + PM_GPE0_LEN - 1:
		return pm->gpe_enable[offset - PM_GPE0 - GPE_BYTES];
	case SMI_EN:
		return SMI_EN_APMC;
	default:
		return 0;
	}
}

static u16 merge(u16 old, u64 offset, u8 value)
{
	return (u16)(offset & 1 ? (old & 0x00ff) | value << 8 : (old & 0xff00) | value);
}

static void write_byte(void *ctx, u64 offset, u8 value)
{
	struct pm *pm = ctx;

	switch (offset) {
	case PM1_EVT ... PM1_EVT + 1:
		see_timer(pm);
		pm->status &= (u16)~merge(0, offset, value);
		break;
	case PM1_EVT + 2 ... PM1_EVT + 3:
		see_timer(pm);
		pm->enable = merge(pm->enable, offset, value) & PM1_EVENTS;
		break;
	case PM1_CNT:
		pm->control = merge(pm->control, offset, value) &
			      (PM1_SCI_EN | PM1_BM_RLD | PM1_SLP_TYP_MASK);
		break;
	case PM1_CNT + 1:
		write_control(pm, merge(pm->control, offset, value));
		break;
	case PM_GPE0 ... PM_GPE0 + GPE_BYTES - 1:
		pm->gpe_status[offset - PM_GPE0] &= (u8)~value;
		break;
	case PM_GPE0 + GPE_BYTES... PM_GPE0 + PM_GPE0_LEN - 1:
		pm->gpe_enable[offset - PM_GPE0 - GPE_BYTES] = value;
		break;
	default:
		break;
	}
}

static u64 block_read(void *ctx, u64 offset, unsigned int size)
{
	if (offset == PM_TMR && size == PM_TMR_LEN)
		return timer_value(ctx); /* in one piece */
	return bytewise_read(ctx, read_byte, offset, size, PM_SIZE);
}

static void block_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	bytewise_write(ctx, write_byte, offset, size, PM_SIZE, value);
	update_sci(ctx);
}

static const struct bus_ops block_ops = {.read = block_read, .write = block_write};

/* ---- SMI command port: what firmware's handler would do ---- */

static u8 smi_read(void *ctx, u64 offset)
{
	const struct pm *pm = ctx;

	return pm->smi_data[offset];
}

static void smi_write(void *ctx, u64 offset, u8 value)
{
	struct pm *pm = ctx;

	pm->smi_data[offset] = value;
	if (offset)
		return;
	if (value == PM_ACPI_ENABLE)
		pm->control |= PM1_SCI_EN;
	else if (value == PM_ACPI_DISABLE)
		pm->control &= (u16)~PM1_SCI_EN;
	update_sci(pm);
}

static u64 smi_wide_read(void *ctx, u64 offset, unsigned int size)
{
	return bytewise_read(ctx, smi_read, offset, size, 2);
}

static void smi_wide_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	bytewise_write(ctx, smi_write, offset, size, 2, value);
}

static const struct bus_ops smi_ops = {.read = smi_wide_read, .write = smi_wide_write};

/* ---- reset control ---- */

static u64 reset_read(void *ctx, u64 offset, unsigned int size)
{
	const struct pm *pm = ctx;

	return pm->reset_value;
}

static void reset_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct pm *pm = ctx;

	pm->reset_value = value & RESET_KEPT;
	if (value & RESET_CPU)
		bus_request(pm->dev.bus, BUS_RESET_REQUEST, 0);
}

static const struct bus_ops reset_ops = {.read = reset_read, .write = reset_write};

/* ---- life ---- */

static int claim(struct pm *pm, struct bus_range *range, const char *name, u16 port, u64 size,
		 const struct bus_ops *ops, struct err *err)
{
	*range = (struct bus_range){
		.name = name,
		.space = BUS_PIO,
		.base = port,
		.size = size,
		.ops = ops,
		.ctx = pm,
	};
	if (bus_add(pm->dev.bus, range))
		return err_set(err, EEXIST, "port 0x%x is taken", port);
	return 0;
}

static int pm_init(struct device *dev, const void *config, struct err *err)
{
	struct pm *pm = container_of(dev, struct pm, dev);
	static const struct pm_config none;
	const struct pm_config *c = config ? config : &none;
	int rc;

	pm->acpi_at_reset = c->acpi_enabled;
	pm->timer_bits = c->timer_32bit ? 32 : 24;
	bus_timer_init(dev->bus, &pm->overflow, on_overflow);
	irq_line_init(&pm->sci, dev->bus, c->sci_gsi ? c->sci_gsi : PM_SCI_GSI);
	rc = claim(pm, &pm->block, "pm", c->base ? c->base : PM_BASE, PM_SIZE, &block_ops, err);
	if (!rc && c->second_base)
		rc = claim(pm, &pm->second, "pm-second", c->second_base, PM_SIZE, &block_ops, err);
	if (!rc)
		rc = claim(pm, &pm->smi, "pm-smi", PM_SMI_CMD, 2, &smi_ops, err);
	if (!rc && !c->no_reset_port)
		rc = claim(pm, &pm->reset, "pm-reset", PM_RESET_PORT, 1, &reset_ops, err);
	return rc;
}

static void pm_reset(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pm->status = pm->enable = 0;
	pm->control = pm->acpi_at_reset ? PM1_SCI_EN : 0;
	for (int i = 0; i < GPE_BYTES; i++)
		pm->gpe_status[i] = pm->gpe_enable[i] = 0;
	pm->smi_data[0] = pm->smi_data[1] = pm->reset_value = 0;
	pm->timer_base = -host_count(clock_now_ns());
	pm->seen_half = 0;
	update_sci(pm);
}

static void pm_free(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	bus_remove(dev->bus, &pm->block);
	bus_remove(dev->bus, &pm->second);
	bus_remove(dev->bus, &pm->smi);
	bus_remove(dev->bus, &pm->reset);
	bus_timer_disarm(&pm->overflow);
	irq_set(&pm->sci, false);
}

static void pm_saving(void *object)
{
	struct pm *pm = container_of(object, struct pm, dev);

	see_timer(pm);
	pm->saved_count = count(pm);
}

static int pm_loaded(void *object, struct err *err)
{
	struct pm *pm = container_of(object, struct pm, dev);

	pm->timer_base = pm->saved_count - host_count(clock_now_ns());
	pm->seen_half = count(pm) >> (pm->timer_bits - 1);
	pm->enable &= PM1_EVENTS;
	pm->control &= PM1_SCI_EN | PM1_BM_RLD | PM1_SLP_TYP_MASK;
	update_sci(pm);
	return 0;
}

static const struct state_field pm_fields[] = {
	STATE_FIELD(struct pm, status),
	STATE_FIELD(struct pm, enable),
	STATE_FIELD(struct pm, control),
	STATE_BUFFER(struct pm, gpe_status),
	STATE_BUFFER(struct pm, gpe_enable),
	STATE_BUFFER(struct pm, smi_data),
	STATE_FIELD(struct pm, reset_value),
	STATE_FIELD(struct pm, saved_count),
	STATE_END,
};

static const struct state_desc pm_state = {
	.name = "pm",
	.version = 1,
	.fields = pm_fields,
	.saving = pm_saving,
	.loaded = pm_loaded,
};

const struct device_class pm_class = {
	.name = "pm",
	.summary = "ACPI power management registers",
	.size = sizeof(struct pm),
	.init = pm_init,
	.reset = pm_reset,
	.free = pm_free,
	.state = &pm_state,
};
