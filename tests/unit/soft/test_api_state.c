/* A VM's whole state carried to another by the API, as a snapshot does, and the guest goes on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "api_rig.h"

#define MSRS 256

struct snapshot {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	u32 xsave[1024]; /* struct kvm_xsave */
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	struct {
		u32 count, pad;
		struct kvm_msr_entry entry[MSRS];
	} msrs; /* struct kvm_msrs */
};

static void list_msrs(struct api_rig *rig, struct snapshot *s)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + MSRS * sizeof(list->indices[0]));

	list->nmsrs = MSRS - 1;
	assert_int_equal(rig->engine->ioctl(rig->sys, KVM_GET_MSR_INDEX_LIST, (unsigned long)list),
			 0);
	s->msrs.count = list->nmsrs;
	for (u32 i = 0; i < list->nmsrs; i++)
		s->msrs.entry[i].index = list->indices[i];
	free(list);
}

static void save(struct api_rig *rig, struct snapshot *s)
{
	memset(s, 0, sizeof(*s));
	list_msrs(rig, s);
	assert_int_equal(VCPU(KVM_GET_MSRS, &s->msrs), s->msrs.count);
	assert_int_equal(VCPU(KVM_GET_REGS, &s->regs), 0);
	assert_int_equal(VCPU(KVM_GET_SREGS, &s->sregs), 0);
	assert_int_equal(VCPU(KVM_GET_FPU, &s->fpu), 0);
	assert_int_equal(VCPU(KVM_GET_XSAVE, &s->xsave), 0);
	assert_int_equal(VCPU(KVM_GET_XCRS, &s->xcrs), 0);
	assert_int_equal(VCPU(KVM_GET_VCPU_EVENTS, &s->events), 0);
	assert_int_equal(VCPU(KVM_GET_DEBUGREGS, &s->debug), 0);
	assert_int_equal(VCPU(KVM_GET_MP_STATE, &s->mp), 0);
	assert_int_equal(VCPU(KVM_GET_LAPIC, &s->lapic), 0);
	assert_int_equal(VM(KVM_GET_PIT2, &s->pit), 0);
	assert_int_equal(VM(KVM_GET_CLOCK, &s->clock), 0);
	for (u32 i = 0; i < 3; i++) {
		s->chip[i].chip_id = i;
		assert_int_equal(VM(KVM_GET_IRQCHIP, &s->chip[i]), 0);
	}
}

static void load(struct api_rig *rig, struct snapshot *s)
{
	struct kvm_clock_data clock = {.clock = s->clock.clock};

	for (u32 i = 0; i < 3; i++)
		assert_int_equal(VM(KVM_SET_IRQCHIP, &s->chip[i]), 0);
	assert_int_equal(VM(KVM_SET_PIT2, &s->pit), 0);
	assert_int_equal(VM(KVM_SET_CLOCK, &clock), 0);
	assert_int_equal(VCPU(KVM_SET_SREGS, &s->sregs), 0);
	assert_int_equal(VCPU(KVM_SET_MSRS, &s->msrs), s->msrs.count);
	assert_int_equal(VCPU(KVM_SET_REGS, &s->regs), 0);
	assert_int_equal(VCPU(KVM_SET_XCRS, &s->xcrs), 0);
	assert_int_equal(VCPU(KVM_SET_XSAVE, &s->xsave), 0);
	assert_int_equal(VCPU(KVM_SET_DEBUGREGS, &s->debug), 0);
	assert_int_equal(VCPU(KVM_SET_LAPIC, &s->lapic), 0);
	assert_int_equal(VCPU(KVM_SET_MP_STATE, &s->mp), 0);
	assert_int_equal(VCPU(KVM_SET_VCPU_EVENTS, &s->events), 0);
}

/* MSRs that go on by themselves. */
static bool runs(u32 msr)
{
	return msr == 0x10 || msr == 0x6e0;
}

static void compare(const struct snapshot *a, const struct snapshot *b)
{
	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	assert_memory_equal(&a->sregs, &b->sregs, sizeof(a->sregs));
	assert_memory_equal(&a->fpu, &b->fpu, sizeof(a->fpu));
	assert_memory_equal(&a->xsave, &b->xsave, sizeof(a->xsave));
	assert_memory_equal(&a->xcrs, &b->xcrs, sizeof(a->xcrs));
	assert_memory_equal(&a->events, &b->events, sizeof(a->events));
	assert_memory_equal(&a->debug, &b->debug, sizeof(a->debug));
	assert_memory_equal(&a->mp, &b->mp, sizeof(a->mp));
	assert_memory_equal(&a->lapic, &b->lapic, sizeof(a->lapic));
	assert_memory_equal(a->chip, b->chip, sizeof(a->chip));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(a->pit.channels[i].count, b->pit.channels[i].count);
		assert_int_equal(a->pit.channels[i].mode, b->pit.channels[i].mode);
	}
	assert_true(b->clock.clock >= a->clock.clock);
	for (u32 i = 0; i < a->msrs.count; i++)
		if (!runs(a->msrs.entry[i].index))
			assert_int_equal(a->msrs.entry[i].data, b->msrs.entry[i].data);
}

static void set_cpuid(struct api_rig *rig)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	c->nent = 256;
	assert_int_equal(rig->engine->ioctl(rig->sys, KVM_GET_SUPPORTED_CPUID, (unsigned long)c),
			 0);
	assert_int_equal(VCPU(KVM_SET_CPUID2, c), 0);
	free(c);
}

static int setup(void **state)
{
	struct kvm_pit_config pit = {0};
	int rc = rig_setup_irqchip(state);

	return rc ? rc : rig_vm(*state, KVM_CREATE_PIT2, (unsigned long)&pit);
}

/*
 * Interrupt 5 is left pending in the PIC and the vCPU halted with interrupts off in its handler's
 * way: after the move it continues, takes the interrupt and says so.
 */
static const u8 guest[] = {
	0xfa, 0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04,
	0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf, 0xe6, 0x21, /* the PIC: only line 5, base 8
								     */
	0xc7, 0x06, 0x34, 0x00, 0x00, 0x11,			    /* vector 13 at 0:0x1100 */
	0xc7, 0x06, 0x36, 0x00, 0x00, 0x00,			    /* */
	0x66, 0xb8, 0x78, 0x56, 0x34, 0x12,			    /* mov eax, 0x12345678 */
	0x66, 0x0f, 0x6e, 0xc8,					    /* movd xmm1, eax */
	0xd9, 0xe8,						    /* fld1 */
	0xe6, 0x80,						    /* out 0x80: here it is moved */
	0xfb, 0xf4,						    /* sti; hlt */
	0x66, 0x0f, 0x7e, 0xc8,					    /* movd eax, xmm1 */
	0xe7, 0x82, 0xf4,					    /* out 0x82, ax; hlt */
};
static const u8 handler[] = {0xb0, 0x20, 0xe6, 0x20, 0xe6, 0x81, 0xcf}; /* EOI; out 0x81; iret */

static void expect_port(struct api_rig *rig, u16 port)
{
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.port, port);
}

/* Real mode knows SSE once CR4.OSFXSR is set. */
static void allow_sse(struct api_rig *rig)
{
	struct kvm_sregs s;

	assert_int_equal(VCPU(KVM_GET_SREGS, &s), 0);
	s.cr4 |= 0x600;
	assert_int_equal(VCPU(KVM_SET_SREGS, &s), 0);
}

/* False on a KVM that interprets real mode and knows no SSE there. */
static bool run_to_move(struct api_rig *rig)
{
	struct kvm_irq_level level = {.irq = 5, .level = 1};

	memcpy(rig->ram + 0x1100, handler, sizeof(handler));
	rig_load(rig, guest, sizeof(guest));
	allow_sse(rig);
	assert_int_equal(rig_run(rig), 0);
	if (!rig_is_soft(rig) && rig->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		return false;
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(rig->run->io.port, 0x80);
	/* Complete the exit, so that the registers are those between instructions. */
	rig->run->immediate_exit = 1;
	assert_int_equal(VCPU(KVM_RUN, 0), -EINTR);
	rig->run->immediate_exit = 0;
	assert_int_equal(VM(KVM_IRQ_LINE, &level), 0);
	return true;
}

static void test_move(void **state)
{
	struct api_rig *from = *state, *to;
	struct snapshot *a = calloc(2, sizeof(*a)), *b = a + 1;
	void *other;

	assert_int_equal(setup(&other), 0);
	to = other;
	set_cpuid(from);
	set_cpuid(to);
	if (run_to_move(from)) {
		save(from, a);
		memcpy(to->ram, from->ram, RIG_RAM);
		load(to, a);
		save(to, b);
		if (rig_is_soft(from))
			compare(a, b);
		expect_port(to, 0x81);
		expect_port(to, 0x82);
		assert_int_equal(*(u16 *)((u8 *)to->run + to->run->io.data_offset), 0x5678);
	}
	rig_teardown(&other);
	free(a);
}

int main(void)
{
	const struct CMUnitTest api_state[] = {
		cmocka_unit_test_setup_teardown(test_move, setup, rig_teardown),
	};

	return RIG_MAIN(api_state);
}
