/*
 * Port 0 has queues 0 and 1, the control queues are 2 and 3, port n has 2n + 2 and 2n + 3.
 *
 * Invariants:
 * 1. Everything runs with the bus lock held; the chardevs' callbacks take it.
 * 2. Messages to the driver are bits in port->pending until there is a buffer for them: there can
 *    never be more than one of a kind.
 * 3. Input waits in its chardev while the driver has no buffer; a kick of the receive queue asks
 *    for it again.
 */
#include "virtio/console.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "virtio/features.h"

#define QUEUE_SIZE  128
#define CONFIG_SIZE 12
#define NAME_MAX_   64
#define CTRL_RX	    2
#define CTRL_TX	    3
#define TURN_LIMIT  256

struct port {
	struct console *console;
	struct chardev *chr;
	unsigned int index;
	bool is_console, host_open;
	char name[NAME_MAX_];
	u16 cols, rows;
	bool added;		/* the driver has been, or will be, told of it */
	bool guest_open, ready; /* what the driver said */
	u32 pending;		/* BIT(event) of messages to send, lowest first */
};

struct console {
	struct virtio_device dev;
	unsigned int nports;
	struct port port[VIRTIO_CONSOLE_PORTS];
};

static struct console *of(struct virtio_device *dev)
{
	return container_of(dev, struct console, dev);
}

static bool multiport(const struct console *console)
{
	return virtio_has(&console->dev, VIRTIO_CONSOLE_F_MULTIPORT);
}

static struct virtio_queue *rx_queue(const struct port *port)
{
	return &port->console->dev.queue[port->index ? 2 * port->index + 2 : 0];
}

/* ---- messages to the driver ---- */

static size_t make_message(const struct port *port, unsigned int event, u8 *out)
{
	u16 value = 1;
	size_t len = 8;

	if (event == VIRTIO_CONSOLE_PORT_OPEN)
		value = port->host_open;
	store_le32(out, port->index);
	store_le16(out + 4, (u16)event);
	store_le16(out + 6, value);
	if (event == VIRTIO_CONSOLE_RESIZE) {
		store_le16(out + 8, port->cols);
		store_le16(out + 10, port->rows);
		len = 12;
	} else if (event == VIRTIO_CONSOLE_PORT_NAME) {
		memcpy(out + 8, port->name, strlen(port->name));
		len = 8 + strlen(port->name);
	}
	return len;
}

/* False when there is no buffer for it now. */
static bool send_message(struct console *console, const struct port *port, unsigned int event)
{
	struct virtq *vq = &console->dev.queue[CTRL_RX].vq;
	struct virtq_chain *chain = virtq_pop(vq);
	u8 message[8 + NAME_MAX_];

	if (!chain && virtq_notify_enable(vq))
		chain = virtq_pop(vq);
	if (!chain)
		return false;
	virtq_push(vq, chain,
		   (u32)iov_from_buf(chain->in, chain->nin, 0, message,
				     make_message(port, event, message)));
	return true;
}

static void send_pending(struct console *console)
{
	struct virtio_queue *queue = &console->dev.queue[CTRL_RX];
	bool room = true;

	if (!multiport(console) || !virtio_queue_is_live(queue))
		return;
	for (unsigned int i = 0; i < console->nports && room; i++) {
		struct port *port = &console->port[i];

		while (port->pending && room) {
			unsigned int event = (unsigned int)__builtin_ctz(port->pending);

			room = send_message(console, port, event);
			if (room)
				port->pending &= ~(u32)BIT(event);
		}
	}
	virtq_flush(&queue->vq);
}

/* ---- messages from the driver: section 5.3.6.2 ---- */

/* 5.3.6.2.1: a port that exists is not added again, however often the driver says it is ready. */
static void add_port(struct port *port)
{
	if (!port->added)
		port->pending |= BIT(VIRTIO_CONSOLE_PORT_ADD);
	port->added = true;
}

static void port_ready(struct port *port)
{
	port->ready = true;
	if (port->is_console)
		port->pending |= BIT(VIRTIO_CONSOLE_CONSOLE_PORT);
	if (port->is_console && port->cols)
		port->pending |= BIT(VIRTIO_CONSOLE_RESIZE);
	if (port->name[0])
		port->pending |= BIT(VIRTIO_CONSOLE_PORT_NAME);
	if (port->host_open)
		port->pending |= BIT(VIRTIO_CONSOLE_PORT_OPEN);
}

static void handle_message(struct console *console, u32 id, u16 event, u16 value)
{
	struct port *port = id < console->nports ? &console->port[id] : NULL;

	if (event == VIRTIO_CONSOLE_DEVICE_READY) {
		for (unsigned int i = 0; value == 1 && i < console->nports; i++)
			add_port(&console->port[i]);
	} else if (port && event == VIRTIO_CONSOLE_PORT_READY && value == 1) {
		port_ready(port);
	} else if (port && event == VIRTIO_CONSOLE_PORT_OPEN) {
		port->guest_open = value;
		if (value)
			chardev_accept_input(port->chr);
	}
}

static void control_kick(struct console *console)
{
	struct virtio_queue *queue = &console->dev.queue[CTRL_TX];
	struct virtq_chain *chain;
	int left = TURN_LIMIT;

	do {
		while (left && (chain = virtq_pop(&queue->vq))) {
			u8 m[8];

			if (iov_to_buf(chain->out, chain->nout, 0, m, 8) == 8)
				handle_message(console, load_le32(m), load_le16(m + 4),
					       load_le16(m + 6));
			virtq_push(&queue->vq, chain, 0);
			left--;
		}
		virtq_flush(&queue->vq);
	} while (left && virtq_notify_enable(&queue->vq));
	send_pending(console);
	if (!left)
		virtio_queue_poke(queue);
}

/* ---- data ---- */

static void transmit(struct port *port, struct virtio_queue *queue)
{
	struct virtq_chain *chain;
	int left = TURN_LIMIT;

	do {
		virtq_notify_disable(&queue->vq);
		while (left && (chain = virtq_pop(&queue->vq))) {
			for (u16 i = 0; i < chain->nout; i++)
				chardev_write(port->chr, chain->out[i].iov_base,
					      chain->out[i].iov_len);
			virtq_push(&queue->vq, chain, 0);
			left--;
		}
		virtq_flush(&queue->vq);
	} while (left && virtq_notify_enable(&queue->vq));
	if (!left)
		virtio_queue_poke(queue);
}

/* The driver listens: without MULTIPORT, as soon as it is there. */
static bool listens(const struct port *port)
{
	return virtio_queue_is_live(rx_queue(port)) &&
	       (!multiport(port->console) || port->guest_open);
}

/* The room in the next buffer. */
static size_t room(struct virtq *vq)
{
	struct virtq_chain *chain = virtq_pop(vq);
	size_t len;

	if (!chain && virtq_notify_enable(vq))
		chain = virtq_pop(vq);
	if (!chain)
		return 0;
	len = chain->in_len;
	virtq_unpop(vq, chain);
	if (!len)
		virtq_break(vq, "a receive buffer that cannot be written");
	return len;
}

static size_t can_receive(void *ctx)
{
	struct port *port = ctx;
	size_t len;

	bus_lock(port->console->dev.bus);
	len = listens(port) ? room(&rx_queue(port)->vq) : 0;
	bus_unlock(port->console->dev.bus);
	return len;
}

static void receive(void *ctx, const u8 *data, size_t len)
{
	struct port *port = ctx;
	struct virtq *vq = &rx_queue(port)->vq;

	bus_lock(port->console->dev.bus);
	while (len && listens(port)) {
		struct virtq_chain *chain = virtq_pop(vq);
		u32 n;

		if (!chain)
			break; /* a reset came between */
		n = (u32)iov_from_buf(chain->in, chain->nin, 0, data, len);
		virtq_push(vq, chain, n);
		data += n;
		len -= n;
		if (!n)
			break;
	}
	virtq_flush(vq);
	bus_unlock(port->console->dev.bus);
}

static void opened(void *ctx, bool open)
{
	struct port *port = ctx;

	bus_lock(port->console->dev.bus);
	port->host_open = open;
	if (port->ready)
		port->pending |= BIT(VIRTIO_CONSOLE_PORT_OPEN);
	send_pending(port->console);
	bus_unlock(port->console->dev.bus);
}

static void kick(struct virtio_queue *queue)
{
	struct console *console = of(queue->dev);
	unsigned int n = queue->index < 2 ? 0 : (queue->index - 2u) / 2;
	struct port *port = &console->port[n];

	if (queue->index == CTRL_RX)
		send_pending(console);
	else if (queue->index == CTRL_TX)
		control_kick(console);
	else if (queue->index % 2)
		transmit(port, queue);
	else
		chardev_accept_input(port->chr);
}

/* ---- configuration ---- */

static void config_write(struct virtio_device *dev, u32 offset, unsigned int size, u64 value)
{
	u8 byte = (u8)value;

	/* 5.3.4: at any time, even before the driver is ready. */
	if (offset == 8)
		chardev_write(of(dev)->port[0].chr, &byte, 1);
}

void virtio_console_set_size(struct virtio_device *dev, unsigned int index, u16 cols, u16 rows)
{
	struct console *console = of(dev);
	struct port *port = &console->port[index];

	if (index >= console->nports)
		return;
	port->cols = cols;
	port->rows = rows;
	if (!index) {
		store_le16(dev->config, cols);
		store_le16(dev->config + 2, rows);
		if (!multiport(console))
			virtio_config_changed(dev);
	}
	if (port->ready && port->is_console)
		port->pending |= BIT(VIRTIO_CONSOLE_RESIZE);
	send_pending(console);
}

/* ---- life ---- */

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_console_options *o = config;
	struct console *console = of(dev);
	unsigned int n = max(o->nports, 1u);
	int rc = 0;

	if (n > VIRTIO_CONSOLE_PORTS)
		return err_set(err, EINVAL, "%u ports: at most %d", n, VIRTIO_CONSOLE_PORTS);
	for (unsigned int i = 0; i < 2 * n + 2 && !rc; i++)
		rc = virtio_add_queue(dev, QUEUE_SIZE, sizeof(struct virtq_chain), NULL, err);
	if (rc)
		return rc;
	virtio_offer(dev,
		     VIRTIO_F(VIRTIO_CONSOLE_F_MULTIPORT) | VIRTIO_F(VIRTIO_CONSOLE_F_EMERG_WRITE));
	if (o->cols)
		virtio_offer(dev, VIRTIO_F(VIRTIO_CONSOLE_F_SIZE));
	dev->config_size = CONFIG_SIZE;
	store_le16(dev->config, o->cols);
	store_le16(dev->config + 2, o->rows);
	store_le32(dev->config + 4, n);
	for (unsigned int i = 0; i < n; i++) {
		struct port *port = &console->port[i];
		const struct chardev_client client = {.ctx = port,
						      .can_receive = can_receive,
						      .receive = receive,
						      .opened = opened};

		*port = (struct port){.console = console,
				      .chr = o->port[i].chr,
				      .index = i,
				      .is_console = !i || o->port[i].console,
				      .host_open = true};
		if (!i) {
			port->cols = o->cols;
			port->rows = o->rows;
		}
		if (o->port[i].name)
			snprintf(port->name, sizeof(port->name), "%s", o->port[i].name);
		console->nports = i + 1;
		chardev_set_client(port->chr, &client);
	}
	return 0;
}

static void reset(struct virtio_device *dev)
{
	struct console *console = of(dev);

	for (unsigned int i = 0; i < console->nports; i++) {
		console->port[i].guest_open = console->port[i].ready = false;
		console->port[i].added = false;
		console->port[i].pending = 0;
	}
}

static void stop(struct virtio_device *dev)
{
	struct console *console = of(dev);

	for (unsigned int i = 0; i < console->nports; i++)
		chardev_set_client(console->port[i].chr, NULL);
}

/* ---- saved state ---- */

static const struct state_field port_fields[] = {
	STATE_FIELD(struct port, guest_open),
	STATE_FIELD(struct port, ready),
	STATE_FIELD(struct port, pending),
	STATE_FIELD(struct port, cols),
	STATE_FIELD(struct port, rows),
	STATE_FIELD(struct port, added),
	STATE_END,
};

static const struct state_desc port_state = {
	.name = "virtio-console-port",
	.version = 1,
	.fields = port_fields,
};

static int loaded(void *object, struct err *err)
{
	struct console *console = object;

	for (unsigned int i = 0; i < VIRTIO_CONSOLE_PORTS; i++)
		console->port[i].pending &= (u32)MASK(VIRTIO_CONSOLE_PORT_NAME, 0);
	store_le16(console->dev.config, console->port[0].cols);
	store_le16(console->dev.config + 2, console->port[0].rows);
	return 0;
}

static const struct state_field fields[] = {
	STATE_NESTED_ARRAY(struct console, port, port_state),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-console",
	.version = 1,
	.fields = fields,
	.loaded = loaded,
};

const struct virtio_class virtio_console = {
	.name = "console",
	.summary = "terminals and channels to programs in the guest",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000,
	.size = sizeof(struct console),
	.in_order = VIRTIO_F(VIRTIO_F_IN_ORDER),
	.init = init,
	.kick = kick,
	.config_write = config_write,
	.reset = reset,
	.stop = stop,
	.state = &state,
};
