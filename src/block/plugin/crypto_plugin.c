/*
 * bothy-crypto.so: libcrypto behind crypto.h.
 *
 * Invariant: a libcrypto context belongs to one thread at a time. A cipher keeps the contexts that
 * nobody uses, with their keys set up, and makes more when all are taken.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "block/crypto.h"

#define KEPT 32

/* Contexts of one direction. */
struct contexts {
	unsigned int count;
	EVP_CIPHER_CTX *kept[KEPT];
};

struct cipher {
	enum crypto_mode mode;
	const EVP_CIPHER *evp;
	u8 key[CRYPTO_MAX_KEY];
	u8 essiv_key[CRYPTO_MAX_DIGEST];
	pthread_mutex_t lock;
	struct contexts ways[2], essiv;
};

static const EVP_MD *md_of(enum crypto_hash hash)
{
	return hash == CRYPTO_SHA1     ? EVP_sha1()
	       : hash == CRYPTO_SHA256 ? EVP_sha256()
				       : EVP_sha512();
}

static int digest(enum crypto_hash hash, const void *a, size_t alen, const void *b, size_t blen,
		  u8 out[CRYPTO_MAX_DIGEST])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned int len = 0;
	bool ok = ctx && EVP_DigestInit_ex(ctx, md_of(hash), NULL) == 1 &&
		  EVP_DigestUpdate(ctx, a, alen) == 1 && EVP_DigestUpdate(ctx, b, blen) == 1 &&
		  EVP_DigestFinal_ex(ctx, out, &len) == 1;

	EVP_MD_CTX_free(ctx);
	return ok ? (int)len : -ENOMEM;
}

static int derive(enum crypto_hash hash, const void *pass, size_t passlen, const void *salt,
		  size_t saltlen, u32 iterations, void *out, size_t len)
{
	if (iterations > INT32_MAX || passlen > INT32_MAX)
		return -ERANGE;
	return PKCS5_PBKDF2_HMAC(pass, (int)passlen, salt, (int)saltlen, (int)iterations,
				 md_of(hash), (int)len, out) == 1
		       ? 0
		       : -ENOMEM;
}

/* ---- ciphers ---- */

static const EVP_CIPHER *evp_of(enum crypto_mode mode, size_t key)
{
	if (mode == CRYPTO_XTS_PLAIN64)
		return key == 32 ? EVP_aes_128_xts() : key == 64 ? EVP_aes_256_xts() : NULL;
	switch (key) {
	case 16:
		return EVP_aes_128_cbc();
	case 24:
		return EVP_aes_192_cbc();
	case 32:
		return EVP_aes_256_cbc();
	default:
		return NULL;
	}
}

static EVP_CIPHER_CTX *context_make(const EVP_CIPHER *evp, const u8 *key, bool encrypt)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	if (ctx && EVP_CipherInit_ex(ctx, evp, NULL, key, NULL, encrypt) == 1) {
		EVP_CIPHER_CTX_set_padding(ctx, 0);
		return ctx;
	}
	EVP_CIPHER_CTX_free(ctx);
	return NULL;
}

static EVP_CIPHER_CTX *context_take(struct cipher *c, struct contexts *from)
{
	EVP_CIPHER_CTX *ctx = NULL;

	pthread_mutex_lock(&c->lock);
	if (from->count)
		ctx = from->kept[--from->count];
	pthread_mutex_unlock(&c->lock);
	if (ctx)
		return ctx;
	if (from == &c->essiv)
		return context_make(EVP_aes_256_ecb(), c->essiv_key, true);
	return context_make(c->evp, c->key, from == &c->ways[1]);
}

static void context_put(struct cipher *c, struct contexts *to, EVP_CIPHER_CTX *ctx)
{
	if (!ctx)
		return;
	pthread_mutex_lock(&c->lock);
	if (to->count < KEPT) {
		to->kept[to->count++] = ctx;
		ctx = NULL;
	}
	pthread_mutex_unlock(&c->lock);
	EVP_CIPHER_CTX_free(ctx);
}

static void contexts_free(struct contexts *all)
{
	while (all->count)
		EVP_CIPHER_CTX_free(all->kept[--all->count]);
}

static void cipher_free(void *cipher)
{
	struct cipher *c = cipher;

	if (!c)
		return;
	contexts_free(&c->ways[0]);
	contexts_free(&c->ways[1]);
	contexts_free(&c->essiv);
	pthread_mutex_destroy(&c->lock);
	explicit_bzero(c, sizeof(*c));
	free(c);
}

static void *cipher_new(enum crypto_mode mode, const void *key, size_t len)
{
	const EVP_CIPHER *evp = evp_of(mode, len);
	struct cipher *c = evp ? calloc(1, sizeof(*c)) : NULL;
	EVP_CIPHER_CTX *probe;

	if (!c)
		return NULL;
	pthread_mutex_init(&c->lock, NULL);
	c->mode = mode;
	c->evp = evp;
	memcpy(c->key, key, len);
	if (mode == CRYPTO_CBC_ESSIV_SHA256 &&
	    digest(CRYPTO_SHA256, key, len, NULL, 0, c->essiv_key) < 0)
		goto fail;
	/* A key that libcrypto refuses (XTS: two equal halves) is refused here. */
	probe = context_take(c, &c->ways[1]);
	if (!probe)
		goto fail;
	context_put(c, &c->ways[1], probe);
	return c;
fail:
	cipher_free(c);
	return NULL;
}

static bool crypt_sector(const struct cipher *c, EVP_CIPHER_CTX *ctx, EVP_CIPHER_CTX *essiv,
			 u64 sector, u8 *dst, const u8 *src)
{
	u8 iv[16] = {0};
	int n;

	store_le64(iv, sector);
	if (c->mode == CRYPTO_CBC_ESSIV_SHA256 &&
	    EVP_CipherUpdate(essiv, iv, &n, iv, sizeof(iv)) != 1)
		return false;
	return EVP_CipherInit_ex(ctx, NULL, NULL, NULL, iv, -1) == 1 &&
	       EVP_CipherUpdate(ctx, dst, &n, src, CRYPTO_SECTOR) == 1 && n == CRYPTO_SECTOR;
}

static int crypt(void *cipher, bool encrypt, u64 sector, void *dst, const void *src, size_t len)
{
	struct cipher *c = cipher;
	bool want_essiv = c->mode == CRYPTO_CBC_ESSIV_SHA256;
	EVP_CIPHER_CTX *ctx = context_take(c, &c->ways[encrypt]);
	EVP_CIPHER_CTX *essiv = want_essiv ? context_take(c, &c->essiv) : NULL;
	bool ok = ctx && (essiv || !want_essiv);

	for (size_t at = 0; at < len && ok; at += CRYPTO_SECTOR)
		ok = crypt_sector(c, ctx, essiv, sector + at / CRYPTO_SECTOR, (u8 *)dst + at,
				  (const u8 *)src + at);
	context_put(c, &c->ways[encrypt], ctx);
	context_put(c, &c->essiv, essiv);
	return ok ? 0 : -EIO;
}

extern const struct crypto_class crypto_plugin;
__attribute__((visibility("default"))) const struct crypto_class crypto_plugin = {
	.digest = digest,
	.derive = derive,
	.cipher_new = cipher_new,
	.cipher_free = cipher_free,
	.crypt = crypt,
};
