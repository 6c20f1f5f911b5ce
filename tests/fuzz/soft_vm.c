/*
 * KVM_RUN through the API, on a state and a memory that the input chose, in every mode, with and
 * without interrupt controllers, until twenty exits were answered. Nothing may crash, hang for good
 * or touch host memory outside the slots, which have inaccessible pages on both sides.
 *
 * Input: struct vm_header, then code. Under the thread sanitizer a second vCPU runs beside the
 * first.
 */
#define _GNU_SOURCE
#include "soft_vm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/soft/soft.h"
#include "os/event.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define GUARD	  0x10000u
#define KICK	  (SIGRTMIN + 1)
#define KICK_NS	  300000
#define MAX_KICKS 200000 /* in one KVM_RUN: a minute */
#define EXITS	  20
#define RUN_SIZE  (3 * PAGE_SIZE)

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SMP 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SMP 1
#endif
#ifndef SMP
#define SMP 0
#endif
#define CPUS (1 + SMP)

enum chips { NO_CHIPS, ALL_CHIPS, SPLIT_CHIPS, CHIP_SETS };

struct vm {
	int fd, vcpu[CPUS];
	struct kvm_run *run[CPUS];
	struct kvm_lapic_state lapic; /* after reset */
	struct kvm_sregs sregs;
	int irqfd;
	enum chips chips;
};

static u8 *ram, *rom, *logged;
static const char *const back_ends[] = {"interpreter", "eager"};
static int sys_fd[2];
static struct vm vms[2][CHIP_SETS];
static u64 seed;

static void must(long rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %ld\n", what, rc);
	abort();
}

static int call(int fd, unsigned long request, void *arg)
{
	return soft_kvm_ioctl(fd, request, (unsigned long)arg);
}

/* ---- making the machines, once ---- */

static u8 *guarded(size_t size)
{
	u8 *p = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + GUARD, size, PROT_READ | PROT_WRITE))
		abort();
	return p + GUARD;
}

static void add_slot(const struct vm *vm, u32 id, u64 gpa, u64 size, const u8 *host, u32 flags)
{
	struct kvm_userspace_memory_region r = {id, flags, gpa, size, (u64)(uintptr_t)host};

	must(call(vm->fd, KVM_SET_USER_MEMORY_REGION, &r), "slot");
}

static void enable(const struct vm *vm, u32 cap, u64 arg)
{
	struct kvm_enable_cap e = {.cap = cap, .args = {arg}};

	must(call(vm->fd, KVM_ENABLE_CAP, &e), "KVM_ENABLE_CAP");
}

static void add_io(struct vm *vm)
{
	struct kvm_coalesced_mmio_zone zone = {.addr = VM_ZONE, .size = PAGE_SIZE};
	struct kvm_coalesced_mmio_zone ports = {.addr = 0x80, .size = 4, .pio = 1};
	struct kvm_ioeventfd bell = {.addr = VM_DOORBELL, .fd = event_new()};
	struct kvm_ioeventfd port = {.addr = 0x70, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO};

	port.fd = event_new();
	must(call(vm->fd, KVM_REGISTER_COALESCED_MMIO, &zone), "zone");
	must(call(vm->fd, KVM_REGISTER_COALESCED_MMIO, &ports), "ports");
	must(call(vm->fd, KVM_IOEVENTFD, &bell), "ioeventfd");
	must(call(vm->fd, KVM_IOEVENTFD, &port), "ioeventfd");
}

static void add_chips(struct vm *vm, enum chips chips)
{
	struct kvm_pit_config pit = {0};
	struct kvm_irqfd irqfd = {.gsi = 5};

	if (chips == SPLIT_CHIPS)
		enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24);
	if (chips != ALL_CHIPS)
		return;
	must(call(vm->fd, KVM_CREATE_IRQCHIP, NULL), "KVM_CREATE_IRQCHIP");
	must(call(vm->fd, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
	irqfd.fd = (u32)(vm->irqfd = event_new());
	must(call(vm->fd, KVM_IRQFD, &irqfd), "KVM_IRQFD");
}

static void set_cpuid(int sys, int vcpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	c->head.nent = 256;
	must(call(sys, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
	must(call(vcpu, KVM_SET_CPUID2, c), "KVM_SET_CPUID2");
	free(c);
}

static void add_vcpu(struct vm *vm, int sys, int i)
{
	vm->vcpu[i] = soft_kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)i);
	must(vm->vcpu[i], "KVM_CREATE_VCPU");
	vm->run[i] = soft_kvm_mmap(vm->vcpu[i], RUN_SIZE);
	set_cpuid(sys, vm->vcpu[i]);
}

static void make_vm(struct vm *vm, int sys, enum chips chips)
{
	static u64 bits = 0; /* STAR is the user's; whole words are read */
	struct kvm_msr_filter filter = {
		.ranges[0] = {.flags = 3, .nmsrs = 1, .base = 0xc0000081, .bitmap = (u8 *)&bits}};

	vm->chips = chips;
	vm->fd = soft_kvm_ioctl(sys, KVM_CREATE_VM, 0);
	must(vm->fd, "KVM_CREATE_VM");
	add_slot(vm, 0, 0, VM_RAM, ram, 0);
	add_slot(vm, 1, VM_ROM, VM_ROM_SIZE, rom, KVM_MEM_READONLY);
	add_slot(vm, 2, VM_LOGGED, VM_LOG_SIZE, logged, KVM_MEM_LOG_DIRTY_PAGES);
	add_chips(vm, chips);
	for (int i = 0; i < CPUS; i++)
		add_vcpu(vm, sys, i);
	add_io(vm);
	enable(vm, KVM_CAP_X86_USER_SPACE_MSR, 7);
	enable(vm, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
	must(call(vm->fd, KVM_X86_SET_MSR_FILTER, &filter), "filter");
	must(call(vm->vcpu[0], KVM_GET_SREGS, &vm->sregs), "KVM_GET_SREGS");
	if (chips != NO_CHIPS)
		must(call(vm->vcpu[0], KVM_GET_LAPIC, &vm->lapic), "KVM_GET_LAPIC");
}

/* ---- interrupting KVM_RUN ---- */

static u32 kicks;

static void on_kick(int sig)
{
	if (__atomic_add_fetch(&kicks, 1, __ATOMIC_RELAXED) < MAX_KICKS)
		return;
	static const char text[] = "KVM_RUN does not heed signals\n";

	if (write(2, text, sizeof(text) - 1) < 0)
		_exit(3);
	abort();
}

static timer_t kick_timer(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK};
	timer_t timer;

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer))
		abort();
	return timer;
}

static void kick_every(timer_t timer, long ns)
{
	struct itimerspec when = {.it_value.tv_nsec = ns, .it_interval.tv_nsec = ns};

	__atomic_store_n(&kicks, 0, __ATOMIC_RELAXED);
	timer_settime(timer, 0, &when, NULL);
}

/* So that what a machine does not give back is a leak. */
static void close_all(void)
{
	for (int k = 0; k < 2; k++) {
		for (int i = 0; i < CHIP_SETS; i++) {
			for (int n = 0; n < CPUS; n++) {
				munmap(vms[k][i].run[n], RUN_SIZE);
				soft_kvm_close(vms[k][i].vcpu[n]);
			}
			soft_kvm_close(vms[k][i].fd);
		}
		soft_kvm_close(sys_fd[k]);
	}
}

static void init(void)
{
	struct sigaction sa = {.sa_handler = on_kick};

	ram = guarded(VM_RAM);
	rom = guarded(VM_ROM_SIZE);
	logged = guarded(VM_LOG_SIZE);
	sigaction(KICK, &sa, NULL);
	for (int k = 0; k < 2; k++) {
		sys_fd[k] = soft_kvm_open_exec(back_ends[k]);
		must(sys_fd[k], "open");
		for (int i = 0; i < CHIP_SETS; i++)
			make_vm(&vms[k][i], sys_fd[k], i);
	}
	atexit(close_all);
}

/* ---- one machine, one input ---- */

static void set_lapic(struct vm *vm, int cpu, const struct vm_header *h)
{
	struct kvm_lapic_state lapic = vm->lapic;
	u32 spiv = 0x1ff, timer = 0x20040 | (h->chips & 4 ? 1 << 16 : 0);

	if (h->chips & 8) { /* enabled, its timer periodic */
		memcpy(lapic.regs + 0xf0, &spiv, 4);
		memcpy(lapic.regs + 0x320, &timer, 4);
	}
	call(vm->vcpu[cpu], KVM_SET_LAPIC, &lapic);
}

static void load(struct vm *vm, int cpu, const struct vm_header *h, const struct vm_state *s)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_vcpu_events none = {.flags = KVM_VCPUEVENT_VALID_SHADOW |
						KVM_VCPUEVENT_VALID_NMI_PENDING};
	int fd = vm->vcpu[cpu];

	call(fd, KVM_SET_VCPU_EVENTS, &none);
	must(call(fd, KVM_SET_SREGS, (void *)&s->sregs), "KVM_SET_SREGS");
	must(call(fd, KVM_SET_REGS, (void *)&s->regs), "KVM_SET_REGS");
	call(fd, KVM_SET_DEBUGREGS, (void *)&s->debugregs);
	call(fd, KVM_SET_GUEST_DEBUG, (void *)&s->debug);
	call(fd, KVM_SET_MP_STATE, &mp);
	if (vm->chips != NO_CHIPS)
		set_lapic(vm, cpu, h);
	call(fd, KVM_SET_VCPU_EVENTS, (void *)&s->events);
	memset(vm->run[cpu], 0, 256);
	vm->run[cpu]->cr8 = s->sregs.cr8;
}

/* The user's part of an exit. False: it was the last. */
static bool answer(struct kvm_run *run, u64 *rng)
{
	u64 v = vm_random(rng);

	switch (run->exit_reason) {
	case KVM_EXIT_MMIO:
		if (!run->mmio.is_write)
			memcpy(run->mmio.data, &v, 8);
		return true;
	case KVM_EXIT_IO:
		if (run->io.direction == KVM_EXIT_IO_IN)
			memset((u8 *)run + run->io.data_offset, (int)v,
			       (size_t)run->io.size * run->io.count);
		return true;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = v & 1;
		run->msr.data = v;
		return true;
	case KVM_EXIT_HYPERCALL:
		run->hypercall.ret = v;
		return true;
	case KVM_EXIT_SHUTDOWN:
	case KVM_EXIT_INTERNAL_ERROR:
		return false;
	default:
		run->request_interrupt_window = v & 1;
		return true;
	}
}

static void interrupt(struct vm *vm, u64 *rng)
{
	u64 r = vm_random(rng);
	struct kvm_irq_level line = {.irq = r >> 8 & 31, .level = r >> 16 & 1};
	struct kvm_msi msi = {.address_lo = 0xfee00000 | (u32)(r >> 20 & 3) << 12,
			      .data = (u32)(r >> 32) & 0xc7ff};
	struct kvm_interrupt vector = {.irq = (u32)(r >> 8 & 255)};

	switch (r & 7) {
	case 0:
		call(vm->vcpu[0], KVM_NMI, NULL);
		break;
	case 1:
	case 2:
		call(vm->fd, KVM_IRQ_LINE, &line);
		break;
	case 3:
	case 4:
		call(vm->fd, KVM_SIGNAL_MSI, &msi);
		break;
	case 5:
		if (vm->irqfd)
			event_signal(vm->irqfd);
		break;
	default:
		call(vm->vcpu[0], KVM_INTERRUPT, &vector);
		break;
	}
}

/* What a monitor does between two entries. */
static void change(struct vm *vm, int cpu, u64 *rng)
{
	u64 bitmap[VM_LOG_SIZE / PAGE_SIZE / 64 + 1] = {0};
	struct kvm_dirty_log log = {.slot = 2, .dirty_bitmap = bitmap};
	struct kvm_translation t = {.linear_address = vm_interesting(rng)};
	struct kvm_userspace_memory_region slot = {2, KVM_MEM_LOG_DIRTY_PAGES, VM_LOGGED, 0,
						   (u64)(uintptr_t)logged};
	struct kvm_sregs2 s2;

	switch (vm_random(rng) & 7) {
	case 0:
		call(vm->fd, KVM_GET_DIRTY_LOG, &log);
		break;
	case 1:
		call(vm->vcpu[0], KVM_TRANSLATE, &t);
		break;
	case 2:
		call(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot);
		slot.memory_size = VM_LOG_SIZE;
		must(call(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot), "slot again");
		break;
	case 3:
		memset(ram + VM_CODE + (vm_random(rng) & 63), (int)vm_random(rng), 4);
		soft_kvm_memory_written(vm->fd, VM_CODE, 128);
		break;
	case 4:
		if (!call(vm->vcpu[cpu], KVM_GET_SREGS2, &s2))
			call(vm->vcpu[cpu], KVM_SET_SREGS2, &s2);
		break;
	case 5:
		vm->run[cpu]->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
		vm->run[cpu]->kvm_dirty_regs =
			vm->run[cpu]->s.regs.regs.rip ? KVM_SYNC_X86_REGS : 0;
		break;
	default:
		break;
	}
}

static void run(struct vm *vm, int cpu, const struct vm_header *h, u64 *rng)
{
	int exits = h->flags & VM_STEP ? 10 * EXITS : EXITS, interrupted = 0;

	for (int i = 0; i < exits && interrupted < 3; i++) {
		int rc;

		__atomic_store_n(&kicks, 0, __ATOMIC_RELAXED);
		rc = soft_kvm_ioctl(vm->vcpu[cpu], KVM_RUN, 0);
		if (rc == -EINTR)
			interrupted++;
		else if (rc || !answer(vm->run[cpu], rng))
			return;
		if (h->flags & VM_INTERRUPTS)
			interrupt(vm, rng);
		if (h->flags & VM_CHANGES)
			change(vm, cpu, rng);
	}
}

/* ---- a second processor ---- */

struct second {
	struct vm *vm;
	const struct vm_header *h;
	u64 seed;
};

#if SMP
static void *second_main(void *arg)
{
	struct second *s = arg;
	timer_t timer = kick_timer();

	kick_every(timer, KICK_NS);
	run(s->vm, 1, s->h, &s->seed);
	timer_delete(timer);
	return NULL;
}
#endif

static void run_all(struct vm *vm, const struct vm_header *h, timer_t timer)
{
#if SMP
	struct second s = {vm, h, seed * 3 | 1};
	pthread_t thread;

	if (pthread_create(&thread, NULL, second_main, &s))
		abort();
#endif
	kick_every(timer, KICK_NS);
	run(vm, 0, h, &seed);
	kick_every(timer, 0);
#if SMP
	pthread_join(thread, NULL);
#endif
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static timer_t timer;
	struct vm_header h;
	struct vm_state s;
	struct vm *vm;

	if (size < sizeof(h) + 1 || size > sizeof(h) + VM_CODE_SIZE)
		return 0;
	if (!ram) {
		init();
		timer = kick_timer();
	}
	memcpy(&h, data, sizeof(h));
	seed = h.seed | 1;
	vm = &vms[h.rflags >> 28 & 1][(h.chips & 3) % CHIP_SETS];
	madvise(ram, VM_RAM, MADV_DONTNEED);
	s.sregs = vm->sregs;
	vm_make_state(&h, &seed, ram, &s);
	memcpy(ram + VM_CODE, data + sizeof(h), size - sizeof(h));
	soft_kvm_memory_written(vm->fd, 0, VM_RAM);
	for (int i = 0; i < CPUS; i++)
		load(vm, i, &h, &s);
	run_all(vm, &h, timer);
	return 0;
}
