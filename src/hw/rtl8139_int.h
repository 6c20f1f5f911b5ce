#ifndef HW_RTL8139_INT_H
#define HW_RTL8139_INT_H

#include "bus/pci.h"
#include "hw/eeprom93_int.h"
#include "hw/nic_int.h"
#include "hw/rtl8139.h"

#define RTL_REGS     256
#define RTL_TX_SLOTS 4	/* of the old mode */
#define RTL_WINDOWS  11 /* parts of a BAR with a class of their own */

enum { /* registers, by offset */
       R_IDR = 0x00,
       R_MAR = 0x08,
       R_TSD = 0x10,
       R_DTCCR = 0x10, /* in C+ mode */
       R_TSAD = 0x20,
       R_TNPDS = 0x20, /* in C+ mode */
       R_THPDS = 0x28,
       R_RBSTART = 0x30,
       R_ERBCR = 0x34,
       R_ERSR = 0x36,
       R_CR = 0x37,
       R_CAPR = 0x38,
       R_CBR = 0x3a,
       R_IMR = 0x3c,
       R_ISR = 0x3e,
       R_TCR = 0x40,
       R_RCR = 0x44,
       R_TCTR = 0x48,
       R_MPC = 0x4c,
       R_9346CR = 0x50,
       R_CONFIG0 = 0x51,
       R_CONFIG1 = 0x52,
       R_TIMERINT = 0x54,
       R_MSR = 0x58,
       R_CONFIG3 = 0x59,
       R_CONFIG4 = 0x5a,
       R_MULINT = 0x5c,
       R_TSAD_ALL = 0x60,
       R_BMCR = 0x62,
       R_BMSR = 0x64,
       R_ANAR = 0x66,
       R_ANLPAR = 0x68,
       R_ANER = 0x6a,
       R_CSCR = 0x74,
       R_CONFIG5 = 0xd8,
       R_TPPOLL = 0xd9,
       R_CPCR = 0xe0,
       R_RDSAR = 0xe4,
       R_ETTHR = 0xec,
};

enum { CR_BUFE = 0x01, CR_TE = 0x04, CR_RE = 0x08, CR_RST = 0x10 };
enum { /* interrupts */
       I_ROK = 1 << 0,
       I_RER = 1 << 1,
       I_TOK = 1 << 2,
       I_TER = 1 << 3,
       I_RX_OVERFLOW = 1 << 4, /* C+: no receive descriptor */
       I_LINK = 1 << 5,
       I_FIFO = 1 << 6,
       I_TDU = 1 << 7, /* C+: no transmit descriptor */
       I_SW = 1 << 8,
       I_TIMER = 1 << 14,
       I_SERR = 1 << 15,
};
enum { CP_TX = 1 << 0, CP_RX = 1 << 1, CP_RX_CSUM = 1 << 5, CP_RX_VLAN = 1 << 6 };
enum { TSD_SIZE = 0x1fff, TSD_OWN = 1 << 13, TSD_TOK = 1 << 15 };
enum { TCR_LOOP = 3 << 17 };
enum { /* receive configuration */
       RCR_ALL = 1 << 0,
       RCR_MATCH = 1 << 1,
       RCR_MULTICAST = 1 << 2,
       RCR_BROADCAST = 1 << 3,
       RCR_WRAP = 1 << 7,
       RCR_LENGTH_SHIFT = 11,
};

/* The counters that the chip dumps into memory. */
struct rtl_tally {
	u64 tx_ok, rx_ok, tx_error;
	u32 rx_error;
	u16 rx_missed;
	u64 rx_unicast, rx_broadcast;
	u32 rx_multicast;
	u16 tx_abort;
};

struct rtl8139;

struct rtl_window {
	struct pci_region region;
	struct rtl8139 *chip;
	u32 start;
};

struct rtl8139 {
	struct pci_device pci;
	struct rtl_window mmio[RTL_WINDOWS], pio[RTL_WINDOWS];
	struct net *net;
	bool plain;
	struct eeprom93 eeprom;
	u8 idr[6], mar[8];
	u32 tsd[RTL_TX_SLOTS], tsad[RTL_TX_SLOTS]; /* tsad: C+ ring addresses, too */
	u32 rbstart, tcr, rcr, timer_int;
	u16 capr, cbr, imr, isr, cpcr;
	u8 cr, cr9346, config[6], tppoll, etthr;
	u16 bmcr, anar, mulint;
	u32 dtccr[2], rdsar[2];
	u8 tx_slot;		 /* old mode: the next to send */
	u16 tx_desc[2], rx_desc; /* C+: index of the next; tx_desc[1]: high priority */
	u8 link_down;
	u64 timer_start_ns;
	struct rtl_tally tally;
	struct bus_timer timer, kick, late_timer, rest_timer;
	u64 next_frame_ns; /* when the next frame may interrupt by itself */
	u16 late;	   /* causes of isr to come with the next one, or when late_timer fires */
	u8 unheeded;	   /* reads of a status that did not change, up to a bound */
	u8 late_descs;	   /* slots or descriptors sent, of which late tells */
	u64 late_ns;	   /* when late_timer fires */
	u8 rx_stalled;	   /* a frame was refused: there was no buffer */
	struct nic_tx tx;
	struct nic_bell bell; /* TPPoll of C+ mode */
	struct nic_mask mask; /* IMR */
	u8 scratch[NIC_RX_MAX];
};

void rtl_raise(struct rtl8139 *r, u16 causes);
/* What a wire would have taken its time to do: soon, with what comes before, or once so much is
 * sent that the driver may be waiting for room in its ring or, in the old mode, its slots. */
void rtl_raise_sent(struct rtl8139 *r, u16 causes, bool ring);
/* A frame has been received: now, or with others when the last one was just now. */
void rtl_raise_received(struct rtl8139 *r);
/* The guest reads the status register, which holds all causes then. */
void rtl_status_read(struct rtl8139 *r);
/* It has changed the status or the mask. */
void rtl_heeded(struct rtl8139 *r);
void rtl_update_irq(struct rtl8139 *r);
void rtl_irq_init(struct rtl8139 *r);
void rtl_irq_reset(struct rtl8139 *r);
/* The memory that the guest named is not RAM, or may not be used. */
void rtl_dma_failed(struct rtl8139 *r);

/* Send what can be sent now: the old mode's slots, or the rings. */
void rtl_tx_run(struct rtl8139 *r);
void rtl_tx_reset(struct rtl8139 *r);

/* Take a frame: true when it is dealt with, false when it must wait. */
bool rtl_rx_frame(struct rtl8139 *r, const struct net_frame *frame);
bool rtl_rx_buffer_empty(const struct rtl8139 *r);
/* Buffers may be there again: let the link go on. */
void rtl_rx_resume(struct rtl8139 *r);

#endif
