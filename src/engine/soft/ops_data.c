/*
 * Moves and conversions: MOV, MOVZX, MOVSX, LEA, XCHG, XADD, CMPXCHG, CMOV, SETcc, CBW, CWD, XLAT,
 * LAHF, SAHF, and the flag instructions that need no privilege.
 */
#include "engine/soft/ops_int.h"

#define MOV(BITS)                                                                                  \
	REG_OP(mov_rr_##BITS, WRITE_##BITS(u->rm, READ_##BITS(u->reg));)                           \
	REG_OP(mov_ri_##BITS, WRITE_##BITS(u->rm, (u##BITS)u->imm);)                               \
	LOAD_OP(mov_rm_##BITS, BITS, WRITE_##BITS(u->reg, val);)                                   \
	STORE_OP(mov_mr_##BITS, BITS, READ_##BITS(u->reg))                                         \
	STORE_OP(mov_mi_##BITS, BITS, (u##BITS)u->imm)
ALL4(MOV)

const struct operation oper_mov = {
	.name = "mov",
	.fn = {[FORM_RR] = FN4(mov_rr),
	       [FORM_RI] = FN4(mov_ri),
	       [FORM_RM] = FN4(mov_rm),
	       [FORM_MR] = FN4(mov_mr),
	       [FORM_MI] = FN4(mov_mi)},
};

/* MOVZX, MOVSX by the width of the source. */
#define EXTEND(NAME, FROM, TYPE, TO)                                                               \
	REG_OP(NAME##_rr_##TO, WRITE_##TO(u->rm, (u##TO)(TYPE)READ_##FROM(u->reg));)               \
	LOAD_OP(NAME##_rm_##TO, FROM, WRITE_##TO(u->reg, (u##TO)(TYPE)val);)
#define EXTEND_OPERATION(NAME, FROM, TYPE)                                                         \
	EXTEND(NAME, FROM, TYPE, 16)                                                               \
	EXTEND(NAME, FROM, TYPE, 32)                                                               \
	EXTEND(NAME, FROM, TYPE, 64)                                                               \
	const struct operation oper_##NAME = {                                                     \
		.name = #NAME,                                                                     \
		.fn = {[FORM_RR] = FN3(NAME##_rr), [FORM_RM] = FN3(NAME##_rm)},                    \
	};
EXTEND_OPERATION(movzx8, 8, u8)
EXTEND_OPERATION(movzx16, 16, u16)
EXTEND_OPERATION(movsx8, 8, s8)
EXTEND_OPERATION(movsx16, 16, s16)
EXTEND_OPERATION(movsxd, 32, s32)

/* LEA: the offset part alone. */
#define LEA(BITS)                                                                                  \
	REG_OP(lea_##BITS, {                                                                       \
		u64 ea = REG64(u->base) + (u64)(s64)u->disp;                                       \
                                                                                                   \
		if (u->amode == AM_FULL && !(u->scale & UOP_FLAT))                                 \
			ea = uop_ea_full(vcpu, u);                                                 \
		else                                                                               \
			ea += REG64(u->index) << (u->scale & 63);                                  \
		WRITE_##BITS(u->reg, (u##BITS)ea);                                                 \
	})
ALL3(LEA)

const struct operation oper_lea = {.name = "lea", .fn = {[FORM_RM] = FN3(lea)}};

/* XCHG with memory is locked with or without the prefix. */
#define XCHG(BITS)                                                                                 \
	REG_OP(xchg_rr_##BITS, {                                                                   \
		u##BITS a = READ_##BITS(u->rm), b = READ_##BITS(u->reg);                           \
                                                                                                   \
		WRITE_##BITS(u->rm, b);                                                            \
		WRITE_##BITS(u->reg, a);                                                           \
	})                                                                                         \
	RMW_OP(                                                                                    \
		xchg_mr_##BITS, BITS,                                                              \
		{                                                                                  \
			val = READ_##BITS(u->reg);                                                 \
			asm volatile("xchg" SFX_##BITS " %0, %1"                                   \
				     : "+r"(val), "+m"(*p)                                         \
				     :                                                             \
				     : "memory");                                                  \
		},                                                                                 \
		WRITE_##BITS(u->reg, val);)
ALL4(XCHG)

const struct operation oper_xchg = {
	.name = "xchg",
	.fn = {[FORM_RR] = FN4(xchg_rr), [FORM_MR] = FN4(xchg_mr), [FORM_LOCK_MR] = FN4(xchg_mr)},
};

/* 90: NOP, but XCHG R8 with REX.B. */
REG_OP(nop, )

static int nop_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	if (insn->map == MAP_1 && insn->opcode == 0x90 && insn->rex & 1)
		u->fn = oper_xchg.fn[FORM_RR][u->osize];
	return 0;
}

const struct operation oper_nop = {.name = "nop", .any = nop, .build = nop_build};

#define XADD(NAME, BITS, LOCK)                                                                     \
	RMW_OP(                                                                                    \
		NAME##_##BITS, BITS,                                                               \
		{                                                                                  \
			val = READ_##BITS(u->reg);                                                 \
			asm volatile(LOCK "xadd" SFX_##BITS " %0, %1\n\t" FLAGS_OUT                \
				     : "+r"(val), "+m"(*p), "=a"(fl)                               \
				     :                                                             \
				     : "cc", "memory");                                            \
		},                                                                                 \
		{                                                                                  \
			WRITE_##BITS(u->reg, val);                                                 \
			vcpu->aflags = fl;                                                         \
		})

#define XADD_ALL(BITS)                                                                             \
	XADD(xadd_mr, BITS, "")                                                                    \
	XADD(xadd_lock_mr, BITS, "lock ")                                                          \
	REG_OP(xadd_rr_##BITS, {                                                                   \
		u##BITS a = READ_##BITS(u->rm), b = READ_##BITS(u->reg);                           \
		u16 fl;                                                                            \
		asm("xadd" SFX_##BITS " %1, %0\n\t" FLAGS_OUT                                      \
		    : "+r"(a), "+r"(b), "=a"(fl)                                                   \
		    :                                                                              \
		    : "cc");                                                                       \
		WRITE_##BITS(u->reg, b);                                                           \
		WRITE_##BITS(u->rm, a);                                                            \
		vcpu->aflags = fl;                                                                 \
	})
ALL4(XADD_ALL)

const struct operation oper_xadd = {
	.name = "xadd",
	.fn = {[FORM_RR] = FN4(xadd_rr),
	       [FORM_MR] = FN4(xadd_mr),
	       [FORM_LOCK_MR] = FN4(xadd_lock_mr)},
};

/* CMPXCHG: the accumulator is written only when the comparison failed. */
#define CMPXCHG(NAME, BITS, LOCK)                                                                  \
	RMW_OP(                                                                                    \
		NAME##_##BITS, BITS,                                                               \
		{                                                                                  \
			u64 acc = vcpu->ctl.gpr[RAX];                                              \
			u64 old;                                                                   \
			asm volatile(LOCK "cmpxchg" SFX_##BITS " %3, %2\n\t"                       \
							       "mov %%rax, %1\n\t" FLAGS_OUT       \
				     : "+a"(acc), "=&r"(old), "+m"(*p)                             \
				     : "r"(READ_##BITS(u->reg))                                    \
				     : "cc", "memory");                                            \
			fl = (u16)acc;                                                             \
			val = (u##BITS)old;                                                        \
		},                                                                                 \
		{                                                                                  \
			if (!(fl & AF_ZF))                                                         \
				WRITE_##BITS(8 * RAX, val);                                        \
			vcpu->aflags = fl;                                                         \
		})

#define CMPXCHG_ALL(BITS)                                                                          \
	CMPXCHG(cmpxchg_mr, BITS, "")                                                              \
	CMPXCHG(cmpxchg_lock_mr, BITS, "lock ")                                                    \
	REG_OP(cmpxchg_rr_##BITS, {                                                                \
		u##BITS old = READ_##BITS(u->rm);                                                  \
		u16 fl;                                                                            \
		asm("cmp" SFX_##BITS " %2, %1\n\t" FLAGS_OUT                                       \
		    : "=a"(fl)                                                                     \
		    : "r"(READ_##BITS(8 * RAX)), "r"(old)                                          \
		    : "cc");                                                                       \
		if (fl & AF_ZF)                                                                    \
			WRITE_##BITS(u->rm, READ_##BITS(u->reg));                                  \
		else {                                                                             \
			WRITE_##BITS(8 * RAX, old);                                                \
			WRITE_##BITS(u->rm, old);                                                  \
		}                                                                                  \
		vcpu->aflags = fl;                                                                 \
	})
ALL4(CMPXCHG_ALL)

const struct operation oper_cmpxchg = {
	.name = "cmpxchg",
	.fn = {[FORM_RR] = FN4(cmpxchg_rr),
	       [FORM_MR] = FN4(cmpxchg_mr),
	       [FORM_LOCK_MR] = FN4(cmpxchg_lock_mr)},
};

/* CMPXCHG8B and 16B; ZF alone changes. 16 bytes must be aligned: #GP. */
OP(cmpxchg8b)
{
	u64 linear = uop_linear(vcpu, u, 8, ACCESS_WRITE);
	u64 old = (u64)REG32(8 * RDX) << 32 | REG32(8 * RAX);
	u64 new = (u64)REG32(8 * RCX) << 32 | REG32(8 * RBX);
	u64 *p = mem_rmw(vcpu, linear, 8);
	struct rmw_slow slow;
	bool equal;

	if (p) {
		equal = __atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST);
	} else {
		p = mem_rmw_slow_begin(vcpu, linear, 8, &slow);
		equal = *p == old;
		if (equal)
			*p = new;
		else
			old = *p;
		mem_rmw_slow_end(vcpu, &slow);
	}
	vcpu->aflags = equal ? vcpu->aflags | AF_ZF : vcpu->aflags & ~AF_ZF;
	if (!equal) {
		WRITE_32(8 * RAX, old);
		WRITE_32(8 * RDX, old >> 32);
	}
}

static bool cmpxchg16(void *p, u64 *lo, u64 *hi, u64 new_lo, u64 new_hi)
{
	bool equal;

	asm volatile("lock cmpxchg16b %3"
		     : "=@ccz"(equal), "+a"(*lo), "+d"(*hi), "+m"(*(unsigned __int128 *)p)
		     : "b"(new_lo), "c"(new_hi)
		     : "memory");
	return equal;
}

OP(cmpxchg16b)
{
	u64 linear = uop_linear(vcpu, u, 16, ACCESS_WRITE);
	u64 lo = vcpu->ctl.gpr[RAX], hi = vcpu->ctl.gpr[RDX];
	struct rmw_slow slow;
	bool equal;
	void *p;

	if (linear & 15)
		raise_gp(vcpu, 0);
	p = mem_rmw(vcpu, linear, 16);
	if (p) {
		equal = cmpxchg16(p, &lo, &hi, vcpu->ctl.gpr[RBX], vcpu->ctl.gpr[RCX]);
	} else {
		p = mem_rmw_slow_begin(vcpu, linear, 16, &slow);
		equal = cmpxchg16(p, &lo, &hi, vcpu->ctl.gpr[RBX], vcpu->ctl.gpr[RCX]);
		mem_rmw_slow_end(vcpu, &slow);
	}
	vcpu->aflags = equal ? vcpu->aflags | AF_ZF : vcpu->aflags & ~AF_ZF;
	if (!equal) {
		vcpu->ctl.gpr[RAX] = lo;
		vcpu->ctl.gpr[RDX] = hi;
	}
}

/* CMOVcc reads its source whatever the condition, and a 32-bit destination is always extended. */
#define CMOV(BITS)                                                                                 \
	REG_OP(cmov_rr_##BITS, {                                                                   \
		u##BITS a = READ_##BITS(u->rm);                                                    \
                                                                                                   \
		if (flags_cond(vcpu->aflags, u->vreg))                                             \
			a = READ_##BITS(u->reg);                                                   \
		WRITE_##BITS(u->rm, a);                                                            \
	})                                                                                         \
	LOAD_OP(cmov_rm_##BITS, BITS, {                                                            \
		if (!flags_cond(vcpu->aflags, u->vreg))                                            \
			val = READ_##BITS(u->reg);                                                 \
		WRITE_##BITS(u->reg, val);                                                         \
	})
ALL3(CMOV)

const struct operation oper_cmov = {
	.name = "cmov",
	.fn = {[FORM_RR] = FN3(cmov_rr), [FORM_RM] = FN3(cmov_rm)},
};

REG_OP(setcc_r, REG8(u->rm) = flags_cond(vcpu->aflags, u->vreg);)
STORE_OP(setcc_m, 8, flags_cond(vcpu->aflags, u->vreg))

const struct operation oper_setcc = {
	.name = "setcc",
	.fn = {[FORM_R] = {setcc_r}, [FORM_M] = {setcc_m}},
};

/* 98: CBW, CWDE, CDQE. 99: CWD, CDQ, CQO. */
OP(cbw)
{
	u64 rax = vcpu->ctl.gpr[RAX];

	reg_write(vcpu, 8 * RAX, u->osize,
		  u->osize == SIZE_16	? (u64)(s8)rax
		  : u->osize == SIZE_32 ? (u64)(s16)rax
					: (u64)(s64)(s32)rax);
}

OP(cwd)
{
	u64 sign = (vcpu->ctl.gpr[RAX] >> ((8u << u->osize) - 1)) & 1;

	reg_write(vcpu, 8 * RDX, u->osize, 0 - sign);
}

OP(xlat)
{
	u64 ea = (vcpu->ctl.gpr[RBX] + REG8(8 * RAX)) & size_mask(u->asize);

	REG8(8 * RAX) = (u8)mem_read(vcpu, seg_linear(vcpu, u->seg, ea, 1, ACCESS_READ), 1);
}

OP(lahf)
{
	REG8(8 * RAX + 1) = (u8)(aflags_to_rflags(vcpu->aflags) | 2);
}

OP(sahf)
{
	flags_update(vcpu, X86_ARITH & 0xff, REG8(8 * RAX + 1));
}

OP(clc)
{
	vcpu->aflags &= ~AF_CF;
}

OP(stc)
{
	vcpu->aflags |= AF_CF;
}

OP(cmc)
{
	vcpu->aflags ^= AF_CF;
}

OP(cld)
{
	vcpu->ctl.rflags &= ~(u64)X86_DF;
}

OP(std)
{
	vcpu->ctl.rflags |= X86_DF;
}

OP(salc)
{
	REG8(8 * RAX) = vcpu->aflags & AF_CF ? 0xff : 0;
}
