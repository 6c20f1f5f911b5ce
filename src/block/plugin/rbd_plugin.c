/* bothy-rbd.so: librbd behind rbd.h. */
#include <errno.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdlib.h>
#include <string.h>

#include "block/rbd.h"

#define LOCK_COOKIE "bothy"

struct image {
	rados_t cluster;
	rados_ioctx_t pool;
	rbd_image_t rbd;
	bool opened, owner, advisory;
};

/* ---- open and close ---- */

static int connect_cluster(struct image *i, const struct rbd_address *a, struct err *err)
{
	int rc = rados_create(&i->cluster, a->user);

	if (rc)
		return err_set(err, -rc, "cannot start librados: %s", strerror(-rc));
	/* Without a name: CEPH_CONF, /etc/ceph/ceph.conf, ~/.ceph/config, ./ceph.conf. */
	rc = rados_conf_read_file(i->cluster, a->conf);
	if (rc)
		return err_set(err, -rc, "%s: cannot read Ceph's configuration: %s",
			       a->conf ? a->conf : "ceph.conf", strerror(-rc));
	/* A cluster that is not there must not keep us for five minutes. */
	rados_conf_set(i->cluster, "client_mount_timeout", "30");
	rc = rados_connect(i->cluster);
	if (rc)
		return err_set(err, -rc, "cannot reach the Ceph cluster: %s", strerror(-rc));
	rc = rados_ioctx_create(i->cluster, a->pool, &i->pool);
	if (rc)
		return err_set(err, -rc, "pool %s: %s", a->pool, strerror(-rc));
	if (a->space)
		rados_ioctx_set_namespace(i->pool, a->space);
	return 0;
}

static bool has_exclusive_lock(struct image *i)
{
	uint64_t features = 0;

	return !rbd_get_features(i->rbd, &features) && (features & RBD_FEATURE_EXCLUSIVE_LOCK);
}

/*
 * With the feature exclusive-lock it is the real one, which another writer cannot take over while
 * we hold it; without it an advisory lock, which other careful programs look at.
 */
static int lock_image(struct image *i, struct err *err)
{
	int rc;

	if (has_exclusive_lock(i)) {
		rc = rbd_lock_acquire(i->rbd, RBD_LOCK_MODE_EXCLUSIVE);
		i->owner = !rc;
	} else {
		rc = rbd_lock_exclusive(i->rbd, LOCK_COOKIE);
		i->advisory = !rc;
	}
	if (rc == -EBUSY || rc == -EROFS || rc == -EEXIST)
		return err_set(err, EAGAIN, "is in use by another program");
	return rc ? err_set(err, -rc, "cannot lock the image: %s", strerror(-rc)) : 0;
}

static int close_image(void *image)
{
	struct image *i = image;
	int rc = 0;

	if (i->owner)
		rbd_lock_release(i->rbd);
	if (i->advisory)
		rbd_unlock(i->rbd, LOCK_COOKIE);
	if (i->opened)
		rc = rbd_close(i->rbd);
	if (i->pool)
		rados_ioctx_destroy(i->pool);
	if (i->cluster)
		rados_shutdown(i->cluster);
	free(i);
	return rc;
}

static int open_image(void **image, const struct rbd_address *a, bool readonly, bool lock,
		      struct rbd_info *info, struct err *err)
{
	struct image *i = calloc(1, sizeof(*i));
	rbd_image_info_t st;
	int rc;

	if (!i)
		return err_set(err, ENOMEM, "out of memory");
	rc = connect_cluster(i, a, err);
	if (rc)
		goto fail;
	rc = readonly ? rbd_open_read_only(i->pool, a->image, &i->rbd, a->snapshot)
		      : rbd_open(i->pool, a->image, &i->rbd, a->snapshot);
	if (rc) {
		err_set(err, -rc, "image %s: %s", a->image, strerror(-rc));
		goto fail;
	}
	i->opened = true;
	if (lock && !readonly) {
		rc = lock_image(i, err);
		if (rc)
			goto fail;
	}
	rc = rbd_stat(i->rbd, &st, sizeof(st));
	if (rc) {
		err_set(err, -rc, "image %s: %s", a->image, strerror(-rc));
		goto fail;
	}
	info->size = st.size;
	info->object_size = (u32)(st.obj_size > (1 << 30) ? 1 << 30 : st.obj_size);
	*image = i;
	return 0;
fail:
	close_image(i);
	return rc;
}

/* ---- I/O ---- */

struct call {
	struct rbd_io io;
};

static void on_done(rbd_completion_t completion, void *arg)
{
	struct call *c = arg;
	struct rbd_io io = c->io;
	ssize_t n = rbd_aio_get_return_value(completion);

	rbd_aio_release(completion);
	free(c);
	/* A read says how much it read, which is all of it. */
	if (n > 0)
		n = io.op == RBD_READ && (u64)n < io.len ? -EIO : 0;
	io.done(io.arg, (int)n);
}

static int start(struct image *i, const struct rbd_io *io, rbd_completion_t c)
{
	switch (io->op) {
	case RBD_READ:
		return rbd_aio_readv(i->rbd, io->iov, io->niov, io->offset, c);
	case RBD_WRITE:
		return rbd_aio_writev(i->rbd, io->iov, io->niov, io->offset, c);
	case RBD_DISCARD:
		return rbd_aio_discard(i->rbd, io->offset, io->len, c);
	case RBD_WRITE_ZEROES:
		return rbd_aio_write_zeroes(
			i->rbd, io->offset, io->len, c,
			io->keep_space ? RBD_WRITE_ZEROES_FLAG_THICK_PROVISION : 0, 0);
	default:
		return rbd_aio_flush(i->rbd, c);
	}
}

static int submit(void *image, const struct rbd_io *io)
{
	struct call *c = malloc(sizeof(*c));
	rbd_completion_t completion;
	int rc;

	if (!c)
		return -ENOMEM;
	c->io = *io;
	rc = rbd_aio_create_completion(c, on_done, &completion);
	if (!rc) {
		rc = start(image, io, completion);
		if (rc)
			rbd_aio_release(completion);
	}
	if (rc)
		free(c);
	return rc;
}

/* ---- what there is ---- */

struct first {
	u64 start, end; /* of the data from the place asked for on */
	bool any;
};

static int on_extent(uint64_t offset, size_t len, int exists, void *arg)
{
	struct first *f = arg;

	if (!exists)
		return 0;
	if (!f->any) {
		f->any = true;
		f->start = offset;
		f->end = offset + len;
	} else if (offset == f->end) {
		f->end += len;
	}
	return 0;
}

static int status(void *image, u64 offset, u64 *len, bool *data)
{
	struct image *i = image;
	struct first f = {0};
	int rc = rbd_diff_iterate2(i->rbd, NULL, offset, *len, 1, 1, on_extent, &f);

	if (rc < 0)
		return rc;
	if (f.any && f.start <= offset) {
		*data = true;
		if (f.end - offset < *len)
			*len = f.end - offset;
	} else {
		*data = false;
		if (f.any && f.start - offset < *len)
			*len = f.start - offset;
	}
	return *len ? 0 : -EIO;
}

/* librbd calls it without looking whether there is one. */
static int no_progress(uint64_t offset, uint64_t total, void *arg)
{
	return 0;
}

static int resize(void *image, u64 size, bool shrink)
{
	struct image *i = image;

	return rbd_resize2(i->rbd, size, shrink, no_progress, NULL);
}

extern const struct rbd_class rbd_plugin;
__attribute__((visibility("default"))) const struct rbd_class rbd_plugin = {
	.open = open_image,
	.close = close_image,
	.submit = submit,
	.status = status,
	.resize = resize,
};
