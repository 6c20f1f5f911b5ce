/* Operations on objects that the guest has a fid of. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/iov.h"
#include "os/file.h"
#include "virtio/p9_int.h"

#define MAX_IOV 300

/* ---- opening, reading, writing ---- */

int p9_lopen(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0, flags, fd;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	struct stat st;

	flags = p9_open_flags((u32)p9_get(m, 4)) & ~O_EXCL;
	if (!fid || m->bad)
		return rc ? rc : -EINVAL;
	if (fid->io >= 0)
		return -EBADF;
	if (p9->readonly && ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC))
		return -EROFS;
	fd = p9_reopen(p9, fid, flags);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st)) {
		close(fd);
		return -EIO;
	}
	fid->io = fd;
	p9_put_qid(m, p9, &st);
	p9_put(m, 4, p9->msize - 24);
	return 0;
}

/* fid, offset and count, as reads, writes and readdirs begin. */
static struct p9_fid *get_io(struct p9 *p9, struct p9_msg *m, u64 *offset, u32 *count, int *rc)
{
	struct p9_fid *fid;

	*rc = 0;
	fid = p9_get_fid(p9, m, rc);
	*offset = p9_get(m, 8);
	*count = (u32)p9_get(m, 4);
	if (!fid || m->bad)
		*rc = *rc ? *rc : -EINVAL;
	else if (fid->io < 0)
		*rc = -EBADF;
	else if (*offset > INT64_MAX)
		*rc = -EINVAL;
	return *rc ? NULL : fid;
}

/* Straight into the guest's memory, behind the 11 bytes of the answer. */
int p9_read(struct p9 *p9, struct p9_msg *m)
{
	struct iovec iov[MAX_IOV];
	struct p9_fid *fid;
	u64 offset;
	u32 count, room;
	ssize_t got = 0;
	int rc, n;

	fid = get_io(p9, m, &offset, &count, &rc);
	if (!fid)
		return rc;
	if (m->out_cap < P9_HEADER + 4)
		return -EINVAL;
	room = m->out_cap - P9_HEADER - 4;
	count = min(count, room);
	n = iov_slice(iov, MAX_IOV, m->chain->in, m->chain->nin, P9_HEADER + 4, count);
	if (n < 0)
		return -EIO;
	if (n)
		got = preadv(fid->io, iov, n, (off_t)offset);
	if (got < 0)
		return -errno;
	p9_put(m, 4, (u32)got);
	m->direct = (u32)got;
	return 0;
}

int p9_write(struct p9 *p9, struct p9_msg *m)
{
	struct iovec iov[MAX_IOV];
	struct p9_fid *fid;
	u64 offset;
	u32 count;
	ssize_t put = 0;
	int rc, n;

	fid = get_io(p9, m, &offset, &count, &rc);
	if (!fid)
		return rc;
	if (count > m->chain->out_len - m->in_pos)
		return -EINVAL;
	n = iov_slice(iov, MAX_IOV, m->chain->out, m->chain->nout, m->in_pos, count);
	if (n < 0)
		return -EIO;
	if (n)
		put = pwritev(fid->io, iov, n, (off_t)offset);
	if (put < 0)
		return -errno;
	p9_put(m, 4, (u32)put);
	return 0;
}

/* ---- directories ---- */

struct entry { /* as getdents64() gives it */
	u64 ino;
	s64 off;
	u16 reclen;
	u8 type;
	char name[];
};

/* False when it does not fit into `limit` bytes of answer. */
static bool put_entry(const struct p9 *p9, struct p9_msg *m, const struct entry *e, u64 dev,
		      u32 limit)
{
	u32 len = (u32)strlen(e->name);
	u8 type = e->type == DT_DIR ? 0x80 : e->type == DT_LNK ? 0x02 : 0;

	if (m->out_len + 24 + len > limit)
		return false;
	p9_put(m, 1, type);
	p9_put(m, 4, 0);
	p9_put(m, 8, p9_qid_path(p9, dev, e->ino));
	p9_put(m, 8, (u64)e->off);
	p9_put(m, 1, e->type);
	p9_put_string(m, e->name, len);
	return true;
}

int p9_readdir(struct p9 *p9, struct p9_msg *m)
{
	_Alignas(struct entry) u8 buf[8192];
	u32 count, count_at = m->out_len, limit;
	struct p9_fid *fid;
	struct stat st;
	u64 offset;
	bool room = true;
	int rc;

	fid = get_io(p9, m, &offset, &count, &rc);
	if (!fid)
		return rc;
	if (fstat(fid->io, &st) || lseek(fid->io, (off_t)offset, SEEK_SET) < 0)
		return -errno;
	p9_put(m, 4, 0);
	count = min(count, m->out_cap);
	limit = min(m->out_cap, m->out_len + count);
	while (room && !m->bad) {
		long n = syscall(SYS_getdents64, fid->io, buf, sizeof(buf));

		if (n < 0)
			return -errno;
		if (!n)
			break;
		for (long at = 0; at < n && room;
		     at += ((struct entry *)(void *)(buf + at))->reclen)
			room = put_entry(p9, m, (struct entry *)(void *)(buf + at), st.st_dev,
					 limit);
	}
	/* A directory that has entries, and no room for one of them. */
	if (!room && m->out_len == count_at + 4)
		return -EINVAL;
	count = m->out_len - count_at - 4;
	m->out_len = count_at;
	p9_put(m, 4, count);
	m->out_len += count;
	return 0;
}

/* ---- the rest of what open files do ---- */

int p9_fsync(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	u32 data_only = m->in_len - m->in_pos >= 4 ? (u32)p9_get(m, 4) : 0;

	if (!fid)
		return rc;
	if (fid->io < 0)
		return -EBADF;
	return (data_only ? fdatasync(fid->io) : fsync(fid->io)) ? -errno : 0;
}

/* type[1], with_flags: flags[4], start[8] length[8]; who asks comes after that and is not needed.
 */
static int get_lock(struct p9_msg *m, bool with_flags, struct flock *lock)
{
	static const short types[] = {F_RDLCK, F_WRLCK, F_UNLCK};
	u8 type = (u8)p9_get(m, 1);
	u64 start, len;

	if (with_flags)
		p9_get(m, 4);
	start = p9_get(m, 8);
	len = p9_get(m, 8);
	if (m->bad || type >= ARRAY_SIZE(types) || start > INT64_MAX || len > INT64_MAX)
		return -EINVAL;
	*lock = (struct flock){.l_type = types[type],
			       .l_whence = SEEK_SET,
			       .l_start = (off_t)start,
			       .l_len = (off_t)len};
	return 0;
}

/* The guest's kernel settles locks among its own programs; this is for those of the host. */
int p9_lock(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	struct flock lock;

	if (!fid)
		return rc;
	rc = get_lock(m, true, &lock);
	if (rc)
		return rc;
	if (fid->io < 0)
		return -EBADF;
	if (!fcntl(fid->io, F_OFD_SETLK, &lock))
		p9_put(m, 1, 0); /* success */
	else if (errno == EAGAIN || errno == EACCES)
		p9_put(m, 1, 1); /* blocked: ask again */
	else
		return -errno;
	return 0;
}

int p9_getlock(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	struct flock lock;

	if (!fid)
		return rc;
	rc = get_lock(m, false, &lock);
	if (rc)
		return rc;
	if (fid->io < 0)
		return -EBADF;
	if (fcntl(fid->io, F_OFD_GETLK, &lock))
		return -errno;
	p9_put(m, 1, lock.l_type == F_RDLCK ? 0 : lock.l_type == F_WRLCK ? 1 : 2);
	p9_put(m, 8, (u64)lock.l_start);
	p9_put(m, 8, (u64)lock.l_len);
	p9_put(m, 4, 0);
	p9_put_string(m, "host", 4);
	return 0;
}

/* ---- attributes ---- */

int p9_statfs(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	struct statfs fs;

	if (!fid)
		return rc;
	if (fstatfs(fid->path, &fs))
		return -errno;
	p9_put(m, 4, 0x01021997); /* V9FS_MAGIC: the file system the guest sees */
	p9_put(m, 4, (u32)fs.f_bsize);
	p9_put(m, 8, fs.f_blocks);
	p9_put(m, 8, fs.f_bfree);
	p9_put(m, 8, fs.f_bavail);
	p9_put(m, 8, fs.f_files);
	p9_put(m, 8, fs.f_ffree);
	p9_put(m, 8, 0);
	p9_put(m, 4, P9_NAME_MAX);
	return 0;
}

static void put_time(struct p9_msg *m, const struct timespec *t)
{
	p9_put(m, 8, (u64)t->tv_sec);
	p9_put(m, 8, (u64)t->tv_nsec);
}

int p9_getattr(struct p9 *p9, struct p9_msg *m)
{
	const struct timespec none = {0};
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	struct stat st;

	if (!fid)
		return rc;
	if (fstat(fid->path, &st))
		return -errno;
	p9_put(m, 8, 0x7ff); /* the basic ones, all of them */
	p9_put_qid(m, p9, &st);
	p9_put(m, 4, st.st_mode);
	p9_put(m, 4, st.st_uid);
	p9_put(m, 4, st.st_gid);
	p9_put(m, 8, st.st_nlink);
	p9_put(m, 8, st.st_rdev);
	p9_put(m, 8, (u64)st.st_size);
	p9_put(m, 8, (u64)st.st_blksize);
	p9_put(m, 8, (u64)st.st_blocks);
	put_time(m, &st.st_atim);
	put_time(m, &st.st_mtim);
	put_time(m, &st.st_ctim);
	put_time(m, &none);
	p9_put(m, 8, 0);
	p9_put(m, 8, 0);
	return 0;
}

enum {
	SET_MODE = 1,
	SET_UID = 2,
	SET_GID = 4,
	SET_SIZE = 8,
	SET_ATIME = 0x10,
	SET_MTIME = 0x20,
	SET_ATIME_TO = 0x80,
	SET_MTIME_TO = 0x100
};

struct change {
	u32 valid, mode, uid, gid;
	u64 size;
	struct timespec time[2];
};

static void get_change(struct p9_msg *m, struct change *c)
{
	c->valid = (u32)p9_get(m, 4);
	c->mode = (u32)p9_get(m, 4);
	c->uid = (u32)p9_get(m, 4);
	c->gid = (u32)p9_get(m, 4);
	c->size = p9_get(m, 8);
	for (int i = 0; i < 2; i++) {
		c->time[i].tv_sec = (time_t)p9_get(m, 8);
		c->time[i].tv_nsec = (long)p9_get(m, 8);
	}
	if (!(c->valid & SET_ATIME))
		c->time[0].tv_nsec = UTIME_OMIT;
	else if (!(c->valid & SET_ATIME_TO))
		c->time[0].tv_nsec = UTIME_NOW;
	if (!(c->valid & SET_MTIME))
		c->time[1].tv_nsec = UTIME_OMIT;
	else if (!(c->valid & SET_MTIME_TO))
		c->time[1].tv_nsec = UTIME_NOW;
}

static int set_owner(const struct p9_fid *fid, const struct change *c)
{
	uid_t uid = c->valid & SET_UID ? c->uid : (uid_t)-1;
	gid_t gid = c->valid & SET_GID ? c->gid : (gid_t)-1;

	if (!(c->valid & (SET_UID | SET_GID)))
		return 0;
	/* Who may not give files away goes on without: cp -a and tar would fail otherwise. */
	if (fchownat(fid->path, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) &&
	    errno != EPERM)
		return -errno;
	return 0;
}

static int set_size(const struct p9 *p9, const struct p9_fid *fid, u64 size)
{
	int fd, rc;

	if (size > INT64_MAX)
		return -EFBIG;
	fd = p9_reopen(p9, fid, O_WRONLY);
	if (fd < 0)
		return fd;
	rc = ftruncate(fd, (off_t)size) ? -errno : 0;
	close(fd);
	return rc;
}

int p9_setattr(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	struct change c;
	struct stat st;
	char number[16];

	if (!fid)
		return rc;
	get_change(m, &c);
	if (m->bad)
		return -EINVAL;
	if (fstat(fid->path, &st))
		return -errno;
	snprintf(number, sizeof(number), "%d", fid->path);
	rc = set_owner(fid, &c);
	if (!rc && c.valid & SET_MODE && !S_ISLNK(st.st_mode))
		rc = fchmodat(p9->proc_fds, number, c.mode & P9_MODE_MASK, 0) ? -errno : 0;
	if (!rc && c.valid & SET_SIZE)
		rc = set_size(p9, fid, c.size);
	if (!rc && c.valid & (SET_ATIME | SET_MTIME) && !S_ISLNK(st.st_mode))
		rc = utimensat(p9->proc_fds, number, c.time, 0) ? -errno : 0;
	return rc;
}

int p9_readlink(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc);
	char target[PATH_MAX];
	ssize_t n;

	if (!fid)
		return rc;
	n = readlinkat(fid->path, "", target, sizeof(target));
	if (n < 0)
		return -errno;
	p9_put_string(m, target, (u32)n);
	return 0;
}
