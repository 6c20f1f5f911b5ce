/* bothy img snapshot, rebase, commit: images in relation to others and to their past. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "cli/img_int.h"

/* ---- snapshot ---- */

struct snapshot {
	struct img_source source;
	char *create, *apply, *delete;
	bool list, quiet;
};

#define FIELD(f) .offset = offsetof(struct snapshot, f)

static const struct opt snapshot_options[] = {
	IMG_SOURCE_OPTIONS(struct snapshot, source),
	{.name = "create",
	 .type = OPT_STRING,
	 FIELD(create),
	 .arg = "NAME",
	 .help = "keep the disk as it is now"},
	{.name = "c", .type = OPT_STRING, FIELD(create), .arg = "NAME"},
	{.name = "apply",
	 .type = OPT_STRING,
	 FIELD(apply),
	 .arg = "NAME",
	 .help = "go back to a snapshot; what came after it is lost"},
	{.name = "a", .type = OPT_STRING, FIELD(apply), .arg = "NAME"},
	{.name = "delete",
	 .type = OPT_STRING,
	 FIELD(delete),
	 .arg = "NAME",
	 .help = "forget a snapshot"},
	{.name = "d", .type = OPT_STRING, FIELD(delete), .arg = "NAME"},
	{.name = "list", .type = OPT_BOOL, FIELD(list), .help = "list them (also the default)"},
	{.name = "l", .type = OPT_BOOL, FIELD(list)},
	{.name = "quiet", .type = OPT_BOOL, FIELD(quiet), .help = "say nothing"},
	{.name = "q", .type = OPT_BOOL, FIELD(quiet)},
	OPT_END,
};

static int snapshot_arg(void *target, const char *value, struct err *err)
{
	struct snapshot *s = target;

	return img_take(value, (char **const[]){&s->source.file}, 1, err);
}

const char *img_snapshot_name(const char *text)
{
	static const char *const keys[] = {"snapshot.name=", "snapshot.id="};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strncmp(text, keys[i], strlen(keys[i])))
			return text + strlen(keys[i]);
	return text;
}

static int list(struct block *b, const char *file, struct err *err)
{
	int count = block_snapshot_count(b);

	if (count < 0)
		return err_set(err, -count, "%s: this format has no snapshots", file);
	if (!count)
		return 0;
	printf("Snapshot list:\n");
	img_print_snapshots(b, count);
	return 0;
}

static int snapshot(const struct snapshot *s, struct err *err)
{
	bool change = s->create || s->apply || s->delete;
	struct block *b;
	int rc = img_open(&b, &s->source, IMG_METADATA | (change ? IMG_WRITE : 0), err), closed;

	if (rc)
		return rc;
	/* What is begun is soon done, and half of it would look like a broken image. */
	if (change)
		img_catch_signals();
	if (s->create)
		rc = block_snapshot_create(b, s->create, err);
	else if (s->apply)
		rc = block_snapshot_apply(b, s->apply, err);
	else if (s->delete)
		rc = block_snapshot_delete(b, s->delete, err);
	else
		rc = list(b, s->source.file, err);
	closed = block_close(b);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", s->source.file, strerror(-closed));
	return rc;
}

static int snapshot_main(int argc, char **argv)
{
	struct snapshot s = {0};
	struct err err = {""};
	int rc = img_parse(&img_snapshot, &s, argc, argv, snapshot_arg), status = EXIT_USAGE;

	if (!rc && !!s.create + !!s.apply + !!s.delete + s.list > 1) {
		err_set(&err, EINVAL, "one of --list, --create, --apply and --delete at a time");
		img_fail("snapshot", &err, 0);
	} else if (!rc) {
		status = snapshot(&s, &err) ? img_fail("snapshot", &err, IMG_FAILED) : 0;
	}
	opt_free(snapshot_options, &s);
	return status;
}

const struct command img_snapshot = {
	.name = "snapshot",
	.args = "[OPTIONS] FILE",
	.summary = "List, make, apply and delete snapshots inside an image",
	.options = snapshot_options,
	.run = snapshot_main,
};

/* ---- rebase ---- */

struct rebase {
	struct img_source source;
	char *backing, *backing_fmt;
	bool unsafe, progress, quiet;
};

#undef FIELD
#define FIELD(f) .offset = offsetof(struct rebase, f)

static const struct opt rebase_options[] = {
	IMG_SOURCE_OPTIONS(struct rebase, source),
	{.name = "backing",
	 .type = OPT_STRING,
	 FIELD(backing),
	 .arg = "FILE",
	 .help = "the new backing file; empty: none"},
	{.name = "b", .type = OPT_STRING, FIELD(backing), .arg = "FILE"},
	{.name = "backing-fmt",
	 .type = OPT_STRING,
	 FIELD(backing_fmt),
	 .arg = "NAME",
	 .help = "its format"},
	{.name = "F", .type = OPT_STRING, FIELD(backing_fmt), .arg = "NAME"},
	{.name = "unsafe",
	 .type = OPT_BOOL,
	 FIELD(unsafe),
	 .help = "change only the name: the new file has the same contents as the old one"},
	{.name = "u", .type = OPT_BOOL, FIELD(unsafe)},
	{.name = "progress", .type = OPT_BOOL, FIELD(progress), .help = "show how far it is"},
	{.name = "p", .type = OPT_BOOL, FIELD(progress)},
	{.name = "quiet", .type = OPT_BOOL, FIELD(quiet), .help = "say nothing"},
	{.name = "q", .type = OPT_BOOL, FIELD(quiet)},
	OPT_END,
};

static int rebase_arg(void *target, const char *value, struct err *err)
{
	struct rebase *r = target;

	return img_take(value, (char **const[]){&r->source.file}, 1, err);
}

char *img_path_beside(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	char *path = NULL;
	int dir = slash && *name != '/' ? (int)(slash + 1 - image) : 0;

	return asprintf(&path, "%.*s%s", dir, image, name) < 0 ? NULL : path;
}

static int read_or_zero(struct block *b, u8 *buf, u64 len, u64 at)
{
	u64 size = b ? block_size(b) : 0, there = at >= size ? 0 : min(len, size - at);

	memset(buf + there, 0, len - there);
	return there ? block_read(b, buf, there, at) : 0;
}

#define CHUNK (1 * MiB)

/* Where the image shows the old backing file and the new one shows something else, take it over. */
static int take_over(struct block *image, struct block *fresh, u64 unit, struct img_progress *p)
{
	u64 size = block_size(image);
	u8 *have = malloc(CHUNK), *want = malloc(CHUNK);
	int rc = have && want ? 0 : -ENOMEM;

	for (u64 at = 0; at < size && !rc;) {
		struct block_extent e;

		rc = img_interrupted() ? -EINTR
				       : block_status(image, at, min(size - at, CHUNK), &e);
		if (rc)
			break;
		if (!(e.flags & BLOCK_ALLOCATED)) {
			rc = read_or_zero(image, have, e.len, at);
			if (!rc)
				rc = read_or_zero(fresh, want, e.len, at);
			for (u64 k = 0; k < e.len && !rc; k += unit) {
				u64 n = min(unit, e.len - k);

				if (memcmp(have + k, want + k, n))
					rc = block_write(image, have + k, n, at + k);
			}
		}
		at += e.len;
		img_progress_step(p, at);
	}
	free(have);
	free(want);
	return rc;
}

static int rebase_data(const struct rebase *r, struct block *b, struct err *err)
{
	struct img_source source = {
		.format = r->backing_fmt, .share = r->source.share, .key_file = r->source.key_file};
	struct block *fresh = NULL;
	struct img_progress progress;
	struct block_info info;
	int rc = 0;

	if (*r->backing) {
		source.file = img_path_beside(r->source.file, r->backing);
		if (!source.file)
			return err_set(err, ENOMEM, "out of memory");
		rc = img_open(&fresh, &source, 0, err);
		free(source.file);
		if (rc)
			return rc;
	}
	block_get_info(b, &info);
	img_progress_begin(&progress, r->progress, info.size);
	rc = take_over(b, fresh, max(info.discard_align, 512u), &progress);
	img_progress_end(&progress);
	if (rc)
		err_set(err, -rc, "%s: %s", r->source.file,
			rc == -EINTR ? "interrupted; it stands on its old backing file as before"
				     : strerror(-rc));
	block_close(fresh);
	return rc;
}

static int rebase(const struct rebase *r, struct err *err)
{
	struct block *b;
	int rc = img_open(&b, &r->source, IMG_WRITE | (r->unsafe ? IMG_METADATA : 0), err), closed;

	if (rc)
		return rc;
	img_catch_signals();
	if (!r->unsafe)
		rc = rebase_data(r, b, err);
	if (!rc)
		rc = block_change_backing(b, *r->backing ? r->backing : NULL,
					  *r->backing ? r->backing_fmt : NULL, err);
	closed = block_close(b);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", r->source.file, strerror(-closed));
	return rc;
}

static int rebase_main(int argc, char **argv)
{
	struct rebase r = {0};
	struct err err = {""};
	int rc = img_parse(&img_rebase, &r, argc, argv, rebase_arg), status = EXIT_USAGE;

	if (!rc && (!r.backing || (*r.backing && !r.backing_fmt))) {
		err_set(&err, EINVAL, "--backing FILE and --backing-fmt NAME are needed");
		img_fail("rebase", &err, 0);
	} else if (!rc) {
		status = rebase(&r, &err) ? img_fail("rebase", &err, IMG_FAILED) : 0;
	}
	opt_free(rebase_options, &r);
	return status;
}

const struct command img_rebase = {
	.name = "rebase",
	.args = "[OPTIONS] FILE",
	.summary = "Give an image another backing file",
	.options = rebase_options,
	.run = rebase_main,
};

/* ---- commit ---- */

struct commit {
	struct img_source source;
	bool keep, progress, quiet;
};

#undef FIELD
#define FIELD(f) .offset = offsetof(struct commit, f)

static const struct opt commit_options[] = {
	IMG_SOURCE_OPTIONS(struct commit, source),
	{.name = "keep",
	 .type = OPT_BOOL,
	 FIELD(keep),
	 .help = "do not empty the image afterwards"},
	{.name = "d", .type = OPT_BOOL, FIELD(keep)},
	{.name = "progress", .type = OPT_BOOL, FIELD(progress), .help = "show how far it is"},
	{.name = "p", .type = OPT_BOOL, FIELD(progress)},
	{.name = "quiet", .type = OPT_BOOL, FIELD(quiet), .help = "say nothing"},
	{.name = "q", .type = OPT_BOOL, FIELD(quiet)},
	OPT_END,
};

static int commit_arg(void *target, const char *value, struct err *err)
{
	struct commit *c = target;

	return img_take(value, (char **const[]){&c->source.file}, 1, err);
}

static int copy_down(struct block *image, struct block *base, struct img_progress *p)
{
	u64 size = block_size(image);
	u8 *buf = malloc(CHUNK);
	int rc = buf ? 0 : -ENOMEM;

	for (u64 at = 0; at < size && !rc;) {
		struct block_extent e;

		rc = img_interrupted() ? -EINTR
				       : block_status(image, at, min(size - at, CHUNK), &e);
		if (rc)
			break;
		if ((e.flags & BLOCK_ALLOCATED) && (e.flags & BLOCK_ZERO)) {
			rc = block_write_zeroes(base, e.len, at, BLOCK_MAY_UNMAP);
		} else if (e.flags & BLOCK_ALLOCATED) {
			rc = block_read(image, buf, e.len, at);
			if (!rc)
				rc = block_write(base, buf, e.len, at);
		}
		at += e.len;
		img_progress_step(p, at);
	}
	free(buf);
	return rc;
}

/* Open the backing file for writing: its own node, not the read-only one of the image. */
static int open_base(const struct commit *c, const struct block_image_info *info,
		     struct block **base, struct err *err)
{
	struct img_source source = {.format = (char *)(uintptr_t)info->backing_format,
				    .backing_format = c->source.backing_format,
				    .cache = c->source.cache,
				    .key_file = c->source.key_file,
				    .share = c->source.share};
	int rc;

	if (!info->backing_file)
		return err_set(err, EINVAL, "%s: has no backing file", c->source.file);
	source.file = img_path_beside(c->source.file, info->backing_file);
	if (!source.file)
		return err_set(err, ENOMEM, "out of memory");
	if (!source.format)
		source.format = c->source.backing_format;
	rc = img_open(base, &source, IMG_WRITE, err);
	free(source.file);
	return rc;
}

static int commit(const struct commit *c, struct err *err)
{
	struct block *image, *base;
	struct block_image_info info;
	struct img_progress progress;
	int rc, closed;

	/* Without the backing chain: unallocated parts must not be read, and stay untouched. */
	rc = img_open(&image, &c->source, IMG_METADATA | IMG_WRITE, err);
	if (rc)
		return rc;
	img_catch_signals();
	rc = block_image_info(image, &info);
	if (!rc)
		rc = open_base(c, &info, &base, err);
	if (rc)
		goto out;
	if (block_size(base) < block_size(image))
		rc = block_resize(base, block_size(image), false, err);
	img_progress_begin(&progress, c->progress, block_size(image));
	if (!rc) {
		rc = copy_down(image, base, &progress);
		if (rc)
			err_set(err, -rc, "%s: %s", c->source.file,
				rc == -EINTR ? "interrupted; the image is as it was, its backing "
					       "file holds some of it"
					     : strerror(-rc));
	}
	img_progress_end(&progress);
	closed = block_flush(base);
	if (!closed)
		closed = block_close(base);
	else
		block_close(base);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", info.backing_file, strerror(-closed));
	if (!rc && !c->keep)
		rc = block_make_empty(image, err);
out:
	closed = block_close(image);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", c->source.file, strerror(-closed));
	return rc;
}

static int commit_main(int argc, char **argv)
{
	struct commit c = {0};
	struct err err = {""};
	int rc = img_parse(&img_commit, &c, argc, argv, commit_arg), status = EXIT_USAGE;

	if (!rc)
		status = commit(&c, &err) ? img_fail("commit", &err, IMG_FAILED) : 0;
	if (!status && !c.quiet)
		printf("Image committed.\n");
	opt_free(commit_options, &c);
	return status;
}

const struct command img_commit = {
	.name = "commit",
	.args = "[OPTIONS] FILE",
	.summary = "Write what an image holds into its backing file",
	.options = commit_options,
	.run = commit_main,
};
