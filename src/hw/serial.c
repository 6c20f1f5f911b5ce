/*
 * Invariants:
 * 1. The receive FIFO holds what the guest can read now; input[] what is still on the wire. Bytes
 *    move from the wire in bursts at LINE_NS_PER_BYTE on average: a guest that takes bytes in an
 *    interrupt handler must get a turn to hand them on, or its own buffers overflow.
 * 2. While input[] is full the back end does not read, so nothing is ever lost on the wire.
 * 3. A byte written is on its way at once: the transmitter is always empty, and the "holding
 *    register empty" interrupt falls and rises again with each write, as an edge-triggered
 *    interrupt controller needs it.
 *
 * Section numbers are those of the PC16550D data sheet.
 */
#include "hw/serial.h"

#include <errno.h>
#include <string.h>

#include "bus/irq.h"
#include "hw/bytewise.h"
#include "os/clock.h"

#define FIFO_SIZE	 16
#define INPUT_SIZE	 1024
#define LINE_NS_PER_BYTE 12500 /* 80 kB/s, whatever the divisor says */
#define BAUD_CLOCK	 1843200
#define TIMEOUT_MAX_NS	 (1 * NSEC_PER_MSEC)

enum { /* registers */
       RBR_THR = 0,
       IER = 1,
       IIR_FCR = 2,
       LCR = 3,
       MCR = 4,
       LSR = 5,
       MSR = 6,
       SCR = 7,
};

enum { IER_RDI = 0x01, IER_THRI = 0x02, IER_RLSI = 0x04, IER_MSI = 0x08, IER_MASK = 0x0f };
enum {
	IIR_NONE = 0x01,
	IIR_MSI = 0x00,
	IIR_THRI = 0x02,
	IIR_RDI = 0x04,
	IIR_RLSI = 0x06,
	IIR_TIMEOUT = 0x0c,
	IIR_FIFO = 0xc0,
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_KEEP = 0xc9 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum {
	MCR_DTR = 0x01,
	MCR_RTS = 0x02,
	MCR_OUT1 = 0x04,
	MCR_OUT2 = 0x08,
	MCR_LOOP = 0x10,
	MCR_MASK = 0x1f
};
enum {
	LSR_DR = 0x01,
	LSR_OE = 0x02,
	LSR_BI = 0x10,
	LSR_EMPTY = 0x60, /* THRE and TEMT */
	LSR_FIFO_ERROR = 0x80,
	LSR_ERRORS = 0x1e,
};
enum {
	MSR_TERI = 0x04,
	MSR_DELTAS = 0x0f,
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80
};

#define RX_BREAK 0x100 /* beside the byte in rx[] */

struct serial {
	struct device dev;
	struct bus_range range;
	struct irq_line line;
	struct chardev *chr;
	struct bus_timer refill, timeout;
	u64 next_burst_ns;
	u8 ier, fcr, lcr, mcr, lsr, msr, scr; /* lsr: errors only */
	u16 divisor;
	u8 thr_pending, timeout_pending;
	u8 rts_seen; /* RTS was raised since reset: from then on it stops the sender */
	u8 peer;     /* modem lines of the other end: MSR bits 4 to 7 */
	u16 rx[FIFO_SIZE];
	u8 rx_start, rx_len;
	u8 input[INPUT_SIZE];
	u16 input_start, input_len;
	u8 input_refused; /* the back end waits for room */
	u64 rx_bytes, tx_bytes;
};

/* ---- interrupts (section 8.6) ---- */

static u8 rx_trigger(const struct serial *s)
{
	static const u8 level[] = {1, 4, 8, 14};

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

static u8 interrupt_cause(const struct serial *s)
{
	if ((s->ier & IER_RLSI) && (s->lsr & LSR_ERRORS))
		return IIR_RLSI;
	if ((s->ier & IER_RDI) && s->rx_len >= rx_trigger(s))
		return IIR_RDI;
	if ((s->ier & IER_RDI) && s->timeout_pending)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRI) && s->thr_pending)
		return IIR_THRI;
	if ((s->ier & IER_MSI) && (s->msr & MSR_DELTAS))
		return IIR_MSI;
	return IIR_NONE;
}

static void update_irq(struct serial *s)
{
	irq_set(&s->line, interrupt_cause(s) != IIR_NONE);
}

/* ---- receiver ---- */

static u8 rx_capacity(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

/* Errors show in the line status when their byte is the next to be read. */
static void rx_show_errors(struct serial *s)
{
	if (s->rx_len && (s->rx[s->rx_start] & RX_BREAK))
		s->lsr |= LSR_BI;
}

static void rx_push(struct serial *s, u16 byte)
{
	if (s->rx_len == rx_capacity(s)) {
		s->lsr |= LSR_OE;
		/* The FIFO keeps what it has; the single register is overwritten. */
		if (!(s->fcr & FCR_ENABLE))
			s->rx[s->rx_start] = byte;
		return;
	}
	s->rx[(s->rx_start + s->rx_len++) % FIFO_SIZE] = byte;
	if (s->rx_len == 1)
		rx_show_errors(s);
}

static void rx_clear(struct serial *s)
{
	s->rx_start = s->rx_len = 0;
	s->timeout_pending = false;
	bus_timer_disarm(&s->timeout);
}

/* Four characters without a read: what is below the trigger level is announced too. */
static void arm_timeout(struct serial *s)
{
	u64 ns = 40 * 16 * NSEC_PER_SEC * max(s->divisor, (u16)1) / BAUD_CLOCK;

	if (s->fcr & FCR_ENABLE)
		bus_timer_arm(&s->timeout, clock_now_ns() + min(ns, TIMEOUT_MAX_NS));
}

static void on_timeout(struct bus_timer *timer)
{
	struct serial *s = container_of(timer, struct serial, timeout);

	s->timeout_pending = s->rx_len > 0;
	update_irq(s);
}

/* The sender waits while RTS is down (once it was up) and while the receiver is looped back. */
static bool line_stopped(const struct serial *s)
{
	return (s->mcr & MCR_LOOP) || (s->rts_seen && !(s->mcr & MCR_RTS));
}

static void move_burst(struct serial *s, u64 now)
{
	u16 n = min(s->input_len, (u16)(rx_capacity(s) - s->rx_len));

	for (u16 i = 0; i < n; i++) {
		rx_push(s, s->input[s->input_start]);
		s->input_start = (s->input_start + 1) % INPUT_SIZE;
	}
	s->input_len -= n;
	s->next_burst_ns = now + (u64)n * LINE_NS_PER_BYTE;
	/* The line falls silent: no need to wait four characters to know. */
	if (n && !s->input_len && (s->fcr & FCR_ENABLE))
		s->timeout_pending = true;
	if (s->input_refused && s->input_len <= INPUT_SIZE / 2) {
		s->input_refused = false;
		chardev_accept_input(s->chr);
	}
}

/* Move what may move now; come back later for the rest, unless the guest has to read first. */
static void refill(struct serial *s)
{
	u64 now = clock_now_ns();

	if (line_stopped(s) || !s->input_len)
		return;
	if (now < s->next_burst_ns) {
		if (!s->refill.armed)
			bus_timer_arm(&s->refill, s->next_burst_ns);
		return;
	}
	if (s->rx_len == rx_capacity(s))
		return;
	move_burst(s, now);
	update_irq(s);
}

static void on_refill(struct bus_timer *timer)
{
	refill(container_of(timer, struct serial, refill));
}

static u8 read_rbr(struct serial *s)
{
	u8 byte = (u8)s->rx[s->rx_start];

	if (!s->rx_len)
		return 0;
	s->rx_start = (s->rx_start + 1) % FIFO_SIZE;
	s->rx_len--;
	s->timeout_pending = false;
	rx_show_errors(s);
	if (s->rx_len)
		arm_timeout(s);
	else
		bus_timer_disarm(&s->timeout);
	/* Here the line falls, for a new edge to follow. */
	update_irq(s);
	if (!s->rx_len)
		refill(s);
	return byte;
}

/* ---- the back end: main thread, without the lock ---- */

static size_t can_receive(void *ctx)
{
	struct serial *s = ctx;
	size_t room;

	bus_lock(s->dev.bus);
	room = INPUT_SIZE - s->input_len;
	s->input_refused = !room;
	bus_unlock(s->dev.bus);
	return room;
}

static void receive(void *ctx, const u8 *data, size_t len)
{
	struct serial *s = ctx;

	bus_lock(s->dev.bus);
	s->rx_bytes += len;
	for (size_t i = 0; i < len && s->input_len < INPUT_SIZE; i++)
		s->input[(s->input_start + s->input_len++) % INPUT_SIZE] = data[i];
	refill(s);
	bus_unlock(s->dev.bus);
}

/* ---- modem lines (sections 8.7 and 8.9) ---- */

static u8 modem_lines(const struct serial *s)
{
	u8 lines = 0;

	if (!(s->mcr & MCR_LOOP))
		return s->peer;
	lines |= s->mcr & MCR_RTS ? MSR_CTS : 0;
	lines |= s->mcr & MCR_DTR ? MSR_DSR : 0;
	lines |= s->mcr & MCR_OUT1 ? MSR_RI : 0;
	lines |= s->mcr & MCR_OUT2 ? MSR_DCD : 0;
	return lines;
}

static void update_modem(struct serial *s)
{
	u8 old = s->msr & 0xf0, now = modem_lines(s), changed = old ^ now;

	s->msr |= (changed & ~MSR_RI) >> 4;
	if (old & ~now & MSR_RI)
		s->msr |= MSR_TERI;
	s->msr = (s->msr & MSR_DELTAS) | now;
	update_irq(s);
}

static void opened(void *ctx, bool open)
{
	struct serial *s = ctx;

	bus_lock(s->dev.bus);
	s->peer = open ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
	update_modem(s);
	bus_unlock(s->dev.bus);
}

static void write_mcr(struct serial *s, u8 value)
{
	s->mcr = value & MCR_MASK;
	s->rts_seen |= (s->mcr & MCR_RTS) && !(s->mcr & MCR_LOOP);
	update_modem(s);
	refill(s);
}

/* ---- transmitter ---- */

static void transmit(struct serial *s, const u8 *data, size_t len)
{
	s->thr_pending = false;
	update_irq(s);
	s->tx_bytes += len;
	if (s->mcr & MCR_LOOP)
		for (size_t i = 0; i < len; i++)
			rx_push(s, data[i]);
	else
		chardev_write(s->chr, data, len);
	if ((s->mcr & MCR_LOOP) && s->rx_len)
		arm_timeout(s);
	s->thr_pending = true;
	update_irq(s);
}

/* ---- registers ---- */

static void write_fcr(struct serial *s, u8 value)
{
	if ((value ^ s->fcr) & FCR_ENABLE)
		rx_clear(s);
	if ((value & FCR_ENABLE) && (value & FCR_CLEAR_RX))
		rx_clear(s);
	/* The other bits are only programmed with the enable bit (section 8.5). */
	s->fcr = value & FCR_ENABLE ? value & FCR_KEEP : 0;
	update_irq(s);
	refill(s);
}

static void write_ier(struct serial *s, u8 value)
{
	/* The transmitter is empty: enabling its interrupt raises it. */
	if (value & ~s->ier & IER_THRI)
		s->thr_pending = true;
	s->ier = value & IER_MASK;
	update_irq(s);
}

static void write_lcr(struct serial *s, u8 value)
{
	bool breaks = value & ~s->lcr & LCR_BREAK;

	s->lcr = value;
	if (breaks && (s->mcr & MCR_LOOP)) {
		rx_push(s, RX_BREAK);
		arm_timeout(s);
		update_irq(s);
	}
}

static u8 read_iir(struct serial *s)
{
	u8 cause = interrupt_cause(s);

	if (cause == IIR_THRI) {
		s->thr_pending = false;
		update_irq(s);
	}
	return cause | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static u8 read_lsr(struct serial *s)
{
	u8 value = s->lsr | LSR_EMPTY | (s->rx_len ? LSR_DR : 0);

	for (u8 i = 0; (s->fcr & FCR_ENABLE) && i < s->rx_len; i++)
		if (s->rx[(s->rx_start + i) % FIFO_SIZE] & RX_BREAK)
			value |= LSR_FIFO_ERROR;
	if (s->lsr) {
		s->lsr = 0;
		update_irq(s);
	}
	return value;
}

static u8 read_msr(struct serial *s)
{
	u8 value = s->msr;

	if (value & MSR_DELTAS) {
		s->msr &= ~MSR_DELTAS;
		update_irq(s);
	}
	return value;
}

static u8 read_register(void *ctx, u64 offset)
{
	struct serial *s = ctx;
	bool dlab = s->lcr & LCR_DLAB;

	switch (offset) {
	case RBR_THR:
		return dlab ? (u8)s->divisor : read_rbr(s);
	case IER:
		return dlab ? (u8)(s->divisor >> 8) : s->ier;
	case IIR_FCR:
		return read_iir(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return read_lsr(s);
	case MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

static void write_register(void *ctx, u64 offset, u8 value)
{
	struct serial *s = ctx;
	bool dlab = s->lcr & LCR_DLAB;

	switch (offset) {
	case RBR_THR:
		if (dlab)
			s->divisor = (s->divisor & 0xff00) | value;
		else
			transmit(s, &value, 1);
		break;
	case IER:
		if (dlab)
			s->divisor = (u16)((s->divisor & 0xff) | value << 8);
		else
			write_ier(s, value);
		break;
	case IIR_FCR:
		write_fcr(s, value);
		break;
	case LCR:
		write_lcr(s, value);
		break;
	case MCR:
		write_mcr(s, value);
		break;
	case SCR:
		s->scr = value;
		break;
	default: /* line and modem status: factory tests only */
		break;
	}
}

static u64 serial_read(void *ctx, u64 offset, unsigned int size)
{
	return bytewise_read(ctx, read_register, offset, size, SERIAL_PORTS);
}

static void serial_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	bytewise_write(ctx, write_register, offset, size, SERIAL_PORTS, value);
}

/* rep outsb to the transmitter goes out in one piece. */
static void serial_write_block(void *ctx, u64 offset, unsigned int size, const void *data,
			       u32 count)
{
	struct serial *s = ctx;
	const u8 *bytes = data;

	if (offset == RBR_THR && size == 1 && !(s->lcr & LCR_DLAB)) {
		transmit(s, data, count);
		return;
	}
	for (u32 i = 0; i < count * size; i++)
		write_register(s, offset + i % size, bytes[i]);
}

static const struct bus_ops serial_ops = {
	.read = serial_read,
	.write = serial_write,
	.write_block = serial_write_block,
};

/* ---- life ---- */

static int serial_init(struct device *dev, const void *config, struct err *err)
{
	struct serial *s = container_of(dev, struct serial, dev);
	const struct serial_config *c = config;
	const struct chardev_client client = {
		.ctx = s,
		.can_receive = can_receive,
		.receive = receive,
		.opened = opened,
	};

	bus_timer_init(dev->bus, &s->refill, on_refill);
	bus_timer_init(dev->bus, &s->timeout, on_timeout);
	irq_line_init(&s->line, dev->bus, c->gsi);
	s->range = (struct bus_range){
		.name = dev->id,
		.space = BUS_PIO,
		.base = c->base,
		.size = SERIAL_PORTS,
		.ops = &serial_ops,
		.ctx = s,
	};
	if (bus_add(dev->bus, &s->range))
		return err_set(err, EEXIST, "ports 0x%x to 0x%x are taken", c->base,
			       c->base + SERIAL_PORTS - 1);
	s->chr = c->chr;
	/* Until the back end says how it is. */
	s->peer = s->chr ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
	chardev_set_client(s->chr, &client);
	return 0;
}

static void serial_reset(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	s->ier = s->fcr = s->lcr = s->mcr = s->lsr = s->scr = 0;
	s->divisor = 1;
	s->thr_pending = s->rts_seen = false;
	rx_clear(s);
	s->msr = s->peer;
	s->input_start = s->input_len = 0;
	bus_timer_disarm(&s->refill);
	s->next_burst_ns = 0;
	update_irq(s);
	chardev_accept_input(s->chr);
}

static void serial_free(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, dev);

	chardev_set_client(s->chr, NULL);
	bus_remove(dev->bus, &s->range);
	bus_timer_disarm(&s->refill);
	bus_timer_disarm(&s->timeout);
	irq_set(&s->line, false);
}

static void serial_stats(struct device *dev, void (*line)(void *ctx, const char *name, u64 value),
			 void *ctx)
{
	struct serial *s = container_of(dev, struct serial, dev);

	line(ctx, "bytes received", s->rx_bytes);
	line(ctx, "bytes sent", s->tx_bytes);
	line(ctx, "bytes dropped", chardev_dropped(s->chr));
}

static int serial_loaded(void *object, struct err *err)
{
	struct serial *s = container_of(object, struct serial, dev);

	if (s->rx_start >= FIFO_SIZE || s->rx_len > rx_capacity(s) ||
	    s->input_start >= INPUT_SIZE || s->input_len > INPUT_SIZE)
		return err_set(err, EINVAL, "%s: impossible queue", s->dev.id);
	s->next_burst_ns = 0;
	if (s->rx_len && !s->timeout_pending)
		arm_timeout(s);
	if (s->input_len)
		bus_timer_arm(&s->refill, clock_now_ns());
	update_modem(s); /* the other end may be another one now */
	return 0;
}

static const struct state_field serial_fields[] = {
	STATE_FIELD(struct serial, ier),	 STATE_FIELD(struct serial, fcr),
	STATE_FIELD(struct serial, lcr),	 STATE_FIELD(struct serial, mcr),
	STATE_FIELD(struct serial, lsr),	 STATE_FIELD(struct serial, msr),
	STATE_FIELD(struct serial, scr),	 STATE_FIELD(struct serial, divisor),
	STATE_FIELD(struct serial, thr_pending), STATE_FIELD(struct serial, timeout_pending),
	STATE_FIELD(struct serial, rts_seen),	 STATE_ARRAY(struct serial, rx),
	STATE_FIELD(struct serial, rx_start),	 STATE_FIELD(struct serial, rx_len),
	STATE_BUFFER(struct serial, input),	 STATE_FIELD(struct serial, input_start),
	STATE_FIELD(struct serial, input_len),	 STATE_END,
};

static const struct state_desc serial_state = {
	.name = "serial",
	.version = 1,
	.fields = serial_fields,
	.loaded = serial_loaded,
};

const struct device_class serial_class = {
	.name = "serial",
	.summary = "16550A UART",
	.size = sizeof(struct serial),
	.init = serial_init,
	.reset = serial_reset,
	.free = serial_free,
	.stats = serial_stats,
	.state = &serial_state,
};
