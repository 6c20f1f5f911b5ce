/*
 * CPUID of each vCPU: what the engine supports (KVM_GET_SUPPORTED_CPUID), with the topology, APIC
 * ids, TSC frequency and hypervisor leaves that the machine states. SDM volume 2 "CPUID", volume
 * 3 chapter 9.9; AMD64 manual volume 3 appendix E; Documentation/virt/kvm/x86/cpuid.rst.
 */
#ifndef MACHINE_CPUID_H
#define MACHINE_CPUID_H

#include <linux/kvm.h>

#include "base/err.h"
#include "base/types.h"

#define CPUID_MAX_CPUS 256
#define CPUID_EXTRA    16 /* entries that cpuid_make() may add */

/* cpus = sockets * cores * threads, at most CPUID_MAX_CPUS. vCPU n is thread n % threads of core
 * n / threads % cores. */
struct cpu_topology {
	u32 sockets, cores, threads;
};

/* One socket of `cpus` cores. */
struct cpu_topology cpu_topology_simple(u32 cpus);
u32 cpu_topology_count(const struct cpu_topology *topology);
/* The APIC id of vCPU n, which is also the id to give KVM_CREATE_VCPU. Not always n: each level
 * takes a power of two of ids. */
u32 cpu_topology_apic_id(const struct cpu_topology *topology, u32 n);

struct cpuid_config {
	struct cpu_topology topology;
	u32 tsc_khz; /* KVM_GET_TSC_KHZ; 0: unknown, no frequency leaves */
	/* The local APIC has a TSC-deadline timer: KVM_CAP_TSC_DEADLINE_TIMER, which
	 * KVM_GET_SUPPORTED_CPUID does not say. */
	bool tsc_deadline;
	bool no_x2apic;
	bool nested; /* let the guest see VMX or SVM */
};

/*
 * The table of vCPU n, for KVM_SET_CPUID2. out has room for out->nent entries, which becomes the
 * number used. supported is not changed. -E2BIG when out is too small (supported->nent +
 * CPUID_EXTRA is enough), -EINVAL for a topology that is none or a vCPU that is not in it.
 */
int cpuid_make(const struct kvm_cpuid2 *supported, const struct cpuid_config *config, u32 n,
	       struct kvm_cpuid2 *out, struct err *err);

/* The entry of a leaf and sub-leaf, or NULL. */
const struct kvm_cpuid_entry2 *cpuid_lookup(const struct kvm_cpuid2 *table, u32 function,
					    u32 index);

/* Physical address bits of leaf 0x80000008, at least 36. */
unsigned int cpuid_phys_bits(const struct kvm_cpuid2 *table);

#endif
