/*
 * What is asked of the engine, in the order that is fast: memory slots before anything that sits
 * on the engine's I/O bus (a slot change waits for a grace period after that, about 7 ms on some
 * hosts), interrupt controllers before vCPUs (the API wants it).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/machine_int.h"

#define MAX_CPUID_ENTRIES 256

static int get_supported_cpuid(struct machine *m, struct err *err)
{
	size_t size = sizeof(*m->supported) + MAX_CPUID_ENTRIES * sizeof(m->supported->entries[0]);
	int rc;

	m->supported = calloc(1, size);
	if (!m->supported)
		return err_set(err, ENOMEM, "out of memory");
	m->supported->nent = MAX_CPUID_ENTRIES;
	rc = m->vm.engine->ioctl(m->vm.sys_fd, KVM_GET_SUPPORTED_CPUID,
				 (unsigned long)m->supported);
	return rc < 0 ? err_set(err, -rc, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-rc)) : 0;
}

static int add_slots(struct machine *m, struct err *err)
{
	const struct mem_region *r;
	size_t count;

	r = mem_regions(m->mem, &count);
	for (size_t i = 0; i < count; i++) {
		int rc = bus_ram_add(m->bus, r[i].gpa, r[i].size, r[i].hva,
				     r[i].flags & MEM_READONLY ? BUS_RAM_READONLY : 0);

		if (rc < 0)
			return err_set(err, -rc, "memory slot at 0x%llx: %s",
				       (unsigned long long)r[i].gpa, strerror(-rc));
	}
	return 0;
}

/* VT-x without unrestricted guest needs two areas that the guest does not use. */
static void set_intel_areas(struct machine *m)
{
	const struct kvm_cpuid_entry2 *vendor = cpuid_lookup(m->supported, 0, 0);
	u64 identity = LAYOUT_IDENTITY_MAP;

	if (!vendor || vendor->ebx != 0x756e6547) /* "Genu" */
		return;
	engine_vm_ioctl(&m->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	m->vm.engine->ioctl(m->vm.fd, KVM_SET_TSS_ADDR, LAYOUT_TSS);
}

static int make_chips(struct machine *m, struct err *err)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int rc;

	if (!has_irqchip(m))
		return 0;
	rc = engine_vm_ioctl(&m->vm, KVM_CREATE_IRQCHIP, NULL);
	if (rc < 0)
		return err_set(err, -rc, "KVM_CREATE_IRQCHIP: %s", strerror(-rc));
	rc = engine_vm_ioctl(&m->vm, KVM_CREATE_PIT2, &pit);
	return rc < 0 ? err_set(err, -rc, "KVM_CREATE_PIT2: %s", strerror(-rc)) : 0;
}

int machine_make_vm(struct machine *m, struct err *err)
{
	int rc = get_supported_cpuid(m, err);

	if (!rc)
		rc = layout_make(&m->layout, m->config.memory, cpuid_phys_bits(m->supported), err);
	if (!rc)
		rc = layout_add_ram(&m->layout, m->mem,
				    (m->config.hugepages ? MEM_HUGETLB : 0) |
					    (m->board == BOARD_BARE ? MEM_NO_THP : 0),
				    err);
	if (!rc && m->config.firmware)
		rc = firmware_map(m->mem, m->config.firmware, err);
	if (!rc)
		rc = add_slots(m, err);
	if (rc)
		return rc;
	set_intel_areas(m);
	return make_chips(m, err);
}

static int set_cpuid(struct machine *m, u32 index, struct err *err)
{
	u32 room = m->supported->nent + 16;
	struct cpuid_config config = {.topology = m->config.topology};
	struct kvm_cpuid2 *table;
	int rc;

	table = calloc(1, sizeof(*table) + room * sizeof(table->entries[0]));
	if (!table)
		return err_set(err, ENOMEM, "out of memory");
	table->nent = room;
	rc = vcpu_ioctl(m->vcpu[index], KVM_GET_TSC_KHZ, NULL);
	config.tsc_khz = rc > 0 ? (u32)rc : 0;
	config.no_x2apic = !has_irqchip(m);
	config.tsc_deadline = has_irqchip(m) && engine_vm_has(&m->vm, KVM_CAP_TSC_DEADLINE_TIMER);
	rc = cpuid_make(m->supported, &config, index, table, err);
	if (!rc) {
		rc = vcpu_ioctl(m->vcpu[index], KVM_SET_CPUID2, table);
		if (rc < 0)
			err_set(err, -rc, "KVM_SET_CPUID2: %s", strerror(-rc));
	}
	free(table);
	return min(rc, 0);
}

static int read_guest(void *ctx, u64 gpa, void *buf, u64 len)
{
	return mem_read(ctx, gpa, buf, len);
}

int machine_make_vcpus(struct machine *m, struct err *err)
{
	u32 limit = (u32)engine_vm_has(&m->vm, KVM_CAP_MAX_VCPUS);

	if (limit && m->config.cpus > limit)
		return err_set(err, EINVAL, "--cpus %u: the engine %s has %u at most",
			       m->config.cpus, m->vm.engine->name, limit);
	for (u32 i = 0; i < m->config.cpus; i++) {
		struct vcpu_config config = {
			.vm = &m->vm,
			.index = i,
			.apic_id = cpu_topology_apic_id(&m->config.topology, i),
			.ops = &machine_vcpu_ops,
			.ctx = m,
			.timed = m->config.timed,
			.trace = m->config.trace,
		};
		int rc;

		m->vcpu[i] = vcpu_new(&config, err);
		if (!m->vcpu[i])
			return -EIO;
		m->vcpus = i + 1;
		vcpu_set_memory_reader(m->vcpu[i], read_guest, m->mem);
		rc = set_cpuid(m, i, err);
		if (rc)
			return rc;
	}
	bus_set_coalesced_ring(m->bus, vcpu_coalesced_ring(m->vcpu[0]));
	return 0;
}

/* ---- reset ---- */

static int reset_irqchip(struct machine *m, u32 id)
{
	struct kvm_irqchip chip = {.chip_id = id};

	if (id == KVM_IRQCHIP_IOAPIC) {
		chip.chip.ioapic.base_address = LAYOUT_IOAPIC;
		for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
			chip.chip.ioapic.redirtbl[pin].fields.mask = 1;
	}
	return engine_vm_ioctl(&m->vm, KVM_SET_IRQCHIP, &chip);
}

static int reset_pit(struct machine *m)
{
	struct kvm_pit_state2 pit = {.flags = 0};

	for (int i = 0; i < 3; i++) {
		pit.channels[i].mode = 0xff; /* not programmed */
		pit.channels[i].gate = i != 2;
		pit.channels[i].count = 0x10000;
	}
	return engine_vm_ioctl(&m->vm, KVM_SET_PIT2, &pit);
}

int machine_reset_chips(struct machine *m)
{
	int rc = 0;

	for (u32 i = 0; i < m->vcpus && !rc; i++)
		rc = vcpu_reset(m->vcpu[i]);
	if (rc || !has_irqchip(m))
		return rc;
	rc = reset_irqchip(m, KVM_IRQCHIP_PIC_MASTER);
	if (!rc)
		rc = reset_irqchip(m, KVM_IRQCHIP_PIC_SLAVE);
	if (!rc)
		rc = reset_irqchip(m, KVM_IRQCHIP_IOAPIC);
	return rc ? rc : reset_pit(m);
}

/* ---- loading ---- */

static u64 *register_named(struct kvm_regs *r, const char *name)
{
	static const struct {
		char name[8];
		size_t offset;
	} regs[] = {
#define REG(n) {#n, offsetof(struct kvm_regs, n)}
		REG(rax), REG(rbx), REG(rcx), REG(rdx), REG(rsi), REG(rdi),
		REG(rsp), REG(rbp), REG(r8),  REG(r9),	REG(r10), REG(r11),
		REG(r12), REG(r13), REG(r14), REG(r15), REG(rip), REG(rflags),
#undef REG
	};

	for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
		if (!strcmp(regs[i].name, name))
			return (u64 *)((char *)r + regs[i].offset);
	return NULL;
}

static int apply_entry(struct machine *m, struct err *err)
{
	struct kvm_regs regs = m->entry.regs;
	struct kvm_sregs sregs;
	int rc;

	for (u32 i = 0; i < m->config.reg_count; i++) {
		u64 *reg = register_named(&regs, m->config.reg[i].name);

		if (!reg)
			return err_set(err, EINVAL,
				       "--reg %s: no such register (rax to r15, rip, rflags)",
				       m->config.reg[i].name);
		*reg = m->config.reg[i].value;
	}
	rc = vcpu_ioctl(m->vcpu[0], KVM_GET_SREGS, &sregs);
	if (rc)
		return err_set(err, -rc, "KVM_GET_SREGS: %s", strerror(-rc));
	boot_entry_apply(&m->entry, &sregs);
	rc = vcpu_ioctl(m->vcpu[0], KVM_SET_SREGS, &sregs);
	if (!rc)
		rc = vcpu_ioctl(m->vcpu[0], KVM_SET_REGS, &regs);
	return rc ? err_set(err, -rc, "the engine refuses the entry state: %s", strerror(-rc)) : 0;
}

int machine_load(struct machine *m, struct err *err)
{
	struct boot_options options = m->config.boot;
	int rc = 0;

	if (m->board != BOARD_BARE)
		rc = board_prepare_boot(m, &options.acpi_rsdp, err);
	if (rc)
		return rc;
	if (m->config.firmware)
		rc = firmware_load(m->mem, m->config.firmware, &m->entry, err);
	else
		rc = boot_load(m->mem, &m->layout, m->config.image, &options, &m->entry, err);
	return rc ? rc : apply_entry(m, err);
}
