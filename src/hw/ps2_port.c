#include <string.h>

#include "hw/ps2_int.h"

void ps2_clear(struct ps2_port *p)
{
	p->start = p->len = 0;
	p->reply_start = p->reply_len = 0;
}

bool ps2_has_room(const struct ps2_port *p, unsigned int n)
{
	return p->len + n <= PS2_QUEUE;
}

void ps2_put(struct ps2_port *p, const u8 *bytes, unsigned int n)
{
	for (unsigned int i = 0; i < n && p->len < PS2_QUEUE; i++)
		p->queue[(p->start + p->len++) % PS2_QUEUE] = bytes[i];
}

/* A host that sends command after command without reading loses replies. */
void ps2_reply(struct ps2_port *p, u8 byte)
{
	if (p->reply_len < PS2_REPLY)
		p->reply[(p->reply_start + p->reply_len++) % PS2_REPLY] = byte;
}

bool ps2_take(struct ps2_port *p, u8 *byte)
{
	if (p->reply_len) {
		*byte = p->reply[p->reply_start];
		p->reply_start = (p->reply_start + 1) % PS2_REPLY;
		p->reply_len--;
	} else if (p->len) {
		*byte = p->queue[p->start];
		p->start = (p->start + 1) % PS2_QUEUE;
		p->len--;
	} else {
		return false;
	}
	p->last = *byte;
	return true;
}

bool ps2_port_valid(const struct ps2_port *p)
{
	return p->start < PS2_QUEUE && p->len <= PS2_QUEUE && p->reply_start < PS2_REPLY &&
	       p->reply_len <= PS2_REPLY;
}

static const struct state_field port_fields[] = {
	STATE_BUFFER(struct ps2_port, queue),
	STATE_FIELD(struct ps2_port, start),
	STATE_FIELD(struct ps2_port, len),
	STATE_BUFFER(struct ps2_port, reply),
	STATE_FIELD(struct ps2_port, reply_start),
	STATE_FIELD(struct ps2_port, reply_len),
	STATE_FIELD(struct ps2_port, last),
	STATE_FIELD(struct ps2_port, command),
	STATE_END,
};

const struct state_desc ps2_port_state = {.name = "ps2-port", .version = 1, .fields = port_fields};
