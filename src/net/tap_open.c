/* Tap devices: opened by name, taken from outside, or joined to a bridge, as root directly and
 * otherwise through QEMU's bridge helper with its list of who may (/etc/qemu/bridge.conf). */
#define _GNU_SOURCE
#include "net/tap_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/str.h"
#include "os/file.h"

#define DEV_TUN	 "/dev/net/tun"
#define VNET_HDR 12

static int set_vnet(int fd)
{
	int size = VNET_HDR;

	return ioctl(fd, TUNSETVNETHDRSZ, &size) ? -errno : 0;
}

static int explain_device(int error, struct err *err)
{
	if (error == ENOENT)
		return err_set(err, error,
			       "no " DEV_TUN ": the kernel has no tap devices (modprobe tun)");
	return err_set(err, error, DEV_TUN ": %s%s", strerror(error),
		       error == EACCES ? " (it is for everybody to open: chmod 666)" : "");
}

static int explain(int error, const char *name, struct err *err)
{
	if (error == EPERM || error == EACCES)
		return err_set(
			err, error,
			"no permission for the tap device %s: create it for this user (ip tuntap "
			"add %s mode tap user $USER), or run as root",
			name, name);
	if (error == EBUSY)
		return err_set(err, error, "the tap device %s is in use", name);
	if (error == EINVAL)
		return err_set(err, error,
			       "%s is no tap device, or was made for another number of queues",
			       name);
	return err_set(err, error, "tap device %s: %s", name, strerror(error));
}

/* One queue of a device that somebody made for several goes by the flag for several, too. */
static int attach(int fd, struct ifreq *ifr)
{
	int rc = ioctl(fd, TUNSETIFF, ifr);

	if (!rc || errno != EINVAL || (ifr->ifr_flags & IFF_MULTI_QUEUE))
		return rc;
	ifr->ifr_flags |= IFF_MULTI_QUEUE;
	return ioctl(fd, TUNSETIFF, ifr);
}

static int open_queue(const char *ifname, bool multi, char *name, struct err *err)
{
	struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
						 (multi ? IFF_MULTI_QUEUE : 0))};
	int fd = open(DEV_TUN, O_RDWR | O_NONBLOCK | O_CLOEXEC), rc;

	if (fd < 0)
		return explain_device(errno, err);
	if (ifname)
		snprintf(ifr.ifr_name, IFNAMSIZ, "%s", ifname);
	if (attach(fd, &ifr) || set_vnet(fd)) {
		rc = errno;
		close(fd);
		return explain(rc, ifname ? ifname : "tap", err);
	}
	memcpy(name, ifr.ifr_name, IFNAMSIZ);
	return fd;
}

/* Best effort: a device that somebody prepared for us is up already, and we may lack the right. */
static void bring_up(const char *name)
{
	struct ifreq ifr = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (!ioctl(fd, SIOCGIFFLAGS, &ifr) && !(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &ifr))
			errno = 0;
	}
	close(fd);
}

static int join_bridge(const char *bridge, const char *name, struct err *err)
{
	struct ifreq ifr = {.ifr_ifindex = (int)if_nametoindex(name)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = 0;

	if (fd < 0)
		return err_set(err, errno, "bridge %s: %s", bridge, strerror(errno));
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", bridge);
	if (ioctl(fd, SIOCBRADDIF, &ifr))
		rc = errno;
	close(fd);
	if (rc == ENODEV)
		return err_set(err, rc, "there is no bridge %s (ip link add %s type bridge)",
			       bridge, bridge);
	return rc ? err_set(err, rc, "bridge %s: %s: %s", bridge, name, strerror(rc)) : 0;
}

/* The helper sends the descriptor as ancillary data of one byte. */
static int receive_fd(int sock)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	int fd = -ENOENT;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) < 0)
		return -errno;
	for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
		    c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int run_helper(const struct tap_config *c, struct err *err)
{
	char fd_arg[32], br_arg[64];
	int pair[2], status = 0, fd;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return err_set(err, errno, "bridge helper: %s", strerror(errno));
	snprintf(fd_arg, sizeof(fd_arg), "--fd=%d", pair[1]);
	snprintf(br_arg, sizeof(br_arg), "--br=%s", c->bridge);
	pid = fork();
	if (!pid) {
		close(pair[0]);
		execl(c->helper, c->helper, "--use-vnet", fd_arg, br_arg, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	fd = pid < 0 ? -errno : receive_fd(pair[0]);
	close(pair[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (fd >= 0)
		return fd;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(err, ENOENT,
			       "bridge helper %s cannot be started (package "
			       "qemu-system-common has it)",
			       c->helper);
	return err_set(err, EACCES,
		       "the bridge helper refused %s (its reason is above; mostly it wants a line "
		       "'allow %s' in /etc/qemu/bridge.conf)",
		       c->bridge, c->bridge);
}

static int adopt(const char *text, char *name, struct err *err)
{
	struct ifreq ifr;
	u64 fd;
	int rc;

	if (parse_u64(text, &fd) || fd > 1 << 20)
		return err_set(err, EINVAL, "fd=%s: not a descriptor", text);
	if (ioctl((int)fd, TUNGETIFF, &ifr))
		return err_set(err, errno, "fd=%s: not a tap device: %s", text, strerror(errno));
	if (!(ifr.ifr_flags & IFF_VNET_HDR))
		return err_set(err, EINVAL, "fd=%s: open the tap device with IFF_VNET_HDR", text);
	rc = set_vnet((int)fd);
	if (!rc)
		rc = fd_set_nonblock((int)fd, true);
	if (rc)
		return err_set(err, -rc, "fd=%s: %s", text, strerror(-rc));
	memcpy(name, ifr.ifr_name, IFNAMSIZ);
	return (int)fd;
}

/* One descriptor from outside or from the helper. */
static int open_single(const struct tap_config *c, char *name, struct err *err)
{
	struct ifreq ifr = {0};
	int fd;

	if (c->fd)
		return adopt(c->fd, name, err);
	fd = run_helper(c, err);
	if (fd < 0)
		return fd;
	fd_set_nonblock(fd, true);
	if (!ioctl(fd, TUNGETIFF, &ifr))
		memcpy(name, ifr.ifr_name, IFNAMSIZ);
	set_vnet(fd);
	return fd;
}

int tap_check(const void *config, struct err *err)
{
	const struct tap_config *c = config;
	const char *name = c->bridge ? c->bridge : c->ifname;

	if (name && (!*name || strlen(name) >= IFNAMSIZ))
		return err_set(err, EINVAL, "%s=%s: an interface's name has 1 to %d bytes",
			       c->bridge ? "br" : "ifname", name, IFNAMSIZ - 1);
	if (c->fd && (c->ifname || c->pairs > 1))
		return err_set(err, EINVAL,
			       "fd= names one queue of a device that is open: no "
			       "ifname= or queues= beside it");
	return 0;
}

int tap_open(const struct tap_config *c, int *fds, unsigned int *pairs, char *name, struct err *err)
{
	unsigned int n;
	int rc = tap_check(c, err);

	if (rc)
		return rc;

	if (c->fd || (c->bridge && geteuid())) {
		*pairs = 1;
		fds[0] = open_single(c, name, err);
		return min(fds[0], 0);
	}
	for (n = 0; n < *pairs; n++) {
		fds[n] = open_queue(n ? name : c->ifname, *pairs > 1, name, err);
		if (fds[n] < 0) {
			rc = fds[n];
			goto fail;
		}
	}
	if (c->bridge) {
		rc = join_bridge(c->bridge, name, err);
		if (rc)
			goto fail;
	}
	bring_up(name);
	return 0;
fail:
	while (n--)
		close(fds[n]);
	return rc;
}
