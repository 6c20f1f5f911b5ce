/* The socket device: packets and queues (vsock.c), connections and host sockets (vsock_conn.c),
 * those of whole messages (vsock_seq.c). Everything runs on the main loop with the bus lock held;
 * only a reset comes from other threads, and leaves the freeing of what the loop watches to the
 * loop. */
#ifndef VIRTIO_VSOCK_INT_H
#define VIRTIO_VSOCK_INT_H

#include <sys/un.h>

#include "base/list.h"
#include "virtio/virtio.h"

#define VSOCK_HOST_CID	  2
#define VSOCK_BUF_ALLOC	  (256 * 1024u) /* what one connection may send ahead of us */
#define VSOCK_MAX_CONNS	  1024
#define VSOCK_MAX_LOST	  64 /* resets for connections that we do not have */
#define VSOCK_HEADER_SIZE 44

struct vsock_header {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port, len;
	u16 type, op;
	u32 flags, buf_alloc, fwd_cnt;
};

enum vsock_conn_state {
	VSOCK_HELLO,	 /* the host's program has not said CONNECT yet */
	VSOCK_REQUESTED, /* the guest has not answered yet */
	VSOCK_CONNECTED,
	VSOCK_CLOSED, /* only the reset is to be sent */
	VSOCK_DEAD,   /* to be freed by the main loop, which may be in its callback just now */
};

struct vsock_conn {
	struct vsock *vsock;
	struct list link; /* in vsock->conns; the one served last is at the end */
	enum vsock_conn_state state;
	u32 guest_port, host_port;
	u16 type;		 /* VIRTIO_VSOCK_TYPE_STREAM or TYPE_SEQPACKET */
	struct loop_watch watch; /* fd: the host's socket, -1: closed */
	u32 pending;		 /* BIT(op) of packets to send */
	bool readable;		 /* there may be something to read from the socket */
	bool host_eof;		 /* the host's program sends no more */
	u32 guest_shut;		 /* SHUTDOWN flags that the guest sent */
	/* To the guest: 5.10.6.3. */
	u32 tx_cnt, peer_alloc, peer_fwd;
	/* From the guest: what the socket has taken, what the guest knows of it, what waits. */
	u32 fwd_cnt, told_fwd;
	u8 *buf; /* VSOCK_BUF_ALLOC bytes, a ring; NULL while nothing ever waited; see vsock_seq.c,
		    too */
	u32 head, len;
	struct {
		bool open;	       /* the last record in buf has no end yet */
		u32 open_len, payload; /* bytes of that record, of all */
		u8 *in;		       /* a message for the guest in parts, or NULL */
		u32 in_len, in_at;
	} seq;
	char hello[24];
	u32 hello_len;
};

struct vsock {
	struct virtio_device dev;
	struct list conns, dead;
	unsigned int nconns; /* of both lists */
	struct loop_work reap;
	u32 next_port;
	struct vsock_header lost[VSOCK_MAX_LOST]; /* answer these with a reset */
	unsigned int nlost;
	bool reset_event; /* connections are gone: tell the guest */
	struct loop_watch listener;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool bound;
};

#define VSOCK_TYPE_SEQPACKET 2
#define VSOCK_SEQ_EOM	     1 /* a packet's flag: the message ends here */

/* ---- vsock_conn.c ---- */

int vsock_listen(struct vsock *vsock, struct err *err);
void vsock_unlisten(struct vsock *vsock);
/* A guest's program connects: NULL when nobody listens or there are too many. */
struct vsock_conn *vsock_conn_to_host(struct vsock *vsock, u16 type, u32 guest_port, u32 host_port);
struct vsock_conn *vsock_conn_lookup(struct vsock *vsock, u32 guest_port, u32 host_port);
void vsock_conn_free(struct vsock_conn *conn);
/* All of them: at the end, on the main loop; and from any thread, freed a little later. */
void vsock_conns_free(struct vsock *vsock);
void vsock_conns_bury(struct vsock *vsock);
void vsock_reap(struct loop_work *work);
/* The guest accepted: tell the host's program. */
void vsock_conn_accepted(struct vsock_conn *conn);
/* Data from the guest: to the socket, and what it does not take, to the buffer. False when there
 * is more than we allowed, or the socket is gone. */
bool vsock_conn_write(struct vsock_conn *conn, const struct iovec *iov, size_t niov);
/* Data for the guest: at most `len` bytes into the vector; 0: none now, or the end (host_eof). */
u32 vsock_conn_read(struct vsock_conn *conn, struct iovec *iov, size_t niov, u32 len);
/* The guest sends (and receives) no more. */
void vsock_conn_shutdown(struct vsock_conn *conn, u32 flags);
/* How much the guest can take now. */
u32 vsock_conn_credit(const struct vsock_conn *conn);
/* Watch the socket for what can be handled now. */
void vsock_conn_update(struct vsock_conn *conn);
/* Close the socket and leave only a reset to be sent. */
void vsock_conn_reset(struct vsock_conn *conn);

/* ---- vsock_seq.c: the same for whole messages ---- */

/* A part of a message, `end`: the last. False when there is more than we allowed, or the socket is
 * gone. */
bool vsock_seq_write(struct vsock_conn *conn, const struct iovec *iov, size_t niov, bool end);
/* What of buf belongs to a message that has no end yet. */
u32 vsock_seq_open_bytes(const struct vsock_conn *conn);
/* The socket takes more: false when it is gone. */
bool vsock_seq_drain(struct vsock_conn *conn);
/* Forget a message that will have no end. */
void vsock_seq_drop_open(struct vsock_conn *conn);
/* As vsock_conn_read(), at most to the end of a message. */
u32 vsock_seq_read(struct vsock_conn *conn, struct iovec *iov, size_t niov, u32 room, bool *end);
void vsock_seq_release(struct vsock_conn *conn);

/* ---- vsock.c ---- */

/* Send what is pending while the guest has buffers. */
void vsock_pump(struct vsock *vsock);

#endif
