/*
 * Expansion ROMs: PCI Local Bus 3.0, sections 6.2.5.2 (the register) and 6.3 (what lies in them).
 * Firmware copies them to RAM, so reads trap; nothing is executed in place.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "bus/pci_int.h"

#define ROM_MIN	      4096
#define ROM_MAX	      (16 * MiB)
#define ROM_ENABLE    1u
#define ADDRESS_MASK  0xfffff800u
#define HEADER_LEN    0x1a
#define POINTER_AT    0x18 /* to the data structure */
#define CHECKSUM_FREE 6	   /* a byte of the header that nothing reads */
#define DATA_LEN      0x18
#define IMAGE_LEN_AT  0x10 /* in the data structure; in units of 512 bytes */
#define CODE_TYPE_AT  0x14
#define LAST_AT	      0x15
#define CODE_PC	      0

static u64 rom_read(void *ctx, u64 offset, unsigned int size)
{
	struct pci_device *dev = ctx;
	u64 value = ~0ULL;

	if (offset < dev->rom.size)
		memcpy(&value, dev->rom.data + offset, min((u64)size, dev->rom.size - offset));
	return le64toh(value);
}

static void rom_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	/* It is a ROM. */
}

static const struct bus_ops rom_ops = {.read = rom_read, .write = rom_write};

void pci_update_rom(struct pci_device *dev)
{
	struct bus_range *r = &dev->rom.range;
	u32 reg = load_le32(dev->config + PCI_ROM_ADDRESS);
	u64 addr = reg & ADDRESS_MASK;
	bool want = (reg & ROM_ENABLE) && (pci_command(dev) & PCI_COMMAND_MEMORY) && addr &&
		    range_fits(addr, r->size, 1ULL << 32);

	if (!dev->rom.data)
		return;
	if (r->added && (!want || r->base != addr))
		bus_remove(dev->dev.bus, r);
	if (!want || r->added)
		return;
	r->base = addr;
	if (bus_add(dev->dev.bus, r))
		log_guest("%s: the ROM cannot be mapped at 0x%llx", dev->dev.id,
			  (unsigned long long)addr);
}

void pci_release_rom(struct pci_device *dev)
{
	bus_remove(dev->dev.bus, &dev->rom.range);
	free(dev->rom.data);
	dev->rom.data = NULL;
}

/* The bytes of an image with code for a PC have the sum 0, modulo 256. */
static void change_byte(u8 *image, u32 at, u8 value, bool pc)
{
	if (pc)
		image[CHECKSUM_FREE] = (u8)(image[CHECKSUM_FREE] + image[at] - value);
	image[at] = value;
}

/* One image; where the next one begins, 0: there is none. */
static u32 relabel_image(const struct pci_device *dev, u32 start)
{
	u8 *image = dev->rom.data + start;
	const u8 *id = dev->config + PCI_VENDOR_ID;
	u32 left = dev->rom.size - start, at, len;

	if (left < HEADER_LEN || image[0] != 0x55 || image[1] != 0xaa)
		return 0;
	at = load_le16(image + POINTER_AT);
	if (!range_fits(at, DATA_LEN, left) || memcmp(image + at, "PCIR", 4))
		return 0;
	if (!memcmp(image + at + 4, id, 2)) {
		bool pc = image[at + CODE_TYPE_AT] == CODE_PC;

		change_byte(image, at + 6, id[2], pc);
		change_byte(image, at + 7, id[3], pc);
	}
	len = load_le16(image + at + IMAGE_LEN_AT) * 512u;
	return image[at + LAST_AT] & 0x80 || len >= left ? 0 : len;
}

static void relabel(struct pci_device *dev)
{
	u32 start = 0, len;

	while ((len = relabel_image(dev, start)))
		start += len;
}

int pci_set_rom(struct pci_device *dev, const void *data, size_t size, struct err *err)
{
	const u8 *bytes = data;
	u64 window = round_up_pow2(max(size, (size_t)ROM_MIN));

	if (size < HEADER_LEN || bytes[0] != 0x55 || bytes[1] != 0xaa)
		return err_set(err, EINVAL, "not an expansion ROM: it does not begin with 55 AA");
	if (size > ROM_MAX)
		return err_set(err, EFBIG, "an expansion ROM has 16 MiB at most");
	dev->rom.data = malloc(size);
	if (!dev->rom.data)
		return err_set(err, ENOMEM, "out of memory");
	memcpy(dev->rom.data, data, size);
	dev->rom.size = (u32)size;
	dev->rom.range = (struct bus_range){.name = dev->dev.id,
					    .space = BUS_MMIO,
					    .size = window,
					    .ops = &rom_ops,
					    .ctx = dev};
	store_le32(dev->writable + PCI_ROM_ADDRESS,
		   ((u32) ~(window - 1) & ADDRESS_MASK) | ROM_ENABLE);
	relabel(dev);
	return 0;
}
