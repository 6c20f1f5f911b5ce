/*
 * The keyboard: IBM PS/2 Technical Reference, "Keyboard (101/102-key)". Scan-code sets 1 and 2; set
 * 3 is refused, as many keyboards do.
 */
#include <errno.h>
#include <linux/input-event-codes.h>
#include <string.h>

#include "hw/ps2_int.h"

#define MAX_SEQUENCE 8	  /* Pause in set 2 */
#define EXTENDED     0x80 /* in the tables below: after 0xe0 */

/* Set 1 to set 2, both without prefixes. The controller's translation is the inverse. */
static const u8 set2_of[128] = {
	0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66,
	0x0d, 0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14,
	0x1c, 0x1b, 0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a,
	0x22, 0x21, 0x2a, 0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05,
	0x06, 0x04, 0x0c, 0x03, 0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b,
	0x6b, 0x73, 0x74, 0x79, 0x69, 0x72, 0x7a, 0x70, 0x71, 0x84, 0x60, 0x61, 0x78, 0x07, 0x0f,
	0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x56, 0x5e, 0x08, 0x10, 0x18, 0x20, 0x28,
	0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6f, 0x13, 0x19, 0x39, 0x51, 0x53, 0x5c, 0x5f, 0x62,
	0x63, 0x64, 0x65, 0x67, 0x68, 0x6a, 0x6d, 0x6e,
};

/* Keys from KEY_RO on, as set 1; those before have their set 1 code as their number. */
static const u8 set1_of[] = {
	[KEY_RO] = 0x73,
	[KEY_HENKAN] = 0x79,
	[KEY_KATAKANAHIRAGANA] = 0x70,
	[KEY_MUHENKAN] = 0x7b,
	[KEY_KPENTER] = EXTENDED | 0x1c,
	[KEY_RIGHTCTRL] = EXTENDED | 0x1d,
	[KEY_KPSLASH] = EXTENDED | 0x35,
	[KEY_RIGHTALT] = EXTENDED | 0x38,
	[KEY_HOME] = EXTENDED | 0x47,
	[KEY_UP] = EXTENDED | 0x48,
	[KEY_PAGEUP] = EXTENDED | 0x49,
	[KEY_LEFT] = EXTENDED | 0x4b,
	[KEY_RIGHT] = EXTENDED | 0x4d,
	[KEY_END] = EXTENDED | 0x4f,
	[KEY_DOWN] = EXTENDED | 0x50,
	[KEY_PAGEDOWN] = EXTENDED | 0x51,
	[KEY_INSERT] = EXTENDED | 0x52,
	[KEY_DELETE] = EXTENDED | 0x53,
	[KEY_MUTE] = EXTENDED | 0x20,
	[KEY_VOLUMEDOWN] = EXTENDED | 0x2e,
	[KEY_VOLUMEUP] = EXTENDED | 0x30,
	[KEY_POWER] = EXTENDED | 0x5e,
	[KEY_KPEQUAL] = 0x59,
	[KEY_KPCOMMA] = 0x7e,
	[KEY_HANGEUL] = 0x72,
	[KEY_HANJA] = 0x71,
	[KEY_YEN] = 0x7d,
	[KEY_LEFTMETA] = EXTENDED | 0x5b,
	[KEY_RIGHTMETA] = EXTENDED | 0x5c,
	[KEY_COMPOSE] = EXTENDED | 0x5d,
	[KEY_CALC] = EXTENDED | 0x21,
	[KEY_SLEEP] = EXTENDED | 0x5f,
	[KEY_WAKEUP] = EXTENDED | 0x63,
	[KEY_MAIL] = EXTENDED | 0x6c,
	[KEY_BOOKMARKS] = EXTENDED | 0x66,
	[KEY_COMPUTER] = EXTENDED | 0x6b,
	[KEY_BACK] = EXTENDED | 0x6a,
	[KEY_FORWARD] = EXTENDED | 0x69,
	[KEY_NEXTSONG] = EXTENDED | 0x19,
	[KEY_PLAYPAUSE] = EXTENDED | 0x22,
	[KEY_PREVIOUSSONG] = EXTENDED | 0x10,
	[KEY_STOPCD] = EXTENDED | 0x24,
	[KEY_HOMEPAGE] = EXTENDED | 0x32,
	[KEY_REFRESH] = EXTENDED | 0x67,
	[KEY_SEARCH] = EXTENDED | 0x65,
	[KEY_MEDIA] = EXTENDED | 0x6d,
};

u8 ps2_translate(u8 set2)
{
	if (set2 == 0x02) /* both 0x02 and 0x83 are F7 to the controller */
		return 0x41;
	if (set2 == 0x7f)
		return 0x54;
	for (u8 i = 1; i < ARRAY_SIZE(set2_of); i++)
		if (set2_of[i] == set2)
			return i;
	return set2 ? set2 : 0xff;
}

struct sequence {
	u8 bytes[MAX_SEQUENCE];
	unsigned int len;
};

/* One key in the chosen set. code: set 1, with EXTENDED. */
static void add_key(struct sequence *s, u8 set, u8 code, bool down)
{
	u8 plain = code & ~EXTENDED;

	if (code & EXTENDED)
		s->bytes[s->len++] = 0xe0;
	if (set == 1) {
		s->bytes[s->len++] = down ? plain : plain | 0x80;
		return;
	}
	if (!down)
		s->bytes[s->len++] = 0xf0;
	s->bytes[s->len++] = set2_of[plain];
}

/* Print Screen pretends that Shift is down; with Alt it is another key: SysRq. */
static void add_print(struct sequence *s, u8 set, bool alt, bool down)
{
	if (alt) {
		add_key(s, set, 0x54, down);
	} else if (down) {
		add_key(s, set, EXTENDED | 0x2a, true);
		add_key(s, set, EXTENDED | 0x37, true);
	} else {
		add_key(s, set, EXTENDED | 0x37, false);
		add_key(s, set, EXTENDED | 0x2a, false);
	}
}

/* Pause sends make and break at once and nothing when it is released. */
static void add_pause(struct sequence *s, u8 set, bool down)
{
	static const u8 set1[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
	static const u8 set2[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};

	if (!down)
		return;
	s->len = set == 1 ? sizeof(set1) : sizeof(set2);
	memcpy(s->bytes, set == 1 ? set1 : set2, s->len);
}

static u8 set1_code(u16 code)
{
	if (code >= KEY_ESC && code <= KEY_F12 && code != KEY_ZENKAKUHANKAKU && code != 84)
		return (u8)code;
	if (code >= KEY_F13 && code <= KEY_F23)
		return (u8)(0x64 + code - KEY_F13);
	if (code == KEY_F24)
		return 0x76;
	return code < ARRAY_SIZE(set1_of) ? set1_of[code] : 0;
}

int ps2_keyboard_key(struct ps2_keyboard *k, u16 code, bool down)
{
	struct sequence s = {.len = 0};
	u8 alt = code == KEY_LEFTALT ? 1 : code == KEY_RIGHTALT ? 2 : 0, set1 = set1_code(code);

	k->alts = down ? k->alts | alt : k->alts & ~alt;
	if (code == KEY_SYSRQ)
		add_print(&s, k->set, k->alts, down);
	else if (code == KEY_PAUSE)
		add_pause(&s, k->set, down);
	else if (set1)
		add_key(&s, k->set, set1, down);
	else
		return -ENOENT;
	if (!k->enabled)
		return 0;
	if (!ps2_has_room(&k->port, s.len))
		return -ENOSPC;
	ps2_put(&k->port, s.bytes, s.len);
	return 0;
}

/* ---- commands ---- */

static void set_defaults(struct ps2_keyboard *k)
{
	ps2_clear(&k->port);
	k->set = 2;
	k->typematic = 0x2b;
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
	set_defaults(k);
	k->enabled = true;
	k->leds = 0;
	k->port.command = 0;
}

static void choose_set(struct ps2_keyboard *k, u8 set)
{
	if (set > 2) {
		ps2_reply(&k->port, PS2_RESEND);
		return;
	}
	ps2_reply(&k->port, PS2_ACK);
	if (set)
		k->set = set;
	else
		ps2_reply(&k->port, k->set);
}

static void take_parameter(struct ps2_keyboard *k, u8 command, u8 value)
{
	switch (command) {
	case 0xed:
		k->leds = value & 7;
		break;
	case 0xf3:
		k->typematic = value & 0x7f;
		break;
	case 0xf0:
		choose_set(k, value);
		return;
	default: /* 0xfb to 0xfd: key types, of set 3 only */
		break;
	}
	ps2_reply(&k->port, PS2_ACK);
}

static bool takes_parameter(u8 command)
{
	return command == 0xed || command == 0xf0 || command == 0xf3 ||
	       (command >= 0xfb && command <= 0xfd);
}

static void identify(struct ps2_keyboard *k)
{
	ps2_reply(&k->port, PS2_ACK);
	ps2_reply(&k->port, 0xab);
	ps2_reply(&k->port, 0x83);
}

static void run_command(struct ps2_keyboard *k, u8 command)
{
	switch (command) {
	case 0xee:
		ps2_reply(&k->port, 0xee);
		return;
	case 0xf2:
		identify(k);
		return;
	case 0xf4: /* start scanning */
	case 0xf5: /* stop, with defaults */
	case 0xf6: /* defaults */
		set_defaults(k);
		k->enabled = command != 0xf5;
		break;
	case 0xf7 ... 0xfa: /* key types, of set 3 only */
		break;
	case 0xfe:
		ps2_reply(&k->port, k->port.last);
		return;
	case 0xff:
		ps2_keyboard_reset(k);
		ps2_reply(&k->port, PS2_ACK);
		ps2_reply(&k->port, PS2_BAT_OK);
		return;
	default:
		ps2_reply(&k->port, PS2_RESEND);
		return;
	}
	ps2_reply(&k->port, PS2_ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *k, u8 byte)
{
	u8 waiting = k->port.command;

	k->port.command = 0;
	/* A command in the place of a parameter takes over. */
	if (waiting && byte < 0xed) {
		take_parameter(k, waiting, byte);
	} else if (takes_parameter(byte)) {
		k->port.command = byte;
		ps2_reply(&k->port, PS2_ACK);
	} else {
		run_command(k, byte);
	}
}

static int keyboard_loaded(void *object, struct err *err)
{
	struct ps2_keyboard *k = object;

	if (!ps2_port_valid(&k->port) || k->set < 1 || k->set > 2)
		return err_set(err, EINVAL, "impossible state of the keyboard");
	return 0;
}

static const struct state_field keyboard_fields[] = {
	STATE_NESTED(struct ps2_keyboard, port, ps2_port_state),
	STATE_FIELD(struct ps2_keyboard, enabled),
	STATE_FIELD(struct ps2_keyboard, set),
	STATE_FIELD(struct ps2_keyboard, leds),
	STATE_FIELD(struct ps2_keyboard, typematic),
	STATE_FIELD(struct ps2_keyboard, alts),
	STATE_END,
};

const struct state_desc ps2_keyboard_state = {
	.name = "ps2-keyboard",
	.version = 1,
	.fields = keyboard_fields,
	.loaded = keyboard_loaded,
};
