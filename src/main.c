/* Wiring: find the sub-command and run it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "os/thread.h"

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "bothy: a command is missing; 'bothy help' lists them\n");
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
		printf("bothy %s\n", BOTHY_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		argv[1] = (char[]){"help"};
	thread_init();
	/* A reader that goes away is an error of write(2), not the end. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of the write */
	for (size_t i = 0; commands[i]; i++)
		if (!strcmp(commands[i]->name, argv[1]))
			return commands[i]->run(argc - 1, argv + 1);
	fprintf(stderr, "bothy: no command '%s'; 'bothy help' lists them\n", argv[1]);
	return EXIT_USAGE;
}
