/*
 * The stream and dgram back ends with a peer that sends anything, in pieces of any size, to a guest
 * that takes what it likes. The frames that arrive are compared with a plain reading of all that
 * was sent: none is lost, made up, or changed, up to the first length that is impossible.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "net/net.h"
#include "os/loop.h"

#define SENT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { OP_BYTES, OP_FRAME, OP_LENGTH, OP_ROOM, OP_RUN, OP_SEND, OP_AGAIN, OPS };

struct peer {
	struct loop *loop;
	struct net *net;
	bool stream;
	char path[64], own_path[64];
	int fd;
	const u8 *data;
	size_t left;
	/* What was sent on this connection, and what has arrived of it. */
	u8 *sent;
	u32 sent_len, at;
	u32 room;
	bool ignore; /* what a connection that is over had sent */
};

static void quiet(enum log_level level, const char *line)
{
}

static u32 take(struct peer *p, unsigned int size)
{
	u8 raw[4] = {0};

	size = min((u32)size, (u32)p->left);
	memcpy(raw, p->data, size);
	p->data += size;
	p->left -= size;
	return load_le32(raw);
}

/* The next frame of the record that a guest should see; NULL: none is whole. */
static const u8 *next_frame(struct peer *p, u32 *len)
{
	while (p->sent_len - p->at >= 4) {
		u32 n = load_be32(p->sent + p->at);
		const u8 *frame = p->sent + p->at + 4;

		if (n > NET_MAX_FRAME || p->sent_len - p->at - 4 < n)
			return NULL;
		p->at += 4 + n;
		*len = n;
		if (n >= NET_MIN_FRAME)
			return frame;
	}
	return NULL;
}

static u32 receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct peer *p = ctx;
	u32 taken = 0, len = 0;

	if (p->ignore)
		return n;
	for (; taken < n && p->room; taken++, p->room--) {
		const u8 *want = next_frame(p, &len);

		if (!want || frames[taken].len != len || frames[taken].niov != 1 ||
		    frames[taken].iov->iov_len != len ||
		    memcmp(frames[taken].iov->iov_base, want, len))
			abort();
	}
	return taken;
}

static void run(struct peer *p)
{
	for (int i = 0; i < 4; i++)
		loop_run_once(p->loop, 0);
}

static void connect_peer(struct peer *p)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX}, own = {.sun_family = AF_UNIX};

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", p->path);
	snprintf(own.sun_path, sizeof(own.sun_path), "%s", p->own_path);
	if (p->fd >= 0)
		close(p->fd);
	p->ignore = true;
	net_receive_resume(p->net, 0);
	for (int i = 0; i < 8; i++)
		run(p);
	p->ignore = false;
	p->fd = socket(AF_UNIX, (p->stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0);
	unlink(p->own_path);
	if (p->fd < 0 || (!p->stream && bind(p->fd, (struct sockaddr *)&own, sizeof(own))) ||
	    connect(p->fd, (struct sockaddr *)&to, sizeof(to)))
		abort();
	p->sent_len = p->at = 0;
	p->room = 0;
	run(p);
}

/* To the back end, and into the record, as one record of the stream. */
static void put(struct peer *p, const void *bytes, u32 len)
{
	ssize_t n;

	if (p->sent_len + len + 4 > SENT_MAX)
		return;
	n = send(p->fd, bytes, len, MSG_NOSIGNAL);
	if (n <= 0)
		return;
	if (!p->stream) { /* a datagram: as a frame with its length */
		store_be32(p->sent + p->sent_len, len <= NET_MAX_FRAME ? len : 0);
		p->sent_len += 4;
		n = len <= NET_MAX_FRAME ? n : 0;
	}
	memcpy(p->sent + p->sent_len, bytes, (size_t)n);
	p->sent_len += (u32)n;
}

static void put_frame(struct peer *p, u32 len)
{
	static u8 record[4 + NET_MAX_FRAME + 4096];

	len %= NET_MAX_FRAME + 64;
	store_be32(record, len);
	for (u32 i = 0; i < len; i++)
		record[4 + i] = (u8)(len + i * 3);
	put(p, p->stream ? record : record + 4, p->stream ? len + 4 : len);
}

static void send_frame(struct peer *p, u32 len)
{
	static u8 bytes[65536];
	struct iovec iov = {bytes, len};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = len};

	net_send(p->net, 0, &frame, 1);
	if (len & 1) /* a peer that reads now and then */
		while (recv(p->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
}

static void step(struct peer *p)
{
	u8 word[4], n;

	switch (take(p, 1) % OPS) {
	case OP_BYTES:
		n = (u8)min((size_t)take(p, 1), p->left);
		put(p, p->data, n);
		p->data += n;
		p->left -= n;
		break;
	case OP_FRAME:
		put_frame(p, take(p, 3));
		break;
	case OP_LENGTH:
		store_be32(word, take(p, 3));
		put(p, word, sizeof(word));
		break;
	case OP_ROOM:
		p->room = take(p, 1);
		net_receive_resume(p->net, 0);
		break;
	case OP_RUN:
		run(p);
		break;
	case OP_SEND:
		send_frame(p, take(p, 2));
		break;
	case OP_AGAIN:
		connect_peer(p);
		break;
	default:
		break;
	}
}

static struct net *open_link(struct peer *p, const char *spec)
{
	const struct net_client client = {.ctx = p, .receive = receive};
	struct net_card card;
	struct net *net;
	struct err err;

	if (net_open(&net, p->loop, spec, &card, &err)) {
		fprintf(stderr, "%s: %s\n", spec, err.text);
		abort();
	}
	opt_free(net_card_table, &card);
	net_set_client(net, &client);
	return net;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct peer p = {.fd = -1, .data = data, .left = size, .sent = malloc(SENT_MAX)};
	char spec[200];

	log_set_sink(quiet);
	p.loop = loop_new();
	p.stream = !(take(&p, 1) & 1);
	snprintf(p.path, sizeof(p.path), "/tmp/fuzz-net-%d", (int)getpid());
	snprintf(p.own_path, sizeof(p.own_path), "/tmp/fuzz-net-%d-peer", (int)getpid());
	unlink(p.path);
	snprintf(spec, sizeof(spec),
		 p.stream ? "stream,path=%s,server=on" : "dgram,local.path=%s,remote.path=%s",
		 p.path, p.own_path);
	p.net = open_link(&p, spec);
	connect_peer(&p);
	while (p.left)
		step(&p);
	/* In the end a guest with room has all that was whole. */
	p.room = 1u << 20;
	for (int i = 0; i < 100; i++) {
		net_receive_resume(p.net, 0);
		run(&p);
	}
	if (next_frame(&p, &(u32){0}))
		abort();
	net_close(p.net);
	close(p.fd);
	unlink(p.own_path);
	loop_free(p.loop);
	free(p.sent);
	return 0;
}
