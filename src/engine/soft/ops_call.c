/* The fast system calls, and what goes with them: SWAPGS, FS and GS bases, STAC and CLAC. */
#include <errno.h>

#include "engine/soft/excp.h"
#include "engine/soft/mmu_int.h"
#include "engine/soft/ops_sys.h"

/* The flat segments that these instructions make of a selector, whatever the tables say. */
static void flat_code(struct segment *s, u16 selector, u8 dpl, bool wide)
{
	*s = (struct segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = 11,
		.s = 1,
		.dpl = dpl,
		.present = 1,
		.l = wide,
		.db = !wide,
		.g = 1,
	};
}

static void flat_data(struct segment *s, u16 selector, u8 dpl)
{
	*s = (struct segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = 3,
		.s = 1,
		.dpl = dpl,
		.present = 1,
		.db = 1,
		.g = 1,
	};
}

static void enter_segments(struct kvm_vcpu *vcpu, u16 cs, u16 ss, u8 cpl, bool wide)
{
	flat_code(&vcpu->ctl.seg[SEG_CS], (u16)((cs & ~3u) | cpl), cpl, wide);
	flat_data(&vcpu->ctl.seg[SEG_SS], (u16)((ss & ~3u) | cpl), cpl);
	vcpu->ctl.cpl = cpl;
	cpu_update_mode(vcpu);
}

/* ---- SYSCALL, SYSRET ---- */

static u64 syscall_legacy(struct kvm_vcpu *vcpu, u64 next)
{
	u16 cs = (u16)(vcpu->msr.star >> 32);

	vcpu->ctl.gpr[RCX] = (u32)next;
	flags_set(vcpu, flags_get(vcpu) & ~(u64)(X86_VM | X86_IF | X86_RF));
	enter_segments(vcpu, cs, cs + 8, 0, false);
	return (u32)vcpu->msr.star;
}

OP_BRANCH(syscall)
{
	u16 cs = (u16)(vcpu->msr.star >> 32);
	u64 next = uop_next_rip(vcpu, u), flags = flags_get(vcpu);

	if (!(vcpu->ctl.efer & EFER_SCE) || !is_protected(vcpu))
		raise_ud(vcpu);
	/* Intel's processors have it in 64-bit mode only. */
	if (!u->mode64 && !guest_is_amd(vcpu))
		raise_ud(vcpu);
	if (!is_long_mode(vcpu))
		return syscall_legacy(vcpu, next);
	vcpu->ctl.gpr[RCX] = next;
	vcpu->ctl.gpr[R11] = flags & ~(u64)X86_RF;
	flags_set(vcpu, flags & ~vcpu->msr.fmask & ~(u64)X86_RF);
	vcpu_mmu(vcpu)->step_lost = !(vcpu->ctl.rflags & X86_TF);
	enter_segments(vcpu, cs, cs + 8, 0, true);
	return u->mode64 ? vcpu->msr.lstar : vcpu->msr.cstar;
}

/* Unlike IRET, SYSRET that sets TF traps at once: "as if" the SYSCALL had just been stepped over.
 */
static void trap_after_sysret(struct kvm_vcpu *vcpu, bool stepping)
{
	if (!stepping && vcpu->ctl.rflags & X86_TF)
		excp_queue(vcpu, DB_VECTOR, false, 0, DR6_BS);
}

OP_BRANCH(sysret)
{
	bool stepping = vcpu->ctl.rflags & X86_TF;
	u16 base = (u16)(vcpu->msr.star >> 48);
	u64 rip = vcpu->ctl.gpr[RCX];
	bool wide = u->osize == SIZE_64;

	if (!(vcpu->ctl.efer & EFER_SCE) || !is_protected(vcpu) ||
	    (!u->mode64 && !guest_is_amd(vcpu)))
		raise_ud(vcpu);
	need_cpl0(vcpu);
	if (wide && !canonical_address(vcpu, rip))
		raise_gp(vcpu, 0);
	if (is_long_mode(vcpu))
		flags_set(vcpu, (vcpu->ctl.gpr[R11] & 0x3c7fd7) | 2);
	else
		flags_set(vcpu, flags_get(vcpu) | X86_IF);
	vcpu->events = true;
	trap_after_sysret(vcpu, stepping);
	enter_segments(vcpu, wide ? base + 16 : base, base + 8, 3, wide);
	return wide ? rip : (u32)rip;
}

/* ---- SYSENTER, SYSEXIT ---- */

static void check_sysenter(struct kvm_vcpu *vcpu)
{
	if (is_long_mode(vcpu) && guest_is_amd(vcpu))
		raise_ud(vcpu);
	if (!is_protected(vcpu) || !(vcpu->msr.sysenter_cs & 0xfffc))
		raise_gp(vcpu, 0);
}

OP_BRANCH(sysenter)
{
	u16 cs = (u16)vcpu->msr.sysenter_cs;
	bool wide = is_long_mode(vcpu);

	check_sysenter(vcpu);
	flags_set(vcpu, flags_get(vcpu) & ~(u64)(X86_VM | X86_IF | X86_RF));
	vcpu->ctl.gpr[RSP] = wide ? vcpu->msr.sysenter_esp : (u32)vcpu->msr.sysenter_esp;
	enter_segments(vcpu, cs, (u16)((cs & ~3u) + 8), 0, wide);
	return wide ? vcpu->msr.sysenter_eip : (u32)vcpu->msr.sysenter_eip;
}

OP_BRANCH(sysexit)
{
	u16 cs = (u16)vcpu->msr.sysenter_cs & ~3u;
	bool wide = u->osize == SIZE_64;
	u64 rip = vcpu->ctl.gpr[RDX], rsp = vcpu->ctl.gpr[RCX];

	check_sysenter(vcpu);
	need_cpl0(vcpu);
	if (wide && (!canonical_address(vcpu, rip) || !canonical_address(vcpu, rsp)))
		raise_gp(vcpu, 0);
	vcpu->ctl.gpr[RSP] = wide ? rsp : (u32)rsp;
	vcpu->events = true;
	if (wide)
		enter_segments(vcpu, cs + 32, cs + 40, 3, true);
	else
		enter_segments(vcpu, cs + 16, cs + 24, 3, false);
	return wide ? rip : (u32)rip;
}

/* ---- FS and GS bases ---- */

OP(swapgs)
{
	u64 base = vcpu->ctl.seg[SEG_GS].base;

	need_cpl0(vcpu);
	vcpu->ctl.seg[SEG_GS].base = vcpu->msr.kernel_gs_base;
	vcpu->msr.kernel_gs_base = base;
}

static u64 *base_register(struct kvm_vcpu *vcpu, int seg)
{
	if (!(vcpu->ctl.cr4 & X86_CR4_FSGSBASE))
		raise_ud(vcpu);
	return &vcpu->ctl.seg[seg].base;
}

static void write_base(struct kvm_vcpu *vcpu, const struct uop *u, int seg)
{
	u64 *base = base_register(vcpu, seg), value = reg_read(vcpu, u->rm, u->osize);

	if (!canonical_address(vcpu, value))
		raise_gp(vcpu, 0);
	*base = value;
}

OP(rdfsbase)
{
	reg_write(vcpu, u->rm, u->osize, *base_register(vcpu, SEG_FS));
}

OP(rdgsbase)
{
	reg_write(vcpu, u->rm, u->osize, *base_register(vcpu, SEG_GS));
}

OP(wrfsbase)
{
	write_base(vcpu, u, SEG_FS);
}

OP(wrgsbase)
{
	write_base(vcpu, u, SEG_GS);
}

/* ---- EFLAGS.AC ---- */

static void set_ac(struct kvm_vcpu *vcpu, bool set)
{
	if (vcpu->ctl.cpl)
		raise_ud(vcpu);
	vcpu->ctl.rflags = (vcpu->ctl.rflags & ~(u64)X86_AC) | (set ? X86_AC : 0);
	mmu_update_class(vcpu);
}

static int smap_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	return guest_cpuid_bit(vcpu, 7, 1, 20) ? 0 : -EINVAL;
}

static const struct uop *stac(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vcpu->uop = u;
	set_ac(vcpu, true);
	return u + 1;
}

static const struct uop *clac(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vcpu->uop = u;
	set_ac(vcpu, false);
	return u + 1;
}

const struct operation oper_stac = {.name = "stac", .any = stac, .build = smap_build};
const struct operation oper_clac = {.name = "clac", .any = clac, .build = smap_build};
