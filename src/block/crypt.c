/*
 * The node that encrypts, and the class of `luks` images, which are that node behind a header.
 *
 * Invariants:
 * 1. What the caller wants written is never encrypted in place: it is the guest's memory.
 * 2. A read is decrypted in place, in the queue's thread, when it has arrived; writes are encrypted
 *    by helper threads.
 * 3. A part of a sector is written by reading, changing and writing all of it, with `lock` held
 *    alone, so that no other write of that sector is lost.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/iov.h"
#include "block/luks_int.h"

#define STEP (1 * MiB)

static struct crypt *crypt_of(struct block *b)
{
	return container_of(b, struct crypt, block);
}

/* ---- sectors in iovecs ---- */

/* A sector that lies in several pieces of memory. */
static int decrypt_split(struct crypt *c, const struct iovec *iov, int niov, u64 at, u64 sector)
{
	u8 buf[CRYPTO_SECTOR];
	int rc;

	iov_to_buf(iov, (size_t)niov, at, buf, sizeof(buf));
	rc = c->crypto->crypt(c->cipher, false, sector, buf, buf, sizeof(buf));
	iov_from_buf(iov, (size_t)niov, at, buf, sizeof(buf));
	return rc;
}

/* Decrypt len bytes in place; whole sectors. */
static int decrypt_iov(struct crypt *c, const struct iovec *iov, int niov, u64 sector, u64 len)
{
	u64 begin = 0, at = 0; /* of the piece, of the next sector */
	int rc = 0;

	for (int i = 0; i < niov && at < len && !rc; begin += iov[i++].iov_len) {
		u64 end = begin + iov[i].iov_len;
		u64 whole = at < end ? align_down(min(end, len) - at, CRYPTO_SECTOR) : 0;

		if (whole) {
			u8 *p = (u8 *)iov[i].iov_base + (at - begin);

			rc = c->crypto->crypt(c->cipher, false, sector + at / CRYPTO_SECTOR, p, p,
					      whole);
			at += whole;
		}
		if (at < end && at < len && !rc) {
			rc = decrypt_split(c, iov, niov, at, sector + at / CRYPTO_SECTOR);
			at += CRYPTO_SECTOR;
		}
	}
	return rc;
}

/* ---- synchronous ---- */

/* Plain text of [pos, +len), whole sectors. */
static int read_plain(struct crypt *c, u8 *buf, u64 pos, u64 len)
{
	int rc = block_node_read(c->block.file, buf, len, c->start + pos);

	if (rc)
		return rc;
	return c->crypto->crypt(c->cipher, false, pos / CRYPTO_SECTOR, buf, buf, len);
}

static int write_plain(struct crypt *c, u8 *buf, u64 pos, u64 len, u32 flags)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct block_io io = {.op = BLOCK_WRITE,
			      .flags = flags,
			      .offset = c->start + pos,
			      .len = len,
			      .iov = &iov,
			      .niov = 1};
	int rc = c->crypto->crypt(c->cipher, true, pos / CRYPTO_SECTOR, buf, buf, len);

	return rc ? rc : block_io(c->block.file, &io);
}

static bool whole_sectors(u64 pos, u64 len)
{
	return is_aligned(pos | len, CRYPTO_SECTOR);
}

/* One step: the sectors from `start` to `end`, of which [pos, +n) is data at `at` of the iovecs. */
static int rw_step(struct crypt *c, const struct block_io *io, u8 *buf, u64 at, u64 n)
{
	u64 pos = io->offset + at, start = align_down(pos, CRYPTO_SECTOR);
	u64 len = align_up(pos + n, CRYPTO_SECTOR) - start;
	bool write = io->op != BLOCK_READ, part = !whole_sectors(pos, n);
	int rc = 0;

	if (!write || part)
		rc = read_plain(c, buf, start, len);
	if (rc)
		return rc;
	if (io->op == BLOCK_WRITE)
		iov_to_buf(io->iov, (size_t)io->niov, at, buf + (pos - start), n);
	else if (write)
		memset(buf + (pos - start), 0, n);
	else
		iov_from_buf(io->iov, (size_t)io->niov, at, buf + (pos - start), n);
	return write ? write_plain(c, buf, start, len, io->flags & BLOCK_FUA) : 0;
}

static int rw_locked(struct crypt *c, const struct block_io *io)
{
	u64 done = 0;
	u8 *buf;
	int rc = 0;

	if (posix_memalign((void **)&buf, 4096, min(align_up(io->len, 4096), STEP) + 4096))
		return -ENOMEM;
	while (done < io->len && !rc) {
		/* Steps end on sectors, so that at most the first and the last are partial. */
		u64 pos = io->offset + done;
		u64 n = min(io->len - done, align_down(pos, CRYPTO_SECTOR) + STEP - pos);

		rc = rw_step(c, io, buf, done, n);
		done += n;
	}
	free(buf);
	return rc;
}

static int rw(struct crypt *c, const struct block_io *io)
{
	int rc;

	if (io->op == BLOCK_READ)
		return rw_locked(c, io);
	if (whole_sectors(io->offset, io->len))
		pthread_rwlock_rdlock(&c->lock);
	else
		pthread_rwlock_wrlock(&c->lock);
	rc = rw_locked(c, io);
	pthread_rwlock_unlock(&c->lock);
	return rc;
}

static int crypt_io(struct block *b, const struct block_io *io)
{
	struct crypt *c = crypt_of(b);

	switch (io->op) {
	case BLOCK_FLUSH:
		return block_node_flush(b->file);
	case BLOCK_DISCARD:
		return 0; /* a hole would not read as zeros, and shows what is in use */
	case BLOCK_WRITE_ZEROES:
		if (io->flags & BLOCK_NO_FALLBACK)
			return -EOPNOTSUPP;
		break;
	default:
		break;
	}
	return c->cipher ? rw(c, io) : -EACCES;
}

/* ---- queues ---- */

static void on_read(struct block_req *req, void *arg, int result)
{
	struct crypt *c = arg;

	if (!result)
		result = decrypt_iov(c, req->iov, req->niov, (req->pos - c->start) / CRYPTO_SECTOR,
				     req->len);
	block_complete(req, result);
}

static void crypt_submit(struct block *b, struct block_queue *q, struct block_req *req)
{
	struct crypt *c = crypt_of(b);

	if (req->op == BLOCK_FLUSH)
		block_pass(q, req, b->file, 0);
	else if (req->op == BLOCK_READ && c->cipher && whole_sectors(req->pos, req->len) &&
		 block_hook_add(req, on_read, c))
		block_pass(q, req, b->file, c->start + req->pos);
	else
		block_defer(q, req);
}

static int crypt_status(struct block *b, u64 offset, struct block_extent *e)
{
	e->flags = BLOCK_DATA | BLOCK_ALLOCATED;
	return 0;
}

static int crypt_resize(struct block *b, u64 size, bool shrink, struct err *err)
{
	struct crypt *c = crypt_of(b);
	int rc;

	if (size > INT64_MAX - c->start)
		return err_set(err, EFBIG, "%s: size is too large", b->name);
	rc = b->file->class->resize(b->file, c->start + size, shrink, err);
	if (!rc)
		__atomic_store_n(&b->size, size, __ATOMIC_RELEASE);
	return rc;
}

static int crypt_close(struct block *b)
{
	struct crypt *c = crypt_of(b);

	if (c->cipher)
		c->crypto->cipher_free(c->cipher);
	pthread_rwlock_destroy(&c->lock);
	return 0;
}

/* ---- inside qcow2 ---- */

static const struct block_class crypt_class = {
	.name = "crypt",
	.kind = BLOCK_FILTER,
	.size = sizeof(struct crypt),
	.close = crypt_close,
	.submit = crypt_submit,
	.io = crypt_io,
	.status = crypt_status,
	.resize = crypt_resize,
};

struct block *crypt_new(const char *name, struct block *file, const struct crypto_class *crypto,
			void *cipher)
{
	struct block *b = block_node_new(&crypt_class, name, file);

	if (!b) {
		crypto->cipher_free(cipher);
		return NULL;
	}
	block_filter_init(b);
	pthread_rwlock_init(&crypt_of(b)->lock, NULL);
	crypt_of(b)->crypto = crypto;
	crypt_of(b)->cipher = cipher;
	return b;
}

void crypt_free(struct block *b)
{
	if (!b)
		return;
	b->file = NULL;
	block_close(b);
}

/* ---- images of their own ---- */

static int luks_open(struct block *b, const struct block_options *o, struct err *err)
{
	struct crypt *c = crypt_of(b);
	struct luks_place place = {.file = b->file, .len = block_size(b->file)};
	int rc = luks_read(&c->luks, &place, err);

	if (!rc && c->luks.payload > place.len)
		rc = err_set(err, EINVAL, "%s: ends before its data begins", b->name);
	if (!rc && (!o->metadata_only || o->key_file))
		rc = luks_unlock(&c->luks, &place, o, &c->crypto, &c->cipher, err);
	if (rc)
		return rc;
	block_filter_init(b);
	c->start = c->luks.payload;
	b->size = align_down(place.len - c->start, CRYPTO_SECTOR);
	b->can_discard = b->can_write_zeroes = false;
	pthread_rwlock_init(&c->lock, NULL);
	return 0;
}

static int luks_info(struct block *b, struct block_image_info *info)
{
	luks_describe(&crypt_of(b)->luks, &info->encryption);
	return 0;
}

static int plan(const char *name, const struct block_create *c, struct luks_header *h,
		struct err *err)
{
	struct block_create asked = *c;
	int rc;

	asked.encrypt_format = BLOCK_ENCRYPT_LUKS;
	rc = luks_plan(h, &asked, 2 * MiB, err);
	if (!rc && c->size > INT64_MAX - h->payload)
		rc = err_set(err, EFBIG, "%s: size is too large", name);
	return rc;
}

static int luks_judge(const char *name, const struct block_create *c, struct err *err)
{
	struct luks_header h;

	if (c->backing_file)
		return err_set(err, EINVAL, "%s: a luks image has no backing file", name);
	if (c->preallocation == BLOCK_PREALLOC_METADATA)
		return err_set(err, EINVAL, "%s: a luks image has no metadata to preallocate",
			       name);
	return plan(name, c, &h, err);
}

static int luks_create(struct block *file, const struct block_create *c, struct err *err)
{
	struct luks_header h;
	struct luks_place place = {.file = file};
	int rc = plan(file->name, c, &h, err);

	if (rc)
		return rc;
	place.len = h.payload;
	if (file->fixed_size && file->size < h.payload + c->size)
		return err_set(err, ENOSPC, "%s: the device is too small", file->name);
	if (!file->fixed_size)
		rc = file->class->resize(file, h.payload + c->size, true, err);
	if (!rc && c->preallocation) {
		rc = c->preallocation == BLOCK_PREALLOC_FULL
			     ? block_file_fill(file, h.payload + c->size)
			     : block_file_reserve(file, h.payload + c->size);
		if (rc)
			err_set(err, -rc, "%s: %s", file->name, strerror(-rc));
	}
	return rc ? rc : luks_write(&h, &place, c, err);
}

const struct block_class block_luks_class = {
	.name = "luks",
	.kind = BLOCK_FORMAT,
	.size = sizeof(struct crypt),
	.probe = luks_probe,
	.open = luks_open,
	.close = crypt_close,
	.submit = crypt_submit,
	.io = crypt_io,
	.status = crypt_status,
	.resize = crypt_resize,
	.create_keys = "size preallocation encrypt.key-file encrypt.cipher-alg encrypt.hash-alg "
		       "encrypt.iter-time",
	.judge = luks_judge,
	.create = luks_create,
	.info = luks_info,
};
