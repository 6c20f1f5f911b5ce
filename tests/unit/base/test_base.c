#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/list.h"
#include "base/log.h"
#include "base/opt.h"
#include "base/str.h"

static void bits(void **state)
{
	u64 map[3] = {0};

	assert_int_equal(MASK(7, 4), 0xf0);
	assert_true(MASK(63, 0) == ~0ULL);
	assert_int_equal(align_up(4097, 4096), 8192);
	assert_int_equal(ilog2(4097), 12);
	assert_int_equal(round_up_pow2(4097), 8192);
	assert_int_equal(sign_extend(0x80, 8), -128);
	assert_int_equal(bitmap_next_set(map, 150, 0), 150);
	bitmap_set(map, 0);
	bitmap_set(map, 64);
	bitmap_set(map, 149);
	assert_int_equal(bitmap_next_set(map, 150, 0), 0);
	assert_int_equal(bitmap_next_set(map, 150, 1), 64);
	assert_int_equal(bitmap_next_set(map, 150, 65), 149);
	assert_int_equal(bitmap_next_set(map, 149, 65), 149);
	assert_int_equal(bitmap_next_clear(map, 150, 0), 1);
	memset(map, 0xff, sizeof(map));
	assert_int_equal(bitmap_next_clear(map, 150, 0), 150);
}

static void checked(void **state)
{
	assert_true(range_fits(0, 10, 10));
	assert_false(range_fits(1, 10, 10));
	assert_false(range_fits(~0ULL, 2, 10));
	assert_false(range_fits(2, ~0ULL, ~0ULL));
	assert_true(ranges_overlap(0, 10, 9, 1));
	assert_false(ranges_overlap(0, 10, 10, 1));
	assert_true(ranges_overlap(~0ULL, 1, 0, ~0ULL) == false);
	assert_false(ranges_overlap(5, 0, 0, 10));
}

static void endian(void **state)
{
	u8 b[8];

	store_be32(b, 0x01020304);
	assert_int_equal(b[0], 1);
	assert_int_equal(load_le32(b), 0x04030201);
	store_le(b, 2, 0xbeef);
	assert_int_equal(load_le(b, 2), 0xbeef);
	assert_int_equal(load_le(b, 3), 0);
}

static void iov(void **state)
{
	char a[4] = "abcd", b[3] = "efg", buf[8] = {0};
	struct iovec v[3] = {{a, 4}, {NULL, 0}, {b, 3}}, out[3], *p = v;
	size_t n = 3;

	assert_int_equal(iov_length(v, 3), 7);
	assert_int_equal(iov_to_buf(v, 3, 2, buf, 8), 5);
	assert_memory_equal(buf, "cdefg", 5);
	assert_int_equal(iov_slice(out, 3, v, 3, 3, 2), 2);
	assert_ptr_equal(out[1].iov_base, b);
	assert_int_equal(iov_slice(out, 1, v, 3, 3, 2), -E2BIG);
	assert_int_equal(iov_slice(out, 3, v, 3, 3, 5), -EINVAL);
	assert_int_equal(iov_from_buf(v, 3, 6, "xyz", 3), 1);
	assert_int_equal(b[2], 'x');
	assert_int_equal(iov_memset(v, 3, 1, 0, 99), 6);
	assert_false(iov_is_zero(v, 3, 7));
	a[0] = 0;
	assert_true(iov_is_zero(v, 3, 7));
	b[1] = 1;
	assert_false(iov_is_zero(v, 3, 7));
	assert_int_equal(iov_discard_front(&p, &n, 5), 5);
	assert_int_equal(n, 1);
	assert_int_equal(p->iov_len, 2);
}

struct item {
	int v;
	struct list link;
};

static void list(void **state)
{
	struct list head = LIST_INIT(head);
	struct item a = {.v = 1}, b = {.v = 2}, *i, *tmp;
	int sum = 0;

	list_add_tail(&head, &a.link);
	list_add_tail(&head, &b.link);
	list_for_each_entry_safe (i, tmp, &head, link) {
		sum = sum * 10 + i->v;
		list_del(&i->link);
	}
	assert_int_equal(sum, 12);
	assert_true(list_empty(&head));
	list_del(&a.link);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int rc;
		u64 value;
	} cases[] = {
		{"0", 0, 0},
		{"512", 0, 512},
		{"512M", 0, 512 * MiB},
		{"1.5G", 0, 1536 * MiB},
		{"4GiB", 0, 4 * GiB},
		{"4gb", 0, 4 * GiB},
		{"0x10", 0, 16},
		{"010M", 0, 10 * MiB},
		{"1.5", -EINVAL, 0},
		{"", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1X", -EINVAL, 0},
		{"1Mx", -EINVAL, 0},
		{"1.G", -EINVAL, 0},
		{"16E", -ERANGE, 0},
		{"15E", 0, 15ULL << 60},
		{"99999999999999999999", -ERANGE, 0},
		{"15.999999E", 0, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		u64 v = 0;

		assert_int_equal(parse_size(cases[i].text, &v), cases[i].rc);
		if (cases[i].value)
			assert_true(v == cases[i].value);
	}
}

static void size_text(void **state)
{
	char buf[32];

	assert_string_equal(format_size(buf, sizeof(buf), 512), "512 B");
	assert_string_equal(format_size(buf, sizeof(buf), 1536), "1.50 KiB");
	assert_string_equal(format_size(buf, sizeof(buf), 4 * GiB), "4 GiB");
}

static void printable(void **state)
{
	static const char *const cases[][2] = {
		{"plain, \xc3\xbc and \xf0\x9f\x90\xa7", "plain, \xc3\xbc and \xf0\x9f\x90\xa7"},
		{"\x1b[2J\n\x7f", "?[2J??"},
		{"\xc2\x9b"
		 "1m",
		 "?1m"},
		{"\xff\x80"
		 "a\xc3",
		 "??a?"},
		{"\xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80", "?? ??? ????"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[64];

		strcpy(text, cases[i][0]);
		str_make_printable(text);
		assert_string_equal(text, cases[i][1]);
	}
}

static void strings(void **state)
{
	struct str s = {0};

	for (int i = 0; i < 100; i++)
		str_add(&s, "%d,", i);
	assert_int_equal(s.len, 290);
	str_add_bytes(&s, "\0x", 2);
	assert_int_equal(s.text[s.len], 0);
	assert_false(s.failed);
	str_free(&s);
	assert_null(s.text);
}

struct disk {
	char *file;
	bool readonly;
	u64 size;
	int format;
};

static const char *const formats[] = {"raw", "qcow2", NULL};
static const struct opt disk_opts[] = {
	{"file", OPT_STRING, offsetof(struct disk, file), "FILE"},
	{"readonly", OPT_BOOL, offsetof(struct disk, readonly), "on|off"},
	{"size", OPT_SIZE, offsetof(struct disk, size), "SIZE", .dflt = "1M", .max = GiB},
	{"format", OPT_ENUM, offsetof(struct disk, format), "FORMAT", .choices = formats},
	OPT_END,
};

static int parse_disk(struct disk *d, const char *text, struct err *err)
{
	*d = (struct disk){0};
	assert_int_equal(opt_defaults(disk_opts, d, err), 0);
	return opt_parse_list(disk_opts, d, text, "file", err);
}

static void options(void **state)
{
	struct disk d;
	struct err err;

	assert_int_equal(parse_disk(&d, "a,,b.img,format=qcow2,readonly", &err), 0);
	assert_string_equal(d.file, "a,b.img");
	assert_int_equal(d.format, 1);
	assert_true(d.readonly);
	assert_int_equal(d.size, MiB);
	opt_free(disk_opts, &d);
	assert_int_equal(parse_disk(&d, "x,formt=raw", &err), -EINVAL);
	assert_non_null(strstr(err.text, "'format'"));
	opt_free(disk_opts, &d);
	assert_int_equal(parse_disk(&d, "x,size=2G", &err), -ERANGE);
	opt_free(disk_opts, &d);
	assert_int_equal(parse_disk(&d, "x,size=1k,size=2k", &err), -EINVAL);
	opt_free(disk_opts, &d);
	assert_int_equal(parse_disk(&d, "readonly=maybe", &err), -EINVAL);
	assert_int_equal(parse_disk(&d, "format=vmdk", &err), -EINVAL);
	assert_non_null(strstr(err.text, "raw, qcow2"));
	assert_int_equal(parse_disk(&d, "readonly", &err), 0);
	assert_true(d.readonly);
	assert_int_equal(parse_disk(&d, "", &err), 0);
	/* An '=' of the name's own. */
	assert_int_equal(parse_disk(&d, "rbd:p/i:conf=x,format=qcow2", &err), 0);
	assert_string_equal(d.file, "rbd:p/i:conf=x");
	assert_int_equal(d.format, 1);
	opt_free(disk_opts, &d);
	assert_int_equal(parse_disk(&d, "fil=x", &err), -EINVAL);
	assert_int_equal(parse_disk(&d, "x,rbd:p/i:conf=x", &err), -EINVAL);
	opt_free(disk_opts, &d);
}

static int lines;
static char last_line[1024];

static void count_line(enum log_level level, const char *line)
{
	lines++;
	strncpy(last_line, line, sizeof(last_line) - 1);
}

static void logging(void **state)
{
	char *big = malloc(5000);

	memset(big, 'x', 4999);
	big[4999] = 0;
	log_set_sink(count_line);
	for (int i = 0; i < 1000; i++)
		log_guest("bad descriptor %d", i);
	assert_int_equal(lines, 10);
	errno = ENOENT;
	log_errno("file %s", "x");
	assert_non_null(strstr(last_line, "file x: No such file"));
	assert_int_equal(errno, ENOENT);
	log_warn("%s", big);
	assert_true(strlen(last_line) < 1024);
	log_debug("hidden");
	assert_int_equal(lines, 12);
	log_set_sink(NULL);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bits),	   cmocka_unit_test(checked),	cmocka_unit_test(endian),
		cmocka_unit_test(iov),	   cmocka_unit_test(list),	cmocka_unit_test(sizes),
		cmocka_unit_test(strings), cmocka_unit_test(printable), cmocka_unit_test(size_text),
		cmocka_unit_test(options), cmocka_unit_test(logging),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
