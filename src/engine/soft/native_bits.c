/*
 * BMI1, BMI2, ADX, CRC32, POPCNT, LZCNT, TZCNT, RDRAND, RDSEED, MOVNTI: general registers only,
 * executed by inline assembly. Flags are the host's: what an instruction leaves as it is, too, so
 * the guest's are loaded first. SDM vol. 2.
 */
#include <errno.h>

#include "engine/soft/flags.h"
#include "engine/soft/native_int.h"

static unsigned int vex_osize(struct kvm_vcpu *vcpu, const struct uop *u)
{
	check_vex(vcpu);
	return u->rexw && u->mode64 ? SIZE_64 : SIZE_32;
}

static inline u64 read_rm(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int osize)
{
	if (likely(!u->mem))
		return reg_read(vcpu, u->rm, osize);
	return mem_read(vcpu, uop_linear(vcpu, u, 1u << osize, ACCESS_READ), 1u << osize);
}

/* #UD where the host has not the instruction; this operation's uop otherwise. */
#define BUILD_IF(feature)                                                                          \
	static int build_##feature(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)  \
	{                                                                                          \
		return native_host_has(vcpu, feature) ? 0 : -EINVAL;                               \
	}

BUILD_IF(F_BMI1)
BUILD_IF(F_BMI2)
BUILD_IF(F_ADX)
BUILD_IF(F_SSE42)
BUILD_IF(F_POPCNT)
BUILD_IF(F_LZCNT)
BUILD_IF(F_RDRAND)
BUILD_IF(F_RDSEED)

/* As OP() of uop.h, with a build function. */
#define OP_IF(NAME, feature)                                                                       \
	static inline void body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u);                \
	static const struct uop *op_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)             \
	{                                                                                          \
		vcpu->uop = u;                                                                     \
		body_##NAME(vcpu, u);                                                              \
		uop_next(vcpu, u);                                                                 \
	}                                                                                          \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME, .any = op_##NAME, .build = build_##feature};                        \
	static inline void body_##NAME(struct kvm_vcpu *vcpu, const struct uop *u)

/* In: the guest's flags; out: those after the instruction. */
#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define ASM_2(insn, out, a, b, flags)                                                              \
	__asm__(FLAGS_IN insn " %3, %2, %0\n\t" FLAGS_OUT                                          \
		: "=&r"(out), "+&a"(flags)                                                         \
		: "r"(a), "r"(b)                                                                   \
		: "cc")
#define ASM_1(insn, out, a, flags)                                                                 \
	__asm__(FLAGS_IN insn " %2, %0\n\t" FLAGS_OUT : "=&r"(out), "+&a"(flags) : "r"(a) : "cc")

/* dst <- a insn b in the operand's size; AT&T order: insn b, a, dst. Flags are kept or not. */
#define VEX_OP(NAME, feature, insn, a, b, keep)                                                    \
	OP_IF(NAME, feature)                                                                       \
	{                                                                                          \
		unsigned int osize = vex_osize(vcpu, u);                                           \
		u64 rm = read_rm(vcpu, u, osize), vv = REG64(u->vreg), out, flags = vcpu->aflags;  \
                                                                                                   \
		if (osize == SIZE_64) {                                                            \
			ASM_2(insn "q", out, a, b, flags);                                         \
		} else {                                                                           \
			u32 out32;                                                                 \
                                                                                                   \
			ASM_2(insn "l", out32, (u32)(a), (u32)(b), flags);                         \
			out = out32;                                                               \
		}                                                                                  \
		REG64(u->reg) = out;                                                               \
		if (keep)                                                                          \
			vcpu->aflags = (u16)flags;                                                 \
	}

#define VEX_BLS(NAME, insn)                                                                        \
	OP_IF(NAME, F_BMI1)                                                                        \
	{                                                                                          \
		unsigned int osize = vex_osize(vcpu, u);                                           \
		u64 rm = read_rm(vcpu, u, osize), out, flags = vcpu->aflags;                       \
                                                                                                   \
		if (osize == SIZE_64) {                                                            \
			ASM_1(insn "q", out, rm, flags);                                           \
		} else {                                                                           \
			u32 out32;                                                                 \
                                                                                                   \
			ASM_1(insn "l", out32, (u32)rm, flags);                                    \
			out = out32;                                                               \
		}                                                                                  \
		REG64(u->vreg) = out;                                                              \
		vcpu->aflags = (u16)flags;                                                         \
	}

VEX_OP(andn, F_BMI1, "andn", vv, rm, true)
VEX_OP(bextr, F_BMI1, "bextr", rm, vv, true)
VEX_OP(bzhi, F_BMI2, "bzhi", rm, vv, true)
VEX_OP(shlx, F_BMI2, "shlx", rm, vv, false)
VEX_OP(sarx, F_BMI2, "sarx", rm, vv, false)
VEX_OP(shrx, F_BMI2, "shrx", rm, vv, false)
VEX_OP(pdep, F_BMI2, "pdep", vv, rm, false)
VEX_OP(pext, F_BMI2, "pext", vv, rm, false)
VEX_BLS(blsr, "blsr")
VEX_BLS(blsmsk, "blsmsk")
VEX_BLS(blsi, "blsi")

OP_IF(mulx, F_BMI2)
{
	unsigned int osize = vex_osize(vcpu, u);
	u64 rm = read_rm(vcpu, u, osize), rdx = REG64(8 * RDX), low, high;

	if (osize == SIZE_64) {
		unsigned __int128 product = (unsigned __int128)rm * rdx;

		low = (u64)product;
		high = (u64)(product >> 64);
	} else {
		low = (u64)(u32)rm * (u32)rdx;
		high = low >> 32;
		low = (u32)low;
	}
	REG64(u->vreg) = low;
	REG64(u->reg) = high;
}

OP_IF(rorx, F_BMI2)
{
	unsigned int osize = vex_osize(vcpu, u), bits = osize == SIZE_64 ? 64 : 32;
	u64 rm = read_rm(vcpu, u, osize);
	unsigned int count = u->imm & (bits - 1);

	if (count)
		rm = rm >> count | rm << (bits - count);
	REG64(u->reg) = bits == 64 ? rm : (u32)rm;
}

/* ADCX, ADOX: add with one flag as carry, which alone changes. */
static void add_carry(struct kvm_vcpu *vcpu, const struct uop *u, u16 flag)
{
	unsigned int osize = u->rexw ? SIZE_64 : SIZE_32;
	u64 a = read_rm(vcpu, u, osize), carry = !!(vcpu->aflags & flag);
	unsigned __int128 sum;

	if (osize == SIZE_64) {
		sum = (unsigned __int128)a + REG64(u->reg) + carry;
		REG64(u->reg) = (u64)sum;
		carry = (u64)(sum >> 64);
	} else {
		a += (u64)REG32(u->reg) + carry;
		REG64(u->reg) = (u32)a;
		carry = a >> 32;
	}
	vcpu->aflags = (u16)((vcpu->aflags & ~flag) | (carry ? flag : 0));
}

OP_IF(adcx, F_ADX)
{
	add_carry(vcpu, u, AF_CF);
}

OP_IF(adox, F_ADX)
{
	add_carry(vcpu, u, AF_OF);
}

/* CRC32 r32, r/m8 to r/m64; osize is the source's (reg of the byte form may look like AH to BH).
 * The result is zero-extended. */
OP_IF(crc32, F_SSE42)
{
	u64 src = read_rm(vcpu, u, u->osize);
	u8 reg = u->reg & 1 ? u->reg - 1 + 32 : u->reg;
	u32 crc = REG32(reg);

	switch (u->osize) {
	case SIZE_8:
		__asm__("crc32b %1, %0" : "+r"(crc) : "q"((u8)src));
		break;
	case SIZE_16:
		__asm__("crc32w %1, %0" : "+r"(crc) : "r"((u16)src));
		break;
	case SIZE_32:
		__asm__("crc32l %1, %0" : "+r"(crc) : "r"((u32)src));
		break;
	default: {
		u64 wide = crc;

		__asm__("crc32q %1, %0" : "+r"(wide) : "r"(src));
		crc = (u32)wide;
	}
	}
	REG64(reg) = crc;
}

/* reg <- count of rm, flags out, in 16, 32 and 64 bits. */
#define COUNT_OP(NAME, feature)                                                                    \
	OP_IF(NAME, feature)                                                                       \
	{                                                                                          \
		u64 src = read_rm(vcpu, u, u->osize), out, flags = vcpu->aflags;                   \
                                                                                                   \
		if (u->osize == SIZE_64) {                                                         \
			ASM_1(#NAME "q", out, src, flags);                                         \
		} else if (u->osize == SIZE_32) {                                                  \
			u32 out32;                                                                 \
                                                                                                   \
			ASM_1(#NAME "l", out32, (u32)src, flags);                                  \
			out = out32;                                                               \
		} else {                                                                           \
			u16 out16;                                                                 \
                                                                                                   \
			ASM_1(#NAME "w", out16, (u16)src, flags);                                  \
			out = out16;                                                               \
		}                                                                                  \
		reg_write(vcpu, u->reg, u->osize, out);                                            \
		vcpu->aflags = (u16)flags;                                                         \
	}

COUNT_OP(popcnt, F_POPCNT)
COUNT_OP(lzcnt, F_LZCNT)
COUNT_OP(tzcnt, F_BMI1)

/* CF says whether a number was there; the other flags are zero, and the register then too. */
static void random_op(struct kvm_vcpu *vcpu, const struct uop *u, bool ok, u64 value)
{
	reg_write(vcpu, u->rm, u->osize, ok ? value : 0);
	vcpu->aflags = ok ? AF_CF : 0;
}

OP_IF(rdrand, F_RDRAND)
{
	u64 value;
	bool ok;

	__asm__ volatile("rdrand %0" : "=r"(value), "=@ccc"(ok));
	random_op(vcpu, u, ok, value);
}

OP_IF(rdseed, F_RDSEED)
{
	u64 value;
	bool ok;

	__asm__ volatile("rdseed %0" : "=r"(value), "=@ccc"(ok));
	random_op(vcpu, u, ok, value);
}

OP(movnti)
{
	unsigned int osize = u->rexw ? SIZE_64 : SIZE_32;

	uop_write_rm_sized(vcpu, u, osize, reg_read(vcpu, u->reg, osize));
}
