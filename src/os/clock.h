/* Clocks, in nanoseconds. Any thread. */
#ifndef OS_CLOCK_H
#define OS_CLOCK_H

#include "base/types.h"

#define NSEC_PER_SEC  1000000000ULL
#define NSEC_PER_MSEC 1000000ULL
#define NSEC_PER_USEC 1000ULL

u64 clock_now_ns(void);	     /* CLOCK_MONOTONIC: what timers and devices count by */
u64 clock_realtime_ns(void); /* since 1970, UTC */
u64 clock_thread_cpu_ns(void);

#endif
