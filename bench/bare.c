/*
 * The yardstick: KVM_RUN in a loop that handles nothing. Runs a flat real-mode guest with rcx set,
 * until it writes port 0xf4, and prints the exits, the wall time and the time to the first exit.
 *
 * usage: bare GUEST.bin ROUNDS [coalesced]
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RAM_SIZE (1 << 20)

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void check(int rc, const char *what)
{
	if (rc >= 0)
		return;
	perror(what);
	exit(1);
}

static void load(uint8_t *ram, const char *path)
{
	int fd = open(path, O_RDONLY);

	check(fd, path);
	check((int)read(fd, ram + 0x1000, RAM_SIZE - 0x1000), path);
	close(fd);
}

int main(int argc, char **argv)
{
	double start = now(), first = 0;
	struct kvm_userspace_memory_region slot = {.memory_size = RAM_SIZE};
	struct kvm_coalesced_mmio_zone zone = {.addr = 0xd0000000, .size = 4096};
	struct kvm_coalesced_mmio_ring *ring;
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
	struct kvm_sregs sregs;
	struct kvm_run *run;
	unsigned long exits = 0;
	int kvm, vm, vcpu, size;
	uint8_t *ram;

	if (argc < 3)
		return 2;
	kvm = open("/dev/kvm", O_RDWR);
	check(kvm, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	check(vm, "KVM_CREATE_VM");
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	load(ram, argv[1]);
	slot.userspace_addr = (uintptr_t)ram;
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "slot");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	check(vcpu, "KVM_CREATE_VCPU");
	if (argc > 3)
		check(ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone), "zone");
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	ring = (void *)((uint8_t *)run + 2 * 4096);
	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "sregs");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "sregs");
	regs.rcx = strtoul(argv[2], NULL, 0);
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "regs");
	for (;;) {
		check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (!exits++)
			first = now();
		if (argc > 3)
			ring->first = ring->last;
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0xf4)
			break;
		if (run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_MMIO) {
			fprintf(stderr, "exit %u\n", run->exit_reason);
			return 1;
		}
	}
	printf("exits %lu seconds %.6f first %.6f\n", exits, now() - first, first - start);
	return 0;
}
