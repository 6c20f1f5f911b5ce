#include "base/iov.h"

#include <errno.h>
#include <string.h>

size_t iov_length(const struct iovec *iov, size_t count)
{
	size_t len = 0;

	for (size_t i = 0; i < count; i++)
		len += iov[i].iov_len;
	return len;
}

enum walk_op { WALK_READ, WALK_WRITE, WALK_FILL };

static size_t iov_walk(const struct iovec *iov, size_t count, size_t offset, void *buf, int byte,
		       size_t len, enum walk_op op)
{
	size_t done = 0;

	for (size_t i = 0; i < count && done < len; i++) {
		size_t n;
		char *p;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		p = (char *)iov[i].iov_base + offset;
		n = min(iov[i].iov_len - offset, len - done);
		if (op == WALK_READ)
			memcpy((char *)buf + done, p, n);
		else if (op == WALK_WRITE)
			memcpy(p, (char *)buf + done, n);
		else
			memset(p, byte, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t iov_to_buf(const struct iovec *iov, size_t count, size_t offset, void *buf, size_t len)
{
	return iov_walk(iov, count, offset, buf, 0, len, WALK_READ);
}

size_t iov_from_buf(const struct iovec *iov, size_t count, size_t offset, const void *buf,
		    size_t len)
{
	return iov_walk(iov, count, offset, (void *)(uintptr_t)buf, 0, len, WALK_WRITE);
}

size_t iov_memset(const struct iovec *iov, size_t count, size_t offset, int byte, size_t len)
{
	return iov_walk(iov, count, offset, NULL, byte, len, WALK_FILL);
}

bool iov_is_zero(const struct iovec *iov, size_t count, size_t len)
{
	for (size_t i = 0; i < count && len; i++) {
		const char *p = iov[i].iov_base;
		size_t n = min(iov[i].iov_len, len);

		/* The first byte is zero and every byte equals its neighbour. */
		if (n && (p[0] || memcmp(p, p + 1, n - 1)))
			return false;
		len -= n;
	}
	return true;
}

int iov_slice(struct iovec *out, size_t max, const struct iovec *iov, size_t count, size_t offset,
	      size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < count && len; i++) {
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		if (n == max)
			return -E2BIG;
		part = min(iov[i].iov_len - offset, len);
		out[n].iov_base = (char *)iov[i].iov_base + offset;
		out[n++].iov_len = part;
		len -= part;
		offset = 0;
	}
	return len ? -EINVAL : (int)n;
}

size_t iov_discard_front(struct iovec **iov, size_t *count, size_t bytes)
{
	size_t done = 0;

	while (*count && done < bytes) {
		struct iovec *v = *iov;
		size_t n = min(v->iov_len, bytes - done);

		v->iov_base = (char *)v->iov_base + n;
		v->iov_len -= n;
		done += n;
		if (v->iov_len)
			break;
		(*iov)++;
		(*count)--;
	}
	return done;
}
