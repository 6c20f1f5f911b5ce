/* What loaders offer each other and the recognition of images. */
#ifndef MACHINE_BOOT_INT_H
#define MACHINE_BOOT_INT_H

#include "base/types.h"
#include "machine/boot.h"
#include "machine/image.h"

#define MULTIBOOT_SEARCH 8192 /* the header lies whole in the first so many bytes */

/* Look for a multiboot 1 header with a right checksum. False when there is none; *offset (may be
 * NULL) is where it is. */
bool multiboot_find(const u8 *data, size_t len, size_t *offset);

/* "Linux bzImage 6.1.0-56-cloud-amd64, boot protocol 2.15", with what can be read safely. */
void linux_describe(const struct image *image, char *text, size_t cap);

/* Enter an uncompressed 64-bit Linux, loaded up to `end`, at rip. */
int linux_enter_vmlinux(struct guest_mem *mem, const struct layout *layout,
			const struct boot_options *options, u64 rip, gpa_t end,
			struct boot_entry *entry, struct err *err);

#endif
