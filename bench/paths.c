/*
 * The paths that pass the vCPU loop by: a doorbell (ioeventfd) by port and by memory, and an
 * interrupt to a halted guest's handler, by a write to an eventfd (irqfd) and as the seam signals
 * one, through the seam, on one engine.
 *
 * usage: paths ENGINE GUEST.bin      prints lines of name and nanoseconds
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/vm.h"
#include "os/clock.h"
#include "os/event.h"
#include "os/file.h"
#include "os/thread.h"

#define RAM_SIZE MiB
#define ROUNDS	 20000
#define IRQS	 1000

/* Entries of the guest, and its doorbells. */
enum { ENTRY_PORT = 0, ENTRY_IRQ = 3, ENTRY_MEMORY = 6 };
#define DOORBELL_PORT	0x600
#define DOORBELL_MEMORY 0x100ff0

struct rig {
	struct engine_vm vm;
	u8 *ram;
	int vcpu;
	struct kvm_run *run;
	int fd;
	bool by_call; /* signal with irqfd_signal() where there is one */
	u32 seen;     /* exits of the handler, atomic */
	struct thread sender;
	u64 total_ns;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int call(struct rig *r, int fd, unsigned long request, void *arg)
{
	int rc = r->vm.engine->ioctl(fd, request, (unsigned long)arg);

	if (rc < 0) {
		fprintf(stderr, "ioctl %lx: %d\n", request, rc);
		exit(1);
	}
	return rc;
}

static void open_rig(struct rig *r, const char *engine, const char *guest, bool irqchip, u16 offset)
{
	struct kvm_userspace_memory_region slot = {.memory_size = RAM_SIZE};
	struct kvm_regs regs = {.rip = 0x1000u + offset, .rcx = ROUNDS, .rflags = 2};
	struct kvm_sregs sregs;
	struct err err;
	void *code;
	size_t len;

	*r = (struct rig){.fd = event_new()};
	if (!engine_lookup(engine) || engine_vm_open(&r->vm, engine_lookup(engine), &err) ||
	    file_read_all(guest, 4096, &code, &len, &err))
		die(engine);
	r->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(r->ram + 0x1000, code, len);
	free(code);
	slot.userspace_addr = (u64)(uintptr_t)r->ram;
	call(r, r->vm.fd, KVM_SET_USER_MEMORY_REGION, &slot);
	if (irqchip)
		call(r, r->vm.fd, KVM_CREATE_IRQCHIP, NULL);
	r->vcpu = call(r, r->vm.fd, KVM_CREATE_VCPU, NULL);
	r->run = r->vm.engine->mmap(r->vcpu,
				    (size_t)call(r, r->vm.sys_fd, KVM_GET_VCPU_MMAP_SIZE, NULL));
	if (!r->run)
		die("kvm_run");
	call(r, r->vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	call(r, r->vcpu, KVM_SET_SREGS, &sregs);
	call(r, r->vcpu, KVM_SET_REGS, &regs);
}

/* Run to the next port write; its port. */
static u16 next_write(struct rig *r)
{
	do
		call(r, r->vcpu, KVM_RUN, NULL);
	while (r->run->exit_reason != KVM_EXIT_IO);
	return r->run->io.port;
}

/* In CPU time: it all happens on this thread, whatever else the machine does. */
static void doorbell(const char *engine, const char *guest, bool port)
{
	struct rig r;
	struct kvm_ioeventfd io = {.addr = port ? DOORBELL_PORT : DOORBELL_MEMORY,
				   .len = 1,
				   .flags = port ? KVM_IOEVENTFD_FLAG_PIO : 0};
	u64 start;

	open_rig(&r, engine, guest, false, port ? ENTRY_PORT : ENTRY_MEMORY);
	io.fd = r.fd;
	call(&r, r.vm.fd, KVM_IOEVENTFD, &io);
	start = clock_thread_cpu_ns();
	if (next_write(&r) != 0xf4)
		die("doorbell: a write exited");
	printf("%s-doorbell %.0f\n", port ? "port" : "memory",
	       (double)(clock_thread_cpu_ns() - start) / ROUNDS);
}

static void *send_irqs(void *arg)
{
	struct rig *r = arg;

	for (u32 i = 0; i < IRQS; i++) {
		u64 start;

		usleep(50); /* let the guest halt */
		start = clock_now_ns();
		if (r->by_call && r->vm.engine->irqfd_signal)
			r->vm.engine->irqfd_signal(r->vm.fd, r->fd);
		else
			event_signal(r->fd);
		while (__atomic_load_n(&r->seen, __ATOMIC_ACQUIRE) == i)
			__builtin_ia32_pause();
		r->total_ns += clock_now_ns() - start;
	}
	return NULL;
}

static void irqfd(const char *engine, const char *guest, bool by_call)
{
	struct kvm_irqfd arg = {.gsi = 5};
	struct rig r;

	open_rig(&r, engine, guest, true, ENTRY_IRQ);
	r.by_call = by_call;
	arg.fd = (u32)r.fd;
	call(&r, r.vm.fd, KVM_IRQFD, &arg);
	if (next_write(&r) != 0x602)
		die("irqfd: not ready");
	if (thread_start(&r.sender, THREAD_HELPER, "sender", send_irqs, &r))
		die("thread");
	for (u32 i = 0; i < IRQS; i++) {
		next_write(&r);
		__atomic_store_n(&r.seen, i + 1, __ATOMIC_RELEASE);
	}
	thread_join(&r.sender);
	printf("%s %.0f\n", by_call ? "interrupt" : "irqfd", (double)r.total_ns / IRQS);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	thread_init();
	doorbell(argv[1], argv[2], true);
	doorbell(argv[1], argv[2], false);
	irqfd(argv[1], argv[2], false);
	irqfd(argv[1], argv[2], true);
	return 0;
}
