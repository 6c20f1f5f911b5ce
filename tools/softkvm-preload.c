/*
 * Lets a program that speaks to /dev/kvm run on softkvm, unchanged:
 *
 *   LD_PRELOAD=build/softkvm-preload.so qemu-system-x86_64 -accel kvm ...
 *
 * It stands before open, ioctl and close of the C library. Handles are real descriptors, so that
 * mmap and poll need no help.
 */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* both names of open are defined here */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "engine/soft/soft.h"

/* What <fcntl.h> declares only for fortified programs. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);

static int result(int rc)
{
	if (rc >= 0)
		return rc;
	errno = -rc;
	return -1;
}

static int open_path(const char *path, int flags, mode_t mode)
{
	if (path && !strcmp(path, "/dev/kvm"))
		return result(soft_kvm_open());
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#define DEFINE_OPEN(name)                                                                          \
	int name(const char *path, int flags, ...)                                                 \
	{                                                                                          \
		va_list args;                                                                      \
		mode_t mode = 0;                                                                   \
                                                                                                   \
		va_start(args, flags);                                                             \
		if (flags & (O_CREAT | __O_TMPFILE))                                               \
			mode = va_arg(args, mode_t);                                               \
		va_end(args);                                                                      \
		return open_path(path, flags, mode);                                               \
	}
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

int __open_2(const char *path, int flags)
{
	return open_path(path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
	return open_path(path, flags, 0);
}

int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list args;
	int rc;

	va_start(args, request);
	arg = va_arg(args, unsigned long);
	va_end(args);
	if (_IOC_TYPE(request) == KVMIO) {
		rc = soft_kvm_ioctl(fd, request, arg);
		if (rc != -EBADF)
			return result(rc);
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

int close(int fd)
{
	return result(soft_kvm_close(fd));
}
