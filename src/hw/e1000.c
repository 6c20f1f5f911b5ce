/*
 * Registers, interrupts, life. Sending, receiving, PHY and EEPROM are in files of their own.
 *
 * Invariants:
 * 1. INTA# is asserted while ICR & IMS is not 0, but does not rise within ITR of its last rise.
 * 2. Registers are 32 bits; a narrower write does nothing, as on the chip (SDM 13.2).
 * 3. mac[] holds what reads back; what is worked out at a read is in e1000_read().
 * 4. The coalesced parts of BAR 0 (throttling, interrupt mask, receive tail, filter tables) hold
 * only registers whose effect can wait for the next trapped access; and see nic_mask, nic_bell.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "hw/e1000_int.h"
#include "os/clock.h"

#define ITR_UNIT_NS	     256
#define ITR_MAX_NS	     (0xffffULL * ITR_UNIT_NS)
#define ITR_MIN_NS	     (128 * NSEC_PER_USEC) /* when there is any throttling: 7,813 a second */
#define FLOOD_FRAMES	     32			   /* for one interrupt, */
#define FLOOD_BYTES	     256	   /* of fewer bytes each: a flood of small frames */
#define REST_FRAMES	     64		   /* that wait for each other then, */
#define REST_NS		     NSEC_PER_MSEC /* not longer than this */
#define DELAY_UNIT_NS	     1024ULL
#define DELAY_MIN_NS	     (4 * ITR_MIN_NS)
#define PCI_STATUS	     0x06 /* configuration space */
#define PCI_STATUS_INTERRUPT 0x08
#define IMS_MASK	     0x1ffff
#define TAIL_MASK	     0xffff
#define RAH_BITS	     0x8003ffff
#define IO_ADDRESS	     0 /* of BAR 1 */
#define IO_DATA		     4

/* ---- interrupts (SDM 13.4.17 to 13.4.22) ---- */

/* A guest of ours takes longer for an interrupt than the machines that drivers were tuned on. */
static u64 throttle_ns(struct e1000 *e)
{
	u64 units = *e1000_reg(e, E_ITR) & 0xffff;

	return units ? max(units * ITR_UNIT_NS, ITR_MIN_NS) : 0;
}

static void update_irq(struct e1000 *e)
{
	bool want = *e1000_reg(e, E_ICR) & *e1000_reg(e, E_IMS);
	bool raised = e->pci.config[PCI_STATUS] & PCI_STATUS_INTERRUPT;
	u64 now;

	nic_mask_set(&e->mask, *e1000_reg(e, E_ICR) && !*e1000_reg(e, E_IMS));
	if (!want || raised) {
		pci_set_intx(&e->pci, want);
		return;
	}
	now = clock_now_ns();
	if (now < e->next_interrupt_ns) {
		if (!e->throttle.armed)
			bus_timer_arm(&e->throttle, e->next_interrupt_ns);
		return;
	}
	e->next_interrupt_ns = now + throttle_ns(e);
	e->heard = e->heard_bytes = e->said = e->rest_frames = 0;
	pci_set_intx(&e->pci, true);
}

/*
 * The driver has dealt with an interrupt. In a flood of small frames the next ones wait for each
 * other, which they would do in its ring if they came any faster. Not if it sends as well: they may
 * be what it waits for.
 */
static void unmasked(struct e1000 *e)
{
	if (e->heard < FLOOD_FRAMES * (e->said + 1) || e->heard_bytes >= e->heard * FLOOD_BYTES ||
	    !*e1000_reg(e, E_ITR))
		return;
	e->rest_frames = REST_FRAMES;
	e->next_interrupt_ns = clock_now_ns() + REST_NS;
}

void e1000_raise_received(struct e1000 *e, u32 causes)
{
	if (e->rest_frames && !--e->rest_frames)
		e->next_interrupt_ns = 0;
	e1000_raise(e, causes);
}

static void on_throttle(struct bus_timer *timer)
{
	bus_sync(timer->bus);
	update_irq(container_of(timer, struct e1000, throttle));
}

static void collect_late(struct e1000 *e)
{
	if (!e->late)
		return;
	*e1000_reg(e, E_ICR) |= e->late;
	e->late = 0;
	e->late_descs = 0;
	bus_timer_disarm(&e->late_timer);
}

void e1000_raise(struct e1000 *e, u32 causes)
{
	*e1000_reg(e, E_ICR) |= causes;
	if (*e1000_reg(e, E_ICR) & *e1000_reg(e, E_IMS))
		collect_late(e);
	update_irq(e);
}

void e1000_raise_late(struct e1000 *e, u32 causes)
{
	u64 delay = max(*e1000_reg(e, E_TIDV), *e1000_reg(e, E_TADV) & 0xffff) * DELAY_UNIT_NS;

	if (e->late_descs >= *e1000_reg(e, E_TDLEN) / E1000_DESC / 2) {
		e1000_raise(e, causes);
		e->late_descs = 0;
		return;
	}
	if (!e->late)
		bus_timer_arm(&e->late_timer, clock_now_ns() + max(delay, DELAY_MIN_NS));
	e->late |= causes;
}

static void on_late(struct bus_timer *timer)
{
	struct e1000 *e = container_of(timer, struct e1000, late_timer);

	bus_sync(timer->bus);
	collect_late(e);
	update_irq(e);
}

void e1000_dma_failed(struct e1000 *e)
{
	log_guest("%s: a buffer or descriptor is not in RAM", e->pci.dev.id);
}

/* ---- statistics (SDM 13.7) ---- */

void e1000_count(struct e1000 *e, u32 at)
{
	u32 *reg = e1000_reg(e, at);

	*reg += *reg != UINT32_MAX;
}

void e1000_count_bytes(struct e1000 *e, u32 at, u32 n)
{
	u64 sum = *e1000_reg(e, at) | (u64)*e1000_reg(e, at + 4) << 32;

	if (add_overflows(&sum, sum, (u64)n))
		sum = UINT64_MAX;
	*e1000_reg(e, at) = (u32)sum;
	*e1000_reg(e, at + 4) = (u32)(sum >> 32);
}

/* ---- reset ---- */

static void load_address(struct e1000 *e)
{
	const u16 *w = e->eeprom.words;

	*e1000_reg(e, E_RAL) = w[0] | (u32)w[1] << 16;
	*e1000_reg(e, E_RAL + 4) = w[2] | 1U << 31;
}

/* Everything but the PHY and the EEPROM. */
static void mac_reset(struct e1000 *e)
{
	memset(e->mac, 0, sizeof(e->mac));
	*e1000_reg(e, E_CTRL) = 0x00000201; /* full duplex, 1000 Mb/s */
	*e1000_reg(e, E_VET) = 0x8100;
	*e1000_reg(e, E_LEDCTL) = 0x07068302;
	*e1000_reg(e, E_PBA) = 0x00100030;
	load_address(e);
	e1000_tx_reset(e);
	bus_timer_disarm(&e->throttle);
	bus_timer_disarm(&e->kick);
	bus_timer_disarm(&e->late_timer);
	e->late = e->late_descs = 0;
	e->next_interrupt_ns = 0;
	update_irq(e);
	e1000_rx_resume(e);
}

/* ---- reading ---- */

static u32 read_status(const struct e1000 *e)
{
	return STATUS_FD | STATUS_1000 | (e->link_down ? 0 : STATUS_LU);
}

static u32 read_icr(struct e1000 *e)
{
	u32 causes;

	collect_late(e);
	causes = *e1000_reg(e, E_ICR);
	if (causes & *e1000_reg(e, E_IMS))
		causes |= IC_ASSERTED;
	*e1000_reg(e, E_ICR) = 0;
	update_irq(e);
	return causes;
}

static u32 read_and_clear(struct e1000 *e, u32 at)
{
	u32 value = *e1000_reg(e, at);

	*e1000_reg(e, at) = 0;
	return value;
}

/* at is a multiple of 4. */
static u32 e1000_read(struct e1000 *e, u32 at)
{
	switch (at) {
	case E_STATUS:
		return read_status(e);
	case E_EECD:
		return e1000_eecd_read(e);
	case E_ICR:
		return read_icr(e);
	case E_ICS:
	case E_IMC:
		return 0; /* write-only */
	case E_STATS ... E_STATS_END - 4:
		return read_and_clear(e, at);
	default:
		return at < sizeof(e->mac) ? *e1000_reg(e, at) : 0;
	}
}

/* ---- writing ---- */

static void write_ctrl(struct e1000 *e, u32 value)
{
	if (value & CTRL_RST) {
		mac_reset(e);
		return;
	}
	if (value & CTRL_PHY_RST)
		e1000_phy_reset(e);
	*e1000_reg(e, E_CTRL) = value & ~(u32)(CTRL_RST | CTRL_PHY_RST);
}

/* Registers that only hold what was written, and the bits that do. */
static const struct {
	u16 first, last;
	u32 mask;
} plain[] = {
	{E_CTRL_EXT, E_CTRL_EXT, ~0u}, {E_FCAL, E_FCAL, ~0u},	     {E_ITR, E_ITR, 0xffff},
	{E_FCAH, E_VET, 0xffff},       {E_MTA, E_RAL - 4, ~0u},	     {E_VFTA, E_VFTA + 0x1fc, ~0u},
	{E_FCTTV, E_FCTTV, 0xffff},    {E_TXCW, E_TXCW, ~0u},	     {E_TIPG, E_TIPG, ~0u},
	{E_AIT, E_AIT, 0xffff},	       {E_LEDCTL, E_LEDCTL, ~0u},    {E_PBA, E_PBA, ~0u},
	{E_FCRTL, E_FCRTL + 8, ~0u},   {E_RDBAL, E_RDBAL, ~15u},     {E_RDBAH, E_RDBAH, ~0u},
	{E_RDLEN, E_RDLEN, 0xfff80},   {E_RDTR, E_RDTR, 0xffff},     {E_RXDCTL, E_RADV, ~0u},
	{E_RSRPD, E_RSRPD, 0xfff},     {E_TDBAL, E_TDBAL, ~15u},     {E_TDBAH, E_TDBAH, ~0u},
	{E_TDLEN, E_TDLEN, 0xfff80},   {E_TIDV, E_TIDV, 0xffff},     {E_TXDCTL, E_TSPMT, ~0u},
	{E_RXCSUM, E_RXCSUM, ~0u},     {E_WUC, E_WUPM_END - 4, ~0u}, {E_RCTL, E_RCTL, ~0u},
	{E_TCTL, E_TCTL, ~0u},	       {E_RDH, E_RDH, TAIL_MASK},    {E_RDT, E_RDT, TAIL_MASK},
	{E_TDH, E_TDH, TAIL_MASK},     {E_TDT, E_TDT, TAIL_MASK},
};

static void write_plain(struct e1000 *e, u32 at, u32 value)
{
	if (at >= E_RAL && at < E_VFTA)
		*e1000_reg(e, at) = value & (at & 4 ? RAH_BITS : ~0u);
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		if (at >= plain[i].first && at <= plain[i].last)
			*e1000_reg(e, at) = value & plain[i].mask;
}

static void e1000_write(struct e1000 *e, u32 at, u32 value)
{
	switch (at) {
	case E_TDT:
		*e1000_reg(e, at) = value & TAIL_MASK;
		e1000_tx_run(e);
		e->said++;
		nic_bell_rung(&e->bell, e->tx.bytes);
		break;
	case E_RDT:
		*e1000_reg(e, at) = value & TAIL_MASK;
		e1000_rx_resume(e);
		break;
	case E_ICR:
		*e1000_reg(e, E_ICR) &= ~value;
		update_irq(e);
		break;
	case E_ICS:
		e1000_raise(e, value & IMS_MASK);
		break;
	case E_IMS:
		if (!*e1000_reg(e, E_IMS))
			unmasked(e);
		*e1000_reg(e, E_IMS) |= value & IMS_MASK;
		update_irq(e);
		break;
	case E_IMC:
		*e1000_reg(e, E_IMS) &= ~value;
		update_irq(e);
		break;
	case E_CTRL:
	case E_CTRL + 4: /* the same register again */
		write_ctrl(e, value);
		break;
	case E_EECD:
		e1000_eecd_write(e, value);
		break;
	case E_EERD:
		e1000_eerd_write(e, value);
		break;
	case E_MDIC:
		e1000_mdic_write(e, value);
		break;
	case E_TCTL:
		write_plain(e, at, value);
		e1000_tx_run(e);
		break;
	case E_RCTL:
	case E_RDLEN:
	case E_RDH:
		write_plain(e, at, value);
		e1000_rx_resume(e);
		break;
	default:
		write_plain(e, at, value);
		break;
	}
}

/* ---- the windows ---- */

static u64 mmio_read(void *ctx, u64 offset, unsigned int size)
{
	struct e1000_window *w = ctx;
	u32 at = w->start + (u32)offset;
	u64 value;

	if (size == 8)
		return e1000_read(w->chip, at & ~3u) | (u64)e1000_read(w->chip, (at & ~3u) + 4)
							       << 32;
	value = (u64)e1000_read(w->chip, at & ~3u) >> (8 * (at & 3));
	return value & MASK(8 * size - 1, 0);
}

static void mmio_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct e1000_window *w = ctx;
	u32 at = w->start + (u32)offset;

	if (size < 4 || (at & 3))
		return;
	e1000_write(w->chip, at, (u32)value);
	if (size == 8)
		e1000_write(w->chip, at + 4, (u32)(value >> 32));
}

static const struct bus_ops mmio_ops = {.read = mmio_read, .write = mmio_write};

/* The I/O BAR: an address and a data register (SDM 13.2.2). */
static u64 io_read(void *ctx, u64 offset, unsigned int size)
{
	struct e1000_window *w = ctx;

	if (size == 4 && offset == IO_ADDRESS)
		return w->chip->io_address;
	if (size == 4 && offset == IO_DATA)
		return e1000_read(w->chip, w->chip->io_address);
	return 0;
}

static void io_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct e1000_window *w = ctx;

	if (size == 4 && offset == IO_ADDRESS)
		w->chip->io_address = (u32)value & (E1000_BAR_SIZE - 1) & ~3u;
	else if (size == 4 && offset == IO_DATA)
		e1000_write(w->chip, w->chip->io_address, (u32)value);
}

static const struct bus_ops io_ops = {.read = io_read, .write = io_write};

static void add_windows(struct e1000 *e)
{
	static const struct {
		u32 start;
		enum bus_class class;
	} part[E1000_WINDOWS] = {
		{0, BUS_TRAP},		{E_ITR, BUS_COALESCED}, {E_ITR + 4, BUS_TRAP},
		{E_IMS, BUS_COALESCED}, {E_IMC + 4, BUS_TRAP},	{E_RDT, BUS_COALESCED},
		{E_RDT + 4, BUS_TRAP},	{E_TDT, BUS_TRAP},	{E_TDT + 4, BUS_TRAP},
		{E_MTA, BUS_COALESCED}, {E_WUC, BUS_TRAP},
	};

	for (size_t i = 0; i < E1000_WINDOWS; i++) {
		u32 end = i + 1 < E1000_WINDOWS ? part[i + 1].start : E1000_BAR_SIZE;
		struct e1000_window *w = &e->mmio[i];

		w->chip = e;
		w->start = part[i].start;
		w->region.range = (struct bus_range){
			.name = e->pci.dev.id,
			.class = part[i].class,
			.size = end - w->start,
			.ops = &mmio_ops,
			.ctx = w,
		};
		pci_bar_add(&e->pci, 0, &w->region, w->start);
		if (w->start == E_TDT)
			nic_bell_init(&e->bell, e->pci.dev.bus, &w->region.range);
	}
	e->io.chip = e;
	e->io.region.range = (struct bus_range){
		.name = e->pci.dev.id, .size = E1000_IO_SIZE, .ops = &io_ops, .ctx = &e->io};
	pci_bar_add(&e->pci, 1, &e->io.region, 0);
}

/* ---- the link: net_loop()'s thread, without the lock ---- */

static u32 receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct e1000 *e = ctx;
	u32 taken = 0;

	bus_lock(e->pci.dev.bus);
	bus_sync(e->pci.dev.bus);
	nic_bell_heard(&e->bell, n);
	while (taken < n && e1000_rx_frame(e, &frames[taken]))
		taken++;
	e->rx_stalled = taken < n;
	bus_unlock(e->pci.dev.bus);
	return taken;
}

static void sendable(void *ctx, unsigned int pair)
{
	struct e1000 *e = ctx;

	bus_lock(e->pci.dev.bus);
	e1000_tx_run(e);
	bus_unlock(e->pci.dev.bus);
}

static void link_changed(void *ctx, bool up)
{
	struct e1000 *e = ctx;

	bus_lock(e->pci.dev.bus);
	e->link_down = !up;
	e1000_raise(e, IC_LSC);
	bus_unlock(e->pci.dev.bus);
}

static void on_kick(struct bus_timer *timer)
{
	struct e1000 *e = container_of(timer, struct e1000, kick);

	e1000_tx_run(e);
	e1000_rx_resume(e);
}

static void config_written(struct pci_device *pci, u16 offset, unsigned int size)
{
	struct e1000 *e = container_of(pci, struct e1000, pci);

	if (ranges_overlap(offset, size, 4, 2) && pci_bus_master(pci)) {
		e1000_tx_run(e);
		e1000_rx_resume(e);
	}
}

/* ---- life ---- */

static int e1000_init(struct device *dev, const void *config, struct err *err)
{
	struct e1000 *e = container_of(dev, struct e1000, pci.dev);
	static const struct pci_ident ident = {
		.vendor = 0x8086,
		.device = 0x100e,
		.subsystem_vendor = 0x8086,
		.subsystem = 0x001e,
		.revision = 2,
		.class_code = 0x020000,
		.interrupt_pin = 1,
	};
	const struct e1000_config *c = config;
	const struct net_client client = {
		.ctx = e, .receive = receive, .sendable = sendable, .link = link_changed};
	int rc = pci_device_init(&e->pci, &ident, -1, err);

	if (rc)
		return rc;
	bus_timer_init(dev->bus, &e->throttle, on_throttle);
	bus_timer_init(dev->bus, &e->kick, on_kick);
	bus_timer_init(dev->bus, &e->late_timer, on_late);
	nic_mask_init(&e->mask, dev->bus);
	e->pci.config_written = config_written;
	pci_bar_init(&e->pci, 0, PCI_BAR_MMIO32, E1000_BAR_SIZE, false);
	pci_bar_init(&e->pci, 1, PCI_BAR_PIO, E1000_IO_SIZE, false);
	add_windows(e);
	e1000_eeprom_fill(e, c->mac);
	e->net = e->tx.net = c->net;
	e->link_down = !e->net || !net_link(e->net);
	if (e->net)
		net_set_client(e->net, &client);
	return 0;
}

static void e1000_reset(struct device *dev)
{
	struct e1000 *e = container_of(dev, struct e1000, pci.dev);

	pci_device_reset(&e->pci);
	eeprom93_reset(&e->eeprom);
	e1000_phy_reset(e);
	e->io_address = 0;
	mac_reset(e);
}

static void e1000_free(struct device *dev)
{
	struct e1000 *e = container_of(dev, struct e1000, pci.dev);

	if (e->net)
		net_set_client(e->net, NULL);
	bus_timer_disarm(&e->throttle);
	bus_timer_disarm(&e->kick);
	bus_timer_disarm(&e->late_timer);
	nic_bell_free(&e->bell);
	nic_mask_free(&e->mask);
	pci_device_release(&e->pci);
}

static void e1000_stats(struct device *dev, void (*line)(void *ctx, const char *name, u64 value),
			void *ctx)
{
	struct e1000 *e = container_of(dev, struct e1000, pci.dev);
	struct net_stats stats = {0};
	u64 saved = 0;

	if (e->net)
		net_get_stats(e->net, &stats);
	for (size_t i = 0; i < E1000_WINDOWS; i++)
		saved += e->mmio[i].region.range.coalesced;
	line(ctx, "frames sent", stats.tx_frames);
	line(ctx, "frames received", stats.rx_frames);
	line(ctx, "exits saved by coalescing", saved);
}

static void e1000_saving(void *object)
{
	struct e1000 *e = container_of(object, struct e1000, pci.dev);
	u64 now = clock_now_ns();

	collect_late(e);
	e->throttle_left_ns = e->next_interrupt_ns > now ? e->next_interrupt_ns - now : 0;
	e->raised = !!(e->pci.config[PCI_STATUS] & PCI_STATUS_INTERRUPT);
}

static int e1000_loaded(void *object, struct err *err)
{
	struct e1000 *e = container_of(object, struct e1000, pci.dev);

	e->io_address &= (E1000_BAR_SIZE - 1) & ~3u;
	e->link_down = !e->net || !net_link(e->net);
	nic_tx_clear(&e->tx); /* a frame on its way is lost, as on a wire */
	e->frame_started = false;
	e->rx_stalled = true;
	/* An interrupt that is due comes from the timer, as it would have. */
	e->next_interrupt_ns = clock_now_ns() + min(e->throttle_left_ns, ITR_MAX_NS);
	bus_timer_arm(&e->throttle, e->next_interrupt_ns);
	pci_set_intx(&e->pci, e->raised && (*e1000_reg(e, E_ICR) & *e1000_reg(e, E_IMS)));
	bus_timer_arm(&e->kick, clock_now_ns());
	return 0;
}

static const struct state_field context_fields[] = {
	STATE_FIELD(struct e1000_context, ip_start), STATE_FIELD(struct e1000_context, ip_csum),
	STATE_FIELD(struct e1000_context, l4_start), STATE_FIELD(struct e1000_context, l4_csum),
	STATE_FIELD(struct e1000_context, ip_end),   STATE_FIELD(struct e1000_context, l4_end),
	STATE_FIELD(struct e1000_context, mss),	     STATE_FIELD(struct e1000_context, header_len),
	STATE_FIELD(struct e1000_context, command),  STATE_END,
};

static const struct state_desc context_state = {
	.name = "e1000-context", .version = 1, .fields = context_fields};

static const struct state_field e1000_fields[] = {
	STATE_NESTED(struct e1000, pci, pci_device_state),
	STATE_NESTED(struct e1000, eeprom, eeprom93_state),
	STATE_ARRAY(struct e1000, mac),
	STATE_ARRAY(struct e1000, phy),
	STATE_FIELD(struct e1000, io_address),
	STATE_FIELD(struct e1000, throttle_left_ns),
	STATE_FIELD(struct e1000, raised),
	STATE_NESTED(struct e1000, csum_context, context_state),
	STATE_NESTED(struct e1000, tso_context, context_state),
	STATE_END,
};

static const struct state_desc e1000_state = {
	.name = "e1000",
	.version = 1,
	.fields = e1000_fields,
	.saving = e1000_saving,
	.loaded = e1000_loaded,
};

const struct device_class e1000_class = {
	.name = "e1000",
	.summary = "Intel 82540EM network card",
	.size = sizeof(struct e1000),
	.init = e1000_init,
	.reset = e1000_reset,
	.free = e1000_free,
	.stats = e1000_stats,
	.state = &e1000_state,
};
