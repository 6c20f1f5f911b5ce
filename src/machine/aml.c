/* See aml.h. Numbers are written in their shortest form, as compilers do. */
#include "machine/aml.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"

static void byte(struct aml *a, unsigned int value)
{
	u8 b = (u8)value;

	str_add_bytes(&a->out, &b, 1);
}

/* ---- names ---- */

static size_t segment_length(const char *p)
{
	return strcspn(p, ".");
}

static void add_segment(struct aml *a, const char *p)
{
	char name[4] = {'_', '_', '_', '_'};
	size_t len = segment_length(p);

	if (len > 4)
		a->out.failed = true;
	memcpy(name, p, len < 4 ? len : 4);
	str_add_bytes(&a->out, name, 4);
}

/* Prefixes, then the number of segments where it is not one, then the segments. */
void aml_path(struct aml *a, const char *path)
{
	unsigned int segments = 1;

	while (*path == '\\' || *path == '^')
		byte(a, (u8)*path++);
	if (!*path) {
		byte(a, 0);
		return;
	}
	for (const char *p = path; *p; p++)
		segments += *p == '.';
	if (segments == 2)
		byte(a, 0x2e);
	if (segments > 2) {
		byte(a, 0x2f);
		byte(a, segments);
	}
	while (segments--) {
		add_segment(a, path);
		path += segment_length(path) + 1;
	}
}

/* ---- blocks ---- */

static void begin(struct aml *a)
{
	if (a->depth == AML_DEPTH) {
		a->out.failed = true;
		return;
	}
	a->open[a->depth++] = a->out.len;
}

/* PkgLength counts itself: one byte up to 63, else up to 28 bits in two to four (20.2.4). */
static size_t encode_length(u8 *out, size_t contents)
{
	size_t bytes = 1, total;

	if (contents + 1 <= 0x3f) {
		out[0] = (u8)(contents + 1);
		return 1;
	}
	for (bytes = 2; bytes < 4; bytes++)
		if (contents + bytes < 1ULL << (4 + 8 * (bytes - 1)))
			break;
	total = contents + bytes;
	out[0] = (u8)((bytes - 1) << 6 | (total & 0xf));
	for (size_t i = 1; i < bytes; i++)
		out[i] = (u8)(total >> (4 + 8 * (i - 1)));
	return bytes;
}

void aml_end(struct aml *a)
{
	u8 length[4];
	size_t start, contents, n;

	if (!a->depth) {
		a->out.failed = true;
		return;
	}
	start = a->open[--a->depth];
	if (a->out.failed)
		return;
	contents = a->out.len - start;
	n = encode_length(length, contents);
	str_add_bytes(&a->out, length, n);
	if (a->out.failed)
		return;
	memmove(a->out.text + start + n, a->out.text + start, contents);
	memcpy(a->out.text + start, length, n);
}

void aml_scope(struct aml *a, const char *path)
{
	byte(a, 0x10);
	begin(a);
	aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
	byte(a, 0x5b);
	byte(a, 0x82);
	begin(a);
	aml_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned int args, bool serialized)
{
	byte(a, 0x14);
	begin(a);
	aml_path(a, name);
	byte(a, args | (serialized ? 8 : 0));
}

void aml_package(struct aml *a, u8 elements)
{
	byte(a, 0x12);
	begin(a);
	byte(a, elements);
}

void aml_if(struct aml *a)
{
	byte(a, 0xa0);
	begin(a);
}

void aml_else(struct aml *a)
{
	byte(a, 0xa1);
	begin(a);
}

/* ---- values ---- */

static void number(struct aml *a, unsigned int prefix, u64 value, unsigned int size)
{
	u8 b[8];

	byte(a, prefix);
	store_le(b, size, value);
	str_add_bytes(&a->out, b, size);
}

void aml_int(struct aml *a, u64 value)
{
	if (value < 2)
		byte(a, (unsigned int)value); /* ZeroOp, OneOp */
	else if (value <= 0xff)
		number(a, 0x0a, value, 1);
	else if (value <= 0xffff)
		number(a, 0x0b, value, 2);
	else if (value <= 0xffffffff)
		number(a, 0x0c, value, 4);
	else
		number(a, 0x0e, value, 8);
}

void aml_string(struct aml *a, const char *text)
{
	byte(a, 0x0d);
	str_add_bytes(&a->out, text, strlen(text) + 1);
}

void aml_buffer(struct aml *a, const void *data, size_t len)
{
	byte(a, 0x11);
	begin(a);
	aml_int(a, len);
	str_add_bytes(&a->out, data, len);
	aml_end(a);
}

static unsigned int hex_digit(char c)
{
	return (unsigned int)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

void aml_eisaid(struct aml *a, const char *id)
{
	u32 v = ((u32)(id[0] - 0x40) & 0x1f) << 26 | ((u32)(id[1] - 0x40) & 0x1f) << 21 |
		((u32)(id[2] - 0x40) & 0x1f) << 16 | (u32)strtoul(id + 3, NULL, 16);

	aml_int(a, __builtin_bswap32(v));
}

void aml_uuid(struct aml *a, const char *uuid)
{
	/* Where in the buffer each byte of the text goes: the first three groups are swapped. */
	static const u8 place[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
	u8 b[16];

	for (unsigned int i = 0; i < 16; i++) {
		if (*uuid == '-')
			uuid++;
		b[place[i]] = (u8)(hex_digit(uuid[0]) << 4 | hex_digit(uuid[1]));
		uuid += 2;
	}
	aml_buffer(a, b, sizeof(b));
}

void aml_arg(struct aml *a, unsigned int n)
{
	byte(a, 0x68 + n);
}

void aml_local(struct aml *a, unsigned int n)
{
	byte(a, 0x60 + n);
}

void aml_op(struct aml *a, enum aml_op op)
{
	byte(a, op);
}

void aml_name(struct aml *a, const char *name)
{
	byte(a, 0x08);
	aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, u64 value)
{
	aml_name(a, name);
	aml_int(a, value);
}

void aml_name_string(struct aml *a, const char *name, const char *text)
{
	aml_name(a, name);
	aml_string(a, text);
}

void aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
	aml_name(a, name);
	aml_eisaid(a, id);
}

void aml_name_resources(struct aml *a, const char *name, struct str *res)
{
	/* The end tag; a checksum of 0 means that there is none. */
	static const u8 end[] = {0x79, 0};

	str_add_bytes(res, end, sizeof(end));
	aml_name(a, name);
	aml_buffer(a, res->text, res->len);
	a->out.failed |= res->failed;
	str_free(res);
}

/* ---- resources (ACPI 6.4, section 6.4) ---- */

void res_io(struct str *res, u16 base, u8 len)
{
	u8 d[8] = {0x47, 1 /* 16-bit decode */, 0, 0, 0, 0, 1 /* alignment */, len};

	store_le16(d + 2, base);
	store_le16(d + 4, base);
	str_add_bytes(res, d, sizeof(d));
}

void res_irq(struct str *res, unsigned int irq)
{
	u8 d[3] = {0x22};

	store_le16(d + 1, (u16)(1u << irq));
	str_add_bytes(res, d, sizeof(d));
}

void res_interrupt(struct str *res, u32 gsi)
{
	u8 d[9] = {0x89, 6, 0, 1 /* consumer, level, high, exclusive */, 1};

	store_le32(d + 5, gsi);
	str_add_bytes(res, d, sizeof(d));
}

void res_memory32(struct str *res, u32 base, u32 size)
{
	u8 d[12] = {0x86, 9, 0, 1 /* read-write */};

	store_le32(d + 4, base);
	store_le32(d + 8, size);
	str_add_bytes(res, d, sizeof(d));
}

/* Address space descriptors: granularity, minimum, maximum, translation, length, each of `size`
 * bytes. Minimum and maximum are fixed, and the bridge produces the range for its children. */
static void window(struct str *res, u8 tag, u8 type, u8 type_flags, unsigned int size, u64 first,
		   u64 last)
{
	const u64 fields[5] = {0, first, last, 0, last - first + 1};
	u8 d[6 + 5 * 8] = {tag, 0, 0, type, 0x0c, type_flags};

	store_le16(d + 1, (u16)(3 + 5 * size));
	for (unsigned int i = 0; i < 5; i++)
		store_le(d + 6 + i * size, size, fields[i]);
	str_add_bytes(res, d, 6 + 5 * size);
}

void res_bus_window(struct str *res, u16 first, u16 last)
{
	window(res, 0x88, 2, 0, 2, first, last);
}

void res_io_window(struct str *res, u16 first, u16 last)
{
	window(res, 0x88, 1, 3 /* entire range */, 2, first, last);
}

void res_memory_window32(struct str *res, u32 first, u32 last)
{
	window(res, 0x87, 0, 1 /* read-write, not cacheable */, 4, first, last);
}

void res_memory_window64(struct str *res, u64 first, u64 last)
{
	window(res, 0x8a, 0, 1, 8, first, last);
}
