/*
 * CPUID as a guest sees it. vcpu->guest_features holds the words that are asked for often, so that
 * guest_has() is one bit test:
 *   word 0: leaf 1, EDX and (from bit 32) ECX
 *   word 1: leaf 7, EBX and ECX
 *   word 2: leaf 0x80000001, EDX and ECX
 *   word 3: leaf 0x40000001, EAX, and leaf 7, EDX
 */
#ifndef GUEST_FEATURES_H
#define GUEST_FEATURES_H

#include "engine/soft/soft_int.h"

#define FEATURE(word, half, bit) ((word)*64 + (half)*32 + (bit))

enum guest_feature {
	FEATURE_VME = FEATURE(0, 0, 1),
	FEATURE_DE = FEATURE(0, 0, 2),
	FEATURE_PSE = FEATURE(0, 0, 3),
	FEATURE_TSC = FEATURE(0, 0, 4),
	FEATURE_PAE = FEATURE(0, 0, 6),
	FEATURE_MCE = FEATURE(0, 0, 7),
	FEATURE_APIC = FEATURE(0, 0, 9),
	FEATURE_SEP = FEATURE(0, 0, 11),
	FEATURE_PGE = FEATURE(0, 0, 13),
	FEATURE_FXSR = FEATURE(0, 0, 24),
	FEATURE_SSE = FEATURE(0, 0, 25),
	FEATURE_CX16 = FEATURE(0, 1, 13),
	FEATURE_PCID = FEATURE(0, 1, 17),
	FEATURE_X2APIC = FEATURE(0, 1, 21),
	FEATURE_MOVBE = FEATURE(0, 1, 22),
	FEATURE_TSC_DEADLINE = FEATURE(0, 1, 24),
	FEATURE_XSAVE = FEATURE(0, 1, 26),
	FEATURE_AVX = FEATURE(0, 1, 28),
	FEATURE_RDRAND = FEATURE(0, 1, 30),
	FEATURE_FSGSBASE = FEATURE(1, 0, 0),
	FEATURE_TSC_ADJUST = FEATURE(1, 0, 1),
	FEATURE_BMI1 = FEATURE(1, 0, 3),
	FEATURE_AVX2 = FEATURE(1, 0, 5),
	FEATURE_SMEP = FEATURE(1, 0, 7),
	FEATURE_INVPCID = FEATURE(1, 0, 10),
	FEATURE_RDSEED = FEATURE(1, 0, 18),
	FEATURE_SMAP = FEATURE(1, 0, 20),
	FEATURE_UMIP = FEATURE(1, 1, 2),
	FEATURE_LA57 = FEATURE(1, 1, 16),
	FEATURE_RDPID = FEATURE(1, 1, 22),
	FEATURE_SYSCALL = FEATURE(2, 0, 11),
	FEATURE_NX = FEATURE(2, 0, 20),
	FEATURE_FFXSR = FEATURE(2, 0, 25),
	FEATURE_GBPAGES = FEATURE(2, 0, 26),
	FEATURE_RDTSCP = FEATURE(2, 0, 27),
	FEATURE_LM = FEATURE(2, 0, 29),
	FEATURE_PV_CLOCK = FEATURE(3, 0, 0),
	FEATURE_PV_CLOCK2 = FEATURE(3, 0, 3),
	FEATURE_PV_UNHALT = FEATURE(3, 0, 7),
	FEATURE_PV_SEND_IPI = FEATURE(3, 0, 11),
	FEATURE_SPEC_CTRL = FEATURE(3, 1, 26),
	FEATURE_ARCH_CAPABILITIES = FEATURE(3, 1, 29),
};

static inline bool guest_has(const struct kvm_vcpu *vcpu, enum guest_feature f)
{
	return vcpu->guest_features[f / 64] >> f % 64 & 1;
}

#endif
