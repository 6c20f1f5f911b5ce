/*
 * Character devices: where the bytes of a serial port, a debug console or a virtio console port
 * go. A back end (stdio, pty, socket, file, null) knows bytes and nothing of guests.
 *
 * Thread: the main loop's, or any thread that holds the bus lock; the back end has one lock of its
 * own for its output, so that chardev_write() may come from vCPU threads.
 */
#ifndef CHARDEV_CHARDEV_H
#define CHARDEV_CHARDEV_H

#include "base/err.h"
#include "base/types.h"
#include "os/loop.h"

struct chardev;

/* The front end: who gets the input. All are called on the main loop's thread, without locks. */
struct chardev_client {
	void *ctx;
	/* How many bytes of input fit now. 0: the back end stops reading until
	 * chardev_accept_input() (so that a paste of any size arrives whole). */
	size_t (*can_receive)(void *ctx);
	void (*receive)(void *ctx, const u8 *data, size_t len); /* len <= can_receive() */
	/* A peer connected (true) or went away (false); may be NULL. */
	void (*opened)(void *ctx, bool open);
};

/*
 * Open from a specification: "stdio", "pty", "null", "file:PATH", "pipe:PATH", "socket:PATH"
 * (listens; UNIX), "socket:PATH,connect", "fd:N". A pipe is two: PATH.in to the guest, PATH.out
 * from it. -errno with the reason. The pty's name is logged.
 */
int chardev_open(struct chardev **chr, struct loop *loop, const char *spec, struct err *err);
void chardev_close(struct chardev *chr);

/* NULL detaches. */
void chardev_set_client(struct chardev *chr, const struct chardev_client *client);
/* Room for input again. Any thread. */
void chardev_accept_input(struct chardev *chr);

/*
 * Send. Never blocks and never fails: what the peer does not take at once is kept, up to 1 MiB, and
 * what goes beyond is dropped and counted (a full pipe or a closed terminal must not stop a guest).
 * Any thread.
 */
void chardev_write(struct chardev *chr, const void *data, size_t len);
/* Bytes dropped so far. */
u64 chardev_dropped(const struct chardev *chr);
/* Wait until kept output is gone, for at most timeout_ms: at the end of the run. */
void chardev_flush(struct chardev *chr, int timeout_ms);

/*
 * A terminal only: fn sees each key that is typed, and those after Ctrl-A with `escaped`; what it
 * returns true for does not reach the guest. Ctrl-A twice sends one. NULL: no escapes.
 */
void chardev_set_escape(struct chardev *chr, bool (*fn)(void *ctx, char key, bool escaped),
			void *ctx);

#endif
