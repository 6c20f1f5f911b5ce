/* The other end of a network card's link, and frames to send it. */
#ifndef TESTS_DEVICE_NIC_H
#define TESTS_DEVICE_NIC_H

#include "device/harness.h"

#include "net/net.h"

#define NIC_FRAMES 512

struct nic_far_frame {
	u8 data[NET_MAX_FRAME];
	u32 len;
	struct net_offload offload;
};

struct nic_link {
	struct net *near, *far; /* near: for the card */
	struct nic_far_frame *frames;
	u32 received, room; /* room: frames taken before the far end refuses */
	u32 queued;	    /* of the frames sent towards the card, not taken by the link */
};

/* A loop-back link on the harness's loop; caps: what its ends accept unfinished. */
void nic_link_open(struct nic_link *l, struct harness *h, u32 caps);
/* Stop the link and free the harness's devices, then the link. */
void nic_link_close(struct nic_link *l, struct harness *h);

/* Send a frame towards the card and let the loop run; false when the link is full. */
bool nic_link_send(struct nic_link *l, struct harness *h, const void *data, u32 len);
/* The n-th frame that arrived at the far end. */
const struct nic_far_frame *nic_link_frame(struct nic_link *l, u32 n);

/* Build a frame: 14 bytes of Ethernet from src to dst, `type`, and len - 14 bytes that follow from
 * seed. */
void nic_make_frame(u8 *frame, const u8 *dst, u16 type, u32 len, u32 seed);
/* An IPv4 or IPv6 packet with a TCP or UDP header and payload bytes; checksums right when `good`.
 * Returns the length of the frame. */
u32 nic_make_packet(u8 *frame, const u8 *dst, bool v6, u8 protocol, u32 payload, bool good);
/* The test's own check of a packet's checksums, without the card's code. */
bool nic_packet_good(const u8 *frame, u32 len);

extern const u8 nic_mac[6], nic_far_mac[6];

#endif
