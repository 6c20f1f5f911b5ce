/*
 * Bit operations: BT, BTS, BTR, BTC, BSF, BSR, POPCNT, MOVBE, BSWAP.
 */
#include "engine/soft/ops_int.h"

/* A register bit base, or an immediate offset: the offset is taken modulo the size. The address of
 * a register offset on memory moves by whole operands: SDM vol. 2, BT. */
#define BIT_ASM(INSN, BITS, value, offset)                                                         \
	asm(INSN SFX_##BITS " %2, %0\n\t" FLAGS_OUT                                                \
	    : "+r"(value), "=a"(fl)                                                                \
	    : "r"((u##BITS)((offset) & (BITS - 1)))                                                \
	    : "cc");
/* CF alone is defined; the host's processors leave the others as they were. */
#define BIT_MERGE vcpu->aflags = (vcpu->aflags & ~AF_CF) | (fl & AF_CF);

static u64 bit_linear(UOP_ARGS, unsigned int bits, enum access access)
{
	s64 offset = (s64)reg_read(vcpu, u->reg, u->osize);
	u64 ea;

	offset = bits == 16 ? (s16)offset : bits == 32 ? (s32)offset : offset;
	ea = uop_ea_full(vcpu, u) + (u64)((offset >> (bits == 16   ? 4
						      : bits == 32 ? 5
								   : 6)) *
					  (s64)(bits / 8));
	if (u->asize != SIZE_64)
		ea &= size_mask(u->asize);
	return seg_linear(vcpu, u->seg, ea, bits / 8, access);
}

#define BIT_WRITE_OP(NAME, INSN, BITS)                                                             \
	REG_OP(NAME##_rr_##BITS, {                                                                 \
		u##BITS value = READ_##BITS(u->rm);                                                \
		u16 fl;                                                                            \
		BIT_ASM(INSN, BITS, value, READ_##BITS(u->reg))                                    \
		WRITE_##BITS(u->rm, value);                                                        \
		BIT_MERGE                                                                          \
	})                                                                                         \
	REG_OP(NAME##_ri_##BITS, {                                                                 \
		u##BITS value = READ_##BITS(u->rm);                                                \
		u16 fl;                                                                            \
		BIT_ASM(INSN, BITS, value, u->imm)                                                 \
		WRITE_##BITS(u->rm, value);                                                        \
		BIT_MERGE                                                                          \
	})                                                                                         \
	RMW_OP(                                                                                    \
		NAME##_mi_##BITS, BITS,                                                            \
		{                                                                                  \
			val = *p;                                                                  \
			BIT_ASM(INSN, BITS, val, u->imm)                                           \
			*p = val;                                                                  \
		},                                                                                 \
		BIT_MERGE)                                                                         \
	RMW_OP(NAME##_lock_mi_##BITS, BITS, {BIT_LOCK(INSN, BITS, p, u->imm)}, BIT_MERGE)          \
	static const struct uop *NAME##_mr_##BITS(UOP_ARGS)                                        \
	{                                                                                          \
		volatile u##BITS *p;                                                               \
		struct rmw_slow slow;                                                              \
		u64 linear;                                                                        \
		u16 fl;                                                                            \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		linear = bit_linear(vcpu, u, BITS, ACCESS_WRITE);                                  \
		p = mem_rmw(vcpu, linear, BITS / 8);                                               \
		if (p) {                                                                           \
			BIT_LOCK(INSN, BITS, p, READ_##BITS(u->reg))                               \
		} else {                                                                           \
			p = mem_rmw_slow_begin(vcpu, linear, BITS / 8, &slow);                     \
			BIT_LOCK(INSN, BITS, p, READ_##BITS(u->reg))                               \
			mem_rmw_slow_end(vcpu, &slow);                                             \
		}                                                                                  \
		BIT_MERGE                                                                          \
		return u + 1;                                                                      \
	}

#define BIT_LOCK(INSN, BITS, p, offset)                                                            \
	asm volatile("lock " INSN SFX_##BITS " %2, %0\n\t" FLAGS_OUT                               \
		     : "+m"(*p), "=a"(fl)                                                          \
		     : "r"((u##BITS)((offset) & (BITS - 1)))                                       \
		     : "cc", "memory");

#define BIT_WRITE_OPERATION(NAME, INSN)                                                            \
	BIT_WRITE_OP(NAME, INSN, 16)                                                               \
	BIT_WRITE_OP(NAME, INSN, 32)                                                               \
	BIT_WRITE_OP(NAME, INSN, 64)                                                               \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RR] = FN3(NAME##_rr),                                                 \
		       [FORM_RI] = FN3(NAME##_ri),                                                 \
		       [FORM_MI] = FN3(NAME##_mi),                                                 \
		       [FORM_LOCK_MI] = FN3(NAME##_lock_mi),                                       \
		       [FORM_MR] = FN3(NAME##_mr),                                                 \
		       [FORM_LOCK_MR] = FN3(NAME##_mr)},                                           \
	};

BIT_WRITE_OPERATION(bts, "bts")
BIT_WRITE_OPERATION(btr, "btr")
BIT_WRITE_OPERATION(btc, "btc")

#define BT_OP(BITS)                                                                                \
	REG_OP(bt_rr_##BITS, {                                                                     \
		u##BITS value = READ_##BITS(u->rm);                                                \
		u16 fl;                                                                            \
		BIT_ASM("bt", BITS, value, READ_##BITS(u->reg))                                    \
		BIT_MERGE                                                                          \
	})                                                                                         \
	REG_OP(bt_ri_##BITS, {                                                                     \
		u##BITS value = READ_##BITS(u->rm);                                                \
		u16 fl;                                                                            \
		BIT_ASM("bt", BITS, value, u->imm)                                                 \
		BIT_MERGE                                                                          \
	})                                                                                         \
	LOAD_OP(bt_mi_##BITS, BITS, {                                                              \
		u16 fl;                                                                            \
		BIT_ASM("bt", BITS, val, u->imm)                                                   \
		BIT_MERGE                                                                          \
	})                                                                                         \
	static const struct uop *bt_mr_##BITS(UOP_ARGS)                                            \
	{                                                                                          \
		u##BITS value;                                                                     \
		u16 fl;                                                                            \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		value = (u##BITS)mem_read(vcpu, bit_linear(vcpu, u, BITS, ACCESS_READ), BITS / 8); \
		BIT_ASM("bt", BITS, value, READ_##BITS(u->reg))                                    \
		BIT_MERGE                                                                          \
		return u + 1;                                                                      \
	}
ALL3(BT_OP)

const struct operation oper_bt = {
	.name = "bt",
	.fn = {[FORM_RR] = FN3(bt_rr),
	       [FORM_RI] = FN3(bt_ri),
	       [FORM_MI] = FN3(bt_mi),
	       [FORM_MR] = FN3(bt_mr)},
};

/* BSF and BSR of 0 leave the destination (of 32 bits, its upper half too) as it was: the host does
 * exactly that, so the old value goes in whole. */
#define SCAN(NAME, INSN, BITS)                                                                     \
	REG_OP(NAME##_rr_##BITS, {                                                                 \
		u64 dst = REG64(u->rm);                                                            \
		u16 fl;                                                                            \
		asm(INSN SFX_##BITS " %" MOD_##BITS "2, %" MOD_##BITS "0\n\t" FLAGS_OUT            \
		    : "+r"(dst), "=a"(fl)                                                          \
		    : "r"((u64)READ_##BITS(u->reg))                                                \
		    : "cc");                                                                       \
		REG64(u->rm) = dst;                                                                \
		vcpu->aflags = fl;                                                                 \
	})                                                                                         \
	LOAD_OP(NAME##_rm_##BITS, BITS, {                                                          \
		u64 dst = REG64(u->reg);                                                           \
		u16 fl;                                                                            \
		asm(INSN SFX_##BITS " %" MOD_##BITS "2, %" MOD_##BITS "0\n\t" FLAGS_OUT            \
		    : "+r"(dst), "=a"(fl)                                                          \
		    : "r"((u64)val)                                                                \
		    : "cc");                                                                       \
		REG64(u->reg) = dst;                                                               \
		vcpu->aflags = fl;                                                                 \
	})

#define MOD_16 "w"
#define MOD_32 "k"
#define MOD_64 "q"

#define SCAN_OPERATION(NAME, INSN)                                                                 \
	SCAN(NAME, INSN, 16)                                                                       \
	SCAN(NAME, INSN, 32)                                                                       \
	SCAN(NAME, INSN, 64)                                                                       \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RR] = FN3(NAME##_rr), [FORM_RM] = FN3(NAME##_rm)},                    \
	};

SCAN_OPERATION(bsf, "bsf")
SCAN_OPERATION(bsr, "bsr")

#define MOVBE(BITS)                                                                                \
	LOAD_OP(movbe_rm_##BITS, BITS, WRITE_##BITS(u->reg, __builtin_bswap##BITS(val));)          \
	STORE_OP(movbe_mr_##BITS, BITS, __builtin_bswap##BITS(READ_##BITS(u->reg)))
ALL3(MOVBE)

const struct operation oper_movbe = {
	.name = "movbe",
	.fn = {[FORM_RM] = FN3(movbe_rm), [FORM_MR] = FN3(movbe_mr)},
};

/* Of 16 bits: undefined; the processors clear them. */
REG_OP(bswap_16, REG16(u->rm) = 0;)
REG_OP(bswap_32, WRITE_32(u->rm, __builtin_bswap32(REG32(u->rm)));)
REG_OP(bswap_64, REG64(u->rm) = __builtin_bswap64(REG64(u->rm));)

const struct operation oper_bswap = {.name = "bswap", .fn = {[FORM_RR] = FN3(bswap)}};
