/* What the back ends and chardev.c share. */
#ifndef CHARDEV_CHARDEV_INT_H
#define CHARDEV_CHARDEV_INT_H

#include <pthread.h>

#include "chardev/chardev.h"

#define CHARDEV_INPUT_MAX 4096
/* Keys are read this far ahead of the guest, so that the escape key works while it does not read.
 */
#define CHARDEV_TTY_INPUT_MAX (256 * 1024)

struct chardev_class {
	const char *name; /* before the colon */
	bool wants_arg;
	/* Open descriptors and chardev_attach() them, now or later. */
	int (*open)(struct chardev *chr, const char *arg, struct err *err);
	/* The peer went away; the descriptors are detached. NULL: that was all. */
	void (*hung_up)(struct chardev *chr);
	void (*close)(struct chardev *chr); /* may be NULL */
};

struct chardev {
	const struct chardev_class *class;
	struct loop *loop;
	struct chardev_client client;
	bool has_client;
	int told_open; /* what the client was told last; -1: nothing yet */
	void *priv; /* the back end's */

	/* Input; the loop's thread only. */
	struct loop_watch in; /* fd -1: none. Not added while the buffer is full */
	bool in_plain;	      /* a regular file or /dev/null: always readable, not for epoll */
	bool hangup_at_eof;   /* end of input means that the peer is gone */
	u8 *input;
	size_t input_max, input_start, input_end;
	bool (*escape)(void *ctx, char key, bool escaped);
	void *escape_ctx;
	bool escapes, escape_pending;
	struct loop_work in_work;

	/* Output; guarded by lock, but the watch is the loop's thread's. */
	pthread_mutex_t lock;
	struct loop_watch out; /* fd -1: none. Added while something is kept */
	bool out_socket, out_guarded;
	u8 *kept; /* ring */
	size_t kept_cap, kept_start, kept_len;
	u64 dropped;
	struct loop_work out_work;
};

/*
 * Take over the descriptors (either may be -1; they may not be the same). Nonblocking, except with
 * out_guarded, where the core asks before each small write.
 */
void chardev_attach(struct chardev *chr, int in_fd, int out_fd);
/* Close the descriptors and forget what was kept. */
void chardev_detach(struct chardev *chr);

#endif
