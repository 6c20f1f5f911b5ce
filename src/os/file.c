#define _GNU_SOURCE
#include "os/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int pread_full(int fd, void *buf, size_t len, u64 offset)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf = (char *)buf + n;
		len -= (size_t)n;
		offset += (u64)n;
	}
	return 0;
}

int pwrite_full(int fd, const void *buf, size_t len, u64 offset)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf = (const char *)buf + n;
		len -= (size_t)n;
		offset += (u64)n;
	}
	return 0;
}

int write_full(int fd, const void *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf = (const char *)buf + n;
		len -= (size_t)n;
	}
	return 0;
}

/* Pipes and /proc files have no size worth asking for, so the buffer grows as data comes. */
static int read_growing(int fd, size_t max, char **data, size_t *len)
{
	size_t cap = 64 * KiB;
	struct stat st;
	ssize_t n;

	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0)
		cap = (size_t)st.st_size + 1;
	for (*len = 0;;) {
		char *grown;

		if (cap > max + 1)
			cap = max + 1;
		grown = realloc(*data, cap + 1);
		if (!grown)
			return -ENOMEM;
		*data = grown;
		n = read(fd, *data + *len, cap - *len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		*len += (size_t)n;
		(*data)[*len] = '\0';
		if (!n)
			return 0;
		if (*len > max)
			return -EFBIG;
		if (*len == cap)
			cap *= 2;
	}
}

int file_read_all(const char *path, size_t max, void **data, size_t *len, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *buf = NULL;
	int rc;

	if (fd < 0)
		return err_set(err, errno, "%s: %s", path, strerror(errno));
	rc = read_growing(fd, max, &buf, len);
	close(fd);
	if (rc) {
		free(buf);
		if (rc == -EFBIG)
			return err_set(err, EFBIG, "%s: larger than %zu bytes", path, max);
		return err_set(err, -rc, "%s: %s", path, strerror(-rc));
	}
	*data = buf;
	return 0;
}

int file_write_all(const char *path, const void *data, size_t len, struct err *err)
{
	char *tmp = NULL;
	int fd = -1, rc = -ENOMEM;

	if (asprintf(&tmp, "%s.XXXXXX", path) < 0) {
		tmp = NULL;
		goto out;
	}
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0) {
		rc = -errno;
		goto out;
	}
	rc = write_full(fd, data, len);
	if (!rc && (fchmod(fd, 0644) || fsync(fd) || rename(tmp, path)))
		rc = -errno;
	if (rc)
		unlink(tmp);
out:
	fd_close(&fd);
	free(tmp);
	return rc ? err_set(err, -rc, "%s: %s", path, strerror(-rc)) : 0;
}

int fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

u64 fd_limit_raise(u64 most)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 0;
	most = min(most, (u64)limit.rlim_max);
	if (limit.rlim_cur < most) {
		rlim_t before = limit.rlim_cur;

		limit.rlim_cur = most;
		if (setrlimit(RLIMIT_NOFILE, &limit))
			limit.rlim_cur = before;
	}
	return limit.rlim_cur;
}

void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int memfd_new(const char *name, u64 size, bool huge)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0);
	int fd = memfd_create(name, flags);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}
