/*
 * The probe over engines that are fast, slow, endless, forbidden and missing: softkvm with one
 * thing changed.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "engine/probe.h"
#include "os/clock.h"
#include "os/thread.h"

/* More than any count of the probe, and less than it takes to come to an end here. */
#define ENDLESS (1ULL << 31)

static u64 burn_ns; /* CPU time that KVM_RUN takes beside what it does */
static u64 sleep_ns;
static u32 stolen; /* so many long runs take longer, each half as much as the one before */
static bool looping;
static bool endless;
static int open_error, vm_error;
static int closed;

static const struct engine_class *soft(void)
{
	return engine_lookup("soft");
}

static int changed_open(struct err *err)
{
	return open_error ? err_set(err, open_error, "no engine") : soft()->open(err);
}

static int changed_ioctl(int fd, unsigned long request, unsigned long arg)
{
	u64 start = clock_thread_cpu_ns();
	struct timespec pause = {0, (long)sleep_ns};

	if (request == KVM_CREATE_VM && vm_error)
		return -vm_error;
	if (request == KVM_SET_REGS && endless)
		((struct kvm_regs *)arg)->rcx = ENDLESS;
	if (request == KVM_SET_REGS)
		looping = ((struct kvm_regs *)arg)->rcx > 1;
	if (request == KVM_RUN) {
		nanosleep(&pause, NULL);
		while (clock_thread_cpu_ns() - start < burn_ns)
			;
		if (looping && stolen) {
			while (clock_thread_cpu_ns() - start < NSEC_PER_MSEC << stolen)
				;
			stolen--;
		}
	}
	return soft()->ioctl(fd, request, arg);
}

static void *changed_mmap(int fd, size_t len)
{
	return soft()->mmap(fd, len);
}

static int changed_close(int fd)
{
	closed++;
	return soft()->close(fd);
}

static const struct engine_class changed = {
	.name = "changed",
	.summary = "softkvm with one thing changed",
	.open = changed_open,
	.ioctl = changed_ioctl,
	.mmap = changed_mmap,
	.close = changed_close,
};

static int setup(void **state)
{
	(void)state;
	burn_ns = sleep_ns = 0;
	stolen = 0;
	endless = false;
	open_error = vm_error = closed = 0;
	return 0;
}

static enum engine_verdict judge(struct engine_probe *probe, struct err *err)
{
	return engine_judge(engine_probe(&changed, probe, err), probe);
}

static void test_runs(void **state)
{
	struct engine_probe probe;
	struct err err;

	(void)state;
	assert_int_equal(engine_probe(&changed, &probe, &err), 0);
	assert_true(probe.works);
	assert_int_equal(probe.instructions, 2000);
	assert_true(probe.total_ns >= probe.run_ns);
	assert_int_equal(closed, 3); /* vCPU, VM, engine */
}

/* A thread that is not running for a while, as on a host with other work, changes nothing. */
static void test_sleep_is_not_slow(void **state)
{
	struct engine_probe probe;
	struct err err;

	(void)state;
	sleep_ns = 30 * NSEC_PER_MSEC;
	assert_int_equal(engine_probe(&changed, &probe, &err), 0);
	assert_true(probe.works);
	assert_true(probe.run_ns < sleep_ns);
}

/* A host that is a guest counts the time in which it was stopped as its own: of several tries the
 * quickest counts. */
static void test_stolen_time(void **state)
{
	struct engine_probe probe;
	struct err err;

	(void)state;
	stolen = 4;
	assert_int_equal(engine_probe(&changed, &probe, &err), 0);
	assert_int_equal(stolen, 0);
	assert_true(probe.works);
	assert_true(probe.run_ns < 2 * NSEC_PER_MSEC); /* what the last stolen run took */
}

/* The exit's price, paid by the short run as well, is taken off. */
static void test_price_of_an_exit(void **state)
{
	struct engine_probe probe;
	struct err err;

	(void)state;
	burn_ns = 2 * NSEC_PER_MSEC;
	assert_int_equal(engine_probe(&changed, &probe, &err), 0);
	assert_true(probe.works);
	assert_true(probe.run_ns >= burn_ns);
	assert_true(probe.ns_per_1000 < burn_ns / 2);
}

static void test_endless(void **state)
{
	struct engine_probe probe;
	struct err err;

	(void)state;
	endless = true;
	assert_int_equal(judge(&probe, &err), ENGINE_SLOW);
	assert_false(probe.works);
	assert_int_equal(probe.ns_per_1000, ~0u);
	assert_int_equal(closed, 3);
}

static void test_absent(void **state)
{
	static const struct {
		int error;
		enum engine_verdict verdict;
	} cases[] = {
		{ENOENT, ENGINE_MISSING},  {EACCES, ENGINE_FORBIDDEN}, {EPERM, ENGINE_FORBIDDEN},
		{ENODEV, ENGINE_UNUSABLE}, {EMFILE, ENGINE_UNUSABLE},
	};
	struct engine_probe probe;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		open_error = cases[i].error;
		assert_int_equal(judge(&probe, &err), cases[i].verdict);
		assert_string_equal(err.text, "no engine");
	}
	assert_int_equal(closed, 0);
	open_error = 0;
	vm_error = EBUSY; /* another hypervisor has the CPU's extension */
	assert_int_equal(judge(&probe, &err), ENGINE_UNUSABLE);
	assert_non_null(strstr(err.text, "cannot create a VM"));
	assert_int_equal(closed, 1);
}

static void test_judge(void **state)
{
	struct engine_probe probe = {.works = true, .ns_per_1000 = 1000};

	(void)state;
	assert_int_equal(engine_judge(0, &probe), ENGINE_FAST);
	probe.ns_per_1000 = ENGINE_PROBE_SLOW_NS_PER_1000;
	assert_int_equal(engine_judge(0, &probe), ENGINE_SLOW);
	probe = (struct engine_probe){.works = false};
	assert_int_equal(engine_judge(0, &probe), ENGINE_SLOW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_runs, setup),
		cmocka_unit_test_setup(test_sleep_is_not_slow, setup),
		cmocka_unit_test_setup(test_stolen_time, setup),
		cmocka_unit_test_setup(test_price_of_an_exit, setup),
		cmocka_unit_test_setup(test_endless, setup),
		cmocka_unit_test_setup(test_absent, setup),
		cmocka_unit_test_setup(test_judge, setup),
	};

	thread_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
