#include "engine/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

int engine_vm_open(struct engine_vm *vm, const struct engine_class *engine, struct err *err)
{
	int rc;

	*vm = (struct engine_vm){.engine = engine, .fd = -1};
	vm->sys_fd = engine->open(err);
	if (vm->sys_fd < 0)
		return vm->sys_fd;
	do {
		vm->fd = engine->ioctl(vm->sys_fd, KVM_CREATE_VM, 0);
	} while (vm->fd == -EINTR);
	if (vm->fd >= 0)
		return 0;
	rc = vm->fd;
	engine->close(vm->sys_fd);
	vm->sys_fd = -1;
	return err_set(err, -rc, "%s: cannot create a VM: %s", engine->name, strerror(-rc));
}

void engine_vm_close(struct engine_vm *vm)
{
	if (!vm->engine)
		return;
	if (vm->fd >= 0)
		vm->engine->close(vm->fd);
	if (vm->sys_fd >= 0)
		vm->engine->close(vm->sys_fd);
	vm->fd = vm->sys_fd = -1;
}

int engine_vm_has(const struct engine_vm *vm, unsigned int capability)
{
	int rc = vm->engine->ioctl(vm->fd, KVM_CHECK_EXTENSION, capability);

	return rc < 0 ? 0 : rc;
}
