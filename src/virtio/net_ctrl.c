/*
 * The card's control queue (section 5.1.6.5) and the filter that it sets. Commands run with the bus
 * lock; the filter has a lock of its own, as the owners of receive queues read it.
 */
#include <linux/virtio_net.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "virtio/net_int.h"

#define MAX_COMMAND (2 + 8 + 2 * 1024 * 6) /* tables of MAC addresses; longer ones are refused */

/* ---- the filter ---- */

void net_filter_reset(struct net_card_device *card)
{
	lock_acquire(&card->lock);
	memset(&card->filter, 0, sizeof(card->filter));
	memcpy(card->filter.mac, card->mac, 6);
	/* 5.1.6.5.1: what a driver that cannot choose expects; one with CTRL_RX turns it off. */
	card->filter.promisc = true;
	lock_release(&card->lock);
}

static bool in_table(const u8 (*table)[6], u32 n, const u8 *mac)
{
	for (u32 i = 0; i < n; i++)
		if (!memcmp(table[i], mac, 6))
			return true;
	return false;
}

static bool wants_address(const struct net_filter *f, const u8 *mac)
{
	static const u8 broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (f->promisc)
		return true;
	if (!memcmp(mac, broadcast, 6))
		return !f->nobcast;
	if (mac[0] & 1)
		return !f->nomulti &&
		       (f->allmulti || f->multi_overflow || in_table(f->multi, f->nmulti, mac));
	return !f->nouni && (f->alluni || f->uni_overflow || !memcmp(mac, f->mac, 6) ||
			     in_table(f->uni, f->nuni, mac));
}

bool net_filter_wants(struct net_card_device *card, const u8 *head, u32 len)
{
	const struct net_filter *f = &card->filter;
	bool wants;

	if (len < NET_MIN_FRAME)
		return false;
	lock_acquire(&card->lock);
	wants = wants_address(f, head);
	if (wants && f->vlans_used && !f->promisc && len >= 16 && load_be16(head + 12) == 0x8100)
		wants = bitmap_test(f->vlan, load_be16(head + 14) & 0xfff);
	lock_release(&card->lock);
	return wants;
}

/* ---- commands: each gets its data and answers whether it was legal ---- */

static bool set_rx_mode(struct net_card_device *card, u8 command, const u8 *data, u32 len)
{
	struct net_filter *f = &card->filter;
	bool *const mode[] = {&f->promisc, &f->allmulti, &f->alluni,
			      &f->nomulti, &f->nouni,	 &f->nobcast};

	if (command >= ARRAY_SIZE(mode) || len != 1)
		return false;
	*mode[command] = data[0];
	return true;
}

/* One of the two tables: a count, then addresses. Returns its length in bytes, 0 when illegal. */
static u32 read_table(const u8 *data, u32 len, u8 (*table)[6], u32 *n, bool *overflow)
{
	u32 count;

	if (len < 4)
		return 0;
	count = load_le32(data);
	if (count > (len - 4) / 6)
		return 0;
	*overflow = count > NET_MAC_TABLE;
	*n = *overflow ? 0 : count;
	memcpy(table, data + 4, (size_t)*n * 6);
	return 4 + count * 6;
}

static bool set_mac(struct net_card_device *card, u8 command, const u8 *data, u32 len)
{
	struct net_filter *f = &card->filter, new = *f;
	u32 used;

	switch (command) {
	case VIRTIO_NET_CTRL_MAC_TABLE_SET:
		used = read_table(data, len, new.uni, &new.nuni, &new.uni_overflow);
		if (!used || read_table(data + used, len - used, new.multi, &new.nmulti,
					&new.multi_overflow) != len - used)
			return false;
		*f = new;
		return true;
	case VIRTIO_NET_CTRL_MAC_ADDR_SET:
		if (len != 6 || !virtio_has(&card->dev, VIRTIO_NET_F_CTRL_MAC_ADDR))
			return false;
		memcpy(f->mac, data, 6);
		memcpy(card->dev.config, data, 6);
		return true;
	default:
		return false;
	}
}

static bool set_vlan(struct net_card_device *card, u8 command, const u8 *data, u32 len)
{
	struct net_filter *f = &card->filter;
	u16 id;

	if (len != 2 || command > VIRTIO_NET_CTRL_VLAN_DEL)
		return false;
	id = load_le16(data);
	if (id > 4095)
		return false;
	f->vlans_used = true;
	if (command == VIRTIO_NET_CTRL_VLAN_ADD)
		bitmap_set(f->vlan, id);
	else
		bitmap_clear(f->vlan, id);
	return true;
}

static bool acknowledge_announce(struct net_card_device *card, u8 command)
{
	u8 *status = card->dev.config + 6;

	if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
		return false;
	store_le16(status, load_le16(status) & (u16)~VIRTIO_NET_S_ANNOUNCE);
	return true;
}

static bool set_pairs(struct net_card_device *card, u8 command, const u8 *data, u32 len)
{
	u16 n;

	if (command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || len != 2 ||
	    !virtio_has(&card->dev, VIRTIO_NET_F_MQ))
		return false;
	n = load_le16(data);
	if (n < 1 || n > card->pairs)
		return false;
	__atomic_store_n(&card->active_pairs, n, __ATOMIC_RELAXED);
	net_set_pairs(card->net, n);
	net_vhost_update(card);
	return true;
}

static bool set_offloads(struct net_card_device *card, u8 command, const u8 *data, u32 len)
{
	u64 want;

	if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || len != 8 ||
	    !virtio_has(&card->dev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
		return false;
	want = load_le64(data);
	if (want & ~card->dev.features)
		return false;
	__atomic_store_n(&card->receive_mask, net_guest_offloads(want), __ATOMIC_RELAXED);
	net_set_receive_offloads(card->net, card->receive_mask);
	return true;
}

static bool run(struct net_card_device *card, const u8 *command, u32 len)
{
	const u8 *data = command + 2;
	bool ok;

	if (len < 2)
		return false;
	len -= 2;
	switch (command[0]) {
	case VIRTIO_NET_CTRL_RX:
	case VIRTIO_NET_CTRL_MAC:
	case VIRTIO_NET_CTRL_VLAN:
		lock_acquire(&card->lock);
		ok = command[0] == VIRTIO_NET_CTRL_RX	 ? set_rx_mode(card, command[1], data, len)
		     : command[0] == VIRTIO_NET_CTRL_MAC ? set_mac(card, command[1], data, len)
							 : set_vlan(card, command[1], data, len);
		lock_release(&card->lock);
		return ok;
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return acknowledge_announce(card, command[1]);
	case VIRTIO_NET_CTRL_MQ:
		return set_pairs(card, command[1], data, len);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return set_offloads(card, command[1], data, len);
	default:
		return false;
	}
}

static void answer(struct net_card_device *card, struct virtq *vq, struct virtq_chain *chain)
{
	u8 command[MAX_COMMAND], ack = VIRTIO_NET_ERR;

	if (chain->out_len <= sizeof(command) && chain->in_len) {
		iov_to_buf(chain->out, chain->nout, 0, command, chain->out_len);
		if (run(card, command, chain->out_len))
			ack = VIRTIO_NET_OK;
	}
	virtq_push(vq, chain, (u32)iov_from_buf(chain->in, chain->nin, 0, &ack, 1));
}

void net_ctrl_kick(struct virtio_queue *queue)
{
	struct net_card_device *card = net_card_of(queue->dev);
	struct virtq *vq = &queue->vq;
	struct virtq_chain *chain;
	int left = 2 * vq->max_size;

	do {
		while (left && (chain = virtq_pop(vq))) {
			answer(card, vq, chain);
			left--;
		}
		virtq_flush(vq);
	} while (left && virtq_notify_enable(vq));
	if (!left)
		virtio_queue_poke(queue);
}
