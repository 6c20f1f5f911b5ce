/*
 * The mouse: IBM PS/2 Technical Reference, "Mouse", and the wheel and five-button extensions of
 * Microsoft's IntelliMouse (chosen by setting three sampling rates in a row).
 */
#include <errno.h>

#include "hw/input.h"
#include "hw/ps2_int.h"

#define MOVE_LIMIT 30000 /* what is added up at most while nobody takes it */

enum { ID_PLAIN = 0, ID_WHEEL = 3, ID_FIVE_BUTTONS = 4 };
enum {
	STATUS_RIGHT = 1,
	STATUS_MIDDLE = 2,
	STATUS_LEFT = 4,
	STATUS_SCALE2 = 0x10,
	STATUS_REPORTING = 0x20,
	STATUS_REMOTE = 0x40
};

static u32 add_limited(u32 sum, int delta)
{
	s64 v = (s64)(s32)sum + delta;

	return (u32)(s32)(v > MOVE_LIMIT ? MOVE_LIMIT : v < -MOVE_LIMIT ? -MOVE_LIMIT : v);
}

/* Take as much as fits into [-limit, limit) out of the sum. */
static int take_limited(u32 *sum, int limit)
{
	s32 v = (s32)*sum, part = v >= limit ? limit - 1 : v < -limit ? -limit : v;

	*sum = (u32)(v - part);
	return part;
}

/* The packet: buttons, signs; x; y (up is positive); wheel (towards the user is positive). */
static void put_packet(struct ps2_mouse *m)
{
	int dx = take_limited(&m->dx, 256), dy = take_limited(&m->dy, 256);
	u8 packet[4] = {(u8)(m->buttons | 8 | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)), (u8)dx,
			(u8)dy};
	unsigned int len = 3;

	if (m->id == ID_PLAIN)
		m->dz = 0;
	else
		packet[len++] = (u8)take_limited(&m->dz, 8);
	if (m->id == ID_FIVE_BUTTONS)
		packet[3] &= 0x0f; /* bits 4 and 5 are buttons we do not have */
	m->sent_buttons = m->buttons;
	ps2_put(&m->port, packet, len);
}

static bool streaming(const struct ps2_mouse *m)
{
	return m->reporting && !m->remote && !m->wrap;
}

static bool something_new(const struct ps2_mouse *m)
{
	return m->dx || m->dy || (m->dz && m->id != ID_PLAIN) || m->buttons != m->sent_buttons;
}

void ps2_mouse_report(struct ps2_mouse *m)
{
	if (streaming(m) && !m->port.len && something_new(m))
		put_packet(m);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, u32 buttons)
{
	m->dx = add_limited(m->dx, dx);
	m->dy = add_limited(m->dy, dy > -MOVE_LIMIT ? -dy : MOVE_LIMIT);
	m->dz = add_limited(m->dz, dz);
	m->buttons = buttons & (INPUT_LEFT | INPUT_RIGHT | INPUT_MIDDLE);
	/* A click between two reports must not get lost: it gets one of its own. */
	if (streaming(m) && m->buttons != m->sent_buttons && ps2_has_room(&m->port, 4))
		put_packet(m);
	ps2_mouse_report(m);
}

/* ---- commands ---- */

static void set_defaults(struct ps2_mouse *m)
{
	ps2_clear(&m->port);
	m->reporting = m->remote = m->wrap = m->scale2 = false;
	m->resolution = 2;
	m->rate = 100;
	m->dx = m->dy = m->dz = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
	set_defaults(m);
	m->id = ID_PLAIN;
	m->rates[0] = m->rates[1] = 0;
	m->port.command = 0;
	m->sent_buttons = m->buttons;
}

static void set_rate(struct ps2_mouse *m, u8 rate)
{
	if (m->rates[0] == 200 && m->rates[1] == 100 && rate == 80 && m->id == ID_PLAIN)
		m->id = ID_WHEEL;
	else if (m->rates[0] == 200 && m->rates[1] == 200 && rate == 80 && m->id == ID_WHEEL)
		m->id = ID_FIVE_BUTTONS;
	m->rates[0] = m->rates[1];
	m->rates[1] = rate;
	m->rate = rate;
}

static void reply_status(struct ps2_mouse *m)
{
	u8 status = 0;

	status |= m->buttons & INPUT_RIGHT ? STATUS_RIGHT : 0;
	status |= m->buttons & INPUT_MIDDLE ? STATUS_MIDDLE : 0;
	status |= m->buttons & INPUT_LEFT ? STATUS_LEFT : 0;
	status |= m->scale2 ? STATUS_SCALE2 : 0;
	status |= m->reporting ? STATUS_REPORTING : 0;
	status |= m->remote ? STATUS_REMOTE : 0;
	ps2_reply(&m->port, PS2_ACK);
	ps2_reply(&m->port, status);
	ps2_reply(&m->port, m->resolution);
	ps2_reply(&m->port, m->rate);
}

static void reply_reset(struct ps2_mouse *m)
{
	ps2_mouse_reset(m);
	ps2_reply(&m->port, PS2_ACK);
	ps2_reply(&m->port, PS2_BAT_OK);
	ps2_reply(&m->port, ID_PLAIN);
}

/* Commands that are answered by more or other than an acknowledgement; true when it was one. */
static bool run_query(struct ps2_mouse *m, u8 command)
{
	switch (command) {
	case 0xe9:
		reply_status(m);
		return true;
	case 0xf2:
		ps2_reply(&m->port, PS2_ACK);
		ps2_reply(&m->port, m->id);
		return true;
	case 0xfe:
		ps2_reply(&m->port, m->port.last);
		return true;
	case 0xff:
		reply_reset(m);
		return true;
	default:
		return false;
	}
}

static void run_command(struct ps2_mouse *m, u8 command)
{
	if (run_query(m, command))
		return;
	ps2_reply(&m->port, PS2_ACK);
	switch (command) {
	case 0xe6:
	case 0xe7:
		m->scale2 = command & 1;
		break;
	case 0xea: /* stream mode */
	case 0xf0: /* remote mode */
		m->remote = command == 0xf0;
		break;
	case 0xeb: /* read data */
		if (ps2_has_room(&m->port, 4))
			put_packet(m);
		break;
	case 0xec:
		m->wrap = false;
		break;
	case 0xee:
		m->wrap = true;
		break;
	case 0xf4:
	case 0xf5:
		m->reporting = command == 0xf4;
		break;
	case 0xf6:
		set_defaults(m);
		ps2_reply(&m->port, PS2_ACK);
		break;
	default:
		m->port.reply_len--;
		ps2_reply(&m->port, PS2_RESEND);
		break;
	}
}

void ps2_mouse_write(struct ps2_mouse *m, u8 byte)
{
	u8 waiting = m->port.command;

	m->port.command = 0;
	if (m->wrap && byte != 0xec && byte != 0xff) {
		ps2_reply(&m->port, byte);
	} else if (waiting && waiting == 0xe8) {
		m->resolution = byte & 3;
		ps2_reply(&m->port, PS2_ACK);
	} else if (waiting) {
		set_rate(m, byte);
		ps2_reply(&m->port, PS2_ACK);
	} else if (byte == 0xe8 || byte == 0xf3) {
		m->port.command = byte;
		ps2_reply(&m->port, PS2_ACK);
	} else {
		run_command(m, byte);
	}
	ps2_mouse_report(m);
}

static int mouse_loaded(void *object, struct err *err)
{
	struct ps2_mouse *m = object;

	if (!ps2_port_valid(&m->port))
		return err_set(err, EINVAL, "impossible state of the mouse");
	m->buttons &= INPUT_LEFT | INPUT_RIGHT | INPUT_MIDDLE;
	m->dx = add_limited(m->dx, 0);
	m->dy = add_limited(m->dy, 0);
	m->dz = add_limited(m->dz, 0);
	return 0;
}

static const struct state_field mouse_fields[] = {
	STATE_NESTED(struct ps2_mouse, port, ps2_port_state),
	STATE_FIELD(struct ps2_mouse, reporting),
	STATE_FIELD(struct ps2_mouse, remote),
	STATE_FIELD(struct ps2_mouse, wrap),
	STATE_FIELD(struct ps2_mouse, scale2),
	STATE_FIELD(struct ps2_mouse, resolution),
	STATE_FIELD(struct ps2_mouse, rate),
	STATE_FIELD(struct ps2_mouse, id),
	STATE_BUFFER(struct ps2_mouse, rates),
	STATE_FIELD(struct ps2_mouse, buttons),
	STATE_FIELD(struct ps2_mouse, sent_buttons),
	STATE_FIELD(struct ps2_mouse, dx),
	STATE_FIELD(struct ps2_mouse, dy),
	STATE_FIELD(struct ps2_mouse, dz),
	STATE_END,
};

const struct state_desc ps2_mouse_state = {
	.name = "ps2-mouse",
	.version = 1,
	.fields = mouse_fields,
	.loaded = mouse_loaded,
};
