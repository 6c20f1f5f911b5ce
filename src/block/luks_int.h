/*
 * LUKS version 1 ("LUKS On-Disk Format Specification", 1.2.3): the header that leads from a
 * passphrase to the key of a disk, and the node that encrypts. The header lies at the beginning of
 * a `luks` image, or in clusters of a qcow2 image that says crypt_method 2.
 */
#ifndef BLOCK_LUKS_INT_H
#define BLOCK_LUKS_INT_H

#include "block/block_int.h"
#include "block/crypto.h"

#define LUKS_BYTES   592u
#define LUKS_SLOTS   8u
#define LUKS_STRIPES 4000u
#define LUKS_SALT    32u
#define LUKS_DIGEST  20u

struct luks_slot {
	bool active;
	u32 iterations;
	u8 salt[LUKS_SALT];
	u64 material; /* bytes from the start of the header */
};

struct luks_header {
	enum crypto_mode mode;
	enum crypto_hash hash;
	u32 key_bytes;
	u64 payload; /* bytes from the start of the header */
	u8 digest[LUKS_DIGEST], digest_salt[LUKS_SALT];
	u32 digest_iterations;
	char uuid[41];
	struct luks_slot slots[LUKS_SLOTS];
};

/* Where a header and its key material lie. */
struct luks_place {
	struct block *file;
	u64 start, len;
};

bool luks_probe(const u8 *head);

/* Read and judge the header. */
int luks_read(struct luks_header *h, const struct luks_place *place, struct err *err);

/* Find the key with the passphrase that the options name: a cipher of *crypto. Bounded, whatever
 * number of iterations the header asks for. -EKEYREJECTED when no slot opens. */
int luks_unlock(const struct luks_header *h, const struct luks_place *place,
		const struct block_options *o, const struct crypto_class **crypto, void **cipher,
		struct err *err);

/* Judge the encryption that was asked for, and lay it out: h is all but the secrets. `align`: what
 * the payload's offset is a multiple of. */
int luks_plan(struct luks_header *h, const struct block_create *c, u64 align, struct err *err);
/* Make a key and write the planned header at the place (place.len: h->payload at least). Takes as
 * long as c->iter_time says. */
int luks_write(struct luks_header *h, const struct luks_place *place, const struct block_create *c,
	       struct err *err);

/* For people: "aes-256-xts-plain64". */
void luks_describe(const struct luks_header *h, struct block_encryption *out);

/* ---- crypt.c ---- */

/* A node whose bytes lie encrypted in `file` from `start` on. cipher NULL: nothing can be read. */
struct crypt {
	struct block block;
	const struct crypto_class *crypto;
	void *cipher;
	u64 start;
	pthread_rwlock_t lock; /* shared by writes of whole sectors, exclusive for parts of one */
	struct luks_header luks;
};

/* A node over `file`, which stays the caller's, that takes over the cipher also on failure. */
struct block *crypt_new(const char *name, struct block *file, const struct crypto_class *crypto,
			void *cipher);
/* Close a node of crypt_new(); NULL is ignored. */
void crypt_free(struct block *crypt);

#endif
