/*
 * usage: engine-test [--engine NAME] [CASE]...
 *        engine-test --list
 *        engine-test --all-of CASE...     (fail when there is a case that is not named)
 *
 * Runs the cases (all, when none is named) on the engine (all, when none is named), each in a
 * process of its own so that a crash or hang of one does not end the rest. A line a case; the exit
 * status is 0, 1 when one failed, 77 when all were skipped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

#define CASE_SECONDS 20
#define SKIPPED	     77

const struct engine_case engine_cases[] = {
#define CASE(name, guest, mode, flags) {#name, guest, mode, flags, case_##name},
#include "cases.def"
#undef CASE
	{0},
};

struct totals {
	unsigned int passed, failed, skipped;
};

/* In the child: 0, 1 or SKIPPED, with the reason on standard output. */
static int run_here(const struct engine_class *engine, const struct engine_case *c)
{
	struct rig r;
	bool ok = rig_open(&r, engine, c) && c->run(&r);

	rig_close(&r);
	if (!ok)
		printf("%s\n", r.text);
	fflush(stdout);
	return ok ? 0 : r.skipped ? SKIPPED : 1;
}

/* The status of the child, or -1 when it had to be killed. */
static int wait_for(pid_t pid)
{
	const struct timespec limit = {.tv_sec = CASE_SECONDS};
	sigset_t set;
	int status;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	while (!waitpid(pid, &status, WNOHANG)) {
		if (sigtimedwait(&set, NULL, &limit) < 0 && errno == EAGAIN) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -1;
		}
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run_apart(const struct engine_class *engine, const struct engine_case *c, char *text,
		     size_t cap)
{
	int pipefd[2], status;
	ssize_t n;
	pid_t pid;

	fflush(stdout);
	if (pipe(pipefd) || (pid = fork()) < 0) {
		snprintf(text, cap, "%s", strerror(errno));
		return 1;
	}
	if (!pid) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		dup2(pipefd[1], STDOUT_FILENO);
		_exit(run_here(engine, c));
	}
	close(pipefd[1]);
	status = wait_for(pid);
	n = read(pipefd[0], text, cap - 1);
	close(pipefd[0]);
	text[n > 0 ? n : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	if (status < 0)
		snprintf(text, cap, "hung: killed after %d s", CASE_SECONDS);
	else if (status > 128)
		snprintf(text, cap, "ended by signal %d", status - 128);
	return status;
}

static void run_case(const struct engine_class *engine, const struct engine_case *c,
		     struct totals *t)
{
	char text[1024];
	int status = run_apart(engine, c, text, sizeof(text));

	if (!status) {
		t->passed++;
		printf("PASS %s/%s\n", engine->name, c->name);
	} else if (status == SKIPPED) {
		t->skipped++;
		printf("SKIP: %s/%s: %s\n", engine->name, c->name, text);
	} else {
		t->failed++;
		printf("FAIL %s/%s: %s\n", engine->name, c->name, text);
	}
}

static bool chosen(const struct engine_case *c, char **names, int count)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(names[i], c->name))
			return true;
	return !count;
}

static int list(void)
{
	for (const struct engine_case *c = engine_cases; c->name; c++)
		puts(c->name);
	return 0;
}

/* The build names the cases once more: it must not forget one. */
static int all_of(char **names, int count)
{
	int missing = 0;

	for (const struct engine_case *c = engine_cases; c->name; c++)
		if (!count || !chosen(c, names, count)) {
			printf("tests/engine/meson.build does not run %s\n", c->name);
			missing = 1;
		}
	return missing;
}

static void run_cases(const struct engine_class *engine, char **names, int count,
		      struct totals *t)
{
	for (const struct engine_case *c = engine_cases; c->name; c++)
		if (chosen(c, names, count))
			run_case(engine, c, t);
}

static int run_all(const char *engine, char **names, int count)
{
	struct totals t = {0};

	if (!engine)
		for (const struct engine_class *const *e = engine_classes; *e; e++)
			run_cases(*e, names, count, &t);
	else if (engine_lookup(engine))
		run_cases(engine_lookup(engine), names, count, &t);
	else {
		printf("SKIP: this build has no engine called %s\n", engine);
		return SKIPPED;
	}
	if (!(t.passed + t.failed + t.skipped)) {
		fprintf(stderr, "engine-test: there is no such case\n");
		return 2;
	}
	printf("%u passed, %u failed, %u skipped\n", t.passed, t.failed, t.skipped);
	return t.failed ? 1 : t.passed ? 0 : SKIPPED;
}

int main(int argc, char **argv)
{
	const char *engine = NULL;
	sigset_t set;
	int i = 1;

	for (; i < argc && !strncmp(argv[i], "--", 2); i++) {
		if (!strcmp(argv[i], "--list"))
			return list();
		if (!strcmp(argv[i], "--all-of"))
			return all_of(argv + i + 1, argc - i - 1);
		if (strcmp(argv[i], "--engine") || i + 1 == argc) {
			fprintf(stderr, "usage: engine-test [--engine NAME] [CASE]...\n");
			return 2;
		}
		engine = argv[++i];
	}
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return run_all(engine, argv + i, argc - i);
}
