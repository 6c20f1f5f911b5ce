/*
 * The other end of a socket back end for part_net.py: frames between a UNIX socket and a tap device
 * that is there already. A stream has each frame behind its length, as QEMU's -netdev stream.
 *
 * usage: peer SOCKET TAP            a stream: it listens, serves one connection and ends with it
 *        peer SOCKET TAP REMOTE     datagrams: to REMOTE, which may come and go
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FRAME_MAX 65550
#define BUFFER	  (1 << 20)

static char from_vm[BUFFER], to_vm[BUFFER];

static int open_tap(const char *name)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	return fd >= 0 && !ioctl(fd, TUNSETIFF, &ifr) ? fd : -1;
}

static int listen_once(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1))
		return -1;
	return accept(fd, NULL, NULL);
}

/* As many frames as the tap has and the buffer takes, in one write. */
static int tap_to_socket(int tap, int sock)
{
	size_t len = 0, done = 0;

	while (len + 4 + FRAME_MAX <= sizeof(to_vm)) {
		ssize_t n = read(tap, to_vm + len + 4, FRAME_MAX);
		uint32_t be = htonl((uint32_t)n);

		if (n <= 0)
			break;
		memcpy(to_vm + len, &be, 4);
		len += 4 + (size_t)n;
	}
	while (done < len) {
		ssize_t n = write(sock, to_vm + done, len - done);

		if (n <= 0 && errno != EINTR)
			return -1;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int socket_to_tap(int sock, int tap)
{
	static size_t have;
	size_t at = 0;
	ssize_t n = read(sock, from_vm + have, sizeof(from_vm) - have);

	if (n <= 0)
		return -1;
	have += (size_t)n;
	while (have - at >= 4) {
		uint32_t be, len;

		memcpy(&be, from_vm + at, 4);
		len = ntohl(be);
		if (len > FRAME_MAX)
			return -1;
		if (have - at < 4 + len)
			break;
		if (write(tap, from_vm + at + 4, len) < 0 && errno != EAGAIN && errno != EIO)
			return -1;
		at += 4 + len;
	}
	memmove(from_vm, from_vm + at, have - at);
	have -= at;
	return 0;
}

/* Frames that the other side has no room for wait in the tap device, for a while. */
static int datagrams(int tap, const char *local, const char *remote)
{
	struct sockaddr_un from = {.sun_family = AF_UNIX}, to = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_DGRAM, 0);

	snprintf(from.sun_path, sizeof(from.sun_path), "%s", local);
	snprintf(to.sun_path, sizeof(to.sun_path), "%s", remote);
	if (sock < 0 || bind(sock, (struct sockaddr *)&from, sizeof(from)))
		return 1;
	for (;;) {
		struct pollfd p[2] = {{.fd = tap, .events = POLLIN},
				      {.fd = sock, .events = POLLIN}};
		ssize_t n;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return 1;
		for (int i = 0; i < 64 && (n = read(tap, to_vm, FRAME_MAX)) > 0; i++)
			sendto(sock, to_vm, (size_t)n, 0, (struct sockaddr *)&to, sizeof(to));
		for (int i = 0; i < 64; i++) {
			n = recv(sock, from_vm, FRAME_MAX, MSG_DONTWAIT);
			if (n <= 0)
				break;
			if (write(tap, from_vm, (size_t)n) < 0 && errno != EAGAIN && errno != EIO)
				return 1;
		}
	}
}

int main(int argc, char **argv)
{
	int tap = argc == 3 || argc == 4 ? open_tap(argv[2]) : -1, sock;

	if (tap < 0) {
		fprintf(stderr,
			"usage: peer SOCKET TAP [REMOTE] (and the tap device must be there)\n");
		return 2;
	}
	if (argc == 4)
		return datagrams(tap, argv[1], argv[3]);
	sock = listen_once(argv[1]);
	if (sock < 0)
		return 1;
	for (;;) {
		struct pollfd p[2] = {{.fd = tap, .events = POLLIN},
				      {.fd = sock, .events = POLLIN}};

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return 1;
		if ((p[0].revents && tap_to_socket(tap, sock)) ||
		    (p[1].revents && socket_to_tap(sock, tap)))
			return 0;
	}
}
