/* softkvm behind the seam. */
#include "engine/engine.h"

#include <string.h>

#include "engine/soft/soft.h"

static int soft_open(struct err *err)
{
	int fd = soft_kvm_open();

	return fd < 0 ? err_set(err, -fd, "cannot start the software engine: %s", strerror(-fd))
		      : fd;
}

const struct engine_class soft_engine = {
	.name = "soft",
	.summary = "KVM in user space, by interpretation; needs no /dev/kvm",
	.open = soft_open,
	.ioctl = soft_kvm_ioctl,
	.mmap = soft_kvm_mmap,
	.close = soft_kvm_close,
	.memory_written = soft_kvm_memory_written,
	.irqfd_signal = soft_kvm_irqfd_signal,
};
