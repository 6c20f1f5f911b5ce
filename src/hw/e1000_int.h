#ifndef HW_E1000_INT_H
#define HW_E1000_INT_H

#include "bus/pci.h"
#include "hw/e1000.h"
#include "hw/eeprom93_int.h"
#include "hw/nic_int.h"

#define E1000_BAR_SIZE 0x20000
#define E1000_IO_SIZE  64
#define E1000_MAC_REGS (0x6000 / 4) /* that have storage */
#define E1000_PHY_REGS 32
#define E1000_WINDOWS  11
#define E1000_DESC     16

enum { /* registers (SDM 13.3) */
       E_CTRL = 0x0000,
       E_STATUS = 0x0008,
       E_EECD = 0x0010,
       E_EERD = 0x0014,
       E_CTRL_EXT = 0x0018,
       E_MDIC = 0x0020,
       E_FCAL = 0x0028,
       E_FCAH = 0x002c,
       E_VET = 0x0038,
       E_ICR = 0x00c0,
       E_ITR = 0x00c4,
       E_ICS = 0x00c8,
       E_IMS = 0x00d0,
       E_IMC = 0x00d8,
       E_RCTL = 0x0100,
       E_FCTTV = 0x0170,
       E_TXCW = 0x0178,
       E_TCTL = 0x0400,
       E_TIPG = 0x0410,
       E_AIT = 0x0458,
       E_LEDCTL = 0x0e00,
       E_PBA = 0x1000,
       E_FCRTL = 0x2160,
       E_RDBAL = 0x2800,
       E_RDBAH = 0x2804,
       E_RDLEN = 0x2808,
       E_RDH = 0x2810,
       E_RDT = 0x2818,
       E_RDTR = 0x2820,
       E_RXDCTL = 0x2828,
       E_RADV = 0x282c,
       E_RSRPD = 0x2c00,
       E_TDBAL = 0x3800,
       E_TDBAH = 0x3804,
       E_TDLEN = 0x3808,
       E_TDH = 0x3810,
       E_TDT = 0x3818,
       E_TIDV = 0x3820,
       E_TXDCTL = 0x3828,
       E_TADV = 0x382c,
       E_TSPMT = 0x3830,
       E_STATS = 0x4000,
       E_MPC = 0x4010,
       E_GPRC = 0x4074,
       E_BPRC = 0x4078,
       E_MPRC = 0x407c,
       E_GPTC = 0x4080,
       E_GORC = 0x4088,
       E_GOTC = 0x4090,
       E_ROC = 0x40ac,
       E_TOR = 0x40c0,
       E_TOT = 0x40c8,
       E_TPR = 0x40d0,
       E_TPT = 0x40d4,
       E_MPTC = 0x40f0,
       E_BPTC = 0x40f4,
       E_TSCTC = 0x40f8,
       E_STATS_END = 0x4100,
       E_RXCSUM = 0x5000,
       E_MTA = 0x5200,
       E_RAL = 0x5400,
       E_VFTA = 0x5600,
       E_WUC = 0x5800,
       E_WUPM_END = 0x5b00,
};

enum { /* interrupt causes */
       IC_TXDW = 1 << 0,
       IC_TXQE = 1 << 1,
       IC_LSC = 1 << 2,
       IC_RXDMT0 = 1 << 4,
       IC_RXO = 1 << 6,
       IC_RXT0 = 1 << 7,
       IC_MDAC = 1 << 9,
       IC_ASSERTED = 1U << 31,
};
enum { CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, CTRL_VME = 1 << 30, CTRL_PHY_RST = 1U << 31 };
enum { STATUS_FD = 1 << 0, STATUS_LU = 1 << 1, STATUS_1000 = 1 << 7 };
enum {
	RCTL_EN = 1 << 1,
	RCTL_UPE = 1 << 3,
	RCTL_MPE = 1 << 4,
	RCTL_LPE = 1 << 5,
	RCTL_LOOP = 3 << 6,
	RCTL_BAM = 1 << 15,
	RCTL_VFE = 1 << 18,
	RCTL_BSEX = 1 << 25,
	RCTL_SECRC = 1 << 26,
};
enum { TCTL_EN = 1 << 1, TCTL_PSP = 1 << 3 };

/* What a context descriptor set up (SDM 3.3.6). */
struct e1000_context {
	u8 ip_start, ip_csum, l4_start, l4_csum;
	u16 ip_end, l4_end, mss;
	u8 header_len, command;
};

struct e1000;

struct e1000_window {
	struct pci_region region;
	struct e1000 *chip;
	u32 start;
};

struct e1000 {
	struct pci_device pci;
	struct e1000_window mmio[E1000_WINDOWS], io;
	struct net *net;
	u32 mac[E1000_MAC_REGS];
	u16 phy[E1000_PHY_REGS];
	struct eeprom93 eeprom;
	u32 io_address;
	u8 link_down;
	u8 rx_stalled; /* a frame was refused: there were too few descriptors */
	struct bus_timer throttle, kick;
	struct bus_timer late_timer;
	u32 late;	/* causes to come with the next one, or when late_timer fires */
	u32 late_descs; /* descriptors sent since a driver heard of any */
	u64 next_interrupt_ns, throttle_left_ns; /* the latter when saved */
	u32 heard, heard_bytes, said;		 /* frames and tails since INTA# rose last */
	u32 rest_frames;			 /* before it rises again, in a flood */
	u8 raised;				 /* INTA#, when saved */
	struct e1000_context csum_context, tso_context;
	u8 frame_command, frame_options; /* of the frame being gathered: first data descriptor */
	u8 frame_started;
	struct nic_tx tx;
	struct nic_bell bell; /* TDT */
	struct nic_mask mask; /* IMS and IMC */
	u8 scratch[NIC_RX_MAX];
};

static inline u32 *e1000_reg(struct e1000 *e, u32 at)
{
	return &e->mac[at / 4];
}

void e1000_raise(struct e1000 *e, u32 causes);
/* A transmit descriptor with IDE is done: within TIDV and TADV (SDM 13.4.44), or earlier with
 * another cause or when half of the ring is done. */
void e1000_raise_late(struct e1000 *e, u32 causes);
/* A frame is in memory. */
void e1000_raise_received(struct e1000 *e, u32 causes);
void e1000_dma_failed(struct e1000 *e);
/* Add to a statistics register; they stick at the top. bytes: a pair of registers. */
void e1000_count(struct e1000 *e, u32 at);
void e1000_count_bytes(struct e1000 *e, u32 at, u32 n);

void e1000_tx_run(struct e1000 *e);
void e1000_tx_reset(struct e1000 *e);

bool e1000_rx_frame(struct e1000 *e, const struct net_frame *frame);
/* One that was sent, in a loop-back: it never touches the wire. */
void e1000_rx_looped(struct e1000 *e, const struct net_frame *frame);
void e1000_rx_resume(struct e1000 *e);

/* PHY and EEPROM. */
void e1000_phy_reset(struct e1000 *e);
/* What is sent comes back, and nothing else comes. */
bool e1000_phy_looped(const struct e1000 *e);
void e1000_mdic_write(struct e1000 *e, u32 value);
void e1000_eecd_write(struct e1000 *e, u32 value);
u32 e1000_eecd_read(const struct e1000 *e);
void e1000_eerd_write(struct e1000 *e, u32 value);
void e1000_eeprom_fill(struct e1000 *e, const u8 *mac);

#endif
