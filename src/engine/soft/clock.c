/*
 * Time: the guest's TSC and the kvmclock pages (Documentation/virt/kvm/x86/msr.rst and
 * cpuid.rst). A guest TSC is the host's, scaled where KVM_SET_TSC_KHZ asks, plus an offset. All
 * kvmclock pages of a VM are computed from one pair of host TSC and time, so that vCPUs agree and
 * the stable flag may be set.
 *
 * On a host whose TSC does not run at one rate, the "host TSC" is CLOCK_MONOTONIC, at 1 GHz.
 */
#include <cpuid.h>
#include <errno.h>
#include <linux/kvm_para.h>
#include <string.h>
#include <time.h>

#include "engine/soft/arch_int.h"
#include "os/clock.h"

#define CALIBRATION_NS	4000000ULL
#define RATIO_SHIFT	48
#define PVCLOCK_STABLE	1u
#define PVCLOCK_STOPPED 2u
#define FALLBACK_KHZ	1000000u

/* ---- the host ---- */

struct host_time {
	u64 tsc, ns;
};

static pthread_once_t host_once = PTHREAD_ONCE_INIT;
static bool host_invariant;
static u32 host_khz;

static u64 raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* The pair read closest together of a few. */
static struct host_time sample(u64 (*clock)(void))
{
	struct host_time best = {0};
	u64 gap = ~0ULL;

	for (int i = 0; i < 8; i++) {
		u64 before = __builtin_ia32_rdtsc(), ns = clock(), after = __builtin_ia32_rdtsc();

		if (after - before >= gap)
			continue;
		gap = after - before;
		best = (struct host_time){.tsc = before + gap / 2, .ns = ns};
	}
	return best;
}

static void calibrate(void)
{
	struct host_time a, b;
	u32 eax, ebx, ecx, edx;

	host_khz = FALLBACK_KHZ;
	if (!__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) || !(edx >> 8 & 1))
		return;
	a = sample(raw_ns);
	do {
		b = sample(raw_ns);
	} while (b.ns - a.ns < CALIBRATION_NS);
	host_khz = (u32)((b.tsc - a.tsc) * 1000000 / (b.ns - a.ns));
	host_invariant = true;
}

u32 host_tsc_khz(void)
{
	pthread_once(&host_once, calibrate);
	return host_khz;
}

u64 host_tsc(void)
{
	return likely(host_invariant) ? __builtin_ia32_rdtsc() : clock_now_ns();
}

static u64 host_ticks_to_ns(u64 ticks)
{
	return (u64)((unsigned __int128)ticks * 1000000 / host_khz);
}

/* ---- the guest's TSC ---- */

static u64 scale(const struct kvm_vcpu *vcpu, u64 tsc)
{
	return vcpu->arch->tsc_ratio ? mul_shift(tsc, vcpu->arch->tsc_ratio, RATIO_SHIFT) : tsc;
}

u64 kvm_read_tsc(struct kvm_vcpu *vcpu)
{
	return scale(vcpu, host_tsc()) + vcpu->msr.tsc_offset;
}

void kvm_write_tsc(struct kvm_vcpu *vcpu, u64 tsc)
{
	vcpu->msr.tsc_offset = tsc - scale(vcpu, host_tsc());
	kvm_make_request(vcpu, KVM_REQ_CLOCK_UPDATE);
}

/* TSCs of all vCPUs of a VM start together. */
void kvm_reset_tsc(struct kvm_vcpu *vcpu)
{
	vcpu->msr.tsc_offset = 0 - scale(vcpu, vcpu->kvm->arch->clock_start);
}

/*
 * Users restore the TSCs of vCPUs one after the other. A write of 0, or of what another vCPU's
 * TSC, written lately, shows by now (give or take a second), means the same TSC (as in KVM).
 */
int kvm_restore_tsc(struct kvm_vcpu *vcpu, u64 tsc)
{
	struct kvm_arch *arch = vcpu->kvm->arch;
	u64 now = host_tsc(), expected, second = vcpu->arch->tsc_khz * 1000ULL;

	pthread_mutex_lock(&arch->timer_lock);
	expected = arch->tsc_write.value + scale(vcpu, now - arch->tsc_write.host_tsc);
	if (!arch->tsc_write.host_tsc ||
	    (tsc ? tsc - expected + second > 2 * second : arch->tsc_write.value != 0)) {
		arch->tsc_write.value = tsc;
		arch->tsc_write.host_tsc = now;
	}
	vcpu->msr.tsc_offset = arch->tsc_write.value - scale(vcpu, arch->tsc_write.host_tsc);
	pthread_mutex_unlock(&arch->timer_lock);
	kvm_make_request(vcpu, KVM_REQ_CLOCK_UPDATE);
	return 0;
}

int kvm_set_tsc_khz(struct kvm_vcpu *vcpu, u32 khz)
{
	u64 now = kvm_read_tsc(vcpu);

	if (!khz)
		khz = host_tsc_khz();
	vcpu->arch->tsc_khz = khz;
	vcpu->arch->tsc_ratio =
		khz == host_tsc_khz()
			? 0
			: (u64)(((unsigned __int128)khz << RATIO_SHIFT) / host_tsc_khz());
	kvm_write_tsc(vcpu, now);
	return 0;
}

u64 kvm_tsc_to_ns(struct kvm_vcpu *vcpu, u64 tsc)
{
	u64 tsc_now = kvm_read_tsc(vcpu), now = clock_now_ns();
	unsigned __int128 ns;

	if (tsc <= tsc_now)
		return now;
	ns = (unsigned __int128)(tsc - tsc_now) * 1000000 / vcpu->arch->tsc_khz;
	/* Deadlines centuries away are as good as never. */
	return ns > (1ULL << 62) ? now + (1ULL << 62) : now + (u64)ns;
}

/* ---- kvmclock ---- */

struct pvclock_page {
	u32 version; /* odd while it is being written */
	u32 pad0;
	u64 tsc_timestamp;
	u64 system_time;
	u32 tsc_to_system_mul;
	s8 tsc_shift;
	u8 flags;
	u8 pad[2];
};

struct pvclock_wall {
	u32 version, sec, nsec;
};

void kvm_clock_init(struct kvm *kvm)
{
	host_tsc_khz();
	kvm->arch->clock_start = host_tsc();
	kvm->arch->clock = (struct kvm_master_clock){.host_tsc = host_tsc(), .ns = 0};
}

u64 kvm_clock_ns(struct kvm *kvm)
{
	struct kvm_master_clock *c = &kvm->arch->clock;

	return c->ns + host_ticks_to_ns(host_tsc() - c->host_tsc);
}

/* ns = (ticks << shift) * mul >> 32 for a clock of khz. */
static void multiplier(u32 khz, u32 *mul, s8 *shift)
{
	u64 hz = khz * 1000ULL;

	*shift = 0;
	while (hz > 2 * NSEC_PER_SEC) {
		hz >>= 1;
		(*shift)--;
	}
	while (hz <= NSEC_PER_SEC) {
		hz <<= 1;
		(*shift)++;
	}
	*mul = (u32)((NSEC_PER_SEC << 32) / hz);
}

/*
 * The vCPU's thread writes its page, in guest mode or under the vCPU's mutex. The version goes
 * odd, then even, for a reader on another vCPU.
 */
void kvm_update_clock_page(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *arch = vcpu->arch;
	struct kvm_master_clock clock = vcpu->kvm->arch->clock;
	u64 gpa = arch->system_time_msr & ~1ULL;
	struct pvclock_page page = {0};

	if (!(arch->system_time_msr & KVM_MSR_ENABLED))
		return;
	page.tsc_timestamp = scale(vcpu, clock.host_tsc) + vcpu->msr.tsc_offset;
	page.system_time = clock.ns;
	multiplier(arch->tsc_khz, &page.tsc_to_system_mul, &page.tsc_shift);
	page.flags = PVCLOCK_STABLE | (arch->clock_paused ? PVCLOCK_STOPPED : 0);
	arch->clock_paused = false;
	page.version = ++arch->clock_version | 1;
	kvm_write_guest(vcpu->kvm, gpa, &page.version, sizeof(page.version));
	__atomic_thread_fence(__ATOMIC_RELEASE);
	kvm_write_guest(vcpu->kvm, gpa + 4, &page.pad0, sizeof(page) - 4);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	arch->clock_version = ++page.version;
	kvm_write_guest(vcpu->kvm, gpa, &page.version, sizeof(page.version));
}

int kvm_set_system_time_msr(struct kvm_vcpu *vcpu, u64 data)
{
	vcpu->arch->system_time_msr = data;
	kvm_make_request(vcpu, KVM_REQ_CLOCK_UPDATE);
	return 0;
}

/* Wall-clock time at kvmclock 0. */
void kvm_write_wall_clock(struct kvm *kvm, u64 gpa)
{
	u64 boot = clock_realtime_ns() - kvm_clock_ns(kvm);
	struct pvclock_wall wall = {0};

	if (!gpa || kvm_read_guest(kvm, gpa, &wall.version, sizeof(wall.version)))
		return;
	wall.version |= 1;
	kvm_write_guest(kvm, gpa, &wall.version, sizeof(wall.version));
	wall.sec = (u32)(boot / NSEC_PER_SEC);
	wall.nsec = (u32)(boot % NSEC_PER_SEC);
	kvm_write_guest(kvm, gpa, &wall, sizeof(wall));
	wall.version++;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	kvm_write_guest(kvm, gpa, &wall.version, sizeof(wall.version));
}

void kvm_get_clock(struct kvm *kvm, struct kvm_clock_data *data)
{
	memset(data, 0, sizeof(*data));
	pthread_mutex_lock(&kvm->lock);
	data->host_tsc = host_tsc();
	data->realtime = clock_realtime_ns();
	data->clock =
		kvm->arch->clock.ns + host_ticks_to_ns(data->host_tsc - kvm->arch->clock.host_tsc);
	pthread_mutex_unlock(&kvm->lock);
	data->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
}

static void set_master(struct kvm *kvm, void *arg)
{
	kvm->arch->clock = *(struct kvm_master_clock *)arg;
	kvm_make_all_requests(kvm, KVM_REQ_CLOCK_UPDATE);
}

int kvm_set_clock(struct kvm *kvm, const struct kvm_clock_data *data)
{
	struct kvm_master_clock c = {.host_tsc = host_tsc(), .ns = data->clock};
	u64 now = clock_realtime_ns();

	if (data->flags & ~(u32)KVM_CLOCK_REALTIME)
		return -EINVAL;
	/* The clock ran on since the moment that the user's pair names. */
	if ((data->flags & KVM_CLOCK_REALTIME) && now > data->realtime)
		c.ns += now - data->realtime;
	pthread_mutex_lock(&kvm->lock);
	kvm_for_each_vcpu_stopped(kvm, set_master, &c);
	pthread_mutex_unlock(&kvm->lock);
	return 0;
}

int kvm_kvmclock_ctrl(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->arch->system_time_msr & KVM_MSR_ENABLED))
		return -EINVAL;
	vcpu->arch->clock_paused = true;
	kvm_make_request(vcpu, KVM_REQ_CLOCK_UPDATE);
	return 0;
}
