/*
 * Templates of the integer operations.
 *
 * An operation on memory is two functions: one that hits the TLB and is all that runs in a hot loop
 * (no frame, no call but the next operation in tail position), and NAME_slow, entered from the
 * start whenever it does not, which may do anything.
 */
#ifndef SOFT_OPS_INT_H
#define SOFT_OPS_INT_H

#include "engine/soft/cpu.h"
#include "engine/soft/flags.h"
#include "engine/soft/uop.h"

#define UOP_ARGS struct kvm_vcpu *vcpu, const struct uop *u
#define COLD	 __attribute__((noinline, cold))

/* Register writes by width: 32 bits clear the upper half. */
#define WRITE_8(field, v)  (REG8(field) = (u8)(v))
#define WRITE_16(field, v) (REG16(field) = (u16)(v))
#define WRITE_32(field, v) (REG64(field) = (u32)(v))
#define WRITE_64(field, v) (REG64(field) = (v))
#define READ_8(field)	   REG8(field)
#define READ_16(field)	   REG16(field)
#define READ_32(field)	   REG32(field)
#define READ_64(field)	   REG64(field)

#define SFX_8  "b"
#define SFX_16 "w"
#define SFX_32 "l"
#define SFX_64 "q"

#define FN4(n)                                                                                     \
	{                                                                                          \
		n##_8, n##_16, n##_32, n##_64                                                      \
	}
#define FN3(n)                                                                                     \
	{                                                                                          \
		NULL, n##_16, n##_32, n##_64                                                       \
	}
#define ALL4(M) M(8) M(16) M(32) M(64)
#define ALL3(M) M(16) M(32) M(64)

/* The linear address where no segment check is due, or `otherwise` is done. */
#define FAST_LINEAR(lin, otherwise)                                                                \
	u64 lin = REG64(u->base) + (u64)(s64)u->disp;                                              \
	if (unlikely(u->amode != AM_BASE)) {                                                       \
		if (u->amode == AM_FULL && !(u->scale & UOP_FLAT))                                 \
			otherwise;                                                                 \
		lin += REG64(u->index) << (u->scale & 63);                                         \
		if (u->amode == AM_SEG)                                                            \
			lin += vcpu->ctl.seg[u->seg].base;                                         \
		else if (u->amode == AM_FULL)                                                      \
			lin = (u32)lin;                                                            \
	}

/* An operation on registers, with this body. */
#define REG_OP(NAME, ...)                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		__VA_ARGS__                                                                        \
		uop_next(vcpu, u);                                                                 \
	}

/* The body finds the memory operand in `val`. */
#define LOAD_OP(NAME, BITS, ...)                                                                   \
	static COLD const struct uop *NAME##_slow(UOP_ARGS)                                        \
	{                                                                                          \
		u##BITS val;                                                                       \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		val = (u##BITS)mem_read(vcpu, uop_linear_full(vcpu, u, BITS / 8, ACCESS_READ),     \
					BITS / 8);                                                 \
		__VA_ARGS__                                                                        \
		return u + 1;                                                                      \
	}                                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		const void *p;                                                                     \
		u##BITS val;                                                                       \
                                                                                                   \
		FAST_LINEAR(linear, return NAME##_slow(vcpu, u))                                   \
		p = tlb_pointer(vcpu, linear, BITS / 8, ACCESS_READ);                              \
		if (unlikely(!p))                                                                  \
			return NAME##_slow(vcpu, u);                                               \
		val = *(const volatile guest_u##BITS *)p;                                          \
		__VA_ARGS__                                                                        \
		uop_next(vcpu, u);                                                                 \
	}

/* Stores VALUE, an expression. */
#define STORE_OP(NAME, BITS, VALUE)                                                                \
	static COLD const struct uop *NAME##_slow(UOP_ARGS)                                        \
	{                                                                                          \
		vcpu->uop = u;                                                                     \
		mem_write(vcpu, uop_linear_full(vcpu, u, BITS / 8, ACCESS_WRITE), BITS / 8,        \
			  VALUE);                                                                  \
		return u + 1;                                                                      \
	}                                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		void *p;                                                                           \
                                                                                                   \
		FAST_LINEAR(linear, return NAME##_slow(vcpu, u))                                   \
		p = tlb_pointer(vcpu, linear, BITS / 8, ACCESS_WRITE);                             \
		if (unlikely(!p))                                                                  \
			return NAME##_slow(vcpu, u);                                               \
		*(volatile guest_u##BITS *)p = (u##BITS)(VALUE);                                   \
		uop_next(vcpu, u);                                                                 \
	}

/*
 * Read-modify-write. CALC works on *p (volatile u##BITS) and may leave flags in `fl` and a value in
 * `val`; COMMIT makes them architectural. CALC changes nothing else.
 */
#define RMW_OP(NAME, BITS, CALC, COMMIT)                                                           \
	static COLD const struct uop *NAME##_slow(UOP_ARGS)                                        \
	{                                                                                          \
		u16 fl __attribute__((unused)) = vcpu->aflags;                                     \
		u##BITS val __attribute__((unused)) = 0;                                           \
		volatile guest_u##BITS *p;                                                         \
		struct rmw_slow slow;                                                              \
		u64 linear;                                                                        \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		linear = uop_linear_full(vcpu, u, BITS / 8, ACCESS_WRITE);                         \
		p = mem_rmw(vcpu, linear, BITS / 8);                                               \
		if (p) {                                                                           \
			CALC                                                                       \
		} else {                                                                           \
			p = mem_rmw_slow_begin(vcpu, linear, BITS / 8, &slow);                     \
			CALC mem_rmw_slow_end(vcpu, &slow);                                        \
		}                                                                                  \
		COMMIT                                                                             \
		return u + 1;                                                                      \
	}                                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		u16 fl __attribute__((unused)) = vcpu->aflags;                                     \
		u##BITS val __attribute__((unused)) = 0;                                           \
		volatile guest_u##BITS *p;                                                         \
                                                                                                   \
		FAST_LINEAR(linear, return NAME##_slow(vcpu, u))                                   \
		p = tlb_pointer(vcpu, linear, BITS / 8, ACCESS_WRITE);                             \
		if (unlikely(!p))                                                                  \
			return NAME##_slow(vcpu, u);                                               \
		CALC COMMIT uop_next(vcpu, u);                                                     \
	}

#endif
