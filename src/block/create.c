/* Making images: the options, and what all formats have in common. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/block_int.h"
#include "block/image.h"
#include "os/file.h"

static const char *const compat_names[] = {"0.10", "1.1", NULL};
static const char *const compression_names[] = {"zlib", "zstd", NULL};
static const char *const encrypt_names[] = {"none", "luks", NULL};
static const char *const cipher_names[] = {"aes-256", "aes-128", NULL};
static const char *const hash_names[] = {"sha1", "sha256", "sha512", NULL};
const char *const block_prealloc_names[] = {"off", "metadata", "falloc", "full", NULL};

#define FIELD(f) .offset = offsetof(struct block_create, f)

const struct opt block_create_table[] = {
	{.name = "size", .type = OPT_SIZE, FIELD(size), .arg = "SIZE", .help = "bytes of the disk"},
	{.name = "backing_file",
	 .type = OPT_STRING,
	 FIELD(backing_file),
	 .arg = "FILE",
	 .help = "image that shows where this one has nothing"},
	{.name = "backing_fmt",
	 .type = OPT_STRING,
	 FIELD(backing_fmt),
	 .arg = "NAME",
	 .help = "its format"},
	{.name = "cluster_size",
	 .type = OPT_SIZE,
	 FIELD(cluster_size),
	 .arg = "SIZE",
	 .help = "unit of allocation, 512 to 2M (qed: 4K to 64M); 64K when left out"},
	{.name = "compat",
	 .type = OPT_ENUM,
	 FIELD(compat),
	 .dflt = "1.1",
	 .arg = "VERSION",
	 .choices = compat_names,
	 .help = "qcow2: 0.10 (version 2) or 1.1 (version 3)"},
	{.name = "refcount_bits",
	 .type = OPT_U64,
	 FIELD(refcount_bits),
	 .dflt = "16",
	 .arg = "N",
	 .min = 1,
	 .max = 64,
	 .help = "qcow2: width of reference counts, a power of 2"},
	{.name = "lazy_refcounts",
	 .type = OPT_BOOL,
	 FIELD(lazy_refcounts),
	 .help = "qcow2: allow reference counts to be rebuilt after a crash"},
	{.name = "extended_l2",
	 .type = OPT_BOOL,
	 FIELD(extended_l2),
	 .help = "qcow2: allocate by 32nds of a cluster"},
	{.name = "compression_type",
	 .type = OPT_ENUM,
	 FIELD(compression_type),
	 .dflt = "zlib",
	 .arg = "NAME",
	 .choices = compression_names,
	 .help = "qcow2: zlib or zstd for compressed clusters"},
	{.name = "preallocation",
	 .type = OPT_ENUM,
	 FIELD(preallocation),
	 .dflt = "off",
	 .arg = "MODE",
	 .choices = block_prealloc_names,
	 .help = "off, metadata, falloc or full"},
	{.name = "data_file",
	 .type = OPT_STRING,
	 FIELD(data_file),
	 .arg = "FILE",
	 .help = "qcow2: keep the data in this file, the image has only tables"},
	{.name = "data_file_raw",
	 .type = OPT_BOOL,
	 FIELD(data_file_raw),
	 .help = "qcow2: keep the data file a valid raw disk"},
	{.name = "table_size",
	 .type = OPT_U64,
	 FIELD(table_size),
	 .arg = "N",
	 .max = 16,
	 .help = "qed: clusters of a table, a power of 2; 4 when left out"},
	{.name = "encrypt.format",
	 .type = OPT_ENUM,
	 FIELD(encrypt_format),
	 .dflt = "none",
	 .arg = "NAME",
	 .choices = encrypt_names,
	 .help = "qcow2: luks to encrypt what the guest writes"},
	{.name = "encrypt.key-file",
	 .type = OPT_STRING,
	 FIELD(encrypt_key_file),
	 .arg = "FILE",
	 .help = "file with the passphrase, a last newline included"},
	{.name = "encrypt.cipher-alg",
	 .type = OPT_ENUM,
	 FIELD(encrypt_cipher),
	 .dflt = "aes-256",
	 .arg = "NAME",
	 .choices = cipher_names,
	 .help = "aes-256 or aes-128, in mode xts-plain64"},
	{.name = "encrypt.hash-alg",
	 .type = OPT_ENUM,
	 FIELD(encrypt_hash),
	 .dflt = "sha256",
	 .arg = "NAME",
	 .choices = hash_names,
	 .help = "sha1, sha256 or sha512, to make keys from passphrases"},
	{.name = "encrypt.iter-time",
	 .type = OPT_U64,
	 FIELD(encrypt_iter_time),
	 .dflt = "2000",
	 .arg = "MS",
	 .min = 1,
	 .max = 60000,
	 .help = "time that trying a passphrase shall take"},
	OPT_END,
};

/* ---- keys ---- */

#define RAW_KEYS "size preallocation"

static bool among(const char *keys, const char *name)
{
	size_t len = strlen(name);

	for (const char *k = keys; *k; k += strspn(k, " ")) {
		size_t n = strcspn(k, " ");

		if (n == len && !memcmp(k, name, n))
			return true;
		k += n;
	}
	return false;
}

/* The class, or NULL and 0 for raw. */
static int class_to_make(const struct block_class **class, const char *format, struct err *err)
{
	*class = strcmp(format, "raw") ? block_class_lookup(format) : NULL;
	if (!strcmp(format, "raw") || (*class && (*class)->create))
		return 0;
	return err_set(err, ENOTSUP, "images of format %s cannot be made", format);
}

int block_create_parse(struct block_create *c, const char *format, const char *text,
		       struct err *err)
{
	struct opt table[ARRAY_SIZE(block_create_table)] = {0};
	const struct block_class *class;
	size_t n = 0;
	int rc = opt_defaults(block_create_table, c, err);

	if (!rc)
		rc = class_to_make(&class, format, err);
	if (rc || !text)
		return rc;
	for (const struct opt *o = block_create_table; o->name; o++)
		if (among(class ? class->create_keys : RAW_KEYS, o->name))
			table[n++] = *o;
	rc = opt_parse_list(table, c, text, NULL, err);
	if (rc)
		err_prefix(err, "options of a %s image", format);
	return rc;
}

/* ---- files ---- */

static int empty_file(const char *path, struct err *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return err_set(err, errno, "%s: %s", path, strerror(errno));
	/* Opened (and locked) properly before it is emptied, see below. */
	if (fstat(fd, &st) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		rc = err_set(err, EINVAL, "%s: is neither a file nor a block device", path);
	fd_close(&fd);
	return rc;
}

/* The file itself, empty, ours alone. */
static int open_fresh(struct block **file, const char *path, struct err *err)
{
	struct block_options o = {0};
	int rc = empty_file(path, err);

	o.lock = true;
	if (!rc)
		rc = block_open_protocol(file, path, true, &o, err);
	if (rc)
		return rc;
	if (!(*file)->fixed_size)
		rc = (*file)->class->resize(*file, 0, true, err);
	if (rc)
		block_close(*file);
	return rc;
}

static int reserve(struct block *file, u64 size, int how, struct err *err)
{
	int rc = 0;

	if (how == BLOCK_PREALLOC_FALLOC)
		rc = block_file_reserve(file, size);
	else if (how == BLOCK_PREALLOC_FULL)
		rc = block_file_fill(file, size);
	return rc ? err_set(err, -rc, "%s: %s", file->name, strerror(-rc)) : 0;
}

static int judge_raw(const char *name, const struct block_create *c, struct err *err)
{
	if (c->backing_file)
		return err_set(err, EINVAL, "%s: a raw image has no backing file", name);
	if (c->preallocation == BLOCK_PREALLOC_METADATA)
		return err_set(err, EINVAL, "%s: a raw image has no metadata to preallocate", name);
	return 0;
}

static int create_raw(struct block *file, const struct block_create *c, struct err *err)
{
	int rc = 0;

	if (file->fixed_size)
		return file->size >= c->size
			       ? 0
			       : err_set(err, ENOSPC, "%s: the device is too small", file->name);
	rc = file->class->resize(file, c->size, true, err);
	return rc ? rc : reserve(file, c->size, c->preallocation, err);
}

/* A regular file that was not there is not there after a failure either. */
static void remove_half(const char *path)
{
	struct stat st;

	if (!lstat(path, &st) && S_ISREG(st.st_mode))
		unlink(path);
}

static int create(const struct block_class *class, const char *path, const struct block_create *c,
		  struct err *err)
{
	struct block *file;
	int rc = open_fresh(&file, path, err);

	if (rc)
		return rc;
	rc = class ? class->create(file, c, err) : create_raw(file, c, err);
	if (!rc) {
		rc = block_node_flush(file);
		if (rc)
			err_set(err, -rc, "%s: %s", path, strerror(-rc));
	}
	block_close(file);
	if (!rc && class && class->preallocate && c->preallocation)
		rc = class->preallocate(path, c, err);
	return rc;
}

int block_create(const char *path, const char *format, const struct block_create *c,
		 struct err *err)
{
	const struct block_class *class;
	bool fresh = access(path, F_OK);
	int rc = class_to_make(&class, format, err);

	if (!rc && c->size > INT64_MAX - BLOCK_SECTOR)
		rc = err_set(err, EFBIG, "size is too large");
	if (!rc)
		rc = class ? class->judge(path, c, err) : judge_raw(path, c, err);
	if (rc)
		return rc;
	rc = create(class, path, c, err);
	if (rc && fresh)
		remove_half(path);
	return rc;
}
