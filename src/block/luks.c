/*
 * The header: reading, opening with a passphrase, making. Every number in it is the image author's;
 * luks_read() judges all of them but the iteration counts, which luks_unlock() has a budget for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "block/luks_int.h"
#include "os/clock.h"
#include "os/file.h"

#define SLOT_ON	    0x00ac71f3u
#define SLOT_OFF    0x0000deadu
#define FIRST_SLOT  4096u /* where cryptsetup and QEMU put the key material */
#define MAX_KEYFILE (8 * MiB)
#define MAX_SPLIT   (CRYPTO_MAX_KEY * LUKS_STRIPES)

/*
 * Hashes that opening may cost, over all slots: a good minute at 3 million a second. A slot made
 * for ten seconds on a fast machine asks for 60 to 100 million.
 */
#define DEFAULT_WORK 200000000ULL

static const struct {
	const char *name, *mode, *text;
	enum crypto_mode value;
	u32 key_bytes[4];
} modes[] = {
	{"aes", "xts-plain64", "xts-plain64", CRYPTO_XTS_PLAIN64, {32, 64}},
	{"aes", "cbc-plain64", "cbc-plain64", CRYPTO_CBC_PLAIN64, {16, 24, 32}},
	{"aes", "cbc-essiv:sha256", "cbc-essiv:sha256", CRYPTO_CBC_ESSIV_SHA256, {16, 24, 32}},
};

static const char *const hashes[] = {"sha1", "sha256", "sha512"};

bool luks_probe(const u8 *head)
{
	return !memcmp(head, "LUKS\xba\xbe", 6);
}

/* ---- reading ---- */

static u64 split_bytes(const struct luks_header *h)
{
	return align_up((u64)h->key_bytes * LUKS_STRIPES, CRYPTO_SECTOR);
}

/* A name of at most 32 bytes, for messages too. */
static void take_name(char out[33], const u8 *p)
{
	for (int i = 0; i < 32; i++)
		out[i] = p[i] && (p[i] < ' ' || p[i] > '~') ? '?' : (char)p[i];
	out[32] = '\0';
}

static int take_cipher(struct luks_header *h, const char *file, const u8 *p, struct err *err)
{
	char name[33], mode[33], hash[33];
	size_t m = 0, k = 0;

	take_name(name, p + 8);
	take_name(mode, p + 40);
	take_name(hash, p + 72);
	h->key_bytes = load_be32(p + 108);
	while (m < ARRAY_SIZE(modes) &&
	       (strcmp(name, modes[m].name) || strcmp(mode, modes[m].mode)))
		m++;
	if (m == ARRAY_SIZE(modes))
		return err_set(err, ENOTSUP, "%s: encryption with %s-%s is not supported", file,
			       name, mode);
	h->mode = modes[m].value;
	while (k < 4 && modes[m].key_bytes[k] && modes[m].key_bytes[k] != h->key_bytes)
		k++;
	if (k == 4 || !modes[m].key_bytes[k])
		return err_set(err, EINVAL, "%s: a key of %u bytes is impossible for %s-%s", file,
			       h->key_bytes, name, mode);
	for (k = 0; k < ARRAY_SIZE(hashes) && strcmp(hash, hashes[k]); k++)
		;
	if (k == ARRAY_SIZE(hashes))
		return err_set(err, ENOTSUP, "%s: hash %s is not supported", file, hash);
	h->hash = (enum crypto_hash)k;
	return 0;
}

static int take_slot(struct luks_header *h, unsigned int i, const char *file, const u8 *p,
		     struct err *err)
{
	struct luks_slot *s = &h->slots[i];
	u32 state = load_be32(p);

	if (state != SLOT_ON && state != SLOT_OFF)
		return err_set(err, EINVAL, "%s: key slot %u is in an impossible state", file, i);
	s->active = state == SLOT_ON;
	s->iterations = load_be32(p + 4);
	memcpy(s->salt, p + 8, LUKS_SALT);
	s->material = (u64)load_be32(p + 40) * CRYPTO_SECTOR;
	if (!s->active)
		return 0;
	if (load_be32(p + 44) != LUKS_STRIPES)
		return err_set(err, EINVAL, "%s: key slot %u has %u stripes instead of %u", file, i,
			       load_be32(p + 44), LUKS_STRIPES);
	if (!s->iterations)
		return err_set(err, EINVAL, "%s: key slot %u has no iterations", file, i);
	if (s->material < LUKS_BYTES || s->material > h->payload ||
	    split_bytes(h) > h->payload - s->material)
		return err_set(err, EINVAL, "%s: key slot %u lies at an impossible place", file, i);
	return 0;
}

/* No two slots may share key material. */
static int judge_slots(const struct luks_header *h, const char *file, struct err *err)
{
	u64 len = split_bytes(h);

	for (unsigned int i = 0; i < LUKS_SLOTS; i++)
		for (unsigned int k = 0; k < i; k++)
			if (h->slots[i].active && h->slots[k].active &&
			    ranges_overlap(h->slots[i].material, len, h->slots[k].material, len))
				return err_set(err, EINVAL, "%s: key slots %u and %u overlap", file,
					       k, i);
	return 0;
}

static int decode(struct luks_header *h, const u8 *p, const char *file, struct err *err)
{
	u16 version = load_be16(p + 6);
	int rc;

	*h = (struct luks_header){.payload = (u64)load_be32(p + 104) * CRYPTO_SECTOR};
	if (!luks_probe(p))
		return err_set(err, EINVAL, "%s: has no LUKS header", file);
	if (version != 1)
		return err_set(err, ENOTSUP,
			       "%s: LUKS version %u is not supported (cryptsetup convert --type "
			       "luks1 makes version 1 of 2)",
			       file, version);
	rc = take_cipher(h, file, p, err);
	if (rc)
		return rc;
	memcpy(h->digest, p + 112, LUKS_DIGEST);
	memcpy(h->digest_salt, p + 132, LUKS_SALT);
	h->digest_iterations = load_be32(p + 164);
	memcpy(h->uuid, p + 168, 40);
	if (!h->digest_iterations)
		return err_set(err, EINVAL, "%s: the digest of the key has no iterations", file);
	if (h->payload < LUKS_BYTES)
		return err_set(err, EINVAL, "%s: the data lies at an impossible place", file);
	for (unsigned int i = 0; i < LUKS_SLOTS && !rc; i++)
		rc = take_slot(h, i, file, p + 208 + i * 48, err);
	return rc ? rc : judge_slots(h, file, err);
}

int luks_read(struct luks_header *h, const struct luks_place *place, struct err *err)
{
	const char *file = place->file->name;
	u8 raw[LUKS_BYTES];
	int rc;

	if (place->len < LUKS_BYTES)
		return err_set(err, EINVAL, "%s: too short for a LUKS header", file);
	rc = block_node_read(place->file, raw, sizeof(raw), place->start);
	if (rc)
		return err_set(err, -rc, "%s: %s", file, strerror(-rc));
	rc = decode(h, raw, file, err);
	for (unsigned int i = 0; i < LUKS_SLOTS && !rc; i++)
		if (h->slots[i].active &&
		    !range_fits(h->slots[i].material, split_bytes(h), place->len))
			rc = err_set(err, EINVAL, "%s: key slot %u lies behind the end", file, i);
	return rc;
}

/* ---- the anti-forensic splitter (section 2.4) ---- */

/* Each piece of a digest's length becomes the hash of its number and itself. */
static int diffuse(const struct crypto_class *c, enum crypto_hash hash, u8 *buf, size_t len)
{
	size_t piece = crypto_digest_size(hash);
	u8 out[CRYPTO_MAX_DIGEST], number[4];

	for (size_t at = 0; at < len; at += piece) {
		size_t n = min(piece, len - at);
		int rc;

		store_be32(number, (u32)(at / piece));
		rc = c->digest(hash, number, sizeof(number), buf + at, n, out);
		if (rc < 0)
			return rc;
		memcpy(buf + at, out, n);
	}
	return 0;
}

static void xor_into(u8 *dst, const u8 *src, size_t len)
{
	for (size_t i = 0; i < len; i++)
		dst[i] ^= src[i];
}

/* The first stripes of `split`, folded into d (which begins as zeros). */
static int fold(const struct crypto_class *c, const struct luks_header *h, const u8 *split, u8 *d)
{
	int rc = 0;

	memset(d, 0, h->key_bytes);
	for (u32 i = 0; i < LUKS_STRIPES - 1 && !rc; i++) {
		xor_into(d, split + (size_t)i * h->key_bytes, h->key_bytes);
		rc = diffuse(c, h->hash, d, h->key_bytes);
	}
	return rc;
}

/* ---- opening ---- */

static int read_key(const char *path, void **key, size_t *len, struct err *err)
{
	int rc = file_read_all(path, MAX_KEYFILE, key, len, err);

	if (rc)
		err_prefix(err, "encrypt.key-file");
	else if (!*len) {
		free(*key);
		rc = err_set(err, EINVAL, "encrypt.key-file: %s: is empty", path);
	}
	return rc;
}

static void forget(void *key, size_t len)
{
	if (key)
		explicit_bzero(key, len);
	free(key);
}

struct opening {
	const struct luks_header *h;
	const struct luks_place *place;
	const struct crypto_class *c;
	const void *pass;
	size_t passlen;
	u64 work; /* left */
	u8 key[CRYPTO_MAX_KEY];
};

static u64 cost(u32 iterations, u64 bytes, enum crypto_hash hash)
{
	return iterations * div_round_up(bytes, crypto_digest_size(hash));
}

static bool afford(struct opening *o, u64 work)
{
	if (work > o->work)
		return false;
	o->work -= work;
	return true;
}

static bool same(const u8 *a, const u8 *b, size_t len)
{
	u8 differs = 0;

	for (size_t i = 0; i < len; i++)
		differs |= a[i] ^ b[i];
	return !differs;
}

/* Key material of the slot with the key that the passphrase gives: 0 and the key of the disk in
 * o->key, if the digest says so; -EKEYREJECTED if not. */
static int open_material(struct opening *o, const struct luks_slot *slot, const u8 *derived,
			 u8 *split)
{
	const struct luks_header *h = o->h;
	void *cipher = o->c->cipher_new(h->mode, derived, h->key_bytes);
	u8 digest[LUKS_DIGEST];
	int rc;

	if (!cipher)
		return -EKEYREJECTED;
	rc = block_node_read(o->place->file, split, split_bytes(h),
			     o->place->start + slot->material);
	if (!rc)
		rc = o->c->crypt(cipher, false, 0, split, split, split_bytes(h));
	o->c->cipher_free(cipher);
	if (!rc)
		rc = fold(o->c, h, split, o->key);
	if (rc)
		return rc;
	xor_into(o->key, split + (size_t)(LUKS_STRIPES - 1) * h->key_bytes, h->key_bytes);
	rc = o->c->derive(h->hash, o->key, h->key_bytes, h->digest_salt, LUKS_SALT,
			  h->digest_iterations, digest, sizeof(digest));
	if (rc)
		return rc;
	return same(digest, h->digest, sizeof(digest)) ? 0 : -EKEYREJECTED;
}

static int open_slot(struct opening *o, const struct luks_slot *slot)
{
	const struct luks_header *h = o->h;
	u8 derived[CRYPTO_MAX_KEY], *split;
	int rc;

	if (!afford(o, cost(slot->iterations, h->key_bytes, h->hash) +
			       cost(h->digest_iterations, LUKS_DIGEST, h->hash)))
		return -E2BIG;
	split = malloc(MAX_SPLIT + CRYPTO_SECTOR);
	if (!split)
		return -ENOMEM;
	rc = o->c->derive(h->hash, o->pass, o->passlen, slot->salt, LUKS_SALT, slot->iterations,
			  derived, h->key_bytes);
	if (!rc)
		rc = open_material(o, slot, derived, split);
	explicit_bzero(derived, sizeof(derived));
	forget(split, MAX_SPLIT + CRYPTO_SECTOR);
	return rc;
}

static int explain(const struct opening *o, const char *file, int rc, bool too_much,
		   struct err *err)
{
	const char *pass = o->pass;

	if (rc != -EKEYREJECTED)
		return err_set(err, -rc, "%s: opening the encryption: %s", file, strerror(-rc));
	if (too_much)
		return err_set(err, EKEYREJECTED,
			       "%s: the key opens no slot; some ask for more iterations than are "
			       "allowed and were left out",
			       file);
	return err_set(err, EKEYREJECTED, "%s: the key does not open it%s", file,
		       pass[o->passlen - 1] == '\n'
			       ? " (the key file ends with a newline, which counts)"
			       : "");
}

static int try_slots(struct opening *o, struct err *err)
{
	bool too_much = false;
	int rc = -EKEYREJECTED;

	for (unsigned int i = 0; i < LUKS_SLOTS && rc == -EKEYREJECTED; i++) {
		if (!o->h->slots[i].active)
			continue;
		rc = open_slot(o, &o->h->slots[i]);
		if (rc == -E2BIG) {
			too_much = true;
			rc = -EKEYREJECTED;
		}
	}
	return rc ? explain(o, o->place->file->name, rc, too_much, err) : 0;
}

int luks_unlock(const struct luks_header *h, const struct luks_place *place,
		const struct block_options *options, const struct crypto_class **crypto,
		void **cipher, struct err *err)
{
	struct opening o = {.h = h, .place = place};
	void *pass;
	int rc;

	o.work = options->key_work ? options->key_work : DEFAULT_WORK;
	if (!options->key_file)
		return err_set(err, EACCES,
			       "%s: is encrypted; say encrypt.key-file=FILE (or format=raw, if it "
			       "is a raw disk that the guest encrypts)",
			       place->file->name);
	o.c = crypto_load(err);
	if (!o.c)
		return -ENOENT;
	rc = read_key(options->key_file, &pass, &o.passlen, err);
	if (rc)
		return rc;
	o.pass = pass;
	rc = try_slots(&o, err);
	if (!rc) {
		*crypto = o.c;
		*cipher = o.c->cipher_new(h->mode, o.key, h->key_bytes);
		if (!*cipher)
			rc = err_set(err, EINVAL, "%s: the key of the disk is unusable",
				     place->file->name);
	}
	explicit_bzero(&o.key, sizeof(o.key));
	forget(pass, o.passlen);
	return rc;
}

/* ---- making ---- */

static int fill_random(void *buf, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = getrandom((u8 *)buf + at, min(len - at, (size_t)256), 0);

		if (n < 0 && errno != EINTR)
			return -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int luks_plan(struct luks_header *h, const struct block_create *c, u64 align, struct err *err)
{
	u64 material;

	*h = (struct luks_header){
		.mode = CRYPTO_XTS_PLAIN64,
		.hash = (enum crypto_hash)c->encrypt_hash,
		.key_bytes = c->encrypt_cipher == BLOCK_CIPHER_AES_128 ? 32 : 64,
	};
	if (!c->encrypt_key_file)
		return err_set(err, EINVAL, "encryption needs encrypt.key-file=FILE");
	if (access(c->encrypt_key_file, R_OK))
		return err_set(err, errno, "encrypt.key-file: %s: %s", c->encrypt_key_file,
			       strerror(errno));
	material = align_up(split_bytes(h), 4096);
	for (unsigned int i = 0; i < LUKS_SLOTS; i++)
		h->slots[i].material = FIRST_SLOT + i * material;
	h->payload = align_up(FIRST_SLOT + LUKS_SLOTS * material, align);
	return 0;
}

static void encode(const struct luks_header *h, u8 *p)
{
	memset(p, 0, LUKS_BYTES);
	memcpy(p, "LUKS\xba\xbe", 6);
	store_be16(p + 6, 1);
	strcpy((char *)p + 8, modes[h->mode].name);
	strcpy((char *)p + 40, modes[h->mode].mode);
	strcpy((char *)p + 72, hashes[h->hash]);
	store_be32(p + 104, (u32)(h->payload / CRYPTO_SECTOR));
	store_be32(p + 108, h->key_bytes);
	memcpy(p + 112, h->digest, LUKS_DIGEST);
	memcpy(p + 132, h->digest_salt, LUKS_SALT);
	store_be32(p + 164, h->digest_iterations);
	memcpy(p + 168, h->uuid, 40);
	for (unsigned int i = 0; i < LUKS_SLOTS; i++) {
		const struct luks_slot *s = &h->slots[i];
		u8 *slot = p + 208 + i * 48;

		store_be32(slot, s->active ? SLOT_ON : SLOT_OFF);
		store_be32(slot + 4, s->iterations);
		memcpy(slot + 8, s->salt, LUKS_SALT);
		store_be32(slot + 40, (u32)(s->material / CRYPTO_SECTOR));
		store_be32(slot + 44, LUKS_STRIPES);
	}
}

static int make_uuid(char out[41])
{
	u8 r[16];
	int rc = fill_random(r, sizeof(r));

	r[6] = (u8)((r[6] & 0x0f) | 0x40);
	r[8] = (u8)((r[8] & 0x3f) | 0x80);
	snprintf(out, 41, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12],
		 r[13], r[14], r[15]);
	return rc;
}

/* How many iterations take `ms` of processor time. */
static int measure(const struct crypto_class *c, const struct luks_header *h, u64 ms, u32 *out)
{
	u8 key[CRYPTO_MAX_KEY], salt[LUKS_SALT] = {1};
	u64 took = 0, want, most = INT32_MAX, enough = min(ms, (u64)40) * NSEC_PER_MSEC;
	u32 n = 1000;
	int rc = 0;

	for (;; n *= 2) {
		u64 begin = clock_thread_cpu_ns();

		rc = c->derive(h->hash, "speed", 5, salt, sizeof(salt), n, key, h->key_bytes);
		took = clock_thread_cpu_ns() - begin;
		if (rc || took > enough || n > most / 2)
			break;
	}
	took = max(took, (u64)1);
	want = (u64)((double)n * (double)ms * 1e6 / (double)took);
	want = max(want, (u64)1000);
	*out = (u32)min(want, most);
	return rc;
}

/* The key, split and encrypted with what the passphrase gives, into slot 0. */
static int write_slot(const struct crypto_class *c, const struct luks_header *h,
		      const struct luks_place *place, const void *pass, size_t passlen,
		      const u8 *key)
{
	const struct luks_slot *s = &h->slots[0];
	u8 derived[CRYPTO_MAX_KEY], d[CRYPTO_MAX_KEY];
	u8 *split = calloc(1, MAX_SPLIT + CRYPTO_SECTOR), *last;
	void *cipher = NULL;
	int rc = split ? fill_random(split, (size_t)h->key_bytes * (LUKS_STRIPES - 1)) : -ENOMEM;

	if (!rc)
		rc = fold(c, h, split, d);
	if (!rc) {
		last = split + (size_t)(LUKS_STRIPES - 1) * h->key_bytes;
		memcpy(last, key, h->key_bytes);
		xor_into(last, d, h->key_bytes);
		rc = c->derive(h->hash, pass, passlen, s->salt, LUKS_SALT, s->iterations, derived,
			       h->key_bytes);
	}
	if (!rc) {
		cipher = c->cipher_new(h->mode, derived, h->key_bytes);
		rc = cipher ? c->crypt(cipher, true, 0, split, split, split_bytes(h)) : -EINVAL;
	}
	if (!rc)
		rc = block_node_write(place->file, split, split_bytes(h),
				      place->start + s->material);
	if (cipher)
		c->cipher_free(cipher);
	explicit_bzero(derived, sizeof(derived));
	explicit_bzero(d, sizeof(d));
	forget(split, MAX_SPLIT + CRYPTO_SECTOR);
	return rc;
}

static int make_secrets(const struct crypto_class *c, struct luks_header *h, u64 iter_time, u8 *key)
{
	struct luks_slot *s = &h->slots[0];
	int rc = fill_random(key, h->key_bytes);

	if (!rc)
		rc = fill_random(h->digest_salt, LUKS_SALT);
	if (!rc)
		rc = fill_random(s->salt, LUKS_SALT);
	if (!rc)
		rc = make_uuid(h->uuid);
	if (!rc)
		rc = measure(c, h, iter_time, &s->iterations);
	s->active = true;
	h->digest_iterations = max(s->iterations / 8, 1000u);
	return rc ? rc
		  : c->derive(h->hash, key, h->key_bytes, h->digest_salt, LUKS_SALT,
			      h->digest_iterations, h->digest, LUKS_DIGEST);
}

int luks_write(struct luks_header *h, const struct luks_place *place, const struct block_create *c,
	       struct err *err)
{
	const struct crypto_class *crypto = crypto_load(err);
	u8 key[CRYPTO_MAX_KEY], raw[LUKS_BYTES];
	size_t passlen = 0;
	void *pass;
	int rc;

	if (!crypto)
		return -ENOENT;
	rc = read_key(c->encrypt_key_file, &pass, &passlen, err);
	if (rc)
		return rc;
	rc = make_secrets(crypto, h, c->encrypt_iter_time, key);
	if (!rc)
		rc = write_slot(crypto, h, place, pass, passlen, key);
	encode(h, raw);
	if (!rc)
		rc = block_node_write(place->file, raw, sizeof(raw), place->start);
	explicit_bzero(key, sizeof(key));
	forget(pass, passlen);
	return rc ? err_set(err, -rc, "%s: making the encryption: %s", place->file->name,
			    strerror(-rc))
		  : 0;
}

/* ---- telling ---- */

void luks_describe(const struct luks_header *h, struct block_encryption *out)
{
	u32 bits = h->key_bytes * 8 / (h->mode == CRYPTO_XTS_PLAIN64 ? 2 : 1);

	*out = (struct block_encryption){.format = "luks",
					 .mode = modes[h->mode].text,
					 .hash = hashes[h->hash],
					 .uuid = h->uuid,
					 .key_bits = bits,
					 .payload = h->payload,
					 .digest_iterations = h->digest_iterations};
	for (unsigned int i = 0; i < LUKS_SLOTS; i++)
		if (h->slots[i].active)
			out->slots |= 1u << i;
}
