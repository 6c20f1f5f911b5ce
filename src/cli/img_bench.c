/* bothy img bench: requests through a queue, as a guest makes them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/hash.h"
#include "cli/img_int.h"
#include "os/clock.h"

struct bench {
	struct img_source source;
	u64 count, depth, size, offset, step, flush_interval, seed, pattern;
	bool write, random;
};

#define FIELD(f) .offset = offsetof(struct bench, f)

static const struct opt bench_options[] = {
	IMG_SOURCE_OPTIONS(struct bench, source),
	{.name = "count",
	 .type = OPT_U64,
	 FIELD(count),
	 .dflt = "75000",
	 .arg = "N",
	 .help = "requests",
	 .min = 1},
	{.name = "c", .type = OPT_U64, FIELD(count), .arg = "N", .min = 1},
	{.name = "depth",
	 .type = OPT_U64,
	 FIELD(depth),
	 .dflt = "64",
	 .arg = "N",
	 .min = 1,
	 .max = 1024,
	 .help = "requests in flight"},
	{.name = "d", .type = OPT_U64, FIELD(depth), .arg = "N", .min = 1, .max = 1024},
	{.name = "size",
	 .type = OPT_SIZE,
	 FIELD(size),
	 .dflt = "4K",
	 .arg = "SIZE",
	 .min = 512,
	 .max = 64 * MiB,
	 .help = "bytes of a request"},
	{.name = "s", .type = OPT_SIZE, FIELD(size), .arg = "SIZE", .min = 512, .max = 64 * MiB},
	{.name = "offset",
	 .type = OPT_SIZE,
	 FIELD(offset),
	 .arg = "SIZE",
	 .help = "where the first request begins"},
	{.name = "o", .type = OPT_SIZE, FIELD(offset), .arg = "SIZE"},
	{.name = "step",
	 .type = OPT_SIZE,
	 FIELD(step),
	 .arg = "SIZE",
	 .help = "from one request to the next; the request's size when left out"},
	{.name = "S", .type = OPT_SIZE, FIELD(step), .arg = "SIZE"},
	{.name = "random",
	 .type = OPT_BOOL,
	 FIELD(random),
	 .help = "anywhere, instead of in order"},
	{.name = "seed", .type = OPT_U64, FIELD(seed), .arg = "N", .help = "of the random places"},
	{.name = "flush-interval",
	 .type = OPT_U64,
	 FIELD(flush_interval),
	 .arg = "N",
	 .help = "a flush after every N writes"},
	{.name = "write", .type = OPT_BOOL, FIELD(write), .help = "write instead of reading"},
	{.name = "w", .type = OPT_BOOL, FIELD(write)},
	{.name = "pattern",
	 .type = OPT_U64,
	 FIELD(pattern),
	 .arg = "BYTE",
	 .max = 255,
	 .help = "what is written"},
	OPT_END,
};

static int bench_arg(void *target, const char *value, struct err *err)
{
	struct bench *b = target;

	return img_take(value, (char **const[]){&b->source.file}, 1, err);
}

struct run;

struct slot {
	struct block_req req;
	struct iovec iov;
	struct run *run;
};

struct run {
	const struct bench *args;
	struct block_queue *queue;
	u64 size, next, started, finished, flushes;
	int result;
	struct slot *slots;
};

static void start(struct run *r, struct slot *s);

static void on_done(struct block_req *req, int result)
{
	struct slot *s = container_of(req, struct slot, req);
	struct run *r = s->run;

	if (result && !r->result)
		r->result = result;
	r->finished += req->op != BLOCK_FLUSH;
	if (r->started < r->args->count && !r->result)
		start(r, s);
}

static void start(struct run *r, struct slot *s)
{
	const struct bench *a = r->args;
	u64 room = r->size - a->size;

	s->req.op = a->write ? BLOCK_WRITE : BLOCK_READ;
	if (a->flush_interval && r->started && r->started % a->flush_interval == 0 &&
	    r->flushes < r->started / a->flush_interval) {
		s->req.op = BLOCK_FLUSH;
		r->flushes++;
	} else {
		s->req.offset = r->next;
		if (a->random)
			s->req.offset = hash_u64(r->started + a->seed * 0x9e3779b97f4a7c15ULL) %
					(room / a->size + 1) * a->size;
		r->next = r->next + a->step > room ? a->offset % (room + 1) : r->next + a->step;
		r->started++;
	}
	s->req.len = a->size;
	block_submit(r->queue, &s->req);
}

static int run_bench(struct run *r)
{
	const struct bench *a = r->args;
	u8 *memory;
	int rc = 0;

	r->slots = calloc(a->depth, sizeof(*r->slots));
	if (!r->slots || posix_memalign((void **)&memory, 4096, a->depth * a->size)) {
		free(r->slots);
		return -ENOMEM;
	}
	memset(memory, (int)a->pattern, a->depth * a->size);
	for (u64 i = 0; i < a->depth && i < a->count; i++) {
		struct slot *s = &r->slots[i];

		s->run = r;
		s->iov = (struct iovec){memory + i * a->size, a->size};
		s->req.iov = &s->iov;
		s->req.niov = 1;
		s->req.done = on_done;
		start(r, s);
	}
	/* The last of them; a request that finishes starts the next. */
	block_queue_drain(r->queue);
	rc = r->result;
	free(memory);
	free(r->slots);
	return rc;
}

static void print_result(const struct run *r, u64 ns, const struct rusage *before)
{
	double seconds = (double)ns / 1e9;
	struct rusage after;

	getrusage(RUSAGE_SELF, &after);
	printf("Run completed in %.3f seconds.\n", seconds);
	printf("%.0f requests/s, %.1f MiB/s, %.2f us of processor time a request\n",
	       (double)r->finished / seconds,
	       (double)(r->finished * r->args->size) / seconds / (double)MiB,
	       ((double)(after.ru_utime.tv_sec - before->ru_utime.tv_sec + after.ru_stime.tv_sec -
			 before->ru_stime.tv_sec) *
			1e6 +
		(double)(after.ru_utime.tv_usec - before->ru_utime.tv_usec +
			 after.ru_stime.tv_usec - before->ru_stime.tv_usec)) /
		       (double)r->finished);
}

static int bench(struct bench *a, struct err *err)
{
	struct run r = {.args = a};
	struct rusage before;
	struct block *b;
	u64 start_ns;
	int rc = img_open(&b, &a->source, a->write ? IMG_WRITE : 0, err), closed;

	if (rc)
		return rc;
	r.size = block_size(b);
	if (r.size < a->size)
		rc = err_set(err, EINVAL, "%s: is smaller than a request", a->source.file);
	else if (a->offset > r.size - a->size)
		rc = err_set(err, EINVAL, "%s: the first request would reach behind its end",
			     a->source.file);
	r.next = a->offset;
	if (!a->step)
		a->step = a->size;
	if (!rc)
		rc = block_queue_new(&r.queue, b, (unsigned int)a->depth, err);
	if (!rc) {
		getrusage(RUSAGE_SELF, &before);
		start_ns = clock_now_ns();
		rc = run_bench(&r);
		if (rc)
			err_set(err, -rc, "%s: %s", a->source.file, strerror(-rc));
		else
			print_result(&r, clock_now_ns() - start_ns, &before);
	}
	block_queue_free(r.queue);
	closed = block_close(b);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", a->source.file, strerror(-closed));
	return rc;
}

static int bench_main(int argc, char **argv)
{
	struct bench a = {0};
	struct err err = {""};
	int rc = img_parse(&img_bench, &a, argc, argv, bench_arg), status = EXIT_USAGE;

	if (!rc)
		status = bench(&a, &err) ? img_fail("bench", &err, IMG_FAILED) : 0;
	opt_free(bench_options, &a);
	return status;
}

const struct command img_bench = {
	.name = "bench",
	.args = "[OPTIONS] FILE",
	.summary = "Measure how fast requests are served",
	.options = bench_options,
	.run = bench_main,
};
