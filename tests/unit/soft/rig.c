#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static struct rig *the_rig(struct kvm *kvm)
{
	return container_of(kvm, struct rig, kvm);
}

/* ---- what the api does for the cpu ---- */

struct kvm_memory_slot *gfn_to_memslot(struct kvm *kvm, u64 gfn)
{
	struct rig *rig = the_rig(kvm);

	if (gfn - rig->high.base_gfn < rig->high.npages)
		return &rig->high;
	return gfn < rig->slot.npages ? &rig->slot : NULL;
}

void mark_page_dirty_in_slot(struct kvm_memory_slot *slot, u64 gfn)
{
}

int kvm_io_bus_write(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, const void *val)
{
	return -EOPNOTSUPP;
}

int kvm_io_bus_read(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, void *val)
{
	return -EOPNOTSUPP;
}

bool kvm_cpu_has_interrupt(struct kvm_vcpu *vcpu)
{
	return the_rig(vcpu->kvm)->interrupt >= 0;
}

int kvm_cpu_get_interrupt(struct kvm_vcpu *vcpu)
{
	struct rig *rig = the_rig(vcpu->kvm);
	int vector = rig->interrupt;

	rig->interrupt = -1;
	return vector;
}

/* Enough for every bit of CR4 that there is. */
void kvm_cpuid(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx)
{
	u32 leaf = *eax;

	*eax = *ebx = *ecx = *edx = 0;
	if (!leaf)
		*ebx = the_rig(vcpu->kvm)->vendor;
	if (leaf == 1)
		*ecx = 1u << 17 | 1u << 26; /* PCID, XSAVE */
	if (leaf == 7) {
		*ebx = 1u << 0 | 1u << 7 | 1u << 10 | 1u << 20; /* FSGSBASE SMEP INVPCID SMAP */
		*ecx = 1u << 2 | 1u << 16 | 1u << 22;		/* UMIP LA57 RDPID */
	}
	if (leaf == 0x80000001)
		*edx = 1u << 27; /* RDTSCP */
}

u64 kvm_get_cr8(struct kvm_vcpu *vcpu)
{
	return vcpu->ctl.cr8;
}

void kvm_set_cr8(struct kvm_vcpu *vcpu, u64 cr8)
{
	vcpu->ctl.cr8 = cr8;
}

static u64 *msr_place(struct kvm_vcpu *vcpu, u32 index)
{
	switch (index) {
	case 0x174:
		return &vcpu->msr.sysenter_cs;
	case 0x175:
		return &vcpu->msr.sysenter_esp;
	case 0x176:
		return &vcpu->msr.sysenter_eip;
	case 0xc0000080:
		return &vcpu->ctl.efer;
	case 0xc0000081:
		return &vcpu->msr.star;
	case 0xc0000082:
		return &vcpu->msr.lstar;
	case 0xc0000083:
		return &vcpu->msr.cstar;
	case 0xc0000084:
		return &vcpu->msr.fmask;
	case 0xc0000100:
		return &vcpu->ctl.seg[SEG_FS].base;
	case 0xc0000101:
		return &vcpu->ctl.seg[SEG_GS].base;
	case 0xc0000102:
		return &vcpu->msr.kernel_gs_base;
	case 0xc0000103:
		return &vcpu->msr.tsc_aux;
	default:
		return NULL;
	}
}

int kvm_get_msr(struct kvm_vcpu *vcpu, u32 index, u64 *data, bool host)
{
	u64 *place = msr_place(vcpu, index);

	if (place)
		*data = *place;
	return !place;
}

int kvm_set_msr(struct kvm_vcpu *vcpu, u32 index, u64 data, bool host)
{
	u64 *place = msr_place(vcpu, index);
	bool address = index != 0xc0000080 && index != 0xc0000081 && index > 0x174;

	if (!place || (address && sign_extend(data, 48) != (s64)data))
		return 1;
	if (index == 0xc0000080) {
		if ((data & ~(u64)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX)) ||
		    ((data ^ *place) & EFER_LME && vcpu->ctl.cr0 >> 31))
			return 1;
		data = (data & ~EFER_LMA) | (*place & EFER_LMA);
	}
	*place = data;
	if (index == 0xc0000080)
		interpreter_ops.state_changed(vcpu);
	return 0;
}

u64 kvm_read_tsc(struct kvm_vcpu *vcpu)
{
	return 0;
}

int kvm_emulate_rdmsr(struct kvm_vcpu *vcpu, u32 index, u64 *data)
{
	return kvm_get_msr(vcpu, index, data, false);
}

int kvm_emulate_wrmsr(struct kvm_vcpu *vcpu, u32 index, u64 data)
{
	return kvm_set_msr(vcpu, index, data, false);
}

int kvm_emulate_hypercall(struct kvm_vcpu *vcpu)
{
	return 0;
}

void kvm_complete_hypercall(struct kvm_vcpu *vcpu)
{
}

int kvm_handle_requests(struct kvm_vcpu *vcpu)
{
	const u64 bit = 1u << KVM_REQ_EXIT;

	__atomic_store_n(&vcpu->exit_request, 0, __ATOMIC_SEQ_CST);
	return __atomic_fetch_and(&vcpu->requests, ~bit, __ATOMIC_SEQ_CST) & bit ? -EINTR : 0;
}

/* ---- modes ---- */

#define IDT    0x1000u
#define GDT    0x2000u
#define TABLES 0x3000u /* PML4, PDPT */
#define STUBS  0x5000u

u64 rig_handler(unsigned int vector)
{
	return STUBS + 16 * vector;
}

static void set_u64(struct rig *rig, u64 at, u64 value)
{
	memcpy(rig->ram + at, &value, 8);
}

static void flat(struct rig *rig, struct vcpu_control *c, int bits)
{

	for (int i = SEG_ES; i <= SEG_GS; i++)
		c->seg[i] = (struct segment){.selector = i == SEG_CS ? 8 : 16,
					     .limit = ~0u,
					     .type = i == SEG_CS ? 11 : 3,
					     .s = 1,
					     .present = 1,
					     .g = 1,
					     .db = bits == 32 || i != SEG_CS,
					     .l = bits == 64 && i == SEG_CS};
	set_u64(rig, GDT + 8, bits == 64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
	set_u64(rig, GDT + 16, 0x00cf93000000ffff);
	c->gdtr = (struct desc_ptr){GDT, 23};
}

static void make_idt(struct rig *rig, struct vcpu_control *c, int bits)
{
	for (unsigned int v = 0; v < 256; v++) {
		u64 h = rig_handler(v);

		rig->ram[h] = 0xf4;
		if (bits == 16) {
			u32 far = (u32)h;

			memcpy(rig->ram + IDT + 4 * v, &far, 4);
		} else if (bits == 32) {
			set_u64(rig, IDT + 8 * v,
				(h & 0xffff) | 8ULL << 16 | 0xee00ULL << 32 | (h >> 16) << 48);
		} else {
			set_u64(rig, IDT + 16 * v,
				(h & 0xffff) | 8ULL << 16 | 0xee00ULL << 32 | (h >> 16) << 48);
			set_u64(rig, IDT + 16 * v + 8, 0);
		}
	}
	c->idtr = (struct desc_ptr){IDT, bits == 16 ? 1023 : bits == 32 ? 2047 : 4095};
}

void rig_mode_vcpu(struct rig *rig, struct kvm_vcpu *vcpu, int bits)
{
	struct vcpu_control *c = &vcpu->ctl;

	interpreter_ops.vcpu_reset(vcpu, false);
	memset(c->gpr, 0, sizeof(c->gpr));
	c->rip = RIG_CODE;
	c->gpr[RSP] = RIG_STACK;
	if (bits == 16) {
		c->seg[SEG_CS].base = 0;
		c->seg[SEG_CS].selector = 0;
		c->rip = RIG_CODE & 0xffff;
		c->seg[SEG_CS].base = RIG_CODE;
		c->seg[SEG_CS].selector = RIG_CODE >> 4;
		c->gpr[RSP] = 0xf000;
	} else {
		flat(rig, c, bits);
		c->cr0 |= 1;
	}
	if (bits == 64) {
		set_u64(rig, TABLES, (TABLES + 4096) | 7);
		set_u64(rig, TABLES + 4096, 0x87);
		set_u64(rig, TABLES + 4096 + 8, RIG_HIGH | 0x87);
		c->cr3 = TABLES;
		c->cr4 = 0x620; /* PAE, OSFXSR, OSXMMEXCPT */
		c->cr0 |= 1u << 31;
		c->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NX;
	}
	make_idt(rig, c, bits);
	interpreter_ops.state_changed(vcpu);
}

void rig_mode(struct rig *rig, int bits)
{
	rig_mode_vcpu(rig, &rig->vcpu, bits);
}

/* ---- life ---- */

static void vcpu_make(struct rig *rig, struct kvm_vcpu *vcpu)
{
	vcpu->kvm = &rig->kvm;
	vcpu->index = (int)rig->kvm.nr_vcpus;
	vcpu->run = calloc(3, PAGE_SIZE);
	vcpu->pio_data = (u8 *)vcpu->run + PAGE_SIZE;
	vcpu->stat = vcpu == &rig->second ? &rig->second_stat : &rig->stat;
	vcpu->guest_maxphyaddr_mask = MASK(39, 0);
	if (interpreter_ops.vcpu_init(vcpu))
		abort();
	rig->kvm.vcpus[rig->kvm.nr_vcpus++] = vcpu;
}

static void vcpu_drop(struct kvm_vcpu *vcpu)
{
	interpreter_ops.vcpu_free(vcpu);
	free(vcpu->run);
}

/* The tests run on both back ends. */
struct rig *rig_new(void)
{
	return rig_new_with(getenv("SOFT_EAGER") ? &eager_ops : &interpreter_ops);
}

struct rig *rig_new_with(const struct kvm_exec_ops *exec)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	rig->ram = mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	rig->slot.npages = RIG_RAM >> PAGE_SHIFT;
	rig->slot.hva = rig->ram;
	rig->high.base_gfn = RIG_HIGH >> PAGE_SHIFT;
	rig->high.npages = RIG_RAM / 2 >> PAGE_SHIFT;
	rig->high.hva = rig->ram + RIG_RAM / 2;
	rig->interrupt = -1;
	rig->kvm.exec = exec; /* all members but the threshold are the same in all */
	if (interpreter_ops.vm_init(&rig->kvm))
		abort();
	vcpu_make(rig, &rig->vcpu);
	return rig;
}

void rig_add_second(struct rig *rig)
{
	vcpu_make(rig, &rig->second);
}

void rig_free(struct rig *rig)
{
	vcpu_drop(&rig->vcpu);
	if (rig->second.cpu)
		vcpu_drop(&rig->second);
	interpreter_ops.vm_free(&rig->kvm);
	munmap(rig->ram, RIG_RAM);
	free(rig);
}

int rig_run_vcpu(struct kvm_vcpu *vcpu)
{
	int rc;

	__atomic_store_n(&vcpu->in_guest, 1, __ATOMIC_SEQ_CST);
	rc = interpreter_ops.run(vcpu);
	__atomic_store_n(&vcpu->in_guest, 0, __ATOMIC_SEQ_CST);
	return rc ? rc : (int)vcpu->run->exit_reason;
}

int rig_run(struct rig *rig)
{
	return rig_run_vcpu(&rig->vcpu);
}

int rig_run_code(struct rig *rig, const void *code, size_t len)
{
	memcpy(rig->ram + RIG_CODE, code, len);
	interpreter_ops.memory_written(&rig->kvm, RIG_CODE, len);
	return rig_run(rig);
}
