/*
 * How fast does an engine run ordinary 64-bit kernel code? Some hosts offer a /dev/kvm that
 * interprets guests, at about 2 million instructions a second. No CPU flag tells; running does.
 */
#ifndef ENGINE_PROBE_H
#define ENGINE_PROBE_H

#include "base/err.h"
#include "engine/engine.h"

struct engine_probe {
	bool works;	  /* the guest ran to its end */
	u64 instructions; /* that it executed */
	u64 run_ns;	  /* CPU time of the KVM_RUN that executed them */
	u64 total_ns;	  /* of the whole probe */
	u32 ns_per_1000;  /* CPU ns for 1,000 instructions, the exit taken off */
};

/* Slower than this is an interpreter: hardware needs less than 1 us. */
#define ENGINE_PROBE_SLOW_NS_PER_1000 50000

/* Run a counted loop of a few thousand instructions in a 64-bit guest at CPL 0: once where it is
 * fast, twice on a steady interpreter (4 ms in all), and up to six times, each ended after 2.5 ms
 * of CPU time (as exactly as the host's timer ticks), where it does not come to its end or time is
 * lost in between. That makes 20 ms of CPU at most, and a tick more for each try that had to be
 * ended. -errno with the reason where no VM can be made. Main thread, before other threads exist.
 */
int engine_probe(const struct engine_class *engine, struct engine_probe *probe, struct err *err);

enum engine_verdict {
	ENGINE_FAST,
	ENGINE_SLOW,	  /* it interprets */
	ENGINE_MISSING,	  /* there is no device */
	ENGINE_FORBIDDEN, /* there is one, for others */
	ENGINE_UNUSABLE,  /* it makes no VM */
};

/* What the result of engine_probe() says: what it returned, and with 0 what it measured. */
enum engine_verdict engine_judge(int rc, const struct engine_probe *probe);

#endif
