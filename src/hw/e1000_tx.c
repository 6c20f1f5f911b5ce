/*
 * Invariants:
 * 1. A run looks at TX_BUDGET descriptors at most and then comes back through the loop.
 * 2. The head only moves towards a tail that lies inside of the ring: with a tail outside nothing
 *    is fetched, as the head would go round for ever (CVE-2015-6815).
 * 3. While tx.busy nothing is fetched. A descriptor is given back when its bytes have been copied.
 *
 * SDM 3.3 and 3.4.
 */
#include <string.h>

#include "base/endian.h"
#include "hw/e1000_int.h"
#include "os/clock.h"

#define TX_BUDGET 256

enum { /* command byte of any descriptor */
       CMD_EOP = 0x01,
       CMD_IC = 0x04, /* of the old format: insert a checksum */
       CMD_TSE = 0x04,
       CMD_RS = 0x08,
       CMD_DEXT = 0x20,
       CMD_VLE = 0x40,
       CMD_IDE = 0x80, /* the interrupt may be delayed */
};
enum { OPT_IP_CSUM = 0x01, OPT_L4_CSUM = 0x02 };
enum { CONTEXT_IP4 = 0x02, CONTEXT_TCP = 0x01 };
enum { STATUS_DD = 0x01 };

static bool gather(struct e1000 *e, u64 addr, u32 len)
{
	u8 *p = nic_tx_room(&e->tx, len);

	if (!p || !mem_read(bus_mem(e->pci.dev.bus), addr, p, len))
		return true;
	e1000_dma_failed(e);
	e->tx.too_long = true; /* drop it at its end */
	return false;
}

static void read_context(struct e1000 *e, const u8 *d)
{
	struct e1000_context c = {
		.ip_start = d[0],
		.ip_csum = d[1],
		.ip_end = load_le16(d + 2),
		.l4_start = d[4],
		.l4_csum = d[5],
		.l4_end = load_le16(d + 6),
		.command = d[11],
		.header_len = d[13],
		.mss = load_le16(d + 14),
	};

	if (c.command & CMD_TSE)
		e->tso_context = c;
	else
		e->csum_context = c;
}

/* What the frame's descriptors and the context say, for the common code. */
static void plan(const struct e1000 *e, struct nic_offload *o)
{
	bool segment = e->frame_command & CMD_TSE;
	const struct e1000_context *c = segment ? &e->tso_context : &e->csum_context;

	o->segment = segment && (c->command & CONTEXT_TCP);
	o->v6 = !(c->command & CONTEXT_IP4);
	o->ip_csum = e->frame_options & OPT_IP_CSUM;
	o->l4_csum = e->frame_options & OPT_L4_CSUM;
	o->ip_start = c->ip_start;
	o->ip_csum_at = c->ip_csum;
	o->ip_end = c->ip_end ? c->ip_end + (c->ip_end != 0xffff) : 0;
	o->l4_start = c->l4_start;
	o->l4_csum_at = c->l4_csum;
	o->header_len = c->header_len;
	o->mss = c->mss;
}

/* What goes over the wire: of a segmented frame, each segment. */
static void count_frame(struct e1000 *e, const struct nic_offload *o)
{
	const u8 *mac = e->tx.buf;
	bool group = mac[0] & 1, all = group && load_le32(mac) == 0xffffffff;
	u32 frames = nic_tx_frames(&e->tx, o), again = frames - 1; /* headers sent again */
	u32 bytes = e->tx.len + again * o->header_len +
		    frames * (NIC_CRC_LEN + (o->vlan ? NIC_VLAN_LEN : 0));

	for (u32 i = 0; i < frames; i++) {
		e1000_count(e, E_TPT);
		e1000_count(e, E_GPTC);
		if (group)
			e1000_count(e, all ? E_BPTC : E_MPTC);
	}
	e1000_count_bytes(e, E_TOT, bytes);
	e1000_count_bytes(e, E_GOTC, bytes);
}

static void pad(struct e1000 *e)
{
	u32 need = e->tx.len < NIC_MIN_FRAME ? NIC_MIN_FRAME - e->tx.len : 0;
	u8 *p;

	if (!need || !(*e1000_reg(e, E_TCTL) & TCTL_PSP) || e->tx.len < NET_MIN_FRAME)
		return;
	p = nic_tx_room(&e->tx, need);
	if (p)
		memset(p, 0, need);
}

static void send_frame(struct e1000 *e, const struct nic_offload *o)
{
	struct iovec iov = {e->tx.buf, 0};
	struct net_frame frame = {.iov = &iov, .niov = 1};

	e->frame_started = false;
	pad(e);
	if (!e->tx.too_long && e->tx.len >= NET_MIN_FRAME)
		count_frame(e, o);
	if (o->segment)
		e1000_count(e, E_TSCTC);
	if (!(*e1000_reg(e, E_RCTL) & RCTL_LOOP) && !e1000_phy_looped(e)) {
		nic_tx_send(&e->tx, o);
		return;
	}
	/* Into memory only: nothing that is received can send. */
	frame.len = (u32)(iov.iov_len = e->tx.len);
	if (!e->tx.too_long && frame.len >= NET_MIN_FRAME)
		e1000_rx_looped(e, &frame);
	nic_tx_clear(&e->tx);
}

/* Old format (SDM 3.3.3): its checksum runs from css to the end. */
static void run_legacy(struct e1000 *e, const u8 *d)
{
	u8 command = d[11];
	struct nic_offload o = {
		.l4_csum = command & CMD_IC,
		.l4_start = d[13],
		.l4_csum_at = d[10],
		.vlan = (command & CMD_VLE) && (*e1000_reg(e, E_CTRL) & CTRL_VME),
		.vlan_tag = load_le16(d + 14),
	};

	gather(e, load_le64(d), load_le16(d + 8));
	if (command & CMD_EOP)
		send_frame(e, &o);
}

/* Data descriptor (SDM 3.3.7): options count in the first one of a frame. */
static void run_data(struct e1000 *e, const u8 *d)
{
	struct nic_offload o = {.segment = false};
	u8 command = d[11];

	if (!e->frame_started) {
		e->frame_started = true;
		e->frame_command = command;
		e->frame_options = d[13];
	}
	gather(e, load_le64(d), load_le32(d + 8) & 0xfffff);
	if (!(command & CMD_EOP))
		return;
	plan(e, &o);
	o.vlan = (command & CMD_VLE) && (*e1000_reg(e, E_CTRL) & CTRL_VME);
	o.vlan_tag = load_le16(d + 14);
	send_frame(e, &o);
}

/* One descriptor; false when it cannot be fetched. */
static bool run_descriptor(struct e1000 *e, u64 at)
{
	struct guest_mem *mem = bus_mem(e->pci.dev.bus);
	u8 d[E1000_DESC], status;

	if (mem_read(mem, at, d, sizeof(d))) {
		e1000_dma_failed(e);
		return false;
	}
	if (!(d[11] & CMD_DEXT))
		run_legacy(e, d);
	else if ((d[10] >> 4) == 0)
		read_context(e, d);
	else
		run_data(e, d);
	if (!(d[11] & CMD_RS))
		return true;
	status = d[12] | STATUS_DD;
	mem_write(mem, at + 12, &status, 1);
	if (d[11] & CMD_IDE)
		e1000_raise_late(e, IC_TXDW);
	else
		e1000_raise(e, IC_TXDW);
	return true;
}

void e1000_tx_run(struct e1000 *e)
{
	u32 count = *e1000_reg(e, E_TDLEN) / E1000_DESC, tail = *e1000_reg(e, E_TDT);
	u32 *head = e1000_reg(e, E_TDH);
	u64 ring = *e1000_reg(e, E_TDBAL) | (u64)*e1000_reg(e, E_TDBAH) << 32;

	if (!(*e1000_reg(e, E_TCTL) & TCTL_EN) || !pci_bus_master(&e->pci) ||
	    !nic_tx_resume(&e->tx) || tail >= count || *head >= count || *head == tail)
		return;
	for (int i = 0; i < TX_BUDGET && *head != tail && !e->tx.busy; i++) {
		if (!run_descriptor(e, ring + (u64)*head * E1000_DESC))
			return;
		*head = *head + 1 == count ? 0 : *head + 1;
		e->late_descs++;
	}
	if (*head == tail)
		e1000_raise(e, IC_TXQE);
	else if (!e->tx.busy)
		bus_timer_arm(&e->kick, clock_now_ns());
}

void e1000_tx_reset(struct e1000 *e)
{
	nic_tx_clear(&e->tx);
	e->frame_started = false;
	memset(&e->csum_context, 0, sizeof(e->csum_context));
	memset(&e->tso_context, 0, sizeof(e->tso_context));
}
