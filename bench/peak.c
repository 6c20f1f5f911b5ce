/* Peak resident memory of a command in KiB. A small process of its own, because a child starts with
 * its parent's peak. usage: peak COMMAND... */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage usage;
	pid_t pid = fork();
	int null;

	if (!pid) {
		null = open("/dev/null", O_RDWR);
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	wait4(pid, NULL, 0, &usage);
	printf("%ld\n", usage.ru_maxrss);
	return 0;
}
