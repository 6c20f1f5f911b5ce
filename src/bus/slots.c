/* BUS_RAM: memory slots of the engine, and doorbells. */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/bits.h"
#include "bus/bus_int.h"

static int slot_set(struct bus *bus, int slot, u64 size)
{
	const struct bus_slot *s = &bus->slots[slot];
	struct kvm_userspace_memory_region region = {
		.slot = (u32)slot,
		.guest_phys_addr = s->gpa,
		.memory_size = size,
		.userspace_addr = (u64)(uintptr_t)s->hva,
		.flags = (s->flags & BUS_RAM_READONLY ? KVM_MEM_READONLY : 0) |
			 (s->flags & BUS_RAM_LOG ? KVM_MEM_LOG_DIRTY_PAGES : 0),
	};

	return bus->vm ? engine_vm_ioctl(bus->vm, KVM_SET_USER_MEMORY_REGION, &region) : 0;
}

int bus_ram_add(struct bus *bus, gpa_t gpa, u64 size, void *hva, u32 flags)
{
	for (int i = 0; i < BUS_MAX_SLOTS; i++) {
		int rc;

		if (bus->slots[i].used)
			continue;
		bus->slots[i] = (struct bus_slot){gpa, size, hva, flags, true};
		rc = slot_set(bus, i, size);
		if (rc < 0)
			bus->slots[i].used = false;
		return rc < 0 ? rc : i;
	}
	return -ENOSPC;
}

int bus_ram_set_flags(struct bus *bus, int slot, u32 flags)
{
	bus->slots[slot].flags = flags;
	return slot_set(bus, slot, bus->slots[slot].size);
}

void bus_ram_remove(struct bus *bus, int slot)
{
	if (slot < 0 || !bus->slots[slot].used)
		return;
	slot_set(bus, slot, 0);
	bus->slots[slot].used = false;
}

int bus_ram_dirty(struct bus *bus, int slot, u64 *bitmap)
{
	struct kvm_dirty_log log = {.slot = (u32)slot, .dirty_bitmap = bitmap};

	if (!bus->vm) {
		memset(bitmap, 0, BITMAP_WORDS(bus->slots[slot].size / PAGE_SIZE) * sizeof(u64));
		return 0;
	}
	return engine_vm_ioctl(bus->vm, KVM_GET_DIRTY_LOG, &log);
}

static int doorbell_ioctl(struct bus *bus, const struct bus_doorbell *d, u32 flags)
{
	struct kvm_ioeventfd io = {
		.addr = d->addr,
		.len = d->size,
		.fd = d->fd,
		.datamatch = d->match ? d->value : 0,
		.flags = flags | (d->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			 (d->space == BUS_PIO ? KVM_IOEVENTFD_FLAG_PIO : 0),
	};

	return bus->vm ? engine_vm_ioctl(bus->vm, KVM_IOEVENTFD, &io) : -ENOTSUP;
}

int bus_doorbell_add(struct bus *bus, const struct bus_doorbell *doorbell)
{
	int rc = doorbell_ioctl(bus, doorbell, 0);

	return min(rc, 0);
}

void bus_doorbell_del(struct bus *bus, const struct bus_doorbell *doorbell)
{
	doorbell_ioctl(bus, doorbell, KVM_IOEVENTFD_FLAG_DEASSIGN);
}
