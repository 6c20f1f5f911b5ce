/* NBD client: addresses, and the handshake up to the first request. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "block/nbd_client_int.h"
#include "os/file.h"

#define MAX_REPLIES 256 /* to one option */

/* ---- addresses ---- */

void nbd_address_free(struct nbd_address *a)
{
	free(a->host);
	free(a->port);
	free(a->export);
	free(a->socket);
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* [from, to) with %XX decoded, in fresh memory. */
static char *decoded(const char *from, const char *to)
{
	char *out = malloc((size_t)(to - from) + 1), *p = out;

	while (out && from < to) {
		if (*from == '%' && to - from > 2 && hex(from[1]) >= 0 && hex(from[2]) >= 0) {
			*p++ = (char)(hex(from[1]) * 16 + hex(from[2]));
			from += 3;
		} else {
			*p++ = *from++;
		}
	}
	if (out)
		*p = '\0';
	return out;
}

/* nbd://HOST[:PORT][/EXPORT] or nbd+unix:///EXPORT?socket=PATH */
int nbd_address_parse(struct nbd_address *a, const char *text, struct err *err)
{
	bool local = !strncmp(text, "nbd+unix://", 11);
	const char *rest = text + (local ? 11 : 6), *end = rest + strcspn(rest, "?");
	const char *host = rest + strcspn(rest, "/?"), *colon, *query = strstr(end, "socket=");

	*a = (struct nbd_address){0};
	if (!local && strncmp(text, "nbd://", 6))
		return err_set(err, EINVAL, "%s: not an NBD address", text);
	a->export = decoded(host < end ? host + 1 : end, end);
	if (local) {
		if (!query)
			return err_set(err, EINVAL, "%s: ?socket=PATH is missing", text);
		query += 7;
		a->socket = decoded(query, query + strcspn(query, "&"));
	} else {
		colon = *rest == '[' ? memchr(rest, ']', (size_t)(host - rest)) : rest;
		if (!colon)
			return err_set(err, EINVAL, "%s: broken host", text);
		a->host = *rest == '[' ? decoded(rest + 1, colon) : NULL;
		colon = memchr(colon, ':', (size_t)(host - colon));
		if (!a->host)
			a->host = decoded(rest, colon ? colon : host);
		a->port = colon ? decoded(colon + 1, host) : strdup("10809");
	}
	if (!a->export || (local ? !a->socket : !a->host || !a->port))
		return err_set(err, ENOMEM, "%s: out of memory", text);
	if (strlen(a->export) > NBD_MAX_NAME)
		return err_set(err, ENAMETOOLONG, "%s: name of the export is too long", text);
	return 0;
}

static int connect_unix(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd < 0 ? -errno : fd;
}

static int connect_tcp(const struct nbd_address *a)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	int fd = -1, rc = -EHOSTUNREACH, one = 1;

	if (getaddrinfo(a->host, a->port, &hints, &found))
		return -EHOSTUNREACH;
	for (struct addrinfo *i = found; i && fd < 0; i = i->ai_next) {
		fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC, i->ai_protocol);
		if (fd < 0)
			continue;
		if (connect(fd, i->ai_addr, i->ai_addrlen)) {
			rc = -errno;
			fd_close(&fd);
		}
	}
	freeaddrinfo(found);
	if (fd < 0)
		return rc;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int nbd_connect(const struct nbd_address *a)
{
	return a->socket ? connect_unix(a->socket) : connect_tcp(a);
}

/* ---- the wire ---- */

int nbd_receive(struct nbd *n, void *buf, size_t len)
{
	u8 *p = buf;

	while (len) {
		ssize_t got = recv(n->fd, p, len, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -EIO;
		p += got;
		len -= (size_t)got;
	}
	return 0;
}

int nbd_send(struct nbd *n, struct iovec *iov, size_t count)
{
	while (count) {
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
		ssize_t sent = sendmsg(n->fd, &msg, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -EIO;
		iov_discard_front(&iov, &count, (size_t)sent);
		while (count && !iov->iov_len) {
			iov++;
			count--;
		}
	}
	return 0;
}

/* ---- handshake ---- */

static int send_option(struct nbd *n, u32 option, const void *data, u32 len)
{
	u8 head[16];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)data, len}};

	store_be64(head, NBD_OPTION_MAGIC);
	store_be32(head + 8, option);
	store_be32(head + 12, len);
	return nbd_send(n, iov, 2);
}

static int take_info(struct nbd *n, const u8 *p, u32 len)
{
	u32 least;

	if (len >= 12 && load_be16(p) == NBD_INFO_EXPORT) {
		n->block.size = load_be64(p + 2);
		n->flags = load_be16(p + 10);
	} else if (len >= 14 && load_be16(p) == NBD_INFO_BLOCK_SIZE) {
		least = load_be32(p + 2);
		if (!is_power_of_2(least) || least > 64 * KiB)
			return -EPROTO;
		n->block.block_size = max(least, BLOCK_SECTOR);
	}
	return 0;
}

static int take_meta(struct nbd *n, const u8 *p, u32 len)
{
	if (len == 4 + strlen(NBD_META_NAME) && !memcmp(p + 4, NBD_META_NAME, len - 4)) {
		n->meta = true;
		n->meta_id = load_be32(p);
	}
	return 0;
}

/* Replies up to the last one. -ENOENT: no such export; -EOPNOTSUPP: the option is not known. */
static int option_replies(struct nbd *n, u32 option)
{
	for (int i = 0; i < MAX_REPLIES; i++) {
		u8 head[20], data[NBD_MAX_OPTION];
		u32 type, len;
		int rc = nbd_receive(n, head, sizeof(head));

		if (rc)
			return rc;
		type = load_be32(head + 12);
		len = load_be32(head + 16);
		if (load_be64(head) != NBD_REPLY_MAGIC || load_be32(head + 8) != option ||
		    len > sizeof(data))
			return -EPROTO;
		rc = nbd_receive(n, data, len);
		if (!rc && type == NBD_REP_INFO)
			rc = take_info(n, data, len);
		if (!rc && type == NBD_REP_META && len >= 4)
			rc = take_meta(n, data, len);
		if (rc || type == NBD_REP_ACK)
			return rc;
		if (type == NBD_REP_UNSUPPORTED)
			return -EOPNOTSUPP;
		if (type & NBD_REP_ERROR)
			return type == NBD_REP_UNKNOWN ? -ENOENT : -EACCES;
	}
	return -EPROTO;
}

/* Ask for structured replies and for what ranges are made of; a server that has neither says so
 * and goes on. */
static int ask_more(struct nbd *n, const char *export)
{
	u32 len = (u32)strlen(export), meta = (u32)strlen(NBD_META_NAME);
	u8 data[12 + NBD_MAX_NAME + sizeof(NBD_META_NAME)];
	int rc = send_option(n, NBD_OPT_STRUCTURED, NULL, 0);

	if (!rc)
		rc = option_replies(n, NBD_OPT_STRUCTURED);
	if (rc)
		return rc == -EOPNOTSUPP || rc == -EACCES ? 0 : rc;
	n->structured = true;
	store_be32(data, len);
	memcpy(data + 4, export, len);
	store_be32(data + 4 + len, 1);
	store_be32(data + 8 + len, meta);
	memcpy(data + 12 + len, NBD_META_NAME, meta);
	rc = send_option(n, NBD_OPT_SET_META, data, 12 + len + meta);
	if (!rc)
		rc = option_replies(n, NBD_OPT_SET_META);
	/* Whether there is such an export is for the next option to say. */
	return rc == -EOPNOTSUPP || rc == -EACCES || rc == -ENOENT ? 0 : rc;
}

static int go(struct nbd *n, const char *export)
{
	u32 len = (u32)strlen(export);
	u8 data[8 + NBD_MAX_NAME];
	int rc;

	/* The name, and one request: block sizes. */
	store_be32(data, len);
	memcpy(data + 4, export, len);
	store_be16(data + 4 + len, 1);
	store_be16(data + 6 + len, NBD_INFO_BLOCK_SIZE);
	rc = send_option(n, NBD_OPT_GO, data, 8 + len);
	return rc ? rc : option_replies(n, NBD_OPT_GO);
}

/* Servers from before OPT_GO. */
static int export_name(struct nbd *n, const char *export, bool no_zeroes)
{
	u8 reply[134];
	int rc = send_option(n, NBD_OPT_EXPORT_NAME, export, (u32)strlen(export));

	if (!rc)
		rc = nbd_receive(n, reply, no_zeroes ? 10 : sizeof(reply));
	if (rc)
		return rc;
	n->block.size = load_be64(reply);
	n->flags = load_be16(reply + 8);
	return 0;
}

int nbd_handshake(struct nbd *n, const char *export)
{
	u8 hello[18], flags[4];
	struct iovec iov = {flags, sizeof(flags)};
	bool no_zeroes;
	int rc = nbd_receive(n, hello, sizeof(hello));

	if (rc)
		return rc;
	if (load_be64(hello) != NBD_MAGIC || load_be64(hello + 8) != NBD_OPTION_MAGIC ||
	    !(load_be16(hello + 16) & NBD_FIXED_NEWSTYLE))
		return -EPROTO;
	no_zeroes = load_be16(hello + 16) & NBD_NO_ZEROES;
	store_be32(flags, NBD_FIXED_NEWSTYLE | (no_zeroes ? NBD_NO_ZEROES : 0));
	rc = nbd_send(n, &iov, 1);
	if (!rc)
		rc = ask_more(n, export);
	if (!rc)
		rc = go(n, export);
	if (rc == -EOPNOTSUPP)
		rc = export_name(n, export, no_zeroes);
	if (!rc && n->block.size > INT64_MAX)
		rc = -EFBIG;
	return rc;
}
