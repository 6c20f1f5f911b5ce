/* Stacks: who may open what, filters, and several queues on one image. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/image.h"
#include "os/clock.h"
#include "rig.h"

static char *folder;

static char *new_image(const char *name, const char *format, u64 size, const char *backing,
		       const char *backing_fmt)
{
	struct block_create c = {0};
	char *path = rig_path(folder, name);
	struct err err = {""};

	assert_int_equal(opt_defaults(block_create_table, &c, &err), 0);
	c.size = size;
	c.backing_file = (char *)(uintptr_t)backing;
	c.backing_fmt = (char *)(uintptr_t)backing_fmt;
	assert_int_equal(block_create(path, format, &c, &err), 0);
	return path;
}

static int try_open(struct block **b, struct block_options *o, struct err *err)
{
	err->text[0] = '\0';
	return block_open(b, o, err);
}

static void names_inside_images(void **state)
{
	char *base = new_image("base.raw", "raw", 1 * MiB, NULL, NULL);
	char *over = new_image("over", "qcow2", 1 * MiB, "base.raw", "raw");
	struct block_options o = rig_options(over, "qcow2");
	struct block *b;
	struct err err;

	/* Nothing is opened that the user did not allow. */
	assert_int_equal(try_open(&b, &o, &err), -EPERM);
	assert_non_null(strstr(err.text, "backing=on"));
	o.metadata_only = true;
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_close(b), 0);
	o.metadata_only = false;
	o.backing = true;
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_close(b), 0);

	/* The user's own choice goes before the image's. */
	o.backing = false;
	o.backing_file = strdup(base);
	o.backing_format = strdup("raw");
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(base);
	free(over);
}

static void names_are_file_names(void **state)
{
	static const char *const names[] = {"nbd://127.0.0.1/x", "json:{\"driver\":\"file\"}",
					    "file:base.raw", "fat:/"};
	char *base = new_image("base2.raw", "raw", 1 * MiB, NULL, NULL);

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *over = new_image("address", "qcow2", 1 * MiB, names[i], "raw");
		struct block_options o = rig_options(over, "qcow2");
		struct block *b;
		struct err err;

		o.backing = true;
		assert_int_equal(try_open(&b, &o, &err), -ENOENT);
		rig_options_free(&o);
		free(over);
	}
	free(base);
}

static void circles_and_chains(void **state)
{
	char *circle = new_image("circle", "qcow2", 1 * MiB, "circle", "qcow2"), *last = NULL;
	struct block_options o = rig_options(circle, "qcow2");
	struct block *b;
	struct err err;
	u8 buf[512];

	o.backing = true;
	o.lock = false;
	assert_int_equal(try_open(&b, &o, &err), -ELOOP);
	rig_options_free(&o);

	for (int i = 0; i < 12; i++) {
		char name[16], below[16];

		snprintf(name, sizeof(name), "chain%d", i);
		snprintf(below, sizeof(below), "chain%d", i - 1);
		free(last);
		last = new_image(name, "qcow2", 1 * MiB, i ? below : NULL, i ? "qcow2" : NULL);
		o = rig_options(last, "qcow2");
		o.backing = true;
		assert_int_equal(try_open(&b, &o, &err), 0);
		memset(buf, i + 1, sizeof(buf));
		assert_int_equal(block_write(b, buf, 512, (u64)i * 65536), 0);
		assert_int_equal(block_close(b), 0);
		rig_options_free(&o);
	}
	o = rig_options(last, NULL);
	o.backing = true;
	assert_int_equal(try_open(&b, &o, &err), 0);
	for (u64 i = 0; i < 12; i++) {
		struct block_extent e;

		assert_int_equal(block_read(b, buf, 512, i * 65536), 0);
		assert_int_equal(buf[511], i + 1);
		assert_int_equal(block_status(b, i * 65536, 512, &e), 0);
		assert_int_equal(e.depth, 11 - i);
	}
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(circle);
	free(last);
}

static void backing_without_format(void **state)
{
	char *base = new_image("noformat.raw", "raw", 1 * MiB, NULL, NULL), *over;
	struct block_options o;
	struct block *b;
	struct err err;

	over = new_image("noformat", "qed", 1 * MiB, base, "qcow2");
	o = rig_options(over, "qed");
	o.backing = true;
	assert_int_equal(try_open(&b, &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, "backing-format"));
	o.backing_format = strdup("raw");
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(base);
	free(over);
}

static void copy_on_read(void **state)
{
	char *base = new_image("cor.raw", "raw", 2 * MiB, NULL, NULL), *over;
	struct block_options o = rig_options(base, "raw");
	struct block *b;
	struct err err;
	u8 *buf = malloc(2 * MiB), *again = malloc(2 * MiB);

	assert_int_equal(try_open(&b, &o, &err), 0);
	for (u64 i = 0; i < 2 * MiB; i++)
		buf[i] = (u8)(i / 4096 + 1);
	assert_int_equal(block_write(b, buf, 2 * MiB, 0), 0);
	assert_int_equal(block_close(b), 0);
	o.copy_on_read = true;
	assert_int_equal(try_open(&b, &o, &err), -EINVAL);
	rig_options_free(&o);

	over = new_image("cor", "qcow2", 2 * MiB, base, "raw");
	o = rig_options(over, "qcow2");
	o.backing = o.copy_on_read = true;
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_write(b, "new", 3, 100), 0);
	memcpy(buf + 100, "new", 3);
	assert_int_equal(block_read(b, again, 2 * MiB, 0), 0);
	assert_memory_equal(buf, again, 2 * MiB);
	assert_int_equal(block_close(b), 0);
	/* Without the backing file now. */
	o.copy_on_read = false;
	o.metadata_only = true;
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_read(b, again, 2 * MiB, 0), 0);
	assert_memory_equal(buf, again, 2 * MiB);
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(base);
	free(over);
	free(buf);
	free(again);
}

struct counted {
	struct block_req req;
	struct iovec iov;
	u8 data[512];
	int *left;
};

static void count_down(struct block_req *req, int result)
{
	struct counted *c = container_of(req, struct counted, req);

	assert_int_equal(result, 0);
	--*c->left;
}

static void throttle(void **state)
{
	char *path = new_image("slow", "raw", 1 * MiB, NULL, NULL);
	struct block_options o = rig_options(path, "raw");
	struct counted *c = calloc(30, sizeof(*c));
	struct block_queue *q;
	struct block *b;
	struct err err;
	int left = 30;
	u64 start;

	o.iops = 100;
	o.iops_burst = 10;
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_queue_new(&q, b, 32, &err), 0);
	start = clock_now_ns();
	for (int i = 0; i < 30; i++) {
		c[i].iov = (struct iovec){c[i].data, 512};
		c[i].left = &left;
		c[i].req = (struct block_req){.op = i % 2 ? BLOCK_READ : BLOCK_WRITE,
					      .offset = (u64)i * 512,
					      .len = 512,
					      .iov = &c[i].iov,
					      .niov = 1,
					      .done = count_down};
		block_submit(q, &c[i].req);
	}
	block_queue_flush(q);
	while (left)
		if (!block_queue_poll(q))
			usleep(1000);
	/* 30 requests, of which at most 11 go at once: no machine is fast enough to break this. */
	assert_true(clock_now_ns() - start >= 18 * 10 * NSEC_PER_MSEC);

	/* Draining does not wait for the limit: 1 a minute would take half an hour. */
	block_queue_free(q);
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(c);
	free(path);
}

struct worker {
	pthread_t id;
	struct block *block;
	u64 first, count, seed;
	int rc;
};

/* Every worker has sectors of its own, interleaved with the others' in each cluster. */
/* Clusters that could not be given back when they were freed, because a read was in flight that
 * might have used them, are when the image is closed. */
static void freed_under_a_read(void **state)
{
	char *path = new_image("freed", "qcow2", 4 * MiB, NULL, NULL);
	struct block_options o = rig_options(path, "qcow2");
	static u8 buf[1 * MiB];
	int left = 1;
	struct counted c = {.left = &left, .iov = {c.data, sizeof(c.data)}};
	struct block_check check = {0};
	struct block_queue *q;
	struct block *b;
	struct err err;

	memset(buf, 1, sizeof(buf));
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_write(b, buf, sizeof(buf), 0), 0);
	assert_int_equal(block_flush(b), 0);
	assert_int_equal(block_queue_new(&q, b, 8, &err), 0);
	c.req = (struct block_req){.op = BLOCK_READ,
				   .len = sizeof(c.data),
				   .iov = &c.iov,
				   .niov = 1,
				   .done = count_down};
	block_submit(q, &c.req);
	assert_int_equal(block_discard(b, sizeof(buf), 0), 0);
	assert_int_equal(block_flush(b), 0);
	assert_int_equal(block_flush(b), 0);
	assert_int_equal(block_queue_inflight(q), 1);
	block_queue_drain(q);
	block_queue_free(q);
	assert_int_equal(block_close(b), 0);

	o.metadata_only = true;
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_check(b, 0, &check, &err), 0);
	assert_int_equal(check.errors, 0);
	assert_int_equal(check.leaks, 0);
	assert_int_equal(block_close(b), 0);
	rig_options_free(&o);
	free(path);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct block_queue *q;
	struct err err;
	u8 want[512], buf[512];
	struct iovec iov = {buf, 512};
	u32 *version = calloc(w->count, sizeof(*version));

	w->rc = block_queue_new(&q, w->block, 16, &err);
	for (u32 i = 1; i < 600 && !w->rc; i++) {
		u64 slot, sector;
		struct block_req r = {.iov = &iov, .niov = 1, .len = 512};

		w->seed = w->seed * 6364136223846793005ULL + 1442695040888963407ULL;
		slot = (w->seed >> 33) % w->count;
		sector = slot * 4 + w->first;
		r.offset = sector * 512;
		memset(want, (int)version[slot], 512);
		if (i % 37 == 0) {
			r.op = BLOCK_FLUSH;
		} else if (i % 3) {
			version[slot] = i % 251 + 1;
			memset(buf, (int)version[slot], 512);
			r.op = BLOCK_WRITE;
		} else {
			r.op = BLOCK_READ;
		}
		w->rc = rig_wait(q, &r);
		if (!w->rc && r.op == BLOCK_READ && memcmp(buf, want, 512))
			w->rc = -EBADMSG;
	}
	block_queue_free(q);
	free(version);
	return NULL;
}

static void many_queues(void **state)
{
	static const char *const backings[] = {NULL, "many.raw"};
	char *base = new_image("many.raw", "raw", 4 * MiB, NULL, NULL);

	for (size_t k = 0; k < 2; k++) {
		char *path = new_image("many", "qcow2", 4 * MiB, backings[k],
				       backings[k] ? "raw" : NULL);
		struct block_options o = rig_options(path, "qcow2");
		struct worker w[4];
		struct block_check check = {0};
		struct block *b;
		struct err err;

		o.backing = true;
		assert_int_equal(try_open(&b, &o, &err), 0);
		for (u64 i = 0; i < 4; i++) {
			w[i] = (struct worker){
				.block = b, .first = i, .count = 4 * MiB / 2048, .seed = i + 1};
			assert_int_equal(pthread_create(&w[i].id, NULL, work, &w[i]), 0);
		}
		for (int i = 0; i < 4; i++) {
			pthread_join(w[i].id, NULL);
			assert_int_equal(w[i].rc, 0);
		}
		assert_int_equal(block_check(b, 0, &check, &err), 0);
		assert_int_equal(check.errors, 0);
		assert_int_equal(block_close(b), 0);
		rig_options_free(&o);
		free(path);
	}
	free(base);
}

static void missing_plugin(void **state)
{
	char *path = new_image("packed", "qcow2", 1 * MiB, NULL, NULL);
	struct block_options o = rig_options(path, "qcow2");
	char *plugins = strdup(getenv("BOTHY_PLUGINS") ? getenv("BOTHY_PLUGINS") : "");
	struct iovec iov = {calloc(1, 65536), 65536};
	struct block *b;
	struct err err;

	setenv("BOTHY_PLUGINS", "/nonexistent", 1);
	assert_int_equal(try_open(&b, &o, &err), 0);
	assert_int_equal(block_writev(b, &iov, 1, 0, BLOCK_COMPRESS), -EIO);
	assert_int_equal(block_close(b), 0);
	setenv("BOTHY_PLUGINS", plugins, 1);
	rig_options_free(&o);
	free(iov.iov_base);
	free(plugins);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_inside_images),
		cmocka_unit_test(names_are_file_names),
		cmocka_unit_test(circles_and_chains),
		cmocka_unit_test(backing_without_format),
		cmocka_unit_test(freed_under_a_read),
		cmocka_unit_test(copy_on_read),
		cmocka_unit_test(throttle),
		cmocka_unit_test(many_queues),
		cmocka_unit_test(missing_plugin),
	};
	int rc;

	folder = rig_folder();
	if (!folder)
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	rig_folder_free(folder);
	return rc;
}
