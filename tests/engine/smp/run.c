/*
 * The monitor of the SMP guest: four vCPU threads, and meanwhile messages by irqfd, a memory slot
 * that comes and goes, reads of the dirty log, and signals.
 *
 * usage: smp-run ENGINE IMAGE ROUNDS
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/vm.h"
#include "layout.h"
#include "os/event.h"

#define ENTRY_WORDS 4 /* the image begins with the number of rounds; the code comes after it */

struct cpu {
	int fd, id;
	struct kvm_run *run;
	pthread_t thread;
	u64 exits, messages;
};

static struct engine_vm vm;
static struct cpu cpus[SMP_CPUS];
static u8 *ram, *logged, *coming;
static u64 dirty[LOGGED_PAGES / 64];
static u32 finished, failed;
static size_t run_size;
static int message_fd;

static void fail(const char *what, long code)
{
	fprintf(stderr, "smp-run: %s: %ld\n", what, code);
	exit(1);
}

static long call(int fd, unsigned long request, const void *arg)
{
	return vm.engine->ioctl(fd, request, (unsigned long)arg);
}

static void must(int fd, unsigned long request, const void *arg, const char *what)
{
	long rc = call(fd, request, arg);

	if (rc < 0)
		fail(what, rc);
}

/* ---- making it ---- */

static void set_slot(u32 id, u64 gpa, u64 len, void *host, u32 flags)
{
	struct kvm_userspace_memory_region r = {id, flags, gpa, len, (u64)(uintptr_t)host};

	must(vm.fd, KVM_SET_USER_MEMORY_REGION, &r, "KVM_SET_USER_MEMORY_REGION");
}

static u8 *memory(size_t len)
{
	u8 *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("memory", errno);
	return p;
}

static void make_tables(void)
{
	u64 *pml4 = (u64 *)(ram + PML4), *pdpt = (u64 *)(ram + PDPT);
	u64 *dir = (u64 *)(ram + PAGE_DIR), *window = (u64 *)(ram + WINDOW_DIR);
	u64 *gdt = (u64 *)(ram + GDT);

	pml4[0] = PDPT | 3;
	pdpt[0] = PAGE_DIR | 3;
	pdpt[1] = WINDOW_DIR | 3;
	for (u64 i = 0; i < 512; i++)
		dir[i] = i << 21 | 0x83;
	window[0] = WINDOW_PT | 3;
	*(u64 *)(ram + WINDOW_PT) = FRAME0 | 3;
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
}

static void load(const char *path, u32 rounds)
{
	static const u8 function[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, 0; ret */
	FILE *f = fopen(path, "rb");

	if (!f || !fread(ram + CODE, 1, STACKS - CODE, f))
		fail(path, errno);
	fclose(f);
	memcpy(ram + CODE, &rounds, sizeof(rounds));
	memcpy(ram + FUNCTION, function, sizeof(function));
}

static void set_cpuid(int fd)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *c = calloc(1, sizeof(*c));

	if (!c)
		fail("memory", ENOMEM);
	c->head.nent = 256;
	must(vm.sys_fd, KVM_GET_SUPPORTED_CPUID, c, "KVM_GET_SUPPORTED_CPUID");
	must(fd, KVM_SET_CPUID2, c, "KVM_SET_CPUID2");
	free(c);
}

static struct kvm_segment segment(u16 selector, u8 type)
{
	return (struct kvm_segment){.limit = ~0u,
				    .selector = selector,
				    .type = type,
				    .present = 1,
				    .s = 1,
				    .g = 1,
				    .l = type == 11,
				    .db = type != 11};
}

static void set_state(const struct cpu *c)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_regs regs = {.rip = CODE + 4 * ENTRY_WORDS,
				.rflags = 2,
				.rdi = (u64)c->id,
				.rsp = STACKS + 0x4000u * (u32)(c->id + 1) - 8};
	struct kvm_sregs s;

	must(c->fd, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
	s.cr0 = 0x80000033;
	s.cr3 = PML4;
	s.cr4 = 0x620;
	s.efer = 0xd00;
	s.cs = segment(8, 11);
	s.ds = s.es = s.ss = s.fs = s.gs = segment(16, 3);
	s.gdt.base = GDT;
	s.gdt.limit = 23;
	must(c->fd, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
	must(c->fd, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	must(c->fd, KVM_SET_MP_STATE, &mp, "KVM_SET_MP_STATE");
}

static void add_cpu(struct cpu *c, int id)
{
	long size = vm.engine->ioctl(vm.sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	long fd = vm.engine->ioctl(vm.fd, KVM_CREATE_VCPU, (unsigned long)id);

	if (fd < 0 || size < 0)
		fail("KVM_CREATE_VCPU", fd);
	run_size = (size_t)size;
	c->id = id;
	c->fd = (int)fd;
	c->run = vm.engine->mmap(c->fd, run_size);
	set_cpuid(c->fd);
	set_state(c);
}

/* One eventfd to each processor's APIC in turn would need more routes: they go to the last. */
static void route_messages(void)
{
	union {
		struct kvm_irq_routing head;
		u8 room[sizeof(struct kvm_irq_routing) + sizeof(struct kvm_irq_routing_entry)];
	} table = {.head.nr = 1};
	const struct kvm_irq_routing_entry entry = {
		.gsi = 30,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {.address_lo = 0xfee00000u | (SMP_CPUS - 1) << 12, .data = MSI_VECTOR}};
	struct kvm_irqfd irqfd = {.gsi = 30};

	memcpy(table.head.entries, &entry, sizeof(entry));
	must(vm.fd, KVM_SET_GSI_ROUTING, &table, "KVM_SET_GSI_ROUTING");
	message_fd = event_new();
	irqfd.fd = (u32)message_fd;
	must(vm.fd, KVM_IRQFD, &irqfd, "KVM_IRQFD");
}

/* ---- running it ---- */

static void on_signal(int sig)
{
}

/* False: it has said its last word. */
static bool handle_port(struct cpu *c)
{
	u32 value = 0;

	if (c->run->io.direction != KVM_EXIT_IO_OUT)
		return true;
	memcpy(&value, (u8 *)c->run + c->run->io.data_offset, c->run->io.size);
	switch (c->run->io.port) {
	case PORT_DONE:
		c->messages = value;
		return false;
	case PORT_FALSE:
		fprintf(stderr, "smp-run: cpu %d: guest.c:%u is not so\n", c->id, value);
		__atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
		return true;
	case PORT_FAULT:
		fprintf(stderr, "smp-run: cpu %d: an exception\n", c->id);
		exit(1);
	default: /* it waits for another */
		sched_yield();
		return true;
	}
}

static void *cpu_main(void *arg)
{
	struct cpu *c = arg;
	bool more = true;

	while (more) {
		long rc = call(c->fd, KVM_RUN, NULL);

		if (rc == -EINTR || rc == -EAGAIN)
			continue;
		if (rc < 0)
			fail("KVM_RUN", rc);
		c->exits++;
		if (c->run->exit_reason == KVM_EXIT_IO)
			more = handle_port(c);
		else if (c->run->exit_reason != KVM_EXIT_MMIO)
			fail("exit", (long)c->run->exit_reason);
	}
	__atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void read_log(void)
{
	u64 bits[LOGGED_PAGES / 64] = {0};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};

	must(vm.fd, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG");
	for (int i = 0; i < LOGGED_PAGES / 64; i++)
		dirty[i] |= bits[i];
}

/* What goes on beside the guest; returns how many messages were sent. */
static u64 disturb(void)
{
	u64 sent = 0;

	for (u32 i = 0; __atomic_load_n(&finished, __ATOMIC_ACQUIRE) < SMP_CPUS; i++) {
		usleep(300);
		event_signal(message_fd);
		sent++;
		set_slot(2, COMING, i & 1 ? 0 : PAGE_SIZE, coming, 0);
		read_log();
		if (i % 8 == 0 && __atomic_load_n(&finished, __ATOMIC_ACQUIRE) == 0)
			pthread_kill(cpus[i / 8 % SMP_CPUS].thread, SIGUSR1);
	}
	read_log();
	return sent;
}

int main(int argc, char **argv)
{
	const struct engine_class *engine = argc == 4 ? engine_lookup(argv[1]) : NULL;
	struct sigaction sa = {.sa_handler = on_signal};
	struct err err;
	u64 sent, exits = 0, pages = 0;

	if (!engine)
		fail("usage: smp-run ENGINE IMAGE ROUNDS", 0);
	if (engine_vm_open(&vm, engine, &err)) {
		printf("SKIP: %s\n", err.text);
		return 77;
	}
	sigaction(SIGUSR1, &sa, NULL);
	ram = memory(RAM);
	logged = memory(LOGGED_PAGES * PAGE_SIZE);
	coming = memory(PAGE_SIZE);
	set_slot(0, 0, RAM, ram, 0);
	set_slot(1, LOGGED, LOGGED_PAGES * PAGE_SIZE, logged, KVM_MEM_LOG_DIRTY_PAGES);
	make_tables();
	load(argv[2], (u32)strtoul(argv[3], NULL, 0));
	must(vm.fd, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
	route_messages();
	for (int i = 0; i < SMP_CPUS; i++)
		add_cpu(&cpus[i], i);
	for (int i = 0; i < SMP_CPUS; i++)
		if (pthread_create(&cpus[i].thread, NULL, cpu_main, &cpus[i]))
			fail("pthread_create", 0);
	sent = disturb();
	for (int i = 0; i < SMP_CPUS; i++) {
		pthread_join(cpus[i].thread, NULL);
		exits += cpus[i].exits;
		munmap(cpus[i].run, run_size);
		vm.engine->close(cpus[i].fd);
	}
	for (int i = 0; i < LOGGED_PAGES / 64; i++)
		pages += (u64)__builtin_popcountll(dirty[i]);
	engine_vm_close(&vm);
	printf("%s rounds: %llu exits, %llu messages sent, %llu taken, %llu pages logged\n",
	       argv[3], (unsigned long long)exits, (unsigned long long)sent,
	       (unsigned long long)cpus[SMP_CPUS - 1].messages, (unsigned long long)pages);
	return failed || pages != LOGGED_PAGES || !cpus[SMP_CPUS - 1].messages;
}
