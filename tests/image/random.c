/*
 * Random operations on an image beside a shadow in memory, every so often judged by qemu-img:
 * check, compare, and once in a while map. The other way round, images that qemu-img made.
 *
 * BOTHY_LONG=N runs N times as many operations; BOTHY_SEED=N starts elsewhere.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "block/image.h"
#include "rig.h"

struct shape {
	const char *name, *format;
	u64 cluster, size, backing; /* bytes; backing 0: none */
	u64 refcount_bits;
	bool v2, extended, external, zstd, packed;
	bool from_qemu; /* qemu-img makes the image */
	bool copy_on_read;
	u64 iops;
	int cache;
	u64 l2_cache;
	u64 table_size;
	bool luks;
	u64 unit; /* of requests; 0: 512 */
};

static const struct shape shapes[] = {
	{"64k", "qcow2", 65536, 24 * MiB},
	{"64k-backed", "qcow2", 65536, 24 * MiB, .backing = 20 * MiB + 512 * 37},
	{"512", "qcow2", 512, 3 * MiB},
	{"512-backed-small-cache", "qcow2", 512, 3 * MiB, .backing = 4 * MiB, .l2_cache = 4096},
	{"2k-backed", "qcow2", 2048, 3 * MiB, .backing = 4 * MiB},
	{"512-backed-bytes", "qcow2", 512, 2 * MiB, .backing = 1 * MiB, .unit = 1},
	{"64k-bytes", "qcow2", 65536, 8 * MiB, .backing = 8 * MiB, .unit = 1},
	{"4k-v2", "qcow2", 4096, 8 * MiB, .v2 = true},
	{"4k-v2-backed", "qcow2", 4096, 8 * MiB, .backing = 6 * MiB, .v2 = true},
	{"2m", "qcow2", 2 * MiB, 40 * MiB},
	{"2m-backed", "qcow2", 2 * MiB, 40 * MiB, .backing = 39 * MiB},
	{"64k-ext", "qcow2", 65536, 24 * MiB, .extended = true},
	{"128k-ext-backed", "qcow2", 131072, 24 * MiB, .backing = 23 * MiB, .extended = true},
	{"16k-ext-backed", "qcow2", 16384, 8 * MiB, .backing = 9 * MiB, .extended = true},
	{"rc1", "qcow2", 4096, 8 * MiB, .refcount_bits = 1},
	{"rc2-backed", "qcow2", 4096, 8 * MiB, .backing = 8 * MiB, .refcount_bits = 2},
	{"rc64", "qcow2", 512, 2 * MiB, .refcount_bits = 64},
	{"packed", "qcow2", 65536, 16 * MiB, .packed = true},
	{"packed-zstd-backed", "qcow2", 65536, 16 * MiB, .backing = 16 * MiB, .packed = true,
	 .zstd = true},
	{"packed-ext", "qcow2", 32768, 16 * MiB, .packed = true, .extended = true},
	{"external", "qcow2", 65536, 16 * MiB, .external = true},
	{"external-ext", "qcow2", 65536, 16 * MiB, .external = true, .extended = true},
	{"direct", "qcow2", 65536, 24 * MiB, .cache = BLOCK_CACHE_NONE},
	{"direct-512-backed", "qcow2", 512, 2 * MiB, .backing = 2 * MiB, .cache = BLOCK_CACHE_NONE},
	{"writethrough", "qcow2", 65536, 8 * MiB, .cache = BLOCK_CACHE_WRITETHROUGH},
	{"directsync", "qcow2", 65536, 8 * MiB, .cache = BLOCK_CACHE_DIRECTSYNC},
	{"qemu-64k", "qcow2", 65536, 24 * MiB, .from_qemu = true},
	{"qemu-packed", "qcow2", 65536, 16 * MiB, .from_qemu = true, .packed = true},
	{"qemu-packed-zstd", "qcow2", 4096, 8 * MiB, .from_qemu = true, .packed = true,
	 .zstd = true},
	{"qemu-ext-backed", "qcow2", 65536, 16 * MiB, .backing = 15 * MiB, .extended = true,
	 .from_qemu = true},
	{"qemu-prealloc", "qcow2", 65536, 16 * MiB, .from_qemu = true, .external = true},
	{"copy-on-read", "qcow2", 65536, 24 * MiB, .backing = 20 * MiB + 512, .copy_on_read = true},
	{"copy-on-read-ext", "qcow2", 32768, 8 * MiB, .backing = 8 * MiB, .extended = true,
	 .copy_on_read = true},
	{"throttled", "qcow2", 65536, 8 * MiB, .backing = 8 * MiB, .iops = 400},
	{"qed", "qed", 65536, 24 * MiB},
	{"qed-backed", "qed", 4096, 8 * MiB, .backing = 7 * MiB + 512, .table_size = 2},
	{"qed-direct", "qed", 65536, 16 * MiB, .cache = BLOCK_CACHE_NONE},
	{"luks-64k", "qcow2", 65536, 16 * MiB, .luks = true},
	{"luks-512-backed-bytes", "qcow2", 512, 2 * MiB, .backing = 1 * MiB, .luks = true,
	 .unit = 1},
	{"luks-ext-backed", "qcow2", 32768, 8 * MiB, .backing = 7 * MiB + 512, .extended = true,
	 .luks = true},
	{"luks-direct", "qcow2", 65536, 16 * MiB, .luks = true, .cache = BLOCK_CACHE_NONE},
	{"luks-external", "qcow2", 65536, 16 * MiB, .luks = true, .external = true},
	{"qemu-qed", "qed", 8192, 16 * MiB, .from_qemu = true, .table_size = 2},
};

struct run {
	const struct shape *shape;
	char *folder, *image, *base, *shadow, *data, *key;
	struct rig rig;
	u64 seed;
};

static u64 scale(const char *name, u64 otherwise)
{
	const char *v = getenv(name);

	return v ? strtoull(v, NULL, 0) : otherwise;
}

static int fail(struct run *r, const char *what, int rc)
{
	fprintf(stderr, "%s (seed %llu): %s: %s\n", r->shape->name, (unsigned long long)r->seed,
		what, rc < 0 ? strerror(-rc) : "failed");
	return 1;
}

static int write_file(const char *path, const void *data, u64 len)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	u64 done = 0;

	while (fd >= 0 && done < len) {
		ssize_t n = write(fd, (const char *)data + done, len - done);

		if (n <= 0)
			break;
		done += (u64)n;
	}
	if (fd >= 0)
		close(fd);
	return fd >= 0 && done == len ? 0 : -EIO;
}

/* ---- making ---- */

static int make_base(struct run *r, u8 **content)
{
	const struct shape *s = r->shape;
	struct rig rig = {.seed = r->seed};

	*content = calloc(1, max(s->backing, (u64)1));
	if (!*content)
		return -ENOMEM;
	for (u64 at = 0; at < s->backing; at += 4096)
		if (rig_random(&rig) % 3)
			memset(*content + at, (int)(rig_random(&rig) % 255 + 1),
			       min(s->backing - at, (u64)4096));
	return s->backing ? write_file(r->base, *content, s->backing) : 0;
}

static int make_ours(struct run *r)
{
	const struct shape *s = r->shape;
	struct block_create c = {0};
	struct err err = {""};
	int rc = opt_defaults(block_create_table, &c, &err);

	c.size = s->size;
	c.cluster_size = s->cluster;
	c.compat = !s->v2;
	c.refcount_bits = s->refcount_bits ? s->refcount_bits : 16;
	c.extended_l2 = s->extended;
	c.compression_type = s->zstd;
	c.table_size = s->table_size;
	if (s->backing) {
		c.backing_file = r->base;
		c.backing_fmt = (char *)"raw";
	}
	c.encrypt_format = s->luks;
	c.encrypt_key_file = r->key;
	c.encrypt_iter_time = 1;
	if (s->external)
		c.data_file = r->data; /* QEMU takes names relative to where it was started */
	if (!rc)
		rc = block_create(r->image, s->format, &c, &err);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	return rc;
}

static int make_qemu(struct run *r, const u8 *content)
{
	const struct shape *s = r->shape;
	char options[512];

	snprintf(options, sizeof(options), "cluster_size=%llu,extended_l2=%s,compression_type=%s",
		 (unsigned long long)s->cluster, s->extended ? "on" : "off",
		 s->zstd ? "zstd" : "zlib");
	if (!strcmp(s->format, "qed"))
		return write_file(r->shadow, content, s->size) ||
		       rig_run("qemu-img convert -q -f raw -O qed -o "
			       "cluster_size=%llu,table_size=%llu "
			       "'%s' '%s'",
			       (unsigned long long)s->cluster, (unsigned long long)s->table_size,
			       r->shadow, r->image);
	if (s->backing)
		return rig_run("qemu-img create -q -f qcow2 -F raw -b '%s' -o %s '%s' %llu",
			       r->base, options, r->image, (unsigned long long)s->size);
	if (s->external)
		return rig_run("qemu-img create -q -f qcow2 -o %s,preallocation=metadata,"
			       "data_file='%s' '%s' %llu",
			       options, r->data, r->image, (unsigned long long)s->size);
	if (write_file(r->shadow, content, s->size))
		return -EIO;
	return rig_run("qemu-img convert -q -f raw -O qcow2 %s -o %s '%s' '%s'",
		       s->packed ? "-c" : "", options, r->shadow, r->image);
}

/* ---- judging ---- */

static int judge_luks(struct run *r)
{
	static const char *const secret = "--object secret,id=k,file=";
	int rc = rig_run("qemu-img check -q %s'%s' --image-opts 'driver=qcow2,encrypt.key-secret=k,"
			 "file.driver=file,file.filename=%s'",
			 secret, r->key, r->image);

	if (rc)
		return fail(r, "qemu-img check", rc);
	rc = rig_run("qemu-img compare -q %s'%s' --image-opts 'driver=qcow2,encrypt.key-secret=k,"
		     "file.driver=file,file.filename=%s' 'driver=raw,file.filename=%s'",
		     secret, r->key, r->image, r->shadow);
	return rc ? fail(r, "qemu-img compare", rc) : 0;
}

static int judge(struct run *r, bool map)
{
	int rc;

	if (write_file(r->shadow, r->rig.shadow, r->rig.size))
		return fail(r, "writing the shadow", -EIO);
	if (r->shape->luks)
		return judge_luks(r);
	rc = rig_run("qemu-img check -q -f %s '%s'", r->shape->format, r->image);
	/* QED leaks what zero clusters replace, and cannot do otherwise. */
	if (rc && !(rc == 3 && !strcmp(r->shape->format, "qed")))
		return fail(r, "qemu-img check", rc);
	rc = rig_run("qemu-img compare -q -f %s -F raw '%s' '%s'", r->shape->format, r->image,
		     r->shadow);
	if (rc)
		return fail(r, "qemu-img compare", rc);
	if (map) {
		rc = rig_run("qemu-img map --output=json -f %s '%s' >/dev/null", r->shape->format,
			     r->image);
		if (rc)
			return fail(r, "qemu-img map", rc);
	}
	return 0;
}

static int open_image(struct run *r)
{
	struct block_options o = rig_options(r->image, r->shape->format);
	struct err err = {""};
	int rc;

	o.backing = true;
	o.cache = r->shape->cache;
	o.copy_on_read = r->shape->copy_on_read;
	o.iops = r->shape->iops;
	if (r->shape->l2_cache)
		o.l2_cache = r->shape->l2_cache;
	if (r->shape->luks)
		o.key_file = strdup(r->key);
	rc = block_open(&r->rig.block, &o, &err);
	if (rc)
		fprintf(stderr, "%s\n", err.text);
	rig_options_free(&o);
	return rc;
}

static int pack_some(struct run *r)
{
	u64 cluster = r->shape->cluster, n = r->rig.size / cluster;

	for (int i = 0; i < 6; i++) {
		u64 at = rig_random(&r->rig) % n * cluster;
		u64 len = min((1 + rig_random(&r->rig) % 3) * cluster, n * cluster - at);
		u8 *data = malloc(len);
		struct iovec iov = {data, len};
		u64 kind = rig_random(&r->rig) % 4;
		int rc;

		if (!data)
			return -ENOMEM;
		for (u64 k = 0; k < len; k++)
			data[k] = (u8)(kind ? k / (97 * kind) + kind : rig_random(&r->rig));
		rc = block_writev(r->rig.block, &iov, 1, at, BLOCK_COMPRESS);
		if (!rc)
			memcpy(r->rig.shadow + at, data, len);
		free(data);
		if (rc)
			return rc;
	}
	return 0;
}

static int one_session(struct run *r, bool queue, unsigned int steps)
{
	struct err err;
	int rc = open_image(r), closed;

	if (rc)
		return fail(r, "open", rc);
	if (queue)
		rc = block_queue_new(&r->rig.queue, r->rig.block, 32, &err);
	for (unsigned int i = 0; i < steps && !rc; i++) {
		if (queue && i % 8 == 0)
			rc = rig_burst(&r->rig, 16);
		else
			rc = rig_step(&r->rig);
		if (!rc && r->shape->packed && i % 16 == 15)
			rc = pack_some(r);
	}
	block_queue_free(r->rig.queue);
	r->rig.queue = NULL;
	if (!rc)
		rc = rig_compare(&r->rig);
	closed = block_close(r->rig.block);
	if (rc || closed)
		return fail(r, queue ? "queue" : "synchronous", rc ? rc : closed);
	return 0;
}

static int run_shape(struct run *r, unsigned int sessions, unsigned int steps)
{
	const struct shape *s = r->shape;
	u8 *content;
	int rc = make_base(r, &content);

	if (rc)
		return fail(r, "backing file", rc);
	r->rig = (struct rig){
		.size = s->size, .seed = r->seed, .unit = s->unit ? (u32)s->unit : 512};
	r->rig.max_len = (u32)min(max(8 * s->cluster, 64 * KiB), 4 * MiB);
	r->rig.shadow = calloc(1, s->size);
	if (!r->rig.shadow)
		return fail(r, "memory", -ENOMEM);
	memcpy(r->rig.shadow, content, min(s->backing, s->size));
	if (s->from_qemu && !s->backing && !s->external)
		for (u64 at = 0; at < s->size; at += 8192)
			if (rig_random(&r->rig) % 2)
				memset(r->rig.shadow + at, (int)(at >> 13), 6000);
	rc = s->from_qemu ? make_qemu(r, r->rig.shadow) : make_ours(r);
	free(content);
	if (rc)
		return fail(r, "create", rc);
	for (unsigned int i = 0; i < sessions && !rc; i++) {
		rc = one_session(r, i % 3 != 2, steps);
		if (!rc)
			rc = judge(r, i + 1 == sessions);
	}
	return rc;
}

int main(int argc, char **argv)
{
	u64 factor = scale("BOTHY_LONG", 1), seed = scale("BOTHY_SEED", 1);
	int bad = 0;

	if (!rig_have("qemu-img")) {
		printf("SKIP: qemu-img is missing (Debian package qemu-utils)\n");
		return 77;
	}
	log_set_level(LOG_ERROR);
	for (size_t i = 0; i < ARRAY_SIZE(shapes) && !bad; i++) {
		struct run r = {.shape = &shapes[i], .seed = seed};

		if (argc > 1 && !strstr(shapes[i].name, argv[1]))
			continue;
		r.folder = rig_folder();
		if (!r.folder)
			return 1;
		r.image = rig_path(r.folder, "image");
		r.base = rig_path(r.folder, "base");
		r.data = rig_path(r.folder, "data");
		r.shadow = rig_path(r.folder, "shadow");
		r.key = rig_path(r.folder, "key");
		bad = shapes[i].luks && write_file(r.key, "secret", 6);
		bad = bad || run_shape(&r, (unsigned int)(3 * factor), 60);
		printf("%-24s %s\n", shapes[i].name, bad ? "FAILED" : "ok");
		free(r.rig.shadow);
		free(r.image);
		free(r.base);
		free(r.data);
		free(r.shadow);
		free(r.key);
		if (bad)
			fprintf(stderr, "left in %s\n", r.folder);
		else
			rig_folder_free(r.folder);
	}
	return bad;
}
