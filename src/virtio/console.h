/* Console device: Virtio 1.3, section 5.3. */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include "chardev/chardev.h"
#include "virtio/virtio.h"

#define VIRTIO_CONSOLE_PORTS 8

struct virtio_console_port_options {
	struct chardev *chr; /* outlives the device, which is its client */
	const char *name;    /* "com.redhat.spice.0"; NULL: none. Copied */
	bool console;	     /* a terminal: the guest may put a getty on it */
};

struct virtio_console_options {
	unsigned int nports; /* 1 to VIRTIO_CONSOLE_PORTS; the first is a console always */
	struct virtio_console_port_options port[VIRTIO_CONSOLE_PORTS];
	u16 cols, rows; /* of the first; 0: not told */
};

/* The terminal behind a port has this size now. With the bus lock. */
void virtio_console_set_size(struct virtio_device *dev, unsigned int port, u16 cols, u16 rows);

#endif
