/* The hand-over of a network card's rings to the kernel and back, with a back end of this file that
 * plays the kernel: it moves frames between the rings it was given and itself, from the positions
 * it was told, and says where it stopped. */
#include "device/virtio/driver.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "net/net_int.h"
#include "virtio/net.h"
#include "virtio/net_int.h"

#define TX_BUF	0x800000
#define RX_BUF	0x900000
#define HEADER	12
#define LEN	100
#define VECTORS 0xfee00000
#define PAIRS	2

struct kernel_ring {
	struct net_vring ring;
	u16 avail, used;
};

struct kernel {
	struct net net;
	bool running[PAIRS];
	struct kernel_ring ring[PAIRS][2];
	u64 features;
	u64 memory; /* bytes of the table */
	unsigned int starts, stops, tables;
};

static struct driver d;
static struct kernel *kernel;
static bool refuse; /* starts fail */

static struct {
	u32 by_monitor, by_kernel;
	u8 last;
} sent;

/* ---- the back end ---- */

static struct kernel *kernel_of(struct net *net)
{
	return container_of(net, struct kernel, net);
}

static int kernel_init(struct net *net, const void *config, struct err *err)
{
	kernel = kernel_of(net);
	net->pairs = PAIRS;
	return 0;
}

static u32 kernel_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	assert_false(kernel->running[pair]);
	for (u32 i = 0; i < n; i++)
		iov_to_buf(frames[i].iov, frames[i].niov, 20, &sent.last, 1);
	sent.by_monitor += n;
	return n;
}

static void kernel_resume(struct net *net, unsigned int pair)
{
}

static u64 kernel_features(const struct net *net)
{
	return VIRTIO_F(VIRTIO_F_VERSION_1) | VIRTIO_F(VIRTIO_F_INDIRECT_DESC) |
	       VIRTIO_F(VIRTIO_F_EVENT_IDX) | VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF);
}

static int kernel_set_memory(struct net *net, const struct net_memory *memory, unsigned int n)
{
	kernel->memory = 0;
	for (unsigned int i = 0; i < n; i++) {
		assert_ptr_equal(memory[i].hva, harness_ram(d.h, memory[i].gpa, memory[i].size));
		kernel->memory += memory[i].size;
	}
	kernel->tables++;
	return 0;
}

static int kernel_start(struct net *net, unsigned int pair, u64 features,
			const struct net_vring ring[2])
{
	assert_true(pair < PAIRS);
	assert_false(kernel->running[pair]);
	assert_int_equal(kernel->tables, 1);
	if (refuse)
		return -EBUSY;
	for (int i = 0; i < 2; i++) {
		const struct vring_used *used = ring[i].used;

		kernel->ring[pair][i] = (struct kernel_ring){
			.ring = ring[i], .avail = ring[i].base, .used = le16toh(used->idx)};
	}
	kernel->features = features;
	kernel->running[pair] = true;
	kernel->starts++;
	return 0;
}

static void kernel_stop(struct net *net, unsigned int pair, u16 base[2])
{
	assert_true(kernel->running[pair]);
	kernel->running[pair] = false;
	kernel->stops++;
	for (int i = 0; i < 2; i++)
		base[i] = kernel->ring[pair][i].avail;
}

static const struct net_class kernel_class = {
	.name = "kernel",
	.size = sizeof(struct kernel),
	.init = kernel_init,
	.send = kernel_send,
	.resume = kernel_resume,
	.vhost_features = kernel_features,
	.vhost_set_memory = kernel_set_memory,
	.vhost_start = kernel_start,
	.vhost_stop = kernel_stop,
};

/* ---- what the kernel does with a ring ---- */

/* The next available buffer's head, or -1. */
static int take_head(struct kernel_ring *r)
{
	const struct vring_avail *avail = r->ring.avail;

	if (r->avail == le16toh(avail->idx))
		return -1;
	return le16toh(avail->ring[r->avail++ % r->ring.size]);
}

static void give_head(struct kernel_ring *r, u32 head, u32 len)
{
	struct vring_used *used = r->ring.used;

	used->ring[r->used % r->ring.size] = (struct vring_used_elem){htole32(head), htole32(len)};
	used->idx = htole16(++r->used);
	event_signal(r->ring.call_fd);
}

/* Each frame is one descriptor after that of its header. */
static void kernel_transmit(unsigned int pair)
{
	struct kernel_ring *r = &kernel->ring[pair][1];
	const struct vring_desc *desc = r->ring.desc;
	int head;

	assert_true(kernel->running[pair]);
	while ((head = take_head(r)) >= 0) {
		const struct vring_desc *data = &desc[le16toh(desc[head].next)];

		sent.last = *(u8 *)driver_ptr(&d, le64toh(data->addr) + 20);
		sent.by_kernel++;
		give_head(r, (u32)head, 0);
	}
}

static void kernel_receive(unsigned int pair, u8 seed)
{
	struct kernel_ring *r = &kernel->ring[pair][0];
	const struct vring_desc *desc = r->ring.desc;
	int head = take_head(r);
	u8 *p;

	assert_true(head >= 0);
	p = driver_ptr(&d, le64toh(desc[head].addr));
	memset(p, 0, HEADER);
	memset(p + HEADER, seed, LEN);
	give_head(r, (u32)head, HEADER + LEN);
}

static void monitor_receive(u8 seed)
{
	u8 data[LEN];
	struct iovec iov = {data, sizeof(data)};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = LEN};

	memset(data, seed, sizeof(data));
	memcpy(data, "\xff\xff\xff\xff\xff\xff", 6);
	assert_int_equal(net_deliver(&kernel->net, 0, &frame, 1), 1);
	harness_settle(d.h);
}

/* ---- the guest ---- */

static void common(u32 offset, unsigned int size, u64 value)
{
	harness_write(d.h, d.common + offset, size, value);
}

static void use_vectors(unsigned int queues)
{
	u8 at = (u8)harness_config_read(d.h, d.devfn, 0x34, 1);
	u64 table;
	u32 where;

	while (harness_config_read(d.h, d.devfn, at, 1) != PCI_CAP_ID_MSIX)
		at = (u8)harness_config_read(d.h, d.devfn, at + 1, 1);
	where = harness_config_read(d.h, d.devfn, at + 4, 4);
	table = harness_config_read(d.h, d.devfn, (u16)(0x10 + 4 * (where & 7)), 4) & ~15u;
	table += where & ~7u;
	for (unsigned int i = 0; i < queues; i++) {
		harness_write(d.h, table + 16 * i, 8, VECTORS);
		harness_write(d.h, table + 16 * i + 8, 4, 0x40 + i);
		harness_write(d.h, table + 16 * i + 12, 4, 0);
	}
	harness_config_write(d.h, d.devfn, at + 2, 2, 0x8000);
}

static void set_queue_vector(u16 queue, u16 vector)
{
	common(VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
	common(VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
}

static void open_device(void)
{
	struct virtio_net_options options = {.pairs = PAIRS, .mac = {0x52, 0x54, 0, 1, 2, 3}};
	struct net *net;

	assert_int_equal(net_new(&net, &kernel_class, d.h->loop, NULL, NULL), 0);
	options.net = net;
	driver_open_device(&d, &virtio_net, &options);
}

static void open_card(const struct driver_mode *mode)
{
	memset(&sent, 0, sizeof(sent));
	refuse = false;
	d.h = NULL;
	driver_open_bus(&d, mode);
	open_device();
}

static void close_card(void)
{
	struct net *net = &kernel->net;

	net_stop(net);
	driver_close_devices(&d);
	net_close(net);
	driver_close(&d);
}

static void drain_messages(void)
{
	u64 addr;
	u32 data;

	while (harness_take_msi(d.h, &addr, &data))
		;
}

/* A driver with a vector a queue: 0 and 1 are the first pair, 4 the control queue. */
static void start_driver(u64 features)
{
	use_vectors(5);
	driver_start(&d, features, 5);
	for (u16 i = 0; i < 5; i++)
		set_queue_vector(i, i);
	harness_settle(d.h);
	drain_messages();
}

static void add_frame(u16 queue, u8 seed)
{
	const struct driver_buf bufs[] = {{TX_BUF, HEADER, false}, {TX_BUF + HEADER, LEN, false}};

	memset(driver_ptr(&d, TX_BUF), 0, HEADER);
	memset(driver_ptr(&d, TX_BUF + HEADER), seed, LEN);
	assert_true(driver_add(&d.queue[queue], bufs, 2) >= 0);
	driver_want_interrupts(&d.queue[queue], true);
	driver_kick(&d.queue[queue]);
	harness_settle(d.h);
}

static void expect_used(u16 queue, u32 want)
{
	u32 len;
	int id;

	assert_true(driver_take(&d.queue[queue], &id, &len));
	assert_int_equal(len, want);
	assert_false(driver_take(&d.queue[queue], &id, &len));
}

static void expect_message(u32 vector)
{
	u64 addr;
	u32 data;

	assert_true(harness_take_msi(d.h, &addr, &data));
	assert_int_equal(data, 0x40 + vector);
}

/* One frame on its way out, by whoever has the rings now. */
static void send_one(bool by_kernel, u8 seed)
{
	u32 kernels = sent.by_kernel, monitors = sent.by_monitor;

	assert_int_equal(kernel->running[0], by_kernel);
	add_frame(1, seed);
	if (by_kernel) {
		assert_int_equal(sent.by_monitor, monitors); /* nobody else looked */
		kernel_transmit(0);
	}
	assert_int_equal(sent.by_kernel, kernels + by_kernel);
	assert_int_equal(sent.by_monitor, monitors + !by_kernel);
	assert_int_equal(sent.last, seed);
	expect_used(1, 0);
	expect_message(1);
}

static void add_buffer(void)
{
	const struct driver_buf buf = {RX_BUF, 2048, true};

	assert_true(driver_add(&d.queue[0], &buf, 1) >= 0);
	driver_want_interrupts(&d.queue[0], true);
	driver_kick(&d.queue[0]);
	harness_settle(d.h);
}

static void receive_one(bool by_kernel, u8 seed)
{
	add_buffer();
	if (by_kernel)
		kernel_receive(0, seed);
	else
		monitor_receive(seed);
	expect_used(0, HEADER + LEN);
	expect_message(0);
	assert_int_equal(*(u8 *)driver_ptr(&d, RX_BUF + HEADER + 50), seed);
}

static void set_link(bool up)
{
	net_set_link(&kernel->net, up);
	harness_settle(d.h);
}

/* Modes whose rings are split, with MSI-X. */
static bool suits(const struct driver_mode *m)
{
	return m->transport == DRIVER_PCI && !m->packed && !m->indirect && !m->in_order;
}

static void each_mode(void (*fn)(void))
{
	unsigned int n = 0;

	for (size_t m = 0; m < driver_mode_count; m++) {
		if (!suits(&driver_modes[m]))
			continue;
		open_card(&driver_modes[m]);
		fn();
		close_card();
		n++;
	}
	assert_true(n > 0);
}

/* ---- tests ---- */

static void hand_over(void)
{
	const struct kernel_ring *r = kernel->ring[0];

	use_vectors(5);
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF), 5);
	harness_settle(d.h);
	/* Nobody would hear the kernel: the queues have no vectors yet. */
	assert_int_equal(kernel->starts, 0);
	set_queue_vector(0, 0);
	harness_settle(d.h);
	assert_int_equal(kernel->starts, 0);
	set_queue_vector(1, 1);
	harness_settle(d.h);
	assert_true(kernel->running[0]);
	assert_false(kernel->running[1]); /* the driver has asked for one pair */
	assert_int_equal(kernel->tables, 1);
	assert_int_equal(kernel->memory, 16 * MiB);
	assert_true(kernel->features & VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(r[i].ring.size, d.queue[i].size);
		assert_int_equal(r[i].ring.base, 0);
		assert_ptr_equal(r[i].ring.desc, driver_ptr(&d, d.queue[i].desc));
		assert_ptr_equal(r[i].ring.avail, driver_ptr(&d, d.queue[i].avail));
		assert_ptr_equal(r[i].ring.used, driver_ptr(&d, d.queue[i].used));
	}
	/* Doorbells are left for it. */
	add_frame(1, 7);
	assert_int_equal(poll(&(struct pollfd){.fd = r[1].ring.kick_fd, .events = POLLIN}, 1, 0),
			 1);
	kernel_transmit(0);
	expect_used(1, 0);
	expect_message(1);
	receive_one(true, 8);
	assert_int_equal(sent.by_monitor, 0);
}

static void hands_over(void **state)
{
	each_mode(hand_over);
}

/* Each goes on where the other stopped, past the end of the ring, with what waits in it. */
static void take_turns(void)
{
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	for (u32 round = 0; round < 300; round++) {
		bool by_kernel = round % 2 == 0;

		if (round)
			set_link(by_kernel);
		if (by_kernel) {
			send_one(true, (u8)round);
			receive_one(true, (u8)round);
			continue;
		}
		/* With the cable out frames go nowhere, but their buffers come back. */
		assert_false(kernel->running[0]);
		add_frame(1, (u8)round);
		expect_used(1, 0);
		expect_message(1);
		drain_messages();
	}
	assert_int_equal(sent.by_monitor, 0);
	assert_int_equal(kernel->starts, kernel->stops + kernel->running[0]);
	drain_messages();
}

static void takes_turns(void **state)
{
	each_mode(take_turns);
}

/* What the driver made available while the kernel looked the other way is not lost. */
static void leave_frames(void)
{
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	send_one(true, 1);
	receive_one(true, 1);
	/* The kernel has heard of them, and does not come to them. */
	add_frame(1, 2);
	add_buffer();
	event_clear(kernel->ring[0][0].ring.kick_fd);
	event_clear(kernel->ring[0][1].ring.kick_fd);
	/* A vector that goes away takes the rings back: the monitor sends the frame. */
	set_queue_vector(0, 0xffff);
	harness_settle(d.h);
	assert_false(kernel->running[0]);
	assert_int_equal(sent.by_monitor, 1);
	assert_int_equal(sent.last, 2);
	expect_used(1, 0);
	expect_message(1);
	monitor_receive(3);
	expect_used(0, HEADER + LEN);
	drain_messages();
	send_one(false, 4);
	set_queue_vector(0, 0);
	harness_settle(d.h);
	send_one(true, 5);
	receive_one(true, 6);
}

static void leaves_no_frames(void **state)
{
	each_mode(leave_frames);
}

static void reset_device(void)
{
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	send_one(true, 1);
	driver_set_status(&d, 0);
	/* Before the write is over: the driver may free its rings. */
	assert_false(kernel->running[0]);
	harness_settle(d.h);
	assert_false(kernel->running[0]);
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	assert_true(kernel->running[0]);
	assert_int_equal(kernel->ring[0][1].ring.base, 0);
	assert_int_equal(kernel->tables, 1);
	send_one(true, 2);
	receive_one(true, 3);
}

static void resets(void **state)
{
	each_mode(reset_device);
}

static void pause_and_resume(void)
{
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	send_one(true, 1);
	bus_lock(d.h->bus);
	devices_pause(d.h->bus);
	assert_false(kernel->running[0]); /* at once: a snapshot follows */
	bus_unlock(d.h->bus);
	harness_settle(d.h);
	add_frame(1, 2);
	assert_false(kernel->running[0]);
	assert_int_equal(sent.by_monitor + sent.by_kernel, 1);
	bus_lock(d.h->bus);
	devices_resume(d.h->bus);
	bus_unlock(d.h->bus);
	harness_settle(d.h);
	/* Whoever has the rings now, the frame of the pause goes first. */
	if (kernel->running[0])
		kernel_transmit(0);
	assert_int_equal(sent.last, 2);
	expect_used(1, 0);
	drain_messages();
	send_one(true, 3);
	receive_one(true, 4);
}

static void pauses(void **state)
{
	each_mode(pause_and_resume);
}

static void end_move(void)
{
	close_card();
}

static const struct driver_mode *moving;

static void begin_move(void)
{
	d.h = NULL;
	driver_open_bus(&d, moving);
	open_device();
}

/* A snapshot of a card whose rings the kernel has goes on in another machine. */
static void moves(void **state)
{
	static const struct driver_move move = {NULL, end_move, begin_move};

	for (size_t m = 0; m < driver_mode_count; m++) {
		moving = &driver_modes[m];
		if (!suits(moving))
			continue;
		open_card(moving);
		start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
		for (u8 i = 0; i < 5; i++)
			send_one(true, i);
		receive_one(true, 9);
		add_frame(1, 11);
		driver_move(&d, &move);
		harness_settle(d.h);
		if (kernel->running[0])
			kernel_transmit(0);
		assert_int_equal(sent.last, 11);
		expect_used(1, 0);
		drain_messages();
		send_one(true, 12);
		receive_one(true, 13);
		close_card();
	}
}

/* A kernel that refuses: the card goes on by itself, for good. */
static void go_on_alone(void)
{
	refuse = true;
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF));
	send_one(false, 1);
	receive_one(false, 2);
	refuse = false;
	set_link(false);
	set_link(true);
	drain_messages();
	send_one(false, 3);
	assert_int_equal(kernel->starts, 0);
}

static void goes_on_alone(void **state)
{
	each_mode(go_on_alone);
}

static u8 control(u8 class, u8 command, const void *data, u32 len)
{
	const struct driver_buf bufs[] = {
		{0xa00000, 2, false}, {0xa00010, len, false}, {0xa00100, 1, true}};
	u8 *p = driver_ptr(&d, 0xa00000);

	p[0] = class;
	p[1] = command;
	memcpy(p + 0x10, data, len);
	p[0x100] = 0xff;
	driver_do(&d.queue[4], bufs, 3);
	harness_settle(d.h);
	return p[0x100];
}

/* A pair belongs to the kernel from when the driver asks for it until it asks for fewer. */
static void use_pairs(void)
{
	start_driver(VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_F(VIRTIO_NET_F_CTRL_VQ) |
		     VIRTIO_F(VIRTIO_NET_F_MQ));
	assert_true(kernel->running[0]);
	assert_false(kernel->running[1]);
	assert_int_equal(control(VIRTIO_NET_CTRL_MQ, 0, "\2\0", 2), 0);
	assert_true(kernel->running[0]);
	assert_true(kernel->running[1]);
	add_frame(3, 5);
	kernel_transmit(1);
	expect_used(3, 0);
	assert_int_equal(control(VIRTIO_NET_CTRL_MQ, 0, "\1\0", 2), 0);
	assert_true(kernel->running[0]);
	assert_false(kernel->running[1]);
	/* The specification lets a driver send on it all the same (5.1.6.5.6.2). */
	add_frame(3, 6);
	assert_int_equal(sent.by_monitor, 1);
	expect_used(3, 0);
	drain_messages();
	send_one(true, 7);
}

static void uses_pairs(void **state)
{
	each_mode(use_pairs);
}

/* Drivers whose header the tap device does not have, and interrupts by the line. */
static void stays_away(void **state)
{
	for (size_t m = 0; m < driver_mode_count; m++) {
		const struct driver_mode *mode = &driver_modes[m];

		if (mode->packed ||
		    (mode->transport != DRIVER_LEGACY && mode->transport != DRIVER_MMIO))
			continue;
		open_card(mode);
		driver_start(&d, 0, 2);
		harness_settle(d.h);
		assert_int_equal(kernel->starts, 0);
		close_card();
	}
	open_card(&driver_modes[0]);
	assert_false(driver_offered(&d) & VIRTIO_F(VIRTIO_F_RING_PACKED));
	driver_start(&d, VIRTIO_F(VIRTIO_NET_F_MRG_RXBUF), 5);
	harness_settle(d.h);
	assert_int_equal(kernel->starts, 0);
	close_card();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hands_over),	    cmocka_unit_test(takes_turns),
		cmocka_unit_test(leaves_no_frames), cmocka_unit_test(resets),
		cmocka_unit_test(pauses),	    cmocka_unit_test(moves),
		cmocka_unit_test(goes_on_alone),    cmocka_unit_test(uses_pairs),
		cmocka_unit_test(stays_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
