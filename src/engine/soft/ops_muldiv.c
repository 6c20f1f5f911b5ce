/*
 * MUL, IMUL, DIV, IDIV of the accumulator. A quotient that does not fit is #DE, which the host must
 * not see: divisions are checked before the host executes them. They leave the (undefined) flags.
 */
#include "engine/soft/ops_int.h"

static u64 read_acc(const struct kvm_vcpu *vcpu, unsigned int osize)
{
	return vcpu->ctl.gpr[RAX] & size_mask(osize);
}

/* The double-width accumulator: AX, DX:AX, EDX:EAX, RDX:RAX. */
static void write_pair(struct kvm_vcpu *vcpu, unsigned int osize, u64 lo, u64 hi)
{
	if (osize == SIZE_8) {
		REG16(8 * RAX) = (u16)((lo & 0xff) | hi << 8);
		return;
	}
	reg_write(vcpu, 8 * RAX, osize, lo);
	reg_write(vcpu, 8 * RDX, osize, hi);
}

#define MULTIPLY(INSN)                                                                             \
	switch (u->osize) {                                                                        \
	case SIZE_8:                                                                               \
		asm(INSN "b %b2\n\t"                                                               \
			 "mov %%eax, %k1\n\t" FLAGS_OUT                                            \
		    : "+a"(lo), "=&r"(product)                                                     \
		    : "r"(src)                                                                     \
		    : "cc");                                                                       \
		fl = (u16)lo;                                                                      \
		lo = product & 0xff;                                                               \
		hi = (product >> 8) & 0xff;                                                        \
		break;                                                                             \
	case SIZE_16:                                                                              \
		asm(INSN "w %w3\n\t"                                                               \
			 "mov %%eax, %k2\n\t" FLAGS_OUT                                            \
		    : "+a"(lo), "=&d"(hi), "=&r"(product)                                          \
		    : "r"(src)                                                                     \
		    : "cc");                                                                       \
		fl = (u16)lo;                                                                      \
		lo = product;                                                                      \
		break;                                                                             \
	case SIZE_32:                                                                              \
		asm(INSN "l %k3\n\t"                                                               \
			 "mov %%eax, %k2\n\t" FLAGS_OUT                                            \
		    : "+a"(lo), "=&d"(hi), "=&r"(product)                                          \
		    : "r"(src)                                                                     \
		    : "cc");                                                                       \
		fl = (u16)lo;                                                                      \
		lo = product;                                                                      \
		break;                                                                             \
	default:                                                                                   \
		asm(INSN "q %q3\n\t"                                                               \
			 "mov %%rax, %q2\n\t" FLAGS_OUT                                            \
		    : "+a"(lo), "=&d"(hi), "=&r"(product)                                          \
		    : "r"(src)                                                                     \
		    : "cc");                                                                       \
		fl = (u16)lo;                                                                      \
		lo = product;                                                                      \
		break;                                                                             \
	}

OP(mul)
{
	u64 src = uop_read_rm(vcpu, u), lo = vcpu->ctl.gpr[RAX], hi, product;
	u16 fl;

	MULTIPLY("mul")
	write_pair(vcpu, u->osize, lo, hi);
	vcpu->aflags = fl;
}

OP(imul1)
{
	u64 src = uop_read_rm(vcpu, u), lo = vcpu->ctl.gpr[RAX], hi, product;
	u16 fl;

	MULTIPLY("imul")
	write_pair(vcpu, u->osize, lo, hi);
	vcpu->aflags = fl;
}

static void divide_128(u64 hi, u64 lo, u64 d, u64 *quotient, u64 *remainder)
{
	asm("divq %4" : "=a"(*quotient), "=d"(*remainder) : "0"(lo), "1"(hi), "r"(d) : "cc");
}

/* The dividend in two halves of 64 bits, sign- or zero-extended. */
static void read_dividend(const struct kvm_vcpu *vcpu, unsigned int osize, bool is_signed, u64 *hi,
			  u64 *lo)
{
	unsigned int bits = 8u << osize;

	if (osize == SIZE_64) {
		*lo = vcpu->ctl.gpr[RAX];
		*hi = vcpu->ctl.gpr[RDX];
		return;
	}
	if (osize == SIZE_8)
		*lo = REG16(8 * RAX);
	else
		*lo = read_acc(vcpu, osize) | (vcpu->ctl.gpr[RDX] & size_mask(osize)) << bits;
	if (is_signed && bits < 32)
		*lo = (u64)((s64)(*lo << (64 - 2 * bits)) >> (64 - 2 * bits));
	*hi = is_signed ? (u64)((s64)*lo >> 63) : 0;
}

OP(div)
{
	u64 d = uop_read_rm(vcpu, u), hi, lo, q, r;

	read_dividend(vcpu, u->osize, false, &hi, &lo);
	if (hi >= d)
		raise_exception(vcpu, DE_VECTOR);
	divide_128(hi, lo, d, &q, &r);
	if (q > size_mask(u->osize))
		raise_exception(vcpu, DE_VECTOR);
	write_pair(vcpu, u->osize, q, r);
}

OP(idiv)
{
	unsigned int bits = 8u << u->osize;
	u64 d = uop_read_rm(vcpu, u), hi, lo, q, r;
	bool negative, negative_d;

	d = (u64)((s64)(d << (64 - bits)) >> (64 - bits));
	read_dividend(vcpu, u->osize, true, &hi, &lo);
	negative = hi >> 63;
	negative_d = d >> 63;
	if (negative) {
		lo = 0 - lo;
		hi = ~hi + !lo;
	}
	if (negative_d)
		d = 0 - d;
	if (hi >= d)
		raise_exception(vcpu, DE_VECTOR);
	divide_128(hi, lo, d, &q, &r);
	/* The magnitude of the most negative quotient is one more. */
	if (q > (1ULL << (bits - 1)) - (negative == negative_d))
		raise_exception(vcpu, DE_VECTOR);
	write_pair(vcpu, u->osize, negative != negative_d ? 0 - q : q, negative ? 0 - r : r);
}
