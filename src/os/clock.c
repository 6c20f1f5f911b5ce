#include "os/clock.h"

#include <time.h>

static u64 read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

u64 clock_now_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

u64 clock_realtime_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

u64 clock_thread_cpu_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
