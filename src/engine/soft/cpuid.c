/*
 * What is announced: what this engine carries out, in part by the host's instructions, in the
 * vendor's form of the host (which executes them), and KVM's leaves. SDM vol. 2 CPUID; AMD APM vol.
 * 3 appendix E; Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "engine/soft/guest_features.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/native.h"

#define MAX_CPUID_ENTRIES 256
#define B(n)		  (1u << (n))

/*
 * native_features() tells which instructions the host executes for the guest; the rest is done by
 * functions here, whatever the host has, and is listed in these masks.
 */
/* Leaf 1 ECX: CX16 PCID x2APIC hypervisor. The TSC-deadline bit is the user's to set, by
 * KVM_CAP_TSC_DEADLINE_TIMER: it needs the in-kernel LAPIC (api.rst). */
#define L1_ECX (B(13) | B(17) | B(21) | B(31))
/* EDX: VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36. */
#define L1_EDX 0x0003fbfeu
/* Leaf 7 EBX: FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP. */
#define L7_EBX (B(0) | B(1) | B(7) | B(9) | B(10) | B(20))
/* ECX: UMIP RDPID; EDX: FSRM. */
#define L7_ECX (B(2) | B(22))
#define L7_EDX B(4)
/* Intel: IBRS and IBPB, STIBP, ARCH_CAPABILITIES, SSBD. */
#define L7_EDX_INTEL (B(26) | B(27) | B(29) | B(31))
/* Leaf 0x80000001 ECX: LAHF, and on AMD CR8_LEGACY TOPOEXT. */
#define E1_ECX	   B(0)
#define E1_ECX_AMD (B(4) | B(22))
/* EDX: SYSCALL NX 1GB RDTSCP LM, and on AMD MMXEXT and copies of leaf 1. */
#define E1_EDX	    (B(11) | B(20) | B(26) | B(27) | B(29))
#define E1_EDX_AMD  B(22)
#define E1_EDX_COPY 0x0183f3ffu
/* Leaf 0x80000008 EBX (AMD): CLZERO no; IBPB IBRS STIBP SSBD. */
#define E8_EBX_AMD (B(12) | B(14) | B(15) | B(24))
/* Leaf 0x80000021 EAX (AMD): LFENCE serializing, null selector clears base, automatic IBRS. */
#define E21_EAX (B(2) | B(6) | B(8))

#define PV_FEATURES                                                                                \
	(B(KVM_FEATURE_CLOCKSOURCE) | B(KVM_FEATURE_NOP_IO_DELAY) | B(KVM_FEATURE_CLOCKSOURCE2) |  \
	 B(KVM_FEATURE_PV_UNHALT) | B(KVM_FEATURE_PV_SEND_IPI) | B(KVM_FEATURE_POLL_CONTROL) |     \
	 B(KVM_FEATURE_PV_SCHED_YIELD) | B(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))

#define XCR0_X87   1u
#define XCR0_SSE   2u
#define XCR0_AVX   4u
#define AVX_SIZE   256u
#define AVX_OFFSET 576u

/* ---- the host ---- */

static struct kvm_cpuid_entry2 host(u32 function, u32 index)
{
	struct kvm_cpuid_entry2 e = {.function = function, .index = index};

	if ((function & 0x7fffffff) <= (__get_cpuid_max(function & 0x80000000, NULL) & 0x7fffffff))
		__cpuid_count(function, index, e.eax, e.ebx, e.ecx, e.edx);
	return e;
}

static bool host_is_amd(void)
{
	struct kvm_cpuid_entry2 e = host(0, 0);

	return !memcmp(&e.ebx, "Auth", 4) || !memcmp(&e.ebx, "Hygo", 4);
}

static struct native_features native(void)
{
	struct native_features f;

	native_features(&f);
	return f;
}

u64 kvm_supported_xcr0(void)
{
	return native().xcr0;
}

/* ---- the supported leaves ---- */

struct table {
	struct kvm_cpuid_entry2 *entry;
	u32 count, room;
	bool full;
};

static void add(struct table *t, struct kvm_cpuid_entry2 e, bool indexed)
{
	if (t->count >= t->room) {
		t->full = true;
		return;
	}
	e.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
	memset(e.padding, 0, sizeof(e.padding));
	t->entry[t->count++] = e;
}

static void add_values(struct table *t, u32 function, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	add(t,
	    (struct kvm_cpuid_entry2){
		    .function = function, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx},
	    false);
}

static u32 leaf_1_edx(void)
{
	return L1_EDX | native().leaf1_edx;
}

static void add_leaf_1(struct table *t)
{
	struct kvm_cpuid_entry2 e = host(1, 0);

	e.ebx = 8u << 8; /* CLFLUSH line of 64 bytes; APIC ID and count are the user's */
	e.ecx = L1_ECX | native().leaf1_ecx;
	e.edx = leaf_1_edx();
	add(t, e, false);
}

static void add_leaf_7(struct table *t, bool amd)
{
	struct kvm_cpuid_entry2 e = {.function = 7};

	e.ebx = L7_EBX | native().leaf7_ebx;
	e.ecx = L7_ECX | native().leaf7_ecx;
	e.edx = L7_EDX | native().leaf7_edx | (amd ? 0 : L7_EDX_INTEL);
	add(t, e, true);
}

/* Deterministic cache parameters, one index a cache, ended by type 0. */
static void add_caches(struct table *t, u32 function)
{
	for (u32 i = 0; i < 8; i++) {
		struct kvm_cpuid_entry2 e = host(function, i);

		add(t, e, true);
		if (!(e.eax & 0x1f))
			break;
	}
}

static void add_leaf_d(struct table *t)
{
	struct kvm_cpuid_entry2 e = {.function = 0xd};
	u32 xcr0 = (u32)kvm_supported_xcr0();
	u32 size = xcr0 & XCR0_AVX ? AVX_OFFSET + AVX_SIZE : AVX_OFFSET;

	e.eax = xcr0;
	e.ebx = e.ecx = size;
	add(t, e, true);
	e = (struct kvm_cpuid_entry2){.function = 0xd, .index = 1};
	e.eax = native().leafd1_eax;
	add(t, e, true);
	if (!(xcr0 & XCR0_AVX))
		return;
	e = (struct kvm_cpuid_entry2){.function = 0xd, .index = 2};
	e.eax = AVX_SIZE;
	e.ebx = AVX_OFFSET;
	add(t, e, true);
}

static void add_basic(struct table *t, bool amd)
{
	struct kvm_cpuid_entry2 e = host(0, 0);

	e.eax = 0xd;
	add(t, e, false);
	add_leaf_1(t);
	if (!amd) {
		add(t, host(2, 0), false);
		add_caches(t, 4);
	}
	add_values(t, 5, 0, 0, 0, 0);
	add_values(t, 6, B(2), 0, 0, 0); /* ARAT */
	add_leaf_7(t, amd);
	add_values(t, 0xa, 0, 0, 0, 0); /* no performance counters */
	add_leaf_d(t);
}

static void add_kvm(struct table *t)
{
	u32 sig[3];

	memcpy(sig, KVM_SIGNATURE, sizeof(sig));
	add_values(t, KVM_CPUID_SIGNATURE, KVM_CPUID_FEATURES, sig[0], sig[1], sig[2]);
	add_values(t, KVM_CPUID_FEATURES, PV_FEATURES, 0, 0, 0);
}

static void add_extended_amd(struct table *t)
{
	add(t, host(0x80000019, 0), false);
	add(t, host(0x8000001a, 0), false);
	add_caches(t, 0x8000001d);
	add_values(t, 0x8000001e, 0, 0, 0, 0); /* the user's topology */
	/* What automatic IBRS promises, an engine without speculation across modes keeps. */
	add_values(t, 0x80000021, E21_EAX, 0, 0, 0);
}

static void add_extended(struct table *t, bool amd)
{
	struct kvm_cpuid_entry2 e = host(0x80000000, 0);

	e.eax = amd ? 0x80000021 : 0x80000008;
	add(t, e, false);
	e = host(0x80000001, 0);
	e.ecx = E1_ECX | native().ext1_ecx | (amd ? E1_ECX_AMD : 0);
	e.edx = E1_EDX | native().ext1_edx;
	if (amd)
		e.edx |= E1_EDX_AMD | (leaf_1_edx() & E1_EDX_COPY);
	add(t, e, false);
	for (u32 i = 0x80000002; i <= 0x80000006; i++)
		add(t, host(i, 0), false);
	add_values(t, 0x80000007, 0, 0, 0, B(8)); /* invariant TSC */
	e = host(0x80000008, 0);
	e.eax = 48u << 8 | (u32)min(e.eax & 0xff, 52u);
	e.ebx = amd ? E8_EBX_AMD : 0;
	e.ecx = e.edx = 0;
	add(t, e, false);
	if (amd)
		add_extended_amd(t);
}

int kvm_get_supported_cpuid(struct kvm_cpuid2 *cpuid, bool emulated)
{
	struct table t = {.entry = cpuid->entries,
			  .room = min(cpuid->nent, (u32)MAX_CPUID_ENTRIES)};
	bool amd = host_is_amd();

	if (!cpuid->nent)
		return -E2BIG;
	/* Nothing is emulated that is not also supported. */
	if (!emulated) {
		add_basic(&t, amd);
		add_kvm(&t);
		add_extended(&t, amd);
	}
	if (t.full)
		return -E2BIG;
	cpuid->nent = t.count;
	return 0;
}

/* ---- a vCPU's ---- */

static const struct kvm_cpuid_entry2 *find(const struct kvm_vcpu *vcpu, u32 function, u32 index)
{
	for (u32 i = 0; i < vcpu->cpuid_count; i++) {
		const struct kvm_cpuid_entry2 *e = &vcpu->cpuid[i];

		if (e->function == function &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

void kvm_update_cpuid(struct kvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e;
	u32 phys_bits = 36;

	memset(vcpu->guest_features, 0, sizeof(vcpu->guest_features));
	e = find(vcpu, 1, 0);
	if (e)
		vcpu->guest_features[0] = e->edx | (u64)e->ecx << 32;
	e = find(vcpu, 7, 0);
	if (e) {
		vcpu->guest_features[1] = e->ebx | (u64)e->ecx << 32;
		vcpu->guest_features[3] = (u64)e->edx << 32;
	}
	e = find(vcpu, 0x80000001, 0);
	if (e)
		vcpu->guest_features[2] = e->edx | (u64)e->ecx << 32;
	e = find(vcpu, KVM_CPUID_FEATURES, 0);
	if (e)
		vcpu->guest_features[3] |= e->eax;
	e = find(vcpu, 0x80000008, 0);
	if (e && (e->eax & 0xff))
		phys_bits = min(max(e->eax & 0xff, 32u), 52u);
	vcpu->guest_maxphyaddr_mask = MASK(phys_bits - 1, 0);
}

static bool same_cpuid(const struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries,
		       u32 count)
{
	return count == vcpu->cpuid_count &&
	       (!count || !memcmp(vcpu->cpuid, entries, count * sizeof(*entries)));
}

int kvm_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, u32 count)
{
	struct kvm_cpuid_entry2 *copy;

	if (count > MAX_CPUID_ENTRIES)
		return -E2BIG;
	/* A guest may have looked already; what it saw must stay true. */
	if (vcpu->arch->ran)
		return same_cpuid(vcpu, entries, count) ? 0 : -EINVAL;
	copy = malloc(max(count, 1u) * sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	if (count)
		memcpy(copy, entries, count * sizeof(*copy));
	free(vcpu->cpuid);
	vcpu->cpuid = copy;
	vcpu->cpuid_count = count;
	kvm_update_cpuid(vcpu);
	vcpu->kvm->exec->state_changed(vcpu);
	return 0;
}

/* The leaf that answers for one out of range: on Intel the highest basic one, else none. */
static const struct kvm_cpuid_entry2 *out_of_range(const struct kvm_vcpu *vcpu, u32 function,
						   u32 index)
{
	const struct kvm_cpuid_entry2 *basic = find(vcpu, 0, 0), *max;

	if (!basic || !memcmp(&basic->ebx, "Auth", 4) || !memcmp(&basic->ebx, "Hygo", 4))
		return NULL;
	if (function >= 0x40000000 && function < 0x80000000)
		max = find(vcpu, function & 0xffffff00, 0);
	else
		max = find(vcpu, function & 0x80000000, 0);
	if (max && function <= max->eax)
		return NULL; /* in range, but not there: zeroes */
	return find(vcpu, basic->eax, index);
}

/* The bits that follow the vCPU's state. */
static void adjust(struct kvm_vcpu *vcpu, u32 function, u32 index, u32 *ebx, u32 *ecx, u32 *edx)
{
	if (function == 1) {
		*ecx &= ~B(27);
		if ((vcpu->ctl.cr4 >> 18 & 1) && guest_has(vcpu, FEATURE_XSAVE))
			*ecx |= B(27);
		if (vcpu->apic && !(vcpu->apic_base >> 11 & 1))
			*edx &= ~B(9);
	}
	if (function == 0xd && index == 0)
		*ebx = vcpu->ctl.xcr0 & XCR0_AVX ? AVX_OFFSET + AVX_SIZE : AVX_OFFSET;
}

void kvm_cpuid(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx)
{
	u32 function = *eax, index = *ecx;
	const struct kvm_cpuid_entry2 *e = find(vcpu, function, index);

	vcpu->stat->cpuid++;
	if (!e)
		e = out_of_range(vcpu, function, index);
	if (!e) {
		*eax = *ebx = *ecx = *edx = 0;
		/* In the topology leaves the index and the APIC ID show even past the last level.
		 */
		if ((function == 0xb || function == 0x1f) && find(vcpu, function, 1)) {
			*ecx = index & 0xff;
			*edx = find(vcpu, function, 1)->edx;
		}
		return;
	}
	*eax = e->eax;
	*ebx = e->ebx;
	*ecx = e->ecx;
	*edx = e->edx;
	adjust(vcpu, e->function, index, ebx, ecx, edx);
}
