/*
 * fw_cfg: named blobs for firmware, through ports 0x510/0x511 and DMA at 0x514
 * (docs/specs/fw_cfg of QEMU). SeaBIOS, OVMF and coreboot read it.
 */
#ifndef HW_FW_CFG_H
#define HW_FW_CFG_H

#include "bus/device.h"

#define FW_CFG_PORT	0x510
#define FW_CFG_PORTS	12 /* selector, data, DMA address */
#define FW_CFG_FILE_MAX 256
#define FW_CFG_NAME_MAX 56 /* with the final NUL */

/* Well-known selectors. */
enum {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_UUID = 0x02,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_MACHINE_ID = 0x06,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_KERNEL_CMDLINE = 0x09,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_DEVICE = 0x0c,
	FW_CFG_NUMA = 0x0d,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14,
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
	FW_CFG_ARCH_ACPI_TABLES = 0x8000,
	FW_CFG_ARCH_SMBIOS = 0x8001,
	FW_CFG_ARCH_IRQ0 = 0x8002,
	FW_CFG_ARCH_E820 = 0x8003,
};

struct fw_cfg_config {
	u16 port;    /* 0: FW_CFG_PORT */
	bool no_dma; /* leave out the DMA interface */
};

extern const struct device_class fw_cfg_class;

/*
 * What an item holds. data (len bytes) is copied, except with `borrowed`, when it must outlive
 * the device. Both callbacks may be NULL and run with the bus lock held.
 */
struct fw_cfg_item {
	const void *data;
	size_t len;
	bool borrowed;
	/* The guest may write it (DMA only); refused otherwise. */
	bool writable;
	/* Called when the guest selects the item: may fill the device's copy (len bytes). */
	void (*selected)(void *ctx, void *data, size_t len);
	/* Called after the guest wrote [offset, offset + len). */
	void (*written)(void *ctx, const void *data, size_t offset, size_t len);
	void *ctx;
};

/* Add or replace the item of a selector below 0x20 or from 0x8000 on. 0, -EINVAL, -ENOMEM. */
int fw_cfg_add(struct device *dev, u16 selector, const struct fw_cfg_item *item);
/* The same with a little-endian number of `size` bytes (2, 4, 8). */
int fw_cfg_add_uint(struct device *dev, u16 selector, u64 value, unsigned int size);
/* Add or replace the file `name` ("etc/e820", "bootorder", "opt/..."). The directory is sorted by
 * name. Also -ENAMETOOLONG, -ENOSPC. Only before the vCPUs start: selectors follow the order. */
int fw_cfg_add_file(struct device *dev, const char *name, const struct fw_cfg_item *item);

#endif
