/* What loaders need of an ELF file: checked once, then plain numbers. */
#ifndef MACHINE_ELF_INT_H
#define MACHINE_ELF_INT_H

#include "base/err.h"
#include "base/types.h"
#include "machine/image.h"
#include "mem/mem.h"

#define ELF_MAX_PHDRS 64
#define ELF_MAX_NOTES (256 * KiB)

struct elf_segment {
	u32 type;
	u64 offset, vaddr, paddr, filesz, memsz;
};

struct elf {
	bool is64;
	u64 entry;
	size_t count;
	struct elf_segment segment[ELF_MAX_PHDRS];
	bool is_linux; /* its Xen notes say so */
	bool has_pvh;
	u32 pvh_entry;
};

/*
 * Read and check the headers: x86, executable, program headers inside the file and sane, every
 * segment's bytes inside the file, memory sizes that do not wrap. -ENOEXEC with the reason.
 */
int elf_parse(const struct image *image, struct elf *elf, struct err *err);

/*
 * Copy every loadable segment to its physical address and clear the rest of its memory. *end
 * becomes the first address after the highest. -ENOMEM with the address that is not RAM, -EINVAL
 * where a segment wants what the loader needs itself, -ENOEXEC
 * when nothing is loadable or segments overlap.
 */
int elf_load(struct guest_mem *mem, const struct image *image, const struct elf *elf, gpa_t *end,
	     struct err *err);

/* The physical address of the entry point: e_entry where it lies in a segment's physical range,
 * else through the segment's virtual range. -ENOEXEC when in neither. */
int elf_entry(const struct image *image, const struct elf *elf, u64 *entry, struct err *err);

#endif
