/*
 * The terminal, or whatever standard input and output are.
 *
 * Nonblocking mode belongs to the open file, which we share with the shell and everything else on
 * the terminal: so we open terminals and pipes once more for ourselves, through /proc.
 *
 * Raw mode has to end on every way out. An orderly end restores it (chardev_close(), atexit()). For
 * all others, SIGKILL included, a guard process waits for the end of a pipe that only we hold open
 * and restores the terminal if it still is as we set it (a shell may have been quicker). It is a
 * session of its own, so that what kills the job does not kill it. It is forked before guest memory
 * is filled, so it shares hardly anything.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "chardev/chardev_int.h"
#include "os/file.h"

/* The one terminal of the process: atexit() handlers take no argument. */
static struct {
	bool open; /* stdio is in use */
	bool raw;
	bool atexit_set;
	int fd;
	struct termios original, ours;
	pid_t guard;
	int guard_pipe;
} terminal = {.guard_pipe = -1};

static void guard_main(int pipe_fd)
{
	struct termios now;
	char c;
	ssize_t n;

	do {
		n = read(pipe_fd, &c, 1);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		_exit(0); /* an orderly end: restored already */
	if (!tcgetattr(0, &now) && now.c_lflag == terminal.ours.c_lflag &&
	    now.c_iflag == terminal.ours.c_iflag)
		tcsetattr(0, TCSANOW, &terminal.original);
	_exit(0);
}

/* In the child, with all signals blocked: keep nothing of ours open but the terminal (as 0) and the
 * pipe (as 3). */
static void guard_start(int pipe_fd)
{
	setsid();
	if (dup2(terminal.fd, 0) < 0 || dup2(pipe_fd, 3) < 0)
		_exit(1);
	close(1);
	close(2);
	if (close_range(4, ~0U, 0) && errno == ENOSYS)
		for (int fd = 4; fd < 1024; fd++)
			close(fd);
	guard_main(3);
}

static void start_guard(void)
{
	sigset_t all, old;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return;
	/* From its first moment on: what ends the job may come before it has a session. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (!pid)
		guard_start(fds[0]);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(fds[0]);
	if (pid < 0) {
		close(fds[1]);
		return;
	}
	terminal.guard = pid;
	terminal.guard_pipe = fds[1];
}

static void stop_guard(void)
{
	if (terminal.guard_pipe < 0)
		return;
	if (write(terminal.guard_pipe, "q", 1) != 1)
		log_debug("the terminal's guard is gone");
	fd_close(&terminal.guard_pipe);
	while (waitpid(terminal.guard, NULL, 0) < 0 && errno == EINTR)
		;
}

static void restore_terminal(void)
{
	if (!terminal.raw)
		return;
	terminal.raw = false;
	tcsetattr(terminal.fd, TCSANOW, &terminal.original);
	log_set_crlf(false);
	stop_guard();
}

/* Keys one by one, unechoed, Ctrl-C and the like as plain bytes. Output processing stays: a guest
 * that ends its lines with a bare LF is legible. */
static void make_raw(int fd)
{
	if (tcgetattr(fd, &terminal.original) || tcgetpgrp(fd) != getpgrp())
		return; /* a background job must not touch it */
	terminal.fd = fd;
	terminal.ours = terminal.original;
	terminal.ours.c_iflag &=
		~(tcflag_t)(BRKINT | ICRNL | INLCR | IGNCR | INPCK | ISTRIP | IXON);
	terminal.ours.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	terminal.ours.c_cc[VMIN] = 1;
	terminal.ours.c_cc[VTIME] = 0;
	if (!terminal.atexit_set)
		terminal.atexit_set = !atexit(restore_terminal);
	start_guard();
	if (tcsetattr(fd, TCSANOW, &terminal.ours)) {
		stop_guard();
		return;
	}
	terminal.raw = true;
	log_set_crlf(true);
}

/* A descriptor of our own for fd; *own_file when it is another open file than the inherited one. */
static int reopen(int fd, int mode, bool *own_file)
{
	struct stat st;
	char path[32];
	int mine = -1;

	*own_file = false;
	if (fstat(fd, &st))
		return -errno;
	if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		mine = open(path, mode | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		*own_file = mine >= 0;
	}
	if (mine < 0)
		mine = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return mine < 0 ? -errno : mine;
}

static int stdio_open(struct chardev *chr, const char *arg, struct err *err)
{
	bool own_in, own_out;
	int in, out;

	if (terminal.open)
		return err_set(err, EBUSY,
			       "stdio: is in use by another device; give one of them "
			       "pty, file:PATH or socket:PATH");
	chr->priv = &terminal;
	terminal.open = true;
	in = reopen(STDIN_FILENO, O_RDONLY, &own_in); /* closed: no input */
	out = reopen(STDOUT_FILENO, O_WRONLY, &own_out);
	/* Regular files never block and sockets are asked not to; what is left is asked first. */
	chr->out_guarded = !own_out;
	if (isatty(STDIN_FILENO)) {
		chr->escapes = true;
		chr->input_max = CHARDEV_TTY_INPUT_MAX;
		make_raw(STDIN_FILENO);
	}
	chardev_attach(chr, max(in, -1), max(out, -1));
	return 0;
}

static void stdio_close(struct chardev *chr)
{
	if (!chr->priv)
		return;
	restore_terminal();
	terminal.open = false;
}

extern const struct chardev_class chardev_stdio;

const struct chardev_class chardev_stdio = {
	.name = "stdio", .open = stdio_open, .close = stdio_close};
