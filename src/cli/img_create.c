/* bothy img create, resize, measure. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/str.h"
#include "cli/img_int.h"

/* ---- create ---- */

struct create {
	char *file, *format, *backing, *backing_fmt, *options, *size;
	bool quiet, unchecked;
};

#define FIELD(f) .offset = offsetof(struct create, f)

static const struct opt create_options[] = {
	{.name = "format",
	 .type = OPT_STRING,
	 FIELD(format),
	 .dflt = "raw",
	 .arg = "NAME",
	 .help = "raw, qcow2, qed or luks"},
	{.name = "f", .type = OPT_STRING, FIELD(format), .arg = "NAME"},
	{.name = "backing",
	 .type = OPT_STRING,
	 FIELD(backing),
	 .arg = "FILE",
	 .help = "image that shows where the new one has nothing"},
	{.name = "b", .type = OPT_STRING, FIELD(backing), .arg = "FILE"},
	{.name = "backing-format",
	 .type = OPT_STRING,
	 FIELD(backing_fmt),
	 .arg = "NAME",
	 .help = "format of the backing file"},
	{.name = "F", .type = OPT_STRING, FIELD(backing_fmt), .arg = "NAME"},
	{.name = "options",
	 .type = OPT_STRING,
	 FIELD(options),
	 .arg = "KEY=VALUE,...",
	 .help = "cluster_size, compat, refcount_bits, preallocation, extended_l2, lazy_refcounts, "
		 "compression_type, data_file, data_file_raw, table_size, encrypt.format, "
		 "encrypt.key-file, encrypt.cipher-alg, encrypt.hash-alg, encrypt.iter-time"},
	{.name = "o", .type = OPT_STRING, FIELD(options), .arg = "KEY=VALUE,..."},
	{.name = "unchecked",
	 .type = OPT_BOOL,
	 FIELD(unchecked),
	 .help = "do not open the backing file (SIZE must be given)"},
	{.name = "u", .type = OPT_BOOL, FIELD(unchecked)},
	{.name = "quiet", .type = OPT_BOOL, FIELD(quiet), .help = "say nothing"},
	{.name = "q", .type = OPT_BOOL, FIELD(quiet)},
	OPT_END,
};

static int create_arg(void *target, const char *value, struct err *err)
{
	struct create *c = target;

	return img_take(value, (char **const[]){&c->file, &c->size}, 2, err);
}

static int size_of(const char *text, u64 *size, struct err *err)
{
	int rc = parse_size(text, size);

	return rc ? err_set(err, -rc, "%s: not a size (try 512M or 4G)", text) : 0;
}

static int parse_create(const struct create *c, struct block_create *out, struct err *err)
{
	int rc = block_create_parse(out, c->format, c->options, err);

	if (!rc && c->backing) {
		free(out->backing_file);
		out->backing_file = strdup(c->backing);
	}
	if (!rc && c->backing_fmt) {
		free(out->backing_fmt);
		out->backing_fmt = strdup(c->backing_fmt);
	}
	if (!rc && c->size)
		rc = size_of(c->size, &out->size, err);
	/* As a disk: whole sectors. */
	if (!rc && out->size > INT64_MAX - 512)
		rc = err_set(err, EFBIG, "size is too large");
	if (!rc)
		out->size = align_up(out->size, 512);
	return rc;
}

/* The backing file must be there, and gives the size when nobody says another. */
static int look_at_backing(const struct create *c, struct block_create *b, struct err *err)
{
	const char *slash = strrchr(c->file, '/');
	struct img_source source = {.format = b->backing_fmt};
	struct block *block;
	char *path = NULL;
	int rc;

	if (!b->backing_file || c->unchecked)
		return 0;
	if (!b->backing_fmt)
		return err_set(err, EINVAL, "--backing needs --backing-format");
	if (asprintf(&path, "%.*s%s",
		     slash && b->backing_file[0] != '/' ? (int)(slash + 1 - c->file) : 0, c->file,
		     b->backing_file) < 0)
		return err_set(err, ENOMEM, "out of memory");
	source.file = path;
	rc = img_same_file(path, c->file)
		     ? err_set(err, EINVAL, "%s: cannot be its own backing file", c->file)
		     : img_open(&block, &source, 0, err);
	if (!rc) {
		if (!c->size && !b->size)
			b->size = align_up(block_size(block), 512);
		block_close(block);
	}
	free(path);
	return rc;
}

static int create_main(int argc, char **argv)
{
	struct create c = {0};
	struct block_create b = {0};
	struct err err = {""};
	int rc = img_parse(&img_create, &c, argc, argv, create_arg);
	int status = EXIT_USAGE;

	if (rc)
		goto out;
	if (!c.file) {
		err_set(&err, EINVAL, "a file name is missing");
		img_fail("create", &err, 0);
		goto out;
	}
	rc = parse_create(&c, &b, &err);
	if (!rc && !c.size && !b.size && (!b.backing_file || c.unchecked))
		rc = err_set(&err, EINVAL, "a size is missing");
	if (rc) {
		img_fail("create", &err, 0);
		goto out;
	}
	status = IMG_FAILED;
	rc = look_at_backing(&c, &b, &err);
	if (!rc)
		rc = block_create(c.file, c.format, &b, &err);
	if (rc) {
		img_fail("create", &err, 0);
		goto out;
	}
	status = 0;
	if (!c.quiet)
		printf("Formatting '%s', fmt=%s size=%llu\n", c.file, c.format,
		       (unsigned long long)b.size);
out:
	opt_free(block_create_table, &b);
	opt_free(create_options, &c);
	return status;
}

const struct command img_create = {
	.name = "create",
	.args = "[OPTIONS] FILE [SIZE]",
	.summary = "Make an image",
	.options = create_options,
	.run = create_main,
};

/* ---- resize ---- */

struct resize {
	struct img_source source;
	char *size;
	bool shrink, quiet;
	int preallocation;
};

static const struct opt resize_options[] = {
	IMG_SOURCE_OPTIONS(struct resize, source),
	{.name = "shrink",
	 .type = OPT_BOOL,
	 .offset = offsetof(struct resize, shrink),
	 .help = "allow the end of the disk to be cut off"},
	{.name = "preallocation",
	 .type = OPT_ENUM,
	 .offset = offsetof(struct resize, preallocation),
	 .dflt = "off",
	 .arg = "MODE",
	 .choices = block_prealloc_names,
	 .help = "of what is added: off, metadata, falloc or full"},
	{.name = "quiet",
	 .type = OPT_BOOL,
	 .offset = offsetof(struct resize, quiet),
	 .help = "say nothing"},
	{.name = "q", .type = OPT_BOOL, .offset = offsetof(struct resize, quiet)},
	OPT_END,
};

static int resize_arg(void *target, const char *value, struct err *err)
{
	struct resize *r = target;

	return img_take(value, (char **const[]){&r->source.file, &r->size}, 2, err);
}

/* SIZE, +SIZE or -SIZE. */
static int new_size(const char *text, u64 now, u64 *size, struct err *err)
{
	char sign = *text == '+' || *text == '-' ? *text : 0;
	u64 v;

	if (parse_size(text + !!sign, &v) || v > INT64_MAX - 512)
		return err_set(err, EINVAL, "%s: not a size (try 8G or +2G)", text);
	if (sign == '-' && v > now)
		return err_set(err, EINVAL, "%s: the image is smaller than that", text);
	*size = align_up(sign == '+' ? now + v : sign == '-' ? now - v : v, 512);
	return 0;
}

static int resize(struct resize *r, struct err *err)
{
	struct block *b;
	u64 size = 0, old;
	int rc = img_open(&b, &r->source, IMG_WRITE, err), closed;

	if (rc)
		return rc;
	img_catch_signals();
	old = block_size(b);
	rc = new_size(r->size, old, &size, err);
	if (!rc)
		rc = block_resize(b, size, r->shrink, err);
	if (!rc)
		rc = block_extend(b, old, r->preallocation, err);
	closed = block_close(b);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", r->source.file, strerror(-closed));
	return rc;
}

static int resize_main(int argc, char **argv)
{
	struct resize r = {0};
	struct err err = {""};
	int rc = img_parse(&img_resize, &r, argc, argv, resize_arg), status = EXIT_USAGE;

	if (!rc && !r.size) {
		err_set(&err, EINVAL, "a size is missing");
		img_fail("resize", &err, 0);
	} else if (!rc) {
		status = resize(&r, &err) ? img_fail("resize", &err, IMG_FAILED) : 0;
		if (!status && !r.quiet)
			printf("Image resized.\n");
	}
	opt_free(resize_options, &r);
	return status;
}

const struct command img_resize = {
	.name = "resize",
	.args = "[OPTIONS] FILE [+|-]SIZE",
	.summary = "Make the disk in an image larger or smaller",
	.options = resize_options,
	.run = resize_main,
};

/* ---- measure ---- */

struct measure {
	struct img_source source;
	char *target, *options, *snapshot, *size;
	struct img_output output;
};

static const struct opt measure_options[] = {
	IMG_SOURCE_OPTIONS(struct measure, source),
	{.name = "target-format",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, target),
	 .dflt = "raw",
	 .arg = "NAME",
	 .help = "format that the answer is for"},
	{.name = "O",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, target),
	 .arg = "NAME"},
	{.name = "options",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, options),
	 .arg = "KEY=VALUE,...",
	 .help = "as for create"},
	{.name = "o",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, options),
	 .arg = "KEY=VALUE,..."},
	{.name = "snapshot",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, snapshot),
	 .arg = "NAME",
	 .help = "of this internal snapshot of FILE"},
	{.name = "l",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, snapshot),
	 .arg = "NAME"},
	{.name = "size",
	 .type = OPT_STRING,
	 .offset = offsetof(struct measure, size),
	 .arg = "SIZE",
	 .help = "of an empty disk, in place of FILE"},
	IMG_OUTPUT_OPTIONS(struct measure, output),
	OPT_END,
};

static int measure_arg(void *target, const char *value, struct err *err)
{
	struct measure *m = target;

	return img_take(value, (char **const[]){&m->source.file}, 1, err);
}

static int data_of(struct block *b, u64 unit, u64 *data)
{
	u64 size = block_size(b), last = ~0ULL;

	for (u64 at = 0; at < size;) {
		struct block_extent e;
		int rc = block_status(b, at, size - at, &e);

		if (rc)
			return rc;
		if (!(e.flags & BLOCK_ZERO)) {
			u64 first = at / unit, end = (at + e.len - 1) / unit;

			*data += (end - first + (first != last)) * unit;
			last = end;
		}
		at += e.len;
	}
	*data = min(*data, size);
	return 0;
}

static int measure(const struct measure *m, struct err *err)
{
	struct block_create c = {0};
	struct block *b = NULL;
	u64 data = 0, required, full;
	int rc = block_create_parse(&c, m->target, m->options, err);

	if (!rc && m->size)
		rc = size_of(m->size, &c.size, err);
	if (!rc && m->source.file) {
		rc = img_open(&b, &m->source, m->snapshot ? IMG_SNAPSHOT : 0, err);
		if (!rc && m->snapshot)
			rc = block_snapshot_view(b, img_snapshot_name(m->snapshot), err);
		if (rc) {
			block_close(b);
		} else {
			c.size = block_size(b);
			rc = data_of(b, c.cluster_size ? c.cluster_size : 64 * KiB, &data);
			if (rc)
				err_set(err, -rc, "%s: %s", m->source.file, strerror(-rc));
			block_close(b);
		}
	}
	if (!rc)
		rc = block_measure(m->target, &c, data, &required, &full, err);
	if (!rc)
		printf(img_wants_json(&m->output)
			       ? "{\n    \"required\": %llu,\n    \"fully-allocated\": %llu\n}\n"
			       : "required size: %llu\nfully allocated size: %llu\n",
		       (unsigned long long)required, (unsigned long long)full);
	opt_free(block_create_table, &c);
	return rc;
}

static int measure_main(int argc, char **argv)
{
	struct measure m = {0};
	struct err err = {""};
	int rc = img_parse(&img_measure, &m, argc, argv, measure_arg), status = EXIT_USAGE;

	if (!rc && !m.source.file == !m.size) {
		err_set(&err, EINVAL, "an image or --size is %s",
			m.size ? "enough, not both" : "missing");
		img_fail("measure", &err, 0);
	} else if (!rc) {
		status = measure(&m, &err) ? img_fail("measure", &err, IMG_FAILED) : 0;
	}
	opt_free(measure_options, &m);
	return status;
}

const struct command img_measure = {
	.name = "measure",
	.args = "[OPTIONS] [FILE]",
	.summary = "Say how large an image would become",
	.options = measure_options,
	.run = measure_main,
};
