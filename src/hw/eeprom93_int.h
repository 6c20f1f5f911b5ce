/*
 * 93C46: a serial EEPROM of 64 words behind four wires (Microwire), as network cards have it.
 */
#ifndef HW_EEPROM93_INT_H
#define HW_EEPROM93_INT_H

#include "base/types.h"
#include "state/state.h"

#define EEPROM93_WORDS 64

struct eeprom93 {
	u16 words[EEPROM93_WORDS];
	u16 shift; /* what has been clocked in since the start bit, or goes out */
	u8 bits;   /* how many of them */
	u8 phase, address, command;
	u8 clock, selected, out, writable;
};

/* Forget a half-sent command; the words stay. */
void eeprom93_reset(struct eeprom93 *e);
/* The levels of the three inputs. */
void eeprom93_set(struct eeprom93 *e, bool select, bool clock, bool in);
/* The level of the output. */
bool eeprom93_out(const struct eeprom93 *e);

extern const struct state_desc eeprom93_state;

#endif
