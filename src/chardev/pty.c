/*
 * A pseudo-terminal whose name is logged. We keep the other end open ourselves: the master would
 * report a hang-up without end while nobody has it open, and what the guest prints before somebody
 * attaches is not lost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "chardev/chardev_int.h"
#include "os/file.h"

struct pty {
	int slave;
};

static int set_raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t))
		return -errno;
	cfmakeraw(&t);
	return tcsetattr(fd, TCSANOW, &t) ? -errno : 0;
}

static int open_slave(int master, char *name, size_t cap)
{
	int slave;

	if (grantpt(master) || unlockpt(master) || ptsname_r(master, name, cap))
		return -errno;
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return -errno;
	if (set_raw(slave)) {
		close(slave);
		return -EIO;
	}
	return slave;
}

static int pty_open(struct chardev *chr, const char *arg, struct err *err)
{
	struct pty *pty = calloc(1, sizeof(*pty));
	int master, out;
	char name[64];

	if (!pty)
		return err_set(err, ENOMEM, "pty: out of memory");
	pty->slave = -1;
	chr->priv = pty;
	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (master < 0)
		return err_set(err, errno, "pty: cannot open a pseudo-terminal: %s",
			       strerror(errno));
	pty->slave = open_slave(master, name, sizeof(name));
	out = pty->slave < 0 ? pty->slave : fcntl(master, F_DUPFD_CLOEXEC, 3);
	if (out < 0) {
		close(master);
		return err_set(err, EIO, "pty: cannot set up the pseudo-terminal");
	}
	chardev_attach(chr, master, out);
	log_info("character device on %s", name);
	return 0;
}

static void pty_close(struct chardev *chr)
{
	struct pty *pty = chr->priv;

	if (pty)
		fd_close(&pty->slave);
	free(pty);
}

extern const struct chardev_class chardev_pty;

const struct chardev_class chardev_pty = {.name = "pty", .open = pty_open, .close = pty_close};
