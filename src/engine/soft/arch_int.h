/*
 * What the api and the chips of softkvm share among themselves; the cpu needs none of it.
 *
 * Locks, in the order they are taken: vcpu->mutex, kvm->lock, arch->irq_lock, arch->timer_lock,
 * arch->park.lock. Code that runs inside guest mode (in_guest set) takes irq_lock and later ones
 * only, since whoever holds kvm->lock may be waiting for it to leave.
 */
#ifndef ARCH_INT_H
#define ARCH_INT_H

#include <time.h>

#include "engine/soft/fd.h"
#include "engine/soft/guest_features.h"
#include "engine/soft/soft_int.h"
#include "os/thread.h"

#define KVM_MAX_VCPU_ID	      1024
#define KVM_MAX_IRQ_ROUTES    4096
#define KVM_MAX_MCE_BANKS     32
#define KVM_SUPPORTED_MCE_CAP ((1ULL << 8) | (1ULL << 24)) /* MCG_CTL and recovery */
#define KVM_IOAPIC_PINS	      KVM_IOAPIC_NUM_PINS
#define KVM_RUN_PAGES	      3 /* struct kvm_run, PIO data, coalesced ring */
#define IRQFD_BUCKETS	      64u
#define KVM_HALT_POLL_NS      200000u /* the longest spin in HLT, if the user sets no other */

struct kvm_pic;
struct kvm_ioapic;
struct kvm_pit;
struct irq_routing;
struct msr_filter;

/* ---- virtual machines and vCPUs (vm.c, vcpu.c) ---- */

enum irqchip_mode { IRQCHIP_NONE, IRQCHIP_KERNEL, IRQCHIP_SPLIT };

struct kvm_timer {
	void (*fn)(struct kvm_timer *timer); /* helper thread or owner, no lock held */
	struct kvm *kvm;
	u64 deadline_ns; /* clock_now_ns(); 0 when not armed. Written under timer_lock */
	struct list link;
};

/* The pair of host TSC and time from which every vCPU's kvmclock page is computed. */
struct kvm_master_clock {
	u64 host_tsc;
	u64 ns; /* kvmclock at host_tsc */
};

struct kvm_arch {
	u32 refs; /* descriptors of the VM and of its vCPUs, atomic */
	u32 boot_cpu_id;
	u32 max_vcpu_id;
	struct kvm_vcpu *vcpu_by_id[KVM_MAX_VCPU_ID];

	/* settings of KVM_ENABLE_CAP */
	u64 disabled_quirks;
	u32 manual_dirty_log; /* KVM_DIRTY_LOG_* */
	bool x2apic_32bit_ids, x2apic_no_broadcast_quirk;
	bool exception_payload;
	bool platform_info_denied;
	u32 max_halt_poll_ns;	 /* KVM_CAP_HALT_POLL; read by vCPUs as it stands */
	u32 user_space_msr_mask; /* KVM_MSR_EXIT_REASON_* */
	u64 hypercall_exits;	 /* bits by number */
	struct msr_filter
		*filter; /* NULL: everything is allowed; replaced with every vCPU stopped */

	/* I/O (bus.c, coalesced.c, eventfd.c) */
	struct io_bus *bus[2];
	struct coalesced_zones *zones;
	struct kvm_coalesced_mmio_ring *ring; /* page 2 of the first vCPU */
	u32 ring_lock;
	struct list ioeventfds, irqfds;
	struct list irqfd_bucket[IRQFD_BUCKETS]; /* the same irqfds, by the program's number */

	/* interrupts */
	enum irqchip_mode irqchip;
	u32 reserved_pins; /* routes 0 to this - 1 go to the user's IOAPIC (split) */
	pthread_mutex_t irq_lock;
	struct irq_routing *routing; /* under irq_lock */
	struct kvm_pic *pic;
	struct kvm_ioapic *ioapic;
	struct kvm_pit *pit;
	u64 line_sources[KVM_IOAPIC_PINS]; /* who holds each line up: bits IRQ_SOURCE_* */

	/* helper thread: timers and irqfds (helper.c) */
	struct thread helper;
	int epoll_fd, timer_fd, stop_fd;
	pthread_mutex_t timer_lock; /* also of tsc_write */
	struct list timers;	    /* armed */
	u64 timer_programmed;	    /* what timer_fd is set to; 0: nothing */
	struct kvm_timer *timer_running;
	pthread_cond_t timer_idle;

	/* stopping the vCPUs (vcpu.c) */
	struct {
		pthread_mutex_t lock;
		pthread_cond_t left, resumed;
		u32 stop; /* atomic; 1 while somebody changes structures */
	} park;

	u64 clock_start; /* host TSC when the VM was made */
	struct kvm_master_clock clock;
	struct {
		u64 value, host_tsc; /* the user's last write of a TSC. Under timer_lock */
	} tsc_write;
	u64 wall_clock_gpa;
	struct vm_stat *stat;
	int stat_fd;
};

struct kvm_vcpu_arch {
	u32 wake;	  /* futex: counts kicks */
	u32 sleeping;	  /* 1 around the futex wait, atomic */
	u32 halt_poll_ns; /* how long to spin in HLT now: halt.c */
	long preemptions; /* of the vCPU's thread, as last seen, and when they last changed */
	u64 preempted_ns;
	bool ran; /* KVM_RUN was called: CPUID is settled */
	size_t map_len;

	/* INIT and SIPI: bits APIC_EVENT_*, atomic */
	u32 pending_events;
	u32 pv_unhalted;	     /* KVM_HC_KICK_CPU, atomic */
	int pending_external_vector; /* KVM_INTERRUPT with the split irqchip; -1 none */
	u64 eoi_exit_bitmap[4];	     /* split: vectors whose EOI goes to the user */
	int pending_ioapic_eoi;	     /* vector, or -1 */

	/* time */
	u32 tsc_khz;
	u64 tsc_ratio;	     /* guest / host, 16.48 fixed point; 0: 1.0 */
	u64 system_time_msr; /* MSR_KVM_SYSTEM_TIME_NEW */
	u32 clock_version;
	bool clock_paused;		/* KVM_KVMCLOCK_CTRL */
	u64 poll_control, hwcr, de_cfg; /* MSRs */

	/* machine check (mce.c) */
	u64 mcg_cap;
	u64 mce[KVM_MAX_MCE_BANKS][4];
	bool triple_fault; /* leave with KVM_EXIT_SHUTDOWN */

	bool pv_enforced;   /* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */
	bool tpr_reporting; /* KVM_TPR_ACCESS_REPORTING; without KVM_CAP_VAPIC nothing is reported
			     */

	int stat_fd;
};

enum { APIC_EVENT_INIT = 1, APIC_EVENT_SIPI = 2 };

extern const struct file_ops system_file_ops, vm_file_ops, vcpu_file_ops;

/* A system descriptor whose VMs run on these operations (soft.c gives the interpreter). */
int soft_open_with(const struct kvm_exec_ops *exec);

int kvm_create_vm(const struct kvm_exec_ops *exec, unsigned long type);
void kvm_get_vm(struct kvm *kvm);
void kvm_put_vm(struct kvm *kvm);

int kvm_vm_ioctl_create_vcpu(struct kvm *kvm, unsigned long id);
void kvm_destroy_vcpu(struct kvm_vcpu *vcpu);

static inline u32 kvm_nr_vcpus(struct kvm *kvm)
{
	return __atomic_load_n(&kvm->nr_vcpus, __ATOMIC_ACQUIRE);
}
#define kvm_for_each_vcpu(i, vcpu, kvm)                                                            \
	for (i = 0; i < kvm_nr_vcpus(kvm) && ((vcpu) = (kvm)->vcpus[i], true); i++)

static inline bool lapic_in_kernel(const struct kvm_vcpu *vcpu)
{
	return vcpu->apic;
}
static inline bool irqchip_in_kernel(const struct kvm *kvm)
{
	return kvm->arch->irqchip != IRQCHIP_NONE;
}
static inline bool pic_in_kernel(const struct kvm *kvm)
{
	return kvm->arch->irqchip == IRQCHIP_KERNEL;
}

void kvm_make_all_requests(struct kvm *kvm, int req);
static inline bool kvm_check_request(struct kvm_vcpu *vcpu, int req)
{
	if (!(__atomic_load_n(&vcpu->requests, __ATOMIC_RELAXED) & (1ULL << req)))
		return false;
	__atomic_fetch_and(&vcpu->requests, ~(1ULL << req), __ATOMIC_ACQUIRE);
	return true;
}

/* Guest mode from the vCPU thread's side: enter waits while vCPUs are stopped. */
void kvm_vcpu_enter_guest_mode(struct kvm_vcpu *vcpu);
void kvm_vcpu_leave_guest_mode(struct kvm_vcpu *vcpu);

/* ---- vCPU ioctls (api_vcpu.c, api_regs.c, xstate.c, run.c, signals.c) ---- */

int kvm_vcpu_run(struct kvm_vcpu *vcpu);
/* Wait until kvm_vcpu_kick() has raised arch->wake from `seen` (halt.c). Signals that interest
 * KVM_RUN kick. May return early. */
void kvm_vcpu_halt(struct kvm_vcpu *vcpu, u32 seen);
void kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool init_event);
bool kvm_is_bsp(const struct kvm_vcpu *vcpu);
/* May an interrupt (an NMI) be delivered at this instruction boundary? */
bool kvm_interrupt_allowed(const struct kvm_vcpu *vcpu);
bool kvm_vcpu_ready_for_injection(struct kvm_vcpu *vcpu);
/* Is there an event that ends HLT? */
bool kvm_vcpu_has_events(struct kvm_vcpu *vcpu);

void get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *regs);
void set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *regs);
void get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs);
int set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);
void get_sregs2(struct kvm_vcpu *vcpu, struct kvm_sregs2 *sregs);
int set_sregs2(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *sregs);
void get_vcpu_events(struct kvm_vcpu *vcpu, struct kvm_vcpu_events *events);
int set_vcpu_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *events);
void get_debugregs(struct kvm_vcpu *vcpu, struct kvm_debugregs *regs);
int set_debugregs(struct kvm_vcpu *vcpu, const struct kvm_debugregs *regs);

void get_fpu(struct kvm_vcpu *vcpu, struct kvm_fpu *fpu);
void set_fpu(struct kvm_vcpu *vcpu, const struct kvm_fpu *fpu);
void get_xsave(struct kvm_vcpu *vcpu, struct kvm_xsave *xsave);
int set_xsave(struct kvm_vcpu *vcpu, const struct kvm_xsave *xsave);
void get_xcrs(struct kvm_vcpu *vcpu, struct kvm_xcrs *xcrs);
int set_xcrs(struct kvm_vcpu *vcpu, const struct kvm_xcrs *xcrs);

int set_signal_mask(struct kvm_vcpu *vcpu, const struct kvm_signal_mask *mask);
/* Around KVM_RUN. begin: -EINTR when a signal the mask lets through is pending already. */
int signals_begin(struct kvm_vcpu *vcpu, sigset_t *saved);
void signals_end(struct kvm_vcpu *vcpu, const sigset_t *saved);

int kvm_check_extension(struct kvm *kvm, unsigned long cap);
int kvm_vm_enable_cap(struct kvm *kvm, const struct kvm_enable_cap *cap);

/* ---- memory (slots.c) ---- */

int kvm_set_memory_region(struct kvm *kvm, const struct kvm_userspace_memory_region *mem);
int kvm_get_dirty_log(struct kvm *kvm, const struct kvm_dirty_log *log);
int kvm_clear_dirty_log(struct kvm *kvm, const struct kvm_clear_dirty_log *log);
void kvm_free_memslots(struct kvm *kvm);
/* Guest memory for the chips' own structures; marks pages dirty. -EFAULT outside the slots. */
int kvm_write_guest(struct kvm *kvm, u64 gpa, const void *data, u32 len);
int kvm_read_guest(struct kvm *kvm, u64 gpa, void *data, u32 len);

/* ---- I/O ---- */

struct io_device;
struct io_device_ops {
	/* 0, or -EOPNOTSUPP to let the next one try. len is 1 to 8 and inside the range unless
	 * the range is shorter. */
	int (*read)(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len, void *val);
	int (*write)(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len,
		     const void *val);
};
struct io_device {
	const struct io_device_ops *ops;
};

/* kvm->lock held. Ranges may overlap. -ENOSPC past the limit; -ENOMEM. len 0 counts as 1. */
int kvm_io_bus_register(struct kvm *kvm, enum kvm_bus bus, u64 addr, u32 len,
			struct io_device *dev);
void kvm_io_bus_unregister(struct kvm *kvm, struct io_device *dev);
void kvm_io_bus_free(struct kvm *kvm);

int kvm_register_coalesced(struct kvm *kvm, const struct kvm_coalesced_mmio_zone *zone);
int kvm_unregister_coalesced(struct kvm *kvm, const struct kvm_coalesced_mmio_zone *zone);
/* Queue a write in the ring: 0, or -EOPNOTSUPP when no zone has it or the ring is full. */
int coalesced_write(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, const void *val);

int kvm_ioeventfd(struct kvm *kvm, const struct kvm_ioeventfd *args);
int kvm_irqfd(struct kvm *kvm, const struct kvm_irqfd *args);
/* Send the interrupt of the irqfd that the program knows as fd; false: it is none. Any thread. */
bool kvm_irqfd_signal(struct kvm *kvm, int fd);
void kvm_eventfds_free(struct kvm *kvm);

/* ---- helper thread (helper.c) ---- */

int helper_start(struct kvm *kvm); /* once; kvm->lock held. 0 or -errno */
void helper_stop(struct kvm *kvm);
/* Watch an irqfd's descriptor, or stop to: kvm_irqfd_ready() is called in the helper thread. */
int helper_watch(struct kvm *kvm, int fd, bool on);
void kvm_irqfd_ready(struct kvm *kvm, int fd);

void kvm_timer_init(struct kvm *kvm, struct kvm_timer *timer, void (*fn)(struct kvm_timer *));
void kvm_timer_arm(struct kvm_timer *timer, u64 deadline_ns);
void kvm_timer_disarm(struct kvm_timer *timer);
/* Run fn now, on this thread, if the timer is armed and its time has come. The thread that would
 * call kvm_timer_disarm_sync() is this one, or waits for it. */
void kvm_timer_run_due(struct kvm_timer *timer);
/* When it is due, or 0. A glance: it may be changed meanwhile. */
static inline u64 kvm_timer_deadline(const struct kvm_timer *timer)
{
	return __atomic_load_n(&timer->deadline_ns, __ATOMIC_RELAXED);
}
/* Disarm and wait until a run of fn under way is over. Not with a lock held that fn takes. */
void kvm_timer_disarm_sync(struct kvm_timer *timer);

/* ---- time (tsc.c, clock.c) ---- */

u32 host_tsc_khz(void);
u64 host_tsc(void);
/* a * mul >> shift without overflow of the product. */
static inline u64 mul_shift(u64 a, u64 mul, unsigned int shift)
{
	return (u64)(((unsigned __int128)a * mul) >> shift);
}
int kvm_set_tsc_khz(struct kvm_vcpu *vcpu, u32 khz);
void kvm_write_tsc(struct kvm_vcpu *vcpu, u64 tsc);
/* The user's write: values that mean "as the other vCPUs" give the same offset. 0. */
int kvm_restore_tsc(struct kvm_vcpu *vcpu, u64 tsc);
void kvm_reset_tsc(struct kvm_vcpu *vcpu);
/* The clock_now_ns() at which the guest's TSC reaches a value; now when it has passed. */
u64 kvm_tsc_to_ns(struct kvm_vcpu *vcpu, u64 tsc);

void kvm_clock_init(struct kvm *kvm);
u64 kvm_clock_ns(struct kvm *kvm);
void kvm_get_clock(struct kvm *kvm, struct kvm_clock_data *data);
int kvm_set_clock(struct kvm *kvm, const struct kvm_clock_data *data);
int kvm_set_system_time_msr(struct kvm_vcpu *vcpu, u64 data);
void kvm_write_wall_clock(struct kvm *kvm, u64 gpa);
void kvm_update_clock_page(struct kvm_vcpu *vcpu);
int kvm_kvmclock_ctrl(struct kvm_vcpu *vcpu);

/* ---- CPUID and MSRs ---- */

int kvm_get_supported_cpuid(struct kvm_cpuid2 *cpuid, bool emulated);
int kvm_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, u32 count);
void kvm_update_cpuid(struct kvm_vcpu *vcpu);
u64 kvm_supported_xcr0(void);
int kvm_get_msr_list(struct kvm_msr_list *list, bool features);
int kvm_msr_io(struct kvm_vcpu *vcpu, struct kvm_msrs *msrs, bool write);
int kvm_feature_msr_io(struct kvm_msrs *msrs);
void kvm_msr_reset(struct kvm_vcpu *vcpu, bool init_event);

/* A paravirtual feature: all are there until the user has CPUID enforced. */
static inline bool guest_pv_has(const struct kvm_vcpu *vcpu, enum guest_feature f)
{
	return !vcpu->arch->pv_enforced || guest_has(vcpu, f);
}

/* ---- the user's part in MSRs (msr_filter.c) ---- */

int kvm_set_msr_filter(struct kvm *kvm, const struct kvm_msr_filter *args);
void kvm_msr_filter_free(struct kvm *kvm);

/* ---- machine check (mce.c) ---- */

int kvm_setup_mce(struct kvm_vcpu *vcpu, u64 cap);
int kvm_set_mce(struct kvm_vcpu *vcpu, const struct kvm_x86_mce *mce);
/* The register of a bank, or NULL. */
u64 *kvm_mce_msr(struct kvm_vcpu *vcpu, u32 msr);
bool kvm_mce_write_valid(u32 msr, u64 data, bool host);

/* ---- statistics (stats.c) ---- */

int stats_new(struct kvm *kvm, struct kvm_vcpu *vcpu); /* vcpu NULL: the VM's */
void stats_free(struct kvm *kvm, struct kvm_vcpu *vcpu);
int stats_open(int stat_fd); /* for KVM_GET_STATS_FD */

#endif
