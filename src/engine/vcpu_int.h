/* A vCPU from inside: shared by vcpu*.c. */
#ifndef VCPU_INT_H
#define VCPU_INT_H

#include <pthread.h>

#include "engine/vcpu.h"
#include "os/thread.h"

enum vcpu_request { VCPU_RUN, VCPU_PAUSE, VCPU_STOP };

struct vcpu {
	struct kvm_run *run;
	u32 request; /* enum vcpu_request, atomic: looked at before each entry */
	int (*ioctl)(int fd, unsigned long request, unsigned long arg); /* the engine's */
	bool watched; /* exits are timed or traced */
	struct vcpu_config config;
	int fd;
	size_t run_size;
	struct vcpu_stats stats;
	struct thread thread;
	pthread_mutex_t lock; /* guards `paused`; `changed` tells of it */
	pthread_cond_t changed;
	bool paused;
	bool incomplete; /* the engine has yet to finish the instruction of the last exit */
	bool ended;	 /* touched by the vCPU's thread while running, by others while paused */
	int (*read_mem)(void *ctx, u64 gpa, void *buf, u64 len);
	void *read_ctx;
};

void vcpu_trace_exit(const struct vcpu *vcpu);

#endif
