/*
 * The keyboard and the mouse behind the i8042: what they make of a command byte, and the bytes they
 * have to send. Nothing of ports and interrupts.
 */
#ifndef HW_PS2_INT_H
#define HW_PS2_INT_H

#include "base/types.h"
#include "state/state.h"

#define PS2_QUEUE 256 /* a power of two */
#define PS2_REPLY 8

enum { PS2_ACK = 0xfa, PS2_RESEND = 0xfe, PS2_BAT_OK = 0xaa };

/* Replies to commands overtake what was queued before. */
struct ps2_port {
	u8 queue[PS2_QUEUE];
	u16 start, len;
	u8 reply[PS2_REPLY];
	u8 reply_start, reply_len;
	u8 last;    /* byte sent last, for Resend */
	u8 command; /* waits for its parameter; 0: none */
};

void ps2_clear(struct ps2_port *p);
/* Room in the queue for n bytes? */
bool ps2_has_room(const struct ps2_port *p, unsigned int n);
void ps2_put(struct ps2_port *p, const u8 *bytes, unsigned int n);
void ps2_reply(struct ps2_port *p, u8 byte);
/* The next byte to send; false when there is none. */
bool ps2_take(struct ps2_port *p, u8 *byte);
/* Check what was loaded. */
bool ps2_port_valid(const struct ps2_port *p);
extern const struct state_desc ps2_port_state;

struct ps2_keyboard {
	struct ps2_port port;
	u8 enabled, set, leds, typematic, alts; /* alts: which Alt keys are down */
};

void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_keyboard_write(struct ps2_keyboard *k, u8 byte);
/* As input_key(). */
int ps2_keyboard_key(struct ps2_keyboard *k, u16 code, bool down);
/* What a controller that translates makes of a byte of set 2 (without the 0xf0 prefix). */
u8 ps2_translate(u8 set2);
extern const struct state_desc ps2_keyboard_state;

struct ps2_mouse {
	struct ps2_port port;
	u8 reporting, remote, wrap, scale2, resolution, rate, id;
	u8 rates[2]; /* the two before: the knock for the wheel */
	u8 buttons, sent_buttons;
	u32 dx, dy, dz; /* two's complement; not reported yet */
};

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, u8 byte);
/* As input_pointer(). */
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, u32 buttons);
/* Queue the next report when there is something to report and the last one has gone. */
void ps2_mouse_report(struct ps2_mouse *m);
extern const struct state_desc ps2_mouse_state;

#endif
