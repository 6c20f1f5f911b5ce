#define _GNU_SOURCE
#include "rig.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"

#define MAX_DEPTH 64

u64 rig_random(struct rig *rig)
{
	rig->seed += 0x9e3779b97f4a7c15ULL;
	return hash_u64(rig->seed);
}

int rig_init(struct rig *rig, struct block *block, u64 seed)
{
	*rig = (struct rig){.block = block,
			    .size = block_size(block),
			    .seed = seed,
			    .unit = 512,
			    .max_len = 256 * 1024};
	rig->shadow = calloc(1, rig->size);
	return rig->shadow ? 0 : -ENOMEM;
}

void rig_free(struct rig *rig)
{
	free(rig->shadow);
	rig->shadow = NULL;
}

static void on_done(struct block_req *req, int result)
{
	req->result = result;
	req->len = ~0ULL; /* seen by rig_wait */
}

int rig_wait(struct block_queue *queue, struct block_req *req)
{
	req->done = on_done;
	block_submit(queue, req);
	block_queue_drain(queue);
	return req->len == ~0ULL ? req->result : -EINPROGRESS;
}

/* ---- one operation ---- */

struct step {
	struct block_req req;
	struct iovec iov[3];
	u8 *mem, *data;
	u64 offset, len;
	int result;
	bool done;
};

static void step_done(struct block_req *req, int result)
{
	struct step *s = container_of(req, struct step, req);

	s->result = result;
	s->done = true;
}

static enum block_op pick_op(struct rig *rig)
{
	unsigned int dice = (unsigned int)(rig_random(rig) % 100);

	if (dice < 40)
		return BLOCK_READ;
	if (dice < 80)
		return BLOCK_WRITE;
	if (dice < 88)
		return BLOCK_WRITE_ZEROES;
	if (dice < 96)
		return rig->no_shrink ? BLOCK_READ : BLOCK_DISCARD;
	return BLOCK_FLUSH;
}

static void fill(struct rig *rig, u8 *data, u64 len)
{
	u64 word = rig_random(rig);

	/* Compressible now and then, all zeros now and then. */
	if (word % 16 == 0) {
		memset(data, 0, len);
		return;
	}
	for (u64 i = 0; i < len; i += 8) {
		memcpy(data + i, &word, (size_t)min(len - i, (u64)8));
		if (i % 4096 == 0 || word % 3 == 0)
			word = hash_u64(word + i);
	}
}

/* Describe an operation within [lo, hi). */
static int prepare(struct rig *rig, struct step *s, u64 lo, u64 hi)
{
	u64 units = (hi - lo) / rig->unit, first, count, cut;

	memset(s, 0, sizeof(*s));
	first = rig_random(rig) % units;
	count = 1 + rig_random(rig) % max(rig->max_len / rig->unit, 1u);
	if (rig_random(rig) % 3)
		count = 1 + count % 16;
	count = min(count, units - first);
	s->offset = lo + first * rig->unit;
	s->len = count * rig->unit;
	if (hi == rig->size && first + count == units)
		s->len = hi - s->offset;
	if (posix_memalign((void **)&s->mem, 4096, s->len + 4096))
		return -ENOMEM;
	s->data = s->mem + (rig->misalign ? rig_random(rig) % 64 : 0);
	s->req.op = pick_op(rig);
	if (s->req.op == BLOCK_WRITE)
		fill(rig, s->data, s->len);
	if (s->req.op == BLOCK_WRITE_ZEROES && rig_random(rig) % 2)
		s->req.flags = BLOCK_MAY_UNMAP;
	if (s->req.op == BLOCK_WRITE && rig_random(rig) % 16 == 0)
		s->req.flags = BLOCK_FUA;
	s->req.offset = s->offset;
	s->req.len = s->len;
	s->req.done = step_done;
	cut = s->len > rig->unit ? rig_random(rig) % (s->len / rig->unit) * rig->unit : 0;
	s->iov[0] = (struct iovec){s->data, cut};
	s->iov[1] = (struct iovec){s->data + cut, s->len - cut};
	s->req.iov = cut ? s->iov : s->iov + 1;
	s->req.niov = cut ? 2 : 1;
	return 0;
}

static int settle(struct rig *rig, struct step *s)
{
	int rc = s->done ? s->result : -EINPROGRESS;

	if (rc)
		goto out;
	switch (s->req.op) {
	case BLOCK_READ:
		for (u64 i = 0; i < s->len && !rc; i++) {
			if (s->data[i] == rig->shadow[s->offset + i])
				continue;
			fprintf(stderr, "read %#llx+%#llx: byte %#llx is %02x, must be %02x\n",
				(unsigned long long)s->offset, (unsigned long long)s->len,
				(unsigned long long)(s->offset + i), s->data[i],
				rig->shadow[s->offset + i]);
			rc = -EBADMSG;
		}
		break;
	case BLOCK_WRITE:
		memcpy(rig->shadow + s->offset, s->data, s->len);
		break;
	case BLOCK_WRITE_ZEROES:
		memset(rig->shadow + s->offset, 0, s->len);
		break;
	case BLOCK_DISCARD:
		/* Free to read as anything: take what it is. */
		rc = block_read(rig->block, rig->shadow + s->offset, s->len, s->offset);
		break;
	case BLOCK_FLUSH:
		break;
	}
out:
	free(s->mem);
	return rc;
}

static void run_sync(struct rig *rig, struct step *s)
{
	struct block_req *r = &s->req;

	s->done = true;
	switch (r->op) {
	case BLOCK_READ:
		s->result = block_readv(rig->block, r->iov, r->niov, r->offset);
		break;
	case BLOCK_WRITE:
		s->result = block_writev(rig->block, r->iov, r->niov, r->offset, r->flags);
		break;
	case BLOCK_FLUSH:
		s->result = block_flush(rig->block);
		break;
	case BLOCK_DISCARD:
		s->result = block_discard(rig->block, r->len, r->offset);
		break;
	case BLOCK_WRITE_ZEROES:
		s->result = block_write_zeroes(rig->block, r->len, r->offset, r->flags);
		break;
	}
}

int rig_step(struct rig *rig)
{
	struct step s;
	int rc = prepare(rig, &s, 0, rig->size);

	if (rc)
		return rc;
	if (rig->queue) {
		block_submit(rig->queue, &s.req);
		block_queue_drain(rig->queue);
	} else {
		run_sync(rig, &s);
	}
	return settle(rig, &s);
}

int rig_burst(struct rig *rig, unsigned int depth)
{
	static struct step steps[MAX_DEPTH];
	u64 slice = rig->size / min(depth, (unsigned int)MAX_DEPTH) / rig->unit * rig->unit;
	unsigned int started = 0;
	int rc = 0;

	depth = min(depth, (unsigned int)MAX_DEPTH);
	for (; started < depth; started++) {
		rc = prepare(rig, &steps[started], started * slice, (started + 1) * slice);
		if (rc)
			break;
		block_submit(rig->queue, &steps[started].req);
	}
	block_queue_drain(rig->queue);
	for (unsigned int i = 0; i < started; i++) {
		int each = settle(rig, &steps[i]);

		rc = rc ? rc : each;
	}
	return rc;
}

int rig_compare(struct rig *rig)
{
	u8 buf[64 * 1024];

	for (u64 at = 0; at < rig->size; at += sizeof(buf)) {
		u64 n = min(rig->size - at, (u64)sizeof(buf));
		int rc = block_read(rig->block, buf, n, at);

		if (rc)
			return rc;
		if (memcmp(buf, rig->shadow + at, n)) {
			fprintf(stderr, "compare: %#llx+%#llx differs\n", (unsigned long long)at,
				(unsigned long long)n);
			return -EBADMSG;
		}
	}
	return 0;
}

/* ---- surroundings ---- */

struct block_options rig_options(const char *file, const char *format)
{
	struct block_options o = {0};
	struct err err;

	opt_defaults(block_option_table, &o, &err);
	o.file = strdup(file);
	o.format = format ? strdup(format) : NULL;
	return o;
}

void rig_options_free(struct block_options *o)
{
	opt_free(block_option_table, o);
}

char *rig_folder(void)
{
	const char *base = getenv("BOTHY_BUILD");
	char *folder = NULL;

	if (asprintf(&folder, "%s/block-test-XXXXXX", base ? base : ".") < 0)
		return NULL;
	if (!mkdtemp(folder)) {
		free(folder);
		return NULL;
	}
	return folder;
}

void rig_folder_free(char *folder)
{
	if (folder)
		rig_run("rm -rf '%s'", folder);
	free(folder);
}

char *rig_path(const char *folder, const char *name)
{
	char *path = NULL;

	return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

int rig_run(const char *fmt, ...)
{
	char *cmd = NULL, *all = NULL;
	va_list ap;
	int status;

	va_start(ap, fmt);
	if (vasprintf(&cmd, fmt, ap) < 0)
		cmd = NULL;
	va_end(ap);
	if (!cmd || asprintf(&all, "{ %s; } </dev/null 1>&2", cmd) < 0) {
		free(cmd);
		return -1;
	}
	status = system(all);
	free(all);
	free(cmd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

char *rig_output(const char *fmt, ...)
{
	char *cmd = NULL, *text = NULL;
	size_t len = 0, n;
	char buf[4096];
	va_list ap;
	FILE *pipe, *mem;

	va_start(ap, fmt);
	if (vasprintf(&cmd, fmt, ap) < 0)
		cmd = NULL;
	va_end(ap);
	pipe = cmd ? popen(cmd, "r") : NULL;
	free(cmd);
	if (!pipe)
		return NULL;
	mem = open_memstream(&text, &len);
	while ((n = fread(buf, 1, sizeof(buf), pipe)) > 0)
		fwrite(buf, 1, n, mem);
	fclose(mem);
	if (pclose(pipe)) {
		free(text);
		return NULL;
	}
	return text;
}

bool rig_have(const char *program)
{
	return rig_run("command -v %s >/dev/null", program) == 0;
}
