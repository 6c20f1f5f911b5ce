/*
 * Network links: Ethernet frames between a front end (a card that a guest drives) and a back end
 * (user NAT, tap, ...). A back end knows frames and nothing of guests; a front end knows this
 * header and nothing of hosts. Filters (dump, throttle) are back ends with another back end below
 *them.
 *
 *	front end --- net_send() ----------------------> back end
 *	          <-- client->sendable() --------------- (full before, has drained)
 *	          <-- client->receive() ---------------- back end
 *	          --- net_receive_resume() ------------> (took too few before, has buffers again)
 *
 * Nothing is buffered without bound: each side stops the other. A link has one or more queue
 * pairs, numbered from 0, each with both directions; what follows holds for each pair by itself.
 *
 * Threads: every callback of the client for a pair runs on the thread of net_loop(net, pair) with
 * no lock held, and never inside net_send() or net_receive_resume(); so a front end may hold its
 * own locks (the bus lock) when it calls down, and take them when it is called.
 */
#ifndef NET_NET_H
#define NET_NET_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/opt.h"
#include "base/types.h"
#include "os/loop.h"

#define NET_MAX_PAIRS 8
#define NET_BATCH     64	   /* frames in one call at most */
#define NET_MAX_FRAME (65536 + 64) /* bytes, headers included: with segmentation offload */
#define NET_MIN_FRAME 14
#define NET_MTU_MIN   1280

/* ---- frames ---- */

/* Bits of net_offload.flags, as in struct virtio_net_hdr (Virtio 1.3, section 5.1.6). */
enum {
	NET_HDR_NEEDS_CSUM = 1 << 0, /* the 16 bits at csum_start + csum_offset hold the checksum of
				      * the pseudo header only; the sum from csum_start to the end
				      * of the frame is to be put there */
	NET_HDR_DATA_VALID = 1 << 1, /* checksums have been verified already */
};

enum net_gso {
	NET_GSO_NONE = 0,
	NET_GSO_TCPV4 = 1,
	NET_GSO_TCPV6 = 4,
	NET_GSO_UDP_L4 = 5,
	NET_GSO_ECN = 0x80, /* with a TCP type: the first segment alone carries CWR */
};

/*
 * What is left to do on a frame, in host byte order. All of it is a hint from the other side:
 * check it against the frame (net_offload_check()) before use.
 */
struct net_offload {
	u8 flags, gso_type;
	u16 hdr_len, gso_size, csum_start, csum_offset;
};

/* One frame: destination address first, no checksum at the end. */
struct net_frame {
	struct net_offload offload;
	const struct iovec *iov;
	u32 niov;
	u32 len; /* NET_MIN_FRAME to NET_MAX_FRAME; the sum of the iovecs */
};

/* What one side can be handed unfinished. */
enum {
	NET_CSUM = 1 << 0, /* NET_HDR_NEEDS_CSUM; every other bit needs this one */
	NET_TSO4 = 1 << 1,
	NET_TSO6 = 1 << 2,
	NET_ECN = 1 << 3,
	NET_USO = 1 << 4,
};

/* True when the offload is consistent with a frame of len bytes and asks only for what is in
 * `allowed` (NET_CSUM | ...). A false one must be dropped. */
bool net_offload_check(const struct net_offload *offload, u32 len, u32 allowed);

/* Carry out NET_HDR_NEEDS_CSUM over the whole frame, in place, and clear the flag. The offload
 * must have passed net_offload_check(). */
void net_offload_finish_csum(struct net_offload *offload, u8 *frame, u32 len);

/* The Internet checksum's running sum over a buffer, and its end: RFC 1071. */
u32 net_csum_add(u32 sum, const void *data, size_t len);
u16 net_csum_fold(u32 sum);

/* ---- the link as the front end sees it ---- */

struct net;

struct net_client {
	void *ctx;
	/*
	 * Frames for the guest; they are valid only during the call. Returns how many were taken,
	 * from the first on. Fewer than n means that there is no buffer for the next one: the back
	 * end stops reading until net_receive_resume(). A card whose receiver is off takes frames
	 * and drops them.
	 */
	u32 (*receive)(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n);
	/* After net_send() took too few: it takes frames again. */
	void (*sendable)(void *ctx, unsigned int pair);
	/* The link went up or down; on the thread of net_loop(net, 0). May be NULL. */
	void (*link)(void *ctx, bool up);
};

/* For each direction by itself; 0: no limit. A burst of less than a tenth of a second is one. */
struct net_limits {
	u64 bps, bps_burst; /* bytes a second, and how many at once */
	u64 pps, pps_burst; /* frames; one that the host is to segment counts once */
};

/* What the user may say about the card and the link, whatever the back end. */
struct net_card {
	char *model; /* "virtio", "rtl8139", "e1000"; NULL: the board's choice */
	u8 mac[6];
	bool has_mac;
	u64 mtu;	   /* told to the guest; 0: not */
	u64 pairs;	   /* queue pairs wanted; 1 */
	bool transitional; /* virtio: the registers from before 1.0, too */
	struct net_limits limits;
	char *rom;  /* boot ROM: a file, "pxe" for the package's one, "off"; NULL: with firmware,
		     * the package's where there is one */
	char *dump; /* file for a capture of this link, or NULL */
};

extern const struct opt net_card_table[];

/*
 * Open a link from what follows --net: "TYPE[,key=value...]". Keys of net_card_table go to *card
 * (initialised here; opt_free() with the table), the others to the back end's own table. With
 * dump= or limits the link that is returned has the filters on top. Everything it will ever need is
 * open when this returns. -errno with the reason.
 */
int net_open(struct net **out, struct loop *loop, const char *spec, struct net_card *card,
	     struct err *err);
/* What net_open() would say, as far as that shows without opening anything. */
int net_check(const char *spec, struct err *err);

/* No callback comes any more once this returns. Main thread, without the bus lock; before the
 * front end is freed. Harmless twice. */
void net_stop(struct net *net);
/* net_stop() and release. NULL is ignored. */
void net_close(struct net *net);

/* On the thread of net_loop(), before the link has started to carry frames, or after net_stop().
 * NULL detaches; frames are dropped while nobody is attached. The structure is copied. */
void net_set_client(struct net *net, const struct net_client *client);

const char *net_name(const struct net *net);
/* Queue pairs that the back end offers: 1 to NET_MAX_PAIRS. */
unsigned int net_pairs(const struct net *net);
/* Use pairs 0 to n - 1 for receiving from now on. Any thread. */
void net_set_pairs(struct net *net, unsigned int n);
/* Whose thread calls the client for this pair: where a front end with queues watches them too. */
struct loop *net_loop(const struct net *net, unsigned int pair);

/* What net_send() accepts unfinished: NET_CSUM | ... */
u32 net_caps(const struct net *net);
/* What receive() can take unfinished (none at first). Any thread. */
void net_set_receive_offloads(struct net *net, u32 mask);

/*
 * Send frames. Returns how many were taken, from the first on; the memory is free again then.
 * Fewer than n means that the back end is full: stop, and go on at client->sendable(). A frame
 * that cannot be sent at all (link down, malformed) is taken, dropped and counted. Any thread, but
 * one at a time for a pair.
 */
u32 net_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n);
/* There are receive buffers again. Any thread. Cheap when nothing waits. */
void net_receive_resume(struct net *net, unsigned int pair);

/* Up: the back end has a carrier, and nobody has pulled the cable out. Any thread. */
bool net_link(const struct net *net);
/* For back ends: the carrier. Thread of net_loop(net, 0). */
void net_set_link(struct net *net, bool up);
/* Plug the cable in or out (monitor); the client hears of it on its own thread. Any thread. */
void net_plug(struct net *net, bool in);

struct net_stats {
	u64 tx_frames, tx_bytes, tx_dropped, rx_frames, rx_bytes, rx_dropped;
};
/* Any thread; a snapshot. */
void net_get_stats(const struct net *net, struct net_stats *stats);

/* ---- the kernel's own data path (vhost-net), for back ends that have it ---- */

/* A virtqueue in our address space: Virtio 1.3, section 2.7 (split), not in use by anybody. */
struct net_vring {
	u16 size, base; /* base: the index of the next available buffer */
	void *desc, *avail, *used;
	int kick_fd, call_fd; /* stay the caller's; open until net_vhost_stop() */
};

struct net_memory {
	u64 gpa, size;
	void *hva;
};

/* The virtio feature bits that the kernel can serve; 0: this link has no such path. */
u64 net_vhost_features(const struct net *net);
/* Before the first net_vhost_start(): all of guest memory. 0 or -errno. */
int net_vhost_set_memory(struct net *net, const struct net_memory *memory, unsigned int n);
/* Hand a pair's rings (0 receives, 1 sends) to the kernel; the client is not called any more for
 * this pair. Thread of net_loop(net, pair). 0, or -errno and nothing has changed. */
int net_vhost_start(struct net *net, unsigned int pair, u64 features,
		    const struct net_vring ring[2]);
/* Take them back: nothing is in flight any more, base[] is where each goes on. Any thread. */
void net_vhost_stop(struct net *net, unsigned int pair, u16 base[2]);

/* ---- MAC addresses ---- */

/* "52:54:00:12:34:56"; multicast addresses and zeros are refused. */
int net_mac_parse(const char *text, u8 mac[6]);
/* A locally administered address for the n-th card of a machine with this name (may be NULL): the
 * same each time. */
void net_mac_default(u8 mac[6], const char *machine, unsigned int n);

/* ---- links for tests ---- */

/* Two ends; what goes into one comes out of the other, on the loop of each end, through bounded
 * rings. Each is closed by its own net_close(). -ENOMEM. (The class "loopback" is one end that
 * hears itself.) */
int net_loopback_new(struct net *ends[2], struct loop *loop, unsigned int pairs, u32 caps);

/* Put a capture (pcap, with frames of both directions) above a link; the result owns `lower`. On
 * failure lower is still the caller's. */
int net_dump_new(struct net **out, struct net *lower, const char *path, struct err *err);

/* Put limits above a link, in the same way. */
int net_throttle_new(struct net **out, struct net *lower, const struct net_limits *limits,
		     struct err *err);

#endif
