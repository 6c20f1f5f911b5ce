/* Segment registers, descriptor tables, far transfers and software interrupts. */
#include <errno.h>

#include "base/endian.h"
#include "engine/soft/excp.h"
#include "engine/soft/ops_sys.h"
#include "engine/soft/seg.h"

static unsigned int operand_bytes(const struct uop *u)
{
	return 1u << u->osize;
}

/* ---- segment registers ---- */

/* MOV and POP: SS holds off interrupts and traps for one instruction. LSS does not. */
static void load_sreg(struct kvm_vcpu *vcpu, unsigned int seg, u16 selector)
{
	seg_load(vcpu, (int)seg, selector);
	if (seg == SEG_SS) {
		vcpu->ctl.interrupt_shadow_movss = true;
		vcpu->events = true;
	}
}

/* Registers that there are not, and CS as a destination, are #UD. */
static int to_sreg_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	unsigned int seg = (insn->modrm >> 3) & 7;

	return seg == SEG_CS || seg > SEG_GS ? -EINVAL : 0;
}

static const struct uop *mov_to_sreg(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 rip = uop_next_rip(vcpu, u);

	vcpu->uop = u;
	load_sreg(vcpu, reg_num(u->reg) & 7, (u16)uop_read_rm_sized(vcpu, u, SIZE_16));
	return uop_leave(vcpu, u, rip);
}

const struct operation oper_mov_to_sreg = {
	.name = "mov_to_sreg",
	.any = mov_to_sreg,
	.ends = true,
	.build = to_sreg_build,
};

static int from_sreg_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	return ((insn->modrm >> 3) & 7) > SEG_GS ? -EINVAL : 0;
}

static const struct uop *mov_from_sreg(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u16 selector = vcpu->ctl.seg[reg_num(u->reg) & 7].selector;

	vcpu->uop = u;
	if (u->mem)
		uop_write_rm_sized(vcpu, u, SIZE_16, selector);
	else
		reg_write(vcpu, u->rm, u->osize, selector);
	return u + 1;
}

const struct operation oper_mov_from_sreg = {
	.name = "mov_from_sreg",
	.any = mov_from_sreg,
	.build = from_sreg_build,
};

/* The register is in the opcode: 07, 17, 1F, 0F A1, 0F A9. */
static int opcode_sreg_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	u->imm = (insn->opcode >> 3) & 7;
	return 0;
}

static const struct uop *pop_sreg(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 rip = uop_next_rip(vcpu, u);
	struct stack st;
	u16 selector;

	vcpu->uop = u;
	stack_current(vcpu, &st);
	selector = (u16)stack_at(vcpu, &st, 0, operand_bytes(u));
	load_sreg(vcpu, (unsigned int)u->imm, selector);
	st.sp = (st.sp + operand_bytes(u)) & st.mask;
	stack_commit(vcpu, &st);
	return uop_leave(vcpu, u, rip);
}

const struct operation oper_pop_sreg = {
	.name = "pop_sreg",
	.any = pop_sreg,
	.ends = true,
	.build = opcode_sreg_build,
};

/* A far pointer in memory: the offset, the selector after it. */
static u64 read_far(struct kvm_vcpu *vcpu, const struct uop *u, u16 *selector)
{
	unsigned int size = operand_bytes(u);
	u64 offset = mem_read(vcpu, uop_linear(vcpu, u, size, ACCESS_READ), size);
	u64 second = (uop_ea(vcpu, u) + size) & size_mask(u->asize);

	*selector = (u16)mem_read(vcpu, seg_linear(vcpu, u->seg, second, 2, ACCESS_READ), 2);
	return offset;
}

static const struct uop *load_far(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 rip = uop_next_rip(vcpu, u), offset;
	u16 selector;

	vcpu->uop = u;
	offset = read_far(vcpu, u, &selector);
	seg_load(vcpu, u->vreg, selector);
	reg_write(vcpu, u->reg, u->osize, offset);
	return uop_leave(vcpu, u, rip);
}

static int load_far_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	switch (insn->opcode) {
	case 0xc4:
		u->vreg = SEG_ES;
		break;
	case 0xc5:
		u->vreg = SEG_DS;
		break;
	case 0xb2:
		u->vreg = SEG_SS;
		break;
	default: /* B4, B5 */
		u->vreg = insn->opcode == 0xb4 ? SEG_FS : SEG_GS;
		break;
	}
	return 0;
}

const struct operation oper_load_far = {
	.name = "load_far",
	.any = load_far,
	.ends = true,
	.build = load_far_build,
};

/* ---- descriptor tables ---- */

static void store_table(struct kvm_vcpu *vcpu, const struct uop *u, const struct desc_ptr *t)
{
	unsigned int len = u->mode64 ? 10 : 6;
	u8 buf[10];

	check_umip(vcpu);
	store_le16(buf, t->limit);
	store_le64(buf + 2, t->base);
	mem_write_bytes(vcpu, uop_linear(vcpu, u, len, ACCESS_WRITE), buf, len);
}

static void load_table(struct kvm_vcpu *vcpu, const struct uop *u, struct desc_ptr *t)
{
	unsigned int len = u->mode64 ? 10 : 6;
	u8 buf[10] = {0};
	u64 base;

	need_cpl0(vcpu);
	mem_read_bytes(vcpu, uop_linear(vcpu, u, len, ACCESS_READ), buf, len);
	base = u->mode64 ? load_le64(buf + 2) : load_le32(buf + 2);
	if (u->mode64 && !canonical_address(vcpu, base))
		raise_gp(vcpu, 0);
	if (!u->mode64 && u->osize == SIZE_16)
		base &= 0xffffff;
	t->limit = load_le16(buf);
	t->base = base;
}

OP(sgdt)
{
	store_table(vcpu, u, &vcpu->ctl.gdtr);
}

OP(sidt)
{
	store_table(vcpu, u, &vcpu->ctl.idtr);
}

OP(lgdt)
{
	load_table(vcpu, u, &vcpu->ctl.gdtr);
}

OP(lidt)
{
	load_table(vcpu, u, &vcpu->ctl.idtr);
}

static void store_selector(struct kvm_vcpu *vcpu, const struct uop *u, int seg)
{
	u16 selector = vcpu->ctl.seg[seg].selector;

	need_protected(vcpu);
	check_umip(vcpu);
	if (u->mem)
		uop_write_rm_sized(vcpu, u, SIZE_16, selector);
	else
		reg_write(vcpu, u->rm, u->osize, selector);
}

OP(sldt)
{
	store_selector(vcpu, u, SEG_LDTR);
}

OP(str)
{
	store_selector(vcpu, u, SEG_TR);
}

OP(lldt)
{
	need_protected(vcpu);
	need_cpl0(vcpu);
	seg_lldt(vcpu, (u16)uop_read_rm_sized(vcpu, u, SIZE_16));
}

OP(ltr)
{
	need_protected(vcpu);
	need_cpl0(vcpu);
	seg_ltr(vcpu, (u16)uop_read_rm_sized(vcpu, u, SIZE_16));
}

static void set_zf(struct kvm_vcpu *vcpu, bool zf)
{
	flags_update(vcpu, X86_ZF, zf ? X86_ZF : 0);
}

OP(verr)
{
	need_protected(vcpu);
	set_zf(vcpu, seg_verify(vcpu, (u16)uop_read_rm_sized(vcpu, u, SIZE_16), false));
}

OP(verw)
{
	need_protected(vcpu);
	set_zf(vcpu, seg_verify(vcpu, (u16)uop_read_rm_sized(vcpu, u, SIZE_16), true));
}

OP(lar)
{
	u32 rights;
	bool ok;

	need_protected(vcpu);
	ok = seg_lar(vcpu, (u16)uop_read_rm_sized(vcpu, u, SIZE_16), &rights);
	if (ok)
		reg_write(vcpu, u->reg, u->osize, rights);
	set_zf(vcpu, ok);
}

OP(lsl)
{
	u32 limit;
	bool ok;

	need_protected(vcpu);
	ok = seg_lsl(vcpu, (u16)uop_read_rm_sized(vcpu, u, SIZE_16), &limit);
	if (ok)
		reg_write(vcpu, u->reg, u->osize, limit);
	set_zf(vcpu, ok);
}

OP(arpl)
{
	u16 dst, src = REG16(u->reg);

	need_protected(vcpu);
	dst = (u16)uop_read_rm_sized(vcpu, u, SIZE_16);
	if ((dst & 3) < (src & 3))
		uop_write_rm_sized(vcpu, u, SIZE_16, (dst & ~3u) | (src & 3));
	set_zf(vcpu, (dst & 3) < (src & 3));
}

/* ---- far transfers ---- */

OP_BRANCH(jmp_far)
{
	return far_jump(vcpu, (u16)(u->imm >> 32), (u32)u->imm & size_mask(u->osize),
			uop_next_rip(vcpu, u));
}

OP_BRANCH(call_far)
{
	return far_call(vcpu, (u16)(u->imm >> 32), (u32)u->imm & size_mask(u->osize),
			operand_bytes(u), uop_next_rip(vcpu, u));
}

OP_BRANCH(jmp_far_mem)
{
	u16 selector;
	u64 offset = read_far(vcpu, u, &selector);

	return far_jump(vcpu, selector, offset, uop_next_rip(vcpu, u));
}

OP_BRANCH(call_far_mem)
{
	u16 selector;
	u64 offset = read_far(vcpu, u, &selector);

	return far_call(vcpu, selector, offset, operand_bytes(u), uop_next_rip(vcpu, u));
}

OP_BRANCH(ret_far)
{
	return far_return(vcpu, operand_bytes(u), 0);
}

OP_BRANCH(ret_far_imm)
{
	return far_return(vcpu, operand_bytes(u), (u16)u->imm);
}

OP_BRANCH(iret)
{
	return far_iret(vcpu, operand_bytes(u), uop_next_rip(vcpu, u));
}

/* ---- software interrupts ---- */

OP_BRANCH(int3)
{
	if ((vcpu->guest_debug & KVM_GUESTDBG_ENABLE) &&
	    (vcpu->guest_debug & KVM_GUESTDBG_USE_SW_BP)) {
		vcpu->ctl.rip = uop_rip(vcpu, u);
		vcpu->uop = &uop_between;
		exit_debug(vcpu, BP_VECTOR, 0);
	}
	return excp_software(vcpu, SOFT_EXCEPTION, BP_VECTOR, uop_next_rip(vcpu, u));
}

OP_BRANCH(int_n)
{
	return excp_software(vcpu, SOFT_INT, (u8)u->imm, uop_next_rip(vcpu, u));
}

OP_BRANCH(int1)
{
	return excp_software(vcpu, SOFT_PRIVILEGED, DB_VECTOR, uop_next_rip(vcpu, u));
}

OP_BRANCH(into)
{
	if (!flags_cond(vcpu->aflags, 0))
		return uop_next_rip(vcpu, u);
	return excp_software(vcpu, SOFT_EXCEPTION, OF_VECTOR, uop_next_rip(vcpu, u));
}

/* Signed bounds in memory; #BR outside them. */
OP(bound)
{
	unsigned int size = operand_bytes(u), bits = 8 * size;
	u64 linear = uop_linear(vcpu, u, 2 * size, ACCESS_READ);
	s64 index = sign_extend(reg_read(vcpu, u->reg, u->osize), bits);
	u8 buf[16];

	mem_read_bytes(vcpu, linear, buf, 2 * size);
	if (index < sign_extend(load_le(buf, size), bits) ||
	    index > sign_extend(load_le(buf + size, size), bits))
		raise_exception(vcpu, BR_VECTOR);
}
