/*
 * QEMU's scheme: byte 100 + i is read-locked by who uses permission i, byte 200 + i by who does not
 * share it. Who uses i must find nobody on 200 + i; who does not share i nobody on 100 + i.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/bits.h"
#include "block/file_int.h"

enum { PERM_CONSISTENT_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERMS };

#define USED_BASE     100
#define UNSHARED_BASE 200

static int lock_byte(int fd, int cmd, short type, off_t byte, struct flock *fl)
{
	*fl = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	return fcntl(fd, cmd, fl) ? -errno : 0;
}

static int take(int fd, unsigned int mask, off_t base)
{
	struct flock fl;

	for (unsigned int i = 0; i < PERMS; i++) {
		int rc = mask & BIT(i) ? lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + i, &fl) : 0;

		if (rc)
			return rc;
	}
	return 0;
}

static bool others(int fd, unsigned int mask, off_t base)
{
	struct flock fl;

	for (unsigned int i = 0; i < PERMS; i++)
		if ((mask & BIT(i)) && !lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + i, &fl) &&
		    fl.l_type != F_UNLCK)
			return true;
	return false;
}

static void drop(int fd)
{
	struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = USED_BASE};

	fl.l_len = UNSHARED_BASE + PERMS - USED_BASE;
	fcntl(fd, F_OFD_SETLK, &fl);
}

int file_lock(int fd, bool write, const char *name, struct err *err)
{
	unsigned int used = (unsigned int)BIT(PERM_CONSISTENT_READ);
	unsigned int unshared = (unsigned int)(BIT(PERM_WRITE) | BIT(PERM_RESIZE));
	int rc;

	if (write)
		used |= (unsigned int)(BIT(PERM_WRITE) | BIT(PERM_RESIZE));
	rc = take(fd, used, USED_BASE);
	if (!rc)
		rc = take(fd, unshared, UNSHARED_BASE);
	if (rc && rc != -EAGAIN && rc != -EACCES)
		return 0;
	if (!rc && !others(fd, used, UNSHARED_BASE) && !others(fd, unshared, USED_BASE))
		return 0;
	drop(fd);
	return err_set(err, EAGAIN, "%s: is in use by another program%s", name,
		       write ? "" : " that writes to it");
}
