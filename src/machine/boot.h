/*
 * Boot protocols: put a guest's image into RAM as its protocol wants it and say in what state the
 * first vCPU enters it. Pure functions over guest memory: nothing here knows an engine or a device.
 *
 * They may be called again at each reset: RAM they use is written whole. All of them treat every
 * length and offset in an image as hostile, and explain what is wrong with the file's name and a
 * remedy.
 */
#ifndef MACHINE_BOOT_H
#define MACHINE_BOOT_H

#include <linux/kvm.h>

#include "base/err.h"
#include "base/types.h"
#include "machine/image.h"
#include "machine/layout.h"
#include "mem/mem.h"

/* The state in which vCPU 0 enters the guest. */
struct boot_entry {
	struct kvm_regs regs;
	/* Segments, descriptor tables, cr0, cr2, cr3, cr4, efer. The rest belongs to the APIC and
	 * is not ours: see boot_entry_apply(). */
	struct kvm_sregs sregs;
};

/* Put the part of entry->sregs that is ours into sregs (as KVM_GET_SREGS gave it); apic_base, cr8
 * and the interrupt bitmap stay. regs is replaced whole by the caller. */
void boot_entry_apply(const struct boot_entry *entry, struct kvm_sregs *sregs);

/* The state after power-on: 16-bit, CS base 0xffff0000, IP 0xfff0 (SDM volume 3, 10.1.4). */
void boot_entry_reset(struct boot_entry *entry);

enum boot_mode { BOOT_REAL, BOOT_PROTECTED, BOOT_LONG };

/* Where a flat binary goes without --load. */
#define BOOT_FLAT_LOAD 0x1000

struct boot_module {
	const struct image *image; /* image_open_raw() */
	const char *cmdline;	   /* multiboot and PVH: its text; NULL: the file's name */
};

struct boot_options {
	const char *cmdline; /* NULL: empty */
	/* Linux, by whatever entry: the initrd; several are joined, each aligned to 4 bytes.
	 * Others: modules. */
	const struct boot_module *modules;
	size_t module_count;
	gpa_t acpi_rsdp; /* tells kernels where the RSDP is; 0: let them scan */
	/* flat binaries */
	bool has_load, has_entry;
	u64 load;	     /* BOOT_FLAT_LOAD */
	u64 flat_entry;	     /* the load address */
	enum boot_mode mode; /* BOOT_REAL */
};

/*
 * Load the image by its kind (everything but FIRMWARE and DISK) and fill *entry. mem holds the
 * RAM of layout, untouched or from a previous run. -ENOEXEC for a file that is wrong, -ENOMEM for
 * one that does not fit the memory, -EINVAL for options that do not go together, or the errno of
 * reading; err says the rest.
 */
int boot_load(struct guest_mem *mem, const struct layout *layout, const struct image *image,
	      const struct boot_options *options, struct boot_entry *entry, struct err *err);

/*
 * Check what can be checked without memory: options against the kind (a module for a flat binary,
 * --load for a kernel). boot_load() does it too; for -n.
 */
int boot_check_options(const struct image *image, const struct boot_options *options,
		       struct err *err);

/*
 * Firmware (IMAGE_FIRMWARE): at most 16 MiB, a multiple of 4 KiB. firmware_map() adds the ROM
 * below 4 GiB to mem, read-only; once, before the vCPUs start. firmware_load() fills it, and
 * copies it (the last 128 KiB of one larger than 256 KiB) to just below 1 MiB, where it is RAM
 * that the firmware may write; at start and at each reset. The entry is boot_entry_reset()'s.
 */
int firmware_map(struct guest_mem *mem, const struct image *image, struct err *err);
int firmware_load(struct guest_mem *mem, const struct image *image, struct boot_entry *entry,
		  struct err *err);

#endif
