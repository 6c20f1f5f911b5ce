/* The operands of a uop where the inlined forms (uop.h) do not reach. */
#include "engine/soft/ops_int.h"

u64 uop_ea_full(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 ea;

	if (u->scale == UOP_MOFFS)
		return u->imm;
	ea = REG64(u->base) + (u64)(s64)u->disp + (REG64(u->index) << (u->scale & 63));
	if (u->amode != AM_FULL)
		return ea;
	if (u->base == UOP_RIP)
		ea += u->off + u->len;
	return ea & size_mask(u->asize);
}

u64 uop_linear_full(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size,
		    enum access access)
{
	u64 ea = uop_ea_full(vcpu, u);

	if (u->amode <= AM_INDEX)
		return ea;
	if (u->mode64)
		return u->seg >= SEG_FS ? ea + vcpu->ctl.seg[u->seg].base : ea;
	if (vcpu->mode & MODE_FLAT && u->seg < SEG_FS && ea + size <= 1ULL << 32 &&
	    (u->seg != SEG_CS || access == ACCESS_READ))
		return ea;
	return seg_linear(vcpu, u->seg, ea, size, access);
}

u64 uop_read_rm_sized(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int osize)
{
	if (!u->mem)
		return reg_read(vcpu, u->rm, osize);
	return mem_read(vcpu, uop_linear(vcpu, u, 1u << osize, ACCESS_READ), 1u << osize);
}

void uop_write_rm_sized(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int osize, u64 value)
{
	if (!u->mem)
		reg_write(vcpu, u->rm, osize, value);
	else
		mem_write(vcpu, uop_linear(vcpu, u, 1u << osize, ACCESS_WRITE), 1u << osize, value);
}

u64 uop_read_rm(struct kvm_vcpu *vcpu, const struct uop *u)
{
	return uop_read_rm_sized(vcpu, u, u->osize);
}

void uop_write_rm(struct kvm_vcpu *vcpu, const struct uop *u, u64 value)
{
	uop_write_rm_sized(vcpu, u, u->osize, value);
}
