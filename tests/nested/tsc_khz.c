/*
 * Print the frequency of this machine's time stamp counter in kHz: what QEMU's emulated one counts
 * with, too. A guest that measures it by itself, by emulated timers on a busy machine, may find
 * something quite different, or nothing.
 */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#include "base/types.h"

#define TRIES	  1000
#define CLOSE_NS  1000 /* both clocks were read at once */
#define PERIOD_NS 100000000ull

struct moment {
	u64 ns, ticks;
};

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

/* The two clocks as close to each other as can be had. */
static struct moment look(void)
{
	struct moment best = {0};
	u64 best_gap = ~0ull;

	for (int i = 0; i < TRIES && best_gap > CLOSE_NS; i++) {
		u64 before = now_ns(), ticks = __rdtsc(), gap = now_ns() - before;

		if (gap >= best_gap)
			continue;
		best_gap = gap;
		best = (struct moment){before + gap / 2, ticks};
	}
	return best;
}

int main(void)
{
	struct moment begin = look(), end;

	nanosleep(&(struct timespec){.tv_nsec = PERIOD_NS}, NULL);
	end = look();
	printf("%llu\n",
	       (unsigned long long)((end.ticks - begin.ticks) * 1000000 / (end.ns - begin.ns)));
	return 0;
}
