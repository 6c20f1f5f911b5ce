/* Building a stack: protocol, format, backing chain, guard, filters. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/block_int.h"

#define HEAD	  512
#define MAX_CHAIN 64

const char *const block_cache_names[] = {"writeback",  "none",	 "writethrough",
					 "directsync", "unsafe", NULL};

const struct opt block_option_table[] = {BLOCK_OPTIONS(struct block_options, ), OPT_END};

/* ---- protocols ---- */

static const struct block_class *protocol_of(const char *path)
{
	const char *sep = strstr(path, "://");

	for (size_t i = 0; block_classes[i]; i++) {
		const struct block_class *c = block_classes[i];
		size_t len = c->scheme ? strlen(c->scheme) : 0;

		if (len && !strncmp(path, c->scheme, len) && (sep || c->scheme[len - 1] == ':'))
			return c;
	}
	return block_class_lookup("file");
}

int block_open_protocol(struct block **out, const char *path, bool file_only,
			const struct block_options *o, struct err *err)
{
	const struct block_class *class =
		file_only ? block_class_lookup("file") : protocol_of(path);
	struct block *b = block_node_new(class, path, NULL);
	int rc;

	if (!b)
		return err_set(err, ENOMEM, "%s: out of memory", path);
	rc = class->open(b, o, err);
	if (rc) {
		block_node_free(b);
		return rc;
	}
	*out = b;
	return 0;
}

/* ---- formats ---- */

static const struct {
	const char *magic, *name;
} foreign[] = {
	{"KDMV", "VMDK"},
	{"COWD", "VMDK"},
	{"vhdxfile", "VHDX"},
	{"conectix", "VHD"},
	{"<<< Oracle", "VDI"},
	{"<<< QEMU VM V", "VDI"},
	{"WithoutFree", "Parallels"},
	{"WithouFreSpacExt", "Parallels"},
};

/* The class to stack on the file, NULL for raw. */
static int probe(struct block *file, const struct block_class **class, struct err *err)
{
	u8 head[HEAD];
	int rc = block_node_read(file, head, sizeof(head), 0);

	*class = NULL;
	if (rc)
		return err_set(err, -rc, "%s: %s", file->name, strerror(-rc));
	for (size_t i = 0; block_classes[i]; i++) {
		if (block_classes[i]->probe && block_classes[i]->probe(head)) {
			*class = block_classes[i];
			return 0;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
		if (!memcmp(head, foreign[i].magic, strlen(foreign[i].magic)))
			return err_set(
				err, ENOTSUP,
				"%s: looks like %s, which is not supported (format=raw if it "
				"is a raw disk all the same)",
				file->name, foreign[i].name);
	return 0;
}

bool block_looks_like_image(const u8 *head)
{
	for (size_t i = 0; block_classes[i]; i++)
		if (block_classes[i]->probe && block_classes[i]->probe(head))
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
		if (!memcmp(head, foreign[i].magic, strlen(foreign[i].magic)))
			return true;
	return false;
}

static int choose(struct block *file, const char *format, const struct block_class **class,
		  bool *probed, struct err *err)
{
	*probed = !format;
	if (!format)
		return probe(file, class, err);
	*class = NULL;
	if (!strcmp(format, "raw"))
		return 0;
	*class = block_class_lookup(format);
	if (!*class || (*class)->kind != BLOCK_FORMAT)
		return err_set(err, EINVAL, "%s: format %s is not known", file->name, format);
	return 0;
}

/* Stack class on *b. On failure *b is what it was. */
static int stack(struct block **b, const struct block_class *class, const struct block_options *o,
		 struct err *err)
{
	struct block *top = block_node_new(class, (*b)->name, *b);
	int rc;

	if (!top)
		return err_set(err, ENOMEM, "%s: out of memory", (*b)->name);
	rc = class->open(top, o, err);
	if (rc) {
		top->file = NULL;
		block_node_free(top);
		return rc;
	}
	*b = top;
	return 0;
}

/* ---- chains ---- */

char *block_path_beside(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	size_t dir = slash && name[0] != '/' ? (size_t)(slash + 1 - image) : 0;
	char *path = malloc(dir + strlen(name) + 1);

	if (path) {
		memcpy(path, image, dir);
		strcpy(path + dir, name);
	}
	return path;
}

static int open_at(struct block **out, const char *path, const char *format, bool file_only,
		   const struct block_options *o, unsigned int depth, struct err *err);

static int open_backing(struct block *b, const struct block_options *o, unsigned int depth,
			struct err *err)
{
	struct block_options below = *o;
	const char *format = o->backing_file ? o->backing_format : b->backing_format;
	char *path;
	int rc;

	if (o->metadata_only || (!b->backing_name && !o->backing_file))
		return 0;
	if (!o->backing_file && !o->backing)
		return err_set(err, EPERM,
			       "%s: names a backing file, '%s'; say backing=on to have it opened, "
			       "or backing-file=FILE",
			       b->name, b->backing_name);
	if (!o->backing_file && !format)
		format = o->backing_format;
	if (!o->backing_file && !format)
		return err_set(err, EINVAL,
			       "%s: does not say which format its backing file has; say "
			       "backing-format=NAME",
			       b->name);
	path = o->backing_file ? strdup(o->backing_file)
			       : block_path_beside(b->name, b->backing_name);
	if (!path)
		return err_set(err, ENOMEM, "%s: out of memory", b->name);
	below.readonly = true;
	below.copy_on_read = false;
	below.backing_file = below.backing_format = below.data_file = NULL;
	/* What the user typed may be an address; what the image says is a file's name. */
	rc = open_at(&b->backing, path, format, !o->backing_file, &below, depth + 1, err);
	/* Of a long chain its top, and where it breaks. */
	if (rc && !depth)
		err_prefix(err, "backing chain of %s", b->name);
	free(path);
	return rc;
}

static int open_at(struct block **out, const char *path, const char *format, bool file_only,
		   const struct block_options *o, unsigned int depth, struct err *err)
{
	const struct block_class *class;
	struct block *b;
	bool probed;
	int rc;

	if (depth >= MAX_CHAIN)
		return err_set(err, ELOOP, "%s: the backing chain is too long, or a circle", path);
	rc = block_open_protocol(&b, path, file_only, o, err);
	if (rc)
		return rc;
	rc = choose(b, format, &class, &probed, err);
	if (!rc && class)
		rc = stack(&b, class, o, err);
	else if (!rc && o->backing_file)
		rc = err_set(err, EINVAL, "%s: a raw image has no backing file", path);
	if (!rc && class)
		rc = open_backing(b, o, depth, err);
	if (!rc && o->copy_on_read && (o->readonly || !b->backing || strcmp(class->name, "qcow2")))
		rc = err_set(err, EINVAL,
			     "%s: copy-on-read needs a writable qcow2 image with a backing file",
			     path);
	if (rc) {
		block_close(b);
		return rc;
	}
	b->probed = probed;
	*out = b;
	return 0;
}

int block_open_node(struct block **out, const char *path, const char *format,
		    const struct block_options *o, struct err *err)
{
	return open_at(out, path, format, false, o, 0, err);
}

/* ---- the whole stack ---- */

static void set_top(struct block *b, struct block *top)
{
	for (; b; b = b->file) {
		b->top = top;
		set_top(b->backing, top);
	}
}

static int add_filters(struct block **b, const struct block_options *o, struct err *err)
{
	bool guard = (*b)->probed && (*b)->class->kind == BLOCK_PROTOCOL && !o->readonly;
	int rc;

	if (guard) {
		rc = stack(b, block_class_lookup("raw"), o, err);
		if (rc)
			return rc;
		(*b)->probed = true;
	}
	for (size_t i = 0; block_classes[i]; i++) {
		const struct block_class *c = block_classes[i];
		bool probed = (*b)->probed;

		if (c->kind != BLOCK_FILTER || !c->wanted || !c->wanted(*b, o))
			continue;
		rc = stack(b, c, o, err);
		if (rc)
			return rc;
		(*b)->probed = probed;
	}
	return 0;
}

int block_make_top(struct block *b, const struct block_options *o)
{
	b->discard = o->discard;
	b->writethrough =
		o->cache == BLOCK_CACHE_WRITETHROUGH || o->cache == BLOCK_CACHE_DIRECTSYNC;
	b->pool = block_pool_new();
	set_top(b, b);
	return b->pool ? 0 : -ENOMEM;
}

int block_open(struct block **out, const struct block_options *o, struct err *err)
{
	struct block *b;
	int rc;

	if (!o->file)
		return err_set(err, EINVAL, "a disk needs a file: file=NAME");
	rc = block_open_node(&b, o->file, o->format, o, err);
	if (rc)
		return rc;
	rc = add_filters(&b, o, err);
	if (!rc && block_make_top(b, o))
		rc = err_set(err, ENOMEM, "%s: out of memory", o->file);
	if (rc) {
		block_close(b);
		return rc;
	}
	*out = b;
	return 0;
}
