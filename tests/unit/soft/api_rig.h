/*
 * A small VM on any engine, for tests of the KVM API: the same test runs on softkvm and on the
 * host's /dev/kvm, and must see the same.
 */
#ifndef API_RIG_H
#define API_RIG_H

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"

#define RIG_RAM (256 * KiB)

struct api_rig {
	const struct engine_class *engine;
	int sys, vm, vcpu;
	u8 *ram; /* RIG_RAM bytes at guest-physical 0, in slot 0 */
	struct kvm_run *run;
	struct kvm_coalesced_mmio_ring *ring;
};

/* rig_setup() for a test whose initial state is the engine; rig_setup_irqchip() makes the in-kernel
 * chips first, rig_setup_vm() makes no vCPU and no memory. */
int rig_setup(void **state);
int rig_setup_irqchip(void **state);
int rig_setup_vm(void **state);
int rig_teardown(void **state);

int rig_vm(struct api_rig *rig, unsigned long request, unsigned long arg);
int rig_vcpu(struct api_rig *rig, unsigned long request, unsigned long arg);
#define VM(request, arg)   rig_vm(rig, request, (unsigned long)(arg))
#define VCPU(request, arg) rig_vcpu(rig, request, (unsigned long)(arg))

/* Put code at 0x1000 and start the vCPU there in real mode. */
void rig_load(struct api_rig *rig, const void *code, size_t len);
#define RIG_LOAD(rig, ...)                                                                         \
	do {                                                                                       \
		const u8 code_[] = {__VA_ARGS__};                                                  \
		rig_load(rig, code_, sizeof(code_));                                               \
	} while (0)
/* KVM_RUN until it returns something else than -EINTR or -EAGAIN. */
int rig_run(struct api_rig *rig);
bool rig_is_soft(const struct api_rig *rig);
/* Wait up to ten seconds for an eventfd; false: it was not signalled. */
bool rig_wait_event(int fd);

/* Run the tests on each engine that is there. */
int rig_main(const char *name, const struct CMUnitTest *tests, size_t count);
#define RIG_MAIN(tests) rig_main(#tests, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
