#define _GNU_SOURCE
#include "device/virtio/driver.h"

#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

#define RAM_SIZE  (16 * MiB)
#define MMIO_BASE 0xd0000000ULL
#define MMIO_GSI  20
#define DEVFN	  (3 << 3)
#define AVAIL_BIT (1 << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1 << VRING_PACKED_DESC_F_USED)
#define MAX_TURNS 20000 /* of half a millisecond */

#define MODE(n, ...)                                                                               \
	{                                                                                          \
		.name = n, __VA_ARGS__                                                             \
	}

const struct driver_mode driver_modes[] = {
	MODE("pci split", .transport = DRIVER_PCI),
	MODE("pci split event-idx", .transport = DRIVER_PCI, .event_idx = true),
	MODE("pci packed", .transport = DRIVER_PCI, .packed = true),
	MODE("pci packed event-idx", .transport = DRIVER_PCI, .packed = true, .event_idx = true),
	MODE("pci-ports split event-idx indirect", .transport = DRIVER_PCI_PORTS, .event_idx = true,
	     .indirect = true),
	MODE("mmio split", .transport = DRIVER_MMIO),
	MODE("mmio split event-idx", .transport = DRIVER_MMIO, .event_idx = true),
	MODE("mmio packed", .transport = DRIVER_MMIO, .packed = true),
	MODE("mmio packed event-idx indirect", .transport = DRIVER_MMIO, .packed = true,
	     .event_idx = true, .indirect = true),
	MODE("legacy", .transport = DRIVER_LEGACY),
	MODE("legacy event-idx indirect", .transport = DRIVER_LEGACY, .event_idx = true,
	     .indirect = true),
};
const size_t driver_mode_count = ARRAY_SIZE(driver_modes);

static bool is_mmio(const struct driver *d)
{
	return d->mode->transport == DRIVER_MMIO;
}

static bool is_legacy(const struct driver *d)
{
	return d->mode->transport == DRIVER_LEGACY;
}

/* ---- finding the device ---- */

static u64 bar_base(struct driver *d, u8 bar)
{
	u32 lo = harness_config_read(d->h, DEVFN, (u16)(0x10 + 4 * bar), 4);

	if (lo & 1)
		return lo & ~3u;
	if ((lo & 6) == 4)
		return (lo & ~15u) | (u64)harness_config_read(d->h, DEVFN, (u16)(0x14 + 4 * bar), 4)
					     << 32;
	return lo & ~15u;
}

/* Walks the list as a driver does: the first capability of a kind that suits it. */
static void find_caps(struct driver *d)
{
	u8 at = (u8)harness_config_read(d->h, DEVFN, 0x34, 1);
	int steps = 0;

	for (; at; at = (u8)harness_config_read(d->h, DEVFN, at + 1, 1)) {
		u8 type = (u8)harness_config_read(d->h, DEVFN, at + 3, 1);
		u8 bar = (u8)harness_config_read(d->h, DEVFN, at + 4, 1);
		u64 addr = bar_base(d, bar) + harness_config_read(d->h, DEVFN, at + 8, 4);
		bool io = harness_config_read(d->h, DEVFN, (u16)(0x10 + 4 * bar), 4) & 1;

		assert_true(++steps < 40);
		if (harness_config_read(d->h, DEVFN, at, 1) != 9)
			continue;
		if (type == VIRTIO_PCI_CAP_COMMON_CFG)
			d->common = addr;
		else if (type == VIRTIO_PCI_CAP_ISR_CFG)
			d->isr = addr;
		else if (type == VIRTIO_PCI_CAP_DEVICE_CFG)
			d->config = addr;
		else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG && !io)
			d->notify = addr;
		else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
			d->ports = addr;
	}
	assert_true(d->common && d->isr && d->notify);
}

static void open_pci(struct driver *d, const struct virtio_class *class, const void *config)
{
	const struct virtio_pci_config c = {
		.class = class,
		.config = config,
		.slot = DEVFN >> 3,
		.transitional = d->mode->transport == DRIVER_LEGACY,
	};

	harness_pci(d->h);
	d->device = harness_device(d->h, &virtio_pci_class, "virtio0", &c);
	d->virtio = virtio_pci_device(d->device);
	harness_pci_assign(d->h);
	/* memory, ports, bus master */
	harness_config_write(d->h, DEVFN, 4, 2, 7);
	d->devfn = DEVFN;
	find_caps(d);
	if (c.transitional)
		d->legacy = bar_base(d, 0);
}

static void open_mmio(struct driver *d, const struct virtio_class *class, const void *config)
{
	const struct virtio_mmio_config c = {
		.class = class, .config = config, .base = MMIO_BASE, .gsi = MMIO_GSI};

	d->device = harness_device(d->h, &virtio_mmio_class, "virtio0", &c);
	d->virtio = virtio_mmio_device(d->device);
	assert_int_equal(harness_read(d->h, MMIO_BASE, 4), 0x74726976);
	assert_int_equal(harness_read(d->h, MMIO_BASE + 4, 4), 2);
	assert_int_equal(harness_read(d->h, MMIO_BASE + 8, 4), class->id);
	d->common = MMIO_BASE;
	d->config = MMIO_BASE + VIRTIO_MMIO_CONFIG;
}

void driver_open_bus(struct driver *d, const struct driver_mode *mode)
{
	memset(d, 0, sizeof(*d));
	d->mode = mode;
	d->h = harness_new(RAM_SIZE);
	d->next_page = 0x10000;
}

void driver_open_device(struct driver *d, const struct virtio_class *class, const void *config)
{
	if (is_mmio(d))
		open_mmio(d, class, config);
	else
		open_pci(d, class, config);
}

void driver_open(struct driver *d, const struct driver_mode *mode, const struct virtio_class *class,
		 const void *config)
{
	driver_open_bus(d, mode);
	driver_open_device(d, class, config);
}

void driver_close_devices(struct driver *d)
{
	bus_lock(d->h->bus);
	devices_free(d->h->bus);
	bus_unlock(d->h->bus);
}

void driver_close(struct driver *d)
{
	harness_free(d->h);
}

static bool is_drained(void *ctx)
{
	struct driver *d = ctx;
	bool drained;

	bus_lock(d->h->bus);
	drained = devices_drained(d->h->bus);
	bus_unlock(d->h->bus);
	return drained;
}

static void pause_device(struct driver *d)
{
	bus_lock(d->h->bus);
	devices_pause(d->h->bus);
	bus_unlock(d->h->bus);
	assert_true(driver_until(d, is_drained, d));
}

static void save_device(struct driver *d, struct str *saved)
{
	bus_lock(d->h->bus);
	if (state_save(d->device->class->state, d->device, saved))
		fail_msg("%s: cannot be saved", d->mode->name);
	bus_unlock(d->h->bus);
}

static void load_device(struct driver *d, const struct str *saved)
{
	struct str again = {0};
	struct err err;

	pause_device(d);
	bus_lock(d->h->bus);
	if (state_load(d->device->class->state, d->device, saved->text, saved->len, &err))
		fail_msg("%s: %s", d->mode->name, err.text);
	bus_unlock(d->h->bus);
	save_device(d, &again);
	assert_int_equal(again.len, saved->len);
	assert_memory_equal(again.text, saved->text, saved->len);
	str_free(&again);
	bus_lock(d->h->bus);
	devices_resume(d->h->bus);
	bus_unlock(d->h->bus);
}

/* The pages that were ever touched, one after the other, and which ones they are. */
struct ram_copy {
	unsigned char touched[RAM_SIZE / PAGE_SIZE];
	u8 *pages;
};

static void copy_ram(struct driver *d, struct ram_copy *c, bool back)
{
	u8 *ram = harness_ram(d->h, 0, RAM_SIZE), *p;

	if (!back) {
		assert_int_equal(mincore(ram, RAM_SIZE, c->touched), 0);
		c->pages = malloc(RAM_SIZE);
		assert_non_null(c->pages);
	}
	p = c->pages;
	for (u32 i = 0; i < RAM_SIZE / PAGE_SIZE; i++) {
		if (!(c->touched[i] & 1))
			continue;
		memcpy(back ? ram + i * PAGE_SIZE : p, back ? p : ram + i * PAGE_SIZE, PAGE_SIZE);
		p += PAGE_SIZE;
	}
	if (back)
		free(c->pages);
}

void driver_move(struct driver *d, const struct driver_move *move)
{
	struct driver *old = malloc(sizeof(*old));
	struct str saved = {0};
	struct ram_copy ram;

	assert_non_null(old);
	pause_device(d);
	if (move->paused)
		move->paused();
	save_device(d, &saved);
	copy_ram(d, &ram, false);
	*old = *d;
	move->end();
	move->begin();
	copy_ram(d, &ram, true);
	d->features = old->features;
	d->next_page = old->next_page;
	memcpy(d->queue, old->queue, sizeof(d->queue));
	load_device(d, &saved);
	str_free(&saved);
	free(old);
}

u64 driver_alloc(struct driver *d, u64 len, u64 align)
{
	u64 addr = align_up(d->next_page, align);

	d->next_page = addr + len;
	memset(harness_ram(d->h, addr, len), 0, len);
	return addr;
}

void *driver_ptr(struct driver *d, u64 addr)
{
	return harness_ram(d->h, addr, 1);
}

/* ---- registers ---- */

static u64 get(struct driver *d, u32 offset, unsigned int size)
{
	return harness_read(d->h, d->common + offset, size);
}

static void put(struct driver *d, u32 offset, unsigned int size, u64 value)
{
	harness_write(d->h, d->common + offset, size, value);
}

u8 driver_status(struct driver *d)
{
	if (is_legacy(d))
		return (u8)harness_in(d->h, (u16)(d->legacy + VIRTIO_PCI_STATUS), 1);
	return (u8)(is_mmio(d) ? get(d, VIRTIO_MMIO_STATUS, 4)
			       : get(d, VIRTIO_PCI_COMMON_STATUS, 1));
}

void driver_set_status(struct driver *d, u8 status)
{
	if (is_legacy(d))
		harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_STATUS), 1, status);
	else if (is_mmio(d))
		put(d, VIRTIO_MMIO_STATUS, 4, status);
	else
		put(d, VIRTIO_PCI_COMMON_STATUS, 1, status);
}

u64 driver_offered(struct driver *d)
{
	u64 v = 0;

	if (is_legacy(d))
		return harness_in(d->h, (u16)(d->legacy + VIRTIO_PCI_HOST_FEATURES), 4);
	for (u32 i = 0; i < 2; i++) {
		put(d, is_mmio(d) ? VIRTIO_MMIO_DEVICE_FEATURES_SEL : VIRTIO_PCI_COMMON_DFSELECT, 4,
		    i);
		v |= get(d, is_mmio(d) ? VIRTIO_MMIO_DEVICE_FEATURES : VIRTIO_PCI_COMMON_DF, 4)
		     << 32 * i;
	}
	return v;
}

void driver_set_features(struct driver *d, u64 features)
{
	d->features = features;
	if (is_legacy(d)) {
		harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_GUEST_FEATURES), 4, (u32)features);
		return;
	}
	for (u32 i = 0; i < 2; i++) {
		put(d, is_mmio(d) ? VIRTIO_MMIO_DRIVER_FEATURES_SEL : VIRTIO_PCI_COMMON_GFSELECT, 4,
		    i);
		put(d, is_mmio(d) ? VIRTIO_MMIO_DRIVER_FEATURES : VIRTIO_PCI_COMMON_GF, 4,
		    (u32)(features >> 32 * i));
	}
}

u64 driver_config(struct driver *d, u32 offset, unsigned int size)
{
	if (is_legacy(d))
		return harness_in(d->h, (u16)(d->legacy + VIRTIO_PCI_CONFIG_OFF(0) + offset), size);
	return harness_read(d->h, d->config + offset, size);
}

void driver_set_config(struct driver *d, u32 offset, unsigned int size, u64 value)
{
	if (is_legacy(d))
		harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_CONFIG_OFF(0) + offset), size,
			    (u32)value);
	else
		harness_write(d->h, d->config + offset, size, value);
}

u8 driver_take_isr(struct driver *d)
{
	u8 isr;

	if (is_legacy(d))
		return (u8)harness_in(d->h, (u16)(d->legacy + VIRTIO_PCI_ISR), 1);
	if (!is_mmio(d))
		return (u8)harness_read(d->h, d->isr, 1);
	isr = (u8)get(d, VIRTIO_MMIO_INTERRUPT_STATUS, 4);
	put(d, VIRTIO_MMIO_INTERRUPT_ACK, 4, isr);
	return isr;
}

/* ---- queues ---- */

static void enable_pci(struct driver_queue *q)
{
	struct driver *d = q->d;

	put(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, q->index);
	put(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, q->size);
	put(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (u32)q->desc);
	put(d, VIRTIO_PCI_COMMON_Q_DESCHI, 4, q->desc >> 32);
	put(d, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (u32)q->avail);
	put(d, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, q->avail >> 32);
	put(d, VIRTIO_PCI_COMMON_Q_USEDLO, 8, q->used);
	put(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static void enable_mmio(struct driver_queue *q)
{
	struct driver *d = q->d;

	put(d, VIRTIO_MMIO_QUEUE_SEL, 4, q->index);
	put(d, VIRTIO_MMIO_QUEUE_NUM, 4, q->size);
	put(d, VIRTIO_MMIO_QUEUE_DESC_LOW, 4, (u32)q->desc);
	put(d, VIRTIO_MMIO_QUEUE_DESC_HIGH, 4, q->desc >> 32);
	put(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 4, (u32)q->avail);
	put(d, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 4, q->avail >> 32);
	put(d, VIRTIO_MMIO_QUEUE_USED_LOW, 4, (u32)q->used);
	put(d, VIRTIO_MMIO_QUEUE_USED_HIGH, 4, q->used >> 32);
	put(d, VIRTIO_MMIO_QUEUE_READY, 4, 1);
}

static void enable_legacy(struct driver_queue *q)
{
	struct driver *d = q->d;

	harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_QUEUE_SEL), 2, q->index);
	harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_QUEUE_PFN), 4, (u32)(q->desc >> 12));
}

void driver_enable_queue(struct driver_queue *q)
{
	if (is_legacy(q->d))
		enable_legacy(q);
	else if (is_mmio(q->d))
		enable_mmio(q);
	else
		enable_pci(q);
}

static u16 largest(struct driver *d, u16 index)
{
	if (is_legacy(d)) {
		harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_QUEUE_SEL), 2, index);
		return (u16)harness_in(d->h, (u16)(d->legacy + VIRTIO_PCI_QUEUE_NUM), 2);
	}
	if (is_mmio(d)) {
		put(d, VIRTIO_MMIO_QUEUE_SEL, 4, index);
		return (u16)get(d, VIRTIO_MMIO_QUEUE_NUM_MAX, 4);
	}
	put(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
	return (u16)get(d, VIRTIO_PCI_COMMON_Q_SIZE, 2);
}

void driver_setup_queue(struct driver *d, u16 index, u16 size)
{
	struct driver_queue *q = &d->queue[index];
	u16 most = largest(d, index);

	assert_true(most);
	memset(q, 0, sizeof(*q));
	q->d = d;
	q->index = index;
	q->size = size && !is_legacy(d) ? size : most;
	if (is_legacy(d)) { /* one piece, the used ring on a page of its own */
		u64 avail_end = 16u * q->size + 6 + 2u * q->size;

		q->desc = driver_alloc(d, align_up(avail_end, 4096) + 6 + 8u * q->size, 4096);
		q->avail = q->desc + 16u * q->size;
		q->used = align_up(q->avail + 6 + 2u * q->size, 4096);
	} else {
		q->desc = driver_alloc(d, 16u * q->size, 16);
		q->avail = driver_alloc(d, d->mode->packed ? 4 : 6 + 2u * q->size, 4);
		q->used = driver_alloc(d, d->mode->packed ? 4 : 6 + 8u * q->size, 4);
	}
	q->wrap = q->used_wrap = true;
	q->nfree = q->size;
	for (u16 i = 0; i < q->size; i++)
		q->free[i] = (u16)(q->size - 1 - i);
	driver_enable_queue(q);
	driver_want_interrupts(q, true);
}

void driver_start(struct driver *d, u64 features, unsigned int n)
{
	const struct driver_mode *m = d->mode;

	if (!is_legacy(d))
		features |= VIRTIO_F(VIRTIO_F_VERSION_1);
	features |= m->packed ? VIRTIO_F(VIRTIO_F_RING_PACKED) : 0;
	features |= m->event_idx ? VIRTIO_F(VIRTIO_F_EVENT_IDX) : 0;
	features |= m->indirect ? VIRTIO_F(VIRTIO_F_INDIRECT_DESC) : 0;
	features |= m->in_order ? VIRTIO_F(VIRTIO_F_IN_ORDER) : 0;
	driver_set_status(d, 0);
	assert_int_equal(driver_status(d), 0);
	driver_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	if (features & ~driver_offered(d))
		fail_msg("%s: not offered: 0x%llx", m->name,
			 (unsigned long long)(features & ~driver_offered(d)));
	driver_set_features(d, features);
	if (!is_legacy(d)) {
		driver_set_status(d, 11);
		assert_true(driver_status(d) & VIRTIO_CONFIG_S_FEATURES_OK);
	}
	for (u16 i = 0; i < n; i++)
		driver_setup_queue(d, i, 0);
	driver_set_status(d, is_legacy(d) ? 7 : 15);
	assert_true(driver_status(d) & VIRTIO_CONFIG_S_DRIVER_OK);
}

/* ---- chains ---- */

static void store_desc(u8 *p, u64 addr, u32 len, u16 a, u16 b)
{
	store_le64(p, addr);
	store_le32(p + 8, len);
	store_le16(p + 12, a);
	store_le16(p + 14, b);
}

/* In a table of its own; returns its address. */
static u64 make_table(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n)
{
	u64 table = driver_alloc(q->d, 16 * n, 16);

	for (unsigned int i = 0; i < n; i++) {
		u16 flags = bufs[i].write ? VRING_DESC_F_WRITE : 0;
		u8 *p = driver_ptr(q->d, table + 16 * i);

		if (q->d->mode->packed)
			store_desc(p, bufs[i].addr, bufs[i].len, 0, flags);
		else
			store_desc(p, bufs[i].addr, bufs[i].len,
				   i + 1 < n ? flags | VRING_DESC_F_NEXT : flags, (u16)(i + 1));
	}
	return table;
}

static int add_split(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n,
		     u16 extra)
{
	u16 head = q->free[q->nfree - 1];

	for (unsigned int i = 0; i < n; i++) {
		u16 at = q->free[--q->nfree];
		u16 next = i + 1 < n ? q->free[q->nfree - 1] : 0;
		u16 flags = (bufs[i].write ? VRING_DESC_F_WRITE : 0) |
			    (i + 1 < n ? VRING_DESC_F_NEXT : 0) | extra;

		store_desc(driver_ptr(q->d, q->desc + 16u * at), bufs[i].addr, bufs[i].len, flags,
			   next);
	}
	q->slots[head] = (u16)n;
	store_le16(driver_ptr(q->d, q->avail + 4 + 2u * (q->avail_idx % q->size)), head);
	q->avail_idx++;
	return head;
}

static int add_packed(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n,
		      u16 extra)
{
	u16 id = q->free[--q->nfree], first_flags = 0;
	u8 *first = driver_ptr(q->d, q->desc + 16u * q->next);

	for (unsigned int i = 0; i < n; i++) {
		u8 *p = driver_ptr(q->d, q->desc + 16u * q->next);
		u16 flags = (bufs[i].write ? VRING_DESC_F_WRITE : 0) |
			    (i + 1 < n ? VRING_DESC_F_NEXT : 0) | extra |
			    (q->wrap ? AVAIL_BIT : USED_BIT);

		store_le64(p, bufs[i].addr);
		store_le32(p + 8, bufs[i].len);
		store_le16(p + 12, id);
		if (i)
			store_le16(p + 14, flags);
		else
			first_flags = flags;
		if (++q->next == q->size) {
			q->next = 0;
			q->wrap = !q->wrap;
		}
	}
	q->slots[id] = (u16)n;
	__atomic_store_n((u16 *)(void *)(first + 14), htole16(first_flags), __ATOMIC_RELEASE);
	return id;
}

/* Places of the ring in use, for packed rings. */
static u32 packed_used_places(const struct driver_queue *q)
{
	u32 sum = 0;

	for (u16 i = q->fifo_tail; i != q->fifo_head; i++)
		sum += q->slots[q->fifo[i % 1024]];
	return sum;
}

int driver_add(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n)
{
	bool indirect = q->d->mode->indirect && n > 1;
	struct driver_buf one;
	int id;

	if (indirect) {
		one = (struct driver_buf){make_table(q, bufs, n), 16 * n, false};
		bufs = &one;
		n = 1;
	}
	if (q->d->mode->packed ? !q->nfree || packed_used_places(q) + n > q->size : q->nfree < n)
		return -1;
	id = q->d->mode->packed ? add_packed(q, bufs, n, indirect ? VRING_DESC_F_INDIRECT : 0)
				: add_split(q, bufs, n, indirect ? VRING_DESC_F_INDIRECT : 0);
	q->fifo[q->fifo_head++ % 1024] = (u16)id;
	return id;
}

static void publish(struct driver_queue *q)
{
	if (!q->d->mode->packed)
		__atomic_store_n((u16 *)driver_ptr(q->d, q->avail + 2), htole16(q->avail_idx),
				 __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void ring(struct driver_queue *q)
{
	struct driver *d = q->d;

	if (is_legacy(d))
		harness_out(d->h, (u16)(d->legacy + VIRTIO_PCI_QUEUE_NOTIFY), 2, q->index);
	else if (is_mmio(d))
		put(d, VIRTIO_MMIO_QUEUE_NOTIFY, 4, q->index);
	else if (d->mode->transport == DRIVER_PCI_PORTS)
		harness_out(d->h, (u16)(d->ports + 4u * q->index), 2, q->index);
	else
		harness_write(d->h, d->notify + 4u * q->index, 2, q->index);
}

void driver_kick(struct driver_queue *q)
{
	publish(q);
	ring(q);
}

static bool device_wants_kick(struct driver_queue *q)
{
	const u8 *used = driver_ptr(q->d, q->used);
	u16 flags;

	if (q->d->mode->packed) {
		flags = load_le16(used + 2);
		if (flags != VRING_PACKED_EVENT_FLAG_DESC)
			return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
		/* One at a time is added in the tests that ask: is it the place before next? */
		return (load_le16(used) & 0x7fff) == (q->next ? q->next : q->size) - 1;
	}
	if (q->d->mode->event_idx)
		return load_le16(used + 4 + 8u * q->size) == (u16)(q->avail_idx - 1);
	return !(load_le16(used) & VRING_USED_F_NO_NOTIFY);
}

bool driver_kick_if_wanted(struct driver_queue *q)
{
	publish(q);
	if (!device_wants_kick(q))
		return false;
	ring(q);
	return true;
}

static void give_back(struct driver_queue *q, int id)
{
	u16 n = q->slots[id];

	/* Out of order completions leave the fifo's middle. */
	for (u16 i = q->fifo_tail; i != q->fifo_head; i++) {
		if (q->fifo[i % 1024] != id)
			continue;
		for (; i != q->fifo_tail; i--)
			q->fifo[i % 1024] = q->fifo[(i - 1) % 1024];
		q->fifo_tail++;
		break;
	}
	if (q->d->mode->packed) {
		q->free[q->nfree++] = (u16)id;
		return;
	}
	for (u16 at = (u16)id; n; n--) {
		u16 next = load_le16((u8 *)driver_ptr(q->d, q->desc + 16u * at) + 14);

		q->free[q->nfree++] = at;
		at = next;
	}
}

static bool take_split(struct driver_queue *q, int *id, u32 *len)
{
	const u8 *used = driver_ptr(q->d, q->used), *elem;

	if (__atomic_load_n((const u16 *)(const void *)(used + 2), __ATOMIC_ACQUIRE) == q->used_idx)
		return false;
	elem = used + 4 + 8u * (q->used_idx % q->size);
	*id = (int)load_le32(elem);
	*len = load_le32(elem + 4);
	q->used_idx++;
	return true;
}

static bool take_packed(struct driver_queue *q, int *id, u32 *len)
{
	const u8 *p = driver_ptr(q->d, q->desc + 16u * q->next_used);
	u16 flags = __atomic_load_n((const u16 *)(const void *)(p + 14), __ATOMIC_ACQUIRE);

	if (!!(flags & AVAIL_BIT) != q->used_wrap || !!(flags & USED_BIT) != q->used_wrap)
		return false;
	*id = load_le16(p + 12);
	*len = load_le32(p + 8);
	assert_true(*id < q->size);
	q->next_used = (u16)(q->next_used + q->slots[*id]);
	if (q->next_used >= q->size) {
		q->next_used = (u16)(q->next_used - q->size);
		q->used_wrap = !q->used_wrap;
	}
	return true;
}

bool driver_take(struct driver_queue *q, int *id, u32 *len)
{
	if (!(q->d->mode->packed ? take_packed(q, id, len) : take_split(q, id, len)))
		return false;
	assert_true(*id < q->size && q->slots[*id]);
	give_back(q, *id);
	return true;
}

struct take {
	struct driver_queue *q;
	int id;
	u32 len;
};

static bool took(void *ctx)
{
	struct take *t = ctx;

	return driver_take(t->q, &t->id, &t->len);
}

u32 driver_wait(struct driver_queue *q, int id)
{
	struct take t = {.q = q};

	if (!driver_until(q->d, took, &t))
		fail_msg("%s: queue %u: no answer", q->d->mode->name, q->index);
	assert_int_equal(t.id, id);
	return t.len;
}

u32 driver_do(struct driver_queue *q, const struct driver_buf *bufs, unsigned int n)
{
	int id = driver_add(q, bufs, n);

	assert_true(id >= 0);
	driver_kick(q);
	return driver_wait(q, id);
}

void driver_want_interrupts(struct driver_queue *q, bool on)
{
	u8 *avail = driver_ptr(q->d, q->avail);

	if (q->d->mode->packed) {
		u16 off = q->next_used | (q->used_wrap ? 0x8000 : 0);

		store_le16(avail, q->d->mode->event_idx ? off : 0);
		store_le16(avail + 2, !on		      ? VRING_PACKED_EVENT_FLAG_DISABLE
				      : q->d->mode->event_idx ? VRING_PACKED_EVENT_FLAG_DESC
							      : VRING_PACKED_EVENT_FLAG_ENABLE);
	} else if (q->d->mode->event_idx) {
		store_le16(avail + 4 + 2u * q->size, on ? q->used_idx : (u16)(q->used_idx - 1));
	} else {
		store_le16(avail, on ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
	}
}

bool driver_until(struct driver *d, bool (*fn)(void *ctx), void *ctx)
{
	for (int i = 0; i < MAX_TURNS; i++) {
		harness_settle(d->h);
		if (fn(ctx))
			return true;
		usleep(i < 100 ? 10 : 500);
	}
	return false;
}

static bool broken(void *ctx)
{
	return driver_status(ctx) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

bool driver_needs_reset(struct driver *d)
{
	return driver_until(d, broken, d);
}
