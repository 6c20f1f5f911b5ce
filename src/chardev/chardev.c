/*
 * Invariants:
 * 1. kept[] holds what has not been written; bytes are written directly only while it is empty.
 * 2. A watch is registered only while it has something to wait for: a hang-up that nobody handles
 *    would wake the loop for ever.
 * 3. input[input_start, input_end) has passed the escape filter and waits for the client.
 */
#define _GNU_SOURCE
#include "chardev/chardev.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "chardev/chardev_int.h"
#include "os/clock.h"
#include "os/file.h"

#define KEPT_MAX      (1 * MiB)
#define GUARDED_WRITE 256
#define ESCAPE_KEY    0x01 /* Ctrl-A */

#define CHARDEV(id) extern const struct chardev_class id;
#include "chardev/chardevs.def"
#undef CHARDEV

static const struct chardev_class *const classes[] = {
#define CHARDEV(id) &id,
#include "chardev/chardevs.def"
#undef CHARDEV
};

/* ---- output ---- */

/* Bytes taken, 0 when it would block, -errno. */
static ssize_t write_some(struct chardev *chr, const u8 *data, size_t len)
{
	struct pollfd p = {.fd = chr->out.fd, .events = POLLOUT};
	ssize_t n;

	if (chr->out_guarded) {
		if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLOUT | POLLERR)))
			return 0;
		len = min(len, (size_t)GUARDED_WRITE);
	}
	do {
		n = chr->out_socket ? send(chr->out.fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
				    : write(chr->out.fd, data, len);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
}

/* Write until it would block; what is left over stays. Nobody reads any more: throw it away. */
static size_t write_out(struct chardev *chr, const u8 *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = write_some(chr, data + done, len - done);

		if (!n)
			break;
		if (n < 0) {
			chr->dropped += len - done;
			return len;
		}
		done += (size_t)n;
	}
	return done;
}

static void drain_kept(struct chardev *chr)
{
	while (chr->kept_len) {
		size_t run = min(chr->kept_len, chr->kept_cap - chr->kept_start);
		size_t n = write_out(chr, chr->kept + chr->kept_start, run);

		chr->kept_start = (chr->kept_start + n) & (chr->kept_cap - 1);
		chr->kept_len -= n;
		if (n < run)
			return;
	}
}

static bool kept_grow(struct chardev *chr, size_t need)
{
	size_t cap = max(round_up_pow2(need), 4 * KiB), head;
	u8 *kept;

	if (cap <= chr->kept_cap)
		return true;
	kept = malloc(cap);
	if (!kept)
		return false;
	head = min(chr->kept_len, chr->kept_cap - chr->kept_start);
	if (chr->kept_len) {
		memcpy(kept, chr->kept + chr->kept_start, head);
		memcpy(kept + head, chr->kept, chr->kept_len - head);
	}
	free(chr->kept);
	chr->kept = kept;
	chr->kept_cap = cap;
	chr->kept_start = 0;
	return true;
}

static void keep(struct chardev *chr, const u8 *data, size_t len)
{
	size_t take = min(len, (size_t)KEPT_MAX - chr->kept_len), at, head;

	if (take && !kept_grow(chr, chr->kept_len + take))
		take = 0;
	chr->dropped += len - take;
	if (!take)
		return;
	at = (chr->kept_start + chr->kept_len) & (chr->kept_cap - 1);
	head = min(take, chr->kept_cap - at);
	memcpy(chr->kept + at, data, head);
	memcpy(chr->kept, data + head, take - head);
	chr->kept_len += take;
}

void chardev_write(struct chardev *chr, const void *data, size_t len)
{
	size_t done;
	bool wait;

	if (!chr || !len)
		return;
	pthread_mutex_lock(&chr->lock);
	if (chr->out.fd < 0) {
		chr->dropped += len;
		pthread_mutex_unlock(&chr->lock);
		return;
	}
	done = chr->kept_len ? 0 : write_out(chr, data, len);
	wait = !chr->kept_len && done < len;
	if (done < len)
		keep(chr, (const u8 *)data + done, len - done);
	pthread_mutex_unlock(&chr->lock);
	if (wait)
		loop_post(chr->loop, &chr->out_work);
}

/* In the loop's thread: watch the descriptor as long as something is kept. */
static void watch_output(struct chardev *chr)
{
	bool want;

	pthread_mutex_lock(&chr->lock);
	if (chr->out.fd >= 0)
		drain_kept(chr);
	want = chr->out.fd >= 0 && chr->kept_len;
	pthread_mutex_unlock(&chr->lock);
	if (want && !chr->out.added && loop_watch_add(chr->loop, &chr->out, EPOLLOUT))
		loop_post(chr->loop, &chr->out_work); /* not for epoll: it does not block long */
	else if (!want)
		loop_watch_del(&chr->out);
}

static void on_writable(struct loop_watch *watch, u32 events)
{
	watch_output(container_of(watch, struct chardev, out));
}

static void on_out_work(struct loop_work *work)
{
	watch_output(container_of(work, struct chardev, out_work));
}

u64 chardev_dropped(const struct chardev *chr)
{
	struct chardev *c = (struct chardev *)(uintptr_t)chr;
	u64 dropped;

	if (!chr)
		return 0;
	pthread_mutex_lock(&c->lock);
	dropped = c->dropped;
	pthread_mutex_unlock(&c->lock);
	return dropped;
}

void chardev_flush(struct chardev *chr, int timeout_ms)
{
	u64 end = clock_now_ns() + (u64)max(timeout_ms, 0) * NSEC_PER_MSEC;

	while (chr) {
		struct pollfd p = {.events = POLLOUT};
		u64 now = clock_now_ns();
		bool left;

		pthread_mutex_lock(&chr->lock);
		if (chr->out.fd >= 0)
			drain_kept(chr);
		left = chr->out.fd >= 0 && chr->kept_len;
		p.fd = chr->out.fd;
		pthread_mutex_unlock(&chr->lock);
		if (!left || now >= end)
			return;
		poll(&p, 1, (int)((end - now) / NSEC_PER_MSEC) + 1);
	}
}

/* ---- input ---- */

/* Drop the escapes out of buf; returns what is left of len bytes. */
static size_t filter_escapes(struct chardev *chr, u8 *buf, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		u8 key = buf[i];

		if (chr->escape_pending) {
			chr->escape_pending = false;
			if (key == ESCAPE_KEY || !chr->escape(chr->escape_ctx, (char)key, true))
				buf[out++] = key;
		} else if (key == ESCAPE_KEY) {
			chr->escape_pending = true;
		} else if (!chr->escape(chr->escape_ctx, (char)key, false)) {
			buf[out++] = key;
		}
	}
	return out;
}

static void deliver(struct chardev *chr)
{
	while (chr->has_client && chr->input_start < chr->input_end) {
		size_t room = chr->client.can_receive(chr->client.ctx);
		size_t n = min(room, chr->input_end - chr->input_start);

		if (!n)
			break;
		chr->client.receive(chr->client.ctx, chr->input + chr->input_start, n);
		chr->input_start += n;
	}
	memmove(chr->input, chr->input + chr->input_start, chr->input_end - chr->input_start);
	chr->input_end -= chr->input_start;
	chr->input_start = 0;
}

/* In the loop's thread: tell the client when the peer came or went, and first how it is. */
static void tell_opened(struct chardev *chr)
{
	int open = chr->in.fd >= 0 || chr->out.fd >= 0;

	if (!chr->has_client || open == chr->told_open)
		return;
	chr->told_open = open;
	if (chr->client.opened)
		chr->client.opened(chr->client.ctx, open);
}

static void end_of_input(struct chardev *chr)
{
	if (chr->hangup_at_eof) {
		chardev_detach(chr);
		tell_opened(chr);
		if (chr->class->hung_up)
			chr->class->hung_up(chr);
		return;
	}
	loop_watch_del(&chr->in);
	fd_close(&chr->in.fd);
}

/* Read once; false when there is nothing more now. */
static bool read_input(struct chardev *chr)
{
	u8 *buf = chr->input + chr->input_end;
	ssize_t n = read(chr->in.fd, buf, chr->input_max - chr->input_end);
	size_t kept;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		end_of_input(chr);
		return false;
	}
	kept = (size_t)n;
	if (chr->escapes && chr->escape)
		kept = filter_escapes(chr, buf, kept);
	chr->input_end += kept;
	return true;
}

/* In the loop's thread: pass on what waits, and read on as long as there is room. */
static void pump_input(struct chardev *chr)
{
	tell_opened(chr);
	deliver(chr);
	if (chr->in.fd < 0)
		return;
	if (chr->input_end == chr->input_max) {
		loop_watch_del(&chr->in);
		return;
	}
	if (!chr->in_plain) {
		if (chr->in.added || !loop_watch_add(chr->loop, &chr->in, EPOLLIN))
			return;
		chr->in_plain = true;
	}
	/* Not for epoll: a file. Read on at the next turn of the loop. */
	if (read_input(chr))
		loop_post(chr->loop, &chr->in_work);
}

static void on_readable(struct loop_watch *watch, u32 events)
{
	struct chardev *chr = container_of(watch, struct chardev, in);

	read_input(chr);
	pump_input(chr);
}

static void on_in_work(struct loop_work *work)
{
	pump_input(container_of(work, struct chardev, in_work));
}

void chardev_accept_input(struct chardev *chr)
{
	if (chr)
		loop_post(chr->loop, &chr->in_work);
}

void chardev_set_client(struct chardev *chr, const struct chardev_client *client)
{
	if (!chr)
		return;
	chr->has_client = client != NULL;
	if (client)
		chr->client = *client;
	chr->told_open = -1;
	loop_post(chr->loop, &chr->in_work);
}

void chardev_set_escape(struct chardev *chr, bool (*fn)(void *ctx, char key, bool escaped),
			void *ctx)
{
	chr->escape = fn;
	chr->escape_ctx = ctx;
}

/* ---- life ---- */

void chardev_attach(struct chardev *chr, int in_fd, int out_fd)
{
	struct stat st;

	chr->in.fd = in_fd;
	pthread_mutex_lock(&chr->lock);
	chr->out.fd = out_fd;
	chr->out_socket = out_fd >= 0 && !fstat(out_fd, &st) && S_ISSOCK(st.st_mode);
	pthread_mutex_unlock(&chr->lock);
	loop_post(chr->loop, &chr->in_work);
}

void chardev_detach(struct chardev *chr)
{
	loop_watch_del(&chr->in);
	loop_watch_del(&chr->out);
	fd_close(&chr->in.fd);
	pthread_mutex_lock(&chr->lock);
	fd_close(&chr->out.fd);
	chr->dropped += chr->kept_len;
	chr->kept_len = chr->kept_start = 0;
	pthread_mutex_unlock(&chr->lock);
}

static const struct chardev_class *find_class(const char *spec, const char **arg)
{
	size_t len = strcspn(spec, ":");

	*arg = spec[len] ? spec + len + 1 : "";
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		if (strlen(classes[i]->name) == len && !memcmp(classes[i]->name, spec, len))
			return classes[i];
	return NULL;
}

/* A reader that goes away must not end the program: the write's error says it. */
static void ignore_sigpipe(void)
{
	struct sigaction sa;

	if (!sigaction(SIGPIPE, NULL, &sa) && sa.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

int chardev_open(struct chardev **out, struct loop *loop, const char *spec, struct err *err)
{
	const char *arg;
	const struct chardev_class *class = find_class(spec, &arg);
	struct chardev *chr;
	int rc;

	if (!class)
		return err_set(err, EINVAL,
			       "%s: no such character device: stdio, pty, null, file:PATH, "
			       "pipe:PATH, socket:PATH[,connect], fd:N",
			       spec);
	if (!!*arg != class->wants_arg)
		return err_set(err, EINVAL, "%s: %s", spec,
			       class->wants_arg ? "needs a value after the colon"
						: "takes no value");
	chr = calloc(1, sizeof(*chr));
	if (!chr)
		return err_set(err, ENOMEM, "%s: out of memory", spec);
	ignore_sigpipe();
	chr->class = class;
	chr->loop = loop;
	chr->in = (struct loop_watch){.fd = -1, .fn = on_readable};
	chr->out = (struct loop_watch){.fd = -1, .fn = on_writable};
	chr->in_work.fn = on_in_work;
	chr->out_work.fn = on_out_work;
	chr->input_max = CHARDEV_INPUT_MAX;
	pthread_mutex_init(&chr->lock, NULL);
	rc = class->open(chr, arg, err);
	if (!rc && !(chr->input = malloc(chr->input_max)))
		rc = err_set(err, ENOMEM, "%s: out of memory", spec);
	if (rc) {
		chardev_close(chr);
		return rc;
	}
	*out = chr;
	return 0;
}

void chardev_close(struct chardev *chr)
{
	if (!chr)
		return;
	chr->has_client = false;
	chardev_detach(chr);
	if (chr->class->close)
		chr->class->close(chr);
	loop_cancel(chr->loop, &chr->in_work);
	loop_cancel(chr->loop, &chr->out_work);
	pthread_mutex_destroy(&chr->lock);
	free(chr->kept);
	free(chr->input);
	free(chr);
}
