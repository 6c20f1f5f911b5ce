/*
 * The wait of a halted vCPU: a spin where that pays, then sleep.
 *
 * How long to spin is found as KVM finds it (Documentation/virt/kvm/halt-polling.rst): a wait that
 * a spin of up to the VM's maximum would have caught lets the vCPU's time grow, a longer one sets
 * it back to nothing. KVM ends a spin when another task wants the CPU. That cannot be seen from
 * here, but its mark can: a thread whose CPU was taken away does not spin for a while, so on a
 * machine with too much to do vCPUs sleep at once.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/lapic.h"
#include "os/clock.h"

#define POLL_START_NS	10000
#define POLL_GROW	2
#define PREEMPTED_NS	5000000 /* since its CPU was last taken away: no spin until then */
#define KICKS_PER_CLOCK 16	/* looks at the wake counter for one at the clock */

static bool kicked_since(const struct kvm_vcpu *vcpu, u32 seen)
{
	return __atomic_load_n(&vcpu->arch->wake, __ATOMIC_ACQUIRE) != seen;
}

static bool preempted_lately(struct kvm_vcpu_arch *arch, u64 now)
{
	struct rusage usage;

	if (!getrusage(RUSAGE_THREAD, &usage) && usage.ru_nivcsw != arch->preemptions) {
		arch->preemptions = usage.ru_nivcsw;
		arch->preempted_ns = now;
	}
	return now - arch->preempted_ns < PREEMPTED_NS;
}

/* The guest may ask for none (MSR_KVM_POLL_CONTROL): it spins itself before HLT. */
static u32 poll_limit(const struct kvm_vcpu *vcpu)
{
	return vcpu->arch->poll_control & 1 ? vcpu->kvm->arch->max_halt_poll_ns : 0;
}

/* Spin from `start` until a kick, true, or for the vCPU's time. *end: when it was over. */
static bool poll_for_kick(struct kvm_vcpu *vcpu, u32 seen, u64 start, u64 *end)
{
	u64 limit = start + vcpu->arch->halt_poll_ns;

	do {
		for (int i = 0; i < KICKS_PER_CLOCK; i++) {
			if (kicked_since(vcpu, seen)) {
				*end = clock_now_ns();
				return true;
			}
			__builtin_ia32_pause();
		}
		*end = clock_now_ns();
	} while (*end < limit);
	return false;
}

/* The kernel may end a wait with a time late by the thread's slack, 50 us; not here. */
static void set_no_slack(void)
{
	static _Thread_local bool done;

	if (!done)
		prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	done = true;
}

/* Its own timer wakes the vCPU at first hand; the helper thread, which would kick it, comes second.
 */
static void sleep_until_kick(struct kvm_vcpu *vcpu, u32 seen)
{
	u64 deadline = kvm_lapic_timer_deadline(vcpu);
	struct timespec until = {.tv_sec = (time_t)(deadline / NSEC_PER_SEC),
				 .tv_nsec = (long)(deadline % NSEC_PER_SEC)};
	struct kvm_vcpu_arch *arch = vcpu->arch;

	set_no_slack();
	__atomic_store_n(&arch->sleeping, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &arch->wake, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen,
		deadline ? &until : NULL, NULL, FUTEX_BITSET_MATCH_ANY);
	__atomic_store_n(&arch->sleeping, 0, __ATOMIC_SEQ_CST);
	if (deadline && !kicked_since(vcpu, seen))
		kvm_lapic_timer_due(vcpu);
}

/* After a wait of halt_ns, its spin included. */
static void adapt_poll(struct kvm_vcpu_arch *arch, u64 halt_ns, u32 max)
{
	u32 ns = arch->halt_poll_ns;

	if (ns && halt_ns > max)
		arch->halt_poll_ns = 0;
	else if (halt_ns > ns && halt_ns < max)
		arch->halt_poll_ns = min(ns ? ns * POLL_GROW : (u32)POLL_START_NS, max);
}

void kvm_vcpu_halt(struct kvm_vcpu *vcpu, u32 seen)
{
	struct kvm_vcpu_arch *arch = vcpu->arch;
	struct vcpu_stat *stat = vcpu->stat;
	u64 start = clock_now_ns(), polled = start, end;
	u32 max = poll_limit(vcpu);
	bool kicked = false;

	if (arch->halt_poll_ns && (!max || preempted_lately(arch, start)))
		arch->halt_poll_ns = 0;
	if (arch->halt_poll_ns) {
		stat->halt_attempted_poll++;
		kicked = poll_for_kick(vcpu, seen, start, &polled);
		*(kicked ? &stat->halt_poll_success_ns : &stat->halt_poll_fail_ns) +=
			polled - start;
		stat->halt_successful_poll += kicked;
	}
	end = polled;
	if (!kicked) {
		sleep_until_kick(vcpu, seen);
		end = clock_now_ns();
		stat->halt_wait_ns += end - polled;
	}
	adapt_poll(arch, end - start, max);
}
