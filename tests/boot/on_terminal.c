/*
 * Runs a program on a pseudo-terminal and does what its guest asks for, in lines of its output:
 *
 *	GUEST asks rss            answers with the program's resident memory in KiB
 *	GUEST asks COMMAND ...    types it at the monitor (Ctrl-A C), answers "done"
 *
 * usage: on-terminal PROGRAM ARGUMENT...     (exits as the program does)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ASKS "GUEST asks "

static int terminal;
static pid_t child;

static void type(const char *text)
{
	size_t len = strlen(text);

	if (write(terminal, text, len) != (ssize_t)len)
		perror("on-terminal");
}

static unsigned long resident_kib(void)
{
	unsigned long kib = 0;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", child);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

static void obey(const char *command)
{
	char answer[32] = "done\r";

	if (!strcmp(command, "rss")) {
		snprintf(answer, sizeof(answer), "%lu\r", resident_kib());
	} else {
		type("\x01"
		     "c");
		type(command);
		type("\r\x01"
		     "c");
	}
	type(answer);
}

static void take_line(char *line)
{
	line[strcspn(line, "\r\n")] = 0;
	if (!strncmp(line, ASKS, strlen(ASKS)))
		obey(line + strlen(ASKS));
}

/* Bytes as they come; lines where they end. */
static void follow(void)
{
	char line[4096], buf[4096];
	size_t len = 0;
	ssize_t n;

	while ((n = read(terminal, buf, sizeof(buf))) > 0) {
		if (write(STDOUT_FILENO, buf, (size_t)n) != n)
			return;
		for (ssize_t i = 0; i < n; i++) {
			if (len < sizeof(line) - 1)
				line[len++] = buf[i];
			if (buf[i] != '\n')
				continue;
			line[len] = 0;
			len = 0;
			take_line(line);
		}
	}
}

static int open_other_end(void)
{
	char name[64];

	terminal = posix_openpt(O_RDWR | O_NOCTTY);
	if (terminal < 0 || grantpt(terminal) || unlockpt(terminal) ||
	    ptsname_r(terminal, name, sizeof(name)))
		return -1;
	return open(name, O_RDWR | O_NOCTTY);
}

int main(int argc, char **argv)
{
	int other = open_other_end(), status = 1;

	if (argc < 2 || other < 0)
		return 2;
	child = fork();
	if (child < 0)
		return 2;
	if (!child) {
		setsid();
		ioctl(other, TIOCSCTTY, 0);
		for (int fd = 0; fd < 3; fd++)
			dup2(other, fd);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	close(other);
	follow();
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
