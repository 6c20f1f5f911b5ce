/*
 * The guest-physical map of the machine, the same on every board:
 *
 *   0 .. 0xa0000                      low RAM (its last KiB reserved, as a BIOS data area)
 *   0xa0000 .. 0xc0000                VGA window
 *   0xc0000 .. 0x100000               RAM, reserved: option ROMs, ACPI tables or firmware shadow
 *   0x100000 .. low_end               low RAM, low_end <= 3 GiB
 *   3 GiB .. 0xe0000000               32-bit PCI window
 *   0xe0000000 .. 0xf0000000          ECAM, 256 buses
 *   0xfeb00000 .. 0xfeb40000          virtio-mmio (micro board)
 *   0xfec00000, 0xfee00000            IOAPIC, local APICs
 *   0xfeffc000 .. 0xff000000          identity map and TSS pages of KVM on Intel
 *   0xff000000 .. 4 GiB               firmware, ends at 4 GiB
 *   4 GiB .. high_end                 high RAM
 *   mmio64_base ..                    64-bit PCI window
 */
#ifndef MACHINE_LAYOUT_H
#define MACHINE_LAYOUT_H

#include "base/err.h"
#include "base/types.h"
#include "mem/mem.h"

#define LAYOUT_VGA_BASE	     0xa0000ULL
#define LAYOUT_VGA_END	     0xc0000ULL
#define LAYOUT_EBDA	     0x9fc00ULL
#define LAYOUT_ROM_BASE	     0xc0000ULL
#define LAYOUT_ACPI_BASE     0xe0000ULL /* RSDP first: kernels scan from here */
#define LAYOUT_ACPI_SIZE     0x10000ULL
#define LAYOUT_LOW_MAX	     0xc0000000ULL
#define LAYOUT_MMIO32_BASE   0xc0000000ULL
#define LAYOUT_MMIO32_END    0xe0000000ULL
#define LAYOUT_ECAM_BASE     0xe0000000ULL
#define LAYOUT_ECAM_BUSES    256
#define LAYOUT_VIRTIO_BASE   0xfeb00000ULL
#define LAYOUT_VIRTIO_STRIDE 0x1000ULL
#define LAYOUT_IOAPIC	     0xfec00000ULL
#define LAYOUT_LAPIC	     0xfee00000ULL
#define LAYOUT_IDENTITY_MAP  0xfeffc000ULL /* KVM_SET_IDENTITY_MAP_ADDR */
#define LAYOUT_TSS	     0xfeffd000ULL /* KVM_SET_TSS_ADDR, three pages */
#define LAYOUT_FIRMWARE_BASE 0xff000000ULL
#define LAYOUT_HIGH_BASE     (4 * GiB)
#define LAYOUT_MEMORY_MIN    (1 * MiB)

struct layout {
	u64 memory;	/* bytes of RAM the user asked for, rounded up to 4 KiB */
	gpa_t low_end;	/* RAM below 4 GiB ends here; the VGA window costs 128 KiB of it */
	gpa_t high_end; /* RAM above 4 GiB ends here; LAYOUT_HIGH_BASE when there is none */
	gpa_t mmio64_base;
	u64 mmio64_size; /* 0: no room below the CPU's last physical address */
	unsigned int phys_bits;
};

/* memory in bytes; phys_bits: physical address bits of the guest's CPU (cpuid_phys_bits()).
 * -EINVAL when it is too little, -E2BIG when it is more than the CPU can address. */
int layout_make(struct layout *layout, u64 memory, unsigned int phys_bits, struct err *err);

/* Add the RAM of the layout to mem: flags as in mem.h. */
int layout_add_ram(const struct layout *layout, struct guest_mem *mem, u32 flags, struct err *err);

/* The map as E820 gives it to kernels and firmware. */
enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct e820 {
	u64 addr, size;
	u32 type;
};

#define LAYOUT_E820_MAX 8

/* Fills out[], in order and without overlaps; returns the count, at most LAYOUT_E820_MAX. */
size_t layout_e820(const struct layout *layout, struct e820 out[LAYOUT_E820_MAX]);

#endif
