/*
 * Malformed images, many of them: whatever an image says of itself, `bothy img` looks at it, checks
 * and repairs it, converts it and serves requests of it with one of its exit statuses, within a
 * limit of processor time and of memory.
 *
 * Each is a sound image (qcow2 in its variants, qed, luks) with a few numbers changed: fields of
 * the header and the tables, to values at the edges, to places in the file, or by a bit; some are
 * cut short. Every command is a process of its own, whose time and memory wait4() tells.
 *
 * 500 images; 10,000 with SOAK; BOTHY_SEED=N: others. `malformed COUNT FIRST`: from that number on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/hash.h"
#include "base/log.h"
#include "cli/img.h"
#include "os/file.h"
#include "rig.h"
#include "verb.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* What a command may take: seconds of processor time, MiB resident. That of a key's hashes is
 * bounded by luks.c to about a minute. */
#define MAX_SECONDS	10
#define MAX_KEY_SECONDS 100
#define MAX_MIB		(SANITIZED ? 1024 : 192)

#define NO_CHECK 63 /* the format has no structure to check */

#define KEY "--key-file key "

struct sound {
	const char *name, *format, *open; /* open: options of every command that opens it */
	const char *make[3];		  /* commands; the last one's image is `name` */
	u8 *data;
	size_t len;
};

#define TO_QCOW2 "convert -t unsafe -f raw -O qcow2 -o "

static struct sound sounds[] = {
	{"plain", "qcow2", "", {TO_QCOW2 "cluster_size=4k disk plain"}},
	{"small", "qcow2", "", {TO_QCOW2 "cluster_size=512,refcount_bits=1 disk small"}},
	{"large", "qcow2", "", {TO_QCOW2 "refcount_bits=64 disk large"}},
	{"old",
	 "qcow2",
	 "",
	 {TO_QCOW2 "compat=0.10,cluster_size=4k disk old", "snapshot -c one old"}},
	{"snaps",
	 "qcow2",
	 "",
	 {TO_QCOW2 "cluster_size=4k disk snaps", "snapshot -c one snaps",
	  "bench -w -f qcow2 -c 30 -S 20k snaps"}},
	{"subs",
	 "qcow2",
	 "",
	 {"create -q -f qcow2 -o extended_l2=on,cluster_size=16k subs 8M",
	  "bench -w -f qcow2 -c 100 -S 20k subs"}},
	{"zlib",
	 "qcow2",
	 "",
	 {"convert -c -t unsafe -f raw -O qcow2 -o cluster_size=4k disk zlib"}},
	{"zstd",
	 "qcow2",
	 "",
	 {"convert -c -t unsafe -f raw -O qcow2 -o compression_type=zstd,cluster_size=8k disk "
	  "zstd"}},
	{"over",
	 "qcow2",
	 "",
	 {"create -q -f qcow2 -o cluster_size=4k -b disk -F raw over",
	  "bench -w -f qcow2 -c 100 -S 12k over"}},
	{"data", "qcow2", "", {"create -q -f qcow2 -o data_file=data.raw,cluster_size=4k data 2M"}},
	{"qed", "qed", "", {"convert -t unsafe -f raw -O qed -o cluster_size=4k disk qed"}},
	{"qedover",
	 "qed",
	 "",
	 {"create -q -f qed -b disk -F raw qedover", "bench -w -f qed -c 20 -S 60k qedover"}},
	{"luks",
	 "luks",
	 KEY,
	 {"convert -t unsafe -f raw -O luks -o encrypt.key-file=key,encrypt.iter-time=10 disk "
	  "luks"}},
	{"inner",
	 "qcow2",
	 KEY,
	 {TO_QCOW2 "cluster_size=4k,encrypt.format=luks,encrypt.key-file=key,encrypt.iter-time=10 "
		   "disk inner"}},
};

/* %1$s: the format, %2$s: how to open it. The image is `bad`. */
static const char *const verbs[] = {
	"info --json -f %1$s bad",
	"check -f %1$s bad",
	"convert %2$s-t unsafe -f %1$s -O raw bad out",
	"bench %2$s-f %1$s -c 100 -d 8 --random bad",
	"bench %2$s-w -f %1$s -c 60 -d 8 --random --flush-interval 20 bad",
	"check --repair all -f %1$s bad",
	"bench %2$s-f %1$s -c 30 -d 8 -S 3584 bad",
};

/* ---- commands ---- */

static __attribute__((noreturn)) void child(const char *line, unsigned int seconds)
{
	struct rlimit cpu = {seconds + 2, seconds + 2}, memory = {8 * GiB, 8 * GiB}, core = {0, 0};
	char *argv[32], *copy = strdup(line);
	int argc = verb_split(copy, argv, ARRAY_SIZE(argv));

	setrlimit(RLIMIT_CPU, &cpu);
	setrlimit(RLIMIT_CORE, &core);
	if (!SANITIZED)
		setrlimit(RLIMIT_AS, &memory);
	verb_redirect(STDOUT_FILENO, "/dev/null");
	verb_redirect(STDERR_FILENO, "said");
	optind = 1;
	argc = img_main(argc, argv);
	fflush(NULL);
	_exit(argc);
}

struct worst {
	double seconds;
	u64 mib;
};

/* The status, or -1 with a word about it when it is none that a command may have. */
static int run(const char *line, bool key, struct worst *worst)
{
	unsigned int most = key ? MAX_KEY_SECONDS : MAX_SECONDS;
	struct rusage use;
	double seconds;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid)
		child(line, most);
	if (pid < 0 || wait4(pid, &status, 0, &use) != pid) {
		perror("fork");
		return -1;
	}
	seconds = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
		  (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
	worst->seconds = max(worst->seconds, seconds);
	worst->mib = max(worst->mib, (u64)use.ru_maxrss / 1024);
	if (!WIFEXITED(status))
		printf("%s: signal %d after %.1f s\n", line, WTERMSIG(status), seconds);
	else if (WEXITSTATUS(status) > 3 && WEXITSTATUS(status) != NO_CHECK)
		printf("%s: status %d\n", line, WEXITSTATUS(status));
	else if (seconds > most)
		printf("%s: took %.1f s of processor time\n", line, seconds);
	else if (use.ru_maxrss / 1024 > MAX_MIB)
		printf("%s: took %ld MiB\n", line, use.ru_maxrss / 1024);
	else
		return WEXITSTATUS(status);
	return -1;
}

/* ---- images ---- */

static int make(struct sound *s)
{
	struct worst ignored = {0};
	struct err err;
	void *data;

	for (size_t i = 0; i < ARRAY_SIZE(s->make) && s->make[i]; i++)
		if (run(s->make[i], true, &ignored)) {
			printf("cannot make an image: %s\n", s->make[i]);
			rig_run("cat said");
			return -EIO;
		}
	if (file_read_all(s->name, 64 * MiB, &data, &s->len, &err))
		return -EIO;
	s->data = data;
	return 0;
}

/* Is the plug-in there that it needs? */
static bool wanted(const struct sound *s)
{
	bool packed = s->name[0] == 'z';
	char *plugin = rig_path(getenv("BOTHY_PLUGINS") ?: ".",
				packed ? "bothy-compress.so" : "bothy-crypto.so");
	bool ok = (!packed && !*s->open) || !access(plugin, F_OK);

	free(plugin);
	return ok;
}

struct dice {
	u64 state;
};

static u64 roll(struct dice *d, u64 sides)
{
	d->state += 0x9e3779b97f4a7c15ULL;
	return hash_u64(d->state) % sides;
}

/* Where numbers that matter lie: the header, the tables (never far behind it), or anywhere. */
static u64 place(struct dice *d, const u8 *data, size_t len)
{
	u64 table;

	switch (roll(d, 6)) {
	case 0:
	case 1:
		return roll(d, 128);
	case 2:
		return roll(d, min(len, (size_t)1024));
	case 3: /* somewhere that the header points to */
		table = load_be64(data + 8 * roll(d, 14)) & 0xffffffffff00ULL;
		return table < len - 8 ? table + 8 * roll(d, min((len - table) / 8, 64ULL)) : 0;
	case 4:
		return align_down(roll(d, len - 8), 512) + 8 * roll(d, 16);
	default:
		return roll(d, len - 8);
	}
}

static u64 number(struct dice *d, u64 old, size_t len)
{
	static const u64 edges[] = {0,		1,	    2,		 9,
				    21,		63,	    64,		 0x7f,
				    0xff,	0x200,	    0xffff,	 0x10000,
				    0x7fffffff, ~0u,	    0x80000000,	 1ULL << 40,
				    1ULL << 62, 1ULL << 63, ~0ULL,	 (1ULL << 63) - 1,
				    1ULL << 56, 0xfffe00,   0x100000000, 1ULL << 33};
	u64 flags = roll(d, 3) ? 0 : roll(d, 4) << 62;

	switch (roll(d, 6)) {
	case 0:
	case 1:
		return edges[roll(d, ARRAY_SIZE(edges))];
	case 2: /* a place in the file, as an entry has it */
		return align_down(roll(d, len + 8192), 512) | flags;
	case 3:
		return align_down(roll(d, len + 8192), 4096) | flags;
	case 4:
		return old ^ (1ULL << roll(d, 64));
	default:
		return old + roll(d, 17) - 8;
	}
}

static void change(struct dice *d, u8 *data, size_t len, bool little)
{
	u64 at = min(place(d, data, len), (u64)len - 8);
	u64 v = number(d, little ? load_le64(data + at) : load_be64(data + at), len);

	switch (roll(d, 4)) {
	case 0:
		data[at] = (u8)v;
		break;
	case 1:
		if (little)
			store_le32(data + at, (u32)v);
		else
			store_be32(data + at, (u32)v);
		break;
	default:
		if (little)
			store_le64(data + at, v);
		else
			store_be64(data + at, v);
	}
}

static int spoil(const struct sound *s, u64 seed)
{
	struct dice d = {seed};
	size_t len = s->len;
	u8 *data = malloc(len);
	int fd = open("bad", O_WRONLY | O_CREAT | O_TRUNC, 0600), rc = -EIO;

	if (data && fd >= 0) {
		memcpy(data, s->data, len);
		for (u64 n = 1 + roll(&d, 5); n--;)
			change(&d, data, len, !strcmp(s->format, "qed"));
		if (!roll(&d, 12))
			len = roll(&d, len);
		rc = pwrite_full(fd, data, len, 0);
	}
	close(fd);
	free(data);
	return rc;
}

/* ---- the whole ---- */

struct tally {
	u64 passed[ARRAY_SIZE(verbs)], refused[ARRAY_SIZE(verbs)];
	struct worst worst;
};

static int try_image(const struct sound *s, struct tally *t)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		struct stat said;
		char line[256];
		int status;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(line, sizeof(line), verbs[i], s->format, s->open);
#pragma GCC diagnostic pop
		unlink("out");
		status = run(line, *s->open, &t->worst);
		if (status < 0)
			return -1;
		*(status ? &t->refused[i] : &t->passed[i]) += 1;
		if (status && strncmp(line, "check", 5) && (stat("said", &said) || !said.st_size))
			return printf("%s: status %d without a word\n", line, status);
	}
	return 0;
}

/* The same commands on what is sound: else the refusals would mean nothing. */
static int try_sound(const struct sound *s)
{
	struct tally t = {0};
	int fd = open("bad", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	int rc = fd < 0 ? -EIO : pwrite_full(fd, s->data, s->len, 0);

	close(fd);
	if (!rc)
		rc = try_image(s, &t);
	for (size_t i = 0; i < ARRAY_SIZE(verbs) && !rc; i++)
		if (t.refused[i] && (strcmp(s->format, "luks") || strncmp(verbs[i], "check", 5)))
			rc = printf("%s is sound and was refused: %s\n", s->name, verbs[i]);
	return rc ? rig_run("cat said") ?: -1 : 0;
}

/* Most of the time a command waits for the kernel to take its ring apart: several at once. */
#define WORKERS 8

struct plan {
	struct sound *use[ARRAY_SIZE(sounds)];
	u64 n, first, count, seed;
};

static int work(const struct plan *p, u64 worker, struct tally *t)
{
	char name[16];

	snprintf(name, sizeof(name), "w%llu", (unsigned long long)worker);
	if (mkdir(name, 0700) || chdir(name) || symlink("../key", "key") ||
	    rig_run("cp ../disk ../data.raw ."))
		return -EIO;
	for (u64 i = p->first + worker; i < p->first + p->count; i += WORKERS) {
		const struct sound *s = p->use[i % p->n];

		if (spoil(s, hash_u64(p->seed + i)) || try_image(s, t)) {
			printf("image %llu (%s) was not taken as it must\n", (unsigned long long)i,
			       s->name);
			return -1;
		}
	}
	return 0;
}

static int start(const struct plan *p, u64 worker, pid_t *pid, int *pipe_fd)
{
	struct tally t = {0};
	int fds[2], rc;

	fflush(NULL);
	if (pipe2(fds, O_CLOEXEC) || (*pid = fork()) < 0)
		return -EIO;
	if (!*pid) {
		rc = work(p, worker, &t);
		fflush(NULL);
		_exit(rc || write_full(fds[1], &t, sizeof(t)));
	}
	close(fds[1]);
	*pipe_fd = fds[0];
	return 0;
}

static int collect(struct tally *sum, pid_t pid, int fd)
{
	struct tally t;
	int status, rc = read(fd, &t, sizeof(t)) == sizeof(t) ? 0 : -1;

	close(fd);
	if (waitpid(pid, &status, 0) != pid || status)
		rc = -1;
	for (size_t i = 0; i < ARRAY_SIZE(verbs) && !rc; i++) {
		sum->passed[i] += t.passed[i];
		sum->refused[i] += t.refused[i];
	}
	if (!rc) {
		sum->worst.seconds = max(sum->worst.seconds, t.worst.seconds);
		sum->worst.mib = max(sum->worst.mib, t.worst.mib);
	}
	return rc;
}

static int report(const struct tally *t, u64 count)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("%5llu passed, %5llu refused: %s\n", (unsigned long long)t->passed[i],
		       (unsigned long long)t->refused[i], verbs[i]);
	printf("%llu images; a command took %.2f s of processor time and %llu MiB at most\n",
	       (unsigned long long)count, t->worst.seconds, (unsigned long long)t->worst.mib);
	for (size_t i = 0; i < ARRAY_SIZE(verbs) && count >= 100; i++)
		if (t->passed[i] * 20 < count || t->refused[i] * 20 < count)
			return printf("hardly any passed, or was refused: nothing is shown\n");
	return 0;
}

static int try_all(struct plan *p)
{
	struct tally sum = {0};
	pid_t pid[WORKERS];
	int fd[WORKERS], bad = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sounds); i++) {
		if (!wanted(&sounds[i]))
			continue;
		if (make(&sounds[i]) || try_sound(&sounds[i]))
			return -1;
		p->use[p->n++] = &sounds[i];
	}
	for (u64 i = 0; i < WORKERS; i++)
		if (start(p, i, &pid[i], &fd[i]))
			return -1;
	for (u64 i = 0; i < WORKERS; i++)
		bad |= collect(&sum, pid[i], fd[i]);
	return bad ? bad : report(&sum, p->count);
}

int main(int argc, char **argv)
{
	struct plan plan = {
		.count = getenv("SOAK") ? 10000
			 : SANITIZED	? 42
					: 500,
		.seed = getenv("BOTHY_SEED") ? strtoull(getenv("BOTHY_SEED"), NULL, 0) : 1,
	};
	char *folder;
	int bad;

	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Nothing here is about the disk of the machine that runs it. */
	if (!access("/dev/shm", W_OK))
		setenv("BOTHY_BUILD", "/dev/shm", 1);
	log_set_level(LOG_ERROR);
	folder = rig_folder();
	if (!folder || chdir(folder) ||
	    rig_run("head -c 300000 /dev/urandom >disk; yes compressible | head -c 400000 >>disk; "
		    "truncate -s 2M disk; printf secret >key"))
		return 1;
	if (argc > 1)
		plan.count = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		plan.first = strtoull(argv[2], NULL, 0);
	bad = try_all(&plan);
	for (size_t i = 0; i < ARRAY_SIZE(sounds); i++)
		free(sounds[i].data);
	if (bad)
		printf("left in %s\n", folder);
	else
		rig_folder_free(folder);
	return bad != 0;
}
