/*
 * Invariants:
 * 1. Packets to the guest are never kept: what is to be sent is bits in conn->pending, the readable
 *    socket, and the bounded list of resets; vsock_pump() makes the packet when there is a buffer.
 * 2. So packets from the guest are always taken, whether the guest has receive buffers or not
 *    (5.10.6.3.1).
 * 3. conn->tx_cnt - conn->peer_fwd <= conn->peer_alloc whenever the guest keeps the rules.
 */
#include "virtio/vsock.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "virtio/features.h"
#include "virtio/vsock_int.h"

#define QUEUE_SIZE 128
#define RX	   0
#define TX	   1
#define EVENT	   2
#define TURN_LIMIT 256
#define MAX_DATA   65536u

/* 5.10.3; newer than the headers of Debian 12. */
#define F_STREAM	    0
#define F_SEQPACKET	    1
#define F_NO_IMPLIED_STREAM 2

static struct vsock *of(struct virtio_device *dev)
{
	return container_of(dev, struct vsock, dev);
}

/* ---- headers ---- */

static bool read_header(const struct virtq_chain *chain, struct vsock_header *h)
{
	u8 raw[VSOCK_HEADER_SIZE];

	if (iov_to_buf(chain->out, chain->nout, 0, raw, sizeof(raw)) < sizeof(raw))
		return false;
	*h = (struct vsock_header){
		.src_cid = load_le64(raw),
		.dst_cid = load_le64(raw + 8),
		.src_port = load_le32(raw + 16),
		.dst_port = load_le32(raw + 20),
		.len = load_le32(raw + 24),
		.type = load_le16(raw + 28),
		.op = load_le16(raw + 30),
		.flags = load_le32(raw + 32),
		.buf_alloc = load_le32(raw + 36),
		.fwd_cnt = load_le32(raw + 40),
	};
	return true;
}

static void write_header(const struct virtq_chain *chain, const struct vsock_header *h)
{
	u8 raw[VSOCK_HEADER_SIZE];

	store_le64(raw, h->src_cid);
	store_le64(raw + 8, h->dst_cid);
	store_le32(raw + 16, h->src_port);
	store_le32(raw + 20, h->dst_port);
	store_le32(raw + 24, h->len);
	store_le16(raw + 28, h->type);
	store_le16(raw + 30, h->op);
	store_le32(raw + 32, h->flags);
	store_le32(raw + 36, h->buf_alloc);
	store_le32(raw + 40, h->fwd_cnt);
	iov_from_buf(chain->in, chain->nin, 0, raw, sizeof(raw));
}

/* A header from us about a connection; 5.10.6.3: credit is valid in every packet. */
static struct vsock_header conn_header(struct vsock_conn *conn, u16 op)
{
	u32 flags = 0;

	if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
		flags = conn->host_eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0;
	conn->told_fwd = conn->fwd_cnt;
	return (struct vsock_header){
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = load_le64(conn->vsock->dev.config),
		.src_port = conn->host_port,
		.dst_port = conn->guest_port,
		.type = conn->type,
		.op = op,
		.flags = flags,
		.buf_alloc = VSOCK_BUF_ALLOC,
		.fwd_cnt = conn->fwd_cnt,
	};
}

/* ---- to the guest ---- */

static void send_header(struct virtq *vq, struct virtq_chain *chain, const struct vsock_header *h)
{
	write_header(chain, h);
	virtq_push(vq, chain, VSOCK_HEADER_SIZE);
}

/* Data straight from the socket into the guest's buffer; false when there was none. */
static bool send_data(struct vsock_conn *conn, struct virtq *vq, struct virtq_chain *chain)
{
	struct iovec local[64], *iov = local;
	u32 most = min(vsock_conn_credit(conn), MAX_DATA);
	u32 room = min(chain->in_len - VSOCK_HEADER_SIZE, most);
	size_t niov = min((size_t)chain->nin, ARRAY_SIZE(local));
	struct vsock_header h;
	bool end = false;
	u32 n = 0;

	memcpy(local, chain->in, niov * sizeof(*iov));
	iov_discard_front(&iov, &niov, VSOCK_HEADER_SIZE);
	if (room && conn->type == VSOCK_TYPE_SEQPACKET)
		n = vsock_seq_read(conn, iov, niov, room, &end);
	else if (room)
		n = vsock_conn_read(conn, iov, niov, room);
	if (!n)
		return false;
	h = conn_header(conn, VIRTIO_VSOCK_OP_RW);
	h.len = n;
	h.flags = end ? VSOCK_SEQ_EOM : 0;
	conn->tx_cnt += n;
	write_header(chain, &h);
	virtq_push(vq, chain, VSOCK_HEADER_SIZE + n);
	return true;
}

/* One packet of this connection; false when it has nothing to send. Frees what has ended. */
static bool send_for(struct vsock_conn *conn, struct virtq *vq, struct virtq_chain *chain)
{
	struct vsock_header h;

	if (conn->pending) {
		u16 op = (u16)__builtin_ctz(conn->pending);

		conn->pending &= ~(u32)BIT(op);
		h = conn_header(conn, op);
		send_header(vq, chain, &h);
		if (op == VIRTIO_VSOCK_OP_RST)
			vsock_conn_free(conn);
		return true;
	}
	if (conn->state == VSOCK_CONNECTED && conn->readable && send_data(conn, vq, chain))
		return true;
	vsock_conn_update(conn);
	return false;
}

static bool wants_to_send(const struct vsock_conn *conn)
{
	return conn->pending ||
	       (conn->state == VSOCK_CONNECTED && conn->readable && vsock_conn_credit(conn));
}

static void send_lost(struct vsock *vsock, struct virtq *vq, struct virtq_chain *chain)
{
	const struct vsock_header *from = &vsock->lost[--vsock->nlost];
	const struct vsock_header h = {
		.src_cid = from->dst_cid,
		.dst_cid = from->src_cid,
		.src_port = from->dst_port,
		.dst_port = from->src_port,
		.type = from->type,
		.op = VIRTIO_VSOCK_OP_RST,
	};

	send_header(vq, chain, &h);
}

static struct virtq_chain *take_buffer(struct virtq *vq)
{
	struct virtq_chain *chain = virtq_pop(vq);

	if (!chain && virtq_notify_enable(vq))
		chain = virtq_pop(vq);
	if (chain && chain->in_len <= VSOCK_HEADER_SIZE) {
		virtq_break(vq, "a receive buffer that cannot hold a packet");
		return NULL;
	}
	return chain;
}

/* Use this buffer for whoever is next; false when nobody has anything. */
static bool fill(struct vsock *vsock, struct virtq *vq, struct virtq_chain *chain)
{
	struct vsock_conn *conn, *next;
	unsigned int left = vsock->nconns;

	if (vsock->nlost) {
		send_lost(vsock, vq, chain);
		return true;
	}
	list_for_each_entry_safe (conn, next, &vsock->conns, link) {
		if (!left--)
			break;
		if (!wants_to_send(conn))
			continue;
		list_del(&conn->link); /* the next turn is the others' */
		list_add_tail(&vsock->conns, &conn->link);
		if (send_for(conn, vq, chain))
			return true;
	}
	return false;
}

static bool anybody_wants(struct vsock *vsock)
{
	struct vsock_conn *conn;

	if (vsock->nlost)
		return true;
	list_for_each_entry (conn, &vsock->conns, link)
		if (wants_to_send(conn))
			return true;
	return false;
}

static void send_event(struct vsock *vsock)
{
	struct virtio_queue *queue = &vsock->dev.queue[EVENT];
	struct virtq_chain *chain;
	u8 id[4] = {0}; /* TRANSPORT_RESET */

	if (!vsock->reset_event || !virtio_queue_is_live(queue))
		return;
	chain = virtq_pop(&queue->vq);
	if (!chain) {
		virtq_notify_enable(&queue->vq);
		return;
	}
	vsock->reset_event = false;
	virtq_complete(&queue->vq, chain, (u32)iov_from_buf(chain->in, chain->nin, 0, id, 4));
}

void vsock_pump(struct vsock *vsock)
{
	struct virtio_queue *queue = &vsock->dev.queue[RX];
	struct virtq *vq = &queue->vq;
	int left = TURN_LIMIT;

	if (!virtio_queue_is_live(queue))
		return;
	send_event(vsock);
	virtq_notify_disable(vq);
	while (left && anybody_wants(vsock)) {
		struct virtq_chain *chain = take_buffer(vq);

		if (!chain)
			break;
		/* A socket that looked readable had nothing; its end may be news in turn. */
		if (!fill(vsock, vq, chain))
			virtq_unpop(vq, chain);
		left--;
	}
	virtq_flush(vq);
	if (!left)
		virtio_queue_poke(queue);
}

/* ---- from the guest ---- */

static void answer_reset(struct vsock *vsock, const struct vsock_header *h)
{
	/* A guest that sends faster than it receives loses resets, not us memory. */
	if (h->op != VIRTIO_VSOCK_OP_RST && vsock->nlost < VSOCK_MAX_LOST)
		vsock->lost[vsock->nlost++] = *h;
}

static void new_conn(struct vsock *vsock, const struct vsock_header *h)
{
	struct vsock_conn *conn = vsock_conn_to_host(vsock, h->type, h->src_port, h->dst_port);

	if (!conn) {
		answer_reset(vsock, h);
		return;
	}
	conn->peer_alloc = h->buf_alloc;
	conn->peer_fwd = h->fwd_cnt;
	conn->pending |= BIT(VIRTIO_VSOCK_OP_RESPONSE);
}

static bool write_data(struct vsock_conn *conn, const struct iovec *iov, size_t niov, u32 flags)
{
	if (conn->type == VSOCK_TYPE_SEQPACKET)
		return vsock_seq_write(conn, iov, niov, flags & VSOCK_SEQ_EOM);
	return vsock_conn_write(conn, iov, niov);
}

static void handle_data(struct vsock_conn *conn, const struct virtq_chain *chain, u32 len,
			u32 flags)
{
	struct iovec iov[64];
	int n = iov_slice(iov, ARRAY_SIZE(iov), chain->out, chain->nout, VSOCK_HEADER_SIZE, len);

	if (conn->state != VSOCK_CONNECTED || conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND ||
	    n < 0 || !write_data(conn, iov, (size_t)n, flags))
		vsock_conn_reset(conn);
	else if (conn->fwd_cnt - conn->told_fwd >= VSOCK_BUF_ALLOC / 4)
		conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

static void handle_conn(struct vsock_conn *conn, const struct vsock_header *h,
			const struct virtq_chain *chain)
{
	conn->peer_alloc = h->buf_alloc;
	conn->peer_fwd = h->fwd_cnt;
	switch (h->op) {
	case VIRTIO_VSOCK_OP_RESPONSE:
		if (conn->state == VSOCK_REQUESTED)
			vsock_conn_accepted(conn);
		else
			vsock_conn_reset(conn);
		break;
	case VIRTIO_VSOCK_OP_RST:
		vsock_conn_free(conn);
		return;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		vsock_conn_shutdown(conn, h->flags);
		break;
	case VIRTIO_VSOCK_OP_RW:
		handle_data(conn, chain, h->len, h->flags);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		break;
	default: /* a second request among them */
		vsock_conn_reset(conn);
		break;
	}
	vsock_conn_update(conn);
}

/* 5.10.3.2: streams are implied unless the driver knows better. */
static bool knows_type(const struct virtio_device *dev, u16 type)
{
	if (type == VSOCK_TYPE_SEQPACKET)
		return virtio_has(dev, F_SEQPACKET);
	return type == VIRTIO_VSOCK_TYPE_STREAM &&
	       (virtio_has(dev, F_STREAM) || !virtio_has(dev, F_NO_IMPLIED_STREAM));
}

static void handle_packet(struct vsock *vsock, const struct virtq_chain *chain)
{
	struct vsock_conn *conn;
	struct vsock_header h;

	/* 5.10.6.4.1: a packet with a wrong source is not from anybody. */
	if (!read_header(chain, &h) || h.src_cid != load_le64(vsock->dev.config))
		return;
	if (h.dst_cid != VSOCK_HOST_CID || !knows_type(&vsock->dev, h.type) ||
	    h.len > chain->out_len - VSOCK_HEADER_SIZE) {
		answer_reset(vsock, &h);
		return;
	}
	conn = vsock_conn_lookup(vsock, h.src_port, h.dst_port);
	if (conn && conn->type != h.type)
		answer_reset(vsock, &h);
	else if (conn)
		handle_conn(conn, &h, chain);
	else if (h.op == VIRTIO_VSOCK_OP_REQUEST)
		new_conn(vsock, &h);
	else
		answer_reset(vsock, &h);
}

static void tx_kick(struct vsock *vsock, struct virtio_queue *queue)
{
	struct virtq_chain *chain;
	int left = TURN_LIMIT;

	do {
		virtq_notify_disable(&queue->vq);
		while (left && (chain = virtq_pop(&queue->vq))) {
			handle_packet(vsock, chain);
			virtq_push(&queue->vq, chain, 0);
			left--;
		}
		virtq_flush(&queue->vq);
	} while (left && virtq_notify_enable(&queue->vq));
	if (!left)
		virtio_queue_poke(queue);
	vsock_pump(vsock);
}

static void kick(struct virtio_queue *queue)
{
	struct vsock *vsock = of(queue->dev);

	if (queue->index == TX)
		tx_kick(vsock, queue);
	else
		vsock_pump(vsock);
}

/* ---- life ---- */

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_vsock_options *o = config;
	struct vsock *vsock = of(dev);
	u64 cid = o->guest_cid ? o->guest_cid : 3;
	int rc = 0;

	list_init(&vsock->conns);
	list_init(&vsock->dead);
	vsock->reap.fn = vsock_reap;
	vsock->listener.fd = -1;
	vsock->next_port = 1u << 30;
	if (cid < 3 || cid > 0xfffffffe)
		return err_set(err, EINVAL, "guest CID %llu: from 3 to 4294967294",
			       (unsigned long long)cid);
	/* PATH_4294967295 must fit, too. */
	if (!o->path || !o->path[0] || strlen(o->path) + 12 > sizeof(vsock->path))
		return err_set(err, ENAMETOOLONG, "a path of 1 to %zu bytes for the sockets",
			       sizeof(vsock->path) - 12);
	snprintf(vsock->path, sizeof(vsock->path), "%s", o->path);
	virtio_offer(dev,
		     VIRTIO_F(F_STREAM) | VIRTIO_F(F_SEQPACKET) | VIRTIO_F(F_NO_IMPLIED_STREAM));
	dev->config_size = 8;
	store_le64(dev->config, cid);
	for (int i = 0; i < 3 && !rc; i++)
		rc = virtio_add_queue(dev, QUEUE_SIZE, sizeof(struct virtq_chain), NULL, err);
	return rc ? rc : vsock_listen(vsock, err);
}

static void reset(struct virtio_device *dev)
{
	struct vsock *vsock = of(dev);

	vsock_conns_bury(vsock);
	vsock->nlost = 0;
	vsock->reset_event = false;
}

static void stop(struct virtio_device *dev)
{
	struct vsock *vsock = of(dev);

	if (!vsock->conns.next)
		return;
	vsock_conns_free(vsock);
	vsock_unlisten(vsock);
}

static void stats(struct virtio_device *dev, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	line(ctx, "connections", of(dev)->nconns);
}

/* Connections do not survive; the guest is told that they are gone (5.10.6.7). */
static int loaded(void *object, struct err *err)
{
	struct vsock *vsock = object;

	vsock->reset_event = true;
	return 0;
}

static const struct state_field fields[] = {
	STATE_FIELD(struct vsock, next_port),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-vsock",
	.version = 1,
	.fields = fields,
	.loaded = loaded,
};

const struct virtio_class virtio_vsock = {
	.name = "vsock",
	.summary = "sockets between guest and host",
	.id = VIRTIO_ID_VSOCK,
	.pci_class = 0x028000,
	.size = sizeof(struct vsock),
	.in_order = VIRTIO_F(VIRTIO_F_IN_ORDER),
	.init = init,
	.kick = kick,
	.reset = reset,
	.stop = stop,
	.stats = stats,
	.state = &state,
};
