/*
 * The guest: long mode with 2 MiB identity pages, at CPL 0,
 *
 *   mov ecx, N; 1: dec ecx; jnz 1b; hlt
 *
 * with a short count, to take off what entry and exit cost, and with a long one. Time is the
 * thread's CPU time, which a guest's instructions are part of: a host with other work stops the
 * thread for longer than the whole probe takes. A host that is a guest itself may not see that it
 * was stopped, so a slow try is followed by others and the quickest counts. A timer of the same
 * clock bounds each.
 */
#define _GNU_SOURCE
#include "engine/probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/endian.h"
#include "engine/vm.h"
#include "os/clock.h"
#include "os/thread.h"

#define GUEST_SIZE (64 * KiB)
#define PML4	   0x1000
#define PDPT	   0x2000
#define PD	   0x3000
#define CODE	   0x8000
#define LOOPS	   1000
#define TRIES	   6
#define TRY_NS	   (5 * NSEC_PER_MSEC / 2)
#define ASLEEP_NS  (1 * NSEC_PER_SEC) /* a guest that only loops never sleeps */

struct probe_guest {
	struct engine_vm vm;
	int vcpu;
	u8 *ram;
	struct kvm_run *run;
	size_t run_size;
	timer_t limit, asleep;
	bool has_limit, has_asleep;
};

static void write_guest(u8 *ram)
{
	static const u8 code[] = {0xff, 0xc9, 0x75, 0xfc, 0xf4}; /* dec ecx; jnz .-2; hlt */

	store_le64(ram + PML4, PDPT | 3);
	store_le64(ram + PDPT, PD | 3);
	store_le64(ram + PD, 0x83);
	memcpy(ram + CODE, code, sizeof(code));
}

static int set_state(struct probe_guest *g, u64 count)
{
	const struct engine_class *e = g->vm.engine;
	struct kvm_regs regs = {.rip = CODE, .rcx = count, .rflags = 2};
	struct kvm_sregs s;
	int rc = e->ioctl(g->vcpu, KVM_GET_SREGS, (unsigned long)&s);

	if (rc)
		return rc;
	s.cr0 = 0x80050033;
	s.cr3 = PML4;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.cs = (struct kvm_segment){
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	s.ds = (struct kvm_segment){
		.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	s.es = s.fs = s.gs = s.ss = s.ds;
	rc = e->ioctl(g->vcpu, KVM_SET_SREGS, (unsigned long)&s);
	return rc ? rc : e->ioctl(g->vcpu, KVM_SET_REGS, (unsigned long)&regs);
}

static int make_guest(struct probe_guest *g, const struct engine_class *e, struct err *err)
{
	struct kvm_userspace_memory_region slot = {.memory_size = GUEST_SIZE};
	int rc = engine_vm_open(&g->vm, e, err), size;

	if (rc)
		return rc;
	g->ram = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->ram == MAP_FAILED) {
		g->ram = NULL;
		return err_set(err, ENOMEM, "out of memory");
	}
	slot.userspace_addr = (u64)(uintptr_t)g->ram;
	rc = engine_vm_ioctl(&g->vm, KVM_SET_USER_MEMORY_REGION, &slot);
	if (rc < 0)
		return err_set(err, -rc, "memory slot: %s", strerror(-rc));
	g->vcpu = e->ioctl(g->vm.fd, KVM_CREATE_VCPU, 0);
	if (g->vcpu < 0)
		return err_set(err, -g->vcpu, "vCPU: %s", strerror(-g->vcpu));
	size = e->ioctl(g->vm.sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	g->run_size = size > 0 ? (size_t)size : PAGE_SIZE;
	g->run = e->mmap(g->vcpu, g->run_size);
	return g->run ? 0 : err_set(err, errno, "kvm_run: %s", strerror(errno));
}

/* The kick signal interrupts KVM_RUN and does nothing else. */
static bool add_timer(timer_t *timer, clockid_t clock)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = THREAD_KICK_SIGNAL};

	return !timer_create(clock, &ev, timer);
}

/* First after ns, then each ms, as a kick before KVM_RUN is lost; 0: no more. */
static void set_timer(timer_t timer, u64 ns)
{
	struct itimerspec at = {
		.it_value = {(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC)},
		.it_interval.tv_nsec = NSEC_PER_MSEC};

	timer_settime(timer, 0, &at, NULL);
}

/* ns of CPU of a run of `count` loops, or -errno; -EINTR when the limit came first. */
static s64 time_loop(struct probe_guest *g, u64 count)
{
	int rc = set_state(g, count);
	u64 start;

	if (rc)
		return rc;
	start = clock_thread_cpu_ns();
	if (g->has_limit)
		set_timer(g->limit, TRY_NS);
	rc = g->vm.engine->ioctl(g->vcpu, KVM_RUN, 0);
	if (g->has_limit)
		set_timer(g->limit, 0);
	if (rc)
		return rc;
	if (g->run->exit_reason != KVM_EXIT_HLT)
		return -EIO;
	return (s64)(clock_thread_cpu_ns() - start);
}

/* Keeps the quickest. True when one more try would tell nothing new: this one was fast, or as slow
 * as one before, which lost time is not. */
static bool judge_try(struct engine_probe *probe, s64 empty, s64 full)
{
	u64 per_1000 = full > empty ? (u64)(full - empty) * 1000 / (2 * LOOPS) : 0;
	u64 least = probe->ns_per_1000;
	u64 apart = per_1000 > least ? per_1000 - least : least - per_1000;
	bool same = probe->works && apart < least / 8;

	if (!probe->works || per_1000 < least) {
		probe->works = true;
		probe->run_ns = (u64)full;
		probe->ns_per_1000 = (u32)per_1000;
	}
	return same || per_1000 < ENGINE_PROBE_SLOW_NS_PER_1000;
}

/* The quicker of what was known and one more run without a loop. */
static s64 time_exit(struct probe_guest *g, s64 known)
{
	s64 t = time_loop(g, 1);

	return t < 0 || known < 0 || t < known ? t : known;
}

/* 0 when the guest ran to its end or was too slow for it. */
static int time_guest(struct probe_guest *g, struct engine_probe *probe)
{
	s64 empty = time_loop(g, 1), full; /* faults in what it touches */
	u32 try;

	*probe = (struct engine_probe){
		.instructions = 2 * LOOPS, .run_ns = TRY_NS, .ns_per_1000 = ~0u};
	if (empty < 0 && empty != -EINTR)
		return (int)empty;
	for (try = 0; try < TRIES; try++) {
		empty = time_exit(g, empty);
		full = empty < 0 ? empty : time_loop(g, LOOPS);
		if (full < 0 && full != -EINTR)
			return (int)full;
		if (full >= 0 && judge_try(probe, empty, full))
			break;
	}
	return 0;
}

static void free_guest(struct probe_guest *g)
{
	if (g->has_limit)
		timer_delete(g->limit);
	if (g->has_asleep)
		timer_delete(g->asleep);
	if (g->run)
		munmap(g->run, g->run_size);
	if (g->vcpu >= 0)
		g->vm.engine->close(g->vcpu);
	engine_vm_close(&g->vm);
	if (g->ram)
		munmap(g->ram, GUEST_SIZE);
}

int engine_probe(const struct engine_class *engine, struct engine_probe *probe, struct err *err)
{
	struct probe_guest g = {.vcpu = -1, .vm = {.fd = -1, .sys_fd = -1}};
	u64 start = clock_now_ns();
	int rc;

	*probe = (struct engine_probe){0};
	rc = make_guest(&g, engine, err);
	if (rc)
		goto out;
	write_guest(g.ram);
	g.has_limit = add_timer(&g.limit, CLOCK_THREAD_CPUTIME_ID);
	g.has_asleep = add_timer(&g.asleep, CLOCK_MONOTONIC);
	if (g.has_asleep)
		set_timer(g.asleep, ASLEEP_NS);
	rc = time_guest(&g, probe);
	if (rc)
		rc = err_set(err, -rc, "a 64-bit guest does not run: %s", strerror(-rc));
out:
	free_guest(&g);
	probe->total_ns = clock_now_ns() - start;
	return rc;
}

enum engine_verdict engine_judge(int rc, const struct engine_probe *probe)
{
	switch (rc) {
	case 0:
		break;
	case -ENOENT:
		return ENGINE_MISSING;
	case -EACCES:
	case -EPERM:
		return ENGINE_FORBIDDEN;
	default:
		return ENGINE_UNUSABLE;
	}
	return probe->works && probe->ns_per_1000 < ENGINE_PROBE_SLOW_NS_PER_1000 ? ENGINE_FAST
										  : ENGINE_SLOW;
}
