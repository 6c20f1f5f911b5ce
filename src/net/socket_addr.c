/* Socket addresses: what users type, and sockets bound to them. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "net/socket_int.h"

int sock_addr_unix(struct sock_addr *out, const char *path, struct err *err)
{
	size_t len = strlen(path);

	memset(out, 0, sizeof(*out));
	if (!len || len >= sizeof(out->un.sun_path))
		return err_set(err, ENAMETOOLONG, "\"%s\": a socket's path has 1 to %zu bytes",
			       path, sizeof(out->un.sun_path) - 1);
	out->un.sun_family = AF_UNIX;
	memcpy(out->un.sun_path, path, len);
	out->len = sizeof(out->un);
	return 0;
}

/* Cut "HOST:PORT" or "[HOST]:PORT" in two. */
static int split(const char *text, char *host, size_t cap, const char **port)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	u64 number;

	if (!colon || parse_u64(colon + 1, &number) || !number || number > 65535)
		return -EINVAL;
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	} else if (memchr(text, ':', len)) {
		return -EINVAL; /* which colon is the port's? */
	}
	if (len >= cap)
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = 0;
	*port = colon + 1;
	return 0;
}

int sock_addr_inet(struct sock_addr *out, const char *text, int type, bool passive, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = type,
				 .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
	struct addrinfo *list, *a;
	const char *port;
	char host[256];
	int n = 0, rc;

	if (split(text, host, sizeof(host), &port))
		return err_set(err, EINVAL,
			       "\"%s\" is no address: HOST:PORT or [IPV6]:PORT is wanted, PORT "
			       "from 1 to 65535",
			       text);
	rc = getaddrinfo(host[0] ? host : NULL, port, &hints, &list);
	if (rc)
		return err_set(err, EINVAL, "\"%s\": %s", text, gai_strerror(rc));
	for (a = list; a && n < SOCK_MAX_ADDRS; a = a->ai_next) {
		if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
			continue;
		memset(&out[n], 0, sizeof(out[n]));
		memcpy(&out[n].storage, a->ai_addr, a->ai_addrlen);
		out[n++].len = a->ai_addrlen;
	}
	freeaddrinfo(list);
	return n ? n : err_set(err, EINVAL, "\"%s\" has no IP address", text);
}

int sock_new(const struct sock_addr *addr, int type)
{
	int fd = socket(addr->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -errno;
	if (addr->any.sa_family != AF_UNIX && type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

void sock_remove_leftover(const struct sock_addr *addr, int type)
{
	struct stat st;
	int fd;

	if (lstat(addr->un.sun_path, &st) || !S_ISSOCK(st.st_mode))
		return;
	fd = sock_new(addr, type);
	if (fd < 0)
		return;
	if (connect(fd, &addr->any, addr->len) && errno == ECONNREFUSED)
		unlink(addr->un.sun_path);
	close(fd);
}

int sock_bind(const struct sock_addr *addr, int type)
{
	int fd = sock_new(addr, type), one = 1, rc;

	if (fd < 0)
		return fd;
	if (addr->any.sa_family == AF_UNIX)
		sock_remove_leftover(addr, type);
	else if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!bind(fd, &addr->any, addr->len))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

void sock_unlink(const struct sock_addr *addr)
{
	if (addr->any.sa_family == AF_UNIX)
		unlink(addr->un.sun_path);
}
