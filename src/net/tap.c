/*
 * Tap devices: the guest as a host on the host's own network. Frames carry a virtio_net_hdr, so
 * what the guest's driver leaves unfinished the host's kernel finishes, and the other way round.
 *
 * Invariants:
 * 1. Receiving is the main loop's: frame[next, count) of a queue are read and not taken; while
 *    there are any the descriptor is not watched for input.
 * 2. Queues that the guest does not use are detached, so that the kernel steers nothing to them,
 *    and not watched (the kernel would report an error for ever). The loop's thread does that.
 * 3. Sending may come from any thread, one at a time a queue; when the kernel is full the loop is
 *    asked to watch for room.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net_int.h"
#include "net/tap_int.h"
#include "net/vhost_int.h"
#include "os/file.h"

#define BATCH	 16
#define VNET_HDR 12 /* with the count of merged buffers, which is not used here */
#define BUFFER	 (VNET_HDR + NET_MAX_FRAME)
#define MAX_IOV	 512

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct tap_queue {
	struct tap *tap;
	unsigned int pair;
	struct loop_watch watch;
	bool wants_input, wants_room, detached; /* the loop's thread */
	bool kernel;				/* atomic: vhost reads and writes the descriptor */
	int vhost;				/* -1: none */
	struct loop_work resume, room;
	u8 *memory;
	struct net_frame frame[BATCH];
	struct iovec iov[BATCH];
	u32 next, count;
};

struct tap {
	struct net net;
	struct tap_queue queue[NET_MAX_PAIRS];
	unsigned int open;
	unsigned int active; /* any thread writes it */
	struct loop_work set_active;
	u64 vhost_features; /* 0: no vhost */
	char name[IFNAMSIZ];
};

static struct tap *tap_of(struct net *net)
{
	return container_of(net, struct tap, net);
}

static void watch_queue(struct tap_queue *q)
{
	u32 events = (q->wants_input ? EPOLLIN : 0) | (q->wants_room ? EPOLLOUT : 0);

	if (!events || q->detached || __atomic_load_n(&q->kernel, __ATOMIC_ACQUIRE))
		loop_watch_del(&q->watch);
	else if (!q->watch.added)
		loop_watch_add(q->tap->net.loop, &q->watch, events);
	else
		loop_watch_modify(&q->watch, events);
}

/* ---- from the host ---- */

static void parse_header(const u8 *h, struct net_offload *o)
{
	*o = (struct net_offload){
		.flags = h[0],
		.gso_type = h[1],
		.hdr_len = load_le16(h + 2),
		.gso_size = load_le16(h + 4),
		.csum_start = load_le16(h + 6),
		.csum_offset = load_le16(h + 8),
	};
}

static bool read_frame(struct tap_queue *q)
{
	u8 *buf = q->memory + (size_t)q->count * BUFFER;
	ssize_t n = read(q->watch.fd, buf, BUFFER);
	struct net_frame *f = &q->frame[q->count];

	if (n < VNET_HDR + NET_MIN_FRAME)
		return n > 0; /* a runt: look for the next one */
	parse_header(buf, &f->offload);
	q->iov[q->count] = (struct iovec){buf + VNET_HDR, (size_t)n - VNET_HDR};
	f->iov = &q->iov[q->count];
	f->niov = 1;
	f->len = (u32)n - VNET_HDR;
	q->count++;
	return true;
}

/* Hand over what was read; true when all of it was taken. */
static bool deliver(struct tap_queue *q)
{
	if (q->next < q->count)
		q->next +=
			net_deliver(&q->tap->net, q->pair, q->frame + q->next, q->count - q->next);
	if (q->next < q->count)
		return false;
	q->next = q->count = 0;
	return true;
}

static void receive(struct tap_queue *q)
{
	for (int tries = 0; q->count < BATCH && tries < BATCH; tries++)
		if (!read_frame(q))
			break;
	q->wants_input = deliver(q);
}

static void on_ready(struct loop_watch *watch, u32 events)
{
	struct tap_queue *q = container_of(watch, struct tap_queue, watch);

	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && q->wants_input)
		receive(q);
	if (events & EPOLLOUT && q->wants_room) {
		q->wants_room = false;
		net_deliver_sendable(&q->tap->net, q->pair);
	}
	watch_queue(q);
}

static void resume_work(struct loop_work *work)
{
	struct tap_queue *q = container_of(work, struct tap_queue, resume);

	q->wants_input = deliver(q);
	watch_queue(q);
}

static void tap_resume(struct net *net, unsigned int pair)
{
	loop_post(net->loop, &tap_of(net)->queue[pair].resume);
}

/* ---- to the host ---- */

static void room_work(struct loop_work *work)
{
	struct tap_queue *q = container_of(work, struct tap_queue, room);

	q->wants_room = true;
	watch_queue(q);
}

/* 0, or -EAGAIN when the kernel has no room; any other trouble costs the frame. */
static int write_frame(struct tap_queue *q, const struct net_frame *f)
{
	struct iovec iov[MAX_IOV + 1];
	u8 header[VNET_HDR] = {0};

	if (f->niov > MAX_IOV)
		return 0;
	header[0] = f->offload.flags;
	header[1] = f->offload.gso_type;
	store_le16(header + 2, f->offload.hdr_len);
	store_le16(header + 4, f->offload.gso_size);
	store_le16(header + 6, f->offload.csum_start);
	store_le16(header + 8, f->offload.csum_offset);
	iov[0] = (struct iovec){header, VNET_HDR};
	memcpy(iov + 1, f->iov, f->niov * sizeof(iov[0]));
	return writev(q->watch.fd, iov, (int)f->niov + 1) < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

static u32 tap_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct tap_queue *q = &tap_of(net)->queue[pair];

	for (u32 i = 0; i < n; i++) {
		if (!write_frame(q, &frames[i]))
			continue;
		loop_post(net->loop, &q->room);
		return i;
	}
	return n;
}

/* ---- queues in use ---- */

static void set_active_work(struct loop_work *work)
{
	struct tap *t = container_of(work, struct tap, set_active);
	unsigned int active = __atomic_load_n(&t->active, __ATOMIC_RELAXED);

	for (unsigned int i = 1; i < t->open; i++) {
		struct tap_queue *q = &t->queue[i];
		bool detach = i >= active;
		struct ifreq ifr = {.ifr_flags =
					    (short)(detach ? IFF_DETACH_QUEUE : IFF_ATTACH_QUEUE)};

		if (q->detached == detach || ioctl(q->watch.fd, TUNSETQUEUE, &ifr))
			continue;
		q->detached = detach;
		watch_queue(q);
	}
}

static void tap_set_pairs(struct net *net, unsigned int n)
{
	struct tap *t = tap_of(net);

	__atomic_store_n(&t->active, n, __ATOMIC_RELAXED);
	loop_post(net->loop, &t->set_active);
}

/* ---- offloads ---- */

static int set_kernel_offloads(struct tap *t, u32 mask)
{
	unsigned int flags = 0;

	if (mask & NET_CSUM)
		flags |= TUN_F_CSUM;
	if (mask & NET_TSO4)
		flags |= TUN_F_TSO4;
	if (mask & NET_TSO6)
		flags |= TUN_F_TSO6;
	if (mask & NET_ECN)
		flags |= TUN_F_TSO_ECN;
	if (mask & NET_USO)
		flags |= TUN_F_USO4 | TUN_F_USO6;
	return ioctl(t->queue[0].watch.fd, TUNSETOFFLOAD, flags) ? -errno : 0;
}

static void tap_set_offloads(struct net *net, u32 mask)
{
	/* What the kernel refuses it does itself: frames arrive finished. */
	if (set_kernel_offloads(tap_of(net), mask))
		set_kernel_offloads(tap_of(net), 0);
}

/* ---- vhost ---- */

static int open_vhost(struct tap *t, struct err *err)
{
	for (unsigned int i = 0; i < t->open; i++) {
		int fd = vhost_open(&t->vhost_features, err);

		if (fd < 0)
			return fd;
		t->queue[i].vhost = fd;
	}
	return 0;
}

static u64 tap_vhost_features(const struct net *net)
{
	return container_of(net, const struct tap, net)->vhost_features;
}

static int tap_vhost_set_memory(struct net *net, const struct net_memory *memory, unsigned int n)
{
	struct tap *t = tap_of(net);
	int rc = 0;

	for (unsigned int i = 0; i < t->open && !rc; i++)
		rc = vhost_set_memory(t->queue[i].vhost, memory, n);
	return rc;
}

static int tap_vhost_start(struct net *net, unsigned int pair, u64 features,
			   const struct net_vring ring[2])
{
	struct tap_queue *q = &tap_of(net)->queue[pair];
	int rc;

	__atomic_store_n(&q->kernel, true, __ATOMIC_RELEASE);
	watch_queue(q);
	/* Bits 26 and 27 mean something else to vhost: its own log and header. */
	features &= tap_of(net)->vhost_features & ~(3ULL << 26);
	rc = vhost_start(q->vhost, features, ring, q->watch.fd);
	if (!rc) {
		q->next = q->count = 0; /* what waited for buffers is lost, as on a wire */
		return 0;
	}
	__atomic_store_n(&q->kernel, false, __ATOMIC_RELEASE);
	watch_queue(q);
	return rc;
}

static void tap_vhost_stop(struct net *net, unsigned int pair, u16 base[2])
{
	struct tap_queue *q = &tap_of(net)->queue[pair];

	vhost_stop(q->vhost, base);
	__atomic_store_n(&q->kernel, false, __ATOMIC_RELEASE);
	/* The loop's thread watches the descriptor again. */
	loop_post(net->loop, &q->resume);
}

/* ---- life ---- */

static int init_queue(struct tap *t, unsigned int pair, int fd)
{
	struct tap_queue *q = &t->queue[pair];

	q->vhost = -1;
	q->tap = t;
	q->pair = pair;
	q->watch = (struct loop_watch){.fd = fd, .fn = on_ready};
	q->resume.fn = resume_work;
	q->room.fn = room_work;
	q->memory = malloc((size_t)BATCH * BUFFER);
	return q->memory ? 0 : -ENOMEM;
}

static int tap_init(struct net *net, const void *config, struct err *err)
{
	const struct tap_config *c = config;
	struct tap *t = tap_of(net);
	unsigned int pairs = c->pairs ? (unsigned int)c->pairs : 1;
	int fds[NET_MAX_PAIRS], rc = tap_open(c, fds, &pairs, t->name, err);

	if (rc)
		return rc;
	t->open = pairs;
	t->active = 1; /* until the front end says more */
	t->set_active.fn = set_active_work;
	for (unsigned int i = 0; i < pairs; i++)
		rc = init_queue(t, i, fds[i]) ? -ENOMEM : rc;
	if (rc)
		return err_set(err, ENOMEM, "out of memory");
	net->pairs = pairs;
	net->caps = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN;
	if (!set_kernel_offloads(t, net->caps | NET_USO))
		net->caps |= NET_USO;
	set_kernel_offloads(t, 0);
	rc = c->vhost ? open_vhost(t, err) : 0;
	if (rc)
		return rc;
	set_active_work(&t->set_active);
	return 0;
}

static void tap_attached(struct net *net, bool client)
{
	struct tap *t = tap_of(net);

	for (unsigned int i = 0; i < t->open; i++) {
		t->queue[i].wants_input = client;
		watch_queue(&t->queue[i]);
	}
}

static void tap_stop(struct net *net)
{
	struct tap *t = tap_of(net);

	if (t->open)
		loop_cancel(net->loop, &t->set_active);
	for (unsigned int i = 0; i < t->open; i++) {
		loop_watch_del(&t->queue[i].watch);
		loop_cancel(net->loop, &t->queue[i].resume);
		loop_cancel(net->loop, &t->queue[i].room);
	}
}

static void tap_free(struct net *net)
{
	struct tap *t = tap_of(net);

	for (unsigned int i = 0; i < t->open; i++) {
		close(t->queue[i].watch.fd);
		fd_close(&t->queue[i].vhost);
		free(t->queue[i].memory);
	}
}

#define FIELD(f) offsetof(struct tap_config, f)

static const struct opt tap_options[] = {
	{"ifname", OPT_STRING, FIELD(ifname), "NAME", "the device; made when it is not there"},
	{"fd", OPT_STRING, FIELD(fd), "N", "a descriptor of a tap device, opened before"},
	{"queues", OPT_U64, FIELD(pairs), "N", "queue pairs (1)", .min = 1, .max = NET_MAX_PAIRS},
	{"vhost", OPT_BOOL, FIELD(vhost), "on|off", "let the kernel move a virtio card's frames"},
	OPT_END,
};

static const struct opt bridge_options[] = {
	{"br", OPT_STRING, FIELD(bridge), "NAME", "the bridge (br0)", .dflt = "br0"},
	{"helper", OPT_STRING, FIELD(helper), "PATH", "the bridge helper, when not root",
	 .dflt = "/usr/lib/qemu/qemu-bridge-helper"},
	{"vhost", OPT_BOOL, FIELD(vhost), "on|off", "let the kernel move a virtio card's frames"},
	OPT_END,
};

#define TAP_CLASS                                                                                  \
	.size = sizeof(struct tap), .config_size = sizeof(struct tap_config), .check = tap_check,  \
	.init = tap_init, .send = tap_send, .resume = tap_resume,                                  \
	.set_offloads = tap_set_offloads, .set_pairs = tap_set_pairs,                              \
	.vhost_features = tap_vhost_features, .vhost_set_memory = tap_vhost_set_memory,            \
	.vhost_start = tap_vhost_start, .vhost_stop = tap_vhost_stop, .attached = tap_attached,    \
	.stop = tap_stop, .free = tap_free

const struct net_class net_tap = {
	.name = "tap",
	.summary = "a tap device of the host",
	.options = tap_options,
	TAP_CLASS,
};

const struct net_class net_bridge = {
	.name = "bridge",
	.summary = "a bridge of the host, through a tap device of our own",
	.options = bridge_options,
	TAP_CLASS,
};
