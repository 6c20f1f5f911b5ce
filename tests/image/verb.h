/* What tests that run a verb of `bothy img` in a process of its own need there. */
#ifndef TESTS_IMAGE_VERB_H
#define TESTS_IMAGE_VERB_H

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The words of `line`, which is cut up, behind "img" as argv[0], and NULL behind them; how many.
 * Two spaces have an empty word between them. */
static inline int verb_split(char *line, char **argv, int most)
{
	int n = 0;

	argv[n++] = (char *)"img";
	for (char *word; n < most - 1 && (word = strsep(&line, " "));)
		argv[n++] = word;
	argv[n] = NULL;
	return n;
}

/* Make `path` the file behind descriptor `to`. */
static inline void verb_redirect(int to, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	dup2(fd, to);
	close(fd);
}

#endif
