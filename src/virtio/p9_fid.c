/* The guest's handles: each holds a descriptor of the object itself, not a name. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "os/file.h"
#include "virtio/p9_int.h"

static struct list *bucket(struct p9 *p9, u32 number)
{
	return &p9->buckets[hash_u64(number) % P9_BUCKETS];
}

struct p9_fid *p9_fid_lookup(struct p9 *p9, u32 number)
{
	struct p9_fid *fid;

	list_for_each_entry (fid, bucket(p9, number), link)
		if (fid->number == number)
			return fid;
	return NULL;
}

int p9_fid_new(struct p9 *p9, u32 number, int path)
{
	struct p9_fid *fid = NULL;
	int rc = 0;

	if (number == P9_NOFID || p9_fid_lookup(p9, number))
		rc = -EBADF;
	else if (p9->nfids == P9_MAX_FIDS)
		rc = -ENFILE;
	else
		fid = calloc(1, sizeof(*fid));
	if (!fid) {
		close(path);
		return rc ? rc : -ENOMEM;
	}
	*fid = (struct p9_fid){.number = number, .path = path, .io = -1};
	list_add(bucket(p9, number), &fid->link);
	p9->nfids++;
	return 0;
}

void p9_fid_free(struct p9 *p9, struct p9_fid *fid)
{
	list_del(&fid->link);
	fd_close(&fid->path);
	fd_close(&fid->io);
	free(fid);
	p9->nfids--;
}

void p9_fids_free(struct p9 *p9)
{
	for (int i = 0; i < P9_BUCKETS; i++)
		while (!list_empty(&p9->buckets[i]))
			p9_fid_free(p9, list_first(&p9->buckets[i], struct p9_fid, link));
}

struct p9_fid *p9_get_fid(struct p9 *p9, struct p9_msg *m, int *rc)
{
	struct p9_fid *fid = p9_fid_lookup(p9, (u32)p9_get(m, 4));

	if (m->bad || !fid) {
		*rc = m->bad ? -EINVAL : -EBADF;
		return NULL;
	}
	return fid;
}

int p9_reopen(const struct p9 *p9, const struct p9_fid *fid, int flags)
{
	struct stat st;
	char name[16];
	int fd;

	if (fstat(fid->path, &st))
		return -errno;
	/* CVE-2023-2861: opening a device or a FIFO of the host has effects, or blocks. */
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return S_ISLNK(st.st_mode) ? -ELOOP : -EACCES;
	snprintf(name, sizeof(name), "%d", fid->path);
	fd = openat(p9->proc_fds, name, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}
