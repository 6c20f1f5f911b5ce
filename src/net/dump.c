/*
 * A capture file (pcap, nanosecond stamps) of what passes a link, as a filter above another back
 * end, or by itself: then it takes every frame and none comes back. Frames are written as the
 * guest gave them: where checksums and segmentation are offloaded, the file shows that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "net/net_int.h"
#include "os/clock.h"
#include "os/file.h"

#define MAX_IOV 64

struct dump {
	struct net net;
	struct net *lower;
	pthread_mutex_t lock; /* frames of several pairs and both directions meet in one file */
	int fd;
	u64 size; /* of what is whole in the file */
};

struct dump_config {
	char *file;
	struct net *lower;
};

struct pcap_file_header {
	u32 magic;
	u16 major, minor;
	s32 zone;
	u32 accuracy, snap_len, link_type;
};

struct pcap_record {
	u32 sec, nsec, captured, len;
};

/* ---- writing ---- */

/* 0, or -errno and the file ends with the record before (as far as it is one that can). */
static int write_record(struct dump *dump, const struct net_frame *frame)
{
	u64 now = clock_realtime_ns();
	struct pcap_record record = {
		.sec = (u32)(now / NSEC_PER_SEC),
		.nsec = (u32)(now % NSEC_PER_SEC),
		.captured = frame->len,
		.len = frame->len,
	};
	struct iovec iov[MAX_IOV] = {{.iov_base = &record, .iov_len = sizeof(record)}};
	u32 n = min(frame->niov, (u32)MAX_IOV - 1);
	ssize_t want, written;
	int rc;

	memcpy(iov + 1, frame->iov, n * sizeof(*iov));
	for (u32 i = 0, sum = 0; i < n; i++, record.captured = sum)
		sum += (u32)frame->iov[i].iov_len;
	want = (ssize_t)(sizeof(record) + record.captured);
	written = writev(dump->fd, iov, (int)n + 1);
	if (written == want) {
		dump->size += (u64)want;
		return 0;
	}
	rc = written < 0 ? -errno : -ENOSPC;
	if (ftruncate(dump->fd, (off_t)dump->size))
		errno = 0;
	return rc;
}

static void capture(struct dump *dump, const struct net_frame *frames, u32 n)
{
	pthread_mutex_lock(&dump->lock);
	for (u32 i = 0; i < n && dump->fd >= 0; i++) {
		int rc = write_record(dump, &frames[i]);

		if (!rc)
			continue;
		log_error("the network capture ends here: %s", strerror(-rc));
		fd_close(&dump->fd);
	}
	pthread_mutex_unlock(&dump->lock);
}

static int open_file(struct dump *dump, const char *path, struct err *err)
{
	struct pcap_file_header header = {
		.magic = 0xa1b23c4d, /* nanoseconds, in our byte order */
		.major = 2,
		.minor = 4,
		.snap_len = NET_MAX_FRAME,
		.link_type = 1, /* Ethernet */
	};

	if (!path)
		return err_set(err, EINVAL, "a capture needs file=FILE");
	dump->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0644);
	if (dump->fd < 0)
		return err_set(err, errno, "%s: %s", path, strerror(errno));
	if (write(dump->fd, &header, sizeof(header)) != sizeof(header))
		return err_set(err, EIO, "%s: cannot write", path);
	dump->size = sizeof(header);
	return 0;
}

/* ---- between the front end and the lower link ---- */

static u32 dump_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct dump *dump = container_of(net, struct dump, net);
	u32 sent = dump->lower ? net_send(dump->lower, pair, frames, n) : n;

	capture(dump, frames, sent);
	return sent;
}

static u32 dump_receive(void *ctx, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct dump *dump = ctx;
	u32 taken = net_deliver(&dump->net, pair, frames, n);

	capture(dump, frames, taken);
	return taken;
}

static void dump_sendable(void *ctx, unsigned int pair)
{
	struct dump *dump = ctx;

	net_deliver_sendable(&dump->net, pair);
}

static void dump_link(void *ctx, bool up)
{
	struct dump *dump = ctx;

	net_set_link(&dump->net, up);
}

static void dump_resume(struct net *net, unsigned int pair)
{
	struct dump *dump = container_of(net, struct dump, net);

	if (dump->lower)
		net_receive_resume(dump->lower, pair);
}

static void dump_set_offloads(struct net *net, u32 mask)
{
	struct dump *dump = container_of(net, struct dump, net);

	if (dump->lower)
		net_set_receive_offloads(dump->lower, mask);
}

static void dump_set_pairs(struct net *net, unsigned int n)
{
	struct dump *dump = container_of(net, struct dump, net);

	if (dump->lower)
		net_set_pairs(dump->lower, n);
}

static void dump_attached(struct net *net, bool client)
{
	struct dump *dump = container_of(net, struct dump, net);
	const struct net_client self = {
		.ctx = dump,
		.receive = dump_receive,
		.sendable = dump_sendable,
		.link = dump_link,
	};

	if (!dump->lower)
		return;
	net_set_client(dump->lower, client ? &self : NULL);
	net_set_link(net, net_link(dump->lower)); /* it may have changed while nobody listened */
}

/* ---- life ---- */

static int dump_init(struct net *net, const void *config, struct err *err)
{
	const struct dump_config *c = config;
	struct dump *dump = container_of(net, struct dump, net);
	int rc;

	dump->fd = -1;
	pthread_mutex_init(&dump->lock, NULL);
	rc = open_file(dump, c->file, err);
	if (rc)
		return rc;
	dump->lower = c->lower;
	if (!c->lower)
		return 0;
	net->pairs = net->active_pairs = c->lower->pairs;
	net->caps = c->lower->caps;
	net->link_down = c->lower->link_down;
	memcpy(net->pair_loop, c->lower->pair_loop, sizeof(net->pair_loop));
	return 0;
}

static void dump_stop(struct net *net)
{
	struct dump *dump = container_of(net, struct dump, net);

	if (dump->lower)
		net_stop(dump->lower);
}

static void dump_free(struct net *net)
{
	struct dump *dump = container_of(net, struct dump, net);

	net_close(dump->lower);
	fd_close(&dump->fd);
	pthread_mutex_destroy(&dump->lock);
}

static const struct opt dump_options[] = {
	{.name = "file",
	 .type = OPT_STRING,
	 .offset = offsetof(struct dump_config, file),
	 .arg = "FILE",
	 .help = "where to write the frames"},
	OPT_END,
};

const struct net_class net_dump = {
	.name = "dump",
	.summary = "nobody answers; frames go to a pcap file",
	.size = sizeof(struct dump),
	.options = dump_options,
	.config_size = sizeof(struct dump_config),
	.init = dump_init,
	.send = dump_send,
	.resume = dump_resume,
	.set_offloads = dump_set_offloads,
	.set_pairs = dump_set_pairs,
	.attached = dump_attached,
	.stop = dump_stop,
	.free = dump_free,
};

int net_dump_new(struct net **out, struct net *lower, const char *path, struct err *err)
{
	struct dump_config config = {.file = (char *)(uintptr_t)path, .lower = lower};

	return net_new(out, &net_dump, lower->loop, &config, err);
}
