/* softkvm behind the seam. */
#include "engine/engine.h"

#include <string.h>

#include "engine/soft/soft.h"

static int soft_open_exec(const char *exec, struct err *err)
{
	int fd = soft_kvm_open_exec(exec);

	return fd < 0 ? err_set(err, -fd, "cannot start the software engine: %s", strerror(-fd))
		      : fd;
}

#define SOFT_ENGINE(id, exec, full_name, text)                                                     \
	static int id##_open(struct err *err)                                                      \
	{                                                                                          \
		return soft_open_exec(exec, err);                                                  \
	}                                                                                          \
	const struct engine_class id##_engine = {                                                  \
		.name = full_name,                                                                 \
		.summary = text,                                                                   \
		.open = id##_open,                                                                 \
		.ioctl = soft_kvm_ioctl,                                                           \
		.mmap = soft_kvm_mmap,                                                             \
		.close = soft_kvm_close,                                                           \
		.memory_written = soft_kvm_memory_written,                                         \
		.irqfd_signal = soft_kvm_irqfd_signal,                                             \
	};

SOFT_ENGINE(soft, NULL, "soft", "KVM in user space; needs no /dev/kvm")
SOFT_ENGINE(soft_interpreter, "interpreter", "soft,exec=interpreter",
	    "KVM in user space, by interpretation")
SOFT_ENGINE(soft_translator, "translator", "soft,exec=translator",
	    "KVM in user space, hot code translated")
SOFT_ENGINE(soft_eager, "eager", "soft,exec=eager",
	    "KVM in user space, all code translated: for tests")
