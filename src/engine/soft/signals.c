/*
 * Signals and KVM_RUN. In the kernel a pending signal ends KVM_RUN with EINTR; here KVM_RUN is
 * ordinary code, and a handler simply runs in its middle. So every handler that the program has
 * installed is replaced by one of ours that tells the vCPU of the thread, if it is in KVM_RUN, and
 * then calls the program's. That is done when a thread first runs a vCPU and when a signal mask is
 * set; a handler installed later is found at the next of these.
 *
 * With KVM_SET_SIGNAL_MASK a signal that is blocked outside KVM_RUN and not inside ends the call
 * and stays pending, as the kernel has it: the handler blocks it again and sends it once more.
 * Signals without a handler stay blocked; they are noticed when they are pending at the start.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/arch_int.h"

#define KERNEL_SIGSET_SIZE 8

/* The program's handlers, which ours stand before. The table is the process's, as handlers are. */
static struct sigaction programs[_NSIG];
static pthread_mutex_t programs_lock = PTHREAD_MUTEX_INITIALIZER;

struct running {
	struct kvm_vcpu *vcpu;
	const sigset_t *outside; /* blocked outside KVM_RUN; NULL without a mask */
	bool hooked;
};
static _Thread_local struct running running;

static bool is_fault(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGILL || sig == SIGFPE ||
	       sig == SIGTRAP || sig == SIGABRT || sig == SIGSYS || sig == SIGKILL ||
	       sig == SIGSTOP;
}

static void call_program(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *sa = &programs[sig];

	if (sa->sa_flags & SA_SIGINFO)
		sa->sa_sigaction(sig, info, context);
	else if (sa->sa_handler)
		sa->sa_handler(sig);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	struct kvm_vcpu *vcpu = running.vcpu;
	int saved_errno = errno;

	if (vcpu) {
		kvm_make_request(vcpu, KVM_REQ_EXIT);
		kvm_vcpu_kick(vcpu);
		if (running.outside && sigismember(running.outside, sig) == 1) {
			sigaddset(&((ucontext_t *)context)->uc_sigmask, sig);
			syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), sig,
				info);
			errno = saved_errno;
			return;
		}
	}
	call_program(sig, info, context);
	errno = saved_errno;
}

static void hook_signal(int sig)
{
	struct sigaction sa;

	if (is_fault(sig) || sigaction(sig, NULL, &sa))
		return;
	if (!(sa.sa_flags & SA_SIGINFO) && (sa.sa_handler == SIG_DFL || sa.sa_handler == SIG_IGN))
		return;
	if ((sa.sa_flags & SA_SIGINFO) && sa.sa_sigaction == on_signal)
		return;
	programs[sig] = sa;
	sa.sa_sigaction = on_signal;
	sa.sa_flags |= SA_SIGINFO;
	sigaction(sig, &sa, NULL);
}

static void hook_signals(void)
{
	pthread_mutex_lock(&programs_lock);
	for (int sig = 1; sig < _NSIG; sig++)
		if (sig != 32 && sig != 33) /* libc's own */
			hook_signal(sig);
	pthread_mutex_unlock(&programs_lock);
	running.hooked = true;
}

int set_signal_mask(struct kvm_vcpu *vcpu, const struct kvm_signal_mask *mask)
{
	vcpu->sigmask_set = false;
	hook_signals();
	if (!mask)
		return 0;
	if (mask->len != KERNEL_SIGSET_SIZE)
		return -EINVAL;
	sigemptyset(&vcpu->sigmask);
	memcpy(&vcpu->sigmask, mask->sigset, KERNEL_SIGSET_SIZE);
	vcpu->sigmask_set = true;
	return 0;
}

static bool has_handler(int sig)
{
	return programs[sig].sa_handler != NULL;
}

/*
 * The mask to run with: the vCPU's, but signals that have no handler stay as they are outside,
 * since to let them in would end the process. -EINTR when such a one is pending.
 */
static int effective_mask(struct kvm_vcpu *vcpu, const sigset_t *outside, sigset_t *inside)
{
	sigset_t pending;
	int rc = 0;

	*inside = vcpu->sigmask;
	sigpending(&pending);
	for (int sig = 1; sig < _NSIG; sig++) {
		if (sigismember(inside, sig) || !sigismember(outside, sig) || has_handler(sig))
			continue;
		sigaddset(inside, sig);
		if (sigismember(&pending, sig))
			rc = -EINTR;
	}
	return rc;
}

int signals_begin(struct kvm_vcpu *vcpu, sigset_t *saved)
{
	sigset_t inside;
	int rc;

	if (unlikely(!running.hooked))
		hook_signals();
	if (likely(!vcpu->sigmask_set)) {
		running.vcpu = vcpu;
		return 0;
	}
	pthread_sigmask(SIG_SETMASK, NULL, saved);
	rc = effective_mask(vcpu, saved, &inside);
	running.outside = saved;
	running.vcpu = vcpu;
	pthread_sigmask(SIG_SETMASK, &inside, NULL);
	return rc;
}

void signals_end(struct kvm_vcpu *vcpu, const sigset_t *saved)
{
	/* A signal from here on is the next KVM_RUN's no more than the kernel's. */
	if (unlikely(vcpu->sigmask_set))
		pthread_sigmask(SIG_SETMASK, saved, NULL);
	running.vcpu = NULL;
	running.outside = NULL;
}
