/*
 * The arithmetic flags while the cpu runs: as the host computed them.
 *
 * vcpu->aflags is what LAHF and SETO leave in AX after the operation: the high byte is the low byte
 * of RFLAGS (SF ZF - AF - PF - CF), the low byte is OF. The other bits of RFLAGS are in ctl.rflags,
 * whose arithmetic flags mean nothing meanwhile. An operation computes its flags by executing the
 * host's instruction of the same size, so undefined ones are the host's too:
 *
 *	asm("addq %2, %0\n\t" FLAGS_OUT : "+r"(dst), "=a"(flags) : "r"(src) : "cc");
 */
#ifndef SOFT_FLAGS_H
#define SOFT_FLAGS_H

#include "engine/soft/uop.h"

#define X86_CF	  (1u << 0)
#define X86_PF	  (1u << 2)
#define X86_AF	  (1u << 4)
#define X86_ZF	  (1u << 6)
#define X86_SF	  (1u << 7)
#define X86_TF	  (1u << 8)
#define X86_IF	  (1u << 9)
#define X86_DF	  (1u << 10)
#define X86_OF	  (1u << 11)
#define X86_IOPL  (3u << 12)
#define X86_NT	  (1u << 14)
#define X86_RF	  (1u << 16)
#define X86_VM	  (1u << 17)
#define X86_AC	  (1u << 18)
#define X86_VIF	  (1u << 19)
#define X86_VIP	  (1u << 20)
#define X86_ID	  (1u << 21)
#define X86_ARITH (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

/* The same in aflags. */
#define AF_CF  0x0100u
#define AF_PF  0x0400u
#define AF_AF  0x1000u
#define AF_ZF  0x4000u
#define AF_SF  0x8000u
#define AF_OF  0x0001u
#define AF_ALL (AF_CF | AF_PF | AF_AF | AF_ZF | AF_SF | AF_OF)

#define FLAGS_OUT "lahf\n\tseto %%al"
/* Sets the host's CF from an aflags value, operand n of the asm: before ADC, SBB, RCL... */
#define FLAGS_CF(n) "bt $8, %k" #n "\n\t"

static inline u64 aflags_to_rflags(u16 a)
{
	return ((a >> 8) & (X86_ARITH & 0xff)) | (u64)(a & AF_OF) << 11;
}

static inline u16 rflags_to_aflags(u64 rflags)
{
	return (u16)((rflags & (X86_ARITH & 0xff)) << 8 | ((rflags >> 11) & 1));
}

/* The architectural RFLAGS, and setting it (all bits; the caller has masked what may not change).
 */
static inline u64 flags_get(const struct kvm_vcpu *vcpu)
{
	return (vcpu->ctl.rflags & ~(u64)X86_ARITH) | aflags_to_rflags(vcpu->aflags) | 2;
}

static inline void flags_set(struct kvm_vcpu *vcpu, u64 rflags)
{
	vcpu->ctl.rflags = rflags | 2;
	vcpu->aflags = rflags_to_aflags(rflags);
}

/* Change only the arithmetic flags in `mask` (X86_*) to those of value. */
static inline void flags_update(struct kvm_vcpu *vcpu, u64 mask, u64 value)
{
	u16 m = rflags_to_aflags(mask);

	vcpu->aflags = (vcpu->aflags & ~m) | (rflags_to_aflags(value) & m);
}

/* Condition code cc (0 to 15, as in Jcc). */
static inline bool flags_cond(u16 a, unsigned int cc)
{
	bool r;

	switch (cc >> 1) {
	case 0:
		r = a & AF_OF;
		break;
	case 1:
		r = a & AF_CF;
		break;
	case 2:
		r = a & AF_ZF;
		break;
	case 3:
		r = a & (AF_CF | AF_ZF);
		break;
	case 4:
		r = a & AF_SF;
		break;
	case 5:
		r = a & AF_PF;
		break;
	case 6:
		r = (a >> 15) != (a & AF_OF);
		break;
	default:
		r = (a & AF_ZF) || (a >> 15) != (a & AF_OF);
		break;
	}
	return r != (cc & 1);
}

#endif
