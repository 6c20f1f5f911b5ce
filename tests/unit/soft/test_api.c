/* What ioctls accept and refuse, and the vCPU's state through them: api.rst. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api_rig.h"

#define SYS(request, arg) rig->engine->ioctl(rig->sys, request, (unsigned long)(arg))

static void test_system(void **state)
{
	struct api_rig *rig = *state;

	assert_int_equal(SYS(KVM_GET_API_VERSION, 0), 12);
	assert_int_equal(SYS(KVM_GET_API_VERSION, 1), -EINVAL);
	assert_int_equal(SYS(KVM_CREATE_VM, 0x1000), -EINVAL);
	assert_true(SYS(KVM_GET_VCPU_MMAP_SIZE, 0) >= 3 * 4096);
	assert_int_equal(SYS(KVM_GET_VCPU_MMAP_SIZE, 1), -EINVAL);
	assert_int_equal(SYS(KVM_RUN, 0), -EINVAL);
	assert_int_equal(SYS(KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	assert_int_equal(SYS(KVM_CHECK_EXTENSION, 0x7fffffff), 0);
	assert_int_equal(VM(KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP), 1);
	assert_int_equal(VM(KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO), 2);
	assert_int_equal(VM(KVM_CHECK_EXTENSION, KVM_CAP_S390_PSW), 0);
	assert_int_equal(VM(KVM_GET_REGS, 0), -ENOTTY);
	assert_int_equal(rig->engine->ioctl(-1, KVM_GET_API_VERSION, 0), -EBADF);
}

/* The list calls say how much room they want. */
static void test_lists(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
	struct kvm_msr_list *msrs = calloc(1, sizeof(*msrs) + 1024 * sizeof(msrs->indices[0]));

	cpuid->nent = 0;
	assert_int_equal(SYS(KVM_GET_SUPPORTED_CPUID, cpuid), -E2BIG);
	cpuid->nent = 2;
	assert_int_equal(SYS(KVM_GET_SUPPORTED_CPUID, cpuid), -E2BIG);
	cpuid->nent = 256;
	assert_int_equal(SYS(KVM_GET_SUPPORTED_CPUID, cpuid), 0);
	assert_in_range(cpuid->nent, 10, 256);
	assert_int_equal(cpuid->entries[0].function, 0);
	/* Announced by KVM_CAP_TSC_DEADLINE_TIMER instead. */
	for (u32 i = 0; i < cpuid->nent && rig_is_soft(rig); i++) /* new kernels do both */
		if (cpuid->entries[i].function == 1)
			assert_int_equal(cpuid->entries[i].ecx >> 24 & 1, 0);
	msrs->nmsrs = 1;
	assert_int_equal(SYS(KVM_GET_MSR_INDEX_LIST, msrs), -E2BIG);
	assert_true(msrs->nmsrs > 1);
	assert_int_equal(SYS(KVM_GET_MSR_INDEX_LIST, msrs), 0);
	free(cpuid);
	free(msrs);
}

/* Every MSR that is listed can be read and written back. */
static void test_listed_msrs(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + 1024 * sizeof(list->indices[0]));
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + sizeof(msrs->entries[0]));

	list->nmsrs = 1024;
	assert_int_equal(SYS(KVM_GET_MSR_INDEX_LIST, list), 0);
	for (u32 i = 0; i < list->nmsrs && rig_is_soft(rig); i++) {
		msrs->nmsrs = 1;
		msrs->entries[0].index = list->indices[i];
		assert_int_equal(VCPU(KVM_GET_MSRS, msrs), 1);
		assert_int_equal(VCPU(KVM_SET_MSRS, msrs), 1);
	}
	free(list);
	free(msrs);
}

static void test_msrs(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + 4 * sizeof(msrs->entries[0]));

	msrs->nmsrs = 3;
	msrs->entries[0].index = 0x174;
	msrs->entries[0].data = 0x10;
	msrs->entries[1].index = 0xc0000081;
	msrs->entries[1].data = 0x0023001000000000;
	msrs->entries[2].index = 0x277;
	msrs->entries[2].data = 0x0007040600070406;
	assert_int_equal(VCPU(KVM_SET_MSRS, msrs), 3);
	for (int i = 0; i < 3; i++)
		msrs->entries[i].data = 0;
	assert_int_equal(VCPU(KVM_GET_MSRS, msrs), 3);
	assert_int_equal(msrs->entries[1].data, 0x0023001000000000);
	assert_int_equal(msrs->entries[2].data, 0x0007040600070406);
	/* The count stops at the first that is refused. */
	if (rig_is_soft(rig)) { /* some KVMs let the user store any PAT */
		msrs->entries[1].index = 0x277;
		msrs->entries[1].data = 0x0202020202020202;
		assert_int_equal(VCPU(KVM_SET_MSRS, msrs), 1);
	}
	msrs->entries[1].index = 0xdeadbeef;
	assert_int_equal(VCPU(KVM_GET_MSRS, msrs), 1);
	msrs->nmsrs = 256;
	assert_int_equal(VCPU(KVM_GET_MSRS, msrs), -E2BIG);
	free(msrs);
}

static void test_vcpu_creation(void **state)
{
	struct api_rig *rig = *state;
	int id1;

	assert_int_equal(VM(KVM_CREATE_VCPU, 0), -EEXIST);
	assert_int_equal(VM(KVM_CREATE_VCPU, 1u << 20), -EINVAL);
	id1 = VM(KVM_CREATE_VCPU, 1);
	assert_true(id1 >= 0);
	assert_int_equal(VM(KVM_SET_BOOT_CPU_ID, 1), -EBUSY);
	assert_int_equal(VM(KVM_CREATE_IRQCHIP, 0), -EINVAL);
	rig->engine->close(id1);
	/* It lives on: its number is taken. */
	assert_int_equal(VM(KVM_CREATE_VCPU, 1), -EEXIST);
	assert_int_equal(VCPU(KVM_RUN, 1), -EINVAL);
	assert_int_equal(VCPU(KVM_CREATE_VM, 0), -EINVAL);
}

static void test_without_irqchip(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_irq_level level = {.irq = 1, .level = 1};
	struct kvm_irqchip chip = {0};
	struct kvm_pit_state2 pit;
	struct kvm_lapic_state lapic;
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x40};
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_HALTED};
	struct kvm_interrupt irq = {.irq = 256};

	assert_int_equal(VM(KVM_IRQ_LINE, &level), -ENXIO);
	assert_int_equal(VM(KVM_GET_IRQCHIP, &chip), -ENXIO);
	assert_int_equal(VM(KVM_GET_PIT2, &pit), -ENXIO);
	assert_int_equal(VM(KVM_SIGNAL_MSI, &msi), -EINVAL);
	assert_int_equal(VCPU(KVM_GET_LAPIC, &lapic), -EINVAL);
	assert_int_equal(VCPU(KVM_SET_MP_STATE, &mp), -EINVAL);
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_int_equal(VCPU(KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(VCPU(KVM_INTERRUPT, &irq), -EINVAL);
}

static void test_with_irqchip(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_irqchip chip = {.chip_id = 3};
	struct kvm_pit_config pit = {0};
	struct kvm_interrupt irq = {.irq = 0x20};
	struct kvm_mp_state mp;
	int ap;

	assert_int_equal(VM(KVM_CREATE_IRQCHIP, 0), -EEXIST);
	assert_int_equal(VM(KVM_GET_IRQCHIP, &chip), -EINVAL);
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	assert_int_equal(VM(KVM_GET_IRQCHIP, &chip), 0);
	assert_int_equal(chip.chip.ioapic.base_address, 0xfec00000);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		assert_int_equal(chip.chip.ioapic.redirtbl[pin].fields.mask, 1);
	assert_int_equal(VM(KVM_CREATE_PIT2, &pit), 0);
	assert_int_equal(VM(KVM_CREATE_PIT2, &pit), -EEXIST);
	assert_int_equal(VCPU(KVM_INTERRUPT, &irq), -ENXIO);
	assert_int_equal(VCPU(KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	ap = VM(KVM_CREATE_VCPU, 5);
	assert_true(ap >= 0);
	assert_int_equal(rig->engine->ioctl(ap, KVM_GET_MP_STATE, (unsigned long)&mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	rig->engine->close(ap);
}

static void test_routing(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_irq_routing *r = calloc(1, sizeof(*r) + 4 * sizeof(r->entries[0]));

	r->nr = 1;
	r->flags = 1;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), -EINVAL);
	r->flags = 0;
	r->entries[0].gsi = 5;
	r->entries[0].type = KVM_IRQ_ROUTING_IRQCHIP;
	r->entries[0].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	r->entries[0].u.irqchip.pin = 24;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), -EINVAL);
	r->entries[0].u.irqchip.pin = 23;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), 0);
	/* One GSI may go to different chips, but not twice to one, nor to a pin and a message. */
	r->nr = 2;
	r->entries[1] = r->entries[0];
	r->entries[1].u.irqchip.pin = 22;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), -EINVAL);
	r->entries[1].u.irqchip.irqchip = KVM_IRQCHIP_PIC_MASTER;
	r->entries[1].u.irqchip.pin = 5;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), 0);
	r->entries[1].type = KVM_IRQ_ROUTING_MSI;
	memset(&r->entries[1].u, 0, sizeof(r->entries[1].u));
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), -EINVAL);
	r->entries[1].gsi = 4095;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), 0);
	r->entries[1].gsi = 4096;
	assert_int_equal(VM(KVM_SET_GSI_ROUTING, r), -EINVAL);
	free(r);
}

static void test_regs(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_regs in, out;

	memset(&in, 0x5a, sizeof(in));
	in.rflags = 0x246;
	in.rip = 0x1234;
	assert_int_equal(VCPU(KVM_SET_REGS, &in), 0);
	assert_int_equal(VCPU(KVM_GET_REGS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	in.rflags = 0;
	assert_int_equal(VCPU(KVM_SET_REGS, &in), 0);
	assert_int_equal(VCPU(KVM_GET_REGS, &out), 0);
	assert_int_equal(out.rflags, 2);
}

static void test_reset_state(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_regs regs;
	struct kvm_sregs s;
	struct kvm_fpu fpu;
	struct kvm_debugregs dr;

	assert_int_equal(VCPU(KVM_GET_REGS, &regs), 0);
	assert_int_equal(VCPU(KVM_GET_SREGS, &s), 0);
	assert_int_equal(regs.rip, 0xfff0);
	assert_int_equal(regs.rflags, 2);
	assert_int_equal(s.cs.selector, 0xf000);
	assert_int_equal(s.cs.base, 0xffff0000);
	assert_int_equal(s.cs.limit, 0xffff);
	assert_int_equal(s.ds.type, 3);
	assert_int_equal(s.idt.limit, 0xffff);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.cr4, 0);
	assert_int_equal(s.efer, 0);
	assert_int_equal(VCPU(KVM_GET_FPU, &fpu), 0);
	if (rig_is_soft(rig)) /* KVM leaves the field of an unused component as it is */
		assert_int_equal(fpu.mxcsr, 0x1f80);
	assert_int_equal(VCPU(KVM_GET_DEBUGREGS, &dr), 0);
	assert_int_equal(dr.dr6, 0xffff0ff0);
	assert_int_equal(dr.dr7, 0x400);
}

static void test_sregs(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_sregs s, bad, out;

	assert_int_equal(VCPU(KVM_GET_SREGS, &s), 0);
	bad = s;
	bad.cr0 |= 1ULL << 31; /* PG without PE */
	assert_int_equal(VCPU(KVM_SET_SREGS, &bad), -EINVAL);
	bad = s;
	bad.cr0 = 0x20000011; /* NW without CD */
	assert_int_equal(VCPU(KVM_SET_SREGS, &bad), -EINVAL);
	bad = s;
	bad.efer = 1 << 10; /* LMA alone */
	assert_int_equal(VCPU(KVM_SET_SREGS, &bad), -EINVAL);
	bad = s;
	bad.cs.l = 1;
	assert_int_equal(VCPU(KVM_SET_SREGS, &bad), -EINVAL);
	bad = s;
	bad.cr4 = 1ULL << 40;
	assert_int_equal(VCPU(KVM_SET_SREGS, &bad), -EINVAL);
	s.fs.base = 0x123456;
	s.fs.selector = 0x33;
	s.gdt.base = 0x7000;
	s.gdt.limit = 0x27;
	s.cr2 = 0xdead000;
	s.cr3 = 0x9000;
	assert_int_equal(VCPU(KVM_SET_SREGS, &s), 0);
	assert_int_equal(VCPU(KVM_GET_SREGS, &out), 0);
	assert_memory_equal(&s.fs, &out.fs, sizeof(s.fs));
	assert_int_equal(out.gdt.base, 0x7000);
	assert_int_equal(out.cr2, 0xdead000);
	assert_int_equal(out.cr3, 0x9000);
}

static void test_fpu_and_xsave(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_fpu fpu, back;
	static struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;

	assert_int_equal(VCPU(KVM_GET_FPU, &fpu), 0);
	for (size_t i = 0; i < sizeof(fpu.xmm); i++)
		((u8 *)fpu.xmm)[i] = (u8)i;
	for (int i = 0; i < 8; i++)
		memset(fpu.fpr[i], 0x10 + i, 10);
	fpu.fcw = 0x27f;
	fpu.ftwx = 0x81;
	fpu.mxcsr = 0x1fa0;
	assert_int_equal(VCPU(KVM_SET_FPU, &fpu), 0);
	assert_int_equal(VCPU(KVM_GET_XSAVE, &xsave), 0);
	if (!rig_is_soft(rig)) /* KVM's KVM_SET_FPU does not mark components used */
		return;
	assert_int_equal(xsave.region[0] & 0xffff, 0x27f);
	assert_int_equal(xsave.region[1] & 0xff, 0x81);
	assert_int_equal(xsave.region[6], 0x1fa0);
	assert_memory_equal((u8 *)xsave.region + 160, fpu.xmm, sizeof(fpu.xmm));
	assert_int_equal(xsave.region[128] & 3, 3);
	memset(fpu.xmm, 0, sizeof(fpu.xmm));
	assert_int_equal(VCPU(KVM_SET_FPU, &fpu), 0);
	assert_int_equal(VCPU(KVM_SET_XSAVE, &xsave), 0);
	assert_int_equal(VCPU(KVM_GET_FPU, &back), 0);
	assert_int_equal(back.xmm[15][15], 255);
	assert_int_equal(back.fpr[7][9], 0x17);
	xsave.region[129] = 0x40000000; /* a component that does not exist */
	assert_int_equal(VCPU(KVM_SET_XSAVE, &xsave), -EINVAL);
	assert_int_equal(VCPU(KVM_GET_XCRS, &xcrs), 0);
	assert_int_equal(xcrs.xcrs[0].value, 1);
	xcrs.xcrs[0].value = 0;
	assert_int_equal(VCPU(KVM_SET_XCRS, &xcrs), -EINVAL);
	xcrs.nr_xcrs = 17;
	assert_int_equal(VCPU(KVM_SET_XCRS, &xcrs), -EINVAL);
}

static void test_events(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_vcpu_events e, out;
	struct kvm_debugregs dr = {.dr6 = 1ULL << 32};

	assert_int_equal(VCPU(KVM_GET_VCPU_EVENTS, &e), 0);
	e.flags |= 0x80000000;
	assert_int_equal(VCPU(KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	e.flags &= 0x7fffffff;
	e.exception.injected = 1;
	e.exception.nr = 2;
	assert_int_equal(VCPU(KVM_SET_VCPU_EVENTS, &e), -EINVAL);
	e.exception.nr = 13;
	e.exception.has_error_code = 1;
	e.exception.error_code = 0x18;
	assert_int_equal(VCPU(KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(VCPU(KVM_GET_VCPU_EVENTS, &out), 0);
	assert_int_equal(out.exception.injected, 1);
	assert_int_equal(out.exception.nr, 13);
	assert_int_equal(out.exception.error_code, 0x18);
	assert_int_equal(VCPU(KVM_SET_DEBUGREGS, &dr), -EINVAL);
}

static void test_cpuid(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 257 * sizeof(c->entries[0]));
	u32 count;

	c->nent = 257;
	assert_int_equal(VCPU(KVM_SET_CPUID2, c), -E2BIG);
	c->nent = 256;
	assert_int_equal(SYS(KVM_GET_SUPPORTED_CPUID, c), 0);
	count = c->nent;
	assert_int_equal(VCPU(KVM_SET_CPUID2, c), 0);
	c->nent = 1;
	assert_int_equal(VCPU(KVM_GET_CPUID2, c), -E2BIG);
	c->nent = 256;
	assert_int_equal(VCPU(KVM_GET_CPUID2, c), 0);
	assert_int_equal(c->nent, count);
	free(c);
}

static void test_clock(void **state)
{
	struct api_rig *rig = *state;
	struct kvm_clock_data c = {.clock = 5000000000}, out;

	assert_int_equal(VM(KVM_SET_CLOCK, &c), 0);
	assert_int_equal(VM(KVM_GET_CLOCK, &out), 0);
	assert_in_range(out.clock, 5000000000, 65000000000);
	assert_true(VCPU(KVM_GET_TSC_KHZ, 0) > 1000);
	c.flags = 0x40000000;
	assert_int_equal(VM(KVM_SET_CLOCK, &c), -EINVAL);
}

/* Descriptors closed in the wrong order. */
static void test_close_order(void **state)
{
	struct api_rig *rig = *state;
	int vm = SYS(KVM_CREATE_VM, 0), vcpu;
	struct kvm_regs regs;

	assert_true(vm >= 0);
	vcpu = rig->engine->ioctl(vm, KVM_CREATE_VCPU, 0);
	assert_true(vcpu >= 0);
	assert_int_equal(rig->engine->close(vm), 0);
	assert_int_equal(rig->engine->ioctl(vcpu, KVM_GET_REGS, (unsigned long)&regs), 0);
	assert_int_equal(regs.rip, 0xfff0);
	assert_int_equal(rig->engine->ioctl(vm, KVM_CREATE_VCPU, 1), -EBADF);
	assert_int_equal(rig->engine->close(vcpu), 0);
	assert_int_equal(rig->engine->close(vcpu), -EBADF);
}

static void test_statistics(void **state)
{
	struct api_rig *rig = *state;
	int fd = VCPU(KVM_GET_STATS_FD, 0);
	struct kvm_stats_header h;
	u8 desc[256];
	u64 value;
	bool found = false;

	assert_true(fd >= 0);
	RIG_LOAD(rig, 0xe6, 0x10, 0xf4); /* out 0x10, al; hlt */
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(read(fd, &h, sizeof(h)), sizeof(h));
	assert_in_range(h.num_desc, 1, 1000);
	assert_true(h.data_offset >= h.desc_offset);
	for (u32 i = 0; i < h.num_desc; i++) {
		size_t size = sizeof(struct kvm_stats_desc) + h.name_size;
		struct kvm_stats_desc *d = (void *)desc;

		assert_int_equal(pread(fd, desc, size, (off_t)(h.desc_offset + i * size)),
				 (ssize_t)size);
		if (strcmp((char *)desc + sizeof(*d), "io_exits"))
			continue;
		found = true;
		assert_int_equal(pread(fd, &value, 8, h.data_offset + d->offset), 8);
		if (rig_is_soft(rig)) /* a KVM may run real mode without exits of that name */
			assert_int_equal(value, 1);
	}
	assert_true(found);
	close(fd);
}

#define T(name)	      cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
#define T_CHIPS(name) cmocka_unit_test_setup_teardown(name, rig_setup_irqchip, rig_teardown)

int main(void)
{
	const struct CMUnitTest api[] = {
		T(test_system),
		T(test_lists),
		T(test_listed_msrs),
		T(test_msrs),
		T(test_vcpu_creation),
		T(test_without_irqchip),
		T_CHIPS(test_with_irqchip),
		T_CHIPS(test_routing),
		T(test_regs),
		T(test_reset_state),
		T(test_sregs),
		T(test_fpu_and_xsave),
		T(test_events),
		T(test_cpuid),
		T(test_clock),
		T(test_close_order),
		T(test_statistics),
	};

	return RIG_MAIN(api);
}
