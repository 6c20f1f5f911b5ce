/*
 * What happens in which order inside a qcow2 image: L2 tables that are read ahead, and what a
 * request or a flush that is slow just then must not lead to. Everything runs in one thread, or in
 * two of which one is held at a known place, so that each run is the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/image.h"
#include "block/qcow2_int.h"
#include "os/file.h"
#include "rig.h"
#include "watch.h"

#define TABLES 32

static char *folder;
static struct watch watch;

/* ---- surroundings ---- */

/* What the failing of pthread_create() lets go on. */
static bool no_threads;

int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	if (!no_threads)
		return __real_pthread_create(id, attr, fn, arg);
	watch_release_threads(&watch);
	return EAGAIN;
}

struct disk {
	char *path;
	struct block_options o;
	struct block *b;
	struct qcow2 *s;
	struct block_queue *q;
	u64 span; /* of the guest, of one L2 table */
	u64 l2[TABLES];
};

static void disk_open(struct disk *d)
{
	struct err err;

	memset(&watch, 0, sizeof(watch));
	assert_int_equal(watch_open(&d->b, &watch, &d->o, &err), 0);
	d->s = qcow2_of(d->b);
	d->span = BIT(d->s->cluster_bits + d->s->l2_bits);
	assert_int_equal(block_queue_new(&d->q, d->b, 32, &err), 0);
	for (u64 i = 0; i < TABLES; i++)
		d->l2[i] = i < d->s->h.l1_size ? d->s->l1[i] & QCOW2_OFFSET : 0;
	watch_forget(&watch);
}

static void disk_close(struct disk *d)
{
	block_queue_free(d->q);
	assert_int_equal(block_close(d->b), 0);
}

static void disk_new(struct disk *d, u64 size, u64 cluster)
{
	struct block_create c = {0};
	struct err err = {""};

	*d = (struct disk){.path = rig_path(folder, "image")};
	unlink(d->path);
	assert_int_equal(opt_defaults(block_create_table, &c, &err), 0);
	c.size = size;
	c.cluster_size = cluster;
	assert_int_equal(block_create(d->path, "qcow2", &c, &err), 0);
	opt_free(block_create_table, &c);
	d->o = rig_options(d->path, "qcow2");
	disk_open(d);
}

static void disk_free(struct disk *d)
{
	rig_options_free(&d->o);
	free(d->path);
}

static void put(struct disk *d, u64 offset, u64 len, u8 value)
{
	u8 *buf = malloc(len);

	memset(buf, value, len);
	assert_int_equal(block_write(d->b, buf, len, offset), 0);
	free(buf);
}

/* Everything as it should be, to who looks at it afterwards. */
static void check_sound(struct disk *d)
{
	struct block_check check = {0};
	struct block *b;
	struct err err;

	d->o.metadata_only = true;
	assert_int_equal(block_open(&b, &d->o, &err), 0);
	assert_int_equal(block_check(b, 0, &check, &err), 0);
	assert_int_equal(check.errors, 0);
	assert_int_equal(block_close(b), 0);
	d->o.metadata_only = false;
}

struct op {
	struct block_req req;
	struct iovec iov;
	u8 data[4096];
	bool over;
	int result;
};

static void on_done(struct block_req *req, int result)
{
	struct op *op = container_of(req, struct op, req);

	assert_false(op->over);
	op->over = true;
	op->result = result;
}

static void start(struct disk *d, struct op *op, enum block_op kind, u64 offset, u8 value)
{
	memset(op->data, value, sizeof(op->data));
	op->over = false;
	op->iov = (struct iovec){op->data, sizeof(op->data)};
	op->req = (struct block_req){.op = kind,
				     .offset = offset,
				     .len = sizeof(op->data),
				     .iov = &op->iov,
				     .niov = 1,
				     .done = on_done};
	block_submit(d->q, &op->req);
	block_queue_flush(d->q);
}

static void turn(struct disk *d)
{
	struct pollfd p = {block_queue_fd(d->q), POLLIN, 0};

	if (!block_queue_poll(d->q))
		poll(&p, 1, -1);
}

static int finish(struct disk *d, struct op *op)
{
	while (!op->over)
		turn(d);
	return op->result;
}

static int read_at(struct disk *d, u64 offset, u8 *value)
{
	struct op op;
	int rc;

	start(d, &op, BLOCK_READ, offset, 0xee);
	rc = finish(d, &op);
	*value = op.data[100];
	return rc;
}

/* ---- reading ahead ---- */

/* A table of its own for each region, of which `i` begins with i + 1. */
static void many_tables(struct disk *d)
{
	disk_new(d, TABLES * 2 * MiB, 4096);
	for (u64 i = 0; i < TABLES; i++)
		put(d, i * d->span, 4096, (u8)(i + 1));
	disk_close(d);
	disk_open(d);
}

static unsigned int table_reads(struct disk *d, u64 i)
{
	return watch_count(&watch, BLOCK_READ, d->l2[i], d->l2[i] + d->s->cluster_size);
}

static unsigned int all_table_reads(struct disk *d)
{
	unsigned int n = 0;

	for (u64 i = 0; i < TABLES; i++)
		n += table_reads(d, i);
	return n;
}

/* Are tables in memory, or asked for, in the order in which they lie in L1? */
static void check_ascending(struct disk *d)
{
	u64 next = 0;

	for (unsigned int k = 0; k < watch.ncalls; k++)
		for (u64 i = 0; i < TABLES; i++)
			if (watch.calls[k].op == BLOCK_READ && watch.calls[k].offset == d->l2[i])
				assert_int_equal(i, next++);
	assert_int_equal(next, TABLES);
}

static bool no_ring(struct disk *d)
{
	if (block_queue_has_ring(d->q))
		return false;
	print_message("no io_uring here: nothing is read ahead\n");
	disk_close(d);
	disk_free(d);
	return true;
}

static void sequential_reader(void **state)
{
	struct disk d;

	many_tables(&d);
	if (no_ring(&d))
		skip();
	for (u64 i = 0; i < TABLES; i++) {
		u8 value;

		/* From the second on, each is on its way before it is needed. */
		assert_int_equal(table_reads(&d, i), i ? 1 : 0);
		for (u64 at = 0; at < d.span; at += d.span / 4) {
			assert_int_equal(read_at(&d, i * d.span + at, &value), 0);
			assert_int_equal(value, at ? 0 : i + 1);
		}
		/* Ahead of the reader, but not far. */
		assert_true(all_table_reads(&d) <= i + 1 + 16);
	}
	check_ascending(&d);
	assert_int_equal(all_table_reads(&d), TABLES);
	disk_close(&d);
	disk_free(&d);
}

/* What could not be read ahead, because the lock was taken just then, ends nothing. */
static void sequential_reader_held_up(void **state)
{
	struct disk d;

	many_tables(&d);
	if (no_ring(&d))
		skip();
	for (u64 i = 0; i < TABLES; i++) {
		struct op op;

		if (i > 3)
			assert_int_equal(table_reads(&d, i), 1);
		pthread_mutex_lock(&d.s->lock);
		if (i != 1 && i != 6)
			pthread_mutex_unlock(&d.s->lock);
		start(&d, &op, BLOCK_READ, i * d.span, 0);
		if (i == 1 || i == 6)
			pthread_mutex_unlock(&d.s->lock);
		assert_int_equal(finish(&d, &op), 0);
		assert_int_equal(op.data[0], i + 1);
		block_queue_drain(d.q);
	}
	assert_int_equal(all_table_reads(&d), TABLES);
	disk_close(&d);
	disk_free(&d);
}

/* Nobody comes to one table and then to the next. */
static void random_reader(void **state)
{
	struct disk d;

	many_tables(&d);
	for (u64 k = 0; k < TABLES; k++) {
		u64 i = (k * 13 + 5) % TABLES;
		u8 value;

		assert_int_equal(read_at(&d, i * d.span, &value), 0);
		assert_int_equal(value, i + 1);
		assert_int_equal(table_reads(&d, i), 1);
		assert_int_equal(all_table_reads(&d), k + 1);
	}
	disk_close(&d);
	disk_free(&d);
}

/* A table changes after it has been read ahead and before that is known. */
static void stale_table(void **state)
{
	struct disk d;
	u8 value;

	many_tables(&d);
	if (no_ring(&d))
		skip();
	watch_rule(&watch, WATCH_AFTER, BLOCK_READ, d.l2[6], d.l2[6] + 1, 1);
	assert_int_equal(read_at(&d, 4 * d.span, &value), 0);
	assert_int_equal(read_at(&d, 5 * d.span, &value), 0);
	while (!watch.nheld)
		turn(&d);
	/* The old table is in the memory of the one that is on its way. */
	put(&d, 6 * d.span + 65536, 4096, 0x66);
	put(&d, 6 * d.span, 4096, 0x67);
	watch_release(&watch);
	assert_int_equal(read_at(&d, 6 * d.span + 65536, &value), 0);
	assert_int_equal(value, 0x66);
	assert_int_equal(block_flush(d.b), 0);
	assert_int_equal(read_at(&d, 6 * d.span + 65536, &value), 0);
	assert_int_equal(value, 0x66);
	disk_close(&d);

	disk_open(&d);
	assert_int_equal(read_at(&d, 6 * d.span + 65536, &value), 0);
	assert_int_equal(value, 0x66);
	assert_int_equal(read_at(&d, 6 * d.span, &value), 0);
	assert_int_equal(value, 0x67);
	disk_close(&d);
	check_sound(&d);
	disk_free(&d);
}

/* L1 moves and a snapshot is taken while tables are on their way, asked for and not. */
static void changed_under_loads(void **state)
{
	struct op asked, other;
	struct disk d;
	struct err err;
	u8 value;

	many_tables(&d);
	if (no_ring(&d))
		skip();
	watch_rule(&watch, WATCH_AFTER, BLOCK_READ, d.l2[6], d.l2[6] + 1, 1);
	watch_rule(&watch, WATCH_AFTER, BLOCK_READ, d.l2[20], d.l2[20] + 1, 1);
	assert_int_equal(read_at(&d, 4 * d.span, &value), 0);
	assert_int_equal(read_at(&d, 5 * d.span, &value), 0);
	start(&d, &asked, BLOCK_READ, 20 * d.span, 0);
	while (watch.nheld < 2)
		turn(&d);
	assert_int_equal(block_resize(d.b, 2 * TABLES * d.span, false, &err), 0);
	watch_release(&watch);
	assert_int_equal(finish(&d, &asked), 0);
	assert_int_equal(asked.data[0], 21);

	watch_rule(&watch, WATCH_AFTER, BLOCK_READ, d.l2[12], d.l2[12] + 1, 1);
	start(&d, &asked, BLOCK_READ, 12 * d.span, 0);
	while (!watch.nheld)
		turn(&d);
	assert_int_equal(block_snapshot_create(d.b, "one", &err), 0);
	start(&d, &other, BLOCK_WRITE, 12 * d.span, 0x5a);
	watch_release(&watch);
	assert_int_equal(finish(&d, &asked), 0);
	assert_true(asked.data[0] == 13 || asked.data[0] == 0x5a);
	assert_int_equal(finish(&d, &other), 0);
	for (u64 i = 0; i < TABLES; i++) {
		assert_int_equal(read_at(&d, i * d.span, &value), 0);
		assert_int_equal(value, i == 12 ? 0x5a : i + 1);
	}
	disk_close(&d);
	/* The snapshot has what it had. */
	disk_open(&d);
	assert_int_equal(block_resize(d.b, TABLES * d.span, true, &err), -EBUSY);
	assert_int_equal(block_snapshot_apply(d.b, "one", &err), 0);
	assert_int_equal(read_at(&d, 12 * d.span, &value), 0);
	assert_int_equal(value, 13);
	disk_close(&d);
	check_sound(&d);
	disk_free(&d);
}

/* What cannot be read ahead is no business of those who did not ask for it. */
static void error_ahead(void **state)
{
	struct disk d;
	u8 value;

	many_tables(&d);
	watch_rule(&watch, WATCH_FAIL, BLOCK_READ, d.l2[6], d.l2[6] + 1, 1);
	watch_rule(&watch, WATCH_FAIL, BLOCK_READ, d.l2[9], d.l2[9] + 1, 1000);
	for (u64 i = 4; i < TABLES; i++) {
		int want = i == 9 ? -EIO : 0;

		/* Once is nothing: it is read again when it is needed. */
		if (i == 6 && !block_queue_has_ring(d.q))
			want = -EIO;
		assert_int_equal(read_at(&d, i * d.span, &value), want);
		if (!want)
			assert_int_equal(value, i + 1);
	}
	/* What was in nobody's way is there again when it can be read. */
	memset(watch.rules, 0, sizeof(watch.rules));
	assert_int_equal(read_at(&d, 9 * d.span, &value), 0);
	assert_int_equal(value, 10);
	disk_close(&d);
	disk_free(&d);
}

static void break_l1(struct disk *d, u64 index, u64 entry)
{
	int fd = open(d->path, O_RDWR);
	u8 buf[8];

	assert_true(fd >= 0);
	store_be64(buf, entry);
	assert_int_equal(pwrite(fd, buf, 8, (off_t)(d->s->h.l1_offset + 8 * index)), 8);
	close(fd);
}

static void broken_ahead(void **state)
{
	struct disk d;
	u8 value;

	many_tables(&d);
	break_l1(&d, 6, BIT(50) | QCOW2_COPIED);
	disk_close(&d);
	disk_open(&d);
	assert_int_equal(read_at(&d, 4 * d.span, &value), 0);
	assert_int_equal(read_at(&d, 5 * d.span, &value), 0);
	block_queue_drain(d.q);
	assert_false(d.s->corrupt);
	/* Who has not come near it goes on writing. */
	put(&d, 7 * d.span, 4096, 0x77);
	assert_int_equal(read_at(&d, 6 * d.span, &value), -EIO);
	assert_true(d.s->corrupt);
	disk_close(&d);
	disk_free(&d);
}

/* However many tables are asked for at once, the memory for them is what the user gave. */
static void cache_limit(void **state)
{
	static struct op ops[12];
	struct disk d;
	u8 value;

	disk_new(&d, 12ULL << 39, 2 * MiB);
	for (u64 i = 0; i < 12; i++)
		put(&d, i * d.span, 4096, (u8)(i + 1));
	disk_close(&d);
	d.o.l2_cache = 1 * MiB;
	disk_open(&d);
	for (u64 i = 0; i < 12; i++)
		watch_rule(&watch, WATCH_AFTER, BLOCK_READ, 0, ~0ULL, 100);
	for (u64 i = 0; i < 12; i++)
		start(&d, &ops[i], BLOCK_READ, i * d.span, 0);
	/* Those for which there is no room are a helper's, which does not wait for the others. */
	while (all_table_reads(&d) < 12)
		usleep(1000);
	for (u64 i = 0; i < 12; i++) {
		while (!ops[i].over) {
			watch_release(&watch);
			turn(&d);
		}
		assert_int_equal(ops[i].result, 0);
		assert_int_equal(ops[i].data[0], i + 1);
	}
	memset(watch.rules, 0, sizeof(watch.rules));
	assert_int_equal(read_at(&d, 0, &value), 0);
	assert_true(d.s->l2.count <= d.s->l2.cap);
	disk_close(&d);
	disk_free(&d);
}

/* ---- slow requests ---- */

/* So often the kernel takes nothing, for want of memory. */
static int refusals;

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __wrap_io_uring_submit(struct io_uring *ring)
{
	if (!refusals)
		return __real_io_uring_submit(ring);
	refusals--;
	return -EAGAIN;
}

int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);

int __wrap_io_uring_submit_and_get_events(struct io_uring *ring)
{
	if (!refusals)
		return __real_io_uring_submit_and_get_events(ring);
	refusals--;
	return -EAGAIN;
}

/* Nobody would wake the queue to try again. */
static void refused_by_the_kernel(void **state)
{
	struct disk d;

	many_tables(&d);
	for (u64 i = 0; i < 3; i++) {
		struct pollfd p = {block_queue_fd(d.q), POLLIN, 0};
		struct op op;

		refusals = 5;
		start(&d, &op, BLOCK_READ, i * d.span, 0);
		if (!op.over)
			poll(&p, 1, -1);
		assert_int_equal(finish(&d, &op), 0);
		assert_int_equal(op.data[0], i + 1);
	}
	refusals = 0;
	disk_close(&d);
	disk_free(&d);
}

/* A read that a layer below has given to a helper still uses what it was sent to. */
static void freed_under_a_helper(void **state)
{
	struct block_extent e;
	struct disk d;
	struct op op;

	disk_new(&d, 16 * MiB, 4096);
	for (u64 at = 4 * MiB; at < 12 * MiB; at += d.span)
		put(&d, at, 4096, 0xcc);
	put(&d, 0, 4096, 0xaa);
	assert_int_equal(block_flush(d.b), 0);
	assert_int_equal(block_status(d.b, 0, 4096, &e), 0);
	watch.defer = true;
	watch_rule(&watch, WATCH_BEFORE, BLOCK_READ, e.host_offset, e.host_offset + 4096, 1);
	start(&d, &op, BLOCK_READ, 0, 0);
	watch_wait(&watch, 1);
	assert_int_equal(block_discard(d.b, 4096, 0), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(block_flush(d.b), 0);
		block_queue_poll(d.q);
	}
	/* More than what is reserved, so that what is free is looked for. */
	put(&d, 4 * MiB, 8 * MiB, 0xbb);
	watch_release(&watch);
	assert_int_equal(finish(&d, &op), 0);
	assert_true(op.data[0] == 0xaa || !op.data[0]);
	disk_close(&d);
	check_sound(&d);
	disk_free(&d);
}

static void *flusher(void *arg)
{
	struct disk *d = arg;

	return (void *)(intptr_t)block_flush(d->b);
}

static void join(pthread_t id, int want)
{
	void *result;

	pthread_join(id, &result);
	assert_int_equal((intptr_t)result, want);
}

/* The refcount table grows, for which all blocks are written, while a flush has an older copy of
 * one to write. */
static void blocks_under_a_flush(void **state)
{
	u64 at = 0, old;
	pthread_t id;
	struct disk d;

	disk_new(&d, 32 * MiB, 512);
	old = d.s->reftable_size;
	/* Up to the last block for which the table has room. */
	for (; d.s->run >> d.s->refblock_bits != old - 1 || d.s->run == d.s->run_end; at += 512)
		put(&d, at, 512, 1);
	assert_int_equal(block_flush(d.b), 0);
	put(&d, at, 512, 2);
	watch_rule(&watch, WATCH_BEFORE, BLOCK_WRITE, 0, ~0ULL, 1);
	assert_int_equal(pthread_create(&id, NULL, flusher, &d), 0);
	watch_wait(&watch, 1);
	for (at += 512; d.s->reftable_size == old; at += 512)
		put(&d, at, 512, 3);
	watch_release(&watch);
	join(id, 0);
	disk_close(&d);
	check_sound(&d);
	disk_free(&d);
}

static void *resizer(void *arg)
{
	struct disk *d = arg;
	struct err err;

	return (void *)(intptr_t)block_resize(d->b, 4 * TABLES * d->span, false, &err);
}

/* L1 moves while others add tables. */
static void grown_under_a_write(void **state)
{
	pthread_t flush, resize;
	struct disk d;
	u8 value;

	disk_new(&d, TABLES * 2 * MiB, 4096);
	put(&d, 0, 4096, 1);
	watch_rule(&watch, WATCH_BEFORE, BLOCK_WRITE, 0, ~0ULL, 1);
	assert_int_equal(pthread_create(&flush, NULL, flusher, &d), 0);
	watch_wait(&watch, 1);
	assert_int_equal(pthread_create(&resize, NULL, resizer, &d), 0);
	/* Time for it to come to where it waits; any other order must do, too. */
	usleep(100 * 1000);
	put(&d, 9 * d.span, 4096, 9);
	watch_release(&watch);
	join(flush, 0);
	join(resize, 0);
	put(&d, 2 * TABLES * d.span, 4096, 77);
	disk_close(&d);
	check_sound(&d);
	disk_open(&d);
	assert_int_equal(block_size(d.b), 4 * TABLES * d.span);
	assert_int_equal(read_at(&d, 0, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(read_at(&d, 9 * d.span, &value), 0);
	assert_int_equal(value, 9);
	assert_int_equal(read_at(&d, 2 * TABLES * d.span, &value), 0);
	assert_int_equal(value, 77);
	disk_close(&d);
	disk_free(&d);
}

static void *reader(void *arg)
{
	struct disk *d = arg;
	u8 buf[512];

	return (void *)(intptr_t)block_read(d->b, buf, sizeof(buf), 3 * d->span);
}

/* A copy on write has to wait for the lock at its end, and there is no thread to wait for it. */
static void copy_without_helper(void **state)
{
	struct op op, next;
	struct disk d;
	struct err err;
	pthread_t id;
	u8 value;

	disk_new(&d, TABLES * 32 * MiB, 16384);
	put(&d, 0, 65536, 1);
	put(&d, 3 * d.span, 512, 3);
	assert_int_equal(block_snapshot_create(d.b, "one", &err), 0);
	disk_close(&d);
	disk_open(&d);
	/* The table is ours now, and the image is being written. */
	put(&d, 16384, 16384, 2);
	watch_rule(&watch, WATCH_BEFORE, BLOCK_WRITE, 0, ~0ULL, 1);
	start(&d, &op, BLOCK_WRITE, 4096, 4);
	while (!watch.nheld)
		turn(&d);
	watch_rule(&watch, WATCH_BEFORE, BLOCK_READ, d.l2[3], d.l2[3] + 1, 1);
	assert_int_equal(pthread_create(&id, NULL, reader, &d), 0);
	watch_wait(&watch, 2);
	no_threads = true;
	watch_release_queue(&watch);
	assert_int_equal(finish(&d, &op), 0);
	no_threads = false;
	watch_release(&watch);
	join(id, 0);
	assert_int_equal(read_at(&d, 4096, &value), 0);
	assert_int_equal(value, 4);
	assert_int_equal(read_at(&d, 0, &value), 0);
	assert_int_equal(value, 1);
	/* Nobody waits for a copy that is over. */
	start(&d, &next, BLOCK_WRITE, 8192, 5);
	start(&d, &op, BLOCK_WRITE, 32768, 6);
	assert_int_equal(finish(&d, &next), 0);
	assert_int_equal(finish(&d, &op), 0);
	disk_close(&d);
	check_sound(&d);
	disk_free(&d);
}

/* Everybody else waits for a copy on write, in all the helpers that changes may have, and what the copy
 * has to write needs a helper, too. */
static void copy_behind_others(void **state)
{
	static struct op others[16];
	struct block_queue *first;
	struct block_extent e;
	struct disk d;
	struct err err;
	struct op op;

	disk_new(&d, 8 * MiB, 65536);
	put(&d, 0, 131072, 1);
	assert_int_equal(block_status(d.b, 0, 4096, &e), 0);
	assert_int_equal(block_snapshot_create(d.b, "one", &err), 0);
	put(&d, 65536, 65536, 2);
	watch.defer = true;
	/* The copy has begun, and is reading what is around the data. */
	watch_rule(&watch, WATCH_BEFORE, BLOCK_READ, e.host_offset, e.host_offset + 65536, 1);
	start(&d, &op, BLOCK_WRITE, 4096, 3);
	watch_wait(&watch, 1);
	first = d.q;
	assert_int_equal(block_queue_new(&d.q, d.b, 32, &err), 0);
	for (u64 i = 0; i < ARRAY_SIZE(others); i++)
		start(&d, &others[i], BLOCK_WRITE, i * 4096, (u8)(10 + i));
	/* Time for the helpers to take them; any other order must do, too. */
	usleep(50 * 1000);
	watch_release(&watch);
	while (!op.over || block_queue_inflight(d.q)) {
		block_queue_poll(first);
		block_queue_poll(d.q);
		usleep(1000);
	}
	assert_int_equal(op.result, 0);
	for (u64 i = 0; i < ARRAY_SIZE(others); i++) {
		u8 value;

		assert_int_equal(others[i].result, 0);
		assert_int_equal(block_read(d.b, &value, 1, i * 4096), 0);
		assert_true(value == 10 + i || (i == 1 && value == 3));
	}
	block_queue_free(first);
	disk_close(&d);
	check_sound(&d);
	disk_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sequential_reader),
		cmocka_unit_test(sequential_reader_held_up),
		cmocka_unit_test(random_reader),
		cmocka_unit_test(stale_table),
		cmocka_unit_test(changed_under_loads),
		cmocka_unit_test(error_ahead),
		cmocka_unit_test(broken_ahead),
		cmocka_unit_test(cache_limit),
		cmocka_unit_test(refused_by_the_kernel),
		cmocka_unit_test(freed_under_a_helper),
		cmocka_unit_test(blocks_under_a_flush),
		cmocka_unit_test(grown_under_a_write),
		cmocka_unit_test(copy_without_helper),
		cmocka_unit_test(copy_behind_others),
	};
	int rc;

	folder = rig_folder();
	if (!folder)
		return 1;
	log_set_level(LOG_ERROR);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	rig_folder_free(folder);
	return rc;
}
