/*
 * The run loop over an engine that says what the test wants: every exit reason there is, and what
 * comes after it.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "engine/vcpu.h"
#include "os/thread.h"

#define SYS_FD	 1000
#define VM_FD	 1001
#define VCPU_FD	 1002
#define RUN_SIZE (3 * 4096)
#define NOBODY	 0xffff

/* What KVM_RUN returns, one after the other; then it sleeps until it is kicked. */
struct step {
	int rc;
	u32 reason;
};

static struct {
	struct kvm_run *run;
	const struct step *steps;
	size_t count, at; /* at is atomic */
	u32 immediate;	  /* entries with immediate_exit set, atomic */
	size_t run_size;
	int create_rc;
	unsigned long fail; /* this request fails with -EIO */
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_mp_state mp;
	u32 msrs;
} fake;

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool ended;
	enum vcpu_end how;
	u32 value;
	u32 pio, mmio;
	struct str log;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- the engine ---- */

static void fill_exit(u32 reason)
{
	struct kvm_run *run = fake.run;

	run->exit_reason = reason;
	if (reason == KVM_EXIT_IO) {
		run->io.direction = KVM_EXIT_IO_OUT;
		run->io.size = 2;
		run->io.port = 0x123;
		run->io.count = 3;
		run->io.data_offset = 4096;
		memcpy((u8 *)run + 4096, "abcdef", 6);
	} else if (reason == KVM_EXIT_MMIO) {
		run->mmio.phys_addr = 0xd0000;
		run->mmio.len = 4;
		run->mmio.is_write = 1;
		memcpy(run->mmio.data, "wxyz", 4);
	} else if (reason == KVM_EXIT_SYSTEM_EVENT) {
		run->system_event.type = KVM_SYSTEM_EVENT_RESET;
	} else if (reason == KVM_EXIT_INTERNAL_ERROR) {
		run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
		run->internal.ndata = 0xffffffff; /* more than there is room for */
	} else if (reason == KVM_EXIT_X86_RDMSR || reason == KVM_EXIT_X86_WRMSR) {
		run->msr.error = 0;
	} else if (reason == KVM_EXIT_HYPERCALL) {
		run->hypercall.ret = 0;
	}
}

static int fake_enter(void)
{
	size_t at = __atomic_load_n(&fake.at, __ATOMIC_ACQUIRE);

	if (__atomic_load_n(&fake.run->immediate_exit, __ATOMIC_ACQUIRE)) {
		__atomic_fetch_add(&fake.immediate, 1, __ATOMIC_ACQ_REL);
		return -EINTR;
	}
	if (at < fake.count) {
		int rc = fake.steps[at].rc;

		fill_exit(fake.steps[at].reason);
		__atomic_store_n(&fake.at, at + 1, __ATOMIC_RELEASE);
		return rc;
	}
	while (!__atomic_load_n(&fake.run->immediate_exit, __ATOMIC_ACQUIRE))
		usleep(200);
	return -EINTR;
}

static int fake_ioctl(int fd, unsigned long request, unsigned long arg)
{
	if (request == fake.fail)
		return -EIO;
	switch (request) {
	case KVM_GET_VCPU_MMAP_SIZE:
		return (int)fake.run_size;
	case KVM_CREATE_VCPU:
		return fake.create_rc ? fake.create_rc : VCPU_FD;
	case KVM_CHECK_EXTENSION:
		return arg == KVM_CAP_COALESCED_MMIO ? 2 : 0;
	case KVM_RUN:
		return fake_enter();
	case KVM_GET_REGS:
		*(struct kvm_regs *)arg = fake.regs;
		return 0;
	case KVM_SET_REGS:
		fake.regs = *(struct kvm_regs *)arg;
		return 0;
	case KVM_GET_SREGS:
		*(struct kvm_sregs *)arg = fake.sregs;
		return 0;
	case KVM_SET_SREGS:
		fake.sregs = *(struct kvm_sregs *)arg;
		return 0;
	case KVM_SET_MP_STATE:
		fake.mp = *(struct kvm_mp_state *)arg;
		return 0;
	case KVM_SET_MSRS:
		fake.msrs++;
		return fake.msrs % 2; /* half of them refused */
	case KVM_TRANSLATE:
		((struct kvm_translation *)arg)->physical_address = 0x1000;
		((struct kvm_translation *)arg)->valid = 1;
		return 0;
	case KVM_GET_LAPIC:
		return -EINVAL;
	default:
		return 0;
	}
}

static void *fake_mmap(int fd, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	fake.run = p == MAP_FAILED ? NULL : p;
	return fake.run;
}

static int fake_close(int fd)
{
	return 0;
}

static const struct engine_class fake_engine = {
	.name = "fake", .ioctl = fake_ioctl, .mmap = fake_mmap, .close = fake_close};
static const struct engine_vm vm = {.engine = &fake_engine, .sys_fd = SYS_FD, .fd = VM_FD};

/* ---- the machine ---- */

static void on_pio(void *ctx, u16 port, bool write, unsigned int size, void *data, u32 count)
{
	assert_true(write);
	assert_int_equal(port, 0x123);
	assert_int_equal(size, 2);
	assert_int_equal(count, 3);
	assert_memory_equal(data, "abcdef", 6);
	seen.pio++;
}

static void on_mmio(void *ctx, u64 addr, bool write, unsigned int size, void *data)
{
	assert_true(write);
	assert_int_equal(addr, 0xd0000);
	assert_int_equal(size, 4);
	assert_memory_equal(data, "wxyz", 4);
	seen.mmio++;
}

static void on_ended(void *ctx, struct vcpu *vcpu, enum vcpu_end how, u32 value)
{
	pthread_mutex_lock(&seen.lock);
	seen.ended = true;
	seen.how = how;
	seen.value = value;
	pthread_cond_broadcast(&seen.changed);
	pthread_mutex_unlock(&seen.lock);
}

static const struct vcpu_ops ops = {.pio = on_pio, .mmio = on_mmio, .ended = on_ended};

static void on_log(enum log_level level, const char *line)
{
	str_add(&seen.log, "%s\n", line);
}

static int read_memory(void *ctx, u64 gpa, void *buf, u64 len)
{
	memset(buf, (int)gpa, len);
	return gpa < 0x1004 ? 0 : -EFAULT;
}

static struct vcpu *open_vcpu(const struct step *steps, size_t count)
{
	const struct vcpu_config config = {.vm = &vm, .ops = &ops, .timed = true};
	struct vcpu *vcpu;
	struct err err;

	memset(&fake, 0, sizeof(fake));
	fake.run_size = RUN_SIZE;
	fake.steps = steps;
	fake.count = count;
	seen.ended = false;
	seen.pio = seen.mmio = 0;
	str_free(&seen.log);
	vcpu = vcpu_new(&config, &err);
	assert_non_null(vcpu);
	vcpu_set_memory_reader(vcpu, read_memory, NULL);
	assert_int_equal(vcpu_start(vcpu), 0);
	return vcpu;
}

static void wait_ended(void)
{
	pthread_mutex_lock(&seen.lock);
	while (!seen.ended)
		pthread_cond_wait(&seen.changed, &seen.lock);
	pthread_mutex_unlock(&seen.lock);
}

/* Until the script is through; the loop is in KVM_RUN again then. */
static void wait_done(void)
{
	while (__atomic_load_n(&fake.at, __ATOMIC_ACQUIRE) < fake.count)
		usleep(200);
}

/* ---- tests ---- */

/* Does the loop go on after this exit? */
static bool goes_on(u32 reason)
{
	static const u32 harmless[] = {
		KVM_EXIT_IO,
		KVM_EXIT_MMIO,
		KVM_EXIT_HYPERCALL,
		KVM_EXIT_IRQ_WINDOW_OPEN,
		KVM_EXIT_INTR,
		KVM_EXIT_NMI,
		KVM_EXIT_SET_TPR,
		KVM_EXIT_TPR_ACCESS,
		KVM_EXIT_IOAPIC_EOI,
		KVM_EXIT_X86_RDMSR,
		KVM_EXIT_X86_WRMSR,
		KVM_EXIT_X86_BUS_LOCK,
		37 /* KVM_EXIT_NOTIFY */,
	};

	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		if (reason == harmless[i])
			return true;
	return false;
}

static enum vcpu_end end_of(u32 reason)
{
	switch (reason) {
	case KVM_EXIT_HLT:
		return VCPU_HALTED;
	case KVM_EXIT_SHUTDOWN:
		return VCPU_SHUTDOWN;
	case KVM_EXIT_SYSTEM_EVENT:
		return VCPU_EVENT;
	default:
		return VCPU_FAILED;
	}
}

/* A failed guest is explained: the reason's name, registers, and the four bytes at rip that can be
 * read. */
static void expect_explained(u32 reason)
{
	const char *log = seen.log.text;

	assert_non_null(log);
	assert_non_null(strstr(log, vcpu_exit_name(reason)));
	assert_non_null(strstr(log, "rip"));
	assert_non_null(strstr(log, "code at rip: 00 01 02 03"));
}

static void every_reason(void **state)
{
	for (u32 reason = 0; reason < VCPU_EXIT_REASONS + 20; reason++) {
		const struct step steps[] = {{0, reason}, {0, KVM_EXIT_HLT}};
		struct vcpu *vcpu = open_vcpu(steps, ARRAY_SIZE(steps));
		const struct vcpu_stats *stats;

		vcpu_resume(vcpu);
		wait_ended();
		stats = vcpu_get_stats(vcpu);
		assert_int_equal(fake.at, goes_on(reason) ? 2 : 1);
		assert_int_equal(seen.how, goes_on(reason) ? VCPU_HALTED : end_of(reason));
		assert_true(stats->exits[min(reason, VCPU_EXIT_REASONS - 1u)] >= 1);
		if (seen.how == VCPU_FAILED)
			expect_explained(reason);
		else
			assert_null(seen.log.text);
		if (reason == KVM_EXIT_SYSTEM_EVENT)
			assert_int_equal(seen.value, KVM_SYSTEM_EVENT_RESET);
		vcpu_free(vcpu);
	}
}

static void answers(void **state)
{
	const struct step steps[] = {{0, KVM_EXIT_IO},
				     {0, KVM_EXIT_MMIO},
				     {0, KVM_EXIT_HYPERCALL},
				     {0, KVM_EXIT_SHUTDOWN}};
	const struct step msr[] = {{0, KVM_EXIT_X86_RDMSR}, {0, KVM_EXIT_SHUTDOWN}};
	struct vcpu *vcpu = open_vcpu(steps, ARRAY_SIZE(steps));

	vcpu_resume(vcpu);
	wait_ended();
	assert_int_equal(seen.pio, 1);
	assert_int_equal(seen.mmio, 1);
	assert_int_equal(vcpu_get_stats(vcpu)->pio_string, 1);
	assert_int_equal(vcpu_get_stats(vcpu)->pio_bytes, 6);
	assert_true(fake.run->hypercall.ret == (u64)-1000);
	vcpu_free(vcpu);
	/* An MSR that nobody has is a general protection fault in the guest. */
	vcpu = open_vcpu(msr, ARRAY_SIZE(msr));
	vcpu_resume(vcpu);
	wait_ended();
	assert_int_equal(fake.run->msr.error, 1);
	vcpu_free(vcpu);
}

static void run_fails(void **state)
{
	const struct step steps[] = {
		{-EINTR, NOBODY}, {-EAGAIN, NOBODY}, {-EINTR, NOBODY}, {-EINVAL, NOBODY}};
	const struct step fault[] = {{-EFAULT, 39}};
	struct vcpu *vcpu = open_vcpu(steps, ARRAY_SIZE(steps));

	vcpu_resume(vcpu);
	wait_ended();
	assert_int_equal(seen.how, VCPU_FAILED);
	assert_int_equal(vcpu_get_stats(vcpu)->interrupted, 3);
	assert_non_null(strstr(seen.log.text, "KVM_RUN failed: Invalid argument"));
	vcpu_free(vcpu);
	vcpu = open_vcpu(fault, ARRAY_SIZE(fault));
	vcpu_resume(vcpu);
	wait_ended();
	assert_int_equal(seen.how, VCPU_FAILED);
	expect_explained(39);
	vcpu_free(vcpu);
}

/* Paused after an exit that the engine has to finish: it is entered once more, and comes straight
 * back. Resumed, it goes on; ended, it waits for a reset. */
static void pausing(void **state)
{
	const struct step steps[] = {{0, KVM_EXIT_IO}};
	const struct step end[] = {{0, KVM_EXIT_SHUTDOWN}, {0, KVM_EXIT_MMIO}};
	struct vcpu *vcpu = open_vcpu(steps, ARRAY_SIZE(steps));

	for (int i = 0; i < 500; i++) {
		__atomic_store_n(&fake.at, 0, __ATOMIC_RELEASE);
		vcpu_resume(vcpu);
		if (i % 2)
			wait_done();
		vcpu_pause(vcpu);
		vcpu_wait_paused(vcpu);
		assert_int_equal(fake.run->immediate_exit, 0);
	}
	assert_true(seen.pio >= 250);
	/* Resumed before it noticed. */
	for (int i = 0; i < 500; i++) {
		vcpu_pause(vcpu);
		vcpu_resume(vcpu);
	}
	__atomic_store_n(&fake.at, 0, __ATOMIC_RELEASE);
	vcpu_pause(vcpu);
	vcpu_wait_paused(vcpu);
	vcpu_resume(vcpu);
	wait_done();
	assert_false(seen.ended);
	vcpu_free(vcpu);

	vcpu = open_vcpu(end, ARRAY_SIZE(end));
	vcpu_resume(vcpu);
	wait_ended();
	vcpu_wait_paused(vcpu);
	assert_int_equal(seen.mmio, 0);
	vcpu_resume(vcpu);
	wait_done();
	vcpu_pause(vcpu);
	vcpu_wait_paused(vcpu);
	assert_int_equal(seen.mmio, 1);
	/* Freed while it runs. */
	vcpu_resume(vcpu);
	vcpu_free(vcpu);
}

static void reset(void **state)
{
	static const unsigned long requests[] = {
		KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_REGS,	 KVM_SET_FPU,
		KVM_SET_MSRS,  KVM_GET_LAPIC, KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS};
	struct vcpu *vcpu = open_vcpu(NULL, 0);

	fake.regs.rax = 5;
	assert_int_equal(vcpu_reset(vcpu), 0);
	assert_int_equal(fake.regs.rax, 0);
	assert_int_equal(fake.regs.rip, 0xfff0);
	assert_int_equal(fake.regs.rflags, 2);
	assert_int_equal(fake.sregs.cs.base, 0xffff0000);
	assert_int_equal(fake.sregs.cr0, 0x60000010);
	assert_int_equal(fake.sregs.efer, 0);
	assert_int_equal(fake.sregs.apic_base, 0xfee00900);
	assert_int_equal(fake.mp.mp_state, KVM_MP_STATE_RUNNABLE);
	/* What goes wrong is said. */
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		fake.fail = requests[i];
		assert_int_equal(vcpu_reset(vcpu), -EIO);
	}
	fake.fail = 0;
	assert_int_equal(vcpu_reset(vcpu), 0);
	vcpu_free(vcpu);
}

static void construction(void **state)
{
	const struct vcpu_config config = {.vm = &vm, .index = 3, .apic_id = 5, .ops = &ops};
	struct err err;

	memset(&fake, 0, sizeof(fake));
	fake.create_rc = -EEXIST;
	assert_null(vcpu_new(&config, &err));
	assert_non_null(strstr(err.text, "vCPU 3"));
	fake.create_rc = 0;
	fake.run_size = 16;
	assert_null(vcpu_new(&config, &err));
	assert_non_null(strstr(err.text, "kvm_run"));
	vcpu_free(NULL);
	assert_string_equal(vcpu_exit_name(KVM_EXIT_HLT), "KVM_EXIT_HLT");
	assert_string_equal(vcpu_exit_name(~0u), "KVM_EXIT_?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_reason), cmocka_unit_test(answers),
		cmocka_unit_test(run_fails),	cmocka_unit_test(pausing),
		cmocka_unit_test(reset),	cmocka_unit_test(construction),
	};

	thread_init();
	log_set_sink(on_log);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
