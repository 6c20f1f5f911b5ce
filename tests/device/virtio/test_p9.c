/* The shared folder: 9P2000.L requests against a real folder. */
#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "virtio/p9.h"

#define OUT  0x800000
#define IN   0x900000
#define BIG  0x20000
#define ROOT 1

static struct driver d;
static char top[64], dir[96];

/* ---- making requests ---- */

static u8 *req;
static u32 req_len;
static const u8 *ans;
static u32 ans_len;

static void begin(u8 type)
{
	req = driver_ptr(&d, OUT);
	req[4] = type;
	store_le16(req + 5, 77);
	req_len = 7;
}

static void put(unsigned int size, u64 v)
{
	store_le(req + req_len, size, v);
	req_len += size;
}

static void put_string(const char *s)
{
	put(2, strlen(s));
	memcpy(req + req_len, s, strlen(s));
	req_len += (u32)strlen(s);
}

/* Send; the error of the answer, or 0 with ans and ans_len behind the header. */
static int call(u32 in_len)
{
	struct driver_buf bufs[4];
	unsigned int n = 0;
	u8 type = req[4];
	u32 len;

	store_le32(req, req_len);
	memset(driver_ptr(&d, IN), 0xcc, 64);
	bufs[n++] = (struct driver_buf){OUT, 7, false};
	if (req_len > 7)
		bufs[n++] = (struct driver_buf){OUT + 7, req_len - 7, false};
	bufs[n++] = (struct driver_buf){IN, 11, true};
	if (in_len > 11)
		bufs[n++] = (struct driver_buf){IN + 11, in_len - 11, true};
	len = driver_do(&d.queue[0], bufs, n);
	ans = driver_ptr(&d, IN);
	assert_true(len >= 7 && len <= in_len);
	assert_int_equal(load_le32(ans), len);
	assert_int_equal(load_le16(ans + 5), 77);
	if (ans[4] == 7) {
		assert_int_equal(len, 11);
		return (int)load_le32(ans + 7);
	}
	assert_int_equal(ans[4], type + 1);
	ans += 7;
	ans_len = len - 7;
	return 0;
}

static int walk(u32 fid, u32 newfid, int n, ...)
{
	va_list ap;

	begin(110);
	put(4, fid);
	put(4, newfid);
	put(2, (u64)n);
	va_start(ap, n);
	for (int i = 0; i < n; i++)
		put_string(va_arg(ap, const char *));
	va_end(ap);
	return call(4096);
}

static int clunk(u32 fid)
{
	begin(120);
	put(4, fid);
	return call(4096);
}

static int lopen(u32 fid, u32 flags)
{
	begin(12);
	put(4, fid);
	put(4, flags);
	return call(4096);
}

static int rw(u8 type, u32 fid, u64 offset, u32 count, const void *data)
{
	begin(type);
	put(4, fid);
	put(8, offset);
	put(4, count);
	if (data) {
		memcpy(req + req_len, data, count);
		req_len += count;
	}
	return call(BIG);
}

static int lcreate(u32 fid, const char *name, u32 flags, u32 mode)
{
	begin(14);
	put(4, fid);
	put_string(name);
	put(4, flags);
	put(4, mode);
	put(4, 0);
	return call(4096);
}

static const char *in_dir(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void open_share(const struct driver_mode *mode, bool readonly)
{
	struct virtio_p9_options options = {.tag = "work", .readonly = readonly};

	snprintf(top, sizeof(top), "/tmp/bothy-p9-XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(dir, sizeof(dir), "%s/share", top);
	mkdir(dir, 0755);
	options.path = dir;
	write_file(in_dir("hello"), "hello, guest");
	write_file(in_dir("../secret"), "not for guests");
	mkdir(in_dir("sub"), 0755);
	write_file(in_dir("sub/inner"), "inside");
	assert_int_equal(symlink("../secret", in_dir("escape")), 0);
	assert_int_equal(symlink("/etc", in_dir("absolute")), 0);
	assert_int_equal(symlink("sub", in_dir("link")), 0);
	assert_int_equal(mkfifo(in_dir("fifo"), 0644), 0);
	driver_open(&d, mode, &virtio_9p, &options);
	driver_start(&d, VIRTIO_F(0), 1);
	begin(100);
	put(4, BIG);
	put_string("9P2000.L");
	assert_int_equal(call(4096), 0);
	assert_int_equal(load_le32(ans), BIG);
	assert_memory_equal(ans + 4, "\x08\0009P2000.L", 10);
	begin(104);
	put(4, ROOT);
	put(4, ~0u);
	put_string("root");
	put_string("");
	put(4, 0);
	assert_int_equal(call(4096), 0);
	assert_int_equal(ans[0], 0x80);
}

static void close_share(void)
{
	char command[128];

	driver_close(&d);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	assert_int_equal(system(command), 0);
}

/* ---- tests ---- */

static void every_mode_serves_files(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		static u8 data[50000];
		char seen[50000];
		int fd;

		open_share(&driver_modes[m], false);
		assert_int_equal(driver_config(&d, 0, 2), 4);
		for (u32 i = 0; i < 4; i++)
			assert_int_equal(driver_config(&d, 2 + i, 1), "work"[i]);
		assert_int_equal(walk(ROOT, 2, 1, "hello"), 0);
		assert_int_equal(load_le16(ans), 1);
		assert_int_equal(lopen(2, O_RDONLY), 0);
		assert_int_equal(rw(116, 2, 0, 4096, NULL), 0);
		assert_int_equal(load_le32(ans), 12);
		assert_memory_equal(ans + 4, "hello, guest", 12);
		assert_int_equal(rw(116, 2, 7, 3, NULL), 0);
		assert_memory_equal(ans, "\3\0\0\0gue", 7);
		assert_int_equal(rw(116, 2, 100, 10, NULL), 0);
		assert_int_equal(load_le32(ans), 0);
		assert_int_equal(clunk(2), 0);
		assert_int_equal(rw(116, 2, 0, 10, NULL), EBADF);
		/* A big one, written and read back. */
		for (u32 i = 0; i < sizeof(data); i++)
			data[i] = (u8)(i * 7 + (i >> 8));
		assert_int_equal(walk(ROOT, 3, 0), 0);
		assert_int_equal(lcreate(3, "new", O_RDWR, 0640), 0);
		assert_int_equal(rw(118, 3, 0, sizeof(data), data), 0);
		assert_int_equal(load_le32(ans), sizeof(data));
		assert_int_equal(rw(116, 3, 0, sizeof(data), NULL), 0);
		assert_int_equal(load_le32(ans), sizeof(data));
		assert_memory_equal(ans + 4, data, sizeof(data));
		fd = open(in_dir("new"), O_RDONLY);
		assert_int_equal(read(fd, seen, sizeof(seen)), sizeof(data));
		assert_memory_equal(seen, data, sizeof(data));
		close(fd);
		/* No room for the answer: an error, or nothing, but never past the buffer. */
		begin(116);
		put(4, 3);
		put(8, 0);
		put(4, 1000);
		assert_int_equal(call(111), 0);
		assert_int_equal(load_le32(ans), 100);
		close_share();
	}
}

/* Neither "..", nor a link, nor a path as a name leaves the folder. */
static void nothing_leads_out(void **state)
{
	static const char *const bad[] = {"..",	       ".",	    "",	     "/etc",
					  "sub/inner", "../secret", "a/../b"};

	open_share(&driver_modes[0], false);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int rc = walk(ROOT, 9, 1, bad[i]);

		assert_true(rc == ENOENT || rc == EINVAL);
		assert_true(lcreate(ROOT, bad[i], O_RDWR, 0600));
	}
	/* Links are objects that can be looked at and not followed. */
	assert_int_equal(walk(ROOT, 4, 1, "escape"), 0);
	assert_int_equal(ans[2], 0x02);
	assert_int_equal(lopen(4, O_RDONLY), ELOOP);
	begin(22);
	put(4, 4);
	assert_int_equal(call(4096), 0);
	assert_memory_equal(ans, "\11\0../secret", 11);
	assert_int_equal(clunk(4), 0);
	/* Through a link: as far as the link. */
	assert_int_equal(walk(ROOT, 5, 2, "link", "inner"), 0);
	assert_int_equal(load_le16(ans), 1);
	assert_int_equal(clunk(5), EBADF);
	assert_int_equal(walk(ROOT, 5, 2, "absolute", "passwd"), 0);
	assert_int_equal(load_le16(ans), 1);
	/* Creating where a link is does not write behind it. */
	assert_int_equal(walk(ROOT, 6, 0), 0);
	assert_int_equal(lcreate(6, "escape", O_RDWR | O_TRUNC, 0600), ELOOP);
	/* set-user-id bits never reach the host. */
	assert_int_equal(lcreate(6, "suid", O_RDWR, 06755), 0);
	{
		struct stat st;
		char text[32] = "";
		int fd;

		assert_int_equal(stat(in_dir("suid"), &st), 0);
		assert_int_equal(st.st_mode & 07000, 0);
		fd = open(in_dir("../secret"), O_RDONLY);
		assert_int_equal(read(fd, text, sizeof(text)), 14);
		close(fd);
	}
	close_share();
}

/* CVE-2023-2861: special files cannot be opened, truncated or made. */
static void special_files_are_refused(void **state)
{
	open_share(&driver_modes[0], false);
	assert_int_equal(walk(ROOT, 2, 1, "fifo"), 0);
	assert_int_equal(lopen(2, O_RDONLY), EACCES);
	assert_int_equal(lopen(2, O_WRONLY), EACCES);
	begin(26); /* setattr: size */
	put(4, 2);
	put(4, 8);
	for (int i = 0; i < 3; i++)
		put(4, 0);
	for (int i = 0; i < 5; i++)
		put(8, 0);
	assert_int_equal(call(4096), EACCES);
	assert_int_equal(walk(ROOT, 3, 0), 0);
	/* Without a reader this would block, were the FIFO opened. */
	assert_true(lcreate(3, "fifo", O_RDWR, 0600));
	for (u32 type = 1; type < 15; type++) {
		begin(18);
		put(4, ROOT);
		put_string("made");
		put(4, type << 12 | 0600);
		put(4, 1);
		put(4, 3);
		put(4, 0);
		assert_int_equal(call(4096), type == 8 ? 0 : EPERM);
	}
	close_share();
}

static void read_only_is_read_only(void **state)
{
	open_share(&driver_modes[0], true);
	assert_int_equal(walk(ROOT, 2, 1, "hello"), 0);
	assert_int_equal(lopen(2, O_RDWR), EROFS);
	assert_int_equal(lopen(2, O_RDONLY | O_TRUNC), EROFS);
	assert_int_equal(lopen(2, O_RDONLY), 0);
	assert_int_equal(rw(118, 2, 0, 3, "abc"), EROFS);
	assert_int_equal(lcreate(ROOT, "new", O_RDWR, 0600), EROFS);
	begin(76);
	put(4, ROOT);
	put_string("hello");
	put(4, 0);
	assert_int_equal(call(4096), EROFS);
	begin(72);
	put(4, ROOT);
	put_string("d");
	put(4, 0755);
	put(4, 0);
	assert_int_equal(call(4096), EROFS);
	assert_int_equal(access(in_dir("hello"), F_OK), 0);
	close_share();
}

static void names_are_changed(void **state)
{
	struct stat st;

	open_share(&driver_modes[3], false);
	begin(72); /* mkdir */
	put(4, ROOT);
	put_string("made");
	put(4, 0750);
	put(4, 0);
	assert_int_equal(call(4096), 0);
	assert_int_equal(ans[0], 0x80);
	assert_int_equal(walk(ROOT, 2, 1, "made"), 0);
	begin(16); /* symlink: any text, which is never followed here */
	put(4, 2);
	put_string("sym");
	put_string("/etc/passwd");
	put(4, 0);
	assert_int_equal(call(4096), 0);
	assert_int_equal(ans[0], 0x02);
	begin(74); /* renameat */
	put(4, ROOT);
	put_string("hello");
	put(4, 2);
	put_string("moved");
	assert_int_equal(call(4096), 0);
	assert_int_equal(stat(in_dir("made/moved"), &st), 0);
	assert_int_equal(st.st_size, 12);
	assert_int_equal(walk(2, 3, 1, "moved"), 0);
	begin(70); /* link */
	put(4, ROOT);
	put(4, 3);
	put_string("hard");
	assert_int_equal(call(4096), 0);
	assert_int_equal(stat(in_dir("hard"), &st), 0);
	assert_int_equal(st.st_nlink, 2);
	begin(74); /* out of the folder */
	put(4, ROOT);
	put_string("hard");
	put(4, ROOT);
	put_string("../out");
	assert_int_equal(call(4096), EINVAL);
	begin(76); /* unlinkat: a directory that is not empty, then a file */
	put(4, ROOT);
	put_string("made");
	put(4, 0x200);
	assert_int_equal(call(4096), ENOTEMPTY);
	begin(76);
	put(4, ROOT);
	put_string("hard");
	put(4, 0);
	assert_int_equal(call(4096), 0);
	assert_int_equal(access(in_dir("hard"), F_OK), -1);
	/* Attributes: size, mode without set-user-id, times. */
	begin(26);
	put(4, 3);
	put(4, 1 | 8 | 0x20 | 0x100);
	put(4, 06711);
	put(4, 0);
	put(4, 0);
	put(8, 5);
	put(8, 0);
	put(8, 0);
	put(8, 1000000);
	put(8, 0);
	assert_int_equal(call(4096), 0);
	assert_int_equal(stat(in_dir("made/moved"), &st), 0);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(st.st_mode & 07777, 0711);
	assert_int_equal(st.st_mtim.tv_sec, 1000000);
	begin(24); /* getattr */
	put(4, 3);
	put(8, 0x7ff);
	assert_int_equal(call(4096), 0);
	assert_int_equal(load_le32(ans + 8 + 13), st.st_mode);
	assert_int_equal(load_le64(ans + 8 + 13 + 12 + 16), 5);
	begin(8); /* statfs */
	put(4, 3);
	assert_int_equal(call(4096), 0);
	assert_int_equal(ans_len, 60);
	close_share();
}

/* All entries, in as many answers as it takes, each once. */
static void directories_are_listed(void **state)
{
	for (u32 room = 300; room < 40000; room *= 11) {
		bool seen[300] = {false};
		u32 entries = 0;
		u64 offset = 0;

		open_share(&driver_modes[1], false);
		for (int i = 0; i < 300; i++) {
			char name[32];

			snprintf(name, sizeof(name), "sub/file-%d", i);
			write_file(in_dir(name), "");
		}
		assert_int_equal(walk(ROOT, 2, 1, "sub"), 0);
		assert_int_equal(lopen(2, O_RDONLY | O_DIRECTORY), 0);
		for (int calls = 0;; calls++) {
			u32 len, at = 4;

			assert_true(calls < 400);
			assert_int_equal(rw(40, 2, offset, room, NULL), 0);
			len = load_le32(ans);
			assert_true(len <= room);
			if (!len)
				break;
			while (at < 4 + len) {
				u32 n = load_le16(ans + at + 22);
				int number;
				char name[64] = "";

				memcpy(name, ans + at + 24, n);
				offset = load_le64(ans + at + 13);
				if (sscanf(name, "file-%d", &number) == 1) {
					assert_false(seen[number]);
					seen[number] = true;
				}
				entries++;
				at += 24 + n;
			}
			assert_int_equal(at, 4 + len);
		}
		assert_int_equal(entries, 303); /* with . and .. and inner */
		assert_int_equal(rw(40, 2, 0, 10, NULL), EINVAL);
		close_share();
	}
}

/* Fids are bounded, and gone after a new session (CVE-2021-20181). */
static void fids_are_bounded(void **state)
{
	struct rlimit limit;
	int rc = 0;
	u32 n;

	open_share(&driver_modes[0], false);
	for (n = 10; n < 20000 && !rc; n++)
		rc = walk(ROOT, n, 0);
	/* Each is a descriptor: the host may allow fewer than we do. */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(rc, limit.rlim_cur > 9000 ? ENFILE : EMFILE);
	assert_true(n > 500);
	begin(104); /* attach */
	put(4, ROOT);
	put(4, ~0u);
	put_string("root");
	put_string("");
	put(4, 0);
	assert_int_equal(call(4096), limit.rlim_cur > 9000 ? EBADF : EMFILE);
	assert_int_equal(walk(ROOT, 10, 0), EBADF); /* in use */
	assert_int_equal(walk(77777, 77778, 0), EBADF);
	begin(100);
	put(4, 8192);
	put_string("9P2000.L");
	assert_int_equal(call(4096), 0);
	assert_int_equal(walk(ROOT, 10, 0), EBADF);
	begin(100);
	put(4, 8192);
	put_string("9P2000.u");
	assert_int_equal(call(4096), 0);
	assert_memory_equal(ans + 4, "\7\0unknown", 9);
	close_share();
}

/* Its files are the host's: a saved VM could not find them again, and saving says so. */
static void saving_is_refused(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m += 5) {
		struct str out = {0};

		open_share(&driver_modes[m], false);
		bus_lock(d.h->bus);
		assert_int_equal(state_save(d.device->class->state, d.device, &out), -ENOTSUP);
		bus_unlock(d.h->bus);
		str_free(&out);
		close_share();
	}
}

/* Names and lengths that do not fit: an error for each, and nothing past a buffer. */
static void lengths_are_checked(void **state)
{
	char longest[300];

	open_share(&driver_modes[0], false);
	memset(longest, 'n', 299);
	longest[299] = 0;
	assert_true(walk(ROOT, 2, 1, longest) != 0);
	assert_int_equal(lcreate(ROOT, longest, O_RDWR, 0600), EINVAL);
	begin(72); /* mkdir, with a NUL in the name: not that of what stands before it */
	put(4, ROOT);
	put(2, 6);
	memcpy(req + req_len, "ab\0cde", 6);
	req_len += 6;
	put(4, 0755);
	put(4, 0);
	assert_int_equal(call(4096), EINVAL);
	assert_int_equal(access(in_dir("ab"), F_OK), -1);
	begin(72); /* a name that is longer than the request, after one that was */
	put(4, ROOT);
	put(2, 40);
	memcpy(req + req_len, "abc", 3);
	req_len += 3;
	assert_true(call(4096) != 0);
	assert_int_equal(walk(ROOT, 2, 1, "abcnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"), ENOENT);
	begin(110); /* more steps than a walk may have */
	put(4, ROOT);
	put(4, 2);
	put(2, 17);
	for (int i = 0; i < 17; i++)
		put_string("sub");
	assert_int_equal(call(4096), EINVAL);
	begin(24); /* getattr, and no room for its answer */
	put(4, ROOT);
	put(8, 0x7ff);
	assert_int_equal(call(40), EINVAL);
	/* More to write than there is. */
	assert_int_equal(walk(ROOT, 3, 0), 0);
	assert_int_equal(lcreate(3, "new", O_RDWR, 0600), 0);
	begin(118);
	put(4, 3);
	put(8, 0);
	put(4, 1000);
	put(4, 0);
	assert_int_equal(call(4096), EINVAL);
	for (u32 type = 128; type < 256; type += 2) { /* there are none up there */
		begin((u8)type);
		put(4, 8192);
		put_string("9P2000.L");
		assert_int_equal(call(4096), EOPNOTSUPP);
	}
	assert_int_equal(walk(ROOT, 4, 0), 0); /* still the same session */
	close_share();
}

/* Requests of every type cut short at every length, and of noise. */
static void broken_requests_are_refused(void **state)
{
	u64 seed = 9;

	open_share(&driver_modes[0], false);
	for (u32 type = 0; type < 256; type += 2)
		for (u32 len = 7; len < 48; len++) {
			begin((u8)type);
			for (u32 i = 7; i < len; i++)
				put(1, i == 7 ? ROOT : i < 11 ? 0 : harness_random(&seed) & 3);
			call(4096);
		}
	for (int i = 0; i < 3000; i++) {
		u32 len = 7 + (u32)(harness_random(&seed) % 200);

		begin((u8)(harness_random(&seed) % 64 * 2));
		while (req_len < len)
			put(1, harness_random(&seed) % 4 ? harness_random(&seed) % 8
							 : harness_random(&seed));
		call(4096);
	}
	/* A size that lies; and less than a header. */
	{
		const struct driver_buf bufs[] = {{OUT, 7, false}, {IN, 64, true}};
		const struct driver_buf tiny[] = {{OUT, 3, false}, {IN, 64, true}};
		const struct driver_buf mute = {OUT, 7, false};

		store_le32(driver_ptr(&d, OUT), 0xffffffff);
		assert_int_equal(driver_do(&d.queue[0], bufs, 2), 0);
		assert_int_equal(driver_do(&d.queue[0], tiny, 2), 0);
		assert_int_equal(driver_do(&d.queue[0], &mute, 1), 0);
	}
	close_share();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mode_serves_files),
		cmocka_unit_test(nothing_leads_out),
		cmocka_unit_test(special_files_are_refused),
		cmocka_unit_test(read_only_is_read_only),
		cmocka_unit_test(names_are_changed),
		cmocka_unit_test(directories_are_listed),
		cmocka_unit_test(fids_are_bounded),
		cmocka_unit_test(saving_is_refused),
		cmocka_unit_test(lengths_are_checked),
		cmocka_unit_test(broken_requests_are_refused),
	};

	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
