/*
 * The ioctl surface in any order with any arguments: a script of bytes opens, configures, runs and
 * closes VMs. Only pointers are made good, since the library is in the caller's address space; and
 * KVM_RUN is interrupted after a while, since a guest may loop.
 *
 * A script: one byte an operation, one byte the descriptor, one byte the length of the argument
 * that follows.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/soft/soft.h"
#include "os/event.h"

#define MEMORY	    (1u << 20)
#define ARG_SIZE    (1u << 18)
#define GUARD	    (1u << 16)
#define DESCRIPTORS 16
#define EVENTS	    4
#define MAX_OPS	    200
#define MAX_VMS	    4 /* made by one script: more reach nothing new, and took most of the time */
#define MAX_VCPUS   12
#define RUN_NS	    100000
#define MAX_KICKS   200000 /* in one KVM_RUN: a minute */
#define KICK	    (SIGRTMIN + 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum pointer {
	NONE,
	BY_VALUE,
	SMALL,
	REGION,
	BITMAP,
	CLEAR_BITMAP,
	IRQFD,
	IOEVENTFD,
	MASK,
	FILTER,
	RUN
};

static const struct {
	unsigned long request;
	enum pointer pointer;
} requests[] = {
	{KVM_CREATE_VM, BY_VALUE},
	{KVM_CREATE_VCPU, BY_VALUE},
	{KVM_CHECK_EXTENSION, BY_VALUE},
	{KVM_GET_SUPPORTED_CPUID, SMALL},
	{KVM_GET_EMULATED_CPUID, SMALL},
	{KVM_GET_MSR_INDEX_LIST, SMALL},
	{KVM_GET_MSR_FEATURE_INDEX_LIST, SMALL},
	{KVM_SET_USER_MEMORY_REGION, REGION},
	{KVM_SET_USER_MEMORY_REGION, REGION},
	{KVM_GET_DIRTY_LOG, BITMAP},
	{KVM_CLEAR_DIRTY_LOG, CLEAR_BITMAP},
	{KVM_SET_TSS_ADDR, BY_VALUE},
	{KVM_SET_IDENTITY_MAP_ADDR, SMALL},
	{KVM_SET_BOOT_CPU_ID, BY_VALUE},
	{KVM_CREATE_IRQCHIP, NONE},
	{KVM_CREATE_IRQCHIP, NONE},
	{KVM_GET_IRQCHIP, SMALL},
	{KVM_SET_IRQCHIP, SMALL},
	{KVM_CREATE_PIT2, SMALL},
	{KVM_GET_PIT2, SMALL},
	{KVM_SET_PIT2, SMALL},
	{KVM_GET_PIT, SMALL},
	{KVM_SET_PIT, SMALL},
	{KVM_REINJECT_CONTROL, SMALL},
	{KVM_IRQ_LINE, SMALL},
	{KVM_IRQ_LINE_STATUS, SMALL},
	{KVM_SIGNAL_MSI, SMALL},
	{KVM_SET_GSI_ROUTING, SMALL},
	{KVM_IRQFD, IRQFD},
	{KVM_IOEVENTFD, IOEVENTFD},
	{KVM_REGISTER_COALESCED_MMIO, SMALL},
	{KVM_UNREGISTER_COALESCED_MMIO, SMALL},
	{KVM_GET_CLOCK, SMALL},
	{KVM_SET_CLOCK, SMALL},
	{KVM_ENABLE_CAP, SMALL},
	{KVM_GET_STATS_FD, NONE},
	{KVM_RUN, RUN},
	{KVM_RUN, RUN},
	{KVM_GET_REGS, SMALL},
	{KVM_SET_REGS, SMALL},
	{KVM_GET_SREGS, SMALL},
	{KVM_SET_SREGS, SMALL},
	{KVM_GET_SREGS2, SMALL},
	{KVM_SET_SREGS2, SMALL},
	{KVM_INTERRUPT, SMALL},
	{KVM_NMI, NONE},
	{KVM_GET_MSRS, SMALL},
	{KVM_SET_MSRS, SMALL},
	{KVM_GET_VCPU_EVENTS, SMALL},
	{KVM_SET_VCPU_EVENTS, SMALL},
	{KVM_GET_DEBUGREGS, SMALL},
	{KVM_SET_DEBUGREGS, SMALL},
	{KVM_GET_FPU, SMALL},
	{KVM_SET_FPU, SMALL},
	{KVM_GET_XSAVE, SMALL},
	{KVM_SET_XSAVE, SMALL},
	{KVM_GET_XCRS, SMALL},
	{KVM_SET_XCRS, SMALL},
	{KVM_GET_LAPIC, SMALL},
	{KVM_SET_LAPIC, SMALL},
	{KVM_GET_MP_STATE, SMALL},
	{KVM_SET_MP_STATE, SMALL},
	{KVM_SET_CPUID, SMALL},
	{KVM_SET_CPUID2, SMALL},
	{KVM_GET_CPUID2, SMALL},
	{KVM_SET_SIGNAL_MASK, MASK},
	{KVM_SET_TSC_KHZ, BY_VALUE},
	{KVM_GET_TSC_KHZ, NONE},
	{KVM_SET_GUEST_DEBUG, SMALL},
	{KVM_TRANSLATE, SMALL},
	{KVM_KVMCLOCK_CTRL, NONE},
	{KVM_X86_SETUP_MCE, SMALL},
	/* After FIRST: the numbers of the old ones are in the corpus. */
	{KVM_X86_SET_MCE, SMALL},
	{KVM_X86_SET_MSR_FILTER, FILTER},
	{KVM_TPR_ACCESS_REPORTING, SMALL},
	{KVM_SET_VAPIC_ADDR, SMALL},
	{KVM_SMI, NONE},
	{KVM_GET_XSAVE2, SMALL},
	{KVM_CREATE_PIT, NONE},
	{KVM_X86_GET_MCE_CAP_SUPPORTED, SMALL},
};
#define FIRST	  72u /* then come four other operations */
#define OP_CLOSE  FIRST
#define OP_MMAP	  (FIRST + 1)
#define OP_SIGNAL (FIRST + 2)
#define OP_DMA	  (FIRST + 3)
#define OP_COUNT  (sizeof(requests) / sizeof(requests[0]) + 4)

struct script {
	const uint8_t *at, *end;
	int fd[DESCRIPTORS];
	void *map[DESCRIPTORS];
	int event[EVENTS];
	unsigned int vms, vcpus; /* made so far */
};

static uint8_t *memory, *arg;
static timer_t kick_timer;

static uint32_t kicks;

/* A KVM_RUN that does not heed them is a finding. */
static void on_kick(int sig)
{
	static const char text[] = "KVM_RUN does not heed signals\n";

	if (++kicks < MAX_KICKS)
		return;
	if (write(2, text, sizeof(text) - 1) < 0)
		_exit(3);
	abort();
}

/* With inaccessible pages on both sides. */
static uint8_t *guarded(size_t size)
{
	uint8_t *p = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + GUARD, size, PROT_READ | PROT_WRITE))
		abort();
	return p + GUARD;
}

static void init(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK};
	struct sigaction sa = {.sa_handler = on_kick};

	memory = guarded(MEMORY);
	arg = guarded(ARG_SIZE);
	sigaction(KICK, &sa, NULL);
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &kick_timer))
		abort();
}

static uint8_t next(struct script *s)
{
	return s->at < s->end ? *s->at++ : 0;
}

/* The rest of the argument is zero. */
static void fill_arg(struct script *s)
{
	size_t len = next(s);

	if (len == 255)
		len = 1500;
	if (len > (size_t)(s->end - s->at))
		len = (size_t)(s->end - s->at);
	memset(arg, 0, 4096);
	memcpy(arg, s->at, len);
	s->at += len;
}

static void keep(struct script *s, int fd)
{
	for (int i = 0; i < DESCRIPTORS; i++)
		if (s->fd[i] < 0) {
			s->fd[i] = fd;
			return;
		}
	soft_kvm_close(fd);
}

static void drop(struct script *s, int i)
{
	if (s->map[i])
		munmap(s->map[i], 3 * 4096);
	s->map[i] = NULL;
	if (s->fd[i] >= 0)
		soft_kvm_close(s->fd[i]);
	s->fd[i] = -1;
}

/* Signals until it is taken back. */
static void kick_later(long ns)
{
	struct itimerspec when = {.it_value.tv_nsec = ns, .it_interval.tv_nsec = ns};

	timer_settime(kick_timer, 0, &when, NULL);
}

static int run(int fd)
{
	int rc;

	kicks = 0;
	kick_later(RUN_NS);
	rc = soft_kvm_ioctl(fd, KVM_RUN, 0);
	kick_later(0);
	return rc;
}

static void fix_pointers(struct script *s, enum pointer pointer)
{
	struct kvm_userspace_memory_region *region = (void *)arg;
	struct kvm_dirty_log *log = (void *)arg;
	struct kvm_clear_dirty_log *clear = (void *)arg;
	struct kvm_irqfd *irqfd = (void *)arg;
	struct kvm_ioeventfd *ioeventfd = (void *)arg;
	struct kvm_signal_mask *mask = (void *)arg;
	struct kvm_msr_filter *filter = (void *)arg;
	uint64_t kick = 1ULL << (KICK - 1);

	switch (pointer) {
	case REGION:
		region->memory_size %= MEMORY + 1;
		region->userspace_addr %= MEMORY - region->memory_size + 1;
		region->userspace_addr += (uintptr_t)memory;
		break;
	case BITMAP:
		log->dirty_bitmap = arg + 4096;
		break;
	case CLEAR_BITMAP:
		clear->dirty_bitmap = arg + 64;
		break;
	case IRQFD:
		irqfd->fd = (uint32_t)s->event[irqfd->fd % EVENTS];
		irqfd->resamplefd = (uint32_t)s->event[irqfd->resamplefd % EVENTS];
		break;
	case IOEVENTFD:
		ioeventfd->fd = s->event[(uint32_t)ioeventfd->fd % EVENTS];
		break;
	case FILTER:
		for (int i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
			filter->ranges[i].bitmap = arg + 4096;
		break;
	case MASK:
		for (int i = 0; i < 8; i++)
			mask->sigset[i] &= (uint8_t) ~(kick >> i * 8);
		break;
	default:
		break;
	}
}

/* Would it make another one, of which there have been enough? */
static bool is_enough(const struct script *s, unsigned long request)
{
	return (request == KVM_CREATE_VM && s->vms == MAX_VMS) ||
	       (request == KVM_CREATE_VCPU && s->vcpus == MAX_VCPUS);
}

static void made(struct script *s, unsigned long request, int fd)
{
	if (request == KVM_CREATE_VM)
		s->vms++;
	else
		s->vcpus++;
	keep(s, fd);
}

static void request(struct script *s, unsigned int op, int fd)
{
	enum pointer pointer = requests[op].pointer;
	unsigned long value = (unsigned long)arg;
	int rc;

	if (pointer == RUN) {
		run(fd);
		return;
	}
	if (pointer == NONE) {
		value = 0;
	} else if (pointer == BY_VALUE) {
		value = next(s);
		value |= (unsigned long)(next(s) & 7) << 8;
	} else {
		fill_arg(s);
		fix_pointers(s, pointer);
	}
	if (is_enough(s, requests[op].request))
		return;
	rc = soft_kvm_ioctl(fd, requests[op].request, value);
	if (rc < 0)
		return;
	if (requests[op].request == KVM_CREATE_VM || requests[op].request == KVM_CREATE_VCPU)
		made(s, requests[op].request, rc);
	else if (requests[op].request == KVM_GET_STATS_FD)
		close(rc);
}

/* What a program may write into the shared pages between two calls. */
static void scribble(struct script *s, int i)
{
	size_t offset = next(s) * 40u;

	fill_arg(s);
	if (s->map[i])
		memcpy((uint8_t *)s->map[i] + offset, arg, 64);
}

static void step(struct script *s)
{
	unsigned int op = next(s) % OP_COUNT;
	int i = next(s) % DESCRIPTORS;

	if (op < FIRST)
		request(s, op, s->fd[i]);
	else if (op > OP_DMA)
		request(s, op - 4, s->fd[i]);
	else if (op == OP_CLOSE)
		drop(s, i);
	else if (op == OP_SIGNAL)
		event_signal(s->event[i % EVENTS]);
	else if (op == OP_DMA)
		soft_kvm_memory_written(s->fd[i], next(s) * 4096u, next(s) * 64u);
	else if (!s->map[i])
		s->map[i] = soft_kvm_mmap(s->fd[i], 3 * 4096);
	else
		scribble(s, i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = {.at = data, .end = data + size};

	if (!memory)
		init();
	memset(memory, 0xf4, MEMORY);
	for (int i = 0; i < DESCRIPTORS; i++)
		s.fd[i] = -1;
	for (int i = 0; i < EVENTS; i++)
		s.event[i] = event_new();
	keep(&s, soft_kvm_open());
	keep(&s, soft_kvm_ioctl(s.fd[0], KVM_CREATE_VM, 0));
	for (int ops = 0; ops < MAX_OPS && s.at < s.end; ops++)
		step(&s);
	/* First come, first closed: VMs before their vCPUs. */
	for (int i = 0; i < DESCRIPTORS; i++)
		drop(&s, i);
	for (int i = 0; i < EVENTS; i++)
		close(s.event[i]);
	return 0;
}
