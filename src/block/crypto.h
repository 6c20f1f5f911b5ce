/*
 * Ciphers and key derivation, in a plug-in (bothy-crypto.so) so that the program itself starts
 * without libcrypto. Any thread; a cipher may be used by many at once.
 */
#ifndef BLOCK_CRYPTO_H
#define BLOCK_CRYPTO_H

#include "base/err.h"
#include "base/types.h"

#define CRYPTO_SECTOR	  512u
#define CRYPTO_MAX_KEY	  64u
#define CRYPTO_MAX_DIGEST 64u

enum crypto_hash { CRYPTO_SHA1, CRYPTO_SHA256, CRYPTO_SHA512 };

/* AES with keys of 16, 24 or 32 bytes; XTS takes two of the same size (32 or 64 bytes). */
enum crypto_mode {
	CRYPTO_XTS_PLAIN64,	 /* IV: the number of the sector, 64 bits little-endian */
	CRYPTO_CBC_PLAIN64,	 /* the same */
	CRYPTO_CBC_ESSIV_SHA256, /* that, encrypted with the hash of the key */
};

struct crypto_class {
	/* Hash of two pieces in a row; the length of the digest, or -errno. */
	int (*digest)(enum crypto_hash hash, const void *a, size_t alen, const void *b, size_t blen,
		      u8 out[CRYPTO_MAX_DIGEST]);
	/* PBKDF2 (RFC 8018) with HMAC. */
	int (*derive)(enum crypto_hash hash, const void *pass, size_t passlen, const void *salt,
		      size_t saltlen, u32 iterations, void *out, size_t len);
	/* NULL: a key of that size does not go with it, or out of memory. */
	void *(*cipher_new)(enum crypto_mode mode, const void *key, size_t len);
	void (*cipher_free)(void *cipher);
	/* Whole sectors, the first of them numbered; dst may be src. */
	int (*crypt)(void *cipher, bool encrypt, u64 sector, void *dst, const void *src,
		     size_t len);
};

static inline size_t crypto_digest_size(enum crypto_hash hash)
{
	return hash == CRYPTO_SHA1 ? 20 : hash == CRYPTO_SHA256 ? 32 : 64;
}

/* The plug-in's; NULL with the reason. */
const struct crypto_class *crypto_load(struct err *err);

#endif
