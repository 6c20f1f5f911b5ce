/*
 * Encoding: u32 version, u32 number of fields; a field is u8 name length, name, u8 kind, u32
 * element size, u32 count, u64 payload bytes, payload. A nested structure is encoded the same way
 * within its payload.
 */
#include "state/state.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"

#define MAX_DEPTH 8

const struct state_desc state_none_desc = {.name = "none"};
const struct state_desc state_unmigratable_desc = {.name = "unmigratable"};

struct reader {
	const u8 *p;
	size_t left;
	int depth;
};

static void put(struct str *out, u64 value, unsigned int size)
{
	u8 raw[8];

	store_le64(raw, value);
	str_add_bytes(out, raw, size);
}

static void save_uints(const struct state_field *f, const u8 *p, struct str *out)
{
	for (size_t i = 0; i < f->count; i++, p += f->size) {
		u64 v = 0;

		memcpy(&v, p, f->size);
		put(out, v, (unsigned int)f->size);
	}
}

static void save_fields(const struct state_desc *desc, void *object, struct str *out);

static void save_field(const struct state_field *f, void *object, struct str *out)
{
	u8 *p = (u8 *)object + f->offset;
	size_t name_len = strlen(f->name), length_at;

	put(out, name_len, 1);
	str_add_bytes(out, f->name, name_len);
	put(out, f->kind, 1);
	put(out, f->size, 4);
	put(out, f->count, 4);
	length_at = out->len;
	put(out, 0, 8);
	if (f->kind == STATE_UINT || f->kind == STATE_BOOL)
		save_uints(f, p, out);
	else if (f->kind == STATE_BYTES)
		str_add_bytes(out, p, f->size);
	else
		for (size_t i = 0; i < f->count; i++)
			save_fields(f->desc, p + i * f->size, out);
	if (!out->failed)
		store_le64(out->text + length_at, out->len - length_at - 8);
}

static void save_fields(const struct state_desc *desc, void *object, struct str *out)
{
	u32 count = 0;

	if (desc->saving)
		desc->saving(object);
	for (const struct state_field *f = desc->fields; f && f->name; f++)
		count++;
	put(out, desc->version, 4);
	put(out, count, 4);
	for (const struct state_field *f = desc->fields; f && f->name; f++)
		save_field(f, object, out);
}

int state_save(const struct state_desc *desc, void *object, struct str *out)
{
	if (desc == STATE_UNMIGRATABLE)
		return -ENOTSUP;
	save_fields(desc, object, out);
	return out->failed ? -ENOMEM : 0;
}

static int take(struct reader *r, u64 *value, unsigned int size)
{
	u8 raw[8] = {0};

	if (r->left < size)
		return -EINVAL;
	memcpy(raw, r->p, size);
	r->p += size;
	r->left -= size;
	*value = load_le64(raw);
	return 0;
}

static const struct state_field *find_field(const struct state_desc *desc, const u8 *name,
					    size_t len)
{
	for (const struct state_field *f = desc->fields; f && f->name; f++)
		if (strlen(f->name) == len && !memcmp(f->name, name, len))
			return f;
	return NULL;
}

static int load_fields(const struct state_desc *desc, void *object, struct reader *r,
		       struct err *err);

static int load_payload(const struct state_field *f, void *object, struct reader *r,
			struct err *err)
{
	u8 *p = (u8 *)object + f->offset;
	int rc = 0;

	if (f->kind == STATE_STRUCT) {
		for (size_t i = 0; i < f->count && !rc; i++)
			rc = load_fields(f->desc, p + i * f->size, r, err);
		return rc;
	}
	if (r->left != f->size * f->count)
		return err_set(err, EINVAL, "field %s: wrong length", f->name);
	if (f->kind == STATE_BOOL)
		for (size_t i = 0; i < f->count; i++)
			((bool *)p)[i] = r->p[i] != 0;
	else
		memcpy(p, r->p, r->left); /* the host is little-endian, as the encoding is */
	return 0;
}

static int load_field(const struct state_desc *desc, void *object, struct reader *r,
		      struct err *err)
{
	u64 name_len, kind, size, count, len;
	const struct state_field *f;
	struct reader payload;
	const u8 *name;

	if (take(r, &name_len, 1) || r->left < name_len)
		return err_set(err, EINVAL, "%s: cut short", desc->name);
	name = r->p;
	r->p += name_len;
	r->left -= name_len;
	if (take(r, &kind, 1) || take(r, &size, 4) || take(r, &count, 4) || take(r, &len, 8) ||
	    len > r->left)
		return err_set(err, EINVAL, "%s: cut short", desc->name);
	payload = (struct reader){r->p, len, r->depth + 1};
	r->p += len;
	r->left -= len;
	f = find_field(desc, name, name_len);
	if (!f)
		return 0;
	if (kind != f->kind || count != f->count || (kind != STATE_STRUCT && size != f->size))
		return err_set(err, EINVAL, "%s: field %s has another shape", desc->name, f->name);
	return load_payload(f, object, &payload, err);
}

static int load_fields(const struct state_desc *desc, void *object, struct reader *r,
		       struct err *err)
{
	u64 version, count;

	if (r->depth > MAX_DEPTH || take(r, &version, 4) || take(r, &count, 4))
		return err_set(err, EINVAL, "%s: cut short", desc->name);
	if (version > desc->version)
		return err_set(err, EINVAL, "%s: version %llu is newer than this program's %u",
			       desc->name, (unsigned long long)version, desc->version);
	while (count--) {
		int rc = load_field(desc, object, r, err);

		if (rc)
			return rc;
	}
	return desc->loaded ? desc->loaded(object, err) : 0;
}

int state_load(const struct state_desc *desc, void *object, const void *data, size_t len,
	       struct err *err)
{
	struct reader r = {data, len, 0};
	int rc;

	if (desc == STATE_UNMIGRATABLE)
		return err_set(err, ENOTSUP, "this device cannot be restored");
	rc = load_fields(desc, object, &r, err);
	if (!rc && r.left)
		return err_set(err, EINVAL, "%s: %zu bytes too many", desc->name, r.left);
	return rc;
}
