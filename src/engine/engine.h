/*
 * The seam: the KVM API, in its own shape. Everything above runs on an engine through these few
 * calls with the types of <linux/kvm.h>, and never asks which engine it is. The specification of
 * both engines is the kernel's Documentation/virt/kvm/api.rst.
 *
 * Handles are file descriptors in both engines. All calls may be made from any thread, with the
 * kernel's own rules for vCPU descriptors.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"
#include "base/types.h"

struct engine_class {
	const char *name;    /* what --engine takes */
	const char *summary; /* one line for help */

	/* The system descriptor (as open("/dev/kvm")), or -errno with the reason and remedy. */
	int (*open)(struct err *err);
	/* As ioctl(2), but a failure is the value -errno. arg is a pointer or a number as the
	 * request wants it. */
	int (*ioctl)(int fd, unsigned long request, unsigned long arg);
	/* Map len bytes of a vCPU descriptor (struct kvm_run and what follows it), shared, readable
	 * and writable; NULL with errno. Unmap with munmap(2). */
	void *(*mmap)(int fd, size_t len);
	int (*close)(int fd);
	/* A hint that guest memory [gpa, gpa + len) was written by the monitor, for engines that
	 * keep decoded code; NULL where the hardware sees to it. Any thread; cheap. */
	void (*memory_written)(int vm_fd, u64 gpa, u64 len);
	/* Signal an eventfd that is, or may be, an irqfd of this VM. The effect is that of a write of
	 * 1 to it, before the call returns where it is one, for engines where a write would first
	 * have to wake a thread of theirs; NULL where a write is as good. Any thread. */
	void (*irqfd_signal)(int vm_fd, int fd);
};

/* All engines, in order of preference; NULL at the end. From engines.def. Lookup also knows variants
 * of them: "soft,exec=interpreter", "soft,exec=translator", "soft,exec=eager". */
extern const struct engine_class *const engine_classes[];

const struct engine_class *engine_lookup(const char *name);

#endif
