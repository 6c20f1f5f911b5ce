/*
 * Operations on names in directories. A name is one component and never ".."; with O_NOFOLLOW and
 * RESOLVE_BENEATH no link leads anywhere, whatever happens to the tree meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/file.h"
#include "virtio/p9_int.h"

#define MAX_WALK 16

static int open_beneath(int dir, const char *name, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (u64)(flags | O_CLOEXEC | O_NOFOLLOW),
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* Answer with the qid of what has just been made. */
static int put_made(const struct p9 *p9, struct p9_msg *m, int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return -errno;
	p9_put_qid(m, p9, &st);
	return 0;
}

int p9_attach(struct p9 *p9, struct p9_msg *m)
{
	u32 number = (u32)p9_get(m, 4), afid = (u32)p9_get(m, 4);
	struct stat st;
	int fd;

	if (m->bad || afid != P9_NOFID)
		return -EINVAL;
	fd = fcntl(p9->root, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		close(fd);
		return -errno;
	}
	p9_put_qid(m, p9, &st);
	return p9_fid_new(p9, number, fd);
}

/* Walk as far as it goes; *fd is where, *done how many names. 0, or why it ended. */
static int walk_names(struct p9 *p9, struct p9_msg *m, u32 n, int *fd, u32 *done)
{
	for (*done = 0; *done < n; ++*done) {
		char name[P9_NAME_MAX + 1];
		struct stat st;
		int next, rc = p9_get_name(m, name);

		if (rc)
			return m->bad ? -EINVAL : -ENOENT;
		next = open_beneath(*fd, name, O_PATH, 0);
		if (next < 0)
			return next;
		if (fstat(next, &st)) {
			close(next);
			return -EIO;
		}
		close(*fd);
		*fd = next;
		p9_put_qid(m, p9, &st);
	}
	return 0;
}

int p9_walk(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0, fd;
	struct p9_fid *fid = p9_get_fid(p9, m, &rc), *old;
	u32 number = (u32)p9_get(m, 4), n = (u32)p9_get(m, 2), done, count_at = m->out_len;

	if (!fid || m->bad || n > MAX_WALK)
		return rc ? rc : -EINVAL;
	/* A fid that is open must not be walked, nor replaced by another. */
	old = p9_fid_lookup(p9, number);
	if (fid->io >= 0 || (old && old != fid))
		return -EBADF;
	fd = fcntl(fid->path, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	p9_put(m, 2, 0);
	rc = walk_names(p9, m, n, &fd, &done);
	if (done < n) {
		close(fd);
		if (!done || m->bad)
			return rc;
	} else if (old) {
		close(old->path);
		old->path = fd;
	} else {
		rc = p9_fid_new(p9, number, fd);
		if (rc)
			return rc;
	}
	/* Fewer qids than names say how far it went. */
	m->out[count_at] = (u8)done;
	return 0;
}

/* The directory and the name in it with which most requests begin; NULL with *rc set. */
static struct p9_fid *get_place(struct p9 *p9, struct p9_msg *m, char name[P9_NAME_MAX + 1],
				int *rc)
{
	struct p9_fid *dir;

	*rc = 0;
	dir = p9_get_fid(p9, m, rc);
	if (dir)
		*rc = p9_get_name(m, name);
	return *rc ? NULL : dir;
}

int p9_open_flags(u32 flags)
{
	const u32 allowed =
		O_ACCMODE | O_TRUNC | O_APPEND | O_EXCL | O_DSYNC | O_SYNC | O_DIRECTORY;

	return (int)(flags & allowed);
}

int p9_lcreate(struct p9 *p9, struct p9_msg *m)
{
	char name[P9_NAME_MAX + 1];
	int rc, fd, path;
	struct p9_fid *fid = get_place(p9, m, name, &rc);
	u32 flags = (u32)p9_get(m, 4), mode = (u32)p9_get(m, 4);
	struct stat st;

	if (!fid || m->bad || fid->io >= 0)
		return rc ? rc : -EINVAL;
	fd = open_beneath(fid->path, name,
			  (p9_open_flags(flags) & ~O_DIRECTORY) | O_CREAT | O_NONBLOCK | O_NOCTTY,
			  mode & P9_MODE_MASK);
	if (fd < 0)
		return fd;
	/* It may have been there, as something else. */
	path = fstat(fd, &st) || !S_ISREG(st.st_mode) ? -EACCES
						      : open_beneath(fid->path, name, O_PATH, 0);
	if (path < 0) {
		close(fd);
		return path;
	}
	close(fid->path);
	fid->path = path;
	fid->io = fd;
	p9_put_qid(m, p9, &st);
	p9_put(m, 4, p9->msize - 24);
	return 0;
}

int p9_symlink(struct p9 *p9, struct p9_msg *m)
{
	char name[P9_NAME_MAX + 1], target[PATH_MAX];
	int rc;
	struct p9_fid *fid = get_place(p9, m, name, &rc);

	p9_get_string(m, target, sizeof(target) - 1);
	if (!fid || m->bad)
		return rc ? rc : -EINVAL;
	if (symlinkat(target, fid->path, name))
		return -errno;
	return put_made(p9, m, fid->path, name);
}

/* Regular files only. */
int p9_mknod(struct p9 *p9, struct p9_msg *m)
{
	char name[P9_NAME_MAX + 1];
	int rc, fd;
	struct p9_fid *fid = get_place(p9, m, name, &rc);
	u32 mode = (u32)p9_get(m, 4);

	if (!fid || m->bad)
		return rc ? rc : -EINVAL;
	if (mode & S_IFMT && !S_ISREG(mode))
		return -EPERM;
	fd = open_beneath(fid->path, name, O_CREAT | O_EXCL | O_WRONLY, mode & P9_MODE_MASK);
	if (fd < 0)
		return fd;
	close(fd);
	return put_made(p9, m, fid->path, name);
}

int p9_mkdir(struct p9 *p9, struct p9_msg *m)
{
	char name[P9_NAME_MAX + 1];
	int rc;
	struct p9_fid *fid = get_place(p9, m, name, &rc);
	u32 mode = (u32)p9_get(m, 4);

	if (!fid || m->bad)
		return rc ? rc : -EINVAL;
	if (mkdirat(fid->path, name, mode & P9_MODE_MASK))
		return -errno;
	return put_made(p9, m, fid->path, name);
}

int p9_link(struct p9 *p9, struct p9_msg *m)
{
	int rc = 0;
	struct p9_fid *dir = p9_get_fid(p9, m, &rc), *target = p9_get_fid(p9, m, &rc);
	char name[P9_NAME_MAX + 1], number[16];
	struct stat st;

	if (!dir || !target)
		return rc;
	rc = p9_get_name(m, name);
	if (rc)
		return rc;
	if (fstat(target->path, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EPERM;
	snprintf(number, sizeof(number), "%d", target->path);
	return linkat(p9->proc_fds, number, dir->path, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

int p9_renameat(struct p9 *p9, struct p9_msg *m)
{
	char old_name[P9_NAME_MAX + 1], new_name[P9_NAME_MAX + 1];
	int rc, rc2;
	struct p9_fid *from = get_place(p9, m, old_name, &rc);
	struct p9_fid *to = get_place(p9, m, new_name, &rc2);

	if (!from || !to)
		return rc ? rc : rc2;
	return renameat(from->path, old_name, to->path, new_name) ? -errno : 0;
}

int p9_unlinkat(struct p9 *p9, struct p9_msg *m)
{
	char name[P9_NAME_MAX + 1];
	int rc;
	struct p9_fid *fid = get_place(p9, m, name, &rc);
	u32 flags = (u32)p9_get(m, 4);

	if (!fid || m->bad)
		return rc ? rc : -EINVAL;
	return unlinkat(fid->path, name, flags & AT_REMOVEDIR) ? -errno : 0;
}
