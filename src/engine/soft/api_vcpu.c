/* vCPU descriptors: api.rst, "vcpu ioctl". One table: request and function. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/arch_int.h"
#include "engine/soft/irq.h"
#include "engine/soft/lapic.h"

struct vcpu_ioctl {
	u32 request;
	int (*fn)(struct kvm_vcpu *vcpu, unsigned long arg);
};

#define P(type) ((type *)arg)

/* Functions that cannot fail, and those that return 0 or -errno. */
#define WRAP_VOID(name, fn, type)                                                                  \
	static int name(struct kvm_vcpu *vcpu, unsigned long arg)                                  \
	{                                                                                          \
		fn(vcpu, P(type));                                                                 \
		return 0;                                                                          \
	}
#define WRAP(name, fn, type)                                                                       \
	static int name(struct kvm_vcpu *vcpu, unsigned long arg)                                  \
	{                                                                                          \
		return fn(vcpu, P(type));                                                          \
	}

WRAP_VOID(do_get_regs, get_regs, struct kvm_regs)
WRAP_VOID(do_set_regs, set_regs, struct kvm_regs)
WRAP_VOID(do_get_sregs, get_sregs, struct kvm_sregs)
WRAP(do_set_sregs, set_sregs, struct kvm_sregs)
WRAP_VOID(do_get_sregs2, get_sregs2, struct kvm_sregs2)
WRAP(do_set_sregs2, set_sregs2, struct kvm_sregs2)
WRAP_VOID(do_get_events, get_vcpu_events, struct kvm_vcpu_events)
WRAP(do_set_events, set_vcpu_events, struct kvm_vcpu_events)
WRAP_VOID(do_get_debugregs, get_debugregs, struct kvm_debugregs)
WRAP(do_set_debugregs, set_debugregs, struct kvm_debugregs)
WRAP_VOID(do_get_fpu, get_fpu, struct kvm_fpu)
WRAP_VOID(do_set_fpu, set_fpu, struct kvm_fpu)
WRAP_VOID(do_get_xsave, get_xsave, struct kvm_xsave)
WRAP(do_set_xsave, set_xsave, struct kvm_xsave)
WRAP_VOID(do_get_xcrs, get_xcrs, struct kvm_xcrs)
WRAP(do_set_xcrs, set_xcrs, struct kvm_xcrs)
WRAP(do_set_signal_mask, set_signal_mask, struct kvm_signal_mask)

static int do_run(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return arg ? -EINVAL : kvm_vcpu_run(vcpu);
}

static int do_get_msrs(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return kvm_msr_io(vcpu, P(struct kvm_msrs), false);
}

static int do_set_msrs(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return kvm_msr_io(vcpu, P(struct kvm_msrs), true);
}

static int do_set_cpuid2(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return kvm_set_cpuid(vcpu, P(struct kvm_cpuid2)->entries, P(struct kvm_cpuid2)->nent);
}

/* The old form has no index. */
static int do_set_cpuid(struct kvm_vcpu *vcpu, unsigned long arg)
{
	const struct kvm_cpuid *old = P(struct kvm_cpuid);
	struct kvm_cpuid_entry2 *e;
	int rc;

	if (old->nent > 256)
		return -E2BIG;
	e = calloc(old->nent + 1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	for (u32 i = 0; i < old->nent; i++) {
		e[i].function = old->entries[i].function;
		e[i].eax = old->entries[i].eax;
		e[i].ebx = old->entries[i].ebx;
		e[i].ecx = old->entries[i].ecx;
		e[i].edx = old->entries[i].edx;
	}
	rc = kvm_set_cpuid(vcpu, e, old->nent);
	free(e);
	return rc;
}

static int do_get_cpuid2(struct kvm_vcpu *vcpu, unsigned long arg)
{
	struct kvm_cpuid2 *to = P(struct kvm_cpuid2);

	if (to->nent < vcpu->cpuid_count)
		return -E2BIG;
	if (vcpu->cpuid_count)
		memcpy(to->entries, vcpu->cpuid, vcpu->cpuid_count * sizeof(*vcpu->cpuid));
	to->nent = vcpu->cpuid_count;
	return 0;
}

static int do_interrupt(struct kvm_vcpu *vcpu, unsigned long arg)
{
	u32 irq = P(struct kvm_interrupt)->irq;

	if (irq >= KVM_NR_INTERRUPTS)
		return -EINVAL;
	if (!irqchip_in_kernel(vcpu->kvm)) {
		vcpu->ctl.interrupt.pending = true;
		vcpu->ctl.interrupt.soft = false;
		vcpu->ctl.interrupt.nr = (u8)irq;
	} else if (pic_in_kernel(vcpu->kvm)) {
		return -ENXIO;
	} else if (vcpu->arch->pending_external_vector >= 0) {
		return -EEXIST;
	} else {
		vcpu->arch->pending_external_vector = (int)irq;
	}
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

static int do_nmi(struct kvm_vcpu *vcpu, unsigned long arg)
{
	kvm_inject_nmi(vcpu);
	return 0;
}

static int do_get_mp_state(struct kvm_vcpu *vcpu, unsigned long arg)
{
	u32 state;

	if (lapic_in_kernel(vcpu))
		kvm_accept_events(vcpu);
	state = __atomic_load_n(&vcpu->mp_state, __ATOMIC_ACQUIRE);
	if (state == KVM_MP_STATE_HALTED &&
	    __atomic_load_n(&vcpu->arch->pv_unhalted, __ATOMIC_ACQUIRE))
		state = KVM_MP_STATE_RUNNABLE;
	P(struct kvm_mp_state)->mp_state = state;
	return 0;
}

static int do_set_mp_state(struct kvm_vcpu *vcpu, unsigned long arg)
{
	u32 state = P(struct kvm_mp_state)->mp_state;

	switch (state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!lapic_in_kernel(vcpu))
			return -EINVAL;
		break;
	case KVM_MP_STATE_RUNNABLE:
		break;
	default:
		return -EINVAL;
	}
	if (state == KVM_MP_STATE_SIPI_RECEIVED) {
		state = KVM_MP_STATE_INIT_RECEIVED;
		__atomic_fetch_or(&vcpu->arch->pending_events, APIC_EVENT_SIPI, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&vcpu->mp_state, state, __ATOMIC_RELEASE);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

static int do_get_lapic(struct kvm_vcpu *vcpu, unsigned long arg)
{
	if (!lapic_in_kernel(vcpu))
		return -EINVAL;
	kvm_lapic_get(vcpu, P(struct kvm_lapic_state));
	return 0;
}

static int do_set_lapic(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return lapic_in_kernel(vcpu) ? kvm_lapic_set(vcpu, P(struct kvm_lapic_state)) : -EINVAL;
}

static int do_set_tsc_khz(struct kvm_vcpu *vcpu, unsigned long arg)
{
	/* From 1 MHz on; above that the ratio must fit its fixed point. */
	if (arg && (arg < 1000 || arg > 100000000))
		return -EINVAL;
	return kvm_set_tsc_khz(vcpu, (u32)arg);
}

static int do_get_tsc_khz(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return (int)vcpu->arch->tsc_khz;
}

static int inject_debug_exception(struct kvm_vcpu *vcpu, u8 vector)
{
	if (vcpu->ctl.exception.pending)
		return -EBUSY;
	vcpu->ctl.exception.pending = true;
	vcpu->ctl.exception.has_error_code = false;
	vcpu->ctl.exception.nr = vector;
	vcpu->ctl.exception.payload = 0;
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

static int do_set_guest_debug(struct kvm_vcpu *vcpu, unsigned long arg)
{
	const struct kvm_guest_debug *dbg = P(struct kvm_guest_debug);
	int rc = 0;

	if (dbg->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP))
		rc = inject_debug_exception(
			vcpu, dbg->control & KVM_GUESTDBG_INJECT_DB ? DB_VECTOR : BP_VECTOR);
	if (rc)
		return rc;
	vcpu->guest_debug = dbg->control & KVM_GUESTDBG_ENABLE ? dbg->control : 0;
	memset(vcpu->guest_debug_dr, 0, sizeof(vcpu->guest_debug_dr));
	if (vcpu->guest_debug & KVM_GUESTDBG_USE_HW_BP)
		memcpy(vcpu->guest_debug_dr, dbg->arch.debugreg, sizeof(vcpu->guest_debug_dr));
	vcpu->kvm->exec->state_changed(vcpu);
	return 0;
}

static int do_translate(struct kvm_vcpu *vcpu, unsigned long arg)
{
	struct kvm_translation *t = P(struct kvm_translation);
	bool writable = false, user = false;
	u64 gpa;

	/* The walk reads slots: no structure may change under it. */
	kvm_vcpu_enter_guest_mode(vcpu);
	gpa = vcpu->kvm->exec->translate(vcpu, t->linear_address, &writable, &user);
	kvm_vcpu_leave_guest_mode(vcpu);
	t->physical_address = gpa;
	t->valid = gpa != ~0ULL;
	t->writeable = writable;
	t->usermode = user;
	return 0;
}

static int do_kvmclock_ctrl(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return kvm_kvmclock_ctrl(vcpu);
}

static int do_setup_mce(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return kvm_setup_mce(vcpu, *P(u64));
}

static int do_set_mce(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return kvm_set_mce(vcpu, P(struct kvm_x86_mce));
}

/* KVM_CAP_VAPIC is absent; to have no page is the state that users restore at reset. */
static int do_set_vapic_addr(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return lapic_in_kernel(vcpu) && !P(struct kvm_vapic_addr)->vapic_addr ? 0 : -EINVAL;
}

/* As where the processor virtualizes the TPR: KVM_CAP_VAPIC is absent and no exit ever comes. */
static int do_tpr_access_reporting(struct kvm_vcpu *vcpu, unsigned long arg)
{
	struct kvm_tpr_access_ctl *ctl = P(struct kvm_tpr_access_ctl);

	if (ctl->flags)
		return -EINVAL;
	vcpu->arch->tpr_reporting = ctl->enabled;
	return 0;
}

/* A kernel without system management mode. */
static int do_smi(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return -ENOTTY;
}

static int do_enable_cap(struct kvm_vcpu *vcpu, unsigned long arg)
{
	const struct kvm_enable_cap *cap = P(struct kvm_enable_cap);

	if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	vcpu->arch->pv_enforced = cap->args[0];
	return 0;
}

static int do_get_stats_fd(struct kvm_vcpu *vcpu, unsigned long arg)
{
	return stats_open(vcpu->arch->stat_fd);
}

static const struct vcpu_ioctl ioctls[] = {
	{KVM_GET_REGS, do_get_regs},
	{KVM_SET_REGS, do_set_regs},
	{KVM_GET_SREGS, do_get_sregs},
	{KVM_SET_SREGS, do_set_sregs},
	{KVM_GET_SREGS2, do_get_sregs2},
	{KVM_SET_SREGS2, do_set_sregs2},
	{KVM_INTERRUPT, do_interrupt},
	{KVM_NMI, do_nmi},
	{KVM_GET_MSRS, do_get_msrs},
	{KVM_SET_MSRS, do_set_msrs},
	{KVM_GET_VCPU_EVENTS, do_get_events},
	{KVM_SET_VCPU_EVENTS, do_set_events},
	{KVM_GET_DEBUGREGS, do_get_debugregs},
	{KVM_SET_DEBUGREGS, do_set_debugregs},
	{KVM_GET_FPU, do_get_fpu},
	{KVM_SET_FPU, do_set_fpu},
	{KVM_GET_XSAVE, do_get_xsave},
	{KVM_GET_XSAVE2, do_get_xsave},
	{KVM_SET_XSAVE, do_set_xsave},
	{KVM_GET_XCRS, do_get_xcrs},
	{KVM_SET_XCRS, do_set_xcrs},
	{KVM_GET_LAPIC, do_get_lapic},
	{KVM_SET_LAPIC, do_set_lapic},
	{KVM_GET_MP_STATE, do_get_mp_state},
	{KVM_SET_MP_STATE, do_set_mp_state},
	{KVM_SET_CPUID, do_set_cpuid},
	{KVM_SET_CPUID2, do_set_cpuid2},
	{KVM_GET_CPUID2, do_get_cpuid2},
	{KVM_SET_SIGNAL_MASK, do_set_signal_mask},
	{KVM_SET_TSC_KHZ, do_set_tsc_khz},
	{KVM_GET_TSC_KHZ, do_get_tsc_khz},
	{KVM_SET_GUEST_DEBUG, do_set_guest_debug},
	{KVM_TRANSLATE, do_translate},
	{KVM_KVMCLOCK_CTRL, do_kvmclock_ctrl},
	{KVM_X86_SETUP_MCE, do_setup_mce},
	{KVM_X86_SET_MCE, do_set_mce},
	{KVM_SET_VAPIC_ADDR, do_set_vapic_addr},
	{KVM_TPR_ACCESS_REPORTING, do_tpr_access_reporting},
	{KVM_SMI, do_smi},
	{KVM_ENABLE_CAP, do_enable_cap},
	{KVM_GET_STATS_FD, do_get_stats_fd},
};

static int dispatch(struct kvm_vcpu *vcpu, u32 request, unsigned long arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(ioctls); i++)
		if (ioctls[i].request == request)
			return ioctls[i].fn(vcpu, arg);
	return -EINVAL;
}

static int vcpu_ioctl(void *object, unsigned int request, unsigned long arg)
{
	struct kvm_vcpu *vcpu = object;
	int rc;

	pthread_mutex_lock(&vcpu->mutex);
	rc = likely(request == KVM_RUN) ? do_run(vcpu, arg) : dispatch(vcpu, request, arg);
	pthread_mutex_unlock(&vcpu->mutex);
	return rc;
}

static void vcpu_release(void *object)
{
	struct kvm_vcpu *vcpu = object;

	kvm_put_vm(vcpu->kvm); /* the vCPU goes with its VM */
}

const struct file_ops vcpu_file_ops = {.ioctl = vcpu_ioctl, .release = vcpu_release};
