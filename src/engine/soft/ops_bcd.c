/*
 * Decimal adjustments, which 64-bit mode (and so the host's instructions) does not have: SDM vol.
 * 2, AAA, AAD, AAM, AAS, DAA, DAS. Undefined flags are 0.
 */
#include "engine/soft/ops_int.h"

/* SF, ZF and PF of AL. */
static u16 flags_of(u8 al)
{
	u16 fl;

	asm("testb %1, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"(al) : "cc");
	return fl & (AF_SF | AF_ZF | AF_PF);
}

static void decimal_adjust(struct kvm_vcpu *vcpu, int sign)
{
	u8 old = REG8(8 * RAX), al = old;
	bool carry = vcpu->aflags & AF_CF, adjust = vcpu->aflags & AF_AF;
	u16 fl = 0;

	if ((al & 15) > 9 || adjust) {
		if (sign < 0 && al < 6)
			fl |= AF_CF;
		al = (u8)(al + sign * 6);
		fl |= AF_AF;
	}
	if (old > 0x99 || carry) {
		al = (u8)(al + sign * 0x60);
		fl |= AF_CF;
	}
	REG8(8 * RAX) = al;
	vcpu->aflags = fl | flags_of(al);
}

OP(daa)
{
	decimal_adjust(vcpu, 1);
}

OP(das)
{
	decimal_adjust(vcpu, -1);
}

static void ascii_adjust(struct kvm_vcpu *vcpu, int sign)
{
	u16 ax = REG16(8 * RAX), fl = 0;

	if ((ax & 15) > 9 || vcpu->aflags & AF_AF) {
		ax = (u16)(ax + sign * 0x106);
		fl = AF_AF | AF_CF;
	}
	ax &= 0xff0f;
	REG16(8 * RAX) = ax;
	vcpu->aflags = fl | flags_of((u8)ax);
}

OP(aaa)
{
	ascii_adjust(vcpu, 1);
}

OP(aas)
{
	ascii_adjust(vcpu, -1);
}

OP(aam)
{
	u8 al = REG8(8 * RAX), base = (u8)u->imm;

	if (!base)
		raise_exception(vcpu, DE_VECTOR);
	REG16(8 * RAX) = (u16)(al / base << 8 | al % base);
	vcpu->aflags = flags_of(al % base);
}

OP(aad)
{
	u16 ax = REG16(8 * RAX);
	u8 al = (u8)((ax & 0xff) + (ax >> 8) * u->imm);

	REG16(8 * RAX) = al;
	vcpu->aflags = flags_of(al);
}
