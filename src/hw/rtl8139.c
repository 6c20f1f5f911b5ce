/*
 * Registers, interrupts, life. Sending and receiving: rtl8139_tx.c, rtl8139_rx.c.
 *
 * Invariants:
 * 1. INTA# follows isr & imr: rtl8139_irq.c.
 * 2. A write first changes the bytes it covers, then act_on_write() does what the registers touched
 *    set off, once. So accesses of any size and alignment work alike.
 * 3. The coalesced parts of the BARs hold only registers that are looked at later, when something
 *    that is trapped sets off an action.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "hw/rtl8139_int.h"
#include "os/clock.h"

#define PCI_CLOCK_HZ 33000000
#define TALLY_SIZE   64
#define RETRY_NS     (20 * NSEC_PER_MSEC)
#define VERSION	     0x74000000 /* RTL8139C */
#define VERSION_PLUS 0x74800000
#define VERSION_MASK 0x7cc00000
#define EEPROM_MAGIC 0x8129

enum { EE_OUT = 0x01, EE_IN = 0x02, EE_CLOCK = 0x04, EE_SELECT = 0x08, EE_KEPT = 0xce };
enum { EEM_MASK = 0xc0, EEM_LOAD = 0x40, EEM_PROGRAM = 0x80, EEM_CONFIG = 0xc0 };
enum { DTCCR_DUMP = 0x08 };
enum { MSR_NO_LINK = 0x04 };
enum { CSCR_LINK = 0x0400, CSCR_CHANGED = 0x0800 };
enum { BMCR_RESET = 0x8000, BMCR_RESTART = 0x0200, BMCR_DEFAULT = 0x3100 };
enum { BMSR_FIXED = 0x7809, BMSR_LINK = 0x0004, BMSR_DONE = 0x0020 };
enum { ANAR_DEFAULT = 0x05e1, ANLPAR_LINK = 0x45e1, ANER_LINK = 0x0001 };

void rtl_dma_failed(struct rtl8139 *r)
{
	log_guest("%s: a buffer or descriptor is not in RAM", r->pci.dev.id);
	rtl_raise(r, I_SERR);
}

/* ---- the timer: counts the PCI clock ---- */

static u32 timer_count(const struct rtl8139 *r)
{
	u64 ns = clock_now_ns() - r->timer_start_ns;

	return (u32)(ns / 1000 * (PCI_CLOCK_HZ / 1000000) + ns % 1000 * 33 / 1000);
}

static void arm_timer(struct rtl8139 *r)
{
	u32 left = r->timer_int - timer_count(r);

	if (!r->timer_int)
		bus_timer_disarm(&r->timer);
	else
		bus_timer_arm(&r->timer,
			      clock_now_ns() + (left ? left : 1ULL << 32) * 1000 / 33 + 1);
}

static void on_timer(struct bus_timer *timer)
{
	struct rtl8139 *r = container_of(timer, struct rtl8139, timer);

	rtl_raise(r, I_TIMER);
	arm_timer(r);
}

/* ---- reset ---- */

static void load_mac(struct rtl8139 *r)
{
	for (int i = 0; i < 3; i++)
		store_le16(r->idr + 2 * i, r->eeprom.words[7 + i]);
}

/* CR.RST: everything but the address and what the EEPROM configured. */
static void soft_reset(struct rtl8139 *r)
{
	rtl_tx_reset(r);
	r->cr = 0;
	r->rbstart = r->tcr = r->rcr = r->timer_int = 0;
	r->capr = (u16)-16;
	r->cbr = r->imr = r->isr = r->cpcr = 0;
	rtl_irq_reset(r);
	r->rx_desc = 0;
	r->rdsar[0] = r->rdsar[1] = r->dtccr[0] = r->dtccr[1] = 0;
	r->mulint = r->etthr = 0;
	r->timer_start_ns = clock_now_ns();
	bus_timer_disarm(&r->timer);
	bus_timer_disarm(&r->kick);
	rtl_update_irq(r);
	rtl_rx_resume(r);
}

/* ---- reading ---- */

static u8 read_mode(const struct rtl8139 *r)
{
	u8 value = r->cr9346 & EE_KEPT;

	if ((r->cr9346 & EEM_MASK) == EEM_PROGRAM && eeprom93_out(&r->eeprom))
		value |= EE_OUT;
	return value;
}

static u16 all_slots(const struct rtl8139 *r)
{
	u16 value = 0;

	for (int i = 0; i < RTL_TX_SLOTS; i++)
		value |= (u16)((r->tsd[i] & TSD_OWN ? 1 << i : 0) |
			       (r->tsd[i] & TSD_TOK ? 0x1000 << i : 0));
	return value;
}

static u32 read_phy(const struct rtl8139 *r, u32 reg)
{
	bool link = !r->link_down;

	switch (reg) {
	case R_BMCR:
		return r->bmcr;
	case R_BMSR:
		return BMSR_FIXED | (link ? BMSR_LINK | BMSR_DONE : 0);
	case R_ANAR:
		return r->anar;
	case R_ANLPAR:
		return link ? ANLPAR_LINK : 0;
	case R_ANER:
		return link ? ANER_LINK : 0;
	default:
		return 0;
	}
}

/* The 32 bits of four registers, or parts of one, from an aligned offset on. */
static u32 read_aligned(struct rtl8139 *r, u32 at)
{
	bool plus_tx = r->cpcr & CP_TX, plus = r->cpcr & (CP_TX | CP_RX);

	switch (at) {
	case R_IDR:
		return load_le32(r->idr);
	case R_IDR + 4:
		return load_le16(r->idr + 4);
	case R_MAR ... R_MAR + 4:
		return load_le32(r->mar + (at - R_MAR));
	case R_TSD ... R_TSD + 12:
		return plus && at < R_TSD + 8 ? r->dtccr[(at - R_TSD) / 4]
					      : r->tsd[(at - R_TSD) / 4];
	case R_TSAD ... R_TSAD + 12:
		return r->tsad[(at - R_TSAD) / 4];
	case R_RBSTART:
		return r->rbstart;
	case R_ERBCR:
		return (u32)(r->cr | (rtl_rx_buffer_empty(r) ? CR_BUFE : 0)) << 24;
	case R_CAPR:
		return r->capr | (u32)r->cbr << 16;
	case R_IMR:
		return r->imr | (u32)r->isr << 16;
	case R_TCR:
		return (r->tcr & ~(u32)VERSION_MASK) | (r->plain ? VERSION : VERSION_PLUS);
	case R_RCR:
		return r->rcr;
	case R_TCTR:
		return timer_count(r);
	case R_MPC:
		return r->tally.rx_missed;
	case R_9346CR:
		return read_mode(r) | (u32)r->config[0] << 8 | (u32)r->config[1] << 16;
	case R_TIMERINT:
		return r->timer_int;
	case R_MSR:
		return (r->link_down ? MSR_NO_LINK : 0u) | (u32)r->config[3] << 8 |
		       (u32)r->config[4] << 16;
	case R_MULINT:
		return r->mulint;
	case R_TSAD_ALL:
		return all_slots(r) | read_phy(r, R_BMCR) << 16;
	case R_BMSR:
	case R_ANLPAR:
		return read_phy(r, at) | read_phy(r, at + 2) << 16;
	case R_CSCR:
		return (r->link_down ? 0u : CSCR_LINK) |
		       ((r->isr | r->late) & I_LINK ? CSCR_CHANGED : 0u);
	case R_CONFIG5:
		return r->config[5] | (u32)(plus_tx ? r->tppoll : 0) << 8;
	case R_CPCR:
		return r->plain ? 0 : r->cpcr;
	case R_RDSAR ... R_RDSAR + 4:
		return r->rdsar[(at - R_RDSAR) / 4];
	case R_ETTHR:
		return r->etthr;
	default:
		return 0;
	}
}

static u8 read_byte(struct rtl8139 *r, u32 at)
{
	return (u8)(read_aligned(r, at & ~3u) >> (8 * (at & 3)));
}

/* ---- writing: the bytes ---- */

static void put32(u32 *reg, u32 at, u8 value)
{
	unsigned int shift = 8 * (at & 3);

	*reg = (*reg & ~(0xffu << shift)) | (u32)value << shift;
}

static void put16(u16 *reg, u32 at, u8 value)
{
	unsigned int shift = 8 * (at & 1);

	*reg = (u16)((*reg & ~(0xffu << shift)) | (u32)value << shift);
}

static bool config_unlocked(const struct rtl8139 *r)
{
	return (r->cr9346 & EEM_MASK) == EEM_CONFIG;
}

static void put_config(struct rtl8139 *r, u32 at, u8 value)
{
	if (!config_unlocked(r))
		return;
	if (at == R_CONFIG1)
		r->config[1] = value;
	else if (at == R_CONFIG3 || at == R_CONFIG4)
		r->config[at - R_CONFIG3 + 3] = value;
	else if (at == R_CONFIG5)
		r->config[5] = value;
	else if (at == R_BMCR || at == R_BMCR + 1)
		put16(&r->bmcr, at, value);
}

static void put_byte(struct rtl8139 *r, u32 at, u8 value)
{
	bool plus = r->cpcr & (CP_TX | CP_RX);

	switch (at) {
	case R_IDR ... R_IDR + 5:
		r->idr[at - R_IDR] = value;
		break;
	case R_MAR ... R_MAR + 7:
		r->mar[at - R_MAR] = value;
		break;
	case R_TSD ... R_TSD + 15:
		put32(plus && at < R_TSD + 8 ? &r->dtccr[(at - R_TSD) / 4]
					     : &r->tsd[(at - R_TSD) / 4],
		      at, value);
		break;
	case R_TSAD ... R_TSAD + 15:
		put32(&r->tsad[(at - R_TSAD) / 4], at, value);
		break;
	case R_RBSTART ... R_RBSTART + 3:
		put32(&r->rbstart, at, value);
		break;
	case R_CR:
		/* The receiver starts with an empty buffer; drivers restart it after an error. */
		if (value & ~r->cr & CR_RE) {
			r->cbr = 0;
			r->capr = (u16)-16;
		}
		r->cr = value & (CR_TE | CR_RE | CR_RST);
		break;
	case R_CAPR ... R_CAPR + 1:
		put16(&r->capr, at, value);
		break;
	case R_IMR ... R_IMR + 1:
		put16(&r->imr, at, value);
		break;
	case R_ISR ... R_ISR + 1:
		r->isr &= (u16) ~((u32)value << (8 * (at & 1)));
		break;
	case R_TCR ... R_TCR + 3:
		put32(&r->tcr, at, value);
		break;
	case R_RCR ... R_RCR + 3:
		put32(&r->rcr, at, value);
		break;
	case R_9346CR:
		r->cr9346 = value & EE_KEPT;
		break;
	case R_TIMERINT ... R_TIMERINT + 3:
		put32(&r->timer_int, at, value);
		break;
	case R_CONFIG1:
	case R_CONFIG3 ... R_CONFIG4:
	case R_CONFIG5:
	case R_BMCR ... R_BMCR + 1:
		put_config(r, at, value);
		break;
	case R_MULINT ... R_MULINT + 1:
		put16(&r->mulint, at, value);
		break;
	case R_ANAR ... R_ANAR + 1:
		put16(&r->anar, at, value);
		break;
	case R_TPPOLL:
		r->tppoll |= value & 0xc1;
		break;
	case R_CPCR ... R_CPCR + 1:
		put16(&r->cpcr, at, value);
		break;
	case R_RDSAR ... R_RDSAR + 7:
		put32(&r->rdsar[(at - R_RDSAR) / 4], at, value);
		break;
	case R_ETTHR:
		r->etthr = value;
		break;
	default:
		break;
	}
}

/* ---- writing: what they set off ---- */

static void write_mode(struct rtl8139 *r)
{
	u8 v = r->cr9346;

	if ((v & EEM_MASK) == EEM_LOAD) {
		load_mac(r);
		r->cr9346 = 0;
	} else if ((v & EEM_MASK) == EEM_PROGRAM) {
		eeprom93_set(&r->eeprom, v & EE_SELECT, v & EE_CLOCK, v & EE_IN);
	} else {
		eeprom93_set(&r->eeprom, false, false, false);
	}
}

static void dump_tally(struct rtl8139 *r)
{
	const struct rtl_tally *t = &r->tally;
	u64 at = (r->dtccr[0] & ~(u32)(TALLY_SIZE - 1)) | (u64)r->dtccr[1] << 32;
	u8 raw[TALLY_SIZE] = {0};

	store_le64(raw, t->tx_ok);
	store_le64(raw + 8, t->rx_ok);
	store_le64(raw + 16, t->tx_error);
	store_le32(raw + 24, t->rx_error);
	store_le16(raw + 28, t->rx_missed);
	store_le64(raw + 40, t->rx_unicast);
	store_le64(raw + 48, t->rx_broadcast);
	store_le32(raw + 56, t->rx_multicast);
	store_le16(raw + 60, t->tx_abort);
	if (!pci_bus_master(&r->pci) || mem_write(bus_mem(r->pci.dev.bus), at, raw, sizeof(raw)))
		rtl_dma_failed(r);
	r->dtccr[0] &= ~(u32)DTCCR_DUMP;
}

static void write_bmcr(struct rtl8139 *r)
{
	if (r->bmcr & BMCR_RESET) {
		r->bmcr = BMCR_DEFAULT;
		r->anar = ANAR_DEFAULT;
	}
	r->bmcr &= (u16)~BMCR_RESTART; /* negotiated at once */
}

static void write_cpcr(struct rtl8139 *r, u16 old)
{
	r->cpcr = r->plain ? 0 : r->cpcr & 0x03ff;
	if (r->cpcr & ~old & CP_TX)
		r->tx_desc[0] = r->tx_desc[1] = 0;
	if (r->cpcr & ~old & CP_RX)
		r->rx_desc = 0;
	/* What was gathered in one mode is none of the other's. */
	if ((r->cpcr ^ old) & CP_TX)
		nic_tx_clear(&r->tx);
}

static void act_on_control(struct rtl8139 *r, u32 at, u32 size, u16 old_cpcr)
{
	if (ranges_overlap(at, size, R_CR, 1) && (r->cr & CR_RST))
		soft_reset(r);
	if (ranges_overlap(at, size, R_9346CR, 1))
		write_mode(r);
	if (ranges_overlap(at, size, R_CPCR, 2))
		write_cpcr(r, old_cpcr);
	if (ranges_overlap(at, size, R_TSAD, 16) && (r->cpcr & CP_TX))
		r->tx_desc[0] = r->tx_desc[1] = 0;
	if (ranges_overlap(at, size, R_RDSAR, 8))
		r->rx_desc = 0;
	if (ranges_overlap(at, size, R_BMCR, 2))
		write_bmcr(r);
	if (ranges_overlap(at, size, R_MPC, 4))
		r->tally.rx_missed = 0;
	if (ranges_overlap(at, size, R_TCTR, 4))
		r->timer_start_ns = clock_now_ns();
	if (ranges_overlap(at, size, R_TCTR, 4) || ranges_overlap(at, size, R_TIMERINT, 4))
		arm_timer(r);
}

/*
 * A driver that reads so many frames at a time and acknowledges ROK for each (8139too) leaves the
 * rest in the buffer with nothing to tell of them before the next frame comes. So unmasking says
 * it.
 */
static void remind_of_frames(struct rtl8139 *r)
{
	if ((r->imr & I_ROK) && (r->cr & CR_RE) && !(r->cpcr & CP_RX) && !rtl_rx_buffer_empty(r))
		r->isr |= I_ROK;
}

static void act_on_write(struct rtl8139 *r, u32 at, u32 size, u16 old_cpcr)
{
	bool plus = r->cpcr & (CP_TX | CP_RX);

	act_on_control(r, at, size, old_cpcr);
	if (plus && ranges_overlap(at, size, R_DTCCR, 4) && (r->dtccr[0] & DTCCR_DUMP))
		dump_tally(r);
	if (ranges_overlap(at, size, R_TPPOLL, 1) && (r->tppoll & 1)) {
		r->tppoll &= ~1;
		rtl_raise(r, I_SW);
	}
	if (ranges_overlap(at, size, R_TSD, 16) || ranges_overlap(at, size, R_TPPOLL, 1) ||
	    ranges_overlap(at, size, R_CR, 1))
		rtl_tx_run(r);
	if (ranges_overlap(at, size, R_TPPOLL, 1))
		nic_bell_rung(&r->bell, r->tx.bytes);
	if (ranges_overlap(at, size, R_IMR, 2))
		remind_of_frames(r);
	if (ranges_overlap(at, size, R_IMR, 4))
		rtl_update_irq(r);
	if (ranges_overlap(at, size, R_CR, 9) || ranges_overlap(at, size, R_RCR, 4) ||
	    ranges_overlap(at, size, R_CPCR, 12))
		rtl_rx_resume(r);
}

static u64 window_read(void *ctx, u64 offset, unsigned int size)
{
	struct rtl_window *w = ctx;
	u32 at = w->start + (u32)offset;
	u64 value = 0;

	/* The mask alone does not: drivers read it back to push the write out. */
	if (ranges_overlap(at, size, R_ISR, 2))
		rtl_status_read(w->chip);
	if (size == 4 && !(at & 3))
		return read_aligned(w->chip, at);
	for (unsigned int i = 0; i < size && at + i < RTL_REGS; i++)
		value |= (u64)read_byte(w->chip, at + i) << (8 * i);
	return value;
}

static void window_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct rtl_window *w = ctx;
	struct rtl8139 *r = w->chip;
	u32 at = w->start + (u32)offset;
	u16 old_cpcr = r->cpcr, old_imr = r->imr, old_isr = r->isr;

	size = min(size, RTL_REGS - at);
	for (unsigned int i = 0; i < size; i++)
		put_byte(r, at + i, (u8)(value >> (8 * i)));
	if (r->imr != old_imr || r->isr != old_isr)
		rtl_heeded(r);
	act_on_write(r, at, size, old_cpcr);
}

static const struct bus_ops window_ops = {.read = window_read, .write = window_write};

/* Set-up registers in coalesced windows: C+ and old ring addresses, the read pointer, the transmit
 * and receive configuration. */
static void add_windows(struct rtl8139 *r, int bar, struct rtl_window *windows)
{
	static const struct {
		u8 start;
		enum bus_class class;
	} part[] = {
		{R_IDR, BUS_TRAP},	 {R_TSAD, BUS_COALESCED},  {R_ERBCR, BUS_TRAP},
		{R_CAPR, BUS_COALESCED}, {R_CAPR + 2, BUS_TRAP},   {R_IMR, BUS_COALESCED},
		{R_ISR, BUS_TRAP},	 {R_TCR, BUS_COALESCED},   {R_TCTR, BUS_TRAP},
		{R_TPPOLL, BUS_TRAP},	 {R_TPPOLL + 1, BUS_TRAP},
	};

	for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
		u32 end = i + 1 < ARRAY_SIZE(part) ? part[i + 1].start : RTL_REGS;
		struct rtl_window *w = &windows[i];

		w->chip = r;
		w->start = part[i].start;
		w->region.range = (struct bus_range){
			.name = r->pci.dev.id,
			.class = part[i].class,
			.size = end - part[i].start,
			.ops = &window_ops,
			.ctx = w,
		};
		pci_bar_add(&r->pci, bar, &w->region, part[i].start);
		if (bar && w->start == R_TPPOLL)
			nic_bell_init(&r->bell, r->pci.dev.bus, &w->region.range);
	}
}

/* ---- the link: net_loop()'s thread, without the lock ---- */

/*
 * There was no room for a frame. Say so each time: a wire would go on sending, and drivers count on
 * hearing of it (8139too looks at the status, not at the ring, before it reads on).
 */
static void refuse(struct rtl8139 *r)
{
	r->rx_stalled = true;
	if (!(r->cpcr & CP_RX)) {
		rtl_raise(r, I_ROK); /* what fills the buffer waits to be read; nothing is lost */
		return;
	}
	rtl_raise(r, I_RX_OVERFLOW);
	/* Descriptors are handed over in memory, where nobody tells us. */
	if (!r->kick.armed)
		bus_timer_arm(&r->kick, clock_now_ns() + RETRY_NS);
}

static u32 receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct rtl8139 *r = ctx;
	u32 taken = 0;

	bus_lock(r->pci.dev.bus);
	bus_sync(r->pci.dev.bus);
	nic_bell_heard(&r->bell, n);
	while (taken < n && rtl_rx_frame(r, &frames[taken]))
		taken++;
	if (taken < n)
		refuse(r);
	bus_unlock(r->pci.dev.bus);
	return taken;
}

static void sendable(void *ctx, unsigned int pair)
{
	struct rtl8139 *r = ctx;

	bus_lock(r->pci.dev.bus);
	rtl_tx_run(r);
	bus_unlock(r->pci.dev.bus);
}

static void link_changed(void *ctx, bool up)
{
	struct rtl8139 *r = ctx;

	bus_lock(r->pci.dev.bus);
	r->link_down = !up;
	rtl_raise(r, I_LINK);
	bus_unlock(r->pci.dev.bus);
}

static void on_kick(struct bus_timer *timer)
{
	struct rtl8139 *r = container_of(timer, struct rtl8139, kick);

	rtl_tx_run(r);
	rtl_rx_resume(r);
}

static void config_written(struct pci_device *pci, u16 offset, unsigned int size)
{
	struct rtl8139 *r = container_of(pci, struct rtl8139, pci);

	if (ranges_overlap(offset, size, 4, 2) && pci_bus_master(pci)) {
		rtl_tx_run(r);
		rtl_rx_resume(r);
	}
}

/* ---- life ---- */

/* As drivers look for it: the magic, PCI identities, and the address in words 7 to 9. */
static void fill_eeprom(struct rtl8139 *r, const u8 *mac)
{
	r->eeprom.words[0] = EEPROM_MAGIC;
	r->eeprom.words[1] = 0x10ec;
	r->eeprom.words[2] = 0x8139;
	r->eeprom.words[3] = 0x10ec;
	r->eeprom.words[4] = 0x8139;
	for (int i = 0; i < 3; i++)
		r->eeprom.words[7 + i] = load_le16(mac + 2 * i);
	eeprom93_reset(&r->eeprom);
}

static int rtl8139_init(struct device *dev, const void *config, struct err *err)
{
	struct rtl8139 *r = container_of(dev, struct rtl8139, pci.dev);
	const struct rtl8139_config *c = config;
	const struct pci_ident ident = {
		.vendor = 0x10ec,
		.device = 0x8139,
		.subsystem_vendor = 0x10ec,
		.subsystem = 0x8139,
		.revision = c->plain ? 0x10 : 0x20,
		.class_code = 0x020000,
		.interrupt_pin = 1,
	};
	const struct net_client client = {
		.ctx = r, .receive = receive, .sendable = sendable, .link = link_changed};
	int rc = pci_device_init(&r->pci, &ident, -1, err);

	if (rc)
		return rc;
	r->plain = c->plain;
	bus_timer_init(dev->bus, &r->timer, on_timer);
	bus_timer_init(dev->bus, &r->kick, on_kick);
	rtl_irq_init(r);
	r->pci.config_written = config_written;
	pci_bar_init(&r->pci, 0, PCI_BAR_PIO, RTL_REGS, false);
	pci_bar_init(&r->pci, 1, PCI_BAR_MMIO32, RTL_REGS, false);
	add_windows(r, 0, r->pio);
	add_windows(r, 1, r->mmio);
	fill_eeprom(r, c->mac);
	r->net = r->tx.net = c->net;
	r->link_down = !r->net || !net_link(r->net);
	if (r->net)
		net_set_client(r->net, &client);
	return 0;
}

static void rtl8139_reset(struct device *dev)
{
	struct rtl8139 *r = container_of(dev, struct rtl8139, pci.dev);

	pci_device_reset(&r->pci);
	eeprom93_reset(&r->eeprom);
	load_mac(r);
	memset(r->mar, 0, sizeof(r->mar));
	memset(r->config, 0, sizeof(r->config));
	r->config[1] = 0x0c; /* both memory and I/O mapping */
	r->cr9346 = 0;
	r->bmcr = BMCR_DEFAULT;
	r->anar = ANAR_DEFAULT;
	r->tally = (struct rtl_tally){.tx_ok = 0};
	soft_reset(r);
}

static void rtl8139_free(struct device *dev)
{
	struct rtl8139 *r = container_of(dev, struct rtl8139, pci.dev);

	if (r->net)
		net_set_client(r->net, NULL);
	bus_timer_disarm(&r->timer);
	bus_timer_disarm(&r->kick);
	bus_timer_disarm(&r->late_timer);
	bus_timer_disarm(&r->rest_timer);
	nic_bell_free(&r->bell);
	nic_mask_free(&r->mask);
	pci_device_release(&r->pci);
}

static void rtl8139_stats(struct device *dev, void (*line)(void *ctx, const char *name, u64 value),
			  void *ctx)
{
	struct rtl8139 *r = container_of(dev, struct rtl8139, pci.dev);
	u64 saved = 0;

	for (int i = 0; i < RTL_WINDOWS; i++)
		saved += r->mmio[i].region.range.coalesced + r->pio[i].region.range.coalesced;
	line(ctx, "frames sent", r->tally.tx_ok);
	line(ctx, "frames received", r->tally.rx_ok);
	line(ctx, "frames missed", r->tally.rx_missed);
	line(ctx, "exits saved by coalescing", saved);
}

static void rtl8139_saving(void *object)
{
	struct rtl8139 *r = container_of(object, struct rtl8139, pci.dev);

	r->isr |= r->late; /* raised once it is loaded; here the timer does it */
}

static int rtl8139_loaded(void *object, struct err *err)
{
	struct rtl8139 *r = container_of(object, struct rtl8139, pci.dev);

	r->tx_slot %= RTL_TX_SLOTS;
	r->rx_desc &= 1023;
	r->tx_desc[0] &= 1023;
	r->tx_desc[1] &= 1023;
	r->cpcr = r->plain ? 0 : r->cpcr;
	r->link_down = !r->net || !net_link(r->net);
	r->timer_start_ns = clock_now_ns();
	nic_tx_clear(&r->tx); /* a frame on its way is lost, as on a wire */
	r->rx_stalled = true;
	arm_timer(r);
	rtl_update_irq(r);
	bus_timer_arm(&r->kick, clock_now_ns());
	return 0;
}

static const struct state_field tally_fields[] = {
	STATE_FIELD(struct rtl_tally, tx_ok),	     STATE_FIELD(struct rtl_tally, rx_ok),
	STATE_FIELD(struct rtl_tally, tx_error),     STATE_FIELD(struct rtl_tally, rx_error),
	STATE_FIELD(struct rtl_tally, rx_missed),    STATE_FIELD(struct rtl_tally, rx_unicast),
	STATE_FIELD(struct rtl_tally, rx_broadcast), STATE_FIELD(struct rtl_tally, rx_multicast),
	STATE_FIELD(struct rtl_tally, tx_abort),     STATE_END,
};

static const struct state_desc tally_state = {
	.name = "rtl8139-tally", .version = 1, .fields = tally_fields};

static const struct state_field rtl8139_fields[] = {
	STATE_NESTED(struct rtl8139, pci, pci_device_state),
	STATE_NESTED(struct rtl8139, eeprom, eeprom93_state),
	STATE_NESTED(struct rtl8139, tally, tally_state),
	STATE_BUFFER(struct rtl8139, idr),
	STATE_BUFFER(struct rtl8139, mar),
	STATE_ARRAY(struct rtl8139, tsd),
	STATE_ARRAY(struct rtl8139, tsad),
	STATE_FIELD(struct rtl8139, rbstart),
	STATE_FIELD(struct rtl8139, tcr),
	STATE_FIELD(struct rtl8139, rcr),
	STATE_FIELD(struct rtl8139, timer_int),
	STATE_FIELD(struct rtl8139, capr),
	STATE_FIELD(struct rtl8139, cbr),
	STATE_FIELD(struct rtl8139, imr),
	STATE_FIELD(struct rtl8139, isr),
	STATE_FIELD(struct rtl8139, cpcr),
	STATE_FIELD(struct rtl8139, cr),
	STATE_FIELD(struct rtl8139, cr9346),
	STATE_BUFFER(struct rtl8139, config),
	STATE_FIELD(struct rtl8139, tppoll),
	STATE_FIELD(struct rtl8139, etthr),
	STATE_FIELD(struct rtl8139, bmcr),
	STATE_FIELD(struct rtl8139, anar),
	STATE_FIELD(struct rtl8139, mulint),
	STATE_ARRAY(struct rtl8139, dtccr),
	STATE_ARRAY(struct rtl8139, rdsar),
	STATE_FIELD(struct rtl8139, tx_slot),
	STATE_ARRAY(struct rtl8139, tx_desc),
	STATE_FIELD(struct rtl8139, rx_desc),
	STATE_END,
};

static const struct state_desc rtl8139_state = {
	.name = "rtl8139",
	.version = 1,
	.fields = rtl8139_fields,
	.saving = rtl8139_saving,
	.loaded = rtl8139_loaded,
};

const struct device_class rtl8139_class = {
	.name = "rtl8139",
	.summary = "Realtek RTL8139C+ network card",
	.size = sizeof(struct rtl8139),
	.init = rtl8139_init,
	.reset = rtl8139_reset,
	.free = rtl8139_free,
	.stats = rtl8139_stats,
	.state = &rtl8139_state,
};
