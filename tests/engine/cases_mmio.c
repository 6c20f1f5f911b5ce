/* Memory: the three classes (RAM with a dirty log, trapped, coalesced), read-only and changing
 * slots, and doorbells. */
#include "cases.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/endian.h"

/* ---- trapped ---- */

static bool mmio_plain(struct rig *r)
{
	TRY(want_write(r, RIG_MMIO, 1, 0x11));
	TRY(want_write(r, RIG_MMIO + 2, 2, 0x2211));
	TRY(want_write(r, RIG_MMIO + 4, 4, 0x44332211));
	TRY(want_read(r, RIG_MMIO + 8, 1, 0x99));
	TRY(want_out(r, 0x510, 4, 0xaabbcc99));
	TRY(want_read(r, RIG_MMIO + 10, 2, 0x7788));
	TRY(want_out(r, 0x510, 4, 0xaabb7788));
	TRY(want_read(r, RIG_MMIO + 12, 4, 0x12345678));
	TRY(want_out(r, 0x510, 4, 0x12345678));
	TRY(want_read(r, RIG_MMIO + 16, 1, 0xfe));
	return want_out(r, 0x510, 4, 0xfe);
}

static bool mmio_modify(struct rig *r)
{
	TRY(want_read(r, RIG_MMIO + 20, 2, 0x00ff));
	TRY(want_write(r, RIG_MMIO + 20, 2, 0x0100));
	TRY(want_read(r, RIG_MMIO + 21, 1, 0x01));
	TRY(want_write(r, RIG_MMIO + 21, 1, 0x81));
	TRY(want_read(r, RIG_MMIO + 22, 1, 0x33));
	TRY(want_write(r, RIG_MMIO + 22, 1, 0x5a));
	return want_out(r, 0x510, 1, 0x33);
}

static bool mmio_strings(struct rig *r)
{
	for (int i = 0; i < 3; i++)
		TRY(want_write(r, RIG_MMIO + 32 + (u64)i, 1, 0x77));
	TRY(want_read(r, RIG_MMIO + 48, 2, 0xbeef));
	TRY(want_out(r, 0x510, 2, 0xbeef));
	TRY(want_read(r, RIG_MMIO + 50, 2, 0xcafe));
	return want_write(r, RIG_MMIO + 60, 2, 0xcafe);
}

bool case_mmio(struct rig *r)
{
	TRY(mmio_plain(r));
	TRY(mmio_modify(r));
	TRY(mmio_strings(r));
	TRY(want_write(r, RIG_MMIO + 0xffe, 2, 0x2211));
	TRY(want_write(r, RIG_MMIO + 0x1000, 2, 0x4433));
	return want_hlt(r);
}

bool case_mmio64(struct rig *r)
{
	TRY(want_write(r, RIG_MMIO, 8, 0x8877665544332211));
	TRY(want_read(r, RIG_MMIO + 8, 8, 0x1122334455667788));
	TRY(want_out(r, 0x510, 4, 0x55667788));
	TRY(want_out(r, 0x510, 4, 0x11223344));
	TRY(want_read(r, RIG_MMIO + 16, 1, 0x80));
	TRY(want_out(r, 0x510, 4, 0xffffff80));
	TRY(want_out(r, 0x510, 4, 0xffffffff));
	TRY(want_read(r, RIG_MMIO + 20, 4, 0xdeadbeef));
	TRY(want_out(r, 0x510, 4, 0));
	TRY(want_write(r, 0xffe00000, 1, 0x42));
	TRY(want_read(r, 0xffe00001, 1, 0x42));
	TRY(want_out(r, 0x510, 1, 1));
	return want_hlt(r);
}

/* ---- coalesced ---- */

bool ring_open(struct rig *r, struct ring *ring)
{
	int page = engine_vm_has(&r->vm, KVM_CAP_COALESCED_MMIO);

	if (page <= 0)
		return rig_skip(r, "this engine has no coalesced MMIO");
	EXPECT(r, (size_t)(page + 1) * PAGE_SIZE <= r->run_size);
	ring->ring = (void *)((u8 *)r->run + (size_t)page * PAGE_SIZE);
	ring->max = KVM_COALESCED_MMIO_MAX;
	return true;
}

bool ring_empty(const struct ring *ring)
{
	return ring->ring->first == ring->ring->last;
}

bool ring_take(struct rig *r, struct ring *ring, bool pio, u64 addr, u32 len, u64 value)
{
	const struct kvm_coalesced_mmio *e;

	EXPECT(r, !ring_empty(ring));
	e = &ring->ring->coalesced_mmio[ring->ring->first];
	if (e->phys_addr != addr || e->len != len || e->pio != pio ||
	    load_le(e->data, len) != value)
		return rig_fail(r,
				"expected 0x%llx len %u data 0x%llx in the ring, got 0x%llx len %u "
				"data 0x%llx pio %u",
				(unsigned long long)addr, len, (unsigned long long)value,
				e->phys_addr, e->len, (unsigned long long)load_le(e->data, 4),
				e->pio);
	ring->ring->first = (ring->ring->first + 1) % ring->max;
	return true;
}

/*
 * 200 writes of 200 to 1. How many fit the ring is the engine's business (at most one less than it
 * has places); none is lost, and the order is kept.
 */
static bool overflow(struct rig *r, struct ring *ring)
{
	u32 next = 200, exits = 0;

	while (next) {
		TRY(rig_enter(r));
		while (!ring_empty(ring))
			TRY(ring_take(r, ring, false, RIG_ZONE + 8, 2, next--));
		if (r->run->exit_reason != KVM_EXIT_MMIO)
			break;
		exits++;
		EXPECT(r, r->run->mmio.is_write && r->run->mmio.phys_addr == RIG_ZONE + 8);
		EXPECT(r, load_le16(r->run->mmio.data) == next);
		next--;
	}
	EXPECT(r, next == 0);
	EXPECT(r, exits >= 1 && exits <= 3);
	/* The loop above may have entered past the last write, or not. */
	if (r->run->exit_reason == KVM_EXIT_IO)
		return true;
	return want_out(r, 0x500, 1, 0x66);
}

bool case_coalesced(struct rig *r)
{
	struct kvm_coalesced_mmio_zone zone = {.addr = RIG_ZONE, .size = 0x100};
	struct ring ring;

	TRY(ring_open(r, &ring));
	EXPECT(r, !rig_vm_ioctl(r, KVM_REGISTER_COALESCED_MMIO, &zone));
	TRY(want_out(r, 0x500, 1, 0));
	TRY(ring_take(r, &ring, false, RIG_ZONE, 1, 0x11));
	TRY(ring_take(r, &ring, false, RIG_ZONE + 2, 2, 0x2211));
	TRY(ring_take(r, &ring, false, RIG_ZONE + 0xfc, 4, 0x44332211));
	EXPECT(r, ring_empty(&ring));
	TRY(want_read(r, RIG_ZONE + 4, 1, 0x66));
	TRY(want_out(r, 0x500, 1, 0x66));
	TRY(want_write(r, RIG_ZONE + 0x100, 1, 0x55));
	EXPECT(r, ring_empty(&ring));
	TRY(overflow(r, &ring));
	TRY(want_hlt(r));
	/* Without the zone the first write exits. */
	EXPECT(r, !rig_vm_ioctl(r, KVM_UNREGISTER_COALESCED_MMIO, &zone));
	TRY(rig_restart(r));
	return want_write(r, RIG_ZONE, 1, 0x11);
}

struct switcher {
	struct rig *r;
	u32 stop, switches;
	bool failed;
};

/* Now a zone, now none. */
static void *switch_zone(void *arg)
{
	struct kvm_coalesced_mmio_zone zone = {.addr = RIG_ZONE + 8, .size = 4};
	struct switcher *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		s->failed |= rig_vm_ioctl(s->r, KVM_REGISTER_COALESCED_MMIO, &zone) ||
			     rig_vm_ioctl(s->r, KVM_UNREGISTER_COALESCED_MMIO, &zone);
		__atomic_add_fetch(&s->switches, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Queued or not, each write arrives once, and in its turn. */
static bool follow(struct rig *r, struct ring *ring, u32 *next)
{
	do {
		TRY(rig_enter(r));
		while (!ring_empty(ring))
			TRY(ring_take(r, ring, false, RIG_ZONE + 8, 4, (*next)++));
		if (r->run->exit_reason == KVM_EXIT_IO)
			return true;
		EXPECT(r, r->run->exit_reason == KVM_EXIT_MMIO && r->run->mmio.is_write);
		EXPECT(r, r->run->mmio.phys_addr == RIG_ZONE + 8 && r->run->mmio.len == 4);
		EXPECT(r, load_le32(r->run->mmio.data) == *next);
		++*next;
	} while (true);
}

bool case_coalesced_switch(struct rig *r)
{
	struct switcher s = {.r = r};
	pthread_t thread;
	struct ring ring;
	u32 next = 1;
	bool ok;

	TRY(ring_open(r, &ring));
	EXPECT(r, !pthread_create(&thread, NULL, switch_zone, &s));
	while (!__atomic_load_n(&s.switches, __ATOMIC_ACQUIRE))
		sched_yield();
	ok = follow(r, &ring, &next);
	__atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	TRY(ok);
	EXPECT(r, !s.failed && next == 8001);
	return want_hlt(r);
}

/* ---- RAM-backed ---- */

/* `may`: pages that were only read, which an engine may report the first time. */
static bool want_dirty(struct rig *r, u64 pages, u64 may)
{
	u64 bitmap = 0;
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = &bitmap};

	EXPECT(r, !rig_vm_ioctl(r, KVM_GET_DIRTY_LOG, &log));
	return (bitmap & ~may) == pages ||
	       rig_fail(r, "expected dirty pages 0x%llx, got 0x%llx", (unsigned long long)pages,
			(unsigned long long)bitmap);
}

bool case_dirty_log(struct rig *r)
{
	TRY(rig_slot(r, RIG_LOGGED, 0x10000, KVM_MEM_LOG_DIRTY_PAGES));
	r->extra[0xc000] = 0x3c;
	TRY(want_out(r, 0x500, 1, 0x3c));
	TRY(want_dirty(r, 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7, 1 << 12));
	TRY(want_dirty(r, 0, 0));
	EXPECT(r, r->extra[0x1000] == 1 && r->extra[0x3ffe] == 2 && r->extra[0x6ffe] == 3);
	TRY(want_out(r, 0x500, 1, 0x3c));
	TRY(want_dirty(r, 1 << 0 | 1 << 15, 0));
	TRY(want_hlt(r));
	TRY(want_dirty(r, 1 << 1, 0));
	EXPECT(r, r->extra[0] == 4 && r->extra[0xffff] == 5 && r->extra[0x1001] == 6);
	return true;
}

bool case_readonly(struct rig *r)
{
	TRY(rig_need(r, KVM_CAP_READONLY_MEM, "read-only slots"));
	TRY(rig_slot(r, RIG_ROM, 0x10000, KVM_MEM_READONLY));
	store_le16(r->extra + 0x10, 0x1234);
	TRY(want_out(r, 0x510, 2, 0x1234));
	TRY(want_write(r, RIG_ROM + 0x10, 2, 0xffff));
	TRY(want_out(r, 0x510, 2, 0x1234));
	EXPECT(r, load_le16(r->extra + 0x10) == 0x1234);
	return want_hlt(r);
}

bool case_slots(struct rig *r)
{
	TRY(rig_slot(r, RIG_LOGGED, 0x10000, 0));
	r->extra[0x10] = 1;
	TRY(want_out(r, 0x500, 1, 1));
	TRY(rig_slot(r, RIG_LOGGED, 0, 0));
	TRY(want_read(r, RIG_LOGGED + 0x10, 1, 0x77));
	TRY(want_out(r, 0x500, 1, 0x77));
	TRY(rig_slot(r, RIG_LOGGED, 0x10000, 0));
	r->extra[0x10] = 3;
	TRY(want_out(r, 0x500, 1, 3));
	return want_hlt(r);
}

/* ---- doorbells ---- */

struct bell {
	u64 addr;
	u32 len;
	bool pio, match;
	u64 value;
	int fd;
};

static int bell_set(struct rig *r, struct bell *b, bool on)
{
	struct kvm_ioeventfd io = {
		.datamatch = b->value, .addr = b->addr, .len = b->len, .fd = b->fd};

	io.flags = (b->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
		   (b->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
		   (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN);
	return rig_vm_ioctl(r, KVM_IOEVENTFD, &io);
}

static u64 bell_count(const struct bell *b)
{
	u64 count = 0;

	return read(b->fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

bool case_doorbell(struct rig *r)
{
	struct bell bells[] = {
		{0x550, 2, true, false, 0, -1},		{0x554, 2, true, true, 3, -1},
		{RIG_MMIO, 4, false, false, 0, -1},	{RIG_MMIO + 4, 4, false, true, 3, -1},
		{RIG_MMIO + 8, 0, false, false, 0, -1},
	};

	TRY(rig_need(r, KVM_CAP_IOEVENTFD_ANY_LENGTH, "doorbells of any length"));
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++) {
		bells[i].fd = eventfd(0, EFD_NONBLOCK);
		EXPECT(r, bells[i].fd >= 0);
		EXPECT(r, !bell_set(r, &bells[i], true));
	}
	TRY(want_out(r, 0x550, 1, 9));
	EXPECT(r, bell_count(&bells[0]) == 2);
	TRY(want_out(r, 0x554, 2, 4));
	TRY(want_in(r, 0x554, 2, 0x1234));
	TRY(want_out(r, 0x500, 1, 0x34));
	EXPECT(r, bell_count(&bells[1]) == 1);
	TRY(want_write(r, RIG_MMIO + 4, 4, 4));
	TRY(want_out(r, 0x500, 1, 0x34));
	EXPECT(r, bell_count(&bells[2]) == 2);
	EXPECT(r, bell_count(&bells[3]) == 1);
	EXPECT(r, bell_count(&bells[4]) == 2);
	TRY(want_hlt(r));
	/* Taken away, the write exits again; what is not there cannot be taken away. */
	EXPECT(r, !bell_set(r, &bells[0], false));
	EXPECT(r, bell_set(r, &bells[0], false) == -2 /* ENOENT */);
	TRY(rig_restart(r));
	TRY(want_out(r, 0x550, 2, 7));
	for (size_t i = 0; i < ARRAY_SIZE(bells); i++)
		close(bells[i].fd);
	return true;
}
