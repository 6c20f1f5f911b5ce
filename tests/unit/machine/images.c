#include "images.h"

#include <elf.h>
#include <string.h>

#include "base/endian.h"

static void fill(struct test_image *t, const char *name, u64 size)
{
	memset(t, 0, sizeof(*t));
	t->name = name;
	t->size = size;
}

void make_bzimage(struct test_image *t)
{
	u8 *d = t->data;

	fill(t, "bzimage", BZ_PAYLOAD_OFFSET + BZ_PAYLOAD_SIZE);
	d[0x1f1] = BZ_PAYLOAD_OFFSET / 512 - 1;
	store_le32(d + 0x1f4, BZ_PAYLOAD_SIZE / 16);
	store_le16(d + 0x1fe, 0xaa55);
	d[0x200] = 0xeb;
	d[0x201] = 0x6a; /* the header ends at 0x26c */
	memcpy(d + 0x202, "HdrS", 4);
	store_le16(d + 0x206, 0x20f);
	store_le16(d + 0x20e, 0x200);
	d[0x211] = 1; /* LOADED_HIGH */
	store_le32(d + 0x214, 0x100000);
	store_le32(d + 0x22c, 0x7fffffff);
	store_le32(d + 0x230, 0x200000);
	d[0x234] = 1;
	store_le16(d + 0x236, 1); /* XLF_KERNEL_64 */
	store_le32(d + 0x238, 2047);
	store_le64(d + 0x258, 0x1000000);
	store_le32(d + 0x260, 8 << 20);
	strcpy((char *)d + 0x400, "6.1.0-test (someone)");
	memset(d + BZ_PAYLOAD_OFFSET, 0x90, BZ_PAYLOAD_SIZE);
}

void make_elf64(struct test_image *t, bool pvh)
{
	Elf64_Ehdr *e = (Elf64_Ehdr *)t->data;
	Elf64_Phdr *p = (Elf64_Phdr *)(t->data + 0x40);
	u8 *note = t->data + 0x200;

	fill(t, pvh ? "pvh" : "elf64", 0x2000);
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS64;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_ident[EI_VERSION] = EV_CURRENT;
	e->e_type = ET_EXEC;
	e->e_machine = EM_X86_64;
	e->e_entry = ELF_PADDR + 0x10;
	e->e_phoff = 0x40;
	e->e_phentsize = sizeof(*p);
	e->e_phnum = pvh ? 2 : 1;
	p[0].p_type = PT_LOAD;
	p[0].p_offset = 0x1000;
	p[0].p_vaddr = 0xffffffff81000000;
	p[0].p_paddr = ELF_PADDR;
	p[0].p_filesz = 0x1000;
	p[0].p_memsz = 0x3000;
	memset(t->data + 0x1000, 0x90, 0x1000);
	if (!pvh)
		return;
	p[1].p_type = PT_NOTE;
	p[1].p_offset = 0x200;
	p[1].p_filesz = 44;
	/* Another note first, so that the chain is followed. */
	store_le32(note, 4);
	store_le32(note + 4, 5);
	store_le32(note + 8, 1);
	memcpy(note + 12, "GNU", 4);
	store_le32(note + 24, 4);
	store_le32(note + 28, 4);
	store_le32(note + 32, 18);
	memcpy(note + 36, "Xen", 4);
	store_le32(note + 40, ELF_PADDR + 0x20);
}

static void multiboot_header(u8 *h, u32 flags)
{
	store_le32(h, 0x1badb002);
	store_le32(h + 4, flags);
	store_le32(h + 8, -(0x1badb002 + flags));
}

void make_elf32_multiboot(struct test_image *t)
{
	Elf32_Ehdr *e = (Elf32_Ehdr *)t->data;
	Elf32_Phdr *p = (Elf32_Phdr *)(t->data + 0x34);

	fill(t, "multiboot", 0x2000);
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS32;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_ident[EI_VERSION] = EV_CURRENT;
	e->e_type = ET_EXEC;
	e->e_machine = EM_386;
	e->e_entry = ELF_PADDR + 0x10;
	e->e_phoff = 0x34;
	e->e_phentsize = sizeof(*p);
	e->e_phnum = 1;
	p->p_type = PT_LOAD;
	p->p_offset = 0x1000;
	p->p_vaddr = p->p_paddr = ELF_PADDR;
	p->p_filesz = 0x1000;
	p->p_memsz = 0x3000;
	memset(t->data + 0x1000, 0x90, 0x1000);
	multiboot_header(t->data + 0x1000, 3);
}

void make_kludge(struct test_image *t)
{
	u8 *h = t->data + KLUDGE_HEADER;

	fill(t, "kludge", 0x1000);
	memset(t->data, 0x90, t->size);
	multiboot_header(h, 0x10000);
	store_le32(h + 12, KLUDGE_LOAD + KLUDGE_HEADER);
	store_le32(h + 16, KLUDGE_LOAD);
	store_le32(h + 20, KLUDGE_LOAD + 0x1000);
	store_le32(h + 24, KLUDGE_LOAD + 0x1800);
	store_le32(h + 28, KLUDGE_LOAD + 0x40);
}
