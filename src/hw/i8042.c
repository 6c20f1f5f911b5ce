/*
 * Invariants:
 * 1. The output buffer holds one byte. Reading it lowers both interrupt lines before the next byte
 *    raises one again: an edge for each byte.
 * 2. What fills it, in order: replies of the controller, the keyboard, the mouse. A port whose
 *    clock is held (disabled) keeps its bytes.
 *
 * IBM PS/2 Technical Reference, "Keyboard/Auxiliary Device Controller"; commands 0xa0 and up as PC
 * chipsets have them. A20 is only a bit to read back: no engine masks addresses.
 */
#include "hw/i8042.h"

#include <errno.h>

#include "bus/irq.h"
#include "hw/bytewise.h"
#include "hw/input.h"
#include "hw/ps2_int.h"

enum { /* status */
       STATUS_OBF = 0x01,
       STATUS_SYS = 0x04,
       STATUS_COMMAND = 0x08,
       STATUS_UNLOCKED = 0x10,
       STATUS_AUX = 0x20,
       STATUS_TIMEOUT = 0x40,
};
enum { /* command byte */
       CTR_KBD_INT = 0x01,
       CTR_AUX_INT = 0x02,
       CTR_SYS = 0x04,
       CTR_KBD_OFF = 0x10,
       CTR_AUX_OFF = 0x20,
       CTR_TRANSLATE = 0x40,
       CTR_FIRMWARE_LEFT = CTR_KBD_INT | CTR_AUX_INT | CTR_SYS | CTR_TRANSLATE,
};
enum { OUT_NO_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_IRQ = 0x10, OUT_AUX_IRQ = 0x20 };
enum { PORT92_RESET = 0x01, PORT92_A20 = 0x02 };

enum source { FROM_CONTROLLER, FROM_KEYBOARD, FROM_AUX };

struct i8042 {
	struct device dev;
	struct bus_range data_range, command_range, port92_range;
	struct irq_line kbd_irq, aux_irq;
	bool has_mouse;
	u8 ctr, ram[32], outport;
	u8 obuf, full, source, timeout; /* output buffer */
	u8 reply, has_reply;
	u8 command;	  /* waits for its data byte; 0: none */
	u8 after_command; /* the last write went to the command port */
	u8 break_next;	  /* 0xf0 came: the next translated byte is a break code */
	struct ps2_keyboard keyboard;
	struct ps2_mouse mouse;
};

/* ---- the output buffer ---- */

static void fill(struct i8042 *c, enum source source, u8 byte)
{
	c->obuf = byte;
	c->source = source;
	c->full = true;
	c->timeout = false;
}

static bool take_translated(struct i8042 *c, u8 *byte)
{
	while (ps2_take(&c->keyboard.port, byte)) {
		if (!(c->ctr & CTR_TRANSLATE))
			return true;
		if (*byte == 0xf0) {
			c->break_next = true;
			continue;
		}
		*byte = ps2_translate(*byte) | (c->break_next ? 0x80 : 0);
		c->break_next = false;
		return true;
	}
	return false;
}

static bool take_aux(struct i8042 *c, u8 *byte)
{
	ps2_mouse_report(&c->mouse);
	return ps2_take(&c->mouse.port, byte);
}

static void update(struct i8042 *c)
{
	bool aux;
	u8 byte;

	if (!c->full) {
		if (c->has_reply) {
			c->has_reply = false;
			fill(c, FROM_CONTROLLER, c->reply);
		} else if (!(c->ctr & CTR_KBD_OFF) && take_translated(c, &byte)) {
			fill(c, FROM_KEYBOARD, byte);
		} else if (!(c->ctr & CTR_AUX_OFF) && take_aux(c, &byte)) {
			fill(c, FROM_AUX, byte);
		}
	}
	aux = c->source == FROM_AUX;
	irq_set(&c->kbd_irq, c->full && !aux && (c->ctr & CTR_KBD_INT));
	irq_set(&c->aux_irq, c->full && aux && (c->ctr & CTR_AUX_INT));
}

static u8 read_data(struct i8042 *c)
{
	u8 byte = c->obuf;

	c->full = false;
	irq_set(&c->kbd_irq, false);
	irq_set(&c->aux_irq, false);
	update(c);
	return byte;
}

static u8 read_status(const struct i8042 *c)
{
	u8 status = STATUS_UNLOCKED | (c->ctr & CTR_SYS);

	status |= c->after_command ? STATUS_COMMAND : 0;
	status |= c->full ? STATUS_OBF : 0;
	status |= c->full && c->source == FROM_AUX ? STATUS_AUX : 0;
	status |= c->full && c->timeout ? STATUS_TIMEOUT : 0;
	return status;
}

/* ---- commands ---- */

static void reply(struct i8042 *c, u8 byte)
{
	c->reply = byte;
	c->has_reply = true;
	c->full = false; /* what was there is overwritten */
}

static void reset_machine(struct i8042 *c)
{
	bus_request(c->dev.bus, BUS_RESET_REQUEST, 0);
}

static void write_outport(struct i8042 *c, u8 value)
{
	c->outport = value;
	if (!(value & OUT_NO_RESET))
		reset_machine(c);
}

static u8 read_outport(const struct i8042 *c)
{
	u8 value = c->outport & ~(OUT_KBD_IRQ | OUT_AUX_IRQ);

	value |= c->kbd_irq.level ? OUT_KBD_IRQ : 0;
	value |= c->aux_irq.level ? OUT_AUX_IRQ : 0;
	return value;
}

static void self_test(struct i8042 *c)
{
	c->ctr |= CTR_SYS;
	reply(c, 0x55);
}

static void set_a20(struct i8042 *c, bool on)
{
	c->outport = on ? c->outport | OUT_A20 : c->outport & ~OUT_A20;
}

static void run_command(struct i8042 *c, u8 command)
{
	c->command = 0;
	switch (command) {
	case 0x20:
		reply(c, c->ctr);
		break;
	case 0x21 ... 0x3f:
		reply(c, c->ram[command & 31]);
		break;
	case 0x60 ... 0x7f:
	case 0xd1 ... 0xd4:
		c->command = command;
		break;
	case 0xa7:
		c->ctr |= CTR_AUX_OFF;
		break;
	case 0xa8:
		c->ctr &= ~CTR_AUX_OFF;
		break;
	case 0xa9: /* the lines of the second port */
	case 0xab: /* and of the first are in order */
		reply(c, 0x00);
		break;
	case 0xaa:
		self_test(c);
		break;
	case 0xad:
		c->ctr |= CTR_KBD_OFF;
		break;
	case 0xae:
		c->ctr &= ~CTR_KBD_OFF;
		break;
	case 0xc0: /* input port: keyboard not locked, colour display */
		reply(c, 0x80);
		break;
	case 0xd0:
		reply(c, read_outport(c));
		break;
	case 0xdd:
	case 0xdf:
		set_a20(c, command & 2);
		break;
	case 0xe0: /* test inputs: both clocks as the ports are enabled */
		reply(c, (c->ctr & CTR_KBD_OFF ? 0 : 1) | (c->ctr & CTR_AUX_OFF ? 0 : 2));
		break;
	case 0xf0 ... 0xff: /* pulse the outputs whose bits are 0; bit 0 is reset */
		if (!(command & 1))
			reset_machine(c);
		break;
	default: /* unknown to the AT's controller too */
		break;
	}
}

static void write_aux(struct i8042 *c, u8 byte)
{
	c->ctr &= ~CTR_AUX_OFF;
	if (c->has_mouse) {
		ps2_mouse_write(&c->mouse, byte);
		return;
	}
	fill(c, FROM_AUX, PS2_RESEND);
	c->timeout = true;
}

static void write_ctr(struct i8042 *c, u8 value)
{
	c->ctr = value;
	if (!(value & CTR_TRANSLATE))
		c->break_next = false;
}

/* Data for a command, else for the keyboard; sending to a device enables its port. */
static void write_data(struct i8042 *c, u8 byte)
{
	u8 command = c->command;

	c->command = 0;
	switch (command) {
	case 0:
		c->ctr &= ~CTR_KBD_OFF;
		ps2_keyboard_write(&c->keyboard, byte);
		break;
	case 0x60:
		write_ctr(c, byte);
		break;
	case 0xd1:
		write_outport(c, byte);
		break;
	case 0xd2:
		fill(c, FROM_KEYBOARD, byte);
		break;
	case 0xd3:
		fill(c, FROM_AUX, byte);
		break;
	case 0xd4:
		write_aux(c, byte);
		break;
	default:
		c->ram[command & 31] = byte;
		break;
	}
}

/* ---- ports ---- */

static u8 data_port_read(void *ctx, u64 offset)
{
	return read_data(ctx);
}

static void data_port_write(void *ctx, u64 offset, u8 value)
{
	struct i8042 *c = ctx;

	c->after_command = false;
	write_data(c, value);
	update(c);
}

static u8 command_port_read(void *ctx, u64 offset)
{
	return read_status(ctx);
}

static void command_port_write(void *ctx, u64 offset, u8 value)
{
	struct i8042 *c = ctx;

	c->after_command = true;
	run_command(c, value);
	update(c);
}

static u8 port92_read(void *ctx, u64 offset)
{
	const struct i8042 *c = ctx;

	return c->outport & OUT_A20 ? PORT92_A20 : 0;
}

static void port92_write(void *ctx, u64 offset, u8 value)
{
	struct i8042 *c = ctx;

	set_a20(c, value & PORT92_A20);
	if (value & PORT92_RESET)
		reset_machine(c);
}

#define ONE_PORT(name)                                                                             \
	static u64 name##_wide_read(void *ctx, u64 offset, unsigned int size)                      \
	{                                                                                          \
		return bytewise_read(ctx, name##_read, offset, size, 1);                           \
	}                                                                                          \
	static void name##_wide_write(void *ctx, u64 offset, unsigned int size, u64 value)         \
	{                                                                                          \
		bytewise_write(ctx, name##_write, offset, size, 1, value);                         \
	}                                                                                          \
	static const struct bus_ops name##_ops = {.read = name##_wide_read,                        \
						  .write = name##_wide_write}

ONE_PORT(data_port);
ONE_PORT(command_port);
ONE_PORT(port92);

/* ---- input ---- */

int input_key(struct device *dev, u16 code, bool down)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);
	int rc = ps2_keyboard_key(&c->keyboard, code, down);

	update(c);
	return rc;
}

void input_pointer(struct device *dev, int dx, int dy, int dz, u32 buttons)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);

	if (!c->has_mouse)
		return;
	ps2_mouse_move(&c->mouse, dx, dy, dz, buttons);
	update(c);
}

u8 input_leds(const struct device *dev)
{
	return container_of(dev, struct i8042, dev)->keyboard.leds;
}

/* ---- life ---- */

static int claim(struct i8042 *c, struct bus_range *range, const char *name, u16 port,
		 const struct bus_ops *ops, struct err *err)
{
	*range = (struct bus_range){
		.name = name,
		.space = BUS_PIO,
		.base = port,
		.size = 1,
		.ops = ops,
		.ctx = c,
	};
	if (bus_add(c->dev.bus, range))
		return err_set(err, EEXIST, "port 0x%x is taken", port);
	return 0;
}

static int i8042_init(struct device *dev, const void *config, struct err *err)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);
	const struct i8042_config *conf = config;
	int rc;

	c->has_mouse = !conf || !conf->no_mouse;
	irq_line_init(&c->kbd_irq, dev->bus, I8042_KBD_GSI);
	irq_line_init(&c->aux_irq, dev->bus, I8042_AUX_GSI);
	rc = claim(c, &c->data_range, "i8042-data", I8042_DATA, &data_port_ops, err);
	if (!rc)
		rc = claim(c, &c->command_range, "i8042-command", I8042_COMMAND, &command_port_ops,
			   err);
	if (!rc)
		rc = claim(c, &c->port92_range, "port92", I8042_PORT92, &port92_ops, err);
	return rc;
}

/* As firmware leaves it, for kernels that are started without. */
static void i8042_reset(struct device *dev)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);

	c->ctr = CTR_FIRMWARE_LEFT;
	c->outport = OUT_NO_RESET | OUT_A20 | 0xcc;
	c->obuf = c->full = c->source = c->timeout = 0;
	c->reply = c->has_reply = c->command = c->after_command = c->break_next = 0;
	ps2_keyboard_reset(&c->keyboard);
	ps2_mouse_reset(&c->mouse);
	update(c);
}

static void i8042_free(struct device *dev)
{
	struct i8042 *c = container_of(dev, struct i8042, dev);

	bus_remove(dev->bus, &c->data_range);
	bus_remove(dev->bus, &c->command_range);
	bus_remove(dev->bus, &c->port92_range);
	irq_set(&c->kbd_irq, false);
	irq_set(&c->aux_irq, false);
}

static int i8042_loaded(void *object, struct err *err)
{
	struct i8042 *c = container_of(object, struct i8042, dev);

	if (c->source > FROM_AUX)
		return err_set(err, EINVAL, "impossible source of the output buffer");
	update(c);
	return 0;
}

static const struct state_field i8042_fields[] = {
	STATE_FIELD(struct i8042, ctr),
	STATE_BUFFER(struct i8042, ram),
	STATE_FIELD(struct i8042, outport),
	STATE_FIELD(struct i8042, obuf),
	STATE_FIELD(struct i8042, full),
	STATE_FIELD(struct i8042, source),
	STATE_FIELD(struct i8042, timeout),
	STATE_FIELD(struct i8042, reply),
	STATE_FIELD(struct i8042, has_reply),
	STATE_FIELD(struct i8042, command),
	STATE_FIELD(struct i8042, after_command),
	STATE_FIELD(struct i8042, break_next),
	STATE_NESTED(struct i8042, keyboard, ps2_keyboard_state),
	STATE_NESTED(struct i8042, mouse, ps2_mouse_state),
	STATE_END,
};

static const struct state_desc i8042_state = {
	.name = "i8042",
	.version = 1,
	.fields = i8042_fields,
	.loaded = i8042_loaded,
};

const struct device_class i8042_class = {
	.name = "i8042",
	.summary = "keyboard controller, keyboard and mouse",
	.size = sizeof(struct i8042),
	.init = i8042_init,
	.reset = i8042_reset,
	.free = i8042_free,
	.state = &i8042_state,
};
