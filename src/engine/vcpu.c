/*
 * The run loop and the table of exits.
 *
 * Invariants:
 * 1. A request is stored before immediate_exit is set and the thread kicked, so none is slept
 *    through. All of it, and what clears immediate_exit again, happens under the lock: one that was
 *    left behind would make every later KVM_RUN fail.
 * 2. `paused` is true only while the thread waits in park() or has not been started: vcpu_resume()
 *    clears it, park() sets it.
 * 3. An exit of KVM_EXIT_IO or KVM_EXIT_MMIO is completed by the next KVM_RUN: until then the
 *    registers are those of the middle of an instruction. vcpu_pause() therefore enters once more
 *    with immediate_exit before the thread parks.
 */
#include "engine/vcpu_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "os/clock.h"

#define KVM_EXIT_LAST (VCPU_EXIT_REASONS - 1)

static const char *const exit_names[VCPU_EXIT_REASONS] = {
	[KVM_EXIT_UNKNOWN] = "KVM_EXIT_UNKNOWN",
	[KVM_EXIT_EXCEPTION] = "KVM_EXIT_EXCEPTION",
	[KVM_EXIT_IO] = "KVM_EXIT_IO",
	[KVM_EXIT_HYPERCALL] = "KVM_EXIT_HYPERCALL",
	[KVM_EXIT_DEBUG] = "KVM_EXIT_DEBUG",
	[KVM_EXIT_HLT] = "KVM_EXIT_HLT",
	[KVM_EXIT_MMIO] = "KVM_EXIT_MMIO",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "KVM_EXIT_IRQ_WINDOW_OPEN",
	[KVM_EXIT_SHUTDOWN] = "KVM_EXIT_SHUTDOWN",
	[KVM_EXIT_FAIL_ENTRY] = "KVM_EXIT_FAIL_ENTRY",
	[KVM_EXIT_INTR] = "KVM_EXIT_INTR",
	[KVM_EXIT_SET_TPR] = "KVM_EXIT_SET_TPR",
	[KVM_EXIT_TPR_ACCESS] = "KVM_EXIT_TPR_ACCESS",
	[KVM_EXIT_NMI] = "KVM_EXIT_NMI",
	[KVM_EXIT_INTERNAL_ERROR] = "KVM_EXIT_INTERNAL_ERROR",
	[KVM_EXIT_SYSTEM_EVENT] = "KVM_EXIT_SYSTEM_EVENT",
	[KVM_EXIT_IOAPIC_EOI] = "KVM_EXIT_IOAPIC_EOI",
	[KVM_EXIT_HYPERV] = "KVM_EXIT_HYPERV",
	[KVM_EXIT_X86_RDMSR] = "KVM_EXIT_X86_RDMSR",
	[KVM_EXIT_X86_WRMSR] = "KVM_EXIT_X86_WRMSR",
	[KVM_EXIT_DIRTY_RING_FULL] = "KVM_EXIT_DIRTY_RING_FULL",
	[KVM_EXIT_AP_RESET_HOLD] = "KVM_EXIT_AP_RESET_HOLD",
	[KVM_EXIT_X86_BUS_LOCK] = "KVM_EXIT_X86_BUS_LOCK",
	[KVM_EXIT_XEN] = "KVM_EXIT_XEN",
	[37] = "KVM_EXIT_NOTIFY",
	[39] = "KVM_EXIT_MEMORY_FAULT",
};

const char *vcpu_exit_name(u32 reason)
{
	const char *name = reason < VCPU_EXIT_REASONS ? exit_names[reason] : NULL;

	return name ? name : "KVM_EXIT_?";
}

/* ---- handlers: 0 to go on, -1 when the vCPU has ended ---- */

typedef int (*exit_handler)(struct vcpu *vcpu);

static int end(struct vcpu *vcpu, enum vcpu_end how, u32 value)
{
	vcpu->ended = true;
	vcpu->config.ops->ended(vcpu->config.ctx, vcpu, how, value);
	return -1;
}

static int on_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u32 count = run->io.count;

	if (unlikely(count > 1)) {
		vcpu->stats.pio_string++;
		vcpu->stats.pio_bytes += (u64)count * run->io.size;
	}
	vcpu->config.ops->pio(vcpu->config.ctx, run->io.port, run->io.direction == KVM_EXIT_IO_OUT,
			      run->io.size, (u8 *)run + run->io.data_offset, count);
	return 0;
}

static int on_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	vcpu->config.ops->mmio(vcpu->config.ctx, run->mmio.phys_addr, run->mmio.is_write,
			       run->mmio.len, run->mmio.data);
	return 0;
}

static int on_hlt(struct vcpu *vcpu)
{
	return end(vcpu, VCPU_HALTED, 0);
}

static int on_shutdown(struct vcpu *vcpu)
{
	return end(vcpu, VCPU_SHUTDOWN, 0);
}

static int on_system_event(struct vcpu *vcpu)
{
	return end(vcpu, VCPU_EVENT, vcpu->run->system_event.type);
}

static int on_nothing(struct vcpu *vcpu)
{
	return 0;
}

/* A hypercall that the engine left to us: KVM_ENOSYS, as on a host without it. */
static int on_hypercall(struct vcpu *vcpu)
{
	vcpu->run->hypercall.ret = (u64)-1000;
	return 0;
}

static int on_msr(struct vcpu *vcpu)
{
	vcpu->run->msr.error = 1; /* #GP in the guest */
	return 0;
}

static void explain_internal_error(const struct kvm_run *run)
{
	static const char *const why[] = {
		"?", "an instruction that KVM cannot emulate", "simultaneous exceptions",
		"an exit while an event was being delivered", "an unexpected exit reason"};
	u32 sub = run->internal.suberror;

	log_error("internal error of the engine: %s (suberror %u)",
		  sub < ARRAY_SIZE(why) ? why[sub] : "?", sub);
	for (u32 i = 0; i < run->internal.ndata && i < ARRAY_SIZE(run->internal.data); i++)
		log_error("  data[%u] = 0x%llx", i, (unsigned long long)run->internal.data[i]);
}

static int on_failure(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	log_error("vCPU %u: %s (%u): the guest cannot go on", vcpu->config.index,
		  vcpu_exit_name(run->exit_reason), run->exit_reason);
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		explain_internal_error(run);
	else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		log_error("the hardware refused the VM entry: reason 0x%llx",
			  (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
	else if (run->exit_reason == KVM_EXIT_UNKNOWN)
		log_error("hardware exit reason 0x%llx",
			  (unsigned long long)run->hw.hardware_exit_reason);
	vcpu_dump(vcpu);
	return end(vcpu, VCPU_FAILED, run->exit_reason);
}

static const exit_handler handlers[VCPU_EXIT_REASONS] = {
	[KVM_EXIT_IO] = on_io,
	[KVM_EXIT_MMIO] = on_mmio,
	[KVM_EXIT_HLT] = on_hlt,
	[KVM_EXIT_SHUTDOWN] = on_shutdown,
	[KVM_EXIT_SYSTEM_EVENT] = on_system_event,
	[KVM_EXIT_HYPERCALL] = on_hypercall,
	[KVM_EXIT_X86_RDMSR] = on_msr,
	[KVM_EXIT_X86_WRMSR] = on_msr,
	[KVM_EXIT_IRQ_WINDOW_OPEN] = on_nothing,
	[KVM_EXIT_INTR] = on_nothing,
	[KVM_EXIT_NMI] = on_nothing,
	[KVM_EXIT_SET_TPR] = on_nothing,
	[KVM_EXIT_TPR_ACCESS] = on_nothing,
	[KVM_EXIT_IOAPIC_EOI] = on_nothing,
	[KVM_EXIT_X86_BUS_LOCK] = on_nothing,
	[37] = on_nothing, /* KVM_EXIT_NOTIFY */
};

/* ---- the loop ---- */

static inline int run_once(struct vcpu *vcpu)
{
	return vcpu->ioctl(vcpu->fd, KVM_RUN, 0);
}

static int handle_exit(struct vcpu *vcpu)
{
	u32 reason = vcpu->run->exit_reason;
	u32 slot = min(reason, (u32)KVM_EXIT_LAST);
	exit_handler handler = handlers[slot];
	u64 start;
	int rc;

	vcpu->stats.exits[slot]++;
	if (unlikely(!handler))
		handler = on_failure;
	if (likely(!vcpu->watched))
		return handler(vcpu);
	start = clock_now_ns();
	rc = handler(vcpu);
	vcpu->stats.handling_ns[slot] += clock_now_ns() - start;
	if (vcpu->config.trace)
		vcpu_trace_exit(vcpu);
	return rc;
}

/* KVM_RUN itself failed. */
static int handle_error(struct vcpu *vcpu, int rc)
{
	if (rc == -EINTR || rc == -EAGAIN) {
		vcpu->stats.interrupted++;
		return 0;
	}
	if (rc == -EFAULT && vcpu->run->exit_reason == 39) /* KVM_EXIT_MEMORY_FAULT */
		return on_failure(vcpu);
	log_error("vCPU %u: KVM_RUN failed: %s", vcpu->config.index, strerror(-rc));
	vcpu_dump(vcpu);
	return end(vcpu, VCPU_FAILED, 0);
}

/* Let the engine finish an instruction whose exit has been handled (invariant 3). */
static void complete_exit(struct vcpu *vcpu)
{
	if (!vcpu->incomplete || vcpu->ended)
		return;
	vcpu->incomplete = false;
	vcpu->run->immediate_exit = 1;
	run_once(vcpu);
	vcpu->run->immediate_exit = 0;
}

/* Park until resumed; false when it is time to stop. */
static bool park(struct vcpu *vcpu)
{
	u32 request;

	pthread_mutex_lock(&vcpu->lock);
	complete_exit(vcpu);
	while ((request = __atomic_load_n(&vcpu->request, __ATOMIC_ACQUIRE)) == VCPU_PAUSE) {
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		vcpu->paused = true;
		pthread_cond_broadcast(&vcpu->changed);
		pthread_cond_wait(&vcpu->changed, &vcpu->lock);
	}
	pthread_mutex_unlock(&vcpu->lock);
	return request == VCPU_RUN;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	int rc;

	for (;;) {
		if (unlikely(__atomic_load_n(&vcpu->request, __ATOMIC_ACQUIRE) != VCPU_RUN) &&
		    !park(vcpu))
			return NULL;
		rc = run_once(vcpu);
		vcpu->incomplete = !rc;
		if (likely(!rc))
			rc = handle_exit(vcpu);
		else
			rc = handle_error(vcpu, rc);
		if (unlikely(rc)) {
			u32 running = VCPU_RUN;

			/* Wait for what the machine decides: a reset or the end. */
			__atomic_compare_exchange_n(&vcpu->request, &running, VCPU_PAUSE, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		}
	}
}

/* ---- life ---- */

static int map_run(struct vcpu *vcpu, struct err *err)
{
	const struct engine_vm *vm = vcpu->config.vm;
	int size = vm->engine->ioctl(vm->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (size < (int)sizeof(struct kvm_run))
		return err_set(err, EINVAL, "%s: strange size of kvm_run: %d", vm->engine->name,
			       size);
	vcpu->run_size = (size_t)size;
	vcpu->run = vm->engine->mmap(vcpu->fd, vcpu->run_size);
	if (!vcpu->run)
		return err_set(err, errno, "vCPU %u: cannot map kvm_run: %s", vcpu->config.index,
			       strerror(errno));
	return 0;
}

struct vcpu *vcpu_new(const struct vcpu_config *config, struct err *err)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));

	if (!vcpu) {
		err_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	vcpu->config = *config;
	vcpu->ioctl = config->vm->engine->ioctl;
	vcpu->watched = config->timed || config->trace;
	vcpu->paused = true;
	vcpu->request = VCPU_PAUSE;
	pthread_mutex_init(&vcpu->lock, NULL);
	pthread_cond_init(&vcpu->changed, NULL);
	vcpu->fd = config->vm->engine->ioctl(config->vm->fd, KVM_CREATE_VCPU, config->apic_id);
	if (vcpu->fd < 0) {
		err_set(err, -vcpu->fd, "cannot create vCPU %u: %s", config->index,
			strerror(-vcpu->fd));
		vcpu_free(vcpu);
		return NULL;
	}
	if (map_run(vcpu, err)) {
		vcpu_free(vcpu);
		return NULL;
	}
	return vcpu;
}

static void set_request(struct vcpu *vcpu, enum vcpu_request request)
{
	pthread_mutex_lock(&vcpu->lock);
	__atomic_store_n(&vcpu->request, request, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&vcpu->changed);
	if (request == VCPU_RUN) {
		/* Of a pause that the thread has not noticed. */
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		vcpu->paused = false;
	} else if (!vcpu->paused) {
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		thread_kick(&vcpu->thread);
	}
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_free(struct vcpu *vcpu)
{
	if (!vcpu)
		return;
	if (vcpu->thread.started) {
		set_request(vcpu, VCPU_STOP);
		thread_join(&vcpu->thread);
	}
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_size);
	if (vcpu->fd >= 0)
		vcpu->config.vm->engine->close(vcpu->fd);
	pthread_cond_destroy(&vcpu->changed);
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu);
}

int vcpu_start(struct vcpu *vcpu)
{
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->config.index);
	return thread_start(&vcpu->thread, THREAD_VCPU, name, vcpu_main, vcpu);
}

void vcpu_resume(struct vcpu *vcpu)
{
	vcpu->ended = false;
	set_request(vcpu, VCPU_RUN);
}

void vcpu_pause(struct vcpu *vcpu)
{
	set_request(vcpu, VCPU_PAUSE);
}

void vcpu_wait_paused(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	while (!vcpu->paused)
		pthread_cond_wait(&vcpu->changed, &vcpu->lock);
	pthread_mutex_unlock(&vcpu->lock);
}

u32 vcpu_index(const struct vcpu *vcpu)
{
	return vcpu->config.index;
}

int vcpu_fd(const struct vcpu *vcpu)
{
	return vcpu->fd;
}

const struct vcpu_stats *vcpu_get_stats(const struct vcpu *vcpu)
{
	return &vcpu->stats;
}

int vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *arg)
{
	return vcpu->config.vm->engine->ioctl(vcpu->fd, request, (unsigned long)arg);
}

struct kvm_coalesced_mmio_ring *vcpu_coalesced_ring(struct vcpu *vcpu)
{
	int page = engine_vm_has(vcpu->config.vm, KVM_CAP_COALESCED_MMIO);

	if (page <= 0 || ((size_t)page + 1) * PAGE_SIZE > vcpu->run_size)
		return NULL;
	return (void *)((u8 *)vcpu->run + (size_t)page * PAGE_SIZE);
}

void vcpu_set_memory_reader(struct vcpu *vcpu, int (*read)(void *ctx, u64 gpa, void *buf, u64 len),
			    void *ctx)
{
	vcpu->read_mem = read;
	vcpu->read_ctx = ctx;
}
