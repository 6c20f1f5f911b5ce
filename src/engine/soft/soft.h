/*
 * softkvm: the KVM API in user space, as a library. A program that speaks to /dev/kvm calls these
 * instead of open(), ioctl(), mmap() and close(), and needs no KVM. The specification is the
 * kernel's Documentation/virt/kvm/api.rst; KVM_CHECK_EXTENSION tells what is there.
 *
 * Handles are file descriptors of this process: plain mmap(2) of a vCPU's works, and so do poll
 * and read on a statistics descriptor. Close them with soft_kvm_close(). They mean nothing after
 * fork() or in another process. Pointers in arguments must be good: where the kernel says -EFAULT,
 * there is a fault.
 *
 * All calls may be made from any thread, with the kernel's own rules for vCPU descriptors.
 * KVM_RUN sees signals whose handlers were installed when the vCPU's signal mask was set or when
 * the thread first ran it (see signals.c).
 */
#ifndef SOFT_H
#define SOFT_H

#include <stddef.h>
#include <stdint.h>

/* As open("/dev/kvm"): the system descriptor, or -errno. */
int soft_kvm_open(void);
/* With a back end of choice: "interpreter"; "translator", which makes host code of what is executed
 * often; "eager", which does so at once (tests). NULL: the default. */
int soft_kvm_open_exec(const char *exec);
/* As ioctl(2), but a failure is the value -errno. */
int soft_kvm_ioctl(int fd, unsigned long request, unsigned long arg);
/* As mmap(2) of a vCPU descriptor, shared; MAP_FAILED's place is taken by NULL with errno. Unlike
 * plain mmap it gives every vCPU the one coalesced ring of the VM (plain: on the first vCPU). */
void *soft_kvm_mmap(int fd, size_t len);
/* 0 or -errno. A VM lives until its descriptor and those of all its vCPUs are closed. */
int soft_kvm_close(int fd);
/* Guest memory [gpa, gpa + len) was written from outside the vCPUs and may hold code. */
void soft_kvm_memory_written(int vm_fd, uint64_t gpa, uint64_t len);
/* As a write of 1 to the eventfd fd. Where that is an irqfd of the VM the interrupt has been sent
 * when this returns, without a detour by the thread that waits for writes. */
void soft_kvm_irqfd_signal(int vm_fd, int fd);

#endif
