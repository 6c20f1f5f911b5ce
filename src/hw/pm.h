/*
 * ACPI power management (ACPI 6.4, section 4.8): PM1a event and control blocks, PM timer, GPE0
 * block, SMI command port, SCI, power button, and the reset control register 0xcf9. Registers lie
 * where Intel's ICH9 has them relative to its base, which is also where firmware looks.
 *
 * The numbers below are what the ACPI tables have to say.
 */
#ifndef HW_PM_H
#define HW_PM_H

#include "bus/device.h"

#define PM_BASE 0x600 /* the default base port */
#define PM_SIZE 0x40

/* Offsets from the base, and lengths for the FADT. */
#define PM1_EVT		0x00 /* PM1a_EVT_BLK: status (2 bytes), enable (2 bytes) */
#define PM1_EVT_LEN	4
#define PM1_CNT		0x04 /* PM1a_CNT_BLK */
#define PM1_CNT_LEN	2
#define PM_TMR		0x08 /* PM_TMR_BLK, 24 bits unless pm_config.timer_32bit */
#define PM_TMR_LEN	4
#define PM_GPE0		0x20 /* GPE0_BLK: status, then as many bytes of enable */
#define PM_GPE0_LEN	4
#define PM_GPES		(PM_GPE0_LEN * 4) /* 16 events */
#define PM_TMR_HZ	3579545
#define PM_SCI_GSI	9 /* level, active high */
#define PM_SMI_CMD	0xb2
#define PM_ACPI_ENABLE	0xf1 /* written to PM_SMI_CMD */
#define PM_ACPI_DISABLE 0xf0

/* SLP_TYPa values of the \_Sx packages. S3 is not offered; asking for it wakes up at once. */
#define PM_SLP_TYP_S5 0
#define PM_SLP_TYP_S3 1

/* Reset register of the FADT (RESET_REG_SUP): system I/O, 8 bits. */
#define PM_RESET_PORT  0xcf9
#define PM_RESET_VALUE 0x06

/* PM1 status and enable bits. */
#define PM1_TMR	    (1 << 0)
#define PM1_BM	    (1 << 4)
#define PM1_GBL	    (1 << 5)
#define PM1_PWRBTN  (1 << 8)
#define PM1_SLPBTN  (1 << 9)
#define PM1_RTC	    (1 << 10)
#define PM1_WAK_STS (1 << 15)
/* PM1 control bits. */
#define PM1_SCI_EN	  (1 << 0)
#define PM1_SLP_TYP_SHIFT 10
#define PM1_SLP_TYP_MASK  (7 << PM1_SLP_TYP_SHIFT)
#define PM1_SLP_EN	  (1 << 13)

struct pm_config {
	u16 base;	    /* 0: PM_BASE */
	u16 second_base;    /* the same registers once more; 0: not */
	u32 sci_gsi;	    /* 0: PM_SCI_GSI */
	bool acpi_enabled;  /* SCI_EN is set from reset on: boots without firmware (SMI_CMD 0) */
	bool timer_32bit;   /* TMR_VAL_EXT */
	bool no_reset_port; /* leave 0xcf9 to somebody else */
};

extern const struct device_class pm_class;

/* With the bus lock held. Press and release; the guest sees it when it has enabled the event. */
void pm_power_button(struct device *dev);
/* Did the guest enable the power button (an OS that will shut down in order)? */
bool pm_power_button_enabled(const struct device *dev);
/* Raise general-purpose event n (0 to PM_GPES - 1). */
void pm_gpe_raise(struct device *dev, unsigned int n);

#endif
