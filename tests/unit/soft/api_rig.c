#include "api_rig.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os/event.h"
#include "os/thread.h"

static const struct engine_class *current;

int rig_vm(struct api_rig *rig, unsigned long request, unsigned long arg)
{
	return rig->engine->ioctl(rig->vm, request, arg);
}

int rig_vcpu(struct api_rig *rig, unsigned long request, unsigned long arg)
{
	return rig->engine->ioctl(rig->vcpu, request, arg);
}

bool rig_is_soft(const struct api_rig *rig)
{
	return !strcmp(rig->engine->name, "soft");
}

int rig_setup_vm(void **state)
{
	struct api_rig *rig = calloc(1, sizeof(*rig));
	struct err err;

	rig->engine = current;
	rig->vcpu = -1;
	rig->sys = current->open(&err);
	rig->vm = current->ioctl(rig->sys, KVM_CREATE_VM, 0);
	*state = rig;
	return rig->vm < 0;
}

static int add_memory(struct api_rig *rig)
{
	struct kvm_userspace_memory_region region = {.memory_size = RIG_RAM};

	rig->ram = mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (u64)(uintptr_t)rig->ram;
	return VM(KVM_SET_USER_MEMORY_REGION, &region);
}

static int add_vcpu(struct api_rig *rig)
{
	rig->vcpu = VM(KVM_CREATE_VCPU, 0);
	if (rig->vcpu < 0)
		return rig->vcpu;
	rig->run = rig->engine->mmap(rig->vcpu, 3 * PAGE_SIZE);
	rig->ring = (void *)((u8 *)rig->run + 2 * PAGE_SIZE);
	return !rig->run;
}

int rig_setup(void **state)
{
	int rc = rig_setup_vm(state);

	return rc || add_memory(*state) || add_vcpu(*state);
}

int rig_setup_irqchip(void **state)
{
	int rc = rig_setup_vm(state);

	if (rc)
		return rc;
	rc = rig_vm(*state, KVM_CREATE_IRQCHIP, 0);
	return rc || add_memory(*state) || add_vcpu(*state);
}

int rig_teardown(void **state)
{
	struct api_rig *rig = *state;

	if (rig->run)
		munmap(rig->run, 3 * PAGE_SIZE);
	if (rig->vcpu >= 0)
		rig->engine->close(rig->vcpu);
	rig->engine->close(rig->vm);
	rig->engine->close(rig->sys);
	if (rig->ram)
		munmap(rig->ram, RIG_RAM);
	free(rig);
	return 0;
}

void rig_load(struct api_rig *rig, const void *code, size_t len)
{
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2, .rsp = 0x800};
	struct kvm_sregs sregs;

	memcpy(rig->ram + 0x1000, code, len);
	assert_int_equal(VCPU(KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	assert_int_equal(VCPU(KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(VCPU(KVM_SET_REGS, &regs), 0);
}

int rig_run(struct api_rig *rig)
{
	int rc;

	do
		rc = VCPU(KVM_RUN, 0);
	while (rc == -EINTR || rc == -EAGAIN);
	return rc;
}

bool rig_wait_event(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 10000) == 1 && event_clear(fd);
}

int rig_main(const char *name, const struct CMUnitTest *tests, size_t count)
{
	int failed = 0;

	thread_init();
	for (size_t i = 0; engine_classes[i]; i++) {
		struct err err;
		int fd;

		current = engine_classes[i];
		fd = current->open(&err);
		if (fd < 0) {
			printf("%s: %s\n", current->name, err.text);
			continue;
		}
		current->close(fd);
		printf("engine %s\n", current->name);
		failed += _cmocka_run_group_tests(name, tests, count, NULL, NULL);
	}
	return failed != 0;
}
