/* The core and the file node: queues with and without a ring, caches, locks, the guard. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/block_int.h"
#include "rig.h"

#define SIZE (4 * MiB)

static char *folder;

static char *new_file(const char *name, u64 size)
{
	char *path = rig_path(folder, name);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
	return path;
}

static struct block *open_disk(const char *path, int cache, const char *format)
{
	struct block_options o = rig_options(path, format);
	struct err err = {""};
	struct block *b = NULL;

	o.cache = cache;
	if (block_open(&b, &o, &err))
		fprintf(stderr, "%s\n", err.text);
	rig_options_free(&o);
	return b;
}

static void exercise(struct block *b, bool queue, u32 unit, bool misalign, u64 seed)
{
	struct rig rig;
	struct err err;

	assert_non_null(b);
	assert_int_equal(rig_init(&rig, b, seed), 0);
	rig.unit = unit;
	rig.misalign = misalign;
	if (queue)
		assert_int_equal(block_queue_new(&rig.queue, b, 32, &err), 0);
	for (int i = 0; i < 300; i++)
		assert_int_equal(rig_step(&rig), 0);
	for (int i = 0; queue && i < 40; i++)
		assert_int_equal(rig_burst(&rig, 32), 0);
	block_queue_free(rig.queue);
	assert_int_equal(rig_compare(&rig), 0);
	rig_free(&rig);
	assert_int_equal(block_close(b), 0);
}

static void random_operations(void **state)
{
	for (int cache = BLOCK_CACHE_WRITEBACK; cache <= BLOCK_CACHE_UNSAFE; cache++) {
		char *path = new_file("random", SIZE);
		struct block *b = open_disk(path, cache, "raw");

		if (!b && cache == BLOCK_CACHE_NONE) {
			print_message("no O_DIRECT here\n");
			free(path);
			continue;
		}
		exercise(b, true, 512, false, 1);
		free(new_file("random", SIZE + 3));
		exercise(open_disk(path, cache, "raw"), true, 1, true, 2);
		free(new_file("random", SIZE));
		exercise(open_disk(path, cache, "raw"), false, 512, true, 3);
		free(path);
	}
}

/* io_uring_setup fails with EPERM from here on, as under a container's policy. */
static int forbid_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(code), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) ? -errno : 0;
}

static void without_uring(void **state)
{
	char *path = new_file("nouring", SIZE);
	struct block *b;
	struct rig rig;
	struct err err;
	int status, rc;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		rc = forbid_uring();
		b = rc ? NULL : open_disk(path, BLOCK_CACHE_WRITEBACK, "raw");
		if (!b || rig_init(&rig, b, 7) || block_queue_new(&rig.queue, b, 32, &err))
			_exit(rc ? 77 : 1);
		for (int i = 0; i < 60 && !rc; i++)
			rc = rig_burst(&rig, 32);
		if (!rc)
			rc = rig_compare(&rig);
		block_queue_free(rig.queue);
		_exit(rc || block_close(b) ? 2 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	free(path);
}

static void bounds_and_modes(void **state)
{
	char *path = new_file("bounds", 1 * MiB);
	struct block *b = open_disk(path, BLOCK_CACHE_WRITEBACK, "raw");
	struct block_options o = rig_options(path, "raw");
	struct block_queue *q;
	u8 buf[1024] = {0};
	struct iovec iov = {buf, sizeof(buf)};
	struct block_req r = {.op = BLOCK_READ, .len = 1024, .iov = &iov, .niov = 1};
	struct block_info info;
	struct err err;

	assert_non_null(b);
	assert_int_equal(block_queue_new(&q, b, 8, &err), 0);
	r.offset = 1 * MiB - 512;
	assert_int_equal(rig_wait(q, &r), -EINVAL);
	r.offset = ~0ULL - 100;
	r.len = 1024;
	assert_int_equal(rig_wait(q, &r), -EINVAL);
	r.offset = 1 * MiB;
	r.len = 0;
	assert_int_equal(rig_wait(q, &r), 0);
	assert_int_equal(block_read(b, buf, 1024, ~0ULL), -EINVAL);
	block_queue_free(q);
	assert_int_equal(block_close(b), 0);

	o.readonly = true;
	assert_int_equal(block_open(&b, &o, &err), 0);
	assert_int_equal(block_write(b, buf, 512, 0), -EROFS);
	assert_int_equal(block_discard(b, 512, 0), -EROFS);
	assert_int_equal(block_resize(b, 4096, true, &err), -EROFS);
	block_get_info(b, &info);
	assert_true(info.readonly);
	assert_string_equal(info.format, "raw");
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(path);
}

static u64 resized_to;

static void note_resize(void *arg, u64 size)
{
	resized_to = size;
}

static void holes_and_resize(void **state)
{
	char *path = new_file("holes", 1 * MiB);
	struct block *b = open_disk(path, BLOCK_CACHE_WRITEBACK, "raw");
	struct block_extent e;
	u8 buf[4096];
	struct err err;

	memset(buf, 0x5a, sizeof(buf));
	assert_int_equal(block_write(b, buf, sizeof(buf), 512 * KiB), 0);
	assert_int_equal(block_status(b, 0, 1 * MiB, &e), 0);
	assert_int_equal(e.len, 512 * KiB);
	assert_true(e.flags & BLOCK_ZERO);
	assert_int_equal(block_status(b, 512 * KiB, 1 * MiB, &e), 0);
	assert_int_equal(e.len, 4096);
	assert_true(e.flags & BLOCK_DATA);
	assert_int_equal(block_discard(b, 4096, 512 * KiB), 0);
	assert_int_equal(block_status(b, 0, 1 * MiB, &e), 0);
	assert_int_equal(e.len, 1 * MiB);

	block_on_resize(b, note_resize, NULL);
	assert_int_equal(block_resize(b, 512 * KiB, false, &err), -EINVAL);
	assert_int_equal(block_resize(b, 2 * MiB, false, &err), 0);
	assert_int_equal(resized_to, 2 * MiB);
	assert_int_equal(block_size(b), 2 * MiB);
	assert_int_equal(block_read(b, buf, 4096, 2 * MiB - 4096), 0);
	assert_int_equal(buf[4095], 0);
	assert_int_equal(block_close(b), 0);
	free(path);
}

static void locks(void **state)
{
	char *path = new_file("locks", 1 * MiB);
	struct block_options o = rig_options(path, "raw");
	struct block *writer, *reader, *second;
	struct err err;

	assert_int_equal(block_open(&writer, &o, &err), 0);
	assert_int_equal(block_open(&second, &o, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "in use"));
	o.readonly = true;
	assert_int_equal(block_open(&reader, &o, &err), -EAGAIN);
	if (rig_have("qemu-io")) {
		assert_int_not_equal(rig_run("qemu-io -f raw -c 'write 0 4k' %s 2>/dev/null", path),
				     0);
		assert_int_equal(block_close(writer), 0);
		assert_int_equal(block_open(&reader, &o, &err), 0);
		assert_int_not_equal(rig_run("qemu-io -f raw -c 'write 0 4k' %s 2>/dev/null", path),
				     0);
		assert_int_equal(rig_run("qemu-io -r -f raw -c 'read 0 4k' %s", path), 0);
	} else {
		assert_int_equal(block_close(writer), 0);
		assert_int_equal(block_open(&reader, &o, &err), 0);
	}
	assert_int_equal(block_open(&second, &o, &err), 0); /* readers share */
	assert_int_equal(block_close(reader), 0);
	assert_int_equal(block_close(second), 0);
	rig_options_free(&o);
	free(path);
}

static void guarded_sector(void **state)
{
	char *path = new_file("guard", 1 * MiB);
	struct block *b;
	struct block_queue *q;
	struct err err;
	u8 buf[4096] = "QFI\xfb";
	struct iovec iov = {buf, sizeof(buf)};
	struct block_req r = {.op = BLOCK_WRITE, .len = 4096, .iov = &iov, .niov = 1};
	struct block_info info;

	log_set_level(LOG_ERROR);
	b = open_disk(path, BLOCK_CACHE_WRITEBACK, NULL);
	assert_non_null(b);
	block_get_info(b, &info);
	assert_true(info.probed);
	assert_string_equal(info.format, "raw");
	assert_int_equal(block_write(b, buf, 4096, 0), -EPERM);
	assert_int_equal(block_write(b, "Q", 1, 0), 0);
	assert_int_equal(block_write(b, "FI\xfb", 3, 1), -EPERM); /* byte by byte neither */
	assert_int_equal(block_write(b, buf, 4096, 512), 0);
	assert_int_equal(block_queue_new(&q, b, 8, &err), 0);
	assert_int_equal(rig_wait(q, &r), -EPERM);
	buf[0] = 'x';
	r.len = 4096;
	assert_int_equal(rig_wait(q, &r), 0);
	block_queue_free(q);
	assert_int_equal(block_close(b), 0);
	log_set_level(LOG_INFO);

	b = open_disk(path, BLOCK_CACHE_WRITEBACK, "raw"); /* named: a raw disk holds anything */
	buf[0] = 'Q';
	assert_int_equal(block_write(b, buf, 4096, 0), 0);
	assert_int_equal(block_close(b), 0);
	free(path);
}

static void option_errors(void **state)
{
	struct block_options o = rig_options("/nonexistent/x", NULL);
	struct err err;
	struct block *b;

	assert_int_equal(block_open(&b, &o, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/x"));
	rig_options_free(&o);
	o = rig_options("/dev/null", NULL);
	assert_int_equal(block_open(&b, &o, &err), -EINVAL);
	rig_options_free(&o);
	o = rig_options("x", "vmdk");
	free(o.file);
	o.file = new_file("fmt", 512);
	assert_int_equal(block_open(&b, &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, "vmdk"));
	rig_options_free(&o);
}

/* ---- flushes ---- */

#define FLUSHES 24

static unsigned int flushes_done;

static void on_flush(struct block_req *req, int result)
{
	assert_int_equal(result, 0);
	flushes_done++;
}

/* Many at once from two queues: one is under way, and one more serves all the others. */
static void shared_flushes(void **state)
{
	char *path = new_file("flushes", SIZE);
	struct block *b = open_disk(path, BLOCK_CACHE_WRITEBACK, "raw");
	static struct block_req reqs[2 * FLUSHES];
	struct block_queue *q[2];
	struct err err;
	u64 before;

	assert_non_null(b);
	for (int i = 0; i < 2; i++)
		assert_int_equal(block_queue_new(&q[i], b, 64, &err), 0);
	if (!block_queue_has_ring(q[0]))
		skip();
	for (int round = 0; round < 20; round++) {
		flushes_done = 0;
		assert_int_equal(block_write(b, "dirty", 5, (u64)round * 4096), 0);
		before = block_file_syncs(b);
		for (int i = 0; i < 2 * FLUSHES; i++) {
			reqs[i] = (struct block_req){.op = BLOCK_FLUSH, .done = on_flush};
			block_submit(q[i % 2], &reqs[i]);
		}
		/* Each queue's answers may hang on the other's. */
		while (flushes_done < 2 * FLUSHES)
			for (int i = 0; i < 2; i++) {
				block_queue_flush(q[i]);
				block_queue_poll(q[i]);
			}
		assert_in_range(block_file_syncs(b) - before, 1, 3);
	}
	for (int i = 0; i < 2; i++)
		block_queue_free(q[i]);
	assert_int_equal(block_close(b), 0);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations),
		cmocka_unit_test(without_uring),
		cmocka_unit_test(bounds_and_modes),
		cmocka_unit_test(holes_and_resize),
		cmocka_unit_test(locks),
		cmocka_unit_test(guarded_sector),
		cmocka_unit_test(option_errors),
		cmocka_unit_test(shared_flushes),
	};
	int rc;

	folder = rig_folder();
	if (!folder)
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	rig_folder_free(folder);
	return rc;
}
