/*
 * usage: vsock-echo host PATH      listen on a UNIX socket and send back what one client sends
 *        vsock-echo guest MIB      connect to port 5000 of the host, send that much, and check
 *                                  that it comes back
 *        vsock-echo host-seq PATH, vsock-echo guest-seq N
 *                                  the same with N messages that must stay whole, port 5001
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define CHUNK	   65536
#define TIMEOUT_MS 60000

static uint8_t buf[CHUNK];

static int echo(const char *path, int kind)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, kind, 0), fd;
	ssize_t n;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 1))
		return 1;
	fd = accept(listener, NULL, NULL);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t done = 0; done < n;) {
			ssize_t put = write(fd, buf + done, (size_t)(n - done));

			if (put <= 0)
				return 1;
			done += put;
		}
	return 0;
}

/* Byte `at` of the stream: any shift or loss shows. */
static uint8_t byte_at(uint64_t at)
{
	return (uint8_t)((at >> 3) * 0x9e3779b97f4a7c15ULL >> 8 * (at & 7));
}

static int64_t send_some(int fd, uint64_t at, uint64_t left)
{
	size_t len = left < CHUNK ? left : CHUNK;

	for (size_t i = 0; i < len; i++)
		buf[i] = byte_at(at + i);
	return write(fd, buf, len);
}

static int64_t check_some(int fd, uint64_t at)
{
	ssize_t n = read(fd, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++)
		if (buf[i] != byte_at(at + (uint64_t)i)) {
			printf("byte %llu is wrong\n", (unsigned long long)(at + (uint64_t)i));
			return -1;
		}
	return n;
}

static int guest(uint64_t total)
{
	struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 5000};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	uint64_t sent = 0, got = 0;

	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		perror("vsock");
		return 1;
	}
	while (got < total) {
		struct pollfd p = {.fd = fd, .events = POLLIN | (sent < total ? POLLOUT : 0)};
		int64_t n;

		/* A blocking socket: never more on its way than either side can hold. */
		if (sent - got > 2 * CHUNK)
			p.events = POLLIN;
		if (poll(&p, 1, TIMEOUT_MS) <= 0)
			return 1;
		n = p.revents & POLLIN ? check_some(fd, got) : send_some(fd, sent, total - sent);
		if (n <= 0)
			return 1;
		if (p.revents & POLLIN)
			got += (uint64_t)n;
		else
			sent += (uint64_t)n;
	}
	return 0;
}

/* Messages of up to a chunk, in both directions at once as far as the sockets go. */
static int guest_messages(unsigned long count)
{
	struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 5001};
	int fd = socket(AF_VSOCK, SOCK_SEQPACKET, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		perror("vsock seqpacket");
		return 1;
	}
	for (unsigned long i = 0; i < count; i++) {
		size_t len = 1 + i * 7919 % (CHUNK - 1);

		for (size_t k = 0; k < len; k++)
			buf[k] = byte_at(i * CHUNK + k);
		if (write(fd, buf, len) != (ssize_t)len ||
		    read(fd, buf, sizeof(buf)) != (ssize_t)len) {
			perror("a message");
			return 1;
		}
		for (size_t k = 0; k < len; k++)
			if (buf[k] != byte_at(i * CHUNK + k))
				return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "host"))
		return echo(argv[2], SOCK_STREAM);
	if (argc == 3 && !strcmp(argv[1], "host-seq"))
		return echo(argv[2], SOCK_SEQPACKET);
	if (argc == 3 && !strcmp(argv[1], "guest-seq"))
		return guest_messages(strtoul(argv[2], NULL, 0));
	if (argc == 3 && !strcmp(argv[1], "guest"))
		return guest(strtoull(argv[2], NULL, 0) << 20);
	return 2;
}
