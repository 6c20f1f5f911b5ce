/*
 * String instructions: SDM vol. 2, REP and MOVS to SCAS, INS, OUTS.
 *
 * A repeated one works in spans: as many elements as lie in one page of RAM on both sides, moved by
 * the host's own instruction (so that overlapping operands come out as they must); one element at a
 * time where a span is not to be had. rCX, rSI and rDI are written back after each, so a fault
 * finds them exact, and exit_request is looked at in between.
 */
#include "engine/soft/io.h"
#include "engine/soft/ops_int.h"

/* Elements between two looks at exit_request, at most. */
#define SPAN_MAX 65536u

static unsigned int element(const struct uop *u)
{
	return 1u << u->osize;
}

static s64 direction(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	return vcpu->ctl.rflags & X86_DF ? -(s64)element(u) : (s64)element(u);
}

static u64 counter(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	return vcpu->ctl.gpr[RCX] & size_mask(u->asize);
}

/* rSI, rDI or rCX by `delta`, as wide as addresses are. */
static void advance(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int reg, s64 delta)
{
	reg_write(vcpu, (u8)(8 * reg), u->asize, vcpu->ctl.gpr[reg] + (u64)delta);
}

static u64 pointer(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int reg, int seg,
		   enum access access)
{
	return seg_linear(vcpu, seg, vcpu->ctl.gpr[reg] & size_mask(u->asize), element(u), access);
}

static u64 source(struct kvm_vcpu *vcpu, const struct uop *u)
{
	return pointer(vcpu, u, RSI, u->seg, ACCESS_READ);
}

static u64 destination(struct kvm_vcpu *vcpu, const struct uop *u, enum access access)
{
	return pointer(vcpu, u, RDI, SEG_ES, access);
}

/* Segments without limits, going up: spans may be used. */
static bool can_span(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	return (u->mode64 || (vcpu->mode & MODE_FLAT && u->asize == SIZE_32 && u->seg < SEG_FS)) &&
	       u->asize != SIZE_16 && !(vcpu->ctl.rflags & X86_DF) && !vcpu_mmu(vcpu)->align_check;
}

/* Between iterations: must somebody else have a look? */
static bool interrupted(const struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->exit_request, __ATOMIC_RELAXED) ||
	       vcpu->ctl.rflags & X86_TF || vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP ||
	       vcpu_mmu(vcpu)->watch_hits;
}

/* Leave, to come back to this instruction. RF is set in what an event pushes now (SDM vol. 3,
 * 18.3.1.1), and until the next iteration for the user to see. */
static const struct uop *leave_unfinished(UOP_ARGS)
{
	vcpu->ctl.rflags |= X86_RF;
	vcpu->ctl.rip = uop_rip(vcpu, u);
	vcpu->ctl.instructions += u->nr;
	vcpu->uop = &uop_between;
	return NULL;
}

/* ---- MOVS, STOS ---- */

static void host_movs(void *dst, const void *src, u64 count, unsigned int osize)
{
	switch (osize) {
	case SIZE_8:
		asm volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	case SIZE_16:
		asm volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	case SIZE_32:
		asm volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	default:
		asm volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
		break;
	}
}

static void host_stos(void *dst, u64 value, u64 count, unsigned int osize)
{
	switch (osize) {
	case SIZE_8:
		asm volatile("rep stosb" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	case SIZE_16:
		asm volatile("rep stosw" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	case SIZE_32:
		asm volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	default:
		asm volatile("rep stosq" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
		break;
	}
}

static u64 movs_span(struct kvm_vcpu *vcpu, const struct uop *u, u64 count)
{
	u64 from_len = count << u->osize, to_len, n;
	const void *src;
	void *dst;

	src = mem_span(vcpu, source(vcpu, u), &from_len, ACCESS_READ);
	if (!src || from_len < element(u))
		return 0;
	to_len = from_len;
	dst = mem_span(vcpu, destination(vcpu, u, ACCESS_WRITE), &to_len, ACCESS_WRITE);
	if (!dst)
		return 0;
	n = min(from_len, to_len) >> u->osize;
	host_movs(dst, src, n, u->osize);
	return n;
}

static void movs_one(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 value = mem_read(vcpu, source(vcpu, u), element(u));

	mem_write(vcpu, destination(vcpu, u, ACCESS_WRITE), element(u), value);
}

static u64 stos_span(struct kvm_vcpu *vcpu, const struct uop *u, u64 count)
{
	u64 len = count << u->osize, n;
	void *dst = mem_span(vcpu, destination(vcpu, u, ACCESS_WRITE), &len, ACCESS_WRITE);

	if (!dst)
		return 0;
	n = len >> u->osize;
	host_stos(dst, vcpu->ctl.gpr[RAX], n, u->osize);
	return n;
}

static void stos_one(struct kvm_vcpu *vcpu, const struct uop *u)
{
	mem_write(vcpu, destination(vcpu, u, ACCESS_WRITE), element(u), vcpu->ctl.gpr[RAX]);
}

/* One round of a repeated move or store: how many elements were done. */
#define BULK(NAME, ADVANCE)                                                                        \
	static u64 NAME##_some(struct kvm_vcpu *vcpu, const struct uop *u, u64 count, bool span)   \
	{                                                                                          \
		u64 n = span && count > 1 ? NAME##_span(vcpu, u, min(count, (u64)SPAN_MAX)) : 0;   \
		s64 step;                                                                          \
                                                                                                   \
		if (!n) {                                                                          \
			NAME##_one(vcpu, u);                                                       \
			n = 1;                                                                     \
		}                                                                                  \
		step = (s64)n * direction(vcpu, u);                                                \
		ADVANCE                                                                            \
		return n;                                                                          \
	}                                                                                          \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		bool span;                                                                         \
		u64 count;                                                                         \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		if (!u->rep) {                                                                     \
			NAME##_some(vcpu, u, 1, false);                                            \
			return u + 1;                                                              \
		}                                                                                  \
		span = can_span(vcpu, u) && !interrupted(vcpu);                                    \
		for (count = counter(vcpu, u); count;) {                                           \
			u64 n = NAME##_some(vcpu, u, count, span);                                 \
                                                                                                   \
			advance(vcpu, u, RCX, -(s64)n);                                            \
			io_commit(vcpu);                                                           \
			count -= n;                                                                \
			if (count && interrupted(vcpu))                                            \
				return leave_unfinished(vcpu, u);                                  \
		}                                                                                  \
		return u + 1;                                                                      \
	}                                                                                          \
	const struct operation oper_##NAME = {.name = #NAME, .any = NAME};

BULK(movs, {
	advance(vcpu, u, RSI, step);
	advance(vcpu, u, RDI, step);
})
BULK(stos, { advance(vcpu, u, RDI, step); })

/* ---- LODS, SCAS, CMPS ---- */

static void lods_one(struct kvm_vcpu *vcpu, const struct uop *u)
{
	reg_write(vcpu, 8 * RAX, u->osize, mem_read(vcpu, source(vcpu, u), element(u)));
	advance(vcpu, u, RSI, direction(vcpu, u));
}

static u16 compare(u64 a, u64 b, unsigned int osize)
{
	u16 fl;

	switch (osize) {
	case SIZE_8:
		asm("cmpb %2, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"((u8)a), "r"((u8)b) : "cc");
		break;
	case SIZE_16:
		asm("cmpw %2, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"((u16)a), "r"((u16)b) : "cc");
		break;
	case SIZE_32:
		asm("cmpl %2, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"((u32)a), "r"((u32)b) : "cc");
		break;
	default:
		asm("cmpq %2, %1\n\t" FLAGS_OUT : "=a"(fl) : "r"(a), "r"(b) : "cc");
		break;
	}
	return fl;
}

static u16 scas_one(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 value = mem_read(vcpu, destination(vcpu, u, ACCESS_READ), element(u));

	advance(vcpu, u, RDI, direction(vcpu, u));
	return compare(vcpu->ctl.gpr[RAX], value, u->osize);
}

static u16 cmps_one(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 a = mem_read(vcpu, source(vcpu, u), element(u));
	u64 b = mem_read(vcpu, destination(vcpu, u, ACCESS_READ), element(u));

	advance(vcpu, u, RSI, direction(vcpu, u));
	advance(vcpu, u, RDI, direction(vcpu, u));
	return compare(a, b, u->osize);
}

static const struct uop *lods(UOP_ARGS)
{
	vcpu->uop = u;
	if (!u->rep) {
		lods_one(vcpu, u);
		return u + 1;
	}
	while (counter(vcpu, u)) {
		lods_one(vcpu, u);
		advance(vcpu, u, RCX, -1);
		io_commit(vcpu);
		if (counter(vcpu, u) && interrupted(vcpu))
			return leave_unfinished(vcpu, u);
	}
	return u + 1;
}

const struct operation oper_lods = {.name = "lods", .any = lods};

/* REPE and REPNE go on while ZF is as they say. A fault under way finds the flags as they were
 * before the instruction: SDM vol. 2, REP. */
#define COMPARISON(NAME)                                                                           \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		u16 fl = vcpu->aflags;                                                             \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		if (!u->rep) {                                                                     \
			vcpu->aflags = NAME##_one(vcpu, u);                                        \
			return u + 1;                                                              \
		}                                                                                  \
		while (counter(vcpu, u)) {                                                         \
			fl = NAME##_one(vcpu, u);                                                  \
			advance(vcpu, u, RCX, -1);                                                 \
			io_commit(vcpu);                                                           \
			if (!(fl & AF_ZF) != (u->rep == REP_F2))                                   \
				break;                                                             \
			if (counter(vcpu, u) && interrupted(vcpu)) {                               \
				vcpu->aflags = fl;                                                 \
				return leave_unfinished(vcpu, u);                                  \
			}                                                                          \
		}                                                                                  \
		vcpu->aflags = fl;                                                                 \
		return u + 1;                                                                      \
	}                                                                                          \
	const struct operation oper_##NAME = {.name = #NAME, .any = NAME};

COMPARISON(scas)
COMPARISON(cmps)

/* ---- INS, OUTS ---- */

/* SDM vol. 1, 18.5: by IOPL, else by the bitmap of a 32-bit or 64-bit TSS. */
void io_check_port(struct kvm_vcpu *vcpu, u16 port, unsigned int size)
{
	const struct segment *tr = &vcpu->ctl.seg[SEG_TR];
	u64 at, mask = MASK(size - 1, 0);

	if (!is_protected(vcpu) ||
	    (vcpu->ctl.cpl <= (vcpu->ctl.rflags & X86_IOPL) >> 12 && !is_v86(vcpu)))
		return;
	if ((tr->type != 9 && tr->type != 11) || tr->limit < 103)
		raise_gp(vcpu, 0);
	at = mem_read_sys(vcpu, tr->base + 102, 2) + port / 8;
	if (at + 1 > tr->limit || mem_read_sys(vcpu, tr->base + at, 2) >> (port & 7) & mask)
		raise_gp(vcpu, 0);
}

/* Elements from `linear` to its page's end, at most count; 1 where even one crosses it. */
static u32 port_span(const struct kvm_vcpu *vcpu, const struct uop *u, u64 linear, u64 count)
{
	u64 room = (PAGE_SIZE - (linear & (PAGE_SIZE - 1))) >> u->osize;

	return room && can_span(vcpu, u) ? (u32)min(count, room) : 1;
}

static u32 ins_some(struct kvm_vcpu *vcpu, const struct uop *u, u64 count)
{
	u64 linear = destination(vcpu, u, ACCESS_WRITE);
	u32 n = port_span(vcpu, u, linear, count);

	mem_probe_write(vcpu, linear, n << u->osize);
	n = io_string(vcpu, REG16(8 * RDX), element(u), n, false);
	mem_write_bytes(vcpu, linear, vcpu->pio_data, n << u->osize);
	advance(vcpu, u, RDI, (s64)n * direction(vcpu, u));
	return n;
}

static u32 outs_some(struct kvm_vcpu *vcpu, const struct uop *u, u64 count)
{
	u64 linear = source(vcpu, u);
	u32 n;

	if (!io_string_answered(vcpu, &n)) {
		n = port_span(vcpu, u, linear, count);
		mem_read_bytes(vcpu, linear, vcpu->pio_data, n << u->osize);
	}
	n = io_string(vcpu, REG16(8 * RDX), element(u), n, true);
	advance(vcpu, u, RSI, (s64)n * direction(vcpu, u));
	return n;
}

#define PORT(NAME)                                                                                 \
	static const struct uop *NAME(UOP_ARGS)                                                    \
	{                                                                                          \
		u64 count;                                                                         \
                                                                                                   \
		vcpu->uop = u;                                                                     \
		io_check_port(vcpu, REG16(8 * RDX), element(u));                                   \
		if (!u->rep) {                                                                     \
			NAME##_some(vcpu, u, 1);                                                   \
			return u + 1;                                                              \
		}                                                                                  \
		for (count = counter(vcpu, u); count;) {                                           \
			u32 n = NAME##_some(vcpu, u, count);                                       \
                                                                                                   \
			advance(vcpu, u, RCX, -(s64)n);                                            \
			io_commit(vcpu);                                                           \
			count -= n;                                                                \
			if (count)                                                                 \
				return leave_unfinished(vcpu, u);                                  \
		}                                                                                  \
		return u + 1;                                                                      \
	}                                                                                          \
	const struct operation oper_##NAME = {.name = #NAME, .any = NAME};

PORT(ins)
PORT(outs)
