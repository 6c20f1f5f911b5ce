/* Memory slots and dirty logging: api.rst, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG,
 * KVM_CLEAR_DIRTY_LOG. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api_rig.h"
#include "os/thread.h"

#define PAGES 128

static u8 *pages_new(void)
{
	return mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
}

static int set(struct api_rig *rig, u32 slot, u32 flags, u64 gpa, u64 size, const void *hva)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (u64)(uintptr_t)hva,
	};

	return VM(KVM_SET_USER_MEMORY_REGION, &r);
}

static void test_validation(void **state)
{
	struct api_rig *rig = *state;
	u8 *p = pages_new();

	assert_int_equal(set(rig, 1, 0x80, 1 * MiB, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, 1 * MiB + 1, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, 1 * MiB, PAGE_SIZE - 1, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, 1 * MiB, PAGE_SIZE, p + 8), -EINVAL);
	assert_int_equal(set(rig, 1u << 16, 0, 1 * MiB, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 0x7fff, 0, 1 * MiB, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, ~0ULL << 12, 2 * PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, 1ULL << 60, PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, 1 * MiB, 0, p), -EINVAL); /* delete what is not there */
	munmap(p, PAGES * PAGE_SIZE);
}

static void test_life(void **state)
{
	struct api_rig *rig = *state;
	u8 *p = pages_new();

	assert_int_equal(set(rig, 1, 0, 1 * MiB, 4 * PAGE_SIZE, p), 0);
	assert_int_equal(set(rig, 1, 0, 1 * MiB, 4 * PAGE_SIZE, p), 0); /* nothing changes */
	/* Size and host address are fixed, and so is being read-only. */
	assert_int_equal(set(rig, 1, 0, 1 * MiB, 5 * PAGE_SIZE, p), -EINVAL);
	assert_int_equal(set(rig, 1, 0, 1 * MiB, 4 * PAGE_SIZE, p + PAGE_SIZE), -EINVAL);
	assert_int_equal(set(rig, 1, KVM_MEM_READONLY, 1 * MiB, 4 * PAGE_SIZE, p), -EINVAL);
	/* Overlaps, from either side and inside. */
	assert_int_equal(set(rig, 2, 0, 1 * MiB - PAGE_SIZE, 2 * PAGE_SIZE, p), -EEXIST);
	assert_int_equal(set(rig, 2, 0, 1 * MiB + 3 * PAGE_SIZE, 2 * PAGE_SIZE, p), -EEXIST);
	assert_int_equal(set(rig, 2, 0, 1 * MiB + PAGE_SIZE, PAGE_SIZE, p), -EEXIST);
	assert_int_equal(set(rig, 2, 0, 1 * MiB + 4 * PAGE_SIZE, PAGE_SIZE, p), 0);
	/* Move: onto another is refused, over itself is fine. */
	assert_int_equal(set(rig, 1, 0, 1 * MiB + PAGE_SIZE, 4 * PAGE_SIZE, p), -EEXIST);
	assert_int_equal(set(rig, 1, 0, 1 * MiB - PAGE_SIZE, 4 * PAGE_SIZE, p), 0);
	assert_int_equal(set(rig, 1, 0, 0, 0, NULL), 0);
	assert_int_equal(set(rig, 1, 0, 0, 0, NULL), -EINVAL);
	assert_int_equal(set(rig, 3, 0, 1 * MiB, 4 * PAGE_SIZE, p), 0);
	munmap(p, PAGES * PAGE_SIZE);
}

/* mov es, ax; mov byte [es:n * 4096], bl for two pages; hlt */
static void load_writer(struct api_rig *rig)
{
	RIG_LOAD(rig, 0xb8, 0x00, 0x40,		     /* mov ax, 0x4000 */
		 0x8e, 0xc0,			     /* mov es, ax: 0x40000 */
		 0x26, 0xc6, 0x06, 0x00, 0x10, 0x5a, /* mov byte [es:0x1000], 0x5a */
		 0x26, 0xc6, 0x06, 0x08, 0x50, 0xa5, /* mov byte [es:0x5008], 0xa5 */
		 0xf4);
}

static void test_dirty_log(void **state)
{
	struct api_rig *rig = *state;
	u64 map[PAGES / 64] = {0};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = map};
	u8 *p = pages_new();

	assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), -ENOENT);
	assert_int_equal(set(rig, 1, 0, 0x40000, PAGES * PAGE_SIZE, p), 0);
	assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), -ENOENT);
	assert_int_equal(set(rig, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x40000, PAGES * PAGE_SIZE, p), 0);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(map[0], 0);
		load_writer(rig);
		assert_int_equal(rig_run(rig), 0);
		assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
		assert_int_equal(p[0x1000], 0x5a);
		assert_int_equal(p[0x5008], 0xa5);
		assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(map[0], 0x22);
		assert_int_equal(map[1], 0);
	}
	log.slot = 0x8000;
	assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), -EINVAL);
	munmap(p, PAGES * PAGE_SIZE);
}

static int clear(struct api_rig *rig, u64 first, u32 count, u64 *map)
{
	struct kvm_clear_dirty_log c = {
		.slot = 1, .first_page = first, .num_pages = count, .dirty_bitmap = map};

	return VM(KVM_CLEAR_DIRTY_LOG, &c);
}

static void test_manual_protect(void **state)
{
	struct api_rig *rig = *state;
	u64 map[PAGES / 64] = {0}, one[PAGES / 64] = {0x2};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {2}};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = map};
	u8 *p = pages_new();

	assert_int_equal(VM(KVM_ENABLE_CAP, &cap), -EINVAL); /* initially set needs manual */
	cap.args[0] = 1;
	assert_int_equal(VM(KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(set(rig, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x40000, PAGES * PAGE_SIZE, p), 0);
	load_writer(rig);
	assert_int_equal(rig_run(rig), 0);
	for (int i = 0; i < 2; i++) { /* reading does not clear */
		assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(map[0], 0x22);
	}
	assert_int_equal(clear(rig, 1, 64, one), -EINVAL);
	assert_int_equal(clear(rig, 0, 65, one), -EINVAL);
	assert_int_equal(clear(rig, 128, 64, one), -EINVAL);
	assert_int_equal(clear(rig, 0, 64, one), 0);
	assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(map[0], 0x20);
	/* The cleared page is watched again, without a read of the log in between. */
	load_writer(rig);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(map[0], 0x22);
	munmap(p, PAGES * PAGE_SIZE);
}

static void test_initially_set(void **state)
{
	struct api_rig *rig = *state;
	u64 map[PAGES / 64] = {0};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {3}};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = map};
	u8 *p = pages_new();

	assert_int_equal(VM(KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(set(rig, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x40000, PAGES * PAGE_SIZE, p), 0);
	assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
	assert_true(map[0] == ~0ULL && map[1] == ~0ULL);
	munmap(p, PAGES * PAGE_SIZE);
}

/* A write to a read-only slot is an MMIO exit; a read is none. */
static void test_read_only(void **state)
{
	struct api_rig *rig = *state;
	u8 *p = pages_new();

	memset(p, 0x11, PAGES * PAGE_SIZE);
	assert_int_equal(set(rig, 1, KVM_MEM_READONLY, 0x40000, PAGES * PAGE_SIZE, p), 0);
	RIG_LOAD(rig, 0xb8, 0x00, 0x40, 0x8e, 0xc0, /* es = 0x4000 */
		 0x26, 0xa0, 0x00, 0x10,	    /* mov al, [es:0x1000] */
		 0xe6, 0x10,			    /* out 0x10, al */
		 0x26, 0xa2, 0x00, 0x20,	    /* mov [es:0x2000], al */
		 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(*((u8 *)rig->run + rig->run->io.data_offset), 0x11);
	p[0x2000] = 0x77;
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(rig->run->mmio.is_write, 1);
	assert_int_equal(rig->run->mmio.len, 1);
	assert_int_equal(rig->run->mmio.phys_addr, 0x42000);
	assert_int_equal(p[0x2000], 0x77);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
	munmap(p, PAGES * PAGE_SIZE);
}

/* What the guest sees follows a slot that is taken away, put elsewhere, and replaced. */
static void test_contents_follow(void **state)
{
	struct api_rig *rig = *state;
	u8 *a = pages_new(), *b = pages_new();

	a[0] = 1;
	b[0] = 2;
	for (int round = 0; round < 2; round++) {
		assert_int_equal(set(rig, 1, 0, 0x40000, PAGE_SIZE, round ? b : a), 0);
		RIG_LOAD(rig, 0xb8, 0x00, 0x40, 0x8e, 0xc0, 0x26, 0xa0, 0x00, 0x00, 0xe6, 0x10,
			 0xf4);
		assert_int_equal(rig_run(rig), 0);
		assert_int_equal(rig->run->exit_reason, KVM_EXIT_IO);
		assert_int_equal(*((u8 *)rig->run + rig->run->io.data_offset), round + 1);
		assert_int_equal(set(rig, 1, 0, 0, 0, NULL), 0);
	}
	RIG_LOAD(rig, 0xb8, 0x00, 0x40, 0x8e, 0xc0, 0x26, 0xa0, 0x00, 0x00, 0xf4);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(rig->run->mmio.phys_addr, 0x40000);
	assert_int_equal(rig->run->mmio.is_write, 0);
	munmap(a, PAGES * PAGE_SIZE);
	munmap(b, PAGES * PAGE_SIZE);
}

struct runner {
	struct api_rig *rig;
	struct thread thread;
	int rc;
};

static void *run_main(void *arg)
{
	struct runner *r = arg;

	while (!__atomic_load_n(&r->rig->run->immediate_exit, __ATOMIC_ACQUIRE))
		r->rc = r->rig->engine->ioctl(r->rig->vcpu, KVM_RUN, 0);
	return NULL;
}

static void runner_stop(struct runner *r)
{
	__atomic_store_n(&r->rig->run->immediate_exit, 1, __ATOMIC_RELEASE);
	thread_kick(&r->thread);
	thread_join(&r->thread);
	r->rig->run->immediate_exit = 0;
}

/* Wait until the guest has written, which it does all the time (and not in C's memory model). */
__attribute__((no_sanitize("thread"))) static void wait_for_change(const volatile u8 *p)
{
	u8 before = *p;

	for (int i = 0; i < 10000; i++) {
		if (*p != before)
			return;
		usleep(1000);
	}
	fail_msg("the guest stands still");
}

/*
 * The guest counts in a page without a pause. A page that is written after its bit was taken must
 * be reported by the next reading, and slots that come and go must not disturb it.
 */
static void test_log_while_running(void **state)
{
	struct api_rig *rig = *state;
	u64 map[PAGES / 64] = {0};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = map};
	struct runner r = {.rig = rig};
	u8 *p = pages_new(), *q = pages_new();

	assert_int_equal(set(rig, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x40000, PAGES * PAGE_SIZE, p), 0);
	RIG_LOAD(rig, 0xb8, 0x00, 0x40, 0x8e, 0xc0, /* es = 0x4000 */
		 0x26, 0xfe, 0x06, 0x00, 0x30,	    /* 1: inc byte [es:0x3000] */
		 0xeb, 0xf9);			    /* jmp 1b */
	assert_int_equal(thread_start(&r.thread, THREAD_VCPU, "vcpu", run_main, &r), 0);
	for (int i = 0; i < 200; i++) {
		wait_for_change(&p[0x3000]);
		assert_int_equal(VM(KVM_GET_DIRTY_LOG, &log), 0);
		assert_int_equal(map[0], 8);
		assert_int_equal(map[1], 0);
		assert_int_equal(set(rig, 2, 0, 1 * MiB, PAGE_SIZE * (1 + (u64)i % 4), q), 0);
		assert_int_equal(set(rig, 2, 0, 0, 0, NULL), 0);
	}
	/* The slot itself goes: the guest's next write exits. */
	assert_int_equal(set(rig, 1, 0, 0, 0, NULL), 0);
	runner_stop(&r);
	munmap(p, PAGES * PAGE_SIZE);
	munmap(q, PAGES * PAGE_SIZE);
}

/* A slot goes away during an exit of an instruction that reads from it. */
static void test_slot_gone_in_exit(void **state)
{
	struct api_rig *rig = *state;
	u8 *p = pages_new();

	p[0] = 0x77;
	assert_int_equal(set(rig, 1, 0, 0x40000, 2 * PAGE_SIZE, p), 0);
	RIG_LOAD(rig, 0xb8, 0x00, 0x40, 0x8e, 0xd8, /* ds: 0x40000 */
		 0xb8, 0x00, 0x90, 0x8e, 0xc0,	    /* es: 0x90000, where nothing is */
		 0x31, 0xf6, 0x31, 0xff, 0xa4, 0xf4 /* xor si, si; xor di, di; movsb; hlt */
	);
	assert_int_equal(rig_run(rig), 0);
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_MMIO);
	assert_int_equal(rig->run->mmio.phys_addr, 0x90000);
	assert_int_equal(rig->run->mmio.data[0], 0x77);
	assert_int_equal(set(rig, 1, 0, 0x40000, 0, NULL), 0);
	munmap(p, PAGES * PAGE_SIZE);
	/* The kernel has what it read; ours reads again, where nothing is any more. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(rig_run(rig), 0);
		if (rig->run->exit_reason != KVM_EXIT_MMIO)
			break;
		assert_int_equal(rig->run->mmio.phys_addr,
				 rig->run->mmio.is_write ? 0x90000 : 0x40000);
	}
	assert_int_equal(rig->run->exit_reason, KVM_EXIT_HLT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest memory[] = {
		T(test_validation),	   T(test_life),
		T(test_dirty_log),	   T(test_manual_protect),
		T(test_initially_set),	   T(test_read_only),
		T(test_contents_follow),   T(test_log_while_running),
		T(test_slot_gone_in_exit),
	};

	return RIG_MAIN(memory);
}
