/*
 * The user's part in MSRs: which a guest may touch (api.rst, KVM_X86_SET_MSR_FILTER), and the exits
 * in place of #GP (KVM_CAP_X86_USER_SPACE_MSR). MSRs of the x2APIC are the engine's alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"

#define X2APIC_FIRST 0x800u
#define X2APIC_LAST  0x8ffu

struct filter_range {
	u32 flags, base, count;
	u64 *allowed; /* a bit an MSR */
};

struct msr_filter {
	bool default_allow;
	u32 count;
	struct filter_range range[KVM_MSR_FILTER_MAX_RANGES];
};

/* ---- the filter ---- */

static void filter_free(struct msr_filter *f)
{
	if (!f)
		return;
	for (u32 i = 0; i < f->count; i++)
		free(f->range[i].allowed);
	free(f);
}

static int add_range(struct msr_filter *f, const struct kvm_msr_filter_range *args)
{
	struct filter_range *r = &f->range[f->count];
	size_t size = BITMAP_WORDS((u64)args->nmsrs) * sizeof(u64);

	if (!args->nmsrs)
		return 0;
	if (!args->flags || args->flags & ~(u32)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) ||
	    size > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
		return -EINVAL;
	*r = (struct filter_range){.flags = args->flags, .base = args->base, .count = args->nmsrs};
	r->allowed = malloc(size);
	if (!r->allowed)
		return -ENOMEM;
	memcpy(r->allowed, args->bitmap, size);
	f->count++;
	return 0;
}

static void publish(struct kvm *kvm, void *arg)
{
	filter_free(kvm->arch->filter);
	kvm->arch->filter = arg;
}

int kvm_set_msr_filter(struct kvm *kvm, const struct kvm_msr_filter *args)
{
	struct msr_filter *f;
	int rc = 0;

	if (args->flags & ~(u32)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->default_allow = !(args->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (u32 i = 0; i < KVM_MSR_FILTER_MAX_RANGES && !rc; i++)
		rc = add_range(f, &args->ranges[i]);
	/* To deny everything is a mistake; to allow everything takes the filter away. */
	if (!rc && !f->count && !f->default_allow)
		rc = -EINVAL;
	if (rc) {
		filter_free(f);
		return rc;
	}
	if (!f->count) {
		filter_free(f);
		f = NULL;
	}
	kvm_for_each_vcpu_stopped(kvm, publish, f);
	return 0;
}

void kvm_msr_filter_free(struct kvm *kvm)
{
	filter_free(kvm->arch->filter);
	kvm->arch->filter = NULL;
}

/* The first range that has the MSR decides. */
static bool is_allowed(const struct msr_filter *f, u32 index, u32 type)
{
	if (!f || (index >= X2APIC_FIRST && index <= X2APIC_LAST))
		return true;
	for (u32 i = 0; i < f->count; i++) {
		const struct filter_range *r = &f->range[i];

		if (index >= r->base && index - r->base < r->count && r->flags & type)
			return bitmap_test(r->allowed, index - r->base);
	}
	return f->default_allow;
}

/* ---- the instructions ---- */

/* 1 for #GP, or 2 after an exit was filled. */
static int refuse(struct kvm_vcpu *vcpu, u32 reason, u32 index, u64 data)
{
	struct kvm_run *run = vcpu->run;

	if (!(vcpu->kvm->arch->user_space_msr_mask & reason))
		return 1;
	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = reason;
	run->msr.index = index;
	run->msr.data = data;
	return 2;
}

static int finish(struct kvm_vcpu *vcpu, int rc, u32 index, u64 data)
{
	if (rc == MSR_OK)
		return 0;
	return refuse(vcpu,
		      rc == MSR_UNKNOWN ? KVM_MSR_EXIT_REASON_UNKNOWN : KVM_MSR_EXIT_REASON_INVAL,
		      index, data);
}

int kvm_emulate_rdmsr(struct kvm_vcpu *vcpu, u32 index, u64 *data)
{
	if (!is_allowed(vcpu->kvm->arch->filter, index, KVM_MSR_FILTER_READ))
		return refuse(vcpu, KVM_MSR_EXIT_REASON_FILTER, index, 0);
	return finish(vcpu, kvm_get_msr(vcpu, index, data, false), index, 0);
}

int kvm_emulate_wrmsr(struct kvm_vcpu *vcpu, u32 index, u64 data)
{
	if (!is_allowed(vcpu->kvm->arch->filter, index, KVM_MSR_FILTER_WRITE))
		return refuse(vcpu, KVM_MSR_EXIT_REASON_FILTER, index, data);
	return finish(vcpu, kvm_set_msr(vcpu, index, data, false), index, data);
}
