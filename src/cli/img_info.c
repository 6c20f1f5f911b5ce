/* bothy img info, check, map: looking at an image. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/img_int.h"
#include "os/clock.h"

#define MAX_CHAIN 64

/* ---- info ---- */

struct info {
	struct img_source source;
	struct img_output output;
	bool chain;
};

static const struct opt info_options[] = {
	IMG_SOURCE_OPTIONS(struct info, source),
	IMG_OUTPUT_OPTIONS(struct info, output),
	{.name = "backing-chain",
	 .type = OPT_BOOL,
	 .offset = offsetof(struct info, chain),
	 .help = "of the backing files, too, each by itself"},
	OPT_END,
};

static int info_arg(void *target, const char *value, struct err *err)
{
	struct info *i = target;

	return img_take(value, (char **const[]){&i->source.file}, 1, err);
}

static void json_text(const char *key, const char *value)
{
	if (!value)
		return;
	printf(",\n    \"%s\": ", key);
	img_json_string(stdout, value);
}

static void json_snapshots(struct block *b, unsigned int count)
{
	if (!count)
		return;
	printf(",\n    \"snapshots\": [");
	for (unsigned int i = 0; i < count; i++) {
		struct block_snapshot sn;

		if (block_snapshot_get(b, i, &sn))
			break;
		printf("%s\n        {\"id\": ", i ? "," : "");
		img_json_string(stdout, sn.id);
		printf(", \"name\": ");
		img_json_string(stdout, sn.name);
		printf(", \"vm-state-size\": %llu, \"date-sec\": %llu, \"date-nsec\": %llu, "
		       "\"vm-clock-sec\": %llu, \"vm-clock-nsec\": %llu}",
		       (unsigned long long)sn.vm_state_size,
		       (unsigned long long)(sn.date_ns / NSEC_PER_SEC),
		       (unsigned long long)(sn.date_ns % NSEC_PER_SEC),
		       (unsigned long long)(sn.vm_clock_ns / NSEC_PER_SEC),
		       (unsigned long long)(sn.vm_clock_ns % NSEC_PER_SEC));
	}
	printf("\n    ]");
}

static const char *yes(bool b)
{
	return b ? "true" : "false";
}

static void json_encryption(const struct block_encryption *e, const char *indent)
{
	bool first = true;

	printf(",\n%s\"cipher-alg\": \"aes-%u\",\n%s\"cipher-mode\": \"%.3s\"", indent, e->key_bits,
	       indent, e->mode);
	printf(",\n%s\"ivgen-alg\": \"%s\"", indent, strchr(e->mode, ':') ? "essiv" : "plain64");
	if (strchr(e->mode, ':'))
		printf(",\n%s\"ivgen-hash-alg\": \"%s\"", indent, strchr(e->mode, ':') + 1);
	printf(",\n%s\"hash-alg\": \"%s\",\n%s\"uuid\": ", indent, e->hash, indent);
	img_json_string(stdout, e->uuid);
	printf(",\n%s\"payload-offset\": %llu,\n%s\"master-key-iters\": %u", indent,
	       (unsigned long long)e->payload, indent, e->digest_iterations);
	printf(",\n%s\"slots-in-use\": [", indent);
	for (unsigned int i = 0; i < 8; i++) {
		if (!(e->slots & (1u << i)))
			continue;
		printf("%s%u", first ? "" : ", ", i);
		first = false;
	}
	printf("]");
}

static void json_specific(const struct block_image_info *i)
{
	printf(",\n    \"format-specific\": {\n        \"type\": ");
	img_json_string(stdout, i->format);
	printf(",\n        \"data\": {\n            \"compat\": \"%s\"",
	       i->version >= 3 ? "1.1" : "0.10");
	printf(",\n            \"compression-type\": \"%s\"", i->compression);
	printf(",\n            \"refcount-bits\": %u", i->refcount_bits);
	if (i->version >= 3) {
		printf(",\n            \"lazy-refcounts\": %s", yes(i->lazy_refcounts));
		printf(",\n            \"corrupt\": %s", yes(i->corrupt));
		printf(",\n            \"extended-l2\": %s", yes(i->extended_l2));
	}
	if (i->data_file) {
		printf(",\n            \"data-file\": ");
		img_json_string(stdout, i->data_file);
		printf(",\n            \"data-file-raw\": %s", yes(i->data_file_raw));
	}
	if (i->encryption.format) {
		printf(",\n            \"encrypt\": {\n                \"format\": \"luks\"");
		json_encryption(&i->encryption, "                ");
		printf("\n            }");
	}
	printf("\n        }\n    }");
}

/* A luks image has nothing but its encryption. */
static void json_luks(const struct block_encryption *e)
{
	printf(",\n    \"format-specific\": {\n        \"type\": \"luks\",\n        \"data\": {");
	printf("\n            \"format\": \"luks\"");
	json_encryption(e, "            ");
	printf("\n        }\n    }");
}

static void print_json(struct block *b, const char *file, const struct block_image_info *i)
{
	printf("{\n    \"virtual-size\": %llu,\n    \"filename\": ",
	       (unsigned long long)i->virtual_size);
	img_json_string(stdout, file);
	json_text("format", i->format);
	printf(",\n    \"actual-size\": %llu", (unsigned long long)i->disk_size);
	if (i->cluster_size)
		printf(",\n    \"cluster-size\": %llu", (unsigned long long)i->cluster_size);
	json_text("backing-filename", i->backing_file);
	if (i->backing_file) {
		char *full = img_path_beside(file, i->backing_file);

		json_text("full-backing-filename", full);
		free(full);
	}
	json_text("backing-filename-format", i->backing_file ? i->backing_format : NULL);
	json_snapshots(b, i->nsnapshots);
	if (i->encryption.format)
		printf(",\n    \"encrypted\": true");
	if (i->version)
		json_specific(i);
	else if (i->encryption.format)
		json_luks(&i->encryption);
	printf(",\n    \"dirty-flag\": %s\n}\n", yes(i->dirty));
}

static void print_name(const char *label, const char *text)
{
	if (!text)
		return;
	printf("%s: ", label);
	img_print_text(stdout, text, 0);
	putchar('\n');
}

void img_print_snapshots(struct block *b, int count)
{
	printf("%-8s  %-24s %12s  %-19s\n", "ID", "TAG", "VM STATE", "DATE");
	for (int i = 0; i < count; i++) {
		struct block_snapshot sn;
		char date[32];
		struct tm tm;
		time_t when;

		if (block_snapshot_get(b, (unsigned int)i, &sn))
			break;
		when = (time_t)(sn.date_ns / NSEC_PER_SEC);
		if (!localtime_r(&when, &tm) ||
		    !strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm))
			date[0] = '\0';
		img_print_text(stdout, sn.id, 8);
		printf("  ");
		img_print_text(stdout, sn.name, 24);
		printf(" %12llu  %s\n", (unsigned long long)sn.vm_state_size, date);
	}
}

static void human_encryption(const struct block_encryption *e)
{
	printf("encrypted: yes\nencryption: luks, aes-%u-%s, %s, key slots", e->key_bits, e->mode,
	       e->hash);
	for (unsigned int i = 0; i < 8; i++)
		if (e->slots & (1u << i))
			printf(" %u", i);
	printf(e->slots ? "\n" : " none\n");
	print_name("uuid", e->uuid);
}

static void print_human(struct block *b, const char *file, const struct block_image_info *i)
{
	print_name("image", file);
	printf("file format: %s\nvirtual size: ", i->format);
	img_print_size(stdout, i->virtual_size);
	printf("\ndisk size: ");
	img_print_size(stdout, i->disk_size);
	putchar('\n');
	if (i->cluster_size)
		printf("cluster_size: %llu\n", (unsigned long long)i->cluster_size);
	print_name("backing file", i->backing_file);
	if (i->backing_file)
		print_name("backing file format", i->backing_format);
	print_name("data file", i->data_file);
	if (i->version) {
		printf("compat: %s\ncompression type: %s\nrefcount bits: %u\n",
		       i->version >= 3 ? "1.1" : "0.10", i->compression, i->refcount_bits);
		printf("lazy refcounts: %s\nextended l2: %s\n", yes(i->lazy_refcounts),
		       yes(i->extended_l2));
		if (i->nbitmaps)
			printf("bitmaps: %u\n", i->nbitmaps);
	}
	if (i->encryption.format)
		human_encryption(&i->encryption);
	if (i->dirty)
		printf("dirty: was not closed cleanly\n");
	if (i->corrupt)
		printf("corrupt: true\n");
	if (i->nsnapshots) {
		printf("snapshots:\n");
		img_print_snapshots(b, (int)i->nsnapshots);
	}
}

/* The source that the image names, in *next, whose strings are the caller's then; no file: none. */
static int backing_of(const struct img_source *source, const struct block_image_info *info,
		      struct img_source *next)
{
	const char *format = info->backing_format ? info->backing_format : source->backing_format;

	if (!info->backing_file)
		return 0;
	*next = *source;
	next->file = img_path_beside(source->file, info->backing_file);
	next->format = format ? strdup(format) : NULL;
	return next->file && !next->format == !format ? 0 : -ENOMEM;
}

/* One image, and what it stands on: see backing_of(). */
static int show_one(const struct info *a, const struct img_source *source, struct img_source *next,
		    struct err *err)
{
	struct block_image_info info;
	struct block *b;
	int rc = img_open(&b, source, IMG_METADATA | IMG_NO_REPAIR, err);

	*next = (struct img_source){0};
	if (rc)
		return rc;
	rc = block_image_info(b, &info);
	if (!rc && img_wants_json(&a->output))
		print_json(b, source->file, &info);
	else if (!rc)
		print_human(b, source->file, &info);
	if (!rc)
		rc = backing_of(source, &info, next);
	if (rc)
		err_set(err, -rc, "%s: %s", source->file, strerror(-rc));
	block_close(b);
	return rc;
}

static int show(const struct info *a, struct err *err)
{
	bool list = a->chain && img_wants_json(&a->output);
	struct img_source at = a->source, next;
	int rc;

	printf("%s", list ? "[\n" : "");
	for (int depth = 0;; depth++) {
		rc = depth < MAX_CHAIN
			     ? show_one(a, &at, &next, err)
			     : err_set(err, ELOOP, "%s: the backing chain is too long, or a circle",
				       a->source.file);
		if (depth) {
			free(at.file);
			free(at.format);
		}
		if (rc || !a->chain || !next.file)
			break;
		printf("%s", list ? ",\n" : "\n");
		at = next;
		next = (struct img_source){0};
	}
	free(next.file);
	free(next.format);
	printf("%s", list && !rc ? "]\n" : "");
	return rc;
}

static int info_main(int argc, char **argv)
{
	struct info a = {0};
	struct err err = {""};
	int rc = img_parse(&img_info, &a, argc, argv, info_arg), status = EXIT_USAGE;

	if (!rc)
		status = show(&a, &err) ? img_fail("info", &err, IMG_FAILED) : 0;
	opt_free(info_options, &a);
	return status;
}

const struct command img_info = {
	.name = "info",
	.args = "[OPTIONS] FILE",
	.summary = "Say what an image is; opens no other file",
	.options = info_options,
	.run = info_main,
};

/* ---- check ---- */

struct check {
	struct img_source source;
	int repair;
	struct img_output output;
	bool quiet;
};

static const char *const repair_names[] = {"none", "leaks", "all", NULL};

static const struct opt check_options[] = {
	IMG_SOURCE_OPTIONS(struct check, source),
	{.name = "repair",
	 .type = OPT_ENUM,
	 .offset = offsetof(struct check, repair),
	 .dflt = "none",
	 .arg = "leaks|all",
	 .choices = repair_names,
	 .help = "mend leaks, or all that can be"},
	{.name = "r",
	 .type = OPT_ENUM,
	 .offset = offsetof(struct check, repair),
	 .arg = "leaks|all",
	 .choices = repair_names},
	IMG_OUTPUT_OPTIONS(struct check, output),
	{.name = "quiet",
	 .type = OPT_BOOL,
	 .offset = offsetof(struct check, quiet),
	 .help = "only the exit status"},
	{.name = "q", .type = OPT_BOOL, .offset = offsetof(struct check, quiet)},
	OPT_END,
};

static int check_arg(void *target, const char *value, struct err *err)
{
	struct check *c = target;

	return img_take(value, (char **const[]){&c->source.file}, 1, err);
}

static void print_finding(void *arg, const char *line)
{
	fprintf(stderr, "%s\n", line);
}

static void check_json(const struct check *a, const char *format, const struct block_check *c)
{
	printf("{\n    \"filename\": ");
	img_json_string(stdout, a->source.file);
	printf(",\n    \"format\": \"%s\",\n    \"check-errors\": 0", format);
	printf(",\n    \"image-end-offset\": %llu", (unsigned long long)c->image_end);
	printf(",\n    \"corruptions\": %llu,\n    \"leaks\": %llu", (unsigned long long)c->errors,
	       (unsigned long long)c->leaks);
	printf(",\n    \"corruptions-fixed\": %llu,\n    \"leaks-fixed\": %llu",
	       (unsigned long long)c->errors_fixed, (unsigned long long)c->leaks_fixed);
	printf(",\n    \"total-clusters\": %llu,\n    \"allocated-clusters\": %llu",
	       (unsigned long long)c->total_clusters, (unsigned long long)c->allocated_clusters);
	printf(",\n    \"fragmented-clusters\": %llu,\n    \"compressed-clusters\": %llu\n}\n",
	       (unsigned long long)c->fragmented_clusters,
	       (unsigned long long)c->compressed_clusters);
}

static void check_human(const struct block_check *c)
{
	if (c->errors_fixed || c->leaks_fixed)
		printf("Repaired: %llu errors, %llu leaked clusters.\n",
		       (unsigned long long)c->errors_fixed, (unsigned long long)c->leaks_fixed);
	if (c->errors)
		printf("%llu errors were found on the image.\n", (unsigned long long)c->errors);
	if (c->leaks)
		printf("%llu leaked clusters were found on the image. They waste space and do no "
		       "harm.\n",
		       (unsigned long long)c->leaks);
	if (!c->errors && !c->leaks)
		printf("No errors were found on the image.\n");
	if (c->total_clusters)
		printf("%llu/%llu = %.2f%% allocated, %llu fragmented, %llu compressed clusters\n",
		       (unsigned long long)c->allocated_clusters,
		       (unsigned long long)c->total_clusters,
		       100.0 * (double)c->allocated_clusters / (double)c->total_clusters,
		       (unsigned long long)c->fragmented_clusters,
		       (unsigned long long)c->compressed_clusters);
	printf("Image end offset: %llu\n", (unsigned long long)c->image_end);
}

/* The exit status. */
static int check(const struct check *a, struct err *err)
{
	static const unsigned int fixes[] = {0, BLOCK_FIX_LEAKS,
					     BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS};
	unsigned int flags = IMG_METADATA | IMG_NO_REPAIR | (a->repair ? IMG_WRITE : 0);
	struct block_check c = {.report = a->quiet || img_wants_json(&a->output) ? NULL
										 : print_finding};
	struct block_image_info info;
	struct block *b;
	int rc = img_open(&b, &a->source, flags, err), closed;

	if (rc)
		return img_fail("check", err, IMG_FAILED);
	if (a->repair)
		img_catch_signals();
	block_image_info(b, &info);
	rc = block_check(b, fixes[a->repair], &c, err);
	if (rc == -ENOTSUP) {
		block_close(b);
		return img_fail("check", err, 63);
	}
	if (!rc && img_wants_json(&a->output))
		check_json(a, info.format, &c);
	else if (!rc && !a->quiet)
		check_human(&c);
	closed = block_close(b);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", a->source.file, strerror(-closed));
	if (rc)
		return img_fail("check", err, IMG_FAILED);
	return c.errors ? 2 : c.leaks ? 3 : 0;
}

static int check_main(int argc, char **argv)
{
	struct check a = {0};
	struct err err = {""};
	int rc = img_parse(&img_check, &a, argc, argv, check_arg);
	int status = rc ? EXIT_USAGE : check(&a, &err);

	opt_free(check_options, &a);
	return status;
}

const struct command img_check = {
	.name = "check",
	.args = "[OPTIONS] FILE",
	.summary = "Look for errors and leaks in an image, and repair them",
	.options = check_options,
	.run = check_main,
	.text = "Exit status: 0 nothing found (or all repaired), 1 not checked, 2 errors, 3 "
		"leaks,\n"
		"63 the format has nothing to check.\n",
};

/* ---- map ---- */

struct map {
	struct img_source source;
	struct img_output output;
};

static const struct opt map_options[] = {
	IMG_SOURCE_OPTIONS(struct map, source),
	IMG_OUTPUT_OPTIONS(struct map, output),
	OPT_END,
};

static int map_arg(void *target, const char *value, struct err *err)
{
	struct map *m = target;

	return img_take(value, (char **const[]){&m->source.file}, 1, err);
}

struct span {
	u64 start;
	struct block_extent e;
};

/* qemu-img: the image or one of its backing files has something to say about it. */
static bool present(const struct block_extent *e)
{
	return e->flags & (BLOCK_DATA | BLOCK_ALLOCATED) || (e->flags & BLOCK_HAS_HOST);
}

static void span_json(const struct span *s, bool first)
{
	printf("%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, "
	       "\"zero\": %s, \"data\": %s",
	       first ? "[" : ",\n", (unsigned long long)s->start, (unsigned long long)s->e.len,
	       s->e.depth, yes(present(&s->e)), yes(s->e.flags & BLOCK_ZERO),
	       yes(s->e.flags & BLOCK_DATA));
	if (s->e.flags & BLOCK_COMPRESSED)
		printf(", \"compressed\": true");
	if (s->e.flags & BLOCK_HAS_HOST)
		printf(", \"offset\": %llu", (unsigned long long)s->e.host_offset);
	printf("}");
}

static void span_human(const struct span *s, bool first)
{
	if (first)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	if (!(s->e.flags & BLOCK_DATA))
		return;
	if (s->e.flags & BLOCK_HAS_HOST)
		printf("%#-16llx%#-16llx%#-16llx", (unsigned long long)s->start,
		       (unsigned long long)s->e.len, (unsigned long long)s->e.host_offset);
	else
		printf("%#-16llx%#-16llx%-16s", (unsigned long long)s->start,
		       (unsigned long long)s->e.len, "compressed");
	if (s->e.flags & BLOCK_HAS_HOST)
		img_print_text(stdout, s->e.file, 0);
	putchar('\n');
}

static bool joins(const struct span *s, const struct block_extent *e)
{
	if (s->e.flags != e->flags || s->e.depth != e->depth)
		return false;
	return !(e->flags & BLOCK_HAS_HOST) ||
	       (s->e.file == e->file && s->e.host_offset + s->e.len == e->host_offset);
}

static int print_map(struct block *b, bool json)
{
	u64 size = block_size(b);
	struct span s = {0};
	bool first = true;

	for (u64 at = 0; at < size;) {
		struct block_extent e;
		int rc = block_status(b, at, size - at, &e);

		if (rc)
			return rc;
		if (at && joins(&s, &e)) {
			s.e.len += e.len;
		} else {
			if (at) {
				(json ? span_json : span_human)(&s, first);
				first = false;
			}
			s = (struct span){.start = at, .e = e};
		}
		at += e.len;
	}
	if (size)
		(json ? span_json : span_human)(&s, first);
	if (json)
		printf(size ? "]\n" : "[]\n");
	return 0;
}

static int map_main(int argc, char **argv)
{
	struct map m = {0};
	struct err err = {""};
	struct block *b;
	int rc = img_parse(&img_map, &m, argc, argv, map_arg), status = EXIT_USAGE;

	if (rc)
		goto out;
	status = IMG_FAILED;
	rc = img_open(&b, &m.source, 0, &err);
	if (!rc) {
		rc = print_map(b, img_wants_json(&m.output));
		if (rc)
			err_set(&err, -rc, "%s: %s", m.source.file, strerror(-rc));
		block_close(b);
	}
	status = rc ? img_fail("map", &err, IMG_FAILED) : 0;
out:
	opt_free(map_options, &m);
	return status;
}

const struct command img_map = {
	.name = "map",
	.args = "[OPTIONS] FILE",
	.summary = "Say which parts of an image hold data, and where",
	.options = map_options,
	.run = map_main,
};
