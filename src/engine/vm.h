/*
 * A virtual machine of some engine: its descriptors and what it can do. All calls return >= 0 or
 * -errno. Any thread once opened.
 */
#ifndef ENGINE_VM_H
#define ENGINE_VM_H

#include "base/err.h"
#include "base/types.h"
#include "engine/engine.h"

struct engine_vm {
	const struct engine_class *engine;
	int sys_fd, fd;
};

/* Open the engine and create a VM. -errno with the reason. */
int engine_vm_open(struct engine_vm *vm, const struct engine_class *engine, struct err *err);
void engine_vm_close(struct engine_vm *vm);

static inline int engine_vm_ioctl(const struct engine_vm *vm, unsigned long request, void *arg)
{
	return vm->engine->ioctl(vm->fd, request, (unsigned long)arg);
}

/* KVM_CHECK_EXTENSION on the VM; 0 for what is not there. */
int engine_vm_has(const struct engine_vm *vm, unsigned int capability);

#endif
