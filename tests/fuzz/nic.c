#include "fuzz/nic.h"

#include "base/log.h"

#define RAM   (1 * MiB)
#define DEVFN 8

struct target {
	struct harness *h;
	struct net *far;
};

static void quiet(enum log_level level, const char *line)
{
}

static u32 swallow(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	u32 *room = ctx, taken = min(n, *room);

	*room -= taken;
	return taken;
}

/* A frame for the card, the cable, or the bus-master bit. */
static void other(void *ctx, struct fuzz_input *in)
{
	struct target *t = ctx;
	u8 pick = (u8)fuzz_take(in, 1);
	size_t len = 14 + (size_t)(pick & 0x3f) * 8;
	const u8 *data;

	if (pick == 0xff) {
		net_set_link(t->far, fuzz_take(in, 1) & 1);
	} else if (pick == 0xfe) {
		harness_config_write(t->h, DEVFN, 4, 2, (u32)fuzz_take(in, 2));
	} else {
		data = fuzz_take_bytes(in, &len);
		if (data && len >= NET_MIN_FRAME) {
			struct iovec iov = {(void *)(uintptr_t)data, len};
			struct net_frame frame = {.iov = &iov, .niov = 1, .len = (u32)len};

			net_send(t->far, 0, &frame, 1);
			harness_settle(t->h);
		}
	}
}

void fuzz_nic(const u8 *data, size_t size, const struct harness_range *ranges, size_t n, int bar,
	      struct device *(*make)(struct harness *h, struct net *net))
{
	struct harness_range absolute[8];
	struct fuzz_input in = {data, size};
	struct target t = {.h = harness_new(RAM)};
	u32 caps = fuzz_take(&in, 1) & 1 ? NET_CSUM | NET_TSO4 | NET_TSO6 : 0, room = 100000;
	const struct net_client client = {.ctx = &room, .receive = swallow};
	struct net *ends[2];
	u64 base;

	log_set_sink(quiet);
	harness_pci(t.h);
	assert_int_equal(net_loopback_new(ends, t.h->loop, 1, caps), 0);
	net_set_client(ends[1], &client);
	net_set_receive_offloads(ends[1], caps);
	t.far = ends[1];
	make(t.h, ends[0]);
	harness_pci_assign(t.h);
	harness_config_write(t.h, DEVFN, 4, 2, 7);
	base = harness_config_read(t.h, DEVFN, (u16)(0x10 + 4 * bar), 4) & ~15u;
	for (size_t i = 0; i < n; i++) {
		absolute[i] = ranges[i];
		absolute[i].base += base;
	}
	fuzz_run(t.h, absolute, n, RAM, &in, other, &t);
	net_stop(ends[0]);
	net_stop(ends[1]);
	bus_lock(t.h->bus);
	devices_free(t.h->bus);
	bus_unlock(t.h->bus);
	net_close(ends[0]);
	net_close(ends[1]);
	harness_free(t.h);
}
