/* Control and debug registers, translations, MSRs, CPUID, time stamps. */
#include <errno.h>

#include "engine/soft/io.h"
#include "engine/soft/mmu_int.h"
#include "engine/soft/native.h"
#include "engine/soft/ops_sys.h"

bool guest_cpuid_bit(struct kvm_vcpu *vcpu, u32 leaf, unsigned int reg, unsigned int bit)
{
	u32 r[4] = {leaf, 0, 0, 0};

	kvm_cpuid(vcpu, &r[0], &r[1], &r[2], &r[3]);
	return (r[reg] >> bit) & 1;
}

bool guest_is_amd(struct kvm_vcpu *vcpu)
{
	u32 a = 0, b = 0, c = 0, d = 0;

	kvm_cpuid(vcpu, &a, &b, &c, &d);
	return b == 0x68747541 /* Auth */ || b == 0x6f677948 /* Hygo */;
}

enum { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* ---- CR0 ---- */

#define CR0_DEFINED                                                                                \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE |             \
	 X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(efer & EFER_LME);
}

static void check_cr0(struct kvm_vcpu *vcpu, u64 value)
{
	const struct vcpu_control *c = &vcpu->ctl;
	bool pg = value & X86_CR0_PG, was_pg = c->cr0 & X86_CR0_PG;

	if ((value >> 32) || (pg && !(value & X86_CR0_PE)) ||
	    ((value & X86_CR0_NW) && !(value & X86_CR0_CD)))
		raise_gp(vcpu, 0);
	if (pg && !was_pg && (c->efer & EFER_LME) && (!(c->cr4 & X86_CR4_PAE) || c->seg[SEG_CS].l))
		raise_gp(vcpu, 0);
	if (!pg && was_pg && (is_64bit(vcpu) || (c->cr4 & X86_CR4_PCIDE)))
		raise_gp(vcpu, 0);
}

void set_cr0(struct kvm_vcpu *vcpu, u64 value)
{
	struct vcpu_control *c = &vcpu->ctl;
	u64 old = c->cr0, changed;

	check_cr0(vcpu, value);
	value = (value & CR0_DEFINED) | X86_CR0_ET;
	changed = old ^ value;
	if (pae_paging(value, c->cr4, c->efer) &&
	    (changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)) && !mmu_load_pdptes(vcpu, c->cr3))
		raise_gp(vcpu, 0);
	c->cr0 = value;
	if (changed & X86_CR0_PG) {
		c->efer &= ~EFER_LMA;
		if ((value & X86_CR0_PG) && (c->efer & EFER_LME))
			c->efer |= EFER_LMA;
	}
	if (changed & (X86_CR0_PG | X86_CR0_PE))
		mmu_flush_all(vcpu);
	else if (changed & X86_CR0_WP)
		mmu_flush_permissions(vcpu);
	cpu_update_mode(vcpu);
	mmu_update_class(vcpu);
}

/* ---- CR3, CR4 ---- */

void set_cr3(struct kvm_vcpu *vcpu, u64 value)
{
	struct vcpu_control *c = &vcpu->ctl;
	bool keep = false;

	if (is_long_mode(vcpu)) {
		if (c->cr4 & X86_CR4_PCIDE) {
			keep = value >> 63;
			value &= ~BIT(63);
		}
		if (value & ~vcpu->guest_maxphyaddr_mask & ~0xfffULL)
			raise_gp(vcpu, 0);
	} else if (pae_paging(c->cr0, c->cr4, c->efer) && !mmu_load_pdptes(vcpu, value)) {
		raise_gp(vcpu, 0);
	}
	c->cr3 = value;
	mmu_load_cr3(vcpu, keep);
}

/* The bits of CR4 that the guest's CPUID gives it. */
static u64 cr4_defined(struct kvm_vcpu *vcpu)
{
	static const struct {
		u64 bit;
		u32 leaf;
		u8 reg, at;
	} gate[] = {
		{X86_CR4_UMIP, 7, CPUID_ECX, 2},     {X86_CR4_LA57, 7, CPUID_ECX, 16},
		{X86_CR4_FSGSBASE, 7, CPUID_EBX, 0}, {X86_CR4_SMEP, 7, CPUID_EBX, 7},
		{X86_CR4_SMAP, 7, CPUID_EBX, 20},    {X86_CR4_PCIDE, 1, CPUID_ECX, 17},
		{X86_CR4_OSXSAVE, 1, CPUID_ECX, 26},
	};
	u64 mask = X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE |
		   X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR |
		   X86_CR4_OSXMMEXCPT;
	u32 seven[4] = {7, 0, 0, 0}, one[4] = {1, 0, 0, 0};

	kvm_cpuid(vcpu, &seven[0], &seven[1], &seven[2], &seven[3]);
	kvm_cpuid(vcpu, &one[0], &one[1], &one[2], &one[3]);
	for (unsigned int i = 0; i < ARRAY_SIZE(gate); i++)
		if (((gate[i].leaf == 7 ? seven : one)[gate[i].reg] >> gate[i].at) & 1)
			mask |= gate[i].bit;
	return mask;
}

static void check_cr4(struct kvm_vcpu *vcpu, u64 value)
{
	const struct vcpu_control *c = &vcpu->ctl;
	u64 set = value & ~c->cr4, changed = value ^ c->cr4;

	if (set && (set & ~cr4_defined(vcpu)))
		raise_gp(vcpu, 0);
	if (is_long_mode(vcpu) && (!(value & X86_CR4_PAE) || (changed & X86_CR4_LA57)))
		raise_gp(vcpu, 0);
	if ((set & X86_CR4_PCIDE) && (!is_long_mode(vcpu) || (c->cr3 & 0xfff)))
		raise_gp(vcpu, 0);
}

void set_cr4(struct kvm_vcpu *vcpu, u64 value)
{
	const u64 walk_bits =
		X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_LA57;
	struct vcpu_control *c = &vcpu->ctl;
	u64 changed = value ^ c->cr4;

	check_cr4(vcpu, value);
	if (pae_paging(c->cr0, value, c->efer) &&
	    (changed & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)) &&
	    !mmu_load_pdptes(vcpu, c->cr3))
		raise_gp(vcpu, 0);
	c->cr4 = value;
	if (changed & walk_bits)
		mmu_flush_all(vcpu);
	else if (changed & (X86_CR4_SMEP | X86_CR4_SMAP))
		mmu_flush_permissions(vcpu);
	cpu_update_mode(vcpu);
}

static u64 cr_operand(struct kvm_vcpu *vcpu, const struct uop *u)
{
	return u->mode64 ? REG64(u->rm) : REG32(u->rm);
}

/* CR0, 2, 3, 4 and 8 are there: the others are #UD whatever the CPL. */
static void check_cr(struct kvm_vcpu *vcpu, const struct uop *u)
{
	unsigned int n = reg_num(u->reg);

	if (n > 8 || !(0x11dU >> n & 1))
		raise_ud(vcpu);
	need_cpl0(vcpu);
}

OP(mov_from_cr)
{
	const struct vcpu_control *c = &vcpu->ctl;
	u64 value;

	check_cr(vcpu, u);
	switch (reg_num(u->reg)) {
	case 0:
		value = c->cr0;
		break;
	case 2:
		value = c->cr2;
		break;
	case 3:
		value = c->cr3;
		break;
	case 4:
		value = c->cr4;
		break;
	default:
		value = kvm_get_cr8(vcpu);
		break;
	}
	REG64(u->rm) = u->mode64 ? value : (u32)value;
}

/* A user that keeps the local APIC is told when the guest lets more interrupts in. */
static void set_cr8(struct kvm_vcpu *vcpu, u64 value)
{
	u64 old = kvm_get_cr8(vcpu);

	if (value & ~15ULL)
		raise_gp(vcpu, 0);
	kvm_set_cr8(vcpu, value);
	if (!vcpu->apic && value < old)
		kvm_make_request(vcpu, KVM_REQ_SET_TPR);
	vcpu->events = true;
}

OP_END(mov_to_cr)
{
	u64 value = cr_operand(vcpu, u);

	check_cr(vcpu, u);
	switch (reg_num(u->reg)) {
	case 0:
		set_cr0(vcpu, value);
		break;
	case 2:
		vcpu->ctl.cr2 = value;
		break;
	case 3:
		set_cr3(vcpu, value);
		break;
	case 4:
		set_cr4(vcpu, value);
		break;
	case 8:
		set_cr8(vcpu, value);
		break;
	}
}

OP_END(clts)
{
	need_cpl0(vcpu);
	vcpu->ctl.cr0 &= ~(u64)X86_CR0_TS;
	cpu_update_mode(vcpu);
}

OP_END(lmsw)
{
	u64 value;

	need_cpl0(vcpu);
	value = uop_read_rm_sized(vcpu, u, SIZE_16) & 15;
	/* PE can be set, not cleared. */
	set_cr0(vcpu, (vcpu->ctl.cr0 & ~14ULL) | value);
}

/* To a register as wide as the operand size, to memory 16 bits. */
static void store_system(struct kvm_vcpu *vcpu, const struct uop *u, u64 value)
{
	if (u->mem)
		uop_write_rm_sized(vcpu, u, SIZE_16, value);
	else
		reg_write(vcpu, u->rm, u->osize, value);
}

OP(smsw)
{
	check_umip(vcpu);
	store_system(vcpu, u, vcpu->ctl.cr0);
}

/* ---- debug registers ---- */

#define DR7_FIXED (1ULL << 10)
#define DR7_ZERO  0xd800ULL
#define DR7_GD	  (1ULL << 13)

static unsigned int debug_register(struct kvm_vcpu *vcpu, const struct uop *u)
{
	unsigned int n = reg_num(u->reg);

	if (n > 7 || ((n == 4 || n == 5) && (vcpu->ctl.cr4 & X86_CR4_DE)))
		raise_ud(vcpu);
	need_cpl0(vcpu);
	if (vcpu->ctl.dr7 & DR7_GD) {
		vcpu->ctl.dr6 |= DR6_BD;
		raise_exception(vcpu, DB_VECTOR);
	}
	return n == 4 || n == 5 ? n + 2 : n;
}

OP(mov_from_dr)
{
	unsigned int n = debug_register(vcpu, u);
	u64 value = n < 4 ? vcpu->ctl.dr[n] : n == 6 ? vcpu->ctl.dr6 : vcpu->ctl.dr7;

	if (n == 6)
		value |= DR6_FIXED;
	if (n == 7)
		value |= DR7_FIXED;
	REG64(u->rm) = u->mode64 ? value : (u32)value;
}

OP_END(mov_to_dr)
{
	unsigned int n = debug_register(vcpu, u);
	u64 value = cr_operand(vcpu, u);

	if (n >= 6 && value >> 32)
		raise_gp(vcpu, 0);
	if (n < 4)
		vcpu->ctl.dr[n] = value;
	else if (n == 6)
		vcpu->ctl.dr6 = (value & (15 | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
	else
		vcpu->ctl.dr7 = (value & ~DR7_ZERO) | DR7_FIXED;
	mmu_update_watchpoints(vcpu);
	cpu_update_mode(vcpu);
}

/* ---- translations ---- */

OP_END(invlpg)
{
	u64 linear = uop_ea(vcpu, u);

	need_cpl0(vcpu);
	if (!u->mode64)
		linear = (u32)(linear + vcpu->ctl.seg[u->seg].base);
	else if (u->seg == SEG_FS || u->seg == SEG_GS)
		linear += vcpu->ctl.seg[u->seg].base;
	if (!u->mode64 || canonical_address(vcpu, linear))
		mmu_invlpg(vcpu, linear);
}

static void invpcid_checked(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 type = u->mode64 ? REG64(u->reg) : REG32(u->reg), desc[2];
	u64 linear = uop_linear(vcpu, u, 16, ACCESS_READ);

	need_cpl0(vcpu);
	mem_read_bytes(vcpu, linear, desc, 16);
	if (type > 3 || (desc[0] >> 12))
		raise_gp(vcpu, 0);
	if (type < 2 && desc[0] && !(vcpu->ctl.cr4 & X86_CR4_PCIDE))
		raise_gp(vcpu, 0);
	if (type == 0 && !canonical_address(vcpu, desc[1]))
		raise_gp(vcpu, 0);
	mmu_invpcid(vcpu, (unsigned int)type, (u16)desc[0], desc[1]);
}

static const struct uop *invpcid(struct kvm_vcpu *vcpu, const struct uop *u)
{
	u64 rip = uop_next_rip(vcpu, u);

	vcpu->uop = u;
	invpcid_checked(vcpu, u);
	return uop_leave(vcpu, u, rip);
}

static int invpcid_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	return guest_cpuid_bit(vcpu, 7, CPUID_EBX, 10) ? 0 : -EINVAL;
}

const struct operation oper_invpcid = {
	.name = "invpcid",
	.any = invpcid,
	.ends = true,
	.build = invpcid_build,
};

/* ---- XCR0 ---- */

OP(xgetbv)
{
	u64 value = vcpu->ctl.xcr0;

	if (!(vcpu->ctl.cr4 & X86_CR4_OSXSAVE))
		raise_ud(vcpu);
	if ((u32)vcpu->ctl.gpr[RCX] == 1)
		value &= native_state_in_use(&vcpu->fpu);
	else if ((u32)vcpu->ctl.gpr[RCX])
		raise_gp(vcpu, 0);
	vcpu->ctl.gpr[RAX] = (u32)value;
	vcpu->ctl.gpr[RDX] = value >> 32;
}

OP_END(xsetbv)
{
	u64 value = (u32)vcpu->ctl.gpr[RAX] | vcpu->ctl.gpr[RDX] << 32;
	struct native_features f;

	if (!(vcpu->ctl.cr4 & X86_CR4_OSXSAVE))
		raise_ud(vcpu);
	need_cpl0(vcpu);
	native_features(&f);
	if ((u32)vcpu->ctl.gpr[RCX] || !(value & 1) || (value & ~f.xcr0) || (value & 6) == 4)
		raise_gp(vcpu, 0);
	vcpu->ctl.xcr0 = value;
	cpu_update_mode(vcpu);
}

/* ---- MSRs, CPUID, time ---- */

/* The result of kvm_emulate_*msr(), or the user's answer, which counts like one. */
static void finish_msr(struct kvm_vcpu *vcpu, int rc, u32 reason)
{
	if (rc == 2)
		io_ask_user(vcpu, reason, (u32)vcpu->ctl.gpr[RCX]);
	if (rc)
		raise_gp(vcpu, 0);
}

OP(rdmsr)
{
	u64 value;
	int rc;

	need_cpl0(vcpu);
	if (io_user_answered(vcpu)) {
		value = vcpu->run->msr.data;
		rc = vcpu->run->msr.error != 0;
	} else {
		rc = kvm_emulate_rdmsr(vcpu, (u32)vcpu->ctl.gpr[RCX], &value);
	}
	finish_msr(vcpu, rc, KVM_EXIT_X86_RDMSR);
	vcpu->ctl.gpr[RAX] = (u32)value;
	vcpu->ctl.gpr[RDX] = value >> 32;
}

OP_END(wrmsr)
{
	u64 value = (u32)vcpu->ctl.gpr[RAX] | vcpu->ctl.gpr[RDX] << 32;
	int rc;

	need_cpl0(vcpu);
	if (io_user_answered(vcpu))
		rc = vcpu->run->msr.error != 0;
	else
		rc = kvm_emulate_wrmsr(vcpu, (u32)vcpu->ctl.gpr[RCX], value);
	finish_msr(vcpu, rc, KVM_EXIT_X86_WRMSR);
	vcpu->events = true;
}

OP(rdpmc)
{
	/* No counters are announced: whatever ECX says, there is none. */
	raise_gp(vcpu, 0);
}

OP(cpuid)
{
	u32 a = (u32)vcpu->ctl.gpr[RAX], b = 0, c = (u32)vcpu->ctl.gpr[RCX], d = 0;

	kvm_cpuid(vcpu, &a, &b, &c, &d);
	vcpu->ctl.gpr[RAX] = a;
	vcpu->ctl.gpr[RBX] = b;
	vcpu->ctl.gpr[RCX] = c;
	vcpu->ctl.gpr[RDX] = d;
}

static void read_tsc(struct kvm_vcpu *vcpu)
{
	u64 tsc;

	if (vcpu->ctl.cpl && (vcpu->ctl.cr4 & X86_CR4_TSD))
		raise_gp(vcpu, 0);
	tsc = kvm_read_tsc(vcpu);
	vcpu->ctl.gpr[RAX] = (u32)tsc;
	vcpu->ctl.gpr[RDX] = tsc >> 32;
}

OP(rdtsc)
{
	read_tsc(vcpu);
}

static const struct uop *rdtscp(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vcpu->uop = u;
	read_tsc(vcpu);
	vcpu->ctl.gpr[RCX] = (u32)vcpu->msr.tsc_aux;
	return u + 1;
}

static int rdtscp_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	return guest_cpuid_bit(vcpu, 0x80000001, CPUID_EDX, 27) ? 0 : -EINVAL;
}

const struct operation oper_rdtscp = {.name = "rdtscp", .any = rdtscp, .build = rdtscp_build};

static const struct uop *rdpid(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vcpu->uop = u;
	REG64(u->rm) = (u32)vcpu->msr.tsc_aux;
	return u + 1;
}

static int rdpid_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	return guest_cpuid_bit(vcpu, 7, CPUID_ECX, 22) ? 0 : -EINVAL;
}

const struct operation oper_rdpid = {.name = "rdpid", .any = rdpid, .build = rdpid_build};

OP(wbinvd)
{
	need_cpl0(vcpu);
}

/* CLFLUSH, CLFLUSHOPT, CLWB: a read, as far as faults go. */
OP(clflush)
{
	mem_probe_read(vcpu, uop_linear(vcpu, u, 1, ACCESS_READ), 1);
}

OP(fence)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

OP_END(vmcall)
{
	if (io_user_answered(vcpu))
		kvm_complete_hypercall(vcpu);
	else if (kvm_emulate_hypercall(vcpu))
		io_ask_user(vcpu, KVM_EXIT_HYPERCALL, vcpu->run->hypercall.nr);
	vcpu->events = true;
}
