/*
 * One thread reads requests and answers them one after the other.
 *
 * Invariants:
 * 1. A request is copied before it is parsed; only the data of reads and writes goes straight
 *    between files and guest memory.
 * 2. Descriptors come from openat2() beneath another descriptor of ours, one name at a time, or
 *    from reopening one of ours; no path of the host is ever used after init().
 */
#define _GNU_SOURCE
#include "virtio/p9.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_9p.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/hash.h"
#include "base/iov.h"
#include "os/file.h"
#include "virtio/features.h"
#include "virtio/p9_int.h"

#define QUEUE_SIZE 128
#define TURN_LIMIT 64

static struct p9 *of(struct virtio_device *dev)
{
	return container_of(dev, struct p9, dev);
}

static void count(u64 *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* ---- the parts of messages ---- */

u64 p9_get(struct p9_msg *m, unsigned int size)
{
	u64 v;

	if (m->in_len - m->in_pos < size) {
		m->bad = true;
		return 0;
	}
	v = load_le(m->in + m->in_pos, size);
	m->in_pos += size;
	return v;
}

void p9_get_string(struct p9_msg *m, char *out, u32 max)
{
	u32 len = (u32)p9_get(m, 2);

	*out = 0;
	if (len > max || len > m->in_len - m->in_pos || memchr(m->in + m->in_pos, 0, len)) {
		m->bad = true;
		return;
	}
	memcpy(out, m->in + m->in_pos, len);
	out[len] = 0;
	m->in_pos += len;
}

int p9_get_name(struct p9_msg *m, char out[P9_NAME_MAX + 1])
{
	p9_get_string(m, out, P9_NAME_MAX);
	if (m->bad)
		return -EINVAL;
	if (!*out || !strcmp(out, ".") || !strcmp(out, "..") || strchr(out, '/'))
		return -EINVAL;
	return 0;
}

void p9_put(struct p9_msg *m, unsigned int size, u64 value)
{
	if (m->out_cap - m->out_len < size) {
		m->bad = true;
		return;
	}
	store_le(m->out + m->out_len, size, value);
	m->out_len += size;
}

void p9_put_string(struct p9_msg *m, const char *text, u32 len)
{
	p9_put(m, 2, len);
	if (m->bad || m->out_cap - m->out_len < len) {
		m->bad = true;
		return;
	}
	memcpy(m->out + m->out_len, text, len);
	m->out_len += len;
}

u64 p9_qid_path(const struct p9 *p9, u64 dev, u64 ino)
{
	return dev == p9->root_dev ? ino : ino ^ hash_u64(dev);
}

void p9_put_qid(struct p9_msg *m, const struct p9 *p9, const struct stat *st)
{
	u8 type = S_ISDIR(st->st_mode) ? 0x80 : S_ISLNK(st->st_mode) ? 0x02 : 0;

	p9_put(m, 1, type);
	p9_put(m, 4, (u32)st->st_mtim.tv_sec ^ (u32)st->st_mtim.tv_nsec ^ (u32)st->st_size);
	p9_put(m, 8, p9_qid_path(p9, st->st_dev, st->st_ino));
}

/* ---- requests that are about no file ---- */

static int version(struct p9 *p9, struct p9_msg *m)
{
	u32 msize = (u32)p9_get(m, 4);
	char text[32];

	p9_get_string(m, text, sizeof(text) - 1);
	if (m->bad || msize < P9_MIN_MSIZE)
		return -EINVAL;
	p9_fids_free(p9); /* a new session */
	p9->msize = min(msize, P9_MAX_MSIZE);
	p9_put(m, 4, p9->msize);
	if (strcmp(text, "9P2000.L"))
		p9_put_string(m, "unknown", 7);
	else
		p9_put_string(m, text, 8);
	return 0;
}

static int clunk(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);

	if (fid)
		p9_fid_free(p9, fid);
	return rc;
}

/* The name is not known any more; unlinkat is. The fid goes in any case. */
static int remove_fid(struct p9 *p9, struct p9_msg *m)
{
	int rc = clunk(p9, m);

	return rc ? rc : -EOPNOTSUPP;
}

/* Requests are answered in order, so what is to be flushed has been. */
static int flush(struct p9 *p9, struct p9_msg *m)
{
	p9_get(m, 2);
	return 0;
}

static const struct {
	int (*fn)(struct p9 *p9, struct p9_msg *m);
	bool writes; /* refused on a read-only share */
} operations[128] = {
	[P9_STATFS] = {p9_statfs},
	[P9_LOPEN] = {p9_lopen},
	[P9_LCREATE] = {p9_lcreate, true},
	[P9_SYMLINK] = {p9_symlink, true},
	[P9_MKNOD] = {p9_mknod, true},
	[P9_READLINK] = {p9_readlink},
	[P9_GETATTR] = {p9_getattr},
	[P9_SETATTR] = {p9_setattr, true},
	[P9_READDIR] = {p9_readdir},
	[P9_FSYNC] = {p9_fsync},
	[P9_LOCK] = {p9_lock},
	[P9_GETLOCK] = {p9_getlock},
	[P9_LINK] = {p9_link, true},
	[P9_MKDIR] = {p9_mkdir, true},
	[P9_RENAMEAT] = {p9_renameat, true},
	[P9_UNLINKAT] = {p9_unlinkat, true},
	[P9_VERSION] = {version},
	[P9_ATTACH] = {p9_attach},
	[P9_FLUSH] = {flush},
	[P9_WALK] = {p9_walk},
	[P9_READ] = {p9_read},
	[P9_WRITE] = {p9_write, true},
	[P9_CLUNK] = {clunk},
	[P9_REMOVE] = {remove_fid},
};

/* ---- one request ---- */

static int run(struct p9 *p9, struct p9_msg *m, u8 type)
{
	int rc;

	if (type >= ARRAY_SIZE(operations) || !operations[type].fn)
		return -EOPNOTSUPP;
	if (operations[type].writes && p9->readonly)
		return -EROFS;
	rc = operations[type].fn(p9, m);
	return !rc && m->bad ? -EINVAL : rc;
}

/* The answer goes out; the number of bytes, 0 when the driver left no room for it. */
static u32 send(const struct p9_msg *m, struct virtq_chain *chain, u8 type, u16 tag)
{
	u32 len = m->out_len + m->direct;

	store_le32(m->out, len);
	m->out[4] = type;
	store_le16(m->out + 5, tag);
	if (len > chain->in_len)
		return 0;
	iov_from_buf(chain->in, chain->nin, 0, m->out, m->out_len);
	return len;
}

static void answer(struct p9 *p9, struct virtq *vq, struct virtq_chain *chain)
{
	u8 request[P9_MAX_REQUEST];
	struct p9_msg m = {.in = request,
			   .out = p9->reply,
			   .out_cap = min(chain->in_len, p9->msize),
			   .out_len = P9_HEADER,
			   .chain = chain};
	u32 size, len;
	u8 type;
	u16 tag;
	int rc;

	m.in_len = (u32)iov_to_buf(chain->out, chain->nout, 0, request, sizeof(request));
	size = (u32)p9_get(&m, 4);
	type = (u8)p9_get(&m, 1);
	tag = (u16)p9_get(&m, 2);
	if (m.bad || size < P9_HEADER || size > chain->out_len || chain->in_len < P9_HEADER + 4) {
		count(&p9->errors);
		virtq_push(vq, chain, 0);
		return;
	}
	m.in_len = min(m.in_len, size);
	count(&p9->requests);
	rc = run(p9, &m, type);
	if (rc) {
		count(&p9->errors);
		m.out_len = P9_HEADER;
		m.direct = 0;
		m.bad = false;
		m.out_cap = P9_HEADER + 4;
		p9_put(&m, 4, (u32)-rc);
		type = P9_LERROR;
	}
	len = send(&m, chain, type + 1, tag);
	virtq_push(vq, chain, len);
}

static void kick(struct virtio_queue *queue)
{
	struct p9 *p9 = of(queue->dev);
	struct virtq_chain *chain;
	int left = TURN_LIMIT;

	do {
		virtq_notify_disable(&queue->vq);
		while (left && (chain = virtq_pop(&queue->vq))) {
			answer(p9, &queue->vq, chain);
			/* One by one: the guest is waiting for each. */
			virtq_flush(&queue->vq);
			left--;
		}
	} while (left && virtq_notify_enable(&queue->vq));
	if (!left)
		virtio_queue_poke(queue);
}

/* ---- life ---- */

static void *p9_thread(void *arg)
{
	struct p9 *p9 = arg;

	loop_run(p9->loop);
	return NULL;
}

static int open_folder(struct p9 *p9, const char *path, struct err *err)
{
	struct stat st;

	p9->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p9->root < 0 || fstat(p9->root, &st))
		return err_set(err, errno, "%s: %s", path, strerror(errno));
	p9->root_dev = st.st_dev;
	p9->proc_fds = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p9->proc_fds < 0)
		return err_set(err, errno, "/proc/self/fd: %s", strerror(errno));
	return 0;
}

static int init(struct virtio_device *dev, const void *config, struct err *err)
{
	const struct virtio_p9_options *o = config;
	struct p9 *p9 = of(dev);
	size_t tag_len = strlen(o->tag);
	int rc;

	p9->root = p9->proc_fds = -1;
	p9->readonly = o->readonly;
	p9->msize = P9_MIN_MSIZE;
	for (int i = 0; i < P9_BUCKETS; i++)
		list_init(&p9->buckets[i]);
	if (!tag_len || tag_len > VIRTIO_P9_TAG_MAX)
		return err_set(err, EINVAL, "tag \"%s\": 1 to %d bytes", o->tag, VIRTIO_P9_TAG_MAX);
	rc = open_folder(p9, o->path, err);
	if (rc)
		return rc;
	fd_limit_raise(UINT64_MAX); /* each fid is a descriptor */
	p9->reply = malloc(P9_MAX_MSIZE);
	p9->loop = loop_new();
	if (!p9->reply || !p9->loop)
		return err_set(err, ENOMEM, "%s: no memory", o->path);
	virtio_offer(dev, VIRTIO_F(VIRTIO_9P_MOUNT_TAG));
	dev->config_size = 2 + (u32)tag_len;
	store_le16(dev->config, (u16)tag_len);
	memcpy(dev->config + 2, o->tag, tag_len);
	return virtio_add_queue(dev, QUEUE_SIZE, sizeof(struct virtq_chain), p9->loop, err);
}

static int ready(struct virtio_device *dev, struct err *err)
{
	struct p9 *p9 = of(dev);
	int rc = thread_start(&p9->thread, THREAD_HELPER, dev->id, p9_thread, p9);

	return rc ? err_set(err, -rc, "no thread: %s", strerror(-rc)) : 0;
}

static void queue_stop(struct virtio_queue *queue)
{
	p9_fids_free(of(queue->dev));
}

static void stop(struct virtio_device *dev)
{
	struct p9 *p9 = of(dev);

	if (p9->thread.started)
		loop_stop(p9->loop, 0);
	thread_join(&p9->thread);
}

static void free_device(struct virtio_device *dev)
{
	struct p9 *p9 = of(dev);

	if (p9->loop)
		p9_fids_free(p9);
	fd_close(&p9->root);
	fd_close(&p9->proc_fds);
	loop_free(p9->loop);
	free(p9->reply);
}

static void stats(struct virtio_device *dev, void (*line)(void *ctx, const char *name, u64 value),
		  void *ctx)
{
	struct p9 *p9 = of(dev);

	line(ctx, "requests", __atomic_load_n(&p9->requests, __ATOMIC_RELAXED));
	line(ctx, "errors", __atomic_load_n(&p9->errors, __ATOMIC_RELAXED));
}

const struct virtio_class virtio_9p = {
	.name = "9p",
	.summary = "a folder of the host",
	.id = VIRTIO_ID_9P,
	.pci_class = 0x018000,
	.size = sizeof(struct p9),
	.in_order = VIRTIO_F(VIRTIO_F_IN_ORDER),
	.init = init,
	.ready = ready,
	.kick = kick,
	.queue_stop = queue_stop,
	.stop = stop,
	.free = free_device,
	.stats = stats,
	.state = STATE_UNMIGRATABLE,
};
