/* Images made by hand, as small as their formats allow, for the tests to bend. */
#ifndef TEST_IMAGES_H
#define TEST_IMAGES_H

#include "base/types.h"

#define TEST_IMAGE_SIZE 0x6000

struct test_image {
	u8 data[TEST_IMAGE_SIZE];
	u64 size;
	const char *name;
};

#define BZ_PAYLOAD_OFFSET 0xa00 /* 4 setup sectors */
#define BZ_PAYLOAD_SIZE	  0x1000

/* Protocol 2.15, 64-bit entry, relocatable, prefers 16 MiB, wants 8 MiB, initrd below 2 GiB. */
void make_bzimage(struct test_image *t);

#define ELF_PADDR 0x100000
/* One segment of 0x1000 bytes (0x3000 in memory) at ELF_PADDR, entry 0x10 into it. */
void make_elf64(struct test_image *t, bool pvh);
void make_elf32_multiboot(struct test_image *t);

/* A header at 0x20 that loads the whole file at 2 MiB, with 0x800 bytes of bss. */
#define KLUDGE_HEADER 0x20
#define KLUDGE_LOAD   0x200000
void make_kludge(struct test_image *t);

#endif
