/*
 * Connections of whole messages (SEQPACKET): Virtio 1.3, section 5.10.6.6. A message comes in
 * several packets of the guest and goes to the socket as one, and the other way round. Record
 * boundaries (MSG_EOR) are not carried: UNIX sockets have none.
 *
 * Invariants:
 * 1. buf holds records, each a length and that many bytes, from head on; the last one may be open:
 *    its end has not come yet. Nothing of an open record has been sent.
 * 2. The bytes of records, without their lengths, are at most VSOCK_BUF_ALLOC; each takes four
 * more, so SEQ_BUF is enough for messages of a byte. Empty ones cost no credit: too many are
 * refused.
 * 3. in holds what is left of a message of the socket that did not fit into one buffer of the
 * guest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "virtio/vsock_int.h"

#define LENGTH	4u
#define SEQ_BUF ((1 + LENGTH) * VSOCK_BUF_ALLOC)
#define MAX_IN	(1024 * 1024u) /* of one message of the host */

u32 vsock_seq_open_bytes(const struct vsock_conn *conn)
{
	return conn->seq.open ? conn->seq.open_len + LENGTH : 0;
}

static ssize_t send_message(struct vsock_conn *conn, struct iovec *iov, size_t niov, u32 len)
{
	const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = niov};
	ssize_t n = sendmsg(conn->watch.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return -1;
	conn->fwd_cnt += len;
	return 1;
}

/* Room for n bytes more at the end. */
static bool make_room(struct vsock_conn *conn, u32 n)
{
	if (!conn->buf)
		conn->buf = malloc(SEQ_BUF);
	if (!conn->buf)
		return false;
	if (conn->head && conn->head + conn->len + n > SEQ_BUF) {
		memmove(conn->buf, conn->buf + conn->head, conn->len);
		conn->head = 0;
	}
	return conn->head + conn->len + n <= SEQ_BUF;
}

static u8 *open_record(struct vsock_conn *conn)
{
	return conn->buf + conn->head + conn->len - conn->seq.open_len - LENGTH;
}

static bool append(struct vsock_conn *conn, const struct iovec *iov, size_t niov, u32 n)
{
	if (n > VSOCK_BUF_ALLOC - conn->seq.payload ||
	    !make_room(conn, n + (conn->seq.open ? 0 : LENGTH)))
		return false;
	if (!conn->seq.open) {
		conn->seq.open = true;
		conn->seq.open_len = 0;
		conn->len += LENGTH;
	}
	iov_to_buf(iov, niov, 0, conn->buf + conn->head + conn->len, n);
	conn->len += n;
	conn->seq.open_len += n;
	conn->seq.payload += n;
	store_le32(open_record(conn), conn->seq.open_len);
	return true;
}

bool vsock_seq_drain(struct vsock_conn *conn)
{
	u32 open = vsock_seq_open_bytes(conn);

	while (conn->len > open) {
		u32 n = load_le32(conn->buf + conn->head);
		struct iovec iov = {conn->buf + conn->head + LENGTH, n};
		ssize_t sent = send_message(conn, &iov, 1, n);

		if (sent <= 0)
			return !sent;
		conn->head += LENGTH + n;
		conn->len -= LENGTH + n;
		conn->seq.payload -= n;
	}
	if (!conn->len)
		conn->head = 0;
	return true;
}

bool vsock_seq_write(struct vsock_conn *conn, const struct iovec *iov, size_t niov, bool end)
{
	u32 n = (u32)iov_length(iov, niov);

	if (!conn->len && end) { /* all of it at once */
		ssize_t sent = send_message(conn, (struct iovec *)(uintptr_t)iov, niov, n);

		if (sent)
			return sent > 0;
	}
	if (!append(conn, iov, niov, n))
		return false;
	if (!end)
		return true;
	conn->seq.open = false;
	return vsock_seq_drain(conn);
}

void vsock_seq_drop_open(struct vsock_conn *conn)
{
	conn->len -= vsock_seq_open_bytes(conn);
	conn->seq.payload -= conn->seq.open ? conn->seq.open_len : 0;
	conn->seq.open = false;
}

/* ---- from the socket to the guest ---- */

void vsock_seq_release(struct vsock_conn *conn)
{
	free(conn->seq.in);
	conn->seq.in = NULL;
	conn->seq.in_len = conn->seq.in_at = 0;
	conn->seq.payload = 0;
	conn->seq.open = false;
}

static u32 send_rest(struct vsock_conn *conn, const struct iovec *iov, size_t niov, u32 room,
		     bool *end)
{
	u32 n = min(room, conn->seq.in_len - conn->seq.in_at);

	n = (u32)iov_from_buf(iov, niov, 0, conn->seq.in + conn->seq.in_at, n);
	conn->seq.in_at += n;
	*end = conn->seq.in_at == conn->seq.in_len;
	if (*end) {
		free(conn->seq.in);
		conn->seq.in = NULL;
	}
	return n;
}

/* The next message waits here, as the guest takes it in parts. */
static bool take_whole(struct vsock_conn *conn, u32 len)
{
	if (len > conn->peer_alloc || len > MAX_IN)
		return false; /* it could never be sent */
	conn->seq.in = malloc(len);
	if (!conn->seq.in)
		return false;
	conn->seq.in_at = 0;
	conn->seq.in_len = len;
	return recv(conn->watch.fd, conn->seq.in, len, MSG_DONTWAIT) == (ssize_t)len;
}

u32 vsock_seq_read(struct vsock_conn *conn, struct iovec *iov, size_t niov, u32 room, bool *end)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = niov};
	ssize_t n;

	*end = false;
	if (conn->seq.in)
		return send_rest(conn, iov, niov, room, end);
	n = recv(conn->watch.fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (n > 0 && (size_t)n <= room && (size_t)n <= iov_length(iov, niov)) {
		*end = true;
		return (u32)max(recvmsg(conn->watch.fd, &msg, MSG_DONTWAIT), (ssize_t)0);
	}
	if (n > 0) {
		if (take_whole(conn, (u32)n))
			return send_rest(conn, iov, niov, room, end);
		vsock_conn_reset(conn);
		return 0;
	}
	conn->readable = false;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	conn->host_eof = true;
	if (n < 0)
		vsock_conn_reset(conn);
	else
		conn->pending |= BIT(VIRTIO_VSOCK_OP_SHUTDOWN);
	return 0;
}
