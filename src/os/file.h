/* File-descriptor helpers that finish what they start. All are EINTR-safe. */
#ifndef OS_FILE_H
#define OS_FILE_H

#include <sys/types.h>

#include "base/err.h"
#include "base/types.h"

/* Transfer exactly len bytes: 0, -errno, or -EIO where the file ends first. */
int pread_full(int fd, void *buf, size_t len, u64 offset);
int pwrite_full(int fd, const void *buf, size_t len, u64 offset);
int write_full(int fd, const void *buf, size_t len);

/*
 * Read a regular file (or a pipe) of at most max bytes into fresh memory; *data is the caller's to
 * free() and has a NUL byte after the last byte. -EFBIG when it is longer; err names the file.
 */
int file_read_all(const char *path, size_t max, void **data, size_t *len, struct err *err);

/* Write a file whole: a temporary beside it, fsync, rename. */
int file_write_all(const char *path, const void *data, size_t len, struct err *err);

int fd_set_nonblock(int fd, bool on);

/* Let this process have at least `most` descriptors, or as many as the host allows; how many it may
 * have now (0: unknown). */
u64 fd_limit_raise(u64 most);

/* Close and set to -1; -1 is ignored. */
void fd_close(int *fd);

/* An anonymous file of `size` bytes: close-on-exec, sealed against resizing. huge asks for huge
 * pages of 2 MiB (hugetlb; -ENOMEM or -EINVAL where none are reserved). Returns fd or -errno. */
int memfd_new(const char *name, u64 size, bool huge);

#endif
