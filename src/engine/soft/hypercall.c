/* Hypercalls: Documentation/virt/kvm/x86/hypercalls.rst. */
#include <errno.h>
#include <linux/kvm_para.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/guest_features.h"
#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"

/* Wake the vCPU that waits in HLT for a lock. */
static u64 kick_cpu(struct kvm *kvm, u64 apic_id)
{
	struct kvm_vcpu *vcpu = apic_id < KVM_MAX_VCPU_ID ? kvm->arch->vcpu_by_id[apic_id] : NULL;

	if (!vcpu)
		return 0;
	__atomic_store_n(&vcpu->arch->pv_unhalted, 1, __ATOMIC_RELEASE);
	kvm_vcpu_kick(vcpu);
	return 0;
}

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

	if (irq.delivery_mode != DM_FIXED && irq.delivery_mode != DM_NMI)
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

void kvm_emulate_hypercall(struct kvm_vcpu *vcpu)
{
	u64 *r = vcpu->ctl.gpr, nr = r[RAX], a0 = r[RBX], a1 = r[RCX], a2 = r[RDX], a3 = r[RSI];
	bool wide = (vcpu->ctl.efer & EFER_LMA) && vcpu->ctl.seg[SEG_CS].l;
	u64 ret = (u64)-KVM_ENOSYS;

	vcpu->stat->hypercalls++;
	if (!wide) {
		nr = (u32)nr;
		a0 = (u32)a0;
		a1 = (u32)a1;
		a2 = (u32)a2;
		a3 = (u32)a3;
	}
	if (vcpu->ctl.cpl) {
		ret = (u64)-KVM_EPERM;
	} else if (nr == KVM_HC_VAPIC_POLL_IRQ) {
		ret = 0;
	} else if (nr == KVM_HC_KICK_CPU && guest_has(vcpu, FEATURE_PV_UNHALT)) {
		ret = kick_cpu(vcpu->kvm, a1);
	} else if (nr == KVM_HC_SEND_IPI && guest_has(vcpu, FEATURE_PV_SEND_IPI)) {
		u64 set[2] = {a0, a1};

		ret = send_ipi(vcpu->kvm, set, (u32)a2, a3);
	} else if (nr == KVM_HC_CLOCK_PAIRING) {
		ret = clock_pairing(vcpu, a0, a1);
	}
	r[RAX] = wide ? ret : (u32)ret;
}
