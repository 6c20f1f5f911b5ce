/*
 * bothy img convert.
 *
 * Workers take the disk piece by piece; what reads as zeros is skipped or written as zeros. The
 * result is written beside the target and takes its name at the end (img_target.c), so that an
 * interrupted run leaves nothing under it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/iov.h"
#include "cli/img_int.h"
#include "os/clock.h"
#include "os/thread.h"

#define MAX_WORKERS 16
#define PIECE	    (512 * KiB)
#define SECTOR	    ((u64)512)

struct convert {
	struct img_source source;
	char *target, *target_format, *options, *backing, *backing_fmt, *snapshot;
	int target_cache;
	bool compress, existing, progress, quiet, salvage, target_is_zero, any_order;
	u64 workers, sparse, rate;
};

#define FIELD(f) .offset = offsetof(struct convert, f)

static const struct opt convert_options[] = {
	IMG_SOURCE_OPTIONS(struct convert, source),
	{.name = "target-format",
	 .type = OPT_STRING,
	 FIELD(target_format),
	 .dflt = "raw",
	 .arg = "NAME",
	 .help = "raw, qcow2, qed or luks"},
	{.name = "O", .type = OPT_STRING, FIELD(target_format), .arg = "NAME"},
	{.name = "options",
	 .type = OPT_STRING,
	 FIELD(options),
	 .arg = "KEY=VALUE,...",
	 .help = "as for create"},
	{.name = "o", .type = OPT_STRING, FIELD(options), .arg = "KEY=VALUE,..."},
	{.name = "backing",
	 .type = OPT_STRING,
	 FIELD(backing),
	 .arg = "FILE",
	 .help = "make an overlay of FILE: what the source's top image does not hold is left out"},
	{.name = "B", .type = OPT_STRING, FIELD(backing), .arg = "FILE"},
	{.name = "backing-fmt",
	 .type = OPT_STRING,
	 FIELD(backing_fmt),
	 .arg = "NAME",
	 .help = "format of that FILE"},
	{.name = "F", .type = OPT_STRING, FIELD(backing_fmt), .arg = "NAME"},
	{.name = "snapshot",
	 .type = OPT_STRING,
	 FIELD(snapshot),
	 .arg = "NAME",
	 .help = "convert this internal snapshot of the source"},
	{.name = "l", .type = OPT_STRING, FIELD(snapshot), .arg = "NAME"},
	{.name = "compress",
	 .type = OPT_BOOL,
	 FIELD(compress),
	 .help = "store clusters compressed"},
	{.name = "c", .type = OPT_BOOL, FIELD(compress)},
	{.name = "existing",
	 .type = OPT_BOOL,
	 FIELD(existing),
	 .help = "write into an image that is there"},
	{.name = "n", .type = OPT_BOOL, FIELD(existing)},
	{.name = "target-is-zero",
	 .type = OPT_BOOL,
	 FIELD(target_is_zero),
	 .help = "with --existing: it reads as zeros everywhere, so zeros are not written"},
	{.name = "target-cache",
	 .type = OPT_ENUM,
	 FIELD(target_cache),
	 .dflt = "writeback",
	 .arg = "MODE",
	 .choices = block_cache_names,
	 .help = "cache mode of the target"},
	{.name = "t",
	 .type = OPT_ENUM,
	 FIELD(target_cache),
	 .arg = "MODE",
	 .choices = block_cache_names},
	{.name = "workers",
	 .type = OPT_U64,
	 FIELD(workers),
	 .arg = "N",
	 .min = 1,
	 .max = MAX_WORKERS,
	 .help = "threads; as many as there are processors when left out"},
	{.name = "m", .type = OPT_U64, FIELD(workers), .arg = "N", .min = 1, .max = MAX_WORKERS},
	/* qemu-img's leave to write in any order: workers do. */
	{.name = "W", .type = OPT_BOOL, FIELD(any_order)},
	{.name = "sparse",
	 .type = OPT_SIZE,
	 FIELD(sparse),
	 .dflt = "4K",
	 .arg = "SIZE",
	 .help = "runs of zeros of this size become holes; 0: none do"},
	{.name = "S", .type = OPT_SIZE, FIELD(sparse), .arg = "SIZE"},
	{.name = "salvage",
	 .type = OPT_BOOL,
	 FIELD(salvage),
	 .help = "what cannot be read becomes zeros, and is named"},
	{.name = "rate",
	 .type = OPT_SIZE,
	 FIELD(rate),
	 .arg = "SIZE",
	 .help = "bytes of the disk a second, at most"},
	{.name = "r", .type = OPT_SIZE, FIELD(rate), .arg = "SIZE"},
	{.name = "progress",
	 .type = OPT_BOOL,
	 FIELD(progress),
	 .help = "show how far it is, on a terminal"},
	{.name = "p", .type = OPT_BOOL, FIELD(progress)},
	{.name = "quiet", .type = OPT_BOOL, FIELD(quiet), .help = "say nothing"},
	{.name = "q", .type = OPT_BOOL, FIELD(quiet)},
	OPT_END,
};

static int convert_arg(void *target, const char *value, struct err *err)
{
	struct convert *c = target;

	return img_take(value, (char **const[]){&c->source.file, &c->target}, 2, err);
}

struct job {
	const struct convert *args;
	struct block *from, *to;
	u64 size, unit; /* unit: of compression and of looking for zeros */
	bool zeroed;	/* the target reads as zeros where nothing was written */
	pthread_mutex_t lock;
	u64 next, done, begin_ns;
	int result;
	struct img_progress progress;
};

/* ---- copying ---- */

static int write_zeros(struct job *j, u64 at, u64 len)
{
	return j->zeroed ? 0 : block_write_zeroes(j->to, len, at, BLOCK_MAY_UNMAP);
}

static int write_data(struct job *j, u8 *buf, u64 at, u64 len)
{
	struct iovec iov = {buf, len};

	return block_writev(j->to, &iov, 1, at, j->args->compress ? BLOCK_COMPRESS : 0);
}

/* Write what is not zero of a piece, in runs of whole units. */
static int write_sparse(struct job *j, u8 *buf, u64 at, u64 len)
{
	u64 unit = j->unit, done = 0;
	int rc = 0;

	if (!unit)
		return write_data(j, buf, at, len);
	while (done < len && !rc) {
		u64 run = 0;
		bool zero = false;

		/* A run of units that are alike. */
		while (done + run < len) {
			struct iovec part = {buf + done + run, min(unit, len - done - run)};
			bool this_zero = iov_is_zero(&part, 1, part.iov_len);

			if (run && this_zero != zero)
				break;
			zero = this_zero;
			run += part.iov_len;
		}
		rc = zero ? write_zeros(j, at + done, run)
			  : write_data(j, buf + done, at + done, run);
		done += run;
	}
	return rc;
}

/* The compressor wants whole clusters, so an extent of zeros must begin and end with them. */
static bool whole_units(const struct job *j, u64 at, u64 len)
{
	return !j->args->compress || !j->unit ||
	       (is_aligned(at, j->unit) && (is_aligned(at + len, j->unit) || at + len == j->size));
}

/* Sector by sector; zeros for those that cannot be read. */
static void read_what_can_be(struct job *j, u8 *buf, u64 len, u64 at)
{
	u64 bad = 0;

	for (u64 k = 0; k < len && !img_interrupted(); k += SECTOR) {
		u64 n = min(SECTOR, len - k);
		bool lost = block_read(j->from, buf + k, n, at + k);

		if (lost) {
			memset(buf + k, 0, n);
			bad += n;
		}
		if (bad && (!lost || k + n >= len)) {
			if (!j->args->quiet)
				fprintf(stderr, "lost: %llu bytes at %llu\n",
					(unsigned long long)bad,
					(unsigned long long)(at + k + (lost ? n : 0) - bad));
			bad = 0;
		}
	}
}

static int read_source(struct job *j, u8 *buf, u64 len, u64 at)
{
	int rc = block_read(j->from, buf, len, at);

	if (!rc || !j->args->salvage)
		return rc;
	read_what_can_be(j, buf, len, at);
	return 0;
}

static int copy_extent(struct job *j, u8 *buf, u64 at, u64 *len)
{
	struct block_extent e;
	int rc = block_status(j->from, at, *len, &e);

	if (rc && j->args->salvage)
		e = (struct block_extent){.len = *len, .flags = BLOCK_DATA | BLOCK_ALLOCATED};
	else if (rc)
		return rc;
	if (j->args->backing && !(e.flags & BLOCK_ALLOCATED) && whole_units(j, at, e.len)) {
		*len = e.len;
		return 0;
	}
	if ((e.flags & BLOCK_ZERO) && whole_units(j, at, e.len) && j->args->sparse) {
		*len = e.len;
		return write_zeros(j, at, e.len);
	}
	if (whole_units(j, at, e.len))
		*len = e.len;
	rc = read_source(j, buf, *len, at);
	return rc ? rc : write_sparse(j, buf, at, *len);
}

static int copy_piece(struct job *j, u8 *buf, u64 at, u64 len)
{
	int rc = 0;

	while (len && !rc) {
		u64 n = len;

		if (img_interrupted())
			return -EINTR;
		rc = copy_extent(j, buf, at, &n);
		at += n;
		len -= n;
	}
	return rc;
}

/* With --rate: not before as much time has gone by as what was begun may take. Locked. */
static void keep_rate(struct job *j)
{
	u64 due;

	if (!j->args->rate)
		return;
	due = j->begin_ns + (u64)((double)j->next / (double)j->args->rate * 1e9);
	pthread_mutex_unlock(&j->lock);
	for (u64 now = clock_now_ns(); now < due && !img_interrupted(); now = clock_now_ns()) {
		struct timespec ts = {.tv_nsec = (long)min(due - now, 100 * NSEC_PER_MSEC)};

		nanosleep(&ts, NULL);
	}
	pthread_mutex_lock(&j->lock);
}

static void *worker(void *arg)
{
	struct job *j = arg;
	u8 *buf = NULL;
	/* Compressed clusters are written whole. */
	u64 piece = j->args->compress ? max(PIECE, j->unit) : PIECE;
	int rc = posix_memalign((void **)&buf, 4096, piece) ? -ENOMEM : 0;

	pthread_mutex_lock(&j->lock);
	for (;;) {
		u64 at, len;

		keep_rate(j);
		if (rc || j->result || j->next >= j->size)
			break;
		at = j->next;
		len = min(j->size - at, piece);
		j->next += len;
		pthread_mutex_unlock(&j->lock);
		rc = copy_piece(j, buf, at, len);
		pthread_mutex_lock(&j->lock);
		j->done += len;
		img_progress_step(&j->progress, j->done);
	}
	if (rc && !j->result)
		j->result = rc;
	pthread_mutex_unlock(&j->lock);
	free(buf);
	return NULL;
}

static int copy_all(struct job *j)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	u64 n = j->args->workers ? j->args->workers : (u64)max(cpus, 1L);
	struct thread threads[MAX_WORKERS] = {0};

	n = min(n, (u64)MAX_WORKERS);
	n = min(n, div_round_up(j->size, PIECE));
	img_progress_begin(&j->progress, j->args->progress, j->size);
	for (u64 i = 1; i < n; i++)
		if (thread_start(&threads[i], THREAD_HELPER, "img-worker", worker, j))
			break;
	if (n)
		worker(j);
	for (u64 i = 1; i < n; i++)
		thread_join(&threads[i]);
	img_progress_end(&j->progress);
	return j->result;
}

/* ---- the target ---- */

static int make_target(const struct convert *a, const char *path, u64 size, struct err *err)
{
	struct block_create c = {0};
	int rc = block_create_parse(&c, a->target_format, a->options, err);

	if (!rc && a->backing) {
		free(c.backing_file);
		c.backing_file = strdup(a->backing);
		free(c.backing_fmt);
		c.backing_fmt = a->backing_fmt ? strdup(a->backing_fmt) : NULL;
	}
	c.size = align_up(size, 512);
	if (!rc)
		rc = block_create(path, a->target_format, &c, err);
	opt_free(block_create_table, &c);
	return rc;
}

static int open_target(const struct convert *a, const char *path, struct block **out,
		       struct err *err)
{
	struct block_options o = img_open_defaults();
	struct block_create c = {0};
	int rc = block_create_parse(&c, a->target_format, a->options, err);

	o.file = (char *)(uintptr_t)path;
	o.format = a->target_format;
	o.cache = a->target_cache;
	o.backing = true;
	o.key_file = c.encrypt_key_file;
	if (!rc)
		rc = block_open(out, &o, err);
	opt_free(block_create_table, &c);
	return rc;
}

static int copy_into(const struct convert *a, struct block *from, const char *path, bool fresh,
		     struct err *err)
{
	struct job j = {.args = a, .from = from};
	struct block_info info;
	int rc = open_target(a, path, &j.to, err), closed;

	if (rc)
		return rc;
	j.size = block_size(from);
	block_get_info(j.to, &info);
	j.unit = a->compress ? info.discard_align : a->sparse;
	/* What a new image of this format holds is not zeros but noise. */
	j.zeroed = a->target_is_zero || (fresh && !a->backing && strcmp(info.format, "luks"));
	j.begin_ns = clock_now_ns();
	pthread_mutex_init(&j.lock, NULL);
	if (j.size > info.size)
		rc = err_set(err, ENOSPC, "%s: is smaller than the source", path);
	else if (a->compress && strcmp(info.format, "qcow2"))
		rc = err_set(err, ENOTSUP, "--compress needs --target-format qcow2");
	else
		rc = copy_all(&j);
	if (!rc && !fresh && !j.zeroed && info.size > j.size)
		rc = block_write_zeroes(j.to, info.size - j.size, j.size, BLOCK_MAY_UNMAP);
	if (!rc && a->target_cache != BLOCK_CACHE_UNSAFE)
		rc = block_flush(j.to);
	closed = block_close(j.to);
	if (!rc)
		rc = closed;
	pthread_mutex_destroy(&j.lock);
	if (rc && !err->text[0])
		err_set(err, -rc, "%s: %s", path, rc == -EINTR ? "interrupted" : strerror(-rc));
	return rc;
}

/* A new image: under another name until it is complete. */
static int convert_fresh(const struct convert *a, struct block *from, struct err *err)
{
	struct img_target t;
	int rc = img_target_begin(&t, a->target, a->source.file, err);

	if (rc)
		return rc;
	rc = make_target(a, t.part, block_size(from), err);
	if (!rc)
		rc = copy_into(a, from, t.part, true, err);
	return img_target_end(&t, rc, err);
}

static int convert(const struct convert *a, struct err *err)
{
	struct img_source source = a->source;
	struct block *from;
	struct stat st;
	bool device;
	int rc = img_open(&from, &source, a->snapshot ? IMG_SNAPSHOT : 0, err);

	if (rc)
		return rc;
	if (a->snapshot)
		rc = block_snapshot_view(from, img_snapshot_name(a->snapshot), err);
	device = !stat(a->target, &st) && S_ISBLK(st.st_mode);
	if (rc)
		goto out;
	if (a->existing)
		rc = copy_into(a, from, a->target, false, err);
	else if (device)
		rc = make_target(a, a->target, block_size(from), err) ||
		     copy_into(a, from, a->target, strcmp(a->target_format, "raw"), err);
	else
		rc = convert_fresh(a, from, err);
out:
	block_close(from);
	return rc;
}

static int judge_arguments(const struct convert *a, struct err *err)
{
	if (a->backing && !a->backing_fmt)
		return err_set(err, EINVAL, "--backing needs --backing-fmt");
	if (a->target_is_zero && !a->existing)
		return err_set(err, EINVAL, "--target-is-zero is for --existing");
	if (a->sparse % SECTOR)
		return err_set(err, EINVAL, "--sparse must be a multiple of 512, or 0");
	return 0;
}

static int convert_main(int argc, char **argv)
{
	struct convert a = {0};
	struct err err = {""};
	int rc = img_parse(&img_convert, &a, argc, argv, convert_arg), status = EXIT_USAGE;

	if (!rc && !a.target) {
		err_set(&err, EINVAL, "source and target are needed");
		img_fail("convert", &err, 0);
	} else if (!rc && judge_arguments(&a, &err)) {
		img_fail("convert", &err, 0);
	} else if (!rc) {
		img_catch_signals();
		status = convert(&a, &err) ? img_fail("convert", &err, IMG_FAILED) : 0;
	}
	opt_free(convert_options, &a);
	return status;
}

const struct command img_convert = {
	.name = "convert",
	.args = "[OPTIONS] FILE TARGET",
	.summary = "Copy a disk into an image of another format",
	.options = convert_options,
	.run = convert_main,
};
