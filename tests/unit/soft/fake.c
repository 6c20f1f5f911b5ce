#include "fake.h"

#include "engine/soft/excp.h"

#include <stdlib.h>
#include <sys/mman.h>

struct fake *fake;
jmp_buf fake_jmp;

const struct uop uop_between = {.mode64 = 1};

void cpu_update_mode(struct kvm_vcpu *vcpu)
{
	fake->mode_updates++;
	mmu_update_class(vcpu);
}

struct kvm_memory_slot *gfn_to_memslot(struct kvm *kvm, u64 gfn)
{
	for (u32 i = 0; i < fake->nr_slots; i++)
		if (gfn - fake->slot[i].base_gfn < fake->slot[i].npages)
			return &fake->slot[i];
	return NULL;
}

void mark_page_dirty_in_slot(struct kvm_memory_slot *slot, u64 gfn)
{
	bitmap_set_atomic(slot->dirty_bitmap, gfn - slot->base_gfn);
}

bool blocks_page_has_code(struct kvm *kvm, u64 gpa)
{
	return gpa >> PAGE_SHIFT == fake->code_page >> PAGE_SHIFT;
}

void blocks_written(struct kvm_vcpu *vcpu, u64 gpa, unsigned int len)
{
	fake->code_written = gpa;
	fake->code_written_len = len;
}

void blocks_mapping_changed(struct kvm_vcpu *vcpu)
{
}

void blocks_space_changed(struct kvm_vcpu *vcpu)
{
}

void blocks_page_changed(struct kvm_vcpu *vcpu, u64 linear)
{
}

_Noreturn static void raised(struct kvm_vcpu *vcpu, u8 vector, bool has_error, u32 error, u64 cr2)
{
	excp_queue(vcpu, vector, has_error, error, cr2);
	fake->vector = vector;
	fake->has_error = has_error;
	fake->error = error;
	fake->cr2 = cr2;
	longjmp(fake_jmp, FAKE_EXCEPTION);
}

void raise_exception(struct kvm_vcpu *vcpu, u8 vector)
{
	raised(vcpu, vector, false, 0, 0);
}

void raise_exception_error(struct kvm_vcpu *vcpu, u8 vector, u32 error_code)
{
	raised(vcpu, vector, true, error_code, 0);
}

void raise_page_fault(struct kvm_vcpu *vcpu, u64 linear, u32 error_code)
{
	raised(vcpu, PF_VECTOR, true, error_code, linear);
}

void exit_to_user(struct kvm_vcpu *vcpu)
{
	longjmp(fake_jmp, FAKE_EXIT);
}

void io_step(struct kvm_vcpu *vcpu)
{
	longjmp(fake_jmp, FAKE_STEP);
}

int kvm_io_bus_write(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, const void *val)
{
	if (addr != fake->dev)
		return -EOPNOTSUPP;
	fake->dev_writes++;
	memcpy(&fake->dev_value, val, len);
	return 0;
}

int kvm_io_bus_read(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, void *val)
{
	if (addr != fake->dev)
		return -EOPNOTSUPP;
	fake->dev_reads++;
	memcpy(val, &fake->dev_value, len);
	return 0;
}

struct kvm_memory_slot *fake_add_slot(u64 gpa, u64 len, u8 *hva, u32 flags)
{
	struct kvm_memory_slot *s = &fake->slot[fake->nr_slots];

	s->id = fake->nr_slots++;
	s->base_gfn = gpa >> PAGE_SHIFT;
	s->npages = len >> PAGE_SHIFT;
	s->hva = hva;
	s->flags = flags;
	return s;
}

static void flat_segment(struct segment *s, u8 type, bool code)
{
	memset(s, 0, sizeof(*s));
	s->limit = 0xffffffff;
	s->type = type;
	s->s = s->present = s->g = 1;
	s->l = code;
	s->db = !code;
}

void fake_new(void)
{
	struct kvm_vcpu *v;

	fake = calloc(1, sizeof(*fake));
	fake->cpu = aligned_alloc(64, align_up(sizeof(*fake->cpu), 64));
	memset(fake->cpu, 0, sizeof(*fake->cpu));
	fake->ram = mmap(NULL, FAKE_RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	fake->code_page = fake->dev = ~0ULL;
	v = &fake->vcpu;
	v->cpu = fake->cpu;
	v->kvm = &fake->kvm;
	v->run = calloc(3, PAGE_SIZE);
	v->pio_data = (u8 *)v->run + PAGE_SIZE;
	v->guest_maxphyaddr_mask = MASK(39, 0);
	v->ctl.cr0 = X86_CR0_PE | X86_CR0_ET;
	v->ctl.cr4 = X86_CR4_PAE;
	v->ctl.efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
	v->ctl.rflags = 2;
	for (int i = SEG_ES; i <= SEG_GS; i++)
		flat_segment(&v->ctl.seg[i], i == SEG_CS ? 11 : 3, i == SEG_CS);
	v->uop = &uop_between;
	fake->kvm.vcpus[0] = v;
	fake->kvm.nr_vcpus = 1;
	fake_add_slot(0, FAKE_RAM_SIZE, fake->ram, 0);
	mmu_init(v);
}

void fake_free(void)
{
	munmap(fake->ram, FAKE_RAM_SIZE);
	free(fake->vcpu.run);
	free(fake->cpu);
	free(fake);
}

u64 uop_ea_full(const struct kvm_vcpu *vcpu, const struct uop *u)
{
	return 0;
}
