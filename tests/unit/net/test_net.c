#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/net.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/loop.h"

/* A front end that takes at most `room` frames and remembers the last one. */
struct card {
	u32 room, received, sendables;
	bool up;
	u8 last[NET_MAX_FRAME];
	u32 last_len;
	struct net_offload offload;
};

static u32 card_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct card *card = ctx;
	u32 taken = min(n, card->room);

	assert_int_equal(pair, 0);
	for (u32 i = 0; i < taken; i++) {
		card->last_len = frames[i].len;
		card->offload = frames[i].offload;
		memcpy(card->last, frames[i].iov[0].iov_base, frames[i].len);
	}
	card->room -= taken;
	card->received += taken;
	return taken;
}

static void card_sendable(void *ctx, unsigned int pair)
{
	struct card *card = ctx;

	card->sendables++;
}

static void card_link(void *ctx, bool up)
{
	struct card *card = ctx;

	card->up = up;
}

static void card_attach(struct card *card, struct net *net)
{
	const struct net_client client = {
		.ctx = card, .receive = card_receive, .sendable = card_sendable, .link = card_link};

	memset(card, 0, sizeof(*card));
	net_set_client(net, &client);
}

static void turn(struct loop *loop)
{
	for (int i = 0; i < 4; i++)
		assert_int_equal(loop_run_once(loop, 0), 0);
}

static struct card card[2];

static void pair_stops_and_goes_on(void **state)
{
	struct loop *loop = loop_new();
	struct net *end[2];
	u8 data[100] = {2, 0, 0, 0, 0, 1};
	struct iovec iov = {data, sizeof(data)};
	struct net_frame frames[NET_BATCH];
	u32 sent = 0, n;

	assert_int_equal(net_loopback_new(end, loop, 1, 0), 0);
	card_attach(&card[0], end[0]);
	card_attach(&card[1], end[1]);
	for (int i = 0; i < NET_BATCH; i++)
		frames[i] = (struct net_frame){.iov = &iov, .niov = 1, .len = sizeof(data)};
	/* Nobody has room: the ring fills and the sender is stopped. */
	do {
		n = net_send(end[0], 0, frames, NET_BATCH);
		sent += n;
		assert_true(sent < 10000);
	} while (n == NET_BATCH);
	turn(loop);
	assert_int_equal(card[1].received, 0);
	assert_int_equal(card[0].sendables, 0);
	/* Room for three: three arrive, and the sender hears of it. */
	card[1].room = 3;
	net_receive_resume(end[1], 0);
	turn(loop);
	assert_int_equal(card[1].received, 3);
	assert_int_equal(card[0].sendables, 1);
	assert_int_equal(net_send(end[0], 0, frames, NET_BATCH), 3);
	card[1].room = 100000;
	net_receive_resume(end[1], 0);
	turn(loop);
	assert_int_equal(card[1].received, sent + 3);
	assert_int_equal(card[1].last_len, sizeof(data));
	assert_memory_equal(card[1].last, data, sizeof(data));
	net_close(end[1]);
	assert_int_equal(net_send(end[0], 0, frames, 2), 2); /* into the void */
	net_close(end[0]);
	loop_free(loop);
}

static void link_and_bad_frames(void **state)
{
	struct loop *loop = loop_new();
	struct net *end[2];
	struct net_stats stats;
	u8 data[64] = {2};
	struct iovec iov = {data, sizeof(data)};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = 13};

	assert_int_equal(net_loopback_new(end, loop, 1, NET_CSUM), 0);
	card_attach(&card[1], end[1]);
	card[1].room = 10;
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1); /* runt */
	frame.len = 64;
	frame.offload = (struct net_offload){
		.flags = NET_HDR_NEEDS_CSUM, .csum_start = 62, .csum_offset = 1};
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1); /* checksum past the end */
	frame.offload = (struct net_offload){
		.flags = NET_HDR_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff};
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1);
	frame.offload = (struct net_offload){.gso_type = NET_GSO_TCPV4, .gso_size = 1};
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1); /* not offered */
	frame.offload = (struct net_offload){0};
	net_set_link(end[1], false);
	assert_false(card[1].up);
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1);
	turn(loop);
	assert_int_equal(card[1].received, 0);
	net_get_stats(end[0], &stats);
	assert_int_equal(stats.tx_dropped, 4);
	assert_int_equal(stats.tx_frames, 1);
	net_get_stats(end[1], &stats);
	assert_int_equal(stats.rx_dropped, 1);
	/* Pulled out: the carrier that comes back is not seen before the cable is in again. */
	net_plug(end[1], false);
	turn(loop);
	assert_false(card[1].up);
	net_set_link(end[1], true);
	assert_false(card[1].up);
	assert_false(net_link(end[1]));
	net_plug(end[1], true);
	turn(loop);
	assert_true(card[1].up);
	net_plug(end[1], false);
	net_plug(end[1], true);
	turn(loop);
	assert_true(card[1].up);
	net_plug(end[1], false); /* and closed with that under way */
	net_close(end[0]);
	net_close(end[1]);
	loop_free(loop);
}

/* A UDP header with the pseudo header's sum in place, finished for a card that cannot. */
static void checksum_is_finished(void **state)
{
	struct loop *loop = loop_new();
	struct net *end[2];
	u8 data[14 + 20 + 8 + 3] = {2};
	struct iovec iov = {data, sizeof(data)};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = sizeof(data)};
	u32 sum;

	assert_int_equal(net_loopback_new(end, loop, 1, NET_CSUM), 0);
	card_attach(&card[1], end[1]);
	card[1].room = 2;
	memcpy(data + 34,
	       "\x12\x34\x00\x35\x00\x0b\x00\x00"
	       "abc",
	       11);
	memcpy(data + 26, "\x0a\x00\x02\x0f\x0a\x00\x02\x02", 8);
	/* RFC 768: addresses, protocol, length; not inverted. */
	sum = net_csum_add(17 + 11, data + 26, 8);
	store_be16(data + 40, (u16)~net_csum_fold(sum));
	frame.offload = (struct net_offload){
		.flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1);
	turn(loop);
	assert_int_equal(card[1].received, 1);
	assert_int_equal(card[1].offload.flags, 0);
	/* The receiver's check: everything sums to 0xffff. */
	sum = net_csum_add(net_csum_add(17 + 11, card[1].last + 26, 8), card[1].last + 34, 11);
	assert_int_equal(net_csum_fold(sum), 0);
	assert_true(load_be16(card[1].last + 40));

	net_set_receive_offloads(end[1], NET_CSUM);
	assert_int_equal(net_send(end[0], 0, &frame, 1), 1);
	turn(loop);
	assert_int_equal(card[1].offload.flags, NET_HDR_NEEDS_CSUM);
	assert_memory_equal(card[1].last, data, sizeof(data));
	net_close(end[0]);
	net_close(end[1]);
	loop_free(loop);
}

static void capture_has_both_directions(void **state)
{
	struct loop *loop = loop_new();
	char path[] = "/tmp/bothy-dump-XXXXXX", spec[128];
	struct net_card options;
	struct net *net;
	struct err err = {""};
	u8 data[60] = {2, 1}, *file;
	struct iovec iov[2] = {{data, 20}, {data + 20, 40}};
	struct net_frame frame = {.iov = iov, .niov = 2, .len = sizeof(data)};
	size_t len;

	close(mkstemp(path));
	snprintf(spec, sizeof(spec), "loopback,mac=52:54:00:aa:bb:cc,dump=%s", path);
	assert_int_equal(net_open(&net, loop, spec, &options, &err), 0);
	assert_true(options.has_mac);
	assert_int_equal(options.mac[5], 0xcc);
	assert_int_equal(options.pairs, 1);
	card_attach(&card[0], net);
	card[0].room = 5;
	assert_int_equal(net_send(net, 0, &frame, 1), 1);
	turn(loop);
	assert_int_equal(card[0].received, 1);
	net_close(net);
	opt_free(net_card_table, &options);
	assert_int_equal(file_read_all(path, 4096, (void **)&file, &len, &err), 0);
	assert_int_equal(len, 24 + 2 * (16 + 60));
	assert_int_equal(load_le32(file), 0xa1b23c4d);
	assert_int_equal(load_le32(file + 20), 1);
	for (int i = 0; i < 2; i++) {
		u8 *record = file + 24 + i * 76;

		assert_int_equal(load_le32(record + 8), 60);
		assert_int_equal(load_le32(record + 12), 60);
		assert_memory_equal(record + 16, data, 60);
	}
	free(file);
	unlink(path);
	loop_free(loop);
}

/* A disk that is full ends the capture with a whole frame, and nothing else. */
static void capture_ends_with_a_whole_frame(void **state)
{
	struct loop *loop = loop_new();
	char path[] = "/tmp/bothy-dump-XXXXXX";
	struct rlimit before, limit;
	struct net *ends[2], *top;
	struct err err = {""};
	struct stat st;
	u8 data[60] = {2, 1};
	struct iovec iov = {data, sizeof(data)};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = sizeof(data)};

	close(mkstemp(path));
	assert_int_equal(net_loopback_new(ends, loop, 1, 0), 0);
	assert_int_equal(net_dump_new(&top, ends[0], path, &err), 0);
	getrlimit(RLIMIT_FSIZE, &before);
	limit = before;
	limit.rlim_cur = 24 + 2 * 76 + 40;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(net_send(top, 0, &frame, 1), 1);
	setrlimit(RLIMIT_FSIZE, &before);
	net_close(top);
	net_close(ends[1]);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 24 + 2 * 76);
	unlink(path);
	loop_free(loop);
}

static void wait_for(struct loop *loop, const u32 *counter, u32 value)
{
	u64 end = clock_now_ns() + 10 * NSEC_PER_SEC;

	while (*counter < value && clock_now_ns() < end)
		loop_run_once(loop, 10 * NSEC_PER_MSEC);
	assert_true(*counter >= value);
}

/* The burst and one more go at once; the sender keeps the others and hears when it may go on. */
static void limits_sending(void **state)
{
	const struct net_limits limits = {.pps = 20, .pps_burst = 5};
	struct loop *loop = loop_new();
	struct net_frame frames[30];
	struct net *end[2], *top;
	u64 start = clock_now_ns();
	u32 sent, want = 0;
	u8 data[60] = {2, 1};
	struct iovec iov = {data, sizeof(data)};

	for (int i = 0; i < 30; i++)
		frames[i] = (struct net_frame){.iov = &iov, .niov = 1, .len = 60};
	memset(card, 0, sizeof(card));
	assert_int_equal(net_loopback_new(end, loop, 1, 0), 0);
	assert_int_equal(net_throttle_new(&top, end[0], &limits, NULL), 0);
	card_attach(&card[0], top);
	card_attach(&card[1], end[1]);
	card[1].room = 100;
	sent = net_send(top, 0, frames, 30);
	assert_int_equal(sent, 6);
	while (sent < 20) {
		u32 n = net_send(top, 0, frames, 20 - sent);

		sent += n;
		if (sent < 20)
			wait_for(loop, &card[0].sendables, ++want);
	}
	assert_true(want > 0);
	/* Never sooner than the limit says, however fast the machine is. */
	assert_true(clock_now_ns() - start >= (20 - 6) * NSEC_PER_SEC / 20);
	wait_for(loop, &card[1].received, 20);
	assert_int_equal(card[1].received, 20);
	net_close(top);
	net_close(end[1]);
	loop_free(loop);
}

/* What the limit holds back stays in the back end, and what the guest did not take is not
 * counted. */
static void limits_receiving(void **state)
{
	const struct net_limits limits = {.bps = 6000, .bps_burst = 1500};
	struct loop *loop = loop_new();
	struct net_frame frames[20];
	struct net *end[2], *top;
	u8 data[300] = {2, 1};
	u64 start;
	struct iovec iov = {data, sizeof(data)};

	for (int i = 0; i < 20; i++)
		frames[i] = (struct net_frame){.iov = &iov, .niov = 1, .len = 300};
	memset(card, 0, sizeof(card));
	assert_int_equal(net_loopback_new(end, loop, 1, 0), 0);
	assert_int_equal(net_throttle_new(&top, end[0], &limits, NULL), 0);
	card_attach(&card[0], top);
	card_attach(&card[1], end[1]);
	assert_int_equal(net_send(end[1], 0, frames, 20), 20);
	/* Without a buffer nothing is used up: the whole burst is there afterwards. */
	for (int i = 0; i < 10; i++) {
		net_receive_resume(top, 0);
		loop_run_once(loop, NSEC_PER_MSEC);
	}
	assert_int_equal(card[0].received, 0);
	card[0].room = 100;
	start = clock_now_ns();
	net_receive_resume(top, 0);
	loop_run_once(loop, NSEC_PER_SEC);
	assert_true(card[0].received >= 6);
	wait_for(loop, &card[0].received, 20);
	assert_true(clock_now_ns() - start >= (20 - 6) * NSEC_PER_SEC / 20);
	net_close(end[1]);
	/* Closed with a timer running. */
	net_send(top, 0, frames, 20);
	net_close(top);
	loop_free(loop);
}

static void limits_from_options(void **state)
{
	struct loop *loop = loop_new();
	struct net_card options;
	struct net_frame frames[NET_BATCH];
	struct net *net;
	struct err err = {""};
	u8 data[60] = {2, 1};
	struct iovec iov = {data, sizeof(data)};

	for (int i = 0; i < NET_BATCH; i++)
		frames[i] = (struct net_frame){.iov = &iov, .niov = 1, .len = 60};
	assert_int_equal(
		net_open(&net, loop, "loopback,bps=1K,pps=1M,bps-burst=600", &options, &err),
		-EINVAL); /* pps is a plain number */
	assert_int_equal(
		net_open(&net, loop, "loopback,bps=1K,pps=1000,bps-burst=600", &options, &err), 0);
	assert_string_equal(net_name(net), "throttle");
	assert_int_equal(net_send(net, 0, frames, NET_BATCH), 11);
	net_close(net);
	opt_free(net_card_table, &options);
	loop_free(loop);
}

static void options_are_checked(void **state)
{
	static const char *const bad[] = {
		"nothing",
		"loopback,mac=01:00:00:00:00:01",
		"loopback,mac=1:2:3",
		"loopback,mac=00:00:00:00:00:00",
		"loopback,queues=2",
		"loopback,bps-burst=1K",
		"loopback,bps=1K,pps-burst=5",
		"loopback,queues=9",
		"loopback,mtu=100",
		"loopback,colour=red",
		"dump,file=/nowhere/x.pcap",
		"dump",
		"loopback,dump=/nowhere/x",
	};
	struct loop *loop = loop_new();
	u8 a[6], b[6];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct net_card options;
		struct net *net;
		struct err err = {""};

		assert_true(net_open(&net, loop, bad[i], &options, &err) < 0);
		assert_true(err.text[0]);
	}
	net_mac_default(a, "one", 0);
	net_mac_default(b, "one", 1);
	assert_memory_not_equal(a, b, 6);
	net_mac_default(b, "two", 0);
	assert_memory_not_equal(a, b, 6);
	assert_int_equal(a[0] & 3, 2); /* local, unicast */
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pair_stops_and_goes_on),
		cmocka_unit_test(link_and_bad_frames),
		cmocka_unit_test(checksum_is_finished),
		cmocka_unit_test(capture_has_both_directions),
		cmocka_unit_test(capture_ends_with_a_whole_frame),
		cmocka_unit_test(limits_sending),
		cmocka_unit_test(limits_receiving),
		cmocka_unit_test(limits_from_options),
		cmocka_unit_test(options_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
