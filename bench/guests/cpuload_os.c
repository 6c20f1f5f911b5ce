/* Loads that are the C library's and the kernel's: copying, system calls, processes, page faults.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cpuload.h"

uint64_t load_copy(uint64_t *sum)
{
	enum { SIZE = 1 << 20, TIMES = 16 };
	static char from[SIZE], to[SIZE];

	for (int i = 0; i < TIMES; i++) {
		from[i] = (char)(i + 1);
		memcpy(to, from, SIZE);
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	*sum = *sum * 31 + (unsigned char)to[TIMES - 1];
	return (uint64_t)SIZE * TIMES;
}

uint64_t load_copy_short(uint64_t *sum)
{
	enum { SIZE = 100, TIMES = 20000 };
	static char from[SIZE + 64], to[SIZE + 64];

	for (int i = 0; i < TIMES; i++) {
		size_t size = SIZE;

		from[i % 64] = (char)i;
		__asm__ volatile("" : "+r"(size)); /* a call, not a row of moves */
		memcpy(to + i % 7, from + i % 64, size);
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	*sum = *sum * 31 + (unsigned char)to[7];
	return (uint64_t)SIZE * TIMES;
}

uint64_t load_syscall(uint64_t *sum)
{
	enum { CALLS = 10000 };
	pid_t parent = getppid();

	for (int i = 0; i < CALLS; i++)
		if (syscall(SYS_getppid) != parent)
			return 0;
	*sum = *sum * 31 + CALLS;
	return CALLS;
}

uint64_t load_fork(uint64_t *sum)
{
	char *argv[] = {"cpuload", "nothing", NULL};
	int status;

	for (int i = 0; i < 10; i++) {
		pid_t pid = fork();

		if (!pid) {
			execv("/proc/self/exe", argv);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			return 0;
	}
	*sum = *sum * 31 + 10;
	return 10;
}

uint64_t load_pipe(uint64_t *sum)
{
	enum { ROUNDS = 2000 };
	int there[2], back[2], status;
	unsigned char byte;
	uint64_t done = 0;
	pid_t pid;

	if (pipe(there) || pipe(back))
		return 0;
	pid = fork();
	if (!pid) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1) {
			byte++;
			if (write(back[1], &byte, 1) != 1)
				break;
		}
		_exit(0);
	}
	close(there[0]);
	close(back[1]);
	byte = 0;
	while (pid > 0 && done < ROUNDS && write(there[1], &byte, 1) == 1 &&
	       read(back[0], &byte, 1) == 1)
		done++;
	close(there[1]);
	close(back[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return 0;
	*sum = *sum * 31 + byte;
	return done;
}

uint64_t load_fault(uint64_t *sum)
{
	enum { PAGES = 2048, PAGE = 4096 };
	char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);

	if (at == MAP_FAILED)
		return 0;
	madvise(at, PAGES * PAGE, MADV_NOHUGEPAGE);
	for (int i = 0; i < PAGES; i++)
		at[(size_t)i * PAGE] += 1;
	*sum = *sum * 31 + (unsigned char)at[PAGE];
	munmap(at, PAGES * PAGE);
	return PAGES;
}
