#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images.h"
#include "machine/image.h"

static int from(struct image *image, const void *data, u64 size, enum image_kind want,
		struct err *err)
{
	err->text[0] = 0;
	return image_from_memory(image, "the-file", data, size, want, err);
}

static void expect_kind(struct test_image *t, enum image_kind kind, const char *text)
{
	struct image image;
	struct err err;

	assert_int_equal(from(&image, t->data, t->size, IMAGE_AUTO, &err), 0);
	assert_string_equal(image_kind_name(image.kind), image_kind_name(kind));
	assert_non_null(strstr(image.text, text));
	image_close(&image);
}

static void kinds(void **state)
{
	static struct test_image t;

	make_bzimage(&t);
	expect_kind(&t, IMAGE_BZIMAGE, "Linux bzImage 6.1.0-test, boot protocol 2.15");
	make_elf64(&t, true);
	expect_kind(&t, IMAGE_PVH, "64-bit ELF with a PVH entry at 0x100020");
	make_elf64(&t, false);
	expect_kind(&t, IMAGE_LINUX64, "64-bit ELF");
	make_elf32_multiboot(&t);
	expect_kind(&t, IMAGE_MULTIBOOT, "32-bit ELF");
	make_kludge(&t);
	expect_kind(&t, IMAGE_MULTIBOOT, "flat");
}

static void flat_and_disks(void **state)
{
	static const struct {
		size_t at;
		const char *magic;
		size_t len;
		enum image_kind kind;
		const char *text;
	} cases[] = {
		{0, "\xba\xf8\x03\x00\xd8\x04\x30\xee", 8, IMAGE_FLAT, "flat binary, "},
		{0, "QFI\xfb\0\0\0\3", 8, IMAGE_DISK, "qcow2"},
		{0, "QED\0", 4, IMAGE_DISK, "QED"},
		{510, "\x55\xaa", 2, IMAGE_DISK, "MBR"},
		{0x8001, "CD001", 5, IMAGE_DISK, "ISO 9660"},
		{512, "EFI PART", 8, IMAGE_DISK, "GPT"},
	};
	static struct test_image t;
	static u8 big[0x9000];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct image image;
		struct err err;

		memset(big, 0, sizeof(big));
		memcpy(big + cases[i].at, cases[i].magic, cases[i].len);
		assert_int_equal(from(&image, big, sizeof(big), IMAGE_AUTO, &err), 0);
		assert_int_equal(image.kind, cases[i].kind);
		assert_non_null(strstr(image.text, cases[i].text));
		image_close(&image);
	}
	/* The smallest there is. */
	memset(&t, 0, sizeof(t));
	t.data[0] = 0xf4;
	t.size = 1;
	expect_kind(&t, IMAGE_FLAT, "flat binary, 1 B");
}

static void expect_refused(const void *data, u64 size, const char *text)
{
	struct image image;
	struct err err;

	assert_int_equal(from(&image, data, size, IMAGE_AUTO, &err), -ENOEXEC);
	assert_null(image.name);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_non_null(strstr(err.text, "the-file"));
}

static void refusals(void **state)
{
	static const struct {
		size_t at;
		const char *magic;
		size_t len;
		const char *text;
	} cases[] = {
		{0, "\x1f\x8b\x08", 3, "gzip -dc"},
		{0,
		 "\xfd"
		 "7zXZ\0",
		 6, "xz -dc"},
		{0, "\x28\xb5\x2f\xfd", 4, "zstd -dc"},
		{0, "070701", 6, "--initrd"},
		{0, "MZ\x90", 3, "EFI"},
		{56, "ARM\x64", 4, "ARM64"},
		{0, "!<arch>\n", 8, "archive"},
	};
	static struct test_image t;
	const char text[] = "#!/bin/sh\necho this is no kernel at all; really not\n";
	u8 data[1024] = {0};

	expect_refused(data, 0, "empty");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(data, 0, sizeof(data));
		memcpy(data + cases[i].at, cases[i].magic, cases[i].len);
		expect_refused(data, sizeof(data), cases[i].text);
	}
	expect_refused(text, strlen(text), "text file");
	make_elf64(&t, false);
	t.data[18] = 183; /* EM_AARCH64 */
	expect_refused(t.data, t.size, "another processor");
	make_elf64(&t, false);
	t.data[5] = 2; /* ELFDATA2MSB */
	expect_refused(t.data, t.size, "big-endian");
	make_elf64(&t, false);
	t.data[16] = 1; /* ET_REL */
	expect_refused(t.data, t.size, "object file");
	make_elf64(&t, false);
	expect_refused(t.data, 0x30, "ends inside its header");
	make_elf32_multiboot(&t);
	t.data[0x1000] = 0;
	expect_refused(t.data, t.size, "without a multiboot header");
}

static void wishes(void **state)
{
	static struct test_image t;
	struct image image;
	struct err err;

	make_elf64(&t, true);
	assert_int_equal(from(&image, t.data, t.size, IMAGE_BZIMAGE, &err), -ENOEXEC);
	assert_non_null(strstr(err.text, "not a bzimage image"));
	/* The user's word counts for what has no look of its own. */
	assert_int_equal(from(&image, t.data, t.size, IMAGE_FLAT, &err), 0);
	assert_int_equal(image.kind, IMAGE_FLAT);
	image_close(&image);
	assert_int_equal(from(&image, t.data, t.size, IMAGE_FIRMWARE, &err), 0);
	assert_int_equal(image.kind, IMAGE_FIRMWARE);
	image_close(&image);
}

static void files(void **state)
{
	static struct test_image t;
	char path[] = "/tmp/bothy-image-XXXXXX";
	struct image image;
	struct err err;
	u8 byte;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(image_open(&image, path, IMAGE_AUTO, &err), -ENOEXEC);
	assert_non_null(strstr(err.text, "empty"));
	assert_int_equal(image_open_raw(&image, path, &err), -EINVAL);
	make_bzimage(&t);
	assert_int_equal(write(fd, t.data, t.size), (ssize_t)t.size);
	assert_int_equal(image_open(&image, path, IMAGE_AUTO, &err), 0);
	assert_int_equal(image.kind, IMAGE_BZIMAGE);
	assert_int_equal(image_read(&image, 0x202, &byte, 1), 0);
	assert_int_equal(byte, 'H');
	assert_int_equal(image_read(&image, t.size, &byte, 1), -EIO);
	assert_int_equal(image_read(&image, ~0ULL, &byte, 1), -EIO);
	/* It shrinks while we hold it. */
	assert_int_equal(ftruncate(fd, 0x100), 0);
	assert_int_equal(image_read(&image, 0x202, &byte, 1), -EIO);
	image_close(&image);
	image_close(&image);
	close(fd);
	unlink(path);
	assert_int_equal(image_open(&image, path, IMAGE_AUTO, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(image_open(&image, "/", IMAGE_AUTO, &err), -EISDIR);
	assert_int_equal(image_open(&image, "/dev/null", IMAGE_AUTO, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),    cmocka_unit_test(flat_and_disks),
		cmocka_unit_test(refusals), cmocka_unit_test(wishes),
		cmocka_unit_test(files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
