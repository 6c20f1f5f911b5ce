/*
 * ELF for loaders (System V gABI chapters 4 and 5). The headers are copied once; all arithmetic on
 * what they say is checked here, so that elf_load() may use the numbers as they are.
 */
#include "machine/elf_int.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "machine/load_int.h"

#define XEN_NOTE_GUEST_OS     6
#define XEN_NOTE_PHYS32_ENTRY 18

static int bad(const struct image *image, struct err *err, const char *what)
{
	return err_set(err, ENOEXEC, "%s: broken ELF file: %s; is the download or build complete?",
		       image->name, what);
}

static int check_ident(const struct image *image, const Elf64_Ehdr *e, struct err *err)
{
	if (e->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(err, ENOEXEC,
			       "%s: a big-endian ELF file; bothy runs x86 guests only",
			       image->name);
	if (e->e_machine != EM_X86_64 && e->e_machine != EM_386)
		return err_set(err, ENOEXEC,
			       "%s: an ELF file for another processor (machine %u); bothy runs "
			       "x86 guests only",
			       image->name, e->e_machine);
	if (e->e_type == ET_REL)
		return err_set(err, ENOEXEC, "%s: an object file or module, not a linked kernel",
			       image->name);
	if (e->e_type != ET_EXEC && e->e_type != ET_DYN)
		return err_set(err, ENOEXEC, "%s: an ELF file, but not an executable (type %u)",
			       image->name, e->e_type);
	return 0;
}

/* The 32-bit header in the shape of the 64-bit one. */
static void widen_header(Elf64_Ehdr *out, const Elf32_Ehdr *in)
{
	memcpy(out->e_ident, in->e_ident, sizeof(out->e_ident));
	out->e_type = in->e_type;
	out->e_machine = in->e_machine;
	out->e_entry = in->e_entry;
	out->e_phoff = in->e_phoff;
	out->e_phentsize = in->e_phentsize;
	out->e_phnum = in->e_phnum;
}

static int read_header(const struct image *image, Elf64_Ehdr *e, bool *is64, struct err *err)
{
	Elf32_Ehdr e32;

	if (image_read(image, 0, &e32, sizeof(e32)))
		return bad(image, err, "the file ends inside its header");
	*is64 = e32.e_ident[EI_CLASS] == ELFCLASS64;
	if (!*is64 && e32.e_ident[EI_CLASS] != ELFCLASS32)
		return bad(image, err, "neither 32-bit nor 64-bit");
	widen_header(e, &e32);
	if (*is64 && image_read(image, 0, e, sizeof(*e)))
		return bad(image, err, "the file ends inside its header");
	return check_ident(image, e, err);
}

static void read_segment(struct elf_segment *s, const void *p, bool is64)
{
	Elf64_Phdr p64;
	Elf32_Phdr p32;

	if (is64) {
		memcpy(&p64, p, sizeof(p64));
		*s = (struct elf_segment){.type = p64.p_type,
					  .offset = p64.p_offset,
					  .vaddr = p64.p_vaddr,
					  .paddr = p64.p_paddr,
					  .filesz = p64.p_filesz,
					  .memsz = p64.p_memsz};
	} else {
		memcpy(&p32, p, sizeof(p32));
		*s = (struct elf_segment){.type = p32.p_type,
					  .offset = p32.p_offset,
					  .vaddr = p32.p_vaddr,
					  .paddr = p32.p_paddr,
					  .filesz = p32.p_filesz,
					  .memsz = p32.p_memsz};
	}
}

static int check_segment(const struct image *image, const struct elf_segment *s, struct err *err)
{
	u64 end;

	if (s->type != PT_LOAD && s->type != PT_NOTE)
		return 0;
	if (!range_fits(s->offset, s->filesz, image->size))
		return bad(image, err, "a segment reaches past the end of the file");
	if (s->type == PT_NOTE)
		return 0;
	if (s->memsz < s->filesz)
		return bad(image, err, "a segment is larger in the file than in memory");
	if (add_overflows(&end, s->paddr, s->memsz))
		return bad(image, err, "a segment wraps around the end of memory");
	return 0;
}

static int read_segments(const struct image *image, const Elf64_Ehdr *e, struct elf *elf,
			 struct err *err)
{
	size_t size = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	u8 table[ELF_MAX_PHDRS * sizeof(Elf64_Phdr)];
	int rc;

	if (!e->e_phnum)
		return bad(image, err, "it has no program headers");
	if (e->e_phnum > ELF_MAX_PHDRS)
		return bad(image, err, "too many program headers");
	if (e->e_phentsize != size)
		return bad(image, err, "program headers of the wrong size");
	if (image_read(image, e->e_phoff, table, e->e_phnum * size))
		return bad(image, err, "the program headers lie past the end of the file");
	elf->count = e->e_phnum;
	for (size_t i = 0; i < elf->count; i++) {
		read_segment(&elf->segment[i], table + i * size, elf->is64);
		rc = check_segment(image, &elf->segment[i], err);
		if (rc)
			return rc;
	}
	return 0;
}

static void xen_note(struct elf *elf, u32 type, const u8 *value, u64 len)
{
	u64 entry;

	if (type == XEN_NOTE_GUEST_OS && len >= 5 && !memcmp(value, "linux", 5))
		elf->is_linux = true;
	if (type != XEN_NOTE_PHYS32_ENTRY || (len != 4 && len != 8))
		return;
	entry = load_le(value, (unsigned int)len);
	elf->has_pvh = entry <= UINT32_MAX;
	elf->pvh_entry = (u32)entry;
}

/* Notes are a chain of headers (name size, value size, type), name and value padded to 4. */
static void scan_notes(struct elf *elf, const u8 *p, u64 len)
{
	while (len >= 12) {
		u64 namesz = load_le32(p), descsz = load_le32(p + 4);
		u64 name = align_up(namesz, 4), desc = align_up(descsz, 4);

		if (!range_fits(12 + name, descsz, len))
			return;
		if (namesz == 4 && !memcmp(p + 12, "Xen", 4))
			xen_note(elf, load_le32(p + 8), p + 12 + name, descsz);
		if (12 + name + desc > len)
			return;
		p += 12 + name + desc;
		len -= 12 + name + desc;
	}
}

static int read_notes(const struct image *image, struct elf *elf, struct err *err)
{
	for (size_t i = 0; i < elf->count && !elf->has_pvh; i++) {
		const struct elf_segment *s = &elf->segment[i];
		u8 *notes;

		if (s->type != PT_NOTE || s->filesz > ELF_MAX_NOTES)
			continue;
		notes = malloc(s->filesz + 1);
		if (!notes)
			return err_set(err, ENOMEM, "%s: out of memory", image->name);
		if (image_read(image, s->offset, notes, s->filesz)) {
			free(notes);
			return bad(image, err, "the notes cannot be read");
		}
		scan_notes(elf, notes, s->filesz);
		free(notes);
	}
	return 0;
}

int elf_parse(const struct image *image, struct elf *elf, struct err *err)
{
	Elf64_Ehdr header = {0};
	int rc;

	memset(elf, 0, sizeof(*elf));
	rc = read_header(image, &header, &elf->is64, err);
	if (rc)
		return rc;
	elf->entry = header.e_entry;
	rc = read_segments(image, &header, elf, err);
	return rc ? rc : read_notes(image, elf, err);
}

static bool loadable(const struct elf_segment *s)
{
	return s->type == PT_LOAD && s->memsz;
}

static int check_overlaps(const struct image *image, const struct elf *elf, struct err *err)
{
	for (size_t i = 0; i < elf->count; i++)
		for (size_t j = 0; j < i; j++) {
			const struct elf_segment *a = &elf->segment[i], *b = &elf->segment[j];

			if (loadable(a) && loadable(b) &&
			    ranges_overlap(a->paddr, a->memsz, b->paddr, b->memsz))
				return bad(image, err, "two segments overlap in memory");
		}
	return 0;
}

int elf_load(struct guest_mem *mem, const struct image *image, const struct elf *elf, gpa_t *end,
	     struct err *err)
{
	int rc = check_overlaps(image, elf, err);

	*end = 0;
	for (size_t i = 0; i < elf->count && !rc; i++) {
		const struct elf_segment *s = &elf->segment[i];

		if (!loadable(s))
			continue;
		rc = load_check_clear(image, s->paddr, s->memsz, err);
		if (rc)
			break;
		rc = load_image_part(mem, image, s->offset, s->filesz, s->paddr, s->memsz, err);
		*end = max(*end, s->paddr + s->memsz);
	}
	if (!rc && !*end)
		return bad(image, err, "nothing in it is to be loaded");
	return rc;
}

int elf_entry(const struct image *image, const struct elf *elf, u64 *entry, struct err *err)
{
	for (size_t i = 0; i < elf->count; i++) {
		const struct elf_segment *s = &elf->segment[i];

		if (loadable(s) && elf->entry - s->paddr < s->memsz) {
			*entry = elf->entry;
			return 0;
		}
	}
	for (size_t i = 0; i < elf->count; i++) {
		const struct elf_segment *s = &elf->segment[i];

		if (loadable(s) && elf->entry - s->vaddr < s->memsz) {
			*entry = elf->entry - s->vaddr + s->paddr;
			return 0;
		}
	}
	return bad(image, err, "its entry point lies in no segment");
}
