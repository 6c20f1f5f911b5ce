/* Back ends that are one open(): null, a file, a pair of named pipes, an inherited descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "chardev/chardev_int.h"
#include "os/file.h"

static int null_open(struct chardev *chr, const char *arg, struct err *err)
{
	return 0;
}

extern const struct chardev_class chardev_null, chardev_file, chardev_pipe, chardev_fd;

const struct chardev_class chardev_null = {.name = "null", .open = null_open};

static int file_open(struct chardev *chr, const char *path, struct err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);

	if (fd < 0)
		return err_set(err, errno, "%s: cannot be written: %s", path, strerror(errno));
	chardev_attach(chr, -1, fd);
	return 0;
}

const struct chardev_class chardev_file = {.name = "file", .wants_arg = true, .open = file_open};

/* Both ways, so that it neither blocks nor ends while nobody has the other end. */
static int open_fifo(const char *path, const char *suffix, struct err *err)
{
	struct str name = {0};
	struct stat st;
	int fd;

	str_add(&name, "%s%s", path, suffix);
	if (name.failed)
		return err_set(err, ENOMEM, "%s: out of memory", path);
	fd = open(name.text, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		fd = err_set(err, errno, "%s: %s; make both pipes first: mkfifo %s.in %s.out",
			     name.text, strerror(errno), path, path);
	else if (fstat(fd, &st) || !S_ISFIFO(st.st_mode)) {
		close(fd);
		fd = err_set(err, EINVAL, "%s: is not a named pipe", name.text);
	}
	str_free(&name);
	return fd;
}

/* PATH.in carries input to the guest, PATH.out its output. */
static int pipe_open(struct chardev *chr, const char *path, struct err *err)
{
	int in = open_fifo(path, ".in", err), out;

	if (in < 0)
		return in;
	out = open_fifo(path, ".out", err);
	if (out < 0) {
		close(in);
		return out;
	}
	chardev_attach(chr, in, out);
	return 0;
}

const struct chardev_class chardev_pipe = {.name = "pipe", .wants_arg = true, .open = pipe_open};

static int fd_open(struct chardev *chr, const char *arg, struct err *err)
{
	int mode, out;
	u64 fd;

	if (parse_u64(arg, &fd) || fd > 0x7fffffff)
		return err_set(err, EINVAL, "fd:%s: is not a descriptor number", arg);
	mode = fcntl((int)fd, F_GETFL);
	if (mode < 0)
		return err_set(err, EBADF, "fd:%s: is not open", arg);
	mode &= O_ACCMODE;
	out = mode == O_RDONLY ? -1 : fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
	if (mode != O_RDONLY && out < 0)
		return err_set(err, errno, "fd:%s: %s", arg, strerror(errno));
	fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	fd_set_nonblock((int)fd, true);
	if (mode == O_WRONLY)
		close((int)fd);
	chardev_attach(chr, mode == O_WRONLY ? -1 : (int)fd, out);
	return 0;
}

const struct chardev_class chardev_fd = {.name = "fd", .wants_arg = true, .open = fd_open};
