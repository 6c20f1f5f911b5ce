/* Back ends against real peers: pipes, pseudo-terminals, sockets. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "chardev/chardev.h"
#include "os/clock.h"
#include "os/loop.h"

static char directory[] = "/tmp/bothy-chardev-XXXXXX";

struct fixture {
	struct loop *loop;
	struct chardev *chr;
	u8 *got; /* what arrived */
	size_t got_len, got_cap, room;
	int open, opens;
};

static size_t can_receive(void *ctx)
{
	struct fixture *f = ctx;

	return min(f->room, f->got_cap - f->got_len);
}

static void receive(void *ctx, const u8 *data, size_t len)
{
	struct fixture *f = ctx;

	assert_true(len <= can_receive(ctx));
	memcpy(f->got + f->got_len, data, len);
	f->got_len += len;
	f->room -= len;
}

static void opened(void *ctx, bool open)
{
	struct fixture *f = ctx;

	f->open = open;
	f->opens++;
}

static void attach(struct fixture *f, size_t cap)
{
	const struct chardev_client client = {
		.ctx = f, .can_receive = can_receive, .receive = receive, .opened = opened};

	f->got = realloc(f->got, cap);
	f->got_cap = f->room = cap;
	f->got_len = 0;
	f->open = -1;
	f->opens = 0;
	chardev_set_client(f->chr, &client);
}

static struct fixture *setup(const char *spec)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	assert_non_null(f);
	f->loop = loop_new();
	assert_non_null(f->loop);
	if (chardev_open(&f->chr, f->loop, spec, &err))
		fail_msg("%s", err.text);
	attach(f, 4096);
	return f;
}

static void teardown(struct fixture *f)
{
	chardev_close(f->chr);
	loop_free(f->loop);
	free(f->got);
	free(f);
}

/* Turn the loop until nothing happens for a moment. */
static void turn(struct fixture *f)
{
	for (int i = 0; i < 10; i++)
		assert_int_equal(loop_run_once(f->loop, 0), 0);
}

/* Turn the loop until the condition holds; it is a failure when it never does. */
#define UNTIL(f, condition)                                                                        \
	do {                                                                                       \
		u64 end_ = clock_now_ns() + 20 * NSEC_PER_SEC;                                     \
		while (!(condition)) {                                                             \
			assert_true(clock_now_ns() < end_);                                        \
			assert_int_equal(loop_run_once((f)->loop, 10 * NSEC_PER_MSEC), 0);         \
		}                                                                                  \
	} while (0)

static char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static char *spec_of(const char *kind, const char *name, const char *suffix)
{
	static char spec[160];

	snprintf(spec, sizeof(spec), "%s:%s/%s%s", kind, directory, name, suffix);
	return spec;
}

static void bad_specifications(void **state)
{
	static const char *const bad[] = {
		"nothing",
		"stdio:x",
		"pty:1",
		"file",
		"file:",
		"socket:",
		"fd:x",
		"fd:12345",
		"null:x",
		"",
		"file:/nonexistent/directory/file",
		"pipe:/nonexistent/pipe",
		"socket:/nonexistent/directory/socket",
		"socket:/nonexistent,connect",
	};
	struct loop *loop = loop_new();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct chardev *chr = NULL;
		struct err err = {0};

		assert_true(chardev_open(&chr, loop, bad[i], &err) < 0);
		assert_null(chr);
		assert_int_not_equal(strlen(err.text), 0);
	}
	loop_free(loop);
}

static void null_device(void **state)
{
	struct fixture *f = setup("null");

	chardev_write(f->chr, "gone", 4);
	turn(f);
	assert_int_equal(chardev_dropped(f->chr), 4);
	assert_int_equal(f->open, 0);
	chardev_flush(f->chr, 1000);
	teardown(f);
	/* Nobody at all. */
	chardev_write(NULL, "x", 1);
	chardev_flush(NULL, 0);
	chardev_accept_input(NULL);
	chardev_set_client(NULL, NULL);
	chardev_close(NULL);
}

static void file_device(void **state)
{
	struct fixture *f = setup(spec_of("file", "out", ""));
	char text[32] = {0};
	int fd;

	chardev_write(f->chr, "first ", 6);
	chardev_write(f->chr, "second", 6);
	turn(f);
	fd = open(path_of("out"), O_RDONLY);
	assert_int_equal(read(fd, text, sizeof(text)), 12);
	assert_string_equal(text, "first second");
	close(fd);
	teardown(f);
}

/* A device that is full all the time: nothing blocks, all is counted. */
static void full_disk(void **state)
{
	struct fixture *f;

	if (access("/dev/full", W_OK))
		skip();
	f = setup("file:/dev/full");
	chardev_write(f->chr, "lost", 4);
	assert_int_equal(chardev_dropped(f->chr), 4);
	teardown(f);
}

static struct fixture *setup_fd(int fd)
{
	char spec[16];

	snprintf(spec, sizeof(spec), "fd:%d", fd);
	return setup(spec);
}

static void full_pipe(void **state)
{
	enum { SIZE = 3 * 1024 * 1024 };
	u8 *data = malloc(SIZE), *got = malloc(SIZE);
	size_t n = 0, kept;
	struct fixture *f;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	f = setup_fd(fds[1]);
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (u8)(i * 7 + i / 256);
	/* In pieces of all sizes: the pipe fills, 1 MiB is kept, the rest is dropped. */
	for (size_t at = 0, len = 1; at < SIZE; at += len, len = len % 9973 + 1) {
		len = min(len, SIZE - at);
		chardev_write(f->chr, data + at, len);
	}
	kept = SIZE - chardev_dropped(f->chr);
	assert_in_range(kept, 1024 * 1024, 1024 * 1024 + 65536);
	/* A reader turns up and gets, in order, what was kept. */
	while (n < kept) {
		ssize_t r = read(fds[0], got + n, SIZE - n);

		if (r > 0)
			n += (size_t)r;
		else
			assert_int_equal(loop_run_once(f->loop, 10 * NSEC_PER_MSEC), 0);
	}
	assert_memory_equal(data, got, kept);
	assert_int_equal(read(fds[0], got, 1), -1);
	/* And what comes after arrives again. */
	chardev_write(f->chr, "more", 4);
	assert_int_equal(read(fds[0], got, 8), 4);
	close(fds[0]);
	teardown(f);
	free(data);
	free(got);
}

static void closed_reader(void **state)
{
	struct fixture *f;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	f = setup_fd(fds[1]);
	close(fds[0]);
	for (int i = 0; i < 100; i++)
		chardev_write(f->chr, "nobody listens", 14);
	turn(f);
	assert_int_equal(chardev_dropped(f->chr), 1400);
	teardown(f);
}

static void flushing(void **state)
{
	struct fixture *f;
	char buf[4096];
	size_t n = 0;
	pid_t pid;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	f = setup_fd(fds[1]);
	for (int i = 0; i < 200; i++) {
		memset(buf, i, sizeof(buf));
		chardev_write(f->chr, buf, sizeof(buf));
	}
	pid = fork();
	if (!pid) { /* a slow reader */
		chardev_close(f->chr);
		usleep(100 * 1000);
		for (ssize_t r; (r = read(fds[0], buf, sizeof(buf))) > 0;)
			n += (size_t)r;
		_exit(n == 200 * sizeof(buf) ? 0 : 1);
	}
	close(fds[0]);
	chardev_flush(f->chr, 20000);
	assert_int_equal(chardev_dropped(f->chr), 0);
	teardown(f);
	{
		int status;

		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
}

static void flush_gives_up(void **state)
{
	static u8 data[512 * 1024];
	struct fixture *f;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	f = setup_fd(fds[1]);
	chardev_write(f->chr, data, sizeof(data));
	chardev_flush(f->chr, 10); /* nobody reads: it comes back */
	close(fds[0]);
	teardown(f);
}

static void back_pressure(void **state)
{
	struct fixture *f;
	u8 data[20000];
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	f = setup_fd(fds[1]);
	attach(f, sizeof(data));
	f->room = 10;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i % 251);
	assert_int_equal(write(fds[0], data, sizeof(data)), sizeof(data));
	turn(f);
	assert_int_equal(f->got_len, 10);
	turn(f);
	assert_int_equal(f->got_len, 10);
	while (f->got_len < sizeof(data)) {
		size_t before = f->got_len;

		f->room = 333;
		chardev_accept_input(f->chr);
		UNTIL(f, f->got_len > before);
	}
	assert_memory_equal(f->got, data, sizeof(data));
	/* Detached: input waits for the next client. */
	chardev_set_client(f->chr, NULL);
	assert_int_equal(write(fds[0], "kept", 4), 4);
	turn(f);
	attach(f, 100);
	UNTIL(f, f->got_len == 4);
	assert_memory_equal(f->got, "kept", 4);
	close(fds[0]);
	teardown(f);
}

static char pty_name[64];

static void catch_pty_name(enum log_level level, const char *line)
{
	const char *at = strstr(line, "/dev/");

	if (at)
		snprintf(pty_name, sizeof(pty_name), "%s", at);
	pty_name[strcspn(pty_name, "\r\n")] = 0;
}

static void paste_through_pty(void **state)
{
	enum { SIZE = 100 * 1000 };
	u8 *data = malloc(SIZE);
	struct fixture *f;
	size_t out = 0;
	char buf[64];
	int fd;

	log_set_sink(catch_pty_name);
	f = setup("pty");
	log_set_sink(NULL);
	/* What is printed before anybody is there waits. */
	chardev_write(f->chr, "hello", 5);
	fd = open(pty_name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	assert_true(fd >= 0);
	turn(f);
	assert_int_equal(read(fd, buf, sizeof(buf)), 5);
	/* A paste of every byte there is, to a guest that is slow. */
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (u8)(i * 31 + i / 256);
	attach(f, SIZE);
	f->room = 0;
	while (f->got_len < SIZE) {
		ssize_t n = write(fd, data + out, SIZE - out);

		out += n > 0 ? (size_t)n : 0;
		f->room = 1000;
		chardev_accept_input(f->chr);
		assert_int_equal(loop_run_once(f->loop, NSEC_PER_MSEC), 0);
	}
	assert_memory_equal(f->got, data, SIZE);
	/* The other end may come and go. */
	close(fd);
	turn(f);
	assert_int_equal(f->open, 1);
	fd = open(pty_name, O_RDWR | O_NOCTTY);
	chardev_write(f->chr, "again", 5);
	assert_int_equal(read(fd, buf, sizeof(buf)), 5);
	close(fd);
	teardown(f);
	free(data);
}

static int connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void listening_socket(void **state)
{
	struct fixture *f = setup(spec_of("socket", "sock", ""));
	char buf[16];
	int fd, second;

	turn(f);
	assert_int_equal(f->open, 0);
	chardev_write(f->chr, "lost", 4);
	assert_int_equal(chardev_dropped(f->chr), 4);
	fd = connect_to(path_of("sock"));
	UNTIL(f, f->open == 1);
	chardev_write(f->chr, "out", 3);
	assert_int_equal(read(fd, buf, sizeof(buf)), 3);
	assert_int_equal(write(fd, "in", 2), 2);
	UNTIL(f, f->got_len == 2);
	/* The next one waits for its turn. */
	second = connect_to(path_of("sock"));
	assert_int_equal(write(second, "next", 4), 4);
	turn(f);
	assert_int_equal(f->got_len, 2);
	close(fd);
	UNTIL(f, f->got_len == 6);
	assert_memory_equal(f->got, "innext", 6);
	assert_int_equal(f->open, 1);
	assert_int_equal(f->opens, 4);
	close(second);
	UNTIL(f, f->open == 0);
	teardown(f);
	assert_int_not_equal(access(path_of("sock"), F_OK), 0);
}

/* The socket of a run that was killed is taken over; that of a live one and other files are not. */
static void leftover_socket(void **state)
{
	struct fixture *f = setup(spec_of("socket", "left", ""));
	struct chardev *chr;
	struct err err;
	struct stat st;
	int fd;

	assert_true(chardev_open(&chr, f->loop, spec_of("socket", "left", ""), &err) < 0);
	assert_non_null(strstr(err.text, "in use"));
	teardown(f);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	{
		struct sockaddr_un addr = {.sun_family = AF_UNIX};

		strcpy(addr.sun_path, path_of("dead"));
		assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	}
	close(fd);
	f = setup(spec_of("socket", "dead", ""));
	teardown(f);

	fd = open(path_of("file"), O_CREAT | O_WRONLY, 0600);
	close(fd);
	f = setup("null");
	assert_true(chardev_open(&chr, f->loop, spec_of("socket", "file", ""), &err) < 0);
	teardown(f);
	assert_int_equal(stat(path_of("file"), &st), 0);
}

static void connecting_socket(void **state)
{
	struct fixture *server = setup(spec_of("socket", "meet", ""));
	struct fixture *f = setup(spec_of("socket", "meet", ",connect"));

	UNTIL(server, server->open == 1);
	turn(f);
	assert_int_equal(f->open, 1);
	chardev_write(f->chr, "ping", 4);
	UNTIL(server, server->got_len == 4);
	chardev_write(server->chr, "pong", 4);
	UNTIL(f, f->got_len == 4);
	/* The server goes and comes back: so do we. */
	teardown(server);
	UNTIL(f, f->open == 0);
	server = setup(spec_of("socket", "meet", ""));
	UNTIL(f, f->open == 1);
	turn(server);
	assert_int_equal(server->open, 1);
	teardown(f);
	teardown(server);
}

static void named_pipes(void **state)
{
	struct fixture *f;
	char buf[8];
	int in, out;

	assert_int_equal(mkfifo(path_of("p.in"), 0600), 0);
	assert_int_equal(mkfifo(path_of("p.out"), 0600), 0);
	f = setup(spec_of("pipe", "p", ""));
	chardev_write(f->chr, "out", 3); /* before anybody is there */
	out = open(path_of("p.out"), O_RDONLY);
	in = open(path_of("p.in"), O_WRONLY);
	assert_int_equal(read(out, buf, sizeof(buf)), 3);
	assert_int_equal(write(in, "in", 2), 2);
	UNTIL(f, f->got_len == 2);
	close(in);
	close(out);
	turn(f);
	assert_int_equal(f->open, 1);
	teardown(f);
}

/* ---- stdio, in a process of its own ---- */

static int keys_seen;

static bool on_escape(void *ctx, char key, bool escaped)
{
	if (!escaped)
		return key == '~'; /* the owner may take plain keys too */
	keys_seen++;
	if (key == 'x')
		loop_stop(((struct fixture *)ctx)->loop, 42);
	if (key == 'k')
		raise(SIGKILL);
	if (key == 's') {
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	}
	return key == 'x' || key == 'h';
}

/* Echo what comes in upper case, until the escape. */
static void stdio_child(void)
{
	struct fixture *f = setup("stdio");
	size_t done = 0;

	alarm(30); /* never outlive a failed test */
	attach(f, 1 << 20);
	chardev_set_escape(f->chr, on_escape, f);
	chardev_write(f->chr, "ready\n", 6);
	while (keys_seen < 100) {
		if (loop_run_once(f->loop, -1))
			_exit(9);
		for (; done < f->got_len; done++) {
			f->got[done] -= f->got[done] >= 'a' && f->got[done] <= 'z' ? 32 : 0;
			chardev_write(f->chr, f->got + done, 1);
			if (f->got[done] == 'Q') { /* an exit that nobody prepared */
				chardev_flush(f->chr, 1000);
				exit(3);
			}
			if (f->got[done] == '!') {
				chardev_flush(f->chr, 1000);
				chardev_close(f->chr);
				_exit(4);
			}
		}
	}
	_exit(8);
}

struct session {
	int master, slave; /* ours stays open: a master without one reports errors */
	pid_t pid;
	struct termios before;
};

/* The child leads a session whose terminal is a pty that we hold the master of. */
static struct session start_on_pty(void)
{
	struct session s;
	char name[64];
	int slave;

	s.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(s.master >= 0);
	assert_int_equal(grantpt(s.master) || unlockpt(s.master), 0);
	assert_int_equal(ptsname_r(s.master, name, sizeof(name)), 0);
	slave = open(name, O_RDWR | O_NOCTTY);
	assert_int_equal(tcgetattr(slave, &s.before), 0);
	s.pid = fork();
	if (!s.pid) {
		setsid();
		close(slave);
		close(s.master);
		slave = open(name, O_RDWR); /* becomes the controlling terminal */
		dup2(slave, 0);
		dup2(slave, 1);
		stdio_child();
	}
	s.slave = slave;
	return s;
}

static void expect_output(struct session *s, const char *text)
{
	char buf[256] = {0};
	size_t n = 0;

	while (!strstr(buf, text) && n < sizeof(buf) - 1) {
		struct pollfd p = {.fd = s->master, .events = POLLIN};
		ssize_t r;

		assert_int_equal(poll(&p, 1, 20000), 1);
		r = read(s->master, buf + n, sizeof(buf) - 1 - n);
		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_non_null(strstr(buf, text));
}

static void send_keys(struct session *s, const char *keys)
{
	assert_int_equal(write(s->master, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static bool is_raw(struct session *s)
{
	struct termios t;

	assert_int_equal(tcgetattr(s->master, &t), 0);
	return !(t.c_lflag & (ICANON | ECHO | ISIG));
}

/* The guard needs a moment after the child's death. */
static void expect_restored(struct session *s)
{
	u64 end = clock_now_ns() + 20 * NSEC_PER_SEC;
	struct termios t;

	while (is_raw(s) && clock_now_ns() < end)
		usleep(1000);
	assert_int_equal(tcgetattr(s->master, &t), 0);
	assert_int_equal(t.c_lflag, s->before.c_lflag);
	assert_int_equal(t.c_iflag, s->before.c_iflag);
}

static int finish(struct session *s)
{
	int status;

	assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
	expect_restored(s);
	close(s->master);
	close(s->slave);
	return status;
}

static void terminal_is_raw_and_restored(void **state)
{
	static const struct {
		const char *keys;
		int status, signal;
	} ends[] = {
		{"!", 4, 0},	       /* chardev_close() */
		{"q", 3, 0},	       /* exit() */
		{"\001k", 0, SIGKILL}, /* nothing of ours runs any more */
		{"\001s", 0, SIGSEGV}, /* a crash */
	};

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		struct session s = start_on_pty();
		int status;

		expect_output(&s, "ready\r\n");
		assert_true(is_raw(&s));
		/* Control characters are plain bytes; nothing is echoed. */
		send_keys(&s, "\003a~b\032\r");
		expect_output(&s, "\003AB\032\r");
		/* Ctrl-A twice is one; what the escape does not know goes on without it. */
		send_keys(&s, "\001\001\001h\001w.");
		expect_output(&s, "\001W.");
		send_keys(&s, ends[i].keys);
		status = finish(&s);
		if (ends[i].signal) {
			assert_true(WIFSIGNALED(status));
			assert_int_equal(WTERMSIG(status), ends[i].signal);
		} else {
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), ends[i].status);
		}
	}
}

/* Standard input from a file, output to a pipe: no terminal, no escapes, all of it arrives. */
static void stdio_without_terminal(void **state)
{
	char buf[64] = {0};
	size_t n = 0;
	int fds[2], in, status;
	pid_t pid;

	in = open(path_of("input"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(in, "a\001\001h!", 5), 5);
	assert_int_equal(lseek(in, 0, SEEK_SET), 0);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		dup2(in, 0);
		dup2(fds[1], 1);
		close(fds[0]);
		close(fds[1]);
		stdio_child();
	}
	close(in);
	close(fds[1]);
	for (ssize_t r; (r = read(fds[0], buf + n, sizeof(buf) - 1 - n)) > 0;)
		n += (size_t)r;
	assert_string_equal(buf, "ready\nA\001\001H!");
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 4);
}

/* Nonblocking mode would outlive us on the descriptors that we share. */
static void shared_descriptors_stay_as_they_were(void **state)
{
	int fds[2], in, status;
	char buf[16];
	pid_t pid;

	in = open("/dev/null", O_RDONLY);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		struct fixture *f;

		dup2(in, 0);
		dup2(fds[1], 1);
		f = setup("stdio");
		turn(f);
		chardev_write(f->chr, "x", 1);
		_exit(fcntl(0, F_GETFL) & O_NONBLOCK || fcntl(1, F_GETFL) & O_NONBLOCK);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], buf, sizeof(buf)), 1);
	close(in);
	close(fds[0]);
	close(fds[1]);
}

static void stdio_once(void **state)
{
	struct fixture *f;
	struct chardev *chr;
	struct err err;
	int status;
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		f = setup("stdio");
		if (chardev_open(&chr, f->loop, "stdio", &err) != -EBUSY)
			_exit(1);
		teardown(f);
		f = setup("stdio");
		teardown(f);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int make_directory(void **state)
{
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", directory);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_specifications),
		cmocka_unit_test(null_device),
		cmocka_unit_test(file_device),
		cmocka_unit_test(full_disk),
		cmocka_unit_test(full_pipe),
		cmocka_unit_test(closed_reader),
		cmocka_unit_test(flushing),
		cmocka_unit_test(flush_gives_up),
		cmocka_unit_test(back_pressure),
		cmocka_unit_test(paste_through_pty),
		cmocka_unit_test(listening_socket),
		cmocka_unit_test(leftover_socket),
		cmocka_unit_test(connecting_socket),
		cmocka_unit_test(named_pipes),
		cmocka_unit_test(terminal_is_raw_and_restored),
		cmocka_unit_test(stdio_without_terminal),
		cmocka_unit_test(shared_descriptors_stay_as_they_were),
		cmocka_unit_test(stdio_once),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
