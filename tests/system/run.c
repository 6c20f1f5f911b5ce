/*
 * Run a firmware-like image (the last 64 KiB below 1 MiB and below 4 GiB) on an engine, its reset
 * vector first. Bytes written to port 0xe9 are printed; a write to port 0xf4 ends the run.
 *
 * usage: run ENGINE IMAGE [SKIP]
 *
 * SKIP is what port 0xea answers: bits of what the guest should leave out (guest.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/kvm.h>

#include "engine/engine.h"
#include "engine/vm.h"

#define RAM	  (16 * MiB)
#define ROM	  (64 * KiB)
#define MAX_CPUID 256

static struct engine_vm vm;
static size_t run_size;
static u8 skip;

static void fail(const char *what, long code)
{
	fprintf(stderr, "run: %s: %ld\n", what, code);
	exit(1);
}

static long call(int fd, unsigned long request, void *arg)
{
	return vm.engine->ioctl(fd, request, (unsigned long)arg);
}

static void must(int fd, unsigned long request, void *arg, const char *what)
{
	long rc = call(fd, request, arg);

	if (rc < 0)
		fail(what, rc);
}

static void add_slot(u32 id, u64 gpa, u64 len, void *host, u32 flags)
{
	struct kvm_userspace_memory_region r = {id, flags, gpa, len, (u64)host};

	must(vm.fd, KVM_SET_USER_MEMORY_REGION, &r, "KVM_SET_USER_MEMORY_REGION");
}

static void make_memory(const char *path)
{
	u8 *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	u8 *rom = mmap(NULL, ROM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	FILE *f = fopen(path, "rb");

	if (!f || fread(rom, 1, ROM, f) != ROM)
		fail(path, 0);
	fclose(f);
	add_slot(0, 0, 0xf0000, ram, 0);
	add_slot(1, 0xf0000, ROM, rom, KVM_MEM_READONLY);
	add_slot(2, MiB, RAM - MiB, ram + MiB, 0);
	add_slot(3, 0xffff0000, ROM, rom, KVM_MEM_READONLY);
}

/* Where vendors differ (SYSENTER in long mode), as AMD's processors. */
static void set_vendor(struct kvm_cpuid_entry2 *e)
{
	memcpy(&e->ebx, "Auth", 4);
	memcpy(&e->edx, "enti", 4);
	memcpy(&e->ecx, "cAMD", 4);
}

static int make_vcpu(struct kvm_run **run)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[MAX_CPUID];
	} *cpuid = calloc(1, sizeof(*cpuid));
	long size = vm.engine->ioctl(vm.sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	long fd = vm.engine->ioctl(vm.fd, KVM_CREATE_VCPU, 0);

	if (fd < 0 || size < 0)
		fail("KVM_CREATE_VCPU", fd);
	cpuid->head.nent = MAX_CPUID;
	must(vm.sys_fd, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
	/* Reserved bits of page table entries, the same everywhere. */
	for (u32 i = 0; i < cpuid->head.nent; i++)
		if (cpuid->entry[i].function == 0x80000008)
			cpuid->entry[i].eax = 48 << 8 | 40;
		else if (cpuid->entry[i].function == 0 || cpuid->entry[i].function == 0x80000000)
			set_vendor(&cpuid->entry[i]);
	must((int)fd, KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
	run_size = (size_t)size;
	*run = vm.engine->mmap((int)fd, run_size);
	free(cpuid);
	return (int)fd;
}

static bool handle_io(struct kvm_run *run)
{
	u8 *data = (u8 *)run + run->io.data_offset;

	if (run->io.direction == KVM_EXIT_IO_IN)
		memset(data, run->io.port == 0xea ? skip : 0xff,
		       (size_t)run->io.size * run->io.count);
	else if (run->io.port == 0xe9)
		fwrite(data, run->io.size, run->io.count, stdout);
	else if (run->io.port == 0xf4)
		return false;
	return true;
}

int main(int argc, char **argv)
{
	const struct engine_class *engine = argc == 3 || argc == 4 ? engine_lookup(argv[1]) : NULL;
	struct kvm_run *run;
	struct err err;
	int fd;

	if (!engine)
		fail("usage: run ENGINE IMAGE [SKIP]", 0);
	skip = argc == 4 ? (u8)atoi(argv[3]) : 0;
	if (engine_vm_open(&vm, engine, &err)) {
		printf("SKIP: %s\n", err.text);
		return 77;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_memory(argv[2]);
	fd = make_vcpu(&run);
	for (;;) {
		long rc = call(fd, KVM_RUN, NULL);

		if (rc < 0)
			fail("KVM_RUN", rc);
		if (run->exit_reason == KVM_EXIT_IO) {
			if (!handle_io(run))
				break;
			continue;
		}
		if (run->exit_reason == KVM_EXIT_SHUTDOWN) {
			puts("shutdown");
			break;
		}
		fflush(stdout);
		fail("exit reason", (long)run->exit_reason);
	}
	munmap(run, run_size);
	vm.engine->close(fd);
	engine_vm_close(&vm);
	return 0;
}
