/* The card's structure: its data path (net.c) and its control queue (net_ctrl.c). */
#ifndef VIRTIO_NET_INT_H
#define VIRTIO_NET_INT_H

#include "net/net.h"
#include "os/lock.h"
#include "virtio/virtio.h"

#define NET_MAC_TABLE 64 /* addresses of each kind; more means all */

/* Which frames the guest wants; guarded by net_card.lock, as the owners of queues read it. */
struct net_filter {
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	bool uni_overflow, multi_overflow;
	u8 mac[6];
	u32 nuni, nmulti;
	u8 uni[NET_MAC_TABLE][6], multi[NET_MAC_TABLE][6];
	bool vlans_used;
	u64 vlan[4096 / 64];
};

struct net_pair {
	struct virtio_queue *rx, *tx;
	bool kernel;		 /* vhost has the rings */
	bool tx_full;		 /* the link took too few: wait for sendable() */
	u64 filtered, malformed; /* atomic for readers */
};

struct net_card_device {
	struct virtio_device dev;
	struct net *net;
	struct lock lock;
	struct net_filter filter;
	u8 mac[6]; /* as given */
	unsigned int pairs, active_pairs;
	struct net_pair pair[NET_MAX_PAIRS];
	u32 receive_mask; /* NET_CSUM | ...: what the driver takes unfinished; atomic */
	u32 send_mask;	  /* what it may leave unfinished */
	struct loop_work link_work;
	bool vhost, memory_set; /* vhost may take rings; it knows guest memory */
	struct loop_work vhost_work;
};

static inline struct net_card_device *net_card_of(struct virtio_device *dev)
{
	return container_of(dev, struct net_card_device, dev);
}

/* net_vhost.c; with the bus lock. init() narrows what is offered. */
void net_vhost_init(struct net_card_device *card);
/* Something changed that decides who has the rings. */
void net_vhost_update(struct net_card_device *card);
/* Take all rings back, now. */
void net_vhost_rest(struct net_card_device *card);
void net_vhost_queue_stop(struct virtio_queue *queue);
void net_vhost_free(struct net_card_device *card);

/* net_ctrl.c */
void net_filter_reset(struct net_card_device *card);
/* Does the guest want a frame that begins with these (at least 14, better 18) bytes? */
bool net_filter_wants(struct net_card_device *card, const u8 *head, u32 len);
void net_ctrl_kick(struct virtio_queue *queue);
/* The NET_ bits of the driver's GUEST_ features. */
u32 net_guest_offloads(u64 features);
void net_set_status_bit(struct net_card_device *card, u16 bit, bool on);

#endif
