#include "chip_rig.h"

#include <stdlib.h>
#include <unistd.h>

#include "engine/soft/guest_features.h"
#include "engine/soft/soft.h"

static void *object_of(int fd)
{
	struct file *file = file_get(fd);
	void *object = file->object;

	file_put(file);
	return object;
}

static int set_cpuid(int sys, int vcpu)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));
	int rc;

	c->nent = 256;
	rc = soft_kvm_ioctl(sys, KVM_GET_SUPPORTED_CPUID, (unsigned long)c);
	for (u32 i = 0; i < c->nent; i++)
		if (c->entries[i].function == 1)
			c->entries[i].ecx |= 1u << 24; /* KVM_CAP_TSC_DEADLINE_TIMER */
	if (!rc)
		rc = soft_kvm_ioctl(vcpu, KVM_SET_CPUID2, (unsigned long)c);
	free(c);
	return rc;
}

int chip_setup(void **state)
{
	struct chip_rig *rig = calloc(1, sizeof(*rig));
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int rc;

	*state = rig;
	rig->sys = soft_kvm_open();
	rig->vm = soft_kvm_ioctl(rig->sys, KVM_CREATE_VM, 0);
	rig->kvm = object_of(rig->vm);
	rc = soft_kvm_ioctl(rig->vm, KVM_CREATE_IRQCHIP, 0);
	if (!rc)
		rc = soft_kvm_ioctl(rig->vm, KVM_CREATE_PIT2, (unsigned long)&pit);
	for (unsigned int i = 0; i < CHIP_VCPUS && !rc; i++) {
		rig->vcpu_fd[i] = soft_kvm_ioctl(rig->vm, KVM_CREATE_VCPU, i);
		rig->vcpu[i] = object_of(rig->vcpu_fd[i]);
		rc = set_cpuid(rig->sys, rig->vcpu_fd[i]);
	}
	return rc;
}

int chip_teardown(void **state)
{
	struct chip_rig *rig = *state;

	soft_kvm_close(rig->vm);
	for (unsigned int i = 0; i < CHIP_VCPUS; i++)
		soft_kvm_close(rig->vcpu_fd[i]);
	soft_kvm_close(rig->sys);
	free(rig);
	return 0;
}

void lapic_write(struct kvm_vcpu *vcpu, u32 reg, u32 val)
{
	assert_int_equal(kvm_io_bus_write(vcpu, KVM_MMIO_BUS, 0xfee00000 + reg, 4, &val), 0);
}

u32 lapic_read(struct kvm_vcpu *vcpu, u32 reg)
{
	u32 val = ~0u;

	assert_int_equal(kvm_io_bus_read(vcpu, KVM_MMIO_BUS, 0xfee00000 + reg, 4, &val), 0);
	return val;
}

void ioapic_write(struct chip_rig *rig, u8 index, u32 val)
{
	u32 select = index;

	assert_int_equal(kvm_io_bus_write(rig->vcpu[0], KVM_MMIO_BUS, 0xfec00000, 4, &select), 0);
	assert_int_equal(kvm_io_bus_write(rig->vcpu[0], KVM_MMIO_BUS, 0xfec00010, 4, &val), 0);
}

u32 ioapic_read(struct chip_rig *rig, u8 index)
{
	u32 select = index, val = 0;

	assert_int_equal(kvm_io_bus_write(rig->vcpu[0], KVM_MMIO_BUS, 0xfec00000, 4, &select), 0);
	assert_int_equal(kvm_io_bus_read(rig->vcpu[0], KVM_MMIO_BUS, 0xfec00010, 4, &val), 0);
	return val;
}

void ioapic_entry(struct chip_rig *rig, u32 pin, u64 entry)
{
	ioapic_write(rig, (u8)(0x11 + 2 * pin), (u32)(entry >> 32));
	ioapic_write(rig, (u8)(0x10 + 2 * pin), (u32)entry);
}

void port_write(struct chip_rig *rig, u16 port, u8 val)
{
	assert_int_equal(kvm_io_bus_write(rig->vcpu[0], KVM_PIO_BUS, port, 1, &val), 0);
}

u8 port_read(struct chip_rig *rig, u16 port)
{
	u8 val = 0;

	assert_int_equal(kvm_io_bus_read(rig->vcpu[0], KVM_PIO_BUS, port, 1, &val), 0);
	return val;
}

int take(struct kvm_vcpu *vcpu)
{
	return kvm_cpu_has_interrupt(vcpu) ? kvm_cpu_get_interrupt(vcpu) : -1;
}

int wait_take(struct kvm_vcpu *vcpu)
{
	for (int i = 0; i < 10000; i++) {
		int vector = take(vcpu);

		if (vector >= 0)
			return vector;
		usleep(1000);
	}
	return -1;
}

void lapics_on(struct chip_rig *rig)
{
	for (unsigned int i = 0; i < CHIP_VCPUS; i++)
		lapic_write(rig->vcpu[i], 0xf0, 0x1ff);
}
