/*
 * The table starts as a copy of what the engine supports; each function below states one group of
 * leaves. What the engine does not support is never added, but for topology, frequency and the
 * hypervisor's leaves, which are the machine's to say.
 */
#include "machine/cpuid.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

#define HYPERVISOR_BASE	    0x40000000
#define HYPERVISOR_FEATURES 0x40000001
#define HYPERVISOR_TIMING   0x40000010
#define EXTENDED_BASE	    0x80000000

#define LEAF1_ECX_VMX	       BIT(5)
#define LEAF1_ECX_X2APIC       BIT(21)
#define LEAF1_ECX_DEADLINE     BIT(24)
#define LEAF1_ECX_HYPER	       BIT(31)
#define LEAF1_EDX_HTT	       BIT(28)
#define EXT1_ECX_CMPLEGACY     BIT(1)
#define EXT1_ECX_SVM	       BIT(2)
#define EXT1_ECX_TOPOEXT       BIT(22)
#define EXT7_EDX_INVARIANT_TSC BIT(8)

/* KVM's local APIC timer counts nanoseconds. */
#define APIC_BUS_KHZ 1000000

/* Level types of leaf 0xb. */
#define LEVEL_SMT  1
#define LEVEL_CORE 2

struct table {
	struct kvm_cpuid2 *out;
	u32 max;
	bool full;
	const struct cpuid_config *config;
	u32 apic_id, thread_bits, core_bits, socket, core;
};

/* ---- topology ---- */

struct cpu_topology cpu_topology_simple(u32 cpus)
{
	return (struct cpu_topology){.sockets = 1, .cores = cpus, .threads = 1};
}

u32 cpu_topology_count(const struct cpu_topology *topology)
{
	return topology->sockets * topology->cores * topology->threads;
}

static u32 bits_for(u32 count)
{
	return ilog2(round_up_pow2(count));
}

u32 cpu_topology_apic_id(const struct cpu_topology *topology, u32 n)
{
	u32 thread = n % topology->threads;
	u32 core = n / topology->threads % topology->cores;
	u32 socket = n / topology->threads / topology->cores;
	u32 thread_bits = bits_for(topology->threads);

	return socket << (thread_bits + bits_for(topology->cores)) | core << thread_bits | thread;
}

static bool topology_valid(const struct cpu_topology *t)
{
	const u32 most = CPUID_MAX_CPUS;

	return t->sockets && t->cores && t->threads && t->sockets <= most && t->cores <= most &&
	       t->threads <= most && (u64)t->sockets * t->cores * t->threads <= most;
}

/* ---- the table ---- */

const struct kvm_cpuid_entry2 *cpuid_lookup(const struct kvm_cpuid2 *table, u32 function, u32 index)
{
	for (u32 i = 0; i < table->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &table->entries[i];

		if (e->function == function &&
		    (e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

static struct kvm_cpuid_entry2 *find(struct table *t, u32 function, u32 index)
{
	return (struct kvm_cpuid_entry2 *)cpuid_lookup(t->out, function, index);
}

/* The entry, made when it is not there; NULL when the table is full. */
static struct kvm_cpuid_entry2 *obtain(struct table *t, u32 function, u32 index, u32 flags)
{
	struct kvm_cpuid_entry2 *e = find(t, function, index);

	if (e)
		return e;
	if (t->out->nent == t->max) {
		t->full = true;
		return NULL;
	}
	e = &t->out->entries[t->out->nent++];
	*e = (struct kvm_cpuid_entry2){.function = function, .index = index, .flags = flags};
	return e;
}

static void set(struct table *t, u32 function, u32 index, u32 flags, const u32 regs[4])
{
	struct kvm_cpuid_entry2 *e = obtain(t, function, index, flags);

	if (!e)
		return;
	e->eax = regs[0];
	e->ebx = regs[1];
	e->ecx = regs[2];
	e->edx = regs[3];
}

/* Drop every entry in [first, last]. */
static void drop(struct table *t, u32 first, u32 last)
{
	u32 kept = 0;

	for (u32 i = 0; i < t->out->nent; i++)
		if (t->out->entries[i].function < first || t->out->entries[i].function > last)
			t->out->entries[kept++] = t->out->entries[i];
	t->out->nent = kept;
}

/* Leaf 0 or 0x80000000 says how far its range goes. */
static void raise_limit(struct table *t, u32 base, u32 leaf)
{
	struct kvm_cpuid_entry2 *e = obtain(t, base, 0, 0);

	if (e && e->eax < leaf)
		e->eax = leaf;
}

static bool vendor_is(struct table *t, const char *name)
{
	const struct kvm_cpuid_entry2 *e = find(t, 0, 0);

	return e && !memcmp(&e->ebx, name, 4) && !memcmp(&e->edx, name + 4, 4) &&
	       !memcmp(&e->ecx, name + 8, 4);
}

static bool is_amd(struct table *t)
{
	return vendor_is(t, "AuthenticAMD") || vendor_is(t, "HygonGenuine");
}

static void assign_bit(u32 *reg, u64 bit, bool on)
{
	*reg = on ? *reg | (u32)bit : *reg & ~(u32)bit;
}

/* Ids that a package takes, the holes of uneven numbers included. */
static u32 package_ids(const struct table *t)
{
	return 1u << (t->thread_bits + t->core_bits);
}

static u32 package_cpus(const struct table *t)
{
	return t->config->topology.cores * t->config->topology.threads;
}

/* ---- groups of leaves ---- */

static void leaf_1(struct table *t)
{
	struct kvm_cpuid_entry2 *e = obtain(t, 1, 0, 0);
	u32 ids = min(package_ids(t), 255u);

	if (!e)
		return;
	e->ebx = (e->ebx & 0xffff) | ids << 16 | t->apic_id << 24;
	assign_bit(&e->edx, LEAF1_EDX_HTT, package_cpus(t) > 1);
	assign_bit(&e->ecx, LEAF1_ECX_HYPER, true);
	assign_bit(&e->ecx, LEAF1_ECX_DEADLINE, t->config->tsc_deadline);
	if (t->config->no_x2apic)
		assign_bit(&e->ecx, LEAF1_ECX_X2APIC, false);
	if (!t->config->nested)
		assign_bit(&e->ecx, LEAF1_ECX_VMX, false);
}

/* Leaf 4 of Intel and 0x8000001d of AMD describe a cache in a sub-leaf, in the same form: L1 and L2
 * belong to a core, what is above to the package. */
static void cache_leaves(struct table *t, u32 function, bool intel)
{
	for (u32 i = 0; i < t->out->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->out->entries[i];
		u32 level = (e->eax >> 5) & 7, sharing;

		if (e->function != function || !(e->eax & 0x1f))
			continue;
		sharing = level < 3 ? 1u << t->thread_bits : package_ids(t);
		e->eax = (e->eax & 0x3fff) | (sharing - 1) << 14;
		if (intel)
			e->eax |= min((1u << t->core_bits) - 1, 63u) << 26;
	}
}

static void topology_leaf(struct table *t, u32 function)
{
	const struct cpu_topology *topology = &t->config->topology;
	const u32 flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

	drop(t, function, function);
	set(t, function, 0, flags,
	    (u32[]){t->thread_bits, topology->threads, LEVEL_SMT << 8, t->apic_id});
	set(t, function, 1, flags,
	    (u32[]){t->thread_bits + t->core_bits, package_cpus(t), 1 | LEVEL_CORE << 8,
		    t->apic_id});
	set(t, function, 2, flags, (u32[]){0, 0, 2, t->apic_id});
}

static void topology_leaves(struct table *t)
{
	const struct kvm_cpuid_entry2 *limit = find(t, 0, 0);
	bool has_1f = limit && limit->eax >= 0x1f && find(t, 0x1f, 0);

	raise_limit(t, 0, 0xb);
	topology_leaf(t, 0xb);
	if (has_1f)
		topology_leaf(t, 0x1f);
	else
		drop(t, 0x1f, 0x1f);
}

static void amd_leaves(struct table *t)
{
	struct kvm_cpuid_entry2 *ext1 = find(t, 0x80000001, 0), *ext8 = find(t, 0x80000008, 0);
	bool many = package_cpus(t) > 1;

	if (ext1)
		assign_bit(&ext1->ecx, EXT1_ECX_CMPLEGACY, many);
	if (ext8)
		ext8->ecx = (ext8->ecx & ~0xf0ffu) | (package_cpus(t) - 1) |
			    (t->thread_bits + t->core_bits) << 12;
	if (!ext1 || !(ext1->ecx & EXT1_ECX_TOPOEXT))
		return;
	raise_limit(t, EXTENDED_BASE, 0x8000001e);
	set(t, 0x8000001e, 0, 0,
	    (u32[]){t->apic_id, t->core | (t->config->topology.threads - 1) << 8, t->socket, 0});
	cache_leaves(t, 0x8000001d, false);
}

static void hide_nested(struct table *t)
{
	struct kvm_cpuid_entry2 *ext1 = find(t, 0x80000001, 0);

	if (t->config->nested)
		return;
	if (ext1)
		assign_bit(&ext1->ecx, EXT1_ECX_SVM, false);
	drop(t, 0x8000000a, 0x8000000a);
}

/* A guest that trusts the TSC alone keeps no other clock, and could not be moved to a host with
 * another frequency: with kvmclock it can, and loses nothing. */
static void hide_invariant_tsc(struct table *t)
{
	struct kvm_cpuid_entry2 *e = find(t, 0x80000007, 0);

	if (e)
		assign_bit(&e->edx, EXT7_EDX_INVARIANT_TSC, false);
}

/* Crystal clock and TSC ratio: Linux takes the crystal for the APIC timer's clock, which it is. */
static void frequency_leaves(struct table *t)
{
	u32 khz = t->config->tsc_khz, mhz = khz / 1000;

	drop(t, 0x15, 0x16);
	if (!khz || !vendor_is(t, "GenuineIntel"))
		return;
	raise_limit(t, 0, 0x16);
	set(t, 0x15, 0, 0, (u32[]){APIC_BUS_KHZ, khz, APIC_BUS_KHZ * 1000, 0});
	set(t, 0x16, 0, 0, (u32[]){mhz, mhz, 0, 0});
}

/* Another hypervisor's leaves, where the host itself is a guest, are not ours to show. */
static void hypervisor_leaves(struct table *t)
{
	const struct kvm_cpuid_entry2 *e = find(t, HYPERVISOR_FEATURES, 0);
	u32 regs[4] = {0}, name[3];
	u32 limit = t->config->tsc_khz ? HYPERVISOR_TIMING : HYPERVISOR_FEATURES;

	if (e) {
		regs[0] = e->eax;
		regs[3] = e->edx;
	}
	drop(t, HYPERVISOR_BASE, HYPERVISOR_BASE + 0xfff);
	memcpy(name, "KVMKVMKVM\0\0\0", sizeof(name));
	set(t, HYPERVISOR_BASE, 0, 0, (u32[]){limit, name[0], name[1], name[2]});
	set(t, HYPERVISOR_FEATURES, 0, 0, regs);
	if (t->config->tsc_khz)
		set(t, HYPERVISOR_TIMING, 0, 0, (u32[]){t->config->tsc_khz, APIC_BUS_KHZ, 0, 0});
}

int cpuid_make(const struct kvm_cpuid2 *supported, const struct cpuid_config *config, u32 n,
	       struct kvm_cpuid2 *out, struct err *err)
{
	const struct cpu_topology *topology = &config->topology;
	struct table t = {.out = out, .max = out->nent, .config = config};

	if (!topology_valid(topology) || n >= cpu_topology_count(topology))
		return err_set(err, EINVAL,
			       "--cpus: %u sockets of %u cores of %u threads; a guest has 1 to %d "
			       "vCPUs",
			       topology->sockets, topology->cores, topology->threads,
			       CPUID_MAX_CPUS);
	if (supported->nent > out->nent)
		return err_set(err, E2BIG, "the CPUID table has no room");
	t.thread_bits = bits_for(topology->threads);
	t.core_bits = bits_for(topology->cores);
	t.core = n / topology->threads % topology->cores;
	t.socket = n / topology->threads / topology->cores;
	t.apic_id = cpu_topology_apic_id(topology, n);
	out->nent = supported->nent;
	memcpy(out->entries, supported->entries, supported->nent * sizeof(out->entries[0]));

	leaf_1(&t);
	cache_leaves(&t, 4, true);
	topology_leaves(&t);
	if (is_amd(&t))
		amd_leaves(&t);
	hide_nested(&t);
	hide_invariant_tsc(&t);
	frequency_leaves(&t);
	hypervisor_leaves(&t);
	return t.full ? err_set(err, E2BIG, "the CPUID table has no room") : 0;
}

unsigned int cpuid_phys_bits(const struct kvm_cpuid2 *table)
{
	const struct kvm_cpuid_entry2 *e = cpuid_lookup(table, 0x80000008, 0);
	unsigned int bits, guest;

	if (!e)
		return 36;
	bits = e->eax & 0xff;
	/* What nested paging reaches may be less than what the guest's page tables hold. */
	guest = (e->eax >> 16) & 0xff;
	if (guest && guest < bits)
		bits = guest;
	return min(max(bits, 36u), 52u);
}
