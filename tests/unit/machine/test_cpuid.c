#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/cpuid.h"

#define ENTRIES 64

struct tables {
	struct kvm_cpuid2 *supported, *out;
	struct err err;
};

static struct kvm_cpuid2 *table_new(void)
{
	struct kvm_cpuid2 *t =
		calloc(1, sizeof(*t) + (ENTRIES + CPUID_EXTRA) * sizeof(t->entries[0]));

	assert_non_null(t);
	return t;
}

static void add(struct kvm_cpuid2 *t, u32 function, u32 index, u32 flags, u32 a, u32 b, u32 c,
		u32 d)
{
	t->entries[t->nent++] = (struct kvm_cpuid_entry2){function, index, flags, a, b, c, d, {0}};
}

static u32 word(const char *text)
{
	u32 v;

	memcpy(&v, text, 4);
	return v;
}

/* What a KVM host says, cut down to what matters here. */
static void tables_open(struct tables *t, bool amd)
{
	struct kvm_cpuid2 *s = t->supported = table_new();

	t->out = table_new();
	if (amd)
		add(s, 0, 0, 0, 0xd, word("Auth"), word("cAMD"), word("enti"));
	else
		add(s, 0, 0, 0, 0x1f, word("Genu"), word("ntel"), word("ineI"));
	/* Some host CPU's APIC id and count, HTT, VMX. */
	add(s, 1, 0, 0, 0x806f8, 0x33400800, 0x80200020 | 1 << 5, 1 << 28);
	add(s, 0xb, 0, 1, 7, 99, 0x100, 0x33);
	add(s, 0xb, 1, 1, 9, 99, 0x201, 0x33);
	if (!amd) {
		add(s, 4, 0, 1, 0xfc004121, 0, 0, 0);
		add(s, 4, 3, 1, 0xfc1fc163, 0, 0, 0);
		add(s, 4, 4, 1, 0, 0, 0, 0);
		add(s, 0x1f, 0, 1, 7, 99, 0x100, 0x33);
	}
	add(s, 0x40000000, 0, 0, 0x40000002, word("MSFT"), 0, 0);
	add(s, 0x40000001, 0, 0, 0x01007efb, 5, 6, 0);
	add(s, 0x40000002, 0, 0, 1, 2, 3, 4);
	add(s, 0x80000000, 0, 0, 0x80000008, 0, 0, 0);
	add(s, 0x80000001, 0, 0, 0, 0, amd ? 1 << 22 | 1 << 2 : 0, 0);
	add(s, 0x80000008, 0, 0, 0x3028, 0, amd ? 0x403f : 0, 0);
	if (amd)
		add(s, 0x8000000a, 0, 0, 1, 2, 3, 4);
}

static void tables_close(struct tables *t)
{
	free(t->supported);
	free(t->out);
}

static int make(struct tables *t, const struct cpuid_config *config, u32 n)
{
	t->out->nent = ENTRIES + CPUID_EXTRA;
	return cpuid_make(t->supported, config, n, t->out, &t->err);
}

static const struct kvm_cpuid_entry2 *leaf(struct tables *t, u32 function, u32 index)
{
	const struct kvm_cpuid_entry2 *e = cpuid_lookup(t->out, function, index);

	assert_non_null(e);
	return e;
}

static void apic_ids(void **state)
{
	struct cpu_topology t = cpu_topology_simple(5);
	bool seen[4096] = {false};

	assert_int_equal(cpu_topology_count(&t), 5);
	for (u32 i = 0; i < 5; i++)
		assert_int_equal(cpu_topology_apic_id(&t, i), i);
	t = (struct cpu_topology){.sockets = 2, .cores = 3, .threads = 2};
	assert_int_equal(cpu_topology_apic_id(&t, 0), 0);
	assert_int_equal(cpu_topology_apic_id(&t, 5), 5);
	assert_int_equal(cpu_topology_apic_id(&t, 6), 8);
	t = (struct cpu_topology){.sockets = 5, .cores = 7, .threads = 3};
	for (u32 i = 0; i < cpu_topology_count(&t); i++) {
		u32 id = cpu_topology_apic_id(&t, i);

		assert_in_range(id, 0, ARRAY_SIZE(seen) - 1);
		assert_false(seen[id]);
		seen[id] = true;
	}
}

static void intel(void **state)
{
	const struct cpuid_config config = {
		.topology = {2, 3, 2}, .tsc_khz = 2600123, .tsc_deadline = true};
	struct tables t;

	tables_open(&t, false);
	assert_int_equal(make(&t, &config, 9), 0);
	/* vCPU 9: socket 1, core 1, thread 1 = 8 + 2 + 1 */
	assert_int_equal(leaf(&t, 1, 0)->ebx, 11u << 24 | 8 << 16 | 0x0800);
	assert_int_equal(leaf(&t, 1, 0)->ecx >> 31, 1);
	assert_int_equal(leaf(&t, 1, 0)->ecx & (1 << 5), 0);
	assert_int_equal(leaf(&t, 1, 0)->ecx & (1 << 24), 1 << 24);
	assert_int_equal(leaf(&t, 1, 0)->ecx & (1 << 21), 1 << 21);
	/* L1: the two threads of a core; L3: the package. Three cores take four ids. */
	assert_int_equal(leaf(&t, 4, 0)->eax, 0x121 | 1 << 14 | 3 << 26);
	assert_int_equal(leaf(&t, 4, 3)->eax, 0x163 | 7 << 14 | 3 << 26);
	assert_int_equal(leaf(&t, 4, 4)->eax, 0);
	for (u32 f = 0xb; f <= 0x1f; f += 0x14) {
		assert_int_equal(leaf(&t, f, 0)->eax, 1);
		assert_int_equal(leaf(&t, f, 0)->ebx, 2);
		assert_int_equal(leaf(&t, f, 0)->ecx, 0x100);
		assert_int_equal(leaf(&t, f, 1)->eax, 3);
		assert_int_equal(leaf(&t, f, 1)->ebx, 6);
		assert_int_equal(leaf(&t, f, 1)->ecx, 0x201);
		assert_int_equal(leaf(&t, f, 1)->edx, 11);
		assert_int_equal(leaf(&t, f, 2)->ecx, 2);
	}
	/* crystal * ratio = TSC */
	assert_int_equal((u64)leaf(&t, 0x15, 0)->ecx * leaf(&t, 0x15, 0)->ebx /
				 leaf(&t, 0x15, 0)->eax,
			 2600123000ULL);
	assert_int_equal(leaf(&t, 0x16, 0)->eax, 2600);
	tables_close(&t);
}

static void amd(void **state)
{
	const struct cpuid_config config = {.topology = {1, 4, 2}, .tsc_khz = 2600000};
	struct tables t;

	tables_open(&t, true);
	assert_int_equal(make(&t, &config, 5), 0);
	assert_int_equal(leaf(&t, 1, 0)->ebx >> 24, 5);
	assert_int_equal(leaf(&t, 1, 0)->ecx & (1 << 24), 0);
	assert_int_equal(leaf(&t, 0xb, 1)->ebx, 8);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ecx, 7 | 3 << 12);
	assert_int_equal(leaf(&t, 0x80000001, 0)->ecx, 1 << 22 | 1 << 1);
	assert_int_equal(leaf(&t, 0x80000000, 0)->eax, 0x8000001e);
	assert_int_equal(leaf(&t, 0x8000001e, 0)->eax, 5);
	assert_int_equal(leaf(&t, 0x8000001e, 0)->ebx, 2 | 1 << 8);
	assert_null(cpuid_lookup(t.out, 0x8000000a, 0));
	/* AMD has no such leaves; KVM's own says the frequency. */
	assert_null(cpuid_lookup(t.out, 0x15, 0));
	assert_null(cpuid_lookup(t.out, 0x1f, 0));
	assert_int_equal(leaf(&t, 0, 0)->eax, 0xd);
	tables_close(&t);
}

static void one_cpu(void **state)
{
	const struct cpuid_config config = {
		.topology = {1, 1, 1}, .no_x2apic = true, .nested = true};
	struct tables t;

	tables_open(&t, true);
	assert_int_equal(make(&t, &config, 0), 0);
	assert_int_equal(leaf(&t, 1, 0)->edx & (1 << 28), 0);
	assert_int_equal(leaf(&t, 1, 0)->ecx & (1 << 21), 0);
	assert_int_equal(leaf(&t, 1, 0)->ebx >> 16, 1);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ecx, 0);
	assert_int_equal(leaf(&t, 0x80000001, 0)->ecx, 1 << 22 | 1 << 2);
	assert_non_null(cpuid_lookup(t.out, 0x8000000a, 0));
	tables_close(&t);
}

static void hypervisor(void **state)
{
	struct cpuid_config config = {.topology = {1, 1, 1}, .tsc_khz = 2600000};
	struct tables t;

	tables_open(&t, true);
	assert_int_equal(make(&t, &config, 0), 0);
	assert_int_equal(leaf(&t, 0x40000000, 0)->eax, 0x40000010);
	assert_memory_equal(&leaf(&t, 0x40000000, 0)->ebx, "KVMKVMKVM\0\0\0", 12);
	assert_int_equal(leaf(&t, 0x40000001, 0)->eax, 0x01007efb);
	assert_int_equal(leaf(&t, 0x40000001, 0)->ebx, 0);
	assert_null(cpuid_lookup(t.out, 0x40000002, 0));
	assert_int_equal(leaf(&t, 0x40000010, 0)->eax, 2600000);
	assert_int_equal(leaf(&t, 0x40000010, 0)->ebx, 1000000);
	config.tsc_khz = 0;
	assert_int_equal(make(&t, &config, 0), 0);
	assert_int_equal(leaf(&t, 0x40000000, 0)->eax, 0x40000001);
	tables_close(&t);
}

static void limits(void **state)
{
	struct cpuid_config config = {.topology = {1, 256, 1}};
	struct tables t;
	const struct cpu_topology bad[] = {{0, 1, 1},	{1, 0, 1},	   {1, 1, 0},
					   {1, 257, 1}, {65536, 65536, 1}, {16, 17, 1}};

	tables_open(&t, true);
	assert_int_equal(make(&t, &config, 255), 0);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ecx, 255 | 8 << 12);
	assert_int_equal(leaf(&t, 1, 0)->ebx >> 16, 0xffff);
	assert_int_equal(make(&t, &config, 256), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		config.topology = bad[i];
		assert_int_equal(make(&t, &config, 0), -EINVAL);
	}
	config.topology = cpu_topology_simple(2);
	for (u32 room = 0; room < t.supported->nent + CPUID_EXTRA; room++) {
		t.out->nent = room;
		memset(t.out->entries + room, 0x5a, sizeof(t.out->entries[0]));
		if (cpuid_make(t.supported, &config, 0, t.out, &t.err))
			assert_true(room < t.supported->nent + CPUID_EXTRA);
		else
			assert_true(t.out->nent <= room);
		assert_int_equal(t.out->entries[room].function, 0x5a5a5a5a);
	}
	tables_close(&t);
}

static void phys_bits(void **state)
{
	struct tables t;

	tables_open(&t, true);
	assert_int_equal(cpuid_phys_bits(t.supported), 40);
	t.supported->entries[t.supported->nent - 2].eax = 0x303034;
	assert_int_equal(cpuid_phys_bits(t.supported), 48);
	t.supported->entries[t.supported->nent - 2].eax = 0;
	assert_int_equal(cpuid_phys_bits(t.supported), 36);
	t.supported->nent = 1;
	assert_int_equal(cpuid_phys_bits(t.supported), 36);
	tables_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(apic_ids),  cmocka_unit_test(intel),	   cmocka_unit_test(amd),
		cmocka_unit_test(one_cpu),   cmocka_unit_test(hypervisor), cmocka_unit_test(limits),
		cmocka_unit_test(phys_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
