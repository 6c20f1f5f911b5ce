/* Timing and instructions: the data sheets of Atmel's AT93C46 and National's NM93C46, 16-bit words.
 */
#include "hw/eeprom93_int.h"

#define ADDRESS_BITS 6
#define COMMAND_BITS (2 + ADDRESS_BITS)
#define ERASED	     0xffff

enum { PHASE_START, PHASE_COMMAND, PHASE_READ, PHASE_WRITE, PHASE_DONE };
enum { OP_EXTENDED, OP_WRITE, OP_READ, OP_ERASE };
enum { EXT_DISABLE, EXT_WRITE_ALL, EXT_ERASE_ALL, EXT_ENABLE };

void eeprom93_reset(struct eeprom93 *e)
{
	e->phase = PHASE_START;
	e->shift = e->bits = 0;
	e->out = true;
}

static void store(struct eeprom93 *e, bool all, u16 value)
{
	if (!e->writable)
		return;
	for (u8 i = 0; i < EEPROM93_WORDS; i++)
		if (all || i == e->address)
			e->words[i] = value;
}

static void run_extended(struct eeprom93 *e)
{
	switch (e->address >> (ADDRESS_BITS - 2)) {
	case EXT_ENABLE:
	case EXT_DISABLE:
		e->writable = e->address >> (ADDRESS_BITS - 2) == EXT_ENABLE;
		break;
	case EXT_ERASE_ALL:
		store(e, true, ERASED);
		break;
	default:
		e->phase = PHASE_WRITE;
		break;
	}
}

static void run_command(struct eeprom93 *e)
{
	e->command = (u8)(e->shift >> ADDRESS_BITS);
	e->address = e->shift & (EEPROM93_WORDS - 1);
	e->bits = 0;
	e->phase = PHASE_DONE;
	switch (e->command) {
	case OP_READ:
		e->phase = PHASE_READ;
		e->shift = e->words[e->address];
		e->out = false; /* a zero comes before the word */
		break;
	case OP_WRITE:
		e->phase = PHASE_WRITE;
		break;
	case OP_ERASE:
		store(e, false, ERASED);
		break;
	default:
		run_extended(e);
		break;
	}
}

/* The next bit, and after a whole word the next word. */
static void clock_out(struct eeprom93 *e)
{
	e->out = e->shift >> 15;
	e->shift = (u16)(e->shift << 1);
	if (++e->bits < 16)
		return;
	e->bits = 0;
	e->address = (e->address + 1) % EEPROM93_WORDS;
	e->shift = e->words[e->address];
}

static void clock_in(struct eeprom93 *e, bool in, unsigned int bits)
{
	e->shift = (u16)(e->shift << 1 | in);
	if (++e->bits < bits)
		return;
	if (e->phase == PHASE_COMMAND) {
		run_command(e);
		return;
	}
	store(e, e->command == OP_EXTENDED, e->shift);
	e->phase = PHASE_DONE;
	e->out = true; /* ready at once */
}

static void rising_edge(struct eeprom93 *e, bool in)
{
	switch (e->phase) {
	case PHASE_START:
		if (in)
			e->phase = PHASE_COMMAND;
		e->shift = e->bits = 0;
		break;
	case PHASE_COMMAND:
		clock_in(e, in, COMMAND_BITS);
		break;
	case PHASE_WRITE:
		clock_in(e, in, 16);
		break;
	case PHASE_READ:
		clock_out(e);
		break;
	default:
		break;
	}
}

void eeprom93_set(struct eeprom93 *e, bool select, bool clock, bool in)
{
	if (!select || !e->selected)
		eeprom93_reset(e);
	else if (clock && !e->clock)
		rising_edge(e, in);
	e->selected = select;
	e->clock = clock;
}

bool eeprom93_out(const struct eeprom93 *e)
{
	return e->out;
}

static int eeprom93_loaded(void *object, struct err *err)
{
	struct eeprom93 *e = object;

	e->address %= EEPROM93_WORDS;
	e->bits %= 16;
	return 0;
}

static const struct state_field eeprom93_fields[] = {
	STATE_ARRAY(struct eeprom93, words),
	STATE_FIELD(struct eeprom93, shift),
	STATE_FIELD(struct eeprom93, bits),
	STATE_FIELD(struct eeprom93, phase),
	STATE_FIELD(struct eeprom93, address),
	STATE_FIELD(struct eeprom93, command),
	STATE_FIELD(struct eeprom93, clock),
	STATE_FIELD(struct eeprom93, selected),
	STATE_FIELD(struct eeprom93, out),
	STATE_FIELD(struct eeprom93, writable),
	STATE_END,
};

const struct state_desc eeprom93_state = {
	.name = "eeprom93",
	.version = 1,
	.fields = eeprom93_fields,
	.loaded = eeprom93_loaded,
};
