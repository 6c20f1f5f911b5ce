/* The engine that forwards to the kernel's /dev/kvm. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/engine.h"

#define DEV_KVM "/dev/kvm"

static int explain_open(int error, struct err *err)
{
	switch (error) {
	case ENOENT:
		return err_set(err, ENOENT,
			       "no " DEV_KVM
			       ": the kernel offers no KVM here (no VT-x or AMD-V, or "
			       "kvm-intel/kvm-amd not loaded); use --engine soft");
	case EACCES:
	case EPERM:
		return err_set(err, error,
			       "no permission for " DEV_KVM
			       ": join the group that owns it (usermod "
			       "-aG kvm $USER, then log in again), or use --engine soft");
	default:
		return err_set(err, error, DEV_KVM ": %s; --engine soft needs none",
			       strerror(error));
	}
}

static int kvm_open(struct err *err)
{
	int fd = open(DEV_KVM, O_RDWR | O_CLOEXEC), version;

	if (fd < 0)
		return explain_open(errno, err);
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version < 0) {
		close(fd);
		return err_set(err, ENOTSUP, DEV_KVM ": not a KVM device");
	}
	if (version != KVM_API_VERSION) {
		close(fd);
		return err_set(err, ENOTSUP, DEV_KVM ": API version %d, not %d", version,
			       KVM_API_VERSION);
	}
	return fd;
}

/* The bare system call: this is on the path of every exit, and libc's errno is of no use here. */
static int kvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
	long rc;

	__asm__ volatile("syscall"
			 : "=a"(rc)
			 : "0"(SYS_ioctl), "D"((long)fd), "S"(request), "d"(arg)
			 : "rcx", "r11", "memory");
	return (int)rc;
}

static void *kvm_mmap(int fd, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int kvm_close(int fd)
{
	return close(fd) ? -errno : 0;
}

const struct engine_class kvm_engine = {
	.name = "kvm",
	.summary = "the kernel's " DEV_KVM " (hardware virtualization)",
	.open = kvm_open,
	.ioctl = kvm_ioctl,
	.mmap = kvm_mmap,
	.close = kvm_close,
};
