/*
 * Coalesced zones: writes are queued in a ring shared with the user instead of an exit (api.rst,
 * KVM_REGISTER_COALESCED_MMIO). The ring has the kernel's layout and its rule: full when
 * last + 1 == first. The user may write anything into it; indices are taken modulo its size.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/soft/arch_int.h"

struct coalesced_zones {
	u32 count;
	struct kvm_coalesced_mmio_zone zone[];
};

#define RING_SIZE ((u32)KVM_COALESCED_MMIO_MAX)
#define MAX_ZONES 1000

static bool zone_has(const struct kvm_coalesced_mmio_zone *zone, u32 pio, u64 addr, u32 len)
{
	return zone->pio == pio && addr >= zone->addr &&
	       range_fits(addr - zone->addr, len, zone->size);
}

static bool in_zone(const struct coalesced_zones *zones, u32 pio, u64 addr, u32 len)
{
	for (u32 i = 0; zones && i < zones->count; i++)
		if (zone_has(&zones->zone[i], pio, addr, len))
			return true;
	return false;
}

/* False when the ring is full. */
static bool ring_push(struct kvm_coalesced_mmio_ring *ring, u32 pio, u64 addr, u32 len,
		      const void *val)
{
	u32 last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED) % RING_SIZE;
	u32 first = __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) % RING_SIZE;
	struct kvm_coalesced_mmio *e = &ring->coalesced_mmio[last];

	if ((last + 1) % RING_SIZE == first)
		return false;
	e->phys_addr = addr;
	e->len = len;
	e->pio = pio;
	memcpy(e->data, val, len);
	__atomic_store_n(&ring->last, (last + 1) % RING_SIZE, __ATOMIC_RELEASE);
	return true;
}

int coalesced_write(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, const void *val)
{
	struct kvm_arch *arch = vcpu->kvm->arch;
	u32 pio = bus == KVM_PIO_BUS;
	bool done;

	if (likely(!arch->zones) || len > 8 || !in_zone(arch->zones, pio, addr, len))
		return -EOPNOTSUPP;
	while (__atomic_exchange_n(&arch->ring_lock, 1, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
	done = ring_push(arch->ring, pio, addr, len, val);
	__atomic_store_n(&arch->ring_lock, 0, __ATOMIC_RELEASE);
	if (!done)
		return -EOPNOTSUPP;
	vcpu->stat->coalesced_writes++;
	return 0;
}

static void publish(struct kvm *kvm, void *arg)
{
	free(kvm->arch->zones);
	kvm->arch->zones = arg;
}

static struct coalesced_zones *zones_new(u32 count)
{
	return calloc(1, sizeof(struct coalesced_zones) +
				 count * sizeof(struct kvm_coalesced_mmio_zone));
}

int kvm_register_coalesced(struct kvm *kvm, const struct kvm_coalesced_mmio_zone *zone)
{
	struct coalesced_zones *old = kvm->arch->zones, *new;
	u32 count = old ? old->count : 0;

	if (zone->pio != 0 && zone->pio != 1)
		return -EINVAL;
	if (count >= MAX_ZONES)
		return -ENOSPC;
	new = zones_new(count + 1);
	if (!new)
		return -ENOMEM;
	if (old)
		memcpy(new->zone, old->zone, count * sizeof(old->zone[0]));
	new->zone[count] = *zone;
	new->count = count + 1;
	kvm_for_each_vcpu_stopped(kvm, publish, new);
	return 0;
}

/* Every registered zone inside the given one goes, as in the kernel; none is no error. */
int kvm_unregister_coalesced(struct kvm *kvm, const struct kvm_coalesced_mmio_zone *zone)
{
	struct coalesced_zones *old = kvm->arch->zones, *new;

	if (zone->pio != 0 && zone->pio != 1)
		return -EINVAL;
	if (!old)
		return 0;
	new = zones_new(old->count);
	if (!new)
		return -ENOMEM;
	for (u32 i = 0; i < old->count; i++)
		if (!zone_has(&old->zone[i], zone->pio, zone->addr, zone->size))
			new->zone[new->count++] = old->zone[i];
	kvm_for_each_vcpu_stopped(kvm, publish, new);
	return 0;
}
