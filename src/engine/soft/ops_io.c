/* Ports, and the interrupt flag: IN, OUT, CLI, STI, PUSHF, POPF. */
#include "engine/soft/io.h"
#include "engine/soft/ops_stack.h"
#include "engine/soft/ops_sys.h"
#include "engine/soft/seg.h"

/* ---- IN, OUT: the operand size is 8, 16 or 32 bits ---- */

static unsigned int port_bytes(const struct uop *u)
{
	return u->osize == SIZE_64 ? 4 : 1u << u->osize;
}

static void port_in(struct kvm_vcpu *vcpu, const struct uop *u, u16 port)
{
	unsigned int size = port_bytes(u);
	u32 value = 0;

	io_check_port(vcpu, port, size);
	io_port(vcpu, port, size, false, &value);
	reg_write(vcpu, 8 * RAX, u->osize == SIZE_64 ? SIZE_32 : u->osize, value);
}

static void port_out(struct kvm_vcpu *vcpu, const struct uop *u, u16 port)
{
	unsigned int size = port_bytes(u);
	u32 value = (u32)vcpu->ctl.gpr[RAX];

	io_check_port(vcpu, port, size);
	io_port(vcpu, port, size, true, &value);
}

OP_END(in_imm)
{
	port_in(vcpu, u, (u8)u->imm);
}

OP_END(in_dx)
{
	port_in(vcpu, u, (u16)vcpu->ctl.gpr[RDX]);
}

OP_END(out_imm)
{
	port_out(vcpu, u, (u8)u->imm);
}

OP_END(out_dx)
{
	port_out(vcpu, u, (u16)vcpu->ctl.gpr[RDX]);
}

/* ---- CLI, STI: IF, or VIF where virtual interrupts are on (SDM vol. 2, CLI table 3-7) ---- */

enum if_target { TARGET_IF, TARGET_VIF, TARGET_FAULT };

static enum if_target if_target(const struct kvm_vcpu *vcpu)
{
	unsigned int iopl = (vcpu->ctl.rflags & X86_IOPL) >> 12;
	u64 cr4 = vcpu->ctl.cr4;

	if (!is_protected(vcpu) || vcpu->ctl.cpl <= iopl)
		return TARGET_IF;
	if (is_v86(vcpu) ? cr4 & X86_CR4_VME : vcpu->ctl.cpl == 3 && (cr4 & X86_CR4_PVI))
		return TARGET_VIF;
	return TARGET_FAULT;
}

OP(cli)
{
	switch (if_target(vcpu)) {
	case TARGET_IF:
		vcpu->ctl.rflags &= ~(u64)X86_IF;
		break;
	case TARGET_VIF:
		vcpu->ctl.rflags &= ~(u64)X86_VIF;
		break;
	default:
		raise_gp(vcpu, 0);
	}
}

OP_END(sti)
{
	switch (if_target(vcpu)) {
	case TARGET_IF:
		if (!(vcpu->ctl.rflags & X86_IF)) {
			vcpu->ctl.interrupt_shadow_sti = true;
			vcpu->events = true;
		}
		vcpu->ctl.rflags |= X86_IF;
		break;
	case TARGET_VIF:
		if (vcpu->ctl.rflags & X86_VIP)
			raise_gp(vcpu, 0);
		vcpu->ctl.rflags |= X86_VIF;
		break;
	default:
		raise_gp(vcpu, 0);
	}
}

/* ---- PUSHF, POPF (virtual-8086 mode: SDM vol. 3, 21.2.7 and 21.3) ---- */

/* Below IOPL 3, 16-bit forms see VIF as IF when there is VME; others are #GP. */
static bool flags_virtual(struct kvm_vcpu *vcpu, const struct uop *u)
{
	if (!is_v86(vcpu) || (vcpu->ctl.rflags & X86_IOPL) == X86_IOPL)
		return false;
	if (!(vcpu->ctl.cr4 & X86_CR4_VME) || u->osize != SIZE_16)
		raise_gp(vcpu, 0);
	return true;
}

OP(pushf)
{
	u64 flags = flags_get(vcpu) & ~(u64)(X86_VM | X86_RF);

	if (flags_virtual(vcpu, u))
		flags = (flags & ~(u64)X86_IF) | X86_IOPL | (flags & X86_VIF ? X86_IF : 0);
	push_value(vcpu, flags, 1u << u->osize);
}

static u64 popf_virtual(struct kvm_vcpu *vcpu, u64 value)
{
	u64 old = flags_get(vcpu);

	if (((value & X86_IF) && (old & X86_VIP)) || (value & X86_TF))
		raise_gp(vcpu, 0);
	return (flags_merge(vcpu, value, 2, false) & ~(u64)(X86_IF | X86_VIF)) | (old & X86_IF) |
	       (value & X86_IF ? X86_VIF : 0);
}

OP_END(popf)
{
	bool virtual = flags_virtual(vcpu, u);
	unsigned int size = 1u << u->osize;
	struct stack st;
	u64 value;

	stack_current(vcpu, &st);
	value = stack_at(vcpu, &st, 0, size);
	value = virtual ? popf_virtual(vcpu, value) : flags_merge(vcpu, value, size, false);
	st.sp = (st.sp + size) & st.mask;
	stack_commit(vcpu, &st);
	flags_set(vcpu, value);
	mmu_update_class(vcpu);
	if (value & (X86_IF | X86_TF))
		vcpu->events = true;
}
