/* Registers between the vCPU and the user's structures: api.rst, KVM_GET_REGS and what follows. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "engine/soft/arch_int.h"
#include "engine/soft/lapic.h"

#define CR0_PE	   BIT(0)
#define CR0_ET	   BIT(4)
#define CR0_NW	   BIT(29)
#define CR0_CD	   BIT(30)
#define CR0_PG	   BIT(31)
#define CR4_PAE	   BIT(5)
#define CR4_KNOWN  0x007fffffULL /* up to PKE: what the cpu lacks it refuses to the guest */
#define RFLAGS_ONE BIT(1)
#define RFLAGS_VM  BIT(17)
#define DR6_FIXED  0xffff0ff0ULL
#define DR7_FIXED  0x400ULL

/* Privilege follows from mode, flags and SS, as the hardware keeps it. */
static void update_cpl(struct kvm_vcpu *vcpu)
{
	struct vcpu_control *ctl = &vcpu->ctl;

	if (!(ctl->cr0 & CR0_PE))
		ctl->cpl = 0;
	else if ((ctl->rflags & RFLAGS_VM) && !(ctl->efer & EFER_LMA))
		ctl->cpl = 3;
	else
		ctl->cpl = ctl->seg[SEG_SS].dpl;
}

void get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *regs)
{
	const u64 *g = vcpu->ctl.gpr;

	vcpu->kvm->exec->state_sync(vcpu);
	*regs = (struct kvm_regs){
		.rax = g[RAX],
		.rbx = g[RBX],
		.rcx = g[RCX],
		.rdx = g[RDX],
		.rsi = g[RSI],
		.rdi = g[RDI],
		.rsp = g[RSP],
		.rbp = g[RBP],
		.r8 = g[R8],
		.r9 = g[R9],
		.r10 = g[R10],
		.r11 = g[R11],
		.r12 = g[R12],
		.r13 = g[R13],
		.r14 = g[R14],
		.r15 = g[R15],
		.rip = vcpu->ctl.rip,
		.rflags = vcpu->ctl.rflags,
	};
}

void set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *regs)
{
	u64 *g = vcpu->ctl.gpr;

	vcpu->kvm->exec->state_sync(vcpu);
	g[RAX] = regs->rax;
	g[RBX] = regs->rbx;
	g[RCX] = regs->rcx;
	g[RDX] = regs->rdx;
	g[RSI] = regs->rsi;
	g[RDI] = regs->rdi;
	g[RSP] = regs->rsp;
	g[RBP] = regs->rbp;
	g[R8] = regs->r8;
	g[R9] = regs->r9;
	g[R10] = regs->r10;
	g[R11] = regs->r11;
	g[R12] = regs->r12;
	g[R13] = regs->r13;
	g[R14] = regs->r14;
	g[R15] = regs->r15;
	vcpu->ctl.rip = regs->rip;
	/* Bits that do not exist are zero, whatever the user says. */
	vcpu->ctl.rflags = (regs->rflags & 0x3f7fd7) | RFLAGS_ONE;
	vcpu->ctl.exception.pending = false;
	update_cpl(vcpu);
	vcpu->kvm->exec->state_changed(vcpu);
}

static void get_segment(const struct segment *s, struct kvm_segment *k)
{
	*k = (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->type,
		.present = s->present,
		.dpl = s->dpl,
		.db = s->db,
		.s = s->s,
		.l = s->l,
		.g = s->g,
		.avl = s->avl,
		.unusable = s->unusable,
	};
}

static void set_segment(struct segment *s, const struct kvm_segment *k)
{
	*s = (struct segment){
		.base = k->base,
		.limit = k->limit,
		.selector = k->selector,
		.type = k->type & 15,
		.present = k->present & 1,
		.dpl = k->dpl & 3,
		.db = k->db & 1,
		.s = k->s & 1,
		.l = k->l & 1,
		.g = k->g & 1,
		.avl = k->avl & 1,
		.unusable = k->unusable || !k->present,
	};
}

/* What struct kvm_sregs and struct kvm_sregs2 begin with is the same. */
_Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base),
	       "one structure is read as the other");

static void get_common(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs)
{
	const struct vcpu_control *ctl = &vcpu->ctl;

	vcpu->kvm->exec->state_sync(vcpu);
	get_segment(&ctl->seg[SEG_CS], &sregs->cs);
	get_segment(&ctl->seg[SEG_DS], &sregs->ds);
	get_segment(&ctl->seg[SEG_ES], &sregs->es);
	get_segment(&ctl->seg[SEG_FS], &sregs->fs);
	get_segment(&ctl->seg[SEG_GS], &sregs->gs);
	get_segment(&ctl->seg[SEG_SS], &sregs->ss);
	get_segment(&ctl->seg[SEG_TR], &sregs->tr);
	get_segment(&ctl->seg[SEG_LDTR], &sregs->ldt);
	sregs->gdt = (struct kvm_dtable){.base = ctl->gdtr.base, .limit = ctl->gdtr.limit};
	sregs->idt = (struct kvm_dtable){.base = ctl->idtr.base, .limit = ctl->idtr.limit};
	sregs->cr0 = ctl->cr0;
	sregs->cr2 = ctl->cr2;
	sregs->cr3 = ctl->cr3;
	sregs->cr4 = ctl->cr4;
	sregs->cr8 = kvm_get_cr8(vcpu);
	sregs->efer = ctl->efer;
	sregs->apic_base = vcpu->apic_base;
}

void get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs)
{
	const struct vcpu_control *ctl = &vcpu->ctl;

	get_common(vcpu, sregs);
	memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
	if (ctl->interrupt.pending && !ctl->interrupt.soft)
		bitmap_set((u64 *)sregs->interrupt_bitmap, ctl->interrupt.nr);
}

static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

void get_sregs2(struct kvm_vcpu *vcpu, struct kvm_sregs2 *sregs)
{
	const struct vcpu_control *ctl = &vcpu->ctl;

	memset(sregs, 0, sizeof(*sregs));
	get_common(vcpu, (struct kvm_sregs *)sregs);
	if (!pae_paging(ctl->cr0, ctl->cr4, ctl->efer))
		return;
	memcpy(sregs->pdptrs, ctl->pdpte, sizeof(sregs->pdptrs));
	sregs->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
}

static bool sregs_valid(const struct kvm_sregs *s)
{
	if (s->cr0 >> 32 || ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)) ||
	    ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)))
		return false;
	if ((s->cr4 & ~CR4_KNOWN) || (s->cr8 & ~15ULL))
		return false;
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG))
		return (s->cr4 & CR4_PAE) && (s->efer & EFER_LMA);
	return !(s->efer & EFER_LMA) && !s->cs.l;
}

/* A BSP whose user put it back to the reset vector runs again, though it was halted. */
static void unhalt_after_reset(struct kvm_vcpu *vcpu)
{
	const struct segment *cs = &vcpu->ctl.seg[SEG_CS];

	if (kvm_is_bsp(vcpu) && vcpu->ctl.rip == 0xfff0 && cs->selector == 0xf000 &&
	    cs->base == 0xffff0000 && !(vcpu->ctl.cr0 & CR0_PE))
		__atomic_store_n(&vcpu->mp_state, KVM_MP_STATE_RUNNABLE, __ATOMIC_RELEASE);
}

/* The page directory pointers of PAE paging: those given, or NULL for what memory has. */
static void set_pdptes(struct vcpu_control *ctl, const __u64 *pdpte)
{
	ctl->pdpte_cr3 = ~0ULL;
	if (!pdpte)
		return;
	memcpy(ctl->pdpte, pdpte, sizeof(ctl->pdpte));
	ctl->pdpte_cr3 = ctl->cr3;
}

static int set_common(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs, const __u64 *pdpte)
{
	struct vcpu_control *ctl = &vcpu->ctl;

	if (!sregs_valid(sregs) || kvm_set_apic_base(vcpu, sregs->apic_base, true))
		return -EINVAL;
	vcpu->kvm->exec->state_sync(vcpu);
	set_segment(&ctl->seg[SEG_CS], &sregs->cs);
	set_segment(&ctl->seg[SEG_DS], &sregs->ds);
	set_segment(&ctl->seg[SEG_ES], &sregs->es);
	set_segment(&ctl->seg[SEG_FS], &sregs->fs);
	set_segment(&ctl->seg[SEG_GS], &sregs->gs);
	set_segment(&ctl->seg[SEG_SS], &sregs->ss);
	set_segment(&ctl->seg[SEG_TR], &sregs->tr);
	set_segment(&ctl->seg[SEG_LDTR], &sregs->ldt);
	ctl->gdtr = (struct desc_ptr){.base = sregs->gdt.base, .limit = sregs->gdt.limit};
	ctl->idtr = (struct desc_ptr){.base = sregs->idt.base, .limit = sregs->idt.limit};
	ctl->cr0 = sregs->cr0 | CR0_ET;
	ctl->cr2 = sregs->cr2;
	ctl->cr3 = sregs->cr3;
	ctl->cr4 = sregs->cr4;
	ctl->efer = sregs->efer;
	kvm_set_cr8(vcpu, sregs->cr8);
	set_pdptes(ctl, pdpte);
	update_cpl(vcpu);
	unhalt_after_reset(vcpu);
	kvm_vcpu_enter_guest_mode(vcpu); /* it may read guest memory: slots must stay */
	vcpu->kvm->exec->state_changed(vcpu);
	kvm_vcpu_leave_guest_mode(vcpu);
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

int set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs)
{
	u64 vector = bitmap_next_set((const u64 *)sregs->interrupt_bitmap, KVM_NR_INTERRUPTS, 0);
	int rc = set_common(vcpu, sregs, NULL);

	if (rc || vector >= KVM_NR_INTERRUPTS)
		return rc;
	vcpu->ctl.interrupt.pending = true;
	vcpu->ctl.interrupt.soft = false;
	vcpu->ctl.interrupt.nr = (u8)vector;
	return 0;
}

int set_sregs2(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *sregs)
{
	bool valid = sregs->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;

	if (sregs->flags & ~(u64)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (valid && !pae_paging(sregs->cr0, sregs->cr4, sregs->efer))
		return -EINVAL;
	return set_common(vcpu, (const struct kvm_sregs *)sregs, valid ? sregs->pdptrs : NULL);
}

/* ---- events ---- */

void get_vcpu_events(struct kvm_vcpu *vcpu, struct kvm_vcpu_events *events)
{
	struct vcpu_control *ctl = &vcpu->ctl;
	bool payload = vcpu->kvm->arch->exception_payload;

	memset(events, 0, sizeof(*events));
	if (ctl->exception.pending) {
		events->exception.injected = !payload;
		events->exception.pending = payload;
		events->exception.nr = ctl->exception.nr;
		events->exception.has_error_code = ctl->exception.has_error_code;
		events->exception.error_code = ctl->exception.error_code;
		events->exception_has_payload = payload;
		events->exception_payload = payload ? ctl->exception.payload : 0;
	}
	events->interrupt.injected = ctl->interrupt.pending && !ctl->interrupt.soft;
	events->interrupt.nr = ctl->interrupt.nr;
	events->interrupt.shadow = (ctl->interrupt_shadow_sti ? KVM_X86_SHADOW_INT_STI : 0) |
				   (ctl->interrupt_shadow_movss ? KVM_X86_SHADOW_INT_MOV_SS : 0);
	events->nmi.pending = __atomic_load_n(&ctl->nmi_pending, __ATOMIC_ACQUIRE) != 0;
	events->nmi.masked = ctl->nmi_masked;
	events->sipi_vector = 0; /* never valid when reporting */
	events->smi.latched_init = !!(
		__atomic_load_n(&vcpu->arch->pending_events, __ATOMIC_ACQUIRE) & APIC_EVENT_INIT);
	events->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
			KVM_VCPUEVENT_VALID_SMM | (payload ? KVM_VCPUEVENT_VALID_PAYLOAD : 0);
}

static int check_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	u32 known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
		    KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;

	if (vcpu->kvm->arch->exception_payload)
		known |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (e->flags & ~known)
		return -EINVAL;
	if ((e->exception.injected || e->exception.pending) &&
	    (e->exception.nr > 31 || e->exception.nr == NMI_VECTOR))
		return -EINVAL;
	/* System management mode does not exist here. */
	if ((e->flags & KVM_VCPUEVENT_VALID_SMM) && (e->smi.smm || e->smi.pending))
		return -EINVAL;
	return 0;
}

static void set_exception(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct vcpu_control *ctl = &vcpu->ctl;
	bool pending = e->exception.injected ||
		       ((e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && e->exception.pending);

	ctl->exception.pending = pending;
	ctl->exception.nr = e->exception.nr & 31;
	ctl->exception.has_error_code = e->exception.has_error_code;
	ctl->exception.error_code = e->exception.error_code;
	if ((e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && e->exception_has_payload)
		ctl->exception.payload = e->exception_payload;
	else
		ctl->exception.payload = e->exception.nr == PF_VECTOR ? ctl->cr2 : 0;
}

int set_vcpu_events(struct kvm_vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct vcpu_control *ctl = &vcpu->ctl;
	int rc = check_events(vcpu, e);

	if (rc)
		return rc;
	set_exception(vcpu, e);
	ctl->interrupt.pending = e->interrupt.injected;
	ctl->interrupt.nr = e->interrupt.nr;
	ctl->interrupt.soft = e->interrupt.soft;
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW) {
		ctl->interrupt_shadow_sti = e->interrupt.shadow & KVM_X86_SHADOW_INT_STI;
		ctl->interrupt_shadow_movss = e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
	}
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		__atomic_store_n(&ctl->nmi_pending, !!e->nmi.pending, __ATOMIC_RELEASE);
	ctl->nmi_masked = e->nmi.masked;
	if ((e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && lapic_in_kernel(vcpu))
		vcpu->sipi_vector = (u8)e->sipi_vector;
	kvm_make_request(vcpu, KVM_REQ_EVENT);
	return 0;
}

void get_debugregs(struct kvm_vcpu *vcpu, struct kvm_debugregs *regs)
{
	memset(regs, 0, sizeof(*regs));
	memcpy(regs->db, vcpu->ctl.dr, sizeof(regs->db));
	regs->dr6 = vcpu->ctl.dr6;
	regs->dr7 = vcpu->ctl.dr7;
}

int set_debugregs(struct kvm_vcpu *vcpu, const struct kvm_debugregs *regs)
{
	if (regs->flags || regs->dr6 >> 32 || regs->dr7 >> 32)
		return -EINVAL;
	memcpy(vcpu->ctl.dr, regs->db, sizeof(vcpu->ctl.dr));
	vcpu->ctl.dr6 = regs->dr6 | DR6_FIXED;
	vcpu->ctl.dr7 = regs->dr7 | DR7_FIXED;
	vcpu->kvm->exec->state_changed(vcpu);
	return 0;
}
