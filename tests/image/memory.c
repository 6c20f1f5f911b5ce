/*
 * Memory runs out at the N-th allocation, for every N, once or from there on: `bothy img` says so
 * and fails, or does without; requests end with an error; nothing crashes, nothing is lost (under
 * ASan: nothing is leaked), the image stays consistent, and no half target is left.
 *
 * The allocating functions are wrapped by the linker (-Wl,--wrap). BOTHY_LONG=1 tries every N;
 * otherwise a long sequence is sampled.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "block/image.h"
#include "cli/img.h"
#include "ledger.h"
#include "os/file.h"
#include "rig.h"
#include "verb.h"

#define DISK  (1 * MiB)
#define DENSE 40 /* so many are all tried; then some in between are left out */

/* ---- running out ---- */

static struct {
	bool armed, on; /* on: all after the N-th, too */
	u64 seen, fail_at;
} memory;

/* In a thread that is about something else just now: what the test itself needs. */
static __thread bool spared;

static bool out_of_memory(void)
{
	u64 nth;

	if (spared || !__atomic_load_n(&memory.armed, __ATOMIC_SEQ_CST))
		return false;
	nth = __atomic_add_fetch(&memory.seen, 1, __ATOMIC_SEQ_CST);
	if (nth != memory.fail_at && !(memory.on && nth > memory.fail_at))
		return false;
	errno = ENOMEM;
	return true;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **p, size_t align, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
int __wrap_asprintf(char **p, const char *fmt, ...) PRINTF_LIKE(2, 3);

void *__wrap_malloc(size_t n)
{
	return out_of_memory() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return out_of_memory() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return out_of_memory() ? NULL : __real_realloc(p, n);
}

int __wrap_posix_memalign(void **p, size_t align, size_t n)
{
	return out_of_memory() ? ENOMEM : __real_posix_memalign(p, align, n);
}

char *__wrap_strdup(const char *s)
{
	return out_of_memory() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
	return out_of_memory() ? NULL : __real_strndup(s, n);
}

int __wrap_asprintf(char **p, const char *fmt, ...)
{
	va_list args;
	int n;

	if (out_of_memory())
		return -1;
	va_start(args, fmt);
	n = vasprintf(p, fmt, args);
	va_end(args);
	return n;
}

static void arm(u64 nth, bool on)
{
	memory.seen = 0;
	memory.fail_at = nth;
	memory.on = on;
	__atomic_store_n(&memory.armed, true, __ATOMIC_SEQ_CST);
}

/* Was the N-th reached? */
static bool disarm(void)
{
	__atomic_store_n(&memory.armed, false, __ATOMIC_SEQ_CST);
	return memory.seen >= memory.fail_at;
}

static u64 next_nth(u64 nth)
{
	return nth < DENSE || getenv("BOTHY_LONG") ? nth + 1 : nth + nth / 8;
}

/* ---- files ---- */

/* Kept as they were made, and put back before each try. */
static const char *const kept[] = {"disk", "a.qcow2", "over.qcow2", "snap.qcow2", "a.qed"};

struct run {
	char *folder;
	char *copy[ARRAY_SIZE(kept)];
	u64 len[ARRAY_SIZE(kept)];
	int out, err; /* the real standard output and error */
};

static int put_back(struct run *r)
{
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		int fd = open(kept[i], O_WRONLY | O_CREAT | O_TRUNC, 0600), rc = -EIO;

		if (fd >= 0)
			rc = pwrite_full(fd, r->copy[i], r->len[i], 0);
		close(fd);
		if (rc)
			return rc;
	}
	return 0;
}

static int keep(struct run *r)
{
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		void *data;
		size_t len;

		if (file_read_all(kept[i], 64 * MiB, &data, &len, &err))
			return -EIO;
		r->copy[i] = data;
		r->len[i] = len;
	}
	return 0;
}

static int make_files(struct run *r)
{
	if (chdir(r->folder) || rig_run("head -c 300000 /dev/urandom >disk; yes compressible | "
					"head -c 400000 >>disk; truncate -s %llu disk",
					DISK))
		return -EIO;
	if (rig_run("qemu-img convert -q -f raw -O qcow2 -o cluster_size=4k disk a.qcow2 && "
		    "qemu-img create -q -f qcow2 -o cluster_size=4k -b a.qcow2 -F qcow2 over.qcow2 "
		    "&& qemu-io -f qcow2 -c 'write -P 7 100k 50k' over.qcow2 >/dev/null && "
		    "cp a.qcow2 snap.qcow2 && qemu-img snapshot -c one snap.qcow2 && "
		    "qemu-io -f qcow2 -c 'write -P 9 0 50k' snap.qcow2 >/dev/null && "
		    "qemu-img convert -q -f raw -O qed -o cluster_size=4k disk a.qed"))
		return -EIO;
	return keep(r);
}

/* ---- verbs ---- */

struct verb {
	const char *line;   /* words of the command, after "img" */
	const char *target; /* may not be there after a failure; NULL: none */
	const char *image;  /* must be consistent whatever happens */
	const char *format;
};

static const struct verb verbs[] = {
	{"info --json a.qcow2"},
	{"info over.qcow2"},
	{"check a.qcow2"},
	{"check --repair all snap.qcow2", NULL, "snap.qcow2", "qcow2"},
	{"create -q -f qcow2 new.qcow2 1G", "new.qcow2"},
	{"create -q -f qed new.qed 1G", "new.qed"},
	{"convert -t unsafe -f raw -O qcow2 disk t", "t"},
	{"convert -t unsafe -c -f raw -O qcow2 -o cluster_size=4k disk t", "t"},
	{"convert -t unsafe -c -f raw -O qcow2 -o compression_type=zstd disk t", "t"},
	{"convert -t unsafe -f qcow2 -O raw over.qcow2 t", "t"},
	{"convert -t unsafe -f qcow2 -O qed over.qcow2 t", "t"},
	{"convert -t unsafe -f qed -O qcow2 a.qed t", "t"},
	{"compare -f qcow2 -F raw a.qcow2 disk"},
	{"map --json -f qcow2 over.qcow2"},
	{"resize -q -f qcow2 a.qcow2 +600M", NULL, "a.qcow2", "qcow2"},
	{"snapshot snap.qcow2"},
	{"snapshot -c two snap.qcow2", NULL, "snap.qcow2", "qcow2"},
	{"snapshot -a one snap.qcow2", NULL, "snap.qcow2", "qcow2"},
	{"snapshot -d one snap.qcow2", NULL, "snap.qcow2", "qcow2"},
	{"rebase -f qcow2 -b  over.qcow2", NULL, "over.qcow2", "qcow2"},
	{"commit -q -f qcow2 over.qcow2", NULL, "over.qcow2", "qcow2"},
	{"measure -O qcow2 -f raw disk"},
	{"bench -f qcow2 -w -c 50 -d 8 -S 20480 over.qcow2", NULL, "over.qcow2", "qcow2"},
	{"bench -f qcow2 -c 50 -d 8 -S 20480 over.qcow2"},
	{"bench -f qed -w -c 50 -d 8 -S 20480 a.qed", NULL, "a.qed", "qed"},
};

/* Two blanks in a row stand for an empty word. */
static int run_verb(struct run *r, const struct verb *v, u64 nth, bool on, bool *reached)
{
	char *argv[32], *line = __real_strdup(v->line);
	int argc = verb_split(line, argv, ARRAY_SIZE(argv)), status;

	fflush(NULL);
	verb_redirect(STDOUT_FILENO, "/dev/null");
	verb_redirect(STDERR_FILENO, "said");
	optind = 1;
	arm(nth, on);
	status = img_main(argc, argv);
	*reached = disarm();
	fflush(NULL);
	dup2(r->out, STDOUT_FILENO);
	dup2(r->err, STDERR_FILENO);
	free(line);
	return status;
}

/* Where nothing works any more, it is as after a crash: see crash.c, on_finding(). */
static void on_finding(void *arg, const char *line)
{
	u64 *errors = arg;

	if (!strncmp(line, "ERROR", 5) && !strstr(line, "COPIED flag"))
		++*errors;
}

static int consistent(const char *path, const char *format)
{
	u64 errors = 0;
	struct block_options o = rig_options(path, format);
	struct block_check check = {0};
	struct err err = {""};
	struct block *b;
	int rc;

	o.metadata_only = o.readonly = true;
	rc = block_open(&b, &o, &err);
	rig_options_free(&o);
	if (rc) {
		fprintf(stderr, "%s\n", err.text);
		return rc;
	}
	check.report = on_finding;
	check.arg = &errors;
	rc = block_check(b, 0, &check, &err);
	block_close(b);
	if (!memory.on)
		errors = check.errors;
	return rc ? rc : errors ? -EUCLEAN : 0;
}

static int judge(const struct verb *v, int status)
{
	struct stat st;

	if (status < 0 || status > 3)
		return fprintf(stderr, "status %d\n", status);
	if (status && (stat("said", &st) || !st.st_size))
		return fprintf(stderr, "status %d without a word\n", status);
	if (v->target && status && !access(v->target, F_OK))
		return fprintf(stderr, "%s was left\n", v->target);
	if (v->image && consistent(v->image, v->format))
		return fprintf(stderr, "%s is not consistent\n", v->image);
	return 0;
}

static int leftovers(void)
{
	return rig_run("! ls | grep -v -x -e 'disk' -e '[a-z]*\\.qcow2' -e 'a\\.qed' -e said -e t "
		       "-e 'new\\..*' -e image");
}

static int try_verb(struct run *r, const struct verb *v)
{
	u64 tries = 0, failures = 0;
	int rc = 0;

	for (int on = 0; on < 2 && !rc; on++) {
		bool reached = true;

		for (u64 nth = 1; reached && !rc; nth = next_nth(nth)) {
			int status;

			if (put_back(r))
				return 1;
			if (v->target)
				unlink(v->target);
			status = run_verb(r, v, nth, on, &reached);
			rc = judge(v, status);
			if (!rc && !reached && status)
				rc = fprintf(stderr, "fails with memory enough\n");
			tries++;
			failures += !!status;
			if (rc)
				fprintf(stderr, "img %s: allocation %llu%s\n", v->line,
					(unsigned long long)nth, on ? " and all after it" : "");
		}
	}
	if (!rc && leftovers())
		rc = fprintf(stderr, "img %s: left the files above\n", v->line);
	printf("%4llu tries, %4llu errors: img %s%s\n", (unsigned long long)tries,
	       (unsigned long long)failures, v->line, rc ? ": FAILED" : "");
	return rc;
}

/* ---- requests ---- */

struct shape {
	const char *name, *format;
	u64 cluster;
	bool backed, extended;
};

static const struct shape shapes[] = {
	{"qcow2", "qcow2", 4096},
	{"qcow2-backed", "qcow2", 4096, .backed = true},
	{"qcow2-ext-backed", "qcow2", 16384, .backed = true, .extended = true},
	{"qed-backed", "qed", 4096, .backed = true},
};

static int make_image(const struct shape *s)
{
	struct block_create c = {0};
	struct err err = {""};
	int rc = opt_defaults(block_create_table, &c, &err);
	u8 *data = __real_malloc(DISK);
	int fd = open("disk", O_WRONLY);

	ledger_base(data, DISK);
	if (fd < 0 || pwrite_full(fd, data, DISK, 0))
		rc = -EIO;
	close(fd);
	free(data);
	c.size = DISK;
	c.cluster_size = s->cluster;
	c.extended_l2 = s->extended;
	if (s->backed) {
		c.backing_file = (char *)"disk";
		c.backing_fmt = (char *)"raw";
	}
	if (!rc)
		rc = block_create("image", s->format, &c, &err);
	c.backing_file = c.backing_fmt = NULL;
	opt_free(block_create_table, &c);
	return rc;
}

static int open_image(const struct shape *s, struct block **b)
{
	struct block_options o = rig_options("image", s->format);
	struct err err = {""};
	int rc;

	o.backing = s->backed;
	o.cache = BLOCK_CACHE_UNSAFE; /* nothing here is about syncs */
	rc = block_open(b, &o, &err);
	rig_options_free(&o);
	return rc;
}

/* The ledger's own memory is not what runs out. */
static void on_done(struct block_req *req, int result)
{
	spared = true;
	ledger_end(container_of(req, struct ledger_op, req), result);
	spared = false;
}

static int burst(struct ledger *l, struct block *b, u64 seed)
{
	struct ledger_op ops[8];
	struct block_queue *q = NULL;
	struct err err;
	int rc = block_queue_new(&q, b, 8, &err);

	for (unsigned int i = 0; i < ARRAY_SIZE(ops) && !rc; i++) {
		spared = true;
		ledger_begin(&ops[i], l, DISK / LEDGER_SECTOR, 0, 1 + seed % 1000,
			     seed * 31 + i * 7, seed * 17 + i * 40503);
		spared = false;
		ops[i].req.done = on_done;
		block_submit(q, &ops[i].req);
	}
	if (q)
		block_queue_drain(q);
	block_queue_free(q);
	return rc;
}

static int requests_once(const struct shape *s, u64 nth, bool on, bool *reached)
{
	struct ledger l;
	struct block *b;
	int rc = make_image(s);

	if (!rc)
		rc = ledger_init(&l, DISK, s->backed ? DISK : 0);
	if (rc)
		return rc;
	arm(nth, on);
	rc = open_image(s, &b);
	if (!rc) {
		for (u64 i = 0; i < 12; i++)
			burst(&l, b, i * 7919);
		block_close(b);
	}
	*reached = disarm();
	rc = consistent("image", s->format);
	if (!rc)
		rc = open_image(s, &b);
	if (!rc) {
		rc = ledger_verify(&l, b, l.tick);
		block_close(b);
	}
	ledger_free(&l);
	return rc;
}

static int try_requests(const struct shape *s)
{
	u64 tries = 0;
	int rc = 0;

	for (int on = 0; on < 2 && !rc; on++) {
		bool reached = true;

		for (u64 nth = 1; reached && !rc; nth = next_nth(nth)) {
			rc = requests_once(s, nth, on, &reached);
			tries++;
			if (rc)
				fprintf(stderr, "requests, %s: allocation %llu%s: %s\n", s->name,
					(unsigned long long)nth, on ? " and all after it" : "",
					strerror(-rc));
		}
	}
	printf("%4llu tries: requests, %s%s\n", (unsigned long long)tries, s->name,
	       rc ? ": FAILED" : "");
	return rc;
}

int main(int argc, char **argv)
{
	struct run r = {.out = dup(STDOUT_FILENO), .err = dup(STDERR_FILENO)};
	const char *only = argc > 1 ? argv[1] : "";
	int bad = 0;

	if (!rig_have("qemu-img")) {
		printf("SKIP: qemu-img is missing (Debian package qemu-utils)\n");
		return 77;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Nothing here is about the disk of the machine that runs it. */
	if (!access("/dev/shm", W_OK))
		setenv("BOTHY_BUILD", "/dev/shm", 1);
	log_set_sink(NULL);
	log_set_level(LOG_ERROR);
	r.folder = rig_folder();
	if (!r.folder || make_files(&r)) {
		fprintf(stderr, "cannot set up\n");
		return 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(verbs) && !bad; i++)
		if (strstr(verbs[i].line, only))
			bad = try_verb(&r, &verbs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(shapes) && !bad; i++)
		if (strstr(shapes[i].name, only))
			bad = try_requests(&shapes[i]);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		free(r.copy[i]);
	if (bad)
		fprintf(stderr, "left in %s\n", r.folder);
	else
		rig_folder_free(r.folder);
	return bad != 0;
}
