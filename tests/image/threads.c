/*
 * One image and many threads: each has a queue of its own with several requests in flight, on
 * stripes of every cluster that are its own, so that all of them need the same tables, copy the
 * same clusters and flush at once; a tool's thread reads, asks for the status and makes the image
 * larger meanwhile. Each stripe reads as its thread wrote it, in the end and after the image has
 * been opened anew, and a check finds nothing. Made for the thread sanitizer.
 *
 * BOTHY_LONG=N runs N times as many operations; BOTHY_SEED=N starts elsewhere.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/image.h"
#include "rig.h"

#define WORKERS 4
#define DEPTH	6
#define STRIPE	1024
#define TURNS	60

struct shape {
	const char *name, *format;
	u64 cluster, size;
	u64 l2_cache;
	bool backed, extended, packed, grows, misaligned, luks;
	int cache;
	u64 iops;
};

static const struct shape shapes[] = {
	{"64k", "qcow2", 65536, 8 * MiB, .grows = true},
	{"64k-backed", "qcow2", 65536, 8 * MiB, .backed = true},
	{"4k-small-cache", "qcow2", 4096, 24 * MiB, .l2_cache = 32768, .grows = true},
	{"512-backed", "qcow2", 512, 2 * MiB, .l2_cache = 16384, .backed = true, .grows = true},
	{"16k-extended", "qcow2", 16384, 8 * MiB, .backed = true, .extended = true},
	{"packed", "qcow2", 16384, 8 * MiB, .packed = true},
	{"direct", "qcow2", 65536, 8 * MiB, .cache = BLOCK_CACHE_NONE},
	{"direct-misaligned", "qcow2", 65536, 4 * MiB, .backed = true, .misaligned = true,
	 .cache = BLOCK_CACHE_NONE},
	{"luks", "qcow2", 65536, 4 * MiB, .backed = true, .luks = true},
	{"writethrough", "qcow2", 4096, 4 * MiB, .cache = BLOCK_CACHE_WRITETHROUGH},
	{"throttled", "qcow2", 65536, 4 * MiB, .iops = 100000},
	{"qed", "qed", 65536, 8 * MiB, .backed = true, .grows = true},
	{"raw", "raw", 0, 8 * MiB},
};

struct worker;

struct slot {
	struct worker *worker;
	struct block_req req;
	struct iovec iov;
	u8 memory[STRIPE + 4096], *data;
	u64 stripe; /* of the worker's */
	u8 value;
	bool busy;
};

struct worker {
	pthread_t thread;
	struct block *block;
	struct block_queue *queue;
	u64 id, stripes, turns, seed;
	u8 *values; /* of the stripes, as they are known to be */
	bool *taken;
	struct slot slots[DEPTH];
	int rc;
};

static u64 rnd(u64 *seed)
{
	*seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return *seed >> 33;
}

static u64 place(const struct worker *w, u64 stripe)
{
	return (stripe * WORKERS + w->id) * STRIPE;
}

/* ---- a worker ---- */

static bool reads_as(const u8 *data, u8 value)
{
	for (u64 i = 0; i < STRIPE; i++)
		if (data[i] != value)
			return false;
	return true;
}

static void on_done(struct block_req *req, int result)
{
	struct slot *s = container_of(req, struct slot, req);
	struct worker *w = s->worker;

	s->busy = false;
	if (req->op != BLOCK_FLUSH)
		w->taken[s->stripe] = false;
	if (result)
		w->rc = result;
	else if (req->op == BLOCK_READ && !reads_as(s->data, w->values[s->stripe]))
		w->rc = -EBADMSG;
	else if (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES)
		w->values[s->stripe] = s->value;
}

static void begin(struct worker *w, struct slot *s)
{
	static const enum block_op kinds[] = {BLOCK_READ,  BLOCK_READ,	BLOCK_WRITE,
					      BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE_ZEROES};
	u64 dice = rnd(&w->seed);

	s->stripe = rnd(&w->seed) % w->stripes;
	s->req = (struct block_req){.op = dice % 23 ? kinds[dice % ARRAY_SIZE(kinds)] : BLOCK_FLUSH,
				    .offset = place(w, s->stripe),
				    .len = STRIPE,
				    .iov = &s->iov,
				    .niov = 1,
				    .done = on_done};
	if (s->req.op != BLOCK_FLUSH && w->taken[s->stripe])
		return;
	w->taken[s->stripe] |= s->req.op != BLOCK_FLUSH;
	s->value = s->req.op == BLOCK_WRITE ? (u8)(1 + dice % 251) : 0;
	s->iov = (struct iovec){s->data, STRIPE};
	memset(s->data, s->value, STRIPE);
	if (s->req.op == BLOCK_WRITE && dice % 29 == 0)
		s->req.flags = BLOCK_FUA;
	s->busy = true;
	block_submit(w->queue, &s->req);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (u64 turn = 0; turn < w->turns && !w->rc; turn++) {
		for (int i = 0; i < DEPTH; i++)
			if (!w->slots[i].busy)
				begin(w, &w->slots[i]);
		block_queue_flush(w->queue);
		if (turn % 4 == 0)
			block_queue_drain(w->queue);
		else
			block_queue_poll(w->queue);
	}
	block_queue_free(w->queue);
	return NULL;
}

/* ---- the tool meanwhile ---- */

static int meddle(const struct shape *s, struct block *b, u64 turns, u64 seed)
{
	u8 *packed = calloc(1, s->cluster);
	struct iovec iov = {packed, s->cluster};
	u64 end = s->size;
	int rc = 0;

	for (u64 i = 0; i < turns && !rc; i++) {
		u64 dice = rnd(&seed), at = rnd(&seed) % (s->size / 4096) * 4096;
		struct block_extent e;
		struct err err;
		u8 buf[4096];

		if (dice % 8 < 3)
			rc = block_read(b, buf, sizeof(buf), at);
		else if (dice % 8 < 6)
			rc = block_status(b, at, s->size, &e);
		else if (dice % 8 == 6)
			rc = block_flush(b);
		else if (s->grows)
			rc = block_resize(b, end += 16 * max(s->cluster, (u64)65536), false, &err);
		/* Behind what the workers have. */
		else if (s->packed)
			rc = block_writev(b, &iov, 1, s->size + dice % 32 * s->cluster,
					  BLOCK_COMPRESS);
	}
	free(packed);
	return rc;
}

/* ---- the whole ---- */

static int verify(struct block *b, const struct worker *workers)
{
	for (int k = 0; k < WORKERS; k++) {
		const struct worker *w = &workers[k];

		for (u64 i = 0; i < w->stripes; i++) {
			u8 buf[STRIPE];
			int rc = block_read(b, buf, STRIPE, place(w, i));

			if (rc)
				return rc;
			if (!reads_as(buf, w->values[i])) {
				fprintf(stderr, "stripe %llu of %d: %02x, must be %02x\n",
					(unsigned long long)i, k, buf[0], w->values[i]);
				return -EBADMSG;
			}
		}
	}
	return 0;
}

static char *key; /* the file */

static int make(const struct shape *s, const char *path)
{
	struct block_create c = {0};
	struct err err = {""};
	int rc = opt_defaults(block_create_table, &c, &err);

	c.size = s->size + (s->packed ? 32 * s->cluster : 0);
	c.cluster_size = s->cluster;
	c.extended_l2 = s->extended;
	if (s->luks) {
		c.encrypt_format = BLOCK_ENCRYPT_LUKS;
		c.encrypt_key_file = strdup(key);
		c.encrypt_iter_time = 1;
	}
	if (!rc && s->backed) {
		c.backing_file = strdup("base");
		c.backing_fmt = strdup("raw");
	}
	if (!rc)
		rc = block_create(path, s->format, &c, &err);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	opt_free(block_create_table, &c);
	return rc;
}

static int open_image(const struct shape *s, const char *path, struct block **b)
{
	struct block_options o = rig_options(path, s->format);
	struct err err = {""};
	int rc;

	o.backing = true;
	o.key_file = s->luks ? strdup(key) : NULL;
	o.cache = s->cache;
	o.iops = o.iops_burst = s->iops;
	if (s->l2_cache)
		o.l2_cache = s->l2_cache;
	rc = block_open(b, &o, &err);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	rig_options_free(&o);
	return rc;
}

static int worker_init(struct worker *w, const struct shape *s, struct block *b, u64 id, u64 turns,
		       u64 seed)
{
	struct err err;

	*w = (struct worker){.block = b, .id = id, .turns = turns, .seed = seed * 64 + id};
	w->stripes = s->size / STRIPE / WORKERS;
	w->values = malloc(w->stripes);
	w->taken = calloc(w->stripes, sizeof(*w->taken));
	if (!w->values || !w->taken)
		return -ENOMEM;
	memset(w->values, s->backed ? 0xba : 0, w->stripes);
	for (int i = 0; i < DEPTH; i++) {
		u8 *memory = w->slots[i].memory;

		w->slots[i].worker = w;
		w->slots[i].data = memory + (-(uintptr_t)memory & 4095) - (s->misaligned ? 8 : 0);
		if (w->slots[i].data < memory)
			w->slots[i].data = memory + 8;
	}
	return block_queue_new(&w->queue, b, DEPTH, &err);
}

static int run_all(const struct shape *s, struct block *b, struct worker *workers, u64 factor,
		   u64 seed)
{
	int rc = 0, started = 0;

	for (; started < WORKERS && !rc; started += !rc) {
		rc = worker_init(&workers[started], s, b, (u64)started, TURNS * factor, seed);
		if (!rc)
			rc = -pthread_create(&workers[started].thread, NULL, work,
					     &workers[started]);
	}
	if (!rc)
		rc = meddle(s, b, TURNS * factor / 2, seed);
	for (int i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		rc = rc ? rc : workers[i].rc;
	}
	return rc ? rc : verify(b, workers);
}

static int sound(struct block *b)
{
	struct block_check check = {0};
	struct err err = {""};
	int rc = block_check(b, 0, &check, &err);

	if (rc == -ENOTSUP)
		return 0;
	if (!rc && check.errors)
		fprintf(stderr, "%llu errors\n", (unsigned long long)check.errors);
	return rc ? rc : check.errors ? -EUCLEAN : 0;
}

static int try_shape(const struct shape *s, const char *path, u64 factor, u64 seed)
{
	struct worker *workers = calloc(WORKERS, sizeof(*workers));
	struct block *b = NULL;
	int rc = make(s, path), end;

	if (!rc)
		rc = open_image(s, path, &b);
	if (!rc)
		rc = run_all(s, b, workers, factor, seed);
	end = b ? block_close(b) : 0;
	rc = rc ? rc : end;
	if (!rc && !(rc = open_image(s, path, &b))) {
		rc = verify(b, workers);
		if (!rc)
			rc = sound(b);
		block_close(b);
	}
	for (int i = 0; i < WORKERS; i++) {
		free(workers[i].values);
		free(workers[i].taken);
	}
	free(workers);
	printf("%-16s %s\n", s->name, rc ? strerror(-rc) : "ok");
	return rc;
}

static int write_file(const char *path, int byte, u64 size)
{
	u8 *data = malloc(size);
	FILE *f = fopen(path, "w");
	int rc = -EIO;

	if (data && f) {
		memset(data, byte, size);
		rc = fwrite(data, 1, size, f) == size ? 0 : -EIO;
	}
	if (f)
		fclose(f);
	free(data);
	return rc;
}

static u64 number(const char *name, u64 dflt)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : dflt;
}

int main(int argc, char **argv)
{
	u64 factor = number("BOTHY_LONG", getenv("SOAK") ? 50 : 1), seed = number("BOTHY_SEED", 1);
	char *folder = rig_folder(), *path = rig_path(folder, "image");
	char *base = rig_path(folder, "base");
	int rc = write_file(base, 0xba, 24 * MiB);

	key = rig_path(folder, "key");
	rc = rc ? rc : write_file(key, 'k', 10);
	log_set_level(LOG_ERROR);
	for (size_t i = 0; i < ARRAY_SIZE(shapes) && !rc; i++) {
		if (argc > 1 && strcmp(argv[1], shapes[i].name))
			continue;
		rc = try_shape(&shapes[i], path, factor, seed);
		unlink(path);
	}
	rig_folder_free(folder);
	free(path);
	free(base);
	free(key);
	return rc != 0;
}
