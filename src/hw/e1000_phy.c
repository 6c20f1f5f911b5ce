/* The PHY (Marvell 88E1011, IEEE 802.3 clause 22 registers) and the EEPROM (SDM 5.6 and 13.4.3). */
#include <string.h>

#include "base/endian.h"
#include "hw/e1000_int.h"

enum { /* MII registers */
       PHY_CTRL = 0,
       PHY_STATUS = 1,
       PHY_ID1 = 2,
       PHY_ID2 = 3,
       PHY_AN_ADV = 4,
       PHY_LP_ABILITY = 5,
       PHY_AN_EXP = 6,
       PHY_1000_CTRL = 9,
       PHY_1000_STATUS = 10,
       PHY_EXT_STATUS = 15,
       PHY_SPEC_CTRL = 16,
       PHY_SPEC_STATUS = 17,
       PHY_EXT_SPEC_CTRL = 20,
};
enum {
	PHY_CTRL_RESTART = 0x0200,
	PHY_CTRL_LOOP = 0x4000,
	PHY_CTRL_RESET = 0x8000,
	PHY_CTRL_DEFAULT = 0x1140
};
enum { PHY_STATUS_LINK = 0x0004, PHY_STATUS_DONE = 0x0020, PHY_STATUS_FIXED = 0x7949 };
enum { SPEC_STATUS_LINK = 0xac00 /* 1000 Mb/s, full duplex, resolved, up */ };

enum {
	MDIC_REG_SHIFT = 16,
	MDIC_PHY_SHIFT = 21,
	MDIC_OP_SHIFT = 26,
	MDIC_READY = 1 << 28,
	MDIC_INTERRUPT = 1 << 29,
	MDIC_ERROR = 1 << 30,
	MDIC_WRITE = 1,
	MDIC_READ = 2,
	MDIC_ADDRESS = 1,
};

enum {
	EECD_SK = 1 << 0,
	EECD_CS = 1 << 1,
	EECD_DI = 1 << 2,
	EECD_DO = 1 << 3,
	EECD_FWE = 3 << 4,
	EECD_REQ = 1 << 6,
	EECD_GNT = 1 << 7,
	EECD_PRES = 1 << 8,
};
enum { EERD_START = 1 << 0, EERD_DONE = 1 << 4 };
#define EEPROM_SUM 0xbaba /* of all 64 words */

void e1000_phy_reset(struct e1000 *e)
{
	memset(e->phy, 0, sizeof(e->phy));
	e->phy[PHY_CTRL] = PHY_CTRL_DEFAULT;
	e->phy[PHY_ID1] = 0x0141;
	e->phy[PHY_ID2] = 0x0c20;
	e->phy[PHY_AN_ADV] = 0x0de1;
	e->phy[PHY_1000_CTRL] = 0x0e00;
	e->phy[PHY_EXT_STATUS] = 0x3000;
	e->phy[PHY_SPEC_CTRL] = 0x0360;
	e->phy[PHY_EXT_SPEC_CTRL] = 0x0d60;
}

bool e1000_phy_looped(const struct e1000 *e)
{
	return e->phy[PHY_CTRL] & PHY_CTRL_LOOP;
}

static u16 phy_read(const struct e1000 *e, u32 reg)
{
	bool link = !e->link_down;

	switch (reg) {
	case PHY_STATUS:
		return PHY_STATUS_FIXED | (link ? PHY_STATUS_LINK | PHY_STATUS_DONE : 0);
	case PHY_LP_ABILITY:
		return link ? 0xcde1 : 0;
	case PHY_AN_EXP:
		return link ? 0x000f : 0x0004;
	case PHY_1000_STATUS:
		return link ? 0x3c00 : 0;
	case PHY_SPEC_STATUS:
		return link ? SPEC_STATUS_LINK : 0;
	default:
		return e->phy[reg];
	}
}

/* Negotiation takes no time; its end changes the link. */
static void write_phy_ctrl(struct e1000 *e, u16 value)
{
	if (value & PHY_CTRL_RESET) {
		e1000_phy_reset(e);
		value = PHY_CTRL_DEFAULT | PHY_CTRL_RESTART;
	}
	e->phy[PHY_CTRL] = value & (u16) ~(PHY_CTRL_RESTART | PHY_CTRL_RESET);
	if ((value & PHY_CTRL_RESTART) && !e->link_down)
		e1000_raise(e, IC_LSC);
}

static void phy_write(struct e1000 *e, u32 reg, u16 value)
{
	switch (reg) {
	case PHY_CTRL:
		write_phy_ctrl(e, value);
		break;
	case PHY_STATUS:
	case PHY_ID1:
	case PHY_ID2:
	case PHY_EXT_STATUS:
		break;
	default:
		e->phy[reg] = value;
		break;
	}
}

void e1000_mdic_write(struct e1000 *e, u32 value)
{
	u32 reg = value >> MDIC_REG_SHIFT & 31, op = value >> MDIC_OP_SHIFT & 3;

	if ((value >> MDIC_PHY_SHIFT & 31) != MDIC_ADDRESS || (op != MDIC_READ && op != MDIC_WRITE))
		value |= MDIC_ERROR;
	else if (op == MDIC_READ)
		value = (value & 0xffff0000) | phy_read(e, reg);
	else
		phy_write(e, reg, (u16)value);
	*e1000_reg(e, E_MDIC) = value | MDIC_READY;
	if (value & MDIC_INTERRUPT)
		e1000_raise(e, IC_MDAC);
}

/* ---- EEPROM ---- */

void e1000_eecd_write(struct e1000 *e, u32 value)
{
	*e1000_reg(e, E_EECD) = value & (EECD_SK | EECD_CS | EECD_DI | EECD_FWE | EECD_REQ);
	eeprom93_set(&e->eeprom, value & EECD_CS, value & EECD_SK, value & EECD_DI);
}

u32 e1000_eecd_read(const struct e1000 *e)
{
	u32 value = e->mac[E_EECD / 4] | EECD_PRES;

	value |= value & EECD_REQ ? EECD_GNT : 0; /* nobody else wants it */
	return value | (eeprom93_out(&e->eeprom) ? EECD_DO : 0);
}

void e1000_eerd_write(struct e1000 *e, u32 value)
{
	u32 address = value >> 8 & 0xff;

	if (!(value & EERD_START)) {
		*e1000_reg(e, E_EERD) = value & 0xff00;
		return;
	}
	*e1000_reg(e, E_EERD) =
		EERD_START | EERD_DONE | address << 8 |
		(address < EEPROM93_WORDS ? (u32)e->eeprom.words[address] << 16 : 0xffff0000);
}

void e1000_eeprom_fill(struct e1000 *e, const u8 *mac)
{
	u16 *w = e->eeprom.words, sum = 0;

	for (int i = 0; i < 3; i++)
		w[i] = load_le16(mac + 2 * i);
	w[0x0a] = 0x4000; /* the signature of valid contents */
	w[0x0b] = 0x001e; /* subsystem, its vendor, device, vendor */
	w[0x0c] = 0x8086;
	w[0x0d] = 0x100e;
	w[0x0e] = 0x8086;
	for (int i = 0; i < EEPROM93_WORDS - 1; i++)
		sum = (u16)(sum + w[i]);
	w[EEPROM93_WORDS - 1] = (u16)(EEPROM_SUM - sum);
	eeprom93_reset(&e->eeprom);
}
