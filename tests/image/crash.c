/*
 * Crashes and faults. Every write, hole, truncation and sync of an image under random operations is
 * noted; then the file is put together as a crash could have left it: everything up to a sync, and
 * of what came after it any part, down to sectors, in any order. Each time the image must be
 * consistent (leaks are allowed) and hold what was flushed. A sample goes to qemu-img check as
 * well. Half of the operations come in bursts, many in flight at once on overlapping ranges.
 *
 * With "faults" every I/O in turn fails instead, once or from there on, and the same must hold.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "block/image.h"
#include "ledger.h"
#include "os/file.h"
#include "rig.h"
#include "spy.h"

#define MAX_FILE (64 * MiB)

struct shape {
	const char *name;
	u64 cluster, size;
	u64 refcount_bits;
	bool extended, v2, snapshots, qed, backed, packed, resized, lazy;
	u64 l2_cache;
};

static const struct shape shapes[] = {
	{"64k", 65536, 4 * MiB, 16},
	{"4k", 4096, 2 * MiB, 16},
	{"512", 512, 512 * KiB, 64},
	{"512-small-cache", 512, 512 * KiB, 8, .l2_cache = 2048},
	{"32k-ext", 32768, 2 * MiB, 16, .extended = true},
	{"4k-v2", 4096, 2 * MiB, 16, .v2 = true},
	{"4k-snapshots", 4096, 1 * MiB, 4, .snapshots = true},
	{"64k-backed", 65536, 4 * MiB, 16, .backed = true},
	{"4k-backed-lazy", 4096, 2 * MiB, 16, .backed = true, .lazy = true},
	{"32k-ext-backed", 32768, 2 * MiB, 16, .extended = true, .backed = true},
	{"8k-packed", 8192, 1 * MiB, 16, .packed = true},
	{"4k-packed-backed", 4096, 1 * MiB, 16, .packed = true, .backed = true},
	{"4k-resized", 4096, 2 * MiB, 16, .resized = true},
	{"4k-all", 4096, 1 * MiB, 16, .packed = true, .backed = true, .snapshots = true},
	{"qed", 4096, 1 * MiB, .qed = true},
	{"qed-backed", 4096, 1 * MiB, .qed = true, .backed = true},
};

struct run {
	const struct shape *shape;
	char *folder, *image, *crashed, *base_file;
	u64 seed;
	struct ledger ledger;
	struct spy spy;
	u8 *base, *trial; /* the file as of the last sync, and as a crash left it */
	u64 base_len, trial_len;
	u64 trials, judged;
};

static u64 rnd(struct run *r)
{
	r->seed += 0x9e3779b97f4a7c15ULL;
	return hash_u64(r->seed);
}

static u64 scale(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v ? strtoull(v, NULL, 0) : otherwise;
}

static const char *format_of(const struct run *r)
{
	return r->shape->qed ? "qed" : "qcow2";
}

/* Shorter than the disk, and not to a cluster's boundary. */
static u64 base_size(const struct run *r)
{
	return r->shape->backed ? r->shape->size * 3 / 4 + 512 : 0;
}

static int make_base(struct run *r)
{
	u64 size = base_size(r);
	u8 *data = malloc(size + 1);
	int fd = open(r->base_file, O_RDWR | O_CREAT | O_TRUNC, 0600), rc = -EIO;

	if (data && fd >= 0) {
		ledger_base(data, size);
		rc = pwrite_full(fd, data, size, 0);
	}
	if (fd >= 0)
		close(fd);
	free(data);
	return rc;
}

static int make_image(struct run *r)
{
	const struct shape *s = r->shape;
	struct block_create c = {0};
	struct err err = {""};
	int rc = opt_defaults(block_create_table, &c, &err);

	c.size = s->size;
	c.cluster_size = s->cluster;
	c.refcount_bits = s->refcount_bits;
	c.extended_l2 = s->extended;
	c.compat = !s->v2;
	c.lazy_refcounts = s->lazy;
	if (s->backed) {
		c.backing_file = r->base_file;
		c.backing_fmt = (char *)"raw";
	}
	if (!rc)
		rc = block_create(r->image, format_of(r), &c, &err);
	c.backing_file = c.backing_fmt = NULL;
	opt_free(block_create_table, &c);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	return rc;
}

static struct block_options options_of(struct run *r, const char *path)
{
	struct block_options o = rig_options(path, format_of(r));

	/* The spy sees the syncs; the machine that runs this does not crash. */
	o.cache = BLOCK_CACHE_UNSAFE;
	if (r->shape->l2_cache)
		o.l2_cache = r->shape->l2_cache;
	if (r->shape->backed) {
		o.backing_file = strdup(r->base_file);
		o.backing_format = strdup("raw");
	}
	return o;
}

static int open_spied(struct run *r, struct block **b)
{
	struct block_options o = options_of(r, r->image);
	struct err err = {""};
	int rc = spy_open(b, &r->spy, r->image, &o, &err);

	if (rc && !r->spy.fail_at)
		fprintf(stderr, "%s\n", err.text);
	rig_options_free(&o);
	return rc;
}

static int open_crashed(struct run *r, const char *path, struct block **b)
{
	struct block_options o = options_of(r, path);
	struct err err = {""};
	int rc;

	/* QED is mended when it is opened for writing; qcow2 must need no mending. */
	o.readonly = !r->shape->qed;
	rc = block_open(b, &o, &err);
	rig_options_free(&o);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	return rc;
}

static int judge_snapshot(struct run *r, const char *path, const char *name)
{
	struct err err = {""};
	struct block *b;
	int rc = open_crashed(r, path, &b);

	if (rc)
		return rc;
	rc = block_snapshot_view(b, name, &err);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	else
		rc = ledger_verify_snapshot(&r->ledger, b, name);
	block_close(b);
	return rc;
}

/* Each of them, and all that must be there. */
static int judge_snapshots(struct run *r, const char *path, struct block *b, u64 tick)
{
	int count = block_snapshot_count(b), rc = 0;
	struct block_snapshot sn;

	for (int i = 0; i < count && !rc; i++) {
		rc = block_snapshot_get(b, (unsigned int)i, &sn);
		if (!rc)
			rc = judge_snapshot(r, path, sn.name);
	}
	for (u64 k = 0; k < r->ledger.nsaved && !rc; k++) {
		bool there = false;

		for (int i = 0; i < count; i++)
			there |= !block_snapshot_get(b, (unsigned int)i, &sn) &&
				 !strcmp(sn.name, r->ledger.saved[k].name);
		if (!there && ledger_snapshot_needed(&r->ledger, k, tick)) {
			fprintf(stderr, "snapshot %s is gone\n", r->ledger.saved[k].name);
			rc = -EBADMSG;
		}
	}
	return rc;
}

/*
 * While a snapshot is made or deleted, refcounts and COPIED flags cannot change in one write: a
 * crash may leave a flag beside a count that is too high, or none beside a count of 1. Neither
 * harms; that no flag is set where it would is what overwrite() shows.
 */
static void on_finding(void *arg, const char *line)
{
	u64 *errors = arg;

	if (!strncmp(line, "ERROR", 5) && !strstr(line, "COPIED flag"))
		++*errors;
}

static int check(struct run *r, struct block *b)
{
	u64 errors = 0;
	struct block_check check = {0};
	struct err err = {""};
	int rc;

	if (r->shape->snapshots) {
		check.report = on_finding;
		check.arg = &errors;
	}
	rc = block_check(b, 0, &check, &err);
	if (!r->shape->snapshots)
		errors = check.errors;
	if (rc || !errors)
		return rc;
	fprintf(stderr, "%llu errors found by check\n", (unsigned long long)errors);
	return -EUCLEAN;
}

static int judge_by_qemu(struct run *r, const char *path)
{
	int status;

	r->judged++;
	if (r->shape->snapshots)
		return rig_run("! qemu-img check -f qcow2 '%s' 2>&1 | grep ERROR | "
			       "grep -v OFLAG_COPIED",
			       path)
			       ? -EUCLEAN
			       : 0;
	status = rig_run("qemu-img check -q -f %s '%s' 2>/dev/null", format_of(r), path);
	return status && status != 3 ? -EUCLEAN : 0;
}

/* Is the image at path sound, and does it hold what it must? */
static int judge(struct run *r, const char *path, u64 tick, bool qemu)
{
	struct block *b;
	int rc = open_crashed(r, path, &b);

	if (rc)
		return rc;
	rc = check(r, b);
	if (!rc)
		rc = ledger_verify(&r->ledger, b, tick);
	if (!rc && r->shape->snapshots)
		rc = judge_snapshots(r, path, b, tick);
	block_close(b);
	return !rc && qemu ? judge_by_qemu(r, path) : rc;
}

/* The whole disk written over must leave the snapshots alone. */
static int overwrite(struct run *r, const char *path, u64 tick)
{
	struct block_options o = options_of(r, path);
	struct err err = {""};
	struct block *b;
	u8 *data = calloc(1, r->shape->size);
	int rc = block_open(&b, &o, &err), closed;

	rig_options_free(&o);
	if (!rc) {
		memset(data, 0xee, r->shape->size);
		rc = block_write(b, data, r->shape->size, 0);
		closed = block_close(b);
		rc = rc ? rc : closed;
	}
	free(data);
	if (!rc)
		rc = open_crashed(r, path, &b);
	if (rc)
		return rc;
	rc = check(r, b);
	if (!rc)
		rc = judge_snapshots(r, path, b, tick);
	block_close(b);
	return rc;
}

/* ---- putting a file together ---- */

static void put(u8 *file, u64 *len, u64 offset, const u8 *data, u64 n)
{
	if (offset + n > MAX_FILE)
		return;
	if (offset + n > *len)
		*len = offset + n;
	if (data)
		memcpy(file + offset, data, n);
	else
		memset(file + offset, 0, n);
}

static void apply(u8 *file, u64 *len, const struct note *n)
{
	switch (n->kind) {
	case NOTE_WRITE:
		put(file, len, n->offset, n->data, n->len);
		break;
	case NOTE_ZERO:
		put(file, len, n->offset, NULL, n->len);
		break;
	case NOTE_TRUNCATE:
		if (n->len < *len)
			memset(file + n->len, 0, *len - n->len);
		*len = n->len;
		break;
	case NOTE_FLUSH:
		break;
	}
}

/* Some of its sectors only. */
static void apply_torn(struct run *r, const struct note *n)
{
	for (u64 at = 0; at < n->len;) {
		u64 part = min(n->len - at, 512 - (n->offset + at) % 512);

		if (rnd(r) % 2)
			put(r->trial, &r->trial_len, n->offset + at,
			    n->kind == NOTE_WRITE ? n->data + at : NULL, part);
		at += part;
	}
}

/* What of [from, upto) a crash left: all of it, or a part of it in any order. */
static void apply_some(struct run *r, u64 from, u64 upto, bool whole)
{
	u64 n = upto - from, *order = calloc(n + 1, sizeof(*order));
	bool shuffle = !whole && rnd(r) % 2;

	for (u64 i = 0; i < n; i++) {
		u64 k = shuffle ? rnd(r) % (i + 1) : i;

		order[i] = order[k];
		order[k] = from + i;
	}
	for (u64 i = 0; i < n; i++) {
		const struct note *note = &r->spy.notes[order[i]];
		u64 dice = whole ? 0 : rnd(r) % 4;

		if (dice < 2)
			apply(r->trial, &r->trial_len, note);
		else if (dice == 2 && note->kind != NOTE_TRUNCATE)
			apply_torn(r, note);
	}
	free(order);
}

static int crash_once(struct run *r, u64 from, u64 upto, bool whole)
{
	u64 tick = upto < r->spy.count ? r->spy.notes[upto].tick : r->ledger.tick;
	int fd, rc;

	memcpy(r->trial, r->base, max(r->base_len, r->trial_len));
	r->trial_len = r->base_len;
	apply_some(r, from, upto, whole);
	fd = open(r->crashed, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return -errno;
	rc = pwrite_full(fd, r->trial, r->trial_len, 0);
	close(fd);
	if (!rc)
		rc = judge(r, r->crashed, tick, r->trials++ % 50 == 0);
	if (!rc && r->shape->snapshots && r->trials % 4 == 0)
		rc = overwrite(r, r->crashed, tick);
	if (rc)
		fprintf(stderr, "%s: crash after note %llu of %llu (sync at %llu, %s): %s\n",
			r->shape->name, (unsigned long long)upto, (unsigned long long)r->spy.count,
			(unsigned long long)from, whole ? "whole" : "torn", strerror(-rc));
	return rc;
}

/* Crash at every note, whole; and at some, with part of what came after the last sync. */
static int replay(struct run *r, u64 first_len, unsigned int torn)
{
	u64 from = 0;
	int rc = 0;

	r->base_len = r->trial_len = first_len;
	for (u64 i = 0; i <= r->spy.count && !rc; i++) {
		if (i % 3 == 0 || i == r->spy.count)
			rc = crash_once(r, from, i, true);
		for (unsigned int k = 0; k < torn && !rc; k++)
			rc = crash_once(r, from, i, false);
		if (i == r->spy.count || r->spy.notes[i].kind != NOTE_FLUSH)
			continue;
		for (; from <= i; from++)
			apply(r->base, &r->base_len, &r->spy.notes[from]);
		r->trial_len = max(r->trial_len, r->base_len);
	}
	return rc;
}

/* ---- the operations ---- */

static int operate_once(struct run *r, struct block *b)
{
	const struct shape *s = r->shape;
	u64 dice = rnd(r) % 100, pack = s->packed ? s->cluster : 0, a = rnd(r), c = rnd(r);
	u64 least = s->size / 2 / s->cluster;

	if (s->snapshots && dice < 6)
		return ledger_snapshot(&r->ledger, b, a);
	if (s->resized && dice < 12)
		return ledger_resize(&r->ledger, b,
				     (least + a % (least + 1)) * s->cluster / LEDGER_SECTOR);
	if (dice < 50)
		return ledger_burst(&r->ledger, b, pack, 2 + (unsigned int)(c % 11), s->snapshots,
				    a);
	return ledger_step(&r->ledger, b, pack, a, c);
}

static int operate(struct run *r, struct block *b, unsigned int steps, bool errors_are_fine)
{
	int first = 0;

	for (unsigned int i = 0; i < steps; i++) {
		int rc = operate_once(r, b);

		if (rc && !errors_are_fine)
			return rc;
		if (rc && !first)
			first = rc;
	}
	return first;
}

/* Content that is there, durable, before anything is noted. */
static int prepare(struct run *r, struct block **b)
{
	int rc;

	r->spy = (struct spy){.tick = &r->ledger.tick};
	pthread_mutex_init(&r->spy.lock, NULL);
	rc = make_base(r);
	if (!rc)
		rc = make_image(r);
	if (!rc)
		rc = ledger_init(&r->ledger, r->shape->size, base_size(r));
	if (!rc)
		rc = open_spied(r, b);
	if (rc)
		return rc;
	rc = operate(r, *b, 12, false);
	if (!rc)
		rc = block_flush(*b);
	return rc ? rc : block_close(*b);
}

static int crash_shape(struct run *r, unsigned int steps, unsigned int torn)
{
	struct block *b;
	struct stat st;
	int fd, rc = prepare(r, &b);

	if (rc)
		return rc;
	fd = open(r->image, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) || (u64)st.st_size > MAX_FILE)
		return -EIO;
	rc = pread_full(fd, r->base, (size_t)st.st_size, 0);
	close(fd);
	/* What was there is the only thing that may be there. */
	ledger_settle(&r->ledger);
	r->spy.keep = true;
	if (!rc)
		rc = open_spied(r, &b);
	if (rc)
		return rc;
	rc = operate(r, b, steps, false);
	if (!rc)
		rc = block_close(b);
	if (!rc)
		rc = replay(r, (u64)st.st_size, torn);
	printf("crash %-18s %llu notes, %llu crashes, %llu judged by qemu-img: %s\n",
	       r->shape->name, (unsigned long long)r->spy.count, (unsigned long long)r->trials,
	       (unsigned long long)r->judged, rc ? strerror(-rc) : "ok");
	return rc;
}

/* The N-th I/O fails. */
static int fault_once(struct run *r, u64 nth, bool on, u64 seed, bool *reached)
{
	struct block *b;
	int rc;

	r->seed = seed;
	rc = prepare(r, &b);
	if (rc)
		return rc;
	r->spy.seen = 0;
	r->spy.fail_at = nth;
	r->spy.fail_on = on;
	rc = open_spied(r, &b);
	if (!rc) {
		operate(r, b, 30, true);
		block_close(b);
	}
	*reached = r->spy.seen >= nth;
	r->spy.fail_at = 0;
	rc = judge(r, r->image, r->ledger.tick, nth % 20 == 0);
	if (rc)
		fprintf(stderr, "%s: I/O %llu %s: %s\n", r->shape->name, (unsigned long long)nth,
			on ? "and all after it fail" : "fails", strerror(-rc));
	spy_forget(&r->spy);
	ledger_free(&r->ledger);
	return rc;
}

static int fault_shape(struct run *r, u64 step)
{
	u64 nth = 1, seed = r->seed;
	bool reached = true;
	int rc = 0;

	for (; reached && !rc; nth += step) {
		rc = fault_once(r, nth, false, seed, &reached);
		if (!rc)
			rc = fault_once(r, nth, true, seed, &reached);
	}
	printf("fault %-18s %llu places: %s\n", r->shape->name, (unsigned long long)(nth / step),
	       rc ? strerror(-rc) : "ok");
	return rc;
}

int main(int argc, char **argv)
{
	u64 factor = scale("BOTHY_LONG", 1), seed = scale("BOTHY_SEED", 1);
	bool faults = argc > 1 && !strcmp(argv[1], "faults");
	const char *only = argc > 2 ? argv[2] : NULL;
	int bad = 0;

	if (!rig_have("qemu-img")) {
		printf("SKIP: qemu-img is missing (Debian package qemu-utils)\n");
		return 77;
	}
	/* Nothing here is about the disk of the machine that runs it. */
	if (!access("/dev/shm", W_OK))
		setenv("BOTHY_BUILD", "/dev/shm", 1);
	log_set_sink(NULL);
	log_set_level(LOG_ERROR);
	for (size_t i = 0; i < ARRAY_SIZE(shapes) && !bad; i++) {
		struct run r = {.shape = &shapes[i], .seed = seed};

		if (only && strcmp(only, shapes[i].name))
			continue;
		r.folder = rig_folder();
		r.image = rig_path(r.folder, "image");
		r.crashed = rig_path(r.folder, "crashed");
		r.base_file = rig_path(r.folder, "base");
		r.base = calloc(1, MAX_FILE);
		r.trial = calloc(1, MAX_FILE);
		if (faults) {
			bad = fault_shape(&r, factor > 1 ? 1 : 7);
		} else {
			bad = crash_shape(&r, (unsigned int)(36 * factor), 1);
			spy_forget(&r.spy);
			ledger_free(&r.ledger);
		}
		if (!bad)
			rig_folder_free(r.folder);
		else
			fprintf(stderr, "left in %s\n", r.folder);
		free(r.image);
		free(r.crashed);
		free(r.base_file);
		free(r.base);
		free(r.trial);
	}
	return bad != 0;
}
