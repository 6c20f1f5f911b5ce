/*
 * A UNIX stream socket: listening, with one peer at a time (the next waits in the queue), or
 * connecting, again every second after the peer went away.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "chardev/chardev_int.h"
#include "os/clock.h"
#include "os/file.h"

#define RETRY_NS NSEC_PER_SEC

struct sock {
	struct chardev *chr;
	struct sockaddr_un addr;
	bool connect, bound;
	struct loop_watch listener; /* added while nobody is connected */
	struct loop_timer retry;
};

static int attach(struct chardev *chr, int fd)
{
	int out = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (out < 0) {
		out = -errno;
		close(fd);
		return out;
	}
	chardev_attach(chr, fd, out);
	return 0;
}

static int new_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

static int try_connect(struct sock *s)
{
	int fd = new_socket(), rc;

	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&s->addr, sizeof(s->addr))) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return attach(s->chr, fd);
}

static void on_retry(struct loop_timer *timer)
{
	struct sock *s = container_of(timer, struct sock, retry);

	if (try_connect(s))
		loop_timer_arm(timer, clock_now_ns() + RETRY_NS);
}

static void on_connection(struct loop_watch *watch, u32 events)
{
	struct sock *s = container_of(watch, struct sock, listener);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	loop_watch_del(watch);
	if (attach(s->chr, fd))
		loop_watch_add(s->chr->loop, watch, EPOLLIN);
}

static void sock_hung_up(struct chardev *chr)
{
	struct sock *s = chr->priv;

	if (s->connect)
		loop_timer_arm(&s->retry, clock_now_ns() + RETRY_NS);
	else if (loop_watch_add(chr->loop, &s->listener, EPOLLIN))
		log_error("%s: cannot listen again", s->addr.sun_path);
}

/* A socket that nobody answers is a leftover of a run that was killed. */
static void remove_leftover(const struct sock *s)
{
	struct stat st;
	int fd;

	if (lstat(s->addr.sun_path, &st) || !S_ISSOCK(st.st_mode))
		return;
	fd = new_socket();
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)&s->addr, sizeof(s->addr)) &&
	    errno == ECONNREFUSED)
		unlink(s->addr.sun_path);
	close(fd);
}

static int start_listening(struct sock *s)
{
	int fd = new_socket();

	if (fd < 0)
		return fd;
	s->listener.fd = fd;
	remove_leftover(s);
	if (bind(fd, (struct sockaddr *)&s->addr, sizeof(s->addr)))
		return -errno;
	s->bound = true;
	if (listen(fd, 4))
		return -errno;
	return loop_watch_add(s->chr->loop, &s->listener, EPOLLIN);
}

static int sock_open(struct chardev *chr, const char *arg, struct err *err)
{
	static const char suffix[] = ",connect";
	struct sock *s = calloc(1, sizeof(*s));
	size_t len = strlen(arg), cut = sizeof(suffix) - 1;
	int rc;

	if (!s)
		return err_set(err, ENOMEM, "socket: out of memory");
	chr->priv = s;
	chr->hangup_at_eof = true;
	s->chr = chr;
	s->listener = (struct loop_watch){.fd = -1, .fn = on_connection};
	loop_timer_init(chr->loop, &s->retry, on_retry);
	s->connect = len > cut && !strcmp(arg + len - cut, suffix);
	if (s->connect)
		len -= cut;
	if (len >= sizeof(s->addr.sun_path))
		return err_set(err, ENAMETOOLONG, "socket:%s: the path is longer than %zu bytes",
			       arg, sizeof(s->addr.sun_path) - 1);
	s->addr.sun_family = AF_UNIX;
	memcpy(s->addr.sun_path, arg, len);
	rc = s->connect ? try_connect(s) : start_listening(s);
	if (rc)
		return err_set(err, -rc, "socket:%s: cannot %s: %s", arg,
			       s->connect ? "connect" : "listen", strerror(-rc));
	return 0;
}

static void sock_close(struct chardev *chr)
{
	struct sock *s = chr->priv;

	if (!s)
		return;
	loop_watch_del(&s->listener);
	fd_close(&s->listener.fd);
	loop_timer_disarm(&s->retry);
	if (s->bound)
		unlink(s->addr.sun_path);
	free(s);
}

extern const struct chardev_class chardev_socket;

const struct chardev_class chardev_socket = {
	.name = "socket",
	.wants_arg = true,
	.open = sock_open,
	.hung_up = sock_hung_up,
	.close = sock_close,
};
