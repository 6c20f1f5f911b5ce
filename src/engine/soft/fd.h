/*
 * From descriptor to object. The descriptor is real (an eventfd or a memfd); the table says what
 * it stands for. One table a process, as descriptors are the process's.
 */
#ifndef FD_H
#define FD_H

#include "base/types.h"

struct file_ops {
	int (*ioctl)(void *object, unsigned int request, unsigned long arg);
	void (*release)(void *object); /* the last reference is gone */
};

struct file {
	const struct file_ops *ops;
	void *object;
	u32 refs; /* the table's and those of calls under way */
};

/* Make fd stand for object. 0, -ENOMEM, or -EMFILE for numbers past the table. On failure the
 * caller keeps both. A stale entry (fd closed behind the library's back) is dropped. */
int file_install(int fd, const struct file_ops *ops, void *object);
/* The file with a reference, or NULL. Any thread, a few nanoseconds. */
struct file *file_get(int fd);
void file_put(struct file *file);
/* Take fd out of the table and drop the table's reference. -EBADF when it is not there. */
int file_remove(int fd);

#endif
