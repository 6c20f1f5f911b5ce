/* Locks on image files, as QEMU takes them. */
#ifndef BLOCK_FILE_INT_H
#define BLOCK_FILE_INT_H

#include "base/err.h"
#include "block/block_int.h"

extern const struct block_class block_file_class;

/*
 * Lock an image against users that it could not bear: a writer excludes writers and readers that
 * need it to stand still, a reader excludes writers. The lock goes with the last descriptor of
 * the open file. -EAGAIN when in use; file systems without locks are let through.
 */
int file_lock(int fd, bool write, const char *name, struct err *err);

#endif
