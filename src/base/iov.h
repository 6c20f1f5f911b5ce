/* Scatter-gather arithmetic on struct iovec arrays. None of these allocates. */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <sys/uio.h>

#include "base/types.h"

/* Sum of the lengths. */
size_t iov_length(const struct iovec *iov, size_t count);

/* Copy up to len bytes from (to) the vector, starting `offset` bytes into it; returns the number
 * copied, less than len only when the vector ends first. */
size_t iov_to_buf(const struct iovec *iov, size_t count, size_t offset, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, size_t count, size_t offset, const void *buf,
		    size_t len);

/* Fill len bytes at offset with a byte value; returns the number filled. */
size_t iov_memset(const struct iovec *iov, size_t count, size_t offset, int byte, size_t len);

/* True when every byte of the first len bytes is zero. */
bool iov_is_zero(const struct iovec *iov, size_t count, size_t len);

/*
 * Describe bytes [offset, offset + len) of the vector in out[0..max). Returns the number of
 * elements written, or -E2BIG when max does not suffice, -EINVAL when the vector is shorter.
 */
int iov_slice(struct iovec *out, size_t max, const struct iovec *iov, size_t count, size_t offset,
	      size_t len);

/* Drop `bytes` from the front, in place; returns the number dropped. */
size_t iov_discard_front(struct iovec **iov, size_t *count, size_t bytes);

#endif
