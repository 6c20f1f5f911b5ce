/* bothy img compare. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/img_int.h"

#define CHUNK (1 * MiB)

struct compare {
	struct img_source a, b;
	bool strict, progress, quiet;
};

#define FIELD(f) .offset = offsetof(struct compare, f)

static const struct opt compare_options[] = {
	IMG_SOURCE_OPTIONS(struct compare, a),
	{.name = "second-format",
	 .type = OPT_STRING,
	 FIELD(b.format),
	 .arg = "NAME",
	 .help = "format of the second image"},
	{.name = "F", .type = OPT_STRING, FIELD(b.format), .arg = "NAME"},
	{.name = "second-key-file",
	 .type = OPT_STRING,
	 FIELD(b.key_file),
	 .arg = "FILE",
	 .help = "passphrase of the second image, if it is another"},
	{.name = "strict",
	 .type = OPT_BOOL,
	 FIELD(strict),
	 .help = "sizes and allocation must be the same, too"},
	{.name = "s", .type = OPT_BOOL, FIELD(strict)},
	{.name = "progress", .type = OPT_BOOL, FIELD(progress), .help = "show how far it is"},
	{.name = "p", .type = OPT_BOOL, FIELD(progress)},
	{.name = "quiet", .type = OPT_BOOL, FIELD(quiet), .help = "only the exit status"},
	{.name = "q", .type = OPT_BOOL, FIELD(quiet)},
	OPT_END,
};

static int compare_arg(void *target, const char *value, struct err *err)
{
	struct compare *c = target;

	return img_take(value, (char **const[]){&c->a.file, &c->b.file}, 2, err);
}

struct side {
	struct block *block;
	u64 size;
	u8 *buf;
};

/* [at, +len) of one side; zeros behind its end. *zero: known to be zeros, nothing was read. */
static int fetch(struct side *s, u64 at, u64 *len, bool *zero, bool *allocated)
{
	struct block_extent e;
	int rc;

	*zero = true;
	*allocated = false;
	if (at >= s->size)
		return 0;
	rc = block_status(s->block, at, min(*len, s->size - at), &e);
	if (rc)
		return rc;
	*len = e.len;
	*zero = e.flags & BLOCK_ZERO;
	*allocated = e.flags & (BLOCK_ALLOCATED | BLOCK_DATA);
	return 0;
}

/* The first byte that differs in [at, +len), or len. */
static int first_difference(struct side *s, const bool *zero, u64 at, u64 len, u64 *where)
{
	int rc = 0;

	*where = len;
	if (zero[0] && zero[1])
		return 0;
	for (int i = 0; i < 2 && !rc; i++) {
		if (zero[i])
			memset(s[i].buf, 0, len);
		else
			rc = block_read(s[i].block, s[i].buf, len, at);
	}
	if (rc || !memcmp(s[0].buf, s[1].buf, len))
		return rc;
	for (*where = 0; s[0].buf[*where] == s[1].buf[*where];)
		++*where;
	return 0;
}

/* 0 the same, 1 different, -errno. */
static int compare_all(const struct compare *c, struct side *s)
{
	u64 size = max(s[0].size, s[1].size);
	struct img_progress progress;
	int rc = 0;

	if (c->strict && s[0].size != s[1].size) {
		if (!c->quiet)
			printf("Strict mode: image sizes are different.\n");
		return 1;
	}
	if (s[0].size != s[1].size && !c->quiet)
		fprintf(stderr, "Warning: image sizes are different.\n");
	img_progress_begin(&progress, c->progress, size);
	for (u64 at = 0, where; at < size && !rc;) {
		u64 len = min(size - at, CHUNK);
		bool zero[2], allocated[2];

		/* Each may shorten it; what the first said holds for less as well. */
		rc = fetch(&s[0], at, &len, &zero[0], &allocated[0]);
		if (!rc)
			rc = fetch(&s[1], at, &len, &zero[1], &allocated[1]);
		if (!rc && at < s[0].size)
			len = min(len, s[0].size - at);
		if (!rc)
			rc = first_difference(s, zero, at, len, &where);
		if (!rc && where < len) {
			if (!c->quiet)
				printf("Content mismatch at offset %llu!\n",
				       (unsigned long long)(at + where));
			rc = 1;
		} else if (!rc && c->strict && allocated[0] != allocated[1]) {
			if (!c->quiet)
				printf("Strict mode: offset %llu allocation mismatch!\n",
				       (unsigned long long)at);
			rc = 1;
		}
		at += len;
		img_progress_step(&progress, at);
	}
	img_progress_end(&progress);
	return rc;
}

static int compare(struct compare *c, struct err *err)
{
	struct side s[2] = {0};
	int rc = img_open(&s[0].block, &c->a, 0, err);

	c->b.cache = c->a.cache;
	if (!c->b.key_file && c->a.key_file)
		c->b.key_file = strdup(c->a.key_file);
	c->b.share = c->a.share;
	c->b.no_backing = c->a.no_backing;
	c->b.backing_format = c->a.backing_format;
	if (!rc)
		rc = img_open(&s[1].block, &c->b, 0, err);
	for (int i = 0; i < 2 && !rc; i++) {
		s[i].size = block_size(s[i].block);
		s[i].buf = malloc(CHUNK);
		if (!s[i].buf)
			rc = err_set(err, ENOMEM, "out of memory");
	}
	if (!rc) {
		rc = compare_all(c, s);
		if (rc < 0)
			err_set(err, -rc, "%s", strerror(-rc));
	}
	for (int i = 0; i < 2; i++) {
		block_close(s[i].block);
		free(s[i].buf);
	}
	return rc;
}

static int compare_main(int argc, char **argv)
{
	struct compare c = {0};
	struct err err = {""};
	int rc = img_parse(&img_compare, &c, argc, argv, compare_arg), status = EXIT_USAGE;

	if (!rc && !c.b.file) {
		err_set(&err, EINVAL, "two images are needed");
		img_fail("compare", &err, 0);
	} else if (!rc) {
		rc = compare(&c, &err);
		if (!rc && !c.quiet)
			printf("Images are identical.\n");
		status = rc < 0 ? img_fail("compare", &err, 2) : rc;
	}
	opt_free(compare_options, &c);
	return status;
}

const struct command img_compare = {
	.name = "compare",
	.args = "[OPTIONS] FILE FILE",
	.summary = "Say whether two images hold the same disk",
	.options = compare_options,
	.run = compare_main,
	.text = "Exit status: 0 the same, 1 different, 2 an error.\n",
};
