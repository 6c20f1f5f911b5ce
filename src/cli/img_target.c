/*
 * The file that convert makes: beside the target under another name until it is complete.
 *
 * 1. Only a regular file, or nothing, is ever replaced; a link is followed first. Devices (but
 * block devices, which the caller writes in place), pipes and folders are refused.
 * 2. What is replaced is locked from before the copying until its name has gone over, so that no
 *    image is taken away from under a program that uses it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/img_int.h"

bool img_same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* The file behind links, or the name as it is while there is none. */
static int resolve(struct img_target *t, const char *name, struct stat *st, struct err *err)
{
	struct stat link;

	if (!stat(name, st)) {
		t->path = realpath(name, NULL);
		t->exists = true;
	} else if (strstr(name, "://")) {
		return err_set(err, EINVAL,
			       "%s: cannot be made; --existing writes into what is there", name);
	} else if (errno != ENOENT) {
		return err_set(err, errno, "%s: %s", name, strerror(errno));
	} else if (!lstat(name, &link)) {
		return err_set(err, ENOENT, "%s: is a link to a file that is not there", name);
	} else {
		t->path = strdup(name);
	}
	return t->path ? 0 : err_set(err, errno, "%s: %s", name, strerror(errno));
}

/* Lock what is there. */
static int hold(struct img_target *t, const struct stat *st, const char *source, struct err *err)
{
	struct block_options o = img_open_defaults();

	if (!S_ISREG(st->st_mode))
		return err_set(err, EINVAL, "%s: is neither a file nor a block device", t->name);
	if (img_same_file(source, t->path))
		return err_set(err, EINVAL, "%s: is source and target", t->name);
	o.file = t->path;
	o.format = "raw";
	return block_open(&t->old, &o, err);
}

/* Rights and owner of the file that it will replace, or those of any new file. */
static void take_rights(int fd, const struct img_target *t, const struct stat *st)
{
	mode_t mask;

	if (t->exists) {
		/* The group's rights are for that group. */
		bool given =
			!fchown(fd, st->st_uid, st->st_gid) || !fchown(fd, (uid_t)-1, st->st_gid);

		fchmod(fd, st->st_mode & (given ? 0777 : 0700));
		return;
	}
	mask = umask(077);
	umask(mask);
	fchmod(fd, 0644 & ~mask);
}

int img_target_begin(struct img_target *t, const char *name, const char *source, struct err *err)
{
	struct stat st;
	int rc, fd;

	*t = (struct img_target){.name = name};
	rc = resolve(t, name, &st, err);
	if (!rc && t->exists)
		rc = hold(t, &st, source, err);
	if (!rc && asprintf(&t->part, "%s.XXXXXX", t->path) < 0) {
		t->part = NULL;
		rc = err_set(err, ENOMEM, "out of memory");
	}
	if (rc)
		goto fail;
	fd = mkostemp(t->part, O_CLOEXEC);
	if (fd < 0) {
		rc = errno == ENOENT ? err_set(err, ENOENT, "%s: %s", name, strerror(ENOENT))
				     : err_set(err, errno, "%s: cannot make a file beside it: %s",
					       name, strerror(errno));
		free(t->part);
		t->part = NULL;
		goto fail;
	}
	take_rights(fd, t, &st);
	close(fd);
	return 0;
fail:
	img_target_end(t, rc, err);
	return rc;
}

/* What went wrong with the other name is told of the one that the user knows. */
static void tell_by_name(const struct img_target *t, struct err *err)
{
	char *at = strstr(err->text, t->part), rest[sizeof(err->text)];

	if (!at)
		return;
	snprintf(rest, sizeof(rest), "%s", at + strlen(t->part));
	snprintf(at, sizeof(err->text) - (size_t)(at - err->text), "%s%s", t->name, rest);
}

int img_target_end(struct img_target *t, int rc, struct err *err)
{
	if (!rc && rename(t->part, t->path))
		rc = err_set(err, errno, "%s: %s", t->name, strerror(errno));
	if (rc && t->part) {
		unlink(t->part);
		tell_by_name(t, err);
	}
	block_close(t->old);
	free(t->part);
	free(t->path);
	*t = (struct img_target){0};
	return rc;
}
