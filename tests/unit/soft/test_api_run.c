/* How KVM_RUN ends: immediate_exit, signals, windows, synchronous registers, debugging. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "api_rig.h"
#include "os/thread.h"

static const u8 forever[] = {0xeb, 0xfe}; /* 1: jmp 1b */

static void test_immediate_exit(void **state)
{
	struct api_rig *rig = *state;

	rig_load(rig, forever, sizeof(forever));
	rig->run->immediate_exit = 1;
	assert_int_equal(VCPU(KVM_RUN, 0), -EINTR);
	rig->run->immediate_exit = 0;
}

/* With immediate_exit the data of the last exit still reaches the guest. */
static void test_completion(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_regs regs;

	RIG_LOAD(rig, 0xe4, 0x10, 0xf4); /* in al, 0x10; hlt */
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.direction, KVM_EXIT_IO_IN);
	*((u8 *)rig->run + rig->run->io.data_offset) = 0x42;
	rig->run->immediate_exit = 1;
	assert_int_equal(VCPU(KVM_RUN, 0), -EINTR);
	rig->run->immediate_exit = 0;
	assert_int_equal(VCPU(KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rax & 0xff, 0x42);
	assert_int_equal(regs.rip, 0x1002);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
}

struct kicker {
	pthread_t target;
	struct thread thread;
	u32 done;
};

/* Signals until the target has seen one: the first may come before it is inside KVM_RUN. */
static void *kick_main(void *arg)
{
	struct kicker *k = arg;

	while (!__atomic_load_n(&k->done, __ATOMIC_ACQUIRE)) {
		usleep(2000);
		pthread_kill(k->target, THREAD_KICK_SIGNAL);
	}
	return NULL;
}

static void kicker_start(struct kicker *k)
{
	k->target = pthread_self();
	k->done = 0;
	assert_int_equal(thread_start(&k->thread, THREAD_HELPER, "kicker", kick_main, k), 0);
}

static void kicker_stop(struct kicker *k)
{
	__atomic_store_n(&k->done, 1, __ATOMIC_RELEASE);
	thread_join(&k->thread);
}

static void test_signal(void **state)
{
	struct api_rig *rig = *state;
	struct kicker k = {0};

	rig_load(rig, forever, sizeof(forever));
	kicker_start(&k);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(VCPU(KVM_RUN, 0), -EINTR);
		assert_int_equal(rig->run->exit_reason, KVM_EXIT_INTR);
	}
	kicker_stop(&k);
}

static void test_signal_in_halt(void **state)
{
	struct api_rig *rig = *state;
	struct kicker k = {0};

	RIG_LOAD(rig, 0xf4, 0xf4);
	kicker_start(&k);
	for (int i = 0; i < 3; i++)
		assert_int_equal(VCPU(KVM_RUN, 0), -EINTR);
	kicker_stop(&k);
}

static int handled;

static void count_signal(int sig)
{
	handled++;
}

/* A signal that only the vCPU's mask lets in ends KVM_RUN, stays pending and is not handled. */
static void test_signal_mask(void **state)
{
	struct api_rig *rig = *state;
	u8 buf[sizeof(struct kvm_signal_mask) + 8];
	struct kvm_signal_mask *arg = (void *)buf;
	struct sigaction sa = {.sa_handler = count_signal};
	sigset_t usr2, old, pending;
	siginfo_t info;

	sigaction(SIGUSR2, &sa, NULL);
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &usr2, &old);
	memcpy(arg->sigset, &old, 8);
	arg->len = 7;
	assert_int_equal(VCPU(KVM_SET_SIGNAL_MASK, arg), -EINVAL);
	arg->len = 8;
	assert_int_equal(VCPU(KVM_SET_SIGNAL_MASK, arg), 0);
	rig_load(rig, forever, sizeof(forever));
	handled = 0;
	pthread_kill(pthread_self(), SIGUSR2);
	assert_int_equal(VCPU(KVM_RUN, 0), -EINTR);
	assert_int_equal(handled, 0);
	sigpending(&pending);
	assert_int_equal(sigismember(&pending, SIGUSR2), 1);
	assert_int_equal(sigwaitinfo(&usr2, &info), SIGUSR2);
	assert_int_equal(info.si_pid, getpid());
	assert_int_equal(VCPU(KVM_SET_SIGNAL_MASK, NULL), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	/* Outside KVM_RUN the handler is the program's again. */
	pthread_kill(pthread_self(), SIGUSR2);
	assert_int_equal(handled, 1);
}

/* cli; nop; out; sti; nop; out: the window opens after the instruction that follows STI. */
static void test_window(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_interrupt irq = {.irq = 0x20};
	struct kvm_regs regs;

	rig->ram[0x20 * 4 + 1] = 0x12; /* handler at 0x1200 */
	rig->ram[0x20 * 4] = rig->ram[0x20 * 4 + 2] = rig->ram[0x20 * 4 + 3] = 0;
	rig->ram[0x1200] = 0xf4;
	RIG_LOAD(rig, 0xfa, 0xe6, 0x10, 0xfb, 0x90, 0x90, 0xeb, 0xfe);
	rig->run->request_interrupt_window = 1;
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->if_flag, 0);
	assert_int_equal(rig->run->ready_for_interrupt_injection, 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(rig->run->if_flag, 1);
	assert_int_equal(rig->run->ready_for_interrupt_injection, 1);
	rig->run->request_interrupt_window = 0;
	assert_int_equal(VCPU(KVM_INTERRUPT, &irq), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(VCPU(KVM_GET_REGS, &regs), 0);
	assert_int_equal(regs.rip, 0x1201);
}

static void test_sync_regs(void **state)
{
	struct api_rig *rig = *state;

	RIG_LOAD(rig, 0x40, 0xe6, 0x10, 0xeb, 0xfb); /* 1: inc ax; out 0x10, al; jmp 1b */
	rig->run->kvm_valid_regs = 0x80;
	assert_int_equal(VCPU(KVM_RUN, 0), -EINVAL);
	rig->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->s.regs.regs.rax, 1);
	assert_int_equal(rig->run->s.regs.sregs.cs.base, 0);
	rig->run->s.regs.regs.rax = 0x20;
	rig->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->s.regs.regs.rax, 0x21);
	assert_int_equal(rig->run->kvm_dirty_regs, 0);
}

static void test_string_output(void **state)
{
	struct api_rig *rig = *state;

	memcpy(rig->ram + 0x300, "bothy", 5);
	RIG_LOAD(rig, 0xbe, 0x00, 0x03, 0xb9, 5, 0, 0xba, 0x10, 0, 0xf3, 0x6e, 0xf4);
	for (unsigned int n = 0; n < 5;) { /* one exit or several: the engine's choice */
		const u8 *data;

		assert_int_equal(rig_run(rig), 0);
		assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(rig->run->io.size, 1);
		data = (u8 *)rig->run + rig->run->io.data_offset;
		assert_memory_equal(data, &"bothy"[n], rig -> run -> io.count);
		n += rig->run->io.count;
	}
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
}

static void test_single_step(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_guest_debug dbg = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};

	RIG_LOAD(rig, 0x90, 0x90, 0x90, 0xf4);
	assert_int_equal(VCPU(KVM_SET_GUEST_DEBUG, &dbg), 0);
	for (u64 rip = 0x1001; rip < 0x1004; rip++) {
		assert_int_equal(rig_run(rig), 0);
		assert_int_equal(rig->run->exit_reason, KVM_EXIT_DEBUG);
		assert_int_equal(rig->run->debug.arch.pc, rip);
		assert_int_equal(rig->run->debug.arch.exception, 1);
	}
	dbg.control = 0;
	assert_int_equal(VCPU(KVM_SET_GUEST_DEBUG, &dbg), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
}

static void test_breakpoints(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_guest_debug dbg = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP};

	if (!rig_is_soft(rig))
		return; /* an interpreting /dev/kvm may have none */
	RIG_LOAD(rig, 0x90, 0x90, 0xcc, 0xf4);
	dbg.arch.debugreg[0] = 0x1001;
	dbg.arch.debugreg[7] = 0x402;
	assert_int_equal(VCPU(KVM_SET_GUEST_DEBUG, &dbg), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(rig->run->debug.arch.pc, 0x1001);
	assert_int_equal(rig->run->debug.arch.dr6 & 15, 1);
	dbg.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	assert_int_equal(VCPU(KVM_SET_GUEST_DEBUG, &dbg), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_DEBUG);
	assert_int_equal(rig->run->debug.arch.pc, 0x1002);
	assert_int_equal(rig->run->debug.arch.exception, 3);
}

static void test_translate(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_translation t = {.linear_address = 0x1234};

	assert_int_equal(VCPU(KVM_TRANSLATE, &t), 0);
	assert_int_equal(t.valid, 1);
	assert_int_equal(t.physical_address, 0x1234);
}

/* A triple fault: an interrupt with an IDT limit of 0. */
static void test_shutdown(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_sregs sregs;

	if (!rig_is_soft(rig))
		return; /* KVM's emulator does not look at the limit in real mode */
	RIG_LOAD(rig, 0xcd, 0x20, 0xf4);
	assert_int_equal(VCPU(KVM_GET_SREGS, &sregs), 0);
	sregs.idt.limit = 0;
	assert_int_equal(VCPU(KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_SHUTDOWN);
}

#define T(name)	      cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
#define T_CHIPS(name) cmocka_unit_test_setup_teardown(name, rig_setup_irqchip, rig_teardown)

int main(void)
{
	const struct CMUnitTest run[] = {
		T(test_immediate_exit), T(test_completion),
		T(test_signal),		T_CHIPS(test_signal_in_halt),
		T(test_signal_mask),	T(test_window),
		T(test_sync_regs),	T(test_string_output),
		T(test_single_step),	T(test_breakpoints),
		T(test_translate),	T(test_shutdown),
	};

	return RIG_MAIN(run);
}
