/*
 * What emulated network cards share: sending a frame with the work a driver left to the card, and
 * looking at what came in. With the bus lock held.
 */
#ifndef HW_NIC_INT_H
#define HW_NIC_INT_H

#include "base/types.h"
#include "bus/bus.h"
#include "net/net.h"

#define NIC_TX_MAX     (64 * KiB + 60) /* with segmentation; without room for a VLAN tag */
#define NIC_RX_MAX     16384
#define NIC_HEADER_MAX 256
#define NIC_MIN_FRAME  60 /* without checksum */
#define NIC_CRC_LEN    4
#define NIC_MAC_LEN    6
#define NIC_VLAN_LEN   4

/* The checksum at the end of an Ethernet frame (IEEE 802.3, 3.2.9). */
u32 nic_crc32(const void *data, size_t len);
/* The 6 bits that select the bit of a multicast filter: from the top of the CRC, unreflected. */
u32 nic_multicast_hash(const u8 mac[NIC_MAC_LEN]);

/* ---- sending ---- */

/* What the driver asked for. Positions count from the start of the frame; they come from the guest
 * and are checked here. */
struct nic_offload {
	bool ip_csum; /* put the checksum of [ip_start, ip_end) at ip_csum_at */
	bool l4_csum; /* the sum of [l4_start, end) goes to l4_csum_at, which holds that of
			 the pseudo header */
	bool segment; /* TCP: cut what follows header_len into parts of mss bytes */
	bool v6;
	bool vlan; /* insert vlan_tag */
	u16 ip_start, ip_csum_at, ip_end, l4_start, l4_csum_at;
	u16 header_len, mss, vlan_tag;
};

struct nic_tx {
	struct net *net;
	u8 buf[NIC_TX_MAX + NIC_VLAN_LEN];
	u32 len;
	bool too_long; /* the frame did not fit: it is dropped at its end */
	bool busy;     /* buf goes out as the link takes it */
	u64 bytes;     /* of all frames sent, before segmentation */
	/* while busy */
	bool segmenting;
	struct nic_offload work;
	struct net_offload left;
	u32 at;	  /* next byte of the payload to cut */
	u16 part; /* number of segments cut */
};

/* Add bytes of the frame that is being gathered; at most NIC_TX_MAX in all. The place for len bytes
 * in buf, or NULL: too long. */
u8 *nic_tx_room(struct nic_tx *tx, u32 len);
/*
 * Send what was gathered. False: the link is full; the rest goes at nic_tx_resume(), and nothing
 * may be gathered before that has returned true.
 */
bool nic_tx_send(struct nic_tx *tx, const struct nic_offload *offload);
bool nic_tx_resume(struct nic_tx *tx);
/* Of how many frames that is, cut as asked. */
u32 nic_tx_frames(const struct nic_tx *tx, const struct nic_offload *offload);
/* Throw away what is gathered or waits. */
void nic_tx_clear(struct nic_tx *tx);

/* ---- the register that starts sending ---- */

/*
 * Each write to it exits, and its frame goes at once. While a stream runs, writes are queued
 * instead (BUS_COALESCED), and a timer looks for them every 80 us. A stream is more than 12,000
 * writes or 48 MB a second, for 8 ms, with few frames coming back; so requests that wait for an
 * answer never wait for the timer. Switching may be slow on some hosts: it is given a hundredth of
 * the time.
 */
struct nic_bell {
	struct bus *bus;
	struct bus_range *range;
	struct bus_timer timer;
	u64 window_ns, window_bytes, bytes;
	u32 rings, frames; /* in this window */
	u32 run;	   /* windows in a row that were, or were not, of a stream */
	bool stream;
	u64 switch_ns; /* not before */
};

/* The range, of class BUS_TRAP, holds this register only. */
void nic_bell_init(struct nic_bell *bell, struct bus *bus, struct bus_range *range);
void nic_bell_free(struct nic_bell *bell);
/* It was written; bytes as in struct nic_tx. */
void nic_bell_rung(struct nic_bell *bell, u64 bytes);
/* So many frames have come. */
static inline void nic_bell_heard(struct nic_bell *bell, u32 frames)
{
	bell->frames += frames;
}

/* ---- the register that masks interrupts ---- */

/*
 * Writes to it are queued (BUS_COALESCED). Most drivers push them out with a read. For one that
 * does not, a timer looks whether it was lifted, after 1 ms, 2, 4 and so on, while there are causes
 * and it hides them all.
 */
struct nic_mask {
	struct bus_timer timer;
	u64 wait_ns;
	bool shut;
};

void nic_mask_init(struct nic_mask *mask, struct bus *bus);
void nic_mask_free(struct nic_mask *mask);
/* shut: there are causes, and none of them may interrupt. */
void nic_mask_set(struct nic_mask *mask, bool shut);

/* ---- receiving ---- */

/* A frame in one piece, at least NIC_MIN_FRAME long: in place or in scratch (NIC_RX_MAX bytes).
 * NULL when it is too long for any card. */
const u8 *nic_rx_linear(const struct net_frame *frame, u8 *scratch, u32 *len);

struct nic_rx_sums {
	bool v4, v4_good; /* an IPv4 header, and its checksum */
	u8 protocol;	  /* 6 TCP, 17 UDP: its checksum was looked at; 0 otherwise */
	bool l4_good;
};

/* Look at an untagged frame. Fragments and short packets have no protocol. */
void nic_rx_check(const u8 *frame, u32 len, struct nic_rx_sums *sums);

#endif
