/* 9P: the queue and dispatch (p9.c), fids (p9_fid.c), operations on names (p9_name.c) and on open
 * files (p9_file.c). Everything runs on the device's own thread. */
#ifndef VIRTIO_P9_INT_H
#define VIRTIO_P9_INT_H

#include <sys/stat.h>

#include "base/list.h"
#include "os/thread.h"
#include "virtio/p9.h"
#include "virtio/virtio.h"

#define P9_MAX_MSIZE   (512 * 1024u)
#define P9_MIN_MSIZE   4096u
#define P9_MAX_REQUEST 16384u /* without the data of a write */
#define P9_MAX_FIDS    8192
#define P9_BUCKETS     1024
#define P9_NAME_MAX    255
#define P9_HEADER      7
#define P9_NOFID       0xffffffffu

enum p9_type { /* of requests; the answer is one more */
	       P9_LERROR = 6,
	       P9_STATFS = 8,
	       P9_LOPEN = 12,
	       P9_LCREATE = 14,
	       P9_SYMLINK = 16,
	       P9_MKNOD = 18,
	       P9_READLINK = 22,
	       P9_GETATTR = 24,
	       P9_SETATTR = 26,
	       P9_READDIR = 40,
	       P9_FSYNC = 50,
	       P9_LOCK = 52,
	       P9_GETLOCK = 54,
	       P9_LINK = 70,
	       P9_MKDIR = 72,
	       P9_RENAMEAT = 74,
	       P9_UNLINKAT = 76,
	       P9_VERSION = 100,
	       P9_ATTACH = 104,
	       P9_FLUSH = 108,
	       P9_WALK = 110,
	       P9_READ = 116,
	       P9_WRITE = 118,
	       P9_CLUNK = 120,
	       P9_REMOVE = 122,
};

struct p9_fid {
	struct list link; /* in its bucket */
	u32 number;
	int path; /* O_PATH descriptor of the object itself */
	int io;	  /* open for reading or writing, or -1 */
};

struct p9 {
	struct virtio_device dev;
	struct loop *loop;
	struct thread thread;
	bool readonly;
	int root;     /* O_PATH */
	int proc_fds; /* /proc/self/fd: how an O_PATH descriptor is opened for use */
	u64 root_dev;
	u32 msize;
	struct list buckets[P9_BUCKETS];
	unsigned int nfids;
	u8 *reply; /* P9_MAX_MSIZE bytes */
	u64 requests, errors;
};

/* A request being read and its answer being written. Reading past the end sets `bad` and gives
 * zeros; writing past the end does too. */
struct p9_msg {
	const u8 *in;
	u32 in_len, in_pos;
	u8 *out;
	u32 out_cap, out_len;
	bool bad;
	struct virtq_chain *chain;
	u32 direct; /* bytes of data that are in the chain behind `out` already */
};

u64 p9_get(struct p9_msg *m, unsigned int size);
/* A string of at most max bytes, with a NUL byte after it and none in it. */
void p9_get_string(struct p9_msg *m, char *out, u32 max);
/* A name in a directory: one component, neither "." nor "..". 0 or -errno. */
int p9_get_name(struct p9_msg *m, char out[P9_NAME_MAX + 1]);
void p9_put(struct p9_msg *m, unsigned int size, u64 value);
void p9_put_string(struct p9_msg *m, const char *text, u32 len);
void p9_put_qid(struct p9_msg *m, const struct p9 *p9, const struct stat *st);
/* Part of a qid that tells objects of several file systems apart. */
u64 p9_qid_path(const struct p9 *p9, u64 dev, u64 ino);

/* ---- p9_fid.c: NULL where there is none, or no more may be ---- */
struct p9_fid *p9_fid_lookup(struct p9 *p9, u32 number);
/* Takes the descriptor, also on failure. -EBADF (in use), -ENFILE, -ENOMEM. */
int p9_fid_new(struct p9 *p9, u32 number, int path);
void p9_fid_free(struct p9 *p9, struct p9_fid *fid);
void p9_fids_free(struct p9 *p9);
/* The fid that comes next in the request, or NULL with *rc set to -EBADF. */
struct p9_fid *p9_get_fid(struct p9 *p9, struct p9_msg *m, int *rc);
/* Open the fid's object for use (a file or a directory, nothing else). The descriptor or -errno. */
int p9_reopen(const struct p9 *p9, const struct p9_fid *fid, int flags);

/* ---- operations: 0, or -errno, which becomes Rlerror ---- */
int p9_attach(struct p9 *p9, struct p9_msg *m);
int p9_walk(struct p9 *p9, struct p9_msg *m);
int p9_lcreate(struct p9 *p9, struct p9_msg *m);
int p9_symlink(struct p9 *p9, struct p9_msg *m);
int p9_mknod(struct p9 *p9, struct p9_msg *m);
int p9_mkdir(struct p9 *p9, struct p9_msg *m);
int p9_link(struct p9 *p9, struct p9_msg *m);
int p9_renameat(struct p9 *p9, struct p9_msg *m);
int p9_unlinkat(struct p9 *p9, struct p9_msg *m);

int p9_lopen(struct p9 *p9, struct p9_msg *m);
int p9_read(struct p9 *p9, struct p9_msg *m);
int p9_write(struct p9 *p9, struct p9_msg *m);
int p9_readdir(struct p9 *p9, struct p9_msg *m);
int p9_fsync(struct p9 *p9, struct p9_msg *m);
int p9_lock(struct p9 *p9, struct p9_msg *m);
int p9_getlock(struct p9 *p9, struct p9_msg *m);
int p9_statfs(struct p9 *p9, struct p9_msg *m);
int p9_getattr(struct p9 *p9, struct p9_msg *m);
int p9_setattr(struct p9 *p9, struct p9_msg *m);
int p9_readlink(struct p9 *p9, struct p9_msg *m);

/* Flags of 9P2000.L (they are Linux's) to those that we allow. */
int p9_open_flags(u32 flags);
/* Permission bits that a guest may set. */
#define P9_MODE_MASK 01777

#endif
