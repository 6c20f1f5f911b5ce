/*
 * Operations on whole images: what `bothy img` does beyond reading and writing. All block; one
 * thread at a time for each image, and no queue on it.
 */
#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include "block/block.h"

/* ---- create ---- */

enum block_prealloc {
	BLOCK_PREALLOC_OFF,
	BLOCK_PREALLOC_METADATA, /* tables and refcounts, the data sparse */
	BLOCK_PREALLOC_FALLOC,	 /* and the data reserved */
	BLOCK_PREALLOC_FULL,	 /* and written with zeros */
};

enum block_encrypt { BLOCK_ENCRYPT_NONE, BLOCK_ENCRYPT_LUKS };
enum block_cipher { BLOCK_CIPHER_AES_256, BLOCK_CIPHER_AES_128 };

/* Names, defaults and meanings are those of qemu-img's -o. */
struct block_create {
	u64 size;
	char *backing_file, *backing_fmt;
	u64 cluster_size;  /* qcow2, qed; 0: 64 KiB */
	int compat;	   /* qcow2: 0 for "0.10" (version 2), 1 for "1.1" (version 3) */
	u64 refcount_bits; /* qcow2: 1 to 64 */
	bool lazy_refcounts, extended_l2;
	int compression_type; /* 0 zlib, 1 zstd */
	int preallocation;    /* enum block_prealloc */
	char *data_file;      /* qcow2: external data file */
	bool data_file_raw;
	u64 table_size;		/* qed, clusters */
	int encrypt_format;	/* qcow2: enum block_encrypt; luks images always are */
	char *encrypt_key_file; /* the passphrase, every byte of it */
	int encrypt_cipher;	/* enum block_cipher, in XTS mode */
	int encrypt_hash;	/* 0 sha1, 1 sha256, 2 sha512 */
	u64 encrypt_iter_time;	/* ms that trying a passphrase shall take */
};

extern const struct opt block_create_table[]; /* of struct block_create, for opt_free() too */

/* Set the defaults, and what text ("key=value,...", or NULL) says. Keys that mean nothing to the
 * format are errors. opt_free() in any case. */
int block_create_parse(struct block_create *c, const char *format, const char *text,
		       struct err *err);

/* Make an image; what was at path is lost, unless it is asked for what cannot be made: -EINVAL,
 * -EFBIG, -ENOTSUP. The backing file is not opened: its format is taken on trust. */
int block_create(const char *path, const char *format, const struct block_create *c,
		 struct err *err);

extern const char *const block_prealloc_names[];

/* An image that was `from` bytes long has been made larger: prepare the rest as for a new one. how:
 * enum block_prealloc. */
int block_extend(struct block *block, u64 from, int how, struct err *err);

/* ---- look ---- */

/* What an encrypted image tells without its key. */
struct block_encryption {
	const char *format; /* NULL: not encrypted */
	const char *mode, *hash, *uuid;
	u32 key_bits;	    /* of the cipher */
	unsigned int slots; /* bit n: key slot n is in use */
	u64 payload;	    /* bytes from the LUKS header to the data */
	u32 digest_iterations;
};

struct block_image_info {
	const char *format;
	const char *backing_file, *backing_format, *data_file; /* as the image has them, or NULL */
	u64 virtual_size, disk_size;
	u64 cluster_size; /* 0: none */
	u32 version;	  /* qcow2 */
	u32 refcount_bits;
	u32 nsnapshots, nbitmaps;
	bool lazy_refcounts, extended_l2, data_file_raw, dirty, corrupt;
	const char *compression;
	struct block_encryption encryption;
};

/* Strings are the node's. */
int block_image_info(struct block *block, struct block_image_info *info);

/* ---- check ---- */

enum { BLOCK_FIX_LEAKS = 1, BLOCK_FIX_ERRORS = 2 };

struct block_check {
	u64 errors, leaks;	       /* that remain */
	u64 errors_fixed, leaks_fixed; /* */
	u64 total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
	u64 image_end; /* bytes */
	/* Called with each finding, without a newline; may be NULL. */
	void (*report)(void *arg, const char *line);
	void *arg;
};

/* -ENOTSUP for formats without anything to check. The image is consistent if it returns 0 and
 * errors is 0. */
int block_check(struct block *block, unsigned int fix, struct block_check *check, struct err *err);

/* ---- snapshots inside an image ---- */

struct block_snapshot {
	const char *id, *name;
	u64 vm_state_size, disk_size;
	u64 date_ns, vm_clock_ns;
};

/* The number of snapshots, or -ENOTSUP. */
int block_snapshot_count(struct block *block);
int block_snapshot_get(struct block *block, unsigned int index, struct block_snapshot *out);
int block_snapshot_create(struct block *block, const char *name, struct err *err);
/* which: a name, or an id. */
int block_snapshot_apply(struct block *block, const char *which, struct err *err);
int block_snapshot_delete(struct block *block, const char *which, struct err *err);

/* Show the snapshot instead of the disk, of an image opened read-only, until it is closed. */
int block_snapshot_view(struct block *block, const char *which, struct err *err);

/* Forget all that the image holds, so that its backing file shows everywhere. */
int block_make_empty(struct block *block, struct err *err);

/* ---- rebase, unsafe: change the backing file's name in the image and nothing else ---- */
int block_change_backing(struct block *block, const char *file, const char *format,
			 struct err *err);

/* How many bytes an image of this shape takes: with nothing in it but `data` bytes of data, and
 * with everything allocated. */
int block_measure(const char *format, const struct block_create *c, u64 data, u64 *required,
		  u64 *full, struct err *err);

#endif
