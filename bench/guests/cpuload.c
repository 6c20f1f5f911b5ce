/*
 * The user land of the CPU benchmark, and of its native leg: run every load for a while, say what
 * came out.
 *
 * usage: cpuload MILLISECONDS SHELL-SCRIPT [NAME]...     (no name: all of them)
 *
 * A load prints "BEGIN name" and "END name units wall-ns cpu-ns sum" on standard output, so that
 * the host can read its own clocks at both. wall-ns is by the machine's monotonic clock; cpu-ns is
 * the CPU time of this process and of its ended children; sum is of the first round.
 */
#define _GNU_SOURCE /* pipe2 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cpuload.h"

static const struct load loads[] = {
	{"coremark", load_coremark}, {"sha256", load_sha256},
	{"qsort", load_qsort},	     {"nbody", load_nbody},
	{"linpack", load_linpack},   {"triad", load_triad},
	{"copy", load_copy},	     {"copy-short", load_copy_short},
	{"syscall", load_syscall},   {"fork-exec", load_fork},
	{"pipe", load_pipe},	     {"fault", load_fault},
	{"crc32", load_crc32},	     {"divide", load_divide},
	{"x87", load_x87},
};

/* Algorithms of openssl speed; a unit is a byte. */
static const struct openssl {
	const char *name, *algorithm;
} openssls[] = {
	{"openssl-sha256", "sha256"},
	{"openssl-sha512", "sha512"},
	{"openssl-md5", "md5"},
	{"openssl-aes-128-gcm", "aes-128-gcm"},
	{"openssl-chacha20", "chacha20-poly1305"},
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t micros(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * 1000000 + (uint64_t)tv->tv_usec;
}

static uint64_t cpu(void)
{
	struct rusage self, children;

	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);
	return 1000 * (micros(&self.ru_utime) + micros(&self.ru_stime) +
		       micros(&children.ru_utime) + micros(&children.ru_stime));
}

static void say_end(const char *name, uint64_t units, uint64_t wall, uint64_t cpu_ns, uint64_t sum)
{
	printf("END %s %llu %llu %llu %016llx\n", name, (unsigned long long)units,
	       (unsigned long long)wall, (unsigned long long)cpu_ns, (unsigned long long)sum);
}

static void run_load(const struct load *load, uint64_t limit)
{
	uint64_t begin, begin_cpu, units = 0, sum = 0, first = 0;

	printf("BEGIN %s\n", load->name);
	begin = now();
	begin_cpu = cpu();
	do {
		uint64_t done = load->round(&sum);

		if (!done) {
			units = 0;
			break;
		}
		if (!units)
			first = sum;
		units += done;
	} while (now() - begin < limit);
	say_end(load->name, units, now() - begin, cpu() - begin_cpu, first);
}

/* Run a command to its end; *size bytes of what it prints are kept. */
static int run_command(char *const *argv, char *out, size_t size)
{
	int fds[2], status = -1;
	size_t used = 0;
	ssize_t n;
	pid_t pid;
	char drop[512];

	if (pipe2(fds, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		dup2(fds[1], 1);
		dup2(open("/dev/null", O_WRONLY), 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(fds[1]);
	while (pid > 0) {
		n = used + 1 < size ? read(fds[0], out + used, size - 1 - used)
				    : read(fds[0], drop, sizeof(drop));
		if (n <= 0)
			break;
		if (used + 1 < size)
			used += (size_t)n;
	}
	out[used] = 0;
	close(fds[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

/* openssl counts by itself; its machine-readable line is "+F:number:name:bytes a second". */
static void run_openssl(const struct openssl *o, uint64_t limit)
{
	char seconds[16], out[512], *line, *rate;
	uint64_t begin, begin_cpu, wall;
	char *argv[] = {"openssl", "speed", "-mr",  "-elapsed",		  "-seconds", seconds,
			"-bytes",  "16384", "-evp", (char *)o->algorithm, NULL};

	snprintf(seconds, sizeof(seconds), "%llu",
		 (unsigned long long)(limit + 999999999) / 1000000000);
	printf("BEGIN %s\n", o->name);
	begin = now();
	begin_cpu = cpu();
	if (run_command(argv, out, sizeof(out)) || !(line = strstr(out, "+F:")) ||
	    !(rate = strrchr(line, ':'))) {
		say_end(o->name, 0, 0, 0, 0);
		return;
	}
	wall = now() - begin;
	/* Work by its own clock, of which starting the program is no part. */
	say_end(o->name, (uint64_t)(strtod(rate + 1, NULL) * atof(seconds)), wall,
		cpu() - begin_cpu, 0);
}

/* Passes of the script; it prints the same each time. */
static void run_shell(const char *script, uint64_t limit)
{
	char first[512], out[512];
	char *argv[] = {"bash", (char *)script, NULL};
	uint64_t begin, begin_cpu, units = 0, sum = 14695981039346656037ull;

	printf("BEGIN shell\n");
	begin = now();
	begin_cpu = cpu();
	do {
		if (run_command(argv, units ? out : first, sizeof(out)) ||
		    (units && strcmp(first, out))) {
			printf("shell: %s", units ? out : first);
			units = 0;
			break;
		}
		units++;
	} while (now() - begin < limit);
	for (const char *p = first; *p; p++)
		sum = (sum ^ (unsigned char)*p) * 1099511628211ull;
	say_end("shell", units, now() - begin, cpu() - begin_cpu, sum);
}

static int wanted(const char *name, char **names)
{
	if (!*names)
		return 1;
	for (; *names; names++)
		if (!strcmp(*names, name))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t limit;

	if (argc == 2 && !strcmp(argv[1], "nothing")) /* what load_fork runs */
		return 0;
	if (argc < 3) {
		fprintf(stderr, "usage: cpuload MILLISECONDS SHELL-SCRIPT [NAME]...\n");
		return 2;
	}
	limit = strtoull(argv[1], NULL, 10) * 1000000;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		if (wanted(loads[i].name, argv + 3))
			run_load(&loads[i], limit);
	for (size_t i = 0; i < sizeof(openssls) / sizeof(openssls[0]); i++)
		if (wanted(openssls[i].name, argv + 3))
			run_openssl(&openssls[i], limit);
	if (wanted("shell", argv + 3))
		run_shell(argv[2], limit);
	printf("FINISHED\n");
	return 0;
}
