/* Hypercalls: Documentation/virt/kvm/x86/hypercalls.rst. */
#include <errno.h>
#include <linux/kvm_para.h>
#include <sched.h>
#include <string.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/guest_features.h"
#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"

/* Wake the vCPU that waits in HLT for a lock. */
static void kick_cpu(struct kvm *kvm, u64 apic_id)
{
	struct kvm_vcpu *vcpu = apic_id < KVM_MAX_VCPU_ID ? kvm->arch->vcpu_by_id[apic_id] : NULL;

	if (!vcpu)
		return;
	__atomic_store_n(&vcpu->arch->pv_unhalted, 1, __ATOMIC_RELEASE);
	kvm_vcpu_kick(vcpu);
}

#define ICR_LOGICAL   (1u << 11)
#define ICR_SHORTHAND (3u << 18)

/* A set of up to 128 APIC IDs from `lowest` on, in two words. Returns how many got it. */
static u64 send_ipi(struct kvm *kvm, const u64 set[2], u32 lowest, u64 icr)
{
	struct lapic_irq irq = {
		.vector = (u8)icr,
		.delivery_mode = icr >> 8 & 7,
		.assert = true,
		.x2apic_format = true,
	};
	u64 count = 0;

	/* The set says where to; any delivery mode goes. */
	if (icr & (ICR_LOGICAL | ICR_SHORTHAND))
		return (u64)-KVM_EINVAL;
	for (u32 i = 0; i < 128; i++) {
		if (!(set[i / 64] >> i % 64 & 1))
			continue;
		irq.dest = lowest + i;
		if (irq.dest >= KVM_MAX_VCPU_ID || irq.dest < lowest)
			break;
		if (kvm_deliver_irq(kvm, &irq) >= 0)
			count++;
	}
	return count;
}

static u64 clock_pairing(struct kvm_vcpu *vcpu, u64 gpa, u64 type)
{
	struct kvm_clock_pairing pair = {0};
	struct timespec ts;

	if (type != KVM_CLOCK_PAIRING_WALLCLOCK)
		return (u64)-KVM_EOPNOTSUPP;
	clock_gettime(CLOCK_REALTIME, &ts);
	pair.sec = ts.tv_sec;
	pair.nsec = ts.tv_nsec;
	pair.tsc = kvm_read_tsc(vcpu);
	return kvm_write_guest(vcpu->kvm, gpa, &pair, sizeof(pair)) ? (u64)-KVM_EFAULT : 0;
}

/* The processor that this one waits for should run. */
static u64 yield_to(struct kvm_vcpu *vcpu, u64 apic_id)
{
	struct kvm_arch *arch = vcpu->kvm->arch;

	if (apic_id < KVM_MAX_VCPU_ID && arch->vcpu_by_id[apic_id] &&
	    arch->vcpu_by_id[apic_id] != vcpu)
		sched_yield();
	return 0;
}

struct call {
	u64 nr, arg[4];
	bool wide; /* from 64-bit code */
};

static struct call read_call(const struct kvm_vcpu *vcpu)
{
	const u64 *r = vcpu->ctl.gpr;
	bool wide = (vcpu->ctl.efer & EFER_LMA) && vcpu->ctl.seg[SEG_CS].l;
	u64 mask = wide ? ~0ULL : ~0u;

	return (struct call){.nr = r[RAX] & mask,
			     .arg = {r[RBX] & mask, r[RCX] & mask, r[RDX] & mask, r[RSI] & mask},
			     .wide = wide};
}

static void finish_call(struct kvm_vcpu *vcpu, bool wide, u64 ret)
{
	vcpu->stat->hypercalls++;
	vcpu->ctl.gpr[RAX] = wide ? ret : (u32)ret;
}

static u64 emulate_here(struct kvm_vcpu *vcpu, const struct call *c)
{
	const u64 *a = c->arg;

	switch (c->nr) {
	case KVM_HC_VAPIC_POLL_IRQ:
		return 0;
	case KVM_HC_KICK_CPU:
		if (!guest_pv_has(vcpu, FEATURE_PV_UNHALT))
			break;
		kick_cpu(vcpu->kvm, a[1]);
		return yield_to(vcpu, a[1]);
	case KVM_HC_SEND_IPI:
		if (guest_pv_has(vcpu, FEATURE_PV_SEND_IPI))
			return send_ipi(vcpu->kvm, a, (u32)a[2], a[3]);
		break;
	case KVM_HC_SCHED_YIELD:
		if (guest_pv_has(vcpu, FEATURE_PV_SCHED_YIELD))
			return yield_to(vcpu, a[0]);
		break;
	case KVM_HC_CLOCK_PAIRING:
		return clock_pairing(vcpu, a[0], a[1]);
	}
	return (u64)-KVM_ENOSYS;
}

static bool is_page_range(u64 gpa, u64 npages)
{
	u64 first = gpa >> PAGE_SHIFT;

	return is_aligned(gpa, PAGE_SIZE) && npages && first + npages > first;
}

static void fill_exit(struct kvm_run *run, const struct call *c)
{
	memset(&run->hypercall, 0, sizeof(run->hypercall));
	run->hypercall.nr = c->nr;
	for (int i = 0; i < 3; i++)
		run->hypercall.args[i] = c->arg[i];
	run->hypercall.longmode = c->wide;
}

int kvm_emulate_hypercall(struct kvm_vcpu *vcpu)
{
	struct call c = read_call(vcpu);
	u64 ret;

	if (vcpu->ctl.cpl) {
		ret = (u64)-KVM_EPERM;
	} else if (c.nr != KVM_HC_MAP_GPA_RANGE ||
		   !(vcpu->kvm->arch->hypercall_exits & BIT(KVM_HC_MAP_GPA_RANGE))) {
		ret = emulate_here(vcpu, &c);
	} else if (is_page_range(c.arg[0], c.arg[1])) {
		fill_exit(vcpu->run, &c);
		return 1;
	} else {
		ret = (u64)-KVM_EINVAL;
	}
	finish_call(vcpu, c.wide, ret);
	return 0;
}

void kvm_complete_hypercall(struct kvm_vcpu *vcpu)
{
	finish_call(vcpu, read_call(vcpu).wide, vcpu->run->hypercall.ret);
}
