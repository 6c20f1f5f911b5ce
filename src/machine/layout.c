/* See layout.h for the map. */
#include "machine/layout.h"

#include <errno.h>

#include "base/bits.h"

#define MMIO64_MAX   (512 * GiB)
#define MMIO64_ALIGN (1 * GiB)

static unsigned long long ull(u64 v)
{
	return v;
}

int layout_make(struct layout *layout, u64 memory, unsigned int phys_bits, struct err *err)
{
	u64 top = BIT(min(max(phys_bits, 36u), 52u));

	if (memory < LAYOUT_MEMORY_MIN)
		return err_set(err, EINVAL, "--memory: %llu bytes; a guest has 1 MiB at least",
			       ull(memory));
	*layout = (struct layout){.phys_bits = ilog2(top), .high_end = LAYOUT_HIGH_BASE};
	if (memory > top - (LAYOUT_HIGH_BASE - LAYOUT_LOW_MAX))
		return err_set(err, E2BIG,
			       "--memory: %llu GiB are more than this processor's %u physical "
			       "address bits reach; %llu GiB is the most",
			       ull(memory / GiB), layout->phys_bits,
			       ull((top - (LAYOUT_HIGH_BASE - LAYOUT_LOW_MAX)) / GiB));
	layout->memory = align_up(memory, PAGE_SIZE);
	layout->low_end = min(layout->memory, LAYOUT_LOW_MAX);
	layout->high_end += layout->memory - layout->low_end;
	layout->mmio64_base = align_up(layout->high_end, MMIO64_ALIGN);
	if (layout->mmio64_base < top)
		layout->mmio64_size = min(top - layout->mmio64_base, MMIO64_MAX);
	else
		layout->mmio64_base = 0;
	return 0;
}

int layout_add_ram(const struct layout *layout, struct guest_mem *mem, u32 flags, struct err *err)
{
	u64 high = layout->high_end - LAYOUT_HIGH_BASE;
	int rc;

	rc = mem_add_ram(mem, 0, LAYOUT_VGA_BASE, (flags & ~MEM_HUGETLB) | MEM_NO_THP, err);
	if (!rc)
		rc = mem_add_ram(mem, LAYOUT_VGA_END, layout->low_end - LAYOUT_VGA_END, flags, err);
	if (!rc && high)
		rc = mem_add_ram(mem, LAYOUT_HIGH_BASE, high, flags, err);
	return rc;
}

size_t layout_e820(const struct layout *layout, struct e820 out[LAYOUT_E820_MAX])
{
	size_t n = 0;

	out[n++] = (struct e820){0, LAYOUT_EBDA, E820_RAM};
	out[n++] = (struct e820){LAYOUT_EBDA, LAYOUT_VGA_BASE - LAYOUT_EBDA, E820_RESERVED};
	out[n++] = (struct e820){LAYOUT_ACPI_BASE, MiB - LAYOUT_ACPI_BASE, E820_RESERVED};
	if (layout->low_end > MiB)
		out[n++] = (struct e820){MiB, layout->low_end - MiB, E820_RAM};
	out[n++] = (struct e820){LAYOUT_ECAM_BASE, LAYOUT_ECAM_BUSES * MiB, E820_RESERVED};
	out[n++] = (struct e820){LAYOUT_IDENTITY_MAP, LAYOUT_FIRMWARE_BASE - LAYOUT_IDENTITY_MAP,
				 E820_RESERVED};
	if (layout->high_end > LAYOUT_HIGH_BASE)
		out[n++] = (struct e820){LAYOUT_HIGH_BASE, layout->high_end - LAYOUT_HIGH_BASE,
					 E820_RAM};
	return n;
}
